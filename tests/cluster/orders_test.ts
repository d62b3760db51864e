/**
 * Orders of people on a real cluster: what each dry run says is what the order then does, to the
 * servers, the balancers and the rows; what `what-if` foretells is what then happens; and all of it is
 * in the history. One lab for all, in the order of one long night.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Forecast } from "../../lib/core/what_if.ts";
import { until } from "../../lib/lab/exec.ts";
import { longestGap, wallMs } from "../../lib/lab/journal.ts";
import { type Minded, openMinded } from "../../lib/lab/minded.ts";
import type { Happened, Plan, Summary } from "../../lib/message/arbitrator.ts";
import type { Report } from "../../lib/message/dbserver.ts";

const SCRIPTS = join(import.meta.dir, "../../scripts");
const APP = "app1";
setDefaultTimeout(240_000);
/** What takes a second takes longer where several clusters share the machine. */
const BUSY_MS = 90_000;
let minded: Minded;

beforeAll(async () => {
  minded = await openMinded("test-orders");
  try {
    await minded.start();
    minded.lab.startApp(APP);
    await writersTo("dc1");
  } catch (error) {
    await minded.down();
    throw error;
  }
}, 200_000);

afterAll(async () => {
  await minded.down();
}, 60_000);

// --- asking and ordering -------------------------------------------------------------------------

function run(script: string, ...words: string[]) {
  const ran = Bun.spawnSync([
    process.execPath,
    join(SCRIPTS, `${script}.ts`),
    "--config",
    minded.configPath,
    ...words,
  ]);
  return { code: ran.exitCode, out: ran.stdout.toString(), err: ran.stderr.toString() };
}

/** What a dry run says. */
function dryRun(...words: string[]): Plan {
  const { out, err } = run("command", "--who", "eve", "--json", "--dry-run", ...words);
  expect(err).toBe("");
  return JSON.parse(out) as Plan;
}

/**
 * Asks what the order would do, gives it, and holds the answer against what was said. On a busy machine
 * the state may change between the two: a refusal that another dry run then explains is asked again.
 */
function order(...words: string[]): Plan {
  let plan = dryRun(...words);
  let given = run("command", "--who", "eve", ...words);
  for (let again = 0; again < 10 && given.code === 1 && plan.outcome !== "refused"; again++) {
    Bun.sleepSync(500);
    plan = dryRun(...words);
    given = run("command", "--who", "eve", ...words);
  }
  expect({ words, code: given.code, out: given.out.trim(), err: given.err }).toEqual({
    words,
    code: plan.outcome === "refused" ? 1 : 0,
    out: `${plan.outcome === "refused" ? "refused" : "ok"}: ${plan.because}`,
    err: "",
  });
  return plan;
}

function whatIf(fault: string): Forecast {
  return JSON.parse(run("what_if", "--json", fault).out) as Forecast;
}

/** A page of status, for a stranger's eyes where GM_SAY is set. */
function page(stage: string): string {
  const { out } = run("status");
  if (process.env["GM_SAY"] !== undefined) process.stderr.write(`\n=== ${stage}\n${out}\n`);
  return out;
}

function segmentOf(host: string): string {
  return minded.config.serverByName.get(host)?.segment ?? "";
}

function writersIn(summary: Summary): readonly string[] {
  return summary.servers.filter(({ report }) => (report?.writers ?? 0) > 0).map(({ name }) => name);
}

/** All client minders have their writer in that segment, and nobody's is elsewhere. */
async function untilWriter(segment: string): Promise<Summary> {
  const wished = (is: Summary) => {
    const at = writersIn(is);
    return at.length > 0 && at.every((host) => segmentOf(host) === segment);
  };
  return await minded.untilSummary(`writers are in ${segment}`, wished, BUSY_MS);
}

/** While servers were only being found, a balancer may have begun on the other side. */
async function writersTo(segment: string): Promise<void> {
  const clients = minded.lab.network.topology.apps.length;
  // What nobody has reported yet, a switchover cannot move; nor to where commits have not been seen to flow.
  await minded.untilSummary("all is calm, and every client minder has a writer", (is) => {
    const writers = is.servers.reduce((sum, { report }) => sum + (report?.writers ?? 0), 0);
    const flows = is.servers.every(({ report }) => report?.probe === "flowing");
    return is.health === "healthy" && is.epochHolder === null && writers >= clients && flows;
  });
  const given = run("command", "--who", "eve", "switchover", segment);
  if (given.code !== 0) throw new Error(`${given.out}${given.err}`);
  await untilQuiet();
  await untilWriter(segment);
}

async function untilQuiet(): Promise<Summary> {
  return await minded.untilSummary("no order stands", (is) => is.orders.length === 0, BUSY_MS);
}

async function alone(segment: string): Promise<Summary> {
  return await minded.untilSummary(
    `${segment} serves alone`,
    (is) =>
      is.epochHolder === segment &&
      is.servers.every(
        ({ report, heardAgoMs, segment: own }) =>
          (report?.serving === "on" && (heardAgoMs ?? 0) < 2_000) === (own === segment),
      ),
  );
}

/** Rows that the application had been told are in between two moments, and that some server lacks. */
async function missingRows(
  byMs: number,
  fromMs = Number.NEGATIVE_INFINITY,
): Promise<readonly string[]> {
  const hosts = [...minded.lab.servers.keys()];
  const checks = await Promise.all(hosts.map((host) => minded.lab.checkRows(host)));
  const missing = checks.flatMap((check) =>
    check.missing.filter(({ startMs, endMs }) => startMs >= fromMs && endMs <= byMs),
  );
  return [...new Set(missing.map(({ writer, number }) => `${writer}/${number}`))];
}

/**
 * Every row that was acknowledged until now, from a moment on, is on every server, once each has applied
 * what it received.
 */
async function expectNothingLost(fromMs = Number.NEGATIVE_INFINITY): Promise<void> {
  const byMs = wallMs();
  let missing: readonly string[] = [];
  const deadline = byMs + 30_000;
  do {
    missing = await missingRows(byMs, fromMs);
  } while (missing.length > 0 && wallMs() < deadline);
  expect(missing).toEqual([]);
}

// --- the night ---------------------------------------------------------------------------------------

describe("in calm", () => {
  test("status says what is, and what would happen next", () => {
    const text = page("calm");
    expect(text).toContain("test-orders: healthy - all 4 servers serve");
    expect(text).toContain("view     one view of both sides: dc1-1, dc1-2, dc2-1, dc2-2");
    expect(text).toContain("if dc1 is lost: dc2 serves alone, writes stop for about");
    expect(text).toContain("if the arbitrator is lost: all that is left serves on, writes go on");
  });

  test("a drain of the writer moves it, is safe to repeat, and is its owner's", async () => {
    const [writer = ""] = writersIn(await untilWriter("dc1"));
    const plan = order("drain", writer, "--why", "new disk", "--deadline", "2");
    expect(plan.outcome).toBe("would");
    expect(plan.steps.join("\n")).toContain(`as their writer: they choose another`);
    await minded.untilSummary(
      "the writer has moved",
      (is) => writersIn(is).length > 0 && !writersIn(is).includes(writer),
    );
    await minded.untilSummary("sessions left are cut", (is) =>
      is.servers.some(({ name, report }) => name === writer && report?.cutting === true),
    );
    page("drained");
    expect(order("drain", writer, "--deadline", "2").outcome).toBe("already");
    const bob = run("command", "--who", "bob", "undrain", writer);
    expect(bob.code).toBe(1);
    expect(bob.out).toContain("refused: eve drains dbserver.");
    expect(bob.out).toContain("new disk");
    expect(order("undrain", writer).outcome).toBe("would");
    expect(order("undrain", writer).outcome).toBe("already");
    await untilQuiet();
  });

  test("a drain below its floor is refused, and changes nothing", async () => {
    const before = await minded.summary();
    expect(order("drain", "dc1", "--floor", "3")).toMatchObject({ outcome: "refused" });
    expect((await minded.summary())?.orders).toEqual(before?.orders ?? []);
  });

  test("make_primary of a side that serves jointly is refused by the rule that the dry run names", () => {
    const plan = order("make_primary", "dc2");
    expect(plan.because).toStartWith("candidate.exists: dc2 is in a joint view");
  });

  test("retire takes a server's say and restore gives it back", async () => {
    expect(order("retire", "dc2-2").steps.join("\n")).toContain(
      "dc2: 1 of 2 servers have a say, 1 of them promote it",
    );
    const told = await minded.untilSummary("it is retired", (is) =>
      is.servers.some(({ name, retired }) => name === "dc2-2" && retired),
    );
    expect(told.orders).toMatchObject([{ verb: "retire", about: "dbserver.4", who: "eve" }]);
    expect(order("retire", "dc2-2").outcome).toBe("already");
    expect(order("restore", "dc2-2").outcome).toBe("would");
    await untilQuiet();
  });
});

describe("a switchover", () => {
  test("moves every writer, cuts what is left, loses no row, and is done by itself", async () => {
    // The drain may have sent them to the other side: a neighbour that has just started comes after it.
    await writersTo("dc1");
    await until(
      "the dry run names the writers that would move",
      () =>
        /single writers leave dc1-\d for a server of dc2/.test(
          dryRun("switchover", "dc2").steps.join(),
        ),
      { timeoutMs: BUSY_MS, pauseMs: 500 },
    );
    const plan = order("switchover", "dc2", "--deadline", "3", "--why", "power work in dc1");
    expect(plan.outcome).toBe("would");
    const startedAt = wallMs();
    await untilWriter("dc2");
    page("switchover under way");
    const done = await untilQuiet();
    expect(done.primarySegment).toBe("dc2");
    expect(done.health).toBe("healthy");
    const gap = longestGap(minded.lab.journal(APP), startedAt - 1_000);
    process.stderr.write(`  longest gap of a switchover: ${Math.round(gap?.lengthMs ?? 0)} ms\n`);
    await expectNothingLost();
    await until("nothing is left to move", () => order("switchover", "dc2").outcome === "already", {
      timeoutMs: BUSY_MS,
      pauseMs: 500,
    });
  });

  test("is aborted: writers end where they were", async () => {
    await until(
      "dc1 could take the writers",
      () => dryRun("switchover", "dc1").outcome === "would",
      { timeoutMs: BUSY_MS, pauseMs: 500 },
    );
    expect(order("switchover", "dc1", "--deadline", "20").outcome).toBe("would");
    await untilWriter("dc1");
    expect(order("switchover", "--abort")).toMatchObject({
      outcome: "would",
      because: "switchover aborted: writers move back to dc2",
    });
    const done = await untilQuiet();
    expect(done.primarySegment).toBe("dc2");
    await untilWriter("dc2");
    await expectNothingLost();
    expect(order("switchover", "--abort").outcome).toBe("already");
  });
});

describe("a pause, and a person who decides", () => {
  test("paused, a cut leaves nobody serving, and status says so and why", async () => {
    expect(order("pause", "--why", "new switch").outcome).toBe("would");
    expect(order("pause", "--why", "new switch").outcome).toBe("already");
    expect(whatIf("link-down").serving).toEqual([]);
    await minded.cutLink();
    await minded.untilSummary("nobody serves", (is) =>
      is.servers.every(({ report }) => report?.primary === "no" && report.fenced),
    );
    const text = page("paused and cut");
    expect(text).toContain("no writable primary - no server accepts writes");
    expect(text).toContain("order    PAUSED: nothing is promoted or started by itself, by eve");
    expect(text).toContain("dc2: does not serve, and is not promoted: not.paused");
  });

  test("another person is refused with the first one's name", () => {
    const bob = run("command", "--who", "bob", "make_primary", "dc2");
    expect(bob.code).toBe(1);
    expect(bob.out).toContain("eve has paused automatic decisions: new switch");
  });

  test("make_primary of the better side does what its dry run said", async () => {
    const before = await minded.summary();
    const plan = order("make_primary", "dc2");
    expect(plan.outcome).toBe("would");
    expect(plan.steps[0]).toBe(
      `epoch ${(before?.epoch ?? 0) + 1} is written down, then dc2-1, dc2-2 form the Primary`,
    );
    const after = await alone("dc2");
    expect(after.epochHolder).toBe("dc2");
    expect(after.epoch).toBe((before?.epoch ?? 0) + 1);
    page("promoted by a person, link cut");
    expect(order("resume").outcome).toBe("would");
    await minded.healLink();
    await minded.untilHealth("healthy", BUSY_MS);
    page("healed");
    await minded.untilSummary("the epoch is closed", (is) => is.epochHolder === null);
    await expectNothingLost();
  });
});

describe("what-if", () => {
  test("foretells the loss of the data centre that writes, and that is what happens", async () => {
    // Whoever was a donor when the other side came back has lost its writers, and none goes back by itself.
    await writersTo("dc2");
    const foretold = whatIf("dc2-down");
    expect(foretold.serving).toEqual(["dc1"]);
    const [least, , most] = foretold.stopMs ?? [0, 0, 0];
    const lostAt = wallMs();
    await minded.powerOff("dc2");
    await alone("dc1");
    const text = page("dc2 is dead, dc1 promoted");
    expect(text).toContain("dc1 holds epoch");
    await until("the application writes again", () => acknowledgedAfter(lostAt + 4_000), {
      timeoutMs: BUSY_MS,
    });
    const gapMs = longestGap(minded.lab.journal(APP), lostAt - 1_000)?.lengthMs ?? 0;
    process.stderr.write(
      `  foretold ${foretold.stopMs?.map(Math.round).join(", ")} ms; happened: ${Math.round(gapMs)} ms without a row\n`,
    );
    // A busy machine is slower than Galera's measured slowest, never quicker than its quickest.
    expect(gapMs).toBeGreaterThan(least - 1_500);
    expect(gapMs).toBeLessThan(most + 12_000);
  });

  test("with one side left: nobody would serve if that is lost as well", () => {
    expect(whatIf("dc1-down").serving).toEqual([]);
    expect(whatIf("arbitrator-down").serving).toEqual(["dc1"]);
  });
});

describe("accepting loss", () => {
  let stated = 0;

  /** The order with what is typed to confirm the loss. */
  function force(...words: string[]) {
    return run("command", "--who", "eve", "make_primary", "dc2", "--force", ...words);
  }

  test("make_primary of a side that lacks commits states them, and is carried out only when that is confirmed", async () => {
    // dc1 has gone on alone; now it burns down, and dc2 boots with what it had.
    await minded.powerOff("dc1");
    await minded.powerOn("dc2");
    await minded.untilSummary(
      "dc2 says where it stands, dc1 is long silent",
      (is) =>
        is.servers.every(({ segment, heardAgoMs, report }) =>
          segment === "dc2"
            ? (heardAgoMs ?? 9_999) < 2_000 && report?.position !== null
            : (heardAgoMs ?? 0) > 6_000,
        ),
      BUSY_MS,
    );
    const text = page("dc1 has burnt down, dc2 is back without its commits");
    expect(text).toContain("outage.silent");
    expect(order("make_primary", "dc2").because).toContain("outage.silent");
    const plan = dryRun("make_primary", "dc2", "--force", "--allow-data-loss");
    const { loss } = plan;
    if (loss === null) throw new Error("no loss is stated");
    process.stderr.write(`  stated: ${loss.because}\n`);
    stated = loss.transactions;
    expect(loss.exact).toBe(false);
    expect(loss.transactions).toBeGreaterThan(0);
    for (const words of [[], ["--confirm", "yes"], ["--confirm", "lose 1 transaction"]]) {
      const refused = force("--allow-data-loss", ...words);
      expect(refused.code).toBe(1);
      expect(refused.err).toContain("Not confirmed");
    }
    await minded.untilSummary("nothing has changed", (is) => is.epochHolder === "dc1");
    const given = force("--allow-data-loss", "--confirm", loss.confirmation);
    expect(given.out).toStartWith("ok: dc2 is started with what it has: dc2-");
    const after = await minded.untilSummary(
      "dc2 serves alone",
      (is) =>
        is.servers.every(({ segment, report, heardAgoMs }) =>
          segment === "dc2" ? report?.serving === "on" : (heardAgoMs ?? 0) > 2_000,
        ),
      BUSY_MS,
    );
    expect(after.epochHolder).toBe("dc2");
    page("dc2 started by force");
  });

  test("the other side returns by full state transfer, and some rows are missing, as was stated", async () => {
    await minded.powerOn("dc1");
    await minded.untilHealth("healthy", 120_000);
    page("all are back");
    const missing = await missingRows(wallMs() - 5_000);
    process.stderr.write(
      `  rows acknowledged and missing: ${missing.length}; transactions known to be lost: ${stated}\n`,
    );
    // Rows are some of the transactions, and some came after the last report.
    expect(missing.length).toBeGreaterThan(0);
  });
});

describe("a full transfer by order", () => {
  const NODE = "dc2-2";

  async function untilNode(what: string, wished: (report: Report) => boolean): Promise<void> {
    await minded.untilSummary(
      what,
      (is) =>
        is.servers.some(({ name, report }) => name === NODE && report !== null && wished(report)),
      BUSY_MS,
    );
  }

  test("waits for its drain, takes all of another's data, and keeps the old until that is discarded", async () => {
    await minded.untilHealth("healthy", BUSY_MS);
    // What was lost by a person's word before stays lost.
    const fromMs = wallMs();
    const before = (await minded.summary())?.servers.find(({ name }) => name === NODE)?.report;
    const kept = before?.aside?.length ?? 0;
    expect(order("reseed", NODE).because).toBe(
      `clients.gone: ${NODE} takes clients: say drain ${NODE} first`,
    );
    expect(order("drain", NODE).outcome).toBe("would");
    await untilNode("it is drained", ({ draining }) => draining);
    const plan = order("reseed", NODE, "--why", "doubtful disk");
    expect(plan.outcome).toBe("would");
    expect(plan.steps[0]).toBe(`${NODE} leaves the cluster and stops; sessions there end`);
    await untilNode(
      "it is back, and its old data is set aside",
      ({ localState, primary, aside, diverged }) =>
        primary === "yes" && localState === "Synced" && !diverged && aside?.length === kept + 1,
    );
    page("reseeded");
    expect(order("undrain", NODE).outcome).toBe("would");
    await minded.untilHealth("healthy", BUSY_MS);
    await expectNothingLost(fromMs);
    expect(order("discard", NODE).outcome).toBe("would");
    await untilNode("the old data is gone", ({ aside = [] }) => aside.length === 0);
    expect(order("discard", NODE).outcome).toBe("already");
  });
});

describe("the history", () => {
  function history(
    ...words: string[]
  ): readonly (Happened & { fields: Record<string, unknown> })[] {
    return run("history", "--json", "--limit", "5000", ...words)
      .out.split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line));
  }

  test("has every order with who and why, every epoch with its evidence, and all changes, after kill -9", async () => {
    const asked = history("--ask").map(({ event }) => event);
    expect(asked).toContain("order");
    process.kill(minded.minder("arb").pid, "SIGKILL");
    await until("it is gone", () => minded.minder("arb").ended() !== null, { timeoutMs: BUSY_MS });
    const all = history();
    const orders = all
      .filter(({ event }) => event === "order")
      .map(({ fields }) => `${fields["who"]} ${fields["order"]} ${fields["outcome"]}`);
    for (const each of [
      "eve drain would",
      "eve drain already",
      "bob undrain refused",
      "eve drain refused",
      "eve retire would",
      "eve switchover would",
      "eve pause would",
      "bob make_primary refused",
      "eve make_primary would",
      "eve resume would",
      "eve reseed refused",
      "eve reseed would",
    ]) {
      expect(orders).toContain(each);
    }
    const events = new Set(all.map(({ event }) => event));
    for (const each of ["epoch_opened", "promoted", "epoch_closed", "server", "server_silent"]) {
      expect(events).toContain(each);
    }
    expect(events).toContain("health");
    expect(events).toContain("switchover_done");
    for (const { event, fields } of all) {
      if (event === "epoch_opened") expect(fields["evidence"]).toHaveLength(4);
    }
    expect(all.map(({ seq }) => seq)).toEqual(all.map((_, index) => index + 1));
    const text = run("history", "--since", "1h", "--limit", "5000").out;
    expect(text).toContain("ORDER drain");
    expect(text).toContain("by eve (new disk): done");
  });
});

function acknowledgedAfter(atMs: number): boolean {
  return minded.lab
    .journal(APP)
    .some((attempt) => attempt.outcome === "acknowledged" && attempt.endMs > atMs);
}
