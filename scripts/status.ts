/**
 * Asks the arbitrator how the cluster is, or the minder of this host what it does. For people, cron and
 * monitors.
 * Exit: 0 healthy, 1 degraded, 2 no writable primary, 3 cannot tell.
 */
import { loadConfig, parseArguments } from "../lib/cli.ts";
import { clientText } from "../lib/client_text.ts";
import type { ClusterConfig } from "../lib/cluster_config.ts";
import type { ClientStatus } from "../lib/core/dbclient.ts";
import { askArbitrator, askMinder } from "../lib/effects/ask.ts";
import { describeError, formatError } from "../lib/errors.ts";
import type { Summary } from "../lib/message/arbitrator.ts";
import { partyType } from "../lib/message/envelope.ts";
import { ownParty } from "../lib/run/self.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";

const USAGE = `
Usage: status.ts [--config FILE] [--json] [--quiet] [--timeout-ms N] [--here [--node TYPE.N]]
  --config FILE   the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
  --json          the whole summary as JSON
  --quiet         nothing but the exit code
  --timeout-ms N  how long to wait for the arbitrator (default 1000)
  --here          what the minder of this host says of itself: a client minder its balancer, with the
                  sessions that are left at drained servers; others all they hold, as JSON
  --node ID       with --here, where the config gives this host several parties
Exit: 0 healthy, 1 degraded, 2 no writable primary, 3 cannot tell
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    json: { type: "boolean" },
    quiet: { type: "boolean" },
    "timeout-ms": { type: "string" },
    here: { type: "boolean" },
    node: { type: "string" },
  });
  const timeoutMs = Number(values["timeout-ms"] ?? 1_000);
  if (!Number.isFinite(timeoutMs) || timeoutMs <= 0) {
    console.error(`error: --timeout-ms is ${values["timeout-ms"]}, must be a number above 0`);
    return EXIT_BY_HEALTH.cannot_tell;
  }
  const config = await loadConfig(values.config);
  if (values.here === true) return await here(config, timeoutMs, values);
  const short = values.quiet === true || values.json === true;
  const [summary, next] = await Promise.all([
    ask(config, timeoutMs),
    short ? [] : whatNext(config, timeoutMs),
  ]);
  if (values.quiet !== true) {
    console.log(values.json === true ? JSON.stringify(summary) : statusText(summary, { next }));
  }
  return EXIT_BY_HEALTH[summary.health];
}

/** What would happen next; nothing where that cannot be worked out: the status itself matters more. */
async function whatNext(config: ClusterConfig, timeoutMs: number): Promise<readonly string[]> {
  try {
    // A monitor that only wants the exit code need not load the rules.
    const [{ askState }, { nextLines }] = await Promise.all([
      import("../lib/run/snapshot.ts"),
      import("../lib/what_if_text.ts"),
    ]);
    const { state, now } = await askState(config, timeoutMs);
    return nextLines(state, now);
  } catch (error) {
    return [`cannot be told: ${describeError(error)}`];
  }
}

interface Shown {
  readonly node?: string | undefined;
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
}

async function here(config: ClusterConfig, timeoutMs: number, shown: Shown): Promise<number> {
  const parties = [...config.arbitrators, ...config.servers, ...config.clients];
  const { id } = ownParty(parties, "minder", shown.node);
  const status = await askMinder(id, { config, timeoutMs });
  const client = partyType(id) === "dbclient" ? (status as ClientStatus) : null;
  if (shown.quiet !== true) {
    const plain = client === null || shown.json === true;
    console.log(plain ? JSON.stringify(status, null, 2) : clientText(client));
  }
  return client?.trouble == null ? EXIT_BY_HEALTH.healthy : EXIT_BY_HEALTH.degraded;
}

async function ask(config: ClusterConfig, timeoutMs: number): Promise<Summary> {
  const reply = await askArbitrator(
    { verb: "status_summary", parameters: {} },
    { config, timeoutMs },
  );
  if (reply.verb !== "status_summary" || !("health" in reply.parameters)) {
    throw new Error(`The arbitrator answered with ${reply.verb}`);
  }
  return reply.parameters;
}

if (import.meta.main) {
  try {
    process.exit(await main());
  } catch (error) {
    // A monitor must not take a failed question for an answer about the cluster.
    console.error(formatError(error));
    process.exit(EXIT_BY_HEALTH.cannot_tell);
  }
}
