/**
 * Breaks the deciding rules one at a time and demands that the simulator notices each: exit 0 only if
 * none survives. Prints the table of breakage, what noticed it, and how many histories that took.
 */
import { EXIT_FAILED, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { mutate, staleMutants, type Verdict } from "../tests/support/mutation.ts";

const USAGE = `
Usage: mutants.ts [--seeds N] [--seconds S] [--workers N] [ID...]
  --seeds N     histories per breakage, at most (default 3000)
  --seconds S   and wall time, at most (default 60)
  --workers N   processes at work at once (default 2)
  ID            only breakages whose name contains this
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    seeds: { type: "string" },
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
    seeds: count(values.seeds, 3000),
    seconds: count(values.seconds, 60),
    workers: count(values.workers, 2),
    ...(words.length === 0 ? {} : { only: words }),
  };
  console.log(row(["breakage", "noticed by", "histories", "seconds"]));
  const verdicts = await mutate(options, (verdict) => console.log(rowOf(verdict)));
  const survivors = verdicts.filter(({ by }) => by === null);
  for (const { mutant } of survivors) console.log(`survived: ${mutant.id}: ${mutant.breaks}`);
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  console.log(
    `${verdicts.length} breakages, ${verdicts.length - survivors.length} noticed, ${survivors.length} survived, ${seconds} s`,
  );
  return survivors.length === 0 && verdicts.length > 0 ? 0 : EXIT_FAILED;
}

function count(text: string | undefined, otherwise: number): number {
  const value = Number(text ?? otherwise);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new UsageError(`Not a number from 1 on: ${text}`, { hint: "See --help" });
  return value;
}

function rowOf({ mutant, by, seeds, seconds, because }: Verdict): string {
  const noticed = by ?? `NOTHING${because === "" ? "" : ` (${because})`}`;
  return row([mutant.id, noticed, String(seeds), seconds.toFixed(1)]);
}

function row(cells: readonly [string, string, string, string]): string {
  const [id, by, seeds, seconds] = cells;
  return `${id.padEnd(24)} ${by.padEnd(40)} ${seeds.padStart(9)} ${seconds.padStart(8)}`;
}

if (import.meta.main) await runScript(main);
