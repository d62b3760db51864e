/**
 * With eviction and without, side by side on a real 2+2 cluster at Galera's default timeouts: how long
 * an application behind a minded balancer waits for its next acknowledged row. Exit 0 only if every
 * bound holds and no run has lost a row.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import type { ClusterConfig } from "../lib/cluster_config.ts";
import { openMinded } from "../lib/lab/minded.ts";
import {
  EVICT_FAULTS,
  type EvictFault,
  type EvictRun,
  runEvictFault,
} from "../lib/lab/race_evict.ts";

const USAGE = `
Usage: race_evict.ts [--runs N] [--fault NAMES] [--evict MODES] [--name NAME] [--json]
  --runs N      of each fault, with and without eviction (default 10)
  --fault NAMES crash, segment, hosts, link; several with commas (default all of them)
  --evict MODES off, confirmed or full (default off and full)
  --name NAME   of the lab (default race-evict)
  --json        one line for each run on stdout, instead of the table
Takes 15 to 25 minutes for 10 runs, as root, and leaves nothing behind.
`;

/** What each fault is, and the most that the median gap may be with eviction; milliseconds. */
const BOUNDS: Readonly<Record<EvictFault, { readonly words: string; readonly maxMs: number }>> = {
  crash: { words: "kill -9 of one mariadbd, client of another server", maxMs: 350 },
  segment: { words: "kill -9 of both mariadbd of the primary data centre", maxMs: 600 },
  hosts: { words: "its hosts cut off from everybody", maxMs: 2_600 },
  link: { words: "link between the data centres cut", maxMs: 2_600 },
};
const MODES = ["off", "confirmed", "full"] as const satisfies readonly ClusterConfig["evict"][];

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    runs: { type: "string" },
    fault: { type: "string" },
    evict: { type: "string" },
    name: { type: "string" },
    json: { type: "boolean" },
  });
  const runs = Number(values.runs ?? 10);
  if (!Number.isSafeInteger(runs) || runs < 1) throw new UsageError("--runs must be 1 or more");
  const faults = chosen("--fault", words(values.fault), EVICT_FAULTS) ?? EVICT_FAULTS;
  const modes = chosen("--evict", words(values.evict), MODES) ?? ["off", "full"];
  const results: EvictRun[] = [];
  for (const evict of modes) {
    const minded = await openMinded(values.name ?? "race-evict", {
      apps: 1,
      evict,
      // Each run may move the primary segment: no person is there to acknowledge the second time.
      timing: ["promotion_window_ms = 0"],
    });
    try {
      await minded.start();
      // An arbitrator that has just started grants nothing yet.
      await Bun.sleep(minded.config.outwaitMs);
      for (const fault of faults) {
        for (let run = 1; run <= runs; run++) {
          const result = await runEvictFault(minded, fault, `${fault}-${run}`);
          results.push(result);
          say(result, run);
          if (values.json === true) console.log(JSON.stringify(result));
        }
      }
    } finally {
      await minded.down();
    }
  }
  if (values.json !== true) console.log(table(results, faults));
  const failures = judge(results);
  for (const failure of failures) console.error(`  fails: ${failure}`);
  return failures.length === 0 ? 0 : 1;
}

function words(told: string | undefined): readonly string[] | undefined {
  return told?.split(",");
}

function chosen<T extends string>(
  option: string,
  told: readonly string[] | undefined,
  allowed: readonly T[],
): readonly T[] | null {
  if (told === undefined) return null;
  return told.map((word) => {
    const found = allowed.find((one) => one === word);
    if (found === undefined) throw new UsageError(`${option} is one of ${allowed.join(", ")}`);
    return found;
  });
}

function say({ fault, evict, gapMs, directMs, returnMs, complaints }: EvictRun, run: number): void {
  const words = [
    `${fault} ${run}, evict ${evict}: ${Math.round(gapMs)} ms`,
    `(${Math.round(directMs)} ms direct, ${Math.round(returnMs)} ms at the return)`,
    ...complaints,
  ];
  console.error(`  ${words.join(" ")}`);
}

function judge(results: readonly EvictRun[]): readonly string[] {
  const failures = results.flatMap(({ fault, evict, complaints }) =>
    complaints.map((complaint) => `${fault}, evict ${evict}: ${complaint}`),
  );
  for (const fault of EVICT_FAULTS) {
    for (const evict of MODES) {
      // Without evidence of silence only the exits are faster.
      const bound = evict === "full" || (evict === "confirmed" && isExit(fault));
      const own = results.filter((one) => one.fault === fault && one.evict === evict);
      if (!bound || own.length === 0) continue;
      const median = medianOf(own.map((one) => one.gapMs));
      const { maxMs } = BOUNDS[fault];
      if (median > maxMs) {
        failures.push(`${fault}, evict ${evict}: median ${Math.round(median)} ms, bound ${maxMs}`);
      }
    }
  }
  return failures;
}

function isExit(fault: EvictFault): boolean {
  return fault === "crash" || fault === "segment";
}

function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1] ?? Number.NaN;
  return (low + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2;
}

function table(results: readonly EvictRun[], faults: readonly EvictFault[]): string {
  const lines = faults.flatMap((fault) =>
    MODES.flatMap((evict) => {
      const own = results.filter((one) => one.fault === fault && one.evict === evict);
      if (own.length === 0) return [];
      const gaps = own.map((one) => one.gapMs);
      const { words, maxMs } = BOUNDS[fault];
      const sum = (of: (one: EvictRun) => number): number =>
        own.reduce((all, one) => all + of(one), 0);
      return [
        [
          words,
          evict,
          String(own.length),
          ms(medianOf(gaps)),
          ms(Math.min(...gaps)),
          ms(Math.max(...gaps)),
          ms(medianOf(own.map((one) => one.directMs))),
          ms(medianOf(own.map((one) => one.returnMs))),
          evict === "off" ? "" : ms(maxMs),
          String(sum((one) => one.missing)),
          String(sum((one) => one.strays)),
          own.every((one) => one.checksumsEqual) ? "equal" : "DIFFERENT",
        ],
      ];
    }),
  );
  const header = [
    "fault",
    "evict",
    "runs",
    "median",
    "least",
    "most",
    "direct",
    "return",
    "bound",
    "rows lost",
    "stray",
    "checksums",
  ];
  const all = [header, ...lines];
  const widths = header.map((_, column) =>
    Math.max(...all.map((line) => line[column]?.length ?? 0)),
  );
  const text = all.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return `\nLongest time without an acknowledged row\n\n${text.join("\n")}`;
}

function ms(value: number): string {
  return `${Math.round(value)} ms`;
}

if (import.meta.main) await runScript(main);
