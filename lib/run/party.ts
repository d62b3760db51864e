/**
 * What every long-running party shares: its mailroom and loop, the sockets it listens on, and a
 * shutdown in order. Which core, and what its effects do, is handed in.
 */
import { chmodSync, existsSync, mkdirSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import type { ClusterConfig } from "../cluster_config.ts";
import type { Core, Millis } from "../core/core.ts";
import { type MailEvent, mailroom } from "../correspondent.ts";
import { postMessage } from "../effects/http.ts";
import { createEndpoint } from "../endpoint.ts";
import { describeError, MinderError } from "../errors.ts";
import { type Log, quietLog } from "../log.ts";
import { type Loop, type RoleEffect, startLoop } from "../loop.ts";
import type { PartyId } from "../message/envelope.ts";
import { type Clock, systemWakeup } from "../wakeup.ts";

/** An effect without a time limit of its own ends within this. */
export const EFFECT_LIMIT_MS = 10_000;
/** Effects under way at a shutdown may take so long. */
const STOP_MS = 2_000;
/** Connections without a request are closed after this, in seconds; peers report twice a second. */
const IDLE_S = 30;

export interface PartyOptions<S, E, F> {
  readonly config: ClusterConfig;
  readonly self: PartyId;
  readonly listen: { readonly host: string; readonly port: number };
  /** Unix socket for questions and orders from this very host; null for none. */
  readonly controlSocket: string | null;
  readonly core: Core<S, E, F>;
  readonly initial: S;
  readonly perform: (effect: RoleEffect<F>, signal: AbortSignal) => Promise<MailEvent<E> | null>;
  readonly failed: (effect: RoleEffect<F>, error: string) => MailEvent<E> | null;
  readonly limitMs?: (effect: RoleEffect<F>) => Millis;
  readonly laneOf?: (effect: RoleEffect<F>) => string | null;
  readonly phaseOf: (core: S) => { readonly phase: string; readonly because: string };
  /** What `GET /status` shows. */
  readonly status: (core: S, now: Millis) => unknown;
  readonly clock: Clock;
  readonly log: Log;
}

/** A party at work. */
export interface Party<S, E, F> {
  readonly loop: Loop<S, E, F>;
  /** Where it listens. */
  readonly url: string;
  /** Stops in order: no new requests, no wakeup, running effects within a bound. */
  stop(): Promise<void>;
}

/**
 * Starts a party.
 * @throws MinderError if its address cannot be listened on
 */
export function startParty<S, E extends { readonly on: string }, F extends { readonly do: string }>(
  options: PartyOptions<S, E, F>,
): Party<S, E, F> {
  const { config, self, core, clock, log } = options;
  const machine = mailroom<S, E, F>({ self, config, session: crypto.randomUUID(), core });
  const loop = startLoop<S, E, F>({
    machine,
    state: machine.initial(options.initial),
    clock,
    wakeup: (fire) => systemWakeup(clock, fire),
    perform: options.perform,
    failed: options.failed,
    limitMs: options.limitMs ?? (() => EFFECT_LIMIT_MS),
    ...(options.laneOf === undefined ? {} : { laneOf: options.laneOf }),
    post: ({ url, message, timeoutMs }, signal) => postMessage({ url, message, timeoutMs, signal }),
    phaseOf: options.phaseOf,
    log,
  });
  const endpoint = createEndpoint({
    submit: (message) => loop.submit(message),
    status: () => ({
      party: self,
      ...(options.status(loop.state().core, clock.now()) as object),
      mail: Object.fromEntries(loop.state().counters),
      refused: endpoint.counters(),
    }),
    illness: () => loop.illness(),
    log: quietLog(log, () => clock.now()),
  });
  const servers = [
    listen({ hostname: options.listen.host, port: options.listen.port }, endpoint.app.fetch),
    ...(options.controlSocket === null
      ? []
      : [listenUnix(options.controlSocket, endpoint.app.fetch)]),
  ];
  const { host, port } = options.listen;
  log.info("started", { host, port, controlSocket: options.controlSocket, config: config.version });

  async function stop(): Promise<void> {
    log.info("stopping");
    // Requests under way get their answers from the loop; no new ones come in.
    for (const server of servers) void server.stop(false);
    await loop.stop(STOP_MS);
    for (const server of servers) await server.stop(true);
    log.info("stopped");
  }
  return { loop, url: `http://${host}:${port}`, stop };
}

type Fetch = (request: Request) => Response | Promise<Response>;

function listen(
  at: { readonly hostname: string; readonly port: number },
  fetch: Fetch,
): Bun.Server<undefined> {
  try {
    return Bun.serve({ ...at, fetch, idleTimeout: IDLE_S });
  } catch (cause) {
    throw new MinderError("Cannot listen", {
      where: `${at.hostname}:${at.port}`,
      hint: "Is another minder running here, or is this address not this host's?",
      cause,
    });
  }
}

function listenUnix(path: string, fetch: Fetch): Bun.Server<undefined> {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    // A socket left by a process that was killed; a living one holds the address as well.
    if (existsSync(path)) unlinkSync(path);
    const server = Bun.serve({ unix: path, fetch });
    // Who may open the folder may give orders; the socket itself adds nothing for others.
    chmodSync(path, 0o660);
    return server;
  } catch (cause) {
    throw new MinderError("Cannot listen for orders of this host", { where: path, cause });
  }
}

/** Runs until SIGTERM or SIGINT, then stops in order; a second signal ends it at once. Returns the exit code. */
export async function untilSignalled<S, E, F>(
  party: Party<S, E, F>,
  log: Log,
  close: () => Promise<void> = async () => undefined,
): Promise<number> {
  const { promise: signalled, resolve } = Promise.withResolvers<"signalled">();
  let seen = false;
  function onSignal(): void {
    if (seen) process.exit(1);
    seen = true;
    resolve("signalled");
  }
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  let code = 0;
  try {
    await Promise.race([signalled, party.loop.ended]);
  } catch (error) {
    // A broken invariant: the supervisor starts a process that assumes nothing.
    log.error("broken", { error: describeError(error) });
    code = 1;
  }
  await party.stop();
  await close();
  return code;
}
