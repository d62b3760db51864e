/** Builds a server's report from what its watchdog holds. */
import {
  type ClusterConfig,
  clientTurns,
  clientWordMs,
  type DbClientConfig,
} from "../cluster_config.ts";
import type { Report } from "../message/dbserver.ts";
import { words } from "../message/mod.ts";
import { groupOf } from "../wsrep_status.ts";
import type { Millis } from "./core.ts";
import { asideReport } from "./dbserver_aside.ts";
import {
  type DbServerState,
  FAILED_STARTS_MAX,
  type Right,
  rightOf,
  stoodAt,
  viewOf,
} from "./dbserver_state.ts";

/** The part of a report that others decide by: what changes in it cannot wait for the next interval. */
type News = Pick<
  Report,
  | "running"
  | "serving"
  | "primary"
  | "group"
  | "fingerprint"
  | "localState"
  | "fenced"
  | "guard"
  | "draining"
  | "yielding"
  | "cutting"
  | "leaving"
  | "probe"
  | "silent"
  | "diverged"
  | "weight"
  | "epochServed"
  | "position"
  | "primarySegment"
  | "config"
>;

/** What a report at `now` would say of that. */
export function newsOf(state: DbServerState, now: Millis): News {
  return newsWith(state, rightOf(state, now));
}

function newsWith(state: DbServerState, right: Right): News {
  const { status, self, config } = state;
  const running = runningOf(state);
  const serving =
    status?.ready === true && status.primary && !state.closed && right.ok ? "on" : "off";
  return {
    running,
    serving: running === "unknown" ? "unknown" : serving,
    primary: status === null ? (running === "down" ? "no" : "unknown") : yesNo(status.primary),
    group: running === "down" ? "down" : groupOf(config, self.segment, status?.members ?? []),
    fingerprint: viewOf(status),
    localState: status?.localState ?? (running === "down" ? "down" : "no answer"),
    weight: status?.weight ?? null,
    fenced: running === "down" || state.closed,
    draining: state.draining,
    yielding: state.yielding,
    cutting: state.cutting,
    leaving: state.leaving,
    position: running === "down" ? state.position : null,
    epochServed: state.durable.epochServed,
    primarySegment: state.primarySegment,
    probe: state.probe,
    silent: state.silent,
    guard: state.guard,
    diverged: state.diverged,
    config: state.documents,
  };
}

/** The report as it would be sent at `now`, numbered `number`. */
export function buildReport(state: DbServerState, now: Millis, number: number): Report {
  const { status, durable } = state;
  const right = rightOf(state, now);
  const stood = stoodAt(state);
  return {
    ...newsWith(state, right),
    reportNumber: number,
    url: state.url,
    members: status?.members ?? [],
    stateUuid: status?.stateUuid ?? null,
    lastCommitted: status?.lastCommitted ?? -1,
    evsState: status?.evsState ?? null,
    flowControl: state.flowControl,
    safeToBootstrap: state.safeToBootstrap,
    storeId: durable.storeId,
    epochSeen: durable.epochSeen,
    lastPrimary: state.lastPrimary,
    ...(status?.primary === true ? {} : { lastMembers: durable.lastMembers }),
    gcommUuid: state.gcommUuid,
    ended: state.ended,
    writers: writersOf(state, now),
    ...(state.process.is === "stopped" && !state.positionRead ? { reading: true } : {}),
    ...(state.held && state.process.is === "running" ? { held: true } : {}),
    ...(stood === null ? {} : { stood }),
    ...(durable.claim === null ? {} : { epochBefore: durable.claim.before }),
    ...(state.adopted ? { adopted: true } : {}),
    ...(state.aside.found.length === 0 ? {} : { aside: asideReport(state, now) }),
    pollAgeMs: status === null ? 0 : Math.max(0, Math.min(86_400_000, now - state.polledAt)),
    versions: {
      server: status?.serverVersion ?? "",
      provider: status?.providerVersion ?? "",
      minder: state.minderVersion,
    },
    because: words(becauseOf(state, right.because)),
  };
}

/** The client minders that hear a report: all hear news, otherwise each in its turn. */
export function clientsInTurn(
  config: ClusterConfig,
  turn: number | "all",
): readonly DbClientConfig[] {
  const turns = clientTurns(config);
  if (turn === "all" || turns === 1) return config.clients;
  return config.clients.filter((_, index) => index % turns === turn % turns);
}

/** Whoever has not said so for a while no longer counts. */
function writersOf({ clientWriters, config, self }: DbServerState, now: Millis): number {
  const youngMs = clientWordMs(config);
  let writers = 0;
  for (const { writer, at } of clientWriters.values()) {
    if (writer === self.name && now - at <= youngMs) writers++;
  }
  return writers;
}

function runningOf(state: DbServerState): Report["running"] {
  if (state.process.is === "stopped") return "down";
  return state.status === null ? "unknown" : "up";
}

function yesNo(value: boolean): "yes" | "no" {
  return value ? "yes" : "no";
}

function becauseOf(state: DbServerState, right: string): string {
  if (state.removed) {
    const { version } = state.documents?.active ?? {};
    return `no longer in the config since version ${version}: ${right}`;
  }
  if (state.process.is === "stopped") {
    const gaveUp =
      state.reseedFor !== null
        ? `is to take a full state transfer: ${state.reseedFor}; `
        : state.failedStarts < FAILED_STARTS_MAX
          ? ""
          : `${state.failedStarts} starts in a row failed, mend it and order a start; `;
    return `mariadbd is not running: ${gaveUp}${state.process.because}`;
  }
  if (state.status === null) {
    const error = state.pollError ?? "not asked yet";
    // Its socket opens only when it has recovered and caught up, which may take a full transfer.
    const comes = state.polledAt === Number.NEGATIVE_INFINITY && !state.adopted;
    return comes
      ? `mariadbd is starting: it recovers, or takes a state transfer (${error})`
      : `mariadbd does not answer: ${error}`;
  }
  if (state.reseedFor !== null) return `is to take a full state transfer: ${state.reseedFor}`;
  if (state.diverged) return "has rows beyond a fork point: needs a full state transfer";
  return right;
}

/** Has anything changed that others decide by, so that the report cannot wait for its interval. */
export function differs(a: News, b: News): boolean {
  // Asked after every event: written out, it is compiled to a handful of comparisons.
  return (
    a.running !== b.running ||
    a.serving !== b.serving ||
    a.primary !== b.primary ||
    a.group !== b.group ||
    a.fingerprint !== b.fingerprint ||
    a.localState !== b.localState ||
    a.fenced !== b.fenced ||
    a.guard !== b.guard ||
    a.draining !== b.draining ||
    a.yielding !== b.yielding ||
    a.cutting !== b.cutting ||
    a.leaving !== b.leaving ||
    a.probe !== b.probe ||
    a.silent !== b.silent ||
    a.diverged !== b.diverged ||
    a.weight !== b.weight ||
    a.epochServed !== b.epochServed ||
    a.position !== b.position ||
    a.primarySegment !== b.primarySegment ||
    a.config !== b.config
  );
}
