/** Eviction in told sequences of events: how soon the rest goes on, and when nobody may be evicted. */
import { describe, expect, test } from "bun:test";
import { Stage } from "./scenarios/stage.ts";
import { run, storyOf } from "./swarm.ts";

const NOBODY_EVICTED = "nobody is evicted";

/** Nobody's list holds anything, from now on. */
function nobodyEvicted(stage: Stage): void {
  stage.always(NOBODY_EVICTED, () =>
    stage.world.galera.procs.every((proc) => proc === null || proc.evictList.length === 0),
  );
}

function listsAreEmpty(stage: Stage): boolean {
  return stage.world.galera.procs.every((proc) => proc === null || proc.evictList.length === 0);
}

describe("eviction on a confirmed exit", () => {
  for (const evict of ["confirmed", "full"] as const) {
    test(`a crashed server is out of the view within half a second, evict "${evict}"`, () => {
      const stage = new Stage({ evict });
      stage.run(6_000);
      stage.kill(["b2"]);
      stage.always("the others stay open", () =>
        ["a1", "a2", "b1"].every((name) => stage.serves(name)),
      );
      stage.until("the others are a view of three", () => stage.view("a1").length === 3, 500);
      stage.run(1_000).noLonger("the others stay open").endsWell();
      expect(listsAreEmpty(stage)).toBe(true);
    });

    test(`with both servers of dc1 gone dc2 serves within a second, under a grant, evict "${evict}"`, () => {
      const stage = new Stage({ evict });
      stage.run(6_000);
      stage.kill(["a1", "a2"]);
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 1_000);
      expect(stage.grant).toMatchObject({ segment: "dc2", kind: "evict" });
      stage.endsWell();
      expect(listsAreEmpty(stage)).toBe(true);
    });
  }
});

describe("eviction of two at once", () => {
  test("H11: a server of each segment ends, one after the other: each is evicted, and the rest, joint all the time, needs no grant", () => {
    const stage = new Stage({ evict: "confirmed" });
    stage.run(6_000);
    stage.kill(["a2"]);
    stage.until("the others are a view of three", () => stage.view("a1").length === 3, 500);
    stage.kill(["b2"]);
    stage.until("the others are a view of two", () => stage.view("a1").length === 2, 1_000);
    stage.run(1_000);
    expect(stage.serving()).toEqual(["a1", "b1"]);
    expect(stage.store.epoch).toBe(0);
    stage.endsWell();
    expect(listsAreEmpty(stage)).toBe(true);
  });

  test("H11: two of four end at once, and the rest has no quorum without them: nobody is evicted without a grant, and nobody serves in a view that is not joint", () => {
    for (const gone of [
      ["a2", "b2"],
      ["a1", "a2"],
    ]) {
      const stage = new Stage({ evict: "confirmed" });
      stage.run(6_000);
      stage.always("whoever evicts two has a grant", () =>
        stage.world.galera.procs.every(
          (proc) => proc === null || proc.evictList.length < 2 || stage.grant !== null,
        ),
      );
      stage.kill(gone);
      stage.run(8_000);
      stage.endsWell();
      expect(listsAreEmpty(stage)).toBe(true);
    }
  });
});

describe("eviction on silence", () => {
  test("after a cut link one side goes on within 3 s, the other's door is closed before", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    stage.cutSites();
    stage.always(
      "never both sides are open after a promotion",
      () => stage.grant === null || !["b1", "b2"].some((name) => stage.serves(name)),
    );
    stage.until("dc1 serves alone", () => stage.servesAlone("dc1"), 3_000);
    stage.run(10_000).noLonger("never both sides are open after a promotion");
    stage.endsWell();
    expect(listsAreEmpty(stage)).toBe(true);
  });

  test("a data centre that nobody hears is evicted within 3 s, and comes back by itself", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    stage.isolate("dc1");
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 3_500);
    stage.run(5_000).endsWell({ mayLose: true });
    expect(listsAreEmpty(stage)).toBe(true);
  });

  test("one server that nobody hears is evicted without an epoch", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    stage.cut(["b2"], [...stage.others(["b2"]), "arbitrator"]);
    stage.until("the others are a view of three", () => stage.view("a1").length === 3, 3_500);
    expect(stage.grant).toBeNull();
    stage.run(5_000).endsWell();
  });
});

describe("never the wrong one", () => {
  test("heavy dc1 is isolated with its guards: time tells against its clients, not against its quorum, so nobody evicts it", () => {
    const stage = new Stage({
      weights: [
        [1, 1, 1],
        [1, 1],
      ],
      guards: true,
      evict: "full",
    });
    stage.run(6_000);
    nobodyEvicted(stage);
    stage.isolate("dc1");
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
    expect(stage.grant).toMatchObject({ kind: "form", basis: "outwaited" });
    stage.run(5_000).noLonger(NOBODY_EVICTED).endsWell();
  });

  test("a network that loses 30 % and delays the rest by half a second evicts nobody", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    nobodyEvicted(stage);
    stage.world.lossShare = 0.3;
    stage.world.slowMs = 500;
    stage.run(60_000);
    stage.world.lossShare = 0;
    stage.world.slowMs = 0;
    stage.run(5_000).noLonger(NOBODY_EVICTED).endsWell();
  });

  test("watchdogs that do not hear each other evict nobody while commits flow", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    nobodyEvicted(stage);
    stage.cutSites("messages");
    stage.run(20_000);
    stage.noLonger(NOBODY_EVICTED).endsWell();
  });

  test("H23: the management network of dc1 fails and Galera lives: nobody hears dc1, but commits flow, so nobody evicts it", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    nobodyEvicted(stage);
    stage.cut(stage.site("dc1"), stage.others(stage.site("dc1")), { net: "messages" });
    stage.run(30_000);
    expect(stage.store.epoch).toBe(0);
    stage.noLonger(NOBODY_EVICTED).endsWell();
  });

  test("a server that has come back is not evicted on the evidence of its earlier life", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    stage.kill(["b2"]);
    stage.until("b2 is back", () => stage.serves("b2"), 30_000);
    nobodyEvicted(stage);
    stage.run(20_000);
    expect(stage.view("b2").length).toBe(4);
    stage.noLonger(NOBODY_EVICTED).endsWell();
  });

  test("a link that heals within a second evicts nobody", () => {
    const stage = new Stage({ evict: "full" });
    stage.run(6_000);
    nobodyEvicted(stage);
    stage.cutSites();
    stage.run(1_000).heal();
    stage.run(10_000).noLonger(NOBODY_EVICTED).endsWell();
  });

  test("a second Primary is never formed, whenever the cut link heals", () => {
    for (let healMs = 1_600; healMs <= 3_600; healMs += 200) {
      const stage = new Stage({ evict: "full", seed: healMs });
      stage.run(6_000);
      stage.cutSites();
      stage.run(healMs).heal();
      stage.run(3_000).safe();
      stage.endsWell({ mayLose: true });
    }
  }, 60_000);
});

describe("an order to evict that proves void once its epoch is written", () => {
  // dc2 loses power, and b1 is heard again just when a1 has written the epoch under which to evict it.
  const story = {
    ...storyOf(888126251345),
    faults: [
      { atMs: 4042, kind: "power_site", forMs: 691, pick: [0.463, 0.615, 0.825] },
      { atMs: 6603, kind: "disk_slow", forMs: 23046, pick: [0.149, 0.648, 0.583] },
    ],
  } as const;

  test("opens no door before it is taken back on disk", () => {
    const { violations, counts } = run(story, { record: false });
    expect(violations).toEqual([]);
    expect([...counts.keys()].some((what) => what.startsWith("granted evict"))).toBe(true);
  });
});
