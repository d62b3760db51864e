/**
 * Breaks the deciding rules one at a time and demands that the simulator notices each: exit 0 only if
 * none survives. Prints the table of breakage, what noticed it, and how many histories that took.
 */
import { EXIT_FAILED, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { mutate, noticed, staleMutants, type Verdict } from "../tests/support/mutation.ts";

const USAGE = `
Usage: mutants.ts [--histories N] [--seconds S] [--workers N] [ID...]
  --histories N  from seeds, per breakage, at most (default 600)
  --seconds S    and wall time, at most (default 30)
  --workers N    processes at work at once (default 2)
  ID             only breakages whose name contains this
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    histories: { type: "string" },
    seconds: { type: "string" },
    workers: { type: "string" },
  });
  const stale = staleMutants();
  if (stale.length > 0) {
    for (const line of stale) console.error(`stale: ${line}`);
    return EXIT_FAILED;
  }
  const startedAt = performance.now();
  const options = {
    histories: count(values.histories, 600),
    seconds: count(values.seconds, 30),
    workers: count(values.workers, 2),
    ...(words.length === 0 ? {} : { only: words }),
  };
  console.log(
    row(["breakage", "histories needed", "what it breaks; the scenario that notices it"]),
  );
  const verdicts = await mutate(options, (verdict) => console.log(rowsOf(verdict)));
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  const caught = verdicts.filter(noticed);
  const bySeeds = verdicts.filter(({ swarm }) => swarm.by !== null);
  console.log(
    `${caught.filter(({ told }) => told !== null).length} by a named scenario, ${bySeeds.length} by histories from seeds, ${seconds} s`,
  );
  console.log(`${caught.length} of ${verdicts.length} noticed`);
  return caught.length === verdicts.length && verdicts.length > 0 ? 0 : EXIT_FAILED;
}

function count(text: string | undefined, otherwise: number): number {
  const value = Number(text ?? otherwise);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new UsageError(`Not a number from 1 on: ${text}`, { hint: "See --help" });
  return value;
}

/** One row on the breakage and what histories found, one on the scenario. */
function rowsOf(verdict: Verdict): string {
  const { mutant, told, swarm } = verdict;
  const seeds =
    swarm.by === null ? `not within ${swarm.histories}` : `${swarm.histories}: ${swarm.by}`;
  const scenario =
    told !== null
      ? `"${told.scenario}": ${told.because}`
      : noticed(verdict)
        ? `by no scenario; seed ${swarm.seed}: ${swarm.because}`
        : `SURVIVED${swarm.because === "" ? "" : ` (${swarm.because})`}`;
  return `${row([mutant.id, seeds, mutant.breaks])}\n${row(["", "", scenario.slice(0, 200)])}`;
}

function row([id, seeds, words]: readonly [string, string, string]): string {
  return `${id.padEnd(23)} ${seeds.padEnd(24)} ${words}`;
}

if (import.meta.main) await runScript(main);
