/**
 * Installs what the lab needs, with `--tests` what the tests need beside it. Says nothing and changes
 * nothing when all is there. Exit: 0 all there, 1 failed, 2 something is missing and this is not root.
 */
import { parseArguments } from "../lib/cli.ts";
import { formatError } from "../lib/errors.ts";
import { NEEDS, setup, TEST_NEEDS, thisHost } from "../lib/lab/setup.ts";

const USAGE = `
Usage: setup.ts [--tests]
  --tests  also what only the tests need
`;

function main(): number {
  const { values } = parseArguments(USAGE, { tests: { type: "boolean" } });
  const result = setup(thisHost(), values.tests === true ? [...NEEDS, ...TEST_NEEDS] : NEEDS);
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
