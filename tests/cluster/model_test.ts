/**
 * The simulator's model of Galera against real mariadbd: each story is played on both, without any
 * watchdog, and after each of its steps both must come to stand the same and stay so.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { describeError } from "../../lib/errors.ts";
import { removeLab } from "../../lib/lab/lab.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { type Bed, ModelBed, type Name, RealBed, SERVERS } from "../support/two_beds.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
/** Labs at work at once: the stories mostly wait for Galera's timers. */
const LABS = ["test-model-1", "test-model-2", "test-model-3"];
const TEST_MS = 240_000;
/** For the model to come to rest, in its own time. */
const REST_MS = 15_000;
const AGREE_MS = 20_000;

const DC1: readonly Name[] = ["dc1-1", "dc1-2"];
const DC2: readonly Name[] = ["dc2-1", "dc2-2"];

/** Says where both beds must agree; `holdMs`: and for how long, where nothing is to happen. */
type Agree = (holdMs?: number) => Promise<void>;

interface Story {
  readonly name: string;
  readonly play: (bed: Bed, agree: Agree) => Promise<void>;
  /** How the model must end, so that agreement is not agreement about nothing. */
  readonly ends: string;
}

function all(state: string): string {
  return SERVERS.map((name) => `${name} ${state}`).join(", ");
}

function halves(dc1: string, dc2: string): string {
  return `dc1-1 ${dc1}, dc1-2 ${dc1}, dc2-1 ${dc2}, dc2-2 ${dc2}`;
}

export const STORIES: readonly Story[] = [
  {
    name: "the link is cut with a write in flight, nobody bootstraps, it heals: Primary by itself",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.write("dc1-1", 1);
      await agree();
      await bed.heal();
      await agree();
      await bed.write("dc2-2", 2);
      await agree();
    },
  },
  {
    name: "the link is cut, dc1 bootstrapped in time, it heals: dc2 comes back by itself with dc1's rows",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.write("dc2-1", 1);
      await agree();
      await bed.cut(DC1, DC2);
      await agree();
      await bed.bootstrap("dc1-1");
      await agree();
      await bed.write("dc1-2", 2);
      await bed.write("dc2-1", 3);
      await agree();
      await bed.heal();
      await agree();
    },
  },
  {
    name: "pc.bootstrap given before the half has lost Primary does nothing, not even later; given twice it is given once; on a Primary it does nothing",
    ends: halves("P2", "N2"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      expect(await bed.bootstrap("dc1-1")).toBe("ok");
      await agree(2500);
      await bed.bootstrap("dc1-1");
      await bed.bootstrap("dc1-2");
      await agree();
      expect(await bed.bootstrap("dc1-2")).toBe("ok");
      await agree(1000);
    },
  },
  {
    name: "one server is isolated with a write in flight on another: three go on and the write ends well, it comes back",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(["dc1-1"], ["dc1-2", ...DC2]);
      await bed.write("dc1-2", 1);
      await agree();
      await bed.write("dc2-1", 2);
      await agree();
      await bed.heal();
      await agree();
    },
  },
  {
    name: "one server is killed and started from its position: three go on, it takes what it missed",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.kill(["dc1-1"]);
      await agree();
      await bed.write("dc2-2", 1);
      await agree();
      await bed.start(["dc1-1"]);
      await agree();
    },
  },
  {
    name: "both servers of dc2 are killed at once: dc1 is not Primary; started with gvwstate.dat they make it so, without an order",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.kill(DC2);
      await agree();
      await bed.start(DC2, { keepView: true });
      await agree();
    },
  },
  {
    name: "both servers of dc2 are killed at once and started without gvwstate.dat: nobody is Primary until pc.bootstrap",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.kill(DC2);
      await agree();
      await bed.start(DC2);
      await agree(1500);
      await bed.bootstrap("dc1-2");
      await agree();
    },
  },
  {
    name: "both servers of dc2 are stopped cleanly: dc1 goes on; they come back",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.stop(DC2);
      await agree();
      await bed.write("dc1-1", 1);
      await agree();
      await bed.start(DC2);
      await agree();
    },
  },
  {
    name: "the servers of dc2 are killed one after the other: dc1 goes on",
    ends: halves("P2", "-"),
    async play(bed, agree) {
      await bed.kill(["dc2-1"]);
      await agree();
      await bed.kill(["dc2-2"]);
      await agree();
    },
  },
  {
    name: "one of dc1 has stopped cleanly, then the link is cut: dc2 has more than half of three",
    ends: "dc1-1 N1, dc1-2 -, dc2-1 P2, dc2-2 P2",
    async play(bed, agree) {
      await bed.stop(["dc1-2"]);
      await agree();
      await bed.cut(DC1, DC2);
      await agree();
    },
  },
  {
    name: "weight 2 on one server of dc1, then the link is cut: dc1 goes on with 3 of 5",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.weight("dc1-1", 2);
      await bed.cut(DC1, DC2);
      await agree();
      expect(await bed.weight("dc2-1", 2)).toBe("error");
      await bed.write("dc1-1", 1);
      await agree();
      await bed.heal();
      await agree();
    },
  },
  {
    name: "weight 2 on both of dc1, which are killed at once: dc2 is not Primary with 2 of 6",
    ends: halves("-", "N2"),
    async play(bed, agree) {
      await bed.weight("dc1-1", 2);
      await bed.weight("dc1-2", 2);
      await bed.wait(300);
      await bed.kill(DC1);
      await agree();
    },
  },
  {
    name: "a server of dc2 is lost for good, then the link is cut: dc1 goes on alone with 2 of 3",
    ends: "dc1-1 P2, dc1-2 P2, dc2-1 N1, dc2-2 -",
    async play(bed, agree) {
      await bed.kill(["dc2-2"]);
      await agree();
      await bed.cut(DC1, DC2);
      await agree();
    },
  },
  {
    name: "a server loses its neighbour for good, weights are put right, then the link is cut: nobody is Primary by himself",
    ends: "dc1-1 N2, dc1-2 N2, dc2-1 N1, dc2-2 -",
    async play(bed, agree) {
      await bed.kill(["dc2-2"]);
      await agree();
      await bed.weight("dc2-1", 2);
      await bed.wait(300);
      await bed.cut(DC1, DC2);
      await agree();
    },
  },
  {
    name: "mariadbd of one server is stopped by a signal and goes on: expelled, then back by itself",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.hang("dc1-1");
      await bed.write("dc2-1", 1);
      await agree();
      await bed.resume("dc1-1");
      await agree();
    },
  },
  {
    name: "what dc1 sends no longer reaches dc2: as a full cut",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2, { oneWay: true });
      await agree();
      await bed.heal();
      await agree();
    },
  },
  {
    name: "only one pair across the link does not hear each other: no effect",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(["dc1-1"], ["dc2-1"]);
      await agree(5500);
      await bed.write("dc1-1", 1);
      await bed.write("dc2-1", 2);
      await agree();
    },
  },
  {
    name: "a commit hangs in the cut half: ALL_KILL ends it, and it is nowhere",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.write("dc1-1", 1);
      await bed.wait(100);
      await bed.fence("dc1-1", true);
      await agree();
      await bed.fence("dc1-1", false);
      await bed.heal();
      await agree();
    },
  },
  {
    name: "wsrep_reject_queries in calm: Galera sees nothing of it, clients are refused",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.fence("dc1-1", true);
      await bed.write("dc1-1", 1);
      await bed.write("dc1-2", 2);
      await agree();
      await bed.fence("dc1-1", false);
      await bed.write("dc1-1", 3);
      await agree();
    },
  },
  {
    name: "dc2 falls apart after the cut: nobody is Primary, healing makes all so",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await agree();
      await bed.cut(["dc2-1"], ["dc2-2"]);
      await agree();
      await bed.heal();
      await agree();
    },
  },
  {
    name: "all four fall apart, one is killed and the others meet: outside Primary each names nobody but itself, until pc.bootstrap",
    ends: "dc1-1 P3, dc1-2 P3, dc2-1 P3, dc2-2 -",
    async play(bed, agree) {
      for (const name of SERVERS)
        await bed.cut(
          [name],
          SERVERS.filter((other) => other !== name),
        );
      await agree();
      await bed.kill(["dc2-2"]);
      await bed.heal();
      await agree(1500);
      await bed.bootstrap("dc1-2");
      await agree();
    },
  },
  {
    name: "all four are killed and started with gvwstate.dat, three first: they wait for the fourth without end, then are Primary by themselves",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.write("dc1-1", 1);
      await agree();
      await bed.kill(SERVERS);
      await agree();
      await bed.start(["dc1-1", "dc1-2", "dc2-1"], { keepView: true });
      await agree(3000);
      await bed.start(["dc2-2"], { keepView: true });
      await agree();
    },
  },
  {
    name: "all four are killed and started without gvwstate.dat: nobody is Primary; one begins anew, the others follow",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.write("dc1-1", 1);
      await agree();
      await bed.kill(SERVERS);
      await bed.start(SERVERS);
      await agree(3000);
      await bed.kill(SERVERS);
      await bed.start(["dc2-1"], { newCluster: true });
      await agree();
      await bed.start(["dc1-1", "dc1-2", "dc2-2"]);
      await agree();
    },
  },
  {
    name: "a killed server is evicted by all three survivors, and comes back with its old name still in their lists",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.kill(["dc1-1"]);
      await bed.evict(["dc1-2", ...DC2], ["dc1-1"]);
      await agree();
      await bed.start(["dc1-1"]);
      await agree();
    },
  },
  {
    name: "a killed server is evicted by one survivor only: the view changes all the same, by time",
    ends: "dc1-1 -, dc1-2 P3, dc2-1 P3, dc2-2 P3",
    async play(bed, agree) {
      await bed.kill(["dc1-1"]);
      await bed.evict(["dc1-2"], ["dc1-1"]);
      await agree();
    },
  },
  {
    name: "both of dc2 are killed and evicted by both survivors: dc1 is Primary without pc.bootstrap",
    ends: halves("P2", "-"),
    async play(bed, agree) {
      await bed.kill(DC2);
      await bed.evict(DC1, DC2);
      await agree(1500);
      await bed.clearEvictions(DC1);
      await bed.bootstrap("dc1-1");
      await agree();
    },
  },
  {
    name: "both of dc2 are killed and evicted by one survivor only: dc1 is Primary without pc.bootstrap",
    ends: halves("P2", "-"),
    async play(bed, agree) {
      await bed.kill(DC2);
      await bed.evict(["dc1-1"], DC2);
      await agree(1500);
      await bed.clearEvictions(DC1);
      await bed.bootstrap("dc1-1");
      await agree();
    },
  },
  {
    name: "dc2 is silent behind a cut link and evicted by both of dc1: dc1 is Primary without pc.bootstrap; the link heals with the lists emptied",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.evict(DC1, DC2);
      await agree(1500);
      await bed.clearEvictions(DC1);
      await bed.bootstrap("dc1-1");
      await agree();
      await bed.write("dc1-1", 1);
      await bed.heal();
      await agree();
    },
  },
  {
    name: "paused evictions: dc2 is killed, one of it evicted, the other only when dc1 has lost Primary",
    ends: halves("N2", "-"),
    async play(bed, agree) {
      await bed.kill(DC2);
      await bed.evict(DC1, ["dc2-1"]);
      await agree(1500);
      await bed.evict(DC1, ["dc2-2"]);
      await agree(2500);
    },
  },
  {
    name: "paused evictions: the link is cut, dc1 evicts dc2 on one server, then on the other",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.evict(["dc1-2"], DC2);
      await bed.wait(700);
      await bed.evict(["dc1-1"], DC2);
      await agree(1500);
      await bed.clearEvictions(DC1);
      await agree(1000);
      await bed.heal();
      await agree();
    },
  },
  {
    name: "paused evictions: nobody is Primary after a cut, then dc1 evicts dc2",
    ends: all("P4"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await agree();
      await bed.evict(DC1, DC2);
      await agree(2500);
      await bed.clearEvictions(DC1);
      await bed.heal();
      await agree();
    },
  },
  {
    name: "paused evictions: dc1 is Primary by evicting dc2, which then evicts dc1",
    ends: halves("P2", "N2"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.evict(DC1, DC2);
      await agree(1500);
      await bed.clearEvictions(DC1);
      await bed.evict(DC2, DC1);
      await agree(2500);
      await bed.clearEvictions(DC2);
    },
  },
  {
    name: "paused evictions: both sides of a cut evict the other before either has a view: two Primaries",
    ends: halves("P2", "P2"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await bed.evict(DC1, DC2);
      await bed.evict(DC2, DC1);
      await agree(1500);
    },
  },
  {
    name: "both halves are bootstrapped and the link heals: each goes on, neither notices the other",
    ends: halves("P2", "P2"),
    async play(bed, agree) {
      await bed.cut(DC1, DC2);
      await agree();
      await bed.bootstrap("dc1-1");
      await bed.bootstrap("dc2-1");
      await agree();
      await bed.write("dc1-1", 1);
      await bed.write("dc2-1", 2);
      await agree();
      await bed.heal();
      await agree(5000);
    },
  },
];

/** The model's words after each step. */
export async function expectations(story: Story): Promise<readonly string[]> {
  const bed = new ModelBed();
  const said: string[] = [];
  await story.play(bed, async () => {
    await bed.wait(REST_MS);
    said.push(await bed.words());
  });
  return said;
}

/** Null if both agree. */
type Result =
  | { readonly step: number; readonly model: string; readonly real: string }
  | { readonly error: string }
  | null;

/** Plays it for real; null if both agree after each step. */
async function playReal(story: Story, bed: RealBed, said: readonly string[]): Promise<Result> {
  let step = 0;
  let disagreement: Result = null;
  await story.play(bed, async (holdMs = 300) => {
    const model = said[step++] ?? "";
    if (disagreement !== null) return;
    const deadline = performance.now() + AGREE_MS;
    let since = Number.POSITIVE_INFINITY;
    for (;;) {
      const real = await bed.words();
      const now = performance.now();
      since = real === model ? Math.min(since, now) : Number.POSITIVE_INFINITY;
      if (now - since >= holdMs) return;
      if (now > deadline + holdMs) {
        disagreement = { step, model, real };
        return;
      }
      await Bun.sleep(50);
    }
  });
  return disagreement;
}

describe.skipIf(unable)("the model and real mariadbd agree", () => {
  const results = new Map<string, Promise<Result>>();
  const workers: Promise<void>[] = [];
  const chosen = process.env["GM_MODEL_STORY"];
  const stories = STORIES.filter(({ name }) => chosen === undefined || name.includes(chosen));

  /** Stories are taken by whichever lab is free; each test waits for its own. */
  function begin(): void {
    const settle = new Map<string, (result: Result) => void>();
    for (const { name } of stories)
      results.set(name, new Promise((resolve) => settle.set(name, resolve)));
    const queue = [...stories];
    for (const lab of LABS.slice(0, stories.length))
      workers.push(work(queue, lab, (name, result) => settle.get(name)?.(result)));
  }

  afterAll(async () => {
    await Promise.allSettled(workers);
    for (const lab of LABS) await removeLab(lab);
  }, TEST_MS);

  test.each(stories.map(({ name }) => [name] as const))(
    "%s",
    async (name) => {
      if (results.size === 0) begin();
      expect((await results.get(name)) ?? null).toBeNull();
    },
    TEST_MS,
  );
});

async function work(
  queue: Story[],
  lab: string,
  report: (name: string, result: Result) => void,
): Promise<void> {
  let bed: RealBed | null = null;
  try {
    for (let story = queue.shift(); story !== undefined; story = queue.shift()) {
      const { name } = story;
      try {
        const said = await expectations(story);
        expect(said.at(-1)?.split(" | ")[0]).toBe(story.ends);
        bed = await readyBed(bed, lab, `s${STORIES.indexOf(story)}`);
        report(name, await playReal(story, bed, said));
      } catch (error) {
        report(name, { error: describeError(error) });
        // What a failed story leaves is nobody's to guess.
        await bed?.down();
        bed = null;
      }
    }
  } finally {
    await bed?.down();
  }
}

/** What an earlier story left may be beyond mending: then the lab is made anew. */
async function readyBed(bed: RealBed | null, lab: string, story: string): Promise<RealBed> {
  if (bed !== null) {
    try {
      await bed.begin(story);
      return bed;
    } catch {
      await bed.down();
    }
  }
  const fresh = await RealBed.open(lab);
  await fresh.begin(story);
  return fresh;
}
