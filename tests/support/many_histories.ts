/**
 * Many histories on all cores: blocks of seeds go out in their order to worker processes, and what came
 * of them is added up in that order too, so that at any moment everything up to one seed is counted and
 * nothing beyond it. That makes a run resumable: a ledger, if one is wanted, keeps the sum and that seed.
 */
import { type FaultKind, run, storyOf } from "../sim/swarm.ts";
import { merge, newTally, type Tally, tallyOf } from "../sim/tally.ts";

/** Histories that a worker plays at a time: about a second's. */
const BLOCK = 100;
/**
 * A worker's garbage is collected after so many bytes rather than after JavaScriptCore's default, which
 * took an eighth of the time (measured); it costs 50 MB of memory for each.
 */
const HEAP_BYTES = 64 * 2 ** 20;

export interface HistoryOptions {
  readonly heavy: boolean;
  readonly kinds: readonly FaultKind[];
  /** Go on after a violation. */
  readonly keep: boolean;
}

export interface ManyOptions extends HistoryOptions {
  readonly count: number;
  readonly first: number;
  readonly jobs: number;
  /** No block begins after that. */
  readonly seconds: number;
  /** Called after each block, with what is counted by then. */
  readonly onProgress: (tally: Tally, next: number) => void;
  /** Asked before each block. */
  readonly isStopped: () => boolean;
  /** Program and arguments of a worker: it calls `work`. */
  readonly worker: readonly string[];
}

/** A block of seeds, and whose it is. */
export interface Block extends HistoryOptions {
  readonly first: number;
  readonly count: number;
}

/** Plays a block; without `keep` it ends at the first violation. */
export function playBlock(block: Block): Tally {
  const tally = newTally();
  for (let seed = block.first; seed < block.first + block.count; seed++) {
    merge(tally, tallyOf(seed, run(storyOf(seed, block), { record: false })));
    if (tally.violations.length > 0 && !block.keep) break;
  }
  return tally;
}

/** What a worker says first; then the tally of each block. */
const READY = "ready";

/** What a worker process does: it plays the blocks that come, until nobody sends any. */
export async function work(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // A person's interrupt reaches the whole group: the block under way is finished and counted.
  process.on("SIGINT", () => undefined);
  process.on("message", (block: Block) => process.send?.(playBlock(block)));
  process.on("disconnect", resolve);
  process.send?.(READY);
  await promise;
}

/**
 * Plays them all, or as many as the bounds allow; also the seed to go on from.
 * @throws Error if a worker ends by itself
 */
export async function playMany(
  options: ManyOptions,
): Promise<{ readonly tally: Tally; readonly next: number }> {
  const { first, heavy, kinds, keep } = options;
  const end = first + options.count;
  const startedAt = performance.now();
  const tally = newTally();
  const early = new Map<number, { readonly block: Block; readonly found: Tally }>();
  let sent = first;
  let next = first;
  function take(): Block | null {
    const over = (performance.now() - startedAt) / 1000 > options.seconds;
    const failed = tally.violations.length > 0 && !keep;
    if (over || failed || options.isStopped() || sent >= end) return null;
    // The last ones are shared out, so that no core waits for another.
    const count = Math.min(BLOCK, Math.ceil((end - sent) / options.jobs));
    const block = { first: sent, count, heavy, kinds, keep };
    sent += count;
    return block;
  }
  function give(block: Block, found: Tally): void {
    early.set(block.first, { block, found });
    for (let ready = early.get(next); ready !== undefined; ready = early.get(next)) {
      early.delete(next);
      merge(tally, ready.found);
      next += ready.block.count;
    }
    options.onProgress(tally, next);
  }
  const workers = Array.from({ length: options.jobs }, () => drive(options.worker, { take, give }));
  await Promise.all(workers);
  return { tally, next };
}

/** Keeps one worker process busy until there is nothing left to take. */
async function drive(
  worker: readonly string[],
  blocks: {
    readonly take: () => Block | null;
    readonly give: (block: Block, found: Tally) => void;
  },
): Promise<void> {
  let block: Block | null = null;
  const child = Bun.spawn([...worker], {
    env: { ...process.env, BUN_JSC_largeHeapSize: String(HEAP_BYTES) },
    stdio: ["ignore", "inherit", "inherit"],
    ipc: (message: Tally | typeof READY) => {
      if (block !== null && message !== READY) blocks.give(block, message);
      block = blocks.take();
      if (block === null) child.disconnect();
      else child.send(block);
    },
  });
  const status = await child.exited;
  if (status !== 0 || block !== null) throw new Error(`A worker ended with status ${status}`);
}
