/** A core that notes what it is told and asks for what a test says; every mail test's inner part. */
import type { CommonEffect, CommonEvent, Core, Millis, Role } from "../../lib/core/core.ts";
import type { Body } from "../../lib/message/mod.ts";

export interface ToyState {
  /** What the core was told, with the time; wakeups left out. */
  readonly told: readonly { readonly at: Millis; readonly event: ToyEvent }[];
  readonly dueAt: Millis;
  /** Messages are answered with this at once; null leaves them unanswered. */
  readonly answer: Body | null;
}

export type ToyEvent =
  | CommonEvent<Role>
  /** The test makes the core ask for these. */
  | { readonly on: "ask"; readonly effects: readonly ToyEffect[] }
  | { readonly on: "done"; readonly effect: ToyEffect; readonly error: string | null };

export type ToyEffect =
  | CommonEffect<Role>
  | { readonly do: "work"; readonly name: string }
  | { readonly do: "persist"; readonly name: string };

export function toyState(changes: Partial<ToyState> = {}): ToyState {
  return { told: [], dueAt: Number.POSITIVE_INFINITY, answer: null, ...changes };
}

export const TOY_CORE: Core<ToyState, ToyEvent, ToyEffect> = {
  step(state, event, now) {
    if (event.on === "wakeup") {
      const dueAt = state.dueAt <= now ? Number.POSITIVE_INFINITY : state.dueAt;
      return { state: { ...state, dueAt }, effects: [] };
    }
    const after = { ...state, told: [...state.told, { at: now, event }] };
    if (event.on === "ask") return { state: after, effects: event.effects };
    if (event.on === "message" && state.answer !== null) {
      const reply = { do: "reply", ticket: event.ticket, body: state.answer } as ToyEffect;
      return { state: after, effects: [reply] };
    }
    return { state: after, effects: [] };
  },
  dueAt(state) {
    return state.dueAt;
  },
};
