/** Runs the role that the config gives this host, or the party named by --node. */
import { configPath, parseArguments, runScript } from "../lib/cli.ts";
import { partyType } from "../lib/message/envelope.ts";
import { openConfig } from "../lib/run/config_keeper.ts";
import { ownParty } from "../lib/run/self.ts";

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
  // The program of the one role is loaded alone: what the others need would lie in memory for years.
  if (arbitrator !== undefined) {
    const { runArbitrator } = await import("../lib/run/arbitrator.ts");
    return await runArbitrator(config, arbitrator, keeper);
  }
  if (server !== undefined) {
    const { runServer } = await import("../lib/run/server.ts");
    return await runServer(config, server, keeper);
  }
  if (client !== undefined) {
    const { runClient } = await import("../lib/run/client.ts");
    return await runClient(config, client, keeper);
  }
  throw new Error(`No program runs a ${partyType(self.id)}`);
}

if (import.meta.main) await runScript(main);
