/**
 * Never the wrong one, on a real cluster: evidence of exits that are over, a network that loses and one that
 * delays evict nobody; a live server that is evicted all the same comes back, and all rows are equal.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { examine, isWhole, startWriters, untilWrites } from "../../lib/lab/aftermath.ts";
import { until } from "../../lib/lab/exec.ts";
import { type Attempt, wallMs } from "../../lib/lab/journal.ts";
import type { LabProcess } from "../../lib/lab/lab.ts";
import { type Minded, openMinded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { type Recorded, readRecorded } from "../../lib/lab/record.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { watchViews } from "../../lib/lab/views.ts";
import type { Report } from "../../lib/message/dbserver.ts";
import { reportOf, say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-evict";
const TEST_MS = 300_000;
const SERVERS = ["dc1-1", "dc1-2", "dc2-1", "dc2-2"];
/** Whose exits are told of. */
const VICTIM = "dc1-2";
/** Somebody on the network who speaks in the name of others. */
const OUTSIDER = "app1";
/** Evicting follows evidence within milliseconds, and silence after `suspect_ms`. */
const LOOK_MS = 2_500;
/** A busy machine may tell a client so late of a commit; the race measures how late. */
const IN_FLIGHT_MS = 1_000;
const SEAL = join(import.meta.dir, "../../lib/seal.ts");

let watched: WatchedLab;
let minded: Minded;

beforeAll(async () => {
  if (unable) return;
  minded = await openMinded(LAB, {
    apps: 1,
    evict: "full",
    record: true,
    timing: ["promotion_window_ms = 0"],
  });
  watched = new WatchedLab(minded);
  await minded.start();
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

/** How often a server has been told to evict somebody. */
function evictions(): number {
  const told = SERVERS.flatMap((host) => watched.events(host));
  return told.filter(({ event }) => event === "evicting").length;
}

async function epoch(): Promise<number> {
  return (await minded.summary())?.epoch ?? -1;
}

async function viewOf(host: string): Promise<string> {
  const status = await minded.lab.status(host);
  return `${status?.get("wsrep_cluster_status")} ${status?.get("wsrep_cluster_size")}`;
}

/** Nobody may be evicted while that goes on; afterwards nobody is in a list. */
async function nobodyIsEvicted(during: () => Promise<void>): Promise<void> {
  const before = { evictions: evictions(), epoch: await epoch() };
  await during();
  expect({ evictions: evictions(), epoch: await epoch() }).toEqual(before);
}

async function latest(host: string): Promise<Report> {
  const report = reportOf(await minded.untilHealth("healthy"), host);
  if (report === null) throw new Error(`Nothing was heard of ${host}`);
  return report;
}

/** Runs a program on the outsider's host; what it printed. */
async function runOutside(program: string): Promise<string> {
  const command = [...minded.lab.network.enter(OUTSIDER), process.execPath, "-e", program];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit", timeout: 30_000 });
  return (await new Response(child.stdout).text()).trim();
}

/** Tells all survivors, as the victim's watchdog would, with the nodes' secret and a session of its own. */
async function forge(report: Report): Promise<readonly number[]> {
  const sender = minded.lab.network.topology.servers.find(({ name }) => name === VICTIM);
  const to = minded.config.servers.filter(({ name }) => name !== VICTIM);
  const secret = readFileSync(minded.config.security.secretFile ?? "", "utf8").trim();
  const file = join(minded.lab.directory, "forged.json");
  const session = `forged${performance.now().toFixed(0)}`;
  const bodies = to.map(({ id }) => ({
    url: minded.config.urlById.get(id),
    body: {
      ...{ v: 1, sender: `dbserver.${sender?.serial}`, receiver: id, session, seq: 1 },
      ...{ toSession: "", configVersion: 1, verb: "db_status_report", parameters: report },
    },
  }));
  writeFileSync(file, JSON.stringify({ secret, bodies }), { mode: 0o600 });
  const program = `
    import { SealKey, sealRequest } from ${JSON.stringify(SEAL)};
    const { secret, bodies } = await Bun.file(${JSON.stringify(file)}).json();
    const key = new SealKey("node", secret);
    const send = (url, body) => fetch(url + "/messages", { method: "POST", body,
      headers: { "content-type": "application/json", "minder-seal": sealRequest(key, body) } });
    const codes = [];
    for (const { url, body } of bodies) {
      const first = await send(url, JSON.stringify(body));
      const toSession = (await first.json()).session;
      codes.push((await send(url, JSON.stringify({ ...body, toSession }))).status);
    }
    console.log(JSON.stringify(codes));`;
  return JSON.parse(await runOutside(program)) as number[];
}

/** Sends what went over the wire again; how it was answered. */
async function replay(recorded: readonly Recorded[]): Promise<readonly number[]> {
  const file = join(minded.lab.directory, "replayed.json");
  writeFileSync(file, JSON.stringify(recorded));
  const program = `
    const codes = new Set();
    for (const { url, seal, body } of await Bun.file(${JSON.stringify(file)}).json()) {
      for (;;) {
        const { status } = await fetch(url, { method: "POST", body,
          headers: { "content-type": "application/json", "minder-seal": seal } });
        if (status !== 429) { codes.add(status); break; }
        await Bun.sleep(100);
      }
    }
    console.log(JSON.stringify([...codes]));`;
  return JSON.parse(await runOutside(program)) as number[];
}

async function endWatchdog(host: string): Promise<void> {
  const minder = minded.minder(host);
  minder.kill("SIGKILL");
  await until(`the watchdog of ${host} is dead`, () => minder.ended() !== null, {
    timeoutMs: 60_000,
  });
}

describe.skipIf(unable)("evidence of an exit", () => {
  let before: Report;
  let after: Report;

  test(
    "evicts the one that ended, once, and nobody when it is sent again",
    async () => {
      before = await latest(VICTIM);
      const told = evictions();
      process.kill(watched.pid(VICTIM), "SIGKILL");
      await until("a survivor evicts it", () => evictions() > told, { timeoutMs: 60_000 });
      await minded.untilSummary("it is back", isWhole, 120_000);
      after = await latest(VICTIM);
      expect(after.ended?.uuid).toBe(before.gcommUuid ?? "");
      const recorded = readRecorded(minded.records ?? "").filter(({ body }) =>
        body.includes('"ended":{'),
      );
      expect(recorded.length).toBeGreaterThan(3);
      await nobodyIsEvicted(async () => {
        const codes = await replay(recorded);
        for (const code of codes) expect([200, 409, 410]).toContain(code);
        await Bun.sleep(LOOK_MS);
      });
    },
    TEST_MS,
  );

  test(
    "of an earlier life, or that the same report contradicts, or of another server, evicts nobody",
    async () => {
      const other = await latest("dc2-2");
      const ghost = { pid: 4_000_000, startTime: 1 };
      const stale: readonly Report["ended"][] = [
        // The member before the last start, by its own process.
        before.gcommUuid === null ? null : { uuid: before.gcommUuid, ...ghost },
        // The present member, by a process that is long gone.
        after.gcommUuid === null ? null : { uuid: after.gcommUuid, ...ghost },
        // A member that never was this server's.
        other.gcommUuid === null ? null : { uuid: other.gcommUuid, ...ghost },
      ];
      await endWatchdog(VICTIM);
      await nobodyIsEvicted(async () => {
        for (const ended of stale) {
          expect(ended).not.toBeNull();
          expect(await forge({ ...after, ended })).toEqual([200, 200, 200]);
          await Bun.sleep(LOOK_MS);
          expect(await viewOf("dc2-1")).toBe("Primary 4");
        }
      });
    },
    TEST_MS,
  );

  test(
    "that is a lie evicts a live server, which is back with equal rows once it has a watchdog again",
    async () => {
      const writers = await startWriters(minded, "lie");
      await untilWrites(minded, { writer: "lie", fromMs: 0, when: "before" });
      const ended = { uuid: after.gcommUuid ?? "", pid: 4_000_000, startTime: 1 };
      const told = evictions();
      const gone = { ...after, running: "down", gcommUuid: null, ended } as const;
      // What the tests before sent was believed as far as it went: this is.
      expect(await forge(gone)).toEqual([200, 200, 200]);
      await until("it is evicted", () => evictions() > told, { timeoutMs: 60_000 });
      await until(
        "the others are a view of three",
        async () => (await viewOf("dc2-1")) === "Primary 3",
        {
          timeoutMs: 15_000,
        },
      );
      const since = watched.errorLogSize(VICTIM);
      minded.startMinder(VICTIM);
      await minded.untilSummary("it is back", isWhole, 120_000);
      say(`a live server evicted: ${backBy(since)}`);
      await expectRows(writers);
    },
    TEST_MS,
  );

  function backBy(since: number): string {
    const started = watched.errorLog(VICTIM, since).includes("Starting MariaDB");
    return started ? "its watchdog restarted it" : "it joined again by itself";
  }
});

async function expectRows(writers: Awaited<ReturnType<typeof startWriters>>): Promise<void> {
  await untilWrites(minded, { writer: writers.app, fromMs: wallMs(), when: "at the end" });
  const { lost, complaints } = await examine(minded, writers);
  expect(lost).toEqual([]);
  expect(complaints).toEqual([]);
}

describe.skipIf(unable)("a bad network", () => {
  const LOSE_MS = 10_000;
  const SLOW_MS = 8_000;

  test(
    "that loses 30 % of all packets evicts nobody",
    async () => {
      const writers = await startWriters(minded, "loss");
      const { lab } = minded;
      const all = lab.hosts.map(({ name }) => name);
      await nobodyIsEvicted(async () => {
        await lab.network.lose(all, all, 30);
        await Bun.sleep(LOSE_MS);
        await lab.network.lose(all, all, 0);
        await minded.untilSummary("it is over", isWhole, 120_000);
      });
      await expectRows(writers);
    },
    TEST_MS,
  );

  test.skipIf(!existsSync("/dev/net/tun"))(
    "that delays all between the data centres by 250 ms each way evicts nobody, and writes go on",
    async () => {
      await playSlow("slow", 250, async (fromMs) => {
        // A commit asks both data centres. The first may wait for what was lost as the line began.
        const slow = ({ outcome, startMs, endMs }: Attempt) =>
          outcome === "acknowledged" && startMs > fromMs && endMs - startMs > 450;
        await until(
          "a commit that was slow",
          () => minded.lab.journal("slow").filter(slow).length > 1,
          {
            timeoutMs: 40_000,
            pauseMs: 100,
          },
        );
        await Bun.sleep(LOOK_MS);
      });
    },
    TEST_MS,
  );

  test.skipIf(!existsSync("/dev/net/tun"))(
    "that delays by 500 ms each way, so that no answer comes in time, evicts nobody",
    async () => {
      // Neither lease nor vouch is renewed within ack_timeout_ms: the doors close, and open again.
      await playSlow("slower", 500, () => Bun.sleep(SLOW_MS));
    },
    TEST_MS,
  );

  /** Nobody may be evicted while the line is slow; then all must be well again, with equal rows. */
  async function playSlow(
    name: string,
    delayMs: number,
    during: (fromMs: number) => Promise<void>,
  ): Promise<void> {
    const writers = await startWriters(minded, name);
    await untilWrites(minded, { writer: name, fromMs: 0, when: "before" });
    const { lab } = minded;
    await nobodyIsEvicted(async () => {
      const line = await lab.network.slow(minded.serversOf("dc2"), delayMs);
      try {
        await during(wallMs());
      } finally {
        await line.end();
      }
      await untilWrites(minded, { writer: name, fromMs: wallMs(), when: "afterwards" });
      await minded.untilSummary("it is over", isWhole, 120_000);
    });
    const fences = SERVERS.flatMap((host) => watched.events(host)).filter(
      ({ event }) => event === "fenced",
    );
    say(`${delayMs} ms each way: doors were closed ${fences.length} times so far`);
    await expectRows(writers);
  }
});

describe.skipIf(unable)("a data centre that is evicted for its silence", () => {
  test(
    "comes back with equal rows when it is heard again, and is in no list",
    async () => {
      const writers = await startWriters(minded, "silent");
      await untilWrites(minded, { writer: "silent", fromMs: 0, when: "before" });
      const { lab } = minded;
      const inside = minded.serversOf("dc1");
      const pids = inside.map((host) => watched.pid(host));
      const others = lab.hosts.map(({ name }) => name).filter((name) => !inside.includes(name));
      const from = await epoch();
      const { toMs } = await lab.network.cut(inside, others);
      await minded.untilSummary("dc2 holds an epoch", (is) => is.epoch > from, 90_000);
      await untilWrites(minded, { writer: "silent", fromMs: wallMs(), when: "without it" });
      // Nobody has told them that they are out.
      expect(inside.map((host) => watched.pid(host))).toEqual(pids);
      await lab.network.heal();
      await minded.untilSummary("it is back", isWhole, 90_000);
      await untilWrites(minded, { writer: "silent", fromMs: wallMs(), when: "at the end" });
      const { lost, checksumsEqual, complaints } = await examine(minded, writers);
      expect(checksumsEqual).toBe(true);
      expect(complaints).toEqual([]);
      // Each session of the silent side has at most one row in flight at the cut (docs/safety.md).
      for (const row of lost) {
        expect(inside).toContain(row.server ?? "");
        expect(row.startMs).toBeLessThan(toMs);
        expect(row.endMs).toBeLessThan(toMs + IN_FLIGHT_MS);
      }
      expect(new Set(lost.map(({ writer }) => writer)).size).toBe(lost.length);
    },
    TEST_MS,
  );
});

describe.skipIf(unable)("the steps of an eviction, with a pause and a heal between them", () => {
  test(
    "make no second Primary: granted, then its watchdogs stand still while the link heals",
    async () => {
      const writers = await startWriters(minded, "paused");
      await untilWrites(minded, { writer: "paused", fromMs: 0, when: "before" });
      const views = watchViews(minded.lab);
      const paused: LabProcess[] = [];
      try {
        const opened = grants().length;
        await minded.cutLink();
        await until("one side has a grant", () => grants().length > opened, {
          timeoutMs: 30_000,
          pauseMs: 1,
        });
        // Somewhere between the order and its last effect: where exactly, this test does not choose.
        for (const host of minded.serversOf(grants().at(-1) ?? "")) {
          const minder = minded.minder(host);
          minder.kill("SIGSTOP");
          paused.push(minder);
        }
        await Bun.sleep(1_000);
        await minded.lab.network.heal();
        await Bun.sleep(1_500);
        for (const minder of paused) minder.kill("SIGCONT");
        paused.length = 0;
        await untilWrites(minded, { writer: "paused", fromMs: wallMs(), when: "afterwards" });
        await minded.untilSummary("all serve in one view", isWhole, 90_000);
        expect(views.found).toEqual([]);
        await untilWrites(minded, { writer: "paused", fromMs: wallMs(), when: "at the end" });
        const { lost, complaints } = await examine(minded, writers);
        expect(complaints).toEqual([]);
        // Both sides were heard when one was chosen: the one that had more.
        expect(lost).toEqual([]);
      } finally {
        for (const minder of paused) minder.kill("SIGCONT");
        await views.stop();
      }
    },
    TEST_MS,
  );

  /** Segments that were granted an epoch so far, by the arbitrator's log. */
  function grants(): readonly string[] {
    const log = readFileSync(minded.minder("arb").logFile, "utf8");
    return log
      .split("\n")
      .filter((line) => line.includes('"event":"epoch_opened"'))
      .map((line) => String((JSON.parse(line) as { readonly segment: string }).segment));
  }
});
