/**
 * A lab: hosts, network, database servers and balancers of one name on this machine, from nothing
 * to a running cluster and back to nothing. What runs on the hosts beside that is the caller's.
 *
 * Whatever is started is on record before anything depends on it, so that `down`, or the next lab
 * of that name after a crash of this one, leaves nothing behind.
 */
import { closeSync, existsSync, openSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RowDataPacket } from "mysql2/promise";
import { MinderError } from "../errors.ts";
import type { WriterOptions } from "./app.ts";
import type { KnockOptions } from "./door.ts";
import { run, until } from "./exec.ts";
import { type HaproxyFiles, prepareHaproxy } from "./haproxy.ts";
import { type Attempt, checkRows, type RowCheck, readJournal } from "./journal.ts";
import {
  afterMeeting,
  connectTo,
  type DirectServer,
  getTemplate,
  meetingArgument,
  prepareServer,
  readStatus,
  type Secrets,
  type ServerFiles,
  startDirectly,
  type Template,
  writeRecoveryViews,
} from "./mariadb.ts";
import { createNetwork, type Hosts, type Network } from "./network.ts";
import {
  endLockHolder,
  freeze,
  HOST_MARK,
  isAlive,
  killAll,
  LAB_MARK,
  type Lock,
  labDirectory,
  lockHolder,
  makeLabDirectory,
  markedAlive,
  markOf,
  type ProcessMark,
  type Removed,
  recordProcess,
  removeRemains,
  takeLock,
} from "./remains.ts";
import type { LabHost, TopologyOptions } from "./topology.ts";

/** What a fenced server answers: "WSREP has not yet prepared node for application use". */
const ER_NOT_READY = 1047;
const OPEN_TIMEOUT_MS = 20_000;

/** How a connection that ends too soon is reported by mysql2. */
const CUT_OFF = new Set(["EPIPE", "ECONNRESET", "PROTOCOL_CONNECTION_LOST"]);

export interface LabOptions extends TopologyOptions {
  /** Loopback even where namespaces are possible. @default false */
  readonly loopback?: boolean;
  /** `wsrep_notify_cmd` of a server; run by `sh -c`. @default none */
  readonly notifyCommand?: (server: LabHost) => string;
  /** Added to the servers' `wsrep_provider_options`. @default "" */
  readonly providerOptions?: string;
  /** Told of each stage with its duration. @default silent */
  readonly log?: (line: string) => void;
}

export interface StartOptions {
  /** Named in the lab's logs: its output goes to HOST/NAME.log. */
  readonly name: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** A process that the lab started on a host. */
export interface LabProcess {
  readonly host: string;
  readonly name: string;
  readonly pid: number;
  readonly logFile: string;
  /** Exit code, 128 for a signal, null while it runs. */
  ended(): number | null;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, after `graceMs` SIGKILL; ends when it has. */
  stop(graceMs?: number): Promise<void>;
}

const SYNCED_TIMEOUT_MS = 90_000;
const STOP_GRACE_MS = 5000;
/** For the process that has the lab up to take it down by itself. */
const HOLDER_GRACE_MS = 10_000;
/** An application gives up on a server that does not even shake hands. */
const APP_CONNECT_TIMEOUT_MS = 200;
/** A new connection that takes so long has failed. */
const KNOCK_TIMEOUT_MS = 1000;

/** Makes the lab up to the point where servers can be started. @throws MinderError */
export async function openLab(name: string, options: LabOptions = {}): Promise<Lab> {
  const directory = labDirectory(name);
  const lock = takeLock(directory);
  try {
    const log = options.log ?? (() => {});
    const stage = stopwatch(log);
    const removed = await removeRemains(name, directory);
    if (removed.directory || removed.namespaces > 0) stage(`removed ${describeRemoved(removed)}`);
    makeLabDirectory(directory);
    const network = await createNetwork(name, options);
    stage(network.namespaced ? "network namespaces made" : "loopback addresses, no cuts possible");
    const template = await getTemplate(directory);
    stage(template.cached ? "template of the data taken from the cache" : "template made");
    const { servers, apps } = network.topology;
    const serverFiles = new Map<string, ServerFiles>();
    for (const host of servers) {
      const files = prepareServer(template, {
        directory,
        host,
        servers,
        clusterName: name,
        enter: network.enter(host.name),
        notifyCommand: options.notifyCommand?.(host) ?? null,
        providerOptions: options.providerOptions ?? "",
      });
      serverFiles.set(host.name, files);
    }
    const balancers = new Map<string, HaproxyFiles>();
    for (const host of apps) {
      const enter = network.enter(host.name);
      const { namespaced } = network;
      const { spare = [] } = options;
      const files = { directory, host, servers, spare, enter, namespaced };
      balancers.set(host.name, prepareHaproxy(files));
    }
    const secretsFile = join(directory, "secrets.json");
    writeFileSync(secretsFile, JSON.stringify(template.secrets), { mode: 0o600 });
    for (const { user, password } of Object.values(template.secrets)) {
      writeFileSync(join(directory, `${user}.password`), `${password}\n`, { mode: 0o600 });
    }
    stage(`${servers.length} servers and ${apps.length} balancers prepared`);
    const spare = new Set(options.spare);
    return new Lab({
      name,
      directory,
      network,
      template,
      serverFiles,
      spare,
      balancers,
      lock,
      log,
    });
  } catch (error) {
    await removeRemains(name, directory);
    lock.release();
    throw error;
  }
}

/** Removes a lab of that name, up or not. A process that has it up is asked to end first. */
export async function removeLab(name: string): Promise<Removed> {
  const directory = labDirectory(name);
  await endLockHolder(directory, HOLDER_GRACE_MS);
  const removed = await removeRemains(name, directory);
  // A dead holder's lock goes with it; this process's own is `down`'s to give back.
  if (lockHolder(directory) === null) takeLock(directory).release();
  return removed;
}

interface LabParts {
  readonly name: string;
  readonly directory: string;
  readonly network: Network;
  readonly template: Template;
  readonly serverFiles: ReadonlyMap<string, ServerFiles>;
  readonly spare: ReadonlySet<string>;
  readonly balancers: ReadonlyMap<string, HaproxyFiles>;
  readonly lock: Lock;
  readonly log: (line: string) => void;
}

export class Lab {
  readonly name: string;
  readonly directory: string;
  readonly network: Network;
  /** By host name. */
  readonly servers: ReadonlyMap<string, ServerFiles>;
  /** By host name. */
  readonly balancers: ReadonlyMap<string, HaproxyFiles>;
  readonly secrets: Secrets;
  /** The template was in the cache. */
  readonly templateCached: boolean;
  readonly #spare: ReadonlySet<string>;
  readonly #lock: Lock;
  readonly #log: (line: string) => void;
  readonly #processes: LabProcess[] = [];

  constructor(parts: LabParts) {
    this.name = parts.name;
    this.directory = parts.directory;
    this.network = parts.network;
    this.servers = parts.serverFiles;
    this.balancers = parts.balancers;
    this.secrets = parts.template.secrets;
    this.templateCached = parts.template.cached;
    this.#spare = parts.spare;
    this.#lock = parts.lock;
    this.#log = parts.log;
  }

  get hosts(): readonly LabHost[] {
    return this.network.topology.hosts;
  }

  /** File with only that user's password, mode 0600. */
  passwordFile(user: "minder" | "app"): string {
    return join(this.directory, `${user}.password`);
  }

  /** @throws MinderError for a host that is no database server */
  server(host: string): ServerFiles {
    const files = this.servers.get(host);
    if (files === undefined) throw new MinderError(`No database server named ${host} in this lab`);
    return files;
  }

  /**
   * Starts all servers but the spare ones without watchdogs and waits until all are Synced.
   *
   * The data directories are as after a crash of all at one moment: equal, and each remembers the
   * view it was in. Galera then restores the primary component by itself as soon as all have met,
   * with no state transfer: 1.0 to 3.7 s for four servers, against 5 to 10 s for a bootstrap and
   * three joins, each of which waits 2 s for the transfer script (MariaDB 10.11.19, 2 cores). The
   * timers that are short meanwhile are as configured when this returns.
   */
  async startServers(
    options: { readonly arguments?: readonly string[] } = {},
  ): Promise<ReadonlyMap<string, DirectServer>> {
    const stage = stopwatch(this.#log);
    const present = [...this.servers].filter(([host]) => !this.#spare.has(host));
    writeRecoveryViews(present.map(([, files]) => files));
    const started = new Map<string, DirectServer>();
    for (const [host, files] of present) {
      const all = [...(options.arguments ?? []), meetingArgument(files)];
      started.set(host, this.startServer(host, { arguments: all }));
    }
    await Promise.all(
      [...started].map(async ([host, server]) => {
        await server.synced(SYNCED_TIMEOUT_MS);
        const usual = afterMeeting(server.files);
        // A view that changes just now closes sessions.
        await until(
          `${host}: its usual timers`,
          () => this.#unlessCutOff(host, `SET GLOBAL wsrep_provider_options = '${usual}'`),
          { timeoutMs: SYNCED_TIMEOUT_MS },
        );
      }),
    );
    stage(`${started.size} servers Synced`);
    return started;
  }

  /** Starts one server without a watchdog. */
  startServer(
    host: string,
    options: { readonly arguments?: readonly string[] } = {},
  ): DirectServer {
    return startDirectly(this.directory, this.server(host), {
      credentials: this.secrets.minder,
      ...options,
    });
  }

  /** The `wsrep_*` status of a server by its socket; null while it does not answer. */
  async status(host: string): Promise<ReadonlyMap<string, string> | null> {
    return await readStatus(this.server(host).socket, this.secrets.minder);
  }

  /** Waits until each of these servers (all by default) reports that. @throws MinderError */
  async allReport(
    variable: string,
    value: string,
    options: { readonly hosts?: readonly string[]; readonly timeoutMs?: number } = {},
  ): Promise<void> {
    const hosts = options.hosts ?? [...this.servers.keys()];
    const timeoutMs = options.timeoutMs ?? SYNCED_TIMEOUT_MS;
    const wait = (host: string): Promise<void> =>
      until(
        `${host}: ${variable} is ${value}`,
        async () => (await this.status(host))?.get(variable) === value,
        { timeoutMs },
      );
    await Promise.all(hosts.map(wait));
  }

  /** One statement as `minder` by the server's socket. @throws what mysql2 throws */
  async query(host: string, sql: string, timeoutMs = 5000): Promise<readonly RowDataPacket[]> {
    const connection = await connectTo(this.server(host).socket, this.secrets.minder);
    try {
      const [rows] = await connection.query<RowDataPacket[]>({ sql, timeout: timeoutMs });
      return rows;
    } finally {
      connection.destroy();
    }
  }

  /**
   * A long question to a server whose door may close for a moment, which ends its sessions too.
   * @throws what mysql2 throws
   */
  async #whenOpen(host: string, sql: string): Promise<readonly RowDataPacket[]> {
    const deadline = performance.now() + OPEN_TIMEOUT_MS;
    for (;;) {
      try {
        return await this.query(host, sql, 20_000);
      } catch (error) {
        const number = error instanceof Error && "errno" in error ? error.errno : undefined;
        const closed = number === ER_NOT_READY || isCutOff(error);
        if (!closed || performance.now() > deadline) throw error;
        await Bun.sleep(50);
      }
    }
  }

  /** False where the connection ended before the answer. @throws what the server says against it */
  async #unlessCutOff(host: string, sql: string): Promise<boolean> {
    try {
      await this.query(host, sql);
      return true;
    } catch (error) {
      if (isCutOff(error)) return false;
      throw error;
    }
  }

  /** Starts a program on a host. Its output goes to HOST/NAME.log in the lab's directory. */
  start(host: string, command: readonly string[], options: StartOptions): LabProcess {
    const full = [...this.network.enter(host), ...command];
    run(["mkdir", "-p", join(this.directory, host)]);
    const logFile = join(this.directory, host, `${options.name}.log`);
    const output = openSync(logFile, "a", 0o644);
    let child: Bun.Subprocess;
    try {
      child = Bun.spawn(full, {
        stdin: "ignore",
        stdout: output,
        stderr: output,
        cwd: options.cwd ?? process.cwd(),
        detached: true,
        env: {
          ...process.env,
          ...options.environment,
          [LAB_MARK]: this.directory,
          [HOST_MARK]: host,
        },
      });
    } finally {
      closeSync(output);
    }
    recordProcess(this.directory, child.pid, full);
    const started = asLabProcess(child, { host, name: options.name, logFile });
    this.#processes.push(started);
    return started;
  }

  /** Starts the balancer of an application host and waits for its control socket. */
  async startBalancer(host: string): Promise<LabProcess> {
    const files = this.balancers.get(host);
    if (files === undefined) throw new MinderError(`No balancer on ${host} in this lab`);
    // The command enters the namespace by itself.
    const bare = files.command.slice(this.network.enter(host).length);
    const started = this.start(host, bare, { name: "haproxy" });
    await until(
      `haproxy on ${host}`,
      () => {
        if (started.ended() !== null) {
          throw new MinderError(`haproxy on ${host} ended`, { where: started.logFile });
        }
        return existsSync(files.socket);
      },
      { timeoutMs: 30_000, pauseMs: 5 },
    );
    return started;
  }

  /** Starts the application of that host: one writer through its balancer. */
  startApp(
    host: string,
    options: {
      /** Of its rows and its journal. @default the host's */
      readonly name?: string;
      readonly intervalMs?: number;
      readonly statementTimeoutMs?: number;
      readonly connectTimeoutMs?: number;
      readonly sessionPerRow?: boolean;
      /** Of the balancer on that host. @default 3306 */
      readonly port?: number;
    } = {},
  ): LabProcess {
    const { topology, namespaced } = this.network;
    const app = topology.apps.find((one) => one.name === host);
    if (app === undefined) throw new MinderError(`No application host named ${host} in this lab`);
    const { name = host, port = 3306 } = options;
    return this.#startWriters(host, name, [
      {
        name,
        address: { host: namespaced ? "127.0.0.1" : app.address, port },
        credentials: this.secrets.app,
        journal: this.journalFile(name),
        intervalMs: options.intervalMs ?? 10,
        sessionPerRow: options.sessionPerRow ?? false,
        connectTimeoutMs: options.connectTimeoutMs ?? APP_CONNECT_TIMEOUT_MS,
        statementTimeoutMs: options.statementTimeoutMs ?? 2000,
      },
    ]);
  }

  /** Opens a new connection through the balancer of that host every few milliseconds. */
  startKnocking(
    host: string,
    options: { readonly name: string; readonly port?: number; readonly intervalMs?: number },
  ): LabProcess {
    const { name, port = 3306, intervalMs = 10 } = options;
    const app = this.network.topology.apps.find((one) => one.name === host);
    if (app === undefined) throw new MinderError(`No application host named ${host} in this lab`);
    const knock: KnockOptions = {
      address: { host: this.network.namespaced ? "127.0.0.1" : app.address, port },
      credentials: this.secrets.app,
      journal: this.knocksFile(name),
      intervalMs,
      timeoutMs: KNOCK_TIMEOUT_MS,
    };
    const config = join(this.directory, `${name}.json`);
    writeFileSync(config, JSON.stringify(knock), { mode: 0o600 });
    const script = join(import.meta.dir, "..", "..", "scripts", "lab_door.ts");
    return this.start(host, [process.execPath, script, config], { name: `door-${name}` });
  }

  /** What came of those connections; lib/lab/door.ts reads it. */
  knocksFile(name: string): string {
    return join(this.directory, `${name}.knocks`);
  }

  /**
   * Starts the prober of all servers. It belongs to no host: it sees each server as its own
   * machine does. A hanging write is waited for, since its late acknowledgement is what matters.
   */
  startProber(
    options: {
      readonly intervalMs?: number;
      /** Before each writer's name, `probe-HOST`. @default "" */
      readonly prefix?: string;
    } = {},
  ): LabProcess {
    const prefix = options.prefix ?? "";
    const writers = [...this.servers.values()].map(
      (files): WriterOptions => ({
        name: `${prefix}probe-${files.host.name}`,
        address: { socketPath: files.socket },
        credentials: this.secrets.app,
        journal: this.journalFile(`${prefix}probe-${files.host.name}`),
        intervalMs: options.intervalMs ?? 50,
        connectTimeoutMs: 1000,
        statementTimeoutMs: 30_000,
      }),
    );
    return this.#startWriters(this.network.topology.arbitrator.name, `${prefix}prober`, writers);
  }

  journalFile(writer: string): string {
    return join(this.directory, `${writer}.journal`);
  }

  /** All journals of this lab, or one writer's. */
  journal(writer?: string): readonly Attempt[] {
    if (writer !== undefined) return readJournal(this.journalFile(writer));
    return readdirSync(this.directory)
      .filter((name) => name.endsWith(".journal"))
      .flatMap((name) => readJournal(join(this.directory, name)));
  }

  /** Keys (`writer/number`) of the rows that a server holds. */
  async rows(host: string): Promise<ReadonlySet<string>> {
    const sql = "SELECT CONCAT(writer, '/', number) AS name FROM app.written";
    const rows = await this.#whenOpen(host, sql);
    return new Set(rows.map((row) => String(row["name"])));
  }

  /** All journals against the rows of one server. Writers should have ended. */
  async checkRows(host: string): Promise<RowCheck> {
    const rows = await this.rows(host);
    return checkRows(this.journal(), rows);
  }

  /** `CHECKSUM TABLE` of the rows on each server. */
  async checksums(): Promise<ReadonlyMap<string, string>> {
    const sums = new Map<string, string>();
    for (const host of this.servers.keys()) {
      const [row] = await this.#whenOpen(host, "CHECKSUM TABLE app.written EXTENDED");
      sums.set(host, String(row?.["Checksum"]));
    }
    return sums;
  }

  /** What runs on a host. */
  processes(host: string): readonly ProcessMark[] {
    const byNamespace = this.network.pids(host).flatMap(markOf);
    const known = new Set(byNamespace.map((mark) => mark.pid));
    const byMark = markedAlive(this.directory, host).filter((mark) => !known.has(mark.pid));
    return [...byNamespace, ...byMark];
  }

  /**
   * Cuts the power of hosts: everything there stops, then no packet leaves them any more, then
   * everything is killed. Without the second, the kernel would close their connections in their
   * name. On loopback it does.
   */
  async powerOff(hosts: Hosts): Promise<void> {
    const names = typeof hosts === "string" ? [hosts] : hosts;
    // All at one instant, as power fails: nobody there goes on for the 10 to 30 ms of what follows.
    for (const mark of names.flatMap((host) => this.processes(host))) freeze(mark);
    if (this.network.namespaced) await this.network.isolate(names);
    for (let round = 0; round < 5; round++) {
      const alive = names.flatMap((host) => this.processes(host));
      if ((await killAll(alive)) === 0) return;
    }
    throw new MinderError(`Processes keep appearing on ${names.join(", ")}`);
  }

  /**
   * Reconnects hosts after `powerOff`, ending every other cut of theirs too; what ran on them is
   * the caller's to start.
   */
  async powerOn(hosts: Hosts): Promise<void> {
    const names = typeof hosts === "string" ? [hosts] : hosts;
    await this.network.heal(names);
  }

  /** Ends all processes, deletes all namespaces and files, gives the name free. */
  async down(): Promise<Removed> {
    try {
      return await removeRemains(this.name, this.directory);
    } finally {
      this.#lock.release();
    }
  }

  /** Processes started by `start` that still run. */
  running(): readonly LabProcess[] {
    return this.#processes.filter((one) => one.ended() === null);
  }

  #startWriters(host: string, name: string, writers: readonly WriterOptions[]): LabProcess {
    const config = join(this.directory, `${name}.json`);
    writeFileSync(config, JSON.stringify(writers), { mode: 0o600 });
    const script = join(import.meta.dir, "..", "..", "scripts", "lab_app.ts");
    return this.start(host, [process.execPath, script, config], { name: `writer-${name}` });
  }
}

function asLabProcess(
  child: Bun.Subprocess,
  about: { readonly host: string; readonly name: string; readonly logFile: string },
): LabProcess {
  const mark = markOf(child.pid)[0];
  const ended = (): number | null => child.exitCode ?? (child.signalCode === null ? null : 128);
  return {
    ...about,
    pid: child.pid,
    ended,
    kill(signal) {
      child.kill(signal);
    },
    async stop(graceMs = STOP_GRACE_MS) {
      child.kill("SIGTERM");
      const timer = setTimeout(() => {
        if (mark === undefined || isAlive(mark)) child.kill("SIGKILL");
      }, graceMs);
      await child.exited;
      clearTimeout(timer);
    },
  };
}

function isCutOff(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return CUT_OFF.has(String(code));
}

function stopwatch(log: (line: string) => void): (what: string) => void {
  let last = performance.now();
  return (what) => {
    const now = performance.now();
    log(`${what} (${((now - last) / 1000).toFixed(2)} s)`);
    last = now;
  };
}

function describeRemoved(removed: Removed): string {
  return (
    `what an earlier lab left: ${removed.processes} processes, ` +
    `${removed.namespaces} namespaces, ${removed.mounts} mounts`
  );
}
