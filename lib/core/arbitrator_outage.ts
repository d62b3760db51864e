/**
 * Starting servers: what a stopped one may do, and after a full outage which one begins.
 * Invariant: a bootstrap is a new epoch, given only when every server of the noted view, or of a newer
 * one, has said where it stands, all on one lineage, and the most advanced is chosen, retired or not.
 */
import type { DbServerConfig } from "../cluster_config.ts";
import type { Verdict } from "../message/arbitrator.ts";
import type { Ack, Position, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprintMembers } from "../wsrep_status.ts";
import { longSilent } from "./arbitrator_rules.ts";
import {
  type ArbitratorState,
  epochCertain,
  epochsReached,
  isBeyond,
  JOIN_MS,
  namesOf,
  sinceOf,
  stoodBeyond,
  wasJoining,
  youngReport,
} from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";

type StartVerdict = NonNullable<Ack["arbitrator"]>["start"];

/** Does any server say that it is Primary. */
export function somebodyPrimary(state: ArbitratorState, now: Millis): boolean {
  return state.config.servers.some((server) => {
    const report = youngReport(state, server.id, { now, maxAgeMs: state.config.timing.suspectMs });
    return report?.primary === "yes";
  });
}

/**
 * May the server have rows beyond a fork point that came after the epoch it last served under: it
 * has, it cannot say where it stands, or a fork point since then is no longer kept.
 */
export function beyondFork(state: ArbitratorState, report: Report): boolean {
  return isBeyond(state, report.epochServed, report.position);
}

/**
 * Is there a Primary view without this stopped server: one that was formed after its end. The others
 * may still be stalled in the view that it was in, and where that ends in a promotion the fork point
 * is not known yet: what it may have beyond it would go unnoticed, by Galera too. A view of an older
 * lineage, which stayed Primary without a grant, is none: what this server has of a newer epoch would end
 * with its joining that.
 */
function goneOnWithout(
  state: ArbitratorState,
  stopped: { readonly name: string; readonly report: Report },
  now: Millis,
): boolean {
  const { name, report } = stopped;
  const epoch = epochCertain(state, { report, position: report.position });
  return state.config.servers.some((server) => {
    const maxAgeMs = state.config.timing.suspectMs;
    const other = youngReport(state, server.id, { now, maxAgeMs });
    if (other?.primary !== "yes" || namesOf(other).has(name)) return false;
    return other.epochServed >= epoch || isOfHolder(state, { server, report: other, epoch });
  });
}

/**
 * Do servers say that they are Primary in views without a common member: one of them ends itself soon, as it
 * has no grant. Two Primaries do not notice each other, but a third server that meets both makes them
 * collide, and it may be the one with the newer rows that has to go (measured).
 */
function twoPrimaries(state: ArbitratorState, now: Millis): boolean {
  const maxAgeMs = state.config.timing.suspectMs;
  const views = new Map<string, ReadonlySet<string>>();
  for (const { id } of state.config.servers) {
    const report = youngReport(state, id, { now, maxAgeMs });
    if (report?.primary === "yes" && report.fingerprint !== null)
      views.set(report.fingerprint, namesOf(report));
  }
  const all = [...views.values()];
  return all.some((one) => all.some((other) => one.isDisjointFrom(other)));
}

/** Is it a server that the open epoch was granted with, in whose view all of that epoch's rows are. */
function isOfHolder(
  { durable: { grant } }: ArbitratorState,
  other: { readonly server: DbServerConfig; readonly report: Report; readonly epoch: number },
): boolean {
  const { server, report, epoch } = other;
  if (grant === null || grant.segment !== server.segment || grant.epoch < epoch) return false;
  const component = fingerprintMembers(grant.expectedFingerprint ?? "");
  return report.gcommUuid !== null && component.includes(report.gcommUuid);
}

/**
 * Servers join one after another. Of two that came at once, the second one's attempt met the first
 * one's new view, was waited out as a silent member, and stopped everybody's commits for 2.5 s
 * (measured twice of twice).
 */
function mayJoin(state: ArbitratorState, from: PartyId, now: Millis): boolean {
  const { joining, config } = state;
  const maxAgeMs = config.timing.suspectMs;
  if (joining === null || now >= joining.until) return isNext(state, from, now);
  if (joining.server === from) return true;
  const name = config.serverById.get(joining.server)?.name ?? "";
  return config.servers.some((server) => {
    const report = youngReport(state, server.id, { now, maxAgeMs });
    return report?.primary === "yes" && namesOf(report).has(name);
  });
}

/**
 * Does nobody who waits come before this one: who was told in vain, as one that has been given up or finds
 * no donor, comes after those who wait since.
 */
function isNext(state: ArbitratorState, from: PartyId, now: Millis): boolean {
  const { config, turns } = state;
  const never = Number.NEGATIVE_INFINITY;
  const own = turns.get(from) ?? never;
  const maxAgeMs = config.timing.suspectMs;
  return config.servers.every(({ id, name }) => {
    if (id === from || own <= (turns.get(id) ?? never)) return true;
    const report = youngReport(state, id, { now, maxAgeMs });
    return report?.running !== "down" || !goneOnWithout(state, { name, report }, now);
  });
}

/** Whose turn it is once that server has been told to join. */
export function joiningAfter(
  state: ArbitratorState,
  from: PartyId,
  now: Millis,
): Pick<ArbitratorState, "joining" | "turns"> {
  const { joining, turns } = state;
  if (joining?.server === from && now < joining.until) return { joining, turns };
  return { joining: { server: from, until: now + JOIN_MS }, turns: new Map(turns).set(from, now) };
}

/** What a stopped server may do now. `bootstrap` is never answered here: it takes an order. */
export function startVerdict(
  state: ArbitratorState,
  from: PartyId,
  options: { readonly report: Report; readonly now: Millis },
): StartVerdict {
  const { report, now } = options;
  if (report.running === "up") return "wait";
  // One that is on its way up has somebody to join.
  if (report.running === "unknown") return somebodyPrimary(state, now) ? "join" : "wait";
  const name = state.config.serverById.get(from)?.name ?? "";
  if (twoPrimaries(state, now)) return "wait";
  if (!goneOnWithout(state, { name, report }, now) || !mayJoin(state, from, now)) return "wait";
  return report.diverged || beyondFork(state, report) ? "reseed" : "join";
}

/**
 * Whose data a server may take: Primary, Synced, and beyond no fork point. Those are judged here, since a server
 * whose own epoch is forgotten is told of no fork point that it could judge others by.
 */
export function donorsFor(state: ArbitratorState, now: Millis): readonly PartyId[] {
  const maxAgeMs = state.config.timing.suspectMs;
  return state.config.servers.flatMap(({ id }) => {
    const report = youngReport(state, id, { now, maxAgeMs });
    if (report?.primary !== "yes" || report.localState !== "Synced" || report.diverged) return [];
    return stoodBeyond(state, report) ? [] : [id];
  });
}

/** The server to begin with, or why there is none. */
export type Outage =
  | { readonly is: "none" }
  | { readonly is: "waiting"; readonly verdict: Verdict }
  | {
      readonly is: "ready";
      readonly server: DbServerConfig;
      readonly report: Report;
      readonly position: Position;
      /** On a person's word that whoever is silent is stopped, and that loss is accepted. */
      readonly forced: boolean;
    };

/** The segment that a person wants started whatever the others may know; null if there is none. */
function forcedSegment({ person }: ArbitratorState, now: Millis): string | null {
  const asked = person !== null && now < person.until && person.force && person.allowDataLoss;
  return asked ? person.segment : null;
}

function waiting(rule: string, because: string, wouldChange: string): Outage {
  return { is: "waiting", verdict: { rule, because, wouldChange } };
}

/** Position of a stopped server, or of one that runs outside any Primary. */
function standsAt(report: Report | null): Position | null {
  if (report === null || report.running === "down") return report?.position ?? null;
  return report.stateUuid === null ? null : { uuid: report.stateUuid, seqno: report.lastCommitted };
}

/** Names of the servers that were in the noted view or in a newer one; null where none is noted. */
type Viewers = ReadonlySet<string> | null;

/**
 * Who was in the noted view, or in a newer one that no word of has come from: servers join by the word of
 * peers where the arbitrator is out of reach. A Primary view has a member of the one before it, and each server
 * tells of its last: so those who are named, beginning with the noted view's, are all that can know more.
 */
function viewersOf(state: ArbitratorState, now: Millis): Viewers {
  const { noted } = state.durable;
  if (noted === null) return null;
  const viewers = new Set(noted.members);
  // Who is added is looked at as well.
  for (const viewer of viewers)
    for (const name of lastBeside(state, viewer, now)) viewers.add(name);
  return viewers;
}

/**
 * Names of those who were with a server in its last Primary view: none while it is waited for, and everybody
 * where it will not tell, as it is retired, or has lost its watchdog's file.
 */
function lastBeside(state: ArbitratorState, name: string, now: Millis): readonly string[] {
  const { config, durable } = state;
  const id = config.serverByName.get(name)?.id;
  if (id === undefined) return [];
  const word = wordSince(state, id, now);
  const told = word?.lastMembers ?? [];
  const tells = word === null ? !durable.retired.includes(id) : told.length > 0;
  if (tells) return told;
  return config.servers
    .filter((server) => !durable.retired.includes(server.id))
    .map((server) => server.name);
}

/** A young report from since the noted view stood: an older one says nothing about what happened in it. */
function wordSince(state: ArbitratorState, id: PartyId, now: Millis): Report | null {
  if ((state.heard.get(id)?.at ?? 0) < state.notedAt) return null;
  return youngReport(state, id, { now, maxAgeMs: state.config.timing.suspectMs });
}

/**
 * Has a server that was not in the noted view served nowhere since, by its own word: last under an older epoch.
 * Others may name it all the same: who takes a full transfer is a member for them, and answers nobody.
 */
function servedBefore(
  { durable: { noted } }: ArbitratorState,
  { server, report }: { readonly server: DbServerConfig; readonly report: Report | null },
): boolean {
  if (noted === null || noted.members.includes(server.name)) return false;
  // One that has lost its watchdog's file knows of no epoch.
  if (report === null || (report.lastMembers ?? []).length === 0) return false;
  return report.epochServed < noted.epochServed;
}

/**
 * Is this server on its way up to join whoever is Primary: it cannot be that by itself, nor has it what others
 * lack, unless it was in the noted view or a newer one. One that was ordered to begin can.
 */
function onlyJoins(
  { durable: { grant } }: ArbitratorState,
  server: DbServerConfig,
  report: Report,
): boolean {
  const starting = report.running === "unknown" && report.fenced && report.adopted !== true;
  const begins = grant?.order === "given" && grant.target === server.id;
  return starting && !begins;
}

/**
 * Has a retired server of the noted view commits that its retirement does not speak of: a person has taken
 * its say where majorities are counted, not the commits that it alone has. Either it says since where it
 * stands, or is about to, in the lineage of the others. Or it is silent, but was seen after the order: then
 * it has served on, and the person who gave it cannot have known where that ended.
 */
function stillKnows(
  state: ArbitratorState,
  server: DbServerConfig,
  facts: { readonly viewers: Viewers; readonly now: Millis },
): boolean {
  const { viewers, now } = facts;
  const { noted } = state.durable;
  if (noted === null || viewers?.has(server.name) !== true) return false;
  const report = wordSince(state, server.id, now);
  if (report === null) {
    // Who was retired while it served may serve on for as long as it has been promised to.
    const young = { now, maxAgeMs: state.config.timing.suspectMs };
    const lately = youngReport(state, server.id, young) === null && !longSilent(state, server, now);
    return lately || seenAt(state, server) >= sinceOf(state, "retire", server.id);
  }
  if (report.reading === true) return true;
  const position = standsAt(report);
  return position !== null && position.seqno >= 0 && noted.fingerprint.startsWith(position.uuid);
}

/** When a member of the noted view was last heard of; the start, if an earlier life may have. */
function seenAt(state: ArbitratorState, { id }: DbServerConfig): Millis {
  const startedAt = state.armedAt - state.config.outwaitMs;
  return Math.max(state.heard.get(id)?.at ?? startedAt, state.notedAt);
}

/** After a full outage: which server begins. */
export function chooseBootstrap(state: ArbitratorState, now: Millis): Outage {
  const maxAgeMs = state.config.timing.suspectMs;
  // Only where nobody is Primary, or may be: silent to SQL, or open.
  let down = 0;
  let idle = 0;
  const joining: string[] = [];
  for (const server of state.config.servers) {
    const report = youngReport(state, server.id, { now, maxAgeMs });
    if (report === null) continue;
    if (report.running === "down") down++;
    else if (report.running === "up" && report.primary === "no" && report.fenced) idle++;
    else if (onlyJoins(state, server, report)) joining.push(server.name);
    else return { is: "none" };
  }
  if (down === 0) return { is: "none" };
  const viewers = viewersOf(state, now);
  if (joining.some((name) => viewers === null || viewers.has(name))) return { is: "none" };
  const { noted } = state.durable;
  const forced = forcedSegment(state, now);
  const hasSay = ({ id }: DbServerConfig) => !state.durable.retired.includes(id);
  const reckoned = state.config.servers.filter((server) => {
    if (!hasSay(server) && !stillKnows(state, server, { viewers, now })) return false;
    // A person's word stands for those alone who have long been silent.
    if (forced !== null) return server.segment === forced || !longSilent(state, server, now);
    if (viewers === null || viewers.has(server.name)) return true;
    // Silent since it was about to join, it may be in a newer one.
    const silent = youngReport(state, server.id, { now, maxAgeMs }) === null;
    return silent && wasJoining(state, server.id);
  });
  // With everybody of the noted view retired, a person has to say what the others' rows are worth.
  const concerned = reckoned.length > 0 ? reckoned : state.config.servers.filter(hasSay);
  const heard = concerned.map((server) => {
    const any = noted === null || forced !== null;
    const report = any
      ? youngReport(state, server.id, { now, maxAgeMs })
      : wordSince(state, server.id, now);
    return { server, report };
  });
  const silent = heard.filter(({ report }) => report === null).map(({ server }) => server.name);
  if (silent.length > 0) {
    // With survivors up, who may be promoted by their majority, this is no full outage.
    if (idle > 0) return { is: "none" };
    return waiting(
      "outage.silent",
      `every server is down or silent, and ${silent.join(", ")} may know more`,
      "their watchdogs report, a person retires them, or starts one side: make_primary --force --allow-data-loss",
    );
  }
  const reading = heard.filter(({ report }) => report?.reading === true);
  if (reading.length > 0) {
    return waiting(
      "outage.reading",
      `positions are being read: ${reading.map(({ server }) => server.name).join(", ")}`,
      "they have been read",
    );
  }
  const without = heard
    .filter(({ report }) => (standsAt(report)?.seqno ?? -1) < 0)
    .filter((each) => forced !== null || !servedBefore(state, each))
    .map(({ server }) => server.name);
  if (without.length > 0) {
    return waiting(
      "outage.position",
      `no position can be read of ${without.join(", ")}`,
      "their data is mended, or a person retires them",
    );
  }
  const standing = heard.flatMap(({ server, report }) => {
    const position = standsAt(report);
    const rows = report !== null && position !== null && position.seqno >= 0;
    return rows ? [{ server, report, position }] : [];
  });
  const reached = epochsReached(state, standing);
  const stood = standing.map((each, index) => ({ ...each, epoch: reached[index] ?? 0 }));
  const lineages = new Set(stood.map(({ position }) => position.uuid));
  if (lineages.size > 1) {
    return waiting(
      "outage.lineage",
      `positions of different clusters: ${stood
        .map(({ server, position }) => `${server.name} ${position.uuid}:${position.seqno}`)
        .join(", ")}`,
      "a person retires those that are foreign",
    );
  }
  const { primarySegment: primary } = state.durable;
  const [first] = stood
    .filter(({ server }) => forced === null || server.segment === forced)
    .sort(
      (a, b) =>
        b.epoch - a.epoch ||
        b.position.seqno - a.position.seqno ||
        Number(b.report.safeToBootstrap) - Number(a.report.safeToBootstrap) ||
        Number(hasSay(b.server)) - Number(hasSay(a.server)) ||
        Number(b.server.segment === primary) - Number(a.server.segment === primary) ||
        a.server.serial - b.server.serial,
    );
  if (first === undefined) return { is: "none" };
  const lacks = forced === null ? whatItLacks(state, first, { concerned, viewers, now }) : null;
  if (lacks !== null) {
    return waiting(
      "outage.behind",
      `${first.server.name} stands at ${first.position.seqno} of epoch ${first.report.epochServed}, ${lacks}, retired, may have rows that it lacks`,
      "they say where they stand, or a person accepts the loss: make_primary --force --allow-data-loss",
    );
  }
  return { is: "ready", ...first, forced: forced !== null };
}

interface Advanced {
  readonly server: DbServerConfig;
  readonly report: Report;
  readonly position: Position;
}

/**
 * What the most advanced of those who are reckoned with may lack, since a retirement takes the word of others but
 * is no consent to lose their rows: it has less than the noted view had at its beginning, or was not in it; or
 * they were in a newer view, and may have gone on without it; or the open epoch was granted to them, and they
 * may have served under it unseen. In words; null if nothing.
 */
function whatItLacks(
  state: ArbitratorState,
  { server, report, position }: Advanced,
  facts: {
    readonly concerned: readonly DbServerConfig[];
    readonly viewers: Viewers;
    readonly now: Millis;
  },
): string | null {
  const { config, durable } = state;
  const { noted, grant, retired } = durable;
  const { concerned, viewers, now } = facts;
  const isNoted = (name: string) => noted?.members.includes(name) === true;
  const left = config.servers.filter((one) => retired.includes(one.id) && !concerned.includes(one));
  const names = (of: (one: DbServerConfig) => boolean) => left.filter(of).map(({ name }) => name);
  const later = left
    .filter(({ name }) => viewers?.has(name) === true && !isNoted(name))
    .map((one) => ({ server: one, report: wordSince(state, one.id, now) }))
    .filter((each) => !servedBefore(state, each))
    .filter((each) => each.report?.lastMembers?.includes(server.name) !== true)
    .map((each) => each.server.name);
  if (later.length > 0)
    return `a view newer than the noted one had more members: ${later.join(", ")}`;
  const inNoted = names(({ name }) => isNoted(name));
  if (noted !== null && inNoted.length > 0) {
    const inside = isNoted(server.name);
    const older = report.epochServed < noted.epochServed || position.seqno < noted.seqno;
    const outside = inside ? "" : ", which it was not in,";
    if (!inside || older)
      return `the noted view${outside} began at ${noted.seqno} of epoch ${noted.epochServed}: ${inNoted.join(", ")}`;
  }
  const holders = names(({ segment }) => segment === grant?.segment);
  if (grant === null || holders.length === 0 || report.epochServed >= grant.epoch) return null;
  return `epoch ${grant.epoch} was granted to ${grant.segment}: ${holders.join(", ")}`;
}
