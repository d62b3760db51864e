/**
 * Which server of the cluster gets how many of this client's connections: tables and pure functions.
 *
 * First each server is judged on its own (JUDGEMENTS: the first row that holds), then the client's
 * policy places all of them. Two invariants: load alone never takes out the last server that
 * serves, and a writer that is fit is never moved for its rank alone. Client minders do not talk to
 * each other: the servers' reports count how many have which writer, and the few follow the many.
 */
import type { ClusterConfig, DbClientConfig, DbServerConfig } from "../cluster_config.ts";
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import type { Millis } from "./core.ts";

/** What the balancer shall do with a server. */
export type Place =
  /** New connections in this proportion, 1 to 100. */
  | { readonly as: "up"; readonly weight: number }
  /** No new connections; those it has may end in their own time. */
  | { readonly as: "drain" }
  /** Not to be used at all. Cutting what is left is a separate list. */
  | { readonly as: "out" };

/** One server's place, and why. */
export interface Placed {
  /** The server's name, also in the balancer. */
  readonly name: string;
  readonly host: string;
  /** Of mariadbd. */
  readonly port: number;
  readonly place: Place;
  readonly because: string;
}

/** What the balancer's table shall be: every server of the config, in the config's order. */
export type Target = readonly Placed[];

/** Share of time paused by flow control at which a server counts as loaded, and as calm again. */
export const FLOW_LOADED = 0.25;
export const FLOW_CALM = 0.05;

/** How far behind the most advanced server one must be to count as loaded, and as calm again. */
export const LAG_LOADED_MS = 3000;
export const LAG_CALM_MS = 1500;

/** Calm for so long, a loaded server gets its weight back. */
export const CALM_MS = 5000;

/** Of those who could write, one that has been fit for so long is chosen before one that has not. */
export const STEADY_MS = 10_000;

/** A loaded server keeps this part of its weight. */
const LOADED_PART = 0.25;

/** Weight where the config gives none. */
const WEIGHT_DEFAULT = 100;

/** What is known of one server at one moment. */
export interface ServerFacts {
  /** Its latest report; null if there has been none. */
  readonly report: Report | null;
  /** Its watchdog has not been heard for suspectMs while others were. */
  readonly silent: boolean;
  /** Its watchdog is overdue, if only by half an interval. */
  readonly overdue: boolean;
  /** Do Primary servers, in reports younger than its own, name it as a member of their view. */
  readonly listed: "yes" | "no" | "unknown";
  /** Its report rests on a poll so old that a later one must have gone without an answer. */
  readonly unanswered: boolean;
  /** Its write probe has hung for so long that a common stall would show on the others as well. */
  readonly hangs: boolean;
  /** A person has put it into maintenance at this very balancer. */
  readonly held: boolean;
}

/** A report, and when it was heard. */
export interface Heard {
  readonly report: Report | null;
  readonly heardAt: Millis;
}

/** Is what a report says older than its watchdog's polls are apart and may take. */
export function isUnanswered({ timing }: ClusterConfig, report: Report | null): boolean {
  // A stopped mariadbd is not polled: that it is down is no matter of age.
  if (report === null || report.running !== "up") return false;
  return report.pollAgeMs >= timing.pollIntervalMs + timing.pollTimeoutMs;
}

/** Do Primary servers name this one as a member, in reports since its own and since `freshSince`. */
export function listedBy(
  server: DbServerConfig,
  heard: ReadonlyMap<PartyId, Heard>,
  freshSince: Millis,
): ServerFacts["listed"] {
  const own = heard.get(server.id)?.heardAt ?? Number.NEGATIVE_INFINITY;
  let listed: ServerFacts["listed"] = "unknown";
  for (const [id, { report, heardAt }] of heard) {
    if (id === server.id || report === null || heardAt <= own || heardAt < freshSince) continue;
    if (report.primary !== "yes" || report.fenced || report.running !== "up") continue;
    if (namesIn(report.members).has(server.name)) return "yes";
    listed = "no";
  }
  return listed;
}

/** All servers of a view report the same list, and each is looked for in it: made once for all of them. */
const names = new WeakMap<Report["members"], ReadonlySet<string>>();

function namesIn(members: Report["members"]): ReadonlySet<string> {
  const known = names.get(members);
  if (known !== undefined) return known;
  const found = new Set(members.map(({ name }) => name));
  names.set(members, found);
  return found;
}

/** What one server is good for. */
export type Standing =
  /** Takes connections. */
  | "serving"
  /** No clear word: used only if no other server serves. */
  | "doubtful"
  /** No new connections, by order. */
  | "draining"
  /** Not to be used. */
  | "gone";

interface Judgement {
  readonly id: string;
  readonly when: (facts: ServerFacts) => boolean;
  readonly standing: Standing;
  /** Sessions that it still has are cut. */
  readonly cut: boolean;
  readonly because: string;
}

/** The first row that holds decides; the last one always does. */
export const JUDGEMENTS = [
  {
    id: "never_heard_but_listed",
    when: ({ report, listed }) => report === null && listed === "yes",
    standing: "doubtful",
    cut: false,
    because: "its watchdog has not been heard, but the others name it as a member",
  },
  {
    id: "never_heard",
    when: ({ report, listed }) => report === null && listed === "no",
    standing: "gone",
    cut: true,
    because: "its watchdog has not been heard, and it is in no Primary view",
  },
  {
    id: "unknown",
    when: ({ report }) => report === null,
    standing: "doubtful",
    cut: false,
    because: "its watchdog has not been heard, and nobody can say how it is",
  },
  {
    id: "down",
    when: ({ report }) => report?.running === "down",
    standing: "gone",
    cut: true,
    because: "mariadbd is down",
  },
  {
    id: "fenced",
    when: ({ report }) => report?.fenced === true,
    standing: "gone",
    cut: true,
    because: "it is fenced",
  },
  {
    id: "not_primary",
    when: ({ report }) => report?.primary === "no",
    standing: "gone",
    cut: true,
    because: "it is not Primary",
  },
  {
    // A view without it is the others' agreement that it is gone: no need to wait for its silence.
    id: "lost",
    when: ({ overdue, listed }) => overdue && listed === "no",
    standing: "gone",
    cut: true,
    because: "its watchdog is overdue, and the others' Primary view is without it",
  },
  {
    id: "not_serving",
    when: ({ report }) => report?.serving === "off",
    standing: "gone",
    cut: false,
    because: "it does not serve",
  },
  {
    id: "held",
    when: ({ held }) => held,
    standing: "draining",
    cut: false,
    because: "a person put it into maintenance at the balancer",
  },
  {
    id: "leaving",
    when: ({ report }) => report?.leaving === true,
    standing: "draining",
    cut: false,
    because: "a stop was ordered",
  },
  {
    id: "draining",
    when: ({ report }) => report?.draining === true,
    standing: "draining",
    cut: false,
    because: "a person drains it",
  },
  {
    id: "silent",
    when: ({ silent }) => silent,
    standing: "doubtful",
    cut: false,
    because: "its watchdog is silent while others speak",
  },
  {
    id: "unclear",
    when: ({ report, unanswered }) =>
      unanswered ||
      report?.running === "unknown" ||
      report?.serving === "unknown" ||
      report?.primary === "unknown",
    standing: "doubtful",
    cut: false,
    because: "its mariadbd does not answer its watchdog",
  },
  {
    id: "hangs",
    when: ({ hangs }) => hangs,
    standing: "doubtful",
    cut: false,
    because: "its writes hang",
  },
  {
    id: "serves",
    when: () => true,
    standing: "serving",
    cut: false,
    because: "it serves",
  },
] as const satisfies readonly Judgement[];

export type JudgementId = (typeof JUDGEMENTS)[number]["id"];

/** The first row of JUDGEMENTS that holds. */
export function judge(facts: ServerFacts): Judgement & { readonly id: JudgementId } {
  for (const row of JUDGEMENTS) if (row.when(facts)) return row;
  throw new Error("The last judgement always holds");
}

/** A server as the policies see it. */
export interface Candidate {
  readonly server: DbServerConfig;
  readonly standing: Standing;
  readonly because: string;
  /** Neither a donor, nor desynced, nor still catching up. */
  readonly synced: boolean;
  /** Flow-controlled or behind, with hysteresis. */
  readonly loaded: boolean;
  /** Fit for writing for STEADY_MS, or ever since this minder has known it. */
  readonly steady: boolean;
  /** Where writers belong, as the arbitrator last told it; null where it has not. */
  readonly primarySegment: string | null;
  /** A switchover takes the writers elsewhere: a single writer leaves it, if there is another. */
  readonly yielding: boolean;
  /** Client minders that have it as their writer. */
  readonly writers: number;
  /** Highest epoch that it has heard of. */
  readonly epochSeen: number;
}

/** Weight of a server for this client: its own, else its segment's, else 100; always 1 to 100. */
export function weightFor(client: Pick<ClientPolicy, "weights">, server: DbServerConfig): number {
  const given = client.weights?.[server.name] ?? client.weights?.[server.segment] ?? WEIGHT_DEFAULT;
  return Math.min(100, Math.max(1, Math.round(given)));
}

/**
 * The segment in which writers belong: what the serving servers say who know the newest epoch, by
 * their majority; else the configured one.
 */
export function writingSegment(config: ClusterConfig, candidates: readonly Candidate[]): string {
  const voters = candidates.filter(({ standing }) => standing === "serving");
  const newest = Math.max(...voters.map(({ epochSeen }) => epochSeen));
  const votes = new Map<string, number>();
  for (const { primarySegment, epochSeen } of voters) {
    if (primarySegment === null || epochSeen < newest) continue;
    votes.set(primarySegment, (votes.get(primarySegment) ?? 0) + 1);
  }
  let best = config.primarySegment;
  for (const { name } of config.segments) {
    if ((votes.get(name) ?? 0) > (votes.get(best) ?? 0)) best = name;
  }
  return best;
}

/**
 * The servers in the order in which they are asked to write: the one that most client minders have
 * as their writer already; then those of the segment in which writers belong, then the others, each
 * in the config's order. Unlike flow control or lag, all of this reads the same for every client
 * minder; `writers` and `steady` differ between them by no more than their reports' delays, but for
 * STEADY_MS after one of them has started, which takes everybody for steady.
 */
export function succession(
  config: ClusterConfig,
  candidates: readonly Candidate[],
): readonly Candidate[] {
  const segment = writingSegment(config, candidates);
  const place = new Map(config.servers.map((server, index) => [server.id, index]));
  const rank = (candidate: Candidate): readonly number[] => [
    candidate.standing === "serving" ? 0 : 1,
    candidate.synced ? 0 : 1,
    candidate.yielding ? 1 : 0,
    -candidate.writers,
    candidate.steady ? 0 : 1,
    candidate.server.segment === segment ? 0 : 1,
    place.get(candidate.server.id) ?? config.servers.length,
  ];
  return candidates
    .filter(({ standing }) => standing === "serving" || standing === "doubtful")
    .map((candidate) => ({ candidate, key: rank(candidate) }))
    .sort((a, b) => compareKeys(a.key, b.key))
    .map(({ candidate }) => candidate);
}

function compareKeys(a: readonly number[], b: readonly number[]): number {
  for (const [index, left] of a.entries()) {
    const right = b[index] ?? left;
    if (left !== right) return left - right;
  }
  return 0;
}

/** Who takes new connections, and in what proportion; whoever is missing here gets none. */
interface Share {
  readonly weight: number;
  readonly because: string;
}
type Shares = ReadonlyMap<DbServerConfig, Share>;

/** What of a client's config decides. */
export type ClientPolicy = Pick<DbClientConfig, "policy" | "segment" | "weights">;

interface PolicyInput {
  readonly config: ClusterConfig;
  readonly client: ClientPolicy;
  /** Name of the present writer, to keep if it is fit; null if there is none, or none to keep. */
  readonly writer: string | null;
  /** Only those that may take connections: all of one standing, never a mixture. */
  readonly able: readonly Candidate[];
}

/** One row per policy. `standby` says why a server that could serve is given nothing. */
const POLICIES: Readonly<
  Record<
    DbClientConfig["policy"],
    { readonly share: (input: PolicyInput) => Shares; readonly standby: string }
  >
> = {
  "single-writer": { share: singleWriter, standby: "it stands by: another one writes" },
  "local-first": { share: localFirst, standby: "it stands by: another one serves" },
  spread: { share: spread, standby: "it stands by: it is not in step" },
};

function singleWriter({ config, client, writer: present, able }: PolicyInput): Shares {
  const first = succession(config, able)[0];
  if (first === undefined) return new Map();
  const kept = able.find(({ server }) => server.name === present);
  const writer = kept !== undefined && !givesWay(kept, first) ? kept : first;
  return new Map([
    [writer.server, { weight: weightFor(client, writer.server), because: "it is the writer" }],
  ]);
}

/**
 * Only a donor, or one that is catching up, gives way to one that is in step; and one that a person
 * moves the writers from, to one that they move them to.
 */
function givesWay(kept: Candidate, first: Candidate): boolean {
  if (!kept.synced) return first.synced;
  return kept.yielding && !first.yielding && first.synced;
}

function localFirst(input: PolicyInput): Shares {
  const near = input.able.filter(({ server }) => server.segment === input.client.segment);
  return spread(near.length === 0 ? input : { ...input, able: near });
}

function spread({ client, able }: PolicyInput): Shares {
  // A donor may be blocked altogether by its state transfer: it waits, if anybody else can serve.
  const synced = able.filter((candidate) => candidate.synced);
  const pool = synced.length > 0 ? synced : able;
  const someCalm = pool.some((candidate) => !candidate.loaded);
  return new Map(
    pool.map((candidate) => {
      const full = weightFor(client, candidate.server);
      // If all are loaded, or there is but one, less weight for each would mean nothing.
      if (!candidate.loaded || !someCalm) {
        return [candidate.server, { weight: full, because: candidate.because }];
      }
      const weight = Math.max(1, Math.round(full * LOADED_PART));
      return [candidate.server, { weight, because: "it serves under load" }];
    }),
  );
}

/**
 * Judges from reports alone, without the memory that makes a client minder calm: for whoever only
 * answers a question now. A server unheard for suspectMs is silent.
 */
export function candidatesNow(
  config: ClusterConfig,
  heard: ReadonlyMap<PartyId, Heard>,
  now: Millis,
): readonly Candidate[] {
  const { suspectMs, reportIntervalMs } = config.timing;
  return config.servers.map((server) => {
    const { report, heardAt } = heard.get(server.id) ?? { report: null, heardAt: 0 };
    const { standing, because } = judge({
      report,
      silent: now - heardAt >= suspectMs,
      overdue: now - heardAt >= 1.5 * reportIntervalMs,
      listed: listedBy(server, heard, now - suspectMs),
      unanswered: isUnanswered(config, report),
      hangs: report?.probe === "hanging",
      held: false,
    });
    return {
      server,
      standing,
      because,
      synced: report?.localState === "Synced",
      loaded: (report?.flowControl ?? 0) >= FLOW_LOADED,
      steady: true,
      primarySegment: report?.primarySegment ?? null,
      yielding: report?.yielding === true,
      writers: report?.writers ?? 0,
      epochSeen: report?.epochSeen ?? 0,
    };
  });
}

/** Missing information never takes out the last one: where nobody surely serves, doubt does. */
function ableOf(candidates: readonly Candidate[]): readonly Candidate[] {
  const serving = candidates.filter(({ standing }) => standing === "serving");
  return serving.length > 0
    ? serving
    : candidates.filter(({ standing }) => standing === "doubtful");
}

/**
 * The server that other client minders have agreed on as their writer instead of this one: at least
 * as many as have this one, and before it in the order of succession. Null if there is none.
 */
export function rivalOf(
  config: ClusterConfig,
  candidates: readonly Candidate[],
  writer: string,
): string | null {
  const [first] = succession(config, ableOf(candidates));
  if (first === undefined || first.writers === 0 || first.server.name === writer) return null;
  return first.server.name;
}

/** Places every server by the client's policy; a `writer` that is fit stays the writer. */
export function placeAll(
  config: ClusterConfig,
  client: ClientPolicy,
  candidates: readonly Candidate[],
  writer: string | null = null,
): Target {
  const able = ableOf(candidates);
  const policy = POLICIES[client.policy];
  const shares = policy.share({ config, client, writer, able });
  return candidates.map((candidate) => {
    const { server, standing, because } = candidate;
    const share = shares.get(server);
    const common = { name: server.name, host: server.host, port: server.mysqlPort };
    if (share !== undefined) {
      const place: Place = { as: "up", weight: share.weight };
      return { ...common, place, because: share.because };
    }
    if (standing === "gone") return { ...common, place: { as: "out" }, because };
    const idle = standing === "serving" ? policy.standby : because;
    return { ...common, place: { as: "drain" }, because: idle };
  });
}

/** Do two places ask the same of a balancer. */
export function samePlace(a: Place, b: Place): boolean {
  if (a.as === "up" && b.as === "up") return a.weight === b.weight;
  return a.as === b.as;
}

/** In words: `up 100`, `drain`, `out`. */
export function describePlace(place: Place): string {
  return place.as === "up" ? `up ${place.weight}` : place.as;
}
