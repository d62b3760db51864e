import { afterEach, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import type { Heard } from "../lib/core/dbclient_policy.ts";
import {
  agentLine,
  createHealthApp,
  type HealthOptions,
  type HealthServer,
  startHealth,
} from "../lib/health.ts";
import type { Report } from "../lib/message/dbserver.ts";
import type { PartyId } from "../lib/message/envelope.ts";
import { clientCluster, idOf, servingReport } from "./support/client_cluster.ts";
import {
  HaproxyFixture,
  hasHaproxy,
  NamedServer,
  namesThrough,
  openThrough,
  until,
} from "./support/haproxy.ts";

const config = clientCluster();

/** What the watchdog of `self` has heard, for the test to change. */
class Watchdog {
  readonly self: PartyId;
  readonly heard = new Map<PartyId, Heard>();
  now = 10_000;
  /** How often it was asked. */
  asked = 0;

  constructor(name: string) {
    this.self = idOf(config, name);
    for (const server of config.servers) this.hear(server.name);
  }

  hear(name: string, changes: Partial<Report> = {}): void {
    const report = servingReport(config, changes);
    this.heard.set(idOf(config, name), { report, heardAt: this.now });
  }

  get options(): HealthOptions {
    const { self, heard } = this;
    const view = () => {
      this.asked++;
      return { config, self, heard };
    };
    return { view, now: () => this.now };
  }
}

describe("answers from the watchdog's reports", () => {
  const paths = ["/", "/primary", "/replica", "/readiness", "/liveness"];
  const table: readonly (readonly [
    string,
    string,
    Readonly<Record<string, Partial<Report>>>,
    readonly number[],
    string,
  ])[] = [
    ["the writer", "a1", {}, [200, 200, 503, 200, 200], "up 100%\n"],
    ["another one that serves", "a2", {}, [200, 503, 200, 200, 200], "up 100%\n"],
    ["the next writer", "a2", { a1: { fenced: true } }, [200, 200, 503, 200, 200], "up 100%\n"],
    ["fenced", "a1", { a1: { fenced: true } }, [503, 503, 503, 503, 200], "down #it is fenced\n"],
    [
      "down",
      "a1",
      { a1: { running: "down" } },
      [503, 503, 503, 503, 200],
      "down #mariadbd is down\n",
    ],
    [
      "non-Primary",
      "a1",
      { a1: { primary: "no" } },
      [503, 503, 503, 503, 200],
      "down #it is not Primary\n",
    ],
    ["drained", "a1", { a1: { draining: true } }, [503, 503, 503, 503, 200], "up 0%\n"],
    ["leaving", "b1", { b1: { leaving: true } }, [503, 503, 503, 503, 200], "up 0%\n"],
    [
      "a donor beside others",
      "a2",
      { a2: { localState: "Donor/Desynced" } },
      [503, 503, 503, 200, 200],
      "up 0%\n",
    ],
    [
      "a donor, and the last one",
      "a1",
      {
        a1: { localState: "Donor/Desynced" },
        a2: { fenced: true },
        b1: { fenced: true },
        b2: { fenced: true },
      },
      [200, 200, 503, 200, 200],
      "up 100%\n",
    ],
    [
      "under flow control",
      "b1",
      { b1: { flowControl: 0.5 } },
      [200, 503, 200, 200, 200],
      "up 25%\n",
    ],
  ];
  for (const [name, self, changes, statuses, line] of table) {
    test(name, async () => {
      const watchdog = new Watchdog(self);
      for (const [other, change] of Object.entries(changes)) watchdog.hear(other, change);
      const app = createHealthApp(watchdog.options);
      const found = await Promise.all(paths.map(async (path) => (await app.request(path)).status));
      expect(found).toEqual([...statuses]);
      expect(agentLine(watchdog.options)).toBe(line);
    });
  }

  test("a report older than its bound is a refusal everywhere", async () => {
    const watchdog = new Watchdog("a1");
    const app = createHealthApp(watchdog.options);
    watchdog.now += config.timing.suspectMs;
    expect((await app.request("/")).status).toBe(200);
    watchdog.now += 1;
    for (const path of paths) {
      const response = await app.request(path);
      expect([path, response.status]).toEqual([path, 503]);
      expect(await response.text()).toContain("no fresh report: 2001 ms old");
    }
    expect(agentLine(watchdog.options)).toBe("down #no fresh report: 2001 ms old\n");
    watchdog.hear("a1", { pollAgeMs: 2500 });
    expect((await app.request("/")).status).toBe(503);
    watchdog.heard.clear();
    expect(await (await app.request("/liveness")).text()).toContain("nothing is known yet");
  });

  test("GET, HEAD and OPTIONS are answered alike, other methods and paths are refused", async () => {
    const watchdog = new Watchdog("a1");
    const app = createHealthApp(watchdog.options);
    for (const method of ["GET", "HEAD", "OPTIONS"]) {
      const response = await app.request("/", { method });
      expect([method, response.status]).toEqual([method, 200]);
      expect(await response.text()).toBe(
        method === "HEAD" ? "" : "Galera Cluster Node is synced.\r\n",
      );
    }
    expect((await app.request("/", { method: "POST" })).status).toBe(405);
    expect((await app.request("/primay")).status).toBe(404);
  });
});

describe.skipIf(!hasHaproxy)("a real HAProxy that nobody minds", () => {
  let stops: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const stop of stops.reverse()) await stop();
    stops = [];
  });

  async function start(
    words: (server: HealthServer) => string,
    first: readonly string[] = [],
  ): Promise<{
    haproxy: HaproxyFixture;
    watchdogs: readonly Watchdog[];
  }> {
    const names = ["a1", "a2"];
    const watchdogs = names.map((name) => new Watchdog(name));
    const servers = [];
    const lines: string[] = [...first];
    for (const [index, name] of names.entries()) {
      const server = await NamedServer.start(name);
      stops.push(() => server.stop());
      const watchdog = watchdogs[index];
      if (watchdog === undefined) throw new Error("no watchdog");
      const health = await startHealth({
        ...watchdog.options,
        host: "127.0.0.1",
        httpPort: 0,
        agentPort: 0,
      });
      stops.push(() => health.stop());
      servers.push({ name, port: server.port });
      lines.push(`server ${name} 127.0.0.1:${server.port} weight 100 ${words(health)}`);
    }
    const haproxy = await HaproxyFixture.start({ servers: [], backendLines: lines });
    stops.push(() => haproxy.stop());
    return { haproxy, watchdogs };
  }

  for (const check of [
    "option httpchk",
    "option httpchk GET /",
    "option httpchk HEAD /",
    "option httpchk OPTIONS /",
  ]) {
    test(`follows the health endpoints with ${check}`, async () => {
      const { haproxy, watchdogs } = await start(
        ({ httpPort }) => `check port ${httpPort} inter 50ms fall 1 rise 1`,
        [check],
      );
      const [a1] = watchdogs;
      await until("both serve", async () => (await namesThrough(haproxy.port)).length === 2);
      a1?.hear("a1", { fenced: true });
      await until("a1 is out", async () => (await namesThrough(haproxy.port)).join() === "a2");
      a1?.hear("a1");
      await until("a1 is back", async () => (await namesThrough(haproxy.port)).length === 2);
    });
  }

  test("follows the agent-check: down cuts off, drain keeps sessions, and both come back", async () => {
    const { haproxy, watchdogs } = await start(
      ({ agentPort }) => `agent-check agent-port ${agentPort} agent-inter 50ms agent-send "hi\\n"`,
    );
    const [a1] = watchdogs;
    const status = async (): Promise<readonly string[]> => {
      const stat = await haproxy.ask("show stat galera 4 -1");
      const columns = stat.split("\n")[0]?.split(",") ?? [];
      const row = stat.split("\n").find((line) => line.startsWith("galera,a1,")) ?? "";
      return ["status", "weight", "last_agt"].map(
        (name) => row.split(",")[columns.indexOf(name)] ?? "",
      );
    };
    await until("both serve", async () => (await namesThrough(haproxy.port)).length === 2);
    const held = await openThrough(haproxy.port);
    a1?.hear("a1", { draining: true });
    await until("a1 drains", async () => (await status())[1] === "0");
    expect(await namesThrough(haproxy.port)).toEqual(["a2"]);
    expect(held.closed()).toBe(false);
    a1?.hear("a1", { flowControl: 0.5 });
    await until("a1 has a part", async () => (await status())[1] === "25");
    a1?.hear("a1", { fenced: true });
    await until("a1 is down", async () => (await status())[0]?.startsWith("DOWN") ?? false);
    expect(await namesThrough(haproxy.port)).toEqual(["a2"]);
    a1?.hear("a1");
    await until("a1 is back", async () => (await namesThrough(haproxy.port)).length === 2);
    // What a person sets at HAProxy is not undone by the agent.
    await haproxy.ask("set server galera/a1 state maint");
    // Four more lines: at least three of them have been read.
    const lines = a1?.asked ?? 0;
    await until("the agent has spoken on", () => (a1?.asked ?? 0) >= lines + 4);
    expect((await status())[0]).toBe("MAINT");
    held.end();
  });

  test("a watchdog that stopped watching is out, by both checks", async () => {
    const { haproxy, watchdogs } = await start(
      ({ httpPort, agentPort }) =>
        `check port ${httpPort} inter 50ms fall 1 rise 1 agent-check agent-port ${agentPort} agent-inter 50ms`,
      ["option httpchk"],
    );
    await until("both serve", async () => (await namesThrough(haproxy.port)).length === 2);
    const [a1] = watchdogs;
    if (a1 !== undefined) a1.now += 60_000;
    await until("a1 is out", async () => (await namesThrough(haproxy.port)).join() === "a2");
  });
});

test("a port that is taken is an error that says what to set", async () => {
  const watchdog = new Watchdog("a1");
  const listen = { ...watchdog.options, host: "127.0.0.1" };
  const first = await startHealth({ ...listen, httpPort: 0, agentPort: 0 });
  await expect(
    startHealth({ ...listen, httpPort: first.httpPort, agentPort: null }),
  ).rejects.toThrow("Cannot listen for health endpoints");
  await expect(
    startHealth({ ...listen, httpPort: null, agentPort: first.agentPort }),
  ).rejects.toThrow("Cannot listen for agent-check");
  await first.stop();
  const none = await startHealth({ ...listen, httpPort: null, agentPort: null });
  expect([none.httpPort, none.agentPort]).toEqual([null, null]);
  await none.stop();
});

test("a request without a host, as HTTP/1.0 has it, finds every path", async () => {
  const server = await startHealth({
    ...new Watchdog("a1").options,
    host: "127.0.0.1",
    httpPort: 0,
    agentPort: null,
  });
  try {
    for (const [path, status] of [
      ["/", 200],
      ["/primary", 200],
      ["/replica", 503],
      ["/nowhere", 404],
    ] as const) {
      for (const method of ["GET", "HEAD", "OPTIONS"]) {
        const reply = await rawRequest(server.httpPort ?? 0, `${method} ${path} HTTP/1.0`);
        expect(`${method} ${path} ${reply}`).toContain(`${method} ${path} HTTP/1.1 ${status}`);
      }
    }
  } finally {
    await server.stop();
  }
});

/** Sends a request line and nothing else, and answers with the status line. */
function rawRequest(port: number, line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(`${line}\r\n\r\n`));
    socket.setTimeout(20_000, () => socket.destroy(new Error(`no answer to ${line}`)));
    socket.on("error", reject);
    socket.once("data", (data) => {
      socket.destroy();
      resolve(data.toString().split("\r\n")[0] ?? "");
    });
  });
}
