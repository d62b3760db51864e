/**
 * A watchdog as an operator runs it: as mysql, who owns the data, with no capability of root and no way
 * to get one. Everything else of the lab stays as it is.
 */
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { throughClosedDoors } from "../../lib/lab/closed_doors.ts";
import type { LabProcess } from "../../lib/lab/lab.ts";
import { serverUserPrefix } from "../../lib/lab/mariadb.ts";
import type { Minded } from "../../lib/lab/minded.ts";

const SCRIPTS = join(import.meta.dir, "../../scripts");

/** Becomes mysql for good: an empty bounding set and no_new_privs leave no way back, sudo included. */
const AS_MYSQL = [
  ...throughClosedDoors(),
  "setpriv",
  "--reuid=mysql",
  "--regid=mysql",
  "--clear-groups",
  "--inh-caps=-all",
  "--ambient-caps=-all",
  "--bounding-set=-all",
  "--no-new-privs",
  "--",
] as const;

/** Why this cannot be tried here; null if it can. */
export function unprivilegedImpossible(): string | null {
  if (process.getuid?.() !== 0) return "only root can become mysql";
  const script = join(SCRIPTS, "server.ts");
  const reads = Bun.spawnSync([...AS_MYSQL, "test", "-r", script, "-a", "-x", process.execPath]);
  return reads.success ? null : "mysql may not read this checkout, or not run Bun";
}

/** A program of scripts/ as mysql on that host. */
export function scriptAsMysql(minded: Minded, host: string, ...words: string[]) {
  const [name = "", ...rest] = words;
  const command = [
    process.execPath,
    join(SCRIPTS, `${name}.ts`),
    "--config",
    configOf(minded, host),
  ];
  return Bun.spawnSync([...minded.lab.network.enter(host), ...AS_MYSQL, ...command, ...rest]);
}

/** Replaces the watchdog of a host by one of mysql; its account must be there. */
export async function startAsMysql(minded: Minded, host: string): Promise<LabProcess> {
  const { lab } = minded;
  await minded.minder(host).stop();
  const { uid, gid } = mysql();
  const home = join(lab.directory, host, "mysql");
  mkdirSync(home, { recursive: true });
  let text = readFileSync(minded.configPath, "utf8");
  text = text
    .replaceAll(lab.passwordFile("minder"), join(lab.directory, PASSWORD))
    .replaceAll(`user = "${lab.secrets.minder.user}"`, `user = "${ACCOUNT.user}"`);
  for (const file of [PASSWORD, "node.secret", "operator.secret"]) {
    copyFileSync(join(lab.directory, file), join(home, file));
    chmodSync(join(home, file), 0o600);
    text = text.replaceAll(join(lab.directory, file), join(home, file));
  }
  // Its mariadbd is its child, so it has its user anyway.
  const prefix = JSON.stringify(serverUserPrefix()).slice(1, -1);
  text = text.replaceAll(`${prefix},`, "");
  writeFileSync(configOf(minded, host), text);
  // The folder of the data directory too: it is renamed when data are set aside.
  const owned = [join(lab.directory, host), join(lab.directory, host, "minder"), home];
  Bun.spawnSync(["chown", "-R", `${uid}:${gid}`, ...owned.slice(1)]);
  for (const path of owned) chownSync(path, uid, gid);
  const id = minded.config.servers.find(({ name }) => name === host)?.id ?? "";
  const script = [process.execPath, join(SCRIPTS, "server.ts")];
  const words = ["--config", configOf(minded, host), "--node", id];
  return lab.start(host, [...AS_MYSQL, ...script, ...words], { name: "watchdog-mysql" });
}

/** The account that `just grants` prints; only `mysql_socket` can use it. */
export const ACCOUNT = { user: "watchdog", host: "localhost" } as const;

const PASSWORD = "watchdog.password";

/** Has root give mariadb what is printed, word for word; the cluster must be whole, and has it everywhere. */
export function makeAccount({ lab }: Minded): void {
  const password = crypto.randomUUID();
  writeFileSync(join(lab.directory, PASSWORD), `${password}\n`, { mode: 0o600 });
  const [first] = lab.servers.values();
  const words = ["--user", ACCOUNT.user, "--password-placeholder", password];
  const printed = Bun.spawnSync([process.execPath, join(SCRIPTS, "grants.ts"), ...words]);
  const client = ["mariadb", "--no-defaults", `--socket=${first?.socket}`, "--user=root"];
  const done = Bun.spawnSync(client, { stdin: printed.stdout });
  if (!printed.success || !done.success) {
    throw new Error(`Cannot make the account: ${printed.stderr}${done.stderr}`);
  }
}

/** What that account may do, as the server says. */
export function grantsHeld(socket: string): readonly string[] {
  const client = ["mariadb", "--no-defaults", `--socket=${socket}`, "--user=root", "-NBe"];
  const asked = Bun.spawnSync([...client, `SHOW GRANTS FOR '${ACCOUNT.user}'@'${ACCOUNT.host}'`]);
  return asked.stdout.toString().trim().split("\n");
}

function configOf({ lab }: Minded, host: string): string {
  return join(lab.directory, host, "mysql", "cluster.toml");
}

export function mysql(): { readonly uid: number; readonly gid: number } {
  const ask = (option: string) => Number(Bun.spawnSync(["id", option, "mysql"]).stdout.toString());
  return { uid: ask("-u"), gid: ask("-g") };
}

/** Uid and capabilities of a process, as the kernel has them. */
export function rightsOf(pid: number): { readonly uid: number; readonly capabilities: string } {
  const text = readFileSync(`/proc/${pid}/status`, "latin1");
  const of = (key: string) => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(text)?.[1] ?? "";
  return { uid: Number(of("Uid")), capabilities: of("CapEff") };
}
