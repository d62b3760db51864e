/** What a server watchdog says: how its mariadbd is. */
import * as v from "valibot";
import {
  CountSchema,
  FingerprintSchema,
  MillisSchema,
  NameSchema,
  PartyIdSchema,
  quick,
  SeqnoSchema,
  UUID,
  UuidSchema,
  WordsSchema,
} from "./envelope.ts";

export const GROUPS = ["complete", "segment", "partial", "single", "down"] as const;

/** Longest name that a member gives itself. */
const NODE_NAME_MAX = 128;

/** One member of the Galera view that the reporter is in. */
export const MemberSchema = v.strictObject({
  uuid: UuidSchema,
  name: v.pipe(v.string(), v.maxLength(NODE_NAME_MAX)),
});
export type Member = v.InferOutput<typeof MemberSchema>;

const MEMBERS_MAX = 128;

/** Names of the members of a server's last Primary view. */
export const LastMembersSchema = v.pipe(
  v.array(v.pipe(v.string(), v.maxLength(NODE_NAME_MAX))),
  v.maxLength(MEMBERS_MAX),
  v.readonly(),
);

/**
 * The members of a view. With 64 servers they are most of a report, and each receiver reads many
 * reports a second: a list that is sound is recognised by hand, at a fifth of the schema's cost. What
 * is not goes to the schema, which has the words for it.
 */
export const MembersSchema = quick(
  v.pipe(v.array(MemberSchema), v.maxLength(MEMBERS_MAX), v.readonly()),
  areMembers,
);

/** Lists that were looked at: one comes with many reports. */
const soundLists = new WeakSet<readonly unknown[]>();

function areMembers(value: unknown): boolean {
  if (!Array.isArray(value) || value.length > MEMBERS_MAX) return false;
  if (soundLists.has(value)) return true;
  for (const member of value) {
    if (typeof member !== "object" || member === null || Array.isArray(member)) return false;
    const { uuid, name } = member as { readonly uuid?: unknown; readonly name?: unknown };
    if (typeof name !== "string" || name.length > NODE_NAME_MAX) return false;
    if (typeof uuid !== "string" || !UUID.test(uuid)) return false;
    for (const key in member) if (key !== "uuid" && key !== "name") return false;
  }
  soundLists.add(value);
  return true;
}

/** Where the data of a server stands. */
export const PositionSchema = v.strictObject({
  uuid: UuidSchema,
  seqno: SeqnoSchema,
});
export type Position = v.InferOutput<typeof PositionSchema>;

/** A mariadbd that has ended, by the kernel's word: what it was in Galera, and which process it was. */
export const EndedSchema = v.strictObject({
  uuid: UuidSchema,
  pid: CountSchema,
  startTime: CountSchema,
});
export type Ended = v.InferOutput<typeof EndedSchema>;

/** Identity of a config document of the database. */
export const ConfigMarkSchema = v.strictObject({
  version: CountSchema,
  /** SHA-256 of the text: two documents pushed on two sides of a cut may have one version. */
  checksum: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  /** The same of what decides who may serve: voters and timings. */
  rules: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});
export type ConfigMark = v.InferOutput<typeof ConfigMarkSchema>;

/** Data directories set aside that a report names. */
export const ASIDE_MAX = 16;

/** Name of a directory beside the data directory. */
export const AsideNameSchema = v.pipe(v.string(), v.regex(/^[^/]{1,255}$/, "Expected a name"));

/** A data directory that was set aside before a full state transfer. */
export const AsideSchema = v.strictObject({
  name: AsideNameSchema,
  bytes: CountSchema,
  /** Since it was set aside. */
  ageMs: CountSchema,
});
export type Aside = v.InferOutput<typeof AsideSchema>;

/** `db_status_report`: the whole state of one server, as its watchdog last saw it. */
export const ReportSchema = v.strictObject({
  /** Rises with every report of this session; orders quote the one they were decided on. */
  reportNumber: CountSchema,
  /** At which URL the watchdog is reached. */
  url: v.pipe(v.string(), v.maxLength(256)),
  running: v.picklist(["up", "down", "unknown"]),
  serving: v.picklist(["on", "off", "unknown"]),
  primary: v.picklist(["yes", "no", "unknown"]),
  group: v.picklist(GROUPS),
  /** Identity of the present view; null where mariadbd is in none. */
  fingerprint: v.nullable(FingerprintSchema),
  members: MembersSchema,
  stateUuid: v.nullable(UuidSchema),
  lastCommitted: SeqnoSchema,
  /** `wsrep_local_state_comment`. */
  localState: v.pipe(v.string(), v.maxLength(64)),
  /** `wsrep_evs_state`. */
  evsState: v.nullable(v.pipe(v.string(), v.maxLength(64))),
  /** `pc.weight` of this server, null where mariadbd does not say. */
  weight: v.nullable(CountSchema),
  /** Share of time that flow control paused replication, 0 to 1, since the previous poll. */
  flowControl: v.pipe(v.number(), v.minValue(0), v.maxValue(1)),
  /** Client statements are refused: read back, not just ordered. */
  fenced: v.boolean(),
  /** An order of a person: no new client connections. */
  draining: v.boolean(),
  /** A switchover takes the writers elsewhere: single writers leave it. */
  yielding: v.boolean(),
  /** Sessions that clients still have where none are wanted are cut, by an order whose time is over. */
  cutting: v.boolean(),
  /** A stop was ordered: said before mariadbd gets SIGTERM. */
  leaving: v.boolean(),
  /** Position of a stopped server, null while it runs or where none can be read. */
  position: v.nullable(PositionSchema),
  /** That position is still being read. @default false */
  reading: v.optional(v.boolean()),
  /** Where it stood when it left Primary, or was found, unless proven in line since. @default null */
  stood: v.optional(PositionSchema),
  /** mariadbd runs that this watchdog has not started, and it has not answered yet. @default false */
  adopted: v.optional(v.boolean()),
  /**
   * Commits were held when one was last tried, by flow control or a schema change, or none has been tried yet: behind a
   * cut that looks the same. @default false
   */
  held: v.optional(v.boolean()),
  /** `safe_to_bootstrap` of grastate.dat while stopped. */
  safeToBootstrap: v.boolean(),
  /** Store of the arbitrator that this server obeys (durable); null until its first order. */
  storeId: v.nullable(v.pipe(v.string(), v.maxLength(64))),
  /** Highest epoch that this server has heard of (durable). */
  epochSeen: CountSchema,
  /** Epoch under which it last served (durable). */
  epochServed: CountSchema,
  /**
   * Where it has been in no Primary view but the one that it held `epochServed` in first: the epoch under
   * which it served before. A grant or an order has raised the number, which may have come to nothing.
   * @default epochServed is certain
   */
  epochBefore: v.optional(CountSchema),
  /** Its last Primary view: what it can be promoted from. Null since mariadbd's start until there is one. */
  lastPrimary: v.nullable(
    v.strictObject({
      fingerprint: FingerprintSchema,
      /** Was it Synced in it. */
      synced: v.boolean(),
      /** What Galera weighed it at when it was last asked (`wsrep_cluster_weight`). @default unknown */
      weight: v.optional(CountSchema),
    }),
  ),
  /** Names of that view's members, also of an earlier mariadbd's (durable), unless Primary. @default unknown */
  lastMembers: v.optional(LastMembersSchema),
  /** The segment in which writers belong, as the arbitrator last named it; null before it has. */
  primarySegment: v.nullable(NameSchema),
  /** Write probe: commits flow; hang; hang for flow control or DDL ("held"); or were not tried. */
  probe: v.picklist(["flowing", "hanging", "held", "off"]),
  /** `wsrep_gcomm_uuid` of this mariadbd, or of the last one that ran. */
  gcommUuid: v.nullable(UuidSchema),
  /** The mariadbd that ended last under this watchdog's eyes; evidence for evicting it. */
  ended: v.nullable(EndedSchema),
  /** Servers whose watchdogs it has not heard for suspect_ms, where eviction goes so far. */
  silent: v.pipe(v.array(PartyIdSchema), v.maxLength(64), v.readonly()),
  /** Client minders that have it as their only writer, as their latest acks say. */
  writers: CountSchema,
  /** A guard process stands ready to kill an unfenced mariadbd of a dead watchdog. */
  guard: v.boolean(),
  /** Has rows beyond a fork point: must take a full state transfer before it serves. */
  diverged: v.boolean(),
  /** Data directories set aside before full transfers, which a person may discard. @default none */
  aside: v.optional(v.pipe(v.array(AsideSchema), v.maxLength(ASIDE_MAX), v.readonly())),
  /** Age of the poll behind this report. */
  pollAgeMs: MillisSchema,
  versions: v.strictObject({
    server: v.pipe(v.string(), v.maxLength(64)),
    provider: v.pipe(v.string(), v.maxLength(64)),
    minder: v.pipe(v.string(), v.maxLength(64)),
  }),
  /** Where the config comes from the database: the document it goes by, and a newer one that it holds. */
  config: v.optional(
    v.strictObject({ active: ConfigMarkSchema, held: v.nullable(ConfigMarkSchema) }),
  ),
  /** Why it serves or does not, in words. */
  because: WordsSchema,
});
export type Report = v.InferOutput<typeof ReportSchema>;

/** Start of an epoch: the last (state UUID, seqno) known to be common to both sides. */
export const EpochRecordSchema = v.strictObject({
  epoch: CountSchema,
  segment: NameSchema,
  forkPoint: v.nullable(PositionSchema),
  /** Version of the config under which it was granted, where that comes from the database. */
  configVersion: v.optional(CountSchema),
});
export type EpochRecord = v.InferOutput<typeof EpochRecordSchema>;

/** `ack`: the answer to most messages, with whatever the sender may now rely on. */
export const AckSchema = v.strictObject({
  outcome: v.picklist(["ok", "refused", "failed"]),
  because: WordsSchema,
  /** Promise not to give another segment the right to be primary for `ms` from this answer on. */
  promise: v.nullable(
    v.strictObject({
      ms: MillisSchema,
      /** The view for which it was given. */
      view: FingerprintSchema,
      /** The grant under which a solo view may serve; null for a joint view only. */
      epoch: v.nullable(CountSchema),
    }),
  ),
  /** Epoch under which the answering server last served; null from the arbitrator and from clients. */
  epochServed: v.nullable(CountSchema),
  /** From a client minder with a single writer only: the server that it has as such. */
  writer: v.nullable(NameSchema),
  /** From the arbitrator only: what is, beside the promise. */
  arbitrator: v.nullable(
    v.strictObject({
      /** Names the arbitrator's store; a server is bound to the first it obeyed. */
      storeId: v.pipe(v.string(), v.maxLength(64)),
      epoch: CountSchema,
      primarySegment: NameSchema,
      /** Epochs newer than the one that the reporter last served under. */
      epochs: v.pipe(v.array(EpochRecordSchema), v.maxLength(64)),
      draining: v.boolean(),
      /** A switchover takes the writers elsewhere. */
      yielding: v.boolean(),
      /** The time of the drain or switchover is over: what sessions are left may be cut. */
      cutting: v.boolean(),
      /** Servers without a say, by a person's order: left out where a segment's majority is counted. */
      retired: v.pipe(v.array(PartyIdSchema), v.maxLength(64)),
      /** Where the config comes from the database: the document that is in force. */
      config: v.optional(ConfigMarkSchema),
      /** Data directories of those reported as set aside that a person wants gone. @default none */
      discard: v.optional(v.pipe(v.array(AsideNameSchema), v.maxLength(ASIDE_MAX), v.readonly())),
      /** How often people have ordered to try again, since the arbitrator's start. @default 0 */
      startOrders: v.optional(CountSchema),
      /** Verdict for a stopped server. */
      start: v.picklist(["join", "reseed", "bootstrap", "wait"]),
      /** With the verdict "reseed": whose rows are in line with every epoch, serving or not. @default none */
      donors: v.optional(v.pipe(v.array(PartyIdSchema), v.maxLength(64), v.readonly())),
    }),
  ),
});
export type Ack = v.InferOutput<typeof AckSchema>;
