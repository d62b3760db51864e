/**
 * ExecStartPre of mariadbd's unit: asks the local watchdog, else the arbitrator, whether it may start;
 * puts gvwstate.dat aside and writes the arguments. Exit: 0 start, 1 do not, 2 wrong use or config.
 */
import * as v from "valibot";
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import type { ClusterConfig, DbServerConfig } from "../lib/cluster_config.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { readGrastate, removeGvwstate } from "../lib/effects/datadir.ts";
import { writeArguments } from "../lib/effects/unit.ts";
import { MinderError } from "../lib/errors.ts";
import {
  type GateVerdict,
  gateVerdict,
  type WatchdogSays,
  WatchdogSaysSchema,
} from "../lib/gate.ts";
import type { Summary } from "../lib/message/arbitrator.ts";
import type { Position } from "../lib/message/dbserver.ts";
import { ownParty } from "../lib/run/self.ts";
import { argumentsFile } from "../lib/systemd.ts";

const USAGE = `
Usage: gate.ts [--config FILE] [--node dbserver.N] [--arguments-file FILE] [--wait-ms MS]
  --config FILE          the cluster's config
  --node ID              which server of the config this is; default: the one with an address of this host
  --arguments-file FILE  written for the unit; default /run/galera-minder/UNIT.env
  --wait-ms MS           asks again for so long where the answer is no; default 10000
`;

/** A start must not wait for a watchdog or an arbitrator that hangs. */
const ASK_TIMEOUT_MS = 1_000;
/**
 * A person's restart is here sooner than the arbitrator's verdict on the server that has just stopped, or
 * than a watchdog that systemd has just started anew.
 */
const WAIT_MS = 10_000;
const PAUSE_MS = 100;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    config: { type: "string" },
    node: { type: "string" },
    "arguments-file": { type: "string" },
    "wait-ms": { type: "string" },
  });
  const waitMs = Number(values["wait-ms"] ?? WAIT_MS);
  if (!Number.isFinite(waitMs) || waitMs < 0) {
    throw new UsageError(`--wait-ms is ${JSON.stringify(values["wait-ms"])}, must be 0 or more`);
  }
  const config = await loadConfig(values.config);
  const self = ownParty(config.servers, "dbserver", values.node);
  const { verdict, watchdog } = await askFor(waitMs, config, self);
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

/** Asks until the start is allowed, or the time is up: then the last answer stands. */
async function askFor(
  waitMs: number,
  config: ClusterConfig,
  self: DbServerConfig,
): Promise<{ readonly verdict: GateVerdict; readonly watchdog: WatchdogSays | null }> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    const watchdog = await askWatchdog(config, self);
    const arbitrator = watchdog === null ? await askSummary(config) : null;
    const verdict = gateVerdict({ watchdog, arbitrator });
    if (verdict.go || performance.now() >= deadline) return { verdict, watchdog };
    await Bun.sleep(PAUSE_MS);
  }
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
