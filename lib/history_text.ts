/** Events of the arbitrator's log as lines for people: when, what, who and why. */
import type { Happened } from "./message/arbitrator.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Events in the order in which they happened, one line each; `evidence` adds what they rest on. */
export function historyText(
  events: readonly Happened[],
  options: { readonly evidence: boolean },
): string {
  if (events.length === 0) return "nothing is in the log for that time";
  return events.flatMap((event) => linesOf(event, options.evidence)).join("\n");
}

/** The fields of an event; unreadable ones are shown as they are. */
export function fieldsOf(event: Happened): Fields {
  try {
    const value: unknown = JSON.parse(event.fields);
    if (typeof value === "object" && value !== null) return value as Fields;
  } catch {
    // Shown as text below: a log that cannot be read in full is better than none.
  }
  return { text: event.fields };
}

function linesOf(event: Happened, evidence: boolean): readonly string[] {
  const fields = fieldsOf(event);
  const head = `${event.time}  epoch ${event.epoch}  ${inert(sentence(event.event, fields))}`;
  const rests = fields["evidence"];
  if (!evidence || !Array.isArray(rests)) return [head];
  return [head, ...rests.map((each) => `    ${inert(String(each))}`)];
}

/** What happened, as a sentence; an event without one of its own shows its fields. */
function sentence(event: string, fields: Fields): string {
  const text = (key: string) => String(fields[key] ?? "?");
  switch (event) {
    case "order":
      return `ORDER ${text("order")}${about(fields)} by ${text("who")}${why(fields)}: ${outcome(fields)} - ${text("because")}`;
    case "verdict":
      return `verdict on ${text("segment")}: ${text("rule")} - ${text("because")}; would change: ${text("wouldChange")}`;
    case "epoch_opened":
      return `EPOCH ${text("epoch")} written for ${text("segment")}, ${text("kind")}, on ${text("basis")}`;
    case "epoch_closed":
      return `epoch ${text("epoch")} of ${text("segment")} closed by a joint view`;
    case "promoted":
      return `PROMOTED ${text("segment")}, epoch ${text("epoch")}`;
    case "order_answered":
      return `order of epoch ${text("epoch")} answered by ${text("target")}: ${text("outcome")} - ${text("because")}`;
    case "view_noted":
      return `view noted at ${text("seqno")}: ${list(fields["members"])}`;
    case "server":
      return serverSentence(fields);
    case "server_silent":
      return `${text("server")} is SILENT for ${text("unheardMs")} ms; its last word: serving ${text("serving")}, Primary ${text("primary")}`;
    case "health":
      return `HEALTH ${text("health")} (was ${text("was")}) - ${text("because")}`;
    default:
      return `${event} ${Object.entries(fields)
        .filter(([key]) => key !== "evidence")
        .map(
          ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
        )
        .join(" ")}`.trim();
  }
}

function about(fields: Fields): string {
  const name = fields["node"] ?? fields["segment"];
  return name === undefined || name === null ? "" : ` ${String(name)}`;
}

function why({ why: reason }: Fields): string {
  return typeof reason === "string" && reason !== "" ? ` (${reason})` : "";
}

function outcome({ outcome: planned }: Fields): string {
  if (planned === "would") return "done";
  return planned === "already" ? "was so already" : String(planned);
}

function serverSentence(fields: Fields): string {
  const name = String(fields["server"] ?? "?");
  const again = fields["heardAgain"] === true ? " is heard again:" : ":";
  const up = fields["running"] === "up";
  const view = fields["primary"] === "yes" ? "Primary" : "non-Primary";
  const door = fields["fenced"] === true ? "fenced" : `serving ${String(fields["serving"])}`;
  const state = up
    ? `${view}, ${door}, ${String(fields["group"])}, ${String(fields["localState"])}, at ${String(fields["lastCommitted"])}`
    : `${String(fields["running"])}, at ${String(fields["position"] ?? "?")}`;
  const because = fields["because"];
  return `${name}${again} ${state}${because === "" || because === undefined ? "" : ` - ${String(because)}`}`;
}

function list(value: unknown): string {
  return Array.isArray(value) ? value.join(", ") : String(value);
}

/** What came from outside must not move a terminal, nor end a line. */
function inert(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "?");
}

/**
 * How long ago: `90` and `90s` seconds, `15m`, `2h`, `3d`. Milliseconds; null if it is none of these.
 */
export function parseAgo(text: string): number | null {
  const found = /^(\d+(?:\.\d+)?)(s|m|h|d)?$/.exec(text.trim());
  if (found === null) return null;
  const unit = { s: 1, m: 60, h: 3_600, d: 86_400 }[found[2] ?? "s"] ?? 1;
  return Math.round(Number(found[1]) * unit * 1_000);
}
