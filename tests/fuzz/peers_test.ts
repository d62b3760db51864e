/** A short run of what `just fuzz-peers` does at length. */
import { expect, test } from "bun:test";
import { join } from "node:path";

test("hostile peers change nothing in live processes, and end none", () => {
  const script = join(import.meta.dir, "../../scripts/fuzz_peers.ts");
  const done = Bun.spawnSync([process.execPath, script, "2000"]);
  expect(done.stderr.toString()).toBe("");
  expect(done.stdout.toString()).toContain("verdict: pass inputs=20");
  expect(done.exitCode).toBe(0);
}, 90_000);
