/**
 * What the arbitrator holds: the part it must not forget, and what it has heard since it started.
 * Types and small questions over them; the rules are in arbitrator_rules.ts.
 */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { BASES, Happened, Standing, Verdict } from "../message/arbitrator.ts";
import type { HistoryAsk } from "../message/command.ts";
import type { ConfigMark, EpochRecord, Position, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprintMembers, namesIn } from "../wsrep_status.ts";
import type { MarkedConfig } from "./arbitrator_config.ts";
import type { CommonEffect, CommonEvent, Millis } from "./core.ts";

export type Basis = (typeof BASES)[number];

/** The newest Primary view that is written down. */
export interface NotedView {
  readonly fingerprint: string;
  /** Names of its members. */
  readonly members: readonly string[];
  /** Last committed of the first report of it: an older view's seqnos are all lower. */
  readonly seqno: number;
  /** Epoch under which its first reporter served: a view of an older lineage is not newer. */
  readonly epochServed: number;
}

/** The right to be a solo Primary. */
export interface Grant {
  readonly epoch: number;
  readonly segment: string;
  /**
   * form: by make_primary; hold: already Primary, or about to be; evict: by evicting the rest of a
   * stalled view; bootstrap: from a full outage.
   */
  readonly kind: "form" | "hold" | "evict" | "bootstrap";
  readonly target: PartyId;
  readonly expectedFingerprint: string | null;
  readonly forkPoint: Position | null;
  readonly basis: Basis;
  /** given: an order is out, or its answer was lost, which counts as obeyed. */
  readonly order: "given" | "done";
  /** Members of the stalled view who are out of it by this grant. */
  readonly evicted?: readonly string[];
  /** It moves the primary segment, without a person's order: its completion opens the window. */
  readonly changesSegment: boolean;
}

/** What people have ordered of one server, which it hears of with the answer to each report. */
export interface Wish {
  readonly server: PartyId;
  /** Data directories that are to go, until the server no longer reports them. */
  readonly discard: readonly string[];
  /** How often a start was ordered, until the server runs. */
  readonly starts: number;
}

/** What survives a restart; written with fsync before anything that rests on it leaves the process. */
export interface ArbitratorDurable {
  readonly storeId: string;
  /** Highest epoch ever granted. */
  readonly epoch: number;
  /** The open epoch's grant. */
  readonly grant: Grant | null;
  readonly epochs: readonly EpochRecord[];
  readonly noted: NotedView | null;
  /** The segment in which writers belong: of the newest epoch, at first the configured one. */
  readonly primarySegment: string;
  /** An automatic change of segment whose window may still be open. */
  readonly changedSegment: boolean;
  readonly paused: string | null;
  readonly draining: readonly PartyId[];
  readonly retired: readonly PartyId[];
  /** Who ordered what stands: one entry for the pause, each drain and retirement, and a switchover. */
  readonly standing: readonly Standing[];
  /** What people want of single servers, until it is so; a server is in it once. */
  readonly wishes: readonly Wish[];
  /** Of standing orders with a deadline: the time that is left, as of the last look at it. */
  readonly deadlines: readonly { readonly order: string; readonly leftMs: Millis }[];
  /** Where the config comes from the database: the document in force, and the one before it while it counts. */
  readonly config?: { readonly active: ConfigMark; readonly former: ConfigMark | null } | undefined;
}

/** Epoch records kept; a server that served longer ago than that must be reseeded. */
export const EPOCHS_MAX = 64;

/** The first state of a new cluster's arbitrator. */
export function newDurable(config: ClusterConfig, storeId: string): ArbitratorDurable {
  return {
    storeId,
    epoch: 0,
    grant: null,
    epochs: [],
    noted: null,
    primarySegment: config.primarySegment,
    changedSegment: false,
    paused: null,
    draining: [],
    retired: [],
    standing: [],
    wishes: [],
    deadlines: [],
  };
}

/** The latest word of one server. */
export interface Heard {
  readonly report: Report;
  readonly at: Millis;
  /** When a change of its weight was last seen. */
  readonly weightChangedAt: Millis;
  /** When it last reported client minders that have it as their writer. */
  readonly wroteAt?: Millis;
  /** As which member it last ran, with what weight: one that is down, or whose watchdog is new, says neither. */
  readonly member?: { readonly uuid: string; readonly weight: number };
  /** When it was first heard to be down, unless it has been Primary since. */
  readonly downSince?: Millis;
  /** When it last said that it is Primary. */
  readonly primaryAt?: Millis;
}

/** As which member of a view a server counts, by its latest word of it. */
export function memberOf(heard: Heard): Heard["member"] {
  const { gcommUuid, weight } = heard.report;
  return gcommUuid !== null && weight !== null ? { uuid: gcommUuid, weight } : heard.member;
}

/** A person's make_primary, while it is being carried out. */
export interface PersonOrder {
  readonly segment: string;
  /** Their word that whoever is silent is stopped. */
  readonly force: boolean;
  readonly allowDataLoss: boolean;
  readonly who: string;
  readonly until: Millis;
}

/** An answer or order that waits until what it rests on is on disk. */
export interface Held {
  readonly revision: number;
  readonly effect: ArbitratorEffect;
  /** Since when it waits. */
  readonly at: Millis;
}

export interface ArbitratorState {
  readonly config: ClusterConfig;
  /** The document in force; null where a site file is. */
  readonly mark: ConfigMark | null;
  /** The rules before it, while they still have a say. */
  readonly former: MarkedConfig | null;
  /** Since when every server of the rules before has followed; `Infinity` while one has not. */
  readonly followedAt: Millis;
  /** A newer document with other rules, which waits. */
  readonly offered: MarkedConfig | null;
  /** What it waits for. */
  readonly configWait: string | null;
  readonly self: PartyId;
  readonly durable: ArbitratorDurable;
  /** Why it only observes until a person re-arms it: its store is lost, damaged, copied or old. */
  readonly observing: string | null;
  /** Why its store cannot be written; null if it can. */
  readonly diskError: string | null;
  /** Nothing is granted before: promises of an earlier life are outwaited. */
  readonly armedAt: Millis;
  readonly heard: ReadonlyMap<PartyId, Heard>;
  /** When each server was last given a promise, by the answer's time. */
  readonly promisedAt: ReadonlyMap<PartyId, Millis>;
  /** The longest promise ever given in this life. */
  readonly longestPromiseMs: Millis;
  /** When the noted view was last written down. */
  readonly notedAt: Millis;
  /** A window in which a second automatic change of segment needs an acknowledgement. */
  readonly windowUntil: Millis;
  readonly person: PersonOrder | null;
  /** Since when drains and a switchover stand, by what they are about. */
  readonly standingSince: ReadonlyMap<string, Millis>;
  /** What was before the order that is out: an order refused is void. */
  readonly undo: Pick<ArbitratorDurable, "grant" | "primarySegment"> | null;
  /** Who was told last to join, and until when the next one waits for it to be a member. */
  readonly joining: { readonly server: PartyId; readonly until: Millis } | null;
  /** When each server was last told so: who was told longest ago comes next. */
  readonly turns: ReadonlyMap<PartyId, Millis>;
  /** When to judge again without being told anything new; `Infinity` in calm. */
  readonly lookAt: Millis;
  /** When the open grant's evictions were ordered: evicted may still be told until a while after. */
  readonly evictedAt: Millis;
  /** Who may still obey them: whoever refused will not. */
  readonly evicting: readonly PartyId[];
  /** Of which view a few were evicted without a grant, and when. */
  readonly evictedFew: { readonly view: string; readonly at: Millis } | null;
  /** No further order before this: a failed one is not repeated in a tight loop. */
  readonly orderPauseUntil: Millis;
  /** Orders refused in a row: each costs a number. */
  readonly refusals: number;
  readonly revision: number;
  readonly writtenRevision: number;
  readonly writing: boolean;
  /** A failed write is tried again then. */
  readonly writeAgainAt: Millis;
  readonly held: readonly Held[];
  /** Why the event log is not written, or has begun anew; null while all is well. Nothing rests on it. */
  readonly eventLog: string | null;
  /** Servers that have been called silent. */
  readonly silent: ReadonlySet<PartyId>;
  /** When to look for silence again. */
  readonly surveyAt: Millis;
  /** The health that was last noted. */
  readonly health: string;
  readonly verdicts: ReadonlyMap<string, Verdict>;
  readonly decisions: readonly { readonly at: Millis; readonly verdict: Verdict }[];
}

export type ArbitratorEvent =
  | CommonEvent<"arbitrator">
  /** The event log has fallen ill, and why, or is well again. */
  | { readonly on: "event_log"; readonly illness: string | null }
  /** What the event log has for the question of that ticket. */
  | { readonly on: "history"; readonly ticket: number; readonly result: HistoryResult }
  | { readonly on: "written"; readonly revision: number; readonly error: string | null }
  /** The document that the process goes by, and a newer one with other rules. */
  | ({ readonly on: "config"; readonly held: MarkedConfig | null } & MarkedConfig);

export type HistoryResult = { readonly events: readonly Happened[] } | { readonly error: string };

export type ArbitratorEffect =
  | CommonEffect<"arbitrator">
  /** Go by that document, and know the parties that still count. */
  | { readonly do: "adopt"; readonly mark: ConfigMark }
  /** Write the durable state with fsync; answered by `written`. */
  | { readonly do: "write"; readonly revision: number; readonly durable: ArbitratorDurable }
  /** Read the event log; answered by `history`. */
  | { readonly do: "read_history"; readonly ticket: number; readonly ask: HistoryAsk }
  | {
      readonly do: "log";
      readonly event: string;
      readonly fields: Readonly<Record<string, unknown>>;
    };

/** By what a standing order's deadline is kept. */
export function deadlineKey({ verb, about }: Pick<Standing, "verb" | "about">): string {
  return `${verb} ${about}`;
}

/** Standing orders of that kind. */
export function standingOf(state: ArbitratorState, verb: Standing["verb"]): readonly Standing[] {
  return state.durable.standing.filter((standing) => standing.verb === verb);
}

/** Since when an order stands in this life; ages ago, if it does not. */
export function sinceOf(state: ArbitratorState, verb: Standing["verb"], about: string): Millis {
  return state.standingSince.get(deadlineKey({ verb, about })) ?? Number.NEGATIVE_INFINITY;
}

/** The server's latest report if it is not older than `maxAgeMs`. */
export function youngReport(
  state: ArbitratorState,
  id: PartyId,
  options: { readonly now: Millis; readonly maxAgeMs: Millis },
): Report | null {
  const heard = state.heard.get(id);
  if (heard === undefined || options.now - heard.at > options.maxAgeMs) return null;
  return heard.report;
}

/**
 * A starting server is a member within this (measured: 1.2 to 4 s), or the next one goes on: InnoDB's
 * recovery of a large database takes minutes.
 */
export const JOIN_MS = 5_000;

/** Was a server on its way into a view when it was last heard: starting, or down and told to join. */
export function wasJoining({ heard, turns }: ArbitratorState, id: PartyId): boolean {
  const last = heard.get(id);
  if (last === undefined) return false;
  if (last.report.running !== "down") return last.report.running === "unknown";
  return (turns.get(id) ?? Number.NEGATIVE_INFINITY) + JOIN_MS >= last.at;
}

/** An epoch whose fork point nobody remembers: every position differs from it. */
export function unknownFork(epoch: number, segment: string): EpochRecord {
  return { epoch, segment, forkPoint: { uuid: "00000000-0000-0000-0000-000000000000", seqno: -1 } };
}

/** Is it an epoch of that kind, whose record's segment is a guess as well. */
export function isUnknownFork({ forkPoint }: EpochRecord): boolean {
  return forkPoint !== null && forkPoint.seqno < 0;
}

/** A number under which nothing has forked: of a void order, or of a store that was re-armed. */
export function noFork(epoch: number, segment: string): EpochRecord {
  return { epoch, segment, forkPoint: null };
}

/**
 * Is that an epoch of which the store has no record: one that it had granted before it was lost, and
 * re-armed while the server that served under it was not heard.
 */
export function isForgotten({ durable }: ArbitratorState, epoch: number): boolean {
  const { epochs } = durable;
  if (epoch === 0 || epochs.some((record) => record.epoch === epoch)) return false;
  return epochs.length < EPOCHS_MAX || epoch > (epochs[0]?.epoch ?? 0);
}

/**
 * Epochs that began after the one that a server last served under. Where the store does not know that
 * one, it cannot tell where the later ones have left its lineage.
 */
export function epochsAfter(state: ArbitratorState, epochServed: number): EpochRecord[] {
  const later = state.durable.epochs.filter(({ epoch }) => epoch > epochServed);
  if (later.length === 0 || !isForgotten(state, epochServed)) return later;
  return later.map(({ epoch, segment }) => unknownFork(epoch, segment));
}

/** May a position have rows beyond a fork point that came after that epoch, or is one no longer kept. */
export function isBeyond(
  state: ArbitratorState,
  epochServed: number,
  position: Position | null,
): boolean {
  const { epochs } = state.durable;
  if (epochs.length >= EPOCHS_MAX && (epochs[0]?.epoch ?? 0) > epochServed + 1) return true;
  return epochsAfter(state, epochServed).some(
    ({ forkPoint }) =>
      forkPoint !== null &&
      (position === null || forkPoint.uuid !== position.uuid || position.seqno > forkPoint.seqno),
  );
}

/** Where a server stands, and what it says of the epochs that it served under. */
export interface Stood {
  readonly report: Report;
  readonly position: Position | null;
}

/**
 * The newest epoch up to that one of which a server at that position can have rows: an epoch's rows come
 * after its fork point. A number without a record is one that a lost store has granted.
 */
function withRows(state: ArbitratorState, served: number, position: Position | null): number {
  let disproved = false;
  for (const { epoch, forkPoint } of state.durable.epochs.toReversed()) {
    // Where nothing has forked, the rows are those of the epoch before.
    if (epoch > served || forkPoint === null) continue;
    const within =
      position !== null &&
      position.seqno >= 0 &&
      forkPoint.uuid === position.uuid &&
      position.seqno <= forkPoint.seqno;
    if (!within) return epoch;
    disproved = true;
  }
  return disproved || !isForgotten(state, served) ? 0 : served;
}

/** The newest epoch of which a server is certain to have rows. */
export function epochCertain(state: ArbitratorState, { report, position }: Stood): number {
  const { epochServed, epochBefore = epochServed } = report;
  return withRows(state, epochBefore, position);
}

/**
 * The epoch by which each of these servers is compared before its seqno is. A number alone is no row: it
 * rises with the grant, while the holder may still stand in the joint view with everybody else, and end
 * there, with fewer rows than others of that view. So nobody counts as further than
 * - its position allows: at or before an epoch's fork point it has nothing of that epoch; and
 * - some server is certain to have come, by a Primary view that it saw since the number rose. An epoch
 *   that nobody is certain of decides nothing between those who claim it and the others of the view that
 *   it was granted in: they have one sequence of rows, of which the seqno says who has more. Where Galera's
 *   quorum has made the claimant's side Primary unseen, that side has every row of the view before, and its
 *   own after them, so the seqno finds it too. Where an order is needed for that, the door is closed until
 *   the view is seen, so that nobody has acknowledged a row under the number.
 * What was acknowledged under an epoch alone, by one that saw it, thus goes before any seqno.
 */
export function epochsReached(state: ArbitratorState, stood: readonly Stood[]): readonly number[] {
  const certain = Math.max(0, ...stood.map((each) => epochCertain(state, each)));
  return stood.map(({ report, position }) =>
    Math.min(certain, withRows(state, report.epochServed, position)),
  );
}

/**
 * Where a new epoch begins that has this server as its base: no later than those of which it has no rows,
 * since somebody else may have some.
 */
export function forkOf(
  state: ArbitratorState,
  base: { readonly report: Report; readonly position: Position },
): Position {
  const { uuid, seqno } = base.position;
  const own = withRows(state, base.report.epochServed, base.position);
  const passed = state.durable.epochs.flatMap(({ epoch, forkPoint }) =>
    epoch > own && forkPoint?.uuid === uuid ? [forkPoint.seqno] : [],
  );
  return { uuid, seqno: Math.min(seqno, ...passed) };
}

/** The same for a server that runs, by where it stood and has not been proven in line since. */
export function stoodBeyond(state: ArbitratorState, { stood, epochServed }: Report): boolean {
  return stood !== undefined && isBeyond(state, epochServed, stood);
}

/** The stores that the servers which were heard are bound to: one, unless two arbitrators have been at work. */
export function boundStores({ heard }: ArbitratorState): ReadonlySet<string> {
  return new Set([...heard.values()].flatMap(({ report }) => report.storeId ?? []));
}

/** Servers of a segment that have a say: retired ones do not. */
export function activeServers(state: ArbitratorState, segment: string): readonly DbServerConfig[] {
  const { retired } = state.durable;
  const own = state.config.segments.find(({ name }) => name === segment)?.servers ?? [];
  return retired.length === 0 ? own : own.filter((server) => !retired.includes(server.id));
}

export function namesOf(report: Report): ReadonlySet<string> {
  return namesIn(report.members);
}

/** Sum of the weights, null where one is unknown. */
export function weightOf(reports: readonly Report[]): number | null {
  let sum = 0;
  for (const report of reports) {
    if (report.weight === null) return null;
    sum += report.weight;
  }
  return sum;
}

/**
 * Weight of members of the noted view by UUID. One that is no server of the config (garbd) counts as
 * Galera's default, 1; which ones those are is known only once every server in the view was heard.
 */
export function weightOfUuids(state: ArbitratorState, uuids: readonly string[]): number | null {
  const weights = new Map<string, number | null>();
  for (const heard of state.heard.values()) {
    const { gcommUuid, weight } = heard.report;
    if (gcommUuid !== null) weights.set(gcommUuid, weight);
    const member = memberOf(heard);
    if (member !== undefined) weights.set(member.uuid, member.weight);
  }
  const { noted } = state.durable;
  const all = new Set(fingerprintMembers(noted?.fingerprint ?? ""));
  const names = new Set(noted?.members);
  const unheard = state.config.servers.some((server) => {
    if (!names.has(server.name)) return false;
    const heard = state.heard.get(server.id);
    const uuid = heard?.report.gcommUuid ?? heard?.member?.uuid ?? "";
    return !all.has(uuid);
  });
  let sum = 0;
  for (const uuid of uuids) {
    const known = weights.get(uuid);
    const weight = known === undefined && !unheard ? 1 : (known ?? null);
    if (weight === null) return null;
    sum += weight;
  }
  return sum;
}
