/** Fetches a server's settings for the doctor: a few statements that change nothing, in bounded time. */
import { readFileSync, statSync } from "node:fs";
import { createConnection, type RowDataPacket } from "mysql2/promise";
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { Examined, NotifyFacts, ServerFacts } from "../doctor.ts";
import { describeError } from "../errors.ts";
import { readPassword } from "./mysql_link.ts";

const CONNECT_TIMEOUT_MS = 2_000;
const QUERY_TIMEOUT_MS = 5_000;
const CHECK_TIMEOUT_MS = 2_000;

/** Asks one server, by its socket where that is on this host. Never throws. */
export async function examine(config: ClusterConfig, server: DbServerConfig): Promise<Examined> {
  try {
    return { server, facts: await fetchFacts(config, server) };
  } catch (error) {
    return { server, error: describeError(error) };
  }
}

async function fetchFacts(config: ClusterConfig, server: DbServerConfig): Promise<ServerFacts> {
  const { user, passwordFile } = config.database;
  const local = server.mysqlSocket !== null && isSocket(server.mysqlSocket);
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

function isSocket(path: string): boolean {
  try {
    return statSync(path).isSocket();
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
