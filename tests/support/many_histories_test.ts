/** Many histories in several processes: the same sum as in one, contiguous wherever it ends, kept in a file. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { FAULT_KINDS } from "../sim/swarm.ts";
import { newTally } from "../sim/tally.ts";
import { readLedger, sumOf, writeLedger } from "./ledger.ts";
import { type ManyOptions, playBlock, playMany } from "./many_histories.ts";
import { makeScratch, removeScratch } from "./scratch.ts";

setDefaultTimeout(120_000);

const WORKER = [process.execPath, join(import.meta.dir, "..", "..", "scripts", "sim.ts"), "work"];
const OPTIONS: ManyOptions = {
  heavy: false,
  kinds: FAULT_KINDS,
  keep: false,
  count: 24,
  first: 900,
  jobs: 2,
  seconds: Number.POSITIVE_INFINITY,
  onProgress: () => undefined,
  isStopped: () => false,
  worker: WORKER,
};

describe("playMany()", () => {
  test("comes to the same sum as one process, seed for seed", async () => {
    const { tally, next } = await playMany(OPTIONS);
    expect(next).toBe(924);
    expect(tally).toEqual(playBlock(OPTIONS));
  });
  test("counts everything up to the seed that it goes on from, and nothing beyond", async () => {
    let blocks = 0;
    const onProgress = () => {
      blocks++;
    };
    const { tally, next } = await playMany({ ...OPTIONS, onProgress, isStopped: () => blocks > 0 });
    expect(next).toBeLessThan(924);
    expect(tally.histories).toBe(next - 900);
    const rest = await playMany({ ...OPTIONS, first: next, count: 924 - next });
    expect(rest.tally.histories).toBe(924 - next);
  });
  test("a worker that ends by itself is an error, not a smaller sum", async () => {
    const worker = [process.execPath, "-e", "process.exit(3)"];
    await expect(playMany({ ...OPTIONS, worker })).rejects.toThrow("ended with status 3");
  });
});

describe("the ledger", () => {
  test("keeps a sum, and refuses to add to that of other options", () => {
    const folder = makeScratch("ledger");
    const file = join(folder, "sum.json");
    const of = sumOf({ heavy: false, kinds: ["cut_sites"] });
    expect(readLedger(file, of)).toBeNull();
    const ledger = { of, first: 5, next: 7, seconds: 1, tally: newTally() };
    writeLedger(file, ledger);
    expect(readLedger(file, of)).toEqual(ledger);
    const other = sumOf({ heavy: true, kinds: ["cut_sites"] });
    expect(() => readLedger(file, other)).toThrow("other sources or options");
    removeScratch(folder);
  });
});
