/**
 * Galera's notification, from argv to a message. Pure, and total on any argv. mariadbd's replication
 * thread waits while the handler runs, so there are no imports at run time and no regular expressions:
 * compiling five of them took longer than all the rest of the parsing (0.6 ms of 0.8).
 */
import type { Message } from "./message/mod.ts";
import type { Notify } from "./message/wsrep_notify_cmd.ts";

/** NOTIFY_MEMBERS_MAX of message/wsrep_notify_cmd.ts, which would bring its schema library along. */
export const MEMBERS_MAX = 128;
const WORD_MAX = 64;
const TEXT_MAX = 256;
const INDEX_MAX = 1024;
const SERIAL_MAX = 99_999;
const WORDS: readonly string[] = ["status", "uuid", "primary", "index", "members"];
const WORD_LONGEST = "--primary".length;

/** Where the watchdog is and what it is called, taken from the front of argv. */
export interface NotifyTarget {
  /** Base URL of the watchdog without a slash at its end, such as http://127.0.0.1:9471. */
  readonly to: string | null;
  /** Serial of the server: 1 of `--node dbserver.1` or `--node 1`. */
  readonly serial: number | null;
  /** mariadbd's socket, to close its door where no watchdog answers; null: it is left alone. */
  readonly socket: string | null;
  /** Account of the system user that mariadbd runs as. */
  readonly user: string;
  /** What remains: Galera's own arguments. */
  readonly rest: readonly string[];
}

/**
 * Reads `--to URL --node dbserver.N --socket PATH --user NAME` from the front of argv; `defaults` serve
 * where the first two are missing. Galera's arguments follow: names of other nodes in them never reach
 * this part.
 */
export function parseTarget(
  argv: readonly string[],
  defaults: { readonly to: string | undefined; readonly node: string | undefined },
): NotifyTarget {
  let { to, node } = defaults;
  let socket: string | null = null;
  let user = "mysql";
  let at = 0;
  for (; at < argv.length; at += 2) {
    const value = argv[at + 1];
    if (argv[at] === "--to") to = value;
    else if (argv[at] === "--node") node = value;
    else if (argv[at] === "--socket") socket = value ?? null;
    else if (argv[at] === "--user") user = value ?? user;
    else break;
  }
  const http = to !== undefined && (to.startsWith("http://") || to.startsWith("https://"));
  const digits = node?.startsWith("dbserver.") ? node.slice("dbserver.".length) : (node ?? "");
  const serial = Number(digits);
  // The round trip refuses what Number() forgives: blanks, signs, exponents, leading zeros.
  const whole = String(serial) === digits && serial >= 0 && serial <= SERIAL_MAX;
  return {
    to: to !== undefined && http ? (to.endsWith("/") ? to.slice(0, -1) : to) : null,
    serial: whole && Number.isSafeInteger(serial) ? serial : null,
    socket,
    user,
    rest: argv.slice(at),
  };
}

/**
 * Reads `--status S --uuid U --primary yes|no --index N [--members LIST]`. Words are taken without
 * regard to case, unknown ones are skipped, a value that makes no sense is null. A member list that is
 * too long ends in a mark: a member without UUID whose name says how many are missing.
 */
export function parseNotify(argv: readonly string[]): Notify {
  const values = new Map<string, string>();
  for (let at = 0; at < argv.length; at++) {
    const word = wordOf(argv[at]);
    const value = argv[at + 1];
    // A word after a word: the value is missing.
    if (word === null || value === undefined || wordOf(value) !== null) continue;
    values.set(word, value);
    at++;
  }
  const uuid = values.get("uuid");
  const members = values.get("members");
  return {
    status: inertWord(values.get("status") ?? ""),
    uuid: uuid === undefined ? null : inertWord(uuid),
    primary: parseYesNo(values.get("primary")),
    index: parseIndex(values.get("index")),
    members: members === undefined ? null : parseMembers(members),
  };
}

/**
 * Must the door be closed where no watchdog answers: the server is not Primary, or has come back to one.
 * Galera compares positions, never rows, so what it comes back with has to be proven before it serves.
 * `synced` without Primary is what pc.bootstrap says on its way (measured): somebody is at work there.
 */
export function closesUnanswered(notify: Pick<Notify, "status" | "primary">): Closing {
  if (ARRIVALS.includes(notify.status)) return "always";
  return notify.primary !== true && notify.status !== "synced" ? "unless_primary" : "no";
}

/** `unless_primary`: the word of having lost Primary may be late, and the door open again with good reason. */
export type Closing = "always" | "unless_primary" | "no";

/** The words by which a server itself enters a Primary view; the others there hear `synced`. */
const ARRIVALS: readonly string[] = ["joiner", "initialized", "joined"];

/** The message as it goes over the wire: one shot, so its session holds one message. */
export function notifyMessage(notify: Notify, serial: number, session: string): Message {
  return {
    v: 1,
    sender: `wsrep_notify_cmd.${serial}`,
    receiver: `dbserver.${serial}`,
    session,
    seq: 1,
    toSession: "",
    configVersion: 0,
    verb: "wsrep_notify_cmd",
    parameters: notify,
  };
}

/** `status` of `--Status`; null for anything that is none of Galera's words. */
function wordOf(text: string | undefined): string | null {
  if (text === undefined || text.length > WORD_LONGEST || !text.startsWith("--")) return null;
  const word = text.slice(2).toLowerCase();
  return WORDS.includes(word) ? word : null;
}

function parseYesNo(text: string | undefined): boolean | null {
  const word = text?.slice(0, WORD_MAX).toLowerCase();
  return word === "yes" ? true : word === "no" ? false : null;
}

function parseIndex(text: string | undefined): number | null {
  const index = Number(text);
  return String(index) === text && Number.isSafeInteger(index) && index >= -1 && index <= INDEX_MAX
    ? index
    : null;
}

function parseMembers(list: string): NonNullable<Notify["members"]> {
  const members: { uuid: string; name: string; address: string }[] = [];
  for (let from = 0; from < list.length; ) {
    const comma = list.indexOf(",", from);
    const end = comma < 0 ? list.length : comma;
    if (members.length === MEMBERS_MAX - 1 && comma >= 0) {
      const more = list.slice(from).split(",").length;
      members.push({ uuid: "", name: `(${more} more)`, address: "" });
      break;
    }
    members.push(parseMember(list.slice(from, end)));
    from = end + 1;
  }
  return members;
}

/** `UUID/NAME/ADDRESS`; the address of garbd is empty. */
function parseMember(text: string): { uuid: string; name: string; address: string } {
  const first = text.indexOf("/");
  const last = text.lastIndexOf("/");
  const uuid = first < 0 ? text : text.slice(0, first);
  return {
    uuid: inertWord(uuid),
    name: first < 0 ? "" : inert(text.slice(first + 1, last > first ? last : undefined), TEXT_MAX),
    address: last > first ? inert(text.slice(last + 1), TEXT_MAX) : "",
  };
}

/** The same in lower case; folding can lengthen a text, so it comes before the last cut. */
function inertWord(text: string): string {
  return inert(text.slice(0, WORD_MAX).toLowerCase(), WORD_MAX);
}

/** At most `max` UTF-16 units; what moves a terminal's cursor or breaks a line becomes `?`. */
function inert(text: string, max: number): string {
  const cut = text.slice(0, max).toWellFormed();
  let clean = "";
  for (let at = 0; at < cut.length; at++) {
    const code = cut.charCodeAt(at);
    const control = code < 32 || (code >= 127 && code < 160) || code === 0x2028 || code === 0x2029;
    clean += control ? "?" : cut.charAt(at);
  }
  return clean;
}
