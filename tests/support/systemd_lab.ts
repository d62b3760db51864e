/**
 * Two servers and an arbitrator, each a machine with a systemd of its own, set up as an operator does it:
 * Debian's unit of mariadbd, and beside it what `just grants` and `just systemd-config` print, word for word.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterConfig } from "../../lib/cluster_config.ts";
import type { Finding } from "../../lib/doctor.ts";
import { askArbitrator } from "../../lib/effects/ask.ts";
import { readClusterConfig } from "../../lib/effects/config_file.ts";
import { writeSecretFile } from "../../lib/effects/secrets.ts";
import { MinderError } from "../../lib/errors.ts";
import type { RunResult } from "../../lib/lab/exec.ts";
import { until } from "../../lib/lab/exec.ts";
import { type Lab, openLab } from "../../lib/lab/lab.ts";
import { bootMachine, type Machine } from "../../lib/lab/machine.ts";
import { connectTo, writeRecoveryViews } from "../../lib/lab/mariadb.ts";
import type { LabHost } from "../../lib/lab/topology.ts";
import type { Summary } from "../../lib/message/arbitrator.ts";
import { reportOf } from "./watched_lab.ts";

/** How the watchdog of a server comes to manage its unit. */
export type Way = "sudoers" | "polkit";

export const MARIADB = "mariadb.service";
export const WATCHDOG = "galera-minder.service";
export const ARBITRATOR = "galera-arbitrator.service";

const ROOT = join(import.meta.dir, "../..");
const HOME = "/opt/galera-minder";
const BUN = "/opt/bun/bun";
const CONFIG = "/etc/galera-minder/cluster.toml";
const STATE = "/var/lib/galera-minder";
const SOCKET = "/run/mysqld/mysqld.sock";
/** A data directory is renamed when it is set aside: the folder above it is mysql's too. */
const DATA_HOME = "/var/lib/galera";
export const DATADIR = `${DATA_HOME}/data`;
const AS_MYSQL = ["setpriv", "--reuid=mysql", "--regid=mysql", "--init-groups", "--"] as const;
/** As the example config asks for in my.cnf where `evict` is on, as it is by default. */
const PROVIDER_OPTIONS = "evs.join_retrans_period=PT0.2S;evs.keepalive_period=PT0.2S";
/** What makes polkitd start; without them it is as if it were not installed. */
const POLKIT = [
  "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service",
  "/usr/lib/systemd/system/polkit.service",
] as const;
const READY_TIMEOUT_MS = 60_000;
const RESTART_TIMEOUT_MS = 120_000;
const LINES_SAID = 30;
const ASK_TIMEOUT_MS = 1_000;

export class SystemdLab {
  readonly lab: Lab;
  /** For questions from outside. */
  readonly config: ClusterConfig;
  readonly #machines: ReadonlyMap<string, Machine>;
  #rows = 0;

  constructor(lab: Lab, machines: ReadonlyMap<string, Machine>, config: ClusterConfig) {
    this.lab = lab;
    this.config = config;
    this.#machines = machines;
  }

  /** Boots all, sets all up, and waits until the cluster is healthy. @throws MinderError */
  static async open(name: string, ways: Readonly<Record<string, Way>>): Promise<SystemdLab> {
    const lab = await openLab(name, {
      servers: [1, 1],
      apps: 0,
      providerOptions: PROVIDER_OPTIONS,
    });
    try {
      writeRecoveryViews([...lab.servers.values()]);
      const booted = await Promise.all(
        lab.hosts.map(({ name: host }) => boot(lab, host, ways[host] ?? "polkit")),
      );
      const machines = new Map(booted.map((machine) => [machine.host, machine]));
      const control = `${machines.get(lab.network.topology.arbitrator.name)?.root}${STATE}`;
      const path = join(lab.directory, "cluster.toml");
      writeFileSync(path, configText(lab, `${control}/arbitrator.1`));
      const opened = new SystemdLab(lab, machines, await readClusterConfig(path));
      await opened.#setUp(ways);
      return opened;
    } catch (error) {
      await lab.down();
      throw error;
    }
  }

  async down(): Promise<void> {
    await this.lab.down();
  }

  machine(host: string): Machine {
    const found = this.#machines.get(host);
    if (found === undefined) throw new MinderError(`There is no machine ${host}`);
    return found;
  }

  /** A property of a unit, as `systemctl show` says it. */
  property(host: string, unit: string, name: string): string {
    return this.machine(host)
      .run(["systemctl", "show", `--property=${name}`, "--value", unit])
      .trim();
  }

  /** Pid of a unit's main process, as its own machine counts; 0 while none runs. */
  mainPid(host: string, unit: string): number {
    return Number(this.property(host, unit, "MainPID"));
  }

  /** What a unit has said until now, systemd's words about it included. */
  journal(host: string, unit: string): readonly string[] {
    const words = ["journalctl", `--unit=${unit}`, "--output=cat", "--no-pager", "--quiet"];
    return this.machine(host).run(words).split("\n");
  }

  /** A command of the watchdog's user. */
  asMysql(host: string, ...command: string[]): RunResult {
    return this.machine(host).tryRun([...AS_MYSQL, ...command]);
  }

  /** Findings about its own server, asked as the watchdog's user, as "severity check". */
  doctor(host: string): readonly string[] {
    const asked = this.asMysql(host, ...script("doctor", "--json", host));
    const findings = JSON.parse(asked.stdout) as readonly Finding[];
    return findings.map(({ severity, check }) => `${severity} ${check}`);
  }

  /** Uid and capabilities of a unit's main process, and its arguments. */
  process(host: string, unit: string) {
    const pid = this.mainPid(host, unit);
    const proc = `${this.machine(host).root}/proc/${pid}`;
    const status = readFileSync(`${proc}/status`, "latin1");
    const of = (key: string) => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? "";
    const words = readFileSync(`${proc}/cmdline`, "utf8").split("\0");
    return { uid: Number(of("Uid")), capabilities: of("CapEff"), words };
  }

  /** One row, written on that server as an application does. @throws what mysql2 throws */
  async insert(host: string): Promise<void> {
    const socket = `${this.machine(host).root}${SOCKET}`;
    const connection = await connectTo(socket, this.lab.secrets.app);
    try {
      const sql = `INSERT INTO app.written VALUES ('systemd', ${++this.#rows}, '${host}')`;
      await connection.query({ sql, timeout: READY_TIMEOUT_MS });
    } finally {
      connection.destroy();
    }
  }

  /** Waits until it acknowledges a write. Gives the milliseconds since `from`. */
  async serves(host: string, from: number): Promise<number> {
    const wrote = () =>
      this.insert(host).then(
        () => true,
        () => false,
      );
    await until(`${host} takes a write`, wrote, { timeoutMs: READY_TIMEOUT_MS });
    return performance.now() - from;
  }

  /** Waits until all is well and both serve. @throws MinderError with the last that was heard */
  async healthy(): Promise<void> {
    let last: Summary | null = null;
    const well = async (): Promise<boolean> => {
      last = await this.#summary();
      const of = (host: string) => (last === null ? null : reportOf(last, host));
      return (
        last?.health === "healthy" &&
        this.lab.network.topology.servers.every(({ name }) => of(name)?.serving === "on")
      );
    };
    try {
      await until("both servers serve", well, { timeoutMs: READY_TIMEOUT_MS, pauseMs: 50 });
    } catch (cause) {
      throw new MinderError(`Not healthy: ${JSON.stringify(last)}\n${this.#said()}`, { cause });
    }
  }

  /** As a person does it; returns when mariadbd has joined: its unit is of Type=notify. @throws MinderError */
  restart(host: string): void {
    try {
      this.machine(host).run(["systemctl", "restart", MARIADB], { timeoutMs: RESTART_TIMEOUT_MS });
    } catch (cause) {
      throw new MinderError(`${host} has not restarted:\n${this.#said()}`, { cause });
    }
  }

  /** The end of what every server's units have said. */
  #said(): string {
    const { servers } = this.lab.network.topology;
    const ends = servers.flatMap(({ name }) =>
      [MARIADB, WATCHDOG].flatMap((unit) => [
        `--- ${name} ${unit}`,
        ...this.journal(name, unit).slice(-LINES_SAID),
      ]),
    );
    return ends.join("\n");
  }

  async #summary(): Promise<Summary | null> {
    try {
      const reply = await askArbitrator(
        { verb: "status_summary", parameters: {} },
        { config: this.config, timeoutMs: ASK_TIMEOUT_MS },
      );
      return "health" in reply.parameters ? reply.parameters : null;
    } catch (error) {
      if (error instanceof MinderError) return null;
      throw error;
    }
  }

  async #setUp(ways: Readonly<Record<string, Way>>): Promise<void> {
    const { arbitrator, servers } = this.lab.network.topology;
    const password = crypto.randomUUID();
    const secret = join(this.lab.directory, "node.secret");
    writeSecretFile(secret);
    for (const machine of this.#machines.values()) {
      const folder = "/etc/galera-minder";
      machine.write(CONFIG, configText(this.lab, `${STATE}/arbitrator.1`));
      machine.write(`${folder}/password`, `${password}\n`, 0o600);
      machine.write(`${folder}/node.secret`, readFileSync(secret, "utf8"), 0o600);
      machine.run(["chown", "-R", "mysql:mysql", folder]);
    }
    // The cluster as it was before: no minder yet.
    for (const host of servers) {
      const machine = this.machine(host.name);
      machine.write("/etc/mysql/mariadb.conf.d/99-galera.cnf", this.#mariadbConfig(host));
      machine.run(["systemctl", "start", "--no-block", MARIADB]);
    }
    await Promise.all(servers.map(({ name }) => this.serves(name, 0)));
    const [first = arbitrator] = servers;
    const printed = this.machine(first.name).run(
      script("grants", "--password-placeholder", password),
    );
    this.machine(first.name).run(["mariadb"], { stdin: printed });
    this.#startArbitrator(this.machine(arbitrator.name));
    for (const { name } of servers) this.#install(this.machine(name), ways[name] ?? "polkit");
    await this.healthy();
  }

  /** The lab's own, with Debian's places. */
  #mariadbConfig({ name }: LabHost): string {
    const files = this.lab.server(name);
    return readFileSync(files.config, "utf8")
      .replace(/^log_error = .*\n/m, "")
      .replace(/^pid_file = .*$/m, "pid_file = /run/mysqld/mysqld.pid")
      .replace(/^socket = .*$/m, `socket = ${SOCKET}`)
      .replace(/^tmpdir = .*$/m, "tmpdir = /tmp")
      .replace(/^datadir = .*$/m, `datadir = ${DATADIR}`);
  }

  #startArbitrator(machine: Machine): void {
    const command = script("arbitrator");
    machine.run(["install", "-d", "-o", "mysql", "-g", "mysql", STATE]);
    machine.run([...AS_MYSQL, ...command, "--init"]);
    const lines = ["[Service]", "User=mysql", `ExecStart=${command.join(" ")}`, ""];
    machine.write(`/etc/systemd/system/${ARBITRATOR}`, lines.join("\n"));
    machine.run(["systemctl", "start", ARBITRATOR]);
  }

  /** Each file that is printed goes where its first line says; of the two ways, one. */
  #install(machine: Machine, way: Way): void {
    const printed = machine.run(script("systemd_config"));
    const other = way === "sudoers" ? "/etc/polkit-1/" : "/etc/sudoers.d/";
    const files = printed.split(/^(?=(?:#|\/\/) \/etc\/\S+$)/m);
    for (const text of files) {
      const [, path = ""] = /^(?:#|\/\/) (\/etc\/\S+)$/m.exec(text) ?? [];
      if (path.startsWith(other)) continue;
      machine.write(path, text, path.startsWith("/etc/sudoers.d/") ? 0o440 : 0o644);
    }
    machine.run(["systemctl", "daemon-reload"]);
    machine.run(["systemctl", "start", WATCHDOG]);
  }
}

async function boot(lab: Lab, host: string, way: Way): Promise<Machine> {
  const files = lab.servers.get(host);
  const binds = [
    ...["lib", "scripts", "package.json", "node_modules"].map((name) => ({
      from: join(ROOT, name),
      to: `${HOME}/${name}`,
    })),
    { from: process.execPath, to: BUN },
    ...(files === undefined
      ? []
      : [{ from: files.directory, to: DATA_HOME, writable: true } as const]),
  ];
  const absent = way === "sudoers" ? POLKIT.filter((file) => existsSync(file)) : [];
  return await bootMachine(lab, host, { binds, absent });
}

function script(name: string, ...words: string[]): string[] {
  return [BUN, `${HOME}/scripts/${name}.ts`, "--config", CONFIG, ...words];
}

function configText(lab: Lab, arbitratorState: string): string {
  const { arbitrator, servers } = lab.network.topology;
  return [
    "version = 1",
    "[cluster]",
    `name = "${lab.name}"`,
    'primary_segment = "dc1"',
    "[timing]",
    // Each server is let down in turn.
    "promotion_window_ms = 0",
    "[database]",
    'user = "watchdog"',
    'password_file = "/etc/galera-minder/password"',
    "[security]",
    'secret_file = "/etc/galera-minder/node.secret"',
    "[[arbitrator]]",
    "serial = 1",
    `host = "${arbitrator.address}"`,
    `state_dir = "${arbitratorState}"`,
    ...servers.flatMap(({ serial, name, segment, address }) => [
      "[[dbserver]]",
      `serial = ${serial}`,
      `name = "${name}"`,
      `segment = "${segment}"`,
      `host = "${address}"`,
      `mysql_socket = "${SOCKET}"`,
      `unit = "${MARIADB}"`,
      `datadir = "${DATADIR}"`,
    ]),
    "",
  ].join("\n");
}
