/**
 * A lab with minders: the whole cluster as an operator has it, arbitrator, watchdogs, balancers with
 * their minders, an application and a prober. The demo plays on it and the real-cluster tests ask it.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterConfig } from "../cluster_config.ts";
import { askArbitrator } from "../effects/ask.ts";
import { readClusterConfig } from "../effects/config_file.ts";
import { writeSecretFile } from "../effects/secrets.ts";
import { MinderError } from "../errors.ts";
import type { Summary } from "../message/arbitrator.ts";
import { until } from "./exec.ts";
import { BACKEND } from "./haproxy.ts";
import { type Lab, type LabOptions, type LabProcess, openLab } from "./lab.ts";
import { RECORD_MARK } from "./record.ts";
import type { LabHost } from "./topology.ts";

const SCRIPTS = join(import.meta.dir, "..", "..", "scripts");
const ARBITRATOR_PORT = 9470;
const SERVER_PORT = 9471;
const CLIENT_PORT = 9472;
/** As the example config asks for in my.cnf: a joiner uses them before its watchdog can set them. */
const EVICT_OPTIONS = "evs.join_retrans_period=PT0.2S;evs.keepalive_period=PT0.2S";
const READY_TIMEOUT_MS = 90_000;
const ASK_TIMEOUT_MS = 1_000;

export interface MindedOptions extends LabOptions {
  /** How far evidence goes before Galera gives up on a server. @default "off" */
  readonly evict?: ClusterConfig["evict"];
  /** The config is kept in the database, and each host has a node's own file. @default false */
  readonly database?: boolean;
  /** Lines added to the config's [cluster] table, as `on_double_fault = "fence"`. */
  readonly cluster?: readonly string[];
  /** Lines of the config's [timing] table, as `lease_ms = 2000`. */
  readonly timing?: readonly string[];
  /** Lines added to the [[dbclient]] of an application host, as `drain_cut_ms = 2000`. */
  readonly client?: (host: LabHost) => readonly string[];
  /** @default "single-writer" */
  readonly policy?: "single-writer" | "local-first" | "spread";
  /** Added to the environment of watchdogs. @default none */
  readonly watchdogs?: Readonly<Record<string, string>>;
  /** Every message that a minder posts is noted in `Minded.records`. @default false */
  readonly record?: boolean;
}

/** Opens a lab for minders; nothing runs yet. @throws MinderError */
export async function openMinded(name: string, options: MindedOptions = {}): Promise<Minded> {
  const evicts = (options.evict ?? "off") !== "off";
  const providerOptions = [options.providerOptions ?? "", evicts ? EVICT_OPTIONS : ""];
  const lab = await openLab(name, {
    ...options,
    notifyCommand,
    providerOptions: providerOptions.filter(Boolean).join(";"),
  });
  const path = join(lab.directory, "cluster.toml");
  for (const kind of SECRETS) writeSecretFile(secretPath(lab, kind));
  writeFileSync(path, configText(lab, options));
  try {
    const config = await readClusterConfig(path);
    const { record = false, watchdogs = {} } = options;
    if (options.database !== true) {
      return new Minded(lab, { path, config, document: null, record, watchdogs });
    }
    for (const { name: host } of lab.hosts) writeNodeFile(lab, host);
    return new Minded(lab, {
      path,
      config,
      document: documentText(lab, options),
      record,
      watchdogs,
    });
  } catch (error) {
    await lab.down();
    throw error;
  }
}

/**
 * As it stands in `wsrep_notify_cmd`: Galera adds its own arguments and gives it to `sh -c`. Until that
 * ends mariadbd commits nothing, so it only starts the handler: 2 ms instead of 10 to 30 (docs/notify.md).
 */
function notifyCommand(server: LabHost): string {
  const script = join(SCRIPTS, "notify.ts");
  const to = `http://${server.address}:${SERVER_PORT}`;
  const bun = `BUN_JSC_useJIT=0 exec ${process.execPath} --no-install --no-env-file`;
  const target = `--to ${to} --node dbserver.${server.serial} --socket ../mariadbd.sock`;
  const handler = `${bun} ${script} ${target} "$@"`;
  return `sh -c '${handler} >/dev/null 2>&1 &' notify`;
}

/** Files of the lab's own secrets, made anew at each start of it. */
const SECRETS = ["node", "operator"] as const;

function secretPath(lab: Lab, kind: (typeof SECRETS)[number]): string {
  return join(lab.directory, `${kind}.secret`);
}

const quote = (value: string | readonly string[]) => JSON.stringify(value);

function stateDir(lab: Lab, host: string): string {
  return quote(join(lab.directory, host, "minder"));
}

/** Where a host's own file is, in a lab whose config is in the database. */
export function nodeFile(lab: Lab, host: string): string {
  return join(lab.directory, host, "node.toml");
}

/** Writes what only that host knows. */
function writeNodeFile(lab: Lab, name: string): void {
  const host = lab.hosts.find((one) => one.name === name);
  if (host === undefined) throw new MinderError(`There is no host ${name}`);
  const { servers } = lab.network.topology;
  const own = host.role === "dbserver" ? lab.server(name) : null;
  const type = host.role === "app" ? "dbclient" : host.role;
  const addresses = [
    ...(own === null ? [] : [own.socket]),
    ...servers.filter((one) => one.name !== name).map(({ address }) => `${address}:3306`),
  ];
  const account = [
    `user = ${quote(lab.secrets.minder.user)}`,
    `password_file = ${quote(lab.passwordFile("minder"))}`,
  ];
  mkdirSync(join(lab.directory, name), { recursive: true });
  const lines = [
    "[node]",
    `id = ${quote(`${type}.${host.serial}`)}`,
    `state_dir = ${stateDir(lab, name)}`,
    "[database]",
    `addresses = ${quote(addresses)}`,
    ...account,
    "[local]",
    ...account,
    ...(own === null ? [] : localLines(lab, host)),
    ...(host.role === "app"
      ? [`balancer_socket = ${quote(lab.balancers.get(name)?.socket ?? "")}`]
      : []),
    ...securityLines(lab),
    "",
  ];
  writeFileSync(nodeFile(lab, name), lines.join("\n"));
}

/** How a watchdog runs its mariadbd: for itself alone to know. */
function localLines(lab: Lab, host: LabHost): readonly string[] {
  const files = lab.server(host.name);
  return [
    `mysql_socket = ${quote(files.socket)}`,
    `datadir = ${quote(files.datadir)}`,
    // The watchdog runs on that host already.
    `mariadbd = ${quote(files.command.slice(lab.network.enter(host.name).length))}`,
  ];
}

function securityLines(lab: Lab): readonly string[] {
  return [
    "[security]",
    `secret_file = ${quote(secretPath(lab, "node"))}`,
    `operator_file = ${quote(secretPath(lab, "operator"))}`,
  ];
}

/** A whole site file, as it stands without a database. */
function configText(lab: Lab, options: MindedOptions): string {
  return clusterText(lab, options, { local: true });
}

/** The document for the database: the same, without what each host has in its own file. */
export function documentText(lab: Lab, options: MindedOptions): string {
  return clusterText(lab, options, { local: false });
}

function clusterText(
  lab: Lab,
  options: MindedOptions,
  { local }: { readonly local: boolean },
): string {
  const { topology } = lab.network;
  const present = topology.servers.filter(({ name }) => options.spare?.includes(name) !== true);
  const hostOnly = (lines: readonly string[]) => (local ? lines : []);
  return [
    "# Of the lab; written anew at each start of it.",
    "version = 1",
    "[cluster]",
    `name = ${quote(lab.name)}`,
    'primary_segment = "dc1"',
    `evict = ${quote(options.evict ?? "off")}`,
    ...(options.cluster ?? []),
    "[timing]",
    ...(options.timing ?? []),
    ...hostOnly([
      "[database]",
      `user = ${quote(lab.secrets.minder.user)}`,
      `password_file = ${quote(lab.passwordFile("minder"))}`,
      ...securityLines(lab),
    ]),
    "[[arbitrator]]",
    "serial = 1",
    `host = ${quote(topology.arbitrator.address)}`,
    `port = ${ARBITRATOR_PORT}`,
    ...hostOnly([`state_dir = ${stateDir(lab, topology.arbitrator.name)}`]),
    ...present.flatMap((host) => [
      "[[dbserver]]",
      `serial = ${host.serial}`,
      `name = ${quote(host.name)}`,
      `segment = ${quote(host.segment ?? "")}`,
      `host = ${quote(host.address)}`,
      `port = ${SERVER_PORT}`,
      ...hostOnly([...localLines(lab, host), `state_dir = ${stateDir(lab, host.name)}`]),
    ]),
    ...topology.apps.flatMap((host) => [
      "[[dbclient]]",
      `serial = ${host.serial}`,
      `segment = ${quote(host.segment ?? "")}`,
      `host = ${quote(host.address)}`,
      `port = ${CLIENT_PORT}`,
      `policy = ${quote(options.policy ?? "single-writer")}`,
      ...(options.client?.(host) ?? []),
      "[dbclient.balancer]",
      'kind = "haproxy"',
      ...hostOnly([`socket = ${quote(lab.balancers.get(host.name)?.socket ?? "")}`]),
      `backend = ${quote(BACKEND)}`,
    ]),
    "",
  ].join("\n");
}

/** A running minded cluster. */
export class Minded {
  readonly lab: Lab;
  readonly configPath: string;
  readonly config: ClusterConfig;
  /** Folder for lib/lab/record.ts; null: nothing is noted. */
  readonly records: string | null;
  /** What is pushed before the first minder starts; null where the site file is the config. */
  readonly #document: string | null;
  readonly #watchdogs: Readonly<Record<string, string>>;
  readonly #minders = new Map<string, LabProcess>();

  constructor(
    lab: Lab,
    options: {
      readonly path: string;
      readonly config: ClusterConfig;
      readonly document: string | null;
      readonly record: boolean;
      readonly watchdogs: Readonly<Record<string, string>>;
    },
  ) {
    this.#watchdogs = options.watchdogs;
    this.lab = lab;
    this.records = options.record ? join(lab.directory, "records") : null;
    if (this.records !== null) mkdirSync(this.records, { mode: 0o700 });
    this.configPath = options.path;
    this.config = options.config;
    this.#document = options.document;
  }

  /** Starts everything, and waits until the arbitrator calls the cluster healthy. */
  async start(): Promise<void> {
    if (this.#document !== null) {
      await this.#startFromDatabase(this.#document);
      return;
    }
    const { topology } = this.lab.network;
    this.initArbitrator();
    this.startMinder(topology.arbitrator.name);
    const balancers = topology.apps.map(async ({ name }) => {
      await this.lab.startBalancer(name);
      this.startMinder(name);
    });
    // The watchdogs come when there is something to adopt: one that finds its server stopped would
    // rightly begin with the questions of a full outage.
    await Promise.all([this.lab.startServers(), ...balancers]);
    for (const { name } of topology.servers) this.startMinder(name);
    await this.untilHealth("healthy");
  }

  /** The database first: that is where the minders find their config. */
  async #startFromDatabase(document: string): Promise<void> {
    const { lab } = this;
    const started = await lab.startServers();
    const file = join(lab.directory, "document.toml");
    writeFileSync(file, document);
    for (const words of [["init"], ["push", file, "--yes", "--note", "the first"]]) {
      await until(
        `config ${words[0]}`,
        async () => {
          // No watchdog has answered the notify handlers as the servers met, so they closed the doors.
          for (const host of started.keys()) {
            await lab.query(host, "SET GLOBAL wsrep_reject_queries = NONE");
          }
          return this.configOrder(...words).code === 0;
        },
        { timeoutMs: READY_TIMEOUT_MS, pauseMs: 500 },
      );
    }
    this.initArbitrator();
    this.startMinder(lab.network.topology.arbitrator.name);
    for (const { name } of lab.network.topology.apps) {
      await lab.startBalancer(name);
      this.startMinder(name);
    }
    // Not all at once: a watchdog that gets no time cannot see that its mariadbd is well.
    await this.untilSummary("the arbitrator answers", () => true);
    for (const name of started.keys()) this.startMinder(name);
    await this.untilHealth("healthy");
  }

  /** `config.ts` as a person calls it: its exit code and what it said. */
  configOrder(...words: readonly string[]): { readonly code: number; readonly said: string } {
    const script = join(SCRIPTS, "config.ts");
    const arb = this.lab.network.topology.arbitrator.name;
    const command = [process.execPath, script, "--config", nodeFile(this.lab, arb), ...words];
    const done = Bun.spawnSync([...this.lab.network.enter(arb), ...command], { timeout: 30_000 });
    return { code: done.exitCode, said: done.stdout.toString() + done.stderr.toString() };
  }

  /** Makes the arbitrator's store, as an operator does once. */
  initArbitrator(): void {
    const { name } = this.lab.network.topology.arbitrator;
    mkdirSync(join(this.lab.directory, name), { recursive: true });
    const enter = this.#document === null ? [] : this.lab.network.enter(name);
    const made = Bun.spawnSync([...enter, ...this.#script("arbitrator", name), "--init"]);
    if (!made.success) throw new MinderError(`Cannot make the store: ${made.stderr.toString()}`);
  }

  /** Starts the minder of a host: each finds its role from the config and its addresses. */
  startMinder(host: string): LabProcess {
    const { servers } = this.lab.network.topology;
    const started = this.lab.start(host, this.#script("minder", host), {
      name: "minder",
      environment: {
        ...(servers.some(({ name }) => name === host) ? this.#watchdogs : {}),
        ...(this.records === null ? {} : { [RECORD_MARK]: this.records }),
      },
    });
    this.#minders.set(host, started);
    return started;
  }

  /** The minder process of a host. @throws MinderError if none was started */
  minder(host: string): LabProcess {
    const found = this.#minders.get(host);
    if (found === undefined) throw new MinderError(`No minder was started on ${host}`);
    return found;
  }

  /** Pid of the mariadbd of a host; null while none runs. One that only reads its position is none. */
  mariadbd(host: string): number | null {
    const found = this.lab.processes(host).find(({ pid }) => {
      try {
        // A zombie has none.
        const command = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        const named = readFileSync(`/proc/${pid}/comm`, "utf8").trim() === "mariadbd";
        return named && command !== "" && !command.includes("--wsrep-recover");
      } catch {
        // It ended meanwhile.
        return false;
      }
    });
    return found?.pid ?? null;
  }

  /** What the minders of a host have logged since. */
  events(host: string, from = 0): readonly Readonly<Record<string, unknown>>[] {
    return readFileSync(this.minder(host).logFile)
      .subarray(from)
      .toString()
      .split("\n")
      .filter((line) => line.startsWith("{") && line.endsWith("}"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  #script(name: string, host: string): string[] {
    const config = this.#document === null ? this.configPath : nodeFile(this.lab, host);
    return [
      process.execPath,
      ...(this.records === null ? [] : ["--preload", join(import.meta.dir, "record.ts")]),
      join(SCRIPTS, `${name}.ts`),
      ...["--config", config],
      ...this.#node(name, host),
    ];
  }

  /** In a namespace a minder finds itself by its address; on loopback every address is everybody's. */
  #node(name: string, host: string): string[] {
    const { namespaced, topology } = this.lab.network;
    if (namespaced && name !== "arbitrator") return [];
    const found = topology.hosts.find((one) => one.name === host);
    if (found === undefined) throw new MinderError(`There is no host ${host}`);
    return ["--node", `${found.role === "app" ? "dbclient" : found.role}.${found.serial}`];
  }

  /** Servers that a name stands for: a server or a data centre. @throws MinderError if it is neither */
  serversOf(name: string): readonly string[] {
    const { servers } = this.lab.network.topology;
    const found = servers.filter((host) => host.name === name || host.segment === name);
    if (found.length === 0) {
      const known = [...new Set(servers.flatMap((host) => [host.segment ?? "", host.name]))];
      throw new MinderError(`There is no server or data centre ${name}`, {
        hint: `There are ${known.join(", ")}`,
      });
    }
    return found.map((host) => host.name);
  }

  /** Pulls the plug: no packet leaves the hosts, and everything on them is killed. */
  async powerOff(name: string): Promise<void> {
    await this.lab.powerOff(this.serversOf(name));
  }

  /** The hosts boot: their watchdogs start, and start mariadbd when the arbitrator says so. */
  async powerOn(name: string): Promise<void> {
    const hosts = this.serversOf(name);
    await this.lab.powerOn(hosts);
    for (const host of hosts) this.startMinder(host);
  }

  /** Cuts the data centres from each other; the arbitrator and the applications reach both. */
  async cutLink(): Promise<void> {
    await this.lab.network.cut(this.serversOf("dc1"), this.serversOf("dc2"));
  }

  async healLink(): Promise<void> {
    await this.lab.network.heal(this.serversOf("dc1"), this.serversOf("dc2"));
  }

  /** What the arbitrator says; null while it does not answer. */
  async summary(): Promise<Summary | null> {
    try {
      const reply = await askArbitrator(
        { verb: "status_summary", parameters: {} },
        { config: this.config, timeoutMs: ASK_TIMEOUT_MS },
      );
      return reply.verb === "status_summary" && "health" in reply.parameters
        ? reply.parameters
        : null;
    } catch (error) {
      if (error instanceof MinderError) return null;
      throw error;
    }
  }

  /** Waits until the summary is as wished. @throws MinderError with the last one */
  async untilSummary(
    what: string,
    wished: (summary: Summary) => boolean,
    timeoutMs = READY_TIMEOUT_MS,
  ): Promise<Summary> {
    let last: Summary | null = null;
    try {
      await until(
        what,
        async () => {
          last = await this.summary();
          return last !== null && wished(last);
        },
        { timeoutMs, pauseMs: 50 },
      );
    } catch (cause) {
      throw new MinderError(`Not within ${timeoutMs} ms: ${what}; ${describe(last)}`, { cause });
    }
    if (last === null) throw new MinderError(`Nothing was heard: ${what}`);
    return last;
  }

  async untilHealth(health: Summary["health"], timeoutMs = READY_TIMEOUT_MS): Promise<Summary> {
    return await this.untilSummary(
      `the cluster is ${health}`,
      (is) => is.health === health,
      timeoutMs,
    );
  }

  /** Takes all down; `GM_TEST_KEEP` names a folder to which the lab's files are copied before. */
  async down(): Promise<void> {
    const keep = process.env["GM_TEST_KEEP"];
    if (keep !== undefined) Bun.spawnSync(["cp", "-a", this.lab.directory, keep]);
    await this.lab.down();
  }
}

function describe(summary: Summary | null): string {
  if (summary === null) return "the arbitrator does not answer";
  const servers = summary.servers.map(
    ({ name, report }) =>
      `${name} ${report?.running} ${report?.primary} ${report?.localState} serving ${report?.serving} writers ${report?.writers}: ${report?.because}`,
  );
  const orders = summary.orders.map(({ verb, about }) => `${verb} ${about} stands`);
  const verdicts = summary.segments.map(
    ({ name, verdict }) => `${name}: ${verdict.rule}: ${verdict.because}`,
  );
  return [
    `${summary.health}: ${summary.because}`,
    `writers belong in ${summary.primarySegment}`,
    ...verdicts,
    ...orders,
    ...servers,
  ].join("; ");
}
