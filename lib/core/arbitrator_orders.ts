/** What people order the arbitrator to do: planned, carried out, noted. Every order is answered, and safe to repeat. */
import { clientWordMs } from "../cluster_config.ts";
import { unreachable } from "../errors.ts";
import type { Standing } from "../message/arbitrator.ts";
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import {
  ableServers,
  type Change,
  FLOOR_DEFAULT,
  type Order,
  openServers,
  planOrder,
  writersOutside,
} from "./arbitrator_plan.ts";
import { clip } from "./arbitrator_rules.ts";
import {
  type ArbitratorDurable,
  type ArbitratorState,
  activeServers,
  boundStores,
  deadlineKey,
  EPOCHS_MAX,
  isForgotten,
  noFork,
  sinceOf,
  standingOf,
  unknownFork,
  youngReport,
} from "./arbitrator_state.ts";
import { noteHealth } from "./arbitrator_survey.ts";
import { decided, emit, log, note, reply, set, type Turn } from "./arbitrator_turn.ts";
import type { Arrived, Millis } from "./core.ts";

/** After the time of a switchover is over, clients get so long to hear of it and cut. */
const CUT_MS = 2_000;

export function obeyPerson(turn: Turn, event: Arrived<"arbitrator">): void {
  const { body, ticket } = event;
  switch (body.verb) {
    case "db_status_report":
    case "status_summary":
    case "snapshot":
      return;
    case "history":
      turn.effects.push({ do: "read_history", ticket, ask: body.parameters });
      return;
    case "drain":
    case "undrain":
    case "retire":
    case "restore":
    case "start":
    case "discard":
    case "reseed":
    case "pause":
    case "resume":
    case "make_primary":
    case "switchover":
      obey(turn, ticket, body);
      return;
    default:
      unreachable(body);
  }
}

function obey(turn: Turn, ticket: number, order: Order): void {
  const { change, ...plan } = planOrder(turn.state, order, turn.now);
  if (order.parameters.dryRun === true) {
    turn.effects.push({ do: "reply", ticket, body: { verb: "plan", parameters: plan } });
    return;
  }
  const { who, why, dryRun: _, ...asked } = order.parameters;
  log(turn, "order", {
    order: order.verb,
    ...asked,
    who,
    why,
    outcome: plan.outcome,
    because: plan.because,
    epoch: turn.state.durable.epoch,
  });
  if (change !== null) carryOut(turn, order, change);
  if (change !== null) {
    const name = "node" in asked ? asked.node : "segment" in asked ? (asked.segment ?? "") : "";
    decided(turn, {
      rule: `order.${order.verb}`,
      because: clip(`${who}: ${name === "" ? "" : `${name}: `}${why === "" ? plan.because : why}`),
      wouldChange: "another order",
    });
  }
  noteHealth(turn);
  const outcome = plan.outcome === "refused" ? "refused" : "ok";
  reply(turn, ticket, { outcome, because: plan.because });
}

function carryOut(turn: Turn, order: Order, change: Change): void {
  switch (change.is) {
    case "note": {
      const before = new Set(turn.state.durable.standing);
      note(turn, change.durable);
      stamp(turn, before);
      // A server learns it with the ack of its next report: ask for one now.
      for (const to of change.tell) askAnew(turn, order, to);
      return;
    }
    case "rearm":
      rearm(turn);
      return;
    case "wish": {
      const wishes = new Map(turn.state.durable.wishes.map((wish) => [wish.server, wish]));
      const wishOf = (server: PartyId) => wishes.get(server) ?? { server, discard: [], starts: 0 };
      for (const id of change.start) {
        const wish = wishOf(id);
        wishes.set(id, { ...wish, starts: wish.starts + 1 });
      }
      for (const [id, discard] of change.discard) wishes.set(id, { ...wishOf(id), discard });
      keepInMind(turn, { wishes: [...wishes.values()] });
      for (const to of [...change.start, ...change.discard.keys()]) askAnew(turn, order, to);
      return;
    }
    case "reseed": {
      const { to, reportNumber, position } = change;
      const { epoch, storeId } = turn.state.durable;
      const because = clip(`${order.parameters.who}: ${order.parameters.why}`);
      turn.effects.push({
        do: "send",
        to,
        body: { verb: "reseed", parameters: { epoch, storeId, reportNumber, because, position } },
        expiresMs: turn.state.config.timing.resendMs,
      });
      return;
    }
    case "promote":
      // Granted by the decision that follows in this very step.
      set(turn, { person: change.person });
      return;
    default:
      unreachable(change);
  }
}

function askAnew(turn: Turn, order: Order, to: PartyId): void {
  const because = clip(`${order.verb} by ${order.parameters.who}`);
  turn.effects.push({
    do: "send",
    to,
    body: { verb: "request_status", parameters: { because } },
    expiresMs: turn.state.config.timing.resendMs,
  });
}

/** A store that is not to be trusted is left alone: what is written would pass for one after a restart. */
function keepInMind(
  turn: Turn,
  change: Pick<ArbitratorDurable, "wishes"> | Pick<ArbitratorDurable, "deadlines">,
): void {
  if (turn.state.observing === null) note(turn, change);
  else set(turn, { durable: { ...turn.state.durable, ...change } });
}

/** What people want of a server, for the answer to its report. */
export function wishesFor(
  state: ArbitratorState,
  id: PartyId,
): { readonly discard?: readonly string[]; readonly startOrders?: number } {
  const wish = state.durable.wishes.find(({ server }) => server === id);
  if (wish === undefined) return {};
  const { discard, starts } = wish;
  return {
    ...(discard.length === 0 ? {} : { discard }),
    ...(starts === 0 ? {} : { startOrders: starts }),
  };
}

/** What has come true is wanted no longer: old data that a server does not report, a start of one that runs. */
export function tendWishes(turn: Turn, from: PartyId, report: Report): void {
  const { wishes } = turn.state.durable;
  const wish = wishes.find(({ server }) => server === from);
  if (wish === undefined) return;
  const discard = wish.discard.filter((name) => report.aside?.some((one) => one.name === name));
  const starts = report.running === "up" ? 0 : wish.starts;
  const gone = discard.length < wish.discard.length;
  if (!gone && starts === wish.starts) return;
  const others = wishes.filter((one) => one !== wish);
  const over = discard.length === 0 && starts === 0;
  keepInMind(turn, { wishes: over ? others : [...others, { server: from, discard, starts }] });
  if (gone) log(turn, "discarded", { server: from, left: discard });
}

/** Deadlines of orders that are new count from now. */
function stamp(turn: Turn, before: ReadonlySet<Standing>): void {
  const { state, now } = turn;
  const since = new Map<string, Millis>();
  for (const standing of state.durable.standing) {
    const key = deadlineKey(standing);
    since.set(key, before.has(standing) ? (state.standingSince.get(key) ?? now) : now);
  }
  set(turn, { standingSince: since });
}

/**
 * Since when the orders of an earlier life stand: monotonic time does not outlive the process, so what
 * was left of a deadline goes on from now. The time between counts for nothing, which is the gentle side:
 * sessions are cut later, never sooner, than their deadline.
 */
export function standingSinceStart(
  durable: ArbitratorDurable,
  now: Millis,
): ReadonlyMap<string, Millis> {
  const left = new Map(durable.deadlines.map(({ order, leftMs }) => [order, leftMs]));
  return new Map(
    durable.standing.map((standing) => {
      const key = deadlineKey(standing);
      const { deadlineMs } = standing;
      const goneMs = deadlineMs === null ? 0 : deadlineMs - (left.get(key) ?? deadlineMs);
      return [key, now - Math.max(0, goneMs)];
    }),
  );
}

/** A deadline is written down again when so much of it has passed: what a restart may add to it. */
const DEADLINE_STEP_MS = 5_000;

/** Writes down what is left of deadlines, now and then while one runs, and at its end. */
export function tendDeadlines(turn: Turn): void {
  const { state, now } = turn;
  const { standing, deadlines } = state.durable;
  if (standing.length === 0 && deadlines.length === 0) return;
  const left = standing
    .filter(({ deadlineMs }) => deadlineMs !== null)
    .map((each) => ({
      order: deadlineKey(each),
      leftMs: Math.max(0, Math.round(deadlineOf(state, each) - now)),
    }));
  const noted = new Map(deadlines.map(({ order, leftMs }) => [order, leftMs]));
  const news = left.some(({ order, leftMs }) => {
    const before = noted.get(order);
    if (before === undefined || leftMs > before) return true;
    return before - leftMs >= DEADLINE_STEP_MS || (leftMs === 0 && before > 0);
  });
  if (news || left.length !== deadlines.length) keepInMind(turn, { deadlines: left });
}

/** So many epochs may have been granted that only the servers which are not heard know of. */
const UNHEARD_EPOCHS = EPOCHS_MAX;

/** Puts an arbitrator that has lost its state back to work, with the servers' memories. */
function rearm(turn: Turn): void {
  const { state, now } = turn;
  const reports = [...state.heard.values()].map((heard) => heard.report);
  const seen = reports.map((report) => report.epochSeen);
  // Servers obey only the store that they are bound to: one that was lost goes on under its name.
  const stores = boundStores(state);
  const [bound = state.durable.storeId] = stores.size === 1 ? stores : [];
  // Whoever is not heard may have served under the newest that the others have heard of.
  const allHeard = state.config.servers.every(({ id }) => state.heard.has(id));
  const served = Math.max(
    0,
    ...reports.map(({ epochServed, epochSeen }) => (allHeard ? epochServed : epochSeen)),
  );
  const forgotten = isForgotten(state, served);
  // Higher than any epoch that a server has heard of, so that none is granted twice.
  const epoch = Math.max(state.durable.epoch, ...seen) + (allHeard ? 1 : UNHEARD_EPOCHS);
  const { primarySegment } = state.durable;
  note(turn, {
    storeId: bound,
    // What a store noted that has missed an epoch is not the newest, so it proves nothing.
    noted: null,
    // Where an epoch began that it does not know: whoever served under an older one only cannot
    // prove that it is in line.
    epochs: [
      ...state.durable.epochs,
      ...(forgotten ? [unknownFork(served, primarySegment)] : []),
      // Where all are heard, nobody can have been granted that number.
      ...(allHeard ? [noFork(epoch, primarySegment)] : []),
    ].slice(-EPOCHS_MAX),
    epoch,
    grant: null,
    paused: null,
    standing: state.durable.standing.filter(({ verb }) => verb !== "pause"),
  });
  set(turn, { observing: null, armedAt: now + state.config.outwaitMs });
  log(turn, "rearmed", { epoch: turn.state.durable.epoch, storeId: bound });
}

// --- orders that stand -------------------------------------------------------------------------

/** What a server is told of the orders that stand. */
export function standingFor(
  state: ArbitratorState,
  id: PartyId,
  now: Millis,
): {
  readonly draining: boolean;
  readonly yielding: boolean;
  readonly cutting: boolean;
} {
  if (state.durable.standing.length === 0 && state.durable.draining.length === 0) return NOTHING;
  const drain = standingOf(state, "drain").find(({ about }) => about === id);
  // A drain waits while it would leave clients with fewer servers than it was to leave them.
  const floor = drain?.floor ?? FLOOR_DEFAULT;
  const draining =
    state.durable.draining.includes(id) && openServers(state, [id], now).length >= floor;
  const [move] = standingOf(state, "switchover");
  const yielding = move !== undefined && state.config.serverById.get(id)?.segment !== move.about;
  const over = (standing: typeof drain) =>
    standing !== undefined && standing.deadlineMs !== null && now >= deadlineOf(state, standing);
  return {
    draining,
    yielding,
    cutting: (draining && over(drain)) || (yielding && over(move)),
  };
}

const NOTHING = { draining: false, yielding: false, cutting: false } as const;

function deadlineOf(
  state: ArbitratorState,
  standing: Pick<Standing, "verb" | "about" | "deadlineMs">,
): Millis {
  const since = state.standingSince.get(deadlineKey(standing));
  if (since === undefined || standing.deadlineMs === null) return Number.POSITIVE_INFINITY;
  return since + standing.deadlineMs;
}

/** Ends a switchover that is done, or that its target can no longer carry. */
export function tendSwitchover(turn: Turn): void {
  const { state, now } = turn;
  const [move] = standingOf(state, "switchover");
  if (move === undefined || state.observing !== null) return;
  const { grant } = state.durable;
  if (grant !== null) {
    // A fault has decided where writers belong.
    endSwitchover(turn, `${grant.segment} was granted epoch ${grant.epoch}`, grant.segment);
    return;
  }
  const maxAgeMs = state.config.timing.suspectMs;
  const speaks = ({ id }: { readonly id: PartyId }) => youngReport(state, id, { now, maxAgeMs });
  const able = ableServers(state, move.about, now).length;
  const backs = move.about === move.from;
  // Silence may be a fault of this process, or of its network: it takes longer than a word.
  const failed = activeServers(state, move.about).every((server) => {
    const heardAt = state.heard.get(server.id)?.at ?? Number.NEGATIVE_INFINITY;
    return speaks(server) !== null || now - heardAt > state.config.outwaitMs;
  });
  if (able === 0 && failed && !backs) {
    endSwitchover(turn, `no server of ${move.about} can take the writers any more`, move.from);
    return;
  }
  if (now < heardBy(state, move) || now < wholeUntil(state, move)) return;
  if (writersOutside(state, move.about, now).length > 0) return;
  const told = state.config.servers.every((server) => {
    const report = speaks(server);
    return report === null || report.serving !== "on" || knows(report, server.segment, move.about);
  });
  if (told) endSwitchover(turn, `no writer is outside ${move.about}`, move.about);
}

function knows(report: Report, own: string, target: string): boolean {
  return report.primarySegment === target && report.yielding === (own !== target);
}

/** By then a client minder that had chosen just before the order, and was counted nowhere, has heard of it. */
function heardBy(state: ArbitratorState, { verb, about }: Standing): Millis {
  return sinceOf(state, verb, about) + clientWordMs(state.config);
}

/** Until then sessions may still have to be cut. */
function wholeUntil(
  state: ArbitratorState,
  move: Pick<Standing, "verb" | "about" | "deadlineMs">,
): Millis {
  return move.deadlineMs === null ? Number.NEGATIVE_INFINITY : deadlineOf(state, move) + CUT_MS;
}

function endSwitchover(turn: Turn, because: string, primarySegment: string): void {
  const { durable } = turn.state;
  const [move] = standingOf(turn.state, "switchover");
  note(turn, {
    primarySegment,
    standing: durable.standing.filter(({ verb }) => verb !== "switchover"),
  });
  const done = move?.about === primarySegment;
  decided(turn, {
    rule: done ? "switchover.done" : "switchover.ended",
    because: clip(`writers belong in ${primarySegment}: ${because}`),
    wouldChange: "another order, or a fault",
  });
  log(turn, done ? "switchover_done" : "switchover_ended", {
    segment: primarySegment,
    who: move?.who ?? "",
    because,
  });
  for (const { id } of turn.state.config.servers) {
    emit(turn, {
      do: "send",
      to: id,
      body: { verb: "request_status", parameters: { because: clip(because) } },
      expiresMs: turn.state.config.timing.resendMs,
    });
  }
}
