/** Parties as processes of their own, signed: over TLS, as a user without rights, and without a secret. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { askArbitrator } from "../../lib/effects/ask.ts";
import { makeCerts } from "../../lib/effects/certs.ts";
import { readClusterConfig } from "../../lib/effects/config_file.ts";
import { postMessage } from "../../lib/effects/http.ts";
import { readSecretFile } from "../../lib/effects/secrets.ts";
import { clientTls } from "../../lib/effects/tls.ts";
import { until } from "../../lib/lab/exec.ts";
import {
  BED_NET,
  type BedOptions,
  type BedParty,
  prepareBed,
  startParty,
} from "../../lib/lab/fuzz_bed.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import type { Message } from "../../lib/message/mod.ts";
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
    timeoutMs: 60_000,
    pauseMs: 100,
  });
  return { path, config };
}

async function hears(config: Awaited<ReturnType<typeof readClusterConfig>>): Promise<boolean> {
  try {
    const ask = { verb: "status_summary", parameters: {} } as const;
    const { parameters } = await askArbitrator(ask, { config, timeoutMs: 10_000 });
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
    const bare = fetch(url, { tls: { ca }, signal: AbortSignal.timeout(20_000) });
    expect(await bare.then((response) => response.status, String)).not.toBe(200);
    const plain = fetch(url.replace("https", "http"), { signal: AbortSignal.timeout(20_000) });
    expect(await plain.then((response) => response.status, String)).not.toBe(200);
  }, 40_000);

  test("over mutual TLS, a server with the secret and a certificate of its own cannot be the arbitrator", async () => {
    const { config } = await bed({ tls: true });
    const { tls, secretFile } = config.security;
    if (tls === null || secretFile === null) throw new Error("The bed has no TLS");
    const [key] = readSecretFile(secretFile, "node");
    if (key === undefined) throw new Error("The bed has no secret");
    const forged: Message = {
      v: 1,
      sender: "arbitrator.1",
      receiver: "dbserver.1",
      session: "forged",
      seq: 1,
      toSession: "",
      configVersion: 1,
      verb: "request_status",
      parameters: { because: "" },
    };
    const post = (id: string, url: string) =>
      postMessage({ url, message: forged, timeoutMs: 20_000, key, tls: clientTls(tls, id) });
    const url = `${config.urlById.get("dbserver.1")}/messages`;
    expect(await post("dbserver.2", url)).toMatchObject({
      status: 403,
      reason: "wrong_certificate",
    });
    // Nor over the plain port that is there for the notify handler.
    const plain = await post("dbserver.2", "http://127.0.0.1:4570/messages");
    expect("message" in plain).toBe(false);
    // With the arbitrator's own it would be one: its session is asked for, as everybody's is.
    expect(await post("arbitrator.1", url)).toMatchObject({ status: 409 });
  }, 40_000);

  test("take new certificates without a restart, and go on hearing each other", async () => {
    const { config } = await bed({ tls: true });
    const ids = ["arbitrator.1", "dbserver.1", "dbserver.2"];
    for (const id of ids) {
      const [, last = ""] =
        /(\d+)$/.exec(config.urlById.get(id as PartyId)?.replace(/:\d+$/, "") ?? "") ?? [];
      makeCerts(folder, [{ id, hosts: [`${BED_NET}.${last}`] }]);
    }
    for (const id of ids) {
      await until(
        `${id} shows the new one`,
        () => readFileSync(join(folder, `${id}.log`), "utf8").includes("certificates_changed"),
        { timeoutMs: 20_000 },
      );
    }
    await until("the arbitrator hears both watchdogs", async () => await hears(config), {
      timeoutMs: 20_000,
      pauseMs: 100,
    });
  }, 60_000);

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
        timeoutMs: 60_000,
      });
    } finally {
      near.kill("SIGKILL");
      await near.exited;
    }
  }, 40_000);
});
