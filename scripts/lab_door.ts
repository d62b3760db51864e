/** Knocks at a balancer's door as a process: `bun scripts/lab_door.ts CONFIG.json` (KnockOptions of lib/lab/door.ts). Runs until SIGTERM. */
import { readFileSync } from "node:fs";
import { formatError, MinderError } from "../lib/errors.ts";
import { type KnockOptions, knock } from "../lib/lab/door.ts";

async function main(): Promise<number> {
  const [file] = process.argv.slice(2);
  if (file === undefined) {
    throw new MinderError("No config file given", { hint: "bun scripts/lab_door.ts CONFIG.json" });
  }
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  }
  await knock(JSON.parse(readFileSync(file, "utf8")) as KnockOptions, stop.signal);
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
