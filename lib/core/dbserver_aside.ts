/**
 * What people order of a stopped or reseeded server: that old data directories go, and that a server
 * which was given up is tried again. Both come with the arbitrator's answer to a report, as what is
 * wanted now, so that a lost, late or repeated answer changes nothing.
 * Invariant: only directories that this watchdog has itself found set aside are ever removed.
 */
import type { Ack, Aside } from "../message/dbserver.ts";
import type { Millis } from "./core.ts";
import type { DbServerEvent } from "./dbserver_io.ts";
import type { DbServerState } from "./dbserver_state.ts";
import { log, set, type Turn } from "./dbserver_turn.ts";

/** A look that failed is repeated after this. */
const LOOK_AGAIN_MS = 60_000;

/** Data directories that were set aside, as last looked at. */
export interface AsideState {
  readonly found: readonly Aside[];
  /** When that look ended: ages go on from there. */
  readonly foundAt: Millis;
  /** When to look again; `Infinity` until something has changed them. */
  readonly lookAt: Millis;
  /** A look or a removal is under way. */
  readonly busy: boolean;
  /** Names that a person has ordered away. */
  readonly discard: readonly string[];
}

export function asideInitial(now: Millis): AsideState {
  return { found: [], foundAt: now, lookAt: now, busy: false, discard: NONE };
}

const NONE: readonly string[] = [];

export function asideDueAt({ aside }: DbServerState): Millis {
  return aside.busy ? Number.POSITIVE_INFINITY : aside.lookAt;
}

/** A reseed may have set another one aside. */
export function asideChanged(turn: Turn): void {
  set(turn, { aside: { ...turn.state.aside, lookAt: turn.now } });
}

/** What the arbitrator's answer wants of this server. */
export function hearWishes(turn: Turn, wishes: NonNullable<Ack["arbitrator"]>): void {
  const { aside, startOrders, process, failedStarts } = turn.state;
  const ordered = wishes.startOrders ?? 0;
  if (ordered !== startOrders) {
    set(turn, { startOrders: ordered });
    // Fewer than before: the arbitrator has been restarted, and nobody has ordered anything.
    if (ordered > startOrders && process.is === "stopped") {
      set(turn, { failedStarts: 0, startAt: turn.now });
      log(turn, "start_ordered", { because: "a person's order", failedStarts });
    }
  }
  const discard = wishes.discard ?? NONE;
  const same =
    discard.length === aside.discard.length &&
    discard.every((name, index) => name === aside.discard[index]);
  if (!same) set(turn, { aside: { ...aside, discard } });
}

/** Looks, or removes, where that is due. */
export function tendAside(turn: Turn): void {
  const { aside } = turn.state;
  if (aside.busy || (aside.discard.length === 0 && turn.now < aside.lookAt)) return;
  const names = aside.discard.filter((name) => aside.found.some((one) => one.name === name));
  // After a removal that failed `lookAt` lies ahead, which is when it is tried again.
  const waits = turn.now < aside.lookAt && Number.isFinite(aside.lookAt);
  if (names.length > 0 && !waits) {
    set(turn, { aside: { ...aside, busy: true } });
    turn.effects.push({ do: "discard", names });
  } else if (turn.now >= aside.lookAt) {
    set(turn, { aside: { ...aside, busy: true } });
    turn.effects.push({ do: "look_aside" });
  }
}

export function hearAside(turn: Turn, event: Extract<DbServerEvent, { on: "aside" }>): void {
  const { state, now } = turn;
  const { found, error } = event;
  const before = state.aside;
  const gone = before.found.filter(({ name }) => !found?.some((one) => one.name === name));
  if (found !== null && gone.length > 0)
    log(turn, "discarded", { names: gone.map((one) => one.name) });
  if (error !== null) log(turn, "aside_failed", { error });
  set(turn, {
    aside: {
      ...before,
      busy: false,
      found: found ?? before.found,
      foundAt: found === null ? before.foundAt : now,
      lookAt: error === null ? Number.POSITIVE_INFINITY : now + LOOK_AGAIN_MS,
    },
  });
}

/** For a report: each with its age by now. */
export function asideReport({ aside }: DbServerState, now: Millis): readonly Aside[] {
  return aside.found.map((one) => ({
    ...one,
    ageMs: Math.round(one.ageMs + Math.max(0, now - aside.foundAt)),
  }));
}
