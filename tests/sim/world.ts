/**
 * The world around the cores: hosts with clocks of their own, a network for messages, disks, the
 * model of Galera, clients that write and people who give orders. The deciding cores and their
 * mailrooms run here unchanged; everything else is played, and all chance comes from one seed.
 *
 * API: `new World(plan)` puts a calm cluster up; `schedule.runUntil` lets time pass; the methods
 * under "faults" break and mend things at any instant. `watch` holds the invariants and what they
 * have found; `timeline` holds what happened, if `record` is on.
 */
import type { ClusterConfig, DbServerConfig } from "../../lib/cluster_config.ts";
import { arbitratorCore } from "../../lib/core/arbitrator.ts";
import {
  type ArbitratorDurable,
  type ArbitratorEffect,
  type ArbitratorEvent,
  type ArbitratorState,
  newDurable,
} from "../../lib/core/arbitrator_state.ts";
import type { Core, Step } from "../../lib/core/core.ts";
import { dbServerCore } from "../../lib/core/dbserver.ts";
import {
  type DbServerEffect,
  type DbServerEvent,
  SERVER_DURABLE_NONE,
  type ServerDurable,
} from "../../lib/core/dbserver_io.ts";
import type { DbServerState } from "../../lib/core/dbserver_state.ts";
import {
  type MailEffect,
  type MailEvent,
  type MailroomState,
  mailroom,
  type PostResult,
} from "../../lib/correspondent.ts";
import { describeError, unreachable } from "../../lib/errors.ts";
import { type PartyId, partySerial, WIRE_VERSION } from "../../lib/message/envelope.ts";
import { type BodyTo, decodeMessage, encodeMessage, type Message } from "../../lib/message/mod.ts";
import { closesUnanswered } from "../../lib/notify.ts";
import { fingerprint } from "../../lib/wsrep_status.ts";
import { Documents } from "./documents.ts";
import { Galera, type GaleraOptions, type WriteOutcome } from "./galera.ts";
import { Watch } from "./invariants.ts";
import type { Random } from "./random.ts";
import { Plan, type Planned, Schedule, type Task } from "./schedule.ts";

/** What a world is made of. */
export interface WorldPlan {
  readonly config: ClusterConfig;
  readonly random: Random;
  readonly galera: Partial<GaleraOptions>;
  /** Largest deviation of a clock's rate. @default 1e-4 */
  readonly driftMax: number;
  /** Mean pause of a writer between two writes. */
  readonly writeEveryMs: number;
  /** Writers that sit beside each server, and that sit at a site of their own. */
  readonly localWriters: number;
  readonly remoteWriters: number;
  /** One-way delay of messages within a site and between sites. */
  readonly intraMs: number;
  readonly interMs: number;
  /** Share of messages that pass through the codec. */
  readonly codecShare: number;
  /** A guard runs beside each server of a heavy segment. @default false */
  readonly guards?: boolean;
  /** How long everybody has been running when it begins, so that what is outwaited is over. @default 0 */
  readonly ageMs?: number;
  /** The config is in the database, and `push` changes it. @default false */
  readonly documents?: boolean;
  readonly record: boolean;
}

/** A machine: its clock, its links to others, and whether it runs. */
class Host {
  readonly index: number;
  readonly name: string;
  readonly site: string;
  on = true;
  suspended = false;
  #rate: number;
  #zeroTrue = 0;
  #zeroLocal: number;

  constructor(at: { index: number; name: string; site: string; rate: number; zero: number }) {
    this.index = at.index;
    this.name = at.name;
    this.site = at.site;
    this.#rate = at.rate;
    this.#zeroLocal = at.zero;
  }

  /** Its monotonic clock, which stands still while it is suspended. */
  local(now: number): number {
    return this.suspended ? this.#zeroLocal : this.#zeroLocal + (now - this.#zeroTrue) * this.#rate;
  }

  /** When the clock will show that. */
  trueAt(local: number): number {
    return this.#zeroTrue + (local - this.#zeroLocal) / this.#rate;
  }

  suspend(now: number): void {
    this.#zeroLocal = this.local(now);
    this.suspended = true;
  }

  resume(now: number): void {
    this.#zeroTrue = now;
    this.suspended = false;
  }

  /** A new boot counts from anew. */
  boot(now: number, zero: number): void {
    this.#zeroTrue = now;
    this.#zeroLocal = zero;
    this.suspended = false;
    this.on = true;
  }
}

/** Anything with a mailroom and a core in it, seen from outside. */
export interface Running {
  readonly id: PartyId;
  deliver(event: unknown): void;
}

type AnyEvent = { readonly on: string };
type AnyEffect = { readonly do: string };

/** One life of a process. */
class Process<S, E extends AnyEvent, F extends AnyEffect> {
  readonly id: PartyId;
  readonly host: Host;
  alive = true;
  paused = false;
  state: MailroomState<S>;
  steps = 0;
  readonly #world: World;
  #core: Core<MailroomState<S>, MailEvent<E>, MailEffect<F>>;
  readonly #perform: (effect: MailEffect<F>, process: Process<S, E, F>) => void;
  readonly #queue: MailEvent<E>[] = [];
  #timer: Task | null = null;
  #timerAt = Number.NaN;
  #stepping = false;
  #lastWake = Number.NaN;
  #spins = 0;

  constructor(at: {
    world: World;
    id: PartyId;
    host: Host;
    core: Core<MailroomState<S>, MailEvent<E>, MailEffect<F>>;
    initial: MailroomState<S>;
    perform: (effect: MailEffect<F>, process: Process<S, E, F>) => void;
  }) {
    this.#world = at.world;
    this.id = at.id;
    this.host = at.host;
    this.#core = at.core;
    this.state = at.initial;
    this.#perform = at.perform;
  }

  now(): number {
    return this.host.local(this.#world.schedule.now);
  }

  /** Hands over an event at once, or when the process goes on. */
  deliver(event: MailEvent<E>): void {
    if (!this.alive) return;
    if (this.paused || this.#stepping) {
      if (this.#queue.length < 5000) this.#queue.push(event);
      return;
    }
    this.#step(event);
  }

  /** Goes on with another mailroom over the same state. */
  adopt(core: Core<MailroomState<S>, MailEvent<E>, MailEffect<F>>): void {
    this.#core = core;
    this.#timerAt = Number.NaN;
  }

  /** After a local delay, if this life still lasts. */
  after(delayMs: number, run: () => void): void {
    this.#world.schedule.after(delayMs, () => {
      if (this.alive) run();
    });
  }

  pause(): void {
    this.paused = true;
    if (this.#timer !== null) this.#timer.live = false;
    this.#timer = null;
    this.#timerAt = Number.NaN;
  }

  /** Goes on; `first` is what it notices before anything else. */
  resume(first: MailEvent<E> | null): void {
    this.paused = false;
    if (first !== null) this.#step(first);
    for (const event of this.#queue.splice(0)) {
      // A step may end this life or stop it again.
      if (this.alive) this.deliver(event);
    }
    if (this.alive && !this.paused) this.#arm();
  }

  end(): void {
    this.alive = false;
    this.#queue.length = 0;
    if (this.#timer !== null) this.#timer.live = false;
  }

  #step(event: MailEvent<E>): void {
    this.steps++;
    this.#stepping = true;
    const stepped = this.#tryStep(event);
    if (stepped === null) return;
    this.state = stepped.state;
    for (const effect of stepped.effects) this.#perform(effect, this);
    this.#stepping = false;
    const queued = this.#queue.length === 0 ? undefined : this.#queue.shift();
    if (queued !== undefined && this.alive && !this.paused) {
      this.#step(queued);
      return;
    }
    if (this.alive && !this.paused) this.#arm();
  }

  /** A step that throws ends the process, as it does in production, and is a violation. */
  #tryStep(event: MailEvent<E>): Step<MailroomState<S>, MailEffect<F>> | null {
    try {
      return this.#core.step(this.state, event, this.now());
    } catch (error) {
      const stack = error instanceof Error ? error.stack : undefined;
      this.#world.watch.violate(
        "threw",
        `${this.id} at ${event.on}: ${describeError(error)} ${stack ?? ""}`,
      );
      this.end();
      return null;
    }
  }

  #arm(): void {
    const due = this.#core.dueAt(this.state);
    if (due === this.#timerAt) return;
    if (this.#timer !== null) this.#timer.live = false;
    this.#timer = null;
    this.#timerAt = due;
    if (due === Number.POSITIVE_INFINITY) return;
    // A hair later, so that rounding between clocks never wakes it too soon.
    this.#timer = this.#world.schedule.at(this.host.trueAt(due) + 0.01, () => this.#wake());
  }

  #wake(): void {
    this.#timer = null;
    this.#timerAt = Number.NaN;
    if (!this.alive || this.paused) return;
    const now = this.now();
    this.#spins = now - this.#lastWake < 0.05 ? this.#spins + 1 : 0;
    this.#lastWake = now;
    if (this.#spins > 50) {
      this.#world.watch.violate("spin", `${this.id} wakes without end at one instant`);
      this.end();
      return;
    }
    this.#step({ on: "wakeup" } as unknown as MailEvent<E>);
  }
}

type ServerProcess = Process<DbServerState, DbServerEvent, DbServerEffect>;
type ArbitratorProcess = Process<ArbitratorState, ArbitratorEvent, ArbitratorEffect>;

/** What survives a process: its file, and how the disk under it behaves. */
interface Disk<Durable> {
  durable: Durable;
  /** What it held earlier, for restoring an old copy. */
  readonly before: Durable[];
  full: boolean;
  slowMs: number;
  writing: Durable | null;
}

export interface Server {
  readonly config: DbServerConfig;
  readonly node: number;
  readonly host: Host;
  readonly disk: Disk<ServerDurable>;
  process: ServerProcess | null;
  restart: Planned | null;
  probe: { readonly startedAt: number } | null;
  pid: number;
  /** Until when its guard lets mariadbd live, on the host's clock; null: for ever. */
  guardAt: number | null;
  /** Lets its process go by what is on its shelf. */
  goBy: () => void;
}

interface Arbiter {
  readonly id: PartyId;
  readonly host: Host;
  readonly disk: Disk<ArbitratorDurable>;
  /** Why the next start does not trust its store. */
  damaged: string | null;
  process: ArbitratorProcess | null;
  restart: Planned | null;
  goBy: () => void;
}

/** A process asks the database this often; one that is not there looks again when it may be. */
const FETCH_MS = 2000;
const FETCH_AGAIN_MS = 1000;

export class World {
  readonly schedule = new Schedule();
  /** Faults and their ends; the waits between them can be left out. */
  readonly story = new Plan(this.schedule);
  /** When anything last happened that is more than repetition. */
  stirredAt = 0;
  readonly config: ClusterConfig;
  readonly random: Random;
  readonly galera: Galera;
  readonly watch: Watch;
  /** Null where each host has the same site file. */
  readonly documents: Documents | null;
  readonly hosts: Host[] = [];
  readonly servers: Server[] = [];
  readonly arbiter: Arbiter;
  readonly timeline: string[] = [];
  /** Shares of messages lost and repeated, and extra delay, while the network is bad. */
  lossShare = 0;
  repeatShare = 0;
  slowMs = 0;
  writing = true;
  steps = 0;
  readonly #plan: WorldPlan;
  #ageMs = 0;
  /** By host index: mask of hosts that its messages reach. */
  readonly #links: number[] = [];
  #ids = 0;
  #writes = 0;
  readonly #hostById = new Map<PartyId, Host>();
  readonly #requests = new Map<number, (result: PostResult) => void>();

  constructor(plan: WorldPlan) {
    this.#plan = plan;
    this.config = plan.config;
    this.random = plan.random;
    this.documents = plan.documents === true ? new Documents(plan.config) : null;
    const { servers, arbitrators } = plan.config;
    const arbitrator = arbitrators[0];
    if (arbitrator === undefined) throw new Error("A world needs an arbitrator");
    this.galera = new Galera(this.schedule, plan.random.fork(), {
      specs: servers.map(({ name, segment, weight }) => ({ name, segment, weight })),
      options: plan.galera,
      hooks: {
        ended: (node, because) => this.#mariadbdEnded(node, because),
        changed: (node) => {
          this.stirredAt = this.schedule.now;
          this.watch.changed(node);
        },
        notify: (node, status, primary) => this.#notify(node, status, primary),
      },
    });
    this.watch = new Watch(this);
    const lastMembers = servers.map(({ name }) => name);
    for (const server of servers)
      this.servers.push({
        config: server,
        node: this.servers.length,
        host: this.#newHost(server.name, server.segment),
        // The cluster is there already, as a person has begun it.
        disk: newDisk({ ...SERVER_DURABLE_NONE, lastMembers }),
        process: null,
        restart: null,
        probe: null,
        pid: 0,
        guardAt: null,
        goBy: () => undefined,
      });
    this.arbiter = {
      id: arbitrator.id,
      host: this.#newHost("arbitrator", "third"),
      disk: newDisk(newDurable(plan.config, `store-${this.#id()}`)),
      damaged: null,
      process: null,
      restart: null,
      goBy: () => undefined,
    };
    for (const { config, host } of this.servers) this.#hostById.set(config.id, host);
    this.#hostById.set(this.arbiter.id, this.arbiter.host);
    this.galera.genesis(
      servers.map((_, node) => node),
      { fenced: true },
    );
    this.#ageMs = plan.ageMs ?? 0;
    for (const server of this.servers) this.startWatchdog(server.node);
    this.startArbitrator();
    this.#ageMs = 0;
    this.#startWriters();
  }

  // ---- faults ------------------------------------------------------------------------------

  /** Link between two hosts, one way: of messages, of Galera, or both. */
  setLink(from: number, to: number, up: boolean, net: "messages" | "galera" | "both"): void {
    if (net !== "galera") {
      const mask = this.#links[from] ?? 0;
      this.#links[from] = up ? mask | (1 << to) : mask & ~(1 << to);
    }
    const count = this.servers.length;
    if (net !== "messages" && from < count && to < count) this.galera.setLink(from, to, up);
  }

  /** After a set of `setLink`. */
  relinked(what: string): void {
    this.note(what);
    this.galera.relink();
    this.watch.disturbed();
  }

  linked(a: number, b: number): boolean {
    return ((this.#links[a] ?? 0) & (1 << b)) !== 0 && ((this.#links[b] ?? 0) & (1 << a)) !== 0;
  }

  killMariadbd(node: number, because: string): void {
    this.galera.kill(node, because);
    this.watch.disturbed();
  }

  stopMariadbd(node: number): void {
    this.note(`${this.#name(node)}: SIGTERM from outside`);
    this.galera.stop(node, 10_000);
    this.watch.disturbed();
  }

  hangMariadbd(node: number, forMs: number): void {
    this.note(`${this.#name(node)}: mariadbd hangs for ${Math.round(forMs)} ms`);
    this.galera.hang(node);
    this.watch.disturbed();
    this.story.after(forMs, () => {
      if (this.servers[node]?.host.suspended === true) return;
      this.galera.resume(node);
      this.watch.disturbed();
    });
  }

  /** Flow control or a long schema change. */
  holdCommits(node: number, forMs: number): void {
    this.note(`${this.#name(node)}: commits held for ${Math.round(forMs)} ms`);
    this.galera.hold(node, forMs);
  }

  crashWatchdog(node: number, restartMs: number): void {
    const server = this.servers[node];
    if (server === undefined || server.process === null) return;
    this.note(`${server.config.id} crashes`);
    server.process.end();
    server.process = null;
    this.#crashDisk(server.disk);
    server.probe = null;
    if (server.restart !== null) server.restart.live = false;
    server.restart = this.story.after(restartMs, () => this.startWatchdog(node));
    this.watch.disturbed();
  }

  pauseWatchdog(node: number, forMs: number): void {
    const process = this.servers[node]?.process ?? null;
    if (process === null || process.paused) return;
    this.note(`${process.id} stopped for ${Math.round(forMs)} ms`);
    process.pause();
    this.watch.disturbed();
    this.story.after(forMs, () => {
      if (process.alive && process.paused && !process.host.suspended) process.resume(null);
      this.watch.disturbed();
    });
  }

  crashArbitrator(restartMs: number): void {
    const { arbiter } = this;
    if (arbiter.process === null) return;
    this.note(`${arbiter.id} crashes`);
    arbiter.process.end();
    arbiter.process = null;
    this.#crashDisk(arbiter.disk);
    if (arbiter.restart !== null) arbiter.restart.live = false;
    arbiter.restart = this.story.after(restartMs, () => this.startArbitrator());
    this.watch.disturbed();
  }

  pauseArbitrator(forMs: number): void {
    const process = this.arbiter.process;
    if (process === null || process.paused) return;
    this.note(`${process.id} stopped for ${Math.round(forMs)} ms`);
    process.pause();
    this.watch.disturbed();
    this.story.after(forMs, () => {
      if (process.alive && process.paused && !process.host.suspended) process.resume(null);
      this.watch.disturbed();
    });
  }

  /** The whole machine stands still, its monotonic clock with it. */
  suspendHost(index: number, forMs: number): void {
    const host = this.hosts[index];
    if (host === undefined || host.suspended || !host.on) return;
    this.note(`${host.name} suspended for ${Math.round(forMs)} ms`);
    host.suspend(this.schedule.now);
    const process = this.#processOn(index);
    process?.pause();
    if (index < this.servers.length) this.galera.hang(index);
    this.watch.disturbed();
    const since = this.schedule.now;
    this.story.after(forMs, () => {
      if (!host.on || !host.suspended) return;
      host.resume(this.schedule.now);
      const stoodMs = this.schedule.now - since;
      this.note(`${host.name} wakes`);
      // mariadbd may run before the watchdog does, or after it.
      const mariadbdFirst = this.random.chance(0.5);
      if (mariadbdFirst && index < this.servers.length) this.galera.resume(index);
      this.schedule.after(this.random.between(0, 50), () => {
        // It may be standing still again, or have lost its power: then its next start is another's.
        if (!host.on || host.suspended) return;
        if (!mariadbdFirst && index < this.servers.length) this.galera.resume(index);
        if (process?.alive === true) {
          const suspended = { on: "suspended", forMs: stoodMs } as const;
          (process as ServerProcess).resume(stoodMs > 500 ? suspended : null);
        }
        this.watch.disturbed();
      });
    });
  }

  /** The power of a machine goes; it boots again after `bootMs`. */
  powerOff(index: number, bootMs: number): void {
    const host = this.hosts[index];
    if (host === undefined || !host.on) return;
    this.note(`${host.name} loses power`);
    host.on = false;
    if (index < this.servers.length) {
      this.galera.kill(index, "power");
      this.crashWatchdog(index, Number.POSITIVE_INFINITY);
      const server = this.servers[index];
      if (server !== undefined && server.restart !== null) server.restart.live = false;
    } else if (index === this.arbiter.host.index) {
      this.crashArbitrator(Number.POSITIVE_INFINITY);
      if (this.arbiter.restart !== null) this.arbiter.restart.live = false;
    }
    this.watch.disturbed();
    this.story.after(bootMs, () => this.powerOn(index));
  }

  powerOn(index: number): void {
    const host = this.hosts[index];
    if (host === undefined || host.on) return;
    host.boot(this.schedule.now, this.random.between(0, 100_000));
    this.note(`${host.name} boots`);
    if (index < this.servers.length) this.startWatchdog(index);
    else if (index === this.arbiter.host.index) this.startArbitrator();
    this.watch.disturbed();
  }

  /**
   * The arbitrator's store: lost, torn, or an older copy put in its place. It restarts on it. The copy is one
   * that cannot do harm unseen: no segment has a majority that has not heard of an epoch which it lacks.
   */
  spoilStore(how: "lost" | "torn" | "restored"): void {
    const { disk, id } = this.arbiter;
    this.note(`store of ${id} ${how}`);
    this.crashArbitrator(this.random.between(200, 3000));
    const copies = disk.before.filter(
      ({ epoch }) =>
        epoch === disk.durable.epoch ||
        this.config.segments.every(({ name }) => !this.#unawareMajority(name, epoch)),
    );
    const older = copies[this.random.int(Math.max(1, copies.length))];
    if (how === "restored") {
      if (older !== undefined) disk.durable = older;
    } else {
      disk.durable = newDurable(this.config, `store-${this.#id()}`);
      this.arbiter.damaged = how === "lost" ? "its store is missing" : "its store is damaged";
    }
    this.watch.storeSpoiled();
  }

  /** Have more than half of a segment's servers heard of no epoch beyond that one. */
  #unawareMajority(segment: string, epoch: number): boolean {
    const own = this.servers.filter(({ config }) => config.segment === segment);
    const unaware = own.filter(({ disk }) => disk.durable.epochSeen <= epoch);
    return 2 * unaware.length > own.length;
  }

  diskFull(node: number | null, forMs: number): void {
    const disk = node === null ? this.arbiter.disk : this.servers[node]?.disk;
    if (disk === undefined) return;
    this.note(`disk of ${node === null ? "the arbitrator" : this.#name(node)} full`);
    disk.full = true;
    this.story.after(forMs, () => {
      disk.full = false;
    });
  }

  /** mariadbd is started past the watchdog, with gvwstate.dat in place and unfenced. */
  startBehind(node: number): void {
    const found = this.galera.recover(node);
    if (found === null || this.servers[node]?.host.on !== true) return;
    this.note(`${this.#name(node)}: mariadbd started past the watchdog`);
    const error = this.galera.start(node, {
      mode: "join",
      position: found.position,
      fenced: false,
      keepGvwstate: true,
    });
    if (error === null) this.#mariadbdRuns(node);
    this.watch.outsideStart(node);
  }

  /** A person's order, typed somewhere on the host with that index. */
  order(body: BodyTo<"arbitrator">, from: number): void {
    const host = this.hosts[from];
    if (host === undefined) return;
    const sender = `command.${1 + this.random.int(9)}` as PartyId;
    this.note(`order from ${host.name}: ${body.verb} ${JSON.stringify(body.parameters)}`);
    this.watch.ordered(body);
    const session = `typed-${this.#id()}`;
    const send = (toSession: string, tries: number) => {
      const message = {
        v: WIRE_VERSION,
        sender,
        receiver: this.arbiter.id,
        session,
        seq: 1,
        toSession,
        configVersion: this.config.version,
        ...body,
      } as Message;
      this.#request(host, message, 3000, (result) => {
        if ("message" in result && result.status === 409 && tries > 0)
          this.schedule.after(this.random.between(0, 3000), () =>
            send(result.message.session, tries - 1),
          );
        else if ("message" in result)
          this.note(
            `answer to ${body.verb}: ${JSON.stringify(result.message.parameters).slice(0, 300)}`,
          );
      });
    };
    send("", 2);
  }

  /** Nothing is stopped or suspended any longer. */
  wakeAll(): void {
    for (const host of this.hosts) {
      if (host.suspended) host.resume(this.schedule.now);
      if (host.index < this.servers.length) this.galera.resume(host.index);
      const process = this.#processOn(host.index);
      if (process?.paused === true)
        (process as ServerProcess).resume({ on: "suspended", forMs: 1000 });
    }
    this.watch.disturbed();
  }

  // ---- processes ---------------------------------------------------------------------------

  startWatchdog(node: number): void {
    const server = this.servers[node];
    if (server === undefined || !server.host.on || server.process !== null) return;
    const { config: self, disk } = server;
    const shelf = this.documents?.shelf(self.id) ?? null;
    const config = shelf?.active.config ?? this.config;
    const session = `s${this.#id()}`;
    const room = (by: ClusterConfig) =>
      mailroom<DbServerState, DbServerEvent, DbServerEffect>({
        self: self.id,
        config: by,
        session,
        core,
      });
    const core = dbServerCore({
      config,
      ...(shelf === null
        ? {}
        : { documents: { active: shelf.active.mark, held: shelf.held?.mark ?? null } }),
      self,
      url: this.config.urlById.get(self.id) ?? "",
      minderVersion: "sim",
      durable: disk.durable,
      guards: this.#plan.guards === true,
    });
    const first = room(config);
    const process: ServerProcess = new Process({
      world: this,
      id: self.id,
      host: server.host,
      core: first,
      initial: first.initial(core.initial(server.host.local(this.schedule.now) - this.#ageMs)),
      perform: (effect) => this.#performServer(server, process, effect),
    });
    server.process = process;
    server.goBy = () => {
      if (this.documents === null || !process.alive) return;
      const { active, held } = this.documents.shelf(self.id);
      process.adopt(room(active.config));
      const { config: by, mark } = active;
      process.deliver({ on: "config", config: by, mark, held: held?.mark ?? null });
    };
    this.note(`${self.id} starts`);
    this.#tellProcess(server);
    process.deliver({ on: "wakeup" });
    if (server.host.suspended) process.pause();
  }

  startArbitrator(): void {
    const { arbiter } = this;
    if (!arbiter.host.on || arbiter.process !== null) return;
    const { documents } = this;
    const { config: noted } = arbiter.disk.durable;
    if (noted !== undefined) documents?.adopt(arbiter.id, noted.active);
    const active = documents?.shelf(arbiter.id).active ?? null;
    const before = noted?.former ?? null;
    const former = before === null ? null : (documents?.find(before) ?? null);
    const config = active?.config ?? this.config;
    const session = `s${this.#id()}`;
    const room = (by: ClusterConfig) =>
      mailroom<ArbitratorState, ArbitratorEvent, ArbitratorEffect>({
        self: arbiter.id,
        config: by,
        session,
        core,
      });
    const core = arbitratorCore({
      config,
      ...(active === null ? {} : { mark: active.mark, former }),
      self: arbiter.id,
      durable: arbiter.disk.durable,
      observing: arbiter.damaged,
    });
    const first = room(config);
    const process: ArbitratorProcess = new Process({
      world: this,
      id: arbiter.id,
      host: arbiter.host,
      core: first,
      initial: first.initial(core.initial(arbiter.host.local(this.schedule.now) - this.#ageMs)),
      perform: (effect) => this.#performArbitrator(process, effect),
    });
    arbiter.process = process;
    arbiter.goBy = () => {
      if (documents === null || !process.alive) return;
      const shelf = documents.shelf(arbiter.id);
      process.adopt(room(shelf.active.config));
      process.deliver({ on: "config", ...shelf.active, held: shelf.held });
    };
    arbiter.goBy();
    this.note(`${arbiter.id} starts${arbiter.damaged === null ? "" : `: ${arbiter.damaged}`}`);
    process.deliver({ on: "wakeup" });
    if (arbiter.host.suspended) process.pause();
  }

  /** A person pushes a config; each process finds it when it next asks the database, and can. */
  push(config: ClusterConfig): void {
    const { documents } = this;
    if (documents === null) throw new Error("This world has site files");
    const { version } = documents.push(config).mark;
    this.note(`config version ${version} is pushed`);
    for (const party of [...this.servers, this.arbiter]) {
      const id = "id" in party ? party.id : party.config.id;
      const fetch = (): void => {
        const { process } = party;
        if (process === null || process.paused) {
          this.schedule.after(FETCH_AGAIN_MS, fetch);
          return;
        }
        documents.read(id);
        party.goBy();
      };
      this.schedule.after(this.random.between(0, FETCH_MS), fetch);
    }
  }

  /** The arbitrator, or its word, has named the document to go by. */
  #adopt(
    party: Server | Arbiter,
    process: ServerProcess | ArbitratorProcess,
    effect: Extract<DbServerEffect | ArbitratorEffect, { do: "adopt" }>,
  ): void {
    process.after(this.random.between(1, 50), () => {
      this.documents?.adopt(process.id, effect.mark);
      party.goBy();
    });
  }

  #processOn(index: number): ServerProcess | ArbitratorProcess | null {
    if (index === this.arbiter.host.index) return this.arbiter.process;
    return this.servers[index]?.process ?? null;
  }

  // ---- effects -----------------------------------------------------------------------------

  #performServer(server: Server, process: ServerProcess, effect: MailEffect<DbServerEffect>): void {
    const { galera, random } = this;
    const { node } = server;
    const done = (error: string | null) => {
      process.deliver({ on: "done", effect: effect as DbServerEffect, error });
    };
    switch (effect.do) {
      case "post":
        this.#post(process, effect);
        return;
      case "respond":
        this.#respond(effect);
        return;
      case "poll": {
        const startedAt = process.now();
        process.after(random.between(0.2, 1.5), () => {
          const status = galera.status(node);
          if (status !== null) {
            process.after(random.between(0.1, this.#slowness()), () =>
              process.deliver({ on: "polled", startedAt, status, error: null, unreachable: false }),
            );
          } else {
            const hung = galera.procs[node]?.sql === true;
            process.after(hung ? this.config.timing.pollTimeoutMs : 1, () =>
              process.deliver({
                on: "polled",
                startedAt,
                status: null,
                error: hung
                  ? "No answer from mariadbd within the time limit"
                  : "Connection refused",
                unreachable: !hung,
              }),
            );
          }
        });
        return;
      }
      case "probe":
        this.#probe(server, process);
        return;
      case "fence":
        process.after(random.between(0.3, 1 + this.#slowness()), () =>
          this.#fence(server, process.now() + this.config.timing.fenceMs, done),
        );
        return;
      case "unfence":
        this.watch.opening(server, process.state.core);
        process.after(random.between(0.3, 1 + this.#slowness()), () => {
          const error = galera.fence(node, false);
          if (error === null) this.note(`${server.config.name} unfenced: ${effect.because}`);
          process.after(random.between(0.1, this.#slowness()), () => done(error));
        });
        return;
      case "form_primary":
        this.watch.forming(server, process.state.core);
        process.after(random.between(0.3, this.#slowness()), () => {
          const status = galera.status(node);
          if (status === null) {
            done(null);
            process.deliver({ on: "formed", outcome: "failed", error: "no answer" });
            return;
          }
          const view = fingerprint(status.stateUuid, status.primary, status.members);
          if (status.primary || view !== effect.expectedFingerprint) {
            process.deliver({ on: "formed", outcome: "changed", error: `the view is ${view}` });
            return;
          }
          process.after(random.between(0.05, 1), () => {
            const error = galera.bootstrap(node);
            this.note(`${server.config.name}: pc.bootstrap=YES ${error ?? "OK"}`);
            process.after(random.between(0.1, this.#slowness()), () =>
              process.deliver({
                on: "formed",
                outcome: error === null ? "given" : "failed",
                error,
              }),
            );
          });
        });
        return;
      case "evict":
        process.after(random.between(0.3, this.#slowness()), () => {
          if (effect.anew && effect.uuids.length > 0) galera.evict(node, []);
          const error = galera.evict(node, effect.uuids);
          this.note(`${server.config.name}: evs.evict=${effect.uuids.join(",")} ${error ?? "OK"}`);
          done(error);
        });
        return;
      case "tune":
        process.after(random.between(0.3, this.#slowness()), () =>
          done(galera.tune(node, effect.periodMs)),
        );
        return;
      case "read_position":
        process.after(random.between(50, 400), () => {
          const found = galera.recover(node);
          galera.removeGvwstate(node);
          process.deliver({
            on: "position",
            position: found?.position ?? null,
            safeToBootstrap: found?.safeToBootstrap ?? false,
            error: found === null ? "mariadbd runs" : null,
          });
        });
        return;
      case "start":
        process.after(random.between(1, 50), () => {
          const reseed = effect.mode === "reseed";
          this.note(`${server.config.name}: start ${effect.mode}`);
          const error = galera.start(node, {
            mode: reseed ? "join" : effect.mode,
            position: reseed ? null : effect.position,
            fenced: true,
            ...(effect.donor === null ? {} : { donor: effect.donor }),
          });
          if (error === null) this.#mariadbdRuns(node);
          done(error);
        });
        return;
      case "stop":
        this.note(`${server.config.name}: stop`);
        galera.stop(node, effect.graceMs);
        done(galera.procs[node] === null ? "mariadbd does not run" : null);
        return;
      case "look_aside":
      case "discard":
        process.after(1, () => process.deliver({ on: "aside", found: [], error: null }));
        return;
      case "guard":
        // Without guards in the plan the core never asks: heavy segments are judged as without.
        server.guardAt = effect.wanted ? effect.killAt : null;
        this.#guard(server);
        process.after(random.between(1, 20), () =>
          process.deliver({ on: "guarded", alive: effect.wanted }),
        );
        return;
      case "kill":
        this.note(`${server.config.name}: kill, ${effect.because}`);
        process.after(random.between(0, 10), () => {
          galera.kill(node, "killed by its watchdog");
          done(null);
        });
        return;
      case "persist":
        this.#write(server.disk, process, effect.durable, (error) => {
          if (error === null) this.watch.serverWrote(node, effect.durable);
          done(error);
        });
        return;
      case "adopt":
        this.#adopt(server, process, effect);
        return;
      case "log":
        this.#log(process.id, effect);
        return;
      default:
        unreachable(effect);
    }
  }

  #performArbitrator(process: ArbitratorProcess, effect: MailEffect<ArbitratorEffect>): void {
    switch (effect.do) {
      case "post":
        this.#post(process, effect);
        return;
      case "respond":
        this.#respond(effect);
        return;
      case "write":
        this.#write(this.arbiter.disk, process, effect.durable, (error) => {
          // What never came to the disk was never granted: nothing that rests on it has left.
          if (error === null) this.watch.granting(effect.durable);
          process.deliver({ on: "written", revision: effect.revision, error });
        });
        return;
      case "read_history":
        return;
      case "adopt":
        this.#adopt(this.arbiter, process, effect);
        return;
      case "log":
        if (effect.event === "resumed" || effect.event === "rearmed") this.arbiter.damaged = null;
        this.#log(process.id, effect);
        return;
      default:
        unreachable(effect);
    }
  }

  /** The guard outlives its watchdog: it kills mariadbd at the deadline that it was told last. */
  #guard(server: Server): void {
    const { guardAt, host, node } = server;
    if (guardAt === null) return;
    const waitMs = host.suspended ? 100 : host.trueAt(guardAt) - this.schedule.now;
    this.schedule.after(Math.max(1, waitMs), () => {
      if (server.guardAt !== guardAt) return;
      if (host.suspended || host.local(this.schedule.now) < guardAt) this.#guard(server);
      else this.galera.kill(node, "killed by its guard");
    });
  }

  #fence(server: Server, until: number, done: (error: string | null) => void): void {
    const { process } = server;
    const error = this.galera.fence(server.node, true);
    if (process === null) return;
    if (error === "No answer") {
      const left = Math.max(0, until - process.now());
      process.after(left, () => done("No answer within the time limit"));
      return;
    }
    if (error !== null) {
      done(error);
      return;
    }
    if (this.galera.clientSessions(server.node) > 0) {
      if (process.now() >= until) done("client sessions are left");
      else process.after(5, () => this.#fence(server, until, done));
      return;
    }
    this.note(`${server.config.name} fenced`);
    done(null);
  }

  #probe(server: Server, process: ServerProcess): void {
    const { galera } = this;
    const { node } = server;
    const startedAt = process.now();
    const own = { startedAt };
    let ended = false;
    const end = (outcome: "committed" | "refused" | "hung" | "held") => {
      if (ended) return;
      ended = true;
      process.deliver({
        on: "probed",
        startedAt,
        outcome,
        error: outcome === "committed" ? null : outcome,
      });
    };
    const look = () => (galera.status(node)?.flowControlActive === true ? "held" : "hung");
    if (server.probe !== null) {
      // The earlier one still hangs in the server: a look at it is all there is.
      process.after(20, () => end(server.probe === null ? "refused" : look()));
      return;
    }
    server.probe = own;
    process.after(this.config.timing.probeTimeoutMs, () => end(look()));
    process.after(this.random.between(0.2, this.#slowness()), () => {
      const answered = (outcome: WriteOutcome) => {
        if (server.probe === own) server.probe = null;
        if (process.alive) end(outcome === "ok" ? "committed" : "refused");
      };
      if (galera.status(node)?.rejecting === true) galera.causalRead(node, answered);
      else galera.write(node, -1 - node, answered);
    });
  }

  #write<D>(
    disk: Disk<D>,
    process: { after(delayMs: number, run: () => void): void },
    durable: D,
    done: (error: string | null) => void,
  ): void {
    disk.writing = durable;
    process.after(this.random.between(0.2, 4) + disk.slowMs, () => {
      disk.writing = null;
      if (disk.full) {
        done("No space left on device");
        return;
      }
      disk.before.push(disk.durable);
      if (disk.before.length > 20) disk.before.shift();
      disk.durable = durable;
      done(null);
    });
  }

  /** A crash before fsync has returned: the file is the old one or the new one, since it is renamed into place. */
  #crashDisk<D>(disk: Disk<D>): void {
    if (disk.writing !== null && this.random.chance(0.5)) disk.durable = disk.writing;
    disk.writing = null;
  }

  // ---- mariadbd as seen by its watchdog ----------------------------------------------------

  #mariadbdRuns(node: number): void {
    const server = this.servers[node];
    if (server === undefined) return;
    server.pid++;
    this.#tellProcess(server);
  }

  #mariadbdEnded(node: number, because: string): void {
    const server = this.servers[node];
    if (server === undefined) return;
    this.note(`${server.config.name}: mariadbd ended: ${because}`);
    server.probe = null;
    server.guardAt = null;
    this.#tellProcess(server);
    this.watch.ended(node, because);
  }

  #tellProcess(server: Server): void {
    const { process } = server;
    if (process === null) return;
    const proc = this.galera.procs[server.node] ?? null;
    process.deliver({
      on: "process",
      process:
        proc === null
          ? { is: "stopped", because: "exited" }
          : { is: "running", pid: 1000 + server.pid, startTime: server.pid },
    });
  }

  #notify(node: number, status: string, primary: boolean): void {
    const server = this.servers[node];
    if (server === undefined || !server.host.on) return;
    if (this.#plan.record)
      this.note(`${server.config.name}: Galera says ${status}, primary ${primary ? "yes" : "no"}`);
    const { process } = server;
    const lost = this.random.chance(0.1);
    // mariadbd waits for its handler, which closes the door where no watchdog answers.
    const closing = closesUnanswered({ status, primary });
    if ((lost || process === null || process.paused) && closing !== "no")
      this.galera.fence(node, true);
    if (lost) return;
    const proc = this.galera.procs[node] ?? null;
    const message = {
      v: WIRE_VERSION,
      sender: `wsrep_notify_cmd.${partySerial(server.config.id)}`,
      receiver: server.config.id,
      session: `n${this.#id()}`,
      seq: 1,
      toSession: "",
      configVersion: this.config.version,
      verb: "wsrep_notify_cmd",
      parameters: {
        status,
        uuid: proc?.tip?.cluster ?? null,
        primary,
        index: 0,
        members: null,
      },
    } as Message;
    this.#request(server.host, message, 500, () => undefined);
  }

  // ---- messages ----------------------------------------------------------------------------

  /** Hears every message that reaches a process, as somebody on the wire would. */
  onArrived: (message: Message) => void = () => undefined;

  /** Hands a message to its receiver at once, from nowhere; the answer if one comes at once. */
  replay(message: Message): PostResult | null {
    const to = this.#hostOf(message.receiver);
    const target = to === null ? null : this.#processOn(to.index);
    if (target === null) return null;
    let answer: PostResult | null = null;
    const httpTicket = this.#id();
    this.#requests.set(httpTicket, (result) => {
      answer = result;
    });
    target.deliver({ on: "arrived", message, httpTicket } as never);
    this.#requests.delete(httpTicket);
    return answer;
  }

  /** The state of a party's process; null while it does not run. */
  stateOf(id: PartyId): MailroomState<unknown> | null {
    const to = this.#hostOf(id);
    return to === null ? null : (this.#processOn(to.index)?.state ?? null);
  }

  #post(
    process: ServerProcess | ArbitratorProcess,
    effect: Extract<MailEffect<DbServerEffect>, { do: "post" }>,
  ): void {
    if (process === this.arbiter.process) this.watch.ordering(effect.message);
    this.#request(process.host, effect.message, effect.timeoutMs, (result) =>
      process.deliver({ on: "posted", postId: effect.postId, result }),
    );
  }

  /** One HTTP exchange. `end` is called once, at the latest after the time limit. */
  #request(from: Host, sent: Message, timeoutMs: number, end: (result: PostResult) => void): void {
    const to = this.#hostOf(sent.receiver);
    let open = true;
    const finish = (result: PostResult) => {
      if (!open) return;
      open = false;
      timeout.live = false;
      end(result);
    };
    const timeout = this.schedule.after(timeoutMs, () => finish({ error: "No response in time" }));
    if (to === null) return;
    const message = this.#coded(sent);
    const copies = this.random.chance(this.repeatShare) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      const extraMs = copy === 0 ? 0 : this.random.exponential(2000);
      this.#carry(from, to, extraMs, () => {
        const target = this.#processOn(to.index);
        if (target === null) {
          this.#carry(to, from, 0, () => finish({ error: "Connection refused" }));
          return;
        }
        this.onArrived(message);
        const httpTicket = this.#id();
        this.#requests.set(httpTicket, (result) => {
          this.#carry(to, from, 0, () => finish(result));
        });
        target.deliver({ on: "arrived", message, httpTicket } as never);
      });
    }
  }

  #respond(effect: Extract<MailEffect<DbServerEffect>, { do: "respond" }>): void {
    const answer = this.#requests.get(effect.httpTicket);
    if (answer === undefined) return;
    this.#requests.delete(effect.httpTicket);
    const { status } = effect;
    if (effect.message !== undefined) answer({ status, message: this.#coded(effect.message) });
    else answer({ status, reason: effect.reason, error: effect.error });
  }

  /** Takes something from host to host, if it gets there. */
  #carry(from: Host, to: Host, extraMs: number, arrive: () => void): void {
    const { random } = this;
    const local = from === to;
    if (!local) {
      if (((this.#links[from.index] ?? 0) & (1 << to.index)) === 0) return;
      if (random.chance(this.lossShare)) return;
    }
    const base = local ? 0.05 : from.site === to.site ? this.#plan.intraMs : this.#plan.interMs;
    const slow = this.slowMs > 0 && !local ? random.exponential(this.slowMs) : 0;
    this.schedule.after(base * random.between(1, 1.5) + slow + extraMs, () => {
      if (!to.on) return;
      if (!local && ((this.#links[from.index] ?? 0) & (1 << to.index)) === 0) return;
      arrive();
    });
  }

  #coded(message: Message): Message {
    if (!this.random.chance(this.#plan.codecShare)) return message;
    const decoded = decodeMessage(encodeMessage(message));
    if (decoded.ok) return decoded.message;
    this.watch.violate("codec", `${message.verb} from ${message.sender}: ${decoded.error}`);
    return message;
  }

  #hostOf(id: PartyId): Host | null {
    return this.#hostById.get(id) ?? null;
  }

  // ---- clients -----------------------------------------------------------------------------

  #startWriters(): void {
    const { localWriters, remoteWriters } = this.#plan;
    for (const server of this.servers)
      for (let count = 0; count < localWriters; count++) this.#writer(server.host);
    for (let count = 0; count < remoteWriters; count++) {
      const segment = this.config.segments[count % this.config.segments.length];
      if (segment !== undefined) this.#writer(this.#newHost(`client-${count + 1}`, segment.name));
    }
  }

  /** Writes to any server that it reaches and that takes writes, for ever. */
  #writer(home: Host): void {
    const next = () => {
      this.schedule.after(this.random.exponential(this.#plan.writeEveryMs), turn);
    };
    const turn = () => {
      if (!this.writing) return;
      const near = this.servers[home.index];
      const reached =
        near !== undefined
          ? [near]
          : this.servers.filter((server) => this.linked(home.index, server.host.index));
      const open = reached.filter((server) => this.galera.writable(server.node));
      if (open.length === 0) {
        next();
        return;
      }
      const target = this.random.pick(open);
      const id = ++this.#writes;
      let waiting = true;
      const goOn = () => {
        if (!waiting) return;
        waiting = false;
        patience.live = false;
        next();
      };
      const patience = this.schedule.after(3000, goOn);
      this.#carry(home, target.host, 0, () => {
        const view = this.galera.procs[target.node]?.view ?? null;
        const at = this.schedule.now;
        this.galera.write(target.node, id, (outcome, entry) => {
          if (outcome === "ok" && entry !== null)
            this.watch.acknowledged({
              id,
              entry,
              node: target.node,
              view,
              sentAt: at,
              at: this.schedule.now,
            });
          goOn();
        });
      });
    };
    next();
  }

  // ---- small things ------------------------------------------------------------------------

  note(text: string): void {
    if (this.#plan.record)
      this.timeline.push(`${(this.schedule.now / 1000).toFixed(3).padStart(9)}  ${text}`);
  }

  #log(
    id: PartyId,
    effect: { readonly event: string; readonly fields: Readonly<Record<string, unknown>> },
  ): void {
    this.stirredAt = this.schedule.now;
    this.watch.logged(id, effect.event, effect.fields);
    if (this.#plan.record) this.note(`${id} ${effect.event} ${JSON.stringify(effect.fields)}`);
  }

  #name(node: number): string {
    return this.servers[node]?.config.name ?? String(node);
  }

  /** Now and then a statement is slow. */
  #slowness(): number {
    return this.random.chance(0.01) ? 400 : 3;
  }

  #id(): number {
    return ++this.#ids;
  }

  #newHost(name: string, site: string): Host {
    const index = this.hosts.length;
    const drift = this.#plan.driftMax;
    const host = new Host({
      index,
      name,
      site,
      rate: 1 + this.random.between(-drift, drift),
      zero: this.random.between(0, 1_000_000),
    });
    this.hosts.push(host);
    for (let other = 0; other < index; other++)
      this.#links[other] = (this.#links[other] ?? 0) | (1 << index);
    this.#links.push(0x7fffffff);
    return host;
  }
}

function newDisk<D>(durable: D): Disk<D> {
  return { durable, before: [], full: false, slowMs: 0, writing: null };
}
