/**
 * Every message of a failover, recorded on the wire and sent again: at once, after each process has
 * restarted, and after the epoch has changed. Seals do not help here, since a recorded message has a
 * right one; sessions and sequence numbers must.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Message } from "../../lib/message/mod.ts";
import { Stage } from "./scenarios/stage.ts";

setDefaultTimeout(120_000);

/** How one replay was answered, in a word. */
type Counts = Map<string, number>;

/** Words of the mailroom's own counters for what it did with a message that it did not hand on. */
const COUNTERS = ["handshakes", "repeated", "refused.older_seq", "refused.older_session"];

function counted(stage: Stage): number {
  const { world } = stage;
  const ids = [world.arbiter.id, ...world.servers.map(({ config }) => config.id)];
  return ids.reduce((sum, id) => {
    const counters = world.stateOf(id)?.counters ?? new Map<string, number>();
    return sum + COUNTERS.reduce((own, word) => own + (counters.get(word) ?? 0), 0);
  }, 0);
}

/** Sends all of it again. No core may change by it, and each must be answered and counted. */
function replayAll(stage: Stage, recorded: readonly Message[]): Counts {
  const counts: Counts = new Map();
  const before = counted(stage);
  for (const message of recorded) {
    const core = stage.world.stateOf(message.receiver)?.core;
    const answer = stage.world.replay(message);
    expect(stage.world.stateOf(message.receiver)?.core).toBe(core);
    expect(answer).not.toBeNull();
    const word =
      answer !== null && "status" in answer
        ? `${answer.status} ${"reason" in answer ? answer.reason : ""}`.trim()
        : "none";
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  expect(counted(stage) - before).toBe(recorded.length);
  stage.safe();
  return counts;
}

/** Everything that could matter: a failover, a return, and orders of a person. */
function story(): { readonly stage: Stage; readonly recorded: readonly Message[] } {
  const stage = new Stage({ seed: 7 });
  const recorded: Message[] = [];
  const { world } = stage;
  world.onArrived = (message) => {
    // A hint makes the watchdog look and a question changes nothing, so neither is held back; a
    // notification comes from the very host, by which nobody on the wire can record it.
    if (message.verb !== "wsrep_notify_cmd" && message.verb !== "status_summary") {
      recorded.push(message);
    }
  };
  const signed = { who: "operator", why: "scenario" };
  stage.order({ verb: "drain", parameters: { node: "b2", ...signed } });
  stage.run(500);
  stage.order({ verb: "undrain", parameters: { node: "b2", ...signed } });
  stage.isolate("dc1");
  stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
  stage.run(2000);
  stage.heal();
  stage.until("all serve", () => world.watch.missing() === null, 60_000);
  stage.order({ verb: "pause", parameters: signed });
  stage.until("it is paused", () => stage.store.paused !== null);
  stage.order({ verb: "resume", parameters: { ...signed, rearm: false } });
  stage.until("it goes on", () => stage.store.paused === null);
  stage.run(1000);
  return { stage, recorded };
}

function settle(stage: Stage): void {
  stage.until("all serve", () => stage.world.watch.missing() === null, 60_000);
  stage.run(1500);
}

describe("every message of a failover, sent again", () => {
  const { stage, recorded } = story();
  const all = [...recorded];

  test("was recorded: reports, orders of the arbitrator and of a person, handshakes", () => {
    const verbs: ReadonlySet<string> = new Set(all.map(({ verb }) => verb));
    for (const verb of [
      "db_status_report",
      "make_primary",
      "drain",
      "undrain",
      "pause",
      "resume",
    ]) {
      expect([...verbs]).toContain(verb);
    }
    expect(all.length).toBeGreaterThan(300);
    expect(stage.store.epoch).toBeGreaterThan(0);
  });

  test("changes nothing at once: the newest is answered from memory, the rest is refused", () => {
    const counts = replayAll(stage, all);
    expect([...counts.keys()].sort()).toEqual(["200", "409", "410 older_seq"]);
    expect(counts.get("200") ?? 0).toBeLessThan(all.length / 10);
  });

  test("changes nothing after a restart of each process, one after the other", () => {
    const { world } = stage;
    for (const { node } of world.servers) {
      world.crashWatchdog(node, 200);
      settle(stage);
      replayAll(stage, all);
    }
    world.crashArbitrator(200);
    settle(stage);
    const counts = replayAll(stage, all);
    // Nobody knows the receivers' sessions of then any more.
    expect([...counts.keys()].sort()).toEqual(["409", "410 older_session"]);
  });

  test("changes nothing after the epoch has changed", () => {
    const { epoch } = stage.store;
    stage.isolate("dc2");
    stage.until("dc1 serves alone", () => stage.servesAlone("dc1"), 60_000);
    expect(stage.store.epoch).toBeGreaterThan(epoch);
    stage.run(1000);
    replayAll(stage, all);
    // And all of it once more, that of the new epoch too, while that one holds.
    replayAll(stage, [...recorded]);
    stage.endsWell();
  });
});
