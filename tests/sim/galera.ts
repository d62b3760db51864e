/**
 * A model of several mariadbd with Galera, event-driven and without a clock of its own, built on
 * measurements of MariaDB 10.11.19 with Galera 26.4.23 (silent packet drops, default evs settings).
 *
 * What it keeps true:
 * - A view is shared by the processes in it; a write is delivered at a member, in one order, once that
 *   member knows of every member that it has the write and everybody's word of having it. So the
 *   writer's side is a one-way delay ahead of the other, and that is what a cut can lose. After a cut each part delivers what any of its
 *   members knows to be everywhere; the rest hangs until the part's next view, where a part with
 *   quorum (2 x present + left > total of the last Primary view) commits what it holds and any other
 *   part forgets it.
 * - Position decides about rejoining, never content: a lower seqno takes IST, an equal one nothing, a
 *   higher one aborts. Diverged rows survive IST silently.
 * - A non-Primary part looks for others, a Primary one does not: two Primaries meet only over a third.
 * - Every Primary view takes one seqno.
 *
 * API, all by node index:
 * - `genesis()` puts all nodes into one Synced Primary view; `setLink`, `relink()` change the network.
 * - `start`, `stop`, `kill`, `hang`, `resume`: the process. `recover`: what `--wsrep-recover` says.
 * - `status`: what one poll says, null where SQL does not answer.
 * - `fence`, `bootstrap`, `evict`, `setWeight`: the statements; a string is the error, null is OK.
 * - `write`: a client's commit, or a watchdog's probe with a negative id; ends in one outcome, or
 *   never while the process hangs. `hold`: flow control or DDL stops commits for a while.
 * Hooks tell of ended processes and of changed status. Nothing is thrown for what can happen.
 */
import type { Position } from "../../lib/message/dbserver.ts";
import { UNSPECIFIED, type WsrepStatus } from "../../lib/wsrep_status.ts";
import type { Random } from "./random.ts";
import { append, continues, type Entry, entryAt, firstEntry, replay } from "./rows.ts";
import type { Schedule, Task } from "./schedule.ts";

export interface NodeSpec {
  readonly name: string;
  readonly segment: string;
  readonly weight: number;
  /** garbd: counts and relays, holds no rows and answers no SQL. */
  readonly garb?: boolean;
}

type Range = readonly [number, number];
type Member = WsrepStatus["members"][number];

/** Durations in ms as [low, high), chances 0 to 1. Defaults are the measured values. */
export interface GaleraOptions {
  /** Loss of a member until the survivors' next view. */
  readonly suspectMs: Range;
  /** Share of detections that take up to `slowSuspectMs`. */
  readonly slowSuspectChance: number;
  readonly slowSuspectMs: number;
  /** Eviction of all lost members, told to all survivors, until the next view. */
  readonly evictMs: Range;
  /** Clean leave until the others' next view. */
  readonly leaveMs: Range;
  /** Contact with another part until the common view. */
  readonly mergeMs: Range;
  /** Share of further parts that are found after a common view of two, by another one. */
  readonly mergeLaterChance: number;
  /** Contact with a part that has another view, until this is noticed. */
  readonly foreignMs: Range;
  readonly bootMs: Range;
  readonly istLiveMs: Range;
  readonly istMs: Range;
  readonly sstMs: Range;
  readonly stopMs: Range;
  /** One-way delay between members of one segment and of two. */
  readonly intraMs: number;
  readonly interMs: number;
  /** Each delay is multiplied by 1 to 1 + this. */
  readonly jitter: number;
  /** pc.bootstrap answers an error; answers OK and does nothing. */
  readonly bootstrapErrorChance: number;
  readonly bootstrapLieChance: number;
  /** IST over a diverged history is refused rather than silent. */
  readonly istRefusedChance: number;
  /** The donor's gcache has lost what IST needs. */
  readonly gcacheMissChance: number;
  /** Entries that a crash may lose; 0 is innodb_flush_log_at_trx_commit=1. */
  readonly crashLosesMax: number;
  /** ALL_KILL leaves a commit in flight alive. */
  readonly killLeakChance: number;
  /** Members in the eviction list do not count in the last Primary view when a non-Primary part looks whether it is whole. */
  readonly evictedIgnored: boolean;
  /** A live server that took part while evicted must restart. */
  readonly evictedAbortChance: number;
  /** From a write's delivery at a member until it is applied there: its position lags, and a crash loses it there. */
  readonly applyLagMs: Range;
  /** What a joiner says of itself during the transfer. */
  readonly joinerSaysPrimary: boolean;
  /** pc.wait_prim_timeout. */
  readonly waitPrimMs: number;
}

export const GALERA_DEFAULTS: GaleraOptions = {
  suspectMs: [4900, 6500],
  slowSuspectChance: 0.1,
  slowSuspectMs: 8400,
  evictMs: [200, 280],
  leaveMs: [20, 1000],
  mergeMs: [800, 2400],
  mergeLaterChance: 0.2,
  foreignMs: [500, 3000],
  bootMs: [500, 1200],
  istLiveMs: [600, 2200],
  istMs: [1000, 2500],
  sstMs: [2500, 4000],
  stopMs: [100, 2000],
  intraMs: 0.3,
  interMs: 10,
  jitter: 0.5,
  bootstrapErrorChance: 0,
  bootstrapLieChance: 0,
  istRefusedChance: 0.5,
  gcacheMissChance: 0,
  crashLosesMax: 0,
  killLeakChance: 0,
  evictedIgnored: true,
  evictedAbortChance: 0.5,
  applyLagMs: [0, 0],
  joinerSaysPrimary: false,
  waitPrimMs: 30_000,
};

/** With the periods at their default of 1 s an eviction takes 1.05 to 2.2 s (measured). */
const SLOW_PERIOD_MS = 500;
const SLOW_FACTOR = 5;
/** A causal read that hangs is looked at so often. */
const CAUSAL_LOOK_MS = 100;

export type WriteOutcome = "ok" | "refused" | "unknown";

export interface GaleraHooks {
  /** The process is gone. */
  ended(node: number, because: string): void;
  /** What `status` says of the node may differ from before. */
  changed(node: number): void;
  /** Galera calls wsrep_notify_cmd. */
  notify(node: number, status: string, primary: boolean): void;
}

/** Local states as `wsrep_local_state_comment` words them. */
type LocalState =
  | "Initialized"
  | "Joining: receiving State Transfer"
  | "Synced"
  | "Donor/Desynced"
  | "Inconsistent";

/** A Primary view as its members remember it. */
interface PrimaryMemory {
  readonly seq: number;
  readonly confId: number;
  /** UUIDs without the incarnation. */
  readonly bases: readonly string[];
}

interface Pending {
  readonly id: number;
  readonly origin: Proc;
  done: ((outcome: WriteOutcome, entry: Entry | null) => void) | null;
  /** By node: when it has the message. */
  readonly recv: number[];
  /** By node: whose word of having it has come, and when all of them have. */
  readonly got: number[];
  readonly complete: number[];
  /** By node: which members it knows to be complete, and when it knows all of them to be. */
  readonly know: number[];
  readonly safe: number[];
  entry: Entry | null;
  /** When it was handed in. */
  readonly at: number;
}

interface Change {
  readonly since: number;
  readonly delayMs: number;
  due: number;
  task: Task | null;
}

interface Transfer {
  readonly kind: "ist" | "sst";
  readonly donor: Proc;
  task: Task;
}

/** One membership. `mask` has the bits of its members' node indexes. */
export class View {
  readonly id: number;
  readonly primary: boolean;
  readonly mask: number;
  readonly procs: readonly (Proc | null)[];
  readonly weights: number[];
  readonly confId: number;
  readonly seq: number;
  readonly members: readonly Member[];
  /** Canonical rows of a Primary view; null in a non-Primary one. */
  tip: Entry | null;
  /** Rows at its beginning. */
  first: Entry | null = null;
  readonly log: Pending[] = [];
  /** By node: members that its messages reach, itself included. */
  reach: number[];
  /** By from * n + to: since when that works. */
  readonly upSince: Float64Array;
  readonly lastRecv: Float64Array;
  /** Members that left cleanly: who knows, and when the others will have noticed. */
  readonly leftKnown: number[];
  readonly leftDue: number[];
  readonly foreignDue: number[];
  readonly changes = new Map<number, Change>();
  merge: Task | null = null;
  holdUntil = 0;
  held: Pending[] = [];
  live: number;
  /** All members hear each other. */
  whole = true;
  /** When that ended, each time. */
  readonly brokenAt: number[] = [];
  /** When a member ceased to hear another one, whole until then or not. */
  readonly cutAt: number[] = [];

  constructor(
    id: number,
    at: {
      primary: boolean;
      procs: readonly Proc[];
      nodes: number;
      weights: readonly number[];
      confId: number;
      seq: number;
      now: number;
    },
  ) {
    const slots: (Proc | null)[] = new Array(at.nodes).fill(null);
    let mask = 0;
    for (const proc of at.procs) {
      slots[proc.node] = proc;
      mask |= 1 << proc.node;
    }
    this.id = id;
    this.primary = at.primary;
    this.mask = mask;
    this.live = mask;
    this.procs = slots;
    this.weights = [...at.weights];
    this.confId = at.confId;
    this.seq = at.seq;
    this.tip = null;
    this.members = at.procs.map((proc) => ({ uuid: proc.uuid, name: proc.spec.name }));
    this.reach = new Array(at.nodes).fill(0);
    this.upSince = new Float64Array(at.nodes * at.nodes).fill(at.now);
    this.lastRecv = new Float64Array(at.nodes);
    this.leftKnown = new Array(at.nodes).fill(0);
    this.leftDue = new Array(at.nodes).fill(0);
    this.foreignDue = new Array(at.nodes).fill(-1);
  }
}

/** One mariadbd, from its start to its end. */
export class Proc {
  readonly serial: number;
  readonly node: number;
  readonly spec: NodeSpec;
  readonly base: string;
  readonly uuid: string;
  readonly incarnation: number;
  alive = true;
  hung = false;
  /** Stopping: said goodbye to Galera. */
  left = false;
  stopping = false;
  /** The provider is closed for good. */
  closed = false;
  /** Port and socket exist. */
  sql = false;
  view: View | null = null;
  /** Those of its view, as it names them. */
  members: readonly Member[] = [];
  nextIndex = 0;
  tip: Entry | null;
  /** Delivered while the transfer runs, to be applied on top of it. */
  queued: Entry | null = null;
  /** Rows in its tables while they lag behind `tip`; null while they do not. */
  applied: Entry | null = null;
  appliedAt = 0;
  applying = 0;
  local: LocalState = "Initialized";
  donating = 0;
  transfer: Transfer | null = null;
  rejecting: boolean;
  readOnly = false;
  weight: number;
  evictList: readonly string[] = [];
  /** evs.join_retrans_period and evs.keepalive_period. */
  periodMs = 1000;
  lastPrimary: PrimaryMemory | null = null;
  /** Started from gvwstate.dat: waits for its old view without end. */
  readonly recovering: boolean;
  readonly inFlight = new Set<Pending>();
  readonly stuck: (() => void)[] = [];
  readonly donor: string | null;

  constructor(
    serial: number,
    at: {
      node: number;
      spec: NodeSpec;
      base: string;
      incarnation: number;
      tip: Entry | null;
      rejecting: boolean;
      recovering: boolean;
      donor: string | null;
    },
  ) {
    this.serial = serial;
    this.node = at.node;
    this.spec = at.spec;
    this.base = at.base;
    this.incarnation = at.incarnation;
    this.uuid = uuidOf(at.base, at.incarnation);
    this.tip = at.tip;
    this.rejecting = at.rejecting;
    this.weight = at.spec.weight;
    this.recovering = at.recovering;
    this.donor = at.donor;
  }
}

/** What a server has while no process runs. */
interface Disk {
  tip: Entry | null;
  safeToBootstrap: boolean;
  gvwstate: { base: string; incarnation: number; lastPrimary: PrimaryMemory } | null;
  /** IST over these rows was refused once and will be again. */
  istRefused: boolean;
}

export interface StartOptions {
  readonly mode: "join" | "bootstrap";
  /** `--wsrep_start_position`; null discards the data, so that a full transfer follows. */
  readonly position: Position | null;
  readonly fenced: boolean;
  /** Leave gvwstate.dat in place, as a start past the watchdog does. */
  readonly keepGvwstate?: boolean;
  /** `--wsrep-sst-donor=NAME,`: another one gives where that one cannot. */
  readonly donor?: string;
}

/** All servers and the group communication between them. */
export class Galera {
  readonly options: GaleraOptions;
  readonly specs: readonly NodeSpec[];
  readonly procs: (Proc | null)[];
  /** Model events handled: writes handed in, deliveries, views. */
  events = 0;
  views: View[] = [];
  readonly #schedule: Schedule;
  readonly #random: Random;
  readonly #hooks: GaleraHooks;
  readonly #disks: Disk[];
  readonly #links: number[];
  #serial = 0;
  #viewId = 0;
  #uuid = 0;

  constructor(
    schedule: Schedule,
    random: Random,
    setup: {
      readonly specs: readonly NodeSpec[];
      readonly options?: Partial<GaleraOptions>;
      readonly hooks?: Partial<GaleraHooks>;
    },
  ) {
    this.#schedule = schedule;
    this.#random = random;
    this.specs = setup.specs;
    this.options = { ...GALERA_DEFAULTS, ...setup.options };
    this.#hooks = { ended: nothing, changed: nothing, notify: nothing, ...setup.hooks };
    const count = setup.specs.length;
    this.procs = new Array(count).fill(null);
    this.#disks = setup.specs.map(() => ({
      tip: null,
      safeToBootstrap: false,
      gvwstate: null,
      istRefused: false,
    }));
    this.#links = new Array(count).fill((1 << count) - 1);
  }

  // ---- the network -------------------------------------------------------------------------

  /** One direction of one link; `relink` makes the changes count. */
  setLink(from: number, to: number, up: boolean): void {
    const links = get(this.#links, from);
    this.#links[from] = up ? links | (1 << to) : links & ~(1 << to);
  }

  /** To be called once after `setLink`s of one instant. */
  relink(): void {
    for (const view of [...this.views]) this.#refresh(view);
    this.#considerMerges();
  }

  /** Is anything under way that will end by itself: views, transfers, starts. */
  get changing(): boolean {
    for (const view of this.views)
      if (!view.whole || view.changes.size > 0 || view.merge !== null) return true;
    for (const proc of this.procs)
      if (proc !== null && (proc.transfer !== null || proc.stopping)) return true;
    return false;
  }

  /** No write is under way at anybody. */
  get idle(): boolean {
    return this.procs.every((proc) => proc === null || proc.inFlight.size === 0);
  }

  linked(a: number, b: number): boolean {
    return (get(this.#links, a) & (1 << b)) !== 0 && (get(this.#links, b) & (1 << a)) !== 0;
  }

  // ---- processes ---------------------------------------------------------------------------

  /** All of these nodes run in one Synced Primary view over empty tables. */
  genesis(nodes: readonly number[], options: { readonly fenced: boolean }): void {
    const root = firstEntry(uuidOf(this.#newUuid(), 0));
    const procs: Proc[] = [];
    for (const node of nodes) {
      const proc = this.#spawn(node, { tip: root, fenced: options.fenced });
      proc.sql = proc.spec.garb !== true;
      proc.local = "Synced";
      procs.push(proc);
    }
    this.#install(procs, { primary: true, tip: root, settled: new Set(procs), before: null });
  }

  /** Starts mariadbd. What comes of it shows in the hooks. */
  start(node: number, options: StartOptions): string | null {
    if (this.procs[node] !== null) return "mariadbd runs already";
    const disk = get(this.#disks, node);
    const gvwstate = options.keepGvwstate === true ? disk.gvwstate : null;
    disk.gvwstate = null;
    if (options.position === null) {
      disk.tip = null;
      disk.istRefused = false;
    }
    const tip = disk.tip;
    const wrong =
      options.position !== null &&
      (tip === null ||
        tip.cluster !== options.position.uuid ||
        tip.seqno !== options.position.seqno);
    const proc = this.#spawn(node, {
      tip,
      fenced: options.fenced,
      ...(gvwstate === null ? {} : { gvwstate }),
      ...(options.donor === undefined ? {} : { donor: options.donor }),
    });
    if (gvwstate !== null) proc.lastPrimary = gvwstate.lastPrimary;
    this.#schedule.after(this.#in(this.options.bootMs), () => {
      if (!proc.alive || proc.stopping) return;
      if (wrong) {
        this.#end(proc, "start position differs from the data");
        return;
      }
      if (options.mode === "bootstrap") this.#startNewCluster(proc);
      else this.#startJoining(proc);
    });
    return null;
  }

  /** SIGTERM, then SIGKILL after `graceMs`. */
  stop(node: number, graceMs: number): void {
    const proc = this.procs[node] ?? null;
    if (proc === null || proc.stopping) return;
    proc.stopping = true;
    const takesMs = this.#in(this.options.stopMs);
    const leave = () => {
      if (!proc.alive || proc.left) return;
      if (proc.hung) {
        proc.stuck.push(leave);
        return;
      }
      this.#leaveCleanly(proc);
    };
    this.#schedule.after(Math.min(takesMs, 70), leave);
    const end = () => {
      if (!proc.alive) return;
      if (proc.hung) proc.stuck.push(end);
      else this.#end(proc, "stopped");
    };
    this.#schedule.after(takesMs, end);
    this.#schedule.after(graceMs, () => {
      if (proc.alive) this.#end(proc, "killed after SIGTERM");
    });
  }

  /** SIGKILL, or the power goes. */
  kill(node: number, because: string): void {
    const proc = this.procs[node] ?? null;
    if (proc !== null) this.#end(proc, because);
  }

  /** SIGSTOP, or the whole host is suspended. */
  hang(node: number): void {
    const proc = this.procs[node] ?? null;
    if (proc === null || proc.hung) return;
    proc.hung = true;
    if (proc.view !== null) this.#refresh(proc.view);
  }

  resume(node: number): void {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.hung) return;
    proc.hung = false;
    for (const run of proc.stuck.splice(0)) this.#schedule.after(this.#random.between(0, 5), run);
    if (proc.view !== null) this.#refresh(proc.view);
    this.#considerMerges();
  }

  /** `--wsrep-recover` and grastate.dat of a stopped server; null while it runs. */
  recover(node: number): { position: Position | null; safeToBootstrap: boolean } | null {
    if (this.procs[node] !== null) return null;
    const disk = get(this.#disks, node);
    const tip = disk.tip;
    return {
      position: tip === null ? null : { uuid: tip.cluster, seqno: tip.seqno },
      safeToBootstrap: disk.safeToBootstrap,
    };
  }

  /** gvwstate.dat of a stopped server is put aside. */
  removeGvwstate(node: number): void {
    if (this.procs[node] === null) get(this.#disks, node).gvwstate = null;
  }

  // ---- SQL ---------------------------------------------------------------------------------

  /** Does a connection get an answer. */
  answers(node: number): boolean {
    const proc = this.procs[node] ?? null;
    return proc?.sql === true && !proc.hung;
  }

  /** Sessions of clients that wait for a commit there. */
  clientSessions(node: number): number {
    const pending = [...(this.procs[node]?.inFlight ?? [])];
    return pending.filter(({ id, done }) => id > 0 && done !== null).length;
  }

  /** What one poll says; null where nothing answers. */
  status(node: number): WsrepStatus | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql || proc.hung) return null;
    const view = proc.view;
    const joining = proc.transfer !== null;
    const primary = view?.primary === true && (!joining || this.options.joinerSaysPrimary);
    return {
      primary,
      ready: primary && !joining,
      connected: view !== null,
      stateUuid: proc.tip?.cluster ?? null,
      confId: primary && view !== null ? String(view.confId) : null,
      lastCommitted: (proc.applied ?? proc.tip)?.seqno ?? -1,
      localState: proc.donating > 0 && proc.local === "Synced" ? "Donor/Desynced" : proc.local,
      gcommUuid: view === null ? null : proc.uuid,
      evsState:
        view === null ? null : view.changes.size > 0 ? this.#evsState(proc, view) : "OPERATIONAL",
      members: view === null ? [] : proc.members,
      weight: view === null ? null : proc.weight,
      clusterWeight: view === null ? null : view.primary ? total(view, view.mask) : 0,
      flowControlPausedNs: 0,
      flowControlActive: view !== null && view.holdUntil > this.#schedule.now,
      recvQueue: 0,
      rejecting: proc.rejecting,
      readOnly: proc.readOnly,
      evictList: proc.evictList,
      joinRetransMs: view === null ? null : proc.periodMs,
      keepaliveMs: view === null ? null : proc.periodMs,
      serverVersion: "10.11.19-MariaDB",
      providerVersion: "26.4.23",
    };
  }

  /** Accepts a client's write now. */
  writable(node: number): boolean {
    const proc = this.procs[node] ?? null;
    return proc !== null && !proc.hung && accepts(proc) && !proc.rejecting && !proc.readOnly;
  }

  /** wsrep_reject_queries = ALL_KILL or NONE. */
  fence(node: number, on: boolean): string | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) return "Cannot connect";
    if (proc.hung) return "No answer";
    if (proc.rejecting !== on) {
      proc.rejecting = on;
      this.#hooks.changed(node);
    }
    if (on) {
      for (const pending of [...proc.inFlight]) {
        if (pending.id <= 0 || this.#random.chance(this.options.killLeakChance)) continue;
        this.#finish(pending, "unknown");
      }
    }
    return null;
  }

  /** pc.bootstrap=YES. The statement is answered before its effect. */
  bootstrap(node: number): string | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) return "Cannot connect";
    if (proc.hung) return "No answer";
    const view = proc.view;
    if (view === null) return "1210 Incorrect arguments to SET";
    if (view.primary) return null;
    if (this.#random.chance(this.options.bootstrapErrorChance)) return "Operation not permitted";
    if (this.#random.chance(this.options.bootstrapLieChance)) return null;
    this.#schedule.after(this.#random.between(2, 20), () => {
      const now = proc.view;
      if (!proc.alive || proc.hung || now === null || now.primary) return;
      // While members are being given up the request is dropped without a word.
      if (!now.whole) return;
      this.#formPrimary(now);
    });
    return null;
  }

  /** evs.evict for each UUID; an empty list clears it. */
  evict(node: number, uuids: readonly string[]): string | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) return "Cannot connect";
    if (proc.hung) return "No answer";
    const view = proc.view;
    if (view === null) return "1210 Incorrect arguments to SET";
    proc.evictList = uuids.length === 0 ? [] : [...new Set([...proc.evictList, ...uuids])];
    this.#expelListed(view);
    if (proc.view !== null) this.#refresh(proc.view);
    this.#considerMerges();
    this.#hooks.changed(node);
    return null;
  }

  /** evs.join_retrans_period and evs.keepalive_period at run time. */
  tune(node: number, periodMs: number): string | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) return "Cannot connect";
    if (proc.hung) return "No answer";
    if (proc.view === null) return "1210 Incorrect arguments to SET";
    proc.periodMs = periodMs;
    this.#hooks.changed(node);
    return null;
  }

  /** pc.weight at run time. */
  setWeight(node: number, weight: number): string | null {
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) return "Cannot connect";
    if (proc.hung) return "No answer";
    const view = proc.view;
    if (view === null || !view.primary) return "1210 Incorrect arguments to SET";
    proc.weight = weight;
    if (view.whole) view.weights[node] = weight;
    this.#hooks.changed(node);
    return null;
  }

  /** Flow control, or DDL: commits of the node's whole view wait. */
  hold(node: number, forMs: number): void {
    const view = this.procs[node]?.view ?? null;
    if (view === null || !view.primary) return;
    view.holdUntil = Math.max(view.holdUntil, this.#schedule.now + forMs);
    this.#schedule.at(view.holdUntil, () => this.#unhold(view));
  }

  /** One autocommitted write. `id` is positive for a client, negative for a watchdog's probe. */
  write(
    node: number,
    id: number,
    done: (outcome: WriteOutcome, entry: Entry | null) => void,
  ): void {
    this.events++;
    const proc = this.procs[node] ?? null;
    if (proc === null || !proc.sql) {
      done("refused", null);
      return;
    }
    if (proc.hung) {
      proc.stuck.push(() => {
        if (proc.alive) this.write(node, id, done);
        else done("unknown", null);
      });
      return;
    }
    const view = proc.view;
    if (view === null || !accepts(proc) || proc.rejecting || (proc.readOnly && id > 0)) {
      done("refused", null);
      return;
    }
    const nodes = this.specs.length;
    const pending: Pending = {
      id,
      origin: proc,
      done,
      recv: new Array(nodes).fill(Number.POSITIVE_INFINITY),
      got: new Array(nodes).fill(0),
      complete: new Array(nodes).fill(Number.POSITIVE_INFINITY),
      know: new Array(nodes).fill(0),
      safe: new Array(nodes).fill(Number.POSITIVE_INFINITY),
      entry: null,
      at: this.#schedule.now,
    };
    proc.inFlight.add(pending);
    if (view.holdUntil > this.#schedule.now) view.held.push(pending);
    else this.#submit(view, pending);
  }

  /**
   * A read that waits for the group (wsrep_sync_wait): it says "ok" while all members of a Primary view
   * hear each other, and for a second after that; then it waits. No fence holds it up.
   */
  causalRead(node: number, done: (outcome: WriteOutcome) => void): void {
    this.events++;
    const proc = this.procs[node] ?? null;
    const view = proc?.view ?? null;
    if (proc === null || proc.hung || view === null || !accepts(proc)) {
      done("refused");
      return;
    }
    let farMs = 0;
    for (const other of view.procs)
      if (other !== null) farMs = Math.max(farMs, this.#delay(node, other.node));
    const look = () => {
      const broken = this.#schedule.now - (view.brokenAt.at(-1) ?? Number.NEGATIVE_INFINITY);
      if (!proc.alive) done("unknown");
      else if (proc.view !== view) done("refused");
      else if (!proc.hung && (view.whole || broken < proc.periodMs)) done("ok");
      else this.#schedule.after(CAUSAL_LOOK_MS, look);
    };
    this.#schedule.after(2 * farMs * this.#jitter(), look);
  }

  // ---- writes ------------------------------------------------------------------------------

  #submit(view: View, pending: Pending): void {
    const now = this.#schedule.now;
    const origin = pending.origin.node;
    const nodes = this.specs.length;
    view.log.push(pending);
    const { recv, complete, safe } = pending;
    const reachOrigin = get(view.reach, origin);
    for (let m = 0; m < nodes; m++) {
      if ((view.mask & (1 << m)) === 0 || (reachOrigin & (1 << m)) === 0) continue;
      if (m === origin) {
        recv[m] = now;
        continue;
      }
      const delay = this.#delay(origin, m) * this.#jitter();
      const at = Math.max(now + delay, get(view.lastRecv, m));
      recv[m] = at;
      view.lastRecv[m] = at;
    }
    for (let m = 0; m < nodes; m++)
      if ((view.live & (1 << m)) !== 0) complete[m] = this.#latest(view, recv, { to: m, now });
    for (let n = 0; n < nodes; n++) {
      if ((view.live & (1 << n)) === 0) continue;
      const at = this.#latest(view, complete, { to: n, now });
      safe[n] = at;
      if (at < Number.POSITIVE_INFINITY) this.#scheduleDelivery(view, n, at);
    }
  }

  /** When the word that each member sends at its time in `sent` has come to one of them. */
  #latest(
    view: View,
    sent: readonly number[],
    at: { readonly to: number; readonly now: number; readonly known?: number },
  ): number {
    const { to, now } = at;
    const missing = view.mask & ~(at.known ?? 0);
    let latest = now;
    for (let m = 0; m < sent.length; m++) {
      if ((missing & (1 << m)) === 0) continue;
      if ((get(view.reach, m) & (1 << to)) === 0) return Number.POSITIVE_INFINITY;
      const there = Math.max(get(sent, m), now) + (m === to ? 0 : this.#delay(m, to));
      if (there > latest) latest = there;
    }
    return latest;
  }

  #scheduleDelivery(view: View, node: number, at: number): void {
    this.#schedule.at(at, () => this.#deliver(view, node));
  }

  /** Takes in, in order, whatever the member knows by now to be everywhere. */
  #deliver(view: View, node: number): void {
    const proc = view.procs[node] ?? null;
    if (proc === null || proc.view !== view || proc.hung) return;
    while (proc.nextIndex < view.log.length) {
      const pending = get(view.log, proc.nextIndex);
      if (get(pending.safe, node) > this.#schedule.now) return;
      this.#apply(view, proc, pending);
    }
  }

  /** The next write of the view takes effect at this member. */
  #apply(view: View, proc: Proc, pending: Pending): void {
    this.events++;
    proc.nextIndex++;
    if (pending.entry === null) {
      if (view.tip === null) throw new Error("A non-Primary view delivers nothing");
      view.tip = append(view.tip, pending.id);
      pending.entry = view.tip;
    }
    const before = proc.tip;
    extend(proc, pending.entry);
    this.#land(proc, pending, before);
  }

  /** A delivered write comes into the tables, in order, and its client is told. */
  #land(proc: Proc, pending: Pending, before: Entry | null): void {
    const [low, high] = this.options.applyLagMs;
    const own = pending.origin === proc;
    if (high === 0 || proc.local !== "Synced") {
      if (own) this.#finish(pending, "ok");
      return;
    }
    proc.applied ??= before;
    proc.applying++;
    proc.appliedAt = Math.max(proc.appliedAt, this.#schedule.now + this.#random.between(low, high));
    const { tip } = proc;
    const land = () => {
      if (!proc.alive) return;
      if (proc.hung) {
        proc.stuck.push(land);
        return;
      }
      proc.applying--;
      if (proc.applied !== null) proc.applied = proc.applying === 0 ? null : tip;
      if (own) this.#finish(pending, "ok");
      this.#hooks.changed(proc.node);
    };
    this.#schedule.at(proc.appliedAt, land);
  }

  #finish(pending: Pending, outcome: WriteOutcome): void {
    const done = pending.done;
    pending.done = null;
    pending.origin.inFlight.delete(pending);
    if (done !== null) done(outcome, pending.entry);
  }

  #unhold(view: View): void {
    if (view.holdUntil > this.#schedule.now) return;
    for (const pending of view.held.splice(0)) {
      const origin = pending.origin;
      if (pending.done === null || !origin.alive) continue;
      if (origin.view === view && !origin.hung) this.#submit(view, pending);
      else this.#finish(pending, "unknown");
    }
  }

  // ---- views -------------------------------------------------------------------------------

  /** Takes a new look at who of a view hears whom, and plans what follows. */
  #refresh(view: View): void {
    const now = this.#schedule.now;
    const nodes = this.specs.length;
    this.#learn(view);
    let live = 0;
    let onward = 0;
    for (let i = 0; i < nodes; i++) {
      const proc = view.procs[i] ?? null;
      if (proc !== null && proc.view === view && !proc.hung) live |= 1 << i;
      else if (proc?.alive === true && proc.view !== view) onward |= 1 << i;
    }
    const reach: number[] = [];
    for (let i = 0; i < nodes; i++) {
      const bit = 1 << i;
      reach.push((live & bit) === 0 ? 0 : (get(this.#links, i) & live) | bit);
    }
    for (let k = 0; k < nodes; k++)
      for (let i = 0; i < nodes; i++)
        if ((get(reach, i) & (1 << k)) !== 0) reach[i] = get(reach, i) | get(reach, k);
    let same = live === view.live;
    for (let m = 0; m < nodes; m++) {
      const before = get(view.reach, m);
      const changed = get(reach, m) ^ before;
      if (changed === 0) continue;
      // Whoever goes on to the next view is not cut off.
      const isCut = (onward & (1 << m)) === 0 && (changed & before & ~onward) !== 0;
      if (isCut && view.cutAt.at(-1) !== now) view.cutAt.push(now);
      same = false;
      for (let n = 0; n < nodes; n++)
        if ((changed & (1 << n)) !== 0) view.upSince[m * nodes + n] = now;
    }
    view.reach = reach;
    view.live = live;
    if (live === 0) {
      this.#drop(view);
      return;
    }
    if (!same) this.#replan(view);
    this.#planChanges(view);
  }

  #drop(view: View): void {
    const remains = view.procs.some((proc) => proc !== null && proc.view === view);
    for (const change of view.changes.values()) if (change.task !== null) change.task.live = false;
    view.changes.clear();
    if (!remains) this.views = this.views.filter((other) => other !== view);
  }

  #firstPending(view: View): number {
    let first = view.log.length;
    for (const proc of view.procs)
      if (proc !== null && proc.view === view && proc.nextIndex < first) first = proc.nextIndex;
    return first;
  }

  /** Writes down which receipts have become known by now, before the network changes. */
  #learn(view: View): void {
    const now = this.#schedule.now;
    const nodes = this.specs.length;
    for (let index = this.#firstPending(view); index < view.log.length; index++) {
      const { recv, got, complete, know } = get(view.log, index);
      for (let n = 0; n < nodes; n++) {
        if ((view.live & (1 << n)) === 0) continue;
        got[n] = get(got, n) | this.#heard(view, recv, n);
        if ((get(got, n) & view.mask) === view.mask) complete[n] = Math.min(get(complete, n), now);
      }
      for (let n = 0; n < nodes; n++)
        if ((view.live & (1 << n)) !== 0) know[n] = get(know, n) | this.#heard(view, complete, n);
    }
  }

  /** Whose word, sent at the time in `sent`, has come to `to` by now. */
  #heard(view: View, sent: readonly number[], to: number): number {
    const now = this.#schedule.now;
    const nodes = sent.length;
    let heard = 0;
    for (let m = 0; m < nodes; m++) {
      const bit = 1 << m;
      if ((view.mask & bit) === 0 || (get(view.reach, m) & (1 << to)) === 0) continue;
      if (m === to) {
        if (get(sent, m) <= now) heard |= bit;
        continue;
      }
      const left = Math.max(get(sent, m), get(view.upSince, m * nodes + to));
      if (left + this.#delay(m, to) <= now) heard |= bit;
    }
    return heard;
  }

  /** After a change of the network: what still travels, and what each part can know. */
  #replan(view: View): void {
    const now = this.#schedule.now;
    const nodes = this.specs.length;
    const parts = components(view, nodes);
    for (let index = this.#firstPending(view); index < view.log.length; index++) {
      const { recv, got, complete, know, safe, origin } = get(view.log, index);
      for (let m = 0; m < nodes; m++) {
        const at = get(recv, m);
        if ((view.mask & (1 << m)) === 0 || at <= now) continue;
        const direct = (get(view.reach, origin.node) & (1 << m)) !== 0;
        if (direct && at < Number.POSITIVE_INFINITY) continue;
        recv[m] = Number.POSITIVE_INFINITY;
        if ((view.live & (1 << m)) === 0) continue;
        for (let h = 0; h < nodes; h++) {
          if (get(recv, h) > now || (get(view.reach, h) & (1 << m)) === 0) continue;
          recv[m] = Math.min(get(recv, m), now + this.#delay(h, m) * this.#jitter());
        }
      }
      for (const part of parts) {
        let gotten = 0;
        let known = 0;
        for (let n = 0; n < nodes; n++) {
          if ((part & (1 << n)) === 0) continue;
          gotten |= get(got, n);
          known |= get(know, n);
        }
        for (let n = 0; n < nodes; n++)
          if ((part & (1 << n)) !== 0 && get(complete, n) > now)
            complete[n] = this.#latest(view, recv, { to: n, now, known: gotten });
        for (let n = 0; n < nodes; n++) {
          if ((part & (1 << n)) === 0) continue;
          const at = this.#latest(view, complete, { to: n, now: now + 0.5, known });
          safe[n] = at;
          if (at < Number.POSITIVE_INFINITY) this.#scheduleDelivery(view, n, at);
        }
      }
    }
  }

  /** Arms the next view of every part that has lost members. */
  #planChanges(view: View): void {
    const now = this.#schedule.now;
    const parts = components(view, this.specs.length);
    const whole = parts.length === 1 && parts[0] === view.mask;
    if (view.whole && !whole) view.brokenAt.push(now);
    view.whole = whole;
    for (const [part, change] of view.changes) {
      if (parts.includes(part) && part !== view.mask) continue;
      if (change.task !== null) change.task.live = false;
      view.changes.delete(part);
    }
    if (view.whole) return;
    if (view.merge !== null) {
      view.merge.live = false;
      view.merge = null;
    }
    for (const part of parts) {
      let change = view.changes.get(part);
      if (change === undefined) {
        const slow = this.#random.chance(this.options.slowSuspectChance);
        const [low, high] = this.options.suspectMs;
        const delayMs = this.#random.between(low, slow ? this.options.slowSuspectMs : high);
        change = { since: now, delayMs, due: Number.POSITIVE_INFINITY, task: null };
        view.changes.set(part, change);
      }
      const due = this.#changeDue(view, part, change);
      if (change.task !== null && change.due === due) continue;
      if (change.task !== null) change.task.live = false;
      change.due = due;
      change.task = this.#schedule.at(due, () => this.#split(view, part));
    }
  }

  /** When the part has done with each member that it misses. */
  #changeDue(view: View, part: number, change: Change): number {
    const now = this.#schedule.now;
    const survivors = view.procs.filter(
      (proc): proc is Proc => proc !== null && (part & (1 << proc.node)) !== 0,
    );
    const suspected = change.since + change.delayMs;
    // A UUID that the view does not know costs the whole detection time.
    const stale = survivors.some((proc) =>
      proc.evictList.some((uuid) => !view.members.some((member) => member.uuid === uuid)),
    );
    let due = now;
    for (const proc of view.procs) {
      if (proc === null || (part & (1 << proc.node)) !== 0) continue;
      let gone = suspected;
      const known = get(view.leftKnown, proc.node) & part;
      if (known === part) {
        gone = get(view.leftDue, proc.node);
      } else if (!stale && survivors.every((one) => one.evictList.includes(proc.uuid))) {
        const slow = survivors.some((one) => one.periodMs > SLOW_PERIOD_MS) ? SLOW_FACTOR : 1;
        gone = Math.min(suspected, now + slow * this.#in(this.options.evictMs));
        if (change.task !== null && change.due < gone && change.due > now) gone = change.due;
      } else if (proc.alive && !proc.hung && proc.view !== view && proc.view !== null) {
        const contact = survivors.some((one) => this.linked(one.node, proc.node));
        if (contact) {
          let noticed = get(view.foreignDue, proc.node);
          if (noticed < 0) {
            noticed = now + this.#in(this.options.foreignMs);
            view.foreignDue[proc.node] = noticed;
          }
          gone = Math.min(suspected, noticed);
        }
      }
      if (gone > due) due = gone;
    }
    return due;
  }

  /** A part of a view goes on without the rest. */
  #split(view: View, part: number): void {
    const change = view.changes.get(part);
    if (change === undefined) return;
    view.changes.delete(part);
    const procs = membersIn(view, part);
    if (procs.length === 0) return;
    this.events++;
    let left = 0;
    for (const proc of view.procs)
      if (proc !== null && (part & (1 << proc.node)) === 0)
        if ((get(view.leftKnown, proc.node) & part) === part) left += get(view.weights, proc.node);
    const quorum = 2 * total(view, part) + left > total(view, view.mask);
    const primary = view.primary && quorum;
    const tip = this.#settle(view, part, { commit: primary });
    const settled = new Set(procs.filter((proc) => proc.local === "Synced"));
    this.#install(procs, { primary, tip: primary ? tip : null, settled, before: view });
  }

  /** The end of a view for one part: what any of it has delivered, all of it delivers; the rest is committed or forgotten. */
  #settle(view: View, part: number, how: { readonly commit: boolean }): Entry | null {
    const now = this.#schedule.now;
    const procs = membersIn(view, part);
    let reached = 0;
    for (const proc of procs) reached = Math.max(reached, proc.nextIndex);
    for (const proc of procs)
      while (proc.nextIndex < reached) this.#apply(view, proc, get(view.log, proc.nextIndex));
    const rest: Pending[] = [];
    for (let index = reached; index < view.log.length; index++) rest.push(get(view.log, index));
    rest.push(...view.held.filter((pending) => part & (1 << pending.origin.node)));
    view.held = view.held.filter((pending) => !(part & (1 << pending.origin.node)));
    let tip = reached === 0 ? view.first : get(view.log, reached - 1).entry;
    for (const pending of rest) {
      const own = (part & (1 << pending.origin.node)) !== 0 && pending.origin.alive;
      const has = own || procs.some((proc) => get(pending.recv, proc.node) <= now);
      if (how.commit && has && tip !== null) {
        // What another part has delivered is everywhere, so the order is the same here.
        if (pending.entry?.prev !== tip) pending.entry = append(tip, pending.id);
        tip = pending.entry;
        for (const proc of procs) {
          const before = proc.tip;
          extend(proc, tip);
          this.#land(proc, pending, before);
        }
      } else if (own) {
        this.#finish(pending, "unknown");
      }
    }
    for (const proc of procs) proc.nextIndex = 0;
    return tip;
  }

  /** All members of `procs` enter one new view. */
  #install(
    procs: readonly Proc[],
    how: {
      readonly primary: boolean;
      /** Rows of the group; null lets a Primary view take those of its furthest member. */
      readonly tip: Entry | null;
      /** Members that need no state transfer. */
      readonly settled: ReadonlySet<Proc>;
      readonly before: View | null;
    },
  ): View {
    this.events++;
    const nodes = this.specs.length;
    const weights = new Array<number>(nodes).fill(0);
    let seq = 0;
    let confId = 0;
    for (const proc of procs) {
      weights[proc.node] = proc.weight;
      seq = Math.max(seq, proc.lastPrimary?.seq ?? 0, proc.view?.seq ?? 0);
      confId = Math.max(confId, proc.lastPrimary?.confId ?? 0);
    }
    const view = new View(++this.#viewId, {
      primary: how.primary,
      procs,
      nodes,
      weights,
      confId: confId + 1,
      seq: seq + 1,
      now: this.#schedule.now,
    });
    const olds = new Set<View>();
    for (const proc of procs) {
      if (proc.view !== null) olds.add(proc.view);
      proc.view = view;
      proc.members = namedBy(proc, view);
      proc.nextIndex = 0;
    }
    this.views.push(view);
    if (how.primary) this.#enterPrimary(view, procs, how);
    else {
      for (const proc of procs) if (proc.transfer === null) proc.local = "Initialized";
    }
    for (const old of olds) this.#refresh(old);
    this.#refresh(view);
    for (const proc of procs) {
      if (proc.view !== view) continue;
      this.#hooks.changed(proc.node);
      if (proc.spec.garb === true || proc.transfer !== null || !proc.sql) continue;
      this.#hooks.notify(proc.node, how.primary ? "synced" : "connected", how.primary);
    }
    if (!how.primary) this.#maybeWhole(view);
    this.#considerMerges();
    return view;
  }

  #enterPrimary(
    view: View,
    procs: readonly Proc[],
    how: { readonly tip: Entry | null; readonly settled: ReadonlySet<Proc> },
  ): void {
    const memory: PrimaryMemory = {
      seq: view.seq,
      confId: view.confId,
      bases: procs.map((proc) => proc.base),
    };
    const group = how.tip ?? furthest(procs)?.tip ?? null;
    if (group === null) throw new Error("A Primary view needs rows");
    const entry = append(group, 0);
    view.tip = entry;
    view.first = entry;
    for (const proc of procs) {
      proc.lastPrimary = memory;
      if (proc.spec.garb === true) {
        proc.local = "Synced";
        continue;
      }
      if (how.settled.has(proc)) {
        proc.local = "Synced";
        extend(proc, entry);
      }
    }
    for (const proc of procs) {
      if (how.settled.has(proc) || proc.spec.garb === true || proc.view !== view) continue;
      this.#joinGroup(view, proc, { group, entry });
    }
  }

  /** A member that comes from elsewhere: Galera compares cluster and seqno, never rows. */
  #joinGroup(view: View, proc: Proc, to: { readonly group: Entry; readonly entry: Entry }): void {
    // What was delivered before has been applied by now.
    proc.applied = null;
    proc.queued = to.entry;
    if (proc.transfer !== null) return;
    const tip = proc.tip;
    if (tip !== null && tip.cluster === to.group.cluster && tip.seqno > to.group.seqno) {
      this.#close(proc, { local: "Inconsistent", because: "Reversing history", forget: true });
      return;
    }
    const disk = get(this.#disks, proc.node);
    const usable = tip !== null && tip.cluster === to.group.cluster;
    if (usable && tip.seqno === to.group.seqno) {
      // Needs nothing, whatever its rows are.
      proc.tip = replay(tip, to.entry);
      proc.queued = null;
      this.#synced(proc);
      return;
    }
    const missed = usable && this.#random.chance(this.options.gcacheMissChance);
    if (usable && !missed) {
      if (disk.istRefused || !continues(to.group, tip)) {
        const refused = disk.istRefused || this.#random.chance(this.options.istRefusedChance);
        if (refused) {
          disk.istRefused = true;
          if (proc.sql) {
            this.#close(proc, { local: "Initialized", because: "IST refused", forget: false });
          } else this.#end(proc, "IST refused");
          return;
        }
      }
      this.#transfer(view, proc, "ist");
      return;
    }
    if (proc.sql) {
      this.#end(proc, "Will never receive state");
      return;
    }
    this.#transfer(view, proc, "sst");
  }

  #transfer(view: View, proc: Proc, kind: "ist" | "sst"): void {
    const donors = view.procs.filter(
      (other): other is Proc =>
        other !== null &&
        other !== proc &&
        other.view === view &&
        other.spec.garb !== true &&
        other.transfer === null &&
        other.local === "Synced",
    );
    const named = donors.find((other) => other.spec.name === proc.donor);
    const near = donors.find((other) => other.spec.segment === proc.spec.segment);
    const donor = named ?? near ?? donors[0];
    proc.local = "Joining: receiving State Transfer";
    if (donor === undefined) {
      // Galera asks again every second until somebody can give.
      this.#schedule.after(1000, () => {
        if (proc.view !== view || proc.transfer !== null || proc.local === "Synced") return;
        this.#transfer(view, proc, kind);
      });
      return;
    }
    const range =
      kind === "sst" ? this.options.sstMs : proc.sql ? this.options.istLiveMs : this.options.istMs;
    donor.donating++;
    const transfer: Transfer = {
      kind,
      donor,
      task: this.#schedule.after(this.#in(range), () => this.#transferred(proc, transfer)),
    };
    proc.transfer = transfer;
    if (kind === "ist" && !proc.sql) {
      this.#schedule.after(this.#random.between(200, 900), () => {
        if (proc.transfer !== transfer || !proc.alive) return;
        proc.sql = true;
        this.#hooks.changed(proc.node);
      });
    }
    this.#hooks.changed(donor.node);
    this.#hooks.notify(donor.node, "donor", true);
    this.#hooks.changed(proc.node);
  }

  #transferred(proc: Proc, transfer: Transfer): void {
    if (proc.transfer !== transfer || !proc.alive) return;
    if (proc.hung || (transfer.donor.hung && transfer.donor.alive)) {
      transfer.task = this.#schedule.after(500, () => this.#transferred(proc, transfer));
      return;
    }
    const donor = transfer.donor;
    proc.transfer = null;
    this.#undonate(donor);
    if (!donor.alive || !this.linked(donor.node, proc.node)) {
      if (transfer.kind === "sst") proc.tip = null;
      this.#end(proc, "the donor was lost during the state transfer");
      return;
    }
    if (transfer.kind === "sst") {
      proc.tip = donor.tip;
      get(this.#disks, proc.node).istRefused = false;
    }
    if (proc.tip !== null && proc.queued !== null) {
      // The donor may have had more by the end of SST than this member has been told.
      if (proc.tip.seqno < proc.queued.seqno) proc.tip = replay(proc.tip, proc.queued);
    }
    proc.queued = null;
    if (proc.view?.primary === true) this.#synced(proc);
    else {
      proc.sql = true;
      proc.local = "Initialized";
      this.#hooks.changed(proc.node);
    }
  }

  #undonate(donor: Proc): void {
    donor.donating--;
    if (!donor.alive) return;
    this.#hooks.changed(donor.node);
    if (donor.donating === 0 && donor.view?.primary === true)
      this.#hooks.notify(donor.node, "synced", true);
  }

  #synced(proc: Proc): void {
    proc.sql = true;
    // The replication thread goes on, to Synced, when the handler has ended.
    this.#hooks.notify(proc.node, "joined", true);
    proc.local = "Synced";
    this.#hooks.changed(proc.node);
    this.#hooks.notify(proc.node, "synced", true);
  }

  /** pc.bootstrap takes effect: the whole component becomes Primary. */
  #formPrimary(view: View): void {
    const procs = membersIn(view, view.mask);
    this.#fromNonPrimary(procs, view);
  }

  #fromNonPrimary(procs: readonly Proc[], before: View | null): void {
    const lead = furthest(procs);
    if (lead === null || lead.tip === null) return;
    const group = lead.tip;
    const settled = new Set(
      procs.filter(
        (proc) =>
          proc.sql &&
          proc.transfer === null &&
          proc.tip !== null &&
          proc.tip.cluster === group.cluster &&
          proc.tip.seqno === group.seqno,
      ),
    );
    settled.add(lead);
    const freshlyUp = !lead.sql;
    lead.sql = true;
    this.#install(procs, { primary: true, tip: group, settled, before });
    if (freshlyUp) this.#hooks.changed(lead.node);
  }

  /** A non-Primary view that holds all of the newest Primary view it knows of is Primary again. */
  #maybeWhole(view: View): void {
    if (!this.#isWhole(view)) return;
    // It is seen non-Primary first, for some milliseconds.
    this.#schedule.after(this.#random.between(2, 20), () => {
      if (this.views.includes(view) && view.whole && this.#isWhole(view))
        this.#fromNonPrimary(membersIn(view, view.mask), view);
    });
  }

  #isWhole(view: View): boolean {
    const procs = membersIn(view, view.mask);
    let greatest: PrimaryMemory | null = null;
    for (const proc of procs) {
      const memory = proc.lastPrimary;
      if (memory !== null && (greatest === null || memory.seq > greatest.seq)) greatest = memory;
    }
    if (greatest === null || furthest(procs) === null) return false;
    const present = new Set(procs.map((proc) => proc.base));
    const evicted = new Set<string>();
    if (this.options.evictedIgnored)
      for (const proc of procs)
        for (const uuid of proc.evictList) evicted.add(uuid.slice(0, 18) + uuid.slice(23));
    return greatest.bases.every((base) => present.has(base) || evicted.has(plainBase(base)));
  }

  // ---- meeting others ----------------------------------------------------------------------

  #considerMerges(): void {
    for (const view of this.views) {
      if (view.primary || !view.whole || view.merge !== null || view.live === 0) continue;
      const meets = this.views.some((other) => other !== view && this.#touch(view, other));
      if (!meets) continue;
      view.merge = this.#schedule.after(this.#in(this.options.mergeMs), () => {
        view.merge = null;
        if (this.views.includes(view) && view.whole) this.#merge(view);
      });
    }
  }

  /** Is there a link over which the two would find each other. */
  #touch(a: View, b: View): boolean {
    if (a.primary && b.primary) return false;
    for (const x of a.procs) {
      if (x === null || x.view !== a || x.hung) continue;
      for (const y of b.procs) {
        if (y === null || y.view !== b || y.hung || !this.linked(x.node, y.node)) continue;
        if (!refuses(a, y) && !refuses(b, x)) return true;
      }
    }
    return false;
  }

  #merge(start: View): void {
    const met = [start];
    for (let index = 0; index < met.length; index++) {
      const view = get(met, index);
      for (const other of this.views)
        if (!met.includes(other) && other.live !== 0 && this.#touch(view, other)) {
          // Two of them meet; whoever else is there may be found a little later.
          if (met.length > 1 && this.#random.chance(this.options.mergeLaterChance)) continue;
          met.push(other);
        }
    }
    if (met.length < 2) return;
    // Members that a part misses have to be given up before anybody can come in.
    if (met.some((view) => !view.whole)) return;
    this.events++;
    const primaries = met.filter((view) => view.primary);
    const winner = this.#oneOf(primaries);
    let winnerTip: Entry | null = null;
    const procs: Proc[] = [];
    for (const view of met) {
      if (view.merge !== null) {
        view.merge.live = false;
        view.merge = null;
      }
      const members = membersIn(view, view.mask);
      const tip = this.#settle(view, view.mask, { commit: view.primary });
      if (view === winner) winnerTip = tip;
      if (view.primary && view !== winner) {
        for (const proc of members) {
          // Now and then one member only loses Primary and comes over by IST.
          if (this.#random.chance(0.3)) procs.push(proc);
          else
            this.#close(proc, { local: "Initialized", because: "conflicting prims", forget: true });
        }
      } else procs.push(...members);
    }
    const staying = procs.filter((proc) => proc.alive && proc.view !== null);
    if (staying.length === 0) return;
    if (winner !== null) {
      const settled = new Set(
        staying.filter((proc) => proc.view === winner && proc.local === "Synced"),
      );
      this.#install(staying, { primary: true, tip: winnerTip, settled, before: null });
    } else {
      this.#install(staying, { primary: false, tip: null, settled: new Set(), before: null });
    }
  }

  #oneOf(primaries: readonly View[]): View | null {
    let winner: View | null = null;
    for (const view of primaries)
      if (
        winner === null ||
        view.seq > winner.seq ||
        (view.seq === winner.seq && this.#random.chance(0.5))
      )
        winner = view;
    return winner;
  }

  /** Live members that are in somebody's list are expelled: they learn it by message, if that arrives. */
  #expelListed(view: View): void {
    if (!view.whole) return;
    for (const proc of membersIn(view, view.mask)) {
      const others = membersIn(view, view.mask & ~(1 << proc.node));
      if (others.length === 0 || !others.every((other) => other.evictList.includes(proc.uuid)))
        continue;
      if (this.#random.chance(this.options.evictedAbortChance))
        this.#close(proc, { local: "Initialized", because: "evicted", forget: false });
      else {
        // What hangs there is forgotten, as in every part that is not Primary, and its clients learn nothing.
        this.#settle(view, 1 << proc.node, { commit: false });
        this.#install([proc], { primary: false, tip: null, settled: new Set(), before: view });
      }
    }
  }

  // ---- beginnings and ends -----------------------------------------------------------------

  #spawn(
    node: number,
    from: {
      readonly tip: Entry | null;
      readonly fenced: boolean;
      readonly gvwstate?: { base: string; incarnation: number };
      readonly donor?: string;
    },
  ): Proc {
    const proc = new Proc(++this.#serial, {
      node,
      spec: get(this.specs, node),
      base: from.gvwstate?.base ?? this.#newUuid(),
      incarnation: from.gvwstate === undefined ? 1 : from.gvwstate.incarnation + 1,
      tip: from.tip,
      rejecting: from.fenced,
      recovering: from.gvwstate !== undefined,
      donor: from.donor ?? null,
    });
    this.procs[node] = proc;
    return proc;
  }

  #startNewCluster(proc: Proc): void {
    proc.tip ??= firstEntry(uuidOf(this.#newUuid(), 0));
    proc.sql = true;
    this.#install([proc], { primary: true, tip: proc.tip, settled: new Set([proc]), before: null });
  }

  #startJoining(proc: Proc): void {
    this.#install([proc], { primary: false, tip: null, settled: new Set(), before: null });
    if (proc.recovering || proc.spec.garb === true) return;
    this.#schedule.after(this.options.waitPrimMs, () => {
      if (!proc.alive || proc.hung || proc.sql || proc.transfer !== null) return;
      if (proc.view?.primary === true) return;
      this.#end(proc, "failed to reach primary view");
    });
  }

  #leaveCleanly(proc: Proc): void {
    const view = proc.view;
    proc.left = true;
    this.#abandon(proc);
    proc.sql = false;
    this.#stopTransfer(proc);
    const disk = get(this.#disks, proc.node);
    disk.safeToBootstrap = false;
    if (view === null) return;
    const known = view.whole
      ? view.mask
      : (components(view, this.specs.length).find((part) => part & (1 << proc.node)) ?? 0);
    disk.safeToBootstrap = view.primary && membersIn(view, view.mask).length === 1;
    this.#hooks.notify(proc.node, "disconnecting", false);
    view.leftKnown[proc.node] = known & ~(1 << proc.node);
    view.leftDue[proc.node] = this.#schedule.now + this.#in(this.options.leaveMs);
    proc.view = null;
    this.#refresh(view);
    this.#hooks.changed(proc.node);
  }

  /** The process ends; its rows stay on disk. */
  #end(proc: Proc, because: string): void {
    if (!proc.alive) return;
    const view = proc.view;
    proc.alive = false;
    proc.sql = false;
    this.#abandon(proc);
    this.#stopTransfer(proc);
    const disk = get(this.#disks, proc.node);
    disk.tip = proc.applied ?? proc.tip;
    disk.gvwstate = null;
    if (!proc.left && proc.lastPrimary !== null && view !== null) {
      disk.safeToBootstrap = false;
      disk.gvwstate = {
        base: proc.base,
        incarnation: proc.incarnation,
        lastPrimary: proc.lastPrimary,
      };
      if (this.options.crashLosesMax > 0 && disk.tip !== null) {
        const lost = this.#random.int(this.options.crashLosesMax + 1);
        disk.tip = entryAt(disk.tip, Math.max(0, disk.tip.seqno - lost)) ?? disk.tip;
      }
    }
    proc.view = null;
    this.procs[proc.node] = null;
    for (const run of proc.stuck.splice(0)) run();
    if (view !== null) this.#refresh(view);
    this.#hooks.ended(proc.node, because);
    this.#hooks.changed(proc.node);
  }

  /** The provider is closed, the process lives on. */
  #close(
    proc: Proc,
    how: { readonly local: LocalState; readonly because: string; readonly forget: boolean },
  ): void {
    const view = proc.view;
    this.#abandon(proc);
    proc.closed = true;
    proc.local = how.local;
    proc.view = null;
    if (how.forget) proc.tip = null;
    this.#stopTransfer(proc);
    if (!proc.sql) {
      this.#end(proc, how.because);
      if (view !== null) this.#refresh(view);
      return;
    }
    if (view !== null) this.#refresh(view);
    this.#hooks.changed(proc.node);
    this.#hooks.notify(proc.node, "disconnected", false);
  }

  /** A transfer that is cut short leaves nothing usable behind, if it was a full one. */
  #stopTransfer(proc: Proc): void {
    const transfer = proc.transfer;
    if (transfer === null) return;
    proc.transfer = null;
    transfer.task.live = false;
    if (transfer.kind === "sst") proc.tip = null;
    this.#undonate(transfer.donor);
  }

  /** Clients of the process learn nothing about what was in flight. */
  #abandon(proc: Proc): void {
    for (const pending of [...proc.inFlight]) this.#finish(pending, "unknown");
  }

  // ---- small things ------------------------------------------------------------------------

  #evsState(proc: Proc, view: View): string {
    for (const [part, change] of view.changes)
      if ((part & (1 << proc.node)) !== 0)
        // Turns up to a second before the view changes, not on every node.
        return change.due - this.#schedule.now < (proc.serial % 4) * 330 ? "GATHER" : "OPERATIONAL";
    return "OPERATIONAL";
  }

  #delay(from: number, to: number): number {
    return get(this.specs, from).segment === get(this.specs, to).segment
      ? this.options.intraMs
      : this.options.interMs;
  }

  #jitter(): number {
    return 1 + this.#random.float() * this.options.jitter;
  }

  #in(range: Range): number {
    return this.#random.between(range[0], range[1]);
  }

  #newUuid(): string {
    this.#uuid++;
    return this.#uuid.toString(16).padStart(8, "0");
  }
}

// ---- pure helpers --------------------------------------------------------------------------

function nothing(): void {}

/** Element of a list that is known to be there; the model never asks beyond its own sizes. */
function get<T>(list: { readonly [index: number]: T }, index: number): T {
  return list[index] as T;
}

function uuidOf(base: string, incarnation: number): string {
  return `${base}-0000-11f1-${incarnation.toString(16).padStart(4, "0")}-000000000001`;
}

function plainBase(base: string): string {
  const uuid = uuidOf(base, 1);
  return uuid.slice(0, 18) + uuid.slice(23);
}

function accepts(proc: Proc): boolean {
  return (
    proc.sql &&
    !proc.stopping &&
    proc.view?.primary === true &&
    proc.transfer === null &&
    proc.local === "Synced"
  );
}

function extend(proc: Proc, entry: Entry): void {
  if (proc.spec.garb === true) return;
  if (proc.local !== "Synced" || proc.tip === null) {
    proc.queued = entry;
    return;
  }
  const tip = proc.tip;
  proc.tip = entry.prev === tip ? entry : replay(tip, entry);
}

/** Names are told when a view becomes Primary; outside, a server knows those that it had in its view before. */
function namedBy(proc: Proc, view: View): readonly Member[] {
  if (view.primary) return view.members;
  const before = new Map(proc.members.map(({ uuid, name }) => [uuid, name]));
  before.set(proc.uuid, proc.spec.name);
  if (view.members.every(({ uuid, name }) => before.get(uuid) === name)) return view.members;
  return view.members.map(({ uuid }) => ({ uuid, name: before.get(uuid) ?? UNSPECIFIED }));
}

function membersIn(view: View, part: number): Proc[] {
  const found: Proc[] = [];
  for (const proc of view.procs)
    if (proc !== null && proc.view === view && (part & (1 << proc.node)) !== 0) found.push(proc);
  return found;
}

function total(view: View, part: number): number {
  let sum = 0;
  for (let node = 0; node < view.weights.length; node++)
    if ((part & view.mask & (1 << node)) !== 0) sum += get(view.weights, node);
  return sum;
}

/** The parts of a view in which everybody hears everybody, as masks of live members. */
function components(view: View, nodes: number): number[] {
  const parts: number[] = [];
  let done = 0;
  for (let i = 0; i < nodes; i++) {
    const bit = 1 << i;
    if ((view.live & bit) === 0 || (done & bit) !== 0) continue;
    let part = bit;
    for (let j = i + 1; j < nodes; j++)
      if ((get(view.reach, i) & (1 << j)) !== 0 && (get(view.reach, j) & bit) !== 0) part |= 1 << j;
    parts.push(part);
    done |= part;
  }
  return parts;
}

/** The member whose seqno is highest: its position becomes the group's. */
function furthest(procs: readonly Proc[]): Proc | null {
  let lead: Proc | null = null;
  for (const proc of procs)
    if (
      proc.tip !== null &&
      (lead === null || lead.tip === null || proc.tip.seqno > lead.tip.seqno)
    )
      lead = proc;
  return lead;
}

/** Does the view have this one in its eviction list. */
function refuses(view: View, proc: Proc): boolean {
  for (const member of view.procs)
    if (member !== null && member.view === view && member.evictList.includes(proc.uuid))
      return true;
  return false;
}
