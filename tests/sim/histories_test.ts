/**
 * Histories that must never show a violation, the same ones each time: what a gate says must not depend on
 * the draw. Fresh ones are hunted by `just sim-run N`, which says how often one is found.
 */
import { expect, test } from "bun:test";
import { run, storyOf } from "./swarm.ts";

/** Half of them with segments that could stay Primary by themselves. */
const HISTORIES = 300;

test(`${HISTORIES} fixed histories show no violation`, () => {
  const failed: string[] = [];
  for (let seed = 1; seed <= HISTORIES; seed++) {
    const heavy = seed % 2 === 1;
    for (const { id, because } of run(storyOf(seed, { heavy }), { record: false }).violations)
      failed.push(`replay ${seed}${heavy ? " --heavy" : ""}: ${id}, ${because}`);
  }
  expect(failed).toEqual([]);
}, 300_000);
