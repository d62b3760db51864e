/** May mariadbd's user run its notify command: tried with a process of that user, here this very one. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { notifyFacts } from "../../lib/effects/settings.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const isRoot = process.getuid?.() === 0;
const NOBODY = 65_534;

describe.skipIf(!isRoot)("the notify command as another user", () => {
  let directory = "";
  let child: Bun.Subprocess;
  let program = "";

  beforeAll(() => {
    directory = makeScratch("settings");
    chmodSync(directory, 0o755);
    program = join(directory, "notify");
    writeFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
    child = Bun.spawn(
      ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "sleep", "60"],
      { stdout: "ignore", stderr: "ignore" },
    );
    writeFileSync(join(directory, "pid"), `${child.pid}\n`);
  });
  afterAll(async () => {
    child.kill("SIGKILL");
    await child.exited;
    removeScratch(directory);
  });

  function ask(command: string) {
    return notifyFacts(
      new Map([
        ["wsrep_notify_cmd", command],
        ["pid_file", join(directory, "pid")],
      ]),
    );
  }

  test("one that everybody may run is fine, with its script", async () => {
    // setpriv changes its user a moment after its start.
    while (ask(`${program} ${program}`)?.user !== `uid ${NOBODY}`) await Bun.sleep(5);
    expect(ask(`${program} --node x ${program}`)?.blocked).toBeNull();
  });

  test("one that only root may run is named", () => {
    chmodSync(program, 0o700);
    expect(ask(program)?.blocked).toBe(program);
    chmodSync(program, 0o755);
  });

  test("a script that only root may read is named", () => {
    const script = join(directory, "script.ts");
    writeFileSync(script, "", { mode: 0o600 });
    expect(ask(`${program} ${script} --node x`)?.blocked).toBe(script);
  });

  test("without a running server, or without a command, nothing can be told", () => {
    expect(ask("")).toBeNull();
    expect(notifyFacts(new Map([["wsrep_notify_cmd", program]]))).toBeNull();
  });
});
