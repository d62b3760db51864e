/**
 * How long an application waits for its next acknowledged row after a fault, on a real 2+2 cluster with
 * Galera's default timeouts: with eviction and without. After each run every acknowledged row is looked
 * for on every server, and all must hold the same rows.
 */
import { readFileSync } from "node:fs";
import type { ClusterConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";
import type { Summary } from "../message/arbitrator.ts";
import { until } from "./exec.ts";
import { type Attempt, longestGap, rowKey, wallMs } from "./journal.ts";
import type { LabProcess } from "./lab.ts";
import type { Minded } from "./minded.ts";

/** One mariadbd crashes, both of the primary data centre, its hosts are cut off, the link is cut. */
export const EVICT_FAULTS = ["crash", "segment", "hosts", "link"] as const;
export type EvictFault = (typeof EVICT_FAULTS)[number];

/** One fault as an application lived it. */
export interface EvictRun {
  readonly fault: EvictFault;
  readonly evict: ClusterConfig["evict"];
  /** Longest time without an acknowledged row, until rows flow evenly again. */
  readonly gapMs: number;
  /** The same for a session of its own to one surviving server, whatever balancers do. */
  readonly directMs: number;
  /** The longest such time afterwards: Galera stalls while those who were out come back. */
  readonly returnMs: number;
  readonly rows: number;
  readonly missing: number;
  readonly checksumsEqual: boolean;
  /** Rows that the side which was out acknowledged after the fault. */
  readonly strays: number;
  /** What is wrong, in words. */
  readonly complaints: readonly string[];
}

const APP = "app1";
const CALM_MS = 1_000;
/** Rows after the gap before a fault is mended: it must have ended for good. */
const AFTER_ROWS = 50;
const OUTAGE_TIMEOUT_MS = 30_000;
const RETURN_TIMEOUT_MS = 90_000;
const STOP_GRACE_MS = 35_000;
/** A commit whose acknowledgements had all arrived before a cut may still be told to its client. */
const IN_FLIGHT_MS = 50;
/** Rows flow evenly where that many come, one every 10 ms, none later than this after the other. */
const EVEN_ROWS = 30;
const EVEN_MS = 100;
/** An application that gives up sooner than Galera would not show what waiting costs. */
const STATEMENT_TIMEOUT_MS = 10_000;

/** Plays one fault on a healthy cluster and leaves it healthy. @throws MinderError where it does not get so */
export async function runEvictFault(
  minded: Minded,
  fault: EvictFault,
  name: string,
): Promise<EvictRun> {
  const { lab, config } = minded;
  const primary = (await minded.untilHealth("healthy")).primarySegment;
  const inside = minded.serversOf(primary);
  const other = [...lab.servers.keys()].filter((host) => !inside.includes(host));
  const beganMs = wallMs();
  const app = lab.startApp(APP, { name, statementTimeoutMs: STATEMENT_TIMEOUT_MS });
  const prober = lab.startProber();
  await untilRows(minded, name, { from: 0, count: 50 });
  await Bun.sleep(CALM_MS);
  const writer = minded.lab.journal(name).at(-1)?.server ?? "";
  const before = wallMs();
  const out = await strike(minded, fault, { inside, other, writer });
  const faultAtMs = wallMs();
  await untilRows(minded, name, { from: faultAtMs, count: AFTER_ROWS });
  const alive = [...lab.servers.keys()].filter((host) => !out.includes(host));
  if (fault === "link") await untilOneSide(minded);
  const side = fault === "link" ? await losingSide(minded) : out;
  if (fault === "hosts" || fault === "link") await lab.network.heal();
  const healedAtMs = wallMs();
  await minded.untilSummary(
    "all serve in one view, and no epoch is open",
    isWhole,
    RETURN_TIMEOUT_MS,
  );
  await stopAll([app, prober]);
  const rows = lab.journal(name);
  const evenAtMs = evenFrom(rows, before);
  await untilReadable(minded);
  const gap = longestGap(rows, before - 500, evenAtMs);
  const back = longestGap(rows, evenAtMs, rows.at(-1)?.endMs ?? evenAtMs);
  const [witness = ""] = alive.filter((host) => !side.includes(host));
  const direct = longestGap(lab.journal(`probe-${witness}`), before - 500, evenAtMs);
  const outside = fault === "crash" || fault === "segment" ? [] : side;
  const strays = lab
    .journal()
    .filter(
      (attempt) =>
        attempt.outcome === "acknowledged" &&
        attempt.server !== null &&
        outside.includes(attempt.server) &&
        attempt.endMs > faultAtMs + IN_FLIGHT_MS &&
        attempt.endMs < healedAtMs,
    );
  const checks = await Promise.all([...lab.servers.keys()].map((host) => lab.checkRows(host)));
  const sums = new Set((await lab.checksums()).values());
  // Of this run: the prober's journals go on from run to run, and a row lacks on several servers.
  const lost = new Map(
    checks
      .flatMap((check) => check.missing)
      .filter((row) => row.startMs >= beganMs)
      .map((row) => [rowKey(row), row]),
  );
  const missing = lost.size;
  const foreign = Math.max(...checks.map((check) => check.foreign));
  const complaints = [
    ...[...lost.values()].map(
      (row) =>
        `row ${row.writer}/${row.number}, acknowledged by ${row.server} ${Math.round(row.endMs - before)} ms after the fault began, ${Math.round(faultAtMs - row.endMs)} ms before it was complete, is missing`,
    ),
    ...(foreign > 0 ? [`${foreign} rows are there that nobody wrote`] : []),
    ...(sums.size > 1 ? ["the servers hold different rows"] : []),
    ...(strays.length > 0 ? [`${strays.length} writes went to the side that was out`] : []),
  ];
  return {
    fault,
    evict: config.evict,
    gapMs: gap?.lengthMs ?? Number.POSITIVE_INFINITY,
    directMs: direct?.lengthMs ?? Number.POSITIVE_INFINITY,
    returnMs: back?.lengthMs ?? 0,
    rows: Math.max(...checks.map((check) => check.acknowledged)),
    missing,
    checksumsEqual: sums.size === 1,
    strays: strays.length,
    complaints,
  };
}

function isWhole(is: Summary): boolean {
  const all = is.servers.every(({ report }) => report?.group === "complete");
  return all && is.health === "healthy" && is.epochHolder === null;
}

/** A server that has just come back refuses statements now and then for a moment. */
async function untilReadable({ lab }: Minded): Promise<void> {
  for (const host of lab.servers.keys()) {
    await until(
      `${host} can be read`,
      async () => {
        try {
          await lab.query(host, "SELECT COUNT(*) FROM app.written");
          return true;
        } catch {
          return false;
        }
      },
      { timeoutMs: RETURN_TIMEOUT_MS, pauseMs: 100 },
    );
  }
}

/** When, after the fault, so many rows have followed each other without a stall. */
function evenFrom(rows: readonly Attempt[], faultAtMs: number): number {
  let last = faultAtMs;
  let even = 0;
  for (const { outcome, endMs } of rows) {
    if (outcome !== "acknowledged" || endMs < faultAtMs) continue;
    even = endMs - last < EVEN_MS ? even + 1 : 0;
    last = endMs;
    if (even >= EVEN_ROWS) return endMs;
  }
  return Number.POSITIVE_INFINITY;
}

/** Brings the fault about; answers with the servers that are out by it. */
async function strike(
  minded: Minded,
  fault: EvictFault,
  at: {
    readonly inside: readonly string[];
    readonly other: readonly string[];
    readonly writer: string;
  },
): Promise<readonly string[]> {
  const { lab } = minded;
  switch (fault) {
    case "crash": {
      // Not the writer: what its own client waits for is another question.
      const [victim = ""] = at.inside.filter((host) => host !== at.writer);
      process.kill(mariadbdOf(minded, victim), "SIGKILL");
      return [victim];
    }
    case "segment": {
      for (const pid of at.inside.map((host) => mariadbdOf(minded, host))) {
        process.kill(pid, "SIGKILL");
      }
      return at.inside;
    }
    case "hosts": {
      const others = lab.hosts.map((host) => host.name).filter((name) => !at.inside.includes(name));
      await lab.network.cut(at.inside, others);
      return at.inside;
    }
    case "link":
      await lab.network.cut(at.inside, at.other);
      return [];
    default:
      throw new MinderError(`No fault is called ${String(fault satisfies never)}`);
  }
}

/** Process id of a server's mariadbd. @throws MinderError if none runs */
export function mariadbdOf(minded: Minded, server: string): number {
  for (const { pid } of minded.lab.processes(server)) {
    try {
      if (readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "mariadbd") return pid;
    } catch {
      // It ended meanwhile.
    }
  }
  throw new MinderError(`No mariadbd runs on ${server}`);
}

async function untilRows(
  minded: Minded,
  writer: string,
  wished: { readonly from: number; readonly count: number },
): Promise<void> {
  await until(
    `${writer} writes`,
    () =>
      minded.lab
        .journal(writer)
        .filter((one) => one.outcome === "acknowledged" && one.endMs > wished.from).length >=
      wished.count,
    { timeoutMs: OUTAGE_TIMEOUT_MS, pauseMs: 50 },
  );
}

/** Rows acknowledged right after a cut may be the last of the old view: one side must hold an epoch. */
async function untilOneSide(minded: Minded): Promise<void> {
  await minded.untilSummary(
    "one side holds an epoch",
    (is) => is.epochHolder !== null,
    OUTAGE_TIMEOUT_MS,
  );
}

async function losingSide(minded: Minded): Promise<readonly string[]> {
  const holder = (await minded.summary())?.epochHolder ?? "";
  const inside = minded.serversOf(holder);
  return [...minded.lab.servers.keys()].filter((host) => !inside.includes(host));
}

async function stopAll(programs: readonly LabProcess[]): Promise<void> {
  await Promise.all(programs.map((program) => program.stop(STOP_GRACE_MS)));
}
