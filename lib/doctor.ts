/**
 * Judges a server's settings against what the minder's design needs and what was measured to be
 * harmful. Pure: facts go in, findings come out, each with the measured value and what mends it.
 */
import type { ClusterConfig, DbServerConfig } from "./cluster_config.ts";
import { accountName, checkGrants } from "./grants.ts";
import { socketMend, socketUnit } from "./systemd.ts";
import { durationMs } from "./wsrep_status.ts";

export type Severity = "error" | "warning" | "note";

/** One thing that should be otherwise. */
export interface Finding {
  readonly severity: Severity;
  /** Which check, as `weight.configured`. */
  readonly check: string;
  /** Server's name; null for the cluster as a whole. */
  readonly server: string | null;
  /** What was found and why it matters. */
  readonly because: string;
  /** Statement or line of configuration that mends it. */
  readonly mend: string;
}

/** How the notify command fares as mariadbd's user; null where that cannot be told from here. */
export interface NotifyFacts {
  /** A path in the command that this user cannot read or run; null if there is none. */
  readonly blocked: string | null;
  readonly user: string;
}

/** What was fetched from one server. */
export interface ServerFacts {
  /** Lower-case names, values as the server shows them. */
  readonly variables: ReadonlyMap<string, string>;
  readonly status: ReadonlyMap<string, string>;
  /** Lines of `SHOW GRANTS` of the minder's account. */
  readonly grants: readonly string[];
  /** `user@host` as it logged in. */
  readonly account: { readonly user: string; readonly host: string };
  readonly wsrepInfo: boolean;
  /** The server's clock minus this host's, and by how much that may be wrong. Milliseconds. */
  readonly clock: { readonly offsetMs: number; readonly errorMs: number } | null;
  readonly notify: NotifyFacts | null;
}

/** What its own host shows, where that is this one. */
export interface HostFacts {
  /** The socket unit that can start its mariadbd; null where there is none, or no systemd. */
  readonly socket: { readonly enabled: boolean; readonly active: boolean } | null;
  /** Why its data directory cannot be renamed, which a full state transfer needs; null if it can. */
  readonly fixed: string | null;
}

/** A server that could not be asked says why. Without `host` it is another machine's. */
export type Examined = { readonly server: DbServerConfig; readonly host?: HostFacts } & (
  | { readonly facts: ServerFacts }
  | { readonly error: string }
);

/** First release of each series in which wsrep_notify_cmd quotes its arguments. */
const NOTIFY_FIXED = [
  [10, 6, 27],
  [10, 11, 18],
  [11, 4, 12],
  [11, 8, 8],
  [12, 3, 2],
] as const;
/** Clocks are never compared by a decision; logs of several hosts are laid side by side. */
const CLOCK_WARN_MS = 1_000;
const GCACHE_MIN_BYTES = 128 * 1024 * 1024;

/** Examines servers and what they are together. */
export function diagnose(config: ClusterConfig, examined: readonly Examined[]): readonly Finding[] {
  const findings = examined.flatMap((each) =>
    "facts" in each
      ? judgeServer(config, each.server, each.facts)
      : [
          {
            severity: "error" as const,
            check: "server.asked",
            server: each.server.name,
            because: `the server cannot be asked: ${each.error}`,
            mend: "-- is mariadbd up, and may the account log in from here? See `just grants`",
          },
        ],
  );
  const known = examined.flatMap((each) => ("facts" in each ? [each] : []));
  const hosts = examined.flatMap(({ server, host }) =>
    host === undefined ? [] : judgeHost(server, host),
  );
  return [...findings, ...hosts, ...judgeCluster(config, known)].sort(
    (a, b) => RANK[a.severity] - RANK[b.severity],
  );
}

const RANK: Readonly<Record<Severity, number>> = { error: 0, warning: 1, note: 2 };

/** 0 nothing to mend, 1 warnings, 2 errors; notes count for nothing. */
export function exitCodeOf(findings: readonly Finding[]): number {
  if (findings.some(({ severity }) => severity === "error")) return 2;
  return findings.some(({ severity }) => severity === "warning") ? 1 : 0;
}

type Add = (severity: Severity, check: string, because: string, mend: string) => void;

interface Patient {
  readonly config: ClusterConfig;
  readonly server: DbServerConfig;
  readonly facts: ServerFacts;
  readonly options: ReadonlyMap<string, string>;
  readonly add: Add;
}

function judgeServer(
  config: ClusterConfig,
  server: DbServerConfig,
  facts: ServerFacts,
): readonly Finding[] {
  const findings: Finding[] = [];
  const add: Add = (severity, check, because, mend) => {
    findings.push({ severity, check, server: server.name, because, mend });
  };
  const options = providerOptions(facts.variables.get("wsrep_provider_options") ?? "");
  const patient: Patient = { config, server, facts, options, add };
  judgeVersion(patient);
  judgeIdentity(patient);
  judgeTimeouts(patient);
  judgeQuorum(patient);
  judgeEviction(patient);
  judgeNotify(patient);
  judgeAccount(patient);
  judgeDurability(patient);
  judgeReplication(patient);
  judgeClock(patient);
  return findings;
}

/** `a = 1; b = 2` of wsrep_provider_options. */
export function providerOptions(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split(";").flatMap((part): [string, string][] => {
      const at = part.indexOf("=");
      return at < 0 ? [] : [[part.slice(0, at).trim(), part.slice(at + 1).trim()]];
    }),
  );
}

/** Bytes of a size such as `128M`; null if it is none. */
export function sizeBytes(text: string | undefined): number | null {
  const match = /^(\d+)([KMGT]?)$/i.exec(text ?? "");
  if (match === null) return null;
  return Number(match[1]) * 1024 ** " KMGT".indexOf((match[2] || " ").toUpperCase());
}

function setOption(key: string, value: string): string {
  return `SET GLOBAL wsrep_provider_options='${key}=${value}'; -- and in my.cnf`;
}

function judgeVersion({ facts, server, add }: Patient): void {
  const version = facts.variables.get("version") ?? "";
  const [major = 0, minor = 0, patch = 0] = version.split(/[.-]/).map(Number);
  const fixed = NOTIFY_FIXED.find((one) => one[0] === major && one[1] === minor);
  const notify = facts.variables.get("wsrep_notify_cmd") ?? "";
  if (fixed !== undefined && patch < fixed[2]) {
    add(
      notify === "" ? "warning" : "error",
      "version.notify_hole",
      `MariaDB ${version} gives names of other servers to a shell unquoted with wsrep_notify_cmd`,
      `-- upgrade ${server.name} to ${fixed.join(".")} or later`,
    );
  } else if (fixed === undefined && (major < 10 || (major === 10 && minor < 11))) {
    add(
      "warning",
      "version.unknown",
      `MariaDB ${version} is of a series in which nothing here was measured`,
      "-- upgrade to 10.11.18 or later",
    );
  }
}

function judgeIdentity({ facts, server, config, options, add }: Patient): void {
  const { variables } = facts;
  const name = variables.get("wsrep_node_name") ?? "";
  if (name !== server.name) {
    add(
      "error",
      "name.configured",
      `wsrep_node_name is ${JSON.stringify(name)}, the config calls it ${server.name}: its views cannot be understood`,
      `wsrep_node_name = ${server.name}`,
    );
  }
  const address = variables.get("wsrep_cluster_address") ?? "";
  if (/^gcomm:\/\/(\?|$)/.test(address)) {
    add(
      "error",
      "address.bootstraps",
      "wsrep_cluster_address names nobody: each restart would make a new cluster of this server alone",
      `wsrep_cluster_address = gcomm://${config.servers.map(({ host }) => host).join(",")}`,
    );
  }
  const datadir = variables.get("datadir")?.replace(/\/+$/, "");
  if (datadir !== undefined && datadir !== server.datadir.replace(/\/+$/, "")) {
    add(
      "error",
      "datadir.configured",
      `datadir is ${datadir}, the config says ${server.datadir}: positions would be read of another directory`,
      `datadir = "${datadir}"  # of this dbserver in the cluster's config`,
    );
  }
  if (variables.get("wsrep_on") === "OFF") {
    add(
      "error",
      "wsrep.on",
      "wsrep_on is OFF: writes stay on this server and are not replicated",
      "SET GLOBAL wsrep_on=ON; -- its data differ already: give it a full state transfer",
    );
  }
  if (!facts.wsrepInfo) {
    add(
      "warning",
      "plugin.wsrep_info",
      "the plugin wsrep_info is not loaded: members of a non-Primary view are only guessed by address",
      "plugin_load_add = wsrep_info",
    );
  }
  if (
    options.get("pc.recovery") === "true" &&
    server.mariadbd === null &&
    server.unit === undefined
  ) {
    add(
      "warning",
      "gate.missing",
      "nothing stands before a start: a crashed Primary makes itself Primary again from gvwstate.dat",
      'unit = "mariadb.service"  # of this dbserver, with the drop-in of `just systemd-config`',
    );
  }
}

function judgeTimeouts({ options, config, add }: Patient): void {
  const { timing, outwaitMs } = config;
  const suspect = durationMs(options.get("evs.suspect_timeout"));
  const inactive = durationMs(options.get("evs.inactive_timeout"));
  const peer = durationMs(options.get("gmcast.peer_timeout"));
  const keepalive = durationMs(options.get("evs.keepalive_period"));
  if (suspect === null) return;
  if (suspect !== timing.galeraSuspectMs) {
    add(
      "warning",
      "suspect.configured",
      `evs.suspect_timeout is ${suspect} ms, the config expects ${timing.galeraSuspectMs} ms`,
      `galera_suspect_ms = ${suspect}  # under [timing] of the cluster's config`,
    );
  }
  if (outwaitMs > suspect) {
    const heavy = config.segments.some((segment) => segment.heavy);
    add(
      heavy ? "error" : "warning",
      "suspect.outwait",
      `lease, fence and margin take ${outwaitMs} ms, Galera gives up after ${suspect} ms: ` +
        (heavy
          ? "a heavy half would be Primary before its rival's lease has ended"
          : `a failover that outwaits leases is ${outwaitMs - suspect} ms slower than Galera`),
      setOption("evs.suspect_timeout", `PT${Math.ceil(outwaitMs / 1000)}S`),
    );
  }
  if (peer !== null && peer >= suspect) {
    add(
      "error",
      "peer.below_suspect",
      `gmcast.peer_timeout is ${peer} ms, not below evs.suspect_timeout of ${suspect} ms: losing the ` +
        "one server that relays between segments makes all of them non-Primary",
      `wsrep_provider_options = "gmcast.peer_timeout=PT${Math.max(0.5, suspect / 2000)}S"  # in my.cnf`,
    );
  }
  if (keepalive !== null && 3 * keepalive > suspect) {
    add(
      "warning",
      "keepalive.often",
      `evs.keepalive_period is ${keepalive} ms: fewer than three fit into evs.suspect_timeout of ${suspect} ms`,
      setOption("evs.keepalive_period", `PT${suspect / 5000}S`),
    );
  }
  if (inactive !== null && inactive < suspect) {
    add(
      "error",
      "inactive.above_suspect",
      `evs.inactive_timeout is ${inactive} ms, below evs.suspect_timeout of ${suspect} ms`,
      setOption("evs.inactive_timeout", `PT${(3 * suspect) / 1000}S`),
    );
  }
}

function judgeQuorum({ options, server, facts, add }: Patient): void {
  const weight = Number(options.get("pc.weight") ?? Number.NaN);
  if (weight !== server.weight) {
    add(
      "error",
      "weight.configured",
      `pc.weight is ${weight}, the config says ${server.weight}: who stays Primary is not what the minder thinks`,
      setOption("pc.weight", String(server.weight)),
    );
  }
  for (const key of ["pc.ignore_sb", "pc.ignore_quorum"]) {
    if (options.get(key) !== "true") continue;
    add(
      "error",
      "quorum.ignored",
      `${key} is on: both halves of a split serve, and their rows diverge`,
      setOption(key, "false"),
    );
  }
  const evicted = facts.status.get("wsrep_evs_evict_list") ?? "";
  if (/[0-9a-f]{8}-/i.test(evicted)) {
    add(
      "warning",
      "evict.list",
      `wsrep_evs_evict_list still holds ${evicted}: the next eviction takes the full 5 s`,
      "SET GLOBAL wsrep_provider_options='evs.evict=';",
    );
  }
}

/** What an eviction waits for; a joiner has it from my.cnf before its watchdog can set it. */
function judgeEviction({ options, config, add }: Patient): void {
  if (config.evict === "off") return;
  const { evictPeriodMs } = config.timing;
  for (const key of ["evs.join_retrans_period", "evs.keepalive_period"]) {
    const found = durationMs(options.get(key));
    if (found === evictPeriodMs) continue;
    add(
      "warning",
      "evict.periods",
      `${key} is ${found ?? "unknown"} ms, timing.evict_period_ms ${evictPeriodMs}: an eviction takes longer`,
      `wsrep_provider_options = "${key}=PT${evictPeriodMs / 1000}S"  # in my.cnf; the watchdog sets it meanwhile`,
    );
  }
}

function judgeNotify({ facts, server, add }: Patient): void {
  const command = facts.variables.get("wsrep_notify_cmd") ?? "";
  if (command === "") {
    add(
      "warning",
      "notify.set",
      "wsrep_notify_cmd is not set: changes are noticed by the next poll, not at once",
      `wsrep_notify_cmd = "…/notify --node ${server.id}"  # in my.cnf, see docs/notify.md; needs a restart`,
    );
    return;
  }
  if (facts.notify?.blocked == null) return;
  add(
    "error",
    "notify.callable",
    `wsrep_notify_cmd names ${facts.notify.blocked}, which ${facts.notify.user} cannot read or run`,
    `chmod o+rX ${facts.notify.blocked}  # and each folder above it`,
  );
}

function judgeAccount({ facts, add }: Patient): void {
  const { missing, excess } = checkGrants(facts.grants);
  if (missing.length > 0) {
    const statements = missing.map((each) => `GRANT ${each} TO ${accountName(facts.account)};`);
    add(
      "error",
      "account.privileges",
      `the account lacks ${missing.join(", ")}: fence, probe or poll will fail`,
      statements.join(" "),
    );
  }
  if (excess.length > 0) {
    const all = excess.includes("ALL PRIVILEGES");
    add(
      "note",
      "account.excess",
      `the account may do more than it needs: ${excess.join(", ")}`,
      all
        ? "-- make an account of its own: `just grants` prints it"
        : `REVOKE ${excess.join(", ")} ON *.* FROM ${accountName(facts.account)};`,
    );
  }
}

function judgeDurability({ facts, add }: Patient): void {
  const { variables } = facts;
  const flush = variables.get("innodb_flush_log_at_trx_commit");
  if (flush === "0" || flush === "2") {
    add(
      "warning",
      "flush.commit",
      `innodb_flush_log_at_trx_commit is ${flush}: a server that loses its power forgets about a second ` +
        "of acknowledged commits, and all do where all lose it",
      "SET GLOBAL innodb_flush_log_at_trx_commit=1; -- and in my.cnf",
    );
  }
  if (variables.get("innodb_doublewrite") === "OFF") {
    add(
      "warning",
      "flush.doublewrite",
      "innodb_doublewrite is OFF: a page torn by a power loss cannot be mended",
      "innodb_doublewrite = ON",
    );
  }
}

function judgeReplication({ facts, options, add }: Patient): void {
  const { variables } = facts;
  if (variables.get("binlog_format") !== "ROW") {
    add(
      "error",
      "format.row",
      `binlog_format is ${variables.get("binlog_format")}: Galera replicates rows only`,
      "binlog_format = ROW",
    );
  }
  if (variables.get("innodb_autoinc_lock_mode") !== "2") {
    add(
      "error",
      "autoinc.interleaved",
      `innodb_autoinc_lock_mode is ${variables.get("innodb_autoinc_lock_mode")}: appliers deadlock`,
      "innodb_autoinc_lock_mode = 2",
    );
  }
  const sst = variables.get("wsrep_sst_method") ?? "";
  if (sst === "mysqldump") {
    add(
      "error",
      "sst.method",
      "wsrep_sst_method is mysqldump: the joiner must be up and unfenced, which it never is here",
      "wsrep_sst_method = mariabackup",
    );
  } else if (sst === "rsync") {
    add(
      "note",
      "sst.method",
      "wsrep_sst_method is rsync: a donor commits nothing during a full transfer",
      "wsrep_sst_method = mariabackup",
    );
  }
  if (variables.get("wsrep_dirty_reads") === "ON") {
    add(
      "warning",
      "reads.dirty",
      "wsrep_dirty_reads is ON: a fenced or non-Primary server answers reads with old rows",
      "SET GLOBAL wsrep_dirty_reads=OFF; -- and in my.cnf",
    );
  }
  const gcache = sizeBytes(options.get("gcache.size"));
  if (gcache !== null && gcache < GCACHE_MIN_BYTES) {
    add(
      "note",
      "gcache.size",
      `gcache.size is ${options.get("gcache.size")}: a server that was away for more writes than that takes a full transfer`,
      'wsrep_provider_options = "gcache.size=1G"  # in my.cnf',
    );
  }
  const desync = Number(facts.status.get("wsrep_desync_count") ?? 0);
  if (variables.get("wsrep_desync") === "ON" || desync > 0) {
    add(
      "warning",
      "desync.left",
      "wsrep_desync is on: this server falls behind without slowing the others",
      "SET GLOBAL wsrep_desync=OFF;",
    );
  }
}

function judgeClock({ facts, add }: Patient): void {
  if (facts.clock === null) return;
  const { offsetMs, errorMs } = facts.clock;
  if (Math.abs(offsetMs) - errorMs < CLOCK_WARN_MS) return;
  add(
    "warning",
    "clock.offset",
    `its clock differs from this host's by ${(offsetMs / 1000).toFixed(1)} s: no decision rests on it, but logs will mislead`,
    "timedatectl set-ntp true",
  );
}

/** Asked of the host, not of the server: where mariadbd is down it is most needed. */
function judgeHost(server: DbServerConfig, { socket, fixed }: HostFacts): readonly Finding[] {
  const findings: Finding[] = [];
  if (server.unit !== undefined && socket !== null && (socket.enabled || socket.active)) {
    const since = socket.active ? "holds" : "will hold, from the next boot on,";
    findings.push({
      severity: socket.active ? "error" : "warning",
      check: "unit.socket",
      server: server.name,
      because: `${socketUnit(server.unit)} ${since} the port while mariadbd is down: its position cannot be read, so that no start succeeds, and whoever connects tries one`,
      mend: socketMend(server.unit),
    });
  }
  if (fixed !== null) {
    findings.push({
      severity: "warning",
      check: "datadir.fixed",
      server: server.name,
      because: `${server.datadir} cannot be set aside for a full state transfer: ${fixed}`,
      mend: "-- move the data one folder down, into one that the watchdog's user owns: datadir in my.cnf and in the config",
    });
  }
  return findings;
}

type Known = Extract<Examined, { readonly facts: ServerFacts }>;

/** What only several servers together can show. */
function judgeCluster(config: ClusterConfig, known: readonly Known[]): readonly Finding[] {
  const findings: Finding[] = [];
  const add: Add = (severity, check, because, mend) => {
    findings.push({ severity, check, server: null, because, mend });
  };
  const heavy = config.segments.filter((segment) => segment.heavy);
  for (const segment of heavy) {
    const sums = config.segments.map(({ name, weight }) => `${name} ${weight}`).join(", ");
    add(
      "warning",
      "weight.balanced",
      `segment ${segment.name} is heavy (${sums}): its safety rests on timers`,
      "-- give both segments equal sums: weight = … in the config, then pc.weight on each server",
    );
  }
  judgeSegments(config, known, add);
  const names = new Set(known.map(({ facts }) => facts.variables.get("wsrep_cluster_name")));
  if (names.size > 1) {
    add(
      "error",
      "cluster.name",
      `wsrep_cluster_name differs: ${[...names].join(", ")}`,
      `wsrep_cluster_name = ${[...names][0] ?? ""}`,
    );
  }
  const versions = new Set(known.map(({ facts }) => facts.variables.get("version")));
  if (versions.size > 1) {
    add(
      "note",
      "version.mixed",
      `servers run different versions: ${[...versions].join(", ")}`,
      "-- bring all to the newest of them",
    );
  }
  return findings;
}

function judgeSegments(config: ClusterConfig, known: readonly Known[], add: Add): void {
  const numbers = new Map<string, Set<string>>();
  for (const { server, facts } of known) {
    const options = providerOptions(facts.variables.get("wsrep_provider_options") ?? "");
    const number = options.get("gmcast.segment") ?? "";
    numbers.set(server.segment, new Set([...(numbers.get(server.segment) ?? []), number]));
  }
  for (const [name, used] of numbers) {
    if (used.size < 2) continue;
    add(
      "error",
      "segment.one",
      `servers of ${name} have different gmcast.segment: ${[...used].join(", ")}`,
      `wsrep_provider_options = "gmcast.segment=${[...used][0]}"  # in my.cnf of each server of ${name}`,
    );
  }
  const [first, second] = config.segments.map(({ name }) => [...(numbers.get(name) ?? [])]);
  const shared = first?.find((number) => second?.includes(number) === true);
  if (shared === undefined) return;
  add(
    "warning",
    "segment.apart",
    `both data centres have gmcast.segment=${shared}: every write crosses the link once for each server there`,
    `wsrep_provider_options = "gmcast.segment=${Number(shared) + 1}"  # in my.cnf of one data centre`,
  );
}

/** Findings as text: one line of what, one of the mend. */
export function findingsText(findings: readonly Finding[], servers: readonly string[]): string {
  const lines = findings.flatMap(({ severity, check, server, because, mend }) => [
    `${severity.padEnd(7)} ${server ?? "cluster"} ${check}: ${because}`,
    `        ${mend}`,
  ]);
  const count = (wanted: Severity) => findings.filter(({ severity }) => severity === wanted).length;
  return [
    ...lines,
    `${servers.join(", ")}: ${count("error")} errors, ${count("warning")} warnings, ${count("note")} notes`,
  ].join("\n");
}
