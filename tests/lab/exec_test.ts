import { expect, test } from "bun:test";
import { MinderError } from "../../lib/errors.ts";
import { run, runAsync, tryRun, until } from "../../lib/lab/exec.ts";

test("run() gives stdout, and the command's own words when it fails", async () => {
  expect(run(["cat"], { stdin: "text" })).toBe("text");
  const failing = ["sh", "-c", "echo no luck >&2; exit 3"];
  expect(() => run(failing)).toThrow("sh ended with code 3: no luck");
  await expect(runAsync(failing)).rejects.toThrow("sh ended with code 3: no luck");
});

test("tryRun() bounds the time and survives a missing program", () => {
  const started = performance.now();
  expect(tryRun(["sleep", "60"], { timeoutMs: 50 }).code).toBe(124);
  expect(performance.now() - started).toBeLessThan(30_000);
  expect(tryRun(["no-such-program-here"]).code).toBe(127);
});

test("until() names what did not come", async () => {
  let asked = 0;
  await until("the third time", () => ++asked === 3, { timeoutMs: 30_000, pauseMs: 1 });
  const never = until("the impossible", () => false, { timeoutMs: 10, pauseMs: 1 });
  await expect(never).rejects.toThrow("Not within 10 ms: the impossible");
  await expect(never).rejects.toBeInstanceOf(MinderError);
});
