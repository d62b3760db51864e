/**
 * A signed cluster without mariadbd, each party a process of its own on loopback: what hostile input is
 * tried on. Owns their config and what can be seen of them from outside.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClusterConfig } from "../cluster_config.ts";
import { askArbitrator } from "../effects/ask.ts";
import { makeCerts } from "../effects/certs.ts";
import { writeSecretFile } from "../effects/secrets.ts";
import { throughClosedDoors } from "./closed_doors.ts";
import { RECORD_MARK } from "./record.ts";

/** First bytes of their addresses; another run at the same time has others. */
export const BED_NET = `127.88.${process.pid % 250}`;
export const BED_PARTIES = ["arbitrator.1", "dbserver.1", "dbserver.2", "dbclient.1"] as const;
const KB_PER_MB = 1024;

/** A running party. */
export interface BedParty {
  readonly id: string;
  readonly host: string;
  readonly port: number;
  readonly child: Bun.Subprocess;
}

/** How a bed differs from the plain one. */
export interface BedOptions {
  /** Messages over TLS, with certificates on both sides. @default false */
  readonly tls?: boolean;
  /** The parties run as this user and group. @default as this process */
  readonly uid?: number;
}

/** Writes config and secrets, and makes the arbitrator's store. */
export function prepareBed(folder: string, options: BedOptions = {}): string {
  for (const kind of ["node", "operator"]) writeSecretFile(join(folder, `${kind}.secret`));
  const at = (n: number) => `host = "${BED_NET}.${n}"\nport = 4570`;
  const state = (id: string) => `state_dir = "${folder}/${id}"`;
  const server = (n: number) =>
    `[[dbserver]]\nserial = ${n}\nname = "db${n}"\nsegment = "dc${n}"\n${at(n)}\n${state(`dbserver.${n}`)}
mysql_socket = "${folder}/none.sock"\ndatadir = "${folder}/data${n}"\nhealth_port = 0\nagent_port = 0\n`;
  const path = join(folder, "cluster.toml");
  writeFileSync(
    path,
    `version = 1\n[cluster]\nname = "fuzz"\nprimary_segment = "dc1"\n[security]
secret_file = "${folder}/node.secret"\noperator_file = "${folder}/operator.secret"
${options.tls === true ? tlsTable(folder) : ""}
[[arbitrator]]\nserial = 1\n${at(10)}\n${state("arbitrator.1")}\n${server(1)}${server(2)}
[[dbclient]]\nserial = 1\n${at(20)}\n[dbclient.balancer]\nsocket = "${folder}/haproxy.sock"\n`,
  );
  for (const id of BED_PARTIES) mkdirSync(join(folder, id), { recursive: true });
  if (options.uid !== undefined) {
    Bun.spawnSync(["chown", "-R", `${options.uid}:${options.uid}`, folder]);
  }
  const made = Bun.spawnSync([
    ...asUser(options.uid),
    process.execPath,
    script("arbitrator"),
    ...["--config", path, "--node", "arbitrator.1", "--init"],
  ]);
  if (!made.success) throw new Error(made.stderr.toString());
  return path;
}

/** Starts a party as a process of its own; what it posts is noted in the folder. */
export function startParty(
  id: string,
  folder: string,
  configPath: string,
  options: Pick<BedOptions, "uid"> = {},
): BedParty {
  const record = join(import.meta.dir, "record.ts");
  const child = Bun.spawn(
    [
      ...asUser(options.uid),
      ...[process.execPath, "--preload", record],
      ...[script("minder"), "--config", configPath, "--node", id],
    ],
    {
      stdout: Bun.file(join(folder, `${id}.log`)),
      stderr: "inherit",
      env: { ...process.env, [RECORD_MARK]: folder },
    },
  );
  return { id, host: `${BED_NET}.${lastByte(id)}`, port: 4570, child };
}

/** Command prefix that runs a program as that user; all of it execs, so the pid stays. */
function asUser(uid: number | undefined): readonly string[] {
  if (uid === undefined) return [];
  const user = ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--no-new-privs"];
  return [...throughClosedDoors(), ...user, "--"];
}

/** Certificates for everybody in the bed, and where they are. */
function tlsTable(folder: string): string {
  const hosts = new Map(BED_PARTIES.map((id) => [id as string, `${BED_NET}.${lastByte(id)}`]));
  const wanted = [...hosts].map(([id, host]) => ({ id, hosts: [host] }));
  makeCerts(folder, [...wanted, { id: "command", hosts: ["localhost"] }]);
  return `[security.tls]\ncert_file = "${folder}/{id}.crt"\nkey_file = "${folder}/{id}.key"\nca_file = "${folder}/ca.crt"`;
}

function lastByte(id: string): number {
  const [type, serial] = id.split(".");
  return type === "arbitrator" ? 10 : type === "dbclient" ? 20 : Number(serial);
}

function script(name: string): string {
  return join(import.meta.dir, "..", "..", "scripts", `${name}.ts`);
}

/** How long the arbitrator has not heard each watchdog. */
export async function silences(config: ClusterConfig) {
  const ask = { verb: "status_summary", parameters: {} } as const;
  try {
    const { parameters } = await askArbitrator(ask, { config, timeoutMs: 3000 });
    return "servers" in parameters
      ? (parameters as { servers: readonly { heardAgoMs: number | null }[] }).servers.map(
          ({ heardAgoMs }) => heardAgoMs,
        )
      : [null];
  } catch {
    return [null];
  }
}

/** All that is kept on disk, and what the arbitrator and the watchdogs make of the cluster. */
export async function digest(config: ClusterConfig, folder: string): Promise<string> {
  const ask = { verb: "status_summary", parameters: {} } as const;
  const { parameters } = await askArbitrator(ask, { config, timeoutMs: 5000 });
  const words = JSON.stringify(parameters, (key, value) =>
    /agoMs$|reportNumber|pollAgeMs|decisions|because$|wouldChange/i.test(key) ? undefined : value,
  );
  const hash = createHash("sha256").update(words);
  for (const file of ["arbitrator.1/arbitrator.state", "dbserver.1/server.state"]) {
    const path = Bun.file(join(folder, file));
    hash.update((await path.exists()) ? await path.bytes() : new Uint8Array());
  }
  return hash.digest("hex");
}

/** Resident memory in MB; 0 of what has ended. */
export function rssMb(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "latin1");
    return Math.round(Number(/VmRSS:\s+(\d+)/.exec(text)?.[1] ?? 0) / KB_PER_MB);
  } catch {
    return 0;
  }
}
