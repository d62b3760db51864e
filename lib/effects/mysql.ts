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
import { readFileSync } from "node:fs";
// The callback interface: its connection can be destroyed while it is still being made, which the
// promise interface hands out only once the server has answered.
import { type Connection, type ConnectionOptions, createConnection } from "mysql2";
import { describeError, MinderError } from "../errors.ts";
import type { Member } from "../message/dbserver.ts";
import { durationMs, fingerprint, type WsrepStatus } from "../wsrep_status.ts";

/** Where the local mariadbd listens. */
export type MysqlAddress =
  | { readonly socketPath: string }
  | { readonly host: string; readonly port: number };

export interface MysqlOptions {
  readonly address: MysqlAddress;
  /** Needs SUPER: reject_queries and provider options ask for it, and it gets in at max_connections. */
  readonly user: string;
  /** Read at every new connection, so that a changed password needs no restart. Null: no password. */
  readonly passwordFile: string | null;
  readonly pollTimeoutMs: number;
  readonly probeTimeoutMs: number;
  /** Bound of fence and unfence, reading back included. */
  readonly fenceMs: number;
  /** Bound of every other command. @default 1000 */
  readonly commandTimeoutMs?: number;
}

/** Why SQL failed; `sql` is an answer of the server, the others are the lack of one. */
export type MysqlFailure = "timeout" | "unreachable" | "lost" | "denied" | "too_many" | "sql";

/** A failed statement or connection. */
export class MysqlError extends MinderError {
  readonly kind: MysqlFailure;
  /** The server's error number, null where it gave none. */
  readonly errno: number | null;

  constructor(kind: MysqlFailure, message: string, where: string, errno: number | null = null) {
    const hint = HINTS[kind];
    super(message, hint === undefined ? { where } : { where, hint });
    this.name = "MysqlError";
    this.kind = kind;
    this.errno = errno;
  }
}

const HINTS: Readonly<Partial<Record<MysqlFailure, string>>> = {
  denied: "Check database.user, database.passwordFile and the account's grants",
  too_many: "Raise max_connections or give mariadbd an extra_port",
};

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
const REOPEN_MS = 1000;
const NO_HANDSHAKE = "No handshake from mariadbd within the time limit";
const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/gi;
const WHOLE_UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const UUID_ZERO = "00000000-0000-0000-0000-000000000000";

const ER_CON_COUNT = 1040;
const ER_DENIED = new Set([1044, 1045, 1227, 1698]);
const ER_UNKNOWN_TABLE = 1109;
const ER_NO_SUCH_TABLE = 1146;
const ER_BAD_DB = 1049;
const ER_DEADLOCK = 1213;
const ER_LOCK_WAIT_TIMEOUT = 1205;
/** Not Primary, or fenced. */
const ER_NOT_PREPARED = 1047;
/** Connection killed, or killed before the answer; a server that goes down says 1053. */
const ER_KILLED = new Set([1053, 1927, 1317]);

/** Rows of one statement, all values as text. */
type Rows = readonly (readonly (string | null)[])[];

/** Opens nothing yet: the first call, or `warm()`, does. */
export function openMysql(options: MysqlOptions): Mysql {
  return new LocalMysql(options);
}

/** One long-lived connection for one purpose. */
class Link {
  readonly #options: MysqlOptions;
  readonly #purpose: string;
  readonly #setup: string;
  #ready: Connection | null = null;
  #opening: Promise<Connection> | null = null;
  #closed = false;
  /** Who waits for an answer: a destroyed connection does not tell them. */
  readonly #waiting = new Map<Connection, (error: MysqlError) => void>();

  constructor(options: MysqlOptions, purpose: string, setup: string) {
    this.#options = options;
    this.#purpose = purpose;
    this.#setup = setup;
  }

  /** The server's id of the open connection, null if none is open. */
  get id(): number | null {
    return this.#ready?.threadId ?? null;
  }

  get where(): string {
    const { address } = this.#options;
    return "socketPath" in address ? address.socketPath : `${address.host}:${address.port}`;
  }

  /**
   * Runs `sql` (one or more statements, one set of rows for each). A connection that turns out to
   * be dead is made anew and the statements are repeated.
   * @throws MysqlError
   */
  async query(sql: string, timeoutMs: number): Promise<Rows[]> {
    const deadline = performance.now() + timeoutMs;
    const wasOpen = this.#ready !== null;
    try {
      return await this.#ask(await this.#connection(deadline), sql, deadline);
    } catch (error) {
      // The server drops idle connections when it fences or restarts; that shows at the next use.
      const stale = wasOpen && error instanceof MysqlError && error.kind === "lost";
      if (!stale) throw error;
      return await this.#ask(await this.#connection(deadline), sql, deadline);
    }
  }

  /** Runs `sql` on the connection with that server id or not at all. @throws MysqlError */
  async queryOn(id: number, sql: string, timeoutMs: number): Promise<Rows[]> {
    if (this.#ready === null || this.#ready.threadId !== id) {
      throw this.#error("lost", "The connection broke between two statements");
    }
    return await this.#ask(this.#ready, sql, performance.now() + timeoutMs);
  }

  /** Connects if it is not connected. @throws MysqlError */
  async open(timeoutMs: number): Promise<void> {
    await this.#connection(performance.now() + timeoutMs);
  }

  /** Cuts the connection, whatever it is waiting for. */
  drop(): void {
    if (this.#ready !== null) this.#forget(this.#ready);
  }

  close(): void {
    this.#closed = true;
    this.drop();
  }

  async #connection(deadline: number): Promise<Connection> {
    if (this.#closed) throw new MysqlError("lost", "Cannot query: closed", this.where);
    if (this.#ready !== null) return this.#ready;
    this.#opening ??= this.#connect(deadline).finally(() => {
      this.#opening = null;
    });
    // Whoever joins an opening that another began keeps a bound of its own.
    return await within(this.#opening, deadline, () => this.#error("timeout", NO_HANDSHAKE));
  }

  /** A connection that the server has closed is replaced at once, once: the next use finds it warm. */
  #reopen(connection: Connection): void {
    const wasReady = this.#ready === connection;
    this.#forget(connection);
    if (!wasReady || this.#closed) return;
    this.open(REOPEN_MS).catch(() => {
      // A server that is gone: the next use tells its caller.
    });
  }

  async #connect(deadline: number): Promise<Connection> {
    const { address, user, passwordFile } = this.#options;
    const settings: ConnectionOptions = {
      ...("socketPath" in address
        ? { socketPath: address.socketPath }
        : { host: address.host, port: address.port }),
      user,
      password: passwordFile === null ? "" : this.#password(passwordFile),
      multipleStatements: true,
      rowsAsArray: true,
      // Every value as text: seqnos and counters exceed what a double holds (conf_id is 2^64 - 1).
      typeCast: (field) => field.string(),
      // Its own bound stays above ours, which covers the handshake too.
      connectTimeout: 60_000,
      connectAttributes: { program_name: `galera-minder ${this.#purpose}` },
    };
    const connection = createConnection(settings);
    // An idle connection that breaks has nobody else to tell; the next use opens another.
    connection.on("error", () => this.#reopen(connection));
    connection.on("end", () => this.#reopen(connection));
    await bounded<void>(
      connection,
      deadline,
      () => this.#error("timeout", NO_HANDSHAKE),
      (done, fail) => {
        connection.connect((error) => (error === null ? done() : fail(this.#typed(error))));
      },
    );
    try {
      await this.#ask(connection, this.#setup, deadline);
    } catch (error) {
      connection.destroy();
      throw error;
    }
    if (this.#closed) {
      connection.destroy();
      throw new MysqlError("lost", "Cannot query: closed", this.where);
    }
    this.#ready = connection;
    return connection;
  }

  async #ask(connection: Connection, sql: string, deadline: number): Promise<Rows[]> {
    try {
      return await bounded<Rows[]>(
        connection,
        deadline,
        () => this.#error("timeout", "No answer from mariadbd within the time limit"),
        (done, fail) => {
          this.#waiting.set(connection, fail);
          connection.query(sql, (error, results) => {
            if (error === null) done(rowSets(results));
            else fail(this.#typed(error));
          });
        },
      );
    } catch (error) {
      if (error instanceof MysqlError && error.kind !== "sql") this.#forget(connection);
      throw error;
    } finally {
      this.#waiting.delete(connection);
    }
  }

  #password(file: string): string {
    try {
      return readPassword(file);
    } catch (error) {
      throw new MysqlError("denied", describeError(error), file);
    }
  }

  #forget(connection: Connection): void {
    connection.destroy();
    if (this.#ready === connection) this.#ready = null;
    this.#waiting.get(connection)?.(this.#error("lost", "The connection to mariadbd was lost"));
  }

  #error(kind: MysqlFailure, message: string): MysqlError {
    return new MysqlError(kind, `${message} (${this.#purpose})`, this.where);
  }

  #typed(error: unknown): MysqlError {
    const errno = errnoOf(error);
    const text = errno === null ? describeError(error) : `${describeError(error)} (${errno})`;
    return new MysqlError(kindOf(error, errno), text, this.where, errno);
  }
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

/**
 * View and members out of the plugin wsrep_info: it shows the present view, non-Primary ones too
 * (measured: 2+0 of 2, member list and status change together), in 0.1 ms.
 */
const VIEW_BY_PLUGIN_SQL =
  "SELECT s.CLUSTER_STATUS, s.CLUSTER_SIZE, m.UUID, m.NAME, m.ADDRESS" +
  " FROM information_schema.WSREP_STATUS s LEFT JOIN information_schema.WSREP_MEMBERSHIP m ON 1";

/** Without the plugin: the members of the last Primary view, to be cut down by addresses. */
const VIEW_BY_TABLE_SQL =
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
const STATUS_SQL =
  "SELECT JSON_OBJECTAGG(LOWER(VARIABLE_NAME), VARIABLE_VALUE)" +
  " FROM information_schema.SESSION_STATUS" +
  ` WHERE VARIABLE_NAME IN (${STATUS_NAMES.map((name) => `'${name}'`).join(", ")})`;

const STATUS_ROWS_SQL = "SHOW SESSION STATUS LIKE 'wsrep\\_%'";

/** What a poll needs of the provider's options. */
const OPTION_NAMES = ["pc.weight", "evs.join_retrans_period", "evs.keepalive_period"] as const;

/** The options are one text of 3 kB: what is needed is cut out where it is, and has the same form. */
const OPTIONS_SQL = `CONCAT_WS('; ', ${OPTION_NAMES.map(
  (name) =>
    `CONCAT('${name} = ', SUBSTRING_INDEX(SUBSTRING_INDEX(` +
    `@@global.wsrep_provider_options, '${name} = ', -1), ';', 1))`,
).join(", ")})`;

const VARIABLES_SQL = `SELECT @@global.wsrep_reject_queries, @@global.read_only, ${OPTIONS_SQL}, @@global.version`;

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
function entriesOf(json: string): Rows | null {
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
function optionOf(options: string, key: string): string | null {
  for (const part of options.split(";")) {
    const at = part.indexOf("=");
    if (at > 0 && part.slice(0, at).trim() === key) return part.slice(at + 1).trim();
  }
  return null;
}

/** Settles as `promise` does, or throws what `late` makes. */
async function within<T>(
  promise: Promise<T>,
  deadline: number,
  late: () => MysqlError,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      timer = setTimeout(() => reject(late()), Math.max(0, deadline - performance.now()));
      promise.then(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
  }
}

/** Settles `start`, or destroys the connection and throws what `late` makes. */
async function bounded<T>(
  connection: Connection,
  deadline: number,
  late: () => MysqlError,
  start: (done: (value: T) => void, fail: (error: MysqlError) => void) => void,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      timer = setTimeout(
        () => {
          connection.destroy();
          reject(late());
        },
        Math.max(0, deadline - performance.now()),
      );
      start(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
  }
}

/** One set of rows per statement; a statement without rows gives an empty one. */
function rowSets(results: unknown): Rows[] {
  if (!Array.isArray(results)) return [[]];
  const many = results.length > 0 && results.every((set) => !isRow(set));
  const sets = many ? results : [results];
  return sets.map((set) => (Array.isArray(set) ? set.filter(isRow) : []));
}

/** Rows come as arrays of text and nulls; a set is an array of rows, or an object for "OK". */
function isRow(value: unknown): value is (string | null)[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((cell) => cell === null || typeof cell === "string")
  );
}

function errnoOf(error: unknown): number | null {
  if (typeof error !== "object" || error === null || !("errno" in error)) return null;
  const { errno } = error;
  // System errors have negative ones.
  return typeof errno === "number" && errno > 0 ? errno : null;
}

function kindOf(error: unknown, errno: number | null): MysqlFailure {
  if (errno !== null) {
    if (errno === ER_CON_COUNT) return "too_many";
    if (ER_KILLED.has(errno)) return "lost";
    return ER_DENIED.has(errno) ? "denied" : "sql";
  }
  const code =
    typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  return /^(ECONNREFUSED|ENOENT|EHOSTUNREACH|ENETUNREACH|EACCES|ENOTFOUND)$/.test(code)
    ? "unreachable"
    : "lost";
}

/** First line of the file. @throws MinderError */
export function readPassword(file: string): string {
  try {
    return readFileSync(file, "utf8").split(/\r?\n/, 1)[0] ?? "";
  } catch (cause) {
    throw new MinderError("Cannot read the database password", {
      where: file,
      hint: "The file holds the password in its first line and must be readable by the watchdog",
      cause,
    });
  }
}
