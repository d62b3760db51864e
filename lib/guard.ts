/**
 * The guard's one decision, and the note by which its watchdog tells it of a deadline. Pure.
 *
 * A watchdog that dies or stalls beside a heavy segment's server cannot fence it when its right ends.
 * The guard is another process, which kills that mariadbd then. Times count from boot, suspensions
 * included: a machine that slept past the deadline must not serve on.
 */
import * as v from "valibot";

export const GuardNoteSchema = v.strictObject({
  /** Of /proc/sys/kernel/random/boot_id: a note of an earlier boot means nothing. */
  bootId: v.string(),
  pid: v.pipe(v.number(), v.safeInteger(), v.minValue(2)),
  /** Clock ticks, as /proc/PID/stat has them: a reused pid is never signalled. */
  startTime: v.pipe(v.number(), v.safeInteger()),
  /** End of the right and `fence_ms`, in milliseconds after boot; null while it is fenced. */
  killAtBootMs: v.nullable(v.number()),
});
export type GuardNote = v.InferOutput<typeof GuardNoteSchema>;

/** The longest pause: shorter than the shortest time from opening a door to its deadline. */
export const GUARD_LOOK_MS = 250;
/** A guard that has not looked for so long is none. */
export const GUARD_STALE_MS = 1_000;

export type GuardStep =
  | { readonly do: "kill"; readonly pid: number }
  | { readonly do: "wait"; readonly forMs: number };

/** What the guard does now. `lives`: is there a process of that pid and start time. */
export function guardStep(
  note: GuardNote | null,
  now: { readonly bootMs: number; readonly bootId: string; readonly lives: boolean },
): GuardStep {
  const idle: GuardStep = { do: "wait", forMs: GUARD_LOOK_MS };
  if (note === null || note.bootId !== now.bootId || !now.lives) return idle;
  if (note.killAtBootMs === null) return idle;
  const leftMs = note.killAtBootMs - now.bootMs;
  if (leftMs <= 0) return { do: "kill", pid: note.pid };
  return { do: "wait", forMs: Math.min(GUARD_LOOK_MS, Math.max(1, leftMs)) };
}
