/** Runs the minder beside one balancer: turns the servers' reports into weights. */
import { configPath, parseArguments, runScript } from "../lib/cli.ts";
import { runClient } from "../lib/run/client.ts";
import { openConfig } from "../lib/run/config_keeper.ts";
import { ownParty } from "../lib/run/self.ts";

const USAGE = `
Usage: client.ts [--config FILE] [--node dbclient.N]
  --config FILE   the cluster's config, or this node's own file; default GM_CONFIG, config/cluster.toml, or a running demo's
  --node ID       which party of the config this is; default: the one with an address of this host
Ends on SIGTERM or SIGINT; a second signal ends it at once.
Exit: 0 stopped, 1 failed, 2 wrong use or config
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
  });
  const { config, keeper, named } = await openConfig(configPath(values.config), values.node);
  const self = ownParty(config.clients, "dbclient", named);
  return await runClient(config, self, keeper);
}

if (import.meta.main) await runScript(main);
