/**
 * Builders for the tests of the arbitrator's and the watchdog's core: a 2+2 cluster, reports and
 * statuses as plain values, and stories that give a core one event after another on a clock of
 * their own. Nothing here decides anything.
 */
import { expect } from "bun:test";
import {
  type ClusterConfig,
  type DbServerConfig,
  parseClusterConfig,
} from "../../lib/cluster_config.ts";
import { arbitratorCore } from "../../lib/core/arbitrator.ts";
import {
  type ArbitratorDurable,
  type ArbitratorEffect,
  type ArbitratorEvent,
  type ArbitratorState,
  newDurable,
} from "../../lib/core/arbitrator_state.ts";
import type { Arrived } from "../../lib/core/core.ts";
import { dbServerCore } from "../../lib/core/dbserver.ts";
import {
  type DbServerEffect,
  type DbServerEvent,
  SERVER_DURABLE_NONE,
  type ServerDurable,
} from "../../lib/core/dbserver_io.ts";
import type { DbServerState } from "../../lib/core/dbserver_state.ts";
import type { MakePrimary, StartOrder, Verdict } from "../../lib/message/arbitrator.ts";
import type { Ack, Report } from "../../lib/message/dbserver.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import type { BodyOf } from "../../lib/message/mod.ts";
import { fingerprint, groupOf, type WsrepStatus } from "../../lib/wsrep_status.ts";

export const STATE_UUID = "11111111-2222-3333-4444-555555555555";
export const ARBITRATOR = "arbitrator.1" as const satisfies PartyId;
export const ALL = ["a1", "a2", "b1", "b2"] as const;
export const DC1 = ["a1", "a2"] as const;
export const DC2 = ["b1", "b2"] as const;

/** What a test may set about the cluster. */
export interface CoreClusterOptions {
  /** Names by segment; the first one is the primary one. @default dc1: a1 a2, dc2: b1 b2 */
  readonly segments?: Readonly<Record<string, readonly string[]>>;
  /** pc.weight by name. @default 1 */
  readonly weights?: Readonly<Record<string, number>>;
  readonly evict?: ClusterConfig["evict"];
  readonly onDoubleFault?: "stay" | "fence";
  /** Client minders that keep to a single writer. @default 0 */
  readonly clients?: number;
  /** In the spelling of the config file. */
  readonly timing?: Readonly<Record<string, number>>;
}

export function coreCluster(options: CoreClusterOptions = {}): ClusterConfig {
  const segments = options.segments ?? { dc1: DC1, dc2: DC2 };
  const servers = Object.entries(segments).flatMap(([segment, names]) =>
    names.map((name) => ({ name, segment, weight: options.weights?.[name] ?? 1 })),
  );
  return parseClusterConfig(
    {
      version: 1,
      cluster: {
        name: "test",
        primary_segment: Object.keys(segments)[0] ?? "",
        on_double_fault: options.onDoubleFault ?? "stay",
        evict: options.evict ?? "off",
      },
      timing: options.timing ?? {},
      arbitrator: [{ serial: 1, host: "10.0.0.100" }],
      dbserver: servers.map((server, index) => ({
        ...server,
        serial: index + 1,
        host: `10.0.0.${index + 1}`,
      })),
      dbclient: Array.from({ length: options.clients ?? 0 }, (_, index) => ({
        serial: index + 1,
        host: `10.0.1.${index + 1}`,
        balancer: { socket: "/run/haproxy.sock" },
      })),
    },
    "test",
  );
}

export function serverOf(config: ClusterConfig, name: string): DbServerConfig {
  const server = config.serverByName.get(name);
  if (server === undefined) throw new Error(`no server is called ${name}`);
  return server;
}

/** gcomm UUID of a server: made of its name. */
export function uuidOf(name: string): string {
  const hex = [...name].map((letter) => letter.charCodeAt(0).toString(16)).join("");
  return `${hex.padEnd(8, "0").slice(0, 8)}-0000-0000-0000-000000000000`;
}

export function membersOf(names: readonly string[]) {
  return names.map((name) => ({ uuid: uuidOf(name), name }));
}

/** Fingerprint of a view of these servers. */
export function printOf(names: readonly string[], primary: boolean, uuid = STATE_UUID): string {
  return fingerprint(uuid, primary, membersOf(names)) ?? "";
}

/** What a test says about a server; the rest is a healthy member of that view. */
export interface Seen extends Partial<Report> {
  readonly view?: readonly string[];
}

/** A report of a server: serving in the complete view unless told otherwise. */
export function reportOf(config: ClusterConfig, name: string, seen: Seen = {}): Report {
  const { view = config.servers.map((server) => server.name), ...changes } = seen;
  const server = serverOf(config, name);
  const primary = changes.primary ?? "yes";
  const inView = primary === "yes";
  return {
    reportNumber: 1,
    url: `http://${server.host}:${server.port}`,
    running: "up",
    serving: inView ? "on" : "off",
    primary,
    group: groupOf(config, server.segment, membersOf(view)),
    fingerprint: printOf(view, inView),
    members: membersOf(view),
    stateUuid: STATE_UUID,
    lastCommitted: 100,
    localState: inView ? "Synced" : "Initialized",
    evsState: "OPERATIONAL",
    weight: server.weight,
    flowControl: 0,
    fenced: !inView,
    draining: false,
    yielding: false,
    cutting: false,
    leaving: false,
    position: null,
    safeToBootstrap: false,
    storeId: null,
    epochSeen: 0,
    epochServed: 0,
    lastPrimary: {
      fingerprint: printOf(inView ? view : config.servers.map((one) => one.name), true),
      synced: true,
    },
    ...(inView ? {} : { lastMembers: config.servers.map((one) => one.name) }),
    primarySegment: null,
    probe: inView ? "flowing" : "off",
    gcommUuid: uuidOf(name),
    ended: null,
    silent: [],
    writers: 0,
    guard: false,
    diverged: false,
    pollAgeMs: 0,
    versions: { server: "10.11.19", provider: "26.4.23", minder: "0.1.0" },
    because: "",
    ...changes,
  };
}

/** Changes that make a report one of a stopped server. */
export function down(seqno: number | null, changes: Partial<Report> = {}): Partial<Report> {
  return {
    running: "down",
    serving: "off",
    primary: "no",
    group: "down",
    fingerprint: null,
    members: [],
    stateUuid: null,
    lastCommitted: -1,
    localState: "down",
    evsState: null,
    weight: null,
    fenced: true,
    lastPrimary: null,
    probe: "off",
    position: seqno === null ? null : { uuid: STATE_UUID, seqno },
    ...changes,
  };
}

/** One poll of a mariadbd: a Synced member of that view unless told otherwise. */
export function statusOf(
  names: readonly string[],
  changes: Partial<WsrepStatus> = {},
): WsrepStatus {
  const primary = changes.primary ?? true;
  return {
    primary,
    ready: primary,
    connected: true,
    stateUuid: STATE_UUID,
    confId: primary ? "7" : null,
    lastCommitted: 100,
    localState: primary ? "Synced" : "Initialized",
    gcommUuid: null,
    evsState: "OPERATIONAL",
    members: membersOf(names),
    weight: 1,
    clusterWeight: primary ? names.length : 0,
    flowControlPausedNs: 0,
    flowControlActive: false,
    recvQueue: 0,
    rejecting: !primary,
    readOnly: false,
    evictList: [],
    joinRetransMs: 200,
    keepaliveMs: 200,
    serverVersion: "10.11.19",
    providerVersion: "26.4.23",
    ...changes,
  };
}

type SendOf<Effect> = Extract<Effect, { do: "send" }>;

/** The arbitrator's core, told one thing after another. Writes succeed at once unless held back. */
export class ArbitratorStory {
  readonly config: ClusterConfig;
  readonly core: ReturnType<typeof arbitratorCore>;
  state: ArbitratorState;
  now: number;
  /** Writes are answered at once; a test that holds them back answers with `written()`. */
  autoWrite = true;
  /** Everything asked for since the test last took it. */
  effects: ArbitratorEffect[] = [];
  #ticket = 0;
  #reportNumber = 0;

  constructor(
    options: {
      readonly config?: ClusterConfig;
      readonly durable?: Partial<ArbitratorDurable>;
      readonly observing?: string;
      readonly armed?: boolean;
    } = {},
  ) {
    this.config = options.config ?? coreCluster();
    this.core = arbitratorCore({
      config: this.config,
      self: ARBITRATOR,
      durable: { ...newDurable(this.config, "store-1"), ...options.durable },
      observing: options.observing ?? null,
    });
    this.now = 1_000;
    this.state = this.core.initial(this.now);
    this.give({ on: "wakeup" });
    if (options.armed !== false) this.now += this.config.outwaitMs;
  }

  give(event: ArbitratorEvent): readonly ArbitratorEffect[] {
    const { state, effects } = this.core.step(this.state, event, this.now);
    this.state = state;
    this.effects.push(...effects);
    expect(this.core.dueAt(state)).toBeGreaterThan(this.now);
    const all = [...effects];
    for (const effect of effects) {
      if (effect.do !== "write" || !this.autoWrite) continue;
      all.push(...this.give({ on: "written", revision: effect.revision, error: null }));
    }
    return all;
  }

  /** Answers the write that is under way. */
  written(error: string | null = null): readonly ArbitratorEffect[] {
    const last = this.effects.findLast((effect) => effect.do === "write");
    if (last?.do !== "write") throw new Error("nothing is being written");
    return this.give({ on: "written", revision: last.revision, error });
  }

  /** A server reports; the answer is its ack, or undefined while that is held back. */
  report(name: string, seen: Seen = {}): Ack | undefined {
    const ticket = ++this.#ticket;
    const parameters = reportOf(this.config, name, {
      reportNumber: ++this.#reportNumber,
      ...seen,
    });
    this.give({
      on: "message",
      from: serverOf(this.config, name).id,
      body: { verb: "db_status_report", parameters },
      ticket,
    });
    return this.ackOf(ticket);
  }

  /** The same word of several servers; the last ack. */
  reports(names: readonly string[], seen: Seen = {}): Ack | undefined {
    let ack: Ack | undefined;
    for (const name of names) ack = this.report(name, seen);
    return ack;
  }

  /** A person's message; its answer. */
  person(body: BodyOf<"command>arbitrator">): Ack | undefined {
    const ticket = ++this.#ticket;
    this.give({ on: "message", from: "command.0", body, ticket } as Arrived<"arbitrator"> as never);
    return this.ackOf(ticket);
  }

  get lastTicket(): number {
    return this.#ticket;
  }

  ackOf(ticket: number): Ack | undefined {
    const reply = this.effects.findLast((one) => one.do === "reply" && one.ticket === ticket);
    if (reply?.do !== "reply" || reply.body.verb !== "ack") return undefined;
    return reply.body.parameters;
  }

  pass(ms: number): this {
    this.now += ms;
    this.give({ on: "wakeup" });
    return this;
  }

  /** Orders sent since last asked. */
  orders(): readonly SendOf<ArbitratorEffect>[] {
    const found = this.effects.flatMap((effect) =>
      effect.do === "send" && effect.body.verb !== "request_status" ? [effect] : [],
    );
    this.effects = [];
    return found;
  }

  /** The one make_primary sent since last asked. */
  order(): {
    readonly to: PartyId;
    readonly order: MakePrimary;
    readonly sent: SendOf<ArbitratorEffect>;
  } {
    const [sent, ...more] = this.orders();
    if (sent?.body.verb !== "make_primary" || more.length > 0 || !("epoch" in sent.body.parameters))
      throw new Error(`expected one make_primary, got ${JSON.stringify([sent, ...more])}`);
    return { to: sent.to, order: sent.body.parameters as MakePrimary, sent };
  }

  /** The order's answer comes back. */
  answered(sent: SendOf<ArbitratorEffect>, outcome: Ack["outcome"], because = "") {
    return this.give({
      on: "answered",
      by: sent.to,
      sent: sent.body,
      sentAt: this.now,
      reply: {
        verb: "ack",
        parameters: {
          outcome,
          because,
          promise: null,
          epochServed: 0,
          writer: null,
          arbitrator: null,
        },
      },
    });
  }

  verdict(segment: string): Verdict {
    const verdict = this.state.verdicts.get(segment);
    if (verdict === undefined) throw new Error(`nothing was judged of ${segment}`);
    return verdict;
  }

  logged(): readonly string[] {
    return this.effects.flatMap((effect) => (effect.do === "log" ? [effect.event] : []));
  }
}

/** An arbitrator that has outwaited its start and heard everybody serve in the complete view. */
export function calmArbitrator(
  options: ConstructorParameters<typeof ArbitratorStory>[0] = {},
): ArbitratorStory {
  const story = new ArbitratorStory(options);
  const names = story.config.servers.map((server) => server.name);
  story.reports(names);
  story.effects = [];
  return story;
}

/** The watchdog's core of one server, told one thing after another. Disk writes succeed at once unless held back. */
export class ServerStory {
  readonly config: ClusterConfig;
  readonly core: ReturnType<typeof dbServerCore>;
  readonly self: DbServerConfig;
  state: DbServerState;
  now = 1_000;
  autoPersist = true;
  effects: DbServerEffect[] = [];
  #ticket = 0;

  constructor(
    name = "a1",
    options: { readonly config?: ClusterConfig; readonly durable?: Partial<ServerDurable> } = {},
  ) {
    this.config = options.config ?? coreCluster();
    this.self = serverOf(this.config, name);
    this.core = dbServerCore({
      config: this.config,
      self: this.self,
      url: `http://${this.self.host}:${this.self.port}`,
      minderVersion: "0.1.0",
      durable: { ...SERVER_DURABLE_NONE, lastMembers: ALL, ...options.durable },
    });
    this.state = this.core.initial(this.now);
    this.give({ on: "wakeup" });
  }

  give(event: DbServerEvent): readonly DbServerEffect[] {
    const { state, effects } = this.core.step(this.state, event, this.now);
    this.state = state;
    this.effects.push(...effects);
    expect(this.core.dueAt(state)).toBeGreaterThan(this.now);
    const all = [...effects];
    for (const effect of effects) {
      if (effect.do !== "persist" || !this.autoPersist) continue;
      all.push(...this.done(effect));
    }
    return all;
  }

  done(effect: DbServerEffect, error: string | null = null): readonly DbServerEffect[] {
    return this.give({ on: "done", effect, error });
  }

  /** Ends the newest effect of that kind. */
  end(kind: DbServerEffect["do"], error: string | null = null): readonly DbServerEffect[] {
    const effect = this.effects.findLast((one) => one.do === kind);
    if (effect === undefined) throw new Error(`no ${kind} was asked for`);
    return this.done(effect, error);
  }

  runs(pid = 100): this {
    this.give({ on: "process", process: { is: "running", pid, startTime: pid } });
    return this;
  }

  stops(because = "killed"): this {
    this.give({ on: "process", process: { is: "stopped", because } });
    return this;
  }

  /** The poll under way, or a new one, ends with this. */
  polled(
    status: WsrepStatus | null,
    error: string | null = status === null ? "timeout" : null,
    unreachable = false,
  ) {
    const named =
      status === null ? null : { ...status, gcommUuid: status.gcommUuid ?? uuidOf(this.self.name) };
    return this.give({ on: "polled", startedAt: this.now, status: named, error, unreachable });
  }

  probed(outcome: "committed" | "refused" | "hung" | "held" = "committed") {
    return this.give({ on: "probed", startedAt: this.now, outcome, error: null });
  }

  position(seqno: number | null, uuid = STATE_UUID) {
    return this.give({
      on: "position",
      position: seqno === null ? null : { uuid, seqno },
      safeToBootstrap: false,
      error: null,
    });
  }

  /** Time passes; the timer fires wherever it is due on the way, as the loop would let it. */
  pass(ms: number): this {
    const end = this.now + ms;
    for (let steps = 0; this.core.dueAt(this.state) < end; steps++) {
      if (steps > 10_000) throw new Error("the timer spins");
      this.now = Math.max(this.now, this.core.dueAt(this.state));
      this.give({ on: "wakeup" });
    }
    this.now = end;
    this.give({ on: "wakeup" });
    return this;
  }

  get lastReport(): Report {
    const { lastReport } = this.state;
    if (lastReport === null) throw new Error("nothing was reported yet");
    return lastReport;
  }

  /** The answer to the report that was sent last, or to another one. */
  acked(
    by: PartyId,
    ack: Partial<Ack>,
    options: { readonly report?: Report; readonly sentAt?: number } = {},
  ) {
    return this.give({
      on: "answered",
      by,
      sent: { verb: "db_status_report", parameters: options.report ?? this.lastReport },
      sentAt: options.sentAt ?? this.now,
      reply: {
        verb: "ack",
        parameters: {
          outcome: "ok",
          because: "",
          promise: null,
          epochServed: null,
          writer: null,
          arbitrator: null,
          ...ack,
        },
      },
    });
  }

  /** The arbitrator acknowledges with a lease for the view last reported, unless told otherwise. */
  leased(
    options: {
      readonly epoch?: number | null;
      readonly sentAt?: number;
      readonly report?: Report;
      readonly promise?: Ack["promise"];
      readonly arbitrator?: Partial<NonNullable<Ack["arbitrator"]>>;
    } = {},
  ) {
    const report = options.report ?? this.lastReport;
    const promise = {
      ms: this.config.timing.leaseMs,
      view: report.fingerprint ?? "",
      epoch: options.epoch ?? null,
    };
    return this.acked(
      ARBITRATOR,
      {
        promise: options.promise === undefined ? promise : options.promise,
        arbitrator: {
          storeId: "store-1",
          epoch: options.epoch ?? 0,
          primarySegment: "dc1",
          epochs: [],
          draining: false,
          yielding: false,
          cutting: false,
          retired: [],
          start: "wait",
          ...options.arbitrator,
        },
      },
      { report, ...(options.sentAt === undefined ? {} : { sentAt: options.sentAt }) },
    );
  }

  /** Another server vouches for the view last reported. */
  vouched(name: string, epochServed = 0, sentAt = this.now) {
    return this.acked(
      serverOf(this.config, name).id,
      {
        promise: {
          ms: this.config.timing.leaseMs,
          view: this.lastReport.fingerprint ?? "",
          epoch: null,
        },
        epochServed,
      },
      { sentAt },
    );
  }

  /** A message comes; its answer, if there is one yet. */
  hears(from: PartyId, body: Arrived<"dbserver">["body"]): Ack | undefined {
    const ticket = ++this.#ticket;
    this.give({ on: "message", from, body, ticket });
    return this.ackOf(ticket);
  }

  get lastTicket(): number {
    return this.#ticket;
  }

  ackOf(ticket: number): Ack | undefined {
    const reply = this.effects.findLast((one) => one.do === "reply" && one.ticket === ticket);
    return reply?.do === "reply" && reply.body.verb === "ack" ? reply.body.parameters : undefined;
  }

  order(changes: Partial<MakePrimary> = {}): Ack | undefined {
    return this.hears(ARBITRATOR, {
      verb: "make_primary",
      parameters: {
        epoch: 1,
        storeId: "store-1",
        reportNumber: this.state.reportNumber,
        because: "test",
        segment: this.self.segment,
        expectedFingerprint: printOf(this.self.segment === "dc1" ? DC1 : DC2, false),
        notedView: printOf(ALL, true),
        forkPoint: { uuid: STATE_UUID, seqno: 100 },
        basis: "arithmetic",
        ...changes,
      },
    });
  }

  startOrder(
    verb: "start" | "bootstrap" | "reseed",
    changes: Partial<StartOrder> = {},
  ): Ack | undefined {
    return this.hears(ARBITRATOR, {
      verb,
      parameters: {
        epoch: 1,
        storeId: "store-1",
        reportNumber: this.state.reportNumber,
        because: "test",
        position: { uuid: STATE_UUID, seqno: 100 },
        ...changes,
      },
    });
  }

  /** Kinds of the effects since the last take, without mail and log. */
  asked(): readonly string[] {
    const kinds = this.effects.flatMap((effect) =>
      ["send", "reply", "log"].includes(effect.do) ? [] : [effect.do],
    );
    this.effects = [];
    return kinds;
  }

  has(kind: DbServerEffect["do"]): boolean {
    return this.effects.some((effect) => effect.do === kind);
  }
}

/** A watchdog whose mariadbd serves in the complete view under a fresh lease. */
export function servingServer(
  name = "a1",
  options: ConstructorParameters<typeof ServerStory>[1] = {},
): ServerStory {
  const story = new ServerStory(name, options);
  const names = story.config.servers.map((server) => server.name);
  story.runs();
  story.polled(statusOf(names));
  story.leased({ epoch: null, arbitrator: { epoch: options.durable?.epochServed ?? 0 } });
  story.probed();
  story.effects = [];
  expect(story.lastReport.serving).toBe("on");
  return story;
}
