/**
 * What every role's deciding part looks like: synchronous, total functions over plain values.
 * A core reads no clock, draws no chance and does no input or output; it is told, and it asks.
 */
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import type { Body, BodyFrom, BodyTo } from "../message/mod.ts";

/** Monotonic milliseconds of one process. Never compared with those of another host. */
export type Millis = number;

/**
 * A copy with what a change says anew; the same state if that is nothing, as it mostly is. Only news is
 * written, one by one: two spreads in one literal cost three times as much, Object.assign a quarter more.
 */
export function updated<State extends object>(state: State, change: Partial<State>): State {
  let copy: State | null = null;
  for (const key in change) {
    if (Object.is(change[key], state[key])) continue;
    copy ??= { ...state };
    copy[key] = change[key] as State[typeof key];
  }
  return copy ?? state;
}

/** Is the server of that report Primary and Synced in that view, with nothing of its own left to prove. */
export function isSettledIn(view: string | null, report: Report): boolean {
  const { primary, fingerprint, stood, localState } = report;
  return (
    primary === "yes" && fingerprint === view && stood === undefined && localState === "Synced"
  );
}

/** What a step leaves behind: the next state, and what is to be done, in that order. */
export interface Step<State, Effect> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

/** The deciding part of a role. */
export interface Core<State, Event, Effect> {
  /** Takes one event. Never throws on input from outside, never awaits. */
  step(state: State, event: Event, now: Millis): Step<State, Effect>;
  /** Earliest deadline held in the state, `Infinity` if none. The loop arms its one timer at it. */
  dueAt(state: State): Millis;
}

/** The roles that have a core. */
export type Role = "arbitrator" | "dbserver" | "dbclient";

/** The one timer fired, or somebody brought it forward. Also the first event after start. */
export interface Wakeup {
  readonly on: "wakeup";
}

/** A message has come, new and from a party that may send it; `ticket` names the wait for its reply. */
export interface Arrived<R extends Role> {
  readonly on: "message";
  readonly from: PartyId;
  readonly body: Exclude<BodyTo<R>, { verb: "ack" }>;
  readonly ticket: number;
}

/** The reply to a message that this core sent. */
export interface Answered {
  readonly on: "answered";
  readonly by: PartyId;
  /** What was sent. */
  readonly sent: Body;
  /** When it was first sent, on this process's own clock: promises count from here. */
  readonly sentAt: Millis;
  readonly reply: Body;
}

/** The process was suspended, or its clocks disagree: every promise held counts as expired. */
export interface Suspended {
  readonly on: "suspended";
  readonly forMs: Millis;
}

/** State a message to a peer. A newer one of the same verb to the same peer replaces it. */
export interface Send<R extends Role> {
  readonly do: "send";
  readonly to: PartyId;
  readonly body: Exclude<BodyFrom<R>, { verb: "ack" }>;
  /** Not sent again after this long: commands expire. `Infinity`: until a newer state replaces it. */
  readonly expiresMs: Millis;
}

/** Answer the message of that ticket. A ticket is answered at most once; later answers are dropped. */
export interface Reply<R extends Role> {
  readonly do: "reply";
  readonly ticket: number;
  readonly body: BodyFrom<R>;
}

/** Events and effects that all roles share. */
export type CommonEvent<R extends Role> = Wakeup | Arrived<R> | Answered | Suspended;
export type CommonEffect<R extends Role> = Send<R> | Reply<R>;
