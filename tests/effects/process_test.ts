import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ProcessFact } from "../../lib/core/dbserver_io.ts";
import {
  type ChildServerProcess,
  isUnitGroup,
  manageProcess,
  type ProcessOptions,
  parseProcStat,
  readProcStat,
} from "../../lib/effects/process.ts";
import { processesIn, until } from "../support/mariadbd.ts";

/** Nobody looks while a test runs: an end that is told was told by the kernel. */
const NEVER_MS = 3_600_000;

describe("parseProcStat()", () => {
  test("reads a name that holds brackets and blanks", () => {
    const text = `42 (a) (b c) S 1 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3\n`;
    expect(parseProcStat(text)).toEqual({
      comm: "a) (b c",
      state: "S",
      session: 41,
      startTime: 987654,
    });
  });

  test("makes null of anything else", () => {
    for (const text of ["", "42", "42 (a", "42 (a) S", ") ("])
      expect(parseProcStat(text)).toBeNull();
  });

  test("finds this very process, and none where there is none", () => {
    expect(readProcStat(process.pid)?.startTime).toBeGreaterThan(0);
    expect(readProcStat(2 ** 22 + 1)).toBeNull();
  });
});

describe("isUnitGroup()", () => {
  test.each([
    ["version 2", "0::/system.slice/mariadb.service\n", true],
    ["both versions", "3:cpu:/x\n1:name=systemd:/system.slice/mariadb.service\n0::/\n", true],
    ["an instance of a template", "0::/system.slice/system-mariadb.slice/mariadb@a.service", false],
    ["another unit of that ending", "0::/system.slice/notmariadb.service\n", false],
    [
      "the group of another controller",
      "3:cpu:/system.slice/mariadb.service\n0::/user.slice",
      false,
    ],
    ["a group below it", "0::/system.slice/mariadb.service/other\n", false],
    ["nothing", "", false],
  ])("%s", (_, cgroup, ours) => {
    expect(isUnitGroup(cgroup, "mariadb.service")).toBe(ours);
  });
});

describe("a managed process", () => {
  let directory: string;
  let told: ProcessFact[];
  let managed: ChildServerProcess[];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "minder-process-"));
    mkdirSync(join(directory, "data"));
    told = [];
    managed = [];
  });

  afterEach(async () => {
    for (const one of managed) {
      await one.kill();
      one.close();
    }
    for (const pid of processesIn(directory)) process.kill(pid, "SIGKILL");
    rmSync(directory, { recursive: true });
  });

  /** A shell as a stand-in for mariadbd: it works in the data directory, as that does. */
  function manage(script: string, options: Partial<ProcessOptions> = {}): ChildServerProcess {
    const one = manageProcess({
      command: ["/bin/sh", "-c", `cd ${directory}/data; ${script}`],
      datadir: join(directory, "data"),
      pidFile: join(directory, "state/pid.json"),
      logFile: join(directory, "log/server.log"),
      comms: ["sh", "sleep"],
      lookMs: NEVER_MS,
      onChange: (fact) => told.push(fact),
      ...options,
    });
    managed.push(one);
    return one;
  }

  function pidOf(fact: ProcessFact): number {
    return fact.is === "running" ? fact.pid : -1;
  }

  function last(): ProcessFact | undefined {
    return told.at(-1);
  }

  test("is started in a session of its own, with its output in the log", async () => {
    const one = manage("echo out; echo err >&2; exec sleep 100");
    const fact = one.start([]);
    expect(one.current()).toEqual(fact);
    expect(last()).toEqual(fact);
    expect(readProcStat(pidOf(fact))?.session).toBe(pidOf(fact));
    const log = join(directory, "log/server.log");
    await until("both lines are there", 30_000, () => readFileSync(log, "utf8") === "out\nerr\n");
    expect(() => one.start([])).toThrow("one runs already");
  });

  test("gets none of the watchdog's environment but what it needs", async () => {
    process.env["MINDER_TEST_SECRET"] = "secret";
    const one = manage("env; exec sleep 100");
    one.start([]);
    delete process.env["MINDER_TEST_SECRET"];
    const log = join(directory, "log/server.log");
    await until("it is written", 30_000, () => readFileSync(log, "utf8").includes("PATH="));
    expect(readFileSync(log, "utf8")).not.toContain("secret");
  });

  test("tells its exit code and its last error at once", async () => {
    manage("echo 'x [ERROR] Aborting because'; exit 7").start([]);
    await until("it is told", 30_000, () => last()?.is === "stopped");
    expect(last()).toEqual({
      is: "stopped",
      because: "mariadbd ended with exit code 7: [ERROR] Aborting because",
    });
    expect(told).toHaveLength(2);
  });

  test("tells a SIGKILL from outside at once", async () => {
    const fact = manage("exec sleep 100").start([]);
    process.kill(pidOf(fact), "SIGKILL");
    await until("it is told", 30_000, () => last()?.is === "stopped");
    expect(last()).toEqual({ is: "stopped", because: "mariadbd ended by SIGKILL" });
  });

  test("is found again after a restart of the watchdog, and its end is told as fast", async () => {
    const first = manage("exec sleep 100");
    const fact = first.start([]);
    first.close();
    const second = manage("exec sleep 100");
    expect(second.adopt()).toEqual(fact);
    expect(() => second.start([])).toThrow("one runs already");
    process.kill(pidOf(fact), "SIGKILL");
    await until("it is told", 30_000, () => last()?.is === "stopped");
    expect(told.filter(({ is }) => is === "stopped")).toHaveLength(1);
  });

  test("is not mistaken for another process with its pid, its boot or its name", () => {
    const stranger = Bun.spawn(["sleep", "100"]);
    const stat = readProcStat(stranger.pid);
    const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const right = { pid: stranger.pid, startTime: stat?.startTime ?? 0, bootId };
    const pidFile = join(directory, "pid.json");
    const wrong = [
      { ...right, startTime: right.startTime - 1 },
      { ...right, bootId: "another" },
      { ...right, pid: 1 },
      { ...right, pid: -1 },
      "nonsense",
    ];
    for (const record of wrong) {
      writeFileSync(pidFile, JSON.stringify(record));
      expect(manage("true", { pidFile }).adopt().is).toBe("stopped");
    }
    writeFileSync(pidFile, JSON.stringify(right));
    expect(manage("true", { pidFile, comms: ["mariadbd"] }).adopt().is).toBe("stopped");
    const found = manage("true", { pidFile });
    expect(pidOf(found.adopt())).toBe(stranger.pid);
    found.close();
    stranger.kill("SIGKILL");
  });

  test("is found by its data directory where another manager started it, then and later", async () => {
    const cwd = join(directory, "data");
    const foreign = Bun.spawn(["sleep", "100"], { cwd });
    const one = manage("", { command: null });
    expect(pidOf(one.adopt())).toBe(foreign.pid);
    foreign.kill("SIGKILL");
    await until("its end is told", 30_000, () => last()?.is === "stopped");
    const next = Bun.spawn(["sleep", "100"], { cwd });
    await until("the next is found", 30_000, () => pidOf(one.current()) === next.pid);
    expect(() => one.start([])).toThrow("another manager");
  });

  test("is stopped by SIGTERM, and by SIGKILL when that is not enough", async () => {
    const polite = manage("trap 'exit 3' TERM; while :; do sleep 0.01; done");
    polite.start([]);
    // Only once the trap is set does the signal find it; the shell shows that by its child.
    await until("it loops", 30_000, () => processesIn(directory).length > 1);
    expect(await polite.stop(5000)).toEqual({
      is: "stopped",
      because: "mariadbd ended with exit code 3",
    });
    const stubborn = manage("trap '' TERM; while :; do sleep 0.01; done");
    stubborn.start([]);
    await until("it loops", 30_000, () => processesIn(directory).length > 1);
    const startedAt = performance.now();
    const fact = await stubborn.stop(200);
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(195);
    expect(fact).toEqual({ is: "stopped", because: "mariadbd ended by SIGKILL" });
  });

  test("is killed even when stopped by a signal, and takes what it has left running along", async () => {
    const one = manage("sleep 1000 & echo ready; wait");
    const fact = one.start([]);
    await until("both run", 30_000, () => processesIn(directory).length === 2);
    process.kill(pidOf(fact), "SIGSTOP");
    expect((await one.kill()).is).toBe("stopped");
    await until("none is left", 30_000, () => processesIn(directory).length === 0);
  });

  test("that cannot be started is an error that says so", () => {
    const one = manage("", { command: ["/nonexistent/mariadbd"] });
    expect(() => one.start([])).toThrow("Cannot start mariadbd");
    expect(one.current().is).toBe("stopped");
  });

  test("stopping what does not run does nothing", async () => {
    const one = manage("true");
    expect((await one.stop(100)).is).toBe("stopped");
    expect((await one.kill()).is).toBe("stopped");
    expect(told).toHaveLength(0);
  });
});
