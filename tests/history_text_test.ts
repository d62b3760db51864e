import { describe, expect, test } from "bun:test";
import { fieldsOf, historyText, parseAgo } from "../lib/history_text.ts";
import type { Happened } from "../lib/message/arbitrator.ts";

const TIME = "2026-11-23T02:00:00.000Z";

function happened(event: string, fields: object): Happened {
  return { seq: 1, time: TIME, event, epoch: 3, fields: JSON.stringify(fields) };
}

function line(event: string, fields: object): string {
  return historyText([happened(event, fields)], { evidence: false }).replace(
    `${TIME}  epoch 3  `,
    "",
  );
}

describe("historyText()", () => {
  test("says who ordered what, why, and what came of it", () => {
    const order = { order: "drain", node: "db1", who: "eve", why: "new disk" };
    expect(line("order", { ...order, outcome: "would", because: "drain: dbserver.1" })).toBe(
      "ORDER drain db1 by eve (new disk): done - drain: dbserver.1",
    );
    expect(line("order", { ...order, why: "", outcome: "refused", because: "bob drains it" })).toBe(
      "ORDER drain db1 by eve: refused - bob drains it",
    );
    expect(line("order", { order: "pause", who: "eve", outcome: "already", because: "is" })).toBe(
      "ORDER pause by eve: was so already - is",
    );
  });

  test("says what was decided, by which rule, and with evidence what it rests on", () => {
    const verdict = {
      segment: "dc2",
      rule: "promote",
      because: "it may",
      wouldChange: "a heal",
      evidence: ["db1 Primary open at 7", "db2 down\u001b[2J"],
    };
    expect(historyText([happened("verdict", verdict)], { evidence: true })).toBe(
      [
        `${TIME}  epoch 3  verdict on dc2: promote - it may; would change: a heal`,
        "    db1 Primary open at 7",
        "    db2 down?[2J",
      ].join("\n"),
    );
  });

  const lines: readonly (readonly [string, object, string])[] = [
    ["promoted", { segment: "dc2", epoch: 3 }, "PROMOTED dc2, epoch 3"],
    [
      "epoch_opened",
      { epoch: 3, segment: "dc2", kind: "form", basis: "arithmetic" },
      "EPOCH 3 written for dc2, form, on arithmetic",
    ],
    ["epoch_closed", { epoch: 3, segment: "dc2" }, "epoch 3 of dc2 closed by a joint view"],
    [
      "order_answered",
      { epoch: 3, target: "dbserver.3", outcome: "ok", because: "Primary" },
      "order of epoch 3 answered by dbserver.3: ok - Primary",
    ],
    ["view_noted", { seqno: 9, members: ["a", "b"] }, "view noted at 9: a, b"],
    [
      "server_silent",
      { server: "db1", unheardMs: 2001, serving: "on", primary: "yes" },
      "db1 is SILENT for 2001 ms; its last word: serving on, Primary yes",
    ],
    [
      "health",
      { health: "degraded", was: "healthy", because: "not serving: db1" },
      "HEALTH degraded (was healthy) - not serving: db1",
    ],
    [
      "server",
      {
        server: "db1",
        running: "up",
        primary: "no",
        fenced: true,
        group: "segment",
        localState: "Initialized",
        lastCommitted: 7,
        because: "not Primary",
      },
      "db1: non-Primary, fenced, segment, Initialized, at 7 - not Primary",
    ],
    [
      "server",
      { server: "db1", running: "down", position: 7, because: "killed", heardAgain: true },
      "db1 is heard again: down, at 7 - killed",
    ],
    ["suspended", { forMs: 700 }, "suspended forMs=700"],
  ];
  for (const [event, fields, expected] of lines) {
    test(`${event}: ${expected}`, () => expect(line(event, fields)).toBe(expected));
  }

  test("shows what it cannot read as it is, and an empty log as such", () => {
    expect(fieldsOf({ ...happened("x", {}), fields: "{torn" })).toEqual({ text: "{torn" });
    expect(historyText([], { evidence: false })).toContain("nothing");
  });
});

test("parseAgo() reads seconds, minutes, hours and days, and nothing else", () => {
  expect(["90", "90s", "15m", "2h", "1.5d", "x", "", "-1", "1w"].map(parseAgo)).toEqual([
    90_000,
    90_000,
    900_000,
    7_200_000,
    129_600_000,
    null,
    null,
    null,
    null,
  ]);
});
