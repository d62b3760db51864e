/**
 * What an order of a person would do now: its checks, its steps, and the change it makes, as one value
 * computed from the live state. A dry run prints that value and the order carries it out, so the two
 * cannot disagree.
 */
import { clientWordMs } from "../cluster_config.ts";
import { unreachable } from "../errors.ts";
import type { Loss, Plan, Standing } from "../message/arbitrator.ts";
import type {
  DrainOrder,
  MakePrimaryOrder,
  NodeOrder,
  PauseOrder,
  ResumeOrder,
  SwitchoverOrder,
} from "../message/command.ts";
import type { Aside, Position } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import type { BodyOf } from "../message/mod.ts";
import { holdsMajority, isJoint } from "../wsrep_status.ts";
import { chooseBootstrap, type Outage } from "./arbitrator_outage.ts";
import {
  clip,
  factsOf,
  isCalm,
  isForOutage,
  judge,
  PROMOTE,
  RULES,
  type Rule,
} from "./arbitrator_rules.ts";
import {
  type ArbitratorDurable,
  type ArbitratorState,
  activeServers,
  namesOf,
  type PersonOrder,
  standingOf,
  youngReport,
} from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";

/** Messages of people that are orders. */
export type Order = Exclude<
  BodyOf<"command>arbitrator">,
  { verb: "status_summary" | "history" | "snapshot" }
>;

/** What carrying out an order changes. */
export type Change =
  /** Write this down, and let these servers hear of it at once. */
  | {
      readonly is: "note";
      readonly durable: Partial<ArbitratorDurable>;
      readonly tell: readonly PartyId[];
    }
  /** Let these servers know what is wanted of them. */
  | {
      readonly is: "wish";
      readonly start: readonly PartyId[];
      readonly discard: ReadonlyMap<PartyId, readonly string[]>;
    }
  /** Let this server take another's data. */
  | {
      readonly is: "reseed";
      readonly to: PartyId;
      readonly reportNumber: number;
      readonly position: Position | null;
    }
  /** Put an arbitrator that has lost its state back to work. */
  | { readonly is: "rearm" }
  /** Promote: the decision that follows in the same step grants it. */
  | { readonly is: "promote"; readonly person: PersonOrder };

/** A plan with the change that it stands for; null where there is nothing to do. */
export interface Planned extends Plan {
  readonly change: Change | null;
}

type Check = Plan["checks"][number];

/** A person's make_primary is worked on for so long. */
const PERSON_ORDER_MS = 15_000;
/** Servers that stay open where a drain names no floor. */
export const FLOOR_DEFAULT = 1;

/** Plans an order from the live state; changes nothing. */
export function planOrder(state: ArbitratorState, order: Order, now: Millis): Planned {
  switch (order.verb) {
    case "drain":
      return planDrain(state, order.parameters, now);
    case "undrain":
      return planUndrain(state, order.parameters);
    case "retire":
    case "restore":
      return planRetire(state, order.verb, order.parameters);
    case "start":
      return planStart(state, order.parameters, now);
    case "discard":
      return planDiscard(state, order.parameters, now);
    case "reseed":
      return planReseed(state, order.parameters, now);
    case "pause":
      return planPause(state, order.parameters);
    case "resume":
      return planResume(state, order.parameters);
    case "make_primary":
      return planMakePrimary(state, order.parameters, now);
    case "switchover":
      return planSwitchover(state, order.parameters, now);
    default:
      return unreachable(order);
  }
}

// --- the form of a plan ----------------------------------------------------------------------

function check(id: string, against: string | null, passed: string): Check {
  return { id, passed: against === null, because: clip(against ?? passed) };
}

interface Draft {
  readonly order: string;
  readonly checks: readonly Check[];
  /** Why there is nothing to do; null if there is. */
  readonly already: string | null;
  /** In one line, what the order does. */
  readonly because: string;
  readonly steps: readonly string[];
  readonly change: Change;
  readonly loss?: Loss | null;
  /** Is the failing check's id part of the answer. */
  readonly named?: boolean;
}

/** The first check that fails is the answer; where all pass the order is carried out, or has been. */
function finish(draft: Draft): Planned {
  const { order, checks, loss = null } = draft;
  const failed = checks.find(({ passed }) => !passed);
  if (failed !== undefined) {
    const because = clip(draft.named === true ? `${failed.id}: ${failed.because}` : failed.because);
    return { order, outcome: "refused", because, checks, steps: [], loss, change: null };
  }
  if (draft.already !== null) {
    const because = clip(draft.already);
    return { order, outcome: "already", because, checks, steps: [], loss, change: null };
  }
  return {
    order,
    outcome: "would",
    because: clip(draft.because),
    checks,
    steps: draft.steps.map(clip),
    loss,
    change: draft.change,
  };
}

/** Refuses what another person has ordered before, with their name. */
function freeOf(
  others: readonly Standing[],
  order: { readonly who: string; readonly takeOver?: boolean | undefined },
): Check {
  const other = others.find(({ who }) => who !== order.who);
  const against =
    other === undefined || order.takeOver === true
      ? null
      : `${describeStanding(other)}; ask them, or take it over with --take-over`;
  return check("order.free", against, "nobody else is at work here");
}

/** A standing order in words. */
export function describeStanding(standing: Standing): string {
  const { verb, about, who, why } = standing;
  const reason = why === "" ? "" : `: ${why}`;
  switch (verb) {
    case "pause":
      return `${who} has paused automatic decisions${reason}`;
    case "drain":
      return `${who} drains ${about}${reason}`;
    case "retire":
      return `${who} has retired ${about}${reason}`;
    case "switchover":
      return `${who} moves the writers to ${about}${reason}`;
    default:
      return unreachable(verb);
  }
}

/** Servers that a name stands for: a server's name, a party id, or a segment. */
function resolve(state: ArbitratorState, name: string): readonly PartyId[] {
  return state.config.servers
    .filter((server) => server.name === name || server.id === name || server.segment === name)
    .map((server) => server.id);
}

function namesKnown(state: ArbitratorState, node: string, ids: readonly PartyId[]): Check {
  const known = state.config.servers.map((server) => server.name).join(", ");
  const against =
    ids.length > 0 ? null : `no server or segment is called ${node}: there are ${known}`;
  return check("name.known", against, ids.join(", "));
}

function segmentKnown(state: ArbitratorState, name: string): Check {
  const known = state.config.segments.map((segment) => segment.name);
  const against = known.includes(name)
    ? null
    : `no segment is called ${name}: there are ${known.join(", ")}`;
  return check("name.known", against, name);
}

function nameOf(state: ArbitratorState, id: PartyId): string {
  return state.config.serverById.get(id)?.name ?? id;
}

/** Servers that serve by a young report and that nobody drains, but for those left out. */
export function openServers(
  state: ArbitratorState,
  without: readonly PartyId[],
  now: Millis,
): readonly PartyId[] {
  const maxAgeMs = state.config.timing.suspectMs;
  return state.config.servers
    .map(({ id }) => id)
    .filter((id) => !without.includes(id) && !state.durable.draining.includes(id))
    .filter((id) => youngReport(state, id, { now, maxAgeMs })?.serving === "on");
}

// --- drain, undrain, retire, restore ---------------------------------------------------------

function planDrain(state: ArbitratorState, order: DrainOrder, now: Millis): Planned {
  const { durable } = state;
  const ids = resolve(state, order.node);
  const floor = order.floor ?? FLOOR_DEFAULT;
  const deadlineMs = order.deadlineMs ?? null;
  const others = standingOf(state, "drain").filter(({ about }) => isOneOf(ids, about));
  const left = openServers(state, ids, now).map((id) => nameOf(state, id));
  // Repeated with the same words it changes nothing, whatever has happened meanwhile.
  const same = ids.every((id) =>
    others.some(
      (each) =>
        each.about === id &&
        each.floor === floor &&
        each.deadlineMs === deadlineMs &&
        each.who === order.who,
    ),
  );
  const tooFew =
    left.length >= floor || same
      ? null
      : `${left.length === 0 ? "no server" : left.join(", ")} would stay open to clients, the floor is ${floor}: bring others back first, or say a lower --floor`;
  const names = ids.map((id) => nameOf(state, id)).join(", ");
  const cut =
    deadlineMs === null
      ? "sessions that are there end in their own time"
      : `sessions left after ${seconds(deadlineMs)} are cut`;
  return finish({
    order: "drain",
    checks: [
      namesKnown(state, order.node, ids),
      freeOf(others, order),
      check("floor.kept", tooFew, `${left.join(", ")} stay open to clients`),
    ],
    already: same && ids.length > 0 ? `${names} drained already` : null,
    because: `drain: ${ids.join(", ")}`,
    steps: [
      `no new client connections to ${names}; ${cut}`,
      ...moveOfWriters(state, ids, now),
      `while fewer than ${floor} other server${floor === 1 ? "" : "s"} serve${floor === 1 ? "s" : ""}, the drain waits and they are used`,
      "replication goes on: they stay members and stay up to date",
    ],
    change: {
      is: "note",
      durable: {
        draining: [...new Set([...durable.draining, ...ids])],
        standing: [
          ...durable.standing.filter((each) => !others.includes(each)),
          ...ids.map((id) => sign(order, { verb: "drain", about: id, deadlineMs, floor })),
        ],
      },
      tell: ids,
    },
  });
}

/** What a drain does to single writers, where it takes theirs. */
function moveOfWriters(
  state: ArbitratorState,
  ids: readonly PartyId[],
  now: Millis,
): readonly string[] {
  const maxAgeMs = state.config.timing.suspectMs;
  return ids.flatMap((id) => {
    const writers = youngReport(state, id, { now, maxAgeMs })?.writers ?? 0;
    return writers === 0
      ? []
      : [
          `${writers} client minder${writers === 1 ? " has" : "s have"} ${nameOf(state, id)} as their writer: they choose another`,
        ];
  });
}

function planUndrain(state: ArbitratorState, order: NodeOrder): Planned {
  const { durable } = state;
  const ids = resolve(state, order.node);
  const theirs = standingOf(state, "drain").filter(({ about }) => isOneOf(ids, about));
  const drained = ids.filter((id) => durable.draining.includes(id));
  const names = drained.map((id) => nameOf(state, id)).join(", ");
  return finish({
    order: "undrain",
    checks: [namesKnown(state, order.node, ids), freeOf(theirs, order)],
    already: drained.length === 0 ? `${order.node} is not drained` : null,
    because: `undrain: ${ids.join(", ")}`,
    steps: [
      `clients may use ${names} again`,
      "a writer that is fit stays where it is: single writers do not move back by themselves",
    ],
    change: {
      is: "note",
      durable: {
        draining: durable.draining.filter((id) => !ids.includes(id)),
        standing: durable.standing.filter((each) => !theirs.includes(each)),
      },
      tell: drained,
    },
  });
}

function planRetire(state: ArbitratorState, verb: "retire" | "restore", order: NodeOrder): Planned {
  const { durable } = state;
  const ids = resolve(state, order.node);
  const theirs = standingOf(state, "retire").filter(({ about }) => isOneOf(ids, about));
  const retires = verb === "retire";
  const concerned = ids.filter((id) => durable.retired.includes(id) !== retires);
  const names = concerned.map((id) => nameOf(state, id)).join(", ");
  const after = retires
    ? [...durable.retired, ...concerned]
    : durable.retired.filter((id) => !ids.includes(id));
  return finish({
    order: verb,
    checks: [namesKnown(state, order.node, ids), freeOf(theirs, order)],
    already:
      concerned.length === 0
        ? `${order.node} has ${retires ? "no say already" : "its say already"}`
        : null,
    because: `${verb}: ${ids.join(", ")}`,
    steps: [
      retires
        ? `${names} ${concerned.length === 1 ? "has" : "have"} no say any more where majorities are counted; one that still runs keeps it as long as it is in the newest view`
        : `${names} ${concerned.length === 1 ? "has" : "have"} a say again`,
      ...state.config.segments.map(({ name, servers }) => {
        const counted = servers.filter((server) => !after.includes(server.id)).length;
        return `${name}: ${counted} of ${servers.length} servers have a say, ${Math.floor(counted / 2) + 1} of them promote it`;
      }),
    ],
    change: {
      is: "note",
      durable: {
        retired: after,
        standing: [
          ...durable.standing.filter((each) => !theirs.includes(each)),
          ...(retires ? ids.map((id) => sign(order, { verb: "retire", about: id })) : []),
        ],
      },
      tell: [],
    },
  });
}

function isOneOf(ids: readonly PartyId[], about: string): boolean {
  return ids.some((id) => id === about);
}

function sign(
  order: { readonly who: string; readonly why: string },
  what: Pick<Standing, "verb" | "about"> & Partial<Standing>,
): Standing {
  const { who, why } = order;
  return { deadlineMs: null, floor: 0, from: "", ...what, who, why };
}

// --- start, discard ----------------------------------------------------------------------------

/** A server whose watchdog is silent can be told nothing. */
function allSpeak(state: ArbitratorState, ids: readonly PartyId[], now: Millis): Check {
  const maxAgeMs = state.config.timing.suspectMs;
  const silent = ids.filter((id) => youngReport(state, id, { now, maxAgeMs }) === null);
  const names = silent.map((id) => nameOf(state, id)).join(", ");
  return check(
    "server.speaks",
    silent.length === 0 ? null : `unheard: ${names}; start the watchdog there first`,
    ids.join(", "),
  );
}

function planStart(state: ArbitratorState, order: NodeOrder, now: Millis): Planned {
  const ids = resolve(state, order.node);
  const down = ids.filter((id) => state.heard.get(id)?.report.running === "down");
  const names = down.map((id) => nameOf(state, id)).join(", ");
  return finish({
    order: "start",
    checks: [namesKnown(state, order.node, ids), allSpeak(state, ids, now)],
    already: down.length === 0 ? `${order.node} is not down` : null,
    because: `start: ${down.join(", ")}`,
    steps: [
      `the failed starts of ${names} are forgotten`,
      "it starts as soon as its verdict says so: join, full transfer, or the wait for a full outage's choice",
    ],
    change: { is: "wish", start: down, discard: new Map() },
  });
}

function planDiscard(state: ArbitratorState, order: NodeOrder, now: Millis): Planned {
  const ids = resolve(state, order.node);
  const found = ids.flatMap((id) => {
    const aside = state.heard.get(id)?.report.aside ?? [];
    return aside.length === 0 ? [] : [{ id, aside }];
  });
  return finish({
    order: "discard",
    checks: [namesKnown(state, order.node, ids), allSpeak(state, ids, now)],
    already: found.length === 0 ? `${order.node} has nothing set aside` : null,
    because: `discard: ${found.map(({ id, aside }) => `${id} ${sizeOf(aside)}`).join(", ")}`,
    steps: [
      ...found.flatMap(({ id, aside }) =>
        aside.map((one) => `${nameOf(state, id)}: ${one.name} is removed, ${sizeOf([one])}`),
      ),
      "rows that were only there are gone for good",
    ],
    change: {
      is: "wish",
      start: [],
      discard: new Map(found.map(({ id, aside }) => [id, aside.map(({ name }) => name)])),
    },
  });
}

/** One server at a time, and only where the others are fit to go on, and to give it their data. */
function planReseed(state: ArbitratorState, order: NodeOrder, now: Millis): Planned {
  const { config, durable } = state;
  const server = config.servers.find(({ name, id }) => name === order.node || id === order.node);
  const maxAgeMs = config.timing.suspectMs;
  const reports = config.servers.flatMap((each) => {
    const report = youngReport(state, each.id, { now, maxAgeMs });
    return report === null ? [] : [{ each, report }];
  });
  const own = reports.find(({ each }) => each === server)?.report ?? null;
  const name = server?.name ?? order.node;
  const donors = reports.filter(
    ({ each, report }) =>
      each !== server &&
      report.serving === "on" &&
      report.localState === "Synced" &&
      !report.diverged,
  );
  const left = new Set(donors.map(({ each }) => each.name));
  const { grant } = durable;
  const solo = grant !== null && holdsMajority(config, grant.segment, left, durable.retired);
  const other = reports.find(({ each, report }) => each !== server && report.diverged);
  const known = config.servers.map((each) => each.name).join(", ");
  const drained = durable.draining.some((id) => id === server?.id);
  const open = own?.serving === "on" && !drained;
  const taken = [...standingOf(state, "pause"), ...standingOf(state, "switchover")];
  const stops = own !== null && own.running !== "down";
  return finish({
    order: "reseed",
    named: true,
    checks: [
      check(
        "name.known",
        server === undefined
          ? `no server is called ${order.node}, and it is one at a time: there are ${known}`
          : null,
        name,
      ),
      check(
        "server.speaks",
        own === null ? `the watchdog of ${name} is not heard: start it first` : null,
        `${name} reports`,
      ),
      check(
        "store.trusted",
        state.observing ?? state.diskError,
        "the store is writable and can be relied on",
      ),
      freeOf(taken, order),
      check(
        "reseed.alone",
        other === undefined
          ? null
          : `${other.each.name} takes a full transfer: wait until it serves, one at a time`,
        "no other server is at it",
      ),
      check(
        "reseed.donor",
        donors.length === 0
          ? "no other server serves and is Synced: it may be the last good copy"
          : null,
        `${[...left].join(", ")} could give their data`,
      ),
      check(
        "reseed.remainder",
        isJoint(config, left) || solo
          ? null
          : `without ${name} only ${left.size === 0 ? "nobody" : [...left].join(", ")} would be left, too few to serve on: bring another server back first`,
        "the others serve on without it",
      ),
      check(
        "clients.gone",
        open ? `${name} takes clients: say drain ${name} first` : null,
        `${name} is drained, or takes no clients`,
      ),
    ],
    already: own?.diverged === true ? `${name} is to take a full transfer already` : null,
    because: `${name} takes a full transfer from another server, its data is set aside`,
    steps: [
      ...(stops ? [`${name} leaves the cluster and stops; sessions there end`] : []),
      "its data directory is set aside beside the new one: that takes as much space again",
      `mariadbd starts empty and takes all data of a server that serves: ${[...left].join(", ")}`,
      `it takes clients when it is Synced; undrain ${name} then, and discard ${name} when nobody needs the old data`,
    ],
    change: {
      is: "reseed",
      to: server?.id ?? "dbserver.0",
      reportNumber: own?.reportNumber ?? 0,
      position: stops ? null : (own?.position ?? null),
    },
  });
}

function sizeOf(aside: readonly Aside[]): string {
  const bytes = aside.reduce((sum, one) => sum + one.bytes, 0);
  return `${(bytes / 1_048_576).toFixed(1)} MB`;
}

// --- pause, resume -----------------------------------------------------------------------------

function planPause(state: ArbitratorState, order: PauseOrder): Planned {
  const theirs = standingOf(state, "pause");
  const same = theirs.some(({ who, why }) => who === order.who && why === order.why);
  return finish({
    order: "pause",
    checks: [freeOf(theirs, order)],
    already:
      same && state.durable.paused !== null ? "automatic decisions are paused already" : null,
    because: "automatic decisions are paused",
    steps: [
      "nothing is promoted or started by itself until somebody says resume",
      "what serves goes on serving: promises are renewed as ever",
      "if the serving side is lost now, the cluster stays down until a person acts",
    ],
    change: {
      is: "note",
      durable: {
        paused: clip(`by ${order.who}: ${order.why}`),
        standing: [
          ...state.durable.standing.filter((each) => !theirs.includes(each)),
          sign(order, { verb: "pause", about: "" }),
        ],
      },
      tell: [],
    },
  });
}

function planResume(state: ArbitratorState, order: ResumeOrder): Planned {
  const { observing } = state;
  const theirs = standingOf(state, "pause");
  const lost =
    observing === null || order.rearm
      ? null
      : `${observing}; say resume --rearm if you know that no other arbitrator is at work`;
  const rearms = observing !== null;
  return finish({
    order: "resume",
    checks: [check("store.trusted", lost, "the store can be relied on"), freeOf(theirs, order)],
    already: !rearms && state.durable.paused === null ? "automatic decisions are not paused" : null,
    because: rearms ? "re-armed: decisions after one outwait" : "automatic decisions go on",
    steps: rearms
      ? [
          "the store takes the newest epoch that any server has heard of, and one more",
          "what it remembered of views is forgotten: the servers' own memories count",
          `decisions begin after an outwait of ${seconds(state.config.outwaitMs)}`,
        ]
      : ["decisions are taken by the rules again, at once where one is due"],
    change: rearms
      ? { is: "rearm" }
      : {
          is: "note",
          durable: {
            paused: null,
            standing: state.durable.standing.filter((each) => !theirs.includes(each)),
          },
          tell: [],
        },
  });
}

// --- make_primary ------------------------------------------------------------------------------

function planMakePrimary(state: ArbitratorState, order: MakePrimaryOrder, now: Millis): Planned {
  const { segment, allowDataLoss, who } = order;
  const known = segmentKnown(state, segment);
  const person: PersonOrder = {
    segment,
    force: order.force === true,
    allowDataLoss,
    who,
    until: now + PERSON_ORDER_MS,
  };
  const done = promotedAlready(state, segment, now);
  if (known.passed && done !== null) {
    return finish({
      order: "make_primary",
      checks: [known, busyWith(state, order, now)],
      already: done,
      because: "",
      steps: [],
      change: { is: "promote", person },
    });
  }
  const facts = factsOf({ ...state, person }, segment, now);
  const outage = chooseBootstrap({ ...state, person }, now);
  const verdict = judge(facts);
  if (known.passed && isForOutage(state, { facts, verdict }) && outage.is !== "none") {
    return planBootstrap(state, order, { outage, person, now });
  }
  const loss =
    known.passed && facts.candidate !== null
      ? lossOf(state, {
          inside: facts.candidate.reporting.map(({ server }) => server.id),
          seqno: facts.candidate.lastCommitted,
          now,
        })
      : null;
  const rules = (RULES as readonly Rule[]).map((rule): Check => {
    const against = rule.against(facts);
    const hint =
      rule.id === "candidate.exists" && isCalm(state, now)
        ? `say switchover ${segment} to move the writers there`
        : `that changes when ${rule.until}`;
    return check(rule.id, against === null ? null : `${against}; ${hint}`, rule.demands);
  });
  const promotes = verdict.rule === PROMOTE;
  const candidates = facts.candidate?.reporting.map((each) => each.server.name).join(", ") ?? "";
  return finish({
    order: "make_primary",
    named: known.passed && !isBusy(state, order, now),
    checks: [
      known,
      ...(known.passed ? [busyWith(state, order, now), ...rules] : []),
      ...(promotes && allowDataLoss && loss !== null ? [confirmed(loss, order)] : []),
    ],
    already: null,
    because: verdict.because,
    steps: [
      ...(facts.candidate?.kind === "form"
        ? [`epoch ${state.durable.epoch + 1} is written down, then ${candidates} form the Primary`]
        : [`epoch ${state.durable.epoch + 1} is written down and granted to ${candidates}`]),
      `they open to clients, and writers belong in ${segment}`,
      "servers of the other segment come back behind a closed door; one with rows beyond the fork point takes a full state transfer, its old data kept aside",
      ...(person.force ? ["whoever is silent counts as stopped, on your word"] : []),
      ...(loss !== null && allowDataLoss ? [loss.because] : []),
    ],
    change: { is: "promote", person },
    loss: allowDataLoss ? loss : null,
  });
}

/** Why a segment need not be made primary: it is, or is about to be; null if neither. */
function promotedAlready(state: ArbitratorState, segment: string, now: Millis): string | null {
  const { grant, primarySegment } = state.durable;
  const serving = openServers(state, [], now).filter(
    (id) => state.config.serverById.get(id)?.segment === segment,
  );
  if (grant?.segment === segment) {
    if (grant.order === "given" && now < state.orderPauseUntil) {
      return `epoch ${grant.epoch} has been ordered for ${segment}, its answer is due`;
    }
    return serving.length > 0 ? `${segment} serves under epoch ${grant.epoch}` : null;
  }
  const joint = grant === null && primarySegment === segment && serving.length > 0;
  return joint ? `${segment} serves, and writers belong there` : null;
}

/** After a full outage, on a person's word: the most advanced server of the segment begins. */
function planBootstrap(
  state: ArbitratorState,
  order: MakePrimaryOrder,
  facts: {
    readonly outage: Exclude<Outage, { is: "none" }>;
    readonly person: PersonOrder;
    readonly now: Millis;
  },
): Planned {
  const { outage, person, now } = facts;
  const { segment } = order;
  const ready = outage.is === "ready" && outage.forced ? outage : null;
  const begins = ready === null ? "" : `${ready.server.name} begins at ${ready.position.seqno}`;
  const against =
    outage.is === "waiting"
      ? `${outage.verdict.because}; that changes when ${outage.verdict.wouldChange}`
      : "every server has said where it stands: the most advanced begins by itself";
  const hint =
    person.force && person.allowDataLoss
      ? ""
      : `, or --force --allow-data-loss starts ${segment} with what it has`;
  const loss =
    ready === null
      ? null
      : lossOf(state, { inside: [ready.server.id], seqno: ready.position.seqno, now });
  const busy = busyWith(state, order, now);
  return finish({
    order: "make_primary",
    named: busy.passed,
    checks: [
      check("name.known", null, segment),
      busy,
      check(
        "store.trusted",
        state.observing ?? state.diskError,
        "the store is writable and can be relied on",
      ),
      check(
        "restart.outwaited",
        now < state.armedAt ? `${Math.ceil(state.armedAt - now)} ms of the outwait are left` : null,
        "promises of an earlier life are outwaited",
      ),
      check(
        "order.answered",
        now < state.orderPauseUntil
          ? `${Math.ceil(state.orderPauseUntil - now)} ms are left for the last order`
          : null,
        "no order is on its way",
      ),
      check(
        outage.is === "waiting" ? outage.verdict.rule : "outage.forced",
        ready === null ? `${against}${hint}` : null,
        begins,
      ),
      ...(loss === null ? [] : [confirmed(loss, order)]),
    ],
    already: null,
    because: `${segment} is started with what it has: ${begins}`,
    steps: [
      `epoch ${state.durable.epoch + 1} is written down, then ${begins} as a cluster of its own`,
      `the others of ${segment} join it, and it opens to clients once more than half of them are in`,
      "whoever is silent counts as stopped, on your word",
      "servers of the other segment come back behind a closed door; one with rows beyond the fork point takes a full state transfer, its old data kept aside",
      ...(loss === null ? [] : [loss.because]),
    ],
    change: { is: "promote", person },
    loss,
  });
}

function isBusy(state: ArbitratorState, order: MakePrimaryOrder, now: Millis): boolean {
  return !busyWith(state, order, now).passed;
}

/** Is somebody else making a segment primary, moving writers, or at work under a pause. */
function busyWith(
  state: ArbitratorState,
  order: {
    readonly who: string;
    readonly takeOver?: boolean | undefined;
    readonly segment: string | null;
  },
  now: Millis,
): Check {
  const { person } = state;
  if (person !== null && now < person.until && order.takeOver !== true) {
    const clash = person.segment !== order.segment || person.who !== order.who;
    if (clash) {
      return check("order.free", `${person.who} is making ${person.segment} primary`, "");
    }
  }
  return freeOf([...standingOf(state, "pause"), ...standingOf(state, "switchover")], order);
}

function confirmed(loss: Loss, order: MakePrimaryOrder): Check {
  const { acceptedLoss } = order;
  const enough =
    loss.confirmation === "" ||
    acceptedLoss === null ||
    (acceptedLoss !== undefined && loss.exact && loss.transactions <= acceptedLoss);
  return check(
    "loss.confirmed",
    enough ? null : `${loss.because}; confirm it with --confirm "${loss.confirmation}"`,
    loss.confirmation === "" ? "nothing is lost" : "a person has confirmed the loss",
  );
}

/** What going on with these servers loses: rows that those left behind are known, or may be, to have. */
export function lossOf(
  state: ArbitratorState,
  facts: {
    readonly inside: readonly PartyId[];
    /** The most advanced of them. */
    readonly seqno: number;
    readonly now: Millis;
  },
): Loss {
  const { seqno: has, now } = facts;
  const inside = new Set(facts.inside);
  let most = Math.max(has, state.durable.noted?.seqno ?? -1);
  let furthest = most > has ? "the newest Primary view" : "";
  const unsure: string[] = [];
  for (const server of state.config.servers) {
    if (inside.has(server.id)) continue;
    const heard = state.heard.get(server.id);
    const { report } = heard ?? { report: null };
    const stood = Math.max(report?.lastCommitted ?? -1, report?.position?.seqno ?? -1);
    if (stood > most) {
      most = stood;
      furthest = server.name;
    }
    if (state.durable.retired.includes(server.id)) continue;
    // Whoever is silent may have been granted the right since, or been started.
    const stopped =
      report !== null &&
      youngReport(state, server.id, { now, maxAgeMs: state.config.timing.suspectMs }) !== null &&
      ((report.running === "down" && report.position !== null) ||
        (report.running === "up" && report.primary === "no"));
    if (!stopped) {
      const ago = heard === undefined ? "never heard" : `unheard for ${seconds(now - heard.at)}`;
      unsure.push(`${server.name} (${ago})`);
    }
  }
  const transactions = Math.max(0, most - has);
  const exact = unsure.length === 0;
  const known =
    transactions === 0
      ? "no transaction is known to be missing"
      : `${transactions} transaction${transactions === 1 ? "" : "s"} of ${furthest} will be missing`;
  const because = exact
    ? known
    : `${known}, and whatever else was committed at ${unsure.join(", ")} since`;
  const count = `${transactions} transaction${transactions === 1 ? "" : "s"}`;
  const confirmation = !exact
    ? "lose an unknown number of transactions"
    : transactions === 0
      ? ""
      : `lose ${count}`;
  return { transactions, exact, because: clip(because), confirmation };
}

// --- switchover ----------------------------------------------------------------------------------

function planSwitchover(state: ArbitratorState, order: SwitchoverOrder, now: Millis): Planned {
  return order.segment === null
    ? planAbort(state, order)
    : planMove(state, { ...order, segment: order.segment }, now);
}

function planMove(
  state: ArbitratorState,
  order: SwitchoverOrder & { readonly segment: string },
  now: Millis,
): Planned {
  const { durable } = state;
  const { segment } = order;
  const known = segmentKnown(state, segment);
  const under = standingOf(state, "switchover");
  const deadlineMs = order.deadlineMs ?? null;
  const able = ableServers(state, segment, now);
  const counted = activeServers(state, segment).length;
  const outside = writersOutside(state, segment, now);
  const grant = durable.grant;
  const already =
    under.some(({ about }) => about === segment) && durable.primarySegment === segment
      ? `the writers are being moved to ${segment}`
      : durable.primarySegment === segment &&
          outside.length === 0 &&
          writersInside(state, segment, now)
        ? `writers belong in ${segment}, and none is elsewhere`
        : null;
  return finish({
    order: "switchover",
    checks: [
      known,
      ...(known.passed
        ? [
            busyWith(state, order, now),
            check(
              "store.trusted",
              state.observing ?? state.diskError,
              "the store is writable and can be relied on",
            ),
            check(
              "epoch.closed",
              grant === null
                ? null
                : `${grant.segment} holds epoch ${grant.epoch}: wait until both sides are in one view again, which closes it`,
              "no segment serves alone",
            ),
            check(
              "target.serves",
              able.length * 2 > counted
                ? null
                : `${able.length} of ${counted} servers of ${segment} serve in the joint view, Synced, undrained and with flowing commits: over half of them must`,
              `${able.map((id) => nameOf(state, id)).join(", ")} serve in the joint view`,
            ),
          ]
        : []),
    ],
    already,
    because: `switchover: writers move to ${segment}`,
    steps: [
      `writers belong in ${segment} from now on, also where a cut leaves both sides with the same commits`,
      ...(outside.length === 0
        ? ["no single writer has to move"]
        : [`single writers leave ${outside.join(", ")} for a server of ${segment}`]),
      deadlineMs === null
        ? "their sessions there end in their own time; both servers are in one view, so nothing is lost"
        : `sessions left there after ${seconds(deadlineMs)} are cut; an acknowledged row is on both sides by then`,
      "done when no client minder has its writer elsewhere; --abort moves them back until then",
    ],
    change: {
      is: "note",
      durable: {
        primarySegment: segment,
        standing: [
          ...durable.standing.filter(({ verb }) => verb !== "switchover"),
          sign(order, {
            verb: "switchover",
            about: segment,
            deadlineMs,
            from: under[0]?.from ?? durable.primarySegment,
          }),
        ],
      },
      tell: state.config.servers.map(({ id }) => id),
    },
  });
}

/** Moves writers back to where they belonged before: a switchover like any other. */
function planAbort(state: ArbitratorState, order: SwitchoverOrder): Planned {
  const { durable } = state;
  const [under] = standingOf(state, "switchover");
  const back = under === undefined || under.from === "" ? durable.primarySegment : under.from;
  return finish({
    order: "switchover",
    checks: [freeOf(under === undefined ? [] : [under], order)],
    already:
      under === undefined
        ? "no switchover is under way"
        : under.about === back
          ? `the writers are being moved back to ${back}`
          : null,
    because: `switchover aborted: writers move back to ${back}`,
    steps: [`writers belong in ${back} again; those that have moved already come back`],
    change: {
      is: "note",
      durable: {
        primarySegment: back,
        standing: [
          ...durable.standing.filter(({ verb }) => verb !== "switchover"),
          sign(order, { verb: "switchover", about: back, from: back }),
        ],
      },
      tell: state.config.servers.map(({ id }) => id),
    },
  });
}

/** Servers of the segment that could take the writers now: serving in a joint view, in step, undrained. */
export function ableServers(
  state: ArbitratorState,
  segment: string,
  now: Millis,
): readonly PartyId[] {
  const maxAgeMs = state.config.timing.suspectMs;
  return activeServers(state, segment).flatMap(({ id }) => {
    const report = youngReport(state, id, { now, maxAgeMs });
    const able =
      report !== null &&
      report.serving === "on" &&
      report.localState === "Synced" &&
      report.probe !== "hanging" &&
      !report.leaving &&
      !state.durable.draining.includes(id) &&
      isJoint(state.config, namesOf(report));
    return able ? [id] : [];
  });
}

/**
 * Names of servers outside the segment that client minders have as their writer, or had by a word that
 * no later one may have reached yet: a minder that has just chosen counts nowhere until its next ack.
 */
export function writersOutside(
  state: ArbitratorState,
  segment: string,
  now: Millis,
): readonly string[] {
  const never = Number.NEGATIVE_INFINITY;
  return state.config.servers
    .filter((server) => server.segment !== segment)
    .filter(({ id }) => {
      const { wroteAt = never, at = never } = state.heard.get(id) ?? {};
      // Silent since it said so: it may be this process that does not hear it.
      return wroteAt === at
        ? now - at <= state.config.outwaitMs
        : now - wroteAt <= clientWordMs(state.config);
    })
    .map(({ name }) => name);
}

/** Is every client minder that keeps to one writer known to have it in the segment. */
function writersInside(state: ArbitratorState, segment: string, now: Millis): boolean {
  const maxAgeMs = state.config.timing.suspectMs;
  const clients = state.config.clients.filter(({ policy }) => policy === "single-writer");
  const known = state.config.servers
    .filter((server) => server.segment === segment)
    .map(({ id }) => youngReport(state, id, { now, maxAgeMs })?.writers ?? 0);
  return known.reduce((sum, writers) => sum + writers, 0) >= clients.length;
}

function seconds(ms: Millis): string {
  return ms < 10_000 ? `${Math.round(ms / 100) / 10} s` : `${Math.round(ms / 1000)} s`;
}
