/**
 * The client side as one: reports in, the core's decisions, the reconciler, and a real HAProxy with
 * the configuration that `just balancer-config` prints.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { haproxyConfig } from "../lib/balancer_config.ts";
import type { DbClientConfig } from "../lib/cluster_config.ts";
import { createBalancer } from "../lib/effects/balancers.ts";
import { clientCluster } from "./support/client_cluster.ts";
import {
  type ClientConnection,
  freePort,
  HAPROXY,
  hasHaproxy,
  NamedServer,
  namesThrough,
  openThrough,
  until,
} from "./support/haproxy.ts";
import { LoneMinder } from "./support/lone_minder.ts";
import { makeScratch, removeScratch } from "./support/scratch.ts";

const NAMES = ["a1", "a2", "b1", "b2"];

describe.skipIf(!hasHaproxy)("a client minder and HAProxy as we configure it", () => {
  let servers: NamedServer[] = [];
  let stops: (() => Promise<void>)[] = [];
  const open: ClientConnection[] = [];

  beforeAll(async () => {
    servers = await Promise.all(NAMES.map((name) => NamedServer.start(name)));
  });
  afterAll(async () => {
    for (const server of servers) await server.stop();
  });
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.end();
    for (const stop of stops.reverse()) await stop();
    stops = [];
  });

  async function start(policy: DbClientConfig["policy"]): Promise<{
    port: number;
    minder: () => LoneMinder;
    restart: () => Promise<void>;
  }> {
    const directory = makeScratch("follows");
    const port = await freePort();
    const config = clientCluster({
      addresses: Object.fromEntries(
        servers.map((server) => [server.name, { host: "127.0.0.1", port: server.port }]),
      ),
      client: {
        policy,
        balancer: { kind: "haproxy", socket: join(directory, "admin.sock"), backend: "galera" },
      },
    });
    const [client] = config.clients;
    if (client === undefined) throw new Error("no client");
    const file = join(directory, "haproxy.cfg");
    writeFileSync(
      file,
      haproxyConfig(config, { client: null, listen: `127.0.0.1:${port}`, minded: "yes" }),
    );
    let child: Bun.Subprocess | null = null;
    const run = async (): Promise<void> => {
      child = Bun.spawn([HAPROXY, "-db", "-f", file], { stdout: "ignore", stderr: "ignore" });
      await until("HAProxy serves", async () => {
        const connection = await openThrough(port).catch(() => null);
        connection?.end();
        return connection !== null && connection.name !== "";
      });
    };
    const end = async (): Promise<void> => {
      child?.kill("SIGKILL");
      await child?.exited;
    };
    stops.push(async () => {
      await end();
      removeScratch(directory);
    });
    await run();
    const minder = (): LoneMinder => {
      const made = new LoneMinder(config, createBalancer(client.balancer));
      stops.push(() => made.stop());
      return made;
    };
    const restart = async (): Promise<void> => {
      await end();
      await run();
    };
    return { port, minder, restart };
  }

  test("before the minder has spoken only the first server serves, then whoever shall", async () => {
    const { port, minder } = await start("single-writer");
    expect(await namesThrough(port)).toEqual(["a1"]);
    const one = minder();
    // Standing by in the file or not: the order of succession decides.
    for (const [gone, writer] of [
      [["a1"], "a2"],
      [["a1", "a2"], "b1"],
      [["a1", "a2", "b1"], "b2"],
    ] as const) {
      for (const name of NAMES) {
        one.report(name, { fenced: (gone as readonly string[]).includes(name) });
      }
      await until(`${writer} writes`, async () => (await namesThrough(port, 2)).join() === writer);
    }
  });

  test("a planned move disturbs no session; a fence cuts them, and only there", async () => {
    const { port, minder } = await start("single-writer");
    const one = minder();
    for (const name of NAMES) one.report(name);
    await until("all is right", () => one.actual()[0] === "up 100");
    const old = await openThrough(port);
    open.push(old);
    one.report("a1", { draining: true });
    await until("a2 writes", async () => (await namesThrough(port, 1)).join() === "a2");
    const fresh = await openThrough(port);
    open.push(fresh);
    expect([old.name, old.closed(), fresh.name]).toEqual(["a1", false, "a2"]);
    one.report("a1", { fenced: true });
    await until("the old session is cut", old.closed);
    expect(fresh.closed()).toBe(false);
  });

  test("a restart of HAProxy is repaired within one period, without anybody's help", async () => {
    const { port, minder, restart } = await start("single-writer");
    const one = minder();
    one.report("a1", { fenced: true });
    for (const name of NAMES.slice(1)) one.report(name);
    await until("a2 writes", () => one.actual()[1] === "up 100");
    await restart();
    const keepTalking = setInterval(() => {
      one.report("a1", { fenced: true });
      for (const name of NAMES.slice(1)) one.report(name);
    }, 300);
    try {
      await until("a2 writes again", async () => (await namesThrough(port, 1)).join() === "a2");
    } finally {
      clearInterval(keepTalking);
    }
    await until("it is said", () => one.events.includes("balancer_restarted"));
  });

  test("every report that moves a server is applied by itself, before the next full pass", async () => {
    const MOVES = 20;
    const { port, minder } = await start("spread");
    const one = minder();
    for (const name of NAMES) one.report(name);
    await until("all is right", () => one.actual().every((place) => place === "up 100"));
    const startedAt = performance.now();
    for (let move = 0; move < MOVES; move++) {
      const draining = move % 2 === 0;
      for (const name of NAMES) one.report(name, name === "a2" ? { draining } : {});
      const wanted = draining ? "drain" : "up 100";
      await until(`a2 is ${wanted}`, () => one.actual()[1] === wanted);
    }
    expect(performance.now() - startedAt).toBeLessThan((MOVES * 2_000) / 2);
    expect((await namesThrough(port, 8)).length).toBe(4);
  });
});
