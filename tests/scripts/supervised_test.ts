/** The watchdog's program as systemd starts it: a socket of the test's own in systemd's place. */
import { afterEach, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Datagrams, listenForDatagrams } from "../support/datagrams.ts";
import { freePorts, until } from "../support/mariadbd.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const SCRIPT = join(import.meta.dir, "../../scripts/server.ts");
let directory = "";
let systemd: Datagrams | null = null;
let watchdog: Bun.Subprocess | null = null;

afterEach(async () => {
  watchdog?.kill("SIGKILL");
  await watchdog?.exited;
  systemd?.close();
  removeScratch(directory);
});

async function writeConfig(): Promise<string> {
  const ports = await freePorts(5);
  const server = (serial: number): string[] => {
    const datadir = join(directory, `data${serial}`);
    mkdirSync(datadir);
    return [
      "[[dbserver]]",
      `serial = ${serial}`,
      `name = "db${serial}"`,
      `segment = "dc${serial}"`,
      'host = "127.0.0.1"',
      `port = ${ports[serial]}`,
      `mysql_port = ${ports[serial + 2]}`,
      `mysql_socket = "${join(directory, `${serial}.sock`)}"`,
      `datadir = "${datadir}"`,
      `state_dir = "${join(directory, `state${serial}`)}"`,
    ];
  };
  const arbitrator = ["[[arbitrator]]", "serial = 1", 'host = "127.0.0.1"', `port = ${ports[0]}`];
  const cluster = ["version = 1", "[cluster]", 'name = "supervised"', 'primary_segment = "dc1"'];
  const lines = [...cluster, ...arbitrator, ...server(1), ...server(2)];
  const file = join(directory, "cluster.toml");
  writeFileSync(file, `${lines.join("\n")}\n`);
  return file;
}

test("the watchdog says that it is ready, lives, and stops; one that stands still says nothing", async () => {
  directory = makeScratch("supervised");
  const path = join(directory, "notify");
  const socket = listenForDatagrams(path);
  systemd = socket;
  const words = ["--config", await writeConfig(), "--node", "dbserver.1"];
  const child = Bun.spawn([process.execPath, SCRIPT, ...words], {
    env: { ...process.env, NOTIFY_SOCKET: path, WATCHDOG_USEC: "300000" },
    stdout: "ignore",
    stderr: "ignore",
  });
  watchdog = child;
  const heard: string[] = [];
  const hears = (what: string) => () => {
    for (let state = socket.take(); state !== null; state = socket.take()) heard.push(state);
    return heard.some((state) => state.includes(what));
  };
  await until("it is ready", 30_000, hears("READY=1"));
  await until("it lives", 30_000, hears("WATCHDOG=1"));
  await until("it says its phase", 30_000, hears("STATUS=down: mariadbd is not running"));
  child.kill("SIGSTOP");
  await Bun.sleep(300);
  hears("")();
  heard.length = 0;
  await Bun.sleep(900);
  expect(hears("WATCHDOG=1")()).toBe(false);
  child.kill("SIGCONT");
  await until("it lives again", 30_000, hears("WATCHDOG=1"));
  child.kill("SIGTERM");
  await until("it stops", 30_000, hears("STOPPING=1"));
  expect(await child.exited).toBe(0);
}, 60_000);
