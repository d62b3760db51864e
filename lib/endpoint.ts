/**
 * The HTTP side of a party: a Hono app, made by a function so that tests call it without a socket.
 * Owns what can be said about a request before anybody decides anything: how often its address asks,
 * its seal, its size, its type, its form. Everything else is the mailroom's.
 *
 * Invariant: with keys, no byte of a body is parsed before its seal is found right, but for what this
 * very host may ask unsigned; and whoever sealed a request gets a sealed answer, refusals included.
 */
import { type Context, Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { Millis } from "./core/core.ts";
import type { BodyResult, Certificate } from "./effects/http_server.ts";
import { describeError } from "./errors.ts";
import type { QuietLog } from "./log.ts";
import { BODY_MAX_BYTES } from "./message/envelope.ts";
import { decodeMessage, encodeMessage, type Message } from "./message/mod.ts";
import type { Rate } from "./rate.ts";
import {
  type Claim,
  holds,
  type Keyring,
  mayBeUnsigned,
  maySay,
  readClaim,
  SEAL_HEADER,
  sealReply,
} from "./seal.ts";

/** Requests whose bodies are being read or whose replies are awaited. */
export const REQUESTS_MAX = 512;
/** Of those, from one address: some must be left for the others. */
export const REQUESTS_PER_ADDRESS_MAX = 256;
/** Tokens that a request takes, and one that is refused: a party's own are hardly ever. */
export const REQUEST_TOKENS = 1;
export const REFUSED_TOKENS = 10;
/** A body that has not come in full by then is not awaited any longer. */
export const BODY_TIMEOUT_MS = 5000;

/** What became of a message: a message to answer with, or a refusal. */
export type Answer =
  | { readonly status: number; readonly message: Message }
  | { readonly status: number; readonly reason: string; readonly error: string };

export interface EndpointOptions {
  /** Hands a message to the loop. Always resolves, and within a bound. */
  readonly submit: (message: Message) => Promise<Answer>;
  /** What `GET /status` shows; asked for each time, so it must be cheap. */
  readonly status: () => unknown;
  /** Null while all is well, else why not: what `GET /healthz` says with 503. */
  readonly illness: () => string | null;
  /** @default BODY_MAX_BYTES */
  readonly bodyMaxBytes?: number;
  /** @default BODY_TIMEOUT_MS */
  readonly bodyTimeoutMs?: number;
  readonly log?: QuietLog;
  /** Keys at present; null where messages are not signed. @default null */
  readonly keyring?: () => Keyring | null;
  /** With keys, the unsigned is taken too: while a cluster begins to sign. @default false */
  readonly unsigned?: boolean;
  /** Where parties show certificates: may who showed this one, or none, say that. @default anybody */
  readonly certified?: (certificate: Certificate | null, message: Message) => boolean;
  /** Requests of an address, in time. @default unbounded */
  readonly rate?: { readonly buckets: Rate; readonly now: () => Millis };
}

/** Where a request comes from, as far as the socket tells. */
export interface Peer {
  /** Null: through a unix socket. */
  readonly address: string | null;
  /** A process of this very host. */
  readonly isLocal: () => boolean;
  /** Shown on its connection. @default none */
  readonly certificate?: Certificate | null;
  /** Reads the body. @default that of the request itself */
  readonly body?: (maxBytes: number, timeoutMs: number) => Promise<BodyResult>;
  /** To be called once a message of it was accepted. */
  readonly proven?: () => void;
}

type Environment = { Bindings: { readonly peer?: Peer } };
type Ask = Context<Environment>;

export interface Endpoint {
  readonly app: Hono<Environment>;
  /** Counts and logs a connection that ended before there was a request. */
  dropped(reason: string, address: string): void;
  /** Refused requests and dropped connections by reason, a copy. */
  counters(): Readonly<Record<string, number>>;
}

/** A request that is refused before the mailroom sees it. */
interface Refusal {
  readonly status: 400 | 401 | 403 | 404 | 405 | 408 | 411 | 413 | 415 | 429 | 500 | 503;
  readonly reason: string;
  readonly error: string;
}

/** Makes the app of a party: `POST /messages`, `GET /status`, `GET /healthz`. */
export function createEndpoint(options: EndpointOptions): Endpoint {
  const { submit, status, illness, log } = options;
  const { bodyMaxBytes = BODY_MAX_BYTES, bodyTimeoutMs = BODY_TIMEOUT_MS } = options;
  const { keyring = () => null, unsigned = false, certified, rate } = options;
  const counters = new Map<string, number>();
  const requestsBy = new Map<string, number>();
  let requests = 0;

  function refuse(context: Ask, refusal: Refusal, claim: Claim | null = null): Response {
    const { status: code, reason, error } = refusal;
    counters.set(reason, (counters.get(reason) ?? 0) + 1);
    const from = peerOf(context)?.address ?? "this host";
    log?.(`refused ${reason}`, "warn", "refused", { status: code, reason, error, from });
    return answerWith(context, code, JSON.stringify({ error, reason }), claim);
  }

  /** Every answer goes out here: what is not 200 costs its address more than what is. */
  function answerWith(context: Ask, code: number, body: string, claim: Claim | null): Response {
    const address = peerOf(context)?.address ?? null;
    if (rate !== undefined && address !== null) {
      rate.buckets.charge(address, code === 200 ? REQUEST_TOKENS : REFUSED_TOKENS, rate.now());
    }
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (claim !== null) headers[SEAL_HEADER] = sealReply(claim, code, body);
    return context.body(body, code as ContentfulStatusCode, headers);
  }

  /** Null while this address may ask. */
  function tooMuch(context: Ask): Refusal | null {
    const address = peerOf(context)?.address ?? null;
    if (address === null) return null;
    if (rate !== undefined && !rate.buckets.allows(address, rate.now())) return TOO_OFTEN;
    if ((requestsBy.get(address) ?? 0) < REQUESTS_PER_ADDRESS_MAX) return null;
    const error = `${REQUESTS_PER_ADDRESS_MAX} requests of this address are under way already`;
    return { status: 429, reason: "busy_address", error };
  }

  async function postMessage(context: Ask): Promise<Response> {
    const excess = tooMuch(context);
    if (excess !== null) return refuse(context, excess);
    if (requests >= REQUESTS_MAX) {
      return refuse(context, {
        status: 503,
        reason: "busy",
        error: `${REQUESTS_MAX} requests are under way already`,
      });
    }
    const address = peerOf(context)?.address ?? "";
    requests++;
    requestsBy.set(address, (requestsBy.get(address) ?? 0) + 1);
    try {
      return await takeMessage(context);
    } finally {
      requests--;
      const left = (requestsBy.get(address) ?? 1) - 1;
      if (left === 0) requestsBy.delete(address);
      else requestsBy.set(address, left);
    }
  }

  async function takeMessage(context: Ask): Promise<Response> {
    const ring = keyring();
    const unproven =
      ring === null ? null : readClaim(ring, context.req.header(SEAL_HEADER) ?? null);
    const mayBePlain = unproven === "not_signed" && (unsigned || isLocal(context));
    if (typeof unproven === "string" && !mayBePlain) {
      return refuse(context, { status: 401, reason: unproven, error: UNPROVEN[unproven] });
    }
    const body = await readBody(context, bodyMaxBytes, bodyTimeoutMs);
    if (!(body instanceof Uint8Array)) return refuse(context, body);
    const claim = typeof unproven === "string" ? null : unproven;
    if (claim !== null && !holds(claim, body)) {
      const error = `The seal is not that of ${claim.key.id} over this body`;
      return refuse(context, { status: 401, reason: "bad_seal", error });
    }
    const decoded = decodeMessage(body, { maxBytes: bodyMaxBytes });
    if (!decoded.ok) return refuse(context, decoded, claim);
    const { message } = decoded;
    if (ring !== null) {
      const flaw = unentitled(message, claim, context);
      if (flaw !== null) return refuse(context, flaw, claim);
    }
    const peer = peerOf(context);
    if (certified !== undefined && !certified(peer?.certificate ?? null, message)) {
      // Whoever may open the control socket shows no certificate, and speaks as a person only.
      if (peer?.address !== null || !message.sender.startsWith("command.")) {
        const error = `The certificate of this connection is not one of ${message.sender}`;
        return refuse(context, { status: 403, reason: "wrong_certificate", error }, claim);
      }
    }
    const answer = await submit(message);
    if ("message" in answer) {
      // A recorded message gets no 200, or the one that its sender has had on another connection.
      if (answer.status === 200 && (claim !== null || ring === null || unsigned)) peer?.proven?.();
      return answerWith(context, answer.status, encodeMessage(answer.message), claim);
    }
    const { status: code, reason, error } = answer;
    const { sender, verb } = message;
    log?.(`refused ${reason}`, "warn", "refused", { status: code, reason, error, sender, verb });
    return answerWith(context, code, JSON.stringify({ error, reason }), claim);
  }

  /** Why this may not be said with that key, or without one; null if it may. */
  function unentitled(message: Message, claim: Claim | null, context: Ask): Refusal | null {
    const { sender, verb } = message;
    if (claim !== null) {
      if (maySay(claim.key.kind, message)) return null;
      const error = `${verb} of ${sender} is not for the secret of ${claim.key.kind}s`;
      return { status: 403, reason: "wrong_secret", error };
    }
    if (unsigned || mayBeUnsigned(message)) return null;
    // Where no secret of operators is set up, whoever may open the control socket is one.
    const throughSocket = peerOf(context)?.address === null;
    const operators = keyring()?.keys.some(({ kind }) => kind === "operator") === true;
    if (throughSocket && !operators && sender.startsWith("command.")) return null;
    return { status: 401, reason: "not_signed", error: UNPROVEN.not_signed };
  }

  /** With keys, what a party thinks is for its own host alone. */
  function getStatus(context: Ask): Response {
    const excess = tooMuch(context);
    if (excess !== null) return refuse(context, excess);
    if (keyring() !== null && !isLocal(context)) {
      const error =
        "GET /status is answered on the host itself; `status` asks the arbitrator, signed";
      return refuse(context, { status: 403, reason: "not_local", error });
    }
    return answerWith(context, 200, JSON.stringify(status()), null);
  }

  function getHealth(context: Ask): Response {
    const excess = tooMuch(context);
    if (excess !== null) return refuse(context, excess);
    const why = illness();
    const words = why === null ? { ok: true } : { ok: false, error: why };
    return answerWith(context, why === null ? 200 : 503, JSON.stringify(words), null);
  }

  function otherMethod(allowed: string) {
    return (context: Ask): Response => {
      context.header("allow", allowed);
      const error = `${context.req.path} takes ${allowed} only`;
      return refuse(context, { status: 405, reason: "method", error });
    };
  }

  const app = new Hono<Environment>();
  app.post("/messages", postMessage);
  app.all("/messages", otherMethod("POST"));
  app.get("/status", getStatus);
  app.all("/status", otherMethod("GET"));
  app.get("/healthz", getHealth);
  app.all("/healthz", otherMethod("GET"));
  app.notFound((context) =>
    refuse(context, {
      status: 404,
      reason: "path",
      error: "Paths are POST /messages, GET /status and GET /healthz",
    }),
  );
  app.onError((error, context) => {
    log?.("endpoint error", "error", "endpoint_failed", { error });
    return refuse(context, { status: 500, reason: "internal", error: describeError(error) });
  });
  function dropped(reason: string, address: string): void {
    counters.set(reason, (counters.get(reason) ?? 0) + 1);
    log?.(`dropped ${reason}`, "warn", "dropped", { reason, from: address });
  }
  return { app, dropped, counters: () => Object.fromEntries(counters) };
}

const TOO_OFTEN: Refusal = {
  status: 429,
  reason: "rate",
  error: "This address asks too often, or too often what is refused",
};

const UNPROVEN = {
  not_signed: `A message needs a seal in the header ${SEAL_HEADER}: is a secret_file set at its sender?`,
  unknown_key: "The seal names a key that is not known here: the secrets differ",
} as const;

function peerOf(context: Ask): Peer | undefined {
  // Called without a socket, as tests do, there is no environment.
  return (context.env as Environment["Bindings"] | undefined)?.peer;
}

function isLocal(context: Ask): boolean {
  return peerOf(context)?.isLocal() ?? false;
}

/**
 * The body within a bound of bytes and of time. Content-Length only refuses early: what counts is
 * what comes, since a sender may leave it out (RFC 9112, section 6.3) or be wrong about it.
 */
async function readBody(
  context: Ask,
  maxBytes: number,
  timeoutMs: number,
): Promise<Uint8Array | Refusal> {
  const request = context.req.raw;
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(type)) {
    return { status: 415, reason: "content_type", error: "A message is application/json, UTF-8" };
  }
  const tooLarge: Refusal = {
    status: 413,
    reason: "too_large",
    error: `A message has at most ${maxBytes} bytes`,
  };
  const peer = peerOf(context);
  if (peer?.body !== undefined) {
    const got = await peer.body(maxBytes, timeoutMs);
    if (got instanceof Uint8Array) return got;
    if (got === "too_large") return tooLarge;
    return got === "late" ? bodyLate(timeoutMs) : BODY_REFUSALS[got];
  }
  const stated = request.headers.get("content-length");
  if (Number(stated ?? 0) > maxBytes) return tooLarge;
  if (stated !== null && Number(stated) > 0) return await readStated(request, tooLarge, timeoutMs);
  if (request.body === null) return new Uint8Array();
  const reader = request.body.getReader();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    cancel(reader);
  }, timeoutMs);
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      size += part.value.length;
      if (size > maxBytes) {
        cancel(reader);
        return tooLarge;
      }
      chunks.push(part.value);
    }
  } catch (error) {
    if (!late) return { status: 400, reason: "body_broken", error: describeError(error) };
  } finally {
    clearTimeout(timer);
  }
  if (late) return bodyLate(timeoutMs);
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks);
}

/**
 * A body whose length is stated within the bound: HTTP ends it there, so it can be taken as a whole,
 * at half the cost of a stream.
 */
async function readStated(
  request: Request,
  tooLarge: Refusal,
  timeoutMs: number,
): Promise<Uint8Array | Refusal> {
  const stated = Number(request.headers.get("content-length"));
  const { promise: late, resolve } = Promise.withResolvers<Refusal>();
  const timer = setTimeout(() => resolve(bodyLate(timeoutMs)), timeoutMs);
  try {
    const body = await Promise.race([request.bytes(), late]);
    return body instanceof Uint8Array && body.length > stated ? tooLarge : body;
  } catch (error) {
    return { status: 400, reason: "body_broken", error: describeError(error) };
  } finally {
    clearTimeout(timer);
  }
}

const BODY_REFUSALS = {
  broken: { status: 400, reason: "body_broken", error: "The connection ended within the body" },
  no_length: { status: 411, reason: "no_length", error: "A message states its Content-Length" },
} as const satisfies Record<string, Refusal>;

function bodyLate(timeoutMs: number): Refusal {
  const error = `The body did not come within ${timeoutMs} ms`;
  return { status: 408, reason: "body_late", error };
}

/** Tells the sender to stop; there is nothing to be done where it has gone already. */
function cancel(reader: { cancel(): Promise<void> }): void {
  reader.cancel().catch(() => undefined);
}
