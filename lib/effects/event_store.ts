/**
 * The event log's file: one SQLite table, written in batches, bounded by age and size, readable by
 * other processes while it is written and after its writer was killed. Synchronous: it runs in a
 * worker of the arbitrator, and in scripts that read.
 */
import { Database, type SQLQueryBindings } from "bun:sqlite";
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { MinderError } from "../errors.ts";

/** One thing that happened. */
export interface StoredEvent {
  /** Rises by one; a gap would mean that a row is missing. */
  readonly seq: number;
  /** Wall clock of the arbitrator, ISO 8601: for people, never compared. */
  readonly time: string;
  readonly event: string;
  /** Newest epoch when it happened. */
  readonly epoch: number;
  /** The event's fields as JSON. */
  readonly fields: string;
}

export type NewEvent = Omit<StoredEvent, "seq">;

export interface EventLimits {
  readonly maxBytes: number;
  readonly maxDays: number;
}

export interface EventQuery {
  /** Events from then on, ISO 8601; null: from the beginning. */
  readonly since: string | null;
  /** The newest so many of them. */
  readonly limit: number;
}

export interface EventStore {
  /** Where a damaged file was moved when this one was opened; null if there was none. */
  readonly setAside: string | null;
  /** All or none. @throws Error of SQLite, as on a full disk */
  append(events: readonly NewEvent[]): void;
  /** In the order in which they happened. */
  read(query: EventQuery): readonly StoredEvent[];
  /** Removes what is too old or too much; `now` is ISO 8601. */
  prune(now: string): void;
  close(): void;
}

/** A damaged file is kept, but not more of them than this. */
const KEPT_MAX = 3;
/** Another process reads: a write waits for it no longer. */
const BUSY_MS = 2_000;
/** Part of the rows that goes where the file is too large: so that pruning is rare. */
const PRUNE_PART = 0.2;
/** Largest fields of one event, in characters. */
export const FIELDS_MAX = 16_384;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    fields TEXT NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS event_time ON event (time);
`;

/** Opens or makes the file for writing; a damaged one is kept aside under another name. */
export function openEventStore(path: string, limits: EventLimits): EventStore {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    return storeOver(openSound(path, limits), limits, null);
  } catch (error) {
    if (!isDamage(error)) throw error;
    const setAside = keepAside(path);
    return storeOver(openSound(path, limits), limits, setAside);
  }
}

/**
 * Reads a file that another process may be writing, or has left behind.
 * @throws MinderError if it cannot be read
 */
export function readEvents(path: string, query: EventQuery): readonly StoredEvent[] {
  try {
    const database = new Database(path, { readonly: true });
    try {
      database.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
      return select(database, query);
    } finally {
      database.close();
    }
  } catch (cause) {
    throw new MinderError("Cannot read the event log", { where: path, cause });
  }
}

class DamagedError extends Error {}

function isDamage(error: unknown): boolean {
  if (error instanceof DamagedError) return true;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return /^SQLITE_(CORRUPT|NOTADB)/.test(code);
}

function openSound(path: string, limits: EventLimits): Database {
  const database = new Database(path, { create: true, readwrite: true });
  try {
    // Names and reasons are nobody else's business; its journal takes after it.
    chmodSync(path, 0o600);
    database.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    database.run("PRAGMA auto_vacuum = INCREMENTAL");
    database.run("PRAGMA journal_mode = WAL");
    // Without an fsync per batch: these compete with those that a decision waits for. A killed process
    // loses nothing by it, a power cut the last moments.
    database.run("PRAGMA synchronous = NORMAL");
    database.run("PRAGMA journal_size_limit = 4194304");
    const [checked] = database.query("PRAGMA quick_check(1)").values();
    if (checked?.[0] !== "ok") throw new DamagedError(String(checked?.[0]));
    database.run(SCHEMA);
    // The hard bound; pruning keeps it from being met.
    const pageSize = pragma(database, "page_size");
    database.run(`PRAGMA max_page_count = ${Math.ceil((1.5 * limits.maxBytes) / pageSize)}`);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

function keepAside(path: string): string {
  const names = Array.from({ length: KEPT_MAX }, (_, index) => `${path}.damaged-${index + 1}`);
  const free = names.find((name) => !existsSync(name)) ?? names[KEPT_MAX - 1] ?? path;
  for (const end of ["", "-wal", "-shm"]) {
    rmSync(`${free}${end}`, { force: true });
    if (existsSync(`${path}${end}`)) renameSync(`${path}${end}`, `${free}${end}`);
  }
  return free;
}

function pragma(database: Database, name: string): number {
  return Number(database.query(`PRAGMA ${name}`).values()[0]?.[0] ?? 0);
}

function select(database: Database, { since, limit }: EventQuery): readonly StoredEvent[] {
  return database
    .query<StoredEvent, SQLQueryBindings[]>(
      `SELECT seq, time, event, epoch, fields FROM event WHERE time >= ?
       ORDER BY seq DESC LIMIT ?`,
    )
    .all(since ?? "", limit)
    .reverse();
}

function storeOver(database: Database, limits: EventLimits, setAside: string | null): EventStore {
  const insert = database.prepare(
    "INSERT INTO event (time, event, epoch, fields) VALUES (?, ?, ?, ?)",
  );
  const insertAll = database.transaction((events: readonly NewEvent[]) => {
    for (const { time, event, epoch, fields } of events) insert.run(time, event, epoch, fields);
  });

  function prune(now: string): void {
    const oldest = new Date(Date.parse(now) - limits.maxDays * 86_400_000).toISOString();
    database.run("DELETE FROM event WHERE time < ?", [oldest]);
    const pages = pragma(database, "page_count") - pragma(database, "freelist_count");
    if (pages * pragma(database, "page_size") > limits.maxBytes) {
      const [bounds] = database
        .query<{ low: number; high: number }, []>(
          "SELECT min(seq) AS low, max(seq) AS high FROM event",
        )
        .all();
      if (bounds !== undefined) {
        const upTo = bounds.low + Math.ceil((bounds.high - bounds.low + 1) * PRUNE_PART);
        database.run("DELETE FROM event WHERE seq < ?", [upTo]);
      }
    }
    database.run("PRAGMA incremental_vacuum");
  }

  return {
    setAside,
    append: (events) => insertAll(events),
    read: (query) => select(database, query),
    prune,
    close() {
      // With a statement left SQLite only pretends to close, and leaves its journal behind.
      insert.finalize();
      database.close();
    },
  };
}
