/**
 * The deciding part of a client minder: holds the latest report of every server, judges what each is
 * good for, and asks for the balancer's table that follows from it. It states whole targets, never
 * changes: every pass is the same pass, so a lost or repeated one costs nothing.
 *
 * Silence is judged by comparison. A server unheard while others speak is asked, then taken out; if
 * nobody speaks, the fault is as likely here as there, and the table stays as it is.
 */
import {
  type ClusterConfig,
  clientIntervalMs,
  clientTurns,
  type DbClientConfig,
  type DbServerConfig,
} from "../cluster_config.ts";
import { MinderError, unreachable } from "../errors.ts";
import type { Ack, ConfigMark, Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import type { CommonEffect, CommonEvent, Millis, Step } from "./core.ts";
import {
  CALM_MS,
  type Candidate,
  describePlace,
  FLOW_CALM,
  FLOW_LOADED,
  type Heard,
  isUnanswered,
  judge,
  LAG_CALM_MS,
  LAG_LOADED_MS,
  listedBy,
  type Placed,
  placeAll,
  rivalOf,
  type ServerFacts,
  STEADY_MS,
  samePlace,
  type Target,
} from "./dbclient_policy.ts";

/** One server as the balancer shows it; `sessions` is null where the balancer cannot say. */
export interface ActualServer {
  readonly name: string;
  /** Its place in words, as `up 100`, `drain`, `out`; null if the balancer has no such server. */
  readonly place: string | null;
  readonly sessions: number | null;
}

/** How a pass of the reconciler ended: what the balancer showed when it was last read. */
export interface Applied {
  /** Null if the balancer now is as it should be. */
  readonly error: string | null;
  readonly actual: readonly ActualServer[];
  /** What this pass changed, in words. */
  readonly changed: readonly string[];
  /** What somebody else had changed since the last pass, in words. */
  readonly foreign: readonly string[];
  /** Servers that a person has put into maintenance at the balancer: left alone. */
  readonly held: readonly string[];
  /** What is odd about its table and not for a minder to put right, in words. */
  readonly oddities: readonly string[];
  /** The balancer has been started or reloaded since the last pass. */
  readonly restarted: boolean;
  readonly tookMs: Millis;
}

export type DbClientEvent =
  | CommonEvent<"dbclient">
  | { readonly on: "applied"; readonly result: Applied }
  /** A newer config; what is known of servers that remain stays known. */
  | { readonly on: "config"; readonly config: ClusterConfig; readonly mark?: ConfigMark };

export type DbClientEffect =
  | CommonEffect<"dbclient">
  /** Make the balancer so, and cut what sessions the named servers still have. Newest wins. */
  | { readonly do: "reconcile"; readonly target: Target; readonly cut: readonly string[] }
  /** Go by that document: servers do. */
  | { readonly do: "adopt"; readonly mark: ConfigMark }
  | {
      readonly do: "log";
      readonly event: string;
      readonly fields: Readonly<Record<string, unknown>>;
    };

/** What is remembered of one server between its reports. */
interface Known extends Heard {
  /** When it was last asked for a report; -Infinity if never. */
  readonly askedAt: Millis;
  /** Since when its write probe hangs; null if it does not. */
  readonly hangsSince: Millis | null;
  readonly loaded: boolean;
  /** Since when a loaded server is calm; null if it is not. */
  readonly calmSince: Millis | null;
  /** Since when it is fit for writing; -Infinity if it was so when first judged; null if it is not. */
  readonly fitSince: Millis | null;
  /** Since when no new connections go to it for a person's order; null if there is none. */
  readonly drainingSince: Millis | null;
}

const UNKNOWN: Known = {
  report: null,
  heardAt: Number.NEGATIVE_INFINITY,
  askedAt: Number.NEGATIVE_INFINITY,
  hangsSince: null,
  loaded: false,
  calmSince: null,
  fitSince: null,
  drainingSince: null,
};

/** The most advanced seqno that had been reported by a moment: the yardstick for lag. */
interface Advance {
  readonly at: Millis;
  readonly seqno: number;
}

export interface DbClientState {
  readonly config: ClusterConfig;
  readonly client: DbClientConfig;
  /** The document that it goes by; null with a site file. */
  readonly mark: ConfigMark | null;
  /** A document that was asked for, and how long that is waited for. */
  readonly adopting: { readonly mark: ConfigMark; readonly until: Millis } | null;
  readonly known: ReadonlyMap<PartyId, Known>;
  /** Servers that the config has ceased to name: kept out of the balancer's table until then. */
  readonly gone: readonly { readonly server: DbServerConfig; readonly until: Millis }[];
  /** Since when somebody is being heard without a gap; null while nobody is. */
  readonly speakingSince: Millis | null;
  readonly lineage: string | null;
  /** Ascending, bounded. */
  readonly advances: readonly Advance[];
  /** Name of the writer under `single-writer`; null while there is none, and for other policies. */
  readonly writer: string | null;
  /** Since when another server is the writer of as many client minders or more; null if none is. */
  readonly outvotedSince: Millis | null;
  /** Null until enough is known to judge: until then the balancer is left as it is. */
  readonly target: Target | null;
  readonly cut: readonly string[];
  readonly reconcileAt: Millis;
  /** From when on silent servers may be asked again. */
  readonly askAgainAt: Millis;
  readonly applied: Applied | null;
  /** Passes that have failed in a row. */
  readonly failures: number;
  readonly startedAt: Millis;
  /** Earliest moment at which judging again could say something new. */
  readonly dueAt: Millis;
}

/** Outvoted for so long at least, a writer is given up for the one that the others have. */
const AGREE_MIN_MS = 3000;

/** A document is looked for in the database for so long, then again. */
const ADOPT_MS = 5_000;

/** Silent servers asked in one report interval. */
const ASKS_AT_ONCE = 4;

const ADVANCES_MAX = 64;
const ADVANCE_STEP_MS = 200;
/** First retry after a failed pass; doubles up to reconcileIntervalMs. */
const RETRY_MIN_MS = 100;

/**
 * The state at start. `writer` is the only server that the balancer gives connections now, null if
 * there is no such one: it stays the writer if it is fit.
 * @throws MinderError if the config has no such client
 */
export function initial(
  config: ClusterConfig,
  selfId: PartyId,
  now: Millis,
  writer: string | null = null,
): DbClientState {
  const client = clientOf(config, selfId);
  return {
    writer: client.policy === "single-writer" ? writer : null,
    outvotedSince: null,
    config,
    client,
    mark: null,
    adopting: null,
    known: new Map(config.servers.map(({ id }) => [id, UNKNOWN])),
    gone: [],
    speakingSince: null,
    lineage: null,
    advances: [],
    target: null,
    cut: [],
    reconcileAt: Number.POSITIVE_INFINITY,
    askAgainAt: now,
    applied: null,
    failures: 0,
    startedAt: now,
    dueAt: now,
  };
}

function clientOf(config: ClusterConfig, selfId: PartyId): DbClientConfig {
  const client = config.clients.find(({ id }) => id === selfId);
  if (client === undefined) {
    throw new MinderError(`${selfId} is no client of cluster ${config.name}`, {
      hint: "Name a dbclient that the config has.",
    });
  }
  return client;
}

/** Earliest deadline held in the state. */
export function dueAt(state: DbClientState): Millis {
  return state.dueAt;
}

/** Takes one event. */
export function step(
  state: DbClientState,
  event: DbClientEvent,
  now: Millis,
): Step<DbClientState, DbClientEffect> {
  switch (event.on) {
    case "wakeup":
      return decide(state, [], now);
    case "message": {
      const { parameters } = event.body;
      const next = follow(heard(state, event.from, parameters, now), parameters, now);
      const decided = saysNothingNew(state, next, event.from, now)
        ? { state: next, effects: [] }
        : decide(next, [], now);
      // With the writer that this very report has made it choose: the next ack is an interval away.
      const body = { verb: "ack", parameters: ackTo(decided.state, event.from) } as const;
      const reply: DbClientEffect = { do: "reply", ticket: event.ticket, body };
      const { adopting } = next;
      const follows = adopting === state.adopting || adopting === null ? [] : [adopting.mark];
      const adopts = follows.map((mark) => ({ do: "adopt", mark }) as const);
      return { state: decided.state, effects: [reply, ...adopts, ...decided.effects] };
    }
    case "answered":
      if (event.reply.verb !== "db_status_report") return decide(state, [], now);
      if (!isNews(state, event.by, event.reply.parameters, now)) return decide(state, [], now);
      return decide(heard(state, event.by, event.reply.parameters, now), [], now);
    case "suspended":
      // How old the reports are is no longer known: everybody gets the time to speak again.
      return decide({ ...state, speakingSince: null }, [], now);
    case "applied":
      return takeApplied(state, event.result, now);
    case "config":
      return takeConfig({ ...state, mark: event.mark ?? null }, event.config, now);
    default:
      return unreachable(event);
  }
}

function ackTo(state: DbClientState, from: PartyId): Ack {
  const known = state.known.has(from);
  return {
    outcome: known ? "ok" : "refused",
    because: known ? "" : `${from} is no server of this config`,
    promise: null,
    epochServed: null,
    writer: state.writer,
    arbitrator: null,
  };
}

/** A pushed report is always newer; an answer may have been overtaken by one. */
function isNews(state: DbClientState, by: PartyId, report: Report, now: Millis): boolean {
  const known = state.known.get(by);
  if (known?.report == null) return true;
  // A restarted watchdog counts from the beginning: once the old word is overdue, any other is news.
  return (
    report.reportNumber > known.report.reportNumber ||
    now - known.heardAt > askAfterMs(state.config)
  );
}

/**
 * What is in force is what serving servers go by: a newer document of one, as they follow one after
 * the other, or another one where nobody serves by that of this process any more. Before that a change of
 * voters and timings would have servers judged by rules that they do not keep.
 */
function follow(state: DbClientState, report: Report, now: Millis): DbClientState {
  const { mark, adopting } = state;
  const active = report.config?.active;
  if (mark === null || active === undefined || active.checksum === mark.checksum) return state;
  if (report.serving !== "on") return state;
  if (adopting?.mark.checksum === active.checksum && now < adopting.until) return state;
  if (active.version <= mark.version) {
    const same = [...state.known.values()].some(
      ({ report: told, heardAt }) =>
        told?.serving === "on" &&
        told.config?.active.checksum === mark.checksum &&
        now - heardAt <= state.config.timing.suspectMs,
    );
    if (same) return state;
  }
  return { ...state, adopting: { mark: active, until: now + ADOPT_MS } };
}

function takeConfig(
  state: DbClientState,
  config: ClusterConfig,
  now: Millis,
): Step<DbClientState, DbClientEffect> {
  const client = config.clients.find(({ id }) => id === state.client.id);
  if (client === undefined) {
    const because = `config version ${config.version} has no ${state.client.id}: the old one stays`;
    return decide(state, [log("config_refused", { because })], now);
  }
  const known = new Map(config.servers.map(({ id }) => [id, state.known.get(id) ?? UNKNOWN]));
  const left = state.config.servers.map((server) => ({ server, until: now + GONE_MS }));
  const gone = [...left, ...state.gone].filter(
    ({ server, until }) => now < until && !config.serverByName.has(server.name),
  );
  const next = { ...state, config, client, known, gone, reconcileAt: now };
  return decide(next, [log("config_taken", { version: config.version })], now);
}

// Hearing

function heard(state: DbClientState, from: PartyId, report: Report, now: Millis): DbClientState {
  const before = state.known.get(from);
  if (before === undefined) return state;
  const speaking = state.speakingSince !== null && !isQuiet(state, now);
  const advanced = noteAdvance(state, report, now);
  const lagMs = lagOf(advanced, report, now);
  const strained = report.flowControl >= FLOW_LOADED || lagMs >= LAG_LOADED_MS;
  const calm = report.flowControl <= FLOW_CALM && lagMs <= LAG_CALM_MS;
  const known: Known = {
    ...before,
    report,
    heardAt: now,
    hangsSince: report.probe === "hanging" ? (before.hangsSince ?? now) : null,
    loaded: before.loaded || strained,
    calmSince: calm ? (before.calmSince ?? now) : null,
  };
  return {
    ...state,
    ...advanced,
    speakingSince: speaking ? state.speakingSince : now,
    known: new Map(state.known).set(from, known),
  };
}

/** What of a report can change a judgement, beside what heard() has already drawn from it. */
const JUDGED = [
  "running",
  "serving",
  "primary",
  "fenced",
  "draining",
  "yielding",
  "cutting",
  "leaving",
  "localState",
  "probe",
  "fingerprint",
  "primarySegment",
  "writers",
  "epochSeen",
  "because",
] as const satisfies readonly (keyof Report)[];

/**
 * Most reports only say that all is as it was. With 64 servers judging anew costs ten times as much
 * as hearing, so it waits for the next deadline; while anybody is overdue every word counts.
 */
function saysNothingNew(
  before: DbClientState,
  after: DbClientState,
  from: PartyId,
  now: Millis,
): boolean {
  const old = before.known.get(from);
  const known = after.known.get(from);
  if (old?.report == null || known?.report == null || before.target === null) return false;
  if (before.speakingSince !== after.speakingSince || now >= before.dueAt) return false;
  if (known.loaded || old.loaded) return false;
  const { config } = before;
  if (isUnanswered(config, old.report) !== isUnanswered(config, known.report)) return false;
  for (const field of JUDGED) if (old.report[field] !== known.report[field]) return false;
  const askedAt = now - askAfterMs(before.config);
  const calm = oneView(before);
  const overdueAt = now - overdueAfterMs(before.config);
  for (const { heardAt, hangsSince } of before.known.values()) {
    if (hangsSince !== null || heardAt <= (calm ? askedAt : overdueAt)) return false;
  }
  return true;
}

/** Have all been heard, and in one and the same view: then nobody's absence from it can be news. */
function oneView({ known }: DbClientState): boolean {
  let view: string | null | undefined;
  for (const { report } of known.values()) {
    if (report === null || (view !== undefined && report.fingerprint !== view)) return false;
    view = report.fingerprint;
  }
  return true;
}

function noteAdvance(
  state: DbClientState,
  report: Report,
  now: Millis,
): Pick<DbClientState, "advances" | "lineage"> {
  const { advances, lineage } = state;
  if (report.primary !== "yes" || report.stateUuid === null || report.lastCommitted < 0) {
    return { advances, lineage };
  }
  const next: Advance = { at: now - report.pollAgeMs, seqno: report.lastCommitted };
  if (report.stateUuid !== lineage) return { lineage: report.stateUuid, advances: [next] };
  const last = advances.at(-1);
  if (last !== undefined && next.seqno <= last.seqno) return { advances, lineage };
  if (last !== undefined && next.at - last.at < ADVANCE_STEP_MS) return { advances, lineage };
  return { lineage, advances: [...advances.slice(1 - ADVANCES_MAX), next] };
}

/** For how long somebody has been known to be further than this report says. */
function lagOf(
  { advances, lineage }: Pick<DbClientState, "advances" | "lineage">,
  report: Report,
  now: Millis,
): Millis {
  if (report.stateUuid !== lineage || report.lastCommitted < 0) return 0;
  const passed = advances.find(({ seqno }) => seqno > report.lastCommitted);
  return passed === undefined ? 0 : Math.max(0, now - report.pollAgeMs - passed.at);
}

// Silence

/** One report missing, and the time of another, or half of a turn: ask. */
function askAfterMs(config: ClusterConfig): Millis {
  const intervalMs = clientIntervalMs(config);
  const graceMs = Math.max(config.timing.reportIntervalMs, intervalMs / 2);
  return Math.min(intervalMs + graceMs, silentAfterMs(config));
}

/** Silent, if others speak: unheard for suspectMs, and where client minders take turns for two. */
function silentAfterMs(config: ClusterConfig): Millis {
  const { suspectMs } = config.timing;
  return clientTurns(config) === 1 ? suspectMs : Math.max(suspectMs, 2 * clientIntervalMs(config));
}

/**
 * Overdue by the time of half a report. What it is for is judged by the others' views, of which they
 * tell at once, whosever turn it is: so it counts the reports and not the turns.
 */

function overdueAfterMs({ timing }: ClusterConfig): Millis {
  return 1.5 * timing.reportIntervalMs;
}

function lastHeardAt(state: DbClientState): Millis {
  let last = Number.NEGATIVE_INFINITY;
  for (const { heardAt } of state.known.values()) last = Math.max(last, heardAt);
  return last;
}

/** Nobody has been heard for as long as makes one server silent. */
function isQuiet(state: DbClientState, now: Millis): boolean {
  return now - lastHeardAt(state) > silentAfterMs(state.config);
}

/** From when on a server's silence counts: it is nobody's fault while nobody is heard. */
function silentSince(state: DbClientState, known: Known): Millis {
  return Math.max(known.heardAt, state.speakingSince ?? Number.POSITIVE_INFINITY);
}

/**
 * Has somebody spoken so long after this server that it must have spoken as well? Where a common
 * fault silences all, the last words come within one interval of each other.
 */
function othersSpokeSince(state: DbClientState, known: Known): boolean {
  return lastHeardAt(state) - silentSince(state, known) >= askAfterMs(state.config);
}

// Judging

function factsOf(state: DbClientState, server: DbServerConfig, now: Millis): ServerFacts {
  const { config } = state;
  const known = state.known.get(server.id) ?? UNKNOWN;
  const quietMs = now - silentSince(state, known);
  const overdue = quietMs >= overdueAfterMs(config);
  return {
    report: known.report,
    silent: quietMs >= silentAfterMs(config) && othersSpokeSince(state, known),
    overdue,
    // Who speaks for itself needs no one else's word.
    listed:
      known.report !== null && !overdue
        ? "unknown"
        : listedBy(server, state.known, now - silentAfterMs(config)),
    unanswered: isUnanswered(config, known.report),
    hangs:
      known.hangsSince !== null &&
      now - known.hangsSince >= config.timing.probeTimeoutMs &&
      someFlow(state, now),
    held: state.applied?.held.includes(server.name) ?? false,
  };
}

/**
 * Does any server commit, by a word that is not overdue: a dead one's last report says so too. Where
 * all hang none is worse than the others, and the writer stays where it is.
 */
function someFlow(state: DbClientState, now: Millis): boolean {
  for (const { report, heardAt } of state.known.values()) {
    if (report?.probe === "flowing" && now - heardAt < overdueAfterMs(state.config)) return true;
  }
  return false;
}

interface Judged {
  readonly candidate: Candidate;
  readonly cut: boolean;
  readonly known: Known;
}

function judgeServer(state: DbClientState, server: DbServerConfig, now: Millis): Judged {
  const before = state.known.get(server.id) ?? UNKNOWN;
  const { standing, cut, because } = judge(factsOf(state, server, now));
  const report = before.report;
  const synced = report?.localState === "Synced";
  const calmed = before.calmSince !== null && now - before.calmSince >= CALM_MS;
  const loaded = before.loaded && !calmed;
  const fit = standing === "serving" && synced;
  const fitSince = !fit ? null : (before.fitSince ?? firstFitAt(state, now));
  const drainingSince = standing === "draining" ? (before.drainingSince ?? now) : null;
  const cutMs = state.client.drainCutMs ?? Number.POSITIVE_INFINITY;
  const overstayed = drainingSince !== null && now - drainingSince >= cutMs;
  return {
    known: { ...before, loaded, fitSince, drainingSince },
    cut: cut || overstayed,
    candidate: {
      server,
      standing,
      because: standing === "serving" && report?.because ? report.because : because,
      synced,
      loaded,
      steady: fitSince !== null && now - fitSince >= STEADY_MS,
      primarySegment: report?.primarySegment ?? null,
      yielding: report?.yielding === true,
      writers: report?.writers ?? 0,
      epochSeen: report?.epochSeen ?? 0,
    },
  };
}

/** Who is fit when first judged has perhaps long been so: a restarted minder must not move the writer. */
function firstFitAt(state: DbClientState, now: Millis): Millis {
  return state.target === null ? Number.NEGATIVE_INFINITY : now;
}

/** Can everybody be judged: each has been heard, or had the time to speak. */
function canJudge(state: DbClientState, now: Millis): boolean {
  if (state.speakingSince === null || isQuiet(state, now)) return false;
  if (state.target !== null) return true;
  if (now - state.speakingSince >= silentAfterMs(state.config)) return true;
  return [...state.known.values()].every(({ report }) => report !== null);
}

// Deciding

function log(event: string, fields: Readonly<Record<string, unknown>>): DbClientEffect {
  return { do: "log", event, fields };
}

function decide(
  before: DbClientState,
  first: readonly DbClientEffect[],
  now: Millis,
): Step<DbClientState, DbClientEffect> {
  const effects = [...first];
  const state = judgeAll(askSilent(noteQuiet(before, effects, now), effects, now), effects, now);
  return { state: { ...state, dueAt: nextDueAt(state, now) }, effects };
}

/** Nobody speaks any more: says so, once, and from then on changes nothing. */
function noteQuiet(state: DbClientState, effects: DbClientEffect[], now: Millis): DbClientState {
  if (state.speakingSince === null || !isQuiet(state, now)) return state;
  effects.push(log("fail_static", { because: "no server is heard: the balancer stays as it is" }));
  return { ...state, speakingSince: null };
}

/**
 * Once it steers, a few at a time: where many are late at once the fault is likely nearer, and the
 * answers, each a whole report, would make it worse.
 */
function askSilent(state: DbClientState, effects: DbClientEffect[], now: Millis): DbClientState {
  const everyMs = askAfterMs(state.config);
  const known = new Map(state.known);
  const most = state.target === null ? Number.POSITIVE_INFINITY : ASKS_AT_ONCE;
  if (state.target !== null && now < state.askAgainAt) return state;
  let asked = 0;
  for (const [id, one] of state.known) {
    if (now < Math.max(one.heardAt, one.askedAt) + everyMs) continue;
    if (asked++ >= most) break;
    known.set(id, { ...one, askedAt: now });
    effects.push({
      do: "send",
      to: id,
      body: { verb: "request_status", parameters: { because: "no report for too long" } },
      expiresMs: everyMs,
    });
  }
  if (asked === 0) return state;
  return { ...state, known, askAgainAt: now + state.config.timing.reportIntervalMs };
}

function judgeAll(state: DbClientState, effects: DbClientEffect[], now: Millis): DbClientState {
  if (!canJudge(state, now)) return fullPass(state, effects, now);
  const judged = state.config.servers.map((server) => judgeServer(state, server, now));
  const candidates = judged.map(({ candidate }) => candidate);
  const { writer: present, outvotedSince } = keepOrYield(state, candidates, now);
  const target = [
    ...placeAll(state.config, state.client, candidates, present),
    ...placeGone(state.gone, now),
  ];
  const writer = writerIn(state.client, target);
  const cut = judged
    .filter((one) => one.cut || isCutByOrder(state, one.candidate.server, target))
    .map(({ candidate }) => candidate.server.name);
  const known = new Map(judged.map((one) => [one.candidate.server.id, one.known]));
  const changes = changesBetween(state.target, target);
  const sameCut = cut.length === state.cut.length && cut.every((name) => state.cut.includes(name));
  const next = { ...state, known, target, cut, writer, outvotedSince };
  if (changes.length === 0 && sameCut) return fullPass(next, effects, now);
  effects.push({ do: "reconcile", target, cut });
  effects.push(log("target", { changes, cut }));
  return { ...next, reconcileAt: now + state.config.timing.reconcileIntervalMs };
}

/** A balancer's table names servers that the config does not name any more, and would go on using them. */
function placeGone(gone: DbClientState["gone"], now: Millis): Target {
  return gone.flatMap(({ server, until }): Target => {
    const { name, host, mysqlPort: port } = server;
    const because = "no longer in the config";
    return now < until ? [{ name, host, port, place: { as: "out" }, because }] : [];
  });
}

/** A balancer that has put a server out leaves it so; its table may lose the line meanwhile. */
const GONE_MS = 600_000;

/** Is the time over of the order that left this server without new connections. */
function isCutByOrder(state: DbClientState, server: DbServerConfig, target: Target): boolean {
  if (state.known.get(server.id)?.report?.cutting !== true) return false;
  return target.some(({ name, place }) => name === server.name && place.as !== "up");
}

/** The writer to keep if it is fit: none any more once it has been outvoted for long enough. */
function keepOrYield(
  state: DbClientState,
  candidates: readonly Candidate[],
  now: Millis,
): Pick<DbClientState, "writer" | "outvotedSince"> {
  const { config, writer } = state;
  if (writer === null || state.client.policy !== "single-writer") {
    return { writer: null, outvotedSince: null };
  }
  if (rivalOf(config, candidates, writer) === null) return { writer, outvotedSince: null };
  const since = state.outvotedSince ?? now;
  // The table that was found at start may be that of a balancer which has just been started as well.
  return state.target !== null && now - since < agreeMs(config)
    ? { writer, outvotedSince: since }
    : { writer: null, outvotedSince: null };
}

/**
 * A move is known to all minders within two reports (its ack, and the count in the next one); by
 * then a vote that seemed lost because others moved first has settled.
 */
function agreeMs(config: ClusterConfig): Millis {
  return Math.max(AGREE_MIN_MS, 4 * clientIntervalMs(config));
}

/** The one that a single writer's client has been given; null for other policies. */
function writerIn({ policy }: DbClientConfig, target: Target): string | null {
  if (policy !== "single-writer") return null;
  return target.find(({ place }) => place.as === "up")?.name ?? null;
}

/** The level-triggered pass: the same target again, whether or not anything seems to have changed. */
function fullPass(state: DbClientState, effects: DbClientEffect[], now: Millis): DbClientState {
  if (state.target === null || now < state.reconcileAt) return state;
  effects.push({ do: "reconcile", target: state.target, cut: state.cut });
  return { ...state, reconcileAt: now + state.config.timing.reconcileIntervalMs };
}

function changesBetween(before: Target | null, after: Target): readonly string[] {
  const old = new Map<string, Placed>(before?.map((placed) => [placed.name, placed]));
  const changes: string[] = [];
  for (const placed of after) {
    const was = old.get(placed.name);
    old.delete(placed.name);
    if (
      was !== undefined &&
      samePlace(was.place, placed.place) &&
      was.host === placed.host &&
      was.port === placed.port
    ) {
      continue;
    }
    const from = was === undefined ? "unknown" : describePlace(was.place);
    changes.push(`${placed.name}: ${from} -> ${describePlace(placed.place)}: ${placed.because}`);
  }
  for (const name of old.keys()) changes.push(`${name}: no longer in the config`);
  return changes;
}

function takeApplied(
  state: DbClientState,
  result: Applied,
  now: Millis,
): Step<DbClientState, DbClientEffect> {
  const effects: DbClientEffect[] = [];
  const { error } = result;
  if (result.restarted) {
    effects.push(log("balancer_restarted", { repaired: result.changed, tookMs: result.tookMs }));
  }
  if (result.changed.length > 0) {
    effects.push(log("balancer_changed", { changed: result.changed, tookMs: result.tookMs }));
  }
  if (result.foreign.length > 0) effects.push(log("foreign_edit", { found: result.foreign }));
  const odd = result.oddities.filter((words) => !state.applied?.oddities.includes(words));
  if (odd.length > 0) effects.push(log("balancer_odd", { found: odd }));
  // Only a change of state is news: a balancer that stays away says the same with every pass.
  const before = state.applied?.error ?? null;
  if (error !== null && error !== before) effects.push(log("balancer_wrong", { error }));
  if (error === null && state.failures > 0) {
    effects.push(log("balancer_right", { failures: state.failures, changed: result.changed }));
  }
  const failures = error === null ? 0 : state.failures + 1;
  const everyMs = state.config.timing.reconcileIntervalMs;
  // The exponent is bounded: beyond it the interval has long been reached.
  const retryMs = Math.min(everyMs, RETRY_MIN_MS * 2 ** Math.min(failures - 1, 16));
  const reconcileAt =
    error === null ? state.reconcileAt : Math.min(state.reconcileAt, now + retryMs);
  const next = { ...state, applied: result, failures, reconcileAt };
  // Of all this only what a person holds decides anything: most passes change nothing of that.
  const held = state.applied?.held ?? [];
  const sameHeld =
    held.length === result.held.length && held.every((name, at) => name === result.held[at]);
  if (!sameHeld || now >= state.dueAt) return decide(next, effects, now);
  return { state: { ...next, dueAt: Math.min(state.dueAt, reconcileAt) }, effects };
}

/** The next moment at which any of the durations above ends. */
function nextDueAt(state: DbClientState, now: Millis): Millis {
  const { timing } = state.config;
  const silentMs = silentAfterMs(state.config);
  const agreed = oneView(state);
  const cutMs = state.client.drainCutMs ?? Number.POSITIVE_INFINITY;
  // One more than the limit, where being quiet needs more than that.
  const moments: Millis[] = [lastHeardAt(state) + silentMs + 1];
  if (state.target !== null) moments.push(state.reconcileAt, state.askAgainAt);
  if (state.outvotedSince !== null) moments.push(state.outvotedSince + agreeMs(state.config));
  if (state.speakingSince !== null) moments.push(state.speakingSince + silentMs);
  for (const known of state.known.values()) {
    const since = silentSince(state, known);
    moments.push(Math.max(known.heardAt, known.askedAt) + askAfterMs(state.config));
    moments.push(since + silentMs);
    if (!agreed) moments.push(since + overdueAfterMs(state.config));
    if (known.hangsSince !== null) moments.push(known.hangsSince + timing.probeTimeoutMs);
    if (known.loaded && known.calmSince !== null) moments.push(known.calmSince + CALM_MS);
    if (known.fitSince !== null) moments.push(known.fitSince + STEADY_MS);
    if (known.drainingSince !== null) moments.push(known.drainingSince + cutMs);
  }
  return Math.min(...moments.filter((moment) => moment > now));
}

/** What a person sees of this client: target, balancer, and how far they agree. */
export interface ClientStatus {
  readonly client: PartyId;
  readonly policy: DbClientConfig["policy"];
  /** Null while everything is as it should be. */
  readonly trouble: string | null;
  /** What the balancer's table has that is not for a minder to put right. */
  readonly oddities: readonly string[];
  readonly servers: readonly {
    readonly name: string;
    /** As it shall be; null while too little is known. */
    readonly target: string | null;
    readonly because: string;
    /** As the balancer last showed it; null if it has not. */
    readonly actual: string | null;
    /** Open now; for a server being drained, how many are left. */
    readonly sessions: number | null;
    readonly heardAgoMs: Millis | null;
    readonly drainingForMs: Millis | null;
    /** When the sessions of a server being drained will be cut; null if they end in their own time. */
    readonly cutInMs: Millis | null;
  }[];
}

/** The state in words, for the status page. */
export function describe(state: DbClientState, now: Millis): ClientStatus {
  const actual = new Map(state.applied?.actual.map((one) => [one.name, one]));
  const placed = new Map(state.target?.map((one) => [one.name, one]));
  return {
    client: state.client.id,
    policy: state.client.policy,
    trouble: troubleOf(state),
    oddities: state.applied?.oddities ?? [],
    servers: state.config.servers.map(({ id, name }) => {
      const known = state.known.get(id) ?? UNKNOWN;
      const target = placed.get(name);
      return {
        name,
        target: target === undefined ? null : describePlace(target.place),
        because: target?.because ?? "too little has been heard to judge",
        actual: actual.get(name)?.place ?? null,
        sessions: actual.get(name)?.sessions ?? null,
        heardAgoMs: known.report === null ? null : now - known.heardAt,
        drainingForMs: known.drainingSince === null ? null : now - known.drainingSince,
        cutInMs: cutInMs(state, known, now),
      };
    }),
  };
}

function cutInMs({ client }: DbClientState, known: Known, now: Millis): Millis | null {
  if (known.drainingSince === null || client.drainCutMs === undefined) return null;
  return Math.max(0, known.drainingSince + client.drainCutMs - now);
}

function troubleOf(state: DbClientState): string | null {
  if (state.speakingSince === null) return "no server is heard: the balancer stays as it is";
  if (state.target === null) return "waiting for the servers' first reports";
  if (state.applied === null) return "the balancer has not been reached yet";
  if (state.applied.error !== null) return state.applied.error;
  if (!state.target.some(({ place }) => place.as === "up")) return "no server can take connections";
  return null;
}
