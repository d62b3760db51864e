import { expect, test } from "bun:test";
import { readdirSync, readlinkSync } from "node:fs";
import { watchExit } from "../../lib/effects/exit_watch.ts";

/** How many pidfds this process holds. */
function pidfds(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes("pidfd");
    } catch {
      // The descriptor of the listing itself.
      return false;
    }
  }).length;
}

test("tells once when the process has ended, and not before", async () => {
  const before = pidfds();
  const child = Bun.spawn(["sleep", "100"]);
  const { promise, resolve } = Promise.withResolvers<void>();
  let told = 0;
  const watch = await watchExit(child.pid, () => {
    told++;
    resolve();
  });
  expect(watch).not.toBeNull();
  expect(told).toBe(0);
  child.kill("SIGKILL");
  await promise;
  watch?.close();
  await child.exited;
  expect(told).toBe(1);
  expect(pidfds()).toBe(before);
});

test("tells nothing once it is closed, and keeps no descriptor", async () => {
  const child = Bun.spawn(["sleep", "100"]);
  // With the one by which the runtime watches its child.
  const before = pidfds();
  let told = 0;
  const watch = await watchExit(child.pid, () => told++);
  expect(pidfds()).toBe(before + 1);
  watch?.close();
  expect(pidfds()).toBe(before);
  // Another watch of the same process is told: by then this one would have been.
  const { promise, resolve } = Promise.withResolvers<void>();
  await watchExit(child.pid, resolve);
  child.kill("SIGKILL");
  await promise;
  await child.exited;
  expect(told).toBe(0);
});

test("tells of a process that has just ended, whoever has not noticed yet", async () => {
  const child = Bun.spawn(["sh", "-c", "exit 0"]);
  await child.exited;
  // Its parent knows, so that it is gone: there is nothing to watch.
  expect(await watchExit(child.pid, () => undefined)).toBeNull();
});

test("says that it cannot watch a process that does not exist", async () => {
  expect(await watchExit(2 ** 22 + 1, () => undefined)).toBeNull();
});
