/**
 * Kills a mariadbd whose watchdog let its deadline pass. Started by the watchdog where a segment is
 * heavy; ends by itself when the note of deadlines is gone. Exit: 0 ended, 2 wrong use.
 */
import { runGuard } from "../lib/effects/guard.ts";
import { createLog } from "../lib/log.ts";
import { systemClock } from "../lib/wakeup.ts";

async function main(): Promise<number> {
  const [noteFile] = process.argv.slice(2);
  if (noteFile === undefined) {
    console.error("Usage: guard.ts NOTE_FILE   (started by the watchdog, not by people)");
    return 2;
  }
  const clock = systemClock();
  const log = createLog({ role: "guard", node: noteFile, wall: clock.wall });
  await runGuard(noteFile, clock, ({ pid }) => {
    log.error("killed", { pid, because: "its watchdog let the end of its right pass" });
  });
  return 0;
}

if (import.meta.main) process.exit(await main());
