/**
 * What a decision costs: a report comes in, an ack or an order goes out.
 *
 *   bun scripts/bench_decide.ts [rounds, default 10000]
 *
 * For clusters of 2+2 to 32+32 servers it measures the arbitrator's core with its mail: a report of a
 * server in calm until its ack, and the report that completes a component until the order to promote
 * it. Prints median and 99th percentile, and what the first order of this process took, before the engine
 * has compiled anything; exit 1 if the median of either is 50 µs or more for 2+2, or grows faster than the
 * number of servers.
 */
import { type ClusterConfig, parseClusterConfig } from "../lib/cluster_config.ts";
import { type ArbitratorStart, arbitratorCore } from "../lib/core/arbitrator.ts";
import {
  type ArbitratorEffect,
  type ArbitratorEvent,
  type ArbitratorState,
  newDurable,
} from "../lib/core/arbitrator_state.ts";
import {
  type MailEffect,
  type MailEvent,
  type MailroomState,
  mailroom,
} from "../lib/correspondent.ts";
import type { Member, Report } from "../lib/message/dbserver.ts";
import { WIRE_VERSION } from "../lib/message/envelope.ts";
import type { Message } from "../lib/message/mod.ts";
import { fingerprint, groupOf } from "../lib/wsrep_status.ts";

const SIZES = [2, 4, 8, 16, 32];
/** Rounds before those that count: the engine compiles what runs often, in steps, and a watch runs for months. */
const WARM_UP = 3000;
const TARGET_US = 50;
/** A doubling of the servers may cost this much more than double: timers and caches are not exact. */
const SLACK = 1.5;
const ARBITRATOR = "arbitrator.1";
const STATE_UUID = "11111111-2222-3333-4444-555555555555";

type Event = MailEvent<ArbitratorEvent>;
type Effect = MailEffect<ArbitratorEffect>;

/** An arbitrator whose store writes at once. */
class Bench {
  readonly config: ClusterConfig;
  readonly #room: ReturnType<typeof roomOf>["room"];
  state: MailroomState<ArbitratorState>;
  now = 0;
  readonly #seq = new Map<string, number>();
  #ticket = 0;

  constructor(perSegment: number) {
    this.config = configOf(perSegment);
    const { room, initial } = roomOf(this.config);
    this.#room = room;
    this.state = initial;
    this.give({ on: "wakeup" });
    this.now += this.config.outwaitMs + 1;
  }

  /** One event, and the store's answers; the effects in their order. */
  give(event: Event): readonly Effect[] {
    const { state, effects } = this.#room.step(this.state, event, this.now);
    this.state = state;
    const all = [...effects];
    for (const effect of effects) {
      if (effect.do !== "write") continue;
      all.push(...this.give({ on: "written", revision: effect.revision, error: null }));
    }
    return all;
  }

  arrival(report: Report, id: Message["sender"]): Event {
    const seq = (this.#seq.get(id) ?? 0) + 1;
    this.#seq.set(id, seq);
    const message = {
      v: WIRE_VERSION,
      sender: id,
      receiver: ARBITRATOR,
      session: "server",
      seq,
      toSession: "bench",
      configVersion: 1,
      verb: "db_status_report",
      parameters: report,
    } as Message;
    return { on: "arrived", message, httpTicket: ++this.#ticket };
  }
}

function roomOf(config: ClusterConfig) {
  const start: ArbitratorStart = {
    config,
    self: ARBITRATOR,
    durable: newDurable(config, "store"),
    observing: null,
  };
  const core = arbitratorCore(start);
  const room = mailroom<ArbitratorState, ArbitratorEvent, ArbitratorEffect>({
    self: ARBITRATOR,
    config,
    session: "bench",
    core,
  });
  return { room, initial: room.initial(core.initial(0)) };
}

function configOf(perSegment: number): ClusterConfig {
  const servers = ["dc1", "dc2"].flatMap((segment, s) =>
    Array.from({ length: perSegment }, (_, n) => ({
      serial: s * perSegment + n + 1,
      name: `${segment}-${n + 1}`,
      segment,
      host: `10.${s}.0.${n + 1}`,
    })),
  );
  const cluster = { name: "bench", primary_segment: "dc1" };
  const arbitrator = [{ serial: 1, host: "10.9.0.1" }];
  return parseClusterConfig({ version: 1, cluster, arbitrator, dbserver: servers }, "bench");
}

function uuidOf(serial: number): string {
  return `${serial.toString(16).padStart(8, "0")}-0000-0000-0000-000000000000`;
}

/** What a server says in the complete view, or in its own segment's non-Primary one. */
function reportOf(
  config: ClusterConfig,
  server: ClusterConfig["servers"][number],
  at: { readonly number: number; readonly cut: boolean },
): Report {
  const memberOf = (one: typeof server): Member => ({ uuid: uuidOf(one.serial), name: one.name });
  const all = config.servers.map(memberOf);
  const own = config.servers.filter((one) => one.segment === server.segment).map(memberOf);
  const members = at.cut ? own : all;
  return {
    reportNumber: at.number,
    url: `http://${server.host}:${server.port}`,
    running: "up",
    serving: at.cut ? "off" : "on",
    primary: at.cut ? "no" : "yes",
    group: groupOf(config, server.segment, members),
    fingerprint: fingerprint(STATE_UUID, !at.cut, members),
    members,
    stateUuid: STATE_UUID,
    lastCommitted: at.cut ? 1_000_000 : 1000 + at.number,
    localState: at.cut ? "Initialized" : "Synced",
    evsState: "OPERATIONAL",
    weight: 1,
    flowControl: 0,
    fenced: at.cut,
    draining: false,
    yielding: false,
    cutting: false,
    leaving: false,
    position: null,
    safeToBootstrap: false,
    storeId: "store",
    epochSeen: 0,
    epochServed: 0,
    lastPrimary: { fingerprint: fingerprint(STATE_UUID, true, all) ?? "", synced: true },
    primarySegment: "dc1",
    probe: at.cut ? "off" : "flowing",
    gcommUuid: uuidOf(server.serial),
    ended: null,
    silent: [],
    writers: 0,
    guard: false,
    diverged: false,
    pollAgeMs: 1,
    versions: { server: "10.11.19", provider: "26.4.23", minder: "bench" },
    because: "",
  };
}

interface Measured {
  readonly ack: readonly number[];
  readonly order: readonly number[];
  /** The very first order, warm-up or not. */
  readonly firstOrder: number;
}

/** Microseconds of each step that ended in the wanted effect. @throws Error if one did not */
function measure(perSegment: number, rounds: number): Measured {
  const bench = new Bench(perSegment);
  const { config } = bench;
  const ack: number[] = [];
  const order: number[] = [];
  let firstOrder = Number.NaN;
  let number = 0;
  for (let round = 0; round < rounds + WARM_UP; round++) {
    const server = config.servers[round % config.servers.length];
    if (server === undefined) throw new Error("a cluster has servers");
    bench.now += config.timing.reportIntervalMs / config.servers.length;
    const event = bench.arrival(
      reportOf(config, server, { number: ++number, cut: false }),
      server.id,
    );
    const startedAt = Bun.nanoseconds();
    const effects = bench.give(event);
    const tookUs = (Bun.nanoseconds() - startedAt) / 1000;
    if (!effects.some((effect) => effect.do === "respond" && effect.status === 200))
      throw new Error("a report was not acknowledged");
    if (round >= WARM_UP) ack.push(tookUs);
  }
  // The link is cut: each round ends with the last report of dc1, by which its weight is all there.
  const calm = bench.state;
  const needed = perSegment;
  for (let round = 0; round < rounds / 2 + WARM_UP; round++) {
    bench.state = calm;
    for (const [index, server] of config.servers.slice(0, needed).entries()) {
      const event = bench.arrival(
        reportOf(config, server, { number: ++number, cut: true }),
        server.id,
      );
      const startedAt = Bun.nanoseconds();
      const effects = bench.give(event);
      const tookUs = (Bun.nanoseconds() - startedAt) / 1000;
      if (index < needed - 1) continue;
      const ordered = effects.some(
        (effect) => effect.do === "post" && effect.message.verb === "make_primary",
      );
      if (!ordered)
        throw new Error(`no order went out: ${JSON.stringify(bench.state.core.decisions[0])}`);
      if (round === 0) firstOrder = tookUs;
      if (round >= WARM_UP) order.push(tookUs);
    }
  }
  return { ack, order, firstOrder };
}

function share(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

function main(): number {
  const rounds = Number(process.argv[2] ?? 10_000);
  if (!Number.isSafeInteger(rounds) || rounds < 10 || rounds > 100_000) {
    console.error("error: the number of rounds is 10 to 100000");
    return 2;
  }
  console.log("µs from a report in, by kind of what goes out, store excluded");
  console.log("servers   ack median    p99   order median    p99");
  let first: readonly [number, number] | null = null;
  let cold = Number.NaN;
  let ok = true;
  for (const perSegment of SIZES) {
    const { ack, order, firstOrder } = measure(perSegment, rounds);
    const medians = [share(ack, 0.5), share(order, 0.5)] as const;
    const cells = [medians[0], share(ack, 0.99), medians[1], share(order, 0.99)].map((us) =>
      us.toFixed(1).padStart(7),
    );
    console.log(
      `${`${perSegment}+${perSegment}`.padEnd(7)} ${cells[0]?.padStart(12)} ${cells[1]} ${cells[2]?.padStart(14)} ${cells[3]}`,
    );
    if (first === null) {
      ok = Math.max(...medians) < TARGET_US;
      cold = firstOrder;
      first = medians;
    }
    const growth = (perSegment / (SIZES[0] ?? 1)) * SLACK;
    if (medians[0] > first[0] * growth || medians[1] > first[1] * growth) ok = false;
  }
  console.log(`the first order of this process, for 2+2: ${cold.toFixed(0)} µs`);
  console.log(ok ? `ok: under ${TARGET_US} µs for 2+2, no worse than linear` : "too slow");
  return ok ? 0 : 1;
}

if (import.meta.main) process.exitCode = main();
