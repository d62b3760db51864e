/** Old data directories and servers that were given up: what a person's order does at the server. */
import { describe, expect, test } from "bun:test";
import type { Aside } from "../../lib/message/dbserver.ts";
import { ServerStory } from "../support/cores.ts";

const OLD: Aside = { name: "data.aside-1", bytes: 4096, ageMs: 1_000 };
const NEW: Aside = { name: "data.aside-2", bytes: 8192, ageMs: 0 };

/** A stopped server that has looked, and found these. */
function found(...aside: readonly Aside[]): ServerStory {
  const story = new ServerStory("a1");
  expect(story.has("look_aside")).toBe(true);
  story.give({ on: "aside", found: aside, error: null });
  story.stops();
  story.position(105);
  story.effects = [];
  return story;
}

function discarded(story: ServerStory): readonly (readonly string[])[] {
  return story.effects.flatMap((effect) => (effect.do === "discard" ? [effect.names] : []));
}

describe("data set aside", () => {
  test("is looked for at the start and after a reseed, and reported with its growing age", () => {
    const story = found(OLD);
    story.pass(600);
    expect(story.lastReport.aside?.[0]).toMatchObject({ name: OLD.name, bytes: 4096 });
    expect(story.lastReport.aside?.[0]?.ageMs).toBeGreaterThan(1_400);
    expect(story.has("look_aside")).toBe(false);
    story.done({ do: "start", mode: "reseed", position: null, donor: "b1" });
    expect(story.has("look_aside")).toBe(true);
  });

  test("is not mentioned where there is none", () => {
    const story = found();
    story.pass(600);
    expect("aside" in story.lastReport).toBe(false);
  });

  test("goes by order, once, and only what was found here", () => {
    const story = found(OLD);
    const discard = [OLD.name, "data", "../elsewhere"];
    story.leased({ promise: null, arbitrator: { discard } });
    story.leased({ promise: null, arbitrator: { discard } });
    expect(discarded(story)).toEqual([[OLD.name]]);
    story.give({ on: "aside", found: [], error: null });
    story.leased({ promise: null, arbitrator: { discard } });
    story.pass(600);
    expect(discarded(story)).toHaveLength(1);
    expect(story.lastReport.aside).toBeUndefined();
  });

  test("what was set aside after the order stays", () => {
    const story = found(OLD);
    story.leased({ promise: null, arbitrator: { discard: [OLD.name] } });
    story.give({ on: "aside", found: [NEW], error: null });
    story.leased({ promise: null, arbitrator: { discard: [OLD.name] } });
    story.pass(600);
    expect(discarded(story)).toHaveLength(1);
    expect(story.lastReport.aside?.map(({ name }) => name)).toEqual([NEW.name]);
  });

  test("an order that is withdrawn, or forgotten by an arbitrator that was restarted, does nothing", () => {
    const story = found();
    story.leased({ promise: null, arbitrator: { discard: [OLD.name] } });
    story.leased({ promise: null });
    story.done({ do: "start", mode: "reseed", position: null, donor: null });
    story.give({ on: "aside", found: [OLD], error: null });
    story.pass(600);
    expect(discarded(story)).toEqual([]);
  });

  test("a removal that fails is tried again after a minute, not at once", () => {
    const story = found(OLD);
    story.leased({ promise: null, arbitrator: { discard: [OLD.name] } });
    story.give({ on: "aside", found: null, error: "EACCES" });
    expect(story.lastReport.aside?.map(({ name }) => name)).toEqual([OLD.name]);
    story.pass(59_000);
    expect(discarded(story)).toHaveLength(1);
    story.pass(2_000);
    expect(discarded(story)).toHaveLength(2);
  });
});

describe("a server that was given up", () => {
  function givenUp(): ServerStory {
    const story = found();
    for (let attempt = 0; attempt < 3; attempt++) {
      story.leased({ promise: null, arbitrator: { start: "join" } });
      story.pass(Math.max(0, story.state.startAt - story.now));
      story.end("start", "no such file");
    }
    story.leased({ promise: null, arbitrator: { start: "join" } });
    story.pass(60_000);
    expect(story.lastReport.because).toContain("3 starts in a row failed");
    story.effects = [];
    return story;
  }

  test("is tried again by a person's order, once", () => {
    const story = givenUp();
    story.leased({ promise: null, arbitrator: { start: "join", startOrders: 1 } });
    expect(story.has("start")).toBe(true);
    story.end("start", "no such file");
    expect(story.state.failedStarts).toBe(1);
    story.leased({ promise: null, arbitrator: { start: "wait", startOrders: 1 } });
    expect(story.state.failedStarts).toBe(1);
  });

  test("is not tried again because the arbitrator was restarted", () => {
    const story = givenUp();
    story.leased({ promise: null, arbitrator: { startOrders: 2 } });
    for (let attempt = 0; attempt < 3; attempt++) {
      story.leased({ promise: null, arbitrator: { start: "join", startOrders: 2 } });
      story.pass(Math.max(0, story.state.startAt - story.now));
      story.end("start", "no such file");
    }
    story.effects = [];
    story.leased({ promise: null, arbitrator: { start: "join" } });
    story.pass(60_000);
    expect(story.has("start")).toBe(false);
  });
});
