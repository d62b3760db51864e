/**
 * What every role's deciding part looks like: three synchronous, total functions over plain values.
 * A core reads no clock, draws no chance and does no input or output; it is told, and it asks.
 */

/** Monotonic milliseconds of one process. Never compared with those of another host. */
export type Millis = number;

/** What a step leaves behind: the next state, and what is to be done, in that order. */
export interface Step<State, Effect> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

/** The deciding part of a role. */
export interface Core<State, Event, Effect> {
  /** Takes one event. Never throws on input from outside, never awaits. */
  step(state: State, event: Event, now: Millis): Step<State, Effect>;
  /** Earliest deadline held in the state, `Infinity` if there is none. After every step the loop arms its one timer at it. */
  dueAt(state: State): Millis;
}
