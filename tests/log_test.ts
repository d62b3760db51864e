import { describe, expect, test } from "bun:test";
import { createLog, LOG_LINE_MAX, LOG_TEXT_MAX, type LogLevel, quietLog } from "../lib/log.ts";

function recorder(level: LogLevel = "debug") {
  const lines: string[] = [];
  const log = createLog({
    role: "dbserver",
    node: "dbserver.1",
    level,
    wall: () => "2026-01-02T03:04:05.678Z",
    sink: (line) => lines.push(line),
  });
  return { log, lines, parsed: () => lines.map((line) => JSON.parse(line)) };
}

describe("createLog()", () => {
  test("writes one JSON line per event, its head first", () => {
    const { log, lines } = recorder();
    log.info("phase", { from: "serving", to: "fenced", because: "lease expired\nsecond line" });
    expect(lines).toEqual([
      '{"time":"2026-01-02T03:04:05.678Z","level":"info","role":"dbserver","node":"dbserver.1","event":"phase","from":"serving","to":"fenced","because":"lease expired\\nsecond line"}',
    ]);
  });

  test("writes its level and those above", () => {
    const { log, parsed } = recorder("warn");
    log.debug("a");
    log.info("b");
    log.warn("c");
    log.error("d");
    expect(parsed().map(({ event }) => event)).toEqual(["c", "d"]);
    expect([log.wants("info"), log.wants("warn")]).toEqual([false, true]);
  });

  test("keeps secrets out, at any depth", () => {
    const { log, lines } = recorder();
    log.info("connect", {
      password: "hunter2",
      user: { dbPassword: "hunter2", list: [{ auth_token: "hunter2" }], passwordFile: "/etc/pw" },
      secret: { any: "hunter2" },
    });
    expect(lines[0]).not.toContain("hunter2");
    expect(lines[0]).toContain("/etc/pw");
  });

  test("keeps a field that is called like a part of the head, under another name", () => {
    const { log, parsed } = recorder();
    log.info("x", { event: "y", time: 1, level: "z" });
    expect(parsed()[0]).toMatchObject({
      event: "x",
      level: "info",
      field_event: "y",
      field_time: 1,
      field_level: "z",
    });
  });

  test("writes what JSON cannot hold: errors with causes, maps, sets, big and odd numbers, circles", () => {
    const { log, parsed } = recorder();
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    log.info("x", {
      error: new Error("outer", { cause: new Error("inner") }),
      map: new Map([["a", 1]]),
      set: new Set([1]),
      big: 2n ** 70n,
      odd: Number.NaN,
      nothing: undefined,
      call: () => 0,
      circle,
    });
    expect(parsed()[0]).toMatchObject({
      error: "outer: inner",
      map: { a: 1 },
      set: [1],
      big: "1180591620717411303424",
      odd: "NaN",
      call: "[function]",
    });
  });

  test("bounds texts and whole lines", () => {
    const { log, parsed, lines } = recorder();
    log.info("x", { text: "y".repeat(LOG_TEXT_MAX * 2) });
    expect(parsed()[0].text).toHaveLength(LOG_TEXT_MAX + 1);
    log.info("x", { list: Array(100).fill("y".repeat(1000)) });
    expect(parsed()[1]).toMatchObject({ event: "x", tooLong: expect.any(Number) });
    expect(lines.every((line) => line.length <= LOG_LINE_MAX)).toBe(true);
  });
});

describe("quietLog()", () => {
  test("says a thing at once and then its repeats as a count", () => {
    const { log, parsed } = recorder();
    let now = 0;
    const quiet = quietLog(log, () => now, 1000);
    for (; now < 2500; now += 100) quiet("k", "warn", "refused", { reason: "r" });
    quiet("other", "info", "else");
    expect(parsed().map(({ event, level, repeats }) => [event, level, repeats])).toEqual([
      ["refused", "warn", undefined],
      ["refused", "warn", 9],
      ["refused", "warn", 9],
      ["else", "info", undefined],
    ]);
  });

  test("remembers a bounded number of things", () => {
    const { log, lines } = recorder();
    const quiet = quietLog(log, () => 0, 1000);
    for (let key = 0; key < 1000; key++) quiet(String(key), "info", "x");
    quiet("0", "info", "x");
    quiet("999", "info", "x");
    expect(lines).toHaveLength(1001);
  });
});
