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

/** Verdicts that only say that there is nothing to decide, or that an order is on its way. */
const QUIET_RULES: readonly string[] = ["candidate.exists", "order.answered", "none.yet"];

export interface StatusExtras {
  /** What would happen next, a line each; none where nobody has worked it out. */
  readonly next?: readonly string[];
}

/** The whole page: what is, what people have ordered, what was decided and why, what would happen next. */
export function statusText(summary: Summary, extras: StatusExtras = {}): string {
  const { next = [] } = extras;
  const lines = [
    `${summary.cluster}: ${summary.health.replaceAll("_", " ")} - ${summary.because}`,
    ...viewLines(summary),
    ...writerLines(summary),
    ...orderLines(summary),
    ...summary.warnings.map((warning) => `warning: ${warning}`),
    "",
    ...table([
      ["server", "segment", "serves", "view", "group", "state", "commit", "writes", "heard", "why"],
      ...summary.servers.map(serverRow),
    ]),
    "",
    ...summary.segments.flatMap((segment) => segmentLines(summary, segment)),
  ];
  const decisions = summary.decisions.filter(({ verdict }) => !QUIET_RULES.includes(verdict.rule));
  if (decisions.length > 0) {
    lines.push("", "decided, newest first (`just history` has it all):");
    for (const { agoMs, verdict } of decisions.slice(0, DECISIONS_SHOWN)) {
      lines.push(`  ${ago(agoMs).padStart(9)} ago  ${verdict.rule} - ${verdict.because}`);
    }
  }
  for (const { name, report } of summary.servers) {
    for (const { name: aside, bytes, ageMs } of report?.aside ?? []) {
      lines.push(
        `set aside on ${name}: ${aside}, ${(bytes / 1_048_576).toFixed(1)} MB, ${ago(ageMs)} ago; \`discard ${name}\` frees it`,
      );
    }
  }
  if (next.length > 0)
    lines.push("", "what would happen next:", ...next.map((line) => `  ${line}`));
  return lines.join("\n");
}

type Server = Summary["servers"][number];

/** Heard lately enough that what it said is what is. */
function speaks(server: Server): server is Server & { report: NonNullable<Server["report"]> } {
  return server.report !== null && (server.heardAgoMs ?? SILENT_MS + 1) <= SILENT_MS;
}

/** Which Primary views there are, and what epoch they serve under. */
function viewLines(summary: Summary): readonly string[] {
  const views = new Map<string, { readonly names: Set<string>; hangs: boolean }>();
  for (const server of summary.servers) {
    if (!speaks(server) || server.report.primary !== "yes") continue;
    const { fingerprint, members, probe } = server.report;
    const view = views.get(fingerprint ?? "") ?? { names: new Set(), hangs: false };
    views.set(fingerprint ?? "", view);
    for (const { name } of members) view.names.add(name);
    view.hangs ||= probe === "hanging";
  }
  const epoch =
    summary.epochHolder === null
      ? summary.epoch === 0
        ? "no epoch was ever needed"
        : `epoch ${summary.epoch} is closed`
      : `${summary.epochHolder} holds epoch ${summary.epoch}: it alone may be primary until a view with both sides closes it`;
  const all = [...views.values()];
  if (all.length === 0) return [`view     no server is Primary; ${epoch}`];
  return all.map(({ names, hangs }) => {
    const own = summary.servers.filter(({ name }) => names.has(name));
    const segments = new Set(own.map(({ segment }) => segment));
    const what = segments.size > 1 ? "one view of both sides" : `${[...segments].join()} alone`;
    const silent = own.filter((server) => !speaks(server)).map(({ name }) => name);
    const lost = silent.length === 0 ? "" : `, of which ${silent.join(", ")} not heard`;
    const stalled = hangs ? "; its commits HANG until Galera gives up on whoever is missing" : "";
    return `view     ${what}: ${[...names].join(", ")}${lost}${stalled}; ${epoch}`;
  });
}

/** Where writers belong, and where they are. */
function writerLines(summary: Summary): readonly string[] {
  const at = summary.servers.flatMap((server) =>
    speaks(server) && server.report.writers > 0
      ? [
          `${server.report.writers} client minder${server.report.writers === 1 ? " has" : "s have"} ${server.name} as their writer`,
        ]
      : [],
  );
  const elsewhere = summary.servers.some(
    (server) =>
      speaks(server) && server.report.writers > 0 && server.segment !== summary.primarySegment,
  );
  const moving = summary.orders.some(({ verb }) => verb === "switchover");
  const able = summary.servers.some(
    (server) =>
      speaks(server) && server.segment === summary.primarySegment && server.report.serving === "on",
  );
  const moves =
    elsewhere && able && !moving
      ? [`\`just switchover ${summary.primarySegment}\` moves them there`]
      : [];
  return [`writers  belong in ${[summary.primarySegment, ...at, ...moves].join("; ")}`];
}

/** What people have ordered and nobody has taken back. */
function orderLines(summary: Summary): readonly string[] {
  return summary.orders.map((order) => {
    const server = summary.servers.find(({ id }) => id === order.about);
    const about = server?.name ?? order.about;
    const why = order.why === "" ? "" : ` (${order.why})`;
    return `order    ${ORDER_WORDS[order.verb]}${about === "" ? "" : ` ${about}`}, by ${order.who}${why}`;
  });
}

const ORDER_WORDS = {
  pause: "PAUSED: nothing is promoted or started by itself",
  drain: "drain",
  retire: "retired",
  switchover: "writers are being moved to",
} as const satisfies Record<Summary["orders"][number]["verb"], string>;

/** Does the segment serve; if not, what keeps it from being promoted, and what would change that. */
function segmentLines(
  summary: Summary,
  { name, verdict }: Summary["segments"][number],
): readonly string[] {
  const own = summary.servers.filter(({ segment }) => segment === name);
  const serving = own.filter((server) => speaks(server) && server.report.serving === "on");
  if (serving.length > 0) {
    const part = serving.length === own.length ? "all of it" : `${serving.length} of ${own.length}`;
    return [`${name}: serves, ${part}`];
  }
  const { epoch, epochHolder } = summary;
  const holderServes = summary.servers.some(
    (server) => server.segment === epochHolder && speaks(server) && server.report.serving === "on",
  );
  if (holderServes) {
    return [
      `${name}: does not serve, ${epochHolder} holds epoch ${epoch}`,
      `  would change: its servers join ${epochHolder} by themselves once they can reach it, and open when both sides are in one view`,
    ];
  }
  return [
    `${name}: does not serve, and is not promoted: ${verdict.rule} - ${verdict.because}`,
    `  would change: ${verdict.wouldChange}`,
  ];
}

function serverRow(server: Server): string[] {
  const { report } = server;
  const marks = [
    ...(server.retired ? ["retired"] : []),
    ...(server.draining ? [report?.draining === true ? "draining" : "drain waits"] : []),
    ...(report?.cutting === true ? ["sessions left are cut"] : []),
    ...(report?.yielding === true ? ["writers leave it"] : []),
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
    PROBE_WORDS[report.probe],
    server.heardAgoMs === null ? "never" : `${ago(server.heardAgoMs)} ago`,
    why,
  ];
}

/** What the write probe says: is a row committed at once. */
const PROBE_WORDS = {
  flowing: "flow",
  hanging: "HANG",
  held: "held back",
  off: "-",
} as const satisfies Record<NonNullable<Server["report"]>["probe"], string>;

function viewWord(report: NonNullable<Summary["servers"][number]["report"]>): string {
  if (report.running !== "up") return report.running;
  return report.primary === "yes" ? "Primary" : "non-Primary";
}

export function ago(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** Rows in columns as wide as their widest cell; the last column is left as it is. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join("  "),
  );
}
