/**
 * Servers that return: after the loss of all of them at once, in whatever order; with data missing;
 * cut off; and with rows that the others do not have.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readPosition, startArguments } from "../../lib/effects/datadir.ts";
import { until } from "../../lib/lab/exec.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { makeAccount, startAsMysql, unprivilegedImpossible } from "../support/unprivileged.ts";
import { reportOf, say, WatchedLab } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-outage";
const ALL = ["dc1-1", "dc1-2", "dc2-1", "dc2-2"];
const TEST_MS = 300_000;

let watched: WatchedLab;

beforeAll(async () => {
  if (!unable) watched = await WatchedLab.open(LAB);
}, TEST_MS);

afterAll(async () => {
  if (!unable) await watched.down();
}, TEST_MS);

/** Starts watchdogs one after the other, each once the one before has been heard. */
async function returnIn(order: readonly string[]): Promise<void> {
  for (const host of order) {
    watched.minded.startMinder(host);
    await watched.minded.untilSummary(
      `${host} is heard again`,
      (is) => (is.servers.find(({ name }) => name === host)?.heardAgoMs ?? 9_999) < 1_000,
    );
  }
}

/** Everything is killed; the network is back, and nothing else, once the arbitrator has noticed. */
async function powerFails(options: { readonly on: boolean } = { on: true }): Promise<void> {
  const { minded } = watched;
  await minded.powerOff("dc1");
  await minded.powerOff("dc2");
  await minded.untilHealth("cannot_tell");
  if (options.on) await minded.lab.powerOn(ALL);
}

/** Which server was bootstrapped since, and the positions that all had been in. */
function bootstrapped(since: ReadonlyMap<string, number>): {
  readonly by: readonly string[];
  readonly seqnos: ReadonlyMap<string, number>;
} {
  const by = ALL.filter((host) =>
    watched.events(host, since.get(host)).some((line) => line["event"] === "bootstrap"),
  );
  const seqnos = new Map<string, number>();
  for (const host of ALL) {
    const [first] = watched
      .events(host, since.get(host))
      .filter((line) => line["event"] === "position");
    const position = first?.["position"] as { readonly seqno: number } | null | undefined;
    seqnos.set(host, position?.seqno ?? -1);
  }
  return { by, seqnos };
}

async function expectWhole(rows: number): Promise<void> {
  await watched.healthy();
  for (const host of ALL) expect((await watched.minded.lab.rows(host)).size).toBe(rows);
  expect(new Set((await watched.minded.lab.checksums()).values()).size).toBe(1);
}

describe.skipIf(unable)("after the loss of all servers", () => {
  let rows = 0;

  for (const { name, order, cleanly } of [
    {
      name: "killed, the one that is behind returns first",
      order: ["dc2-2", "dc2-1", "dc1-2", "dc1-1"],
      cleanly: false,
    },
    {
      name: "stopped cleanly, the last to stop returns last",
      order: ["dc1-1", "dc1-2", "dc2-1", "dc2-2"],
      cleanly: true,
    },
    {
      name: "killed, the second data centre returns in between",
      order: ["dc1-1", "dc2-1", "dc2-2", "dc1-2"],
      cleanly: false,
    },
  ]) {
    test(
      `${name}: the most advanced begins, and every row is there`,
      async () => {
        const { minded } = watched;
        const logs = new Map(ALL.map((host) => [host, watched.watchdogLogSize(host)]));
        const write = async (host: string, count: number): Promise<void> => {
          for (let n = 0; n < count; n++) await watched.insert(host, "outage", ++rows);
        };
        await write("dc1-1", 10);
        for (const host of ALL) minded.minder(host).kill("SIGKILL");
        const behind = cleanly ? ALL : ["dc2-2"];
        for (const host of behind) {
          await watched.endMariadbd(host, "SIGTERM");
          if (host !== ALL.at(-1)) await write(ALL.at(-1) ?? "", 3);
          else if (!cleanly) await write("dc1-2", 5);
        }
        await powerFails();
        const at = performance.now();
        await returnIn(order);
        await expectWhole(rows);
        const { by, seqnos } = bootstrapped(logs);
        say(
          `${name}: whole after ${((performance.now() - at) / 1000).toFixed(1)} s, begun by ${by} of ${JSON.stringify([...seqnos])}`,
        );
        expect(by.length).toBe(1);
        expect(seqnos.get(by[0] ?? "")).toBe(Math.max(...seqnos.values()));
      },
      TEST_MS,
    );
  }

  test(
    "a server without data is never chosen: all wait for it by name until a person retires it",
    async () => {
      const { minded } = watched;
      const logs = new Map(ALL.map((host) => [host, watched.watchdogLogSize(host)]));
      await powerFails({ on: false });
      const { datadir } = minded.lab.server("dc1-1");
      for (const name of readdirSync(datadir)) rmSync(join(datadir, name), { recursive: true });
      await minded.lab.powerOn(ALL);
      await returnIn(ALL);
      await minded.untilSummary("all wait for dc1-1, and for nobody else", (is) =>
        is.segments.every(
          ({ verdict }) =>
            verdict.rule === "outage.position" &&
            verdict.because === "no position can be read of dc1-1",
        ),
      );
      expect(ALL.map((host) => watched.mariadbd(host))).toEqual([null, null, null, null]);
      const from = watched.errorLogSize("dc1-1");
      watched.command("retire", "dc1-1");
      await minded.untilSummary(
        "the others serve",
        (is) => is.servers.filter(({ report }) => report?.serving === "on").length >= 3,
        60_000,
      );
      watched.command("restore", "dc1-1");
      await expectWhole(rows);
      expect(bootstrapped(logs).by).not.toContain("dc1-1");
      expect(watched.errorLog("dc1-1", from)).toContain("rsync SST completed on joiner");
    },
    TEST_MS,
  );
});

/** A joiner's log of a full transfer: who joins, whom it asked, and who gives. */
const TRANSFER =
  /Member \S+ \(([\w-]+)\) requested state transfer from '([^']*)'\. Selected \S+ \(([\w-]+)\)/g;

/** How many data directories of a host were set aside. */
function aside(host: string): number {
  const { directory } = watched.minded.lab.server(host);
  return readdirSync(directory).filter((name) => name.startsWith("data.aside-")).length;
}

describe.skipIf(unable)("on the lesser side", () => {
  const dc1 = ["dc1-1", "dc1-2"];
  const dc2 = ["dc2-1", "dc2-2"];

  test(
    "crashed holders of the epoch that are started while cut off do not become Primary",
    async () => {
      const { minded } = watched;
      const { lab } = minded;
      await minded.cutLink();
      const summary = await minded.untilSummary(
        "one data centre serves alone",
        (is) =>
          is.epochHolder !== null &&
          is.servers.filter(({ report }) => report?.serving === "on").length === 2,
      );
      const holders = summary.epochHolder === "dc1" ? dc1 : dc2;
      const others = [...(holders === dc1 ? dc2 : dc1), "arb", "app1"];
      await lab.network.cut(holders, others);
      for (const host of holders) {
        minded.minder(host).kill("SIGKILL");
      }
      await Promise.all(holders.map((host) => watched.endMariadbd(host, "SIGKILL")));
      // From it Galera would make the two Primary again, by themselves.
      for (const host of holders) {
        expect(existsSync(join(lab.server(host).datadir, "gvwstate.dat"))).toBe(true);
      }
      // Their watchdogs hear nobody: they start nothing.
      for (const host of holders) minded.startMinder(host);
      await Bun.sleep(4_000);
      expect(holders.map((host) => watched.mariadbd(host))).toEqual([null, null]);
      // But the file is put aside, whoever starts them next.
      for (const host of holders) {
        expect(existsSync(join(lab.server(host).datadir, "gvwstate.dat"))).toBe(false);
      }
      // And where another manager starts them through the gate, which has no answer either.
      for (const host of holders) {
        const { datadir, command } = lab.server(host);
        const { position } = await readPosition(datadir, { command, timeoutMs: 60_000 });
        expect(position).not.toBeNull();
        lab.startServer(host, { arguments: startArguments("join", position) });
      }
      const deadline = performance.now() + 8_000;
      while (performance.now() < deadline) {
        for (const host of holders) {
          const status = await lab.status(host);
          expect(status?.get("wsrep_cluster_status") ?? "none").not.toBe("Primary");
        }
        await Bun.sleep(100);
      }
      await lab.network.heal();
      await watched.healthy(100_000);
      expect(new Set((await lab.checksums()).values()).size).toBe(1);
    },
    TEST_MS,
  );

  test(
    "a half that a person forced to be Primary is set aside and takes a full transfer",
    async () => {
      const { minded } = watched;
      const { lab } = minded;
      const unprivileged = unprivilegedImpossible() === null;
      if (unprivileged) makeAccount(minded);
      await minded.cutLink();
      const summary = await minded.untilSummary(
        "one data centre serves alone",
        (is) =>
          is.epochHolder !== null &&
          is.servers.filter(({ report }) => report?.serving === "on").length === 2,
      );
      const winners = summary.epochHolder === "dc1" ? dc1 : dc2;
      const losers = winners === dc1 ? dc2 : dc1;
      const [loser = ""] = losers;
      // A person overrules everything: no watchdog, and the statement by hand.
      for (const host of losers) minded.minder(host).kill("SIGKILL");
      await lab.allReport("wsrep_cluster_status", "non-Primary", { hosts: losers });
      await lab.query(loser, "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'");
      await lab.allReport("wsrep_cluster_status", "Primary", { hosts: losers });
      await lab.query(loser, "SET GLOBAL wsrep_reject_queries=NONE");
      await until(
        "a write on the forced side",
        () =>
          watched.insert(loser, "forced", 1).then(
            () => true,
            () => false,
          ),
        { timeoutMs: 30_000 },
      );
      for (let n = 2; n <= 30; n++) await watched.insert(loser, "forced", n);
      for (let n = 1; n <= 10; n++) await watched.insert(winners[0] ?? "", "granted", n);
      const from = new Map(losers.map((host) => [host, watched.errorLogSize(host)]));
      const asideBefore = new Map(losers.map((host) => [host, aside(host)]));
      const at = performance.now();
      // One by root, one by the user who owns the data and may do nothing else.
      const [byRoot = "", byMysql = ""] = losers;
      minded.startMinder(byRoot);
      if (unprivileged) await startAsMysql(minded, byMysql);
      else minded.startMinder(byMysql);
      await until(
        "both forced servers are gone",
        () => losers.every((host) => watched.mariadbd(host) === null),
        { timeoutMs: 60_000 },
      );
      say(`forced side: ended after ${((performance.now() - at) / 1000).toFixed(1)} s`);
      await minded.healLink();
      const states = new Map<string, Set<string>>();
      await minded.untilSummary(
        "all serve again",
        (is) => {
          for (const { name, report } of is.servers) {
            const seen = states.get(name) ?? new Set();
            states.set(name, seen.add(report?.localState ?? ""));
          }
          return is.health === "healthy";
        },
        90_000,
      );
      // Who gives and who takes a transfer is said while it lasts.
      expect(winners.some((host) => states.get(host)?.has("Donor/Desynced"))).toBe(true);
      for (const host of losers) expect([...(states.get(host) ?? [])]).toContain("no answer");
      say(`forced side: whole after ${((performance.now() - at) / 1000).toFixed(1)} s`);
      for (const host of losers) {
        const log = watched.errorLog(host, from.get(host));
        expect(log).toContain("rsync SST completed on joiner");
        // Left alone Galera prefers a neighbour, who has the very rows that are to go.
        const donors = [...log.matchAll(TRANSFER)].filter(([, joiner]) => joiner === host);
        expect(donors.length).toBeGreaterThan(0);
        for (const [, , asked, donor] of donors) {
          expect(winners).toContain(donor ?? "");
          expect(asked).toBe(`${donor},`);
        }
        expect(aside(host)).toBe((asideBefore.get(host) ?? 0) + 1);
      }
      const rows = await lab.rows(loser);
      expect([...rows].filter((row) => row.startsWith("granted/")).length).toBe(10);
      expect([...rows].filter((row) => row.startsWith("forced/")).length).toBe(0);
      expect(new Set((await lab.checksums()).values()).size).toBe(1);
      // What was set aside is in the reports with its size, until a person has it go.
      for (const host of losers) {
        const is = await minded.untilSummary(
          `${host} names what is set aside`,
          (summary) => reportOf(summary, host)?.aside?.length === aside(host),
        );
        const sizes = (reportOf(is, host)?.aside ?? []).map(({ bytes }) => bytes);
        expect(Math.max(...sizes)).toBeGreaterThan(1e6);
        expect(watched.command("--dry-run", "discard", host)).toContain("is removed");
        expect(aside(host)).toBeGreaterThan(0);
        expect(watched.command("discard", host)).toContain("ok: discard");
        await minded.untilSummary(
          `nothing is set aside on ${host}`,
          (summary) => reportOf(summary, host)?.running === "up" && aside(host) === 0,
        );
      }
      await watched.healthy();
    },
    TEST_MS,
  );
});
