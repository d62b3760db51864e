/**
 * A change of voters or timings, from the moment a process holds it until its predecessor has no say
 * left: by the arbitrator, who puts it in force, and by the servers, who follow.
 */
import { describe, expect, test } from "bun:test";
import { type ClusterConfig, parseClusterConfig } from "../../lib/cluster_config.ts";
import { rulesText } from "../../lib/config_store.ts";
import type { MarkedConfig } from "../../lib/core/arbitrator_config.ts";
import { summarize } from "../../lib/core/arbitrator_summary.ts";
import { sha256 } from "../../lib/effects/config_file.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import {
  ALL,
  ArbitratorStory,
  calmArbitrator,
  DC1,
  DC2,
  printOf,
  reportOf,
  ServerStory,
  servingServer,
  statusOf,
} from "../support/cores.ts";

/** a1 a2 against b1 b2, with a3 as a fifth where it is named; serials never move. */
function configOf(version: number, names: string, timing: object = {}): ClusterConfig {
  const serials = ["a1", "a2", "b1", "b2", "a3", "a4"];
  return parseClusterConfig(
    {
      version,
      cluster: { name: "test", primary_segment: "dc1" },
      timing,
      arbitrator: [{ serial: 1, host: "10.0.0.100" }],
      dbserver: names.split(" ").map((name) => ({
        name,
        serial: serials.indexOf(name) + 1,
        segment: name.startsWith("a") ? "dc1" : "dc2",
        host: `10.0.0.${serials.indexOf(name) + 1}`,
      })),
    },
    "test",
  );
}

function marked(version: number, names: string, timing: object = {}): MarkedConfig {
  const config = configOf(version, names, timing);
  const checksum = sha256(`${version} ${names} ${JSON.stringify(timing)}`);
  return { config, mark: { version, checksum, rules: sha256(rulesText(config)) } };
}

const ONE = marked(1, "a1 a2 b1 b2");
const GROWN = marked(2, "a1 a2 b1 b2 a3");
const SHRUNK = marked(2, "a1 b1 b2");
const QUICK = marked(2, "a1 a2 b1 b2", { fence_ms: 500, margin_ms: 200 });

function documents(active: MarkedConfig, held: MarkedConfig | null = null): Report["config"] {
  return { active: active.mark, held: held?.mark ?? null };
}

/** An arbitrator by the first document, everybody serving and holding what is said. */
function arbitrator(held: MarkedConfig | null = null): ArbitratorStory {
  const story = new ArbitratorStory({ config: ONE.config });
  story.give({ on: "config", ...ONE, held: null });
  story.reports(ALL, { config: documents(ONE, held) });
  story.effects = [];
  return story;
}

function hold(story: ArbitratorStory, held: MarkedConfig): void {
  story.give({ on: "config", ...ONE, held });
}

function version(story: ArbitratorStory): number | undefined {
  return story.state.mark?.version;
}

function warnings(story: ArbitratorStory): readonly string[] {
  return summarize(story.state, story.now).warnings.filter((words) => words.includes("config"));
}

describe("a document with other rules", () => {
  test("waits until every server holds it, and says for whom", () => {
    const story = arbitrator();
    hold(story, GROWN);
    for (const name of ["a1", "a2", "b1"]) story.report(name, { config: documents(ONE, GROWN) });
    expect(version(story)).toBe(1);
    expect(warnings(story)).toEqual([
      "config version 2 is pending, 1 is in force: b2 does not hold it",
    ]);
    story.report("b2", { config: documents(ONE, GROWN) });
    expect(version(story)).toBe(2);
    expect(story.state.former?.mark.version).toBe(1);
    expect(story.state.durable.config).toEqual({ active: GROWN.mark, former: ONE.mark });
    expect(story.effects.some((effect) => effect.do === "adopt")).toBe(true);
    expect(warnings(story)).toEqual(["config version 2 is in force, a1, a2, b1, b2 go by 1 yet"]);
  });

  const ways: readonly (readonly [string, (story: ArbitratorStory) => void, string])[] = [
    [
      "a server holds another text of the same version",
      (story) => {
        const other = { ...GROWN, mark: { ...GROWN.mark, checksum: "0".repeat(64) } };
        story.reports(["a1", "a2", "b1"], { config: documents(ONE, GROWN) });
        story.report("b2", { config: documents(ONE, other) });
      },
      "b2 does not hold it",
    ],
    [
      "a server is silent",
      (story) => {
        story.pass(story.config.timing.suspectMs + 1);
        story.reports(["a1", "a2", "b1"], { config: documents(ONE, GROWN) });
      },
      "b2 is silent",
    ],
    [
      "the view is not joint",
      (story) => {
        const lone = { config: documents(ONE, GROWN), view: DC1 };
        story.reports(DC1, lone);
        story.reports(DC2, { ...lone, view: DC2, primary: "no" });
      },
      "the view is not joint",
    ],
  ];
  for (const [name, happen, words] of ways) {
    test(`waits while ${name}`, () => {
      const story = arbitrator();
      hold(story, GROWN);
      happen(story);
      expect(version(story)).toBe(1);
      expect(story.state.configWait).toContain(words);
    });
  }

  test("never comes into force if it moves the arbitrator, however it came into the table", () => {
    const value = marked(2, "a1 a2 b1 b2");
    const [arbitrator1] = value.config.arbitrators;
    if (arbitrator1 === undefined) throw new Error("no arbitrator");
    const config = { ...value.config, arbitrators: [{ ...arbitrator1, host: "10.9.9.9" }] };
    const moved = { config, mark: { ...value.mark, rules: sha256(rulesText(config)) } };
    const story = arbitrator();
    hold(story, moved);
    story.reports(ALL, { config: documents(ONE, moved) });
    expect(version(story)).toBe(1);
    expect(warnings(story)[0]).toContain("it cannot come into force: arbitrator: it would move");
  });

  test("needs no word of a silent server that a person has retired", () => {
    const story = arbitrator();
    story.pass(story.config.timing.suspectMs + 1);
    story.person({ verb: "retire", parameters: { node: "b2", who: "eve", why: "" } });
    hold(story, GROWN);
    story.reports(["a1", "a2", "b1"], { config: documents(ONE, GROWN) });
    expect(version(story)).toBe(2);
  });

  test("is not said to be in force before the arbitrator has written so", () => {
    const story = arbitrator();
    hold(story, QUICK);
    for (const name of ["a1", "a2", "b1"]) story.report(name, { config: documents(ONE, QUICK) });
    story.autoWrite = false;
    expect(story.report("b2", { config: documents(ONE, QUICK) })).toBeUndefined();
    story.written();
    expect(story.ackOf(story.lastTicket)?.arbitrator?.config).toEqual(QUICK.mark);
  });

  test("is dropped when a newer one has the rules in force again", () => {
    const story = arbitrator();
    hold(story, GROWN);
    const back = marked(3, "a1 a2 b1 b2");
    story.give({ on: "config", ...back, held: null });
    expect(version(story)).toBe(3);
    expect(warnings(story)).toEqual([]);
    story.reports(ALL, { config: documents(ONE, GROWN) });
    expect(version(story)).toBe(3);
  });
});

describe("while the rules before still have a say", () => {
  /** Version 2 in force, nobody has followed yet. */
  function changing(next: MarkedConfig): ArbitratorStory {
    const story = arbitrator();
    hold(story, next);
    story.reports(ALL, { config: documents(ONE, next) });
    expect(version(story)).toBe(2);
    story.effects = [];
    return story;
  }

  test("a segment is promoted only if both allow it", () => {
    // By the new rules a1 alone is over half of dc1, by the old ones it is not.
    const story = changing(SHRUNK);
    const lone = { primary: "no", fenced: true, config: documents(SHRUNK) } as const;
    story.report("a1", { ...lone, view: ["a1"] });
    for (const name of DC2) story.report(name, { ...lone, view: DC2, running: "down" });
    story.pass(20_000);
    story.report("a1", { ...lone, view: ["a1"] });
    expect(story.orders()).toEqual([]);
    expect(story.verdict("dc1").because).toContain("by config version 1, which still counts");
    expect(story.verdict("dc1").rule).toBe("segment.majority");
  });

  test("both count until every server has followed, and one outwait more", () => {
    const story = changing(QUICK);
    story.pass(60_000);
    story.reports(["a1", "a2", "b1"], { config: documents(QUICK) });
    story.report("b2", { config: documents(ONE, QUICK) });
    story.pass(60_000);
    expect(story.state.former?.mark.version).toBe(1);
    story.report("b2", { config: documents(QUICK) });
    // The longer of the two outwaits: of the rules before.
    story.pass(ONE.config.outwaitMs - 1);
    expect(story.state.former?.mark.version).toBe(1);
    story.pass(1);
    expect(story.state.former).toBeNull();
    expect(story.state.durable.config).toEqual({ active: QUICK.mark, former: null });
    expect(story.logged()).toContain("config_settled");
  });

  test("a server that never returns is not waited for once a person has retired it", () => {
    const story = changing(QUICK);
    for (let round = 0; round < 2; round++) {
      story.pass(60_000);
      story.reports(["a1", "a2", "b1"], { config: documents(QUICK) });
    }
    expect(story.state.former?.mark.version).toBe(1);
    story.person({ verb: "retire", parameters: { node: "b2", who: "eve", why: "" } });
    story.pass(ONE.config.outwaitMs);
    expect(story.state.former).toBeNull();
  });

  test("no further document comes in force", () => {
    const story = changing(QUICK);
    story.give({ on: "config", ...QUICK, held: marked(3, "a1 a2 b1 b2 a3") });
    story.reports(ALL, { config: documents(ONE, marked(3, "a1 a2 b1 b2 a3")) });
    expect(version(story)).toBe(2);
    expect(story.state.configWait).toBe("the change to version 2 is not over");
  });

  test("a server that is not in the config any more has followed when it is down", () => {
    const story = changing(SHRUNK);
    const stay = ["a1", "b1", "b2"];
    story.reports(stay, { config: documents(SHRUNK) });
    story.report("a2", { config: documents(SHRUNK), leaving: true });
    story.pass(60_000);
    expect(story.state.former).not.toBeNull();
    story.report("a2", { config: documents(SHRUNK), running: "down", primary: "no", fenced: true });
    story.reports(stay, { config: documents(SHRUNK), view: stay, lastCommitted: 101 });
    story.pass(ONE.config.outwaitMs);
    expect(story.state.former).toBeNull();
    expect(story.state.heard.has("dbserver.2")).toBe(false);
  });

  for (const [name, next, view] of [
    ["joint by the rules before alone", GROWN, ["a1", "b1", "b2"]],
    ["joint by the new rules alone", marked(2, "a1 a2 b1 b2"), ["b1", "b2", "a1"]],
  ] as const) {
    test(`a Primary view that is ${name} gets an epoch`, () => {
      const before = name.endsWith("before alone") ? ONE : marked(1, "a1 a2 a3 b1 b2");
      const story = new ArbitratorStory({ config: before.config });
      story.give({ on: "config", ...before, held: null });
      const all = before.config.servers.map((server) => server.name);
      story.give({ on: "config", ...before, held: next });
      story.reports(all, { config: documents(before, next) });
      expect(version(story)).toBe(2);
      story.pass(story.config.timing.suspectMs + 1);
      const config = documents(next);
      let ack = story.report("b1", { config, view, lastCommitted: 101 });
      for (const each of ["a1", "b2", "b1"]) {
        ack = story.report(each, { config, view, lastCommitted: 101 });
      }
      expect(story.state.durable.grant).toMatchObject({ segment: "dc2", kind: "hold" });
      expect(ack?.promise?.epoch).toBe(1);
    });
  }

  test("an epoch names the version under which it was granted", () => {
    const story = calmArbitrator({ config: ONE.config });
    story.give({ on: "config", ...ONE, held: null });
    for (const name of DC1) story.report(name, { primary: "no", view: DC1, lastCommitted: 101 });
    for (const name of DC2) story.report(name, { primary: "no", view: DC2 });
    expect(story.state.durable.epochs.at(-1)?.configVersion).toBe(1);
  });
});

describe("a server", () => {
  function server(held: MarkedConfig | null = null): ServerStory {
    const story = servingServer("a1", { config: ONE.config });
    story.give({ on: "config", config: ONE.config, mark: ONE.mark, held: held?.mark ?? null });
    story.effects = [];
    return story;
  }
  const says = (mark: MarkedConfig["mark"]) => ({ arbitrator: { config: mark } });

  test("says at once what it holds, and goes by it when the arbitrator says so", () => {
    const story = server();
    story.give({ on: "config", config: ONE.config, mark: ONE.mark, held: GROWN.mark });
    expect(story.lastReport.config).toEqual(documents(ONE, GROWN));
    story.leased(says(ONE.mark));
    expect(story.has("adopt")).toBe(false);
    story.leased(says(GROWN.mark));
    story.leased(says(GROWN.mark));
    expect(story.effects.filter((effect) => effect.do === "adopt")).toEqual([
      { do: "adopt", mark: GROWN.mark },
    ]);
    story.give({ on: "config", config: GROWN.config, mark: GROWN.mark, held: null });
    expect(story.lastReport.config).toEqual(documents(GROWN));
    expect(story.state.config.servers.length).toBe(5);
    // The lease goes on: nobody is shut out for a change.
    expect(story.lastReport.serving).toBe("on");
  });

  test("asks again for a document that could not be had", () => {
    const story = server();
    story.leased(says(GROWN.mark));
    story.end("adopt", "no database");
    expect(story.effects.filter((effect) => effect.do === "adopt").length).toBe(1);
    story.leased(says(GROWN.mark));
    expect(story.effects.filter((effect) => effect.do === "adopt").length).toBe(2);
  });

  test("lets go of vouches that were given by the rules before, and keeps the lease", () => {
    const story = server();
    story.vouched("b1");
    story.leased();
    story.give({ on: "config", config: QUICK.config, mark: QUICK.mark, held: null });
    expect([...story.state.promises.keys()]).toEqual(["arbitrator.1"]);
  });

  test("vouches for nobody who goes by other rules", () => {
    const story = server();
    story.probed();
    const ask = (config: Report["config"]) =>
      story.hears("dbserver.3", {
        verb: "db_status_report",
        parameters: reportOf(ONE.config, "b1", { config }),
      })?.promise;
    expect(ask(documents(ONE))?.view).toBe(printOf(ALL, true));
    expect(ask(undefined)?.view).toBe(printOf(ALL, true));
    expect(ask(documents(marked(2, "a1 a2 b1 b2")))?.view).toBe(printOf(ALL, true));
    expect(ask(documents(QUICK))).toBeNull();
  });

  test("that is ahead of the arbitrator relies on no promise of it until it has gone back", () => {
    const story = new ServerStory("a1", { config: ONE.config });
    story.give({ on: "config", config: QUICK.config, mark: QUICK.mark, held: null });
    story.runs();
    story.polled(statusOf(ALL));
    story.leased(says(ONE.mark));
    expect(story.state.promises.size).toBe(0);
    expect(story.has("adopt")).toBe(true);
    story.give({ on: "config", config: ONE.config, mark: ONE.mark, held: QUICK.mark });
    story.leased(says(ONE.mark));
    expect(story.state.promises.size).toBe(1);
  });

  test("that is no longer named fences itself, leaves, stops, and stays down", () => {
    const story = server();
    const without = marked(2, "a2 b1 b2");
    story.give({ on: "config", config: without.config, mark: without.mark, held: null });
    expect(story.asked()).toEqual(expect.arrayContaining(["fence", "stop"]));
    expect(story.lastReport.leaving).toBe(true);
    expect(story.lastReport.because).toContain("no longer in the config since version 2");
    story.stops("asked");
    story.position(120);
    story.leased({ arbitrator: { start: "join", config: without.mark } });
    story.pass(60_000);
    expect(story.has("start")).toBe(false);
    // Named again, it may come back.
    const again = marked(3, "a1 a2 b1 b2");
    story.give({ on: "config", config: again.config, mark: again.mark, held: null });
    story.leased({ arbitrator: { start: "join", config: again.mark } });
    story.pass(1_000);
    expect(story.has("start")).toBe(true);
  });
});
