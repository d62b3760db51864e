import { describe, expect, test } from "bun:test";
import { tokenBuckets } from "../lib/rate.ts";

const OPTIONS = { burst: 10, perSecond: 5, keysMax: 8 };

describe("tokenBuckets()", () => {
  test("allows a burst, then as much as comes back", () => {
    const rate = tokenBuckets(OPTIONS);
    let taken = 0;
    for (; rate.allows("a", 0) && taken < 100; taken++) rate.charge("a", 1, 0);
    expect(taken).toBe(10);
    expect(rate.allows("a", 100)).toBe(true);
    rate.charge("a", 1, 100);
    expect(rate.allows("a", 100)).toBe(false);
    expect(rate.allows("b", 100)).toBe(true);
  });

  test("owes at most one burst, so that the longest wait is known", () => {
    const rate = tokenBuckets(OPTIONS);
    for (let n = 0; n < 1000; n++) rate.charge("a", 10, 0);
    expect(rate.allows("a", 2000)).toBe(false);
    expect(rate.allows("a", 2001)).toBe(true);
  });

  test("keeps a bounded number of buckets, the busy ones longest", () => {
    const rate = tokenBuckets(OPTIONS);
    rate.charge("busy", 20, 0);
    for (let n = 0; n < 1000; n++) {
      rate.charge(`other${n}`, 1, n * 1000);
      rate.charge("busy", 20, n * 1000);
      expect(rate.size()).toBeLessThanOrEqual(OPTIONS.keysMax);
      expect(rate.allows("busy", n * 1000)).toBe(false);
    }
  });

  test("stays bounded when all of them owe", () => {
    const rate = tokenBuckets(OPTIONS);
    for (let n = 0; n < 1000; n++) rate.charge(`a${n}`, 100, 0);
    expect(rate.size()).toBeLessThanOrEqual(OPTIONS.keysMax);
  });
});
