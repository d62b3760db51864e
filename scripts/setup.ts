/**
 * Installs what the lab needs: `bun scripts/setup.ts`. Says nothing and changes nothing when all is
 * there. Exit codes: 0 all there, 1 failed, 2 something is missing and this is not root.
 */
import { formatError } from "../lib/errors.ts";
import { setup } from "../lib/lab/setup.ts";

function main(): number {
  const result = setup();
  if (result.is === "refused") {
    console.error(`not root: run this yourself\n  ${result.command}`);
    return 2;
  }
  if (result.is === "installed") console.log(`installed: ${result.packages.join(", ")}`);
  return 0;
}

if (import.meta.main) {
  try {
    process.exit(main());
  } catch (error) {
    console.error(formatError(error));
    process.exit(1);
  }
}
