/**
 * Isolates the half of a real cluster that is written to, again and again, and demands that it does
 * not acknowledge one write once the other half has acknowledged its first.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { describeRound, FENCE_RACE_TIMING, FenceRace } from "../lib/lab/fence_race.ts";
import { openMinded } from "../lib/lab/minded.ts";

const USAGE = `
Usage: race_fence.ts [N] [--name LAB]
  N           how often (default 20); each takes half a minute to a minute
  --name LAB  name of the lab (default race-fence)
Runs as root, and leaves nothing behind.
Exit: 0 it held every time, 1 it did not, 2 wrong use
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, { name: { type: "string" } });
  const rounds = Number(words[0] ?? 20);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) {
    throw new UsageError(`N is ${JSON.stringify(words[0])}, must be 1 to 1000`);
  }
  const minded = await openMinded(values.name ?? "race-fence", {
    apps: 1,
    timing: FENCE_RACE_TIMING,
  });
  let late = 0;
  let lost = 0;
  try {
    await minded.start();
    const race = new FenceRace(minded);
    await race.start();
    for (let round = 1; round <= rounds; round++) {
      const found = await race.run(round);
      late += found.late.length;
      lost += found.lost;
      console.log(describeRound(found));
    }
    const equal = await race.checksumsEqual();
    const pass = late === 0 && equal;
    console.log(
      `verdict: ${pass ? "pass" : "fail"} rounds=${rounds} late_writes=${late} lost_in_flight=${lost} checksums_equal=${equal}`,
    );
    return pass ? 0 : 1;
  } finally {
    await minded.down();
  }
}

if (import.meta.main) await runScript(main);
