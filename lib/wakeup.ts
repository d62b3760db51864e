/**
 * Time as a program sees it: the Clock that is read, the Wakeup that is waited for, and the watch
 * for a machine that was suspended. The one place where timers and clocks of the runtime are used.
 */
import { openSync, readSync } from "node:fs";
import type { Millis } from "./core/core.ts";

/** Longest wait of one runtime timer; longer ones are armed again. Browsers and Bun cap at 2^31 - 1. */
const TIMER_MAX_MS = 3_600_000;

/** The clocks may disagree by this much between two ticks before it counts as a suspension. */
export const SUSPEND_MS = 500;

/** What time it is; every program has one, and passes it on. */
export interface Clock {
  /** Monotonic milliseconds of this process; stands still while the machine is suspended. */
  now(): Millis;
  /** Milliseconds since boot, suspensions included. */
  bootNow(): Millis;
  /** Wall time in ISO 8601, for people only. */
  wall(): string;
}

/** The one timer of a process: fires at or after the time it is armed at, or sooner on a hint. */
export interface Wakeup {
  /** Replaces the time armed before; `Infinity` disarms. */
  armAt(at: Millis): void;
  /** Brings the next firing forward to now. */
  hint(): void;
  /** Ends it: nothing fires afterwards. */
  stop(): void;
}

/** The clocks of the machine. Boot time is `/proc/uptime`, in steps of 10 ms (proc(5)). */
export function systemClock(): Clock {
  // One descriptor for the process's life: a read costs 3 µs, opening each time twice as much.
  const uptime = openSync("/proc/uptime", "r");
  const buffer = Buffer.alloc(64);
  return {
    now: () => performance.now(),
    bootNow() {
      const length = readSync(uptime, buffer, 0, buffer.length, 0);
      return Number.parseFloat(buffer.toString("latin1", 0, length)) * 1000;
    },
    wall: () => new Date().toISOString(),
  };
}

/** Options of systemWakeup(). */
export interface WakeupOptions {
  /** Each firing may be this much later, so that many parties do not speak at one instant. @default 0 */
  readonly jitterMs?: Millis;
  /** From 0 to 1. @default Math.random */
  readonly random?: () => number;
}

/** A Wakeup on the runtime's own timer. */
export function systemWakeup(clock: Clock, fire: () => void, options: WakeupOptions = {}): Wakeup {
  const { jitterMs = 0, random = Math.random } = options;
  let armedAt = Number.POSITIVE_INFINITY;
  let timer: Timer | null = null;
  /** When the runtime's timer rings. */
  let ringsAt = Number.POSITIVE_INFINITY;
  let hinted: NodeJS.Immediate | null = null;
  let stopped = false;

  function disarm(): void {
    if (timer !== null) clearTimeout(timer);
    timer = null;
  }

  function wait(): void {
    if (stopped || armedAt === Number.POSITIVE_INFINITY) return;
    // It is armed anew after every step, mostly for later: then the timer that runs looks again by
    // itself when it rings, which is far cheaper than another timer each time.
    if (timer !== null && ringsAt <= armedAt) return;
    disarm();
    const now = clock.now();
    // Rounded up, since timers run on whole milliseconds and an early one would only idle.
    const delay = Math.ceil(Math.min(Math.max(0, armedAt - now), TIMER_MAX_MS));
    ringsAt = now + delay;
    timer = setTimeout(ring, delay);
  }

  function ring(): void {
    timer = null;
    if (stopped) return;
    if (clock.now() < armedAt) {
      wait();
      return;
    }
    armedAt = Number.POSITIVE_INFINITY;
    fire();
  }

  return {
    armAt(at) {
      armedAt = at === Number.POSITIVE_INFINITY ? at : at + jitterMs * random();
      wait();
    },
    hint() {
      if (stopped || hinted !== null) return;
      hinted = setImmediate(() => {
        hinted = null;
        if (!stopped) fire();
      });
    },
    stop() {
      stopped = true;
      disarm();
      if (hinted !== null) clearImmediate(hinted);
      hinted = null;
    },
  };
}

/** Tells at each tick for how long the machine was suspended since the tick before; 0 if it was not. */
export function suspendWatch(clock: Clock, limitMs: Millis = SUSPEND_MS): () => Millis {
  let now = clock.now();
  let bootNow = clock.bootNow();
  return () => {
    const before = { now, bootNow };
    now = clock.now();
    bootNow = clock.bootNow();
    // Either way round: clocks that disagree prove nothing about the time that has passed.
    const apartMs = Math.abs(bootNow - before.bootNow - (now - before.now));
    return apartMs > limitMs ? apartMs : 0;
  };
}

/** A clock that moves only when told to; its wakeups fire in the order of their times. */
export interface SimulatedClock extends Clock {
  /** Moves on, firing what falls due on the way. */
  advance(ms: Millis): void;
  /** Moves to a time. @throws RangeError if that lies in the past */
  moveTo(at: Millis): void;
  /** The machine sleeps: boot time passes, monotonic time does not. */
  suspend(ms: Millis): void;
  /** A Wakeup of this clock. */
  wakeup(fire: () => void): Wakeup;
}

/** A simulated clock, at 0 unless `startMs` says otherwise. */
export function simulatedClock(startMs: Millis = 0): SimulatedClock {
  let now = startMs;
  let asleepMs = 0;
  interface Entry {
    at: Millis;
    readonly fire: () => void;
  }
  const entries: Entry[] = [];

  function nextEntry(until: Millis): Entry | null {
    let next: Entry | null = null;
    for (const entry of entries) {
      if (entry.at <= until && (next === null || entry.at < next.at)) next = entry;
    }
    return next;
  }

  function moveTo(at: Millis): void {
    if (!(at >= now)) throw new RangeError(`Cannot move a clock from ${now} back to ${at}`);
    for (let entry = nextEntry(at); entry !== null; entry = nextEntry(at)) {
      now = Math.max(now, entry.at);
      entry.at = Number.POSITIVE_INFINITY;
      entry.fire();
    }
    now = at;
  }

  return {
    now: () => now,
    bootNow: () => now + asleepMs,
    wall: () => new Date(Date.UTC(2000, 0, 1) + now + asleepMs).toISOString(),
    advance: (ms) => moveTo(now + ms),
    moveTo,
    suspend(ms) {
      if (!(ms >= 0)) throw new RangeError(`Cannot suspend for ${ms} ms`);
      asleepMs += ms;
    },
    wakeup(fire) {
      const entry: Entry = { at: Number.POSITIVE_INFINITY, fire };
      entries.push(entry);
      return {
        armAt(at) {
          entry.at = at;
        },
        hint() {
          entry.at = Math.min(entry.at, now);
        },
        stop() {
          entry.at = Number.POSITIVE_INFINITY;
          entries.splice(entries.indexOf(entry), 1);
        },
      };
    },
  };
}
