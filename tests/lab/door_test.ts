import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { doorAfter, type Knock, readKnocks } from "../../lib/lab/door.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

function knock(startMs: number, server: string | null, tookMs = 5): Knock {
  const error = server === null ? "ENDED" : null;
  return { startMs, endMs: startMs + tookMs, server, error };
}

describe("doorAfter()", () => {
  const fault = { server: "db1", fromMs: 100, toMs: 200 };

  test("counts what reached the bad server or none, and the first open elsewhere", () => {
    const knocks = [knock(90, "db1"), knock(110, "db1"), knock(120, null), knock(125, "db2", 20)];
    expect(doorAfter([...knocks, knock(130, "db2"), knock(300, null)], fault)).toEqual({
      lastBadMs: 20,
      firstGoodMs: 35,
      bad: 2,
      attempts: 4,
    });
  });

  test("says never where nothing else was reached", () => {
    expect(doorAfter([knock(150, "db1")], fault).firstGoodMs).toBe(Number.POSITIVE_INFINITY);
  });
});

test("a journal of knocks is read by start, without a line that was cut short", () => {
  const directory = makeScratch("door");
  try {
    const file = join(directory, "x.knocks");
    const [late, early] = [knock(20, "db2"), knock(10, null)];
    writeFileSync(file, `${JSON.stringify(late)}\n${JSON.stringify(early)}\n{"startMs":3`);
    expect(readKnocks(file)).toEqual([early, late]);
    expect(readKnocks(join(directory, "none"))).toEqual([]);
  } finally {
    removeScratch(directory);
  }
});
