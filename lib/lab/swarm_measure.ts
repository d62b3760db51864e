/** Measures a swarm: how soon a change is right in every table, and what the reports cost in calm. */
import { type SwarmClient, startClients, startPeers, swarmConfig } from "./swarm.ts";

export interface SwarmSize {
  readonly servers: number;
  readonly clients: number;
  readonly reportIntervalMs: number;
}

export interface SwarmMeasured {
  /** From the order to every table being right, ascending. */
  readonly tookMs: readonly number[];
  readonly reportsPerS: number;
  /** Of one core, in calm. */
  readonly clientsCpu: number;
  readonly serversCpu: number;
}

/** What the process of the watchdogs is told. */
type Order = { readonly fence: string } | { readonly open: string } | "cpu";

const START_LIMIT_MS = 60_000;
const CHANGE_LIMIT_MS = 10_000;

/** Plays the watchdogs and obeys the parent process, until that goes away. */
export async function playPeers(size: SwarmSize): Promise<void> {
  const peers = startPeers(swarmConfig(size));
  const { promise: left, resolve: leave } = Promise.withResolvers<void>();
  process.on("disconnect", leave);
  process.on("message", (order: Order) => {
    if (order === "cpu") process.send?.(process.cpuUsage());
    else if ("fence" in order) peers.get(order.fence)?.change({ fenced: true });
    else peers.get(order.open)?.change({ fenced: false });
  });
  await left;
}

/** Plays the client minders, with the watchdogs in a process of their own that `command` starts. */
export async function measureSwarm(
  size: SwarmSize,
  options: {
    readonly command: readonly string[];
    readonly changes: number;
    readonly seconds: number;
  },
): Promise<SwarmMeasured> {
  let answered: (usage: NodeJS.CpuUsage) => void = () => undefined;
  const child = Bun.spawn([...options.command], {
    stdio: ["ignore", "inherit", "inherit"],
    ipc: (usage: NodeJS.CpuUsage) => answered(usage),
  });
  const peersCpu = (): Promise<NodeJS.CpuUsage> => {
    const { promise, resolve } = Promise.withResolvers<NodeJS.CpuUsage>();
    answered = resolve;
    child.send("cpu");
    return promise;
  };
  let clients: readonly SwarmClient[] = [];
  try {
    // The watchdogs are up before anybody asks them.
    await peersCpu();
    const config = swarmConfig(size);
    clients = await startClients(config);
    const names = config.servers.map(({ name }) => name);
    for (const name of names) await everywhere(clients, name, "up 100", START_LIMIT_MS);
    const before = [process.cpuUsage(), await peersCpu()] as const;
    await Bun.sleep(options.seconds * 1000);
    const own = process.cpuUsage();
    const theirs = await peersCpu();
    const tookMs: number[] = [];
    for (let index = 0; index < options.changes; index++) {
      const name = names[Math.floor(index / 2) % names.length] ?? "";
      const fence = index % 2 === 0;
      child.send(fence ? { fence: name } : { open: name });
      tookMs.push(await everywhere(clients, name, fence ? "out" : "up 100", CHANGE_LIMIT_MS));
    }
    return {
      tookMs: tookMs.sort((a, b) => a - b),
      reportsPerS: (size.servers * size.clients * 1000) / size.reportIntervalMs,
      clientsCpu: used(before[0], own) / options.seconds,
      serversCpu: used(before[1], theirs) / options.seconds,
    };
  } finally {
    child.kill("SIGKILL");
    await child.exited;
    await Promise.all(clients.map((client) => client.stop()));
  }
}

/** CPU seconds between two readings, which are in microseconds. */
function used(before: NodeJS.CpuUsage, after: NodeJS.CpuUsage): number {
  return (after.user - before.user + after.system - before.system) / 1e6;
}

/** How long it took until every table showed that. @throws Error if one does not in time */
async function everywhere(
  clients: readonly SwarmClient[],
  name: string,
  word: string,
  limitMs: number,
): Promise<number> {
  const startedAt = performance.now();
  while (!clients.every((client) => client.word(name) === word)) {
    if (performance.now() - startedAt > limitMs) {
      const wrong = clients.filter((client) => client.word(name) !== word).length;
      throw new Error(`${name} is not ${word} in ${wrong} of ${clients.length} tables`);
    }
    await Bun.sleep(1);
  }
  return performance.now() - startedAt;
}
