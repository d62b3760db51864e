/** A real glbd on loopback, where GLBD_BIN names a binary. */
import { readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { freePort, freeze, until } from "./haproxy.ts";
import { makeScratch, removeScratch } from "./scratch.ts";

export const GLBD_BIN = process.env["GLBD_BIN"] ?? "";

export interface GlbdProcessOptions {
  readonly destinations: readonly string[];
  /** Further words of the command line. */
  readonly words?: readonly string[];
}

export class GlbdProcess {
  readonly port: number;
  readonly controlPort: number;
  readonly #directory = makeScratch("glbd");
  readonly #options: GlbdProcessOptions;
  #child: Bun.Subprocess | null = null;

  private constructor(options: GlbdProcessOptions, port: number, controlPort: number) {
    this.#options = options;
    this.port = port;
    this.controlPort = controlPort;
  }

  static async start(options: GlbdProcessOptions): Promise<GlbdProcess> {
    const glbd = new GlbdProcess(options, await freePort(), await freePort());
    await glbd.listen();
    return glbd;
  }

  async listen(): Promise<void> {
    const fifo = join(this.#directory, "fifo");
    rmSync(fifo, { force: true });
    // -l: closed by reset, else the next start could not bind for a minute.
    const words = ["-c", `127.0.0.1:${this.controlPort}`, "--fifo", fifo, "-l"];
    const child = Bun.spawn(
      [
        GLBD_BIN,
        ...words,
        ...(this.#options.words ?? []),
        `127.0.0.1:${this.port}`,
        ...this.#options.destinations,
      ],
      { stdin: "ignore", stdout: "ignore", stderr: "ignore" },
    );
    this.#child = child;
    await until("glbd answers", async () => {
      if (child.exitCode !== null) throw new Error(`glbd ended with ${child.exitCode}`);
      return (await this.ask("getinfo\n")).includes("Destinations:");
    });
    await until("glbd serves", () => listens(this.port));
  }

  /** One command on a connection of its own; empty if nobody listens. */
  async ask(command: string): Promise<string> {
    return (await askParts(this.controlPort, [command]))[0] ?? "";
  }

  async freeze(): Promise<void> {
    await freeze(this.#child ?? undefined);
  }

  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = null;
  }

  async stop(): Promise<void> {
    await this.kill();
    removeScratch(this.#directory);
  }
}

/** Does anybody listen on that port: looked up, since glbd would count a connection that tries it. */
function listens(port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .some((line) => new RegExp(`^ *\\d+: [0-9A-F]{8}:${hex} [0-9A-F:]+ 0A `).test(line));
}

/** Sends each part when the one before has been answered; the answers in order. */
export function askParts(port: number, parts: readonly string[]): Promise<readonly string[]> {
  return new Promise((resolve) => {
    const replies: string[] = [];
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    const timer = setTimeout(() => socket.destroy(), 20_000);
    let next = 0;
    let text = "";
    const proceed = (): void => {
      const part = parts[next++];
      if (part === undefined) socket.end();
      else socket.write(part, "latin1");
    };
    socket.on("connect", proceed);
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      // A listing may come in pieces; everything else ends with its line.
      if (
        !text.endsWith("\n") ||
        (text.startsWith("Router:") && !/Destinations: .*\n$/.test(text))
      ) {
        return;
      }
      replies.push(text);
      text = "";
      proceed();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      clearTimeout(timer);
      if (text !== "") replies.push(text);
      resolve(replies);
    });
  });
}
