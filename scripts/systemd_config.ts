/** Prints the files that let systemd run mariadbd under the watchdog's care. Writes nothing. */
import { join, resolve } from "node:path";
import { configPath, loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { ownParty } from "../lib/run/self.ts";
import { dropIn, polkitRule, socketWarning, sudoersLines, watchdogUnit } from "../lib/systemd.ts";

const USAGE = `
Usage: systemd_config.ts [--config FILE] [--node dbserver.N] [--user NAME]
  --config FILE  the cluster's config; default GM_CONFIG or config/cluster.toml
  --node ID      which server of the config; default: the one with an address of this host
  --user NAME    system user of the watchdog (default mysql: it reads and mends the data directory)
Exit: 0, 2 wrong use or config
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
    user: { type: "string" },
  });
  const user = values.user ?? "mysql";
  if (!/^[a-z_][a-z0-9_-]{0,31}$/.test(user)) {
    throw new UsageError(`--user is ${JSON.stringify(user)}, must be a system user's name`);
  }
  const config = await loadConfig(values.config);
  const server = ownParty(config.servers, "dbserver", values.node);
  const unit = server.unit ?? "mariadb.service";
  const paths = {
    bun: process.execPath,
    root: join(import.meta.dir, ".."),
    config: resolve(configPath(values.config)),
    user,
    stallMs: config.timing.leaseMs + config.timing.fenceMs,
  };
  console.log(
    [
      watchdogUnit(server, paths),
      dropIn(unit, server, paths),
      socketWarning(unit),
      "# One of the two that follow:",
      polkitRule(unit, paths),
      sudoersLines(unit, paths),
    ].join("\n"),
  );
  return 0;
}

if (import.meta.main) await runScript(main);
