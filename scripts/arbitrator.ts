/** Runs the arbitrator: hears every server, decides which segment may be primary, answers people. */
import { configPath, parseArguments, runScript } from "../lib/cli.ts";
import { initArbitrator, runArbitrator } from "../lib/run/arbitrator.ts";
import { openConfig } from "../lib/run/config_keeper.ts";
import { ownParty } from "../lib/run/self.ts";

const USAGE = `
Usage: arbitrator.ts [--config FILE] [--node arbitrator.N] [--init]
  --config FILE   the cluster's config, or this node's own file; default GM_CONFIG, config/cluster.toml, or a running demo's
  --node ID       which party of the config this is; default: the one with an address of this host
  --init          make the store of a new cluster, once, and exit
Ends on SIGTERM or SIGINT; a second signal ends it at once.
Exit: 0 stopped, 1 failed, 2 wrong use or config
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
    init: { type: "boolean" },
  });
  const { config, keeper, named } = await openConfig(configPath(values.config), values.node);
  const self = ownParty(config.arbitrators, "arbitrator", named);
  if (values.init === true) {
    await initArbitrator(config, self);
    console.log(`made the store of ${self.id} in ${self.stateDir}`);
    return 0;
  }
  return await runArbitrator(config, self, keeper);
}

if (import.meta.main) await runScript(main);
