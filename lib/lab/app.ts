/**
 * The lab's application: inserts numbered rows one after another and keeps a journal of what it was
 * told about each. The prober is the same, one for each server by its own socket, which no cut of
 * the network touches: it sees when a server takes writes, whoever can reach it.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { type Connection, createConnection } from "mysql2";
import { type Attempt, readJournal, wallMs } from "./journal.ts";
import type { Credentials } from "./mariadb.ts";

/** Holds the rows of all writers; part of the template. */
export const ROWS_TABLE = "app.written";

export interface WriterOptions {
  /** Its rows bear this name. */
  readonly name: string;
  readonly address:
    | { readonly socketPath: string }
    | { readonly host: string; readonly port: number };
  readonly credentials: Credentials;
  /** Appended to. */
  readonly journal: string;
  /** Start to start; a slower answer delays the next. */
  readonly intervalMs: number;
  /** A session for every row, as programs without a pool do. @default false: one session for all */
  readonly sessionPerRow?: boolean;
  readonly connectTimeoutMs: number;
  /** The connection is given up after that, and the row's outcome is unknown. */
  readonly statementTimeoutMs: number;
}

/** Errors by which the server says that the statement was not begun. */
const REFUSED = new Set(["ER_UNKNOWN_COM_ERROR", "ER_OPTION_PREVENTS_STATEMENT"]);
const REFUSED_NUMBERS = new Set([1047, 1290]);
/** Pause after a failed connection: at once, but not as a busy loop. */
const RETRY_MS = 10;

/** Writes rows until `signal`; then ends within the statement's time limit. */
export async function runWriter(options: WriterOptions, signal: AbortSignal): Promise<void> {
  const before = readJournal(options.journal).at(-1)?.number ?? 0;
  // A killed predecessor may have sent one row that its journal does not name.
  let number = before === 0 ? 0 : before + 1;
  const file = openSync(options.journal, "a", 0o600);
  let session: Session | null = null;
  try {
    while (!signal.aborted) {
      const startMs = wallMs();
      number++;
      let outcome: Attempt["outcome"] = "refused";
      let error: string | null = null;
      const server: string | null = session?.server ?? null;
      let reached = server;
      try {
        session ??= await connect(options);
        reached = session.server;
        outcome = "unknown";
        await ask(session.connection, insertSql(options.name, number), options.statementTimeoutMs);
        outcome = "acknowledged";
        if (options.sessionPerRow === true) {
          session.connection.end();
          session = null;
        }
      } catch (caught) {
        error = codeOf(caught);
        if (REFUSED.has(error) || REFUSED_NUMBERS.has(numberOf(caught))) outcome = "refused";
        // After any error a new connection: the balancer may know a better server by now.
        session?.connection.destroy();
        session = null;
      }
      const endMs = wallMs();
      const attempt: Attempt = {
        writer: options.name,
        number,
        startMs,
        endMs,
        outcome,
        server: reached,
        error,
      };
      writeSync(file, `${JSON.stringify(attempt)}\n`);
      // A broken connection is replaced at once; one that cannot be made costs a short pause.
      const pause = error === null ? startMs + options.intervalMs - endMs : pauseAfter();
      if (pause > 0 && !signal.aborted) await Bun.sleep(pause);
    }
  } finally {
    session?.connection.destroy();
    closeSync(file);
  }

  /** The usual pace, through a new connection: four that retried every 10 ms took a whole core. */
  function pauseAfter(): number {
    return Math.max(RETRY_MS, options.intervalMs);
  }
}

interface Session {
  readonly connection: Connection;
  readonly server: string;
}

async function connect(options: WriterOptions): Promise<Session> {
  const connection = createConnection({
    ...options.address,
    user: options.credentials.user,
    password: options.credentials.password,
    connectTimeout: options.connectTimeoutMs,
  });
  // Errors outside a statement (the server went away) show at the next statement.
  connection.on("error", () => {});
  try {
    // One statement does for the handshake too: it waits in the queue until that is done.
    const rows = await ask(
      connection,
      "SELECT @@wsrep_node_name AS server",
      options.connectTimeoutMs,
    );
    const [first] = rows as readonly { readonly server?: string }[];
    return { connection, server: first?.server ?? "?" };
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

/** One statement within a time limit that also holds where nothing answers at all. */
async function ask(connection: Connection, sql: string, timeoutMs: number): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const timer = setTimeout(
    () => reject(Object.assign(new Error(`No answer within ${timeoutMs} ms`), { code: "TIMEOUT" })),
    timeoutMs,
  );
  const ended = (): void => reject(Object.assign(new Error("Connection ended"), { code: "ENDED" }));
  connection.once("end", ended);
  connection.query(sql, (error, rows) => (error === null ? resolve(rows) : reject(error)));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    connection.removeListener("end", ended);
  }
}

function insertSql(writer: string, number: number): string {
  // Names are made by the lab: letters, digits and hyphens.
  return `INSERT INTO ${ROWS_TABLE} (writer, number, server) VALUES ('${writer}', ${number}, @@wsrep_node_name)`;
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : String(error);
}

function numberOf(error: unknown): number {
  const number = error instanceof Error && "errno" in error ? error.errno : undefined;
  return typeof number === "number" ? number : 0;
}
