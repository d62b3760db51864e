/**
 * What befalls a cluster in one repetition of mixed faults: one fault or two, perhaps the end of a
 * watchdog while members are being evicted, and when it is all mended. Plain values, drawn from a seed.
 */
import { mulberry, pick, type Random, waitBetween } from "./random.ts";

export type Misfortune =
  /** `kill -9` of mariadbd. */
  | { readonly what: "kill"; readonly servers: readonly string[] }
  /** These hosts hear nobody but each other. */
  | { readonly what: "cut_hosts"; readonly servers: readonly string[] }
  | { readonly what: "cut_link" }
  /** SIGSTOP of mariadbd, SIGCONT so long after it. */
  | { readonly what: "hang"; readonly servers: readonly string[]; readonly forMs: number }
  /** SIGTERM to mariadbd: it leaves the group before it ends. */
  | { readonly what: "stop"; readonly servers: readonly string[] }
  /** The watchdog ends, and is started anew so long after. */
  | {
      readonly what: "end_watchdog";
      readonly server: string;
      readonly signal: "SIGKILL" | "SIGTERM";
      readonly backMs: number;
    }
  /** SIGSTOP of the watchdog, so that orders and statements come to a stand between two steps, and SIGCONT. */
  | { readonly what: "pause_watchdog"; readonly servers: readonly string[]; readonly forMs: number }
  | { readonly what: "end_arbitrator"; readonly backMs: number };

/** One of them, so long after the first. */
export interface PlannedMisfortune {
  readonly atMs: number;
  readonly misfortune: Misfortune;
}

export interface MixedPlan {
  readonly seed: number;
  readonly steps: readonly PlannedMisfortune[];
  /** After the first step, and later than the last: all cuts end, what hangs goes on. */
  readonly mendMs: number;
}

type What = Misfortune["what"] | "kill_segment" | "cut_host";

/** Kinds with their shares: as the first fault, and as the second. */
const FIRST: readonly (readonly [What, number])[] = [
  ["kill", 3],
  ["kill_segment", 2],
  ["cut_hosts", 3],
  ["cut_host", 1],
  ["cut_link", 4],
  ["hang", 2],
  ["stop", 1],
];
const SECOND: readonly (readonly [What, number])[] = [
  ...FIRST,
  ["end_watchdog", 2],
  ["pause_watchdog", 2],
  ["end_arbitrator", 2],
];
const SECOND_SHARE = 0.4;
const SECOND_WITHIN_MS = 3_000;
/** Watchdogs end or pause while members are evicted: at once after an exit, after `suspect_ms` of silence. */
const WATCHDOG_SHARE = 0.5;
const PAUSED_SHARE = 0.5;
const MEND_MS = [300, 12_000] as const;
const BACK_MS = [300, 4_000] as const;
const HANG_MS = [300, 8_000] as const;

/** Draws what happens; `segments` are the servers of each data centre. */
export function planMixed(seed: number, segments: readonly (readonly string[])[]): MixedPlan {
  const random = mulberry(seed);
  const steps: PlannedMisfortune[] = [
    { atMs: 0, misfortune: draw(random, kindOf(random, FIRST), segments) },
  ];
  if (random() < SECOND_SHARE) {
    const atMs = Math.round(random() * SECOND_WITHIN_MS);
    steps.push({ atMs, misfortune: draw(random, kindOf(random, SECOND), segments) });
  }
  if (random() < WATCHDOG_SHARE) {
    const silent = steps.some(({ misfortune }) => misfortune.what.startsWith("cut"));
    const atMs = Math.round((silent ? 1_400 : 0) + random() * (silent ? 1_200 : 400));
    steps.push({ atMs, misfortune: drawWatchdog(random, segments) });
  }
  steps.sort((a, b) => a.atMs - b.atMs);
  const mendMs = (steps.at(-1)?.atMs ?? 0) + waitBetween(random, ...MEND_MS);
  return { seed, steps, mendMs };
}

/** What befalls a watchdog in the middle: of one server, or now and then of a whole data centre. */
function drawWatchdog(random: Random, segments: readonly (readonly string[])[]): Misfortune {
  const server = pick(random, segments.flat());
  const forMs = waitBetween(random, ...BACK_MS);
  if (random() >= PAUSED_SHARE) {
    return { what: "end_watchdog", server, signal: "SIGKILL", backMs: forMs };
  }
  const servers = random() < 0.5 ? [server] : pick(random, segments);
  return { what: "pause_watchdog", servers, forMs };
}

function draw(random: Random, what: What, segments: readonly (readonly string[])[]): Misfortune {
  const servers = segments.flat();
  const one = [pick(random, servers)];
  const segment = pick(random, segments);
  switch (what) {
    case "kill":
      // Now and then two, of whichever data centre.
      return {
        what,
        servers: [...new Set([...one, ...(random() < 0.3 ? [pick(random, servers)] : [])])],
      };
    case "kill_segment":
      return { what: "kill", servers: segment };
    case "cut_hosts":
      return { what, servers: segment };
    case "cut_host":
      return { what: "cut_hosts", servers: one };
    case "cut_link":
      return { what };
    case "hang":
      return { what, servers: one, forMs: waitBetween(random, ...HANG_MS) };
    case "stop":
      return { what, servers: one };
    case "end_watchdog": {
      const signal = random() < 0.5 ? "SIGKILL" : "SIGTERM";
      return { what, server: one[0] ?? "", signal, backMs: waitBetween(random, ...BACK_MS) };
    }
    case "pause_watchdog":
      return { what, servers: one, forMs: waitBetween(random, ...BACK_MS) };
    case "end_arbitrator":
      return { what, backMs: waitBetween(random, ...BACK_MS) };
    default:
      throw new Error(`No misfortune is called ${String(what satisfies never)}`);
  }
}

function kindOf(random: Random, kinds: readonly (readonly [What, number])[]): What {
  let left = random() * kinds.reduce((sum, [, share]) => sum + share, 0);
  for (const [what, share] of kinds) {
    left -= share;
    if (left < 0) return what;
  }
  return "kill";
}

/** For a line of people: `0 kill dc1-1, 200 end_watchdog dc2-1 SIGKILL back 900, mended 3000`. */
export function describePlan({ steps, mendMs }: MixedPlan): string {
  const words = steps.map(({ atMs, misfortune }) => `${atMs} ${describe(misfortune)}`);
  return [...words, `mended ${mendMs}`].join(", ");
}

function describe(misfortune: Misfortune): string {
  switch (misfortune.what) {
    case "cut_link":
      return misfortune.what;
    case "hang":
    case "pause_watchdog":
      return `${misfortune.what} ${misfortune.servers.join("+")} for ${misfortune.forMs}`;
    case "end_watchdog":
      return `end_watchdog ${misfortune.server} ${misfortune.signal} back ${misfortune.backMs}`;
    case "end_arbitrator":
      return `end_arbitrator back ${misfortune.backMs}`;
    default:
      return `${misfortune.what} ${misfortune.servers.join("+")}`;
  }
}
