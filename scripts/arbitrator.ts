/** Runs the arbitrator: hears every server, decides which segment may be primary, answers people. */
import { loadConfig, parseArguments, runScript } from "../lib/cli.ts";
import { initArbitrator, runArbitrator } from "../lib/run/arbitrator.ts";
import { ownParty } from "../lib/run/self.ts";

const USAGE = `
Usage: arbitrator.ts [--config FILE] [--node arbitrator.N] [--init]
  --config FILE   the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
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
  const config = await loadConfig(values.config);
  const self = ownParty(config.arbitrators, "arbitrator", values.node);
  if (values.init === true) {
    await initArbitrator(config, self);
    console.log(`made the store of ${self.id} in ${self.stateDir}`);
    return 0;
  }
  return await runArbitrator(config, self);
}

if (import.meta.main) await runScript(main);
