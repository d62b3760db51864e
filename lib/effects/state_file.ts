/**
 * One durable JSON value in one file. A write is done when the new value survives a power loss; a
 * reader gets the old value or the new one, never a part. A file that cannot be trusted is reported
 * as such and kept: nothing here replaces it silently.
 *
 * The file names the machine and the very inode that it was written to, so that a copy, or a backup
 * put back, is told from the original. A snapshot of the whole disk is not: only the other parties
 * can notice that.
 */
import { createHash } from "node:crypto";
import { constants, type FileHandle, mkdir, open, rename, stat, unlink } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { MinderError } from "../errors.ts";

/** Largest state file in bytes. */
export const STATE_FILE_MAX_BYTES = 4_194_304;
/** Writes that wait for the one under way. */
export const WRITES_MAX = 64;
/** Corrupt files that are kept aside beside one state file. */
const KEPT_MAX = 100;

/** What is in a state file. */
export type StateRead<Value> =
  | { readonly is: "absent" }
  | { readonly is: "read"; readonly value: Value }
  /** Whole, but written on another machine or to another file: a copy, or a backup put back. */
  | { readonly is: "copied"; readonly value: Value; readonly because: string }
  /** Torn, edited, or of another form. */
  | { readonly is: "corrupt"; readonly because: string };

export interface StateFile<Value> {
  /**
   * Reads and judges the file.
   *
   * @throws MinderError if it is there and cannot be read
   */
  read(): Promise<StateRead<Value>>;
  /**
   * Writes durably, after the writes asked for before. A file that was read as corrupt or copied is
   * moved aside first; its new name is returned, null otherwise.
   *
   * @throws MinderError if the value may not have become durable
   */
  write(value: Value): Promise<string | null>;
}

export interface StateFileOptions<Value> {
  readonly path: string;
  /** Form of the value; what does not fit is corrupt. */
  readonly schema: v.GenericSchema<unknown, Value>;
  /** As from machineId(). */
  readonly machine: string;
}

const MARK = "galera-minder-state 1 sha256 ";

const ContentSchema = v.strictObject({
  machine: v.string(),
  /** Inode and time of its making, "inode@nanoseconds": inodes alone are used again. */
  inode: v.string(),
  value: v.unknown(),
});

/** The machine as machine-id(5) names it; its host name where that file is missing. */
export async function machineId(path = "/etc/machine-id"): Promise<string> {
  try {
    const id = (await Bun.file(path).text()).trim();
    if (/^[0-9a-f]{32}$/.test(id)) return id;
  } catch (error) {
    if (!isMissing(error)) {
      throw new MinderError("Cannot tell the machine", { where: path, cause: error });
    }
  }
  return `host ${hostname()}`;
}

/** Opens a state file; nothing is read or written yet. */
export function stateFile<Value>(options: StateFileOptions<Value>): StateFile<Value> {
  const { path, schema, machine } = options;
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.new`);
  let queue: Promise<unknown> = Promise.resolve();
  let waiting = 0;

  async function read(): Promise<StateRead<Value>> {
    let file: FileHandle;
    try {
      file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch (error) {
      if (isMissing(error)) return { is: "absent" };
      throw new MinderError("Cannot read state", { where: path, cause: error });
    }
    try {
      const { size } = await file.stat();
      if (size > STATE_FILE_MAX_BYTES) return { is: "corrupt", because: `it has ${size} bytes` };
      return judge(await file.readFile("utf8"), await inodeOf(file));
    } catch (error) {
      throw new MinderError("Cannot read state", { where: path, cause: error });
    } finally {
      await file.close();
    }
  }

  function judge(text: string, inode: string): Exclude<StateRead<Value>, { is: "absent" }> {
    const end = text.indexOf("\n");
    const body = text.slice(end + 1);
    if (end === -1 || !text.startsWith(MARK)) {
      return { is: "corrupt", because: "it does not begin like a state file" };
    }
    if (text.slice(MARK.length, end) !== sha256(body)) {
      return { is: "corrupt", because: "its checksum does not fit: it was torn or edited" };
    }
    const content = v.safeParse(v.pipe(v.string(), v.parseJson(), ContentSchema), body);
    if (!content.success) return { is: "corrupt", because: "it has no value in it" };
    const value = v.safeParse(schema, content.output.value);
    if (!value.success) {
      return {
        is: "corrupt",
        because: `its value is of another form: ${v.summarize(value.issues)}`,
      };
    }
    if (content.output.machine !== machine) {
      const because = `it was written on machine ${content.output.machine}, this is ${machine}`;
      return { is: "copied", value: value.output, because };
    }
    if (content.output.inode !== inode) {
      const because = `it was written as file ${content.output.inode}, this is ${inode}`;
      return { is: "copied", value: value.output, because };
    }
    return { is: "read", value: value.output };
  }

  function write(value: Value): Promise<string | null> {
    if (waiting >= WRITES_MAX) {
      const error = new MinderError(`Cannot write state: ${WRITES_MAX} writes wait already`, {
        where: path,
        hint: "The disk does not keep up, or hangs",
      });
      return Promise.reject(error);
    }
    waiting++;
    const done = queue.then(() => writeNow(value));
    // The next write follows whether or not this one succeeds; its caller hears of that.
    queue = done.then(
      () => waiting--,
      () => waiting--,
    );
    return done;
  }

  async function writeNow(value: Value): Promise<string | null> {
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const keptAs = await keepAside();
      await unlink(temporary).catch(ignoreMissing);
      const file = await open(temporary, "wx", 0o600);
      let text: string;
      try {
        const body = JSON.stringify({ machine, inode: await inodeOf(file), value });
        text = `${MARK}${sha256(body)}\n${body}`;
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await syncFolder();
      await verify(text);
      return keptAs;
    } catch (error) {
      throw new MinderError("Cannot write state", {
        where: path,
        hint: "Check the disk's space, its mount, and the owner of the directory",
        cause: error,
      });
    }
  }

  /** Moves a file that is not this one's own work to a free name. */
  async function keepAside(): Promise<string | null> {
    const before = await read();
    if (before.is === "absent" || before.is === "read") return null;
    for (let number = 1; number <= KEPT_MAX; number++) {
      const name = `${path}.${before.is}-${number}`;
      if (await isThere(name)) continue;
      await rename(path, name);
      await syncFolder();
      return name;
    }
    throw new Error(`${KEPT_MAX} ${before.is} files are kept beside it already: ${before.because}`);
  }

  async function syncFolder(): Promise<void> {
    const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /** What was written is what a reader will find. */
  async function verify(text: string): Promise<void> {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const found = await file.readFile("utf8");
      if (found !== text) throw new Error("What was read back is not what was written");
      const judged = judge(found, await inodeOf(file));
      if (judged.is !== "read") throw new Error(`It is ${judged.is}: ${judged.because}`);
    } finally {
      await file.close();
    }
  }

  return { read, write };
}

async function inodeOf(file: FileHandle): Promise<string> {
  const { ino, birthtimeNs } = await file.stat({ bigint: true });
  return `${ino}@${birthtimeNs}`;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}
