/** Questions and orders to the arbitrator: through its control socket where that is on this host, else over the network. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ArbitratorConfig, ClusterConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";
import type { BodyFrom, Message } from "../message/mod.ts";
import { askOnce } from "./http.ts";

/** Where an arbitrator listens for people on its own host. */
export function controlSocketOf(party: Pick<ArbitratorConfig, "stateDir">): string {
  return join(party.stateDir, "control.sock");
}

export interface AskOptions {
  readonly config: ClusterConfig;
  readonly timeoutMs: number;
}

/**
 * Sends one message to the arbitrator and returns its reply.
 * @throws MinderError if it cannot be reached, refuses the message, or answers nonsense
 */
export async function askArbitrator(
  body: BodyFrom<"command">,
  options: AskOptions,
): Promise<Message> {
  const { config, timeoutMs } = options;
  const arbitrator = config.arbitrators[0];
  if (arbitrator === undefined) throw new MinderError("Cannot ask: the config names no arbitrator");
  const socket = controlSocketOf(arbitrator);
  const unix = existsSync(socket) ? socket : null;
  const url = `http://${arbitrator.host}:${arbitrator.port}`;
  const result = await askOnce({
    url,
    ...(unix === null ? {} : { unix }),
    sender: "command.1",
    receiver: arbitrator.id,
    body,
    session: crypto.randomUUID(),
    configVersion: config.version,
    timeoutMs,
  });
  if ("message" in result) return result.message;
  const where = unix ?? url;
  if ("status" in result) {
    throw new MinderError(`The arbitrator answered ${result.status}: ${result.error}`, { where });
  }
  throw new MinderError(`Cannot ask the arbitrator: ${result.error}`, {
    where,
    hint: "Is it running, and is this host in its network?",
  });
}
