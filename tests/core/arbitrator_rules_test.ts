import { describe, expect, test } from "bun:test";
import { factsOf, judge, PROMOTE, RULES } from "../../lib/core/arbitrator_rules.ts";
import {
  ALL,
  type ArbitratorStory,
  calmArbitrator,
  coreCluster,
  DC1,
  DC2,
  down,
  printOf,
  type Seen,
  STATE_UUID,
} from "../support/cores.ts";

const CUT1: Seen = { view: DC1, primary: "no" };
const CUT2: Seen = { view: DC2, primary: "no" };
/** A person's word that the silent are stopped, and that whatever is lost is lost. */
const LOSS = { force: true, acceptedLoss: null };
/** Weights of which dc1 has more than half. */
const HEAVY = coreCluster({ weights: { a1: 2, a2: 2 } });

/** dc1 has been silent for long; dc2 reports that it is cut off. */
function dc1Lost(
  options: Parameters<typeof calmArbitrator>[0] = {},
  seen: Seen = {},
): ArbitratorStory {
  const story = calmArbitrator(options);
  story.pass(6_000);
  story.reports(DC2, { ...CUT2, ...seen });
  return story;
}

function ruleOf(story: ArbitratorStory, segment: string): string {
  return judge(factsOf(story.state, segment, story.now)).rule;
}

test("the table can be printed: each rule has its own id, a demand, a reason and what would change it", () => {
  expect(new Set(RULES.map((rule) => rule.id)).size).toBe(RULES.length);
  for (const rule of RULES) {
    expect(rule.demands.length * rule.because.length * rule.until.length).toBeGreaterThan(0);
  }
});

describe("store.trusted", () => {
  test("store.trusted refuses while the store is older than what the servers have seen", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC2, { ...CUT2, epochSeen: 7 });
    expect(story.verdict("dc2").rule).toBe("store.trusted");
    expect(story.orders()).toEqual([]);
  });

  test("store.trusted refuses while the store cannot be written, and passes once it can", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.autoWrite = false;
    story.person({ verb: "pause", parameters: { who: "eve", why: "" } });
    story.written("disk full");
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("store.trusted");
    story.pass(1_000);
    story.written();
    story.autoWrite = true;
    story.person({ verb: "resume", parameters: { who: "eve", why: "", rearm: false } });
    expect(story.order().to).toBe("dbserver.3");
  });
});

describe("restart.outwaited", () => {
  test("restart.outwaited refuses until one outwait after the start, and passes at its very end", () => {
    const story = calmArbitrator({ armed: false });
    story.reports(DC2, CUT2);
    const started = 1_000;
    story.now = started + story.config.outwaitMs - 1;
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("restart.outwaited");
    story.now = started + story.config.outwaitMs;
    story.reports(DC1, CUT1);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).not.toBe("restart.outwaited");
  });

  test("restart.outwaited binds a person's order too", () => {
    const story = calmArbitrator({ armed: false });
    story.reports(DC2, CUT2);
    const ack = story.person({
      verb: "make_primary",
      parameters: { segment: "dc2", allowDataLoss: true, ...LOSS, who: "eve", why: "" },
    });
    expect(ack?.because).toStartWith("restart.outwaited: ");
  });
});

describe("not.paused", () => {
  test("not.paused refuses automatic decisions while somebody has paused them, in that person's words", () => {
    const story = calmArbitrator();
    story.person({ verb: "pause", parameters: { who: "eve", why: "new switch" } });
    story.pass(6_000);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2")).toMatchObject({
      rule: "not.paused",
      because: "paused: by eve: new switch",
    });
  });

  test("not.paused passes after resume, and for a person's own order", () => {
    const story = calmArbitrator();
    story.person({ verb: "pause", parameters: { who: "eve", why: "" } });
    story.pass(6_000);
    story.reports(DC2, CUT2);
    story.orders();
    story.person({
      verb: "make_primary",
      parameters: { segment: "dc2", allowDataLoss: false, who: "eve", why: "" },
    });
    expect(story.order().order.segment).toBe("dc2");
  });
});

describe("candidate.exists", () => {
  test("candidate.exists refuses in calm, where nobody asks for the right", () => {
    expect(calmArbitrator().verdict("dc1")).toMatchObject({
      rule: "candidate.exists",
      because: "dc1 is in a joint view",
    });
  });

  test("candidate.exists refuses where no server of the segment reports", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    expect(story.verdict("dc1").because).toBe("no server of dc1 reports a view");
  });

  test("candidate.exists refuses where commits hang and Galera would not let the segment stay Primary", () => {
    const story = calmArbitrator();
    story.reports(DC1, { probe: "hanging" });
    expect(story.verdict("dc1").because).toContain("Galera will not let it stay Primary");
  });

  test("candidate.exists passes for a non-Primary component", () => {
    expect(ruleOf(dc1Lost(), "dc2")).not.toBe("candidate.exists");
  });

  test("candidate.exists passes for a heavy segment whose commits hang: it will outlive the view", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(3_000);
    story.reports(DC1, { probe: "hanging" });
    expect(story.state.durable.grant).toMatchObject({ segment: "dc1", kind: "hold" });
  });
});

describe("order.answered", () => {
  test("order.answered refuses a second order until the first is answered or too old to be obeyed", () => {
    const story = dc1Lost();
    expect(story.order().order.epoch).toBe(1);
    story.pass(100);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("order.answered");
    expect(story.orders()).toEqual([]);
  });

  test("order.answered passes when the deadline is over, under a higher epoch", () => {
    const story = dc1Lost();
    story.order();
    story.pass(story.config.timing.orderMaxAgeMs);
    story.reports(DC2, CUT2);
    expect(story.order().order.epoch).toBe(2);
  });
});

describe("outside.excluded", () => {
  test("outside.excluded refuses while the other segment is silent and its promises last", () => {
    const story = calmArbitrator({
      config: coreCluster({
        segments: { dc1: ["a1", "a2", "a3"], dc2: DC2 },
        timing: { galera_suspect_ms: 5000 },
      }),
    });
    story.pass(1_000);
    story.reports(DC2, {
      ...CUT2,
      lastPrimary: { fingerprint: printOf(["a1", "a2", "a3", "b1", "b2"], true), synced: true },
    });
    expect(story.verdict("dc2").rule).toBe("outside.excluded");
    expect(story.verdict("dc2").because).toContain("weight outside 3 exceeds 2 inside");
  });

  test("outside.excluded passes by the arithmetic of an even split, without any outwait", () => {
    const story = calmArbitrator();
    story.pass(100);
    story.reports(DC2, { ...CUT2, lastCommitted: 101 });
    expect(story.order().order.basis).toBe("arithmetic");
  });

  test("outside.excluded passes where all others say that they are stopped", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(100);
    story.reports(DC1, down(100));
    story.reports(DC2, CUT2);
    expect(story.order().order.basis).toBe("confirmed");
  });

  test("outside.excluded passes where all others say that they are non-Primary and fenced", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(100);
    story.reports(DC1, { ...CUT1, lastCommitted: 99 });
    story.reports(DC2, CUT2);
    expect(story.order().order.basis).toBe("confirmed");
  });

  test("outside.excluded never takes a non-Primary server that is not fenced for harmless by its word alone", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(100);
    const catchingUp = { fingerprint: printOf(ALL, true), synced: false };
    story.reports(DC1, { ...CUT1, fenced: false, lastPrimary: catchingUp });
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").because).toContain("a1, not fenced");
  });

  describe("outside.excluded and a person who allows loss", () => {
    const force = {
      verb: "make_primary",
      parameters: {
        segment: "dc2",
        allowDataLoss: true,
        ...LOSS,
        who: "eve",
        why: "dc1 has no power",
      },
    } as const;

    test("whoever has been silent for an outwait is excluded by their word", () => {
      const story = calmArbitrator({ config: HEAVY });
      story.pass(story.config.outwaitMs + 1);
      story.reports(DC2, CUT2);
      expect(story.verdict("dc2").rule).toBe("outside.excluded");
      expect(story.person(force)?.outcome).toBe("ok");
      expect(story.order().order.basis).toBe("forced");
    });

    test("whoever was heard within an outwait is not, and one heard Primary never", () => {
      const story = calmArbitrator({ config: HEAVY });
      story.pass(story.config.outwaitMs - 100);
      story.reports(DC2, CUT2);
      expect(story.person(force)?.because).toContain("outside.excluded");
      story.report("a1", { view: DC1, lastCommitted: 120 });
      story.pass(story.config.outwaitMs - 100);
      story.reports(DC2, CUT2);
      expect(story.person(force)?.because).toContain("a1, Primary by its report");
    });
  });

  test("outside.excluded: a word from before the noted view is no evidence", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.reports(DC1, down(100));
    story.pass(100);
    story.reports(DC2, {
      lastCommitted: 200,
      view: ["a1", "a2", "b1", "b2"],
      fingerprint: `${printOf(ALL, true)}+ffffffff-0000-0000-0000-000000000000`,
    });
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").because).toContain("last heard before the noted view");
  });

  test("candidate.exists: the few of a segment beside another one's majority are granted nothing, though theirs are down", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const view = [...segments.dc1, "b2"];
    for (const primary of ["yes", "no"] as const) {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.pass(6_000);
      story.reports(["b1", "b3"], down(90));
      const seen: Seen = { view, primary, lastCommitted: 114, fenced: true };
      story.reports(["a1", "b2"], seen);
      expect(story.state.durable.grant).toBeNull();
      expect(story.verdict("dc2")).toMatchObject({
        rule: "candidate.exists",
        because: "the few of dc2 are beside the majority of dc1, whose component it is",
      });
      story.reports(["a2", "a3"], seen);
      expect(story.state.durable.grant?.segment).toBe("dc1");
    }
  });

  test("outside.excluded: an outwait without a guard is no evidence against a heavy segment", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(60_000);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("outside.excluded");
    expect(story.verdict("dc2").because).toContain("heavy and it has no guard");
  });

  test("outside.excluded: a word of not being Primary counts no longer once a server of the component has been Primary", () => {
    const since = (healed: boolean) => {
      const story = calmArbitrator({ config: HEAVY });
      for (const name of DC1) story.report(name, { view: [name], primary: "no" });
      story.pass(1_000);
      if (healed) story.reports(DC2, {});
      story.pass(59_000);
      story.reports(DC2, CUT2);
      return factsOf(story.state, "dc2", story.now);
    };
    expect(since(false)).toMatchObject({ notExcluded: [], basis: "confirmed" });
    expect(since(true).notExcluded.join()).toContain("a1, not Primary 60000 ms ago, but b1");
  });

  describe("outside.excluded: the arithmetic", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const every = [...segments.dc1, ...segments.dc2];
    const basis = (reporting: readonly string[], weight?: number) => {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.pass(6_000);
      const last = { fingerprint: printOf(every, true), synced: true };
      const lastPrimary = weight === undefined ? last : { ...last, weight };
      story.reports(reporting, { view: segments.dc2, primary: "no", lastPrimary });
      return factsOf(story.state, "dc2", story.now).basis;
    };

    test("counts nobody to the component who does not report", () => {
      expect(basis(["b1", "b2", "b3"])).toBe("arithmetic");
      expect(basis(["b1", "b2"])).toBe("outwaited");
    });

    test("is not used where the noted view weighs something else than was heard", () => {
      expect(basis(["b1", "b2", "b3"], 6)).toBe("arithmetic");
      expect(basis(["b1", "b2", "b3"], 5)).toBe("outwaited");
    });
  });

  test("lineage.noted refuses while one outside still reads where it stands, and those could have been Primary since", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2"] };
    const seen = (seqno: number | null, reading: boolean) => {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.reports(segments.dc1, down(seqno, { reading }));
      story.reports(segments.dc2, { view: segments.dc2, primary: "no" });
      return story;
    };
    expect(seen(null, true).verdict("dc2").rule).toBe("lineage.noted");
    expect(seen(100, false).order().order.segment).toBe("dc2");
    // Its rows are gone.
    expect(seen(null, false).order().order.segment).toBe("dc2");
  });

  test("outside.excluded: nor with a guard, where commits were held when they were last tried, on either side", () => {
    const silent = (there: Seen, here: Seen) => {
      const story = calmArbitrator({ config: HEAVY });
      story.reports(DC1, { guard: true, ...there });
      story.pass(60_000);
      story.reports(DC2, { ...CUT2, ...here });
      return story;
    };
    expect(silent({}, {}).order().order.basis).toBe("outwaited");
    const because = (story: ArbitratorStory) => story.verdict("dc2").because;
    expect(because(silent({}, { held: true }))).toContain("heavy and commits were held at b1");
    expect(because(silent({ held: true }, {}))).toContain("heavy and commits were held at a1");
  });

  test("outside.excluded: a server that has gone may have left cleanly, which makes the other segment heavy", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const promoted = (gone: Seen) => {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.report("a2", gone);
      story.pass(60_000);
      story.reports(["a1", "a3"], { view: ["a1", "a3"], primary: "no" });
      return story;
    };
    expect(promoted({ view: ["a2"], primary: "no" }).order().order.basis).toBe("outwaited");
    for (const gone of [down(100), { leaving: true }])
      expect(promoted(gone).verdict("dc1").because).toContain("heavy and it has no guard");
  });

  test("outside.excluded: an outwait without a guard is no evidence against those who are a quorum together", () => {
    const story = calmArbitrator();
    story.pass(60_000);
    story.report("b1", { view: ["b1"], primary: "no" });
    expect(story.verdict("dc2").because).toContain("could be Primary together");
    story.report("b2", { view: ["b2"], primary: "no" });
    story.report("b1", { view: ["b1"], primary: "no" });
    expect(story.verdict("dc2").rule).toBe("segment.majority");
    // A later view that the arbitrator has not heard of counts as well.
    const later = calmArbitrator();
    later.pass(60_000);
    later.report("b1", {
      view: DC2,
      primary: "no",
      lastPrimary: { fingerprint: printOf([...DC1, "b1"], true), synced: true },
    });
    later.report("b2", CUT2);
    expect(later.verdict("dc2").because).toContain("could be Primary together");
  });

  test("outside.excluded: a server whose door is closed still weighs for the open ones outside", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const story = calmArbitrator({ config: coreCluster({ segments }) });
    const all = segments.dc1.concat(segments.dc2);
    const verdictBeside = (fenced: readonly string[]) => {
      story.pass(60_000);
      story.reports(fenced, { view: all, fenced: true });
      story.reports(["b2", "b3"], { view: ["b2", "b3"], primary: "no" });
      return story.verdict("dc2").because;
    };
    expect(verdictBeside([])).toContain("could be Primary together");
    expect(verdictBeside(["a1", "a2", "a3"])).toContain("could be Primary together");
    // Where all doors are closed, nothing is left that could be written to.
    expect(verdictBeside(["a1", "a2", "a3", "b1"])).not.toContain("could be Primary together");
  });

  test("outside.excluded: one that has ended since may have kept an open one Primary until then", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const verdictAfter = (ended: boolean) => {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.pass(60_000);
      story.reports(["a2", "a3"], down(90));
      // The open ones are heard once more after their end, or not.
      if (ended) story.reports(["a1", "b1"]);
      story.pass(60_000);
      story.reports(["a2", "a3"], down(90));
      story.reports(["b2", "b3"], { view: ["b2", "b3"], primary: "no" });
      return story.verdict("dc2");
    };
    expect(verdictAfter(false).because).toContain("could be Primary together");
    expect(verdictAfter(true).rule).not.toBe("outside.excluded");
  });

  test("lineage.noted: where the others could have been Primary together, and one of them stands further, a person decides", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const promoted = (seen: Seen, left: readonly string[] = ["b1"]) => {
      const story = calmArbitrator({ config: coreCluster({ segments }) });
      story.pass(60_000);
      story.reports(["a1", ...left], { view: ["a1", ...left], primary: "no", ...seen });
      story.report("a2", down(90));
      const rest = segments.dc2.filter((name) => !left.includes(name));
      story.reports(rest, { view: rest, primary: "no", lastCommitted: 100 });
      return story;
    };
    const beyond = promoted({ lastCommitted: 101 });
    expect(beyond.verdict("dc2")).toMatchObject({
      rule: "lineage.noted",
      because:
        "a1 stands at 101, the component at 100, and those outside could have been Primary together since",
    });
    expect(promoted({ lastCommitted: 100 }).order().order.segment).toBe("dc2");
    // Half of the view is no quorum: what it has more was in flight when the view broke.
    expect(promoted({ lastCommitted: 101 }, []).order().order.segment).toBe("dc2");
    const force = { segment: "dc2", force: false, allowDataLoss: true, acceptedLoss: null };
    beyond.person({ verb: "make_primary", parameters: { ...force, who: "eve", why: "test" } });
    expect(beyond.order().order.segment).toBe("dc2");
  });

  test("outside.excluded: an outwait with a guard is evidence, once it is over", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.reports(DC1, { guard: true });
    const last = story.now;
    story.now = last + story.config.outwaitMs - 1;
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").because).toContain("1 ms of its outwait are left");
    story.now = last + story.config.outwaitMs;
    story.reports(DC2, CUT2);
    expect(story.order().order.basis).toBe("outwaited");
  });

  test("outside.excluded: a young word of being Primary is stronger than the clock", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.reports(DC1, { guard: true, probe: "flowing" });
    story.reports(DC2, CUT2);
    story.pass(20_000);
    story.reports(DC1, { guard: true, view: DC1, fenced: true, lastCommitted: 200 });
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("outside.excluded");
  });
});

describe("the arithmetic, one condition after another", () => {
  const odd = [
    ["nobody is leaving", "a1", { leaving: true }, "a1 is leaving"],
    [
      "nobody is Primary in another view",
      "a1",
      { view: ["a1", "a2", "b1"], lastCommitted: 90 },
      "a1 is Primary in another view",
    ],
    ["no weight has just changed", "a1", { weight: 2 }, "the weight of a1 has just changed"],
  ] as const;
  for (const [condition, name, seen, because] of odd) {
    test(`outside.excluded demands of the arithmetic that ${condition}`, () => {
      const story = calmArbitrator();
      story.pass(100);
      story.report(name, seen);
      story.reports(DC2, CUT2);
      expect(story.verdict("dc2").rule).toBe("outside.excluded");
      expect(story.verdict("dc2").because).toContain(because);
    });
  }

  test("outside.excluded demands of the arithmetic that each server came straight from the noted view", () => {
    const story = calmArbitrator();
    story.pass(100);
    story.report("b1", CUT2);
    story.effects = [];
    const other = { fingerprint: printOf(["a1", "b1", "b2"], true), synced: true };
    story.report("b2", { ...CUT2, lastPrimary: other });
    expect(story.verdict("dc2").because).toContain("b2 did not come straight from the noted view");
  });

  test("outside.excluded demands of the arithmetic that not more weight is outside than inside", () => {
    const story = calmArbitrator({ config: HEAVY });
    story.pass(100);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").because).toContain("weight outside 4 exceeds 2 inside");
  });

  test("outside.excluded: a member without a watchdog counts with Galera's default weight", () => {
    const story = calmArbitrator();
    const garbd = "ffffffff-0000-0000-0000-000000000000";
    const fingerprint = `${printOf(ALL, true)}+${garbd}`;
    story.reports(ALL, {
      fingerprint,
      lastPrimary: { fingerprint, synced: true },
      lastCommitted: 200,
    });
    story.pass(100);
    story.reports(DC2, { ...CUT2, lastPrimary: { fingerprint, synced: true } });
    expect(story.verdict("dc2").because).toContain("weight outside 3 exceeds 2 inside");
  });

  test("outside.excluded: after a restart, servers never heard have no weight that could be counted", () => {
    const before = calmArbitrator({ config: HEAVY });
    const story = calmArbitrator({ config: HEAVY, durable: before.state.durable, armed: true });
    // calmArbitrator let everybody speak: start once more with dc1 silent.
    story.give({ on: "suspended", forMs: 60_000 });
    story.pass(story.config.outwaitMs);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("outside.excluded");
    expect(story.verdict("dc2").because).toContain("a weight is unknown");
  });
});

describe("segment.majority", () => {
  test("segment.majority refuses half of a segment", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.report("a1", { view: ["a1"], primary: "no" });
    story.report("b1", { view: ["b1"], primary: "no" });
    expect(story.verdict("dc2")).toMatchObject({
      rule: "segment.majority",
      because: "1 of 2 servers of dc2 are in the component",
    });
  });

  test("segment.majority counts neither retired servers nor those that were down before the noted view", () => {
    const retired = calmArbitrator();
    retired.person({ verb: "retire", parameters: { node: "b2", who: "eve", why: "" } });
    retired.report("b2", down(100));
    retired.pass(6_000);
    retired.report("b1", { view: ["b1"], primary: "no" });
    expect(ruleOf(retired, "dc2")).not.toBe("segment.majority");

    const stopped = calmArbitrator();
    stopped.report("b2", down(100));
    stopped.reports(["a1", "a2", "b1"], { view: ["a1", "a2", "b1"], lastCommitted: 110 });
    stopped.pass(6_000);
    stopped.reports(DC1, down(110));
    const alone = {
      view: ["b1"],
      primary: "no",
      lastCommitted: 110,
      lastPrimary: { fingerprint: printOf(["a1", "a2", "b1"], true), synced: true },
    } as const;
    // Silent, it may have joined since by the word of peers.
    stopped.report("b1", alone);
    expect(ruleOf(stopped, "dc2")).toBe("segment.majority");
    stopped.report("b2", down(100));
    stopped.report("b1", alone);
    expect(ruleOf(stopped, "dc2")).not.toBe("segment.majority");
  });

  test("segment.majority counts one that was down before the noted view, and was told to join since", () => {
    const view = ["a1", "a2", "b1"];
    const lastPrimary = { fingerprint: printOf(view, true), synced: true };
    const story = calmArbitrator();
    story.report("b2", down(90));
    story.reports(view, { view, lastCommitted: 110 });
    expect(story.report("b2", down(90))?.arbitrator?.start).toBe("join");
    story.pass(6_000);
    const alone = { view: ["b1"], primary: "no", lastCommitted: 110, lastPrimary } as const;
    story.reports(DC1, down(110));
    story.report("b1", alone);
    expect(story.verdict("dc2")).toMatchObject({
      rule: "segment.majority",
      because: "1 of 2 servers of dc2 are in the component",
    });
    // Still down when it should long have started.
    story.report("b2", down(90));
    story.report("b1", alone);
    expect(ruleOf(story, "dc2")).not.toBe("segment.majority");
  });

  test("segment.majority counts a retired server that may still run in the noted view, unless loss is allowed", () => {
    const story = calmArbitrator();
    story.person({ verb: "retire", parameters: { node: "b2", who: "eve", why: "" } });
    story.pass(6_000);
    story.report("a1", { view: ["a1"], primary: "no" });
    story.report("b1", { view: ["b1"], primary: "no" });
    expect(ruleOf(story, "dc2")).toBe("segment.majority");
    story.pass(6_000);
    story.report("b1", { view: ["b1"], primary: "no" });
    const force = {
      segment: "dc2",
      allowDataLoss: true,
      ...LOSS,
      who: "eve",
      why: "b2 burnt down",
    };
    expect(story.person({ verb: "make_primary", parameters: force })?.outcome).toBe("ok");
  });

  test("segment.majority lets a retired server stand for nobody", () => {
    const story = calmArbitrator();
    story.person({ verb: "retire", parameters: { node: "b2", who: "eve", why: "" } });
    story.pass(6_000);
    story.report("a1", { view: ["a1"], primary: "no" });
    story.report("b2", { view: ["b2"], primary: "no" });
    expect(story.verdict("dc2")).toMatchObject({
      rule: "segment.majority",
      because: "0 of 2 servers of dc2 are in the component",
    });
  });
});

describe("members.synced", () => {
  test("members.synced refuses a server that was still catching up, or was restarted since", () => {
    for (const lastPrimary of [{ fingerprint: printOf(ALL, true), synced: false }, null]) {
      const story = calmArbitrator();
      story.pass(6_000);
      story.report("b1", CUT2);
      story.report("b2", { ...CUT2, lastPrimary });
      expect(story.verdict("dc2").rule).toBe("members.synced");
      expect(story.verdict("dc2").because).toContain("b2");
    }
  });

  test("members.synced passes on a person's word that loss is allowed", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC2, {
      ...CUT2,
      lastPrimary: { fingerprint: printOf(ALL, true), synced: false },
    });
    const ack = story.person({
      verb: "make_primary",
      parameters: {
        segment: "dc2",
        allowDataLoss: true,
        ...LOSS,
        who: "eve",
        why: "dc1 burnt down",
      },
    });
    expect(ack?.outcome).toBe("ok");
    expect(story.order().order.basis).toBe("forced");
  });
});

describe("lineage.noted", () => {
  function forsaken(): ArbitratorStory {
    const story = calmArbitrator();
    // dc2 is gone for a while; the others go on and a newer view is noted.
    story.reports(DC1, { view: DC1, lastCommitted: 150 });
    story.pass(20_000);
    // Only one of them can tell where it stands, so nobody begins by itself.
    story.report("a1", down(200));
    story.report("a2", down(null));
    story.reports(DC2, CUT2);
    return story;
  }

  test("lineage.noted refuses a component that was in no server's newest Primary view", () => {
    const story = forsaken();
    expect(story.state.durable.noted?.members).toEqual([...DC1]);
    expect(story.verdict("dc2").rule).toBe("lineage.noted");
  });

  test("lineage.noted refuses a component whose servers of it may have rows beyond a fork point", () => {
    const fork = { epoch: 5, segment: "dc1", forkPoint: { uuid: STATE_UUID, seqno: 80 } };
    const story = calmArbitrator({ durable: { epoch: 5, epochs: [fork] } });
    story.pass(6_000);
    const stood = { uuid: STATE_UUID, seqno: 90 };
    story.reports(DC2, { ...CUT2, epochServed: 4, stood });
    expect(story.verdict("dc2").rule).toBe("lineage.noted");
    story.reports(DC2, { ...CUT2, epochServed: 5, stood });
    expect(story.orders()).toHaveLength(1);
  });

  test("lineage.noted passes where the component was in the noted view", () => {
    expect(dc1Lost().order().order.notedView).toBe(printOf(ALL, true));
  });

  test("lineage.noted passes on a person's word, and the view formed then is noted though its seqno is lower", () => {
    const story = forsaken();
    story.effects = [];
    story.person({
      verb: "make_primary",
      parameters: { segment: "dc2", allowDataLoss: true, ...LOSS, who: "eve", why: "" },
    });
    const { sent, order } = story.order();
    story.answered(sent, "ok");
    story.reports(DC2, {
      view: DC2,
      lastCommitted: 101,
      epochSeen: order.epoch,
      epochServed: order.epoch,
    });
    expect(story.state.durable.noted).toMatchObject({ members: [...DC2], seqno: 101 });
  });
});

describe("epoch.free", () => {
  function dc1Holds(): ArbitratorStory {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC1, CUT1);
    story.answered(story.order().sent, "ok");
    // Its Primary report never comes: the noted view is still the joint one.
    story.pass(10_000);
    story.reports(DC2, CUT2);
    story.effects = [];
    return story;
  }

  test("epoch.free refuses while another segment holds an open epoch, however long it is silent", () => {
    const story = dc1Holds();
    expect(story.verdict("dc2")).toMatchObject({
      rule: "epoch.free",
      because: "dc1 holds epoch 1",
    });
    story.pass(3_600_000);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("epoch.free");
  });

  test("epoch.free passes on a person's word, after the outwait", () => {
    const story = dc1Holds();
    story.person({
      verb: "make_primary",
      parameters: { segment: "dc2", allowDataLoss: true, ...LOSS, who: "eve", why: "" },
    });
    expect(story.order().order).toMatchObject({ epoch: 2, segment: "dc2", basis: "forced" });
  });

  test("epoch.free passes once a joint view has closed the epoch", () => {
    const story = dc1Holds();
    story.reports(ALL, {
      lastCommitted: 150,
      epochServed: 1,
      fingerprint: `${printOf(ALL, true)}+ffffffff-0000-0000-0000-000000000000`,
    });
    expect(story.state.durable.grant).toBeNull();
    expect(ruleOf(story, "dc2")).not.toBe("epoch.free");
  });
});

describe("rank.best", () => {
  /** Commits hang on both sides, with so many done. */
  function stalled(commits1: number, commits2: number): ArbitratorStory {
    const story = calmArbitrator();
    story.pass(5_000);
    story.reports(DC1, { probe: "hanging", lastCommitted: commits1 });
    story.reports(DC2, { probe: "hanging", lastCommitted: commits2 });
    story.effects = [];
    return story;
  }

  test("rank.best refuses the side with fewer commits, even the primary segment", () => {
    const story = stalled(100, 103);
    story.reports(DC1, CUT1);
    expect(story.verdict("dc1")).toMatchObject({
      rule: "rank.best",
      because: "dc2 has 3 more commits",
    });
    story.reports(DC2, { ...CUT2, lastCommitted: 103 });
    expect(story.order().order).toMatchObject({
      segment: "dc2",
      forkPoint: { seqno: 103 },
    });
  });

  test("rank.best stands against a person's plain order too, and yields to one that allows loss", () => {
    const story = stalled(100, 103);
    story.reports(DC1, CUT1);
    const order = { segment: "dc1", who: "eve", why: "" };
    const plain = { verb: "make_primary", parameters: { ...order, allowDataLoss: false } } as const;
    expect(story.person(plain)).toMatchObject({
      outcome: "refused",
      because: expect.stringContaining("rank.best"),
    });
    const forced = {
      verb: "make_primary",
      parameters: { ...order, allowDataLoss: true, ...LOSS },
    } as const;
    expect(story.person(forced)?.outcome).toBe("ok");
  });

  test("rank.best passes the primary segment where commits are equal", () => {
    const story = stalled(100, 100);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2")).toMatchObject({
      rule: "rank.best",
      because: "dc1 has as many commits and is the primary segment",
    });
    story.reports(DC1, CUT1);
    expect(story.order().order.segment).toBe("dc1");
  });
});

describe("flapping.no", () => {
  /** dc2 was promoted, dc1 came back, the epoch is closed. */
  function changedOnce(options: Parameters<typeof dc1Lost>[0] = {}): ArbitratorStory {
    const story = dc1Lost(options);
    story.answered(story.order().sent, "ok");
    story.reports(DC2, { view: DC2, lastCommitted: 101, epochSeen: 1, epochServed: 1 });
    story.pass(1_000);
    story.reports(ALL, { lastCommitted: 120, epochSeen: 1, epochServed: 1, fingerprint: JOINED });
    expect(story.state.durable.grant).toBeNull();
    story.effects = [];
    return story;
  }
  const JOINED = `${printOf(ALL, true)}+ffffffff-0000-0000-0000-000000000000`;
  const AGAIN: Seen = {
    ...CUT1,
    lastCommitted: 120,
    epochSeen: 1,
    epochServed: 1,
    lastPrimary: { fingerprint: JOINED, synced: true },
  };

  test("flapping.no refuses a second automatic change within the window, and a person may order it", () => {
    const story = changedOnce();
    story.pass(60_000);
    story.reports(DC1, AGAIN);
    expect(story.verdict("dc1").rule).toBe("flapping.no");
    expect(story.orders()).toEqual([]);
    story.person({
      verb: "make_primary",
      parameters: { segment: "dc1", allowDataLoss: false, who: "eve", why: "" },
    });
    expect(story.order().order).toMatchObject({ epoch: 2, segment: "dc1" });
  });

  test("flapping.no passes once the window is over, and a restart after that opens none anew", () => {
    const story = changedOnce();
    story.pass(story.config.timing.promotionWindowMs);
    expect(story.state.durable.changedSegment).toBe(false);
    story.reports(DC1, AGAIN);
    expect(story.order().order.segment).toBe("dc1");
  });

  test("flapping.no begins its window anew after a restart within it", () => {
    const story = calmArbitrator({ durable: changedOnce().state.durable });
    story.reports(ALL, { lastCommitted: 120, epochSeen: 1, epochServed: 1, fingerprint: JOINED });
    story.pass(60_000);
    story.reports(DC1, AGAIN);
    expect(story.verdict("dc1").rule).toBe("flapping.no");
  });

  test("flapping.no counts changes of segment only: the present primary segment is promoted again at once", () => {
    const story = changedOnce();
    story.pass(10_000);
    story.reports(DC1, down(120, { epochSeen: 1, epochServed: 1 }));
    story.reports(DC2, { ...AGAIN, view: DC2 });
    expect(story.order().order.segment).toBe("dc2");
  });

  test("flapping.no lets a joint component be promoted at once: b1 was lost while all were parting, the others are together", () => {
    const story = changedOnce();
    story.pass(10_000);
    story.reports(["b1"], down(120, { epochSeen: 1, epochServed: 1 }));
    story.reports(["a1", "a2", "b2"], { ...AGAIN, view: ["a1", "a2", "b2"] });
    expect(story.order().order.segment).toBe("dc1");
  });

  test("flapping.no waits for the rest of the primary segment as long as that may come, and not for ever", () => {
    const story = changedOnce();
    story.pass(10_000);
    story.reports(["b1"], { ...AGAIN, view: ["b1"] });
    story.reports(["a1", "a2", "b2"], { ...AGAIN, view: ["a1", "a2", "b2"] });
    expect(story.verdict("dc1").rule).toBe("flapping.no");
    for (let second = 0; second < 6; second++) {
      story.pass(1_000);
      story.reports(["a1", "a2", "b2"], { ...AGAIN, view: ["a1", "a2", "b2"] });
    }
    expect(story.order().order.segment).toBe("dc1");
  });

  test("flapping.no holds for those who would stay behind in a joint view", () => {
    const story = changedOnce();
    story.pass(10_000);
    const stalls: Seen = { ...AGAIN, view: ALL, primary: "yes", fingerprint: JOINED };
    story.reports(DC1, { ...stalls, weight: 2, probe: "hanging" });
    expect(story.verdict("dc1").rule).toBe("flapping.no");
  });

  test("flapping.no leaves it to the present primary segment where that can be promoted with the joint component", () => {
    const story = changedOnce();
    story.pass(10_000);
    story.reports(ALL, { lastCommitted: 120, epochSeen: 1, epochServed: 1, fingerprint: JOINED });
    story.reports(DC1, { ...AGAIN, view: ALL });
    expect(story.verdict("dc1").rule).toBe("flapping.no");
    story.reports(DC2, { ...AGAIN, view: ALL });
    expect(story.order().order.segment).toBe("dc2");
  });
});

test("a verdict of promote names the members and the evidence", () => {
  const story = calmArbitrator();
  story.pass(6_000);
  story.autoWrite = false;
  story.reports(DC2, CUT2);
  expect(story.verdict("dc2")).toMatchObject({
    rule: PROMOTE,
    because: "dc2 may be primary alone with b1, b2 (arithmetic)",
  });
});
