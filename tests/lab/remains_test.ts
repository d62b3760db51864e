import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  checkLabName,
  isAlive,
  killAll,
  LAB_MARK,
  lockHolder,
  makeLabDirectory,
  markedAlive,
  markOf,
  recordedAlive,
  recordProcess,
  removeRemains,
  takeLock,
} from "../../lib/lab/remains.ts";

let home: string;
let directory: string;
const children: Bun.Subprocess[] = [];

function sleeper(environment: Record<string, string> = {}): Bun.Subprocess {
  const child = Bun.spawn(["sleep", "300"], { env: { ...process.env, ...environment } });
  children.push(child);
  return child;
}

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "gm-remains-"));
  directory = join(home, "lab");
  makeLabDirectory(directory);
});

afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill("SIGKILL");
    await child.exited;
  }
  rmSync(home, { recursive: true, force: true });
});

test("a recorded process is found again and ended", async () => {
  const child = sleeper();
  recordProcess(directory, child.pid, ["sleep", "300"]);
  expect(recordedAlive(directory).map((mark) => mark.pid)).toEqual([child.pid]);
  expect(await killAll(recordedAlive(directory))).toBe(1);
  expect(recordedAlive(directory)).toEqual([]);
});

test("a pid that was used again is not touched", async () => {
  const child = sleeper();
  const [mark] = markOf(child.pid);
  const line = JSON.stringify({ ...mark, startTime: (mark?.startTime ?? 0) - 1 });
  writeFileSync(join(directory, "processes.jsonl"), `${line}\n{"pid":${child.pid},"start`);
  expect(recordedAlive(directory)).toEqual([]);
  const removed = await removeRemains("test-remains", directory);
  expect(removed).toMatchObject({ processes: 0, directory: true });
  expect(mark !== undefined && isAlive(mark)).toBe(true);
  expect(existsSync(directory)).toBe(false);
});

test("a process that nobody recorded is found by its mark", async () => {
  const child = sleeper({ [LAB_MARK]: directory });
  sleeper({ [LAB_MARK]: `${directory}-other` });
  expect(markedAlive(directory).map((mark) => mark.pid)).toEqual([child.pid]);
  expect((await removeRemains("test-remains", directory)).processes).toBe(1);
  expect(markedAlive(`${directory}-other`)).toHaveLength(1);
});

test("a mariadbd of a bare environment is found by its options file", async () => {
  const file = `--defaults-file=${directory}/dc1-1/my.cnf`;
  // It waits for a line that never comes, and has no child that would outlive it.
  const child = Bun.spawn(["sh", "-c", "read line", file], { env: {}, stdin: "pipe" });
  children.push(child);
  expect(markedAlive(directory, "dc1-1").map((mark) => mark.pid)).toEqual([child.pid]);
  expect(markedAlive(directory, "dc1-2")).toEqual([]);
  expect(markedAlive(`${directory}-other`)).toEqual([]);
});

test("a lock is refused while its holder lives, taken over when it is dead", () => {
  const lock = takeLock(directory);
  expect(lockHolder(directory)?.pid).toBe(process.pid);
  expect(() => takeLock(directory)).toThrow(`is up already: process ${process.pid}`);
  lock.release();
  expect(existsSync(`${directory}.lock`)).toBe(false);

  writeFileSync(`${directory}.lock`, '{"pid":1,"startTime":7,"command":"gone"}');
  expect(lockHolder(directory)).toBeNull();
  const next = takeLock(directory);
  expect(readFileSync(`${directory}.lock`, "utf8")).toContain(`"pid":${process.pid}`);
  next.release();
});

test("a broken lock file does not keep a lab down for ever", () => {
  writeFileSync(`${directory}.lock`, "");
  takeLock(directory).release();
});

test("names that would not do as a file name are refused", () => {
  for (const name of ["", "A", "a/b", "../x", "-a", "a".repeat(40)]) {
    expect(() => checkLabName(name)).toThrow("Cannot name a lab");
  }
  checkLabName("test-1");
});
