/**
 * With eviction and without, side by side on a real 2+2 cluster at Galera's default timeouts: how long
 * an application behind a minded balancer waits for its next acknowledged row. Exit 0 only if every
 * bound holds and no run has lost a row that the rules promise.
 */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import type { ClusterConfig } from "../lib/cluster_config.ts";
import { describeError } from "../lib/errors.ts";
import { keepLogs } from "../lib/lab/aftermath.ts";
import { type Minded, openMinded } from "../lib/lab/minded.ts";
import { EVICT_FAULTS, type EvictRun, runEvictFault } from "../lib/lab/race_evict.ts";
import { isFaster, judgeRuns, MODES, tableOf } from "../lib/lab/race_evict_table.ts";
import { describeMixed, runMixed } from "../lib/lab/race_mixed.ts";

const USAGE = `
Usage: race_evict.ts [--runs N] [--fault NAMES] [--evict MODES] [--resume FILE] [--name NAME] [--json]
       race_evict.ts --mixed N [--seed SEED] [--evict MODE] [--name NAME]
  --runs N       of each fault and mode (default 10)
  --fault NAMES  crash, segment, hosts, link; several with commas (default all of them)
  --evict MODES  off, confirmed, full (default all; confirmed only for the faults it changes)
  --resume FILE  runs are noted there as they end, and those found there are not repeated
  --json         one line for each run on stdout, instead of the table
  --mixed N      N times faults drawn from a seed instead of the table, with evict = "full" or another
  --seed SEED    of the first one (default: fresh); the next ones follow it
  --keep FOLDER  where logs of a run that fails are kept (default: in the temporary directory)
  --name NAME    of the lab (default race-evict)
The table takes about 25 minutes for 10 runs, a mixed repetition 20 s. As root; leaves nothing behind but
logs of what failed.
Exit: 0 all bounds hold, 1 one does not, 2 wrong use
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    runs: { type: "string" },
    fault: { type: "string" },
    evict: { type: "string" },
    resume: { type: "string" },
    mixed: { type: "string" },
    seed: { type: "string" },
    keep: { type: "string" },
    name: { type: "string" },
    json: { type: "boolean" },
  });
  const name = values.name ?? "race-evict";
  const keep = values.keep ?? join(tmpdir(), `galera-minder-${name}-kept-${process.pid}`);
  const runs = countOf("--runs", values.runs ?? "10");
  const faults = chosen("--fault", values.fault?.split(","), EVICT_FAULTS) ?? EVICT_FAULTS;
  const modes = chosen("--evict", values.evict?.split(","), MODES);
  if (values.mixed !== undefined) {
    const times = countOf("--mixed", values.mixed);
    const seed = values.seed === undefined ? freshSeed() : countOf("--seed", values.seed);
    return await raceMixed({ times, seed, name, keep, evict: modes?.[0] ?? "full" });
  }
  const known = values.resume === undefined ? null : new Known(values.resume);
  const results: EvictRun[] = [...(known?.runs ?? [])];
  for (const evict of modes ?? MODES) {
    const wanted = faults.filter(
      (fault) => modes !== null || evict !== "confirmed" || isFaster(fault, evict),
    );
    const left = wanted.flatMap((fault) => {
      const done = results.filter((one) => one.fault === fault && one.evict === evict).length;
      return Array.from({ length: Math.max(0, runs - done) }, (_, n) => ({
        fault,
        run: done + n + 1,
      }));
    });
    if (left.length === 0) continue;
    await withCluster({ name, evict, keep }, async (minded) => {
      for (const { fault, run } of left) {
        const result = await runEvictFault(minded, fault, `${fault}-${run}`);
        results.push(result);
        known?.add(result);
        say(result, run);
        if (result.complaints.length > 0) kept(minded, join(keep, `${evict}-${fault}-${run}`));
        if (values.json === true) console.log(JSON.stringify(result));
      }
    });
  }
  const counted = results.filter(({ fault }) => faults.includes(fault));
  if (values.json !== true) console.log(tableOf(counted));
  const failures = judgeRuns(counted);
  for (const failure of failures) console.error(`  fails: ${failure}`);
  console.log(`verdict: ${failures.length === 0 ? "pass" : "fail"} runs=${counted.length}`);
  return failures.length === 0 ? 0 : 1;
}

async function raceMixed(options: {
  readonly times: number;
  readonly seed: number;
  readonly name: string;
  readonly keep: string;
  readonly evict: ClusterConfig["evict"];
}): Promise<number> {
  const { times, seed, name, keep, evict } = options;
  console.log(`first seed: ${seed}`);
  let violations = 0;
  let inFlight = 0;
  let rows = 0;
  await withCluster({ name, evict, keep }, async (minded) => {
    for (let n = 0; n < times; n++) {
      const result = await runMixed(minded, seed + n);
      console.log(`  ${n + 1}/${times} ${describeMixed(result)}`);
      inFlight += result.inFlightMs.length;
      rows += result.rows;
      if (result.complaints.length === 0) continue;
      violations++;
      kept(minded, join(keep, `mixed-${seed + n}`));
    }
  });
  const pass = violations === 0;
  console.log(
    `verdict: ${pass ? "pass" : "fail"} evict=${evict} repetitions=${times} violations=${violations} rows=${rows} lost_in_flight=${inFlight} first_seed=${seed}`,
  );
  return pass ? 0 : 1;
}

/** Brings a cluster up, and takes it down whatever happens; what stands in its logs then is kept. */
async function withCluster(
  options: {
    readonly name: string;
    readonly evict: ClusterConfig["evict"];
    readonly keep: string;
  },
  play: (minded: Minded) => Promise<void>,
): Promise<void> {
  const { name, evict, keep } = options;
  const minded = await openMinded(name, {
    apps: 1,
    evict,
    // Each run may move the primary segment: no person is there to acknowledge the second time.
    timing: ["promotion_window_ms = 0"],
  });
  try {
    await minded.start();
    // An arbitrator that has just started grants nothing yet.
    await Bun.sleep(minded.config.outwaitMs);
    await play(minded);
  } catch (error) {
    console.error(`  ${describeError(error)}`);
    kept(minded, join(keep, `${evict}-ended`));
    throw error;
  } finally {
    await minded.down();
  }
}

function kept(minded: Minded, folder: string): void {
  console.error(`  logs: ${keepLogs(minded.lab, folder)}`);
}

/** Runs of an earlier call, of the same programs. */
class Known {
  readonly runs: readonly EvictRun[];
  readonly #file: string;
  readonly #tree: string;

  constructor(file: string) {
    this.#file = file;
    this.#tree = treeHash();
    const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n").filter(Boolean) : [];
    const all = lines.map((line) => JSON.parse(line) as { tree: string; run: EvictRun });
    if (all.some(({ tree }) => tree !== this.#tree)) {
      throw new UsageError(`${file} holds runs of other programs than these`, {
        hint: "Remove it, or name another file",
      });
    }
    this.runs = all.map(({ run }) => run);
  }

  add(run: EvictRun): void {
    appendFileSync(this.#file, `${JSON.stringify({ tree: this.#tree, run })}\n`);
  }
}

/** Of all that takes part in a run. */
function treeHash(): string {
  const root = join(import.meta.dir, "..");
  const hash = new Bun.CryptoHasher("sha256");
  for (const file of [...new Bun.Glob("{lib,scripts}/**/*.ts").scanSync({ cwd: root })].sort()) {
    hash.update(file).update(readFileSync(join(root, file)));
  }
  return hash.digest("hex").slice(0, 16);
}

function countOf(option: string, told: string): number {
  const count = Number(told);
  if (!Number.isSafeInteger(count) || count < 1)
    throw new UsageError(`${option} must be 1 or more`);
  return count;
}

function freshSeed(): number {
  return 1 + Math.floor(Math.random() * 1_000_000_000);
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

function say(run: EvictRun, number: number): void {
  const { fault, evict, gapMs, directMs, returnMs, wholeMs, faultMs, inFlightMs } = run;
  const words = [
    `${new Date().toISOString().slice(11, 19)} ${fault} ${number}, evict ${evict}: ${Math.round(gapMs)} ms`,
    `(${Math.round(directMs)} direct, ${Math.round(returnMs)} at the return,`,
    `whole after ${Math.round(wholeMs)}, fault took ${faultMs.toFixed(1)}, round trip ${Math.round(run.roundTripMs)})`,
    ...inFlightMs.map((ms) => `one row lost in flight, ${ms.toFixed(1)} ms from the fault;`),
    ...run.complaints,
  ];
  console.error(`  ${words.join(" ")}`);
}

if (import.meta.main) await runScript(main);
