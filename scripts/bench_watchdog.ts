/**
 * What a watchdog costs in calm: processor time and memory of each over a minute on a real cluster,
 * beside a script as clustercheck is, called as often.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";
import { readFileSync } from "node:fs";
import { parseArguments, runScript } from "../lib/cli.ts";
import type { Lab } from "../lib/lab/lab.ts";
import { openMinded } from "../lib/lab/minded.ts";
import { WATCHDOG_ENVIRONMENT } from "../lib/runtime.ts";

const USAGE = `
Usage: bench_watchdog.ts [--seconds N] [--settle N] [--name LAB]
  --seconds N   how long to measure (default 60)
  --settle N    how long to wait before (default 60): a process that has just begun still compiles
  --name LAB    name of the lab (default bench-watchdog)
The watchdogs run as their printed unit runs them; BUN_OPTIONS reaches them, as in BUN_OPTIONS=--smol.
`;

const HOST = "dc1-1";
/** The page size of Linux on x86 and most ARM; status gives kB anyway. */
const KB_PER_MB = 1024;

/** The kind of clock that shows a process's time as the scheduler counts it (linux/kernel/time/posix-cpu-timers.c). */
const CPUCLOCK_SCHED = 2;
const { symbols: libc } = dlopen("libc.so.6", {
  clock_gettime: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
});

interface Use {
  readonly cpuMs: number;
  readonly rssMb: number;
  /** Proportional share: pages that several processes use count by halves. */
  readonly pssMb: number;
}

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    seconds: { type: "string" },
    settle: { type: "string" },
    name: { type: "string" },
  });
  const seconds = Number(values.seconds ?? 60);
  const settleMs = Number(values.settle ?? 60) * 1000;
  const minded = await openMinded(values.name ?? "bench-watchdog", {
    apps: 1,
    watchdogs: WATCHDOG_ENVIRONMENT,
  });
  try {
    await minded.start();
    const intervalMs = minded.config.timing.pollIntervalMs;
    const hosts = ["arb", ...minded.serversOf("dc1"), ...minded.serversOf("dc2"), "app1"];
    const pids = new Map(hosts.map((host) => [host, minded.minder(host).pid]));
    await Bun.sleep(settleMs);
    const before = new Map([...pids].map(([host, pid]) => [host, useOf(pid)]));
    const check = await clustercheck(minded.lab, { seconds, intervalMs });
    for (const [host, pid] of pids) {
      const after = useOf(pid);
      const share = (after.cpuMs - (before.get(host)?.cpuMs ?? 0)) / (seconds * 10);
      console.log(
        `${host.padEnd(13)} ${share.toFixed(2)} % of a core, ${after.rssMb.toFixed(0)} MB resident, ${after.pssMb.toFixed(0)} MB proportional`,
      );
    }
    console.log(
      `clustercheck  ${check.share.toFixed(2)} % of a core, every ${intervalMs} ms (bash and the mariadb client, ${check.calls} calls)`,
    );
  } finally {
    await minded.down();
  }
  return 0;
}

/** Processor time since its start, and memory now. */
function useOf(pid: number): Use {
  const kb = (file: string, key: string) =>
    Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(readFileSync(file, "latin1"))?.[1] ?? 0);
  return {
    cpuMs: cpuMsOf(pid),
    rssMb: kb(`/proc/${pid}/status`, "VmRSS") / KB_PER_MB,
    pssMb: kb(`/proc/${pid}/smaps_rollup`, "Pss") / KB_PER_MB,
  };
}

/**
 * Processor time of all threads, those that have ended included: a compiler's thread comes and goes. By
 * the clock of the process (clock_getcpuclockid(3)): the ticks in stat are 10 ms, a second's share.
 */
function cpuMsOf(pid: number): number {
  const time = new BigInt64Array(2);
  if (libc.clock_gettime((~pid << 3) | CPUCLOCK_SCHED, ptr(time)) !== 0) return Number.NaN;
  const [seconds = 0n, nanoseconds = 0n] = time;
  return Number(seconds) * 1000 + Number(nanoseconds) / 1e6;
}

/** The script that balancers commonly call: one connection and one question each time. */
async function clustercheck(
  lab: Lab,
  options: { readonly seconds: number; readonly intervalMs: number },
): Promise<{ readonly share: number; readonly calls: number }> {
  const { user, password } = lab.secrets.minder;
  const question = `mariadb --no-defaults --user=${user} --socket=${lab.server(HOST).socket} -Nse`;
  const script = `state=$(${question} "SHOW STATUS LIKE 'wsrep_local_state'" | tail -1 | awk '{print $2}')
read_only=$(${question} "SHOW GLOBAL VARIABLES LIKE 'read_only'" | awk '{print $2}')
[ "$state" = 4 ] && [ "$read_only" = OFF ] && printf 'HTTP/1.1 200 OK\\r\\n'`;
  const startedAt = performance.now();
  let cpuMs = 0;
  let calls = 0;
  while (performance.now() < startedAt + options.seconds * 1000) {
    const child = Bun.spawn(["bash", "-c", script], {
      stdout: "ignore",
      stderr: "inherit",
      env: { ...process.env, MYSQL_PWD: password },
      timeout: 5_000,
    });
    await child.exited;
    // Of bash and of what it waited for.
    cpuMs += Number(child.resourceUsage()?.cpuTime.total ?? 0) / 1000;
    calls++;
    const nextAt = startedAt + calls * options.intervalMs;
    await Bun.sleep(Math.max(0, nextAt - performance.now()));
  }
  return { share: cpuMs / (options.seconds * 10), calls };
}

if (import.meta.main) await runScript(main);
