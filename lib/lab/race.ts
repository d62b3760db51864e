/**
 * Side by side on one cluster and in one run: a HAProxy that a client minder steers, and one that asks
 * the common clustercheck every second. The same faults for both, and what their checks cost.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { askArbitrator } from "../effects/ask.ts";
import { ask, parseControlAddress } from "../effects/control_socket.ts";
import { MinderError } from "../errors.ts";
import type { Summary } from "../message/arbitrator.ts";
import { readKnocks } from "./door.ts";
import { until } from "./exec.ts";
import { wallMs } from "./journal.ts";
import type { LabProcess } from "./lab.ts";
import type { Minded } from "./minded.ts";

/** How a server is taken from its clients. */
export type Fault = "crash" | "stop" | "hang";

/** How one balancer did after a fault. */
export interface RaceTimes {
  /** From the fault to the last connection that was sent to the bad server; 0 if none was. */
  readonly lastMs: number;
  /** How many were sent there after the fault. */
  readonly sent: number;
  /** From the fault to the first connection open to another server. */
  readonly elsewhereMs: number;
}

export interface RaceRow {
  readonly fault: Fault;
  readonly server: string;
  readonly minded: RaceTimes;
  readonly checked: RaceTimes;
}

/** CPU time, in milliseconds per minute. */
export interface RaceCost {
  readonly what: string;
  readonly msPerMinute: number;
}

const APP = "app1";
const CHECKED_PORT = 3307;
const CHECK_PORT = 9300;
/** As long as the check's interval: a client that hangs longer is of no use. */
const CHECK_TIMEOUT_MS = 5_000;
/** New connections are watched for so long after a fault. */
const WATCH_MS: Readonly<Record<Fault, number>> = { crash: 5_000, stop: 6_000, hang: 9_000 };
/** For so long both balancers must have led to one server before a fault. */
const CALM_MS = 1_000;
/** Between the order to drain and the stop that it prepares. */
const DRAIN_MS = 1_000;
const COST_MS = 15_000;
const BACK_TIMEOUT_MS = 40_000;
const PROGRAMS = join(import.meta.dir, "..", "..", "scripts");

type Door = "minded" | "checked";

interface Counters {
  /** After a moment: how many connections were sent to the server, and when the last was. */
  sent(name: Door, fromMs: number): { readonly count: number; readonly lastAtMs: number | null };
  stop(): Promise<void>;
}

/** Column of `show stat`: connections that this server was given so far. */
const STOT = 7;
const COUNT_MS = 5;

export class Race {
  readonly #minded: Minded;
  readonly #say: (line: string) => void;
  readonly #checks: LabProcess[] = [];

  constructor(minded: Minded, say: (line: string) => void) {
    this.#minded = minded;
    this.#say = say;
  }

  /** Starts the clusterchecks and the HAProxy that asks them. */
  async start(): Promise<void> {
    const { lab } = this.#minded;
    const { user, password } = lab.secrets.minder;
    const defaultsFile = join(lab.directory, "clustercheck.cnf");
    writeFileSync(defaultsFile, `[client]\nuser=${user}\npassword=${password}\n`, { mode: 0o600 });
    for (const host of lab.network.topology.servers) {
      const config = join(lab.directory, `${host.name}.clustercheck.json`);
      const { socket } = lab.server(host.name);
      const options = { host: host.address, port: CHECK_PORT, socket, defaultsFile };
      const more = { costFile: this.#costFile(host.name), timeoutMs: CHECK_TIMEOUT_MS };
      writeFileSync(config, JSON.stringify({ ...options, ...more }));
      const script = join(PROGRAMS, "lab_clustercheck.ts");
      const command = [process.execPath, script, config];
      this.#checks.push(lab.start(host.name, command, { name: "clustercheck" }));
    }
    const first = await this.writer();
    const haproxy = this.#minded.lab.balancers.get(APP);
    const enter = lab.network.enter(APP).length;
    const program = haproxy?.command[enter];
    if (program === undefined) throw new MinderError(`There is no balancer on ${APP}`);
    const file = join(lab.directory, APP, "checked.cfg");
    writeFileSync(file, this.#checkedConfig(first));
    lab.start(APP, [program, "-db", "-f", file], { name: "checked" });
    lab.startKnocking(APP, { name: "minded" });
    lab.startKnocking(APP, { name: "checked", port: CHECKED_PORT });
    await this.#bothGood(first);
    await until(
      "every server has been checked",
      () => [...lab.servers.keys()].every((name) => existsSync(this.#costFile(name))),
      { timeoutMs: BACK_TIMEOUT_MS, pauseMs: 100 },
    );
  }

  /** As guides have it: one server writes, the others are its backups. */
  #checkedConfig(first: string): string {
    const servers = this.#minded.lab.network.topology.servers.map((host) => {
      const standby = host.name === first ? "" : " backup";
      return `  server ${host.name} ${host.address}:3306 check${standby}`;
    });
    return [
      "global",
      "  maxconn 500",
      `  stats socket ${this.#socket("checked")} mode 600 level user`,
      "defaults",
      "  mode tcp",
      "  timeout connect 50ms",
      "  timeout check 1s",
      "  timeout client 1h",
      "  timeout server 1h",
      "  retries 3",
      "  option redispatch 1",
      "frontend mysql",
      `  bind 127.0.0.1:${CHECKED_PORT}`,
      "  default_backend galera",
      "backend galera",
      "  balance leastconn",
      "  option httpchk",
      `  default-server port ${CHECK_PORT} inter 1s fall 2 rise 2 on-marked-down shutdown-sessions`,
      ...servers,
      "",
    ].join("\n");
  }

  /** The server that the minded balancer gives connections now. */
  async writer(): Promise<string> {
    const { lab } = this.#minded;
    const knocks = join(lab.directory, `${APP}-writer.knocks`);
    const known = readKnocks(lab.knocksFile("minded")).at(-1)?.server;
    if (known != null) return known;
    const knocking = lab.startKnocking(APP, { name: `${APP}-writer` });
    await until("the minded balancer serves", () => readKnocks(knocks).at(-1)?.server != null, {
      timeoutMs: 10_000,
    });
    await knocking.stop();
    return readKnocks(knocks).at(-1)?.server ?? "";
  }

  /** Waits until both doors have led to this server alone for a while. */
  async #bothGood(server: string): Promise<void> {
    const { lab } = this.#minded;
    await until(
      `both balancers lead to ${server}`,
      () => {
        const from = wallMs() - CALM_MS;
        return ["minded", "checked"].every((name) => {
          const young = readKnocks(lab.knocksFile(name)).filter(({ startMs }) => startMs > from);
          return young.length > 20 && young.every((one) => one.server === server);
        });
      },
      { timeoutMs: BACK_TIMEOUT_MS, pauseMs: 100 },
    );
  }

  /** Plays one fault of the present writer, and leaves everything as it was before. */
  async run(fault: Fault): Promise<RaceRow> {
    const { lab } = this.#minded;
    const server = await this.writer();
    this.#say(`${fault} of ${server}`);
    const counters = await this.#count(server);
    const orderedMs = wallMs();
    if (fault === "stop") {
      await this.#order("drain", server);
      await Bun.sleep(DRAIN_MS);
    }
    const pid = this.#mariadbd(server);
    const fromMs = wallMs();
    process.kill(pid, SIGNALS[fault]);
    await Bun.sleep(WATCH_MS[fault]);
    await counters.stop();
    // The minded one is told before the stop: its clock begins at the order.
    const since = { minded: fault === "stop" ? orderedMs : fromMs, checked: fromMs };
    const times = (name: keyof typeof since): RaceTimes => {
      const from = since[name];
      const sent = counters.sent(name, from);
      const good = readKnocks(lab.knocksFile(name)).find(
        (one) => one.startMs >= from && one.server !== null && one.server !== server,
      );
      return {
        lastMs: Math.max(0, (sent.lastAtMs ?? from) - from),
        sent: sent.count,
        elsewhereMs: (good?.endMs ?? Number.POSITIVE_INFINITY) - from,
      };
    };
    const row = { fault, server, minded: times("minded"), checked: times("checked") };
    await this.#restore(server, pid);
    return row;
  }

  /** Follows how many connections each balancer has sent to a server, by its own counters. */
  async #count(server: string): Promise<Counters> {
    const seen: Record<Door, { readonly atMs: number; readonly total: number }[]> = {
      minded: [],
      checked: [],
    };
    let stopped = false;
    const look = async (name: Door): Promise<void> => {
      const reply = await ask(parseControlAddress(this.#socket(name)), "show stat galera 4 -1\n", {
        signal: AbortSignal.timeout(2_000),
      });
      const line = reply.split("\n").find((one) => one.startsWith(`galera,${server},`));
      const total = Number(line?.split(",")[STOT]);
      if (seen[name].at(-1)?.total !== total) seen[name].push({ atMs: wallMs(), total });
    };
    const follow = async (name: Door): Promise<void> => {
      while (!stopped) {
        await look(name);
        await Bun.sleep(COUNT_MS);
      }
    };
    await Promise.all([look("minded"), look("checked")]);
    const following = Promise.all([follow("minded"), follow("checked")]);
    return {
      async stop() {
        stopped = true;
        await following;
      },
      sent(name, fromMs) {
        const before = seen[name].findLast(({ atMs }) => atMs < fromMs)?.total ?? 0;
        const last = seen[name].at(-1);
        const count = Math.max(0, (last?.total ?? before) - before);
        return { count, lastAtMs: count === 0 ? null : (last?.atMs ?? null) };
      },
    };
  }

  #socket(name: Door): string {
    const { lab } = this.#minded;
    if (name === "checked") return join(lab.directory, APP, "checked.sock");
    return lab.balancers.get(APP)?.socket ?? "";
  }

  async #restore(server: string, pid: number): Promise<void> {
    try {
      process.kill(pid, "SIGCONT");
    } catch {
      // It is gone, as it should be.
    }
    await this.#order("undrain", server);
    await this.#minded.untilHealth("healthy", BACK_TIMEOUT_MS);
    // Nothing but an order moves a writer that is fit: the others are drained for a moment.
    const others = this.#minded.serversOf("dc1").concat(this.#minded.serversOf("dc2"));
    for (const name of others) if (name !== server) await this.#order("drain", name);
    await this.#bothGood(server);
    for (const name of others) if (name !== server) await this.#order("undrain", name);
    await this.#minded.untilSummary("nobody is drained", nobodyDrains, BACK_TIMEOUT_MS);
  }

  async #order(verb: "drain" | "undrain", node: string): Promise<void> {
    const parameters = { who: "race", why: "race", node };
    const options = { config: this.#minded.config, timeoutMs: 2_000 };
    await askArbitrator({ verb, parameters }, options);
  }

  #mariadbd(server: string): number {
    const pid = this.#minded.mariadbd(server);
    if (pid === null) throw new MinderError(`No mariadbd runs on ${server}`);
    return pid;
  }

  /** What knowing the servers costs in calm, all hosts together. */
  async cost(): Promise<readonly RaceCost[]> {
    const { lab } = this.#minded;
    const names = lab.network.topology.servers.map(({ name }) => name);
    const watchdogs = names.map((name) => this.#minded.minder(name).pid);
    const minder = this.#minded.minder(APP).pid;
    const read = (): readonly number[] => [
      this.#checksCost(),
      watchdogs.reduce((sum, pid) => sum + cpuMs(pid), 0),
      cpuMs(minder),
    ];
    const before = read();
    const startMs = wallMs();
    await Bun.sleep(COST_MS);
    const after = read();
    const perMinute = 60_000 / (wallMs() - startMs);
    const what = [
      `${names.length} clusterchecks for one HAProxy, each further one as much again`,
      `${names.length} watchdogs, all they do, for all balancers`,
      "one client minder",
    ];
    return what.map((words, index) => ({
      what: words,
      msPerMinute: ((after[index] ?? 0) - (before[index] ?? 0)) * perMinute,
    }));
  }

  #checksCost(): number {
    const { servers } = this.#minded.lab.network.topology;
    const us = servers.map(({ name }) => Number(readFileSync(this.#costFile(name), "utf8")));
    return us.reduce((sum, one) => sum + one, 0) / 1000;
  }

  #costFile(server: string): string {
    return join(this.#minded.lab.directory, `${server}.clustercheck.cost`);
  }
}

const SIGNALS: Readonly<Record<Fault, NodeJS.Signals>> = {
  crash: "SIGKILL",
  stop: "SIGTERM",
  hang: "SIGSTOP",
};

function nobodyDrains(is: Summary): boolean {
  return is.servers.every(({ draining, report }) => !draining && report?.draining === false);
}

/** User and system time of a process; a tick is 10 ms on every Linux that matters (USER_HZ). */
function cpuMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
