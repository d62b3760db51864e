import { expect, test } from "bun:test";
import { partLost, roundTripMs, type Silencing, straysOf } from "../../lib/lab/in_flight.ts";
import type { Attempt } from "../../lib/lab/journal.ts";

const CUT: Silencing = {
  servers: ["dc1-1", "dc1-2"],
  instant: { fromMs: 1000, toMs: 1002 },
  untilMs: 4000,
};

function row(startMs: number, endMs: number, more: Partial<Attempt> = {}): Attempt {
  return {
    writer: `w${startMs}`,
    number: startMs,
    startMs,
    endMs,
    outcome: "acknowledged",
    server: "dc1-1",
    error: null,
    ...more,
  };
}

test("roundTripMs() is the longest acknowledged row of the calm, and of nothing else", () => {
  const attempts = [
    row(100, 190),
    row(200, 203),
    row(210, 222),
    row(300, 390, { outcome: "unknown" }),
    row(395, 420),
  ];
  expect(roundTripMs(attempts, { fromMs: 200, toMs: 400 })).toBe(12);
  expect(roundTripMs([], { fromMs: 200, toMs: 400 })).toBe(0);
});

test("partLost() calls in flight what was under way at the cut, told within a round trip, by the silent side", () => {
  const inside = [row(985, 991), row(999, 1001), row(1001, 1012)];
  const { inFlight, missing } = partLost(inside, [CUT], 10);
  expect(inFlight.map(({ distanceMs }) => distanceMs)).toEqual([9, 0, 10]);
  expect(missing).toEqual([]);
});

test("partLost() calls everything else missing", () => {
  const lost = [
    row(985, 989),
    row(990, 1013),
    row(1003, 1005),
    row(995, 1001, { server: "dc2-1" }),
    row(995, 1001, { server: null }),
  ];
  expect(partLost(lost, [CUT], 10)).toEqual({ inFlight: [], missing: lost });
  expect(partLost([row(995, 1001)], [], 10).missing.length).toBe(1);
});

test("partLost() takes one row of a session, since it has no more under way", () => {
  const lost = [row(990, 996, { writer: "one" }), row(997, 1001, { writer: "one" })];
  const { inFlight, missing } = partLost(lost, [CUT], 10);
  expect([inFlight.length, missing.length]).toEqual([1, 1]);
});

test("straysOf() are acknowledgements of the silent side, later than a round trip after the cut", () => {
  const attempts = [
    row(1001, 1012),
    row(1001, 1013),
    row(3999, 4000),
    row(2000, 2001, { server: "dc2-1" }),
    row(2000, 2001, { outcome: "refused" }),
  ];
  expect(straysOf(attempts, CUT, 10)).toEqual([row(1001, 1013)]);
});
