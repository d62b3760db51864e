/**
 * Compares the notify handler with a bash script that posts the same message with curl.
 *
 *   bun scripts/bench_notify.ts [pairs, default 100]
 *
 * Runs both by turns against a watchdog double on loopback, started as mariadbd starts them (`sh -c`,
 * bare environment), and prints the medians and the median of the paired ratios.
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

async function main(): Promise<void> {
  const pairs = Number(process.argv[2] ?? 100);
  if (!Number.isSafeInteger(pairs) || pairs < 1 || pairs > 10_000) {
    console.error("error: the number of pairs is 1 to 10000");
    process.exit(2);
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
    const script = join(directory, "notify.sh");
    writeFileSync(script, bashScript(url), { mode: 0o755 });
    const handler = new URL("./notify.ts", import.meta.url).pathname;
    const flags = "--no-install --no-env-file";
    const ours = `exec ${process.execPath} ${flags} ${handler} --to ${url} --node dbserver.1`;
    const theirs = `exec ${script}`;
    const times = await measure(pairs, [`${ours} ${GALERA}`, `${theirs} ${GALERA}`]);
    // Both posted every message, or the comparison is void.
    if (bodies.length !== 2 * (pairs + WARM_UP)) {
      throw new Error(`${bodies.length} messages came in, not ${2 * (pairs + WARM_UP)}`);
    }
    const ratios = times.map(([a, b]) => a / b);
    console.log(`pairs            ${pairs}`);
    console.log(`notify.ts        ${median(times.map(([a]) => a)).toFixed(2)} ms (median)`);
    console.log(`bash and curl    ${median(times.map(([, b]) => b)).toFixed(2)} ms (median)`);
    console.log(
      `ratio            ${median(ratios).toFixed(3)} (median of pairs, below 1 is faster)`,
    );
  } finally {
    rmSync(directory, { recursive: true });
    await watchdog.stop(true);
  }
}

const WARM_UP = 3;

async function measure(
  pairs: number,
  [first, second]: readonly [string, string],
): Promise<[number, number][]> {
  const times: [number, number][] = [];
  for (let pair = 0; pair < pairs + WARM_UP; pair++) {
    // The order alternates, so that neither always finds the warmer cache.
    const swap = pair % 2 === 1;
    const one = await timed(swap ? second : first);
    const two = await timed(swap ? first : second);
    if (pair >= WARM_UP) times.push(swap ? [two, one] : [one, two]);
  }
  return times;
}

async function timed(command: string): Promise<number> {
  const startedAt = performance.now();
  const child = Bun.spawn(["/bin/sh", "-c", command], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "inherit",
    env: { PATH: "/usr/bin:/bin" },
    cwd: "/",
  });
  if ((await child.exited) !== 0) throw new Error(`failed: ${command}`);
  return performance.now() - startedAt;
}

/** What one would write by hand: the same message, posted with curl under the same bound. */
function bashScript(url: string): string {
  const message = notifyMessage(parseNotify(GALERA.split(" ")), 1, "bash");
  return [
    "#!/bin/bash",
    `exec curl -s -o /dev/null --max-time 0.08 -H 'content-type: application/json' \\`,
    `  -d '${JSON.stringify(message)}' ${url}/messages`,
    "",
  ].join("\n");
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

await main();
