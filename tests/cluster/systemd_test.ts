/**
 * A watchdog and its mariadbd as units of a real systemd, with all that is printed for that and nothing
 * else: one server by the sudoers lines, where there is no polkit, the other by the polkit rule.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { until } from "../../lib/lab/exec.ts";
import { machinesImpossible } from "../../lib/lab/machine.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds, NEEDS, TEST_NEEDS } from "../../lib/lab/setup.ts";
import {
  ARBITRATOR,
  DATADIR,
  MARIADB,
  SystemdLab,
  WATCHDOG,
  type Way,
} from "../support/systemd_lab.ts";
import { mysql } from "../support/unprivileged.ts";
import { say } from "../support/watched_lab.ts";

const LAB = process.env["GM_TEST_LAB"] ?? "test-systemd";
const WAYS = [
  ["dc1-1", "sudoers"],
  ["dc2-1", "polkit"],
] as const satisfies readonly (readonly [string, Way])[];
const missing = missingNeeds(undefined, [...NEEDS, ...TEST_NEEDS]).map(({ name }) => name);
const unable =
  machinesImpossible() ??
  namespacesImpossible() ??
  (missing.length > 0 ? `missing: ${missing.join(", ")}` : null);
const NOTHING = "0000000000000000";
const TEST_MS = 120_000;
/** Between the measured one and this lies what a busy machine takes. */
const CRASH_MAX_MS = 30_000;
const RESTART_MAX_MS = 30_000;
const ANEW_MAX_MS = 10_000;

let cluster: SystemdLab;

beforeAll(async () => {
  if (unable !== null) {
    say(`systemd: skipped, ${unable}`);
    return;
  }
  const at = performance.now();
  cluster = await SystemdLab.open(LAB, Object.fromEntries(WAYS));
  say(
    `systemd: two servers and an arbitrator serve ${seconds(at)} s after the start of their machines`,
  );
}, TEST_MS);

afterAll(async () => {
  if (unable === null) await cluster.down();
}, TEST_MS);

function seconds(from: number): string {
  return ((performance.now() - from) / 1000).toFixed(1);
}

/** What a unit says from now on. */
function listen(host: string, unit: string): () => string {
  const from = cluster.journal(host, unit).length - 1;
  return () => cluster.journal(host, unit).slice(from).join("\n");
}

/** Waits until systemd has a watchdog that is ready, and not that one. */
async function anotherWatchdog(host: string, before: number): Promise<void> {
  const ready = () =>
    cluster.property(host, WATCHDOG, "ActiveState") === "active" &&
    ![0, before].includes(cluster.mainPid(host, WATCHDOG));
  await until("another watchdog is ready", ready, { timeoutMs: TEST_MS });
}

describe.skipIf(unable !== null).each(WAYS)("%s by the printed %s", (host, way) => {
  test("both run as mysql, the watchdog without any capability", () => {
    expect(cluster.process(host, WATCHDOG)).toMatchObject({
      uid: mysql().uid,
      capabilities: NOTHING,
    });
    expect(cluster.process(host, MARIADB).uid).toBe(mysql().uid);
    // The account has the printed GRANTs: none is missing, none too many.
    const found = cluster.doctor(host);
    expect(found.filter((each) => /^error|account|unit\.|datadir/.test(each))).toEqual([]);
  });

  test(
    "a mariadbd that was killed is started through the gate, fenced, and serves again",
    async () => {
      const saysUnit = listen(host, MARIADB);
      const saysWatchdog = listen(host, WATCHDOG);
      const before = cluster.mainPid(host, MARIADB);
      const at = performance.now();
      cluster.machine(host).run(["kill", "-KILL", String(before)]);
      const tookMs = await cluster.serves(host, at);
      say(`systemd: ${host} serves ${seconds(at)} s after its mariadbd was killed`);
      expect(tookMs).toBeLessThan(CRASH_MAX_MS);
      expect(cluster.mainPid(host, MARIADB)).not.toBe(before);
      expect(saysUnit()).toContain(`start ${host}: ordered by the watchdog`);
      const { words } = cluster.process(host, MARIADB);
      expect(words).toContain("--wsrep-reject-queries=ALL");
      // Whose right it was: sudo notes each use.
      const bySudo = saysWatchdog().includes("COMMAND=/usr/bin/systemctl start --no-block mariadb");
      expect(bySudo).toBe(way === "sudoers");
      await cluster.healthy();
    },
    TEST_MS,
  );

  test(
    "a watchdog that was killed is started anew, and finds its mariadbd as it was",
    async () => {
      const mariadbd = cluster.mainPid(host, MARIADB);
      const watchdog = cluster.mainPid(host, WATCHDOG);
      const at = performance.now();
      cluster.machine(host).run(["kill", "-KILL", String(watchdog)]);
      await anotherWatchdog(host, watchdog);
      const tookMs = performance.now() - at;
      say(`systemd: ${host} has another watchdog ${seconds(at)} s after it was killed`);
      expect(tookMs).toBeLessThan(ANEW_MAX_MS);
      await cluster.healthy();
      expect(cluster.mainPid(host, MARIADB)).toBe(mariadbd);
    },
    TEST_MS,
  );

  test(
    "a watchdog that stands still is killed when its rights have run out, and started anew",
    async () => {
      const { leaseMs, fenceMs } = cluster.config.timing;
      const saysWatchdog = listen(host, WATCHDOG);
      const mariadbd = cluster.mainPid(host, MARIADB);
      const watchdog = cluster.mainPid(host, WATCHDOG);
      const at = performance.now();
      cluster.machine(host).run(["kill", "-STOP", String(watchdog)]);
      await anotherWatchdog(host, watchdog);
      const tookMs = performance.now() - at;
      say(`systemd: ${host} has another watchdog ${seconds(at)} s after it was stopped`);
      expect(saysWatchdog()).toContain("Watchdog timeout");
      // Its last sign of life may be as old as a third of that.
      expect(tookMs).toBeGreaterThan((leaseMs + fenceMs) / 2);
      expect(tookMs).toBeLessThan(leaseMs + fenceMs + ANEW_MAX_MS);
      await cluster.healthy();
      // Neither half of balanced weights has a guard: mariadbd is not told.
      expect(cluster.mainPid(host, MARIADB)).toBe(mariadbd);
    },
    TEST_MS,
  );

  test(
    "a person's restart goes through the gate too",
    async () => {
      const saysUnit = listen(host, MARIADB);
      const before = cluster.mainPid(host, MARIADB);
      const at = performance.now();
      cluster.restart(host);
      const tookMs = await cluster.serves(host, at);
      say(`systemd: ${host} serves ${seconds(at)} s after systemctl restart`);
      expect(tookMs).toBeLessThan(RESTART_MAX_MS);
      expect(cluster.mainPid(host, MARIADB)).not.toBe(before);
      expect(saysUnit()).toMatch(new RegExp(`^start ${host}: `, "m"));
      await cluster.healthy();
    },
    TEST_MS,
  );

  test("the watchdog's user may do what is printed, and nothing else", () => {
    const plain = ["systemctl", "--no-ask-password"];
    const elevated = ["sudo", "-n", "systemctl"];
    const ask = (how: readonly string[], words: string) =>
      cluster.asMysql(host, ...how, ...words.split(" "));
    const allowed = ["reset-failed mariadb.service", "start --no-block mariadb.service"];
    for (const words of allowed) {
      expect(ask(way === "sudoers" ? elevated : plain, words)).toMatchObject({ code: 0 });
      expect(ask(way === "sudoers" ? plain : elevated, words).code).not.toBe(0);
    }
    const mariadbd = cluster.mainPid(host, MARIADB);
    const watchdog = cluster.mainPid(host, WATCHDOG);
    const others = [
      ...["restart mariadb.service", "reload-or-restart mariadb.service", "mask mariadb.service"],
      ...["set-property mariadb.service MemoryMax=1M", "daemon-reload", "poweroff"],
      ...["stop --no-block galera-minder.service", "kill --signal=SIGKILL galera-minder.service"],
      ...["start --no-block rescue.target", "set-environment MYSQLD_OPTS=--skip-grant-tables"],
    ];
    for (const words of others) {
      for (const how of [plain, elevated]) {
        const { code, stderr } = ask(how, words);
        expect({ words, refused: code !== 0 && REFUSED.test(stderr) }).toEqual({
          words,
          refused: true,
        });
      }
    }
    expect(cluster.mainPid(host, MARIADB)).toBe(mariadbd);
    expect(cluster.mainPid(host, WATCHDOG)).toBe(watchdog);
  });

  test("the doctor tells of a socket unit that is enabled, until that is mended as it says", () => {
    const machine = cluster.machine(host);
    machine.run(["systemctl", "enable", "mariadb.socket"]);
    expect(cluster.doctor(host)).toContain("warning unit.socket");
    machine.run(["systemctl", "disable", "--now", "mariadb.socket"]);
    expect(cluster.doctor(host).filter((each) => each.includes("unit.socket"))).toEqual([]);
  });
});

describe.skipIf(unable !== null)("where nobody can be asked", () => {
  test(
    "a start is let through to join only, and answers no SQL until a watchdog opens it",
    async () => {
      const [[host]] = WAYS;
      const machine = cluster.machine(host);
      machine.run(["systemctl", "stop", WATCHDOG]);
      cluster.machine("arb").run(["systemctl", "stop", ARBITRATOR]);
      const saysUnit = listen(host, MARIADB);
      cluster.restart(host);
      expect(saysUnit()).toContain(`start ${host}: neither watchdog nor arbitrator answers`);
      expect(existsSync(`${machine.root}${DATADIR}/gvwstate.dat.removed`)).toBe(true);
      await expect(cluster.insert(host)).rejects.toThrow("WSREP has not yet prepared node");
      cluster.machine("arb").run(["systemctl", "start", ARBITRATOR]);
      machine.run(["systemctl", "start", WATCHDOG]);
      await cluster.healthy();
      await cluster.insert(host);
    },
    TEST_MS,
  );
});

/** Of systemd without polkit, of systemd with it, of sudo. */
const REFUSED = /Access denied|Interactive authentication required|a password is required/;
