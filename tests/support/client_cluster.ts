/** A cluster of two data centres with one client, as plain values for the tests of the client side. */
import type { ClusterConfig, DbClientConfig, DbServerConfig } from "../../lib/cluster_config.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import type { PartyId } from "../../lib/message/envelope.ts";

export const STATE_UUID = "11111111-2222-3333-4444-555555555555";

/** What a test may set about the cluster. */
export interface ClientClusterOptions {
  /** Names by segment; the first segment is the primary one. @default dc1: a1 a2, dc2: b1 b2 */
  readonly segments?: Readonly<Record<string, readonly string[]>>;
  readonly client?: Partial<DbClientConfig>;
  /** Address by server name. @default 127.0.0.1, 3306 */
  readonly addresses?: Readonly<Record<string, { host: string; port: number }>>;
}

/** A ClusterConfig with client dbclient.1, single-writer on HAProxy unless told otherwise. */
export function clientCluster(options: ClientClusterOptions = {}): ClusterConfig {
  const segments = options.segments ?? { dc1: ["a1", "a2"], dc2: ["b1", "b2"] };
  const servers: DbServerConfig[] = [];
  for (const [segment, names] of Object.entries(segments)) {
    for (const name of names) {
      const serial = servers.length + 1;
      const address = options.addresses?.[name] ?? { host: "127.0.0.1", port: 3306 };
      servers.push({
        id: `dbserver.${serial}`,
        serial,
        name,
        segment,
        host: address.host,
        port: 4400 + serial,
        mysqlPort: address.port,
        weight: 1,
        mysqlSocket: null,
        datadir: `/nowhere/${name}`,
        mariadbd: null,
        stateDir: `/nowhere/${name}.state`,
      });
    }
  }
  const client: DbClientConfig = {
    id: "dbclient.1",
    serial: 1,
    segment: Object.keys(segments)[0] ?? null,
    host: "127.0.0.1",
    port: 4500,
    policy: "single-writer",
    balancer: { kind: "haproxy", socket: "/nowhere/haproxy.sock", backend: "galera" },
    ...options.client,
  };
  return {
    version: 1,
    name: "test",
    primarySegment: Object.keys(segments)[0] ?? "",
    onDoubleFault: "stay",
    evict: "off",
    timing: {
      reportIntervalMs: 500,
      pollIntervalMs: 500,
      pollFastMs: 50,
      pollTimeoutMs: 1000,
      probeIntervalMs: 500,
      probeTimeoutMs: 1000,
      leaseMs: 3000,
      fenceMs: 1000,
      marginMs: 500,
      ackTimeoutMs: 1000,
      resendMs: 3000,
      suspectMs: 2000,
      orderMaxAgeMs: 5000,
      promotionWindowMs: 3_600_000,
      evictPeriodMs: 200,
      galeraSuspectMs: 5000,
      reconcileIntervalMs: 2000,
    },
    database: { user: "minder", passwordFile: null },
    security: { secretFile: null, operatorFile: null, unsigned: false, tls: null },
    arbitrators: [],
    servers,
    clients: [client],
    segments: Object.keys(segments).map((name) => {
      const own = servers.filter((server) => server.segment === name);
      return { name, servers: own, weight: own.length, heavy: 2 * own.length > servers.length };
    }),
    outwaitMs: 4500,
    serverById: new Map(servers.map((server) => [server.id, server])),
    serverByName: new Map(servers.map((server) => [server.name, server])),
    urlById: new Map(servers.map(({ id, host, port }) => [id, `http://${host}:${port}`])),
    warnings: [],
  };
}

/** UUID of a member by its place in the config. */
export function memberUuid(serial: number): string {
  return `00000000-0000-0000-0000-${String(serial).padStart(12, "0")}`;
}

/** The report of a server that serves in a view of the named members (all, unless told). */
export function servingReport(
  config: ClusterConfig,
  changes: Partial<Report> = {},
  names: readonly string[] = config.servers.map(({ name }) => name),
): Report {
  const members = config.servers
    .filter(({ name }) => names.includes(name))
    .map(({ name, serial }) => ({ name, uuid: memberUuid(serial) }));
  return {
    reportNumber: 1,
    url: "http://127.0.0.1:4401",
    running: "up",
    serving: "on",
    primary: "yes",
    group: "complete",
    fingerprint: `${STATE_UUID}/P/${members.map(({ uuid }) => uuid).join("+")}`,
    members,
    stateUuid: STATE_UUID,
    lastCommitted: 100,
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
    primarySegment: null,
    probe: "flowing",
    gcommUuid: null,
    ended: null,
    silent: [],
    writers: 0,
    guard: false,
    diverged: false,
    pollAgeMs: 0,
    versions: { server: "10.11.19", provider: "26.4.23", minder: "0.1.0" },
    because: "",
    ...changes,
  };
}

/** Party id of a server by its name. */
export function idOf(config: ClusterConfig, name: string): PartyId {
  const server = config.serverByName.get(name);
  if (server === undefined) throw new Error(`no server ${name}`);
  return server.id;
}
