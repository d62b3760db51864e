/**
 * A peer that means harm: random, mutated, truncated, replayed, reordered, oversized, slow and flooding
 * input, over sockets of its own so that broken HTTP is among it. Owns what is sent and the count of
 * what comes back. It may hold the nodes' secret, so that its nonsense gets behind the seal; what it
 * never does is to shake hands: a holder of the secret who does is believed.
 */
import { connect, type Socket } from "node:net";
import { SEAL_HEADER, SealKey, sealRequest } from "../seal.ts";
import { mulberry, pick, type Random } from "./random.ts";
import type { Recorded } from "./record.ts";

/** Whom it attacks. */
export interface Victim {
  readonly id: string;
  readonly host: string;
  readonly port: number;
}

export interface HostileOptions {
  readonly victims: readonly Victim[];
  readonly inputs: number;
  readonly seed: number;
  /** Seals nonsense rightly; null: it knows no secret. */
  readonly key: SealKey | null;
  /** Valid messages as JSON, to be spoilt. */
  readonly messages: readonly string[];
  /** To be sent again as they were. */
  readonly recorded: readonly Recorded[];
  /** Connections at a time. */
  readonly connections: number;
  /** An answer is awaited for so long. @default 6000 */
  readonly answerMs?: number;
  /** Of those, such that send a few bytes a second. */
  readonly slow: number;
  /** Own address of the nth connection: each has a rate of its own. @default the system's */
  readonly addressOf?: (connection: number) => string;
  /** Ends it before all inputs are sent. */
  readonly signal?: AbortSignal;
  /** Told now and then. */
  readonly progress?: (sent: number) => void;
}

export interface HostileResult {
  readonly sent: number;
  readonly elapsedMs: number;
  readonly connections: number;
  /** Inputs by kind. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Answers by status and reason; `closed`: the connection ended instead, `silent`: nothing came. */
  readonly answers: Readonly<Record<string, number>>;
}

/** Inputs over one connection before it is left. */
const PER_CONNECTION = 40;
/** A host without power answers nothing at all. */
const CONNECT_MS = 1_000;
const ANSWER_MS = 6_000;
/** What is not even HTTP may be waited on by the other side. */
const BROKEN_ANSWER_MS = 200;
/** A slow one is left after this. */
const SLOW_MS = 30_000;
const PROGRESS_EVERY = 10_000;

interface Shot {
  readonly kind: string;
  readonly bytes: Buffer;
  /** What was sent leaves the connection in no state to go on. */
  readonly last: boolean;
}

/** Sends all of it. Never rejects: whatever the victims do is a count. */
export async function attack(options: HostileOptions): Promise<HostileResult> {
  const { inputs, connections, slow, signal, progress } = options;
  const random = mulberry(options.seed);
  const kinds = new Map<string, number>();
  const answers = new Map<string, number>();
  const startedAt = performance.now();
  let sent = 0;
  let opened = 0;
  const over = (): boolean => sent >= inputs || signal?.aborted === true;
  const count = (map: Map<string, number>, key: string): void => {
    map.set(key, (map.get(key) ?? 0) + 1);
  };

  async function flooding(): Promise<void> {
    while (!over()) {
      const victim = pick(random, options.victims);
      const line = await open(victim, options.addressOf?.(opened++), options.answerMs);
      if (line === null) {
        count(answers, "no connection");
        await Bun.sleep(20);
        continue;
      }
      for (let n = 0; n < PER_CONNECTION && !over(); n++) {
        const shot = aim(random, options, victim);
        sent++;
        if (sent % PROGRESS_EVERY === 0) progress?.(sent);
        count(kinds, shot.kind);
        const answer = await line.fire(shot);
        count(answers, answer);
        if (shot.last || answer === "closed" || answer === "silent") break;
      }
      line.end();
    }
  }

  async function dribbling(): Promise<void> {
    while (!over()) {
      const victim = pick(random, options.victims);
      const line = await open(victim, options.addressOf?.(opened++), options.answerMs);
      if (line === null) {
        await Bun.sleep(100);
        continue;
      }
      sent++;
      count(kinds, "slow");
      const head = `POST /messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n`;
      const inBody = random() < 0.5;
      line.write(Buffer.from(inBody ? `${head}\r\n` : head));
      const until = performance.now() + SLOW_MS;
      while (!line.closed() && !over() && performance.now() < until) {
        line.write(Buffer.from(inBody ? "x" : `X-${Math.floor(random() * 1e6)}: y\r\n`));
        await Bun.sleep(500);
      }
      count(answers, line.closed() ? "closed" : "silent");
      line.end();
    }
  }

  await Promise.all([
    ...Array.from({ length: connections - slow }, flooding),
    ...Array.from({ length: slow }, dribbling),
  ]);
  return {
    sent,
    elapsedMs: performance.now() - startedAt,
    connections: opened,
    kinds: Object.fromEntries(kinds),
    answers: Object.fromEntries(answers),
  };
}

// --- What is sent. ---

function noise(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)));
}

/** Kinds with their shares; the costly ones are rare. */
const KINDS: readonly (readonly [string, number])[] = [
  ["noise", 4],
  ["http_noise", 4],
  ["unsigned", 10],
  ["tampered", 10],
  ["foreign_key", 6],
  ["sealed_noise", 10],
  ["sealed_mutated", 20],
  ["sealed_truncated", 8],
  ["replayed", 20],
  ["order", 6],
  ["path", 5],
  ["oversized_header", 0.5],
  ["oversized_body", 0.1],
];
const SHARES = KINDS.reduce((sum, [, share]) => sum + share, 0);

function kindAt(at: number): string {
  let left = at;
  for (const [kind, share] of KINDS) {
    left -= share;
    if (left < 0) return kind;
  }
  return "noise";
}

function aim(random: Random, options: HostileOptions, victim: Victim): Shot {
  const kind = kindAt(random() * SHARES);
  const { own, all } = messagesFor(options, victim);
  const message = () => strange(random, pick(random, random() < STRAY ? all : own));
  const sealed = (body: Buffer) =>
    post(body, options.key === null ? null : sealRequest(options.key, body));
  switch (kind) {
    case "http_noise":
      return { kind, bytes: mutate(random, post(Buffer.from(message()), null)), last: true };
    case "unsigned":
      return { kind, bytes: post(Buffer.from(message()), null), last: false };
    case "tampered": {
      const body = Buffer.from(message());
      const seal = options.key === null ? FORGED : sealRequest(options.key, body);
      return { kind, bytes: post(mutate(random, body), seal), last: false };
    }
    case "foreign_key":
      return { kind, bytes: post(Buffer.from(message()), FORGED), last: false };
    case "sealed_noise":
      return { kind, bytes: sealed(noise(random, Math.floor(random() * 400))), last: false };
    case "sealed_mutated": {
      const body =
        random() < 0.6 ? alter(random, message()) : mutate(random, Buffer.from(message()));
      return { kind, bytes: sealed(body), last: false };
    }
    case "sealed_truncated": {
      const body = Buffer.from(message());
      return {
        kind,
        bytes: sealed(body.subarray(0, Math.floor(random() * body.length))),
        last: false,
      };
    }
    case "replayed": {
      const ownRecorded = options.recorded.filter(({ body }) => isFor(body, victim));
      if (ownRecorded.length === 0) break;
      const { seal, body } = pick(random, ownRecorded);
      return { kind, bytes: post(Buffer.from(body), seal), last: false };
    }
    case "order": {
      const node = pick(random, ["dc1", "dc2", "db1", "dbserver.2"]);
      const who = { who: "nobody", why: "" };
      const said = pick(random, [
        { verb: "drain", parameters: { ...who, node } },
        { verb: "retire", parameters: { ...who, node } },
        { verb: "pause", parameters: who },
        { verb: "make_primary", parameters: { ...who, segment: node, allowDataLoss: true } },
      ]);
      const order = { ...ENVELOPE, sender: "command.1", receiver: victim.id, ...said };
      return { kind, bytes: sealed(Buffer.from(JSON.stringify(order))), last: false };
    }
    case "path": {
      const method = pick(random, ["GET", "PUT", "DELETE", "OPTIONS", "POST"]);
      const path = pick(random, ["/", "/status", "/healthz", "//messages", "/../messages", "/%00"]);
      const bytes = Buffer.from(`${method} ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
      return { kind, bytes, last: false };
    }
    case "oversized_header": {
      const fill = "a".repeat(20_000 + Math.floor(random() * 60_000));
      const bytes = Buffer.from(`POST /messages HTTP/1.1\r\nHost: x\r\nX-Fill: ${fill}\r\n\r\n`);
      return { kind, bytes, last: true };
    }
    case "oversized_body":
      return {
        kind,
        bytes: sealed(Buffer.alloc(262_145 + Math.floor(random() * 1e5), 97)),
        last: true,
      };
  }
  return { kind: "noise", bytes: noise(random, 1 + Math.floor(random() * 600)), last: true };
}

/** Share of messages that are meant for another party than they reach. */
const STRAY = 0.1;

function isFor(body: string, victim: Victim): boolean {
  return body.includes(`"receiver":"${victim.id}"`);
}

/** Messages that the victim would take, if they were right. */
function messagesFor(options: HostileOptions, victim: Victim) {
  const own = options.messages.filter((body) => isFor(body, victim));
  return { all: options.messages, own: own.length === 0 ? options.messages : own };
}

const ENVELOPE = { v: 1, session: "hostile", seq: 1, toSession: "hostile", configVersion: 1 };
const FORGED = sealRequest(new SealKey("node", "0123456789".repeat(4)), "something else");

/** A valid message of a session that nobody has: a right one would be a node's word. */
function strange(random: Random, message: string): string {
  const session = `h${Math.floor(random() * 1e9)}`;
  return message.replace(/"(session|toSession)":"[^"]*"/g, (_, key) => `"${key}":"${session}"`);
}

/** Some bytes changed, cut out or doubled. */
function mutate(random: Random, bytes: Buffer): Buffer {
  let now = Buffer.from(bytes);
  for (let n = 1 + Math.floor(random() * 5); n > 0; n--) {
    const at = Math.floor(random() * now.length);
    const how = random();
    if (how < 0.6) now[at] = Math.floor(random() * 256);
    else if (how < 0.8) now = Buffer.concat([now.subarray(0, at), now.subarray(at + 1 + (at % 7))]);
    else now = Buffer.concat([now.subarray(0, at), now.subarray(at >> 1)]);
  }
  return now;
}

const ODD: readonly unknown[] = [
  ...[null, true, -1, 0.5, 1e308, -0, 2 ** 53, "", "x".repeat(5000), "\u0000", "\ud800"],
  ...[[], {}, [[[[[]]]]], { a: 1 }, "../../etc", "'; --", "dbserver.1", "arbitrator.1"],
];

/** One value in a message replaced or left out: it stays JSON, and gets as far as its schema. */
function alter(random: Random, message: string): Buffer {
  const value = JSON.parse(message) as Record<string, unknown>;
  let parent = value;
  for (let depth = 0; depth < 4; depth++) {
    const key = pick(random, [...Object.keys(parent), "new"]);
    const inner = parent[key];
    if (typeof inner === "object" && inner !== null && !Array.isArray(inner) && random() < 0.8) {
      parent = inner as Record<string, unknown>;
      continue;
    }
    if (random() < 0.2) delete parent[key];
    else parent[key] = pick(random, ODD);
    break;
  }
  return Buffer.from(JSON.stringify(value));
}

function post(body: Buffer, seal: string | null): Buffer {
  const head = [
    "POST /messages HTTP/1.1",
    "Host: x",
    "Content-Type: application/json",
    `Content-Length: ${body.length}`,
    ...(seal === null ? [] : [`${SEAL_HEADER}: ${seal}`]),
  ];
  return Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), body]);
}

// --- The wire. ---

interface Line {
  /** Sends it and waits for the answer. */
  fire(shot: Shot): Promise<string>;
  write(bytes: Buffer): void;
  closed(): boolean;
  end(): void;
}

/** Null if there is no connection. */
function open(
  victim: Victim,
  localAddress: string | undefined,
  answerMs = ANSWER_MS,
): Promise<Line | null> {
  return new Promise((resolve) => {
    let heard: Buffer = Buffer.alloc(0);
    let ended = false;
    let waiting: ((answer: string) => void) | null = null;
    const socket: Socket = connect({
      host: victim.host,
      port: victim.port,
      ...(localAddress === undefined ? {} : { localAddress }),
    });
    const answer = (text: string): void => {
      const tell = waiting;
      waiting = null;
      tell?.(text);
    };
    socket.setNoDelay(true);
    const late = setTimeout(() => socket.destroy(), CONNECT_MS);
    socket.on("error", () => undefined);
    socket.on("data", (part: Buffer) => {
      heard = heard.length === 0 ? part : Buffer.concat([heard, part]);
      const whole = takeAnswer(heard);
      if (whole === null) return;
      heard = heard.subarray(whole.length);
      answer(whole.word);
    });
    socket.on("close", () => {
      clearTimeout(late);
      ended = true;
      answer("closed");
      resolve(null);
    });
    socket.on("connect", () => {
      clearTimeout(late);
      resolve({
        fire(shot) {
          if (ended) return Promise.resolve("closed");
          return new Promise((done) => {
            const patience = shot.kind.endsWith("noise") ? BROKEN_ANSWER_MS : answerMs;
            const timer = setTimeout(() => answer("silent"), patience);
            waiting = (text) => {
              clearTimeout(timer);
              done(text);
            };
            socket.write(shot.bytes);
          });
        },
        write: (bytes) => void socket.write(bytes),
        closed: () => ended,
        end: () => socket.destroy(),
      });
    });
  });
}

/** The first whole response in there, as "401 not_signed". */
function takeAnswer(heard: Buffer): { readonly word: string; readonly length: number } | null {
  const head = heard.indexOf("\r\n\r\n");
  if (head < 0) return null;
  const text = heard.toString("latin1", 0, head);
  const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? "???";
  const size = Number(/^content-length: (\d+)/im.exec(text)?.[1] ?? 0);
  const length = head + 4 + size;
  if (heard.length < length) return null;
  const body = heard.toString("utf8", head + 4, Math.min(length, head + 400));
  const reason = /"reason":"([a-z0-9_]+)"/.exec(body)?.[1];
  return { word: reason === undefined ? status : `${status} ${reason}`, length };
}
