/**
 * Lint, types, then all tests. What failed is told again at the end, since a log may be kept by its tail
 * only. The last line is `N passed, N failed`.
 * Stories on a real cluster take a minute or two, so those that passed on this very tree, with these
 * very programs, are not repeated: `--fresh` repeats them, and any changed file does.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArguments, runScript } from "../lib/cli.ts";

const USAGE = `
Usage: test.ts [--fresh] [PATH...]
  --fresh   repeat the stories on a real cluster even if they passed on this very tree
  PATH      only these test files or folders, without lint and types
`;

const ROOT = join(import.meta.dir, "..");
const BIN = join(ROOT, "node_modules/.bin");
/** Test folders that start a real cluster. */
const CLUSTER = ["tests/lab", "tests/cluster"];
/** Most of a story is waiting for Galera, so that so many can run side by side. */
const LANES = 2;
/** Stories await conditions with bounds of their own. Bun takes this one from the command line only. */
const OUTERMOST_BOUND_MS = 180_000;
/** What a runner that has ended may still have in its pipes. */
const LAST_WORDS_MS = 2_000;

/** Lines told again of a test that failed: the end of what was printed while it ran, which has its error. */
const LINES_AGAIN = 150;

interface Count {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** What was printed of each that failed. */
  readonly failures: readonly string[];
}

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, { fresh: { type: "boolean" } });
  const counts =
    words.length > 0
      ? [await runTests(words)]
      : [
          await runGate("lint and format", ["biome", "check", "."]),
          await runGate("types", ["tsc", "-p", "."]),
          await runTests(fastTests()),
          await runClusterTests(values.fresh === true),
        ];
  const { passed, failed, skipped, failures } = sumOf(counts);
  for (const failure of failures) console.log(`failed, told again:\n${failure}`);
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`);
  return failed === 0 ? 0 : 1;
}

function sumOf(counts: readonly Count[]): Count {
  const total = (key: "passed" | "failed" | "skipped") =>
    counts.reduce((sum, count) => sum + count[key], 0);
  return {
    passed: total("passed"),
    failed: total("failed"),
    skipped: total("skipped"),
    failures: counts.flatMap(({ failures }) => failures),
  };
}

async function runGate(name: string, command: readonly [string, ...string[]]): Promise<Count> {
  const [program, ...rest] = command;
  const started = performance.now();
  const child = Bun.spawn([join(BIN, program), ...rest], {
    cwd: ROOT,
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  const good = (await child.exited) === 0;
  const ms = Math.round(performance.now() - started);
  console.log(`${name}: ${good ? "good" : "FAILED"} (${ms} ms)`);
  const failures = good ? [] : [name];
  return { passed: good ? 1 : 0, failed: failures.length, skipped: 0, failures };
}

function fastTests(): string[] {
  const files = [...new Bun.Glob("tests/**/*_test.ts").scanSync({ cwd: ROOT })];
  return files.filter((file) => !CLUSTER.some((folder) => file.startsWith(`${folder}/`))).sort();
}

/** Runs bun test on these paths and reads its closing counts. */
async function runTests(paths: readonly string[]): Promise<Count> {
  const files = paths.map((path) => `./${path}`);
  const command = [join(BIN, "bun"), "test", `--timeout=${OUTERMOST_BOUND_MS}`, ...files];
  const child = Bun.spawn(command, {
    cwd: ROOT,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const said: string[] = [];
  const output = Promise.all([forward(child.stdout, []), forward(child.stderr, said)]);
  const code = await child.exited;
  // A process that a test has left behind may hold the pipes open for as long as it likes.
  await Promise.race([output, Bun.sleep(LAST_WORDS_MS)]);
  const text = said.join("");
  const count = (word: string) =>
    Number(new RegExp(`^\\s*(\\d+) ${word}`, "m").exec(text)?.[1] ?? 0);
  const failed = count("fail");
  return {
    passed: count("pass"),
    // A runner that fell over without counting has failed all the same.
    failed: failed || (code === 0 ? 0 : 1),
    skipped: count("skip"),
    failures: code === 0 ? [] : failuresIn(text),
  };
}

/** Of each test that failed, the end of what was printed since the test before it; else of the whole. */
function failuresIn(text: string): readonly string[] {
  const failures: string[] = [];
  let since: string[] = [];
  for (const line of text.split("\n")) {
    // From here on the runner only lists the names again.
    if (/^\d+ tests? failed:/.test(line)) break;
    since.push(line);
    if (line.startsWith("(fail)")) failures.push(since.slice(-LINES_AGAIN).join("\n"));
    if (/^\((pass|fail|skip)\)|^tests\/.*:$/.test(line)) since = [];
  }
  return failures.length > 0 ? failures : [since.slice(-LINES_AGAIN).join("\n")];
}

async function forward(stream: ReadableStream<Uint8Array>, said: string[]): Promise<void> {
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    process.stderr.write(chunk);
    said.push(decoder.decode(chunk, { stream: true }));
  }
}

async function runClusterTests(fresh: boolean): Promise<Count> {
  const files = CLUSTER.flatMap((folder) => [
    ...new Bun.Glob(`${folder}/**/*_test.ts`).scanSync({ cwd: ROOT }),
  ]);
  const memory = join(ROOT, "node_modules/.cache/galera-minder", `${treeHash()}.json`);
  if (!fresh && existsSync(memory)) {
    const known = JSON.parse(readFileSync(memory, "utf8")) as Count;
    console.log(
      `real cluster: ${known.passed} passed on this very tree, not repeated (--fresh does)`,
    );
    return { ...known, failed: 0, failures: [] };
  }
  console.log("real cluster: stories on MariaDB with Galera in network namespaces");
  const waiting = files.sort();
  const counts: Count[] = [];
  const lane = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      counts.push(await runTests([file]));
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  const count = sumOf(counts);
  if (count.failed === 0) {
    mkdirSync(dirname(memory), { recursive: true });
    writeFileSync(memory, JSON.stringify(count));
  }
  return count;
}

/** Everything that the outcome could depend on: all files of the tree, and the programs' versions. */
function treeHash(): string {
  const hash = createHash("sha256");
  const files = [...new Bun.Glob("**").scanSync({ cwd: ROOT, dot: true })].filter(
    (file) => !/^(\.git|node_modules)\//.test(file),
  );
  for (const file of files.sort()) {
    hash
      .update(file)
      .update("\0")
      .update(readFileSync(join(ROOT, file)));
  }
  for (const program of [
    ["mariadbd", "--version"],
    ["haproxy", "-v"],
    ["uname", "-r"],
  ]) {
    hash.update(Bun.spawnSync(program).stdout);
  }
  return hash.update(Bun.version).digest("hex");
}

if (import.meta.main) await runScript(main);
