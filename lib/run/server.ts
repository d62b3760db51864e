/** The server watchdog as a process: SQL, mariadbd, its store, its core, its loop. */
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import type { Millis } from "../core/core.ts";
import { dbServerCore } from "../core/dbserver.ts";
import {
  type DbServerEffect,
  type DbServerEvent,
  type ProcessFact,
  SERVER_DURABLE_NONE,
  type ServerDurable,
} from "../core/dbserver_io.ts";
import { buildReport } from "../core/dbserver_report.ts";
import type { DbServerState } from "../core/dbserver_state.ts";
import type { ConfigShelf } from "../effects/config_source.ts";
import { openGuard } from "../effects/guard.ts";
import { openMysql } from "../effects/mysql.ts";
import { manageProcess } from "../effects/process.ts";
import { machineId, type StateFile, stateFile } from "../effects/state_file.ts";
import { manageUnit } from "../effects/unit.ts";
import type { WatchdogSays } from "../gate.ts";
import { createLog, type Log } from "../log.ts";
import type { ConfigMark, Report } from "../message/dbserver.ts";
import { argumentsFile } from "../systemd.ts";
import { systemClock } from "../wakeup.ts";
import type { ConfigKeeper } from "./config_keeper.ts";
import { ServerDurableSchema } from "./durable.ts";
import { EFFECT_LIMIT_MS, listenAt, startParty, untilSignalled } from "./party.ts";
import {
  performServer,
  RECOVER_TIMEOUT_MS,
  type ServerOwnEffect,
  type ServerOwnEvent,
} from "./server_effects.ts";
import { serveHealth } from "./server_health.ts";

/** Runs the watchdog until it is told to stop; mariadbd runs on. Returns the exit code. */
export async function runServer(
  config: ClusterConfig,
  self: DbServerConfig,
  keeper: ConfigKeeper | null = null,
): Promise<number> {
  // Of a config that no longer names this server nothing is taken: it leaves by the one before.
  const latest = { config };
  const clock = systemClock();
  const log = createLog({ role: "dbserver", node: self.id, wall: clock.wall });
  const store: StateFile<ServerDurable> = stateFile({
    path: join(self.stateDir, "server.state"),
    schema: ServerDurableSchema,
    machine: await machineId(),
  });
  const url = config.urlById.get(self.id) ?? `http://${self.host}:${self.port}`;
  const core = dbServerCore({
    config,
    self,
    url,
    minderVersion: packageJson.version,
    durable: await readDurable(store, log),
    guards: true,
    ...(keeper === null ? {} : { documents: documentsOf(keeper.shelf()) }),
  });
  const mysql = openMysql({
    address:
      self.mysqlSocket === null
        ? { host: self.host, port: self.mysqlPort }
        : { socketPath: self.mysqlSocket },
    user: config.database.user,
    passwordFile: config.database.passwordFile,
    probeTimeoutMs: config.timing.probeTimeoutMs,
    // The config may change under it.
    get pollTimeoutMs() {
      return latest.config.timing.pollTimeoutMs;
    },
    get fenceMs() {
      return latest.config.timing.fenceMs;
    },
  });
  const watched = {
    datadir: self.datadir,
    pidFile: join(self.stateDir, "mariadbd.pid"),
    logFile: join(self.stateDir, "mariadbd.log"),
    onChange: (process: ProcessFact) => party.loop.tell({ on: "process", process }),
  };
  const mariadbd =
    self.unit === undefined
      ? manageProcess({ ...watched, command: self.mariadbd })
      : manageUnit({ ...watched, unit: self.unit, argumentsFile: argumentsFile(self.unit) });
  async function save(durable: ServerDurable): Promise<void> {
    const keptAs = await store.write(durable);
    if (keptAs !== null) log.warn("state_set_aside", { keptAs });
  }
  const guard = openGuard({ noteFile: join(self.stateDir, "guard.note"), clock });
  async function adopt(mark: ConfigMark): Promise<void> {
    await keeper?.adopt(mark);
  }
  const tools = { self, clock, mysql, process: mariadbd, guard, save, adopt };
  const party = startParty<DbServerState, DbServerEvent, DbServerEffect>({
    config,
    keeper,
    self: self.id,
    listen: listenAt(self, keeper),
    controlSocket: null,
    core,
    initial: core.initial(clock.now()),
    async perform(effect) {
      if (effect.do === "log") {
        log.info(effect.event, effect.fields);
        return null;
      }
      return await performServer(effect, tools);
    },
    failed: (effect, error) => failedServer(effect, { error, now: clock.now() }),
    limitMs: (effect) => limitMs(effect, latest.config),
    // What was reported last: whatever changes the phase is reported in the same step.
    phaseOf: ({ lastReport }) =>
      lastReport === null
        ? { phase: "starting", because: "nothing is known yet" }
        : { phase: phaseWord(lastReport), because: lastReport.because },
    status: (state, now) => ({
      report: buildReport(state, now, state.reportNumber),
      peers: Object.fromEntries(
        [...state.peers].map(([id, { report, at }]) => [id, { heardAgoMs: now - at, report }]),
      ),
      durable: state.durable,
      start: startFacts(state, now),
    }),
    clock,
    log,
  });
  await mysql.warm();
  party.loop.tell({ on: "process", process: mariadbd.adopt() });
  const state = (): DbServerState => party.loop.state().core;
  const health = await serveHealth({ config: () => latest.config, self, state, clock, log });
  keeper?.watch(log, (shelf) => {
    const { active, held } = shelf;
    if (active.config.serverById.has(self.id)) latest.config = active.config;
    party.adopt(latest.config, keeper.version());
    party.loop.tell({
      on: "config",
      config: active.config,
      mark: active.mark,
      held: held?.mark ?? null,
    });
  });
  return await untilSignalled(party, log, async () => {
    await health.stop();
    mariadbd.close();
    mysql.close();
  });
}

function documentsOf({ active, held }: ConfigShelf): Report["config"] {
  return { active: active.mark, held: held?.mark ?? null };
}

/** What the start gate asks for. */
function startFacts(state: DbServerState, now: Millis): WatchdogSays["start"] {
  return {
    starting: state.handling === "start",
    running: state.process.is === "running",
    verdict: state.startVerdict,
    position: state.position,
    because: buildReport(state, now, state.reportNumber).because,
  };
}

/** What the watchdog remembers; nothing where that cannot be trusted, which only makes it stricter. */
async function readDurable(store: StateFile<ServerDurable>, log: Log): Promise<ServerDurable> {
  const found = await store.read();
  if (found.is === "read") return found.value;
  if (found.is !== "absent") log.warn("state_not_trusted", { because: found.because });
  return SERVER_DURABLE_NONE;
}

type OwnOrLog = ServerOwnEffect | Extract<DbServerEffect, { do: "log" }>;

/** What an effect may take; those with a bound of their own get that and a little more. */
function limitMs(effect: OwnOrLog, config: ClusterConfig): Millis {
  const { pollTimeoutMs, probeTimeoutMs, fenceMs } = config.timing;
  switch (effect.do) {
    case "poll":
      return pollTimeoutMs + SLACK_MS;
    case "probe":
      return probeTimeoutMs + 2 * SLACK_MS;
    case "fence":
    case "unfence":
      return fenceMs + SLACK_MS;
    // A unit recovers InnoDB before it starts.
    case "start":
    case "read_position":
      return RECOVER_TIMEOUT_MS + SLACK_MS;
    // Thousands of files, on a disk that is busy.
    case "look_aside":
    case "discard":
      return RECOVER_TIMEOUT_MS + SLACK_MS;
    case "stop":
      return effect.graceMs + 2 * EFFECT_LIMIT_MS;
    case "kill":
      return 2 * EFFECT_LIMIT_MS;
    default:
      return EFFECT_LIMIT_MS;
  }
}

const SLACK_MS = 500;

/** The event that tells the core of an effect that ran out of its time. */
function failedServer(
  effect: OwnOrLog,
  options: { readonly error: string; readonly now: Millis },
): ServerOwnEvent | null {
  const { error, now } = options;
  switch (effect.do) {
    case "log":
      return null;
    case "poll":
      return { on: "polled", startedAt: now, status: null, error, unreachable: false };
    case "probe":
      return { on: "probed", startedAt: now, outcome: "hung", error };
    case "look_aside":
    case "discard":
      return { on: "aside", found: null, error };
    case "form_primary":
      return { on: "formed", outcome: "failed", error };
    case "read_position":
      return { on: "position", position: null, safeToBootstrap: false, error };
    default:
      return { on: "done", effect, error };
  }
}

function phaseWord(report: ReturnType<typeof buildReport>): string {
  if (report.running !== "up") return report.running;
  if (report.primary !== "yes") return "non-Primary";
  return report.serving === "on" ? "serving" : "fenced";
}
