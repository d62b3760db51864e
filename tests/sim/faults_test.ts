/**
 * Faults that an operator's table names, as far as the simulator can play them and the told holes do
 * not cover them: each must leave one writer at most, lose nothing and end with everybody back.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Stage } from "./scenarios/stage.ts";

// A history takes a fraction of a second; a machine with other work may take long over it.
setDefaultTimeout(120_000);

const SIGNED = { who: "operator", why: "scenario" } as const;

const THREE_EACH = [
  [1, 1, 1],
  [1, 1, 1],
] as const;

/** How many epochs were opened. */
function epochs(stage: Stage): number {
  return stage.count("epoch_opened");
}

describe("loss of a site", () => {
  test("dc1 loses power and returns: dc2 is promoted once, and there is no fail-back", () => {
    const stage = new Stage();
    stage.powerOff(stage.of("dc1"));
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 10_000);
    stage.run(10_000);
    stage.powerOn(stage.of("dc1"));
    stage.endsWell();
    expect(epochs(stage)).toBe(1);
    expect(stage.store.primarySegment).toBe("dc2");
  });

  test("dc2 loses power and returns: dc1 serves on after one promotion, the primary segment stays", () => {
    const stage = new Stage();
    stage.powerOff(stage.of("dc2"));
    stage.until("dc1 serves alone", () => stage.servesAlone("dc1"), 10_000);
    stage.run(10_000);
    stage.powerOn(stage.of("dc2"));
    stage.endsWell();
    expect(epochs(stage)).toBe(1);
    expect(stage.store.primarySegment).toBe("dc1");
    expect(stage.store.changedSegment).toBe(false);
  });

  test("the arbitrator loses power and returns: nobody closes for a moment and nothing is decided", () => {
    const stage = new Stage();
    stage.always("all serve", () => stage.serving().length === 4);
    stage.powerOff(["arbitrator"]);
    stage.run(60_000);
    stage.powerOn(["arbitrator"]);
    stage.run(20_000);
    expect(epochs(stage)).toBe(0);
    stage.endsWell();
  });
});

describe("links", () => {
  test("only the link between the data centres is cut: dc1 stays, as the primary segment", () => {
    const stage = new Stage({ writeEveryMs: 500, interMs: 0.5 });
    stage.cutSites();
    stage.until("dc1 serves alone", () => stage.servesAlone("dc1"), 10_000);
    stage.run(20_000);
    expect(stage.serving()).toEqual(["a1", "a2"]);
    expect(epochs(stage)).toBe(1);
    stage.endsWell();
  });

  for (const segment of ["dc1", "dc2"] as const)
    test(`only ${segment} and the arbitrator are cut: the joint view keeps writing, nobody is promoted`, () => {
      const stage = new Stage();
      stage.always("all serve", () => stage.serving().length === 4);
      stage.cut(stage.site(segment), ["arbitrator"]);
      stage.run(60_000);
      stage.heal();
      stage.run(20_000);
      expect(epochs(stage)).toBe(0);
      stage.endsWell();
    });

  for (const seed of [1, 2, 3])
    test(`dc1 is isolated with its clients alive: it is closed before dc2 is promoted (seed ${seed})`, () => {
      const stage = new Stage({ seed });
      stage.isolate("dc1");
      stage.until("an epoch is granted", () => stage.grant !== null);
      // By arithmetic no half of an even cut is Primary, so it may be granted while dc1 still stalls.
      stage.until(
        "dc2 is Primary alone",
        () => stage.primary("b1") && stage.view("b1").length === 2,
      );
      stage.always("nobody of dc1 serves", () =>
        stage
          .of("dc1")
          .every(
            (name) => !stage.serves(name) || !stage.primary(name) || stage.view(name).length === 4,
          ),
      );
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
      stage.run(20_000);
      expect(stage.of("dc1").some((name) => stage.serves(name))).toBe(false);
      stage.endsWell();
    });

  for (const [from, to] of [
    ["dc1", "dc2"],
    ["dc2", "dc1"],
  ] as const)
    test(`what ${from} sends no longer reaches ${to}: one side serves, never two`, () => {
      const stage = new Stage();
      stage.cut(stage.site(from), stage.site(to), { oneWay: true });
      stage.until(
        "one side serves alone",
        () => stage.servesAlone("dc1") || stage.servesAlone("dc2"),
      );
      stage.run(30_000);
      stage.endsWell();
    });

  test("what dc1 sends no longer reaches the arbitrator: the joint view keeps writing", () => {
    const stage = new Stage();
    stage.always("all serve", () => stage.serving().length === 4);
    stage.cut(stage.site("dc1"), ["arbitrator"], { oneWay: true });
    stage.run(30_000);
    stage.endsWell();
  });

  for (const everyMs of [3000, 8000, 20_000])
    test(`the link flaps, ${everyMs / 1000} s on and ${everyMs / 1000} s off: two epochs a cut at most, and no second change of segment by itself`, () => {
      const stage = new Stage();
      const segments: string[] = [];
      stage.onLog("promoted", (id, fields) => {
        if (id === "arbitrator.1") segments.push(String(fields["segment"]));
      });
      for (let round = 0; round < 6; round++) {
        stage.cutSites();
        stage.run(everyMs);
        stage.heal();
        stage.run(everyMs);
      }
      expect(epochs(stage)).toBeLessThanOrEqual(12);
      let changes = 0;
      for (const [index, segment] of segments.entries())
        if (segment !== (segments[index - 1] ?? "dc1")) changes++;
      // One more is allowed only where staying would lose commits.
      expect(changes).toBeLessThanOrEqual(2);
      stage.endsWell();
    });

  test("30 % of all messages are lost and the rest is half a second late: nobody is promoted", () => {
    const stage = new Stage();
    stage.world.lossShare = 0.3;
    stage.world.slowMs = 500;
    stage.run(60_000);
    expect(epochs(stage)).toBe(0);
    stage.world.lossShare = 0;
    stage.world.slowMs = 0;
    stage.endsWell();
  });

  test("every message comes twice, the second one seconds late, while dc1 is lost: one effect", () => {
    const stage = new Stage();
    stage.world.repeatShare = 1;
    stage.run(5000);
    stage.powerOff(stage.of("dc1"));
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
    stage.run(20_000);
    expect(epochs(stage)).toBe(1);
    stage.world.repeatShare = 0;
    stage.endsWell();
  });

  test("every answer to the arbitrator's messages is lost: the order is obeyed once", () => {
    const stage = new Stage();
    let obeyed = 0;
    stage.onLog("make_primary", (_id, fields) => {
      if (fields["refused"] === null) obeyed++;
    });
    stage.powerOff(stage.of("dc1"));
    stage.until("an epoch is granted", () => stage.grant !== null);
    stage.cut(stage.of("dc2"), ["arbitrator"], { oneWay: true, net: "messages" });
    stage.until("dc2 is Primary", () => stage.primary("b1"));
    stage.run(20_000);
    expect(obeyed).toBe(1);
    expect(epochs(stage)).toBe(1);
    stage.endsWell();
  });
});

describe("the arbitrator's store", () => {
  test("it is killed at any instant between deciding, writing, sending and hearing: it neither forgets nor grants twice", () => {
    for (let afterMs = 0; afterMs <= 40; afterMs += 2) {
      const stage = new Stage({ seed: afterMs + 1 });
      let opened = Number.POSITIVE_INFINITY;
      stage.onLog("epoch_opened", () => {
        opened = Math.min(opened, stage.now);
      });
      stage.powerOff(stage.of("dc1"));
      stage.until("it has decided", () => stage.now >= opened + afterMs);
      stage.world.crashArbitrator(300);
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 30_000);
      stage.endsWell();
    }
  });

  test("its disk is full when dc1 is lost: it grants nothing until it can write", () => {
    const stage = new Stage();
    stage.world.diskFull(null, 30_000);
    stage.powerOff(stage.of("dc1"));
    stage.run(25_000);
    expect(stage.grant).toBeNull();
    expect(stage.serving()).toEqual([]);
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 15_000);
    stage.endsWell();
  });

  for (const how of ["lost", "torn"] as const)
    test(`its store is ${how}: it grants nothing until a person re-arms it`, () => {
      const stage = new Stage();
      stage.world.spoilStore(how);
      stage.run(10_000);
      stage.powerOff(stage.of("dc1"));
      stage.run(30_000);
      expect(stage.serving()).toEqual([]);
      expect(stage.verdict("dc2").rule).toBe("store.trusted");
      stage.order({ verb: "resume", parameters: { ...SIGNED, rearm: true } });
      stage.run(15_000);
      stage.endsWell();
    });
});

describe("clocks, pauses and hangs", () => {
  for (const seed of [1, 2, 3])
    test(`the watchdogs of dc1 are stopped while dc1 is isolated: dc2 serves, dc1 never beside it (seed ${seed})`, () => {
      const stage = new Stage({ seed });
      for (const name of stage.of("dc1")) stage.world.pauseWatchdog(stage.node(name), 30_000);
      stage.isolate("dc1");
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
      stage.run(40_000);
      stage.endsWell();
    });

  test("a mariadbd hangs with its port open while all links live: it is killed and comes back, nobody is promoted", () => {
    const stage = new Stage();
    const proc = stage.world.galera.procs[stage.node("a2")];
    stage.world.hangMariadbd(stage.node("a2"), 60_000);
    stage.until("it is killed", () => proc?.alive === false, 6000);
    stage.until("all serve again", () => stage.serving().length === 4, 15_000);
    expect(epochs(stage)).toBe(0);
    stage.endsWell();
  });

  test("all watchdogs die and return: no mariadbd ends and nobody is closed for longer than a moment", () => {
    const stage = new Stage();
    for (const name of stage.all()) stage.world.crashWatchdog(stage.node(name), 10_000);
    stage.always("all mariadbd run", () => stage.all().every((name) => stage.runs(name)));
    stage.run(10_500);
    stage.until("all serve", () => stage.serving().length === 4, 2000);
    stage.endsWell();
  });

  test("the disk of a watchdog is full when its segment is to be promoted: its order is not obeyed unwritten", () => {
    const stage = new Stage();
    for (const name of stage.of("dc2")) stage.world.diskFull(stage.node(name), 20_000);
    stage.powerOff(stage.of("dc1"));
    stage.run(18_000);
    expect(stage.of("dc2").some((name) => stage.primary(name))).toBe(false);
    stage.endsWell();
  });
});

describe("full outages and returns", () => {
  for (const order of [
    ["a1", "a2", "b1", "b2"],
    ["b2", "b1", "a2", "a1"],
    ["a2", "b2", "a1", "b1"],
  ])
    test(`everything loses power and returns as ${order.join(", ")}: one bootstrap, when all have said where they stand`, () => {
      const stage = new Stage();
      stage.powerOff([...stage.all(), "arbitrator"]);
      stage.run(3000);
      stage.powerOn(["arbitrator"]);
      for (const name of order.slice(0, 3)) {
        stage.powerOn([name]);
        stage.run(7000);
        expect(stage.serving()).toEqual([]);
      }
      stage.powerOn(order.slice(3));
      stage.until("somebody serves", () => stage.serving().length > 0, 60_000);
      stage.endsWell();
    });

  test("everything loses power and one never returns: nothing is bootstrapped until a person retires it", () => {
    const stage = new Stage();
    stage.powerOff(stage.all());
    stage.powerOn(["a1", "a2", "b1"]);
    stage.run(60_000);
    expect(stage.serving()).toEqual([]);
    expect(stage.verdict("dc1").rule).toBe("outage.silent");
    stage.order({ verb: "retire", parameters: { ...SIGNED, node: "b2" } });
    stage.until("somebody serves", () => stage.serving().length > 0, 60_000);
    stage.order({ verb: "restore", parameters: { ...SIGNED, node: "b2" } });
    stage.run(1000);
    stage.endsWell();
  });

  test("everything loses power and one that served on although it was retired is silent: its commits count", () => {
    const stage = new Stage();
    stage.order({ verb: "retire", parameters: { ...SIGNED, node: "b2" } });
    stage.run(5000);
    stage.powerOff(stage.all());
    stage.powerOn(["a1", "a2", "b1"]);
    stage.run(60_000);
    expect(stage.serving()).toEqual([]);
    expect(stage.verdict("dc1").because).toContain("b2 may know more");
    stage.powerOn(["b2"]);
    stage.until("somebody serves", () => stage.serving().length > 0, 60_000);
    stage.order({ verb: "restore", parameters: { ...SIGNED, node: "b2" } });
    stage.run(1000);
    stage.endsWell();
  });

  test("b1 is still receiving what a1 has committed alone when both lose power: to retire a1 starts nobody without it", () => {
    const stage = new Stage({ weights: [[1], [1]] });
    stage.powerOff(["b1"]);
    stage.until("a1 serves alone", () => stage.servesAlone("dc1"));
    stage.run(3000);
    stage.powerOn(["b1"]);
    stage.until("b1 is in the noted view", () => stage.store.noted?.members.length === 2);
    stage.powerOff(stage.all());
    stage.powerOn(["b1"]);
    stage.run(10_000);
    expect(stage.position("b1").seqno).toBeLessThan(stage.store.noted?.seqno ?? 0);
    stage.order({ verb: "retire", parameters: { ...SIGNED, node: "a1" } });
    stage.run(20_000);
    expect(stage.serving()).toEqual([]);
    expect(stage.verdict("dc2").rule).toBe("outage.behind");
    stage.powerOn(["a1"]);
    stage.until("somebody serves", () => stage.serving().length > 0, 60_000);
    stage.order({ verb: "restore", parameters: { ...SIGNED, node: "a1" } });
    stage.run(1000);
    stage.endsWell();
  });

  test("b1 joins b2, which has no watchdog, out of the arbitrator's reach, and is Primary alone once b2 stops: b2 does not begin beside it", () => {
    const stage = new Stage({ weights: [[2], [1, 1]], onDoubleFault: "fence" });
    stage.stop("b1").until("b1 has stopped", () => !stage.runs("b1"));
    stage.world.crashWatchdog(stage.node("a1"), Number.POSITIVE_INFINITY);
    stage.stop("a1").until("b2 is alone", () => stage.store.noted?.members.length === 1);
    stage.until("b1 is on its way up", () => stage.runs("b1"));
    stage.cut(["b1", "b2"], ["arbitrator"], { net: "messages" });
    // Nobody is left to tell that b1 was in a view with it.
    stage.world.crashWatchdog(stage.node("b2"), Number.POSITIVE_INFINITY);
    stage.until("b1 is in", () => stage.primary("b1"));
    stage.stop("b2").until("b2 has stopped", () => !stage.runs("b2"));
    stage.world.startWatchdog(stage.node("b2"));
    expect(stage.primary("b1")).toBe(true);
    stage.heal().cut(["b1"], ["arbitrator"], { net: "messages" });
    stage.always("b2 does not begin", () => stage.grant === null);
    stage.run(20_000);
    expect(stage.verdict("dc2").because).toContain("b1 may know more");
    stage.endsWell();
  });

  test("a2 and b2 join by the word of peers while the arbitrator is out of reach, and serve on when a1 and b1 have left: after a power loss nobody begins without them", () => {
    const stage = new Stage();
    const leaves = (name: string) => {
      stage.world.crashWatchdog(stage.node(name), Number.POSITIVE_INFINITY);
      stage.stop(name).until(`${name} has left`, () => !stage.runs(name));
    };
    for (const name of ["a2", "b2"]) leaves(name);
    stage.until("two are noted", () => stage.store.noted?.members.length === 2);
    stage.cut(["arbitrator"], stage.all());
    for (const name of ["a2", "b2"]) stage.world.startWatchdog(stage.node(name));
    stage.until("all serve", () => stage.serving().length === 4);
    for (const name of ["a1", "b1"]) leaves(name);
    stage.run(5000);
    expect(stage.serving()).toEqual(["a2", "b2"]);
    expect(stage.store.noted?.members).toEqual(["a1", "b1"]);
    stage.powerOff(stage.all());
    stage.heal();
    stage.powerOn(["a1", "b1"]);
    stage.run(30_000);
    expect(stage.serving()).toEqual([]);
    expect(stage.verdict("dc1").because).toContain("a2, b2 may know more");
    // To retire them is no consent to lose what they have.
    for (const node of ["a2", "b2"])
      stage.order({ verb: "retire", parameters: { ...SIGNED, node } });
    stage.run(10_000);
    expect(stage.verdict("dc1").rule).toBe("outage.behind");
    stage.powerOn(["a2", "b2"]);
    stage.until("somebody serves", () => stage.serving().length > 0, 60_000);
    for (const node of ["a2", "b2"])
      stage.order({ verb: "restore", parameters: { ...SIGNED, node } });
    stage.run(1000);
    stage.endsWell();
  });

  test("b2 is told to join, and is heard no more: as it may be in the view that goes on, dc2 is not promoted without it", () => {
    const stage = new Stage({ guards: true });
    const b2 = stage.world.servers[stage.node("b2")]?.config.id;
    const turns = () => stage.world.arbiter.process?.state.core.turns;
    stage.kill(["b2"]);
    stage.until("it is told", () => b2 !== undefined && turns()?.has(b2) === true);
    stage.cut(["b2"], ["arbitrator"], { net: "messages", oneWay: true });
    stage.until("it starts", () => stage.runs("b2"));
    stage.cut(["b1", "arbitrator"], ["a1", "a2", "b2"]);
    stage.always("dc2 holds no epoch", () => stage.grant === null);
    stage.until("it is in", () => stage.view("b2").length === 3 && stage.primary("b2"));
    stage.run(20_000);
    expect(stage.verdict("dc2")).toMatchObject({
      rule: "segment.majority",
      because: "1 of 2 servers of dc2 are in the component",
    });
    stage.endsWell();
  });

  test("b1 and b3 lose power, and of those who go on only a1 and b2 are heard: dc2's one server is granted nothing beside all of dc1", () => {
    const stage = new Stage({ weights: THREE_EACH });
    stage.always("dc2 holds no epoch", () => stage.grant?.segment !== "dc2");
    stage.cut(["a2", "a3"], ["arbitrator"], { net: "messages" });
    stage.powerOff(["b1", "b3"], 2000);
    stage.until("four go on", () => stage.view("b2").length === 4);
    stage.run(1000);
    expect(stage.verdict("dc2").because).toContain("beside the majority of dc1");
    stage.heal();
    stage.until("all of dc1 serves", () => stage.of("dc1").every((name) => stage.serves(name)));
    stage.endsWell();
  });

  for (const serves of [true, false])
    test(`b1 holds an epoch whose view nobody has told the arbitrator${serves ? ", and serves" : ""}: to retire it starts a1 neither beside it nor without its rows`, () => {
      const stage = new Stage({
        weights: [[1], [1]],
        onDoubleFault: serves ? "stay" : "fence",
        evict: serves ? "full" : "off",
      });
      stage.kill(["a1"]);
      stage.until(
        "b1 is Primary alone",
        () => stage.primary("b1") && stage.view("b1").length === 1,
      );
      stage.cut(["b1"], ["arbitrator", "a1"]);
      stage.run(20_000);
      expect(stage.store.noted?.members).toHaveLength(2);
      expect(stage.serves("b1")).toBe(serves);
      stage.order({ verb: "retire", parameters: { ...SIGNED, node: "b1" } });
      stage.run(20_000);
      expect(stage.verdict("dc1").rule).toBe("outage.behind");
      stage.heal();
      stage.until("b1 serves", () => stage.serves("b1"), 60_000);
      stage.order({ verb: "restore", parameters: { ...SIGNED, node: "b1" } });
      stage.run(1000);
      stage.endsWell();
    });

  for (const first of ["b1", "b2"])
    test(`b1 and b2 hold one epoch, each Primary alone, ${first} first: b2 makes way for b1, and comes back by full transfer`, () => {
      const stage = new Stage({ weights: [[2], [1, 1]] });
      stage.powerOff(["a1"]);
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
      stage.run(2_000);
      stage.cut(["b1"], ["b2"], { net: "galera" });
      stage.until("neither is Primary", () => !stage.primary("b1") && !stage.primary("b2"));
      stage.world.galera.bootstrap(stage.node(first));
      stage.until("one is, alone", () => stage.store.noted?.members.join() === first);
      for (const name of stage.of("dc2")) stage.world.galera.bootstrap(stage.node(name));
      stage.until("both are", () => stage.primary("b1") && stage.primary("b2"));
      stage.heal();
      stage.always("b1 runs", () => stage.runs("b1"));
      const transferred: string[] = [];
      stage.onLog("diverged", (id) => transferred.push(id));
      stage.until("dc2 serves alone", () => stage.servesAlone("dc2"), 60_000);
      expect(transferred).toEqual(["dbserver.12"]);
      stage.endsWell();
    });

  test("dc1 commits alone and dies, dc2 is asked to take over: refused without --allow-data-loss, and dc1 comes back only by full transfer", () => {
    const stage = new Stage();
    stage.cutSites();
    stage.until("dc1 serves alone", () => stage.servesAlone("dc1"));
    stage.run(5000);
    stage.powerOff(stage.of("dc1"));
    stage.run(10_000);
    stage.force("dc2", { allowDataLoss: false });
    stage.run(20_000);
    expect(stage.serving()).toEqual([]);
    stage.force("dc2", { allowDataLoss: true });
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
    const reseeds: string[] = [];
    const { note } = stage.world;
    stage.world.note = (text) => {
      if (/: start reseed$/.test(text)) reseeds.push(text.slice(0, 2));
      note.call(stage.world, text);
    };
    stage.endsWell();
    expect([...new Set(reseeds)].sort()).toEqual(["a1", "a2"]);
  });

  test("a killed mariadbd of the isolated dc1 is started past its watchdog, with gvwstate.dat: it does not serve beside dc2", () => {
    const stage = new Stage();
    stage.isolate("dc1");
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
    stage.kill(stage.of("dc1"));
    // Their watchdogs have not put the file aside yet.
    stage.run(20);
    for (const name of stage.of("dc1")) stage.world.startBehind(stage.node(name));
    stage.run(40_000);
    expect(stage.of("dc1").some((name) => stage.serves(name))).toBe(false);
    stage.endsWell();
  });

  test("a killed mariadbd that its watchdog has found stopped is started past it: without gvwstate.dat it is no Primary alone", () => {
    const stage = new Stage({ weights: [[2], [1]], guards: true });
    stage.isolate("dc1");
    stage.until("a1, Primary without a grant, is killed", () => !stage.runs("a1"));
    stage.until("dc2 serves alone", () => stage.servesAlone("dc2"));
    stage.run(1_000);
    stage.always("a1 is not Primary alone", () => !stage.primary("a1"));
    stage.world.startBehind(stage.node("a1"));
    stage.run(20_000);
    stage.noLonger("a1 is not Primary alone");
    stage.endsWell();
  });

  for (const kind of ["ist", "sst"] as const)
    test(`the link is cut in the middle of an ${kind.toUpperCase()}, the donor dies: nobody is promoted with a half-filled server`, () => {
      const stage = new Stage({
        galera: {
          istMs: [6000, 6001],
          sstMs: [6000, 6001],
          gcacheMissChance: kind === "sst" ? 1 : 0,
        },
      });
      stage.powerOff(["b2"]);
      stage.until("the rest serves", () =>
        ["a1", "a2", "b1"].every((name) => stage.serves(name) && stage.view(name).length === 3),
      );
      stage.powerOn(["b2"]);
      stage.until(
        "b2 receives",
        () => stage.world.galera.procs[stage.node("b2")]?.transfer != null,
      );
      stage.run(2000);
      stage.isolate("dc1");
      stage.always(
        "b2 does not serve with half its rows",
        () => !stage.serves("b2") || stage.hasRows("b2"),
      );
      stage.run(30_000);
      stage.endsWell();
    });

  test("a change of weight races a cut: no order rests on weights that have just changed", () => {
    const stage = new Stage();
    stage.always("no grant rests on arithmetic", () => stage.grant?.basis !== "arithmetic");
    stage.run(3500);
    stage.world.galera.setWeight(stage.node("a1"), 2);
    stage.world.galera.setWeight(stage.node("a2"), 2);
    stage.run(1500);
    stage.isolate("dc1");
    stage.run(6000);
    stage.noLonger("no grant rests on arithmetic");
    stage.endsWell();
  });

  test("two people make different segments primary at once: the second is refused with the first one's name", () => {
    const stage = new Stage();
    stage.order({ verb: "pause", parameters: SIGNED });
    stage.run(200);
    stage.cutSites();
    stage.run(12_000);
    expect(stage.serving()).toEqual([]);
    const outcomes: string[] = [];
    stage.onLog("order", (id, fields) => {
      if (id === "arbitrator.1" && fields["order"] === "make_primary")
        outcomes.push(String(fields["outcome"]));
    });
    const word = { why: "", allowDataLoss: false } as const;
    // Which side a cut leaves with more commits is chance; the other one would be refused for that.
    const longer = stage.position("b1").seqno > stage.position("a1").seqno;
    const [best, other] = longer ? ["dc2", "dc1"] : ["dc1", "dc2"];
    stage.order({ verb: "make_primary", parameters: { ...word, ...SIGNED, segment: best } });
    stage.order({ verb: "make_primary", parameters: { ...word, who: "bob", segment: other } });
    stage.until(
      "one of them serves alone",
      () => stage.servesAlone("dc1") || stage.servesAlone("dc2"),
    );
    stage.run(10_000);
    expect(outcomes.toSorted()).toEqual(["refused", "would"]);
    stage.order({ verb: "resume", parameters: { ...SIGNED, rearm: false } });
    stage.endsWell();
  });
});
