/** Every program's front door: help, wrong use, wrong config, and the exit codes that monitors rely on. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configPath, EXIT_FAILED, EXIT_USAGE } from "../../lib/cli.ts";

// Each test starts programs, which a busy machine makes slow.
setDefaultTimeout(60_000);
const SCRIPTS = join(import.meta.dir, "..", "..", "scripts");
const EXAMPLE = join(import.meta.dir, "..", "..", "config", "cluster.example.toml");
const folder = mkdtempSync(join(tmpdir(), "galera-minder-usage-"));

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(script: string, ...args: string[]) {
  const ran = Bun.spawnSync([process.execPath, join(SCRIPTS, `${script}.ts`), ...args], {
    env: { ...process.env, GM_CONFIG: "" },
  });
  return { code: ran.exitCode, out: ran.stdout.toString(), err: ran.stderr.toString() };
}

/** The example config with one line changed. */
function configWith(name: string, from: string, to: string): string {
  const path = join(folder, `${name}.toml`);
  writeFileSync(path, readFileSync(EXAMPLE, "utf8").replace(from, to));
  return path;
}

describe("each program", () => {
  const all = ["arbitrator", "server", "client", "minder", "status", "command", "demo"];
  for (const script of [...all, "history", "what_if"]) {
    test(`${script} explains itself with --help`, () => {
      const { code, out } = run(script, "--help");
      expect(code).toBe(0);
      expect(out).toStartWith(`Usage: ${script}.ts`);
    });
  }

  for (const script of [
    "arbitrator",
    "server",
    "client",
    "minder",
    "command",
    "history",
    "what_if",
  ]) {
    test(`${script} refuses an unknown option with exit code 2`, () => {
      const { code, err } = run(script, "--bogus");
      expect(code).toBe(EXIT_USAGE);
      expect(err).toContain("error: Cannot understand the call");
      expect(err).toContain("hint: See --help");
    });
  }

  test("names key, value and what is allowed of a wrong config, with exit code 2", () => {
    const config = configWith("wrong", "lease_ms = 3000", "lease_ms = 12");
    const { code, err } = run("minder", "--config", config, "--node", "arbitrator.1");
    expect(code).toBe(EXIT_USAGE);
    expect(err).toContain("timing.lease_ms");
    expect(err).toContain("12");
  });

  test("says where it looked for a config that is not there", () => {
    const { code, err } = run("server", "--config", join(folder, "nowhere.toml"));
    expect(code).toBe(EXIT_USAGE);
    expect(err).toContain("nowhere.toml");
  });

  test("finds no role for a host that the config does not name, and lists those it names", () => {
    const { code, err } = run("minder", "--config", EXAMPLE, "--node", "dbserver.99");
    expect(code).toBe(EXIT_USAGE);
    expect(err).toContain('--node is "dbserver.99", the config has arbitrator.1 at ');
  });
});

describe("status", () => {
  test("exits 3 when nobody answers: it cannot tell", () => {
    const config = configWith(
      "dead",
      /host = "[^"]+"/.exec(readFileSync(EXAMPLE, "utf8"))?.[0] ?? "",
      'host = "127.0.0.1"',
    );
    const unsigned = readFileSync(config, "utf8").replace(/^(secret|operator)_file/gm, "# $&");
    writeFileSync(config, unsigned);
    const { code, err } = run("status", "--config", config, "--timeout-ms", "300");
    expect(code).toBe(3);
    expect(err).toContain("error: Cannot ask the arbitrator");
  });

  test("exits 3 on wrong use, so that no monitor takes it for an answer", () => {
    expect(run("status", "--timeout-ms", "soon", "--config", EXAMPLE).code).toBe(3);
    expect(run("status", "--bogus").code).toBe(3);
  });
});

describe("command", () => {
  test("refuses what is no order, or lacks its name, with exit code 2", () => {
    for (const words of [["dance"], ["drain"], ["drain", "a", "b"], ["pause", "dc1"], []]) {
      const { code, err } = run("command", "--config", EXAMPLE, ...words);
      expect(`${words.join(" ")}: ${code}`).toBe(`${words.join(" ")}: ${EXIT_USAGE}`);
      expect(err).toStartWith("error: ");
    }
  });

  test("fails with exit code 1 where the arbitrator cannot be reached", () => {
    const config = configWith(
      "dead2",
      /host = "[^"]+"/.exec(readFileSync(EXAMPLE, "utf8"))?.[0] ?? "",
      'host = "127.0.0.1"',
    );
    expect(run("command", "--config", config, "pause").code).toBe(EXIT_FAILED);
  });
});

describe("what_if", () => {
  test("refuses what is no fault with the faults that there are, and exit code 2", () => {
    for (const words of [[], ["db1"], ["db9-down"], ["link-down", "db1-down"]]) {
      const { code, err } = run("what_if", "--config", EXAMPLE, ...words);
      expect([words, code]).toEqual([words, words[0] === "db1" ? EXIT_FAILED : EXIT_USAGE]);
      expect(err).toStartWith("error: ");
    }
  });
});

test("a config that was named is used, whatever else lies around", () => {
  expect(configPath("/etc/galera-minder/cluster.toml")).toBe("/etc/galera-minder/cluster.toml");
});
