/**
 * One statement to the local mariadbd, in the bytes of its protocol: closes the door. Pure; for the
 * notify handler, which has no time to load a client library. It logs in by unix_socket, so the system
 * user that mariadbd runs as needs an account of its name, and no secret.
 */

/** Refuses clients' statements and cuts their sessions; repeating it is harmless. */
export const FENCE_SQL = "SET GLOBAL wsrep_reject_queries=ALL_KILL";

/** What the server is in, by its own word. */
export const ASK_SQL = "SHOW STATUS LIKE 'wsrep_cluster_status'";

/** What to send next, and how it ended; both null while more bytes have to come. */
export interface FenceStep {
  readonly send: Uint8Array | null;
  /** Empty: the server refuses statements now, or is Primary and left alone. */
  readonly ended: string | null;
}

/** A conversation: each call takes the bytes that came. */
export interface FenceTalk {
  hear(bytes: Uint8Array): FenceStep;
}

// Client/server protocol of MariaDB: PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES = 0x0200 | 0x8000 | 0x0008_0000;
const PACKET_MAX = 0x00ff_ffff;
const UTF8 = 33;
const OK = 0x00;
const ERROR = 0xff;
const SWITCH = 0xfe;
const QUERY = 0x03;
const HEADER = 4;
/** No answer of these is longer. */
const BYTES_MAX = 4096;

/** Begins with the server's greeting, as the protocol does. */
export function fenceTalk(user: string, options: { readonly unlessPrimary: boolean }): FenceTalk {
  let kept: Uint8Array = new Uint8Array(0);
  let stage: "greeting" | "login" | "ask" | "fence" = "greeting";
  return {
    hear(bytes) {
      kept = joined(kept, bytes);
      if (kept.length > BYTES_MAX) return { send: null, ended: "too long an answer" };
      if (stage === "ask" && kept[HEADER] !== ERROR) {
        // The one value of the one row; all other words of the answer are names of columns.
        const state = /non-primary|primary|disconnected/i.exec(new TextDecoder().decode(kept))?.[0];
        if (state === undefined) return { send: null, ended: null };
        if (state.toLowerCase() === "primary") return { send: null, ended: "" };
        stage = "fence";
        kept = new Uint8Array(0);
        return { send: query(FENCE_SQL), ended: null };
      }
      const length = lengthOf(kept);
      if (length === null) return { send: null, ended: null };
      const sequence = kept[3] ?? 0;
      const body = kept.subarray(HEADER, HEADER + length);
      kept = kept.subarray(HEADER + length);
      if (body[0] === ERROR) return { send: null, ended: errorOf(body) };
      if (stage === "greeting") {
        stage = "login";
        return { send: packet(sequence + 1, login(user)), ended: null };
      }
      if (stage === "login") {
        // Asked for another way to log in: the socket says who we are, so there is nothing to add.
        if (body[0] === SWITCH) return { send: packet(sequence + 1, []), ended: null };
        if (body[0] !== OK) return { send: null, ended: "an answer to the login that is none" };
        stage = options.unlessPrimary ? "ask" : "fence";
        return { send: query(options.unlessPrimary ? ASK_SQL : FENCE_SQL), ended: null };
      }
      // What is left of the answer to the question before.
      if (sequence !== 1) return { send: null, ended: null };
      return { send: null, ended: body[0] === OK ? "" : "an answer to the statement that is none" };
    },
  };
}

/** Length of the first packet's body, null while it is not whole. */
function lengthOf(bytes: Uint8Array): number | null {
  if (bytes.length < HEADER) return null;
  const length = (bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8) | ((bytes[2] ?? 0) << 16);
  return bytes.length < HEADER + length ? null : length;
}

function login(user: string): readonly number[] {
  return [
    ...little(CAPABILITIES),
    ...little(PACKET_MAX),
    UTF8,
    ...new Array<number>(23).fill(0),
    ...textBytes(user),
    0,
    // An empty password, which proves nothing.
    0,
    ...textBytes("mysql_native_password"),
    0,
  ];
}

function query(sql: string): Uint8Array {
  return packet(0, [QUERY, ...textBytes(sql)]);
}

function packet(sequence: number, body: readonly number[]): Uint8Array {
  const { length } = body;
  return Uint8Array.from([
    length & 0xff,
    (length >> 8) & 0xff,
    (length >> 16) & 0xff,
    sequence & 0xff,
    ...body,
  ]);
}

/** Four bytes, the least first. */
function little(value: number): readonly number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
}

/** `ERR`: a mark, two bytes of a number, `#` and five of a state, words. */
function errorOf(body: Uint8Array): string {
  const number = (body[1] ?? 0) | ((body[2] ?? 0) << 8);
  return `error ${number}: ${new TextDecoder().decode(body.subarray(9, 300))}`;
}

function textBytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
