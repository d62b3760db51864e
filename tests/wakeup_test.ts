import { describe, expect, test } from "bun:test";
import {
  SUSPEND_MS,
  simulatedClock,
  suspendWatch,
  systemClock,
  systemWakeup,
} from "../lib/wakeup.ts";

/** Resolves with the time of the next firing; rejects if there is none. */
function nextFiring(arm: (fire: () => void) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error("Never fired")), 30_000);
    arm(() => {
      clearTimeout(limit);
      resolve(performance.now());
    });
  });
}

describe("systemClock()", () => {
  test("moves forward, and agrees with boot time to within its step", async () => {
    const clock = systemClock();
    const before = [clock.now(), clock.bootNow()] as const;
    await nextFiring((fire) => setTimeout(fire, 60));
    const passed = clock.now() - before[0];
    expect(passed).toBeGreaterThanOrEqual(59);
    expect(Math.abs(clock.bootNow() - before[1] - passed)).toBeLessThan(SUSPEND_MS);
    expect(clock.wall()).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });
});

describe("systemWakeup()", () => {
  test("fires at or after the time it is armed at", async () => {
    const clock = systemClock();
    const at = clock.now() + 30;
    const firedAt = await nextFiring((fire) => systemWakeup(clock, fire).armAt(at));
    expect(firedAt).toBeGreaterThanOrEqual(at);
  });

  test("fires once per arming, and the last arming counts", async () => {
    const clock = systemClock();
    let count = 0;
    const wakeup = systemWakeup(clock, () => count++);
    wakeup.armAt(clock.now() + 5);
    wakeup.armAt(clock.now() + 20);
    wakeup.armAt(clock.now() + 10);
    await nextFiring((fire) => setTimeout(fire, 60));
    expect(count).toBe(1);
    wakeup.stop();
  });

  test("fires at once for a time in the past and on a hint, several hints together", async () => {
    const clock = systemClock();
    await nextFiring((fire) => systemWakeup(clock, fire).armAt(0));
    let count = 0;
    const wakeup = systemWakeup(clock, () => count++);
    wakeup.armAt(clock.now() + 100_000);
    wakeup.hint();
    wakeup.hint();
    await nextFiring((fire) => setTimeout(fire, 10));
    expect(count).toBe(1);
    wakeup.stop();
  });

  test("fires no more once it is disarmed or stopped", async () => {
    const clock = systemClock();
    let count = 0;
    const disarmed = systemWakeup(clock, () => count++);
    disarmed.armAt(clock.now() + 5);
    disarmed.armAt(Number.POSITIVE_INFINITY);
    const stopped = systemWakeup(clock, () => count++);
    stopped.armAt(clock.now() + 5);
    stopped.hint();
    stopped.stop();
    stopped.armAt(0);
    stopped.hint();
    await nextFiring((fire) => setTimeout(fire, 30));
    expect(count).toBe(0);
  });

  test("adds its jitter to the time, never takes from it", async () => {
    const clock = systemClock();
    const at = clock.now() + 5;
    const options = { jitterMs: 30, random: () => 1 };
    const firedAt = await nextFiring((fire) => systemWakeup(clock, fire, options).armAt(at));
    expect(firedAt).toBeGreaterThanOrEqual(at + 30);
  });

  test("bears a time beyond what a runtime timer can wait", () => {
    const wakeup = systemWakeup(systemClock(), () => undefined);
    wakeup.armAt(1e15);
    wakeup.stop();
  });
});

describe("suspendWatch()", () => {
  test("tells a suspension once, with its length", () => {
    const clock = simulatedClock();
    const tick = suspendWatch(clock);
    clock.advance(100_000);
    expect(tick()).toBe(0);
    clock.suspend(60_000);
    clock.advance(10);
    expect(tick()).toBe(60_000);
    expect(tick()).toBe(0);
  });

  test("bears a disagreement up to its limit, and slow drift for ever", () => {
    const clock = simulatedClock();
    const tick = suspendWatch(clock);
    for (let round = 0; round < 100; round++) {
      clock.suspend(SUSPEND_MS);
      expect(tick()).toBe(0);
    }
    clock.suspend(SUSPEND_MS + 1);
    expect(tick()).toBe(SUSPEND_MS + 1);
  });

  test("tells clocks that disagree the other way round too", () => {
    let now = 0;
    const tick = suspendWatch({ now: () => now, bootNow: () => 0, wall: () => "" });
    now = 5000;
    expect(tick()).toBe(5000);
  });
});

describe("simulatedClock()", () => {
  test("refuses to go back", () => {
    const clock = simulatedClock(1000);
    expect(() => clock.moveTo(999)).toThrow(RangeError);
    expect(() => clock.advance(-1)).toThrow(RangeError);
    expect(() => clock.advance(Number.NaN)).toThrow(RangeError);
    expect(() => clock.suspend(-1)).toThrow(RangeError);
    expect(clock.now()).toBe(1000);
  });

  test("fires wakeups in the order of their times, each at its own", () => {
    const clock = simulatedClock();
    const fired: [string, number][] = [];
    const a = clock.wakeup(() => {
      fired.push(["a", clock.now()]);
      if (fired.length < 4) a.armAt(clock.now() + 10);
    });
    const b = clock.wakeup(() => fired.push(["b", clock.now()]));
    const c = clock.wakeup(() => fired.push(["c", clock.now()]));
    a.armAt(10);
    b.armAt(15);
    c.armAt(5);
    c.stop();
    clock.moveTo(12);
    b.hint();
    clock.advance(88);
    expect(fired).toEqual([
      ["a", 10],
      ["b", 12],
      ["a", 20],
      ["a", 30],
    ]);
    expect(clock.now()).toBe(100);
  });
});
