/**
 * One question to a balancer's control socket: connect, send once, read to the end. A connection per
 * question, because one kept open over a reload goes on talking to the old process.
 */
import { createConnection } from "node:net";
import { MinderError } from "../errors.ts";

/** Where a control socket listens. */
export type ControlAddress =
  | { readonly path: string }
  | { readonly host: string; readonly port: number };

/** Largest reply that is read; 1000 servers fit. */
const REPLY_MAX_BYTES = 1_048_576;

/** Reads `/run/x.sock`, `127.0.0.1:9999` or `[::1]:9999`. @throws MinderError for anything else */
export function parseControlAddress(text: string): ControlAddress {
  if (text.startsWith("/")) return { path: text };
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new MinderError(`"${text}" is no control socket`, {
      hint: "Give an absolute path of a unix socket, or host:port.",
    });
  }
  return { host, port };
}

/** How a question is asked. */
export interface AskOptions {
  readonly signal: AbortSignal;
  /** Is this the whole reply? Without it, the reply ends where the other side closes. */
  readonly isWhole?: (reply: string) => boolean;
}

/** Sends `question` in one write and answers with the whole reply. */
export function ask(
  address: ControlAddress,
  question: string,
  { signal, isWhole }: AskOptions,
): Promise<string> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(new Error("no reply in time", { cause: signal.reason }));
      return;
    }
    let reply = "";
    const socket = createConnection(
      "path" in address ? { path: address.path } : { ...address, noDelay: true },
    );
    const end = (error: Error | null): void => {
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      if (error === null) resolve(reply);
      else reject(error);
    };
    const onAbort = (): void => end(new Error("no reply in time", { cause: signal.reason }));
    signal.addEventListener("abort", onAbort, { once: true });
    socket.on("connect", () => socket.write(question, "latin1"));
    socket.on("data", (chunk: Buffer) => {
      reply += chunk.toString("latin1");
      if (reply.length > REPLY_MAX_BYTES) end(new Error("a reply without end"));
      else if (isWhole?.(reply)) end(null);
    });
    // After the first of these the others are no-ops: a promise settles once.
    socket.on("end", () => end(isWhole === undefined ? null : new Error("the reply is cut short")));
    socket.on("error", (error) => end(error));
    socket.on("close", () => end(new Error("connection closed without a reply")));
  });
}
