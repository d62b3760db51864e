/**
 * A lab with minders: the whole cluster as an operator has it, arbitrator, watchdogs, balancers with
 * their minders, an application and a prober. The demo plays on it and the real-cluster tests ask it.
 */
import { mkdirSync, writeFileSync } from "node:fs";
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
import type { LabHost } from "./topology.ts";

const SCRIPTS = join(import.meta.dir, "..", "..", "scripts");
const ARBITRATOR_PORT = 9470;
const SERVER_PORT = 9471;
const CLIENT_PORT = 9472;
/** As the example config asks for in my.cnf: a joiner uses them before its watchdog can set them. */
const EVICT_OPTIONS = "evs.join_retrans_period=PT0.2S;evs.keepalive_period=PT0.2S";
const READY_TIMEOUT_MS = 30_000;
const ASK_TIMEOUT_MS = 1_000;

export interface MindedOptions extends LabOptions {
  /** How far evidence goes before Galera gives up on a server. @default "off" */
  readonly evict?: ClusterConfig["evict"];
  /** Lines added to the config's [cluster] table, as `on_double_fault = "fence"`. */
  readonly cluster?: readonly string[];
  /** Lines of the config's [timing] table, as `lease_ms = 2000`. */
  readonly timing?: readonly string[];
  /** Lines added to the [[dbclient]] of an application host, as `drain_cut_ms = 2000`. */
  readonly client?: (host: LabHost) => readonly string[];
  /** @default "single-writer" */
  readonly policy?: "single-writer" | "local-first" | "spread";
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
    return new Minded(lab, path, await readClusterConfig(path));
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
  // All hosts of a lab share one machine: what is only a hint yields to what decides.
  const bun = `BUN_JSC_useJIT=0 exec nice ${process.execPath} --no-install --no-env-file`;
  const handler = `${bun} ${script} --to ${to} --node dbserver.${server.serial} "$@"`;
  return `sh -c '${handler} >/dev/null 2>&1 &' notify`;
}

/** Files of the lab's own secrets, made anew at each start of it. */
const SECRETS = ["node", "operator"] as const;

function secretPath(lab: Lab, kind: (typeof SECRETS)[number]): string {
  return join(lab.directory, `${kind}.secret`);
}

function configText(lab: Lab, options: MindedOptions): string {
  const { topology } = lab.network;
  const quote = (value: string | readonly string[]) => JSON.stringify(value);
  const stateDir = (host: LabHost) => quote(join(lab.directory, host.name, "minder"));
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
    "[database]",
    `user = ${quote(lab.secrets.minder.user)}`,
    `password_file = ${quote(lab.passwordFile("minder"))}`,
    "[security]",
    `secret_file = ${quote(secretPath(lab, "node"))}`,
    `operator_file = ${quote(secretPath(lab, "operator"))}`,
    "[[arbitrator]]",
    "serial = 1",
    `host = ${quote(topology.arbitrator.address)}`,
    `port = ${ARBITRATOR_PORT}`,
    `state_dir = ${stateDir(topology.arbitrator)}`,
    ...topology.servers.flatMap((host) => {
      const files = lab.server(host.name);
      return [
        "[[dbserver]]",
        `serial = ${host.serial}`,
        `name = ${quote(host.name)}`,
        `segment = ${quote(host.segment ?? "")}`,
        `host = ${quote(host.address)}`,
        `port = ${SERVER_PORT}`,
        `mysql_socket = ${quote(files.socket)}`,
        `datadir = ${quote(files.datadir)}`,
        // The watchdog runs on that host already.
        `mariadbd = ${quote(files.command.slice(lab.network.enter(host.name).length))}`,
        `state_dir = ${stateDir(host)}`,
      ];
    }),
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
      `socket = ${quote(lab.balancers.get(host.name)?.socket ?? "")}`,
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
  readonly #minders = new Map<string, LabProcess>();

  constructor(lab: Lab, configPath: string, config: ClusterConfig) {
    this.lab = lab;
    this.configPath = configPath;
    this.config = config;
  }

  /** Starts everything, and waits until the arbitrator calls the cluster healthy. */
  async start(): Promise<void> {
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

  /** Makes the arbitrator's store, as an operator does once. */
  initArbitrator(): void {
    const { name } = this.lab.network.topology.arbitrator;
    mkdirSync(join(this.lab.directory, name), { recursive: true });
    const made = Bun.spawnSync([...this.#script("arbitrator"), "--init"]);
    if (!made.success) throw new MinderError(`Cannot make the store: ${made.stderr.toString()}`);
  }

  /** Starts the minder of a host: each finds its role from the config and its addresses. */
  startMinder(host: string): LabProcess {
    const started = this.lab.start(host, this.#script("minder"), { name: "minder" });
    this.#minders.set(host, started);
    return started;
  }

  /** The minder process of a host. @throws MinderError if none was started */
  minder(host: string): LabProcess {
    const found = this.#minders.get(host);
    if (found === undefined) throw new MinderError(`No minder was started on ${host}`);
    return found;
  }

  #script(name: string): string[] {
    return [
      process.execPath,
      join(SCRIPTS, `${name}.ts`),
      "--config",
      this.configPath,
      ...this.#node(name),
    ];
  }

  #node(name: string): string[] {
    return name === "arbitrator" ? ["--node", "arbitrator.1"] : [];
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

  async down(): Promise<void> {
    await this.lab.down();
  }
}

function describe(summary: Summary | null): string {
  if (summary === null) return "the arbitrator does not answer";
  const servers = summary.servers.map(
    ({ name, report }) =>
      `${name} ${report?.running} ${report?.primary} ${report?.localState} serving ${report?.serving}: ${report?.because}`,
  );
  return [`${summary.health}: ${summary.because}`, ...servers].join("; ");
}
