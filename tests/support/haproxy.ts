/**
 * A real HAProxy on loopback with ports of its own, in front of small TCP servers that say their
 * name. Everything it starts it ends by pid; its files live in a directory of its own.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { makeScratch, removeScratch } from "./scratch.ts";

export const HAPROXY = Bun.which("haproxy") ?? "/usr/sbin/haproxy";
export const hasHaproxy = existsSync(HAPROXY);

/** Waits for a condition, and says which one if it does not come. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await Bun.sleep(2);
  }
}

/** Stops a process. The signal is on its way when kill() returns, and each thread stops by itself. */
export async function freeze(child: Bun.Subprocess | undefined): Promise<void> {
  if (child === undefined) throw new Error("nothing runs that could be stopped");
  child.kill("SIGSTOP");
  const tasks = `/proc/${child.pid}/task`;
  await until("every thread has stopped", () =>
    readdirSync(tasks).every((task) => {
      const stat = readFileSync(join(tasks, task, "stat"), "latin1");
      return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
    }),
  );
}

/** A TCP server that sends its name to whoever connects, and then keeps the connection. */
export class NamedServer {
  readonly name: string;
  readonly port: number;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(name: string, server: Server, sockets: Set<Socket>) {
    this.name = name;
    this.#server = server;
    this.#sockets = sockets;
    const address = server.address();
    this.port = typeof address === "object" && address !== null ? address.port : 0;
  }

  static async start(name: string): Promise<NamedServer> {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
      socket.on("error", () => socket.destroy());
      socket.write(`${name}\n`);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return new NamedServer(name, server, sockets);
  }

  get connections(): number {
    return this.#sockets.size;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

/** One client connection through a balancer: who answered, and when it was closed. */
export interface ClientConnection {
  /** Name of the server, empty if the connection was closed without one. */
  readonly name: string;
  readonly closed: () => boolean;
  readonly end: () => void;
}

/** Connects and reads one name; gives up after `limitMs`. */
export function openThrough(port: number, limitMs = 20_000): Promise<ClientConnection> {
  return new Promise((resolve, reject) => {
    let closed = false;
    let text = "";
    const socket = connect(port, "127.0.0.1");
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no word through port ${port} in ${limitMs} ms`));
    }, limitMs);
    const done = (): void => {
      clearTimeout(timer);
      resolve({ name: text.trim(), closed: () => closed, end: () => socket.destroy() });
    };
    socket.on("data", (chunk) => {
      text += chunk.toString();
      if (text.includes("\n")) done();
    });
    socket.on("error", () => {
      closed = true;
      done();
    });
    socket.on("close", () => {
      closed = true;
      done();
    });
  });
}

/** Names that answer `count` new connections one after the other. */
export async function namesThrough(port: number, count = 6): Promise<readonly string[]> {
  const names = new Set<string>();
  for (let index = 0; index < count; index++) {
    const connection = await openThrough(port);
    names.add(connection.name);
    connection.end();
  }
  return [...names].sort();
}

export interface HaproxyFixtureOptions {
  readonly servers: readonly { readonly name: string; readonly port: number }[];
  /** @default roundrobin */
  readonly balance?: string;
  /** Further lines of the backend. */
  readonly backendLines?: readonly string[];
  /** Further words on each server line. */
  readonly serverWords?: string;
  /** Keep a state file over reloads. */
  readonly stateFile?: boolean;
  /** @default admin */
  readonly level?: string;
  /** @default 200 */
  readonly maxconn?: number;
}

/** A running HAProxy: `port` takes clients, `socket` and `tcpSocket` are its control. */
export class HaproxyFixture {
  readonly backend = "galera";
  readonly port: number;
  readonly socket: string;
  readonly tcpSocket: string;
  readonly directory: string;
  readonly #options: HaproxyFixtureOptions;
  #processes: Bun.Subprocess[] = [];

  private constructor(options: HaproxyFixtureOptions, port: number, tcpPort: number) {
    this.#options = options;
    this.port = port;
    this.directory = makeScratch("haproxy");
    this.socket = join(this.directory, "admin.sock");
    this.tcpSocket = `127.0.0.1:${tcpPort}`;
  }

  static async start(options: HaproxyFixtureOptions): Promise<HaproxyFixture> {
    const fixture = new HaproxyFixture(options, await freePort(), await freePort());
    writeFileSync(fixture.#configPath, fixture.config());
    await fixture.run();
    return fixture;
  }

  get #configPath(): string {
    return join(this.directory, "haproxy.cfg");
  }

  config(): string {
    const { servers, balance, backendLines, serverWords, stateFile, level, maxconn } =
      this.#options;
    const state = join(this.directory, "state");
    const lines = [
      "global",
      `  stats socket ${this.socket} mode 600 level ${level ?? "admin"} expose-fd listeners`,
      `  stats socket ipv4@${this.tcpSocket} level ${level ?? "admin"}`,
      "  stats timeout 10s",
      `  maxconn ${maxconn ?? 200}`,
      ...(stateFile ? [`  server-state-file ${state}`] : []),
      "defaults",
      "  mode tcp",
      "  timeout connect 1s",
      "  timeout client 60s",
      "  timeout server 60s",
      "  option redispatch 1",
      ...(stateFile ? ["  load-server-state-from-file global"] : []),
      "frontend clients",
      `  bind 127.0.0.1:${this.port}`,
      `  default_backend ${this.backend}`,
      `backend ${this.backend}`,
      `  balance ${balance ?? "roundrobin"}`,
      ...(backendLines ?? []).map((line) => `  ${line}`),
      ...servers.map(
        ({ name, port }) => `  server ${name} 127.0.0.1:${port} weight 100 ${serverWords ?? ""}`,
      ),
    ];
    return `${lines.join("\n")}\n`;
  }

  /** Starts a process; with the pid of an old one that one ends when its sessions do. */
  async run(oldPid?: number): Promise<void> {
    const old = oldPid === undefined ? [] : ["-x", this.socket, "-sf", String(oldPid)];
    const child = Bun.spawn([HAPROXY, "-db", "-f", this.#configPath, ...old], {
      stdout: "ignore",
      stderr: "ignore",
    });
    this.#processes.push(child);
    await until("HAProxy answers", async () => {
      if (child.exitCode !== null) throw new Error(`HAProxy ended with ${child.exitCode}`);
      return (await this.ask("show info")).includes(`Pid: ${child.pid}`);
    });
  }

  get pid(): number {
    const last = this.#processes.at(-1);
    if (last === undefined) throw new Error("HAProxy was not started");
    return last.pid;
  }

  /** A reload as `systemctl reload` does it, without loss of connections. */
  async reload(): Promise<void> {
    if (this.#options.stateFile) {
      writeFileSync(join(this.directory, "state"), await this.ask("show servers state"));
    }
    await this.run(this.pid);
  }

  async freeze(): Promise<void> {
    await freeze(this.#processes.at(-1));
  }

  thaw(): void {
    this.#processes.at(-1)?.kill("SIGCONT");
  }

  /** Ends the newest process at once and waits for its end. */
  async kill(): Promise<void> {
    const child = this.#processes.pop();
    child?.kill("SIGKILL");
    await child?.exited;
  }

  /** One command by hand; empty if nobody listens. */
  async ask(command: string): Promise<string> {
    return await new Promise((resolve) => {
      let text = "";
      const socket = connect(this.socket);
      const timer = setTimeout(() => socket.destroy(), 20_000);
      socket.on("connect", () => socket.write(`${command}\n`));
      socket.on("data", (chunk) => {
        text += chunk.toString();
      });
      socket.on("error", () => socket.destroy());
      socket.on("close", () => {
        clearTimeout(timer);
        resolve(text);
      });
    });
  }

  async stop(): Promise<void> {
    for (const child of this.#processes) {
      child.kill("SIGKILL");
      await child.exited;
    }
    this.#processes = [];
    removeScratch(this.directory);
  }
}
