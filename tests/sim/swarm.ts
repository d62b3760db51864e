/**
 * Stories of trouble: from one seed come a cluster, a mix of faults and their times. A story is
 * plain data, so that a failing one can be made shorter by leaving things out and run again.
 *
 * A run has three parts: trouble, healing, and a time within which one component has to serve with
 * all servers and equal rows.
 */
import { type ClusterConfig, EVICT_CHOICES, parseClusterConfig } from "../../lib/cluster_config.ts";
import { FAILED_STARTS_MAX } from "../../lib/core/dbserver_state.ts";
import { GALERA_DEFAULTS, type GaleraOptions } from "./galera.ts";
import type { Violation } from "./invariants.ts";
import { Random } from "./random.ts";
import { World } from "./world.ts";

/** So often it is looked whether everybody serves, and whether anybody stands fenced for long. */
const LOOK_MS = 100;
const SETTLED_EVERY_MS = 500;

/** Service by all servers with equal rows, at the latest so long after everything is healed. */
export const LIVENESS_MS = 120_000;

export const FAULT_KINDS = [
  "cut_sites",
  "cut_galera",
  "cut_messages",
  "one_way",
  "isolate_site",
  "isolate_arbitrator",
  "isolate_server",
  "random_cut",
  "flap",
  "kill_mariadbd",
  "stop_mariadbd",
  "hang_mariadbd",
  "hold_commits",
  "power_site",
  "power_server",
  "power_all",
  "power_arbitrator",
  "suspend_site",
  "suspend_host",
  "suspend_arbitrator",
  "crash_watchdog",
  "pause_watchdog",
  "crash_arbitrator",
  "pause_arbitrator",
  "loss",
  "slow",
  "repeat",
  "disk_full",
  "disk_slow",
  "spoil_store",
  "start_behind",
  "order",
] as const;
const SEGMENT_KINDS: readonly FaultKind[] = [
  "cut_sites",
  "cut_galera",
  "isolate_site",
  "isolate_arbitrator",
  "power_site",
];
export type FaultKind = (typeof FAULT_KINDS)[number];

/** One thing that goes wrong. `pick` are numbers from 0 to 1 that settle its details. */
export interface Fault {
  readonly atMs: number;
  readonly kind: FaultKind;
  readonly forMs: number;
  readonly pick: readonly [number, number, number];
}

export interface Topology {
  readonly weights: readonly [readonly number[], readonly number[]];
  readonly onDoubleFault: "stay" | "fence";
  /** Keys of the config's `timing`. @default none: as in production */
  readonly timing?: Readonly<Record<string, number>>;
  /** @default "off" */
  readonly evict?: ClusterConfig["evict"];
  /** A guard beside each server of a heavy segment. @default false */
  readonly guards?: boolean;
}

/** A story: all that a run depends on. */
export interface Story {
  readonly seed: number;
  readonly topology: Topology;
  readonly galera: Partial<GaleraOptions>;
  readonly writeEveryMs: number;
  readonly interMs: number;
  /** How long everybody has been running at the beginning. */
  readonly ageMs: number;
  /** Calm, or faults that change nothing any more, last so long before the next thing comes early. */
  readonly patience: Patience;
  readonly faults: readonly Fault[];
  readonly healAtMs: number;
}

/** Infinity: nothing comes early. */
export interface Patience {
  /** After everybody serves and no fault is under way. */
  readonly calmMs: number;
  /** After anything has last happened, a fault being under way. */
  readonly stuckMs: number;
}

export interface Outcome {
  readonly story: Story;
  readonly violations: readonly Violation[];
  readonly steps: number;
  readonly galeraEvents: number;
  readonly simulatedMs: number;
  readonly acknowledged: number;
  readonly lostInFlight: number;
  readonly lostLate: number;
  readonly forced: boolean;
  readonly longestOutageMs: number;
  readonly healedMs: number;
  readonly counts: ReadonlyMap<string, number>;
  readonly timeline: readonly string[];
}

export interface SwarmOptions {
  /** Heavy segments too: safe by timers only. @default false */
  readonly heavy?: boolean;
  /** Restrict to these kinds. */
  readonly kinds?: readonly FaultKind[];
}

/** Pairs of a share and what it gets. */
type Shares<T> = readonly (readonly [number, T])[];

const BALANCED: Shares<Topology["weights"]> = [
  [
    4,
    [
      [1, 1],
      [1, 1],
    ],
  ],
  [2, [[1], [1]]],
  [
    1,
    [
      [2, 2, 2],
      [3, 3],
    ],
  ],
  [2, [[2], [1, 1]]],
  [
    0.5,
    [
      [1, 1, 1],
      [1, 1, 1],
    ],
  ],
];
const HEAVY: Shares<Topology["weights"]> = [
  [
    1,
    [
      [1, 1, 1],
      [1, 1],
    ],
  ],
  [1, [[1, 1], [1]]],
  [1, [[2], [1]]],
];

/** Production's timing, and sparser or denser ones that the config takes as well. */
const TIMINGS: Shares<Readonly<Record<string, number>>> = [
  [1, {}],
  [2, { poll_fast_ms: 100 }],
  [
    3,
    { poll_fast_ms: 150, poll_interval_ms: 800, probe_interval_ms: 800, report_interval_ms: 800 },
  ],
  [
    3,
    {
      poll_fast_ms: 250,
      poll_interval_ms: 1000,
      probe_interval_ms: 1000,
      report_interval_ms: 1000,
    },
  ],
  [1, { lease_ms: 1800, report_interval_ms: 600, poll_fast_ms: 100 }],
];

/** A window against flapping that outlasts the story, as in production; that ends after it was healed; within it. */
const WINDOWS_MS = [3_600_000, 60_000, 4_000] as const;

/** Fence time of every story, as in production. */
const FENCE_MS = 1000;
const LEASE_MS = 3000;

/** Share of stories in which Galera gives up on lost members as soon as a config may have it: when doors are closed. */
const HASTY_SHARE = 0.3;

const PATIENCES: Shares<Patience> = [
  [8, { calmMs: 400, stuckMs: 5000 }],
  [2, { calmMs: 3000, stuckMs: 8000 }],
  [1, { calmMs: Number.POSITIVE_INFINITY, stuckMs: Number.POSITIVE_INFINITY }],
];

function draw<T>(random: Random, shares: Shares<T>): T {
  let left = random.float() * shares.reduce((sum, [share]) => sum + share, 0);
  for (const [share, what] of shares) {
    left -= share;
    if (left < 0) return what;
  }
  throw new Error("Cannot draw from nothing");
}

/** The story of a seed. */
export function storyOf(seed: number, options: SwarmOptions = {}): Story {
  const random = new Random(seed);
  const heavy = options.heavy === true && random.chance(0.4);
  const weights = draw(random, heavy ? HEAVY : BALANCED);
  // Each story knows only some of the kinds, so that rare ones meet each other.
  const allowed = options.kinds ?? FAULT_KINDS;
  const share = random.between(0.15, 1);
  let kinds = allowed.filter(() => random.chance(share));
  if (kinds.length === 0) kinds = [random.pick(allowed)];
  // What parts the segments matters most, so it comes more often than the rest.
  for (const kind of SEGMENT_KINDS) if (kinds.includes(kind)) kinds.push(kind, kind);
  const count = 1 + random.int(random.chance(0.2) ? 9 : 4);
  const faults: Fault[] = [];
  const meanGapMs = random.pick([150, 700, 2000, 5000]);
  const meanLengthMs = random.pick([800, 3000, 9000]);
  // Most stories begin long after everybody has started.
  const ageMs = random.chance(0.75) ? 60_000 : 0;
  let atMs = (ageMs === 0 ? 900 : 400) + random.between(0, ageMs === 0 ? 4000 : 600);
  for (let index = 0; index < count; index++) {
    faults.push({
      atMs: Math.round(atMs),
      kind: random.pick(kinds),
      forMs: Math.round(Math.min(40_000, 50 + random.exponential(meanLengthMs))),
      pick: [random.float(), random.float(), random.float()],
    });
    atMs += Math.min(20_000, random.exponential(meanGapMs));
  }
  const interMs = random.pick([0.5, 5, 20, 60]);
  const timing = draw(random, TIMINGS);
  // An outwait ends later than that; against a heavy segment it must not.
  const hasty = !heavy && random.chance(HASTY_SHARE);
  const closedMs = (timing["lease_ms"] ?? LEASE_MS) + FENCE_MS;
  // A stream of its own: the rest of a seed's story is the same with and without.
  const apart = new Random(seed).fork();
  const evict = apart.pick(EVICT_CHOICES);
  // A heavy segment that is suspended with its guards is beyond what clocks can hold.
  const awake = !faults.some(({ kind }) => kind.startsWith("suspend"));
  const guards = heavy && awake && apart.chance(0.7);
  const windowMs = apart.pick(WINDOWS_MS);
  // Only time tells against it then: what makes it count comes often, amid the rest.
  const wanted = (kind: FaultKind) => options.kinds?.includes(kind) ?? true;
  if (guards && wanted("isolate_site") && apart.chance(0.7)) {
    const forMs = Math.round(apart.between(5500, 20_000));
    const early = (faults[0]?.atMs ?? 900) + apart.between(0, 1000);
    faults.push({ atMs: Math.round(early), kind: "isolate_site", forMs, pick: [0, 0, 0] });
    // Held commits look the same behind a cut of Galera's links, which may come before the others'.
    if (wanted("hold_commits") && wanted("cut_galera") && apart.chance(0.3)) {
      const before = (ms: number) => Math.max(0, Math.round(early - apart.between(0, ms)));
      const pick: Fault["pick"] = [apart.float(), 0, 0];
      faults.push({ atMs: before(5000), kind: "hold_commits", forMs: forMs + 5000, pick });
      faults.push({ atMs: before(4500), kind: "cut_galera", forMs: forMs + 4500, pick });
    }
  }
  return {
    seed,
    topology: {
      weights,
      onDoubleFault: random.chance(0.75) ? "stay" : "fence",
      timing: {
        ...timing,
        promotion_window_ms: windowMs,
        ...(hasty ? { galera_suspect_ms: closedMs } : {}),
      },
      evict,
      guards,
    },
    galera: {
      interMs,
      // Against a heavy segment only an outwait within Galera's own patience protects.
      suspectMs: hasty ? [closedMs, closedMs + 800] : GALERA_DEFAULTS.suspectMs,
      bootstrapErrorChance: random.chance(0.2) ? 0.4 : 0,
      bootstrapLieChance: random.chance(0.2) ? 0.4 : 0,
      killLeakChance: random.chance(0.1) ? 0.3 : 0,
      evictedIgnored: random.chance(0.5),
      joinerSaysPrimary: random.chance(0.3),
      applyLagMs: random.chance(0.2) ? [5, random.pick([50, 400])] : [0, 0],
      gcacheMissChance: random.chance(0.1) ? 0.3 : 0,
      istRefusedChance: random.chance(0.5) ? 0 : 0.5,
    },
    writeEveryMs: random.pick([80, 250, 600]),
    interMs,
    ageMs,
    patience: draw(random, PATIENCES),
    faults,
    healAtMs: Math.round(atMs + random.between(300, random.chance(0.2) ? 12_000 : 3500)),
  };
}

/** The config of a topology. */
export function configOf(topology: Topology): ClusterConfig {
  const servers = topology.weights.flatMap((segment, s) =>
    segment.map((weight, n) => ({
      serial: s * 10 + n + 1,
      name: `${s === 0 ? "a" : "b"}${n + 1}`,
      segment: s === 0 ? "dc1" : "dc2",
      host: `10.0.${s + 1}.${n + 1}`,
      weight,
    })),
  );
  return parseClusterConfig(
    {
      version: 1,
      cluster: {
        name: "sim",
        primary_segment: "dc1",
        on_double_fault: topology.onDoubleFault,
        evict: topology.evict ?? "off",
      },
      arbitrator: [{ serial: 1, host: "10.0.3.1" }],
      dbserver: servers,
      dbclient: [],
      timing: topology.timing ?? {},
    },
    "simulator",
  );
}

const CONFIGS = new Map<string, ClusterConfig>();

function cachedConfig(topology: Topology): ClusterConfig {
  const key = JSON.stringify(topology);
  let config = CONFIGS.get(key);
  if (config === undefined) {
    config = configOf(topology);
    CONFIGS.set(key, config);
  }
  return config;
}

export interface RunOptions {
  readonly record: boolean;
  /** Configs pushed into the database in its course; without them each host has a site file. */
  readonly pushes?: readonly { readonly atMs: number; readonly config: ClusterConfig }[];
}

/** Runs a story from its beginning to its end. */
export function run(story: Story, options: RunOptions): Outcome {
  const config = cachedConfig(story.topology);
  const world = new World({
    config,
    random: new Random(story.seed * 2 + 1),
    galera: story.galera,
    driftMax: 1e-4,
    writeEveryMs: story.writeEveryMs,
    localWriters: 1,
    remoteWriters: 2,
    intraMs: 0.3,
    interMs: story.interMs,
    codecShare: 0.002,
    ageMs: story.ageMs,
    guards: story.topology.guards === true,
    documents: options.pushes !== undefined,
    record: options.record,
  });
  const { schedule, watch } = world;
  for (const { atMs, config: pushed } of options.pushes ?? []) {
    schedule.at(atMs, () => world.push(pushed));
  }
  const trouble = new Trouble(world);
  for (const fault of story.faults) world.story.begin(fault.atMs, () => trouble.strike(fault));
  let healedAt = Number.POSITIVE_INFINITY;
  world.story.begin(story.healAtMs, () => {
    trouble.heal();
    healedAt = schedule.now;
  });
  // Looked at now and then; nothing inside the world hears of it.
  let wholeSince = Number.POSITIVE_INFINITY;
  let healedMs = Number.NaN;
  let settledAt = 0;
  let quietSince = Number.POSITIVE_INFINITY;
  while (watch.violations.length === 0) {
    schedule.runUntil(schedule.now + LOOK_MS);
    if (schedule.now - settledAt >= SETTLED_EVERY_MS) {
      settledAt = schedule.now;
      watch.settled();
    }
    const missing = watch.missing();
    wholeSince = missing === null ? Math.min(wholeSince, schedule.now) : Number.POSITIVE_INFINITY;
    if (healedAt === Number.POSITIVE_INFINITY) {
      const { calmMs, stuckMs } = story.patience;
      const calm = !world.story.faulty && schedule.now - wholeSince >= calmMs;
      // What waits for time to pass is told by somebody when it has; Galera alone is silent meanwhile.
      const stuck = schedule.now - world.stirredAt >= stuckMs && !world.galera.changing;
      if (calm || stuck) {
        world.story.skip();
        world.stirredAt = schedule.now;
      }
      continue;
    }
    if (schedule.now < healedAt + 300) continue;
    if (missing === null) {
      // The last writes are let through before the rows are counted.
      if (world.writing && schedule.now - wholeSince >= 400) {
        world.writing = false;
        quietSince = schedule.now;
      }
      // Where commits are held, the last writes take as long as that.
      if (schedule.now - Math.max(wholeSince, quietSince) >= 500 && world.galera.idle) {
        healedMs = Math.max(0, wholeSince - healedAt);
        break;
      }
    } else trouble.insist();
    if (schedule.now > healedAt + LIVENESS_MS) {
      watch.violate(
        "liveness",
        `${LIVENESS_MS / 1000} s after healing: ${missing ?? "unsteady"} (${watch.describeAll()})`,
      );
      break;
    }
  }
  if (watch.violations.length === 0) watch.lost(flightMs(story));
  return {
    story,
    violations: watch.violations,
    steps: schedule.ran,
    galeraEvents: world.galera.events,
    simulatedMs: schedule.now,
    acknowledged: watch.acked.length,
    lostInFlight: watch.lostInFlight,
    lostLate: watch.lostLate,
    forced: watch.forced,
    longestOutageMs: watch.longestOutageMs,
    healedMs,
    counts: watch.counts,
    timeline: world.timeline,
  };
}

/** One round trip between the segments at its slowest, and a little for the two within them. */
export function flightMs(story: Story): number {
  return 2 * story.interMs * 1.5 + 10;
}

interface Cut {
  readonly from: number;
  readonly to: number;
  readonly net: "messages" | "galera" | "both";
  readonly oneWay: boolean;
}

/** Carries faults out and mends them; cuts that overlap add up. */
class Trouble {
  readonly #world: World;
  readonly #cuts = new Set<Cut>();
  #healed = false;
  #insistedAt = 0;
  readonly #restarted = new Set<number>();

  constructor(world: World) {
    this.#world = world;
  }

  strike(fault: Fault): void {
    const world = this.#world;
    const { watch, servers, arbiter } = world;
    const [p, q, r] = fault.pick;
    const { forMs } = fault;
    const node = Math.floor(p * servers.length);
    const site = q < 0.5 ? "dc1" : "dc2";
    const later = (undo: () => void) => world.story.after(forMs, undo);
    watch.count(`fault ${fault.kind}`);
    switch (fault.kind) {
      case "cut_sites":
        this.#cut(this.#site("dc1"), this.#site("dc2"), { net: "both", forMs });
        return;
      case "cut_galera":
        this.#cut(this.#site("dc1"), this.#site("dc2"), { net: "galera", forMs });
        return;
      case "cut_messages": {
        const net = "messages";
        if (r < 0.4) this.#cut(this.#site("dc1"), this.#site("dc2"), { net, forMs });
        else this.#cut(this.#site(site), this.#site("third"), { net, forMs });
        return;
      }
      case "one_way": {
        const from = this.#site(site);
        const to = r < 0.6 ? this.#site(site === "dc1" ? "dc2" : "dc1") : this.#site("third");
        const swap = p < 0.5;
        this.#cut(swap ? to : from, swap ? from : to, { net: "both", forMs, oneWay: true });
        return;
      }
      case "isolate_site":
        this.#cut(this.#site(site), ~this.#site(site), { net: "both", forMs });
        return;
      case "isolate_arbitrator":
        this.#cut(this.#site("third"), ~this.#site("third"), { net: "both", forMs });
        return;
      case "isolate_server":
        this.#cut(1 << node, ~(1 << node), { net: r < 0.3 ? "galera" : "both", forMs });
        return;
      case "random_cut": {
        const mask = Math.floor(p * (1 << world.hosts.length));
        const net = r < 0.3 ? "galera" : r < 0.5 ? "messages" : "both";
        this.#cut(mask, ~mask, { net, forMs, oneWay: q < 0.2 });
        return;
      }
      case "flap": {
        const rounds = 2 + Math.floor(p * 5);
        const onMs = 200 + q * 9000;
        const offMs = 100 + r * 5000;
        for (let round = 0; round < rounds; round++)
          world.story.after(round * (onMs + offMs), () => {
            if (!this.#healed)
              this.#cut(this.#site("dc1"), this.#site("dc2"), { net: "both", forMs: onMs });
          });
        return;
      }
      case "kill_mariadbd":
        world.killMariadbd(node, "SIGKILL from outside");
        return;
      case "stop_mariadbd":
        world.stopMariadbd(node);
        return;
      case "hang_mariadbd":
        world.hangMariadbd(node, forMs);
        return;
      case "hold_commits":
        world.holdCommits(node, forMs);
        return;
      case "power_site":
        for (const index of this.#hosts(this.#site(site)))
          if (index < servers.length) world.powerOff(index, forMs + r * 3000 * index);
        return;
      case "power_server":
        world.powerOff(node, forMs);
        return;
      case "power_all":
        for (const server of servers) world.powerOff(server.node, forMs + server.node * r * 5000);
        if (q < 0.5) world.powerOff(arbiter.host.index, forMs + r * 10_000);
        return;
      case "power_arbitrator":
        world.powerOff(arbiter.host.index, forMs);
        return;
      case "suspend_site":
        for (const index of this.#hosts(this.#site(site)))
          if (index < servers.length) world.suspendHost(index, forMs + r * 200 * index);
        return;
      case "suspend_host":
        world.suspendHost(node, forMs);
        return;
      case "suspend_arbitrator":
        world.suspendHost(arbiter.host.index, forMs);
        return;
      case "crash_watchdog":
        world.crashWatchdog(node, r < 0.5 ? 200 + q * 500 : forMs);
        return;
      case "pause_watchdog":
        world.pauseWatchdog(node, forMs);
        return;
      case "crash_arbitrator":
        world.crashArbitrator(r < 0.5 ? 200 + q * 500 : forMs);
        return;
      case "pause_arbitrator":
        world.pauseArbitrator(forMs);
        return;
      case "loss":
        world.lossShare = 0.1 + p * 0.5;
        later(() => {
          world.lossShare = 0;
        });
        return;
      case "slow":
        world.slowMs = 50 + p * 700;
        later(() => {
          world.slowMs = 0;
        });
        return;
      case "repeat":
        world.repeatShare = 0.1 + p * 0.6;
        later(() => {
          world.repeatShare = 0;
        });
        return;
      case "disk_full":
        world.diskFull(q < 0.5 ? null : node, forMs);
        return;
      case "disk_slow": {
        const disk = q < 0.5 ? arbiter.disk : servers[node]?.disk;
        if (disk === undefined) return;
        disk.slowMs = r * 1500;
        later(() => {
          disk.slowMs = 0;
        });
        return;
      }
      case "spoil_store":
        world.spoilStore(p < 0.3 ? "lost" : p < 0.5 ? "torn" : "restored");
        return;
      case "start_behind":
        world.startBehind(node);
        return;
      case "order":
        this.#order(p, q, r);
        return;
      default:
        fault.kind satisfies never;
    }
  }

  /** Everything is well again, and people put right what only they can. */
  heal(): void {
    const world = this.#world;
    this.#healed = true;
    this.#cuts.clear();
    this.#relink("all links healed");
    world.lossShare = 0;
    world.slowMs = 0;
    world.repeatShare = 0;
    world.note("everything is healed");
    for (const server of world.servers) {
      server.disk.full = false;
      server.disk.slowMs = 0;
    }
    world.arbiter.disk.full = false;
    world.arbiter.disk.slowMs = 0;
    for (const host of world.hosts) world.powerOn(host.index);
    world.wakeAll();
    world.arbiter.process === null && world.startArbitrator();
    for (const server of world.servers)
      if (server.process === null) world.startWatchdog(server.node);
  }

  /** After healing a person looks in every ten seconds, and undoes what people ordered. */
  insist(): void {
    const world = this.#world;
    if (world.schedule.now - this.#insistedAt < 10_000) return;
    this.#insistedAt = world.schedule.now;
    const durable = world.arbiter.process?.state.core.durable;
    const from = world.arbiter.host.index;
    const signed = { who: "operator", why: "put right", takeOver: true };
    if (durable === undefined) return;
    // Its report says so: after some starts that failed in a row it waits for somebody to look. Where they
    // fail once more, another start is no help.
    for (const { node, process, config } of world.servers) {
      if ((process?.state.core.failedStarts ?? 0) < FAILED_STARTS_MAX) continue;
      if (!this.#restarted.has(node)) world.crashWatchdog(node, 500);
      else world.order({ verb: "reseed", parameters: { ...signed, node: config.name } }, from);
      this.#restarted.add(node);
    }
    const observing = world.arbiter.process?.state.core.observing ?? null;
    if (observing !== null || durable.paused !== null)
      world.order({ verb: "resume", parameters: { ...signed, rearm: observing !== null } }, from);
    const core = world.arbiter.process?.state.core;
    const holds = [...(core?.verdicts.values() ?? [])].map((verdict) => verdict.rule);
    // And whoever has lost what is missing has to be told so.
    const left = world.servers.find(({ config: { id } }) => core?.heard.get(id)?.report.position);
    if (holds.includes("outage.behind") && left !== undefined) {
      const word = { allowDataLoss: true, force: true, acceptedLoss: null };
      const { segment } = left.config;
      world.order({ verb: "make_primary", parameters: { ...signed, segment, ...word } }, from);
    }
    for (const server of world.servers) {
      const { id, name } = server.config;
      const report = core?.heard.get(id)?.report;
      // As the verdict says: whoever has no data left is not waited for.
      if (holds.includes("outage.position") && report?.running === "down")
        if (report.position === null && !durable.retired.includes(id))
          world.order({ verb: "retire", parameters: { ...signed, node: name } }, from);
      if (durable.draining.includes(id))
        world.order({ verb: "undrain", parameters: { ...signed, node: name } }, from);
      // Who forces a side restores the others once it serves.
      if (durable.retired.includes(id) && !holds.includes("outage.behind"))
        world.order({ verb: "restore", parameters: { ...signed, node: name } }, from);
    }
  }

  #order(p: number, q: number, r: number): void {
    const world = this.#world;
    const { servers } = world;
    const signed = { who: "somebody", why: "at a bad moment", takeOver: true };
    const node = servers[Math.floor(q * servers.length)]?.config.name ?? "a1";
    const from = Math.floor(r * world.hosts.length);
    if (p < 0.15) world.order({ verb: "pause", parameters: signed }, from);
    else if (p < 0.35)
      world.order({ verb: "resume", parameters: { ...signed, rearm: q < 0.3 } }, from);
    else if (p < 0.5) world.order({ verb: "retire", parameters: { ...signed, node } }, from);
    else if (p < 0.6) world.order({ verb: "restore", parameters: { ...signed, node } }, from);
    else if (p < 0.68) world.order({ verb: "drain", parameters: { ...signed, node } }, from);
    else if (p < 0.7) world.order({ verb: "reseed", parameters: { ...signed, node } }, from);
    else if (p < 0.78) {
      const segment = q < 0.1 ? null : q < 0.55 ? "dc1" : "dc2";
      world.order({ verb: "switchover", parameters: { ...signed, segment } }, from);
    } else {
      const segment = q < 0.5 ? "dc1" : "dc2";
      const allowDataLoss = p > 0.95;
      const word = { force: allowDataLoss, acceptedLoss: null };
      const parameters = { ...signed, segment, allowDataLoss, ...word };
      world.order({ verb: "make_primary", parameters }, from);
    }
  }

  #site(name: string): number {
    let mask = 0;
    for (const host of this.#world.hosts) if (host.site === name) mask |= 1 << host.index;
    return mask;
  }

  #hosts(mask: number): number[] {
    return this.#world.hosts.map((host) => host.index).filter((index) => mask & (1 << index));
  }

  #cut(
    from: number,
    to: number,
    how: { readonly net: Cut["net"]; readonly forMs: number; readonly oneWay?: boolean },
  ): void {
    const cut: Cut = { from, to, net: how.net, oneWay: how.oneWay === true };
    this.#cuts.add(cut);
    const names = (mask: number) =>
      this.#hosts(mask)
        .map((index) => this.#world.hosts[index]?.name)
        .join(",");
    const what = `{${names(from)}} ${cut.oneWay ? "->" : "--"} {${names(to)}} (${cut.net})`;
    this.#relink(`cut ${what} for ${Math.round(how.forMs)} ms`);
    this.#world.story.after(how.forMs, () => {
      if (this.#cuts.delete(cut)) this.#relink(`mended ${what}`);
    });
  }

  #relink(what: string): void {
    const world = this.#world;
    const count = world.hosts.length;
    for (let a = 0; a < count; a++)
      for (let b = 0; b < count; b++) {
        if (a === b) continue;
        let messages = true;
        let galera = true;
        for (const cut of this.#cuts) {
          const forth = (cut.from & (1 << a)) !== 0 && (cut.to & (1 << b)) !== 0;
          const back = (cut.to & (1 << a)) !== 0 && (cut.from & (1 << b)) !== 0;
          if (!forth && !(back && !cut.oneWay)) continue;
          if (cut.net !== "galera") messages = false;
          if (cut.net !== "messages") galera = false;
        }
        world.setLink(a, b, messages, "messages");
        world.setLink(a, b, galera, "galera");
      }
    world.relinked(what);
  }
}

/** Makes a failing story shorter for as long as it still fails with the same kind of violation. */
export function shrink(story: Story, id: string, maxRuns: number): { story: Story; runs: number } {
  let best = story;
  let runs = 0;
  const fails = (candidate: Story): boolean => {
    runs++;
    return run(candidate, { record: false }).violations.some((violation) => violation.id === id);
  };
  let smaller = true;
  while (smaller && runs < maxRuns) {
    smaller = false;
    for (let index = best.faults.length - 1; index >= 0 && runs < maxRuns; index--) {
      const faults = best.faults.filter((_, at) => at !== index);
      if (!fails({ ...best, faults })) continue;
      best = { ...best, faults };
      smaller = true;
    }
    for (const calmer of CALMER) {
      if (runs >= maxRuns) break;
      const candidate = calmer(best);
      if (candidate === null || !fails(candidate)) continue;
      best = candidate;
      smaller = true;
    }
  }
  return { story: best, runs };
}

/** Ways to make a story plainer; null where it is that plain already. */
const CALMER: readonly ((story: Story) => Story | null)[] = [
  (story) => (story.writeEveryMs < 400 ? { ...story, writeEveryMs: 400 } : null),
  ...(
    [
      "bootstrapErrorChance",
      "bootstrapLieChance",
      "killLeakChance",
      "gcacheMissChance",
      "istRefusedChance",
    ] as const
  ).map(
    (key) =>
      (story: Story): Story | null =>
        (story.galera[key] ?? 0) > 0 ? { ...story, galera: { ...story.galera, [key]: 0 } } : null,
  ),
  (story) =>
    (story.galera.applyLagMs?.[1] ?? 0) > 0
      ? { ...story, galera: { ...story.galera, applyLagMs: [0, 0] } }
      : null,
  (story) =>
    story.galera.joinerSaysPrimary === true
      ? { ...story, galera: { ...story.galera, joinerSaysPrimary: false } }
      : null,
  (story) =>
    story.galera.evictedIgnored === true
      ? { ...story, galera: { ...story.galera, evictedIgnored: false } }
      : null,
];
