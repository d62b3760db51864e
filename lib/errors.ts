/**
 * The two ways to fail. Expected failures (a refused connection, a bad message) are data; a
 * `MinderError` is for a person to read and act on; a broken invariant throws and ends the process.
 */

/** What a person needs beside the message. */
export interface MinderErrorOptions {
  /** File, URL or key at which it went wrong. */
  readonly where?: string;
  /** What to do about it. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/** An error that says what, where, and what to do. */
export class MinderError extends Error {
  readonly where: string | undefined;
  readonly hint: string | undefined;

  constructor(message: string, options: MinderErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "MinderError";
    this.where = options.where;
    this.hint = options.hint;
  }
}

/** One line for any thrown value, its causes included: "fetch failed" alone says nothing. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  // Bounded: a cause chain may be circular.
  for (let depth = 0; depth < 5 && current !== undefined && current !== null; depth++) {
    parts.push(current instanceof Error ? current.message || current.name : String(current));
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ") || "unknown error";
}

/** The several lines that a script prints before it exits: error / at / hint / cause. */
export function formatError(error: unknown): string {
  if (!(error instanceof MinderError)) return `error: ${describeError(error)}`;
  const lines = [`error: ${error.message}`];
  if (error.where !== undefined) lines.push(`  at: ${error.where}`);
  if (error.hint !== undefined) lines.push(`  hint: ${error.hint}`);
  if (error.cause !== undefined) lines.push(`  cause: ${describeError(error.cause)}`);
  return lines.join("\n");
}

/** Ends a switch over a union: a forgotten case is a compile error, a foreign value a thrown one. */
export function unreachable(value: never): never {
  throw new Error(`Unreachable: ${JSON.stringify(value)}`);
}
