/**
 * What Galera says through `wsrep_notify_cmd`: `--status S --uuid U --primary yes|no --index N
 * [--members UUID/NAME/ADDRESS,…]`. Names of other nodes are in it, so it is outside input.
 */
import * as v from "valibot";

export const NOTIFY_MEMBERS_MAX = 128;

/** The parsed argv of one notification; a hint only, the poll is the truth. */
export const NotifySchema = v.strictObject({
  status: v.pipe(v.string(), v.maxLength(64)),
  uuid: v.nullable(v.pipe(v.string(), v.maxLength(64))),
  primary: v.nullable(v.boolean()),
  index: v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(-1), v.maxValue(1024))),
  members: v.nullable(
    v.pipe(
      v.array(
        v.strictObject({
          uuid: v.pipe(v.string(), v.maxLength(64)),
          name: v.pipe(v.string(), v.maxLength(256)),
          address: v.pipe(v.string(), v.maxLength(256)),
        }),
      ),
      v.maxLength(NOTIFY_MEMBERS_MAX),
    ),
  ),
});
export type Notify = v.InferOutput<typeof NotifySchema>;
