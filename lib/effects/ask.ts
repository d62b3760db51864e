/** Questions and orders to the arbitrator: through its control socket where that is on this host, else over the network. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ArbitratorConfig, ClusterConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";
import type { PartyId } from "../message/envelope.ts";
import { type BodyFrom, isQuestion, type Message } from "../message/mod.ts";
import { type SealKey, signingKey } from "../seal.ts";
import { askOnce } from "./http.ts";
import { readSecretFile, secretPlaces, takesUnsigned } from "./secrets.ts";
import { clientTls } from "./tls.ts";

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
  const reached = config.urlById.get(arbitrator.id) ?? "";
  // The socket is this host's own: no certificate there, and the path is what names it.
  const url = unix === null ? reached : "http://arbitrator";
  const key = keyFor(body, config, unix !== null);
  const result = await askOnce({
    url,
    ...(unix === null ? {} : { unix }),
    key,
    unsigned: takesUnsigned(config.security),
    tls: unix === null ? clientTls(config.security.tls, "command") : null,
    sender: "command.1",
    receiver: arbitrator.id,
    body,
    session: crypto.randomUUID(),
    configVersion: config.version,
    timeoutMs,
  });
  if ("message" in result) return result.message;
  const where = unix ?? reached;
  if ("status" in result) {
    throw new MinderError(`The arbitrator answered ${result.status}: ${result.error}`, { where });
  }
  throw new MinderError(`Cannot ask the arbitrator: ${result.error}`, {
    where,
    hint: "Start it on its host (`just minder`), or look whether this host reaches it; what serves goes on meanwhile",
  });
}

/**
 * The key for a question or an order. An order needs the operators' secret; a question is signed with
 * what there is, and on the arbitrator's own host needs nothing.
 * @throws MinderError if the secret that is needed cannot be read
 */
function keyFor(
  body: BodyFrom<"command">,
  { security }: ClusterConfig,
  local: boolean,
): SealKey | null {
  const places = secretPlaces(security);
  if (places.node === null && places.operator === null) return null;
  if (isQuestion(body) && local) return null;
  if (places.operator === null) {
    if (isQuestion(body) && places.node !== null) {
      return signingKey({ keys: readSecretFile(places.node, "node") }, "node");
    }
    if (local) return null;
    throw new MinderError("Cannot sign the order: no operators' secret is set up", {
      hint: "Set security.operator_file, or give the order on the arbitrator's own host",
    });
  }
  try {
    return signingKey({ keys: readSecretFile(places.operator, "operator") }, "operator");
  } catch (error) {
    if (!isQuestion(body) || places.node === null) throw error;
    // A monitor on a server's host has that server's secret only.
    return signingKey({ keys: readSecretFile(places.node, "node") }, "node");
  }
}

/**
 * What the minder at `id` says of itself, which it tells its own host only.
 * @throws MinderError if it does not answer in time or refuses
 */
export async function askMinder(id: PartyId, { config, timeoutMs }: AskOptions): Promise<unknown> {
  const url = `${config.urlById.get(id)}/status`;
  const tls = clientTls(config.security.tls, "command");
  try {
    const response = await fetch(url, {
      signal: AbortSignal.timeout(timeoutMs),
      ...(tls === null ? {} : { tls: { ...tls, rejectUnauthorized: true } }),
    });
    if (response.ok) return await response.json();
    throw new MinderError(`${id} refuses: status ${response.status}`, {
      where: url,
      hint: "It answers this on its own host only.",
    });
  } catch (cause) {
    if (cause instanceof MinderError) throw cause;
    throw new MinderError(`${id} does not answer`, { where: url, hint: "Does it run?", cause });
  }
}
