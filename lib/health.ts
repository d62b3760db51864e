/**
 * Health for balancers that no client minder steers: the HTTP answers that people already point
 * theirs at (clustercheck's, and the paths that Kubernetes and Patroni users know), and HAProxy's
 * agent-check with weights. Everything is answered from the watchdog's latest reports, never by a
 * query, so any number of checks costs mariadbd nothing; a report that is too old is a refusal.
 */
import { createServer, type Socket } from "node:net";
import { Hono } from "hono";
import type { ClusterConfig } from "./cluster_config.ts";
import type { Millis } from "./core/core.ts";
import {
  type Candidate,
  candidatesNow,
  type Heard,
  type Place,
  placeAll,
  succession,
} from "./core/dbclient_policy.ts";
import { type HttpServer, serveHttp } from "./effects/http_server.ts";
import { MinderError } from "./errors.ts";
import type { PartyId } from "./message/envelope.ts";

/** From where the answers come. */
export interface HealthView {
  readonly config: ClusterConfig;
  readonly self: PartyId;
  /** This server's latest report, and those that its watchdog has heard from the others. */
  readonly heard: ReadonlyMap<PartyId, Heard>;
}

export interface HealthOptions {
  readonly view: () => HealthView;
  /** The monotonic clock of `heardAt`. */
  readonly now: () => Millis;
}

/** What is so now. */
interface Health {
  /** Null if this server's own report is young enough to answer by. */
  readonly stale: string | null;
  readonly place: Place;
  readonly because: string;
  readonly self: Candidate;
  /** It is the one that takes the writes under `single-writer`. */
  readonly writes: boolean;
}

interface Answer {
  readonly ok: boolean;
  readonly words: string;
}

/** One row per path. None asks more of a balancer than to read the status. */
const ENDPOINTS: Readonly<Record<string, (health: Health) => Answer>> = {
  /** As clustercheck answers: may new connections come here, among all that serve. */
  "/": ({ place, because }) =>
    place.as === "up"
      ? { ok: true, words: "Galera Cluster Node is synced." }
      : { ok: false, words: `Galera Cluster Node is not synced. (${because})` },
  "/primary": ({ writes, because }) => ({ ok: writes, words: writes ? "writer" : because }),
  "/replica": ({ writes, place, because }) => ({
    ok: !writes && place.as === "up",
    words: writes ? "it is the writer" : because,
  }),
  /** Of this server alone, whatever the others could take instead. */
  "/readiness": ({ self }) => ({ ok: self.standing === "serving", words: self.because }),
  /** Of the watchdog, not of mariadbd: to restart it helps only if it has stopped watching. */
  "/liveness": () => ({ ok: true, words: "the watchdog watches" }),
};

function healthOf({ view, now }: HealthOptions): Health | null {
  const { config, self, heard } = view();
  const at = now();
  const candidates = candidatesNow(config, heard, at);
  const index = config.servers.findIndex(({ id }) => id === self);
  const candidate = candidates[index];
  const target = placeAll(config, { policy: "spread", segment: null }, candidates)[index];
  if (candidate === undefined || target === undefined) return null;
  const own = heard.get(self);
  const ageMs = own?.report == null ? null : at - own.heardAt + own.report.pollAgeMs;
  const isOld = ageMs === null || ageMs > config.timing.suspectMs;
  const [writer] = succession(config, candidates);
  return {
    stale: !isOld ? null : ageMs === null ? "nothing is known yet" : `${Math.round(ageMs)} ms old`,
    place: target.place,
    because: target.because,
    self: candidate,
    writes: writer?.server.id === self && target.place.as !== "out",
  };
}

/** The HTTP side, for any server that takes `fetch`. */
export function createHealthApp(options: HealthOptions): Hono {
  const app = new Hono();
  for (const [path, judge] of Object.entries(ENDPOINTS)) {
    // HEAD comes with GET; HAProxy's own default is OPTIONS.
    app.on(["GET", "OPTIONS"], path, () => respond(options, judge));
    app.all(path, () => text(405, "GET, HEAD or OPTIONS", { allow: "GET, HEAD, OPTIONS" }));
  }
  // A misspelled path must not pass for a healthy server.
  app.notFound(() => text(404, `known here: ${Object.keys(ENDPOINTS).join(" ")}`));
  return app;
}

function respond(options: HealthOptions, judge: (health: Health) => Answer): Response {
  const health = healthOf(options);
  if (health === null) return text(503, "this server is not in the config");
  if (health.stale !== null) return text(503, `no fresh report: ${health.stale}`);
  const { ok, words } = judge(health);
  return text(ok ? 200 : 503, words);
}

function text(status: number, words: string, headers: Record<string, string> = {}): Response {
  return new Response(`${words}\r\n`, {
    status,
    headers: { "content-type": "text/plain", connection: "close", ...headers },
  });
}

/**
 * The line for HAProxy's agent-check. No new connections is said as a weight of 0 %, which a later
 * weight undoes: the words drain and ready would also overrule what a person set at HAProxy.
 */
export function agentLine(options: HealthOptions): string {
  const health = healthOf(options);
  if (health === null) return "down #this server is not in the config\n";
  if (health.stale !== null) return `down #no fresh report: ${health.stale}\n`;
  switch (health.place.as) {
    case "up":
      return `up ${health.place.weight}%\n`;
    case "drain":
      return "up 0%\n";
    case "out":
      return `down #${health.because.replace(/[^\x20-\x7e]/g, " ")}\n`;
  }
}

/** Where to listen; a port of 0 takes a free one, null none at all. */
export interface HealthListen extends HealthOptions {
  readonly host: string;
  readonly httpPort: number | null;
  readonly agentPort: number | null;
}

export interface HealthServer {
  /** As they came to be; null where none was asked for. */
  readonly httpPort: number | null;
  readonly agentPort: number | null;
  stop(): Promise<void>;
}

const CONNECTIONS_MAX = 256;
const AGENT_TIMEOUT_MS = 1000;

/** Listens on both ports. @throws MinderError if a port is taken */
export async function startHealth(options: HealthListen): Promise<HealthServer> {
  const http = options.httpPort === null ? null : listenHttp(options, options.httpPort);
  try {
    const agent = options.agentPort === null ? null : await serveAgent(options, options.agentPort);
    return {
      httpPort: http?.port ?? null,
      agentPort: agent?.port ?? null,
      async stop() {
        http?.stop(true);
        await agent?.stop();
      },
    };
  } catch (error) {
    http?.stop(true);
    throw error;
  }
}

function listenHttp(options: HealthListen, port: number): HttpServer {
  const app = createHealthApp(options);
  try {
    return serveHttp({ hostname: options.host, port, fetch: (request) => app.fetch(request) });
  } catch (cause) {
    throw portError("health endpoints", options.host, port, cause);
  }
}

function portError(what: string, host: string, port: number, cause: unknown): MinderError {
  return new MinderError(`Cannot listen for ${what}`, {
    where: `${host}:${port}`,
    hint: "Is another clustercheck there? Set health_port or agent_port of this dbserver, or 0.",
    cause,
  });
}

interface AgentServer {
  readonly port: number;
  readonly stop: () => Promise<void>;
}

async function serveAgent(options: HealthListen, port: number): Promise<AgentServer> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.setTimeout(AGENT_TIMEOUT_MS, () => socket.destroy());
    // HAProxy may reset once it has read its line.
    socket.on("error", () => socket.destroy());
    socket.on("close", () => sockets.delete(socket));
    // What `agent-send` says is read and dropped.
    socket.resume();
    socket.end(agentLine(options));
  });
  server.maxConnections = CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      reject(portError("agent-check", options.host, port, cause));
    });
    server.listen(port, options.host, resolve);
  });
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : port,
    async stop() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
