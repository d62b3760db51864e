/**
 * ExecStartPre of mariadbd's unit: asks the local watchdog, else the arbitrator, whether it may start;
 * puts gvwstate.dat aside and writes the arguments. Exit: 0 start, 1 do not, 2 wrong use or config.
 */
import * as v from "valibot";
import { loadConfig, parseArguments, runScript } from "../lib/cli.ts";
import type { ClusterConfig, DbServerConfig } from "../lib/cluster_config.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { readGrastate, removeGvwstate } from "../lib/effects/datadir.ts";
import { writeArguments } from "../lib/effects/unit.ts";
import { MinderError } from "../lib/errors.ts";
import { gateVerdict, type WatchdogSays, WatchdogSaysSchema } from "../lib/gate.ts";
import type { Summary } from "../lib/message/arbitrator.ts";
import type { Position } from "../lib/message/dbserver.ts";
import { ownParty } from "../lib/run/self.ts";
import { argumentsFile } from "../lib/systemd.ts";

const USAGE = `
Usage: gate.ts [--config FILE] [--node dbserver.N] [--arguments-file FILE]
  --config FILE          the cluster's config
  --node ID              which server of the config this is; default: the one with an address of this host
  --arguments-file FILE  written for the unit; default /run/galera-minder/UNIT.env
`;

/** A start must not wait for a watchdog or an arbitrator that hangs. */
const ASK_TIMEOUT_MS = 1_000;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
    "arguments-file": { type: "string" },
  });
  const config = await loadConfig(values.config);
  const self = ownParty(config.servers, "dbserver", values.node);
  const watchdog = await askWatchdog(config, self);
  const arbitrator = watchdog === null ? await askSummary(config) : null;
  const verdict = gateVerdict({ watchdog, arbitrator });
  console.log(`${verdict.go ? "start" : "do not start"} ${self.name}: ${verdict.because}`);
  if (!verdict.go) return 1;
  removeGvwstate(self.datadir);
  if (verdict.arguments === "join") {
    const file = values["arguments-file"] ?? argumentsFile(self.unit ?? "mariadb.service");
    const stands = watchdog?.start.position ?? cleanPosition(self.datadir);
    writeArguments(
      file,
      stands === null ? [] : [`--wsrep-start-position=${stands.uuid}:${stands.seqno}`],
    );
  }
  return 0;
}

/** After a clean stop only; after a crash the unit's own recovery finds the position. */
function cleanPosition(datadir: string): Position | null {
  const { uuid, seqno } = readGrastate(datadir) ?? { uuid: null, seqno: -1 };
  return uuid === null || seqno < 0 ? null : { uuid, seqno };
}

async function askWatchdog(
  config: ClusterConfig,
  self: DbServerConfig,
): Promise<WatchdogSays | null> {
  try {
    // Asked on this very host: with certificates, at the plain port on loopback.
    const at =
      config.security.tls === null ? config.urlById.get(self.id) : `http://127.0.0.1:${self.port}`;
    const response = await fetch(`${at}/status`, { signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
    return v.parse(WatchdogSaysSchema, await response.json());
  } catch {
    // It does not run, or hangs: then it is not asked.
    return null;
  }
}

async function askSummary(config: ClusterConfig): Promise<Summary | null> {
  try {
    const reply = await askArbitrator(
      { verb: "status_summary", parameters: {} },
      { config, timeoutMs: ASK_TIMEOUT_MS },
    );
    return "health" in reply.parameters ? reply.parameters : null;
  } catch (error) {
    if (error instanceof MinderError) return null;
    throw error;
  }
}

if (import.meta.main) await runScript(main);
