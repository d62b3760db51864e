/**
 * Before and after a fault on a minded cluster: writers begin on an empty table, and once all is mended
 * every acknowledged row is looked for on every server. Owns what a fault may not leave behind.
 */
import { cpSync, mkdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Summary } from "../message/arbitrator.ts";
import { ROWS_TABLE } from "./app.ts";
import { until } from "./exec.ts";
import { type Attempt, checkRows, rowKey } from "./journal.ts";
import type { Lab, LabProcess } from "./lab.ts";
import { connectTo } from "./mariadb.ts";
import type { Minded } from "./minded.ts";

/** An application behind its balancer, and a session to each server by its own socket. */
export interface Writers {
  /** Of the application's rows. */
  readonly app: string;
  /** Of each server's own session. */
  readonly probes: ReadonlyMap<string, string>;
  readonly processes: readonly LabProcess[];
}

/** What was found once all was mended. */
export interface Aftermath {
  /** Everything that was tried. */
  readonly attempts: readonly Attempt[];
  readonly acknowledged: number;
  /** Acknowledged, and missing on a server. */
  readonly lost: readonly Attempt[];
  readonly checksumsEqual: boolean;
  /** What is wrong whatever was lost, in words. */
  readonly complaints: readonly string[];
}

const APP = "app1";
const STOP_GRACE_MS = 35_000;
/** A session that gives up after less than Galera's own detection would not show what waiting costs. */
const APP_TIMEOUT_MS = 10_000;
const PROBER_INTERVAL_MS = 50;
const ROWS = 50;
const WRITES_TIMEOUT_MS = 30_000;
const READABLE_TIMEOUT_MS = 30_000;

/** Empties the table of rows and starts writers of that name; the cluster must be whole. */
export async function startWriters(minded: Minded, name: string): Promise<Writers> {
  const { lab } = minded;
  const [host = ""] = lab.servers.keys();
  const connection = await connectTo(lab.server(host).socket, lab.secrets.app);
  try {
    // What earlier faults left has been judged; a table that grows would slow each look at it.
    await connection.query({ sql: `TRUNCATE TABLE ${ROWS_TABLE}`, timeout: 10_000 });
  } finally {
    connection.destroy();
  }
  const prefix = `${name}-`;
  const app = lab.startApp(APP, { name, statementTimeoutMs: APP_TIMEOUT_MS });
  const prober = lab.startProber({ prefix, intervalMs: PROBER_INTERVAL_MS });
  const probes = new Map([...lab.servers.keys()].map((each) => [each, `${prefix}probe-${each}`]));
  return { app: name, probes, processes: [app, prober] };
}

/** Waits until that writer has so many rows acknowledged after a moment that an outage has ended for good. */
export async function untilWrites(
  { lab }: Minded,
  wished: { readonly writer: string; readonly fromMs: number; readonly when: string },
): Promise<void> {
  const { writer, fromMs, when } = wished;
  const isNew = ({ outcome, endMs }: Attempt) => outcome === "acknowledged" && endMs > fromMs;
  await until(`${writer} writes ${when}`, () => lab.journal(writer).filter(isNew).length >= ROWS, {
    timeoutMs: WRITES_TIMEOUT_MS,
    pauseMs: 50,
  });
}

/** All that these writers have noted. */
export function attemptsOf({ lab }: Minded, { app, probes }: Writers): readonly Attempt[] {
  return [app, ...probes.values()].flatMap((writer) => lab.journal(writer));
}

/** Ends the writers and examines all servers; the cluster must be whole. */
export async function examine(minded: Minded, writers: Writers): Promise<Aftermath> {
  const { lab } = minded;
  await Promise.all(writers.processes.map((program) => program.stop(STOP_GRACE_MS)));
  const hosts = [...lab.servers.keys()];
  await Promise.all(hosts.map((host) => untilReadable(lab, host)));
  const attempts = attemptsOf(minded, writers);
  const checks = await Promise.all(
    hosts.map(async (host) => checkRows(attempts, await lab.rows(host))),
  );
  const sums = new Set((await lab.checksums()).values());
  const listed = await Promise.all(hosts.map(async (host) => evictListOf(lab, host)));
  // A row may lack on several servers.
  const lost = new Map(checks.flatMap(({ missing }) => missing.map((row) => [rowKey(row), row])));
  const foreign = Math.max(...checks.map((check) => check.foreign));
  return {
    attempts,
    acknowledged: Math.max(...checks.map((check) => check.acknowledged)),
    lost: [...lost.values()],
    checksumsEqual: sums.size === 1,
    complaints: [
      ...(foreign > 0 ? [`${foreign} rows are there that nobody wrote`] : []),
      ...(sums.size > 1 ? ["the servers hold different rows"] : []),
      ...listed.flatMap((list, index) =>
        list === "" ? [] : [`${hosts[index]} has ${list} in its eviction list`],
      ),
    ],
  };
}

/** Do all servers serve in one view, with no epoch open. */
export function isWhole(is: Summary): boolean {
  const all = is.servers.every(({ report }) => report?.group === "complete");
  return all && is.health === "healthy" && is.epochHolder === null;
}

/** A lost row in words, by its distance from the fault. */
export function describeLost(row: Attempt, faultAtMs: number): string {
  const after = Math.round((row.endMs - faultAtMs) * 10) / 10;
  return `row ${rowKey(row)}, acknowledged by ${row.server} ${after} ms after the fault, is missing`;
}

/** Copies a lab's logs, journals and state, without its data, and says where to. */
export function keepLogs(lab: Lab, folder: string): string {
  for (const name of new Bun.Glob("**/*").scanSync({ cwd: lab.directory, dot: true })) {
    if (!/\.(log|err|journal|state|toml|jsonl|cfg)$/.test(name) || /(^|\/)data\//.test(name))
      continue;
    const from = join(lab.directory, name);
    if (!statSync(from).isFile()) continue;
    const to = join(folder, name);
    mkdirSync(dirname(to), { recursive: true });
    cpSync(from, to);
  }
  return folder;
}

async function evictListOf(lab: Lab, host: string): Promise<string> {
  const [row] = await lab.query(host, "SHOW GLOBAL STATUS LIKE 'wsrep_evs_evict_list'");
  return String(row?.["Value"] ?? "");
}

/** A server that has just come back refuses statements now and then for a moment. */
async function untilReadable(lab: Lab, host: string): Promise<void> {
  await until(
    `${host} can be read`,
    async () => {
      try {
        await lab.query(host, `SELECT COUNT(*) FROM ${ROWS_TABLE}`);
        return true;
      } catch {
        return false;
      }
    },
    { timeoutMs: READABLE_TIMEOUT_MS, pauseMs: 50 },
  );
}
