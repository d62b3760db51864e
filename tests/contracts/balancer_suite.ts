/**
 * What a client minder may rely on with any balancer: one suite, run on every driver. A rig starts
 * the balancer in front of named servers and says how its kind is edited, stopped and frozen.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { Applied } from "../../lib/core/dbclient.ts";
import type { Place, Target } from "../../lib/core/dbclient_policy.ts";
import { type Balancer, type Reconciler, startReconciler } from "../../lib/effects/balancer.ts";
import { clientCluster } from "../support/client_cluster.ts";
import {
  type ClientConnection,
  NamedServer,
  namesThrough,
  openThrough,
  until,
} from "../support/haproxy.ts";
import { LoneMinder } from "../support/lone_minder.ts";

/** A running balancer. */
export interface Rig {
  /** A driver as a freshly started minder makes it. */
  readonly driver: () => Balancer;
  /** Where clients connect. */
  readonly port: number;
  /** Sets a server's weight by hand, as a person would. */
  readonly edit: (server: NamedServer, weight: number) => Promise<void>;
  readonly kill: () => Promise<void>;
  /** Starts it again, with all that was set at run time forgotten. */
  readonly revive: () => Promise<void>;
  /** Reloads its configuration, with all that was set at run time forgotten; null where it cannot. */
  readonly reload: (() => Promise<void>) | null;
  /** Ends when it has stopped for sure. */
  readonly freeze: () => Promise<void>;
  readonly thaw: () => void;
  readonly stop: () => Promise<void>;
}

export interface Kind {
  readonly name: string;
  /** Its restart can be told from an edit. */
  readonly tellsRestarts: boolean;
  /** It can end sessions by itself. */
  readonly cuts: boolean;
  /** It can be reloaded. */
  readonly reloads: boolean;
  readonly start: (servers: readonly NamedServer[]) => Promise<Rig>;
}

const UP: Place = { as: "up", weight: 100 };
const DRAIN: Place = { as: "drain" };
const OUT: Place = { as: "out" };

/** A whole client minder's full passes are so far apart, and one of them may take so long. */
const PERIOD_MS = 1000;
const PASS_MS = 1500;

/** Runs the suite on one kind of balancer. */
export function balancerSuite(kind: Kind): void {
  describe(`${kind.name} keeps the balancer's contract:`, () => {
    let servers: NamedServer[] = [];
    let rig: Rig;
    let reconciler: Reconciler | null = null;
    let results: Applied[] = [];
    const open: ClientConnection[] = [];

    beforeAll(async () => {
      servers = await Promise.all(["a1", "a2", "b1"].map((name) => NamedServer.start(name)));
    });
    afterAll(async () => {
      for (const server of servers) await server.stop();
    });
    afterEach(async () => {
      for (const connection of open.splice(0)) connection.end();
      await reconciler?.stop();
      await rig.stop();
    });

    async function start(passTimeoutMs = 20_000): Promise<void> {
      rig = await kind.start(servers);
      minder(passTimeoutMs);
    }

    function minder(passTimeoutMs = 20_000): void {
      results = [];
      reconciler = startReconciler({
        balancer: rig.driver(),
        passTimeoutMs,
        now: () => performance.now(),
        onApplied: (result) => results.push(result),
      });
    }

    function target(...places: readonly Place[]): Target {
      return servers.map(({ name, port }, index) => {
        return { name, host: "127.0.0.1", port, place: places[index] ?? OUT, because: "" };
      });
    }

    async function pass(wish: Target, cut: readonly string[] = []): Promise<Applied> {
      const before = results.length;
      reconciler?.want(wish, cut);
      await until("the pass ends", () => results.length > before);
      const result = results[before];
      if (result === undefined) throw new Error("no result");
      return result;
    }

    async function hold(name: string): Promise<ClientConnection> {
      for (let tries = 0; tries < 30; tries++) {
        const connection = await openThrough(rig.port);
        open.push(connection);
        if (connection.name === name) return connection;
      }
      throw new Error(`no connection led to ${name}`);
    }

    test("what was asked for is read back and decides where new connections go", async () => {
      await start();
      for (let index = 0; index < servers.length; index++) {
        const wish = target(...servers.map((_, at) => (at === index ? UP : DRAIN)));
        const result = await pass(wish);
        expect(result.error).toBeNull();
        expect(result.actual.map(({ place }) => place?.startsWith("up"))).toEqual(
          servers.map((_, at) => at === index),
        );
        expect(await namesThrough(rig.port)).toEqual([servers[index]?.name ?? ""]);
      }
    });

    test("all places can be taken, in any order, again and again", async () => {
      await start();
      const places: readonly Place[] = [UP, { as: "up", weight: 1 }, DRAIN, OUT];
      for (let code = 0; code < places.length ** 3; code++) {
        const at = (power: number): Place =>
          places[Math.floor(((code * 37) % 64) / places.length ** power) % places.length] ?? OUT;
        const result = await pass(target(at(0), at(1), at(2)));
        expect(result).toMatchObject({ error: null, foreign: [], oddities: [], held: [] });
      }
    });

    test("a pass over a table that is right changes nothing", async () => {
      await start();
      await pass(target(UP, DRAIN, OUT));
      for (let again = 0; again < 3; again++) {
        expect(await pass(target(UP, DRAIN, OUT))).toMatchObject({
          error: null,
          changed: [],
          foreign: [],
          restarted: false,
        });
      }
    });

    test("weights share out held connections", async () => {
      await start();
      await pass(target({ as: "up", weight: 60 }, { as: "up", weight: 20 }, OUT));
      const count = new Map<string, number>();
      for (let index = 0; index < 40; index++) {
        const connection = await openThrough(rig.port);
        open.push(connection);
        count.set(connection.name, (count.get(connection.name) ?? 0) + 1);
      }
      expect(count.get("b1")).toBeUndefined();
      expect(count.get("a1")).toBeGreaterThanOrEqual(28);
      expect(count.get("a2")).toBeGreaterThanOrEqual(8);
    });

    test("draining keeps the sessions there are and counts them down", async () => {
      await start();
      await pass(target(UP, DRAIN, DRAIN));
      const first = await hold("a1");
      const second = await hold("a1");
      const drained = await pass(target(DRAIN, UP, DRAIN));
      expect(drained.actual[0]?.sessions).toBe(2);
      expect(first.closed()).toBe(false);
      expect(await namesThrough(rig.port)).toEqual(["a2"]);
      second.end();
      await until("one is left", async () => {
        return (await pass(target(DRAIN, UP, DRAIN))).actual[0]?.sessions === 1;
      });
    });

    test.skipIf(!kind.cuts)("cutting ends a server's sessions and no others", async () => {
      await start();
      await pass(target(UP, DRAIN, DRAIN));
      const toA1 = await hold("a1");
      await pass(target(DRAIN, UP, DRAIN));
      const toA2 = await hold("a2");
      const cut = await pass(target(OUT, UP, DRAIN), ["a1"]);
      expect(cut.error).toBeNull();
      expect(cut.actual[0]?.sessions).toBe(0);
      await until("the client sees the end", toA1.closed);
      expect(toA2.closed()).toBe(false);
      // Again, with nothing left to cut: nothing happens.
      expect(await pass(target(OUT, UP, DRAIN), ["a1"])).toMatchObject({
        error: null,
        changed: [],
      });
    });

    test("an edit by hand is put right and reported", async () => {
      await start();
      await pass(target(UP, UP, DRAIN));
      const [first] = servers;
      if (first === undefined) throw new Error("no server");
      await rig.edit(first, 7);
      const result = await pass(target(UP, UP, DRAIN));
      expect(result.error).toBeNull();
      expect(result.foreign).toEqual(["a1: up 100 -> up 7"]);
      expect(result.changed).toEqual(["a1: up 7 -> up 100"]);
      expect((await pass(target(UP, UP, DRAIN))).foreign).toEqual([]);
    });

    test("a restart is repaired in one pass", async () => {
      await start();
      await pass(target(OUT, UP, DRAIN));
      await rig.kill();
      const away = await pass(target(OUT, UP, DRAIN));
      expect(away.error).not.toBeNull();
      await rig.revive();
      const back = await pass(target(OUT, UP, DRAIN));
      expect(back.error).toBeNull();
      expect(back.restarted).toBe(kind.tellsRestarts);
      // After a failed pass nobody is blamed for what is found.
      expect(back.foreign).toEqual([]);
      expect(await namesThrough(rig.port)).toEqual(["a2"]);
    });

    test("a freshly started minder takes over what the one before had set", async () => {
      await start();
      await pass(target(OUT, UP, DRAIN));
      await reconciler?.stop();
      minder();
      expect(await pass(target(OUT, UP, DRAIN))).toMatchObject({ error: null, changed: [] });
      expect(await pass(target(UP, DRAIN, OUT))).toMatchObject({ error: null, held: [] });
      expect(await namesThrough(rig.port)).toEqual(["a1"]);
    });

    test("a frozen balancer costs one bounded pass, and then gets what it missed", async () => {
      await start(1_000);
      await pass(target(UP, DRAIN, DRAIN));
      await rig.freeze();
      const frozen = await pass(target(DRAIN, UP, DRAIN));
      rig.thaw();
      expect(frozen.error).toContain("no reply in time");
      expect(frozen.tookMs).toBeLessThan(10_000);
      await until("it obeys", async () => (await pass(target(DRAIN, UP, DRAIN))).error === null);
      expect(await namesThrough(rig.port)).toEqual(["a2"]);
    });

    test("of many wishes at once the last one holds", async () => {
      await start();
      for (let index = 0; index < 50; index++) {
        reconciler?.want(target(index % 2 === 0 ? UP : DRAIN, UP, DRAIN), []);
      }
      reconciler?.want(target(DRAIN, DRAIN, UP), []);
      await until("the passes end", () => results.at(-1)?.actual[2]?.place === "up 100");
      // One pass was under way and one waited; the others were never started.
      expect(results.length).toBeLessThanOrEqual(2);
      expect(await namesThrough(rig.port)).toEqual(["b1"]);
    });

    test("moves of the writer are applied and read back, 50 in a row", async () => {
      await start();
      await pass(target(UP, DRAIN, DRAIN));
      for (let index = 0; index < 50; index++) {
        const moved = index % 2 === 0;
        const result = await pass(moved ? target(DRAIN, UP, DRAIN) : target(UP, DRAIN, DRAIN));
        const places = result.actual.map(({ place }) => place?.split(" ")[0]);
        expect([result.error, places]).toEqual([
          null,
          moved ? ["drain", "up", "drain"] : ["up", "drain", "drain"],
        ]);
      }
    });

    /** Breaks the balancer and mends it; ends when it has returned. */
    type Breakage = (middle: () => Promise<void>) => Promise<void>;

    async function rightAgain(breakage: Breakage, ended: "sessions end" | "sessions stay") {
      rig = await kind.start(servers);
      const addresses = servers.map(
        ({ name, port }) => [name, { host: "127.0.0.1", port }] as const,
      );
      const made = clientCluster({
        segments: { dc1: ["a1", "a2"], dc2: ["b1"] },
        addresses: Object.fromEntries(addresses),
      });
      const config = { ...made, timing: { ...made.timing, reconcileIntervalMs: PERIOD_MS } };
      await using minder = new LoneMinder(config, rig.driver(), PASS_MS);
      // What a balancer's own file says is never what is asked for: there the first server takes all.
      const say = (): void => {
        minder.report("a1", { fenced: true });
        for (const name of ["a2", "b1"]) minder.report(name);
      };
      say();
      await until("a2 writes", () => minder.actual()[1] === "up 100");
      const session = await hold("a2");
      const talk = setInterval(say, 100);
      try {
        await breakage(async () => {
          const before = minder.passes.length;
          await until("a pass fails", () => minder.passes.slice(before).some((one) => one.error));
        });
        const returnedAt = performance.now();
        // Whatever a pass before that did: the next one is due within a period, and it is enough.
        expect(minder.state.reconcileAt - returnedAt).toBeLessThanOrEqual(PERIOD_MS);
        const after = () => minder.passes.filter(({ startedAt }) => startedAt >= returnedAt);
        await until("a pass is right", () => after().some(({ error }) => error === null), 20_000);
        // The first one, unless this machine is so busy that its time is over before a reply comes.
        const failed = after().filter(({ error }) => error !== null);
        expect(failed.filter(({ error }) => !error?.includes("no reply in time"))).toEqual([]);
        expect(await namesThrough(rig.port, 3)).toEqual(["a2"]);
        expect(minder.actual().slice(1)).toEqual(["up 100", "drain"]);
        expect(session.closed()).toBe(ended === "sessions end");
      } finally {
        clearInterval(talk);
      }
      return minder;
    }

    test("killed and started again, it is right within one period", async () => {
      await rightAgain(async (middle) => {
        await rig.kill();
        await middle();
        await rig.revive();
      }, "sessions end");
    });

    test.skipIf(!kind.reloads)("reloaded, it is right within one period", async () => {
      await rightAgain(async () => await rig.reload?.(), "sessions stay");
    });

    test("edited by hand, it is right within one period, and it is said", async () => {
      const minder = await rightAgain(async () => {
        for (const server of servers) await rig.edit(server, 7);
      }, "sessions stay");
      expect(minder.events).toContain("foreign_edit");
    });

    test("frozen for longer than a pass, it is right within one period", async () => {
      await rightAgain(async (middle) => {
        await rig.freeze();
        await middle();
        rig.thaw();
      }, "sessions stay");
    });
  });
}
