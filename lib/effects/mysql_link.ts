/**
 * One long-lived connection to mariadbd for one purpose, and what a failure on it is called.
 *
 * Invariant: every question ends within its bound, whatever mariadbd does: a connection whose answer is
 * overdue is destroyed and made anew, never waited for.
 */
import { readFileSync } from "node:fs";
// The callback interface: its connection can be destroyed while it is still being made, which the
// promise interface hands out only once the server has answered.
import { type Connection, type ConnectionOptions, createConnection } from "mysql2";
import { describeError, MinderError } from "../errors.ts";

/** Where the local mariadbd listens. */
export type MysqlAddress =
  | { readonly socketPath: string }
  | { readonly host: string; readonly port: number };

/** What a connection needs. */
export interface LinkOptions {
  readonly address: MysqlAddress;
  readonly user: string;
  /** Read at every new connection, so that a changed password needs no restart. Null: no password. */
  readonly passwordFile: string | null;
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

const REOPEN_MS = 1000;
const NO_HANDSHAKE = "No handshake from mariadbd within the time limit";

const ER_CON_COUNT = 1040;
const ER_DENIED = new Set([1044, 1045, 1227, 1698]);
/** Connection killed, or killed before the answer; a server that goes down says 1053. */
const ER_KILLED = new Set([1053, 1927, 1317]);

/** Rows of one statement, all values as text. */
export type Rows = readonly (readonly (string | null)[])[];

/** One long-lived connection for one purpose. */
export class Link {
  readonly #options: LinkOptions;
  readonly #purpose: string;
  readonly #setup: string;
  #ready: Connection | null = null;
  #opening: Promise<Connection> | null = null;
  #closed = false;
  /** Who waits for an answer: a destroyed connection does not tell them. */
  readonly #waiting = new Map<Connection, (error: MysqlError) => void>();

  constructor(options: LinkOptions, purpose: string, setup: string) {
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
