/**
 * The table `minder.config`: every version of the cluster's config as one row that is never changed.
 *
 * Invariant: a version is its row's primary key, so Galera's certification lets one of two pushes at
 * once commit, wherever they were made; the other finds the winner's row.
 */
import { type Connection, createConnection, type RowDataPacket } from "mysql2";
import { restamp } from "../config_store.ts";
import { describeError, MinderError } from "../errors.ts";
import { CONFIG_FILE_MAX_BYTES, sha256 } from "./config_file.ts";
import { parseControlAddress } from "./control_socket.ts";
import { readPassword } from "./mysql_link.ts";

/** Where the database is, and as whom to ask it. */
export interface ConfigDbOptions {
  /** Socket paths or host:port, in the order in which they are tried. */
  readonly addresses: readonly string[];
  readonly user: string;
  /** Read at every connection. Null: no password. */
  readonly passwordFile: string | null;
  /** Only a server that is Primary and not fenced will do: there is something to write. @default false */
  readonly primary?: boolean;
  /** Bound of one address: connect, and each statement. @default 2000 */
  readonly timeoutMs?: number;
}

/** One version, as it was pushed. */
export interface ConfigRow {
  readonly version: number;
  /** The version that it was made from; null for the first. */
  readonly base: number | null;
  readonly document: string;
  readonly checksum: string;
  readonly author: string;
  /** UTC. */
  readonly at: string;
  readonly note: string;
}

/** What the newest row is, and how far that may be relied on. */
export interface Newest {
  /** Null where the table is empty. */
  readonly version: number | null;
  readonly checksum: string | null;
  /** The server that answered is Primary. */
  readonly authoritative: boolean;
  readonly address: string;
}

export type PushResult =
  | { readonly is: "pushed"; readonly row: ConfigRow }
  /** Somebody else's version is there already. */
  | { readonly is: "stale"; readonly winner: ConfigRow };

export interface PushOptions {
  readonly text: string;
  /** The version that the text was made from, null for the first. */
  readonly base: number | null;
  readonly author: string;
  readonly note: string;
}

/** One connection to one server, for a few statements. */
export interface ConfigDb {
  readonly address: string;
  newest(): Promise<Newest>;
  /** One version; null if it is not there. @throws MinderError if it is damaged */
  read(version: number): Promise<ConfigRow | null>;
  /** All versions, newest first, without their texts; at most HISTORY_MAX. */
  history(): Promise<readonly Omit<ConfigRow, "document">[]>;
  /** Makes schema and table; safe to repeat. */
  init(): Promise<void>;
  push(options: PushOptions): Promise<PushResult>;
  close(): void;
}

/** Rows that a history shows. */
export const HISTORY_MAX = 200;
const TIMEOUT_MS = 2_000;

const ER_BAD_DB = 1049;
const ER_NO_SUCH_TABLE = 1146;
const ER_DENIED = new Set([1044, 1045, 1142, 1698]);
/** Another row of that version, or a commit that lost its certification. */
const ER_LOST = new Set([1062, 1213, 1205]);

const INIT_SQL = [
  "CREATE DATABASE IF NOT EXISTS minder",
  "CREATE TABLE IF NOT EXISTS minder.config (" +
    "version BIGINT UNSIGNED NOT NULL PRIMARY KEY, " +
    "base_version BIGINT UNSIGNED NULL, " +
    "document MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, " +
    "checksum CHAR(64) CHARACTER SET ascii NOT NULL, " +
    "author VARCHAR(128) CHARACTER SET utf8mb4 NOT NULL, " +
    "pushed_at DATETIME(3) NOT NULL, " +
    "note VARCHAR(1000) CHARACTER SET utf8mb4 NOT NULL) ENGINE=InnoDB",
];
const COLUMNS =
  "version, base_version, checksum, author, note, " +
  "DATE_FORMAT(pushed_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS pushed_at";

/**
 * Connects to the first address that answers.
 * @throws MinderError with what each of them said
 */
export async function openConfigDb(options: ConfigDbOptions): Promise<ConfigDb> {
  const failures: string[] = [];
  for (const address of options.addresses) {
    try {
      const db = await connect(address, options);
      if (options.primary !== true || (await db.takesWrites())) return db;
      db.close();
      failures.push(`${address}: not Primary, or fenced`);
    } catch (error) {
      failures.push(`${address}: ${describeError(error)}`);
    }
  }
  throw new MinderError(`Cannot reach the database: ${failures.join("; ")}`, {
    where: "database.addresses",
    hint: "Is a server up, and may this account log in from here? `just grants --for reader` prints its statements",
  });
}

async function connect(address: string, options: ConfigDbOptions): Promise<OneServer> {
  const { user, passwordFile, timeoutMs = TIMEOUT_MS } = options;
  const at = parseControlAddress(address);
  const connection = createConnection({
    ...("path" in at ? { socketPath: at.path } : at),
    user,
    password: passwordFile === null ? "" : readPassword(passwordFile),
    charset: "utf8mb4",
    supportBigNumbers: true,
    connectTimeout: 60_000,
    connectAttributes: { program_name: "galera-minder config" },
  });
  // One that breaks while nobody asks shows at the next statement.
  connection.on("error", () => undefined);
  await bounded<void>(connection, timeoutMs, (done, fail) => {
    connection.connect((error) => (error === null ? done() : fail(error)));
  });
  const db = new OneServer(address, connection, timeoutMs);
  try {
    // A fenced or non-Primary server still tells what it has.
    await db.rows("SET SESSION wsrep_dirty_reads = 1").catch(ignoreUnknownVariable);
  } catch (error) {
    db.close();
    throw error;
  }
  return db;
}

/** Awaits a callback for so long; then the connection is cut, whatever it waits for. */
function bounded<Value>(
  connection: Connection,
  timeoutMs: number,
  work: (done: (value: Value) => void, fail: (error: unknown) => void) => void,
): Promise<Value> {
  return new Promise<Value>((resolve, reject) => {
    const limit = setTimeout(() => {
      connection.destroy();
      reject(new Error(`No answer within ${timeoutMs} ms`));
    }, timeoutMs);
    work(
      (value) => {
        clearTimeout(limit);
        resolve(value);
      },
      (error) => {
        clearTimeout(limit);
        connection.destroy();
        reject(error);
      },
    );
  });
}

class OneServer implements ConfigDb {
  readonly address: string;
  readonly #connection: Connection;
  readonly #timeoutMs: number;

  constructor(address: string, connection: Connection, timeoutMs: number) {
    this.address = address;
    this.#connection = connection;
    this.#timeoutMs = timeoutMs;
  }

  async rows(sql: string, values: readonly unknown[] = []): Promise<readonly RowDataPacket[]> {
    return await new Promise((resolve, reject) => {
      const limit = setTimeout(() => {
        this.#connection.destroy();
        reject(new Error(`No answer within ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
      this.#connection.query(sql, [...values], (error, found) => {
        clearTimeout(limit);
        if (error === null) resolve(Array.isArray(found) ? (found as RowDataPacket[]) : []);
        else reject(error);
      });
    });
  }

  /** Also where there is no Galera at all. */
  async isPrimary(): Promise<boolean> {
    const [status] = await this.rows("SHOW GLOBAL STATUS LIKE 'wsrep_cluster_status'");
    return status === undefined || status["Value"] === "Primary";
  }

  /** Primary, and not fenced. */
  async takesWrites(): Promise<boolean> {
    const [fence] = await this.rows("SHOW GLOBAL VARIABLES LIKE 'wsrep_reject_queries'");
    return (fence === undefined || fence["Value"] === "NONE") && (await this.isPrimary());
  }

  async newest(): Promise<Newest> {
    const { address } = this;
    try {
      const authoritative = await this.isPrimary();
      const [row] = await this.rows(
        "SELECT version, checksum FROM minder.config ORDER BY version DESC LIMIT 1",
      );
      if (row === undefined) return { version: null, checksum: null, authoritative, address };
      const { version, checksum } = row;
      return { version: Number(version), checksum: String(checksum), authoritative, address };
    } catch (error) {
      throw this.#told(error, "Cannot read the config");
    }
  }

  async read(version: number): Promise<ConfigRow | null> {
    let row: RowDataPacket | undefined;
    try {
      const sql = `SELECT ${COLUMNS}, document FROM minder.config WHERE version = ?`;
      [row] = await this.rows(sql, [version]);
    } catch (error) {
      throw this.#told(error, `Cannot read config version ${version}`);
    }
    if (row === undefined) return null;
    const document = String(row["document"]);
    const whole = { ...describeRow(row), document };
    if (sha256(document) === whole.checksum) return whole;
    throw new MinderError(`Config version ${version} is damaged: its checksum does not fit`, {
      where: `minder.config at ${this.address}`,
      hint: "Push it again, or roll back to another version",
    });
  }

  async history(): Promise<readonly Omit<ConfigRow, "document">[]> {
    try {
      const sql = `SELECT ${COLUMNS} FROM minder.config ORDER BY version DESC LIMIT ${HISTORY_MAX}`;
      return (await this.rows(sql)).map(describeRow);
    } catch (error) {
      throw this.#told(error, "Cannot read the history");
    }
  }

  async init(): Promise<void> {
    try {
      for (const sql of INIT_SQL) await this.rows(sql);
    } catch (error) {
      throw this.#told(error, "Cannot make the table");
    }
  }

  async push({ text, base, author, note }: PushOptions): Promise<PushResult> {
    const newest = await this.#newestCommitted();
    if (newest !== null && newest.version !== base) return { is: "stale", winner: newest };
    const version = (newest?.version ?? 0) + 1;
    const document = newest === null ? text : restamp(text, version);
    if (document === null || document.length > CONFIG_FILE_MAX_BYTES) {
      throw new MinderError("Cannot push: the document has no line `version = N` of its own");
    }
    const stamped = newest === null ? versionOf(document) : version;
    const checksum = sha256(document);
    try {
      const values = [stamped, newest?.version ?? null, document, checksum, author, note];
      await this.rows(
        "INSERT INTO minder.config (version, base_version, document, checksum, author, note, pushed_at) " +
          "VALUES (?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(3))",
        values,
      );
    } catch (error) {
      if (!ER_LOST.has(errnoOf(error))) throw this.#told(error, "Cannot push");
    }
    const winner = await this.read(stamped);
    if (winner === null) {
      throw new MinderError("Cannot push: the row is not there", {
        hint: "Another push was under way; look at `just config-history` and try again",
      });
    }
    const own = winner.checksum === checksum && winner.author === author && winner.note === note;
    return own ? { is: "pushed", row: winner } : { is: "stale", winner };
  }

  /** The newest row of the cluster, not only of this server. */
  async #newestCommitted(): Promise<ConfigRow | null> {
    try {
      await this.rows("SET SESSION wsrep_dirty_reads = 0").catch(ignoreUnknownVariable);
      await this.rows("SET SESSION wsrep_sync_wait = 1").catch(ignoreUnknownVariable);
      const [row] = await this.rows("SELECT MAX(version) AS version FROM minder.config");
      const version = row?.["version"];
      return version === null || version === undefined ? null : await this.read(Number(version));
    } catch (error) {
      throw this.#told(error, "Cannot push");
    }
  }

  close(): void {
    this.#connection.destroy();
  }

  #told(error: unknown, what: string): MinderError {
    if (error instanceof MinderError) return error;
    const errno = errnoOf(error);
    const missing = errno === ER_BAD_DB || errno === ER_NO_SUCH_TABLE;
    return new MinderError(
      `${what}: ${missing ? "there is no config in it" : describeError(error)}`,
      {
        where: `minder.config at ${this.address}`,
        ...(missing
          ? { hint: "`just config-init` makes the table, `just config-push` fills it" }
          : {}),
        ...(ER_DENIED.has(errno)
          ? { hint: "`just grants --for operator` or `--for reader` prints what the account needs" }
          : {}),
        ...(errno === 1047
          ? { hint: "This server is not Primary, or fenced: ask another one" }
          : {}),
        cause: error,
      },
    );
  }
}

function describeRow(row: RowDataPacket): Omit<ConfigRow, "document"> {
  const { version, base_version, checksum, author, pushed_at, note } = row;
  return {
    version: Number(version),
    base: base_version === null ? null : Number(base_version),
    checksum: String(checksum),
    author: String(author),
    at: String(pushed_at).replace(/000Z$/, "Z"),
    note: String(note),
  };
}

function versionOf(document: string): number {
  return Number(/^version[ \t]*=[ \t]*(\d+)/m.exec(document)?.[1] ?? "1");
}

function errnoOf(error: unknown): number {
  return error instanceof Error && "errno" in error && typeof error.errno === "number"
    ? error.errno
    : 0;
}

/** A server without Galera has none of its variables. */
function ignoreUnknownVariable(error: unknown): readonly RowDataPacket[] {
  if (errnoOf(error) === 1193) return [];
  throw error;
}
