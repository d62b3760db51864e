/**
 * Asks the arbitrator how the cluster is. For people, cron and monitors.
 * Exit: 0 healthy, 1 degraded, 2 no writable primary, 3 cannot tell.
 */
import { loadConfig, parseArguments } from "../lib/cli.ts";
import type { ClusterConfig } from "../lib/cluster_config.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { describeError, formatError } from "../lib/errors.ts";
import type { Summary } from "../lib/message/arbitrator.ts";
import { askState } from "../lib/run/snapshot.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";
import { nextLines } from "../lib/what_if_text.ts";

const USAGE = `
Usage: status.ts [--config FILE] [--json] [--quiet] [--timeout-ms N]
  --config FILE   the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
  --json          the whole summary as JSON
  --quiet         nothing but the exit code
  --timeout-ms N  how long to wait for the arbitrator (default 1000)
Exit: 0 healthy, 1 degraded, 2 no writable primary, 3 cannot tell
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    json: { type: "boolean" },
    quiet: { type: "boolean" },
    "timeout-ms": { type: "string" },
  });
  const timeoutMs = Number(values["timeout-ms"] ?? 1_000);
  if (!Number.isFinite(timeoutMs) || timeoutMs <= 0) {
    console.error(`error: --timeout-ms is ${values["timeout-ms"]}, must be a number above 0`);
    return EXIT_BY_HEALTH.cannot_tell;
  }
  const config = await loadConfig(values.config);
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
    const { state, now } = await askState(config, timeoutMs);
    return nextLines(state, now);
  } catch (error) {
    return [`cannot be told: ${describeError(error)}`];
  }
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
