import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { Applied } from "../../lib/core/dbclient.ts";
import type { Place, Target } from "../../lib/core/dbclient_policy.ts";
import { type Reconciler, startReconciler } from "../../lib/effects/balancer.ts";
import { createHaproxy } from "../../lib/effects/haproxy.ts";
import {
  type ClientConnection,
  freePort,
  HaproxyFixture,
  type HaproxyFixtureOptions,
  hasHaproxy,
  NamedServer,
  namesThrough,
  openThrough,
  until,
} from "../support/haproxy.ts";

const UP: Place = { as: "up", weight: 100 };
const DRAIN: Place = { as: "drain" };
const OUT: Place = { as: "out" };

describe.skipIf(!hasHaproxy)("a real HAProxy", () => {
  let servers: NamedServer[] = [];
  let haproxy: HaproxyFixture | null = null;
  let reconciler: Reconciler | null = null;
  let results: Applied[] = [];
  const open: ClientConnection[] = [];

  beforeAll(async () => {
    servers = await Promise.all(["a1", "a2", "b1"].map((name) => NamedServer.start(name)));
  });
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.end();
    await reconciler?.stop();
    await haproxy?.stop();
    reconciler = null;
    haproxy = null;
  });
  afterAll(async () => {
    for (const server of servers) await server.stop();
  });

  async function start(options: Partial<HaproxyFixtureOptions> = {}): Promise<HaproxyFixture> {
    haproxy = await HaproxyFixture.start({ servers, ...options });
    return haproxy;
  }

  function reconcile(
    fixture: HaproxyFixture,
    socket = fixture.socket,
    passTimeoutMs = 20_000,
  ): void {
    results = [];
    reconciler = startReconciler({
      balancer: createHaproxy({ socket, backend: fixture.backend }),
      passTimeoutMs,
      now: () => performance.now(),
      onApplied: (result) => results.push(result),
    });
  }

  function target(...places: readonly Place[]): Target {
    return servers.map(({ name, port }, index) => ({
      name,
      host: "127.0.0.1",
      port,
      place: places[index] ?? OUT,
      because: "",
    }));
  }

  async function pass(wish: Target, cut: readonly string[] = []): Promise<Applied> {
    const before = results.length;
    reconciler?.want(wish, cut);
    await until("the pass ends", () => results.length > before);
    const result = results.at(-1);
    if (result === undefined) throw new Error("no result");
    return result;
  }

  async function connectTo(fixture: HaproxyFixture, name: string): Promise<ClientConnection> {
    for (let tries = 0; tries < 20; tries++) {
      const connection = await openThrough(fixture.port);
      open.push(connection);
      if (connection.name === name) return connection;
    }
    throw new Error(`nobody led to ${name}`);
  }

  test("weights, drain and out are set, read back and obeyed, by unix socket and by TCP", async () => {
    const fixture = await start();
    for (const socket of [fixture.socket, fixture.tcpSocket]) {
      await reconciler?.stop();
      reconcile(fixture, socket);
      const result = await pass(target({ as: "up", weight: 37 }, DRAIN, OUT));
      expect(result.error).toBeNull();
      expect(result.actual.map(({ place }) => place)).toEqual(["up 37", "drain", "out"]);
      expect(await namesThrough(fixture.port)).toEqual(["a1"]);
      expect((await pass(target(DRAIN, OUT, UP))).error).toBeNull();
      expect(await namesThrough(fixture.port)).toEqual(["b1"]);
    }
  });

  test("a pass over a right table changes nothing", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, DRAIN, OUT));
    const again = await pass(target(UP, DRAIN, OUT));
    expect(again).toMatchObject({ error: null, changed: [], foreign: [], restarted: false });
  });

  test("a drained server keeps its sessions, a cut one loses them", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, UP, UP));
    const toA1 = await connectTo(fixture, "a1");
    const toA2 = await connectTo(fixture, "a2");
    const drained = await pass(target(DRAIN, UP, UP));
    expect(drained.actual.find(({ name }) => name === "a1")?.sessions).toBeGreaterThan(0);
    const cut = await pass(target(OUT, UP, UP), ["a1"]);
    expect(cut.error).toBeNull();
    expect(cut.actual.find(({ name }) => name === "a1")?.sessions).toBe(0);
    await until("the client of a1 sees the end", toA1.closed);
    expect(toA2.closed()).toBe(false);
  });

  test("an edit by hand is put right and reported", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, DRAIN, DRAIN));
    await fixture.ask("set server galera/a1 weight 7");
    await fixture.ask("set server galera/b1 state ready");
    const result = await pass(target(UP, DRAIN, DRAIN));
    expect(result.error).toBeNull();
    expect(result.foreign).toEqual(["a1: up 100 -> up 7", "b1: drain -> up 1"]);
    expect(result.actual.map(({ place }) => place)).toEqual(["up 100", "drain", "drain"]);
  });

  test("a person's maintenance is left alone, also by a minder that has just started", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, UP, OUT));
    await fixture.ask("set server galera/a2 state maint");
    expect(await pass(target(UP, UP, OUT))).toMatchObject({ error: null, held: ["a2"] });
    await reconciler?.stop();
    reconcile(fixture);
    const fresh = await pass(target(UP, UP, UP));
    expect(fresh).toMatchObject({ error: null, held: ["a2"] });
    // b1 was put out by the minder before: the weight of 0 says so, and it comes back.
    expect(fresh.actual.map(({ place }) => place)).toEqual(["up 100", "maintenance", "up 100"]);
    await fixture.ask("set server galera/a2 state ready");
    expect(await pass(target(UP, DRAIN, UP))).toMatchObject({ error: null, held: [] });
    // Its place was decided while it was held; from the next pass on it counts again.
    expect((await pass(target(UP, UP, UP))).actual[1]?.place).toBe("up 100");
  });

  test("a server is not drained while none of those that shall take over takes any", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, DRAIN, OUT));
    const old = await connectTo(fixture, "a1");
    // The backend does not have the one that is to take over.
    const ghost = { name: "ghost", host: "127.0.0.1", port: 1, place: UP, because: "" };
    const wish = [...target(DRAIN, DRAIN, OUT), ghost];
    const kept = await pass(wish, ["a1"]);
    expect(kept.error).toContain("a1 is up 100 though drain was asked for");
    expect(kept.error).toContain("ghost is not in its table");
    expect(kept.error).toContain("nothing else would take connections");
    expect([kept.actual[0]?.place, old.closed()]).toEqual(["up 100", false]);
    // Or a person has taken that one out of service meanwhile.
    await fixture.ask("set server galera/a2 state maint");
    const held = await pass(target(DRAIN, UP, OUT));
    expect(held).toMatchObject({ held: ["a2"] });
    expect(held.actual[0]?.place).toBe("up 100");
    expect(await namesThrough(fixture.port)).toEqual(["a1"]);
    // One that is bad goes out whatever else there is, and an order to drain all is obeyed.
    expect((await pass([...target(OUT, DRAIN, OUT), ghost])).actual[0]?.place).toBe("out");
    await pass(target(UP, DRAIN, OUT));
    expect((await pass(target(DRAIN, DRAIN, OUT))).actual[0]?.place).toBe("drain");
  });

  test("a server that an agent-check steers as well is named", async () => {
    const fixture = await start({ serverWords: "agent-check agent-port 1 agent-inter 60s" });
    reconcile(fixture);
    const { oddities } = await pass(target(UP, UP, UP));
    expect(oddities).toContain("a1 has an agent-check, which undoes what is set here");
    expect(oddities).toHaveLength(3);
  });

  test("a reload is noticed and repaired, with a state file and without", async () => {
    for (const stateFile of [false, true]) {
      const fixture = await start({ stateFile });
      reconcile(fixture);
      await pass(target({ as: "up", weight: 50 }, OUT, DRAIN));
      await fixture.reload();
      const result = await pass(target({ as: "up", weight: 50 }, OUT, DRAIN));
      expect(result).toMatchObject({ error: null, restarted: true, foreign: [], held: [] });
      expect(result.actual.map(({ place }) => place)).toEqual(["up 50", "out", "drain"]);
      expect(result.changed.length > 0).toBe(!stateFile);
      await reconciler?.stop();
      await fixture.stop();
    }
  });

  test("a balancer that is killed is an error, and right again at the first pass after its return", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, OUT, OUT));
    await fixture.kill();
    expect((await pass(target(UP, OUT, OUT))).error).toContain("haproxy");
    await fixture.run();
    const back = await pass(target(UP, OUT, OUT));
    expect(back).toMatchObject({ error: null, restarted: true });
    expect(await namesThrough(fixture.port)).toEqual(["a1"]);
  });

  test("a frozen balancer costs one bounded pass and then obeys", async () => {
    const fixture = await start();
    reconcile(fixture, fixture.socket, 1_000);
    await pass(target(UP, OUT, OUT));
    await fixture.freeze();
    const frozen = await pass(target(OUT, UP, OUT));
    expect(frozen.error).toContain("no reply in time");
    expect(frozen.tookMs).toBeLessThan(10_000);
    fixture.thaw();
    expect((await pass(target(OUT, UP, OUT))).error).toBeNull();
    expect(await namesThrough(fixture.port)).toEqual(["a2"]);
  });

  test("sticky sessions do not reach a server that is out", async () => {
    const fixture = await start({
      backendLines: ["stick-table type ip size 10", "stick on src"],
    });
    reconcile(fixture);
    await pass(target(UP, DRAIN, DRAIN));
    expect(await namesThrough(fixture.port)).toEqual(["a1"]);
    await pass(target(OUT, UP, DRAIN));
    expect(await namesThrough(fixture.port)).toEqual(["a2"]);
  });

  test("a backend that takes no weights is steered by all or nothing", async () => {
    const fixture = await start({ balance: "source" });
    reconcile(fixture);
    const result = await pass(target({ as: "up", weight: 40 }, DRAIN, OUT));
    expect(result.error).toBeNull();
    expect(result.actual.map(({ place }) => place)).toEqual(["up", "drain", "out"]);
    await reconciler?.stop();
    reconcile(fixture);
    expect((await pass(target(OUT, DRAIN, UP))).error).toBeNull();
    expect(await namesThrough(fixture.port)).toEqual(["b1"]);
  });

  test("what is wrong with a backend is said by name", async () => {
    const fixture = await start({
      servers: [...servers.slice(0, 2), { name: "stranger", port: servers[0]?.port ?? 0 }],
    });
    reconcile(fixture);
    const result = await pass(
      target(UP, UP, UP).map((placed) => (placed.name === "a2" ? { ...placed, port: 1 } : placed)),
    );
    expect(result.error).toContain("b1 is not in its table");
    expect(result.oddities.join("; ")).toMatch(
      /a2 points to port \d+, the config says 1; stranger is in the backend/,
    );
    await reconciler?.stop();
    reconciler = startReconciler({
      balancer: createHaproxy({ socket: fixture.socket, backend: "nowhere" }),
      passTimeoutMs: 20_000,
      now: () => performance.now(),
      onApplied: (one) => results.push(one),
    });
    expect((await pass(target(UP))).error).toContain("there is no backend nowhere");
  });

  test("an operator's socket is refused with what to do", async () => {
    const fixture = await start({ level: "operator" });
    reconcile(fixture);
    expect((await pass(target(OUT, UP, UP))).error).toContain("permission denied");
  });

  test("sixty-four servers are set in one pass", async () => {
    const many = Array.from({ length: 64 }, (_, index) => ({
      name: `server-with-a-rather-long-name-in-some-data-centre-${index}`,
      port: servers[0]?.port ?? 0,
    }));
    const fixture = await start({ servers: many });
    reconcile(fixture);
    const wish: Target = many.map((server, index) => ({
      ...server,
      host: "127.0.0.1",
      place: index === 0 ? UP : index % 2 === 0 ? DRAIN : OUT,
      because: "",
    }));
    const result = await pass(wish);
    expect(result.error).toBeNull();
    expect(result.changed).toHaveLength(63);
  });

  test("moving the writer shows in the first new connection, 50 times in a row", async () => {
    const fixture = await start();
    reconcile(fixture);
    await pass(target(UP, DRAIN, DRAIN));
    for (let index = 0; index < 50; index++) {
      await new Promise<void>((resolve) => {
        const seen = results.length;
        reconciler?.want(index % 2 === 0 ? target(DRAIN, UP, DRAIN) : target(UP, DRAIN, DRAIN), []);
        const look = (): void => {
          if (results.length > seen) resolve();
          else setImmediate(look);
        };
        look();
      });
      expect(await namesThrough(fixture.port, 1)).toEqual([index % 2 === 0 ? "a2" : "a1"]);
    }
  });
});

test("an address that is none is refused at once", async () => {
  for (const socket of ["", "run/x.sock", "host", "host:0", "host:70000", "host:1x", "a b:1"]) {
    expect(() => createHaproxy({ socket, backend: "b" })).toThrow("control socket");
  }
  expect(() => createHaproxy({ socket: "/x", backend: "b;shutdown" })).toThrow("backend name");
  const port = await freePort();
  const nobody = createHaproxy({ socket: `127.0.0.1:${port}`, backend: "b" });
  await expect(nobody.read([], AbortSignal.timeout(20_000))).rejects.toThrow();
});
