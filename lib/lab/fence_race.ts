/**
 * The race that fencing must win: the half of the cluster that the application writes to is cut off
 * from everything, while a prober writes to each server by its own socket. Once the other half has
 * acknowledged its first write, the isolated one must not acknowledge any.
 */
import { MinderError } from "../errors.ts";
import { type Attempt, longestGap, wallMs } from "./journal.ts";
import type { Minded } from "./minded.ts";
import type { LabHost } from "./topology.ts";

/** What the journals say of one isolation. Milliseconds after the cut was complete. */
export interface FenceFigures {
  /** The isolated half's last acknowledged write; null if it acknowledged none. */
  readonly lastAckMs: number | null;
  /** The other half's first acknowledged write after its stall. */
  readonly firstAckMs: number;
  /** Writes that the isolated half acknowledged at that time or later. */
  readonly late: readonly Attempt[];
  /** Writes tried on the isolated half after that, and refused or cut. */
  readonly refused: number;
}

export interface FenceRound extends FenceFigures {
  readonly round: number;
  readonly isolated: string;
  /** Writes acknowledged by the isolated half which no server holds after the return. */
  readonly lost: number;
  /** From the end of the cut until all servers serve in one view again. */
  readonly returnMs: number;
}

/** Writes of each prober start so often, from one to the next. */
const PROBE_INTERVAL_MS = 20;
/** A shorter silence of the other half is no stall: then the cut has cut nothing. */
const STALL_MIN_MS = 500;
/** How long the isolated half is watched after the other's first write. */
const WATCH_MS = 3_000;
const PROMOTED_TIMEOUT_MS = 40_000;
const RETURN_TIMEOUT_MS = 120_000;
const ROWS_BEFORE = 20;
const APP = "app1";

/** Lines for the lab's `[timing]`: every isolation changes the segment, which is what it is for. */
export const FENCE_RACE_TIMING = ["promotion_window_ms = 0"] as const;

export class FenceRace {
  readonly #minded: Minded;

  constructor(minded: Minded) {
    this.#minded = minded;
  }

  /** Starts the application and the prober. */
  async start(): Promise<void> {
    const { lab } = this.#minded;
    lab.startApp(APP);
    lab.startProber({ intervalMs: PROBE_INTERVAL_MS });
    await this.#untilRows(wallMs());
  }

  /** Isolates the half that has the writer, lets the other be promoted, heals. @throws MinderError */
  async run(round: number): Promise<FenceRound> {
    const { lab, config } = this.#minded;
    const isolated = await this.#writersSegment();
    const inside = this.#minded.serversOf(isolated);
    const others = lab.hosts.map(({ name }) => name).filter((name) => !inside.includes(name));
    const promoted = config.segments.map(({ name }) => name).filter((name) => name !== isolated);
    const epoch = (await this.#minded.summary())?.epoch ?? 0;
    await lab.network.cut(inside, others);
    const cutAtMs = wallMs();
    await this.#minded.untilSummary(
      `${promoted} serves alone`,
      (is) =>
        is.epoch > epoch &&
        is.servers.every(
          (one) =>
            one.segment === isolated || (one.report?.serving === "on" && one.heardAgoMs !== null),
        ),
      PROMOTED_TIMEOUT_MS,
    );
    await this.#untilRows(wallMs());
    await Bun.sleep(WATCH_MS);
    const figures = judgeFence(lab.journal(), { inside, cutAtMs, untilMs: wallMs() });
    await lab.network.heal(inside, others);
    const healedAtMs = wallMs();
    await this.#minded.untilHealth("healthy", RETURN_TIMEOUT_MS);
    const returnMs = wallMs() - healedAtMs;
    const rows = await lab.rows(inside[0] ?? "");
    const lost = lab
      .journal()
      .filter(
        ({ server, outcome, writer, number, endMs }) =>
          outcome === "acknowledged" &&
          server !== null &&
          inside.includes(server) &&
          endMs < healedAtMs &&
          endMs > cutAtMs - 1_000 &&
          !rows.has(`${writer}/${number}`),
      ).length;
    return { round, isolated, ...figures, lost, returnMs };
  }

  /** All rows and all servers against each other, after the last round. */
  async checksumsEqual(): Promise<boolean> {
    const { lab } = this.#minded;
    await Promise.all(
      lab
        .running()
        .filter(isWriter)
        .map((one) => one.stop()),
    );
    return new Set((await lab.checksums()).values()).size === 1;
  }

  async #writersSegment(): Promise<string> {
    const server = this.#minded.lab.journal(APP).findLast(isAcknowledged)?.server;
    const host = this.#hosts().find(({ name }) => name === server);
    if (host?.segment == null)
      throw new MinderError(`The application wrote to ${server}, no server`);
    return host.segment;
  }

  #hosts(): readonly LabHost[] {
    return this.#minded.lab.network.topology.servers;
  }

  /** Waits until the application has written some rows after that time. */
  async #untilRows(fromMs: number): Promise<void> {
    const deadline = wallMs() + PROMOTED_TIMEOUT_MS;
    const written = () =>
      this.#minded.lab.journal(APP).filter((one) => isAcknowledged(one) && one.startMs > fromMs);
    while (written().length < ROWS_BEFORE) {
      if (wallMs() > deadline) throw new MinderError("The application does not write");
      await Bun.sleep(100);
    }
  }
}

/**
 * Judges one isolation by what the writers were told. The other half's first write is the one that ends
 * its longest silence: until Galera gives up on the lost members nobody commits.
 * @throws MinderError where the journals prove nothing
 */
export function judgeFence(
  attempts: readonly Attempt[],
  options: {
    /** Servers of the isolated half. */
    readonly inside: readonly string[];
    readonly cutAtMs: number;
    readonly untilMs: number;
  },
): FenceFigures {
  const { inside, cutAtMs, untilMs } = options;
  const during = attempts.filter(({ endMs }) => endMs > cutAtMs && endMs <= untilMs);
  const isInside = ({ server }: Attempt) => server !== null && inside.includes(server);
  const ofInside = during.filter(isInside);
  const ofOthers = during.filter((one) => one.server !== null && !isInside(one));
  const stall = longestGap(ofOthers, cutAtMs);
  if (stall === null || stall.lengthMs < STALL_MIN_MS) {
    throw new MinderError(
      stall === null
        ? "The other half never wrote again"
        : `The other half was silent for ${Math.round(stall.lengthMs)} ms only: nothing was cut`,
    );
  }
  const acknowledged = ofInside.filter(isAcknowledged).map(({ endMs }) => endMs);
  return {
    lastAckMs: acknowledged.length === 0 ? null : Math.max(...acknowledged) - cutAtMs,
    firstAckMs: stall.toMs - cutAtMs,
    late: ofInside.filter((one) => isAcknowledged(one) && one.endMs >= stall.toMs),
    refused: during.filter(
      (one) => !isAcknowledged(one) && one.endMs >= stall.toMs && triedInside(one, inside),
    ).length,
  };
}

/** A prober's row names its server even where no connection was made. */
function triedInside({ server, writer }: Attempt, inside: readonly string[]): boolean {
  return server === null
    ? inside.some((name) => writer === `probe-${name}`)
    : inside.includes(server);
}

function isAcknowledged({ outcome }: Attempt): boolean {
  return outcome === "acknowledged";
}

function isWriter({ name }: { readonly name: string }): boolean {
  return name.startsWith("writer-");
}

/** One round as a line for people. */
export function describeRound(round: FenceRound): string {
  const { isolated, lastAckMs, firstAckMs, late, refused, lost, returnMs } = round;
  const last =
    lastAckMs === null ? "acknowledged nothing more" : `last acknowledged ${ms(lastAckMs)}`;
  return (
    `round ${round.round}: ${isolated} isolated, ${last} after the cut; the other half first ` +
    `${ms(firstAckMs)} after it; late writes ${late.length}, refused ${refused}, ` +
    `acknowledged and lost ${lost}, whole again after ${(returnMs / 1000).toFixed(1)} s`
  );
}

function ms(value: number): string {
  return `${Math.round(value)} ms`;
}
