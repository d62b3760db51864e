/**
 * The mariadbd process: started, found again, watched, stopped, killed.
 *
 * mariadbd outlives its watchdog: it has a session of its own and writes to a file. Invariants:
 * - A process is pid *and* start time *and* boot: a reused pid is never signalled.
 * - Its end is reported once, at once, whether it is a child or was adopted.
 * - Two mariadbds on one data directory are never started from here.
 */
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname } from "node:path";
import type { ProcessFact } from "../core/dbserver_io.ts";
import { describeError, MinderError } from "../errors.ts";
import { type ExitWatch, watchExit } from "./exit_watch.ts";

export interface ProcessOptions {
  /** Command line of mariadbd in the foreground, wrappers that exec included; null: others start it. */
  readonly command: readonly string[] | null;
  readonly datadir: string;
  /** Written here: which process is ours. */
  readonly pidFile: string;
  /** Where stdout and stderr of mariadbd go, appended. */
  readonly logFile: string;
  /** Names under which the kernel shows it. @default ["mariadbd", "mysqld"] */
  readonly comms?: readonly string[];
  /** How often a process whose end the kernel tells is looked at all the same. @default 1000 */
  readonly lookMs?: number;
  /**
   * The systemd unit in which it runs: where its working directory may not be looked at, since its unit
   * gives it a capability that the watchdog lacks (Debian's does), it is known by its control group.
   */
  readonly unit?: string;
  /** Told of every change: started, found, ended. */
  readonly onChange: (fact: ProcessFact) => void;
}

/** One mariadbd, there or not. */
export interface ServerProcess {
  current(): ProcessFact;
  /** Looks for a mariadbd that runs already: by the pid file, else by its working directory. */
  adopt(): ProcessFact;
  /** Starts it with these further arguments. @throws MinderError if one runs or none can be started */
  start(extraArguments: readonly string[]): ProcessFact | Promise<ProcessFact>;
  /** SIGTERM, after `graceMs` SIGKILL; ends when the process has. @throws MinderError if it does not */
  stop(graceMs: number): Promise<ProcessFact>;
  /** SIGKILL; ends when the process has. @throws MinderError if it does not */
  kill(): Promise<ProcessFact>;
  /** Stops watching; mariadbd runs on. */
  close(): void;
}

/** A process killed but not gone after this is stuck in the kernel. */
const KILLED_MAX_MS = 10_000;
/** Second sight beside the pidfd: a lost watch must not hide an exit. */
const LOOK_MS = 1000;
/** The same where there is no pidfd. */
const LOOK_ALONE_MS = 50;
/** How often a mariadbd that others start is looked for; one look costs ~10 µs per process. */
const SEARCH_MS = 1000;
const LOG_TAIL_BYTES = 16_384;
/** All that mariadbd gets of our environment: the rest may hold secrets. */
const ENVIRONMENT = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_PRELOAD"] as const;

/** One that is our own child is there, or not, at once. */
export interface ChildServerProcess extends ServerProcess {
  start(extraArguments: readonly string[]): ProcessFact;
}

export function manageProcess(options: ProcessOptions): ChildServerProcess {
  return new ManagedProcess(options);
}

/** What /proc/PID/stat says. */
export interface ProcStat {
  readonly comm: string;
  /** One letter; Z and X are dead. */
  readonly state: string;
  readonly session: number;
  /** Clock ticks after boot. */
  readonly startTime: number;
}

/** Of a process that exists, zombies included; null if there is none. */
export function readProcStat(pid: number): ProcStat | null {
  try {
    return parseProcStat(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    // ENOENT, or ESRCH when it ends during the read: both mean that it is gone.
    return null;
  }
}

/** Does that very process still live, as the kernel says now. */
export function isAlive(fact: ProcessFact): boolean {
  if (fact.is !== "running") return false;
  const stat = readProcStat(fact.pid);
  return stat !== null && stat.startTime === fact.startTime && !/[ZX]/.test(stat.state);
}

/** The name stands in brackets and may itself hold brackets and blanks (proc(5)). */
export function parseProcStat(text: string): ProcStat | null {
  const open = text.indexOf("(");
  const close = text.lastIndexOf(")");
  const fields = text.slice(close + 2).split(" ");
  const [state, , , session] = fields;
  const startTime = Number(fields[19]);
  if (open < 0 || close < open || state === undefined || !Number.isSafeInteger(startTime)) {
    return null;
  }
  return { comm: text.slice(open + 1, close), state, session: Number(session), startTime };
}

interface Watched {
  readonly pid: number;
  readonly startTime: number;
  /** Offset in the log at which this process begins. */
  readonly logFrom: number;
  readonly child: Bun.Subprocess | null;
  /** It leads the session that we gave it. */
  readonly ownSession: boolean;
  readonly ended: Promise<void>;
  readonly end: () => void;
  watch: ExitWatch | null;
  timer: ReturnType<typeof setInterval> | null;
  closed: boolean;
}

class ManagedProcess implements ChildServerProcess {
  readonly #options: ProcessOptions;
  readonly #comms: readonly string[];
  #watched: Watched | null = null;
  #fact: ProcessFact = { is: "stopped", because: "not looked for yet" };
  #search: ReturnType<typeof setInterval> | null = null;

  constructor(options: ProcessOptions) {
    this.#options = options;
    this.#comms = options.comms ?? ["mariadbd", "mysqld"];
  }

  current(): ProcessFact {
    return this.#fact;
  }

  adopt(): ProcessFact {
    if (this.#watched !== null) return this.#fact;
    const found = this.#fromPidFile() ?? this.#fromDatadir();
    if (found !== null) return this.#watch(found.pid, found.startTime, null);
    this.#fact = { is: "stopped", because: "no mariadbd runs on this data directory" };
    this.#searchOn();
    return this.#fact;
  }

  start(extraArguments: readonly string[]): ProcessFact {
    const { command, logFile, datadir } = this.#options;
    const [program] = command ?? [];
    if (command === null || program === undefined) {
      throw new MinderError("Cannot start mariadbd: it is run by another manager", {
        where: datadir,
        hint: "Set the server's mariadbd command, or start it with that manager",
      });
    }
    if (this.#watched !== null || this.adopt().is === "running") {
      throw new MinderError("Cannot start mariadbd: one runs already", { where: datadir });
    }
    mkdirSync(dirname(logFile), { recursive: true });
    const log = openSync(logFile, "a", 0o640);
    try {
      const logFrom = fstatSync(log).size;
      const child = Bun.spawn([...command, ...extraArguments], {
        stdin: "ignore",
        stdout: log,
        stderr: log,
        env: environment(),
        // A session of its own: a signal to the watchdog's terminal or group does not reach it.
        detached: true,
      });
      child.unref();
      const stat = readProcStat(child.pid);
      // Even one that has failed at once is a zombie with a start time until Bun reaps it.
      return this.#watch(child.pid, stat?.startTime ?? 0, child, logFrom);
    } catch (cause) {
      throw new MinderError("Cannot start mariadbd", {
        where: program,
        hint: "Check the server's mariadbd command and who may run it",
        cause,
      });
    } finally {
      closeSync(log);
    }
  }

  async stop(graceMs: number): Promise<ProcessFact> {
    const watched = this.#watched;
    if (watched === null) return this.#fact;
    this.#signal(watched, "SIGTERM");
    if (await endsWithin(watched, graceMs)) return this.#fact;
    return await this.kill();
  }

  async kill(): Promise<ProcessFact> {
    const watched = this.#watched;
    if (watched === null) return this.#fact;
    this.#signal(watched, "SIGKILL");
    if (await endsWithin(watched, KILLED_MAX_MS)) return this.#fact;
    throw new MinderError(`Cannot kill mariadbd: pid ${watched.pid} survives SIGKILL`, {
      where: this.#options.datadir,
      hint: "It is stuck in the kernel, most likely in disk access: look at its storage",
    });
  }

  close(): void {
    if (this.#watched !== null) this.#unwatch(this.#watched);
    this.#watched = null;
    if (this.#search !== null) clearInterval(this.#search);
    this.#search = null;
  }

  #watch(pid: number, startTime: number, child: Bun.Subprocess | null, logFrom = 0): ProcessFact {
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const watched: Watched = {
      pid,
      startTime,
      logFrom,
      child,
      ownSession: child !== null || readProcStat(pid)?.session === pid,
      ended,
      end,
      watch: null,
      timer: null,
      closed: false,
    };
    if (this.#search !== null) clearInterval(this.#search);
    this.#search = null;
    this.#watched = watched;
    this.#remember(watched);
    if (child === null) void this.#arm(watched);
    else void child.exited.then(() => this.#ended(watched));
    this.#look(watched, child === null ? LOOK_ALONE_MS : this.#lookMs());
    this.#tell({ is: "running", pid, startTime });
    return this.#fact;
  }

  /** Until it is armed, and where it cannot be, the quick look at /proc stands in for it. */
  async #arm(watched: Watched): Promise<void> {
    const watch = await watchExit(watched.pid, () => {
      // Where it lives all the same, the watch was lost.
      this.#look(watched, LOOK_ALONE_MS);
      this.#lookNow(watched);
    });
    if (watch === null) return;
    if (watched.closed) {
      watch.close();
      return;
    }
    watched.watch = watch;
    this.#look(watched, this.#lookMs());
    // It may have ended before it was watched, and the pid be another's.
    this.#lookNow(watched);
  }

  #lookMs(): number {
    return this.#options.lookMs ?? LOOK_MS;
  }

  #look(watched: Watched, everyMs: number): void {
    if (watched.closed) return;
    if (watched.timer !== null) clearInterval(watched.timer);
    watched.timer = setInterval(() => this.#lookNow(watched), everyMs);
    watched.timer.unref();
  }

  #lookNow(watched: Watched): void {
    if (!this.#lives(watched)) this.#ended(watched);
  }

  #lives(watched: Watched): boolean {
    const stat = readProcStat(watched.pid);
    return stat !== null && stat.startTime === watched.startTime && !/[ZXx]/.test(stat.state);
  }

  #ended(watched: Watched): void {
    if (watched.closed) return;
    // A child's status arrives a moment after /proc shows a zombie; it is worth that moment.
    const { child } = watched;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      if (readProcStat(watched.pid) !== null) return;
    }
    this.#unwatch(watched);
    this.#watched = null;
    endSession(watched);
    rmSync(this.#options.pidFile, { force: true });
    const last = lastError(this.#options.logFile, watched.logFrom);
    this.#tell({ is: "stopped", because: `${howItEnded(child)}${last === "" ? "" : `: ${last}`}` });
    watched.end();
    this.#searchOn();
  }

  #unwatch(watched: Watched): void {
    watched.closed = true;
    if (watched.timer !== null) clearInterval(watched.timer);
    watched.watch?.close();
  }

  #searchOn(): void {
    if (this.#options.command !== null || this.#search !== null) return;
    this.#search = setInterval(() => {
      const found = this.#fromDatadir();
      if (found !== null) this.#watch(found.pid, found.startTime, null);
    }, SEARCH_MS);
    this.#search.unref();
  }

  #tell(fact: ProcessFact): void {
    this.#fact = fact;
    this.#options.onChange(fact);
  }

  #signal(watched: Watched, signal: "SIGTERM" | "SIGKILL"): void {
    if (!this.#lives(watched)) return;
    try {
      process.kill(watched.pid, signal);
    } catch (cause) {
      // It ended between the look and the signal.
      if (errorCode(cause) === "ESRCH") return;
      throw new MinderError(`Cannot send ${signal} to mariadbd, pid ${watched.pid}`, {
        where: this.#options.datadir,
        hint: "The watchdog must run as root or as mariadbd's user",
        cause,
      });
    }
  }

  #remember(watched: Watched): void {
    const { pidFile } = this.#options;
    const record: PidRecord = {
      pid: watched.pid,
      startTime: watched.startTime,
      bootId: bootId(),
    };
    mkdirSync(dirname(pidFile), { recursive: true });
    writeFileSync(`${pidFile}.new`, `${JSON.stringify(record)}\n`, { mode: 0o644 });
    renameSync(`${pidFile}.new`, pidFile);
  }

  #fromPidFile(): PidRecord | null {
    const record = readPidFile(this.#options.pidFile);
    if (record === null || record.bootId !== bootId()) return null;
    const stat = readProcStat(record.pid);
    if (stat === null || stat.startTime !== record.startTime || /[ZXx]/.test(stat.state)) {
      return null;
    }
    // A wrapper that has not yet done its exec shows its own name.
    const wrapper = basename(this.#options.command?.[0] ?? "").slice(0, 15);
    return this.#comms.includes(stat.comm) || stat.comm === wrapper ? record : null;
  }

  #inUnit(pid: number): boolean {
    const { unit } = this.#options;
    try {
      return unit !== undefined && isUnitGroup(readFileSync(`/proc/${pid}/cgroup`, "latin1"), unit);
    } catch {
      // It has ended meanwhile.
      return false;
    }
  }

  /** mariadbd's working directory is its data directory, whoever started it. */
  #fromDatadir(): PidRecord | null {
    const datadir = realPath(this.#options.datadir);
    for (const name of processNames()) {
      const pid = Number(name);
      if (!Number.isSafeInteger(pid)) continue;
      const stat = readProcStat(pid);
      if (stat === null || !this.#comms.includes(stat.comm) || /[ZXx]/.test(stat.state)) continue;
      const at = workingDirectory(pid);
      const ours = at === "hidden" ? this.#inUnit(pid) : at === datadir;
      if (!ours || !serves(pid)) continue;
      return { pid, startTime: stat.startTime, bootId: bootId() };
    }
    return null;
  }
}

/** Is that the control group of the unit, by /proc/PID/cgroup of either version (cgroups(7)). */
export function isUnitGroup(cgroup: string, unit: string): boolean {
  return cgroup.split("\n").some((line) => {
    const [, controllers = "", ...path] = line.split(":");
    const named = controllers === "" || controllers === "name=systemd";
    return named && path.join(":").endsWith(`/${unit}`);
  });
}

interface PidRecord {
  readonly pid: number;
  readonly startTime: number;
  readonly bootId: string;
}

/** Entries of /proc; none while this process has no descriptor left, which the next search finds better. */
function processNames(): readonly string[] {
  try {
    return readdirSync("/proc");
  } catch {
    return [];
  }
}

/** Null if there is none or it is not one: then the search by data directory decides. */
function readPidFile(file: string): PidRecord | null {
  try {
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (typeof value !== "object" || value === null) return null;
    const { pid, startTime, bootId } = value as Partial<Record<keyof PidRecord, unknown>>;
    const whole = Number.isSafeInteger(pid) && Number.isSafeInteger(startTime);
    if (!whole || Number(pid) <= 1 || typeof bootId !== "string") return null;
    return { pid: Number(pid), startTime: Number(startTime), bootId };
  } catch {
    return null;
  }
}

/** Start times count from boot, so they name a process within one boot only. */
function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // A data directory that is not there yet is nobody's working directory.
    return path;
  }
}

/** `hidden`: it may not be looked at. Null: the process is ending, and has none any more. */
function workingDirectory(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch (error) {
    return errorCode(error) === "EACCES" ? "hidden" : null;
  }
}

/** A run that only reads the position is no server, nor is a process that is ending: its command is gone. */
function serves(pid: number): boolean {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, "latin1");
    return command !== "" && !/\0--wsrep[-_]recover(\0|=|$)/.test(command);
  } catch {
    return false;
  }
}

function environment(): Record<string, string> {
  return Object.fromEntries(
    ENVIRONMENT.flatMap((key) => (process.env[key] ? [[key, process.env[key]]] : [])),
  );
}

async function endsWithin(watched: Watched, withinMs: number): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), withinMs);
  });
  const result = await Promise.race([watched.ended.then(() => true as const), late]);
  clearTimeout(timer);
  return result;
}

/**
 * A killed mariadbd leaves its state transfer scripts behind, and those keep the transfer port. They
 * are in its session, whose number cannot be reused while any of them lives.
 */
function endSession(watched: Watched): void {
  if (!watched.ownSession) return;
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid) || readProcStat(pid)?.session !== watched.pid) continue;
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (errorCode(error) !== "ESRCH") throw error;
    }
  }
}

function howItEnded(child: Bun.Subprocess | null): string {
  if (child === null) return "mariadbd ended";
  if (child.signalCode !== null) return `mariadbd ended by ${child.signalCode}`;
  return `mariadbd ended with exit code ${child.exitCode}`;
}

/** The last line marked [ERROR] that this process wrote, in at most 200 characters. */
function lastError(logFile: string, from: number): string {
  try {
    const file = openSync(logFile, "r");
    try {
      const start = Math.max(from, fstatSync(file).size - LOG_TAIL_BYTES);
      const buffer = Buffer.alloc(LOG_TAIL_BYTES);
      const length = readSync(file, buffer, 0, LOG_TAIL_BYTES, start);
      const lines = buffer.toString("utf8", 0, length).split("\n");
      const found = lines.findLast((line) => line.includes("[ERROR]")) ?? "";
      return found.slice(Math.max(0, found.indexOf("[ERROR]"))).slice(0, 200);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    // One that others start writes elsewhere.
    if (errorCode(error) === "ENOENT") return "";
    return `its log cannot be read (${describeError(error)})`;
  }
}

function errorCode(error: unknown): string | null {
  return error instanceof Error && "code" in error ? String(error.code) : null;
}
