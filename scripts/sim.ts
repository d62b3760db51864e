/**
 * The simulator from the command line.
 *
 *   bun scripts/sim.ts run N [--first SEED] [--heavy] [--kinds a,b] [--seconds S]   N fresh histories
 *   bun scripts/sim.ts show SEED [--heavy] [--shrink]                 one history, told
 */
import { parseArgs } from "node:util";
import {
  FAULT_KINDS,
  type FaultKind,
  type Outcome,
  run,
  shrink,
  storyOf,
} from "../tests/sim/swarm.ts";

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      first: { type: "string" },
      heavy: { type: "boolean", default: false },
      shrink: { type: "boolean", default: false },
      seconds: { type: "string" },
      keep: { type: "boolean", default: false },
      kinds: { type: "string" },
    },
  });
  const [command, argument] = positionals;
  const number = Number(argument);
  if ((command !== "run" && command !== "show") || !Number.isSafeInteger(number)) {
    console.error("usage: sim.ts run N | sim.ts show SEED");
    process.exitCode = 2;
    return;
  }
  const kinds = FAULT_KINDS.filter((kind) => values.kinds?.split(",").includes(kind) ?? true);
  if (command === "show") show(number, { ...values, kinds });
  else {
    const first =
      values.first === undefined ? Math.floor(Math.random() * 2 ** 40) : Number(values.first);
    const seconds =
      values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
    runMany(number, { first, heavy: values.heavy, seconds, keep: values.keep, kinds });
  }
}

function show(
  seed: number,
  options: { heavy: boolean; shrink: boolean; kinds: readonly FaultKind[] },
): void {
  let story = storyOf(seed, options);
  if (options.shrink) {
    const failed = run(story, { record: false }).violations[0];
    if (failed !== undefined) {
      const shorter = shrink(story, failed.id, 200);
      story = shorter.story;
      console.log(`shrunk in ${shorter.runs} runs to ${story.faults.length} faults`);
    }
  }
  const outcome = run(story, { record: true });
  for (const line of outcome.timeline) console.log(line);
  console.log(JSON.stringify(story));
  for (const violation of outcome.violations)
    console.log(
      `VIOLATION ${violation.id} at ${violation.atMs.toFixed(0)} ms: ${violation.because}`,
    );
  console.log(figures(outcome));
  process.exitCode = outcome.violations.length > 0 ? 1 : 0;
}

function figures(outcome: Outcome): string {
  return `seed ${outcome.story.seed}: ${outcome.violations.length} violations, ${outcome.acknowledged} writes acknowledged, ${outcome.lostInFlight} lost in flight, longest outage ${Math.round(outcome.longestOutageMs)} ms, whole ${Math.round(outcome.healedMs)} ms after healing, ${outcome.steps} events in ${Math.round(outcome.simulatedMs / 1000)} s`;
}

function runMany(
  count: number,
  options: {
    first: number;
    heavy: boolean;
    seconds: number;
    keep: boolean;
    kinds: readonly FaultKind[];
  },
): void {
  const startedAt = performance.now();
  const counts = new Map<string, number>();
  const kinds = new Map<string, number[]>();
  let ran = 0;
  let steps = 0;
  let acknowledged = 0;
  let lostInFlight = 0;
  let lostLate = 0;
  let simulatedMs = 0;
  for (let index = 0; index < count; index++) {
    if ((performance.now() - startedAt) / 1000 > options.seconds) break;
    const seed = options.first + index;
    const outcome = run(storyOf(seed, options), { record: false });
    ran++;
    steps += outcome.steps;
    acknowledged += outcome.acknowledged;
    lostInFlight += outcome.lostInFlight;
    lostLate += outcome.lostLate;
    simulatedMs += outcome.simulatedMs;
    for (const [what, times] of outcome.counts) counts.set(what, (counts.get(what) ?? 0) + times);
    for (const violation of outcome.violations) {
      const seeds = kinds.get(violation.id) ?? [];
      if (seeds.length === 0 || options.keep)
        console.log(
          `seed ${seed}: ${violation.id} at ${violation.atMs.toFixed(0)} ms: ${violation.because}`,
        );
      seeds.push(seed);
      kinds.set(violation.id, seeds);
    }
  }
  for (const [what, times] of [...counts].sort()) console.log(`  ${what}: ${times}`);
  for (const [id, seeds] of kinds)
    console.log(`  violation ${id}: ${seeds.length}, seeds ${seeds.slice(0, 12).join(" ")}`);
  const seconds = (performance.now() - startedAt) / 1000;
  const violations = [...kinds.values()].reduce((sum, seeds) => sum + seeds.length, 0);
  console.log(
    `${ran} histories from seed ${options.first}, ${violations} violations, ${(ran / seconds).toFixed(1)} histories/s, ${Math.round(steps / seconds)} events/s, ${Math.round(simulatedMs / 1000)} s simulated, ${acknowledged} writes acknowledged, ${lostInFlight} lost in flight, ${lostLate} of them late`,
  );
  process.exitCode = violations > 0 ? 1 : 0;
}

if (import.meta.main) main();
