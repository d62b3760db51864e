import { describe, expect, test } from "bun:test";
import {
  fingerprint,
  fingerprintMembers,
  groupOf,
  holdsMajority,
  isJoint,
} from "../lib/wsrep_status.ts";
import { coreCluster, membersOf, STATE_UUID, uuidOf } from "./support/cores.ts";

const CONFIG = coreCluster();
const ODD = coreCluster({ segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1"] } });

describe("fingerprint", () => {
  test("does not depend on the order of the members", () => {
    const print = fingerprint(STATE_UUID, true, membersOf(["a1", "b1", "a2"]));
    expect(fingerprint(STATE_UUID, true, membersOf(["b1", "a2", "a1"]))).toBe(print);
    expect(print).toBe(`${STATE_UUID}/P/${["a1", "a2", "b1"].map(uuidOf).join("+")}`);
  });

  test("tells Primary from non-Primary, members and clusters apart", () => {
    const of = (uuid: string, primary: boolean, names: readonly string[]) =>
      fingerprint(uuid, primary, membersOf(names));
    const prints = [
      of(STATE_UUID, true, ["a1", "a2"]),
      of(STATE_UUID, false, ["a1", "a2"]),
      of(STATE_UUID, true, ["a1"]),
      of(uuidOf("zz"), true, ["a1", "a2"]),
    ];
    expect(new Set(prints).size).toBe(4);
  });

  test("is null where there is no state or no member", () => {
    expect(fingerprint(null, true, membersOf(["a1"]))).toBeNull();
    expect(fingerprint(STATE_UUID, true, [])).toBeNull();
  });

  test("gives its members back, sorted", () => {
    const print = fingerprint(STATE_UUID, false, membersOf(["b1", "a1"])) ?? "";
    expect(fingerprintMembers(print)).toEqual([uuidOf("a1"), uuidOf("b1")]);
    expect(fingerprintMembers(`${STATE_UUID}/P/`)).toEqual([]);
    expect(fingerprintMembers("")).toEqual([]);
  });
});

describe("group", () => {
  const table = [
    [["a1", "a2", "b1", "b2"], "complete"],
    [["a1", "a2"], "segment"],
    [["a1"], "single"],
    [["a1", "b1"], "partial"],
    [["a1", "a2", "b1"], "partial"],
    [["b1", "b2"], "partial"],
    [["a1", "a2", "b1", "b2", "garb"], "partial"],
    [[], "down"],
  ] as const;
  for (const [names, group] of table) {
    test(`a server of dc1 that sees ${names.join(", ") || "nobody"} is ${group}`, () => {
      expect(groupOf(CONFIG, "dc1", membersOf(names))).toBe(group);
    });
  }

  test("a segment of one server alone is segment, not single", () => {
    expect(groupOf(ODD, "dc2", membersOf(["b1"]))).toBe("segment");
  });
});

describe("joint view and majority, over every possible view of 2+2 and 3+1", () => {
  for (const config of [CONFIG, ODD]) {
    const names = config.servers.map((server) => server.name);
    test(`at least half of each segment is joint, more than half is a majority (${names.join(" ")})`, () => {
      for (let bits = 0; bits < 2 ** names.length; bits++) {
        const view = new Set(names.filter((_, index) => (bits & (1 << index)) !== 0));
        const shares = config.segments.map(
          ({ servers }) =>
            servers.filter((server) => view.has(server.name)).length / servers.length,
        );
        expect(isJoint(config, view)).toBe(shares.every((share) => share >= 0.5));
        config.segments.forEach(({ name }, index) => {
          expect(holdsMajority(config, name, view)).toBe((shares[index] ?? 0) > 0.5);
        });
      }
    });
  }

  test("half of a segment and a majority of it always share a server", () => {
    for (const config of [CONFIG, ODD]) {
      for (const { servers } of config.segments) {
        const half = Math.ceil(servers.length / 2);
        const majority = Math.floor(servers.length / 2) + 1;
        expect(half + majority).toBeGreaterThan(servers.length);
      }
    }
  });

  test("members that the config does not name count for nobody", () => {
    expect(isJoint(CONFIG, new Set(["garb", "a1"]))).toBe(false);
  });
});
