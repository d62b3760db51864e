/**
 * The codec: bytes to messages and back. Which verbs go from whom to whom is one table, ROUTES;
 * the type of every message is inferred from it. The protocol in words is in README.md beside this.
 */
import * as v from "valibot";
import {
  EvictSchema,
  HistorySchema,
  MakePrimarySchema,
  PlanSchema,
  RequestStatusSchema,
  SnapshotSchema,
  StartOrderSchema,
  SummarySchema,
} from "./arbitrator.ts";
import {
  DrainSchema,
  HistoryAskSchema,
  MakePrimaryOrderSchema,
  NodeOrderSchema,
  PauseSchema,
  ResumeSchema,
  SnapshotAskSchema,
  StatusSummarySchema,
  SwitchoverSchema,
} from "./command.ts";
import { AckSchema, type Member, ReportSchema } from "./dbserver.ts";
import {
  BODY_MAX_BYTES,
  CountSchema,
  type Envelope,
  type PartyId,
  PartyIdSchema,
  type PartyType,
  partyType,
  SessionSchema,
  WIRE_VERSION,
  WORDS_MAX,
} from "./envelope.ts";
import { NotifySchema } from "./wsrep_notify_cmd.ts";

/** Schema of one verb with its parameters. */
function body<const Verb extends string, const Parameters extends v.GenericSchema>(
  verb: Verb,
  parameters: Parameters,
) {
  return v.strictObject({ verb: v.literal(verb), parameters });
}

const AckBody = body("ack", AckSchema);
const ReportBody = body("db_status_report", ReportSchema);
const RequestStatusBody = body("request_status", RequestStatusSchema);

/** Bodies by "sender type > receiver type"; a pair that is missing here never talks. */
export const ROUTES = {
  "dbserver>arbitrator": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>dbserver": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>dbclient": v.variant("verb", [ReportBody, AckBody]),
  "dbserver>wsrep_notify_cmd": v.variant("verb", [AckBody]),
  "dbclient>dbserver": v.variant("verb", [RequestStatusBody, AckBody]),
  "arbitrator>dbserver": v.variant("verb", [
    RequestStatusBody,
    body("make_primary", MakePrimarySchema),
    body("evict", EvictSchema),
    body("bootstrap", StartOrderSchema),
    body("start", StartOrderSchema),
    body("reseed", StartOrderSchema),
    AckBody,
  ]),
  "arbitrator>command": v.variant("verb", [
    body("status_summary", SummarySchema),
    body("history", HistorySchema),
    body("snapshot", SnapshotSchema),
    body("plan", PlanSchema),
    AckBody,
  ]),
  "command>arbitrator": v.variant("verb", [
    body("status_summary", StatusSummarySchema),
    body("drain", DrainSchema),
    body("undrain", NodeOrderSchema),
    body("retire", NodeOrderSchema),
    body("restore", NodeOrderSchema),
    body("start", NodeOrderSchema),
    body("discard", NodeOrderSchema),
    body("reseed", NodeOrderSchema),
    body("pause", PauseSchema),
    body("resume", ResumeSchema),
    body("make_primary", MakePrimaryOrderSchema),
    body("switchover", SwitchoverSchema),
    body("history", HistoryAskSchema),
    body("snapshot", SnapshotAskSchema),
  ]),
  "wsrep_notify_cmd>dbserver": v.variant("verb", [body("wsrep_notify_cmd", NotifySchema)]),
} as const;

export type Route = keyof typeof ROUTES;

/** Other spellings of a verb that are understood; the first one of a pair is never sent. */
export const ALIASES: Readonly<Record<string, string>> = {
  db_status: "db_status_report",
  status_request: "request_status",
  set_primary: "make_primary",
};

/** Verbs of people that only ask: nothing is changed by them. */
const QUESTIONS: readonly string[] = ["status_summary", "history", "snapshot"];

/** Does a message of a person only ask. */
export function isQuestion(body: { readonly verb: string }): boolean {
  return QUESTIONS.includes(body.verb);
}

/** Verb and parameters on one route. */
export type BodyOf<R extends Route> = v.InferOutput<(typeof ROUTES)[R]>;

/** All bodies that a role may receive. */
export type BodyTo<Role extends PartyType> = {
  [R in Route]: R extends `${string}>${Role}` ? BodyOf<R> : never;
}[Route];

/** All bodies that a role may send. */
export type BodyFrom<Role extends PartyType> = {
  [R in Route]: R extends `${Role}>${string}` ? BodyOf<R> : never;
}[Route];

export type Body = BodyOf<Route>;

/** A whole message. */
export type Message = Envelope & Body;

/** Party ids, verbs and the like that are wrong in a refusal are cut to this many characters. */
const SHOWN_MAX = 80;

/** Levels of lists and objects in a message; the deepest one, a summary, has seven. */
const DEPTH_MAX = 16;

/** Why a message is refused: a word for counters. */
export type RefusalReason =
  | "too_large"
  | "not_utf8"
  | "not_json"
  | "bad_text"
  | "too_deep"
  | "bad_envelope"
  | "wire_version"
  | "not_routed"
  | "unknown_verb"
  | "bad_parameters";

export type Decoded =
  | { readonly ok: true; readonly message: Message }
  | {
      readonly ok: false;
      /** The HTTP status to answer with. */
      readonly status: 400 | 403 | 413;
      readonly reason: RefusalReason;
      /** One line for people, with nothing of the outside in it that is long or not inert. */
      readonly error: string;
    };

const EnvelopeSchema = v.object({
  v: v.literal(WIRE_VERSION),
  sender: PartyIdSchema,
  receiver: PartyIdSchema,
  session: SessionSchema,
  seq: CountSchema,
  toSession: v.union([v.literal(""), SessionSchema], "Expected a session, or nothing"),
  configVersion: CountSchema,
  verb: v.string(),
});

const ENVELOPE_KEYS = [
  "v",
  "session",
  "seq",
  "toSession",
  "configVersion",
] as const satisfies readonly (keyof Envelope)[];
const MESSAGE_KEYS: readonly string[] = [
  ...ENVELOPE_KEYS,
  "sender",
  "receiver",
  "verb",
  "parameters",
];

/** Options of decodeMessage(). */
export interface DecodeOptions {
  /** @default BODY_MAX_BYTES */
  readonly maxBytes?: number;
}

/** Reads a message off the wire. Total: whatever comes in, a value comes out. */
export function decodeMessage(body: Uint8Array | string, options: DecodeOptions = {}): Decoded {
  const { maxBytes = BODY_MAX_BYTES } = options;
  // A text has at least as many bytes as UTF-16 units, so that its length is a safe first bound.
  if (body.length > maxBytes) {
    return refuse(413, "too_large", `A message has at most ${maxBytes} bytes`);
  }
  let text: string;
  try {
    text = typeof body === "string" ? body : new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return refuse(400, "not_utf8", "A message is UTF-8");
  }
  const brief = parseWithKnownMembers(text);
  if (brief !== null) return decodeSound(brief, null);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return refuse(400, "not_json", "A message is one JSON object");
  }
  const decoded = decodeSound(value, cannotBeFlawed(text, value) ? null : flawOf(value, 0));
  if (decoded.ok && decoded.message.verb === "db_status_report") {
    rememberMembers(text, decoded.message.parameters.members);
  }
  return decoded;
}

/** Lists of members that reports came with, newest last, and how they were written. */
const knownMembers: { readonly text: string; readonly members: readonly Member[] }[] = [];
/** A cluster has one view, and two while it is split or changes. */
const KNOWN_MEMBERS_MAX = 4;
const MEMBERS_KEY = '"members":';
/** In place of a list that is known: no list, so that it is told from what a sender writes. */
const CUT_OUT = 0;

/**
 * Reads a report whose list of members came before, letter for letter: with 64 servers the list is half
 * of a report and three quarters of the work, and the same in thousands of reports. The rest is read
 * as ever, the list taken as it was found sound. Null where that cannot be done.
 */
function parseWithKnownMembers(text: string): unknown {
  const at = text.indexOf(MEMBERS_KEY);
  if (at < 0) return null;
  const from = at + MEMBERS_KEY.length;
  const known = knownMembers.find((one) => text.startsWith(one.text, from));
  if (known === undefined) return null;
  const rest = `${text.slice(0, from)}${CUT_OUT}${text.slice(from + known.text.length)}`;
  let value: unknown;
  try {
    value = JSON.parse(rest);
  } catch {
    return null;
  }
  if (!cannotBeFlawed(rest, value)) return null;
  const { parameters } = value as { readonly parameters?: unknown };
  if (typeof parameters !== "object" || parameters === null) return null;
  // Where that key stood elsewhere, or stands twice, the list is not what the cut was made in.
  const report = parameters as { members?: unknown };
  if (report.members !== CUT_OUT) return null;
  report.members = known.members;
  return value;
}

/** Only as this side would write it: then its text says where it ends, whatever the names are. */
function rememberMembers(text: string, members: readonly Member[]): void {
  const written = JSON.stringify(members);
  if (!text.includes(`${MEMBERS_KEY}${written}`)) return;
  if (knownMembers.some((one) => one.text === written)) return;
  if (knownMembers.length >= KNOWN_MEMBERS_MAX) knownMembers.shift();
  knownMembers.push({ text: written, members });
}

/**
 * Is a text plainly without what flawOf() looks for: no escape that could make half a character (the
 * text itself is well-formed), and not too deep. True of every message in calm.
 */
function cannotBeFlawed(text: string, value: unknown): boolean {
  return text.isWellFormed() && !text.includes("\\u") && !isDeeper(value, 0);
}

function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (depth >= DEPTH_MAX) return true;
  const items = value as Readonly<Record<string, unknown>>;
  for (const key in items) if (isDeeper(items[key], depth + 1)) return true;
  return false;
}

/** The same for a value that is parsed already. */
export function decodeValue(value: unknown): Decoded {
  return decodeSound(value, flawOf(value, 0));
}

function decodeSound(value: unknown, flaw: Decoded | null): Decoded {
  if (flaw !== null) return flaw;
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return refuse(400, "not_json", "A message is one JSON object");
  }
  const raw = value as Readonly<Record<string, unknown>>;
  if (raw["v"] !== WIRE_VERSION) {
    return refuse(
      400,
      "wire_version",
      `Wire version ${show(raw["v"])} is not spoken here, only ${WIRE_VERSION}`,
    );
  }
  const head = v.safeParse(EnvelopeSchema, raw);
  if (!head.success) return refuse(400, "bad_envelope", wordIssues(head.issues));
  const foreign = Object.keys(raw).find((key) => !MESSAGE_KEYS.includes(key));
  if (foreign !== undefined) {
    return refuse(400, "bad_envelope", `A message has no key ${show(foreign)}`);
  }
  const { verb: written, ...envelope } = head.output;
  const route = routeOf(envelope.sender, envelope.receiver);
  if (route === null) {
    return refuse(
      403,
      "not_routed",
      `A ${partyType(envelope.sender)} has nothing to say to a ${partyType(envelope.receiver)}`,
    );
  }
  const verb = Object.hasOwn(ALIASES, written) ? ALIASES[written] : written;
  const known = verbsOf(route);
  if (verb === undefined || !known.includes(verb)) {
    const pair = route.replace(">", " to ");
    return refuse(
      400,
      "unknown_verb",
      `Verb ${show(written)} is not known from ${pair}, which are: ${known.join(", ")}`,
    );
  }
  // A list is an object to the schema, and one without entries would take it.
  if (Array.isArray(raw["parameters"])) {
    return refuse(400, "bad_parameters", `${verb}: parameters are an object, not a list`);
  }
  const parsed = v.safeParse(ROUTES[route], { verb, parameters: raw["parameters"] });
  if (!parsed.success)
    return refuse(400, "bad_parameters", `${verb}: ${wordIssues(parsed.issues)}`);
  // The schema of the route is the proof; the union of all routes is beyond what inference follows.
  return { ok: true, message: { ...envelope, ...parsed.output } as Message };
}

/** The route of a pair of parties; null if they never talk. */
export function routeOf(sender: PartyId, receiver: PartyId): Route | null {
  const route = `${partyType(sender)}>${partyType(receiver)}`;
  return Object.hasOwn(ROUTES, route) ? (route as Route) : null;
}

const VERBS = Object.fromEntries(
  Object.entries(ROUTES).map(([route, { options }]) => [
    route,
    options.map((option) => option.entries.verb.literal),
  ]),
) as unknown as Readonly<Record<Route, readonly string[]>>;

/** Verbs that may be sent on a route. */
export function verbsOf(route: Route): readonly string[] {
  return VERBS[route];
}

/** Writes a message for the wire, its keys always in the same order. */
export function encodeMessage(message: Message): string {
  const { v: version, sender, receiver, session, seq, toSession, configVersion } = message;
  const { verb, parameters } = message;
  const head = JSON.stringify({
    v: version,
    sender,
    receiver,
    session,
    seq,
    toSession,
    configVersion,
    verb,
  });
  return `${head.slice(0, -1)},"parameters":${parametersText(parameters)}}`;
}

/** A report goes to hundreds of receivers, and each may get it again: its text is made once. */
const parametersTexts = new WeakMap<object, string>();

function parametersText(parameters: object): string {
  const known = parametersTexts.get(parameters);
  if (known !== undefined) return known;
  const text = JSON.stringify(parameters);
  parametersTexts.set(parameters, text);
  return text;
}

/** Cuts a reason to what WordsSchema takes, without halving a character. */
export function words(text: string): string {
  const whole = text.toWellFormed();
  if (whole.length <= WORDS_MAX) return whole;
  return `${whole.slice(0, WORDS_MAX - 1).replace(/[\ud800-\udbff]$/, "")}…`;
}

/**
 * Finds what no schema looks for: nesting that would exhaust the stack, and lone surrogates, which
 * turn into other characters when they are written as UTF-8.
 */
function flawOf(value: unknown, depth: number): Decoded | null {
  if (typeof value === "string") {
    return value.isWellFormed()
      ? null
      : refuse(400, "not_utf8", "A text has half a character in it");
  }
  if (typeof value !== "object" || value === null) return null;
  if (depth >= DEPTH_MAX) {
    return refuse(400, "too_deep", `A message is at most ${DEPTH_MAX} levels deep`);
  }
  const items = Array.isArray(value) ? value : [...Object.keys(value), ...Object.values(value)];
  for (const item of items) {
    const flaw = flawOf(item, depth + 1);
    if (flaw !== null) return flaw;
  }
  return null;
}

function refuse(status: 400 | 403 | 413, reason: RefusalReason, error: string): Decoded {
  return { ok: false, status, reason, error };
}

/** The first complaint with its path, and how many more there are. */
function wordIssues(issues: readonly [v.BaseIssue<unknown>, ...v.BaseIssue<unknown>[]]): string {
  const [first, ...more] = issues;
  const path = (first.path ?? []).map((item) => String(item.key)).join(".");
  const at = path === "" ? "" : ` at ${cut(path)}`;
  return `${cut(first.message)}${at}${more.length === 0 ? "" : ` (and ${more.length} more)`}`;
}

/** A value from outside as one short inert line. */
function show(value: unknown): string {
  return cut(value === undefined ? "nothing" : quote(value));
}

function cut(text: string): string {
  const line = text.replace(/[^\x20-\x7e]/g, "?");
  return line.length <= SHOWN_MAX ? line : `${line.slice(0, SHOWN_MAX - 3)}...`;
}

// --- The text form: `sender receiver verb key=value …`, one line. ---

/** A value that is written as it stands: it cannot be taken for anything but a text. */
const BARE = /^[A-Za-z_/][A-Za-z0-9._:/+-]*$/;
const LITERALS = ["true", "false", "null"];

/** Writes a message as one line for logs, tests and people; parseText() reads it back unchanged. */
export function formatText(message: Message): string {
  const line: string[] = [message.sender, message.receiver, message.verb];
  for (const key of ENVELOPE_KEYS) line.push(`@${key}=${formatValue(message[key])}`);
  for (const [key, value] of Object.entries(message.parameters)) {
    line.push(`${key}=${formatValue(value)}`);
  }
  return line.join(" ");
}

function formatValue(value: unknown): string {
  if (typeof value === "string" && BARE.test(value) && !LITERALS.includes(value)) return value;
  return quote(value);
}

/** JSON without any character that ends a line or moves a terminal. */
function quote(value: unknown): string {
  const json = JSON.stringify(value) ?? "null";
  return json.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (found) =>
    Array.from(
      { length: found.length },
      (_, index) => `\\u${found.charCodeAt(index).toString(16).padStart(4, "0")}`,
    ).join(""),
  );
}

/** The envelope of a line that was typed; what the line says itself comes first. */
export type TextDefaults = Pick<Envelope, "session" | "seq" | "toSession" | "configVersion">;

const TYPED: TextDefaults = { session: "typed", seq: 1, toSession: "", configVersion: 0 };

/** Reads the text form. Total, like decodeMessage(), and just as strict about what comes out. */
export function parseText(line: string, defaults: TextDefaults = TYPED): Decoded {
  if (line.length > BODY_MAX_BYTES) {
    return refuse(413, "too_large", `A message has at most ${BODY_MAX_BYTES} bytes`);
  }
  const [sender, receiver, verb, ...rest] = splitLine(line.trim());
  if (sender === undefined || receiver === undefined || verb === undefined) {
    return refuse(400, "bad_text", "A message begins with sender, receiver and verb");
  }
  const envelope = new Map<string, unknown>([["v", WIRE_VERSION], ...Object.entries(defaults)]);
  const parameters = new Map<string, unknown>();
  const written = new Set<string>();
  for (const word of rest) {
    const end = word.indexOf("=");
    const key = end === -1 ? word : word.slice(0, end);
    if (end === -1 || !/^@?[A-Za-z][A-Za-z0-9]*$/.test(key)) {
      return refuse(400, "bad_text", `${show(word)} is not of the form key=value`);
    }
    if (written.has(key)) return refuse(400, "bad_text", `Key ${show(key)} is written twice`);
    written.add(key);
    const value = parseValue(word.slice(end + 1));
    if (!value.ok) return refuse(400, "bad_text", `The value of ${show(key)} is not JSON`);
    if (!key.startsWith("@")) parameters.set(key, value.value);
    else if (ENVELOPE_KEYS.some((known) => `@${known}` === key))
      envelope.set(key.slice(1), value.value);
    else return refuse(400, "bad_text", `The envelope has no ${show(key)}`);
  }
  return decodeValue({
    ...Object.fromEntries(envelope),
    sender,
    receiver,
    verb,
    parameters: Object.fromEntries(parameters),
  });
}

/** Splits at blanks that are outside of quotes, where a backslash takes the next character along. */
function splitLine(line: string): string[] {
  const found: string[] = [];
  let start = -1;
  let quoted = false;
  for (let index = 0; index < line.length; index++) {
    const character = line[index];
    if (quoted && character === "\\") index++;
    else if (character === '"') quoted = !quoted;
    const blank = !quoted && (character === " " || character === "\t");
    if (!blank && start === -1) start = index;
    else if (blank && start !== -1) {
      found.push(line.slice(start, index));
      start = -1;
    }
  }
  if (start !== -1) found.push(line.slice(start));
  return found;
}

function parseValue(
  text: string,
): { readonly ok: true; readonly value: unknown } | { readonly ok: false } {
  if (BARE.test(text) && !LITERALS.includes(text)) return { ok: true, value: text };
  try {
    return { ok: true, value: JSON.parse(text) };
  } catch {
    return { ok: false };
  }
}
