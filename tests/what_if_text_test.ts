import { expect, test } from "bun:test";
import { forecastText, nextLines, stopWords } from "../lib/what_if_text.ts";
import { ALL, calmArbitrator, DC2 } from "./support/cores.ts";

test("a forecast is printed with outcome, times, loss and every moment", () => {
  expect(
    forecastText({
      fault: "a1 is lost",
      outcome: "b1 would serve on",
      serving: ["dc2"],
      writer: "b1",
      held: null,
      stopMs: [5_000, 6_000, 8_000],
      loss: "nothing",
      moments: [
        { atMs: 0, what: "a1 is lost" },
        { atMs: 6_000, what: "b1 opens" },
      ],
    }),
  ).toBe(
    [
      "if a1 is lost:",
      "  then    b1 would serve on",
      "  writes  stop for about 6.0 s (5.0 s to 8.0 s); a single writer writes at b1",
      "  lost    nothing",
      "",
      "    0.0 s  a1 is lost",
      "    6.0 s  b1 opens",
    ].join("\n"),
  );
});

test("stopWords() tells going on, a stop, and one without end apart", () => {
  expect(stopWords({ stopMs: [0, 0, 0], serving: ["dc1"] })).toBe("go on");
  expect(stopWords({ stopMs: [6_000, 6_000, 6_000], serving: ["dc1"] })).toBe(
    "stop for about 6.0 s",
  );
  expect(stopWords({ stopMs: null, serving: [] })).toBe("stop, and nobody could write");
  expect(stopWords({ stopMs: null, serving: ["dc1"] })).toContain("longer than was looked at");
});

test("the lines of every status name each segment, the link and the arbitrator", () => {
  const story = calmArbitrator();
  story.pass(400).reports(ALL);
  expect(nextLines(story.state, story.now)).toEqual([
    "if dc1 is lost: dc2 serves alone, writes stop for about 6.1 s",
    "if dc2 is lost: dc1 serves alone, writes stop for about 6.1 s",
    "if the link is cut: dc1 serves alone, writes stop for about 6.1 s",
    "if the arbitrator is lost: all that is left serves on, writes go on",
  ]);
});

test("where nobody serves, it says what brings the writes back, and what a pause holds up", () => {
  const story = calmArbitrator();
  story.person({ verb: "pause", parameters: { who: "eve", why: "work" } });
  story.pass(6_000);
  story.reports(DC2, { view: DC2, primary: "no" });
  expect(nextLines(story.state, story.now)).toEqual([
    "if nothing else happens: nobody serves; dc2: not.paused - paused: by eve: work",
    "if a person says resume: dc2 serves alone, writes stop for about 0.1 s",
  ]);
});
