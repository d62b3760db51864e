/**
 * Whom the arbitrator may have evicted from the noted view before Galera gives up on them: members that
 * have ended, by the word of who saw it, or that none of those who remain hears, while commits hang at
 * each of these. What remains goes on by its own quorum, or under a grant.
 * Invariant: an eviction that leaves no joint view with quorum is a promotion, and only a grant allows
 * it: Galera lets a part whose missing members are all evicted be Primary whatever its weight.
 */
import type { DbServerConfig } from "../cluster_config.ts";
import type { Report } from "../message/dbserver.ts";
import { fingerprintMembers, isJoint } from "../wsrep_status.ts";
import { type ArbitratorState, memberOf, weightOfUuids, youngReport } from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";
import { endedUuid } from "./dbserver_evict.ts";

/** A server with its own report of the view. */
export interface Reporter {
  readonly server: DbServerConfig;
  readonly report: Report;
}

/** A part of a view that could go on without the rest. */
export interface Eviction {
  readonly part: readonly Reporter[];
  /** Members to evict, all others of the view. */
  readonly uuids: readonly string[];
  /** What remains is joint and keeps the quorum by itself. */
  readonly suffices: boolean;
}

/** What would remain if the segment's servers in this view went on; words if nothing may be evicted. */
export function evictionFor(
  state: ArbitratorState,
  view: readonly Reporter[],
  options: { readonly segment: string; readonly now: Millis },
): Eviction | string {
  const { segment, now } = options;
  const ended = endedBy(state);
  const alive = view.filter(({ report }) => !isAmong(ended, report.gcommUuid));
  const own = alive.filter(({ server }) => server.segment === segment);
  if (own.length === 0) return `no server of ${segment} is left in the view`;
  // Those whom all of the segment's servers miss: after a cut each side misses the other.
  const part = alive.filter(
    ({ server }) => !own.every((each) => misses(state, each.report, server)),
  );
  return judgePart(state, part, { ended, now });
}

/** The same for a few that all others miss; null if there is nobody. */
export function evictionOfFew(state: ArbitratorState, now: Millis): Eviction | null {
  const { noted } = state.durable;
  if (noted === null || state.config.evict !== "full") return null;
  const view = reporters(state, noted.fingerprint, now);
  // At each of those who remain they would have to hang.
  if (view.every(({ report }) => report.probe !== "hanging")) return null;
  const ended = endedBy(state);
  const part = view.filter(({ server, report }) => {
    if (isAmong(ended, report.gcommUuid)) return false;
    let missing = 0;
    for (const each of view) if (misses(state, each.report, server)) missing++;
    return 2 * missing <= noted.members.length;
  });
  if (part.length === 0 || part.length === noted.members.length) return null;
  const found = judgePart(state, part, { ended, now });
  if (typeof found === "string" || !found.suffices) return null;
  // Ended ones are evicted by the watchdogs without an order.
  return found.uuids.every((uuid) => isAmong(ended, uuid)) ? null : found;
}

/** Servers that report that view and are heard. */
function reporters(state: ArbitratorState, view: string, now: Millis): readonly Reporter[] {
  return state.config.servers.flatMap((server) => {
    const report = youngReport(state, server.id, { now, maxAgeMs: state.config.timing.suspectMs });
    return report?.fingerprint === view && report.running === "up" ? [{ server, report }] : [];
  });
}

function judgePart(
  state: ArbitratorState,
  part: readonly Reporter[],
  options: { readonly ended: readonly string[]; readonly now: Millis },
): Eviction | string {
  const { noted } = state.durable;
  const [first] = part;
  if (first === undefined || noted === null) return "nobody is left";
  if (state.former !== null) return "the config has just changed";
  if (first.report.fingerprint !== noted.fingerprint) return "it is not the noted view";
  const members = fingerprintMembers(noted.fingerprint);
  const inside = new Set(part.flatMap(({ report }) => report.gcommUuid ?? []));
  const uuids = members.filter((uuid) => !inside.has(uuid));
  if (uuids.length === 0) return "nobody is missing";
  if (inside.size !== part.length || members.length - uuids.length !== part.length) {
    return "a member of the view is not known by its UUID";
  }
  for (const { server, report } of part) {
    if (report.probe !== "hanging") return `commits do not hang at ${server.name}`;
    if (report.leaving) return `${server.name} is leaving`;
    const missed = part.find((other) => misses(state, report, other.server));
    if (missed !== undefined) return `${server.name} does not hear ${missed.server.name}`;
  }
  for (const uuid of uuids) {
    const against = againstEvicting(state, uuid, { part, ...options });
    if (against !== null) return against;
  }
  const names = new Set(part.map(({ server }) => server.name));
  const own = weightOfUuids(state, [...inside]);
  const all = weightOfUuids(state, members);
  const quorum = own !== null && all !== null && 2 * own > all;
  return { part, uuids, suffices: quorum && isJoint(state.config, names) };
}

/** Why a member must not be evicted; null if nothing is against it. */
function againstEvicting(
  state: ArbitratorState,
  uuid: string,
  options: {
    readonly part: readonly Reporter[];
    readonly ended: readonly string[];
    readonly now: Millis;
  },
): string | null {
  const { part, ended, now } = options;
  const server = state.config.servers.find(({ id }) => {
    const heard = state.heard.get(id);
    return heard !== undefined && memberOf(heard)?.uuid === uuid;
  });
  if (isAmong(ended, uuid)) return null;
  if (server === undefined) return `${uuid} has no watchdog to speak for it`;
  const hears = part.find(({ report }) => !misses(state, report, server));
  if (hears !== undefined) return `${hears.server.name} hears ${server.name}`;
  const { suspectMs } = state.config.timing;
  const report = youngReport(state, server.id, { now, maxAgeMs: suspectMs });
  if (report === null) return null;
  if (report.leaving) return `${server.name} is leaving`;
  // What hangs there may still be acknowledged there when the network heals: its door must be closed.
  return report.fenced || report.primary === "no" ? null : `${server.name} is open to clients`;
}

/** Silence is evidence only where the config says so. */
function misses(state: ArbitratorState, report: Report, server: DbServerConfig): boolean {
  return state.config.evict === "full" && report.silent.includes(server.id);
}

/** Members that have ended, by their own watchdogs' word. */
function endedBy({ heard }: ArbitratorState): readonly string[] {
  let ended: string[] | null = null;
  for (const { report } of heard.values()) {
    const uuid = endedUuid(report);
    if (uuid === null) continue;
    if (ended === null) ended = [uuid];
    else ended.push(uuid);
  }
  return ended ?? NOBODY;
}

const NOBODY: readonly string[] = [];

function isAmong(uuids: readonly string[], uuid: string | null): boolean {
  return uuid !== null && uuids.length > 0 && uuids.includes(uuid);
}
