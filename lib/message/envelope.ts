/**
 * The envelope: who speaks to whom, in which session, and as which message of it.
 * Everything here arrives from outside, so every string and number has a bound.
 */
import * as v from "valibot";

/** Version of the wire format; a receiver refuses others by name. */
export const WIRE_VERSION = 1;

/** Largest message body in bytes; a report of 64 servers' member lists fits ten times over. */
export const BODY_MAX_BYTES = 262_144;

/** Largest status_summary in bytes: it carries a whole report of each of 64 servers. */
export const SUMMARY_MAX_BYTES = 4_194_304;

export const PARTY_TYPES = [
  "arbitrator",
  "dbserver",
  "dbclient",
  "wsrep_notify_cmd",
  "command",
] as const;
export type PartyType = (typeof PARTY_TYPES)[number];

/** `type.serial`, as in `dbserver.2`. */
export type PartyId = `${PartyType}.${number}`;

export const PartyIdSchema = v.pipe(
  v.string(),
  v.regex(
    /^(arbitrator|dbserver|dbclient|wsrep_notify_cmd|command)\.(0|[1-9]\d{0,4})$/,
    "Expected a party such as dbserver.2: type and serial",
  ),
  v.transform((text) => text as PartyId),
);

/** Type of a party id: `dbserver` of `dbserver.2`. */
export function partyType(id: PartyId): PartyType {
  // Asked for every message: no type begins with another, and a known text costs nothing to make.
  for (const type of PARTY_TYPES) if (id.startsWith(type)) return type;
  return id.slice(0, id.lastIndexOf(".")) as PartyType;
}

/** Serial of a party id: 2 of `dbserver.2`. */
export function partySerial(id: PartyId): number {
  return Number(id.slice(id.lastIndexOf(".") + 1));
}

/** A schema that takes what `isSound` recognises as it is, and looks itself at the rest. */
export function quick<Schema extends v.GenericSchema>(
  schema: Schema,
  isSound: (value: unknown) => boolean,
): Schema {
  const run: Schema["~run"] = (dataset, config) => {
    if (!isSound(dataset.value)) return schema["~run"](dataset, config);
    return Object.assign(dataset, { typed: true as const });
  };
  return { ...schema, "~run": run };
}

/** A count that only rises: sequence, epoch, report number, version. */
export const CountSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** A Galera seqno; -1 where there is none. */
export const SeqnoSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(-1));

/** A duration in milliseconds, at most one day. */
export const MillisSchema = v.pipe(v.number(), v.finite(), v.minValue(0), v.maxValue(86_400_000));

export const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** A Galera UUID, of a state or of a member. */
export const UuidSchema = v.pipe(v.string(), v.regex(UUID, "Expected a UUID in lower case"));

/** A node or segment name: inert in a shell, a file name and a log line alike. */
export const NameSchema = v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/));

/** Longest reason or note, in UTF-16 units. */
export const WORDS_MAX = 1000;

/** Words for people: a reason, a note. */
export const WordsSchema = v.pipe(v.string(), v.maxLength(WORDS_MAX));

/**
 * Identity of a view: `stateUuid/P|N/memberUuid+memberUuid…`, member UUIDs sorted.
 * `wsrep_cluster_conf_id` is not an identity: both halves of a split can show the same value.
 */
export const FingerprintSchema = v.pipe(v.string(), v.maxLength(4096), v.transform(oneText));

/** Texts of views that came before, newest last: a cluster has few at a time. */
const texts: string[] = [];
const TEXTS_MAX = 8;

/**
 * The same text for the same view, whoever reports it: with 64 servers it has 2400 characters, and each
 * report is compared with all others. A text compared with itself is not looked at.
 */
function oneText(text: string): string {
  const known = texts.find((other) => other === text);
  if (known !== undefined) return known;
  if (texts.length >= TEXTS_MAX) texts.shift();
  texts.push(text);
  return text;
}

/** Random per process start; names one life of a process. */
export const SessionSchema = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,64}$/));

/** Everything of a message but verb and parameters. */
export interface Envelope {
  readonly v: typeof WIRE_VERSION;
  readonly sender: PartyId;
  readonly receiver: PartyId;
  /** The sender's session. */
  readonly session: string;
  /** Rises by one per message within the session. */
  readonly seq: number;
  /** The receiver's session as the sender knows it; empty where it does not know one yet. */
  readonly toSession: string;
  readonly configVersion: number;
}
