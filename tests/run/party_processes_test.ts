/** Parties as processes of their own, signed: over TLS, as a user without rights, and without a secret. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { askArbitrator } from "../../lib/effects/ask.ts";
import { readClusterConfig } from "../../lib/effects/config_file.ts";
import { until } from "../../lib/lab/exec.ts";
import {
  BED_NET,
  type BedOptions,
  type BedParty,
  prepareBed,
  startParty,
} from "../../lib/lab/fuzz_bed.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const SCRIPTS = join(import.meta.dir, "../../scripts");
const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;
let parties: BedParty[] = [];
let folder = "";

afterEach(async () => {
  for (const { child } of parties) child.kill("SIGKILL");
  await Promise.all(parties.map(({ child }) => child.exited));
  parties = [];
  removeScratch(folder);
});

/** Starts an arbitrator and two watchdogs, and waits until it hears them. */
async function bed(options: BedOptions) {
  folder = makeScratch("parties");
  const path = prepareBed(folder, options);
  parties = ["arbitrator.1", "dbserver.1", "dbserver.2"].map((id) =>
    startParty(id, folder, path, options),
  );
  const config = await readClusterConfig(path);
  await until("the arbitrator hears both watchdogs", async () => await hears(config), {
    timeoutMs: 20_000,
    pauseMs: 100,
  });
  return { path, config };
}

async function hears(config: Awaited<ReturnType<typeof readClusterConfig>>): Promise<boolean> {
  try {
    const ask = { verb: "status_summary", parameters: {} } as const;
    const { parameters } = await askArbitrator(ask, { config, timeoutMs: 1000 });
    if (!("servers" in parameters) || !Array.isArray(parameters.servers)) return false;
    return parameters.servers.every(
      (server) => typeof server === "object" && (server.heardAgoMs ?? 9e9) < 2000,
    );
  } catch {
    return false;
  }
}

describe("parties as processes", () => {
  test("speak to each other over mutual TLS, and to nobody who shows no certificate", async () => {
    const { path, config } = await bed({ tls: true });
    expect(config.urlById.get("arbitrator.1")).toStartWith("https://");
    // Without its control socket the question goes over the network.
    await rm(join(folder, "arbitrator.1", "control.sock"));
    const asked = Bun.spawnSync([process.execPath, join(SCRIPTS, "status.ts"), "--config", path]);
    expect(asked.stderr.toString()).toBe("");
    expect(asked.stdout.toString()).toContain("fuzz: ");
    const url = `https://${BED_NET}.10:4570/healthz`;
    const ca = readFileSync(join(folder, "ca.crt"), "utf8");
    const bare = fetch(url, { tls: { ca }, signal: AbortSignal.timeout(2000) });
    expect(await bare.then((response) => response.status, String)).not.toBe(200);
    const plain = fetch(url.replace("https", "http"), { signal: AbortSignal.timeout(2000) });
    expect(await plain.then((response) => response.status, String)).not.toBe(200);
  }, 40_000);

  test.skipIf(!isRoot)(
    "run as a user without rights",
    async () => {
      await bed({ uid: NOBODY });
      for (const { child } of parties) {
        const status = readFileSync(`/proc/${child.pid}/status`, "latin1");
        expect(/^Uid:\s+(\d+)/m.exec(status)?.[1]).toBe(String(NOBODY));
        expect(/^CapEff:\s+(\w+)/m.exec(status)?.[1]).toBe("0000000000000000");
      }
    },
    40_000,
  );

  test("say so loudly where messages are unsigned, and elsewhere than on loopback do not start", async () => {
    folder = makeScratch("parties");
    const path = prepareBed(folder);
    const text = readFileSync(path, "utf8").replace(/^(secret|operator)_file.*$/gm, "");
    await Bun.write(path, text.replace(`${BED_NET}.1"`, '10.254.253.252"'));
    const run = (id: string) =>
      Bun.spawn([process.execPath, join(SCRIPTS, "minder.ts"), "--config", path, "--node", id], {
        stdout: Bun.file(join(folder, `${id}.log`)),
        stderr: "pipe",
      });
    const away = run("dbserver.1");
    expect(await away.exited).toBe(1);
    expect(await new Response(away.stderr).text()).toContain("messages are not signed");
    const near = run("dbserver.2");
    try {
      const log = join(folder, "dbserver.2.log");
      await until("it says so", () => readFileSync(log, "utf8").includes('"event":"unsigned"'), {
        timeoutMs: 10_000,
      });
    } finally {
      near.kill("SIGKILL");
      await near.exited;
    }
  }, 40_000);
});
