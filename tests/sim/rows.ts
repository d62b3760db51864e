/**
 * What the tables of a server hold: an append-only chain of write-sets with a rolling hash. Chains
 * share their past, so a state transfer copies a reference, and two servers hold the same rows
 * exactly if their hashes at one seqno are equal.
 */

/** One ordered event. `write` is the client's write, negative for a probe's, 0 for a change of view. */
export interface Entry {
  readonly prev: Entry | null;
  /** State UUID of the cluster that it belongs to. */
  readonly cluster: string;
  readonly seqno: number;
  readonly write: number;
  /** Rolling hash over all writes up to here; a change of view leaves it as it was. */
  readonly rows: number;
}

/** The empty tables of a new cluster. */
export function firstEntry(cluster: string): Entry {
  return { prev: null, cluster, seqno: 0, write: 0, rows: 1 };
}

export function append(prev: Entry, write: number): Entry {
  return {
    prev,
    cluster: prev.cluster,
    seqno: prev.seqno + 1,
    write,
    rows: write === 0 ? prev.rows : mix(prev.rows, write),
  };
}

/** The last entry of the chain with at most this seqno; null if it begins later. */
export function entryAt(tip: Entry, seqno: number): Entry | null {
  let entry: Entry | null = tip;
  while (entry !== null && entry.seqno > seqno) entry = entry.prev;
  return entry;
}

/** Does `tip` contain all of `older`, entry for entry. */
export function continues(tip: Entry, older: Entry): boolean {
  if (tip === older) return true;
  const there = entryAt(tip, older.seqno);
  return (
    there === older || (there !== null && there.seqno === older.seqno && sameHistory(there, older))
  );
}

/** Do both hold the same rows, as far as both have come. */
export function sameRows(a: Entry, b: Entry): boolean {
  if (a === b) return true;
  if (a.cluster !== b.cluster) return false;
  const low = Math.min(a.seqno, b.seqno);
  const atA = entryAt(a, low);
  const atB = entryAt(b, low);
  return atA !== null && atB !== null && atA.rows === atB.rows;
}

/** All of `source` beyond the seqno of `tip`, put on top of `tip`, whatever `tip` holds: what IST does. */
export function replay(tip: Entry, source: Entry): Entry {
  if (source.seqno <= tip.seqno) return tip;
  if (entryAt(source, tip.seqno) === tip) return source;
  const missing: Entry[] = [];
  for (
    let entry: Entry | null = source;
    entry !== null && entry.seqno > tip.seqno;
    entry = entry.prev
  )
    missing.push(entry);
  let result = tip;
  for (let index = missing.length - 1; index >= 0; index--)
    result = append(result, (missing[index] as Entry).write);
  return result;
}

/** Ids of all client writes in the chain. */
export function writesOf(tip: Entry): Set<number> {
  const ids = new Set<number>();
  for (let entry: Entry | null = tip; entry !== null; entry = entry.prev)
    if (entry.write > 0) ids.add(entry.write);
  return ids;
}

function sameHistory(a: Entry, b: Entry): boolean {
  let left: Entry | null = a;
  let right: Entry | null = b;
  while (left !== right) {
    if (left === null || right === null || left.write !== right.write) return false;
    left = left.prev;
    right = right.prev;
  }
  return true;
}

function mix(hash: number, write: number): number {
  let value = Math.imul(hash ^ (write & 0x7fffffff), 0x85ebca6b);
  value ^= value >>> 13;
  value = Math.imul(value + (write < 0 ? 77 : 0), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}
