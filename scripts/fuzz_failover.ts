/**
 * The demo's failover, calm and then during a flood of hostile input: a real cluster in network
 * namespaces, attacked from an application host by somebody who even holds the nodes' secret. Demands
 * that writes go on within twice the calm time and that no acknowledged row is missing.
 * Exit: 0 both hold, 1 not.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArguments, runScript } from "../lib/cli.ts";
import type { HostileResult } from "../lib/lab/hostile.ts";
import { type Minded, openMinded } from "../lib/lab/minded.ts";
import { observe } from "../lib/lab/observer.ts";
import { type Outage, outage, untilRows } from "../lib/lab/story.ts";

const USAGE = `
Usage: fuzz_failover.ts [--connections N]
  --connections N  of the attacker, to all parties (default 128)
Needs root: the attacker has a host of its own.
`;

const LAB = "flood";
const ATTACKER = "app2";
/** The flood lasts so long before the power fails. */
const FLOOD_MS = 5_000;
const RETURN_TIMEOUT_MS = 90_000;
const FACTOR_MAX = 2;

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, { connections: { type: "string" } });
  // Both failovers change the segment, so nothing but the flood differs between them.
  const minded = await openMinded(LAB, { record: true, timing: ["promotion_window_ms = 0"] });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => void minded.down().then(() => process.exit(1)));
  }
  try {
    await minded.start();
    minded.lab.startApp("app1");
    await untilRows(minded, 50);
    const calm = await failover(minded, "dc1");
    const connections = values.connections ?? "128";
    const attacker = minded.lab.start(
      ATTACKER,
      [
        // The machine is shared: the attacker gets what the others leave of it.
        ...["nice", "-n", "10", process.execPath, join(import.meta.dir, "fuzz_peers.ts")],
        ...["--flood", minded.configPath, "--records", minded.records ?? ""],
        ...["--connections", connections],
      ],
      { name: "attacker" },
    );
    await Bun.sleep(FLOOD_MS);
    const flooded = await failover(minded, "dc2");
    await attacker.stop(15_000);
    await minded.untilHealth("healthy", RETURN_TIMEOUT_MS);
    return await judge(minded, { calm, flooded, flood: resultOf(attacker.logFile) });
  } finally {
    await minded.down();
  }
}

/** The power of a data centre fails and returns; what that cost the application. */
async function failover(minded: Minded, segment: string): Promise<Outage> {
  const observer = observe(minded.lab);
  try {
    const measured = await outage(minded, observer, () => minded.powerOff(segment));
    const { gapMs, galeraMs, addedMs } = measured;
    console.log(
      `${segment} lost its power: ${Math.round(gapMs)} ms without a row, Galera ${Math.round(galeraMs)} ms, the minder ${Math.round(addedMs)} ms`,
    );
    await minded.powerOn(segment);
    await minded.untilHealth("healthy", RETURN_TIMEOUT_MS);
    await Bun.sleep(2_000);
    return measured;
  } finally {
    await observer.stop();
  }
}

function resultOf(logFile: string): HostileResult | null {
  const line = readFileSync(logFile, "utf8").trim().split("\n").at(-1) ?? "";
  return line.startsWith("{") ? (JSON.parse(line) as HostileResult) : null;
}

async function judge(
  minded: Minded,
  seen: { readonly calm: Outage; readonly flooded: Outage; readonly flood: HostileResult | null },
): Promise<number> {
  const { calm, flooded, flood } = seen;
  for (const writer of minded.lab.running().filter(({ name }) => name.startsWith("writer-"))) {
    await writer.stop();
  }
  const checks = await Promise.all(
    [...minded.lab.servers.keys()].map((host) => minded.lab.checkRows(host)),
  );
  const missing = Math.max(...checks.map((check) => check.missing.length));
  const perSecond = flood === null ? 0 : (1000 * flood.sent) / flood.elapsedMs;
  const complaints = [
    ...(flooded.gapMs > FACTOR_MAX * calm.gapMs ? ["the flood more than doubled the gap"] : []),
    ...(missing > 0 ? [`${missing} acknowledged rows are missing`] : []),
    ...(flood === null || flood.sent < 1000 ? ["there was no flood to speak of"] : []),
  ];
  for (const complaint of complaints) console.error(`complaint: ${complaint}`);
  console.log(`answers ${JSON.stringify(flood?.answers ?? {})}`);
  console.log(
    `verdict: ${complaints.length === 0 ? "pass" : "fail"} calm_gap_ms=${Math.round(calm.gapMs)}` +
      ` flood_gap_ms=${Math.round(flooded.gapMs)} calm_added_ms=${Math.round(calm.addedMs)}` +
      ` flood_added_ms=${Math.round(flooded.addedMs)} inputs=${flood?.sent ?? 0}` +
      ` per_second=${Math.round(perSecond)} rows_missing=${missing}`,
  );
  return complaints.length === 0 ? 0 : 1;
}

if (import.meta.main) await runScript(main);
