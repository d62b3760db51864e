/**
 * Hostile peers against live processes: an arbitrator, two watchdogs and a client minder, signed, each a
 * process of its own on loopback. Demands that none of them ends, that nothing they know changes by
 * what they were sent, that they hear each other all the while, and that their memory stays flat.
 * Exit: 0 all of it holds, 1 not.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { parseClusterToml } from "../lib/effects/config_file.ts";
import { readSecretFile, writeSecretFile } from "../lib/effects/secrets.ts";
import { until } from "../lib/lab/exec.ts";
import { attack, type HostileResult } from "../lib/lab/hostile.ts";
import { RECORD_MARK, readRecorded, recordPosts } from "../lib/lab/record.ts";
import { signingKey } from "../lib/seal.ts";

const USAGE = `
Usage: fuzz_peers.ts [N] [--seed SEED] [--connections N]
  N               inputs (default 100000)
  --seed SEED     of the inputs (default random, printed)
  --connections N at a time (default 48, 4 of them slow)
`;

const NET = "127.88.0";
const PARTIES = ["arbitrator.1", "dbserver.1", "dbserver.2", "dbclient.1"] as const;
/** What allocators and caches may take after the first tenth. */
const GROWTH_MAX_MB = 40;
const KB_PER_MB = 1024;
const SLOW = 4;

interface Minder {
  readonly id: string;
  readonly host: string;
  readonly port: number;
  readonly child: Bun.Subprocess;
}

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    seed: { type: "string" },
    connections: { type: "string" },
  });
  const inputs = Number(words[0] ?? 100_000);
  const seed = Number(values.seed ?? Math.floor(Math.random() * 1e9));
  const connections = Number(values.connections ?? 48);
  if (![inputs, seed, connections].every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new UsageError("N, --seed and --connections are whole numbers", { hint: "See --help" });
  }
  const folder = mkdtempSync(join(tmpdir(), "galera-minder-fuzz-"));
  const minders: Minder[] = [];
  try {
    return await run(folder, minders, { inputs, seed, connections });
  } finally {
    for (const { child } of minders) child.kill("SIGKILL");
    await Promise.all(minders.map(({ child }) => child.exited));
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(
  folder: string,
  minders: Minder[],
  options: { readonly inputs: number; readonly seed: number; readonly connections: number },
): Promise<number> {
  const configPath = prepare(folder);
  const config = parseClusterToml(readFileSync(configPath, "utf8"), configPath);
  for (const id of PARTIES) minders.push(start(id, folder, configPath));
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
    ({ url }) => url.includes(NET) || url.includes("arb"),
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
    readonly dead: readonly Minder[];
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
  const growth = PARTIES.map((_, index) => peak(tail, index) - (warm[index] ?? 0));
  const complaints = [
    ...seen.dead.map(({ id }) => `${id} has ended`),
    ...(seen.changed ? ["what the parties know has changed"] : []),
    ...(seen.silenceMs > 2000
      ? [`a watchdog was unheard for ${Math.round(seen.silenceMs)} ms`]
      : []),
    ...growth.flatMap((mb, index) =>
      mb > GROWTH_MAX_MB ? [`${PARTIES[index]} has grown by ${Math.round(mb)} MB`] : [],
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

/** Config, secrets and the arbitrator's store. */
function prepare(folder: string): string {
  for (const kind of ["node", "operator"]) writeSecretFile(join(folder, `${kind}.secret`));
  const at = (n: number) => `host = "${NET}.${n}"\nport = 4570`;
  const state = (id: string) => `state_dir = "${folder}/${id}"`;
  const server = (n: number) =>
    `[[dbserver]]\nserial = ${n}\nname = "db${n}"\nsegment = "dc${n}"\n${at(n)}\n${state(`dbserver.${n}`)}
mysql_socket = "${folder}/none.sock"\ndatadir = "${folder}/data${n}"\nhealth_port = 0\nagent_port = 0\n`;
  const path = join(folder, "cluster.toml");
  writeFileSync(
    path,
    `version = 1\n[cluster]\nname = "fuzz"\nprimary_segment = "dc1"\n[security]
secret_file = "${folder}/node.secret"\noperator_file = "${folder}/operator.secret"
[[arbitrator]]\nserial = 1\n${at(10)}\n${state("arbitrator.1")}\n${server(1)}${server(2)}
[[dbclient]]\nserial = 1\n${at(20)}\n[dbclient.balancer]\nsocket = "${folder}/haproxy.sock"\n`,
  );
  for (const id of PARTIES) mkdirSync(join(folder, id), { recursive: true });
  const made = Bun.spawnSync([
    process.execPath,
    script("arbitrator"),
    "--config",
    path,
    "--node",
    "arbitrator.1",
    "--init",
  ]);
  if (!made.success) throw new Error(made.stderr.toString());
  return path;
}

function start(id: string, folder: string, configPath: string): Minder {
  const record = join(import.meta.dir, "..", "lib", "lab", "record.ts");
  const child = Bun.spawn(
    [process.execPath, "--preload", record, script("minder"), "--config", configPath, "--node", id],
    {
      stdout: Bun.file(join(folder, `${id}.log`)),
      stderr: "inherit",
      env: { ...process.env, [RECORD_MARK]: folder },
    },
  );
  const [type, serial] = id.split(".");
  const last = type === "arbitrator" ? 10 : type === "dbclient" ? 20 : Number(serial);
  return { id, host: `${NET}.${last}`, port: 4570, child };
}

function script(name: string): string {
  return join(import.meta.dir, `${name}.ts`);
}

/** How long the arbitrator has not heard each watchdog. */
async function silences(config: ReturnType<typeof parseClusterToml>) {
  const ask = { verb: "status_summary", parameters: {} } as const;
  try {
    const { parameters } = await askArbitrator(ask, { config, timeoutMs: 3000 });
    return "servers" in parameters
      ? (parameters as { servers: readonly { heardAgoMs: number | null }[] }).servers.map(
          ({ heardAgoMs }) => heardAgoMs,
        )
      : [null];
  } catch {
    return [null];
  }
}

/** All that is kept on disk, and what the arbitrator and the watchdogs make of the cluster. */
async function digest(
  config: ReturnType<typeof parseClusterToml>,
  folder: string,
): Promise<string> {
  const ask = { verb: "status_summary", parameters: {} } as const;
  const { parameters } = await askArbitrator(ask, { config, timeoutMs: 5000 });
  const words = JSON.stringify(parameters, (key, value) =>
    /agoMs$|reportNumber|pollAgeMs|decisions|because$|wouldChange/i.test(key) ? undefined : value,
  );
  const hash = createHash("sha256").update(words);
  for (const file of ["arbitrator.1/arbitrator.state", "dbserver.1/server.state"]) {
    const path = Bun.file(join(folder, file));
    hash.update((await path.exists()) ? await path.bytes() : new Uint8Array());
  }
  return hash.digest("hex");
}

function rssMb(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "latin1");
    return Math.round(Number(/VmRSS:\s+(\d+)/.exec(text)?.[1] ?? 0) / KB_PER_MB);
  } catch {
    return 0;
  }
}

if (import.meta.main) await runScript(main);
