/** The clustercheck of the comparison as a process: `bun scripts/lab_clustercheck.ts CONFIG.json` (ClustercheckOptions). Runs until SIGTERM. */
import { readFileSync } from "node:fs";
import { formatError, MinderError } from "../lib/errors.ts";
import { type ClustercheckOptions, runClustercheck } from "../lib/lab/clustercheck.ts";

async function main(): Promise<number> {
  const [file] = process.argv.slice(2);
  if (file === undefined) {
    throw new MinderError("No config file given", {
      hint: "bun scripts/lab_clustercheck.ts CONFIG.json",
    });
  }
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  }
  await runClustercheck(JSON.parse(readFileSync(file, "utf8")) as ClustercheckOptions, stop.signal);
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
