/** A summary as the lines that a person reads at three in the morning: what is, why, and what would change it. */
import type { Summary } from "./message/arbitrator.ts";

/** Exit code of the status query for each health; monitors rely on it. */
export const EXIT_BY_HEALTH = {
  healthy: 0,
  degraded: 1,
  no_writable_primary: 2,
  cannot_tell: 3,
} as const satisfies Record<Summary["health"], number>;

/** A server unheard for so long is silent: what it said last is no longer what is. */
const SILENT_MS = 2_000;
/** Decisions shown; `--json` has them all. */
const DECISIONS_SHOWN = 8;

export function statusText(summary: Summary): string {
  const lines = [
    `${summary.cluster}: ${summary.health.replaceAll("_", " ")} - ${summary.because}`,
    `writers belong in ${summary.primarySegment}; epoch ${summary.epoch}, ${holder(summary)}${summary.paused ? "; PAUSED" : ""}`,
    "",
    ...table([
      ["server", "segment", "serving", "view", "group", "state", "commit", "probe", "heard", "why"],
      ...summary.servers.map(serverRow),
    ]),
    "",
    ...summary.segments.flatMap((segment) => [
      `${segment.name}: ${segment.verdict.rule} - ${segment.verdict.because}`,
      `  would change: ${segment.verdict.wouldChange}`,
    ]),
  ];
  if (summary.decisions.length > 0) {
    lines.push("", "decisions, newest first:");
    for (const { agoMs, verdict } of summary.decisions.slice(0, DECISIONS_SHOWN)) {
      lines.push(`  ${ago(agoMs).padStart(9)} ago  ${verdict.rule} - ${verdict.because}`);
    }
  }
  for (const warning of summary.warnings) lines.push(`warning: ${warning}`);
  return lines.join("\n");
}

function holder(summary: Summary): string {
  return summary.epochHolder === null ? "closed by a joint view" : `held by ${summary.epochHolder}`;
}

function serverRow(server: Summary["servers"][number]): string[] {
  const { report } = server;
  const marks = [
    ...(server.retired ? ["retired"] : []),
    ...(server.draining ? ["draining"] : []),
    ...(report?.leaving === true ? ["leaving"] : []),
  ];
  const why = [...marks, report?.because ?? "never heard"].join(", ");
  if (report === null) {
    return [server.name, server.segment, "unknown", "-", "-", "-", "-", "-", "never", why];
  }
  if (server.heardAgoMs === null || server.heardAgoMs > SILENT_MS) {
    const heard = server.heardAgoMs === null ? "never" : `${ago(server.heardAgoMs)} ago`;
    const said = `its last word: serving ${report.serving}, ${viewWord(report)}`;
    const last = report.running === "down" ? report.position?.seqno : report.lastCommitted;
    const why = [...marks, said].join(", ");
    return [
      server.name,
      server.segment,
      "SILENT",
      "?",
      "?",
      "?",
      String(last ?? "?"),
      "?",
      heard,
      why,
    ];
  }
  return [
    server.name,
    server.segment,
    report.fenced && report.running === "up" ? "fenced" : report.serving,
    viewWord(report),
    report.group,
    report.localState,
    report.running === "down"
      ? `at ${report.position?.seqno ?? "?"}`
      : String(report.lastCommitted),
    report.probe,
    server.heardAgoMs === null ? "never" : `${ago(server.heardAgoMs)} ago`,
    why,
  ];
}

function viewWord(report: NonNullable<Summary["servers"][number]["report"]>): string {
  if (report.running !== "up") return report.running;
  return report.primary === "yes" ? "Primary" : "non-Primary";
}

function ago(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** Rows in columns as wide as their widest cell; the last column is left as it is. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  "),
  );
}
