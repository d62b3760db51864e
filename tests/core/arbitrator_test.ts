import { describe, expect, test } from "bun:test";
import type { Grant } from "../../lib/core/arbitrator_state.ts";
import { EPOCHS_MAX } from "../../lib/core/arbitrator_state.ts";
import { healthNow } from "../../lib/core/arbitrator_summary.ts";
import type { Position, Report } from "../../lib/message/dbserver.ts";
import type { BodyOf } from "../../lib/message/mod.ts";
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
  STATE_UUID,
  uuidOf,
} from "../support/cores.ts";

const CUT1: Seen = { view: DC1, primary: "no" };
const CUT2: Seen = { view: DC2, primary: "no" };
const SIGNED = { who: "eve", why: "test" };
/** A person's word that the silent are stopped, and that whatever is lost is lost. */
const LOSS = { force: true, acceptedLoss: null };
/** The complete view as it is after somebody has come back: another one than before. */
const JOINED = `${printOf(ALL, true)}+ffffffff-0000-0000-0000-000000000000`;

/** What is left of the first order of dc2 once it was refused. */
const VOID = { epoch: 1, segment: "dc1", forkPoint: null };

/** dc1 was lost, dc2 is ordered to form the Primary. */
function ordered() {
  const story = calmArbitrator();
  story.pass(6_000);
  story.reports(DC2, CUT2);
  return { story, ...story.order() };
}

describe("nothing leaves before it is written", () => {
  test("an ack that rests on a new view waits for the disk", () => {
    const story = new ArbitratorStory();
    story.autoWrite = false;
    expect(story.reports(ALL)).toBeUndefined();
    expect(story.ackOf(story.lastTicket)).toBeUndefined();
    story.written();
    expect(story.ackOf(story.lastTicket)?.promise).toMatchObject({ view: printOf(ALL, true) });
  });

  test("the promise counts from when the ack left, not from when it was decided", () => {
    const story = new ArbitratorStory();
    story.autoWrite = false;
    story.reports(ALL);
    story.now += 300;
    story.written();
    expect(story.state.promisedAt.get("dbserver.4")).toBe(story.now);
  });

  test("an order waits for the disk, and so does every ack after it", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.autoWrite = false;
    story.reports(DC2, CUT2);
    expect(story.orders()).toEqual([]);
    // An ack without a promise tells the epoch, which must not be forgotten either.
    expect(story.report("b1", CUT2)).toBeUndefined();
    const revision = story.state.revision;
    story.give({ on: "written", revision, error: null });
    const leaving = story.effects.map((effect) => effect.do);
    expect(leaving).toContain("send");
    expect(story.ackOf(story.lastTicket)?.arbitrator?.epoch).toBe(1);
  });

  test("what was noted during a write waits for the next one", () => {
    const story = new ArbitratorStory();
    story.autoWrite = false;
    story.reports(ALL);
    const first = story.state.revision;
    story.report("a1", { fingerprint: JOINED, lastCommitted: 150 });
    const ticket = story.lastTicket;
    story.give({ on: "written", revision: first, error: null });
    expect(story.ackOf(ticket)).toBeUndefined();
    story.written();
    expect(story.ackOf(ticket)).toBeDefined();
  });

  test("a write that fails drops orders and strips acks of promise and epoch", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.autoWrite = false;
    story.reports(DC2, CUT2);
    const ticket = story.lastTicket;
    story.written("no space left");
    expect(story.orders()).toEqual([]);
    story.reports(DC2, CUT2);
    expect(story.ackOf(ticket)).toBeUndefined();
    expect(story.verdict("dc2")).toMatchObject({
      rule: "store.trusted",
      because: "the store cannot be written: no space left",
    });
  });

  test("an ack released by a failed write promises nothing and tells nothing", () => {
    const story = new ArbitratorStory();
    story.autoWrite = false;
    story.reports(ALL);
    story.written("no space left");
    expect(story.ackOf(story.lastTicket)).toMatchObject({
      outcome: "failed",
      promise: null,
      arbitrator: null,
    });
  });

  test("a failed write is tried again after a second, and then all is well", () => {
    const story = new ArbitratorStory();
    story.autoWrite = false;
    story.reports(ALL);
    story.written("no space left");
    expect(story.core.dueAt(story.state)).toBe(story.now + 1_000);
    story.effects = [];
    story.autoWrite = true;
    story.pass(1_000);
    expect(story.state.diskError).toBeNull();
    expect(story.report("a1")?.promise).not.toBeNull();
  });
});

describe("promises", () => {
  test("a joint view in which half of every segment flows is promised to last", () => {
    expect(calmArbitrator().report("a1")?.promise).toEqual({
      ms: 3_000,
      view: printOf(ALL, true),
      epoch: null,
    });
  });

  test("none while commits flow at less than half of a segment", () => {
    const story = calmArbitrator();
    story.report("b1", { probe: "hanging" });
    expect(story.report("a1")?.promise).not.toBeNull();
    story.report("b2", { probe: "hanging" });
    expect(story.report("a1")).toMatchObject({
      promise: null,
      because: "no promise: commits flow at less than half of a segment",
    });
  });

  test("none where the other segment is silent, however well this one flows", () => {
    const story = calmArbitrator();
    story.pass(2_001);
    story.report("a2");
    expect(story.report("a1")?.promise).toBeNull();
  });

  test("none for a solo view without a grant, nor while another segment holds one", () => {
    const story = calmArbitrator();
    expect(story.report("a1", { view: DC1, lastCommitted: 150 })?.promise).toBeNull();
    const other = ordered().story;
    expect(other.report("a1")?.because).toContain("dc2 holds epoch 1");
  });

  test("the holder's view is promised under its epoch, with more than half of its servers in it", () => {
    const { story, sent } = ordered();
    story.answered(sent, "ok");
    const seen = { view: DC2, lastCommitted: 101, epochSeen: 1, epochServed: 1 };
    expect(story.report("b1", seen)?.promise).toMatchObject({ epoch: 1 });
    expect(story.report("b1", { ...seen, view: ["b1"] })?.promise).toBeNull();
  });
});

test("a report of hanging commits earns no lease of the joint view, though half of each segment says that its own flow", () => {
  const story = calmArbitrator();
  expect(story.report("a1", {})?.promise).not.toBeNull();
  expect(story.report("a1", { probe: "hanging" })?.promise).toBeNull();
});

describe("views", () => {
  test("an older view that is told late is not noted", () => {
    const story = calmArbitrator();
    story.reports(ALL, { fingerprint: JOINED, lastCommitted: 150 });
    story.report("b1", { lastCommitted: 149 });
    expect(story.state.durable.noted?.fingerprint).toBe(JOINED);
  });

  test("a lesser view of another segment is not noted while a segment holds an epoch", () => {
    const { story } = ordered();
    story.report("a1", { view: DC1, lastCommitted: 150 });
    expect(story.state.durable.noted?.members).toEqual([...ALL]);
  });

  test("a joint view closes the epoch once half of every segment is Synced in it", () => {
    const { story, sent } = ordered();
    story.answered(sent, "ok");
    story.reports(DC2, { view: DC2, lastCommitted: 101, epochSeen: 1, epochServed: 1 });
    const joined = { fingerprint: JOINED, lastCommitted: 150, epochSeen: 1, epochServed: 1 };
    story.reports(DC2, joined);
    story.report("a1", { ...joined, localState: "Joined" });
    expect(story.state.durable.grant).not.toBeNull();
    story.report("a1", joined);
    expect(story.state.durable.grant).toBeNull();
    expect(story.logged()).toContain("epoch_closed");
  });

  test("is not healthy while the epoch is open in a joint view: a fault now would leave the holder only", () => {
    const { story, sent } = ordered();
    story.answered(sent, "ok");
    const joined = { fingerprint: JOINED, lastCommitted: 150, epochSeen: 1, epochServed: 1 };
    story.reports(["b1", "b2"], { ...joined, localState: "Joined" });
    story.reports(["a1", "a2"], joined);
    expect(healthNow(story.state, story.now)).toEqual({
      health: "degraded",
      because: "epoch 1 of dc2 is open until half of each segment is Synced in this view",
    });
    story.report("b1", joined);
    expect(healthNow(story.state, story.now).health).toBe("healthy");
  });

  test("a joint view closes nothing while the order is out: refused, it is void, and no fork point is left", () => {
    const { story, sent } = ordered();
    // The same members have become Primary again by themselves: it is the very view that was noted.
    story.reports(ALL, { lastCommitted: 102 });
    expect(story.state.durable.grant).not.toBeNull();
    story.answered(sent, "refused", "report.young");
    story.reports(ALL, { lastCommitted: 102 });
    expect(story.state.durable).toMatchObject({ grant: null, epochs: [VOID] });
  });

  test("without an answer it is closed once the order can no longer be obeyed, its fork point void where its target has not served under it", () => {
    const closed = (heard: readonly string[], laterMs = 0) => {
      const { story } = ordered();
      story.reports(ALL, { lastCommitted: 102 });
      story.pass(story.config.timing.orderMaxAgeMs + laterMs);
      story.reports(heard, { lastCommitted: 102 });
      expect(story.state.durable.grant).toBeNull();
      return story.state.durable.epochs;
    };
    expect(closed(["b1", "b2", "a1"])).toEqual([{ ...VOID, segment: "dc2" }]);
    // Its target was heard too long ago: what has become of the order is not known.
    expect(closed(["b2", "a1", "a2"], 1)).toMatchObject([{ forkPoint: { seqno: 100 } }]);
    // Its target speaks, and has not told of that view yet.
    const { story } = ordered();
    story.pass(story.config.timing.orderMaxAgeMs);
    story.report("b1", CUT2);
    story.reports(["a1", "a2", "b2"], { lastCommitted: 102 });
    expect(story.state.durable.grant).not.toBeNull();
    story.report("b1", { lastCommitted: 102 });
    const over = { grant: null, epochs: [{ ...VOID, segment: "dc2" }] };
    expect(story.state.durable).toMatchObject(over);
  });

  test("none is noted, nor closes an epoch or earns a promise, with a member that was Primary beside the epoch's component", () => {
    const at = (seqno: number) => ({ uuid: STATE_UUID, seqno });
    const met = (member: Seen) => {
      const { story, sent } = ordered();
      story.answered(sent, "ok");
      const view = ["a1", "b1", "b2"];
      story.report("a1", { view, lastCommitted: 150, ...member });
      // They have come over to it.
      const of = { view, lastCommitted: 150, epochSeen: 1, epochServed: 1, stood: at(140) };
      story.report("b1", of);
      const promise = story.report("b2", of)?.promise;
      return {
        noted: story.state.durable.noted?.members,
        open: story.state.durable.grant !== null,
        promise,
      };
    };
    expect(met({})).toEqual({ noted: [...ALL], open: true, promise: null });
    // It has come from where it stood, or has the epoch's rows.
    for (const member of [{ stood: at(99) }, { epochServed: 1 }])
      expect(met(member)).toMatchObject({ noted: ["a1", "b1", "b2"], open: false });
  });

  test("an order to form is done when its target serves under the epoch, not when the segment has heard of the number", () => {
    const { story } = ordered();
    const seen = { view: DC2, lastCommitted: 101, epochSeen: 1 };
    story.report("b1", seen);
    expect(story.state.durable.grant?.order).toBe("given");
    story.report("b1", { ...seen, epochServed: 1 });
    expect(story.state.durable.grant?.order).toBe("done");
  });

  test("a joint view whose commits hang closes nothing, and opens one epoch, not one per report", () => {
    const story = calmArbitrator({ config: coreCluster({ weights: { a1: 2, a2: 2 } }) });
    for (let round = 0; round < 8; round++) {
      story.pass(500);
      story.reports(ALL, { probe: "hanging" });
    }
    expect(story.state.durable).toMatchObject({ epoch: 1, grant: { segment: "dc1" } });
  });
});

describe("members that Galera does not name", () => {
  const heardOf = (others: readonly string[]) => {
    const story = calmArbitrator();
    const members = ALL.map((name) =>
      name.startsWith("b")
        ? { uuid: uuidOf(others.includes(name) ? name : "x"), name: "unspecified" }
        : { uuid: uuidOf(name), name },
    );
    story.report("a1", { primary: "no", members, group: "partial" });
    const report = story.state.heard.get("dbserver.1")?.report;
    return { names: report?.members.map(({ name }) => name), group: report?.group };
  };

  test("bear the names of the servers that say that they are these", () => {
    expect(heardOf(DC2)).toEqual({ names: [...ALL], group: "complete" });
  });

  test("stay as they are where nobody says so", () => {
    const names = ["a1", "a2", "unspecified", "b2"];
    expect(heardOf(["b2"])).toEqual({ names, group: "partial" });
  });
});

describe("orders", () => {
  test("an order names epoch, view, fork point, evidence and the report that it rests on", () => {
    const { story, to, order } = ordered();
    expect(to).toBe("dbserver.3");
    expect(order).toMatchObject({
      epoch: 1,
      storeId: "store-1",
      segment: "dc2",
      expectedFingerprint: printOf(DC2, false),
      notedView: printOf(ALL, true),
      forkPoint: { uuid: STATE_UUID, seqno: 100 },
      basis: "arithmetic",
      reportNumber: story.state.heard.get("dbserver.3")?.report.reportNumber ?? -1,
    });
    expect(story.state.durable.epochs).toEqual([
      { epoch: 1, segment: "dc2", forkPoint: { uuid: STATE_UUID, seqno: 100 } },
    ]);
  });

  test("the target is the server with the most commits, and the fork point is its own", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.report("b1", { ...CUT2, lastCommitted: 100 });
    story.report("b2", { ...CUT2, lastCommitted: 102 });
    const { to, order } = story.order();
    expect(to).toBe("dbserver.4");
    expect(order.forkPoint?.seqno).toBe(102);
  });

  test("the target is one whose rows are proven, though another of its segment has more", () => {
    const fork = { epoch: 5, segment: "dc1", forkPoint: { uuid: STATE_UUID, seqno: 80 } };
    const story = calmArbitrator({ durable: { epoch: 5, epochs: [fork] } });
    story.pass(6_000);
    const stood = { uuid: STATE_UUID, seqno: 90 };
    story.report("b2", { ...CUT2, lastCommitted: 102, epochServed: 4, stood });
    expect(story.orders()).toEqual([]);
    story.report("b1", { ...CUT2, lastCommitted: 100, epochServed: 5 });
    expect(story.order().to).toBe("dbserver.3");
  });

  test("a refused order is void: grant, segment and fork point are as before, its number is used up", () => {
    const { story, sent } = ordered();
    expect(story.state.durable.primarySegment).toBe("dc2");
    story.now += 3_000;
    story.answered(sent, "refused", "view.expected");
    expect(story.state.durable).toMatchObject({
      epoch: 1,
      grant: null,
      primarySegment: "dc1",
      epochs: [VOID],
    });
  });

  test("a number that was void forks nothing, whoever says or has been told that it serves under it", () => {
    const { story, sent } = ordered();
    story.answered(sent, "refused", "view.expected");
    // Sent before the refusal, and overtaken by it.
    story.report("b1", { ...CUT2, epochSeen: 1, epochServed: 1 });
    const joint = { fingerprint: JOINED, lastCommitted: 150, epochSeen: 1 };
    story.reports(["a1", "b1", "b2"], joint);
    const ack = story.report("a1", { ...joint, epochServed: 1 });
    expect(ack?.promise).toMatchObject({ epoch: null });
    const stood = { uuid: STATE_UUID, seqno: 100 };
    const late = story.report("a2", { ...joint, fenced: true, serving: "off", stood });
    expect(late?.arbitrator?.epochs).toEqual([VOID]);
    story.report("a1", { view: ["a1", "b1", "b2"], epochSeen: 1, epochServed: 1 });
    expect(story.report("a2", down(100))?.arbitrator?.start).toBe("join");
    // Nor does it go before more rows of the same lineage.
    story.pass(60_000);
    story.effects = [];
    story.report("a1", down(151, { epochSeen: 1, epochServed: 1 }));
    story.reports(["a2", "b1", "b2"], down(500, { epochSeen: 1 }));
    expect(story.orders()[0]?.to).toBe("dbserver.2");
  });

  test("each order that is refused costs a number, so those refused in a row come ever later", () => {
    const { story, sent: first } = ordered();
    let sent = first;
    const pauses: number[] = [];
    for (let round = 0; round < 4; round++) {
      story.answered(sent, "refused", "vouch.outwaited");
      const from = story.now;
      story.effects = [];
      while (!story.effects.some((effect) => effect.do === "send")) {
        story.pass(50);
        story.reports(DC2, CUT2);
        expect(story.now - from).toBeLessThan(10_000);
      }
      pauses.push(story.now - from);
      sent = story.order().sent;
    }
    expect(story.state.durable.epoch).toBe(5);
    expect(pauses.map((pause) => Math.round(pause / 250))).toEqual([1, 2, 4, 8]);
  });

  test("an order is given by arithmetic though the servers outside are down and their watchdogs new", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    // A new watchdog has never seen its mariadbd: it knows neither its name in the group nor its weight.
    story.reports(DC1, down(100, { gcommUuid: null, weight: null }));
    story.reports(DC2, CUT2);
    expect(story.order().order.basis).toBe("arithmetic");
  });

  test("an earlier holder goes on under a number newer than that of the order that was void", () => {
    const { story, sent } = ordered();
    story.answered(sent, "ok");
    story.reports(DC2, { view: DC2, lastCommitted: 101, epochSeen: 1, epochServed: 1 });
    story.pass(10_000);
    story.reports(DC1, CUT1);
    // The other one stays silent: nobody of dc2 can begin by itself.
    story.report("b1", down(101, { epochSeen: 1, epochServed: 1 }));
    story.effects = [];
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    expect(story.person({ verb: "make_primary", parameters: force })?.outcome).toBe("ok");
    const forced = story.order();
    expect(forced.order.epoch).toBe(2);
    story.now += 3_000;
    story.answered(forced.sent, "refused", "vouch.outwaited");
    expect(story.state.durable.grant).toMatchObject({ epoch: 3, segment: "dc2", order: "done" });
    const seen = { view: DC2, lastCommitted: 101, epochSeen: 2 };
    expect(story.report("b1", seen)?.promise).toMatchObject({ epoch: 3 });
  });

  test("an order without an answer counts as obeyed", () => {
    const { story } = ordered();
    story.pass(60_000);
    story.reports(DC1, CUT1);
    expect(story.verdict("dc1").rule).toBe("epoch.free");
  });

  test("an order that failed is given again, under a new epoch, after a pause", () => {
    const { story, sent } = ordered();
    story.answered(sent, "failed", "no Primary view");
    story.reports(DC2, CUT2);
    expect(story.orders()).toEqual([]);
    story.pass(1_000);
    story.reports(DC2, CUT2);
    expect(story.order().order.epoch).toBe(2);
  });

  test("reports from before a promotion bring no second order after it", () => {
    const { story, sent } = ordered();
    story.answered(sent, "ok");
    story.pass(100);
    story.report("b2", CUT2);
    story.pass(1_000);
    expect(story.orders()).toEqual([]);
    expect(story.state.durable.epoch).toBe(1);
  });

  test("an answer to an order of another epoch or by another server changes nothing", () => {
    const { story, sent, order } = ordered();
    story.answered({ ...sent, to: "dbserver.4" }, "refused");
    const old = { ...sent, body: { verb: "make_primary", parameters: { ...order, epoch: 0 } } };
    story.answered(old as typeof sent, "refused");
    expect(story.state.durable.grant).toMatchObject({ epoch: 1, segment: "dc2" });
  });

  test("dc2 stopped cleanly: dc1 is told that it holds, and no statement is needed", () => {
    const story = calmArbitrator();
    story.reports(DC2, down(100));
    story.effects = [];
    story.reports(DC1, { view: DC1, lastCommitted: 102 });
    expect(story.state.durable.grant).toMatchObject({ segment: "dc1", kind: "hold", epoch: 1 });
    expect(story.orders()).toEqual([]);
    expect(story.report("a1", { view: DC1, lastCommitted: 102 })?.promise?.epoch).toBe(1);
  });

  test("what is held is held once the component has heard of it in that view, or serves: not by a word from another view", () => {
    const orderAfter = (seen: Seen) => {
      const story = calmArbitrator();
      story.reports(DC2, down(100));
      story.reports(DC1, { view: DC1, lastCommitted: 102 });
      story.report("a1", { view: DC1, lastCommitted: 102, epochSeen: 1, ...seen });
      return story.state.durable.grant?.order;
    };
    const joined = ["a1", "a2", "b1"];
    expect(orderAfter({})).toBe("done");
    expect(orderAfter({ view: joined })).toBe("given");
    expect(orderAfter({ view: joined, epochServed: 1 })).toBe("done");
  });
});

describe("a store that cannot be trusted", () => {
  test("re-armed it goes on under the store that the servers are bound to, if they agree on one", () => {
    const rearmed = (stores: readonly (string | null)[]): ArbitratorStory => {
      const story = new ArbitratorStory({ observing: "the store is lost" });
      for (const [index, storeId] of stores.entries())
        story.report(ALL[index] ?? "a1", { storeId, epochSeen: 7 });
      story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
      return story;
    };
    expect(rearmed(["old", null, "old", "old"]).state.durable).toMatchObject({
      storeId: "old",
      epoch: 8,
    });
    expect(rearmed(["old", "older"]).state.durable.storeId).toBe("store-1");
    expect(rearmed([null, null]).state.durable.storeId).toBe("store-1");
  });

  test("re-armed before it heard which store the servers obey, it observes again, and takes that name", () => {
    const story = new ArbitratorStory({ observing: "the store is lost" });
    const rearm = { verb: "resume", parameters: { rearm: true, ...SIGNED } } as const;
    story.person(rearm);
    story.report("a1", { storeId: "old" });
    expect(story.state.observing).toContain("obeys the store old");
    story.person(rearm);
    story.report("a1", { storeId: "old" });
    expect(story.state).toMatchObject({ observing: null, durable: { storeId: "old" } });
    // Where they disagree, no name is right: it goes on under its own.
    story.report("a2", { storeId: "older" });
    expect(story.state.observing).toBeNull();
  });

  test("re-armed before it heard anybody, and again, it knows that it has missed an epoch: the number that they serve under meanwhile hides it", () => {
    const story = new ArbitratorStory({ observing: "the store is lost" });
    const rearm = { verb: "resume", parameters: { rearm: true, ...SIGNED } } as const;
    story.person(rearm);
    const { epoch } = story.state.durable;
    const served = { storeId: "old", epochSeen: epoch, epochServed: epoch };
    story.reports(["a1", "b1", "b2"], served);
    story.report("a2", down(100));
    story.person(rearm);
    expect(story.state.durable.epochs).toMatchObject([
      { epoch, forkPoint: { seqno: -1 } },
      { epoch: epoch + 1, forkPoint: null },
    ]);
    story.reports(["a1", "b1", "b2"], { ...served, view: ["a1", "b1", "b2"] });
    expect(story.report("a2", down(100))?.arbitrator?.start).toBe("reseed");
  });

  test("re-armed on an old copy it forgets what that had noted, and whoever missed an epoch must be reseeded", () => {
    const before = calmArbitrator().state.durable;
    const story = new ArbitratorStory({ durable: before });
    story.reports(DC2, down(241, { epochSeen: 3, epochServed: 3 }));
    expect(story.state.observing).toContain("epoch 3");
    story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
    expect(story.state.durable).toMatchObject({ noted: null, epoch: 3 + EPOCHS_MAX });
    const next = 4 + EPOCHS_MAX;
    story.pass(story.config.outwaitMs + 1);
    // dc1 was in the view that the copy had noted, and lacks what dc2 committed since.
    story.reports(DC1, CUT1);
    expect(story.orders()).toEqual([]);
    story.reports(DC2, down(241, { epochSeen: 3, epochServed: 3 }));
    expect(story.orders()[0]).toMatchObject({ to: "dbserver.3", body: { verb: "bootstrap" } });
    story.report("b1", { view: ["b1"], epochSeen: next, epochServed: next });
    const ack = story.report("a1", down(100, { epochSeen: next }));
    expect(ack?.arbitrator?.start).toBe("reseed");
    story.report("b1", { view: ["a1", "b1"], epochSeen: next, epochServed: next });
    const own = story.report("b2", down(241, { epochSeen: next, epochServed: 3 }));
    expect(own?.arbitrator?.start).toBe("join");
  });

  test("re-armed without hearing all, it takes the newest epoch heard of as one served under", () => {
    const story = new ArbitratorStory({ observing: "the store is lost" });
    story.reports(["a1"], { epochSeen: 3 });
    story.reports(["a2"], down(100, { epochSeen: 3 }));
    story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
    story.reports(["a1"], { view: ["a1", "b1", "b2"], epochSeen: 3 });
    const ack = story.report("a2", down(100, { epochSeen: 3 }));
    expect(ack?.arbitrator).toMatchObject({ start: "reseed", epochs: [{ epoch: 3 }] });
    const all = new ArbitratorStory({ observing: "the store is lost" });
    all.reports(ALL, { epochSeen: 3 });
    all.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
    expect(all.state.durable).toMatchObject({
      epoch: 4,
      epochs: [{ epoch: 4, segment: "dc1", forkPoint: null }],
    });
    // Who is told of that number with a promise serves under it, and nobody else is out of line for that.
    all.report("a1", { epochSeen: 4, epochServed: 4 });
    expect(all.logged()).not.toContain("epoch_recalled");
  });

  test("re-armed it learns of an epoch that nobody had told it of, from whoever served under it", () => {
    const story = new ArbitratorStory({ observing: "the store is lost" });
    story.reports(DC1, {});
    story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
    story.pass(story.config.outwaitMs + 1);
    story.report("b1", { epochSeen: 1, epochServed: 1 });
    expect(story.logged()).toContain("epoch_recalled");
    story.report("a1", { view: ["a1", "b1", "b2"] });
    expect(story.report("a2", down(100))?.arbitrator?.start).toBe("reseed");
    // Nor is that one in line with an epoch granted before it was heard.
    const late = new ArbitratorStory({
      durable: {
        ...calmArbitrator().state.durable,
        epoch: 3,
        epochs: [{ epoch: 3, segment: "dc1", forkPoint: { uuid: STATE_UUID, seqno: 500 } }],
      },
    });
    late.report("a1", { view: DC1, epochSeen: 2, epochServed: 2 });
    const ask = (epochServed: number) =>
      late.report("b1", down(100, { epochSeen: 1, epochServed }))?.arbitrator;
    expect(ask(1)?.start).toBe("reseed");
    late.report("a1", { view: ["a1", "a2", "b1"], epochSeen: 2, epochServed: 2 });
    late.report("a1", { view: DC1, epochSeen: 2, epochServed: 2 });
    expect(ask(0)?.start).toBe("join");
  });

  test("without a memory it notes no view of a server that slept through an epoch that another served under", () => {
    const story = new ArbitratorStory({ observing: "the store is missing" });
    story.reports(DC1, down(241, { epochSeen: 3, epochServed: 3 }));
    story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } });
    story.reports(DC1, down(241, { epochSeen: 3, epochServed: 3 }));
    story.reports(DC2, { fenced: true, probe: "hanging" });
    expect(story.state.durable.noted).toBeNull();
    story.reports(DC2, { view: DC2, epochSeen: 4, epochServed: 4 });
    expect(story.state.durable.noted).toMatchObject({ members: [...DC2], epochServed: 4 });
  });

  test("amnesia: it observes, promises nothing, and grants again only after resume --rearm and an outwait", () => {
    const story = new ArbitratorStory({ observing: "the store is missing" });
    story.reports(DC2, { ...CUT2, epochSeen: 7 });
    expect(story.verdict("dc2")).toMatchObject({
      rule: "store.trusted",
      because: "the store is missing",
    });
    // It says nothing of epochs and starts either: a server takes its word for proof.
    expect(story.report("a1")).toMatchObject({ promise: null, arbitrator: null });
    const plain = story.person({ verb: "resume", parameters: { rearm: false, ...SIGNED } });
    expect(plain).toMatchObject({ outcome: "refused" });
    expect(plain?.because).toContain("--rearm");
    expect(story.person({ verb: "resume", parameters: { rearm: true, ...SIGNED } })?.outcome).toBe(
      "ok",
    );
    expect(story.state.durable.epoch).toBe(7 + EPOCHS_MAX);
    story.reports(DC2, { ...CUT2, epochSeen: 7 });
    expect(story.verdict("dc2").rule).toBe("restart.outwaited");
    expect(story.orders()).toEqual([]);
  });

  test("a suspension acts as a restart: nothing is known, and an outwait passes first", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.give({ on: "suspended", forMs: 60_000 });
    expect(story.state.heard.size).toBe(0);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).toBe("restart.outwaited");
    story.pass(story.config.outwaitMs);
    story.reports(DC2, CUT2);
    expect(story.verdict("dc2").rule).not.toBe("restart.outwaited");
  });

  test("a restart repeats no order and forgets no grant", () => {
    const { story } = ordered();
    const again = new ArbitratorStory({ durable: story.state.durable });
    again.reports(DC1, CUT1);
    expect(again.orders()).toEqual([]);
    expect(again.verdict("dc1").rule).toBe("epoch.free");
  });
});

describe("full outage", () => {
  /** Everybody is down; where each stands. */
  function outage(at: Readonly<Record<string, number | null>>): ArbitratorStory {
    const story = calmArbitrator();
    story.pass(20_000);
    for (const [name, seqno] of Object.entries(at)) story.report(name, down(seqno));
    return story;
  }

  test("the most advanced begins, as a new epoch, and its order names its position", () => {
    const [order] = outage({ a1: 100, a2: 103, b1: 104, b2: 102 }).orders();
    expect(order).toMatchObject({
      to: "dbserver.3",
      body: {
        verb: "bootstrap",
        parameters: { epoch: 1, position: { uuid: STATE_UUID, seqno: 104 } },
      },
    });
  });

  test("the epoch last served under counts before the seqno", () => {
    const story = calmArbitrator({ durable: { epoch: 5 } });
    story.pass(20_000);
    story.reports(["a1", "a2"], down(900, { epochServed: 4 }));
    story.reports(["b1", "b2"], down(200, { epochServed: 5 }));
    expect(story.orders()[0]?.to).toBe("dbserver.3");
  });

  describe("a number that rose with a grant is no row of that epoch", () => {
    const FORK = { uuid: STATE_UUID, seqno: 100 };
    const UNKNOWN = { uuid: "00000000-0000-0000-0000-000000000000", seqno: -1 };
    const certain = { epochServed: 5 };
    const claims = { epochServed: 5, epochBefore: 4 };
    const renamed = { epochServed: 7 };
    const before = { epochServed: 4 };
    /** Where a1, a2 of the epoch's segment and b1, b2 stand, with what they say; who begins, and where. */
    const cases: readonly {
      readonly name: string;
      readonly a1: readonly [number, Partial<Report>];
      readonly a2: readonly [number, Partial<Report>];
      readonly b1: readonly [number, Partial<Report>];
      readonly begins: string;
      readonly fork: number;
      readonly began?: Position;
    }[] = [
      {
        name: "one that saw its epoch's view goes before more commits of a view from before",
        a1: [101, certain],
        a2: [100, before],
        b1: [900, before],
        begins: "a1",
        fork: 101,
      },
      {
        name: "at the fork point it has nothing of the epoch: the seqno decides",
        a1: [100, certain],
        a2: [100, certain],
        b1: [104, before],
        begins: "b1",
        fork: 100,
      },
      {
        name: "beyond it, but in the view from before: the seqno decides",
        a1: [103, claims],
        a2: [102, claims],
        b1: [104, before],
        begins: "b1",
        fork: 100,
      },
      {
        name: "where the claimant has more, it begins, and those who claim the same are in line with it",
        a1: [105, claims],
        a2: [102, claims],
        b1: [104, before],
        begins: "a1",
        fork: 105,
      },
      {
        name: "one that is certain of the epoch makes the claims to it good",
        a1: [103, claims],
        a2: [102, certain],
        b1: [900, before],
        begins: "a1",
        fork: 103,
      },
      {
        name: "an epoch that was renamed is the same one",
        a1: [102, renamed],
        a2: [103, certain],
        b1: [900, before],
        begins: "a2",
        fork: 103,
      },
      {
        name: "where an epoch began that nobody remembers, its number counts",
        a1: [100, certain],
        a2: [100, before],
        b1: [900, before],
        begins: "a1",
        fork: 100,
        began: UNKNOWN,
      },
    ];
    for (const { name, a1, a2, b1, begins, fork, began = FORK } of cases)
      test(name, () => {
        const epochs = [
          { epoch: 5, segment: "dc1", forkPoint: began },
          { epoch: 7, segment: "dc1", forkPoint: null },
        ];
        const story = calmArbitrator({ durable: { epoch: 7, epochs } });
        story.pass(20_000);
        for (const [server, [seqno, says]] of Object.entries({ a1, a2, b1 }))
          story.report(server, down(seqno, says));
        story.report("b2", down(50, before));
        const chosen = story.config.serverByName.get(begins)?.id ?? "none";
        expect(story.orders().map(({ to }) => String(to))).toEqual([chosen]);
        expect(story.state.durable.epochs.at(-1)).toMatchObject({
          epoch: 8,
          forkPoint: { uuid: STATE_UUID, seqno: fork },
        });
      });
  });

  test("ties: safe_to_bootstrap, then the primary segment, then the serial", () => {
    const story = calmArbitrator();
    story.pass(20_000);
    story.reports(["a1", "a2", "b1"], down(100));
    story.report("b2", down(100, { safeToBootstrap: true }));
    expect(story.orders()[0]?.to).toBe("dbserver.4");
    expect(outage({ b2: 100, b1: 100, a2: 100, a1: 100 }).orders()[0]?.to).toBe("dbserver.1");
  });

  test("outage.silent: a server of the noted view that says nothing may know more", () => {
    const story = outage({ a1: 100, a2: 100, b1: 100 });
    expect(story.verdict("dc1")).toMatchObject({ rule: "outage.silent" });
    expect(story.verdict("dc1").because).toContain("b2 may know more");
    story.reports(["a1", "a2", "b1"], down(100));
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    expect(story.orders()).toHaveLength(1);
  });

  test("outage.silent: nor does a retirement speak of what a server did after it", () => {
    const story = calmArbitrator();
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    story.pass(100).report("b2");
    story.pass(20_000);
    story.effects = [];
    story.reports(["a1", "a2", "b1"], down(100));
    expect(story.verdict("dc1").because).toContain("b2 may know more");
    // Nor what it may have done in an earlier life of this process.
    const again = new ArbitratorStory({ durable: story.state.durable });
    again.pass(20_000).reports(["a1", "a2", "b1"], down(100));
    expect(again.verdict("dc1").because).toContain("b2 may know more");
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    again.person({ verb: "make_primary", parameters: force });
    expect(again.orders()).toHaveLength(1);
  });

  describe("outage.silent: nor one that was about to join when it fell silent: it may be in a newer view", () => {
    const lastWords = {
      "it was on its way up": { running: "unknown", primary: "unknown", fenced: true },
      "it was told to join": down(90),
    } as const;
    for (const [name, lastWord] of Object.entries(lastWords))
      test(name, () => {
        const story = calmArbitrator();
        story.report("a2", down(90));
        story.reports(["a1", "b1", "b2"], {
          view: ["a1", "b1", "b2"],
          fingerprint: JOINED,
          lastCommitted: 150,
        });
        expect(story.report("a2", lastWord)?.arbitrator?.start).toBe("join");
        story.pass(20_000);
        story.effects = [];
        story.reports(["a1", "b1", "b2"], down(160));
        expect(story.state.durable.noted?.members).toEqual(["a1", "b1", "b2"]);
        expect(story.verdict("dc1").because).toContain("a2 may know more");
        expect(story.orders()).toEqual([]);
        story.report("a2", down(90));
        expect(story.orders()).toHaveLength(1);
      });

    test("but one that was told nothing stays where it was", () => {
      const story = calmArbitrator();
      story.report("a2", down(90, { position: null }));
      story.reports(["a1", "b1", "b2"], { probe: "hanging" });
      story.pass(20_000);
      story.reports(["a1", "b1", "b2"], {
        view: ["a1", "b1", "b2"],
        fingerprint: JOINED,
        lastCommitted: 150,
      });
      story.pass(20_000);
      story.effects = [];
      story.reports(["a1", "b1", "b2"], down(160, { lastMembers: ["a1", "b1", "b2"] }));
      expect(story.orders()).toHaveLength(1);
    });
  });

  describe("outage.silent: nor one that was in a view newer than the noted one, as the others tell", () => {
    const unnoted = (epoch = 0) => {
      const story = calmArbitrator({ durable: { epoch } });
      const view = ["a1", "b1"];
      story.report("a2", down(90));
      story.report("b2", down(90));
      const served = { epochSeen: epoch, epochServed: epoch };
      story.reports(view, { view, lastCommitted: 150, ...served });
      // So long that nobody who was told to join then is still on the way.
      story.pass(6_000).reports(["a2", "b2"], down(90, { diverged: true, position: null }));
      story.pass(20_000);
      expect(story.state.durable.noted?.members).toEqual(view);
      story.effects = [];
      return story;
    };
    const begins = (story: ArbitratorStory) => story.orders().map(({ to }) => String(to));

    test("they were with nobody else: the most advanced of them begins", () => {
      const story = unnoted();
      story.reports(["a1", "b1"], down(160, { lastMembers: ["a1", "b1"] }));
      expect(begins(story)).toEqual(["dbserver.1"]);
    });

    test("one after the other names whom it was with, until all are heard", () => {
      const story = unnoted();
      story.report("a1", down(160, { lastMembers: ["a1", "b1", "b2"] }));
      story.report("b1", down(160, { lastMembers: ["a1", "b1"] }));
      expect(story.verdict("dc1").because).toContain("and b2 may know more");
      story.report("b2", down(170, { lastMembers: ["a2", "b2"] }));
      expect(story.verdict("dc1").because).toContain("and a2 may know more");
      expect(begins(story)).toEqual([]);
      story.report("a2", down(180, { lastMembers: ["a2"] }));
      expect(begins(story)).toEqual(["dbserver.2"]);
    });

    for (const [name, changes] of [
      ["whose watchdog has lost its file", { lastMembers: [] }],
      ["whose watchdog is of before there was such a word", { lastMembers: undefined }],
    ] as const)
      test(`one ${name} may have been with anybody`, () => {
        const story = unnoted();
        story.report("a1", down(160, { lastMembers: ["a1", "b1"] }));
        story.report("b1", { ...down(160), ...(changes as Partial<Report>) });
        expect(story.verdict("dc1").because).toContain("and a2, b2 may know more");
        expect(begins(story)).toEqual([]);
      });

    test("so may one that is retired and silent, but not with others that are", () => {
      const story = unnoted();
      story.person({ verb: "retire", parameters: { node: "b1", ...SIGNED } });
      story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
      story.report("a1", down(160, { lastMembers: ["a1", "b1"] }));
      expect(story.verdict("dc1").because).toContain("and a2 may know more");
      story.report("a2", down(90, { lastMembers: ["a2"] }));
      expect(begins(story)).toEqual(["dbserver.1"]);
    });

    describe("one that has no rows", () => {
      test("is waited for, until it is retired, where its last view may have been a newer one", () => {
        const story = unnoted();
        story.reports(["a1", "b1"], down(160, { lastMembers: ["a1", "b1", "b2"] }));
        story.report("b2", down(null, { lastMembers: ["a1", "b1", "b2"] }));
        expect(story.verdict("dc1").because).toBe("no position can be read of b2");
        expect(begins(story)).toEqual([]);
        story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
        expect(begins(story)).toEqual(["dbserver.1"]);
      });

      test("holds nobody up where it has not served under the noted view's epoch", () => {
        const story = unnoted(1);
        const seen = { epochSeen: 1, epochServed: 1, lastMembers: ["a1", "b1", "b2"] };
        story.reports(["a1", "b1"], down(160, seen));
        story.report("b2", down(null, { epochSeen: 1, lastMembers: ["b2"] }));
        expect(begins(story)).toEqual(["dbserver.1"]);
      });
    });

    test("outage.behind: and to retire it is no consent to lose its rows", () => {
      const story = unnoted();
      story.reports(["a1", "b1"], down(160, { lastMembers: ["a1", "b1", "b2"] }));
      story.report("a2", down(90, { lastMembers: ["a2"] }));
      story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
      expect(story.verdict("dc1")).toMatchObject({
        rule: "outage.behind",
        because:
          "a1 stands at 160 of epoch 0, a view newer than the noted one had more members: b2, retired, may have rows that it lacks",
      });
      expect(begins(story)).toEqual([]);
      // Its data are gone, but it was nowhere without the one that begins.
      story.report("b2", down(null, { lastMembers: ["a1", "b1", "b2"] }));
      expect(begins(story)).toEqual(["dbserver.1"]);
    });
  });

  test("outage.behind: to retire who may have the rows of the noted view is no consent to lose them", () => {
    const story = calmArbitrator();
    story.reports(ALL, { fingerprint: JOINED, lastCommitted: 150 });
    story.pass(20_000);
    story.effects = [];
    story.reports(["a1", "a2", "b1"], down(149));
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    expect(story.orders()).toEqual([]);
    expect(story.verdict("dc1")).toMatchObject({
      rule: "outage.behind",
      because:
        "a1 stands at 149 of epoch 0, the noted view began at 150 of epoch 0: b2, retired, may have rows that it lacks",
    });
    story.report("a2", down(150));
    expect(story.orders()[0]?.to).toBe("dbserver.2");
    // One that has the number of an older epoch only has not the rows of the view, however far it is.
    const epoch = calmArbitrator({ durable: { epoch: 1 } });
    epoch.reports(ALL, { fingerprint: JOINED, lastCommitted: 150, epochSeen: 1, epochServed: 1 });
    epoch.pass(20_000);
    epoch.effects = [];
    epoch.reports(["a1", "a2", "b1"], down(240, { epochSeen: 1 }));
    epoch.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    expect(epoch.verdict("dc1").rule).toBe("outage.behind");
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    epoch.person({ verb: "make_primary", parameters: force });
    expect(epoch.orders()).toHaveLength(1);
  });

  test("outage.behind: nor does anybody outside the noted view begin when all of it are retired", () => {
    const story = calmArbitrator();
    story.reports(ALL, { fingerprint: JOINED, lastCommitted: 150 });
    story.reports(DC2, { view: DC2, lastCommitted: 160 });
    story.pass(20_000);
    story.effects = [];
    story.reports(DC1, down(170));
    story.reports(DC2, down(-1));
    expect(story.verdict("dc1").rule).toBe("outage.position");
    for (const node of DC2) story.person({ verb: "retire", parameters: { node, ...SIGNED } });
    expect(story.orders()).toEqual([]);
    expect(story.verdict("dc1")).toMatchObject({
      rule: "outage.behind",
      because:
        "a1 stands at 170 of epoch 0, the noted view, which it was not in, began at 160 of epoch 0: b1, b2, retired, may have rows that it lacks",
    });
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    story.person({ verb: "make_primary", parameters: force });
    expect(story.orders()).toHaveLength(1);
  });

  test("outage.behind: nor what was acknowledged under the epoch that they were granted, unseen", () => {
    const { story } = ordered();
    story.pass(20_000);
    story.effects = [];
    story.reports(DC1, down(170));
    for (const node of DC2) story.person({ verb: "retire", parameters: { node, ...SIGNED } });
    expect(story.orders()).toEqual([]);
    expect(story.verdict("dc1")).toMatchObject({
      rule: "outage.behind",
      because:
        "a1 stands at 170 of epoch 0, epoch 1 was granted to dc2: b1, b2, retired, may have rows that it lacks",
    });
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    story.person({ verb: "make_primary", parameters: force });
    expect(story.orders()).toHaveLength(1);
  });

  test("outage.behind: one that still runs, alone, begins on that word too", () => {
    const story = calmArbitrator();
    story.pass(20_000);
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    story.reports(["a2", "b1"], down(90));
    story.report("b2", down(null));
    story.report("a1", { view: ["a1"], primary: "no", lastCommitted: 99 });
    expect(story.verdict("dc1").rule).toBe("outage.behind");
    const force = { segment: "dc1", allowDataLoss: true, ...LOSS, ...SIGNED };
    expect(story.person({ verb: "make_primary", parameters: force })?.outcome).toBe("ok");
    expect(story.order().to).toBe("dbserver.1");
  });

  test("candidate.exists says what to do where the newer epoch's rows are lost, and an older joint view stands", () => {
    const { story } = ordered();
    story.reports(DC2, { view: DC2, lastCommitted: 160, epochSeen: 1, epochServed: 1 });
    story.reports(DC2, down(-1, { epochSeen: 1, epochServed: 1 }));
    story.reports(DC1, { view: ["a1", "a2", "b1"], epochSeen: 1 });
    expect(story.verdict("dc1")).toMatchObject({
      rule: "candidate.exists",
      because:
        "dc1 is in a joint view older than epoch 1, which b1, b2 served under; if those have lost their rows, retire them, stop who is in this view, and force one side",
    });
  });

  test("outage.silent: one that is retired while it serves may do so for as long as it has been promised to", () => {
    const story = calmArbitrator();
    story.pass(2_500);
    story.reports(["a1", "a2", "b1"], down(100));
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    expect(story.verdict("dc1").rule).toBe("outage.silent");
    expect(story.orders()).toEqual([]);
    story.pass(story.config.outwaitMs);
    story.reports(["a1", "a2", "b1"], down(100));
    expect(story.orders()).toHaveLength(1);
  });

  test("what is written restarts the outwait of the promises that waited for it, and of no others", () => {
    const story = calmArbitrator();
    const promised = story.state.promisedAt.get("dbserver.4") ?? 0;
    story.now += 1_000;
    story.autoWrite = false;
    story.reports(["a1", "b1"], { fingerprint: JOINED, lastCommitted: 150 });
    story.now += 300;
    story.written();
    expect(story.state.promisedAt.get("dbserver.3")).toBe(story.now);
    expect(story.state.promisedAt.get("dbserver.4")).toBe(promised);
  });

  test("a reseed names whose rows are in line: Primary, Synced, and beyond no fork point", () => {
    const epochs = [{ epoch: 5, segment: "dc1", forkPoint: { uuid: STATE_UUID, seqno: 100 } }];
    const story = calmArbitrator({ durable: { epoch: 5, epochs } });
    const stood = { uuid: STATE_UUID, seqno: 100 };
    const view = ["a1", "b1", "b2"];
    story.report("a1", { view, epochSeen: 5, stood });
    story.report("b1", { view, epochSeen: 5, stood: { ...stood, seqno: 101 } });
    story.report("b2", { view, localState: "Joined" });
    const ack = story.report("a2", down(101));
    expect(ack?.arbitrator).toMatchObject({ start: "reseed", donors: ["dbserver.1"] });
    expect(story.report("a2", down(100))?.arbitrator?.donors).toBeUndefined();
  });

  test("outage.position: a server that cannot say where it stands holds everything up", () => {
    const story = outage({ a1: 100, a2: 100, b1: 100, b2: null });
    expect(story.verdict("dc2")).toMatchObject({
      rule: "outage.position",
      because: "no position can be read of b2",
    });
    story.report("b2", down(100));
    expect(story.orders()).toHaveLength(1);
  });

  test("outage.lineage: positions of two clusters are not compared", () => {
    const story = outage({ a1: 100, a2: 100, b1: 100 });
    const foreign = { uuid: "99999999-2222-3333-4444-555555555555", seqno: 900 };
    story.report("b2", down(0, { position: foreign }));
    expect(story.verdict("dc1").rule).toBe("outage.lineage");
    story.report("b2", down(100));
    expect(story.orders()).toHaveLength(1);
  });

  test("a retired server that says where it stands, and is ahead, begins; one that is as far as others does not", () => {
    const retired = (seqno: number) => {
      const story = calmArbitrator();
      story.person({ verb: "retire", parameters: { node: "a1", ...SIGNED } });
      story.pass(20_000);
      story.effects = [];
      story.report("a1", down(seqno));
      story.reports(["a2", "b1", "b2"], down(100));
      return story.orders()[0]?.to;
    };
    expect(retired(101)).toBe("dbserver.1");
    expect(retired(100)).toBe("dbserver.2");
  });

  test("outage.reading: nobody begins, retired or not, before positions that are being read have been read", () => {
    const story = calmArbitrator();
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    story.pass(20_000);
    story.effects = [];
    story.report("b2", down(null, { reading: true }));
    story.reports(["a1", "a2", "b1"], down(100));
    expect(story.orders()).toEqual([]);
    expect(story.verdict("dc1")).toMatchObject({
      rule: "outage.reading",
      because: "positions are being read: b2",
    });
    story.report("b2", down(null));
    expect(story.orders()).toHaveLength(1);
  });

  test("who is on the way up to join, and was not in the noted view, holds up nobody, unless it may be Primary", () => {
    const outage = (changes: Partial<Report>) => {
      const story = calmArbitrator();
      story.reports(["a1", "b1"], { view: ["a1", "b1"], lastCommitted: 150 });
      story.pass(20_000);
      const starting = { running: "unknown", primary: "unknown", localState: "no answer" } as const;
      story.report("b2", { ...down(null), ...starting, ...changes });
      const lastMembers = ["a1", "b1"];
      story.report("a2", down(90, { lastMembers }));
      story.report("b1", down(150, { lastMembers }));
      story.report("a1", { view: ["a1"], primary: "no", lastCommitted: 151, lastMembers });
      return story;
    };
    const { to, order } = outage({}).order();
    expect({ to, seqno: order.forkPoint?.seqno }).toEqual({ to: "dbserver.1", seqno: 151 });
    expect(outage({ adopted: true }).orders()).toEqual([]);
    expect(outage({ fenced: false }).orders()).toEqual([]);
  });

  test("outage.position is what is told of a segment that lacks a majority because nobody can begin", () => {
    const story = outage({ a2: 100, b2: null });
    story.reports(["a1", "b1"], { view: ["a1", "b1"], primary: "no" });
    expect(story.verdict("dc1").rule).toBe("outage.position");
    expect(story.verdict("dc2").because).toBe("no position can be read of b2");
    story.person({ verb: "retire", parameters: { node: "b2", ...SIGNED } });
    expect(story.orders()).toHaveLength(1);
  });

  test("nobody begins while anybody is up, paused, or the outwait is not over", () => {
    const running = calmArbitrator();
    running.reports(["a1", "a2", "b1"], down(100));
    expect(running.orders()).toEqual([]);
    const paused = calmArbitrator();
    paused.person({ verb: "pause", parameters: SIGNED });
    paused.pass(20_000);
    paused.reports(ALL, down(100));
    expect(paused.orders()).toEqual([]);
    const fresh = new ArbitratorStory({ armed: false });
    fresh.reports(ALL, down(100));
    expect(fresh.orders()).toEqual([]);
  });

  test("an accepted bootstrap is not given again while the server starts", () => {
    const story = outage({ a1: 100, a2: 100, b1: 100, b2: 100 });
    const [sent] = story.orders();
    if (sent === undefined) throw new Error("no order");
    story.answered(sent, "ok", "starting");
    story.reports(ALL, down(100, { epochSeen: 1 }));
    story.pass(1_000);
    story.reports(ALL, down(100, { epochSeen: 1 }));
    expect(story.orders()).toEqual([]);
    story.report("a1", { view: ["a1"], lastCommitted: 101, epochSeen: 1, epochServed: 1 });
    expect(story.state.durable.grant).toMatchObject({ kind: "bootstrap", order: "done" });
  });

  test("stopped servers join once somebody is Primary, and are reseeded beyond a fork point or without proof", () => {
    const story = calmArbitrator({
      durable: {
        epoch: 5,
        epochs: [{ epoch: 5, segment: "dc2", forkPoint: { uuid: STATE_UUID, seqno: 100 } }],
      },
    });
    const start = (seqno: number | null, changes = {}) =>
      story.report("a1", down(seqno, changes))?.arbitrator?.start;
    // Still in the view that it was in: a promotion may follow, whose fork point nobody knows yet.
    expect(start(100)).toBe("wait");
    story.report("b1", { view: ["a2", "b1", "b2"], epochServed: 5 });
    expect(start(100)).toBe("join");
    expect(start(101)).toBe("reseed");
    expect(start(101, { epochServed: 5 })).toBe("join");
    expect(start(null)).toBe("reseed");
    expect(start(100, { diverged: true })).toBe("reseed");
    story.pass(10_000);
    expect(start(100)).toBe("wait");
  });

  test("a stopped server with rows of an epoch joins no Primary of an older lineage, but one that the epoch was granted with", () => {
    const forkPoint = { uuid: STATE_UUID, seqno: 100 };
    const start = (
      held: boolean,
      options: {
        readonly at?: number;
        readonly says?: Partial<Report>;
        readonly served?: number;
      } = {},
    ) => {
      const { at = 101, says = { epochServed: 5 }, served = 0 } = options;
      const grant: Grant = {
        epoch: 5,
        segment: "dc2",
        kind: "form",
        target: "dbserver.3",
        expectedFingerprint: printOf(DC2, false),
        forkPoint,
        basis: "outwaited",
        order: "done",
        changesSegment: true,
      };
      const story = calmArbitrator({
        durable: {
          epoch: 5,
          epochs: [{ epoch: 5, segment: "dc2", forkPoint }],
          ...(held ? { grant } : {}),
        },
      });
      story.report("b1", down(at, says));
      if (held) story.report("b2", { view: ["b2"], epochServed: served });
      else story.reports(DC1, { view: DC1, epochServed: served });
      return story.report("b1", down(at, says))?.arbitrator?.start;
    };
    expect(start(false)).toBe("wait");
    expect(start(false, { served: 5 })).toBe("join");
    // At its fork point it has nothing of the epoch, and a claim alone is none.
    expect(start(false, { at: 100 })).toBe("join");
    expect(start(false, { says: { epochServed: 5, epochBefore: 0 } })).toBe("join");
    expect(start(true)).toBe("join");
  });

  test("while two Primaries without a common member are reported nobody starts, and then again", () => {
    const story = calmArbitrator();
    const start = () => story.report("a2", down(100))?.arbitrator?.start;
    story.report("a1", { view: ["a1"] });
    story.reports(DC2, { view: DC2 });
    expect(start()).toBe("wait");
    // Reports of one view and of the next have members in common.
    story.report("a1", { view: ["a1", "b1"] });
    expect(start()).toBe("join");
    story.report("a1", { view: ["a1"] });
    expect(start()).toBe("wait");
    story.report("a1", down(100));
    expect(start()).toBe("join");
  });

  test("servers join one after another: the next when the first is a member, or has had its time", () => {
    const story = calmArbitrator();
    const alone = (view: readonly string[]) => story.reports(DC2, { view: [...view] });
    const start = (from: string) => story.report(from, down(100))?.arbitrator?.start;
    alone(["b1", "b2"]);
    expect(start("a1")).toBe("join");
    expect(start("a2")).toBe("wait");
    expect(start("a1")).toBe("join");
    story.effects = [];
    const asked = () =>
      story.effects.flatMap((effect) =>
        effect.do === "send" && effect.body.verb === "request_status" ? [effect.to] : [],
      );
    story.report("b1", { view: ["b1", "b2"] });
    expect(asked()).toEqual([]);
    story.report("b1", { view: ["a1", "b1", "b2"] });
    // Not at its next report: it is asked now, and told with the ack of what it then says.
    expect(asked()).toEqual(["dbserver.2"]);
    alone(["a1", "b1", "b2"]);
    expect(start("a2")).toBe("join");
    // It does not come up: the first one, stopped again, waits no longer than that.
    expect(start("a1")).toBe("wait");
    story.pass(5_000);
    alone(["b1", "b2"]);
    expect(start("a1")).toBe("join");
  });

  test("servers join in turn: those who are told in vain come after those who wait", () => {
    const config = coreCluster({ segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1"] } });
    const story = calmArbitrator({ config });
    const told: string[] = [];
    for (let round = 0; round < 40; round++) {
      story.pass(1_000);
      story.report("b1", { view: ["b1"] });
      // The third one's word always comes last.
      for (const name of ["a1", "a2", "a3"])
        if (story.report(name, down(100))?.arbitrator?.start === "join" && told.at(-1) !== name)
          told.push(name);
    }
    expect(told.slice(0, 6)).toEqual(["a1", "a2", "a3", "a1", "a2", "a3"]);
  });
});

describe("people", () => {
  const refused: readonly [string, BodyOf<"command>arbitrator">, string][] = [
    [
      "an unknown server",
      { verb: "drain", parameters: { node: "c9", ...SIGNED } },
      "no server or segment is called c9: there are a1, a2, b1, b2",
    ],
    [
      "an unknown segment",
      { verb: "make_primary", parameters: { segment: "dc9", allowDataLoss: false, ...SIGNED } },
      "no segment is called dc9: there are dc1, dc2",
    ],
    [
      "a promotion in calm",
      {
        verb: "make_primary",
        parameters: { segment: "dc2", allowDataLoss: true, ...LOSS, ...SIGNED },
      },
      "candidate.exists: dc2 is in a joint view; say switchover dc2 to move the writers there",
    ],
  ];
  for (const [what, body, because] of refused) {
    test(`${what} is refused with words`, () => {
      expect(calmArbitrator().person(body)).toMatchObject({ outcome: "refused", because });
    });
  }

  test("of two people at once the second is refused with the first one's name", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC2, {
      ...CUT2,
      lastPrimary: { fingerprint: printOf(ALL, true), synced: false },
    });
    const force = (segment: string, who: string) =>
      story.person({
        verb: "make_primary",
        parameters: { segment, allowDataLoss: true, ...LOSS, who, why: "" },
      });
    expect(force("dc2", "eve")?.outcome).toBe("ok");
    expect(force("dc1", "bob")).toMatchObject({
      outcome: "refused",
      because: "eve is making dc2 primary",
    });
  });

  test("drain takes a server, an id or a segment, tells the servers, and is safe to repeat", () => {
    const story = calmArbitrator();
    for (const node of ["a1", "dbserver.1", "dc1", "dc1"]) {
      expect(story.person({ verb: "drain", parameters: { node, ...SIGNED } })?.outcome).toBe("ok");
    }
    expect(story.state.durable.draining).toEqual(["dbserver.1", "dbserver.2"]);
    expect(story.report("a2")?.arbitrator?.draining).toBe(true);
    story.person({ verb: "undrain", parameters: { node: "a2", ...SIGNED } });
    expect(story.state.durable.draining).toEqual(["dbserver.1"]);
  });

  test("the answer to a person waits for the disk, and says so where the disk refuses", () => {
    const story = calmArbitrator();
    story.autoWrite = false;
    expect(story.person({ verb: "pause", parameters: SIGNED })).toBeUndefined();
    const ticket = story.lastTicket;
    story.written("disk full");
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "failed",
      because: "the arbitrator's store cannot be written",
    });
  });

  test("status_summary is answered at once, from what is known", () => {
    const story = calmArbitrator();
    story.autoWrite = false;
    story.effects = [];
    story.person({ verb: "status_summary", parameters: {} });
    const reply = story.effects.find((effect) => effect.do === "reply");
    expect(reply).toMatchObject({
      body: { verb: "status_summary", parameters: { health: "healthy", primarySegment: "dc1" } },
    });
  });

  test("status_summary tells no age beyond the day that the wire allows", () => {
    const story = calmArbitrator();
    story.now += 2 * 86_400_000;
    story.person({ verb: "status_summary", parameters: {} });
    const reply = story.effects.findLast((effect) => effect.do === "reply");
    expect(reply).toMatchObject({
      body: {
        parameters: { health: "cannot_tell", servers: [{ heardAgoMs: 86_400_000 }, {}, {}, {}] },
      },
    });
  });
});
