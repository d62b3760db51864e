import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CONFIG_FILE_MAX_BYTES,
  lineOfKey,
  parseClusterToml,
  parseDocument,
  readClusterConfig,
  readConfigFile,
  readConfigText,
} from "../../lib/effects/config_file.ts";
import { MinderError } from "../../lib/errors.ts";

const EXAMPLE = new URL("../../config/cluster.example.toml", import.meta.url).pathname;
const NODE_EXAMPLE = new URL("../../config/node.example.toml", import.meta.url).pathname;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "minder-config-test-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function errorOf(work: () => Promise<unknown> | unknown): Promise<MinderError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof MinderError) return error;
    throw error;
  }
  throw new Error("Nothing was thrown");
}

describe("readClusterConfig()", () => {
  test("names a file that is not there, and the cause", async () => {
    const path = join(folder, "none.toml");
    const error = await errorOf(() => readClusterConfig(path));
    expect(error.where).toBe(path);
    expect(String(error.cause)).toContain("ENOENT");
    expect(error.hint).toContain("cluster.example.toml");
  });

  test("refuses a file beyond the bound without reading it", async () => {
    const path = join(folder, "huge.toml");
    await Bun.write(path, "#".repeat(CONFIG_FILE_MAX_BYTES + 1));
    const error = await errorOf(() => readClusterConfig(path));
    expect(error.message).toContain(`at most ${CONFIG_FILE_MAX_BYTES}`);
  });

  test("refuses bytes that are not UTF-8", async () => {
    const path = join(folder, "latin1.toml");
    await Bun.write(path, new Uint8Array([0x23, 0xe9, 0x0a]));
    expect((await errorOf(() => readClusterConfig(path))).message).toContain("not UTF-8");
  });
});

describe("parseClusterToml()", () => {
  test("names the line from which the text is not TOML", async () => {
    const error = await errorOf(() =>
      parseClusterToml('version = 1\n[cluster]\nname = = "x"\n', "f"),
    );
    expect(error.where).toBe("f, line 3 or after");
    expect(error.message).toBe("Cannot read cluster config: it is not TOML");
  });

  test("names the line of each wrong key", async () => {
    const text = (await Bun.file(EXAMPLE).text())
      .replace('name = "db3"', 'name = "db 3"')
      .replace("lease_ms = 3000", "leese_ms = 3000");
    const lines = text.split("\n");
    const error = await errorOf(() => parseClusterToml(text, "f"));
    const nameLine = lines.indexOf('name = "db 3"') + 1;
    const leaseLine = lines.indexOf("leese_ms = 3000") + 1;
    expect(error.message).toContain(`(line ${nameLine})`);
    expect(error.message).toContain(
      `timing.leese_ms is not a known key, did you mean lease_ms? (line ${leaseLine})`,
    );
  });
});

describe("lineOfKey()", () => {
  const text = "version = 1\n[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n[t]\nz = 4\n";
  test("finds plain keys, keys of the nth table and of tables below it", () => {
    expect(lineOfKey(text, "version")).toBe(1);
    expect(lineOfKey(text, "a[0].x")).toBe(3);
    expect(lineOfKey(text, "a[1].x")).toBe(5);
    expect(lineOfKey(text, "a[1].b.y")).toBe(7);
    expect(lineOfKey(text, "t.z")).toBe(9);
  });

  test("gives the table where the key is missing, and null where there is none", () => {
    expect(lineOfKey(text, "a[1].missing")).toBe(4);
    expect(lineOfKey(text, "t.missing")).toBe(8);
    expect(lineOfKey(text, "nowhere")).toBeNull();
  });
});

describe("a config path", () => {
  test("leads to a site file or to a node's own one: the examples", async () => {
    expect((await readConfigFile(EXAMPLE)).is).toBe("site");
    const file = await readConfigFile(NODE_EXAMPLE);
    if (file.is !== "node") throw new Error("the example is no node file");
    expect(file.node.node.id).toBe("dbserver.1");
    expect(file.node.local.mariadbd?.[0]).toBe("/usr/sbin/mariadbd");
    expect(Object.keys(file.node.security ?? {})).toEqual(["secret_file"]);
  });

  test("of the whole example names every key that a document for the database must leave out", async () => {
    const text = await readConfigText(EXAMPLE);
    const error = await errorOf(() => parseDocument(text, EXAMPLE, null));
    for (const key of ["database", "security", "arbitrator[0].state_dir", "dbserver[0].mariadbd"]) {
      expect(error.message).toContain(`${key} may not be in the database`);
    }
    const local = /^(?:state_dir|mysql_socket|datadir|mariadbd|socket) .*$/gm;
    const tables = /^\[(?:database|security)\]\n(?:(?!\[).*\n)*/gm;
    const { mark, config } = parseDocument(
      text.replace(tables, "").replace(local, ""),
      "test",
      null,
    );
    expect(mark.version).toBe(config.version);
    expect(config.servers.length).toBe(4);
  });
});
