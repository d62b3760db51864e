/**
 * What a poll asks of mariadbd, and its answer as a status: one reading of view, Galera's state and the
 * variables that a watchdog decides by. Text in, values out; who sends it is mysql.ts.
 */
import type { Member } from "../message/dbserver.ts";
import { durationMs, type WsrepStatus } from "../wsrep_status.ts";
import type { Rows } from "./mysql_link.ts";

const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;
const WHOLE_UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const UUID_ZERO = "00000000-0000-0000-0000-000000000000";

/**
 * View and members out of the plugin wsrep_info: it shows the present view, non-Primary ones too
 * (measured: 2+0 of 2, member list and status change together), in 0.1 ms.
 */
export const VIEW_BY_PLUGIN_SQL =
  "SELECT s.CLUSTER_STATUS, s.CLUSTER_SIZE, m.UUID, m.NAME, m.ADDRESS" +
  " FROM information_schema.WSREP_STATUS s LEFT JOIN information_schema.WSREP_MEMBERSHIP m ON 1";

/** Without the plugin: the members of the last Primary view, to be cut down by addresses. */
export const VIEW_BY_TABLE_SQL =
  "SELECT NULL, NULL, node_uuid, node_name, node_incoming_address FROM mysql.wsrep_cluster_members";

/** What a poll needs of the status: a third of all that Galera shows. */
const STATUS_NAMES = [
  "wsrep_cluster_conf_id",
  "wsrep_cluster_size",
  "wsrep_cluster_state_uuid",
  "wsrep_cluster_status",
  "wsrep_cluster_weight",
  "wsrep_connected",
  "wsrep_evs_evict_list",
  "wsrep_evs_state",
  "wsrep_flow_control_active",
  "wsrep_flow_control_paused_ns",
  "wsrep_gcomm_uuid",
  "wsrep_incoming_addresses",
  "wsrep_last_committed",
  "wsrep_local_recv_queue",
  "wsrep_local_state_comment",
  "wsrep_provider_version",
  "wsrep_ready",
] as const;

/**
 * As one cell: each row costs the reader a packet, and 65 of them were most of what a poll cost.
 * SESSION: the wsrep values are the same, and it spares summing up over all threads.
 */
export const STATUS_SQL =
  "SELECT JSON_OBJECTAGG(LOWER(VARIABLE_NAME), VARIABLE_VALUE)" +
  " FROM information_schema.SESSION_STATUS" +
  ` WHERE VARIABLE_NAME IN (${STATUS_NAMES.map((name) => `'${name}'`).join(", ")})`;

export const STATUS_ROWS_SQL = "SHOW SESSION STATUS LIKE 'wsrep\\_%'";

/** What a poll needs of the provider's options. */
const OPTION_NAMES = ["pc.weight", "evs.join_retrans_period", "evs.keepalive_period"] as const;

/** The options are one text of 3 kB: what is needed is cut out where it is, and has the same form. */
const OPTIONS_SQL = `CONCAT_WS('; ', ${OPTION_NAMES.map(
  (name) =>
    `CONCAT('${name} = ', SUBSTRING_INDEX(SUBSTRING_INDEX(` +
    `@@global.wsrep_provider_options, '${name} = ', -1), ';', 1))`,
).join(", ")})`;

export const VARIABLES_SQL = `SELECT @@global.wsrep_reject_queries, @@global.read_only, ${OPTIONS_SQL}, @@global.version`;

/** The answer to one poll, set by set. */
export interface PollRows {
  readonly source: "plugin" | "table";
  readonly members: Rows;
  /** Names and values. */
  readonly status: Rows;
  readonly variables: Rows;
}

/** A poll's rows as a status. `torn`: view and status were read on two sides of a change. */
export function statusFromRows(rows: PollRows): { status: WsrepStatus; torn: boolean } {
  const values = new Map(rows.status.map((row) => [row[0] ?? "", row[1] ?? ""]));
  const [rejectQueries, readOnly, providerOptions, version] = rows.variables[0] ?? [];
  const primary = values.get("wsrep_cluster_status") === "Primary";
  const gcommUuid = uuidOf(values.get("wsrep_gcomm_uuid"));
  // After an incremental transfer that failed half way the provider is closed, and nothing resets
  // wsrep_connected: what is gone is the group's own name for this server (measured).
  const connected = values.get("wsrep_connected") === "ON" && gcommUuid !== null;
  const size = numberOf(values.get("wsrep_cluster_size")) ?? 0;
  const listed = rows.members.filter((row) => row[2] != null);
  const view = rows.members[0];
  const behind = (view?.[0] === "primary") !== primary || Number(view?.[1] ?? 0) !== size;
  // The plugin learns of a view only once wsrep_notify_cmd has returned, the status before it is
  // called. What members a shrunken or promoted view has is told by the addresses meanwhile.
  const inView =
    rows.source === "plugin" && !behind
      ? listed
      : present(listed, values.get("wsrep_incoming_addresses") ?? "");
  // A list of the wrong length is of another view: no list is better than that.
  const members = connected && inView.length === size ? (membersOf(inView) ?? []) : [];
  const torn = connected && rows.source === "plugin" && behind && members.length === 0;
  const stateUuid = uuidOf(values.get("wsrep_cluster_state_uuid"));
  const options = providerOptions ?? "";
  const weight = connected ? countOf(optionOf(options, "pc.weight")) : null;
  return {
    torn,
    status: {
      primary,
      ready: values.get("wsrep_ready") === "ON",
      connected,
      stateUuid: stateUuid === UUID_ZERO ? null : stateUuid,
      confId: confIdOf(values.get("wsrep_cluster_conf_id")),
      lastCommitted: countOf(values.get("wsrep_last_committed")) ?? -1,
      localState: wordOf(values.get("wsrep_local_state_comment")),
      gcommUuid,
      evsState: wordOf(values.get("wsrep_evs_state")) || null,
      members,
      weight,
      clusterWeight: countOf(values.get("wsrep_cluster_weight")),
      flowControlPausedNs: countOf(values.get("wsrep_flow_control_paused_ns")) ?? 0,
      flowControlActive: values.get("wsrep_flow_control_active") === "true",
      recvQueue: countOf(values.get("wsrep_local_recv_queue")) ?? 0,
      rejecting: rejectQueries != null && rejectQueries !== "NONE",
      readOnly: readOnly === "1",
      joinRetransMs: durationMs(optionOf(options, "evs.join_retrans_period")),
      keepaliveMs: durationMs(optionOf(options, "evs.keepalive_period")),
      evictList: values.get("wsrep_evs_evict_list")?.toLowerCase().match(UUID) ?? [],
      serverVersion: wordOf(version),
      providerVersion: wordOf(values.get("wsrep_provider_version")),
    },
  };
}

/** The number of a Primary view; what is shown outside of one, and for a moment at its beginning, is none. */
function confIdOf(value: string | undefined): string | null {
  return value === undefined || value === NO_CONF_ID ? null : value;
}

const NO_CONF_ID = "18446744073709551615";

/** Names and values out of one JSON object of texts; null if it is none. */
export function entriesOf(json: string): Rows | null {
  try {
    const entries = Object.entries(JSON.parse(json) as object);
    return entries.every(([, value]) => typeof value === "string") ? entries : null;
  } catch {
    return null;
  }
}

/** Rows of the last Primary view whose address is in the present one; garbd has an empty address. */
function present(rows: Rows, incoming: string): Rows {
  if (incoming === "") return [];
  const addresses = incoming.split(",").map((address) => address.trim());
  return rows.filter((row) => addresses.includes(row[4] ?? ""));
}

/** Null if one of them has no UUID: a list that lacks a member would be that of another view. */
function membersOf(rows: Rows): readonly Member[] | null {
  const members: Member[] = [];
  for (const row of rows) {
    const uuid = uuidOf(row[2]);
    if (uuid === null) return null;
    members.push({ uuid, name: wordOf(row[3], NAME_MAX) });
  }
  return members.length <= MEMBERS_MAX ? members : null;
}

/** As a report holds them (lib/message/dbserver.ts): a report that is refused leaves a server unheard. */
const WORD_MAX = 64;
const NAME_MAX = 128;
/** Members whose UUIDs fit into a fingerprint. */
const MEMBERS_MAX = 100;

/** A text of the server, cut to what a report holds and to whole characters. */
function wordOf(text: string | null | undefined, max = WORD_MAX): string {
  return (text ?? "").slice(0, max).toWellFormed();
}

function uuidOf(text: string | null | undefined): string | null {
  return text != null && WHOLE_UUID.test(text) ? text.toLowerCase() : null;
}

/** A number that cannot be negative. */
function countOf(text: string | null | undefined): number | null {
  const value = numberOf(text);
  return value === null || value < 0 ? null : value;
}

/** A count as a number; null if absent, not a number, or the "none" of unsigned counters. */
function numberOf(text: string | null | undefined): number | null {
  if (text === null || text === undefined || text === "") return null;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : null;
}

/** One value of `a = 1; b = 2`. */
export function optionOf(options: string, key: string): string | null {
  for (const part of options.split(";")) {
    const at = part.indexOf("=");
    if (at > 0 && part.slice(0, at).trim() === key) return part.slice(at + 1).trim();
  }
  return null;
}
