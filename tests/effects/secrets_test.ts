import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  openSecrets,
  readKeyring,
  readSecretFile,
  secretPlaces,
  takesUnsigned,
  writeSecretFile,
} from "../../lib/effects/secrets.ts";
import { formatError } from "../../lib/errors.ts";
import { createLog } from "../../lib/log.ts";
import { SealKey } from "../../lib/seal.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const folder = makeScratch("secrets");
const ONE = "one-secret-of-at-least-32-characters";
const TWO = "two-secret-of-at-least-32-characters";
let files = 0;

function file(text: string, mode = 0o600): string {
  const path = join(folder, `secret${files++}`);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

function complaint(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return formatError(error);
  }
  throw new Error("It was taken");
}

afterAll(() => removeScratch(folder));

describe("readSecretFile()", () => {
  test("reads one key or two, the signing one first", () => {
    expect(readSecretFile(file(`${ONE}\n${TWO}\n`), "node").map(({ id }) => id)).toEqual([
      new SealKey("node", ONE).id,
      new SealKey("node", TWO).id,
    ]);
  });

  test("refuses a file that group or others can read, or write to", () => {
    for (const mode of [0o640, 0o604, 0o620, 0o602, 0o660, 0o777]) {
      const told = complaint(() => readSecretFile(file(ONE, mode), "node"));
      expect(told).toContain(`its mode is ${mode.toString(8)}`);
      expect(told).toContain("hint: chmod 600");
      expect(told).not.toContain(ONE);
    }
    for (const mode of [0o600, 0o400])
      expect(readSecretFile(file(ONE, mode), "node")).toHaveLength(1);
  });

  test("refuses what is missing, no plain file, too large or of another form", () => {
    expect(complaint(() => readSecretFile(join(folder, "none"), "operator"))).toContain(
      "Cannot read the operator secret",
    );
    chmodSync(folder, 0o700);
    expect(complaint(() => readSecretFile(folder, "node"))).toContain("no plain file");
    expect(complaint(() => readSecretFile(file("x".repeat(9000)), "node"))).toContain("9000 bytes");
    expect(complaint(() => readSecretFile(file("tooshort!"), "node"))).toContain("9 characters");
  });
});

describe("readKeyring()", () => {
  test("refuses one file for nodes and operators", () => {
    const path = file(ONE);
    expect(complaint(() => readKeyring({ node: path, operator: path }))).toContain(
      "cannot be the operators' as well",
    );
  });

  test("the environment of a process has the last word about places", () => {
    const security = { secretFile: "/a", operatorFile: null, unsigned: false, tls: null };
    expect(secretPlaces(security, {})).toEqual({ node: "/a", operator: null });
    const env = { GM_SECRET_FILE: "/b", GM_OPERATOR_FILE: "/c" };
    expect(secretPlaces(security, env)).toEqual({ node: "/b", operator: "/c" });
  });
});

describe("takesUnsigned()", () => {
  test("where the environment names the secret, no config can allow it", () => {
    const security = { secretFile: null, operatorFile: null, unsigned: true, tls: null };
    expect(takesUnsigned(security, {})).toBe(true);
    expect(takesUnsigned(security, { GM_SECRET_FILE: "/b" })).toBe(false);
    expect(takesUnsigned(security, { GM_SECRET_FILE: "/b", GM_UNSIGNED: "1" })).toBe(true);
  });
});

describe("writeSecretFile()", () => {
  test("makes a file that is accepted, and never overwrites one", () => {
    const path = join(folder, "made");
    writeSecretFile(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const [key] = readSecretFile(path, "node");
    expect(complaint(() => writeSecretFile(path))).toContain("Cannot make a secret file");
    expect(readSecretFile(path, "node")[0]?.id).toBe(key?.id);
  });
});

describe("openSecrets()", () => {
  const lines: string[] = [];
  const log = createLog({ role: "t", node: "t", wall: () => "", sink: (line) => lines.push(line) });

  test("follows the file on reload, and by itself", async () => {
    const path = file(ONE);
    const secrets = openSecrets({ node: path, operator: null }, log, 5);
    const ids = (): readonly string[] => secrets.ring().keys.map(({ id }) => id);
    try {
      writeFileSync(path, `${ONE}\n${TWO}\n`);
      secrets.reload();
      expect(ids()).toHaveLength(2);
      const next = file(`${TWO}\n${ONE}\n`);
      renameSync(next, path);
      const giveUpAt = performance.now() + 30_000;
      while (ids()[0] !== new SealKey("node", TWO).id) {
        if (performance.now() > giveUpAt) throw new Error("The change was not noticed");
        await Bun.sleep(5);
      }
    } finally {
      secrets.close();
    }
  });

  test("keeps the keys where the file has become unusable, and says so", () => {
    const path = file(ONE);
    const secrets = openSecrets({ node: path, operator: null }, log);
    try {
      lines.length = 0;
      for (const spoil of [() => chmodSync(path, 0o644), () => rmSync(path)]) {
        spoil();
        secrets.reload();
        expect(secrets.ring().keys).toHaveLength(1);
        expect(lines.at(-1)).toContain('"event":"keys_not_read"');
      }
      expect(lines.join()).not.toContain(ONE);
    } finally {
      secrets.close();
    }
  });
});
