/**
 * What a server watchdog holds, and the one question on which everything turns: has its server the
 * right to serve now, and until when.
 * Invariant: a right is a promise of the arbitrator or of other segments' servers that has not
 * expired on this process's own clock, counted from when the renewed report was sent.
 */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { Evict, MakePrimary, StartOrder } from "../message/arbitrator.ts";
import type { ConfigMark, EpochRecord, Position, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprint, holdsMajority, isJoint, namesIn, type WsrepStatus } from "../wsrep_status.ts";
import { EPOCHS_MAX } from "./arbitrator_state.ts";
import { isSettledIn, type Millis } from "./core.ts";
import type { AsideState } from "./dbserver_aside.ts";
import type { ProcessFact, ServerDurable } from "./dbserver_io.ts";

/** Starts in a row that never reached Synced; then a person has to look at it. */
export const FAILED_STARTS_MAX = 3;

/** A promise received: nobody else gets the right to be primary before `until`. */
export interface Promised {
  readonly until: Millis;
  /** The grant under which a solo view may serve; null for joint views only. */
  readonly epoch: number | null;
  /** Fingerprint of the view that it was given in; null where an order said so. */
  readonly view: string | null;
}

/** An order to evict under way. */
export interface EvictionInHand {
  readonly order: Evict;
  readonly from: PartyId;
  readonly ticket: number;
  /** Its epoch is being written down first, where it comes with a grant. */
  readonly phase: "writing" | "evicting";
  /** Under which epoch the server had served before it took the order; again if that proves void. */
  readonly servedBefore: number;
  /** Its rows were proven to be those of the view when it took the order. */
  readonly inLine: boolean;
  readonly since: Millis;
}

/** A make_primary under way. */
export interface OrderInHand {
  readonly order: MakePrimary;
  readonly from: PartyId;
  readonly ticket: number;
  readonly phase: "writing" | "forming" | "verifying";
  readonly attempts: number;
  /** pc.bootstrap was, or may have been, given at least once. */
  readonly given: boolean;
  /** Under which epoch the server had served before it took the order; again if that proves void. */
  readonly servedBefore: number;
  /** Why the last attempt failed. */
  readonly error: string | null;
  /** When to try again, or to give up after the last attempt. */
  readonly tryAgainAt: Millis;
  /** Members that stay in the eviction list meanwhile. */
  readonly evicted: readonly string[];
}

export interface DbServerState {
  readonly config: ClusterConfig;
  readonly self: DbServerConfig;
  readonly url: string;
  readonly minderVersion: string;
  /** The document that the config is of, and a newer one that is held; absent where a site file is. */
  readonly documents: Report["config"];
  /** The document that the arbitrator has named and that is being fetched. */
  readonly adopting: ConfigMark | null;
  /** The document in force does not name this server any more: it goes. */
  readonly removed: boolean;

  readonly durable: ServerDurable;
  /** The durable state that is on disk. */
  readonly written: ServerDurable;
  readonly writing: boolean;
  readonly writeAgainAt: Millis;

  readonly process: ProcessFact | { readonly is: "unknown" };
  /** A start or stop that was asked for and has not ended. */
  readonly handling: "start" | "stop" | "kill" | "read_position" | null;
  /** A stop was asked for, and mariadbd has not ended yet. */
  readonly leaving: boolean;
  /** Starts in a row that did not reach Synced. */
  readonly failedStarts: number;
  /** How often people had ordered a start, by the arbitrator's latest answer. */
  readonly startOrders: number;
  readonly aside: AsideState;
  readonly startAt: Millis;
  readonly startedAt: Millis;
  /** When mariadbd was last found to have ended. */
  readonly stoppedAt: Millis;
  /** Until then a mariadbd that was found running is not fenced for lack of a right not asked for yet. */
  readonly adoptedUntil: Millis;

  /** The latest poll that answered; null while mariadbd is down or silent. */
  readonly status: WsrepStatus | null;
  readonly polledAt: Millis;
  readonly polling: boolean;
  /** Another poll must follow the one under way: something happened after it began. */
  readonly pollAgain: boolean;
  readonly pollAt: Millis;
  readonly pollError: string | null;
  /** When the poll that ended last had begun, whether it was answered or not. */
  readonly askedAt: Millis;
  /** Share of time paused by flow control between the last two polls. */
  readonly flowControl: number;
  /** When the present view was first seen. */
  readonly viewSince: Millis;
  readonly lastPrimary: Report["lastPrimary"];
  readonly gcommUuid: string | null;
  /** The process that was asked when it said so. */
  readonly gcommOf: { readonly pid: number; readonly startTime: number } | null;
  /** The mariadbd that ended last under this process's eyes. */
  readonly ended: Report["ended"];

  /** Servers whose watchdogs were not heard for suspect_ms, while this one listened. */
  readonly silent: readonly PartyId[];
  readonly listeningSince: Millis;
  /** Commits hang and half of the view is not heard, where silence is evidence for evicting this server. */
  readonly apart: boolean;
  /** When it last was so: of what was asked for by then, only the promise of a grant counts. */
  readonly apartAt: Millis;
  readonly steppedAt: Millis;
  /** When a peer's report named a member of the view as ended, until a poll begun since has ended. */
  readonly evidenceAt: Millis;
  /** The eviction list of mariadbd, as told or as the last poll since has it. */
  readonly evictList: readonly string[];
  /** What it is being told at present. */
  readonly telling: readonly string[] | null;
  /** When telling last ended: polls begun before say nothing about the list. */
  readonly toldListAt: Millis;
  /** Since when somebody is being evicted; `Infinity` if nobody is. */
  readonly evictSince: Millis;
  readonly evictAgainAt: Millis;
  /** Evicted in vain from the present view. */
  readonly evictSpent: readonly string[];
  /** When the periods may be set again. */
  readonly tuneAt: Millis;

  readonly probe: Report["probe"];
  /** No commit has passed through an open door since commits were held last, or since this mariadbd was found. */
  readonly held: boolean;
  readonly probing: boolean;
  readonly probeAt: Millis;
  /** When commits were last known to flow: a probe that committed was begun then. */
  readonly flowedAt: Millis;
  /** Last committed when commits were found to hang. */
  readonly hungAtSeqno: number;

  /** When the process was last suspended; nothing sent before is relied on. */
  readonly suspendedAt: Millis;
  /** Since when mariadbd, its socket never opened, has had nobody to join; `Infinity` if it may have. */
  readonly vainSince: Millis;
  /** Since when Galera's provider is closed in a living mariadbd; `Infinity` if it is not. */
  readonly closedSince: Millis;
  /** Such closures since it was last Synced. */
  readonly closures: number;

  readonly position: Position | null;
  readonly safeToBootstrap: boolean;
  /** The position of the stopped server was read, whatever came of it. */
  readonly positionRead: boolean;

  /** Client statements are refused: by the last poll, or because it was started so. */
  readonly closed: boolean;
  readonly gating: "fence" | "unfence" | null;
  /** When the last fence or unfence ended: polls begun before say nothing about it. */
  readonly gatedAt: Millis;
  /** When the right ends unless renewed, and when a fence that does not hold ends in SIGKILL. */
  readonly lapseAt: Millis;
  readonly killAt: Millis;
  /** Since when a fence is wanted that is not there yet; `Infinity` if none is. */
  readonly fenceWantedAt: Millis;

  /** Guards can be run beside this server. */
  readonly guards: boolean;
  /** A guard lives, by its last sign of life. */
  readonly guard: boolean;
  /** What the guard was told last; null before the first time. */
  readonly guardTold: {
    readonly wanted: boolean;
    readonly killAt: Millis | null;
    readonly at: Millis;
  } | null;

  readonly promises: ReadonlyMap<PartyId, Promised>;
  /** Epoch served under by peers, as their acks say. */
  readonly peerEpochs: ReadonlyMap<PartyId, number>;
  readonly peers: ReadonlyMap<PartyId, { readonly report: Report; readonly at: Millis }>;
  /** Which server each client minder has as its only writer, by its latest ack. */
  readonly clientWriters: ReadonlyMap<
    PartyId,
    { readonly writer: string | null; readonly at: Millis }
  >;
  /** The epoch granted to this segment, as far as this server knows. */
  readonly grantEpoch: number | null;
  /** Until then this server has promised not to be promoted. */
  readonly vouchedUntil: Millis;

  readonly arbitratorAt: Millis;
  /** When the newest report was sent that the arbitrator has answered: replies can overtake each other. */
  readonly toldAt: Millis;
  /** The arbitrator's epoch with its last promise: what this view serves under. */
  readonly promisedEpoch: number;
  readonly epochs: readonly EpochRecord[];
  readonly draining: boolean;
  /** A switchover takes the writers elsewhere, as the arbitrator last said. */
  readonly yielding: boolean;
  /** The time of a drain or switchover is over: sessions that are left may be cut. */
  readonly cutting: boolean;
  /** Servers without a say, as the arbitrator last named them. */
  readonly retired: readonly PartyId[];
  readonly primarySegment: string | null;
  readonly startVerdict: "join" | "reseed" | "bootstrap" | "wait";
  /** Whose rows are in line by the arbitrator's word, said with the verdict "reseed". */
  readonly donors: readonly PartyId[];

  readonly diverged: boolean;
  /** Why a person wants its data transferred anew, while that has not begun; else null. */
  readonly reseedFor: string | null;
  /** A mariadbd that this watchdog did not start has not answered yet: nobody saw where it has been. */
  readonly adopted: boolean;
  /**
   * The newest epoch that a member of its view has certainly served under, while it has been Primary ever
   * since: the rows of that epoch are its own too, whether or not it has served itself. 0 for none.
   */
  readonly sharedEpoch: number;
  /** Galera's names of the members that it found in its view when it came. */
  readonly hosts: readonly string[];
  /** Where such a mariadbd stood when first asked, until it is proven in line; else null. */
  readonly foundAt: Position | null;
  /** Its rows are the base of its epoch, by the arbitrator's order: there is nothing to compare. */
  readonly proven: boolean;
  readonly order: OrderInHand | null;
  readonly eviction: EvictionInHand | null;
  /** An order to start, whose epoch is being written. */
  readonly startOrder: {
    readonly ticket: number;
    readonly bootstrap: boolean;
    readonly epoch: number;
    readonly order: StartOrder;
    readonly servedBefore: number;
  } | null;
  /** Messages that wait for a poll begun after they came. */
  readonly waiting: readonly { readonly ticket: number; readonly since: Millis }[];

  readonly reportNumber: number;
  /** When recent reports were sent, by number. */
  readonly sent: readonly { readonly number: number; readonly at: Millis }[];
  readonly lastReport: Report | null;
  readonly reportAt: Millis;
  /** Reports sent, by which client minders take turns: with hundreds, not all hear each one. */
  readonly clientTurn: number;
}

/** The right to serve, or why there is none. */
export type Right =
  | { readonly ok: true; readonly until: Millis; readonly because: string }
  | { readonly ok: false; readonly because: string };

/** Fingerprint of the view that the last poll saw. */
export function viewOf(status: WsrepStatus | null): string | null {
  return status === null ? null : fingerprint(status.stateUuid, status.primary, status.members);
}

const NOBODY: WsrepStatus["members"] = [];

export function memberNames(status: WsrepStatus | null): ReadonlySet<string> {
  return namesIn(status?.members ?? NOBODY);
}

/** Has this server the right to serve at `now`: in a joint view by lease or vouches, alone by grant. */
export function rightOf(state: DbServerState, now: Millis): Right {
  const { status, config } = state;
  if (status === null) return { ok: false, because: "mariadbd has not answered yet" };
  if (!status.primary) return { ok: false, because: "not Primary" };
  // One poll that fails condemns nobody; a silence as long as a lease does.
  const staleAt = state.polledAt + config.timing.leaseMs;
  if (now >= staleAt) return { ok: false, because: "mariadbd does not answer" };
  const right = rightInView(state, now);
  if (!right.ok || right.until <= staleAt) return right;
  return { ok: true, until: staleAt, because: right.because };
}

function rightInView(state: DbServerState, now: Millis): Right {
  const { status, config, self } = state;
  const names = memberNames(status);
  const lease = leaseOf(state);
  if (!isJoint(config, names)) return soloRight(state, { names, lease, now });
  const granted = lease !== null && lease.epoch === state.grantEpoch && now < lease.until;
  if (state.apart && !(granted && holdsNewestGrant(state))) {
    return { ok: false, because: "commits hang, and half of the view is not heard" };
  }
  if (lease !== null && now < lease.until) {
    return { ok: true, until: lease.until, because: "joint view, the arbitrator's lease" };
  }
  const vouched = vouchedUntil(state, names);
  if (now < vouched) {
    const doubt = doubtOf(state);
    if (doubt !== null) return { ok: false, because: doubt };
    return { ok: true, until: vouched, because: "joint view, vouched for by the other segments" };
  }
  if (holdsNewestGrant(state) && config.onDoubleFault === "stay") {
    return {
      ok: true,
      until: Number.POSITIVE_INFINITY,
      because: `holder of epoch ${state.grantEpoch} stays, no lease: no automatic rival can arise`,
    };
  }
  return { ok: false, because: `joint view, but neither lease nor vouches reach ${self.name}` };
}

/** Why the vouches of others open no door: they may stand in the same older lineage. In words; null if nothing. */
function doubtOf(state: DbServerState): string | null {
  if (knowsNewer(state))
    return `vouched for under epoch ${servesUnder(state)}, but epoch ${state.durable.epochSeen} is newer`;
  if (cameToOlder(state))
    return "vouched for, but it has come to a view that serves under an older epoch";
  return null;
}

function soloRight(
  state: DbServerState,
  facts: {
    readonly names: ReadonlySet<string>;
    readonly lease: Promised | null;
    readonly now: Millis;
  },
): Right {
  const { names, lease, now } = facts;
  if (!holdsMajority(state.config, state.self.segment, names, state.retired)) {
    return { ok: false, because: "Primary alone with less than half of the segment" };
  }
  if (!holdsNewestGrant(state)) {
    return { ok: false, because: "Primary alone without a grant" };
  }
  if (lease !== null && lease.epoch === state.grantEpoch && now < lease.until) {
    return { ok: true, until: lease.until, because: `holder of epoch ${state.grantEpoch}` };
  }
  if (state.config.onDoubleFault === "stay") {
    return {
      ok: true,
      until: Number.POSITIVE_INFINITY,
      because: `holder of epoch ${state.grantEpoch} stays, no lease: no automatic rival can arise`,
    };
  }
  return { ok: false, because: `holder of epoch ${state.grantEpoch}, but its lease is over` };
}

/**
 * The epoch that it serves under, or would if its door opened now: its own, the arbitrator's promise's, the one
 * that its view shares, or that of a member who vouches and serves.
 */
export function servesUnder(state: DbServerState): number {
  const { durable, promisedEpoch, sharedEpoch, peerEpochs } = state;
  let newest = Math.max(durable.epochServed, promisedEpoch, sharedEpoch);
  if (peerEpochs.size === 0) return newest;
  const names = memberNames(state.status);
  for (const [id, epoch] of peerEpochs) {
    const server = state.config.serverById.get(id);
    if (server !== undefined && names.has(server.name)) newest = Math.max(newest, epoch);
  }
  return newest;
}

/**
 * Has it heard of an epoch newer than the one that it would serve under, which may have forked from its rows:
 * then it takes the arbitrator's word to serve, since those who vouch may stand in the same older lineage.
 */
export function knowsNewer(state: DbServerState): boolean {
  const { durable, epochs } = state;
  const serves = servesUnder(state);
  if (durable.epochSeen <= serves) return false;
  const told = epochs.at(-1)?.epoch ?? 0;
  return (
    told < durable.epochSeen ||
    epochs.some(({ epoch, forkPoint }) => epoch > serves && forkPoint !== null)
  );
}

/** Is the newest epoch that this server has heard of granted to its segment. */
export function holdsNewestGrant(state: DbServerState): boolean {
  return state.grantEpoch !== null && state.grantEpoch >= state.durable.epochSeen;
}

/** What the arbitrator promised last. */
export function leaseOf(state: DbServerState): Promised | null {
  for (const { id } of state.config.arbitrators) {
    const promised = state.promises.get(id);
    if (promised !== undefined) return promised;
  }
  return null;
}

/** Until when at least half of every other segment's servers, members of this view, vouch. */
function vouchedUntil(state: DbServerState, names: ReadonlySet<string>): Millis {
  let until = Number.POSITIVE_INFINITY;
  for (const segment of state.config.segments) {
    if (segment.name === state.self.segment) continue;
    const ends: Millis[] = [];
    for (const server of segment.servers) {
      const promised = names.has(server.name) ? state.promises.get(server.id) : undefined;
      if (promised !== undefined) ends.push(promised.until);
    }
    if (ends.length > 1) ends.sort((a, b) => b - a);
    const needed = Math.ceil(segment.servers.length / 2);
    until = Math.min(until, ends[needed - 1] ?? Number.NEGATIVE_INFINITY);
  }
  return until;
}

/** Where it last stood without having been proven in line since; null if there is nothing to prove. */
export function stoodAt(state: DbServerState): Position | null {
  const { foundAt, durable, proven } = state;
  const { leftPrimary } = durable;
  if (proven) return null;
  if (leftPrimary === null || foundAt === null) return leftPrimary ?? foundAt;
  return foundAt.uuid === leftPrimary.uuid && foundAt.seqno > leftPrimary.seqno
    ? foundAt
    : leftPrimary;
}

/**
 * Has neither this server nor that peer heard of an epoch after the one that this server last served under:
 * one that has copied another's rows, or opened by vouches alone, may not know under which epoch it serves.
 */
export function knowsNoneNewer({ durable }: DbServerState, peer: Report): boolean {
  return durable.epochSeen <= durable.epochServed && peer.epochSeen <= durable.epochServed;
}

/**
 * May the fence be lifted as far as the rows go: "yes", "diverged", or not proven yet. A server that
 * left Primary compares where it stood with the fork point of each epoch that it did not serve under.
 */
export function lineageOf(state: DbServerState): "yes" | "diverged" | "unproven" {
  // Where it left Primary, and where it was found after nobody had watched it: both must be in line.
  const stood = [state.durable.leftPrimary, state.foundAt].filter((at) => at !== null);
  if (state.diverged) return "diverged";
  if (state.proven) return "yes";
  // It has been Primary all the time since it was last proven: its rows are those of the view.
  if (stood.length === 0 && !state.adopted) return "yes";
  const heardSince = state.arbitratorAt >= state.viewSince;
  if (heardSince) {
    const oldest = state.epochs[0]?.epoch ?? 0;
    // A fork point since it last served may no longer be kept: nothing can be proven then.
    const forgotten =
      stood.length > 0 &&
      state.epochs.length >= EPOCHS_MAX &&
      oldest > state.durable.epochServed + 1;
    const beyond =
      forgotten ||
      state.epochs.some(
        ({ epoch, forkPoint }) =>
          forkPoint !== null &&
          epoch > state.durable.epochServed &&
          stood.some((at) => at.uuid !== forkPoint.uuid || at.seqno > forkPoint.seqno),
      );
    if (beyond) return "diverged";
    return cameToOlder(state) ? "unproven" : "yes";
  }
  const names = memberNames(state.status);
  for (const [id, epoch] of state.peerEpochs) {
    const server = state.config.serverById.get(id);
    const peer = state.peers.get(id)?.report;
    if (server === undefined || !names.has(server.name) || peer === undefined) continue;
    // A member that still serves under the same epoch proves that none came between.
    if (epoch === state.durable.epochServed && knowsNoneNewer(state, peer)) return "yes";
  }
  return "unproven";
}

/**
 * Has it come, and not been proven since, to a view with a member that was there before and serves under an older
 * epoch: then the view is that one's, of an older lineage.
 */
function cameToOlder(state: DbServerState): boolean {
  if (stoodAt(state) === null) return false;
  const view = viewOf(state.status);
  const lease = leaseOf(state);
  // The arbitrator has looked for such members itself, and knows who was there when it granted the epoch.
  if (lease !== null && lease.epoch !== null && lease.view === view) return false;
  const serves = servesUnder(state);
  return [...state.peers.values()].some(
    ({ report }) => report.epochServed < serves && isSettledIn(view, report),
  );
}

/** Has this server's segment over half of its view's weight: then only the end of its right holds it back. */
export function isHeavy(state: DbServerState): boolean {
  const names = memberNames(state.status);
  let own = 0;
  let all = 0;
  for (const server of state.config.servers) {
    if (!names.has(server.name)) continue;
    const told = server.id === state.self.id ? state.status : state.peers.get(server.id)?.report;
    const weight = told?.weight ?? server.weight;
    all += weight;
    if (server.segment === state.self.segment) own += weight;
  }
  return 2 * own > all;
}

/**
 * For how long this server may vouch for a peer in that view: one lease from the last sign that the view
 * was whole. A peer of the segment that is promoted behind a cut shares no server with those who vouch for
 * it, so their word must end by what they know, not by when they are asked. 0: not at all.
 */
export function vouchMs(state: DbServerState, view: string | null, now: Millis): Millis {
  const { status, config, probe, order, eviction } = state;
  if (view === null || status === null || !status.ready || !status.primary) return 0;
  if (viewOf(status) !== view || !isJoint(config, memberNames(status))) return 0;
  if (order !== null || eviction !== null) return 0;
  const { leaseMs, reportIntervalMs } = config.timing;
  // What a probe behind a closed door tells is older by Galera's sign of life.
  const longest = state.closed
    ? Math.max(2 * reportIntervalMs, leaseMs - CLOSED_PROBE_LAG_MS)
    : leaseMs;
  // Held commits look the same behind a cut: what others say is the sign then.
  const signAt =
    probe === "flowing"
      ? state.flowedAt
      : probe === "held"
        ? heardJointAt(state, now)
        : Number.NEGATIVE_INFINITY;
  return Math.max(0, Math.floor(longest - (now - signAt)));
}

/** evs.keepalive_period, and a little. */
const CLOSED_PROBE_LAG_MS = 1_100;

/** Since when half of each segment, members of this view and itself among them, have been heard. */
function heardJointAt(state: DbServerState, now: Millis): Millis {
  const { config, self, status, peers } = state;
  const names = memberNames(status);
  let since = now;
  for (const { servers } of config.segments) {
    const heard: Millis[] = [];
    for (const { id, name } of servers) {
      const at = id === self.id ? now : peers.get(id)?.at;
      if (names.has(name) && at !== undefined) heard.push(at);
    }
    heard.sort((a, b) => b - a);
    const needed = Math.ceil(servers.length / 2);
    since = Math.min(since, heard[needed - 1] ?? Number.NEGATIVE_INFINITY);
  }
  return since;
}
