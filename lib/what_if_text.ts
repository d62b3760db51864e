/** What would happen if, as lines for people; and the few of them that every status shows. */
import type { ClusterConfig } from "./cluster_config.ts";
import { type ArbitratorState, youngReport } from "./core/arbitrator_state.ts";
import type { Millis } from "./core/core.ts";
import { type Fault, type Forecast, forecastUsual } from "./core/what_if.ts";

/** A forecast in full: outcome, times, what may be missing, and every moment on the way. */
export function forecastText(found: Forecast): string {
  return [
    `if ${found.fault}:`,
    `  then    ${found.outcome}`,
    `  writes  ${stopWords(found)}${found.writer === null ? "" : `; a single writer writes at ${found.writer}`}`,
    `  lost    ${found.loss}`,
    "",
    ...found.moments.map(({ atMs, what }) => `  ${seconds(atMs).padStart(7)}  ${what}`),
  ].join("\n");
}

/** How long nobody could write, in words. */
export function stopWords({ stopMs, serving }: Pick<Forecast, "stopMs" | "serving">): string {
  if (stopMs === null) {
    return serving.length === 0
      ? "stop, and nobody could write"
      : "stop for longer than was looked at";
  }
  const [least, usual, most] = stopMs;
  if (most === 0) return "go on";
  if (least === most) return `stop for about ${seconds(usual)}`;
  return `stop for about ${seconds(usual)} (${seconds(least)} to ${seconds(most)})`;
}

/** One line for each fault that a person fears: each segment, the link, the arbitrator. */
export function nextLines(state: ArbitratorState, now: Millis): readonly string[] {
  const { config, durable } = state;
  const maxAgeMs = config.timing.suspectMs;
  const serves = config.servers.some(
    ({ id }) => youngReport(state, id, { now, maxAgeMs })?.serving === "on",
  );
  if (serves) {
    return faultsOf(config).map(({ words, fault }) =>
      lineOf(words, config, forecastUsual(state, fault, now)),
    );
  }
  // Where nobody serves it matters little what else could fail: what brings the writes back does.
  const nothing = { is: "nothing" } as const;
  const lines = [lineOf("if nothing else happens", config, forecastUsual(state, nothing, now))];
  if (durable.paused === null) return lines;
  const resumed = { ...state, durable: { ...durable, paused: null } };
  return [
    ...lines,
    lineOf("if a person says resume", config, forecastUsual(resumed, nothing, now)),
  ];
}

function lineOf(words: string, config: ClusterConfig, found: Forecast): string {
  if (found.held !== null) return `${words}: nobody serves; ${found.held}`;
  const all = found.serving.length === config.segments.length;
  const who = all ? "all that is left serves on" : `${found.serving.join(", ")} serves alone`;
  return `${words}: ${who}, writes ${stopWords(found)}`;
}

function faultsOf(
  config: ClusterConfig,
): readonly { readonly words: string; readonly fault: Fault }[] {
  const [arbitrator] = config.arbitrators;
  return [
    ...config.segments.map(({ name, servers }) => ({
      words: `if ${name} is lost`,
      fault: { is: "servers_down", name, servers: servers.map(({ id }) => id) } as const,
    })),
    { words: "if the link is cut", fault: { is: "link_down" } as const },
    ...(arbitrator === undefined
      ? []
      : [
          {
            words: "if the arbitrator is lost",
            fault: { is: "arbitrator_down", arbitrator: arbitrator.id } as const,
          },
        ]),
  ];
}

function seconds(ms: Millis): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
