/**
 * What one poll of a mariadbd says, and what follows from it without knowing anything else:
 * the fingerprint of its view and its group. Pure; effects/mysql.ts fetches the rows.
 */
import type { ClusterConfig } from "./cluster_config.ts";
import type { Member, Report } from "./message/dbserver.ts";
import type { PartyId } from "./message/envelope.ts";

/** One poll, typed. Sources: SHOW GLOBAL STATUS / VARIABLES and WSREP_MEMBERSHIP. */
export interface WsrepStatus {
  /** `wsrep_cluster_status`. */
  readonly primary: boolean;
  /** `wsrep_ready`. */
  readonly ready: boolean;
  /** Is it in a group: false once the provider is closed, whatever `wsrep_connected` goes on saying. */
  readonly connected: boolean;
  /** `wsrep_cluster_state_uuid`, null if all zero or absent. */
  readonly stateUuid: string | null;
  /**
   * `wsrep_cluster_conf_id`, null outside Primary. No identity by itself, but a member of a view with
   * the same members and the same number as before has not left it meanwhile.
   */
  readonly confId: string | null;
  /** `wsrep_last_committed`, -1 if none. */
  readonly lastCommitted: number;
  /** `wsrep_local_state_comment`. */
  readonly localState: string;
  readonly gcommUuid: string | null;
  readonly evsState: string | null;
  /** Members of the present view; empty if none. */
  readonly members: readonly Member[];
  /** `pc.weight` out of wsrep_provider_options; null if the provider is closed. */
  readonly weight: number | null;
  /** `wsrep_cluster_weight`. */
  readonly clusterWeight: number | null;
  /** `wsrep_flow_control_paused_ns`. */
  readonly flowControlPausedNs: number;
  readonly flowControlActive: boolean;
  readonly recvQueue: number;
  /** `wsrep_reject_queries` is not NONE. */
  readonly rejecting: boolean;
  readonly readOnly: boolean;
  readonly evictList: readonly string[];
  /** `evs.join_retrans_period` and `evs.keepalive_period`; null where the provider does not say. */
  readonly joinRetransMs: number | null;
  readonly keepaliveMs: number | null;
  readonly serverVersion: string;
  readonly providerVersion: string;
}

/** What Galera calls a member whose name it has not been told: parts that meet outside Primary tell none. */
export const UNSPECIFIED = "unspecified";

/** Milliseconds of an ISO 8601 duration as Galera shows it (`PT1M30.5S`); null if it is none. */
export function durationMs(text: string | null | undefined): number | null {
  const match = /^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$/.exec(text ?? "");
  if (match === null) return null;
  const [, days = 0, hours = 0, minutes = 0, secs = 0] = match;
  const whole = (Number(days) * 24 + Number(hours)) * 60 + Number(minutes);
  return Math.round((whole * 60 + Number(secs)) * 1000);
}

/** Identity of a view; null if there is none. Source: DESIGN words, "fingerprint". */
export function fingerprint(
  stateUuid: string | null,
  primary: boolean,
  members: readonly Pick<Member, "uuid">[],
): string | null {
  if (stateUuid === null || members.length === 0) return null;
  const kept = PRINTS.get(members);
  if (kept !== undefined && kept.stateUuid === stateUuid && kept.primary === primary) {
    return kept.print;
  }
  const uuids = members
    .map((member) => member.uuid)
    .sort()
    .join("+");
  const print = `${stateUuid}/${primary ? "P" : "N"}/${uuids}`;
  PRINTS.set(members, { stateUuid, primary, print });
  return print;
}

/** Fingerprint of a Primary view whose members are not known: nobody has that UUID. */
export function unknownView(stateUuid: string | null): string {
  return `${stateUuid ?? NOBODY}/P/${NOBODY}`;
}

const NOBODY = "00000000-0000-0000-0000-000000000000";

// What follows from one member list is asked for many times at every event. A list is never changed
// once it is made, so each answer is kept for as long as its list lives.
const PRINTS = new WeakMap<
  readonly Pick<Member, "uuid">[],
  { readonly stateUuid: string; readonly primary: boolean; readonly print: string }
>();
const NAMES = new WeakMap<readonly Pick<Member, "name">[], ReadonlySet<string>>();
const GROUPS = new WeakMap<
  readonly Pick<Member, "name">[],
  { readonly config: ClusterConfig; readonly bySegment: Map<string, Report["group"]> }
>();
const JOINT = new WeakMap<
  ReadonlySet<string>,
  { readonly config: ClusterConfig; readonly joint: boolean }
>();

/** Names of the members of a view. */
export function namesIn(members: readonly Pick<Member, "name">[]): ReadonlySet<string> {
  let names = NAMES.get(members);
  if (names === undefined) {
    names = new Set(members.map((member) => member.name));
    NAMES.set(members, names);
  }
  return names;
}

/** Member UUIDs of a fingerprint, sorted. */
export function fingerprintMembers(print: string): readonly string[] {
  let members = MEMBERS.get(print);
  if (members === undefined) {
    const list = print.slice(print.lastIndexOf("/") + 1);
    members = list === "" ? [] : list.split("+");
    if (MEMBERS.size >= MEMBERS_MAX) MEMBERS.clear();
    MEMBERS.set(print, members);
  }
  return members;
}

/** Of few fingerprints at a time the members are asked for, again and again; they may come from outside. */
const MEMBERS_MAX = 64;
const MEMBERS = new Map<string, readonly string[]>();

/** How a server's Galera members compare with the config. A member that the config does not name makes it partial. */
export function groupOf(
  config: ClusterConfig,
  segment: string,
  members: readonly Pick<Member, "name">[],
): Report["group"] {
  if (members.length === 0) return "down";
  let kept = GROUPS.get(members);
  if (kept === undefined || kept.config !== config) {
    kept = { config, bySegment: new Map() };
    GROUPS.set(members, kept);
  }
  let group = kept.bySegment.get(segment);
  if (group === undefined) {
    group = compareWithConfig(config, segment, namesIn(members));
    kept.bySegment.set(segment, group);
  }
  return group;
}

function compareWithConfig(
  config: ClusterConfig,
  segment: string,
  present: ReadonlySet<string>,
): Report["group"] {
  const own = config.servers.filter((server) => server.segment === segment);
  const known = config.servers.filter((server) => present.has(server.name));
  if (known.length !== present.size) return "partial";
  if (known.length === config.servers.length) return "complete";
  const ofOwn = known.filter((server) => server.segment === segment);
  if (ofOwn.length === own.length && known.length === own.length) return "segment";
  return known.length === 1 ? "single" : "partial";
}

/** A joint view holds at least half of every segment's configured servers. */
export function isJoint(config: ClusterConfig, memberNames: ReadonlySet<string>): boolean {
  const kept = JOINT.get(memberNames);
  if (kept?.config === config) return kept.joint;
  const joint = config.segments.every(({ servers }) => {
    let present = 0;
    for (const { name } of servers) if (memberNames.has(name)) present++;
    return 2 * present >= servers.length;
  });
  JOINT.set(memberNames, { config, joint });
  return joint;
}

/** Does a view hold more than half of a segment's configured servers, those without a say left out. */
export function holdsMajority(
  config: ClusterConfig,
  segment: string,
  memberNames: ReadonlySet<string>,
  retired: readonly PartyId[] = [],
): boolean {
  let size = 0;
  let present = 0;
  for (const server of config.servers) {
    if (server.segment !== segment || retired.includes(server.id)) continue;
    size++;
    if (memberNames.has(server.name)) present++;
  }
  return present * 2 > size;
}

/** Another segment than that one which has its majority in a view; null if there is none. */
export function majorityBeside(
  config: ClusterConfig,
  segment: string,
  memberNames: ReadonlySet<string>,
  retired: readonly PartyId[],
): string | null {
  const beside = config.segments.find(
    ({ name }) => name !== segment && holdsMajority(config, name, memberNames, retired),
  );
  return beside?.name ?? null;
}
