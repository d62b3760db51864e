/**
 * Where a node's config comes from: the database, or the copy of it on this host. Each is judged here;
 * which of them counts is the keeper's to say.
 */
import { join } from "node:path";
import * as v from "valibot";
import { defaultStateDir } from "../cluster_config.ts";
import type { NodeFile, Shelf } from "../config_store.ts";
import { describeError, MinderError } from "../errors.ts";
import type { PartyId } from "../message/envelope.ts";
import type { ConfigDb, ConfigDbOptions } from "./config_db.ts";
import { CONFIG_FILE_MAX_BYTES, type ConfigDocument, parseDocument } from "./config_file.ts";
import { machineId, type StateFile, stateFile } from "./state_file.ts";

const ADDRESS_MS = 1_500;

const TextSchema = v.pipe(v.string(), v.maxLength(CONFIG_FILE_MAX_BYTES));
const CopySchema = v.strictObject({
  /** The document that the process goes by. */
  active: TextSchema,
  /** A newer one that waits for the arbitrator's word. */
  held: v.nullable(TextSchema),
  /** The one before, which the arbitrator may need after a restart. */
  former: v.nullable(TextSchema),
});
export type ConfigCopy = v.InferOutput<typeof CopySchema>;

export type ConfigShelf = Shelf<ConfigDocument>;

/** The local copy's file. */
export async function configCopy(
  node: NodeFile,
  id: PartyId,
): Promise<{ readonly path: string; readonly file: StateFile<ConfigCopy> }> {
  const path = join(node.node.state_dir ?? defaultStateDir(id), "config.state");
  return { path, file: stateFile({ path, schema: CopySchema, machine: await machineId() }) };
}

/** How a node reaches the database. */
export function dbOptions(node: NodeFile): ConfigDbOptions {
  const { addresses, user, password_file } = node.database;
  return { addresses, user, passwordFile: password_file ?? null, timeoutMs: ADDRESS_MS };
}

/** The documents of a local copy, as this host uses them. */
export function readCopy(
  copy: ConfigCopy,
  path: string,
  node: NodeFile,
): { readonly shelf: ConfigShelf; readonly former: string | null } | MinderError {
  try {
    const active = parseDocument(copy.active, path, node);
    const held = copy.held === null ? null : parseDocument(copy.held, path, node);
    return { shelf: { active, held }, former: copy.former };
  } catch (error) {
    if (error instanceof MinderError) return error;
    throw error;
  }
}

/** What the database says. */
export type Asked =
  | { readonly document: ConfigDocument; readonly authoritative: boolean }
  | { readonly error: string };

/**
 * The newest document in the database. Addresses are asked in their order: the first that is Primary
 * has the word, unless a version was heard of that it does not have.
 */
export async function newestDocument(
  node: NodeFile,
  options: {
    readonly boundMs: number;
    /** Look further for a version as high as this. */
    readonly wanted: number;
    /** Not fetched again. */
    readonly known: ConfigDocument | null;
  },
): Promise<Asked> {
  const { boundMs, wanted, known } = options;
  // Loaded when it is needed: the client of the database is half of what a script takes to start (30 ms).
  const { openConfigDb } = await import("./config_db.ts");
  const deadline = performance.now() + boundMs;
  const errors: string[] = [];
  let best: Extract<Asked, { document: unknown }> | null = null;
  for (const address of node.database.addresses) {
    if (performance.now() > deadline) break;
    let db: ConfigDb | null = null;
    try {
      const timeoutMs = Math.min(ADDRESS_MS, boundMs);
      db = await openConfigDb({ ...dbOptions(node), addresses: [address], timeoutMs });
      const newest = await db.newest();
      if (newest.version === null) throw new MinderError(`${address}: no config was pushed yet`);
      if (best === null || newest.version > best.document.mark.version) {
        const document =
          newest.checksum === known?.mark.checksum
            ? known
            : await readVersion(db, newest.version, node);
        best = { document, authoritative: newest.authoritative };
      }
      if (best.authoritative && best.document.mark.version >= wanted) return best;
    } catch (error) {
      errors.push(describeError(error));
    } finally {
      db?.close();
    }
  }
  return best ?? { error: errors.join("; ") };
}

async function readVersion(db: ConfigDb, version: number, node: NodeFile): Promise<ConfigDocument> {
  const row = await db.read(version);
  if (row === null) throw new MinderError(`${db.address}: version ${version} went away`);
  return parseDocument(row.document, `minder.config at ${db.address}`, node);
}
