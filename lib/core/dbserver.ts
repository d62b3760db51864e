/**
 * The server watchdog's core: keeps asking its mariadbd how it is, tells everybody, closes the door
 * when it has no right to serve, opens it when it has, and obeys the arbitrator's orders.
 * Invariant: the door is opened only under a right, proven lineage and a durable epochServed; an
 * order is obeyed only after its epoch is on disk.
 */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import { unreachable } from "../errors.ts";
import type { Ack, ConfigMark, Position, Report } from "../message/dbserver.ts";
import { type PartyId, partyType } from "../message/envelope.ts";
import type { WsrepStatus } from "../wsrep_status.ts";
import {
  fingerprintMembers,
  isJoint,
  majorityBeside,
  namesIn,
  UNSPECIFIED,
  unknownView,
} from "../wsrep_status.ts";
import { isUnknownFork } from "./arbitrator_state.ts";
import type { Answered, Core, Millis, Step } from "./core.ts";
import {
  asideChanged,
  asideDueAt,
  asideInitial,
  hearAside,
  hearWishes,
  tendAside,
} from "./dbserver_aside.ts";
import {
  bringsEvidence,
  endedMembers,
  evict,
  evictDueAt,
  evictTold,
  goesThrough,
  listen,
} from "./dbserver_evict.ts";
import type { DbServerEffect, DbServerEvent, ServerDurable } from "./dbserver_io.ts";
import {
  continueEviction,
  continueOrder,
  donorFor,
  formed,
  hearOrder,
  orderWritten,
} from "./dbserver_orders.ts";
import { buildReport, clientsInTurn, differs, newsOf } from "./dbserver_report.ts";
import {
  type DbServerState,
  FAILED_STARTS_MAX,
  isHeavy,
  knowsNewer,
  knowsNoneNewer,
  leaseOf,
  lineageOf,
  memberNames,
  rightOf,
  servesUnder,
  stoodAt,
  viewOf,
  vouchMs,
} from "./dbserver_state.ts";
import { ack, keep, log, serveUnder, set, type Turn } from "./dbserver_turn.ts";

/** How a process starts. */
export interface DbServerStart {
  readonly config: ClusterConfig;
  readonly self: DbServerConfig;
  /** At which URL others reach this process. */
  readonly url: string;
  readonly minderVersion: string;
  readonly durable: ServerDurable;
  /** Guards can be run beside this server. @default false */
  readonly guards?: boolean;
  /** The document that the config is of, and a newer one that is held; absent for a site file. */
  readonly documents?: Report["config"];
}

type DbServerCore = Core<DbServerState, DbServerEvent, DbServerEffect> & {
  initial(now: Millis): DbServerState;
};

/** Reports whose sending time is remembered, for orders that quote them. */
const SENT_MAX = 256;
/** A write that failed is tried again. */
const WRITE_AGAIN_MS = 1_000;
/** One list for all: what is the same has the same identity. */
const NO_DONORS: readonly PartyId[] = [];
/** Waits between starts that failed: doubled from the first, up to the last. */
const RESTART_FIRST_MS = 1_000;
const RESTART_MAX_MS = 30_000;
/** Losing Primary and coming back takes mariadbd about a second (measured); less cannot hide it, whatever the view says. */
const UNWATCHED_MS = 1_000;
/** While the view changes under the poll. */
const FLUX_POLL_MS = 5;
/** While an order is carried out: the new view comes 10 to 50 ms after the statement. */
const FORM_POLL_MS = 5;
/** Polls that wait for a fresh answer, at most. */
const WAITING_MAX = 64;

export function dbServerCore(start: DbServerStart): DbServerCore {
  return { initial: (now) => initial(start, now), step, dueAt };
}

function initial(start: DbServerStart, now: Millis): DbServerState {
  const never = Number.NEGATIVE_INFINITY;
  const forever = Number.POSITIVE_INFINITY;
  // Every field by its name: an object that is written out as one literal is copied fastest.
  return {
    config: start.config,
    self: start.self,
    url: start.url,
    minderVersion: start.minderVersion,
    durable: start.durable,
    documents: start.documents,
    adopting: null,
    removed: false,
    written: start.durable,
    writing: false,
    writeAgainAt: now,
    process: { is: "unknown" },
    handling: null,
    leaving: false,
    failedStarts: 0,
    startOrders: 0,
    aside: asideInitial(now),
    startAt: now,
    stoppedAt: now,
    startedAt: never,
    adoptedUntil: never,
    status: null,
    polledAt: never,
    polling: false,
    pollAgain: false,
    pollAt: now,
    pollError: null,
    askedAt: never,
    flowControl: 0,
    viewSince: now,
    lastPrimary: null,
    gcommUuid: null,
    gcommOf: null,
    ended: null,
    silent: [],
    listeningSince: now,
    apart: false,
    apartAt: never,
    steppedAt: now,
    evidenceAt: never,
    evictList: [],
    telling: null,
    toldListAt: never,
    evictSince: forever,
    evictAgainAt: never,
    evictSpent: [],
    tuneAt: never,
    probe: "off",
    held: true,
    probing: false,
    probeAt: now,
    flowedAt: never,
    hungAtSeqno: -1,
    suspendedAt: never,
    vainSince: forever,
    closedSince: forever,
    closures: 0,
    position: null,
    safeToBootstrap: false,
    positionRead: false,
    closed: false,
    gating: null,
    gatedAt: never,
    lapseAt: forever,
    killAt: forever,
    fenceWantedAt: forever,
    guards: start.guards === true,
    guard: false,
    guardTold: null,
    promises: new Map(),
    peerEpochs: new Map(),
    peers: new Map(),
    clientWriters: new Map(),
    grantEpoch: null,
    // Promises of an earlier life are outwaited, so they need not be durable.
    vouchedUntil: now + start.config.outwaitMs,
    arbitratorAt: never,
    toldAt: never,
    promisedEpoch: 0,
    epochs: [],
    draining: false,
    yielding: false,
    cutting: false,
    retired: [],
    primarySegment: null,
    startVerdict: "wait",
    donors: NO_DONORS,
    diverged: false,
    reseedFor: null,
    adopted: false,
    foundAt: null,
    sharedEpoch: 0,
    hosts: [],
    proven: false,
    order: null,
    eviction: null,
    startOrder: null,
    waiting: [],
    reportNumber: 0,
    sent: [],
    lastReport: null,
    reportAt: now,
    clientTurn: 0,
  };
}

function dueAt(state: DbServerState): Millis {
  let due = Math.min(state.reportAt, state.lapseAt, state.killAt, evictDueAt(state));
  due = Math.min(due, asideDueAt(state));
  if (state.process.is === "running") {
    if (!state.polling) due = Math.min(due, state.pollAt);
    if (!state.probing && mayProbe(state)) due = Math.min(due, state.probeAt);
  }
  if (verdictOnStart(state) !== null) due = Math.min(due, state.startAt);
  if (state.written !== state.durable && !state.writing) due = Math.min(due, state.writeAgainAt);
  if (state.order !== null) due = Math.min(due, state.order.tryAgainAt);
  return due;
}

function step(
  state: DbServerState,
  event: DbServerEvent,
  now: Millis,
): Step<DbServerState, DbServerEffect> {
  const turn: Turn = { state, effects: [], now };
  switch (event.on) {
    case "wakeup":
      break;
    case "message":
      hear(turn, event);
      break;
    case "answered":
      if (event.reply.verb === "ack") hearAck(turn, event, event.reply.parameters);
      break;
    case "suspended":
      // The promises may have been outlived: what this process counts as 1 s may have been an hour.
      set(turn, {
        suspendedAt: now,
        promises: new Map(),
        sent: [],
        pollAt: now,
        vouchedUntil: now + state.config.outwaitMs,
      });
      log(turn, "suspended", { forMs: event.forMs });
      break;
    case "process":
      hearProcess(turn, event.process);
      break;
    case "polled":
      hearPoll(turn, event);
      break;
    case "probed":
      hearProbe(turn, event);
      break;
    case "position":
      hearPosition(turn, event);
      break;
    case "formed":
      formed(turn, event);
      break;
    case "guarded":
      set(turn, { guard: event.alive });
      break;
    case "config":
      hearConfig(turn, event);
      break;
    case "aside":
      hearAside(turn, event);
      break;
    case "done":
      hearDone(turn, event.effect, event.error);
      break;
    default:
      return unreachable(event);
  }
  settle(turn);
  return { state: turn.state, effects: turn.effects };
}

/**
 * In a joint view in which commits pass, the others may have closed the epoch without this server's hearing of it: a
 * grant that no lease carries any more is no right to stay then.
 */
function doubtGrant(turn: Turn): void {
  const { grantEpoch, status, config, probe } = turn.state;
  if (grantEpoch === null || status?.primary !== true) return;
  if ((probe !== "flowing" && probe !== "held") || !isJoint(config, memberNames(status))) return;
  const lease = leaseOf(turn.state);
  if (lease !== null && lease.epoch === grantEpoch && turn.now < lease.until) return;
  set(turn, { grantEpoch: null });
}

/** What follows from the state, whatever the event was. */
function settle(turn: Turn): void {
  listen(turn);
  doubtGrant(turn);
  continueEviction(turn);
  continueOrder(turn);
  evict(turn);
  gate(turn);
  protect(turn);
  write(turn);
  if (turn.state.written === turn.state.durable) orderWritten(turn);
  // An order that may be obeyed from now on waits for nothing else.
  if (turn.state.eviction !== null) evict(turn);
  manage(turn);
  // Both may have changed what must not be forgotten.
  write(turn);
  look(turn);
  tendAside(turn);
  tell(turn);
}

// --- what is heard ---------------------------------------------------------------------------

function hear(turn: Turn, event: Extract<DbServerEvent, { on: "message" }>): void {
  const { body, from, ticket } = event;
  const { state, now } = turn;
  switch (body.verb) {
    case "db_status_report": {
      const report = body.parameters;
      if (bringsEvidence(state, state.peers.get(from)?.report, report)) {
        set(turn, { evidenceAt: now });
        pollNow(turn);
      }
      set(turn, { peers: new Map(state.peers).set(from, { report, at: now }) });
      see(turn, report.epochSeen);
      // A vouch is counted by the rules of whoever relies on it: they must be these.
      const ms = sameRules(state.documents?.active, report.config?.active)
        ? vouchMs(turn.state, report.fingerprint, now)
        : 0;
      const vouch = ms > 0;
      if (vouch)
        set(turn, { vouchedUntil: Math.max(state.vouchedUntil, now + state.config.outwaitMs) });
      ack(turn, ticket, {
        promise: vouch ? { ms, view: report.fingerprint ?? "", epoch: null } : null,
      });
      return;
    }
    case "request_status":
      // Answered by a poll that begins now or later: `tell` does it.
      set(turn, { waiting: [...state.waiting, { ticket, since: now }].slice(-WAITING_MAX) });
      pollNow(turn);
      return;
    case "wsrep_notify_cmd":
      pollNow(turn);
      ack(turn, ticket, {});
      return;
    case "make_primary":
    case "evict":
    case "bootstrap":
    case "start":
    case "reseed":
      hearOrder(turn, event);
      return;
    default:
      unreachable(body);
  }
}

/** A newer epoch was heard of. */
function see(turn: Turn, epoch: number): void {
  if (epoch > turn.state.durable.epochSeen) keep(turn, { epochSeen: epoch });
}

/** Do both go by the same voters and timings; unknown where either has a site file. */
function sameRules(one: ConfigMark | undefined, other: ConfigMark | undefined): boolean {
  return one === undefined || other === undefined || one.rules === other.rules;
}

/** Another document, or a newer one that waits. */
function hearConfig(turn: Turn, event: Extract<DbServerEvent, { on: "config" }>): void {
  const { state } = turn;
  const { config, mark, held } = event;
  const before = state.documents?.active;
  set(turn, { documents: { active: mark, held }, adopting: null });
  if (mark.checksum === before?.checksum) return;
  const self = config.serverById.get(state.self.id);
  log(turn, self === undefined ? "removed" : "config_taken", { version: mark.version });
  if (self === undefined) {
    // It leaves by the rules that it knows: those who stay need not hear of it any more.
    set(turn, { removed: true });
    return;
  }
  const ids = new Set<PartyId>([
    ...config.arbitrators.map(({ id }) => id),
    ...(sameRules(before, mark) ? config.servers.map(({ id }) => id) : []),
  ]);
  const kept = <Value>(map: ReadonlyMap<PartyId, Value>, known: (id: PartyId) => boolean) =>
    new Map([...map].filter(([id]) => known(id)));
  set(turn, {
    config,
    self,
    removed: false,
    // Vouches were given by other rules, and end by their timings; a lease is outwaited by both.
    promises: kept(state.promises, (id) => ids.has(id)),
    peers: kept(state.peers, (id) => config.serverById.has(id)),
    peerEpochs: kept(state.peerEpochs, (id) => config.serverById.has(id)),
    clientWriters: kept(state.clientWriters, (id) => config.clients.some((each) => each.id === id)),
  });
}

/** The arbitrator's word on the document in force. False if nothing that it promises counts here yet. */
function hearDocument(turn: Turn, named: ConfigMark | undefined): boolean {
  const { documents, adopting } = turn.state;
  if (named === undefined || sameRules(named, documents?.active)) return true;
  if (adopting?.checksum !== named.checksum) {
    set(turn, { adopting: named });
    turn.effects.push({ do: "adopt", mark: named });
  }
  // The rules before still count with the arbitrator; those that it has not put in force do not.
  return documents === undefined || documents.active.version < named.version;
}

function hearAck(turn: Turn, event: Answered, answer: Ack): void {
  const { sent, sentAt, by } = event;
  if (sent.verb !== "db_status_report" || !("reportNumber" in sent.parameters)) return;
  const { arbitrator } = answer;
  const promise = hearDocument(turn, arbitrator?.config) ? answer.promise : null;
  if (partyType(by) === "dbclient") {
    const { clientWriters, config } = turn.state;
    const known = config.clients.some(({ id }) => id === by);
    const said = { writer: answer.writer, at: sentAt };
    if (known) set(turn, { clientWriters: new Map(clientWriters).set(by, said) });
    return;
  }
  // Sent before the machine was suspended: how long ago that is, this clock cannot tell.
  if (sentAt <= turn.state.suspendedAt) return;
  const afterwards = promise?.epoch !== null || sentAt > turn.state.apartAt;
  if (promise !== null && afterwards && promise.view === sent.parameters.fingerprint) {
    const until = sentAt + promise.ms;
    const before = turn.state.promises.get(by);
    // Replies can overtake each other: a promise only ever lengthens what is held.
    if (before === undefined || until >= before.until) {
      set(turn, {
        promises: new Map(turn.state.promises).set(by, {
          until,
          epoch: promise.epoch,
          view: promise.view,
        }),
      });
    }
    const { grantEpoch } = turn.state;
    if (promise.epoch !== null) {
      set(turn, { grantEpoch: Math.max(grantEpoch ?? 0, promise.epoch) });
    } else if (grantEpoch !== null && arbitrator !== null && arbitrator.epoch >= grantEpoch) {
      // A promise for a joint view that knows of the grant: its epoch is closed, or was void.
      set(turn, { grantEpoch: null });
    }
  }
  const ofThisView =
    promise !== null &&
    promise.view === viewOf(turn.state.status) &&
    sentAt >= turn.state.viewSince;
  // Whoever vouches serves, and in this very view.
  if (partyType(by) === "dbserver" && ofThisView && answer.epochServed !== null) {
    const { peerEpochs } = turn.state;
    if (peerEpochs.get(by) !== answer.epochServed) {
      set(turn, { peerEpochs: new Map(peerEpochs).set(by, answer.epochServed) });
    }
  }
  if (arbitrator === null) return;
  see(turn, arbitrator.epoch);
  if (sentAt < turn.state.toldAt) return;
  const current = sent.parameters.fingerprint === viewOf(turn.state.status);
  if (arbitrator.draining !== turn.state.draining) {
    log(turn, arbitrator.draining ? "draining" : "drain_ended", { because: "a person's order" });
  }
  set(turn, {
    // An answer to a report of an earlier view says nothing about this one.
    arbitratorAt: current ? Math.max(turn.state.arbitratorAt, sentAt) : turn.state.arbitratorAt,
    epochs: arbitrator.epochs,
    promisedEpoch:
      promise === null
        ? turn.state.promisedEpoch
        : Math.max(
            turn.state.promisedEpoch,
            // What was never granted, as far as the arbitrator knows, is no epoch to serve under.
            promise.epoch ?? arbitrator.epochs.at(-1)?.epoch ?? 0,
          ),
    draining: arbitrator.draining,
    yielding: arbitrator.yielding,
    cutting: arbitrator.cutting,
    retired: arbitrator.retired,
    primarySegment: arbitrator.primarySegment,
    toldAt: sentAt,
    vainSince: vainAfter(turn, event, { sent: sent.parameters, verdict: arbitrator.start }),
    startVerdict: judgedOnPosition(turn.state, sent.parameters) ? arbitrator.start : "wait",
    donors: arbitrator.donors ?? NO_DONORS,
  });
  hearWishes(turn, arbitrator);
}

/**
 * Since when mariadbd waits, without a socket, for a Primary that is nowhere: started from gvwstate.dat
 * it does so without end (measured), and nobody can ask it where it stands.
 */
function vainAfter(
  { state, now }: Turn,
  event: Answered,
  answer: { readonly sent: Report; readonly verdict: string },
): Millis {
  const silent = state.process.is === "running" && state.status === null && state.closed;
  if (!silent || answer.sent.running !== "unknown" || answer.verdict !== "wait") {
    return Number.POSITIVE_INFINITY;
  }
  // While the arbitrator was out of reach somebody may have been there.
  const unbroken = event.sentAt - state.toldAt <= state.config.timing.leaseMs;
  return unbroken ? Math.min(state.vainSince, now) : now;
}

/** Was a report about this stopped server as it is now: a verdict on another position is void. */
function judgedOnPosition(state: DbServerState, sent: Report): boolean {
  if (sent.running !== "down" || !state.positionRead) return false;
  const { position } = state;
  return sent.position?.uuid === position?.uuid && sent.position?.seqno === position?.seqno;
}

function hearProcess(
  turn: Turn,
  process: Extract<DbServerEvent, { on: "process" }>["process"],
): void {
  const { state, now } = turn;
  const before = state.process;
  if (process.is === "running") {
    const same =
      before.is === "running" &&
      before.pid === process.pid &&
      before.startTime === process.startTime;
    if (same) return;
    const adopted = state.handling !== "start";
    set(turn, {
      process,
      handling: null,
      startedAt: now,
      adoptedUntil: adopted ? now + state.config.timing.fenceMs : now,
      status: null,
      vainSince: Number.POSITIVE_INFINITY,
      polledAt: Number.NEGATIVE_INFINITY,
      pollAt: now,
      position: null,
      positionRead: false,
      // What was under way concerned another process.
      gating: null,
      killAt: Number.POSITIVE_INFINITY,
      fenceWantedAt: Number.POSITIVE_INFINITY,
      // Started by this watchdog it is fenced from its first moment; an adopted one has to say.
      closed: !adopted,
      adopted,
      foundAt: null,
      sharedEpoch: 0,
      hosts: [],
      lastPrimary: null,
      leaving: false,
    });
    log(turn, "mariadbd_running", { pid: process.pid, adopted });
    return;
  }
  if (before.is === "stopped") return;
  const { gcommUuid, gcommOf } = state;
  const known =
    before.is === "running" &&
    gcommOf?.pid === before.pid &&
    gcommOf.startTime === before.startTime &&
    gcommUuid !== null;
  const reachedSynced = state.lastPrimary?.synced === true;
  const failed = before.is === "running" && !reachedSynced;
  const failedStarts = failed ? state.failedStarts + (foundNobody(state, now) ? 0 : 1) : 0;
  set(turn, {
    process,
    handling: null,
    leaving: false,
    failedStarts,
    startAt: now + restartWaitMs(failedStarts),
    stoppedAt: now,
    // Named only if this very process has said who it is in Galera.
    ended: known ? { uuid: gcommUuid, pid: before.pid, startTime: before.startTime } : state.ended,
    evictList: [],
    telling: null,
    evictSince: Number.POSITIVE_INFINITY,
    evictSpent: [],
    status: null,
    polledAt: Number.NEGATIVE_INFINITY,
    lastPrimary: null,
    probe: "off",
    held: true,
    closedSince: Number.POSITIVE_INFINITY,
    closed: true,
    gating: null,
    proven: false,
    adopted: false,
    foundAt: null,
    sharedEpoch: 0,
    hosts: [],
    startVerdict: "wait",
    position: null,
    positionRead: false,
  });
  log(turn, "mariadbd_stopped", { because: process.because, failedStarts });
}

/**
 * Has mariadbd waited as long as Galera waits for a Primary (pc.wait_prim_timeout), and been let in by nobody: its end
 * says nothing about itself. Whoever fails while it takes a state transfer is in the view of those that let it in.
 */
function foundNobody({ peers, self, startedAt, config }: DbServerState, now: Millis): boolean {
  if (now - startedAt < VAIN_MS) return false;
  return ![...peers.values()].some(
    ({ report, at }) =>
      now - at <= config.timing.suspectMs &&
      report.primary === "yes" &&
      namesIn(report.members).has(self.name),
  );
}

function restartWaitMs(failedStarts: number): Millis {
  if (failedStarts === 0) return 0;
  return Math.min(RESTART_MAX_MS, RESTART_FIRST_MS * 2 ** Math.min(failedStarts - 1, 10));
}

function hearPoll(turn: Turn, event: Extract<DbServerEvent, { on: "polled" }>): void {
  const { state, now } = turn;
  const { status, startedAt } = event;
  const ended = { polling: false, pollError: event.error, askedAt: startedAt };
  if (state.process.is !== "running" || status === null) {
    // One that has not opened its socket since it was found lets no client in.
    const shut = event.unreachable && state.status === null && state.gating === null;
    set(turn, {
      ...ended,
      pollAt: now + state.config.timing.pollFastMs,
      closed: state.closed || shut,
    });
    return;
  }
  if (inFlux(status)) {
    // Neither the old view nor the new one: what is known stays known until the next poll, and goes
    // stale with its age like any other silence.
    set(turn, { ...ended, pollAt: now + FLUX_POLL_MS });
    return;
  }
  const before = state.status;
  const view = viewOf(status);
  const changed = view !== viewOf(before);
  // A view that broke and healed while nobody looked has the very same members again, but not its number.
  const late = before !== null && startedAt - state.polledAt > UNWATCHED_MS;
  const unwatched = late && (changed || status.confId === null || status.confId !== before.confId);
  // Nobody receives who has been Primary all the time: it has left and come back between two polls.
  const wasAway = before?.primary === true && receives(status) && !receives(before);
  const anew = changed || unwatched || wasAway;
  const stood = status.stateUuid ?? before?.stateUuid ?? null;
  if (before !== null && !wasAway && hasMet(state, status) && stood !== null) {
    // What it had of its own until then has to be proven; what came since is the view's.
    leave(turn, { uuid: stood, seqno: before.lastCommitted });
  } else if (before?.primary === true && (wasAway || !status.primary) && stood !== null) {
    leave(turn, { uuid: stood, seqno: Math.max(status.lastCommitted, before.lastCommitted) });
  } else if (standsApart(status) && stood !== null) {
    // What was delivered at the change of view is applied after it: the position goes on for a moment.
    leave(turn, { uuid: stood, seqno: status.lastCommitted });
  }
  if ((state.adopted || unwatched || wasAway) && stood !== null && status.lastCommitted >= 0) {
    // Its watchdog did not see it leave Primary, if it did: where it stands must be proven, its door open or not.
    set(turn, { adopted: false, foundAt: { uuid: stood, seqno: status.lastCommitted } });
  }
  const probe = probeAfter(state, status, { changed });
  const hosts = hostsAfter(state, status, { anew: wasAway || unwatched });
  const closed =
    startedAt > state.gatedAt && state.gating === null ? status.rejecting : state.closed;
  set(turn, {
    ...ended,
    status,
    polledAt: startedAt,
    pollAt: now + pollIntervalMs(state, { status, probe, closed }),
    gcommUuid: status.gcommUuid ?? state.gcommUuid,
    evidenceAt: startedAt >= state.evidenceAt ? Number.NEGATIVE_INFINITY : state.evidenceAt,
    gcommOf: status.gcommUuid === null ? state.gcommOf : state.process,
    evictList:
      startedAt >= state.toldListAt ? sameList(state.evictList, status.evictList) : state.evictList,
    evictSpent: changed ? [] : state.evictSpent,
    flowControl: pausedShare(before, status, now - state.polledAt),
    viewSince: anew ? startedAt : state.viewSince,
    // What the arbitrator said of an earlier view says nothing about this one.
    arbitratorAt: anew ? Number.NEGATIVE_INFINITY : state.arbitratorAt,
    peerEpochs: anew ? new Map() : state.peerEpochs,
    closedSince: status.connected ? Number.POSITIVE_INFINITY : Math.min(state.closedSince, now),
    closures: status.localState === "Synced" ? 0 : state.closures,
    lastPrimary: lastPrimaryOf(state, status, now),
    closed,
    probe,
    // Progress tells that commits have flowed since the poll before.
    flowedAt: state.probe === "hanging" && probe === "flowing" ? state.polledAt : state.flowedAt,
    hungAtSeqno: status.evsState === "OPERATIONAL" ? state.hungAtSeqno : status.lastCommitted,
    proven: state.proven && status.primary && !wasAway,
    sharedEpoch: sharedEpochAfter(state, status, { hosts, startedAt, anew: wasAway || unwatched }),
    hosts,
  });
  const { sharedEpoch, durable, adopted } = turn.state;
  const has = status.primary && !receives(status) && !adopted && stoodAt(turn.state) === null;
  if (has && sharedEpoch > durable.epochServed) {
    // It has nothing of its own to be compared: its rows are those of the epoch, its door open or not.
    keep(turn, { epochSeen: Math.max(sharedEpoch, durable.epochSeen) });
    serveUnder(turn, sharedEpoch, { certain: true });
  }
  if (isInside(status) && (changed || before === null || !isInside(before))) {
    const names = status.members.map(({ name }) => name).filter((name) => name !== UNSPECIFIED);
    // One that receives may say that it is not Primary, wherever it is: it has been with those of before, too.
    const goesOn = !status.primary && before !== null && isInside(before);
    const beside = goesOn ? [...new Set([...durable.lastMembers, ...names])] : names;
    const lastMembers = sameList(durable.lastMembers, beside);
    if (lastMembers !== durable.lastMembers) keep(turn, { lastMembers });
  }
  const { claim } = state.durable;
  // A Primary view after the one in which the number was raised.
  if (claim !== null && status.primary && view !== claim.view) keep(turn, { claim: null });
  if (changed) {
    log(turn, "view", {
      from: before === null ? null : before.primary,
      primary: status.primary,
      members: status.members.map((member) => member.name),
      lastCommitted: status.lastCommitted,
    });
  }
}

/**
 * Is this server, closed, in a view with members that its solo view lacked: two Primaries may have met. All of one
 * end, but for a member now and then that comes over: within 5 ms, and without a state transfer where both
 * have as many commits (measured). Whose rows are the base of an epoch, or who shares a newer one than its own
 * with its view, is of the one that stays.
 */
function hasMet(state: DbServerState, status: WsrepStatus): boolean {
  const { status: before, closed, config, durable, sharedEpoch, proven } = state;
  if (before?.primary !== true || !status.primary || !closed || receives(status)) return false;
  if (proven || sharedEpoch > durable.epochServed || isJoint(config, memberNames(before)))
    return false;
  return status.members.some(({ uuid }) => !before.members.some((member) => member.uuid === uuid));
}

/** What has not changed keeps its identity. */
function sameList(before: readonly string[], now: readonly string[]): readonly string[] {
  return before.length === now.length && now.every((one) => before.includes(one)) ? before : now;
}

/** Galera's names of those who were in its view when it came: who comes later joins it, or has met it. */
function hostsAfter(
  { status: before, hosts }: DbServerState,
  status: WsrepStatus,
  { anew }: { readonly anew: boolean },
): readonly string[] {
  if (!isInside(status)) return [];
  if (before !== null && isInside(before) && !anew) return hosts;
  return status.members.map(({ uuid }) => uuid);
}

/**
 * The epoch that it shares with the members of its view, or of the one that it is being let into, by what they
 * said before the poll: the poll finds this server among them. `anew`: it may have been elsewhere meanwhile.
 */
function sharedEpochAfter(
  state: DbServerState,
  status: WsrepStatus,
  of: { readonly hosts: readonly string[]; readonly startedAt: Millis; readonly anew: boolean },
): number {
  const { hosts, startedAt, anew } = of;
  if (!isInside(status)) return 0;
  let newest = anew ? 0 : state.sharedEpoch;
  const members = fingerprintMembers(viewOf(status) ?? "").join();
  for (const { report, at } of state.peers.values()) {
    const { epochServed, epochBefore, fingerprint, primary } = report;
    if (primary !== "yes" || at > startedAt || epochBefore !== undefined) continue;
    if (report.gcommUuid === null || !hosts.includes(report.gcommUuid)) continue;
    if (epochServed > newest && fingerprintMembers(fingerprint ?? "").join() === members)
      newest = epochServed;
  }
  return newest;
}

/** Does it take a state transfer. */
function receives({ localState }: WsrepStatus): boolean {
  return localState.startsWith("Joining");
}

/** Is it in a Primary view: who receives is a member as well, whatever its own word on Primary. */
function isInside(status: WsrepStatus): boolean {
  return status.primary || receives(status);
}

/** Is it in no Primary view and receives nothing, so that its position is of its own rows. */
function standsApart(status: WsrepStatus): boolean {
  return !status.primary && status.localState === "Initialized" && status.lastCommitted >= 0;
}

/** It is no longer Primary: the furthest that it stood at since it was last proven in line counts. */
function leave(turn: Turn, position: Position): void {
  const { leftPrimary } = turn.state.durable;
  if (leftPrimary !== null && leftPrimary.uuid !== position.uuid) return;
  if (leftPrimary === null || position.seqno > leftPrimary.seqno)
    keep(turn, { leftPrimary: position });
}

/**
 * Is the view changing under the poll: for 20 to 50 ms the member list is empty, or of a view that the
 * server catches up with and is not a member of (measured on MariaDB 10.11.19).
 */
function inFlux(status: WsrepStatus): boolean {
  if (!status.connected) return false;
  return !status.members.some((member) => member.uuid === status.gcommUuid);
}

function lastPrimaryOf(
  state: DbServerState,
  status: WsrepStatus,
  now: Millis,
): Report["lastPrimary"] {
  // A live server that comes back to the very same members sees the same fingerprint, and receives.
  const receiving = receives(status);
  if (!status.primary && receiving && state.lastPrimary !== null)
    return { ...state.lastPrimary, synced: false };
  const fingerprint = viewOf(status);
  if (!status.primary && state.status?.primary === true && state.lastPrimary !== null) {
    // In a gap as long as Galera needs to give up on members another Primary view may have come and gone.
    const unwatched = now - state.polledAt >= UNWATCHED_SHARE * state.config.timing.galeraSuspectMs;
    const { synced } = state.lastPrimary;
    if (unwatched) return { fingerprint: unknownView(status.stateUuid), synced };
  }
  if (!status.primary || fingerprint === null) return state.lastPrimary;
  const same = state.lastPrimary?.fingerprint === fingerprint;
  const synced = status.localState === "Synced" || status.localState.startsWith("Donor");
  const kept = state.lastPrimary?.synced === true && !receiving;
  const weight = status.clusterWeight;
  return { fingerprint, synced: synced || (same && kept), ...(weight === null ? {} : { weight }) };
}

/** Of the time in which Galera gives up on members. */
const UNWATCHED_SHARE = 0.9;

/** What the write probe is known to say after a poll. */
function probeAfter(
  state: DbServerState,
  status: WsrepStatus,
  at: { readonly changed: boolean },
): Report["probe"] {
  const { changed } = at;
  if (!status.primary) return "off";
  // Members are being gathered anew: no commit passes until the view has changed.
  if (status.evsState !== null && status.evsState !== "OPERATIONAL") return "hanging";
  // A member that has ended acknowledges nothing.
  if (endedMembers(state, status).length > 0) return "hanging";
  if (changed) return "off";
  if (state.probe !== "hanging") return state.probe;
  // Only progress, a new view or a probe, which works behind a closed door too, proves that they flow again.
  return status.lastCommitted > state.hungAtSeqno ? "flowing" : "hanging";
}

function pausedShare(before: WsrepStatus | null, status: WsrepStatus, elapsedMs: Millis): number {
  if (before === null || !Number.isFinite(elapsedMs) || elapsedMs <= 0) return 0;
  const pausedMs = (status.flowControlPausedNs - before.flowControlPausedNs) / 1e6;
  // Two decimals: a share that flickers in the last digit is not news.
  return Math.round(Math.max(0, Math.min(1, pausedMs / elapsedMs)) * 100) / 100;
}

function hearProbe(turn: Turn, event: Extract<DbServerEvent, { on: "probed" }>): void {
  const { state, now } = turn;
  set(turn, { probing: false, probeAt: now + state.config.timing.probeIntervalMs });
  // A probe of an earlier view says nothing about this one.
  if (state.status?.primary !== true || event.startedAt < state.viewSince) return;
  switch (event.outcome) {
    case "committed":
      // Behind a closed door it was a read, which comes back for a moment after a cut, too.
      set(turn, {
        probe: "flowing",
        flowedAt: event.startedAt,
        held: state.held && state.closed,
      });
      return;
    case "held":
      set(turn, { probe: "held", held: true });
      return;
    case "hung":
      set(turn, {
        probe: "hanging",
        hungAtSeqno: state.status.lastCommitted,
        pollAt: now,
      });
      return;
    case "refused":
      return;
    default:
      unreachable(event.outcome);
  }
}

function hearPosition(turn: Turn, event: Extract<DbServerEvent, { on: "position" }>): void {
  const { position, safeToBootstrap, error } = event;
  if (turn.state.handling === "read_position") set(turn, { handling: null });
  if (turn.state.process.is !== "stopped") return;
  set(turn, { position, safeToBootstrap, positionRead: true });
  if (position !== null) leave(turn, position);
  log(turn, "position", { position, safeToBootstrap, error });
}

function hearDone(turn: Turn, effect: DbServerEffect, error: string | null): void {
  const { state, now } = turn;
  switch (effect.do) {
    case "fence":
    case "unfence":
      set(turn, {
        gating: null,
        gatedAt: now,
        closed: error === null ? effect.do === "fence" : state.closed,
        pollAt: now,
      });
      log(turn, error === null ? `${effect.do}d` : `${effect.do}_failed`, {
        because: effect.because,
        error,
      });
      return;
    case "persist":
      set(turn, {
        writing: false,
        written: error === null ? effect.durable : state.written,
        writeAgainAt: error === null ? now : now + WRITE_AGAIN_MS,
      });
      if (error !== null) log(turn, "store_failed", { error });
      return;
    case "start":
      if (effect.mode === "reseed") asideChanged(turn);
      if (error === null) return;
      // What runs all the same was started by somebody else, a moment before.
      if (state.process.is === "running" && !state.adopted) {
        const adoptedUntil = now + state.config.timing.fenceMs;
        set(turn, { adopted: true, adoptedUntil, closed: false, pollAt: now });
      }
      set(turn, {
        handling: null,
        failedStarts: state.failedStarts + 1,
        startAt: now + restartWaitMs(state.failedStarts + 1),
      });
      log(turn, "start_failed", { mode: effect.mode, error });
      return;
    case "stop":
    case "kill":
      if (error === null) return;
      set(turn, { handling: null });
      log(turn, `${effect.do}_failed`, { error });
      return;
    case "adopt":
      // Without the document it is asked for again with the next answer.
      set(turn, { adopting: null });
      if (error !== null) log(turn, "config_missing", { version: effect.mark.version, error });
      return;
    case "evict":
      evictTold(turn, effect, error);
      return;
    case "tune":
      if (error !== null) log(turn, "tune_failed", { error });
      return;
    case "discard":
    case "form_primary":
    case "guard":
    case "log":
    case "look_aside":
    case "poll":
    case "probe":
    case "read_position":
    case "reply":
    case "send":
      return;
    default:
      unreachable(effect);
  }
}

// --- what follows -------------------------------------------------------------------------------

/** Opens or closes the door. */
function gate(turn: Turn): void {
  const { state, now } = turn;
  const right = rightOf(state, now);
  const forever = Number.POSITIVE_INFINITY;
  if (state.process.is !== "running") {
    set(turn, { lapseAt: forever, killAt: forever, fenceWantedAt: forever });
    return;
  }
  set(turn, { lapseAt: right.ok && right.until > now ? right.until : forever });
  const doubted = state.closed || state.foundAt !== null;
  const lineage = doubted && right.ok ? lineageOf(state) : "yes";
  if (lineage === "diverged" && !state.diverged) {
    set(turn, { diverged: true });
    log(turn, "diverged", { leftPrimary: state.durable.leftPrimary, epochs: state.epochs });
  }
  const mayOpen = right.ok && !turn.state.diverged && !state.leaving && !state.removed;
  if (mayOpen) {
    // The patience with an adopted mariadbd ends with its first right.
    const never = Number.NEGATIVE_INFINITY;
    set(turn, { killAt: forever, fenceWantedAt: forever, adoptedUntil: never });
    if (lineage !== "yes") return;
    if (state.closed) openDoor(turn, right.because);
    else serveOn(turn);
    return;
  }
  const goes = state.removed ? "no longer in the config" : "leaving, or rows beyond a fork point";
  closeDoor(turn, right.ok ? goes : right.because);
}

/**
 * Keeps the guard of a heavy segment's server informed of the deadline by which this process must have
 * renewed its right or fenced. Only a right, or a fence that stands, moves it.
 */
function protect(turn: Turn): void {
  const { state, now } = turn;
  if (!state.guards) return;
  const { guardTold } = state;
  const closed = state.process.is === "stopped" || (state.closed && state.gating !== "unfence");
  const right = rightOf(state, now);
  if (!closed && !right.ok) return;
  // One that runs goes on; but none is begun outside Primary, where the fence stands and every
  // millisecond of a processor belongs to the decision.
  const begins = state.status?.primary === true || guardTold?.wanted === true;
  const wanted = state.process.is === "running" && isHeavy(state) && begins;
  const until = right.ok && !closed ? right.until + state.config.timing.fenceMs : null;
  // A holder that stays without a lease has no deadline.
  const killAt = wanted && until !== null && Number.isFinite(until) ? until : null;
  const before = guardTold?.killAt ?? null;
  const same =
    guardTold !== null &&
    guardTold.wanted === wanted &&
    (killAt === null
      ? before === null
      : before !== null && Math.abs(killAt - before) < GUARD_STEP_MS);
  const due = wanted && now >= (guardTold?.at ?? now) + GUARD_ASK_MS;
  if ((same && !due) || (guardTold === null && !wanted)) return;
  set(turn, { guardTold: { wanted, killAt, at: now }, ...(wanted ? {} : { guard: false }) });
  // Before the door opens: effects begin in their order.
  turn.effects.unshift({ do: "guard", wanted, killAt });
}

/** A deadline that moves by less is not worth telling; renewals move it by a report's interval. */
const GUARD_STEP_MS = 250;
/** So often a guard's sign of life is looked for, and a lost one is replaced. */
const GUARD_ASK_MS = 500;

/** A door that stays open under a newer grant: its rows belong to that epoch from now on. */
function serveOn(turn: Turn): void {
  const { durable, promisedEpoch, foundAt } = turn.state;
  if (foundAt !== null) set(turn, { foundAt: null });
  if (promisedEpoch > durable.epochServed) {
    keep(turn, { epochSeen: Math.max(promisedEpoch, durable.epochSeen) });
    serveUnder(turn, promisedEpoch, { certain: !stillJoint(turn.state) });
  }
}

/** Holds this segment an epoch in a joint view, which may break before anything is committed under it. */
function stillJoint({ config, status, grantEpoch }: DbServerState): boolean {
  return grantEpoch !== null && isJoint(config, memberNames(status));
}

function openDoor(turn: Turn, because: string): void {
  const { state } = turn;
  const { status } = state;
  if (state.gating !== null || status === null || !status.ready) return;
  if (status.localState !== "Synced" && !status.localState.startsWith("Donor")) return;
  // Its epoch is written before an order is judged once more: if that voids it, nobody served under it.
  if (state.eviction?.phase === "writing" || state.order?.phase === "writing") return;
  const epochServed = servesUnder(state);
  if (epochServed !== state.durable.epochServed || state.durable.leftPrimary !== null) {
    keep(turn, {
      epochSeen: Math.max(epochServed, state.durable.epochSeen),
      leftPrimary: null,
    });
  }
  if (epochServed !== state.durable.epochServed)
    serveUnder(turn, epochServed, { certain: !stillJoint(state) });
  // What it serves under is on disk before the first client is let in.
  if (turn.state.written !== turn.state.durable) return;
  set(turn, { gating: "unfence", foundAt: null });
  turn.effects.push({ do: "unfence", because });
}

function closeDoor(turn: Turn, because: string): void {
  const { state, now } = turn;
  const { fenceMs, leaseMs } = state.config.timing;
  // It refuses every statement by itself, and becomes Primary again under its grant or not at all.
  if (goesThrough(state) && !state.closed) {
    // One that was opening when Primary was lost has been asked to close meanwhile.
    set(turn, {
      fenceWantedAt: Number.POSITIVE_INFINITY,
      killAt: Number.POSITIVE_INFINITY,
    });
    return;
  }
  // While an unfence is under way the door may be open already.
  if (state.closed && state.gating !== "unfence") {
    set(turn, {
      fenceWantedAt: Number.POSITIVE_INFINITY,
      killAt: aloneKillAt(turn, leaseMs + fenceMs),
    });
    if (now >= turn.state.killAt) endAlone(turn);
    return;
  }
  // An adopted mariadbd serves already: its watchdog asks for the right before it takes it away.
  if (state.process.is === "running" && now < state.adoptedUntil && !state.diverged) {
    set(turn, { lapseAt: Math.min(turn.state.lapseAt, state.adoptedUntil) });
    return;
  }
  const wantedAt = Math.min(state.fenceWantedAt, now);
  set(turn, { fenceWantedAt: wantedAt, killAt: wantedAt + fenceMs });
  if (now >= wantedAt + fenceMs) {
    kill(turn, `the fence did not hold within ${fenceMs} ms: ${because}`);
    return;
  }
  if (state.gating !== null) return;
  set(turn, { gating: "fence" });
  turn.effects.push({ do: "fence", because });
}

/** When a fenced server that is Primary alone, without a grant and out of reach, must go: lest two Primaries meet. */
function aloneKillAt(turn: Turn, graceMs: Millis): Millis {
  const { state } = turn;
  const { status, config, retired, self } = state;
  const names = memberNames(status);
  if (status?.primary !== true) return Number.POSITIVE_INFINITY;
  if (isJoint(config, names)) {
    if (!isSuperseded(turn)) return Number.POSITIVE_INFINITY;
    const closedSince = Math.max(state.viewSince, state.gatedAt);
    return Math.max(closedSince + graceMs, state.suspendedAt + config.timing.fenceMs);
  }
  // A few servers beside the majority of another segment: it is for that one to hold a grant or to end.
  const guest = majorityBeside(config, self.segment, names, retired) !== null;
  // Where another segment holds an epoch since, no answer will ever be a grant; nor where a lost store granted
  // one: its fork point is unknown, and the segment of its record is a guess.
  const barred = state.epochs.some(
    (record) =>
      record.forkPoint !== null &&
      record.epoch > state.durable.epochServed &&
      (record.segment !== self.segment || isUnknownFork(record)),
  );
  // Then whoever is down has newer rows, which would end with its joining this view.
  const needed = !barred && nobodyElse(turn);
  if (guest || servesBeside(turn) || needed) return Number.POSITIVE_INFINITY;
  const vain = barred || rivalOf(turn) !== null;
  const asked = vain ? state.viewSince : Math.max(state.viewSince, state.arbitratorAt);
  // What it knew before it stood still is nothing to kill by: the view may be another one by now.
  return Math.max(asked + graceMs, state.suspendedAt + config.timing.fenceMs);
}

/** Ends a closed Primary without a right. Beside one of the same epoch no fork point tells the rows apart. */
function endAlone(turn: Turn): void {
  const { state } = turn;
  const rival = rivalOf(turn);
  if (rival === null) {
    kill(turn, "Primary without a right to be, and nobody to ask");
    return;
  }
  if (rival.report.epochServed === servesUnder(state) && !state.diverged) {
    set(turn, { diverged: true });
    log(turn, "diverged", { beside: rival.name, epoch: rival.report.epochServed });
  }
  kill(turn, `Primary without a right to be, beside ${rival.name}, which goes on`);
}

/**
 * A server that is Primary in a view without a common member and goes before this one: it serves, or has a newer
 * epoch, or is of the same segment and has more commits; of equals the first goes on. Both hear the arbitrator
 * and wait for a grant that their segment has already, as where a member was in the other's eviction list.
 */
function rivalOf({ state, now }: Turn): { readonly name: string; readonly report: Report } | null {
  const { config, peers, self, status } = state;
  const serves = servesUnder(state);
  const view = viewOf(status);
  const own = new Set(fingerprintMembers(view ?? ""));
  for (const server of config.servers) {
    const peer = peers.get(server.id);
    if (peer === undefined || now - peer.at > config.timing.suspectMs) continue;
    const { report } = peer;
    const { fingerprint } = report;
    if (report.primary !== "yes" || fingerprint === null || report.epochServed < serves) continue;
    if (fingerprint === view || fingerprintMembers(fingerprint).some((uuid) => own.has(uuid)))
      continue;
    const more = report.lastCommitted - (status?.lastCommitted ?? 0);
    const first = more > 0 || (more === 0 && server.serial < self.serial);
    const before = report.serving === "on" || report.epochServed > serves;
    if (before || (server.segment === self.segment && first)) return { name: server.name, report };
  }
  return null;
}

/**
 * Is this joint view one of an older lineage, or one that nobody can prove to be of the newest, by everybody's
 * word: the arbitrator, heard in it, names a newer epoch and promises nothing, and a server has that one's rows,
 * which would end with its joining.
 */
function isSuperseded({ state, now }: Turn): boolean {
  const { arbitratorAt, viewSince, toldAt, config, peers, status } = state;
  const { leaseMs, suspectMs } = config.timing;
  if (arbitratorAt < viewSince || now - toldAt > leaseMs || !knowsNewer(state)) return false;
  if ((leaseOf(state)?.until ?? 0) > now) return false;
  const serves = servesUnder(state);
  const members = fingerprintMembers(viewOf(status) ?? "");
  return [...peers.values()].some(({ report, at }) => {
    const { epochServed, epochBefore = epochServed, position, primary, stood, gcommUuid } = report;
    if (now - at > suspectMs || epochBefore <= serves) return false;
    const has = primary === "yes" || (position !== null && position.seqno >= 0);
    // A view that stalls still names the server as it was before it ended, and began elsewhere.
    const here = gcommUuid !== null && members.includes(gcommUuid);
    return has && (!here || stood !== undefined);
  });
}

/**
 * Does another server serve in this very view: then the view has a right to be, which only has not come
 * here, as where the order reached one server and the arbitrator's promise none. Less of it helps nobody.
 */
function servesBeside({ state, now }: Turn): boolean {
  const view = viewOf(state.status);
  return [...state.peers.values()].some(
    ({ report, at }) =>
      report.serving === "on" &&
      report.fingerprint === view &&
      now - at <= state.config.timing.suspectMs,
  );
}

/**
 * Is every server outside the view down, or on its way up to join one, by its own word: then no other
 * Primary can be met, and who is in the view is who the cluster can be had back with.
 */
function nobodyElse({ state, now }: Turn): boolean {
  const { config, peers, status } = state;
  const names = memberNames(status);
  return config.servers.every(({ id, name }) => {
    if (names.has(name)) return true;
    const peer = peers.get(id);
    if (peer === undefined || now - peer.at > config.timing.suspectMs) return false;
    const { running, fenced, adopted } = peer.report;
    return running === "down" || (running === "unknown" && fenced && adopted !== true);
  });
}

function kill(turn: Turn, because: string): void {
  set(turn, { killAt: Number.POSITIVE_INFINITY });
  if (turn.state.handling === "kill") return;
  set(turn, { handling: "kill" });
  log(turn, "killing", { because });
  turn.effects.push({ do: "kill", because });
}

function write(turn: Turn): void {
  const { state, now } = turn;
  if (state.writing || state.written === state.durable || now < state.writeAgainAt) return;
  set(turn, { writing: true });
  turn.effects.push({ do: "persist", durable: state.durable });
}

/** How a stopped server may be started without a further order; null if it may not. */
function verdictOnStart(state: DbServerState): "join" | "reseed" | null {
  const ready =
    state.process.is === "stopped" &&
    state.handling === null &&
    state.positionRead &&
    !state.leaving &&
    !state.removed &&
    state.failedStarts < FAILED_STARTS_MAX;
  if (!ready) return null;
  const { startVerdict } = state;
  return startVerdict === "join" || startVerdict === "reseed" ? startVerdict : null;
}

/**
 * May it join without the arbitrator's verdict, which does not come: a peer serves under the very
 * epoch that this server last served under, in the lineage in which its data stands. So no fork lies
 * between them, and its fence is lifted by a right only, as ever.
 */
function joinsPeers(state: DbServerState, now: Millis): boolean {
  const { config, durable, position } = state;
  if (position === null || state.diverged || now < state.toldAt + config.outwaitMs) return false;
  if (now < state.stoppedAt + config.outwaitMs) return false;
  return [...state.peers.values()].some(
    ({ report, at }) =>
      now - at <= config.timing.suspectMs &&
      report.serving === "on" &&
      !namesIn(report.members).has(state.self.name) &&
      report.stateUuid === position.uuid &&
      report.epochServed === durable.epochServed &&
      knowsNoneNewer(state, report),
  );
}

/** Reads a stopped server's position, starts it where the arbitrator says so, stops a diverged one. */
function manage(turn: Turn): void {
  const { state, now } = turn;
  if (state.process.is === "stopped" && state.handling === null && !state.positionRead) {
    set(turn, { handling: "read_position" });
    turn.effects.push({ do: "read_position" });
    return;
  }
  const goes = state.diverged || state.removed;
  if (state.process.is === "running" && goes && state.handling === null) {
    set(turn, { handling: "stop", leaving: true });
    // Said before it happens: a graceful leave moves Galera's quorum.
    tell(turn);
    turn.effects.push({ do: "stop", graceMs: STOP_GRACE_MS });
    return;
  }
  if (waitsInVain(state, now)) {
    kill(turn, "mariadbd waits for a Primary that is nowhere: stopped, it can say where it stands");
    return;
  }
  if (providerStaysClosed(state, now)) {
    set(turn, { closures: state.closures + 1, closedSince: Number.POSITIVE_INFINITY });
    kill(turn, "Galera's provider has closed itself and does not open again in a living server");
    return;
  }
  if (now < state.startAt) return;
  if (state.process.is !== "stopped") return;
  const verdict =
    verdictOnStart(state) ??
    (joinsPeers(state, now) ? verdictOnStart({ ...state, startVerdict: "join" }) : null);
  if (verdict === null) return;
  // A provider that closes again after a restart refuses its own data: only new data helps.
  const mode = state.closures >= 2 ? "reseed" : verdict;
  const donor = mode === "reseed" ? donorFor(state, { now }) : null;
  if (mode === "reseed" && donor === null) {
    set(turn, { startAt: now + state.config.timing.reportIntervalMs });
    return;
  }
  set(turn, { handling: "start", startVerdict: "wait" });
  if (mode === "reseed") {
    set(turn, { diverged: false, reseedFor: null });
    // What it served under stays: no later than the donor's, it claims nothing that the copy lacks, and
    // without it a watchdog restarted before the door opens would hold every fork point against the copy.
    keep(turn, { leftPrimary: null });
  }
  turn.effects.push({ do: "start", mode, position: state.position, donor });
}

/**
 * Does mariadbd live without being in any cluster: an incremental transfer was refused, it lost a vote,
 * or two Primaries met. It stays so for ever (measured), serving nobody.
 */
function providerStaysClosed(state: DbServerState, now: Millis): boolean {
  return (
    state.process.is === "running" &&
    state.handling === null &&
    now - state.closedSince >= PROVIDER_CLOSED_MS
  );
}

function waitsInVain(state: DbServerState, now: Millis): boolean {
  return (
    state.process.is === "running" &&
    state.handling === null &&
    state.status === null &&
    now - state.toldAt <= state.config.timing.leaseMs &&
    now - state.vainSince >= VAIN_MS
  );
}

/** Galera's own pc.wait_prim_timeout, which does not apply to it. */
const VAIN_MS = 30_000;

/** Leaving and coming back passes through closed for less than a second. */
const PROVIDER_CLOSED_MS = 3_000;

/** A graceful stop takes 0.1 to 2 s (measured); much longer means that it hangs. */
const STOP_GRACE_MS = 10_000;

function pollNow(turn: Turn): void {
  if (turn.state.polling) set(turn, { pollAgain: true });
  else set(turn, { pollAt: turn.now });
}

function pollIntervalMs(
  state: DbServerState,
  seen: { readonly status: WsrepStatus; readonly probe: Report["probe"]; readonly closed: boolean },
): Millis {
  const { timing } = state.config;
  const { status, probe, closed } = seen;
  if (state.order !== null || state.eviction !== null) return FORM_POLL_MS;
  const calm =
    state.gating === null && status.primary && status.ready && probe !== "hanging" && !closed;
  return calm ? timing.pollIntervalMs : timing.pollFastMs;
}

function mayProbe(state: DbServerState): boolean {
  return state.status?.primary === true && state.status.ready;
}

/** Starts what is due to be asked of mariadbd. */
function look(turn: Turn): void {
  const { state, now } = turn;
  if (state.process.is !== "running") return;
  if (!state.polling && (state.pollAgain || now >= state.pollAt)) {
    set(turn, { polling: true, pollAgain: false });
    turn.effects.push({ do: "poll" });
  }
  if (!state.probing && mayProbe(turn.state) && now >= state.probeAt) {
    set(turn, { probing: true });
    turn.effects.push({ do: "probe" });
  }
}

/** Reports to everybody: at the interval, and at once when something changed that others decide by. */
function tell(turn: Turn): void {
  answerWaiting(turn);
  const { state, now } = turn;
  const news = state.lastReport === null || differs(state.lastReport, newsOf(state, now));
  // What is over in a moment is no news: client minders would lead everybody away and back.
  if (now < state.reportAt && (!news || goesThrough(state))) return;
  const next = buildReport(state, now, state.reportNumber + 1);
  const clientTurn = state.clientTurn + 1;
  const reportAt = now + state.config.timing.reportIntervalMs;
  set(turn, { ...numbered(state, next, now), reportAt, clientTurn });
  const body = { verb: "db_status_report", parameters: next } as const;
  const { arbitrators, servers } = state.config;
  const clients = clientsInTurn(state.config, news ? "all" : clientTurn);
  const peers = !news && clientTurn % 2 !== 0 && mayMissATurn(state, now) ? [] : servers;
  for (const parties of [arbitrators, peers, clients]) {
    for (const { id: to } of parties) {
      if (to === state.self.id) continue;
      turn.effects.push({ do: "send", to, body, expiresMs: Number.POSITIVE_INFINITY });
    }
  }
}

/**
 * May the other watchdogs hear every second report only: in calm, while the arbitrator renews the lease.
 * They vouch from what they hear, which has to last should the arbitrator fall silent, so three of the
 * longer intervals still fit into a lease. That nothing has changed is a third of all messages else.
 */
function mayMissATurn(state: DbServerState, now: Millis): boolean {
  const { leaseMs, suspectMs, reportIntervalMs } = state.config.timing;
  if (6 * reportIntervalMs > leaseMs || 2 * reportIntervalMs >= suspectMs) return false;
  const lease = leaseOf(state);
  return lease !== null && lease.until - now > leaseMs / 2 && state.lastReport?.serving === "on";
}

/** Remembers when a report left: orders quote its number. */
function numbered(
  state: DbServerState,
  report: Report,
  now: Millis,
): Pick<DbServerState, "reportNumber" | "lastReport" | "sent"> {
  const { orderMaxAgeMs } = state.config.timing;
  const sent = state.sent.filter(({ at }) => now - at <= orderMaxAgeMs).slice(1 - SENT_MAX);
  sent.push({ number: report.reportNumber, at: now });
  return { reportNumber: report.reportNumber, lastReport: report, sent };
}

/** Answers those who asked for a fresh report, once a poll begun after their question has ended. */
function answerWaiting(turn: Turn): void {
  const { state } = turn;
  if (state.waiting.length === 0) return;
  const absent = state.process.is !== "running";
  const ready = state.waiting.filter((each) => absent || state.askedAt >= each.since);
  if (ready.length === 0) return;
  const report = buildReport(state, turn.now, state.reportNumber + 1);
  const waiting = state.waiting.filter((each) => !ready.includes(each));
  set(turn, { ...numbered(state, report, turn.now), waiting, reportAt: turn.now });
  for (const { ticket } of ready) {
    turn.effects.push({
      do: "reply",
      ticket,
      body: { verb: "db_status_report", parameters: report },
    });
  }
}
