/**
 * One story, two beds: the simulator's model of Galera, and real mariadbd without watchdogs. A bed does
 * what it is told and says how the cluster stands, in the same words, so that both can be compared.
 *
 * How it stands: by server `P4` (Primary of 4), `N2` (not Primary), `C` (provider closed), `-` (no answer),
 * with `u2` if it cannot name two of them, `f` if client statements are refused, a small letter unless
 * Synced; then what became of the writes handed in, and which of them each server's tables hold.
 */
import { existsSync } from "node:fs";
import {
  readPosition,
  removeGrastate,
  removeGvwstate,
  setSafeToBootstrap,
} from "../../lib/effects/datadir.ts";
import { until } from "../../lib/lab/exec.ts";
import { type Lab, openLab } from "../../lib/lab/lab.ts";
import { connectTo, type DirectServer } from "../../lib/lab/mariadb.ts";
import { UNSPECIFIED } from "../../lib/wsrep_status.ts";
import { Galera, type GaleraOptions, type Proc } from "../sim/galera.ts";
import { Random } from "../sim/random.ts";
import { writesOf } from "../sim/rows.ts";
import { Schedule } from "../sim/schedule.ts";

export const SERVERS = ["dc1-1", "dc1-2", "dc2-1", "dc2-2"] as const;
export type Name = (typeof SERVERS)[number];

/** Galera's timers so that a cut is noticed in 3 to 4.6 s instead of 5 to 8. */
export const TUNED =
  "evs.keepalive_period=PT0.5S;evs.inactive_check_period=PT0.25S;evs.suspect_timeout=PT2S;" +
  "evs.inactive_timeout=PT4S;evs.install_timeout=PT4S;gmcast.peer_timeout=PT1S;gmcast.time_wait=PT1S";

const TUNED_MODEL: Partial<GaleraOptions> = {
  suspectMs: [2700, 3600],
  slowSuspectChance: 0.2,
  slowSuspectMs: 4600,
  mergeMs: [800, 2000],
};

export type Outcome = "hanging" | "ok" | "refused" | "unknown";

export interface StartHow {
  /** Leave gvwstate.dat where it is. @default false */
  readonly keepView?: boolean;
  /** `--wsrep-new-cluster`, allowed by grastate.dat. @default false */
  readonly newCluster?: boolean;
}

export interface Bed {
  cut(
    from: readonly Name[],
    to: readonly Name[],
    how?: { readonly oneWay?: boolean },
  ): Promise<void>;
  heal(): Promise<void>;
  /** SIGKILL, all at once. */
  kill(names: readonly Name[]): Promise<void>;
  /** Clean stop, one after another. */
  stop(names: readonly Name[]): Promise<void>;
  start(names: readonly Name[], how?: StartHow): Promise<void>;
  hang(name: Name): Promise<void>;
  resume(name: Name): Promise<void>;
  /** `pc.bootstrap=YES`; what the statement said. */
  bootstrap(name: Name): Promise<"ok" | "error">;
  /** `evs.evict` of each of `who` on each of `on`. */
  evict(on: readonly Name[], who: readonly Name[]): Promise<void>;
  clearEvictions(on: readonly Name[]): Promise<void>;
  weight(name: Name, weight: number): Promise<"ok" | "error">;
  /** `wsrep_reject_queries`. */
  fence(name: Name, on: boolean): Promise<void>;
  /** Hands in a write; its end shows in the words. */
  write(name: Name, id: number): Promise<void>;
  /** Time of the story. */
  wait(ms: number): Promise<void>;
  /** Where things stand now. */
  words(): Promise<string>;
}

// ---- the model -----------------------------------------------------------------------------

export class ModelBed implements Bed {
  readonly #schedule = new Schedule();
  readonly #galera: Galera;
  readonly #uuids = new Map<Name, string>();
  readonly #writes = new Map<number, Outcome>();

  constructor(seed = 1) {
    this.#galera = new Galera(this.#schedule, new Random(seed), {
      specs: SERVERS.map((name) => ({ name, segment: name.slice(0, 3), weight: 1 })),
      options: { ...TUNED_MODEL, interMs: 0.3 },
    });
    this.#galera.genesis(
      SERVERS.map((_, node) => node),
      { fenced: false },
    );
    this.#run(1000);
  }

  cut(from: readonly Name[], to: readonly Name[], how: { readonly oneWay?: boolean } = {}) {
    for (const a of from)
      for (const b of to) {
        if (a === b) continue;
        this.#galera.setLink(nodeOf(a), nodeOf(b), false);
        if (how.oneWay !== true) this.#galera.setLink(nodeOf(b), nodeOf(a), false);
      }
    this.#galera.relink();
    return this.#pass(10);
  }

  heal() {
    for (const a of SERVERS)
      for (const b of SERVERS) if (a !== b) this.#galera.setLink(nodeOf(a), nodeOf(b), true);
    this.#galera.relink();
    return this.#pass(10);
  }

  kill(names: readonly Name[]) {
    for (const name of names) this.#galera.kill(nodeOf(name), "SIGKILL");
    return this.#pass(10);
  }

  async stop(names: readonly Name[]) {
    for (const name of names) {
      this.#galera.stop(nodeOf(name), 20_000);
      await this.#pass(4000);
    }
  }

  async start(names: readonly Name[], how: StartHow = {}) {
    for (const name of names) {
      const found = this.#galera.recover(nodeOf(name));
      this.#galera.start(nodeOf(name), {
        mode: how.newCluster === true ? "bootstrap" : "join",
        position: found?.position ?? null,
        fenced: false,
        keepGvwstate: how.keepView === true,
      });
    }
    await this.#pass(10);
  }

  hang(name: Name) {
    this.#galera.hang(nodeOf(name));
    return this.#pass(10);
  }

  resume(name: Name) {
    this.#galera.resume(nodeOf(name));
    return this.#pass(10);
  }

  bootstrap(name: Name) {
    const error = this.#galera.bootstrap(nodeOf(name));
    return Promise.resolve(error === null ? ("ok" as const) : ("error" as const));
  }

  evict(on: readonly Name[], who: readonly Name[]) {
    const uuids = who.map((name) => this.#uuids.get(name) ?? "");
    for (const name of on) this.#galera.evict(nodeOf(name), uuids);
    return this.#pass(10);
  }

  clearEvictions(on: readonly Name[]) {
    for (const name of on) this.#galera.evict(nodeOf(name), []);
    return this.#pass(10);
  }

  weight(name: Name, weight: number) {
    const error = this.#galera.setWeight(nodeOf(name), weight);
    return Promise.resolve(error === null ? ("ok" as const) : ("error" as const));
  }

  fence(name: Name, on: boolean) {
    this.#galera.fence(nodeOf(name), on);
    return this.#pass(10);
  }

  write(name: Name, id: number) {
    this.#writes.set(id, "hanging");
    this.#galera.write(nodeOf(name), id, (outcome) => this.#writes.set(id, outcome));
    return this.#pass(10);
  }

  wait(ms: number) {
    return this.#pass(ms);
  }

  words() {
    const servers = SERVERS.map((name): Seen => {
      const node = nodeOf(name);
      const status = this.#galera.status(node);
      const proc = this.#galera.procs[node] ?? null;
      return {
        name,
        status:
          status === null
            ? null
            : {
                primary: status.primary,
                connected: status.connected,
                size: status.members.length,
                unnamed: status.members.filter(({ name: called }) => called === UNSPECIFIED).length,
                synced: status.localState === "Synced",
                fenced: status.rejecting,
              },
        rows: status?.connected === true ? rowsOf(proc) : null,
      };
    });
    return Promise.resolve(wordsOf(servers, this.#writes));
  }

  #pass(ms: number): Promise<void> {
    this.#run(ms);
    return Promise.resolve();
  }

  #run(ms: number): void {
    this.#schedule.runUntil(this.#schedule.now + ms);
    for (const name of SERVERS) {
      const uuid = this.#galera.status(nodeOf(name))?.gcommUuid;
      if (uuid != null) this.#uuids.set(name, uuid);
    }
  }
}

function rowsOf(proc: Proc | null): readonly number[] {
  const tip = proc?.tip ?? null;
  return tip === null ? [] : [...writesOf(tip)].sort((a, b) => a - b);
}

// ---- real servers --------------------------------------------------------------------------

const START_MS = 40_000;
const UNNAMED_SQL = `SELECT COUNT(*) AS unnamed FROM information_schema.WSREP_MEMBERSHIP WHERE NAME = '${UNSPECIFIED}'`;
/** Of a question to a server that is up. */
const TRIES = 3;

/** A lab of four servers, used for one story after another. */
export class RealBed implements Bed {
  readonly lab: Lab;
  readonly #servers: Map<string, DirectServer>;
  readonly #uuids = new Map<Name, string>();
  #writes = new Map<number, Outcome>();
  #open = new Set<Promise<void>>();
  #story = "";

  private constructor(lab: Lab, servers: ReadonlyMap<string, DirectServer>) {
    this.lab = lab;
    this.#servers = new Map(servers);
  }

  static async open(name: string, providerOptions = TUNED): Promise<RealBed> {
    const lab = await openLab(name, { apps: 1, providerOptions });
    try {
      const bed = new RealBed(lab, await lab.startServers());
      await bed.#learn();
      return bed;
    } catch (error) {
      await lab.down();
      throw error;
    }
  }

  async down(): Promise<void> {
    await this.lab.down();
    await Promise.allSettled(this.#open);
  }

  /** All four Synced in one view with equal rows, nothing fenced, evicted or weighed; then a new story. */
  async begin(story: string): Promise<void> {
    await this.#restore();
    this.#story = story;
    this.#writes = new Map();
    await this.#learn();
  }

  /** Whatever the last story left: wrong rows are replaced by a full transfer from dc1-1. */
  async #restore(): Promise<void> {
    const { lab } = this;
    await lab.network.heal();
    for (const name of SERVERS) this.#signal(name, "SIGCONT");
    await Promise.allSettled(this.#open);
    const whole = async () => {
      const states = await Promise.all(SERVERS.map((name) => lab.status(name)));
      return states.every(
        (status) =>
          status?.get("wsrep_cluster_size") === "4" &&
          status.get("wsrep_cluster_status") === "Primary" &&
          status.get("wsrep_local_state_comment") === "Synced",
      );
    };
    const dead = SERVERS.filter((name) => this.#ended(name));
    if (dead.length > 0 || !(await within(8000, whole)) || !(await this.#equalRows())) {
      await this.#rebuild();
    }
    await until("all four Synced", whole, { timeoutMs: START_MS });
    for (const name of SERVERS) {
      await this.#query(name, "SET GLOBAL wsrep_reject_queries = NONE");
      await this.#query(name, "SET GLOBAL wsrep_provider_options = 'evs.evict='");
      await this.#query(name, "SET GLOBAL wsrep_provider_options = 'pc.weight=1'");
    }
  }

  async #equalRows(): Promise<boolean> {
    const sums = await this.lab.checksums();
    return new Set(sums.values()).size === 1;
  }

  /** dc1-1 with its rows begins anew, the others join: by a full transfer where theirs differ. */
  async #rebuild(): Promise<void> {
    const sums = new Map<string, string>();
    for (const name of SERVERS) {
      const rows = await this.#rows(name).catch(() => null);
      if (rows !== null) sums.set(name, rows.join(" "));
    }
    await this.kill(SERVERS.filter((name) => !this.#ended(name)));
    const [first, ...others] = SERVERS;
    await this.start([first], { newCluster: true });
    await this.#synced(first);
    for (const name of others) {
      const { datadir } = this.lab.server(name);
      if (sums.get(name) !== sums.get(first)) removeGrastate(datadir);
    }
    await this.start(others);
    await Promise.all(others.map((name) => this.#synced(name)));
  }

  async #synced(name: Name): Promise<void> {
    await this.#servers.get(name)?.synced(START_MS);
  }

  async cut(from: readonly Name[], to: readonly Name[], how: { readonly oneWay?: boolean } = {}) {
    if (how.oneWay === true) await this.lab.network.cutOneWay(from, to);
    else await this.lab.network.cut(from, to);
  }

  async heal() {
    await this.lab.network.heal();
  }

  async kill(names: readonly Name[]) {
    for (const name of names) this.#signal(name, "SIGKILL");
    await until("they have ended", () => names.every((name) => this.#ended(name)), {
      timeoutMs: 30_000,
      pauseMs: 5,
    });
  }

  async stop(names: readonly Name[]) {
    for (const name of names) await this.#servers.get(name)?.stop();
  }

  async start(names: readonly Name[], how: StartHow = {}) {
    await Promise.all(names.map((name) => this.#start(name, how)));
  }

  async #start(name: Name, how: StartHow): Promise<void> {
    const { lab } = this;
    const { datadir, command } = lab.server(name);
    const { position, error } = await readPosition(datadir, { command, timeoutMs: START_MS });
    if (error !== null) throw new Error(`${name}: ${error}`);
    if (how.keepView !== true) removeGvwstate(datadir);
    if (how.newCluster === true) setSafeToBootstrap(datadir);
    const given =
      position === null ? [] : [`--wsrep-start-position=${position.uuid}:${position.seqno}`];
    const begins = how.newCluster === true ? ["--wsrep-new-cluster"] : [];
    this.#servers.set(name, lab.startServer(name, { arguments: [...given, ...begins] }));
  }

  hang(name: Name) {
    this.#signal(name, "SIGSTOP");
    return Promise.resolve();
  }

  resume(name: Name) {
    this.#signal(name, "SIGCONT");
    return Promise.resolve();
  }

  bootstrap(name: Name) {
    return this.#provider(name, "pc.bootstrap=YES");
  }

  async evict(on: readonly Name[], who: readonly Name[]) {
    const uuids = who.map((name) => this.#uuids.get(name) ?? "");
    // All survivors at once, as watchdogs would be.
    await Promise.all(
      on.map(async (name) => {
        for (const uuid of uuids) await this.#provider(name, `evs.evict=${uuid}`);
      }),
    );
  }

  async clearEvictions(on: readonly Name[]) {
    await Promise.all(on.map((name) => this.#provider(name, "evs.evict=")));
  }

  weight(name: Name, weight: number) {
    return this.#provider(name, `pc.weight=${weight}`);
  }

  async fence(name: Name, on: boolean) {
    await this.#query(name, `SET GLOBAL wsrep_reject_queries = ${on ? "ALL_KILL" : "NONE"}`);
  }

  async write(name: Name, id: number) {
    const writes = this.#writes;
    writes.set(id, "hanging");
    const story = this.#story;
    const connection = await connectTo(this.lab.server(name).socket, this.lab.secrets.app).catch(
      () => null,
    );
    if (connection === null) {
      writes.set(id, "refused");
      return;
    }
    const insert = async () => {
      try {
        const sql = `INSERT INTO app.written VALUES ('${story}', ${id}, '${name}')`;
        await connection.query({ sql, timeout: 40_000 });
        writes.set(id, "ok");
      } catch (error) {
        // 1047: the statement was not begun; anything else leaves open what became of it.
        const errno = error instanceof Error && "errno" in error ? error.errno : null;
        writes.set(id, errno === 1047 ? "refused" : "unknown");
      } finally {
        connection.destroy();
      }
    };
    const open: Promise<void> = insert().finally(() => this.#open.delete(open));
    this.#open.add(open);
  }

  async wait(ms: number) {
    await Bun.sleep(ms);
  }

  async words() {
    const servers = await Promise.all(
      SERVERS.map(async (name): Promise<Seen> => {
        const status = await this.#status(name);
        if (status === null) return { name, status: null, rows: null };
        const connected = status.get("wsrep_cluster_status") !== "Disconnected";
        const variable = await this.#query(
          name,
          "SELECT @@GLOBAL.wsrep_reject_queries AS reject",
        ).catch(() => []);
        const unnamed = await this.#query(name, UNNAMED_SQL).catch(() => []);
        return {
          name,
          status: {
            primary: status.get("wsrep_cluster_status") === "Primary",
            connected,
            size: Number(status.get("wsrep_cluster_size")),
            unnamed: Number(unnamed[0]?.["unnamed"] ?? 0),
            synced: status.get("wsrep_local_state_comment") === "Synced",
            fenced: variable[0]?.["reject"] !== "NONE",
          },
          rows: connected ? await this.#rows(name, this.#story).catch(() => null) : null,
        };
      }),
    );
    return wordsOf(servers, this.#writes);
  }

  /** Rows as they lie in the tables, whatever the server would let clients see. */
  async #rows(name: Name, story?: string): Promise<readonly number[]> {
    const connection = await connectTo(this.lab.server(name).socket, this.lab.secrets.minder);
    try {
      await connection.query({ sql: "SET SESSION wsrep_dirty_reads = 1", timeout: 2000 });
      const where = story === undefined ? "" : ` WHERE writer = '${story}'`;
      const sql = `SELECT writer, number FROM app.written${where} ORDER BY writer, number`;
      const [rows] = await connection.query({ sql, timeout: 5000 });
      return (rows as { number: number | string }[]).map((row) => Number(row.number));
    } finally {
      connection.destroy();
    }
  }

  async #provider(name: Name, option: string): Promise<"ok" | "error"> {
    try {
      await this.#query(name, `SET GLOBAL wsrep_provider_options = '${option}'`);
      return "ok";
    } catch {
      return "error";
    }
  }

  /** A busy machine may take longer to shake hands than the lab has patience for. */
  async #query(name: Name, sql: string) {
    for (let tries = 1; ; tries++) {
      try {
        return await this.lab.query(name, sql);
      } catch (error) {
        const late = error instanceof Error && "code" in error && error.code === "ETIMEDOUT";
        if (!late || tries === TRIES) throw error;
      }
    }
  }

  /** Null where there is no socket, or a living server does not answer. */
  async #status(name: Name): Promise<ReadonlyMap<string, string> | null> {
    for (let tries = 1; tries <= TRIES; tries++) {
      if (this.#ended(name) || !existsSync(this.lab.server(name).socket)) return null;
      const status = await this.lab.status(name);
      if (status !== null) return status;
    }
    return null;
  }

  async #learn(): Promise<void> {
    for (const name of SERVERS) {
      const uuid = (await this.lab.status(name))?.get("wsrep_gcomm_uuid");
      if (uuid !== undefined) this.#uuids.set(name, uuid);
    }
  }

  #ended(name: Name): boolean {
    return this.#servers.get(name)?.ended() !== null;
  }

  #signal(name: Name, signal: NodeJS.Signals): void {
    const server = this.#servers.get(name);
    if (server !== undefined && server.ended() === null) process.kill(server.pid, signal);
  }
}

// ---- words ---------------------------------------------------------------------------------

interface Seen {
  readonly name: Name;
  readonly status: {
    readonly primary: boolean;
    readonly connected: boolean;
    readonly size: number;
    /** Members of the view whose names it does not know. */
    readonly unnamed: number;
    readonly synced: boolean;
    readonly fenced: boolean;
  } | null;
  /** Null where they cannot be read. */
  readonly rows: readonly number[] | null;
}

function wordsOf(servers: readonly Seen[], writes: ReadonlyMap<number, Outcome>): string {
  const states = servers.map(({ name, status }) => {
    if (status === null) return `${name} -`;
    if (!status.connected) return `${name} C`;
    const letter = status.primary ? (status.synced ? "P" : "p") : "N";
    const unnamed = status.unnamed === 0 ? "" : `u${status.unnamed}`;
    return `${name} ${letter}${status.size}${unnamed}${status.fenced ? "f" : ""}`;
  });
  const outcomes = [...writes].map(([id, outcome]) => `${id} ${outcome}`);
  const rows = servers.map(({ name, rows: held }) => `${name} ${held?.join("+") ?? "?"}`);
  return `${states.join(", ")} | writes: ${outcomes.join(", ")} | rows: ${rows.join(", ")}`;
}

function nodeOf(name: Name): number {
  return SERVERS.indexOf(name);
}

async function within(ms: number, condition: () => Promise<boolean>): Promise<boolean> {
  const end = performance.now() + ms;
  while (performance.now() < end) {
    if (await condition()) return true;
    await Bun.sleep(50);
  }
  return false;
}
