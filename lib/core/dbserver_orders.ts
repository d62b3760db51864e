/**
 * The arbitrator's orders to a watchdog: checked against a table before anything is done, written
 * down before they are obeyed, and verified afterwards, since a statement's success proves nothing.
 */
import { unreachable } from "../errors.ts";
import type { Evict, MakePrimary, StartOrder } from "../message/arbitrator.ts";
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { words } from "../message/mod.ts";
import { fingerprintMembers, holdsMajority } from "../wsrep_status.ts";
import type { Arrived, Millis } from "./core.ts";
import { EVICT_DEADLINE_MS, endedMembers, remainder } from "./dbserver_evict.ts";
import type { DbServerEvent } from "./dbserver_io.ts";
import {
  type DbServerState,
  type EvictionInHand,
  holdsNewestGrant,
  lineageOf,
  type OrderInHand,
  viewOf,
} from "./dbserver_state.ts";
import { ack, keep, log, serveUnder, set, type Turn, takeBack } from "./dbserver_turn.ts";

/**
 * pc.bootstrap is tried so often: it is dropped without a word while views are forming, which took up
 * to 1 s on a loaded machine. Each attempt checks the view anew, so that a further one costs nothing.
 */
export const FORM_ATTEMPTS = 16;
/** A Primary view follows within this where pc.bootstrap has an effect (measured: 10 to 50 ms). */
export const FORM_WAIT_MS = 50;

interface OrderFacts {
  readonly state: DbServerState;
  readonly now: number;
  readonly order: MakePrimary | StartOrder | Evict;
  /** Does it open an epoch, which then must be newer than any. @default true, but for an eviction without a grant */
  readonly grants?: boolean;
}

interface Check {
  readonly id: string;
  /** Why the order is refused; null if this check has nothing against it. */
  readonly against: (facts: OrderFacts) => string | null;
}

/** Checks of every order, in order; the first that fails is the answer. */
export const ORDER_CHECKS = [
  {
    id: "store.bound",
    against: ({ state, order }) =>
      state.durable.storeId === null || state.durable.storeId === order.storeId
        ? null
        : `this server obeys the arbitrator's store ${state.durable.storeId}, not ${order.storeId}`,
  },
  {
    id: "epoch.newer",
    against: ({ state, order, grants = !("uuids" in order) || order.grant !== null }) => {
      const { epochObeyed, epochSeen } = state.durable;
      // What opens no epoch only must not come from an older one.
      if (order.epoch >= epochSeen && (order.epoch > epochObeyed || !grants)) return null;
      return `epoch ${order.epoch} is not newer than ${Math.max(epochObeyed, epochSeen)}`;
    },
  },
  {
    id: "report.young",
    against: ({ state, now, order }) => {
      const sent = state.sent.find((each) => each.number === order.reportNumber);
      if (sent === undefined)
        return `report ${order.reportNumber} is not a recent one of this server`;
      const ageMs = now - sent.at;
      return ageMs <= state.config.timing.orderMaxAgeMs
        ? null
        : `report ${order.reportNumber} is ${Math.round(ageMs)} ms old`;
    },
  },
  {
    id: "no.other",
    against: ({ state }) => {
      const other = state.order?.order ?? state.eviction?.order;
      return other === undefined ? null : `epoch ${other.epoch} is being carried out`;
    },
  },
  {
    id: "not.leaving",
    against: ({ state }) => (state.leaving ? "this server is being stopped" : null),
  },
] as const satisfies readonly Check[];

/** The check that looks whether an order has become too old. */
const STILL_YOUNG = ORDER_CHECKS.filter((check) => check.id === "report.young");

/** Further checks of make_primary. */
export const MAKE_PRIMARY_CHECKS = [
  {
    id: "vouch.outwaited",
    against: ({ state, now, order }) =>
      ("basis" in order && order.basis === "arithmetic") || now >= state.vouchedUntil
        ? null
        : `this server has vouched for others: ${Math.ceil(state.vouchedUntil - now)} ms are left`,
  },
  {
    id: "arithmetic.straight",
    against: ({ state, order }) =>
      "basis" in order &&
      order.basis === "arithmetic" &&
      state.lastPrimary?.fingerprint !== order.notedView
        ? "this server did not come straight from the noted view"
        : null,
  },
  {
    id: "view.expected",
    against: ({ state, order }) => {
      const view = viewOf(state.status);
      if (view === null) return "this server is in no view";
      if (state.status?.primary === true) return "this server is Primary";
      return "expectedFingerprint" in order && view !== order.expectedFingerprint
        ? `the view has changed to ${view}`
        : null;
    },
  },
] as const satisfies readonly Check[];

/** Further checks of evict: each survivor looks for itself. */
export const EVICT_CHECKS = [
  {
    id: "evict.on",
    against: ({ state }) => (state.config.evict === "off" ? "evict is off in the config" : null),
  },
  {
    id: "evict.view",
    against: ({ state, order }) => {
      const view = viewOf(state.status);
      if (view === null) return "this server is in no view";
      if (state.status?.primary !== true) return "this server is not Primary";
      const expected = "uuids" in order ? order.expectedFingerprint : view;
      return view === expected ? null : `the view has changed to ${view}`;
    },
  },
  {
    id: "evict.stalled",
    against: ({ state }) => (state.probe === "hanging" ? null : "commits do not hang here"),
  },
  {
    id: "evict.gone",
    against: ({ state, order }) => {
      if (!("uuids" in order)) return null;
      const ended = endedMembers(state);
      for (const uuid of order.uuids) {
        const member = state.status?.members.find((one) => one.uuid === uuid);
        if (member === undefined) return `${uuid} is not in the view`;
        if (uuid === state.status?.gcommUuid) return "this very server would be evicted";
        const server = state.config.serverByName.get(member.name);
        if (server === undefined) return `${member.name} has no watchdog to speak for it`;
        if (ended.includes(uuid) || state.silent.includes(server.id)) continue;
        return `${server.name} is heard`;
      }
      return null;
    },
  },
  {
    id: "evict.remainder",
    against: ({ state, order }) => {
      if (!("uuids" in order) || order.grant !== null || state.status === null) return null;
      const { joint, quorum } = remainder(state, state.status, order.uuids);
      return joint && quorum ? null : "what remains would need a grant";
    },
  },
] as const satisfies readonly Check[];

/** Further checks of start, bootstrap and reseed. */
export const START_CHECKS = [
  {
    id: "process.stopped",
    against: ({ state }) =>
      state.process.is === "stopped" && state.handling === null ? null : "mariadbd is not stopped",
  },
  {
    id: "position.same",
    against: ({ state, order }) => {
      if (!("position" in order) || order.position === null) return null;
      const { position } = state;
      const same =
        position?.uuid === order.position.uuid && position.seqno === order.position.seqno;
      return same
        ? null
        : `the position is ${position?.uuid ?? "unknown"}:${position?.seqno ?? -1}`;
    },
  },
] as const satisfies readonly Check[];

/** Further checks of reseed, with that of a start's position: the others must be able to do without this server. */
export const RESEED_CHECKS = [
  {
    id: "reseed.donor",
    against: ({ state, now }) =>
      donorFor(state, { now, serving: true }) === null
        ? "no other server serves whose data this one could take"
        : null,
  },
  {
    id: "reseed.remainder",
    against: ({ state }) => {
      const { status, config, self, retired } = state;
      if (status?.primary !== true || status.gcommUuid === null) return null;
      const { joint, quorum, names } = remainder(state, status, [status.gcommUuid]);
      const held = holdsNewestGrant(state) && holdsMajority(config, self.segment, names, retired);
      return quorum && (joint || held) ? null : "the others would not serve on without this server";
    },
  },
  {
    id: "reseed.idle",
    against: ({ state }) =>
      state.handling === null ? null : `mariadbd is being dealt with: ${state.handling}`,
  },
] as const satisfies readonly Check[];

/** The first check that an order fails, in words; null if it passes all. */
export function refusal(checks: readonly Check[], facts: OrderFacts): string | null {
  for (const check of checks) {
    const against = check.against(facts);
    if (against !== null) return `${check.id}: ${against}`;
  }
  return null;
}

/** Takes an order: refuses it with the reason, or writes its epoch down first. */
export function hearOrder(turn: Turn, event: Arrived<"dbserver">): void {
  const { body, ticket } = event;
  switch (body.verb) {
    case "make_primary":
      hearMakePrimary(turn, event, body.parameters);
      return;
    case "bootstrap":
    case "start":
      hearStart(turn, ticket, { order: body.parameters, bootstrap: body.verb === "bootstrap" });
      return;
    case "evict":
      hearEvict(turn, event, body.parameters);
      return;
    case "reseed":
      hearReseed(turn, ticket, body.parameters);
      return;
    case "db_status_report":
    case "request_status":
    case "wsrep_notify_cmd":
      return;
    default:
      unreachable(body);
  }
}

function hearMakePrimary(turn: Turn, event: Arrived<"dbserver">, order: MakePrimary): void {
  const { state, now } = turn;
  const { ticket, from } = event;
  const refused = refusal([...ORDER_CHECKS, ...MAKE_PRIMARY_CHECKS], { state, now, order });
  log(turn, "make_primary", { epoch: order.epoch, basis: order.basis, refused });
  if (refused !== null) {
    ack(turn, ticket, { outcome: outcomeOfRefusal(state, order), because: refused });
    return;
  }
  keep(turn, {
    storeId: order.storeId,
    epochSeen: order.epoch,
    epochObeyed: order.epoch,
  });
  // Its rows are the base of the new epoch: there is no fork point to compare with.
  serveUnder(turn, order.epoch, { certain: false });
  set(turn, {
    order: {
      order,
      from,
      ticket,
      phase: "writing",
      attempts: 0,
      given: false,
      servedBefore: state.durable.epochServed,
      error: null,
      tryAgainAt: now + state.config.timing.orderMaxAgeMs,
      evicted: [],
    },
  });
}

function hearEvict(turn: Turn, event: Arrived<"dbserver">, order: Evict): void {
  const { state, now } = turn;
  const { ticket, from } = event;
  const { grant, epoch, uuids } = order;
  const refused = refusal([...ORDER_CHECKS, ...EVICT_CHECKS], { state, now, order });
  log(turn, "evict", { epoch, uuids, basis: grant?.basis ?? null, refused });
  if (refused !== null) {
    ack(turn, ticket, { outcome: outcomeOfRefusal(state, order), because: refused });
    return;
  }
  // Who forms the Primary was chosen for its rows; anybody else may stand in the view with others.
  const inLine = grant?.forms === true || lineageOf(state) === "yes";
  const servedBefore = state.durable.epochServed;
  const hand = { order, from, ticket, servedBefore, inLine, since: now };
  if (grant === null) {
    set(turn, { eviction: { ...hand, phase: "evicting" } });
    return;
  }
  keep(turn, {
    storeId: order.storeId,
    epochSeen: epoch,
    epochObeyed: epoch,
  });
  // Its rows are the base of the new epoch: there is no fork point to compare with.
  if (grant.segment === state.self.segment && inLine) serveUnder(turn, epoch, { certain: false });
  set(turn, { eviction: { ...hand, phase: "writing" } });
}

function hearStart(
  turn: Turn,
  ticket: number,
  options: { readonly order: StartOrder; readonly bootstrap: boolean },
): void {
  const { order, bootstrap } = options;
  const { state, now } = turn;
  const refused = refusal([...ORDER_CHECKS, ...START_CHECKS], { state, now, order });
  log(turn, bootstrap ? "bootstrap" : "start", { epoch: order.epoch, refused });
  if (refused !== null) {
    ack(turn, ticket, { outcome: outcomeOfRefusal(state, order), because: refused });
    return;
  }
  keep(turn, {
    storeId: order.storeId,
    epochSeen: order.epoch,
    epochObeyed: order.epoch,
  });
  if (bootstrap) serveUnder(turn, order.epoch, { certain: false });
  const servedBefore = state.durable.epochServed;
  set(turn, { startOrder: { ticket, bootstrap, epoch: order.epoch, order, servedBefore } });
}

/**
 * Its data is not to be used any more: it stops, and takes a full transfer by the verdict that a stopped
 * server gets. Held in memory: one that forgets it half-way comes back with what it has.
 */
function hearReseed(turn: Turn, ticket: number, order: StartOrder): void {
  const { state, now } = turn;
  const running = state.process.is === "running";
  const position = START_CHECKS.filter((check) => check.id === "position.same" && !running);
  const checks = [...ORDER_CHECKS, ...RESEED_CHECKS, ...position];
  const refused = refusal(checks, { state, now, order, grants: false });
  log(turn, "reseed", { epoch: order.epoch, because: order.because, refused });
  if (refused !== null) {
    ack(turn, ticket, { outcome: "refused", because: refused });
    return;
  }
  // Starts that failed did so with the data that goes.
  set(turn, { diverged: true, reseedFor: order.because, failedStarts: 0, startAt: now });
  ack(turn, ticket, { because: running ? "stopping first" : "its data will be set aside" });
}

/**
 * Whose data a reseeded server takes: left alone, Galera prefers a neighbour of the same segment, which
 * may have the very rows that are to go (measured). One that serves has been proven in line; where
 * nobody serves yet, one that began the newest epoch, or stood beyond no fork point by its own word or the
 * arbitrator's.
 * Of equals the last in the config's order: a donor commits nothing while it is copied, and the first is
 * the one that a single writer is led to.
 */
export function donorFor(
  state: DbServerState,
  options: { readonly now: Millis; readonly serving?: boolean },
): string | null {
  const { now, serving = false } = options;
  const { config, primarySegment } = state;
  let best: { readonly name: string; readonly rank: number } | null = null;
  for (const server of config.servers) {
    const heard = state.peers.get(server.id);
    if (heard === undefined || now - heard.at > config.timing.suspectMs) continue;
    const { report } = heard;
    if (report.primary !== "yes" || report.localState !== "Synced" || report.diverged) continue;
    const serves = report.serving === "on";
    const inLine = serves || state.donors.includes(server.id) || isInLine(state, report);
    if (!inLine || (serving && !serves)) continue;
    const rank = (serves ? 2 : 0) + (server.segment === primarySegment ? 1 : 0);
    if (best === null || rank >= best.rank) best = { name: server.name, rank };
  }
  return best?.name ?? null;
}

function isInLine({ durable, epochs }: DbServerState, report: Report): boolean {
  const { epochServed, epochSeen, stood } = report;
  if (epochServed >= durable.epochSeen) return true;
  return (
    epochSeen >= durable.epochSeen &&
    epochs.every(
      ({ epoch, forkPoint }) =>
        epoch <= epochServed ||
        forkPoint === null ||
        stood === undefined ||
        (stood.uuid === forkPoint.uuid && stood.seqno <= forkPoint.seqno),
    )
  );
}

/**
 * A refused order is void to the arbitrator. One that an earlier life of this watchdog may have
 * carried out before it could answer is not: its outcome is unknown, which is no refusal.
 */
function outcomeOfRefusal(state: DbServerState, order: MakePrimary | StartOrder | Evict) {
  // An eviction without a grant promotes nobody, whatever has come of it.
  if ("uuids" in order && order.grant === null) return "refused";
  return order.epoch <= state.durable.epochObeyed ? "failed" : "refused";
}

/** The order's epoch is on disk: it may be obeyed now, if that did not take too long. */
export function orderWritten(turn: Turn): void {
  const { state, now } = turn;
  const { order, startOrder, position, eviction } = state;
  if (eviction?.phase === "writing") evictionWritten(turn, eviction);
  if (order?.phase === "writing") {
    const checks = [...STILL_YOUNG, ...MAKE_PRIMARY_CHECKS];
    const refused = refusal(checks, { state, now, order: order.order });
    if (refused === null) form(turn);
    else giveUp(turn, order, refused);
  }
  if (startOrder !== null) {
    const checks = [...STILL_YOUNG, ...START_CHECKS];
    const refused = refusal(checks, { state, now, order: startOrder.order });
    if (refused !== null) {
      set(turn, { startOrder: null });
      takeBack(turn, startOrder.servedBefore);
      log(turn, "order_failed", { epoch: startOrder.epoch, because: refused });
      ack(turn, startOrder.ticket, { outcome: "refused", because: refused });
      return;
    }
    set(turn, {
      startOrder: null,
      handling: "start",
      // Its rows are the base of the new epoch, whatever they were to an earlier one.
      ...(startOrder.bootstrap ? { diverged: false } : {}),
      // Whoever orders a start knows of the ones that failed.
      failedStarts: 0,
      ...(startOrder.bootstrap ? { grantEpoch: startOrder.epoch } : {}),
    });
    turn.effects.push({
      do: "start",
      mode: startOrder.bootstrap ? "bootstrap" : "join",
      position,
      donor: null,
    });
    ack(turn, startOrder.ticket, { because: "starting" });
  }
}

function form(turn: Turn): void {
  const { order } = turn.state;
  if (order === null) return;
  set(turn, {
    order: {
      ...order,
      phase: "forming",
      attempts: order.attempts + 1,
      tryAgainAt: Number.POSITIVE_INFINITY,
    },
  });
  turn.effects.push({
    do: "form_primary",
    expectedFingerprint: order.order.expectedFingerprint,
    epoch: order.order.epoch,
  });
}

/** pc.bootstrap was given, or not because the view had changed; either way the poll decides. */
export function formed(turn: Turn, event: Extract<DbServerEvent, { on: "formed" }>): void {
  const { order } = turn.state;
  if (order === null) return;
  const { outcome, error } = event;
  if (outcome !== "given") log(turn, "form_failed", { epoch: order.order.epoch, outcome, error });
  // A poll may be behind the statement: it is waited for, so that the attempts are not spent on one answer.
  const moved = outcome === "changed" && !isExpected(turn, order);
  set(turn, {
    order: {
      ...order,
      phase: "verifying",
      given: order.given || outcome !== "changed",
      error,
      tryAgainAt: moved ? turn.now : turn.now + FORM_WAIT_MS,
    },
    pollAt: turn.now,
  });
}

/** Looks whether the order has come true; tries again, or gives up with the reason. */
export function continueOrder(turn: Turn): void {
  const { order, status } = turn.state;
  if (order?.phase === "writing" && turn.now >= order.tryAgainAt)
    giveUp(turn, order, "its epoch could not be written in time");
  if (order === null || order.phase !== "verifying") return;
  const present = new Set(status?.members.map((member) => member.uuid) ?? []);
  const expected = fingerprintMembers(order.order.expectedFingerprint);
  if (status?.primary === true && expected.every((uuid) => present.has(uuid))) {
    succeed(turn, order);
    return;
  }
  if (turn.now < order.tryAgainAt) return;
  const expectedStill = isExpected(turn, order);
  if (expectedStill && order.attempts < FORM_ATTEMPTS) {
    form(turn);
    return;
  }
  const because = expectedStill
    ? `no Primary view after ${order.attempts} attempts: ${order.error ?? "pc.bootstrap had no effect"}`
    : `the view has changed to ${viewOf(status) ?? "none"}`;
  giveUp(turn, order, because);
}

/** Is the view, by the last poll, the one that the order is about. */
function isExpected(turn: Turn, order: OrderInHand): boolean {
  return viewOf(turn.state.status) === order.order.expectedFingerprint;
}

/** The epoch of an eviction is on disk: from now on the list may be told. */
function evictionWritten(turn: Turn, hand: EvictionInHand): void {
  const { state, now } = turn;
  const { order } = hand;
  const refused = refusal([...STILL_YOUNG, ...EVICT_CHECKS], { state, now, order });
  if (refused !== null) {
    dropUntold(turn, hand, refused);
    return;
  }
  set(turn, { eviction: { ...hand, phase: "evicting", since: now }, pollAt: now });
  if (order.grant?.segment === state.self.segment) hold(turn, hand);
}

/** Nobody was evicted yet, so that the order is void, and its epoch was never served under. */
function dropUntold(turn: Turn, hand: EvictionInHand, because: string): void {
  set(turn, { eviction: null });
  takeBack(turn, hand.servedBefore);
  log(turn, "order_failed", { epoch: hand.order.epoch, because });
  ack(turn, hand.ticket, { outcome: "refused", because: words(because) });
}

/** The epoch is this segment's: the order is the arbitrator's answer to the report that it quotes. */
function hold(turn: Turn, hand: { readonly order: Evict | MakePrimary; readonly from: PartyId }) {
  const { order, from } = hand;
  const sent = turn.state.sent.find((each) => each.number === order.reportNumber);
  const until = (sent?.at ?? Number.NEGATIVE_INFINITY) + turn.state.config.timing.leaseMs;
  set(turn, {
    grantEpoch: order.epoch,
    promisedEpoch: order.epoch,
    promises: new Map(turn.state.promises).set(from, { until, epoch: order.epoch, view: null }),
    primarySegment: turn.state.self.segment,
  });
}

/**
 * Looks whether an eviction has come true: a Primary without the evicted, or a part that is not Primary
 * yet, which the receiver named for it forms. Galera does either (measured): where everybody who is
 * missing was evicted the rest may make itself Primary, below quorum too.
 */
export function continueEviction(turn: Turn): void {
  const { eviction, status, process } = turn.state;
  if (eviction === null) return;
  if (eviction.phase === "writing") {
    if (turn.now < eviction.since + EVICT_DEADLINE_MS) return;
    dropUntold(turn, eviction, "its epoch could not be written in time");
    return;
  }
  const { order, since } = eviction;
  const present = new Set(status?.members.map((member) => member.uuid) ?? []);
  const rest = fingerprintMembers(order.expectedFingerprint).filter(
    (uuid) => !order.uuids.includes(uuid),
  );
  const apart =
    rest.every((uuid) => present.has(uuid)) && order.uuids.every((uuid) => !present.has(uuid));
  if (status?.primary === true && apart) {
    const proven = (order.grant !== null && eviction.inLine) || turn.state.proven;
    set(turn, { eviction: null, proven });
    log(turn, "evicted", { epoch: order.epoch, uuids: order.uuids });
    ack(turn, eviction.ticket, { because: "Primary without those evicted" });
    return;
  }
  const forms = status?.primary === false && apart && order.grant?.forms === true;
  if (forms && present.size === rest.length) {
    formAfter(turn, eviction);
    return;
  }
  if (process.is === "running" && turn.now < since + EVICT_DEADLINE_MS) return;
  set(turn, { eviction: null });
  const because = `the view is ${viewOf(status) ?? "none"} ${Math.round(turn.now - since)} ms after the eviction`;
  log(turn, "order_failed", { epoch: order.epoch, because });
  ack(turn, eviction.ticket, { outcome: "failed", because: words(because) });
}

/** What remains is not Primary: it is made so under the order in hand. */
function formAfter(turn: Turn, hand: EvictionInHand): void {
  const { order, from, ticket, servedBefore } = hand;
  const { grant, uuids, ...basics } = order;
  const view = viewOf(turn.state.status);
  if (grant === null || view === null) return;
  const { segment, forkPoint, basis } = grant;
  set(turn, {
    eviction: null,
    order: {
      order: {
        ...basics,
        segment,
        forkPoint,
        basis,
        expectedFingerprint: view,
        notedView: order.expectedFingerprint,
      },
      from,
      ticket,
      phase: "verifying",
      attempts: 0,
      // With everybody else evicted it may become Primary without being told.
      given: true,
      servedBefore,
      error: null,
      tryAgainAt: turn.now,
      evicted: uuids,
    },
  });
}

/** Ends an order that has not come true. */
function giveUp(turn: Turn, order: OrderInHand, because: string): void {
  set(turn, { order: null });
  // Refused makes the order void; that may be said only where pc.bootstrap was certainly never given.
  if (!order.given) takeBack(turn, order.servedBefore);
  log(turn, "order_failed", { epoch: order.order.epoch, because });
  ack(turn, order.ticket, {
    outcome: order.given ? "failed" : "refused",
    because: words(because),
  });
}

function succeed(turn: Turn, hand: OrderInHand): void {
  const { order, ticket, attempts } = hand;
  hold(turn, hand);
  set(turn, { order: null, proven: true });
  log(turn, "promoted", { epoch: order.epoch, attempts });
  ack(turn, ticket, { because: `Primary after ${attempts} attempt${attempts === 1 ? "" : "s"}` });
}
