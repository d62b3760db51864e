/** Measured behaviour of Galera, told as stories of the model. */
import { describe, expect, test } from "bun:test";
import { UNSPECIFIED } from "../../lib/wsrep_status.ts";
import { Galera, type GaleraOptions, type WriteOutcome } from "./galera.ts";
import { Random } from "./random.ts";
import { sameRows } from "./rows.ts";
import { Schedule } from "./schedule.ts";

interface Lab {
  readonly schedule: Schedule;
  readonly galera: Galera;
  readonly ended: string[];
}

/** Nodes as "weight" lists per segment: `lab([[1, 1], [1, 1]])` is 2+2. */
function lab(
  weights: readonly (readonly number[])[],
  options: Partial<GaleraOptions> & { seed?: number; garb?: boolean } = {},
): Lab {
  const schedule = new Schedule();
  const ended: string[] = [];
  const specs = weights.flatMap((segment, s) =>
    segment.map((weight, n) => ({ name: `dc${s + 1}-${n + 1}`, segment: `dc${s + 1}`, weight })),
  );
  const all = options.garb
    ? [...specs, { name: "garb", segment: "third", weight: 1, garb: true }]
    : specs;
  const galera = new Galera(schedule, new Random(options.seed ?? 1), {
    specs: all,
    options,
    hooks: { ended: (node, because) => ended.push(`${node}: ${because}`) },
  });
  galera.genesis(
    all.map((_, node) => node),
    { fenced: false },
  );
  return { schedule, galera, ended };
}

function cut({ galera }: Lab, a: readonly number[], b: readonly number[], up = false): void {
  for (const x of a)
    for (const y of b) {
      galera.setLink(x, y, up);
      galera.setLink(y, x, up);
    }
  galera.relink();
}

function wait(story: Lab, ms: number): void {
  story.schedule.runUntil(story.schedule.now + ms);
}

/** P, N (non-Primary), J (joining), C (provider closed) or - (no answer), by node. */
function states({ galera }: Lab): string {
  return galera.specs
    .map((spec, node) => {
      if (spec.garb) return "";
      const status = galera.status(node);
      if (status === null) return "-";
      if (!status.connected) return "C";
      if (status.localState.startsWith("Joining")) return "J";
      return status.primary ? "P" : "N";
    })
    .join("");
}

function write(story: Lab, node: number, id: number): { outcome: WriteOutcome | null } {
  const result: { outcome: WriteOutcome | null } = { outcome: null };
  story.galera.write(node, id, (outcome) => {
    result.outcome = outcome;
  });
  return result;
}

function seqnos({ galera }: Lab): number[] {
  return galera.specs.map((_, node) => galera.status(node)?.lastCommitted ?? -1);
}

function equalRows({ galera }: Lab): boolean {
  const first = galera.procs[0]?.tip ?? null;
  return galera.procs.every(
    (proc) => proc?.tip !== null && proc !== null && first !== null && sameRows(first, proc.tip),
  );
}

/** Milliseconds until `states` says so, at most `limitMs`. */
function until(story: Lab, wanted: string, limitMs: number): number {
  const from = story.schedule.now;
  while (states(story) !== wanted && story.schedule.now - from < limitMs) wait(story, 5);
  expect(states(story)).toBe(wanted);
  return story.schedule.now - from;
}

const DC1 = [0, 1];
const DC2 = [2, 3];

describe("detection", () => {
  test("a 2+2 cut leaves both halves non-Primary after 4.9 to 8.4 s, and Primary until then", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const story = lab(
        [
          [1, 1],
          [1, 1],
        ],
        { seed },
      );
      wait(story, 100);
      cut(story, DC1, DC2);
      wait(story, 4800);
      expect(states(story)).toBe("PPPP");
      until(story, "NNNN", 3700);
      expect(story.galera.status(0)?.members.map((one) => one.name)).toEqual(["dc1-1", "dc1-2"]);
      expect(story.galera.status(0)?.clusterWeight).toBe(0);
    }
  });
  test("commits hang from the cut on and end as unknown where Primary is lost", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    cut(story, DC1, DC2);
    const commit = write(story, 0, 7);
    wait(story, 4000);
    expect(commit.outcome).toBeNull();
    until(story, "NNNN", 5000);
    expect(commit.outcome).toBe("unknown");
    expect(write(story, 0, 8).outcome).toBe("refused");
  });
  test("hanging commits of a surviving majority succeed after the view change", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.kill(3, "SIGKILL");
    const commit = write(story, 0, 7);
    wait(story, 4000);
    expect(commit.outcome).toBeNull();
    wait(story, 4500);
    expect(commit.outcome).toBe("ok");
    expect(states(story)).toBe("PPP-");
  });
  test("SIGSTOP looks like a loss, and the expelled one comes back by itself with equal rows", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.hang(2);
    wait(story, 9000);
    expect(states(story)).toBe("PP-P");
    write(story, 0, 5);
    wait(story, 100);
    story.galera.resume(2);
    expect(states(story)).toBe("PPPP");
    expect(story.galera.status(2)?.members.length).toBe(4);
    until(story, "PPNP", 3500);
    until(story, "PPPP", 9000);
    expect(equalRows(story)).toBe(true);
  });
  test("a cut shorter than the detection changes no view, and the hanging commit succeeds", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    const before = story.galera.status(0)?.members;
    cut(story, DC1, DC2);
    const commit = write(story, 0, 5);
    wait(story, 3000);
    cut(story, DC1, DC2, true);
    wait(story, 100);
    expect(commit.outcome).toBe("ok");
    wait(story, 10_000);
    expect(story.galera.status(0)?.members).toEqual(before ?? []);
  });
});

describe("names", () => {
  const named = (story: Parameters<typeof wait>[0], node: number) =>
    story.galera.status(node)?.members.map(({ name }) => name);
  test("parts that meet outside Primary name their own members only, until there is a Primary", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.kill(2, "SIGKILL");
    story.galera.kill(3, "SIGKILL");
    until(story, "NN--", 10_000);
    expect(named(story, 0)).toEqual(["dc1-1", "dc1-2"]);
    for (const node of [2, 3]) {
      const position = story.galera.recover(node)?.position ?? null;
      story.galera.start(node, { mode: "join", position, fenced: false });
    }
    wait(story, 10_000);
    expect(named(story, 0)?.toSorted()).toEqual(["dc1-1", "dc1-2", UNSPECIFIED, UNSPECIFIED]);
    story.galera.bootstrap(0);
    wait(story, 10_000);
    expect(states(story)).toBe("PPPP");
    expect(named(story, 0)?.toSorted()).toEqual(["dc1-1", "dc1-2", "dc2-1", "dc2-2"]);
  });
});

describe("who stays Primary", () => {
  test("3+2: the three stay", () => {
    const story = lab([
      [1, 1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    cut(story, [0, 1, 2], [3, 4]);
    wait(story, 9000);
    expect(states(story)).toBe("PPPNN");
  });
  test("3+2 after a clean stop of one of the three is 2+2: nobody stays", () => {
    const story = lab([
      [1, 1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.stop(0, 5000);
    wait(story, 3000);
    expect(story.galera.status(1)?.clusterWeight).toBe(4);
    cut(story, [1, 2], [3, 4]);
    wait(story, 9000);
    expect(states(story)).toBe("-NNNN");
  });
  test("2+2 with weight 2 on one server: its half stays; given at run time too", () => {
    const fixed = lab([
      [2, 1],
      [1, 1],
    ]);
    wait(fixed, 100);
    cut(fixed, DC1, DC2);
    wait(fixed, 9000);
    expect(states(fixed)).toBe("PPNN");
    const set = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(set, 100);
    expect(set.galera.setWeight(0, 2)).toBeNull();
    expect(set.galera.status(3)?.clusterWeight).toBe(5);
    cut(set, DC1, DC2);
    wait(set, 9000);
    expect(states(set)).toBe("PPNN");
  });
  test("the lighter half does not survive the loss of the heavier one at once", () => {
    const story = lab([
      [2, 2],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.kill(0, "SIGKILL");
    story.galera.kill(1, "SIGKILL");
    wait(story, 9000);
    expect(states(story)).toBe("--NN");
  });
  test("both of dc2 killed at once: dc1 non-Primary; one after the other: Primary throughout", () => {
    const atOnce = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(atOnce, 100);
    atOnce.galera.kill(2, "SIGKILL");
    atOnce.galera.kill(3, "SIGKILL");
    wait(atOnce, 9000);
    expect(states(atOnce)).toBe("NN--");
    const oneByOne = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(oneByOne, 100);
    oneByOne.galera.kill(2, "SIGKILL");
    wait(oneByOne, 9000);
    oneByOne.galera.kill(3, "SIGKILL");
    wait(oneByOne, 9000);
    expect(states(oneByOne)).toBe("PP--");
  });
  test("both of dc2 stopped cleanly: dc1 stays Primary", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.stop(2, 5000);
    story.galera.stop(3, 5000);
    wait(story, 3000);
    expect(states(story)).toBe("PP--");
  });
  test("garbd relays a cut between the data centres", () => {
    const story = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { garb: true },
    );
    wait(story, 100);
    cut(story, DC1, DC2);
    wait(story, 9000);
    expect(states(story)).toBe("PPPP");
    expect(story.galera.status(0)?.members.length).toBe(5);
    const commit = write(story, 0, 3);
    wait(story, 100);
    expect(commit.outcome).toBe("ok");
  });
  test("2+2+garbd with dc2 cut from both: dc1 Primary; with all apart: nobody", () => {
    const one = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { garb: true },
    );
    wait(one, 100);
    cut(one, [0, 1, 4], DC2);
    wait(one, 9000);
    expect(states(one)).toBe("PPNN");
    const all = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { garb: true },
    );
    wait(all, 100);
    cut(all, DC1, DC2);
    cut(all, [4], [...DC1, ...DC2]);
    wait(all, 9000);
    expect(states(all)).toBe("NNNN");
  });
  test("a one-way cut is the same as a full one", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    for (const a of DC1) for (const b of DC2) story.galera.setLink(a, b, false);
    story.galera.relink();
    wait(story, 9000);
    expect(states(story)).toBe("NNNN");
  });
  test("a server that reaches both relays, so that nothing happens", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    cut(story, [0], DC2);
    wait(story, 9000);
    expect(states(story)).toBe("PPPP");
  });
  test("a healed 2+2 cut becomes Primary by itself in 1 to 3 s", () => {
    for (let seed = 1; seed <= 10; seed++) {
      const story = lab(
        [
          [1, 1],
          [1, 1],
        ],
        { seed },
      );
      wait(story, 100);
      cut(story, DC1, DC2);
      wait(story, 9000);
      cut(story, DC1, DC2, true);
      until(story, "PPPP", 5000);
      expect(equalRows(story)).toBe(true);
    }
  });
});

/** Cuts 2+2 under writers on all servers until the halves differ; returns the longer half. */
function unequalCut(
  from: number,
  options: Partial<GaleraOptions> = {},
): { story: Lab; longer: readonly number[]; acked: Map<number, number> } {
  for (let seed = from; seed < from + 200; seed++) {
    const story = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { seed, ...options },
    );
    const acked = new Map<number, number>();
    const random = new Random(seed);
    let id = 0;
    for (let at = 0; at < 400; at += 2) {
      const node = random.int(4);
      story.schedule.at(at, () => {
        const write = ++id;
        story.galera.write(node, write, (outcome) => {
          if (outcome === "ok") acked.set(write, node);
        });
      });
    }
    story.schedule.at(random.between(200, 390), () => cut(story, DC1, DC2));
    wait(story, 9500);
    const [a, , c] = seqnos(story);
    if (a !== c) return { story, longer: (a ?? 0) > (c ?? 0) ? DC1 : DC2, acked };
  }
  throw new Error("No cut left the halves unequal");
}

describe("the sides of a cut are not equal", () => {
  test("halves end with different positions, equal within a half, the longer a superset", () => {
    const { story } = unequalCut(1);
    const [a, b, c, d] = seqnos(story);
    expect(a).toBe(b ?? -2);
    expect(c).toBe(d ?? -2);
    expect(Math.abs((a ?? 0) - (c ?? 0))).toBeLessThanOrEqual(20);
    expect(equalRows(story)).toBe(true);
  });
  test("about half of all cuts under load are unequal", () => {
    let unequal = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const story = lab(
        [
          [1, 1],
          [1, 1],
        ],
        { seed, interMs: 1 },
      );
      for (let id = 1; id < 100; id++) story.schedule.at(id * 2, () => write(story, id % 4, id));
      story.schedule.at(new Random(seed).between(50, 150), () => cut(story, DC1, DC2));
      wait(story, 9500);
      const [a, , c] = seqnos(story);
      if (a !== c) unequal++;
    }
    expect(unequal).toBeGreaterThan(8);
    expect(unequal).toBeLessThan(36);
  });
  test("bootstrapping the longer half: all rejoin by IST with equal rows and every acknowledged write", () => {
    const { story, longer, acked } = unequalCut(1);
    expect(story.galera.bootstrap(longer[0] ?? 0)).toBeNull();
    wait(story, 100);
    cut(story, DC1, DC2, true);
    until(story, "PPPP", 6000);
    expect(equalRows(story)).toBe(true);
    const ids = new Set<number>();
    for (let entry = story.galera.procs[0]?.tip ?? null; entry !== null; entry = entry.prev)
      ids.add(entry.write);
    for (const id of acked.keys()) expect(ids.has(id)).toBe(true);
  });
  test("bootstrapping the shorter half and healing at once: the longer reverses history and aborts", () => {
    for (let from = 1; from < 2000; from += 200) {
      const { story, longer } = unequalCut(from);
      const shorter = longer === DC1 ? DC2 : DC1;
      const [a, , c] = seqnos(story);
      if (Math.abs((a ?? 0) - (c ?? 0)) < 3) continue;
      story.galera.bootstrap(shorter[0] ?? 0);
      wait(story, 50);
      cut(story, DC1, DC2, true);
      wait(story, 4000);
      const lost = story.galera.status(longer[0] ?? 0);
      expect(lost?.connected).toBe(false);
      expect(lost?.localState).toBe("Inconsistent");
      story.galera.kill(longer[0] ?? 0, "operator");
      expect(story.galera.recover(longer[0] ?? 0)?.position).toBeNull();
      return;
    }
    throw new Error("No cut was unequal enough");
  });
  test("bootstrapping the shorter half and writing on: IST is refused, or Synced with different rows", () => {
    const ends = new Set<string>();
    for (const chance of [0, 1]) {
      const { story, longer } = unequalCut(1, { istRefusedChance: chance });
      const shorter = longer === DC1 ? DC2 : DC1;
      const node = shorter[0] ?? 0;
      story.galera.bootstrap(node);
      wait(story, 50);
      for (let id = 1000; id < 1030; id++) write(story, node, id);
      wait(story, 100);
      cut(story, DC1, DC2, true);
      wait(story, 6000);
      const loser = story.galera.status(longer[0] ?? 0);
      if (loser?.connected === false) ends.add(`refused ${loser.localState}`);
      else if (loser?.localState === "Synced" && !equalRows(story)) ends.add("silent");
    }
    expect(ends).toEqual(new Set(["silent", "refused Initialized"]));
  });
});

describe("split brain", () => {
  function split(seed: number): Lab {
    const story = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { seed },
    );
    wait(story, 100);
    cut(story, DC1, DC2);
    wait(story, 9000);
    story.galera.bootstrap(0);
    story.galera.bootstrap(2);
    wait(story, 100);
    expect(states(story)).toBe("PPPP");
    const one = write(story, 0, 50);
    const other = write(story, 2, 51);
    wait(story, 100);
    expect([one.outcome, other.outcome]).toEqual(["ok", "ok"]);
    return story;
  }
  test("two Primaries do not notice each other after healing", () => {
    const story = split(1);
    const confId = (node: number) => story.galera.procs[node]?.view?.confId ?? -1;
    expect(confId(0)).toBe(confId(2));
    cut(story, DC1, DC2, true);
    wait(story, 90_000);
    expect(states(story)).toBe("PPPP");
    expect(story.galera.status(0)?.members.length).toBe(2);
  });
  test("a third one makes them collide, and one side aborts", () => {
    const story = split(1);
    cut(story, DC1, DC2, true);
    story.galera.stop(1, 5000);
    wait(story, 3000);
    const position = story.galera.recover(1)?.position ?? null;
    story.galera.start(1, { mode: "join", position, fenced: false });
    wait(story, 12_000);
    expect(states(story)).toContain("C");
  });
  test("two nodes started as new clusters from one history are both Primary", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    for (const node of [0, 1, 2, 3]) story.galera.kill(node, "power");
    for (const node of [0, 2])
      story.galera.start(node, {
        mode: "bootstrap",
        position: story.galera.recover(node)?.position ?? null,
        fenced: false,
      });
    wait(story, 30_000);
    expect(states(story)).toBe("P-P-");
    expect(story.galera.status(0)?.stateUuid).toBe(story.galera.status(2)?.stateUuid ?? "");
  });
});

describe("pc.bootstrap", () => {
  test("it acts on the whole component within 50 ms and takes one seqno", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    cut(story, DC1, DC2);
    wait(story, 9000);
    const [before] = seqnos(story);
    story.galera.bootstrap(0);
    story.galera.bootstrap(1);
    wait(story, 50);
    expect(states(story)).toBe("PPNN");
    expect(seqnos(story)[1]).toBe((before ?? 0) + 1);
  });
  test("given before non-Primary it is answered OK and does nothing, not even later", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    cut(story, DC1, DC2);
    wait(story, 2000);
    expect(story.galera.bootstrap(0)).toBeNull();
    wait(story, 20_000);
    expect(states(story)).toBe("NNNN");
  });
});

describe("fence", () => {
  test("it refuses clients, cuts commits in flight, and the cluster does not notice", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    const commit = write(story, 0, 5);
    expect(story.galera.fence(0, true)).toBeNull();
    expect(commit.outcome).toBe("unknown");
    expect(write(story, 0, 6).outcome).toBe("refused");
    expect(story.galera.status(0)?.rejecting).toBe(true);
    expect(story.galera.status(0)?.ready).toBe(true);
    story.galera.fence(0, false);
    const again = write(story, 0, 7);
    wait(story, 100);
    expect(again.outcome).toBe("ok");
  });
  test("a hung server answers nothing, not even the fence", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    story.galera.hang(0);
    expect(story.galera.fence(0, true)).toBe("No answer");
    expect(story.galera.status(0)).toBeNull();
  });
});

describe("full outage and restart", () => {
  test("a crashed solo Primary that keeps gvwstate.dat makes itself Primary alone", () => {
    const story = lab([[1], [1]]);
    wait(story, 100);
    story.galera.stop(1, 5000);
    wait(story, 3000);
    story.galera.kill(0, "SIGKILL");
    const position = story.galera.recover(0)?.position ?? null;
    story.galera.start(0, { mode: "join", position, fenced: false, keepGvwstate: true });
    wait(story, 5000);
    expect(states(story)).toBe("P-");
  });
  test("without gvwstate.dat it waits 30 s without SQL and exits", () => {
    const story = lab([[1], [1]]);
    wait(story, 100);
    story.galera.stop(1, 5000);
    wait(story, 3000);
    story.galera.kill(0, "SIGKILL");
    const position = story.galera.recover(0)?.position ?? null;
    story.galera.start(0, { mode: "join", position, fenced: false });
    wait(story, 20_000);
    expect(states(story)).toBe("--");
    wait(story, 15_000);
    expect(story.ended.at(-1)).toBe("0: failed to reach primary view");
  });
  test("all killed, all started with gvwstate.dat: Primary by itself; with one missing they wait", () => {
    const story = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { crashLosesMax: 50 },
    );
    for (let id = 1; id < 100; id++) story.schedule.at(id, () => write(story, id % 4, id));
    wait(story, 300);
    for (const node of [0, 1, 2, 3]) story.galera.kill(node, "power");
    const start = (node: number) =>
      story.galera.start(node, {
        mode: "join",
        position: story.galera.recover(node)?.position ?? null,
        fenced: false,
        keepGvwstate: true,
      });
    for (const node of [0, 1, 2]) start(node);
    wait(story, 70_000);
    expect(states(story)).toBe("----");
    start(3);
    until(story, "PPPP", 15_000);
    expect(equalRows(story)).toBe(true);
  });
  test("the last one stopped cleanly is safe to bootstrap, and the others follow by IST", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    for (const node of [3, 2, 1, 0]) {
      story.galera.stop(node, 5000);
      wait(story, 4000);
    }
    expect([0, 1, 2, 3].map((node) => story.galera.recover(node)?.safeToBootstrap)).toEqual([
      true,
      false,
      false,
      false,
    ]);
    const position = (node: number) => story.galera.recover(node)?.position ?? null;
    story.galera.start(0, { mode: "bootstrap", position: position(0), fenced: false });
    for (const node of [1, 2, 3])
      story.galera.start(node, { mode: "join", position: position(node), fenced: false });
    until(story, "PPPP", 20_000);
  });
  test("a joiner without a position takes a full transfer from its own segment", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    story.galera.kill(3, "SIGKILL");
    wait(story, 9000);
    story.galera.start(3, { mode: "join", position: null, fenced: true });
    let donor = "";
    for (let step = 0; step < 200 && donor === ""; step++) {
      wait(story, 50);
      for (const node of [0, 1, 2])
        if (story.galera.status(node)?.localState === "Donor/Desynced") donor = `${node}`;
    }
    expect(donor).toBe("2");
    expect(states(story)).toBe("PPP-");
    until(story, "PPPP", 6000);
    expect(story.galera.status(3)?.rejecting).toBe(true);
    expect(equalRows(story)).toBe(true);
  });
});

describe("eviction", () => {
  test("told to all survivors it gives the new view after 0.2 to 0.3 s", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    for (const node of [0, 1, 2]) story.galera.tune(node, 200);
    const uuid = story.galera.status(3)?.gcommUuid ?? "";
    story.galera.kill(3, "SIGKILL");
    wait(story, 50);
    for (const node of [0, 1, 2]) story.galera.evict(node, [uuid]);
    wait(story, 300);
    expect(story.galera.status(0)?.members.length).toBe(3);
  });
  test("told to one only, or beside a stale UUID, it takes the whole detection time", () => {
    const one = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(one, 100);
    const uuid = one.galera.status(3)?.gcommUuid ?? "";
    one.galera.kill(3, "SIGKILL");
    one.galera.evict(0, [uuid]);
    wait(one, 4500);
    expect(one.galera.status(0)?.members.length).toBe(4);
    const stale = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(stale, 100);
    const gone = stale.galera.status(3)?.gcommUuid ?? "";
    stale.galera.kill(3, "SIGKILL");
    for (const node of [0, 1, 2])
      stale.galera.evict(node, ["00000099-0000-11f1-0001-000000000001", gone]);
    wait(stale, 4500);
    expect(stale.galera.status(0)?.members.length).toBe(4);
  });
  test("what is in flight at a live member that all others evict ends there, as it is expelled", () => {
    const story = lab(
      [
        [1, 1],
        [1, 1],
      ],
      { evictedAbortChance: 0 },
    );
    wait(story, 100);
    const uuid = story.galera.status(3)?.gcommUuid ?? "";
    const outcomes: WriteOutcome[] = [];
    story.galera.write(3, 1, (outcome) => outcomes.push(outcome));
    for (const node of [0, 1, 2]) story.galera.evict(node, [uuid]);
    expect(story.galera.status(3)?.primary).toBe(false);
    expect(outcomes).toEqual(["unknown"]);
    expect(story.galera.idle).toBe(true);
  });
  test("a cut half that evicts the other is non-Primary first, and Primary without pc.bootstrap", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    wait(story, 100);
    for (const node of DC1) story.galera.tune(node, 200);
    const uuids = DC2.map((node) => story.galera.status(node)?.gcommUuid ?? "");
    cut(story, DC1, DC2);
    wait(story, 1500);
    for (const node of DC1) story.galera.evict(node, uuids);
    until(story, "NNPP", 300);
    until(story, "PPPP", 50);
    for (const node of DC1) story.galera.evict(node, []);
    cut(story, DC1, DC2, true);
    wait(story, 7000);
    expect(story.galera.status(2)?.members.length).toBe(4);
    expect(states(story)).toBe("PPPP");
    expect(equalRows(story)).toBe(true);
  });
});

describe("speed", () => {
  test("the model handles 100000 events a second and more", () => {
    const story = lab([
      [1, 1],
      [1, 1],
    ]);
    let id = 0;
    const writer = () => {
      write(story, ++id % 4, id);
      if (id < 40_000) story.schedule.after(1, writer);
    };
    writer();
    // biome-ignore lint/style/noRestrictedGlobals: the model itself is timed, not the simulated world.
    const nanoseconds = Bun.nanoseconds;
    const from = nanoseconds();
    wait(story, 41_000);
    const seconds = (nanoseconds() - from) / 1e9;
    expect(story.galera.events / seconds).toBeGreaterThan(100_000);
  });
});
