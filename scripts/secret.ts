/** Makes a secret file for messages or orders. Exit: 0 done, 1 failed, 2 wrong use. */
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { writeSecretFile } from "../lib/effects/secrets.ts";

const USAGE = `
Usage: secret.ts FILE
  FILE   made with one random secret in it, mode 0600; one that is there already is left alone
The secret itself is not printed. docs/security.md says where it goes and how it is replaced.
`;

async function main(): Promise<number> {
  const { words } = parseArguments(USAGE, {});
  const [file, ...rest] = words;
  if (file === undefined || rest.length > 0) {
    throw new UsageError("One file is needed", { hint: "See --help" });
  }
  writeSecretFile(file);
  console.log(`made ${file}; give it to the user that the minder runs as`);
  return 0;
}

if (import.meta.main) await runScript(main);
