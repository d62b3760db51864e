/**
 * The simulator from the command line.
 *
 *   bun scripts/sim.ts run N [--first SEED] [--heavy] [--kinds a,b] [--seconds S] [--jobs J] [--keep]
 *   bun scripts/sim.ts replay SEED [--heavy] [--kinds a,b] [--shrink]
 *
 * `run` plays N histories with fresh seeds, prints the first one, and ends at the first violation
 * (with --keep after all): that story is made shorter and told. Its last line has the figures, the
 * counted faults among them. Without --jobs it uses every core. Exit 0 only without a violation.
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import {
  FAULT_KINDS,
  type FaultKind,
  type Outcome,
  run,
  type Story,
  shrink,
  storyOf,
} from "../tests/sim/swarm.ts";

/** Runs that making a story shorter may take. */
const SHRINK_RUNS = 150;
const JOBS_MAX = 64;

interface Options {
  readonly heavy: boolean;
  readonly kinds: readonly FaultKind[];
  readonly keep: boolean;
  readonly seconds: number;
}

/** What became of many histories; plain, so that a worker process can hand it on as one line. */
interface Tally {
  histories: number;
  steps: number;
  simulatedMs: number;
  acknowledged: number;
  lostInFlight: number;
  lostLate: number;
  longestOutageMs: number;
  readonly counts: Record<string, number>;
  readonly violations: {
    readonly seed: number;
    readonly id: string;
    readonly atMs: number;
    readonly because: string;
  }[];
}

function newTally(): Tally {
  return {
    histories: 0,
    steps: 0,
    simulatedMs: 0,
    acknowledged: 0,
    lostInFlight: 0,
    lostLate: 0,
    longestOutageMs: 0,
    counts: {},
    violations: [],
  };
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      first: { type: "string" },
      step: { type: "string", default: "1" },
      heavy: { type: "boolean", default: false },
      shrink: { type: "boolean", default: false },
      seconds: { type: "string" },
      jobs: { type: "string", default: String(Math.min(availableParallelism(), JOBS_MAX)) },
      keep: { type: "boolean", default: false },
      kinds: { type: "string" },
    },
  });
  const [command, argument] = positionals;
  const number = Number(argument);
  const jobs = Number(values.jobs);
  const first = values.first === undefined ? freshSeed() : Number(values.first);
  const seconds = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
  const wrong = [number, first, Number(values.step), jobs].some((n) => !Number.isSafeInteger(n));
  if (wrong || Number.isNaN(seconds) || jobs < 1 || jobs > JOBS_MAX) return usage();
  const wanted = values.kinds?.split(",");
  const kinds = FAULT_KINDS.filter((kind) => wanted?.includes(kind) ?? true);
  if (wanted !== undefined && kinds.length !== wanted.length) return usage();
  const options: Options = { heavy: values.heavy, kinds, keep: values.keep, seconds };
  switch (command) {
    case "run":
      return await runAll(number, { ...options, first, jobs });
    case "replay":
      return replay(storyOf(number, options), { shorten: values.shrink });
    case "work":
      console.log(
        JSON.stringify(runSome(number, { ...options, first, step: Number(values.step) })),
      );
      return 0;
    default:
      return usage();
  }
}

function usage(): number {
  console.error("usage: sim.ts run N [--first SEED] [--seconds S] [--jobs J] [--heavy] [--keep]");
  console.error("       sim.ts replay SEED [--heavy] [--shrink]");
  console.error(`       --kinds: ${FAULT_KINDS.join(",")}`);
  return 2;
}

function freshSeed(): number {
  return Math.floor(Math.random() * 2 ** 40);
}

/** Plays N histories, in `jobs` processes, and tells what came of them. */
async function runAll(
  count: number,
  options: Options & { readonly first: number; readonly jobs: number },
): Promise<number> {
  const { first, jobs } = options;
  console.log(`first seed ${first}`);
  const startedAt = performance.now();
  const tallies =
    jobs === 1
      ? [runSome(count, { ...options, step: 1 })]
      : await Promise.all(
          Array.from({ length: jobs }, (_, job) => startWorker(count, job, options)),
        );
  const seconds = (performance.now() - startedAt) / 1000;
  const tally = tallies.reduce(merge, newTally());
  const violations = [...tally.violations].sort((a, b) => a.seed - b.seed);
  for (const { seed, id, atMs, because } of violations)
    console.log(`seed ${seed}: ${id} at ${Math.round(atMs)} ms: ${because}`);
  for (const [what, times] of Object.entries(tally.counts).sort())
    if (!what.startsWith(FAULT)) console.log(`  ${what}: ${times}`);
  const [worst] = violations;
  if (worst !== undefined) replay(storyOf(worst.seed, options), { shorten: true });
  console.log(figures(tally, { first, seconds }));
  return violations.length > 0 ? 1 : 0;
}

const FAULT = "fault ";

function figures(tally: Tally, at: { readonly first: number; readonly seconds: number }): string {
  const faults = Object.entries(tally.counts)
    .filter(([what]) => what.startsWith(FAULT))
    .sort()
    .map(([what, times]) => `${what.slice(FAULT.length)} ${times}`);
  const total = Object.entries(tally.counts).reduce(
    (sum, [what, times]) => sum + (what.startsWith(FAULT) ? times : 0),
    0,
  );
  const seeds = [...new Set(tally.violations.map(({ seed }) => seed))].slice(0, 12);
  return [
    `${tally.histories} histories from seed ${at.first}`,
    `${tally.violations.length} violations${seeds.length === 0 ? "" : ` (seeds ${seeds.join(" ")})`}`,
    `${(tally.histories / at.seconds).toFixed(1)} histories/s`,
    `${Math.round(tally.steps / at.seconds)} events/s`,
    `${Math.round(tally.simulatedMs / 1000)} s simulated`,
    `each ${(tally.simulatedMs / 1000 / tally.histories).toFixed(1)} s with ${(total / tally.histories).toFixed(1)} faults and ${Math.round(tally.steps / tally.histories)} events`,
    `${tally.acknowledged} writes acknowledged`,
    `${tally.lostInFlight} lost in flight (${tally.lostLate} late)`,
    `faults: ${faults.join(", ")}`,
  ].join(", ");
}

/** Every J-th history in a process of its own. @throws Error if it ends without its figures */
async function startWorker(
  count: number,
  job: number,
  options: Options & { readonly first: number; readonly jobs: number },
): Promise<Tally> {
  const { first, jobs, heavy, keep, kinds, seconds } = options;
  const share = Math.floor(count / jobs) + (job < count % jobs ? 1 : 0);
  const worker = Bun.spawn(
    [
      process.execPath,
      import.meta.path,
      "work",
      String(share),
      `--first=${first + job}`,
      `--step=${jobs}`,
      `--kinds=${kinds.join(",")}`,
      ...(heavy ? ["--heavy"] : []),
      ...(keep ? ["--keep"] : []),
      ...(Number.isFinite(seconds) ? [`--seconds=${seconds}`] : []),
    ],
    { stdout: "pipe", stderr: "inherit" },
  );
  const text = await new Response(worker.stdout).text();
  const status = await worker.exited;
  if (status !== 0) throw new Error(`worker ${job} ended with status ${status}`);
  return JSON.parse(text) as Tally;
}

function runSome(
  count: number,
  options: Options & { readonly first: number; readonly step: number },
): Tally {
  const startedAt = performance.now();
  const tally = newTally();
  for (let index = 0; index < count; index++) {
    if ((performance.now() - startedAt) / 1000 > options.seconds) break;
    const seed = options.first + index * options.step;
    const outcome = run(storyOf(seed, options), { record: false });
    merge(tally, tallyOf(seed, outcome));
    if (outcome.violations.length > 0 && !options.keep) break;
  }
  return tally;
}

function tallyOf(seed: number, outcome: Outcome): Tally {
  const { steps, simulatedMs, acknowledged, lostInFlight, lostLate, longestOutageMs } = outcome;
  return {
    histories: 1,
    steps,
    simulatedMs,
    acknowledged,
    lostInFlight,
    lostLate,
    longestOutageMs,
    counts: Object.fromEntries(outcome.counts),
    violations: outcome.violations.map((violation) => ({ seed, ...violation })),
  };
}

/** Adds the second to the first, and returns it. */
function merge(into: Tally, more: Tally): Tally {
  into.histories += more.histories;
  into.steps += more.steps;
  into.simulatedMs += more.simulatedMs;
  into.acknowledged += more.acknowledged;
  into.lostInFlight += more.lostInFlight;
  into.lostLate += more.lostLate;
  into.longestOutageMs = Math.max(into.longestOutageMs, more.longestOutageMs);
  for (const [what, times] of Object.entries(more.counts))
    into.counts[what] = (into.counts[what] ?? 0) + times;
  into.violations.push(...more.violations);
  return into;
}

/** Tells one history from its beginning; `shorten` leaves out whatever it fails without. */
function replay(from: Story, options: { readonly shorten: boolean }): number {
  let story = from;
  if (options.shorten) {
    const failed = run(story, { record: false }).violations[0];
    if (failed !== undefined) {
      const shorter = shrink(story, failed.id, SHRINK_RUNS);
      story = shorter.story;
      console.log(`shrunk in ${shorter.runs} runs to ${story.faults.length} faults`);
    }
  }
  const outcome = run(story, { record: true });
  for (const line of outcome.timeline) console.log(line);
  console.log(JSON.stringify(story));
  for (const { id, atMs, because } of outcome.violations)
    console.log(`VIOLATION ${id} at ${Math.round(atMs)} ms: ${because}`);
  console.log(
    [
      `seed ${story.seed}: ${outcome.violations.length} violations`,
      `${outcome.acknowledged} writes acknowledged`,
      `${outcome.lostInFlight} lost in flight`,
      `longest outage ${Math.round(outcome.longestOutageMs)} ms`,
      `whole ${Math.round(outcome.healedMs)} ms after healing`,
      `${outcome.steps} events in ${Math.round(outcome.simulatedMs / 1000)} s`,
    ].join(", "),
  );
  return outcome.violations.length > 0 ? 1 : 0;
}

if (import.meta.main) process.exitCode = await main();
