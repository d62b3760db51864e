/**
 * Reads a cluster config file. Owns what only a file has: its size, its syntax, its line numbers;
 * what the document must say is cluster_config.ts's.
 */
import { createHash } from "node:crypto";
import {
  type ClusterConfig,
  checkClusterConfig,
  parseClusterConfig,
  problemsError,
} from "../cluster_config.ts";
import {
  isNodeFile,
  localize,
  localKeyProblems,
  type Marked,
  type NodeFile,
  parseNodeFile,
  rulesText,
} from "../config_store.ts";
import { MinderError } from "../errors.ts";

/** Largest config file in bytes; 64 servers and 256 clients take a tenth of it. */
export const CONFIG_FILE_MAX_BYTES = 1_048_576;

/**
 * Reads, parses and checks a TOML file.
 *
 * @throws MinderError naming the file, and the line where it can be told
 */
export async function readClusterConfig(path: string): Promise<ClusterConfig> {
  return parseClusterToml(await readConfigText(path), path);
}

/**
 * The same for a text that is already here.
 *
 * @throws MinderError naming `where`, and the line where it can be told
 */
export function parseClusterToml(text: string, where: string): ClusterConfig {
  const value = parseToml(text, where);
  return parseClusterConfig(value, where, (key) => lineOfKey(text, key));
}

/** A config document of the database, with its identity. */
export interface ConfigDocument extends Marked {
  readonly text: string;
  /** As it is written. */
  readonly value: unknown;
  /** As this host uses it. */
  readonly config: ClusterConfig;
}

/**
 * Reads a document as it is kept in the database, with what only this host knows filled in.
 *
 * @param node the node's own file; null where nothing of this host matters
 * @throws MinderError naming `where`, and the line where it can be told
 */
export function parseDocument(text: string, where: string, node: NodeFile | null): ConfigDocument {
  const value = parseToml(text, where);
  const lineOf = (key: string) => lineOfKey(text, key);
  const local = localKeyProblems(value);
  const checked = checkClusterConfig(localize(value, node));
  const problems = [...local, ...(checked.ok ? [] : checked.problems)];
  if (!checked.ok || problems.length > 0) throw problemsError(problems, where, lineOf);
  const { config } = checked;
  const mark = {
    version: config.version,
    checksum: sha256(text),
    rules: sha256(rulesText(config)),
  };
  return { mark, text, value, config };
}

/** Hex SHA-256 of a text. */
export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** What a config path leads to: a whole cluster's config, or a node's own file. */
export type ConfigFile =
  | { readonly is: "site"; readonly config: ClusterConfig }
  | { readonly is: "node"; readonly node: NodeFile };

/** Reads either. @throws MinderError naming the file */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  const text = await readConfigText(path);
  const value = parseToml(text, path);
  return isNodeFile(value)
    ? { is: "node", node: parseNodeFile(value, path) }
    : { is: "site", config: parseClusterConfig(value, path, (key) => lineOfKey(text, key)) };
}

function parseToml(text: string, where: string): unknown {
  try {
    return Bun.TOML.parse(text);
  } catch (error) {
    const line = brokenLine(text);
    throw new MinderError("Cannot read cluster config: it is not TOML", {
      where: line === null ? where : `${where}, line ${line} or after`,
      hint: "config/cluster.example.toml shows the shape",
      cause: error,
    });
  }
}

/** The text of a config file. @throws MinderError naming the file */
export async function readConfigText(path: string): Promise<string> {
  const file = Bun.file(path);
  let bytes: Uint8Array;
  try {
    const size = (await file.stat()).size;
    if (size > CONFIG_FILE_MAX_BYTES) {
      throw new MinderError(
        `Cannot read cluster config: it has ${size} bytes, at most ${CONFIG_FILE_MAX_BYTES} are allowed`,
        { where: path },
      );
    }
    bytes = await file.bytes();
  } catch (error) {
    if (error instanceof MinderError) throw error;
    throw new MinderError("Cannot read cluster config", {
      where: path,
      hint: "Copy config/cluster.example.toml there, or name another file",
      cause: error,
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new MinderError("Cannot read cluster config: it is not UTF-8", {
      where: path,
      cause: error,
    });
  }
}

/** Line after the longest beginning that parses: the parser itself names none. */
function brokenLine(text: string): number | null {
  const lines = text.split("\n");
  if (lines.length > 2000) return null;
  for (let count = lines.length - 1; count >= 0; count--) {
    try {
      Bun.TOML.parse(lines.slice(0, count).join("\n"));
      return count + 1;
    } catch {
      // Still broken: the fault lies further up.
    }
  }
  return null;
}

/**
 * Line of a key such as `dbserver[1].port`; of its table where the key itself is missing. It reads
 * headers and plain `key =` lines, which is how config files are written; null otherwise.
 */
export function lineOfKey(text: string, key: string): number | null {
  const lines = text.split("\n");
  const counts = new Map<string, number>();
  let table = "";
  let found: { readonly depth: number; readonly line: number } | null = null;
  for (const [index, line] of lines.entries()) {
    let here: string | null = null;
    const array = /^\s*\[\[\s*([A-Za-z0-9_-]+)\s*\]\]/.exec(line)?.[1];
    const header = /^\s*\[\s*([A-Za-z0-9_.-]+)\s*\]/.exec(line)?.[1];
    const entry = /^\s*([A-Za-z0-9_-]+)\s*=/.exec(line)?.[1];
    if (array !== undefined) {
      const count = counts.get(array) ?? 0;
      counts.set(array, count + 1);
      table = `${array}[${count}]`;
      here = table;
    } else if (header !== undefined) {
      const [first = "", ...rest] = header.split(".");
      const count = counts.get(first);
      table = [count === undefined ? first : `${first}[${count - 1}]`, ...rest].join(".");
      here = table;
    } else if (entry !== undefined) {
      here = table === "" ? entry : `${table}.${entry}`;
    }
    if (here === null) continue;
    if (here === key) return index + 1;
    const encloses = key.startsWith(`${here}.`) || key.startsWith(`${here}[`);
    if (encloses && here.length > (found?.depth ?? 0))
      found = { depth: here.length, line: index + 1 };
  }
  return found?.line ?? null;
}
