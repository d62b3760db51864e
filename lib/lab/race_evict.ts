/**
 * How long an application waits for its next acknowledged row after a fault, on a real 2+2 cluster with
 * Galera's default timeouts: with eviction and without. After each run every acknowledged row is looked
 * for on every server, and all must hold the same rows.
 */
import { readFileSync } from "node:fs";
import type { ClusterConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";
import {
  attemptsOf,
  describeLost,
  examine,
  isWhole,
  startWriters,
  untilWrites,
} from "./aftermath.ts";
import { partLost, roundTripMs, type Silencing, straysOf } from "./in_flight.ts";
import { type Attempt, longestGap, wallMs } from "./journal.ts";
import type { Minded } from "./minded.ts";
import type { CutInstant } from "./network.ts";

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
  /** From the mending of the fault until all servers serve in one view. */
  readonly wholeMs: number;
  /** How long the fault took to come about. */
  readonly faultMs: number;
  /** The longest that a row took right before it. */
  readonly roundTripMs: number;
  readonly rows: number;
  /** Rows that are missing though the rules promise them. */
  readonly missing: number;
  /** Rows that were in flight at the instant of the fault and are missing, each by its distance from it. */
  readonly inFlightMs: readonly number[];
  readonly checksumsEqual: boolean;
  /** Rows that the side which was out acknowledged after the fault. */
  readonly strays: number;
  /** What is wrong, in words. */
  readonly complaints: readonly string[];
}

const CALM_MS = 1_000;
const ONE_SIDE_TIMEOUT_MS = 30_000;
const RETURN_TIMEOUT_MS = 90_000;
/** Rows flow evenly where that many come, one every 10 ms, none later than this after the other. */
const EVEN_ROWS = 30;
const EVEN_MS = 100;

/** Plays one fault on a healthy cluster and leaves it healthy. @throws MinderError where it does not get so */
export async function runEvictFault(
  minded: Minded,
  fault: EvictFault,
  name: string,
): Promise<EvictRun> {
  const { lab, config } = minded;
  const primary = (await minded.untilSummary("the cluster is whole", isWhole)).primarySegment;
  const inside = minded.serversOf(primary);
  const other = [...lab.servers.keys()].filter((host) => !inside.includes(host));
  const writers = await startWriters(minded, name);
  await untilWrites(minded, { writer: name, fromMs: 0, when: "before the fault" });
  const calmFromMs = wallMs();
  await Bun.sleep(CALM_MS);
  const calm = attemptsOf(minded, writers);
  const writer = calm.findLast((one) => one.writer === name)?.server ?? "";
  const roundTrip = roundTripMs(calm, { fromMs: calmFromMs, toMs: wallMs() });
  const { out, instant } = await strike(minded, fault, { inside, other, writer });
  await untilWrites(minded, { writer: name, fromMs: instant.toMs, when: "after the fault" });
  if (fault === "link") await untilOneSide(minded);
  const side = fault === "link" ? await losingSide(minded) : out;
  if (fault === "hosts" || fault === "link") await lab.network.heal();
  const mendedAtMs = wallMs();
  await minded.untilSummary("all serve in one view again", isWhole, RETURN_TIMEOUT_MS);
  const wholeMs = wallMs() - mendedAtMs;
  const after = await examine(minded, writers);
  const rows = after.attempts.filter((one) => one.writer === name);
  const evenAtMs = evenFrom(rows, instant.fromMs);
  const gap = longestGap(rows, instant.fromMs - 500, evenAtMs);
  const back = longestGap(rows, evenAtMs, rows.at(-1)?.endMs ?? evenAtMs);
  const [witness = ""] = [...lab.servers.keys()].filter(
    (host) => !side.includes(host) && !out.includes(host),
  );
  const probed = after.attempts.filter((one) => one.writer === writers.probes.get(witness));
  const direct = longestGap(probed, instant.fromMs - 500, evenAtMs);
  const silenced: Silencing = { servers: side, instant, untilMs: mendedAtMs };
  // A server that was killed may be back, rightly, before the run looks.
  const cut = fault === "hosts" || fault === "link";
  const strays = cut ? straysOf(after.attempts, silenced, roundTrip) : [];
  // With a server of each side in reach, or most of them left, nothing is in flight that is not found.
  const alone = fault === "hosts" || fault === "segment" ? [silenced] : [];
  const { inFlight, missing } = partLost(after.lost, alone, roundTrip);
  return {
    fault,
    evict: config.evict,
    gapMs: gap?.lengthMs ?? Number.POSITIVE_INFINITY,
    directMs: direct?.lengthMs ?? Number.POSITIVE_INFINITY,
    returnMs: back?.lengthMs ?? 0,
    wholeMs,
    faultMs: instant.toMs - instant.fromMs,
    roundTripMs: roundTrip,
    rows: after.acknowledged,
    missing: missing.length,
    inFlightMs: inFlight.map(({ distanceMs }) => distanceMs),
    checksumsEqual: after.checksumsEqual,
    strays: strays.length,
    complaints: [
      ...missing.map((row) => describeLost(row, instant.fromMs)),
      ...after.complaints,
      ...(strays.length > 0 ? [`${strays.length} writes went to the side that was out`] : []),
    ],
  };
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

/** Brings the fault about; answers with the servers that are out by it, and when. */
async function strike(
  minded: Minded,
  fault: EvictFault,
  at: {
    readonly inside: readonly string[];
    readonly other: readonly string[];
    readonly writer: string;
  },
): Promise<{ readonly out: readonly string[]; readonly instant: CutInstant }> {
  const { lab } = minded;
  switch (fault) {
    case "crash": {
      // Not the writer: what its own client waits for is another question.
      const [victim = ""] = at.inside.filter((host) => host !== at.writer);
      return { out: [victim], instant: killMariadbd(minded, [victim]) };
    }
    case "segment":
      return { out: at.inside, instant: killMariadbd(minded, at.inside) };
    case "hosts": {
      const others = lab.hosts.map((host) => host.name).filter((name) => !at.inside.includes(name));
      return { out: at.inside, instant: await lab.network.cut(at.inside, others) };
    }
    case "link":
      return { out: [], instant: await lab.network.cut(at.inside, at.other) };
    default:
      throw new MinderError(`No fault is called ${String(fault satisfies never)}`);
  }
}

/** `kill -9` of the mariadbd of these servers, as closely together as can be. @throws MinderError if one does not run */
export function killMariadbd(minded: Minded, servers: readonly string[]): CutInstant {
  const pids = servers.map((host) => mariadbdOf(minded, host));
  const fromMs = wallMs();
  for (const pid of pids) process.kill(pid, "SIGKILL");
  return { fromMs, toMs: wallMs() };
}

/** Process id of a server's mariadbd. @throws MinderError if none runs */
export function mariadbdOf(minded: Minded, server: string): number {
  const found = findMariadbd(minded, server);
  if (found === null) throw new MinderError(`No mariadbd runs on ${server}`);
  return found;
}

/** The same; null if none runs. */
export function findMariadbd(minded: Minded, server: string): number | null {
  for (const { pid } of minded.lab.processes(server)) {
    try {
      if (readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "mariadbd") return pid;
    } catch {
      // It ended meanwhile.
    }
  }
  return null;
}

/** Rows acknowledged right after a cut may be the last of the old view: one side must hold an epoch. */
async function untilOneSide(minded: Minded): Promise<void> {
  await minded.untilSummary(
    "one side holds an epoch",
    (is) => is.epochHolder !== null,
    ONE_SIDE_TIMEOUT_MS,
  );
}

async function losingSide(minded: Minded): Promise<readonly string[]> {
  const holder = (await minded.summary())?.epochHolder ?? "";
  const inside = minded.serversOf(holder);
  return [...minded.lab.servers.keys()].filter((host) => !inside.includes(host));
}
