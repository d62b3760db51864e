/**
 * mariadbd as a systemd unit, behind the same interface as one that is our own child: systemd starts,
 * stops and kills it, the watch over the process itself stays the same, so its end is known at once.
 *
 * Arguments of a start go through a file that the unit's drop-in reads; the drop-in itself carries
 * what must never be missing. Where plain systemctl is refused, `sudo -n` is tried.
 */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { ProcessFact } from "../core/dbserver_io.ts";
import { describeError, MinderError } from "../errors.ts";
import { manageProcess, type ProcessOptions, type ServerProcess } from "./process.ts";

export interface UnitOptions extends Omit<ProcessOptions, "command"> {
  readonly unit: string;
  /** Read by the unit as EnvironmentFile. */
  readonly argumentsFile: string;
  /** How systemd is spoken to. @default ["systemctl"] */
  readonly systemctl?: readonly string[];
  /** The same with more rights; null where there are none to be had. @default ["sudo", "-n", "systemctl"] */
  readonly elevated?: readonly string[] | null;
  /** One that takes longer is ended, as where polkit does not answer. @default 3000 */
  readonly commandTimeoutMs?: number;
  /** A unit may recover InnoDB before mariadbd runs. @default 600000 */
  readonly startTimeoutMs?: number;
}

/** Variable in the arguments file; systemd splits it at blanks. */
export const ARGUMENTS_VARIABLE = "GALERA_MINDER_ARGS";

const COMMAND_TIMEOUT_MS = 3_000;
const START_TIMEOUT_MS = 600_000;
const LOOK_MS = 20;
/** One question to systemd costs a process; a look at /proc does not. */
const ASK_MS = 250;
const KILLED_MAX_MS = 10_000;
/** By polkit, for want of it, or of the bus that leads there: root needs neither (systemd 252). */
const REFUSED =
  /authentication (is )?required|access denied|not authorized|permission denied|polkit\S* is masked|failed to connect to bus/i;

export function manageUnit(options: UnitOptions): ServerProcess {
  return new UnitProcess(options);
}

/** The arguments file's text. @throws MinderError for what systemd would split or read otherwise */
export function argumentsText(extraArguments: readonly string[]): string {
  const odd = extraArguments.find((argument) => !/^[A-Za-z0-9_.,:=/@+-]+$/.test(argument));
  if (odd !== undefined) {
    throw new MinderError(`Cannot hand ${JSON.stringify(odd)} to a systemd unit`, {
      hint: "Arguments there may hold no blanks, quotes or dollar signs",
    });
  }
  return `${ARGUMENTS_VARIABLE}=${extraArguments.join(" ")}\n`;
}

/** Writes the arguments of the next start, atomically. @throws what node:fs throws */
export function writeArguments(file: string, extraArguments: readonly string[]): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, argumentsText(extraArguments), { mode: 0o644 });
  renameSync(`${file}.new`, file);
}

class UnitProcess implements ServerProcess {
  readonly #options: UnitOptions;
  readonly #watch: ServerProcess;

  constructor(options: UnitOptions) {
    this.#options = options;
    // It only finds and watches: nothing here is our child.
    this.#watch = manageProcess({ ...options, command: null });
  }

  current(): ProcessFact {
    return this.#watch.current();
  }

  adopt(): ProcessFact {
    return this.#watch.adopt();
  }

  async start(extraArguments: readonly string[]): Promise<ProcessFact> {
    const { unit, argumentsFile, datadir } = this.#options;
    if (this.adopt().is === "running") {
      throw new MinderError("Cannot start mariadbd: one runs already", { where: datadir });
    }
    writeArguments(argumentsFile, extraArguments);
    // A unit that has failed too often refuses to start until that is forgotten.
    await this.#systemctl(["reset-failed", unit]).catch(() => undefined);
    // Not waiting: a unit of Type=notify is "started" only after a state transfer.
    await this.#systemctl(["start", "--no-block", unit]);
    const deadline = performance.now() + (this.#options.startTimeoutMs ?? START_TIMEOUT_MS);
    let askAt = performance.now() + ASK_MS;
    while (performance.now() < deadline) {
      const found = this.adopt();
      if (found.is === "running") return found;
      if (performance.now() >= askAt) {
        const { state, result } = await this.#state();
        if (state === "failed" || state === "inactive") {
          throw new MinderError(`Cannot start mariadbd: ${unit} is ${state} (${result})`, {
            where: unit,
            hint: `journalctl -u ${unit} tells why; the start gate may have said no`,
          });
        }
        askAt = performance.now() + ASK_MS;
      }
      await Bun.sleep(LOOK_MS);
    }
    throw new MinderError(`No mariadbd of ${unit} within its time`, { where: datadir });
  }

  async stop(graceMs: number): Promise<ProcessFact> {
    if (this.current().is !== "running") return this.current();
    await this.#systemctl(["stop", "--no-block", this.#options.unit]);
    if (await this.#endsWithin(graceMs)) return this.current();
    return await this.kill();
  }

  async kill(): Promise<ProcessFact> {
    const before = this.current();
    if (before.is !== "running") return before;
    // Directly where we may: a fence that does not hold has no time for a detour.
    if (!signalled(before.pid)) {
      await this.#systemctl(["kill", "--signal=SIGKILL", this.#options.unit]);
    }
    if (await this.#endsWithin(KILLED_MAX_MS)) return this.current();
    throw new MinderError(`Cannot kill mariadbd: pid ${before.pid} survives SIGKILL`, {
      where: this.#options.unit,
      hint: "It is stuck in the kernel, most likely in disk access: look at its storage",
    });
  }

  close(): void {
    this.#watch.close();
  }

  async #endsWithin(withinMs: number): Promise<boolean> {
    const deadline = performance.now() + withinMs;
    while (this.current().is === "running") {
      if (performance.now() >= deadline) return false;
      await Bun.sleep(LOOK_MS);
    }
    return true;
  }

  async #state(): Promise<{ readonly state: string; readonly result: string }> {
    const shown = await this.#systemctl([
      ...["show", "--property=ActiveState,Result", this.#options.unit],
    ]);
    const of = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(shown)?.[1] ?? "unknown";
    return { state: of("ActiveState"), result: of("Result") };
  }

  /** @throws MinderError with systemd's words */
  async #systemctl(words: readonly string[]): Promise<string> {
    const plain = this.#options.systemctl ?? ["systemctl"];
    const elevated =
      this.#options.elevated === undefined ? ["sudo", "-n", "systemctl"] : this.#options.elevated;
    const timeoutMs = this.#options.commandTimeoutMs ?? COMMAND_TIMEOUT_MS;
    const first = await run([...plain, "--no-ask-password", ...words], timeoutMs);
    if (first.code === 0) return first.stdout;
    const refused = first.late || REFUSED.test(first.stderr);
    const second =
      elevated !== null && refused ? await run([...elevated, ...words], timeoutMs) : first;
    if (second.code === 0) return second.stdout;
    throw new MinderError(`systemctl ${words[0]} ended with ${second.code}: ${second.stderr}`, {
      where: this.#options.unit,
      hint: "Who may manage the unit is printed by `just systemd-config`",
    });
  }
}

function signalled(pid: number): boolean {
  try {
    process.kill(pid, "SIGKILL");
    return true;
  } catch {
    // EPERM: another user's. ESRCH: it has just ended, which the caller sees next.
    return false;
  }
}

interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** It was ended for taking too long. */
  readonly late: boolean;
}

async function run(command: readonly string[], timeoutMs: number): Promise<Answer> {
  try {
    const child = Bun.spawn([...command], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    });
    const [stdout, stderr, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    const late = child.signalCode === "SIGKILL";
    const said = stderr.trim().slice(0, 400);
    return { code, stdout, stderr: late ? `no answer within ${timeoutMs} ms ${said}` : said, late };
  } catch (error) {
    return { code: 127, stdout: "", stderr: describeError(error), late: false };
  }
}
