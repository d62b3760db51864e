/**
 * The simulator from the command line. `run` plays N histories with fresh seeds, prints the first one, tells
 * every few seconds how far it is, and ends at the first violation (with --keep after all): that story is
 * made shorter and told. Its last line has the figures, the counted faults among them. A run that was bounded
 * by --seconds, or interrupted, goes on where it ended if --resume names the same file again.
 * Exit 0 only without a violation, 130 if it was interrupted.
 */
import { availableParallelism } from "node:os";
import { EXIT_FAILED, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { FAULT_KINDS, run, type Story, shrink, storyOf } from "../tests/sim/swarm.ts";
import { counted, figures, merge, newTally, type Tally } from "../tests/sim/tally.ts";
import { readLedger, sumOf, writeLedger } from "../tests/support/ledger.ts";
import { type HistoryOptions, playMany, work } from "../tests/support/many_histories.ts";

const USAGE = `
Usage: sim.ts run N [options]        plays N histories with fresh seeds
       sim.ts replay SEED [options]  tells one again
  --heavy         weights that leave one segment more than half
  --kinds A,B     only these kinds of faults
  --first SEED    run: begin with this seed
  --jobs J        run: processes at work at once (default: one per core)
  --keep          run: go on after a violation
  --seconds S     run: end after that time
  --resume FILE   run: go on where the run that named this file ended
  --shrink        replay: tell the shortest story that still fails
`;

/** Runs that making a story shorter may take. */
const SHRINK_RUNS = 150;
const JOBS_MAX = 64;
/** So often a run says how far it is, and keeps its ledger. */
const PROGRESS_MS = 10_000;
const EXIT_INTERRUPTED = 130;

interface RunOptions extends HistoryOptions {
  readonly first: number | null;
  readonly seconds: number;
  readonly jobs: number;
  readonly ledger: string | null;
}

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    first: { type: "string" },
    heavy: { type: "boolean" },
    shrink: { type: "boolean" },
    seconds: { type: "string" },
    resume: { type: "string" },
    jobs: { type: "string" },
    keep: { type: "boolean" },
    kinds: { type: "string" },
  });
  const [command, argument] = words;
  if (command === "work") {
    await work();
    return 0;
  }
  const { heavy = false, keep = false, shrink: shorten = false, resume: ledger = null } = values;
  const kinds = kindsOf(values.kinds);
  switch (command) {
    case "run": {
      const jobs = whole("--jobs", values.jobs ?? `${Math.min(availableParallelism(), JOBS_MAX)}`);
      const seconds = Number(values.seconds ?? Number.POSITIVE_INFINITY);
      if (jobs < 1 || jobs > JOBS_MAX) throw wrong(`--jobs is 1 to ${JOBS_MAX}, not ${jobs}`);
      if (Number.isNaN(seconds)) throw wrong(`--seconds is a number, not ${values.seconds}`);
      const first = values.first === undefined ? null : whole("--first", values.first);
      const count = whole("The number of histories", argument);
      return await runAll(count, { heavy, keep, kinds, seconds, first, jobs, ledger });
    }
    case "replay":
      return replay(storyOf(whole("The seed", argument), { heavy, kinds }), { shorten });
    default:
      throw wrong(command === undefined ? "Nothing is asked for" : `What is ${command}?`);
  }
}

/** @throws UsageError if that is no whole number */
function whole(what: string, value: string | undefined): number {
  const number = Number(value ?? Number.NaN);
  if (value === "" || !Number.isSafeInteger(number))
    throw wrong(`${what} is a whole number, not ${value ?? "left out"}`);
  return number;
}

/** @throws UsageError if a kind is unknown */
function kindsOf(named: string | undefined): HistoryOptions["kinds"] {
  const wanted = named?.split(",");
  const unknown = wanted?.find((kind) => !FAULT_KINDS.some((known) => known === kind));
  if (unknown !== undefined)
    throw wrong(`There is no fault ${unknown}`, `The faults: ${FAULT_KINDS.join(", ")}`);
  return FAULT_KINDS.filter((kind) => wanted?.includes(kind) ?? true);
}

function wrong(what: string, hint = "See --help"): UsageError {
  return new UsageError(what, { hint });
}

function freshSeed(): number {
  return Math.floor(Math.random() * 2 ** 40);
}

/** Plays N histories, or what is left of them by the ledger, and tells what came of all of them. */
async function runAll(count: number, options: RunOptions): Promise<number> {
  const { heavy, kinds, ledger: file } = options;
  const of = sumOf({ heavy, kinds });
  const before = file === null ? null : readLedger(file, of);
  const first = before?.first ?? options.first ?? freshSeed();
  if (options.first !== null && options.first !== first)
    throw new UsageError(`${file} begins with seed ${first}, not ${options.first}`, {
      hint: "Leave --first out, or begin a new file",
    });
  const from = before?.next ?? first;
  console.log(`first seed ${first}${from === first ? "" : `, ${from - first} played before`}`);
  const startedAt = performance.now();
  const spent = () => (before?.seconds ?? 0) + (performance.now() - startedAt) / 1000;
  // What the ledger holds has no violation, unless it was told to go on.
  const sum = (tally: Tally) => [before?.tally ?? newTally(), tally].reduce(merge, newTally());
  let interrupted = false;
  process.on("SIGINT", () => {
    interrupted = true;
  });
  let toldAt = startedAt;
  const { tally, next } = await playMany({
    ...options,
    first: from,
    count: Math.max(0, first + count - from),
    worker: [process.execPath, import.meta.path, "work"],
    isStopped: () => interrupted,
    onProgress: (soFar, reached) => {
      const now = performance.now();
      if (now - toldAt < PROGRESS_MS) return;
      toldAt = now;
      const rate = (reached - from) / ((now - startedAt) / 1000);
      const left = (first + count - reached) / rate / 60;
      console.log(
        `  ${reached - first} of ${count}, ${rate.toFixed(0)}/s, ${soFar.violations.length} violations, ${left.toFixed(1)} min to go`,
      );
      if (file !== null)
        writeLedger(file, { of, first, next: reached, seconds: spent(), tally: sum(soFar) });
    },
  });
  const all = sum(tally);
  if (file !== null) writeLedger(file, { of, first, next, seconds: spent(), tally: all });
  const violations = [...all.violations].sort((a, b) => a.seed - b.seed);
  for (const { seed, id, atMs, because } of violations)
    console.log(`seed ${seed}: ${id} at ${Math.round(atMs)} ms: ${because}`);
  for (const line of counted(all)) console.log(`  ${line}`);
  const [worst] = violations;
  if (worst !== undefined) replay(storyOf(worst.seed, options), { shorten: true });
  else if (next < first + count) console.log(`  next seed ${next}`);
  console.log(figures(all, { first, seconds: spent() }));
  if (violations.length > 0) return EXIT_FAILED;
  return interrupted ? EXIT_INTERRUPTED : 0;
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
  return outcome.violations.length > 0 ? EXIT_FAILED : 0;
}

if (import.meta.main) await runScript(main);
