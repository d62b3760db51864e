/** The health endpoints beside a watchdog: what its core knows, for balancers that nobody minds. */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { Heard } from "../core/dbclient_policy.ts";
import { buildReport } from "../core/dbserver_report.ts";
import type { DbServerState } from "../core/dbserver_state.ts";
import { describeError } from "../errors.ts";
import { type HealthServer, type HealthView, startHealth } from "../health.ts";
import type { Log } from "../log.ts";
import type { PartyId } from "../message/envelope.ts";
import type { Clock } from "../wakeup.ts";

export interface ServerHealthOptions {
  /** The one in force now. */
  readonly config: () => ClusterConfig;
  readonly self: DbServerConfig;
  readonly state: () => DbServerState;
  readonly clock: Clock;
  readonly log: Log;
}

/** Listens on the ports that the config gives this server. One that is taken is said, and done without. */
export async function serveHealth(
  options: ServerHealthOptions,
): Promise<{ stop(): Promise<void> }> {
  const { config, self, state, clock, log } = options;
  const common = {
    host: self.host,
    now: clock.now,
    view: (): HealthView => ({
      config: config(),
      self: self.id,
      heard: heardBy(state(), clock.now()),
    }),
  };
  const wanted = [
    { what: "health", port: self.healthPort ?? 0 },
    { what: "agent", port: self.agentPort ?? 0 },
  ].filter(({ port }) => port !== 0);
  const servers: HealthServer[] = [];
  for (const { what, port } of wanted) {
    try {
      const httpPort = what === "health" ? port : null;
      const agentPort = what === "agent" ? port : null;
      servers.push(await startHealth({ ...common, httpPort, agentPort }));
    } catch (error) {
      // Balancers that ask there get no answer of this watchdog; all else works without it.
      log.warn("health_port_taken", { what, port, error: describeError(error) });
    }
  }
  return {
    async stop() {
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

/** The latest word of each server: this one's as it would report now. */
function heardBy(state: DbServerState, now: number): ReadonlyMap<PartyId, Heard> {
  const heard = new Map<PartyId, Heard>();
  for (const [id, { report, at }] of state.peers) heard.set(id, { report, heardAt: at });
  const report = buildReport(state, now, state.reportNumber);
  return heard.set(state.self.id, { report, heardAt: now });
}
