/**
 * The thread that owns the event log's file: whatever its disk does, the arbitrator's own thread never
 * waits for it. One request at a time, each answered.
 */
import { describeError } from "../errors.ts";
import {
  type EventLimits,
  type EventQuery,
  type EventStore,
  type NewEvent,
  openEventStore,
  type StoredEvent,
} from "./event_store.ts";

export type LogRequest = { readonly id: number } & (
  | {
      readonly do: "append";
      readonly path: string;
      readonly limits: EventLimits;
      readonly events: readonly NewEvent[];
      /** Wall time, ISO 8601. */
      readonly now: string;
    }
  | {
      readonly do: "read";
      readonly path: string;
      readonly limits: EventLimits;
      readonly query: EventQuery;
    }
  | { readonly do: "close" }
);

export interface LogAnswer {
  readonly id: number;
  readonly error: string | null;
  readonly events: readonly StoredEvent[];
  /** Where a damaged file was moved. */
  readonly setAside: string | null;
}

/** Appended rows between two looks at age and size. */
const PRUNE_EVERY = 500;

let store: EventStore | null = null;
let sincePruned = Number.POSITIVE_INFINITY;

function handle(request: LogRequest): readonly StoredEvent[] {
  if (request.do === "close") {
    store?.close();
    store = null;
    return [];
  }
  store ??= openEventStore(request.path, request.limits);
  if (request.do === "read") return store.read(request.query);
  if (sincePruned >= PRUNE_EVERY) {
    store.prune(request.now);
    sincePruned = 0;
  }
  store.append(request.events);
  sincePruned += request.events.length;
  return [];
}

function answer(request: LogRequest): LogAnswer {
  try {
    const events = handle(request);
    return { id: request.id, error: null, events, setAside: store?.setAside ?? null };
  } catch (error) {
    // The next request opens it anew: the disk may be back, or the file gone.
    try {
      store?.close();
    } catch (closing) {
      const both = `${describeError(error)}; ${describeError(closing)}`;
      store = null;
      return { id: request.id, error: both, events: [], setAside: null };
    }
    store = null;
    sincePruned = Number.POSITIVE_INFINITY;
    return { id: request.id, error: describeError(error), events: [], setAside: null };
  }
}

declare const self: Worker;
self.onmessage = (event: MessageEvent<LogRequest>) => self.postMessage(answer(event.data));
