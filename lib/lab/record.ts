/**
 * What somebody on the wire would have: every message that a program posts, byte for byte with its seal.
 * Loaded before a minder (`bun --preload`), it appends each request to the file that the environment
 * names; read back, the requests can be sent again.
 */
import { appendFileSync, readdirSync, readFileSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { SEAL_HEADER } from "../seal.ts";

/** Names the folder that gets a file of requests for each process. */
export const RECORD_MARK = "GM_LAB_RECORD";

/** One request as it went out. */
export interface Recorded {
  readonly url: string;
  /** Null: unsealed. */
  readonly seal: string | null;
  readonly body: string;
}

/** Notes what this process posts from now on. */
export function recordPosts(folder: string): void {
  const file = join(folder, `posts-${process.pid}.jsonl`);
  const plain = Socket.prototype.write;
  // A request is written in one piece (lib/effects/http_client.ts).
  Socket.prototype.write = function write(this: Socket, ...words: unknown[]): boolean {
    const [text] = words;
    const request = typeof text === "string" ? requestIn(text) : null;
    if (request !== null) appendFileSync(file, `${JSON.stringify(request)}\n`, { mode: 0o600 });
    return Reflect.apply(plain, this, words) as boolean;
  };
}

/** A message on its way out; null for anything else. */
function requestIn(text: string): Recorded | null {
  const end = text.indexOf("\r\n\r\n");
  if (!text.startsWith("POST /messages ") || end < 0) return null;
  const head = text.slice(0, end);
  const header = (name: string): string | null =>
    new RegExp(`^${name}: (.*)$`, "im").exec(head)?.[1]?.trim() ?? null;
  const url = `http://${header("host")}/messages`;
  return { url, seal: header(SEAL_HEADER), body: text.slice(end + 4) };
}

/** All that was noted there. A process that was killed may have left half a line. */
export function readRecorded(folder: string): readonly Recorded[] {
  const files = readdirSync(folder).filter((name) => /^posts-\d+\.jsonl$/.test(name));
  return files.flatMap((name) =>
    readFileSync(join(folder, name), "utf8")
      .split("\n")
      .flatMap((line) => {
        try {
          return line === "" ? [] : [JSON.parse(line) as Recorded];
        } catch {
          return [];
        }
      }),
  );
}

const told = process.env[RECORD_MARK];
if (told !== undefined) recordPosts(told);
