/**
 * What a lab leaves on the machine, and its removal, also after the lab itself was killed.
 *
 * Three nets, each finer than what slips through the one before: the record of started processes
 * (pid and start time, so a reused pid is never touched), the processes in the lab's namespaces,
 * and those with the lab's mark in their environment, which children inherit. A lock with pid and
 * start time keeps two labs of one name apart.
 */
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readProcStat } from "../effects/process.ts";
import { MinderError } from "../errors.ts";
import { removeCgroups } from "./cgroups.ts";
import { tryRun, until } from "./exec.ts";
import { namespacePids, namespacesOf, removeNamespaces } from "./network.ts";

/** Marks a process and its children as the lab's: its directory. */
export const LAB_MARK = "GM_LAB_MEMBER";
/** And the host that it plays. */
export const HOST_MARK = "GM_LAB_HOST";

const RECORD = "processes.jsonl";
const KILL_TIMEOUT_MS = 5000;

/** A process that cannot be confused with a later one of the same pid. */
export interface ProcessMark {
  readonly pid: number;
  /** Clock ticks after boot. */
  readonly startTime: number;
  readonly command: string;
}

/** What was found of an earlier lab and taken away. */
export interface Removed {
  readonly processes: number;
  readonly namespaces: number;
  readonly mounts: number;
  readonly directory: boolean;
}

/** @throws MinderError for a name that would not do as a file or namespace name */
export function checkLabName(lab: string): void {
  if (!/^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/.test(lab)) {
    throw new MinderError(`Cannot name a lab ${JSON.stringify(lab)}: a-z, 0-9 and -, up to 32`);
  }
}

/** GM_LAB_DIR, else a directory of that lab and user in the temporary directory. */
export function labDirectory(lab: string): string {
  checkLabName(lab);
  const own = process.env["GM_LAB_DIR"];
  if (own !== undefined && own !== "") return own;
  return join(tmpdir(), `galera-minder-${lab}-${process.getuid?.() ?? 0}`);
}

/** Makes the lab's directory. @throws MinderError if somebody else's is there */
export function makeLabDirectory(directory: string): void {
  mkdirSync(directory, { recursive: true });
  const found = lstatSync(directory);
  // The temporary directory is everybody's: a foreign directory or link of our name is a trap.
  if (!found.isDirectory() || found.uid !== process.getuid?.()) {
    throw new MinderError("Cannot use the lab's directory: it is not ours", {
      where: directory,
      hint: "Remove it or set GM_LAB_DIR",
    });
  }
  // Listing is ours alone, but mariadbd under a user of its own must get through to its data.
  chmodSync(directory, 0o711);
}

/** Writes down a process that was just started. Synchronous: what is started is on record. */
export function recordProcess(directory: string, pid: number, command: readonly string[]): void {
  const stat = readProcStat(pid);
  // It has ended already, so nothing is left to remember.
  if (stat === null) return;
  const mark: ProcessMark = {
    pid,
    startTime: stat.startTime,
    command: command.join(" ").slice(0, 500),
  };
  appendFileSync(join(directory, RECORD), `${JSON.stringify(mark)}\n`, { mode: 0o600 });
}

/** Processes on record that still live. */
export function recordedAlive(directory: string): readonly ProcessMark[] {
  const file = join(directory, RECORD);
  if (!existsSync(file)) return [];
  const marks: ProcessMark[] = [];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const mark = parseMark(line);
    if (mark !== null && isAlive(mark)) marks.push(mark);
  }
  return marks;
}

/** The same process, not only the same pid, and not dead yet. */
export function isAlive(mark: Pick<ProcessMark, "pid" | "startTime">): boolean {
  const stat = readProcStat(mark.pid);
  return stat !== null && stat.startTime === mark.startTime && !"ZX".includes(stat.state);
}

/**
 * Processes that carry the lab's mark in their environment; of one host, or of all. A mariadbd that its
 * watchdog has started does not, because that gives it a bare environment: it is known by its options file.
 */
export function markedAlive(directory: string, host?: string): readonly ProcessMark[] {
  const marks: ProcessMark[] = [];
  const wanted = `\0${LAB_MARK}=${directory}\0`;
  const wantedHost = host === undefined ? "" : `\0${HOST_MARK}=${host}\0`;
  const options = `\0--defaults-file=${directory}/${host === undefined ? "" : `${host}/`}`;
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    const stat = readProcStat(pid);
    if (stat === null || "ZX".includes(stat.state)) continue;
    let environment: string;
    let command: string;
    try {
      environment = `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`;
      command = readFileSync(`/proc/${pid}/cmdline`, "latin1");
    } catch {
      // Ended meanwhile, or another user's: not ours.
      continue;
    }
    const marked = environment.includes(wanted) && environment.includes(wantedHost);
    if (!marked && !command.includes(options)) continue;
    marks.push({ pid, startTime: stat.startTime, command: stat.comm });
  }
  return marks;
}

/** Ends them with SIGKILL and waits until they are gone. @throws MinderError if one stays */
export async function killAll(marks: readonly ProcessMark[]): Promise<number> {
  const alive = marks.filter((mark) => mark.pid !== process.pid && isAlive(mark));
  for (const mark of alive) signal(mark, "SIGKILL");
  await until(
    `the end of ${alive.map((mark) => `${mark.pid} (${mark.command})`).join(", ")}`,
    () => !alive.some(isAlive),
    { timeoutMs: KILL_TIMEOUT_MS, pauseMs: 2 },
  );
  return alive.length;
}

/** SIGSTOP, if it is still the same process. */
export function freeze(mark: ProcessMark): void {
  if (mark.pid !== process.pid && isAlive(mark)) signal(mark, "SIGSTOP");
}

/** Ends whatever the lab of that name left: processes, namespaces, control groups, mounts, the directory. */
export async function removeRemains(lab: string, directory: string): Promise<Removed> {
  let processes = 0;
  // A dying supervisor may start one more child, so look again until nothing is found.
  for (let round = 0; round < 10; round++) {
    const found = await killAll([
      ...recordedAlive(directory),
      ...namespacesOf(lab).flatMap((name) => namespacePids(name).flatMap(markOf)),
      ...markedAlive(directory),
    ]);
    processes += found;
    if (found === 0) break;
  }
  await removeCgroups(lab);
  const namespaces = removeNamespaces(lab).length;
  const mounts = unmountBelow(directory);
  const had = existsSync(directory);
  if (had) {
    makeLabDirectory(directory);
    rmSync(directory, { recursive: true, force: true });
  }
  return { processes, namespaces, mounts, directory: had };
}

/** Held while a lab of that name is up; `release` gives it back. */
export interface Lock {
  release(): void;
}

/** Who holds the lock of that directory; null if nobody alive does. */
export function lockHolder(directory: string): ProcessMark | null {
  const holder = parseMark(readOr(`${directory}.lock`));
  return holder !== null && isAlive(holder) ? holder : null;
}

/** Asks the process that has the lab up to end, then makes it. Nothing if that is this one. */
export async function endLockHolder(directory: string, graceMs: number): Promise<void> {
  const holder = lockHolder(directory);
  if (holder === null || holder.pid === process.pid) return;
  signal(holder, "SIGTERM");
  const deadline = performance.now() + graceMs;
  while (isAlive(holder) && performance.now() < deadline) await Bun.sleep(10);
  await killAll([holder]);
}

/** @throws MinderError if a living process holds the lock of that directory */
export function takeLock(directory: string): Lock {
  const file = `${directory}.lock`;
  const own = markOf(process.pid)[0];
  if (own === undefined) throw new MinderError("Cannot read this process's own start time");
  const draft = `${file}.${own.pid}`;
  const text = JSON.stringify(own);
  writeFileSync(draft, text, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 10; attempt++) {
      try {
        // A link is made whole or not at all, and only if there is none.
        linkSync(draft, file);
        return {
          release() {
            if (readOr(file) === text) rmSync(file, { force: true });
          },
        };
      } catch (cause) {
        if (!existsSync(file)) throw new MinderError("Cannot lock the lab", { where: file, cause });
      }
      const holder = parseMark(readOr(file));
      if (holder !== null && isAlive(holder)) {
        throw new MinderError(`A lab of this name is up already: process ${holder.pid}`, {
          where: file,
          hint: "End it first, or give this one another name",
        });
      }
      // Moved aside rather than deleted: of two who find it stale only one succeeds.
      const stale = `${file}.stale.${own.pid}`;
      try {
        renameSync(file, stale);
        const moved = parseMark(readOr(stale));
        if (moved !== null && isAlive(moved)) renameSync(stale, file);
        else rmSync(stale, { force: true });
      } catch {
        // The other one was faster: look again.
      }
    }
    throw new MinderError("Cannot lock the lab: others keep taking it", { where: file });
  } finally {
    rmSync(draft, { force: true });
  }
}

/** Pid with its start time; nothing if it has ended. */
export function markOf(pid: number): readonly ProcessMark[] {
  const stat = readProcStat(pid);
  return stat === null ? [] : [{ pid, startTime: stat.startTime, command: stat.comm }];
}

function signal(mark: ProcessMark, name: NodeJS.Signals): void {
  try {
    process.kill(mark.pid, name);
  } catch (error) {
    // ESRCH: it ended by itself, which is what was wanted.
    if (isAlive(mark)) throw new MinderError(`Cannot end process ${mark.pid}`, { cause: error });
  }
}

function unmountBelow(directory: string): number {
  const points = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => (line.split(" ")[4] ?? "").replaceAll("\\040", " "))
    .filter((point) => point.startsWith(`${directory}/`));
  // The last mounted is on top.
  for (const point of points.reverse()) {
    const done = tryRun(["umount", point]);
    if (done.code !== 0) throw new MinderError(`Cannot unmount ${point}: ${done.stderr.trim()}`);
  }
  return points.length;
}

function parseMark(line: string): ProcessMark | null {
  // A line cut short by a crash is no record: the process it was for is found by its mark.
  const parts =
    /^\{"pid":(\d+),"startTime":(\d+),"command":(".*")\}$/.exec(line.trim()) ?? undefined;
  if (parts === undefined) return null;
  return { pid: Number(parts[1]), startTime: Number(parts[2]), command: parts[3] ?? "" };
}

function readOr(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    // Gone meanwhile: as good as empty.
    return "";
  }
}
