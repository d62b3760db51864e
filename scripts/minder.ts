/** Runs the role that the config gives this host, or the party named by --node. */
import { configPath, parseArguments, runScript } from "../lib/cli.ts";
import { partyType } from "../lib/message/envelope.ts";
import { runArbitrator } from "../lib/run/arbitrator.ts";
import { runClient } from "../lib/run/client.ts";
import { openConfig } from "../lib/run/config_keeper.ts";
import { ownParty } from "../lib/run/self.ts";
import { runServer } from "../lib/run/server.ts";

const USAGE = `
Usage: minder.ts [--config FILE] [--node TYPE.N]
  --config FILE   the cluster's config, or this node's own file; default GM_CONFIG, config/cluster.toml, or a running demo's
  --node ID       arbitrator.N, dbserver.N or dbclient.N; default: the one with an address of this host
Ends on SIGTERM or SIGINT; a second signal ends it at once.
Exit: 0 stopped, 1 failed, 2 wrong use or config
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
  });
  const { config, keeper, named } = await openConfig(configPath(values.config), values.node);
  const { arbitrators, servers, clients } = config;
  const self = ownParty([...arbitrators, ...servers, ...clients], "minder", named);
  // Found again by its id, so that each role gets its own kind of entry.
  const [arbitrator] = arbitrators.filter((party) => party.id === self.id);
  const [server] = servers.filter((party) => party.id === self.id);
  const [client] = clients.filter((party) => party.id === self.id);
  if (arbitrator !== undefined) return await runArbitrator(config, arbitrator, keeper);
  if (server !== undefined) return await runServer(config, server, keeper);
  if (client !== undefined) return await runClient(config, client, keeper);
  throw new Error(`No program runs a ${partyType(self.id)}`);
}

if (import.meta.main) await runScript(main);
