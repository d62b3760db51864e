/** A fence needs no disk: beside a real mariadbd whose data directory is full to the last byte. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Connection, createConnection } from "mysql2/promise";
import { startArguments } from "../../lib/effects/datadir.ts";
import { type Mysql, openMysql } from "../../lib/effects/mysql.ts";
import { manageProcess, type ServerProcess } from "../../lib/effects/process.ts";
import { type Mariadbd, makeMariadbd, until } from "../support/mariadbd.ts";

const MOUNT = join(tmpdir(), `minder-full-${process.pid}`);
/** Generous: a statement that the full disk held up would take the minute after which it is tried again. */
const FENCE_MS = 10_000;

/** A small file system of its own for everything of that server. */
function mounted(): boolean {
  if (process.getuid?.() !== 0) return false;
  mkdirSync(MOUNT, { recursive: true });
  const words = ["mount", "-t", "tmpfs", "-o", "size=200m,mode=1777", "minder-test", MOUNT];
  const done = Bun.spawnSync(words);
  if (!done.success) rmSync(MOUNT, { recursive: true });
  return done.success;
}

const onDisk = mounted();
const made = onDisk ? await makeThere() : null;
let server: Mariadbd;
let process_: ServerProcess;
let mysql: Mysql;
const opened: Connection[] = [];

async function makeThere(): Promise<Mariadbd | null> {
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = MOUNT;
  try {
    return await makeMariadbd();
  } finally {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
  }
}

/** Writes until nothing more goes in. */
function fill(file: string): void {
  const descriptor = openSync(file, "w");
  try {
    for (const size of [1_048_576, 4_096, 1]) {
      const block = Buffer.alloc(size, 1);
      try {
        for (;;) if (writeSync(descriptor, block) < size) break;
      } catch {
        // ENOSPC: on with smaller pieces.
      }
    }
  } finally {
    closeSync(descriptor);
  }
}

beforeAll(async () => {
  if (made === null) return;
  server = made;
  const { command, datadir, pidFile, logFile } = server;
  process_ = manageProcess({ command, datadir, pidFile, logFile, onChange: () => undefined });
  await process_.start(startArguments("bootstrap", null));
  mysql = openMysql({
    address: { socketPath: server.socketPath },
    user: "root",
    passwordFile: null,
    pollTimeoutMs: 10_000,
    probeTimeoutMs: 500,
    fenceMs: FENCE_MS,
  });
  await until("it is ready", 30_000, async () => (await mysql.poll()).status?.ready === true);
  await mysql.warm();
  expect((await mysql.unfence()).ok).toBe(true);
}, 120_000);

afterAll(async () => {
  for (const connection of opened) connection.destroy();
  mysql?.close();
  await process_?.kill();
  process_?.close();
  await made?.remove();
  if (!onDisk) return;
  Bun.spawnSync(["umount", MOUNT]);
  rmSync(MOUNT, { recursive: true, force: true });
}, 120_000);

async function client(): Promise<Connection> {
  const connection = await createConnection({ socketPath: server.socketPath, user: "root" });
  connection.on("error", () => undefined);
  opened.push(connection);
  return connection;
}

describe.skipIf(made === null)("where the disk is full", () => {
  test("writers that fail or hang are cut, and the fence stands within its time", async () => {
    const [writer, idle] = await Promise.all([client(), client()]);
    await writer.query("CREATE DATABASE app");
    await writer.query("CREATE TABLE app.rows (id INT AUTO_INCREMENT PRIMARY KEY, x LONGBLOB)");
    fill(join(MOUNT, "ballast"));
    let ended = "";
    const writing = (async () => {
      try {
        for (;;) await writer.query("INSERT INTO app.rows (x) VALUES (REPEAT('x', 1000000))");
      } catch (error) {
        ended = String(error);
      }
    })();
    // The rows that still fit are few: soon each write fails, or waits for room for ever.
    await Bun.sleep(2_000);
    const fence = await mysql.fence();
    expect(fence).toMatchObject({ fenced: true, rejectQueries: "ALL_KILL", sessionsLeft: 0 });
    expect(fence.tookMs).toBeLessThan(FENCE_MS);
    await until("the writer is cut", 30_000, () => ended !== "");
    await writing;
    await expect(idle.query("SELECT * FROM app.rows LIMIT 1")).rejects.toThrow();
    expect((await mysql.poll()).status).toMatchObject({ rejecting: true });
    process.stderr.write(
      `  disk full: fenced in ${Math.round(fence.tookMs)} ms; the writer: ${ended}\n`,
    );
  }, 120_000);

  test("opened again it says by its probe that nothing commits", async () => {
    expect((await mysql.unfence()).ok).toBe(true);
    const probe = await mysql.probe(1);
    process.stderr.write(`  disk full: the probe is ${probe.outcome}: ${probe.error}\n`);
    expect(probe.tookMs).toBeLessThan(10_000);
    rmSync(join(MOUNT, "ballast"));
    await until("commits flow", 30_000, async () => (await mysql.probe(1)).outcome === "committed");
  }, 120_000);
});
