/**
 * The lab's database servers: a data directory made once and copied, a configuration each, and
 * their command lines.
 *
 * All copies of the template have one UUID and one position, so that joiners take an incremental
 * transfer of a few transactions and never a full one (measured on MariaDB 10.11.19).
 */
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { type Connection, createConnection, type RowDataPacket } from "mysql2/promise";
import { readGrastate } from "../effects/datadir.ts";
import { MinderError } from "../errors.ts";
import { accountName, accountStatements, notifyStatements } from "../grants.ts";
import { run, runAsync, until } from "./exec.ts";
import { HOST_MARK, LAB_MARK, recordProcess } from "./remains.ts";
import type { LabHost } from "./topology.ts";

/** Who may connect. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** `minder` watches and orders, `app` writes. */
export interface Secrets {
  readonly minder: Credentials;
  readonly app: Credentials;
}

export interface Template {
  /** Owned by the user that mariadbd runs as. */
  readonly datadir: string;
  readonly secrets: Secrets;
  /** It was there already. */
  readonly cached: boolean;
}

/** A server's files and command line. */
export interface ServerFiles {
  readonly host: LabHost;
  readonly directory: string;
  readonly datadir: string;
  readonly socket: string;
  readonly config: string;
  readonly errorLog: string;
  /** `wsrep_provider_options` of its configuration. */
  readonly providerOptions: string;
  /** Runs mariadbd in the foreground on its host; every part execs, so the pid is mariadbd's. */
  readonly command: readonly string[];
}

export interface ServerOptions {
  /** The lab's directory. */
  readonly directory: string;
  readonly host: LabHost;
  /** All servers, for the cluster address. */
  readonly servers: readonly LabHost[];
  readonly clusterName: string;
  /** Of the network. */
  readonly enter: readonly string[];
  /**
   * `wsrep_notify_cmd`; null for none. mariadbd adds its arguments and gives the whole to `sh -c`,
   * so an interpreter, arguments and quotes are fine, and `;` ends the command before them. Its
   * working directory is the data directory, its environment mariadbd's, its PATH begins with
   * `/usr//bin:`, its stderr goes to the error log.
   */
  readonly notifyCommand: string | null;
  /** Added to `wsrep_provider_options`; later ones win. */
  readonly providerOptions: string;
}

const BUILD_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
const CONNECT_TIMEOUT_MS = 1000;

/** Sizes and choices that template and servers share: InnoDB's files must fit them. */
const SHARED_CONFIG = `
skip_name_resolve = 1
max_connections = 200
performance_schema = OFF
table_open_cache = 200
innodb_buffer_pool_size = 32M
innodb_log_file_size = 8M
innodb_data_file_path = ibdata1:4M:autoextend
# By default ibdata1 grows by 64 MB at once, which every copy would have to carry.
innodb_autoextend_increment = 1
innodb_autoinc_lock_mode = 2
# Losing power is SIGKILL here, which the page cache survives: 2 keeps what 1 would, without fsync.
innodb_flush_log_at_trx_commit = 2
default_storage_engine = InnoDB
binlog_format = ROW
wsrep_on = ON
wsrep_sst_method = rsync
wsrep_slave_threads = 2
# INSTALL SONAME does not work under Galera. It names the members of the present view, non-Primary
# ones too, but only once wsrep_notify_cmd has returned; SHOW STATUS is ahead of it by that time.
plugin_load_add = wsrep_info
`;

const SHARED_PROVIDER_OPTIONS = "gcache.size=16M;gcache.page_size=16M";

/** The minder's account is exactly what `just grants` prints; that it may count rows, and push configs, is the lab's. */
function setupSql(secrets: Secrets): string {
  const account = { ...secrets.minder, host: "%" };
  return `
${accountStatements(account).join(";\n")};
${notifyStatements("mysql").join(";\n")};
CREATE TABLE minder.probe
  (node INT UNSIGNED NOT NULL PRIMARY KEY, at TIMESTAMP(6) NOT NULL) ENGINE=InnoDB;
GRANT INSERT ON minder.* TO ${accountName(account)};
CREATE DATABASE app;
CREATE TABLE app.written (writer VARCHAR(32) NOT NULL, number BIGINT UNSIGNED NOT NULL,
  server VARCHAR(64) NOT NULL, PRIMARY KEY (writer, number)) ENGINE=InnoDB;
GRANT SELECT ON app.* TO ${accountName(account)};
CREATE USER 'app'@'%' IDENTIFIED BY '${secrets.app.password}';
GRANT ALL ON app.* TO 'app'@'%';
`;
}

/**
 * Prefix that gives mariadbd its user. rsync as a daemon of root changes to nobody and then cannot
 * write into the data directory, so not even an incremental transfer works under root (its script
 * fails with code 255). mariadbd therefore runs as mysql; the capability lets it and its notify
 * command read a checkout that only root may enter. setpriv execs, so the pid stays.
 */
export function serverUserPrefix(): readonly string[] {
  if (process.getuid?.() !== 0) return [];
  const capability = "+dac_override";
  return [
    "setpriv",
    "--reuid=mysql",
    "--regid=mysql",
    "--clear-groups",
    `--inh-caps=${capability}`,
    `--ambient-caps=${capability}`,
    "--",
  ];
}

/** Where templates are kept: GM_CACHE_DIR, else the user's cache directory. */
export function cacheDirectory(): string {
  const own = process.env["GM_CACHE_DIR"];
  if (own !== undefined && own !== "") return own;
  const base = process.env["XDG_CACHE_HOME"];
  return join(
    base !== undefined && base !== "" ? base : join(homedir(), ".cache"),
    "galera-minder",
  );
}

/** The programs; found by name since Debian keeps servers in /usr/sbin. @throws MinderError */
export function findPrograms(): { readonly mariadbd: string; readonly provider: string } {
  const path = `${process.env["PATH"] ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;
  const mariadbd = Bun.which("mariadbd", { PATH: path });
  const provider = [
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib64/galera/libgalera_smm.so",
  ].find((file) => existsSync(file));
  if (mariadbd === null || provider === undefined) {
    throw new MinderError(`${mariadbd === null ? "mariadbd" : "libgalera_smm.so"} is missing`, {
      hint: "Install what the lab needs with scripts/setup.ts",
    });
  }
  return { mariadbd, provider };
}

/**
 * The template for this server version and this configuration, built if it is not in the cache.
 * @param scratch an existing directory of the lab, where a half-made one would be cleaned up
 */
export async function getTemplate(scratch: string): Promise<Template> {
  const { mariadbd, provider } = findPrograms();
  const version = run([mariadbd, "--version"]).trim();
  const providerSize = statSync(provider).size;
  const sample = setupSql({
    minder: { user: "minder", password: "" },
    app: { user: "app", password: "" },
  });
  const key = createHash("sha256")
    .update(JSON.stringify([version, provider, providerSize, SHARED_CONFIG, sample]))
    .update(serverUserPrefix().join(" "))
    .digest("hex")
    .slice(0, 16);
  const home = join(cacheDirectory(), `template-${key}`);
  const found = readTemplate(home);
  if (found !== null) return found;
  const built = await buildTemplate(scratch, { mariadbd, provider });
  mkdirSync(dirname(home), { recursive: true });
  const draft = `${home}.${process.pid}`;
  run(["cp", "-a", "--reflink=auto", built, draft]);
  rmSync(built, { recursive: true });
  try {
    renameSync(draft, home);
  } catch (cause) {
    // Another lab was faster; its template is as good. Anything else is an error.
    rmSync(draft, { recursive: true });
    if (readTemplate(home) === null) {
      throw new MinderError("Cannot keep the template", { where: home, cause });
    }
  }
  const made = readTemplate(home);
  if (made === null) throw new MinderError("The template is incomplete", { where: home });
  return { ...made, cached: false };
}

function readTemplate(home: string): Template | null {
  const file = join(home, "secrets.json");
  if (!existsSync(file)) return null;
  const secrets = JSON.parse(readFileSync(file, "utf8")) as Secrets;
  return { datadir: join(home, "data"), secrets, cached: true };
}

async function buildTemplate(
  scratch: string,
  programs: { readonly mariadbd: string; readonly provider: string },
): Promise<string> {
  const home = join(scratch, "template");
  rmSync(home, { recursive: true, force: true });
  mkdirSync(home, { mode: 0o711 });
  const data = join(home, "data");
  mkdirSync(data, { mode: 0o700 });
  const secrets: Secrets = {
    minder: { user: "minder", password: randomPassword() },
    app: { user: "app", password: randomPassword() },
  };
  writeFileSync(join(home, "secrets.json"), JSON.stringify(secrets), { mode: 0o600 });
  giveToServerUser([data]);
  const socket = join(data, "build.sock");
  const log = join(data, "build.log");
  const config = join(home, "build.cnf");
  writeFileSync(
    config,
    `[mariadbd]${SHARED_CONFIG}
datadir = ${data}
socket = ${socket}
pid_file = ${join(data, "build.pid")}
log_error = ${log}
skip_networking = 1
wsrep_provider = ${programs.provider}
wsrep_cluster_name = template
wsrep_cluster_address = gcomm://
wsrep_node_name = template
wsrep_node_address = 127.0.0.1
wsrep_provider_options = "${SHARED_PROVIDER_OPTIONS};gmcast.listen_addr=tcp://127.0.0.1:${freePort()}"
`,
  );
  // Not $USER, which su leaves as it was and cron leaves out; Bun's userInfo() rests on it too.
  const owner = run(["id", "--user", "--name"]).trim();
  await runAsync(
    [
      ...serverUserPrefix(),
      "mariadb-install-db",
      `--defaults-file=${config}`,
      `--datadir=${data}`,
      "--wsrep-on=OFF",
      "--skip-test-db",
      "--auth-root-authentication-method=socket",
      `--auth-root-socket-user=${owner}`,
    ],
    { timeoutMs: BUILD_TIMEOUT_MS, cwd: "/" },
  );
  const command = [
    ...serverUserPrefix(),
    programs.mariadbd,
    `--defaults-file=${config}`,
    "--wsrep-new-cluster",
  ];
  const child = Bun.spawn(command, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
    env: { ...process.env, [LAB_MARK]: scratch },
    timeout: BUILD_TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  recordProcess(scratch, child.pid, command);
  try {
    const client = ["mariadb", "--no-defaults", `--socket=${socket}`, `--user=${owner}`, "--batch"];
    await until(
      "a ready server for the template",
      () => {
        if (child.exitCode !== null) {
          throw new MinderError("mariadbd ended while the template was made", {
            where: log,
            cause: new Error(tail(log)),
          });
        }
        if (!existsSync(socket)) return false;
        const asked = Bun.spawnSync([...client, "--execute=SHOW STATUS LIKE 'wsrep_ready'"], {
          timeout: CONNECT_TIMEOUT_MS * 5,
        });
        return asked.stdout.toString().includes("ON");
      },
      { timeoutMs: BUILD_TIMEOUT_MS, pauseMs: 10 },
    );
    await runAsync(client, { stdin: setupSql(secrets) });
    child.kill("SIGTERM");
    await until("the end of the template's server", () => child.exitCode !== null, {
      timeoutMs: STOP_TIMEOUT_MS,
      pauseMs: 5,
    });
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
  const state = readGrastate(data);
  if (state === null || state.uuid === null || state.seqno < 0) {
    throw new MinderError("The template's server did not stop cleanly", {
      where: log,
      cause: new Error(tail(log)),
    });
  }
  // The transaction cache is allocated whole; each server makes its own in milliseconds.
  for (const name of ["galera.cache", "build.log", "build.pid", "build.sock", "gvwstate.dat"]) {
    rmSync(join(data, name), { force: true });
  }
  rmSync(config);
  return home;
}

/** Writes a server's data directory and configuration. Nothing is started. */
export function prepareServer(template: Template, options: ServerOptions): ServerFiles {
  const { host } = options;
  const { mariadbd, provider } = findPrograms();
  const directory = join(options.directory, host.name);
  const datadir = join(directory, "data");
  const socket = join(directory, "mariadbd.sock");
  const config = join(directory, "my.cnf");
  const errorLog = join(directory, "mariadbd.err");
  // Of sun_path (unix(7)).
  if (Buffer.byteLength(socket) > 107) {
    throw new MinderError("The lab's directory has too long a name for a unix socket", {
      where: socket,
      hint: "Set GM_LAB_DIR to a shorter one",
    });
  }
  mkdirSync(directory, { recursive: true });
  chmodSync(directory, 0o755);
  run(["cp", "-a", "--reflink=auto", "--sparse=always", template.datadir, datadir]);
  mkdirSync(join(directory, "tmp"), { recursive: true });
  // As after a clean stop of all: only the last to stop may bootstrap without a person's order.
  if (host.serial !== 1) {
    const file = join(datadir, "grastate.dat");
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replace(/safe_to_bootstrap: 1/, "safe_to_bootstrap: 0"));
  }
  const members = options.servers.map((server) => server.address).join(",");
  const providerOptions = [
    SHARED_PROVIDER_OPTIONS,
    `gmcast.segment=${segmentNumber(host)}`,
    `gmcast.listen_addr=tcp://${host.address}:4567`,
    `ist.recv_addr=${host.address}:4568`,
    ...(options.providerOptions === "" ? [] : [options.providerOptions]),
  ].join(";");
  const notify =
    options.notifyCommand === null ? "" : `wsrep_notify_cmd = ${options.notifyCommand}\n`;
  writeFileSync(
    config,
    `# Of the lab; written anew at each start of it.
[mariadbd]${SHARED_CONFIG}
datadir = ${datadir}
tmpdir = ${join(directory, "tmp")}
socket = ${socket}
pid_file = ${join(directory, "mariadbd.pid")}
log_error = ${errorLog}
bind_address = ${host.address}
port = 3306
server_id = ${host.serial}
wsrep_provider = ${provider}
wsrep_cluster_name = ${options.clusterName}
wsrep_cluster_address = gcomm://${members}
wsrep_node_name = ${host.name}
wsrep_node_address = ${host.address}
wsrep_node_incoming_address = ${host.address}:3306
wsrep_sst_receive_address = ${host.address}:4444
wsrep_provider_options = "${providerOptions}"
${notify}`,
  );
  giveToServerUser([directory, join(directory, "tmp")]);
  const command = [...options.enter, ...serverUserPrefix(), mariadbd, `--defaults-file=${config}`];
  return { host, directory, datadir, socket, config, errorLog, providerOptions, command };
}

/**
 * Makes each data directory remember one common view, as after a crash of all at one moment, so
 * that Galera restores the primary component by itself (pc.recovery) once all have met.
 */
export function writeRecoveryViews(servers: readonly ServerFiles[]): void {
  const uuids = servers.map((server) => memberUuid(server.host.serial));
  const view = [
    "#vwbeg",
    `view_id: 3 ${uuids[0]} ${servers.length}`,
    "bootstrap: 0",
    ...servers.map((server, index) => `member: ${uuids[index]} ${segmentNumber(server.host)}`),
    "#vwend",
  ];
  const files = servers.map((server, index) => {
    const file = join(server.datadir, "gvwstate.dat");
    writeFileSync(file, `my_uuid: ${uuids[index]}\n${view.join("\n")}\n`);
    return file;
  });
  giveToServerUser(files);
}

/**
 * How the first meeting of all servers is hurried, by option: the value for it, and Galera's default.
 * All can be set at run time. With the defaults, servers on two busy cores often miss each other's
 * first messages and repeat them only after 7.5 s: 2.4 to 12 s until Synced against 1.0 to 3.7 s.
 */
const MEETING = [
  { option: "evs.join_retrans_period", hurried: "PT0.2S", usual: "PT1S" },
  { option: "evs.install_timeout", hurried: "PT1S", usual: "PT7.5S" },
] as const;

/** Argument for a start in which all servers meet at once. */
export function meetingArgument(files: ServerFiles): string {
  const hurried = MEETING.map(({ option, hurried }) => `${option}=${hurried}`).join(";");
  return `--wsrep-provider-options=${files.providerOptions};${hurried}`;
}

/** Value of `wsrep_provider_options` that undoes it: what the server's configuration says. */
export function afterMeeting(files: ServerFiles): string {
  const configured = new Map(
    files.providerOptions.split(";").map((pair): [string, string] => {
      const [option = "", ...value] = pair.split("=");
      return [option.trim(), value.join("=").trim()];
    }),
  );
  return MEETING.map(({ option, usual }) => `${option}=${configured.get(option) ?? usual}`).join(
    ";",
  );
}

/** A version 1 UUID as Galera makes them, of this moment. */
function memberUuid(serial: number): string {
  const ticks = (Date.now() * 10_000 + serial).toString(16).padStart(15, "0").slice(-15);
  const node = serial.toString(16).padStart(12, "0");
  return `${ticks.slice(-8)}-${ticks.slice(-12, -8)}-1${ticks.slice(0, 3)}-8000-${node}`;
}

/** `gmcast.segment`: the number in the data centre's name. */
function segmentNumber(host: LabHost): number {
  return Number(/\d+$/.exec(host.segment ?? "")?.[0] ?? 0);
}

/** A mariadbd that runs without a watchdog. */
export interface DirectServer {
  readonly files: ServerFiles;
  readonly pid: number;
  /** Exit code once it has ended. */
  ended(): number | null;
  /** Waits until Galera says Synced. @throws MinderError with the end of the error log */
  synced(timeoutMs: number): Promise<void>;
  /** SIGTERM, then SIGKILL. */
  stop(): Promise<void>;
}

/** Starts mariadbd without a watchdog, for measuring and for tests of the bare cluster. */
export function startDirectly(
  directory: string,
  files: ServerFiles,
  options: { readonly credentials: Credentials; readonly arguments?: readonly string[] },
): DirectServer {
  const command = [...files.command, ...(options.arguments ?? [])];
  const child = Bun.spawn(command, {
    stdin: "ignore",
    stdout: Bun.file(`${files.errorLog}.out`),
    stderr: Bun.file(`${files.errorLog}.out`),
    cwd: "/",
    // A session of its own: Ctrl-C at the terminal is for the lab, which ends its servers itself.
    detached: true,
    env: { ...process.env, [LAB_MARK]: directory, [HOST_MARK]: files.host.name },
  });
  recordProcess(directory, child.pid, command);
  return {
    files,
    pid: child.pid,
    ended: () => child.exitCode ?? (child.signalCode === null ? null : 128),
    async synced(timeoutMs) {
      await until(
        `${files.host.name} Synced`,
        async () => {
          if (child.exitCode !== null || child.signalCode !== null) {
            throw new MinderError(`mariadbd of ${files.host.name} ended`, {
              where: files.errorLog,
              cause: new Error(tail(files.errorLog)),
            });
          }
          const status = await readStatus(files.socket, options.credentials);
          return status?.get("wsrep_local_state_comment") === "Synced";
        },
        { timeoutMs, pauseMs: 20 },
      );
    },
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await child.exited;
      clearTimeout(timer);
    },
  };
}

/** Connects by the server's socket, which no cut of the network touches. @throws what mysql2 throws */
export async function connectTo(
  socket: string,
  credentials: Credentials,
  database?: string,
): Promise<Connection> {
  return await createConnection({
    socketPath: socket,
    user: credentials.user,
    password: credentials.password,
    connectTimeout: CONNECT_TIMEOUT_MS,
    ...(database === undefined ? {} : { database }),
  });
}

/** The `wsrep_*` status variables; null while nobody answers. */
export async function readStatus(
  socket: string,
  credentials: Credentials,
): Promise<ReadonlyMap<string, string> | null> {
  if (!existsSync(socket)) return null;
  let connection: Connection;
  try {
    connection = await connectTo(socket, credentials);
  } catch {
    // Not up yet, or not any more: that is the answer.
    return null;
  }
  try {
    const [rows] = await connection.query<RowDataPacket[]>({
      sql: "SHOW GLOBAL STATUS LIKE 'wsrep_%'",
      timeout: CONNECT_TIMEOUT_MS,
    });
    return new Map(rows.map((row) => [String(row["Variable_name"]), String(row["Value"])]));
  } catch {
    return null;
  } finally {
    connection.destroy();
  }
}

/** Last lines of a log, for an error that explains itself. */
export function tail(file: string, lines = 12): string {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
  } catch {
    return `${file}: not there`;
  }
}

function giveToServerUser(paths: readonly string[]): void {
  if (process.getuid?.() === 0) run(["chown", "mysql:mysql", ...paths]);
}

function randomPassword(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(18))).toString("base64url");
}

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}
