/**
 * Sending over HTTP/1.1 with a connection kept for each peer. The runtime's own `fetch` keeps 64 idle
 * connections for all of a process: measured, a watchdog with 200 client minders made a new one for
 * nearly every report, at twice the cost on both sides. Owns connections and their framing only.
 *
 * Bounds: a reply's head and body, the time of an exchange, idle connections per peer and their age.
 */

import { createConnection, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

/** What a sender needs for TLS, as PEM. */
export interface ClientTls {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** One request and its reply. */
export interface Exchange {
  readonly url: URL;
  /** Path of a unix socket to go through instead of the network. */
  readonly unix?: string;
  /** For https: whom to believe and what to show. @default the system's authorities, nothing to show */
  readonly tls?: ClientTls | null;
  /** Beside `host` and `content-length`; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** For the whole of it: connection, request and reply. */
  readonly timeoutMs: number;
  readonly replyMaxBytes: number;
  /** Ends it early. */
  readonly signal?: AbortSignal;
  /** Where resting connections are kept. @default those of the process */
  readonly connections?: Connections;
}

export interface Reply {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array;
}

/** Idle connections that are kept for one peer; posts to it seldom overlap. */
const IDLE_MAX = 2;
/** An idle connection is closed after this: before the receiver does it at 10 s. */
const IDLE_MS = 7_000;
const HEAD_MAX_BYTES = 16_384;
const NOTHING = Buffer.alloc(0);

/** Posts once. @throws Error with words for people; after a lost reply nobody knows what was done */
export async function exchange(request: Exchange): Promise<Reply> {
  const { url, timeoutMs, signal } = request;
  if (!/^https?:$/.test(url.protocol)) throw new Error(`${url.protocol} is no way to send`);
  if (signal?.aborted === true) throw new Error("Stopped");
  const text = requestText(request);
  const reader = new ReplyReader(request.replyMaxBytes);
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  const connection = takeConnection(request);
  connection.send(text, {
    data(chunk) {
      try {
        const reply = reader.take(chunk);
        if (reply !== null) resolve(reply);
      } catch (error) {
        reject(error);
      }
    },
    closed(error) {
      const reply = error === null ? reader.finish() : null;
      if (reply !== null) resolve(reply);
      else reject(error ?? new Error("The connection was closed before the reply"));
    },
  });
  const timer = setTimeout(() => {
    reject(new Error(`No reply within ${Math.round(timeoutMs)} ms`));
  }, timeoutMs);
  const stopped = (): void => reject(new Error("Stopped"));
  signal?.addEventListener("abort", stopped);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stopped);
    if (reader.mayReuse) connection.rest();
    else connection.close();
  }
}

/** Head and body as one text: a single write, and no copy of the body before it. */
function requestText({ url, headers, body }: Exchange): string {
  const lines = [`POST ${url.pathname}${url.search} HTTP/1.1`, `host: ${url.host}`];
  for (const [name, value] of Object.entries(headers)) {
    // A line end in a value would be a header of somebody else's.
    if (!/^[\x20-\x7e]*$/.test(value)) throw new Error(`Header ${name} is not plain text`);
    lines.push(`${name}: ${value}`);
  }
  return `${lines.join("\r\n")}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

// --- Connections. ---

interface Listener {
  data(chunk: Buffer): void;
  /** The other side has ended it, or it broke. */
  closed(error: Error | null): void;
}

/** Resting connections by peer, the one used last at the end. */
type Idle = Map<string, Connection[]>;

/** The resting connections of one party: a process that plays several must not share them among these. */
export class Connections {
  readonly idle: Idle = new Map();

  /** Closes those that rest. */
  close(): void {
    for (const connection of [...this.idle.values()].flat()) connection.close();
  }
}

const ofProcess = new Connections();

/** Numbers for what connections may not be shared across. */
const tlsNumbers = new WeakMap<ClientTls, number>();
let tlsCount = 0;

function peerOf({ url, unix, tls }: Exchange): string {
  if (unix !== undefined) return unix;
  if (url.protocol === "http:" || tls == null) return url.origin;
  const number = tlsNumbers.get(tls) ?? ++tlsCount;
  tlsNumbers.set(tls, number);
  return `${url.origin} ${number}`;
}

function takeConnection(request: Exchange): Connection {
  const { idle } = request.connections ?? ofProcess;
  const peer = peerOf(request);
  return (
    idle.get(peer)?.at(-1) ??
    new Connection({ idle, peer, shown: request.url.host }, openSocket(request))
  );
}

/** Begins to connect. Not by Bun.connect: that could not be given up while a silent host is awaited. */
function openSocket({ url, unix, tls }: Exchange): Socket {
  if (unix !== undefined) return createConnection({ path: unix });
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const secure = url.protocol === "https:";
  const port = url.port === "" ? (secure ? 443 : 80) : Number(url.port);
  if (!secure) return createConnection({ host, port, noDelay: true });
  const socket = connectTls({
    host,
    port,
    rejectUnauthorized: true,
    // TLS names no addresses there (RFC 6066, section 3); the certificate is held against host all the same.
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...tls,
  });
  socket.setNoDelay(true);
  return socket;
}

/** One connection: with a listener while an exchange is under way on it, else resting. */
class Connection {
  readonly #idle: Idle;
  readonly #peer: string;
  readonly #socket: Socket;
  #listener: Listener | null = null;
  #restTimer: ReturnType<typeof setTimeout> | null = null;

  /** What is sent before it is connected waits. */
  constructor(
    at: { readonly idle: Idle; readonly peer: string; readonly shown: string },
    socket: Socket,
  ) {
    const { idle, peer, shown } = at;
    this.#idle = idle;
    this.#peer = peer;
    this.#socket = socket;
    this.#socket.on("data", (chunk: Buffer) => {
      // Where nothing was asked, whatever this is, the connection is of no use any more.
      if (this.#listener === null) this.close();
      else this.#listener.data(chunk);
    });
    this.#socket.on("error", (error) => this.#closed(wordError(error, shown)));
    this.#socket.on("end", () => this.#closed(null));
    this.#socket.on("close", () => this.#closed(null));
  }

  send(text: string, listener: Listener): void {
    this.#leaveIdle();
    this.#listener = listener;
    this.#socket.ref();
    this.#socket.write(text);
  }

  /** Waits for the next exchange with the same peer. */
  rest(): void {
    const others = this.#idle.get(this.#peer) ?? [];
    if (this.#socket.destroyed || !this.#socket.writable || others.length >= IDLE_MAX) {
      this.close();
      return;
    }
    this.#listener = null;
    // A process that has nothing else to do must be able to end.
    this.#socket.unref();
    this.#restTimer = setTimeout(() => this.close(), IDLE_MS);
    this.#restTimer.unref();
    this.#idle.set(this.#peer, [...others, this]);
  }

  close(): void {
    this.#leaveIdle();
    this.#listener = null;
    this.#socket.destroy();
  }

  #closed(error: Error | null): void {
    const listener = this.#listener;
    this.close();
    listener?.closed(error);
  }

  #leaveIdle(): void {
    if (this.#restTimer === null) return;
    clearTimeout(this.#restTimer);
    this.#restTimer = null;
    const others = (this.#idle.get(this.#peer) ?? []).filter((other) => other !== this);
    if (others.length === 0) this.#idle.delete(this.#peer);
    else this.#idle.set(this.#peer, others);
  }
}

function wordError(error: Error & { code?: string }, origin: string): Error {
  if (error.code === "ECONNREFUSED") return new Error(`${origin} refuses the connection`);
  return new Error(`${origin}: ${error.message}`);
}

// --- Replies. ---

/** Reads one reply out of what comes (RFC 9112), within its bounds. */
class ReplyReader {
  readonly #maxBytes: number;
  #pending: Buffer = NOTHING;
  #head: Pick<Reply, "status" | "headers"> | null = null;
  /** Bytes that are still to come; null where the end of the connection ends the body. */
  #missing: number | null = null;
  #chunked = false;
  readonly #parts: Uint8Array[] = [];
  #size = 0;
  #ended = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** May the connection carry another exchange. */
  get mayReuse(): boolean {
    const close = /(^|,)\s*close\s*(,|$)/i.test(this.#head?.headers.get("connection") ?? "");
    return this.#ended && !close && this.#pending.length === 0;
  }

  /** The reply once it is whole. @throws Error if it breaks a bound or is no HTTP */
  take(chunk: Buffer): Reply | null {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    while (this.#head === null) {
      if (!this.#takeHead()) return null;
    }
    if (this.#chunked) this.#takeChunks();
    else this.#takePlain();
    return this.#ended ? this.#whole() : null;
  }

  /** The connection has ended: the reply, if that is what ends it. */
  finish(): Reply | null {
    if (this.#head === null || this.#ended || this.#chunked || this.#missing !== null) return null;
    return this.#whole();
  }

  #whole(): Reply {
    const { status, headers } = this.#head ?? { status: 0, headers: new Map() };
    const [only] = this.#parts;
    const body = this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts);
    return { status, headers, body };
  }

  /** False while the head is not whole. */
  #takeHead(): boolean {
    const end = this.#pending.indexOf("\r\n\r\n");
    if (end < 0 || end > HEAD_MAX_BYTES) {
      if (this.#pending.length <= HEAD_MAX_BYTES) return false;
      throw new Error(`The reply's head has more than ${HEAD_MAX_BYTES} bytes`);
    }
    const [first = "", ...lines] = this.#pending.toString("latin1", 0, end).split("\r\n");
    this.#pending = this.#pending.subarray(end + 4);
    const status = Number(/^HTTP\/1\.[01] (\d{3})( |$)/.exec(first)?.[1] ?? Number.NaN);
    if (Number.isNaN(status)) throw new Error("The reply is no HTTP");
    // Continue and the like: the reply itself is still to come.
    if (status < 200) return this.#pending.length > 0;
    const headers = new Map<string, string>();
    for (const line of lines) {
      const colon = line.indexOf(":");
      if (colon < 1) throw new Error("The reply is no HTTP: a header without a name");
      headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    this.#head = { status, headers };
    this.#frame(status, headers);
    return true;
  }

  #frame(status: number, headers: ReadonlyMap<string, string>): void {
    const encoding = headers.get("transfer-encoding");
    const length = headers.get("content-length");
    if (status === 204 || status === 304) {
      this.#missing = 0;
    } else if (encoding !== undefined) {
      if (encoding.toLowerCase() !== "chunked") throw new Error(`The reply comes ${encoding}`);
      this.#chunked = true;
    } else if (length !== undefined) {
      if (!/^\d{1,15}$/.test(length)) throw new Error("The reply's length is no number");
      this.#missing = Number(length);
      if (this.#missing > this.#maxBytes) throw this.#tooLarge();
    }
  }

  #takePlain(): void {
    const take = Math.min(this.#missing ?? Number.POSITIVE_INFINITY, this.#pending.length);
    this.#add(this.#pending.subarray(0, take));
    this.#pending = this.#pending.subarray(take);
    if (this.#missing === null) return;
    this.#missing -= take;
    this.#ended = this.#missing === 0;
  }

  #takeChunks(): void {
    for (;;) {
      const end = this.#pending.indexOf("\r\n");
      if (end < 0) {
        if (this.#pending.length > HEAD_MAX_BYTES) throw new Error("The reply's chunks are broken");
        return;
      }
      const size = /^([0-9A-Fa-f]{1,8})\s*(;|$)/.exec(
        this.#pending.toString("latin1", 0, end),
      )?.[1];
      if (size === undefined) throw new Error("The reply's chunks are broken");
      const bytes = Number.parseInt(size, 16);
      if (this.#size + bytes > this.#maxBytes) throw this.#tooLarge();
      // The last one is empty; what may follow it is not read, so the connection is not used again.
      if (bytes === 0) {
        const rest = this.#pending.subarray(end + 2);
        if (rest.length < 2) return;
        this.#pending = rest.toString("latin1", 0, 2) === "\r\n" ? rest.subarray(2) : rest;
        this.#ended = true;
        return;
      }
      if (this.#pending.length < end + 2 + bytes + 2) return;
      this.#add(this.#pending.subarray(end + 2, end + 2 + bytes));
      this.#pending = this.#pending.subarray(end + 2 + bytes + 2);
    }
  }

  #add(bytes: Uint8Array): void {
    this.#size += bytes.length;
    if (this.#size > this.#maxBytes) throw this.#tooLarge();
    if (bytes.length > 0) this.#parts.push(bytes);
  }

  #tooLarge(): Error {
    return new Error(`The reply has more than ${this.#maxBytes} bytes`);
  }
}
