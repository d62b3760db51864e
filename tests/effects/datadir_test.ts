import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import {
  discardAside,
  listAside,
  parseGrastate,
  readGrastate,
  readPosition,
  recoverPosition,
  removeGrastate,
  removeGvwstate,
  setDatadirAside,
  setSafeToBootstrap,
  startArguments,
} from "../../lib/effects/datadir.ts";
import { openMysql } from "../../lib/effects/mysql.ts";
import { manageProcess, type ServerProcess } from "../../lib/effects/process.ts";
import { decodeMessage } from "../../lib/message/mod.ts";
import { type Mariadbd, makeMariadbd, until } from "../support/mariadbd.ts";

const made = await makeMariadbd();
const STATE = "8da228d3-e6bf-11f1-908e-8b8da57051a0";
const ZERO = "00000000-0000-0000-0000-000000000000";

function grastate(uuid: string, seqno: number, safe: number): string {
  return (
    "# GALERA saved state\nversion: 2.1\n" +
    `uuid:    ${uuid}\nseqno:   ${seqno}\nsafe_to_bootstrap: ${safe}\n`
  );
}

describe("parseGrastate()", () => {
  test("reads what Galera writes", () => {
    expect(parseGrastate(grastate(STATE, 12, 1))).toEqual({
      uuid: STATE,
      seqno: 12,
      safeToBootstrap: true,
    });
    expect(parseGrastate(grastate(ZERO, -1, 0))).toEqual({
      uuid: null,
      seqno: -1,
      safeToBootstrap: false,
    });
  });

  test("refuses a damaged file rather than guess", () => {
    const good = grastate(STATE, 12, 1);
    for (const text of ["", "\0".repeat(200), good.slice(0, 60), good.replace("12", "1x")]) {
      expect(() => parseGrastate(text)).toThrow("Cannot understand grastate.dat");
    }
  });
});

describe("a data directory", () => {
  let parent: string;
  let datadir: string;

  beforeAll(() => {
    parent = mkdtempSync(join(tmpdir(), "minder-datadir-"));
    datadir = join(parent, "data");
    mkdirSync(datadir, { mode: 0o750 });
  });

  afterAll(() => rmSync(parent, { recursive: true }));

  /** Fails the test if the position is asked of mariadbd where the file says it. */
  const unused = { command: ["/nonexistent/mariadbd"], timeoutMs: 100 };

  test("without grastate.dat has no position, and needs no mariadbd to say so", async () => {
    expect(readGrastate(datadir)).toBeNull();
    expect(await readPosition(datadir, unused)).toEqual({
      position: null,
      safeToBootstrap: false,
      error: null,
    });
  });

  test("of a clean stop says its position", async () => {
    writeFileSync(join(datadir, "grastate.dat"), grastate(STATE, 2047, 1));
    expect(await readPosition(datadir, unused)).toEqual({
      position: { uuid: STATE, seqno: 2047 },
      safeToBootstrap: true,
      error: null,
    });
  });

  test("without a lineage has no position, whatever InnoDB would say", async () => {
    writeFileSync(join(datadir, "grastate.dat"), grastate(ZERO, -1, 0));
    expect(await readPosition(datadir, unused)).toMatchObject({ position: null, error: null });
  });

  test("of a crash that cannot be recovered says why", async () => {
    writeFileSync(join(datadir, "grastate.dat"), grastate(STATE, -1, 0));
    const missing = await readPosition(datadir, unused);
    expect(missing.position).toBeNull();
    expect(missing.error).toContain("Cannot run mariadbd");
    const foreign = await readPosition(datadir, { command: null, timeoutMs: 100 });
    expect(foreign.error).toContain("cannot be run from here");
    const line = `echo '[Note] WSREP: Recovered position: ${STATE.replace("8", "9")}:5' >&2`;
    const other = { command: ["/bin/sh", "-c", line], timeoutMs: 30_000 };
    expect((await readPosition(datadir, other)).error).toContain("InnoDB of 9da228d3");
  });

  test("setting safe_to_bootstrap keeps all else, owner and mode included", () => {
    const file = join(datadir, "grastate.dat");
    writeFileSync(file, grastate(STATE, -1, 0));
    chmodSync(file, 0o640);
    setSafeToBootstrap(datadir);
    setSafeToBootstrap(datadir);
    expect(readFileSync(file, "utf8")).toBe(grastate(STATE, -1, 1));
    expect(statSync(file).mode & 0o777).toBe(0o640);
    rmSync(file);
    expect(() => setSafeToBootstrap(datadir)).toThrow("Cannot set safe_to_bootstrap");
  });

  test("gvwstate.dat and grastate.dat are put aside, once and again", () => {
    for (const [name, remove] of [
      ["gvwstate.dat", removeGvwstate],
      ["grastate.dat", removeGrastate],
    ] as const) {
      const file = join(datadir, name);
      for (const content of ["first", "second"]) {
        writeFileSync(file, content);
        expect(remove(datadir)).toBe("removed");
        expect(existsSync(file)).toBe(false);
        expect(readFileSync(`${file}.removed`, "utf8")).toBe(content);
      }
      expect(remove(datadir)).toBe("absent");
    }
  });

  test("set aside leaves an empty one of the same mode, and is not overwritten by the next", () => {
    writeFileSync(join(datadir, "rows"), "diverged");
    setDatadirAside(datadir, `${datadir}.1`);
    expect(readFileSync(`${datadir}.1/rows`, "utf8")).toBe("diverged");
    expect(existsSync(join(datadir, "rows"))).toBe(false);
    expect(statSync(datadir).mode & 0o777).toBe(0o750);
    expect(() => setDatadirAside(datadir, `${datadir}.1`)).toThrow("Cannot set the data directory");
    expect(readFileSync(`${datadir}.1/rows`, "utf8")).toBe("diverged");
  });

  test("what was set aside is listed with its size and age, and removed by name only", async () => {
    const names = [`${basename(datadir)}.aside-1`, `${basename(datadir)}.aside-2`] as const;
    for (const name of names) {
      const path = join(dirname(datadir), name);
      mkdirSync(join(path, "app"), { recursive: true });
      writeFileSync(join(path, "app", "rows.ibd"), "x".repeat(10_000));
    }
    const listed = await listAside(datadir);
    expect(listed.map(({ name }) => name).sort()).toEqual([...names]);
    for (const { bytes, ageMs } of listed) {
      expect(bytes).toBeGreaterThanOrEqual(10_000);
      expect(ageMs).toBeLessThan(60_000);
    }
    await discardAside(datadir, [names[0], basename(datadir), "..", `${names[1]}/app`]);
    expect((await listAside(datadir)).map(({ name }) => name)).toEqual([names[1]]);
    expect(existsSync(join(dirname(datadir), names[1], "app", "rows.ibd"))).toBe(true);
    expect(existsSync(datadir)).toBe(true);
  });
});

describe("recoverPosition()", () => {
  test("takes the last position of the output, with or without a GTID behind it", async () => {
    const lines = `[Note] WSREP: Recovered position: ${STATE}:1
[Note] WSREP: Recovered position: ${STATE}:2047,0-1-2`;
    const command = ["/bin/sh", "-c", `echo '${lines}' >&2`];
    expect(await recoverPosition(command, 5000)).toEqual({ uuid: STATE, seqno: 2047 });
  });

  test("is null where InnoDB has none", async () => {
    const line = `[Note] WSREP: Recovered position: ${ZERO}:-1`;
    expect(await recoverPosition(["/bin/sh", "-c", `echo '${line}' >&2`], 5000)).toBeNull();
  });

  test("fails with the last error when mariadbd does, and when it takes too long", async () => {
    const failing = ["/bin/sh", "-c", "echo 'x [ERROR] no disk' >&2; exit 1"];
    await expect(recoverPosition(failing, 5000)).rejects.toThrow("exit code 1 x [ERROR] no disk");
    await expect(recoverPosition(["/bin/sh", "-c", "exec sleep 100"], 100)).rejects.toThrow(
      "100 ms",
    );
  });
});

describe.skipIf(made === null)("with a mariadbd", () => {
  let server: Mariadbd;
  let running: ServerProcess;
  const notified: string[] = [];
  const watchdog = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      notified.push(await request.text());
      return Response.json({});
    },
  });

  beforeAll(() => {
    if (made === null) return;
    server = made;
    const { command, datadir, pidFile, logFile } = server;
    running = manageProcess({ command, datadir, pidFile, logFile, onChange: () => undefined });
  });

  afterAll(async () => {
    await running?.kill();
    running?.close();
    await watchdog.stop(true);
    await made?.remove();
  }, 30_000);

  async function isUp(): Promise<string | null> {
    const mysql = openMysql({
      address: { socketPath: server.socketPath },
      user: "root",
      passwordFile: null,
      pollTimeoutMs: 1000,
      probeTimeoutMs: 1000,
      fenceMs: 1000,
    });
    let stateUuid: string | null = null;
    await until("mariadbd is ready", 30_000, async () => {
      const { status } = await mysql.poll();
      stateUuid = status?.stateUuid ?? null;
      return status?.ready === true && status.members.length === 1;
    });
    await mysql.unfence();
    for (let count = 0; count < 3; count++) {
      expect((await mysql.probe(1)).outcome).toBe("committed");
    }
    mysql.close();
    return stateUuid;
  }

  test("a killed server's position is recovered, and a bootstrap from it keeps the cluster's UUID", async () => {
    await running.start(startArguments("bootstrap", null));
    const stateUuid = await isUp();
    await running.kill();
    const { datadir, command } = server;
    // The only member is always the last one; another would find 0 here.
    const file = join(datadir, "grastate.dat");
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replace("safe_to_bootstrap: 1", "safe_to_bootstrap: 0"));
    expect(readGrastate(datadir)).toEqual({
      uuid: stateUuid,
      seqno: -1,
      safeToBootstrap: false,
    });
    const found = await readPosition(datadir, { command, timeoutMs: 60_000 });
    expect(found).toMatchObject({ safeToBootstrap: false, error: null });
    expect(found.position?.uuid).toBe(stateUuid ?? "");
    // Not all of the writes: this server flushes its log once a second only.
    expect(found.position?.seqno).toBeGreaterThanOrEqual(0);
    // Galera keeps its last view for a start by itself; the order takes that away.
    expect(removeGvwstate(datadir)).toBe("removed");

    await running.start(startArguments("bootstrap", found.position));
    await until("it refuses", 30_000, () => running.current().is === "stopped");
    const refusal = readFileSync(server.logFile, "utf8");
    expect(refusal).toContain("It may not be safe to bootstrap");

    setSafeToBootstrap(datadir);
    await running.start(startArguments("bootstrap", found.position));
    expect(await isUp()).toBe(stateUuid);
    const stopped = await running.stop(10_000);
    expect(stopped).toMatchObject({ because: expect.stringContaining("exit code 0") });
    const after = await readPosition(datadir, { command: null, timeoutMs: 100 });
    expect(after.position?.seqno).toBeGreaterThan(found.position?.seqno ?? Infinity);
    expect(after.safeToBootstrap).toBe(true);
  }, 60_000);

  test("mariadbd runs the notify handler as configured, and the watchdog hears the changes", async () => {
    // Where mariadbd's user can read them; a checkout below /root it cannot enter.
    const bun = join(server.directory, "bun");
    copyFileSync(process.execPath, bun);
    for (const name of ["scripts", "lib"]) {
      mkdirSync(join(server.directory, name));
      const source = new URL(`../../${name}/notify.ts`, import.meta.url).pathname;
      copyFileSync(source, join(server.directory, name, "notify.ts"));
    }
    const handler = join(server.directory, "scripts/notify.ts");
    const notify =
      `BUN_JSC_useJIT=0 exec ${bun} --no-install --no-env-file ${handler}` +
      ` --to http://127.0.0.1:${watchdog.port} --node dbserver.7`;
    const before = readFileSync(server.logFile, "utf8").length;
    await running.start([...startArguments("bootstrap", null), `--wsrep-notify-cmd=${notify}`]);
    await isUp();
    await running.stop(10_000);
    const messages = notified.map((text) => decodeMessage(text));
    const said = messages.map((decoded) =>
      decoded.ok && decoded.message.verb === "wsrep_notify_cmd"
        ? `${decoded.message.receiver} ${decoded.message.parameters.status}`
        : decoded,
    );
    // In this order; on a machine so busy that 80 ms are over first, one or the other gets lost.
    const changes = ["joined", "synced", "disconnecting", "disconnected"];
    const expected = changes.map((change) => `dbserver.7 ${change}`);
    expect(said.length).toBeGreaterThan(0);
    expect(said).toEqual(expected.filter((change) => said.includes(change)));
    const log = readFileSync(server.logFile, "utf8").slice(before);
    expect(log).not.toContain("Notification command failed");
    // The handler leaves nothing behind in its working directory, which is mariadbd's.
    const foreign = readdirSync(server.datadir).filter((name) => /^\.|bun|\.pile$/.test(name));
    expect(foreign).toEqual([]);
  }, 60_000);
});
