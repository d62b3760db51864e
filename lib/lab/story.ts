/**
 * The demo's story on a minded cluster: calm, the primary data centre loses its power, returns, the
 * link is cut, healed; and the verdict, from journals that the minders have no hand in.
 */
import type { Summary } from "../message/arbitrator.ts";
import { type Attempt, longestGap, wallMs } from "./journal.ts";
import type { Minded } from "./minded.ts";
import { type Observer, observe } from "./observer.ts";
import type { Timeline } from "./timeline.ts";

/** One fault as the application lived it. Milliseconds. */
export interface Outage {
  /** The segment that writes on. */
  readonly segment: string;
  /** Wall milliseconds. */
  readonly faultAtMs: number;
  /** Longest time without an acknowledged row. */
  readonly gapMs: number;
  /** From the fault until the last surviving server of the segment was non-Primary: Galera's own. */
  readonly galeraMs: number;
  /** From then until the application's next acknowledged row: ours. */
  readonly addedMs: number;
}

export interface Verdict {
  readonly pass: boolean;
  readonly rowsAcknowledged: number;
  readonly rowsFound: number;
  readonly rowsMissing: number;
  readonly checksumsEqual: boolean;
  /** Rows that the side which was out acknowledged while it was out. */
  readonly strayWrites: number;
  readonly kill: Outage;
  /** Null where partitions cannot be shown. */
  readonly cut: Outage | null;
  /** What speaks against a pass. */
  readonly complaints: readonly string[];
}

const CALM_MS = 1_000;
const AFTER_MS = 250;
const OUTAGE_TIMEOUT_MS = 60_000;
const RETURN_TIMEOUT_MS = 120_000;
/** A commit whose acknowledgements had all arrived before the cut may still be told to its client. */
const IN_FLIGHT_MS = 50;
const APP = "app1";

/** Plays the story; the cluster must be healthy. @throws MinderError where a phase is not reached in time */
export async function play(minded: Minded, timeline: Timeline): Promise<Verdict> {
  const { lab } = minded;
  const observer = observe(lab);
  lab.startApp(APP);
  lab.startProber();
  await untilRows(minded, 20);
  timeline.say("the application writes through its balancer; a prober tries every server directly");
  await Bun.sleep(CALM_MS);

  const primary = minded.config.primarySegment;
  timeline.say(`THE POWER OF ${primary} FAILS: kill -9 of everything there`);
  const kill = await outage(minded, observer, () => minded.powerOff(primary));
  timeline.say(describe(kill));
  timeline.say(`the power of ${primary} returns`);
  await minded.powerOn(primary);
  await minded.untilHealth("healthy", RETURN_TIMEOUT_MS);
  timeline.say("all servers serve in one view again");
  await Bun.sleep(AFTER_MS);

  let cut: Outage | null = null;
  let strayWrites = 0;
  if (lab.network.namespaced) {
    timeline.say("THE LINK BETWEEN THE DATA CENTRES IS CUT; the arbitrator reaches both");
    let cutAtMs = 0;
    cut = await outage(minded, observer, async () => {
      await minded.cutLink();
      cutAtMs = wallMs();
    });
    timeline.say(describe(cut));
    await Bun.sleep(AFTER_MS);
    strayWrites = strays(minded, cut.segment, cutAtMs).length;
    timeline.say("the link is healed");
    await minded.healLink();
    await minded.untilHealth("healthy", RETURN_TIMEOUT_MS);
    timeline.say("all servers serve in one view again");
  } else
    timeline.say("no network namespaces here, so the link cannot be cut: run as root to see it");
  await Bun.sleep(AFTER_MS);
  await observer.stop();
  return await judge(minded, { kill, cut, strayWrites });
}

/** Waits until the application has so many rows acknowledged. */
export async function untilRows(minded: Minded, count: number): Promise<void> {
  const deadline = wallMs() + OUTAGE_TIMEOUT_MS;
  while (acknowledged(minded).length < count && wallMs() < deadline) await Bun.sleep(50);
}

function acknowledged(minded: Minded): readonly Attempt[] {
  return minded.lab.journal(APP).filter((attempt) => attempt.outcome === "acknowledged");
}

/** Brings a fault about and waits until one segment serves alone and the application writes again. */
export async function outage(
  minded: Minded,
  observer: Observer,
  fault: () => Promise<void>,
): Promise<Outage> {
  const epoch = (await minded.summary())?.epoch ?? 0;
  const faultAtMs = wallMs();
  await fault();
  const summary = await minded.untilSummary(
    "one data centre serves alone",
    (is) => is.epoch > epoch && is.epochHolder !== null && servesAlone(minded, is, is.epochHolder),
    OUTAGE_TIMEOUT_MS,
  );
  const segment = summary.epochHolder ?? "";
  const lostAtMs = Math.max(
    ...minded.serversOf(segment).map((host) => observer.first(host, false, faultAtMs) ?? faultAtMs),
  );
  const againAtMs = await nextRow(minded, lostAtMs);
  const gap = longestGap(minded.lab.journal(APP), faultAtMs - 1_000);
  return {
    segment,
    faultAtMs,
    gapMs: gap?.lengthMs ?? 0,
    galeraMs: lostAtMs - faultAtMs,
    addedMs: againAtMs - lostAtMs,
  };
}

/**
 * Does the segment serve in a view of its own servers only, and nobody else. Its grant alone does not say
 * so: where the others are evicted it is given while the joint view still stands.
 */
function servesAlone(minded: Minded, summary: Summary, segment: string): boolean {
  const own = new Set(minded.serversOf(segment));
  return summary.servers.every((server) => {
    const serves = server.report?.serving === "on";
    if (!own.has(server.name)) return !serves || (server.heardAgoMs ?? 0) > 2_000;
    return serves && server.report?.members.every((member) => own.has(member.name));
  });
}

/** When the application's first row after `fromMs` was acknowledged. */
async function nextRow(minded: Minded, fromMs: number): Promise<number> {
  const deadline = wallMs() + OUTAGE_TIMEOUT_MS;
  for (;;) {
    const row = acknowledged(minded).find((attempt) => attempt.endMs > fromMs);
    if (row !== undefined) return row.endMs;
    if (wallMs() > deadline) return Number.POSITIVE_INFINITY;
    await Bun.sleep(20);
  }
}

/** Rows acknowledged by servers of another segment after the cut was complete. */
function strays(minded: Minded, segment: string, cutAtMs: number): readonly Attempt[] {
  const inside = new Set(minded.serversOf(segment));
  return minded.lab
    .journal()
    .filter(
      (attempt) =>
        attempt.outcome === "acknowledged" &&
        attempt.server !== null &&
        !inside.has(attempt.server) &&
        attempt.endMs > cutAtMs + IN_FLIGHT_MS,
    );
}

async function judge(
  minded: Minded,
  seen: {
    readonly kill: Outage;
    readonly cut: Outage | null;
    readonly strayWrites: number;
  },
): Promise<Verdict> {
  const { lab } = minded;
  const writers = lab.running().filter((one) => one.name.startsWith("writer-"));
  await Promise.all(writers.map((writer) => writer.stop()));
  const checks = await Promise.all([...lab.servers.keys()].map((host) => lab.checkRows(host)));
  const sums = new Set((await lab.checksums()).values());
  const missing = Math.max(...checks.map((check) => check.missing.length));
  const foreign = Math.max(...checks.map((check) => check.foreign));
  const complaints = [
    ...[...new Set(checks.flatMap((check) => check.missing))].map(
      (row) =>
        `row ${row.writer}/${row.number}, acknowledged by ${row.server} ${Math.round(row.endMs - seen.kill.faultAtMs)} ms after the power failed, is missing`,
    ),
    ...(foreign > 0 ? [`${foreign} rows are there that nobody wrote`] : []),
    ...(sums.size > 1 ? ["the servers hold different rows"] : []),
    ...(seen.strayWrites > 0 ? [`${seen.strayWrites} writes went to the side that was out`] : []),
    ...[seen.kill, seen.cut].flatMap((one) =>
      one !== null && !Number.isFinite(one.addedMs) ? ["the application never wrote again"] : [],
    ),
  ];
  return {
    pass: complaints.length === 0,
    rowsAcknowledged: Math.max(...checks.map((check) => check.acknowledged)),
    rowsFound: Math.min(...checks.map((check) => check.found)),
    rowsMissing: missing,
    checksumsEqual: sums.size === 1,
    ...seen,
    complaints,
  };
}

function describe(outage: Outage): string {
  const { segment, gapMs, galeraMs, addedMs } = outage;
  return (
    `${segment} writes on: ${Math.round(gapMs)} ms without an acknowledged row; ` +
    `Galera took ${Math.round(galeraMs)} ms to say non-Primary, the minder added ${Math.round(addedMs)} ms`
  );
}

/** The last line, for machines. */
export function verdictLine(verdict: Verdict): string {
  const { kill, cut } = verdict;
  const figures = {
    rows_acknowledged: verdict.rowsAcknowledged,
    rows_missing: verdict.rowsMissing,
    gap_ms: Math.round(kill.gapMs),
    galera_ms: Math.round(kill.galeraMs),
    added_ms: Math.round(kill.addedMs),
    ...(cut === null
      ? {}
      : {
          cut_gap_ms: Math.round(cut.gapMs),
          cut_galera_ms: Math.round(cut.galeraMs),
          cut_added_ms: Math.round(cut.addedMs),
          cut_stray_writes: verdict.strayWrites,
        }),
  };
  const text = Object.entries(figures).map(([key, value]) => `${key}=${value}`);
  return `verdict: ${verdict.pass ? "pass" : "fail"} ${text.join(" ")}`;
}
