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

test("H20: the lease is shortened while longer ones run, and their holder is cut off: they are outwaited for as long as they were granted", () => {
  const heavy = {
    weights: [
      [1, 1, 1],
      [1, 1],
    ],
    onDoubleFault: "fence",
    guards: true,
  } as const;
  let byTime = 0;
  for (let seed = 1; seed <= 12; seed++) {
    const story: Story = {
      ...storyOf(seed),
      topology: heavy,
      galera: {},
      ageMs: 60_000,
      patience: { calmMs: Number.POSITIVE_INFINITY, stuckMs: Number.POSITIVE_INFINITY },
      faults: [{ atMs: 3000, kind: "isolate_site", forMs: 15_000, pick: [0, 0, 0] }],
      healAtMs: 20_000,
    };
    const shorter = configOf({ ...heavy, timing: { lease_ms: 1800, report_interval_ms: 600 } });
    const pushes = [{ atMs: 200 * seed, config: shorter }];
    const { violations, counts } = run(story, { record: false, pushes });
    expect(violations).toEqual([]);
    byTime += counts.get("granted form (outwaited)") ?? 0;
  }
  expect(byTime).toBeGreaterThan(0);
}, 60_000);

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
