/**
 * What became of many histories, in numbers: plain data, so that a worker process can hand it on and a
 * file can keep it until the next run.
 */
import type { Outcome } from "./swarm.ts";

export interface Tally {
  histories: number;
  steps: number;
  simulatedMs: number;
  acknowledged: number;
  lostInFlight: number;
  lostLate: number;
  longestOutageMs: number;
  /** Faults, orders, grants, ends of mariadbd: how often each. */
  readonly counts: Record<string, number>;
  readonly violations: {
    readonly seed: number;
    readonly id: string;
    readonly atMs: number;
    readonly because: string;
  }[];
}

/** How a fault's count is named. */
const FAULT = "fault ";
/** Seeds with a violation that the figures name. */
const SEEDS_SHOWN = 12;

export function newTally(): Tally {
  return {
    histories: 0,
    steps: 0,
    simulatedMs: 0,
    acknowledged: 0,
    lostInFlight: 0,
    lostLate: 0,
    longestOutageMs: 0,
    counts: {},
    violations: [],
  };
}

/** One history's. */
export function tallyOf(seed: number, outcome: Outcome): Tally {
  const { steps, simulatedMs, acknowledged, lostInFlight, lostLate, longestOutageMs } = outcome;
  return {
    histories: 1,
    steps,
    simulatedMs,
    acknowledged,
    lostInFlight,
    lostLate,
    longestOutageMs,
    counts: Object.fromEntries(outcome.counts),
    violations: outcome.violations.map((violation) => ({ seed, ...violation })),
  };
}

/** Adds the second to the first, and returns it. */
export function merge(into: Tally, more: Tally): Tally {
  into.histories += more.histories;
  into.steps += more.steps;
  into.simulatedMs += more.simulatedMs;
  into.acknowledged += more.acknowledged;
  into.lostInFlight += more.lostInFlight;
  into.lostLate += more.lostLate;
  into.longestOutageMs = Math.max(into.longestOutageMs, more.longestOutageMs);
  for (const [what, times] of Object.entries(more.counts))
    into.counts[what] = (into.counts[what] ?? 0) + times;
  into.violations.push(...more.violations);
  return into;
}

/** Everything that was counted but the faults, a line each. */
export function counted({ counts }: Tally): readonly string[] {
  return Object.entries(counts)
    .filter(([what]) => !what.startsWith(FAULT))
    .sort()
    .map(([what, times]) => `${what}: ${times}`);
}

/** The last line of a run, with the mix of faults at its end. */
export function figures(
  tally: Tally,
  at: { readonly first: number; readonly seconds: number },
): string {
  const faults = Object.entries(tally.counts).filter(([what]) => what.startsWith(FAULT));
  const total = faults.reduce((sum, [, times]) => sum + times, 0);
  const mix = faults.sort().map(([what, times]) => `${what.slice(FAULT.length)} ${times}`);
  const seeds = [...new Set(tally.violations.map(({ seed }) => seed))].slice(0, SEEDS_SHOWN);
  const each = (sum: number) => sum / Math.max(1, tally.histories);
  return [
    `${tally.histories} histories from seed ${at.first}`,
    `${tally.violations.length} violations${seeds.length === 0 ? "" : ` (seeds ${seeds.join(" ")})`}`,
    `${(tally.histories / at.seconds).toFixed(1)} histories/s`,
    `${Math.round(tally.steps / at.seconds)} events/s`,
    `${Math.round(tally.simulatedMs / 1000)} s simulated`,
    `each ${each(tally.simulatedMs / 1000).toFixed(1)} s with ${each(total).toFixed(1)} faults and ${Math.round(each(tally.steps))} events`,
    `${tally.acknowledged} writes acknowledged`,
    `${tally.lostInFlight} lost in flight (${tally.lostLate} late)`,
    `faults: ${mix.join(", ")}`,
  ].join(", ");
}
