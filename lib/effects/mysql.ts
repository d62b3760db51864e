/**
 * Everything the watchdog does to its mariadbd by SQL: poll, write probe, fence, pc.bootstrap, evict.
 *
 * Invariants:
 * - Every call ends within its bound, whatever mariadbd does: a connection whose answer is overdue is
 *   destroyed and made anew, never waited for.
 * - Each purpose has a connection of its own, open in advance, so a hanging probe or poll cannot stand
 *   in the way of a fence. At most one poll and one probe are under way.
 * - No poll, fence or command writes a table: their sessions are not replicated.
 * - A probe that hangs stays the only one: no new one starts while the server still runs its statement.
 */
import { describeError } from "../errors.ts";
import { fingerprint, type WsrepStatus } from "../wsrep_status.ts";
import { Link, type LinkOptions, MysqlError, type Rows } from "./mysql_link.ts";
import {
  entriesOf,
  optionOf,
  type PollRows,
  STATUS_ROWS_SQL,
  STATUS_SQL,
  statusFromRows,
  VARIABLES_SQL,
  VIEW_BY_PLUGIN_SQL,
  VIEW_BY_TABLE_SQL,
} from "./mysql_status.ts";

/** The user needs SUPER: reject_queries and provider options ask for it, and it gets in at max_connections. */
export interface MysqlOptions extends LinkOptions {
  readonly pollTimeoutMs: number;
  readonly probeTimeoutMs: number;
  /** Bound of fence and unfence, reading back included. */
  readonly fenceMs: number;
  /** Bound of every other command. @default 1000 */
  readonly commandTimeoutMs?: number;
}

/** A poll as the core is told of it; `status` null if there was no answer in time. */
export interface PollResult {
  readonly status: WsrepStatus | null;
  readonly error: string | null;
  /** Nobody listens there. */
  readonly unreachable: boolean;
  readonly tookMs: number;
}

/** `committed`: a write did, or behind a closed door a read that waits for the group came back. */
export type ProbeOutcome = "committed" | "refused" | "hung" | "held";

export interface ProbeResult {
  readonly outcome: ProbeOutcome;
  /** Why it did not commit. */
  readonly error: string | null;
  readonly tookMs: number;
}

export interface FenceResult {
  /** Read back: statements are refused and no older client session is left. */
  readonly fenced: boolean;
  /** `wsrep_reject_queries` as read back, null if it could not be read. */
  readonly rejectQueries: string | null;
  /** Client sessions found right after the order that are still there. */
  readonly sessionsLeft: number | null;
  /** Sessions that ALL_KILL left over and that were killed one by one. */
  readonly killed: number;
  readonly error: string | null;
  readonly tookMs: number;
}

export type FormPrimaryResult =
  /** The statement was answered OK. That proves nothing: only a new Primary view does. */
  | { readonly outcome: "done"; readonly status: WsrepStatus }
  | { readonly outcome: "changed"; readonly status: WsrepStatus; readonly because: string }
  | { readonly outcome: "error"; readonly error: string };

export interface CommandResult {
  readonly ok: boolean;
  readonly error: string | null;
}

/** The effects beside one mariadbd. */
export interface Mysql {
  poll(): Promise<PollResult>;
  /** One write of this server's own row in `minder.probe`; where the server is fenced, CAUSAL_READ_SQL. */
  probe(serial: number): Promise<ProbeResult>;
  fence(): Promise<FenceResult>;
  unfence(): Promise<CommandResult>;
  formPrimary(expectedFingerprint: string): Promise<FormPrimaryResult>;
  /**
   * Makes the eviction list these UUIDs; `anew` empties it first. It can promote: where all that is missing from
   * the last Primary view is evicted, the rest makes itself Primary again without pc.bootstrap, below
   * quorum too (1 of 2, measured twice: "re-bootstrapping prim from partitioned components").
   */
  evict(list: {
    readonly uuids: readonly string[];
    readonly anew: boolean;
  }): Promise<CommandResult>;
  /** Sets evs.join_retrans_period and evs.keepalive_period, in ms. */
  tune(periodMs: number): Promise<CommandResult>;
  setProviderOption(key: string, value: string): Promise<CommandResult>;
  /** One value of `wsrep_provider_options`, null if unknown. */
  providerOption(key: string): Promise<string | null>;
  /** Creates `minder.probe`; needs an unfenced Primary. The probe does this itself where it is missing. */
  createProbeTable(): Promise<CommandResult>;
  /** Opens all connections that are not; a missing server is no error. */
  warm(): Promise<void>;
  close(): void;
}

/** How long the look at a hanging probe may take. */
const CLASSIFY_MS = 250;
/** A torn read (status and member list of two different views) is repeated so often. */
const TORN_RETRIES = 4;
const TORN_PAUSE_MS = 2;
const FENCE_RECHECK_MS = 5;

const ER_UNKNOWN_TABLE = 1109;
const ER_NO_SUCH_TABLE = 1146;
const ER_BAD_DB = 1049;
const ER_DEADLOCK = 1213;
const ER_LOCK_WAIT_TIMEOUT = 1205;
/** Not Primary, or fenced. */
const ER_NOT_PREPARED = 1047;

/** Opens nothing yet: the first call, or `warm()`, does. */
export function openMysql(options: MysqlOptions): Mysql {
  return new LocalMysql(options);
}

class LocalMysql implements Mysql {
  readonly #options: MysqlOptions;
  readonly #commandMs: number;
  readonly #poll: Link;
  readonly #probe: Link;
  readonly #control: Link;
  readonly #fence: Link;
  #polling: Promise<PollResult> | null = null;
  #probing: Promise<ProbeResult> | null = null;
  /** Server's id of the connection on which a probe hung and may still be hanging. */
  #hanging: number | null = null;
  /** Whether the plugin wsrep_info is loaded; null until the first poll. It cannot change while mariadbd runs. */
  #membership: "plugin" | "table" | null = null;

  constructor(options: MysqlOptions) {
    this.#options = options;
    this.#commandMs = options.commandTimeoutMs ?? 1000;
    const forEver = "SET SESSION wait_timeout=31536000, wsrep_sync_wait=0, autocommit=1";
    // With wsrep_on=OFF a session is spared by ALL_KILL and may KILL on a fenced server, where all
    // others get error 1047 for it. Nothing that writes tables runs on these three.
    const aside = `${forEver}, wsrep_on=OFF`;
    this.#poll = new Link(options, "poll", aside);
    this.#control = new Link(options, "control", aside);
    this.#fence = new Link(options, "fence", aside);
    const lockS = Math.max(1, Math.floor(options.probeTimeoutMs / 1000));
    this.#probe = new Link(
      options,
      "probe",
      // wsrep_on: a global OFF would make the probe a local write that proves nothing.
      `${forEver}, lock_wait_timeout=${lockS}, innodb_lock_wait_timeout=${lockS}, wsrep_on=ON`,
    );
  }

  poll(): Promise<PollResult> {
    this.#polling ??= this.#pollOnce().finally(() => {
      this.#polling = null;
    });
    return this.#polling;
  }

  probe(serial: number): Promise<ProbeResult> {
    this.#probing ??= this.#probeOnce(serial).finally(() => {
      this.#probing = null;
    });
    return this.#probing;
  }

  async fence(): Promise<FenceResult> {
    const startedAt = performance.now();
    const deadline = startedAt + this.#options.fenceMs;
    let rejectQueries: string | null = null;
    let left: ReadonlySet<string> | null = null;
    let killed = 0;
    let error: string | null = null;
    try {
      await this.#fence.query(
        "SET GLOBAL wsrep_reject_queries=ALL_KILL",
        deadline - performance.now(),
      );
      do {
        const [variable, sessions] = await this.#fence.query(
          `SELECT @@global.wsrep_reject_queries; ${sessionsSql(this.#ownIds())}`,
          deadline - performance.now(),
        );
        rejectQueries = variable?.[0]?.[0] ?? null;
        const present = new Set(sessions?.map((row) => row[0] ?? "") ?? []);
        // Whoever connects after the order can do nothing, so only those of the first look count.
        left = left === null ? present : common(left, present);
        if (left.size > 0) {
          killed = Math.max(killed, left.size);
          await this.#killAll(left, deadline);
          await Bun.sleep(FENCE_RECHECK_MS);
        }
      } while (left.size > 0 && performance.now() < deadline);
      if (left.size > 0) error = `${left.size} client sessions are still there after KILL`;
    } catch (thrown) {
      error = describeError(thrown);
    }
    // ALL_KILL has closed the probe's connection.
    void this.warm();
    const refusing = rejectQueries === "ALL_KILL" || rejectQueries === "ALL";
    return {
      fenced: error === null && refusing && left?.size === 0,
      rejectQueries,
      sessionsLeft: left?.size ?? null,
      killed,
      error: error ?? (refusing ? null : `wsrep_reject_queries reads back ${rejectQueries}`),
      tookMs: performance.now() - startedAt,
    };
  }

  async unfence(): Promise<CommandResult> {
    try {
      const results = await this.#fence.query(
        "SET GLOBAL wsrep_reject_queries=NONE; SELECT @@global.wsrep_reject_queries",
        this.#options.fenceMs,
      );
      const value = results[1]?.[0]?.[0] ?? null;
      if (value === "NONE") return { ok: true, error: null };
      return { ok: false, error: `wsrep_reject_queries reads back ${value}` };
    } catch (error) {
      return { ok: false, error: describeError(error) };
    }
  }

  async formPrimary(expectedFingerprint: string): Promise<FormPrimaryResult> {
    const deadline = performance.now() + this.#commandMs;
    try {
      const status = await this.#read(this.#control, deadline);
      const id = this.#control.id ?? -1;
      const now = fingerprint(status.stateUuid, status.primary, status.members);
      const because = status.primary
        ? "The server is in a Primary view"
        : !status.connected
          ? "The server is in no view: its provider is not connected"
          : now !== expectedFingerprint
            ? `The view is ${now ?? "unknown"}`
            : null;
      if (because !== null) return { outcome: "changed", status, because };
      await this.#control.queryOn(
        id,
        "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'",
        deadline - performance.now(),
      );
      return { outcome: "done", status };
    } catch (error) {
      return { outcome: "error", error: describeError(error) };
    }
  }

  async evict(list: {
    readonly uuids: readonly string[];
    readonly anew: boolean;
  }): Promise<CommandResult> {
    for (const uuid of list.anew ? ["", ...list.uuids] : list.uuids) {
      const result = await this.setProviderOption("evs.evict", uuid);
      if (!result.ok) return result;
    }
    return { ok: true, error: null };
  }

  async tune(periodMs: number): Promise<CommandResult> {
    const period = `PT${periodMs / 1000}S`;
    const result = await this.setProviderOption("evs.join_retrans_period", period);
    return result.ok ? await this.setProviderOption("evs.keepalive_period", period) : result;
  }

  async setProviderOption(key: string, value: string): Promise<CommandResult> {
    // The option string has a syntax of its own (; and =) that no quoting protects.
    if (!/^[a-z_]+(\.[a-z_]+)+$/.test(key) || !/^[A-Za-z0-9_.:/-]*$/.test(value)) {
      return { ok: false, error: `Cannot set provider option: ${key}=${value} is not plain` };
    }
    return await this.#command(`SET GLOBAL wsrep_provider_options='${key}=${value}'`);
  }

  async providerOption(key: string): Promise<string | null> {
    try {
      const rows = await this.#control.query(
        "SELECT @@global.wsrep_provider_options",
        this.#commandMs,
      );
      return optionOf(rows[0]?.[0]?.[0] ?? "", key);
    } catch {
      // Unknown is an answer that every caller has to be ready for.
      return null;
    }
  }

  async createProbeTable(): Promise<CommandResult> {
    // Not by #command(): there it would be made on this server alone.
    try {
      await this.#probe.query(CREATE_PROBE_SQL, this.#commandMs);
      return { ok: true, error: null };
    } catch (error) {
      return { ok: false, error: describeError(error) };
    }
  }

  async warm(): Promise<void> {
    const links = [this.#fence, this.#poll, this.#control, this.#probe];
    // A server that is not there yet answers later: the next use of each link tells.
    await Promise.allSettled(links.map((link) => link.open(this.#commandMs)));
  }

  close(): void {
    for (const link of [this.#fence, this.#poll, this.#control, this.#probe]) link.close();
  }

  #ownIds(): number[] {
    const links = [this.#fence, this.#poll, this.#control, this.#probe];
    return links.flatMap((link) => link.id ?? []);
  }

  async #command(sql: string): Promise<CommandResult> {
    try {
      await this.#control.query(sql, this.#commandMs);
      return { ok: true, error: null };
    } catch (error) {
      return { ok: false, error: describeError(error) };
    }
  }

  async #pollOnce(): Promise<PollResult> {
    const startedAt = performance.now();
    try {
      const status = await this.#read(this.#poll, startedAt + this.#options.pollTimeoutMs);
      return {
        status,
        error: null,
        unreachable: false,
        tookMs: performance.now() - startedAt,
      };
    } catch (error) {
      return {
        status: null,
        error: describeError(error),
        unreachable: error instanceof MysqlError && error.kind === "unreachable",
        tookMs: performance.now() - startedAt,
      };
    }
  }

  /** One consistent poll on that connection. @throws MysqlError */
  async #read(link: Link, deadline: number): Promise<WsrepStatus> {
    for (let attempt = 0; ; attempt++) {
      const rows = await this.#readRows(link, deadline);
      const { status, torn } = statusFromRows(rows);
      if (!torn || attempt >= TORN_RETRIES) return status;
      await Bun.sleep(TORN_PAUSE_MS);
    }
  }

  async #readRows(link: Link, deadline: number): Promise<PollRows> {
    for (;;) {
      const source = this.#membership ?? "plugin";
      const view = source === "plugin" ? VIEW_BY_PLUGIN_SQL : VIEW_BY_TABLE_SQL;
      try {
        const sets = await link.query(
          `${view}; ${STATUS_SQL}; ${VARIABLES_SQL}`,
          deadline - performance.now(),
        );
        this.#membership = source;
        const [members = [], status = [], variables = []] = sets;
        const values = entriesOf(status[0]?.[0] ?? "") ?? (await this.#statusRows(link, deadline));
        return { source, members, status: values, variables };
      } catch (error) {
        // A mariadbd started without the plugin, or restarted with it.
        const wrong = error instanceof MysqlError && error.errno === ER_UNKNOWN_TABLE;
        if (!wrong || source === "table") {
          this.#membership = null;
          throw error;
        }
        this.#membership = "table";
      }
    }
  }

  /** Row by row, should the one cell be no JSON: a name that the server escapes wrongly silences nobody. */
  async #statusRows(link: Link, deadline: number): Promise<Rows> {
    const sets = await link.query(STATUS_ROWS_SQL, deadline - performance.now());
    return sets[0] ?? [];
  }

  async #probeOnce(serial: number): Promise<ProbeResult> {
    const startedAt = performance.now();
    const outcome = await this.#probeOutcome(serial);
    return { ...outcome, tookMs: performance.now() - startedAt };
  }

  async #probeOutcome(serial: number): Promise<Omit<ProbeResult, "tookMs">> {
    if (this.#hanging !== null) {
      const still = await this.#lookAtHanging(this.#hanging);
      if (still !== null) return still;
      this.#hanging = null;
    }
    const deadline = performance.now() + this.#options.probeTimeoutMs;
    let sql = `REPLACE INTO minder.probe (node, at) VALUES (${Math.trunc(serial)}, NOW(6))`;
    let id: number | null = null;
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#probe.open(deadline - performance.now());
        id = this.#probe.id;
        await this.#probe.query(sql, deadline - performance.now());
        return { outcome: "committed", error: null };
      } catch (error) {
        if (!(error instanceof MysqlError)) throw error;
        const missing = error.errno === ER_NO_SUCH_TABLE || error.errno === ER_BAD_DB;
        if (attempt === 0 && missing) {
          await this.#create(deadline);
        } else if (attempt < 2 && error.errno === ER_DEADLOCK) {
          // Another writer won the row; it was certified, so replication flows.
        } else if (error.errno === ER_NOT_PREPARED && sql !== CAUSAL_READ_SQL) {
          sql = CAUSAL_READ_SQL;
        } else if (error.kind === "timeout") {
          return await this.#afterTimeout(id, error.message);
        } else if (error.errno === ER_LOCK_WAIT_TIMEOUT && sql !== CAUSAL_READ_SQL) {
          return { outcome: "held", error: error.message };
        } else {
          return { outcome: "refused", error: error.message };
        }
      }
    }
  }

  async #create(deadline: number): Promise<void> {
    try {
      await this.#probe.query(CREATE_PROBE_SQL, deadline - performance.now());
    } catch (error) {
      // The write that follows says the same, and to the caller.
      if (!(error instanceof MysqlError)) throw error;
    }
  }

  async #afterTimeout(id: number | null, message: string): Promise<Omit<ProbeResult, "tookMs">> {
    if (id === null) return { outcome: "hung", error: message };
    this.#hanging = id;
    return (await this.#lookAtHanging(id)) ?? { outcome: "hung", error: message };
  }

  /** Why the probe on that connection hangs, and an attempt to end it; null if it is gone. */
  async #lookAtHanging(id: number): Promise<Omit<ProbeResult, "tookMs"> | null> {
    try {
      const sets = await this.#control.query(hangingSql(id), CLASSIFY_MS);
      const state = sets[0]?.[0]?.[0] ?? null;
      if (sets[0]?.length === 0) return null;
      const flow = sets[1]?.[0]?.[1] === "true";
      const ddl = sets[2]?.[0]?.[0] ?? null;
      await this.#killAll(new Set([String(id)]), performance.now() + CLASSIFY_MS);
      const held = flow
        ? "flow control is active"
        : ddl !== null
          ? `a schema change runs: ${ddl}`
          : state !== null && LOCK_STATE.test(state)
            ? state
            : null;
      if (held !== null) return { outcome: "held", error: `The write is held: ${held}` };
      return { outcome: "hung", error: `The write hangs: ${state || "no state shown"}` };
    } catch (error) {
      return {
        outcome: "hung",
        error: `The write hangs, as does a look at it: ${describeError(error)}`,
      };
    }
  }

  /** Kills these sessions; those that are gone already are no error. */
  async #killAll(ids: ReadonlySet<string>, deadline: number): Promise<void> {
    for (const id of ids) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return;
      try {
        await this.#fence.query(`KILL HARD CONNECTION ${Number(id)}`, leftMs);
      } catch (error) {
        if (!(error instanceof MysqlError) || error.kind !== "sql") throw error;
      }
    }
  }
}

const CREATE_PROBE_SQL =
  "CREATE DATABASE IF NOT EXISTS minder; CREATE TABLE IF NOT EXISTS minder.probe " +
  "(node INT UNSIGNED NOT NULL PRIMARY KEY, at TIMESTAMP(6) NOT NULL) ENGINE=InnoDB";

/**
 * Tells whether commits would flow though the server is fenced: with wsrep_sync_wait a read waits until
 * the group has taken in everything before it, and fences let statements without tables pass. Measured:
 * 1 ms in a whole view; after a cut it lies for evs.keepalive_period (1 s), then hangs until the view
 * changes and ends in error 1205.
 */
const CAUSAL_READ_SQL = "SET SESSION wsrep_sync_wait=1; SELECT 1; SET SESSION wsrep_sync_wait=0";

/** A wait for a lock of this server: FLUSH TABLES WITH READ LOCK, LOCK TABLES, a schema change. */
const LOCK_STATE = /^Waiting for .*\block\b/i;

function common(a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> {
  return new Set([...a].filter((item) => b.has(item)));
}

/**
 * Client sessions, the server's own threads and replicas that only read the binlog excepted.
 * No subquery: a fenced or non-Primary server refuses derived tables even over information_schema.
 */
function sessionsSql(own: readonly number[]): string {
  return (
    "SELECT ID FROM information_schema.PROCESSLIST" +
    " WHERE USER NOT IN ('system user', 'event_scheduler', 'unauthenticated user')" +
    // A session killed in the middle of a commit stays as Killed until Galera's view changes, but its
    // connection is closed at once (measured: within 2 ms): it can acknowledge nothing any more.
    ` AND COMMAND NOT IN ('Binlog Dump', 'Daemon', 'Killed') AND ID NOT IN (${[0, ...own].join(",")})`
  );
}

/** State of one session, flow control, and the longest running schema change. */
function hangingSql(id: number): string {
  return (
    `SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = ${id};` +
    " SHOW SESSION STATUS LIKE 'wsrep_flow_control_active';" +
    " SELECT LEFT(INFO, 60) FROM information_schema.PROCESSLIST WHERE INFO REGEXP" +
    " '^[[:space:]]*(ALTER|CREATE|DROP|RENAME|TRUNCATE|OPTIMIZE|ANALYZE|REPAIR)[[:space:]]'" +
    ` AND ID <> ${id} ORDER BY TIME_MS DESC LIMIT 1`
  );
}
