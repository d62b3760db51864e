/**
 * Histories that must not show a violation: the same ones each time, and some that nobody has seen before.
 * Many fresh ones are hunted by `just sim-run N`, which says how often one is found.
 */
import { expect, test } from "bun:test";
import { run, storyOf } from "./swarm.ts";

/** Half of them with segments that could stay Primary by themselves. */
const FIXED = 300;
/** With balanced segments only: what rests on clocks alone is hunted by `just sim-run N --heavy`. */
const FRESH = 200;

/** The violations of a history, each with what replays it. */
function violationsOf(seed: number, heavy: boolean): readonly string[] {
  const { violations } = run(storyOf(seed, { heavy }), { record: false });
  return violations.map(
    ({ id, because }) => `replay ${seed}${heavy ? " --heavy" : ""}: ${id}, ${because}`,
  );
}

test(`${FIXED} fixed histories show no violation`, () => {
  const failed: string[] = [];
  for (let seed = 1; seed <= FIXED; seed++) failed.push(...violationsOf(seed, seed % 2 === 1));
  expect(failed).toEqual([]);
}, 300_000);

test(`${FRESH} fresh histories show no violation`, () => {
  const first = Math.floor(Math.random() * 2 ** 40);
  // biome-ignore lint/style/noRestrictedGlobals: for whoever wants to replay it.
  process.stdout.write(`first fresh seed ${first}\n`);
  const failed: string[] = [];
  for (let seed = first; seed < first + FRESH; seed++) failed.push(...violationsOf(seed, false));
  expect(failed).toEqual([]);
}, 300_000);
