/**
 * The arbitrator's event log: every decision, order and change of status, for people who ask later.
 * Invariant: it is never in the way. Adding an event is one push into a bounded queue; a thread of its
 * own writes it, and where that fails or hangs the log says so and nothing else happens. What must not
 * be lost is in the durable state file, not here.
 */
import { join } from "node:path";
import { type ArbitratorConfig, CONFIG_DEFAULTS } from "../cluster_config.ts";
import { describeError } from "../errors.ts";
import type { LogAnswer, LogRequest } from "./event_log_worker.ts";
import {
  type EventLimits,
  type EventQuery,
  FIELDS_MAX,
  type NewEvent,
  type StoredEvent,
} from "./event_store.ts";

/** Events that wait to be written; more are dropped, and counted. */
export const EVENTS_WAITING_MAX = 4_096;
/** Events are gathered for so long, so that a burst is one write. */
const GATHER_MS = 50;
/** After a failed write. */
const AGAIN_MS = 2_000;
/** A write that takes longer counts as hanging. */
const PATIENCE_MS = 10_000;
const BATCH_MAX = 512;

/** Where an arbitrator keeps its event log, and its bounds. */
export function eventLogOf(
  party: Pick<ArbitratorConfig, "stateDir" | "historyDays" | "historyMb">,
): { readonly path: string; readonly limits: EventLimits } {
  const { stateDir, historyDays, historyMb } = party;
  const { history_days, history_mb } = CONFIG_DEFAULTS.arbitrator;
  return {
    path: join(stateDir, "events.sqlite"),
    limits: {
      maxDays: historyDays ?? history_days,
      maxBytes: (historyMb ?? history_mb) * 1_000_000,
    },
  };
}

export interface EventLog {
  /** Notes that something happened now. Returns at once, never throws. */
  add(event: string, epoch: number, fields: Readonly<Record<string, unknown>>): void;
  /** @throws Error with the reason if it cannot be read */
  read(query: EventQuery): Promise<readonly StoredEvent[]>;
  /** Writes what waits, within `boundMs`, and closes the file. */
  close(boundMs: number): Promise<void>;
}

export interface EventLogOptions {
  readonly path: string;
  readonly limits: EventLimits;
  /** Wall time, ISO 8601. */
  readonly wall: () => string;
  /** Told whenever it falls ill (why) or is well again (null). */
  readonly onHealth: (illness: string | null) => void;
  /** Starts the thread. @default the worker beside this file */
  readonly worker?: () => Worker;
  /** @default 2000 */
  readonly againMs?: number;
  /** @default 10000 */
  readonly patienceMs?: number;
}

function startWorker(): Worker {
  return new Worker(new URL("./event_log_worker.ts", import.meta.url));
}

/** Opens the log; its file is opened by the first write. */
export function openEventLog(options: EventLogOptions): EventLog {
  const { path, limits, wall, onHealth } = options;
  const { worker: start = startWorker, againMs = AGAIN_MS, patienceMs = PATIENCE_MS } = options;
  const waiting: NewEvent[] = [];
  const requests = new Map<
    number,
    { readonly resolve: (answer: LogAnswer) => void; readonly late: Timer }
  >();
  let worker: Worker | null = null;
  let nextId = 1;
  let dropped = 0;
  /** The write under way. */
  let flushing: Promise<boolean> | null = null;
  let timer: Timer | null = null;
  let illness: string | null = null;
  let closed = false;

  function tellHealth(now: string | null): void {
    if (now === illness) return;
    illness = now;
    onHealth(now);
  }

  /** A request to the thread; resolves with its answer, or with why there is none. */
  function ask(request: LogRequestWithoutId): Promise<LogAnswer> {
    const id = nextId++;
    return new Promise((resolve) => {
      const late = setTimeout(() => {
        fail(`it has not answered for ${patienceMs / 1000} s`);
      }, patienceMs);
      requests.set(id, { resolve, late });
      try {
        worker ??= hired();
        worker.postMessage({ id, ...request } as LogRequest);
      } catch (error) {
        fail(describeError(error));
      }
    });
  }

  function hired(): Worker {
    const fresh = start();
    fresh.onmessage = ({ data }: MessageEvent<LogAnswer>) => {
      const request = requests.get(data.id);
      requests.delete(data.id);
      clearTimeout(request?.late);
      request?.resolve(data);
    };
    fresh.onerror = (event) => {
      if (fresh === worker) fail(event.message);
    };
    // A process that has nothing else to do ends.
    fresh.unref();
    return fresh;
  }

  /** The thread hangs or has died: whoever waits hears so, and the next request hires another. */
  function fail(error: string): void {
    worker?.terminate();
    worker = null;
    for (const [id, { resolve, late }] of requests) {
      clearTimeout(late);
      resolve({ id, error, events: [], setAside: null });
    }
    requests.clear();
  }

  function schedule(afterMs: number): void {
    if (timer !== null || flushing !== null || closed || (waiting.length === 0 && dropped === 0))
      return;
    timer = setTimeout(() => {
      timer = null;
      void flush();
    }, afterMs);
    timer.unref();
  }

  /** Writes a batch, one at a time. Resolves to whether it is on disk. */
  function flush(): Promise<boolean> {
    flushing ??= writeBatch();
    return flushing;
  }

  async function writeBatch(): Promise<boolean> {
    const batch = waiting.slice(0, BATCH_MAX);
    const lost = dropped;
    const note: readonly NewEvent[] =
      lost === 0 ? [] : [newEvent("events_dropped", 0, { count: lost })];
    const events = [...batch, ...note];
    const answer = await ask({ do: "append", path, limits, events, now: wall() });
    flushing = null;
    if (answer.error === null) {
      waiting.splice(0, batch.length);
      dropped -= lost;
      const { setAside } = answer;
      const odd = `it was damaged and has begun anew; the old one is kept as ${setAside}`;
      tellHealth(setAside === null ? null : odd);
    } else tellHealth(`it cannot be written: ${answer.error}`);
    schedule(answer.error === null ? GATHER_MS : againMs);
    return answer.error === null;
  }

  function newEvent(
    event: string,
    epoch: number,
    fields: Readonly<Record<string, unknown>>,
  ): NewEvent {
    return { time: wall(), event, epoch, fields: bounded(fields) };
  }

  return {
    add(event, epoch, fields) {
      if (closed) return;
      if (waiting.length >= EVENTS_WAITING_MAX) dropped++;
      else waiting.push(newEvent(event, epoch, fields));
      schedule(GATHER_MS);
    },
    async read(query) {
      const answer = await ask({ do: "read", path, limits, query });
      if (answer.error !== null) throw new Error(answer.error);
      return answer.events;
    },
    async close(boundMs) {
      closed = true;
      if (timer !== null) clearTimeout(timer);
      const { promise: late, resolve } = Promise.withResolvers<boolean>();
      const limit = setTimeout(() => resolve(false), boundMs);
      const written = async () => {
        while (waiting.length > 0 && (await Promise.race([flush(), late])));
        await Promise.race([ask({ do: "close" }), late]);
      };
      await written();
      clearTimeout(limit);
      fail("closed");
    },
  };
}

type LogRequestWithoutId = LogRequest extends infer R
  ? R extends { readonly id: number }
    ? Omit<R, "id">
    : never
  : never;

/** Fields as JSON within their bound; too large ones lose their longest texts. */
function bounded(fields: Readonly<Record<string, unknown>>): string {
  const whole = JSON.stringify(fields);
  if (whole.length <= FIELDS_MAX) return whole;
  const cut = JSON.stringify(fields, (_, value) =>
    typeof value === "string" && value.length > 200 ? `${value.slice(0, 199)}…` : value,
  );
  return cut.length <= FIELDS_MAX ? cut : JSON.stringify({ tooLong: whole.length });
}
