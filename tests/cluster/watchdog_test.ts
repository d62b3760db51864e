/**
 * What a watchdog does beside a real mariadbd that crashes, hangs, diverges or has lost its data, and
 * what becomes of mariadbd when the watchdog itself dies.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Finding } from "../../lib/doctor.ts";
import { until } from "../../lib/lab/exec.ts";
import { connectTo } from "../../lib/lab/mariadb.ts";
import type { Minded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { reportOf, say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-watchdog";
const TEST_MS = 240_000;
/** What is over in time on a calm machine, a busy one may need a few times as long for. */
const BUSY_TIMES = 3;

let watched: WatchedLab;
let minded: Minded;

/** How often the watchdogs of a host have logged that event. */
function count(host: string, event: string): number {
  return watched.events(host).filter((line) => line["event"] === event).length;
}

function seconds(fromMs: number): string {
  return `${((performance.now() - fromMs) / 1000).toFixed(1)} s`;
}

beforeAll(async () => {
  if (unable) return;
  // One fault follows another within seconds: a later change of segment is not to wait for a person.
  watched = await WatchedLab.open(LAB, { timing: ["promotion_window_ms = 0"] });
  minded = watched.minded;
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

describe.skipIf(unable)("beside a mariadbd that fails", () => {
  test(
    "the doctor complains of what the lab does otherwise, and of nothing else",
    () => {
      const script = join(import.meta.dir, "../../scripts/doctor.ts");
      const asked = Bun.spawnSync([
        ...[process.execPath, script, "--config", minded.configPath, "--json"],
      ]);
      expect(asked.stderr.toString()).toBe("");
      const findings = JSON.parse(asked.stdout.toString()) as readonly Finding[];
      expect([...new Set(findings.map(({ severity, check }) => `${severity} ${check}`))]).toEqual([
        "warning flush.commit",
        "note sst.method",
        "note gcache.size",
      ]);
      expect(findings.length).toBe(12);
      expect(asked.exitCode).toBe(1);
    },
    TEST_MS,
  );

  test(
    "one that crashes is started again and takes an incremental transfer",
    async () => {
      const host = "dc1-2";
      const from = watched.errorLogSize(host);
      const before = watched.pid(host);
      await watched.insert("dc1-1", "crash", 1);
      const at = performance.now();
      process.kill(before, "SIGKILL");
      await watched.insert("dc1-1", "crash", 2).catch(() => undefined);
      await minded.untilSummary(
        "the crashed server is reported down",
        (is) => reportOf(is, host)?.running !== "up",
      );
      say(`crash: reported after ${seconds(at)}`);
      await watched.healthy();
      say(`crash: serving again after ${seconds(at)}`);
      expect(watched.pid(host)).not.toBe(before);
      const log = watched.errorLog(host, from);
      expect(log).toContain("IST received");
      expect(log).not.toContain("rsync SST completed on joiner");
      expect(new Set((await minded.lab.checksums()).values()).size).toBe(1);
    },
    TEST_MS,
  );

  test(
    "desynced and paused servers are reported as they are, and nobody is fenced for it",
    async () => {
      const host = "dc2-2";
      const { lab } = minded;
      const before = count(host, "fenced");
      await lab.query(host, "SET GLOBAL wsrep_desync=ON");
      await minded.untilSummary(
        "a desynced server is called so, and serves",
        (is) =>
          reportOf(is, host)?.localState.startsWith("Donor") === true &&
          reportOf(is, host)?.serving === "on",
      );
      await lab.query(host, "SET GLOBAL wsrep_desync=OFF");
      await minded.untilSummary(
        "it is Synced",
        (is) => reportOf(is, host)?.localState === "Synced",
      );
      // A lock holds its applier back; what the others write piles up until flow control stops them.
      const locker = await connectTo(lab.server(host).socket, lab.secrets.app);
      const writers = await Promise.all(
        ["dc1-1", "dc1-2", "dc2-1"].map((one) =>
          connectTo(lab.server(one).socket, lab.secrets.app),
        ),
      );
      let stopped = false;
      try {
        await locker.query("LOCK TABLES app.written READ");
        const writing = writers.map(async (writer, index) => {
          for (let number = 1; !stopped; number++) {
            const values = `('flow${index}', ${number}, 'x')`;
            await writer.query(`INSERT INTO app.written VALUES ${values}`).catch(() => undefined);
          }
        });
        await minded.untilSummary(
          "flow control is seen by every server",
          (is) => is.servers.every(({ report }) => (report?.flowControl ?? 0) > 0.2),
          40_000,
        );
        await minded.untilSummary(
          "their probes are held, which is no fault",
          (is) =>
            is.servers.every(({ report }) => report?.serving === "on") &&
            is.servers.some(({ report }) => report?.probe === "held"),
        );
        await locker.query("UNLOCK TABLES");
        stopped = true;
        await Promise.all(writing);
      } finally {
        stopped = true;
        for (const connection of [locker, ...writers]) connection.destroy();
      }
      await minded.untilSummary("commits flow everywhere", (is) =>
        is.servers.every(({ report }) => report?.probe === "flowing" && report.flowControl < 0.2),
      );
      expect(count(host, "fenced")).toBe(before);
      await watched.healthy();
    },
    TEST_MS,
  );

  test(
    "one that hangs is killed within its lease and fence_ms, and comes back",
    async () => {
      const host = "dc1-2";
      const { leaseMs, fenceMs, pollTimeoutMs } = minded.config.timing;
      const before = watched.pid(host);
      const at = performance.now();
      process.kill(before, "SIGSTOP");
      await until("the hung mariadbd is gone", () => watched.mariadbd(host) !== before, {
        timeoutMs: 60_000,
        pauseMs: 10,
      });
      const tookMs = performance.now() - at;
      say(`hang: killed after ${(tookMs / 1000).toFixed(1)} s`);
      // Its last answer may be one poll interval younger than the stop; a busy machine takes longer.
      expect(tookMs).toBeLessThan(BUSY_TIMES * (leaseMs + fenceMs + pollTimeoutMs));
      await watched.healthy();
      say(`hang: serving again after ${seconds(at)}`);
    },
    TEST_MS,
  );

  test(
    "a watchdog that is killed leaves mariadbd and its sessions alone; the next one adopts it",
    async () => {
      const host = "dc2-1";
      const before = watched.pid(host);
      const session = await connectTo(minded.lab.server(host).socket, minded.lab.secrets.app);
      try {
        const [[id]] = (await session.query({
          sql: "SELECT CONNECTION_ID()",
          rowsAsArray: true,
        })) as unknown as [[[number]]];
        const old = minded.minder(host);
        const fences = count(host, "fenced");
        old.kill("SIGKILL");
        await until("the watchdog is dead", () => old.ended() !== null, { timeoutMs: 30_000 });
        await session.query("INSERT INTO app.written VALUES ('session', 1, 'x')");
        await minded.untilSummary(
          "its reports are missing",
          (is) => (is.servers.find(({ name }) => name === host)?.heardAgoMs ?? 0) > 3_000,
        );
        await session.query("INSERT INTO app.written VALUES ('session', 2, 'x')");
        minded.startMinder(host);
        await minded.untilSummary(
          "the new watchdog reports",
          (is) => (is.servers.find(({ name }) => name === host)?.heardAgoMs ?? 9_999) < 600,
        );
        await watched.healthy();
        await Bun.sleep(minded.config.timing.fenceMs + 500);
        await session.query("INSERT INTO app.written VALUES ('session', 3, 'x')");
        const [[same]] = (await session.query({
          sql: "SELECT CONNECTION_ID()",
          rowsAsArray: true,
        })) as unknown as [[[number]]];
        expect(same).toEqual(id);
        expect(watched.pid(host)).toBe(before);
        expect(count(host, "fenced")).toBe(fences);
      } finally {
        session.destroy();
      }
    },
    TEST_MS,
  );

  test(
    "one that crashes three times before it is Synced stays down, until a person orders its start",
    async () => {
      const host = "dc2-2";
      const { config } = minded.lab.server(host);
      const good = readFileSync(config, "utf8");
      appendFileSync(config, "innodb_page_size = 4k\n");
      const at = performance.now();
      process.kill(watched.pid(host), "SIGKILL");
      const summary = await minded.untilSummary(
        "the server stays down",
        (is) => reportOf(is, host)?.because.includes("3 starts in a row failed") === true,
        // Each start may take a full transfer before it fails.
        150_000,
      );
      say(`crash loop: given up after ${seconds(at)}: ${reportOf(summary, host)?.because}`);
      const started = count(host, "mariadbd_stopped");
      await Bun.sleep(3_000);
      expect(count(host, "mariadbd_stopped")).toBe(started);
      expect(watched.mariadbd(host)).toBeNull();
      writeFileSync(config, good);
      // Mended: a person has it tried again, with the same watchdog.
      expect(watched.command("start", host)).toContain("ok: start");
      await watched.healthy(90_000);
    },
    2 * TEST_MS,
  );

  test(
    "one that loses Primary and comes back while its watchdog is dead takes no clients until that one is back",
    async () => {
      const host = "dc2-2";
      const { lab } = minded;
      const door = async () =>
        (await lab.query(host, "SELECT @@global.wsrep_reject_queries AS door"))[0]?.["door"];
      expect(await door()).toBe("NONE");
      minded.minder(host).kill("SIGKILL");
      await until("the watchdog is dead", () => minded.minder(host).ended() !== null, {
        timeoutMs: 30_000,
      });
      await lab.network.isolate([host]);
      await lab.allReport("wsrep_cluster_status", "non-Primary", { hosts: [host] });
      // Closing it ends the very session that asks; the next look tells.
      const closed = async () => (await door().catch(() => "NONE")) !== "NONE";
      await until("the notify handler has closed the door", closed, { timeoutMs: 30_000 });
      await lab.network.heal([host]);
      await lab.allReport("wsrep_local_state_comment", "Synced", { hosts: [host] });
      expect(await door()).toBe("ALL_KILL");
      minded.startMinder(host);
      await watched.healthy(60_000);
      expect(await door()).toBe("NONE");
    },
    TEST_MS,
  );

  test(
    "beside a heavy segment's server a guard kills the mariadbd whose watchdog has died",
    async () => {
      const host = "dc1-2";
      // With a server of the other data centre gone, this one has two of three votes.
      await minded.powerOff("dc2-1");
      await minded.untilSummary(
        "guards live beside both servers of dc1, and beside no other",
        (is) => is.servers.every(({ name, report }) => report?.guard === name.startsWith("dc1-")),
        60_000,
      );
      const { leaseMs, fenceMs } = minded.config.timing;
      const before = watched.pid(host);
      const at = performance.now();
      minded.minder(host).kill("SIGKILL");
      await until("the guard has killed", () => watched.mariadbd(host) === null, {
        timeoutMs: 60_000,
        pauseMs: 10,
      });
      const tookMs = performance.now() - at;
      say(`guard: killed ${before} after ${(tookMs / 1000).toFixed(1)} s`);
      expect(tookMs).toBeLessThan(BUSY_TIMES * (leaseMs + fenceMs + 500));
      minded.startMinder(host);
      await minded.powerOn("dc2-1");
      await watched.healthy(90_000);
      // Balanced again: no guard, and a dead watchdog costs nothing.
      await minded.untilSummary("no guard is left", (is) =>
        is.servers.every(({ report }) => report?.guard === false),
      );
    },
    TEST_MS,
  );
});
