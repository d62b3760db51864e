/**
 * One question or order from a person to the arbitrator: one message, its session handshake, its
 * reply. Through the arbitrator's control socket where that is on this host, else over the network.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ArbitratorConfig, ClusterConfig } from "../cluster_config.ts";
import { describeError, MinderError } from "../errors.ts";
import { type PartyId, WIRE_VERSION } from "../message/envelope.ts";
import { type BodyFrom, decodeMessage, encodeMessage, type Message } from "../message/mod.ts";

/** A reply larger than this is cut off and refused. */
const REPLY_MAX_BYTES = 4_194_304;
/** The first try learns the session, the second uses it; one more in case of a restart in between. */
const TRIES = 3;

/** Where a party listens for people on its own host. */
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
  const url = `http://${arbitrator.host}:${arbitrator.port}/messages`;
  const where = existsSync(socket) ? socket : url;
  const signal = AbortSignal.timeout(timeoutMs);
  let toSession = "";
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const message = compose(body, { arbitrator: arbitrator.id, config, toSession });
    const { status, text } = await post(message, { where, url, signal });
    const reply = decodeMessage(text, { maxBytes: REPLY_MAX_BYTES });
    if (!reply.ok) throw refused(status, text, where);
    if (status === 200) return reply.message;
    if (status !== 409) throw refused(status, text, where);
    toSession = reply.message.session;
  }
  throw new MinderError("Cannot ask the arbitrator: it names another session each time", { where });
}

function compose(
  body: BodyFrom<"command">,
  options: {
    readonly arbitrator: PartyId;
    readonly config: ClusterConfig;
    readonly toSession: string;
  },
): Message {
  return {
    v: WIRE_VERSION,
    sender: "command.1",
    receiver: options.arbitrator,
    session: crypto.randomUUID(),
    seq: 1,
    toSession: options.toSession,
    configVersion: options.config.version,
    ...body,
  } as Message;
}

async function post(
  message: Message,
  options: { readonly where: string; readonly url: string; readonly signal: AbortSignal },
): Promise<{ readonly status: number; readonly text: string }> {
  const { where, url, signal } = options;
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: encodeMessage(message),
      redirect: "manual",
      keepalive: false,
      signal,
      ...(where === url ? {} : { unix: where }),
    });
    return { status: response.status, text: await response.text() };
  } catch (error) {
    throw new MinderError("Cannot reach the arbitrator", {
      where,
      hint: "Is it running, and is this host in its network?",
      cause: error,
    });
  }
}

/** Words of a refusal that is JSON with an `error`, else its beginning. */
function refused(status: number, text: string, where: string): MinderError {
  let words = text.slice(0, 200);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && "error" in value)
      words = String(value.error);
  } catch (error) {
    words = `${words} (${describeError(error)})`;
  }
  return new MinderError(`The arbitrator answered ${status}: ${words}`, { where });
}
