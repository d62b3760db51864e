/**
 * Mixed faults on a real cluster that evicts on evidence, one repetition at a time: afterwards no
 * acknowledged row may be missing but those in flight, no write may have been taken on two sides of a cut,
 * no two servers may have been Primary apart from each other,
 * all servers hold the same, no eviction list holds anybody, and all serve in one view within a bound.
 */
import { MinderError } from "../errors.ts";
import {
  type Aftermath,
  attemptsOf,
  describeLost,
  examine,
  isWhole,
  startWriters,
  untilWrites,
  type Writers,
} from "./aftermath.ts";
import { until } from "./exec.ts";
import { partLost, roundTripMs, type Silencing, straysOf } from "./in_flight.ts";
import { longestGap, wallMs } from "./journal.ts";
import type { Minded } from "./minded.ts";
import { describePlan, type Misfortune, type MixedPlan, planMixed } from "./mixed_faults.ts";
import type { CutInstant } from "./network.ts";
import { findMariadbd, killMariadbd } from "./race_evict.ts";
import { isAlive, markOf, type ProcessMark } from "./remains.ts";
import { type ViewWatch, watchViews } from "./views.ts";

/** All servers serve in one view again so soon after all is mended. */
export const WHOLE_BOUND_MS = 90_000;
const CALM_MS = 500;
const ENDS_TIMEOUT_MS = 10_000;

export interface MixedRun {
  readonly plan: MixedPlan;
  /** From the mending until all servers served in one view. */
  readonly wholeMs: number;
  /** The application's longest time without an acknowledged row. */
  readonly gapMs: number;
  readonly rows: number;
  readonly inFlightMs: readonly number[];
  readonly complaints: readonly string[];
}

interface Struck {
  readonly misfortune: Misfortune;
  readonly instant: CutInstant;
}

/** Plays what the seed says and examines what is left. @throws MinderError where the cluster does not come back */
export async function runMixed(minded: Minded, seed: number): Promise<MixedRun> {
  await minded.untilSummary("the cluster is whole", isWhole, WHOLE_BOUND_MS);
  const segments = minded.config.segments.map(({ name }) => minded.serversOf(name));
  const plan = planMixed(seed, segments);
  try {
    return await play(minded, plan);
  } catch (cause) {
    throw new MinderError(`seed ${seed}: ${describePlan(plan)}`, { cause });
  }
}

async function play(minded: Minded, plan: MixedPlan): Promise<MixedRun> {
  const name = `m${plan.seed}`;
  const writers = await startWriters(minded, name);
  await untilWrites(minded, { writer: name, fromMs: 0, when: "before the faults" });
  const calmFromMs = wallMs();
  await Bun.sleep(CALM_MS);
  const beganMs = wallMs();
  const roundTrip = roundTripMs(attemptsOf(minded, writers), { fromMs: calmFromMs, toMs: beganMs });
  const views = watchViews(minded.lab);
  try {
    return await judge(minded, { plan, writers, beganMs, roundTrip, views });
  } finally {
    await views.stop();
  }
}

async function judge(
  minded: Minded,
  run: {
    readonly plan: MixedPlan;
    readonly writers: Writers;
    readonly beganMs: number;
    readonly roundTrip: number;
    readonly views: ViewWatch;
  },
): Promise<MixedRun> {
  const { plan, writers, beganMs, roundTrip, views } = run;
  const { app: name } = writers;
  const strikes = new Strikes(minded);
  for (const { atMs, misfortune } of plan.steps) {
    await Bun.sleep(Math.max(0, beganMs + atMs - wallMs()));
    await strikes.bring(misfortune);
  }
  await Bun.sleep(Math.max(0, beganMs + plan.mendMs - wallMs()));
  const mendedAtMs = wallMs();
  await strikes.mend();
  // What is said right after the mending may be from before it: rows that flow have seen the last view.
  await untilWrites(minded, { writer: name, fromMs: mendedAtMs, when: "once all is mended" });
  await minded.untilSummary("all serve in one view again", isWhole, WHOLE_BOUND_MS);
  const wholeMs = wallMs() - mendedAtMs;
  await untilWrites(minded, { writer: name, fromMs: wallMs(), when: "once all is whole" });
  const after = await examine(minded, writers);
  const app = after.attempts.filter((one) => one.writer === name);
  const { inFlight, missing } = partLost(
    after.lost,
    silencings(minded, strikes.struck, mendedAtMs),
    roundTrip,
  );
  return {
    plan,
    wholeMs,
    gapMs: longestGap(app, beganMs - 500, app.at(-1)?.endMs)?.lengthMs ?? Number.POSITIVE_INFINITY,
    rows: after.acknowledged,
    inFlightMs: inFlight.map(({ distanceMs }) => distanceMs),
    complaints: [
      ...missing.map((row) => describeLost(row, beganMs)),
      ...after.complaints,
      ...views.found,
      ...bothSides(minded, strikes.struck, { after, mendedAtMs, roundTrip }),
    ],
  };
}

/** Brings misfortunes about, and knows what of them is still to be mended. */
class Strikes {
  readonly struck: Struck[] = [];
  readonly #minded: Minded;
  /** What is stopped by a signal. */
  readonly #hung: ProcessMark[] = [];
  /** What ends by itself, each at its own time. */
  readonly #returns: Promise<void>[] = [];

  constructor(minded: Minded) {
    this.#minded = minded;
  }

  async bring(misfortune: Misfortune): Promise<void> {
    this.struck.push({ misfortune, instant: await this.#strike(misfortune) });
  }

  async #strike(misfortune: Misfortune): Promise<CutInstant> {
    const { lab } = this.#minded;
    switch (misfortune.what) {
      case "kill":
        return killMariadbd(this.#minded, this.#running(misfortune.servers));
      case "cut_hosts": {
        const inside = misfortune.servers;
        const others = lab.hosts.map(({ name }) => name).filter((name) => !inside.includes(name));
        return await lab.network.cut(inside, others);
      }
      case "cut_link": {
        const [first = [], second = []] = this.#minded.config.segments.map(({ name }) =>
          this.#minded.serversOf(name),
        );
        return await lab.network.cut(first, second);
      }
      case "hang":
      case "stop": {
        const marks = this.#running(misfortune.servers).flatMap((host) =>
          markOf(findMariadbd(this.#minded, host) ?? 0),
        );
        const fromMs = wallMs();
        for (const mark of marks) send(mark, misfortune.what === "hang" ? "SIGSTOP" : "SIGTERM");
        if (misfortune.what === "hang") {
          this.#hung.push(...marks);
          this.#later(misfortune.forMs, () => resume(marks));
        }
        return { fromMs, toMs: wallMs() };
      }
      case "pause_watchdog": {
        const pids = misfortune.servers.map((host) => this.#minded.minder(host).pid);
        const marks = pids.flatMap(markOf);
        const fromMs = wallMs();
        for (const mark of marks) send(mark, "SIGSTOP");
        this.#hung.push(...marks);
        this.#later(misfortune.forMs, () => resume(marks));
        return { fromMs, toMs: wallMs() };
      }
      case "end_watchdog":
        return this.#end(misfortune.server, misfortune);
      case "end_arbitrator":
        return this.#end(lab.network.topology.arbitrator.name, {
          signal: "SIGKILL",
          backMs: misfortune.backMs,
        });
      default:
        throw new MinderError(`No such misfortune: ${JSON.stringify(misfortune satisfies never)}`);
    }
  }

  /** Ends the minder of a host, and starts it anew later. */
  #end(
    host: string,
    how: { readonly signal: "SIGKILL" | "SIGTERM"; readonly backMs: number },
  ): CutInstant {
    const minder = this.#minded.minder(host);
    const fromMs = wallMs();
    // A second one of the same host finds it ended, or the next one running: both are fine.
    minder.kill(how.signal);
    this.#later(how.backMs, async () => {
      await until(`the minder of ${host} ends`, () => minder.ended() !== null, {
        timeoutMs: ENDS_TIMEOUT_MS,
      });
      if (this.#minded.minder(host) === minder) this.#minded.startMinder(host);
    });
    return { fromMs, toMs: wallMs() };
  }

  #later(waitMs: number, act: () => void | Promise<void>): void {
    const done = Bun.sleep(waitMs).then(act);
    // `mend` waits for it, and throws what it throws; until then nobody does.
    done.catch(() => {});
    this.#returns.push(done);
  }

  /** Those of them on which mariadbd runs: a first misfortune may have ended it. */
  #running(servers: readonly string[]): readonly string[] {
    return servers.filter((host) => findMariadbd(this.#minded, host) !== null);
  }

  async mend(): Promise<void> {
    await this.#minded.lab.network.heal();
    resume(this.#hung);
    await Promise.all(this.#returns);
  }
}

/** SIGCONT, where the watchdog has not killed it meanwhile. */
function resume(marks: readonly ProcessMark[]): void {
  for (const mark of marks) send(mark, "SIGCONT");
}

function send(mark: ProcessMark, signal: NodeJS.Signals): void {
  if (!isAlive(mark)) return;
  try {
    process.kill(mark.pid, signal);
  } catch (cause) {
    // It may end between the look and the signal.
    if (isAlive(mark)) throw new MinderError(`Cannot signal process ${mark.pid}`, { cause });
  }
}

/**
 * Faults whose rows in flight may be lost: of servers that were silent, where what was left was too little
 * to go on by itself. A cut link alone is none: both sides are heard, and the one with more rows goes on.
 */
function silencings(
  minded: Minded,
  struck: readonly Struck[],
  mendedAtMs: number,
): readonly Silencing[] {
  const all = [...minded.lab.servers.keys()];
  const found = struck.flatMap(({ misfortune, instant }): Silencing[] => {
    switch (misfortune.what) {
      case "kill":
      case "cut_hosts":
      case "hang":
        return [{ servers: misfortune.servers, instant, untilMs: mendedAtMs }];
      case "cut_link":
        // Together with another fault either side may be out of reach.
        return struck.length > 1 ? [{ servers: all, instant, untilMs: mendedAtMs }] : [];
      default:
        return [];
    }
  });
  const out = new Set(found.flatMap(({ servers }) => servers));
  return 2 * out.size >= all.length ? found : [];
}

/** Writes that both sides of a cut took while it stood. */
function bothSides(
  minded: Minded,
  struck: readonly Struck[],
  seen: { readonly after: Aftermath; readonly mendedAtMs: number; readonly roundTrip: number },
): readonly string[] {
  const { after, mendedAtMs, roundTrip } = seen;
  const all = [...minded.lab.servers.keys()];
  return struck.flatMap(({ misfortune, instant }) => {
    const inside =
      misfortune.what === "cut_hosts"
        ? misfortune.servers
        : misfortune.what === "cut_link"
          ? (minded.config.segments.map(({ name }) => minded.serversOf(name))[0] ?? [])
          : null;
    if (inside === null) return [];
    const outside = all.filter((host) => !inside.includes(host));
    const taken = [inside, outside].map((servers) =>
      straysOf(after.attempts, { servers, instant, untilMs: mendedAtMs }, roundTrip),
    );
    const least = Math.min(...taken.map((rows) => rows.length));
    return least === 0 ? [] : [`${least} writes were taken on both sides of ${misfortune.what}`];
  });
}

/** One repetition as a line for people. */
export function describeMixed(run: MixedRun): string {
  const { plan, wholeMs, gapMs, rows, inFlightMs, complaints } = run;
  const words = [
    `seed ${plan.seed}: ${describePlan(plan)}: whole after ${(wholeMs / 1000).toFixed(1)} s,`,
    `longest gap ${(gapMs / 1000).toFixed(1)} s, ${rows} rows`,
    ...inFlightMs.map((ms) => `; one lost in flight, ${ms.toFixed(1)} ms from a fault`),
    ...complaints.map((complaint) => `; VIOLATION: ${complaint}`),
  ];
  return words.join(" ").replaceAll(" ;", ";");
}
