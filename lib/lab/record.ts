/**
 * What somebody on the wire would have: every message that a program posts, byte for byte with its seal.
 * Loaded before a minder (`bun --preload`), it appends each request to the file that the environment
 * names; read back, the requests can be sent again.
 */
import { appendFileSync, readdirSync, readFileSync } from "node:fs";
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
  const plain = globalThis.fetch;
  async function recording(...[input, init]: Parameters<typeof fetch>): Promise<Response> {
    if (init?.method === "POST" && typeof init.body === "string" && typeof input === "string") {
      const seal = new Headers(init.headers).get(SEAL_HEADER);
      const line: Recorded = { url: input, seal, body: init.body };
      appendFileSync(file, `${JSON.stringify(line)}\n`, { mode: 0o600 });
    }
    return await plain(input, init);
  }
  globalThis.fetch = Object.assign(recording, plain);
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
