/**
 * Breaks the sources one rule at a time, in copies of them, and looks whether the simulator notices:
 * by the scenario told about that rule, and by histories from seeds, which know of no rule.
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
/** Told stories: each rule has one that was told about it. */
const SCENARIOS = ["scenarios", "unheard", "faults", "evict", "config", "replay"].map(
  (name) => `tests/sim/${name}_test.ts`,
);
/** For starting up, one history that is long, and the bound of a scenario run. */
const SLACK_SECONDS = 60;
const SCENARIO_SECONDS = 480;

export interface MutationOptions {
  readonly workers: number;
  /** Histories per mutant, at most. */
  readonly histories: number;
  /** Wall time of the histories of one mutant, at most. */
  readonly seconds: number;
  /** Only mutants whose id contains one of these. @default all */
  readonly only?: readonly string[];
}

/** A scenario that fails on broken sources, and what it says is wrong. */
export interface Told {
  readonly scenario: string;
  readonly because: string;
}

export interface Verdict {
  readonly mutant: Mutant;
  /** The scenario that noticed it; null: none did. */
  readonly told: Told | null;
  /** What histories from seeds found. */
  readonly swarm: Finding;
  readonly seconds: number;
}

export function noticed({ told, swarm }: Verdict): boolean {
  return told !== null || swarm.by !== null;
}

/** Applies an edit. @throws Error if the source does not say that exactly once, or would stay as it is */
export function applyEdit(source: string, edit: Edit): string {
  const count = source.split(edit.from).length - 1;
  if (count === 0 || (count > 1 && edit.everywhere !== true))
    throw new Error(
      `${edit.file} says ${count} times what a mutant replaces: ${JSON.stringify(edit.from)}`,
    );
  if (edit.from === edit.to)
    throw new Error(`${edit.file} would stay as it is: ${JSON.stringify(edit.from)}`);
  return source.split(edit.from).join(edit.to);
}

/** The files that a mutant breaks, broken. @throws Error if an edit no longer finds its words */
export function brokenFiles(mutant: Mutant, root = ROOT): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const edit of mutant.edits) {
    const before = files.get(edit.file) ?? readFileSync(join(root, edit.file), "utf8");
    files.set(edit.file, applyEdit(before, edit));
  }
  return files;
}

/** Every mutant whose words the sources no longer say, that is no program, or that no test's name fits. */
export function staleMutants(): readonly string[] {
  const tests = SCENARIOS.map((file) => readFileSync(join(ROOT, file), "utf8")).join("\n");
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  return MUTANTS.flatMap((mutant) => {
    const stale: string[] = [];
    try {
      for (const text of brokenFiles(mutant).values()) transpiler.transformSync(text);
    } catch (error) {
      stale.push(`${mutant.id}: ${error instanceof Error ? error.message : String(error)}`);
    }
    // A repetition with another seed has its number put in as it runs.
    const title = mutant.scenario?.replace(/ \(seed \d+\)$/, "");
    if (title !== undefined && !tests.includes(title))
      stale.push(`${mutant.id}: no scenario is called ${JSON.stringify(title)}`);
    return stale;
  });
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
  try {
    const failing = await byScenarios(sound);
    if (failing !== null) throw new Error(`The unbroken sources fail "${failing.scenario}"`);
    const work = async () => {
      for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
        const verdict = await settle(mutant, sound, options);
        verdicts.push(verdict);
        tell(verdict);
      }
    };
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

/** The scenario nearest to the rule, then chance; all scenarios where neither has noticed anything. */
async function settle(mutant: Mutant, sound: string, options: MutationOptions): Promise<Verdict> {
  const copy = copySources(sound);
  const startedAt = performance.now();
  try {
    for (const [file, text] of brokenFiles(mutant, sound)) writeFileSync(join(copy, file), text);
    let told = mutant.scenario === undefined ? null : await byScenarios(copy, mutant.scenario);
    const swarm = await bySeeds(copy, sound, options);
    if (told === null && swarm.by === null) told = await byScenarios(copy);
    return { mutant, told, swarm, seconds: (performance.now() - startedAt) / 1000 };
  } catch (error) {
    throw new Error(`${mutant.id}: ${error instanceof Error ? error.message : String(error)}`);
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

async function bySeeds(copy: string, sound: string, options: MutationOptions): Promise<Finding> {
  const { histories, seconds } = options;
  const work: WorkOptions = { first: 1, histories, seconds };
  const worker = join(sound, "tests/support/mutant_worker.ts");
  const done = await spawn([worker, copy, JSON.stringify(work)], {
    cwd: sound,
    seconds: seconds + SLACK_SECONDS,
  });
  const line = done.stdout.trim().split("\n").at(-1) ?? "";
  if (done.code !== 0 || !line.startsWith("{"))
    throw new Error(`the histories could not be run: ${done.stderr.slice(-800)}`);
  return JSON.parse(line) as Finding;
}

/** The first scenario that fails on the copy, of all or of those whose name contains that. */
async function byScenarios(copy: string, named?: string): Promise<Told | null> {
  const only = named === undefined ? [] : ["-t", named.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")];
  const done = await spawn(["test", "--bail", ...only, ...SCENARIOS.map((file) => `./${file}`)], {
    cwd: copy,
    seconds: SCENARIO_SECONDS,
  });
  if (done.code === 0) return null;
  const output = done.stderr;
  // A breakage that cannot even run proves nothing of who would notice the rule.
  const bug = /\b(?:SyntaxError|ReferenceError|TypeError)\b.*/.exec(output);
  if (bug !== null) throw new Error(`the broken sources do not run: ${bug[0]}`);
  const failed = /^\(fail\) (.*?)(?: \[[\d.]+ms\])?$/m.exec(output);
  if (failed?.[1] !== undefined)
    return { scenario: failed[1].replace(/^.* > /, ""), because: becauseOf(output) };
  // What the scenarios of a file have in common is played before the first of them.
  if (named !== undefined && /^ [1-9]\d* errors?$/m.test(output))
    return { scenario: named, because: becauseOf(output) };
  throw new Error(`the scenarios could not be run: ${output.slice(-800)}`);
}

/** What a failing scenario says: the invariant that is violated, or the words of its demand. */
function becauseOf(output: string): string {
  const invariant = /^\+\s+"?id"?: "(\w+)"/m.exec(output);
  if (invariant?.[1] !== undefined) return invariant[1];
  const demand = /^error: At .*? it no longer holds that (.*?): /m.exec(output);
  if (demand?.[1] !== undefined) return `no longer: ${demand[1]}`;
  const awaited = /^error: In .*? it never came about that (.*?): /m.exec(output);
  if (awaited?.[1] !== undefined) return `never: ${awaited[1]}`;
  return "its last expectation";
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
