/**
 * What a balancer is to a client minder, and the level-triggered reconciler over it: read the actual
 * table, apply only what differs, cut, read back. No reply means unknown, never failed: only what is
 * read back counts. One pass runs at a time, and only the newest wish waits behind it.
 *
 * A further balancer is a file that makes a `Balancer`, and a line in DRIVERS (balancers.ts).
 */
import type { ClusterConfig } from "../cluster_config.ts";
import type { Millis } from "../core/core.ts";
import type { Applied } from "../core/dbclient.ts";
import type { Place, Placed, Target } from "../core/dbclient_policy.ts";
import { describeError } from "../errors.ts";

/** One server as the balancer shows it now. */
export interface TableServer {
  readonly name: string;
  /** In the words of `Balancer.word`; any other text where no place of ours is meant. */
  readonly word: string;
  /** Present connections; null where the balancer cannot say. */
  readonly sessions: number | null;
  /** A person took it out of service at the balancer: it is left alone. */
  readonly held: boolean;
}

export interface Table {
  /** Changes whenever the balancer is started or reloaded; null where it does not tell. */
  readonly instance: string | null;
  readonly servers: readonly TableServer[];
  /** What is odd about the table, in words: entries that the config does not know, wrong addresses. */
  readonly oddities: readonly string[];
  /** Entries that the config does not know and that take connections: they are put out of use. */
  readonly strays: readonly Placed[];
}

/** A balancer's control. Every method gives up when `signal` aborts, and may be called again then. */
export interface Balancer {
  /** Kind and address, for people. */
  readonly description: string;
  /** A place as this balancer can tell it: two places of one word are the same to it. */
  word(place: Place): string;
  read(target: Target, signal: AbortSignal): Promise<Table>;
  /** Puts each server in its place, in the given order. Answers with complaints, null if none. */
  apply(places: readonly Placed[], table: Table, signal: AbortSignal): Promise<string | null>;
  /** Ends the present connections to these servers; null where this balancer cannot. */
  readonly cut: ((servers: readonly Placed[], signal: AbortSignal) => Promise<void>) | null;
}

export interface ReconcilerOptions {
  readonly balancer: Balancer;
  /** Hard limit of one pass. */
  readonly passTimeoutMs: Millis;
  /** Monotonic clock. */
  readonly now: () => Millis;
  /** Called after every pass. */
  readonly onApplied: (result: Applied) => void;
}

export interface Reconciler {
  /** Make it so: starts a pass, or follows the present one. Replaces a wish that still waits. */
  want(target: Target, cut: readonly string[]): void;
  /** Takes no more wishes and waits for the present pass, which is bounded. */
  stop(): Promise<void>;
}

/**
 * The only server that the balancer gives connections now; null if there are none or several, or
 * if it cannot be asked: then nothing is known of a present writer.
 */
export async function onlyServing(
  balancer: Balancer,
  config: ClusterConfig,
  timeoutMs: Millis,
): Promise<string | null> {
  const all = config.servers.map(({ name, host, mysqlPort }): Placed => {
    return { name, host, port: mysqlPort, place: { as: "out" }, because: "" };
  });
  try {
    const { servers } = await balancer.read(all, AbortSignal.timeout(timeoutMs));
    const up = servers.filter(({ word }) => /^up( [1-9]\d*)?$/.test(word));
    return up.length === 1 ? (up[0]?.name ?? null) : null;
  } catch {
    // The first pass says what is wrong with it.
    return null;
  }
}

/** What the balancer was last seen to be, by name; empty where that is not known for sure. */
interface Memory {
  instance: string | null;
  words: ReadonlyMap<string, string>;
  /** The whole of it, as it was read. */
  table: Table | null;
  held: ReadonlySet<string>;
}

interface Wish {
  readonly target: Target;
  readonly cut: readonly string[];
}

/** Applied a second time if the first did not take; then somebody else is writing. */
const ROUNDS_MAX = 2;
/** Cut sessions close within a turn of the balancer's loop; so often it is looked again. */
const CUT_LOOKS_MAX = 5;
const CUT_LOOK_MS = 5;

/** Starts the one writer of a balancer's table. */
export function startReconciler(options: ReconcilerOptions): Reconciler {
  const memory: Memory = { instance: null, words: new Map(), table: null, held: new Set() };
  let waiting: Wish | null = null;
  let running: Promise<void> | null = null;
  let stopped = false;

  async function runAll(): Promise<void> {
    while (waiting !== null) {
      const wish: Wish = waiting;
      waiting = null;
      options.onApplied(await runPass(options, memory, wish));
    }
  }

  return {
    want(target, cut) {
      if (stopped) return;
      waiting = { target, cut };
      running ??= runAll().finally(() => {
        running = null;
      });
    },
    async stop() {
      stopped = true;
      waiting = null;
      await running;
    },
  };
}

async function runPass(
  { balancer, passTimeoutMs, now }: ReconcilerOptions,
  memory: Memory,
  wish: Wish,
): Promise<Applied> {
  const startedAt = now();
  const pass = new Pass(balancer, memory, wish, AbortSignal.timeout(passTimeoutMs));
  let error: string | null;
  try {
    error = await pass.run();
  } catch (thrown) {
    error = `${balancer.description}: ${describeError(thrown)}`;
    // A command without a reply may have been obeyed: whatever is found next is nobody's edit.
    memory.words = new Map();
  }
  return { ...pass.outcome(), error, tookMs: now() - startedAt };
}

/** One pass over the balancer. */
class Pass {
  readonly #balancer: Balancer;
  readonly #memory: Memory;
  readonly #wish: Wish;
  readonly #signal: AbortSignal;
  readonly #changed: string[] = [];
  readonly #foreign: string[] = [];
  readonly #odd: string[] = [];
  /** Servers opened before the table was read, with the words that they are to have. */
  readonly #opened = new Map<string, string>();
  /** Servers that keep their connections for now: nothing else would take any. */
  #kept: readonly string[] = [];
  /** Servers that a person has just given back: their place is decided anew before it is put right. */
  readonly #released = new Set<string>();
  #restarted = false;
  #table: Table | null = null;

  constructor(balancer: Balancer, memory: Memory, wish: Wish, signal: AbortSignal) {
    this.#balancer = balancer;
    this.#memory = memory;
    this.#wish = wish;
    this.#signal = signal;
  }

  /** Null if the table is right in the end, else what is wrong with it. */
  async run(): Promise<string | null> {
    await this.#openAtOnce();
    let table = await this.#read();
    this.#compareWithMemory(table);
    let wrong = this.#wrong(table);
    let complaint: string | null = null;
    // What moved away in this very pass may have got a connection after it was counted.
    const moved = new Set(wrong.map(({ name }) => name));
    for (let round = 0, rounds = ROUNDS_MAX; round < rounds && wrong.length > 0; round++) {
      const due = this.#withoutLast(wrong, table);
      if (due.length === 0) break;
      // Who waits for others gets as many rounds as where nobody waits.
      if (round === 0 && due.length < wrong.length) rounds++;
      const shown = new Map(table.servers.map(({ name, word }) => [name, word]));
      complaint = await this.#balancer.apply(this.#inOrder(due, shown), table, this.#signal);
      table = await this.#read();
      const still = this.#wrong(table);
      for (const { name, place } of due) {
        if (still.some((other) => other.name === name)) continue;
        this.#changed.push(
          `${name}: ${shown.get(name) ?? "absent"} -> ${this.#balancer.word(place)}`,
        );
      }
      wrong = still;
    }
    const uncut = await this.#cut(table, moved);
    this.#remember();
    return this.#verdict(wrong, complaint, uncut);
  }

  /**
   * Opens servers that were out when the table was last read, without reading it again before: half of
   * the time in which nobody can write may go by with that. Only those: where a person could have
   * changed something meanwhile, it is read first.
   */
  async #openAtOnce(): Promise<void> {
    const { words, table } = this.#memory;
    const out = this.#balancer.word({ as: "out" });
    const opened = this.#wish.target.filter(
      ({ name, place }) => place.as === "up" && words.get(name) === out,
    );
    if (table === null || opened.length === 0) return;
    await this.#balancer.apply(opened, table, this.#signal);
    for (const { name, place } of opened) this.#opened.set(name, this.#balancer.word(place));
  }

  /** What is known at the end, or was when the pass broke off. */
  outcome(): Omit<Applied, "error" | "tookMs"> {
    const shown = new Map(this.#table?.servers.map((server) => [server.name, server]));
    return {
      actual: this.#wish.target.map(({ name }) => ({
        name,
        place: shown.get(name)?.word ?? null,
        sessions: shown.get(name)?.sessions ?? null,
      })),
      changed: this.#changed,
      foreign: this.#foreign,
      held: (this.#table?.servers ?? []).filter(({ held }) => held).map(({ name }) => name),
      oddities: [...(this.#table?.oddities ?? []), ...this.#odd],
      restarted: this.#restarted,
    };
  }

  async #read(): Promise<Table> {
    const table = await this.#balancer.read(this.#wish.target, this.#signal);
    this.#table = table;
    return table;
  }

  #compareWithMemory(table: Table): void {
    const memory = this.#memory;
    if (memory.instance !== null && table.instance !== null) {
      this.#restarted = memory.instance !== table.instance;
    }
    memory.instance = table.instance;
    if (this.#restarted) return;
    const shown = new Map(table.servers.map(({ name, word }) => [name, word]));
    const held = new Set(table.servers.filter((one) => one.held).map(({ name }) => name));
    for (const [name, word] of memory.words) {
      const found = shown.get(name) ?? "absent";
      if (memory.held.has(name) && !held.has(name)) this.#released.add(name);
      const opened = this.#opened.get(name);
      if (opened === undefined) {
        if (found !== word) this.#foreign.push(`${name}: ${word} -> ${found}`);
      } else if (found === opened) this.#changed.push(`${name}: ${word} -> ${found}`);
    }
  }

  #remember(): void {
    const servers = this.#table?.servers ?? [];
    this.#memory.words = new Map(servers.map(({ name, word }) => [name, word]));
    this.#memory.table = this.#table;
    this.#memory.held = new Set(servers.filter(({ held }) => held).map(({ name }) => name));
  }

  /** The servers that are not in their place, but those a person holds. */
  #wrong(table: Table): readonly Placed[] {
    const shown = new Map(table.servers.map((server) => [server.name, server]));
    const misplaced = this.#wish.target.filter(({ name, place }) => {
      const server = shown.get(name);
      if (server?.held === true || this.#released.has(name)) return false;
      return server?.word !== this.#balancer.word(place);
    });
    return [...misplaced, ...table.strays];
  }

  /**
   * What can be put right now: a server is drained only while one of those that are to take its
   * connections is seen to take some. A raise can be refused, or be of a server that the balancer does
   * not have; a server that is bad goes out all the same.
   */
  #withoutLast(wrong: readonly Placed[], table: Table): readonly Placed[] {
    const shown = new Map(table.servers.map((server) => [server.name, server]));
    const successors = this.#wish.target.filter(({ place }) => place.as === "up");
    const takesSome = ({ name }: Placed): boolean => {
      const server = shown.get(name);
      return server?.held === false && /^up(?! 0(\.0*)?$)/.test(server.word);
    };
    const last = successors.length > 0 && !successors.some(takesSome);
    const kept = wrong.filter((one) => last && one.place.as === "drain" && takesSome(one));
    this.#kept = kept.map(({ name }) => name);
    return wrong.filter((one) => !kept.includes(one));
  }

  /** Raises first: in between, the table must never offer nothing. */
  #inOrder(wrong: readonly Placed[], shown: ReadonlyMap<string, string>): readonly Placed[] {
    const rank = ({ name, place }: Placed): number => {
      if (place.as === "out") return 3;
      if (place.as === "drain") return 2;
      const before = /^up (\d+)$/.exec(shown.get(name) ?? "")?.[1];
      return before !== undefined && Number(before) > place.weight ? 1 : 0;
    };
    return [...wrong].sort((a, b) => rank(a) - rank(b));
  }

  /** Cuts what is to be cut and looks again. Answers with who still has sessions. */
  async #cut(table: Table, moved: ReadonlySet<string>): Promise<readonly string[]> {
    const cuts = this.#wish.cut.filter((name) => !this.#kept.includes(name));
    const busy = (from: Table): readonly Placed[] =>
      this.#wish.target.filter(
        ({ name }) =>
          cuts.includes(name) &&
          from.servers.some((one) => one.name === name && (one.sessions ?? 0) > 0),
      );
    if (this.#balancer.cut === null) {
      // The server's own fence ends them, and a drain's deadline passes without effect: that is said.
      const open = busy(table).map(({ name }) => name);
      if (open.length > 0) this.#odd.push(`it cannot end the sessions to ${open.join(", ")}`);
      return [];
    }
    const first = this.#wish.target.filter(({ name }) => cuts.includes(name) && moved.has(name));
    let left: readonly Placed[] = [...new Set([...busy(table), ...first])].filter(({ name }) =>
      table.servers.some((one) => one.name === name),
    );
    for (let look = 0; look < CUT_LOOKS_MAX && left.length > 0; look++) {
      if (look > 0) await Bun.sleep(CUT_LOOK_MS);
      const before = new Map(table.servers.map(({ name, sessions }) => [name, sessions]));
      await this.#balancer.cut(left, this.#signal);
      const cutNow = left;
      left = busy(await this.#read());
      for (const one of cutNow) {
        if (left.includes(one) || (before.get(one.name) ?? 0) === 0) continue;
        this.#changed.push(`${one.name}: ${before.get(one.name)} sessions cut`);
      }
    }
    return left.map(({ name }) => name);
  }

  #verdict(
    wrong: readonly Placed[],
    complaint: string | null,
    uncut: readonly string[],
  ): string | null {
    const shown = new Map(this.#table?.servers.map(({ name, word }) => [name, word]));
    const parts = wrong.map(({ name, place }) => {
      const found = shown.get(name);
      if (found === undefined) return `${name} is not in its table`;
      return `${name} is ${found} though ${this.#balancer.word(place)} was asked for`;
    });
    if (wrong.length > 0 && complaint !== null) parts.push(complaint);
    if (this.#kept.length > 0) parts.push("nothing else would take connections");
    if (uncut.length > 0) parts.push(`sessions remain open to ${uncut.join(", ")}`);
    return parts.length === 0 ? null : `${this.#balancer.description}: ${parts.join("; ")}`;
  }
}
