/**
 * Many servers and client minders on this machine, with real messages: how soon a change is right in
 * every balancer's table, and what the reports cost. The watchdogs run in a process of their own.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { measureSwarm, playPeers } from "../lib/lab/swarm_measure.ts";

const USAGE = `
Usage: bench_clients.ts [--servers N] [--clients N] [--report-ms N] [--changes N] [--seconds N]
  --servers N    watchdogs, up to 64 (default 64)
  --clients N    client minders, up to 256 (default 200)
  --report-ms N  report interval; one machine plays them all, so not the usual 500 (default 5000)
  --changes N    how often a server is fenced or opened again (default 20)
  --seconds N    how long to count the cost of calm (default 10)
Exit: 0 if every change was right everywhere within a second
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    servers: { type: "string" },
    clients: { type: "string" },
    "report-ms": { type: "string" },
    changes: { type: "string" },
    seconds: { type: "string" },
    peers: { type: "boolean" },
  });
  const size = {
    servers: whole("servers", values.servers, 64),
    clients: whole("clients", values.clients, 200),
    reportIntervalMs: whole("report-ms", values["report-ms"], 5000),
  };
  if (values.peers === true) {
    await playPeers(size);
    return 0;
  }
  const { servers, clients, reportIntervalMs } = size;
  const same = ["--servers", servers, "--clients", clients, "--report-ms", reportIntervalMs];
  const measured = await measureSwarm(size, {
    command: [process.execPath, import.meta.path, "--peers", ...same.map(String)],
    changes: whole("changes", values.changes, 20),
    seconds: whole("seconds", values.seconds, 10),
  });
  const { tookMs, reportsPerS, clientsCpu, serversCpu } = measured;
  const worst = tookMs.at(-1) ?? 0;
  const median = tookMs[Math.floor(tookMs.length / 2)] ?? 0;
  const cost = (cpu: number): string =>
    `${(100 * cpu).toFixed(1)} % of a core (${((1e6 * cpu) / reportsPerS).toFixed(0)} us a report)`;
  console.log(`${servers} servers, ${clients} client minders, ${reportsPerS} reports a second`);
  console.log(
    `a change is right in every table: median ${median.toFixed(0)} ms, worst ${worst.toFixed(0)} ms of ${tookMs.length}`,
  );
  console.log(`in calm: minders ${cost(clientsCpu)}, watchdogs ${cost(serversCpu)}`);
  return worst <= 1000 ? 0 : 1;
}

function whole(name: string, text: string | undefined, fallback: number): number {
  const value = Number(text ?? fallback);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new UsageError(`--${name} is ${text}, must be a whole number above 0`);
}

if (import.meta.main) await runScript(main);
