/**
 * What a writer did, line by line, and what follows from it. Times are wall milliseconds of this
 * machine with their fraction, so journals of several processes can be laid side by side.
 */
import { existsSync, readFileSync } from "node:fs";

/** One attempt to insert one row. Its number is never used again, whatever came of it. */
export interface Attempt {
  readonly writer: string;
  readonly number: number;
  readonly startMs: number;
  readonly endMs: number;
  /** Committed and acknowledged; refused before it began; or began, and nobody knows. */
  readonly outcome: "acknowledged" | "refused" | "unknown";
  /** `wsrep_node_name` of the server that the connection reached; null if none did. */
  readonly server: string | null;
  readonly error: string | null;
}

/** A stretch without an acknowledged row. */
export interface Gap {
  readonly fromMs: number;
  readonly toMs: number;
  readonly lengthMs: number;
}

/** Acknowledged rows against those that a database holds. */
export interface RowCheck {
  readonly acknowledged: number;
  readonly found: number;
  /** Acknowledged, and not there: lost. */
  readonly missing: readonly Attempt[];
  /** Never acknowledged, and there all the same: allowed, their outcome was unknown. */
  readonly unacknowledged: number;
  /** There although the server refused it, or never tried: a broken journal or server. */
  readonly foreign: number;
}

/** The clock of all journals. */
export function wallMs(): number {
  return performance.timeOrigin + performance.now();
}

/** All whole lines; the last may be cut short by a kill. */
export function readJournal(file: string): readonly Attempt[] {
  if (!existsSync(file)) return [];
  const text = readFileSync(file, "utf8");
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Attempt);
}

/** Longest stretch in the window without an acknowledged row; its ends count as acknowledged. */
export function longestGap(
  attempts: readonly Attempt[],
  fromMs = Number.NEGATIVE_INFINITY,
  toMs = Number.POSITIVE_INFINITY,
): Gap | null {
  const times = attempts
    .filter((attempt) => attempt.outcome === "acknowledged")
    .map((attempt) => attempt.endMs)
    .filter((at) => at >= fromMs && at <= toMs)
    .sort((a, b) => a - b);
  if (Number.isFinite(fromMs)) times.unshift(fromMs);
  if (Number.isFinite(toMs)) times.push(toMs);
  let longest: Gap | null = null;
  for (const [index, at] of times.entries()) {
    const before = times[index - 1];
    if (before === undefined) continue;
    if (longest === null || at - before > longest.lengthMs) {
      longest = { fromMs: before, toMs: at, lengthMs: at - before };
    }
  }
  return longest;
}

/** Compares journals with the rows of a database, as `writer/number`. */
export function checkRows(attempts: readonly Attempt[], rows: ReadonlySet<string>): RowCheck {
  const acknowledged = attempts.filter((attempt) => attempt.outcome === "acknowledged");
  const possible = new Set(attempts.filter((attempt) => attempt.outcome === "unknown").map(rowKey));
  const known = new Set(acknowledged.map(rowKey));
  let unacknowledged = 0;
  let foreign = 0;
  for (const row of rows) {
    if (known.has(row)) continue;
    if (possible.has(row)) unacknowledged++;
    else foreign++;
  }
  return {
    acknowledged: acknowledged.length,
    found: rows.size,
    missing: acknowledged.filter((attempt) => !rows.has(rowKey(attempt))),
    unacknowledged,
    foreign,
  };
}

/** Name of a row in comparisons. */
export function rowKey(row: { readonly writer: string; readonly number: number }): string {
  return `${row.writer}/${row.number}`;
}
