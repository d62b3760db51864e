/**
 * A file that keeps the sum of a long run of histories, so that it can end and go on. A sum is of one
 * version of the code: where the sources have changed since, it is refused rather than added to.
 */
import { readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../../lib/cli.ts";
import type { Tally } from "../sim/tally.ts";

export interface Ledger {
  /** What the sum is of: code, kinds of faults, heavy segments or not. */
  readonly of: string;
  readonly first: number;
  /** Everything before this seed is counted. */
  readonly next: number;
  readonly seconds: number;
  readonly tally: Tally;
}

const ROOT = join(import.meta.dir, "..", "..");

/** Names what a sum is of: a digest of the sources that a history depends on, and its options. */
export function sumOf(options: {
  readonly heavy: boolean;
  readonly kinds: readonly string[];
}): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const folder of ["lib", "tests/sim"]) {
    const files = readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" });
    for (const file of files.filter((name) => name.endsWith(".ts")).sort())
      hasher.update(`${file}\n${readFileSync(join(ROOT, folder, file), "utf8")}`);
  }
  hasher.update(JSON.stringify(options));
  return hasher.digest("hex").slice(0, 16);
}

/** The sum so far; null if the file is not there yet. @throws UsageError if it is of something else */
export function readLedger(file: string, of: string): Ledger | null {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
  const ledger = JSON.parse(text) as Ledger;
  if (ledger.of !== of) {
    throw new UsageError(`${file} is the sum of other sources or options`, {
      hint: "Begin a new file: what was played before proves nothing of this code",
    });
  }
  return ledger;
}

/** Whole or not at all. */
export function writeLedger(file: string, ledger: Ledger): void {
  writeFileSync(`${file}.new`, JSON.stringify(ledger));
  renameSync(`${file}.new`, file);
}
