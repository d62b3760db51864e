/**
 * The config in the database of a real cluster: servers come and go by a push while an application
 * writes, and whatever happens to the database, every process has a config and nothing is restarted.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../lib/lab/exec.ts";
import { longestGap, wallMs } from "../../lib/lab/journal.ts";
import { documentText, type Minded, openMinded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import type { Summary } from "../../lib/message/arbitrator.ts";
import { say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const FOUR = ["dc1-1", "dc1-2", "dc2-1", "dc2-2"];
const TEST_MS = 300_000;
/**
 * An application waits for Galera's own view change at a join and at a leave (2 s), and for nothing else:
 * no epoch is opened. A busy machine takes a few times as long.
 */
const GAP_MAX_MS = 20_000;
const PUSHES_MAX = 5;
const OPTIONS = {
  servers: [3, 2],
  spare: ["dc1-3"],
  apps: 1,
  database: true,
  // A joining server's lost packets are asked for again sooner than after 1 s.
  providerOptions: "evs.join_retrans_period=PT0.2S;evs.install_timeout=PT1S",
};

let minded: Minded;
let watched: WatchedLab;
/** Minders that were started at the beginning: none of them may be another process at the end. */
let firstPids: ReadonlyMap<string, number>;

beforeAll(async () => {
  if (unable) return;
  minded = await openMinded(process.env["GM_TEST_LAB"] ?? "test-config", OPTIONS);
  watched = new WatchedLab(minded);
  await minded.start();
  firstPids = new Map([...FOUR, "arb", "app1"].map((host) => [host, minded.minder(host).pid]));
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

/** The document as it would be edited: of the newest version, with these changes. */
function edited(change: (text: string) => string): string {
  const shown = minded.configOrder("show");
  expect(shown.code).toBe(0);
  const text = change(shown.said);
  expect(text).not.toBe(shown.said);
  return text;
}

/** Pushes a text by a person of that name; what was said. */
function pushOnce(text: string, who: string, ...more: readonly string[]) {
  const file = join(minded.lab.directory, `${who}.toml`);
  writeFileSync(file, text);
  return minded.configOrder("push", file, "--yes", "--who", who, ...more);
}

/** The same, as a person does who is told that no server was there for it: on a busy machine one may be fenced. */
function push(text: string, who: string, ...more: readonly string[]) {
  let done = pushOnce(text, who, ...more);
  for (
    let tries = 1;
    tries < PUSHES_MAX && /^error: Cannot (?:reach|read)/m.test(done.said);
    tries++
  ) {
    done = pushOnce(text, who, ...more);
  }
  return done;
}

function versionOf(summary: Summary, name: string): number | undefined {
  return summary.servers.find((server) => server.name === name)?.report?.config?.active.version;
}

/** Waits until all goes by that version, and nothing of it is pending. */
async function settled(version: number, names: readonly string[], timeoutMs = 120_000) {
  return await minded.untilSummary(
    `all go by version ${version}`,
    (is) =>
      is.configVersion === version &&
      is.health === "healthy" &&
      names.every((name) => versionOf(is, name) === version) &&
      is.servers.length === names.length &&
      is.warnings.every((words) => !words.startsWith("config version")),
    timeoutMs,
  );
}

describe.skipIf(unable)("the config in the database", () => {
  test("is what everybody starts with, and a copy of it is on every host", async () => {
    await settled(1, FOUR);
    for (const host of [...FOUR, "arb", "app1"]) {
      const copy = join(minded.lab.directory, host, "minder", "config.state");
      expect(readFileSync(copy, "utf8")).toContain("primary_segment");
    }
  });

  test(
    "2+2 grows to 3+2 and shrinks to 2+2 again by a push each, while an application writes",
    async () => {
      const pids = new Map(FOUR.map((host) => [host, watched.pid(host)]));
      const app = minded.lab.startApp("app1");
      await until("rows are written", () => minded.lab.journal("app1").length > 20, {
        timeoutMs: 60_000,
      });
      const fromMs = wallMs();
      const five = documentText(minded.lab, { ...OPTIONS, spare: [] });
      const grown = push(five, "eve", "--note", "a third server");
      expect(grown.said).toContain("! added: dc1-3 (dbserver.3)");
      expect(grown.code).toBe(0);
      minded.startMinder("dc1-3");
      const growAt = performance.now();
      await settled(2, [...FOUR, "dc1-3"]);
      const growMs = performance.now() - growAt;
      // Whoever was removed is out of the balancer, and of Galera's view.
      const shrunk = push(
        documentText(minded.lab, OPTIONS).replace("version = 1", "version = 2"),
        "ann",
      );
      expect(shrunk.said).toContain("! removed: dc1-3 (dbserver.3)");
      const shrinkAt = performance.now();
      const after = await settled(3, FOUR);
      await minded.untilSummary("four members are left", (is) =>
        is.servers.every(({ report }) => report?.members.length === 4),
      );
      const shrinkMs = performance.now() - shrinkAt;
      expect(after.servers.map(({ name }) => name)).toEqual(FOUR);
      expect(watched.mariadbd("dc1-3")).toBeNull();
      const gap = longestGap(minded.lab.journal("app1"), fromMs, wallMs());
      await app.stop();
      say(
        `grown in ${(growMs / 1000).toFixed(1)} s, shrunk in ${(shrinkMs / 1000).toFixed(1)} s, longest gap ${Math.round(gap?.lengthMs ?? 0)} ms`,
      );
      expect(gap?.lengthMs ?? 0).toBeLessThan(GAP_MAX_MS);
      expect(after.epoch).toBe(0);
      for (const host of FOUR) expect(watched.pid(host)).toBe(pids.get(host) ?? 0);
      const check = await minded.lab.checkRows("dc2-1");
      expect(check.missing).toEqual([]);
    },
    TEST_MS,
  );

  test(
    "a change that is none of the rules is gone by at once, by the client's minder too",
    async () => {
      const text = edited((shown) =>
        shown.replace('policy = "single-writer"', 'policy = "spread"'),
      );
      expect(push(text, "eve").code).toBe(0);
      await settled(4, FOUR);
      await until(
        "the client's minder has it",
        () => watched.events("app1").some((line) => line["version"] === 4),
        {
          timeoutMs: 60_000,
        },
      );
    },
    TEST_MS,
  );

  test(
    "a change of timings is pending until the view is joint again, and then in force",
    async () => {
      await minded.cutLink();
      await minded.untilSummary("one side serves alone", (is) => is.epochHolder !== null);
      const text = edited((shown) => shown.replace("[timing]", "[timing]\nlease_ms = 2700"));
      expect(push(text, "eve").said).toContain("pushed: version 5 by eve");
      const pending = await minded.untilSummary("version 5 is pending", (is) =>
        is.warnings.some((words) => words.includes("config version 5 is pending, 4 is in force")),
      );
      expect(pending.configVersion).toBe(4);
      const late = push(text, "bob");
      expect(late.code).toBe(1);
      expect(late.said).toContain("refused: version 5 was pushed by eve");
      await minded.healLink();
      await settled(5, FOUR);
    },
    TEST_MS,
  );

  test(
    "of two versions pushed on the two sides of a cut one wins, and it shows everywhere",
    async () => {
      const base = edited((shown) => shown.replace("lease_ms = 2700", "lease_ms = 2800"));
      await minded.cutLink();
      // In the lost half nothing commits any more, whether Galera has noticed or not.
      const lost = pushOnce(
        base,
        "lost",
        "--address",
        minded.lab.server("dc2-1").socket,
        ...account(),
      );
      await minded.untilSummary("dc1 serves alone", (is) => is.epochHolder === "dc1");
      expect(lost.code).not.toBe(0);
      const other = edited((shown) => shown.replace("lease_ms = 2700", "lease_ms = 2600"));
      const won = push(other, "won", "--address", minded.lab.server("dc1-1").socket, ...account());
      expect(won.said).toContain("pushed: version 6 by won");
      await minded.healLink();
      await settled(6, FOUR);
      // Asked as every process asks, so that a server which is fenced for a moment answers too.
      for (const host of FOUR) {
        const at = ["--address", minded.lab.server(host).socket, ...account()];
        expect(minded.configOrder("history", ...at).said).toMatch(/^6 .* won /m);
      }
    },
    TEST_MS,
  );

  test(
    "a rollback is a version like any other",
    async () => {
      const done = minded.configOrder("rollback", "4", "--yes", "--who", "ann");
      expect(done.said).toContain("- timing.lease_ms = 2600");
      expect(done.said).toContain("pushed: version 7 by ann");
      await settled(7, FOUR);
      expect(minded.configOrder("diff", "4", "7").said).toBe("no key differs\n");
    },
    TEST_MS,
  );

  test("none of the minders was started anew for any of this", () => {
    for (const [host, pid] of firstPids) {
      expect(minded.minder(host).ended()).toBeNull();
      expect(minded.minder(host).pid).toBe(pid);
    }
  });

  test(
    "a damaged copy is set aside, named, and made anew from the database",
    async () => {
      const folder = join(minded.lab.directory, "dc2-2", "minder");
      await minded.minder("dc2-2").stop();
      writeFileSync(join(folder, "config.state"), "torn");
      minded.startMinder("dc2-2");
      await until(
        "the damaged copy is set aside",
        () => readdirSync(folder).includes("config.state.corrupt-1"),
        { timeoutMs: 60_000 },
      );
      await settled(7, FOUR);
      const named = () =>
        watched
          .events("dc2-2")
          .some((line) => String(line["database"]).includes("config.state.corrupt-1"));
      await until("its log names it", named, { timeoutMs: 60_000 });
    },
    TEST_MS,
  );

  test(
    "with all servers down but one, an arbitrator without a copy finds the config there",
    async () => {
      await minded.minder("arb").stop();
      await minded.powerOff("dc2");
      await minded.powerOff("dc1-2");
      rmSync(join(minded.lab.directory, "arb", "minder", "config.state"));
      minded.startMinder("arb");
      await minded.untilSummary(
        "the arbitrator answers by version 7",
        (is) => is.configVersion === 7 && versionOf(is, "dc1-1") === 7,
      );
      await minded.powerOn("dc2");
      await minded.powerOn("dc1-2");
      await settled(7, FOUR, 90_000);
    },
    TEST_MS,
  );

  test(
    "with no database left at their start, all go by their copies and bring it back",
    async () => {
      await minded.powerOff("dc1");
      await minded.powerOff("dc2");
      await minded.minder("arb").stop();
      await minded.minder("app1").stop();
      minded.startMinder("arb");
      minded.startMinder("app1");
      await minded.powerOn("dc1");
      await minded.powerOn("dc2");
      // A fourth may be kept by Galera itself: an incremental transfer that fails, as some do after the
      // loss of all (measured), costs a full one.
      let sums: readonly unknown[] = [];
      const threeTell = async (): Promise<boolean> => {
        const back = await minded.untilSummary(
          "all are there by version 7, and three serve",
          (is) =>
            FOUR.every((name) => versionOf(is, name) === 7) &&
            is.servers.filter(({ report }) => report?.serving === "on").length >= 3,
          90_000,
        );
        const serving = back.servers.filter(({ report }) => report?.serving === "on");
        const told = await Promise.allSettled(serving.map(({ name }) => sumOf(name)));
        sums = told.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
        // A view that changes between the report and the question (the fourth joins) refuses it with 1047.
        for (const each of told) if (each.status === "rejected") refusedFor(each.reason, 1047);
        return sums.length >= 3;
      };
      await until("three that serve tell their table", threeTell, { timeoutMs: 90_000 });
      expect(new Set(sums.map(String)).size).toBe(1);
      expect(minded.configOrder("history").said).toMatch(/^7 /m);
    },
    TEST_MS,
  );
});

function account(): readonly string[] {
  return [
    "--user",
    minded.lab.secrets.minder.user,
    "--password-file",
    minded.lab.passwordFile("minder"),
  ];
}

/** @throws what it is, if that is anything but the expected refusal */
function refusedFor(error: unknown, errno: number): void {
  if ((error as { readonly errno?: number }).errno !== errno) throw error;
}

async function sumOf(host: string): Promise<unknown> {
  const [row] = await minded.lab.query(host, "CHECKSUM TABLE minder.config", 20_000);
  return row?.["Checksum"];
}
