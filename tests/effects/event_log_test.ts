/** The event log: bounded, readable by others, whole after kill -9, and never in anybody's way. */
import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EVENTS_WAITING_MAX, openEventLog } from "../../lib/effects/event_log.ts";
import type { LogAnswer, LogRequest } from "../../lib/effects/event_log_worker.ts";
import {
  type EventLimits,
  FIELDS_MAX,
  openEventStore,
  readEvents,
} from "../../lib/effects/event_store.ts";

const folder = mkdtempSync(join(tmpdir(), "galera-minder-events-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LIMITS: EventLimits = { maxBytes: 1 << 20, maxDays: 30 };
const ALL = { since: null, limit: 1_000_000 };
let files = 0;

function freshPath(): string {
  return join(folder, `${++files}`, "events.sqlite");
}

function wall(): string {
  return new Date().toISOString();
}

function row(event: string, time = wall()) {
  return { time, event, epoch: 3, fields: JSON.stringify({ rule: "promote" }) };
}

/** Whatever was in the file and its journal is lost. */
function damage(path: string): void {
  for (const end of ["-wal", "-shm"]) rmSync(`${path}${end}`, { force: true });
  writeFileSync(path, "this is no database, though it was one before\n".repeat(100));
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`Not within 30 s: ${what}`);
    await Bun.sleep(5);
  }
}

function opened(path: string, more: Partial<Parameters<typeof openEventLog>[0]> = {}) {
  const health: (string | null)[] = [];
  const log = openEventLog({
    path,
    limits: LIMITS,
    wall,
    onHealth: (illness) => health.push(illness),
    againMs: 20,
    ...more,
  });
  return { log, health };
}

describe("openEventStore()", () => {
  test("gives back what was appended, in order, from a moment on, the newest first to stay", () => {
    const path = freshPath();
    const store = openEventStore(path, LIMITS);
    store.append([
      row("one", "2026-01-01T00:00:00.000Z"),
      row("two", "2026-01-02T00:00:00.000Z"),
      row("three", "2026-01-03T00:00:00.000Z"),
    ]);
    const names = (query: Parameters<typeof store.read>[0]) =>
      store.read(query).map(({ event }) => event);
    expect(names(ALL)).toEqual(["one", "two", "three"]);
    expect(names({ since: "2026-01-02T00:00:00.000Z", limit: 9 })).toEqual(["two", "three"]);
    expect(names({ since: null, limit: 2 })).toEqual(["two", "three"]);
    expect(store.read(ALL)[0]).toEqual({
      seq: 1,
      time: "2026-01-01T00:00:00.000Z",
      event: "one",
      epoch: 3,
      fields: '{"rule":"promote"}',
    });
    for (const end of ["", "-wal"]) expect(statSync(`${path}${end}`).mode & 0o777).toBe(0o600);
    store.close();
  });

  test("forgets what is older than its days", () => {
    const store = openEventStore(freshPath(), { ...LIMITS, maxDays: 2 });
    store.append([row("old", "2026-01-01T00:00:00.000Z"), row("new", "2026-01-03T00:00:00.000Z")]);
    store.prune("2026-01-04T00:00:00.000Z");
    expect(store.read(ALL).map(({ event }) => event)).toEqual(["new"]);
    store.close();
  });

  test("stays within its size whatever is appended, and keeps the newest", () => {
    const path = freshPath();
    const store = openEventStore(path, { ...LIMITS, maxBytes: 400_000 });
    const fields = JSON.stringify({ text: "x".repeat(900) });
    for (let batch = 0; batch < 40; batch++) {
      store.append(Array.from({ length: 50 }, () => ({ ...row("filler"), fields })));
      store.prune(wall());
    }
    store.append([row("last")]);
    expect(store.read(ALL).at(-1)?.event).toBe("last");
    expect(store.read(ALL).length).toBeGreaterThan(200);
    store.close();
    expect(statSync(path).size).toBeLessThan(600_000);
  });

  test("keeps a damaged file aside and begins anew", () => {
    const path = freshPath();
    openEventStore(path, LIMITS).close();
    damage(path);
    const store = openEventStore(path, LIMITS);
    expect(store.setAside).toBe(`${path}.damaged-1`);
    store.append([row("anew")]);
    expect(store.read(ALL)).toHaveLength(1);
    store.close();
    for (let again = 0; again < 5; again++) {
      damage(path);
      openEventStore(path, LIMITS).close();
    }
    const kept = readdirSync(join(path, "..")).filter((name) => name.includes("damaged"));
    expect(kept.sort()).toEqual([1, 2, 3].map((number) => `events.sqlite.damaged-${number}`));
  });
});

describe("a writer that is killed in the middle of a write", () => {
  /** Appends batches for ever, and says after each how many rows are in. */
  const WRITER = `
    import { openEventStore } from ${JSON.stringify(join(import.meta.dir, "../../lib/effects/event_store.ts"))};
    const store = openEventStore(process.argv[1], { maxBytes: 1 << 26, maxDays: 30 });
    for (let total = 0; ; ) {
      const batch = Array.from({ length: 200 }, () => ({
        time: new Date().toISOString(), event: "e", epoch: 1, fields: JSON.stringify({ n: ++total }) }));
      store.append(batch);
      process.stdout.write(total + "\\n");
    }`;

  test("leaves every row that it had said was in, none halved, and the file is written on", async () => {
    for (let round = 0; round < 5; round++) {
      const path = freshPath();
      const child = Bun.spawn([process.execPath, "-e", WRITER, path], { stdout: "pipe" });
      let said = 0;
      const decoder = new TextDecoder();
      let text = "";
      for await (const chunk of child.stdout) {
        text += decoder.decode(chunk, { stream: true });
        said = Number(text.trimEnd().split("\n").slice(0, -1).at(-1) ?? 0);
        if (said >= 1_000 + 400 * round && child.exitCode === null) child.kill("SIGKILL");
      }
      await child.exited;
      expect(child.signalCode).toBe("SIGKILL");
      // A reader needs no recovery by a writer first.
      const rows = readEvents(path, ALL);
      expect(rows.length).toBeGreaterThanOrEqual(said);
      expect(rows.length % 200).toBe(0);
      const numbers = rows.map(({ fields }) => (JSON.parse(fields) as { n: number }).n);
      expect(numbers).toEqual(Array.from({ length: rows.length }, (_, index) => index + 1));
      const store = openEventStore(path, LIMITS);
      expect(store.setAside).toBeNull();
      store.append([row("after")]);
      expect(store.read(ALL)).toHaveLength(rows.length + 1);
      store.close();
    }
  }, 60_000);
});

describe("openEventLog()", () => {
  test("writes what is added in order, and another process reads it while it is open", async () => {
    const path = freshPath();
    const { log, health } = opened(path);
    for (let number = 0; number < 1_200; number++) log.add("counted", 7, { number });
    await until("all are written", () => existsSync(path) && count(path) === 1_200);
    const rows = readEvents(path, ALL);
    expect(rows.map(({ fields }) => (JSON.parse(fields) as { number: number }).number)).toEqual(
      Array.from({ length: 1_200 }, (_, index) => index),
    );
    expect(rows[0]).toMatchObject({ event: "counted", epoch: 7 });
    expect((await log.read({ since: null, limit: 2 })).map(({ seq }) => seq)).toEqual([1199, 1200]);
    expect(health).toEqual([]);
    await log.close(2_000);
  });

  test("close() writes what waits", async () => {
    const path = freshPath();
    const { log } = opened(path);
    for (let number = 0; number < 700; number++) log.add("late", 1, { number });
    await log.close(5_000);
    expect(count(path)).toBe(700);
  });

  test("a path that cannot be written makes it say so, adding goes on, and it heals by itself", async () => {
    const path = freshPath();
    const { log, health } = opened(path);
    // A file where its folder should be.
    writeFileSync(join(folder, `${files}`), "in the way");
    log.add("first", 1, {});
    await until("it says that it is ill", () => health.length > 0);
    expect(health[0]).toStartWith("it cannot be written: ");
    for (let number = 0; number < EVENTS_WAITING_MAX + 10; number++) log.add("more", 1, { number });
    rmSync(join(folder, `${files}`));
    await until("it is well again", () => health.at(-1) === null);
    await until("all that waited is written", () => count(path) >= EVENTS_WAITING_MAX + 1);
    await log.close(5_000);
    const rows = readEvents(path, ALL);
    expect(rows[0]?.event).toBe("first");
    const dropped = rows.find(({ event }) => event === "events_dropped");
    expect(JSON.parse(dropped?.fields ?? "{}")).toEqual({ count: 11 });
  }, 90_000);

  test("a file that may not grow is said, nothing stops, and closing is bounded", async () => {
    const path = freshPath();
    const { log, health } = opened(path, { limits: { maxBytes: 40_000, maxDays: 30 } });
    const text = "x".repeat(150);
    for (let number = 0; number < 3_000; number++) log.add("big", 1, { number, text });
    await until("it has met its hard bound", () => health.some((one) => one !== null));
    expect(health.find((one) => one !== null)).toContain("full");
    const began = performance.now();
    await log.close(500);
    expect(performance.now() - began).toBeLessThan(8_000);
    expect(statSync(path).size).toBeLessThan(100_000);
  }, 90_000);

  test("a thread that hangs delays nobody, is given up, and another writes on", async () => {
    const path = freshPath();
    let hired = 0;
    const hanging = join(folder, "hanging.ts");
    writeFileSync(hanging, "declare const self: Worker; self.onmessage = () => { for (;;); };");
    const { log, health } = opened(path, {
      patienceMs: 200,
      worker: () =>
        new Worker(
          hired++ === 0
            ? hanging
            : new URL("../../lib/effects/event_log_worker.ts", import.meta.url),
        ),
    });
    const began = performance.now();
    for (let number = 0; number < 1_000; number++) log.add("quick", 1, { number });
    // One that waited for the thread would take its patience each time.
    expect(performance.now() - began).toBeLessThan(10_000);
    await until("it says that it hangs", () => health.length > 0);
    expect(health[0]).toContain("has not answered");
    await until("another has written all", () => existsSync(path) && count(path) === 1_000);
    expect(health.at(-1)).toBeNull();
    await log.close(2_000);
  }, 90_000);

  test("says where it was damaged, and goes on", async () => {
    const path = freshPath();
    openEventStore(path, LIMITS).close();
    damage(path);
    const { log, health } = opened(path);
    log.add("on", 1, {});
    await until("it says so", () => health.length > 0);
    expect(health[0]).toContain(`kept as ${path}.damaged-1`);
    await log.close(2_000);
    expect(count(path)).toBe(1);
  });

  test("bounds the fields of an event", async () => {
    const path = freshPath();
    const { log } = opened(path);
    log.add("long", 1, { text: "x".repeat(20_000), short: "kept" });
    log.add("wide", 1, { list: Array.from({ length: 10_000 }, () => 1) });
    await log.close(2_000);
    const [long, wide] = readEvents(path, ALL);
    expect(JSON.parse(long?.fields ?? "{}")).toMatchObject({ short: "kept" });
    expect(JSON.parse(wide?.fields ?? "{}")).toEqual({ tooLong: 20_010 });
    expect(long?.fields.length).toBeLessThan(FIELDS_MAX);
  });
});

test("the thread answers each request under its number, and opens the file anew after a failure", async () => {
  const path = freshPath();
  const worker = new Worker(new URL("../../lib/effects/event_log_worker.ts", import.meta.url));
  const ask = (request: LogRequest): Promise<LogAnswer> =>
    new Promise((resolve) => {
      worker.onmessage = ({ data }: MessageEvent<LogAnswer>) => resolve(data);
      worker.postMessage(request);
    });
  writeFileSync(join(folder, `${files}`), "in the way");
  const append = { do: "append", path, limits: LIMITS, events: [row("one")], now: wall() } as const;
  expect((await ask({ id: 1, ...append })).error).not.toBeNull();
  rmSync(join(folder, `${files}`));
  expect(await ask({ id: 2, ...append })).toMatchObject({ id: 2, error: null });
  const read = await ask({ id: 3, do: "read", path, limits: LIMITS, query: ALL });
  expect(read).toMatchObject({ id: 3, error: null, events: [{ seq: 1, event: "one" }] });
  expect(await ask({ id: 4, do: "close" })).toMatchObject({ id: 4, error: null });
  worker.terminate();
});

test("readEvents() says which file it cannot read", () => {
  expect(() => readEvents(join(folder, "nowhere.sqlite"), ALL)).toThrow(
    "Cannot read the event log",
  );
});

function count(path: string): number {
  const database = new Database(path, { readonly: true });
  try {
    return database.query<{ n: number }, []>("SELECT count(*) AS n FROM event").all()[0]?.n ?? 0;
  } catch {
    // Its table is only being made.
    return 0;
  } finally {
    database.close();
  }
}
