/** Orders of people: what a dry run says is what the order does, and two people do not collide. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { clientWordMs } from "../../lib/cluster_config.ts";
import { type Order, planOrder } from "../../lib/core/arbitrator_plan.ts";
import type { Plan } from "../../lib/message/arbitrator.ts";
import { ArbitratorDurableSchema } from "../../lib/run/durable.ts";
import {
  ALL,
  ArbitratorStory,
  calmArbitrator,
  coreCluster,
  DC1,
  DC2,
  down,
  printOf,
  type Seen,
} from "../support/cores.ts";

const EVE = { who: "eve", why: "new disk" };
const BOB = { who: "bob", why: "at night" };
const CUT2: Seen = { view: DC2, primary: "no" };

/** What a dry run answers. */
function dryRun(story: ArbitratorStory, order: Order): Plan {
  const before = story.state.durable;
  const asked = { ...order, parameters: { ...order.parameters, dryRun: true } } as Order;
  story.effects = [];
  story.person(asked);
  expect(story.state.durable).toBe(before);
  expect(story.state.person).toBeNull();
  const reply = story.effects.find((effect) => effect.do === "reply");
  if (reply?.do !== "reply" || reply.body.verb !== "plan") throw new Error("no plan came");
  return reply.body.parameters;
}

/** dc1 is gone, and had more than dc2. */
function dc1Gone(): ArbitratorStory {
  const story = calmArbitrator();
  story.reports(DC1, { lastCommitted: 114 });
  story.pass(6_000);
  story.reports(DC2, {
    ...CUT2,
    lastPrimary: { fingerprint: printOf(ALL, true), synced: false },
  });
  return story;
}

/** The arbitrator that a new process is, with what the one before has written. */
function restarted(story: ArbitratorStory): ArbitratorStory {
  const written = story.effects.findLast((effect) => effect.do === "write");
  if (written?.do !== "write") throw new Error("nothing was written");
  const durable = v.parse(ArbitratorDurableSchema, JSON.parse(JSON.stringify(written.durable)));
  const next = new ArbitratorStory({ durable });
  // So that it can be restarted itself though it has nothing to write.
  next.effects.push(written);
  return next;
}

const CASES: readonly (readonly [string, () => ArbitratorStory, Order])[] = [
  ["drain in calm", calmArbitrator, { verb: "drain", parameters: { ...EVE, node: "a1" } }],
  ["drain of all", () => calmArbitrator(), { verb: "drain", parameters: { ...EVE, node: "dc9" } }],
  [
    "drain below its floor",
    calmArbitrator,
    { verb: "drain", parameters: { ...EVE, node: "dc1", floor: 3 } },
  ],
  ["undrain", calmArbitrator, { verb: "undrain", parameters: { ...EVE, node: "a1" } }],
  ["retire", calmArbitrator, { verb: "retire", parameters: { ...EVE, node: "a1" } }],
  ["restore", calmArbitrator, { verb: "restore", parameters: { ...EVE, node: "a1" } }],
  ["pause", calmArbitrator, { verb: "pause", parameters: EVE }],
  ["resume", calmArbitrator, { verb: "resume", parameters: { ...EVE, rearm: false } }],
  [
    "resume of one that observes",
    () => calmArbitrator({ observing: "the store is missing" }),
    { verb: "resume", parameters: { ...EVE, rearm: false } },
  ],
  [
    "rearm of one that observes",
    () => calmArbitrator({ observing: "the store is missing" }),
    { verb: "resume", parameters: { ...EVE, rearm: true } },
  ],
  [
    "make_primary in calm",
    calmArbitrator,
    { verb: "make_primary", parameters: { ...EVE, segment: "dc2", allowDataLoss: false } },
  ],
  [
    "make_primary of a segment that may lack commits",
    dc1Gone,
    { verb: "make_primary", parameters: { ...EVE, segment: "dc2", allowDataLoss: false } },
  ],
  [
    "make_primary with an unconfirmed loss",
    dc1Gone,
    {
      verb: "make_primary",
      parameters: { ...EVE, segment: "dc2", force: true, allowDataLoss: true },
    },
  ],
  [
    "make_primary with a confirmed loss",
    dc1Gone,
    {
      verb: "make_primary",
      parameters: { ...EVE, segment: "dc2", force: true, allowDataLoss: true, acceptedLoss: null },
    },
  ],
  ["switchover", calmArbitrator, { verb: "switchover", parameters: { ...EVE, segment: "dc2" } }],
  [
    "switchover to where writers are",
    calmArbitrator,
    { verb: "switchover", parameters: { ...EVE, segment: "dc1" } },
  ],
  ["switchover in a cut", dc1Gone, { verb: "switchover", parameters: { ...EVE, segment: "dc2" } }],
];

describe("orders about one server", () => {
  const ASIDE = [{ name: "data.aside-1", bytes: 3_145_728, ageMs: 60_000 }];

  test("discard: what the server reports as set aside is wanted gone until it no longer does", () => {
    const story = calmArbitrator();
    story.report("a1", { aside: ASIDE });
    const order = { verb: "discard", parameters: { ...EVE, node: "a1" } } as const;
    expect(dryRun(story, order)).toMatchObject({
      outcome: "would",
      because: "discard: dbserver.1 3.0 MB",
      steps: ["a1: data.aside-1 is removed, 3.0 MB", "rows that were only there are gone for good"],
    });
    expect(story.person(order)?.outcome).toBe("ok");
    expect(story.report("a1", { aside: ASIDE })?.arbitrator?.discard).toEqual(["data.aside-1"]);
    expect(story.report("a2")?.arbitrator).not.toHaveProperty("discard");
    expect(story.report("a1")?.arbitrator).not.toHaveProperty("discard");
    expect(dryRun(story, order)).toMatchObject({ outcome: "already" });
  });

  test("start: a server that is down is told to try again, one that runs is left alone", () => {
    const story = calmArbitrator();
    const order = { verb: "start", parameters: { ...EVE, node: "dc1" } } as const;
    expect(dryRun(story, order)).toMatchObject({ outcome: "already", because: "dc1 is not down" });
    story.report("a1", down(105));
    expect(dryRun(story, order)).toMatchObject({ outcome: "would", because: "start: dbserver.1" });
    expect(story.person(order)?.outcome).toBe("ok");
    expect(story.report("a1", down(105))?.arbitrator?.startOrders).toBe(1);
    expect(story.report("a2")?.arbitrator).not.toHaveProperty("startOrders");
    expect(story.person(order)?.outcome).toBe("ok");
    expect(story.report("a1", down(105))?.arbitrator?.startOrders).toBe(2);
  });

  test("both outlive the arbitrator's process, and neither outlives what it was for", () => {
    const story = calmArbitrator();
    story.report("a1", { ...down(105), aside: ASIDE });
    for (const verb of ["start", "discard"] as const) {
      expect(story.person({ verb, parameters: { ...EVE, node: "a1" } })?.outcome).toBe("ok");
    }
    const second = restarted(story);
    const told = second.report("a1", { ...down(105), aside: ASIDE })?.arbitrator;
    expect(told).toMatchObject({ discard: ["data.aside-1"], startOrders: 1 });
    // Removed while the arbitrator was away, and what is set aside since is not meant.
    const newer = [{ name: "data.aside-2", bytes: 1, ageMs: 1 }];
    expect(second.report("a1", { ...down(105), aside: newer })?.arbitrator).toMatchObject({
      startOrders: 1,
    });
    expect(second.report("a1", { aside: newer })?.arbitrator).not.toHaveProperty("startOrders");
    const third = restarted(second).report("a1", { ...down(105), aside: newer })?.arbitrator;
    expect(third).not.toHaveProperty("startOrders");
    expect(third).not.toHaveProperty("discard");
  });

  test("they are answered once they are on disk, not before", () => {
    const story = calmArbitrator();
    story.report("a1", down(105));
    story.autoWrite = false;
    const order = { verb: "start", parameters: { ...EVE, node: "a1" } } as const;
    expect(story.person(order)).toBeUndefined();
    story.written();
    expect(story.ackOf(story.lastTicket)?.outcome).toBe("ok");
  });

  test("an arbitrator that only observes writes neither into a store that nobody trusts", () => {
    const story = calmArbitrator({ observing: "the store is missing" });
    story.report("a1", { ...down(105), aside: ASIDE });
    story.effects = [];
    expect(story.person({ verb: "discard", parameters: { ...EVE, node: "a1" } })?.outcome).toBe(
      "ok",
    );
    expect(story.effects.filter((effect) => effect.do === "write")).toEqual([]);
  });

  test("neither is taken for a server that is silent", () => {
    const story = calmArbitrator();
    story.report("a1", { ...down(105), aside: ASIDE });
    story.pass(6_000);
    for (const verb of ["start", "discard"] as const) {
      const ack = story.person({ verb, parameters: { ...EVE, node: "a1" } });
      expect(ack).toMatchObject({
        outcome: "refused",
        because: "unheard: a1; start the watchdog there first",
      });
    }
  });
});

describe("reseed", () => {
  const order = { verb: "reseed", parameters: { ...EVE, node: "a1" } } as const;

  function drained(): ArbitratorStory {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "a1" } });
    story.reports(ALL);
    return story;
  }

  test("of a drained server: it is ordered, by its own report, and its refusal is told", () => {
    const story = drained();
    expect(dryRun(story, order)).toMatchObject({
      outcome: "would",
      steps: [
        expect.stringContaining("a1 leaves the cluster and stops"),
        expect.any(String),
        expect.stringContaining("a2, b1, b2"),
        expect.stringContaining("undrain a1 then"),
      ],
    });
    story.effects = [];
    expect(story.person(order)?.outcome).toBe("ok");
    const sent = story.effects.flatMap((effect) => (effect.do === "send" ? [effect] : []));
    expect(sent).toMatchObject([
      {
        to: "dbserver.1",
        body: {
          verb: "reseed",
          parameters: { epoch: 0, storeId: "store-1", because: "eve: new disk", position: null },
        },
      },
    ]);
    const [one] = sent;
    if (one === undefined) throw new Error("Nothing was sent");
    story.answered(one, "refused");
    expect(story.logged()).toContain("order_answered");
    expect(story.state.decisions.map(({ verdict }) => verdict)).toContainEqual({
      wouldChange: "another order",
      rule: "order.reseed",
      because: expect.stringContaining("a1: refused"),
    });
  });

  test("of a stopped one: by the position that it has reported", () => {
    const story = calmArbitrator();
    story.report("a1", down(90));
    story.effects = [];
    expect(story.person(order)?.outcome).toBe("ok");
    expect(story.effects.find((effect) => effect.do === "send")).toMatchObject({
      body: { verb: "reseed", parameters: { position: { seqno: 90 } } },
    });
    story.report("a1", { ...down(90), diverged: true });
    expect(dryRun(story, order).outcome).toBe("already");
  });

  const table: readonly (readonly [string, () => ArbitratorStory, string, RegExp])[] = [
    ["clients.gone", calmArbitrator, "a1", /a1 takes clients: say drain a1 first/],
    [
      "name.known",
      calmArbitrator,
      "dc1",
      /no server is called dc1, and it is one at a time: there are a1, a2, b1, b2/,
    ],
    ["server.speaks", () => calmArbitrator().pass(6_000), "a1", /start it first/],
    [
      "order.free",
      () => {
        const story = drained();
        story.person({ verb: "pause", parameters: BOB });
        return story;
      },
      "a1",
      /bob has paused/,
    ],
    [
      "reseed.alone",
      () => {
        const story = drained();
        story.report("b1", { ...down(100), diverged: true });
        return story;
      },
      "a1",
      /b1 takes a full transfer: wait/,
    ],
    [
      "reseed.donor",
      () => {
        const story = drained();
        story.reports(["a2", "b1", "b2"], { serving: "off", fenced: true });
        return story;
      },
      "a1",
      /last good copy/,
    ],
    [
      "reseed.remainder",
      () => {
        const story = drained();
        story.reports(["a2", "b2"], { serving: "off", fenced: true });
        return story;
      },
      "a1",
      /bring another server back first/,
    ],
  ];
  for (const [id, story, node, because] of table) {
    test(`${id} refuses, and says what to do`, () => {
      const live = story();
      live.effects = [];
      const asked = { verb: "reseed", parameters: { ...EVE, node } } as const;
      const plan = dryRun(live, asked);
      expect(plan.outcome).toBe("refused");
      expect(plan.because).toStartWith(`${id}: `);
      expect(plan.because).toMatch(because);
      expect(live.person(asked)?.outcome).toBe("refused");
      expect(live.effects.some((one) => one.do === "send" && one.body.verb === "reseed")).toBe(
        false,
      );
    });
  }
});

describe("a dry run", () => {
  for (const [what, story, order] of CASES) {
    test(`${what}: says what the order then does, and changes nothing`, () => {
      const live = story();
      const plan = dryRun(live, order);
      const before = live.state;
      const ack = live.person(order);
      expect(ack?.outcome).toBe(plan.outcome === "refused" ? "refused" : "ok");
      expect(ack?.because).toBe(plan.because);
      const changed =
        live.state.durable !== before.durable || live.state.observing !== before.observing;
      expect(changed).toBe(plan.outcome === "would");
      expect(plan.steps.length > 0).toBe(plan.outcome === "would");
      expect(plan.checks.every(({ passed }) => passed)).toBe(plan.outcome !== "refused");
    });
  }

  test("an order that was carried out is answered ok when it is repeated, and changes nothing", () => {
    for (const [, story, order] of CASES) {
      const live = story();
      if (live.person(order)?.outcome !== "ok" || order.verb === "make_primary") continue;
      const before = live.state.durable;
      expect(live.person(order)?.outcome).toBe("ok");
      expect(live.state.durable).toBe(before);
    }
  });
});

describe("order.free", () => {
  test("the second of two people is refused with the first one's name and reason, unless they take over", () => {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "a1" } });
    const undrain = { verb: "undrain", parameters: { ...BOB, node: "dc1" } } as const;
    expect(story.person(undrain)).toMatchObject({
      outcome: "refused",
      because: expect.stringContaining("eve drains dbserver.1: new disk"),
    });
    expect(
      story.person({ ...undrain, parameters: { ...undrain.parameters, takeOver: true } })?.outcome,
    ).toBe("ok");
    expect(story.state.durable.draining).toEqual([]);
    expect(story.state.durable.standing).toEqual([]);
  });

  test("a pause is its owner's: others may neither resume nor promote", () => {
    const story = dc1Gone();
    story.person({ verb: "pause", parameters: EVE });
    for (const order of [
      { verb: "resume", parameters: { ...BOB, rearm: false } },
      { verb: "pause", parameters: BOB },
      { verb: "make_primary", parameters: { ...BOB, segment: "dc2", allowDataLoss: false } },
      { verb: "switchover", parameters: { ...BOB, segment: "dc2" } },
    ] as const) {
      expect(story.person(order)).toMatchObject({
        outcome: "refused",
        because: expect.stringContaining("eve has paused automatic decisions: new disk"),
      });
    }
    expect(story.person({ verb: "resume", parameters: { ...EVE, rearm: false } })?.outcome).toBe(
      "ok",
    );
    expect(story.state.durable.paused).toBeNull();
  });
});

describe("drain", () => {
  test("floor.kept: refuses to leave clients with fewer servers than its floor", () => {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "dc1" } });
    expect(story.person({ verb: "drain", parameters: { ...EVE, node: "dc2" } })).toMatchObject({
      outcome: "refused",
      because:
        "no server would stay open to clients, the floor is 1: bring others back first, or say a lower --floor",
    });
    expect(
      story.person({ verb: "drain", parameters: { ...EVE, node: "b1", floor: 2 } }),
    ).toMatchObject({
      outcome: "refused",
      because:
        "b2 would stay open to clients, the floor is 2: bring others back first, or say a lower --floor",
    });
  });

  test("waits while the floor is not kept: clients have the server back", () => {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "dc1" } });
    expect(story.report("a1")?.arbitrator?.draining).toBe(true);
    story.reports(DC2, down(100));
    expect(story.report("a1")?.arbitrator?.draining).toBe(false);
    story.reports(DC2);
    expect(story.report("a1")?.arbitrator?.draining).toBe(true);
  });

  test("after its deadline the sessions that are left are cut", () => {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "a1", deadlineMs: 5_000 } });
    expect(story.report("a1")?.arbitrator?.cutting).toBe(false);
    story.pass(5_000).reports(ALL);
    expect(story.report("a1")?.arbitrator).toMatchObject({ draining: true, cutting: true });
    expect(story.report("a2")?.arbitrator).toMatchObject({ draining: false, cutting: false });
  });

  test("what is left of a deadline goes on when the arbitrator is restarted, and is never shorter", () => {
    const story = calmArbitrator();
    story.person({ verb: "drain", parameters: { ...EVE, node: "a1", deadlineMs: 60_000 } });
    for (let second = 0; second < 41; second++) story.pass(1_000).reports(ALL);
    const next = restarted(story);
    next.reports(ALL);
    // Of the 20 s that were left a story spends the first in waiting until it may promise.
    for (let second = 0; second < 14; second++) next.pass(1_000).reports(ALL);
    expect(next.report("a1")?.arbitrator).toMatchObject({ draining: true, cutting: false });
    for (let second = 0; second < 6; second++) next.pass(1_000).reports(ALL);
    expect(next.report("a1")?.arbitrator).toMatchObject({ draining: true, cutting: true });
    // One that is over stays over.
    const last = restarted(next);
    last.reports(ALL);
    expect(last.report("a1")?.arbitrator).toMatchObject({ draining: true, cutting: true });
  });

  test("a deadline is written down every few seconds while it runs, and at its end", () => {
    const story = calmArbitrator();
    const writes = () => story.effects.filter((effect) => effect.do === "write").length;
    story.person({ verb: "drain", parameters: { ...EVE, node: "a1", deadlineMs: 20_000 } });
    expect(writes()).toBe(1);
    for (let second = 0; second < 60; second++) story.pass(1_000).reports(ALL);
    expect(writes()).toBe(5);
    story.person({ verb: "undrain", parameters: { ...EVE, node: "a1" } });
    expect(story.state.durable.deadlines).toEqual([]);
  });
});

describe("make_primary", () => {
  const force = (acceptedLoss?: number | null): Order => ({
    verb: "make_primary",
    parameters: {
      ...EVE,
      segment: "dc2",
      force: true,
      allowDataLoss: true,
      ...(acceptedLoss === undefined ? {} : { acceptedLoss }),
    },
  });

  test("states the loss it cannot bound, and demands that it is confirmed as such", () => {
    const story = dc1Gone();
    const plan = planOrder(story.state, force(), story.now);
    expect(plan.loss).toEqual({
      transactions: 14,
      exact: false,
      because:
        "14 transactions of a1 will be missing, and whatever else was committed at a1 (unheard for 6 s), a2 (unheard for 6 s) since",
      confirmation: "lose an unknown number of transactions",
    });
    expect(story.person(force())?.because).toContain("loss.confirmed");
    expect(story.person(force(14))?.because).toContain("loss.confirmed");
    expect(story.person(force(null))?.outcome).toBe("ok");
  });

  test("loss.confirmed: where all have said where they stand, the number is exact, and no greater one is taken for it", () => {
    const story = calmArbitrator();
    story.person({ verb: "pause", parameters: EVE });
    story.pass(6_000);
    story.reports(DC1, { view: DC1, primary: "no", lastCommitted: 114 });
    story.reports(DC2, CUT2);
    const plan = planOrder(story.state, force(), story.now);
    expect(plan.loss).toMatchObject({ transactions: 14, exact: true });
    expect(plan.loss?.confirmation).toBe("lose 14 transactions");
    expect(story.person(force(13))?.because).toContain("loss.confirmed");
    expect(story.person(force(14))?.outcome).toBe("ok");
    expect(story.order().order.segment).toBe("dc2");
  });

  test("is answered ok and does nothing where the segment is primary, or is about to be", () => {
    const story = dc1Gone();
    expect(story.person(force(null))?.outcome).toBe("ok");
    const { sent } = story.order();
    const plain = { ...EVE, segment: "dc2", allowDataLoss: false };
    const repeat = () => story.person({ verb: "make_primary", parameters: plain });
    expect(repeat()).toMatchObject({
      outcome: "ok",
      because: "epoch 1 has been ordered for dc2, its answer is due",
    });
    story.answered(sent, "ok");
    story.reports(DC2, { view: DC2, epochSeen: 1, epochServed: 1, lastCommitted: 101 });
    expect(repeat()).toMatchObject({ outcome: "ok", because: "dc2 serves under epoch 1" });
    const calm = calmArbitrator();
    expect(
      calm.person({ verb: "make_primary", parameters: { ...plain, segment: "dc1" } }),
    ).toMatchObject({ outcome: "ok", because: "dc1 serves, and writers belong there" });
    expect(story.orders()).toEqual([]);
  });

  test("outage.forced: after a full outage a side is started with what it has, the silent one's rows given up", () => {
    const story = calmArbitrator();
    story.reports(DC1, { view: DC1, lastCommitted: 140, epochServed: 1 });
    story.pass(20_000);
    story.reports(["b1"], down(100));
    story.reports(["b2"], down(98));
    const word = { ...EVE, segment: "dc2", allowDataLoss: false } as const;
    const plain = story.person({ verb: "make_primary", parameters: word });
    expect(plain?.because).toStartWith("outage.silent: every server is down or silent, and a1, a2");
    expect(plain?.because).toEndWith("or --force --allow-data-loss starts dc2 with what it has");
    expect(story.orders()).toEqual([]);
    const plan = dryRun(story, force());
    expect(plan.because).toStartWith(
      "loss.confirmed: 40 transactions of the newest Primary view will be missing",
    );
    expect(plan.loss?.confirmation).toBe("lose an unknown number of transactions");
    story.effects = [];
    expect(story.person(force(null))?.because).toBe(
      "dc2 is started with what it has: b1 begins at 100",
    );
    expect(story.orders()).toMatchObject([
      { to: "dbserver.3", body: { verb: "bootstrap", parameters: { position: { seqno: 100 } } } },
    ]);
    expect(story.state.durable.grant).toMatchObject({ segment: "dc2", basis: "forced" });
  });

  test("outage.forced needs the silent to have been so for an outwait, and every position of its own side", () => {
    const story = calmArbitrator();
    story.reports(DC1, { view: DC1, lastCommitted: 140 });
    story.pass(3_000);
    story.reports(["b1"], down(100));
    story.reports(["b2"], down(null));
    expect(story.person(force(null))?.because).toContain("outage.silent");
    story.pass(3_000);
    story.reports(["b1"], down(100));
    story.reports(["b2"], down(null));
    expect(story.person(force(null))?.because).toContain(
      "outage.position: no position can be read of b2",
    );
  });

  test("a silent side that was non-Primary by its last word may have gone on since: no number is exact", () => {
    const story = calmArbitrator();
    story.person({ verb: "pause", parameters: EVE });
    story.pass(6_000);
    story.reports(DC1, { view: DC1, primary: "no", lastCommitted: 100 });
    story.pass(6_000);
    story.reports(DC2, CUT2);
    expect(planOrder(story.state, force(), story.now).loss).toMatchObject({
      transactions: 0,
      exact: false,
      confirmation: "lose an unknown number of transactions",
    });
  });

  test("without --force the silent are not taken for stopped", () => {
    const story = calmArbitrator({ config: coreCluster({ weights: { a1: 2, a2: 2 } }) });
    story.pass(story.config.outwaitMs + 1);
    story.reports(DC2, CUT2);
    const word = { ...EVE, segment: "dc2", allowDataLoss: true, acceptedLoss: null };
    expect(story.person({ verb: "make_primary", parameters: word })?.because).toContain(
      "outside.excluded",
    );
    expect(
      story.person({ verb: "make_primary", parameters: { ...word, force: true } })?.outcome,
    ).toBe("ok");
  });
});

describe("switchover", () => {
  /** Reports of all, as they come once the servers have heard of it; app minders write at `writer`. */
  function settle(story: ArbitratorStory, target: "dc1" | "dc2", writer: string): void {
    for (const name of ALL) {
      const inside = (target === "dc1" ? DC1 : DC2).some((one) => one === name);
      story.report(name, {
        primarySegment: target,
        yielding: !inside,
        writers: name === writer ? 2 : 0,
      });
    }
  }

  /** The same for so long that every client minder's word is in it. */
  function settled(story: ArbitratorStory, target: "dc1" | "dc2", writer: string): void {
    for (let ms = 0; ms <= clientWordMs(story.config); ms += 500) {
      settle(story, target, writer);
      story.pass(500);
    }
  }

  test("moves the preferred side and lets writers yield, until none is elsewhere", () => {
    const story = calmArbitrator();
    settle(story, "dc1", "a1");
    const ack = story.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } });
    expect(ack).toMatchObject({ outcome: "ok", because: "switchover: writers move to dc2" });
    expect(story.report("a1", { writers: 2 })?.arbitrator).toMatchObject({
      primarySegment: "dc2",
      yielding: true,
    });
    expect(story.report("b1")?.arbitrator?.yielding).toBe(false);
    expect(story.state.durable.standing).toMatchObject([{ verb: "switchover", from: "dc1" }]);
    settled(story, "dc2", "b1");
    expect(story.state.durable.standing).toEqual([]);
    expect(story.state.durable.primarySegment).toBe("dc2");
    expect(story.logged()).toContain("switchover_done");
    expect(story.report("a1")?.arbitrator?.yielding).toBe(false);
  });

  test("aborted, moves them back", () => {
    const story = calmArbitrator();
    settle(story, "dc1", "a1");
    story.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } });
    story.report("b1", { writers: 1 });
    const ack = story.person({ verb: "switchover", parameters: { ...EVE, segment: null } });
    expect(ack?.because).toBe("switchover aborted: writers move back to dc1");
    expect(story.report("b1", { writers: 1 })?.arbitrator?.yielding).toBe(true);
    settled(story, "dc1", "a1");
    expect(story.state.durable).toMatchObject({ primarySegment: "dc1", standing: [] });
  });

  describe("a server's count of its writers lags behind them", () => {
    const toDc1 = { verb: "switchover", parameters: { ...EVE, segment: "dc1" } } as const;
    const calm = (clients: number) => calmArbitrator({ config: coreCluster({ clients }) });

    test("one that has just had some counts as having them", () => {
      const story = calm(1);
      settle(story, "dc1", "b1");
      story.pass(200);
      // Its latest acks are from before they chose it again; they count twice, or nowhere.
      settle(story, "dc1", "a1");
      expect(dryRun(story, toDc1)).toMatchObject({ outcome: "would" });
      expect(dryRun(story, toDc1).steps).toContain("single writers leave b1 for a server of dc1");
      settled(story, "dc1", "a1");
      expect(dryRun(story, toDc1)).toMatchObject({ outcome: "already" });
    });

    test("while a client minder's writer is known nowhere, the order is carried out", () => {
      const story = calm(3);
      settled(story, "dc1", "a1");
      expect(dryRun(story, toDc1)).toMatchObject({ outcome: "would" });
      story.report("a2", { writers: 1 });
      expect(dryRun(story, toDc1)).toMatchObject({ outcome: "already" });
    });

    test("it is not done before everybody who had just chosen has heard of it", () => {
      const story = calm(3);
      settled(story, "dc1", "none");
      expect(story.person(toDc1)?.outcome).toBe("ok");
      settle(story, "dc1", "none");
      expect(story.state.durable.standing).toHaveLength(1);
      story.pass(clientWordMs(story.config) - 1);
      settle(story, "dc1", "none");
      expect(story.state.durable.standing).toHaveLength(1);
      story.pass(1);
      settle(story, "dc1", "none");
      expect(story.state.durable.standing).toEqual([]);
    });

    test("one that has fallen silent with writers has them for an outwait", () => {
      const story = calm(2);
      settle(story, "dc1", "b1");
      expect(story.person(toDc1)?.outcome).toBe("ok");
      const others = ["a1", "a2", "b2"] as const;
      const tell = () => {
        for (const name of others) {
          story.report(name, { primarySegment: "dc1", yielding: name === "b2" });
        }
      };
      story.pass(story.config.outwaitMs);
      tell();
      expect(story.state.durable.standing).toHaveLength(1);
      story.pass(1);
      tell();
      expect(story.state.durable.standing).toEqual([]);
    });
  });

  test("sessions left behind are cut at its deadline, and it is not done before", () => {
    const story = calmArbitrator();
    settle(story, "dc1", "a1");
    story.person({
      verb: "switchover",
      parameters: { ...EVE, segment: "dc2", deadlineMs: 3_000 },
    });
    settle(story, "dc2", "b1");
    expect(story.state.durable.standing).toHaveLength(1);
    story.pass(3_000);
    settle(story, "dc2", "b1");
    expect(story.report("a1", { yielding: true, primarySegment: "dc2" })?.arbitrator?.cutting).toBe(
      true,
    );
    story.pass(2_000);
    settle(story, "dc2", "b1");
    expect(story.state.durable.standing).toEqual([]);
  });

  test("target.serves, epoch.closed: is refused unless the target could take the writers this moment", () => {
    const story = calmArbitrator();
    story.report("b1", { localState: "Donor/Desynced" });
    expect(
      story.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } })?.because,
    ).toStartWith("1 of 2 servers of dc2 serve in the joint view");
    const cut = calmArbitrator();
    cut.pass(6_000);
    cut.reports(DC2, CUT2);
    expect(cut.state.durable.grant?.segment).toBe("dc2");
    expect(
      cut.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } })?.because,
    ).toStartWith("dc2 holds epoch 1: wait");
  });

  test("ends where its target can no longer serve, and writers belong where they did", () => {
    const story = calmArbitrator();
    settle(story, "dc1", "a1");
    story.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } });
    story.reports(DC2, down(100));
    expect(story.state.durable).toMatchObject({ primarySegment: "dc1", standing: [] });
    expect(story.logged()).toContain("switchover_ended");
  });

  test("ends with the epoch of a fault, which decides where writers belong", () => {
    const story = calmArbitrator();
    settle(story, "dc1", "a1");
    story.person({ verb: "switchover", parameters: { ...EVE, segment: "dc2" } });
    story.reports(DC2, { ...CUT2, lastCommitted: 100 });
    story.reports(DC1, { view: DC1, primary: "no", lastCommitted: 120 });
    story.pass(6_000);
    story.reports(DC2, { ...CUT2, lastCommitted: 100 });
    story.reports(DC1, { view: DC1, primary: "no", lastCommitted: 120 });
    story.pass(50);
    expect(story.state.durable.grant?.segment).toBe("dc1");
    story.pass(50);
    expect(story.state.durable).toMatchObject({ primarySegment: "dc1", standing: [] });
  });
});

test("every order is noted in the log with who, why and its outcome", () => {
  const story = calmArbitrator();
  story.effects = [];
  story.person({ verb: "drain", parameters: { ...EVE, node: "a1" } });
  story.person({ verb: "undrain", parameters: { ...BOB, node: "a1" } });
  const orders = story.effects.flatMap((effect) =>
    effect.do === "log" && effect.event === "order" ? [effect.fields] : [],
  );
  expect(orders).toMatchObject([
    { order: "drain", node: "a1", who: "eve", why: "new disk", outcome: "would" },
    { order: "undrain", node: "a1", who: "bob", outcome: "refused" },
  ]);
});
