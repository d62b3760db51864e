/** Prints what has happened, from the arbitrator's event log: from its file where that is here, else by asking. */
import { existsSync } from "node:fs";
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import type { ArbitratorConfig, ClusterConfig } from "../lib/cluster_config.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { eventLogOf } from "../lib/effects/event_log.ts";
import { readEvents } from "../lib/effects/event_store.ts";
import { describeError, MinderError } from "../lib/errors.ts";
import { fieldsOf, historyText, parseAgo } from "../lib/history_text.ts";
import type { Happened } from "../lib/message/arbitrator.ts";
import { HISTORY_MAX } from "../lib/message/command.ts";

const USAGE = `
Usage: history.ts [--config FILE] [--since WHEN] [--limit N] [--evidence] [--json] [--ask]
  --since WHEN   90s, 15m, 2h, 3d ago, or a time as 2026-11-23T02:00 (default: everything)
  --limit N      the newest N events (default 200)
  --evidence     with each decision, what every server had said
  --json         one JSON object per line
  --ask          ask the arbitrator, even where its file is on this host
Reads the arbitrator's own file where that is on this host, so it works with the arbitrator down.
`;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    since: { type: "string" },
    limit: { type: "string" },
    evidence: { type: "boolean" },
    json: { type: "boolean" },
    ask: { type: "boolean" },
  });
  const limit = Number(values.limit ?? 200);
  if (!Number.isSafeInteger(limit) || limit < 1) {
    throw new UsageError(`--limit is ${values.limit}, must be a whole number from 1`);
  }
  const sinceMs = values.since === undefined ? null : agoOf(values.since);
  const config = await loadConfig(values.config);
  const events = await eventsOf(config, { sinceMs, limit }, values.ask === true);
  if (values.json === true) {
    for (const event of events) console.log(JSON.stringify({ ...event, fields: fieldsOf(event) }));
  } else console.log(historyText(events, { evidence: values.evidence === true }));
  return 0;
}

function agoOf(text: string): number {
  const ago = parseAgo(text);
  if (ago !== null) return ago;
  const at = Date.parse(text);
  if (Number.isNaN(at)) {
    throw new UsageError(`--since is ${JSON.stringify(text)}, must be as 2h or 2026-11-23T02:00`);
  }
  return Math.max(0, Date.now() - at);
}

interface Wanted {
  readonly sinceMs: number | null;
  readonly limit: number;
}

async function eventsOf(
  config: ClusterConfig,
  wanted: Wanted,
  asks: boolean,
): Promise<readonly Happened[]> {
  const [arbitrator] = config.arbitrators;
  if (arbitrator === undefined) throw new UsageError("The config names no arbitrator");
  const { path } = eventLogOf(arbitrator);
  if (asks || !existsSync(path)) return await ask(config, arbitrator, wanted);
  const since =
    wanted.sinceMs === null ? null : new Date(Date.now() - wanted.sinceMs).toISOString();
  try {
    return readEvents(path, { since, limit: wanted.limit });
  } catch (error) {
    console.error(`note: ${describeError(error)}; asking the arbitrator`);
    return await ask(config, arbitrator, wanted);
  }
}

async function ask(
  config: ClusterConfig,
  arbitrator: ArbitratorConfig,
  { sinceMs, limit }: Wanted,
): Promise<readonly Happened[]> {
  const parameters = { sinceMs, limit: Math.min(limit, HISTORY_MAX) };
  const reply = await askArbitrator({ verb: "history", parameters }, { config, timeoutMs: 5_000 });
  if (reply.verb === "history" && "events" in reply.parameters) {
    const { events, illness } = reply.parameters;
    if (illness !== null) console.error(`note: the event log: ${illness}`);
    return events;
  }
  const because = reply.verb === "ack" ? reply.parameters.because : `it answered ${reply.verb}`;
  throw new MinderError(`Cannot read the history: ${because}`, { where: arbitrator.host });
}

if (import.meta.main) await runScript(main);
