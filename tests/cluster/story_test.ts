/**
 * The whole way through on a real cluster: data centre lost, returned, link cut, healed; then orders
 * of a person, and what live parties do with messages that they should not get.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { until } from "../../lib/lab/exec.ts";
import { type Minded, openMinded } from "../../lib/lab/minded.ts";
import { play, verdictLine } from "../../lib/lab/story.ts";
import { Timeline } from "../../lib/lab/timeline.ts";
import { BODY_MAX_BYTES } from "../../lib/message/envelope.ts";

const BUN = process.execPath;
let minded: Minded;

beforeAll(async () => {
  minded = await openMinded("test-story");
  await minded.start();
}, 180_000);

afterAll(async () => {
  await minded.down();
}, 60_000);

function script(name: string, ...args: string[]): Bun.SyncSubprocess<"pipe", "pipe"> {
  return Bun.spawnSync([BUN, `scripts/${name}.ts`, "--config", minded.configPath, ...args]);
}

/** What a balancer's runtime API shows as admin state and weight of a server. */
function placeOf(app: string, server: string): string {
  const socket = minded.lab.balancers.get(app)?.socket ?? "";
  const shown = Bun.spawnSync([
    BUN,
    "-e",
    `const s = await Bun.connect({ unix: ${JSON.stringify(socket)}, socket: {
       open(s) { s.write("show servers state galera\\n"); },
       data(s, d) { process.stdout.write(d); }, close() { process.exit(0); } } });`,
  ]).stdout.toString();
  const row = shown.split("\n").find((line) => line.split(" ")[3] === server);
  const cells = row?.split(" ") ?? [];
  return `admin=${cells[6]} weight=${cells[7]}`;
}

describe("a minded cluster of two data centres", () => {
  test("is healthy, and says so in an exit code", () => {
    const asked = script("status");
    expect(asked.stderr.toString()).toBe("");
    expect(asked.stdout.toString()).toContain("test-story: healthy - all 4 servers serve");
    expect(asked.exitCode).toBe(0);
  });

  test("outlives the loss of the primary data centre and of the link, and loses no row", async () => {
    const timeline = new Timeline(() => undefined);
    timeline.follow(minded);
    try {
      const verdict = await play(minded, timeline);
      process.stderr.write(`${verdictLine(verdict)}\n`);
      expect(verdict.complaints).toEqual([]);
      expect(verdict.rowsMissing).toBe(0);
      expect(verdict.checksumsEqual).toBe(true);
      expect(verdict.strayWrites).toBe(0);
      expect(verdict.kill.segment).toBe("dc2");
      // Two faults, at least two epochs; an order that failed costs a further one. Numbers only rise.
      const epochs = timeline.entries.flatMap((entry) => {
        const written = /^epoch (\d+) written for/.exec(entry.what);
        return written === null ? [] : [Number(written[1])];
      });
      expect(epochs.length).toBeGreaterThanOrEqual(2);
      expect(epochs).toEqual([...new Set(epochs)].sort((one, other) => one - other));
      await minded.untilSummary("the joint view has closed the epoch", (is) => {
        return is.epochHolder === null;
      });
    } finally {
      timeline.stop();
    }
  }, 300_000);

  test("drains a server at every client, and undrains it", async () => {
    const drained = script("command", "drain", "dc2-1", "--why", "new disk");
    expect(drained.stdout.toString()).toBe("ok: drain: dbserver.3\n");
    expect(drained.exitCode).toBe(0);
    for (const app of ["app1", "app2"]) {
      await until(`${app} has drained dc2-1`, () => isOut(placeOf(app, "dc2-1")), {
        timeoutMs: 30_000,
      });
    }
    const summary = await minded.untilSummary("dc2-1 says that it is draining", (is) =>
      is.servers.some((server) => server.name === "dc2-1" && server.report?.draining === true),
    );
    expect(
      summary.servers.filter((server) => server.draining).map((server) => server.name),
    ).toEqual(["dc2-1"]);
    expect(script("command", "undrain", "dc2-1").exitCode).toBe(0);
    await minded.untilSummary("nobody drains", (is) =>
      is.servers.every((server) => !server.draining && server.report?.draining === false),
    );
  });

  test("refuses an order for a server that is not there, with the names that are", () => {
    const refused = script("command", "drain", "dc9-1");
    expect(refused.exitCode).toBe(1);
    expect(refused.stdout.toString()).toContain(
      "refused: no server or segment is called dc9-1: there are dc1-1, dc1-2, dc2-1, dc2-2",
    );
  });

  test("answers hostile messages with a 4xx and a reason, and nothing else happens", async () => {
    const before = await minded.summary();
    const refusals = await postHostile();
    expect(refusals.map(({ what, status }) => `${what}: ${status}`)).toEqual([
      "not JSON: 400",
      "oversized: 413",
      "unknown sender: 403",
      "wrong receiver: 421",
      "not routed: 403",
      "bad parameters: 400",
    ]);
    for (const { what, error } of refusals) expect(`${what}: ${error}`.length).toBeGreaterThan(20);
    const after = await minded.summary();
    expect(after?.epoch).toBe(before?.epoch ?? -1);
    expect(after?.notedView).toBe(before?.notedView ?? "");
    expect(minded.minder("arb").ended()).toBeNull();
    expect(minded.minder("dc1-1").ended()).toBeNull();
  });

  test("stops on SIGTERM in order, and the database runs on", async () => {
    const watchdog = minded.minder("dc1-1");
    await watchdog.stop(30_000);
    expect(watchdog.ended()).toBe(0);
    expect((await minded.lab.status("dc1-1"))?.get("wsrep_cluster_status")).toBe("Primary");
    const degraded = await minded.untilHealth("degraded");
    expect(degraded.because).toContain("dc1-1");
    expect(script("status", "--quiet").exitCode).toBe(1);
    minded.startMinder("dc1-1");
    await minded.untilHealth("healthy");
  });

  test("says that it cannot tell when the arbitrator is gone, and serves on by vouches", async () => {
    await minded.minder("arb").stop(30_000);
    expect(script("status", "--timeout-ms", "500").exitCode).toBe(3);
    // A lease lasts 3 s, so after 4 s only vouches can keep the door open.
    const until4s = performance.now() + 4_000;
    while (performance.now() < until4s) {
      const rows = await minded.lab.query("dc1-1", "SELECT @@global.wsrep_reject_queries AS value");
      expect(rows[0]?.["value"]).toBe("NONE");
      await Bun.sleep(250);
    }
    minded.startMinder("arb");
    await minded.untilHealth("healthy");
  }, 120_000);
});

function isOut(place: string): boolean {
  return place.includes("weight=0") || /admin=(?!0 )/.test(place);
}

interface Refusal {
  readonly what: string;
  readonly status: number;
  readonly error: string;
}

/** Posts what a party must refuse to a watchdog and to the arbitrator, from inside the network. */
async function postHostile(): Promise<readonly Refusal[]> {
  const message = {
    v: 1,
    sender: "dbserver.2",
    receiver: "dbserver.1",
    session: "hostile",
    seq: 1,
    toSession: "",
    configVersion: 1,
    verb: "db_status_report",
    parameters: {},
  };
  const bodies: readonly (readonly [string, string])[] = [
    ["not JSON", "{{{"],
    ["oversized", ""],
    ["unknown sender", JSON.stringify(notifyFrom("wsrep_notify_cmd.9", "dbserver.1"))],
    ["wrong receiver", JSON.stringify(notifyFrom("wsrep_notify_cmd.2", "dbserver.2"))],
    ["not routed", JSON.stringify({ ...message, sender: "dbclient.1", receiver: "arbitrator.1" })],
    ["bad parameters", JSON.stringify(message)],
  ];
  const program = `
    const refusals = [];
    for (const [what, told] of ${JSON.stringify(bodies)}) {
      const body = what === "oversized" ? " ".repeat(${BODY_MAX_BYTES + 1}) : told;
      const response = await fetch("http://10.77.1.11:9471/messages", {
        method: "POST", headers: { "content-type": "application/json" }, body });
      refusals.push({ what, status: response.status, error: (await response.json()).error });
    }
    console.log(JSON.stringify(refusals));`;
  const posted = minded.lab.network.enter("dc1-1");
  const child = Bun.spawn([...posted, BUN, "-e", program], { stdout: "pipe", stderr: "inherit" });
  return JSON.parse(await new Response(child.stdout).text());
}

function notifyFrom(sender: string, receiver: string): object {
  return {
    v: 1,
    sender,
    receiver,
    session: "hostile",
    seq: 1,
    toSession: "",
    configVersion: 1,
    verb: "wsrep_notify_cmd",
    parameters: { status: "synced", uuid: null, primary: true, index: 0, members: [] },
  };
}
