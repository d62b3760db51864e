/**
 * A double of glbd 1.0.2: its control socket byte for byte as measured, and enough of its routing to
 * see where connections go. Faults are switched on by the test.
 */
import { connect, createServer, type Server, type Socket } from "node:net";

/** One `read()` of glbd, and so one command at most. */
const READ_MAX = 8192;
const REPLY_MAX = 8191;
const CONTROL_CLIENTS_MAX = 30;
const RULE = "-".repeat(54);

export interface GlbdEntry {
  readonly ip: string;
  readonly port: number;
  weight: number;
  /** Goes negative once an entry was deleted and added while in use. */
  connections: number;
}

export interface GlbdDoubleOptions {
  /** `ip:port` or `ip:port:weight`, as on the command line. */
  readonly destinations: readonly string[];
  /** How a destination is chosen. @default least */
  readonly choose?: "least" | "single" | "top";
  /** Ports to listen on. @default free ones */
  readonly port?: number;
  readonly controlPort?: number;
}

/** What goes wrong, until set back. */
export interface GlbdFaults {
  /** Takes commands and obeys, but never answers. */
  silent: boolean;
  /** Waits so long before it obeys and answers, all clients behind it. */
  delayMs: number;
  /** How the reply leaves: whole, in two pieces, or followed by a reset. */
  reply: "whole" | "pieces" | "reset";
  /** Listing of older builds: no `map` column, no ` of N max`. */
  oldFormat: boolean;
  /** `-w`: answers Ok, and never applies a change of under 10 %. */
  watchdog: boolean;
  /** Another writer, called before each listing. */
  meddle: ((double: GlbdDouble) => void) | null;
  /** How long an unknown host name is looked up, all clients waiting. */
  resolverMs: number;
}

export class GlbdDouble {
  readonly faults: GlbdFaults = {
    silent: false,
    delayMs: 0,
    reply: "whole",
    oldFormat: false,
    watchdog: false,
    meddle: null,
    resolverMs: 0,
  };
  table: GlbdEntry[] = [];
  /** Every command as it was read. */
  readonly commands: string[] = [];
  /** Sum of the weights after every change: never 0 in passing, if the writer is careful. */
  readonly sums: number[] = [];
  port = 0;
  controlPort = 0;
  readonly #options: GlbdDoubleOptions;
  #control: Server | null = null;
  #service: Server | null = null;
  #controlSockets = new Set<Socket>();
  #waiting: Socket[] = [];
  #clients = new Set<Socket>();
  #queue: Promise<void> = Promise.resolve();
  #opened = 0;
  #top: GlbdEntry | null = null;

  private constructor(options: GlbdDoubleOptions) {
    this.#options = options;
    this.port = options.port ?? 0;
    this.controlPort = options.controlPort ?? 0;
  }

  static async start(options: GlbdDoubleOptions): Promise<GlbdDouble> {
    const double = new GlbdDouble(options);
    await double.listen();
    return double;
  }

  /** Starts as after any restart: with the table of the command line. */
  async listen(): Promise<void> {
    this.table = [];
    this.#top = null;
    this.#service = createServer((socket) => this.#route(socket));
    this.port = await listenOn(this.#service, this.port);
    this.#control = createServer({ allowHalfOpen: true }, (socket) => this.#take(socket));
    this.controlPort = await listenOn(this.#control, this.controlPort);
    for (const words of this.#options.destinations) this.obey(words);
    this.commands.length = 0;
    this.sums.length = 0;
  }

  /** Ends: all connections get EOF, nobody listens. */
  async stop(): Promise<void> {
    for (const socket of [...this.#controlSockets, ...this.#waiting, ...this.#clients]) {
      socket.destroy();
    }
    this.#controlSockets.clear();
    this.#waiting = [];
    const servers = [this.#control, this.#service];
    this.#control = null;
    this.#service = null;
    for (const server of servers) {
      if (server !== null) await new Promise<void>((resolve) => server.close(() => resolve()));
    }
  }

  entry(address: string): GlbdEntry | undefined {
    return this.table.find(({ ip, port }) => `${ip}:${port}` === address);
  }

  #take(socket: Socket): void {
    socket.on("error", () => socket.destroy());
    if (this.#controlSockets.size >= CONTROL_CLIENTS_MAX) {
      // Connected by the kernel, but not served until another one closes.
      socket.pause();
      this.#waiting.push(socket);
      return;
    }
    this.#serve(socket);
  }

  #serve(socket: Socket): void {
    this.#controlSockets.add(socket);
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      for (let at = 0; at < chunk.length; at += READ_MAX) {
        const command = chunk.subarray(at, at + READ_MAX).toString("latin1");
        // One thread serves all.
        this.#queue = this.#queue.then(() => this.#command(socket, command));
      }
    });
    socket.on("end", () => {
      this.#queue = this.#queue.then(() => {
        socket.end();
      });
    });
    socket.on("close", () => {
      this.#controlSockets.delete(socket);
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#serve(next);
      next.resume();
    });
    socket.resume();
  }

  async #command(socket: Socket, command: string): Promise<void> {
    this.commands.push(command);
    if (this.faults.delayMs > 0) await Bun.sleep(this.faults.delayMs);
    const host = /^([^:]*[a-z-][^:]*)(:|$)/i.exec(trimmed(command))?.[1];
    if (host !== undefined && resolve(host) === null && !/^get(info|stat)/i.test(host)) {
      await Bun.sleep(this.faults.resolverMs);
    }
    const reply = this.obey(command);
    if (this.faults.silent || socket.destroyed) return;
    if (this.faults.reply === "pieces") {
      const half = Math.floor(reply.length / 2);
      socket.write(reply.slice(0, half), "latin1");
      await Bun.sleep(20);
      socket.write(reply.slice(half), "latin1");
    } else if (this.faults.reply === "reset") {
      socket.write(reply.slice(0, 1), "latin1");
      socket.resetAndDestroy();
    } else {
      socket.write(reply, "latin1");
    }
  }

  /** What one read of glbd does, and what it answers. */
  obey(command: string): string {
    const request = trimmed(command);
    if (/^getinfo/i.test(request)) {
      this.faults.meddle?.(this);
      return this.getinfo();
    }
    if (/^getstat/i.test(request)) return this.#getstat();
    const change = parseDestination(request, this.port);
    if (change === null) return "Error\n";
    return this.#change(change);
  }

  #change({ ip, port, weight }: Destination): string {
    const found = this.entry(`${ip}:${port}`);
    if (weight < 0) {
      if (found === undefined) return "Error\n";
      const last = this.table.pop();
      // The last entry moves into the hole; connections of the deleted one are forgotten.
      if (last !== undefined && last !== found) this.table[this.table.indexOf(found)] = last;
      this.#top = null;
    } else if (found === undefined) {
      this.table.push({ ip, port, weight, connections: 0 });
      this.#top = null;
    } else if (!this.faults.watchdog || Math.abs(weight - found.weight) >= found.weight / 10) {
      found.weight = weight;
    }
    this.sums.push(this.table.reduce((sum, entry) => sum + entry.weight, 0));
    return "Ok\n";
  }

  getinfo(): string {
    const old = this.faults.oldFormat;
    const lines = ["Router:", RULE];
    lines.push(`        Address       :   weight   usage ${old ? "" : "   map "} conns`);
    let total = 0;
    for (const { ip, port, weight, connections } of this.table) {
      total += connections;
      const address = `${ip.padStart(15)}${`:${port}`.padEnd(6)}`;
      const usage = weight === 0 ? "-nan" : fixed(1 - 1 / (connections + 1));
      const map = old ? " " : "    N/A  ";
      const count = String(connections).padStart(5);
      lines.push(`${address} : ${fixed(weight).padStart(8)} ${usage.padStart(7)}${map}${count}`);
    }
    const limit = old ? "" : " of 9981 max";
    lines.push(RULE, `Destinations: ${this.table.length}, total connections: ${total}${limit}`, "");
    return lines.join("\n").slice(0, REPLY_MAX);
  }

  #getstat(): string {
    const opened = this.#opened;
    this.#opened = 0;
    return `in: 0 out: 0 recv: 0 / 0 send: 0 / 0 conns: ${opened} / ${this.#clients.size} poll: 0 / 0 / 0 elapsed: 0.01000\n`;
  }

  #chosen(tried: ReadonlySet<GlbdEntry>): GlbdEntry | null {
    const usable = this.table.filter((one) => one.weight >= 4.4e-16 && !tried.has(one));
    const highest = Math.max(...usable.map(({ weight }) => weight));
    const top = usable.filter(({ weight }) => weight === highest);
    const choose = this.#options.choose ?? "least";
    if (choose === "single") {
      // Equal weight is sticky; only a higher one, or a change of the table, moves it.
      if (this.#top === null || !top.includes(this.#top)) this.#top = top[0] ?? null;
      return this.#top;
    }
    let best: GlbdEntry | null = null;
    for (const one of choose === "top" ? top : usable) {
      const usage = (entry: GlbdEntry): number => entry.weight / (entry.connections + 1);
      if (usage(one) > 0 && (best === null || usage(one) > usage(best))) best = one;
    }
    return best;
  }

  #route(client: Socket, tried: ReadonlySet<GlbdEntry> = new Set()): void {
    if (tried.size === 0) {
      this.#opened++;
      this.#clients.add(client);
      client.on("close", () => this.#clients.delete(client));
      client.on("error", () => client.destroy());
    }
    const entry = this.#chosen(tried);
    if (entry === null) {
      client.destroy();
      return;
    }
    entry.connections++;
    const server = connect(entry.port, entry.ip);
    let connected = false;
    this.#clients.add(server);
    server.on("connect", () => {
      connected = true;
      client.pipe(server);
      server.pipe(client);
    });
    server.on("error", () => server.destroy());
    server.on("close", () => {
      this.#clients.delete(server);
      entry.connections--;
      // The count of an entry that was deleted and added again suffers for its old connections.
      const now = this.entry(`${entry.ip}:${entry.port}`);
      if (now !== undefined && now !== entry) now.connections--;
      if (connected) client.destroy();
      else this.#route(client, new Set([...tried, entry]));
    });
    client.on("close", () => server.destroy());
  }
}

async function listenOn(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** Ends at a NUL; trailing bytes that are neither letter, digit nor ASCII punctuation are cut. */
function trimmed(command: string): string {
  const end = command.indexOf("\0");
  return (end < 0 ? command : command.slice(0, end)).replace(/[^\x21-\x7e]+$/, "");
}

function fixed(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  if (Object.is(value, -0)) return "-0.000";
  return value.toFixed(3);
}

interface Destination {
  readonly ip: string;
  readonly port: number;
  readonly weight: number;
}

/** `host[:port[:weight]]`; null where glbd says Error. */
function parseDestination(request: string, ownPort: number): Destination | null {
  const [, host = "", rest] = /^([^:]*)(?::(.*))?$/s.exec(request) ?? [];
  if (host.length > 256) return null;
  let port = ownPort;
  let weight = 1;
  if (rest !== undefined) {
    const [, digits = "", more] = /^([^:]*)(?::(.*))?$/s.exec(rest) ?? [];
    if (!/^\s*(\+?\d+)?$/.test(digits)) return null;
    port = Number(digits.trim() || "0");
    if (port > 65_535) return null;
    if (more !== undefined) {
      const value = strtod(more);
      if (value === null) return null;
      weight = value;
    }
  }
  const ip = resolve(host);
  return ip === null ? null : { ip, port, weight };
}

/** As C reads it: the whole text or nothing; an empty one is 0. */
function strtod(text: string): number | null {
  if (text === "") return 0;
  const match =
    /^\s*([+-]?)(?:(inf(?:inity)?)|(nan)|(0x[0-9a-f]+)|(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?))$/i.exec(
      text,
    );
  if (match === null) return null;
  const sign = match[1] === "-" ? -1 : 1;
  if (match[2] !== undefined) return sign * Number.POSITIVE_INFINITY;
  if (match[3] !== undefined) return Number.NaN;
  return sign * Number(match[4] ?? match[5]);
}

/** As gethostbyname does without a resolver: numbers in the old shorthand, and localhost. */
function resolve(host: string): string | null {
  if (host === "localhost") return "127.0.0.1";
  if (!/^\d+(\.\d+){0,3}$/.test(host)) return null;
  const parts = host.split(".").map(Number);
  const last = parts.pop() ?? 0;
  const room = 4 - parts.length;
  if (parts.some((part) => part > 255) || last >= 256 ** room) return null;
  const tail = Array.from({ length: room }, (_, index) => {
    return Math.floor(last / 256 ** (room - 1 - index)) % 256;
  });
  return [...parts, ...tail].join(".");
}
