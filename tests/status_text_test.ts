/** What a person reads: silence is not mistaken for the last word, and a decision explains itself. */
import { describe, expect, test } from "bun:test";
import { arbitratorCore } from "../lib/core/arbitrator.ts";
import { newDurable } from "../lib/core/arbitrator_state.ts";
import { summarize } from "../lib/core/arbitrator_summary.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";
import { calmArbitrator, coreCluster, DC2 } from "./support/cores.ts";

describe("statusText()", () => {
  test("says of a calm cluster that all servers serve, and why nobody is promoted", () => {
    const story = calmArbitrator();
    const summary = summarize(story.state, story.now);
    expect(summary.health).toBe("healthy");
    const text = statusText(summary);
    expect(text.split("\n")[0]).toContain("healthy - all 4 servers serve");
    expect(text).toContain(
      "view     one view of both sides: a1, a2, b1, b2; no epoch was ever needed",
    );
    expect(text).toContain("writers  belong in dc1");
    expect(text).toContain("dc1: serves, all of it");
    expect(text).not.toContain("SILENT");
  });

  test("says who holds the epoch, what does not serve, why, and what would change it", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC2, { view: DC2, primary: "no" });
    const { sent } = story.order();
    story.answered(sent, "ok");
    story.reports(DC2, { view: DC2, epochSeen: 1, epochServed: 1, lastCommitted: 101, writers: 1 });
    const text = statusText(summarize(story.state, story.now), {
      next: ["if dc2 is lost: nobody"],
    });
    expect(text).toContain("view     dc2 alone: b1, b2; dc2 holds epoch 1");
    expect(text).toContain("writers  belong in dc2; 1 client minder has b1 as their writer");
    expect(text).toContain("dc2: serves, all of it");
    expect(text).toContain("dc1: does not serve, dc2 holds epoch 1");
    expect(text).toContain("  would change: its servers join dc2 by themselves");
    expect(text).toContain("promoted - dc2 serves under epoch 1");
    expect(text).toContain("what would happen next:\n  if dc2 is lost: nobody");
  });

  test("says which rule keeps a side from serving where nobody serves", () => {
    const story = calmArbitrator();
    story.person({ verb: "pause", parameters: { who: "eve", why: "" } });
    story.pass(6_000);
    story.reports(DC2, { view: DC2, primary: "no" });
    const text = statusText(summarize(story.state, story.now));
    expect(text).toContain("view     no server is Primary; no epoch was ever needed");
    expect(text).toContain("dc2: does not serve, and is not promoted: not.paused");
    expect(text).toContain("  would change: a person says `resume`");
  });

  test("says how writers that are elsewhere get to where they belong", () => {
    const story = calmArbitrator();
    story.report("b1", { writers: 2 });
    const text = statusText(summarize(story.state, story.now));
    expect(text).toContain(
      "writers  belong in dc1; 2 client minders have b1 as their writer; `just switchover dc1` moves them there",
    );
  });

  test("names every standing order with who and why", () => {
    const story = calmArbitrator();
    const eve = { who: "eve", why: "new disk" };
    story.person({ verb: "drain", parameters: { ...eve, node: "a1" } });
    story.person({ verb: "pause", parameters: { ...eve, why: "" } });
    const text = statusText(summarize(story.state, story.now));
    expect(text).toContain("order    drain a1, by eve (new disk)");
    expect(text).toContain("order    PAUSED: nothing is promoted or started by itself, by eve");
    expect(text).toContain("warning: automatic decisions are paused by eve: ");
    expect(text).toContain("order.drain - eve: a1: new disk");
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

  test("names the data that was set aside, its size, its age, and how to free it", () => {
    const story = calmArbitrator();
    story.report("a1", { aside: [{ name: "data.aside-1", bytes: 3_145_728, ageMs: 7_200_000 }] });
    expect(statusText(summarize(story.state, story.now))).toContain(
      "set aside on a1: data.aside-1, 3.0 MB, 2 h ago; `discard a1` frees it",
    );
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
