/**
 * Directories and processes of one test run. A run that was killed leaves both behind; the next one
 * finds them by the directory's name, which holds the pid of the run, and removes them: only
 * processes whose command line names that very directory.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PREFIX = "gm-test-";

/** A directory of this run's own, after removing those of runs that are no more. */
export function makeScratch(what: string): string {
  removeRemains();
  return mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-${what}-`));
}

export function removeScratch(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}

/** Ends what runs of dead owners have left. */
export function removeRemains(): void {
  for (const name of readdirSync(tmpdir())) {
    const owner = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (owner === undefined || commandOf(owner) !== null) continue;
    const directory = join(tmpdir(), name);
    for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
      if (commandOf(pid)?.includes(`${directory}/`)) process.kill(Number(pid), "SIGKILL");
    }
    removeScratch(directory);
  }
}

/** The command line of a process; null if there is none. */
function commandOf(pid: string): string | null {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    // It has ended, or ends just now.
    return null;
  }
}
