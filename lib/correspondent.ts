/**
 * The mail around a role's core: one Correspondent for each peer keeps what was sent, acknowledged
 * and heard. Owns acks, resends, duplicates and sessions, so that a core sees each message once, and
 * each reply with the time of the send that it answers. Pure: sessions are given in, time is a
 * parameter, and the same code runs in the programs and in the simulator.
 *
 * Invariants: at most one message per (peer, verb) waits; at most FLIGHTS_MAX posts per peer are
 * under way; a message is handed to the core only if its sender has proven to know this session.
 */
import type { ClusterConfig } from "./cluster_config.ts";
import {
  type Answered,
  type Arrived,
  type Core,
  type Millis,
  type Reply,
  type Role,
  type Send,
  type Step,
  updated,
} from "./core/core.ts";
import {
  type PartyId,
  type PartyType,
  partySerial,
  partyType,
  WIRE_VERSION,
} from "./message/envelope.ts";
import {
  type Body,
  isQuestion,
  type Message,
  type Route,
  routeOf,
  verbsOf,
} from "./message/mod.ts";

/** Posts under way to one peer; a peer that hangs must not bind more. */
export const FLIGHTS_MAX = 4;
/** Messages that wait for the core's reply, over all peers. */
export const TICKETS_MAX = 256;
/** Requests that wait for one and the same reply: the first and its repeats. */
export const WAITS_MAX = 8;
/** Repeats of one attempt because the peer named another session; more than one is already odd. */
export const HANDSHAKES_MAX = 2;
/** Earlier sessions of a peer that are remembered as superseded. */
export const RETIRED_MAX = 1024;
/** Times that this process takes a new name towards a peer that holds its session for superseded. */
export const RENEWALS_MAX = 3;
/** Sessions handed to commands, used or not. */
export const CHALLENGES_MAX = 256;
/** A command must use the session that it was given within this: a delayed order is void. */
export const CHALLENGE_MAX_MS = 10_000;
/** A first attempt that fails at once is followed after this. */
export const QUICK_RETRY_MS = 100;
/** A client minder where so many posts in a row failed at once is away: there may be hundreds. */
export const AWAY_FAILURES = 3;
/** One that is away is told this often, and at once when it speaks: it asks as soon as it starts. */
export const AWAY_MS = 5_000;
/** A post and the wait for a reply last so many ack timeouts: a late reply still tells something. */
export const PATIENCE_ACK_TIMEOUTS = 2;

// --- What comes in and goes out beside the core's own events and effects. ---

/** A decoded message has come; `httpTicket` names the request that waits for its response. */
export interface Delivery {
  readonly on: "arrived";
  readonly message: Message;
  readonly httpTicket: number;
}

/** What became of a post. */
export type PostResult =
  /** An HTTP response with a message in it: a reply (200), or the session to use (409). */
  | { readonly status: number; readonly message: Message }
  /** A refusal: the reason is a word for counters. */
  | { readonly status: number; readonly reason: string; readonly error: string }
  /** No response, or none that can be read. */
  | { readonly error: string };

export interface Posted {
  readonly on: "posted";
  readonly postId: number;
  readonly result: PostResult;
}

/** Send this message to that URL; the result comes back as Posted, within `timeoutMs`. */
export interface Post {
  readonly do: "post";
  readonly postId: number;
  readonly to: PartyId;
  readonly url: string;
  readonly message: Message;
  readonly timeoutMs: Millis;
}

/** End the request that waits under `httpTicket`. */
export type Respond = {
  readonly do: "respond";
  readonly httpTicket: number;
  readonly status: number;
} & (
  | { readonly message: Message }
  | { readonly message?: never; readonly reason: string; readonly error: string }
);

/** Events of a mailroom: its own two instead of the two that it makes for the core. */
export type MailEvent<E> = Exclude<E, { readonly on: "message" | "answered" }> | Delivery | Posted;

/** Effects of a mailroom: its own two instead of the two that it performs for the core. */
export type MailEffect<F> = Exclude<F, { readonly do: "send" | "reply" }> | Post | Respond;

// --- State. ---

/** A message to a peer that has no reply yet. */
interface Outgoing {
  readonly seq: number;
  readonly body: Body;
  /** When it was stated; replies are dated by this, which is never later than any attempt. */
  readonly sentAt: Millis;
  readonly expiresAt: Millis;
  /** Next attempt. */
  readonly dueAt: Millis;
  readonly attempts: number;
  /** Attempts that were due by time, after the first. */
  readonly repeats: number;
  /** Repeats since the last timed attempt because the peer named another session. */
  readonly handshakes: number;
  /** Session of the peer that the last attempt was addressed to. */
  readonly toSession: string;
}

/** The newest message of one verb that a peer's session has sent. */
interface Heard {
  readonly verb: string;
  readonly seq: number;
  readonly ticket: number;
  /** The answer, for repeats; null while the core works on it. */
  readonly reply: Message | null;
}

/**
 * The keeper of one peer's mail. Its lists are short (verbs, posts), so that looking through them costs
 * less than a map does, and a copy of them next to nothing.
 */
export interface Correspondent {
  readonly id: PartyId;
  /** The name of this process's life towards that peer. */
  readonly ownSession: string;
  readonly renewals: number;
  /** The peer's session as far as it is known; empty before the first contact. */
  readonly peerSession: string;
  /** Last sequence number used. */
  readonly seq: number;
  /** One entry for each verb. */
  readonly outbox: readonly Outgoing[];
  /** The session that was accepted last, and its newest message of each verb. */
  readonly heardSession: string | null;
  readonly heard: readonly Heard[];
  /** Superseded sessions, newest last. */
  readonly retired: readonly string[];
  /** Where the peer's newest report says that it is reached. */
  readonly url: string | null;
  readonly heardAt: Millis | null;
  readonly answeredAt: Millis | null;
  readonly lastError: string | null;
  /** Posts that have failed at once since it last spoke or answered. */
  readonly failures: number;
}

interface Flight {
  readonly postId: number;
  readonly peer: PartyId;
  readonly message: Message;
  readonly body: Body;
  readonly sentAt: Millis;
  /** Another attempt of the same message has been answered: this one adds nothing. */
  readonly answered: boolean;
  /** The performer owes a result by then; without one the slot is taken back. */
  readonly giveUpAt: Millis;
}

interface Ticket {
  readonly id: number;
  readonly asked: Message;
  readonly waits: readonly { readonly httpTicket: number; readonly expiresAt: Millis }[];
}

/** A session made for one command: good for one message, once. */
interface Challenge {
  readonly madeAt: Millis;
  readonly used: ({ readonly session: string } & Heard) | null;
}

export interface MailroomState<S> {
  readonly core: S;
  readonly correspondents: readonly Correspondent[];
  /** Posts under way, oldest first. */
  readonly flights: readonly Flight[];
  /** Messages that wait for the core's reply, oldest first. */
  readonly tickets: readonly Ticket[];
  readonly challenges: ReadonlyMap<string, Challenge>;
  /** Next number for a post, a ticket or a challenge. */
  readonly nextId: number;
  /** What was refused, failed or lost, by reason. */
  readonly counters: ReadonlyMap<string, number>;
  /** Highest config version in any message that was accepted. */
  readonly configVersionHeard: number;
  /** The earliest deadline of the mail, as seen under that config. */
  readonly due: { readonly config: ClusterConfig; readonly at: Millis };
}

export interface MailroomOptions<S, E, F> {
  readonly self: PartyId;
  readonly config: ClusterConfig;
  /** Random per process start, at most 48 characters of A-Z a-z 0-9 _ -. */
  readonly session: string;
  readonly core: Core<S, E, F>;
  /** The newest version of the config that this party has, in force or not. @default the config's own */
  readonly configVersion?: number;
}

/** A core with its mail: shaped like a core itself, so that a loop or a simulator drives it. */
export interface Mailroom<S, E, F> extends Core<MailroomState<S>, MailEvent<E>, MailEffect<F>> {
  initial(core: S): MailroomState<S>;
}

/** A step in progress: each collection is the state's own until the step has made it its own copy. */
interface Work<S, F> {
  readonly before: MailroomState<S>;
  core: S;
  correspondents: readonly Correspondent[];
  flights: readonly Flight[];
  tickets: readonly Ticket[];
  challenges: ReadonlyMap<string, Challenge>;
  nextId: number;
  counters: ReadonlyMap<string, number>;
  configVersionHeard: number;
  /** Something that has a deadline has come or gone. */
  dueChanged: boolean;
  readonly now: Millis;
  readonly effects: MailEffect<F>[];
}

function ownFlights(work: Work<unknown, unknown>): Flight[] {
  work.dueChanged = true;
  if (work.flights === work.before.flights) work.flights = work.flights.slice();
  return work.flights as Flight[];
}

function ownTickets(work: Work<unknown, unknown>): Ticket[] {
  work.dueChanged = true;
  if (work.tickets === work.before.tickets) work.tickets = work.tickets.slice();
  return work.tickets as Ticket[];
}

function ownCorrespondents(work: Work<unknown, unknown>): Correspondent[] {
  if (work.correspondents === work.before.correspondents) {
    work.correspondents = work.correspondents.slice();
  }
  return work.correspondents as Correspondent[];
}

function ownChallenges(work: Work<unknown, unknown>): Map<string, Challenge> {
  if (work.challenges === work.before.challenges) work.challenges = new Map(work.challenges);
  return work.challenges as Map<string, Challenge>;
}

/** Puts a role's core into its mailroom. A new config takes the old state over. */
export function mailroom<S, E extends { readonly on: string }, F extends { readonly do: string }>(
  options: MailroomOptions<S, E, F>,
): Mailroom<S, E, F> {
  const { self, config, session, core, configVersion = config.version } = options;
  const { ackTimeoutMs, resendMs } = config.timing;
  const verbsTo = rememberedVerbs((peer) => routeOf(self, peer));
  const verbsFrom = rememberedVerbs((peer) => routeOf(peer, self));
  const patienceMs = PATIENCE_ACK_TIMEOUTS * ackTimeoutMs;
  if (!/^[A-Za-z0-9_-]{1,48}$/.test(session)) {
    throw new Error(
      `Cannot open a mailroom: session ${JSON.stringify(session)} is not of the form`,
    );
  }

  function initial(state: S): MailroomState<S> {
    return {
      core: state,
      correspondents: [],
      flights: [],
      tickets: [],
      challenges: new Map(),
      nextId: 1,
      counters: new Map(),
      configVersionHeard: configVersion,
      due: { config, at: Number.POSITIVE_INFINITY },
    };
  }

  function step(
    state: MailroomState<S>,
    event: MailEvent<E>,
    now: Millis,
  ): Step<MailroomState<S>, MailEffect<F>> {
    const work: Work<S, F> = {
      before: state,
      core: state.core,
      correspondents: state.correspondents,
      flights: state.flights,
      tickets: state.tickets,
      challenges: state.challenges,
      nextId: state.nextId,
      counters: state.counters,
      configVersionHeard: state.configVersionHeard,
      dueChanged: false,
      now,
      effects: [],
    };
    if (isDelivery(event)) receive(work, event);
    else if (isPosted(event)) postEnded(work, event);
    else {
      tell(work, event as unknown as E);
      // After the core: what it has just restated needs no repeat.
      if (event.on === "wakeup" && now >= mailDueAt(state)) sortDue(work);
    }
    const { core: after, correspondents, flights, tickets, challenges, nextId, counters } = work;
    const next: MailroomState<S> = {
      core: after,
      correspondents,
      flights,
      tickets,
      challenges,
      nextId,
      counters,
      configVersionHeard: work.configVersionHeard,
      due: work.dueChanged || state.due.config !== config ? { config, at: dueOf(work) } : state.due,
    };
    return { state: next, effects: work.effects };
  }

  function dueAt(state: MailroomState<S>): Millis {
    return Math.min(core.dueAt(state.core), mailDueAt(state));
  }

  /** A config that is new has everything looked through at once. */
  function mailDueAt({ due }: MailroomState<S>): Millis {
    return due.config === config ? due.at : Number.NEGATIVE_INFINITY;
  }

  function dueOf(work: Work<S, F>): Millis {
    let due = Number.POSITIVE_INFINITY;
    for (const { giveUpAt } of work.flights) due = Math.min(due, giveUpAt);
    for (const ticket of work.tickets) {
      for (const wait of ticket.waits) due = Math.min(due, wait.expiresAt);
    }
    const isBlocked = blockedIn(work.flights);
    for (const { id, outbox } of work.correspondents) {
      for (const { expiresAt, dueAt: nextAt } of outbox) {
        due = Math.min(due, expiresAt);
        // A blocked message goes out when a post ends, which is an event and not a time.
        if (nextAt < due && !isBlocked(id)) due = nextAt;
      }
    }
    return due;
  }

  /** Hands an event to the core and does what it asks of the mail; the rest goes out in its order. */
  function tell(work: Work<S, F>, event: E): void {
    const stepped = core.step(work.core, event, work.now);
    work.core = stepped.state;
    for (const effect of stepped.effects) {
      if (isSend(effect)) send(work, effect);
      else if (isReply(effect)) reply(work, effect);
      // What is neither is what MailEffect leaves of F.
      else work.effects.push(effect as unknown as MailEffect<F>);
    }
  }

  // --- Sending. ---

  function send(work: Work<S, F>, effect: Send<Role>): void {
    const body = effect.body as Body;
    requireRoute(effect.to, body);
    if (!config.urlById.has(effect.to)) {
      count(work, "unsent.not_in_config");
      return;
    }
    const correspondent = correspondentOf(work, effect.to);
    const seq = correspondent.seq + 1;
    const waiting = byVerb(correspondent.outbox, body.verb);
    const outgoing: Outgoing = {
      seq,
      body,
      sentAt: work.now,
      expiresAt: work.now + effect.expiresMs,
      // What an absent peer will hear first is the newest state, but not sooner.
      dueAt: waiting !== undefined && isAway(effect.to, correspondent) ? waiting.dueAt : work.now,
      attempts: 0,
      repeats: 0,
      handshakes: 0,
      toSession: "",
    };
    change(work, effect.to, { seq, outbox: withOutgoing(correspondent.outbox, outgoing) });
    pump(work, effect.to);
  }

  /** Posts whatever is due to a peer, as far as there are slots. */
  function pump(work: Work<S, F>, peer: PartyId): void {
    for (const outgoing of correspondentOf(work, peer).outbox) {
      if (outgoing.dueAt > work.now) continue;
      if (flightsAmong(work.flights, peer) >= FLIGHTS_MAX) return;
      const first = outgoing.attempts === 0;
      attempt(work, peer, {
        ...outgoing,
        repeats: outgoing.repeats + (first ? 0 : 1),
        handshakes: 0,
      });
    }
  }

  /** One attempt: the next is due after the ack timeout, the later ones after the resend interval. */
  function attempt(work: Work<S, F>, peer: PartyId, outgoing: Outgoing): void {
    const correspondent = correspondentOf(work, peer);
    const { verb, parameters } = outgoing.body;
    const message = {
      v: WIRE_VERSION,
      sender: self,
      receiver: peer,
      session: correspondent.ownSession,
      seq: outgoing.seq,
      toSession: correspondent.peerSession,
      configVersion: configVersion,
      verb,
      parameters,
    } as Message;
    const repeatMs = outgoing.repeats === 0 ? ackTimeoutMs : resendMs;
    const waitMs = isAway(peer, correspondent) ? AWAY_MS : repeatMs;
    const next: Outgoing = {
      ...outgoing,
      attempts: outgoing.attempts + 1,
      dueAt: work.now + waitMs,
      toSession: correspondent.peerSession,
    };
    const url = urlFor(correspondent, peer, outgoing.attempts);
    change(work, peer, { outbox: withOutgoing(correspondent.outbox, next) });
    const postId = work.nextId++;
    ownFlights(work).push({
      postId,
      peer,
      message,
      body: outgoing.body,
      sentAt: outgoing.sentAt,
      answered: false,
      giveUpAt: work.now + patienceMs + ackTimeoutMs,
    });
    work.effects.push({ do: "post", postId, to: peer, url, message, timeoutMs: patienceMs });
  }

  /** Where the peer's newest report says, or the config; a repeat tries the other of the two. */
  function urlFor(correspondent: Correspondent, peer: PartyId, attempts: number): string {
    const configured = config.urlById.get(peer) ?? "";
    const reported = correspondent.url ?? configured;
    return `${attempts % 2 === 0 ? reported : configured}/messages`;
  }

  function postEnded(work: Work<S, F>, event: Posted): void {
    const index = work.flights.findIndex(({ postId }) => postId === event.postId);
    const flight = work.flights[index];
    if (flight === undefined) {
      count(work, "post.unknown");
      return;
    }
    ownFlights(work).splice(index, 1);
    const { result } = event;
    if (!("status" in result)) {
      const { failures } = correspondentOf(work, flight.peer);
      failed(work, flight, "post.failed", result.error);
      if (failures === 0) hurry(work, flight);
    } else if ("message" in result) answered(work, flight, result.status, result.message);
    else if (result.status === 410) superseded(work, flight, result.reason);
    else failed(work, flight, `post.status_${result.status}`, result.error);
    pump(work, flight.peer);
  }

  /** The message stays in the outbox: its next attempt is due anyway. */
  function failed(work: Work<S, F>, flight: Flight, counter: string, error: string): void {
    count(work, counter);
    if (flight.answered) return;
    // Who is only slow is not away: no reply in time says less than a refused connection.
    const tookMs = work.now - (flight.giveUpAt - patienceMs - ackTimeoutMs);
    const before = correspondentOf(work, flight.peer).failures;
    const failures = tookMs < ackTimeoutMs ? before + 1 : before;
    change(work, flight.peer, { lastError: error, failures });
  }

  /**
   * A kept-alive connection that the peer has closed fails at once: that attempt is followed soon. For a
   * peer that was not there before either, the usual times do: hundreds may be away.
   */
  function hurry(work: Work<S, F>, flight: Flight): void {
    const { outbox } = correspondentOf(work, flight.peer);
    const outgoing = byVerb(outbox, flight.body.verb);
    if (outgoing?.seq !== flight.message.seq || outgoing.repeats > 0) return;
    const dueAt = Math.min(outgoing.dueAt, work.now + QUICK_RETRY_MS);
    change(work, flight.peer, { outbox: withOutgoing(outbox, { ...outgoing, dueAt }) });
  }

  function answered(work: Work<S, F>, flight: Flight, status: number, message: Message): void {
    const { peer, message: sent } = flight;
    const belongs =
      message.sender === peer &&
      message.receiver === self &&
      message.seq === sent.seq &&
      message.toSession === sent.session;
    if (!belongs) failed(work, flight, "post.foreign_reply", "The reply is not to this message");
    else if (status === 409) shakeHands(work, flight, message.session);
    else if (status !== 200) failed(work, flight, `post.status_${status}`, `Status ${status}`);
    else if (message.session !== sent.toSession) {
      failed(work, flight, "post.foreign_reply", "The reply is from another session");
    } else if (flight.answered) count(work, "reply.repeated");
    else {
      for (let index = 0; index < work.flights.length; index++) {
        const other = work.flights[index];
        if (other?.peer === peer && other.message.seq === sent.seq) {
          ownFlights(work)[index] = { ...other, answered: true };
        }
      }
      settle(work, flight);
      work.configVersionHeard = Math.max(work.configVersionHeard, message.configVersion);
      change(work, peer, { answeredAt: work.now, lastError: null, failures: 0 });
      const { verb, parameters } = message;
      const event: Answered = {
        on: "answered",
        by: peer,
        sent: flight.body,
        sentAt: flight.sentAt,
        reply: { verb, parameters } as Body,
      };
      tell(work, event as unknown as E);
    }
  }

  /** Takes a message out of the outbox, unless a newer one of its verb is there already. */
  function settle(work: Work<S, F>, flight: Flight): void {
    const { outbox } = correspondentOf(work, flight.peer);
    const answered = byVerb(outbox, flight.body.verb);
    if (answered?.seq !== flight.message.seq) return;
    change(work, flight.peer, { outbox: outbox.filter((each) => each !== answered) });
  }

  /** The peer names its session: repeat with it at once, but never in a circle. */
  function shakeHands(work: Work<S, F>, flight: Flight, peerSession: string): void {
    const { peer, body, message } = flight;
    change(work, peer, { peerSession });
    const outgoing = byVerb(correspondentOf(work, peer).outbox, body.verb);
    if (outgoing === undefined || outgoing.seq !== message.seq) return;
    if (outgoing.toSession === peerSession) return;
    if (outgoing.handshakes >= HANDSHAKES_MAX) {
      failed(work, flight, "post.handshakes", "The peer names another session each time");
      return;
    }
    attempt(work, peer, { ...outgoing, handshakes: outgoing.handshakes + 1 });
  }

  /**
   * The peer has accepted something newer. A newer message: this one is settled. A newer session:
   * either another process speaks in this name, or an old message of an earlier life came late; in
   * the second case a new name puts it right, in the first the bound ends the quarrel.
   */
  function superseded(work: Work<S, F>, flight: Flight, reason: string): void {
    if (reason !== "older_session") {
      count(work, "post.older_seq");
      settle(work, flight);
      return;
    }
    const correspondent = correspondentOf(work, flight.peer);
    failed(work, flight, "post.older_session", "Another process has spoken in this name");
    if (flight.message.session !== correspondent.ownSession) return;
    if (correspondent.renewals >= RENEWALS_MAX) return;
    const renewals = correspondent.renewals + 1;
    change(work, flight.peer, { renewals, ownSession: `${session}-r${renewals}` });
    const outgoing = byVerb(correspondentOf(work, flight.peer).outbox, flight.body.verb);
    if (outgoing !== undefined) attempt(work, flight.peer, outgoing);
  }

  // --- Receiving. ---

  function receive(work: Work<S, F>, event: Delivery): void {
    const { message, httpTicket } = event;
    function refuse(status: number, reason: string, error: string): void {
      count(work, `refused.${reason}`);
      work.effects.push({ do: "respond", httpTicket, status, reason, error });
    }
    if (message.receiver !== self) {
      refuse(421, "wrong_receiver", `This is ${self}, not ${message.receiver}`);
    } else if (verbsFrom(message.sender) === null) {
      refuse(403, "not_routed", `${message.sender} has nothing to say to ${self}`);
    } else if (!isKnown(message.sender)) {
      refuse(403, "unknown_sender", `${message.sender} is not in config version ${config.version}`);
    } else if (message.verb === "ack") {
      refuse(400, "unasked_ack", "An ack is only ever a reply");
    } else if (isHarmless(message)) {
      accept(work, message, httpTicket);
    } else if (partyType(message.sender) === "command") {
      receiveCommand(work, message, httpTicket);
    } else {
      receiveFromPeer(work, message, httpTicket, refuse);
    }
  }

  function isKnown(sender: PartyId): boolean {
    const type = partyType(sender);
    if (type === "command") return true;
    // A notify handler speaks for the mariadbd beside its own watchdog.
    if (type === "wsrep_notify_cmd") return partySerial(sender) === partySerial(self);
    return config.urlById.has(sender);
  }

  function receiveFromPeer(
    work: Work<S, F>,
    message: Message,
    httpTicket: number,
    refuse: (status: number, reason: string, error: string) => void,
  ): void {
    const { sender: peer, verb, seq } = message;
    const correspondent = correspondentOf(work, peer);
    if (correspondent.retired.includes(message.session)) {
      refuse(410, "older_session", `A newer session of ${peer} has been accepted`);
      return;
    }
    if (message.toSession !== correspondent.ownSession) {
      respondHandshake(work, message, httpTicket, correspondent.ownSession);
      return;
    }
    if (correspondent.heardSession !== message.session) welcome(work, peer, message.session);
    const last = heardOf(correspondentOf(work, peer).heard, verb);
    if (last !== undefined && seq < last.seq) {
      refuse(410, "older_seq", `${verb} ${last.seq} of this session came before ${seq}`);
    } else if (last !== undefined && seq === last.seq) {
      repeat(work, last, message, httpTicket);
    } else {
      accept(work, message, httpTicket, (ticket) => {
        const { heard } = correspondentOf(work, peer);
        change(work, peer, {
          heard: withHeard(heard, { verb, seq, ticket, reply: null }),
          heardAt: work.now,
          url: reportedUrl(message, correspondent.url),
        });
        if (isAway(peer, correspondent)) isBack(work, peer);
        if (last !== undefined) dropTicketIfIdle(work, last.ticket);
      });
    }
  }

  /** A client minder that was away speaks: what waits for it goes out now. */
  function isBack(work: Work<S, F>, peer: PartyId): void {
    const { outbox } = correspondentOf(work, peer);
    const due = outbox.map((one) => ({ ...one, dueAt: Math.min(one.dueAt, work.now) }));
    change(work, peer, { failures: 0, outbox: due });
    pump(work, peer);
  }

  /** A session that has proven itself replaces the one before it. */
  function welcome(work: Work<S, F>, peer: PartyId, peerSession: string): void {
    const { heardSession, heard, retired } = correspondentOf(work, peer);
    const before = heardSession === null ? retired : [...retired, heardSession];
    change(work, peer, {
      heardSession: peerSession,
      heard: [],
      retired: before.slice(-RETIRED_MAX),
      peerSession,
    });
    for (const { ticket } of heard) dropTicketIfIdle(work, ticket);
  }

  /**
   * A command is one message of a process that lives for it alone, so its session says nothing.
   * Instead each gets a session of this side made for it: no order can be replayed, nor come late.
   */
  function receiveCommand(work: Work<S, F>, message: Message, httpTicket: number): void {
    const challenge = work.challenges.get(message.toSession);
    const { used } = challenge ?? { used: null };
    if (used !== null) {
      const same =
        used.session === message.session && used.seq === message.seq && used.verb === message.verb;
      if (same) {
        repeat(work, used, message, httpTicket);
        return;
      }
    } else if (challenge !== undefined && work.now - challenge.madeAt <= CHALLENGE_MAX_MS) {
      accept(work, message, httpTicket, (ticket) => {
        const { session: by, verb, seq } = message;
        ownChallenges(work).set(message.toSession, {
          ...challenge,
          used: { session: by, verb, seq, ticket, reply: null },
        });
      });
      return;
    }
    const fresh = `${session}-c${work.nextId++}`;
    ownChallenges(work).set(fresh, { madeAt: work.now, used: null });
    for (const [oldest, { used: by }] of work.challenges) {
      if (work.challenges.size <= CHALLENGES_MAX) break;
      ownChallenges(work).delete(oldest);
      if (by !== null) dropTicketIfIdle(work, by.ticket);
    }
    respondHandshake(work, message, httpTicket, fresh);
  }

  /** Opens a ticket if there is room, lets the caller note it, and tells the core. */
  function accept(
    work: Work<S, F>,
    message: Message,
    httpTicket: number,
    note: (ticket: number) => void = () => undefined,
  ): void {
    if (work.tickets.length >= TICKETS_MAX) {
      count(work, "refused.busy");
      const error = `${TICKETS_MAX} messages wait for a reply already`;
      work.effects.push({ do: "respond", httpTicket, status: 503, reason: "busy", error });
      return;
    }
    const ticket = work.nextId++;
    const expiresAt = work.now + patienceMs;
    ownTickets(work).push({ id: ticket, asked: message, waits: [{ httpTicket, expiresAt }] });
    work.configVersionHeard = Math.max(work.configVersionHeard, message.configVersion);
    note(ticket);
    const { sender: from, verb, parameters } = message;
    const event = { on: "message", from, body: { verb, parameters }, ticket } as Arrived<Role>;
    tell(work, event as unknown as E);
  }

  /** A repeat gets the answer of the first copy, or waits for it. */
  function repeat(work: Work<S, F>, heard: Heard, message: Message, httpTicket: number): void {
    count(work, "repeated");
    if (heard.reply !== null) {
      work.effects.push({ do: "respond", httpTicket, status: 200, message: heard.reply });
      return;
    }
    const index = ticketIndex(work, heard.ticket);
    const ticket = work.tickets[index];
    if (ticket === undefined || ticket.waits.length >= WAITS_MAX) {
      count(work, "refused.busy");
      const error = `${message.verb} ${message.seq} is being worked on`;
      work.effects.push({ do: "respond", httpTicket, status: 503, reason: "busy", error });
      return;
    }
    const waits = [...ticket.waits, { httpTicket, expiresAt: work.now + patienceMs }];
    ownTickets(work)[index] = { ...ticket, waits };
  }

  function reply(work: Work<S, F>, effect: Reply<Role>): void {
    const index = ticketIndex(work, effect.ticket);
    const ticket = work.tickets[index];
    if (ticket === undefined) {
      count(work, "reply.late");
      return;
    }
    const { asked, waits } = ticket;
    const body = effect.body as Body;
    requireRoute(asked.sender, body);
    const message = replyTo(asked, asked.toSession === "" ? session : asked.toSession, body);
    for (const { httpTicket } of waits) {
      work.effects.push({ do: "respond", httpTicket, status: 200, message });
    }
    ownTickets(work).splice(index, 1);
    remember(work, effect.ticket, asked, message);
  }

  /** Keeps the answer for repeats, for as long as what it answers is the newest of its kind. */
  function remember(work: Work<S, F>, ticket: number, asked: Message, message: Message): void {
    const challenge = work.challenges.get(asked.toSession);
    if (challenge?.used?.ticket === ticket) {
      ownChallenges(work).set(asked.toSession, {
        ...challenge,
        used: { ...challenge.used, reply: message },
      });
      return;
    }
    const correspondent = find(work.correspondents, asked.sender);
    if (correspondent === undefined) return;
    const heard = heardOf(correspondent.heard, asked.verb);
    if (heard?.ticket !== ticket) return;
    change(work, asked.sender, {
      heard: withHeard(correspondent.heard, { ...heard, reply: message }),
    });
  }

  function respondHandshake(
    work: Work<S, F>,
    asked: Message,
    httpTicket: number,
    ownSession: string,
  ): void {
    count(work, "handshakes");
    const message = replyTo(asked, ownSession, {
      verb: "ack",
      parameters: {
        outcome: "refused",
        because: "Repeat this with toSession set to the session of this ack",
        promise: null,
        epochServed: null,
        writer: null,
        arbitrator: null,
      },
    });
    work.effects.push({ do: "respond", httpTicket, status: 409, message });
  }

  /** A reply carries the sequence number of what it answers, and names both sessions. */
  function replyTo(asked: Message, ownSession: string, body: Body): Message {
    const { verb, parameters } = body;
    return {
      v: WIRE_VERSION,
      sender: self,
      receiver: asked.sender,
      session: ownSession,
      seq: asked.seq,
      toSession: asked.session,
      configVersion: configVersion,
      verb,
      parameters,
    } as Message;
  }

  // --- Time. ---

  /** Gives up what is over and posts what is due. */
  function sortDue(work: Work<S, F>): void {
    for (const flight of [...work.flights]) {
      if (flight.giveUpAt > work.now) continue;
      const flights = ownFlights(work);
      flights.splice(flights.indexOf(flight), 1);
      failed(work, flight, "post.lost", "The post never ended");
    }
    for (const ticket of [...work.tickets]) {
      const over = ticket.waits.filter((wait) => wait.expiresAt <= work.now);
      if (over.length === 0) continue;
      for (const { httpTicket } of over) {
        count(work, "refused.no_answer");
        const error = `No answer to ${ticket.asked.verb} within ${patienceMs} ms`;
        work.effects.push({ do: "respond", httpTicket, status: 503, reason: "no_answer", error });
      }
      const waits = ticket.waits.filter((wait) => wait.expiresAt > work.now);
      const tickets = ownTickets(work);
      tickets[ticketIndex(work, ticket.id)] = { ...ticket, waits };
      if (!isNewest(work, ticket.id, ticket.asked)) dropTicketIfIdle(work, ticket.id);
    }
    for (const { id, outbox } of work.correspondents) {
      if (!config.urlById.has(id)) continue;
      const kept = outbox.filter(({ expiresAt }) => expiresAt > work.now);
      if (kept.length < outbox.length) {
        count(work, "expired", outbox.length - kept.length);
        change(work, id, { outbox: kept });
      }
      pump(work, id);
    }
    // Whom a newer config has taken out; last, since until now each has its place of before.
    if (work.correspondents.some(({ id }) => !config.urlById.has(id))) {
      work.correspondents = work.correspondents.filter(({ id }) => config.urlById.has(id));
    }
    work.dueChanged = true;
  }

  /** May a repeat of this still come and wait for the same answer. */
  function isNewest(work: Work<S, F>, ticket: number, asked: Message): boolean {
    return (
      work.challenges.get(asked.toSession)?.used?.ticket === ticket ||
      heardOf(correspondentOf(work, asked.sender).heard, asked.verb)?.ticket === ticket
    );
  }

  function dropTicketIfIdle(work: Work<S, F>, id: number): void {
    const index = ticketIndex(work, id);
    if (work.tickets[index]?.waits.length === 0) ownTickets(work).splice(index, 1);
  }

  function ticketIndex({ tickets }: Pick<Work<S, F>, "tickets">, id: number): number {
    return tickets.findIndex((ticket) => ticket.id === id);
  }

  // --- Small things. ---

  function correspondentOf(work: Work<S, F>, peer: PartyId): Correspondent {
    return find(work.correspondents, peer) ?? { ...STRANGER, id: peer, ownSession: session };
  }

  /** The first change in a step makes a copy that is the step's own, the others are made in it. */
  function change(work: Work<S, F>, peer: PartyId, changes: Partial<Correspondent>): void {
    if (changes.outbox !== undefined) work.dueChanged = true;
    const own = ownCorrespondents(work);
    const index = own.findIndex(({ id }) => id === peer);
    const current = own[index];
    if (current === undefined) {
      own.push({ ...STRANGER, id: peer, ownSession: session, ...changes });
    } else if (current === work.before.correspondents[index]) {
      own[index] = updated(current, changes);
    } else Object.assign(current, changes);
  }

  /** A core that says what its role may not say to that peer is broken, and nothing would hear it. */
  function requireRoute(to: PartyId, body: Body): void {
    if (verbsTo(to)?.includes(body.verb) === true) return;
    throw new Error(`Cannot send ${body.verb} from ${self} to ${to}: no such route`);
  }

  return { initial, step, dueAt };
}

const STRANGER = {
  ownSession: "",
  renewals: 0,
  peerSession: "",
  seq: 0,
  outbox: [],
  heardSession: null,
  heard: [],
  retired: [],
  url: null,
  heardAt: null,
  answeredAt: null,
  lastError: null,
  failures: 0,
} as const satisfies Omit<Correspondent, "id">;

/** A notification is only a hint, and a question changes nothing: a repeat of either does no harm. */
function isHarmless(message: Message): boolean {
  const from = partyType(message.sender);
  return from === "wsrep_notify_cmd" || (from === "command" && isQuestion(message));
}

/** Verbs on the route that goes with a party; null where there is none. They depend on its type alone. */
function rememberedVerbs(
  route: (peer: PartyId) => Route | null,
): (peer: PartyId) => readonly string[] | null {
  const byType = new Map<PartyType, readonly string[] | null>();
  return (peer) => {
    const type = partyType(peer);
    let verbs = byType.get(type);
    if (verbs === undefined) {
      const found = route(peer);
      verbs = found === null ? null : verbsOf(found);
      byType.set(type, verbs);
    }
    return verbs;
  };
}

/** The URL in a report, if there could be something behind it; else the one that is known. */
function reportedUrl(message: Message, known: string | null): string | null {
  if (message.verb !== "db_status_report") return known;
  const { url } = message.parameters;
  if (url === known) return known;
  const good = /^https?:\/\/[A-Za-z0-9.:[\]-]{1,200}$/.test(url) && URL.canParse(url);
  return good ? url : known;
}

function find(correspondents: readonly Correspondent[], peer: PartyId): Correspondent | undefined {
  for (const correspondent of correspondents) if (correspondent.id === peer) return correspondent;
  return undefined;
}

/** Flights that are looked through for each peer that asks; more are counted once for all. */
const FEW_FLIGHTS = 32;

/** Are so many posts under way to a peer that another one has to wait. */
function blockedIn(flights: readonly Flight[]): (peer: PartyId) => boolean {
  if (flights.length < FLIGHTS_MAX) return () => false;
  if (flights.length <= FEW_FLIGHTS) return (peer) => flightsAmong(flights, peer) >= FLIGHTS_MAX;
  const flying = new Map<PartyId, number>();
  for (const { peer } of flights) flying.set(peer, (flying.get(peer) ?? 0) + 1);
  return (peer) => (flying.get(peer) ?? 0) >= FLIGHTS_MAX;
}

function flightsAmong(flights: readonly Flight[], peer: PartyId): number {
  let flying = 0;
  for (const flight of flights) if (flight.peer === peer) flying++;
  return flying;
}

function byVerb(outbox: readonly Outgoing[], verb: string): Outgoing | undefined {
  for (const outgoing of outbox) if (outgoing.body.verb === verb) return outgoing;
  return undefined;
}

function heardOf(list: readonly Heard[], verb: string): Heard | undefined {
  for (const heard of list) if (heard.verb === verb) return heard;
  return undefined;
}

/** In place of the one of its verb, or behind the others. */
function withOutgoing(outbox: readonly Outgoing[], outgoing: Outgoing): readonly Outgoing[] {
  const { verb } = outgoing.body;
  const first = outbox[0];
  // Nearly always it is the only one.
  if (first === undefined || (outbox.length === 1 && first.body.verb === verb)) return [outgoing];
  const index = outbox.findIndex(({ body }) => body.verb === verb);
  return index === -1 ? [...outbox, outgoing] : outbox.with(index, outgoing);
}

function withHeard(list: readonly Heard[], heard: Heard): readonly Heard[] {
  const first = list[0];
  if (first === undefined || (list.length === 1 && first.verb === heard.verb)) return [heard];
  const index = list.findIndex(({ verb }) => verb === heard.verb);
  return index === -1 ? [...list, heard] : list.with(index, heard);
}

function count(work: Work<unknown, unknown>, reason: string, by = 1): void {
  if (work.counters === work.before.counters) work.counters = new Map(work.counters);
  const counters = work.counters as Map<string, number>;
  counters.set(reason, (counters.get(reason) ?? 0) + by);
}

function isDelivery(event: { readonly on: string }): event is Delivery {
  return event.on === "arrived";
}

function isPosted(event: { readonly on: string }): event is Posted {
  return event.on === "posted";
}

function isSend(effect: { readonly do: string }): effect is Send<Role> {
  return effect.do === "send";
}

function isReply(effect: { readonly do: string }): effect is Reply<Role> {
  return effect.do === "reply";
}

function isAway(peer: PartyId, { failures }: Correspondent): boolean {
  return failures >= AWAY_FAILURES && partyType(peer) === "dbclient";
}

/** What `GET /status` shows of the mail. */
export interface MailStatus {
  readonly peers: readonly {
    readonly id: PartyId;
    readonly heardAgoMs: Millis | null;
    readonly answeredAgoMs: Millis | null;
    readonly waiting: readonly string[];
    readonly flights: number;
    readonly lastError: string | null;
  }[];
  readonly counters: Readonly<Record<string, number>>;
  readonly configVersionHeard: number;
}

/** A mailroom's state in words and numbers. */
export function mailStatus<S>(state: MailroomState<S>, now: Millis): MailStatus {
  const peers = state.correspondents.map((correspondent) => ({
    id: correspondent.id,
    heardAgoMs: correspondent.heardAt === null ? null : now - correspondent.heardAt,
    answeredAgoMs: correspondent.answeredAt === null ? null : now - correspondent.answeredAt,
    waiting: correspondent.outbox.map(({ body }) => body.verb),
    flights: state.flights.filter((flight) => flight.peer === correspondent.id).length,
    lastError: correspondent.lastError,
  }));
  return {
    peers,
    counters: Object.fromEntries(state.counters),
    configVersionHeard: state.configVersionHeard,
  };
}
