/** What people, cron and monitors say: questions and orders, each with who and why. */
import * as v from "valibot";
import { NameSchema, WordsSchema } from "./envelope.ts";

const signedEntries = {
  /** Who gave the order. */
  who: v.pipe(v.string(), v.minLength(1), v.maxLength(128)),
  why: WordsSchema,
};

export const StatusSummarySchema = v.strictObject({});

/** `drain`, `undrain`: a server name, a party id such as dbserver.2, or a segment. */
export const NodeOrderSchema = v.strictObject({ ...signedEntries, node: NameSchema });
export type NodeOrder = v.InferOutput<typeof NodeOrderSchema>;

/** `pause`; `resume`, which may also re-arm an arbitrator that has lost its state. */
export const PauseSchema = v.strictObject({ ...signedEntries });
export const ResumeSchema = v.strictObject({ ...signedEntries, rearm: v.boolean() });

/** `make_primary SEGMENT` by a person. */
export const MakePrimaryOrderSchema = v.strictObject({
  ...signedEntries,
  segment: NameSchema,
  allowDataLoss: v.boolean(),
});
export type MakePrimaryOrder = v.InferOutput<typeof MakePrimaryOrderSchema>;
