/**
 * mariadbd as a unit. systemd is played by a script that logs what it is told and runs a real process
 * by the name of mariadbd in the data directory; the watch over that process is the real one.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ProcessFact } from "../../lib/core/dbserver_io.ts";
import type { ServerProcess } from "../../lib/effects/process.ts";
import { argumentsText, manageUnit, type UnitOptions } from "../../lib/effects/unit.ts";
import { sudoersLines } from "../../lib/systemd.ts";
import { until } from "../support/mariadbd.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

let directory = "";
let managed: ServerProcess;
let told: ProcessFact[] = [];

const REFUSED = "Failed to start mariadb.service: Interactive authentication required.";

/** A systemctl for one unit, whose state and pid are files. */
const SYSTEMCTL = `#!/bin/bash
cd "$(dirname "$0")"
[ "$1" = --no-ask-password ] && shift
echo "$*" >> calls
[ -e hang ] && [ "$ELEVATED" != 1 ] && exec sleep 60
[ -e refuse ] && [ "$ELEVATED" != 1 ] && { cat refuse >&2; exit 1; }
case "$1" in
  start)
    if [ -e gate-says-no ]; then echo failed > state; exit 0; fi
    echo active > state
    (cd data; exec setsid ../mariadbd 60) < /dev/null > /dev/null 2>&1 &
    echo $! > pid ;;
  stop) [ -e stubborn ] || kill -TERM "$(cat pid)" ;;
  kill) kill -KILL "$(cat pid)" ;;
  show) echo "ActiveState=$(cat state)"; echo "Result=exit-code" ;;
esac
`;

beforeEach(() => {
  directory = makeScratch("unit");
  mkdirSync(join(directory, "data"));
  copyFileSync("/bin/sleep", join(directory, "mariadbd"));
  writeFileSync(join(directory, "state"), "inactive\n");
  writeFileSync(join(directory, "systemctl"), SYSTEMCTL, { mode: 0o755 });
  told = [];
  managed = manageUnit(options());
});

function options(): UnitOptions {
  return {
    unit: "mariadb.service",
    systemctl: [join(directory, "systemctl")],
    elevated: ["env", "ELEVATED=1", join(directory, "systemctl")],
    argumentsFile: join(directory, "run", "arguments.env"),
    datadir: join(directory, "data"),
    pidFile: join(directory, "pid.json"),
    logFile: join(directory, "log"),
    startTimeoutMs: 5_000,
    onChange: (fact) => told.push(fact),
  };
}

afterEach(async () => {
  await managed.kill();
  managed.close();
  removeScratch(directory);
});

function calls(): readonly string[] {
  const file = join(directory, "calls");
  return existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [];
}

describe("mariadbd as a unit", () => {
  test("is started with its arguments in a file, and found as soon as it runs", async () => {
    expect(managed.adopt().is).toBe("stopped");
    const started = await managed.start(["--wsrep-start-position=a-b:7", "--wsrep-new-cluster"]);
    expect(started).toMatchObject({ is: "running" });
    expect(told).toEqual([started]);
    expect(readFileSync(join(directory, "run", "arguments.env"), "utf8")).toBe(
      "GALERA_MINDER_ARGS=--wsrep-start-position=a-b:7 --wsrep-new-cluster\n",
    );
    expect(calls()).toEqual(["reset-failed mariadb.service", "start --no-block mariadb.service"]);
    await expect(managed.start([])).rejects.toThrow("one runs already");
  });

  test("is stopped gracefully, and its end is told once", async () => {
    await managed.start([]);
    expect((await managed.stop(30_000)).is).toBe("stopped");
    expect(told.map(({ is }) => is)).toEqual(["running", "stopped"]);
    expect(calls().at(-1)).toBe("stop --no-block mariadb.service");
  });

  test("that does not stop is killed after its grace", async () => {
    await managed.start([]);
    writeFileSync(join(directory, "stubborn"), "");
    const at = performance.now();
    expect((await managed.stop(300)).is).toBe("stopped");
    expect(performance.now() - at).toBeGreaterThan(290);
  });

  test("that ends by itself is told of at once", async () => {
    const started = await managed.start([]);
    if (started.is === "running") process.kill(started.pid, "SIGKILL");
    await until("its end", 30_000, () => told.length === 2);
    expect(managed.current().is).toBe("stopped");
  });

  test("which the gate does not let start says so at once, and where to look", async () => {
    writeFileSync(join(directory, "gate-says-no"), "");
    await expect(managed.start([])).rejects.toThrow("mariadb.service is failed (exit-code)");
  });

  // With polkit and no rule; without polkit; where it is masked; without a bus: words of systemd 252.
  for (const words of [
    REFUSED,
    "Failed to start mariadb.service: Access denied",
    "Failed to start mariadb.service: Unit polkit.service is masked.",
    "Failed to connect to bus: Connection refused",
  ]) {
    test(`the way with more rights is taken after: ${words}`, async () => {
      writeFileSync(join(directory, "refuse"), `${words}\n`);
      expect((await managed.start([])).is).toBe("running");
      expect((await managed.stop(30_000)).is).toBe("stopped");
    });
  }

  test("it is taken too where the plain one does not answer", async () => {
    writeFileSync(join(directory, "hang"), "");
    managed.close();
    managed = manageUnit({ ...options(), commandTimeoutMs: 1_500 });
    expect((await managed.start([])).is).toBe("running");
    expect((await managed.stop(30_000)).is).toBe("stopped");
  });

  test("it is not taken for what is no refusal: sudo tells people of each vain try", async () => {
    writeFileSync(join(directory, "refuse"), "Unit mariadb.service not found.\n");
    await expect(managed.start([])).rejects.toThrow("Unit mariadb.service not found");
    // Each of the two was asked once.
    expect(calls()).toHaveLength(2);
  });

  test("whatever is asked with more rights is in the printed sudoers lines, word for word", async () => {
    writeFileSync(join(directory, "refuse"), REFUSED);
    await managed.start([]);
    await managed.stop(30_000);
    writeFileSync(join(directory, "gate-says-no"), "");
    await expect(managed.start([])).rejects.toThrow("is failed");
    const unit = "mariadb.service";
    const paths = { bun: "", root: "", config: "", user: "mysql", stallMs: 4_000 };
    // As sudo reads them: a backslash makes the next character plain.
    const allowed = sudoersLines(unit, paths)
      .replace(/^#.*$/m, "")
      .replaceAll("\\\n", " ")
      .replace(/^.*NOPASSWD:/m, "")
      .split(/(?<!\\),/)
      .map((line) => line.trim().replaceAll("\\", "").replace("/usr/bin/systemctl ", ""));
    const asked = new Set(calls());
    expect(asked.size).toBeGreaterThan(3);
    for (const words of asked) expect(allowed).toContain(words);
    expect(allowed).toContain(`kill --signal=SIGKILL ${unit}`);
  });

  test("a start by somebody else is found within the second", async () => {
    managed.adopt();
    Bun.spawnSync([join(directory, "systemctl"), "start"]);
    await until("it is found", 30_000, () => told.some(({ is }) => is === "running"));
  });
});

test("without systemd it is said in its own words", async () => {
  const none = manageUnit({
    unit: "mariadb.service",
    systemctl: ["/nonexistent/systemctl"],
    argumentsFile: join(makeScratch("nounit"), "arguments.env"),
    datadir: "/nonexistent",
    pidFile: "/nonexistent/pid",
    logFile: "/nonexistent/log",
    onChange: () => undefined,
  });
  await expect(none.start([])).rejects.toThrow("systemctl start ended with 127");
  none.close();
});

test("arguments that systemd would read otherwise are refused", () => {
  for (const odd of ["a b", "$HOME", "'x'", "a\nb", ""]) {
    expect(() => argumentsText([odd])).toThrow("Cannot hand");
  }
});
