/** What the arbitrator says: orders to servers, questions, and summaries to people. */
import * as v from "valibot";
import { HISTORY_MAX } from "./command.ts";
import { PositionSchema, ReportSchema } from "./dbserver.ts";
import {
  CountSchema,
  FingerprintSchema,
  MillisSchema,
  NameSchema,
  PartyIdSchema,
  UuidSchema,
  WordsSchema,
} from "./envelope.ts";

/** What every order carries: under which epoch, by whose store, on which report of the receiver. */
const orderEntries = {
  epoch: CountSchema,
  storeId: v.pipe(v.string(), v.minLength(1), v.maxLength(64)),
  /** The receiver's own report on which this was decided; it refuses if that is no longer young. */
  reportNumber: CountSchema,
  because: WordsSchema,
};

/** Why nothing outside the component can be a writable Primary. */
export const BASES = ["arithmetic", "confirmed", "outwaited", "forced"] as const;

/** `make_primary` to a server: form the Primary component, if things are still as they were. */
export const MakePrimarySchema = v.strictObject({
  ...orderEntries,
  segment: NameSchema,
  /** The non-Primary view in which the receiver must be. */
  expectedFingerprint: FingerprintSchema,
  /** The Primary view from which every member of the component came. */
  notedView: v.nullable(FingerprintSchema),
  forkPoint: v.nullable(PositionSchema),
  basis: v.picklist(BASES),
});
export type MakePrimary = v.InferOutput<typeof MakePrimarySchema>;

/** `evict`: exclude members that are silent or have ended, without waiting for Galera's own detection. */
export const EvictSchema = v.strictObject({
  ...orderEntries,
  uuids: v.pipe(v.array(UuidSchema), v.minLength(1), v.maxLength(64)),
  /** The stalled Primary view in which the receiver must be. */
  expectedFingerprint: FingerprintSchema,
  /** Under which grant what remains is to serve alone; null where it is joint and keeps the quorum. */
  grant: v.nullable(
    v.strictObject({
      segment: NameSchema,
      forkPoint: v.nullable(PositionSchema),
      basis: v.picklist(BASES),
      /** The receiver forms the Primary where what remains does not become so by itself. */
      forms: v.boolean(),
    }),
  ),
});
export type Evict = v.InferOutput<typeof EvictSchema>;

/**
 * `bootstrap`, `start`: orders to a stopped server, with the position it was judged by. `reseed`: to one that
 * runs too, which stops first; then the position is null.
 */
export const StartOrderSchema = v.strictObject({
  ...orderEntries,
  position: v.nullable(PositionSchema),
});
export type StartOrder = v.InferOutput<typeof StartOrderSchema>;

export const RequestStatusSchema = v.strictObject({ because: WordsSchema });
export type RequestStatus = v.InferOutput<typeof RequestStatusSchema>;

/** A decision as a value: which rule, why, and what would change it. */
export const VerdictSchema = v.strictObject({
  rule: v.pipe(v.string(), v.maxLength(64)),
  because: WordsSchema,
  wouldChange: WordsSchema,
});
export type Verdict = v.InferOutput<typeof VerdictSchema>;

/** Standing orders at a time: a drain and a retirement of each server, a pause, a switchover. */
export const STANDING_MAX = 2 * 64 + 2;

/** An order of a person that stands until it is taken back, or carried out. */
export const StandingSchema = v.strictObject({
  verb: v.picklist(["pause", "drain", "retire", "switchover"]),
  /** The server's party id, the segment; empty for a pause. */
  about: v.pipe(v.string(), v.maxLength(64)),
  who: v.pipe(v.string(), v.maxLength(128)),
  why: WordsSchema,
  /** Sessions left after so long are cut; null: never by this order. */
  deadlineMs: v.nullable(MillisSchema),
  /** Of a drain: servers that stay open to clients at least; with fewer it waits. */
  floor: CountSchema,
  /** Of a switchover: where writers belonged before; else empty. */
  from: v.pipe(v.string(), v.maxLength(64)),
});
export type Standing = v.InferOutput<typeof StandingSchema>;

/** What a person loses by an order, as far as it can be told. */
export const LossSchema = v.strictObject({
  /** Transactions that servers left behind are known to have beyond those that go on. */
  transactions: CountSchema,
  /** Is that all of it: everybody left behind has said where it stands. */
  exact: v.boolean(),
  because: WordsSchema,
  /** What a person types to accept it; empty where nothing is lost. */
  confirmation: WordsSchema,
});
export type Loss = v.InferOutput<typeof LossSchema>;

/** `plan`: what an order would do now, by the very checks and steps that carry it out. */
export const PlanSchema = v.strictObject({
  order: v.pipe(v.string(), v.maxLength(64)),
  /** would: it would be done; already: it is so; refused: the first failing check says why. */
  outcome: v.picklist(["would", "already", "refused"]),
  because: WordsSchema,
  checks: v.pipe(
    v.array(
      v.strictObject({
        id: v.pipe(v.string(), v.maxLength(64)),
        passed: v.boolean(),
        because: WordsSchema,
      }),
    ),
    v.maxLength(64),
    v.readonly(),
  ),
  steps: v.pipe(v.array(WordsSchema), v.maxLength(64), v.readonly()),
  loss: v.nullable(LossSchema),
});
export type Plan = v.InferOutput<typeof PlanSchema>;

/** One thing that happened, as the event log has it. */
export const HappenedSchema = v.strictObject({
  seq: CountSchema,
  /** The arbitrator's own wall clock, ISO 8601: for people, never compared. */
  time: v.pipe(v.string(), v.maxLength(32)),
  event: v.pipe(v.string(), v.maxLength(64)),
  /** Newest epoch when it happened. */
  epoch: CountSchema,
  /** What else is known of it, as JSON. */
  fields: v.pipe(v.string(), v.maxLength(65_536)),
});
export type Happened = v.InferOutput<typeof HappenedSchema>;

/** `history` as answered to a person. */
export const HistorySchema = v.strictObject({
  events: v.pipe(v.array(HappenedSchema), v.maxLength(HISTORY_MAX), v.readonly()),
  /** Why the log is not written or has begun anew; null while all is well. */
  illness: v.nullable(WordsSchema),
});

/** Any time span within the life of a process. */
const SpanSchema = v.pipe(v.number(), v.finite(), v.minValue(0), v.maxValue(1e12));

/** `snapshot` as answered: enough to ask the rules what would happen if something were otherwise. */
export const SnapshotSchema = v.strictObject({
  configVersion: CountSchema,
  /** What is durable, as JSON. */
  durable: v.pipe(v.string(), v.maxLength(262_144)),
  observing: v.nullable(WordsSchema),
  diskError: v.nullable(WordsSchema),
  /** Left of the outwait after its start, of the window after a change of segment, of the wait after an order. */
  armedLeftMs: SpanSchema,
  windowLeftMs: SpanSchema,
  orderPauseLeftMs: SpanSchema,
  longestPromiseMs: SpanSchema,
  /** Since the noted view was written down; null: in an earlier life. */
  notedAgoMs: v.nullable(SpanSchema),
  servers: v.pipe(
    v.array(
      v.strictObject({
        id: PartyIdSchema,
        heardAgoMs: SpanSchema,
        /** Null: no change was seen. */
        weightChangedAgoMs: v.nullable(SpanSchema),
        /** Null: none was given. */
        promisedAgoMs: v.nullable(SpanSchema),
        report: ReportSchema,
      }),
    ),
    v.maxLength(64),
    v.readonly(),
  ),
});
export type Snapshot = v.InferOutput<typeof SnapshotSchema>;

/** `status_summary` as answered to a person. */
export const SummarySchema = v.strictObject({
  cluster: NameSchema,
  health: v.picklist(["healthy", "degraded", "no_writable_primary", "cannot_tell"]),
  because: WordsSchema,
  primarySegment: NameSchema,
  servingSegment: v.nullable(NameSchema),
  epoch: CountSchema,
  epochHolder: v.nullable(NameSchema),
  notedView: v.nullable(FingerprintSchema),
  paused: v.boolean(),
  configVersion: CountSchema,
  servers: v.array(
    v.strictObject({
      id: PartyIdSchema,
      name: NameSchema,
      segment: NameSchema,
      /** Age of the latest report; null if there has been none. */
      heardAgoMs: v.nullable(MillisSchema),
      retired: v.boolean(),
      draining: v.boolean(),
      report: v.nullable(ReportSchema),
    }),
  ),
  /** Per segment: may it be promoted, and if not, which rule says no. */
  segments: v.array(
    v.strictObject({ name: NameSchema, weight: CountSchema, verdict: VerdictSchema }),
  ),
  /** The latest decisions, newest first, `agoMs` before the answer. */
  decisions: v.pipe(
    v.array(v.strictObject({ agoMs: v.pipe(v.number(), v.minValue(0)), verdict: VerdictSchema })),
    v.maxLength(32),
  ),
  /** Orders of people that stand. */
  orders: v.pipe(v.array(StandingSchema), v.maxLength(STANDING_MAX)),
  warnings: v.pipe(v.array(WordsSchema), v.maxLength(64)),
});
export type Summary = v.InferOutput<typeof SummarySchema>;
