/**
 * The HTTP side of a party: a Hono app, made by a function so that tests call it without a socket.
 * Owns what can be said about a request before anybody decides anything: its size, its type, its
 * form. Everything else is the mailroom's.
 */
import { type Context, Hono } from "hono";
import { describeError } from "./errors.ts";
import type { QuietLog } from "./log.ts";
import { BODY_MAX_BYTES } from "./message/envelope.ts";
import { decodeMessage, encodeMessage, type Message } from "./message/mod.ts";

/** Requests whose bodies are being read or whose replies are awaited. */
export const REQUESTS_MAX = 512;
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
}

export interface Endpoint {
  readonly app: Hono;
  /** Refused requests by reason, a copy. */
  counters(): Readonly<Record<string, number>>;
}

/** A request that is refused before the mailroom sees it. */
interface Refusal {
  readonly status: 400 | 403 | 404 | 405 | 408 | 411 | 413 | 415 | 500 | 503;
  readonly reason: string;
  readonly error: string;
}

/** Makes the app of a party: `POST /messages`, `GET /status`, `GET /healthz`. */
export function createEndpoint(options: EndpointOptions): Endpoint {
  const { submit, status, illness, log } = options;
  const { bodyMaxBytes = BODY_MAX_BYTES, bodyTimeoutMs = BODY_TIMEOUT_MS } = options;
  const counters = new Map<string, number>();
  let requests = 0;

  function refuse(context: Context, refusal: Refusal): Response {
    const { status: code, reason, error } = refusal;
    counters.set(reason, (counters.get(reason) ?? 0) + 1);
    log?.(`refused ${reason}`, "warn", "refused", { status: code, reason, error });
    return context.json({ error, reason }, code);
  }

  async function postMessage(context: Context): Promise<Response> {
    if (requests >= REQUESTS_MAX) {
      return refuse(context, {
        status: 503,
        reason: "busy",
        error: `${REQUESTS_MAX} requests are under way already`,
      });
    }
    requests++;
    try {
      const body = await readBody(context.req.raw, bodyMaxBytes, bodyTimeoutMs);
      if (!(body instanceof Uint8Array)) return refuse(context, body);
      const decoded = decodeMessage(body, { maxBytes: bodyMaxBytes });
      if (!decoded.ok) return refuse(context, decoded);
      const answer = await submit(decoded.message);
      if ("message" in answer) {
        return new Response(encodeMessage(answer.message), {
          status: answer.status,
          headers: { "content-type": "application/json" },
        });
      }
      const { reason, error } = answer;
      log?.(`refused ${reason}`, "warn", "refused", {
        status: answer.status,
        reason,
        error,
        sender: decoded.message.sender,
        verb: decoded.message.verb,
      });
      return Response.json({ error, reason }, { status: answer.status });
    } finally {
      requests--;
    }
  }

  function getHealth(context: Context): Response {
    const why = illness();
    return why === null ? context.json({ ok: true }) : context.json({ ok: false, error: why }, 503);
  }

  function otherMethod(allowed: string) {
    return (context: Context): Response => {
      context.header("allow", allowed);
      const error = `${context.req.path} takes ${allowed} only`;
      return refuse(context, { status: 405, reason: "method", error });
    };
  }

  const app = new Hono();
  app.post("/messages", postMessage);
  app.all("/messages", otherMethod("POST"));
  app.get("/status", (context) => context.json(status() as never));
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
  return { app, counters: () => Object.fromEntries(counters) };
}

/**
 * The body within a bound of bytes and of time. Content-Length only refuses early: what counts is
 * what comes, since a sender may leave it out (RFC 9112, section 6.3) or be wrong about it.
 */
async function readBody(
  request: Request,
  maxBytes: number,
  timeoutMs: number,
): Promise<Uint8Array | Refusal> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(type)) {
    return { status: 415, reason: "content_type", error: "A message is application/json, UTF-8" };
  }
  const tooLarge: Refusal = {
    status: 413,
    reason: "too_large",
    error: `A message has at most ${maxBytes} bytes`,
  };
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) return tooLarge;
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
  if (late) {
    const error = `The body did not come within ${timeoutMs} ms`;
    return { status: 408, reason: "body_late", error };
  }
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks);
}

/** Tells the sender to stop; there is nothing to be done where it has gone already. */
function cancel(reader: { cancel(): Promise<void> }): void {
  reader.cancel().catch(() => undefined);
}
