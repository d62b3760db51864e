/**
 * Measures a swarm: how soon a change is right in each table, and what the reports cost in calm. The
 * parties are spread over several processes, as they are over hosts in life; this one orders, and
 * lays their times side by side.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeSecretFile } from "../effects/secrets.ts";
import { MinderError } from "../errors.ts";
import { until } from "./exec.ts";
import { wallMs } from "./journal.ts";
import { type Share, startClients, startPeers, swarmConfig } from "./swarm.ts";

export interface SwarmSize {
  readonly servers: number;
  readonly clients: number;
  readonly reportIntervalMs: number;
}

export interface SwarmMeasured {
  /** From the order to a table being right, for each table and change, ascending. */
  readonly tableMs: readonly number[];
  /** From the order to the last table being right, for each change, ascending. */
  readonly everywhereMs: readonly number[];
  /** CPU of one party in calm, as a part of one core. */
  readonly clientCpu: number;
  readonly serverCpu: number;
}

export const PLAYS = ["servers", "clients"] as const;
/** What a process plays. */
export type Play = (typeof PLAYS)[number];

/** What a process of players is told. */
type Order =
  /** Report that server as fenced, or no longer so. */
  | { readonly fence: string; readonly on: boolean }
  /** Begin to report: one server after the other, each so long after the one before it. */
  | { readonly beginMs: number }
  | { readonly cpu: true };

/** What it says. */
type Word =
  | { readonly ready: true }
  | { readonly cpu: NodeJS.CpuUsage }
  | {
      readonly client: string;
      readonly server: string;
      readonly word: string;
      readonly atMs: number;
    };

const START_LIMIT_MS = 120_000;
const CHANGE_LIMIT_MS = 10_000;
/** Nobody starts all watchdogs of a company at one instant. */
const BEGIN_MS = 60;
/** Programs that run for weeks are measured when the runtime has compiled them. */
const SETTLE_MS = 10_000;
/** Between two changes: each is measured by itself. */
const CHANGE_PAUSE_MS = 100;

/** Plays a share of the parties and obeys the parent process, until that goes away. */
export async function play(what: Play, size: SwarmSize, share: Share): Promise<void> {
  const config = swarmConfig(size);
  const { promise: left, resolve: leave } = Promise.withResolvers<void>();
  const say = (word: Word): void => void process.send?.(word);
  process.on("disconnect", leave);
  if (what === "servers") {
    const peers = startPeers(config, share);
    process.on("message", (order: Order) => {
      if ("cpu" in order) say({ cpu: process.cpuUsage() });
      else if ("fence" in order) peers.get(order.fence)?.change({ fenced: order.on });
      else {
        for (const [index, { name }] of config.servers.entries()) {
          peers.get(name)?.begin(index * order.beginMs);
        }
      }
    });
  } else {
    process.on("message", (order: Order) => {
      if ("cpu" in order) say({ cpu: process.cpuUsage() });
    });
    await startClients(config, share, (client) => (server, word) => {
      say({ client, server, word, atMs: wallMs() });
    });
  }
  say({ ready: true });
  await left;
  // Its parties have nobody left to talk to.
  process.exit(0);
}

/** Starts the players, waits for calm, counts what that costs, then changes one server after another. */
export async function measureSwarm(
  size: SwarmSize,
  options: {
    /** Makes a process that calls play(). */
    readonly command: (what: Play, share: Share) => readonly string[];
    /** Processes that play watchdogs, and as many that play client minders. */
    readonly processes: number;
    readonly changes: number;
    readonly seconds: number;
    readonly say: (line: string) => void;
  },
): Promise<SwarmMeasured> {
  const { processes, changes, seconds } = options;
  const { servers } = swarmConfig(size);
  const tables = new Tables();
  const folder = mkdtempSync(join(tmpdir(), "galera-minder-swarm-"));
  // Signed, as messages are in life.
  const secret = join(folder, "node.secret");
  writeSecretFile(secret);
  const players = { servers: [] as Player[], clients: [] as Player[] };
  const start = (what: Play): void => {
    for (let part = 0; part < processes; part++) {
      players[what].push(
        new Player(options.command(what, { part, of: processes }), secret, tables),
      );
    }
  };
  const cpu = async (what: Play): Promise<number> => {
    const all = await Promise.all(players[what].map((player) => player.cpuMicros()));
    return all.reduce((sum, one) => sum + one, 0);
  };
  try {
    const startedAt = wallMs();
    for (const what of PLAYS) {
      start(what);
      await Promise.all(players[what].map((player) => player.ready()));
    }
    await until(
      "every table is right",
      () => servers.every(({ name }) => tables.count(name, "up 100") === size.clients),
      { timeoutMs: START_LIMIT_MS, pauseMs: 50 },
    );
    options.say(`started within ${((wallMs() - startedAt) / 1000).toFixed(1)} s`);
    for (const player of players.servers) player.tell({ beginMs: BEGIN_MS });
    await Bun.sleep(servers.length * BEGIN_MS + SETTLE_MS);
    const before = { servers: await cpu("servers"), clients: await cpu("clients") };
    await Bun.sleep(seconds * 1000);
    const serverCpu = ((await cpu("servers")) - before.servers) / (1e6 * seconds * size.servers);
    const clientCpu = ((await cpu("clients")) - before.clients) / (1e6 * seconds * size.clients);

    const tableMs: number[] = [];
    const everywhereMs: number[] = [];
    for (let index = 0; index < changes; index++) {
      // Each server is fenced, and opened again with the next change.
      const at = Math.floor(index / 2) % servers.length;
      const name = servers[at]?.name ?? "";
      const on = index % 2 === 0;
      const fromMs = wallMs();
      players.servers[at % processes]?.tell({ fence: name, on });
      const word = on ? "out" : "up 100";
      try {
        await until("the last table is right", () => tables.count(name, word) === size.clients, {
          timeoutMs: CHANGE_LIMIT_MS,
          pauseMs: 5,
        });
      } catch (cause) {
        const right = tables.count(name, word);
        throw new MinderError(`${name} is ${word} in ${right} of ${size.clients} tables only`, {
          hint: "Is the machine busy with something else?",
          cause,
        });
      }
      const took = tables.times(name).map((atMs) => atMs - fromMs);
      tableMs.push(...took);
      everywhereMs.push(Math.max(...took));
      await Bun.sleep(CHANGE_PAUSE_MS);
    }
    const ascending = (a: number, b: number): number => a - b;
    return {
      tableMs: tableMs.sort(ascending),
      everywhereMs: everywhereMs.sort(ascending),
      clientCpu,
      serverCpu,
    };
  } finally {
    await Promise.all([...players.servers, ...players.clients].map((player) => player.end()));
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The newest word of every table about every server. */
class Tables {
  readonly #shown = new Map<
    string,
    Map<string, { readonly word: string; readonly atMs: number }>
  >();

  set(server: string, client: string, word: string, atMs: number): void {
    const shown = this.#shown.get(server) ?? new Map();
    this.#shown.set(server, shown.set(client, { word, atMs }));
  }

  count(server: string, word: string): number {
    let count = 0;
    for (const shown of this.#shown.get(server)?.values() ?? []) if (shown.word === word) count++;
    return count;
  }

  /** When each table came to its newest word. */
  times(server: string): readonly number[] {
    return [...(this.#shown.get(server)?.values() ?? [])].map(({ atMs }) => atMs);
  }
}

/** A process of players, as its parent sees it. */
class Player {
  readonly #child: Bun.Subprocess;
  readonly #ready = Promise.withResolvers<void>();
  #cpu: (usage: NodeJS.CpuUsage) => void = () => undefined;

  constructor(command: readonly string[], secret: string, tables: Tables) {
    this.#child = Bun.spawn([...command], {
      stdio: ["ignore", "inherit", "inherit"],
      env: { ...process.env, GM_SECRET_FILE: secret },
      ipc: (word: Word) => {
        if ("ready" in word) this.#ready.resolve();
        else if ("cpu" in word) this.#cpu(word.cpu);
        else tables.set(word.server, word.client, word.word, word.atMs);
      },
      onExit: () => this.#ready.reject(new MinderError("A process of players has ended")),
    });
    // Whoever does not wait for it any more has been told by another one's end.
    this.#ready.promise.catch(() => undefined);
  }

  ready(): Promise<void> {
    return this.#ready.promise;
  }

  tell(order: Order): void {
    this.#child.send(order);
  }

  async cpuMicros(): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<NodeJS.CpuUsage>();
    this.#cpu = resolve;
    this.tell({ cpu: true });
    const { user, system } = await promise;
    return user + system;
  }

  async end(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }
}
