/**
 * Many servers and client minders on this machine, with real messages: how soon a change is right in
 * every balancer's table, and what the reports cost. The watchdogs run in a process of their own.
 */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { type SwarmClient, startClients, startPeers, swarmConfig } from "../lib/lab/swarm.ts";

const USAGE = `
Usage: bench_clients.ts [--servers N] [--clients N] [--report-ms N] [--changes N] [--seconds N]
  --servers N    watchdogs, up to 64 (default 64)
  --clients N    client minders, up to 256 (default 200)
  --report-ms N  report interval; one machine plays them all, so not the usual 500 (default 5000)
  --changes N    how often a server is fenced or opened again (default 20)
  --seconds N    how long to count the cost of calm (default 10)
`;

interface Size {
  readonly servers: number;
  readonly clients: number;
  readonly reportIntervalMs: number;
}

/** What the parent tells the process of the watchdogs. */
type Order = { readonly fence: string } | { readonly open: string } | "cpu";

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    servers: { type: "string" },
    clients: { type: "string" },
    "report-ms": { type: "string" },
    changes: { type: "string" },
    seconds: { type: "string" },
    peers: { type: "boolean" },
  });
  const size: Size = {
    servers: whole("servers", values.servers, 64),
    clients: whole("clients", values.clients, 200),
    reportIntervalMs: whole("report-ms", values["report-ms"], 5000),
  };
  if (values.peers === true) return await playPeers(size);
  const changes = whole("changes", values.changes, 20);
  return await measure(size, { changes, seconds: whole("seconds", values.seconds, 10) });
}

function whole(name: string, text: string | undefined, fallback: number): number {
  const value = Number(text ?? fallback);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new UsageError(`--${name} is ${text}, must be a whole number above 0`);
}

/** The other process: watchdogs that obey the parent, until it goes away. */
async function playPeers(size: Size): Promise<number> {
  const peers = startPeers(swarmConfig(size));
  const { promise: left, resolve: leave } = Promise.withResolvers<void>();
  process.on("disconnect", leave);
  process.on("message", (order: Order) => {
    if (order === "cpu") process.send?.(process.cpuUsage());
    else if ("fence" in order) peers.get(order.fence)?.change({ fenced: true });
    else peers.get(order.open)?.change({ fenced: false });
  });
  await left;
  return 0;
}

async function measure(
  size: Size,
  { changes, seconds }: { readonly changes: number; readonly seconds: number },
): Promise<number> {
  const config = swarmConfig(size);
  let answered: (usage: NodeJS.CpuUsage) => void = () => undefined;
  const child = Bun.spawn([process.execPath, import.meta.path, "--peers", ...argumentsOf(size)], {
    stdio: ["ignore", "inherit", "inherit"],
    ipc: (usage: NodeJS.CpuUsage) => answered(usage),
  });
  const peersCpu = (): Promise<NodeJS.CpuUsage> => {
    const { promise, resolve } = Promise.withResolvers<NodeJS.CpuUsage>();
    answered = resolve;
    child.send("cpu");
    return promise;
  };
  // The watchdogs are up before anybody asks them.
  await peersCpu();
  const clients = startClients(config);
  const allShow = (name: string, word: string, limitMs: number) =>
    everywhere(clients, { name, word, limitMs });
  try {
    const names = config.servers.map(({ name }) => name);
    for (const name of names) await allShow(name, "up 100", 60_000);
    const before = [process.cpuUsage(), await peersCpu()] as const;
    await Bun.sleep(seconds * 1000);
    const own = process.cpuUsage(before[0]);
    const after = await peersCpu();
    const rate = (size.servers * size.clients * 1000) / size.reportIntervalMs;
    const share = (usage: NodeJS.CpuUsage): number =>
      (usage.user + usage.system) / seconds / 10_000;
    const theirs = {
      user: after.user - before[1].user,
      system: after.system - before[1].system,
    };
    const took: number[] = [];
    for (let index = 0; index < changes; index++) {
      const name = names[Math.floor(index / 2) % names.length] ?? "";
      child.send(index % 2 === 0 ? { fence: name } : { open: name });
      took.push(await allShow(name, index % 2 === 0 ? "out" : "up 100", 10_000));
    }
    took.sort((a, b) => a - b);
    console.log(
      `${size.servers} servers, ${size.clients} client minders, ${rate} reports a second`,
    );
    console.log(
      `a change is right in every table after: median ${at(took, 0.5)} ms, worst ${at(took, 1)} ms of ${changes}`,
    );
    console.log(
      `CPU in calm: client minders ${share(own).toFixed(1)} % of a core (${perReport(own, rate * seconds)} us a report), watchdogs ${share(theirs).toFixed(1)} % (${perReport(theirs, rate * seconds)} us a report)`,
    );
    return (took.at(-1) ?? 0) <= 1000 ? 0 : 1;
  } finally {
    child.disconnect();
    child.kill("SIGKILL");
    await child.exited;
    await Promise.all(clients.map((client) => client.stop()));
  }
}

function argumentsOf({ servers, clients, reportIntervalMs }: Size): readonly string[] {
  return [
    ...["--servers", String(servers), "--clients", String(clients)],
    ...["--report-ms", String(reportIntervalMs)],
  ];
}

async function everywhere(
  clients: readonly SwarmClient[],
  {
    name,
    word,
    limitMs,
  }: { readonly name: string; readonly word: string; readonly limitMs: number },
): Promise<number> {
  const startedAt = performance.now();
  while (!clients.every((client) => client.word(name) === word)) {
    if (performance.now() - startedAt > limitMs)
      throw new Error(`${name} is not ${word} everywhere`);
    await Bun.sleep(1);
  }
  return performance.now() - startedAt;
}

function at(sorted: readonly number[], part: number): string {
  return (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0).toFixed(0);
}

function perReport({ user, system }: NodeJS.CpuUsage, reports: number): string {
  return ((user + system) / reports).toFixed(0);
}

if (import.meta.main) await runScript(main);
