/** Fetches a server's settings for the doctor: a few statements that change nothing, in bounded time. */
import { lookup } from "node:dns/promises";
import { readFileSync, statSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { dirname } from "node:path";
import { createConnection, type RowDataPacket } from "mysql2/promise";
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { Examined, HostFacts, NotifyFacts, ServerFacts } from "../doctor.ts";
import { describeError } from "../errors.ts";
import { socketUnit } from "../systemd.ts";
import { readPassword } from "./mysql_link.ts";

const CONNECT_TIMEOUT_MS = 2_000;
const QUERY_TIMEOUT_MS = 5_000;
const CHECK_TIMEOUT_MS = 2_000;

/** Asks one server, by its socket where that is on this host. Never throws. */
export async function examine(config: ClusterConfig, server: DbServerConfig): Promise<Examined> {
  const local = await isHere(config, server);
  const here = local ? { host: hostFacts(server) } : {};
  try {
    return { server, ...here, facts: await fetchFacts(config, server, local) };
  } catch (error) {
    return { server, ...here, error: describeError(error) };
  }
}

/**
 * Is its socket the one that is here. Where each host calls its socket the same, as Debian does, the path
 * alone would take any server for this host's.
 */
export async function isHere(config: ClusterConfig, server: DbServerConfig): Promise<boolean> {
  if (!isSocket(server.mysqlSocket)) return false;
  if (config.servers.every((one) => one === server || one.mysqlSocket !== server.mysqlSocket)) {
    return true;
  }
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  try {
    const named = await lookup(server.host, { all: true });
    return named.some(({ address }) => own.some((one) => one.address === address));
  } catch {
    // A name that nobody knows here: then it is not this host's.
    return false;
  }
}

/** What systemd and the file system of this host say. */
function hostFacts({ unit, datadir }: DbServerConfig): HostFacts {
  return { socket: unit === undefined ? null : socketFacts(unit), fixed: whyFixed(datadir) };
}

/** Null where there is no such socket unit, or no systemd. */
export function socketFacts(unit: string, systemctl = "systemctl"): HostFacts["socket"] {
  const socket = socketUnit(unit);
  const ask = (verb: string) => {
    const command = [systemctl, verb, socket];
    try {
      return Bun.spawnSync(command, { timeout: CHECK_TIMEOUT_MS }).stdout.toString().trim();
    } catch {
      // There is no such program.
      return "";
    }
  };
  const enabled = ask("is-enabled");
  if (enabled === "" || enabled === "not-found") return null;
  return { enabled: /^enabled/.test(enabled), active: ask("is-active") === "active" };
}

/** May its owner rename it, as the watchdog's user; as any other but root, may this process. */
export function whyFixed(datadir: string): string | null {
  try {
    const folder = dirname(datadir);
    const [data, above] = [statSync(datadir), statSync(folder)];
    if (data.dev !== above.dev) return "it is a mount point";
    const own = process.geteuid?.();
    const uid = own === 0 ? data.uid : own;
    const writable = uid === 0 || (above.uid === uid ? above.mode & 0o200 : above.mode & 0o002);
    const byGroup = above.gid === data.gid && (above.mode & 0o020) !== 0;
    return writable || byGroup ? null : `uid ${uid} may not rename in ${folder}`;
  } catch {
    // Not to be seen from here: nothing is known against it.
    return null;
  }
}

async function fetchFacts(
  config: ClusterConfig,
  server: DbServerConfig,
  local: boolean,
): Promise<ServerFacts> {
  const { user, passwordFile } = config.database;
  const connection = await createConnection({
    ...(local && server.mysqlSocket !== null
      ? { socketPath: server.mysqlSocket }
      : { host: server.host, port: server.mysqlPort }),
    user,
    password: passwordFile === null ? "" : readPassword(passwordFile),
    connectTimeout: CONNECT_TIMEOUT_MS,
  });
  const rows = async (sql: string): Promise<readonly (readonly string[])[]> => {
    const [found] = await connection.query<RowDataPacket[][]>({
      sql,
      rowsAsArray: true,
      timeout: QUERY_TIMEOUT_MS,
    });
    return found.map((row) => row.map(String));
  };
  const pairs = async (sql: string): Promise<ReadonlyMap<string, string>> =>
    new Map((await rows(sql)).map(([name = "", value = ""]) => [name.toLowerCase(), value]));
  try {
    const variables = await pairs("SHOW GLOBAL VARIABLES");
    const status = await pairs("SHOW GLOBAL STATUS LIKE 'wsrep\\_%'");
    const grants = (await rows("SHOW GRANTS")).map(([line = ""]) => line);
    const [[account = ""] = []] = await rows("SELECT CURRENT_USER()");
    const plugins = await rows(
      "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME='WSREP_MEMBERSHIP' AND PLUGIN_STATUS='ACTIVE'",
    );
    const before = Date.now();
    const [[micros = ""] = []] = await rows(
      "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000 AS DECIMAL(20,3))",
    );
    const after = Date.now();
    const at = account.lastIndexOf("@");
    return {
      variables,
      status,
      grants,
      account: { user: account.slice(0, at), host: account.slice(at + 1) },
      wsrepInfo: plugins.length > 0,
      clock: { offsetMs: Number(micros) - (before + after) / 2, errorMs: (after - before) / 2 + 1 },
      notify: local ? notifyFacts(variables) : null,
    };
  } finally {
    connection.destroy();
  }
}

function isSocket(path: string | null): boolean {
  try {
    return path !== null && statSync(path).isSocket();
  } catch {
    return false;
  }
}

/** May mariadbd's user read and run what its notify command names. Null where that cannot be tried. */
export function notifyFacts(variables: ReadonlyMap<string, string>): NotifyFacts | null {
  const command = variables.get("wsrep_notify_cmd") ?? "";
  const identity = serverIdentity(variables.get("pid_file") ?? "");
  if (command === "" || identity === null) return null;
  const { uid, gid, overrides } = identity;
  const user = `uid ${uid}`;
  const own = process.geteuid?.();
  // With that capability no permission stands in its way.
  if (overrides) return { blocked: null, user };
  if (own !== 0 && own !== uid) return null;
  const [program, ...rest] = command.split(/\s+/).map((word) => word.replace(/^['"]|['"]$/g, ""));
  const scripts = rest.filter((word) => word.startsWith("/"));
  const tests = [
    ["-x", program ?? ""] as const,
    ...scripts.map((script) => ["-r", script] as const),
  ];
  for (const [flag, path] of tests) {
    if (!path.startsWith("/")) continue;
    const as =
      own === 0 ? ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--"] : [];
    const done = Bun.spawnSync([...as, "test", flag, path], {
      cwd: "/",
      timeout: CHECK_TIMEOUT_MS,
      killSignal: "SIGKILL",
    });
    if (!done.success) return { blocked: path, user };
  }
  return { blocked: null, user };
}

const CAP_DAC_OVERRIDE = 1n;

function serverIdentity(
  pidFile: string,
): { readonly uid: number; readonly gid: number; readonly overrides: boolean } | null {
  try {
    const pid = Number(readFileSync(pidFile, "utf8").trim());
    const text = readFileSync(`/proc/${pid}/status`, "latin1");
    const of = (key: string) => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(text)?.[1] ?? "";
    // Ambient ones alone reach what mariadbd runs; root's reach everything.
    const ambient = BigInt(`0x${of("CapAmb") || "0"}`);
    const uid = Number(of("Uid"));
    const overrides = uid === 0 || (ambient & (1n << CAP_DAC_OVERRIDE)) !== 0n;
    return { uid, gid: Number(of("Gid")), overrides };
  } catch {
    // Not of this host, or not ours to read.
    return null;
  }
}
