/** One step of the watchdog under way: the state as it becomes, and the effects so far. */
import type { Ack } from "../message/dbserver.ts";
import { type Millis, updated } from "./core.ts";
import type { DbServerEffect, ServerDurable } from "./dbserver_io.ts";
import { type DbServerState, viewOf } from "./dbserver_state.ts";

export interface Turn {
  state: DbServerState;
  readonly effects: DbServerEffect[];
  readonly now: Millis;
}

export function set(turn: Turn, change: Partial<DbServerState>): void {
  turn.state = updated(turn.state, change);
}

/** Changes what must not be forgotten. Whoever depends on it waits until `written` is `durable`. */
export function keep(turn: Turn, change: Partial<ServerDurable>): void {
  set(turn, { durable: { ...turn.state.durable, ...change } });
}

/**
 * The number under which it serves rises. Certain where a Primary view of that epoch is there; else a claim
 * until another Primary view is seen: the holder may end in the joint view that it was granted the epoch in.
 */
export function serveUnder(
  turn: Turn,
  epochServed: number,
  { certain }: { readonly certain: boolean },
): void {
  const { durable, status } = turn.state;
  const before = durable.claim?.before ?? durable.epochServed;
  keep(turn, { epochServed, claim: certain ? null : { before, view: viewOf(status) } });
}

/** An order was void: what the server had served under before it counts again. */
export function takeBack(turn: Turn, servedBefore: number): void {
  const { claim } = turn.state.durable;
  const stays = claim !== null && claim.before < servedBefore;
  keep(turn, { epochServed: servedBefore, claim: stays ? claim : null });
}

export function log(turn: Turn, event: string, fields: Readonly<Record<string, unknown>>): void {
  turn.effects.push({ do: "log", event, fields });
}

/** Answers a message without promising anything. */
export function ack(turn: Turn, ticket: number, answer: Partial<Ack>): void {
  const parameters: Ack = {
    outcome: "ok",
    because: "",
    promise: null,
    // Others prove themselves by it, so it is the word of a server that is proven itself and serves.
    epochServed: turn.state.closed ? null : turn.state.durable.epochServed,
    writer: null,
    arbitrator: null,
    ...answer,
  };
  turn.effects.push({ do: "reply", ticket, body: { verb: "ack", parameters } });
}
