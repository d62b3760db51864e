/**
 * What of the cluster's state is worth noting in the event log: each change of a server's status,
 * silence that begins and ends, and the health of the whole. Nothing is decided by it.
 */
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import type { ArbitratorState } from "./arbitrator_state.ts";
import { healthNow } from "./arbitrator_summary.ts";
import { log, set, type Turn } from "./arbitrator_turn.ts";
import type { Millis } from "./core.ts";

/** A change of one of these is a change of status. */
const STATUS = [
  "running",
  "serving",
  "primary",
  "group",
  "localState",
  "fenced",
  "draining",
  "yielding",
  "leaving",
  "diverged",
] as const satisfies readonly (keyof Report)[];

/** Notes a server's word if it says something new. */
export function noteStatus(turn: Turn, from: PartyId, before: Report | undefined): void {
  const { state } = turn;
  const report = state.heard.get(from)?.report;
  if (report === undefined) return;
  const silent = state.silent.has(from);
  const same = before !== undefined && STATUS.every((key) => before[key] === report[key]);
  if (same && !silent) {
    // No change of a server's status, but of what can be written.
    if ((before?.probe === "hanging") !== (report.probe === "hanging")) noteHealth(turn);
    return;
  }
  const changed =
    before === undefined ? STATUS : STATUS.filter((key) => before[key] !== report[key]);
  log(turn, "server", {
    server: state.config.serverById.get(from)?.name ?? from,
    ...Object.fromEntries(STATUS.map((key) => [key, report[key]])),
    changed: before === undefined ? [] : changed,
    lastCommitted: report.lastCommitted,
    position: report.position?.seqno ?? null,
    because: report.because,
    ...(silent ? { heardAgain: true } : {}),
  });
  if (silent) {
    const left = new Set(state.silent);
    left.delete(from);
    set(turn, { silent: left });
  }
  noteHealth(turn);
}

/** Notes servers that have become silent; run at its deadline. */
export function survey(turn: Turn): void {
  const { state, now } = turn;
  if (now < state.surveyAt) return;
  const { suspectMs } = state.config.timing;
  const silent = new Set(state.silent);
  let surveyAt = Number.POSITIVE_INFINITY;
  for (const [id, { at, report }] of state.heard) {
    if (silent.has(id)) continue;
    if (now - at > suspectMs) {
      silent.add(id);
      log(turn, "server_silent", {
        server: state.config.serverById.get(id)?.name ?? id,
        unheardMs: Math.round(now - at),
        serving: report.serving,
        primary: report.primary,
      });
    } else surveyAt = Math.min(surveyAt, at + suspectMs + 1);
  }
  const news = silent.size !== state.silent.size;
  set(turn, { surveyAt, ...(news ? { silent } : {}) });
  if (news) noteHealth(turn);
}

/** A server that is heard anew has to be watched for silence. */
export function watchFor(turn: Turn, at: Millis): void {
  const { state } = turn;
  const due = at + state.config.timing.suspectMs + 1;
  if (state.surveyAt === Number.POSITIVE_INFINITY) set(turn, { surveyAt: due });
}

/** Notes a change of the cluster's health. */
export function noteHealth(turn: Turn): void {
  const { health, because } = healthNow(turn.state, turn.now);
  if (health === turn.state.health) return;
  log(turn, "health", { health, because, was: turn.state.health });
  set(turn, { health });
}

/** What a decision rests on: each server's word and its age, one line each. */
export function evidenceOf(state: ArbitratorState, now: Millis): readonly string[] {
  return state.config.servers.map(({ id, name }) => {
    const heard = state.heard.get(id);
    if (heard === undefined) return `${name} never heard`;
    const { report, at } = heard;
    const view = report.primary === "yes" ? "Primary" : "non-Primary";
    const how =
      report.running === "up"
        ? `${view} ${report.fenced ? "fenced" : "open"} at ${report.lastCommitted} probe ${report.probe}`
        : `${report.running} at ${report.position?.seqno ?? "?"}`;
    return `${name} ${how}, heard ${Math.round(now - at)} ms ago`;
  });
}
