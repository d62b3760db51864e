/**
 * How soon clients are moved: applications through minded balancers of a real cluster while its writer
 * is drained, moved again and again, and crashes. Gives the figures; what is fast enough is the caller's.
 */
import { askArbitrator } from "../effects/ask.ts";
import { MinderError } from "../errors.ts";
import { type DoorAfter, doorAfter, readKnocks } from "./door.ts";
import { until } from "./exec.ts";
import { type Attempt, longestGap, wallMs } from "./journal.ts";
import type { LabProcess } from "./lab.ts";
import { type Minded, type MindedOptions, openMinded } from "./minded.ts";

/** Sessions to a drained server are cut after this on app2; on app1 never. */
export const CUT_MS = 1_000;
/** Calm is looked at for about as long as the change. */
const CALM_MS = 2_000;
/**
 * For so long new connections are watched after a crash; the last second may still be under way. Without
 * eviction all doors close when leases end that hanging commits no longer renew, after 3 s: that is not
 * looked at here.
 */
const DOOR_MS = 3_500;
/** Everything that is awaited here takes a second at most where nothing is wrong. */
const WAIT_MS = 30_000;

/** By writer. */
export type Gaps = Readonly<Record<string, number>>;

export interface DrainFigures {
  readonly writer: string;
  /** When the order was given. */
  readonly atMs: number;
  /** Longest time between two acknowledged rows of each writer from the order on, and before it. */
  readonly gaps: Gaps;
  readonly calm: Gaps;
  /** From the order to the first new session elsewhere. */
  readonly elsewhereMs: number;
}

export interface CrashFigures extends DoorAfter {
  readonly server: string;
  /** Longest time between two acknowledged rows. */
  readonly gapMs: number;
  /** How long a new connection takes while nothing happens. */
  readonly calmMs: number;
}

/** Opens the lab for it; nothing runs yet. */
export async function openForMoves(name: string, options: MindedOptions = {}): Promise<Minded> {
  return await openMinded(name, {
    ...options,
    client: ({ name: host }) => (host === "app2" ? [`drain_cut_ms = ${CUT_MS}`] : []),
  });
}

export class Moves {
  readonly #minded: Minded;
  readonly #writers: LabProcess[] = [];

  constructor(minded: Minded) {
    this.#minded = minded;
  }

  /** Starts a writer through the balancer of that host and waits for its first row. */
  async write(
    host: string,
    name: string,
    options: {
      intervalMs?: number;
      sessionPerRow?: boolean;
      port?: number;
      connectTimeoutMs?: number;
    } = {},
  ): Promise<void> {
    const connectTimeoutMs = WAIT_MS;
    this.#writers.push(this.#minded.lab.startApp(host, { name, connectTimeoutMs, ...options }));
    await this.#until(`${name} writes`, () => this.lastServer(name) !== null);
  }

  async endWriters(): Promise<void> {
    await Promise.all(this.#writers.splice(0).map((writer) => writer.stop()));
  }

  /** Where the latest acknowledged row of that writer went. */
  lastServer(name: string): string | null {
    const { lab } = this.#minded;
    const last = lab.journal(name).findLast(({ outcome }) => outcome === "acknowledged");
    return last?.server ?? null;
  }

  since(name: string, atMs: number): readonly Attempt[] {
    return this.#minded.lab.journal(name).filter(({ startMs }) => startMs >= atMs);
  }

  failedSince(name: string, atMs: number): readonly Attempt[] {
    return this.since(name, atMs).filter(({ outcome }) => outcome !== "acknowledged");
  }

  /** @throws MinderError if it is refused */
  async order(verb: "drain" | "undrain", node: string): Promise<void> {
    const reply = await askArbitrator(
      { verb, parameters: { who: "moves", why: "moves", node } },
      { config: this.#minded.config, timeoutMs: WAIT_MS },
    );
    if (reply.verb === "ack" && reply.parameters.outcome === "ok") return;
    throw new MinderError(`${verb} ${node} was not done`, { where: JSON.stringify(reply) });
  }

  /**
   * Drains the writer under a `pooled` session and a `short` one for each row, three `idle` ones, and
   * on app2 one that is `cut`. They write on; `endWriters` ends them.
   */
  async drain(): Promise<DrainFigures> {
    await this.write("app1", "pooled");
    await this.write("app1", "short", { sessionPerRow: true });
    for (const name of IDLE) await this.write("app1", name, { intervalMs: 3_000 });
    await this.write("app2", "cut");
    const writer = this.lastServer("short") ?? "";
    const calmFrom = wallMs();
    await Bun.sleep(CALM_MS);
    const calm = this.#longestGaps(calmFrom, wallMs());
    const atMs = wallMs();
    await this.order("drain", writer);
    await this.#until("the cut writer has moved", () => this.lastServer("cut") !== writer);
    const [, , lastIdle] = IDLE;
    await this.#until(
      "the idle sessions have written again",
      () => this.since(lastIdle, atMs).length > 0,
    );
    const elsewhere = this.since("short", atMs).find(({ server }) => server !== writer);
    const gaps = this.#longestGaps(atMs, wallMs() - 100);
    const elsewhereMs = (elsewhere?.startMs ?? Number.POSITIVE_INFINITY) - atMs;
    return { writer, atMs, gaps, calm, elsewhereMs };
  }

  #longestGaps(fromMs: number, toMs: number): Gaps {
    return Object.fromEntries(
      ["pooled", "short", "cut"].map((name) => {
        const gap = longestGap(this.#minded.lab.journal(name), fromMs, toMs);
        return [name, gap?.lengthMs ?? Number.POSITIVE_INFINITY];
      }),
    );
  }

  /**
   * Moves the writer so often; for each move, ascending: from what the writer's watchdog notes, that it
   * is drained, to what the client minder notes, that the balancer's weight is changed.
   */
  async knowledgeToWeight(moves: number): Promise<readonly number[]> {
    await this.write("app1", "mover", { sessionPerRow: true, intervalMs: 20 });
    const took: number[] = [];
    for (let move = 0; move < moves; move++) {
      const writer = this.lastServer("mover") ?? "";
      const atMs = wallMs();
      await this.order("drain", writer);
      await this.#until("rows go elsewhere", () => this.lastServer("mover") !== writer);
      const changed = () => this.#times("app1", "balancer_changed", atMs)[0];
      await this.#until("the client minder says so", () => changed() !== undefined);
      const known = () => this.#times(writer, "draining", atMs)[0];
      await this.#until("the watchdog has said so", () => known() !== undefined);
      took.push((changed() ?? 0) - (known() ?? 0));
      await this.order("undrain", writer);
      await this.#until(
        "it is undrained",
        () => this.#times(writer, "drain_ended", atMs).length > 0,
      );
    }
    await this.endWriters();
    return took.sort((one, other) => one - other);
  }

  /** Wall milliseconds of the events of that name in a minder's log, from a moment on. */
  #times(host: string, event: string, fromMs: number): readonly number[] {
    return this.#minded
      .events(host)
      .filter((line) => line["event"] === event)
      .map((line) => Date.parse(String(line["time"])))
      .filter((at) => at >= Math.floor(fromMs));
  }

  /** Crashes the writer under an application and a stream of new connections. */
  async crash(): Promise<CrashFigures> {
    const { lab } = this.#minded;
    await this.write("app1", "after", { sessionPerRow: true, connectTimeoutMs: 1_000 });
    this.#writers.push(lab.startKnocking("app1", { name: "door" }));
    const knocks = () => readKnocks(lab.knocksFile("door"));
    await this.#until("connections are made", () => knocks().length > 20);
    const server = this.lastServer("after") ?? "";
    const calm = knocks().map(({ startMs, endMs }) => endMs - startMs);
    const fromMs = wallMs();
    const pid = this.#minded.mariadbd(server);
    if (pid === null) throw new MinderError(`No mariadbd runs on ${server}`);
    process.kill(pid, "SIGKILL");
    await Bun.sleep(DOOR_MS);
    const door = doorAfter(knocks(), { server, fromMs, toMs: fromMs + DOOR_MS - 1_000 });
    await this.#until("rows go elsewhere", () => this.lastServer("after") !== server);
    const gap = longestGap(lab.journal("after"), fromMs, wallMs());
    const gapMs = gap?.lengthMs ?? Number.POSITIVE_INFINITY;
    return { ...door, server, gapMs, calmMs: medianOf(calm) };
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    await until(what, condition, { timeoutMs: WAIT_MS, pauseMs: 5 });
  }
}

/** Writers that have a session and rarely use it. */
export const IDLE = ["idle1", "idle2", "idle3"] as const;

export function medianOf(figures: readonly number[]): number {
  const sorted = [...figures].sort((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.POSITIVE_INFINITY;
}

export function describeDrain({ elsewhereMs, gaps, calm }: DrainFigures): string {
  const text = (each: Gaps) =>
    Object.entries(each)
      .map(([name, ms]) => `${name} ${Math.round(ms)}`)
      .join(", ");
  return `drain: new sessions elsewhere after ${Math.round(elsewhereMs)} ms; longest gaps in ms: ${text(gaps)} (in calm: ${text(calm)})`;
}

export function describeWeights(took: readonly number[]): string {
  const nine = took[Math.floor(0.9 * took.length)];
  return `knowledge to weight, ${took.length} moves: median ${medianOf(took)} ms, 90 % ${nine} ms, worst ${took.at(-1)} ms`;
}

export function describeCrash(crash: CrashFigures): string {
  const { lastBadMs, firstGoodMs, bad, attempts, gapMs, calmMs } = crash;
  return (
    `crash: the last connection that failed began after ${Math.round(lastBadMs)} ms, ` +
    `the first one elsewhere was open after ${Math.round(firstGoodMs)} ms, ` +
    `${bad} of ${attempts} failed; ${Math.round(gapMs)} ms without a row; ` +
    `in calm a connection takes ${calmMs.toFixed(1)} ms`
  );
}
