/**
 * The lab's application or prober as a process: `bun scripts/lab_app.ts CONFIG.json`, where the file
 * holds an array of WriterOptions (lib/lab/app.ts). Runs until SIGTERM.
 */
import { readFileSync } from "node:fs";
import { formatError, MinderError } from "../lib/errors.ts";
import { runWriter, type WriterOptions } from "../lib/lab/app.ts";

async function main(): Promise<number> {
  const [file] = process.argv.slice(2);
  if (file === undefined) {
    throw new MinderError("No config file given", { hint: "bun scripts/lab_app.ts CONFIG.json" });
  }
  const writers = JSON.parse(readFileSync(file, "utf8")) as WriterOptions[];
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      // The second one does not wait for statements that hang.
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  }
  await Promise.all(writers.map((writer) => runWriter(writer, stop.signal)));
  return 0;
}

if (import.meta.main) {
  try {
    process.exit(await main());
  } catch (error) {
    console.error(formatError(error));
    process.exit(1);
  }
}
