/**
 * Short commands, run to their end within a time limit. The lab is made by ip, nft and cp, whose
 * own words are the best explanation of a failure: they go into the error.
 */
import { MinderError } from "../errors.ts";

export interface RunOptions {
  /** @default 10000 */
  readonly timeoutMs?: number;
  readonly stdin?: string;
  readonly cwd?: string;
}

/** Result of a command that may fail. */
export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const RUN_TIMEOUT_MS = 30_000;

/** Runs it and says how it ended; a missing program or a passed time limit is code 127 or 124. */
export function tryRun(command: readonly string[], options: RunOptions = {}): RunResult {
  try {
    const done = Bun.spawnSync([...command], {
      stdin: options.stdin === undefined ? "ignore" : Buffer.from(options.stdin),
      stdout: "pipe",
      stderr: "pipe",
      timeout: options.timeoutMs ?? RUN_TIMEOUT_MS,
      killSignal: "SIGKILL",
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    return {
      code: done.exitedDueToTimeout === true ? 124 : (done.exitCode ?? 128),
      stdout: done.stdout.toString(),
      stderr: done.stderr.toString(),
    };
  } catch (cause) {
    return { code: 127, stdout: "", stderr: String(cause) };
  }
}

/** Runs it and gives its stdout. @throws MinderError with its words if it fails */
export function run(command: readonly string[], options: RunOptions = {}): string {
  const done = tryRun(command, options);
  if (done.code !== 0) throw failed(command, done);
  return done.stdout;
}

/** The same without holding up the others of its kind: several at once. @throws MinderError */
export async function runAsync(
  command: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  let child: Bun.Subprocess<"ignore" | Buffer, "pipe", "pipe">;
  try {
    child = Bun.spawn([...command], {
      stdin: options.stdin === undefined ? "ignore" : Buffer.from(options.stdin),
      stdout: "pipe",
      stderr: "pipe",
      timeout: options.timeoutMs ?? RUN_TIMEOUT_MS,
      killSignal: "SIGKILL",
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
  } catch (cause) {
    throw new MinderError(`Cannot run ${command[0]}`, { where: command.join(" "), cause });
  }
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw failed(command, { code, stdout, stderr });
  return stdout;
}

function failed(command: readonly string[], done: RunResult): MinderError {
  const words = (done.stderr.trim() || done.stdout.trim()).split("\n").slice(-5).join(" | ");
  return new MinderError(`${command[0]} ended with code ${done.code}: ${words.slice(0, 800)}`, {
    where: command.join(" ").slice(0, 400),
  });
}

/** Waits for a condition by asking again. @throws MinderError naming it if it does not come */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  options: { readonly timeoutMs: number; readonly pauseMs?: number },
): Promise<void> {
  const deadline = performance.now() + options.timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) {
      throw new MinderError(`Not within ${options.timeoutMs} ms: ${what}`);
    }
    await Bun.sleep(options.pauseMs ?? 20);
  }
}
