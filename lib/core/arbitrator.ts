/**
 * The arbitrator's core: hears reports, makes promises, grants the right to be primary alone, and
 * answers people. What it decides by is in arbitrator_rules.ts.
 * Invariant: nothing that rests on a durable fact (a noted view, an epoch) leaves before that fact
 * is written.
 */
import type { ClusterConfig, SegmentConfig } from "../cluster_config.ts";
import { unreachable } from "../errors.ts";
import type { Evict, Verdict } from "../message/arbitrator.ts";
import type { Ack, ConfigMark, EpochRecord, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprintMembers, groupOf, isJoint, UNSPECIFIED } from "../wsrep_status.ts";
import {
  considerConfig,
  formerUntil,
  hearConfig,
  holdsMajorityHere,
  isJointHere,
  type MarkedConfig,
  voter,
  voters,
} from "./arbitrator_config.ts";
import { evictionOfFew, type Reporter } from "./arbitrator_evict.ts";
import {
  obeyPerson,
  standingFor,
  standingSinceStart,
  tendDeadlines,
  tendSwitchover,
  tendWishes,
  wishesFor,
} from "./arbitrator_orders.ts";
import { chooseBootstrap, donorsFor, joiningAfter, startVerdict } from "./arbitrator_outage.ts";
import { clip, type Facts, factsOf, isForOutage, judge, PROMOTE } from "./arbitrator_rules.ts";
import {
  type ArbitratorDurable,
  type ArbitratorEffect,
  type ArbitratorEvent,
  type ArbitratorState,
  activeServers,
  boundStores,
  EPOCHS_MAX,
  epochsAfter,
  forkOf,
  type Grant,
  type HistoryResult,
  isBeyond,
  isForgotten,
  memberOf,
  type NotedView,
  namesOf,
  noFork,
  stoodBeyond,
  unknownFork,
  youngReport,
} from "./arbitrator_state.ts";
import { snapshotOf, summarize } from "./arbitrator_summary.ts";
import { evidenceOf, noteStatus, survey, watchFor } from "./arbitrator_survey.ts";
import { decided, emit, log, note, reply, set, type Turn } from "./arbitrator_turn.ts";
import {
  type Answered,
  type Arrived,
  type Core,
  isSettledIn,
  type Millis,
  type Step,
} from "./core.ts";
import { EVICT_DEADLINE_MS } from "./dbserver_evict.ts";

/** How a process starts: with what it found on disk. */
export interface ArbitratorStart {
  readonly config: ClusterConfig;
  readonly self: PartyId;
  readonly durable: ArbitratorDurable;
  /** Why the store cannot be trusted; null if it can. */
  readonly observing: string | null;
  /** The document that the config is of; null for a site file. @default null */
  readonly mark?: ConfigMark | null;
  /** The rules before, if they still had a say when the process ended. @default null */
  readonly former?: MarkedConfig | null;
}

/** After an order that failed. */
const ORDER_PAUSE_MS = 1_000;
/** After an order that was refused: what it was refused for takes time to pass. Doubled for each in a row. */
const REFUSED_PAUSE_MS = 250;
const REFUSED_PAUSE_MAX_MS = 8_000;
/** A write that failed is tried again. */
const WRITE_AGAIN_MS = 1_000;
/** While a candidate waits for time to pass, it is judged this often. */
const LOOK_MS = 50;

type ArbitratorCore = Core<ArbitratorState, ArbitratorEvent, ArbitratorEffect> & {
  initial(now: Millis): ArbitratorState;
};

export function arbitratorCore(start: ArbitratorStart): ArbitratorCore {
  return { initial: (now) => initial(start, now), step, dueAt };
}

function initial(start: ArbitratorStart, now: Millis): ArbitratorState {
  // Every field by its name: an object that is written out as one literal is copied fastest.
  return {
    config: start.config,
    self: start.self,
    durable: start.durable,
    observing: start.observing,
    mark: start.mark ?? null,
    former: start.former ?? null,
    followedAt: Number.POSITIVE_INFINITY,
    offered: null,
    configWait: null,
    diskError: null,
    armedAt: now + start.config.outwaitMs,
    heard: new Map(),
    promisedAt: new Map(),
    longestPromiseMs: start.config.timing.leaseMs,
    notedAt: Number.NEGATIVE_INFINITY,
    // Monotonic time does not outlive the process, so a window left open starts anew.
    windowUntil: start.durable.changedSegment
      ? now + start.config.timing.promotionWindowMs
      : Number.NEGATIVE_INFINITY,
    person: null,
    standingSince: standingSinceStart(start.durable, now),
    undo: null,
    lookAt: now,
    // After a restart: whatever was ordered before may be obeyed yet.
    evictedAt: start.durable.grant?.kind === "evict" ? now : Number.NEGATIVE_INFINITY,
    evicting: [],
    evictedFew: null,
    orderPauseUntil: Number.NEGATIVE_INFINITY,
    refusals: 0,
    revision: 0,
    writtenRevision: 0,
    writing: false,
    writeAgainAt: Number.POSITIVE_INFINITY,
    held: [],
    joining: null,
    turns: new Map(),
    eventLog: null,
    silent: new Set(),
    surveyAt: Number.POSITIVE_INFINITY,
    health: "cannot_tell",
    verdicts: new Map(),
    decisions: [],
  };
}

function dueAt(state: ArbitratorState): Millis {
  return Math.min(state.writeAgainAt, state.lookAt, state.surveyAt);
}

function step(
  state: ArbitratorState,
  event: ArbitratorEvent,
  now: Millis,
): Step<ArbitratorState, ArbitratorEffect> {
  const turn: Turn = { state, effects: [], now };
  switch (event.on) {
    case "wakeup":
      break;
    case "message":
      if (event.body.verb === "db_status_report") {
        hearReport(turn, event.from, event.body.parameters);
      } else obeyPerson(turn, event);
      break;
    case "answered":
      learnOutcome(turn, event);
      break;
    case "suspended":
      // What was heard is of unknown age, and promises made before the gap may have been outlived.
      set(turn, { heard: new Map(), armedAt: now + state.config.outwaitMs });
      log(turn, "suspended", { forMs: event.forMs });
      break;
    case "written":
      written(turn, event);
      break;
    case "event_log":
      set(turn, { eventLog: event.illness });
      break;
    case "history":
      tellHistory(turn, event);
      break;
    case "config":
      hearConfig(turn, event);
      break;
    default:
      return unreachable(event);
  }
  considerConfig(turn);
  tendDeadlines(turn);
  survey(turn);
  decide(turn);
  if (event.on === "message") answer(turn, event);
  write(turn);
  return { state: turn.state, effects: turn.effects };
}

/** Starts a write if there is something unwritten and none under way. */
function write(turn: Turn): void {
  const { state, now } = turn;
  if (state.writing || state.revision === state.writtenRevision) return;
  if (state.diskError !== null && now < state.writeAgainAt) return;
  set(turn, { writing: true, writeAgainAt: Number.POSITIVE_INFINITY });
  turn.effects.push({ do: "write", revision: state.revision, durable: state.durable });
}

function written(
  turn: Turn,
  event: { readonly revision: number; readonly error: string | null },
): void {
  const { state, now } = turn;
  if (event.error !== null) {
    // Nothing that rests on the unwritten may leave: acks go without a promise, orders not at all.
    for (const { effect } of state.held) {
      if (effect.do === "reply") turn.effects.push(withoutPromise(effect));
    }
    set(turn, {
      writing: false,
      diskError: `the store cannot be written: ${event.error}`,
      writeAgainAt: now + WRITE_AGAIN_MS,
      held: [],
    });
    log(turn, "store_failed", { error: event.error });
    return;
  }
  const promisedAt = new Map(state.promisedAt);
  for (const { revision, effect, at: heldAt } of state.held) {
    if (revision > event.revision) continue;
    turn.effects.push(effect);
    // The granter counts from its answer, which leaves only now: of promises older than that, it has left.
    for (const [id, at] of state.promisedAt)
      if (at >= heldAt) promisedAt.set(id, Math.max(at, now));
  }
  set(turn, {
    writing: false,
    diskError: null,
    writtenRevision: event.revision,
    promisedAt,
    held: state.held.filter((held) => held.revision > event.revision),
  });
}

function withoutPromise(
  effect: Extract<ArbitratorEffect, { do: "reply" }>,
): Extract<ArbitratorEffect, { do: "reply" }> {
  if (effect.body.verb !== "ack") return effect;
  const parameters: Ack = {
    ...effect.body.parameters,
    outcome: "failed",
    because: "the arbitrator's store cannot be written",
    promise: null,
    arbitrator: null,
  };
  return { ...effect, body: { verb: "ack", parameters } };
}

function hearReport(turn: Turn, from: PartyId, told: Report): void {
  const { state, now } = turn;
  const report = withNames(state, from, told);
  const before = state.heard.get(from);
  const weightChanged =
    before !== undefined &&
    before.report.weight !== null &&
    report.weight !== null &&
    before.report.weight !== report.weight &&
    before.report.gcommUuid === report.gcommUuid;
  const heard = new Map(state.heard);
  const member = before === undefined ? undefined : memberOf(before);
  const wroteAt = report.writers > 0 ? now : before?.wroteAt;
  const downBefore = report.primary === "yes" ? undefined : before?.downSince;
  const downSince = downBefore ?? (report.running === "down" ? now : undefined);
  const primaryAt = report.primary === "yes" ? now : before?.primaryAt;
  heard.set(from, {
    report,
    at: now,
    ...(primaryAt === undefined ? {} : { primaryAt }),
    weightChangedAt: weightChanged ? now : (before?.weightChangedAt ?? Number.NEGATIVE_INFINITY),
    ...(wroteAt === undefined ? {} : { wroteAt }),
    ...(member === undefined ? {} : { member }),
    ...(downSince === undefined ? {} : { downSince }),
  });
  set(turn, { heard });
  watchFor(turn, now);
  noteStatus(turn, from, before?.report);
  if (report.epochSeen > state.durable.epoch && state.observing === null) {
    const because = `${from} has seen epoch ${report.epochSeen}, the store knows only ${state.durable.epoch}`;
    set(turn, { observing: `the store is older than the servers: ${because}` });
    log(turn, "observing", { because });
  }
  doubtStore(turn, from, report);
  recallEpoch(turn, from, report);
  tendWishes(turn, from, report);
  completeGrant(turn, from, report);
  noteView(turn, from, report);
  closeEpoch(turn, report);
  callNext(turn, report, before?.report);
}

/**
 * Parts that meet outside Primary tell each other no names: until there is a Primary, Galera leaves those of the other
 * part's members unspecified (measured). Whoever of them has been heard has said which member it is.
 */
function withNames({ config, heard }: ArbitratorState, from: PartyId, told: Report): Report {
  const segment = config.serverById.get(from)?.segment;
  const isUnspecified = ({ name }: Report["members"][number]) => name === UNSPECIFIED;
  if (segment === undefined || !told.members.some(isUnspecified)) return told;
  const names = new Map<string, string>();
  for (const { id, name } of config.servers) {
    const last = heard.get(id);
    const uuid = last === undefined ? undefined : memberOf(last)?.uuid;
    if (uuid !== undefined) names.set(uuid, name);
  }
  const members = told.members.map((member) =>
    isUnspecified(member) ? { ...member, name: names.get(member.uuid) ?? UNSPECIFIED } : member,
  );
  return { ...told, members, group: groupOf(config, segment, members) };
}

/**
 * Servers obey no other store than the one that they are bound to. One that was re-armed before it had heard
 * that must be re-armed once more, under the name of theirs.
 */
function doubtStore(turn: Turn, from: PartyId, { storeId }: Report): void {
  const { state } = turn;
  if (state.observing !== null || storeId === null || storeId === state.durable.storeId) return;
  if (boundStores(state).size !== 1) return;
  const because = `${from} obeys the store ${storeId}, this one is ${state.durable.storeId}`;
  set(turn, { observing: `the store is not the servers': ${because}` });
  log(turn, "observing", { because });
}

/**
 * Writes down that an epoch was served under of which a store that was lost knew nothing when it was re-armed:
 * whoever has served under older ones only cannot prove that it is in line.
 */
function recallEpoch(turn: Turn, from: PartyId, { epochServed }: Report): void {
  const { state } = turn;
  const { epochs, primarySegment } = state.durable;
  if (state.observing !== null) return;
  if (epochServed <= (epochs.at(-1)?.epoch ?? 0) || !isForgotten(state, epochServed)) return;
  const segment = state.config.serverById.get(from)?.segment ?? primarySegment;
  note(turn, { epochs: [...epochs, unknownFork(epochServed, segment)].slice(-EPOCHS_MAX) });
  log(turn, "epoch_recalled", { epoch: epochServed, server: from });
}

/** Who waits for the one that joins to be a member hears at once that it is. */
function callNext(turn: Turn, report: Report, before: Report | undefined): void {
  const { joining, heard, config } = turn.state;
  if (joining === null || report.primary !== "yes") return;
  const name = config.serverById.get(joining.server)?.name ?? "";
  const named = (one: Report | undefined) => one !== undefined && namesOf(one).has(name);
  if (!named(report) || named(before)) return;
  for (const [to, { report: other }] of heard) {
    if (other.running !== "down" || to === joining.server) continue;
    turn.effects.push({
      do: "send",
      to,
      body: { verb: "request_status", parameters: { because: clip(`${name} is a member`) } },
      expiresMs: config.timing.reportIntervalMs,
    });
  }
}

/** Writes down a Primary view that is newer than the noted one. */
function noteView(turn: Turn, from: PartyId, report: Report): void {
  const { durable } = turn.state;
  if (turn.state.observing !== null) return;
  if (report.primary !== "yes" || report.fingerprint === null) return;
  if (durable.noted?.fingerprint === report.fingerprint) return;
  const segment = voter(turn.state, from)?.segment;
  const joint = isJointHere(turn.state, namesOf(report));
  // While a segment holds an epoch, a lesser view of another one is not the cluster's.
  if (durable.grant !== null && durable.grant.segment !== segment && !joint) return;
  // A store that lost its memory has only the servers': one of them has served under a newer epoch.
  if (durable.noted === null && report.epochServed < newestServed(turn.state)) return;
  // A view of an older lineage, as of a server that slept through a promotion, is not newer either.
  if (report.epochServed < (durable.grant?.epoch ?? durable.noted?.epochServed ?? 0)) return;
  if (strangerIn(turn.state, report.fingerprint, turn.now) !== null) return;
  // An older view is told late: each newer Primary view has consumed a seqno.
  const sameState =
    durable.noted === null || durable.noted.fingerprint.startsWith(`${report.stateUuid}/`);
  if (durable.noted !== null && sameState && report.lastCommitted <= durable.noted.seqno) return;
  note(turn, {
    noted: {
      fingerprint: report.fingerprint,
      members: report.members.map((member) => member.name),
      seqno: report.lastCommitted,
      epochServed: report.epochServed,
    },
  });
  set(turn, { notedAt: turn.now });
  log(turn, "view_noted", {
    members: report.members.map((member) => member.name),
    seqno: report.lastCommitted,
    joint,
  });
}

/**
 * A member of that view which has been Primary all the time since it was last proven, beside the component that
 * the open epoch was granted to, while nobody of that component or under that epoch has: the view is of an older
 * lineage, whoever has come over to it. Null if there is none.
 */
function strangerIn(state: ArbitratorState, view: string | null, now: Millis): string | null {
  const { grant } = state.durable;
  if (grant === null || grant.order !== "done") return null;
  const component = componentOf(grant);
  const maxAgeMs = state.config.timing.suspectMs;
  let found: string | null = null;
  for (const { id, name } of state.config.servers) {
    const report = youngReport(state, id, { now, maxAgeMs });
    if (report === null || !isSettledIn(view, report)) continue;
    const { epochServed, gcommUuid, lastCommitted: seqno, stateUuid: uuid } = report;
    if (epochServed >= grant.epoch || component.includes(gcommUuid ?? "")) return null;
    if (isBeyond(state, epochServed, uuid === null ? null : { uuid, seqno })) found ??= name;
  }
  return found;
}

/** Galera's names of the members that the epoch was granted to. */
function componentOf({ expectedFingerprint, evicted }: Grant): readonly string[] {
  return fingerprintMembers(expectedFingerprint ?? "").filter(
    (uuid) => evicted?.includes(uuid) !== true,
  );
}

/** The newest epoch that any server says it has served under. */
function newestServed(state: ArbitratorState): number {
  let newest = 0;
  for (const { report } of state.heard.values()) newest = Math.max(newest, report.epochServed);
  return newest;
}

/** The holder serves: the promotion is complete. */
function completeGrant(turn: Turn, from: PartyId, report: Report): void {
  const { grant } = turn.state.durable;
  if (grant === null || grant.order === "done" || report.primary !== "yes") return;
  if (turn.state.config.serverById.get(from)?.segment !== grant.segment) return;
  // Who has only heard of the number has obeyed no order, which may never have left, and holds the epoch in no
  // other view than the one that it already had.
  const holds = grant.kind === "hold" && report.fingerprint === grant.expectedFingerprint;
  if ((holds ? report.epochSeen : report.epochServed) < grant.epoch) return;
  // Until the others are out, the view is still the one that they all are in.
  if (grant.kind === "evict" && report.fingerprint === grant.expectedFingerprint) return;
  complete(turn, grant);
}

function complete(turn: Turn, grant: Grant): void {
  if (grant.order === "done") return;
  const { noted } = turn.state.durable;
  note(turn, {
    grant: { ...grant, order: "done" },
    // The new lineage begins at the fork point, which a lost or forsaken side may be beyond.
    noted:
      noted === null || grant.forkPoint === null
        ? noted
        : { ...noted, seqno: Math.min(noted.seqno, grant.forkPoint.seqno) },
    changedSegment: turn.state.durable.changedSegment || grant.changesSegment,
  });
  // Reports from before the promotion stay young for so long: they ask for nothing any more.
  const orderPauseUntil = turn.now + turn.state.config.timing.suspectMs;
  set(turn, { undo: null, person: null, orderPauseUntil, refusals: 0 });
  if (grant.changesSegment) {
    set(turn, { windowUntil: turn.now + turn.state.config.timing.promotionWindowMs });
  }
  decided(turn, {
    rule: "promoted",
    because: `${grant.segment} serves under epoch ${grant.epoch}`,
    wouldChange: "a joint view closes the epoch",
  });
  log(turn, "promoted", { segment: grant.segment, epoch: grant.epoch });
}

/** A joint view closes the epoch once half of every segment report Synced in it. */
function closeEpoch(turn: Turn, report: Report): void {
  const { state, now } = turn;
  const { grant, noted } = state.durable;
  if (grant === null || noted === null || report.fingerprint !== noted.fingerprint) return;
  if (!isJointHere(state, new Set(noted.members))) return;
  if (strangerIn(state, noted.fingerprint, now) !== null) return;
  // What an order that is out will have come to is not known yet: refused, it is void, its fork point too.
  const ordered = grant.kind === "form" || grant.kind === "evict";
  if (ordered && grant.order === "given" && now < state.orderPauseUntil) return;
  // The view came to life again, but an order to evict the others may still be on its way.
  const { orderMaxAgeMs, marginMs } = state.config.timing;
  const obeyedUntil = state.evictedAt + orderMaxAgeMs + EVICT_DEADLINE_MS + marginMs;
  if (noted.fingerprint === grant.expectedFingerprint && now < obeyedUntil) return;
  const agreed = new Set<string>();
  for (const server of voters(state)) {
    const young = youngReport(state, server.id, { now, maxAgeMs: state.config.timing.suspectMs });
    // A view whose commits hang is about to break: it closes nothing.
    const inView =
      young?.fingerprint === noted.fingerprint &&
      young.localState === "Synced" &&
      young.probe !== "hanging";
    if (inView) agreed.add(server.name);
  }
  if (!isJointHere(state, agreed)) return;
  const fate = fateOf(state, grant, { noted, now });
  if (fate === "unheard") return;
  const epochs = fate === "unobeyed" ? { epochs: withoutFork(state, grant) } : {};
  note(turn, { grant: null, ...epochs });
  decided(turn, {
    rule: "epoch.closed",
    because: `both sides are in one view again: epoch ${grant.epoch} of ${grant.segment} is over`,
    wouldChange: "the next fault",
  });
  log(turn, "epoch_closed", { epoch: grant.epoch, segment: grant.segment });
}

/**
 * What became of an order that is out. unheard: the one that it was for, a member of the noted view whose watchdog
 * speaks, has not told of that view yet, and its next report says it. unobeyed: that one stands in the noted view
 * under an older epoch, so nobody will obey: its fork point would leave everybody beyond it.
 */
function fateOf(
  state: ArbitratorState,
  grant: Grant,
  facts: { readonly noted: NotedView; readonly now: Millis },
): "unheard" | "unobeyed" | "settled" {
  const { noted, now } = facts;
  const maxAgeMs = state.config.timing.suspectMs;
  const report = youngReport(state, grant.target, { now, maxAgeMs });
  if (grant.order !== "given" || report === null) return "settled";
  const name = state.config.serverById.get(grant.target)?.name ?? "";
  if (report.fingerprint !== noted.fingerprint)
    return noted.members.includes(name) ? "unheard" : "settled";
  const begins = grant.kind === "form" || grant.kind === "bootstrap";
  return begins && report.epochServed < grant.epoch ? "unobeyed" : "settled";
}

/** The epochs with that grant's number as one under which nothing has forked. */
function withoutFork({ durable }: ArbitratorState, { epoch, segment }: Grant): EpochRecord[] {
  return durable.epochs.map((record) => (record.epoch === epoch ? noFork(epoch, segment) : record));
}

/** The outcome of an order. */
function learnOutcome(turn: Turn, event: Answered): void {
  const { state, now } = turn;
  const { grant } = state.durable;
  const { sent, reply } = event;
  if (sent.verb === "evict") {
    if ("uuids" in sent.parameters && reply.verb === "ack")
      learnEviction(turn, event.by, { order: sent.parameters, ack: reply.parameters });
    return;
  }
  if (sent.verb === "reseed") {
    if ("epoch" in sent.parameters && reply.verb === "ack") learnReseed(turn, event.by, reply);
    return;
  }
  if (sent.verb !== "make_primary" && sent.verb !== "bootstrap") return;
  if (!("epoch" in sent.parameters) || reply.verb !== "ack" || grant === null) return;
  if (sent.parameters.epoch !== grant.epoch || event.by !== grant.target) return;
  const { outcome, because } = reply.parameters;
  log(turn, "order_answered", { epoch: grant.epoch, target: event.by, outcome, because });
  switch (outcome) {
    case "ok":
      // A bootstrapped server is only starting: its Primary report completes the grant.
      if (sent.verb === "make_primary") complete(turn, grant);
      return;
    case "refused":
      makeVoid(turn, grant);
      return;
    case "failed":
      set(turn, { orderPauseUntil: now + ORDER_PAUSE_MS });
      return;
    default:
      unreachable(outcome);
  }
}

/** A person was told that it is ordered: what the server says to it is in status and history. */
function learnReseed(turn: Turn, by: PartyId, { parameters }: { readonly parameters: Ack }): void {
  const { outcome, because } = parameters;
  log(turn, "order_answered", { order: "reseed", target: by, outcome, because });
  const name = turn.state.config.serverById.get(by)?.name ?? by;
  decided(turn, {
    rule: "order.reseed",
    because: clip(`${name}: ${outcome}: ${because}`),
    wouldChange: "another order",
  });
}

/** An order refused is void, its fork point too; its number is used up all the same. */
function makeVoid(turn: Turn, grant: Grant): void {
  const { state, now } = turn;
  if (state.undo !== null) {
    const { undo } = state;
    const next = grant.epoch + 1;
    note(turn, {
      ...undo,
      // An earlier holder goes on as the newest: servers have heard of the number that is void.
      ...(undo.grant === null ? {} : { epoch: next, grant: { ...undo.grant, epoch: next } }),
      // Whoever was about to obey may have said, and whoever is told of the number may say, that it serves
      // under it.
      epochs: [
        ...withoutFork(state, { ...grant, segment: undo.primarySegment }),
        ...(undo.grant === null ? [] : [noFork(next, undo.grant.segment)]),
      ].slice(-EPOCHS_MAX),
    });
  }
  set(turn, {
    undo: null,
    orderPauseUntil:
      now + Math.min(REFUSED_PAUSE_MAX_MS, REFUSED_PAUSE_MS * 2 ** Math.min(state.refusals, 10)),
    refusals: state.refusals + 1,
  });
}

/** The outcome of an order to evict: void only where every receiver has refused it. */
function learnEviction(
  turn: Turn,
  by: PartyId,
  answer: { readonly order: Evict; readonly ack: Ack },
): void {
  const { state, now } = turn;
  const { grant } = state.durable;
  const { order, ack } = answer;
  const { outcome, because } = ack;
  log(turn, "order_answered", { epoch: order.epoch, target: by, outcome, because });
  if (order.grant === null || grant?.epoch !== order.epoch || grant.order === "done") return;
  if (outcome === "ok") {
    complete(turn, grant);
    return;
  }
  if (outcome === "failed") {
    set(turn, { orderPauseUntil: now + ORDER_PAUSE_MS });
    return;
  }
  const evicting = state.evicting.filter((id) => id !== by);
  set(turn, { evicting });
  if (evicting.length === 0 && state.evicting.length > 0) makeVoid(turn, grant);
}

/** Judges every segment anew, and grants where every rule passes. */
function decide(turn: Turn): void {
  const { now } = turn;
  closeWindow(turn);
  tendSwitchover(turn);
  const verdicts = new Map<string, Verdict>();
  let waiting = false;
  let granted = false;
  const outage = chooseBootstrap(turn.state, now);
  for (const segment of turn.state.config.segments) {
    const { facts, verdict: judged } = judgeByAll(turn, segment.name);
    const waits = isForOutage(turn.state, { facts, verdict: judged }) && outage.is === "waiting";
    const verdict = waits ? outage.verdict : judged;
    verdicts.set(segment.name, verdict);
    record(turn, segment.name, verdict);
    if (verdict.rule === PROMOTE) {
      grantTo(turn, facts);
      granted = true;
    } else if (facts.candidate !== null) waiting = true;
  }
  // While the rules before still count, nobody is evicted by one of the two alone.
  if (!granted && turn.state.former === null) evictFew(turn);
  if (outage.is === "ready" && !granted) waiting = !bootstrapFrom(turn, outage) || waiting;
  set(turn, { verdicts, lookAt: waiting ? now + LOOK_MS : nextTimed(turn) });
}

/** A verdict with the facts that it was judged by. */
interface Judged {
  readonly facts: Facts;
  readonly verdict: Verdict;
}

/**
 * The verdict on a segment, while the rules before still count by both: each must promote the same
 * component, or call the view joint that it is Primary in. In a joint view half of every segment is
 * inside, so no majority is left outside that the rules in question could promote.
 */
function judgeByAll({ state, now }: Turn, segment: string): Judged {
  const present = judgeBy(state, segment, now);
  const { former } = state;
  if (former === null) return present;
  const before = judgeBy({ ...state, config: former.config }, segment, now);
  const promote = (judged: Judged) => judged.verdict.rule === PROMOTE;
  if (promote(before) && !promote(present)) {
    return holdsJoint(before.facts, state.config) ? before : present;
  }
  if (!promote(present) || holdsJoint(present.facts, former.config)) return present;
  const words = `by config version ${former.mark.version}, which still counts`;
  const same = before.facts.candidate?.fingerprint === present.facts.candidate?.fingerprint;
  if (promote(before) && same) return present;
  const { rule, because, wouldChange } = before.verdict;
  return {
    ...present,
    verdict: promote(before)
      ? { rule: "rank.best", because: `${words}, another component comes first`, wouldChange }
      : { rule, because: clip(`${words}: ${because}`), wouldChange },
  };
}

function judgeBy(state: ArbitratorState, segment: string, now: Millis): Judged {
  const facts = factsOf(state, segment, now);
  return { facts, verdict: judge(facts) };
}

/** Is the component Primary already, in a view that is joint by that config. */
function holdsJoint({ candidate }: Facts, config: ClusterConfig): boolean {
  const report = candidate?.reporting[0]?.report;
  return report !== undefined && candidate?.kind === "hold" && isJoint(config, namesOf(report));
}

/** A deadline after which a verdict may change though nobody speaks. */
function nextTimed(turn: Turn): Millis {
  const { state, now } = turn;
  let next = Number.POSITIVE_INFINITY;
  for (const at of [state.armedAt, state.windowUntil, formerUntil(state)]) {
    if (now < at) next = Math.min(next, at);
  }
  return next;
}

/** Forgets a change of segment once its window is over, so that a restart does not open it anew. */
function closeWindow(turn: Turn): void {
  const { state, now } = turn;
  if (!state.durable.changedSegment || now < state.windowUntil || state.observing !== null) return;
  note(turn, { changedSegment: false });
}

/** Keeps a verdict that differs from the segment's last one by its rule. */
function record(turn: Turn, segment: string, verdict: Verdict): void {
  if (turn.state.verdicts.get(segment)?.rule === verdict.rule) return;
  decided(turn, { ...verdict, because: clip(`${segment}: ${verdict.because}`) });
  const evidence = evidenceOf(turn.state, turn.now);
  log(turn, "verdict", { segment, ...verdict, evidence });
}

/** Opens an epoch for the candidate, and orders it where an order is needed. */
function grantTo(turn: Turn, facts: Facts): void {
  const { state, now } = turn;
  const { candidate, segment } = facts;
  if (candidate === null) return;
  // By id: the facts may be of the rules before.
  const active = new Set(activeServers(state, segment).map(({ id }) => id));
  const able = candidate.reporting.filter((each) => active.has(each.server.id));
  const [first] = able;
  if (first === undefined) return;
  // Its rows are the base: whoever may have some beyond a fork point comes last.
  const rank = ({ report }: Reporter) =>
    stoodBeyond(state, report) ? Number.NEGATIVE_INFINITY : report.lastCommitted;
  const chosen = able.reduce((best, each) => (rank(each) > rank(best) ? each : best), first);
  const epoch = state.durable.epoch + 1;
  const kind = candidate.kind === "stall" ? "hold" : candidate.kind;
  const grant: Grant = {
    epoch,
    segment,
    kind,
    target: chosen.server.id,
    expectedFingerprint: candidate.fingerprint,
    forkPoint: candidate.forkPoint,
    basis: facts.basis,
    order: "given",
    ...(kind === "evict" ? { evicted: candidate.evicts } : {}),
    changesSegment: facts.person === null && segment !== state.durable.primarySegment,
  };
  const { noted } = state.durable;
  open(turn, grant);
  if (kind === "hold") {
    // They are Primary, or will be without an order: they need only hear of the grant.
    for (const { server } of candidate.reporting) {
      emit(turn, {
        do: "send",
        to: server.id,
        body: { verb: "request_status", parameters: { because: `epoch ${epoch} is yours` } },
        expiresMs: state.config.timing.ackTimeoutMs,
      });
    }
    return;
  }
  set(turn, { orderPauseUntil: now + state.config.timing.orderMaxAgeMs });
  if (kind === "evict") {
    const { forkPoint, reporting } = candidate;
    set(turn, { evictedAt: now, evicting: reporting.map(({ server }) => server.id) });
    orderEvictions(turn, reporting, ({ server }) => ({
      epoch,
      uuids: [...candidate.evicts],
      expectedFingerprint: candidate.fingerprint,
      because: clip(`${segment}: ${facts.basis}`),
      grant: { segment, forkPoint, basis: facts.basis, forms: server.id === chosen.server.id },
    }));
    return;
  }
  emit(turn, {
    do: "send",
    to: chosen.server.id,
    body: {
      verb: "make_primary",
      parameters: {
        epoch,
        storeId: state.durable.storeId,
        reportNumber: chosen.report.reportNumber,
        because: clip(`${segment}: ${facts.basis}`),
        segment,
        expectedFingerprint: candidate.fingerprint,
        notedView: noted?.fingerprint ?? null,
        forkPoint: candidate.forkPoint,
        basis: facts.basis,
      },
    },
    expiresMs: state.config.timing.orderMaxAgeMs,
  });
}

/** Orders every one of them, each on its own report: an eviction that one does not know of takes 5 s. */
function orderEvictions(
  turn: Turn,
  part: readonly Reporter[],
  orderFor: (each: Reporter) => Omit<Evict, "storeId" | "reportNumber">,
): void {
  const { storeId } = turn.state.durable;
  for (const each of part) {
    const { reportNumber } = each.report;
    emit(turn, {
      do: "send",
      to: each.server.id,
      body: { verb: "evict", parameters: { ...orderFor(each), storeId, reportNumber } },
      expiresMs: turn.state.config.timing.orderMaxAgeMs,
    });
  }
}

/** Members that nobody hears, where the others keep joint view and quorum: that needs no grant. */
function evictFew(turn: Turn): void {
  const { state, now } = turn;
  const { durable, evictedFew } = state;
  const barred =
    state.observing !== null ||
    state.diskError !== null ||
    durable.paused !== null ||
    durable.noted === null ||
    now < state.armedAt ||
    now < state.orderPauseUntil;
  if (barred) return;
  const found = evictionOfFew(state, now);
  if (found === null) return;
  const view = durable.noted?.fingerprint ?? "";
  if (evictedFew?.view === view && now < evictedFew.at + EVICT_DEADLINE_MS) return;
  set(turn, { evictedFew: { view, at: now } });
  log(turn, "evicting", { uuids: found.uuids, by: found.part.map(({ server }) => server.name) });
  orderEvictions(turn, found.part, () => ({
    epoch: durable.epoch,
    uuids: [...found.uuids],
    expectedFingerprint: view,
    because: "nobody hears them, and commits hang",
    grant: null,
  }));
}

/** Writes an epoch down. */
function open(turn: Turn, grant: Grant): void {
  const { durable } = turn.state;
  set(turn, { undo: { grant: durable.grant, primarySegment: durable.primarySegment } });
  note(turn, {
    epoch: grant.epoch,
    grant,
    epochs: [
      ...durable.epochs,
      {
        epoch: grant.epoch,
        segment: grant.segment,
        forkPoint: grant.forkPoint,
        ...(turn.state.mark === null ? {} : { configVersion: turn.state.mark.version }),
      },
    ].slice(-EPOCHS_MAX),
    primarySegment: grant.segment,
  });
  log(turn, "epoch_opened", { ...grant, evidence: evidenceOf(turn.state, turn.now) });
}

/** After a full outage: bootstraps the chosen server. False while a rule forbids it. */
function bootstrapFrom(
  turn: Turn,
  outage: Extract<ReturnType<typeof chooseBootstrap>, { is: "ready" }>,
): boolean {
  const { state, now } = turn;
  const { server, report, position, forced } = outage;
  const forkPoint = forkOf(state, outage);
  const basis = forced ? "forced" : "confirmed";
  const barred =
    state.observing !== null ||
    state.diskError !== null ||
    (state.durable.paused !== null && !outage.forced) ||
    now < state.armedAt ||
    now < state.orderPauseUntil ||
    !isFirstBefore(state, server.id, now);
  if (barred) return false;
  const epoch = state.durable.epoch + 1;
  // A survivor that runs forms the Primary where it is; a stopped one has to be started for it.
  const runs = report.running === "up";
  open(turn, {
    epoch,
    segment: server.segment,
    kind: runs ? "form" : "bootstrap",
    target: server.id,
    expectedFingerprint: report.fingerprint,
    forkPoint,
    basis,
    order: "given",
    changesSegment: false,
  });
  if (runs) {
    set(turn, { orderPauseUntil: now + state.config.timing.orderMaxAgeMs });
    emit(turn, {
      do: "send",
      to: server.id,
      body: {
        verb: "make_primary",
        parameters: {
          epoch,
          storeId: state.durable.storeId,
          reportNumber: report.reportNumber,
          because: clip(`full outage: ${server.name} survives and is the most advanced`),
          segment: server.segment,
          expectedFingerprint: report.fingerprint ?? "",
          notedView: state.durable.noted?.fingerprint ?? null,
          forkPoint,
          basis,
        },
      },
      expiresMs: state.config.timing.orderMaxAgeMs,
    });
    return true;
  }
  // Starting takes longer than forming: a process has to come up and recover.
  set(turn, { orderPauseUntil: now + BOOTSTRAP_MS });
  emit(turn, {
    do: "send",
    to: server.id,
    body: {
      verb: "bootstrap",
      parameters: {
        epoch,
        storeId: state.durable.storeId,
        reportNumber: report.reportNumber,
        because: clip(`full outage: ${server.name} is the most advanced at ${position.seqno}`),
        position,
      },
    },
    expiresMs: state.config.timing.orderMaxAgeMs,
  });
  return true;
}

/** Would the rules before, while they still count, begin with that server too. */
function isFirstBefore(state: ArbitratorState, id: PartyId, now: Millis): boolean {
  if (state.former === null) return true;
  const before = chooseBootstrap({ ...state, config: state.former.config }, now);
  return before.is === "ready" && before.server.id === id;
}

/** A bootstrapped server reports Primary within this, or another order is given. */
const BOOTSTRAP_MS = 30_000;

/** Replies to a message, after the decision that it may have brought about. */
function answer(turn: Turn, event: Arrived<"arbitrator">): void {
  if (event.body.verb === "db_status_report")
    answerReport(turn, event.from, event.body.parameters, event.ticket);
  else if (event.body.verb === "status_summary") {
    const parameters = summarize(turn.state, turn.now);
    turn.effects.push({
      do: "reply",
      ticket: event.ticket,
      body: { verb: "status_summary", parameters },
    });
  } else if (event.body.verb === "snapshot") {
    const parameters = snapshotOf(turn.state, turn.now);
    turn.effects.push({
      do: "reply",
      ticket: event.ticket,
      body: { verb: "snapshot", parameters },
    });
  }
}

/** Hands on what the event log has. */
function tellHistory(
  turn: Turn,
  event: { readonly ticket: number; readonly result: HistoryResult },
): void {
  const { ticket, result } = event;
  if ("error" in result) {
    reply(turn, ticket, { outcome: "failed", because: clip(`the event log: ${result.error}`) });
    return;
  }
  const parameters = { events: result.events, illness: turn.state.eventLog };
  turn.effects.push({ do: "reply", ticket, body: { verb: "history", parameters } });
}

/** Acknowledges a report, with a promise where the rules allow one. */
function answerReport(turn: Turn, from: PartyId, report: Report, ticket: number): void {
  const { state, now } = turn;
  const epoch = promiseFor(state, from, { report, now });
  const view = report.fingerprint;
  const ms = state.config.timing.leaseMs;
  const promise = typeof epoch === "string" || view === null ? null : { ms, view, epoch };
  if (promise !== null) {
    set(turn, {
      promisedAt: new Map(state.promisedAt).set(from, now),
      longestPromiseMs: Math.max(state.longestPromiseMs, ms),
    });
  }
  const start = startVerdict(state, from, { report, now });
  if (report.running === "down" && start !== "wait") {
    set(turn, joiningAfter(state, from, now));
  }
  const parameters: Ack = {
    outcome: "ok",
    because: typeof epoch === "string" ? clip(epoch) : "",
    promise,
    epochServed: null,
    writer: null,
    // One that has forgotten epochs would prove in line whoever is not.
    arbitrator:
      state.observing !== null
        ? null
        : {
            storeId: state.durable.storeId,
            epoch: state.durable.epoch,
            primarySegment: state.durable.primarySegment,
            epochs: epochsAfter(state, report.epochServed),
            ...standingFor(state, from, now),
            retired: [...state.durable.retired],
            ...(state.mark === null ? {} : { config: state.mark }),
            ...wishesFor(state, from),
            start,
            ...(start === "reseed" ? { donors: donorsFor(state, now) } : {}),
          },
  };
  // A promise rests on the noted view, and a server remembers the epochs that it is told of: after
  // a crash a store without them would look older than the servers.
  emit(turn, { do: "reply", ticket, body: { verb: "ack", parameters } });
}

/** The epoch of the promise that a report earns, null for a joint view; words if it earns none. */
function promiseFor(
  state: ArbitratorState,
  from: PartyId,
  options: { readonly report: Report; readonly now: Millis },
): number | null | string {
  const { report, now } = options;
  const { grant } = state.durable;
  const segment = voter(state, from)?.segment;
  const names = namesOf(report);
  if (state.observing !== null) return `no promise: ${state.observing}`;
  if (state.diskError !== null) return `no promise: ${state.diskError}`;
  if (report.primary !== "yes") return "no promise: not Primary";
  if (grant !== null && grant.segment === segment) {
    if (!holdsMajorityHere(state, grant.segment, names) && !isJointHere(state, names)) {
      return "no promise: less than half of the segment is in the view";
    }
    const stranger = strangerIn(state, report.fingerprint, now);
    if (stranger !== null)
      return `no promise: ${stranger} was Primary beside epoch ${grant.epoch}, and this view is its`;
    return isOfGrant(state, grant, options)
      ? grant.epoch
      : `no promise: this view is not known to come of epoch ${grant.epoch}`;
  }
  if (grant !== null) return `no promise: ${grant.segment} holds epoch ${grant.epoch}`;
  if (!isJointHere(state, names)) return "no promise: Primary alone without a grant";
  const maxAgeMs = state.config.timing.suspectMs;
  if (report.probe === "hanging") return "no promise: commits hang";
  const flows = ({ servers }: SegmentConfig): boolean => {
    let count = 0;
    for (const server of servers) {
      const young = youngReport(state, server.id, { now, maxAgeMs });
      if (young?.fingerprint === report.fingerprint && young.probe !== "hanging") count++;
    }
    return 2 * count >= servers.length;
  };
  const { config, former } = state;
  const flowing = config.segments.every(flows) && former?.config.segments.every(flows) !== false;
  return flowing ? null : "no promise: commits flow at less than half of a segment";
}

/**
 * Is the view that of the grant's component, or one that came of it? Another server of the segment may
 * still stand in the view from before, whose side Galera may keep Primary once it has given up on the
 * component: the promise is not for that one.
 */
function isOfGrant(
  state: ArbitratorState,
  grant: Grant,
  options: { readonly report: Report; readonly now: Millis },
): boolean {
  const { report, now } = options;
  const { noted, retired } = state.durable;
  if (noted?.fingerprint === report.fingerprint && noted.epochServed >= grant.epoch) return true;
  const component = componentOf(grant);
  if (report.gcommUuid !== null && component.includes(report.gcommUuid)) return true;
  // More than half of the segment left the view from before for the component's.
  const maxAgeMs = state.config.timing.suspectMs;
  let counted = 0;
  let here = 0;
  for (const server of state.config.servers) {
    if (server.segment !== grant.segment || retired.includes(server.id)) continue;
    counted++;
    const young = youngReport(state, server.id, { now, maxAgeMs });
    if (young?.primary === "yes" && young.fingerprint === report.fingerprint) here++;
  }
  return 2 * here > counted;
}
