/** The arbitrator as a process: its store, its core, its loop. */
import { join } from "node:path";
import type { ArbitratorConfig, ClusterConfig } from "../cluster_config.ts";
import { type ArbitratorStart, arbitratorCore } from "../core/arbitrator.ts";
import type { MarkedConfig } from "../core/arbitrator_config.ts";
import {
  type ArbitratorDurable,
  type ArbitratorEffect,
  type ArbitratorEvent,
  type ArbitratorState,
  newDurable,
} from "../core/arbitrator_state.ts";
import { summarize } from "../core/arbitrator_summary.ts";
import { controlSocketOf } from "../effects/ask.ts";
import { eventLogOf, openEventLog } from "../effects/event_log.ts";
import type { EventQuery, StoredEvent } from "../effects/event_store.ts";
import { machineId, type StateFile, stateFile } from "../effects/state_file.ts";
import { MinderError } from "../errors.ts";
import { createLog } from "../log.ts";
import type { HistoryAsk } from "../message/command.ts";
import type { ConfigMark } from "../message/dbserver.ts";
import { systemClock } from "../wakeup.ts";
import type { ConfigKeeper } from "./config_keeper.ts";
import { ArbitratorDurableSchema } from "./durable.ts";
import { EFFECT_LIMIT_MS, listenAt, startParty, untilSignalled } from "./party.ts";

/** Opens the store: trusted, or to be observed with only, and why. */
async function openStore(
  config: ClusterConfig,
  store: StateFile<ArbitratorDurable>,
): Promise<{ readonly durable: ArbitratorDurable; readonly observing: string | null }> {
  const found = await store.read();
  const fresh = () => newDurable(config, crypto.randomUUID());
  switch (found.is) {
    case "read":
      return { durable: found.value, observing: null };
    case "copied":
      return { durable: found.value, observing: `the store is a copy: ${found.because}` };
    case "corrupt":
      return { durable: fresh(), observing: `the store is damaged: ${found.because}` };
    case "absent":
      return {
        durable: fresh(),
        observing: "the store is missing (a new cluster's is made by `arbitrator --init`)",
      };
  }
}

async function storeOf(self: ArbitratorConfig): Promise<StateFile<ArbitratorDurable>> {
  return stateFile({
    path: join(self.stateDir, "arbitrator.state"),
    schema: ArbitratorDurableSchema,
    machine: await machineId(),
  });
}

/**
 * Makes the store of a new cluster's arbitrator.
 * @throws MinderError if there is one already
 */
export async function initArbitrator(config: ClusterConfig, self: ArbitratorConfig): Promise<void> {
  const store = await storeOf(self);
  const found = await store.read();
  if (found.is !== "absent") {
    throw new MinderError("Cannot make a new store: there is one already", {
      where: self.stateDir,
      hint: "A lost or damaged one is re-armed with `command resume --rearm`",
    });
  }
  await store.write(newDurable(config, crypto.randomUUID()));
}

/** Runs the arbitrator until it is told to stop. Returns the exit code. */
export async function runArbitrator(
  config: ClusterConfig,
  self: ArbitratorConfig,
  keeper: ConfigKeeper | null = null,
): Promise<number> {
  const clock = systemClock();
  const log = createLog({ role: "arbitrator", node: self.id, wall: clock.wall });
  const store = await storeOf(self);
  const { durable, observing } = await openStore(config, store);
  if (observing !== null) log.error("observing", { because: observing });
  const events = openEventLog({
    ...eventLogOf(self),
    wall: clock.wall,
    onHealth(illness) {
      if (illness !== null) log.warn("event_log_ill", { because: illness });
      party.loop.tell({ on: "event_log", illness });
    },
  });
  const source = await documentsOf(config, durable, keeper);
  const core = arbitratorCore({ ...source, self: self.id, durable, observing });
  const party = startParty<ArbitratorState, ArbitratorEvent, ArbitratorEffect>({
    config: union(source.config, source.former),
    keeper,
    self: self.id,
    listen: listenAt(self, keeper),
    controlSocket: controlSocketOf(self),
    core,
    initial: core.initial(clock.now()),
    async perform(effect) {
      if (effect.do === "log") {
        log.info(effect.event, effect.fields);
        events.add(effect.event, party.loop.state().core.durable.epoch, effect.fields);
        return null;
      }
      if (effect.do === "read_history") {
        const found = await events.read(queryOf(effect.ask));
        return { on: "history", ticket: effect.ticket, result: { events: fitting(found) } };
      }
      if (effect.do === "adopt") {
        await keeper?.adopt(effect.mark);
        return null;
      }
      const keptAs = await store.write(effect.durable);
      if (keptAs !== null) log.warn("state_set_aside", { keptAs });
      return { on: "written", revision: effect.revision, error: null };
    },
    failed(effect, error) {
      if (effect.do === "write") return { on: "written", revision: effect.revision, error };
      return effect.do === "read_history"
        ? { on: "history", ticket: effect.ticket, result: { error } }
        : null;
    },
    limitMs: (effect) => (effect.do === "read_history" ? HISTORY_LIMIT_MS : EFFECT_LIMIT_MS),
    laneOf: (effect) => (effect.do === "write" || effect.do === "adopt" ? effect.do : null),
    phaseOf: (state) => ({
      phase: state.observing ?? state.diskError ?? holder(state),
      because: state.decisions[0]?.verdict.because ?? "",
    }),
    status: (state, now) => summarize(state, now),
    clock,
    log,
  });
  events.add("started", durable.epoch, { config: config.version, observing });
  keeper?.watch(log, ({ active, held }) => {
    const { former, mark } = party.loop.state().core;
    // While the rules before still count, those who are only in them are heard too.
    party.adopt(union(active.config, former), keeper.version());
    if (mark?.rules !== active.mark.rules)
      log.info("config_behind", { version: active.mark.version });
    party.loop.tell({ on: "config", config: active.config, mark: active.mark, held });
  });
  return await untilSignalled(party, log, async () => {
    events.add("stopped", party.loop.state().core.durable.epoch, {});
    await events.close(EVENTS_CLOSE_MS);
  });
}

/** A question is answered within two ack timeouts, or not at all. */
const HISTORY_LIMIT_MS = 1_500;
/** Events that wait are written within this when it stops. */
const EVENTS_CLOSE_MS = 1_000;
/** Events of one answer, in characters of their fields: it fits into a reply with the rest of it. */
const HISTORY_TEXT_MAX = 3_000_000;

function queryOf({ sinceMs, limit }: HistoryAsk): EventQuery {
  const since = sinceMs === null ? null : new Date(Math.max(0, Date.now() - sinceMs)).toISOString();
  return { since, limit };
}

/** The newest events that fit into one reply. */
function fitting(events: readonly StoredEvent[]): readonly StoredEvent[] {
  let size = 0;
  const first = events.findLastIndex((event) => {
    size += event.fields.length + 200;
    return size > HISTORY_TEXT_MAX;
  });
  return events.slice(first + 1);
}

/**
 * The document in force, and the one before it while it counts: the store names them, and has the last
 * word. @throws MinderError if one of them is neither on this host nor in the database
 */
async function documentsOf(
  config: ClusterConfig,
  durable: ArbitratorDurable,
  keeper: ConfigKeeper | null,
): Promise<Pick<ArbitratorStart, "mark" | "former" | "config">> {
  if (keeper === null) return { config };
  const noted = durable.config;
  if (noted === undefined) return { config, mark: keeper.shelf().active.mark };
  const find = async (mark: ConfigMark): Promise<MarkedConfig> => {
    const found = await keeper.find(mark);
    if (found !== null) return found;
    throw new MinderError(`Cannot find config version ${mark.version}, which is in force`, {
      where: "the local copy and minder.config",
      hint: "Bring a database server that has it within reach",
    });
  };
  const active = await find(noted.active);
  await keeper.adopt(noted.active);
  const former = noted.former === null ? null : await find(noted.former);
  return { config: active.config, mark: active.mark, former };
}

/** A config that also knows how to reach the parties of the one before. */
function union(config: ClusterConfig, former: MarkedConfig | null | undefined): ClusterConfig {
  if (former === null || former === undefined) return config;
  return { ...config, urlById: new Map([...former.config.urlById, ...config.urlById]) };
}

function holder(state: ArbitratorState): string {
  const { grant } = state.durable;
  return grant === null ? "joint" : `epoch ${grant.epoch} held by ${grant.segment}`;
}
