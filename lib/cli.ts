/** What every script shares: arguments, the config's place, exit codes 0 done, 1 failed, 2 wrong use or config. */
import { existsSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { ClusterConfig } from "./cluster_config.ts";
import type { NodeFile } from "./config_store.ts";
import { type ConfigFile, readConfigFile } from "./effects/config_file.ts";
import { describeError, formatError, MinderError } from "./errors.ts";

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

/** A wrong call or a wrong config: exit code 2. */
export class UsageError extends MinderError {}

interface OptionShape {
  readonly [name: string]: { readonly type: "string" | "boolean"; readonly short?: string };
}

type OptionValues<O extends OptionShape> = {
  readonly [K in keyof O]?: O[K]["type"] extends "boolean" ? boolean : string;
} & { readonly help?: boolean };

/**
 * Parses a script's arguments; `--help` prints the usage and exits 0.
 * @throws UsageError on an unknown option or a missing value
 */
export function parseArguments<const O extends OptionShape>(
  usage: string,
  options: O,
): { readonly values: OptionValues<O>; readonly words: readonly string[] } {
  try {
    const { values, positionals } = parseArgs({
      args: process.argv.slice(2),
      options: { ...options, help: { type: "boolean", short: "h" } },
      allowPositionals: true,
      strict: true,
    });
    if ("help" in values && values["help"] === true) {
      console.log(usage.trim());
      process.exit(0);
    }
    return { values: values as OptionValues<O>, words: positionals };
  } catch (error) {
    // What follows a full stop is the runtime's advice for arguments that scripts do not have.
    const [what = ""] = describeError(error).split(". ");
    throw new UsageError(`Cannot understand the call: ${what}`, {
      hint: "See --help",
    });
  }
}

/** A running demo leaves its config here, so that a question without --config finds it. */
export function demoConfigPath(): string {
  const lab = process.env["GM_LAB_DIR"] ?? join(tmpdir(), `galera-minder-demo-${userInfo().uid}`);
  return join(lab, "cluster.toml");
}

/** Path of the cluster's config: as told, else GM_CONFIG, config/cluster.toml, or a running demo's. */
export function configPath(told: string | undefined): string {
  const named = told ?? process.env["GM_CONFIG"];
  if (named !== undefined && named !== "") return named;
  const own = join(import.meta.dir, "..", "config", "cluster.toml");
  if (existsSync(own)) return own;
  const demo = demoConfigPath();
  if (existsSync(demo)) return demo;
  throw new UsageError("Cannot find the cluster's config", {
    where: own,
    hint: "Copy config/cluster.example.toml there, or name another with --config or GM_CONFIG",
  });
}

/** Who gives an order from this terminal: GM_WHO, else who called sudo, else the user logged in. */
export function whoOrders(): string {
  const named = process.env["GM_WHO"] ?? process.env["SUDO_USER"];
  if (named !== undefined && named !== "") return named;
  // Bun knows the name from $USER only, which cron does not set.
  const { username, uid } = userInfo();
  return username === "unknown" ? `uid ${uid}` : username;
}

/**
 * Reads the cluster's config: a site file, or by a node's own file the local copy or the database.
 * @throws UsageError with every problem in it
 */
export async function loadConfig(told: string | undefined): Promise<ClusterConfig> {
  const file = await loadConfigFile(configPath(told));
  return file.is === "site" ? file.config : await configOf(file.node);
}

/** The local copy is at hand at once; without one, or out of its reach, the database is asked. */
async function configOf(node: NodeFile): Promise<ClusterConfig> {
  const { id } = node.node;
  // A site file needs none of it, and a question has to be answered at once.
  const { configCopy, newestDocument, readCopy } = await import("./effects/config_source.ts");
  if (id !== undefined) {
    const { path, file } = await configCopy(node, id);
    const copy = await file.read().catch(() => null);
    const whole = copy?.is === "read" || copy?.is === "copied" ? copy.value : null;
    const found = whole === null ? null : readCopy(whole, path, node);
    if (found !== null && !(found instanceof MinderError)) return found.shelf.active.config;
  }
  const asked = await newestDocument(node, { boundMs: ASK_MS, wanted: 0, known: null });
  if ("document" in asked) return asked.document.config;
  throw new UsageError(`Cannot find a config: ${asked.error}`, {
    hint: "Bring a database server within reach, or name a site file with --config",
  });
}

/** Over all addresses of the database. */
const ASK_MS = 4_000;

/**
 * Reads what a config path leads to.
 * @throws UsageError with every problem in it
 */
export async function loadConfigFile(path: string): Promise<ConfigFile> {
  try {
    return await readConfigFile(path);
  } catch (error) {
    if (!(error instanceof MinderError)) throw error;
    throw new UsageError(error.message, {
      where: error.where ?? path,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

/** Runs a script: what it throws is printed for a person, and decides the exit code. */
export async function runScript(main: () => Promise<number>): Promise<never> {
  let code: number;
  try {
    code = await main();
  } catch (error) {
    console.error(formatError(error));
    code = error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
  }
  process.exit(code);
}
