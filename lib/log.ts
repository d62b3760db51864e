/**
 * The event log: one JSON object per line on stdout. Owns what a line looks like, how long it may
 * get, and that no secret is in it. `error`: someone must act; `warn`: degraded, handled; `info`:
 * transitions; `debug`: messages.
 */
import type { Millis } from "./core/core.ts";
import { describeError } from "./errors.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Longest line in characters; a longer one loses its fields and says so. */
export const LOG_LINE_MAX = 16_384;
/** Longest text in a field. */
export const LOG_TEXT_MAX = 2000;
/** Levels of lists and objects in a field. */
const LOG_DEPTH_MAX = 6;
/** Kinds of repeated event that are counted at a time. */
const QUIET_KEYS_MAX = 256;

export type LogFields = Readonly<Record<string, unknown>>;

/** Writes events. */
export interface Log {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** Would a line of this level be written: saves putting together what nobody reads. */
  wants(level: LogLevel): boolean;
}

export interface LogOptions {
  readonly role: string;
  /** Party id or host name: who writes. */
  readonly node: string;
  /** @default "info" */
  readonly level?: LogLevel;
  /** Wall time of a line. */
  readonly wall: () => string;
  /** Takes one line without its end. @default stdout */
  readonly sink?: (line: string) => void;
}

/** A log that writes to stdout, or to the sink that a test hands in. */
export function createLog(options: LogOptions): Log {
  const { role, node, level = "info", wall, sink = (line) => console.log(line) } = options;
  const lowest = LOG_LEVELS.indexOf(level);

  function wants(candidate: LogLevel): boolean {
    return LOG_LEVELS.indexOf(candidate) >= lowest;
  }

  function write(at: LogLevel, event: string, fields: LogFields): void {
    if (!wants(at)) return;
    const head = { time: wall(), level: at, role, node, event };
    // A field that is called like a part of the head is kept, under a name of its own.
    const own = Object.entries(fields).map(([key, value]) => [
      key in head ? `field_${key}` : key,
      isSecret(key) ? SECRET : clean(value, 0),
    ]);
    const line = JSON.stringify({ ...head, ...Object.fromEntries(own) });
    if (line.length <= LOG_LINE_MAX) sink(line);
    else sink(JSON.stringify({ ...head, tooLong: line.length }));
  }

  return {
    debug: (event, fields = {}) => write("debug", event, fields),
    info: (event, fields = {}) => write("info", event, fields),
    warn: (event, fields = {}) => write("warn", event, fields),
    error: (event, fields = {}) => write("error", event, fields),
    wants,
  };
}

const SECRET = "[secret]";

/** Keys whose values stay out; a path such as `passwordFile` is no secret. */
function isSecret(key: string): boolean {
  return /passw(or)?d$|secret$|token$|credentials?$|private_?key$/i.test(key);
}

/** A value as JSON can hold it, cut to a bound, without secrets. */
function clean(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case "string":
      return value.length <= LOG_TEXT_MAX ? value : `${value.slice(0, LOG_TEXT_MAX)}…`;
    case "bigint":
    case "symbol":
      return String(value);
    case "number":
      return Number.isFinite(value) ? value : String(value);
    case "function":
      return "[function]";
    case "object":
      return value === null ? null : cleanObject(value, depth);
    default:
      return value;
  }
}

function cleanObject(value: object, depth: number): unknown {
  if (value instanceof Error) return clean(describeError(value), depth);
  if (depth >= LOG_DEPTH_MAX) return "[deeper]";
  if (value instanceof Map) return cleanObject(Object.fromEntries(value), depth);
  if (Array.isArray(value) || value instanceof Set) {
    return [...value].map((item) => clean(item, depth + 1));
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      isSecret(key) ? SECRET : clean(item, depth + 1),
    ]),
  );
}

/** Says something that may happen any number of times: once, and then as a count now and then. */
export type QuietLog = (key: string, level: LogLevel, event: string, fields?: LogFields) => void;

/**
 * Makes a QuietLog: per key one line at once, and at most one each `everyMs` after it, with the
 * number of those between as `repeats`.
 */
export function quietLog(log: Log, now: () => Millis, everyMs: Millis = 10_000): QuietLog {
  const said = new Map<string, { at: Millis; repeats: number }>();
  return (key, level, event, fields = {}) => {
    const before = said.get(key);
    if (before !== undefined && now() - before.at < everyMs) {
      before.repeats++;
      return;
    }
    const repeats = before?.repeats ?? 0;
    said.delete(key);
    said.set(key, { at: now(), repeats: 0 });
    const [oldest] = said.keys();
    if (said.size > QUIET_KEYS_MAX && oldest !== undefined) said.delete(oldest);
    log[level](event, repeats === 0 ? fields : { ...fields, repeats });
  };
}
