/**
 * The checked, frozen description of the cluster. A plain value goes in (parsed TOML or JSON), a
 * ClusterConfig comes out with everything that can be derived from it; nothing else reads config.
 */
import type { PartyId } from "./message/envelope.ts";

/** Durations in milliseconds; see config/cluster.example.toml for each one's reason. */
export interface Timing {
  /** @default 500 */
  readonly reportIntervalMs: number;
  /** @default 500 */
  readonly pollIntervalMs: number;
  /** Poll interval while anything is uncertain. @default 50 */
  readonly pollFastMs: number;
  /** Hard limit of one poll. @default 1000 */
  readonly pollTimeoutMs: number;
  /** @default 500 */
  readonly probeIntervalMs: number;
  /** A write that takes longer hangs. @default 1000 */
  readonly probeTimeoutMs: number;
  /** @default 3000 */
  readonly leaseMs: number;
  /** @default 1000 */
  readonly fenceMs: number;
  /** @default 500 */
  readonly marginMs: number;
  /** @default 1000 */
  readonly ackTimeoutMs: number;
  /** @default 3000 */
  readonly resendMs: number;
  /** Unheard for so long counts as silent. @default 2000 */
  readonly suspectMs: number;
  /** An order quoting a report older than this is refused. @default 5000 */
  readonly orderMaxAgeMs: number;
  /** A second automatic change of segment within this needs an acknowledgement. @default 3600000 */
  readonly promotionWindowMs: number;
  /** The servers' evs.suspect_timeout, for warnings and expectations only. @default 5000 */
  readonly galeraSuspectMs: number;
  /** Full pass of a client's reconciler. @default 2000 */
  readonly reconcileIntervalMs: number;
}

export interface ArbitratorConfig {
  readonly id: PartyId;
  readonly serial: number;
  readonly host: string;
  readonly port: number;
  readonly stateDir: string;
}

/** One mariadbd and its watchdog. */
export interface DbServerConfig {
  readonly id: PartyId;
  readonly serial: number;
  /** wsrep_node_name. */
  readonly name: string;
  readonly segment: string;
  /** Address at which watchdog and clients reach the server, numeric or a name. */
  readonly host: string;
  /** Of the watchdog. */
  readonly port: number;
  /** Of mariadbd. */
  readonly mysqlPort: number;
  /** pc.weight that the server should have in calm. */
  readonly weight: number;
  /** Unix socket for the watchdog's own connection; null means host and port. */
  readonly mysqlSocket: string | null;
  readonly datadir: string;
  /** Command line that runs mariadbd in the foreground; null where another manager runs it. */
  readonly mariadbd: readonly string[] | null;
  readonly stateDir: string;
}

export interface DbClientConfig {
  readonly id: PartyId;
  readonly serial: number;
  /** The segment it is near to; null if none. */
  readonly segment: string | null;
  readonly host: string;
  readonly port: number;
  readonly policy: "single-writer" | "local-first" | "spread";
  /** Weight 1 to 100 of a server or a segment, by name; the server's own comes first. @default 100 each */
  readonly weights?: Readonly<Record<string, number>>;
  /** Sessions of a drained server are cut after so long. @default never */
  readonly drainCutMs?: number;
  readonly balancer: {
    readonly kind: "haproxy" | "glbd";
    /** Unix socket path or host:port of the control socket. */
    readonly socket: string;
    /** HAProxy backend; server names in it are the servers' names. */
    readonly backend: string;
  };
}

export interface SegmentConfig {
  readonly name: string;
  readonly servers: readonly DbServerConfig[];
  /** Sum of the servers' weights. */
  readonly weight: number;
  /** Over half of all weight: its safety rests on timers. */
  readonly heavy: boolean;
}

export interface ClusterConfig {
  readonly version: number;
  readonly name: string;
  /** The configured primary data centre. */
  readonly primarySegment: string;
  readonly onDoubleFault: "stay" | "fence";
  readonly evict: "off" | "confirmed" | "full";
  readonly timing: Timing;
  readonly database: { readonly user: string; readonly passwordFile: string | null };
  readonly arbitrators: readonly ArbitratorConfig[];
  readonly servers: readonly DbServerConfig[];
  readonly clients: readonly DbClientConfig[];

  /** Derived: the two data segments, the primary one first. */
  readonly segments: readonly SegmentConfig[];
  /** Derived: how long a granter waits after its last promise: lease + fence + margin. */
  readonly outwaitMs: number;
  /** Derived: server by party id and by Galera node name. */
  readonly serverById: ReadonlyMap<string, DbServerConfig>;
  readonly serverByName: ReadonlyMap<string, DbServerConfig>;
  /** Derived: URL of each party that listens. */
  readonly urlById: ReadonlyMap<string, string>;
  /** What is allowed but unwise, in words. */
  readonly warnings: readonly string[];
}
