import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import {
  machineId,
  STATE_FILE_MAX_BYTES,
  type StateFile,
  stateFile,
  WRITES_MAX,
} from "../../lib/effects/state_file.ts";
import { MinderError } from "../../lib/errors.ts";

const Schema = v.strictObject({ epoch: v.number(), note: v.string() });
type Value = v.InferOutput<typeof Schema>;

let folder = "";
let path = "";

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "minder-state-test-"));
  path = join(folder, "state", "epochs.json");
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

function openFile(machine = "machine-a"): StateFile<Value> {
  return stateFile<Value>({ path, schema: Schema, machine });
}

const VALUE: Value = { epoch: 7, note: "zwölf\n\u2028" };

describe("stateFile()", () => {
  test("reads what was written, and nothing before it", async () => {
    expect(await openFile().read()).toEqual({ is: "absent" });
    expect(await openFile().write(VALUE)).toBeNull();
    expect(await openFile().read()).toEqual({ is: "read", value: VALUE });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await stat(join(folder, "state"))).mode & 0o777).toBe(0o700);
  });

  test("leaves nothing but the file, even after a write that was cut short", async () => {
    await mkdir(join(folder, "state"));
    await writeFile(join(folder, "state", ".epochs.json.new"), "half a li");
    await openFile().write(VALUE);
    expect(await readdir(join(folder, "state"))).toEqual(["epochs.json"]);
    expect(await openFile().read()).toEqual({ is: "read", value: VALUE });
  });

  test("writes in the order in which it was asked, the last value stays", async () => {
    const file = openFile();
    const writes = Array.from({ length: 20 }, (_, epoch) => file.write({ epoch, note: "" }));
    await Promise.all(writes);
    expect(await file.read()).toEqual({ is: "read", value: { epoch: 19, note: "" } });
  });

  test("refuses more writes than it bounds, and goes on afterwards", async () => {
    const file = openFile();
    const writes = Array.from({ length: WRITES_MAX + 1 }, (_, epoch) =>
      file.write({ epoch, note: "" }),
    );
    const results = await Promise.allSettled(writes);
    expect(results.filter((result) => result.status === "rejected")).toHaveLength(1);
    await file.write(VALUE);
    expect(await file.read()).toEqual({ is: "read", value: VALUE });
  });

  const damages: readonly [string, (text: string) => string][] = [
    ["emptied", () => ""],
    ["cut short", (text) => text.slice(0, -5)],
    ["cut to its first line", (text) => text.slice(0, text.indexOf("\n") + 1)],
    ["filled with zero bytes", (text) => "\0".repeat(text.length)],
    ["edited", (text) => text.replace('"epoch":7', '"epoch":8')],
    ["lengthened", (text) => `${text} `],
    ["replaced by plain JSON", () => JSON.stringify(VALUE)],
    ["grown beyond the bound", (text) => text + "x".repeat(STATE_FILE_MAX_BYTES)],
  ];
  for (const [name, damage] of damages) {
    test(`reports a file that was ${name} as corrupt, and keeps it aside at the next write`, async () => {
      const file = openFile();
      await file.write(VALUE);
      const damaged = damage(await readFile(path, "utf8"));
      await writeFile(path, damaged);
      // Reading, even twice, changes nothing.
      expect(await file.read()).toMatchObject({ is: "corrupt", because: expect.any(String) });
      expect(await file.read()).toMatchObject({ is: "corrupt" });
      expect(await readFile(path, "utf8")).toBe(damaged);
      const keptAs = await file.write({ epoch: 9, note: "" });
      expect(keptAs).toBe(`${path}.corrupt-1`);
      expect(await readFile(`${path}.corrupt-1`, "utf8")).toBe(damaged);
      expect(await file.read()).toEqual({ is: "read", value: { epoch: 9, note: "" } });
    });
  }

  test("calls a file with a checksum that fits, and no value, corrupt", async () => {
    await mkdir(join(folder, "state"));
    for (const body of ["", "{", "[]", '{"machine":"machine-a"}']) {
      const sum = new Bun.CryptoHasher("sha256").update(body).digest("hex");
      await writeFile(path, `galera-minder-state 1 sha256 ${sum}\n${body}`);
      expect(await openFile().read()).toEqual({ is: "corrupt", because: "it has no value in it" });
    }
  });

  test("keeps each corrupt file under a name of its own", async () => {
    const file = openFile();
    await file.write(VALUE);
    await writeFile(path, "a");
    await file.write(VALUE);
    await writeFile(path, "b");
    expect(await file.write(VALUE)).toBe(`${path}.corrupt-2`);
    expect(await readFile(`${path}.corrupt-1`, "utf8")).toBe("a");
  });

  test("calls a whole file with a value of another form corrupt", async () => {
    await stateFile({ path, schema: v.object({ other: v.number() }), machine: "machine-a" }).write({
      other: 1,
    });
    expect(await openFile().read()).toMatchObject({
      is: "corrupt",
      because: expect.stringContaining("of another form"),
    });
  });

  test("notices a backup that was put back over it", async () => {
    const file = openFile();
    await file.write(VALUE);
    await copyFile(path, join(folder, "backup"));
    await file.write({ epoch: 8, note: "" });
    await file.write({ epoch: 9, note: "" });
    await copyFile(join(folder, "backup"), path);
    expect(await file.read()).toMatchObject({ is: "copied", value: VALUE });
    expect(await file.write({ epoch: 10, note: "" })).toBe(`${path}.copied-1`);
    expect(await file.read()).toMatchObject({ is: "read", value: { epoch: 10 } });
  });

  test("notices a backup that was put back as a new file", async () => {
    const file = openFile();
    await file.write(VALUE);
    await copyFile(path, join(folder, "backup"));
    await rm(path);
    await copyFile(join(folder, "backup"), path);
    expect(await file.read()).toMatchObject({
      is: "copied",
      because: expect.stringContaining("as file"),
    });
  });

  test("notices a copy on another machine", async () => {
    await openFile("machine-a").write(VALUE);
    expect(await openFile("machine-b").read()).toMatchObject({
      is: "copied",
      because: "it was written on machine machine-a, this is machine-b",
    });
  });

  test("says what stands in the way of reading and of writing", async () => {
    await mkdir(join(folder, "state"));
    await symlink("/etc/hostname", path);
    const error = await openFile()
      .read()
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MinderError);
    expect((error as MinderError).where).toBe(path);
    const blocked = stateFile<Value>({ path: "/proc/nowhere/x", schema: Schema, machine: "m" });
    const refused = await blocked.write(VALUE).catch((thrown: unknown) => thrown);
    expect(refused).toBeInstanceOf(MinderError);
    expect((refused as MinderError).message).toBe("Cannot write state");
  });
});

describe("machineId()", () => {
  test("is that of machine-id(5), or the host's name where there is none", async () => {
    const file = join(folder, "machine-id");
    await writeFile(file, "0123456789abcdef0123456789abcdef\n");
    expect(await machineId(file)).toBe("0123456789abcdef0123456789abcdef");
    await writeFile(file, "uninitialized\n");
    expect(await machineId(file)).toStartWith("host ");
    expect(await machineId(join(folder, "none"))).toStartWith("host ");
  });
});
