/** What people order the arbitrator to do. Every order is answered, and safe to repeat. */
import { unreachable } from "../errors.ts";
import type { MakePrimaryOrder, NodeOrder } from "../message/command.ts";
import type { EpochRecord } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { clip, factsOf, judge, PROMOTE } from "./arbitrator_rules.ts";
import { EPOCHS_MAX } from "./arbitrator_state.ts";
import { log, note, reply, set, type Turn } from "./arbitrator_turn.ts";
import type { Arrived } from "./core.ts";

/** A person's make_primary is worked on for so long. */
const PERSON_ORDER_MS = 15_000;

export function obeyPerson(turn: Turn, event: Arrived<"arbitrator">): void {
  const { body, ticket } = event;
  switch (body.verb) {
    case "db_status_report":
    case "status_summary":
      return;
    case "drain":
    case "undrain":
      obeyForNodes(turn, ticket, { verb: body.verb, list: "draining", order: body.parameters });
      return;
    case "retire":
    case "restore":
      obeyForNodes(turn, ticket, { verb: body.verb, list: "retired", order: body.parameters });
      return;
    case "pause":
      note(turn, { paused: clip(`by ${body.parameters.who}: ${body.parameters.why}`) });
      log(turn, "paused", { who: body.parameters.who, why: body.parameters.why });
      reply(turn, ticket, { outcome: "ok", because: "automatic decisions are paused" });
      return;
    case "resume":
      resume(turn, ticket, body.parameters);
      return;
    case "make_primary":
      makePrimary(turn, ticket, body.parameters);
      return;
    default:
      unreachable(body);
  }
}

/** Servers that a name stands for: a server's name, a party id, or a segment. */
function resolve(turn: Turn, name: string): readonly PartyId[] {
  return turn.state.config.servers
    .filter((server) => server.name === name || server.id === name || server.segment === name)
    .map((server) => server.id);
}

function obeyForNodes(
  turn: Turn,
  ticket: number,
  options: {
    readonly verb: "drain" | "undrain" | "retire" | "restore";
    readonly list: "draining" | "retired";
    readonly order: NodeOrder;
  },
): void {
  const { verb, list, order } = options;
  const ids = resolve(turn, order.node);
  if (ids.length === 0) {
    const known = turn.state.config.servers.map((server) => server.name).join(", ");
    reply(turn, ticket, {
      outcome: "refused",
      because: `no server or segment is called ${order.node}: there are ${known}`,
    });
    return;
  }
  const before = turn.state.durable[list];
  const adds = verb === "drain" || verb === "retire";
  const after = adds ? [...new Set([...before, ...ids])] : before.filter((id) => !ids.includes(id));
  if (after.length !== before.length) note(turn, { [list]: after });
  log(turn, verb, { node: order.node, who: order.who, why: order.why });
  // The server learns it with the ack of its next report: ask for one now.
  for (const id of list === "draining" ? ids : []) {
    turn.effects.push({
      do: "send",
      to: id,
      body: { verb: "request_status", parameters: { because: `${verb} by ${order.who}` } },
      expiresMs: turn.state.config.timing.resendMs,
    });
  }
  reply(turn, ticket, { outcome: "ok", because: `${verb}: ${ids.join(", ")}` });
}

function resume(
  turn: Turn,
  ticket: number,
  order: { readonly rearm: boolean; readonly who: string; readonly why: string },
): void {
  const { state, now } = turn;
  if (state.observing !== null && !order.rearm) {
    reply(turn, ticket, {
      outcome: "refused",
      because: `${state.observing}; say resume --rearm if you know that no other arbitrator is at work`,
    });
    return;
  }
  if (state.observing !== null) {
    const seen = [...state.heard.values()].map((heard) => heard.report.epochSeen);
    // Servers obey only the store that they are bound to: one that was lost goes on under its name.
    const stores = new Set([...state.heard.values()].flatMap(({ report }) => report.storeId ?? []));
    const [bound = state.durable.storeId] = stores.size === 1 ? stores : [];
    const served = Math.max(
      0,
      ...[...state.heard.values()].map(({ report }) => report.epochServed),
    );
    const forgotten = served > state.durable.epoch;
    note(turn, {
      storeId: bound,
      // What a store noted that has missed an epoch is not the newest, so it proves nothing.
      noted: null,
      // Where an epoch began that it does not know: whoever served under an older one only cannot
      // prove that it is in line.
      epochs: [
        ...state.durable.epochs,
        ...(forgotten ? [unknownFork(served, state.durable.primarySegment)] : []),
      ].slice(-EPOCHS_MAX),
      // Higher than any epoch that a server has heard of, so that none is granted twice.
      epoch: Math.max(state.durable.epoch, ...seen) + 1,
      grant: null,
      paused: null,
    });
    set(turn, { observing: null, armedAt: now + state.config.outwaitMs });
  } else note(turn, { paused: null });
  log(turn, "resumed", { ...order });
  reply(turn, ticket, {
    outcome: "ok",
    because: order.rearm ? "re-armed: decisions after one outwait" : "automatic decisions go on",
  });
}

/** An epoch whose fork point nobody remembers: every position differs from it. */
function unknownFork(epoch: number, segment: string): EpochRecord {
  return { epoch, segment, forkPoint: { uuid: "00000000-0000-0000-0000-000000000000", seqno: -1 } };
}

function makePrimary(turn: Turn, ticket: number, order: MakePrimaryOrder): void {
  const { state, now } = turn;
  if (!state.config.segments.some((segment) => segment.name === order.segment)) {
    const known = state.config.segments.map((segment) => segment.name).join(", ");
    reply(turn, ticket, {
      outcome: "refused",
      because: `no segment is called ${order.segment}: there are ${known}`,
    });
    return;
  }
  if (state.person !== null && now < state.person.until && state.person.segment !== order.segment) {
    reply(turn, ticket, {
      outcome: "refused",
      because: `${state.person.who} is making ${state.person.segment} primary`,
    });
    return;
  }
  const { segment, allowDataLoss, who, why } = order;
  set(turn, { person: { segment, allowDataLoss, who, until: now + PERSON_ORDER_MS } });
  const verdict = judge(factsOf(turn.state, segment, now));
  log(turn, "make_primary", { segment, allowDataLoss, who, why, rule: verdict.rule });
  if (verdict.rule === PROMOTE) {
    // Granted by the decision that follows in this very step.
    reply(turn, ticket, { outcome: "ok", because: verdict.because });
    return;
  }
  set(turn, { person: null });
  reply(turn, ticket, { outcome: "refused", because: clip(`${verdict.rule}: ${verdict.because}`) });
}
