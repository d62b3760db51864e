/**
 * Sending over HTTP: posts of the mailroom, and the one question of a process that lives for it
 * alone. Owns time limits, the bound of a reply and what a failure is called; decides nothing.
 */
import { describeError } from "../errors.ts";
import {
  BODY_MAX_BYTES,
  type PartyId,
  SUMMARY_MAX_BYTES,
  WIRE_VERSION,
} from "../message/envelope.ts";
import { type Body, decodeMessage, encodeMessage, type Message } from "../message/mod.ts";
import { type AskedSeal, isReplyTo, SEAL_HEADER, type SealKey, sealRequest } from "../seal.ts";
import { type ClientTls, type Connections, exchange } from "./http_client.ts";

/** What became of a post: a reply, a refusal, or no answer that can be read. */
export type HttpResult =
  | { readonly status: number; readonly message: Message }
  | { readonly status: number; readonly reason: string; readonly error: string }
  | { readonly error: string };

export interface HttpPost {
  readonly url: string;
  /** Path of a unix socket to go through instead of the network. */
  readonly unix?: string;
  readonly message: Message;
  /** For the whole of it: connection, request and reply. */
  readonly timeoutMs: number;
  /** @default BODY_MAX_BYTES */
  readonly replyMaxBytes?: number;
  /** Ends it early. */
  readonly signal?: AbortSignal;
  /** Signs the message; a reply then counts only with a seal of the same key. @default none */
  readonly key?: SealKey | null;
  /** A reply without a seal counts too, one with a wrong seal does not. @default false */
  readonly unsigned?: boolean;
  /** For https: whom to believe and what to show. */
  readonly tls?: ClientTls | null;
  /** Where resting connections are kept. @default those of the process */
  readonly connections?: Connections;
}

/** Posts one message, over a connection kept for that peer. Never rejects. */
export async function postMessage(post: HttpPost): Promise<HttpResult> {
  const { url, unix, message, signal, key = null, tls = null, connections } = post;
  const replyMaxBytes = post.replyMaxBytes ?? BODY_MAX_BYTES;
  const sent = encodeMessage(message);
  const asked = key === null ? null : { key, seal: sealRequest(key, sent) };
  try {
    const { status, headers, body } = await exchange({
      url: new URL(url),
      headers: {
        "content-type": "application/json",
        ...(asked === null ? {} : { [SEAL_HEADER]: asked.seal }),
      },
      body: sent,
      timeoutMs: Math.max(1, Math.ceil(post.timeoutMs)),
      replyMaxBytes,
      tls,
      ...(unix === undefined ? {} : { unix }),
      ...(signal === undefined ? {} : { signal }),
      ...(connections === undefined ? {} : { connections }),
    });
    if (asked !== null) {
      const seal = headers.get(SEAL_HEADER) ?? null;
      const flaw = unproven(asked, seal, status, body);
      const excused = seal === null && post.unsigned === true;
      if (flaw !== null && !excused) return { error: flaw };
    }
    return readResult(status, body, replyMaxBytes);
  } catch (error) {
    return { error: describeError(error) };
  }
}

/**
 * Why a reply proves nothing; null if it is sealed as it must be. Acks carry leases, and a refusal can
 * end a message's repeats: neither counts from somebody else. What an unsealed refusal says is shown,
 * since it tells most often that the secrets differ.
 */
function unproven(
  asked: AskedSeal,
  header: string | null,
  status: number,
  body: Uint8Array,
): string | null {
  if (isReplyTo(asked, header, status, body)) return null;
  const said = status === 200 || status === 409 ? "" : `, ${readRefusal(status, body).reason}`;
  const what = header === null ? "is not signed" : "bears a wrong seal";
  return `The reply ${what}: status ${status}${said}`;
}

function readResult(status: number, body: Uint8Array, maxBytes: number): HttpResult {
  if (status === 200 || status === 409) {
    const decoded = decodeMessage(body, { maxBytes });
    if (decoded.ok) return { status, message: decoded.message };
    return { error: `The reply is no message: ${decoded.error}` };
  }
  return { status, ...readRefusal(status, body) };
}

/** The reason in a refusal; whatever else answers on that port gets a plain word. */
function readRefusal(
  status: number,
  body: Uint8Array,
): { readonly reason: string; readonly error: string } {
  const unknown = { reason: "unknown", error: `Status ${status}` };
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(body));
  } catch {
    return unknown;
  }
  if (typeof value !== "object" || value === null) return unknown;
  const { reason, error } = value as { readonly reason?: unknown; readonly error?: unknown };
  return {
    reason: typeof reason === "string" && /^[a-z0-9_]{1,40}$/.test(reason) ? reason : "unknown",
    error: typeof error === "string" ? error.slice(0, 1000) : unknown.error,
  };
}

/** A question or order of a one-shot process: a script, or the notify handler. */
export interface HttpQuestion {
  /** Of the receiver, as in ClusterConfig.urlById. */
  readonly url: string;
  /** Path of a unix socket to go through instead of the network. */
  readonly unix?: string;
  readonly sender: PartyId;
  readonly receiver: PartyId;
  readonly body: Body;
  /** Random, new for each question. */
  readonly session: string;
  readonly configVersion: number;
  /** For all of it, handshake included. */
  readonly timeoutMs: number;
  readonly key?: SealKey | null;
  readonly unsigned?: boolean;
  readonly tls?: ClientTls | null;
}

/**
 * Asks once. Where the receiver demands it (409), the message is repeated a single time with the
 * session that it names. After that a lost reply is not a reason to repeat: the order may have been
 * carried out, and the result says that nothing is known.
 */
export async function askOnce(question: HttpQuestion): Promise<HttpResult> {
  const { url, sender, receiver, body, session, configVersion, timeoutMs } = question;
  const startedAt = performance.now();
  let toSession = "";
  for (let attempt = 0; attempt < 2; attempt++) {
    const message = {
      v: WIRE_VERSION,
      sender,
      receiver,
      session,
      seq: 1,
      toSession,
      configVersion,
      ...body,
    } as Message;
    const result = await postMessage({
      url: `${url}/messages`,
      message,
      timeoutMs: Math.max(1, timeoutMs - (performance.now() - startedAt)),
      replyMaxBytes: SUMMARY_MAX_BYTES,
      ...(question.unix === undefined ? {} : { unix: question.unix }),
      key: question.key ?? null,
      unsigned: question.unsigned ?? false,
      tls: question.tls ?? null,
    });
    if (!("message" in result)) return result;
    const { message: reply } = result;
    const belongs = reply.sender === receiver && reply.receiver === sender && reply.seq === 1;
    if (!belongs || reply.toSession !== session)
      return { error: "The reply is not to this message" };
    if (result.status !== 409) return result;
    toSession = reply.session;
  }
  return { error: `${receiver} names another session each time` };
}
