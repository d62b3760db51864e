/** A client minder without its network: reports are handed in, its timer is the system's. */
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import {
  type DbClientEvent,
  type DbClientState,
  describe as describeState,
  dueAt,
  initial,
  step,
} from "../../lib/core/dbclient.ts";
import { type Balancer, type Reconciler, startReconciler } from "../../lib/effects/balancer.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import { idOf, servingReport } from "./client_cluster.ts";

/** One pass over the balancer, by the minder's own clock. */
export interface LonePass {
  readonly startedAt: number;
  readonly endedAt: number;
  readonly error: string | null;
}

export class LoneMinder {
  state: DbClientState;
  /** Names of what it logged. */
  readonly events: string[] = [];
  readonly passes: LonePass[] = [];
  /** When it asked for each pass. */
  readonly asked: number[] = [];
  readonly #reconciler: Reconciler;
  readonly #config: ClusterConfig;
  #timer: Timer | undefined;
  #number = 0;

  /** Minds `balancer` as the first client of the config. */
  constructor(config: ClusterConfig, balancer: Balancer, passTimeoutMs = 20_000) {
    const [client] = config.clients;
    if (client === undefined) throw new Error("no client");
    this.#config = config;
    this.state = initial(config, client.id, performance.now());
    this.#reconciler = startReconciler({
      balancer,
      passTimeoutMs,
      now: () => performance.now(),
      onApplied: (result) => {
        const endedAt = performance.now();
        const { error, tookMs } = result;
        this.passes.push({ startedAt: endedAt - tookMs, endedAt, error });
        this.tell({ on: "applied", result });
      },
    });
    this.tell({ on: "wakeup" });
  }

  tell(event: DbClientEvent): void {
    const { state, effects } = step(this.state, event, performance.now());
    this.state = state;
    for (const effect of effects) {
      if (effect.do === "reconcile") {
        this.asked.push(performance.now());
        this.#reconciler.want(effect.target, effect.cut);
      }
      if (effect.do === "log") this.events.push(effect.event);
    }
    clearTimeout(this.#timer);
    const inMs = Math.min(dueAt(state) - performance.now(), 60_000);
    this.#timer = setTimeout(() => this.tell({ on: "wakeup" }), Math.max(1, inMs));
  }

  report(name: string, changes: Partial<Report> = {}): void {
    const parameters = servingReport(this.#config, { reportNumber: ++this.#number, ...changes });
    const body = { verb: "db_status_report", parameters } as const;
    this.tell({ on: "message", from: idOf(this.#config, name), body, ticket: this.#number });
  }

  /** The balancer's places as it last saw them, in the config's order. */
  actual(): readonly (string | null)[] {
    return describeState(this.state, performance.now()).servers.map(({ actual }) => actual);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#reconciler.stop();
  }
}
