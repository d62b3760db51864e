/** Where a process takes its config from: the database, or its local copy when that is away, damaged or older. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openConfigDb } from "../../lib/effects/config_db.ts";
import { createLog } from "../../lib/log.ts";
import { type ConfigKeeper, openConfig } from "../../lib/run/config_keeper.ts";
import { type ConfigBed, documentText, makeConfigBed } from "../support/config_bed.ts";
import { makeMariadbd, until } from "../support/mariadbd.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const made = await makeMariadbd();

describe.skipIf(made === null)("a keeper", () => {
  let bed: ConfigBed;
  let folder: string;
  let count = 0;
  const scratch = makeScratch("keeper");
  const keepers: ConfigKeeper[] = [];

  beforeAll(async () => {
    if (made === null) return;
    bed = await makeConfigBed(made);
  }, 40_000);

  beforeEach(async () => {
    for (const keeper of keepers) keeper.stop();
    folder = join(scratch, String(++count));
    await bed.root.query("DROP DATABASE IF EXISTS minder");
    const db = await openConfigDb(root());
    await db.init();
    db.close();
    await push(documentText(1), null);
  });

  afterAll(async () => {
    for (const keeper of keepers) keeper.stop();
    removeScratch(scratch);
    await bed?.remove();
  }, 30_000);

  function root() {
    return { addresses: [bed.server.socketPath], user: "root", passwordFile: null };
  }

  async function push(text: string, base: number | null): Promise<void> {
    const db = await openConfigDb(root());
    expect((await db.push({ text, base, author: "eve", note: "" })).is).toBe("pushed");
    db.close();
  }

  /** A node's own file, and what a process that starts with it finds. */
  async function start(id = "dbserver.1"): Promise<ConfigKeeper> {
    const file = join(scratch, `${count}.toml`);
    writeFileSync(
      file,
      [
        `[node]\nid = "${id}"\nstate_dir = "${folder}"`,
        `[database]\naddresses = ["${bed.server.socketPath}"]\nuser = "root"`,
        '[local]\ndatadir = "/data"\n',
      ].join("\n"),
    );
    const { keeper } = await openConfig(file, undefined);
    if (keeper === null) throw new Error("a node's own file makes a keeper");
    keepers.push(keeper);
    return keeper;
  }

  const copy = () => join(folder, "config.state");

  /** Lets it ask the database; the versions that it has gone by, and those held, as they come. */
  function watch(keeper: ConfigKeeper): { readonly seen: string[]; readonly lines: string[] } {
    const seen: string[] = [];
    const lines: string[] = [];
    const log = createLog({
      role: "test",
      node: "test",
      wall: () => "now",
      sink: (line) => lines.push(line),
    });
    keeper.watch(log, ({ active, held }) => {
      seen.push(
        held === null ? `${active.mark.version}` : `${active.mark.version}<${held.mark.version}`,
      );
    });
    return { seen, lines };
  }

  test("takes the database's document at its first start, and keeps a copy", async () => {
    const keeper = await start();
    expect(keeper.version()).toBe(1);
    expect(keeper.shelf().active.config.serverById.get("dbserver.1")?.datadir).toBe("/data");
    expect(readFileSync(copy(), "utf8")).toContain("What is kept is this very text");
  });

  test("goes by its copy when the database is gone at its start", async () => {
    await start();
    await bed.stop();
    try {
      const keeper = await start();
      expect(keeper.version()).toBe(1);
      expect(String(keeper.status()["database"])).toContain("Cannot reach the database");
    } finally {
      await bed.start();
    }
  }, 40_000);

  test("goes by its copy when the database is older, or has lost its table", async () => {
    await push(documentText(1, { policy: "local-first" }), 1);
    await start();
    await bed.root.query("DELETE FROM minder.config WHERE version = 2");
    expect((await start()).version()).toBe(2);
    await bed.root.query("DROP TABLE minder.config");
    expect((await start()).version()).toBe(2);
  });

  test("sets a damaged copy aside, names it, and takes the database's", async () => {
    await start();
    const torn = readFileSync(copy(), "utf8").slice(0, 500);
    writeFileSync(copy(), torn);
    const keeper = await start();
    expect(keeper.version()).toBe(1);
    expect(String(keeper.status()["database"])).toContain("config.state.corrupt-1");
    expect(readdirSync(folder).sort()).toEqual(["config.state", "config.state.corrupt-1"]);
    expect(readFileSync(join(folder, "config.state.corrupt-1"), "utf8")).toBe(torn);
  });

  test("with neither says where it looked", async () => {
    await bed.root.query("DROP DATABASE minder");
    const error = await start().catch((thrown: unknown) => thrown as Error & { where?: string });
    if (!(error instanceof Error)) throw new Error("it started");
    expect(error.message).toContain("there is no config in it");
    expect(error.where).toContain("config.state: there is none");
  });

  test("fetches at once what a message has told of, and goes by it", async () => {
    // A role without a say: by itself it looks every 15 s, the first time excepted.
    const keeper = await start("dbclient.1");
    const { seen } = watch(keeper);
    await push(documentText(1, { policy: "local-first" }), 1);
    await until("version 2", 30_000, () => seen.includes("2"));
    await push(documentText(2, { policy: "single-writer" }), 2);
    const heardAt = performance.now();
    keeper.heard(3);
    await until("version 3", 30_000, () => seen.includes("3"));
    expect(performance.now() - heardAt).toBeLessThan(10_000);
    expect(seen).toEqual(["1", "2", "3"]);
  });

  test("finds by itself what no message has told of", async () => {
    const keeper = await start();
    const { seen } = watch(keeper);
    await push(documentText(1, { policy: "local-first" }), 1);
    await until("version 2", 30_000, () => seen.includes("2"));
  });

  test("holds other rules until they are said to be in force, a restart in between", async () => {
    const first = await start();
    const { seen } = watch(first);
    await push(documentText(1, { leaseMs: 2500 }), 1);
    first.heard(2);
    await until("version 2 is held", 30_000, () => seen.includes("1<2"));
    first.stop();
    const again = await start();
    expect(again.shelf().active.mark.version).toBe(1);
    const mark = again.shelf().held?.mark;
    if (mark === undefined) throw new Error("nothing is held after the restart");
    await again.adopt(mark);
    expect(again.shelf()).toMatchObject({ active: { mark: { version: 2 } }, held: null });
    expect((await start()).shelf().active.mark.version).toBe(2);
  });

  test("goes back to the document that is in force, and holds the newer one", async () => {
    const one = (await start()).shelf().active.mark;
    folder = join(scratch, `${count}-fresh`);
    await push(documentText(1, { leaseMs: 2500 }), 1);
    // A host without a copy cannot know that version 2 is only pending.
    const keeper = await start();
    expect(keeper.shelf().active.mark.version).toBe(2);
    await keeper.adopt(one);
    expect(keeper.shelf()).toMatchObject({
      active: { mark: { version: 1 } },
      held: { mark: { version: 2 } },
    });
  });

  test("goes back, and on at once to a newer one that has the same rules", async () => {
    const one = (await start()).shelf().active.mark;
    await push(documentText(1, { policy: "local-first" }), 1);
    const keeper = await start();
    expect(keeper.shelf().active.mark.version).toBe(2);
    await keeper.adopt(one);
    expect(keeper.shelf()).toMatchObject({ active: { mark: { version: 2 } }, held: null });
  });

  test("a client minder holds other rules too, until servers go by them", async () => {
    const keeper = await start("dbclient.1");
    const { seen } = watch(keeper);
    await push(documentText(1, { leaseMs: 2500 }), 1);
    keeper.heard(2);
    await until("version 2 is held", 30_000, () => seen.includes("1<2"));
    expect(seen).not.toContain("2");
  });

  test("a version pushed elsewhere and lost gives way to the database's, and that shows", async () => {
    await push(documentText(1, { policy: "local-first" }), 1);
    const keeper = await start();
    const { seen, lines } = watch(keeper);
    // The other side of the cut has won: its version 2 is another text.
    await bed.root.query("DELETE FROM minder.config WHERE version = 2");
    await push(documentText(1, { policy: "single-writer" }), 1);
    await until("the other version 2", 30_000, () => seen.length > 1);
    expect(keeper.shelf().active.config.clients[0]?.policy).toBe("single-writer");
    expect(lines.join("\n")).toContain("config_replaced");
  });

  test("does not tire the database with a version that nobody has", async () => {
    const keeper = await start();
    const { seen } = watch(keeper);
    keeper.heard(99);
    await push(documentText(1, { policy: "local-first" }), 1);
    await until("version 2", 30_000, () => seen.includes("2"));
    expect(keeper.version()).toBe(2);
  });
});
