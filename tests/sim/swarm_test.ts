/** The simulator itself: it repeats itself, and it is not blind. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Random } from "./random.ts";
import { Plan, Schedule } from "./schedule.ts";
import { configOf, FAULT_KINDS, run, storyOf } from "./swarm.ts";
import { World } from "./world.ts";

function calmWorld(record = false): World {
  const world = new World({
    config: configOf({
      weights: [
        [1, 1],
        [1, 1],
      ],
      onDoubleFault: "stay",
    }),
    random: new Random(7),
    galera: {},
    driftMax: 1e-4,
    writeEveryMs: 50,
    localWriters: 1,
    remoteWriters: 2,
    intraMs: 0.3,
    interMs: 5,
    codecShare: 0.05,
    record,
  });
  world.schedule.runUntil(6000);
  return world;
}

function cutSites(world: World): void {
  for (const a of [0, 1])
    for (const b of [2, 3]) {
      world.setLink(a, b, false, "both");
      world.setLink(b, a, false, "both");
    }
  world.relinked("the segments are cut");
}

setDefaultTimeout(60_000);

describe("the simulator", () => {
  test("a seed gives the same history each time", () => {
    for (const seed of [11, 12, 13]) {
      const told = [run(storyOf(seed), { record: true }), run(storyOf(seed), { record: true })];
      expect(told[0]?.timeline).toEqual([...(told[1]?.timeline ?? [])]);
      expect(told[0]?.steps).toBe(told[1]?.steps ?? -1);
    }
  });
  test("telling a history does not change it", () => {
    const silent = run(storyOf(21), { record: false });
    const told = run(storyOf(21), { record: true });
    expect(told.steps).toBe(silent.steps);
    expect(told.acknowledged).toBe(silent.acknowledged);
  });
  test("stories use every kind of fault", () => {
    const kinds = new Set<string>();
    for (let seed = 1; seed <= 400; seed++)
      for (const fault of storyOf(seed).faults) kinds.add(fault.kind);
    expect(kinds.size).toBe(FAULT_KINDS.length);
  });
  test("in calm everybody serves, writes flow and nothing is violated", () => {
    const world = calmWorld();
    expect(world.watch.missing()).toBeNull();
    expect(world.watch.violations).toEqual([]);
    expect(world.watch.acked.length).toBeGreaterThan(100);
  });
});

describe("a story's plan", () => {
  test("what is skipped moves everything planned forward by the same time, and nothing else", () => {
    const schedule = new Schedule();
    const plan = new Plan(schedule);
    const told: string[] = [];
    const tell = (what: string) => () => told.push(`${schedule.now} ${what}`);
    plan.begin(1000, tell("cut"));
    plan.begin(1500, tell("kill"));
    plan.after(9000, tell("mended"));
    schedule.at(400, tell("world"));
    plan.skip();
    schedule.runUntil(600);
    plan.skip();
    expect(plan.skippedMs).toBe(8400);
    schedule.runUntil(20_000);
    expect(told).toEqual(["0 cut", "400 world", "500 kill", "600 mended"]);
    expect(plan.faulty).toBe(false);
  });
  test("what was taken back does not come, and nothing is skipped for it", () => {
    const schedule = new Schedule();
    const plan = new Plan(schedule);
    const told: string[] = [];
    const restart = plan.after(500, () => told.push("restart"));
    plan.after(Number.POSITIVE_INFINITY, () => told.push("never"));
    expect(plan.faulty).toBe(true);
    restart.live = false;
    expect(plan.faulty).toBe(false);
    plan.skip();
    schedule.runUntil(5000);
    expect([told, plan.skippedMs]).toEqual([[], 0]);
  });
});

describe("the invariants", () => {
  test("two Primaries with an open server each are two writers", () => {
    const world = calmWorld();
    cutSites(world);
    world.schedule.runUntil(6500);
    // Galera's own statements, given behind everybody's back.
    for (const server of world.servers) world.pauseWatchdog(server.node, 60_000);
    world.pauseArbitrator(60_000);
    world.schedule.runUntil(16_000);
    for (const node of [0, 2]) world.galera.bootstrap(node);
    for (const node of [0, 1, 2, 3]) world.galera.fence(node, false);
    world.schedule.runUntil(17_000);
    expect(world.watch.violations.map((one) => one.id)).toContain("two_writers");
  });
  test("an acknowledged write that nobody has in the end is lost", () => {
    const world = calmWorld();
    const [first] = world.watch.acked;
    if (first === undefined) throw new Error("Nothing was acknowledged");
    world.watch.acknowledged({ ...first, id: 1_000_000 });
    world.watch.lost(100);
    expect(world.watch.violations.map((one) => one.id)).toEqual(["acknowledged_lost"]);
  });
  test("an epoch granted to both segments is granted twice", () => {
    const world = calmWorld();
    const durable = world.arbiter.disk.durable;
    const grant = {
      epoch: 5,
      segment: "dc1",
      kind: "form",
      target: "dbserver.1",
      expectedFingerprint: null,
      forkPoint: null,
      basis: "confirmed",
      order: "given",
      changesSegment: false,
    } as const;
    // Nobody takes writes: a grant beside somebody who does is another violation.
    for (const { node } of world.servers) world.galera.fence(node, true);
    world.watch.granting({ ...durable, epoch: 5, grant });
    world.watch.granting({ ...durable, epoch: 5, grant: { ...grant, segment: "dc2" } });
    world.watch.granting({ ...durable, epoch: 4, grant: null });
    expect(world.watch.violations.map((one) => one.id)).toEqual(["epoch_twice", "epoch_falls"]);
  });
});
