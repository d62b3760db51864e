/**
 * Applications through real balancers of a real cluster, while its writer is drained and crashes; and
 * a HAProxy that nobody minds, which asks the watchdogs' health endpoints by itself. What is demanded
 * holds on a busy machine too; `just bench-moves` holds the same moves to their milliseconds.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { haproxyConfig } from "../../lib/balancer_config.ts";
import { STEADY_MS } from "../../lib/core/dbclient_policy.ts";
import { ask, parseControlAddress } from "../../lib/effects/control_socket.ts";
import { until } from "../../lib/lab/exec.ts";
import { wallMs } from "../../lib/lab/journal.ts";
import type { Minded } from "../../lib/lab/minded.ts";
import {
  describeCrash,
  describeDrain,
  describeWeights,
  IDLE,
  Moves,
  medianOf,
  openForMoves,
} from "../../lib/lab/moves.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { HAPROXY } from "../support/haproxy.ts";
import { say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-clients";
setDefaultTimeout(180_000);
const BUSY_MS = 60_000;
/** Half of what Galera takes to give up on a server by its own default. */
const LONG_BEFORE_GALERA_MS = 2_500;

let minded: Minded;
let watched: WatchedLab;
let moves: Moves;

beforeAll(async () => {
  if (unable) return;
  minded = await openForMoves(LAB);
  watched = new WatchedLab(minded);
  moves = new Moves(minded);
  try {
    await minded.start();
  } catch (error) {
    await minded.down();
    throw error;
  }
}, 180_000);

afterAll(async () => {
  if (!unable) await watched.down();
}, 60_000);

/** What a person on that host is shown of its balancer. */
function shown(host: string): string {
  const script = join(import.meta.dir, "../../scripts/status.ts");
  const words = ["--config", minded.configPath, "--here"];
  const enter = minded.lab.network.enter(host);
  const done = Bun.spawnSync([...enter, process.execPath, script, ...words], { timeout: 30_000 });
  return done.stdout.toString() + done.stderr.toString();
}

async function expectNothingLost(): Promise<void> {
  for (const { name } of minded.config.servers) {
    expect((await minded.lab.checkRows(name)).missing).toEqual([]);
  }
}

describe.skipIf(unable)("a HAProxy without a minder", () => {
  test("follows the watchdogs' health endpoints: the writer's, and weights by agent-check", async () => {
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
      const signal = AbortSignal.timeout(10_000);
      const reply = await ask(parseControlAddress(socket), `show stat ${backend} 4 -1\n`, {
        signal,
      });
      const rows = reply.split("\n").filter((line) => line.startsWith(`${backend},`));
      return rows.map((line) => `${line.split(",")[1]}=${line.split(",")[column]}`).join(" ");
    };
    const [STATUS, WEIGHT] = [17, 18];
    try {
      await moves.write(host, "minded", { sessionPerRow: true });
      const writer = moves.lastServer("minded") ?? "";
      await until(
        "only the writer that the minders have agreed on is up",
        async () => {
          const shown = (await stat("galera", STATUS).catch(() => "")).split(" ");
          const down = shown.filter((one) => one.endsWith("=DOWN"));
          return down.length === 3 && shown.includes(`${writer}=UP`);
        },
        { timeoutMs: BUSY_MS },
      );
      await moves.write(host, "unminded", { sessionPerRow: true, port: 3307 });
      expect(moves.lastServer("unminded")).toBe(writer);
      const at = wallMs();
      await moves.order("drain", writer);
      await until(
        "agents say weight 0",
        async () => (await stat("agents", WEIGHT)).includes(`${writer}=0`),
        { timeoutMs: BUSY_MS, pauseMs: 5 },
      );
      say(`unminded: agent's weight after ${Math.round(wallMs() - at)} ms`);
      await until("rows go elsewhere", () => moves.lastServer("unminded") !== writer, {
        timeoutMs: BUSY_MS,
      });
      say(`unminded: rows elsewhere after ${Math.round(wallMs() - at)} ms`);
      await moves.order("undrain", writer);
      await until(
        "agents give the weight back",
        async () => (await stat("agents", WEIGHT)).includes(`${writer}=100`),
        { timeoutMs: BUSY_MS },
      );
    } finally {
      await moves.endWriters();
      await haproxy.stop();
    }
  });
});

describe.skipIf(unable)("balancers that are minded", () => {
  test("a drained writer keeps its sessions, new ones go elsewhere at once, and nothing is lost", async () => {
    // Each minder counts by itself for how long a server has been fit. Until all have been, for both,
    // the two may choose differently at the same moment, and agree only for the sessions after.
    await Bun.sleep(STEADY_MS + LONG_BEFORE_GALERA_MS);
    const drained = await moves.drain();
    say(describeDrain(drained));
    const { writer, atMs, gaps, elsewhereMs } = drained;
    // Its sessions are counted down where they may stay, and gone where their time is over.
    expect(shown("app1")).toMatch(
      new RegExp(`^${writer} +drain +drain +[4-9] .*, its sessions end in their own time$`, "m"),
    );
    expect(shown("app2")).toMatch(
      new RegExp(`^${writer} +drain +drain +0 .*no session is left$`, "m"),
    );
    // No cut, no error: in use or idle, their sessions are as they were.
    for (const name of ["pooled", ...IDLE]) {
      expect(moves.failedSince(name, atMs)).toEqual([]);
      expect(moves.lastServer(name)).toBe(writer);
    }
    expect(moves.failedSince("short", atMs)).toEqual([]);
    // The cut one has lost at most the row that was under way, and went on at its first retry.
    expect(moves.failedSince("cut", atMs).length).toBeLessThanOrEqual(1);
    expect(Math.max(elsewhereMs, ...Object.values(gaps))).toBeLessThan(LONG_BEFORE_GALERA_MS);
    const moved = moves.lastServer("short");
    expect(moves.lastServer("cut")).toBe(moved);
    await moves.order("undrain", writer);
    await Bun.sleep(1_500);
    expect([moves.lastServer("short"), moves.lastServer("cut")]).toEqual([moved, moved]);
    await moves.endWriters();
    await expectNothingLost();
  });

  test("what the watchdog knows is in the balancer's weights at once, not at the next full pass", async () => {
    const took = await moves.knowledgeToWeight(10);
    say(describeWeights(took));
    expect(medianOf(took)).toBeLessThan(minded.config.timing.reconcileIntervalMs / 2);
  });

  test("after a crash of the writer new connections go elsewhere long before Galera has noticed it", async () => {
    const crash = await moves.crash();
    say(describeCrash(crash));
    expect(Math.max(crash.lastBadMs, crash.firstGoodMs)).toBeLessThan(LONG_BEFORE_GALERA_MS);
    await watched.healthy();
    expect(moves.lastServer("after")).not.toBe(crash.server);
    await moves.endWriters();
    await expectNothingLost();
  });
});
