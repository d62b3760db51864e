import { expect, test } from "bun:test";
import { describePlan, planMixed } from "../../lib/lab/mixed_faults.ts";

const SEGMENTS = [
  ["dc1-1", "dc1-2"],
  ["dc2-1", "dc2-2"],
];
const plans = Array.from({ length: 400 }, (_, seed) => planMixed(seed + 1, SEGMENTS));

test("planMixed() draws the same from the same seed", () => {
  expect(planMixed(77, SEGMENTS)).toEqual(planMixed(77, SEGMENTS));
  expect(describePlan(planMixed(77, SEGMENTS))).not.toBe(describePlan(planMixed(78, SEGMENTS)));
});

test("planMixed() draws every kind, alone and together, and mends within its bounds", () => {
  const kinds = new Set(
    plans.flatMap(({ steps }) => steps.map(({ misfortune }) => misfortune.what)),
  );
  expect([...kinds].sort()).toEqual([
    "cut_hosts",
    "cut_link",
    "end_arbitrator",
    "end_watchdog",
    "hang",
    "kill",
    "pause_watchdog",
    "stop",
  ]);
  for (const count of [1, 2, 3])
    expect(plans.some(({ steps }) => steps.length === count)).toBe(true);
  for (const { steps, mendMs } of plans) {
    const last = steps.at(-1)?.atMs ?? 0;
    expect(mendMs - last).toBeGreaterThanOrEqual(300);
    expect(mendMs - last).toBeLessThanOrEqual(12_000);
    expect(steps[0]?.atMs).toBe(0);
    expect(steps.map(({ atMs }) => atMs)).toEqual(
      steps.map(({ atMs }) => atMs).sort((a, b) => a - b),
    );
  }
});

test("planMixed() ends a watchdog of a server while members are being evicted", () => {
  const ended = plans.filter(
    ({ steps }) =>
      steps.some(({ misfortune }) => misfortune.what === "kill") &&
      steps.some(({ atMs, misfortune }) => misfortune.what === "end_watchdog" && atMs <= 400),
  );
  expect(ended.length).toBeGreaterThan(10);
});
