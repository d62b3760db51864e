/**
 * A change of the rules (voters, timings) as the arbitrator decides it: when a document that waits is
 * put in force, and until when its predecessor still has a say.
 *
 * Invariant: from the moment a document is in force until every server of its predecessor has followed,
 * and one outwait more, a segment is promoted only if both documents allow it. So whoever relies on
 * promises under either of them is counted under both.
 */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import { impossibleChanges } from "../config_store.ts";
import type { ConfigMark } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { holdsMajority, isJoint } from "../wsrep_status.ts";
import { type ArbitratorState, youngReport } from "./arbitrator_state.ts";
import { log, note, set, type Turn } from "./arbitrator_turn.ts";
import type { Millis } from "./core.ts";

/** A config with the identity of its document. */
export interface MarkedConfig {
  readonly config: ClusterConfig;
  readonly mark: ConfigMark;
}

/** Is a view joint under the rules in force, and under those before them while they still count. */
export function isJointHere(state: ArbitratorState, names: ReadonlySet<string>): boolean {
  const { config, former } = state;
  return isJoint(config, names) && (former === null || isJoint(former.config, names));
}

/** The same for over half of a segment. */
export function holdsMajorityHere(
  state: ArbitratorState,
  segment: string,
  names: ReadonlySet<string>,
): boolean {
  const { config, former, durable } = state;
  return [config, ...(former === null ? [] : [former.config])].every((each) =>
    holdsMajority(each, segment, names, durable.retired),
  );
}

/** Every server that counts: of the rules in force, and of those before them while they still do. */
export function voters(state: ArbitratorState): readonly DbServerConfig[] {
  const { config, former } = state;
  if (former === null) return config.servers;
  const gone = former.config.servers.filter(({ id }) => !config.serverById.has(id));
  return [...config.servers, ...gone];
}

export function voter(state: ArbitratorState, id: PartyId): DbServerConfig | undefined {
  return state.config.serverById.get(id) ?? state.former?.config.serverById.get(id);
}

/** The process goes by another document, or holds a newer one. */
export function hearConfig(
  turn: Turn,
  event: MarkedConfig & { readonly held: MarkedConfig | null },
): void {
  const { state } = turn;
  const newest = event.held ?? { config: event.config, mark: event.mark };
  if (state.mark === null || event.mark.rules === state.mark.rules) {
    const news = event.mark.checksum !== state.mark?.checksum;
    if (news || (state.durable.config === undefined && state.observing === null)) {
      set(turn, { config: event.config, mark: event.mark });
      note(turn, { config: { active: event.mark, former: state.former?.mark ?? null } });
      log(turn, "config_taken", { version: event.mark.version });
    }
  }
  const waits = newest.mark.rules === turn.state.mark?.rules ? null : newest;
  set(turn, { offered: waits, configWait: null });
}

/** Puts a document in force when nothing is in the way, and lets its predecessor go in time. */
export function considerConfig(turn: Turn): void {
  follow(turn);
  const { config, mark, offered } = turn.state;
  if (offered === null || mark === null) return;
  const configWait = whatIsInTheWay(turn.state, offered, turn.now);
  set(turn, { configWait });
  if (configWait !== null) return;
  set(turn, {
    config: offered.config,
    mark: offered.mark,
    former: { config, mark },
    offered: null,
    followedAt: Number.POSITIVE_INFINITY,
  });
  note(turn, { config: { active: offered.mark, former: mark } });
  turn.effects.push({ do: "adopt", mark: offered.mark });
  log(turn, "config_in_force", { version: offered.mark.version, before: mark.version });
}

/** Why a document waits; null if it may be put in force. */
function whatIsInTheWay(state: ArbitratorState, offered: MarkedConfig, now: Millis): string | null {
  const { config, durable, former } = state;
  if (state.observing !== null) return state.observing;
  if (state.diskError !== null) return state.diskError;
  if (former !== null) return `the change to version ${state.mark?.version} is not over`;
  if (durable.grant !== null) {
    return `${durable.grant.segment} holds epoch ${durable.grant.epoch}: the view is not joint`;
  }
  // Whoever pushes is told so; a row can be written without asking.
  const [impossible] = impossibleChanges(config, offered.config);
  if (impossible !== undefined) return `it cannot come into force: ${impossible}`;
  const { noted } = durable;
  if (noted === null) return "no Primary view is noted yet";
  const lacking: string[] = [];
  const agreed = new Set<string>();
  for (const server of config.servers) {
    const report = youngReport(state, server.id, { now, maxAgeMs: config.timing.suspectMs });
    if (report === null) {
      // Its word is not needed once a person has said that it is gone for good.
      if (!durable.retired.includes(server.id)) lacking.push(`${server.name} is silent`);
      continue;
    }
    const { active, held } = report.config ?? {};
    const has = [active?.checksum, held?.checksum].includes(offered.mark.checksum);
    if (!has) lacking.push(`${server.name} does not hold it`);
    if (report.fingerprint === noted.fingerprint && report.localState === "Synced") {
      agreed.add(server.name);
    }
  }
  if (lacking.length > 0) return lacking.join(", ");
  if (!isJoint(config, agreed)) return "the view is not joint";
  // Those who stay must carry the next document as well, before anybody new does.
  return isJoint(offered.config, agreed) ? null : "the view would not be joint under it";
}

/** Lets the rules before go, one outwait after the last of their servers has followed. */
function follow(turn: Turn): void {
  const { state, now } = turn;
  const { former, mark, durable } = state;
  if (former === null || mark === null) return;
  const left = stragglers(state, now);
  if (left.length > 0) {
    set(turn, { followedAt: Number.POSITIVE_INFINITY });
    return;
  }
  set(turn, { followedAt: Math.min(state.followedAt, now) });
  if (now < formerUntil(turn.state)) return;
  const known = (id: PartyId) => state.config.serverById.has(id);
  set(turn, {
    former: null,
    heard: new Map([...state.heard].filter(([id]) => known(id))),
    promisedAt: new Map([...state.promisedAt].filter(([id]) => known(id))),
  });
  note(turn, {
    config: { active: mark, former: null },
    draining: durable.draining.filter(known),
    retired: durable.retired.filter(known),
    wishes: durable.wishes.filter(({ server }) => known(server)),
  });
  turn.effects.push({ do: "adopt", mark });
  log(turn, "config_settled", { version: mark.version });
}

/** When the rules before stop counting; `Infinity` while a server has not followed, or there are none. */
export function formerUntil(state: ArbitratorState): Millis {
  if (state.former === null) return Number.POSITIVE_INFINITY;
  return state.followedAt + Math.max(state.former.config.outwaitMs, state.config.outwaitMs);
}

/**
 * Servers of the rules before that have not followed. Whoever once has stays with it: the document is
 * on its disk. One that is no longer in the config has followed when its mariadbd is down. One that is
 * silent and retired is not waited for: nobody who has followed vouches for it.
 */
function stragglers(state: ArbitratorState, now: Millis): readonly DbServerConfig[] {
  const { former, mark, heard, durable, config } = state;
  return (former?.config.servers ?? []).filter((server) => {
    const { report, at } = heard.get(server.id) ?? { at: Number.NEGATIVE_INFINITY };
    if (durable.retired.includes(server.id) && now - at > config.timing.suspectMs) return false;
    if (report === undefined) return true;
    if (report.config?.active.rules !== mark?.rules) return true;
    return !config.serverById.has(server.id) && report.running !== "down";
  });
}

/** What a person should know of the config, in words; empty if it is settled. */
export function configWarnings(state: ArbitratorState, now: Millis): readonly string[] {
  const { offered, mark, former, configWait } = state;
  const behind = stragglers(state, now).map(({ name }) => name);
  return [
    ...(offered === null
      ? []
      : [
          `config version ${offered.mark.version} is pending, ${mark?.version} is in force: ${configWait ?? "it is being looked at"}`,
        ]),
    ...(former === null || behind.length === 0
      ? []
      : [
          `config version ${mark?.version} is in force, ${behind.join(", ")} ${behind.length === 1 ? "goes" : "go"} by ${former.mark.version} yet`,
        ]),
  ];
}
