/**
 * HAProxy by its runtime API (`stats socket … level admin`). Measured on 2.6.12.
 *
 * State and weight are two knobs: `up` is ready with a weight, `drain` is drain. `out` is maint,
 * because sticky sessions still reach a drained server, and weight 0 with it, because that is how
 * our maint is told from a person's, also after this process or HAProxy was restarted: a server in
 * maint with a weight was put there by somebody else, and is left alone.
 */
import type { Place, Placed, Target } from "../core/dbclient_policy.ts";
import { MinderError } from "../errors.ts";
import type { Balancer, Table, TableServer } from "./balancer.ts";
import { ask, type ControlAddress, parseControlAddress } from "./control_socket.ts";

export interface HaproxyOptions {
  /** Path of the unix socket, or host:port. */
  readonly socket: string;
  /** Its servers have the names of the config's servers. */
  readonly backend: string;
}

/** Bits of srv_admin_state (server-t.h, SRV_ADMF_*). */
const MAINT_FORCED = 0x01;
const MAINT_ANY = 0x67;
const DRAIN_ANY = 0x18;
/** Bits of srv_agent_state (check-t.h, CHK_ST_CONFIGURED and CHK_ST_ENABLED). */
const AGENT_AT_WORK = 0x06;

/** HAProxy takes lines of up to 16 kB (tune.bufsize). */
const LINE_MAX = 8_192;

/** Names that cannot end a command and begin another. */
const NAME = /^[A-Za-z0-9_.:-]{1,128}$/;

/** How HAProxy answers where weights cannot be set one by one. */
const STATIC_ALGORITHM = "static LB algorithm";

/** Makes the driver; connects to nothing yet. @throws MinderError for unusable addresses or names */
export function createHaproxy({ socket, backend }: HaproxyOptions): Balancer {
  const address = parseControlAddress(socket);
  if (!NAME.test(backend)) {
    throw new MinderError(`"${backend}" is no backend name`, { hint: "Use letters and digits." });
  }
  return new Haproxy(address, socket, backend);
}

class Haproxy implements Balancer {
  readonly description: string;
  readonly #address: ControlAddress;
  readonly #backend: string;
  /** Servers that this process put in maint: remembered for backends that take no weight 0. */
  readonly #ours = new Set<string>();
  /** The backend's algorithm takes no weights but all and nothing. */
  #static = false;

  constructor(address: ControlAddress, socket: string, backend: string) {
    this.#address = address;
    this.#backend = backend;
    this.description = `haproxy ${socket} backend ${backend}`;
  }

  word(place: Place): string {
    if (place.as !== "up") return place.as;
    return this.#static ? "up" : `up ${place.weight}`;
  }

  async read(target: Target, signal: AbortSignal): Promise<Table> {
    const be = this.#backend;
    const reply = await this.#ask(
      `show info;show servers state ${be};show stat ${be} 4 -1`,
      signal,
    );
    const { instance, states, sessions } = parseTable(reply, be);
    const wanted = new Map(target.map((placed) => [placed.name, placed]));
    const oddities: string[] = [];
    const servers: TableServer[] = [];
    for (const state of states) {
      const placed = wanted.get(state.name);
      if (placed === undefined) {
        oddities.push(`${state.name} is in the backend, but not in the config`);
        continue;
      }
      if (/^[\d.]+$/.test(placed.host) && placed.host !== state.address) {
        oddities.push(`${state.name} points to ${state.address}, the config says ${placed.host}`);
      } else if (placed.port !== state.port) {
        oddities.push(`${state.name} points to port ${state.port}, the config says ${placed.port}`);
      }
      if (state.agent) {
        oddities.push(`${state.name} has an agent-check, which undoes what is set here`);
      }
      servers.push({
        name: state.name,
        ...this.#wordOf(state),
        sessions: sessions.get(state.name) ?? null,
      });
    }
    // The backend may have servers of its own beside the config's: they are named, and left alone.
    return { instance, servers, oddities, strays: [] };
  }

  async apply(
    places: readonly Placed[],
    table: Table,
    signal: AbortSignal,
  ): Promise<string | null> {
    // Servers that the backend does not have cannot be set; the reconciler names them.
    const present = places.filter(({ name }) => table.servers.some((one) => one.name === name));
    let complaint = await this.#set(present, signal);
    if (complaint?.includes(STATIC_ALGORITHM) && !this.#static) {
      this.#static = true;
      complaint = await this.#set(present, signal);
    }
    return complaint;
  }

  async cut(servers: readonly Placed[], signal: AbortSignal): Promise<void> {
    // The reply says nothing that the next read would not say better.
    await this.#askAll(
      servers.map(({ name }) => `shutdown sessions server ${this.#path(name)}`),
      signal,
    );
  }

  async #set(places: readonly Placed[], signal: AbortSignal): Promise<string | null> {
    const commands = places.flatMap(({ name, place }) => {
      if (place.as === "out") this.#ours.add(name);
      else this.#ours.delete(name);
      return this.#commandsFor(name, place);
    });
    // Success is an empty line; any text is a complaint.
    const words = (await this.#askAll(commands, signal)).split("\n").filter((line) => line !== "");
    return words.length === 0 ? null : [...new Set(words)].join("; ").slice(0, 500);
  }

  #commandsFor(name: string, place: Place): readonly string[] {
    const server = this.#path(name);
    const weight = (value: number): string =>
      `set server ${server} weight ${this.#static ? (value > 0 ? "100%" : "0%") : value}`;
    switch (place.as) {
      case "up":
        return [weight(place.weight), `set server ${server} state ready`];
      case "drain":
        // Its weight may still be the 0 that marks our maint.
        return [`set server ${server} state drain`, weight(1)];
      case "out":
        return [`set server ${server} state maint`, weight(0)];
    }
  }

  #wordOf({ name, admin, weight }: ServerState): Pick<TableServer, "word" | "held"> {
    if ((admin & MAINT_ANY) !== 0) {
      const ours = weight === 0 || this.#ours.has(name);
      if ((admin & MAINT_ANY) === MAINT_FORCED && ours) return { word: "out", held: false };
      return { word: "maintenance", held: true };
    }
    if ((admin & DRAIN_ANY) !== 0) return { word: "drain", held: false };
    if (this.#static && weight > 0) return { word: "up", held: false };
    return { word: `up ${weight}`, held: false };
  }

  #path(name: string): string {
    if (!NAME.test(name)) throw new MinderError(`"${name}" is no HAProxy server name`);
    return `${this.#backend}/${name}`;
  }

  async #askAll(commands: readonly string[], signal: AbortSignal): Promise<string> {
    const replies: string[] = [];
    let line = "";
    for (const command of commands) {
      if (line !== "" && line.length + command.length >= LINE_MAX) {
        replies.push(await this.#ask(line, signal));
        line = "";
      }
      line = line === "" ? command : `${line};${command}`;
    }
    if (line !== "") replies.push(await this.#ask(line, signal));
    return replies.join("");
  }

  async #ask(line: string, signal: AbortSignal): Promise<string> {
    const reply = await ask(this.#address, `${line}\n`, { signal });
    if (reply.includes("Permission denied")) {
      throw new MinderError("the runtime socket refuses: permission denied", {
        hint: "Give the stats socket `level admin`.",
      });
    }
    return reply;
  }
}

export interface ServerState {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly admin: number;
  readonly weight: number;
  /** An agent-check steers it as well. */
  readonly agent: boolean;
}

export interface Parsed {
  readonly instance: string;
  readonly states: readonly ServerState[];
  readonly sessions: ReadonlyMap<string, number>;
}

/** Takes the three replies apart, which come one after the other. @throws MinderError if one is not as expected */
export function parseTable(reply: string, backend: string): Parsed {
  const lines = reply.split("\n");
  const info = new Map<string, string>();
  for (const line of lines) {
    const match = /^(Pid|Start_time_sec|Uptime_sec|Stopping): (\d+)$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) info.set(match[1], match[2]);
  }
  if (reply.includes("Can't find backend") || reply.includes("No such proxy")) {
    throw new MinderError(`there is no backend ${backend}`, { hint: "Name it as HAProxy does." });
  }
  if (info.get("Stopping") === "1") throw new MinderError("answered by a process that is stopping");
  const pid = info.get("Pid");
  if (pid === undefined) throw new MinderError("no Pid in the reply to `show info`");
  return {
    instance: `${pid}@${info.get("Start_time_sec") ?? ""}`,
    states: parseStates(lines),
    sessions: parseSessions(lines),
  };
}

function parseStates(lines: readonly string[]): readonly ServerState[] {
  const start = lines.findIndex((line) => line.startsWith("# be_id "));
  const columns = lines[start]?.slice(2).split(" ") ?? [];
  const states: ServerState[] = [];
  for (const line of rowsAfter(lines, start)) {
    const fields = line.split(" ");
    const field = (name: string): string => fields[columns.indexOf(name)] ?? "";
    states.push({
      name: field("srv_name"),
      address: field("srv_addr"),
      port: strictInteger(field("srv_port"), "srv_port"),
      admin: strictInteger(field("srv_admin_state"), "srv_admin_state"),
      weight: strictInteger(field("srv_uweight"), "srv_uweight"),
      agent: (Number(field("srv_agent_state")) & AGENT_AT_WORK) === AGENT_AT_WORK,
    });
  }
  return states;
}

function parseSessions(lines: readonly string[]): ReadonlyMap<string, number> {
  const start = lines.findIndex((line) => line.startsWith("# pxname,"));
  const columns = lines[start]?.slice(2).split(",") ?? [];
  const sessions = new Map<string, number>();
  for (const line of rowsAfter(lines, start)) {
    // Only the first columns are read; none of them can hold a quoted comma.
    const fields = line.split(",");
    const name = fields[columns.indexOf("svname")] ?? "";
    sessions.set(name, strictInteger(fields[columns.indexOf("scur")] ?? "", "scur"));
  }
  return sessions;
}

/** The lines after a header, up to the empty one that ends a reply. */
function rowsAfter(lines: readonly string[], header: number): readonly string[] {
  if (header < 0) throw new MinderError("a reply of the runtime socket has no header");
  const end = lines.indexOf("", header);
  return lines.slice(header + 1, end < 0 ? lines.length : end);
}

/** Digits and nothing else: "12abc" or an empty column is no number. */
function strictInteger(text: string, column: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new MinderError(`${column} is "${text}", not a number`);
  return Number(text);
}
