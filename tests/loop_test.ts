import { afterEach, describe, expect, test } from "bun:test";
import { type MailEvent, mailroom, type Post, type PostResult } from "../lib/correspondent.ts";
import { createLog, type Log } from "../lib/log.ts";
import { EFFECTS_MAX, type Loop, OVERDUE_MAX, QUEUE_MAX, startLoop } from "../lib/loop.ts";
import type { Message } from "../lib/message/mod.ts";
import { type Clock, systemClock, systemWakeup } from "../lib/wakeup.ts";
import { ACK, REPORT } from "./message/samples.ts";
import { smallCluster } from "./support/small_cluster.ts";
import {
  TOY_CORE,
  type ToyEffect,
  type ToyEvent,
  type ToyState,
  toyState,
} from "./support/toy_core.ts";

type ToyLoop = Loop<ToyState, ToyEvent, ToyEffect>;
type ToyMail = MailEvent<ToyEvent>;
type Work = Exclude<ToyEffect, { do: "send" | "reply" }>;

const CONFIG = smallCluster({ ack_timeout_ms: 100, resend_ms: 300 });
const running: ToyLoop[] = [];

afterEach(async () => {
  for (const loop of running.splice(0)) await loop.stop(0);
});

interface Setup {
  readonly state?: Partial<ToyState>;
  readonly core?: typeof TOY_CORE;
  readonly clock?: Clock;
  readonly perform?: (effect: Work, signal: AbortSignal) => Promise<ToyMail | null>;
  readonly post?: (post: Post) => Promise<PostResult>;
  readonly limitMs?: number;
  readonly laneOf?: (effect: Work) => string | null;
  readonly log?: Log;
}

function toyLoop(setup: Setup = {}): ToyLoop {
  const clock = setup.clock ?? systemClock();
  const machine = mailroom({
    self: "arbitrator.1",
    config: CONFIG,
    session: "loop",
    core: setup.core ?? TOY_CORE,
  });
  const loop: ToyLoop = startLoop<ToyState, ToyEvent, ToyEffect>({
    machine,
    state: machine.initial(toyState(setup.state)),
    clock,
    wakeup: (fire) => systemWakeup(clock, fire),
    perform: setup.perform ?? (async (effect) => ({ on: "done", effect, error: null })),
    failed: (effect, error) => ({ on: "done", effect, error }),
    limitMs: () => setup.limitMs ?? 1000,
    laneOf: setup.laneOf ?? (() => null),
    post: setup.post ?? (async () => ({ error: "nobody is there" })),
    phaseOf: (core) => ({ phase: `told ${core.told.length}`, because: "the test" }),
    log:
      setup.log ?? createLog({ role: "toy", node: "toy", wall: clock.wall, sink: () => undefined }),
  });
  running.push(loop);
  return loop;
}

/** Waits for a condition, and not for ever. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const giveUpAt = performance.now() + 30_000;
  while (!holds()) {
    if (performance.now() > giveUpAt) throw new Error(`Never came true: ${what}`);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

function work(...names: string[]): ToyMail {
  return { on: "ask", effects: names.map((name): ToyEffect => ({ do: "work", name })) };
}

function done(loop: ToyLoop): string[] {
  return loop
    .state()
    .core.told.flatMap(({ event }) =>
      event.on === "done" && (event.effect.do === "work" || event.effect.do === "persist")
        ? [`${event.effect.name}${event.error === null ? "" : `: ${event.error}`}`]
        : [],
    );
}

function message(changes: Partial<Message> = {}): Message {
  return {
    v: 1,
    sender: "dbserver.1",
    receiver: "arbitrator.1",
    session: "db",
    seq: 1,
    toSession: "loop",
    configVersion: 7,
    ...REPORT,
    ...changes,
  } as Message;
}

describe("startLoop()", () => {
  test("starts with a wakeup and fires again at dueAt", async () => {
    const clock = systemClock();
    const loop = toyLoop({ clock, state: { dueAt: clock.now() + 20 } });
    await until(
      "the deadline is handled",
      () => loop.state().core.dueAt === Number.POSITIVE_INFINITY,
    );
    expect(loop.illness()).toBeNull();
  });

  test("answers a message with the core's reply", async () => {
    const loop = toyLoop({ state: { answer: ACK } });
    const answer = await loop.submit(message());
    expect(answer).toMatchObject({
      status: 200,
      message: { verb: "ack", receiver: "dbserver.1", seq: 1 },
    });
  });

  test("answers a message that the core never answers within the mailroom's bound", async () => {
    const loop = toyLoop();
    const startedAt = performance.now();
    expect(await loop.submit(message())).toMatchObject({ status: 503, reason: "no_answer" });
    expect(performance.now() - startedAt).toBeWithin(150, 30_000);
  });

  test("starts the effects of a step in order and lets them end in any", async () => {
    const started: string[] = [];
    const gates = new Map<string, () => void>();
    const loop = toyLoop({
      perform(effect) {
        started.push(effect.do === "work" ? effect.name : "");
        return new Promise((resolve) => {
          gates.set(started.at(-1) ?? "", () => resolve({ on: "done", effect, error: null }));
        });
      },
    });
    loop.tell(work("a", "b", "c"));
    await until("all are started", () => started.length === 3);
    expect(started).toEqual(["a", "b", "c"]);
    for (const name of ["c", "a", "b"]) {
      gates.get(name)?.();
      await until(`${name} is told`, () => done(loop).includes(name));
    }
    expect(done(loop)).toEqual(["c", "a", "b"]);
  });

  test("handles messages while an effect hangs", async () => {
    const loop = toyLoop({ state: { answer: ACK }, perform: () => new Promise(() => undefined) });
    loop.tell(work("hangs"));
    expect(await loop.submit(message())).toMatchObject({ status: 200 });
    expect(done(loop)).toEqual([]);
  });

  test("tells the core of a write only when it has ended", async () => {
    const write = Promise.withResolvers<void>();
    const loop = toyLoop({
      async perform(effect) {
        await write.promise;
        return { on: "done", effect, error: null };
      },
    });
    loop.tell({ on: "ask", effects: [{ do: "persist", name: "epoch" }] });
    await loop.submit(message());
    expect(done(loop)).toEqual([]);
    write.resolve();
    await until("the write is told", () => done(loop).length === 1);
  });

  test("ends an effect at its time limit, tells it to stop, and drops what comes later", async () => {
    let aborted = false;
    const late = Promise.withResolvers<ToyMail>();
    const loop = toyLoop({
      limitMs: 20,
      perform(_, signal) {
        signal.addEventListener("abort", () => {
          aborted = true;
        });
        return late.promise;
      },
    });
    loop.tell(work("slow"));
    await until("the limit is told", () => done(loop).length === 1);
    expect(done(loop)).toEqual(["slow: No end within 20 ms"]);
    expect(aborted).toBe(true);
    late.resolve({ on: "done", effect: { do: "work", name: "late" }, error: null });
    await loop.submit(message());
    expect(done(loop)).toHaveLength(1);
  });

  test("turns a performer that rejects or throws into an event", async () => {
    const loop = toyLoop({
      perform(effect) {
        if (effect.do === "work" && effect.name === "throws") throw new Error("at once");
        return Promise.reject(new Error("later"));
      },
    });
    loop.tell(work("throws", "rejects"));
    await until("both are told", () => done(loop).length === 2);
    expect(done(loop).sort()).toEqual(["rejects: later", "throws: at once"]);
    expect(loop.illness()).toBeNull();
  });

  test("runs effects of one lane one after the other", async () => {
    const trace: string[] = [];
    const loop = toyLoop({
      laneOf: () => "fence",
      async perform(effect) {
        const name = effect.do === "work" ? effect.name : "";
        trace.push(`+${name}`);
        await new Promise<void>((resolve) => setImmediate(resolve));
        trace.push(`-${name}`);
        return { on: "done", effect, error: null };
      },
    });
    loop.tell(work("a", "b"));
    loop.tell(work("c"));
    await until("all have ended", () => done(loop).length === 3);
    expect(trace).toEqual(["+a", "-a", "+b", "-b", "+c", "-c"]);
    loop.tell(work("d"));
    await until("the lane is free again", () => done(loop).length === 4);
  });

  test("posts the mail and hands the reply to the core", async () => {
    const loop = toyLoop({
      async post({ message: sent }) {
        return {
          status: sent.toSession === "" ? 409 : 200,
          message: {
            ...message({ ...ACK }),
            sender: sent.receiver,
            receiver: sent.sender,
            session: "peer",
            toSession: sent.session,
            seq: sent.seq,
          } as Message,
        };
      },
    });
    loop.tell({
      on: "ask",
      effects: [
        {
          do: "send",
          to: "dbserver.1",
          body: { verb: "request_status", parameters: { because: "test" } },
          expiresMs: 1000,
        },
      ],
    });
    await until("the reply is told", () =>
      loop.state().core.told.some(({ event }) => event.on === "answered"),
    );
  });

  test("tells the core that the machine was suspended, before the event at hand", async () => {
    const system = systemClock();
    let asleepMs = 0;
    const clock: Clock = { ...system, bootNow: () => system.now() + asleepMs };
    const loop = toyLoop({ clock });
    loop.tell(work());
    await until("the first event", () => loop.state().core.told.length === 1);
    asleepMs = 60_000;
    loop.tell(work());
    await until("both events", () => loop.state().core.told.length === 3);
    const told = loop.state().core.told.map(({ event }) => event);
    expect(told.map((event) => event.on)).toEqual(["ask", "suspended", "ask"]);
    expect(told[1]).toMatchObject({ on: "suspended", forMs: expect.any(Number) });
  });

  test("breaks down rather than spin when wakeups leave a deadline in the past", async () => {
    let wakeups = 0;
    const loop = toyLoop({
      core: {
        step: (state, event) => {
          if (event.on === "wakeup") wakeups++;
          return { state, effects: [] };
        },
        dueAt: () => 0,
      },
    });
    const error = await loop.ended.catch((thrown: unknown) => thrown);
    expect(String(error)).toContain("it would spin");
    expect(wakeups).toBe(OVERDUE_MAX + 1);
    expect(loop.illness()).toContain("it would spin");
    expect(await loop.submit(message())).toMatchObject({ status: 503 });
  });

  test("breaks down when a step throws, and answers what waits", async () => {
    const loop = toyLoop({
      core: {
        step(state, event) {
          if (event.on === "ask") throw new Error("invariant");
          return { state, effects: [] };
        },
        dueAt: () => Number.POSITIVE_INFINITY,
      },
    });
    const waiting = loop.submit(message());
    await until("the message has reached the core", () => loop.state().tickets.length === 1);
    loop.tell(work());
    expect(await waiting).toMatchObject({ status: 503, reason: "stopping" });
    expect(String(await loop.ended.catch((thrown: unknown) => thrown))).toContain("invariant");
  });

  test("bounds the queue, the requests and the effects", async () => {
    const flooded = toyLoop();
    const answers = Array.from({ length: 600 }, (_, index) =>
      flooded.submit(message({ seq: index + 1 })),
    );
    const busy = (await Promise.all(answers)).filter(
      (answer) => "reason" in answer && answer.reason === "busy",
    );
    expect(busy.length).toBeGreaterThanOrEqual(600 - 512);
    const events = toyLoop();
    for (let index = 0; index <= QUEUE_MAX; index++) events.tell(work());
    expect(String(await events.ended.catch((thrown: unknown) => thrown))).toContain("events wait");
    const effects = toyLoop({ perform: () => new Promise(() => undefined) });
    effects.tell(work(...Array.from({ length: EFFECTS_MAX + 1 }, String)));
    expect(String(await effects.ended.catch((thrown: unknown) => thrown))).toContain("effects run");
  });

  test("logs each change of phase once", async () => {
    const lines: string[] = [];
    const clock = systemClock();
    const log = createLog({
      role: "toy",
      node: "n",
      wall: clock.wall,
      sink: (line) => lines.push(line),
    });
    const loop = toyLoop({ clock, log });
    loop.tell(work());
    loop.hint();
    await until("the phase is logged", () => lines.length === 2);
    expect(
      lines.map((line) => JSON.parse(line)).map(({ event, from, to }) => [event, from, to]),
    ).toEqual([
      ["phase", null, "told 0"],
      ["phase", "told 0", "told 1"],
    ]);
  });

  test("goes on over the same state with another mailroom", async () => {
    const loop = toyLoop({ state: { answer: ACK } });
    await loop.submit(message());
    const smaller = mailroom({
      self: "arbitrator.1",
      config: CONFIG,
      session: "renewed",
      core: TOY_CORE,
    });
    loop.adopt(smaller);
    expect(loop.state().core.told).toHaveLength(1);
    expect(await loop.submit(message({ seq: 2 }))).toMatchObject({ status: 200 });
  });
});

describe("stop()", () => {
  test("lets running effects end, refuses new messages, and resolves `ended`", async () => {
    const gate = Promise.withResolvers<void>();
    let ended = false;
    const loop = toyLoop({
      async perform() {
        await gate.promise;
        ended = true;
        return null;
      },
    });
    loop.tell(work("a"));
    await until("the effect runs", () => loop.state().core.told.length === 1);
    const stopped = loop.stop(1000);
    expect(await loop.submit(message())).toMatchObject({ status: 503, reason: "stopping" });
    gate.resolve();
    await stopped;
    expect(ended).toBe(true);
    await loop.ended;
    expect(loop.illness()).toBe("stopping");
  });

  test("aborts what does not end within the bound", async () => {
    let aborted = false;
    const loop = toyLoop({
      perform(_, signal) {
        signal.addEventListener("abort", () => {
          aborted = true;
        });
        return new Promise(() => undefined);
      },
      limitMs: 60_000,
    });
    loop.tell(work("a"));
    await until("the effect runs", () => loop.state().core.told.length === 1);
    const startedAt = performance.now();
    await loop.stop(30);
    expect(performance.now() - startedAt).toBeWithin(20, 30_000);
    expect(aborted).toBe(true);
  });
});
