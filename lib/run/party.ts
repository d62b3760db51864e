/**
 * What every long-running party shares: its mailroom and loop, the sockets it listens on, and a
 * shutdown in order. Which core, and what its effects do, is handed in.
 */
import { chmodSync, existsSync, mkdirSync, unlinkSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { dirname } from "node:path";
import type { ClusterConfig } from "../cluster_config.ts";
import type { Core, Millis } from "../core/core.ts";
import { type MailEvent, mailroom } from "../correspondent.ts";
import { postMessage } from "../effects/http.ts";
import { Connections } from "../effects/http_client.ts";
import {
  type Certificate,
  type HttpServer,
  type ServerTls,
  serveHttp,
} from "../effects/http_server.ts";
import { openSecrets, type Secrets, secretPlaces, takesUnsigned } from "../effects/secrets.ts";
import { openCerts, speaksFor } from "../effects/tls.ts";
import { createEndpoint, type Endpoint, type Peer } from "../endpoint.ts";
import { describeError, MinderError } from "../errors.ts";
import { type Log, quietLog } from "../log.ts";
import { type Loop, type RoleEffect, startLoop } from "../loop.ts";
import { type PartyId, partyType } from "../message/envelope.ts";
import type { Message } from "../message/mod.ts";
import { tokenBuckets } from "../rate.ts";
import { mayBeUnsigned, signingKey } from "../seal.ts";
import { type Clock, systemWakeup } from "../wakeup.ts";
import type { ConfigKeeper } from "./config_keeper.ts";
import { notifierOfProcess, supervise } from "./supervised.ts";

/** An effect without a time limit of its own ends within this. */
export const EFFECT_LIMIT_MS = 10_000;
/** Effects under way at a shutdown may take so long. */
const STOP_MS = 2_000;
/** Requests of one address: a party's own are some ten a second, those of many behind one address add up. */
export const RATE_BURST = 5000;
export const RATE_PER_SECOND = 1000;
/** Addresses that are counted at a time. */
const RATE_ADDRESSES_MAX = 4096;
/** The addresses of this host are looked up again after this. */
const OWN_ADDRESSES_MS = 5_000;

export interface PartyOptions<S, E, F> {
  readonly config: ClusterConfig;
  /** Where the config comes from the database. @default none */
  readonly keeper?: ConfigKeeper | null;
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
  /** Goes on with another config, saying that it has that version. */
  adopt(config: ClusterConfig, version: number): void;
  /** Stops in order: no new requests, no wakeup, running effects within a bound. */
  stop(): Promise<void>;
}

/**
 * The keys of a party; null if its messages are not signed, which is said loudly.
 * @throws MinderError if they cannot be read, or if unsigned messages would be taken from other hosts
 */
function openKeys(
  config: ClusterConfig,
  options: { readonly self: PartyId; readonly host: string; readonly log: Log },
): Secrets | null {
  const { self, host, log } = options;
  const places = secretPlaces(config.security);
  // Only who takes orders needs to know the operators' secret.
  const operator = partyType(self) === "arbitrator" ? places.operator : null;
  if (places.node !== null) {
    const secrets = openSecrets({ node: places.node, operator }, log);
    log.info("signed", { keys: secrets.ring().keys });
    if (takesUnsigned(config.security)) {
      log.error("unsigned", { because: "what is not signed is taken as well" });
    }
    return secrets;
  }
  if (!isLoopback(host) && !takesUnsigned(config.security)) {
    throw new MinderError("Will not start: messages are not signed", {
      where: `${self} at ${host}`,
      hint: "Set security.secret_file (`just secret FILE` makes one), or security.unsigned = true if nobody else can reach these ports",
    });
  }
  log.error("unsigned", {
    because: "no security.secret_file: whoever reaches this port can speak in any party's name",
  });
  return null;
}

function isLoopback(address: string): boolean {
  return /^(127\.|::1$|localhost$|::ffff:127\.)/.test(address);
}

/** Tells whether an address is one of this host. */
function ownAddresses(now: () => Millis): (address: string) => boolean {
  let known = new Set<string>();
  let at = Number.NEGATIVE_INFINITY;
  return (address) => {
    if (isLoopback(address)) return true;
    if (now() - at > OWN_ADDRESSES_MS) {
      at = now();
      known = new Set(
        Object.values(networkInterfaces()).flatMap((each) => each?.map((own) => own.address) ?? []),
      );
    }
    return known.has(address.replace(/^::ffff:/, ""));
  };
}

/**
 * Starts a party.
 * @throws MinderError if its address cannot be listened on, or its secrets cannot be used
 */
export function startParty<S, E extends { readonly on: string }, F extends { readonly do: string }>(
  options: PartyOptions<S, E, F>,
): Party<S, E, F> {
  const { config, self, core, clock, log, keeper = null } = options;
  const secrets = openKeys(config, { self, host: options.listen.host, log });
  const unsigned = takesUnsigned(config.security);
  const tlsConfig = config.security.tls;
  const connections = new Connections();
  const certs =
    tlsConfig === null
      ? null
      : openCerts(tlsConfig, self, {
          log,
          onChange: ({ server }) => main.renew({ ...server, mutual: tlsConfig.mutual }),
        });
  let latest = config;
  const session = crypto.randomUUID();
  const configVersion = keeper?.version() ?? config.version;
  const machine = mailroom<S, E, F>({ self, config, session, core, configVersion });
  const loop = startLoop<S, E, F>({
    machine,
    state: machine.initial(options.initial),
    clock,
    wakeup: (fire) => systemWakeup(clock, fire),
    perform: options.perform,
    failed: options.failed,
    limitMs: options.limitMs ?? (() => EFFECT_LIMIT_MS),
    ...(options.laneOf === undefined ? {} : { laneOf: options.laneOf }),
    post: ({ url, message, timeoutMs }, signal) => {
      const key = secrets === null ? null : signingKey(secrets.ring(), "node");
      const tls = certs?.current().client ?? null;
      return postMessage({ url, message, timeoutMs, signal, key, unsigned, tls, connections });
    },
    onConfigVersion: (version) => keeper?.heard(version),
    phaseOf: options.phaseOf,
    log,
  });
  /** Without a certificate: on loopback, where only what needs no proof is taken. */
  function certified(certificate: Certificate | null, message: Message): boolean {
    if (certificate === null) return mayBeUnsigned(message);
    return speaksFor(certificate, message.sender, latest);
  }
  const endpoint = createEndpoint({
    submit: (message) => loop.submit(message),
    status: () => ({
      party: self,
      ...(options.status(loop.state().core, clock.now()) as object),
      ...(keeper === null ? {} : { config: keeper.status() }),
      mail: Object.fromEntries(loop.state().counters),
      refused: endpoint.counters(),
    }),
    illness: () => loop.illness(),
    log: quietLog(log, () => clock.now()),
    keyring: () => secrets?.ring() ?? null,
    unsigned,
    ...(tlsConfig?.mutual === true ? { certified } : {}),
    rate: {
      buckets: tokenBuckets({
        burst: RATE_BURST,
        perSecond: RATE_PER_SECOND,
        keysMax: RATE_ADDRESSES_MAX,
      }),
      now: clock.now,
    },
  });
  const { host, port } = options.listen;
  const isOwn = ownAddresses(clock.now);
  const shown =
    certs === null ? null : { ...certs.current().server, mutual: tlsConfig?.mutual ?? true };
  const main = listen({ hostname: host, port, tls: shown }, endpoint, isOwn);
  const loopback =
    shown === null && isLoopback(host) ? null : listenPlain(port, { endpoint, isOwn, log });
  const control =
    options.controlSocket === null ? null : listenUnix(options.controlSocket, endpoint);
  const onHangup = (): void => {
    secrets?.reload();
    certs?.reload();
  };
  if (secrets !== null || certs !== null) process.on("SIGHUP", onHangup);
  log.info("started", { host, port, controlSocket: options.controlSocket, config: config.version });
  const supervisor = supervise(loop, notifierOfProcess(), () => {
    const { phase, because } = options.phaseOf(loop.state().core);
    return `${phase}: ${because}`;
  });

  async function stop(): Promise<void> {
    log.info("stopping");
    supervisor.stopping();
    keeper?.stop();
    // Requests under way get their answers from the loop; no new ones come in.
    main.stop(false);
    loopback?.stop(false);
    void control?.stop(false);
    await loop.stop(STOP_MS);
    main.stop(true);
    loopback?.stop(true);
    await control?.stop(true);
    connections.close();
    process.off("SIGHUP", onHangup);
    secrets?.close();
    certs?.close();
    log.info("stopped");
  }
  function adopt(next: ClusterConfig, version: number): void {
    latest = next;
    loop.adopt(mailroom<S, E, F>({ self, config: next, session, core, configVersion: version }));
  }

  const scheme = shown === null ? "http" : "https";
  return { loop, url: `${scheme}://${host}:${port}`, adopt, stop };
}

/** Where a party listens: as its host's own file says, else as the config did when it started. */
export function listenAt(
  party: { readonly host: string; readonly port: number },
  keeper: ConfigKeeper | null,
): { readonly host: string; readonly port: number } {
  const told = keeper?.node.node.listen;
  if (told === undefined) return party;
  const at = told.lastIndexOf(":");
  return { host: told.slice(0, at).replace(/^\[|\]$/g, ""), port: Number(told.slice(at + 1)) };
}

interface ListenAt {
  readonly hostname: string;
  readonly port: number;
  readonly tls: ServerTls | null;
}

function listen(
  at: ListenAt,
  { app, dropped }: Endpoint,
  isOwn: (address: string) => boolean,
): HttpServer {
  return serveHttp({
    ...at,
    fetch(request, visitor) {
      const { address, certificate } = visitor;
      const peer: Peer = {
        address,
        isLocal: () => isOwn(address),
        certificate,
        body: (maxBytes, timeoutMs) => visitor.body(maxBytes, timeoutMs),
        proven: () => visitor.proven(),
      };
      return app.fetch(request, { peer });
    },
    dropped,
  });
}

/**
 * The same port on loopback, never with TLS, for the notify handler and questions of this host: a
 * handshake takes longer than mariadbd should wait. Done without where another program has it.
 */
function listenPlain(
  port: number,
  options: {
    readonly endpoint: Endpoint;
    readonly isOwn: (address: string) => boolean;
    readonly log: Log;
  },
): HttpServer | null {
  try {
    return listen({ hostname: "127.0.0.1", port, tls: null }, options.endpoint, options.isOwn);
  } catch (error) {
    options.log.warn("loopback_port_taken", { port, error: describeError(error) });
    return null;
  }
}

function listenUnix(path: string, { app }: Endpoint): Bun.Server<undefined> {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o750 });
    // A socket left by a process that was killed; a living one holds the address as well.
    if (existsSync(path)) unlinkSync(path);
    const peer: Peer = { address: null, isLocal: () => true };
    const server = Bun.serve({ unix: path, fetch: (request) => app.fetch(request, { peer }) });
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
