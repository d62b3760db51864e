/** What a person does with the config in the database: look at a version, compare, push. */
import { UsageError } from "../cli.ts";
import {
  changeText,
  diffDocuments,
  impossibleChanges,
  restamp,
  ruleChanges,
} from "../config_store.ts";
import type { ConfigDb, ConfigRow } from "../effects/config_db.ts";
import { type ConfigDocument, parseDocument } from "../effects/config_file.ts";
import { MinderError } from "../errors.ts";

/** A version as it was written; the newest where none is named. @throws MinderError if it is not there */
export async function findVersion(db: ConfigDb, told: string | undefined): Promise<ConfigDocument> {
  const version = told === undefined ? (await db.newest()).version : Number(told);
  if (version === null) throw new MinderError("There is no config in the database yet");
  if (!Number.isSafeInteger(version)) throw new UsageError(`${told} is no version`);
  const row = await db.read(version);
  if (row === null) throw new MinderError(`There is no config version ${version}`);
  return parseDocument(row.document, `minder.config version ${version}`, null);
}

/** How two documents differ, a line each, and what that asks of the cluster. */
export function differences(from: ConfigDocument, to: ConfigDocument): readonly string[] {
  return [
    ...diffDocuments(from.value, to.value).map(changeText),
    ...ruleChanges(from.config, to.config).map((words) => `! ${words}`),
  ];
}

/** A document out of a person's hands. @throws UsageError with every problem in it */
export function checkDocument(text: string, where: string): ConfigDocument {
  try {
    return parseDocument(text, where, null);
  } catch (error) {
    if (!(error instanceof MinderError)) throw error;
    throw new UsageError(error.message, {
      where: error.where ?? where,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}

export interface PushRequest {
  readonly author: string;
  readonly note: string;
  /** Asks the person, once everything is shown. */
  readonly agreed: () => Promise<boolean>;
  /** Shows a line. */
  readonly say: (line: string) => void;
}

/**
 * Checks a document, shows what it changes, asks, and pushes it. Its version line names the version that
 * it was made from. Returns the exit code: 1 if it was refused.
 * @throws MinderError if it is wrong, or cannot come into force in a running cluster
 */
export async function pushConfig(
  db: ConfigDb,
  text: string,
  request: PushRequest,
): Promise<number> {
  const { author, note, agreed, say } = request;
  const next = checkDocument(text, "the document to be pushed");
  const base = next.mark.version;
  const newest = (await db.newest()).version;
  if (newest !== null) {
    const current = await findVersion(db, String(newest));
    if (base !== newest) {
      const winner = await db.read(newest);
      if (winner !== null) {
        say(refused(winner, base));
        return 1;
      }
    }
    const lines = differences(current, next);
    say(`from version ${newest} to ${newest + 1}:`);
    for (const line of lines.length === 0 ? ["no key differs"] : lines) say(`  ${line}`);
    const impossible = impossibleChanges(current.config, next.config);
    if (impossible.length > 0) {
      throw new MinderError(`Cannot push:\n  ${impossible.join("\n  ")}`, {
        hint: "docs/config.md says how to move an arbitrator, or a server",
      });
    }
    // What is stored must read as what was shown.
    checkDocument(restamp(text, newest + 1) ?? text, "the document to be pushed");
  }
  for (const warning of next.config.warnings) say(`  warning: ${warning}`);
  if (!(await agreed())) return 1;
  const result = await db.push({ text, base: newest === null ? null : base, author, note });
  if (result.is === "stale") {
    say(refused(result.winner, base));
    return 1;
  }
  say(`pushed: version ${result.row.version} by ${author}`);
  return 0;
}

function refused({ version, author, at, note }: ConfigRow, base: number): string {
  const words = note === "" ? "" : ` (${note})`;
  return (
    `refused: version ${version} was pushed by ${author} at ${at}${words}, and this one was made from ${base}: ` +
    `see \`just config-diff ${base} ${version}\`, and make it anew from \`just config-show\``
  );
}

/** A row of the history on one line. */
export function historyLine(row: Omit<ConfigRow, "document">): string {
  const { version, base, at, author, note, checksum } = row;
  const from = base === null ? "first" : `from ${base}`;
  return `${version}  ${at}  ${author}  ${from}  ${checksum.slice(0, 12)}  ${note}`.trimEnd();
}
