/** One step of the arbitrator under way: the state as it becomes, and the effects so far. */
import type { Verdict } from "../message/arbitrator.ts";
import type { Ack } from "../message/dbserver.ts";
import type { ArbitratorDurable, ArbitratorEffect, ArbitratorState } from "./arbitrator_state.ts";
import { type Millis, updated } from "./core.ts";

/** One step under way. It lives only inside `step`; what goes in and comes out are plain values. */
export interface Turn {
  state: ArbitratorState;
  readonly effects: ArbitratorEffect[];
  readonly now: Millis;
}

export function set(turn: Turn, change: Partial<ArbitratorState>): void {
  turn.state = updated(turn.state, change);
}

/** Changes what must not be forgotten; everything sent from now on waits until it is written. */
export function note(turn: Turn, change: Partial<ArbitratorDurable>): void {
  set(turn, {
    durable: { ...turn.state.durable, ...change },
    revision: turn.state.revision + 1,
  });
}

export function log(turn: Turn, event: string, fields: Readonly<Record<string, unknown>>): void {
  turn.effects.push({ do: "log", event, fields });
}

/** Decisions kept for the summary. */
const DECISIONS_MAX = 32;

/** Keeps a decision for the summary, newest first. */
export function decided(turn: Turn, verdict: Verdict): void {
  const entry = { at: turn.now, verdict };
  set(turn, { decisions: [entry, ...turn.state.decisions].slice(0, DECISIONS_MAX) });
}

/** Sends now, or once everything noted so far is on disk. */
export function emit(turn: Turn, effect: ArbitratorEffect): void {
  const { state, now } = turn;
  const { revision, held } = state;
  if (revision === state.writtenRevision) turn.effects.push(effect);
  else set(turn, { held: [...held, { revision, effect, at: now }] });
}

/** Acknowledges a person's message once everything it rests on is on disk. */
export function reply(turn: Turn, ticket: number, ack: Pick<Ack, "outcome" | "because">): void {
  const none = { promise: null, epochServed: null, writer: null, arbitrator: null };
  const parameters: Ack = { ...ack, ...none };
  emit(turn, { do: "reply", ticket, body: { verb: "ack", parameters } });
}
