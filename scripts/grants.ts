/** Prints the statements that make an account of the minder's, with the least privileges that it needs. */
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import {
  accountStatements,
  GLOBAL_PRIVILEGES,
  notifyStatements,
  operatorStatements,
  readerStatements,
} from "../lib/grants.ts";

const USAGE = `
Usage: grants.ts [--for WHOM] [--config FILE] [--user NAME] [--host HOST] [--password-placeholder WORD]
  --for WHOM      watchdog (default); reader: reads the config in the database; operator: pushes it
  --config FILE   the cluster's config: its database.user, and how it logs in
  --user NAME     without a config: the account's name (default minder)
  --host HOST     host part of the account (default localhost, which a socket needs)
Run them once, on any server while the cluster is Primary: Galera replicates them. Exit: 0, 2 wrong use
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    for: { type: "string" },
    config: { type: "string" },
    user: { type: "string" },
    host: { type: "string" },
    "password-placeholder": { type: "string" },
  });
  const whom = values.for ?? "watchdog";
  if (whom !== "watchdog") return printConfigAccount(whom, values);
  const config = values.user === undefined ? await loadConfig(values.config) : null;
  const user = values.user ?? config?.database.user ?? "minder";
  if (!/^[A-Za-z0-9._-]{1,128}$/.test(user)) {
    throw new UsageError(`--user is ${JSON.stringify(user)}, must be of A-Z a-z 0-9 . _ -`);
  }
  const bySocket = config !== null && config.database.passwordFile === null;
  const password = bySocket ? null : (values["password-placeholder"] ?? "PASSWORD");
  for (const { name, reason } of GLOBAL_PRIVILEGES) console.log(`-- ${name}: ${reason}`);
  for (const statement of accountStatements({ user, host: values.host ?? "localhost", password })) {
    console.log(`${statement};`);
  }
  console.log(
    "-- the notify handler closes the door where no watchdog answers, as mariadbd's own user",
  );
  for (const statement of notifyStatements("mysql")) console.log(`${statement};`);
  return 0;
}

function printConfigAccount(
  whom: string,
  values: {
    readonly user?: string;
    readonly host?: string;
    readonly "password-placeholder"?: string;
  },
): number {
  if (whom !== "reader" && whom !== "operator") {
    throw new UsageError(`--for is ${JSON.stringify(whom)}, must be watchdog, reader or operator`);
  }
  const account = {
    user: values.user ?? (whom === "reader" ? "minder_config" : "minder_operator"),
    host: values.host ?? "%",
    password: values["password-placeholder"] ?? "PASSWORD",
  };
  const statements = whom === "reader" ? readerStatements(account) : operatorStatements(account);
  for (const statement of statements) console.log(`${statement};`);
  return 0;
}

if (import.meta.main) await runScript(main);
