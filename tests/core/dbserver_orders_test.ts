import { describe, expect, test } from "bun:test";
import {
  MAKE_PRIMARY_CHECKS,
  ORDER_CHECKS,
  RESEED_CHECKS,
  START_CHECKS,
} from "../../lib/core/dbserver_orders.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import {
  ALL,
  ARBITRATOR,
  coreCluster,
  DC1,
  DC2,
  membersOf,
  printOf,
  reportOf,
  ServerStory,
  STATE_UUID,
  servingServer,
  statusOf,
} from "../support/cores.ts";

/** b1 served in the complete view; now dc2 is cut off, fenced and non-Primary. */
function cutOff(durable = {}): ServerStory {
  const story = servingServer("b1", { durable });
  story.polled(statusOf(DC2, { primary: false }));
  story.effects = [];
  return story;
}

/** a1 is stopped at 100. */
function stopped(durable = {}): ServerStory {
  const story = new ServerStory("a1", { durable });
  story.stops();
  story.position(100);
  story.effects = [];
  return story;
}

test("every check of every table has its own id", () => {
  const checks = [...ORDER_CHECKS, ...MAKE_PRIMARY_CHECKS, ...START_CHECKS, ...RESEED_CHECKS];
  const ids = checks.map((check) => check.id);
  expect(new Set(ids).size).toBe(ids.length);
});

describe("checks of every order", () => {
  test("store.bound passes the first store, and refuses any other from then on", () => {
    expect(cutOff({ storeId: "store-2" }).order()).toMatchObject({
      outcome: "refused",
      because: "store.bound: this server obeys the arbitrator's store store-2, not store-1",
    });
    const story = cutOff();
    story.order();
    expect(story.state.durable.storeId).toBe("store-1");
    expect(story.has("form_primary")).toBe(true);
  });

  test("epoch.newer refuses an epoch below one that the server has heard of", () => {
    const story = cutOff({ epochSeen: 5 });
    expect(story.order({ epoch: 4 })).toMatchObject({
      outcome: "refused",
      because: "epoch.newer: epoch 4 is not newer than 5",
    });
    expect(cutOff({ epochSeen: 5 }).order({ epoch: 6 })).toBeUndefined();
  });

  test("epoch.newer: an order that an earlier life obeyed is not refused, which would make it void, but failed", () => {
    const story = cutOff({ epochSeen: 5, epochObeyed: 5 });
    expect(story.order({ epoch: 5 })).toMatchObject({ outcome: "failed" });
    expect(story.has("form_primary")).toBe(false);
  });

  test("report.young refuses an order decided on a report that is too old by this server's own clock", () => {
    const story = cutOff();
    const reportNumber = story.state.reportNumber;
    story.pass(story.config.timing.orderMaxAgeMs + 600);
    story.polled(statusOf(DC2, { primary: false }));
    expect(story.order({ reportNumber })?.because).toStartWith("report.young: report ");
    expect(story.has("form_primary")).toBe(false);
  });

  test("report.young refuses a number that was never sent, and passes one that is just young enough", () => {
    expect(cutOff().order({ reportNumber: 999 })?.because).toBe(
      "report.young: report 999 is not a recent one of this server",
    );
    const story = cutOff();
    const reportNumber = story.state.reportNumber;
    story.now += story.config.timing.orderMaxAgeMs;
    story.order({ reportNumber });
    expect(story.has("form_primary")).toBe(true);
  });

  test("report.young refuses everything from before a suspension", () => {
    const story = cutOff();
    const reportNumber = story.state.reportNumber;
    story.give({ on: "suspended", forMs: 60_000 });
    expect(story.order({ reportNumber })?.because).toStartWith("report.young: ");
  });

  test("no.other refuses a second order while one is being carried out, and passes it afterwards", () => {
    const story = cutOff();
    expect(story.order({ epoch: 1 })).toBeUndefined();
    expect(story.order({ epoch: 2 })).toMatchObject({
      outcome: "refused",
      because: "no.other: epoch 1 is being carried out",
    });
  });

  test("an order whose epoch cannot be written in time is given up, so that a later one may try", () => {
    const story = cutOff();
    story.autoPersist = false;
    expect(story.order({ epoch: 1 })).toBeUndefined();
    const ticket = story.lastTicket;
    story.end("persist", "disk full");
    story.pass(story.config.timing.orderMaxAgeMs + 10);
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "refused",
      because: "its epoch could not be written in time",
    });
    expect(story.order({ epoch: 2 })?.because ?? "").not.toContain("no.other");
  });

  test("not.leaving refuses while the server is being stopped, and passes otherwise", () => {
    const story = cutOff();
    story.state = { ...story.state, leaving: true };
    expect(story.order()?.because).toBe("not.leaving: this server is being stopped");
    story.state = { ...story.state, leaving: false };
    expect(story.order()).toBeUndefined();
  });
});

describe("checks of make_primary", () => {
  test("vouch.outwaited refuses until the outwait after the last vouch, unless the order rests on the arithmetic", () => {
    const story = servingServer("b1");
    story.pass(story.config.outwaitMs);
    story.polled(statusOf(ALL));
    story.leased();
    story.probed();
    const peer = servingServer("a1");
    const vouch = story.hears("dbserver.1", {
      verb: "db_status_report",
      parameters: { ...peer.lastReport },
    });
    expect(vouch?.promise).not.toBeNull();
    const vouchedAt = story.now;
    story.polled(statusOf(DC2, { primary: false }));
    story.effects = [];
    story.now = vouchedAt + story.config.outwaitMs - 1;
    story.polled(statusOf(DC2, { primary: false }));
    story.pass(0);
    story.state = { ...story.state, sent: [{ number: 900, at: story.now }] };
    expect(story.order({ basis: "outwaited", reportNumber: 900 })).toMatchObject({
      outcome: "refused",
      because: "vouch.outwaited: this server has vouched for others: 1 ms are left",
    });
    story.now = vouchedAt + story.config.outwaitMs;
    expect(story.order({ basis: "outwaited", reportNumber: 900 })).toBeUndefined();
    expect(story.has("form_primary")).toBe(true);
  });

  test("vouch.outwaited binds a watchdog from its own start, since it may have vouched in an earlier life", () => {
    const story = cutOff();
    expect(story.order({ basis: "confirmed" })?.because).toStartWith("vouch.outwaited: ");
    expect(story.order({ basis: "arithmetic" })).toBeUndefined();
  });

  test("arithmetic.straight refuses a server that did not come straight from the noted view", () => {
    const notedView = printOf(["a1", "b1", "b2"], true);
    expect(cutOff().order({ notedView })?.because).toBe(
      "arithmetic.straight: this server did not come straight from the noted view",
    );
    expect(cutOff().order({ notedView: printOf(ALL, true) })).toBeUndefined();
  });

  test("view.expected refuses where the view has changed, is Primary, or is none", () => {
    const changed = servingServer("b1");
    changed.polled(statusOf(["b1"], { primary: false }));
    expect(changed.order()?.because).toBe(
      `view.expected: the view has changed to ${printOf(["b1"], false)}`,
    );
    expect(servingServer("b1").order()?.because).toBe("view.expected: this server is Primary");
    const silent = new ServerStory("b1");
    silent.runs();
    expect(silent.order({ basis: "arithmetic", notedView: null })?.because).toMatch(
      /arithmetic\.straight|view\.expected/,
    );
    expect(cutOff().order()).toBeUndefined();
  });
});

describe("checks of start and bootstrap", () => {
  test("process.stopped refuses while mariadbd runs or is being started", () => {
    expect(servingServer("a1").startOrder("bootstrap")?.because).toBe(
      "process.stopped: mariadbd is not stopped",
    );
    const story = stopped();
    expect(story.startOrder("bootstrap")?.outcome).toBe("ok");
    expect(story.asked()).toEqual(["persist", "start"]);
  });

  test("position.same refuses where the data stand elsewhere than when it was decided", () => {
    expect(
      stopped().startOrder("bootstrap", { position: { uuid: STATE_UUID, seqno: 99 } }),
    ).toMatchObject({
      outcome: "refused",
      because: `position.same: the position is ${STATE_UUID}:100`,
    });
    expect(stopped().startOrder("start", { position: null })?.outcome).toBe("ok");
  });

  test("a bootstrap is started only when its epoch is on disk", () => {
    const story = stopped();
    story.autoPersist = false;
    expect(story.startOrder("bootstrap")).toBeUndefined();
    expect(story.asked()).toEqual(["persist"]);
    story.effects = [{ do: "persist", durable: story.state.durable }];
    story.end("persist");
    expect(story.effects).toContainEqual({
      do: "start",
      mode: "bootstrap",
      position: { uuid: STATE_UUID, seqno: 100 },
      donor: null,
    });
    expect(story.state.grantEpoch).toBe(1);
  });

  test("a bootstrap makes its rows the base, though an earlier epoch had found them beyond its fork point", () => {
    const story = stopped();
    story.state = { ...story.state, diverged: true };
    expect(story.startOrder("bootstrap")?.outcome).toBe("ok");
    story.runs(101);
    story.polled(statusOf(["a1"], { lastCommitted: 101, rejecting: true }));
    expect(story.lastReport.diverged).toBe(false);
    expect(story.has("stop")).toBe(false);
  });

  test("a bootstrap whose epoch reaches the disk too late is refused, and counts as not served", () => {
    const story = stopped();
    story.autoPersist = false;
    story.startOrder("bootstrap");
    const ticket = story.lastTicket;
    story.end("persist", "disk full");
    story.pass(story.config.timing.orderMaxAgeMs + 1_000);
    story.end("persist");
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "refused" });
    expect(story.has("start")).toBe(false);
    expect(story.state.durable.epochServed).toBe(0);
  });

  test("evict is refused where the config has it off", () => {
    const story = cutOff();
    const ack = story.hears(ARBITRATOR, {
      verb: "evict",
      parameters: {
        epoch: 1,
        storeId: "store-1",
        reportNumber: story.state.reportNumber,
        because: "",
        uuids: [STATE_UUID],
        expectedFingerprint: "",
        grant: null,
      },
    });
    expect(ack?.because).toBe("evict.on: evict is off in the config");
  });
});

describe("reseed", () => {
  function hearPeer(story: ServerStory, name: string, changes: Partial<Report> = {}): void {
    const parameters = { ...reportOf(story.config, name), ...changes };
    const from = story.config.serverByName.get(name)?.id ?? "dbserver.0";
    story.hears(from, { verb: "db_status_report", parameters });
  }

  /** Its peers serve. */
  function among(story: ServerStory): ServerStory {
    for (const name of ALL) if (name !== story.self.name) hearPeer(story, name);
    return story;
  }

  test("a server that runs says that it leaves, stops, and takes all data of one that serves", () => {
    const story = among(servingServer("a1"));
    const ack = story.startOrder("reseed", { epoch: 0, position: null, because: "eve: bad disk" });
    expect(ack).toMatchObject({ outcome: "ok", because: "stopping first" });
    story.pass(1);
    expect(story.has("stop")).toBe(true);
    expect(story.lastReport).toMatchObject({ leaving: true, diverged: true });
    expect(story.has("fence")).toBe(true);
    story.stops("stopped");
    story.position(100);
    expect(story.lastReport.because).toContain("is to take a full state transfer: eve: bad disk");
    expect(story.has("start")).toBe(false);
    for (const name of ["a2", "b1", "b2"]) hearPeer(story, name);
    story.leased({ promise: null, arbitrator: { start: "reseed" } });
    story.pass(600);
    expect(story.effects.findLast((one) => one.do === "start")).toMatchObject({ mode: "reseed" });
    expect(story.state).toMatchObject({ diverged: false, reseedFor: null });
  });

  test("one that was given up after failed starts is tried again, with new data", () => {
    const story = among(stopped());
    story.state = { ...story.state, failedStarts: 3 };
    expect(story.startOrder("reseed")?.because).toBe("its data will be set aside");
    expect(story.state.failedStarts).toBe(0);
    story.leased({ promise: null, arbitrator: { start: "reseed" } });
    story.pass(600);
    expect(story.effects.findLast((one) => one.do === "start")).toMatchObject({ mode: "reseed" });
  });

  test("opens no epoch: one that was obeyed already is no obstacle, an older one is", () => {
    const durable = { epochSeen: 5, epochObeyed: 5 };
    expect(among(stopped(durable)).startOrder("reseed", { epoch: 5 })?.outcome).toBe("ok");
    expect(among(stopped(durable)).startOrder("reseed", { epoch: 4 })).toMatchObject({
      outcome: "refused",
      because: "epoch.newer: epoch 4 is not newer than 5",
    });
  });

  test("reseed.donor refuses where nobody else serves: it may be the last good copy", () => {
    const story = stopped();
    for (const name of ["a2", "b1", "b2"]) hearPeer(story, name, { serving: "off", fenced: true });
    expect(story.startOrder("reseed")?.because).toStartWith("reseed.donor: no other server serves");
    expect(stopped().startOrder("reseed")?.because).toStartWith("reseed.donor: ");
  });

  test("reseed.remainder refuses where the others would not serve on without it", () => {
    const story = servingServer("a1");
    const few = ["a1", "b1"];
    story.polled(statusOf(few));
    hearPeer(story, "b1", { members: membersOf(few) });
    expect(story.startOrder("reseed", { epoch: 0, position: null })?.because).toBe(
      "reseed.remainder: the others would not serve on without this server",
    );
    expect(story.has("stop")).toBe(false);
  });

  test("reseed.idle refuses while mariadbd is being started or stopped", () => {
    const story = among(stopped());
    expect(story.startOrder("start")?.outcome).toBe("ok");
    expect(story.startOrder("reseed", { epoch: 2 })?.because).toBe(
      "reseed.idle: mariadbd is being dealt with: start",
    );
  });

  test("position.same holds for a stopped server, whose data it is that goes", () => {
    const other = { uuid: STATE_UUID, seqno: 99 };
    expect(among(stopped()).startOrder("reseed", { position: other })?.because).toStartWith(
      "position.same: ",
    );
  });
});

describe("make_primary from order to answer", () => {
  test("nothing is done before the epoch is on disk", () => {
    const story = cutOff();
    story.autoPersist = false;
    story.order();
    expect(story.asked()).toEqual(["persist"]);
    story.done({ do: "persist", durable: story.state.durable });
    expect(story.effects).toContainEqual({
      do: "form_primary",
      expectedFingerprint: printOf(DC2, false),
      epoch: 1,
    });
  });

  test("success is a Primary view with the expected members, not the statement's word", () => {
    const story = cutOff();
    story.order();
    const ticket = story.lastTicket;
    story.give({ on: "formed", outcome: "given", error: null });
    expect(story.ackOf(ticket)).toBeUndefined();
    story.polled(statusOf(["b1"], { lastCommitted: 101, rejecting: true }));
    expect(story.ackOf(ticket)).toBeUndefined();
    story.polled(statusOf(DC2, { lastCommitted: 101, rejecting: true }));
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "ok",
      because: "Primary after 1 attempt",
    });
    expect(story.has("unfence")).toBe(true);
  });

  test("without a Primary view it is tried sixteen times, then given up as failed, never refused", () => {
    const story = cutOff();
    story.order();
    const ticket = story.lastTicket;
    for (let attempt = 1; attempt <= 16; attempt++) {
      expect(story.effects.filter((one) => one.do === "form_primary")).toHaveLength(attempt);
      story.give({ on: "formed", outcome: "given", error: null });
      story.polled(statusOf(DC2, { primary: false }));
      story.pass(300);
      story.polled(statusOf(DC2, { primary: false }));
    }
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "failed" });
    expect(story.ackOf(ticket)?.because).toContain("no Primary view after 16 attempts");
    expect(story.state.durable.epochServed).toBe(1);
  });

  test("an order's epoch is claimed until a Primary view comes of it, and no longer where it is void", () => {
    const obeyed = cutOff({ epochServed: 1 });
    obeyed.order({ epoch: 3 });
    obeyed.pass(300);
    expect(obeyed.lastReport).toMatchObject({ epochServed: 3, epochBefore: 1 });
    obeyed.give({ on: "formed", outcome: "given", error: null });
    obeyed.polled(statusOf(DC2));
    expect(obeyed.lastReport.epochServed).toBe(3);
    expect(obeyed.lastReport.epochBefore).toBeUndefined();
    const refused = cutOff({ epochServed: 1 });
    refused.order({ epoch: 3 });
    refused.polled(statusOf(["b1"], { primary: false }));
    refused.give({ on: "formed", outcome: "changed", error: null });
    expect(refused.lastReport.epochServed).toBe(1);
    expect(refused.lastReport.epochBefore).toBeUndefined();
  });

  test("a view that changed before the statement makes the order refused, and its epoch not served", () => {
    const story = cutOff({ epochServed: 0 });
    story.order({ epoch: 3 });
    const ticket = story.lastTicket;
    expect(story.state.durable.epochServed).toBe(3);
    story.polled(statusOf(["b1"], { primary: false }));
    story.give({ on: "formed", outcome: "changed", error: null });
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "refused",
      because: `the view has changed to ${printOf(["b1"], false)}`,
    });
    expect(story.state.durable).toMatchObject({ epochObeyed: 3, epochServed: 0 });
  });

  test("a statement that finds the view changed waits for the poll that shows it", () => {
    const story = cutOff();
    story.order();
    const ticket = story.lastTicket;
    for (let wake = 0; wake < 20; wake++) {
      story.give({ on: "formed", outcome: "changed", error: "The server is in a Primary view" });
      story.pass(1);
    }
    expect(story.effects.filter((one) => one.do === "form_primary")).toHaveLength(1);
    story.polled(statusOf(DC2, { lastCommitted: 101, rejecting: true }));
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "ok",
      because: "Primary after 1 attempt",
    });
  });

  test("an order whose epoch reaches the disk only after the view changed is refused, not carried out", () => {
    const story = cutOff();
    story.autoPersist = false;
    story.order();
    const ticket = story.lastTicket;
    const persist = { do: "persist", durable: story.state.durable } as const;
    story.polled(statusOf(ALL, { lastCommitted: 101 }));
    story.done(persist);
    // And that a Primary view has been seen since the number rose.
    story.done({ do: "persist", durable: story.state.durable });
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "refused",
      because: "view.expected: this server is Primary",
    });
    expect(story.has("form_primary")).toBe(false);
  });

  test("a statement of unknown outcome counts as given", () => {
    const story = cutOff();
    story.order();
    const ticket = story.lastTicket;
    story.give({ on: "formed", outcome: "failed", error: "connection lost" });
    story.polled(statusOf(["b1"], { primary: false }));
    story.pass(300);
    expect(story.ackOf(ticket)?.outcome).toBe("failed");
  });

  test("the lease of a promotion counts from the report that the order quotes", () => {
    const story = new ServerStory("b1", { config: coreCluster({ onDoubleFault: "fence" }) });
    story.runs();
    story.polled(statusOf(ALL));
    story.leased();
    story.polled(statusOf(DC2, { primary: false }));
    const reportedAt = story.now;
    const reportNumber = story.state.reportNumber;
    story.now += 400;
    story.order({ reportNumber });
    story.give({ on: "formed", outcome: "given", error: null });
    story.now += 20;
    story.polled(statusOf(DC2, { lastCommitted: 101, rejecting: true }));
    expect(story.state.lapseAt).toBe(reportedAt + story.config.timing.leaseMs);
    expect(printOf(DC1, false)).not.toBe(printOf(DC2, false));
  });
});
