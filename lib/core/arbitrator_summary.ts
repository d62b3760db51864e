/** What the arbitrator tells a person who asks: what is, what was decided, why, and what would change it. */
import type { Snapshot, Summary } from "../message/arbitrator.ts";
import { isJoint } from "../wsrep_status.ts";
import { configWarnings } from "./arbitrator_config.ts";
import { clip } from "./arbitrator_rules.ts";
import { type ArbitratorState, namesOf, youngReport } from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";

/** How old a report may be and still speak for its server in a summary. */
const YOUNG_REPORTS = 4;
/** The longest age that the wire can tell. */
const AGO_MAX_MS = 86_400_000;

export function summarize(state: ArbitratorState, now: Millis): Summary {
  const { config, durable } = state;
  const youngMs = config.timing.reportIntervalMs * YOUNG_REPORTS;
  const servers = config.servers.map((server) => {
    const heard = state.heard.get(server.id);
    return {
      id: server.id,
      name: server.name,
      segment: server.segment,
      // The wire bounds durations by a day.
      heardAgoMs: heard === undefined ? null : Math.min(AGO_MAX_MS, Math.max(0, now - heard.at)),
      retired: durable.retired.includes(server.id),
      draining: durable.draining.includes(server.id),
      report: heard?.report ?? null,
    };
  });
  const young = servers.filter((server) => (server.heardAgoMs ?? youngMs + 1) <= youngMs);
  const serving = young.filter((server) => server.report?.serving === "on");
  const servingSegments = [...new Set(serving.map((server) => server.segment))];
  const joint = serving.some(
    (server) => server.report !== null && isJoint(config, namesOf(server.report)),
  );
  const doubts = doubtsOf(state);
  const { health, because } = healthNow(state, now);
  return {
    cluster: config.name,
    health,
    because,
    primarySegment: durable.primarySegment,
    servingSegment: joint ? durable.primarySegment : (servingSegments[0] ?? null),
    epoch: durable.epoch,
    epochHolder: durable.grant?.segment ?? null,
    notedView: durable.noted?.fingerprint ?? null,
    paused: durable.paused !== null,
    configVersion: config.version,
    servers,
    segments: config.segments.map((segment) => ({
      name: segment.name,
      weight: segment.weight,
      verdict: state.verdicts.get(segment.name) ?? {
        rule: "none.yet",
        because: "nothing has been judged yet",
        wouldChange: "the first report",
      },
    })),
    decisions: state.decisions.map(({ at, verdict }) => ({
      agoMs: Math.max(0, now - at),
      verdict,
    })),
    orders: [...durable.standing],
    warnings: [
      ...doubts,
      ...(state.eventLog === null ? [] : [clip(`the event log: ${state.eventLog}`)]),
      ...configWarnings(state, now).map(clip),
      ...config.warnings,
    ],
  };
}

/** What is wrong with the arbitrator itself, or held back by a person. */
function doubtsOf({ observing, diskError, durable }: ArbitratorState): readonly string[] {
  return [
    ...(observing === null ? [] : [observing]),
    ...(diskError === null ? [] : [diskError]),
    ...(durable.paused === null ? [] : [`automatic decisions are paused ${durable.paused}`]),
  ];
}

/** How the cluster is, in a word and a sentence. */
export function healthNow(
  state: ArbitratorState,
  now: Millis,
): Pick<Summary, "health" | "because"> {
  const maxAgeMs = state.config.timing.reportIntervalMs * YOUNG_REPORTS;
  const serving: string[] = [];
  const missing: string[] = [];
  const hanging: string[] = [];
  let young = 0;
  for (const { id, name } of state.config.servers) {
    const report = youngReport(state, id, { now, maxAgeMs });
    if (report !== null) young++;
    if (report?.serving === "on" && report.probe === "hanging") hanging.push(name);
    if (report?.serving === "on") serving.push(name);
    else if (!state.durable.retired.includes(id)) missing.push(name);
  }
  return healthOf({
    young,
    serving,
    missing,
    hanging,
    doubts: [...doubtsOf(state), ...openStill(state)],
  });
}

/** After a return, for the moment that the donors take: only the holder could survive the next fault. */
function openStill({ config, durable }: ArbitratorState): readonly string[] {
  const { grant, noted } = durable;
  if (grant === null || noted === null || !isJoint(config, new Set(noted.members))) return [];
  return [
    `epoch ${grant.epoch} of ${grant.segment} is open until half of each segment is Synced in this view`,
  ];
}

/** Everything that is decided by, for whoever asks the rules what would happen if. */
export function snapshotOf(state: ArbitratorState, now: Millis): Snapshot {
  const left = (at: Millis) => (at > now ? at - now : 0);
  const ago = (at: Millis | undefined) =>
    at === undefined || !Number.isFinite(at) ? null : Math.max(0, now - at);
  return {
    configVersion: state.config.version,
    durable: JSON.stringify(state.durable),
    observing: state.observing,
    diskError: state.diskError,
    armedLeftMs: left(state.armedAt),
    windowLeftMs: left(state.windowUntil),
    orderPauseLeftMs: left(state.orderPauseUntil),
    longestPromiseMs: state.longestPromiseMs,
    notedAgoMs: ago(state.notedAt),
    servers: [...state.heard].map(([id, heard]) => ({
      id,
      heardAgoMs: now - heard.at,
      weightChangedAgoMs: ago(heard.weightChangedAt),
      promisedAgoMs: ago(state.promisedAt.get(id)),
      report: heard.report,
    })),
  };
}

function healthOf(facts: {
  readonly young: number;
  readonly serving: readonly string[];
  readonly missing: readonly string[];
  /** Of those who serve. */
  readonly hanging: readonly string[];
  readonly doubts: readonly string[];
}): Pick<Summary, "health" | "because"> {
  if (facts.young === 0) {
    return { health: "cannot_tell", because: "no server has reported lately" };
  }
  if (facts.serving.length === 0) {
    return { health: "no_writable_primary", because: "no server accepts writes" };
  }
  // As while a member is missing that Galera has not given up on yet: open doors, and nothing commits.
  if (facts.hanging.length === facts.serving.length) {
    return { health: "no_writable_primary", because: "commits hang at every server that serves" };
  }
  if (facts.missing.length > 0) {
    return { health: "degraded", because: `not serving: ${facts.missing.join(", ")}` };
  }
  if (facts.hanging.length > 0) {
    return { health: "degraded", because: `commits hang at ${facts.hanging.join(", ")}` };
  }
  if (facts.doubts.length > 0) return { health: "degraded", because: facts.doubts.join("; ") };
  return { health: "healthy", because: `all ${facts.serving.length} servers serve` };
}
