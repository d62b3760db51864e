/** A minded lab as the stories of failing servers ask it: its processes, its logs, rows by hand. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../lib/lab/exec.ts";
import { connectTo } from "../../lib/lab/mariadb.ts";
import { type Minded, type MindedOptions, openMinded } from "../../lib/lab/minded.ts";
import type { Summary } from "../../lib/message/arbitrator.ts";
import type { Report } from "../../lib/message/dbserver.ts";

const SCRIPTS = join(import.meta.dir, "../../scripts");

/** The latest report of a server; null if none was heard. */
export function reportOf(summary: Summary, host: string): Report | null {
  return summary.servers.find((server) => server.name === host)?.report ?? null;
}

/** A measured figure, among the lines of the test run. */
export function say(line: string): void {
  process.stderr.write(`  ${line}\n`);
}

export class WatchedLab {
  readonly minded: Minded;

  constructor(minded: Minded) {
    this.minded = minded;
  }

  /** Opens one and waits until it is healthy. */
  static async open(name: string, options: MindedOptions = {}): Promise<WatchedLab> {
    const minded = await openMinded(name, { apps: 1, ...options });
    try {
      await minded.start();
    } catch (error) {
      await minded.down();
      throw error;
    }
    return new WatchedLab(minded);
  }

  async down(): Promise<void> {
    await this.minded.down();
  }

  async healthy(timeoutMs = 120_000): Promise<Summary> {
    return await this.minded.untilHealth("healthy", timeoutMs);
  }

  mariadbd(host: string): number | null {
    return this.minded.mariadbd(host);
  }

  pid(host: string): number {
    const pid = this.mariadbd(host);
    if (pid === null) throw new Error(`no mariadbd on ${host}`);
    return pid;
  }

  async endMariadbd(host: string, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const pid = this.pid(host);
    process.kill(pid, signal);
    await until(`mariadbd of ${host} ends`, () => this.mariadbd(host) !== pid, {
      timeoutMs: 60_000,
    });
  }

  #errorLog(host: string): string {
    return this.minded.lab.server(host).errorLog;
  }

  errorLogSize(host: string): number {
    return statSync(this.#errorLog(host)).size;
  }

  /** What the server has logged since. */
  errorLog(host: string, from = 0): string {
    return readFileSync(this.#errorLog(host)).subarray(from).toString();
  }

  watchdogLogSize(host: string): number {
    return statSync(this.minded.minder(host).logFile).size;
  }

  /** What the watchdogs of a host have logged since. */
  events(host: string, from = 0): readonly Readonly<Record<string, unknown>>[] {
    return this.minded.events(host, from);
  }

  /** One row, written on that server. @throws what mysql2 throws */
  async insert(host: string, writer: string, number: number): Promise<void> {
    const { lab } = this.minded;
    const connection = await connectTo(lab.server(host).socket, lab.secrets.app);
    try {
      const sql = `INSERT INTO app.written VALUES ('${writer}', ${number}, '${host}')`;
      await connection.query({ sql, timeout: 30_000 });
    } finally {
      connection.destroy();
    }
  }

  /** A person's order. @throws Error with its words if it is refused */
  command(...words: string[]): string {
    const script = [join(SCRIPTS, "command.ts"), "--config", this.minded.configPath];
    const done = Bun.spawnSync([process.execPath, ...script, ...words]);
    if (!done.success) throw new Error(done.stderr.toString() + done.stdout.toString());
    return done.stdout.toString();
  }
}
