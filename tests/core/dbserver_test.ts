import { describe, expect, test } from "bun:test";
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import { unknownFork } from "../../lib/core/arbitrator_state.ts";
import type { DbServerEvent } from "../../lib/core/dbserver_io.ts";
import { rightOf } from "../../lib/core/dbserver_state.ts";
import type { EpochRecord, Report } from "../../lib/message/dbserver.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import { UNSPECIFIED, unknownView, type WsrepStatus } from "../../lib/wsrep_status.ts";
import {
  ALL,
  ARBITRATOR,
  coreCluster,
  DC1,
  DC2,
  down,
  membersOf,
  printOf,
  reportOf,
  ServerStory,
  STATE_UUID,
  servingServer,
  statusOf,
} from "../support/cores.ts";

const FENCE_CONFIG = coreCluster({ onDoubleFault: "fence" });
const THREE = coreCluster({ segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] } });
const LEASE_MS = FENCE_CONFIG.timing.leaseMs;
const FENCE_MS = FENCE_CONFIG.timing.fenceMs;

/** An epoch that began at seqno 100, held by dc2. */
const EPOCH_5 = { epoch: 5, segment: "dc2", forkPoint: { uuid: STATE_UUID, seqno: 100 } };

/** What the arbitrator says of it to a server that must take all rows anew. */
const RESEED = {
  epoch: 5,
  epochs: [EPOCH_5],
  start: "reseed" as const,
  primarySegment: "dc2",
};

/** Polls go on answering; the named changes hold from the first one. */
function passPolled(story: ServerStory, ms: number, changes = {}, names: readonly string[] = ALL) {
  const end = story.now + ms;
  while (story.now < end) {
    story.now = Math.min(end, story.now + 100);
    story.polled(statusOf(names, changes));
  }
}

/** dc1's server left Primary at that seqno and is fenced. */
function leftAt(seqno: number, durable = {}): ServerStory {
  const story = servingServer("a1", { durable });
  story.polled(statusOf(DC1, { primary: false, lastCommitted: seqno, rejecting: false }));
  story.end("fence");
  story.effects = [];
  return story;
}

/** A peer reports. */
function hearPeer(story: ServerStory, name: string, changes: Partial<Report>): void {
  const parameters = { ...reportOf(story.config, name), ...changes };
  const from = story.config.serverByName.get(name)?.id ?? "dbserver.0";
  story.hears(from, { verb: "db_status_report", parameters });
}

describe("the lease", () => {
  test("is counted from when the report was sent, not from when its ack came", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL));
    const sentAt = story.now;
    const report = story.lastReport;
    story.now += 700;
    story.polled(statusOf(ALL));
    story.leased({ sentAt, report });
    expect(story.state.lapseAt).toBe(sentAt + LEASE_MS);
  });

  test("the door is closed exactly when it lapses, not one millisecond before", () => {
    const story = servingServer("a1");
    const until = story.state.lapseAt;
    while (story.now < until - 1) {
      story.now = Math.min(until - 1, story.now + 100);
      story.polled(statusOf(ALL));
    }
    expect(story.has("fence")).toBe(false);
    expect(story.core.dueAt(story.state)).toBeLessThanOrEqual(until);
    story.now = until;
    story.give({ on: "wakeup" });
    expect(story.has("fence")).toBe(true);
    expect(story.lastReport.because).toContain("neither lease nor vouches");
  });

  test("an ack that comes late, or after a newer one, never shortens it", () => {
    const story = servingServer("a1");
    const early = { report: story.lastReport, sentAt: story.now };
    story.now += 1_000;
    story.polled(statusOf(ALL));
    story.leased();
    const until = story.now + LEASE_MS;
    story.leased(early);
    expect(story.state.lapseAt).toBe(until);
    story.now += 1_500;
    story.polled(statusOf(ALL));
    story.leased({ ...early });
    expect(story.state.lapseAt).toBe(until);
  });

  test("an ack that was overtaken does not take back what the newer one said", () => {
    const story = servingServer("a1");
    const early = { report: story.lastReport, sentAt: story.now };
    story.now += 500;
    story.polled(statusOf(ALL));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5], draining: true } });
    story.leased({ ...early, arbitrator: { epoch: 4, epochs: [], draining: false } });
    expect(story.state.epochs).toEqual([EPOCH_5]);
    expect(story.state.draining).toBe(true);
  });

  test("a promise for another view than the one reported is worth nothing", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL));
    story.leased({ promise: { ms: LEASE_MS, view: printOf(DC1, true), epoch: null } });
    expect(story.state.promises.size).toBe(0);
  });

  test("a suspension ends every promise at once", () => {
    const story = servingServer("a1");
    story.give({ on: "suspended", forMs: 60_000 });
    expect(story.has("fence")).toBe(true);
    expect(story.state.vouchedUntil).toBe(story.now + story.config.outwaitMs);
  });
});

describe("vouches", () => {
  test("half of the other segment's servers carry a joint view without the arbitrator", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL));
    story.vouched("a2");
    expect(rightOf(story.state, story.now).ok).toBe(false);
    story.vouched("b2");
    expect(story.state.lapseAt).toBe(story.now + LEASE_MS);
  });

  test("a vouch of a server that is not in the view does not count", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(["a1", "a2", "b1"]));
    story.vouched("b2");
    expect(rightOf(story.state, story.now).ok).toBe(false);
    story.vouched("b1");
    expect(story.state.lapseAt).toBe(story.now + LEASE_MS);
  });

  const peer = (config: ClusterConfig): Report => servingServer("a1", { config }).lastReport;

  test("a server vouches for a peer in its own joint view while its commits flow, and remembers it", () => {
    const story = servingServer("b1");
    story.now += 10_000;
    story.polled(statusOf(ALL));
    story.probed();
    const ack = story.hears("dbserver.1", {
      verb: "db_status_report",
      parameters: peer(story.config),
    });
    expect(ack?.promise).toEqual({ ms: LEASE_MS, view: printOf(ALL, true), epoch: null });
    expect(story.state.vouchedUntil).toBe(story.now + story.config.outwaitMs);
  });

  test("its word ends one lease after commits were last known to flow, whenever it is asked", () => {
    const story = servingServer("b1");
    const report = { verb: "db_status_report", parameters: peer(story.config) } as const;
    const ms = () => story.hears("dbserver.1", report)?.promise?.ms ?? null;
    story.probed();
    story.now += 400;
    story.polled(statusOf(ALL));
    expect(ms()).toBe(LEASE_MS - 400);
    story.now += LEASE_MS - 401;
    story.polled(statusOf(ALL));
    expect(ms()).toBe(1);
    story.now += 1;
    expect(ms()).toBeNull();
    story.probed();
    expect(ms()).toBe(LEASE_MS);
  });

  const refusals: readonly [string, (story: ServerStory) => void, Partial<Report>][] = [
    ["for another view", () => {}, { fingerprint: printOf(["a1", "b1"], true) }],
    ["while its commits hang", (story) => story.probed("hung"), {}],
    [
      "while Galera gathers its members anew",
      (story) => story.polled(statusOf(ALL, { evsState: "GATHER" })),
      {},
    ],
    [
      "for its own view where that is not joint",
      (story) => story.polled(statusOf(DC2)),
      { fingerprint: printOf(DC2, true) },
    ],
    [
      "when it is not Primary",
      (story) => story.polled(statusOf(DC2, { primary: false })),
      { fingerprint: printOf(DC2, false) },
    ],
  ];
  for (const [when, prepare, changes] of refusals) {
    test(`a server does not vouch ${when}`, () => {
      const story = servingServer("b1");
      prepare(story);
      const ack = story.hears("dbserver.1", {
        verb: "db_status_report",
        parameters: { ...peer(story.config), ...changes },
      });
      expect(ack).toMatchObject({ outcome: "ok", promise: null });
    });
  }

  test("held commits look the same behind a cut: its word ends one lease after half of each segment was heard", () => {
    const config = coreCluster({ segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2"] } });
    const all = config.servers.map(({ name }) => name);
    const story = servingServer("b1", { config });
    const ask = () => {
      const parameters = reportOf(config, "a3");
      return story.hears("dbserver.3", { verb: "db_status_report", parameters })?.promise;
    };
    const hold = () => {
      story.polled(statusOf(all));
      story.probed("held");
    };
    for (const name of ["a1", "a2", "b2"]) hearPeer(story, name, {});
    hold();
    expect(ask()?.ms).toBe(LEASE_MS);
    story.now += LEASE_MS - 1;
    hearPeer(story, "b2", {});
    hold();
    expect(ask()?.ms).toBe(1);
    story.now += 1;
    hold();
    expect(ask()).toBeNull();
    hearPeer(story, "a1", {});
    expect(ask()?.ms).toBe(LEASE_MS);
  });

  test("a probe held by flow control still vouches, a hung one only after progress", () => {
    const story = servingServer("b1");
    story.probed("held");
    const report = { verb: "db_status_report", parameters: peer(story.config) } as const;
    expect(story.hears("dbserver.1", report)?.promise).not.toBeNull();
    story.probed("hung");
    story.polled(statusOf(ALL));
    expect(story.hears("dbserver.1", report)?.promise).toBeNull();
    story.polled(statusOf(ALL, { lastCommitted: 101 }));
    expect(story.hears("dbserver.1", report)?.promise).not.toBeNull();
  });
});

describe("the door", () => {
  test("is opened under no number of which the arbitrator has no record", () => {
    const story = servingServer("a1");
    story.leased({ epoch: null, arbitrator: { epoch: 1, epochs: [] } });
    expect(story.state.durable).toMatchObject({ epochSeen: 1, epochServed: 0 });
  });

  test("is opened only after the epoch served under is on disk", () => {
    const story = new ServerStory("a1");
    story.autoPersist = false;
    story.runs();
    story.polled(statusOf(ALL, { rejecting: true }));
    story.effects = [];
    story.leased({ arbitrator: { epoch: 7, epochs: [{ ...EPOCH_5, epoch: 7, forkPoint: null }] } });
    expect(story.asked()).toEqual(["persist"]);
    expect(story.state.durable.epochServed).toBe(7);
    story.done({ do: "persist", durable: story.state.durable });
    expect(story.asked()).toContain("unfence");
  });

  test("stays shut while the disk refuses, and the write is tried again", () => {
    const story = new ServerStory("a1");
    story.autoPersist = false;
    story.runs();
    story.polled(statusOf(ALL, { rejecting: true }));
    story.effects = [];
    story.leased({ arbitrator: { epoch: 7 } });
    story.end("persist", "disk full");
    story.effects = [];
    story.pass(1_000);
    expect(story.has("unfence")).toBe(false);
    expect(story.has("persist")).toBe(true);
  });

  test("that stays open under a grant in the joint view claims its epoch, until another Primary view is seen", () => {
    const story = servingServer("a1", { durable: { epochServed: 2 } });
    story.leased({ epoch: 3, arbitrator: { epoch: 3 } });
    story.polled(statusOf(ALL));
    story.leased({ epoch: 4, arbitrator: { epoch: 4 } });
    story.polled(statusOf(DC1, { primary: false }));
    expect(story.lastReport).toMatchObject({ epochServed: 4, epochBefore: 2 });
    story.polled(statusOf(DC1));
    expect(story.lastReport).toMatchObject({ epochServed: 4 });
    expect(story.lastReport.epochBefore).toBeUndefined();
  });

  test("one that ends before has claimed it only, and says so when it is stopped", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 3, arbitrator: { epoch: 3 } });
    story.stops();
    story.position(100);
    expect(story.lastReport).toMatchObject({ running: "down", epochServed: 3, epochBefore: 0 });
    const again = new ServerStory("a1", { durable: story.state.durable });
    again.stops();
    expect(again.lastReport).toMatchObject({ running: "down", epochServed: 3, epochBefore: 0 });
  });

  test("that opens in a view of the grant's own, or by the word of a joint view, serves under it for certain", () => {
    const alone = new ServerStory("a1");
    alone.runs();
    alone.polled(statusOf(DC1, { rejecting: true }));
    alone.leased({ epoch: 3, arbitrator: { epoch: 3 } });
    const joint = new ServerStory("a1");
    joint.runs();
    joint.polled(statusOf(ALL, { rejecting: true }));
    joint.leased({ arbitrator: { epoch: 3, epochs: [{ ...EPOCH_5, epoch: 3, forkPoint: null }] } });
    for (const story of [alone, joint]) {
      expect(story.has("unfence")).toBe(true);
      expect(story.state.durable.epochServed).toBe(3);
      expect(story.lastReport.epochBefore).toBeUndefined();
    }
  });

  test("that opens under a grant in the joint view it was granted in claims its epoch", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL, { rejecting: true }));
    story.leased({ epoch: 3, arbitrator: { epoch: 3 } });
    expect(story.has("unfence")).toBe(true);
    expect(story.lastReport).toMatchObject({ epochServed: 3, epochBefore: 0 });
  });

  test("is not opened before the server is Synced", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL, { rejecting: true, localState: "Joined" }));
    story.leased();
    expect(story.has("unfence")).toBe(false);
    story.polled(statusOf(ALL, { rejecting: true }));
    expect(story.has("unfence")).toBe(true);
  });

  test("that stays open under a newer grant has that epoch on disk", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 3, arbitrator: { epoch: 3 } });
    expect(story.state.durable.epochServed).toBe(3);
    expect(story.has("fence")).toBe(false);
  });

  test("is closed at once when the view is no longer Primary, and the leaving position is kept", () => {
    const story = servingServer("a1");
    story.polled(statusOf(DC1, { primary: false, lastCommitted: 107, rejecting: false }));
    expect(story.has("fence")).toBe(true);
    expect(story.state.durable.leftPrimary).toEqual({ uuid: STATE_UUID, seqno: 107 });
  });

  test("with whom it was Primary last is on disk, and told once it is not", () => {
    const story = servingServer("a1");
    story.polled(statusOf(["a1", "b1"], { lastCommitted: 101 }));
    const written = story.effects.flatMap((one) => (one.do === "persist" ? [one.durable] : []));
    expect(written.at(-1)?.lastMembers).toEqual(["a1", "b1"]);
    expect(story.lastReport.lastMembers).toBeUndefined();
    story.polled(statusOf(["a1"], { primary: false, lastCommitted: 107, rejecting: false }));
    expect(story.lastReport.lastMembers).toEqual(["a1", "b1"]);
    story.stops();
    expect(story.lastReport.lastMembers).toEqual(["a1", "b1"]);
    // Who receives is in the view of those that let it in.
    story.runs(101);
    const joins = { primary: false, localState: "Joining: receiving State Transfer" };
    story.polled(statusOf(["a1", "b2"], { ...joins, rejecting: true }));
    expect(story.lastReport.lastMembers).toEqual(["a1", "b2"]);
    // Left alone meanwhile, and found by others outside Primary, it has been with b2 all the same.
    for (const members of [["a1"], ["a1", "a2"]])
      story.polled(statusOf(members, { ...joins, rejecting: true }));
    const met = membersOf(["a1", "a2", "b1"]).map((member) =>
      member.name === "b1" ? { ...member, name: UNSPECIFIED } : member,
    );
    story.polled(statusOf(["a1", "a2", "b1"], { ...joins, rejecting: true, members: met }));
    expect(story.lastReport.lastMembers).toEqual(["a1", "b2", "a2"]);
  });

  test("is closed in a solo view without a grant, and kept open under the newest one", () => {
    const alone = servingServer("a1");
    alone.polled(statusOf(DC1, { lastCommitted: 101 }));
    expect(alone.has("fence")).toBe(true);
    const granted = servingServer("a1");
    granted.leased({ epoch: 1 });
    granted.polled(statusOf(DC1, { lastCommitted: 101 }));
    expect(granted.has("fence")).toBe(false);
  });

  test("is closed in a solo view with less than half of the segment, grant or not", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 1 });
    story.polled(statusOf(["a1"], { lastCommitted: 101 }));
    expect(story.has("fence")).toBe(true);
  });

  test("a grant that another epoch has overtaken is no right", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 1 });
    story.polled(statusOf(DC1, { lastCommitted: 101 }));
    const peer = { ...servingServer("b1").lastReport, epochSeen: 2 };
    story.hears("dbserver.3", { verb: "db_status_report", parameters: peer });
    expect(story.has("fence")).toBe(true);
  });

  test("a grant whose epoch a joint view has closed is no right any more", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 1 });
    expect(story.state.grantEpoch).toBe(1);
    story.now += 500;
    story.polled(statusOf(ALL));
    story.leased({ epoch: null, arbitrator: { epoch: 1 } });
    expect(story.state.grantEpoch).toBeNull();
    story.polled(statusOf(DC1, { lastCommitted: 101 }));
    expect(story.has("fence")).toBe(true);
  });

  test("stay: the holder of the newest grant serves on when its lease is gone", () => {
    const story = servingServer("a1");
    story.leased({ epoch: 1 });
    passPolled(story, 2 * LEASE_MS, { lastCommitted: 101 }, DC1);
    expect(story.has("fence")).toBe(false);
    expect(story.lastReport.serving).toBe("on");
  });

  test("fence: the same holder closes its door exactly at the end of its lease", () => {
    const story = servingServer("a1", { config: FENCE_CONFIG });
    story.now += 1;
    story.leased({ epoch: 1 });
    const until = story.now + LEASE_MS;
    passPolled(story, LEASE_MS - 1, { lastCommitted: 101 }, DC1);
    expect(story.has("fence")).toBe(false);
    story.now = until;
    story.give({ on: "wakeup" });
    expect(story.has("fence")).toBe(true);
  });

  test("a fence that does not hold within its time ends in a kill", () => {
    const story = servingServer("a1");
    story.polled(statusOf(DC1, { primary: false, rejecting: false }));
    const wantedAt = story.now;
    story.end("fence", "a session is left");
    story.effects = [];
    while (story.now < wantedAt + FENCE_MS - 50) {
      story.now += 50;
      story.polled(statusOf(DC1, { primary: false, rejecting: false }));
    }
    expect(story.has("kill")).toBe(false);
    expect(story.core.dueAt(story.state)).toBeLessThanOrEqual(wantedAt + FENCE_MS);
    story.now = wantedAt + FENCE_MS;
    story.give({ on: "wakeup" });
    expect(story.has("kill")).toBe(true);
  });

  test("a right that lapses while the door is being opened gives the fence no more time than usual", () => {
    const story = new ServerStory("a1");
    story.runs();
    story.polled(statusOf(ALL, { rejecting: true }));
    story.leased();
    expect(story.has("unfence")).toBe(true);
    story.polled(statusOf(DC1, { primary: false, rejecting: true }));
    const lapsedAt = story.now;
    story.now += 900;
    story.end("unfence");
    expect(story.has("fence")).toBe(true);
    expect(story.state.killAt).toBe(lapsedAt + FENCE_MS);
  });

  test("hung polls end the right one lease after the last answer, then fence, then kill", () => {
    const story = servingServer("a1");
    const answeredAt = story.now;
    while (story.now < answeredAt + LEASE_MS - 200) {
      story.now += 200;
      story.polled(null, "timeout");
      story.leased();
    }
    expect(story.has("fence")).toBe(false);
    story.now = answeredAt + LEASE_MS;
    story.give({ on: "wakeup" });
    expect(story.has("fence")).toBe(true);
    expect(story.lastReport.because).toBe("mariadbd does not answer");
    story.now += FENCE_MS;
    story.give({ on: "wakeup" });
    expect(story.has("kill")).toBe(true);
  });

  test("a mariadbd found running that has not opened its socket counts as closed and is not killed", () => {
    const story = new ServerStory("a1");
    story.runs();
    const refuse = (ms: number, unreachable: boolean) => {
      const end = story.now + ms;
      while (story.now < end) {
        story.now = Math.min(end, story.now + 100);
        story.polled(null, "Connection refused", unreachable);
      }
    };
    refuse(60_000, true);
    expect(story.lastReport).toMatchObject({ running: "unknown", fenced: true });
    expect(story.has("kill")).toBe(false);
    // It opens its socket, unfenced: now there is something to close.
    story.polled(statusOf(DC1, { primary: false, rejecting: false }));
    expect(story.has("fence")).toBe(true);

    // One that accepts connections and does not answer may have clients.
    const silent = new ServerStory("a1");
    silent.runs();
    silent.polled(null, "timeout");
    silent.pass(2 * FENCE_MS + 100);
    expect(silent.has("kill")).toBe(true);
  });

  test("one that waits for a Primary which the arbitrator knows nowhere is killed after 30 s, so that it can be counted", () => {
    const waiting = (start: "join" | "wait") => {
      const story = new ServerStory("a1");
      story.runs();
      for (let passed = 0; passed <= 31_000; passed += 500) {
        story.now += 500;
        story.polled(null, "Connection refused", true);
        story.pass(10);
        story.leased({ promise: null, arbitrator: { start } });
      }
      return story.has("kill");
    };
    expect(waiting("wait")).toBe(true);
    expect(waiting("join")).toBe(false);
  });

  test("a few servers beside the majority of another segment are no Primary of their own: they are closed, and live", () => {
    const segments = { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] };
    const config = coreCluster({ segments });
    const story = servingServer("b1", { config });
    const beside = ["a1", "a2", "a3", "b1"];
    story.polled(statusOf(beside, { lastCommitted: 101 }));
    story.end("fence");
    for (let second = 0; second < 20; second++) {
      story.polled(statusOf(beside, { lastCommitted: 101, rejecting: true }));
      story.pass(1_000);
    }
    expect(story.has("kill")).toBe(false);
    // Without that majority it is what two Primaries are made of.
    for (let second = 0; second < 20; second++) {
      story.polled(statusOf(["a1", "b1"], { lastCommitted: 102, rejecting: true }));
      story.pass(1_000);
    }
    expect(story.has("kill")).toBe(true);
  });

  test("what was delivered at the change of view is applied after it: where it left Primary is the furthest that it gets to by itself", () => {
    const story = servingServer("b2");
    const apart = { primary: false, localState: "Initialized" };
    story.polled(statusOf(DC2, { ...apart, lastCommitted: 100 }));
    expect(story.state.durable.leftPrimary?.seqno).toBe(100);
    story.polled(statusOf(DC2, { ...apart, lastCommitted: 102 }));
    expect(story.state.durable.leftPrimary?.seqno).toBe(102);
    // From here on the rows are those of the others.
    const joining = { primary: false, localState: "Joining: receiving State Transfer" };
    story.polled(statusOf(ALL, { ...joining, lastCommitted: 150 }));
    expect(story.state.durable.leftPrimary?.seqno).toBe(102);
  });

  test("who comes back to the same members and receives has the same fingerprint, and no longer all commits", () => {
    const story = servingServer("b2");
    const last = { fingerprint: printOf(ALL, true), synced: true, weight: 4 };
    expect(story.lastReport.lastPrimary).toEqual(last);
    story.polled(statusOf(["b2"], { primary: false }));
    const localState = "Joining: receiving State Transfer";
    for (const primary of [false, true])
      story.polled(statusOf(ALL, { localState, primary, ready: false }));
    expect(story.state.lastPrimary).toEqual({ ...last, synced: false });
    story.polled(statusOf(ALL, { localState: "Joined" }));
    expect(story.state.lastPrimary?.synced).toBe(false);
    story.polled(statusOf(ALL));
    story.polled(statusOf(ALL, { localState: "Joined" }));
    expect(story.state.lastPrimary?.synced).toBe(true);
  });

  test("Primary alone, fenced, without a grant and out of the arbitrator's reach it is killed", () => {
    const story = servingServer("a1");
    story.polled(statusOf(DC1, { lastCommitted: 101 }));
    story.end("fence");
    const since = story.now;
    passPolled(story, LEASE_MS + FENCE_MS - 1, { lastCommitted: 101, rejecting: true }, DC1);
    expect(story.has("kill")).toBe(false);
    story.now = since + LEASE_MS + FENCE_MS;
    story.give({ on: "wakeup" });
    expect(story.has("kill")).toBe(true);
  });

  test("a watchdog that stood still kills by nothing that it knew before: the view may be another one by now", () => {
    const woken = (view: readonly string[]) => {
      const story = servingServer("a1");
      story.polled(statusOf(DC1, { lastCommitted: 101 }));
      story.end("fence");
      story.now += 60_000;
      story.give({ on: "suspended", forMs: 60_000 });
      story.give({ on: "wakeup" });
      expect(story.has("kill")).toBe(false);
      passPolled(story, FENCE_MS, { lastCommitted: 101, rejecting: true }, view);
      return story.has("kill");
    };
    expect(woken(ALL)).toBe(false);
    expect(woken(DC1)).toBe(true);
  });
});

describe("what may have happened unseen", () => {
  test("a grant that no lease carries any more is dropped in a joint view in which commits pass, and in no other", () => {
    const after = (view: readonly string[], outcome: "committed" | "hung") => {
      const story = servingServer("a1");
      story.now += 1;
      story.leased({ epoch: 1 });
      story.polled(statusOf(view));
      story.probed(outcome);
      passPolled(story, LEASE_MS + 1, {}, view);
      return story.state.grantEpoch;
    };
    expect(after(ALL, "committed")).toBeNull();
    expect(after(ALL, "hung")).toBe(1);
    expect(after(DC1, "committed")).toBe(1);
  });

  test("after a gap in which Galera could have given up on somebody, the last Primary view is not the one seen last", () => {
    const after = (gapMs: number) => {
      const story = servingServer("b1");
      story.now += gapMs;
      story.polled(statusOf(DC2, { primary: false }));
      return story.lastReport.lastPrimary;
    };
    expect(after(1_000)).toMatchObject({ fingerprint: printOf(ALL, true), synced: true });
    expect(after(5_000)).toEqual({ fingerprint: unknownView(STATE_UUID), synced: true });
  });

  test("a start that has waited for a Primary in vain is none that failed, unless somebody had let it in", () => {
    const failed = (livedMs: number, members: readonly string[]) => {
      const story = servingServer("a1");
      story.stops();
      story.runs(101);
      story.now += livedMs;
      hearPeer(story, "b1", { members: membersOf(members) });
      story.stops();
      return story.state.failedStarts;
    };
    expect(failed(31_000, ["a2", "b1", "b2"])).toBe(0);
    expect(failed(31_000, ALL)).toBe(1);
    expect(failed(5_000, ["a2", "b1", "b2"])).toBe(1);
  });
});

describe("commits that were held", () => {
  test("are told of until one passes through an open door, and from a start until one has passed", () => {
    const story = servingServer("a1");
    const told = () => {
      story.pass(1_000);
      story.polled(statusOf(ALL, { rejecting: story.state.closed }));
      return story.lastReport.held ?? false;
    };
    story.probed();
    expect(told()).toBe(false);
    for (const outcome of ["held", "hung"] as const) {
      story.probed(outcome);
      expect(told()).toBe(true);
    }
    story.probed();
    expect(told()).toBe(false);
    story.stops();
    story.runs(101);
    story.polled(statusOf(ALL, { rejecting: true }));
    // Behind its door that was a read.
    story.probed();
    expect(story.state.closed).toBe(true);
    expect(told()).toBe(true);
  });
});

describe("Primary alone, fenced, with less than it needs", () => {
  /** Three of 3+3 are in a view that is not joint, under a grant to the other segment. */
  function three(others: Partial<Report>): ServerStory {
    const story = servingServer("b1", { config: THREE });
    const view = ["a1", "b1", "b2"];
    story.polled(statusOf(view, { lastCommitted: 101 }));
    story.end("fence");
    for (let second = 0; second < 20; second++) {
      for (const name of ["a2", "a3", "b3"]) hearPeer(story, name, others);
      story.polled(statusOf(view, { lastCommitted: 101, rejecting: true }));
      story.pass(1_000);
    }
    return story;
  }
  const starting = { ...down(null), running: "unknown", primary: "unknown" } as const;

  test("it lives while everybody else is down, or on the way up: the cluster comes back with it", () => {
    expect(three(down(90)).has("kill")).toBe(false);
    expect(three(starting).has("kill")).toBe(false);
  });

  test("it is killed where those who are down hold a newer epoch: their rows would end with their joining it", () => {
    const barred = (segment: string, forkPoint: EpochRecord["forkPoint"]) => {
      const story = servingServer("b1", { config: THREE });
      const view = ["a1", "b1", "b2"];
      story.polled(statusOf(view, { lastCommitted: 101 }));
      story.end("fence");
      story.leased({
        promise: null,
        arbitrator: { epoch: 5, epochs: [{ epoch: 5, segment, forkPoint }] },
      });
      for (let second = 0; second < 5; second++) {
        for (const name of ["a2", "a3", "b3"]) hearPeer(story, name, down(90));
        story.polled(statusOf(view, { lastCommitted: 101, rejecting: true }));
        story.pass(1_000);
      }
      return story.has("kill");
    };
    const known = { uuid: STATE_UUID, seqno: 100 };
    expect(barred("dc1", known)).toBe(true);
    expect(barred("dc2", known)).toBe(false);
    expect(barred("dc1", null)).toBe(false);
    // Of an epoch that a lost store has granted, the record's segment is a guess.
    expect(barred("dc2", unknownFork(5, "dc2").forkPoint)).toBe(true);
  });

  test("in a joint view it is killed where the arbitrator names a newer epoch and promises nothing, and a server says that it has its rows", () => {
    const superseded = (options: {
      readonly peer?: Partial<Report>;
      readonly epochs?: readonly EpochRecord[];
      readonly silent?: boolean;
      readonly came?: boolean;
      readonly from?: string;
    }) => {
      const {
        from = "b2",
        peer = down(130, { epochSeen: 5, epochServed: 5 }),
        epochs = [EPOCH_5],
        silent,
      } = options;
      const story = servingServer("a1");
      const view = ["a1", "a2", "b1"];
      story.polled(statusOf(view, { lastCommitted: 120 }));
      story.now += LEASE_MS;
      story.give({ on: "wakeup" });
      story.end("fence");
      if (options.came === true)
        story.polled(statusOf(view, { primary: false, lastCommitted: 100, rejecting: true }));
      for (let step = 0; step < 50; step++) {
        hearPeer(story, from, peer);
        if (silent !== true)
          story.leased({ promise: null, arbitrator: { epoch: 5, epochs: [...epochs] } });
        story.polled(statusOf(view, { lastCommitted: 120, rejecting: true }));
        story.pass(100);
      }
      return story.has("kill");
    };
    const holder = { epochSeen: 5, epochServed: 5 } as const;
    expect(superseded({})).toBe(true);
    // Who joined it knows no better than who was there.
    expect(superseded({ came: true })).toBe(true);
    expect(superseded({ silent: true })).toBe(false);
    expect(superseded({ epochs: [{ ...EPOCH_5, forkPoint: null }] })).toBe(false);
    expect(superseded({ peer: down(130) })).toBe(false);
    expect(superseded({ peer: down(130, { epochServed: 5, epochBefore: 0 }) })).toBe(false);
    expect(superseded({ peer: down(null, { epochServed: 5 }) })).toBe(false);
    // A view that stalls names b1 as it was before it ended, and began elsewhere.
    const elsewhere = { ...holder, gcommUuid: "0000000b-0000-0000-0000-000000000001" };
    expect(superseded({ from: "b1", peer: elsewhere })).toBe(true);
    expect(superseded({ from: "b1", peer: holder })).toBe(false);
  });

  test("in the arbitrator's reach it is killed beside another Primary that goes before it, and where both have one epoch takes a full transfer", () => {
    const beside = (
      changes: Partial<Report>,
      { from = "b1", held = "b2" }: { readonly from?: string; readonly held?: string } = {},
    ) => {
      const story = servingServer(held, { config: THREE });
      story.polled(statusOf([held], { lastCommitted: 101 }));
      story.end("fence");
      const { members } = statusOf([from]);
      const report = {
        fenced: true,
        serving: "off",
        lastCommitted: 101,
        members,
        fingerprint: printOf([from], true),
        ...changes,
      } as const;
      for (let second = 0; second < 6; second++) {
        hearPeer(story, from, report);
        story.leased({ promise: null, arbitrator: { epoch: 0 } });
        story.polled(statusOf([held], { lastCommitted: 101, rejecting: true }));
        story.pass(1_000);
      }
      return [story.has("kill"), story.state.diverged];
    };
    const ends = [true, true];
    const lives = [false, false];
    expect(beside({})).toEqual(ends);
    expect(beside({}, { from: "b2", held: "b1" })).toEqual(lives);
    expect(beside({ lastCommitted: 102 }, { from: "b2", held: "b1" })).toEqual(ends);
    expect(beside({ lastCommitted: 100 })).toEqual(lives);
    expect(beside({ lastCommitted: 100, serving: "on" })).toEqual(ends);
    // What it has of a newer epoch is judged by that one's fork point.
    expect(beside({ epochServed: 1, epochSeen: 1 })).toEqual([true, false]);
    // The other segment's is for the arbitrator to choose from, unless it serves.
    expect(beside({}, { from: "a1" })).toEqual(lives);
    expect(beside({ serving: "on" }, { from: "a1" })).toEqual(ends);
    // No other Primary: it runs in none, or its view is not yet without this one.
    expect(beside({ primary: "no" })).toEqual(lives);
    expect(beside({ fingerprint: printOf(["b1", "b2"], true) })).toEqual(lives);
  });

  test("it is killed where another one runs, or may have been started as a Primary", () => {
    expect(three({ primary: "no", fenced: true }).has("kill")).toBe(true);
    expect(three({ ...starting, adopted: true }).has("kill")).toBe(true);
    expect(three({ ...starting, fenced: false }).has("kill")).toBe(true);
  });
});

describe("a retired server", () => {
  /** Alone of its segment in a solo view, holding the grant. */
  function alone(retired: readonly PartyId[]): ServerStory {
    const story = servingServer("a1");
    story.polled(statusOf(["a1"], { lastCommitted: 101 }));
    story.leased({ epoch: 1, arbitrator: { epoch: 1, retired: [...retired] } });
    return story;
  }

  test("is left out where the majority of a holder's segment is counted", () => {
    expect(rightOf(alone([]).state, 1_000).because).toContain("less than half of the segment");
    const held = alone(["dbserver.2"]);
    expect(rightOf(held.state, held.now)).toMatchObject({ ok: true });
  });

  test("changes nothing about vouches: half of all the other segment's servers, as ever", () => {
    const story = servingServer("a1", { config: THREE });
    const view = ["a1", "a2", "a3", "b1"];
    story.polled(statusOf(view, { lastCommitted: 101 }));
    const retired: PartyId[] = ["dbserver.5", "dbserver.6"];
    story.leased({ promise: null, arbitrator: { retired } });
    story.vouched("b1");
    expect(rightOf(story.state, story.now).ok).toBe(false);
  });
});

describe("lineage", () => {
  test("a server that left Primary within the fork point comes back as it is", () => {
    const story = leftAt(100);
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.has("unfence")).toBe(true);
    expect(story.state.durable).toMatchObject({ epochServed: 5, leftPrimary: null });
  });

  test("a server beyond the fork point is stopped, then reseeded on the arbitrator's word", () => {
    const story = leftAt(105);
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.has("unfence")).toBe(false);
    expect(story.has("stop")).toBe(true);
    expect(story.lastReport.diverged).toBe(true);
    story.stops("stopped");
    story.position(130);
    expect(story.lastReport).toMatchObject({ running: "down", diverged: true });
    story.pass(1_000);
    expect(story.has("start")).toBe(false);
    story.leased({ promise: null, arbitrator: RESEED });
    // Nobody is known to have the right rows yet: its neighbour is Synced, but does not serve.
    const stood = { uuid: STATE_UUID, seqno: 105 };
    hearPeer(story, "a2", { serving: "off", fenced: true, epochSeen: 5, stood });
    story.pass(600);
    expect(story.has("start")).toBe(false);
    hearPeer(story, "b2", { serving: "on", epochSeen: 5, epochServed: 5 });
    story.pass(600);
    expect(story.effects.findLast((one) => one.do === "start")).toMatchObject({
      mode: "reseed",
      donor: "b2",
    });
    expect(story.state.diverged).toBe(false);
  });

  test("the donor of a reseed serves, in the primary segment where it can be; else it began the epoch, or stood beyond no fork point", () => {
    const donorAmong = (
      peers: Readonly<Record<string, Partial<Report>>>,
      told: { readonly donors?: readonly PartyId[] } = {},
    ) => {
      const story = leftAt(105);
      story.stops("killed");
      story.position(105);
      for (const [name, changes] of Object.entries(peers)) hearPeer(story, name, changes);
      story.leased({ promise: null, arbitrator: { ...RESEED, ...told } });
      story.pass(600);
      const start = story.effects.findLast((one) => one.do === "start");
      return start?.do === "start" ? start.donor : null;
    };
    const serves = { serving: "on", epochSeen: 5, epochServed: 5 } as const;
    expect(donorAmong({ a2: serves, b1: serves })).toBe("b1");
    // Whoever was heard first: writers are led to the first in line, which a donor had better not be.
    expect(donorAmong({ b2: serves, b1: serves })).toBe("b2");
    expect(donorAmong({ b1: serves, b2: serves })).toBe("b2");
    expect(donorAmong({ a2: serves, b1: { ...serves, localState: "Joined" } })).toBe("a2");
    expect(donorAmong({ b1: { ...serves, serving: "off" } })).toBe("b1");
    expect(donorAmong({ b1: { ...serves, serving: "off", diverged: true } })).toBeNull();
    const waits = { ...serves, serving: "off", epochServed: 4 } as const;
    const stood = { uuid: STATE_UUID, seqno: 101 };
    expect(donorAmong({ b1: { ...waits, stood } })).toBeNull();
    // It knows of the epoch and stood beyond nothing: it is Primary in it, with too few to serve yet.
    expect(donorAmong({ b1: waits })).toBe("b1");
    expect(donorAmong({ b1: { ...waits, stood: { ...stood, seqno: 100 } } })).toBe("b1");
    expect(donorAmong({ b1: { ...waits, epochSeen: 4 } })).toBeNull();
    // Where its own epoch is forgotten it can judge nobody: the arbitrator has.
    const b1 = { b1: { ...waits, stood } };
    expect(donorAmong(b1, { donors: ["dbserver.3"] })).toBe("b1");
    expect(donorAmong(b1, { donors: ["dbserver.4"] })).toBeNull();
    expect(
      donorAmong({ b1: { ...waits, localState: "Joined" } }, { donors: ["dbserver.3"] }),
    ).toBeNull();
  });

  test("one that receives has been away, though every poll found it Primary: where it stood is compared", () => {
    for (const localState of ["Joining: receiving State Transfer", "Synced"]) {
      const story = servingServer("a1");
      story.polled(statusOf(ALL, { lastCommitted: 105 }));
      const view = ["a1", "b1", "b2"];
      story.now += 200;
      story.polled(statusOf(view, { lastCommitted: 105, rejecting: true, localState }));
      story.polled(statusOf(view, { lastCommitted: 130, rejecting: true }));
      story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
      // By the view alone nothing tells that it had gone.
      expect(story.lastReport.diverged).toBe(localState !== "Synced");
    }
  });

  test("closed and alone it finds others in its view: it may have come over to them, and where it stood is compared", () => {
    const found = (seqno: number) => {
      const before = ["a1", "a2"];
      const story = servingServer("a1", { config: THREE });
      story.polled(statusOf(before, { lastCommitted: seqno }));
      story.end("fence");
      story.polled(statusOf(before, { lastCommitted: seqno, rejecting: true }));
      const view = [...before, "b2", "b3"];
      story.polled(statusOf(view, { lastCommitted: 130, rejecting: true }));
      story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
      return story.lastReport.diverged;
    };
    expect(found(105)).toBe(true);
    expect(found(100)).toBe(false);
  });

  test("vouches open no door where it has heard of an epoch that may have forked and that it would not serve under", () => {
    const opened = (epochs: readonly EpochRecord[], served = 0) => {
      const story = leftAt(100);
      story.now += LEASE_MS;
      story.polled(statusOf(ALL, { lastCommitted: 100, rejecting: true }));
      story.leased({ promise: null, arbitrator: { epoch: 5, epochs: [...epochs] } });
      story.vouched("b1", served);
      return story.has("unfence");
    };
    expect(opened([EPOCH_5])).toBe(false);
    expect(opened([])).toBe(false);
    expect(opened([{ ...EPOCH_5, forkPoint: null }])).toBe(true);
    expect(opened([EPOCH_5], 5)).toBe(true);
  });

  test("beside a member that has been there all the time and serves under an older epoch it stays closed", () => {
    const opened = (peer: Partial<Report>, how: "lease" | "vouch" | "grant" | "grant before") => {
      const story = leftAt(100, { epochSeen: 5, epochServed: 5 });
      story.now += LEASE_MS;
      hearPeer(story, "b1", { epochSeen: 3, epochServed: 3, ...peer });
      if (how === "grant before") story.leased({ epoch: 5, arbitrator: { epoch: 5 } });
      story.polled(statusOf(ALL, { lastCommitted: 100, rejecting: true }));
      const silent = { promise: null };
      const given = { lease: {}, vouch: silent, grant: { epoch: 5 }, "grant before": silent };
      story.leased({ ...given[how], arbitrator: { epoch: 5 } });
      if (how === "vouch") story.vouched("b2", 5);
      return story.has("unfence");
    };
    const stood = { uuid: STATE_UUID, seqno: 90 };
    for (const how of ["lease", "vouch"] as const) {
      expect(opened({}, how)).toBe(false);
      expect(opened({ stood }, how)).toBe(true);
      expect(opened({ epochSeen: 5, epochServed: 5 }, how)).toBe(true);
    }
    // The arbitrator knows whether that member was there when the epoch was granted.
    expect(opened({}, "grant")).toBe(true);
    expect(opened({}, "grant before")).toBe(false);
  });

  test("an epoch is shared by those who were in the view when it came, not brought to it", () => {
    const served = (first: readonly string[]) => {
      const story = servingServer("a1", { config: THREE });
      story.polled(statusOf(first, { primary: false }));
      story.polled(statusOf(first));
      const fingerprint = printOf(["a1", "a2", "b1", "b2"], true);
      hearPeer(story, "b1", { epochSeen: 5, epochServed: 5, fingerprint });
      story.now += 1;
      story.polled(statusOf(["a1", "a2", "b1", "b2"], { lastCommitted: 101 }));
      return story.state.sharedEpoch;
    };
    const all = ["a1", "a2", "a3", "b1", "b2", "b3"];
    expect(served(all)).toBe(5);
    expect(served(["a1", "a2", "b2"])).toBe(0);
  });

  test("a server serves under what a member of its view had served under, though that one has gone since", () => {
    const opened = (after: readonly Partial<WsrepStatus>[], peer: Partial<Report> = {}) => {
      const story = leftAt(100);
      hearPeer(story, "b1", {
        epochSeen: 5,
        epochServed: 5,
        fenced: true,
        serving: "off",
        ...peer,
      });
      story.now += 1;
      story.polled(statusOf(ALL, { lastCommitted: 100, rejecting: true }));
      for (const status of after) story.polled(statusOf(ALL, { rejecting: true, ...status }));
      story.polled(statusOf(["a1", "a2", "b2"], { lastCommitted: 130, rejecting: true }));
      // An answer without a promise: the right comes of the others' vouches.
      story.leased({ promise: null, arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
      story.vouched("b2");
      expect(story.has("unfence")).toBe(true);
      return story.state.durable.epochServed;
    };
    expect(opened([])).toBe(5);
    expect(opened([], { epochBefore: 4 })).toBe(0);
    expect(opened([], { primary: "no" })).toBe(0);
    expect(opened([{ primary: false, lastCommitted: 100 }])).toBe(0);
  });

  test("a stop is said in a report before it happens, until mariadbd has ended", () => {
    const story = leftAt(105);
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.effects = [];
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    const kinds = story.effects.map((one) => one.do);
    const told = story.effects.findIndex(
      (one) =>
        one.do === "send" &&
        one.to === ARBITRATOR &&
        one.body.verb === "db_status_report" &&
        one.body.parameters.leaving,
    );
    expect(told).toBeGreaterThanOrEqual(0);
    expect(told).toBeLessThan(kinds.indexOf("stop"));
    passPolled(story, 1_000, { lastCommitted: 130, rejecting: true });
    expect(story.lastReport.leaving).toBe(true);
    story.stops("stopped");
    expect(story.lastReport.leaving).toBe(false);
  });

  test("the furthest that it stood at since it was last proven in line counts", () => {
    const story = leftAt(90);
    story.polled(statusOf(DC1, { lastCommitted: 120, rejecting: true }));
    story.polled(statusOf(DC1, { primary: false, lastCommitted: 120, rejecting: true }));
    expect(story.state.durable.leftPrimary?.seqno).toBe(120);
    story.stops("killed");
    story.position(119);
    expect(story.state.durable.leftPrimary?.seqno).toBe(120);
  });

  test("a server whose data are of another cluster is beyond every fork point", () => {
    const story = leftAt(50);
    const foreign = {
      ...EPOCH_5,
      forkPoint: { uuid: "99999999-2222-3333-4444-555555555555", seqno: 100 },
    };
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased({ arbitrator: { epoch: 5, epochs: [foreign] } });
    expect(story.lastReport.diverged).toBe(true);
  });

  test("until the arbitrator, or a member serving under the same epoch, has spoken the door stays shut", () => {
    const opens = (epoch: number) => {
      const story = leftAt(100, { epochServed: 4 });
      story.now += 5_000;
      story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
      hearPeer(story, "b1", { epochSeen: epoch, epochServed: epoch });
      story.vouched("b1", epoch);
      expect(story.state.lapseAt).toBeLessThan(Number.POSITIVE_INFINITY);
      return story.has("unfence");
    };
    expect(opens(5)).toBe(false);
    expect(opens(4)).toBe(true);
  });

  test("a member that has heard of a newer epoch proves nothing by serving under an older one", () => {
    const opens = (own: number, peer: number) => {
      const story = leftAt(100, { epochServed: 4, epochSeen: own });
      story.now += 5_000;
      story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
      hearPeer(story, "b1", { epochSeen: peer, epochServed: 4 });
      story.vouched("b1", 4);
      story.vouched("b2", 3);
      return story.has("unfence");
    };
    expect(opens(4, 4)).toBe(true);
    // It took its rows by a full transfer under epoch 5, and serves by vouches that name none.
    expect(opens(4, 5)).toBe(false);
    expect(opens(5, 4)).toBe(false);
  });

  test("where fork points since it last served are no longer kept, nothing can be proven", () => {
    const story = leftAt(100);
    const epochs = Array.from({ length: 64 }, (_, index) => ({
      epoch: 10 + index,
      segment: "dc2",
      forkPoint: { uuid: STATE_UUID, seqno: 1_000 + index },
    }));
    story.polled(statusOf(ALL, { lastCommitted: 2_000, rejecting: true }));
    story.leased({ arbitrator: { epoch: 73, epochs } });
    expect(story.lastReport.diverged).toBe(true);
  });

  test("a mariadbd that rejoined while its watchdog was away must prove where it has been", () => {
    const story = new ServerStory("a1", { durable: { epochServed: 4 } });
    story.runs();
    story.polled(statusOf(ALL, { lastCommitted: 130 }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport.diverged).toBe(true);
    expect(story.has("fence")).toBe(true);
    const calm = new ServerStory("a1", { durable: { epochServed: 5 } });
    calm.runs();
    calm.polled(statusOf(ALL, { lastCommitted: 130 }));
    calm.leased({ arbitrator: { epoch: 5, epochs: [] } });
    expect(calm.lastReport).toMatchObject({ diverged: false, serving: "on" });
  });

  test("a watchdog that stood still proves anew where its server stands, though the view looks the same", () => {
    const story = servingServer("a1");
    story.now += 20_000;
    story.polled(statusOf(ALL, { confId: "8", lastCommitted: 130 }));
    expect(story.state.foundAt?.seqno).toBe(130);
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport.diverged).toBe(true);

    const calm = servingServer("a1");
    calm.now += 20_000;
    calm.polled(statusOf(ALL, { confId: "8", lastCommitted: 130 }));
    calm.leased();
    expect(calm.lastReport).toMatchObject({ diverged: false, serving: "on" });
  });

  test("a view of the same members and number was never left: polls far apart leave nothing to prove", () => {
    const story = servingServer("a1");
    for (let second = 0; second < 10; second++) {
      story.now += 1_100;
      story.polled(statusOf(ALL, { lastCommitted: 130 + second }));
      story.leased();
    }
    expect(story.state.foundAt).toBeNull();
    // A grant whose fork point is older than what has been committed since is no reason to leave.
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport).toMatchObject({ diverged: false, serving: "on" });
    const unnumbered = servingServer("a1");
    unnumbered.now += 20_000;
    unnumbered.polled(statusOf(ALL, { confId: null, lastCommitted: 130 }));
    expect(unnumbered.state.foundAt?.seqno).toBe(130);
  });

  test("where it left is told to the arbitrator until it is proven in line", () => {
    const story = leftAt(105);
    expect(story.lastReport.stood).toEqual({ uuid: STATE_UUID, seqno: 105 });
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased();
    story.end("unfence");
    story.pass(1_000);
    expect(story.lastReport.stood).toBeUndefined();
  });

  test("where it was found counts beside where it had left: nobody watched it in between", () => {
    const left = { uuid: STATE_UUID, seqno: 90 };
    const story = new ServerStory("a1", { durable: { epochServed: 4, leftPrimary: left } });
    story.runs();
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport.diverged).toBe(true);
  });

  test("a mariadbd that left Primary while its watchdog was away is compared all the same", () => {
    const story = new ServerStory("a1", { durable: { epochServed: 4 } });
    story.runs();
    story.polled(statusOf(DC1, { primary: false, lastCommitted: 105, rejecting: true }));
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: true }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport.diverged).toBe(true);
    expect(story.has("unfence")).toBe(false);
  });
});

describe("starting", () => {
  test("a stopped server is started only on the arbitrator's word on the position that was read", () => {
    const story = new ServerStory("a1");
    story.stops("power");
    expect(story.asked()).toContain("read_position");
    const early = { report: story.lastReport, promise: null };
    story.leased({ ...early, arbitrator: { start: "join" } });
    story.position(105);
    expect(story.has("start")).toBe(false);
    story.leased({ ...early, arbitrator: { start: "join" } });
    expect(story.has("start")).toBe(false);
    story.leased({ promise: null, arbitrator: { start: "join" } });
    expect(story.effects.findLast((one) => one.do === "start")).toEqual({
      do: "start",
      mode: "join",
      position: { uuid: STATE_UUID, seqno: 105 },
      donor: null,
    });
  });

  test("one that somebody else started a moment before its own start is no start of its own: its rows are compared", () => {
    const story = new ServerStory("a1", { durable: { epochServed: 4 } });
    story.stops("power");
    story.position(105);
    story.leased({ promise: null, arbitrator: { start: "join" } });
    expect(story.has("start")).toBe(true);
    story.runs(101);
    story.end("start", "mariadbd runs already");
    story.polled(statusOf(ALL, { lastCommitted: 105, rejecting: false, localState: "Joined" }));
    story.polled(statusOf(ALL, { lastCommitted: 130, rejecting: false }));
    story.leased({ arbitrator: { epoch: 5, epochs: [EPOCH_5] } });
    expect(story.lastReport.diverged).toBe(true);
    expect(story.has("unfence")).toBe(false);
  });

  test("starts that fail are repeated at growing intervals; after three in a row a person must look", () => {
    const story = new ServerStory("a1");
    story.stops();
    story.position(105);
    const waits: number[] = [];
    for (let attempt = 0; attempt < 3; attempt++) {
      story.leased({ promise: null, arbitrator: { start: "join" } });
      const from = story.now;
      story.pass(Math.max(0, story.state.startAt - story.now));
      expect(story.has("start")).toBe(true);
      waits.push(story.now - from);
      story.end("start", "no such file");
      story.effects = [];
    }
    expect(waits).toEqual([0, 1_000, 2_000]);
    story.leased({ promise: null, arbitrator: { start: "join" } });
    story.pass(600_000);
    expect(story.has("start")).toBe(false);
    expect(story.lastReport.because).toContain("3 starts in a row failed");
  });

  test("without the arbitrator it joins those who serve under the epoch that it served under", () => {
    const epochServed = 3;
    const story = new ServerStory("a1", { durable: { epochSeen: 3, epochServed } });
    story.stops();
    story.position(105);
    const hear = (changes: Partial<Report>): void => {
      const parameters = { ...reportOf(story.config, "b1"), ...changes };
      story.hears("dbserver.3", { verb: "db_status_report", parameters });
    };
    story.pass(story.config.outwaitMs + 10);
    // Nobody serves, then somebody under another epoch: neither proves anything.
    expect(story.has("start")).toBe(false);
    const members = membersOf(["a2", "b1", "b2"]);
    hear({ serving: "on", epochServed: 2, epochSeen: 3, members });
    story.pass(600);
    expect(story.has("start")).toBe(false);
    // Nor does a view that this server was in yet: it may break, and be promoted.
    hear({ serving: "on", epochServed, epochSeen: 3 });
    story.pass(600);
    expect(story.has("start")).toBe(false);
    hear({ serving: "on", epochServed, epochSeen: 3, members });
    story.pass(600);
    expect(story.effects.find((effect) => effect.do === "start")).toMatchObject({ mode: "join" });
  });

  test("a server that this watchdog started is fenced from its first moment", () => {
    const story = new ServerStory("a1");
    story.stops();
    story.position(105);
    story.leased({ promise: null, arbitrator: { start: "join" } });
    story.runs();
    expect(story.lastReport).toMatchObject({ fenced: true, serving: "unknown" });
    story.pass(10_000);
    expect(story.has("fence")).toBe(false);
    expect(story.has("kill")).toBe(false);
  });

  test("a mariadbd found running is not taken for fenced, and is heard before it is judged", () => {
    const story = new ServerStory("a1");
    story.runs();
    expect(story.lastReport).toMatchObject({ running: "unknown", fenced: false });
    expect(story.has("fence")).toBe(false);
    expect(story.has("poll")).toBe(true);
  });
});

describe("asking", () => {
  test("a notification brings a poll within the same step", () => {
    const story = servingServer("a1");
    story.pass(0);
    story.polled(statusOf(ALL));
    story.now += 5;
    story.effects = [];
    story.hears("wsrep_notify_cmd.1", {
      verb: "wsrep_notify_cmd",
      parameters: { status: "connected", uuid: null, primary: false, index: 0, members: [] },
    });
    expect(story.has("poll")).toBe(true);
  });

  test("a notification during a poll brings another one as soon as that ends", () => {
    const story = servingServer("a1");
    story.pass(1_000);
    expect(story.state.polling).toBe(true);
    story.effects = [];
    story.hears("wsrep_notify_cmd.1", {
      verb: "wsrep_notify_cmd",
      parameters: { status: "synced", uuid: null, primary: true, index: 0, members: null },
    });
    expect(story.has("poll")).toBe(false);
    story.polled(statusOf(ALL));
    expect(story.has("poll")).toBe(true);
  });

  test("request_status is answered by a poll begun after the question, not by one under way", () => {
    const story = servingServer("a1");
    story.pass(1_000);
    const begun = story.now;
    expect(story.state.polling).toBe(true);
    story.now += 10;
    story.hears(ARBITRATOR, { verb: "request_status", parameters: { because: "silent" } });
    const ticket = story.lastTicket;
    const answered = () => story.effects.some((one) => one.do === "reply" && one.ticket === ticket);
    story.give({
      on: "polled",
      startedAt: begun,
      status: statusOf(ALL),
      error: null,
      unreachable: false,
    });
    expect(answered()).toBe(false);
    story.polled(statusOf(ALL));
    expect(answered()).toBe(true);
  });

  test("request_status is not answered from memory because an earlier poll had failed", () => {
    const story = servingServer("a1");
    story.polled(null, "timeout");
    story.now += 10;
    story.effects = [];
    story.hears(ARBITRATOR, { verb: "request_status", parameters: { because: "silent" } });
    expect(story.effects.some((one) => one.do === "reply")).toBe(false);
    story.now += 10;
    story.polled(null, "timeout");
    expect(story.effects.some((one) => one.do === "reply")).toBe(true);
  });

  test("reports go to everybody but itself, at the interval and at every change", () => {
    const story = servingServer("a1");
    story.pass(0);
    story.effects = [];
    story.probed("hung");
    const receivers = story.effects.flatMap((one) => (one.do === "send" ? [one.to] : []));
    expect(receivers).toEqual(["arbitrator.1", "dbserver.2", "dbserver.3", "dbserver.4"]);
  });

  test("in calm the other watchdogs hear every second report, and each while the lease is not renewed", () => {
    const story = servingServer("a1");
    const told = (): readonly string[] => {
      story.effects = [];
      story.pass(500);
      return story.effects.flatMap((one) => (one.do === "send" ? [one.to] : []));
    };
    const calm = Array.from({ length: 4 }, () => {
      story.leased();
      return told().length;
    });
    expect(calm.sort()).toEqual([1, 1, 4, 4]);
    // The arbitrator falls silent: halfway through the lease vouches are what matters.
    told();
    told();
    expect([told().length, told().length]).toEqual([4, 4]);
  });

  test("200 client minders hear news at once, and otherwise take turns: all within eight reports", () => {
    const config = coreCluster();
    const clients = Array.from({ length: 200 }, (_, index) => ({
      id: `dbclient.${index + 1}` as const,
      serial: index + 1,
      segment: null,
      host: "127.0.0.1",
      port: 4500 + index,
      policy: "spread" as const,
      balancer: { kind: "haproxy" as const, socket: "/nowhere", backend: "galera" },
    }));
    const story = servingServer("a1", { config: { ...config, clients } });
    story.pass(0);
    const told = (): readonly string[] => {
      const to = story.effects.flatMap((one) => (one.do === "send" ? [one.to] : []));
      story.effects = [];
      return to.filter((id) => id.startsWith("dbclient."));
    };
    told();
    story.probed("hung");
    expect(new Set(told()).size).toBe(200);
    story.probed();
    told();
    const heard = new Map<string, number>();
    for (let report = 0; report < 8; report++) {
      // Its right is renewed and its writes flow: nothing is news.
      story.leased();
      story.probed();
      passPolled(story, config.timing.reportIntervalMs);
      const now = told();
      expect(now.length).toBe(25);
      for (const id of now) heard.set(id, (heard.get(id) ?? 0) + 1);
    }
    expect(heard.size).toBe(200);
  });
});

/** A small generator of repeatable chance. */
function chance(seed: number): (below: number) => number {
  let value = seed;
  return (below) => {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((value / 2 ** 32) * below);
  };
}

test("whatever happens, no deadline is ever left in the past: 300 random lives of a watchdog", () => {
  const views = [ALL, DC1, ["a1"], ["a1", "a2", "b1"], ["a1", "b1"]] as const;
  for (let seed = 1; seed <= 300; seed++) {
    const pick = chance(seed);
    const story = new ServerStory("a1", {
      config: pick(2) === 0 ? FENCE_CONFIG : coreCluster(),
      durable: { epochServed: pick(3) },
    });
    story.autoPersist = pick(4) !== 0;
    for (let step = 0; step < 120; step++) {
      const names = views[pick(views.length)] ?? ALL;
      const status = statusOf(names, {
        primary: pick(3) !== 0,
        rejecting: pick(2) === 0,
        lastCommitted: 100 + pick(10),
        localState: pick(4) === 0 ? "Joined" : "Synced",
        evsState: pick(6) === 0 ? "GATHER" : "OPERATIONAL",
      });
      const open = story.effects.findLast((one) =>
        ["fence", "unfence", "persist", "start", "stop", "kill"].includes(one.do),
      );
      const error = pick(3) === 0 ? "it broke" : null;
      const acts: (() => unknown)[] = [
        () => story.polled(status),
        () => story.polled(null),
        () => story.probed((["committed", "refused", "hung", "held"] as const)[pick(4)]),
        () => story.runs(pick(3)),
        () => story.stops(),
        () => story.position(pick(2) === 0 ? null : 100 + pick(10)),
        () =>
          story.leased({
            epoch: pick(2) === 0 ? null : pick(4),
            arbitrator: {
              epoch: pick(4),
              epochs: [EPOCH_5],
              start: (["join", "reseed", "wait"] as const)[pick(3)] ?? "wait",
            },
          }),
        () => story.vouched("b1", pick(4)),
        () => story.order({ epoch: pick(6) + 1, expectedFingerprint: printOf(names, false) }),
        () => story.startOrder("bootstrap", { epoch: pick(6) + 1, position: null }),
        () =>
          story.give({
            on: "formed",
            outcome: (["given", "changed", "failed"] as const)[pick(3)] ?? "given",
            error,
          }),
        () => story.give({ on: "suspended", forMs: 1_000 }),
        () => open !== undefined && story.done(open, error),
        () => story.hears(ARBITRATOR, { verb: "request_status", parameters: { because: "" } }),
      ];
      // `give` itself demands that the deadline is after now.
      acts[pick(acts.length)]?.();
      story.now += pick(3) === 0 ? 0 : pick(800);
      const due = story.core.dueAt(story.state);
      if (due <= story.now) story.give({ on: "wakeup" } satisfies DbServerEvent);
    }
  }
}, 60_000);

test("a report counts the client minders that have this server as their writer, by young acks", () => {
  const balancer = { kind: "haproxy", socket: "/none", backend: "galera" } as const;
  const clients = [1, 2, 3].map((serial) => {
    const id = `dbclient.${serial}` as const;
    const at = { host: "10.0.0.1", port: 1, segment: null };
    return { id, serial, ...at, policy: "single-writer", balancer } as const;
  });
  const story = servingServer("a1", { config: { ...coreCluster(), clients } });
  const { reportIntervalMs } = story.config.timing;
  const acks = (writers: readonly (string | null)[]) => {
    for (const [index, writer] of writers.entries()) {
      story.acked(`dbclient.${index + 1}`, { writer });
    }
  };
  const counted = (): number => {
    passPolled(story, reportIntervalMs);
    return story.lastReport.writers;
  };
  acks(["a1", "a2", "a1"]);
  expect(counted()).toBe(2);
  acks(["a2", null, "a1", "a1"]);
  expect(counted()).toBe(1);
  passPolled(story, 3 * reportIntervalMs);
  expect(counted()).toBe(0);
});

describe("the guard", () => {
  const THREE = [...DC1, "b1"];
  const told = (story: ServerStory) =>
    story.effects.flatMap((effect) => (effect.do === "guard" ? [effect] : []));

  function heavy(): ServerStory {
    const story = servingServer("a1");
    story.state = { ...story.state, guards: true };
    story.polled(statusOf(THREE));
    story.leased();
    return story;
  }

  test("is told of the end of the right and fence_ms where the segment has over half of the view", () => {
    const story = heavy();
    const { leaseMs, fenceMs } = story.config.timing;
    expect(told(story).at(-1)).toMatchObject({
      wanted: true,
      killAt: story.now + leaseMs + fenceMs,
    });
    expect(story.state.guard).toBe(false);
    story.give({ on: "guarded", alive: true });
    expect(story.lastReport.guard).toBe(true);
  });

  test("keeps its deadline when the right has ended, until the fence stands", () => {
    const story = heavy();
    const killAt = told(story).at(-1)?.killAt;
    story.pass(story.config.timing.leaseMs + 10);
    expect(story.has("fence")).toBe(true);
    expect(told(story).at(-1)?.killAt).toBe(killAt as number);
    story.end("fence");
    expect(told(story).at(-1)).toMatchObject({ killAt: null });
  });

  test("is not wanted where the weights of the view are even", () => {
    const story = heavy();
    story.polled(statusOf(ALL));
    story.leased();
    expect(told(story).at(-1)).toMatchObject({ wanted: false, killAt: null });
  });
});
