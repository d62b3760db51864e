/** Makes certificates for every party of the config, for a trial. Exit: 0 done, 1 failed, 2 wrong use or config. */
import { resolve } from "node:path";
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { certsFor, makeCerts } from "../lib/effects/certs.ts";

const USAGE = `
Usage: certs.ts [--config FILE] FOLDER
  --config FILE   the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
  FOLDER          gets ca.crt, ca.key, and ID.crt, ID.key for each party and for "command"
Made by the openssl program, for a trial: who has ca.key can speak for everybody, so keep it elsewhere.
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, { config: { type: "string" } });
  const [folder, ...rest] = words;
  if (folder === undefined || rest.length > 0) {
    throw new UsageError("One folder is needed", { hint: "See --help" });
  }
  const path = resolve(folder);
  const wanted = certsFor(await loadConfig(values.config));
  makeCerts(path, wanted);
  console.log(
    `made ${path}/ca.crt, ca.key, and a pair for ${wanted.map(({ id }) => id).join(", ")}`,
  );
  console.log("[security.tls]");
  console.log(
    `cert_file = "${path}/{id}.crt"\nkey_file = "${path}/{id}.key"\nca_file = "${path}/ca.crt"`,
  );
  return 0;
}

if (import.meta.main) await runScript(main);
