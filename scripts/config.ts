/** The config in the database: make its table, push, show, compare, roll back. */
import { createInterface } from "node:readline/promises";
import {
  configPath,
  loadConfigFile,
  parseArguments,
  runScript,
  UsageError,
  whoOrders,
} from "../lib/cli.ts";
import { restamp } from "../lib/config_store.ts";
import { type ConfigDbOptions, openConfigDb } from "../lib/effects/config_db.ts";
import { readConfigText } from "../lib/effects/config_file.ts";
import { dbOptions } from "../lib/effects/config_source.ts";
import {
  checkDocument,
  differences,
  findVersion,
  historyLine,
  pushConfig,
} from "../lib/run/config_admin.ts";

const USAGE = `
Usage: config.ts [--config FILE] [--address ADDRESS] [--user NAME] [--password-file FILE] WORD
  init                 make the table minder.config, once
  push FILE            make FILE the newest version; its version line says which one it was made from
  show [VERSION]       print a version, the newest by default
  history              list the versions
  diff FROM [TO]       compare two versions, the second the newest by default
  rollback VERSION     push an earlier version again, as the newest
  validate FILE        check FILE as push does, without a database
  --config FILE        a site file or a node's own one: where the database is, and as whom to ask it
  --address ADDRESS    a server instead: host:port, or the path of its socket
  --user NAME, --password-file FILE
                       an account that may write (\`just grants --for operator\`)
  --note WORDS, --who NAME, --yes (do not ask), --json (history)
Exit: 0 done, 1 failed or refused, 2 wrong use or config
`;

const OPTIONS = {
  config: { type: "string" },
  address: { type: "string" },
  user: { type: "string" },
  "password-file": { type: "string" },
  note: { type: "string" },
  who: { type: "string" },
  yes: { type: "boolean" },
  json: { type: "boolean" },
} as const;
const WORDS = ["init", "push", "show", "history", "diff", "rollback", "validate"];
type Values = ReturnType<typeof parseArguments<typeof OPTIONS>>["values"];

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, OPTIONS);
  const [word = "", first, second, ...rest] = words;
  if (rest.length > 0) throw new UsageError(`${word}: too many words`, { hint: "See --help" });
  if (!WORDS.includes(word)) {
    const hint = `Words are ${WORDS.join(", ")}; see --help`;
    throw new UsageError(word === "" ? "A word is needed" : `There is no word ${word}`, { hint });
  }
  if (word === "validate") return await validate(needed(word, first, "a file"));
  const primary = ["init", "push", "rollback"].includes(word);
  const db = await openConfigDb({ ...(await databaseOf(values)), primary });
  const push = async (text: string, note: string) =>
    await pushConfig(db, text, {
      author: values.who ?? whoOrders(),
      note,
      agreed: values.yes === true ? async () => true : agreed,
      say: (line) => console.log(line),
    });
  try {
    switch (word) {
      case "init":
        await db.init();
        console.log("minder.config is there: `just config-push FILE` makes the first version");
        return 0;
      case "push":
        return await push(await readConfigText(needed(word, first, "a file")), values.note ?? "");
      case "show":
        process.stdout.write((await findVersion(db, first)).text);
        return 0;
      case "history":
        if (values.json === true) console.log(JSON.stringify(await db.history()));
        else for (const row of await db.history()) console.log(historyLine(row));
        return 0;
      case "diff": {
        const from = await findVersion(db, needed(word, first, "a version"));
        const lines = differences(from, await findVersion(db, second));
        console.log(lines.length === 0 ? "no key differs" : lines.join("\n"));
        return 0;
      }
      case "rollback": {
        const { text, mark } = await findVersion(db, needed(word, first, "a version"));
        const { version } = await db.newest();
        const note = values.note ?? `rollback to version ${mark.version}`;
        return await push(restamp(text, version ?? mark.version) ?? text, note);
      }
      default:
        throw new Error(word);
    }
  } finally {
    db.close();
  }
}

function needed(word: string, value: string | undefined, what: string): string {
  if (value !== undefined) return value;
  throw new UsageError(`${word} needs ${what}`, { hint: "See --help" });
}

/** Where the database is and as whom to ask it: as told, else as the site file or the node's own says. */
async function databaseOf(values: Values): Promise<ConfigDbOptions> {
  const { address, user, "password-file": passwordFile } = values;
  if (address !== undefined && user !== undefined) {
    return { addresses: [address], user, passwordFile: passwordFile ?? null };
  }
  const file = await loadConfigFile(configPath(values.config));
  const own = file.is === "node" ? dbOptions(file.node) : null;
  const site = file.is === "site" ? file.config : null;
  return {
    addresses:
      address === undefined
        ? (own?.addresses ??
          site?.servers.map((server) => `${server.host}:${server.mysqlPort}`) ??
          [])
        : [address],
    user: user ?? own?.user ?? site?.database.user ?? "minder",
    passwordFile:
      passwordFile ??
      (user === undefined ? (own?.passwordFile ?? site?.database.passwordFile ?? null) : null),
  };
}

async function validate(path: string): Promise<number> {
  const { config } = checkDocument(await readConfigText(path), path);
  for (const warning of config.warnings) console.log(`warning: ${warning}`);
  console.log(`${path}: good, ${config.servers.length} servers, version ${config.version}`);
  return 0;
}

async function agreed(): Promise<boolean> {
  if (!process.stdin.isTTY) throw new UsageError("Nobody is there to ask", { hint: "Say --yes" });
  const asking = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await asking.question("Push this? [y/N] ");
  asking.close();
  return /^y(es)?$/i.test(answer.trim());
}

if (import.meta.main) await runScript(main);
