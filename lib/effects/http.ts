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
}

/** What a sender needs for TLS, as PEM. */
export interface ClientTls {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Posts one message. Never rejects; connections are kept alive and used again by the runtime. */
export async function postMessage(post: HttpPost): Promise<HttpResult> {
  const { url, message, timeoutMs, replyMaxBytes = BODY_MAX_BYTES } = post;
  // Messages between the parties never go through a proxy that the environment may name.
  process.env["NO_PROXY"] = "*";
  const sent = encodeMessage(message);
  const { key = null, tls = null } = post;
  const asked = key === null ? null : { key, seal: sealRequest(key, sent) };
  // One controller and one timer that is cleared: signals with a timeout of their own live on until
  // it is over, twenty at a time with five peers.
  const controller = new AbortController();
  const abort = (): void => controller.abort();
  let late = false;
  const timer = setTimeout(
    () => {
      late = true;
      abort();
    },
    Math.max(1, Math.ceil(timeoutMs)),
  );
  if (post.signal?.aborted === true) abort();
  post.signal?.addEventListener("abort", abort);
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(asked === null ? {} : { [SEAL_HEADER]: asked.seal }),
      },
      body: sent,
      // A redirect would hand the message to a party that the config does not name.
      redirect: "manual",
      signal: controller.signal,
      ...(post.unix === undefined ? {} : { unix: post.unix }),
      ...(tls === null ? {} : { tls: { ...tls, rejectUnauthorized: true } }),
    });
    const body = await readReply(response, replyMaxBytes);
    if (body === null) return { error: `The reply has more than ${replyMaxBytes} bytes` };
    const { status } = response;
    if (asked !== null) {
      const seal = response.headers.get(SEAL_HEADER);
      const flaw = unproven(asked, seal, status, body);
      const excused = seal === null && post.unsigned === true;
      if (flaw !== null && !excused) return { error: flaw };
    }
    return readResult(status, body, replyMaxBytes);
  } catch (error) {
    if (late) return { error: `No reply within ${Math.round(timeoutMs)} ms` };
    return { error: describeError(error) };
  } finally {
    clearTimeout(timer);
    post.signal?.removeEventListener("abort", abort);
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

/** The body within its bound; null if it has more. */
async function readReply(response: Response, maxBytes: number): Promise<Uint8Array | null> {
  if (response.body === null) return new Uint8Array();
  const reader = response.body.getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
    if (size > maxBytes) {
      await reader.cancel();
      return null;
    }
    chunks.push(part.value);
  }
  return Buffer.concat(chunks);
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
