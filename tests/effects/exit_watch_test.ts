import { expect, test } from "bun:test";
import type { ExitWatchSays } from "../../lib/effects/exit_watch.ts";

/** What the worker says about a pid, in order, until it has said `last`. */
async function hear(pid: number, last: ExitWatchSays, armed: () => void): Promise<string[]> {
  const worker = new Worker(new URL("../../lib/effects/exit_watch.ts", import.meta.url).href);
  const heard: string[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`heard only ${heard.join()}`)), 30_000);
      worker.onmessage = (event: MessageEvent<ExitWatchSays>) => {
        heard.push(event.data);
        if (event.data === "armed") armed();
        if (event.data !== last) return;
        clearTimeout(timer);
        resolve();
      };
      worker.postMessage(pid);
    });
    return heard;
  } finally {
    worker.terminate();
  }
}

test("says when it watches, and when the process has ended", async () => {
  const child = Bun.spawn(["sleep", "100"]);
  expect(await hear(child.pid, "ended", () => child.kill("SIGKILL"))).toEqual(["armed", "ended"]);
});

test("says that it cannot watch a process that does not exist", async () => {
  expect(await hear(2 ** 22 + 1, "unavailable", () => undefined)).toEqual(["unavailable"]);
});
