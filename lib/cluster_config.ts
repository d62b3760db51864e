/**
 * The checked, frozen description of the cluster. A plain value goes in (parsed TOML or JSON), a
 * ClusterConfig comes out with everything that can be derived from it; nothing else reads config.
 */
import * as v from "valibot";
import { MinderError } from "./errors.ts";
import type { PartyId } from "./message/envelope.ts";

/** Durations in milliseconds; see config/cluster.example.toml for each one's reason. */
export interface Timing {
  /** @default 500 */
  readonly reportIntervalMs: number;
  /** @default 500 */
  readonly pollIntervalMs: number;
  /** Poll interval while anything is uncertain. @default 20 */
  readonly pollFastMs: number;
  /** Hard limit of one poll. @default 1000 */
  readonly pollTimeoutMs: number;
  /** @default 500 */
  readonly probeIntervalMs: number;
  /** A write that takes longer hangs. @default 1000 */
  readonly probeTimeoutMs: number;
  /** @default 3000 */
  readonly leaseMs: number;
  /** @default 1000 */
  readonly fenceMs: number;
  /** @default 500 */
  readonly marginMs: number;
  /** @default 1000 */
  readonly ackTimeoutMs: number;
  /** @default 3000 */
  readonly resendMs: number;
  /** Unheard for so long counts as silent. @default 2000 */
  readonly suspectMs: number;
  /** An order quoting a report older than this is refused. @default 5000 */
  readonly orderMaxAgeMs: number;
  /** A second automatic change of segment within this needs an acknowledgement. @default 3600000 */
  readonly promotionWindowMs: number;
  /** The servers' evs.suspect_timeout, for warnings and expectations only. @default 5000 */
  readonly galeraSuspectMs: number;
  /** evs.join_retrans_period and evs.keepalive_period, set on the servers where `evict` is on. @default 200 */
  readonly evictPeriodMs: number;
  /** Full pass of a client's reconciler. @default 2000 */
  readonly reconcileIntervalMs: number;
}

export interface ArbitratorConfig {
  readonly id: PartyId;
  readonly serial: number;
  readonly host: string;
  readonly port: number;
  readonly stateDir: string;
  /** Events older than this are removed from its log, in days. @default 400 */
  readonly historyDays?: number;
  /** Bound of its event log, in millions of bytes. @default 64 */
  readonly historyMb?: number;
}

/** One mariadbd and its watchdog. */
export interface DbServerConfig {
  readonly id: PartyId;
  readonly serial: number;
  /** wsrep_node_name. */
  readonly name: string;
  readonly segment: string;
  /** Address at which watchdog and clients reach the server, numeric or a name. */
  readonly host: string;
  /** Of the watchdog. */
  readonly port: number;
  /** Of mariadbd. */
  readonly mysqlPort: number;
  /** pc.weight that the server should have in calm. */
  readonly weight: number;
  /** Unix socket for the watchdog's own connection; null means host and port. */
  readonly mysqlSocket: string | null;
  readonly datadir: string;
  /** Command line that runs mariadbd in the foreground; null where another manager runs it. */
  readonly mariadbd: readonly string[] | null;
  /** systemd unit that runs mariadbd, instead of a command line. */
  readonly unit?: string;
  readonly stateDir: string;
  /** Health endpoints for balancers that nobody minds; 0: none. @default 9200 */
  readonly healthPort?: number;
  /** HAProxy's agent-check; 0: none. @default 9201 */
  readonly agentPort?: number;
}

export interface DbClientConfig {
  readonly id: PartyId;
  readonly serial: number;
  /** The segment it is near to; null if none. */
  readonly segment: string | null;
  readonly host: string;
  readonly port: number;
  readonly policy: "single-writer" | "local-first" | "spread";
  /** Weight 1 to 100 of a server or a segment, by name; the server's own comes first. @default 100 each */
  readonly weights?: Readonly<Record<string, number>>;
  /** Sessions of a drained server are cut after so long. @default never */
  readonly drainCutMs?: number;
  readonly balancer: {
    readonly kind: "haproxy" | "glbd";
    /** Unix socket path or host:port of the control socket. */
    readonly socket: string;
    /** HAProxy backend; server names in it are the servers' names. */
    readonly backend: string;
  };
}

/** Certificates of the messages' transport; `{id}` in a path stands for the party, as dbserver.1. */
export interface TlsConfig {
  /** Certificate of this party, and those between it and the authority, as PEM. */
  readonly certFile: string;
  readonly keyFile: string;
  /** The only authority that is believed, as PEM. */
  readonly caFile: string;
  /** Who connects must show a certificate too. @default true */
  readonly mutual: boolean;
}

/** How messages are proven and hidden; see docs/security.md. */
export interface SecurityConfig {
  /** Secret that the parties share; null: messages are not signed. */
  readonly secretFile: string | null;
  /** Secret of the people who give orders. */
  readonly operatorFile: string | null;
  /** Unsigned messages are accepted from other hosts: for good, or until all sign. @default false */
  readonly unsigned: boolean;
  readonly tls: TlsConfig | null;
}

export interface SegmentConfig {
  readonly name: string;
  readonly servers: readonly DbServerConfig[];
  /** Sum of the servers' weights. */
  readonly weight: number;
  /** Over half of all weight: its safety rests on timers. */
  readonly heavy: boolean;
}

export interface ClusterConfig {
  readonly version: number;
  readonly name: string;
  /** The configured primary data centre. */
  readonly primarySegment: string;
  readonly onDoubleFault: "stay" | "fence";
  /** Exclusion of lost servers before Galera gives up on them: never, of ended processes, of silent ones too. @default "confirmed" */
  readonly evict: (typeof EVICT_CHOICES)[number];
  readonly timing: Timing;
  readonly database: { readonly user: string; readonly passwordFile: string | null };
  readonly security: SecurityConfig;
  readonly arbitrators: readonly ArbitratorConfig[];
  readonly servers: readonly DbServerConfig[];
  readonly clients: readonly DbClientConfig[];

  /** Derived: the two data segments, the primary one first. */
  readonly segments: readonly SegmentConfig[];
  /** Derived: how long a granter waits after its last promise: lease + fence + margin. */
  readonly outwaitMs: number;
  /** Derived: server by party id and by Galera node name. */
  readonly serverById: ReadonlyMap<string, DbServerConfig>;
  readonly serverByName: ReadonlyMap<string, DbServerConfig>;
  /** Derived: URL of each party that listens. */
  readonly urlById: ReadonlyMap<string, string>;
  /** What is allowed but unwise, in words. */
  readonly warnings: readonly string[];
}

/** How far evidence goes before Galera itself gives up on a lost server. */
export const EVICT_CHOICES = ["off", "confirmed", "full"] as const;

/** Largest number of mariadbd servers. */
export const SERVERS_MAX = 64;
/** Largest number of client minders. */
export const CLIENTS_MAX = 256;
/** In calm a watchdog sends client minders one message in this time: fifty a second. */
const CLIENT_MESSAGE_MS = 20;
/** Reports that must fit into one lease, so that two may be lost without losing it. */
export const REPORTS_PER_LEASE = 3;

/** Milliseconds unless a key says otherwise; see config/cluster.example.toml for the reasons. */
export const TIMING_DEFAULTS: Timing = Object.freeze({
  reportIntervalMs: 500,
  pollIntervalMs: 500,
  pollFastMs: 20,
  pollTimeoutMs: 1000,
  probeIntervalMs: 500,
  probeTimeoutMs: 1000,
  leaseMs: 3000,
  fenceMs: 1000,
  marginMs: 500,
  ackTimeoutMs: 1000,
  resendMs: 3000,
  suspectMs: 2000,
  orderMaxAgeMs: 5000,
  promotionWindowMs: 3_600_000,
  galeraSuspectMs: 5000,
  evictPeriodMs: 200,
  reconcileIntervalMs: 2000,
});

/**
 * Every how many of its reports a watchdog tells one client minder in calm; changes it tells all at
 * once. One for up to 25 client minders at the default interval, eight for 200.
 */
export function clientTurns({
  timing,
  clients,
}: Pick<ClusterConfig, "timing" | "clients">): number {
  return Math.max(1, Math.ceil((CLIENT_MESSAGE_MS * clients.length) / timing.reportIntervalMs));
}

/** How often a client minder hears each watchdog in calm. */
export function clientIntervalMs(config: Pick<ClusterConfig, "timing" | "clients">): number {
  return clientTurns(config) * config.timing.reportIntervalMs;
}

/** How long a client minder's word counts of who its writer is: it gives it with every ack. */
export function clientWordMs(config: Pick<ClusterConfig, "timing" | "clients">): number {
  return 3 * clientIntervalMs(config);
}

/** Every other default, by table and key as the config spells them; null where nothing is the default. */
export const CONFIG_DEFAULTS = Object.freeze({
  cluster: Object.freeze({ on_double_fault: "stay", evict: "confirmed" } as const),
  database: Object.freeze({ user: "minder", password_file: null }),
  security: Object.freeze({ secret_file: null, operator_file: null, unsigned: false, tls: null }),
  tls: Object.freeze({ mutual: true }),
  arbitrator: Object.freeze({ port: 4570, history_days: 400, history_mb: 64 }),
  dbserver: Object.freeze({
    port: 4570,
    mysql_port: 3306,
    weight: 1,
    mysql_socket: null,
    datadir: "/var/lib/mysql",
    mariadbd: null,
    unit: null,
    health_port: 9200,
    agent_port: 9201,
  }),
  dbclient: Object.freeze({
    segment: null,
    port: 4570,
    policy: "single-writer",
    weights: null,
    drain_cut_ms: null,
  } as const),
  balancer: Object.freeze({ kind: "haproxy", backend: "galera" } as const),
});

/** Where a party keeps what it must not forget, unless `state_dir` says otherwise. */
export function defaultStateDir(id: PartyId): string {
  return `/var/lib/galera-minder/${id}`;
}

/** One thing that is wrong with a config. */
export interface ConfigProblem {
  /** Path of the key, as in `dbserver[1].port`; empty for the whole document. */
  readonly key: string;
  /** What is wrong, the key included: "dbserver[1].port is 0, must be …". */
  readonly text: string;
  /** What to do about it; empty where the text says it. */
  readonly hint: string;
}

// --- The document as it is written: every message says what is allowed. ---

function whole(min: number, max: number) {
  const allowed = `a whole number from ${min} to ${max}`;
  return v.pipe(
    v.number(allowed),
    v.safeInteger(allowed),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
  );
}

function text(pattern: RegExp, allowed: string) {
  return v.pipe(v.string(allowed), v.regex(pattern, allowed));
}

function choice<const Options extends readonly string[]>(options: Options) {
  return v.picklist(options, `one of ${options.map((option) => `"${option}"`).join(", ")}`);
}

const Name = text(
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
  "a name of 1 to 64 characters out of A-Z a-z 0-9 . _ -, beginning with a letter or digit",
);
const Host = text(
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|[0-9A-Fa-f:.]{2,45})$/,
  "a host name or a numeric address",
);
const Path = text(/^\/[^\p{Cc}]{1,1023}$/u, "an absolute path");
const Serial = whole(0, 99_999);
const Port = whole(1, 65_535);

/** Key of the document for a field of Timing: `reportIntervalMs` is `report_interval_ms`. */
function snake(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

const DAY_MS = 86_400_000;
const TIMING_FIELDS = Object.keys(TIMING_DEFAULTS) as readonly (keyof Timing)[];

/** Smallest and largest of each duration; a zero would spin, a day would be no timeout. */
function timingBounds(field: keyof Timing): readonly [number, number] {
  switch (field) {
    case "promotionWindowMs":
      return [0, 30 * DAY_MS];
    case "marginMs":
      return [50, 3_600_000];
    default:
      return [10, 3_600_000];
  }
}

const TimingTable = v.object(
  Object.fromEntries(
    TIMING_FIELDS.map((field) => [
      snake(field),
      v.optional(whole(...timingBounds(field)), TIMING_DEFAULTS[field]),
    ]),
  ),
  "a table",
);

const ClusterTable = v.object(
  {
    name: Name,
    primary_segment: Name,
    on_double_fault: v.optional(choice(["stay", "fence"]), CONFIG_DEFAULTS.cluster.on_double_fault),
    evict: v.optional(choice(EVICT_CHOICES), CONFIG_DEFAULTS.cluster.evict),
  },
  "a table",
);

const DatabaseTable = v.object(
  {
    user: v.optional(
      text(
        /^[A-Za-z0-9._-]{1,128}$/,
        "a user name of 1 to 128 characters out of A-Z a-z 0-9 . _ -",
      ),
      CONFIG_DEFAULTS.database.user,
    ),
    password_file: v.optional(v.nullable(Path), null),
  },
  "a table",
);

const TlsTable = v.object(
  {
    cert_file: Path,
    key_file: Path,
    ca_file: Path,
    mutual: v.optional(v.boolean("true or false"), CONFIG_DEFAULTS.tls.mutual),
  },
  "a table with cert_file, key_file and ca_file",
);

const SecurityTable = v.object(
  {
    secret_file: v.optional(v.nullable(Path), null),
    operator_file: v.optional(v.nullable(Path), null),
    unsigned: v.optional(v.boolean("true or false"), CONFIG_DEFAULTS.security.unsigned),
    tls: v.optional(v.nullable(TlsTable), null),
  },
  "a table",
);

const ArbitratorTable = v.object(
  {
    serial: Serial,
    host: Host,
    port: v.optional(Port, CONFIG_DEFAULTS.arbitrator.port),
    state_dir: v.optional(v.nullable(Path), null),
    history_days: v.optional(whole(1, 36_500), CONFIG_DEFAULTS.arbitrator.history_days),
    history_mb: v.optional(whole(1, 100_000), CONFIG_DEFAULTS.arbitrator.history_mb),
  },
  "a table",
);

const DbServerTable = v.object(
  {
    serial: Serial,
    name: Name,
    segment: Name,
    host: Host,
    port: v.optional(Port, CONFIG_DEFAULTS.dbserver.port),
    mysql_port: v.optional(Port, CONFIG_DEFAULTS.dbserver.mysql_port),
    weight: v.optional(whole(0, 255), CONFIG_DEFAULTS.dbserver.weight),
    mysql_socket: v.optional(v.nullable(Path), null),
    datadir: v.optional(Path, CONFIG_DEFAULTS.dbserver.datadir),
    mariadbd: v.optional(
      v.nullable(
        v.pipe(
          v.array(
            text(
              /^[^\p{Cc}]{0,4096}$/u,
              "a text of up to 4096 characters without control characters",
            ),
            "a list of texts: program and arguments",
          ),
          v.minLength(1, "a list of 1 to 256 texts: program and arguments"),
          v.maxLength(256, "a list of 1 to 256 texts: program and arguments"),
        ),
      ),
      null,
    ),
    unit: v.optional(
      v.nullable(
        text(
          /^[A-Za-z0-9][A-Za-z0-9:_.@-]{0,200}\.service$/,
          'the name of a service unit, as "mariadb.service"',
        ),
      ),
      CONFIG_DEFAULTS.dbserver.unit,
    ),
    state_dir: v.optional(v.nullable(Path), null),
    health_port: v.optional(whole(0, 65_535), CONFIG_DEFAULTS.dbserver.health_port),
    agent_port: v.optional(whole(0, 65_535), CONFIG_DEFAULTS.dbserver.agent_port),
  },
  "a table",
);

const BalancerTable = v.object(
  {
    kind: v.optional(choice(["haproxy", "glbd"]), CONFIG_DEFAULTS.balancer.kind),
    socket: text(
      /^(?:\/[^\p{Cc}]{1,1023}|[A-Za-z0-9.-]{1,253}:[0-9]{1,5}|\[[0-9A-Fa-f:.]{2,45}\]:[0-9]{1,5})$/u,
      "an absolute path of a socket, or host:port",
    ),
    backend: v.optional(Name, CONFIG_DEFAULTS.balancer.backend),
  },
  "a table with kind, socket and backend",
);

const DbClientTable = v.object(
  {
    serial: Serial,
    segment: v.optional(v.nullable(Name), null),
    host: Host,
    port: v.optional(Port, CONFIG_DEFAULTS.dbclient.port),
    policy: v.optional(
      choice(["single-writer", "local-first", "spread"]),
      CONFIG_DEFAULTS.dbclient.policy,
    ),
    weights: v.optional(
      v.nullable(v.record(Name, whole(1, 100), "a table of weights by server or segment")),
      null,
    ),
    drain_cut_ms: v.optional(v.nullable(whole(0, DAY_MS)), null),
    balancer: BalancerTable,
  },
  "a table",
);

function list<const Item extends v.GenericSchema>(item: Item, min: number, max: number) {
  const allowed = `a list of ${min} to ${max} tables`;
  return v.pipe(v.array(item, allowed), v.minLength(min, allowed), v.maxLength(max, allowed));
}

const ArbitratorList = v.pipe(
  v.array(ArbitratorTable, "a list of exactly one table"),
  v.length(1, "a list of exactly one table: one arbitrator decides, a second could contradict it"),
);

/** The document as TOML or JSON holds it. */
export const ClusterDocumentSchema = v.object(
  {
    version: whole(1, Number.MAX_SAFE_INTEGER),
    cluster: ClusterTable,
    timing: v.optional(TimingTable, {}),
    database: v.optional(DatabaseTable, {}),
    security: v.optional(SecurityTable, {}),
    arbitrator: ArbitratorList,
    dbserver: list(DbServerTable, 2, SERVERS_MAX),
    dbclient: v.optional(list(DbClientTable, 0, CLIENTS_MAX), []),
  },
  "a table",
);
type ClusterDocument = v.InferOutput<typeof ClusterDocumentSchema>;

/**
 * Turns a parsed TOML or JSON document into a ClusterConfig, checked and deep-frozen.
 *
 * @param value the plain value
 * @param where file or table that it came from, for the error
 * @param lineOf line of a key in that file, if it can be told
 * @throws MinderError naming every problem, one line each
 */
export function parseClusterConfig(
  value: unknown,
  where: string,
  lineOf: (key: string) => number | null = () => null,
): ClusterConfig {
  const result = checkClusterConfig(value);
  if (result.ok) return result.config;
  throw problemsError(result.problems, where, lineOf);
}

/** The problems of a config as one error for a person. */
export function problemsError(
  problems: readonly ConfigProblem[],
  where: string,
  lineOf: (key: string) => number | null,
): MinderError {
  const lines = problems.map((problem) => {
    const line = lineOf(problem.key);
    return line === null ? problem.text : `${problem.text} (line ${line})`;
  });
  const hints = [...new Set(problems.map((problem) => problem.hint))].filter((hint) => hint !== "");
  const head =
    lines.length === 1
      ? `Cannot use cluster config: ${lines[0]}`
      : `Cannot use cluster config, ${lines.length} problems:\n  ${lines.join("\n  ")}`;
  return new MinderError(head, {
    where,
    hint:
      hints.length === 0
        ? "config/cluster.example.toml names every key with its unit, default and reason"
        : hints.join("\n  "),
  });
}

/** The same as data: the config, or every problem with it. */
export function checkClusterConfig(
  value: unknown,
):
  | { readonly ok: true; readonly config: ClusterConfig }
  | { readonly ok: false; readonly problems: readonly ConfigProblem[] } {
  const problems: ConfigProblem[] = [];
  const prepared = prepare(ClusterDocumentSchema, value, "", problems);
  const parsed = v.safeParse(ClusterDocumentSchema, prepared);
  const lists = problems.filter((problem) => problem.text.endsWith(LIST_FOR_TABLE));
  for (const problem of (parsed.issues ?? []).map(problemOf)) {
    const covered = lists.some(({ key }) => key === "" || problem.key.startsWith(`${key}.`));
    if (!covered) problems.push(problem);
  }
  if (!parsed.success || problems.length > 0) return { ok: false, problems };
  const config = derive(parsed.output);
  crossCheck(config, problems);
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, config: deepFreeze(config) };
}

/** How the one complaint ends that prepare() makes instead of the schema. */
const LIST_FOR_TABLE = ", must be a table";

/**
 * Copies the value along the schema: a key that the schema does not know becomes a problem with a
 * suggestion, a missing one becomes undefined, so that its own schema words what is allowed there.
 */
function prepare(
  schema: v.GenericSchema,
  value: unknown,
  path: string,
  problems: ConfigProblem[],
): unknown {
  const inner = unwrap(schema);
  if (isObjectSchema(inner) && Array.isArray(value)) {
    // An array is an object to the schema, which would go on to complain of every missing key.
    const subject = path === "" ? "The document" : path;
    problems.push({ key: path, text: `${subject} is a list${LIST_FOR_TABLE}`, hint: "" });
    return value;
  }
  if (isObjectSchema(inner) && isTable(value)) {
    const known = Object.keys(inner.entries);
    for (const key of Object.keys(value)) {
      if (known.includes(key)) continue;
      const near = nearest(key, known);
      problems.push({
        key: join(path, key),
        text: `${join(path, key)} is not a known key${near === null ? "" : `, did you mean ${near}?`}`,
        hint: `Keys known ${path === "" ? "at the top" : `in ${path}`}: ${known.join(", ")}`,
      });
    }
    return Object.fromEntries(
      known.flatMap((key) => {
        const entry = inner.entries[key];
        if (entry === undefined) return [];
        if (Object.hasOwn(value, key)) {
          return [[key, prepare(entry, value[key], join(path, key), problems)]];
        }
        return entry.type === "optional" ? [] : [[key, undefined]];
      }),
    );
  }
  if (isArraySchema(inner) && Array.isArray(value)) {
    return value.map((item, index) => prepare(inner.item, item, `${path}[${index}]`, problems));
  }
  return value;
}

interface ObjectSchema extends v.GenericSchema {
  readonly entries: Readonly<Record<string, v.GenericSchema>>;
}

interface ArraySchema extends v.GenericSchema {
  readonly item: v.GenericSchema;
}

function isObjectSchema(schema: v.GenericSchema): schema is ObjectSchema {
  return schema.type === "object" && "entries" in schema;
}

function isArraySchema(schema: v.GenericSchema): schema is ArraySchema {
  return schema.type === "array" && "item" in schema;
}

/** The schema under optional and nullable. */
function unwrap(schema: v.GenericSchema): v.GenericSchema {
  let current = schema;
  while ("wrapped" in current) current = current.wrapped as v.GenericSchema;
  return current;
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function join(path: string, key: string): string {
  const safe = /^[A-Za-z0-9_-]{1,64}$/.test(key) ? key : show(key);
  return path === "" ? safe : `${path}.${safe}`;
}

/** A value in an error: short, on one line, its control characters escaped. */
function show(value: unknown): string {
  const written = JSON.stringify(value, (_, inner) =>
    typeof inner === "bigint" || (typeof inner === "number" && !Number.isFinite(inner))
      ? String(inner)
      : inner,
  );
  const words = written ?? typeof value;
  return words.length > 80 ? `${words.slice(0, 77)}...` : words;
}

function problemOf(issue: v.BaseIssue<unknown>): ConfigProblem {
  let key = "";
  for (const item of issue.path ?? []) {
    key = typeof item.key === "number" ? `${key}[${item.key}]` : join(key, String(item.key));
  }
  const subject = key === "" ? "The document" : key;
  const input = Array.isArray(issue.input)
    ? `a list of ${issue.input.length}`
    : isTable(issue.input)
      ? "a table"
      : show(issue.input);
  const present = issue.input === undefined ? "is missing" : `is ${input}`;
  return { key, text: `${subject} ${present}, must be ${issue.message}`, hint: hintFor(key) };
}

/** What to do about a wrong value, by the last word of its key. */
function hintFor(key: string): string {
  const last = key.slice(key.lastIndexOf(".") + 1);
  if (last === "port" || last === "mysql_port") return "Use the port that the program listens on";
  if (last.endsWith("_ms")) return "Durations are whole milliseconds, without a unit";
  if (last === "name" || last === "segment" || last === "primary_segment") {
    return "Names reach shells, file names and log lines, so only inert characters are allowed";
  }
  if (key === "arbitrator") return "Write one [[arbitrator]] table, at a third site";
  return "";
}

/** The known key that differs least, if it is near enough to be a slip. */
function nearest(key: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(key.length / 3)) + 1;
  if (key.length > 64) return null;
  for (const candidate of known) {
    const distance = editDistance(key.toLowerCase().replaceAll("-", "_"), candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const change = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, change));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}

// --- From the document to the config. ---

function derive(document: ClusterDocument): ClusterConfig {
  const written = document.timing as Readonly<Record<string, number>>;
  const timing = Object.fromEntries(
    TIMING_FIELDS.map((field) => [field, written[snake(field)] ?? TIMING_DEFAULTS[field]]),
  ) as unknown as Timing;
  const arbitrators = document.arbitrator.map((table): ArbitratorConfig => {
    const id: PartyId = `arbitrator.${table.serial}`;
    const { serial, host, port } = table;
    const { history_days: historyDays, history_mb: historyMb } = table;
    const stateDir = table.state_dir ?? defaultStateDir(id);
    return { id, serial, host, port, stateDir, historyDays, historyMb };
  });
  const servers = document.dbserver.map((table): DbServerConfig => {
    const id: PartyId = `dbserver.${table.serial}`;
    return {
      id,
      serial: table.serial,
      name: table.name,
      segment: table.segment,
      host: table.host,
      port: table.port,
      mysqlPort: table.mysql_port,
      weight: table.weight,
      mysqlSocket: table.mysql_socket,
      datadir: table.datadir,
      mariadbd: table.mariadbd,
      ...(table.unit === null ? {} : { unit: table.unit }),
      stateDir: table.state_dir ?? defaultStateDir(id),
      healthPort: table.health_port,
      agentPort: table.agent_port,
    };
  });
  const clients = document.dbclient.map((table): DbClientConfig => {
    const { serial, segment, host, port, policy, balancer } = table;
    return {
      id: `dbclient.${serial}`,
      serial,
      segment,
      host,
      port,
      policy,
      ...(table.weights === null ? {} : { weights: table.weights }),
      ...(table.drain_cut_ms === null ? {} : { drainCutMs: table.drain_cut_ms }),
      balancer,
    };
  });

  const primarySegment = document.cluster.primary_segment;
  const total = sum(servers.map((server) => server.weight));
  const names = [...new Set(servers.map((server) => server.segment))];
  // The primary segment comes first; the other keeps its place in the file.
  names.sort((a, b) => Number(b === primarySegment) - Number(a === primarySegment));
  const segments = names.map((name): SegmentConfig => {
    const own = servers.filter((server) => server.segment === name);
    const weight = sum(own.map((server) => server.weight));
    return { name, servers: own, weight, heavy: 2 * weight > total };
  });
  const outwaitMs = timing.leaseMs + timing.fenceMs + timing.marginMs;
  const parties = [...arbitrators, ...servers, ...clients];
  const security = securityOf(document.security);
  const scheme = security.tls === null ? "http" : "https";
  const config = {
    version: document.version,
    name: document.cluster.name,
    primarySegment,
    onDoubleFault: document.cluster.on_double_fault,
    evict: document.cluster.evict,
    timing,
    database: { user: document.database.user, passwordFile: document.database.password_file },
    security,
    arbitrators,
    servers,
    clients,
    segments,
    outwaitMs,
    serverById: new Map(servers.map((server) => [server.id, server])),
    serverByName: new Map(servers.map((server) => [server.name, server])),
    urlById: new Map(parties.map((party) => [party.id, urlOf(party.host, party.port, scheme)])),
  };
  return { ...config, warnings: warningsFor(config) };
}

function securityOf(table: ClusterDocument["security"]): SecurityConfig {
  const { tls } = table;
  return {
    secretFile: table.secret_file,
    operatorFile: table.operator_file,
    unsigned: table.unsigned,
    tls:
      tls === null
        ? null
        : {
            certFile: tls.cert_file,
            keyFile: tls.key_file,
            caFile: tls.ca_file,
            mutual: tls.mutual,
          },
  };
}

/** URL of host and port; a numeric IPv6 address gets its brackets. */
function urlOf(host: string, port: number, scheme = "http"): string {
  return `${scheme}://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function outwaitSum(timing: Timing, outwaitMs: number): string {
  return `lease_ms + fence_ms + margin_ms = ${timing.leaseMs} + ${timing.fenceMs} + ${timing.marginMs} = ${outwaitMs}`;
}

function warningsFor(config: Omit<ClusterConfig, "warnings">): readonly string[] {
  const warnings: string[] = [];
  const { timing, outwaitMs } = config;
  if (outwaitMs > timing.galeraSuspectMs) {
    warnings.push(
      `${outwaitSum(timing, outwaitMs)} exceeds timing.galera_suspect_ms = ${timing.galeraSuspectMs}: ` +
        `a failover that must outwait leases takes ${outwaitMs - timing.galeraSuspectMs} ms longer than Galera itself`,
    );
  }
  for (const segment of config.segments.filter((candidate) => candidate.heavy)) {
    warnings.push(
      `Segment ${segment.name} is heavy, ${config.segments.map((s) => `${s.name} ${s.weight}`).join(" against ")}: ` +
        "its safety rests on timers, and a suspended machine can break it; equal sums of weight rest on none",
    );
  }
  for (const server of config.servers.filter((candidate) => candidate.weight === 0)) {
    warnings.push(`${server.id} (${server.name}) has weight 0: Galera never counts its vote`);
  }
  return warnings;
}

// --- What no single key can say. ---

function crossCheck(config: ClusterConfig, problems: ConfigProblem[]): void {
  function add(key: string, text: string, hint = ""): void {
    problems.push({ key, text: `${key} ${text}`, hint });
  }
  checkSegments(config, add);
  checkUnique(config, add);
  checkTiming(config, add);
  checkSecurity(config, add);
  for (const [index, client] of config.clients.entries()) {
    for (const name of Object.keys(client.weights ?? {})) {
      if (config.serverByName.has(name)) continue;
      if (config.segments.some((segment) => segment.name === name)) continue;
      add(
        `dbclient[${index}].weights.${name}`,
        "is a weight of nothing",
        "Give weights to servers or segments, by their names",
      );
    }
    if (client.segment === null) continue;
    if (config.segments.some((segment) => segment.name === client.segment)) continue;
    add(
      `dbclient[${index}].segment`,
      `is ${show(client.segment)}, must be one of ${segmentNames(config)}`,
      "Name the data centre that the client is near to, or leave the key out",
    );
  }
}

type AddProblem = (key: string, text: string, hint?: string) => void;

function segmentNames(config: ClusterConfig): string {
  return config.segments.map((segment) => `"${segment.name}"`).join(", ");
}

function checkSegments(config: ClusterConfig, add: AddProblem): void {
  if (config.segments.length !== 2) {
    add(
      "dbserver",
      `names ${config.segments.length} segments (${segmentNames(config)}), must name exactly 2`,
      "Two data centres hold the data, the arbitrator stands at a third site; check the spelling of each segment",
    );
  }
  if (!config.segments.some((segment) => segment.name === config.primarySegment)) {
    add(
      "cluster.primary_segment",
      `is ${show(config.primarySegment)}, must be one of ${segmentNames(config)}`,
      "Name the data centre that should be primary, as its servers spell it",
    );
  }
  for (const segment of config.segments) {
    if (segment.weight > 0) continue;
    add(
      "dbserver",
      `gives segment ${segment.name} the weight 0, must be at least 1`,
      "A segment without weight can never be the primary one",
    );
  }
}

function checkUnique(config: ClusterConfig, add: AddProblem): void {
  const seen = new Map<string, string>();
  function claim(what: string, value: string, key: string, hint: string): void {
    const other = seen.get(`${what} ${value}`);
    if (other === undefined) seen.set(`${what} ${value}`, key);
    else add(key, `is ${value}, which ${other} has already, must be unique`, hint);
  }
  const kinds = [
    ["arbitrator", config.arbitrators],
    ["dbserver", config.servers],
    ["dbclient", config.clients],
  ] as const;
  for (const [kind, parties] of kinds) {
    for (const [index, party] of parties.entries()) {
      const key = `${kind}[${index}]`;
      if (!URL.canParse(urlOf(party.host, party.port)) || /^[0.:]+$/.test(party.host)) {
        add(
          `${key}.host`,
          `is ${show(party.host)}, must be a host name or a numeric address`,
          "Name the address at which the others reach this party",
        );
      }
      claim(
        `${kind} serial`,
        String(party.serial),
        `${key}.serial`,
        "Give each party of a kind its own serial",
      );
      claim(
        "address",
        `${party.host}:${party.port}`,
        `${key}.port`,
        "Two programs cannot listen on one address",
      );
      if ("stateDir" in party) {
        claim(
          "state",
          `${party.host} ${party.stateDir}`,
          `${key}.state_dir`,
          "Two programs on one host need a directory each",
        );
      }
    }
  }
  for (const [index, server] of config.servers.entries()) {
    const key = `dbserver[${index}]`;
    claim("name", server.name, `${key}.name`, "Use each server's own wsrep_node_name");
    claim(
      "address",
      `${server.host}:${server.mysqlPort}`,
      `${key}.mysql_port`,
      "Two programs cannot listen on one address",
    );
    claim(
      "data",
      `${server.host} ${server.datadir}`,
      `${key}.datadir`,
      "Two servers on one host need a data directory each",
    );
    if (server.unit !== undefined && server.mariadbd !== null) {
      add(
        `${key}.unit`,
        "is written beside mariadbd, must be the only one",
        "Either systemd runs mariadbd, by its unit, or the watchdog does, by its command line",
      );
    }
    if (config.segments.some((segment) => segment.name === server.name)) {
      add(
        `${key}.name`,
        `is ${show(server.name)}, which is also a segment, must differ from both`,
        "Orders such as drain take a server or a segment by name",
      );
    }
    if (
      /^(arbitrator|dbserver|dbclient|wsrep_notify_cmd|command)\.\d+$/.test(server.name) &&
      server.name !== server.id
    ) {
      add(
        `${key}.name`,
        `is ${show(server.name)}, the id of another party, must not look like one`,
        "Orders such as drain take a server by name or by id",
      );
    }
  }
}

function checkTiming(config: ClusterConfig, add: AddProblem): void {
  const { timing, outwaitMs } = config;
  const needed = REPORTS_PER_LEASE * timing.reportIntervalMs;
  if (timing.leaseMs < needed) {
    add(
      "timing.lease_ms",
      `is ${timing.leaseMs}, must be at least ${REPORTS_PER_LEASE} reports: ${REPORTS_PER_LEASE} × report_interval_ms = ${REPORTS_PER_LEASE} × ${timing.reportIntervalMs} = ${needed}`,
      "A lease must survive two lost reports: lengthen it, or report more often",
    );
  }
  const heavy = config.segments.filter((segment) => segment.heavy);
  const closedMs = timing.leaseMs + timing.fenceMs;
  if (closedMs > timing.galeraSuspectMs) {
    add(
      "timing.lease_ms",
      `is ${timing.leaseMs}, must be smaller: lease_ms + fence_ms = ${timing.leaseMs} + ${timing.fenceMs} = ${closedMs} exceeds galera_suspect_ms = ${timing.galeraSuspectMs}: a part that stays Primary would be open when Galera's view changes, and acknowledge what the other part lacks`,
      "Shorten lease_ms or fence_ms, or raise evs.suspect_timeout with galera_suspect_ms",
    );
  } else if (outwaitMs > timing.galeraSuspectMs && heavy.length > 0) {
    add(
      "timing.lease_ms",
      `is ${timing.leaseMs}, must be smaller: ${outwaitSum(timing, outwaitMs)} exceeds galera_suspect_ms = ${timing.galeraSuspectMs} while segment ${heavy.map((segment) => segment.name).join(", ")} is heavy`,
      "Shorten lease_ms, fence_ms or margin_ms, raise evs.suspect_timeout with galera_suspect_ms, or make the weights of both segments equal",
    );
  }
  const orders: readonly (readonly [keyof Timing, keyof Timing, string])[] = [
    [
      "pollFastMs",
      "pollIntervalMs",
      "The fast poll is for uncertain times and cannot be the slower one",
    ],
    [
      "ackTimeoutMs",
      "resendMs",
      "The first repeat comes after ack_timeout_ms, the later ones every resend_ms",
    ],
    ["ackTimeoutMs", "leaseMs", "A lost report must be repeated while the lease still holds"],
    ["reportIntervalMs", "suspectMs", "A party that reports on time must not look silent"],
    [
      "reportIntervalMs",
      "orderMaxAgeMs",
      "Orders quote the newest report, which may be one interval old",
    ],
    ["pollTimeoutMs", "leaseMs", "A hanging poll must be noticed while the lease still holds"],
    ["probeTimeoutMs", "leaseMs", "A hanging write must be noticed while the lease still holds"],
  ];
  for (const [small, large, hint] of orders) {
    if (timing[small] <= timing[large]) continue;
    add(
      `timing.${snake(small)}`,
      `is ${timing[small]}, must be at most ${snake(large)} = ${timing[large]}`,
      hint,
    );
  }
}

function checkSecurity({ security }: ClusterConfig, add: AddProblem): void {
  const { secretFile, operatorFile } = security;
  if (secretFile === null && operatorFile !== null) {
    add(
      "security.operator_file",
      "is written without secret_file, must be beside it",
      "Orders can only be proven where all messages are: name the nodes' secret too",
    );
  }
  if (secretFile !== null && secretFile === operatorFile) {
    add(
      "security.operator_file",
      "is the same file as secret_file, must be another",
      "Whoever has the secret of a node could give orders",
    );
  }
}

/**
 * Freezes a value and all below it; a map loses the methods that change it. Lists are read-only by their
 * type alone: JavaScriptCore keeps the entries of a frozen one in a hash table, and walks that seven times
 * slower (measured), while every rule walks the servers.
 */
function deepFreeze<Value>(value: Value): Value {
  if (typeof value !== "object" || value === null || Object.isFrozen(value)) return value;
  if (value instanceof Map) {
    for (const item of value.values()) deepFreeze(item);
    for (const method of ["set", "delete", "clear"]) {
      Object.defineProperty(value, method, { value: refuseChange, enumerable: false });
    }
  } else {
    for (const item of Object.values(value)) deepFreeze(item);
  }
  return Array.isArray(value) ? value : Object.freeze(value);
}

function refuseChange(): never {
  throw new TypeError("Cannot change a ClusterConfig: it is frozen");
}
