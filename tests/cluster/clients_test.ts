/**
 * Applications through real balancers of a real cluster, while its writer is drained and crashes; and
 * a HAProxy that nobody minds, which asks the watchdogs' health endpoints by itself.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { haproxyConfig } from "../../lib/balancer_config.ts";
import { askArbitrator } from "../../lib/effects/ask.ts";
import { ask, parseControlAddress } from "../../lib/effects/control_socket.ts";
import { doorAfter, readKnocks } from "../../lib/lab/door.ts";
import { until } from "../../lib/lab/exec.ts";
import { type Attempt, longestGap, wallMs } from "../../lib/lab/journal.ts";
import type { LabProcess } from "../../lib/lab/lab.ts";
import { type Minded, openMinded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { HAPROXY } from "../support/haproxy.ts";
import { median, Pace } from "../support/pace.ts";
import { say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-clients";
const TEST_MS = 60_000;
/** Sessions to a drained server are cut after this on app2; on app1 never. */
const CUT_MS = 1_000;
/** Calm is looked at for about as long as the change. */
const CALM_MS = 2_000;
/**
 * The bounds of a calm machine. On a busy one each figure is held to a few times of what the same
 * machine, in the same run, does to something that nothing happens to; both are printed.
 */
const GAP_MAX_MS = 50;
const GAP_TIMES = 3;
const WEIGHT_MAX_MS = 20;
/** A message, a pass of three round trips, and two lines of a log, each in another process. */
const WEIGHT_TIMES = 20;
const CRASH_MAX_MS = 100;
const CRASH_TIMES = 10;
/** For so long new connections are watched after a crash; the last second may still be under way. */
const DOOR_MS = 3_000;

let minded: Minded;
let watched: WatchedLab;
const writers: LabProcess[] = [];

beforeAll(async () => {
  if (unable) return;
  minded = await openMinded(LAB, {
    client: ({ name }) => (name === "app2" ? [`drain_cut_ms = ${CUT_MS}`] : []),
  });
  watched = new WatchedLab(minded);
  await minded.start();
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

/** Longest stretch without an acknowledged row of each of these writers, in a window. */
function longestGaps(
  names: readonly string[],
  fromMs: number,
  toMs: number,
): Readonly<Record<string, number>> {
  return Object.fromEntries(
    names.map((name) => {
      const gap = longestGap(minded.lab.journal(name), fromMs, toMs);
      return [name, Math.round(gap?.lengthMs ?? Number.POSITIVE_INFINITY)];
    }),
  );
}

/** Starts a writer through the balancer of that host and waits for its first row. */
async function write(
  host: string,
  name: string,
  options: { intervalMs?: number; sessionPerRow?: boolean; port?: number } = {},
): Promise<void> {
  writers.push(minded.lab.startApp(host, { name, ...options }));
  await until(`${name} writes`, () => lastServer(name) !== null, { timeoutMs: 5_000 });
}

async function endWriters(): Promise<void> {
  await Promise.all(writers.splice(0).map((writer) => writer.stop()));
}

/** Where the latest acknowledged row of that writer went. */
function lastServer(name: string): string | null {
  return (
    minded.lab.journal(name).findLast(({ outcome }) => outcome === "acknowledged")?.server ?? null
  );
}

function since(name: string, atMs: number): readonly Attempt[] {
  return minded.lab.journal(name).filter(({ startMs }) => startMs >= atMs);
}

function failed(attempts: readonly Attempt[]): readonly Attempt[] {
  return attempts.filter(({ outcome }) => outcome !== "acknowledged");
}

/** What a person on that host is shown of its balancer. */
function shown(host: string): string {
  const script = join(import.meta.dir, "../../scripts/status.ts");
  const words = ["--config", minded.configPath, "--here"];
  const enter = minded.lab.network.enter(host);
  const done = Bun.spawnSync([...enter, process.execPath, script, ...words], { timeout: 5_000 });
  return done.stdout.toString() + done.stderr.toString();
}

async function order(verb: "drain" | "undrain", node: string): Promise<void> {
  const reply = await askArbitrator(
    { verb, parameters: { who: "test", why: "test", node } },
    { config: minded.config, timeoutMs: 2_000 },
  );
  expect(reply).toMatchObject({ verb: "ack", parameters: { outcome: "ok" } });
}

/** Wall milliseconds of the events of that name in a minder's log, from a moment on. */
function times(host: string, event: string, fromMs: number): readonly number[] {
  return watched
    .events(host)
    .filter((line) => line["event"] === event)
    .map((line) => Date.parse(String(line["time"])))
    .filter((at) => at >= Math.floor(fromMs));
}

describe.skipIf(unable)("a HAProxy without a minder", () => {
  test(
    "follows the watchdogs' health endpoints: the writer's, and weights by agent-check",
    async () => {
      const host = "app1";
      const socket = join(minded.lab.directory, host, "unminded.sock");
      const options = { client: null, minded: "no", listen: "127.0.0.1:3307" } as const;
      const text = haproxyConfig(minded.config, options).replace(
        /stats socket \S+/,
        `stats socket ${socket}`,
      );
      const servers = minded.config.servers.map(
        (server) =>
          `    server ${server.name} ${server.host}:${server.mysqlPort} weight 100 agent-check agent-port ${server.agentPort} agent-inter 100ms`,
      );
      const file = join(minded.lab.directory, host, "unminded.cfg");
      writeFileSync(file, `${text}\nbackend agents\n${servers.join("\n")}\n`);
      const haproxy = minded.lab.start(host, [HAPROXY, "-db", "-f", file], { name: "unminded" });
      const stat = async (backend: string, column: number): Promise<string> => {
        const signal = AbortSignal.timeout(1_000);
        const reply = await ask(parseControlAddress(socket), `show stat ${backend} 4 -1\n`, {
          signal,
        });
        const rows = reply.split("\n").filter((line) => line.startsWith(`${backend},`));
        return rows.map((line) => `${line.split(",")[1]}=${line.split(",")[column]}`).join(" ");
      };
      const [STATUS, WEIGHT] = [17, 18];
      try {
        await write(host, "minded", { sessionPerRow: true });
        const writer = lastServer("minded") ?? "";
        await until(
          "only the writer that the minders have agreed on is up",
          async () => {
            const shown = (await stat("galera", STATUS).catch(() => "")).split(" ");
            const down = shown.filter((one) => one.endsWith("=DOWN"));
            return down.length === 3 && shown.includes(`${writer}=UP`);
          },
          { timeoutMs: 10_000 },
        );
        await write(host, "unminded", { sessionPerRow: true, port: 3307 });
        expect(lastServer("unminded")).toBe(writer);
        const at = wallMs();
        await order("drain", writer);
        await until(
          "agents say weight 0",
          async () => (await stat("agents", WEIGHT)).includes(`${writer}=0`),
          { timeoutMs: 3_000, pauseMs: 5 },
        );
        say(`unminded: agent's weight after ${Math.round(wallMs() - at)} ms`);
        await until("rows go elsewhere", () => lastServer("unminded") !== writer, {
          timeoutMs: 10_000,
        });
        say(`unminded: rows elsewhere after ${Math.round(wallMs() - at)} ms`);
        await order("undrain", writer);
        await until(
          "agents give the weight back",
          async () => (await stat("agents", WEIGHT)).includes(`${writer}=100`),
          { timeoutMs: 3_000 },
        );
      } finally {
        await endWriters();
        await haproxy.stop();
      }
    },
    TEST_MS,
  );
});

describe.skipIf(unable)("balancers that are minded", () => {
  test(
    "a drained writer keeps its sessions, new ones go elsewhere at once, and nothing is lost",
    async () => {
      await write("app1", "pooled");
      await write("app1", "short", { sessionPerRow: true });
      for (const name of ["idle1", "idle2", "idle3"]) {
        await write("app1", name, { intervalMs: 3_000 });
      }
      await write("app2", "cut");
      const writer = lastServer("short") ?? "";
      expect([lastServer("pooled"), lastServer("cut")]).toEqual([writer, writer]);
      // What this machine does to writers that nothing happens to.
      const calmFrom = wallMs();
      await Bun.sleep(CALM_MS);
      const calm = longestGaps(["pooled", "short", "cut"], calmFrom, wallMs());
      const at = wallMs();
      await order("drain", writer);
      await until("the cut writer has moved", () => lastServer("cut") !== writer, {
        timeoutMs: 5_000,
      });
      await until("the idle sessions have written again", () => since("idle3", at).length > 0, {
        timeoutMs: 5_000,
      });
      const elsewhere = since("short", at).find(({ server }) => server !== writer);
      const end = wallMs();
      const gaps = longestGaps(["pooled", "short", "cut"], at, end - 100);
      say(
        `drain: new sessions elsewhere after ${Math.round((elsewhere?.startMs ?? 0) - at)} ms, ` +
          `longest gaps in ms ${JSON.stringify(gaps)}, in calm ${JSON.stringify(calm)}`,
      );
      // Its sessions are counted down where they may stay, and gone where their time is over.
      expect(shown("app1")).toMatch(
        new RegExp(`^${writer} +drain +drain +[4-9] .*, its sessions end in their own time$`, "m"),
      );
      expect(shown("app2")).toMatch(
        new RegExp(`^${writer} +drain +drain +0 .*no session is left$`, "m"),
      );
      // No cut, no error: in use or idle, their sessions are as they were.
      for (const name of ["pooled", "idle1", "idle2", "idle3"]) {
        expect(failed(since(name, at))).toEqual([]);
        expect(lastServer(name)).toBe(writer);
      }
      expect(failed(since("short", at))).toEqual([]);
      // The cut one has lost at most the row that was under way, and went on at its first retry.
      const retried = failed(since("cut", at));
      expect(retried.length).toBeLessThanOrEqual(1);
      // The pooled one goes on as before: what it met was the machine's doing.
      const reference = Math.max(...Object.values(calm), gaps["pooled"] ?? 0);
      expect(Math.max(...Object.values(gaps))).toBeLessThanOrEqual(
        Math.max(GAP_MAX_MS, GAP_TIMES * reference),
      );
      const moved = lastServer("short");
      await order("undrain", writer);
      await Bun.sleep(1_500);
      expect([lastServer("short"), lastServer("cut")]).toEqual([moved, moved]);
      await endWriters();
      for (const { name } of minded.config.servers) {
        expect((await minded.lab.checkRows(name)).missing).toEqual([]);
      }
    },
    TEST_MS,
  );

  test(
    "from the watchdog's knowledge to the balancer's changed weight: the median of 50 is under 20 ms",
    async () => {
      await using pace = await Pace.start();
      await write("app1", "mover", { sessionPerRow: true, intervalMs: 20 });
      const took: number[] = [];
      for (let index = 0; index < 50; index++) {
        const writer = lastServer("mover") ?? "";
        const at = wallMs();
        await order("drain", writer);
        await until("rows go elsewhere", () => lastServer("mover") !== writer, {
          timeoutMs: 3_000,
          pauseMs: 5,
        });
        const changed = (): number | undefined => times("app1", "balancer_changed", at)[0];
        await until("the minder says so", () => changed() !== undefined, {
          timeoutMs: 3_000,
          pauseMs: 5,
        });
        const [known = 0] = times(writer, "draining", at);
        took.push((changed() ?? 0) - known);
        await pace.trip();
        await order("undrain", writer);
        await until("it is undrained", () => times(writer, "drain_ended", at).length > 0, {
          timeoutMs: 3_000,
          pauseMs: 5,
        });
      }
      await endWriters();
      took.sort((a, b) => a - b);
      say(
        `knowledge to weight, ms: median ${took[25]}, 90% ${took[45]}, worst ${took[49]}; ` +
          `three plain round trips ${pace.medianMs.toFixed(1)}`,
      );
      expect(took[25]).toBeLessThan(pace.boundMs(WEIGHT_MAX_MS, WEIGHT_TIMES));
    },
    TEST_MS,
  );

  test(
    "after a crash of the writer new connections go elsewhere within 100 ms",
    async () => {
      await write("app1", "after", { sessionPerRow: true });
      writers.push(minded.lab.startKnocking("app1", { name: "door" }));
      const knocks = () => readKnocks(minded.lab.knocksFile("door"));
      await until("connections are made", () => knocks().length > 20, { timeoutMs: 5_000 });
      const server = lastServer("after") ?? "";
      // How long a new connection takes on this machine while nothing happens.
      const calm = median(knocks().map(({ startMs, endMs }) => endMs - startMs));
      const fromMs = wallMs();
      process.kill(watched.pid(server), "SIGKILL");
      await until("it was seen for a while", () => wallMs() - fromMs > DOOR_MS, {
        timeoutMs: 2 * DOOR_MS,
      });
      const door = doorAfter(knocks(), { server, fromMs, toMs: fromMs + DOOR_MS - 1_000 });
      await until("rows go elsewhere", () => lastServer("after") !== server, { timeoutMs: 15_000 });
      const gap = longestGap(minded.lab.journal("after"), fromMs, wallMs());
      say(
        `crash: the last connection that failed began after ${Math.round(door.lastBadMs)} ms, ` +
          `the first one elsewhere was open after ${Math.round(door.firstGoodMs)} ms, ` +
          `${door.bad} of ${door.attempts} failed; ${Math.round(gap?.lengthMs ?? 0)} ms without a row; ` +
          `in calm a connection takes ${calm.toFixed(1)} ms`,
      );
      const bound = Math.max(CRASH_MAX_MS, CRASH_TIMES * calm);
      expect(door.lastBadMs).toBeLessThan(bound);
      // It was opened by then, and had to be made.
      expect(door.firstGoodMs).toBeLessThan(bound + CRASH_TIMES * calm);
      await watched.healthy();
      expect(lastServer("after")).not.toBe(server);
      await endWriters();
      for (const { name } of minded.config.servers) {
        expect((await minded.lab.checkRows(name)).missing).toEqual([]);
      }
    },
    TEST_MS,
  );
});
