/** Forms of what the parties keep on disk; a file of another form is refused, not guessed at. */
import * as v from "valibot";
import type { ArbitratorDurable } from "../core/arbitrator_state.ts";
import type { ServerDurable } from "../core/dbserver_io.ts";
import { BASES, StandingSchema } from "../message/arbitrator.ts";
import {
  ASIDE_MAX,
  AsideNameSchema,
  ConfigMarkSchema,
  EpochRecordSchema,
  LastMembersSchema,
  PositionSchema,
} from "../message/dbserver.ts";
import {
  CountSchema,
  FingerprintSchema,
  MillisSchema,
  NameSchema,
  PartyIdSchema,
  SeqnoSchema,
  UuidSchema,
  WordsSchema,
} from "../message/envelope.ts";

const StoreIdSchema = v.pipe(v.string(), v.minLength(1), v.maxLength(64));

export const ServerDurableSchema: v.GenericSchema<unknown, ServerDurable> = v.strictObject({
  storeId: v.nullable(StoreIdSchema),
  epochSeen: CountSchema,
  epochObeyed: CountSchema,
  epochServed: CountSchema,
  leftPrimary: v.nullable(PositionSchema),
  // A file of before there were such is read all the same.
  claim: v.optional(
    v.nullable(v.strictObject({ before: CountSchema, view: v.nullable(FingerprintSchema) })),
    null,
  ),
  lastMembers: v.optional(LastMembersSchema, []),
});

export const ArbitratorDurableSchema: v.GenericSchema<unknown, ArbitratorDurable> = v.strictObject({
  storeId: StoreIdSchema,
  epoch: CountSchema,
  grant: v.nullable(
    v.strictObject({
      epoch: CountSchema,
      segment: NameSchema,
      kind: v.picklist(["form", "hold", "evict", "bootstrap"]),
      target: PartyIdSchema,
      expectedFingerprint: v.nullable(FingerprintSchema),
      forkPoint: v.nullable(PositionSchema),
      basis: v.picklist(BASES),
      order: v.picklist(["given", "done"]),
      evicted: v.exactOptional(v.array(UuidSchema)),
      changesSegment: v.boolean(),
    }),
  ),
  epochs: v.array(EpochRecordSchema),
  noted: v.nullable(
    v.strictObject({
      fingerprint: FingerprintSchema,
      members: v.array(v.pipe(v.string(), v.maxLength(128))),
      seqno: SeqnoSchema,
      epochServed: CountSchema,
    }),
  ),
  primarySegment: NameSchema,
  changedSegment: v.boolean(),
  paused: v.nullable(WordsSchema),
  draining: v.array(PartyIdSchema),
  retired: v.array(PartyIdSchema),
  // A store of before there were such is read all the same.
  standing: v.optional(v.array(StandingSchema), []),
  wishes: v.optional(
    v.array(
      v.strictObject({
        server: PartyIdSchema,
        discard: v.pipe(v.array(AsideNameSchema), v.maxLength(ASIDE_MAX)),
        starts: CountSchema,
      }),
    ),
    [],
  ),
  deadlines: v.optional(
    v.array(v.strictObject({ order: v.pipe(v.string(), v.maxLength(128)), leftMs: MillisSchema })),
    [],
  ),
  config: v.optional(
    v.strictObject({ active: ConfigMarkSchema, former: v.nullable(ConfigMarkSchema) }),
  ),
});
