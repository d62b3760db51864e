/**
 * The guard process, from both sides: its loop, and how its watchdog starts it, finds it again after a
 * restart, tells it of deadlines, and knows whether it lives.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import { GUARD_STALE_MS, type GuardNote, GuardNoteSchema, guardStep } from "../guard.ts";
import type { Clock } from "../wakeup.ts";
import { readProcStat } from "./process.ts";

const SCRIPT = join(import.meta.dir, "../../scripts/guard.ts");

/** The watchdog's side. */
export interface Guard {
  /** Tells of a deadline on the boot clock, null while fenced; starts the guard if there is none. */
  tell(note: Omit<GuardNote, "bootId">): void;
  /** Has the guard looked lately. */
  alive(): boolean;
  /** Nothing is to be guarded any more: it ends by itself at its next look. */
  dismiss(): void;
}

export interface GuardOptions {
  /** Where the note is; the guard's sign of life is beside it. */
  readonly noteFile: string;
  readonly clock: Clock;
  /** @default this very Bun with scripts/guard.ts */
  readonly command?: readonly string[];
}

export function openGuard(options: GuardOptions): Guard {
  const { noteFile, clock } = options;
  const command = options.command ?? [process.execPath, "--smol", SCRIPT, noteFile];
  let startedAt = Number.NEGATIVE_INFINITY;

  function alive(): boolean {
    const beat = readBeat(noteFile);
    if (beat === null || beat.bootId !== readBootId()) return false;
    const fresh = clock.bootNow() - beat.bootMs < GUARD_STALE_MS;
    return fresh && readProcStat(beat.pid)?.startTime === beat.startTime;
  }

  return {
    alive,
    tell(note) {
      mkdirSync(dirname(noteFile), { recursive: true });
      writeFileSync(`${noteFile}.new`, JSON.stringify({ bootId: readBootId(), ...note }));
      renameSync(`${noteFile}.new`, noteFile);
      // One that has just been started needs a moment until its first look.
      if (alive() || clock.now() - startedAt < GUARD_STALE_MS) return;
      startedAt = clock.now();
      const child = Bun.spawn([...command], {
        stdin: "ignore",
        stdout: "ignore",
        stderr: "ignore",
        // It outlives its watchdog: that is what it is for.
        detached: true,
      });
      child.unref();
    },
    dismiss() {
      rmSync(noteFile, { force: true });
    },
  };
}

/**
 * The guard's loop: ends when its note is gone, or when another guard has taken over.
 * @param killed told of each kill, for the log
 */
export async function runGuard(
  noteFile: string,
  clock: Clock,
  killed: (note: GuardNote) => void,
): Promise<void> {
  const bootId = readBootId();
  const own = {
    bootId,
    pid: process.pid,
    startTime: readProcStat(process.pid)?.startTime ?? 0,
  };
  for (;;) {
    const note = readNote(noteFile);
    if (note === "gone") return;
    const other = readBeat(noteFile);
    const bootMs = clock.bootNow();
    if (
      other !== null &&
      other.pid !== own.pid &&
      other.bootId === bootId &&
      bootMs - other.bootMs < GUARD_STALE_MS &&
      readProcStat(other.pid)?.startTime === other.startTime
    ) {
      return;
    }
    writeFileSync(`${noteFile}.beat`, JSON.stringify({ ...own, bootMs }));
    const stat = note === null ? null : readProcStat(note.pid);
    const lives =
      note !== null && stat?.startTime === note.startTime && !/[ZXx]/.test(stat?.state ?? "X");
    const next = guardStep(note, { bootMs, bootId, lives });
    if (next.do === "wait") {
      await Bun.sleep(next.forMs);
      continue;
    }
    try {
      process.kill(next.pid, "SIGKILL");
      if (note !== null) killed(note);
    } catch {
      // ESRCH: it has just ended by itself. EPERM would repeat, and the pause bounds that.
    }
    await Bun.sleep(10);
  }
}

/** Null for a note that cannot be understood. */
function readNote(file: string): GuardNote | null | "gone" {
  try {
    const parsed = v.safeParse(GuardNoteSchema, JSON.parse(readFileSync(file, "utf8")));
    return parsed.success ? parsed.output : null;
  } catch {
    return exists(file) ? null : "gone";
  }
}

function exists(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) !== undefined;
}

const BeatSchema = v.object({
  bootId: v.string(),
  pid: v.number(),
  startTime: v.number(),
  bootMs: v.number(),
});

function readBeat(noteFile: string): v.InferOutput<typeof BeatSchema> | null {
  try {
    return v.parse(BeatSchema, JSON.parse(readFileSync(`${noteFile}.beat`, "utf8")));
  } catch {
    // None yet, or half written: the next look tells.
    return null;
  }
}

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
