/** Evictions by a watchdog's own evidence: whom, when no longer, and above all whom never. */
import { describe, expect, test } from "bun:test";
import { EVICT_DEADLINE_MS } from "../../lib/core/dbserver_evict.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import {
  ALL,
  coreCluster,
  down,
  printOf,
  reportOf,
  type ServerStory,
  servingServer,
  statusOf,
  uuidOf,
} from "../support/cores.ts";

const CONFIG = coreCluster({ evict: "confirmed" });
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
