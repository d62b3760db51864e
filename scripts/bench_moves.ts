/**
 * Measures on a real cluster how soon clients are moved: the gap of a drain, the way from a watchdog's
 * knowledge to a balancer's weight, and new connections after a crash of the writer.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import {
  describeCrash,
  describeDrain,
  describeWeights,
  Moves,
  medianOf,
  openForMoves,
} from "../lib/lab/moves.ts";

const USAGE = `
Usage: bench_moves.ts [MOVES] [--name LAB]
  MOVES       how often the writer is moved (default 50)
  --name LAB  name of the lab (default bench-moves)
Takes a minute, as root, and leaves nothing behind. Its bounds are those of a calm machine.
Exit: 0 all bounds hold, 1 one does not, 2 wrong use
`;

/** Between two acknowledged rows, while the writer is drained. */
const GAP_MAX_MS = 50;
/** Median, from the watchdog's knowledge to the changed weight. */
const WEIGHT_MAX_MS = 20;
/** From a crash to the last new connection that fails, and to the first one open elsewhere. */
const CRASH_MAX_MS = 100;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, { name: { type: "string" } });
  const count = Number(words[0] ?? 50);
  if (!Number.isInteger(count) || count < 1 || count > 1000) {
    throw new UsageError(`MOVES is ${JSON.stringify(words[0])}, must be 1 to 1000`);
  }
  const minded = await openForMoves(values.name ?? "bench-moves");
  try {
    await minded.start();
    const moves = new Moves(minded);
    const drain = await moves.drain();
    console.log(describeDrain(drain));
    await moves.endWriters();
    await moves.order("undrain", drain.writer);
    const took = await moves.knowledgeToWeight(count);
    console.log(describeWeights(took));
    const crash = await moves.crash();
    console.log(describeCrash(crash));
    await minded.untilHealth("healthy", 60_000);
    await moves.endWriters();
    const checks = await Promise.all(
      [...minded.lab.servers.keys()].map((host) => minded.lab.checkRows(host)),
    );
    const missing = checks.reduce((sum, check) => sum + check.missing.length, 0);
    const gapMs = Math.max(...Object.values(drain.gaps));
    const weightMs = medianOf(took);
    const crashMs = Math.max(crash.lastBadMs, crash.firstGoodMs);
    const pass =
      gapMs <= GAP_MAX_MS && weightMs < WEIGHT_MAX_MS && crashMs <= CRASH_MAX_MS && missing === 0;
    console.log(
      `verdict: ${pass ? "pass" : "fail"} drain_gap_ms=${Math.round(gapMs)}/${GAP_MAX_MS} ` +
        `weight_median_ms=${weightMs}/${WEIGHT_MAX_MS} crash_ms=${Math.round(crashMs)}/${CRASH_MAX_MS} ` +
        `rows_missing=${missing}`,
    );
    return pass ? 0 : 1;
  } finally {
    await minded.down();
  }
}

if (import.meta.main) await runScript(main);
