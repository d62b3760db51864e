/**
 * Runs histories on a broken copy of the sources until an invariant is violated that the sound sources
 * do not violate in the same history.
 *
 *   bun mutant_worker.ts COPY_ROOT OPTIONS_JSON      prints one line of JSON: a Finding
 */
import { run, storyOf } from "../sim/swarm.ts";

export interface WorkOptions {
  /** First seed, and how many at most. */
  readonly first: number;
  readonly histories: number;
  readonly seconds: number;
}

/** What came of it. `by` null: nothing was noticed. */
export interface Finding {
  /** The invariant that is violated. */
  readonly by: string | null;
  readonly because: string;
  readonly seed: number;
  /** Histories run until then, or in vain. */
  readonly histories: number;
}

/** Kinds of violation that are about safety: one suffices. */
const SAFETY: ReadonlySet<string> = new Set([
  "two_writers",
  "rows_differ",
  "acknowledged_lost",
  "epoch_twice",
  "epoch_falls",
  "sent_unwritten",
  "open_unwritten",
  "obeyed_unwritten",
  "within_lease",
  "within_vouch",
  "granted_beside",
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
  const others = new Map<string, Finding[]>();
  let histories = 0;
  let seed = options.first;
  for (; histories < options.histories && elapsed() < options.seconds; seed++) {
    histories++;
    // As in the suite: every other seed may have a segment that could stay Primary by itself.
    const story = storyOf(seed, { heavy: seed % 2 === 1 });
    const [violation] = runBroken(story, { record: false }).violations;
    if (violation === undefined) continue;
    const { id, because } = violation;
    const sound = run(story, { record: false }).violations;
    if (sound.some((one) => one.id === id)) continue;
    const found = [...(others.get(id) ?? []), { by: id, because, seed, histories }];
    others.set(id, found);
    if (SAFETY.has(id) || found.length >= OTHERS) return { by: id, because, seed, histories };
  }
  const words = [...others].map(([id, found]) => `${found.length} ${id}`).join(", ");
  return { by: null, because: words, seed, histories };
}

if (import.meta.main) await main();
