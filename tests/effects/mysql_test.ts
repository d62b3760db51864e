import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Connection, createConnection, type RowDataPacket } from "mysql2/promise";
import { startArguments } from "../../lib/effects/datadir.ts";
import { type Mysql, type MysqlOptions, openMysql } from "../../lib/effects/mysql.ts";
import { manageProcess, type ServerProcess } from "../../lib/effects/process.ts";
import { fingerprint, type WsrepStatus } from "../../lib/wsrep_status.ts";
import { type Mariadbd, makeMariadbd, until } from "../support/mariadbd.ts";

const made = await makeMariadbd();
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** A busy machine's; a call that had lost its limit would take for ever, or mysql2's own 10 s. */
const SLACK_MS = 5_000;

describe("without a server", () => {
  const nowhere = { user: "x", passwordFile: null, ...limits() };

  test("every call ends at once and says why", async () => {
    const mysql = openMysql({ ...nowhere, address: { socketPath: "/nonexistent/socket" } });
    const [poll, probe, fence, form, evict] = await Promise.all([
      mysql.poll(),
      mysql.probe(1),
      mysql.fence(),
      mysql.formPrimary("x"),
      mysql.evict({ uuids: [], anew: true }),
    ]);
    expect(poll.status).toBeNull();
    expect(poll.error).toContain("ENOENT");
    expect(probe.outcome).toBe("refused");
    expect(fence).toMatchObject({ fenced: false, sessionsLeft: null });
    expect(form.outcome).toBe("error");
    expect(evict.ok).toBe(false);
    mysql.close();
  });

  test("a server that accepts and says nothing costs the time limit and no more", async () => {
    const silent = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: () => undefined },
    });
    const mysql = openMysql({
      ...nowhere,
      address: { host: "127.0.0.1", port: silent.port },
      pollTimeoutMs: 100,
      probeTimeoutMs: 100,
      fenceMs: 100,
    });
    const [poll, probe, fence] = await Promise.all([mysql.poll(), mysql.probe(1), mysql.fence()]);
    expect(poll.error).toContain("time limit");
    expect(probe.outcome).toBe("hung");
    expect(fence.fenced).toBe(false);
    for (const { tookMs } of [poll, probe, fence]) expect(tookMs).toBeLessThan(100 + SLACK_MS);
    mysql.close();
    silent.stop(true);
  });

  test("a password file that cannot be read is an error with its name", async () => {
    const mysql = openMysql({
      ...nowhere,
      address: { socketPath: "/nonexistent/socket" },
      passwordFile: "/nonexistent/password",
    });
    expect((await mysql.poll()).error).toContain("Cannot read the database password");
    mysql.close();
  });
});

describe.skipIf(made === null)("beside a mariadbd", () => {
  let server: Mariadbd;
  let process_: ServerProcess;
  let mysql: Mysql;
  const opened: Connection[] = [];

  beforeAll(async () => {
    if (made === null) return;
    server = made;
    const { command, datadir, pidFile, logFile } = server;
    process_ = manageProcess({ command, datadir, pidFile, logFile, onChange: () => undefined });
    await process_.start(startArguments("bootstrap", null));
    mysql = openMysql(optionsFor(server));
    await until(
      "mariadbd is ready",
      30_000,
      async () => (await mysql.poll()).status?.ready === true,
    );
    await mysql.warm();
  }, 60_000);

  afterAll(async () => {
    for (const connection of opened) connection.destroy();
    mysql?.close();
    await process_?.kill();
    process_?.close();
    await made?.remove();
  }, 60_000);

  async function client(): Promise<Connection> {
    const connection = await createConnection({ socketPath: server.socketPath, user: "root" });
    // Cut by the server in these tests; there is nobody else to tell.
    connection.on("error", () => undefined);
    opened.push(connection);
    return connection;
  }

  function pid(): number {
    const fact = process_.current();
    if (fact.is !== "running") throw new Error("mariadbd does not run");
    return fact.pid;
  }

  async function status(): Promise<WsrepStatus> {
    const result = await mysql.poll();
    if (result.status === null) throw new Error(`no status: ${result.error}`);
    return result.status;
  }

  test("a start by the watchdog is fenced, and the poll says all of it", async () => {
    const now = await status();
    expect(now).toMatchObject({
      primary: true,
      ready: true,
      connected: true,
      localState: "Synced",
      evsState: "OPERATIONAL",
      rejecting: true,
      readOnly: false,
      weight: 1,
      clusterWeight: 1,
      evictList: [],
      flowControlActive: false,
    });
    expect(now.stateUuid).toMatch(UUID);
    expect(now.members).toEqual([{ uuid: now.gcommUuid ?? "", name: "test-1" }]);
    expect(now.lastCommitted).toBeGreaterThanOrEqual(0);
    expect(now.serverVersion).toContain("MariaDB");
    expect(now.providerVersion).not.toBe("");
  });

  test("a probe of a fenced server writes nothing and still tells that commits would flow", async () => {
    const before = await status();
    expect(before.rejecting).toBe(true);
    expect((await mysql.probe(1)).outcome).toBe("committed");
    expect((await mysql.probe(1)).outcome).toBe("committed");
    expect((await status()).lastCommitted).toBe(before.lastCommitted);
  });

  test("unfenced, the probe makes its table and commits", async () => {
    expect(await mysql.unfence()).toEqual({ ok: true, error: null });
    const before = await status();
    expect((await mysql.probe(1)).outcome).toBe("committed");
    expect((await mysql.probe(1)).outcome).toBe("committed");
    const after = await status();
    expect(after.rejecting).toBe(false);
    expect(after.lastCommitted).toBeGreaterThan(before.lastCommitted);
  });

  test("polls under way at the same time are one", async () => {
    const [first, second] = [mysql.poll(), mysql.poll()];
    expect(first).toBe(second);
    await first;
  });

  test("a fence ends idle and busy sessions and those that ALL_KILL spares, and reads back", async () => {
    const [idle, busy, writing, local] = await Promise.all([
      client(),
      client(),
      client(),
      client(),
    ]);
    await writing.query("BEGIN");
    await writing.query("REPLACE INTO minder.probe VALUES (99, NOW(6))");
    await local.query("SET SESSION wsrep_on=OFF");
    const sleeping = busy.query("SELECT SLEEP(20)").then(
      () => "finished",
      () => "cut",
    );
    await until("it sleeps", 30_000, async () => {
      const [rows] = await idle.query(
        "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'",
      );
      return Array.isArray(rows) && rows.length === 1;
    });
    const fence = await mysql.fence();
    expect(fence).toMatchObject({ fenced: true, rejectQueries: "ALL_KILL", sessionsLeft: 0 });
    expect(await sleeping).toBe("cut");
    for (const connection of [idle, writing, local]) {
      await expect(connection.query("SELECT * FROM minder.probe")).rejects.toThrow();
    }
    // It polls at once although its own connections were cut too.
    expect(await status()).toMatchObject({ rejecting: true });
    const late = await client();
    await expect(late.query("SELECT * FROM minder.probe")).rejects.toThrow();
    expect((await mysql.fence()).fenced).toBe(true);
    expect((await mysql.unfence()).ok).toBe(true);
    expect((await mysql.probe(1)).outcome).toBe("committed");
  });

  test("a probe that waits for a lock of this server is held, and only one is ever waiting", async () => {
    const locker = await client();
    await locker.query("FLUSH TABLES WITH READ LOCK");
    const quick = openMysql({ ...optionsFor(server), probeTimeoutMs: 500 });
    // Else the first probe's time goes into its connection, and nothing waits for the lock yet.
    await quick.warm();
    for (let attempt = 0; attempt < 3; attempt++) {
      const probe = await quick.probe(1);
      expect(probe.outcome).toBe("held");
      expect(probe.error).toContain("lock");
      expect(probe.tookMs).toBeLessThan(500 + SLACK_MS);
    }
    const [rows] = await locker.query(
      "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'REPLACE INTO minder.probe%'",
    );
    expect(Array.isArray(rows) ? rows.length : 9).toBeLessThanOrEqual(1);
    await locker.query("UNLOCK TABLES");
    await until("it commits", 30_000, async () => (await quick.probe(1)).outcome === "committed");
    await locker.end();
    quick.close();
  });

  test("a stopped mariadbd costs each call its time limit, and all is well after it goes on", async () => {
    const quick = openMysql({
      ...optionsFor(server),
      pollTimeoutMs: 150,
      probeTimeoutMs: 150,
      fenceMs: 200,
      commandTimeoutMs: 150,
    });
    await quick.warm();
    process.kill(pid(), "SIGSTOP");
    // The signal takes effect thread by thread.
    const tasks = `/proc/${pid()}/task`;
    await until("all its threads are stopped", 30_000, () =>
      readdirSync(tasks).every((task) =>
        readFileSync(`${tasks}/${task}/stat`, "latin1").includes(") T "),
      ),
    );
    try {
      const [poll, probe, fence, form] = await Promise.all([
        quick.poll(),
        quick.probe(1),
        quick.fence(),
        quick.formPrimary("x"),
      ]);
      expect(poll.status).toBeNull();
      expect(poll.error).toContain("time limit");
      expect(probe.outcome).toBe("hung");
      expect(fence).toMatchObject({ fenced: false, sessionsLeft: null });
      expect(form.outcome).toBe("error");
      expect(poll.tookMs).toBeLessThan(150 + SLACK_MS);
      expect(fence.tookMs).toBeLessThan(200 + SLACK_MS);
      // Again, now that connections must be made anew: still bounded.
      expect((await quick.poll()).tookMs).toBeLessThan(150 + SLACK_MS);
    } finally {
      process.kill(pid(), "SIGCONT");
    }
    await until("it polls", 30_000, async () => (await quick.poll()).status !== null);
    // The order that was under way when it stopped may have come through: undo it.
    await until("it unfences", 30_000, async () => (await quick.unfence()).ok);
    await until("it commits", 30_000, async () => (await quick.probe(1)).outcome === "committed");
    quick.close();
  });

  test("a hanging probe does not stand in the way of a fence", async () => {
    const locker = await client();
    await locker.query("LOCK TABLES minder.probe WRITE");
    const probing = mysql.probe(1);
    const fence = await mysql.fence();
    expect(fence.fenced).toBe(true);
    // Its session is cut; what it says now is what a read that waits for the group says.
    expect((await probing).outcome).not.toBe("hung");
    expect((await mysql.unfence()).ok).toBe(true);
  });

  test("at max_connections a user with SUPER still gets in", async () => {
    const many = await Promise.all(Array.from({ length: 6 }, () => client()));
    const [watcher = await client()] = many;
    await until("those that were cut have left", 30_000, async () => {
      const threads = "SHOW STATUS LIKE 'Threads_connected'";
      const [rows] = await watcher.query<RowDataPacket[]>(threads);
      return Number(rows[0]?.["Value"]) <= 10;
    });
    await many[0]?.query("SET GLOBAL max_connections=10");
    const late = openMysql(optionsFor(server));
    const { status: seen, error } = await late.poll();
    await many[0]?.query("SET GLOBAL max_connections=151");
    expect({ error, seen: seen !== null }).toEqual({ error: null, seen: true });
    late.close();
    await Promise.all(many.map((connection) => connection.end()));
  });

  test("provider options are set and read; what is not plain or not known is refused", async () => {
    expect(await mysql.setProviderOption("evs.keepalive_period", "PT0.3S")).toMatchObject({
      ok: true,
    });
    expect(await mysql.providerOption("evs.keepalive_period")).toBe("PT0.3S");
    expect((await mysql.setProviderOption("evs.keepalive_period", "PT1S;pc.bootstrap=1")).ok).toBe(
      false,
    );
    expect((await mysql.setProviderOption("no.such_option", "1")).ok).toBe(false);
    expect((await mysql.evict({ uuids: ["not a uuid"], anew: false })).ok).toBe(false);
    expect(await mysql.providerOption("no.such_option")).toBeNull();
  });

  test("a wrong password is an error, and the file is read anew at the next connection", async () => {
    const root = await client();
    await root.query("CREATE USER tester@localhost IDENTIFIED BY 'right'");
    await root.query("GRANT ALL ON *.* TO tester@localhost");
    const passwordFile = join(server.directory, "password");
    writeFileSync(passwordFile, "wrong\n");
    const other = openMysql({ ...optionsFor(server), user: "tester", passwordFile });
    expect((await other.poll()).error).toContain("1045");
    writeFileSync(passwordFile, "right\n");
    expect((await other.poll()).status?.primary).toBe(true);
    other.close();
  });

  test("an account may be of the system's user; one that wants another login is told which", async () => {
    const root = await client();
    // Whoever runs this test, who may be root.
    const me = Bun.spawnSync(["id", "-un"]).stdout.toString().trim();
    await root.query(
      `CREATE OR REPLACE USER '${me}'@localhost IDENTIFIED VIA mysql_native_password USING 'invalid' OR unix_socket`,
    );
    await root.query(`GRANT ALL ON *.* TO '${me}'@localhost WITH GRANT OPTION`);
    const own = openMysql({ ...optionsFor(server), user: me });
    expect((await own.poll()).error).toBeNull();
    own.close();
    await root.query("CREATE USER odd@localhost IDENTIFIED VIA mysql_old_password");
    const odd = openMysql({ ...optionsFor(server), user: "odd" });
    const { error } = await odd.poll();
    expect(error).toMatch(/mysql_old_password|1045|1275/);
    odd.close();
  });

  test("forms no Primary in a Primary view", async () => {
    const now = await status();
    const print = fingerprint(now.stateUuid, now.primary, now.members) ?? "";
    const result = await mysql.formPrimary(print);
    expect(result).toMatchObject({
      outcome: "changed",
      because: "The server is in a Primary view",
    });
  });

  test.skipIf(Bun.which("garbd") === null)(
    "a lost peer: the probe hangs, the view is known, and only the right fingerprint forms a Primary",
    async () => {
      const garbd = Bun.spawn(
        [
          ...["garbd", "-a", server.galera, "-g", server.clusterName, "-n", "garb"],
          ...["-o", `gmcast.listen_addr=tcp://127.0.0.1:${server.garbdPort}`],
        ],
        { stdin: "ignore", stdout: "ignore", stderr: "ignore", cwd: server.directory },
      );
      try {
        await until("garbd is a member", 30_000, async () => (await status()).members.length === 2);
        const both = await status();
        const peer = both.members.find((member) => member.name === "garb");
        expect(peer?.uuid).toMatch(UUID);
        const quick = openMysql({ ...optionsFor(server), probeTimeoutMs: 500 });
        await until(
          "it commits",
          30_000,
          async () => (await quick.probe(1)).outcome === "committed",
        );
        garbd.kill("SIGKILL");
        await garbd.exited;
        const probe = await quick.probe(1);
        expect(probe).toMatchObject({ outcome: "hung" });
        expect(probe.error).toContain("certification");
        expect((await quick.fence()).fenced).toBe(true);
        const fenced = await quick.probe(1);
        expect(fenced).toMatchObject({ outcome: "hung" });
        expect((await status()).primary).toBe(true);
        quick.close();

        await until("non-Primary", 30_000, async () => !(await status()).primary);
        await until("the view stands", 30_000, async () => (await status()).members.length === 1);
        const alone = await status();
        expect(alone).toMatchObject({ primary: false, ready: false, connected: true });
        expect(alone.members).toEqual([{ uuid: both.gcommUuid ?? "", name: "test-1" }]);
        expect((await mysql.probe(1)).outcome).toBe("refused");

        const stale = fingerprint(both.stateUuid, false, both.members) ?? "";
        const refused = await mysql.formPrimary(stale);
        expect(refused.outcome).toBe("changed");
        expect((await status()).primary).toBe(false);

        const print = fingerprint(alone.stateUuid, false, alone.members) ?? "";
        expect((await mysql.formPrimary(print)).outcome).toBe("done");
        await until("Primary", 30_000, async () => {
          const { primary, ready } = await status();
          return primary && ready;
        });
        expect(await mysql.evict({ uuids: [peer?.uuid ?? ""], anew: false })).toMatchObject({
          ok: true,
        });
        expect((await status()).evictList).toEqual([peer?.uuid ?? ""]);
        expect(await mysql.evict({ uuids: [], anew: true })).toMatchObject({ ok: true });
        expect((await status()).evictList).toEqual([]);
        await until(
          "it commits",
          30_000,
          async () => (await mysql.probe(1)).outcome === "committed",
        );
      } finally {
        garbd.kill("SIGKILL");
        await garbd.exited;
      }
    },
    120_000,
  );
});

function limits() {
  return {
    pollTimeoutMs: 10_000,
    probeTimeoutMs: 10_000,
    fenceMs: 10_000,
    commandTimeoutMs: 10_000,
  };
}

function optionsFor(server: Mariadbd): MysqlOptions {
  return {
    address: { socketPath: server.socketPath },
    user: "root",
    passwordFile: null,
    ...limits(),
  };
}
