/**
 * Nobody else gets in, on a real cluster: every message of a failover recorded on the wire and sent
 * again, wrong secrets and none, secrets replaced while all runs, and no secret in anything that the
 * programs leave behind.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { until } from "../../lib/lab/exec.ts";
import { type Minded, openMinded } from "../../lib/lab/minded.ts";
import { RECORD_MARK, type Recorded, readRecorded } from "../../lib/lab/record.ts";

const BUN = process.execPath;
const RECORD = join(import.meta.dir, "../../lib/lab/record.ts");
/** A host of its own on the network, for whoever listens on the wire. */
const OUTSIDER = "app1";
let minded: Minded;

beforeAll(async () => {
  minded = await openMinded("test-security", {
    apps: 1,
    record: true,
    timing: ["promotion_window_ms = 0"],
  });
  await minded.start();
}, 90_000);

afterAll(async () => {
  await minded.down();
}, 30_000);

/** Gives an order as a person does, noted like every other message. */
function order(words: readonly string[], environment: Readonly<Record<string, string>> = {}) {
  const { host = "arb", ...env } = environment;
  const done = Bun.spawnSync(
    [
      ...minded.lab.network.enter(host),
      ...[BUN, "--preload", RECORD, "scripts/command.ts", "--config", minded.configPath],
      ...words,
    ],
    { env: { ...process.env, [RECORD_MARK]: minded.records ?? "", ...env } },
  );
  return { code: done.exitCode, said: done.stdout.toString() + done.stderr.toString() };
}

/** All that the parties keep on disk, and the epoch. */
async function kept(): Promise<string> {
  const hash = createHash("sha256");
  for (const { name } of minded.lab.hosts) {
    for (const file of ["arbitrator.state", "server.state"]) {
      const path = join(minded.lab.directory, name, "minder", file);
      if (existsSync(path)) hash.update(`${name}/${file}`).update(readFileSync(path));
    }
  }
  return `${hash.digest("hex")} epoch ${(await minded.summary())?.epoch}`;
}

/** What a party has counted of what it did not hand on. */
async function counted(): Promise<number> {
  let sum = 0;
  const urls = [...minded.config.urlById].map(([id, url]) => [id, url] as const);
  for (const [id, url] of urls) {
    const mail = mailOf(hostOf(id), url);
    if (mail === null) throw new Error(`${id} does not answer`);
    for (const [word, times] of Object.entries(mail)) {
      if (/^(handshakes|repeated|refused\.)/.test(word)) sum += times;
    }
  }
  return sum;
}

/** The mail counters of a party, asked on its own host; null while it does not answer. */
function mailOf(host: string, url: string): Readonly<Record<string, number>> | null {
  const program = `const r = await fetch("${url}/status"); console.log(JSON.stringify((await r.json()).mail));`;
  const command = [...minded.lab.network.enter(host), BUN, "-e", program];
  const said = Bun.spawnSync(command, { stderr: "ignore" }).stdout.toString();
  return said === "" ? null : (JSON.parse(said) as Record<string, number>);
}

function hostOf(id: string): string {
  const { arbitrator, servers, apps } = minded.lab.network.topology;
  const [type, serial] = id.split(".");
  if (type === "arbitrator") return arbitrator.name;
  const among = type === "dbserver" ? servers : apps;
  return among.find((host) => host.serial === Number(serial))?.name ?? "";
}

/** Sends what was recorded again, from another host; how it was answered, by status and reason. */
async function replay(all: readonly Recorded[]): Promise<ReadonlyMap<string, number>> {
  const arbitrator = minded.config.urlById.get("arbitrator.1") ?? "";
  const requests = all
    .filter(({ seal }) => seal !== null)
    .map((each) => ({ ...each, url: each.url.replace("http://arbitrator", arbitrator) }));
  const file = join(minded.lab.directory, "replay.json");
  writeFileSync(file, JSON.stringify(requests));
  const program = `
    const counts = {};
    for (const { url, seal, body } of await Bun.file(${JSON.stringify(file)}).json()) {
      for (;;) {
        const response = await fetch(url, { method: "POST", body,
          headers: { "content-type": "application/json", "minder-seal": seal } });
        const { reason } = await response.json();
        if (response.status === 429) { await Bun.sleep(200); continue; }
        const word = [response.status, reason].filter(Boolean).join(" ");
        counts[word] = (counts[word] ?? 0) + 1;
        break;
      }
    }
    console.log(JSON.stringify(counts));`;
  const child = Bun.spawn([...minded.lab.network.enter(OUTSIDER), BUN, "-e", program], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const counts = new Map(
    Object.entries(JSON.parse(await new Response(child.stdout).text()) as Record<string, number>),
  );
  const answered = [...counts.values()].reduce((sum, count) => sum + count, 0);
  expect(answered).toBe(requests.length);
  return counts;
}

/** Replays it all: nothing that is kept may change, all of it is counted, and the cluster is well. */
async function replayInVain(
  what: string,
  recorded: readonly Recorded[],
  answers: readonly string[],
): Promise<void> {
  const [before, countedBefore] = [await kept(), await counted()];
  const counts = await replay(recorded);
  process.stderr.write(`  ${what}: ${JSON.stringify(Object.fromEntries(counts))}\n`);
  for (const word of counts.keys()) {
    expect([...answers, "409", "410 older_seq", "410 older_session"]).toContain(word);
  }
  expect(await kept()).toBe(before);
  const replayed = [...counts.values()].reduce((sum, count) => sum + count, 0);
  expect((await counted()) - countedBefore).toBeGreaterThanOrEqual(replayed);
  await minded.untilHealth("healthy", 10_000);
}

describe("every message of a failover, sent again", () => {
  let recorded: readonly Recorded[] = [];

  test("changes nothing at once", async () => {
    expect(order(["drain", "dc2-2", "--why", "to be replayed"]).code).toBe(0);
    expect(order(["undrain", "dc2-2"]).code).toBe(0);
    await minded.powerOff("dc1");
    await minded.untilSummary("dc2 serves alone", (is) => is.epochHolder === "dc2");
    await minded.powerOn("dc1");
    await minded.untilHealth("healthy", 90_000);
    await minded.untilSummary("the epoch is closed", (is) => is.epochHolder === null);
    recorded = readRecorded(minded.records ?? "");
    const verbs = new Set(recorded.map(({ body }) => /"verb":"(\w+)"/.exec(body)?.[1]));
    for (const verb of ["db_status_report", "make_primary", "drain", "undrain"]) {
      expect([...verbs]).toContain(verb);
    }
    // The newest of each is answered from memory.
    await replayInVain("at once", recorded, ["200"]);
  }, 240_000);

  test("changes nothing after a restart of each process", async () => {
    for (const [id, url] of minded.config.urlById) {
      const host = hostOf(id);
      await minded.minder(host).stop(5000);
      minded.startMinder(host);
      await until(`${id} answers again`, () => mailOf(host, url) !== null, { timeoutMs: 60_000 });
    }
    // What has restarted outwaits its promises first.
    await Bun.sleep(minded.config.outwaitMs);
    await minded.untilHealth("healthy", 30_000);
    await replayInVain("after restarts", recorded, []);
  }, 240_000);

  test("changes nothing after the epoch has changed", async () => {
    const epoch = (await minded.summary())?.epoch ?? 0;
    await minded.powerOff("dc2");
    const after = await minded.untilSummary("dc1 serves alone", (is) => is.epochHolder === "dc1");
    expect(after.epoch).toBeGreaterThan(epoch);
    await minded.powerOn("dc2");
    await minded.untilHealth("healthy", 90_000);
    await minded.untilSummary("the epoch is closed", (is) => is.epochHolder === null);
    await replayInVain("after another epoch", recorded, []);
  }, 240_000);
});

describe("an order", () => {
  const operator = () => minded.config.security.operatorFile ?? "";
  const node = () => minded.config.security.secretFile ?? "";

  function copyOf(file: string, as: string): string {
    const path = join(minded.lab.directory, as);
    writeFileSync(path, readFileSync(file), { mode: 0o600 });
    return path;
  }

  test("with the nodes' secret, a wrong one or none is refused and logged", async () => {
    const before = await kept();
    const asOperator = join(minded.lab.directory, "wrong.secret");
    writeFileSync(asOperator, `${"w".repeat(43)}\n`, { mode: 0o600 });
    const wrong = order(["pause", "--why", "wrong"], { GM_OPERATOR_FILE: asOperator });
    expect(wrong.code).toBe(1);
    expect(wrong.said).toContain("unknown_key");
    const program = `
      import { SealKey, sealRequest } from ${JSON.stringify(join(import.meta.dir, "../../lib/seal.ts"))};
      const body = JSON.stringify({ v: 1, sender: "command.1", receiver: "arbitrator.1", session: "x",
        seq: 1, toSession: "", configVersion: 1, verb: "pause", parameters: { who: "x", why: "" } });
      const secret = (await Bun.file(${JSON.stringify(node())}).text()).trim();
      const seals = [sealRequest(new SealKey("node", secret), body), undefined];
      for (const seal of seals) {
        const response = await fetch("${minded.config.urlById.get("arbitrator.1")}/messages", { method: "POST", body,
          headers: { "content-type": "application/json", ...(seal ? { "minder-seal": seal } : {}) } });
        console.log(response.status, (await response.json()).reason);
      }`;
    const said = Bun.spawnSync([...minded.lab.network.enter(OUTSIDER), BUN, "-e", program]);
    expect(said.stdout.toString()).toBe("403 wrong_secret\n401 not_signed\n");
    expect(await kept()).toBe(before);
    expect((await minded.summary())?.paused).toBe(false);
    const log = readFileSync(minded.minder("arb").logFile, "utf8");
    for (const reason of ["unknown_key", "wrong_secret", "not_signed"]) {
      expect(log).toContain(`"reason":"${reason}"`);
    }
  }, 30_000);

  test("is taken from another host with the operators' secret", () => {
    const own = copyOf(operator(), "mine.secret");
    const given = order(["drain", "dc1-2"], { host: OUTSIDER, GM_OPERATOR_FILE: own });
    expect(given.said).toContain("ok");
    expect(order(["undrain", "dc1-2"], { host: OUTSIDER, GM_OPERATOR_FILE: own }).code).toBe(0);
  }, 30_000);
});

describe("secrets", () => {
  /** Puts a new text in the place of a secret file, whole. */
  function replaceSecret(path: string, lines: readonly string[]): void {
    writeFileSync(`${path}.new`, `${lines.join("\n")}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }

  test("are replaced while all runs, without a moment of fencing", async () => {
    const path = minded.config.security.secretFile ?? "";
    const old = readFileSync(path, "utf8").trim();
    const fresh = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
    for (const lines of [[old, fresh], [fresh, old], [fresh]]) {
      replaceSecret(path, lines);
      const changedAt = performance.now();
      // Every party notices by itself within 2 s; for 4 s nobody may lose its right to serve.
      while (performance.now() - changedAt < 4_000) {
        for (const host of ["dc1-1", "dc2-1"]) {
          const rows = await minded.lab.query(
            host,
            "SELECT @@global.wsrep_reject_queries AS value",
          );
          expect(rows[0]?.["value"]).toBe("NONE");
        }
        await Bun.sleep(100);
      }
      await minded.untilHealth("healthy", 10_000);
    }
    for (const { name } of minded.lab.hosts) {
      const log = readFileSync(minded.minder(name).logFile, "utf8");
      expect(log.match(/"event":"keys_changed"/g)?.length).toBe(3);
    }
  }, 60_000);

  test("that others can read are not taken, and the keys in use stay", async () => {
    const path = minded.config.security.secretFile ?? "";
    const text = readFileSync(path, "utf8");
    writeFileSync(`${path}.open`, text, { mode: 0o644 });
    renameSync(`${path}.open`, path);
    const { logFile, kill } = minded.minder("dc1-1");
    kill("SIGHUP");
    await until(
      "dc1-1 says so",
      () => readFileSync(logFile, "utf8").includes('"event":"keys_not_read"'),
      { timeoutMs: 60_000 },
    );
    expect((await minded.summary())?.health).toBe("healthy");
    replaceSecret(path, [text.trim()]);
  }, 30_000);

  test("are in no log, status, error, argument or state of the whole run", async () => {
    const secrets = readdirSync(minded.lab.directory)
      .filter((name) => name.endsWith(".secret"))
      .flatMap((name) => readFileSync(join(minded.lab.directory, name), "utf8").split("\n"))
      .filter((line) => line !== "");
    const password = readFileSync(minded.lab.passwordFile("minder"), "utf8").trim();
    expect(secrets.length).toBeGreaterThanOrEqual(3);
    const hidden = [...secrets, password];
    const files = [...new Bun.Glob("**/*").scanSync({ cwd: minded.lab.directory, dot: true })]
      // What the lab itself logs in with is in files of its own, of mode 0600.
      .filter((name) => !/\.(secret|password)$|^secrets\.json$|(^|\/)data\//.test(name))
      .map((name) => join(minded.lab.directory, name))
      .filter((path) => statSync(path).isFile() && statSync(path).size < 50_000_000)
      .filter((path) => /\.(log|state|toml|json|jsonl|note)$/.test(path));
    expect(files.length).toBeGreaterThan(10);
    const found = files.filter((path) => {
      const text = readFileSync(path, "utf8");
      return hidden.some((secret) => text.includes(secret));
    });
    expect(found).toEqual([]);
    const status = JSON.stringify(await minded.summary());
    const commands = readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid))
      .map((pid) => {
        try {
          return readFileSync(`/proc/${pid}/cmdline`, "latin1");
        } catch {
          return "";
        }
      });
    for (const secret of hidden) {
      expect(status).not.toContain(secret);
      expect(commands.some((command) => command.includes(secret))).toBe(false);
    }
  }, 30_000);
});
