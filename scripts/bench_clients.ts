/**
 * Many servers and client minders on this machine, with real messages: how soon a change is right in
 * every balancer's table, and what the reports cost. Several processes play them.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { clientIntervalMs } from "../lib/cluster_config.ts";
import { swarmConfig } from "../lib/lab/swarm.ts";
import { measureSwarm, PLAYS, play } from "../lib/lab/swarm_measure.ts";

const USAGE = `
Usage: bench_clients.ts [--servers N] [--clients N] [--report-ms N] [--changes N] [--seconds N]
                        [--processes N]
  --servers N    watchdogs, up to 64 (default 64)
  --clients N    client minders, up to 256 (default 200)
  --report-ms N  report interval (default 500)
  --changes N    how often a server is fenced or opened again (default 40)
  --seconds N    how long to count the cost of calm (default 20)
  --processes N  processes that play watchdogs, and as many that play client minders (default 2)
Exit: 0 if every change was right everywhere within a second
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    servers: { type: "string" },
    clients: { type: "string" },
    "report-ms": { type: "string" },
    changes: { type: "string" },
    seconds: { type: "string" },
    processes: { type: "string" },
    play: { type: "string" },
    part: { type: "string" },
  });
  const size = {
    servers: whole("servers", values.servers, 64),
    clients: whole("clients", values.clients, 200),
    reportIntervalMs: whole("report-ms", values["report-ms"], 500),
  };
  const processes = whole("processes", values.processes, 2);
  const what = PLAYS.find((one) => one === values.play);
  if (what !== undefined) {
    await play(what, size, { part: whole("part", values.part, 1) - 1, of: processes });
    return 0;
  }
  const { servers, clients, reportIntervalMs } = size;
  const same = [
    ...["--servers", servers, "--clients", clients],
    ...["--report-ms", reportIntervalMs, "--processes", processes],
  ].map(String);
  const self = [process.execPath, import.meta.path, ...same];
  const calmMs = clientIntervalMs(swarmConfig(size));
  const perS = (1000 * servers * clients) / calmMs;
  console.log(
    `${servers} servers, ${clients} client minders: each pair every ${calmMs} ms in calm, ` +
      `${Math.round(perS)} reports a second in all`,
  );
  const measured = await measureSwarm(size, {
    command: (play, { part }) => [...self, "--play", play, "--part", String(part + 1)],
    processes,
    changes: whole("changes", values.changes, 40),
    seconds: whole("seconds", values.seconds, 20),
    say: (line) => console.log(line),
  });
  const { tableMs, everywhereMs, clientCpu, serverCpu } = measured;
  const [median, tail, worst] = [0.5, 0.99, 1].map((part) => at(tableMs, part));
  const percent = (cpu: number): string => `${(100 * cpu).toFixed(2)} %`;
  console.log(
    `from a change to a table's weight: median ${median}, 99 % ${tail}, worst ${worst} ms`,
  );
  console.log(
    `to the last of ${clients} tables: median ${at(everywhereMs, 0.5)}, worst ${at(everywhereMs, 1)} ms ` +
      `of ${everywhereMs.length} changes`,
  );
  console.log(
    `calm, of one core: ${percent(clientCpu)} for a client minder, ` +
      `${percent(serverCpu)} for a watchdog's reports to them`,
  );
  return Number(worst) <= 1000 ? 0 : 1;
}

/** Of ascending figures. */
function at(figures: readonly number[], part: number): string {
  const index = Math.min(figures.length - 1, Math.floor(part * figures.length));
  return (figures[index] ?? 0).toFixed(0);
}

function whole(name: string, text: string | undefined, fallback: number): number {
  const value = Number(text ?? fallback);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new UsageError(`--${name} is ${text}, must be a whole number above 0`);
}

if (import.meta.main) await runScript(main);
