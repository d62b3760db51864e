/**
 * Runs histories on a broken copy of the sources until an invariant is violated that the sound sources
 * do not violate in the same history.
 *
 *   bun mutant_worker.ts COPY_ROOT OPTIONS_JSON      prints one line of JSON: a Finding
 */
import { run, type SwarmOptions, storyOf } from "../sim/swarm.ts";

export interface WorkOptions extends SwarmOptions {
  /** First seed, and how many at most. */
  readonly first: number;
  readonly seeds: number;
  readonly seconds: number;
}

/** What came of it. `by` null: nothing was noticed. */
export interface Finding {
  readonly by: string | null;
  readonly because: string;
  readonly seed: number;
  /** Histories run until then. */
  readonly seeds: number;
  readonly seconds: number;
}

/** Kinds of violation that are about safety: one suffices. */
const SAFETY: ReadonlySet<string> = new Set([
  "two_writers",
  "rows_differ",
  "acknowledged_lost",
  "epoch_twice",
  "epoch_falls",
]);
/** Histories in which something else goes wrong, such as liveness, that make a finding: one may be chance. */
const OTHERS = 3;

async function main(): Promise<void> {
  const [root, text] = process.argv.slice(2);
  if (root === undefined || text === undefined) throw new Error("usage: COPY_ROOT OPTIONS_JSON");
  const options = JSON.parse(text) as WorkOptions;
  const broken = (await import(`${root}/tests/sim/swarm.ts`)) as typeof import("../sim/swarm.ts");
  await Bun.write(Bun.stdout, `${JSON.stringify(search(broken.run, options))}\n`);
}

function search(runBroken: typeof run, options: WorkOptions): Finding {
  const startedAt = performance.now();
  const elapsed = () => (performance.now() - startedAt) / 1000;
  const others = new Map<string, Omit<Finding, "seconds">[]>();
  let ran = 0;
  let seed = options.first;
  for (; ran < options.seeds && elapsed() < options.seconds; seed++) {
    ran++;
    const story = storyOf(seed, options);
    const [violation] = runBroken(story, { record: false }).violations;
    if (violation === undefined) continue;
    const { id, because } = violation;
    const sound = run(story, { record: false }).violations;
    if (sound.some((one) => one.id === id)) continue;
    const finding = { by: id, because, seed, seeds: ran };
    if (SAFETY.has(id)) return { ...finding, seconds: elapsed() };
    others.set(id, [...(others.get(id) ?? []), finding]);
  }
  for (const found of others.values()) {
    const enough = found[OTHERS - 1];
    if (enough !== undefined) return { ...enough, seconds: elapsed() };
  }
  const words = [...others].map(([id, found]) => `${found.length} ${id}`).join(", ");
  return { by: null, because: words, seed, seeds: ran, seconds: elapsed() };
}

if (import.meta.main) await main();
