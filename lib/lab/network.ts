/**
 * The lab's network: a namespace per host, all on one bridge in a namespace of its own.
 *
 * Nothing touches the root namespace, so several labs with the same addresses can run at once, and
 * deleting the namespaces deletes everything. A cut is a silent drop at the receiving host's INPUT:
 * no reset, no ICMP, and the sender notices nothing (a drop at OUTPUT would give it EPERM).
 */
import { MinderError } from "../errors.ts";
import { run, runAsync, tryRun } from "./exec.ts";
import { type LabHost, layTopology, type Topology, type TopologyOptions } from "./topology.ts";

/** One host's name or several. */
export type Hosts = string | readonly string[];

/** What can be done to a lab's network. All cuts are idempotent. */
export interface Network {
  readonly topology: Topology;
  /** False on loopback: no cuts. */
  readonly namespaced: boolean;
  /** Command prefix that runs a program on that host and execs, so the pid stays. */
  enter(host: string): readonly string[];
  /** Silence both ways between each of `a` and each of `b`. @throws MinderError on loopback */
  cut(a: Hosts, b: Hosts): Promise<void>;
  /** What `from` sends no longer reaches `to`; the other direction stays. */
  cutOneWay(from: Hosts, to: Hosts): Promise<void>;
  /** Cut from all other hosts. */
  isolate(host: Hosts): Promise<void>;
  /** Random loss in percent, both ways between `a` and `b`; 0 ends it. */
  lose(a: Hosts, b: Hosts, percent: number): Promise<void>;
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
  tryRun(["ip", "netns", "delete", probe]);
  return null;
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

const TABLE = `table ip minder {
  set cut { type ipv4_addr; }
  chain loss { }
  chain input {
    type filter hook input priority -10; policy accept;
    ip saddr @cut drop
    jump loss
  }
}
`;

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
    await Promise.all(this.topology.hosts.map((host) => this.#nft(host.name, TABLE)));
  }

  enter(host: string): readonly string[] {
    // nsenter execs without a fork and, unlike `ip netns exec`, without a mount namespace: the pid
    // stays, and the lab's files and sockets look the same from everywhere.
    return ["nsenter", `--net=/run/netns/${namespaceOf(this.#lab, this.#host(host).name)}`, "--"];
  }

  async cut(a: Hosts, b: Hosts): Promise<void> {
    await this.#elements("add", [...pairs(a, b), ...pairs(b, a)]);
  }

  async cutOneWay(from: Hosts, to: Hosts): Promise<void> {
    await this.#elements("add", pairs(from, to));
  }

  async isolate(host: Hosts): Promise<void> {
    const inside = list(host);
    const others = [...this.#hosts.keys()].filter((name) => !inside.includes(name));
    // Hosts that are isolated together do not see each other either.
    await this.cut(inside, [...others, ...inside]);
  }

  async lose(a: Hosts, b: Hosts, percent: number): Promise<void> {
    if (!(percent >= 0 && percent <= 100)) {
      throw new MinderError(`Cannot lose ${percent} %: must be 0 to 100`);
    }
    await this.#setLoss([...pairs(a, b), ...pairs(b, a)], Math.round(percent));
  }

  async heal(a?: Hosts, b?: Hosts): Promise<void> {
    const all = [...this.#hosts.keys()];
    if (a === undefined) {
      this.#loss.clear();
      const text = "flush set ip minder cut\nflush chain ip minder loss\n";
      await Promise.all(all.map((host) => this.#nft(host, text)));
      return;
    }
    const between = [...pairs(a, b ?? all), ...pairs(b ?? all, a)];
    await this.#elements("delete", between);
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

  async #elements(verb: "add" | "delete", between: readonly Pair[]): Promise<void> {
    const texts = new Map<string, string>();
    for (const { from, to } of between) {
      const { address } = this.#host(from);
      if (from === to) continue;
      // Deleting what is not there is an error to nft; adding it first makes that idempotent too.
      const add = `add element ip minder cut { ${address} }\n`;
      const text = verb === "add" ? add : `${add}delete element ip minder cut { ${address} }\n`;
      texts.set(this.#host(to).name, (texts.get(to) ?? "") + text);
    }
    // All hosts at once: the sooner the last one drops, the more the cut is like a cable's.
    await Promise.all([...texts].map(([host, text]) => this.#nft(host, text)));
  }

  async #setLoss(between: readonly Pair[], percent: number): Promise<void> {
    const touched = new Set<string>();
    for (const { from, to } of between) {
      if (this.#host(from) === this.#host(to)) continue;
      const row = this.#loss.get(to) ?? new Map<string, number>();
      if (percent > 0) row.set(from, percent);
      else if (!row.delete(from)) continue;
      this.#loss.set(to, row);
      touched.add(to);
    }
    const texts = [...touched].map((to) => {
      const rules = [...(this.#loss.get(to) ?? [])].map(([from, share]) => {
        // nft refuses a comparison that is always true.
        const chance = share === 100 ? "" : ` numgen random mod 100 < ${share}`;
        return `add rule ip minder loss ip saddr ${this.#host(from).address}${chance} drop\n`;
      });
      return this.#nft(to, `flush chain ip minder loss\n${rules.join("")}`);
    });
    await Promise.all(texts);
  }

  async #nft(host: string, text: string): Promise<void> {
    await runAsync([...this.enter(host), "nft", "-f", "-"], { stdin: text });
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

  cut(): Promise<void> {
    return this.#refuse();
  }

  cutOneWay(): Promise<void> {
    return this.#refuse();
  }

  isolate(): Promise<void> {
    return this.#refuse();
  }

  lose(): Promise<void> {
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
