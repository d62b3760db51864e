/**
 * Proof that a message comes from a holder of a secret: HMAC-SHA256 over the raw body, in a header.
 * Owns keys, seals and who may say what with which key. No file, clock or network: secrets are given
 * in as text.
 *
 * Invariants: nothing of a body is looked at before its seal is found right; a reply's seal covers the
 * seal of its request and the status, so that no reply passes for one to another message.
 */
import { timingSafeEqual } from "node:crypto";
import { partyType } from "./message/envelope.ts";
import { isQuestion, type Message } from "./message/mod.ts";

/** Header of requests and replies: `node.1f2e3d4c` and the MAC in hexadecimal digits. */
export const SEAL_HEADER = "minder-seal";
/** Secrets at a time: two, so that one can follow the other without a moment when neither is known. */
export const SECRETS_MAX = 2;
/** A secret has at least so many characters: 32 of base64 are 192 bits. */
export const SECRET_LENGTH_MIN = 32;
export const SECRET_LENGTH_MAX = 512;

/**
 * Whose secret it is. `node`: the parties' among themselves. `operator`: of people, who give orders;
 * a node's secret cannot.
 */
export const KEY_KINDS = ["node", "operator"] as const;
export type KeyKind = (typeof KEY_KINDS)[number];

/** A secret ready for use. Its bytes are in no log: the object shows as its id. */
export class SealKey {
  readonly kind: KeyKind;
  /** `node.1f2e3d4c`: says which secret, and nothing about it. */
  readonly id: string;
  readonly #bytes: Uint8Array;

  constructor(kind: KeyKind, secret: string) {
    this.kind = kind;
    // Derived by kind: one text in both files by mistake still makes two keys.
    this.#bytes = hmac(Buffer.from(secret, "utf8"), [`galera-minder ${kind} key`]);
    this.id = `${kind}.${Buffer.from(hmac(this.#bytes, ["id"])).toString("hex", 0, 4)}`;
  }

  mac(parts: readonly (string | Uint8Array)[]): Uint8Array {
    return hmac(this.#bytes, parts);
  }

  toJSON(): string {
    return this.id;
  }
}

/** The keys that a process knows. */
export interface Keyring {
  /** In the order of the file: the first of a kind signs, all of it are accepted. */
  readonly keys: readonly SealKey[];
}

/** The key that signs; null where there is none of that kind. */
export function signingKey(ring: Keyring, kind: KeyKind): SealKey | null {
  return ring.keys.find((key) => key.kind === kind) ?? null;
}

/** The secrets in the text of a secret file, or what is wrong with it. Never names a secret. */
export function readSecrets(
  text: string,
): { readonly secrets: readonly string[] } | { readonly wrong: string } {
  const lines = text
    .split(/\r?\n/)
    .map((line, index) => ({ secret: line.trim(), at: index + 1 }))
    .filter(({ secret }) => secret !== "" && !secret.startsWith("#"));
  if (lines.length === 0) return { wrong: "it holds no secret" };
  if (lines.length > SECRETS_MAX) {
    return { wrong: `it holds ${lines.length} secrets, at most ${SECRETS_MAX} at a time` };
  }
  for (const { secret, at } of lines) {
    if (!/^[\x21-\x7e]+$/.test(secret)) {
      return { wrong: `line ${at} has characters other than printable ASCII without blanks` };
    }
    if (secret.length < SECRET_LENGTH_MIN || secret.length > SECRET_LENGTH_MAX) {
      return {
        wrong: `line ${at} has ${secret.length} characters, must be ${SECRET_LENGTH_MIN} to ${SECRET_LENGTH_MAX}`,
      };
    }
  }
  const secrets = lines.map(({ secret }) => secret);
  if (new Set(secrets).size < secrets.length) return { wrong: "both of its secrets are the same" };
  return { secrets };
}

/** The seal of a request. */
export function sealRequest(key: SealKey, body: string | Uint8Array): string {
  return `${key.id} ${hex(key.mac([REQUEST, body]))}`;
}

/** What a seal claims to be, before anything is proven. */
export interface Claim {
  readonly key: SealKey;
  readonly mac: Uint8Array;
}

export type ClaimRefusal = "not_signed" | "unknown_key";

/** Reads a request's header: which key it names, if that is known. */
export function readClaim(ring: Keyring, header: string | null): Claim | ClaimRefusal {
  const parts = partsOf(header);
  if (parts === null) return "not_signed";
  const key = ring.keys.find(({ id }) => id === parts.id);
  return key === undefined ? "unknown_key" : { key, mac: parts.mac };
}

/** Does the body bear the claim out. In constant time. */
export function holds(claim: Claim, body: Uint8Array): boolean {
  return timingSafeEqual(claim.mac, claim.key.mac([REQUEST, body]));
}

/** The seal of a reply to a request that held: with the same key, over the request's MAC. */
export function sealReply(claim: Claim, status: number, body: string): string {
  return `${claim.key.id} ${hex(claim.key.mac([replyHead(claim.mac, status), body]))}`;
}

/** What a reply to a sealed request must bear. */
export interface AskedSeal {
  readonly key: SealKey;
  /** The request's own header. */
  readonly seal: string;
}

/** Is this the reply to that very request, by a holder of its key. In constant time. */
export function isReplyTo(
  asked: AskedSeal,
  header: string | null,
  status: number,
  body: Uint8Array,
): boolean {
  const request = partsOf(asked.seal);
  const reply = partsOf(header);
  if (request === null || reply === null || reply.id !== asked.key.id) return false;
  return timingSafeEqual(reply.mac, asked.key.mac([replyHead(request.mac, status), body]));
}

/**
 * May a holder of such a key say this. Orders are people's alone; a question is anybody's who has
 * either key; all else is between the parties.
 */
export function maySay(kind: KeyKind, message: Message): boolean {
  if (partyType(message.sender) !== "command") return kind === "node";
  return kind === "operator" || isQuestion(message);
}

/**
 * May this come without a seal from a process of the receiver's own host: a notification, which is
 * only a hint, and a question, which changes nothing.
 */
export function mayBeUnsigned(message: Message): boolean {
  return message.verb === "wsrep_notify_cmd" || isQuestion(message);
}

const REQUEST = "galera-minder request 1\n";

/** What precedes a reply's body in its MAC. */
function replyHead(requestMac: Uint8Array, status: number): string {
  return `galera-minder reply 1\n${hex(requestMac)} ${status}\n`;
}

function partsOf(header: string | null): { readonly id: string; readonly mac: Uint8Array } | null {
  const found = /^((?:node|operator)\.[0-9a-f]{8}) ([0-9a-f]{64})$/.exec(header ?? "");
  const [, id = "", mac = ""] = found ?? [];
  return found === null ? null : { id, mac: Buffer.from(mac, "hex") };
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

function hmac(key: Uint8Array, parts: readonly (string | Uint8Array)[]): Uint8Array {
  const hasher = new Bun.CryptoHasher("sha256", key);
  for (const part of parts) hasher.update(part);
  return hasher.digest();
}
