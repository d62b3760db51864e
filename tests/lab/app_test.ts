import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runWriter, type WriterOptions } from "../../lib/lab/app.ts";
import { until } from "../../lib/lab/exec.ts";
import { readJournal } from "../../lib/lab/journal.ts";

/** Runs a writer until its journal has that many lines. */
async function write(options: WriterOptions, lines: number): Promise<void> {
  const stop = new AbortController();
  const running = runWriter(options, stop.signal);
  await until(`${lines} lines`, () => readJournal(options.journal).length >= lines, {
    timeoutMs: 30_000,
    pauseMs: 2,
  });
  stop.abort();
  await running;
}

test("a writer bounds each attempt, and no number is used twice, not even after a restart", async () => {
  const directory = mkdtempSync(join(tmpdir(), "gm-app-"));
  // Accepts and never says a word, as a server that hangs.
  const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const options: WriterOptions = {
    name: "w",
    address: { host: "127.0.0.1", port: silent.port },
    credentials: { user: "app", password: "" },
    journal: join(directory, "w.journal"),
    intervalMs: 5,
    connectTimeoutMs: 40,
    statementTimeoutMs: 40,
  };
  try {
    await write(options, 3);
    const first = readJournal(options.journal).length;
    await write({ ...options, address: { socketPath: join(directory, "none") } }, first + 3);
    const journal = readJournal(options.journal);
    expect(new Set(journal.map((one) => one.number)).size).toBe(journal.length);
    // The number after the last may have been sent by a process that was killed.
    expect(journal[first]?.number).toBe((journal[first - 1]?.number ?? 0) + 2);
    for (const attempt of journal) {
      expect(attempt.outcome).toBe("refused");
      expect(attempt.endMs - attempt.startMs).toBeLessThan(10_000);
      expect(attempt.error).not.toBeNull();
    }
  } finally {
    silent.stop(true);
    rmSync(directory, { recursive: true });
  }
});
