/**
 * Hostile peers against live processes: an arbitrator, two watchdogs and a client minder, signed, each a
 * process of its own on loopback. Demands that none of them ends, that nothing they know changes by
 * what they were sent, that they hear each other all the while, and that their memory stays flat.
 * Exit: 0 all of it holds, 1 not.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { parseClusterToml } from "../lib/effects/config_file.ts";
import { readSecretFile } from "../lib/effects/secrets.ts";
import { until } from "../lib/lab/exec.ts";
import {
  BED_NET,
  BED_PARTIES,
  type BedParty,
  digest,
  prepareBed,
  rssMb,
  silences,
  startParty,
} from "../lib/lab/fuzz_bed.ts";
import { attack, type HostileResult } from "../lib/lab/hostile.ts";
import { readRecorded, recordPosts } from "../lib/lab/record.ts";
import { signingKey } from "../lib/seal.ts";
import { makeScratch, removeScratch } from "../tests/support/scratch.ts";

const USAGE = `
Usage: fuzz_peers.ts [N] [--seed SEED] [--connections N]
       fuzz_peers.ts --flood CONFIG --records FOLDER [--connections N]
  N               inputs (default 100000)
  --seed SEED     of the inputs (default random, printed)
  --connections N at a time (default 48, 4 of them slow)
  --flood CONFIG  attacks the parties of that config until it is told to stop, then prints the counts
  --records DIR   what was recorded of them
`;

/** What allocators and caches may take after the first tenth. */
const GROWTH_MAX_MB = 40;
const SLOW = 4;
/** As long as a lease: beyond it a server would stop serving. */
const SILENCE_MAX_MS = 3_000;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    seed: { type: "string" },
    connections: { type: "string" },
    flood: { type: "string" },
    records: { type: "string" },
  });
  const inputs = Number(words[0] ?? 100_000);
  const seed = Number(values.seed ?? Math.floor(Math.random() * 1e9));
  const connections = Number(values.connections ?? 48);
  if (![inputs, seed, connections].every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new UsageError("N, --seed and --connections are whole numbers", { hint: "See --help" });
  }
  if (values.flood !== undefined) {
    return await flood(values.flood, values.records ?? "", { seed, connections });
  }
  const folder = makeScratch("fuzz");
  const minders: BedParty[] = [];
  async function clean(): Promise<void> {
    for (const { child } of minders) child.kill("SIGKILL");
    await Promise.all(minders.map(({ child }) => child.exited));
    removeScratch(folder);
  }
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => void clean().then(() => process.exit(1)));
  }
  try {
    return await run(folder, minders, { inputs, seed, connections });
  } finally {
    await clean();
  }
}

/** Attacks what others have started, from this host's own address, until SIGTERM. */
async function flood(
  configPath: string,
  records: string,
  options: { readonly seed: number; readonly connections: number },
): Promise<number> {
  const config = parseClusterToml(readFileSync(configPath, "utf8"), configPath);
  const recorded = readRecorded(records);
  const secret = config.security.secretFile ?? "";
  const stop = new AbortController();
  process.on("SIGTERM", () => stop.abort());
  const result = await attack({
    ...options,
    victims: [...config.arbitrators, ...config.servers, ...config.clients],
    inputs: Number.MAX_SAFE_INTEGER,
    key: signingKey({ keys: readSecretFile(secret, "node") }, "node"),
    messages: recorded.map(({ body }) => body),
    recorded,
    slow: SLOW,
    // Some of them lose their power meanwhile: no use to wait for those.
    answerMs: 500,
    signal: stop.signal,
  });
  console.log(JSON.stringify(result));
  return 0;
}

async function run(
  folder: string,
  minders: BedParty[],
  options: { readonly inputs: number; readonly seed: number; readonly connections: number },
): Promise<number> {
  const configPath = prepareBed(folder);
  const config = parseClusterToml(readFileSync(configPath, "utf8"), configPath);
  for (const id of BED_PARTIES) minders.push(startParty(id, folder, configPath));
  const heard = (): Promise<readonly (number | null)[]> => silences(config);
  await until(
    "the arbitrator hears both watchdogs",
    async () => (await heard()).every((ms) => ms !== null && ms < 2000),
    { timeoutMs: 20_000, pauseMs: 100 },
  );
  recordPosts(folder);
  for (const verb of ["drain", "undrain"] as const) {
    const parameters = { node: "db2", who: "fuzz", why: "to be replayed" };
    await askArbitrator({ verb, parameters }, { config, timeoutMs: 5000 });
  }
  await Bun.sleep(3000);
  const recorded = readRecorded(folder).filter(
    ({ url }) => url.includes(BED_NET) || url.includes("arb"),
  );
  const before = await digest(config, folder);
  console.log(
    `seed ${options.seed}, ${recorded.length} messages recorded, ${minders.length} processes`,
  );

  const key = signingKey({ keys: readSecretFile(join(folder, "node.secret"), "node") }, "node");
  let longestMs = 0;
  const memory: number[][] = [];
  const watch = setInterval(() => {
    memory.push(minders.map(({ child }) => rssMb(child.pid)));
    heard().then(
      (each) => {
        for (const ms of each) longestMs = Math.max(longestMs, ms ?? 0);
      },
      () => undefined,
    );
  }, 1000);
  const result = await attack({
    ...options,
    victims: minders,
    key,
    messages: recorded.map(({ body }) => body),
    recorded,
    slow: SLOW,
    // Most from addresses of their own, since one alone is soon answered 429; some from one alone.
    addressOf: (n) =>
      n % 4 === 0
        ? `127.99.0.1`
        : `127.${100 + ((n >> 16) & 31)}.${(n >> 8) & 255}.${1 + (n % 254)}`,
    progress: (sent) => {
      if (sent % 100_000 === 0)
        console.log(`${sent} inputs, memory ${memory.at(-1)?.join(" ")} MB`);
    },
  });
  clearInterval(watch);
  await Bun.sleep(2500);
  return judge(result, {
    dead: minders.filter(({ child }) => child.exitCode !== null || child.signalCode !== null),
    changed: (await digest(config, folder)) !== before,
    silenceMs: Math.max(longestMs, ...(await heard()).map((ms) => ms ?? Number.POSITIVE_INFINITY)),
    memory,
  });
}

function judge(
  result: HostileResult,
  seen: {
    readonly dead: readonly BedParty[];
    readonly changed: boolean;
    readonly silenceMs: number;
    readonly memory: readonly (readonly number[])[];
  },
): number {
  const { sent, elapsedMs, connections, kinds, answers } = result;
  const top = (counts: Readonly<Record<string, number>>): string =>
    Object.entries(counts)
      .sort(([, a], [, b]) => b - a)
      .map(([word, count]) => `${word}: ${count}`)
      .join(", ");
  console.log(`kinds    ${top(kinds)}`);
  console.log(`answers  ${top(answers)}`);
  const warm = seen.memory[Math.floor(seen.memory.length / 10)] ?? [];
  const peak = (of: readonly (readonly number[])[], index: number): number =>
    Math.max(0, ...of.map((each) => each[index] ?? 0));
  const tail = seen.memory.slice(-Math.max(1, Math.floor(seen.memory.length / 10)));
  const growth = BED_PARTIES.map((_, index) => peak(tail, index) - (warm[index] ?? 0));
  const complaints = [
    ...seen.dead.map(({ id }) => `${id} has ended`),
    ...(seen.changed ? ["what the parties know has changed"] : []),
    ...(seen.silenceMs > SILENCE_MAX_MS
      ? [`a watchdog was unheard for ${Math.round(seen.silenceMs)} ms`]
      : []),
    ...growth.flatMap((mb, index) =>
      mb > GROWTH_MAX_MB ? [`${BED_PARTIES[index]} has grown by ${Math.round(mb)} MB`] : [],
    ),
  ];
  for (const complaint of complaints) console.error(`complaint: ${complaint}`);
  console.log(
    `verdict: ${complaints.length === 0 ? "pass" : "fail"} inputs=${sent} seconds=${Math.round(elapsedMs / 1000)}` +
      ` per_second=${Math.round((1000 * sent) / elapsedMs)} connections=${connections}` +
      ` ended=${seen.dead.length} state_changes=${seen.changed ? 1 : 0}` +
      ` longest_silence_ms=${Math.round(seen.silenceMs)}` +
      ` memory_mb_after_a_tenth=${warm.join("/")} memory_growth_mb=${growth.map(Math.round).join("/")}`,
  );
  return complaints.length === 0 ? 0 : 1;
}

if (import.meta.main) await runScript(main);
