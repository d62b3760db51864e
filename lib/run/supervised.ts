/**
 * What a party tells its supervisor: that it is ready, that its loop still takes steps, in which phase
 * it is, and that it stops. Where nobody asks to be told, nothing is done.
 */
import { NOTIFY_VARIABLES, openSdNotify, type SdNotify } from "../effects/sd_notify.ts";

/** As much of a loop as its supervisor cares for. */
export interface Supervised {
  /** Another object after every step. */
  state(): object;
  hint(): void;
  illness(): string | null;
}

export interface Supervisor {
  /** Says that the party stops, and nothing afterwards. */
  stopping(): void;
}

/** Signs of life within the longest silence that is tolerated, so that one that is late costs nothing. */
const SIGNS_PER_SILENCE = 3;
/** Where systemd does not watch, the phase is told so often. */
const PHASE_MS = 10_000;
const PHASE_WORDS_MAX = 200;

/** Reads, and removes, what systemd has put into the environment: mariadbd must not speak in our name. */
export function notifierOfProcess(): SdNotify | null {
  const told = openSdNotify({ ...process.env }, process.pid);
  for (const name of NOTIFY_VARIABLES) delete process.env[name];
  return told;
}

/**
 * Says READY=1, then a sign of life whenever the loop has taken a step since the last one: an event
 * loop that turns proves nothing of a core that is stuck behind it.
 */
export function supervise(
  loop: Supervised,
  notifier: SdNotify | null,
  phase: () => string,
): Supervisor {
  if (notifier === null) return { stopping: () => undefined };
  const everyMs =
    notifier.silenceMaxMs === null ? PHASE_MS : notifier.silenceMaxMs / SIGNS_PER_SILENCE;
  let seen = loop.state();
  let said = phaseLine(phase());
  notifier.send(`READY=1\n${said}`);
  // So that the next look finds a step even where nothing else happens.
  loop.hint();
  const timer = setInterval(() => {
    const state = loop.state();
    const moved = state !== seen && loop.illness() === null;
    seen = state;
    loop.hint();
    const line = phaseLine(phase());
    const news = line === said ? [] : [line];
    const alive = moved && notifier.silenceMaxMs !== null ? ["WATCHDOG=1"] : [];
    const lines = [...alive, ...news];
    if (lines.length > 0 && notifier.send(lines.join("\n"))) said = line;
  }, everyMs);
  return {
    stopping() {
      clearInterval(timer);
      notifier.send("STOPPING=1");
      notifier.close();
    },
  };
}

function phaseLine(phase: string): string {
  return `STATUS=${phase.replace(/\s+/g, " ").slice(0, PHASE_WORDS_MAX)}`;
}
