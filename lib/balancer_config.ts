/**
 * Configurations for the balancers that client minders steer, and for HAProxy without a minder.
 * Pure text. What they share: a balancer that starts without its minder must be as right as a table
 * can be that knows nothing yet, so under `single-writer` only the first server takes connections.
 */
import type { ClusterConfig, DbClientConfig, DbServerConfig } from "./cluster_config.ts";
import { weightFor } from "./core/dbclient_policy.ts";
import { MinderError } from "./errors.ts";
import type { PartyId } from "./message/envelope.ts";

export interface BalancerConfigOptions {
  /** Whose balancer; null for the only client, or for one that the config does not name. */
  readonly client: PartyId | null;
  /** Where applications connect, host:port. */
  readonly listen: string;
  /** A client minder steers it; otherwise it asks the watchdogs' health endpoints by itself. */
  readonly minded: "yes" | "no";
}

type Client = Omit<DbClientConfig, "id" | "serial" | "host" | "port">;

/** For a balancer that the config does not name. */
const NOBODY: Client = {
  segment: null,
  policy: "single-writer",
  balancer: { kind: "haproxy", socket: "/run/haproxy/admin.sock", backend: "galera" },
};

/** Ports of the health endpoints where the config names none. */
const HEALTH_PORT = 9200;
const AGENT_PORT = 9201;

function clientFor(config: ClusterConfig, { client, minded }: BalancerConfigOptions): Client {
  const found =
    client === null && config.clients.length === 1
      ? config.clients[0]
      : config.clients.find(({ id }) => id === client);
  if (found !== undefined) return found;
  if (client === null && (minded === "no" || config.clients.length === 0)) return NOBODY;
  throw new MinderError(client === null ? "Which client's balancer?" : `There is no ${client}`, {
    hint: `Clients of ${config.name}: ${config.clients.map(({ id }) => id).join(", ") || "none"}`,
  });
}

/** The servers as their policy ranks them while all serve. */
function inOrder(config: ClusterConfig, client: Client): readonly DbServerConfig[] {
  const first = client.policy === "local-first" ? client.segment : config.primarySegment;
  return [
    ...config.servers.filter(({ segment }) => segment === first),
    ...config.servers.filter(({ segment }) => segment !== first),
  ];
}

/** Gets connections before anybody has judged. */
function servesAtStart(client: Client, server: DbServerConfig, index: number): boolean {
  if (client.policy === "single-writer") return index === 0;
  if (client.policy === "local-first" && client.segment !== null) {
    return server.segment === client.segment;
  }
  return true;
}

/** A whole haproxy.cfg. @throws MinderError if it is not clear for which client */
export function haproxyConfig(config: ClusterConfig, options: BalancerConfigOptions): string {
  const client = clientFor(config, options);
  const { socket, backend } = client.balancer;
  const bind = socket.startsWith("/") ? `${socket} mode 660` : `ipv4@${socket}`;
  const servers = inOrder(config, client);
  const words = options.minded === "yes" ? mindedServer : unmindedServer;
  return `${[
    `# HAProxy for cluster ${config.name}, policy ${client.policy}, ${options.minded === "yes" ? "steered by a client minder" : "without a client minder"}.`,
    "global",
    "    # The client minder sets weights and states here, which needs level admin.",
    `    stats socket ${bind} level admin expose-fd listeners`,
    "    stats timeout 30s",
    "",
    "defaults",
    "    mode tcp",
    "    # A server that refuses is left for the one that serves then. HAProxy waits timeout connect",
    "    # (at most 1s) before it tries again: short, since the minder needs milliseconds.",
    "    option redispatch 1",
    "    retries 3",
    "    timeout connect 250ms",
    "    timeout check 1s",
    "    # MariaDB's own wait_timeout is 8 hours: sessions are not ended in between.",
    "    timeout client 8h",
    "    timeout server 8h",
    "    option clitcpka",
    "    option srvtcpka",
    "",
    "frontend mariadb",
    `    bind ${options.listen}`,
    `    default_backend ${backend}`,
    "",
    `backend ${backend}`,
    "    balance leastconn",
    "    # A name that cannot be looked up must not keep HAProxy from starting.",
    "    default-server init-addr last,libc,none",
    ...(options.minded === "yes" ? mindedBackend(client) : unmindedBackend(client)),
    ...servers.map((server, index) => {
      const standby = !servesAtStart(client, server, index);
      const common = `server ${server.name} ${address(server)} weight ${weightFor(client, server)}`;
      return `    ${common}${words(client, server, standby)}`;
    }),
  ].join("\n")}\n`;
}

function mindedBackend({ policy }: Client): readonly string[] {
  return [
    "    # No checks: the minder's word comes sooner, and a check of a watchdog would take out a",
    "    # server whose watchdog alone is down.",
    ...(policy === "spread"
      ? []
      : ["    # backup: until the minder has spoken after a start, these wait."]),
  ];
}

function mindedServer(_: Client, __: DbServerConfig, standby: boolean): string {
  return standby ? " backup" : "";
}

function unmindedBackend({ policy }: Client): readonly string[] {
  const path = policy === "single-writer" ? "/primary" : "/";
  return [
    `    option httpchk GET ${path}`,
    "    http-check expect status 200",
    "    default-server inter 1s fastinter 200ms downinter 500ms fall 2 rise 2",
  ];
}

function unmindedServer(client: Client, server: DbServerConfig, standby: boolean): string {
  const check = ` check port ${server.healthPort || HEALTH_PORT}`;
  // Exactly one server answers /primary with 200: who stands by is already decided there.
  if (client.policy === "single-writer") return check;
  const agent = ` agent-check agent-port ${server.agentPort || AGENT_PORT} agent-inter 1s`;
  return `${check}${agent}${standby ? " backup" : ""}`;
}

function address({ host, mysqlPort }: DbServerConfig): string {
  return host.includes(":") ? `[${host}]:${mysqlPort}` : `${host}:${mysqlPort}`;
}

/** The command that starts glbd, with its reasons. @throws MinderError if it cannot work */
export function glbdCommand(config: ClusterConfig, options: BalancerConfigOptions): string {
  if (options.minded === "no") {
    throw new MinderError("glbd without a client minder has no way to ask the watchdogs", {
      hint: "Its own watchdog scripts lose destinations: use a minder, or HAProxy.",
    });
  }
  const client = clientFor(config, options);
  const control = client.balancer.kind === "glbd" ? client.balancer.socket : "127.0.0.1:4444";
  const servers = inOrder(config, client);
  const named = servers.filter(({ host }) => !/^\d+(\.\d+){3}$/.test(host));
  if (named.length > 0) {
    throw new MinderError(`glbd needs numeric IPv4 addresses, ${named[0]?.name} has none`, {
      hint: "It looks names up while every control client waits. Write addresses into the config.",
    });
  }
  return `${[
    `# glbd for cluster ${config.name}, policy ${client.policy}, steered by a client minder.`,
    "# --linger: without it glbd cannot start again for a minute after it was stopped under load.",
    "# No --watchdog: it would own the weights. No -d as root: the FIFO would stay behind and bar the",
    "# next start. The table is what holds until the minder has spoken after a start.",
    "rm -f /run/glbd.fifo",
    [
      "exec glbd",
      `--control ${control}`,
      "--fifo /run/glbd.fifo",
      "--linger",
      "--threads 4",
      ...(client.policy === "single-writer" ? ["--single"] : []),
      options.listen,
      ...servers.map((server, index) => {
        const weight = servesAtStart(client, server, index) ? weightFor(client, server) : 0;
        return `${server.host}:${server.mysqlPort}:${weight}`;
      }),
    ].join(" \\\n  "),
  ].join("\n")}\n`;
}
