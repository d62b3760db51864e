/** A program of the lab as a process of its own: its options in a file, until SIGTERM. */
import { readFileSync } from "node:fs";
import { formatError, MinderError } from "../errors.ts";

/**
 * Runs `work` with the options in the JSON file that argv names, until it ends after SIGTERM or SIGINT,
 * and exits: 0, or 1 after an error, which it prints. Leaner than a script of an operator, which would
 * load the config's reader: the lab starts several at a time.
 */
export async function runProgram<Options>(
  script: string,
  work: (options: Options, signal: AbortSignal) => Promise<unknown>,
): Promise<never> {
  try {
    const [file] = process.argv.slice(2);
    if (file === undefined) {
      throw new MinderError("No config file given", { hint: `bun scripts/${script} CONFIG.json` });
    }
    const stop = new AbortController();
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        // The second one does not wait for statements that hang.
        if (stop.signal.aborted) process.exit(1);
        stop.abort();
      });
    }
    await work(JSON.parse(readFileSync(file, "utf8")) as Options, stop.signal);
    process.exit(0);
  } catch (error) {
    console.error(formatError(error));
    process.exit(1);
  }
}
