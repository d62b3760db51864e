/**
 * The lab's network: a namespace per host, all on one bridge in a namespace of its own.
 *
 * Nothing touches the root namespace, so several labs with the same addresses can run at once, and
 * deleting the namespaces deletes everything. A cut is a silent drop where the bridge forwards: no reset,
 * no ICMP, and the sender notices nothing (a drop at its OUTPUT would give it EPERM). All of it, between
 * however many hosts, comes into force in one transaction of the kernel, as a cable breaks.
 */
import { join } from "node:path";
import { MinderError } from "../errors.ts";
import { run, runAsync, tryRun } from "./exec.ts";
import { wallMs } from "./journal.ts";
import { type LabHost, layTopology, type Topology, type TopologyOptions } from "./topology.ts";

/** One host's name or several. */
export type Hosts = string | readonly string[];

/** When a cut came into force, by the clock of the journals: not before the one, not after the other. */
export interface CutInstant {
  readonly fromMs: number;
  readonly toMs: number;
}

/** Hosts behind a line that delays. */
export interface SlowLine {
  /** Puts them back beside the others. */
  end(): Promise<void>;
}

/** What can be done to a lab's network. All cuts are idempotent. */
export interface Network {
  readonly topology: Topology;
  /** False on loopback: no cuts. */
  readonly namespaced: boolean;
  /** Command prefix that runs a program on that host and execs, so the pid stays. */
  enter(host: string): readonly string[];
  /** Silence both ways between each of `a` and each of `b`. @throws MinderError on loopback */
  cut(a: Hosts, b: Hosts): Promise<CutInstant>;
  /** What `from` sends no longer reaches `to`; the other direction stays. */
  cutOneWay(from: Hosts, to: Hosts): Promise<CutInstant>;
  /** Cut from all other hosts. */
  isolate(host: Hosts): Promise<CutInstant>;
  /** Random loss in percent, both ways between `a` and `b`; 0 ends it. */
  lose(a: Hosts, b: Hosts, percent: number): Promise<void>;
  /**
   * Between these hosts and all others each packet takes so much longer, each way; what is under way when
   * it begins or ends is lost. One at a time. @throws MinderError on loopback, or without tun devices
   */
  slow(hosts: Hosts, delayMs: number): Promise<SlowLine>;
  /** Ends cuts and loss between `a` and `b`; without arguments all of them. */
  heal(a?: Hosts, b?: Hosts): Promise<void>;
  /** Processes on that host; empty on loopback, where the kernel cannot tell. */
  pids(host: string): readonly number[];
  /** Deletes everything. Processes must have ended. */
  remove(): void;
}

/** Name of the namespace of a host, or of the bridge (`net`). */
export function namespaceOf(lab: string, host: string): string {
  return `gm-${lab}-${host}`;
}

/** Namespaces that exist under that lab's name. */
export function namespacesOf(lab: string): readonly string[] {
  const done = tryRun(["ip", "netns", "list"]);
  if (done.code !== 0) return [];
  // "gm-demo-" must not match a lab named "demo-2": hosts' names are known.
  const host = /^(arb|net|app\d+|dc\d+-\d+)$/;
  const prefix = `gm-${lab}-`;
  return done.stdout
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "")
    .filter((name) => name.startsWith(prefix) && host.test(name.slice(prefix.length)));
}

/** Processes in a namespace. */
export function namespacePids(namespace: string): readonly number[] {
  const done = tryRun(["ip", "netns", "pids", namespace]);
  if (done.code !== 0) return [];
  return done.stdout.split("\n").filter(Boolean).map(Number);
}

/** Why namespaces cannot be used here; null if they can. */
export function namespacesImpossible(): string | null {
  if (process.getuid?.() !== 0) return "not running as root";
  for (const program of ["ip", "nft", "nsenter"]) {
    if (Bun.which(program) === null) return `${program} is missing`;
  }
  const probe = `gm-probe-${process.pid}`;
  const made = tryRun(["ip", "netns", "add", probe]);
  if (made.code !== 0) return made.stderr.trim();
  const enter = ["nsenter", `--net=/run/netns/${probe}`, "--"];
  const table = tryRun([...enter, "nft", "-f", "-"], { stdin: TABLE });
  tryRun(["ip", "netns", "delete", probe]);
  return table.code === 0 ? null : `no filter on a bridge: ${table.stderr.trim()}`;
}

/** Makes the hosts; on loopback with 127.77.x.y where namespaces are impossible. @throws MinderError */
export async function createNetwork(
  lab: string,
  options: TopologyOptions & { readonly loopback?: boolean } = {},
): Promise<Network> {
  const impossible = options.loopback === true ? "asked for" : namespacesImpossible();
  if (impossible !== null) {
    return new LoopbackNetwork(layTopology(options, "127.77"), impossible);
  }
  const network = new NamespaceNetwork(lab, layTopology(options));
  await network.make();
  return network;
}

/** Of the bridge's namespace. What is sent from the first address to the second of a pair is dropped. */
const TABLE = `table bridge minder {
  set cut { type ipv4_addr . ipv4_addr; }
  chain loss { }
  chain forwarded {
    type filter hook forward priority 0; policy accept;
    ip saddr . ip daddr @cut drop
    jump loss
  }
}
`;
/** Ends of a slow line: beside the other hosts, and beside those behind it. */
const SLOW_DEVICES = ["slow0", "slow1"] as const;
/** nft's answer to a command that changes nothing. */
const NFT_TIMEOUT_MS = 10_000;

class NamespaceNetwork implements Network {
  readonly topology: Topology;
  readonly namespaced = true;
  readonly #lab: string;
  readonly #hosts: ReadonlyMap<string, LabHost>;
  /** Receiver, then sender, to percent. */
  readonly #loss = new Map<string, Map<string, number>>();

  constructor(lab: string, topology: Topology) {
    this.#lab = lab;
    this.topology = topology;
    this.#hosts = new Map(topology.hosts.map((host) => [host.name, host]));
  }

  async make(): Promise<void> {
    const net = namespaceOf(this.#lab, "net");
    const names = this.topology.hosts.map((host) => namespaceOf(this.#lab, host.name));
    batch(
      [],
      [net, ...names].map((name) => `netns add ${name}`),
    );
    const bridge = ["link add br0 type bridge", "link set br0 up", "link set lo up"];
    for (const [index, name] of names.entries()) {
      bridge.push(
        `link add port${index} type veth peer name eth0 netns ${name}`,
        `link set port${index} master br0 up`,
      );
    }
    batch(["-n", net], bridge);
    for (const host of this.topology.hosts) {
      batch(
        ["-n", namespaceOf(this.#lab, host.name)],
        [
          "link set lo up",
          // A prefix of 16: one flat network, no routes to get wrong.
          `addr add ${host.address}/16 brd + dev eth0`,
          "link set eth0 up",
        ],
      );
    }
    await this.#nft(TABLE);
  }

  enter(host: string): readonly string[] {
    // nsenter execs without a fork and, unlike `ip netns exec`, without a mount namespace: the pid
    // stays, and the lab's files and sockets look the same from everywhere.
    return ["nsenter", `--net=/run/netns/${namespaceOf(this.#lab, this.#host(host).name)}`, "--"];
  }

  async cut(a: Hosts, b: Hosts): Promise<CutInstant> {
    return await this.#cutPairs([...pairs(a, b), ...pairs(b, a)]);
  }

  async cutOneWay(from: Hosts, to: Hosts): Promise<CutInstant> {
    return await this.#cutPairs(pairs(from, to));
  }

  async isolate(host: Hosts): Promise<CutInstant> {
    const inside = list(host);
    const others = [...this.#hosts.keys()].filter((name) => !inside.includes(name));
    // Hosts that are isolated together do not see each other either.
    return await this.cut(inside, [...others, ...inside]);
  }

  async lose(a: Hosts, b: Hosts, percent: number): Promise<void> {
    if (!(percent >= 0 && percent <= 100)) {
      throw new MinderError(`Cannot lose ${percent} %: must be 0 to 100`);
    }
    await this.#setLoss([...pairs(a, b), ...pairs(b, a)], Math.round(percent));
  }

  async slow(hosts: Hosts, delayMs: number): Promise<SlowLine> {
    const script = join(import.meta.dir, "..", "..", "scripts", "lab_relay.ts");
    const command = [process.execPath, script, ...SLOW_DEVICES, String(delayMs)];
    const child = Bun.spawn([...this.#enterBridge(), ...command], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    const { done } = await child.stdout.getReader().read();
    if (done) throw new MinderError("The slow line ended", { where: command.join(" ") });
    const ports = list(hosts).map((name) => `port${this.topology.hosts.indexOf(this.#host(name))}`);
    const [near, far] = SLOW_DEVICES;
    const net = ["-n", namespaceOf(this.#lab, "net")];
    batch(net, [
      "link add br1 type bridge",
      "link set br1 up",
      `link set ${near} master br0 up`,
      `link set ${far} master br1 up`,
      ...ports.map((port) => `link set ${port} master br1`),
    ]);
    return {
      async end() {
        batch(net, [...ports.map((port) => `link set ${port} master br0`), "link delete br1"]);
        child.kill("SIGKILL");
        await child.exited;
      },
    };
  }

  async heal(a?: Hosts, b?: Hosts): Promise<void> {
    const all = [...this.#hosts.keys()];
    if (a === undefined) {
      this.#loss.clear();
      await this.#nft("flush set bridge minder cut\nflush chain bridge minder loss\n");
      return;
    }
    const between = [...pairs(a, b ?? all), ...pairs(b ?? all, a)];
    const elements = this.#elements(between);
    // Deleting what is not there is an error to nft; adding it first makes that idempotent too.
    if (elements !== null) await this.#nft(`add ${elements}\ndelete ${elements}\n`);
    await this.#setLoss(between, 0);
  }

  pids(host: string): readonly number[] {
    return namespacePids(namespaceOf(this.#lab, host));
  }

  remove(): void {
    removeNamespaces(this.#lab);
  }

  #host(name: string): LabHost {
    const host = this.#hosts.get(name);
    if (host === undefined) {
      const known = [...this.#hosts.keys()].join(", ");
      throw new MinderError(`No host named ${name} in this lab`, { hint: `Known: ${known}` });
    }
    return host;
  }

  /** The pairs as nft names them; null for none. */
  #elements(between: readonly Pair[]): string | null {
    const found = between
      .filter(({ from, to }) => from !== to)
      .map(({ from, to }) => `${this.#host(from).address} . ${this.#host(to).address}`);
    return found.length === 0 ? null : `element bridge minder cut { ${[...new Set(found)]} }`;
  }

  async #cutPairs(between: readonly Pair[]): Promise<CutInstant> {
    const elements = this.#elements(between);
    const now = wallMs();
    return elements === null
      ? { fromMs: now, toMs: now }
      : await this.#nftAtOnce(`add ${elements}`);
  }

  async #setLoss(between: readonly Pair[], percent: number): Promise<void> {
    for (const { from, to } of between) {
      if (this.#host(from) === this.#host(to)) continue;
      const row = this.#loss.get(to) ?? new Map<string, number>();
      if (percent > 0) row.set(from, percent);
      else row.delete(from);
      this.#loss.set(to, row);
    }
    const rules = [...this.#loss].flatMap(([to, row]) =>
      [...row].map(([from, share]) => {
        // nft refuses a comparison that is always true.
        const chance = share === 100 ? "" : ` numgen random mod 100 < ${share}`;
        const way = `ip saddr ${this.#host(from).address} ip daddr ${this.#host(to).address}`;
        return `add rule bridge minder loss ${way}${chance} drop\n`;
      }),
    );
    await this.#nft(`flush chain bridge minder loss\n${rules.join("")}`);
  }

  async #nft(text: string): Promise<void> {
    await runAsync([...this.#enterBridge(), "nft", "-f", "-"], { stdin: text });
  }

  /**
   * One line of nft, by a process that has started already: starting one takes 10 to 50 ms on a busy
   * machine, the transaction itself 1 to 2. So when it came into force is known that closely.
   */
  async #nftAtOnce(line: string): Promise<CutInstant> {
    const command = [...this.#enterBridge(), "nft", "-i"];
    const child = Bun.spawn([...command], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      timeout: NFT_TIMEOUT_MS,
      killSignal: "SIGKILL",
    });
    const errors = new Response(child.stderr).text();
    const answers = child.stdout.getReader();
    const say = async (text: string): Promise<void> => {
      child.stdin.write(`${text}\n`);
      await child.stdin.flush();
    };
    try {
      await say("list tables");
      await answers.read();
      const fromMs = wallMs();
      // Its answer says that what was asked before it is done.
      await say(`${line}\nlist tables`);
      const { done } = await answers.read();
      const toMs = wallMs();
      await child.stdin.end();
      const said = (await errors).trim();
      if (done || said !== "" || (await child.exited) !== 0) {
        throw new MinderError(`nft does not do that: ${said.slice(0, 800)}`, {
          where: line.slice(0, 400),
        });
      }
      return { fromMs, toMs };
    } finally {
      child.kill("SIGKILL");
    }
  }

  #enterBridge(): readonly string[] {
    return ["nsenter", `--net=/run/netns/${namespaceOf(this.#lab, "net")}`, "--"];
  }
}

/** The same addresses everywhere on loopback: a cluster, but no way to cut it. */
class LoopbackNetwork implements Network {
  readonly topology: Topology;
  readonly namespaced = false;
  readonly #because: string;

  constructor(topology: Topology, because: string) {
    this.topology = topology;
    this.#because = because;
  }

  enter(_host: string): readonly string[] {
    return [];
  }

  cut(): Promise<CutInstant> {
    return this.#refuse();
  }

  cutOneWay(): Promise<CutInstant> {
    return this.#refuse();
  }

  isolate(): Promise<CutInstant> {
    return this.#refuse();
  }

  lose(): Promise<void> {
    return this.#refuse();
  }

  slow(): Promise<SlowLine> {
    return this.#refuse();
  }

  async heal(): Promise<void> {
    // Nothing was ever cut.
  }

  pids(_host: string): readonly number[] {
    return [];
  }

  remove(): void {
    // Addresses of 127.0.0.0/8 need no making and no removing.
  }

  #refuse(): Promise<never> {
    return Promise.reject(
      new MinderError("Cannot cut the network: this lab runs on loopback addresses", {
        where: this.#because,
        hint: "Run it as root where network namespaces and nftables are available",
      }),
    );
  }
}

/** Deletes the namespaces of a lab, whoever made them. Processes in them must have ended. */
export function removeNamespaces(lab: string): readonly string[] {
  const names = namespacesOf(lab);
  for (const name of names) {
    const done = tryRun(["ip", "netns", "delete", name]);
    // An interrupted `ip netns add` leaves a plain file behind that only rm takes away; `ip` has
    // done that by itself since 2019, so anything else is worth knowing.
    if (done.code !== 0 && namespacesOf(lab).includes(name)) {
      throw new MinderError(`Cannot delete namespace ${name}: ${done.stderr.trim()}`);
    }
  }
  return names;
}

interface Pair {
  readonly from: string;
  readonly to: string;
}

function pairs(from: Hosts, to: Hosts): readonly Pair[] {
  return list(from).flatMap((one) => list(to).map((other) => ({ from: one, to: other })));
}

function list(hosts: Hosts): readonly string[] {
  return typeof hosts === "string" ? [hosts] : hosts;
}

function batch(options: readonly string[], lines: readonly string[]): void {
  run(["ip", ...options, "-batch", "-"], { stdin: `${lines.join("\n")}\n` });
}
