/**
 * What must never be, checked as it happens, and what must come true in the end. Each check costs
 * little and runs only where something relevant has changed. A violation is kept, not thrown.
 */
import type { ArbitratorDurable, Grant } from "../../lib/core/arbitrator_state.ts";
import type { ServerDurable } from "../../lib/core/dbserver_io.ts";
import { type DbServerState, leaseOf } from "../../lib/core/dbserver_state.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import type { BodyTo, Message } from "../../lib/message/mod.ts";
import { fingerprintMembers, isJoint } from "../../lib/wsrep_status.ts";
import type { Proc, View } from "./galera.ts";
import { type Entry, sameRows, writesOf } from "./rows.ts";
import type { Server, World } from "./world.ts";

/** Fenced in a joint view that everybody hears of: longer than this, undisturbed, is a violation. */
export const SETTLE_MS = 15_000;

/** No story gives reason for so many epochs. */
export const EPOCHS_MAX = 60;

export interface Violation {
  readonly id: string;
  readonly atMs: number;
  readonly because: string;
}

interface Acknowledged {
  readonly id: number;
  readonly entry: Entry;
  readonly node: number;
  readonly view: View | null;
  readonly sentAt: number;
  readonly at: number;
}

/** Events of the log that a run tells of in numbers. */
const COUNTED = new Set(["diverged", "epoch_opened", "promoted", "config_in_force"]);

export class Watch {
  readonly violations: Violation[] = [];
  readonly counts = new Map<string, number>();
  readonly acked: Acknowledged[] = [];
  /** Lost though acknowledged, but in flight at a cut after which their side was lost. */
  lostInFlight = 0;
  /** Of those, acknowledged later than a round trip after the cut: a member had been hanging at it. */
  lostLate = 0;
  /** A person has accepted loss; what follows from it is theirs. */
  forced = false;
  readonly #world: World;
  readonly #granted = new Map<string, string>();
  /** To which segment each epoch was granted last, whatever store it was written in. */
  readonly #segmentsOf = new Map<number, Set<string>>();
  #epoch = 0;
  #store = "";
  readonly #seen: number[] = [];
  readonly #fencedSince: number[] = [];
  /** Started past their watchdogs and not closed yet; when each was first seen open to clients. */
  readonly #unseen = new Map<Proc, number | null>();
  #disturbedAt = 0;
  #outage = 0;
  longestOutageMs = 0;

  constructor(world: World) {
    this.#world = world;
  }

  violate(id: string, because: string): void {
    this.violations.push({ id, atMs: this.#world.schedule.now, because });
    this.#world.note(`VIOLATION ${id}: ${because}`);
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  disturbed(): void {
    this.#disturbedAt = this.#world.schedule.now;
    this.#fencedSince.length = 0;
  }

  /** Status of a node may have changed: who can acknowledge writes now. */
  changed(node: number): void {
    const { galera } = this.#world;
    const own = galera.procs[node] ?? null;
    let serving: View | null = null;
    for (const view of galera.views) {
      if (!view.primary || !view.whole) continue;
      const writer = view.procs.find(
        (proc) => proc !== null && proc.view === view && galera.writable(proc.node),
      );
      if (writer === undefined || writer === null) continue;
      if (serving !== null && !this.forced) {
        this.violate(
          "two_writers",
          `${describe(serving)} and ${describe(view)} both accept writes`,
        );
      }
      serving = view;
    }
    const { now } = this.#world.schedule;
    if (serving !== null) {
      if (this.#outage > 0) {
        this.longestOutageMs = Math.max(this.longestOutageMs, now - this.#outage);
        this.#outage = 0;
      }
    } else if (this.#outage === 0) this.#outage = now;
    if (own?.rejecting === true) this.#unseen.delete(own);
    if (own?.view?.primary === true && galera.writable(node) && !this.#isUnseen(own)) {
      for (const other of own.view.procs) {
        if (other === null || other === own || other.view !== own.view) continue;
        if (!galera.writable(other.node) || other.tip === null || own.tip === null) continue;
        if (sameRows(own.tip, other.tip) || this.#isUnseen(other)) continue;
        this.violate(
          "rows_differ",
          `${own.spec.name} and ${other.spec.name} serve different rows in one view`,
        );
      }
    }
  }

  ended(_node: number, because: string): void {
    this.count(`ended: ${because}`);
  }

  acknowledged(write: Acknowledged): void {
    this.acked.push(write);
  }

  /** The arbitrator is about to write this down. */
  granting(durable: ArbitratorDurable): void {
    const { grant, storeId } = durable;
    if (storeId !== this.#store) {
      this.#store = storeId;
      this.#epoch = 0;
    }
    if (durable.epoch < this.#epoch)
      this.violate("epoch_falls", `epoch ${durable.epoch} after ${this.#epoch}`);
    this.#epoch = durable.epoch;
    if (grant === null) return;
    const key = `${storeId}/${grant.epoch}`;
    const what = grantText(grant);
    const given = this.#segmentsOf.get(grant.epoch) ?? new Set();
    this.#segmentsOf.set(grant.epoch, given.add(grant.segment));
    const before = this.#granted.get(key);
    if (before === undefined) {
      this.#granted.set(key, what);
      this.count(`granted ${grant.kind} (${grant.basis})`);
      if (grant.basis === "forced") this.forced = true;
      // Where an order was refused, what an earlier one had given goes on under a new number.
      const anew = grant.order === "given";
      if (anew && grant.basis === "outwaited") this.#grantedByTime(grant);
      if (anew && !this.forced) this.#besideWriter(grant);
      if (this.#granted.size === EPOCHS_MAX)
        this.violate("epoch_flood", `${EPOCHS_MAX} epochs in one story`);
    } else if (before !== what)
      this.violate("epoch_twice", `epoch ${grant.epoch} granted as ${before} and as ${what}`);
  }

  /** The arbitrator's message is leaving: what it grants is on disk. */
  ordering(message: Message): void {
    if (message.verb !== "make_primary" && message.verb !== "bootstrap") return;
    if (!("epoch" in message.parameters)) return;
    const { epoch } = message.parameters;
    const { durable } = this.#world.arbiter.disk;
    if (epoch > durable.epoch)
      this.violate("sent_unwritten", `epoch ${epoch} is ordered, ${durable.epoch} is on disk`);
  }

  /** A door is about to open: under which epoch is on disk. */
  opening(server: Server, core: DbServerState): void {
    const { epochServed } = core.durable;
    const written = server.disk.durable.epochServed;
    if (written !== epochServed)
      this.violate(
        "open_unwritten",
        `${server.config.name} opens under epoch ${epochServed}, ${written} is on disk`,
      );
  }

  /** An order is about to be obeyed: it is on disk, and nobody relies on this server's vouch. */
  forming(server: Server, core: DbServerState): void {
    const { config, disk } = server;
    const order = core.order?.order;
    if (order === undefined) return;
    if (disk.durable.epochObeyed !== order.epoch)
      this.violate("obeyed_unwritten", `${config.name} obeys epoch ${order.epoch} unwritten`);
    if (order.basis === "arithmetic" || order.basis === "forced") return;
    for (const other of this.#awake(config.segment)) {
      const vouch = other.core.promises.get(config.id);
      if (vouch !== undefined && vouch.until > other.now)
        this.violate("within_vouch", `${config.name} is promoted, ${other.name} has its vouch`);
    }
  }

  /**
   * A segment is granted the right by time: no promise that it rests on may last. Who is in the component that
   * it is granted to has said so, and a lease is of the view that it was given in.
   */
  #grantedByTime({ segment, expectedFingerprint }: Grant): void {
    const inside = fingerprintMembers(expectedFingerprint ?? "");
    for (const { name, core, now } of this.#awake(segment)) {
      const lease = leaseOf(core);
      if (inside.includes(core.gcommUuid ?? "")) continue;
      if (lease !== null && lease.epoch === null && lease.until > now)
        this.violate("within_lease", `${segment} is granted, ${name} has a lease`);
    }
  }

  /** Watchdogs outside a segment that go on, with Primary servers: what they hold, on their clocks. */
  #awake(segment: string) {
    return this.#world.servers.flatMap(({ config, process }) => {
      if (config.segment === segment || process === null || process.paused) return [];
      const { core } = process.state;
      return core.status?.primary === true ? [{ name: config.name, core, now: process.now() }] : [];
    });
  }

  /** Does a whole Primary component without anybody of the candidate take writes. */
  #besideWriter(grant: NonNullable<ArbitratorDurable["grant"]>): void {
    const { galera, servers } = this.#world;
    const inside = new Set(fingerprintMembers(grant.expectedFingerprint ?? ""));
    for (const { node, config } of servers) {
      const proc = galera.procs[node] ?? null;
      const view = proc?.view ?? null;
      if (view === null || !view.primary || !view.whole || !galera.writable(node)) continue;
      if (view.members.some(({ uuid }) => inside.has(uuid))) continue;
      this.violate(
        "granted_beside",
        `${grant.segment} is granted epoch ${grant.epoch}, ${config.name} takes writes in ${describe(view)}`,
      );
    }
  }

  storeSpoiled(): void {
    this.#epoch = 0;
    this.#granted.clear();
    // What an older copy holds was granted when it was written, not when it is written again.
    const { grant, storeId } = this.#world.arbiter.disk.durable;
    if (grant !== null) this.#granted.set(`${storeId}/${grant.epoch}`, grantText(grant));
    this.count("store spoiled");
  }

  outsideStart(node: number): void {
    this.count("started past the watchdog");
    const proc = this.#world.galera.procs[node] ?? null;
    if (proc !== null) this.#unseen.set(proc, null);
  }

  /**
   * Has it been started past its watchdog, which has not had the time to close it: no other assumption is
   * broken, and it may be in line with nobody.
   */
  #isUnseen(proc: Proc): boolean {
    const since = this.#unseen.get(proc);
    if (since === undefined) return false;
    const { config, schedule } = this.#world;
    if (since === null) this.#unseen.set(proc, schedule.now);
    const { pollFastMs, fenceMs } = config.timing;
    return schedule.now - (since ?? schedule.now) <= pollFastMs + fenceMs;
  }

  serverWrote(node: number, durable: ServerDurable): void {
    // What was served under may be taken back with an order that came to nothing.
    const epoch = durable.epochSeen;
    if (epoch < (this.#seen[node] ?? 0))
      this.violate("epoch_falls", `server ${node} had seen ${this.#seen[node]}, now ${epoch}`);
    this.#seen[node] = epoch;
  }

  ordered(body: BodyTo<"arbitrator">): void {
    this.count(`order ${body.verb}`);
  }

  logged(_id: PartyId, event: string, _fields: Readonly<Record<string, unknown>>): void {
    if (COUNTED.has(event)) this.count(event);
  }

  /** Nobody may stand fenced in a joint view for long where right and rows are in reach; called now and then. */
  settled(): void {
    const world = this.#world;
    const { galera, schedule, arbiter } = world;
    const durable = arbiter.process?.state.core.durable;
    // A lease in a joint view passes vouches on: half of every segment's watchdogs have to speak.
    const speaking = new Set(
      world.servers
        .filter(
          ({ process, host }) =>
            process !== null && !process.paused && world.linked(host.index, arbiter.host.index),
        )
        .map(({ config }) => config.name),
    );
    const trusted =
      isJoint(world.config, speaking) &&
      arbiter.process !== null &&
      !arbiter.process.paused &&
      arbiter.process.state.core.observing === null &&
      arbiter.process.state.core.diskError === null &&
      durable?.grant === null;
    this.holdsOwn();
    for (const { node, host, process } of world.servers) {
      const proc = galera.procs[node] ?? null;
      const view = proc?.view ?? null;
      const should =
        trusted &&
        proc !== null &&
        process !== null &&
        !process.paused &&
        view?.primary === true &&
        view.whole &&
        proc.local === "Synced" &&
        proc.rejecting &&
        !process.state.core.diverged &&
        isJoint(world.config, new Set(view.members.map((member) => member.name))) &&
        world.linked(host.index, arbiter.host.index) &&
        schedule.now - this.#disturbedAt > SETTLE_MS;
      if (!should) {
        this.#fencedSince[node] = -1;
        continue;
      }
      const since = this.#fencedSince[node] ?? -1;
      if (since < 0) this.#fencedSince[node] = schedule.now;
      else if (schedule.now - since > SETTLE_MS) {
        this.violate("fenced_for_long", `${proc.spec.name} stands fenced in a joint view`);
        this.#fencedSince[node] = schedule.now + 1e9;
      }
    }
  }

  /**
   * A grant that a server believes to hold was given to its own segment, by some life of the store: one that
   * was put back to an older copy may give a number again that nobody in its reach has heard of. Called now
   * and then.
   */
  holdsOwn(): void {
    for (const { config, process } of this.#world.servers) {
      const epoch = process?.state.core.grantEpoch ?? null;
      const given = epoch === null ? undefined : this.#segmentsOf.get(epoch);
      if (given !== undefined && !given.has(config.segment))
        this.violate(
          "grant_elsewhere",
          `${config.name} holds epoch ${epoch}, which is ${[...given].join("'s and ")}'s`,
        );
    }
  }

  /** Null if everybody serves in one view with equal rows; else why not. */
  missing(): string | null {
    const { galera, servers } = this.#world;
    const primaries = galera.views.filter((view) => view.primary);
    if (primaries.length !== 1) return `${primaries.length} Primary views`;
    const view = primaries[0];
    if (view === undefined || !view.whole) return "the view is changing";
    if (view.members.length !== servers.length) return `${view.members.length} members`;
    let first: Entry | null = null;
    for (const proc of view.procs) {
      if (proc === null || proc.tip === null) return "a member without rows";
      if (proc.local !== "Synced") return `${proc.spec.name} is ${proc.local}`;
      if (!galera.writable(proc.node)) return `${proc.spec.name} does not serve`;
      if (first === null) first = proc.tip;
      else if (!sameRows(first, proc.tip)) return `${proc.spec.name} has other rows`;
    }
    return null;
  }

  /** How every server stands, in a few letters each. */
  describeAll(): string {
    const { galera, servers } = this.#world;
    return servers
      .map(({ node, config, process }) => {
        const proc = galera.procs[node] ?? null;
        const verdict = process?.state.core.startVerdict ?? "no watchdog";
        if (proc === null) return `${config.name}: down (${verdict})`;
        const view = proc.closed
          ? "provider closed"
          : `${proc.view?.primary === true ? "Primary" : "non-Primary"} with ${proc.view?.members.length ?? 0}`;
        const diverged = process?.state.core.diverged === true ? ", diverged" : "";
        return `${config.name}: ${view}, ${proc.sql ? proc.local : "no SQL"}${proc.rejecting ? ", fenced" : ""}${diverged}`;
      })
      .join("; ");
  }

  /** At the end: every acknowledged write is there, but for what was in flight at a cut. */
  lost(flightMs: number): void {
    const { galera } = this.#world;
    let tip: Entry | null = null;
    for (const view of galera.views) {
      if (!view.primary) continue;
      for (const proc of view.procs)
        if (proc !== null && proc.view === view && galera.writable(proc.node)) {
          // What is ordered in a view reaches all of it: the furthest has everything.
          if (proc.tip !== null && (tip === null || proc.tip.seqno > tip.seqno)) tip = proc.tip;
        }
    }
    if (tip === null) return;
    const present = writesOf(tip);
    let lost = 0;
    let example: Acknowledged | null = null;
    for (const write of this.acked) {
      if (present.has(write.id)) continue;
      // Handed in before a cut, and acknowledged after it or so shortly before that the word of it
      // could not be everywhere.
      const cuts = write.view?.cutAt.filter(
        (at) => write.sentAt <= at && at <= write.at + flightMs,
      );
      if (cuts !== undefined && cuts.length > 0) {
        this.lostInFlight++;
        if (cuts.every((at) => write.at > at + flightMs)) this.lostLate++;
      } else {
        lost++;
        example ??= write;
      }
    }
    if (lost === 0 || example === null || this.forced) return;
    this.violate(
      "acknowledged_lost",
      `${lost} writes, first acknowledged by node ${example.node} at ${(example.at / 1000).toFixed(3)} in ${
        example.view === null ? "no view" : describe(example.view)
      }`,
    );
  }
}

function grantText({ segment, kind, target }: NonNullable<ArbitratorDurable["grant"]>): string {
  return `${segment} ${kind} ${target}`;
}

function describe(view: View): string {
  return `view ${view.id} {${view.members.map((member) => member.name).join(",")}}`;
}
