/**
 * Galera's notification, from argv to a message. Pure, total on any argv, and without imports at run
 * time: mariadbd's replication thread waits while the handler loads.
 */
import type { Message } from "./message/mod.ts";
import type { Notify } from "./message/wsrep_notify_cmd.ts";

/** NOTIFY_MEMBERS_MAX of message/wsrep_notify_cmd.ts, whose import would cost the handler 10 ms. */
export const MEMBERS_MAX = 128;
const WORD_MAX = 64;
const TEXT_MAX = 256;
const INDEX_MAX = 1024;
const WORD = /^--(status|uuid|primary|index|members)(?:=([\s\S]*))?$/i;
/** What moves a terminal's cursor or breaks a log line. */
const CONTROLS = /[\p{Cc}\p{Zl}\p{Zp}]/gu;

/** Where the watchdog is and what it is called, taken from the front of argv. */
export interface NotifyTarget {
  /** Base URL of the watchdog, such as http://127.0.0.1:9471. */
  readonly to: string | null;
  /** Serial of the server: 1 of `--node dbserver.1` or `--node 1`. */
  readonly serial: number | null;
  /** What remains: Galera's own arguments. */
  readonly rest: readonly string[];
}

/**
 * Reads `--to URL --node dbserver.N` from the front of argv; `defaults` serve where they are missing.
 * Galera's arguments follow: names of other nodes in them never reach this part.
 */
export function parseTarget(
  argv: readonly string[],
  defaults: { readonly to: string | undefined; readonly node: string | undefined },
): NotifyTarget {
  let { to, node } = defaults;
  let at = 0;
  for (; at < argv.length; at += 2) {
    if (argv[at] === "--to") to = argv[at + 1];
    else if (argv[at] === "--node") node = argv[at + 1];
    else break;
  }
  const serial = /^(?:dbserver\.)?(0|[1-9]\d{0,4})$/.exec(node ?? "")?.[1];
  return {
    to: to !== undefined && /^https?:\/\/[^/?#\s]+\/?$/.test(to) ? to.replace(/\/$/, "") : null,
    serial: serial === undefined ? null : Number(serial),
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
    const [, key, inline] = WORD.exec(argv[at] ?? "") ?? [];
    if (key === undefined) continue;
    const next = argv[at + 1];
    if (inline !== undefined) values.set(key.toLowerCase(), inline);
    else if (next !== undefined && !WORD.test(next)) {
      values.set(key.toLowerCase(), next);
      at++;
    }
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

function parseYesNo(text: string | undefined): boolean | null {
  const word = text?.toLowerCase();
  return word === "yes" ? true : word === "no" ? false : null;
}

function parseIndex(text: string | undefined): number | null {
  if (text === undefined || !/^-?\d{1,4}$/.test(text)) return null;
  const index = Number(text);
  return index >= -1 && index <= INDEX_MAX ? index : null;
}

function parseMembers(list: string): NonNullable<Notify["members"]> {
  const members: { uuid: string; name: string; address: string }[] = [];
  let from = 0;
  while (from < list.length) {
    const comma = list.indexOf(",", from);
    const end = comma < 0 ? list.length : comma;
    if (members.length === MEMBERS_MAX - 1 && end < list.length) {
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

/** At most `max` UTF-16 units, none of them a control character or half of a pair. */
function inert(text: string, max: number): string {
  return text.slice(0, max).toWellFormed().replace(CONTROLS, "?");
}
