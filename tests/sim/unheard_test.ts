/**
 * Told stories of what the arbitrator has not heard, or has heard too long ago: a view, a weight, where somebody stands,
 * that an epoch is closed. Each was a hole once. Writes are followed more strictly than in the swarm: excused is only what
 * was handed in before the cut and acknowledged within a round trip of it.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writesOf } from "./rows.ts";
import { Stage, type StageOptions } from "./scenarios/stage.ts";

setDefaultTimeout(120_000);

const BALANCED_3_3 = [
  [1, 1, 1],
  [1, 1, 1],
] as const;
const HEAVY_3_2 = [
  [1, 1, 1],
  [1, 1],
] as const;
/** Galera's own round trip, and a little. */
const FLIGHT_MS = 25;
const NEVER = Number.POSITIVE_INFINITY;

function open(seed: number, options: StageOptions = {}): Stage {
  return new Stage({ seed, evict: "confirmed", ...options });
}

/** Messages between these, on or off; not to be followed by `cut` or `heal`, which set all links anew. */
function messages(
  stage: Stage,
  some: readonly string[],
  others: readonly string[],
  up: boolean,
): void {
  const index = (name: string) => stage.world.hosts.findIndex((host) => host.name === name);
  for (const a of some)
    for (const b of others) {
      stage.world.setLink(index(a), index(b), up, "messages");
      stage.world.setLink(index(b), index(a), up, "messages");
    }
  stage.world.relinked(`messages ${some.join()} - ${others.join()} ${up ? "on" : "off"}`);
}

function endsWithoutLoss(stage: Stage, cutAt: number): void {
  stage.endsWell();
  const { galera, watch } = stage.world;
  const tips = galera.procs.flatMap((proc) =>
    proc !== null && proc.tip !== null && galera.writable(proc.node) ? [proc.tip] : [],
  );
  const [first] = tips.sort((a, b) => b.seqno - a.seqno);
  if (first === undefined) throw new Error("Nobody serves");
  const present = writesOf(first);
  const lost = watch.acked
    .filter(({ id, sentAt, at }) => {
      const inFlight = sentAt <= cutAt && at <= cutAt + FLIGHT_MS;
      return !present.has(id) && !inFlight;
    })
    .map(({ sentAt, at }) => `sent ${sentAt - cutAt} ms after the cut, acknowledged ${at - cutAt}`);
  expect(lost).toEqual([]);
}

/** dc1 has held epoch 1; it was closed by a joint view, of which a1 has not heard. */
function closedUnheard(stage: Stage): void {
  stage.isolate("dc2");
  stage.until("dc1 serves", () => stage.servesAlone("dc1") && stage.grant?.order === "done");
  stage.run(2000);
  stage.heal();
  stage.cut(["a1"], ["arbitrator"], { net: "messages" });
  stage.until("the epoch is closed", () => stage.grant === null);
  stage.until("all serve", () => stage.serving().length === stage.all().length);
  stage.run(5000);
}

describe("words of not being Primary are of before the view that healed", () => {
  const OUTSIDE = ["a1", "a2", "a3", "b1"];

  /** All of 3+3 lost Primary for a moment and came back; since then the arbitrator hears b2 and b3 only. */
  function oldWords(seed: number): Stage {
    const stage = open(seed, { weights: BALANCED_3_3, galera: { mergeMs: [800, 801] } });
    for (const name of stage.all())
      stage.cut(
        [name],
        stage.all().filter((other) => other !== name),
        { net: "galera" },
      );
    stage.until("nobody is Primary", () => stage.all().every((name) => !stage.primary(name)));
    stage.run(300);
    stage.heal();
    stage.cut(OUTSIDE, ["arbitrator"], { net: "messages" });
    stage.until("all serve", () => stage.serving().length === 6);
    return stage.run(10_000);
  }

  for (const seed of [2, 3]) {
    test(`a1's watchdog is dead, and {a1,a2,a3,b1} goes on: b2 and b3 are not promoted beside it (seed ${seed})`, () => {
      const stage = oldWords(seed);
      stage.world.crashWatchdog(stage.node("a1"), NEVER);
      stage.run(500);
      stage.cut(OUTSIDE, ["b2", "b3"]);
      stage.run(20_000);
      stage.endsWell();
    });

    test(`{a1,a2,a3,b1} acknowledges what was held when it goes on: b2 and b3 are not promoted without that (seed ${seed})`, () => {
      const stage = oldWords(seed);
      stage.world.holdCommits(0, 60_000);
      stage.run(1500);
      const cutAt = stage.now;
      stage.cut(OUTSIDE, ["b2", "b3"], { net: "galera" });
      stage.run(20_000);
      endsWithoutLoss(stage, cutAt);
    });
  }
});

for (const seed of [5, 13])
  test(`dc1 goes on, acknowledges what was held and ends itself: dc2 is not promoted before it is known where dc1 stands (seed ${seed})`, () => {
    const stage = open(seed, { weights: HEAVY_3_2 });
    stage.world.holdCommits(0, 60_000);
    stage.run(1500);
    const cutAt = stage.now;
    stage.cut(stage.of("dc1"), stage.of("dc2"), { net: "galera" });
    stage.run(4000);
    messages(stage, stage.of("dc1"), ["arbitrator"], false);
    stage.until("dc1 is alone", () => stage.view("a1").length === 3);
    stage.until("dc1 has ended", () => !stage.of("dc1").some((name) => stage.runs(name)));
    messages(stage, stage.of("dc1"), ["arbitrator"], true);
    stage.run(20_000);
    endsWithoutLoss(stage, cutAt);
  });

for (const seed of [2, 3, 7])
  test(`a1 has not heard that the epoch of heavy dc1 is closed: it does not stay on it when dc1 is isolated (seed ${seed})`, () => {
    const stage = open(seed, { weights: HEAVY_3_2, guards: true });
    closedUnheard(stage);
    stage.isolate("dc1");
    stage.run(20_000);
    stage.endsWell();
  });

describe("a newer view between two looks", () => {
  for (const seed of [1, 2, 3])
    test(`b1's watchdog stood still while b1 was in {a1,a2,b1}: it does not say that it came straight from the view before (seed ${seed})`, () => {
      const stage = open(seed, { galera: { mergeMs: [800, 900] } });
      stage.cut(stage.of("dc1"), ["arbitrator"], { net: "messages" });
      stage.run(5000);
      stage.cut(["b2"], ["a1", "a2", "b1"], { net: "galera" });
      stage.run(1500);
      stage.world.pauseWatchdog(stage.node("b1"), 60_000);
      stage.world.crashWatchdog(stage.node("a1"), NEVER);
      stage.until("{a1,a2,b1} stands", () => stage.view("a1").length === 3 && stage.primary("b1"));
      stage.run(1000);
      stage.heal();
      stage.cut(stage.of("dc1"), [...stage.of("dc2"), "arbitrator"]);
      stage.until("dc1 goes on", () => !stage.primary("b1") && stage.view("a1").length === 2);
      stage.until("b1 has met b2", () => stage.view("b1").length === 2);
      stage.run(200);
      stage.world.servers[stage.node("b1")]?.process?.resume(null);
      stage.run(6000);
      stage.endsWell();
    });

  for (const seed of [3, 4])
    test(`b3, whose watchdog is dead, came from {a1,a2,a3,b3} to b1 and b2: its weight proves nothing against those (seed ${seed})`, () => {
      const stage = open(seed, { weights: BALANCED_3_3, galera: { mergeMs: [800, 900] } });
      stage.cut(stage.of("dc1"), ["arbitrator"], { net: "messages" });
      stage.world.crashWatchdog(stage.node("b3"), NEVER);
      stage.run(6000);
      stage.cut(["b1", "b2"], ["a1", "a2", "a3", "b3"], { net: "galera" });
      stage.run(1500);
      for (const name of stage.of("dc1")) stage.world.crashWatchdog(stage.node(name), NEVER);
      stage.until(
        "{a1,a2,a3,b3} stands",
        () => stage.view("a1").length === 4 && stage.primary("b3"),
      );
      stage.run(200);
      stage.heal();
      stage.cut(stage.of("dc1"), [...stage.of("dc2"), "arbitrator"]);
      stage.run(20_000);
      stage.endsWell();
    });
});

test("a lease is not renewed for one whose commits hang, whatever others said before they fell silent: heavy dc1's doors are closed when its view changes", () => {
  for (let seed = 1; seed <= 3; seed++) {
    const stage = open(seed, { weights: HEAVY_3_2, guards: true });
    stage.run(seed * 170);
    const cutAt = stage.now;
    stage.cut(stage.site("dc1"), stage.site("dc2"));
    stage.run(900);
    messages(stage, ["a2", "a3", "b1", "b2"], ["arbitrator"], false);
    stage.run(3600);
    messages(stage, ["b1", "b2"], ["arbitrator"], true);
    messages(stage, stage.of("dc1"), ["arbitrator"], false);
    stage.run(15_000);
    endsWithoutLoss(stage, cutAt);
  }
});

test("a1 is given weight 3 out of the arbitrator's reach: dc2 says what the view weighs, and is not promoted beside dc1", () => {
  for (let seed = 1; seed <= 4; seed++) {
    const stage = open(seed);
    stage.cut(stage.of("dc1"), ["arbitrator"], { net: "messages" });
    stage.run(1000);
    stage.world.galera.setWeight(stage.node("a1"), 3);
    stage.run(20_000);
    stage.world.holdCommits(0, 60_000);
    stage.run(1500);
    const cutAt = stage.now;
    stage.cut(stage.of("dc1"), stage.of("dc2"), { net: "galera" });
    stage.run(20_000);
    endsWithoutLoss(stage, cutAt);
  }
});

describe("Galera's ports stay blocked for longer than three starts wait", () => {
  test("all have lost power: they come back by themselves", () => {
    for (const seed of [1, 2]) {
      const stage = open(seed);
      stage.powerOff(stage.all());
      stage.run(2000);
      for (const name of stage.all())
        stage.cut(
          [name],
          stage.all().filter((other) => other !== name),
          { net: "galera" },
        );
      stage.powerOn(stage.all());
      stage.run(110_000);
      stage.endsWell();
    }
  });

  test("dc2 has been booted meanwhile: it comes back by itself", () => {
    for (const seed of [1, 2]) {
      const stage = open(seed);
      stage.cutSites("galera");
      stage.until("dc1 serves alone", () => stage.servesAlone("dc1"));
      stage.powerOff(stage.of("dc2"));
      stage.run(2000);
      stage.powerOn(stage.of("dc2"));
      stage.run(110_000);
      stage.endsWell();
    }
  });
});
