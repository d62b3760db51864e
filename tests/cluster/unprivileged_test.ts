/**
 * A watchdog without any right of root, with the account and the GRANTs that `just grants` prints,
 * does all that it has to beside a real mariadbd.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { Finding } from "../../lib/doctor.ts";
import { grantStatements } from "../../lib/grants.ts";
import { until } from "../../lib/lab/exec.ts";
import type { LabProcess } from "../../lib/lab/lab.ts";
import type { Minded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import {
  ACCOUNT,
  grantsHeld,
  makeAccount,
  mysql,
  rightsOf,
  scriptAsMysql,
  startAsMysql,
  unprivilegedImpossible,
} from "../support/unprivileged.ts";
import { reportOf, say, WatchedLab } from "../support/watched_lab.ts";

const unable =
  namespacesImpossible() !== null || missingNeeds().length > 0 || unprivilegedImpossible() !== null;
const LAB = process.env["GM_TEST_LAB"] ?? "test-unprivileged";
const HOST = "dc1-2";
const NOTHING = "0000000000000000";
const TEST_MS = 300_000;

let watched: WatchedLab;
let minded: Minded;
let watchdog: LabProcess;

beforeAll(async () => {
  if (unable) return;
  watched = await WatchedLab.open(LAB);
  minded = watched.minded;
  makeAccount(minded);
  watchdog = await startAsMysql(minded, HOST);
  const adopted = () =>
    readFileSync(watchdog.logFile, "utf8").includes('"event":"mariadbd_running"');
  await until("it has adopted its mariadbd", adopted, { timeoutMs: 60_000 });
  await minded.untilSummary(
    "its server serves",
    (is) => is.health === "healthy" && reportOf(is, HOST)?.serving === "on",
  );
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

describe.skipIf(unable)("a watchdog without rights", () => {
  test(
    "is mysql, has no capability, and its account has the printed GRANTs and none else",
    () => {
      expect(rightsOf(watchdog.pid)).toEqual({ uid: mysql().uid, capabilities: NOTHING });
      const plain = (line: string) => line.replaceAll(/[`']/g, "").replace(/ IDENTIFIED .*$/, "");
      const sorted = (line: string) => {
        const [, privileges = "", rest = ""] = /^GRANT (.*?) ON (.*)$/.exec(plain(line)) ?? [];
        return `${privileges.split(", ").sort().join(", ")} ON ${rest}`;
      };
      const held = grantsHeld(minded.lab.server(HOST).socket);
      expect(held.map(sorted).sort()).toEqual(grantStatements(ACCOUNT).map(sorted).sort());
    },
    TEST_MS,
  );

  test(
    "the doctor, as mysql too, finds no right missing and none too many",
    () => {
      const asked = scriptAsMysql(minded, HOST, "doctor", "--json");
      const findings = JSON.parse(asked.stdout.toString()) as readonly Finding[];
      expect(
        findings.filter(({ check }) => /^(privileges|grants|server\.asked)/.test(check)),
      ).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "closes the door of a server that is cut off, and opens it again by right",
    async () => {
      const others = minded.lab.hosts.map(({ name }) => name).filter((name) => name !== HOST);
      const closed = async (value: string) => {
        try {
          const sql = "SELECT @@global.wsrep_reject_queries AS value";
          const [row] = await minded.lab.query(HOST, sql);
          return row?.["value"] === value;
        } catch {
          // Cut by the very fence that is waited for.
          return false;
        }
      };
      const at = performance.now();
      await minded.lab.network.cut([HOST], others);
      await until("it is fenced", () => closed("ALL_KILL"), { timeoutMs: 60_000 });
      say(`unprivileged: fenced ${((performance.now() - at) / 1000).toFixed(1)} s after the cut`);
      await minded.lab.network.heal([HOST], others);
      await watched.healthy();
      await until("its door is open", () => closed("NONE"), { timeoutMs: 60_000 });
      await watched.healthy();
    },
    TEST_MS,
  );

  test(
    "starts a mariadbd that crashed as its own child, and kills one that hangs",
    async () => {
      const crashed = watched.pid(HOST);
      const from = watched.errorLogSize(HOST);
      const crashedAt = performance.now();
      process.kill(crashed, "SIGKILL");
      await until("another runs", () => ![null, crashed].includes(watched.mariadbd(HOST)), {
        timeoutMs: 60_000,
      });
      await watched.healthy();
      say(
        `unprivileged: serving again ${((performance.now() - crashedAt) / 1000).toFixed(1)} s after the crash`,
      );
      expect(rightsOf(watched.pid(HOST))).toEqual({ uid: mysql().uid, capabilities: NOTHING });
      expect(watched.errorLog(HOST, from)).not.toContain("rsync SST completed on joiner");
      const hung = watched.pid(HOST);
      const { leaseMs, fenceMs, pollTimeoutMs } = minded.config.timing;
      const at = performance.now();
      process.kill(hung, "SIGSTOP");
      await until("the hung one is gone", () => watched.mariadbd(HOST) !== hung, {
        timeoutMs: 60_000,
        pauseMs: 10,
      });
      const tookMs = performance.now() - at;
      say(`unprivileged: the hung mariadbd was killed after ${(tookMs / 1000).toFixed(1)} s`);
      // A busy machine takes a few times as long.
      expect(tookMs).toBeLessThan(3 * (leaseMs + fenceMs + pollTimeoutMs));
      await watched.healthy();
    },
    TEST_MS,
  );
});
