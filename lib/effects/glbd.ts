/**
 * glbd by its control socket. Measured on 1.0.2; older table formats are read as well.
 *
 * What shapes this driver: one read of glbd is one command, so each goes out in one send on a
 * connection of its own; only numeric addresses and integer weights are sent, since glbd looks names
 * up while everything waits and shows three decimals of any weight; nothing is ever deleted, because
 * a delete leaves its connections running uncounted and corrupts the count of the next entry; and
 * `drain` and `out` are both weight 0, which is all that glbd can do to a server.
 */
import { lookup } from "node:dns/promises";
import { isIPv4 } from "node:net";
import type { Place, Placed, Target } from "../core/dbclient_policy.ts";
import { MinderError } from "../errors.ts";
import type { Balancer, Table, TableServer } from "./balancer.ts";
import { ask, type ControlAddress, parseControlAddress } from "./control_socket.ts";

export interface GlbdOptions {
  /** host:port of the control socket (`glbd -c`). */
  readonly socket: string;
}

/** Ends every TCP connection from this machine to an address. */
export type KillSockets = (ip: string, port: number, signal: AbortSignal) => Promise<void>;

/** A reply of more than 8191 bytes is cut, and at 150 destinations glbd crashes. */
const DESTINATIONS_MAX = 100;

/** A name without an answer by then is done without in this pass: the others must not wait for it. */
const LOOKUP_MS = 500;

/**
 * Makes the driver; connects to nothing yet. Without `killSockets` connections are only cut at the
 * server, by its fence. @throws MinderError for an unusable address
 */
export function createGlbd({ socket }: GlbdOptions, killSockets = localKill(socket)): Balancer {
  const address = parseControlAddress(socket);
  if ("path" in address) {
    throw new MinderError(`"${socket}" is no control socket of glbd`, {
      hint: "Give host:port: glbd has no unix socket.",
    });
  }
  return new Glbd(address, socket, killSockets);
}

/** `ss -K`, where glbd runs on this machine and this process may do it; measured: 4.4 ms. */
function localKill(socket: string): KillSockets | null {
  const ss = Bun.which("ss");
  if (ss === null || process.getuid?.() !== 0 || !/^(127\.|localhost:)/.test(socket)) return null;
  return async (ip, port, signal) => {
    const child = Bun.spawn([ss, "-K", "-t", "dst", ip, "dport", "=", `:${port}`], {
      stdout: "ignore",
      stderr: "ignore",
      signal,
    });
    await child.exited;
  };
}

class Glbd implements Balancer {
  readonly description: string;
  readonly cut: Balancer["cut"];
  readonly #address: ControlAddress;
  /** Numeric address by host name, as last found: a dead resolver must not stop a failover. */
  readonly #resolved = new Map<string, string>();
  readonly #asking = new Map<string, Promise<void>>();

  constructor(address: ControlAddress, socket: string, killSockets: KillSockets | null) {
    this.#address = address;
    this.description = `glbd ${socket}`;
    this.cut =
      killSockets === null
        ? null
        : async (servers, signal) => {
            for (const { host, port } of servers) {
              const ip = await this.#numeric(host, signal);
              if (ip !== null) await killSockets(ip, port, signal);
            }
          };
  }

  word(place: Place): string {
    return place.as === "up" ? `up ${place.weight}` : "drain";
  }

  async read(target: Target, signal: AbortSignal): Promise<Table> {
    const rows = parseGetinfo(await this.#ask("getinfo\n", signal));
    const byAddress = new Map(rows.map((row) => [row.address, row]));
    const oddities: string[] = [];
    const servers: TableServer[] = [];
    const addresses = await Promise.all(target.map((placed) => this.#addressOf(placed, signal)));
    for (const [index, placed] of target.entries()) {
      const address = addresses[index];
      if (address == null) {
        oddities.push(`${placed.name} cannot be steered: ${placed.host} has no address here`);
        continue;
      }
      const row = byAddress.get(address);
      byAddress.delete(address);
      if (row?.corrupt) {
        oddities.push(`${placed.name} has a wrong count of connections: ${row.connections}`);
      }
      // What is not listed gets nothing, which is all that draining means; what is left is uncounted.
      servers.push({
        name: placed.name,
        word: row?.word ?? "drain",
        sessions: row === undefined ? null : Math.max(0, row.connections),
        held: false,
      });
    }
    const strays: Placed[] = [];
    // What nobody knows may be one whose name had no answer: then it is left as it is.
    const allKnown = !addresses.includes(null);
    for (const { address, word } of byAddress.values()) {
      oddities.push(`${address} is in the table, but not in the config`);
      servers.push({ name: address, word, sessions: null, held: false });
      if (word === "drain" || !allKnown) continue;
      const [host = "", port = ""] = address.split(":");
      const because = "it is not in the config";
      strays.push({ name: address, host, port: Number(port), place: { as: "drain" }, because });
    }
    // glbd tells neither pid nor uptime: its restart shows as a table that has changed.
    return { instance: null, servers, oddities, strays };
  }

  async apply(places: readonly Placed[], table: Table, signal: AbortSignal): Promise<string> {
    if (table.servers.length > DESTINATIONS_MAX) {
      throw new MinderError(`more than ${DESTINATIONS_MAX} destinations`, {
        hint: "glbd crashes when it lists 150: use several, or HAProxy.",
      });
    }
    const refused: string[] = [];
    for (const placed of places) {
      const weight = placed.place.as === "up" ? placed.place.weight : 0;
      const address = await this.#addressOf(placed, signal);
      if (address === null) {
        refused.push(`${placed.host} has no address here`);
        continue;
      }
      const command = `${address}:${weight}`;
      const reply = await this.#ask(`${command}\n`, signal);
      if (reply !== "Ok\n") refused.push(`${command} was answered ${JSON.stringify(reply)}`);
    }
    if (refused.length > 0) return refused.join("; ").slice(0, 500);
    return "glbd had said Ok: it runs with a watchdog of its own (-w), or somebody else steers it";
  }

  #ask(command: string, signal: AbortSignal): Promise<string> {
    // The reply's own end is waited for, never glbd's close: under `-l` that is a reset, which can
    // overtake the reply; otherwise it leaves a TIME_WAIT on the port, and glbd could not restart.
    return ask(this.#address, command, { signal, isWhole });
  }

  /** Null while its name has no answer. */
  async #addressOf({ host, port }: Placed, signal: AbortSignal): Promise<string | null> {
    const ip = await this.#numeric(host, signal);
    return ip === null ? null : `${ip}:${port}`;
  }

  async #numeric(host: string, signal: AbortSignal): Promise<string | null> {
    if (isIPv4(host)) return host;
    const known = this.#resolved.get(host);
    this.#refresh(host);
    if (known !== undefined) return known;
    const bound = AbortSignal.any([signal, AbortSignal.timeout(LOOKUP_MS)]);
    await within(this.#asking.get(host) ?? Promise.resolve(), bound).catch(() => undefined);
    // A pass whose time is over ends as one; a name is only missed.
    signal.throwIfAborted();
    return this.#resolved.get(host) ?? null;
  }

  /** Asks, also again for the sake of later passes; at most one question per name is open. */
  #refresh(host: string): void {
    if (this.#asking.has(host)) return;
    const asked = lookup(host, { family: 4 })
      .then(
        ({ address }) => void this.#resolved.set(host, address),
        // The address that was found before, if any, is still the best there is.
        () => undefined,
      )
      .finally(() => this.#asking.delete(host));
    this.#asking.set(host, asked);
  }
}

/** The last line of a table, by which a whole one is known. Older builds do not say `of N max`. */
const TRAILER = /^Destinations: (\d+), total connections: -?\d+(?: of \d+ max)?$/m;

/** A reply can arrive in pieces: a table ends with its trailer, everything else with its line. */
function isWhole(reply: string): boolean {
  return reply.endsWith("\n") && (!reply.startsWith("Router:") || TRAILER.test(reply));
}

/** Waits no longer than the signal allows. */
function within<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new Error("not in time", { cause: signal.reason }));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

interface Row {
  /** ip:port */
  readonly address: string;
  readonly word: string;
  readonly connections: number;
  /** The count has gone negative, or usage beyond 1: an entry was deleted and added while in use. */
  readonly corrupt: boolean;
}

/**
 * Reads the table of `getinfo`. Widths vary with the weights, so only white space counts.
 * @throws MinderError if the table is cut short or is none
 */
export function parseGetinfo(reply: string): readonly Row[] {
  const lines = reply.split("\n");
  const end = lines.findIndex((line) => TRAILER.test(line));
  const count = TRAILER.exec(lines[end] ?? "")?.[1];
  if (lines[0] !== "Router:" || count === undefined) {
    throw new MinderError("the reply to getinfo is no whole table", {
      hint: "Is this the control socket of a glbd?",
    });
  }
  const rows = lines.slice(0, end).filter((line) => /^\s*[\d.]+:\d+\s/.test(line));
  if (rows.length !== Number(count)) {
    throw new MinderError(`getinfo lists ${rows.length} of ${count} destinations`);
  }
  return rows.map(parseRow);
}

function parseRow(line: string): Row {
  const match = /^\s*(\d+(?:\.\d+){3}:\d+)\s*:\s*(\S+)\s+(\S+)\s+(?:\S+\s+)?(-?\d+)$/.exec(line);
  const [, address, weight, usage, connections] = match ?? [];
  if (
    address === undefined ||
    weight === undefined ||
    usage === undefined ||
    !/^(?:-?\d+\.\d{3}|-?inf|-?nan)$/.test(weight)
  ) {
    throw new MinderError(`getinfo has a row that is none: ${JSON.stringify(line)}`);
  }
  const count = Number(connections);
  const corrupt = count < 0 || usage === "-inf" || Number(usage) > 1;
  return { address, word: wordOf(weight, usage), connections: count, corrupt };
}

function wordOf(weight: string, usage: string): string {
  // 0.0001 is shown as 0.000 too, but carries traffic; the usage of a true 0 is no number.
  if (/^-?0\.000$/.test(weight)) return /nan/.test(usage) ? "drain" : "up 0.000";
  return `up ${weight.replace(/\.000$/, "")}`;
}
