/** The client minder as a process: a balancer's reconciler, its core, its loop. */
import type { ClusterConfig, DbClientConfig } from "../cluster_config.ts";
import {
  type DbClientEffect,
  type DbClientEvent,
  type DbClientState,
  describe,
  dueAt,
  initial,
  step,
} from "../core/dbclient.ts";
import { onlyServing, startReconciler } from "../effects/balancer.ts";
import { createBalancer } from "../effects/balancers.ts";
import { describeError } from "../errors.ts";
import { createLog } from "../log.ts";
import type { ConfigMark } from "../message/dbserver.ts";
import { systemClock } from "../wakeup.ts";
import type { ConfigKeeper } from "./config_keeper.ts";
import { listenAt, startParty, untilSignalled } from "./party.ts";

/** Hard limit of one pass over the balancer: connect, read, apply, read back. */
const PASS_TIMEOUT_MS = 2_000;

/** Runs the client minder until it is told to stop; the balancer runs on as it is. Returns the exit code. */
export async function runClient(
  config: ClusterConfig,
  self: DbClientConfig,
  keeper: ConfigKeeper | null = null,
): Promise<number> {
  const clock = systemClock();
  const log = createLog({ role: "dbclient", node: self.id, wall: clock.wall });
  const balancer = createBalancer(self.balancer);
  const writer = await onlyServing(balancer, config, PASS_TIMEOUT_MS);
  const reconciler = startReconciler({
    balancer,
    passTimeoutMs: PASS_TIMEOUT_MS,
    now: clock.now,
    onApplied: (result) => party.loop.tell({ on: "applied", result }),
  });
  async function adopt(mark: ConfigMark): Promise<void> {
    try {
      await keeper?.adopt(mark);
    } catch (error) {
      // It is asked for again with a report some seconds later.
      log.warn("config_not_adopted", { version: mark.version, error: describeError(error) });
    }
  }
  const party = startParty<DbClientState, DbClientEvent, DbClientEffect>({
    config,
    keeper,
    self: self.id,
    listen: listenAt(self, keeper),
    controlSocket: null,
    core: { step, dueAt },
    initial: initial(config, self.id, clock.now(), writer),
    async perform(effect) {
      if (effect.do === "log") log.info(effect.event, effect.fields);
      else if (effect.do === "adopt") await adopt(effect.mark);
      else reconciler.want(effect.target, effect.cut);
      return null;
    },
    failed: () => null,
    phaseOf: (state) => {
      const { trouble } = describe(state, clock.now());
      return { phase: trouble === null ? "steering" : "troubled", because: trouble ?? "" };
    },
    status: (state, now) => describe(state, now),
    clock,
    log,
  });
  keeper?.watch(log, ({ active }) => {
    party.adopt(active.config, active.mark.version);
    party.loop.tell({ on: "config", config: active.config, mark: active.mark });
  });
  return await untilSignalled(party, log, () => reconciler.stop());
}
