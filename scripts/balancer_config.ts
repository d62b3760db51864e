/** Prints a working configuration for a balancer of this cluster: `just balancer-config haproxy`. */
import { glbdCommand, haproxyConfig } from "../lib/balancer_config.ts";
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import type { PartyId } from "../lib/message/envelope.ts";

const USAGE = `
Usage: balancer_config.ts haproxy|glbd [--config FILE] [--client dbclient.N] [--listen HOST:PORT] [--unminded]
  --config FILE       the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
  --client dbclient.N whose balancer it is; needed where the config has several
  --listen HOST:PORT  where applications connect (default 127.0.0.1:3306)
  --unminded          for HAProxy without a client minder: it asks the watchdogs' health endpoints
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    config: { type: "string" },
    client: { type: "string" },
    listen: { type: "string" },
    unminded: { type: "boolean" },
  });
  const [kind] = words;
  if (words.length !== 1 || (kind !== "haproxy" && kind !== "glbd")) {
    throw new UsageError(`Which balancer: ${words.join(" ") || "none"} was asked for`, {
      hint: "haproxy or glbd",
    });
  }
  const listen = values.listen ?? "127.0.0.1:3306";
  if (!/^[A-Za-z0-9.*-]*:\d{1,5}$/.test(listen)) {
    throw new UsageError(`--listen is "${listen}", must be host:port`);
  }
  const client = (values.client ?? null) as PartyId | null;
  const minded = values.unminded === true ? "no" : "yes";
  const print = kind === "haproxy" ? haproxyConfig : glbdCommand;
  process.stdout.write(print(await loadConfig(values.config), { client, listen, minded }));
  return 0;
}

if (import.meta.main) await runScript(main);
