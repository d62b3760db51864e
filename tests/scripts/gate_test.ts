/** The start gate as mariadbd's unit runs it, beside a watchdog that is played here. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WatchdogSays } from "../../lib/gate.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

// Each test starts a program, which a busy machine makes slow.
setDefaultTimeout(60_000);

const SCRIPT = join(import.meta.dir, "../../scripts/gate.ts");
const UUID = "8da228d3-e6bf-11f1-908e-8b8da57051a0";
let directory = "";
let answers: Partial<WatchdogSays["start"]>[] = [];
let asked = 0;
let watchdog: Bun.Server<undefined>;

beforeAll(() => {
  directory = makeScratch("gate");
  mkdirSync(join(directory, "data"));
  watchdog = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch() {
      asked++;
      // The last one stands.
      const answer = answers.length > 1 ? answers.shift() : answers[0];
      const start = { starting: false, running: false, verdict: "wait", position: null };
      return Response.json({ start: { ...start, because: "not yet", ...answer } });
    },
  });
  const server = (serial: number, host: string) => [
    "[[dbserver]]",
    `serial = ${serial}`,
    `name = "db${serial}"`,
    `segment = "dc${serial}"`,
    `host = "${host}"`,
    `port = ${watchdog.port}`,
    `datadir = "${directory}/data"`,
  ];
  const lines = [
    ...["version = 1", "[cluster]", 'name = "shop"', 'primary_segment = "dc1"'],
    ...["[[arbitrator]]", "serial = 1", 'host = "127.0.0.3"'],
    ...[...server(1, "127.0.0.1"), ...server(2, "127.0.0.2")],
  ];
  writeFileSync(join(directory, "cluster.toml"), lines.join("\n"));
});

afterAll(async () => {
  await watchdog.stop(true);
  removeScratch(directory);
});

async function gate(waitMs: number, says: readonly Partial<WatchdogSays["start"]>[]) {
  answers = [...says];
  asked = 0;
  rmSync(join(directory, "arguments"), { force: true });
  const words = ["--config", join(directory, "cluster.toml"), "--node", "dbserver.1"];
  const own = ["--arguments-file", join(directory, "arguments"), "--wait-ms", String(waitMs)];
  const child = Bun.spawn([process.execPath, SCRIPT, ...words, ...own], { stderr: "pipe" });
  const said = await new Response(child.stdout).text();
  return { code: await child.exited, said };
}

test("a restart that is sooner than the arbitrator's verdict waits for it", async () => {
  const position = { uuid: UUID, seqno: 7 };
  const { code, said } = await gate(30_000, [
    { running: true },
    { verdict: "wait" },
    { verdict: "join", position },
  ]);
  expect(said).toBe("start db1: the arbitrator's verdict is join\n");
  expect(code).toBe(0);
  expect(asked).toBe(3);
  expect(readFileSync(join(directory, "arguments"), "utf8")).toBe(
    `GALERA_MINDER_ARGS=--wsrep-start-position=${UUID}:7\n`,
  );
});

test("a start that the watchdog orders meanwhile goes on with what it has written", async () => {
  const { code } = await gate(30_000, [{ verdict: "bootstrap" }, { starting: true }]);
  expect(code).toBe(0);
  expect(existsSync(join(directory, "arguments"))).toBe(false);
});

test("one that may not begin is refused when the time is up, with the reason", async () => {
  const { code, said } = await gate(300, [{ verdict: "wait" }]);
  expect(said).toBe("do not start db1: it has to wait: not yet\n");
  expect(code).toBe(1);
  expect(asked).toBeGreaterThan(1);
  expect((await gate(0, [{ verdict: "reseed" }])).code).toBe(1);
  expect(asked).toBe(1);
});
