/** The table of versions on a real mariadbd: who may push, who wins, and what is never believed. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { parseNodeFile } from "../../lib/config_store.ts";
import { type ConfigDb, type ConfigDbOptions, openConfigDb } from "../../lib/effects/config_db.ts";
import { newestDocument } from "../../lib/effects/config_source.ts";
import { operatorStatements, readerStatements } from "../../lib/grants.ts";
import { findVersion, historyLine, pushConfig } from "../../lib/run/config_admin.ts";
import { type ConfigBed, documentText, makeConfigBed } from "../support/config_bed.ts";
import { makeMariadbd } from "../support/mariadbd.ts";

const made = await makeMariadbd();

describe("without a database", () => {
  test("every address says why it did not do", async () => {
    const silent = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: () => undefined },
    });
    const addresses = ["/nonexistent/socket", `127.0.0.1:${silent.port}`];
    const options = { addresses, user: "x", passwordFile: null, timeoutMs: 100 };
    const started = performance.now();
    const error = await openConfigDb(options).catch((thrown: unknown) => String(thrown));
    expect(error).toContain("/nonexistent/socket: connect ENOENT");
    expect(error).toContain("No answer within 100 ms");
    // The driver's own limit is ten seconds.
    expect(performance.now() - started).toBeLessThan(8_000);
    silent.stop(true);
  });
});

describe.skipIf(made === null)("on a real mariadbd", () => {
  let bed: ConfigBed;
  const open: ConfigDb[] = [];

  beforeAll(async () => {
    if (made !== null) bed = await makeConfigBed(made);
  }, 40_000);

  afterAll(async () => {
    for (const db of open) db.close();
    await bed?.remove();
  }, 30_000);

  async function connect(options: Partial<ConfigDbOptions> = {}): Promise<ConfigDb> {
    const addresses = [bed.server.socketPath];
    const db = await openConfigDb({ addresses, user: "root", passwordFile: null, ...options });
    open.push(db);
    return db;
  }

  async function push(text: string, author = "eve", note = ""): Promise<readonly string[]> {
    const said: string[] = [];
    const code = await pushConfig(await connect({ primary: true }), text, {
      author,
      note,
      agreed: async () => true,
      say: (line) => {
        said.push(line);
      },
    });
    return [...said, `exit ${code}`];
  }

  test("a database without the table says what makes it", async () => {
    const db = await connect();
    await expect(db.newest()).rejects.toMatchObject({
      message: "Cannot read the config: there is no config in it",
      hint: "`just config-init` makes the table, `just config-push` fills it",
    });
  });

  test("the table is made once, and the first document keeps its own number", async () => {
    const db = await connect();
    await db.init();
    await db.init();
    expect(await db.newest()).toMatchObject({ version: null, authoritative: true });
    expect(await push(documentText(7))).toEqual(["pushed: version 7 by eve", "exit 0"]);
    expect((await db.read(7))?.document).toBe(documentText(7));
  });

  test("a push shows what it changes, and is the next version of the very text", async () => {
    const said = await push(documentText(7, { leaseMs: 2500 }), "ann", "faster");
    expect(said).toEqual([
      "from version 7 to 8:",
      "  ~ timing.lease_ms = 3000 -> 2500",
      "  ! takes effect in a joint view, once every server holds it; `just status` shows it while it waits",
      "pushed: version 8 by ann",
      "exit 0",
    ]);
    const db = await connect();
    const row = await db.read(8);
    expect(row?.document).toBe(documentText(8, { leaseMs: 2500 }));
    expect(row).toMatchObject({ base: 7, author: "ann", note: "faster" });
    expect(Math.abs(Date.parse(row?.at ?? "") - Date.now())).toBeLessThan(60_000);
  });

  test("a document made from an older version is refused, with who was first", async () => {
    const [words, exit] = await push(documentText(7, { policy: "local-first" }), "bob");
    expect(words).toMatch(
      /^refused: version 8 was pushed by ann at 20.*Z \(faster\), and this one was made from 7/,
    );
    expect(exit).toBe("exit 1");
    expect((await (await connect()).newest()).version).toBe(8);
  });

  test("of two pushes at once exactly one wins, and the other is told who", async () => {
    const base = (await (await connect()).newest()).version ?? 0;
    const texts = ["a", "b", "c", "d"].map((name) => ({ name, text: documentText(base) }));
    const dbs = await Promise.all(texts.map(() => connect()));
    const results = await Promise.all(
      texts.map(({ name, text }, index) =>
        dbs[index]?.push({ text: `${text}# ${name}\n`, base, author: name, note: "" }),
      ),
    );
    const pushed = results.flatMap((each) => (each?.is === "pushed" ? [each.row.author] : []));
    const told = results.flatMap((each) => (each?.is === "stale" ? [each.winner.author] : []));
    expect(pushed.length).toBe(1);
    expect(told).toEqual([pushed[0], pushed[0], pushed[0]] as string[]);
    expect((await (await connect()).newest()).version).toBe(base + 1);
  });

  test("an earlier version is pushed again as the newest one", async () => {
    const db = await connect();
    const { version } = await db.newest();
    const { text } = await findVersion(db, "7");
    const again = text.replace("version = 7", `version = ${version}`);
    expect((await push(again, "eve", "rollback to version 7")).at(-1)).toBe("exit 0");
    const [newest, ...rest] = await db.history();
    expect(newest).toMatchObject({ version: (version ?? 0) + 1, note: "rollback to version 7" });
    expect(rest.map((row) => row.version)).toEqual([9, 8, 7]);
    expect(historyLine(newest ?? rest[0] ?? ({} as never))).toContain("rollback to version 7");
    expect((await findVersion(db, undefined)).config.timing.leaseMs).toBe(3000);
  });

  test("what a host must not believe cannot be pushed", async () => {
    const text = documentText(10);
    const command = text.replace('host = "10.0.0.1"', 'host = "10.0.0.1"\nmariadbd = ["/bin/sh"]');
    await expect(push(command)).rejects.toThrow("dbserver[0].mariadbd may not be in the database");
    await expect(push(text.replace("10.0.0.9", "10.0.0.8"))).rejects.toThrow(
      "arbitrator: it would",
    );
    await expect(push(text.replace("version = 10\n", ""))).rejects.toThrow("version is missing");
    await expect(push("version = ")).rejects.toThrow("it is not TOML");
  });

  test("a row whose checksum does not fit is not believed", async () => {
    await bed.root.query(
      "UPDATE minder.config SET document = CONCAT(document, '#') WHERE version = 8",
    );
    const db = await connect();
    await expect(db.read(8)).rejects.toThrow("Config version 8 is damaged");
  });

  test("a row that says what the database must not say is not believed, and the host says so", async () => {
    const text = documentText(99).replace("host = ", 'unit = "evil.service"\nhost = ');
    await bed.root.query(
      "INSERT INTO minder.config VALUES (99, 10, ?, SHA2(?, 256), 'mallory', UTC_TIMESTAMP(3), '')",
      [text, text],
    );
    const node = parseNodeFile(
      {
        node: { id: "dbserver.1" },
        database: { addresses: [bed.server.socketPath], user: "root" },
      },
      "test",
    );
    const found = await newestDocument(node, { boundMs: 2_000, wanted: 0, known: null });
    expect("error" in found ? found.error : "").toContain("may not be in the database");
    await bed.root.query("DELETE FROM minder.config WHERE version = 99");
    const whole = await newestDocument(node, { boundMs: 2_000, wanted: 0, known: null });
    expect("document" in whole ? whole.document.mark.version : null).toBe(10);
  });

  test("a fenced server still tells what it has", async () => {
    await bed.root.query("SET GLOBAL wsrep_reject_queries = ALL");
    try {
      expect((await (await connect()).newest()).version).toBe(10);
      await expect(connect({ primary: true })).rejects.toThrow("not Primary, or fenced");
    } finally {
      await bed.root.query("SET GLOBAL wsrep_reject_queries = NONE");
    }
  });

  test("a reader's account reads, an operator's pushes, and neither changes what is there", async () => {
    for (const [user, statements] of [
      ["r", readerStatements({ user: "r", host: "localhost", password: "" })],
      ["o", operatorStatements({ user: "o", host: "localhost", password: "" })],
    ] as const) {
      for (const sql of statements) await bed.root.query(sql);
      const db = await connect({ user });
      expect((await db.newest()).version).toBe(10);
    }
    const text = documentText(10, { policy: "local-first" });
    const reader = await connect({ user: "r" });
    const bound = { text, base: 10, note: "" };
    await expect(reader.push({ ...bound, author: "r" })).rejects.toThrow("denied");
    const operator = await connect({ user: "o" });
    await operator.init();
    expect((await operator.push({ ...bound, author: "o" })).is).toBe("pushed");
    const [grants] = await bed.root.query("SHOW GRANTS FOR 'o'@'localhost'");
    expect(JSON.stringify(grants)).not.toMatch(/UPDATE|DELETE|DROP|ALTER/);
  });
});
