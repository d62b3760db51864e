/** When a guard kills: every way in which a note may not mean this process, and the deadline itself. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type Guard, openGuard } from "../lib/effects/guard.ts";
import { readProcStat } from "../lib/effects/process.ts";
import { GUARD_LOOK_MS, guardStep } from "../lib/guard.ts";
import { systemClock } from "../lib/wakeup.ts";
import { until } from "./support/mariadbd.ts";
import { makeScratch, removeScratch } from "./support/scratch.ts";

const NOTE = { bootId: "b", pid: 100, startTime: 7, killAtBootMs: 5_000 };
const NOW = { bootMs: 4_900, bootId: "b", lives: true };

describe("what the guard does", () => {
  test("waits until the deadline, and no longer than a look", () => {
    expect(guardStep(NOTE, NOW)).toEqual({ do: "wait", forMs: 100 });
    expect(guardStep(NOTE, { ...NOW, bootMs: 0 })).toEqual({ do: "wait", forMs: GUARD_LOOK_MS });
  });

  test("kills at the deadline", () => {
    expect(guardStep(NOTE, { ...NOW, bootMs: 5_000 })).toEqual({ do: "kill", pid: 100 });
  });

  test("kills nobody while fenced, of another boot, of a reused pid, or without a note", () => {
    const late = { ...NOW, bootMs: 9_000 };
    const idle = { do: "wait", forMs: GUARD_LOOK_MS } as const;
    expect(guardStep({ ...NOTE, killAtBootMs: null }, late)).toEqual(idle);
    expect(guardStep(NOTE, { ...late, bootId: "c" })).toEqual(idle);
    expect(guardStep(NOTE, { ...late, lives: false })).toEqual(idle);
    expect(guardStep(null, late)).toEqual(idle);
  });
});

describe("a guard process", () => {
  const clock = systemClock();
  let directory = "";
  let guard: Guard;
  let child: Bun.Subprocess;

  beforeEach(() => {
    directory = makeScratch("guard");
    guard = openGuard({ noteFile: join(directory, "note"), clock });
    child = Bun.spawn(["sleep", "60"]);
  });
  afterEach(async () => {
    guard.dismiss();
    child.kill("SIGKILL");
    await child.exited;
    await until("the guard has ended", 30_000, () => !guard.alive());
    removeScratch(directory);
  });

  function tell(inMs: number | null): void {
    const startTime = readProcStat(child.pid)?.startTime ?? 0;
    const killAtBootMs = inMs === null ? null : clock.bootNow() + inMs;
    guard.tell({ pid: child.pid, startTime, killAtBootMs });
  }

  test("is alive once started, kills when nobody moves the deadline, not before", async () => {
    tell(60_000);
    await until("it looks", 30_000, guard.alive);
    const at = performance.now();
    tell(700);
    await until("the kill", 30_000, () => child.signalCode !== null);
    expect(child.signalCode).toBe("SIGKILL");
    expect(performance.now() - at).toBeGreaterThan(680);
  });

  test("spares one whose deadline is moved, or that is fenced", async () => {
    // Each deadline is far enough off for a machine that stands still for a while.
    tell(2_000);
    for (let n = 0; n < 6; n++) {
      await Bun.sleep(400);
      tell(2_000);
    }
    tell(null);
    await Bun.sleep(2_500);
    expect(child.signalCode).toBeNull();
    expect(guard.alive()).toBe(true);
  });

  test("is found again by another watchdog, which needs no second one", async () => {
    tell(60_000);
    await until("it looks", 30_000, guard.alive);
    const next = openGuard({
      noteFile: join(directory, "note"),
      clock,
      command: ["/nonexistent/guard"],
    });
    expect(next.alive()).toBe(true);
    expect(() => next.tell({ pid: child.pid, startTime: 0, killAtBootMs: null })).not.toThrow();
  });
});
