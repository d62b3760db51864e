import { expect, describe as group, test } from "bun:test";
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import {
  type Applied,
  type DbClientEffect,
  type DbClientEvent,
  type DbClientState,
  describe,
  dueAt,
  initial,
  step,
} from "../../lib/core/dbclient.ts";
import { describePlace, STEADY_MS, type Target } from "../../lib/core/dbclient_policy.ts";
import type { ConfigMark, Report } from "../../lib/message/dbserver.ts";
import { clientCluster, idOf, STATE_UUID, servingReport } from "../support/client_cluster.ts";

const RIGHT: Applied = {
  error: null,
  actual: [],
  changed: [],
  foreign: [],
  held: [],
  oddities: [],
  restarted: false,
  tookMs: 1,
};

/** A client minder's core on a clock of its own; timers fire as the loop would let them. */
class Story {
  readonly config: ClusterConfig;
  state: DbClientState;
  now = 1000;
  effects: DbClientEffect[] = [];
  #number = 0;

  constructor(config = clientCluster(), writer: string | null = null) {
    this.config = config;
    this.state = initial(config, "dbclient.1", this.now, writer);
    this.give({ on: "wakeup" });
  }

  give(event: DbClientEvent): readonly DbClientEffect[] {
    const { state, effects } = step(this.state, event, this.now);
    this.state = state;
    this.effects.push(...effects);
    expect(dueAt(state)).toBeGreaterThan(this.now);
    return effects;
  }

  report(name: string, changes: Partial<Report> = {}, members?: readonly string[]) {
    return this.give({
      on: "message",
      from: idOf(this.config, name),
      body: { verb: "db_status_report", parameters: this.reportOf(changes, members) },
      ticket: ++this.#number,
    });
  }

  /** The writer that the answer to a report names. */
  acked(name: string, changes: Partial<Report>): string | null | undefined {
    const [reply] = this.report(name, changes);
    if (reply?.do !== "reply" || reply.body.verb !== "ack") throw new Error("no ack came first");
    return reply.body.parameters.writer;
  }

  reportOf(changes: Partial<Report> = {}, members?: readonly string[]): Report {
    return servingReport(this.config, { reportNumber: ++this.#number, ...changes }, members);
  }

  /** Lets time pass; the named servers report every 500 ms. */
  pass(forMs: number, names = "", changes: Partial<Report> = {}, members?: readonly string[]) {
    const end = this.now + forMs;
    let reportAt = this.now + 500;
    while (this.now < end) {
      this.now = Math.min(end, reportAt, dueAt(this.state));
      if (dueAt(this.state) <= this.now) this.give({ on: "wakeup" });
      if (this.now < reportAt) continue;
      reportAt += 500;
      for (const name of names.split(" ").filter(Boolean)) this.report(name, changes, members);
    }
  }

  all(changes: Partial<Report> = {}) {
    for (const { name } of this.config.servers) this.report(name, changes);
  }

  places(): string {
    return (this.state.target ?? [])
      .map(({ name, place }) => `${name} ${describePlace(place)}`)
      .join(", ");
  }

  took(kind: DbClientEffect["do"]): readonly DbClientEffect[] {
    const found = this.effects.filter((effect) => effect.do === kind);
    this.effects = [];
    return found;
  }

  logged(): readonly string[] {
    const found = this.effects.flatMap((one) => (one.do === "log" ? [one.event] : []));
    this.effects = [];
    return found;
  }
}

/** As many client minders as need eight turns: each hears every watchdog every four seconds. */
function crowded(config: ClusterConfig): ClusterConfig {
  const [client] = config.clients;
  if (client === undefined) throw new Error("no client");
  const clients = Array.from({ length: 200 }, (_, index) => {
    return { ...client, id: `dbclient.${index + 1}` as const, serial: index + 1 };
  });
  return { ...config, clients };
}

const CALM = "a1 up 100, a2 drain, b1 drain, b2 drain";
const SECOND = "a1 drain, a2 up 100, b1 drain, b2 drain";

group("hearing", () => {
  test("every report is acknowledged at once, promising nothing", () => {
    const story = new Story();
    expect(story.report("a1")[0]).toEqual({
      do: "reply",
      ticket: 2,
      body: {
        verb: "ack",
        parameters: {
          outcome: "ok",
          because: "",
          promise: null,
          epochServed: null,
          writer: null,
          arbitrator: null,
        },
      },
    });
  });

  test("a report of a server that the config does not have is refused and changes nothing", () => {
    const story = new Story();
    const effects = story.give({
      on: "message",
      from: "dbserver.99",
      body: { verb: "db_status_report", parameters: story.reportOf() },
      ticket: 7,
    });
    expect(effects[0]).toMatchObject({ do: "reply", body: { parameters: { outcome: "refused" } } });
    expect(story.state.known.size).toBe(4);
  });

  test("at start everybody is asked, and nothing is steered before all have answered", () => {
    const story = new Story();
    expect(story.took("send").map((one) => (one.do === "send" ? one.to : ""))).toEqual([
      "dbserver.1",
      "dbserver.2",
      "dbserver.3",
      "dbserver.4",
    ]);
    for (const name of ["a1", "a2", "b1"]) story.report(name);
    expect(story.took("reconcile")).toEqual([]);
    story.report("b2");
    expect(story.took("reconcile")).toHaveLength(1);
    expect(story.places()).toBe(CALM);
  });

  test("whoever has not answered after suspectMs is judged without a word of its own", () => {
    const story = new Story();
    story.pass(2600, "a2 b1 b2", {}, ["a2", "b1", "b2"]);
    expect(story.places()).toBe("a1 out, a2 up 100, b1 drain, b2 drain");
    expect(story.state.cut).toEqual(["a1"]);
  });

  test("an answer to a question counts as a report, unless a newer one has overtaken it", () => {
    const story = new Story();
    story.all();
    const answer = (report: Report) =>
      story.give({
        on: "answered",
        by: "dbserver.1",
        sent: { verb: "request_status", parameters: { because: "" } },
        sentAt: story.now,
        reply: { verb: "db_status_report", parameters: report },
      });
    answer(story.reportOf({ fenced: true, reportNumber: 0 }));
    expect(story.places()).toBe(CALM);
    answer(story.reportOf({ fenced: true }));
    expect(story.places()).toBe("a1 out, a2 up 100, b1 drain, b2 drain");
  });
});

group("one word is enough", () => {
  const table: readonly (readonly [string, Partial<Report>, string, readonly string[]])[] = [
    ["down", { running: "down", primary: "no", serving: "off", group: "down" }, "out", ["a1"]],
    ["fenced", { fenced: true }, "out", ["a1"]],
    ["non-Primary", { primary: "no" }, "out", ["a1"]],
    ["not ready", { serving: "off" }, "out", []],
    ["drained", { draining: true }, "drain", []],
    ["leaving", { leaving: true }, "drain", []],
    ["donor", { localState: "Donor/Desynced" }, "drain", []],
    ["silent to its watchdog's polls", { pollAgeMs: 1500 }, "drain", []],
    ["not answering", { running: "unknown", serving: "unknown", primary: "unknown" }, "drain", []],
  ];
  for (const [word, changes, place, cut] of table) {
    test(`a writer that is ${word} hands over in the same step`, () => {
      const story = new Story();
      story.all();
      story.took("reconcile");
      const effects = story.report("a1", changes);
      const reconcile = effects.find((effect) => effect.do === "reconcile");
      expect(story.places()).toBe(`a1 ${place}, a2 up 100, b1 drain, b2 drain`);
      expect(reconcile).toMatchObject({ cut });
    });
  }

  test("a writer that comes back takes nothing away from the one that is fit", () => {
    const story = new Story();
    story.all();
    story.report("a1", { fenced: true });
    story.report("a1");
    expect(story.places()).toBe(SECOND);
    story.pass(3 * STEADY_MS, "a1 a2 b1 b2");
    expect(story.places()).toBe(SECOND);
  });

  test("a poll that is late for all moves nobody", () => {
    const story = new Story();
    story.all();
    for (const name of ["b2", "a2", "b1", "a1"]) story.report(name, { pollAgeMs: 1500 });
    expect(story.places()).toBe(CALM);
    story.pass(2000, "a1 a2 b1 b2", { pollAgeMs: 3000 });
    expect(story.places()).toBe(CALM);
  });

  test("whoever becomes fit first at a start of all writes, and goes on writing", () => {
    const story = new Story();
    for (const { name } of story.config.servers) story.report(name, { serving: "off" });
    const seen = new Set<string>();
    for (const name of ["b1", "a1", "b2", "a2"]) {
      story.report(name);
      story.pass(300, "");
      seen.add(story.places().replaceAll("out", "drain"));
    }
    story.pass(2 * STEADY_MS, "a1 a2 b1 b2");
    seen.add(story.places());
    expect([...seen]).toEqual(["a1 drain, a2 drain, b1 up 100, b2 drain"]);
  });

  test("hanging writes count once a common stall would show on all", () => {
    const alone = new Story();
    alone.all();
    alone.report("a1", { probe: "hanging" });
    expect(alone.places()).toBe(CALM);
    alone.pass(999, "a2 b1 b2");
    expect(alone.places()).toBe(CALM);
    alone.report("a1", { probe: "hanging" });
    alone.pass(1, "");
    expect(alone.places()).toBe("a1 drain, a2 up 100, b1 drain, b2 drain");

    const common = new Story();
    common.all();
    for (const name of ["a1", "b2", "a2", "b1"]) {
      common.now += 200;
      common.report(name, { probe: "hanging" });
    }
    common.pass(3000, "a1 a2 b1 b2", { probe: "hanging" });
    expect(common.places()).toBe(CALM);
  });
});

group("agreeing on a writer", () => {
  /** A minder whose writer is a2, while a1 could write as well. */
  function movedToSecond(): Story {
    const story = new Story();
    story.all();
    story.report("a1", { fenced: true });
    story.pass(STEADY_MS, "a1 a2 b1 b2");
    expect(story.places()).toBe(SECOND);
    return story;
  }

  /** All servers report for so long; each says how many minders have it as their writer. */
  function votes(story: Story, forMs: number, counts: Readonly<Record<string, number>>) {
    for (let ms = 0; ms < forMs; ms += 500) {
      story.pass(500);
      for (const { name } of story.config.servers) {
        story.report(name, { writers: counts[name] ?? 0 });
      }
    }
  }

  test("an ack names the writer, and none for other policies", () => {
    const writerIn = (story: Story): string | null => {
      const [effect] = story.report("a1");
      if (effect?.do !== "reply" || effect.body.verb !== "ack") throw new Error("no ack");
      return effect.body.parameters.writer;
    };
    const story = new Story();
    expect(writerIn(story)).toBeNull();
    story.all();
    expect(writerIn(story)).toBe("a1");
    const other = new Story(clientCluster({ client: { policy: "spread" } }));
    other.all();
    expect(writerIn(other)).toBeNull();
  });

  test("the few follow the many, and as many follow the first in succession", () => {
    for (const [a1, a2, expected] of [
      [2, 1, CALM],
      [1, 1, CALM],
      [1, 2, SECOND],
      [0, 1, SECOND],
      [0, 0, SECOND],
    ] as const) {
      const story = movedToSecond();
      votes(story, 10_000, { a1, a2 });
      expect(`${a1}:${a2} ${story.places()}`).toBe(`${a1}:${a2} ${expected}`);
    }
  });

  test("a vote that was lost for less than 3 s moves nobody", () => {
    const story = movedToSecond();
    votes(story, 2500, { a1: 1, a2: 1 });
    expect(story.places()).toBe(SECOND);
    votes(story, 1000, { a2: 2 });
    votes(story, 2500, { a1: 1, a2: 1 });
    expect(story.places()).toBe(SECOND);
  });

  test("when its writer is lost a minder joins what others have chosen already", () => {
    const story = new Story();
    story.all();
    story.report("b2", { writers: 1 });
    story.report("a1", { fenced: true });
    expect(story.places()).toBe("a1 out, a2 drain, b1 drain, b2 up 100");
  });

  test("a restarted minder keeps the writer of the balancer's table if it is fit", () => {
    const story = new Story(clientCluster(), "b1");
    story.all();
    expect(story.places()).toBe("a1 drain, a2 drain, b1 up 100, b2 drain");
    story.report("b1", { draining: true });
    expect(story.places()).toBe(CALM);
  });

  test("a table that nobody else agrees with is given up at once", () => {
    const fresh = new Story(clientCluster(), "b1");
    for (const name of ["a1", "b1", "b2"]) fresh.report(name);
    fresh.report("a2", { writers: 5 });
    expect(fresh.places()).toBe(SECOND);
  });

  test("minders that hear and answer real counts end with one writer, from any start", () => {
    const names = ["a1", "a2", "b1", "b2"];
    for (let code = 0; code < 4 ** 3; code++) {
      const chosen = [0, 1, 2].map((digit) => names[Math.floor(code / 4 ** digit) % 4] ?? "");
      const stories = chosen.map((writer) => new Story(clientCluster(), writer));
      // Each starts from a table of its own; the servers count late, by the acks of a report before.
      for (const story of stories) story.all();
      let acks = stories.map((story) => story.state.writer);
      for (let round = 0; round < 40; round++) {
        const counts = Object.fromEntries(
          names.map((name) => [name, acks.filter((writer) => writer === name).length]),
        );
        acks = stories.map((story) => story.state.writer);
        for (const story of stories) votes(story, 500, counts);
      }
      const ends = new Set(stories.map((story) => story.state.writer));
      if (ends.size !== 1) throw new Error(`${chosen.join(" ")} end as ${[...ends].join(" ")}`);
    }
  });
});

group("silence", () => {
  test("a silent server is asked, and is out at once when the others' view is without it", () => {
    const story = new Story();
    story.all();
    story.effects = [];
    story.pass(700, "a2 b1 b2", {}, ["a2", "b1", "b2"]);
    expect(story.places()).toBe(CALM);
    story.pass(100);
    expect(story.places()).toBe("a1 out, a2 up 100, b1 drain, b2 drain");
    expect(story.state.cut).toEqual(["a1"]);
    story.pass(300);
    expect(story.took("send")).toMatchObject([{ to: "dbserver.1" }]);
  });

  test("a silent server that the others still see gets no new connections after suspectMs", () => {
    const story = new Story();
    story.all();
    story.pass(1999, "a2 b1 b2");
    expect(story.places()).toBe(CALM);
    story.pass(1, "");
    expect(story.places()).toBe("a1 drain, a2 up 100, b1 drain, b2 drain");
    expect(story.state.cut).toEqual([]);
  });

  test("among 200 client minders a server is unheard for four seconds and nobody minds", () => {
    const story = new Story(crowded(clientCluster()));
    story.all();
    story.effects = [];
    for (let round = 0; round < 3; round++) {
      story.pass(4000);
      story.all();
    }
    expect(story.places()).toBe(CALM);
    expect(story.took("send")).toEqual([]);
    for (const name of ["a2", "b1", "b2"]) {
      story.now += 400;
      story.report(name);
    }
    story.pass(5999 - 1200);
    expect(story.took("send")).toEqual([]);
    story.pass(1);
    expect(story.took("send")).toMatchObject([{ to: "dbserver.1" }]);
    story.report("b1");
    story.pass(1999);
    expect(story.places()).toBe(CALM);
    story.pass(1);
    expect(story.places()).toBe(SECOND);
  });

  test("where many are late at once only a few are asked at a time", () => {
    const names = Array.from({ length: 12 }, (_, index) => `s${index + 1}`);
    const story = new Story(
      clientCluster({ segments: { dc1: names.slice(0, 6), dc2: names.slice(6) } }),
    );
    expect(story.took("send")).toHaveLength(12);
    story.all();
    story.effects = [];
    story.pass(1000);
    expect(story.took("send")).toHaveLength(4);
    story.pass(499);
    expect(story.took("send")).toHaveLength(0);
    story.pass(1);
    expect(story.took("send")).toHaveLength(4);
    story.pass(500);
    expect(story.took("send")).toHaveLength(4);
  });

  test("among 200 it is out as soon as the others' new view is told, whosever turn it is", () => {
    const story = new Story(crowded(clientCluster()));
    story.all();
    story.now += 800;
    for (const name of ["a2", "b1", "b2"]) story.report(name, {}, ["a2", "b1", "b2"]);
    expect(story.places()).toBe("a1 out, a2 up 100, b1 drain, b2 drain");
    const early = new Story(crowded(clientCluster()));
    early.all();
    early.now += 100;
    for (const name of ["a2", "b1", "b2"]) early.report(name, {}, ["a2", "b1", "b2"]);
    expect(early.places()).toBe(CALM);
    early.pass(650);
    expect(early.places()).toBe("a1 out, a2 up 100, b1 drain, b2 drain");
  });

  test("when all fall silent nothing changes, and it is said once", () => {
    const story = new Story();
    story.report("a1");
    for (const name of ["a2", "b1", "b2"]) {
      story.now += 150;
      story.report(name);
    }
    story.effects = [];
    story.pass(60_000);
    expect(story.places()).toBe(CALM);
    expect(story.logged()).toEqual(["fail_static"]);
    expect(describe(story.state, story.now).trouble).toContain("no server is heard");
  });

  test("the table stays level while nobody is heard", () => {
    const story = new Story();
    story.all();
    story.effects = [];
    story.pass(10_000);
    expect(story.took("reconcile")).toHaveLength(5);
  });

  test("after a common silence each gets the time to speak again", () => {
    const story = new Story();
    story.all();
    story.pass(60_000);
    story.report("b2");
    expect(story.places()).toBe(CALM);
    story.pass(1400, "b1 b2");
    story.report("a1");
    story.report("a2");
    story.pass(3000, "a1 a2 b1 b2");
    expect(story.places()).toBe(CALM);
  });

  test("a suspended process waits for news instead of counting its own absence", () => {
    const story = new Story();
    story.all();
    story.now += 30_000;
    story.give({ on: "suspended", forMs: 30_000 });
    story.report("b1");
    expect(story.places()).toBe(CALM);
  });

  test("the last server is kept in doubt", () => {
    const story = new Story();
    story.all();
    for (const name of ["a2", "b1", "b2"]) story.report(name, { fenced: true });
    story.pass(5000, "a2 b1 b2", { fenced: true });
    expect(story.places()).toBe("a1 up 100, a2 out, b1 out, b2 out");
  });
});

group("load", () => {
  const config = clientCluster({ client: { policy: "spread" } });

  test("flow control takes weight at once and gives it back after five calm seconds", () => {
    const story = new Story(config);
    story.all();
    story.report("b1", { flowControl: 0.3 });
    expect(story.places()).toBe("a1 up 100, a2 up 100, b1 up 25, b2 up 100");
    story.report("b1", { flowControl: 0.1 });
    story.pass(8000, "a1 a2 b2");
    expect(story.places()).toContain("b1 drain");
    story.report("b1", { flowControl: 0 });
    story.pass(4999, "a1 a2 b1 b2");
    expect(story.places()).toContain("b1 up 25");
    story.pass(1);
    expect(story.places()).toContain("b1 up 100");
  });

  test("a server three seconds behind loses weight, however large the numbers are", () => {
    const story = new Story(config);
    story.all();
    let behind = 100;
    for (let tick = 1; tick <= 8; tick++) {
      story.now += 500;
      for (const name of ["a1", "a2", "b1"]) {
        story.report(name, { lastCommitted: 100 + tick * 100_000 });
      }
      if (tick > 1) behind += 1;
      story.report("b2", { lastCommitted: behind });
      expect([tick, story.places().includes("b2 up 25")]).toEqual([tick, tick >= 7]);
    }
  });

  test("numbers of another state are not compared", () => {
    const story = new Story(config);
    story.all({ lastCommitted: 1_000_000 });
    story.pass(5000, "a1 a2 b1 b2", {
      stateUuid: STATE_UUID.replaceAll("1", "9"),
      lastCommitted: 5,
    });
    expect(story.places()).toBe("a1 up 100, a2 up 100, b1 up 100, b2 up 100");
  });
});

group("the balancer's word", () => {
  test("a failed pass is repeated soon, then slower, and said once", () => {
    const story = new Story();
    story.all();
    story.effects = [];
    const at: number[] = [];
    const failed: Applied = { ...RIGHT, error: "haproxy x: no reply in time" };
    story.give({ on: "applied", result: failed });
    for (let tries = 0; tries < 7; tries++) {
      const before = story.now;
      while (!story.effects.some((effect) => effect.do === "reconcile")) {
        story.now = Math.min(dueAt(story.state), story.now + 500);
        story.all();
        story.give({ on: "wakeup" });
      }
      at.push(story.now - before);
      expect(story.logged()).toEqual(tries === 0 ? ["balancer_wrong"] : []);
      story.give({ on: "applied", result: failed });
    }
    expect(at).toEqual([100, 200, 400, 800, 1600, 2000, 2000]);
    expect(describe(story.state, story.now).trouble).toBe("haproxy x: no reply in time");
    story.give({ on: "applied", result: RIGHT });
    expect(story.logged()).toEqual(["balancer_right"]);
    expect(describe(story.state, story.now).trouble).toBeNull();
  });

  test("foreign edits, restarts and oddities are reported", () => {
    const story = new Story();
    story.all();
    story.effects = [];
    const odd = { ...RIGHT, foreign: ["a1: up 100 -> up 7"], oddities: ["x"], restarted: true };
    story.give({ on: "applied", result: odd });
    expect(story.logged()).toEqual(["balancer_restarted", "foreign_edit", "balancer_odd"]);
    story.give({ on: "applied", result: { ...RIGHT, oddities: ["x"] } });
    expect(story.logged()).toEqual([]);
  });

  test("a person's maintenance at the balancer moves the writer away", () => {
    const story = new Story();
    story.all();
    story.give({ on: "applied", result: { ...RIGHT, held: ["a1"] } });
    expect(story.places()).toBe("a1 drain, a2 up 100, b1 drain, b2 drain");
  });

  test("sessions of a drained server are counted down, and cut at the deadline if there is one", () => {
    const story = new Story(clientCluster({ client: { drainCutMs: 5000 } }));
    story.all();
    story.report("a1", { draining: true });
    const left = { name: "a1", place: "drain", sessions: 3 };
    story.give({ on: "applied", result: { ...RIGHT, actual: [left] } });
    story.pass(4900, "a2 b1 b2");
    story.report("a1", { draining: true });
    expect(story.state.cut).toEqual([]);
    expect(describe(story.state, story.now).servers[0]).toMatchObject({
      target: "drain",
      actual: "drain",
      sessions: 3,
      drainingForMs: 4900,
      cutInMs: 100,
    });
    story.pass(100);
    expect(story.state.cut).toEqual(["a1"]);
  });
});

group("the config in the database", () => {
  const mark = (version: number, text = "a") => ({
    version,
    checksum: `${text}${version}`,
    rules: text,
  });
  const by = (active: ConfigMark): Partial<Report> => ({ config: { active, held: null } });
  const asked = (story: Story) =>
    story.took("adopt").map((effect) => (effect.do === "adopt" ? effect.mark.checksum : ""));

  function going(active: ConfigMark): Story {
    const story = new Story();
    story.give({ on: "config", config: story.config, mark: active });
    story.all(by(active));
    story.effects = [];
    return story;
  }

  test("a document that waits is gone by once a server that serves does", () => {
    const story = going(mark(3));
    story.report("a1", { config: { active: mark(3), held: mark(4) } });
    story.report("a2", { ...by(mark(4)), serving: "off", fenced: true });
    expect(asked(story)).toEqual([]);
    story.report("b1", by(mark(4)));
    expect(asked(story)).toEqual(["a4"]);
    // Asked for once, then again some seconds later.
    story.pass(2_000, "b1", by(mark(4)));
    expect(asked(story)).toEqual([]);
    story.pass(4_000, "b1", by(mark(4)));
    expect(asked(story)).toEqual(["a4"]);
    story.give({ on: "config", config: story.config, mark: mark(4) });
    story.pass(6_000, "a1 b1", by(mark(4)));
    expect(asked(story)).toEqual([]);
  });

  test("an older one, or another of that version, only where nobody serves by its own any more", () => {
    for (const other of [mark(3), mark(4, "b")]) {
      const story = going(mark(4));
      story.report("a1", by(other));
      expect(asked(story)).toEqual([]);
      for (const name of ["a2", "b1", "b2"]) story.report(name, by(other));
      expect(asked(story)).toEqual([other.checksum]);
    }
  });

  test("with a site file there is nothing to follow", () => {
    const story = new Story();
    story.all(by(mark(9)));
    expect(asked(story)).toEqual([]);
  });
});

group("a switchover", () => {
  test("takes the writer along though it is fit, and cuts what is left when its time is over", () => {
    const story = new Story();
    story.all();
    expect(story.places()).toBe("a1 up 100, a2 drain, b1 drain, b2 drain");
    story.report("a2", { yielding: true, primarySegment: "dc2" });
    story.report("a1", { yielding: true, primarySegment: "dc2" });
    expect(story.places()).toBe("a1 drain, a2 drain, b1 up 100, b2 drain");
    expect(story.state.writer).toBe("b1");
    expect(story.state.cut).toEqual([]);
    story.report("a1", { yielding: true, cutting: true });
    expect(story.state.cut).toEqual(["a1"]);
  });

  test("the answer to the report that moves the writer names the new one", () => {
    const story = new Story();
    story.all();
    expect(story.acked("a2", {})).toBe("a1");
    expect(story.acked("a1", { yielding: true, primarySegment: "dc2" })).toBe("b1");
  });

  test("cuts nobody where connections are spread: these servers go on being used", () => {
    const story = new Story(clientCluster({ client: { policy: "spread" } }));
    story.all();
    story.report("a1", { yielding: true, cutting: true });
    expect(story.state.cut).toEqual([]);
  });
});

group("a newer config", () => {
  test("is taken with what is known, and its new server is out until it joins", () => {
    const story = new Story(clientCluster({ segments: { dc1: ["a1"], dc2: ["b1"] } }));
    story.all();
    const config = clientCluster({ segments: { dc1: ["a1"], dc2: ["b1", "b2"] } });
    story.give({ on: "config", config: { ...config, version: 2 } });
    expect(story.places()).toBe("a1 up 100, b1 drain, b2 out");
  });

  test("keeps a server that it no longer names out of the balancer's table, not just out of sight", () => {
    const segments = { dc1: ["a1"], dc2: ["b1", "b2"] };
    const story = new Story(clientCluster({ segments, client: { policy: "spread" } }));
    story.all();
    expect(story.places()).toBe("a1 up 100, b1 up 100, b2 up 100");
    const fewer = clientCluster({
      segments: { dc1: ["a1"], dc2: ["b1"] },
      client: { policy: "spread" },
    });
    story.give({ on: "config", config: { ...fewer, version: 2 } });
    expect(story.places()).toBe("a1 up 100, b1 up 100, b2 out");
    story.give({ on: "config", config: { ...story.config, version: 3 } });
    story.report("b2");
    expect(story.places()).toBe("a1 up 100, b1 up 100, b2 up 100");
  });

  test("without this client is refused", () => {
    const story = new Story();
    story.effects = [];
    story.give({ on: "config", config: { ...story.config, version: 2, clients: [] } });
    expect(story.logged()).toEqual(["config_refused"]);
    expect(story.state.config.version).toBe(1);
  });
});

test("two minders that hear the same reports in other orders choose the same writer", () => {
  const names = ["a1", "a2", "b1", "b2"];
  const changes: readonly Partial<Report>[] = [
    {},
    { draining: true },
    { fenced: true },
    { localState: "Donor/Desynced" },
    { primarySegment: "dc2", epochSeen: 2 },
    { serving: "unknown" },
  ];
  for (let code = 0; code < changes.length ** 4; code++) {
    const one = new Story();
    const other = new Story();
    const given = names.map((name, index) => {
      return [name, changes[Math.floor(code / changes.length ** index) % changes.length]] as const;
    });
    for (const [name, change] of given) one.report(name, change);
    for (const [name, change] of [...given].reverse()) other.report(name, change);
    expect(one.places()).toBe(other.places());
  }
});

test("hearing that all is as it was decides as judging anew would: histories by chance", () => {
  let seed = 20_261_123;
  const chance = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
    return Math.floor((seed / 0x80000000) * below);
  };
  const words: readonly Partial<Report>[] = [
    {},
    {},
    {},
    { fenced: true },
    { draining: true },
    { probe: "hanging" },
    { flowControl: 0.4 },
    { localState: "Donor/Desynced" },
    { running: "unknown" },
  ];
  for (let history = 0; history < 40; history++) {
    const policy = (["single-writer", "spread", "local-first"] as const)[history % 3] ?? "spread";
    const few = clientCluster({ client: { policy } });
    const config = history % 2 === 0 ? few : crowded(few);
    const quick = new Story(config);
    const thorough = new Story(config);
    const word = new Map<string, Partial<Report>>();
    for (let turn = 0; turn < 200; turn++) {
      const name = ["a1", "a2", "b1", "b2"][chance(4)] ?? "a1";
      if (chance(10) === 0) word.set(name, words[chance(words.length)] ?? {});
      // One in twelve falls silent for up to four seconds, the others for a report at most.
      const forMs = chance(12) === 0 ? chance(4000) : chance(120);
      const members = chance(30) === 0 ? ["a1", "b1"] : undefined;
      for (const story of [quick, thorough]) {
        story.pass(forMs);
        story.report(name, word.get(name), members);
      }
      thorough.give({ on: "wakeup" });
      expect([history, turn, quick.places()]).toEqual([history, turn, thorough.places()]);
      expect(quick.state.cut).toEqual(thorough.state.cut);
    }
  }
});

test("a client that the config does not have is a mistake with a hint", () => {
  expect(() => initial(clientCluster(), "dbclient.9", 0)).toThrow("dbclient.9 is no client");
});

test("every target is a whole table in the config's order", () => {
  const story = new Story();
  story.all();
  const target: Target = story.state.target ?? [];
  expect(target.map(({ name }) => name)).toEqual(["a1", "a2", "b1", "b2"]);
});
