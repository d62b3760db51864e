/** What a person reads: silence is not mistaken for the last word, and a decision explains itself. */
import { describe, expect, test } from "bun:test";
import { arbitratorCore } from "../lib/core/arbitrator.ts";
import { newDurable } from "../lib/core/arbitrator_state.ts";
import { summarize } from "../lib/core/arbitrator_summary.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";
import { calmArbitrator, coreCluster } from "./support/cores.ts";

describe("statusText()", () => {
  test("says of a calm cluster that all servers serve, and why nobody is promoted", () => {
    const story = calmArbitrator();
    const summary = summarize(story.state, story.now);
    expect(summary.health).toBe("healthy");
    const text = statusText(summary);
    expect(text.split("\n")[0]).toContain("healthy - all 4 servers serve");
    expect(text).toContain("dc1: ");
    expect(text).toContain("would change: ");
    expect(text).not.toContain("SILENT");
  });

  test("shows a server that has not been heard as silent, with its last word", () => {
    const story = calmArbitrator();
    const text = statusText(summarize(story.state, story.now + 9_400));
    const rows = text.split("\n").filter((line) => line.includes("SILENT"));
    expect(rows).toHaveLength(4);
    expect(rows[0]).toContain("9.4 s ago");
    expect(rows[0]).toContain("its last word: serving on, Primary");
    expect(text.split("\n")[0]).toContain("cannot tell - no server has reported lately");
  });

  test("shows a server that was never heard", () => {
    const config = coreCluster();
    const durable = newDurable(config, "store-1");
    const core = arbitratorCore({ config, self: "arbitrator.1", durable, observing: null });
    const summary = summarize(core.initial(0), 100);
    expect(statusText(summary)).toContain("never heard");
    expect(EXIT_BY_HEALTH[summary.health]).toBe(3);
  });

  test("names a store that is not trusted before anything else goes wrong", () => {
    const story = calmArbitrator();
    const state = { ...story.state, observing: "the store is a copy" };
    const summary = summarize(state, story.now);
    expect(summary.health).toBe("degraded");
    expect(statusText(summary)).toContain("warning: the store is a copy");
  });
});
