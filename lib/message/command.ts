/** What people, cron and monitors say: questions and orders, each with who and why. */
import * as v from "valibot";
import { CountSchema, MillisSchema, NameSchema, WordsSchema } from "./envelope.ts";

/** What every order carries. */
const orderEntries = {
  /** Who gave the order. */
  who: v.pipe(v.string(), v.minLength(1), v.maxLength(128)),
  why: WordsSchema,
  /** Only say what it would do: answered by `plan`. @default false */
  dryRun: v.optional(v.boolean()),
  /** What another person has ordered before is no obstacle. @default false */
  takeOver: v.optional(v.boolean()),
};

export const StatusSummarySchema = v.strictObject({});

/** Events told at a time. */
export const HISTORY_MAX = 1_000;

/** `history`: what has happened. */
export const HistoryAskSchema = v.strictObject({
  /** Not longer ago than this, by the arbitrator's clock; null: from the beginning. */
  sinceMs: v.nullable(CountSchema),
  /** The newest so many. */
  limit: v.pipe(CountSchema, v.minValue(1), v.maxValue(HISTORY_MAX)),
});
export type HistoryAsk = v.InferOutput<typeof HistoryAskSchema>;

/** `snapshot`: everything that the arbitrator decides by. */
export const SnapshotAskSchema = v.strictObject({});

/** `undrain`, `retire`, `restore`, `start`, `discard`, `reseed`: a server name, a party id such as dbserver.2, or a segment. */
export const NodeOrderSchema = v.strictObject({ ...orderEntries, node: NameSchema });
export type NodeOrder = v.InferOutput<typeof NodeOrderSchema>;

/** `drain` NODE. */
export const DrainSchema = v.strictObject({
  ...orderEntries,
  node: NameSchema,
  /** Servers that stay open to clients at least; with fewer the drain waits. @default 1 */
  floor: v.optional(CountSchema),
  /** Sessions that are left after so long are cut. @default as each client's config says */
  deadlineMs: v.optional(MillisSchema),
});
export type DrainOrder = v.InferOutput<typeof DrainSchema>;

/** `pause`; `resume`, which may also re-arm an arbitrator that has lost its state. */
export const PauseSchema = v.strictObject({ ...orderEntries });
export type PauseOrder = v.InferOutput<typeof PauseSchema>;
export const ResumeSchema = v.strictObject({ ...orderEntries, rearm: v.boolean() });
export type ResumeOrder = v.InferOutput<typeof ResumeSchema>;

/** `make_primary SEGMENT` by a person. */
export const MakePrimaryOrderSchema = v.strictObject({
  ...orderEntries,
  segment: NameSchema,
  /** The person's word that whoever is silent is stopped. @default false */
  force: v.optional(v.boolean()),
  /** The segment may lack commits. */
  allowDataLoss: v.boolean(),
  /** Transactions that the person was told of and has confirmed; null: however many. Absent: none. */
  acceptedLoss: v.optional(v.nullable(CountSchema)),
});
export type MakePrimaryOrder = v.InferOutput<typeof MakePrimaryOrderSchema>;

/** `switchover SEGMENT`: a planned move of the writers; null moves them back where one is under way. */
export const SwitchoverSchema = v.strictObject({
  ...orderEntries,
  segment: v.nullable(NameSchema),
  /** Sessions that single writers have left behind after so long are cut. @default never */
  deadlineMs: v.optional(MillisSchema),
});
export type SwitchoverOrder = v.InferOutput<typeof SwitchoverSchema>;
