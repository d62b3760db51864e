/** The arbitrator's evictions: under a grant where they promote, without one where they do not, else never. */
import { describe, expect, test } from "bun:test";
import { EVICT_DEADLINE_MS } from "../../lib/core/dbserver_evict.ts";
import type { Evict } from "../../lib/message/arbitrator.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
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
  serverOf,
  uuidOf,
} from "../support/cores.ts";

const FULL = coreCluster({ evict: "full" });
const CONFIRMED = coreCluster({ evict: "confirmed" });

function ids(names: readonly string[]): PartyId[] {
  return names.map((name) => serverOf(FULL, name).id);
}

/** A server that hangs in the complete view and does not hear those. */
function hanging(silent: readonly string[], changes: Seen = {}): Seen {
  return { probe: "hanging", silent: ids(silent), lastCommitted: 100, fenced: true, ...changes };
}

function ended(name: string): Seen {
  return down(100, {
    gcommUuid: uuidOf(name),
    ended: { uuid: uuidOf(name), pid: 47, startTime: 11 },
  });
}

interface Sent {
  readonly to: PartyId;
  readonly order: Evict;
}

function evictions(story: ArbitratorStory): readonly Sent[] {
  return story
    .orders()
    .flatMap(({ to, body }) =>
      body.verb === "evict" && "uuids" in body.parameters ? [{ to, order: body.parameters }] : [],
    );
}

function answer(story: ArbitratorStory, { to, order }: Sent, outcome: "ok" | "refused" | "failed") {
  story.give({
    on: "answered",
    by: to,
    sent: { verb: "evict", parameters: order },
    sentAt: story.now,
    reply: {
      verb: "ack",
      parameters: {
        outcome,
        because: "",
        promise: null,
        epochServed: null,
        writer: null,
        arbitrator: null,
      },
    },
  });
}

/** Armed, all healthy, then dc1's processes end and dc2's commits hang. */
function lostSegment(config = FULL): ArbitratorStory {
  const story = calmArbitrator({ config });
  story.pass(6_000);
  story.reports(ALL);
  story.effects = [];
  for (const name of DC1) story.report(name, ended(name));
  return story;
}

/** The link is cut: each side misses the other, all of them are heard here. */
function cut(at: { readonly dc1?: Seen; readonly dc2?: Seen; readonly config?: typeof FULL } = {}) {
  const story = calmArbitrator({ config: at.config ?? FULL });
  story.pass(6_000);
  story.reports(ALL);
  story.pass(1_900);
  story.effects = [];
  story.reports(DC2, hanging(DC1, at.dc2));
  story.reports(DC1, hanging(DC2, at.dc1));
  return story;
}

describe("both servers of a segment have ended", () => {
  for (const config of [FULL, CONFIRMED]) {
    test(`the others are granted the epoch and told to evict them, evict "${config.evict}"`, () => {
      const story = lostSegment(config);
      story.reports(DC2, { probe: "hanging" });
      const sent = evictions(story);
      expect(sent.map(({ to }) => to)).toEqual(ids(DC2));
      for (const { order } of sent) {
        expect(order).toMatchObject({ epoch: 1, expectedFingerprint: printOf(ALL, true) });
        expect([...order.uuids].sort()).toEqual(DC1.map(uuidOf).sort());
        expect(order.grant).toMatchObject({ segment: "dc2" });
      }
      expect(sent.filter(({ order }) => order.grant?.forms === true)).toHaveLength(1);
      expect(story.state.durable.grant).toMatchObject({ kind: "evict", segment: "dc2", epoch: 1 });
    });
  }

  test("nothing leaves before the epoch is on disk", () => {
    const story = lostSegment();
    story.autoWrite = false;
    story.reports(DC2, { probe: "hanging" });
    expect(evictions(story)).toEqual([]);
    story.give({ on: "written", revision: story.state.revision, error: null });
    expect(evictions(story)).toHaveLength(2);
  });

  test("waits for the word of both that commits hang: where they stand is final only then", () => {
    const story = lostSegment();
    story.report("b1", { probe: "hanging" });
    story.report("b2");
    expect(evictions(story)).toEqual([]);
  });

  test("is no reason where eviction is off", () => {
    const story = lostSegment(coreCluster());
    story.reports(DC2, { probe: "hanging" });
    expect(evictions(story)).toEqual([]);
  });

  test("the promotion is complete with the new view, not with the stalled one", () => {
    const story = lostSegment();
    story.reports(DC2, { probe: "hanging" });
    story.reports(DC2, { probe: "hanging", epochSeen: 1, epochServed: 1 });
    expect(story.state.durable.grant?.order).toBe("given");
    story.reports(DC2, { view: DC2, epochSeen: 1, epochServed: 1, lastCommitted: 101 });
    expect(story.state.durable.grant?.order).toBe("done");
  });
});

describe("a cut link", () => {
  test("goes to the configured primary segment where both stand equal", () => {
    const sent = evictions(cut());
    expect(sent.map(({ to }) => to)).toEqual(ids(DC1));
    expect([...(sent[0]?.order.uuids ?? [])].sort()).toEqual(DC2.map(uuidOf).sort());
    expect(sent[0]?.order.grant?.basis).toBe("arithmetic");
  });

  test("goes to the side with more commits", () => {
    const sent = evictions(cut({ dc2: { lastCommitted: 103 } }));
    expect(sent.map(({ to }) => to)).toEqual(ids(DC2));
  });

  test("goes to one side only, however long it lasts", () => {
    const story = cut();
    evictions(story);
    for (let round = 0; round < 40; round++) {
      story.pass(500);
      story.reports(DC2, hanging(DC1));
    }
    expect(evictions(story)).toEqual([]);
  });

  test("gives no lease to those who are evicted from the view that they still stand in", () => {
    const story = cut();
    expect(story.report("b1", hanging(DC1))?.promise).toBeNull();
    expect(story.report("a1", hanging(DC2))?.promise).toMatchObject({ epoch: 1 });
  });

  test("healed in time, closes the epoch only when nobody can obey the order any more", () => {
    const story = cut();
    story.pass(1_000);
    story.reports(ALL);
    expect(story.state.durable.grant).not.toBeNull();
    story.pass(FULL.timing.orderMaxAgeMs + EVICT_DEADLINE_MS);
    story.reports(ALL);
    expect(story.state.durable.grant).toBeNull();
  });

  test("an order that one of two refuses still counts, one that both refuse is void", () => {
    const story = cut();
    const [first, second] = evictions(story);
    if (first === undefined || second === undefined) throw new Error("two were told");
    answer(story, first, "refused");
    expect(story.state.durable.grant).not.toBeNull();
    answer(story, second, "refused");
    expect(story.state.durable.grant).toBeNull();
  });
});

test("hosts that nobody hears are evicted, the arbitrator being deaf to them too", () => {
  const story = calmArbitrator({ config: FULL });
  story.pass(6_000);
  story.reports(ALL);
  story.pass(2_100);
  story.effects = [];
  story.reports(DC2, hanging(DC1));
  expect(evictions(story).map(({ to }) => to)).toEqual(ids(DC2));
});

describe("one server that nobody hears", () => {
  function silentOne(config = FULL): ArbitratorStory {
    const story = calmArbitrator({ config });
    story.pass(6_000);
    story.reports(ALL);
    story.pass(2_100);
    story.effects = [];
    story.reports(["a1", "a2", "b1"], hanging(["b2"]));
    return story;
  }

  test("is evicted by all others without a grant: they keep joint view and quorum", () => {
    const story = silentOne();
    const sent = evictions(story);
    expect(sent.map(({ to }) => to)).toEqual(ids(["a1", "a2", "b1"]));
    for (const { order } of sent) {
      expect(order).toMatchObject({ epoch: 0, uuids: [uuidOf("b2")], grant: null });
    }
    expect(story.state.durable).toMatchObject({ epoch: 0, grant: null });
  });

  test("is not evicted again and again", () => {
    const story = silentOne();
    evictions(story);
    story.pass(500);
    story.reports(["a1", "a2", "b1"], hanging(["b2"]));
    expect(evictions(story)).toEqual([]);
  });

  test("is left to Galera under a pause, and where only ended ones are evicted", () => {
    expect(evictions(silentOne(CONFIRMED))).toEqual([]);
    const story = calmArbitrator({ config: FULL });
    story.pass(6_000);
    story.reports(ALL);
    story.person({ verb: "pause", parameters: { who: "eve", why: "work" } });
    story.pass(2_100);
    story.reports(["a1", "a2", "b1"], hanging(["b2"]));
    expect(evictions(story)).toEqual([]);
  });
});

describe("never", () => {
  const cases: readonly (readonly [string, Parameters<typeof cut>[0]])[] = [
    ["while commits flow at one of those who would remain", { dc1: { probe: "flowing" } }],
    ["while one of them still hears the other side", { dc1: { silent: ids(["b1"]) } }],
    ["while the other side, heard here, is open to clients", { dc2: { fenced: false } }],
    ["while somebody is leaving: that moves Galera's quorum", { dc2: { leaving: true } }],
    ["while one of those who would remain is leaving", { dc1: { leaving: true } }],
    ["on silence, where only ended processes are evicted", { config: CONFIRMED }],
    [
      "a heavier side that may be Primary by itself",
      { config: coreCluster({ evict: "full", weights: { b1: 2, b2: 2 } }), dc2: { weight: 2 } },
    ],
  ];
  for (const [what, at] of cases) {
    test(what, () => {
      const sent = evictions(cut(at));
      expect(sent.filter(({ to }) => ids(DC1).includes(to))).toEqual([]);
    });
  }

  test("both: the other side's word is old, but not yet that of a silent one", () => {
    const story = cut({ dc1: { silent: [] } });
    expect(evictions(story)).toEqual([]);
    story.reports(DC1, hanging(DC2));
    expect(evictions(story).map(({ to }) => to)).toEqual(ids(DC1));
  });

  test("within the outwait after the arbitrator's start", () => {
    const story = calmArbitrator({ config: FULL, armed: false });
    story.pass(2_100);
    story.reports(DC2, hanging(DC1));
    story.reports(DC1, hanging(DC2));
    expect(evictions(story)).toEqual([]);
  });
});
