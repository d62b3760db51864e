/**
 * Watches from outside whether each server says that it is Primary, every few milliseconds, so that
 * figures about Galera's own detection do not rest on what the minders say about themselves.
 */
import type { Connection } from "mysql2/promise";
import { wallMs } from "./journal.ts";
import type { Lab } from "./lab.ts";
import { connectTo } from "./mariadb.ts";

/** A server was seen to become Primary or not. `primary` null: it does not answer. */
export interface Sighting {
  readonly host: string;
  readonly atMs: number;
  readonly primary: boolean | null;
}

export interface Observer {
  readonly sightings: readonly Sighting[];
  /** First time at or after `fromMs` that the server was seen so; null if it was not. */
  first(host: string, primary: boolean | null, fromMs: number): number | null;
  stop(): Promise<void>;
}

const LOOK_MS = 10;
const LOOK_TIMEOUT_MS = 500;
const RETRY_MS = 100;

export function observe(lab: Lab): Observer {
  const sightings: Sighting[] = [];
  const last = new Map<string, boolean | null>();
  let stopped = false;

  function see(host: string, primary: boolean | null): void {
    if (last.get(host) === primary) return;
    last.set(host, primary);
    sightings.push({ host, atMs: wallMs(), primary });
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
            sql: "SHOW GLOBAL STATUS LIKE 'wsrep_cluster_status'",
            timeout: LOOK_TIMEOUT_MS,
            rowsAsArray: true,
          });
          const [row] = rows as unknown as readonly (readonly unknown[])[];
          see(host, row?.[1] === "Primary");
          await Bun.sleep(LOOK_MS);
        }
      } catch {
        // Down, hung or restarting: that is what an observer is for.
        see(host, null);
        await Bun.sleep(RETRY_MS);
      } finally {
        connection?.destroy();
      }
    }
  }

  const watching = Promise.all([...lab.servers.keys()].map(watch));
  return {
    sightings,
    first: (host, primary, fromMs) =>
      sightings.find((one) => one.host === host && one.primary === primary && one.atMs >= fromMs)
        ?.atMs ?? null,
    async stop() {
      stopped = true;
      await watching;
    },
  };
}
