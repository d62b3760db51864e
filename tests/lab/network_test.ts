import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { MinderError } from "../../lib/errors.ts";
import { wallMs } from "../../lib/lab/journal.ts";
import {
  createNetwork,
  type Network,
  namespacesImpossible,
  namespacesOf,
  removeNamespaces,
} from "../../lib/lab/network.ts";

const LAB = "test-network";
const impossible = namespacesImpossible();
/** Shorter than the kernel's first retransmission would make a difference. */
const SILENT_MS = 400;
/** For an answer that is to come, on a machine as busy as it may be. */
const HEARD_MS = 20_000;

let network: Network;
const servers: Bun.Subprocess[] = [];

/** Answers each connection; says "ready" when it listens. Runs on a host of the lab. */
const LISTEN = `Bun.listen({ hostname: "0.0.0.0", port: 7000, socket: {
  open(s) { s.write("hello"); }, data() {} } }); console.log("ready");`;

/** Connects once and says what came of it: hello, silent, or the error's code. */
const ASK = `const [host, ms] = process.argv.slice(-2);
const { connect } = require("node:net");
const socket = connect(7000, host);
setTimeout(() => say("silent"), Number(ms));
socket.on("data", (d) => say(String(d)));
socket.on("error", (e) => say(e.code));
socket.on("close", () => say("closed"));
function say(word) { console.log(word); process.exit(0); }`;

/** The answer, or that there is none within `patienceMs`. */
async function ask(from: string, to: string, patienceMs = HEARD_MS): Promise<string> {
  const host = network.topology.hosts.find((one) => one.name === to);
  const command = [...network.enter(from), process.execPath, "-e", ASK, host?.address ?? ""];
  const child = Bun.spawn([...command, String(patienceMs)], { stdout: "pipe", timeout: 60_000 });
  return (await new Response(child.stdout).text()).trim();
}

beforeAll(async () => {
  if (impossible !== null) return;
  // Processes of an interrupted run ended with it: their parent held their output.
  removeNamespaces(LAB);
  network = await createNetwork(LAB, { servers: [2, 1], apps: 1 });
  for (const host of ["dc1-1", "dc2-1"]) {
    const server = Bun.spawn([...network.enter(host), process.execPath, "-e", LISTEN], {
      stdout: "pipe",
      timeout: 120_000,
    });
    servers.push(server);
    const reader = server.stdout.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe("ready\n");
    reader.releaseLock();
  }
});

afterAll(async () => {
  if (impossible !== null) return;
  for (const server of servers) {
    server.kill("SIGKILL");
    await server.exited;
  }
  network.remove();
  expect(namespacesOf(LAB)).toEqual([]);
});

test.skipIf(impossible !== null)("a cut is silent both ways, and healing ends it", async () => {
  expect(await ask("dc1-1", "dc2-1")).toBe("hello");
  await network.cut(["dc1-1", "dc1-2"], "dc2-1");
  // Neither a reset, nor an unreachable message, nor an error at the sender.
  expect(
    await Promise.all([ask("dc1-1", "dc2-1", SILENT_MS), ask("dc2-1", "dc1-1", SILENT_MS)]),
  ).toEqual(["silent", "silent"]);
  expect(await ask("arb", "dc2-1")).toBe("hello");
  expect(await ask("dc1-2", "dc1-1")).toBe("hello");
  await network.heal(["dc1-1", "dc1-2"], "dc2-1");
  expect(await ask("dc1-1", "dc2-1")).toBe("hello");
});

test.skipIf(impossible !== null)("a one-way cut stops packets of one direction only", async () => {
  await network.cutOneWay("dc1-1", "dc2-1");
  const { topology } = network;
  const to = (name: string): string => topology.hosts.find((h) => h.name === name)?.address ?? "";
  // A datagram needs no answer, so it shows one direction alone.
  const listen = `const s = await Bun.udpSocket({ port: 7001, socket: { data(_, d) {
    console.log(String(d)); process.exit(0); } } }); console.log("ready");`;
  const receive = async (from: string, at: string, patienceMs = HEARD_MS): Promise<string> => {
    const child = Bun.spawn([...network.enter(at), process.execPath, "-e", listen], {
      stdout: "pipe",
      timeout: 60_000,
    });
    const reader = child.stdout.getReader();
    await reader.read();
    const send = `const s = await Bun.udpSocket({});
      s.send("passed", 7001, "${to(at)}"); setTimeout(() => process.exit(0), 20);`;
    await Bun.spawn([...network.enter(from), process.execPath, "-e", send], { timeout: 60_000 })
      .exited;
    const word = reader.read().then(({ value }) => new TextDecoder().decode(value).trim());
    const heard = await Promise.race([word, Bun.sleep(patienceMs).then(() => "silent")]);
    child.kill();
    return heard;
  };
  expect(await receive("dc1-1", "dc2-1", SILENT_MS)).toBe("silent");
  expect(await receive("dc2-1", "dc1-1")).toBe("passed");
  await network.heal();
  expect(await receive("dc1-1", "dc2-1")).toBe("passed");
});

test.skipIf(impossible !== null)("isolate() cuts a host from all others", async () => {
  await network.isolate("dc2-1");
  expect(
    await Promise.all([ask("arb", "dc2-1", SILENT_MS), ask("dc2-1", "dc1-1", SILENT_MS)]),
  ).toEqual(["silent", "silent"]);
  await network.heal("dc2-1");
  expect(await ask("dc2-1", "dc1-1")).toBe("hello");
});

test.skipIf(impossible !== null)("loss of 100 % is silence, of 0 % is none", async () => {
  await network.lose("arb", "dc1-1", 100);
  expect(await ask("arb", "dc1-1", SILENT_MS)).toBe("silent");
  await network.lose("arb", "dc1-1", 0);
  expect(await ask("arb", "dc1-1")).toBe("hello");
});

test.skipIf(impossible !== null || !existsSync("/dev/net/tun"))(
  "a slow line delays both ways, and nothing once it has ended",
  async () => {
    const took = async (): Promise<number> => {
      const at = performance.now();
      // Three ways: SYN, its answer, and the data after the last acknowledgement.
      expect(await ask("arb", "dc2-1")).toBe("hello");
      return performance.now() - at;
    };
    const line = await network.slow(["dc2-1"], 300);
    expect(await took()).toBeGreaterThan(600);
    expect(await ask("arb", "dc1-1")).toBe("hello");
    await network.cut("arb", "dc2-1");
    expect(await ask("arb", "dc2-1", 1_500)).toBe("silent");
    await network.heal();
    await line.end();
    // Less than one way of before would have taken, and a program's start.
    expect(await ask("arb", "dc2-1")).toBe("hello");
    const again = await network.slow(["dc1-1", "dc1-2"], 1);
    expect(await ask("dc1-1", "dc1-2")).not.toBe("silent");
    expect(await ask("arb", "dc1-1")).toBe("hello");
    await again.end();
  },
  120_000,
);

test.skipIf(impossible !== null)("a cut says when it came into force", async () => {
  const before = wallMs();
  const { fromMs, toMs } = await network.cut(["dc1-1", "dc1-2"], ["dc2-1", "arb"]);
  expect(before).toBeLessThanOrEqual(fromMs);
  expect(fromMs).toBeLessThanOrEqual(toMs);
  expect(toMs).toBeLessThanOrEqual(wallMs());
  expect(await ask("dc1-1", "arb", SILENT_MS)).toBe("silent");
  await network.heal();
});

test.skipIf(impossible !== null)("cutting and healing twice is as good as once", async () => {
  await network.cut("arb", "dc1-1");
  await network.cut("arb", "dc1-1");
  await network.heal("arb", "dc1-1");
  await network.heal("arb", "dc1-1");
  expect(await ask("arb", "dc1-1")).toBe("hello");
});

test.skipIf(impossible !== null)("an unknown host is named with the known ones", async () => {
  await expect(network.cut("arb", "dc9-1")).rejects.toThrow("No host named dc9-1 in this lab");
});

test("a lab on loopback says that it cannot be cut", async () => {
  const loopback = await createNetwork("test-loopback", { loopback: true });
  expect(loopback.namespaced).toBe(false);
  expect(loopback.topology.arbitrator.address).toBe("127.77.3.10");
  await expect(loopback.cut("arb", "dc1-1")).rejects.toBeInstanceOf(MinderError);
  await loopback.heal();
});
