/**
 * What would happen if: the arbitrator's own core is run on from a copy of its live state, while a
 * sketch of the servers falls silent, stalls and changes its views as Galera does. Nothing here decides
 * anything; what comes out is what the rules make of it, and when.
 *
 * The sketch knows of Galera: commits hang as soon as a member is missing; views change once
 * evs.suspect_timeout and the consensus after it are over; a part stays Primary if 2·present exceeds
 * the weight of the last Primary view (gcomm have_quorum). Of the watchdogs: they report, they serve
 * under a promise, they obey.
 */
import type { ClusterConfig, DbServerConfig } from "../cluster_config.ts";
import { unreachable } from "../errors.ts";
import type { Snapshot } from "../message/arbitrator.ts";
import type { Report } from "../message/dbserver.ts";
import type { PartyId } from "../message/envelope.ts";
import { fingerprint, groupOf, holdsMajority, isJoint, namesIn } from "../wsrep_status.ts";
import { arbitratorCore } from "./arbitrator.ts";
import type {
  ArbitratorDurable,
  ArbitratorEffect,
  ArbitratorEvent,
  ArbitratorState,
} from "./arbitrator_state.ts";
import type { Millis } from "./core.ts";

/** What might happen. */
export type Fault =
  | { readonly is: "servers_down"; readonly name: string; readonly servers: readonly PartyId[] }
  /** Only mariadbd ends there: the hosts and their watchdogs live on. */
  | { readonly is: "servers_crash"; readonly name: string; readonly servers: readonly PartyId[] }
  | { readonly is: "link_down" }
  /** Things go on as they are. */
  | { readonly is: "nothing" }
  | { readonly is: "arbitrator_down"; readonly arbitrator: PartyId };

/** One moment of what would happen. */
export interface Moment {
  /** After the fault. */
  readonly atMs: Millis;
  readonly what: string;
}

export interface Forecast {
  readonly fault: string;
  /** In one line: who would serve, and why. */
  readonly outcome: string;
  /** Segments whose servers serve in the end. */
  readonly serving: readonly string[];
  /** Name of the server that a single writer would be led to; null if none serves. */
  readonly writer: string | null;
  /** What keeps those who are left from serving; null where somebody serves. */
  readonly held: string | null;
  /** How long nobody could write, at Galera's quickest, usual and slowest; null: without end. */
  readonly stopMs: readonly [Millis, Millis, Millis] | null;
  /** What acknowledged rows could be missing. */
  readonly loss: string;
  readonly moments: readonly Moment[];
}

/**
 * From evs.suspect_timeout until the survivors' new view: measured 0 to 3 s more at its default of 5 s,
 * mostly 1 s (MariaDB 10.11.19, Galera 26.4.23).
 */
const CONSENSUS_MS = [0, 1_000, 3_000] as const;
/** From pc.bootstrap, or an eviction by all, to the new view (measured 10 to 250 ms). */
const FORM_MS = 50;
const EVICT_MS = 250;
/** A fence is lifted, and the first write commits, within this (measured). */
const OPEN_MS = 30;
/** A forecast ends so long after the views have changed. */
const TAIL_MS = 15_000;
/** Monotonic zero of a forecast: late enough that everything heard lies after 0. */
const ZERO: Millis = 1e9;

/**
 * A fault from words as `dc1-down`, `db2-down`, `db2-crash`, `link-down`, `arbitrator-down`; a string says what
 * is wrong.
 */
export function parseFault(config: ClusterConfig, word: string): Fault | string {
  const [, name = word, how = "down"] = /^(.*)[-_ ](down|crash)$/.exec(word) ?? [];
  const [arbitrator] = config.arbitrators;
  const crash = how === "crash";
  if (name === "link" && !crash) return { is: "link_down" };
  const isArbitrator = name === "arbitrator" || name === arbitrator?.id;
  if (arbitrator !== undefined && isArbitrator && !crash) {
    return { is: "arbitrator_down", arbitrator: arbitrator.id };
  }
  const servers = config.servers
    .filter((server) => server.name === name || server.id === name || server.segment === name)
    .map(({ id }) => id);
  if (servers.length > 0) return { is: crash ? "servers_crash" : "servers_down", name, servers };
  const known = [
    ...config.segments.map((segment) => segment.name),
    ...config.servers.map((server) => server.name),
    "link",
    "arbitrator",
  ];
  const downs = known.map((each) => `${each}-down`).join(", ");
  const what =
    name === "link" || isArbitrator ? `${name} has no mariadbd` : `nothing is called ${name}`;
  return `${what}: there are ${downs}; and -crash of a server or segment, where only mariadbd ends`;
}

/** The arbitrator's state of a snapshot, on a clock on which now is the result's `now`. */
export function restoreState(
  config: ClusterConfig,
  snapshot: Snapshot,
  durable: ArbitratorDurable,
): { readonly state: ArbitratorState; readonly now: Millis } {
  const now = ZERO;
  const core = arbitratorCore({
    config,
    self: config.arbitrators[0]?.id ?? "arbitrator.1",
    durable,
    observing: snapshot.observing,
  });
  const never = Number.NEGATIVE_INFINITY;
  const ago = (ms: Millis | null) => (ms === null ? never : now - ms);
  const known = snapshot.servers.filter(({ id }) => config.serverById.has(id));
  const state: ArbitratorState = {
    ...core.initial(now),
    diskError: snapshot.diskError,
    armedAt: now + snapshot.armedLeftMs,
    windowUntil: snapshot.windowLeftMs > 0 ? now + snapshot.windowLeftMs : never,
    orderPauseUntil: now + snapshot.orderPauseLeftMs,
    longestPromiseMs: snapshot.longestPromiseMs,
    notedAt: ago(snapshot.notedAgoMs),
    heard: new Map(
      known.map(({ id, heardAgoMs, weightChangedAgoMs, report }) => [
        id,
        { report, at: now - heardAgoMs, weightChangedAt: ago(weightChangedAgoMs) },
      ]),
    ),
    promisedAt: new Map(
      known.flatMap(({ id, promisedAgoMs }) =>
        promisedAgoMs === null ? [] : [[id, now - promisedAgoMs] as const],
      ),
    ),
  };
  return { state, now };
}

/** What would happen if the fault came about now. Pure; the state is not changed. */
export function forecast(state: ArbitratorState, fault: Fault, now: Millis): Forecast {
  if (fault.is === "arbitrator_down") return withoutArbitrator(state, now);
  const [quick, usual, slow] = CONSENSUS_MS.map((consensusMs) =>
    new Sketch(state, fault, { now, consensusMs }).run(),
  );
  if (quick === undefined || usual === undefined || slow === undefined) {
    throw new Error("A forecast needs three patiences");
  }
  const stops = [quick.stopMs, usual.stopMs, slow.stopMs] as const;
  const [a, b, c] = stops;
  return {
    ...usual,
    stopMs: a === null || b === null || c === null ? null : [a, b, c],
  };
}

/** The same at Galera's usual patience only: a third of the work. */
export function forecastUsual(state: ArbitratorState, fault: Fault, now: Millis): Forecast {
  if (fault.is === "arbitrator_down") return withoutArbitrator(state, now);
  const found = new Sketch(state, fault, { now, consensusMs: CONSENSUS_MS[1] }).run();
  const { stopMs } = found;
  return { ...found, stopMs: stopMs === null ? null : [stopMs, stopMs, stopMs] };
}

// --- without the arbitrator --------------------------------------------------------------------

function withoutArbitrator(state: ArbitratorState, now: Millis): Forecast {
  const { config, durable } = state;
  const serving = config.servers.filter(({ id }) => youngOf(state, id, now)?.serving === "on");
  const joint = serving.some(({ id }) => {
    const report = youngOf(state, id, now);
    return report !== null && isJoint(config, namesIn(report.members));
  });
  const none = serving.length === 0;
  const stays = joint || config.onDoubleFault === "stay";
  const segments = [...new Set(serving.map(({ segment }) => segment))];
  const outcome = none
    ? "nobody serves now, and nobody could be promoted until it is back"
    : joint
      ? "clients notice nothing: the segments vouch for each other as long as they see each other"
      : stays
        ? `${durable.grant?.segment ?? segments[0]} serves on: no automatic order can go elsewhere while its epoch is open`
        : `${durable.grant?.segment ?? segments[0]} fences itself once its lease is over (on_double_fault = "fence")`;
  const goesOn = !none && stays;
  return {
    fault: "the arbitrator is lost",
    outcome,
    serving: goesOn ? segments : [],
    writer: goesOn ? (serving[0]?.name ?? null) : null,
    held: goesOn ? null : outcome,
    stopMs: goesOn ? [0, 0, 0] : null,
    loss: "nothing",
    moments: [
      { atMs: 0, what: "the arbitrator is lost; no report of a server is answered any more" },
      { atMs: config.timing.leaseMs, what: "the last lease is over" },
      ...(joint
        ? [
            {
              atMs: config.timing.leaseMs,
              what: "doors stay open by vouches; while it lasts, the loss of a data centre or of the link stops all writes until a person or the arbitrator acts",
            },
          ]
        : []),
      ...(goesOn || none
        ? []
        : [{ atMs: config.timing.leaseMs, what: "the holder closes its door" }]),
    ],
  };
}

function youngOf(state: ArbitratorState, id: PartyId, now: Millis): Report | null {
  const heard = state.heard.get(id);
  const young = heard !== undefined && now - heard.at <= state.config.timing.suspectMs;
  return young ? heard.report : null;
}

// --- the sketch ----------------------------------------------------------------------------------

/** A server of the sketch. */
interface Node {
  readonly config: DbServerConfig;
  report: Report;
  /** Is heard by the arbitrator. */
  speaks: boolean;
  /** Since when a member of its view is missing; null while all are there. */
  stalledAt: Millis | null;
  /** End of the arbitrator's last promise, as the server counts it. */
  promisedUntil: Millis;
  reportAt: Millis;
  number: number;
  /** Was its door open when last looked at. */
  open: boolean;
  /** Has its watchdog been told to start mariadbd again. */
  starts: boolean;
}

type Planned = { readonly at: Millis; readonly run: () => void };

class Sketch {
  readonly #config: ClusterConfig;
  readonly #core: ReturnType<typeof arbitratorCore>;
  readonly #fault: Exclude<Fault, { is: "arbitrator_down" }>;
  readonly #start: Millis;
  readonly #consensusMs: Millis;
  readonly #nodes: Node[];
  readonly #moments: Moment[] = [];
  readonly #planned: Planned[] = [];
  #state: ArbitratorState;
  #now: Millis;
  #ticket = 1;
  /** When somebody could last write, and since when somebody can again. */
  #stoppedAt: Millis | null = null;
  #stopMs: Millis = 0;
  #asking: Node | null = null;

  constructor(
    state: ArbitratorState,
    fault: Exclude<Fault, { is: "arbitrator_down" }>,
    options: { readonly now: Millis; readonly consensusMs: Millis },
  ) {
    this.#config = state.config;
    this.#core = arbitratorCore({
      config: state.config,
      self: state.self,
      durable: state.durable,
      observing: state.observing,
    });
    this.#fault = fault;
    this.#start = options.now;
    this.#now = options.now;
    this.#consensusMs = options.consensusMs;
    // Writes of the sketch succeed at once, whatever was under way when the snapshot was taken.
    this.#state = { ...state, writing: false, held: [], writtenRevision: state.revision };
    this.#nodes = state.config.servers.flatMap((config, index) => {
      const heard = state.heard.get(config.id);
      if (heard === undefined) return [];
      const promised = state.promisedAt.get(config.id) ?? Number.NEGATIVE_INFINITY;
      return [
        {
          config,
          report: heard.report,
          speaks: youngOf(state, config.id, options.now) !== null,
          stalledAt: null,
          promisedUntil: promised + state.config.timing.leaseMs,
          reportAt: options.now + ((index * 37) % state.config.timing.reportIntervalMs),
          number: 1_000_000,
          open: heard.report.serving === "on",
          starts: false,
        },
      ];
    });
  }

  run(): Omit<Forecast, "stopMs"> & { readonly stopMs: Millis | null } {
    const { timing } = this.#config;
    const patience = timing.galeraSuspectMs + this.#consensusMs;
    this.#strike(patience);
    const end = this.#start + patience + TAIL_MS + this.#config.outwaitMs;
    for (let guard = 0; guard < 100_000; guard++) {
      const next = this.#nextAt();
      if (next > end) break;
      this.#now = Math.max(this.#now, next);
      this.#moveOn();
      if (this.#isSettled(patience)) break;
    }
    // Where nobody speaks any more the last verdicts are of before: let the rules look once more.
    if (this.#stoppedAt !== null) {
      this.#now = Math.max(this.#now, end);
      this.#give({ on: "wakeup" });
    }
    return this.#describe();
  }

  #nextAt(): Millis {
    const due = [this.#core.dueAt(this.#state), ...this.#planned.map(({ at }) => at)];
    for (const node of this.#nodes) if (node.speaks) due.push(node.reportAt);
    return Math.min(...due);
  }

  #moveOn(): void {
    const due = this.#planned.filter(({ at }) => at <= this.#now);
    for (const each of due) {
      this.#planned.splice(this.#planned.indexOf(each), 1);
      each.run();
    }
    if (this.#core.dueAt(this.#state) <= this.#now) this.#give({ on: "wakeup" });
    for (const node of this.#nodes) {
      if (node.speaks && node.reportAt <= this.#now) this.#reportOf(node);
    }
    this.#watchDoors();
  }

  #later(afterMs: Millis, run: () => void): void {
    this.#planned.push({ at: this.#now + afterMs, run });
  }

  #say(what: string): void {
    this.#moments.push({ atMs: this.#now - this.#start, what });
  }

  // --- the fault and Galera ---------------------------------------------------------------------

  /** The fault itself; Galera's answer is planned. */
  #strike(patience: Millis): void {
    const lost = this.#lost();
    const fault = this.#fault;
    switch (fault.is) {
      case "servers_down": {
        const names = lost.map(({ config }) => config.name).join(", ");
        this.#say(`${names} ${lost.length === 1 ? "is" : "are"} lost, with what runs beside`);
        for (const node of lost) {
          node.speaks = false;
          node.open = false;
        }
        break;
      }
      case "servers_crash":
        this.#crash(this.#nodes.filter(({ config }) => fault.servers.includes(config.id)));
        break;
      case "link_down":
        this.#say("the link between the segments is cut; the arbitrator reaches both");
        break;
      case "nothing":
        this.#say("nothing else happens");
        break;
      default:
        unreachable(fault);
    }
    this.#levelOut();
    const parts = this.#parts();
    for (const part of parts) {
      const [first] = part;
      if (first === undefined || first.report.members.length === part.length) continue;
      for (const node of part) node.stalledAt = this.#now;
      this.#later(patience, () => this.#changeView(part));
      if (this.#excludesAlone(part)) {
        this.#later(EVICT_MS, () => {
          this.#say("the survivors have excluded it at once, without an order");
          this.#enter(part, true, true);
        });
      }
    }
    if (parts.some((part) => part.some((node) => node.stalledAt !== null))) {
      this.#later(this.#hangAfter(), () => {
        const still = this.#nodes.some((node) => node.speaks && node.stalledAt !== null);
        if (still) this.#say("commits hang: a member of the view is missing");
      });
    }
    this.#noteStop();
  }

  /** Their watchdogs see mariadbd end, and say so at once. */
  #crash(nodes: readonly Node[]): void {
    const ended = nodes.filter(({ report }) => report.running === "up");
    const names = nodes.map(({ config }) => config.name).join(", ");
    this.#say(
      ended.length === 0
        ? `mariadbd does not run on ${names}`
        : `mariadbd ends on ${ended.map(({ config }) => config.name).join(", ")}, the watchdog beside it lives on`,
    );
    for (const node of ended) {
      const { report } = node;
      const { stateUuid: uuid, lastCommitted: seqno, gcommUuid } = report;
      node.open = false;
      node.report = {
        ...report,
        running: "down",
        primary: "no",
        fingerprint: null,
        members: [],
        group: "down",
        stateUuid: null,
        lastCommitted: -1,
        localState: "down",
        evsState: null,
        weight: null,
        position: uuid === null ? null : { uuid, seqno },
        ended: gcommUuid === null ? null : { uuid: gcommUuid, pid: 1, startTime: 1 },
        because: "mariadbd is not running",
      };
    }
    for (const node of this.#nodes) if (node.speaks) node.reportAt = this.#now;
  }

  /** Members of the node's view have ended, by their watchdogs' word. */
  #endedIn(node: Node): boolean {
    if (this.#fault.is !== "servers_crash" || this.#config.evict === "off") return false;
    const members = new Set(node.report.members.map(({ uuid }) => uuid));
    return this.#nodes.some(
      ({ report }) => report.ended !== null && members.has(report.ended.uuid),
    );
  }

  /** May its watchdogs evict the ended without an order: what remains keeps quorum, and is joint or the holder. */
  #excludesAlone(part: readonly Node[]): boolean {
    const [first] = part;
    if (first === undefined || !this.#endedIn(first) || first.report.primary !== "yes")
      return false;
    const names = new Set(part.map(({ config }) => config.name));
    const { grant, retired } = this.#state.durable;
    const held =
      grant !== null &&
      first.config.segment === grant.segment &&
      holdsMajority(this.#config, grant.segment, names, retired);
    return this.#keepsQuorum(part) && (isJoint(this.#config, names) || held);
  }

  /** Those in one view have the same commits once they stall: reports only tell of different moments. */
  #levelOut(): void {
    const most = new Map<string, number>();
    for (const { report } of this.#nodes) {
      const view = report.primary === "yes" ? (report.fingerprint ?? "") : "";
      most.set(view, Math.max(most.get(view) ?? -1, report.lastCommitted));
    }
    for (const node of this.#nodes) {
      const { report } = node;
      const seqno = report.primary === "yes" ? most.get(report.fingerprint ?? "") : undefined;
      if (seqno !== undefined) node.report = { ...report, lastCommitted: seqno };
    }
  }

  #lost(): readonly Node[] {
    const fault = this.#fault;
    return fault.is === "servers_down"
      ? this.#nodes.filter(({ config }) => fault.servers.includes(config.id))
      : [];
  }

  /** Parts of today's views whose members still see one another. */
  #parts(): readonly (readonly Node[])[] {
    const lost = new Set(this.#lost());
    const parts = new Map<string, Node[]>();
    for (const node of this.#nodes) {
      if (lost.has(node) || !node.speaks || node.report.running !== "up") continue;
      const side = this.#fault.is === "link_down" ? node.config.segment : "";
      const key = `${node.report.fingerprint} ${side}`;
      const part = parts.get(key);
      if (part === undefined) parts.set(key, [node]);
      else part.push(node);
    }
    return [...parts.values()];
  }

  /** A hanging commit is noticed by the probe. */
  #hangAfter(): Millis {
    const { probeIntervalMs, probeTimeoutMs } = this.#config.timing;
    return probeIntervalMs / 2 + probeTimeoutMs;
  }

  /** Galera has given up on the missing members. */
  #changeView(part: readonly Node[]): void {
    const [first] = part;
    if (first === undefined || first.stalledAt === null) return;
    this.#enter(part, first.report.primary === "yes" && this.#keepsQuorum(part));
  }

  /** Does the part hold over half of its view's weight. */
  #keepsQuorum(part: readonly Node[]): boolean {
    const weightOf = new Map(
      this.#nodes.flatMap(({ report, config }) =>
        report.gcommUuid === null
          ? []
          : [[report.gcommUuid, report.weight ?? config.weight] as const],
      ),
    );
    const present = new Set(part.map(({ report }) => report.gcommUuid));
    let inside = 0;
    let all = 0;
    for (const { uuid } of part[0]?.report.members ?? []) {
      const weight = weightOf.get(uuid) ?? 1;
      all += weight;
      if (present.has(uuid)) inside += weight;
    }
    return 2 * inside > all;
  }

  /** The part is a view of its own from now on. */
  #enter(part: readonly Node[], primary: boolean, ordered = false): void {
    const present = new Set(part.map(({ config }) => config.name));
    const members = part[0]?.report.members.filter(({ name }) => present.has(name)) ?? [];
    const names = part.map(({ config }) => config.name).join(", ");
    const joint = isJoint(this.#config, namesIn(members));
    const verb = part.length === 1 ? "is" : "are";
    const alone = joint ? "" : ", alone";
    this.#say(
      ordered
        ? `${names} ${verb} Primary${alone}`
        : `Galera gives up on the missing: ${names} ${verb} ${primary ? `Primary${alone}` : "non-Primary"}`,
    );
    for (const node of part) {
      const { stateUuid } = node.report;
      const print = fingerprint(stateUuid, primary, members);
      node.stalledAt = null;
      // A promise was for the view that is no more.
      node.promisedUntil = Number.NEGATIVE_INFINITY;
      const seqno = node.report.lastCommitted + (primary ? 1 : 0);
      node.report = {
        ...node.report,
        primary: primary ? "yes" : "no",
        fingerprint: print,
        members,
        lastCommitted: seqno,
        group: groupOf(this.#config, node.config.segment, members),
        localState: primary ? "Synced" : "Initialized",
        lastPrimary:
          primary && print !== null
            ? { fingerprint: print, synced: true }
            : node.report.lastPrimary,
      };
      node.reportAt = this.#now;
    }
    this.#noteStop();
  }

  // --- watchdogs ----------------------------------------------------------------------------------

  #reportOf(node: Node): void {
    const { timing } = this.#config;
    node.reportAt = this.#now + timing.reportIntervalMs;
    node.number++;
    const up = node.report.running === "up";
    const right = this.#hasRight(node);
    const stalled = node.stalledAt !== null;
    // A member that has ended acknowledges nothing: that is known without waiting for the probe.
    const hangs =
      stalled && (this.#endedIn(node) || this.#now - (node.stalledAt ?? 0) >= this.#hangAfter());
    const primary = node.report.primary === "yes";
    node.report = {
      ...node.report,
      reportNumber: node.number,
      serving: up && right ? "on" : "off",
      fenced: up ? !right : true,
      probe: !up || !primary ? "off" : hangs ? "hanging" : "flowing",
      evsState: hangs ? "GATHER" : node.report.evsState,
      silent: this.#unheardBy(node),
      pollAgeMs: 0,
    };
    this.#asking = node;
    const ticket = this.#ticket++;
    this.#give({
      on: "message",
      from: node.config.id,
      body: { verb: "db_status_report", parameters: node.report },
      ticket,
    });
    this.#asking = null;
  }

  /** Servers whose watchdogs its own watchdog misses, where it would say so. */
  #unheardBy(node: Node): readonly PartyId[] {
    const { evict, timing } = this.#config;
    if (evict !== "full" || this.#now - this.#start < timing.suspectMs) return [];
    const cut = this.#fault.is === "link_down";
    return this.#nodes
      .filter(({ speaks, config }) => !speaks || (cut && config.segment !== node.config.segment))
      .map(({ config }) => config.id);
  }

  /** A door that is open stays open under a promise; one that is shut opens under one. */
  #hasRight(node: Node): boolean {
    if (this.#isApart(node)) return false;
    return node.report.primary === "yes" && this.#now < node.promisedUntil;
  }

  /** Whoever may be evicted closes its door before: commits hang, and half of the weight is not heard. */
  #isApart(node: Node): boolean {
    const { evict, timing } = this.#config;
    const { suspectMs, reportIntervalMs } = timing;
    const hangs = node.stalledAt !== null && this.#now - node.stalledAt >= this.#hangAfter();
    if (evict !== "full" || !hangs || this.#now - this.#start < suspectMs - reportIntervalMs) {
      return false;
    }
    const cut = this.#fault.is === "link_down";
    let heard = 0;
    let all = 0;
    for (const { speaks, config, report } of this.#nodes) {
      if (!node.report.members.some(({ name }) => name === config.name)) continue;
      const weight = report.weight ?? config.weight;
      all += weight;
      if (speaks && !(cut && config.segment !== node.config.segment)) heard += weight;
    }
    return 2 * heard <= all;
  }

  #watchDoors(): void {
    const moved = { opens: [] as string[], closes: [] as string[] };
    for (const node of this.#nodes) {
      if (!node.speaks || node.report.running !== "up") continue;
      const open = this.#hasRight(node);
      if (open === node.open) continue;
      node.open = open;
      node.reportAt = this.#now;
      (open ? moved.opens : moved.closes).push(node.config.name);
    }
    const { opens, closes } = moved;
    if (opens.length > 0) this.#say(`open to clients: ${opens.join(", ")}`);
    if (closes.length > 0) this.#say(`doors closed, no promise reaches them: ${closes.join(", ")}`);
    this.#noteStop();
  }

  /** Does somebody take writes now: open, and no member of its view missing. */
  #noteStop(): void {
    const flows = this.#nodes.some(
      (node) =>
        node.speaks && node.open && node.stalledAt === null && node.report.primary === "yes",
    );
    if (!flows) this.#stoppedAt ??= this.#now;
    else if (this.#stoppedAt !== null) {
      this.#stopMs = Math.max(this.#stopMs, this.#now - this.#stoppedAt + OPEN_MS);
      this.#stoppedAt = null;
    }
  }

  // --- the arbitrator -------------------------------------------------------------------------------

  #give(event: ArbitratorEvent): void {
    const stepped = this.#core.step(this.#state, event, this.#now);
    this.#state = stepped.state;
    for (const effect of stepped.effects) this.#perform(effect);
  }

  #perform(effect: ArbitratorEffect): void {
    switch (effect.do) {
      case "write":
        this.#give({ on: "written", revision: effect.revision, error: null });
        return;
      case "reply":
        this.#hearAck(effect);
        return;
      case "send":
        this.#hearOrder(effect);
        return;
      case "log":
        this.#hearLog(effect.event, effect.fields);
        return;
      case "adopt":
      case "read_history":
        return;
      default:
        unreachable(effect);
    }
  }

  #hearAck(effect: Extract<ArbitratorEffect, { do: "reply" }>): void {
    const node = this.#asking;
    if (node === null || effect.body.verb !== "ack") return;
    const { promise, arbitrator } = effect.body.parameters;
    const { report } = node;
    const begins = arbitrator?.start === "join" || arbitrator?.start === "reseed";
    if (begins && report.running === "down" && !node.starts) {
      node.starts = true;
      const way = arbitrator.start === "join" ? "" : ", by a full transfer";
      this.#say(`${node.config.name} is started again${way}; clients come back once it is Synced`);
    }
    if (promise !== null && promise.view === report.fingerprint) {
      node.promisedUntil = this.#now + promise.ms;
      const epoch = promise.epoch ?? report.epochServed;
      node.report = { ...report, epochServed: Math.max(report.epochServed, epoch) };
    }
    if (arbitrator !== null) {
      const { epoch, primarySegment } = arbitrator;
      const epochSeen = Math.max(node.report.epochSeen, epoch);
      node.report = { ...node.report, epochSeen, primarySegment };
    }
  }

  #hearOrder(effect: Extract<ArbitratorEffect, { do: "send" }>): void {
    const node = this.#nodes.find(({ config }) => config.id === effect.to);
    if (node === undefined || !node.speaks) return;
    const { body } = effect;
    switch (body.verb) {
      case "status_summary":
      case "history":
      case "snapshot":
      case "plan":
        return;
      case "request_status":
        node.reportAt = this.#now;
        return;
      case "make_primary": {
        const order = body.parameters;
        this.#say(`${node.config.name} is ordered to form the Primary, epoch ${order.epoch}`);
        this.#later(FORM_MS, () => {
          const part = this.#viewOf(node);
          const same = node.report.fingerprint === order.expectedFingerprint;
          if (same) {
            for (const each of part) {
              const epochSeen = Math.max(each.report.epochSeen, order.epoch);
              each.report = { ...each.report, epochSeen, epochServed: order.epoch };
            }
            this.#enter(part, true, true);
          }
          this.#answer(effect, node, same ? "ok" : "refused");
        });
        return;
      }
      case "evict": {
        const { epoch, grant } = body.parameters;
        this.#say(`${node.config.name} is told to exclude the missing at once`);
        this.#later(EVICT_MS, () => {
          const part = this.#viewOf(node);
          const epochServed = grant === null ? node.report.epochServed : epoch;
          const epochSeen = Math.max(node.report.epochSeen, epoch);
          node.report = { ...node.report, epochSeen, epochServed };
          // All of them are told in the same step; where all missing members are excluded what is left
          // is Primary whatever its weight (measured).
          if (part.some(({ stalledAt }) => stalledAt !== null)) this.#enter(part, true, true);
          this.#answer(effect, node, "ok");
        });
        return;
      }
      case "bootstrap":
      case "start":
      case "reseed":
        this.#say(
          `${node.config.name} is ordered to ${body.verb}: mariadbd comes up in some seconds`,
        );
        return;
      default:
        unreachable(body);
    }
  }

  /** Those who are in its view and still see it. */
  #viewOf(node: Node): readonly Node[] {
    return this.#parts().find((part) => part.includes(node)) ?? [node];
  }

  #answer(
    effect: Extract<ArbitratorEffect, { do: "send" }>,
    node: Node,
    outcome: "ok" | "refused",
  ): void {
    const none = { promise: null, epochServed: null, writer: null, arbitrator: null };
    this.#give({
      on: "answered",
      by: node.config.id,
      sent: effect.body,
      sentAt: this.#now,
      reply: { verb: "ack", parameters: { outcome, because: "", ...none } },
    });
  }

  #hearLog(event: string, fields: Readonly<Record<string, unknown>>): void {
    const text = (key: string) => String(fields[key] ?? "");
    // What only says that an order is out, or that there is nothing to decide, is told by other lines.
    const quiet = ["order.answered", "candidate.exists", "segment.majority"].includes(text("rule"));
    if (event === "verdict") {
      if (quiet) return;
      this.#say(`verdict on ${text("segment")}: ${text("rule")} - ${text("because")}`);
    } else if (event === "epoch_opened") {
      this.#say(
        `epoch ${text("epoch")} is written down for ${text("segment")}, on ${text("basis")}`,
      );
    } else if (event === "promoted") this.#say(`${text("segment")} is promoted`);
  }

  // --- the end ----------------------------------------------------------------------------------------

  /** Views have changed, no order is out, and nothing has moved for a while. */
  #isSettled(patience: Millis): boolean {
    const elapsed = this.#now - this.#start;
    if (elapsed <= patience + FORM_MS || this.#planned.length > 0) return false;
    const flows = this.#stoppedAt === null;
    const { grant } = this.#state.durable;
    if (!flows || grant?.order === "given") return false;
    const last = this.#moments.at(-1)?.atMs ?? 0;
    return elapsed - last > 2 * this.#config.timing.reportIntervalMs;
  }

  #describe(): Omit<Forecast, "stopMs"> & { readonly stopMs: Millis | null } {
    const open = this.#nodes.filter((node) => node.speaks && node.open);
    const serving = [...new Set(open.map(({ config }) => config.segment))];
    const { primarySegment } = this.#state.durable;
    const writer =
      open.find(({ report }) => report.writers > 0) ??
      open.find(({ config }) => config.segment === primarySegment) ??
      open[0];
    const over = this.#stoppedAt === null;
    return {
      fault: this.#moments[0]?.what ?? "",
      outcome: this.#outcome(open, serving),
      serving,
      writer: writer?.config.name ?? null,
      held: open.length > 0 ? null : this.#held(),
      stopMs: over ? this.#stopMs : null,
      loss: this.#loss(open),
      moments: this.#moments,
    };
  }

  #outcome(open: readonly Node[], serving: readonly string[]): string {
    if (open.length === 0) {
      return `nobody would serve until a person or a return changes it (${this.#held()})`;
    }
    const names = open.map(({ config }) => config.name).join(", ");
    const { grant } = this.#state.durable;
    if (grant !== null) {
      return `${serving.join(" and ")} would serve alone under epoch ${grant.epoch} (${grant.basis}): ${names}`;
    }
    return `${names} would serve on in one view: no decision is needed`;
  }

  /** The rules that say no of those segments of which somebody is left. */
  #held(): string {
    const left = new Set(
      this.#nodes.flatMap(({ speaks, config }) => (speaks ? config.segment : [])),
    );
    if (left.size === 0) return "no server is left that is heard";
    return [...this.#state.verdicts]
      .filter(([segment]) => left.has(segment))
      .map(([segment, { rule, because }]) => `${segment}: ${rule} - ${because}`)
      .join("; ");
  }

  /** What rows acknowledged to a client could be missing afterwards. */
  #loss(open: readonly Node[]): string {
    if (open.length === 0) return "nothing is lost by waiting";
    if (this.#fault.is === "link_down") {
      return "nothing: both sides are in reach, and the one with more commits goes on";
    }
    const alone = open.every(({ config }) => config.segment === open[0]?.config.segment);
    return alone
      ? "commits in flight at that very instant, acknowledged over there only: at most one round trip of writes"
      : "nothing: each commit was on every survivor";
  }
}
