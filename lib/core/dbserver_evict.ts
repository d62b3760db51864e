/**
 * Eviction: telling Galera at once of members that are known to be gone, so that it need not wait out
 * evs.suspect_timeout. Every survivor tells its own mariadbd, since one alone changes nothing.
 * Invariants: without an order only ended processes are evicted, and only where what remains is joint
 * and holds quorum by itself, so that an eviction never makes a Primary that Galera would not; the
 * list is emptied as soon as it has no purpose, since an old UUID in it costs the next eviction 5 s
 * and would keep out a live server (measured on MariaDB 10.11.19, Galera 26.4.23).
 */
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { holdsMajority, isJoint, type WsrepStatus } from "../wsrep_status.ts";
import type { Millis } from "./core.ts";
import type { DbServerEffect } from "./dbserver_io.ts";
import { type DbServerState, holdsNewestGrant } from "./dbserver_state.ts";
import { log, set, type Turn } from "./dbserver_turn.ts";

/** Told to all survivors it takes 0.25 s; after this the list is emptied and Galera's own detection left to. */
export const EVICT_DEADLINE_MS = 3_000;
/** A statement that failed is tried again. */
const AGAIN_MS = 50;
/** The same for the periods, which nothing waits for. */
const TUNE_AGAIN_MS = 5_000;

const NOBODY: readonly string[] = [];

/**
 * Members of the present view whose process has ended, by the word of the watchdog that saw it. A
 * report that also says that this very member runs contradicts itself, and proves nothing.
 */
export function endedMembers(
  state: DbServerState,
  status: WsrepStatus | null = state.status,
): readonly string[] {
  const { config } = state;
  if (config.evict === "off" || status === null || !status.connected) return NOBODY;
  let ended: string[] | null = null;
  for (const [id, { report }] of state.peers) {
    const uuid = endedUuid(report);
    if (uuid === null || uuid === status.gcommUuid) continue;
    const name = config.serverById.get(id)?.name;
    const member = status.members.find((one) => one.uuid === uuid);
    if (member === undefined || member.name !== name) continue;
    if (ended === null) ended = [uuid];
    else ended.push(uuid);
  }
  return ended ?? NOBODY;
}

/** The member that a report proves to have ended; null if it proves none. */
export function endedUuid(report: Report): string | null {
  const { ended } = report;
  if (ended === null) return null;
  return report.running === "up" && report.gcommUuid === ended.uuid ? null : ended.uuid;
}

/** Does this report name a member of the present view as ended, for the first time. */
export function bringsEvidence(state: DbServerState, before: Report | undefined, report: Report) {
  if (state.config.evict === "off" || report.ended === null) return false;
  if (before?.ended?.uuid === report.ended.uuid) return false;
  return state.status?.members.some((member) => member.uuid === report.ended?.uuid) ?? false;
}

/** What would be left of the view without these members, and could it stay Primary by itself. */
export function remainder(
  state: DbServerState,
  status: WsrepStatus,
  gone: readonly string[],
): { readonly joint: boolean; readonly quorum: boolean; readonly names: ReadonlySet<string> } {
  const names = new Set<string>();
  let present = 0;
  let all = 0;
  for (const member of status.members) {
    const server = state.config.serverByName.get(member.name);
    // One without a watchdog (garbd) counts to those who are gone: nobody can speak for it.
    if (server === undefined) all += 1;
    else {
      const told = server.id === state.self.id ? status : state.peers.get(server.id)?.report;
      const weight = told?.weight ?? server.weight;
      all += weight;
      if (gone.includes(member.uuid)) continue;
      present += weight;
      names.add(member.name);
    }
  }
  return { joint: isJoint(state.config, names), quorum: 2 * present > all, names };
}

/**
 * Keeps count of the servers that are not heard. Only what this process could have heard counts: one
 * that was stopped itself for a while has heard nobody.
 */
export function listen(turn: Turn): void {
  const { state, now } = turn;
  const { config, self, peers } = state;
  if (config.evict !== "full") return;
  const slept = now - state.steppedAt > SLEPT_MS;
  const since = slept ? now : state.listeningSince;
  let silent: PartyId[] | null = null;
  for (const { id } of config.servers) {
    if (id === self.id) continue;
    const heardAt = Math.max(since, peers.get(id)?.at ?? since);
    if (now - heardAt < config.timing.suspectMs) continue;
    if (silent === null) silent = [id];
    else silent.push(id);
  }
  const unheard = silent ?? NOBODY_SILENT;
  const same =
    unheard.length === state.silent.length &&
    unheard.every((id, index) => state.silent[index] === id);
  const apart = isApart(state, { since, now });
  const silentNow = same ? state.silent : unheard;
  const apartAt = apart ? now : state.apartAt;
  const promises = apart ? withGrant(state.promises) : state.promises;
  set(turn, { steppedAt: now, listeningSince: since, silent: silentNow, apart, apartAt, promises });
}

/**
 * What remains of the promises to one that has closed its door for being apart. Others may be about to evict
 * it, on its word that the door is closed, and a view that comes to life meanwhile must not open it again
 * by what was promised before: only what is promised to a report from after that does.
 */
function withGrant(promises: DbServerState["promises"]): DbServerState["promises"] {
  const kept = [...promises].filter(([, { epoch }]) => epoch !== null);
  return kept.length === promises.size ? promises : new Map(kept);
}

/**
 * Do commits hang while half of the view's weight, or more, is not heard: the others may go on without
 * this server. It closes its door before they can: acknowledgements that the network has kept arrive when
 * it heals, and would end hanging commits here as done that the others have not (measured: 4 rows in 10
 * cuts of 3 s). So it is sooner than what others count as silence, by one report.
 */
function isApart(
  state: DbServerState,
  listening: { readonly since: Millis; readonly now: Millis },
): boolean {
  const { status, probe, config, self, peers } = state;
  const { since, now } = listening;
  if (status === null || !status.primary || probe !== "hanging") return false;
  const gone = status.members.flatMap(({ uuid, name }) => {
    const server = config.serverByName.get(name);
    if (server === undefined || server.id === self.id) return [];
    const heardAt = Math.max(since, peers.get(server.id)?.at ?? since);
    return now - heardAt >= apartMs(state) ? [uuid] : [];
  });
  return gone.length > 0 && !remainder(state, status, gone).quorum;
}

function apartMs({ config }: DbServerState): Millis {
  const { suspectMs, reportIntervalMs } = config.timing;
  return Math.max(reportIntervalMs, suspectMs - reportIntervalMs);
}

/** Reports leave more often than that, so that steps are never further apart in a running process. */
const SLEPT_MS = 1_000;
const NOBODY_SILENT: readonly PartyId[] = [];

/** When the next server would count as silent. */
function silentDueAt(state: DbServerState): Millis {
  const { config, self, peers, listeningSince } = state;
  let due = Number.POSITIVE_INFINITY;
  if (config.evict !== "full") return due;
  for (const { id } of config.servers) {
    if (id === self.id || state.silent.includes(id)) continue;
    const heardAt = Math.max(listeningSince, peers.get(id)?.at ?? listeningSince);
    due = Math.min(due, heardAt + config.timing.suspectMs);
    if (state.steppedAt < heardAt + apartMs(state)) due = Math.min(due, heardAt + apartMs(state));
  }
  return due;
}

/**
 * Is this server on its way, under a grant, through the moment in which the others are out and the new
 * Primary has not formed yet.
 */
export function goesThrough(state: DbServerState): boolean {
  if (state.status === null || state.status.primary) return false;
  const { eviction, order, self } = state;
  if (eviction?.phase === "evicting") return eviction.order.grant?.segment === self.segment;
  return order !== null && order.evicted.length > 0 && order.order.segment === self.segment;
}

/** Whom this server should have in its eviction list now. */
function wanted(state: DbServerState): readonly string[] {
  const { status, evictSpent, eviction, order } = state;
  if (eviction?.phase === "evicting") return eviction.order.uuids;
  if (order !== null) return order.evicted;
  if (status === null || !status.primary || state.leaving) return NOBODY;
  // The view may have changed already: a poll that began after the evidence came has to tell.
  if (Number.isFinite(state.evidenceAt)) return NOBODY;
  const ended = endedMembers(state).filter((uuid) => !evictSpent.includes(uuid));
  if (ended.length === 0) return NOBODY;
  const { joint, quorum, names } = remainder(state, status, ended);
  if (!quorum) return NOBODY;
  const { config, self, retired } = state;
  // A solo view under this segment's own grant stays one.
  const held = holdsNewestGrant(state) && holdsMajority(config, self.segment, names, retired);
  return joint || held ? ended : NOBODY;
}

/** Brings the eviction list of the own mariadbd to what it should be. */
export function evict(turn: Turn): void {
  const { state, now } = turn;
  const { config, status, process } = state;
  if (config.evict === "off" || process.is !== "running" || status === null) return;
  if (!status.connected || state.telling !== null) return;
  tune(turn, status);
  if (now < state.evictAgainAt) return;
  let uuids = wanted(state);
  const ordered = state.eviction !== null || state.order !== null;
  if (uuids.length > 0 && !ordered && now >= state.evictSince + EVICT_DEADLINE_MS) {
    log(turn, "evict_failed", { uuids, because: "the view has not changed in time" });
    set(turn, { evictSpent: [...state.evictSpent, ...uuids] });
    uuids = NOBODY;
  }
  const { evictList } = turn.state;
  if (uuids.length === 0) {
    set(turn, { evictSince: Number.POSITIVE_INFINITY });
    if (evictList.length > 0) tell(turn, { do: "evict", uuids: [], anew: true });
    return;
  }
  if (uuids.every((uuid) => evictList.includes(uuid))) return;
  log(turn, "evicting", { uuids });
  set(turn, { evictSince: Math.min(state.evictSince, now) });
  const anew = evictList.some((uuid) => !uuids.includes(uuid));
  tell(turn, { do: "evict", uuids, anew });
}

/** Keeps Galera's periods so short that an eviction takes 0.25 s rather than 1 to 2 s. */
function tune(turn: Turn, status: WsrepStatus): void {
  const { evictPeriodMs } = turn.state.config.timing;
  const { joinRetransMs, keepaliveMs } = status;
  if (joinRetransMs === null || keepaliveMs === null || turn.now < turn.state.tuneAt) return;
  if (joinRetransMs === evictPeriodMs && keepaliveMs === evictPeriodMs) return;
  set(turn, { tuneAt: turn.now + TUNE_AGAIN_MS });
  turn.effects.push({ do: "tune", periodMs: evictPeriodMs });
}

function tell(turn: Turn, effect: Extract<DbServerEffect, { do: "evict" }>): void {
  set(turn, { telling: effect.uuids });
  turn.effects.push(effect);
}

/** The statement has ended. */
export function evictTold(
  turn: Turn,
  effect: Extract<DbServerEffect, { do: "evict" }>,
  error: string | null,
): void {
  const { now } = turn;
  if (error === null) {
    set(turn, { telling: null, evictList: effect.uuids, toldListAt: now, pollAt: now });
    return;
  }
  // How far it came is not known: the next poll tells.
  set(turn, { telling: null, toldListAt: now, evictAgainAt: now + AGAIN_MS, pollAt: now });
  log(turn, "evict_failed", { uuids: effect.uuids, because: error });
}

/** Earliest time at which eviction has something to do without being told anything. */
export function evictDueAt(state: DbServerState): Millis {
  if (state.config.evict === "off") return Number.POSITIVE_INFINITY;
  const { eviction, evictSince, order, status, telling } = state;
  const due = silentDueAt(state);
  if (eviction !== null) return Math.min(due, eviction.since + EVICT_DEADLINE_MS);
  if (order !== null || telling !== null || state.process.is !== "running") return due;
  if (status?.connected !== true) return due;
  // `evict` itself waits for the latter after a word that failed: only then can it give up.
  return Math.min(due, Math.max(evictSince + EVICT_DEADLINE_MS, state.evictAgainAt));
}
