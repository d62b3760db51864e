/**
 * The common clustercheck, to be compared with: an HTTP server that runs the `mariadb` client for
 * every check, answers 200 if the server is Synced (4) and 503 if not, and knows nothing else.
 */
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";

export interface ClustercheckOptions {
  readonly host: string;
  readonly port: number;
  readonly socket: string;
  /** With `[client]`, user and password: not on a command line that everybody can read. */
  readonly defaultsFile: string;
  /** Holds the CPU time of all checks so far, in microseconds. */
  readonly costFile: string;
  /** The client is killed after that. */
  readonly timeoutMs: number;
}

const SQL = "SHOW STATUS LIKE 'wsrep_local_state'";
const SYNCED = "4";

/** Serves until `signal`. */
export async function runClustercheck(
  options: ClustercheckOptions,
  signal: AbortSignal,
): Promise<void> {
  let clientsUs = 0;
  let running = 0;

  async function check(): Promise<Response> {
    if (running >= 4 * availableParallelism()) return new Response("busy\n", { status: 503 });
    running++;
    try {
      const client = Bun.spawn(
        [
          "mariadb",
          `--defaults-file=${options.defaultsFile}`,
          `--socket=${options.socket}`,
          "-N",
          "-B",
          "-e",
          SQL,
        ],
        { stdin: "ignore", stdout: "pipe", stderr: "ignore", timeout: options.timeoutMs },
      );
      const text = await new Response(client.stdout).text();
      await client.exited;
      clientsUs += Number(client.resourceUsage()?.cpuTime.total ?? 0);
      const synced = text.trim().split("\t")[1] === SYNCED;
      const words = `Galera Cluster Node is ${synced ? "synced" : "not synced"}.\r\n`;
      return new Response(words, { status: synced ? 200 : 503, headers: { connection: "close" } });
    } finally {
      running--;
      const own = process.cpuUsage();
      writeFileSync(options.costFile, String(clientsUs + own.user + own.system));
    }
  }

  const server = Bun.serve({
    hostname: options.host,
    port: options.port,
    fetch: check,
  });
  await new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  await server.stop(true);
}
