/**
 * Knocks at a balancer's door: opens a new connection every few milliseconds, asks which server it
 * has reached, and writes down each attempt. Attempts run side by side, so one that is stuck hides none.
 */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { createConnection } from "mysql2";
import { wallMs } from "./journal.ts";
import type { Credentials } from "./mariadb.ts";

export interface KnockOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly credentials: Credentials;
  /** Appended to, one line per attempt, when it has ended. */
  readonly journal: string;
  /** Start to start. */
  readonly intervalMs: number;
  /** An attempt is given up after that. */
  readonly timeoutMs: number;
}

/** One new connection. */
export interface Knock {
  readonly startMs: number;
  readonly endMs: number;
  /** `wsrep_node_name` of the server that answered; null if none did. */
  readonly server: string | null;
  readonly error: string | null;
}

/** Attempts under way; beyond that one is left out. */
const OPEN_MAX = 256;

/** Knocks until `signal`; attempts under way are then waited for, within their time limit. */
export async function knock(options: KnockOptions, signal: AbortSignal): Promise<void> {
  const file = openSync(options.journal, "a", 0o600);
  const open = new Set<Promise<void>>();
  try {
    for (let next = wallMs(); !signal.aborted; next += options.intervalMs) {
      const waitMs = next - wallMs();
      if (waitMs > 0) await Bun.sleep(waitMs);
      else next = wallMs();
      if (open.size >= OPEN_MAX) continue;
      const attempt = knockOnce(options).then((done) => {
        writeSync(file, `${JSON.stringify(done)}\n`);
        open.delete(attempt);
      });
      open.add(attempt);
    }
    await Promise.all(open);
  } finally {
    closeSync(file);
  }
}

function knockOnce(options: KnockOptions): Promise<Knock> {
  const startMs = wallMs();
  return new Promise((resolve) => {
    const connection = createConnection({
      ...options.address,
      user: options.credentials.user,
      password: options.credentials.password,
      connectTimeout: options.timeoutMs,
    });
    const end = (server: string | null, error: string | null): void => {
      clearTimeout(timer);
      connection.destroy();
      resolve({ startMs, endMs: wallMs(), server, error });
    };
    const timer = setTimeout(() => end(null, "TIMEOUT"), options.timeoutMs);
    connection.on("error", (error) => end(null, error.code));
    connection.on("end", () => end(null, "ENDED"));
    connection.query("SELECT @@wsrep_node_name AS server", (error, rows) => {
      if (error !== null) return end(null, error.code);
      const [first] = rows as readonly { readonly server?: string }[];
      end(first?.server ?? "?", null);
    });
  });
}

/** All whole lines, by start. */
export function readKnocks(file: string): readonly Knock[] {
  if (!existsSync(file)) return [];
  const text = readFileSync(file, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Knock)
    .sort((a, b) => a.startMs - b.startMs);
}

/** How a door did after a fault of one server. */
export interface DoorAfter {
  /** From the fault to the start of the last connection that reached that server, or none; 0 if all were good. */
  readonly lastBadMs: number;
  /** From the fault to the first connection open to another server. */
  readonly firstGoodMs: number;
  /** Connections that reached that server after the fault, or none at all. */
  readonly bad: number;
  readonly attempts: number;
}

/** Judges the knocks that began in a window after a fault of `server`. */
export function doorAfter(
  knocks: readonly Knock[],
  fault: { readonly server: string; readonly fromMs: number; readonly toMs: number },
): DoorAfter {
  const after = knocks.filter(({ startMs }) => startMs >= fault.fromMs && startMs <= fault.toMs);
  const bad = after.filter(({ server }) => server === null || server === fault.server);
  const good = after.filter(({ server }) => server !== null && server !== fault.server);
  return {
    lastBadMs: Math.max(0, ...bad.map(({ startMs }) => startMs - fault.fromMs)),
    firstGoodMs: Math.min(...good.map(({ endMs }) => endMs - fault.fromMs)),
    bad: bad.length,
    attempts: after.length,
  };
}
