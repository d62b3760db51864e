/** What the arbitrator tells a person who asks: what is, what was decided, why, and what would change it. */
import type { Summary } from "../message/arbitrator.ts";
import { isJoint } from "../wsrep_status.ts";
import { type ArbitratorState, namesOf } from "./arbitrator_state.ts";
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
  const expected = servers.filter((server) => !server.retired);
  const missing = expected.filter((server) => !serving.includes(server));
  const joint = serving.some(
    (server) => server.report !== null && isJoint(config, namesOf(server.report)),
  );
  const doubts = [
    ...(state.observing === null ? [] : [state.observing]),
    ...(state.diskError === null ? [] : [state.diskError]),
    ...(durable.paused === null ? [] : [`automatic decisions are paused ${durable.paused}`]),
  ];
  const { health, because } = healthOf({
    young: young.length,
    serving: serving.map((server) => server.name),
    missing: missing.map((server) => server.name),
    doubts,
  });
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
    warnings: [...doubts, ...config.warnings],
  };
}

function healthOf(facts: {
  readonly young: number;
  readonly serving: readonly string[];
  readonly missing: readonly string[];
  readonly doubts: readonly string[];
}): Pick<Summary, "health" | "because"> {
  if (facts.young === 0) {
    return { health: "cannot_tell", because: "no server has reported lately" };
  }
  if (facts.serving.length === 0) {
    return { health: "no_writable_primary", because: "no server accepts writes" };
  }
  if (facts.missing.length > 0) {
    return { health: "degraded", because: `not serving: ${facts.missing.join(", ")}` };
  }
  if (facts.doubts.length > 0) return { health: "degraded", because: facts.doubts.join("; ") };
  return { health: "healthy", because: `all ${facts.serving.length} servers serve` };
}
