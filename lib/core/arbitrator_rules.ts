/**
 * May this segment be given the right to be primary alone? Facts are computed once from the state,
 * then the rules are asked in order; the first that has something against it is the verdict.
 * Invariant: a grant is made only where every rule passes, so two segments never hold one at a time.
 */
import type { DbServerConfig } from "../cluster_config.ts";
import type { Verdict } from "../message/arbitrator.ts";
import type { Position, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprintMembers, holdsMajority, isJoint, majorityBeside } from "../wsrep_status.ts";
import { evictionFor } from "./arbitrator_evict.ts";
import {
  type ArbitratorState,
  activeServers,
  type Basis,
  epochsReached,
  memberOf,
  namesOf,
  type PersonOrder,
  type Stood,
  stoodBeyond,
  wasJoining,
  weightOf,
  weightOfUuids,
  youngReport,
} from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";
import { endedUuid } from "./dbserver_evict.ts";

/** The servers that would hold the right together. */
export interface Candidate {
  /**
   * form: non-Primary, needs an order; hold: Primary alone already; stall: will be, once Galera's view
   * changes; evict: stalled, needs the order to evict the rest.
   */
  readonly kind: "form" | "hold" | "stall" | "evict";
  /** Whom it evicts. */
  readonly evicts: readonly string[];
  readonly fingerprint: string;
  /** Servers of the component with their own reports of it, those of the segment and others. */
  readonly reporting: readonly { readonly server: DbServerConfig; readonly report: Report }[];
  readonly lastCommitted: number;
  readonly forkPoint: Position | null;
}

/** Everything that the rules look at, for one segment. */
export interface Facts {
  readonly segment: string;
  readonly observing: string | null;
  readonly restartWaitMs: Millis;
  readonly paused: string | null;
  readonly orderOut: string | null;
  readonly candidate: Candidate | null;
  /** Why there is no candidate. */
  readonly without: string;
  readonly counted: number;
  readonly inCandidate: number;
  readonly unsynced: readonly string[];
  /** Servers outside the candidate that may be writable, and why they cannot be excluded. */
  readonly notExcluded: readonly string[];
  readonly basis: Basis;
  readonly knowsNotedView: boolean;
  /** Who outside has rows of a Primary view that nobody has told of; null if nobody has. */
  readonly ahead: string | null;
  readonly openElsewhere: string | null;
  readonly better: string | null;
  readonly flapping: string | null;
  readonly person: PersonOrder | null;
}

/** One rule: what it demands, and what speaks against it now. */
export interface Rule {
  readonly id: string;
  readonly demands: string;
  readonly because: string;
  readonly until: string;
  /** Evidence against a promotion; null where the rule has none. */
  readonly against: (facts: Facts) => string | null;
}

export const RULES = [
  {
    id: "store.trusted",
    demands:
      "The arbitrator's store is writable, and neither lost, copied nor older than the servers",
    because: "An arbitrator that forgot a grant would give a second one",
    until: "the store is mended, or a person says `resume --rearm`",
    against: (facts) => facts.observing,
  },
  {
    id: "restart.outwaited",
    demands: "One outwait has passed since the arbitrator started",
    because: "Promises of its earlier life may still be relied on",
    until: "the outwait is over",
    against: (facts) =>
      facts.restartWaitMs > 0
        ? `${Math.ceil(facts.restartWaitMs)} ms of the outwait are left`
        : null,
  },
  {
    id: "not.paused",
    demands: "Nobody has paused automatic decisions",
    because: "A person at work must not be surprised",
    until: "a person says `resume`",
    against: (facts) => (facts.person === null ? facts.paused : null),
  },
  {
    id: "candidate.exists",
    demands: "A component of the segment's servers asks for the right",
    because: "There is nothing to decide otherwise",
    until: "servers of the segment report non-Primary, or Primary alone",
    against: (facts) => (facts.candidate === null ? facts.without : null),
  },
  {
    id: "order.answered",
    demands: "No earlier order is still on its way",
    because: "An order without an answer counts as obeyed",
    until: "it is answered, or its deadline passes",
    against: (facts) => facts.orderOut,
  },
  {
    id: "outside.excluded",
    demands: "No server outside the component can be a writable Primary",
    because: "Silence is never evidence",
    until: "each of them reports non-Primary and fenced or stopped, or its promises are outwaited",
    against: (facts) =>
      facts.notExcluded.length > 0 ? `cannot exclude ${facts.notExcluded.join("; ")}` : null,
  },
  {
    id: "segment.majority",
    demands: "More than half of the segment's servers are in the component, by their own reports",
    because: "Half vouch and over half promote: the two share a server",
    until:
      "more servers of the segment report the same view, or a person retires those that are gone",
    against: (facts) =>
      facts.inCandidate * 2 > facts.counted
        ? null
        : `${facts.inCandidate} of ${facts.counted} servers of ${facts.segment} are in the component`,
  },
  {
    id: "members.synced",
    demands: "Each was Synced in its last Primary view and has not been restarted since",
    because: "A server that was still catching up, or lost its queue, may lack commits",
    until: "a person says `make_primary --allow-data-loss`",
    against: (facts) =>
      facts.unsynced.length === 0 || facts.person?.allowDataLoss === true
        ? null
        : `not Synced in a last Primary view: ${facts.unsynced.join(", ")}`,
  },
  {
    id: "lineage.noted",
    demands:
      "The component has a server whose last Primary view is the newest one written down, and stands behind nobody who may have been Primary without it",
    because: "A newer Primary may have acknowledged commits that this one lacks",
    until: "a server of that view joins it, or a person says `make_primary --allow-data-loss`",
    against: (facts) => {
      if (facts.person?.allowDataLoss === true) return null;
      if (!facts.knowsNotedView) return "no server of the component was in the noted view";
      return facts.ahead;
    },
  },
  {
    id: "epoch.free",
    demands: "No other segment holds an open epoch",
    because: "Its holder may have acknowledged commits that this segment lacks",
    until: "a joint view closes it, or a person says `make_primary --allow-data-loss`",
    against: (facts) => (facts.person?.allowDataLoss === true ? null : facts.openElsewhere),
  },
  {
    id: "rank.best",
    demands: "No other candidate has more commits, or as many and a better rank",
    because: "With both sides in reach the longer one loses nothing",
    until: "the other candidate is promoted or falls out",
    against: (facts) => facts.better,
  },
  {
    id: "flapping.no",
    demands:
      "No second automatic change of segment within the window, unless the primary segment lacks commits, or is in the component with no more than half of its servers and the rest is down or silent",
    because:
      "Each change costs the clients their connections, and a cause that returns must be seen",
    until: "the window is over, or a person says `make_primary`",
    against: (facts) => (facts.person === null ? facts.flapping : null),
  },
] as const satisfies readonly Rule[];

/** Verdict where every rule passes. */
export const PROMOTE = "promote";

/** The first rule with something against it; PROMOTE if there is none. */
export function judge(facts: Facts): Verdict {
  for (const rule of RULES as readonly Rule[]) {
    const against = rule.against(facts);
    if (against !== null) {
      return { rule: rule.id, because: clip(against), wouldChange: rule.until };
    }
  }
  const component = facts.candidate?.reporting.map((each) => each.server.name).join(", ") ?? "";
  return {
    rule: PROMOTE,
    because: `${facts.segment} may be primary alone with ${component} (${facts.basis})`,
    wouldChange: "its servers leave the component, or a joint view closes the epoch",
  };
}

/** Words are bounded on the wire. */
export function clip(words: string): string {
  return words.length <= 1000 ? words : `${words.slice(0, 999).toWellFormed()}…`;
}

/** Computes the facts for one segment. */
export function factsOf(state: ArbitratorState, segment: string, now: Millis): Facts {
  const found = findCandidate(state, segment, now);
  const person =
    state.person?.segment === segment && now < state.person.until ? state.person : null;
  const forced = person?.force === true;
  const grant = state.durable.grant;
  const openElsewhere =
    grant !== null && grant.segment !== segment
      ? `${grant.segment} holds epoch ${grant.epoch}`
      : null;
  if (typeof found === "string") {
    // In calm, at every report: what only a candidate is judged by is not computed.
    return {
      ...NO_CANDIDATE,
      segment,
      observing: state.observing ?? state.diskError,
      restartWaitMs: Math.max(0, state.armedAt - now),
      paused: state.durable.paused === null ? null : `paused: ${state.durable.paused}`,
      orderOut: orderOut(state, now),
      without: found,
      basis: forced ? "forced" : "confirmed",
      openElsewhere,
      person,
    };
  }
  const candidate = found;
  const outside = exclude(state, candidate, { now, forced });
  const active = new Set(activeServers(state, segment));
  return {
    segment,
    observing: state.observing ?? state.diskError,
    restartWaitMs: Math.max(0, state.armedAt - now),
    paused: state.durable.paused === null ? null : `paused: ${state.durable.paused}`,
    orderOut: orderOut(state, now),
    candidate,
    without: "",
    counted: countedOf(state, segment, { forced, now }).length,
    inCandidate: candidate.reporting.filter((each) => active.has(each.server)).length,
    unsynced: candidate.reporting
      .filter((each) => each.report.lastPrimary?.synced !== true)
      .map((each) => each.server.name),
    notExcluded: outside.notExcluded,
    basis: forced ? "forced" : outside.basis,
    knowsNotedView: knowsNewest(state, candidate, active),
    ahead: aheadOutside(state, candidate),
    openElsewhere,
    better: person?.allowDataLoss === true ? null : betterRival(state, candidate, { segment, now }),
    flapping: flapping(state, candidate, { segment, now }),
    person,
  };
}

const NO_CANDIDATE = {
  candidate: null,
  counted: 0,
  inCandidate: 0,
  unsynced: [],
  notExcluded: [],
  knowsNotedView: false,
  ahead: null,
  better: null,
  flapping: null,
} as const satisfies Partial<Facts>;

/**
 * Has the candidate a server of the noted view; with none noted, the most advanced of all servers. Who
 * may have rows beyond a fork point was in that view with other rows, and knows nothing.
 */
function knowsNewest(
  state: ArbitratorState,
  candidate: Candidate,
  active: ReadonlySet<DbServerConfig>,
): boolean {
  const { noted, retired } = state.durable;
  const inLine = candidate.reporting.filter(({ report }) => !stoodBeyond(state, report));
  if (!inLine.some(({ server }) => active.has(server))) return false;
  if (noted !== null) {
    return inLine.some((each) => each.report.lastPrimary?.fingerprint === noted.fingerprint);
  }
  // A store that lost its memory: only the servers' own memories are left, all of them.
  const inside = candidate.reporting.map(({ server, report }) => standing(server.id, report));
  const ids = new Set(inside.map(({ id }) => id));
  const outside = state.config.servers.filter(({ id }) => !ids.has(id) && !retired.includes(id));
  const heard = outside.flatMap(({ id }) => {
    const report = state.heard.get(id)?.report;
    return report === undefined ? [] : [standing(id, report)];
  });
  if (heard.length < outside.length) return false;
  const all = [...inside, ...heard];
  const reached = epochsReached(state, all);
  let most: readonly [number, number] = [0, -1];
  return all.every(({ id, position }, index) => {
    const far = [reached[index] ?? 0, position?.seqno ?? -1] as const;
    const further = later(most, far) !== most;
    // Those of the candidate come first.
    if (further && ids.has(id)) most = far;
    return !further || ids.has(id);
  });
}

/**
 * Who outside stands beyond the candidate, where those outside could have been Primary together after it had
 * left them: it has ended since, or lost the others, and nobody has told of that view. Where they could
 * not, what they have more is what was in flight when the view broke.
 */
function aheadOutside(state: ArbitratorState, candidate: Candidate): string | null {
  const { forkPoint, kind, lastCommitted, reporting } = candidate;
  if (kind !== "form" || forkPoint === null) return null;
  const inside = new Set(reporting.map(({ server }) => server.id));
  const outside = state.config.servers.filter(({ id }) => !inside.has(id));
  for (const { id, name } of outside) {
    const heard = state.heard.get(id);
    if (heard === undefined || heard.at < state.notedAt) continue;
    const { position } = standing(id, heard.report);
    // One that has no rows, as after a full transfer that was cut short, says so; another is still reading them.
    const reads = heard.report.reading === true && state.durable.noted?.members.includes(name);
    const isBehind = position?.uuid !== forkPoint.uuid || position.seqno <= lastCommitted;
    if (isBehind && reads !== true) continue;
    if (quorumOf(state, candidate, outside) === null) return null;
    const stands = reads === true ? "has not said where it stands" : `stands at ${position?.seqno}`;
    return `${name} ${stands}, the component at ${lastCommitted}, and those outside could have been Primary together since`;
  }
  return null;
}

/** How far a server has come, running or not. */
function standing(id: PartyId, report: Report): Stood & { readonly id: PartyId } {
  const { position, stateUuid: uuid, lastCommitted: seqno } = report;
  const stopped = uuid === null || (position !== null && position.seqno >= seqno);
  return { id, report, position: stopped ? position : { uuid, seqno } };
}

function later(
  a: readonly [number, number],
  b: readonly [number, number],
): readonly [number, number] {
  return b[0] > a[0] || (b[0] === a[0] && b[1] > a[1]) ? b : a;
}

/** How old a report may be and still describe the present. */
function youngMs(state: ArbitratorState): Millis {
  return state.config.timing.suspectMs;
}

function orderOut(state: ArbitratorState, now: Millis): string | null {
  if (now >= state.orderPauseUntil) return null;
  return `${Math.ceil(state.orderPauseUntil - now)} ms are left for the last order`;
}

/** The servers of a segment of which a component needs more than half. */
function countedOf(
  state: ArbitratorState,
  segment: string,
  { forced, now }: { readonly forced: boolean; readonly now: Millis },
): readonly DbServerConfig[] {
  return state.config.servers.filter(
    (server) =>
      server.segment === segment &&
      !hasNoSay(state, server, forced) &&
      !stoppedBeforeNoted(state, server, now),
  );
}

/**
 * Is the server down, and was it when the noted view stood, without having been told to start since. By its own
 * word of now: a silent one may have joined by that of peers. A component that is promoted thanks to this
 * serves no sooner than such servers have joined it, for which they have to speak.
 */
function stoppedBeforeNoted(state: ArbitratorState, server: DbServerConfig, now: Millis): boolean {
  const { noted } = state.durable;
  const report = youngReport(state, server.id, { now, maxAgeMs: youngMs(state) });
  if (report?.running !== "down" || noted === null) return false;
  return !noted.members.includes(server.name) && !wasJoining(state, server.id);
}

/**
 * Is the server retired, and certainly in no view that the others of its segment could be missing from:
 * it vouches for others as long as it runs in the noted view, whatever a person has said of it.
 */
function hasNoSay(state: ArbitratorState, server: DbServerConfig, forced: boolean): boolean {
  const { noted, retired } = state.durable;
  if (!retired.includes(server.id)) return false;
  if (forced || noted === null || !noted.members.includes(server.name)) return true;
  const heard = state.heard.get(server.id);
  return heard?.report.running === "down" && heard.at >= state.notedAt;
}

/**
 * The largest component of the segment's servers that lacks a right: non-Primary, Primary alone, or
 * stalled in a joint view that it will outlive. A string says why there is none.
 */
export function findCandidate(
  state: ArbitratorState,
  segment: string,
  now: Millis,
): Candidate | string {
  if (isCalm(state, now)) return `${segment} is in a joint view`;
  const views: { server: DbServerConfig; report: Report }[][] = [];
  const maxAgeMs = youngMs(state);
  for (const server of state.config.servers) {
    const report = youngReport(state, server.id, { now, maxAgeMs });
    if (report === null || report.running !== "up" || report.fingerprint === null) continue;
    const { fingerprint } = report;
    const view = views.find((each) => each[0]?.report.fingerprint === fingerprint);
    if (view === undefined) views.push([{ server, report }]);
    else view.push({ server, report });
  }
  let best: { server: DbServerConfig; report: Report }[] = [];
  let most = 0;
  for (const view of views) {
    const count = ofSegment(view, segment);
    if (count <= most) continue;
    best = view;
    most = count;
  }
  const first = best[0];
  if (first === undefined) {
    return `no server of ${segment} reports a view`;
  }
  const own = best.filter((each) => each.server.segment === segment);
  const names = namesOf(first.report);
  const host = hostOf(state, segment, names);
  if (host !== null)
    return `the few of ${segment} are beside the majority of ${host}, whose component it is`;
  if (first.report.primary !== "yes") return toCandidate("form", best);
  const grant = state.durable.grant;
  if (!isJoint(state.config, names)) {
    if (grant?.segment === segment) {
      // Another epoch for the same segment would give it nothing that it does not have.
      return holdsMajority(state.config, segment, names)
        ? `${segment} serves under epoch ${grant.epoch}`
        : `${segment} holds epoch ${grant.epoch} with less than half of its servers`;
    }
    return toCandidate("hold", best);
  }
  if (grant?.segment === segment) return `${segment} already holds epoch ${grant.epoch}`;
  if (state.config.evict !== "off") {
    const found = evictionFor(state, best, { segment, now });
    if (typeof found !== "string" && !found.suffices) {
      return { ...toCandidate("evict", found.part), evicts: found.uuids };
    }
  }
  const stalled = own.filter((each) => each.report.probe === "hanging");
  if (stalled.length < own.length) return inJointView(state, segment, first.report);
  const ownUuids = new Set(own.flatMap((each) => each.report.gcommUuid ?? []));
  const ownWeight = weightOf(own.map((each) => each.report));
  const others = fingerprintMembers(first.report.fingerprint ?? "").filter(
    (uuid) => !ownUuids.has(uuid),
  );
  const otherWeight = weightOfUuids(state, others);
  if (ownWeight === null || otherWeight === null || ownWeight <= otherWeight) {
    return `commits of ${segment} hang, and Galera will not let it stay Primary`;
  }
  return toCandidate("stall", own);
}

/**
 * That a segment is in a joint view. One of an older lineage stands closed, and ends itself where somebody has
 * the newer rows: if nobody has them any more (measured: two Primaries met, and Galera marked the data of the
 * newer one unsafe), a person has to say that they are lost.
 */
function inJointView({ durable }: ArbitratorState, segment: string, report: Report): string {
  const { noted } = durable;
  if (noted === null || report.epochServed >= noted.epochServed)
    return `${segment} is in a joint view`;
  const served = `epoch ${noted.epochServed}, which ${noted.members.join(", ")} served under`;
  return `${segment} is in a joint view older than ${served}; if those have lost their rows, retire them, stop who is in this view, and force one side`;
}

/**
 * The segment beside whose majority a few of this one are in a lesser view, null if there is none: they could not
 * serve by a grant, and it is for the others to hold one.
 */
function hostOf(
  state: ArbitratorState,
  segment: string,
  names: ReadonlySet<string>,
): string | null {
  const { config, durable } = state;
  const { retired } = durable;
  if (isJoint(config, names) || holdsMajority(config, segment, names, retired)) return null;
  return majorityBeside(config, segment, names, retired);
}

/**
 * Can only the choice after a full outage help: nobody asks for the right, or too few do for a majority. While
 * the rules before still count, it may be theirs that is lacking.
 */
export function isForOutage(
  { former }: ArbitratorState,
  judged: { readonly facts: Facts; readonly verdict: Verdict },
): boolean {
  const { facts, verdict } = judged;
  const short = verdict.rule === "segment.majority" && former === null;
  return facts.candidate === null || short;
}

/** Is every server in one joint Primary view in which commits flow: then no segment asks for anything. */
export function isCalm(state: ArbitratorState, now: Millis): boolean {
  if (state.durable.grant !== null) return false;
  const young = { now, maxAgeMs: youngMs(state) };
  let last: Report | null = null;
  for (const { id } of state.config.servers) {
    const report = youngReport(state, id, young);
    if (report === null || report.running !== "up" || report.primary !== "yes") return false;
    if (report.probe === "hanging" || report.fingerprint === null) return false;
    if (last !== null && report.fingerprint !== last.fingerprint) return false;
    last = report;
  }
  return last !== null && isJoint(state.config, namesOf(last));
}

function ofSegment(view: readonly { server: DbServerConfig }[], segment: string): number {
  let count = 0;
  for (const each of view) if (each.server.segment === segment) count++;
  return count;
}

function toCandidate(
  kind: Candidate["kind"],
  reporting: readonly { server: DbServerConfig; report: Report }[],
): Candidate {
  const longest = reporting.reduce((best, each) =>
    each.report.lastCommitted > best.report.lastCommitted ? each : best,
  ).report;
  return {
    kind,
    evicts: [],
    fingerprint: longest.fingerprint ?? "",
    reporting,
    lastCommitted: longest.lastCommitted,
    forkPoint:
      longest.stateUuid === null ? null : { uuid: longest.stateUuid, seqno: longest.lastCommitted },
  };
}

/** Are the others in the very view that the candidate reports. */
function staysBehind({ kind }: Candidate): boolean {
  return kind === "stall" || kind === "evict";
}

interface Outside {
  readonly notExcluded: readonly string[];
  readonly basis: Basis;
}

const NOTHING_OUTSIDE: Outside = { notExcluded: [], basis: "confirmed" };

/** Looks at every server outside the candidate: can it be a writable Primary? */
function exclude(
  state: ArbitratorState,
  candidate: Candidate,
  options: { readonly now: Millis; readonly forced: boolean },
): Outside {
  const { now, forced } = options;
  const inside = new Set(fingerprintMembers(candidate.fingerprint));
  const reporting = new Set(candidate.reporting.map((each) => each.server.id));
  const outside = state.config.servers.filter((server) => {
    if (reporting.has(server.id) || hasNoSay(state, server, forced)) return false;
    const uuid = state.heard.get(server.id)?.report.gcommUuid;
    return staysBehind(candidate) || uuid === null || uuid === undefined || !inside.has(uuid);
  });
  // First, since it needs no timer: a server that has vouched obeys it at once.
  const arithmetic = againstArithmetic(state, candidate, { outside, now });
  if (arithmetic === null) return { notExcluded: [], basis: "arithmetic" };
  const doubts = outside.flatMap((server) => {
    const doubt = doubtAbout(state, server, { now, candidate });
    return doubt === null ? [] : [{ server, doubt }];
  });
  if (doubts.length === 0) return NOTHING_OUTSIDE;
  if (candidate.kind === "evict") {
    // An outwait is evidence against clients, not against Galera: the rest could stay Primary.
    return {
      notExcluded: doubts.map(({ doubt }) => `${doubt} (${arithmetic})`),
      basis: "outwaited",
    };
  }
  const open = doubts.map(({ server }) => server).filter((one) => !saysFenced(state, one, now));
  // A closed door keeps clients out, and its server's weight in: it may keep an open one Primary.
  const doubted = doubts.map(({ server }) => server);
  const helpers = outside.filter((one) => mayHaveHelped(state, one, open));
  const together = open.length === 0 ? null : quorumOf(state, candidate, [...doubted, ...helpers]);
  const held = candidate.reporting.find(({ report }) => report.held === true)?.server ?? null;
  const late = doubts.flatMap(({ server, doubt }) => {
    // Who forces gives their word that whoever has long been silent is stopped.
    if (forced && longSilent(state, server, now)) return [];
    const wait = outwaitLeft(state, server, {
      inside: reporting,
      now,
      together: open.includes(server) ? together : null,
      held: state.heard.get(server.id)?.report.held === true ? server : held,
    });
    return wait === null ? [] : [`${doubt} (${wait}; ${arithmetic})`];
  });
  return { notExcluded: late, basis: "outwaited" };
}

/**
 * May a server that is down have kept one of these Primary until it ended, by its weight: what was
 * acknowledged there meanwhile the candidate lacks. Not where each has been heard after its end.
 */
function mayHaveHelped(
  { heard }: ArbitratorState,
  server: DbServerConfig,
  open: readonly DbServerConfig[],
): boolean {
  const downSince = heard.get(server.id)?.downSince;
  if (downSince === undefined) return false;
  return open.some(({ id }) => (heard.get(id)?.at ?? Number.NEGATIVE_INFINITY) < downSince);
}

/** Null if the server's own word says that it is not writable. */
function doubtAbout(
  state: ArbitratorState,
  server: DbServerConfig,
  { now, candidate }: { readonly now: Millis; readonly candidate: Candidate },
): string | null {
  const heard = state.heard.get(server.id);
  if (heard === undefined) return `${server.name}, never heard`;
  const { report } = heard;
  const ago = Math.round(now - heard.at);
  // A word from before the noted view stood says nothing about what happened in it.
  const current =
    state.durable.noted?.members.includes(server.name) !== true || heard.at >= state.notedAt;
  if (!current) return `${server.name}, last heard before the noted view`;
  if (report.running === "down") return null;
  if (report.running === "up" && report.primary === "no" && report.fenced) {
    // A view that broke and healed has the same fingerprint: those of the candidate were in it again since.
    const since = candidate.reporting.find(
      (each) => (state.heard.get(each.server.id)?.primaryAt ?? 0) > heard.at,
    );
    return since === undefined
      ? null
      : `${server.name}, not Primary ${ago} ms ago, but ${since.server.name} has been since`;
  }
  // Its process of the noted view has ended; the next one is fenced from its first moment.
  const ended = endedUuid(report);
  const left =
    ended !== null && fingerprintMembers(state.durable.noted?.fingerprint ?? "").includes(ended);
  if (left && report.running === "unknown" && report.fenced) return null;
  if (report.primary === "yes") return `${server.name}, Primary by its report ${ago} ms ago`;
  return `${server.name}, ${report.fenced ? "of unknown state" : "not fenced"} ${ago} ms ago`;
}

/** Has nothing been heard of the server for an outwait, and no promise to it been left. */
export function longSilent(state: ArbitratorState, server: DbServerConfig, now: Millis): boolean {
  const heard = state.heard.get(server.id);
  const silentMs = heard === undefined ? Number.POSITIVE_INFINITY : now - heard.at;
  return silentMs > state.config.outwaitMs && promiseLeftMs(state, server, now) <= 0;
}

/** How long the last promise to the server has to be outwaited yet. */
function promiseLeftMs(state: ArbitratorState, server: DbServerConfig, now: Millis): Millis {
  const promised = state.promisedAt.get(server.id);
  if (promised === undefined) return 0;
  const { fenceMs, marginMs } = state.config.timing;
  return promised + state.longestPromiseMs + fenceMs + marginMs - now;
}

/** Null if every promise to the server has certainly expired and been acted on. */
function outwaitLeft(
  state: ArbitratorState,
  server: DbServerConfig,
  options: {
    readonly inside: ReadonlySet<PartyId>;
    readonly now: Millis;
    readonly together: string | null;
    readonly held: DbServerConfig | null;
  },
): string | null {
  const { inside, now, together, held } = options;
  const left = promiseLeftMs(state, server, now);
  if (left > 0) return `${Math.ceil(left)} ms of its outwait are left`;
  const guarded = state.heard.get(server.id)?.report.guard === true;
  const stays = isHeavy(state, server.segment, inside) ? "its segment is heavy" : together;
  if (stays !== null && !guarded) return `${stays} and it has no guard: an outwait is no evidence`;
  // Its right may have lasted until Galera's view changed, when what waited is acknowledged.
  if (stays !== null && held !== null)
    return `${stays} and commits were held at ${held.name}: an outwait is no evidence`;
  // A word younger than the promise that contradicts it is stronger than the clock.
  const young = youngReport(state, server.id, { now, maxAgeMs: youngMs(state) });
  if (young?.primary === "yes" && !young.fenced) return "it says that it is Primary and open";
  // Fenced but Primary alone, it would meet the other Primary when the network heals.
  if (young?.primary === "yes" && young.fingerprint !== state.durable.noted?.fingerprint) {
    return "it says that it is Primary in another view";
  }
  return null;
}

/**
 * Could the segment's servers of the noted view, those outside the candidate, stay Primary without an
 * order. Another one's server that has gone since does not count against them: if it left cleanly it took
 * its weight along.
 */
function isHeavy(state: ArbitratorState, segment: string, inside: ReadonlySet<PartyId>): boolean {
  const { noted } = state.durable;
  let own = 0;
  let all = 0;
  for (const server of state.config.servers) {
    if (noted !== null && !noted.members.includes(server.name)) continue;
    const heard = state.heard.get(server.id);
    const weight = heard?.report.weight ?? server.weight;
    const mine = server.segment === segment && !inside.has(server.id);
    if (!mine && heard !== undefined && hasGone(state, heard.report)) continue;
    all += weight;
    if (mine) own += weight;
  }
  return own * 2 > all;
}

/** Is the process that was in the noted view, by its watchdog's word, gone or about to go. */
function hasGone({ durable }: ArbitratorState, report: Report): boolean {
  const { running, leaving, gcommUuid } = report;
  if (running === "down" || leaving) return true;
  const members = durable.noted === null ? null : fingerprintMembers(durable.noted.fingerprint);
  return gcommUuid !== null && members?.includes(gcommUuid) === false;
}

/** Does its watchdog say now that the door is closed: it stays so whatever becomes of the watchdog. */
function saysFenced(state: ArbitratorState, server: DbServerConfig, now: Millis): boolean {
  return youngReport(state, server.id, { now, maxAgeMs: youngMs(state) })?.fenced === true;
}

/**
 * Whether these could be Primary together, whatever their segments: by Galera's quorum over the noted
 * view, or over a later one that a candidate's server was in and the arbitrator has not heard of. An open
 * one whose watchdog is dead, or has not woken yet, would stay open there, which no clock ends. In words;
 * null if they cannot.
 */
function quorumOf(
  state: ArbitratorState,
  candidate: Candidate,
  doubted: readonly DbServerConfig[],
): string | null {
  const { noted } = state.durable;
  if (noted === null) return null;
  const names = new Set(doubted.map((server) => server.name));
  let present = 0;
  let left = 0;
  let all = 0;
  for (const server of state.config.servers) {
    if (!noted.members.includes(server.name)) continue;
    const heard = state.heard.get(server.id);
    const weight = heard?.report.weight ?? server.weight;
    all += weight;
    if (names.has(server.name)) present += weight;
    // It may have left gracefully, which lowers what the others need.
    else if (heard !== undefined && hasGone(state, heard.report)) left += weight;
  }
  const words = "those outside could be Primary together";
  const hidden = Math.max(0, unheardWeight(state, candidate));
  if (2 * (present + silentWeight(state, candidate)) + left + hidden > all) return words;
  const known = new Map(
    [...state.heard].flatMap(([id, heard]) => {
      const member = memberOf(heard);
      return member === undefined ? [] : [[member.uuid, { id, weight: member.weight }] as const];
    }),
  );
  const ids = new Set(doubted.map((server) => server.id));
  for (const { server, report } of candidate.reporting) {
    const view = report.lastPrimary?.fingerprint;
    if (view === undefined || view === noted.fingerprint) continue;
    // Each newer Primary view has consumed a seqno: that one was older than the noted one.
    if (report.lastCommitted < noted.seqno) continue;
    present = 0;
    all = 0;
    for (const uuid of fingerprintMembers(view)) {
      const member = known.get(uuid);
      if (member === undefined) return `${server.name} was in a view whose members are not known`;
      all += member.weight;
      if (ids.has(member.id)) present += member.weight;
    }
    if (2 * present > all) return words;
  }
  return null;
}

/**
 * By how much the noted view weighs more, by the words of those whose last Primary view it is, than has been heard of
 * its members: the largest difference, and 0 where there is none or it cannot be told.
 */
function unheardWeight(state: ArbitratorState, { reporting }: Candidate): number {
  const print = state.durable.noted?.fingerprint;
  const known = print === undefined ? null : weightOfUuids(state, fingerprintMembers(print));
  if (known === null) return 0;
  let most = 0;
  for (const { report } of reporting) {
    const { lastPrimary } = report;
    const weight = lastPrimary?.fingerprint === print ? (lastPrimary?.weight ?? known) : known;
    if (Math.abs(weight - known) > Math.abs(most)) most = weight - known;
  }
  return most;
}

/**
 * Weight of the component's members of the noted view that do not report: nobody says that these have come straight
 * from it, and have not kept others Primary in a newer one.
 */
function silentWeight({ config, durable, heard }: ArbitratorState, candidate: Candidate): number {
  if (candidate.kind !== "form") return 0;
  const inside = fingerprintMembers(candidate.fingerprint);
  const reporting = new Set(candidate.reporting.map(({ server }) => server.id));
  let sum = 0;
  for (const server of config.servers) {
    const report = heard.get(server.id)?.report;
    const silent = !reporting.has(server.id) && inside.includes(report?.gcommUuid ?? "");
    if (silent && durable.noted?.members.includes(server.name) === true)
      sum += report?.weight ?? server.weight;
  }
  return sum;
}

/**
 * Null if Galera's own quorum keeps everything outside from being Primary without an order; else
 * the condition that fails. Source: galera gcomm have_quorum, 2·present + left > last Primary view.
 */
function againstArithmetic(
  state: ArbitratorState,
  candidate: Candidate,
  options: { readonly outside: readonly DbServerConfig[]; readonly now: Millis },
): string | null {
  const { noted } = state.durable;
  const { outside, now } = options;
  if (noted === null) return "no Primary view is noted";
  for (const server of outside) {
    const report = youngReport(state, server.id, { now, maxAgeMs: youngMs(state) });
    if (report === null) continue;
    if (report.leaving) return `${server.name} is leaving`;
    if (report.primary === "yes" && report.fingerprint !== noted.fingerprint) {
      return `${server.name} is Primary in another view`;
    }
  }
  for (const { server, report } of candidate.reporting) {
    if (report.lastPrimary?.fingerprint !== noted.fingerprint) {
      return `${server.name} did not come straight from the noted view`;
    }
    if (report.leaving) return `${server.name} is leaving`;
  }
  const unheard = unheardWeight(state, candidate);
  if (unheard !== 0) return `the noted view weighs ${unheard} more than has been heard`;
  for (const server of state.config.servers) {
    const changed = state.heard.get(server.id)?.weightChangedAt ?? Number.NEGATIVE_INFINITY;
    if (now - changed < state.config.outwaitMs)
      return `the weight of ${server.name} has just changed`;
  }
  // Already Primary with the noted view as its own: Galera's quorum has excluded all others.
  if (candidate.kind === "hold") return null;
  const members = fingerprintMembers(noted.fingerprint);
  // Who does not report may have come from a newer view that it kept Primary.
  const inside = new Set(candidate.reporting.flatMap((each) => each.report.gcommUuid ?? []));
  const weightInside = weightOfUuids(
    state,
    members.filter((uuid) => inside.has(uuid)),
  );
  const weightOutside = weightOfUuids(
    state,
    members.filter((uuid) => !inside.has(uuid)),
  );
  if (weightInside === null || weightOutside === null) return "a weight is unknown";
  return weightOutside <= weightInside
    ? null
    : `weight outside ${weightOutside} exceeds ${weightInside} inside`;
}

/** The other segments whose servers could be promoted once their view has changed, with what they hold. */
function rivals(
  state: ArbitratorState,
  candidate: Candidate,
  options: { readonly segment: string; readonly now: Millis },
): readonly { readonly segment: string; readonly lastCommitted: number }[] {
  const { segment, now } = options;
  const inView = new Set(
    staysBehind(candidate)
      ? candidate.reporting.flatMap((each) => each.report.gcommUuid ?? [])
      : fingerprintMembers(candidate.fingerprint),
  );
  return state.config.segments.flatMap((other) => {
    if (other.name === segment) return [];
    const ready = activeServers(state, other.name).flatMap((server) => {
      const report = youngReport(state, server.id, { now, maxAgeMs: youngMs(state) });
      if (report === null || report.running !== "up" || report.lastPrimary?.synced !== true)
        return [];
      if (report.gcommUuid === null || inView.has(report.gcommUuid)) return [];
      return report.lastPrimary.fingerprint === state.durable.noted?.fingerprint ? [report] : [];
    });
    if (ready.length * 2 <= activeServers(state, other.name).length) return [];
    return [
      {
        segment: other.name,
        lastCommitted: Math.max(...ready.map((report) => report.lastCommitted)),
      },
    ];
  });
}

/** A rival that should be preferred, in words; null if there is none. */
function betterRival(
  state: ArbitratorState,
  candidate: Candidate,
  options: { readonly segment: string; readonly now: Millis },
): string | null {
  // Whoever holds the epoch, or stays Primary by Galera's own quorum, has no rival.
  if (candidate.kind === "hold" || candidate.kind === "stall") return null;
  if (state.durable.grant?.segment === options.segment) return null;
  for (const rival of rivals(state, candidate, options)) {
    const more = rival.lastCommitted - candidate.lastCommitted;
    if (more > 0) return `${rival.segment} has ${more} more commits`;
    if (more === 0 && rival.segment === state.durable.primarySegment) {
      return `${rival.segment} has as many commits and is the primary segment`;
    }
  }
  return null;
}

/**
 * Is the primary segment in this component, which is joint and not Primary, with no more than half of its servers,
 * and the rest of it not about to come: down by its own word of now, or silent for long. It cannot be promoted then, and
 * whoever else is has parted from nobody.
 */
function primaryIsShort(state: ArbitratorState, candidate: Candidate, now: Millis): boolean {
  const { config, durable } = state;
  if (candidate.kind !== "form") return false;
  if (!candidate.reporting.some(({ report }) => isJoint(config, namesOf(report)))) return false;
  const own = countedOf(state, durable.primarySegment, { forced: false, now });
  const reporting = new Set(candidate.reporting.map(({ server }) => server));
  if (2 * own.filter((server) => reporting.has(server)).length > own.length) return false;
  const maxAgeMs = youngMs(state);
  const isThereOrGone = (server: DbServerConfig) =>
    reporting.has(server) ||
    longSilent(state, server, now) ||
    youngReport(state, server.id, { now, maxAgeMs })?.running === "down";
  return own.every(isThereOrGone);
}

/** Why a change of segment would be one too many; null if it would not. */
function flapping(
  state: ArbitratorState,
  candidate: Candidate | null,
  options: { readonly segment: string; readonly now: Millis },
): string | null {
  const { segment, now } = options;
  if (segment === state.durable.primarySegment || now >= state.windowUntil) return null;
  if (candidate !== null && primaryIsShort(state, candidate, now)) return null;
  // Where the present primary segment is in reach and lacks commits, staying would lose them.
  const shorter =
    candidate !== null &&
    rivals(state, candidate, options).some(
      (rival) =>
        rival.segment === state.durable.primarySegment &&
        rival.lastCommitted < candidate.lastCommitted,
    );
  if (shorter) return null;
  const left = Math.ceil((state.windowUntil - now) / 1000);
  return `an automatic change of segment was too recent: ${left} s of its window are left`;
}
