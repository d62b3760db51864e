/** Timings that change by a push while everything goes wrong: nobody is ever right by two rules. */
import { expect, test } from "bun:test";
import { Random } from "./random.ts";
import { configOf, run, type Story, storyOf } from "./swarm.ts";

const HISTORIES = 40;
const BOUND_MS = 120_000;

/** Timings beside a story's own: other fences and outwaits, and never longer until the door is closed. */
function changesOf(leaseMs: number) {
  return [
    { fence_ms: 400, margin_ms: 150 },
    { margin_ms: 900 },
    { lease_ms: leaseMs + 600, fence_ms: 400 },
    { lease_ms: leaseMs + 500, fence_ms: 300, margin_ms: 200 },
  ];
}

function pushesFor(story: Story) {
  const random = new Random(story.seed).fork();
  return Array.from({ length: 1 + random.int(3) }, () => {
    const { topology } = story;
    const { leaseMs } = configOf(topology).timing;
    const timing = { ...topology.timing, ...random.pick(changesOf(leaseMs)) };
    const onDoubleFault = random.chance(0.3) ? "fence" : topology.onDoubleFault;
    return {
      atMs: random.between(200, story.healAtMs + 2000),
      config: configOf({ ...topology, timing, onDoubleFault }),
    };
  });
}

test(
  "configs pushed amid faults show no violation, and come into force",
  () => {
    const failed: string[] = [];
    const counts = new Map<string, number>();
    for (let seed = 1; seed <= HISTORIES; seed++) {
      const story = storyOf(seed);
      const outcome = run(story, { record: false, pushes: pushesFor(story) });
      for (const { id, because } of outcome.violations)
        failed.push(`seed ${seed}: ${id}, ${because}`);
      for (const [what, count] of outcome.counts) counts.set(what, (counts.get(what) ?? 0) + count);
    }
    expect(failed).toEqual([]);
    expect(counts.get("config_in_force") ?? 0).toBeGreaterThan(HISTORIES / 4);
  },
  BOUND_MS,
);
