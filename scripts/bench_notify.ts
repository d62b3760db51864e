/**
 * Compares the notify handler with a bash script that posts the same message with curl.
 *
 *   bun scripts/bench_notify.ts [rounds, default 100]
 *
 * Runs them by turns against a watchdog double on loopback, as mariadbd runs them (`sh -c`, bare
 * environment): built as docs/notify.md says, from its source, and the bash script. Prints the medians,
 * and for each the median of its ratio to the bash script of the same round. Then how long the handler
 * takes where the watchdog is gone, and where it never answers.
 * Exit: 0 the built one is no slower than the script, and gives up within 100 ms; 1 not; 2 wrong use
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { notifyMessage, parseNotify } from "../lib/notify.ts";

const GALERA =
  "--status synced --uuid 987c9d46-e6b5-11f1-9aa4-3a452c552f12 --primary yes --index 0 --members " +
  [11, 12, 21, 22]
    .map((host) => `987c3e9c-e6b5-11f1-b5d7-5a1256aad9${host}/dc-${host}/10.77.1.${host}:3306`)
    .join(",");

const WARM_UP = 3;
/** mariadbd commits nothing until the handler has ended. */
const GIVES_UP_MAX_MS = 100;

async function main(): Promise<number> {
  const rounds = Number(process.argv[2] ?? 100);
  if (!Number.isSafeInteger(rounds) || rounds < 1 || rounds > 10_000) {
    console.error("error: the number of rounds is 1 to 10000");
    return 2;
  }
  const bodies: string[] = [];
  const watchdog = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      bodies.push(await request.text());
      return Response.json({ verb: "ack" });
    },
  });
  const directory = mkdtempSync(join(tmpdir(), "minder-bench-"));
  try {
    const url = `http://127.0.0.1:${watchdog.port}`;
    const bash = join(directory, "notify.sh");
    writeFileSync(bash, bashScript(url), { mode: 0o755 });
    const source = new URL("./notify.ts", import.meta.url).pathname;
    const built = join(directory, "notify.js");
    await Bun.build({ entrypoints: [source], target: "bun", outdir: directory, throw: true });
    const run = `BUN_JSC_useJIT=0 exec ${process.execPath}`;
    const target = `--to ${url} --node dbserver.1`;
    const times = await measure(rounds, [
      `${run} ${built} ${target} ${GALERA}`,
      `${run} ${source} ${target} ${GALERA}`,
      `exec ${bash} ${GALERA}`,
    ]);
    // All posted every message, and the same one, or the comparison is void.
    const expected = 3 * (rounds + WARM_UP);
    const texts = new Set(bodies.map((body) => body.replace(/"session":"[^"]*"/, "")));
    if (bodies.length !== expected || texts.size !== 1) {
      throw new Error(`${bodies.length} of ${expected} messages, ${texts.size} different ones`);
    }
    console.log(`rounds: ${rounds}; medians; ratio to bash and curl of the same round`);
    for (const [at, name] of ["notify.js, built", "notify.ts", "bash and curl"].entries()) {
      const ms = median(times.map((round) => round[at] ?? Number.NaN)).toFixed(2);
      const ratio = median(times.map((round) => (round[at] ?? 0) / (round[2] ?? 1))).toFixed(3);
      console.log(`${name.padEnd(17)} ${ms.padStart(6)} ms  ${ratio}`);
    }
    const slower = median(times.map((round) => (round[0] ?? 0) / (round[2] ?? 1))) > 1;
    const late = await measureGivingUp(
      rounds,
      (to) => `${run} ${built} --to ${to} --node dbserver.1 ${GALERA}`,
    );
    return slower || late ? 1 : 0;
  } finally {
    rmSync(directory, { recursive: true });
    await watchdog.stop(true);
  }
}

/** Prints how long it takes to give up, by turns; true if a median is beyond the bound. */
async function measureGivingUp(rounds: number, call: (to: string) => string): Promise<boolean> {
  const { promise: never, resolve: release } = Promise.withResolvers<Response>();
  const silent = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => never });
  const gone = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
  const urls = [gone, silent].map(({ port }) => `http://127.0.0.1:${port}`);
  await gone.stop(true);
  const times = await measure(rounds, urls.map(call));
  release(new Response());
  await silent.stop(true);
  const medians = urls.map((_, at) => median(times.map((round) => round[at] ?? Number.NaN)));
  const [ofGone = 0, ofSilent = 0] = medians;
  console.log(
    `gives up          ${ofGone.toFixed(2)} ms where no watchdog is, ${ofSilent.toFixed(2)} ms where it never answers; at most ${GIVES_UP_MAX_MS}`,
  );
  return medians.some((ms) => ms > GIVES_UP_MAX_MS);
}

async function measure(rounds: number, commands: readonly string[]): Promise<number[][]> {
  const times: number[][] = [];
  for (let round = 0; round < rounds + WARM_UP; round++) {
    const row: number[] = [];
    // The order rotates, so that none always finds the warmer cache.
    for (let turn = 0; turn < commands.length; turn++) {
      const at = (round + turn) % commands.length;
      row[at] = await timed(commands[at] ?? "");
    }
    if (round >= WARM_UP) times.push(row);
  }
  return times;
}

async function timed(command: string): Promise<number> {
  const startedAt = performance.now();
  const child = Bun.spawn(["/bin/sh", "-c", command], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
    env: { PATH: "/usr/bin:/bin" },
    cwd: "/",
  });
  if ((await child.exited) !== 0) throw new Error(`failed: ${command}`);
  return performance.now() - startedAt;
}

/** What one would write by hand: the same arguments taken apart, the same message, posted by curl. */
function bashScript(url: string): string {
  const message = notifyMessage({ ...parseNotify([]), members: null }, 1, "SESSION");
  const head = JSON.stringify(message).replace(/"parameters":.*/, '"parameters":');
  return `#!/bin/bash
primary=null index=null members= sep=
while [ $# -gt 0 ]; do
  case $1 in
    --status) status=$2 ;;
    --uuid) uuid=$2 ;;
    --primary) [ "$2" = yes ] && primary=true || primary=false ;;
    --index) index=$2 ;;
    --members)
      IFS=, read -ra list <<< "$2"
      for member in "\${list[@]}"; do
        IFS=/ read -r id name address <<< "$member"
        members+="$sep{\\"uuid\\":\\"$id\\",\\"name\\":\\"$name\\",\\"address\\":\\"$address\\"}" sep=,
      done ;;
  esac
  shift 2
done
head='${head}'
exec curl -s -o /dev/null --max-time 0.08 -H 'content-type: application/json' \\
  -d "\${head/SESSION/b$$}{\\"status\\":\\"$status\\",\\"uuid\\":\\"$uuid\\",\\"primary\\":$primary,\\"index\\":$index,\\"members\\":[$members]}}" \\
  ${url}/messages
`;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

process.exit(await main());
