/** What the event log is given: each change of status once, silence, health, evidence; and reading it back. */
import { describe, expect, test } from "bun:test";
import type { ArbitratorEffect } from "../../lib/core/arbitrator_state.ts";
import { ALL, type ArbitratorStory, calmArbitrator, DC1, DC2, down } from "../support/cores.ts";

function logged(story: ArbitratorStory, ...events: readonly string[]) {
  return story.effects.flatMap((effect) =>
    effect.do === "log" && events.includes(effect.event)
      ? [{ event: effect.event, ...effect.fields } as Readonly<Record<string, unknown>>]
      : [],
  );
}

describe("the survey", () => {
  test("in calm says nothing, however long", () => {
    const story = calmArbitrator();
    for (let second = 0; second < 60; second++) story.pass(1_000).reports(ALL);
    expect(logged(story, "server", "server_silent", "health")).toEqual([]);
  });

  test("notes a server's change once, with what it said, and the health that follows", () => {
    const story = calmArbitrator();
    story.reports(["a1", "a1"], down(100, { because: "killed" }));
    expect(logged(story, "server")).toEqual([
      expect.objectContaining({ server: "a1", running: "down", position: 100, because: "killed" }),
    ]);
    expect(logged(story, "health")).toMatchObject([{ health: "degraded", was: "healthy" }]);
    story.report("a1");
    expect(logged(story, "health").at(-1)).toMatchObject({ health: "healthy", was: "degraded" });
  });

  test("open doors at which commits hang are no writable primary; at some of them, degraded", () => {
    const story = calmArbitrator();
    story.reports(["a1"], { probe: "hanging" });
    expect(logged(story, "health").at(-1)).toMatchObject({ health: "degraded", was: "healthy" });
    story.reports(["a2", "b1", "b2"], { probe: "hanging" });
    expect(logged(story, "health").at(-1)).toMatchObject({ health: "no_writable_primary" });
    story.reports(ALL);
    expect(logged(story, "health").at(-1)).toMatchObject({ health: "healthy" });
  });

  test("notes when a server falls silent and when it is heard again, though nobody else speaks", () => {
    const story = calmArbitrator();
    const silentAt = story.now + story.config.timing.suspectMs;
    while (story.core.dueAt(story.state) <= silentAt + 100) {
      story.now = story.core.dueAt(story.state);
      story.give({ on: "wakeup" });
    }
    expect(logged(story, "server_silent").map(({ server }) => server)).toEqual([...ALL]);
    expect(logged(story, "health").at(-1)).toMatchObject({ health: "cannot_tell" });
    story.report("b1");
    expect(logged(story, "server")).toMatchObject([{ server: "b1", heardAgain: true }]);
  });

  test("an epoch and each new verdict come with what every server had said", () => {
    const story = calmArbitrator();
    story.pass(6_000);
    story.reports(DC2, { view: DC2, primary: "no" });
    const [opened] = logged(story, "epoch_opened");
    expect(opened?.["evidence"]).toEqual([
      "a1 Primary open at 100 probe flowing, heard 6000 ms ago",
      "a2 Primary open at 100 probe flowing, heard 6000 ms ago",
      "b1 non-Primary fenced at 100 probe off, heard 0 ms ago",
      "b2 non-Primary fenced at 100 probe off, heard 0 ms ago",
    ]);
    for (const verdict of logged(story, "verdict")) expect(verdict["evidence"]).toHaveLength(4);
  });
});

describe("the event log as the core knows it", () => {
  test("an illness is a warning of the summary and nothing else", () => {
    const story = calmArbitrator();
    story.give({ on: "event_log", illness: "it cannot be written: disk full" });
    story.effects = [];
    story.person({ verb: "status_summary", parameters: {} });
    expect(replyOf(story)).toMatchObject({
      body: {
        parameters: {
          health: "healthy",
          warnings: ["the event log: it cannot be written: disk full"],
        },
      },
    });
    story.pass(6_000);
    story.reports(DC2, { view: DC2, primary: "no" });
    expect(story.order().order.segment).toBe("dc2");
  });

  test("history is read by an effect and answered with what came of it", () => {
    const story = calmArbitrator();
    story.effects = [];
    story.person({ verb: "history", parameters: { sinceMs: 1_000, limit: 5 } });
    const asked = story.effects.find((effect) => effect.do === "read_history");
    if (asked?.do !== "read_history") throw new Error("it was not read");
    expect(asked.ask).toEqual({ sinceMs: 1_000, limit: 5 });
    const events = [{ seq: 1, time: "t", event: "promoted", epoch: 1, fields: "{}" }];
    story.give({ on: "history", ticket: asked.ticket, result: { events } });
    expect(replyOf(story)).toMatchObject({
      body: { verb: "history", parameters: { events, illness: null } },
    });
    story.give({ on: "history", ticket: asked.ticket, result: { error: "no end" } });
    expect(replyOf(story)).toMatchObject({
      body: { verb: "ack", parameters: { outcome: "failed", because: "the event log: no end" } },
    });
  });

  test("a snapshot has everything that is decided by", () => {
    const story = calmArbitrator();
    story.pass(400).reports(DC1);
    story.effects = [];
    story.person({ verb: "snapshot", parameters: {} });
    const reply = replyOf(story);
    if (reply?.body.verb !== "snapshot" || !("durable" in reply.body.parameters)) {
      throw new Error("no snapshot came");
    }
    const { parameters } = reply.body;
    expect(JSON.parse(parameters.durable)).toEqual(story.state.durable);
    expect(parameters.servers.map(({ heardAgoMs }) => heardAgoMs)).toEqual([0, 0, 400, 400]);
  });
});

function replyOf(story: ArbitratorStory) {
  const found = story.effects.findLast(
    (effect): effect is Extract<ArbitratorEffect, { do: "reply" }> => effect.do === "reply",
  );
  return found;
}
