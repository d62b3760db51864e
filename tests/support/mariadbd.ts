/**
 * One real, throw-away mariadbd with Galera on loopback for the tests of the effects beside it. All it
 * has is in one temporary directory, whose name carries the pid of the test run: what an interrupted
 * run has left is ended and removed by the next.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PREFIX = "minder-mariadbd-";
const CLUSTER_NAME = "minder_test";
const PROVIDERS = [
  "/usr/lib/galera/libgalera_smm.so",
  "/usr/lib64/galera-4/libgalera_smm.so",
  "/usr/lib/libgalera_smm.so",
];

/** Where everything of it is. */
export interface Mariadbd {
  readonly directory: string;
  readonly datadir: string;
  readonly socketPath: string;
  readonly port: number;
  readonly logFile: string;
  readonly pidFile: string;
  readonly command: readonly string[];
  /** Where Galera listens, as a cluster address. */
  readonly galera: string;
  readonly clusterName: string;
  /** A port for a second member. */
  readonly garbdPort: number;
  /** Ends every process that runs on its data directory, and removes the directory. */
  remove(): Promise<void>;
}

/** Null where MariaDB or Galera is not installed. */
export async function makeMariadbd(): Promise<Mariadbd | null> {
  const program = Bun.which("mariadbd", {
    PATH: `${process.env["PATH"]}:/usr/sbin:/usr/local/sbin`,
  });
  const install = Bun.which("mariadb-install-db");
  const provider = PROVIDERS.find((file) => existsSync(file));
  if (program === null || install === null || provider === undefined) return null;
  removeRemains();
  const directory = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
  chmodSync(directory, 0o755);
  const datadir = join(directory, "data");
  mkdirSync(join(directory, "run"), { mode: 0o777 });
  chmodSync(join(directory, "run"), 0o777);
  const [port, galeraPort, istPort, sstPort, garbdPort] = await freePorts(5);
  const config = join(directory, "my.cnf");
  const user = process.getuid?.() === 0 ? "mysql" : "";
  const lines = [
    "[mysqld]",
    user === "" ? "" : `user=${user}`,
    `datadir=${datadir}`,
    `socket=${join(directory, "run/sock")}`,
    `pid-file=${join(directory, "run/pid")}`,
    `port=${port}`,
    "bind-address=127.0.0.1",
    "skip-name-resolve",
    "binlog_format=ROW",
    "innodb_autoinc_lock_mode=2",
    "innodb_flush_log_at_trx_commit=0",
    "innodb_buffer_pool_size=16M",
    "innodb_log_file_size=4M",
    "innodb_data_file_path=ibdata1:2M:autoextend",
    "performance_schema=off",
    "wsrep_on=ON",
    `wsrep_provider=${provider}`,
    `wsrep_cluster_name=${CLUSTER_NAME}`,
    "wsrep_cluster_address=gcomm://",
    "wsrep_node_name=test-1",
    "wsrep_node_address=127.0.0.1",
    `wsrep_sst_receive_address=127.0.0.1:${sstPort}`,
    "wsrep_provider_options=" +
      [
        `base_port=${galeraPort}`,
        `gmcast.listen_addr=tcp://127.0.0.1:${galeraPort}`,
        `ist.recv_addr=127.0.0.1:${istPort}`,
        "gcache.size=4M",
        // A dead second member is noticed after 1 s, not after 5 s.
        "evs.keepalive_period=PT0.2S;evs.inactive_check_period=PT0.1S;evs.suspect_timeout=PT1S",
        "evs.inactive_timeout=PT2S;evs.install_timeout=PT2S;evs.join_retrans_period=PT0.2S",
        "gmcast.peer_timeout=PT0.5S",
      ].join(";"),
  ];
  writeFileSync(config, `${lines.filter((line) => line !== "").join("\n")}\n`);
  const made = Bun.spawnSync(
    [
      ...[install, `--defaults-file=${config}`, "--auth-root-authentication-method=normal"],
      ...["--skip-test-db", ...(user === "" ? [] : [`--user=${user}`])],
    ],
    { stdout: "pipe", stderr: "pipe", timeout: 30_000 },
  );
  if (!made.success) throw new Error(`mariadb-install-db: ${made.stderr.toString()}`);
  return {
    directory,
    datadir,
    socketPath: join(directory, "run/sock"),
    port: port ?? 0,
    logFile: join(directory, "mariadbd.log"),
    pidFile: join(directory, "mariadbd.json"),
    command: [program, `--defaults-file=${config}`],
    galera: `gcomm://127.0.0.1:${galeraPort}`,
    clusterName: CLUSTER_NAME,
    garbdPort: garbdPort ?? 0,
    remove: () => remove(directory),
  };
}

/** Awaits a condition, looking every 10 ms. */
export async function until(
  what: string,
  withinMs: number,
  holds: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`Not within ${withinMs} ms: ${what}`);
    await Bun.sleep(10);
  }
}

/** Processes whose working directory is in that directory, as mariadbd's is. */
export function processesIn(directory: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid) || pid === process.pid) return [];
    try {
      const inside = readlinkSync(`/proc/${pid}/cwd`).startsWith(`${directory}/`);
      return inside && !readFileSync(`/proc/${pid}/stat`, "latin1").includes(") Z ") ? [pid] : [];
    } catch {
      // It ended meanwhile.
      return [];
    }
  });
}

async function remove(directory: string): Promise<void> {
  killIn(directory);
  await until("its processes have ended", 30_000, () => processesIn(directory).length === 0);
  rmSync(directory, { recursive: true, force: true });
}

function killIn(directory: string): void {
  for (const pid of processesIn(directory)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It ended meanwhile.
    }
  }
}

/** Of runs whose process no longer exists. */
function removeRemains(): void {
  for (const name of readdirSync(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const owner = Number(name.slice(PREFIX.length).split("-")[0]);
    if (Number.isSafeInteger(owner) && existsSync(`/proc/${owner}`)) continue;
    const directory = join(tmpdir(), name);
    killIn(directory);
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Ports that were free a moment ago, all held at once so that they differ. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(0, "127.0.0.1", resolve);
      });
      return server;
    }),
  );
  const ports = servers.map((server) => {
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  });
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
