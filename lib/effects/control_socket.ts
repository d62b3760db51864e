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
  /** Say that nothing more will be sent: for balancers that would otherwise wait for more. */
  readonly halfClose: "yes" | "no";
}

/** Sends `question` in one write and answers with everything up to the other side's close. */
export function ask(
  address: ControlAddress,
  question: string,
  { signal, halfClose }: AskOptions,
): Promise<string> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    const socket = createConnection(
      "path" in address ? { path: address.path } : { ...address, noDelay: true },
    );
    const end = (error: unknown): void => {
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      if (error === null) resolve(Buffer.concat(chunks).toString("latin1"));
      else reject(error);
    };
    const onAbort = (): void => end(new Error("no reply in time", { cause: signal.reason }));
    signal.addEventListener("abort", onAbort, { once: true });
    socket.on("connect", () => {
      if (halfClose === "yes") socket.end(question, "latin1");
      else socket.write(question, "latin1");
    });
    socket.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > REPLY_MAX_BYTES) end(new Error(`reply of more than ${REPLY_MAX_BYTES} bytes`));
      else chunks.push(chunk);
    });
    socket.on("end", () => end(null));
    socket.on("error", (error) => end(error));
    // After "end" or "error" this is a no-op: a promise settles once.
    socket.on("close", () => end(new Error("connection closed without a reply")));
  });
}
