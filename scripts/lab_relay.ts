/** A slow line as a process: `bun scripts/lab_relay.ts DEVICE DEVICE MS` (lib/lab/relay.ts). Runs until SIGTERM. */
import { formatError, MinderError } from "../lib/errors.ts";
import { relay } from "../lib/lab/relay.ts";

async function main(): Promise<number> {
  const [first, second, delay] = process.argv.slice(2);
  const delayMs = Number(delay);
  if (first === undefined || second === undefined || !(delayMs >= 0)) {
    throw new MinderError("Devices or delay missing", {
      hint: "bun scripts/lab_relay.ts DEVICE DEVICE MS",
    });
  }
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop.abort());
  await relay({ devices: [first, second], delayMs }, stop.signal);
  return 0;
}

if (import.meta.main) {
  try {
    // A read of a device has no end of its own.
    process.exit(await main());
  } catch (error) {
    console.error(formatError(error));
    process.exit(1);
  }
}
