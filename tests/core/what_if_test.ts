/** What would happen if: told by the arbitrator's own rules from its live state, which stays as it is. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import { snapshotOf } from "../../lib/core/arbitrator_summary.ts";
import { type Fault, forecast, forecastUsual, parseFault } from "../../lib/core/what_if.ts";
import { stateFrom } from "../../lib/run/snapshot.ts";
import {
  ALL,
  type ArbitratorStory,
  calmArbitrator,
  coreCluster,
  DC1,
  DC2,
  down,
} from "../support/cores.ts";

// Thousands of steps each: a busy machine takes seconds.
setDefaultTimeout(60_000);

function faultOf(config: ClusterConfig, word: string): Fault {
  const fault = parseFault(config, word);
  if (typeof fault === "string") throw new Error(fault);
  return fault;
}

/** All have just reported. */
function fresh(options: Parameters<typeof calmArbitrator>[0] = {}): ArbitratorStory {
  const story = calmArbitrator(options);
  story.pass(400).reports(story.config.servers.map(({ name }) => name));
  return story.pass(100);
}

function ask(story: ArbitratorStory, word: string) {
  return forecast(story.state, faultOf(story.config, word), story.now);
}

/** dc2 serves alone since dc1 was lost. */
function dc2Alone(): ArbitratorStory {
  const story = calmArbitrator();
  story.pass(6_000);
  story.reports(DC2, { view: DC2, primary: "no" });
  const { sent } = story.order();
  story.answered(sent, "ok");
  const serving = { view: DC2, epochSeen: 1, epochServed: 1, lastCommitted: 101 };
  story.reports(DC2, serving);
  story.pass(5_000);
  story.reports(DC2, serving);
  return story;
}

const WIDE = coreCluster({ segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2"] } });

describe("forecast()", () => {
  const table: readonly (readonly [
    string,
    () => ArbitratorStory,
    string,
    readonly string[],
    RegExp,
  ])[] = [
    ["calm", fresh, "dc1-down", ["dc2"], /dc2 would serve alone under epoch 1 \(arithmetic\)/],
    ["calm", fresh, "dc2-down", ["dc1"], /dc1 would serve alone under epoch 1/],
    ["calm", fresh, "link-down", ["dc1"], /dc1 would serve alone under epoch 1/],
    ["calm", fresh, "a1-down", ["dc1", "dc2"], /a2, b1, b2 would serve on in one view/],
    ["calm", fresh, "arbitrator-down", ["dc1", "dc2"], /clients notice nothing/],
    [
      "3 + 2",
      () => fresh({ config: WIDE }),
      "dc1-down",
      [],
      /nobody would serve .*outside\.excluded/,
    ],
    ["3 + 2", () => fresh({ config: WIDE }), "dc2-down", ["dc1"], /dc1 would serve alone/],
    ["dc2 alone", dc2Alone, "dc2-down", [], /nobody would serve/],
    ["dc2 alone", dc2Alone, "arbitrator-down", ["dc2"], /dc2 serves on/],
    [
      "paused",
      () => {
        const story = fresh();
        story.person({ verb: "pause", parameters: { who: "eve", why: "" } });
        return story;
      },
      "dc1-down",
      [],
      /nobody would serve .*dc2: not\.paused/,
    ],
    [
      "dc2 is down already",
      () => {
        const story = calmArbitrator();
        story.reports(DC2, down(100));
        story.reports(DC1, { view: DC1, lastCommitted: 105 });
        story.pass(300).reports(DC1, { view: DC1, lastCommitted: 105, epochSeen: 1 });
        story.reports(DC2, down(100));
        return story;
      },
      "dc1-down",
      [],
      /nobody would serve/,
    ],
  ];
  for (const [state, story, word, serving, outcome] of table) {
    test(`${state}, ${word}: ${serving.length === 0 ? "nobody serves" : serving.join(" and ")}`, () => {
      const live = story();
      const before = live.state;
      const found = ask(live, word);
      expect(found.serving).toEqual(serving);
      expect(found.outcome).toMatch(outcome);
      expect(found.stopMs === null).toBe(serving.length === 0);
      expect(found.writer === null).toBe(serving.length === 0);
      // Nothing of it touches the live state.
      expect(live.state).toBe(before);
    });
  }

  test("the time is Galera's own detection, between its quickest and slowest, and little more", () => {
    const [least, usual, most] = ask(fresh(), "dc1-down").stopMs ?? [0, 0, 0];
    expect(least).toBeGreaterThan(5_000);
    expect(least).toBeLessThan(5_300);
    expect(usual).toBeGreaterThan(6_000);
    expect(usual).toBeLessThan(6_300);
    expect(most).toBeGreaterThan(8_000);
    expect(most).toBeLessThan(8_300);
    const config = coreCluster({
      timing: { galera_suspect_ms: 2_000, lease_ms: 1_500, fence_ms: 200, margin_ms: 100 },
    });
    const [, tuned] = ask(fresh({ config }), "dc1-down").stopMs ?? [0, 0, 0];
    expect(tuned).toBeGreaterThan(3_000);
    expect(tuned).toBeLessThan(3_500);
  });

  test("where silent servers are evicted it takes less than Galera's own detection", () => {
    const config = coreCluster({ evict: "full" });
    for (const [word, serving] of [
      ["dc1-down", ["dc2"]],
      ["link-down", ["dc1"]],
      ["a1-down", ["dc1", "dc2"]],
    ] as const) {
      const found = ask(fresh({ config }), word);
      expect([word, found.serving]).toEqual([word, [...serving]]);
      const [least, , most] = found.stopMs ?? [0, 0, 0];
      expect([word, least]).toEqual([word, most]);
      expect(most).toBeGreaterThan(2_000);
      expect(most).toBeLessThan(3_500);
    }
  });

  test("a crash of mariadbd alone: Galera's own detection, or what an eviction takes; it is started again", () => {
    for (const [evict, word, serving, [least, most]] of [
      ["off", "a1-crash", ["dc1", "dc2"], [5_000, 8_300]],
      ["confirmed", "a1-crash", ["dc1", "dc2"], [200, 400]],
      ["full", "a1-crash", ["dc1", "dc2"], [200, 400]],
      ["off", "dc1-crash", ["dc2"], [5_000, 8_300]],
      ["confirmed", "dc1-crash", ["dc2"], [200, 900]],
    ] as const) {
      const found = ask(fresh({ config: coreCluster({ evict }) }), word);
      const what = `${evict} ${word}`;
      expect([what, ...found.serving]).toEqual([what, ...serving]);
      const [quick, , slow] = found.stopMs ?? [0, 0, 0];
      expect([what, quick >= least, slow <= most]).toEqual([what, true, true]);
      const words = found.moments.map(({ what }) => what).join("\n");
      expect(words).toStartWith("mariadbd ends on a1");
      expect(words).toContain("a1 is started again; clients come back once it is Synced");
    }
  });

  test("a crash where nobody is left to go on, and of one that does not run", () => {
    const alone = ask(dc2Alone(), "dc2-crash");
    expect(alone.serving).toEqual([]);
    const again = ask(dc2Alone(), "a1-crash");
    expect(again.serving).toEqual(["dc2"]);
    expect(again.stopMs).toEqual([0, 0, 0]);
  });

  test("an arbitrator that has just started adds what is left of its outwait", () => {
    const story = calmArbitrator({ armed: false });
    story.reports(ALL);
    const { armedAt } = story.state;
    const fault = faultOf(story.config, "dc1-down");
    const early = { ...story.state, armedAt: story.now + 20_000 };
    expect(armedAt).toBeLessThan(story.now + 20_000);
    const found = forecastUsual(early, fault, story.now);
    expect(found.serving).toEqual(["dc2"]);
    expect(found.stopMs?.[1]).toBeGreaterThan(20_000);
  });

  test("tells what may be missing, and names the moments in their order", () => {
    const lost = ask(fresh(), "dc1-down");
    expect(lost.loss).toContain("one round trip");
    expect(ask(fresh(), "link-down").loss).toContain("nothing");
    const at = lost.moments.map(({ atMs }) => atMs);
    expect(at).toEqual(at.toSorted((a, b) => a - b));
    const words = lost.moments.map(({ what }) => what).join("\n");
    expect(words).toContain("a1, a2 are lost");
    expect(words).toContain("verdict on dc2: promote");
    expect(words).toContain("b1 is ordered to form the Primary, epoch 1");
    expect(words).toContain("dc2 is promoted");
  });

  test("is the same from a snapshot that went over the wire", () => {
    for (const story of [fresh(), dc2Alone(), fresh({ config: WIDE })]) {
      const wire = JSON.parse(JSON.stringify(snapshotOf(story.state, story.now)));
      const there = stateFrom(story.config, wire);
      for (const word of ["dc1-down", "dc2-down", "link-down", "arbitrator-down"]) {
        const fault = faultOf(story.config, word);
        const here = forecast(story.state, fault, story.now);
        expect(forecast(there.state, fault, there.now)).toEqual(here);
      }
    }
  });
});

test("parseFault() takes segments, servers, the link and the arbitrator, and names them where it must refuse", () => {
  const config = coreCluster();
  expect(parseFault(config, "dc1-down")).toMatchObject({ servers: ["dbserver.1", "dbserver.2"] });
  expect(parseFault(config, "a2-down")).toMatchObject({ servers: ["dbserver.2"] });
  expect(parseFault(config, "dbserver.3-down")).toMatchObject({ servers: ["dbserver.3"] });
  expect(parseFault(config, "link-down")).toEqual({ is: "link_down" });
  expect(parseFault(config, "arbitrator-down")).toMatchObject({ is: "arbitrator_down" });
  expect(parseFault(config, "dc9-down")).toBe(
    "nothing is called dc9: there are dc1-down, dc2-down, a1-down, a2-down, b1-down, b2-down, link-down, arbitrator-down; and -crash of a server or segment, where only mariadbd ends",
  );
  expect(parseFault(config, "a2-crash")).toMatchObject({
    is: "servers_crash",
    servers: ["dbserver.2"],
  });
  for (const name of ["link", "arbitrator", "arbitrator.1"]) {
    expect(parseFault(config, `${name}-crash`)).toStartWith(`${name} has no mariadbd: there are `);
  }
});
