/**
 * The config as versioned documents in the database, without the database: what a document may say
 * there, what a host keeps to itself, how two documents differ, what a change asks of the cluster, and
 * which document a process holds and which it goes by.
 *
 * Invariant: a change of the rules (voters, timings) is held until the arbitrator says that it is in
 * force; nothing else that a document says can move the safety of the cluster.
 */
import * as v from "valibot";
import type { ClusterConfig, ConfigProblem } from "./cluster_config.ts";
import { MinderError } from "./errors.ts";
import type { ConfigMark } from "./message/dbserver.ts";
import { PartyIdSchema } from "./message/envelope.ts";

// --- A node's own file. ---

const PathSchema = v.pipe(v.string(), v.regex(/^\/[^\p{Cc}]{1,1023}$/u, "an absolute path"));
const UserSchema = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9._-]{1,128}$/, "a user name of 1 to 128 characters out of A-Z a-z 0-9 . _ -"),
);
const AddressSchema = v.pipe(
  v.string(),
  v.regex(
    /^(?:\/[^\p{Cc}]{1,1023}|[A-Za-z0-9.-]{1,253}:[0-9]{1,5}|\[[0-9A-Fa-f:.]{2,45}\]:[0-9]{1,5})$/u,
    "the path of a socket, or host:port",
  ),
);

/** What only this host knows, and the database is not trusted with. */
const LocalTable = v.strictObject({
  /** Account of the watchdog on its own server, as `database.user` of a site file. */
  user: v.optional(UserSchema, "minder"),
  password_file: v.optional(PathSchema),
  mysql_socket: v.optional(PathSchema),
  datadir: v.optional(PathSchema),
  mariadbd: v.optional(
    v.pipe(v.array(v.pipe(v.string(), v.maxLength(4096))), v.minLength(1), v.maxLength(256)),
  ),
  unit: v.optional(v.pipe(v.string(), v.maxLength(210))),
  /** Control socket of the balancer beside a client minder. */
  balancer_socket: v.optional(v.pipe(v.string(), v.maxLength(1024))),
});

/** `node.toml`: how to reach the database, who this is, and what only this host knows. */
export const NodeFileSchema = v.strictObject({
  node: v.strictObject({
    id: v.optional(PartyIdSchema),
    state_dir: v.optional(PathSchema),
    /** Where it listens; the database cannot move that. */
    listen: v.optional(AddressSchema),
  }),
  database: v.strictObject({
    addresses: v.pipe(v.array(AddressSchema), v.minLength(1), v.maxLength(64)),
    user: v.optional(UserSchema, "minder_config"),
    password_file: v.optional(PathSchema),
  }),
  local: v.optional(LocalTable, {}),
  /** As in a site file; never out of the database. */
  security: v.optional(v.record(v.string(), v.unknown())),
});
export type NodeFile = v.InferOutput<typeof NodeFileSchema>;

/** Is a parsed file a node's own one, and not a whole cluster's config. */
export function isNodeFile(value: unknown): boolean {
  return isTable(value) && isTable(value["node"]) && !Object.hasOwn(value, "dbserver");
}

/** @throws MinderError naming the key and what is allowed */
export function parseNodeFile(value: unknown, where: string): NodeFile {
  const parsed = v.safeParse(NodeFileSchema, value);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  const key = v.getDotPath(issue);
  throw new MinderError(`Cannot use the node's file: ${key ?? "the document"}: ${issue.message}`, {
    where,
    hint: "config/node.example.toml names every key",
  });
}

// --- What a document in the database may say. ---

/**
 * Tables and keys that a document in the database must not have: how a host logs in, what it runs and
 * writes as root, and where its secrets are. Whoever may write to the database could else run anything
 * on every host.
 */
export const LOCAL_TABLES = ["database", "security", "node", "local"] as const;
const LOCAL_KEY = /^(?:state_dir|datadir|mariadbd|unit|mysql_socket|socket|.*_(?:file|command))$/;

/** Every key of a document that belongs into the node's own file. */
export function localKeys(value: unknown, path = ""): readonly string[] {
  if (Array.isArray(value)) {
    return value.flatMap((item, index) => localKeys(item, `${path}[${index}]`));
  }
  if (!isTable(value)) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    const here = path === "" ? key : `${path}.${key}`;
    const local = path === "" ? LOCAL_TABLES.some((each) => each === key) : LOCAL_KEY.test(key);
    return local ? [here] : localKeys(inner, here);
  });
}

/** The same as problems with what to do about them. */
export function localKeyProblems(value: unknown): readonly ConfigProblem[] {
  return localKeys(value).map((key) => ({
    key,
    text: `${key} may not be in the database: it is for each host alone to say`,
    hint: "Move it to the node's own file, as config/node.example.toml shows",
  }));
}

/** Stands where a host's own socket would be, in the entries of others. */
const ELSEWHERE = "/run/haproxy/admin.sock";

/**
 * The document as this host uses it: what the database must not say is filled in from the node's own
 * file for this party, and by defaults for the others, which nobody here looks at.
 */
export function localize(value: unknown, node: NodeFile | null): unknown {
  if (!isTable(value)) return value;
  const { id, state_dir } = node?.node ?? {};
  const local = node?.local ?? { user: "minder" };
  const own = (type: string) => (table: unknown) => {
    if (!isTable(table)) return table;
    const isOwn = id !== undefined && id === `${type}.${String(table["serial"])}`;
    const folder = isOwn && state_dir !== undefined ? { state_dir } : {};
    switch (type) {
      case "dbserver": {
        const { mysql_socket, datadir, mariadbd, unit } = local;
        return isOwn
          ? { ...table, ...folder, ...defined({ mysql_socket, datadir, mariadbd, unit }) }
          : table;
      }
      case "dbclient": {
        const balancer = isTable(table["balancer"]) ? table["balancer"] : {};
        const socket = (isOwn ? local.balancer_socket : undefined) ?? ELSEWHERE;
        return { ...table, balancer: { ...balancer, socket } };
      }
      default:
        return { ...table, ...folder };
    }
  };
  const lists = Object.fromEntries(
    ["arbitrator", "dbserver", "dbclient"].flatMap((type) => {
      const list = value[type];
      return Array.isArray(list) ? [[type, list.map(own(type))]] : [];
    }),
  );
  return {
    ...value,
    ...lists,
    database: defined({ user: local.user, password_file: local.password_file }),
    ...(node?.security === undefined ? {} : { security: node.security }),
  };
}

function defined(table: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(table).filter(([, value]) => value !== undefined));
}

const VERSION_LINE = /^version[ \t]*=[ \t]*\d+/m;

/** The text with another number in its version line; null if it has none before its first table. */
export function restamp(text: string, version: number): string | null {
  const table = /^\s*\[/m.exec(text)?.index ?? text.length;
  const found = VERSION_LINE.exec(text);
  if (found === null || found.index > table) return null;
  return text.replace(VERSION_LINE, `version = ${version}`);
}

// --- How two documents differ. ---

/** One key that two documents say differently; null where one of them does not have it. */
export interface Change {
  readonly key: string;
  readonly from: string | null;
  readonly to: string | null;
}

/** Differences by key; parties are matched by their serial, whatever their place in the file. */
export function diffDocuments(from: unknown, to: unknown): readonly Change[] {
  const before = flatten(from);
  const after = flatten(to);
  const keys = [...new Set([...before.keys(), ...after.keys()])].filter((key) => key !== "version");
  return keys.flatMap((key) => {
    const change = { key, from: before.get(key) ?? null, to: after.get(key) ?? null };
    return change.from === change.to ? [] : [change];
  });
}

/** Key to value as JSON: `dbserver.3.host`, by serial. */
function flatten(value: unknown, path = "", into = new Map<string, string>()): Map<string, string> {
  const join = (key: string) => (path === "" ? key : `${path}.${key}`);
  if (Array.isArray(value) && value.some(isTable)) {
    for (const [index, item] of value.entries()) {
      const serial = isTable(item) ? item["serial"] : undefined;
      flatten(item, join(typeof serial === "number" ? String(serial) : `[${index}]`), into);
    }
  } else if (isTable(value)) {
    for (const [key, inner] of Object.entries(value)) flatten(inner, join(key), into);
  } else if (path !== "") into.set(path, JSON.stringify(value) ?? String(value));
  return into;
}

/** A change on one line, as `diff` marks it. */
export function changeText({ key, from, to }: Change): string {
  if (from === null) return `+ ${key} = ${to}`;
  if (to === null) return `- ${key} = ${from}`;
  return `~ ${key} = ${from} -> ${to}`;
}

// --- What a change asks of the cluster. ---

/**
 * What decides who may serve: voters, timings, what happens in a double fault. It changes only in a
 * joint view, once every server holds the new document.
 */
export function rulesText(config: ClusterConfig): string {
  const { timing, onDoubleFault, evict, arbitrators, servers } = config;
  return JSON.stringify([
    Object.entries(timing).sort(([one], [other]) => (one < other ? -1 : 1)),
    [onDoubleFault, evict],
    arbitrators.map(({ id, host, port }) => [id, host, port]),
    servers
      .map(({ id, name, segment, weight, host, port, mysqlPort }) => {
        return [id, name, segment, weight, host, port, mysqlPort];
      })
      .sort(([one], [other]) => String(one).localeCompare(String(other))),
  ]);
}

/** What a document cannot change in a running cluster, in words; empty if it may be pushed. */
export function impossibleChanges(from: ClusterConfig, to: ClusterConfig): readonly string[] {
  const problems: string[] = [];
  const [before] = from.arbitrators;
  const [after] = to.arbitrators;
  if (before?.id !== after?.id || before?.host !== after?.host || before?.port !== after?.port) {
    problems.push(
      "arbitrator: it would move, and the servers would have nobody who says that the change is in force",
    );
  }
  for (const server of to.servers) {
    const was = from.serverById.get(server.id);
    if (was === undefined) continue;
    for (const key of ["name", "segment", "host", "port", "mysqlPort"] as const) {
      if (was[key] === server[key]) continue;
      problems.push(
        `${server.id}: its ${key} would become ${server[key]}; a server elsewhere is another one, with a serial of its own`,
      );
    }
  }
  for (const { name, servers } of from.segments) {
    const stay = servers.filter(({ id }) => to.serverById.get(id)?.segment === name);
    const next = to.segments.find((segment) => segment.name === name)?.servers.length ?? 0;
    if (2 * stay.length >= servers.length && 2 * stay.length >= next) continue;
    problems.push(
      `${name}: ${stay.length} of its ${servers.length} servers would stay among ${next}; at least half must, before and after`,
    );
  }
  return problems;
}

/** What a change does to the rules, in words for whoever pushes it; empty if it leaves them alone. */
export function ruleChanges(from: ClusterConfig, to: ClusterConfig): readonly string[] {
  if (rulesText(from) === rulesText(to)) return [];
  const added = to.servers.filter(({ id }) => !from.serverById.has(id));
  const removed = from.servers.filter(({ id }) => !to.serverById.has(id));
  const named = (servers: readonly { readonly id: string; readonly name: string }[]) =>
    servers.map(({ id, name }) => `${name} (${id})`).join(", ");
  return [
    ...(added.length === 0 ? [] : [`added: ${named(added)}`]),
    ...(removed.length === 0
      ? []
      : [`removed: ${named(removed)}: their watchdogs stop them, and let no client in again`]),
    "takes effect in a joint view, once every server holds it; `just status` shows it while it waits",
  ];
}

// --- Which document a process holds, and which it goes by. ---

/** A document with its identity. */
export interface Marked {
  readonly mark: ConfigMark;
}

/** What a process has: the document that it goes by, and a newer one that waits for the arbitrator's word. */
export interface Shelf<Doc extends Marked> {
  readonly active: Doc;
  readonly held: Doc | null;
}

export type Taken = "known" | "older" | "doubtful" | "held" | "active";

export interface OfferOptions {
  /** It was read from a server that is Primary: what it says of a version that is known otherwise holds. */
  readonly authoritative: boolean;
}

/** Takes a document that was found, or leaves it: what becomes of the shelf, and a word for why. */
export function offer<Doc extends Marked>(
  shelf: Shelf<Doc>,
  found: Doc,
  options: OfferOptions,
): { readonly shelf: Shelf<Doc>; readonly taken: Taken } {
  const newest = shelf.held ?? shelf.active;
  if (found.mark.version < newest.mark.version) return { shelf, taken: "older" };
  if (found.mark.version === newest.mark.version) {
    if (found.mark.checksum === newest.mark.checksum) return { shelf, taken: "known" };
    // Two pushes of one version, each on its side of a cut: the surviving database has the word.
    if (!options.authoritative) return { shelf, taken: "doubtful" };
  }
  const plain = found.mark.rules === shelf.active.mark.rules;
  return plain
    ? { shelf: { active: found, held: null }, taken: "active" }
    : { shelf: { active: shelf.active, held: found }, taken: "held" };
}

/** Goes by the document that the arbitrator has named; null if it is not here. */
export function activate<Doc extends Marked>(
  shelf: Shelf<Doc>,
  checksum: string,
): Shelf<Doc> | null {
  if (shelf.active.mark.checksum === checksum) return shelf;
  if (shelf.held?.mark.checksum !== checksum) return null;
  return { active: shelf.held, held: null };
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
