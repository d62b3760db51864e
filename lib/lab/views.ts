/**
 * Looks at every server's view the whole time, by its own socket, and notes where two servers said at one
 * moment that they are Primary in views without a common member: two Primaries, whoever wrote to them.
 */
import type { Connection } from "mysql2/promise";
import { wallMs } from "./journal.ts";
import type { Lab } from "./lab.ts";
import { connectTo } from "./mariadb.ts";

/** What a server said of itself. */
export interface Look {
  readonly host: string;
  readonly atMs: number;
  /** Addresses of its Primary view; null: it is not Primary. */
  readonly members: readonly string[] | null;
}

export interface ViewWatch {
  /** Moments of two Primaries so far, in words. */
  readonly found: readonly string[];
  stop(): Promise<void>;
}

const LOOK_MS = 40;
const LOOK_TIMEOUT_MS = 500;
const RETRY_MS = 100;
/** Two looks so far apart say nothing about one moment. */
const MOMENT_MS = 100;
const SQL =
  "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_incoming_addresses')";

/** Words for two looks that are two Primaries; null if they are none. */
export function twoPrimaries(one: Look, other: Look): string | null {
  const { members } = one;
  if (members === null || other.members === null) return null;
  if (Math.abs(one.atMs - other.atMs) > MOMENT_MS || members.length === 0) return null;
  if (other.members.length === 0 || other.members.some((each) => members.includes(each)))
    return null;
  return `${one.host} was Primary with ${members.join("+")} while ${other.host} was with ${other.members.join("+")}`;
}

/** Looks until it is stopped. */
export function watchViews(lab: Lab): ViewWatch {
  const found = new Set<string>();
  const last = new Map<string, Look>();
  let stopped = false;

  function see(host: string, members: readonly string[] | null): void {
    const look = { host, atMs: wallMs(), members };
    last.set(host, look);
    for (const other of last.values()) {
      const words = twoPrimaries(look, other);
      if (words !== null) found.add(words);
    }
  }

  async function watch(host: string): Promise<void> {
    while (!stopped) {
      let connection: Connection | null = null;
      try {
        connection = await connectTo(lab.server(host).socket, lab.secrets.minder);
        // Outside Galera, so that a fence does not close this very connection.
        await connection.query("SET SESSION wsrep_on = OFF");
        while (!stopped) {
          const [rows] = await connection.query({
            sql: SQL,
            timeout: LOOK_TIMEOUT_MS,
            rowsAsArray: true,
          });
          const values = new Map(rows as unknown as readonly (readonly [string, string])[]);
          const addresses = values.get("wsrep_incoming_addresses") ?? "";
          const primary = values.get("wsrep_cluster_status") === "Primary";
          see(host, primary ? addresses.split(",").filter(Boolean) : null);
          await Bun.sleep(LOOK_MS);
        }
      } catch {
        // Down, hung or restarting: it says nothing.
        see(host, null);
        await Bun.sleep(RETRY_MS);
      } finally {
        connection?.destroy();
      }
    }
  }

  const watching = Promise.all([...lab.servers.keys()].map(watch));
  return {
    get found() {
      return [...found];
    },
    async stop() {
      stopped = true;
      await watching;
    },
  };
}
