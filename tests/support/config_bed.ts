/** One real mariadbd, open to clients, for the tests of the config in the database. */
import { type Connection, createConnection } from "mysql2/promise";
import { startArguments } from "../../lib/effects/datadir.ts";
import { openMysql } from "../../lib/effects/mysql.ts";
import { manageProcess } from "../../lib/effects/process.ts";
import { type Mariadbd, until } from "./mariadbd.ts";

export interface ConfigBed {
  readonly server: Mariadbd;
  /** As root. */
  readonly root: Connection;
  /** Ends mariadbd; `start` brings it up again on the same data. */
  stop(): Promise<void>;
  start(): Promise<void>;
  remove(): Promise<void>;
}

export async function makeConfigBed(server: Mariadbd): Promise<ConfigBed> {
  const { command, datadir, pidFile, logFile, socketPath } = server;
  const managed = manageProcess({ command, datadir, pidFile, logFile, onChange: () => undefined });
  let root: Connection | null = null;
  async function start(): Promise<void> {
    await managed.start(startArguments("bootstrap", null));
    const mysql = openMysql({
      address: { socketPath },
      user: "root",
      passwordFile: null,
      pollTimeoutMs: 1000,
      probeTimeoutMs: 1000,
      fenceMs: 1000,
    });
    await until(
      "mariadbd is ready",
      30_000,
      async () => (await mysql.poll()).status?.ready === true,
    );
    await mysql.unfence();
    mysql.close();
    root = await createConnection({ socketPath, user: "root", multipleStatements: true });
    // Cut when the server ends; there is nobody else to tell.
    root.on("error", () => undefined);
  }
  async function stop(): Promise<void> {
    root?.destroy();
    await managed.kill();
    await until("mariadbd has ended", 30_000, () => managed.current().is === "stopped");
  }
  await start();
  return {
    server,
    get root() {
      if (root === null) throw new Error("mariadbd does not run");
      return root;
    },
    start,
    stop,
    async remove() {
      root?.destroy();
      await managed.kill();
      managed.close();
      await server.remove();
    },
  };
}

/** A document for the database; a change of `lease_ms` is one of the rules, one of `policy` is none. */
export function documentText(
  version: number,
  options: { readonly leaseMs?: number; readonly policy?: string } = {},
): string {
  const server = (serial: number, segment: string) =>
    `[[dbserver]]\nserial = ${serial}\nname = "db${serial}"\nsegment = "${segment}"\nhost = "10.0.0.${serial}"\n`;
  return [
    "# What is kept is this very text.",
    `version = ${version}`,
    '[cluster]\nname = "shop"\nprimary_segment = "dc1"',
    `[timing]\nlease_ms = ${options.leaseMs ?? 3000}`,
    '[[arbitrator]]\nserial = 1\nhost = "10.0.0.9"',
    `${server(1, "dc1")}${server(2, "dc1")}${server(3, "dc2")}${server(4, "dc2")}`,
    `[[dbclient]]\nserial = 1\nhost = "10.0.1.1"\npolicy = "${options.policy ?? "spread"}"`,
    '[dbclient.balancer]\nkind = "haproxy"\n',
  ].join("\n");
}
