/**
 * Breaks the sources one rule at a time, in copies of them, and looks whether the simulator notices:
 * by the scenario told about that rule, then by histories from seeds, then by all scenarios.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Edit, MUTANTS, type Mutant } from "../sim/mutants.ts";
import type { Finding, WorkOptions } from "./mutant_worker.ts";

const ROOT = join(import.meta.dir, "..", "..");
/** Copies are named after the process that makes them. */
const COPY = "gm-mutant-";
/** Told stories that are a second net under the seeds. */
const SCENARIOS = ["scenarios", "faults", "replay"].map((name) => `tests/sim/${name}_test.ts`);
/** For starting up, one history that is long, and the bound of a scenario run. */
const SLACK_SECONDS = 60;
const SCENARIO_SECONDS = 480;

export interface MutationOptions {
  readonly workers: number;
  /** Histories per mutant, at most. */
  readonly seeds: number;
  /** Wall time of the histories of one mutant, at most. */
  readonly seconds: number;
  /** Only mutants whose id contains one of these. @default all */
  readonly only?: readonly string[];
}

export interface Verdict {
  readonly mutant: Mutant;
  /** The invariant or the scenario that noticed it; null: it survived. */
  readonly by: string | null;
  /** Histories needed, or run in vain. */
  readonly seeds: number;
  readonly seconds: number;
  readonly because: string;
}

/** Applies an edit. @throws Error if the source does not say that exactly once */
export function applyEdit(source: string, edit: Edit): string {
  const count = source.split(edit.from).length - 1;
  if (count === 0 || (count > 1 && edit.everywhere !== true))
    throw new Error(
      `${edit.file} says ${count} times what a mutant replaces: ${JSON.stringify(edit.from)}`,
    );
  return source.split(edit.from).join(edit.to);
}

/** Every mutant whose words the sources no longer say, in words. */
export function staleMutants(): readonly string[] {
  return MUTANTS.flatMap((mutant) =>
    mutant.edits.flatMap((edit) => {
      try {
        applyEdit(readFileSync(join(ROOT, edit.file), "utf8"), edit);
        return [];
      } catch (error) {
        return [`${mutant.id}: ${error instanceof Error ? error.message : String(error)}`];
      }
    }),
  );
}

/** Looks for all of them; tells of each as it is settled. */
export async function mutate(
  options: MutationOptions,
  tell: (verdict: Verdict) => void,
): Promise<readonly Verdict[]> {
  const { only } = options;
  const queue = MUTANTS.filter(
    ({ id }) => only === undefined || only.some((part) => id.includes(part)),
  );
  const verdicts: Verdict[] = [];
  removeRemains();
  // All are made of one copy, whatever becomes of the sources meanwhile.
  const sound = copySources(ROOT);
  const soundScenarios = byScenarios(sound);
  const work = async () => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const verdict = await settle(mutant, { ...options, sound, soundScenarios });
      verdicts.push(verdict);
      tell(verdict);
    }
  };
  try {
    await Promise.all(Array.from({ length: options.workers }, work));
  } finally {
    rmSync(sound, { recursive: true, force: true });
  }
  return verdicts;
}

/** Copies that an interrupted run has left. */
function removeRemains(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = name.startsWith(COPY) ? Number(name.slice(COPY.length).split("-")[0]) : Number.NaN;
    if (Number.isInteger(pid) && !existsSync(`/proc/${pid}`))
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}

interface SettleOptions extends MutationOptions {
  /** Root of the unbroken copy. */
  readonly sound: string;
  /** A scenario that fails on it says nothing about what was broken. */
  readonly soundScenarios: Promise<string | null>;
}

async function settle(mutant: Mutant, options: SettleOptions): Promise<Verdict> {
  const copy = copySources(options.sound);
  try {
    for (const edit of mutant.edits) {
      const file = join(copy, edit.file);
      writeFileSync(file, applyEdit(readFileSync(file, "utf8"), edit));
    }
    const toldAt = performance.now();
    // The story that was told about this very rule is soonest; chance has the word where there is none.
    const told = mutant.scenario === undefined ? null : await byScenarios(copy, mutant.scenario);
    if (told !== null) {
      const seconds = (performance.now() - toldAt) / 1000;
      return { mutant, by: told, seeds: 0, seconds, because: "" };
    }
    const found = await bySeeds(copy, mutant, options);
    if (found.by !== null) return { mutant, ...found };
    const failing = await options.soundScenarios;
    if (failing !== null) throw new Error(`The unbroken sources fail ${failing}`);
    const scenario = await byScenarios(copy);
    return { mutant, ...found, by: scenario };
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

function copySources(from: string): string {
  const copy = mkdtempSync(join(tmpdir(), `${COPY}${process.pid}-`));
  mkdirSync(join(copy, "tests"));
  for (const folder of ["lib", "tests/sim", "tests/support"])
    cpSync(join(from, folder), join(copy, folder), { recursive: true });
  for (const file of ["package.json", "tsconfig.json"]) cpSync(join(from, file), join(copy, file));
  symlinkSync(join(ROOT, "node_modules"), join(copy, "node_modules"));
  return copy;
}

async function bySeeds(copy: string, mutant: Mutant, options: SettleOptions): Promise<Finding> {
  const work: WorkOptions = {
    first: 1,
    seeds: options.seeds,
    seconds: options.seconds,
    ...(mutant.kinds === undefined ? {} : { kinds: mutant.kinds }),
    ...(mutant.heavy === undefined ? {} : { heavy: mutant.heavy }),
  };
  const worker = join(options.sound, "tests/support/mutant_worker.ts");
  const done = await spawn([worker, copy, JSON.stringify(work)], {
    cwd: options.sound,
    seconds: options.seconds + SLACK_SECONDS,
  });
  const line = done.stdout.trim().split("\n").at(-1) ?? "";
  if (done.code !== 0 || !line.startsWith("{"))
    throw new Error(`The worker of ${mutant.id} failed: ${done.stderr.slice(-800)}`);
  return JSON.parse(line) as Finding;
}

/** The first scenario that fails on the copy, of all or of those whose name contains that. */
async function byScenarios(copy: string, named?: string): Promise<string | null> {
  const only = named === undefined ? [] : ["-t", named.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")];
  const done = await spawn(["test", "--bail", ...only, ...SCENARIOS.map((file) => `./${file}`)], {
    cwd: copy,
    seconds: SCENARIO_SECONDS,
  });
  if (done.code === 0) return null;
  const failed = /^\(fail\) (.*?)(?: \[[\d.]+ms\])?$/m.exec(done.stderr);
  if (failed?.[1] === undefined)
    throw new Error(`The scenarios could not be run: ${done.stderr.slice(-800)}`);
  return `scenario "${failed[1].replace(/^.* > /, "").slice(0, 60)}…"`;
}

async function spawn(
  command: readonly string[],
  options: { readonly cwd: string; readonly seconds: number },
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const child = Bun.spawn([process.execPath, ...command], {
    cwd: options.cwd,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: options.seconds * 1000,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}
