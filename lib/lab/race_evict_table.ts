/** What runs of faults with eviction and without come to: one table, and what breaks a bound. */
import type { ClusterConfig } from "../cluster_config.ts";
import { table } from "../status_text.ts";
import { EVICT_FAULTS, type EvictFault, type EvictRun } from "./race_evict.ts";

type Mode = ClusterConfig["evict"];
export const MODES = ["off", "confirmed", "full"] as const satisfies readonly Mode[];

/** What each fault is, and the most that the median gap may be with eviction; milliseconds. */
const BOUNDS: Readonly<Record<EvictFault, { readonly words: string; readonly maxMs: number }>> = {
  crash: { words: "kill -9 of one mariadbd, client of another server", maxMs: 350 },
  segment: { words: "kill -9 of both mariadbd of the primary data centre", maxMs: 600 },
  hosts: { words: "its hosts cut off from everybody", maxMs: 2_600 },
  link: { words: "link between the data centres cut", maxMs: 2_600 },
};

/** Without evidence of silence only the exits are faster. */
export function isFaster(fault: EvictFault, evict: Mode): boolean {
  return evict === "full" || (evict === "confirmed" && (fault === "crash" || fault === "segment"));
}

/** Everything that speaks against a pass, in words; none if all bounds hold. */
export function judgeRuns(results: readonly EvictRun[]): readonly string[] {
  const failures = results.flatMap(({ fault, evict, complaints }) =>
    complaints.map((complaint) => `${fault}, evict ${evict}: ${complaint}`),
  );
  for (const { fault, evict, own } of groups(results)) {
    if (!isFaster(fault, evict)) continue;
    const median = medianOf(own.map((one) => one.gapMs));
    const { maxMs } = BOUNDS[fault];
    if (median > maxMs) {
      failures.push(`${fault}, evict ${evict}: median ${Math.round(median)} ms, bound ${maxMs}`);
    }
  }
  return failures;
}

const COLUMNS: readonly (readonly [string, (group: Group) => string])[] = [
  ["fault", ({ fault }) => BOUNDS[fault].words],
  ["evict", ({ evict }) => evict],
  ["runs", ({ own }) => String(own.length)],
  ["median", ({ own }) => ms(medianOf(own.map((one) => one.gapMs)))],
  ["least", ({ own }) => ms(Math.min(...own.map((one) => one.gapMs)))],
  ["most", ({ own }) => ms(Math.max(...own.map((one) => one.gapMs)))],
  ["bound", ({ fault, evict }) => (isFaster(fault, evict) ? ms(BOUNDS[fault].maxMs) : "")],
  ["direct", ({ own }) => ms(medianOf(own.map((one) => one.directMs)))],
  ["return", ({ own }) => ms(medianOf(own.map((one) => one.returnMs)))],
  ["whole", ({ own }) => ms(medianOf(own.map((one) => one.wholeMs)))],
  ["rows", ({ own }) => String(sum(own.map((one) => one.rows)))],
  ["missing", ({ own }) => String(sum(own.map((one) => one.missing)))],
  ["in flight", ({ own }) => inFlight(own)],
  ["round trip", ({ own }) => `${ms(Math.max(...own.map((one) => one.roundTripMs)))}`],
  ["stray", ({ own }) => String(sum(own.map((one) => one.strays)))],
  ["checksums", ({ own }) => (own.every((one) => one.checksumsEqual) ? "equal" : "DIFFERENT")],
];

const LEGEND = `
median, least, most: longest time without an acknowledged row at an application behind a minded balancer;
direct: at a session to one surviving server (median); return: longest stall while those who were out join
again (median); whole: from the mending until all serve in one view (median).
missing: acknowledged, and not there. in flight: acknowledged by the side that was silent from then on, no
further from the instant of the fault than the longest round trip of a row in the second before it (round
trip: the most of the runs), and missing: how many, and how far the furthest was. No rule can save those.`;

/** The table for people, in a fixed order of faults and modes. */
export function tableOf(results: readonly EvictRun[]): string {
  const lines = groups(results).map((group) => COLUMNS.map(([, cell]) => cell(group)));
  const text = table([COLUMNS.map(([header]) => header), ...lines]);
  return `\n${text.join("\n")}\n${LEGEND}`;
}

interface Group {
  readonly fault: EvictFault;
  readonly evict: Mode;
  readonly own: readonly EvictRun[];
}

function groups(results: readonly EvictRun[]): readonly Group[] {
  return EVICT_FAULTS.flatMap((fault) =>
    MODES.map((evict) => ({
      fault,
      evict,
      own: results.filter((one) => one.fault === fault && one.evict === evict),
    })),
  ).filter(({ own }) => own.length > 0);
}

function inFlight(own: readonly EvictRun[]): string {
  const all = own.flatMap((one) => one.inFlightMs);
  return all.length === 0 ? "0" : `${all.length} (${Math.max(...all).toFixed(1)} ms)`;
}

export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1] ?? Number.NaN;
  return (low + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2;
}

function sum(values: readonly number[]): number {
  return values.reduce((all, one) => all + one, 0);
}

function ms(value: number): string {
  return `${Math.round(value)} ms`;
}
