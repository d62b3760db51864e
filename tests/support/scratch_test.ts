import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "./haproxy.ts";
import { makeScratch, removeScratch } from "./scratch.ts";

test("a new run removes the directory and the processes of a run that was killed", async () => {
  const owner = Bun.spawn(["true"]);
  await owner.exited;
  const left = join(tmpdir(), `gm-test-${owner.pid}-left`);
  mkdirSync(left);
  const orphan = Bun.spawn(["sh", "-c", `read line # ${left}/x`], {
    stdin: "pipe",
    stderr: "ignore",
  });
  try {
    await until("the orphan runs", () => {
      return readFileSync(`/proc/${orphan.pid}/cmdline`, "latin1").includes(left);
    });
    const mine = makeScratch("mine");
    await until("the orphan has ended", () => orphan.signalCode === "SIGKILL");
    expect([existsSync(left), existsSync(mine)]).toEqual([false, true]);
    removeScratch(mine);
  } finally {
    orphan.kill("SIGKILL");
    await orphan.exited;
  }
});
