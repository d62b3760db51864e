/** Evictions by a watchdog's own evidence: whom, when no longer, and above all whom never. */
import { describe, expect, test } from "bun:test";
import { EVICT_DEADLINE_MS } from "../../lib/core/dbserver_evict.ts";
import type { Evict } from "../../lib/message/arbitrator.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import {
  ALL,
  ARBITRATOR,
  coreCluster,
  down,
  printOf,
  reportOf,
  type ServerStory,
  STATE_UUID,
  servingServer,
  statusOf,
  uuidOf,
} from "../support/cores.ts";

const CONFIG = coreCluster({ evict: "confirmed" });
const FENCE_MS = CONFIG.timing.fenceMs;
const WITHOUT_B2 = ["a1", "a2", "b1"] as const;

/** The watchdog of `name` reports that its mariadbd has ended. */
function hearEnd(story: ServerStory, name: string, changes: Partial<Report> = {}): void {
  const seen = down(null, { gcommUuid: uuidOf(name), ended: ended(name), ...changes });
  const from = story.config.serverByName.get(name)?.id ?? "dbserver.0";
  const parameters = { ...reportOf(story.config, name), ...seen };
  story.hears(from, { verb: "db_status_report", parameters });
}

function ended(name: string): NonNullable<Report["ended"]> {
  return { uuid: uuidOf(name), pid: 4711, startTime: 99 };
}

function started(name = "a1", config = CONFIG): ServerStory {
  return servingServer(name, { config });
}

/** What the eviction lists were told, one after the other. */
function told(story: ServerStory): readonly (readonly string[])[] {
  return story.effects.flatMap((effect) => (effect.do === "evict" ? [effect.uuids] : []));
}

/** b2's process has ended, a poll has shown it in the view still, and mariadbd was told. */
function evicting(): ServerStory {
  const story = started();
  hearEnd(story, "b2");
  story.polled(statusOf(ALL));
  expect(told(story)).toEqual([[uuidOf("b2")]]);
  story.end("evict");
  story.effects = [];
  return story;
}

describe("a confirmed exit", () => {
  test("of a member that the next poll still shows is evicted at once", () => {
    const story = started();
    hearEnd(story, "b2");
    expect(story.asked()).toEqual(["poll"]);
    story.polled(statusOf(ALL));
    expect(told(story)).toEqual([[uuidOf("b2")]]);
    story.polled(statusOf(ALL));
    expect(told(story)).toHaveLength(1);
  });

  test("that mariadbd cannot be told of is given up in time, and wakes nobody for nothing", () => {
    const story = started();
    hearEnd(story, "b2");
    story.polled(statusOf(ALL));
    const end = story.now + EVICT_DEADLINE_MS + 400;
    while (story.now < end) {
      if (story.state.telling !== null) story.end("evict", "No answer");
      story.pass(20);
      expect(story.core.dueAt(story.state)).toBeGreaterThan(story.now);
    }
    expect(story.state.evictSpent).toEqual([uuidOf("b2")]);
  });

  test("means that commits hang, so nobody is vouched for, and costs no right", () => {
    const story = evicting();
    story.polled(statusOf(ALL));
    expect(story.lastReport).toMatchObject({ probe: "hanging", serving: "on" });
    story.pass(300);
    story.polled(statusOf(WITHOUT_B2));
    expect(story.lastReport).toMatchObject({ probe: "off", serving: "on" });
    expect(story.has("fence")).toBe(false);
  });

  test("counts though another mariadbd has been started since, and has not answered yet", () => {
    const story = started();
    hearEnd(story, "b2", { running: "unknown" });
    story.polled(statusOf(ALL));
    expect(told(story)).toEqual([[uuidOf("b2")]]);
  });

  test("is over with the new view: the list is emptied", () => {
    const story = evicting();
    story.polled(statusOf(WITHOUT_B2, { evictList: [uuidOf("b2")] }));
    expect(told(story)).toEqual([[]]);
    story.end("evict");
    story.polled(statusOf(WITHOUT_B2));
    expect(told(story)).toHaveLength(1);
  });

  test("that changes nothing in time is given up, for this view", () => {
    const story = evicting();
    const until = story.now + EVICT_DEADLINE_MS + 200;
    while (story.now < until) {
      story.pass(100);
      story.polled(statusOf(ALL, { evictList: story.state.evictList }));
    }
    expect(told(story)).toEqual([[]]);
    story.end("evict");
    story.polled(statusOf(ALL));
    expect(told(story)).toHaveLength(1);
  });

  test("is told again where the statement failed", () => {
    const story = started();
    hearEnd(story, "b2");
    story.polled(statusOf(ALL));
    story.end("evict", "No answer within the time limit");
    story.pass(100);
    story.polled(statusOf(ALL));
    expect(told(story)).toEqual([[uuidOf("b2")], [uuidOf("b2")]]);
  });

  test("finds an old UUID in the list and empties it first: it would cost 5 s", () => {
    const story = started();
    const old = "77777777-0000-0000-0000-000000000000";
    story.polled(statusOf(ALL, { evictList: [old] }));
    hearEnd(story, "b2");
    story.end("evict", "lost");
    story.now += 100;
    story.polled(statusOf(ALL, { evictList: [old] }));
    const last = story.effects.findLast((effect) => effect.do === "evict");
    expect(last).toMatchObject({ uuids: [uuidOf("b2")], anew: true });
  });

  test("of two servers at once evicts both where the others keep joint view and quorum", () => {
    const config = coreCluster({
      evict: "confirmed",
      segments: { dc1: ["a1", "a2", "a3"], dc2: ["b1", "b2", "b3"] },
    });
    const six = config.servers.map((server) => server.name);
    const story = servingServer("a1", { config });
    hearEnd(story, "b2");
    hearEnd(story, "a3");
    story.polled(statusOf(six));
    expect(told(story)).toEqual([[uuidOf("b2"), uuidOf("a3")]]);
  });
});

describe("a list that somebody left behind", () => {
  test("is emptied when a watchdog starts", () => {
    const story = started();
    story.polled(statusOf(ALL, { evictList: [uuidOf("b2")] }));
    expect(told(story)).toEqual([[]]);
  });

  test("is none of its business where eviction is off", () => {
    const story = servingServer("a1");
    story.polled(statusOf(ALL, { evictList: [uuidOf("b2")] }));
    expect(told(story)).toEqual([]);
  });
});

describe("never the wrong one", () => {
  const cases: readonly (readonly [string, (story: ServerStory) => void])[] = [
    [
      "an earlier life's UUID, whose server is in the view under another",
      (story) => hearEnd(story, "b2", { ended: { ...ended("b2"), uuid: uuidOf("zz") } }),
    ],
    [
      "a report that also says that this member runs",
      (story) => hearEnd(story, "b2", { running: "up" }),
    ],
    ["one server's word about another", (story) => hearEnd(story, "b2", { ended: ended("b1") })],
    [
      "somebody's word about this very server",
      (story) => hearEnd(story, "b2", { ended: ended("a1") }),
    ],
    [
      "a server that is down, without the word of who saw it end",
      (story) => hearEnd(story, "b2", { ended: null }),
    ],
    [
      "both servers of the other segment: what is left is no joint view",
      (story) => {
        hearEnd(story, "b1");
        hearEnd(story, "b2");
      },
    ],
    [
      "a neighbour of each segment: what is left has no quorum",
      (story) => {
        hearEnd(story, "a2");
        hearEnd(story, "b2");
      },
    ],
  ];
  for (const [what, happens] of cases) {
    test(what, () => {
      const story = started();
      happens(story);
      story.polled(statusOf(ALL));
      story.pass(500);
      story.polled(statusOf(ALL));
      expect(told(story)).toEqual([]);
    });
  }

  test("one that the view has lost already", () => {
    const story = started();
    hearEnd(story, "b2");
    story.polled(statusOf(WITHOUT_B2));
    expect(told(story)).toEqual([]);
  });

  test("anybody, from a view that is not Primary", () => {
    const story = started();
    hearEnd(story, "b2");
    story.polled(statusOf(ALL, { primary: false }));
    expect(told(story)).toEqual([]);
  });

  test("anybody, by a member without a watchdog that would be needed for quorum", () => {
    const story = started();
    const members = [
      ...statusOf(["a1", "b1", "b2"]).members,
      { uuid: uuidOf("garb"), name: "garb" },
    ];
    story.polled(statusOf([], { members }));
    hearEnd(story, "b2");
    story.polled(statusOf([], { members }));
    expect(told(story)).toEqual([]);
  });

  test("anybody, where eviction is off", () => {
    const story = servingServer("a1");
    hearEnd(story, "b2");
    story.polled(statusOf(ALL));
    expect(told(story)).toEqual([]);
    expect(story.lastReport.probe).toBe("flowing");
  });
});

describe("its own end", () => {
  test("is reported with UUID, pid and start time, and stays so after the next start", () => {
    const story = started();
    story.stops();
    const own = { uuid: uuidOf("a1"), pid: 100, startTime: 100 };
    expect(story.lastReport).toMatchObject({ running: "down", ended: own });
    story.runs(101);
    story.polled(
      statusOf(ALL, { gcommUuid: uuidOf("a9"), members: [{ uuid: uuidOf("a9"), name: "a1" }] }),
    );
    expect(story.lastReport).toMatchObject({ running: "up", ended: own });
  });

  test("is not reported of a process that never said who it is in Galera", () => {
    const story = started();
    story.stops();
    story.runs(101);
    story.stops();
    expect(story.lastReport.ended).toEqual({ uuid: uuidOf("a1"), pid: 100, startTime: 100 });
  });
});

test("the periods are set, and set again where somebody changed them", () => {
  const story = started();
  story.polled(statusOf(ALL, { keepaliveMs: 1000 }));
  expect(story.effects.findLast((effect) => effect.do === "tune")).toMatchObject({ periodMs: 200 });
  story.effects = [];
  story.polled(statusOf(ALL, { keepaliveMs: 1000 }));
  expect(story.has("tune")).toBe(false);
  story.pass(6000);
  story.polled(statusOf(ALL, { joinRetransMs: 1000 }));
  expect(story.has("tune")).toBe(true);
});

test("evidence from a view that was left says nothing about the next one", () => {
  const story = evicting();
  story.polled(statusOf(WITHOUT_B2));
  story.polled(
    statusOf(ALL, {
      members: [...statusOf(WITHOUT_B2).members, { uuid: uuidOf("b9"), name: "b2" }],
    }),
  );
  story.pass(500);
  expect(told(story).flat()).toEqual([]);
  expect(printOf(ALL, true)).toContain(uuidOf("b2"));
});

const FULL = coreCluster({ evict: "full" });
const OUT = [uuidOf("b1"), uuidOf("b2")];

/** dc1's server a1 hangs in the complete view and has not heard dc2 for long enough. */
function cutOff(config = FULL): ServerStory {
  const story = servingServer("a1", { config });
  for (const name of ["a2", "b1", "b2"]) hearAlive(story, name);
  const end = story.now + config.timing.suspectMs + 100;
  while (story.now < end) {
    story.pass(100);
    hearAlive(story, "a2");
    story.leased();
    story.polled(statusOf(ALL, { evsState: "GATHER" }));
  }
  story.effects = [];
  return story;
}

function hearAlive(story: ServerStory, name: string): void {
  const from = story.config.serverByName.get(name)?.id ?? "dbserver.0";
  story.hears(from, { verb: "db_status_report", parameters: reportOf(story.config, name) });
}

/** The arbitrator's order to evict dc2 under a grant to dc1. */
function ordered(story: ServerStory, changes: Partial<Evict> = {}) {
  return story.hears(ARBITRATOR, {
    verb: "evict",
    parameters: {
      epoch: 1,
      storeId: "store-1",
      reportNumber: story.state.reportNumber,
      because: "test",
      uuids: OUT,
      expectedFingerprint: printOf(ALL, true),
      grant: {
        segment: "dc1",
        forkPoint: { uuid: STATE_UUID, seqno: 100 },
        basis: "arithmetic",
        forms: true,
      },
      ...changes,
    },
  });
}

describe("silence", () => {
  test("is reported at once when it has lasted suspect_ms, and ends with the first word", () => {
    const story = cutOff();
    expect(story.lastReport.silent).toEqual(["dbserver.3", "dbserver.4"]);
    hearAlive(story, "b1");
    expect(story.lastReport.silent).toEqual(["dbserver.4"]);
  });

  test("is nobody's fault after this very process has slept", () => {
    const story = servingServer("a1", { config: FULL });
    for (const name of ["a2", "b1", "b2"]) hearAlive(story, name);
    story.now += 60_000;
    story.give({ on: "wakeup" });
    expect(story.lastReport.silent).toEqual([]);
  });

  test("is not counted where only ended processes are evicted", () => {
    expect(cutOff(CONFIG).lastReport.silent).toEqual([]);
  });
});

describe("a server whose commits hang", () => {
  function stalled(heard: readonly string[], evsState = "GATHER"): ServerStory {
    const story = servingServer("a1", { config: FULL });
    for (const name of ["a2", "b1", "b2"]) hearAlive(story, name);
    for (let passed = 0; passed < 1_700; passed += 100) {
      story.pass(100);
      for (const name of heard) hearAlive(story, name);
      story.leased();
      story.polled(statusOf(ALL, { evsState, rejecting: story.state.closed }));
    }
    return story;
  }

  test("and that does not hear half of the view closes its door before the others can evict it", () => {
    const story = stalled(["a2"]);
    expect(story.has("fence")).toBe(true);
    expect(story.lastReport.silent).toEqual([]);
  });

  test("opens again, when the view comes to life, only by what is promised from then on", () => {
    const story = stalled(["a2"]);
    story.end("fence");
    story.effects = [];
    const before = story.lastReport;
    const sentAt = story.now;
    for (const name of ["a2", "b1", "b2"]) hearAlive(story, name);
    story.now += 100;
    const alive = statusOf(ALL, { rejecting: true, lastCommitted: 101 });
    story.polled(alive);
    expect(story.state.apart).toBe(false);
    // The lease of before would last for seconds yet, and its answer may be late.
    story.leased({ report: before, sentAt: sentAt - 1 });
    expect(story.has("unfence")).toBe(false);
    story.leased();
    expect(story.has("unfence")).toBe(true);
  });

  test("stays open while it hears more than half", () => {
    expect(stalled(["a2", "b1"]).has("fence")).toBe(false);
  });

  test("is what counts: silence alone closes no door", () => {
    expect(stalled(["a2"], "OPERATIONAL").has("fence")).toBe(false);
  });
});

describe("an order to evict", () => {
  test("is carried out only once its epoch is on disk", () => {
    const story = cutOff();
    story.autoPersist = false;
    ordered(story);
    expect(told(story)).toEqual([]);
    story.end("persist");
    expect(told(story)).toEqual([OUT]);
    expect(story.state.durable).toMatchObject({ epochObeyed: 1, epochSeen: 1, epochServed: 1 });
  });

  test("goes through non-Primary with an open door, and forms the Primary under its grant", () => {
    const story = cutOff();
    ordered(story);
    const ticket = story.lastTicket;
    story.end("evict");
    story.polled(statusOf(["a1", "a2"], { primary: false, rejecting: false, evictList: OUT }));
    expect(story.has("fence")).toBe(false);
    const formed = story.effects.findLast((effect) => effect.do === "form_primary");
    expect(formed).toMatchObject({ expectedFingerprint: printOf(["a1", "a2"], false), epoch: 1 });
    story.give({ on: "formed", outcome: "given", error: null });
    story.polled(statusOf(["a1", "a2"], { evictList: OUT }));
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "ok" });
    expect(story.lastReport).toMatchObject({ serving: "on", group: "segment" });
    expect(story.has("fence")).toBe(false);
    expect(told(story).at(-1)).toEqual([]);
  });

  test("has come true where Galera makes the rest Primary by itself", () => {
    const story = cutOff();
    ordered(story);
    const ticket = story.lastTicket;
    story.end("evict");
    story.polled(statusOf(["a1", "a2"]));
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "ok" });
    expect(story.has("form_primary")).toBe(false);
    expect(story.lastReport.serving).toBe("on");
  });

  test("proves nobody's rows: one that may be beyond a fork point stays so", () => {
    const grant = { segment: "dc1", forkPoint: null, basis: "arithmetic", forms: false } as const;
    const proven = (leftPrimary: { uuid: string; seqno: number } | null) => {
      const story = cutOff();
      story.state = {
        ...story.state,
        closed: true,
        durable: { ...story.state.durable, leftPrimary },
      };
      story.state = { ...story.state, proven: false, arbitratorAt: Number.NEGATIVE_INFINITY };
      ordered(story, { grant });
      story.end("evict");
      story.polled(statusOf(["a1", "a2"], { rejecting: true }));
      return { proven: story.state.proven, served: story.state.durable.epochServed };
    };
    expect(proven(null)).toEqual({ proven: true, served: 1 });
    expect(proven({ uuid: STATE_UUID, seqno: 90 })).toEqual({ proven: false, served: 0 });
  });

  test("goes through non-Primary with a door that was opening when Primary was lost, too, and nothing is due for it", () => {
    const story = cutOff();
    const grant = { segment: "dc1", forkPoint: null, basis: "arithmetic", forms: false } as const;
    story.done({ do: "fence", because: "" });
    ordered(story, { grant });
    story.give({ on: "wakeup" });
    expect(story.has("unfence")).toBe(true);
    story.end("evict");
    story.polled(statusOf(["a1", "a2"], { primary: false, rejecting: true }));
    story.end("unfence");
    story.polled(statusOf(["a1", "a2"], { primary: false, rejecting: false }));
    for (const end = story.now + FENCE_MS + 100; story.now < end; ) {
      story.pass(50);
      story.polled(statusOf(["a1", "a2"], { primary: false, rejecting: false }));
      expect(story.core.dueAt(story.state)).toBeGreaterThan(story.now);
    }
    expect(story.has("kill")).toBe(false);
    expect(story.state.eviction).not.toBeNull();
  });

  test("leaves forming to the one that was named for it", () => {
    const story = cutOff();
    const grant = { segment: "dc1", forkPoint: null, basis: "arithmetic", forms: false } as const;
    ordered(story, { grant });
    story.end("evict");
    story.polled(statusOf(["a1", "a2"], { primary: false, rejecting: false }));
    expect(story.has("form_primary")).toBe(false);
  });

  test("that changes nothing in time has failed, and the list is emptied", () => {
    const story = cutOff();
    ordered(story);
    const ticket = story.lastTicket;
    story.end("evict");
    const end = story.now + EVICT_DEADLINE_MS + 200;
    while (story.now < end) {
      story.pass(100);
      story.polled(statusOf(ALL, { evsState: "GATHER", evictList: story.state.evictList }));
    }
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "failed" });
    expect(told(story)).toEqual([OUT, []]);
  });

  test("whose view changes while it is being written is refused, and its epoch not served", () => {
    const story = cutOff();
    story.autoPersist = false;
    ordered(story);
    const ticket = story.lastTicket;
    story.polled(statusOf(["a1", "a2", "b1"]));
    // The second one: a Primary view has been seen since the number rose.
    story.end("persist");
    story.end("persist");
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "refused" });
    expect(told(story)).toEqual([]);
    expect(story.state.durable.epochServed).toBe(0);
  });

  test("whose epoch cannot be written in time is void, and nothing is due for it any longer", () => {
    const story = cutOff();
    story.autoPersist = false;
    ordered(story);
    const ticket = story.lastTicket;
    story.end("persist", "disk full");
    const end = story.now + EVICT_DEADLINE_MS + 1200;
    while (story.now < end) {
      story.pass(100);
      if (story.state.writing) story.end("persist", "disk full");
    }
    expect(story.ackOf(ticket)).toMatchObject({
      outcome: "refused",
      because: "its epoch could not be written in time",
    });
    expect(told(story)).toEqual([]);
    expect(story.state.durable.epochServed).toBe(0);
  });

  test("that leaves more than the rest together, non-Primary, has failed in time too", () => {
    const story = cutOff();
    ordered(story, { uuids: [uuidOf("b2")] });
    const ticket = story.lastTicket;
    story.end("evict");
    const end = story.now + EVICT_DEADLINE_MS + 200;
    while (story.now < end) {
      story.pass(100);
      const members = [...ALL.filter((name) => name !== "b2"), "zz"];
      story.polled(statusOf(members, { primary: false, evictList: story.state.evictList }));
    }
    expect(story.ackOf(ticket)).toMatchObject({ outcome: "failed" });
  });

  test("without a grant needs no epoch, where the rest is joint and has quorum", () => {
    const story = cutOff();
    hearAlive(story, "b1");
    ordered(story, { epoch: 0, uuids: [uuidOf("b2")], grant: null });
    expect(told(story)).toEqual([[uuidOf("b2")]]);
    expect(story.state.durable.epochObeyed).toBe(0);
  });

  const refusals: readonly (readonly [string, string, (story: ServerStory) => Partial<Evict>])[] = [
    [
      "a server that is heard here",
      "evict.gone: b1 is heard",
      (story) => {
        hearAlive(story, "b1");
        return {};
      },
    ],
    ["this very server", "evict.gone: this very server", () => ({ uuids: [uuidOf("a1")] })],
    ["somebody who is not in the view", "evict.gone:", () => ({ uuids: [uuidOf("zz")] })],
    [
      "anybody from another view",
      "evict.view:",
      () => ({ expectedFingerprint: printOf(["a1"], true) }),
    ],
    [
      "anybody while commits flow",
      "evict.stalled:",
      (story) => {
        story.polled(statusOf(ALL, { lastCommitted: 101 }));
        return {};
      },
    ],
    ["so many without a grant", "evict.remainder:", () => ({ epoch: 0, grant: null })],
    [
      "on an old report",
      "report.young:",
      (story) => ({ reportNumber: story.state.reportNumber + 9 }),
    ],
    ["by another store", "store.bound:", () => ({ storeId: "store-2" })],
  ];
  for (const [what, because, prepare] of refusals) {
    test(`is refused for ${what}`, () => {
      const story = cutOff();
      const durable = { ...story.state.durable, storeId: "store-1" };
      story.state = { ...story.state, durable, written: durable };
      const ack = ordered(story, prepare(story));
      expect(ack).toMatchObject({ outcome: "refused" });
      expect(ack?.because).toStartWith(because);
      expect(told(story)).toEqual([]);
    });
  }
});
