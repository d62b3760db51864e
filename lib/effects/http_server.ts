/**
 * Receiving over HTTP/1.1. Owns connections and their framing (RFC 9112), decides nothing about a
 * request. The runtime's own server tells of a connection only once a request on it is whole, so that
 * it can neither bound connections nor say whose certificate was shown on one.
 *
 * Invariants: however many connect, and however slowly they speak, a newcomer is taken, and who has
 * proven to be a peer keeps the connection; the memory that a connection holds is bounded. What makes
 * room is the oldest connection without an answer under way, of the same address where that has many.
 */
import type { Socket, TCPSocketListener } from "bun";
import { MinderError } from "../errors.ts";

/** Connections of strangers: such as have not yet carried a message that was accepted. */
export const STRANGERS_MAX = 256;
/** Of those, from one address. */
export const STRANGERS_PER_ADDRESS_MAX = 64;
/** Connections of peers; each keeps two at most, and there are some hundred of them. */
export const PEERS_MAX = 1024;
/** A connection without a request is closed after this; peers report twice a second. */
const IDLE_MS = 10_000;
/** From its first byte on, a head is whole within this. */
const HEAD_MS = 5_000;
/** Who does not read an answer is waited for so long. */
const ANSWER_MS = 10_000;
/** What still comes in after the last answer is read and dropped for so long, lest a reset overtakes it. */
const LINGER_MS = 1_000;
const SWEEP_MS = 1_000;
const HEAD_MAX_BYTES = 16_384;
/** What may wait beside a head: the body of a message, before it is asked for. */
const PENDING_MAX_BYTES = 262_144 + HEAD_MAX_BYTES;
const NOTHING = Buffer.alloc(0);

/** Names in a certificate that was found good: its common name, and its alternative names. */
export interface Certificate {
  readonly commonName: string;
  /** DNS names and addresses. */
  readonly hosts: readonly string[];
}

/** A body, or why there is none. */
export type BodyResult = Uint8Array | "too_large" | "late" | "broken" | "no_length";

/** Who asks, as far as the connection tells. */
export interface Visitor {
  readonly address: string;
  /** Null where none was asked for. */
  readonly certificate: Certificate | null;
  /** Reads the body, once. */
  body(maxBytes: number, timeoutMs: number): Promise<BodyResult>;
  /** This is a peer: from now on its connection does not make room for a stranger's. */
  proven(): void;
}

export interface HttpServerOptions {
  readonly hostname: string;
  readonly port: number;
  readonly tls?: ServerTls | null;
  /** The request comes without its body, which is the visitor's. */
  readonly fetch: (request: Request, visitor: Visitor) => Response | Promise<Response>;
  /** Told what ended without a request: `no_http`, `head_late`, `head_too_large`, `connections`. */
  readonly dropped?: (reason: string, address: string) => void;
  /** @default STRANGERS_MAX and so on */
  readonly limits?: Partial<Limits>;
}

/** What a receiver needs for TLS, as PEM. */
export interface ServerTls {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
  /** Who connects must show a certificate. */
  readonly mutual: boolean;
}

interface Limits {
  readonly strangers: number;
  readonly strangersPerAddress: number;
  readonly peers: number;
  readonly idleMs: number;
  readonly headMs: number;
}

export interface HttpServer {
  readonly port: number;
  /** Connections at present. */
  connections(): { readonly strangers: number; readonly peers: number };
  /** Shows another certificate from the next connection on. @throws MinderError if that cannot be */
  renew(tls: ServerTls): void;
  /** Takes no more connections and requests; without force those under way are answered. */
  stop(force: boolean): void;
}

/** Listens. @throws MinderError where that cannot be */
export function serveHttp(options: HttpServerOptions): HttpServer {
  let shown = options.tls ?? null;
  const limits: Limits = {
    strangers: STRANGERS_MAX,
    strangersPerAddress: STRANGERS_PER_ADDRESS_MAX,
    peers: PEERS_MAX,
    idleMs: IDLE_MS,
    headMs: HEAD_MS,
    ...options.limits,
  };
  const house = new House(options, limits);
  let listener = house.listen(options.port, shown);
  const sweeper = setInterval(() => house.sweep(performance.now()), SWEEP_MS);
  sweeper.unref();
  const { port } = listener;
  return {
    port,
    connections: () => ({ strangers: house.strangers.size, peers: house.peers.size }),
    renew(next) {
      // In one go of this thread: who knocks meanwhile waits in the kernel or tries again.
      listener.stop(false);
      try {
        listener = house.listen(port, next);
        shown = next;
      } catch (error) {
        listener = house.listen(port, shown);
        throw error;
      }
    },
    stop(force) {
      clearInterval(sweeper);
      listener.stop(false);
      house.close(force);
    },
  };
}

/** All connections of a server. */
class House {
  /** Oldest first. */
  readonly strangers = new Set<Connection>();
  readonly peers = new Set<Connection>();
  readonly options: HttpServerOptions;
  readonly limits: Limits;
  readonly #perAddress = new Map<string, number>();
  closing = false;

  constructor(options: HttpServerOptions, limits: Limits) {
    this.options = options;
    this.limits = limits;
  }

  listen(port: number, tls: ServerTls | null): TCPSocketListener<Connection> {
    const house = this;
    const { hostname } = this.options;
    try {
      return Bun.listen<Connection>({
        hostname,
        port,
        ...(tls === null ? {} : { tls: tlsOptions(tls) }),
        socket: {
          open(socket) {
            socket.data = new Connection(house, socket, tls);
            house.enter(socket.data);
          },
          handshake(socket, success) {
            socket.data.shook(success);
          },
          data(socket, chunk) {
            socket.data.take(chunk);
          },
          drain(socket) {
            socket.data.flush();
          },
          end(socket) {
            socket.data.ended();
          },
          close(socket) {
            // A handshake that fails may close what was never opened.
            socket.data?.gone();
          },
          error(socket) {
            socket.data?.terminate();
          },
        },
      });
    } catch (cause) {
      throw new MinderError("Cannot listen", {
        where: `${hostname}:${port}`,
        hint: "Is another minder running here, or is this address not this host's?",
        cause,
      });
    }
  }

  enter(connection: Connection): void {
    const { address } = connection;
    const { strangers, strangersPerAddress } = this.limits;
    const same = this.#perAddress.get(address) ?? 0;
    if (same >= strangersPerAddress) {
      this.#makeRoom(this.strangers, (other) => other.address === address);
    } else if (this.strangers.size >= strangers) this.#makeRoom(this.strangers);
    const crowded =
      this.strangers.size >= strangers ||
      (this.#perAddress.get(address) ?? 0) >= strangersPerAddress;
    if (this.closing || crowded) {
      // Each of the others has an answer under way.
      this.options.dropped?.("connections", address);
      connection.terminate();
      return;
    }
    this.strangers.add(connection);
    this.#perAddress.set(address, (this.#perAddress.get(address) ?? 0) + 1);
  }

  prove(connection: Connection): void {
    if (!this.#leaveStrangers(connection)) return;
    if (this.peers.size >= this.limits.peers) this.#makeRoom(this.peers);
    this.peers.add(connection);
  }

  leave(connection: Connection): void {
    this.peers.delete(connection);
    this.#leaveStrangers(connection);
  }

  #leaveStrangers(connection: Connection): boolean {
    if (!this.strangers.delete(connection)) return false;
    const left = (this.#perAddress.get(connection.address) ?? 1) - 1;
    if (left === 0) this.#perAddress.delete(connection.address);
    else this.#perAddress.set(connection.address, left);
    return true;
  }

  #makeRoom(among: Set<Connection>, fits: (other: Connection) => boolean = () => true): void {
    for (const other of among) {
      if (other.answering || !fits(other)) continue;
      this.options.dropped?.("connections", other.address);
      other.terminate();
      return;
    }
  }

  sweep(now: number): void {
    for (const connection of [...this.strangers, ...this.peers]) connection.check(now);
  }

  close(force: boolean): void {
    this.closing = true;
    for (const connection of [...this.strangers, ...this.peers]) {
      if (force) connection.terminate();
      else connection.closeIfResting();
    }
  }
}

function tlsOptions({ cert, key, ca, mutual }: ServerTls): Bun.TLSOptions {
  return { cert, key, ca, requestCert: mutual, rejectUnauthorized: mutual };
}

interface Head {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly (readonly [string, string])[];
  /** May the connection carry another request. */
  readonly keep: boolean;
  /** Bytes of the body; null: they are not stated, as in chunks. */
  readonly length: number | null;
  readonly waits: boolean;
}

interface BodyWait {
  readonly resolve: (result: BodyResult) => void;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** `head`: a request is awaited or comes in; `answering`: it is at work; `closing`: nothing is read any more. */
type Phase = "head" | "answering" | "closing" | "gone";

/** One connection, with one request at a time. */
class Connection implements Visitor {
  readonly address: string;
  certificate: Certificate | null = null;
  readonly #house: House;
  readonly #socket: Socket<Connection>;
  readonly #mutual: boolean;
  #phase: Phase = "head";
  /** When the phase began, or the head's first byte came. */
  #since = performance.now();
  /** What has come and not been used. */
  #parts: Buffer[] = [];
  #size = 0;
  #missing = 0;
  #head: Head | null = null;
  #wait: BodyWait | null = null;
  #out: Uint8Array = NOTHING;
  /** The other side has said all that it will. */
  #ended = false;

  constructor(house: House, socket: Socket<Connection>, tls: ServerTls | null) {
    this.#house = house;
    this.#socket = socket;
    this.#mutual = tls?.mutual ?? false;
    this.address = socket.remoteAddress;
  }

  get answering(): boolean {
    return this.#phase === "answering" && this.#wait === null;
  }

  // --- What the socket tells. ---

  shook(success: boolean): void {
    if (!this.#mutual) return;
    this.certificate = success ? certificateOf(this.#socket) : null;
    if (this.certificate === null) this.#drop("no_certificate");
  }

  take(chunk: Buffer): void {
    if (this.#phase === "closing" || this.#phase === "gone") return;
    if (this.#mutual && this.certificate === null) {
      this.#drop("no_certificate");
      return;
    }
    if (this.#size === 0 && this.#phase === "head") this.#since = performance.now();
    this.#size += chunk.length;
    // A copy: the runtime uses the bytes again.
    this.#parts.push(Buffer.from(chunk));
    if (this.#phase === "head") this.#tryHead();
    else if (this.#wait !== null) this.#tryBody();
    if (this.#size <= PENDING_MAX_BYTES) return;
    // Either the app refuses a body as large as this, or somebody does not wait for answers.
    const { length = 0 } = this.#head ?? {};
    if (length === null || length > PENDING_MAX_BYTES) this.#keepOnly(NOTHING);
    else this.terminate();
  }

  ended(): void {
    this.#ended = true;
    if (this.#wait !== null) this.#endWait("broken");
    if (this.#phase !== "answering") this.terminate();
  }

  gone(): void {
    this.#phase = "gone";
    this.#parts = [];
    this.#out = NOTHING;
    this.#endWait("broken");
    this.#house.leave(this);
  }

  terminate(): void {
    if (this.#phase === "gone") return;
    this.gone();
    this.#socket.terminate();
  }

  flush(): void {
    if (this.#out.length === 0) return;
    const written = this.#socket.write(this.#out);
    this.#out = written < 0 ? NOTHING : this.#out.subarray(written);
    if (this.#out.length === 0 && this.#phase === "closing") this.#socket.end();
  }

  // --- Time. ---

  check(now: number): void {
    const age = now - this.#since;
    const { idleMs, headMs } = this.#house.limits;
    if (this.#out.length > 0 && age > ANSWER_MS) this.terminate();
    else if (this.#phase === "closing" && age > LINGER_MS) this.terminate();
    else if (this.#phase === "head" && this.#size > 0 && age > headMs) this.#drop("head_late");
    else if (this.#phase === "head" && this.#size === 0 && age > idleMs) this.terminate();
  }

  closeIfResting(): void {
    if (this.#phase === "head") this.terminate();
  }

  #drop(reason: string): void {
    if (this.#phase === "gone") return;
    this.#house.options.dropped?.(reason, this.address);
    this.terminate();
  }

  // --- A request. ---

  #pending(): Buffer {
    const [only] = this.#parts;
    if (this.#parts.length === 1 && only !== undefined) return only;
    const all = Buffer.concat(this.#parts);
    this.#parts = [all];
    return all;
  }

  #keepOnly(rest: Buffer): void {
    this.#parts = rest.length === 0 ? [] : [rest];
    this.#size = rest.length;
  }

  #tryHead(): void {
    const pending = this.#pending();
    const end = pending.indexOf("\r\n\r\n");
    if (end < 0 || end > HEAD_MAX_BYTES) {
      if (this.#size <= HEAD_MAX_BYTES) return;
      this.#refuse(431, "head_too_large");
      return;
    }
    const head = readHead(pending.toString("latin1", 0, end));
    this.#keepOnly(pending.subarray(end + 4));
    if (head === null) {
      this.#refuse(400, "no_http");
      return;
    }
    this.#head = head;
    this.#missing = head.length ?? 0;
    this.#phase = "answering";
    this.#since = performance.now();
    void this.#answer(head);
  }

  async #answer(head: Head): Promise<void> {
    const { fetch } = this.#house.options;
    let response: Response;
    try {
      const { method, target } = head;
      // No body goes in: for the app it is the visitor's.
      const request = new Request(`http://party${target}`, {
        method,
        headers: head.headers as [string, string][],
      });
      response = await fetch(request, this);
    } catch {
      // A method or target that the runtime's Request does not take.
      response = new Response(null, { status: 400 });
    }
    const body = new Uint8Array(await response.arrayBuffer());
    if (this.#phase !== "answering") return;
    const keep = head.keep && head.length !== null && !this.#house.closing && !this.#ended;
    this.#say(response, body, { keep: keep && this.#missing === 0, bare: head.method === "HEAD" });
  }

  body(maxBytes: number, timeoutMs: number): Promise<BodyResult> {
    const { length = 0, waits = false } = this.#head ?? {};
    if (length === null) return Promise.resolve("no_length");
    if (length > maxBytes) return Promise.resolve("too_large");
    if (this.#phase !== "answering" || this.#wait !== null) return Promise.resolve("broken");
    if (this.#size >= this.#missing) return Promise.resolve(this.#takeBody());
    if (this.#ended) return Promise.resolve("broken");
    if (waits) this.#send(Buffer.from("HTTP/1.1 100 Continue\r\n\r\n"));
    const { promise, resolve } = Promise.withResolvers<BodyResult>();
    this.#wait = { resolve, timer: setTimeout(() => this.#endWait("late"), timeoutMs) };
    return promise;
  }

  proven(): void {
    if (this.#phase !== "gone") this.#house.prove(this);
  }

  #tryBody(): void {
    if (this.#size >= this.#missing) this.#endWait(this.#takeBody());
  }

  #takeBody(): Uint8Array {
    if (this.#missing === 0) return NOTHING;
    const pending = this.#pending();
    const body = pending.subarray(0, this.#missing);
    this.#keepOnly(pending.subarray(this.#missing));
    this.#missing = 0;
    return body;
  }

  #endWait(result: BodyResult): void {
    const wait = this.#wait;
    if (wait === null) return;
    this.#wait = null;
    clearTimeout(wait.timer);
    wait.resolve(result);
  }

  // --- An answer. ---

  #refuse(status: number, reason: string): void {
    this.#house.options.dropped?.(reason, this.address);
    const text = JSON.stringify({ error: REFUSALS[reason] ?? reason, reason });
    const headers = { "content-type": "application/json" };
    this.#phase = "answering";
    this.#say(new Response(null, { status, headers }), Buffer.from(text), { keep: false });
  }

  #say(
    { status, headers }: Response,
    body: Uint8Array,
    { keep, bare = false }: { readonly keep: boolean; readonly bare?: boolean },
  ): void {
    // No date: no time of day is ever sent.
    let head = `HTTP/1.1 ${status} ${WORDS[status] ?? "Status"}\r\n`;
    for (const [name, value] of headers) head += `${name}: ${value}\r\n`;
    head += `content-length: ${body.length}\r\n${keep ? "" : "connection: close\r\n"}\r\n`;
    this.#since = performance.now();
    this.#phase = keep ? "head" : "closing";
    this.#head = null;
    if (!keep) this.#keepOnly(NOTHING);
    this.#send(
      bare ? Buffer.from(head, "latin1") : Buffer.concat([Buffer.from(head, "latin1"), body]),
    );
    if (keep && this.#size > 0) this.#tryHead();
  }

  #send(bytes: Uint8Array): void {
    if (this.#phase === "gone") return;
    this.#out = this.#out.length === 0 ? bytes : Buffer.concat([this.#out, bytes]);
    this.flush();
  }
}

/** Reads a request's head; null if it is none, or one that could be understood in two ways. */
function readHead(text: string): Head | null {
  const [first = "", ...lines] = text.replace(/^(\r\n)+/, "").split("\r\n");
  const start = /^([A-Z]{1,16}) (\/[\x21-\x7e]{0,4096}) HTTP\/1\.([01])$/.exec(first);
  if (start === null) return null;
  const [, method = "", target = "", minor = ""] = start;
  const headers: [string, string][] = [];
  let length: number | null = 0;
  let stated = false;
  let chunked = false;
  let connection = "";
  let waits = false;
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
      return null;
    }
    headers.push([name, value]);
    if (name === "content-length") {
      if (stated || !/^\d{1,15}$/.test(value)) return null;
      stated = true;
      length = Number(value);
    } else if (name === "transfer-encoding") chunked = true;
    else if (name === "connection") connection = value.toLowerCase();
    else if (name === "expect") waits = value.toLowerCase() === "100-continue";
  }
  // Both: two readers could see two different bodies (RFC 9112, section 6.3).
  if (chunked && stated) return null;
  if (chunked) length = null;
  const close = minor === "0" ? !/\bkeep-alive\b/.test(connection) : /\bclose\b/.test(connection);
  return { method, target, headers, keep: !close, length, waits };
}

function certificateOf(socket: Socket<Connection>): Certificate | null {
  const found = socket.getPeerCertificate();
  if (found === undefined || found === null || found.subject === undefined) return null;
  const { subject, subjectaltname = "" } = found;
  const commonName = Array.isArray(subject.CN) ? (subject.CN[0] ?? "") : (subject.CN ?? "");
  const hosts = subjectaltname
    .split(", ")
    .map((each) => /^(?:DNS|IP Address):([^",]+)$/.exec(each)?.[1])
    .filter((host) => host !== undefined);
  return { commonName, hosts };
}

const REFUSALS: Readonly<Record<string, string>> = {
  no_http: "This is no HTTP/1.1 request",
  head_too_large: `A request's head has at most ${HEAD_MAX_BYTES} bytes`,
};

const WORDS: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  503: "Service Unavailable",
};
