import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import type { Applied } from "../../lib/core/dbclient.ts";
import type { Place, Target } from "../../lib/core/dbclient_policy.ts";
import { startReconciler } from "../../lib/effects/balancer.ts";
import { createGlbd, parseGetinfo } from "../../lib/effects/glbd.ts";
import { GlbdDouble } from "../support/glbd_double.ts";
import { until } from "../support/haproxy.ts";

const HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
const UP: Place = { as: "up", weight: 100 };
const DRAIN: Place = { as: "drain" };
const OUT: Place = { as: "out" };

function target(places: readonly Place[], hosts: readonly string[] = HOSTS): Target {
  return hosts.map((host, index) => {
    return { name: `s${index + 1}`, host, port: 3306, place: places[index] ?? OUT, because: "" };
  });
}

describe("glbd's traps:", () => {
  let double: GlbdDouble;
  let results: Applied[] = [];
  afterEach(async () => {
    await double.stop();
  });

  async function start(destinations = HOSTS.map((host) => `${host}:3306:1`)): Promise<void> {
    double = await GlbdDouble.start({ destinations, choose: "single" });
    results = [];
  }

  const reconciler = () =>
    startReconciler({
      balancer: createGlbd({ socket: `127.0.0.1:${double.controlPort}` }, null),
      passTimeoutMs: 3_000,
      now: () => performance.now(),
      onApplied: (result) => results.push(result),
    });

  async function pass(
    wish: Target,
    by = reconciler(),
    cut: readonly string[] = [],
  ): Promise<Applied> {
    const before = results.length;
    by.want(wish, cut);
    await until("the pass ends", () => results.length > before);
    const result = results[before];
    if (result === undefined) throw new Error("no result");
    return result;
  }

  test("the writer is moved by raising first: the table never offers nothing", async () => {
    await start();
    expect((await pass(target([UP, DRAIN, OUT]))).error).toBeNull();
    for (const wish of [
      target([OUT, OUT, UP]),
      target([DRAIN, { as: "up", weight: 1 }, OUT]),
      target([{ as: "up", weight: 100 }, { as: "up", weight: 2 }, DRAIN]),
      target([OUT, UP, DRAIN]),
    ]) {
      double.sums.length = 0;
      double.commands.length = 0;
      expect((await pass(wish)).error).toBeNull();
      expect(Math.min(...double.sums)).toBeGreaterThan(0);
    }
  });

  test("only what differs is sent: one numeric command each, with port and integer weight", async () => {
    await start();
    await pass(target([UP, DRAIN, OUT]));
    double.commands.length = 0;
    await pass(target([{ as: "up", weight: 37 }, DRAIN, DRAIN]));
    expect(double.commands).toEqual(["getinfo\n", "10.0.0.1:3306:37\n", "getinfo\n"]);
  });

  test("a server that was out is opened at once, and read back; others only when read before", async () => {
    await start();
    const by = reconciler();
    await pass(target([OUT, OUT, OUT]), by);
    double.commands.length = 0;
    const opened = await pass(target([UP, DRAIN, OUT]), by);
    expect(double.commands).toEqual(["10.0.0.1:3306:100\n", "getinfo\n"]);
    expect(opened).toMatchObject({ error: null, changed: ["s1: drain -> up 100"], foreign: [] });
    double.commands.length = 0;
    await pass(target([UP, UP, OUT]), by);
    expect(double.commands[0]).toBe("10.0.0.2:3306:100\n");
    double.obey("10.0.0.1:3306:7");
    double.commands.length = 0;
    const edited = await pass(target([UP, UP, OUT]), by);
    expect(edited.foreign).toEqual(["s1: up 100 -> up 7"]);
    expect(double.commands).toEqual(["getinfo\n", "10.0.0.1:3306:100\n", "getinfo\n"]);
  });

  test("nothing is deleted, and nothing is added that would get nothing", async () => {
    await start(["10.0.0.1:3306:1"]);
    expect((await pass(target([UP, DRAIN, OUT]))).error).toBeNull();
    expect(double.table.map(({ ip }) => ip)).toEqual(["10.0.0.1"]);
    await pass(target([OUT, UP, OUT]));
    expect(double.table.map(({ ip, weight }) => `${ip} ${weight}`)).toEqual([
      "10.0.0.1 0",
      "10.0.0.2 100",
    ]);
    expect(double.commands.filter((command) => /:-/.test(command))).toEqual([]);
  });

  test("a destination that nobody knows is reported and put out of use", async () => {
    await start();
    double.obey("5");
    const result = await pass(target([UP, DRAIN, OUT]));
    expect(result.error).toBeNull();
    expect(result.oddities).toEqual([
      `0.0.0.5:${double.port} is in the table, but not in the config`,
    ]);
    expect(double.entry(`0.0.0.5:${double.port}`)?.weight).toBe(0);
  });

  test("a corrupted count of connections is reported", async () => {
    await start();
    const entry = double.entry("10.0.0.2:3306");
    if (entry !== undefined) entry.connections = -2;
    expect((await pass(target([UP, DRAIN, OUT]))).oddities).toEqual([
      "s2 has a wrong count of connections: -2",
    ]);
  });

  test("sessions that it shall end and cannot are said, for as long as they are there", async () => {
    await start();
    const entry = double.entry("10.0.0.2:3306");
    if (entry !== undefined) entry.connections = 2;
    const wish = target([UP, DRAIN, OUT]);
    expect(await pass(wish, undefined, ["s2", "s3"])).toMatchObject({
      error: null,
      oddities: ["it cannot end the sessions to s2"],
    });
    if (entry !== undefined) entry.connections = 0;
    expect((await pass(wish, undefined, ["s2", "s3"])).oddities).toEqual([]);
  });

  test("a tiny weight that shows as none is seen and drained", async () => {
    await start();
    double.obey("10.0.0.2:3306:0.0001");
    expect((await pass(target([UP, DRAIN, OUT]))).error).toBeNull();
    expect(double.entry("10.0.0.2:3306")?.weight).toBe(0);
  });

  test("a fractional or infinite weight set by hand is put right", async () => {
    await start();
    const by = reconciler();
    for (const weight of ["0.5", "inf", "nan", "1e3"]) {
      double.obey(`10.0.0.1:3306:${weight}`);
      expect((await pass(target([UP, DRAIN, OUT]), by)).error).toBeNull();
      expect(double.entry("10.0.0.1:3306")?.weight).toBe(100);
    }
  });

  test("a reply in two pieces is put together, one that is reset is an error", async () => {
    await start();
    double.faults.reply = "pieces";
    expect((await pass(target([UP, DRAIN, OUT]))).error).toBeNull();
    double.faults.reply = "reset";
    expect((await pass(target([DRAIN, UP, OUT]))).error).toContain("glbd 127.0.0.1");
    double.faults.reply = "whole";
    expect((await pass(target([DRAIN, UP, OUT]))).error).toBeNull();
  });

  test("a command obeyed without an answer is nobody's foreign edit", async () => {
    await start();
    const by = reconciler();
    await pass(target([UP, DRAIN, OUT]), by);
    double.faults.silent = true;
    expect((await pass(target([DRAIN, UP, OUT]), by)).error).toContain("no reply in time");
    double.obey("10.0.0.2:3306:100");
    double.faults.silent = false;
    expect(await pass(target([DRAIN, UP, OUT]), by)).toMatchObject({ error: null, foreign: [] });
  });

  test("a second writer, or glbd's own watchdog, is named", async () => {
    await start();
    double.faults.meddle = (it) => it.obey("10.0.0.2:3306:9");
    const contested = await pass(target([UP, DRAIN, OUT]));
    expect(contested.error).toContain("s2 is up 9 though drain was asked for");
    expect(contested.error).toContain("somebody else steers it");
    double.faults.meddle = null;
    double.faults.watchdog = true;
    double.obey("10.0.0.1:3306:100");
    const ignored = await pass(target([{ as: "up", weight: 95 }, DRAIN, OUT]));
    expect(ignored.error).toContain("-w");
  });

  test("older listings are read", async () => {
    await start();
    double.faults.oldFormat = true;
    expect((await pass(target([UP, DRAIN, OUT]))).error).toBeNull();
  });

  test("a listing that is cut short is refused", async () => {
    await start(Array.from({ length: 146 }, (_, index) => `10.0.1.${index}:3306:1`));
    expect((await pass(target([UP]))).error).toContain("no reply in time");
  });

  test("more than a hundred destinations are refused", async () => {
    const hosts = Array.from({ length: 101 }, (_, index) => `10.0.1.${index}`);
    await start([]);
    expect((await pass(target([UP], hosts))).error).toContain("more than 100 destinations");
  });

  test("a host name is looked up here, never by glbd", async () => {
    await start([]);
    const wish = target([UP], ["localhost"]);
    expect((await pass(wish)).error).toBeNull();
    expect(double.commands).toEqual(["getinfo\n", "127.0.0.1:3306:100\n", "getinfo\n"]);
  });

  test("a name without an address is said, and keeps nobody else from being steered", async () => {
    await start(["127.0.0.1:1", "127.0.0.2:2", "127.0.0.9:9"]);
    const wish = [
      { name: "a1", host: "127.0.0.1", port: 1, place: DRAIN, because: "" },
      { name: "a2", host: "127.0.0.2", port: 2, place: UP, because: "" },
      { name: "b1", host: "nowhere.invalid", port: 9, place: DRAIN, because: "" },
    ];
    const { error, actual, oddities } = await pass(wish);
    expect(error).toContain("b1 is not in its table");
    expect(error).toContain("nowhere.invalid has no address here");
    expect(actual.map(({ place }) => place)).toEqual(["drain", "up 100", null]);
    expect(oddities).toContain("b1 cannot be steered: nowhere.invalid has no address here");
    // It may be the one that nobody knows: that goes on as it is.
    expect(double.commands.filter((command) => command.includes("127.0.0.9"))).toEqual([]);
  });

  test("a thirty-first control client waits, and its pass is bounded", async () => {
    await start();
    const others = Array.from({ length: 30 }, () => connect(double.controlPort, "127.0.0.1"));
    await Promise.all(
      others.map((socket) => new Promise<void>((resolve) => socket.once("connect", resolve))),
    );
    expect((await pass(target([UP, DRAIN, OUT]))).error).toContain("no reply in time");
    for (const socket of others) socket.destroy();
    await until("it is served", async () => {
      return (await pass(target([UP, DRAIN, OUT]))).error === null;
    });
  });
});

test("what is no table is refused", () => {
  for (const text of [
    "",
    "Ok\n",
    "Router:\n",
    "Router:\nDestinations: 1, total connections: 0\n",
  ]) {
    expect(() => parseGetinfo(text)).toThrow();
  }
  const row = (words: string): string =>
    `Router:\n${words}\nDestinations: 1, total connections: 0 of 9 max\n`;
  expect(() => parseGetinfo(row("10.0.0.1:3306 : abc 0.000 N/A 0"))).toThrow("row that is none");
  expect(() => parseGetinfo(row("10.0.0.1:3306 : 1.000 0.000 N/A x"))).toThrow("row that is none");
  expect(parseGetinfo(row("10.0.0.1:3306 : 100000.000 0.000 0.333 12"))).toEqual([
    { address: "10.0.0.1:3306", word: "up 100000", connections: 12, corrupt: false },
  ]);
});

test("a unix socket is refused: glbd has none", () => {
  expect(() => createGlbd({ socket: "/run/glbd.sock" })).toThrow("no control socket of glbd");
});
