/** The arbitrator's live state, asked for: what the rules can be run on elsewhere. */
import * as v from "valibot";
import type { ClusterConfig } from "../cluster_config.ts";
import type { ArbitratorState } from "../core/arbitrator_state.ts";
import type { Millis } from "../core/core.ts";
import { restoreState } from "../core/what_if.ts";
import { askArbitrator } from "../effects/ask.ts";
import { MinderError } from "../errors.ts";
import type { Snapshot } from "../message/arbitrator.ts";
import { ArbitratorDurableSchema } from "./durable.ts";

/**
 * Asks for a snapshot and restores the state from it.
 * @throws MinderError if it cannot be had or is of another version
 */
export async function askState(
  config: ClusterConfig,
  timeoutMs: Millis,
): Promise<{ readonly state: ArbitratorState; readonly now: Millis }> {
  const reply = await askArbitrator({ verb: "snapshot", parameters: {} }, { config, timeoutMs });
  if (reply.verb !== "snapshot" || !("durable" in reply.parameters)) {
    throw new MinderError(`The arbitrator answered with ${reply.verb}`);
  }
  return stateFrom(config, reply.parameters);
}

/** @throws MinderError if its durable part is of another form */
export function stateFrom(
  config: ClusterConfig,
  snapshot: Snapshot,
): { readonly state: ArbitratorState; readonly now: Millis } {
  const schema = v.pipe(v.string(), v.parseJson(), ArbitratorDurableSchema);
  const durable = v.safeParse(schema, snapshot.durable);
  if (!durable.success) {
    throw new MinderError(`Cannot read the snapshot: ${v.summarize(durable.issues)}`, {
      hint: "Is this program of the arbitrator's version?",
    });
  }
  return restoreState(config, snapshot, durable.output);
}
