import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Attempt, checkRows, longestGap, readJournal } from "../../lib/lab/journal.ts";

function attempt(number: number, outcome: Attempt["outcome"], endMs = number * 10): Attempt {
  return { writer: "w", number, startMs: endMs - 1, endMs, outcome, server: null, error: null };
}

test("longestGap() finds the longest stretch between acknowledgements", () => {
  const attempts = [
    attempt(1, "acknowledged", 100),
    attempt(2, "acknowledged", 110),
    attempt(3, "unknown", 200),
    attempt(4, "refused", 210),
    attempt(5, "acknowledged", 400),
  ];
  expect(longestGap(attempts)).toEqual({ fromMs: 110, toMs: 400, lengthMs: 290 });
});

test("longestGap() counts a silence that reaches over an end of the window", () => {
  const attempts = [attempt(1, "acknowledged", 100), attempt(2, "acknowledged", 150)];
  expect(longestGap(attempts, 90, 1000)).toEqual({ fromMs: 150, toMs: 1000, lengthMs: 850 });
  expect(longestGap([], 0, 500)?.lengthMs).toBe(500);
  expect(longestGap([])).toBeNull();
});

test("checkRows() tells lost rows from those whose outcome was unknown, and from impossible ones", () => {
  const attempts = [
    attempt(1, "acknowledged"),
    attempt(2, "acknowledged"),
    attempt(3, "unknown"),
    attempt(4, "refused"),
  ];
  const check = checkRows(attempts, new Set(["w/1", "w/3", "w/4", "x/1"]));
  expect(check.missing.map((lost) => lost.number)).toEqual([2]);
  expect({ ...check, missing: 0 }).toEqual({
    acknowledged: 2,
    found: 4,
    missing: 0,
    unacknowledged: 1,
    foreign: 2,
  });
});

test("readJournal() leaves out a last line that a kill cut short", () => {
  const directory = mkdtempSync(join(tmpdir(), "gm-journal-"));
  try {
    const file = join(directory, "w.journal");
    writeFileSync(file, `${JSON.stringify(attempt(1, "acknowledged"))}\n{"writer":"w","num`);
    expect(readJournal(file)).toEqual([attempt(1, "acknowledged")]);
    expect(readJournal(join(directory, "none"))).toEqual([]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
