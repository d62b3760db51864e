/** The arbitrator's history as people read it: while it runs, from elsewhere, and after kill -9. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Happened } from "../../lib/message/arbitrator.ts";

// Each step starts programs, which a busy machine makes slow.
setDefaultTimeout(60_000);
const SCRIPTS = join(import.meta.dir, "..", "..", "scripts");
const folder = mkdtempSync(join(tmpdir(), "galera-minder-history-"));
const config = join(folder, "cluster.toml");
let arbitrator: Bun.Subprocess<"ignore", "pipe", "inherit"> | undefined;

/** A port that is free now. */
function freePort(): number {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = server;
  void server.stop(true);
  return port ?? 0;
}

function run(script: string, ...words: string[]) {
  const ran = Bun.spawnSync([
    process.execPath,
    join(SCRIPTS, `${script}.ts`),
    "--config",
    config,
    ...words,
  ]);
  return { code: ran.exitCode, out: ran.stdout.toString(), err: ran.stderr.toString() };
}

function history(...words: string[]): readonly (Happened & { readonly fields: unknown })[] {
  const { out, err } = run("history", "--json", ...words);
  expect(err).toBe("");
  return out
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Happened);
}

beforeAll(async () => {
  writeFileSync(
    config,
    `version = 1
[cluster]
name = "history"
primary_segment = "dc1"
[[arbitrator]]
serial = 1
host = "127.0.0.1"
port = ${freePort()}
state_dir = ${JSON.stringify(join(folder, "state"))}
[[dbserver]]
serial = 1
name = "db1"
segment = "dc1"
host = "127.0.0.1"
port = ${freePort()}
[[dbserver]]
serial = 2
name = "db2"
segment = "dc2"
host = "127.0.0.2"
port = ${freePort()}
`,
  );
  expect(run("arbitrator", "--node", "arbitrator.1", "--init").err).toBe("");
  arbitrator = Bun.spawn(
    [
      process.execPath,
      join(SCRIPTS, "arbitrator.ts"),
      "--config",
      config,
      "--node",
      "arbitrator.1",
    ],
    { stdin: "ignore", stdout: "pipe", stderr: "inherit" },
  );
  let said = "";
  const decoder = new TextDecoder();
  const reader = arbitrator.stdout.getReader();
  while (!said.includes('"event":"started"')) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`The arbitrator did not start: ${said}`);
    said += decoder.decode(value, { stream: true });
  }
  reader.releaseLock();
}, 60_000);

afterAll(async () => {
  arbitrator?.kill("SIGKILL");
  await arbitrator?.exited;
  rmSync(folder, { recursive: true, force: true });
});

async function untilOrder(order: string, ...words: string[]): Promise<Happened> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const found = history(...words).find(
      ({ event, fields }) =>
        event === "order" && (fields as unknown as { order: string }).order === order,
    );
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`No ${order} within 20 s`);
    await Bun.sleep(20);
  }
}

test("an order is in it with who, why and its outcome, in the file and by asking", async () => {
  expect(run("command", "--who", "eve", "--why", "new switch", "pause").out).toBe(
    "ok: automatic decisions are paused\n",
  );
  const fields = { order: "pause", who: "eve", why: "new switch", outcome: "would" };
  expect(await untilOrder("pause")).toMatchObject({ fields });
  expect(await untilOrder("pause", "--ask")).toMatchObject({ fields });
  expect(run("history").out).toContain("ORDER pause by eve (new switch): done");
});

test("of two people the second is refused with the first one's name, and that is in it too", async () => {
  const refused = run("command", "--who", "bob", "resume");
  expect(refused.code).toBe(1);
  expect(refused.out).toContain("refused: eve has paused automatic decisions: new switch");
  expect(await untilOrder("resume")).toMatchObject({ fields: { who: "bob", outcome: "refused" } });
});

test("a dry run prints checks and steps, and is not in it", () => {
  const { code, out } = run("command", "--who", "eve", "--dry-run", "resume");
  expect(code).toBe(0);
  expect(out).toStartWith("resume: would be done - automatic decisions go on\n  ok  store.trusted");
  const orders = history().filter(({ event }) => event === "order");
  expect(orders).toHaveLength(2);
});

test("after kill -9 it is still there, from a moment on, the newest so many", async () => {
  arbitrator?.kill("SIGKILL");
  await arbitrator?.exited;
  const all = history("--since", "1h");
  expect(all.map(({ event }) => event)).toContain("started");
  expect(all.map(({ seq }) => seq)).toEqual(all.map((_, index) => index + 1));
  expect(history("--limit", "1").map(({ seq }) => seq)).toEqual([all.length]);
  expect(history("--since", "2099-01-01")).toEqual([]);
  expect(run("history", "--ask").code).toBe(1);
  expect(run("history", "--since", "yesterday").code).toBe(2);
  expect(run("history", "--limit", "none").code).toBe(2);
});
