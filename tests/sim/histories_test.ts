/** Histories that must never show a violation: the same ones each time, and fresh ones as time allows. */
import { expect, test } from "bun:test";
import { run, storyOf } from "./swarm.ts";

/** Fixed histories, half of them with segments that could stay Primary by themselves. */
const FIXED = 120;
/** Time for both kinds together. */
const BOUND_MS = 20_000;

/** Time of this machine, not of a simulated one: it only bounds how many fresh histories are played. */
function realMs(): number {
  // biome-ignore lint/style/noRestrictedGlobals: nothing simulated hears of it.
  return performance.now();
}

test(
  "fixed histories, and as many fresh ones as 20 s allow, show no violation",
  () => {
    const endMs = realMs() + BOUND_MS;
    const failed: string[] = [];
    const play = (seed: number) => {
      const heavy = seed % 2 === 1;
      for (const { id, because } of run(storyOf(seed, { heavy }), { record: false }).violations)
        failed.push(`replay ${seed}${heavy ? " --heavy" : ""}: ${id}, ${because}`);
    };
    for (let seed = 1; seed <= FIXED; seed++) play(seed);
    const first = Math.floor(Math.random() * 2 ** 40);
    // biome-ignore lint/style/noRestrictedGlobals: for whoever wants to replay it.
    process.stdout.write(`first fresh seed ${first}\n`);
    for (let seed = first; realMs() < endMs && failed.length === 0; seed++) play(seed);
    expect(failed).toEqual([]);
  },
  6 * BOUND_MS,
);
