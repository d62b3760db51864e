/**
 * Which of the lost rows were in flight at the instant of a fault, judged by evidence alone: begun before
 * the fault was complete, acknowledged no further from it than one round trip as it was measured right
 * before, by a server that the fault silenced. No rule can save those (docs/safety.md); any other lost row
 * is a violation.
 */
import type { Attempt } from "./journal.ts";
import type { CutInstant } from "./network.ts";

/** A fault that took servers from everybody else. */
export interface Silencing {
  readonly servers: readonly string[];
  readonly instant: CutInstant;
  /** Until the servers may be heard again. */
  readonly untilMs: number;
}

export interface InFlight {
  readonly row: Attempt;
  /** From the instant of the fault, before or after it, to the acknowledgement; 0 within it. */
  readonly distanceMs: number;
}

/**
 * The longest that any writer waited for a row in calm: a round trip of the group with all that scheduling
 * on this machine adds, to the servers and to the clients that note it.
 */
export function roundTripMs(attempts: readonly Attempt[], calm: CutInstant): number {
  const rows = attempts.filter(
    ({ outcome, startMs, endMs }) =>
      outcome === "acknowledged" && startMs >= calm.fromMs && endMs <= calm.toMs,
  );
  return rows.reduce((most, { startMs, endMs }) => Math.max(most, endMs - startMs), 0);
}

/** Rows that the silenced servers acknowledged too long after the fault to have been in flight. */
export function straysOf(
  attempts: readonly Attempt[],
  { servers, instant, untilMs }: Silencing,
  roundTrip: number,
): readonly Attempt[] {
  return attempts.filter(
    ({ outcome, server, endMs }) =>
      outcome === "acknowledged" &&
      server !== null &&
      servers.includes(server) &&
      endMs > instant.toMs + roundTrip &&
      endMs < untilMs,
  );
}

/** Parts the lost rows. Each session has one row under way at a time, so a second one of it is no such row. */
export function partLost(
  lost: readonly Attempt[],
  faults: readonly Silencing[],
  roundTrip: number,
): { readonly inFlight: readonly InFlight[]; readonly missing: readonly Attempt[] } {
  const inFlight: InFlight[] = [];
  const missing: Attempt[] = [];
  for (const row of lost) {
    const distances = faults.flatMap(({ servers, instant }) => {
      const { fromMs, toMs } = instant;
      if (row.server === null || !servers.includes(row.server) || row.startMs > toMs) return [];
      const distanceMs = Math.max(0, fromMs - row.endMs, row.endMs - toMs);
      return distanceMs <= roundTrip ? [distanceMs] : [];
    });
    const again = inFlight.some((one) => one.row.writer === row.writer);
    if (distances.length === 0 || again) missing.push(row);
    else inFlight.push({ row, distanceMs: Math.min(...distances) });
  }
  return { inFlight, missing };
}
