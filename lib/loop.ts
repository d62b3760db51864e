/**
 * Drives one mailroom with its core: takes events in order, steps, starts the effects in their
 * order, and arms the one wakeup. Owns the queue, the time limits of effects, and the way to stop.
 *
 * Effects run beside later steps: a poll that hangs must not keep a message waiting. What a core
 * needs to know in order (a write before what rests on it) it learns from the event that ends it.
 */

import type { Millis } from "./core/core.ts";
import type {
  MailEffect,
  MailEvent,
  Mailroom,
  MailroomState,
  Post,
  PostResult,
  Respond,
} from "./correspondent.ts";
import type { Answer } from "./endpoint.ts";
import { describeError } from "./errors.ts";
import type { Log } from "./log.ts";
import { formatText, type Message } from "./message/mod.ts";
import { type Clock, suspendWatch, type Wakeup } from "./wakeup.ts";

/** Events that wait for their step; messages are refused from half of it on. */
export const QUEUE_MAX = 4096;
/** Effects that run, or wait in a lane. A core that asks for more is broken. */
export const EFFECTS_MAX = 1024;
/** Requests that wait for their response. */
export const REQUESTS_WAITING_MAX = 512;
/** Steps at a stretch before the runtime may read from its sockets again. */
const STEPS_AT_ONCE = 256;
/** Wakeup steps in a row that may leave a deadline in the past; more would be spinning. */
export const OVERDUE_MAX = 3;
/** A post has its own time limit; this is what it may be late. */
const POST_SLACK_MS = 1000;

/** The role's own effects: what is left when the mail is taken out. */
export type RoleEffect<F> = Exclude<F, { readonly do: "send" | "reply" }>;

export interface LoopOptions<S, E, F> {
  readonly machine: Mailroom<S, E, F>;
  readonly state: MailroomState<S>;
  readonly clock: Clock;
  /** Makes the one timer, as systemWakeup() does. */
  readonly wakeup: (fire: () => void) => Wakeup;
  /** Performs one effect; resolves to the event that tells the core of its end, null if none is owed. */
  readonly perform: (effect: RoleEffect<F>, signal: AbortSignal) => Promise<MailEvent<E> | null>;
  /** The event that tells the core of an effect which failed or took too long; null if none is owed. */
  readonly failed: (effect: RoleEffect<F>, error: string) => MailEvent<E> | null;
  /** Time limit of an effect. */
  readonly limitMs: (effect: RoleEffect<F>) => Millis;
  /** Effects of one lane run one after the other, as fence and unfence must; null: beside all others. */
  readonly laneOf?: (effect: RoleEffect<F>) => string | null;
  /** Sends a post of the mail. Never rejects. */
  readonly post: (post: Post, signal: AbortSignal) => Promise<PostResult>;
  /** Told when a message has carried a version of the config higher than any before. */
  readonly onConfigVersion?: (version: number) => void;
  /** In which phase the core is and why; every change is logged. */
  readonly phaseOf?: (core: S) => { readonly phase: string; readonly because: string };
  readonly log: Log;
}

/** A running loop. */
export interface Loop<S, E, F> {
  /** Hands a message in; always resolves, within the mailroom's bound. */
  submit(message: Message): Promise<Answer>;
  /** Hands in an event of the role's own, such as the end of a process. */
  tell(event: MailEvent<E>): void;
  /** Brings the next wakeup forward. */
  hint(): void;
  state(): MailroomState<S>;
  /** Goes on with another mailroom over the same state: a new config. */
  adopt(machine: Mailroom<S, E, F>): void;
  /** Null while it runs, else why not. */
  illness(): string | null;
  /** Takes nothing more, lets running effects end within `boundMs`, then aborts them. */
  stop(boundMs?: Millis): Promise<void>;
  /** Resolves when it has stopped; rejects if a step threw or the core spins. */
  readonly ended: Promise<void>;
}

/** Starts a loop; its first event is a wakeup. */
export function startLoop<S, E extends { readonly on: string }, F extends { readonly do: string }>(
  options: LoopOptions<S, E, F>,
): Loop<S, E, F> {
  const { clock, perform, failed, limitMs, laneOf = () => null, post, phaseOf, log } = options;
  const { onConfigVersion = () => undefined } = options;
  let { machine, state } = options;
  const queue: MailEvent<E>[] = [];
  const requests = new Map<number, (answer: Answer) => void>();
  /** How to end each effect that runs. */
  const running = new Set<() => void>();
  const lanes = new Map<string, (() => void)[]>();
  const suspended = suspendWatch(clock);
  let nextTicket = 1;
  let overdue = 0;
  let effectCount = 0;
  let phase: string | null = null;
  let scheduled = false;
  let stopping = false;
  let broken: string | null = null;
  let settleIdle: (() => void) | null = null;
  const end = Promise.withResolvers<void>();
  // Whoever awaits `ended` gets the failure; where nobody does, it must not count as unhandled twice.
  end.promise.catch(() => undefined);
  const timer = options.wakeup(() => enqueue(WAKEUP as MailEvent<E>));

  // --- Events in. ---

  function enqueue(event: MailEvent<E>): void {
    if (stopping || broken !== null) return;
    if (queue.length >= QUEUE_MAX) {
      breakDown(new Error(`${QUEUE_MAX} events wait for their step: the loop does not keep up`));
      return;
    }
    queue.push(event);
    schedule();
  }

  function schedule(): void {
    if (scheduled) return;
    scheduled = true;
    // Not at once: whoever hands an event in is not done yet, and steps run at the loop's own pace.
    setImmediate(drain);
  }

  function drain(): void {
    scheduled = false;
    try {
      // Once for all steps at a stretch: a machine that sleeps between two of them sleeps in the
      // middle of one just as well, and either shows at the next stretch.
      const forMs = suspended();
      if (forMs > 0) {
        log.warn("suspended", { forMs: Math.round(forMs) });
        stepWith({ on: "suspended", forMs } as unknown as MailEvent<E>);
      }
      for (let steps = 0; steps < STEPS_AT_ONCE && !stopping && broken === null; steps++) {
        const event = queue.shift();
        if (event === undefined) break;
        stepWith(event);
      }
      if (stopping || broken !== null) return;
      if (queue.length > 0) schedule();
      timer.armAt(machine.dueAt(state));
    } catch (error) {
      breakDown(error);
    }
  }

  function stepWith(event: MailEvent<E>): void {
    const now = clock.now();
    const stepped = machine.step(state, event, now);
    const { configVersionHeard } = state;
    state = stepped.state;
    if (state.configVersionHeard > configVersionHeard) onConfigVersion(state.configVersionHeard);
    logPhase();
    for (const effect of stepped.effects) start(effect);
    if ((event as { readonly on: string }).on !== "wakeup") return;
    overdue = machine.dueAt(state) <= now ? overdue + 1 : 0;
    if (overdue > OVERDUE_MAX) {
      throw new Error(
        `The core is still due at ${machine.dueAt(state)} after ${overdue} wakeups, the last at ${now}: it would spin`,
      );
    }
  }

  function logPhase(): void {
    const described = phaseOf?.(state.core);
    if (described === undefined || described.phase === phase) return;
    log.info("phase", { from: phase, to: described.phase, because: described.because });
    phase = described.phase;
  }

  /** A broken invariant: nothing is decided any more, and the program ends with the error. */
  function breakDown(error: unknown): void {
    if (broken !== null) return;
    broken = describeError(error);
    log.error("loop_broken", { error, stack: error instanceof Error ? error.stack : undefined });
    shutDown();
    for (const abort of running) abort();
    end.reject(error);
  }

  // --- Effects out. ---

  function start(effect: MailEffect<F>): void {
    if (isRespond(effect)) {
      respond(effect);
      return;
    }
    if (effectCount >= EFFECTS_MAX) throw new Error(`${EFFECTS_MAX} effects run already`);
    effectCount++;
    const lane = isPost(effect) ? null : laneOf(effect as RoleEffect<F>);
    if (lane === null) void run(effect).then(effectEnded, breakDown);
    else enterLane(lane, effect);
  }

  function enterLane(lane: string, effect: MailEffect<F>): void {
    function go(): void {
      void run(effect).then(() => {
        effectEnded();
        const next = lanes.get(lane)?.shift();
        if (next === undefined) lanes.delete(lane);
        else next();
      }, breakDown);
    }
    const busy = lanes.get(lane);
    if (busy !== undefined) {
      busy.push(go);
      return;
    }
    lanes.set(lane, []);
    go();
  }

  function effectEnded(): void {
    effectCount--;
    if (effectCount === 0) settleIdle?.();
  }

  /** Runs one effect within its limit and hands in how it ended. */
  async function run(effect: MailEffect<F>): Promise<void> {
    if (isPost(effect)) {
      log.debug("post", {
        to: effect.to,
        text: log.wants("debug") ? formatText(effect.message) : "",
      });
      const bounded = await within(effect.timeoutMs + POST_SLACK_MS, (signal) =>
        post(effect, signal),
      );
      const result: PostResult = bounded.ok ? bounded.value : { error: bounded.error };
      enqueue({ on: "posted", postId: effect.postId, result } as MailEvent<E>);
      return;
    }
    const own = effect as RoleEffect<F>;
    const bounded = await within(limitMs(own), (signal) => perform(own, signal));
    if (!bounded.ok) log.warn("effect_failed", { effect: effect.do, error: bounded.error });
    const event = bounded.ok ? bounded.value : failed(own, bounded.error);
    if (event !== null) enqueue(event);
  }

  type Bounded<Value> =
    | { readonly ok: true; readonly value: Value }
    | { readonly ok: false; readonly error: string };

  /** Awaits work for so long at most; afterwards it is told to stop, and what it still does is not waited for. */
  function within<Value>(
    boundMs: Millis,
    work: (signal: AbortSignal) => Promise<Value>,
  ): Promise<Bounded<Value>> {
    const controller = new AbortController();
    return new Promise((resolve) => {
      function finish(result: Bounded<Value>): void {
        clearTimeout(limit);
        running.delete(stopped);
        resolve(result);
      }
      function end(error: string): void {
        finish({ ok: false, error });
        controller.abort();
      }
      function stopped(): void {
        end("stopped");
      }
      running.add(stopped);
      const limit = setTimeout(() => end(`No end within ${Math.round(boundMs)} ms`), boundMs);
      // A performer that throws at once counts like one that rejects.
      new Promise<Value>((settle) => settle(work(controller.signal))).then(
        (value) => finish({ ok: true, value }),
        (error: unknown) => finish({ ok: false, error: describeError(error) }),
      );
    });
  }

  // --- Requests. ---

  function submit(message: Message): Promise<Answer> {
    if (stopping || broken !== null) return Promise.resolve(STOPPING);
    if (queue.length >= QUEUE_MAX / 2 || requests.size >= REQUESTS_WAITING_MAX) {
      return Promise.resolve(BUSY);
    }
    const httpTicket = nextTicket++;
    return new Promise((resolve) => {
      requests.set(httpTicket, resolve);
      log.debug("arrived", { text: log.wants("debug") ? formatText(message) : "" });
      enqueue({ on: "arrived", message, httpTicket } as MailEvent<E>);
    });
  }

  function respond(effect: Respond): void {
    const resolve = requests.get(effect.httpTicket);
    if (resolve === undefined) return;
    requests.delete(effect.httpTicket);
    const { status } = effect;
    resolve(
      effect.message === undefined
        ? { status, reason: effect.reason, error: effect.error }
        : { status, message: effect.message },
    );
  }

  // --- The end. ---

  function shutDown(): void {
    stopping = true;
    timer.stop();
    queue.length = 0;
    for (const waiting of lanes.values()) {
      effectCount -= waiting.length;
      waiting.length = 0;
    }
    for (const resolve of requests.values()) resolve(STOPPING);
    requests.clear();
  }

  async function stop(boundMs: Millis = 2000): Promise<void> {
    if (stopping) return end.promise.catch(() => undefined);
    shutDown();
    if (effectCount > 0) {
      await new Promise<void>((resolve) => {
        const limit = setTimeout(resolve, boundMs);
        settleIdle = () => {
          clearTimeout(limit);
          resolve();
        };
      });
    }
    if (effectCount > 0) log.warn("effects_aborted", { count: effectCount });
    for (const abort of running) abort();
    end.resolve();
  }

  enqueue(WAKEUP as MailEvent<E>);
  return {
    submit,
    tell: enqueue,
    hint: () => timer.hint(),
    state: () => state,
    adopt(next) {
      machine = next;
      enqueue(WAKEUP as MailEvent<E>);
    },
    illness: () => broken ?? (stopping ? "stopping" : null),
    stop,
    ended: end.promise,
  };
}

const WAKEUP: unknown = { on: "wakeup" };
const STOPPING: Answer = { status: 503, reason: "stopping", error: "This party is stopping" };
const BUSY: Answer = { status: 503, reason: "busy", error: "Too much waits to be handled" };

function isPost(effect: { readonly do: string }): effect is Post {
  return effect.do === "post";
}

function isRespond(effect: { readonly do: string }): effect is Respond {
  return effect.do === "respond";
}
