import { expect, test } from "bun:test";
import { describeRound, judgeFence } from "../../lib/lab/fence_race.ts";
import type { Attempt } from "../../lib/lab/journal.ts";

const INSIDE = ["dc1-1", "dc1-2"];

function attempt(server: string | null, endMs: number, more: Partial<Attempt> = {}): Attempt {
  return {
    writer: `probe-${server}`,
    number: endMs,
    startMs: endMs - 1,
    endMs,
    outcome: "acknowledged",
    server,
    error: null,
    ...more,
  };
}

test("judgeFence() holds the isolated half's last write against the one that ends the other's stall", () => {
  const attempts = [
    attempt("dc1-1", 990),
    attempt("dc2-1", 995),
    attempt("dc1-1", 1001),
    // Its acknowledgements had all arrived before the cut.
    attempt("dc2-1", 1004),
    attempt("dc1-2", 1900),
    attempt("dc2-2", 6000),
    attempt("dc2-1", 6010),
    attempt("dc1-1", 6020, { outcome: "refused" }),
    attempt(null, 6030, { outcome: "refused", writer: "probe-dc1-2" }),
    attempt(null, 6030, { outcome: "refused", writer: "probe-dc2-2" }),
  ];
  expect(judgeFence(attempts, { inside: INSIDE, cutAtMs: 1000, untilMs: 9000 })).toEqual({
    lastAckMs: 900,
    firstAckMs: 5000,
    late: [],
    refused: 2,
  });
});

test("judgeFence() names each write that was acknowledged too late", () => {
  const late = attempt("dc1-2", 6000);
  const attempts = [attempt("dc2-2", 6000), late, attempt("dc1-2", 9500)];
  const found = judgeFence(attempts, { inside: INSIDE, cutAtMs: 1000, untilMs: 9000 });
  expect(found.late).toEqual([late]);
});

test("judgeFence() refuses to judge where nobody wrote again, or nothing was cut", () => {
  const options = { inside: INSIDE, cutAtMs: 1000, untilMs: 9000 };
  expect(() => judgeFence([attempt("dc1-1", 2000)], options)).toThrow("never wrote again");
  const busy = Array.from({ length: 100 }, (_, index) => attempt("dc2-1", 1000 + index));
  expect(() => judgeFence(busy, options)).toThrow("nothing was cut");
});

test("a round is one line", () => {
  expect(
    describeRound({
      round: 3,
      isolated: "dc1",
      lastAckMs: null,
      firstAckMs: 5012.4,
      late: [],
      refused: 7,
      lost: 1,
      returnMs: 4321,
    }),
  ).toBe(
    "round 3: dc1 isolated, acknowledged nothing more after the cut; the other half first 5012 ms after it; late writes 0, refused 7, acknowledged and lost 1, whole again after 4.3 s",
  );
});
