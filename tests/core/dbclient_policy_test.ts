import { describe, expect, test } from "bun:test";
import type { DbClientConfig } from "../../lib/cluster_config.ts";
import {
  type Candidate,
  describePlace,
  JUDGEMENTS,
  type JudgementId,
  judge,
  placeAll,
  type ServerFacts,
  succession,
  weightFor,
} from "../../lib/core/dbclient_policy.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import { clientCluster, servingReport } from "../support/client_cluster.ts";

const config = clientCluster();
const report = (changes: Partial<Report> = {}): Report => servingReport(config, changes);
const clear = {
  silent: false,
  overdue: false,
  listed: "yes",
  unanswered: false,
  hangs: false,
  held: false,
} as const;

describe("judging one server", () => {
  const table: readonly (readonly [string, JudgementId, Partial<ServerFacts>])[] = [
    ["a serving server serves", "serves", {}],
    ["a down server is gone", "down", { report: report({ running: "down" }) }],
    ["a fenced server is gone, Primary or not", "fenced", { report: report({ fenced: true }) }],
    ["a non-Primary server is gone", "not_primary", { report: report({ primary: "no" }) }],
    ["a server that is not ready is gone", "not_serving", { report: report({ serving: "off" }) }],
    ["overdue and in no view is lost", "lost", { overdue: true, listed: "no" }],
    ["heard and not yet in the others' view is not lost", "serves", { listed: "no" }],
    ["silent but listed is doubtful", "silent", { silent: true, overdue: true }],
    ["silent where nobody can tell is doubtful", "silent", { silent: true, listed: "unknown" }],
    ["a person's maintenance drains", "held", { held: true }],
    ["a server that leaves drains", "leaving", { report: report({ leaving: true }) }],
    ["a drained server drains", "draining", { report: report({ draining: true }) }],
    ["fenced comes before drained", "fenced", { report: report({ fenced: true, draining: true }) }],
    [
      "without an answer of SQL it is doubtful",
      "unclear",
      { report: report({ running: "unknown" }) },
    ],
    ["a poll without an answer is doubtful", "unclear", { unanswered: true }],
    ["unknown readiness is doubtful", "unclear", { report: report({ serving: "unknown" }) }],
    ["unknown Primary is doubtful", "unclear", { report: report({ primary: "unknown" }) }],
    ["hanging writes are doubtful", "hangs", { hangs: true }],
    ["never heard and listed is doubtful", "never_heard_but_listed", { report: null }],
    ["never heard and unlisted is gone", "never_heard", { report: null, listed: "no" }],
    ["never heard, nobody knows, is doubtful", "unknown", { report: null, listed: "unknown" }],
  ];
  for (const [name, id, facts] of table) {
    test(name, () => {
      expect(judge({ report: report(), ...clear, ...facts }).id).toBe(id);
    });
  }

  test("every row has a case here", () => {
    expect(new Set(table.map(([, id]) => id))).toEqual(new Set(JUDGEMENTS.map(({ id }) => id)));
  });

  test("only servers that cannot keep their sessions are cut", () => {
    expect(JUDGEMENTS.filter(({ cut }) => cut).map(({ id }) => id)).toEqual([
      "never_heard",
      "down",
      "fenced",
      "not_primary",
      "lost",
    ]);
  });
});

/** Candidates from words: `a1 a2:draining b1:loaded b2:gone`. */
function candidates(words: string, of = config): readonly Candidate[] {
  const marks = new Map(words.split(" ").map((word) => [word.split(":")[0], word.split(":")]));
  return of.servers.map((server) => {
    const has = marks.get(server.name) ?? [];
    const standing = (["draining", "doubtful", "gone"] as const).find((one) => has.includes(one));
    return {
      server,
      standing: standing ?? "serving",
      because: standing ?? "serves",
      synced: !has.includes("donor"),
      loaded: has.includes("loaded"),
      steady: !has.includes("new"),
      yielding: has.includes("yielding"),
      writers: Number(has.find((word) => word.startsWith("w="))?.slice(2) ?? 0),
      primarySegment: has.find((one) => one.startsWith("dc")) ?? null,
      epochSeen: Number(has.find((one) => /^\d+$/.test(one)) ?? 0),
    };
  });
}

function placesBy(policy: DbClientConfig["policy"], words: string, more = {}): string {
  const of = clientCluster({ client: { policy, ...more } });
  const [client] = of.clients;
  if (client === undefined) throw new Error("no client");
  return placeAll(of, client, candidates(words, of))
    .map(({ name, place }) => `${name} ${describePlace(place)}`)
    .join(", ");
}

describe("policies", () => {
  const table: readonly (readonly [DbClientConfig["policy"], string, string, string, object?])[] = [
    [
      "single-writer",
      "the first of the primary segment writes",
      "a1",
      "a1 up 100, a2 drain, b1 drain, b2 drain",
    ],
    ["single-writer", "its neighbour follows", "a1:gone", "a1 out, a2 up 100, b1 drain, b2 drain"],
    [
      "single-writer",
      "a drained writer hands over and keeps its sessions",
      "a1:draining",
      "a1 drain, a2 up 100, b1 drain, b2 drain",
    ],
    [
      "single-writer",
      "then comes the other segment",
      "a1:gone a2:gone",
      "a1 out, a2 out, b1 up 100, b2 drain",
    ],
    [
      "single-writer",
      "a donor does not write if another can",
      "a1:donor",
      "a1 drain, a2 up 100, b1 drain, b2 drain",
    ],
    [
      "single-writer",
      "the last server writes, donor or not",
      "a1:donor a2:gone b1:gone b2:gone",
      "a1 up 100, a2 out, b1 out, b2 out",
    ],
    [
      "single-writer",
      "load does not move the writer",
      "a1:loaded",
      "a1 up 100, a2 drain, b1 drain, b2 drain",
    ],
    [
      "single-writer",
      "a server that has just come back waits",
      "a1:new",
      "a1 drain, a2 up 100, b1 drain, b2 drain",
    ],
    [
      "single-writer",
      "in doubt another one writes",
      "a1:doubtful",
      "a1 drain, a2 up 100, b1 drain, b2 drain",
    ],
    [
      "single-writer",
      "doubt alone never takes the last one",
      "a1:doubtful a2:gone b1:gone b2:gone",
      "a1 up 100, a2 out, b1 out, b2 out",
    ],
    [
      "single-writer",
      "where nobody may serve, nobody does",
      "a1:gone a2:gone b1:gone b2:gone",
      "a1 out, a2 out, b1 out, b2 out",
    ],
    [
      "single-writer",
      "a person may drain the last one",
      "a1:draining a2:gone b1:gone b2:gone",
      "a1 drain, a2 out, b1 out, b2 out",
    ],
    [
      "single-writer",
      "the segment named in the reports comes first",
      "a1:dc2 a2:dc2 b1:dc2 b2:dc2",
      "a1 drain, a2 drain, b1 up 100, b2 drain",
    ],
    [
      "single-writer",
      "the word of the newest epoch counts",
      "a1:dc1:3 a2:dc1:3 b1:dc2:4 b2:dc1:3",
      "a1 drain, a2 drain, b1 up 100, b2 drain",
    ],
    [
      "single-writer",
      "a switchover takes the writers away, whoever has them",
      "a1:yielding:w=2 a2:yielding",
      "a1 drain, a2 drain, b1 up 100, b2 drain",
    ],
    [
      "single-writer",
      "but not to where nobody is in step",
      "a1:yielding:w=2 a2:yielding b1:donor b2:gone",
      "a1 up 100, a2 drain, b1 drain, b2 out",
    ],
    [
      "spread",
      "no other policy minds a switchover",
      "a1:yielding",
      "a1 up 100, a2 up 100, b1 up 100, b2 up 100",
    ],
    ["local-first", "the own segment serves", "a1", "a1 up 100, a2 up 100, b1 drain, b2 drain"],
    [
      "local-first",
      "the last one of it still does",
      "a1:gone",
      "a1 out, a2 up 100, b1 drain, b2 drain",
    ],
    [
      "local-first",
      "without it the other one does",
      "a1:gone a2:draining",
      "a1 out, a2 drain, b1 up 100, b2 up 100",
    ],
    [
      "local-first",
      "the near segment is the client's own",
      "a1",
      "a1 drain, a2 drain, b1 up 100, b2 up 100",
      { segment: "dc2" },
    ],
    [
      "local-first",
      "a client near to none uses all",
      "a1",
      "a1 up 100, a2 up 100, b1 up 100, b2 up 100",
      { segment: null },
    ],
    [
      "local-first",
      "a loaded local server keeps a part",
      "a1:loaded",
      "a1 up 25, a2 up 100, b1 drain, b2 drain",
    ],
    ["spread", "all serve", "a1", "a1 up 100, a2 up 100, b1 up 100, b2 up 100"],
    [
      "spread",
      "weights of server and segment hold",
      "a1",
      "a1 up 10, a2 up 50, b1 up 100, b2 up 100",
      { weights: { a1: 10, dc1: 50 } },
    ],
    [
      "spread",
      "a loaded server loses weight",
      "b1:loaded",
      "a1 up 100, a2 up 100, b1 up 25, b2 up 100",
    ],
    [
      "spread",
      "where all are loaded none does",
      "a1:loaded a2:loaded b1:loaded b2:loaded",
      "a1 up 100, a2 up 100, b1 up 100, b2 up 100",
    ],
    [
      "spread",
      "a donor rests while others serve",
      "a2:donor",
      "a1 up 100, a2 drain, b1 up 100, b2 up 100",
    ],
    [
      "spread",
      "donors serve if nobody else does",
      "a1:donor a2:gone b1:gone b2:gone",
      "a1 up 100, a2 out, b1 out, b2 out",
    ],
    [
      "spread",
      "the last one keeps its weight under load",
      "a1:loaded a2:gone b1:gone b2:draining",
      "a1 up 100, a2 out, b1 out, b2 drain",
    ],
  ];
  for (const [policy, name, words, expected, more] of table) {
    test(`${policy}: ${name}`, () => {
      expect(placesBy(policy, words, more)).toBe(expected);
    });
  }
});

test("load alone never takes out the last server: every combination of four", () => {
  const kinds = ["", ":loaded", ":donor", ":loaded:donor", ":new", ":gone", ":doubtful"];
  for (const policy of ["single-writer", "local-first", "spread"] as const) {
    for (let code = 0; code < kinds.length ** 4; code++) {
      const words = ["a1", "a2", "b1", "b2"]
        .map((name, index) => name + kinds[Math.floor(code / kinds.length ** index) % kinds.length])
        .join(" ");
      const alive = words.split(" ").some((word) => !word.includes("gone"));
      if (placesBy(policy, words).includes("up") !== alive) {
        throw new Error(`${policy} with ${words}: ${placesBy(policy, words)}`);
      }
    }
  }
});

test("the order of succession is the same whatever the order in which servers were heard", () => {
  const all = candidates("a1:new a2 b1:donor b2");
  const names = (list: readonly Candidate[]): string =>
    succession(config, list)
      .map(({ server }) => server.name)
      .join(" ");
  expect(names(all)).toBe("a2 b2 a1 b1");
  expect(names([...all].reverse())).toBe("a2 b2 a1 b1");
});

test("a weight of the config is brought into 1 to 100", () => {
  const of = clientCluster({ client: { weights: { a1: 0, a2: 1000, dc2: 2.6 } } });
  const [client] = of.clients;
  if (client === undefined) throw new Error("no client");
  expect(of.servers.map((server) => weightFor(client, server))).toEqual([1, 100, 3, 3]);
});
