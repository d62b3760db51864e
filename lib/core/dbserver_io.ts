/** What the server watchdog's core is told and asks for. The core itself is dbserver.ts. */
import type { ClusterConfig } from "../cluster_config.ts";
import type { Aside, ConfigMark, Position } from "../message/dbserver.ts";
import type { Notify } from "../message/wsrep_notify_cmd.ts";
import type { WsrepStatus } from "../wsrep_status.ts";
import type { CommonEffect, CommonEvent, Millis } from "./core.ts";

/** What a watchdog must not forget: written with fsync before anything that depends on it. */
export interface ServerDurable {
  /** Store of the arbitrator that it obeys; null until the first. */
  readonly storeId: string | null;
  readonly epochSeen: number;
  /** Highest epoch whose order was obeyed. */
  readonly epochObeyed: number;
  /** Epoch under which it last served. */
  readonly epochServed: number;
  /** Where it stood when it last left Primary without having been proven in line since. */
  readonly leftPrimary: Position | null;
  /**
   * The epoch that it served under before a grant or an order raised the number, and the view that it was in
   * then, while no other Primary view has been seen since; else null.
   */
  readonly claim: { readonly before: number; readonly view: string | null } | null;
  /** Names of the members of its last Primary view: after a full outage they may know more than it does. */
  readonly lastMembers: readonly string[];
}

export const SERVER_DURABLE_NONE: ServerDurable = {
  storeId: null,
  epochSeen: 0,
  epochObeyed: 0,
  epochServed: 0,
  leftPrimary: null,
  claim: null,
  lastMembers: [],
};

/** Is there a mariadbd, as the kernel says. */
export type ProcessFact =
  | { readonly is: "running"; readonly pid: number; readonly startTime: number }
  | { readonly is: "stopped"; readonly because: string };

export type DbServerEvent =
  | CommonEvent<"dbserver">
  /** The kernel's word: at start, after a start, and at once when the process ends. */
  | { readonly on: "process"; readonly process: ProcessFact }
  | {
      readonly on: "polled";
      readonly startedAt: Millis;
      /** Null if SQL did not answer in time; `error` says why. */
      readonly status: WsrepStatus | null;
      readonly error: string | null;
      /** Nobody listens on its socket: no client gets in either. */
      readonly unreachable: boolean;
    }
  /** The write probe ended: committed, refused at once (not Primary, fenced: says nothing), or timed out. */
  | {
      readonly on: "probed";
      readonly startedAt: Millis;
      readonly outcome: "committed" | "refused" | "hung" | "held";
      readonly error: string | null;
    }
  | {
      readonly on: "position";
      readonly position: Position | null;
      readonly safeToBootstrap: boolean;
      readonly error: string | null;
    }
  /** `form_primary` ended: the statement was given, the view was no longer the expected one, or unknown. */
  | {
      readonly on: "formed";
      readonly outcome: "given" | "changed" | "failed";
      readonly error: string | null;
    }
  /** The guard was told of a deadline, or looked for: does it live. */
  | { readonly on: "guarded"; readonly alive: boolean }
  /** The document that the process goes by, and a newer one that waits for the arbitrator's word. */
  | {
      readonly on: "config";
      readonly config: ClusterConfig;
      readonly mark: ConfigMark;
      readonly held: ConfigMark | null;
    }
  /** What is set aside now, after a look or a removal; null if that could not be told. */
  | {
      readonly on: "aside";
      readonly found: readonly Aside[] | null;
      readonly error: string | null;
    }
  /** An effect that has no event of its own has ended. */
  | { readonly on: "done"; readonly effect: DbServerEffect; readonly error: string | null };

export type DbServerEffect =
  | CommonEffect<"dbserver">
  | { readonly do: "poll" }
  | { readonly do: "probe" }
  /** Refuse client statements and cut all client sessions; read back. */
  | { readonly do: "fence"; readonly because: string }
  | { readonly do: "unfence"; readonly because: string }
  /** `pc.bootstrap=YES`, if on the same connection the view is still the expected one and non-Primary. */
  | { readonly do: "form_primary"; readonly expectedFingerprint: string; readonly epoch: number }
  /** The eviction list becomes exactly these; `anew`: it holds others, and is emptied first. */
  | { readonly do: "evict"; readonly uuids: readonly string[]; readonly anew: boolean }
  /** Sets the periods that an eviction waits for: evs.join_retrans_period, evs.keepalive_period. */
  | { readonly do: "tune"; readonly periodMs: Millis }
  /** Read a stopped server's position, and put its gvwstate.dat aside. */
  | { readonly do: "read_position" }
  /** Go by the document that the arbitrator says is in force; followed by `config`. */
  | { readonly do: "adopt"; readonly mark: ConfigMark }
  /** Start mariadbd fenced, without gvwstate.dat; `reseed` sets its data aside first, so that it takes a full transfer. */
  | {
      readonly do: "start";
      readonly mode: "join" | "bootstrap" | "reseed";
      readonly position: Position | null;
      /** Name of the server to reseed from; null where it does not matter. */
      readonly donor: string | null;
    }
  /** SIGTERM, then SIGKILL after `graceMs`. */
  | { readonly do: "stop"; readonly graceMs: Millis }
  | { readonly do: "kill"; readonly because: string }
  | { readonly do: "persist"; readonly durable: ServerDurable }
  /** Which data directories are set aside, and how large they are. */
  | { readonly do: "look_aside" }
  /** Remove those of them. */
  | { readonly do: "discard"; readonly names: readonly string[] }
  /** Tells the guard when to kill this mariadbd unless told otherwise; null: it is fenced, or there is nothing to guard. */
  | {
      readonly do: "guard";
      readonly wanted: boolean;
      readonly killAt: Millis | null;
    }
  /** One line for people and the event log. */
  | {
      readonly do: "log";
      readonly event: string;
      readonly fields: Readonly<Record<string, unknown>>;
    };

/** A notification as it reaches the core. */
export type NotifyBody = { readonly verb: "wsrep_notify_cmd"; readonly parameters: Notify };
