import { expect, test } from "bun:test";
import { join } from "node:path";
import { WATCHDOG_ENVIRONMENT } from "../lib/runtime.ts";

test("a runtime that is told so starts and runs, with what the watch over mariadbd needs", () => {
  // Without any compiler nobody could ask for a pidfd: it has to be there.
  const code =
    'require("bun:ffi").dlopen("libc.so.6", { getpid: { returns: "i32" } }).symbols.getpid()';
  const done = Bun.spawnSync([process.execPath, "-p", code], {
    cwd: join(import.meta.dir, ".."),
    env: { ...process.env, ...WATCHDOG_ENVIRONMENT },
    timeout: 60_000,
  });
  expect(done.stderr.toString()).toBe("");
  expect(done.stdout.toString()).toMatch(/^\d+\n$/);
});
