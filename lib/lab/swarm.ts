/**
 * Many parties on loopback with real messages: watchdogs that have no mariadbd and say what they are
 * told to, and client minders whose balancers are tables in memory. For measuring what a large
 * cluster's reports cost and how soon a change is right everywhere.
 */
import {
  type ClusterConfig,
  checkClusterConfig,
  type DbClientConfig,
  type DbServerConfig,
} from "../cluster_config.ts";
import type { CommonEffect, CommonEvent, Millis, Step } from "../core/core.ts";
import {
  type DbClientEffect,
  type DbClientEvent,
  type DbClientState,
  describe,
  dueAt,
  initial,
  step,
} from "../core/dbclient.ts";
import type { Placed, Target } from "../core/dbclient_policy.ts";
import { clientsInTurn } from "../core/dbserver_report.ts";
import { type Balancer, startReconciler, type Table } from "../effects/balancer.ts";
import { MinderError } from "../errors.ts";
import { createLog, type Log } from "../log.ts";
import type { Member, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { type Party, startParty } from "../run/party.ts";
import { systemClock } from "../wakeup.ts";

/** The port of every party; each has an address of its own. */
const PORT = 4571;
const STATE_UUID = "5a5a5a5a-0000-4000-8000-000000000001";

/** A config of so many servers, half in each data centre, and client minders. @throws MinderError */
export function swarmConfig(options: {
  readonly servers: number;
  readonly clients: number;
  readonly reportIntervalMs: number;
}): ClusterConfig {
  const { servers, clients, reportIntervalMs } = options;
  const address = (net: number, index: number): string => `127.${net}.${index >> 8}.${index & 255}`;
  const result = checkClusterConfig({
    version: 1,
    cluster: { name: "swarm", primary_segment: "dc1" },
    timing: {
      report_interval_ms: reportIntervalMs,
      lease_ms: Math.max(3000, 3 * reportIntervalMs),
      suspect_ms: Math.max(2000, 3 * reportIntervalMs),
      order_max_age_ms: Math.max(5000, reportIntervalMs),
    },
    arbitrator: [{ serial: 1, host: "127.70.0.1", port: PORT }],
    dbserver: Array.from({ length: servers }, (_, index) => ({
      serial: index + 1,
      name: `db${index + 1}`,
      segment: index < servers / 2 ? "dc1" : "dc2",
      host: address(71, index + 1),
      port: PORT,
    })),
    dbclient: Array.from({ length: clients }, (_, index) => ({
      serial: index + 1,
      host: address(72, index + 1),
      port: PORT,
      policy: "spread",
      balancer: { socket: "/nowhere" },
    })),
  });
  if (result.ok) return result.config;
  throw new MinderError(`No such swarm: ${result.problems.map(({ text }) => text).join("; ")}`);
}

/** Says nothing but what goes wrong. */
function quiet(node: PartyId): Log {
  const wall = systemClock().wall;
  return createLog({
    role: "swarm",
    node,
    wall,
    level: "error",
    sink: (line) => console.error(line),
  });
}

// Watchdogs

interface PeerState {
  readonly report: Report;
  readonly dueAt: Millis;
}
type PeerEvent =
  | CommonEvent<"dbserver">
  | { readonly on: "change"; readonly changes: Partial<Report> }
  /** Begins to report, after so long. */
  | { readonly on: "begin"; readonly afterMs: Millis };
type PeerEffect = CommonEffect<"dbserver">;

/** A watchdog without a mariadbd. */
export interface Peer {
  /** Reports by itself from then on; until then it only answers. */
  begin(afterMs: Millis): void;
  /** Reports differently from now on, and at once. */
  change(changes: Partial<Report>): void;
  stop(): Promise<void>;
}

/** Whom one of several processes plays: every `of`th, beginning with the `part`th. */
export interface Share {
  readonly part: number;
  readonly of: number;
}

/** Starts this process's share of the watchdogs. */
export function startPeers(config: ClusterConfig, share: Share): ReadonlyMap<string, Peer> {
  const members: readonly Member[] = config.servers.map(({ name, serial }) => ({
    name,
    uuid: `00000000-0000-4000-8000-${String(serial).padStart(12, "0")}`,
  }));
  const fingerprint = `${STATE_UUID}/P/${members.map(({ uuid }) => uuid).join("+")}`;
  const clock = systemClock();
  return new Map(
    config.servers.flatMap((server, index): (readonly [string, Peer])[] => {
      if (index % share.of !== share.part) return [];
      const party = startParty<PeerState, PeerEvent, PeerEffect>({
        config,
        self: server.id,
        listen: server,
        controlSocket: null,
        core: {
          step: (state, event, now) => stepPeer(config, state, event, now),
          dueAt: ({ dueAt: at }) => at,
        },
        initial: {
          report: reportOf(config, { members: [...members], fingerprint, url: urlOf(server) }),
          dueAt: Number.POSITIVE_INFINITY,
        },
        perform: async () => null,
        failed: () => null,
        phaseOf: ({ report }) => ({ phase: report.fenced ? "fenced" : "serving", because: "" }),
        status: ({ report }) => ({ report }),
        clock,
        log: quiet(server.id),
      });
      const change = (changes: Partial<Report>): void => party.loop.tell({ on: "change", changes });
      const begin = (afterMs: Millis): void => party.loop.tell({ on: "begin", afterMs });
      return [[server.name, { begin, change, stop: () => party.stop() }]];
    }),
  );
}

function stepPeer(
  config: ClusterConfig,
  state: PeerState,
  event: PeerEvent,
  now: Millis,
): Step<PeerState, PeerEffect> {
  if (event.on === "message" && event.body.verb === "request_status") {
    const body = { verb: "db_status_report", parameters: state.report } as const;
    return { state, effects: [{ do: "reply", ticket: event.ticket, body }] };
  }
  if (event.on === "begin") return { state: { ...state, dueAt: now + event.afterMs }, effects: [] };
  const changes = event.on === "change" ? event.changes : null;
  if (changes === null && now < state.dueAt) return { state, effects: [] };
  const number = state.report.reportNumber + 1;
  const report: Report = { ...state.report, ...changes, reportNumber: number };
  return {
    state: { report, dueAt: now + config.timing.reportIntervalMs },
    effects: clientsInTurn(config, changes === null ? number : "all").map(({ id }) => ({
      do: "send",
      to: id,
      body: { verb: "db_status_report", parameters: report },
      expiresMs: Number.POSITIVE_INFINITY,
    })),
  };
}

function urlOf({ host, port }: DbServerConfig): string {
  return `http://${host}:${port}`;
}

function reportOf(
  config: ClusterConfig,
  view: Pick<Report, "members" | "fingerprint" | "url">,
): Report {
  return {
    ...view,
    reportNumber: 0,
    running: "up",
    serving: "on",
    primary: "yes",
    group: "complete",
    stateUuid: STATE_UUID,
    lastCommitted: 1,
    localState: "Synced",
    evsState: "OPERATIONAL",
    weight: 1,
    flowControl: 0,
    fenced: false,
    draining: false,
    yielding: false,
    cutting: false,
    leaving: false,
    position: null,
    safeToBootstrap: false,
    storeId: null,
    epochSeen: 0,
    epochServed: 0,
    lastPrimary: null,
    primarySegment: config.primarySegment,
    probe: "flowing",
    gcommUuid: null,
    ended: null,
    silent: [],
    writers: 0,
    guard: false,
    diverged: false,
    pollAgeMs: 0,
    versions: { server: "", provider: "", minder: "" },
    because: "",
  };
}

// Client minders

/** Called as a table's entry changes. */
export type OnWord = (server: string, word: string) => void;

/** A balancer that is a table in memory. */
class MemoryBalancer implements Balancer {
  readonly description = "a table in memory";
  readonly cut = null;
  readonly words = new Map<string, string>();
  readonly #onWord: OnWord;

  constructor(onWord: OnWord) {
    this.#onWord = onWord;
  }

  word(place: Placed["place"]): string {
    return place.as === "up" ? `up ${place.weight}` : place.as;
  }

  async read(target: Target): Promise<Table> {
    const servers = target.map(({ name }) => {
      return { name, word: this.words.get(name) ?? "absent", sessions: 0, held: false };
    });
    return { instance: "1", servers, oddities: [], strays: [] };
  }

  async apply(places: readonly Placed[]): Promise<null> {
    for (const { name, place } of places) {
      this.words.set(name, this.word(place));
      this.#onWord(name, this.word(place));
    }
    return null;
  }
}

/** A client minder whose table can be looked at. */
export interface SwarmClient {
  /** How its balancer has that server; absent until the first pass. */
  readonly word: (server: string) => string | undefined;
  stop(): Promise<void>;
}

/** A client minder is awaited for so long before the next one starts. */
const START_WAIT_MS = 1_000;

/**
 * Starts this process's share of the client minders, each when the one before it has its table: nobody
 * starts all hosts of a company at one instant, and one machine that plays them all could not.
 */
export async function startClients(
  config: ClusterConfig,
  share: Share,
  onWord: (client: PartyId) => OnWord,
): Promise<readonly SwarmClient[]> {
  const clients: SwarmClient[] = [];
  for (const [index, client] of config.clients.entries()) {
    if (index % share.of !== share.part) continue;
    const started = startClient(config, client, onWord(client.id));
    clients.push(started);
    const knowsAll = (): boolean =>
      config.servers.every(({ name }) => started.word(name) !== undefined);
    const deadline = performance.now() + START_WAIT_MS;
    while (!knowsAll() && performance.now() < deadline) await Bun.sleep(2);
  }
  return clients;
}

function startClient(config: ClusterConfig, client: DbClientConfig, onWord: OnWord): SwarmClient {
  const clock = systemClock();
  const balancer = new MemoryBalancer(onWord);
  const reconciler = startReconciler({
    balancer,
    passTimeoutMs: 2000,
    now: clock.now,
    onApplied: (result) => party.loop.tell({ on: "applied", result }),
  });
  const party: Party<DbClientState, DbClientEvent, DbClientEffect> = startParty<
    DbClientState,
    DbClientEvent,
    DbClientEffect
  >({
    config,
    self: client.id,
    listen: client,
    controlSocket: null,
    core: { step, dueAt },
    initial: initial(config, client.id, clock.now()),
    async perform(effect) {
      if (effect.do === "reconcile") reconciler.want(effect.target, effect.cut);
      return null;
    },
    failed: () => null,
    phaseOf: (state) => ({ phase: state.target === null ? "waiting" : "steering", because: "" }),
    status: (state, now) => describe(state, now),
    clock,
    log: quiet(client.id),
  });
  return {
    word: (server) => balancer.words.get(server),
    async stop() {
      await party.stop();
      await reconciler.stop();
    },
  };
}
