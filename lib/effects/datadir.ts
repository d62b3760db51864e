/**
 * What a stopped mariadbd has left in its data directory: where its data stands, and what would make
 * it start differently than ordered.
 */
import {
  chownSync,
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { lstat, opendir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { describeError, MinderError } from "../errors.ts";
import { ASIDE_MAX, type Aside, type Position } from "../message/dbserver.ts";

/** grastate.dat, as Galera keeps it. */
export interface Grastate {
  /** Null where it is all zero: the data is not to be built upon. */
  readonly uuid: string | null;
  /** -1 while mariadbd runs and after a crash. */
  readonly seqno: number;
  readonly safeToBootstrap: boolean;
}

/** What `read_position` found. */
export interface PositionResult {
  readonly position: Position | null;
  readonly safeToBootstrap: boolean;
  readonly error: string | null;
}

const UUID_ZERO = "00000000-0000-0000-0000-000000000000";
const RECOVERED =
  /WSREP: Recovered position:?\s+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(-?\d+)/gi;
/** Output kept of a recovery; the wanted line is among the last. */
const OUTPUT_MAX_BYTES = 1_048_576;

/** Null if there is no such file: an empty data directory, or one marked for a full transfer. */
export function readGrastate(datadir: string): Grastate | null {
  const file = join(datadir, "grastate.dat");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return null;
    throw new MinderError("Cannot read grastate.dat", { where: file, cause });
  }
  return parseGrastate(text, file);
}

/** @throws MinderError if it is damaged: then nobody may guess what it said. */
export function parseGrastate(text: string, where = "grastate.dat"): Grastate {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const match = /^(\w+):\s*(\S+)\s*$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) values.set(match[1], match[2]);
  }
  const uuid = values.get("uuid")?.toLowerCase() ?? "";
  const seqno = Number(values.get("seqno") ?? Number.NaN);
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid) || !Number.isSafeInteger(seqno)) {
    throw new MinderError("Cannot understand grastate.dat: it lacks a uuid or seqno", {
      where,
      hint: "Rebuild this server by a full state transfer: remove grastate.dat and let it join",
    });
  }
  return {
    uuid: uuid === UUID_ZERO ? null : uuid,
    seqno: Math.max(-1, seqno),
    safeToBootstrap: values.get("safe_to_bootstrap") === "1",
  };
}

/**
 * Where the data of a stopped server stands: grastate.dat after a clean stop, else recovered from
 * InnoDB. `command` null: mariadbd cannot be run from here, so only grastate.dat speaks.
 */
export async function readPosition(
  datadir: string,
  options: { readonly command: readonly string[] | null; readonly timeoutMs: number },
): Promise<PositionResult> {
  try {
    const grastate = readGrastate(datadir);
    // Without a lineage (interrupted transfer, aborted provider) InnoDB's number means nothing.
    if (grastate === null || grastate.uuid === null) {
      return { position: null, safeToBootstrap: false, error: null };
    }
    const { uuid, seqno, safeToBootstrap } = grastate;
    if (seqno >= 0) return { position: { uuid, seqno }, safeToBootstrap, error: null };
    if (options.command === null) {
      const error = "grastate.dat has no seqno and mariadbd cannot be run from here";
      return { position: null, safeToBootstrap, error };
    }
    const position = await recoverPosition(options.command, options.timeoutMs);
    if (position !== null && position.uuid !== uuid) {
      const error = `grastate.dat is of ${uuid}, InnoDB of ${position.uuid}`;
      return { position: null, safeToBootstrap, error };
    }
    return { position, safeToBootstrap, error: null };
  } catch (error) {
    return { position: null, safeToBootstrap: false, error: describeError(error) };
  }
}

/**
 * Runs mariadbd with `--wsrep-recover`, which does InnoDB's crash recovery, so it may take as long as
 * that. Null if InnoDB has no position. @throws MinderError
 */
export async function recoverPosition(
  command: readonly string[],
  timeoutMs: number,
): Promise<Position | null> {
  // As the packaged galera_recovery does: a log_error of the configuration would hide the answer.
  const full = [...command, "--wsrep-recover", "--disable-log-error"];
  const where = full.join(" ");
  let child: Bun.Subprocess<"ignore", "ignore", "pipe">;
  try {
    child = Bun.spawn(full, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  } catch (cause) {
    throw new MinderError("Cannot run mariadbd to recover its position", { where, cause });
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  try {
    const output = await tailOf(child.stderr);
    const code = await child.exited;
    if (late) throw new MinderError(`No recovered position within ${timeoutMs} ms`, { where });
    const [, uuid, seqno] = [...output.matchAll(RECOVERED)].at(-1) ?? [];
    if (uuid === undefined || code !== 0) {
      const last = output.split("\n").findLast((line) => line.includes("[ERROR]")) ?? "";
      throw new MinderError(`Cannot recover the position: exit code ${code} ${last}`.trim(), {
        where,
      });
    }
    if (uuid === UUID_ZERO || Number(seqno) < 0) return null;
    return { uuid: uuid.toLowerCase(), seqno: Number(seqno) };
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Arguments for a start by the watchdog: fenced, able to name its view's members, and from a known
 * position. Without the position a killed server takes a full transfer instead of an incremental one,
 * and a bootstrap makes a new cluster UUID, after which *every* other server needs a full transfer.
 */
export function startArguments(
  mode: "join" | "bootstrap",
  position: Position | null,
  donor: string | null = null,
): string[] {
  return [
    "--wsrep-reject-queries=ALL",
    // INSTALL SONAME fails under Galera ("Plugin '(null)' is not loaded"), so it is loaded at start.
    "--plugin-load-add=wsrep_info",
    ...(position === null ? [] : [`--wsrep-start-position=${position.uuid}:${position.seqno}`]),
    // The comma at the end lets any other server give where that one cannot.
    ...(donor === null ? [] : [`--wsrep-sst-donor=${donor},`]),
    ...(mode === "bootstrap" ? ["--wsrep-new-cluster"] : []),
  ];
}

/** Puts gvwstate.dat aside: from it a crashed Primary makes itself Primary again, without asking. */
export function removeGvwstate(datadir: string): "removed" | "absent" {
  const file = join(datadir, "gvwstate.dat");
  return putAside(file, `${file}.removed`);
}

/** Puts grastate.dat aside, so that the next join is a full state transfer. */
export function removeGrastate(datadir: string): "removed" | "absent" {
  const file = join(datadir, "grastate.dat");
  return putAside(file, `${file}.removed`);
}

/** Sets `safe_to_bootstrap: 1`, for a bootstrap that was ordered. @throws MinderError */
export function setSafeToBootstrap(datadir: string): void {
  const file = join(datadir, "grastate.dat");
  try {
    const text = readFileSync(file, "utf8");
    const line = "safe_to_bootstrap: 1";
    const changed = /^safe_to_bootstrap:.*$/m.test(text)
      ? text.replace(/^safe_to_bootstrap:.*$/m, line)
      : `${text.trimEnd()}\n${line}\n`;
    if (changed !== text) replaceFile(file, changed);
  } catch (cause) {
    throw new MinderError("Cannot set safe_to_bootstrap in grastate.dat", { where: file, cause });
  }
}

/**
 * Moves the whole data directory to `keptAs` and leaves an empty one of the same owner and mode, which
 * mariadbd fills by a full state transfer. @throws MinderError, as where it is a mount point
 */
export function setDatadirAside(datadir: string, keptAs: string): void {
  checkSpace(datadir);
  try {
    const { uid, gid, mode } = statSync(datadir);
    renameSync(datadir, keptAs);
    mkdirSync(datadir, { mode: mode & 0o777 });
    chownSync(datadir, uid, gid);
    syncDirectory(dirname(datadir));
  } catch (cause) {
    throw new MinderError("Cannot set the data directory aside", {
      where: datadir,
      hint: "The folder above it must belong to the watchdog's user, and it must be no mount point itself",
      cause,
    });
  }
}

/** A transfer needs about as much again as the data that stay. @throws MinderError if that is not free */
function checkSpace(datadir: string): void {
  const usedBytes = bytesBelow(datadir);
  const { bavail, bsize } = statfsSync(dirname(datadir));
  const freeBytes = bavail * bsize;
  if (freeBytes >= usedBytes) return;
  const mb = (bytes: number) => `${Math.ceil(bytes / 1_048_576)} MB`;
  throw new MinderError(
    `Cannot set the data aside: ${mb(usedBytes)} are to stay and ${mb(freeBytes)} are free`,
    { where: datadir, hint: "Discard what was set aside before, or remove this server's data" },
  );
}

/** As allocated: sparse files count as what they take. */
function bytesBelow(directory: string): number {
  let bytes = 0;
  for (const entry of readdirSync(directory, { withFileTypes: true, recursive: true })) {
    try {
      bytes += lstatSync(join(entry.parentPath, entry.name)).blocks * 512;
    } catch {
      // Removed since it was listed.
    }
  }
  return bytes;
}

/** Data directories that were set aside and that nobody has discarded yet. */
export function asideOf(datadir: string): readonly string[] {
  const prefix = `${basename(datadir)}.aside-`;
  return readdirSync(dirname(datadir)).filter((name) => name.startsWith(prefix));
}

/** The same with their sizes, in which hard links and sparse files count as what they take, and ages. */
export async function listAside(datadir: string): Promise<readonly Aside[]> {
  const found: Aside[] = [];
  for (const name of asideOf(datadir).slice(0, ASIDE_MAX)) {
    const path = join(dirname(datadir), name);
    // Renaming a directory is the last thing that changed it.
    const { ctimeMs } = await lstat(path);
    const ageMs = Math.max(0, Math.round(Date.now() - ctimeMs));
    found.push({ name, bytes: await bytesUnder(path), ageMs });
  }
  return found;
}

/** Removes directories that were set aside; other names are none of ours. @throws what node:fs throws */
export async function discardAside(datadir: string, names: readonly string[]): Promise<void> {
  const known = asideOf(datadir);
  for (const name of names) {
    if (!known.includes(name)) continue;
    await rm(join(dirname(datadir), name), { recursive: true, force: true });
  }
  syncDirectory(dirname(datadir));
}

/** Piece by piece: counting a large data directory must not keep a fence waiting. */
async function bytesUnder(directory: string): Promise<number> {
  let bytes = 0;
  for await (const entry of await opendir(directory, { recursive: true })) {
    try {
      bytes += (await lstat(join(entry.parentPath, entry.name))).blocks * 512;
    } catch {
      // Removed since it was listed.
    }
  }
  return bytes;
}

function putAside(file: string, keptAs: string): "removed" | "absent" {
  try {
    renameSync(file, keptAs);
    syncDirectory(dirname(file));
    return "removed";
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return "absent";
    throw new MinderError("Cannot put a file aside", { where: file, cause });
  }
}

/** Atomic, durable, and with the owner and mode of before: mariadbd must be able to write it. */
function replaceFile(file: string, text: string): void {
  const { uid, gid, mode } = statSync(file);
  const fresh = openSync(`${file}.new`, "w", mode & 0o777);
  try {
    writeSync(fresh, text);
    fsyncSync(fresh);
  } finally {
    closeSync(fresh);
  }
  chownSync(`${file}.new`, uid, gid);
  renameSync(`${file}.new`, file);
  syncDirectory(dirname(file));
}

function syncDirectory(path: string): void {
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

async function tailOf(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > 2 * OUTPUT_MAX_BYTES) text = text.slice(-OUTPUT_MAX_BYTES);
  }
  return text;
}
