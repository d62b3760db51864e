/**
 * A simulated cluster for a told sequence of events: names instead of numbers, waiting for what has
 * to come about, conditions that are looked at after every single event, and an ending that demands
 * all servers back with equal rows and nothing lost.
 */
import { expect } from "bun:test";
import type { Position } from "../../../lib/message/dbserver.ts";
import type { PartyId } from "../../../lib/message/envelope.ts";
import type { BodyTo } from "../../../lib/message/mod.ts";
import type { GaleraOptions } from "../galera.ts";
import { Random } from "../random.ts";
import { configOf, LIVENESS_MS, type Topology } from "../swarm.ts";
import { World } from "../world.ts";

export const ARBITRATOR = "arbitrator";

export interface StageOptions {
  /** Weights of the servers of dc1 (a1, a2, …) and of dc2 (b1, b2, …). @default 2+2, all 1 */
  readonly weights?: Topology["weights"];
  readonly onDoubleFault?: Topology["onDoubleFault"];
  /** @default "off" */
  readonly evict?: Topology["evict"];
  /** @default 1 */
  readonly seed?: number;
  readonly galera?: Partial<GaleraOptions>;
  /** One-way delay between the sites. @default 5 */
  readonly interMs?: number;
  /** @default 40 */
  readonly writeEveryMs?: number;
  /** A guard beside each server of a heavy segment. @default false */
  readonly guards?: boolean;
  readonly record?: boolean;
}

interface Cut {
  readonly from: readonly string[];
  readonly to: readonly string[];
  readonly net: "messages" | "galera" | "both";
  readonly oneWay: boolean;
}

interface Always {
  readonly what: string;
  readonly holds: () => boolean;
}

export class Stage {
  readonly world: World;
  readonly #interMs: number;
  readonly #cuts: Cut[] = [];
  readonly #always: Always[] = [];
  #lookedAt = 0;
  readonly #onLog: {
    readonly event: string;
    readonly tell: (id: PartyId, fields: Readonly<Record<string, unknown>>) => void;
  }[] = [];

  constructor(options: StageOptions = {}) {
    this.#interMs = options.interMs ?? 5;
    this.world = new World({
      config: configOf({
        weights: options.weights ?? [
          [1, 1],
          [1, 1],
        ],
        onDoubleFault: options.onDoubleFault ?? "stay",
        evict: options.evict ?? "off",
        // In stories a segment changes more than once an hour.
        timing: { promotion_window_ms: 60_000 },
      }),
      random: new Random(options.seed ?? 1),
      galera: {
        interMs: this.#interMs,
        slowSuspectChance: 0,
        mergeLaterChance: 0,
        ...options.galera,
      },
      driftMax: 1e-4,
      writeEveryMs: options.writeEveryMs ?? 40,
      localWriters: 1,
      remoteWriters: 2,
      intraMs: 0.3,
      interMs: this.#interMs,
      codecShare: 0.002,
      guards: options.guards ?? false,
      record: options.record ?? false,
    });
    const { watch } = this.world;
    const logged = watch.logged.bind(watch);
    watch.logged = (id, event, fields) => {
      for (const each of this.#onLog) if (each.event === event) each.tell(id, fields);
      logged(id, event, fields);
    };
    // From the first moment to the arbitrator's end of waiting, with everybody serving.
    this.run(7000);
    expect(this.world.watch.missing()).toBeNull();
  }

  // ---- time --------------------------------------------------------------------------------

  get now(): number {
    return this.world.schedule.now;
  }

  /** Lets time pass; looks at every `always` after each event. */
  run(ms: number): this {
    const { schedule, watch } = this.world;
    const end = schedule.now + ms;
    let more = true;
    while (more && watch.violations.length === 0) {
      more = schedule.next(end);
      this.#look();
    }
    this.safe();
    return this;
  }

  /** Lets time pass until something holds. @throws Error with how everybody stands if it never does */
  until(what: string, holds: () => boolean, limitMs = 30_000): this {
    const { schedule, watch } = this.world;
    const end = schedule.now + limitMs;
    while (!holds()) {
      if (!schedule.next(end))
        throw new Error(
          `In ${limitMs} ms it never came about that ${what}: ${watch.describeAll()}; verdicts ${this.#verdicts()}`,
        );
      this.#look();
      if (watch.violations.length > 0) break;
    }
    this.safe();
    return this;
  }

  /** From now on this holds after every event. */
  always(what: string, holds: () => boolean): this {
    this.#always.push({ what, holds });
    return this;
  }

  /** What was demanded from then on is demanded no longer. */
  noLonger(what: string): this {
    const index = this.#always.findIndex((one) => one.what === what);
    if (index < 0) throw new Error(`Nothing demands that ${what}`);
    this.#always.splice(index, 1);
    return this;
  }

  #look(): void {
    if (this.now - this.#lookedAt >= 100) {
      this.#lookedAt = this.now;
      this.world.watch.holdsOwn();
    }
    for (const { what, holds } of this.#always)
      if (!holds())
        throw new Error(
          `At ${this.now.toFixed(0)} ms it no longer holds that ${what}: ${this.world.watch.describeAll()}`,
        );
  }

  /** No invariant has been violated so far. */
  safe(): this {
    expect(this.world.watch.violations).toEqual([]);
    return this;
  }

  // ---- who is who --------------------------------------------------------------------------

  node(name: string): number {
    const node = this.world.servers.findIndex((server) => server.config.name === name);
    if (node < 0) throw new Error(`No server is called ${name}`);
    return node;
  }

  /** The disk under a server's watchdog. */
  disk(name: string) {
    const server = this.world.servers[this.node(name)];
    if (server === undefined) throw new Error(`No server is called ${name}`);
    return server.disk;
  }

  /** Servers of a segment. */
  of(segment: "dc1" | "dc2"): readonly string[] {
    return this.world.servers
      .filter((server) => server.config.segment === segment)
      .map((server) => server.config.name);
  }

  /** Everybody at the site of a segment, clients too. */
  site(segment: "dc1" | "dc2"): readonly string[] {
    return this.world.hosts.filter((host) => host.site === segment).map((host) => host.name);
  }

  all(): readonly string[] {
    return this.world.servers.map((server) => server.config.name);
  }

  others(names: readonly string[]): readonly string[] {
    return this.world.hosts.map((host) => host.name).filter((name) => !names.includes(name));
  }

  // ---- what is seen ------------------------------------------------------------------------

  serves(name: string): boolean {
    return this.world.galera.writable(this.node(name));
  }

  serving(): readonly string[] {
    return this.all().filter((name) => this.serves(name));
  }

  /** More than half of a segment serves in a view without anybody of the other one. */
  servesAlone(segment: "dc1" | "dc2"): boolean {
    const own = this.of(segment);
    const open = own.filter(
      (name) => this.serves(name) && this.view(name).every((member) => own.includes(member)),
    );
    return open.length * 2 > own.length;
  }

  /** All of a segment serve in a view with these servers of the other one. */
  servesBeside(segment: "dc1" | "dc2", guests: readonly string[]): boolean {
    const members = [...this.of(segment), ...guests];
    return this.of(segment).every(
      (name) =>
        this.serves(name) &&
        this.view(name).length === members.length &&
        members.every((member) => this.view(name).includes(member)),
    );
  }

  /** Galera's own word. */
  primary(name: string): boolean {
    return this.world.galera.procs[this.node(name)]?.view?.primary === true;
  }

  /** Names of the members of its view. */
  view(name: string): readonly string[] {
    const view = this.world.galera.procs[this.node(name)]?.view ?? null;
    return view === null ? [] : view.members.map((member) => member.name);
  }

  /** The process runs. */
  runs(name: string): boolean {
    return this.world.galera.procs[this.node(name)] !== null;
  }

  /** Up or stopped, where its rows end. */
  position(name: string): Position {
    const node = this.node(name);
    const tip = this.world.galera.procs[node]?.tip ?? null;
    if (tip !== null) return { uuid: tip.cluster, seqno: tip.seqno };
    const found = this.world.galera.recover(node)?.position ?? null;
    if (found === null) throw new Error(`${name} has no rows`);
    return found;
  }

  /** Up or stopped, it has rows, and is not receiving others. */
  hasRows(name: string): boolean {
    const node = this.node(name);
    const proc = this.world.galera.procs[node] ?? null;
    if (proc !== null) return proc.tip !== null && proc.transfer === null;
    return this.world.galera.recover(node)?.position != null;
  }

  /** The arbitrator's durable state as it is on disk. */
  get store() {
    return this.world.arbiter.disk.durable;
  }

  /** The open grant, as it is on disk. */
  get grant() {
    return this.store.grant;
  }

  verdict(segment: "dc1" | "dc2") {
    const verdict = this.world.arbiter.process?.state.core.verdicts.get(segment);
    if (verdict === undefined) throw new Error(`Nothing is judged of ${segment}`);
    return verdict;
  }

  /** How often something was counted by the invariants' book-keeping. */
  count(what: string): number {
    return this.world.watch.counts.get(what) ?? 0;
  }

  /** Tells of every line of that event in anybody's log. */
  onLog(
    event: string,
    tell: (id: PartyId, fields: Readonly<Record<string, unknown>>) => void,
  ): this {
    this.#onLog.push({ event, tell });
    return this;
  }

  #verdicts(): string {
    return ["dc1", "dc2"]
      .map((segment) => {
        const verdict = this.world.arbiter.process?.state.core.verdicts.get(segment);
        return `${segment}: ${verdict?.rule ?? "none"} (${verdict?.because ?? ""})`;
      })
      .join("; ");
  }

  // ---- what happens ------------------------------------------------------------------------

  cut(
    from: readonly string[],
    to: readonly string[],
    how: { readonly net?: Cut["net"]; readonly oneWay?: boolean } = {},
  ): this {
    this.#cuts.push({ from, to, net: how.net ?? "both", oneWay: how.oneWay === true });
    return this.#relink(`cut ${from.join(",")} from ${to.join(",")} (${how.net ?? "both"})`);
  }

  /** The two data centres, servers and clients, hear each other no longer. */
  cutSites(net: Cut["net"] = "both"): this {
    return this.cut(this.site("dc1"), this.site("dc2"), { net });
  }

  /** A data centre is cut from everything outside it. */
  isolate(segment: "dc1" | "dc2"): this {
    return this.cut(this.site(segment), this.others(this.site(segment)));
  }

  /** All cuts end. */
  heal(): this {
    this.#cuts.length = 0;
    return this.#relink("all links healed");
  }

  /** All of a machine ends at one instant: its watchdog has no time for a last word. */
  powerOff(names: readonly string[], bootMs = Number.POSITIVE_INFINITY): this {
    for (const name of names) {
      const index = this.#host(name);
      if (index < this.world.servers.length)
        this.world.crashWatchdog(index, Number.POSITIVE_INFINITY);
      this.world.powerOff(index, bootMs);
    }
    return this;
  }

  powerOn(names: readonly string[]): this {
    for (const name of names) this.world.powerOn(this.#host(name));
    return this;
  }

  suspend(names: readonly string[], forMs: number): this {
    for (const name of names) this.world.suspendHost(this.#host(name), forMs);
    return this;
  }

  kill(names: readonly string[]): this {
    for (const name of names) this.world.killMariadbd(this.node(name), "SIGKILL from outside");
    return this;
  }

  /** mariadbd is told to end, and leaves its cluster gracefully. */
  stop(name: string): this {
    this.world.stopMariadbd(this.node(name));
    return this;
  }

  /** A person's order, typed at the arbitrator's site. */
  order(body: BodyTo<"arbitrator">): this {
    this.world.order(body, this.world.arbiter.host.index);
    return this;
  }

  force(segment: "dc1" | "dc2", options: { readonly allowDataLoss: boolean }): this {
    return this.order({
      verb: "make_primary",
      parameters: {
        segment,
        who: "operator",
        why: "scenario",
        force: options.allowDataLoss,
        acceptedLoss: null,
        takeOver: true,
        ...options,
      },
    });
  }

  #host(name: string): number {
    const index = this.world.hosts.findIndex((host) => host.name === name);
    if (index < 0) throw new Error(`No host is called ${name}`);
    return index;
  }

  #relink(what: string): this {
    const names = this.world.hosts.map((host) => host.name);
    for (const [a, from] of names.entries())
      for (const [b, to] of names.entries()) {
        if (a === b) continue;
        let messages = true;
        let galera = true;
        for (const cut of this.#cuts) {
          const forth = cut.from.includes(from) && cut.to.includes(to);
          const back = cut.from.includes(to) && cut.to.includes(from);
          if (!forth && !(back && !cut.oneWay)) continue;
          if (cut.net !== "galera") messages = false;
          if (cut.net !== "messages") galera = false;
        }
        this.world.setLink(a, b, messages, "messages");
        this.world.setLink(a, b, galera, "galera");
      }
    this.world.relinked(what);
    return this;
  }

  // ---- the ending --------------------------------------------------------------------------

  /** Everything is healed; all servers must serve again with equal rows, and nothing may be lost. */
  endsWell(options: { readonly limitMs?: number; readonly mayLose?: boolean } = {}): this {
    const { limitMs = LIVENESS_MS, mayLose = false } = options;
    const { world } = this;
    this.#always.length = 0;
    this.heal();
    for (const host of world.hosts) world.powerOn(host.index);
    world.wakeAll();
    world.arbiter.disk.full = false;
    for (const server of world.servers) server.disk.full = false;
    if (world.arbiter.process === null) world.startArbitrator();
    for (const server of world.servers)
      if (server.process === null) world.startWatchdog(server.node);
    this.until("all serve", () => world.watch.missing() === null, limitMs);
    this.run(1000);
    world.writing = false;
    this.run(1000);
    expect(world.watch.missing()).toBeNull();
    if (!mayLose) world.watch.lost(2 * this.#interMs * 1.5 + 10);
    return this.safe();
  }
}
