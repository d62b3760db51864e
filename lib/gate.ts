/**
 * What stands before every start of mariadbd by another manager: may it start, and how. Pure: what the
 * local watchdog or the arbitrator said goes in, a verdict comes out.
 *
 * Invariant: a start let through here is a join, fenced, without gvwstate.dat. Only the watchdog, by an
 * order, begins a cluster or sets data aside.
 */
import * as v from "valibot";
import type { Summary } from "./message/arbitrator.ts";
import { PositionSchema } from "./message/dbserver.ts";

/** The part of the watchdog's `GET /status` that concerns a start. */
export const WatchdogSaysSchema = v.object({
  start: v.object({
    /** A start that the watchdog itself has begun: its arguments are in place. */
    starting: v.boolean(),
    running: v.boolean(),
    verdict: v.picklist(["join", "reseed", "bootstrap", "wait"]),
    position: v.nullable(PositionSchema),
    because: v.string(),
  }),
});
export type WatchdogSays = v.InferOutput<typeof WatchdogSaysSchema>;

export type GateVerdict =
  /** `arguments` null: those that the watchdog has written stay. */
  | { readonly go: true; readonly arguments: "ordered" | "join"; readonly because: string }
  | { readonly go: false; readonly because: string };

/** Null where nobody answered. */
export interface GateFacts {
  readonly watchdog: WatchdogSays | null;
  readonly arbitrator: Summary | null;
}

export function gateVerdict({ watchdog, arbitrator }: GateFacts): GateVerdict {
  if (watchdog !== null) return byWatchdog(watchdog.start);
  if (arbitrator !== null) {
    const primary = arbitrator.servers.filter(({ report }) => report?.primary === "yes");
    if (primary.length === 0) {
      return {
        go: false,
        because: `nobody is Primary (${arbitrator.because}), and which server begins is the arbitrator's order to its watchdog: start that`,
      };
    }
    return {
      go: true,
      arguments: "join",
      because: `${primary.map(({ name }) => name).join(", ")} is Primary: joins, fenced until its watchdog runs`,
    };
  }
  return {
    go: true,
    arguments: "join",
    because:
      "neither watchdog nor arbitrator answers: joins only, fenced, and cannot be Primary alone",
  };
}

function byWatchdog(start: WatchdogSays["start"]): GateVerdict {
  if (start.starting) {
    return { go: true, arguments: "ordered", because: "ordered by the watchdog" };
  }
  if (start.running)
    return { go: false, because: "a mariadbd runs on this data directory already" };
  switch (start.verdict) {
    case "join":
      return { go: true, arguments: "join", because: "the arbitrator's verdict is join" };
    case "reseed":
      return {
        go: false,
        because:
          "it has rows that the others do not have: its watchdog sets them aside and starts it",
      };
    case "bootstrap":
    case "wait":
      return { go: false, because: `it has to wait: ${start.because}` };
    default:
      start.verdict satisfies never;
      return { go: false, because: "an unknown verdict" };
  }
}
