import { describe, expect, test } from "bun:test";
import type { Answered, Millis } from "../lib/core/core.ts";
import {
  CHALLENGE_MAX_MS,
  CHALLENGES_MAX,
  FLIGHTS_MAX,
  HANDSHAKES_MAX,
  type MailEffect,
  type MailEvent,
  type Mailroom,
  type MailroomState,
  mailroom,
  mailStatus,
  type Post,
  type PostResult,
  QUICK_RETRY_MS,
  RENEWALS_MAX,
  type Respond,
  TICKETS_MAX,
  WAITS_MAX,
} from "../lib/correspondent.ts";
import type { PartyId } from "../lib/message/envelope.ts";
import type { Body, Message } from "../lib/message/mod.ts";
import { decodeMessage, encodeMessage } from "../lib/message/mod.ts";
import { ACK, REPORT, SAMPLES } from "./message/samples.ts";
import { smallCluster } from "./support/small_cluster.ts";
import {
  TOY_CORE,
  type ToyEffect,
  type ToyEvent,
  type ToyState,
  toyState,
} from "./support/toy_core.ts";

type ToyMailroom = Mailroom<ToyState, ToyEvent, ToyEffect>;
type ToyMailState = MailroomState<ToyState>;

/** Ack timeout 1 s, resend 3 s: the defaults. */
const CONFIG = smallCluster();

/** A mailroom with its state and its clock, driven by hand. */
class Party {
  readonly self: PartyId;
  readonly machine: ToyMailroom;
  state: ToyMailState;
  now: Millis;

  constructor(
    self: PartyId,
    options: { session?: string; answer?: Body | null; now?: Millis; config?: typeof CONFIG } = {},
  ) {
    const { session = `s-${self.replace(".", "-")}`, answer = null, now = 0 } = options;
    this.self = self;
    this.machine = mailroom({ self, config: options.config ?? CONFIG, session, core: TOY_CORE });
    this.state = this.machine.initial(toyState({ answer }));
    this.now = now;
  }

  step(event: MailEvent<ToyEvent>): readonly MailEffect<ToyEffect>[] {
    const stepped = this.machine.step(this.state, event, this.now);
    this.state = stepped.state;
    return stepped.effects;
  }

  /** Moves to a time, with a wakeup at each deadline on the way. */
  moveTo(at: Millis): MailEffect<ToyEffect>[] {
    const effects: MailEffect<ToyEffect>[] = [];
    for (let due = this.dueAt(); due <= at; due = this.dueAt()) {
      this.now = Math.max(this.now, due);
      effects.push(...this.step({ on: "wakeup" }));
      expect(this.dueAt()).toBeGreaterThan(this.now);
    }
    this.now = at;
    return effects;
  }

  dueAt(): Millis {
    return this.machine.dueAt(this.state);
  }

  send(to: PartyId, body: Body, expiresMs = Number.POSITIVE_INFINITY): Post[] {
    const effect = { do: "send", to, body, expiresMs } as ToyEffect;
    return posts(this.step({ on: "ask", effects: [effect] }));
  }

  posted(post: Post, result: PostResult): readonly MailEffect<ToyEffect>[] {
    return this.step({ on: "posted", postId: post.postId, result });
  }

  arrived(message: Message, httpTicket = 1): readonly MailEffect<ToyEffect>[] {
    return this.step({ on: "arrived", message, httpTicket });
  }

  told(on: ToyEvent["on"]): ToyEvent[] {
    return this.state.core.told.flatMap(({ event }) => (event.on === on ? [event] : []));
  }

  counter(reason: string): number {
    return this.state.counters.get(reason) ?? 0;
  }
}

function posts(effects: readonly MailEffect<ToyEffect>[]): Post[] {
  return effects.flatMap((effect) => (effect.do === "post" ? [effect] : []));
}

function responds(effects: readonly MailEffect<ToyEffect>[]): Respond[] {
  return effects.flatMap((effect) => (effect.do === "respond" ? [effect] : []));
}

function only<Item>(items: readonly Item[]): Item {
  const [item] = items;
  if (item === undefined || items.length !== 1)
    throw new Error(`Expected one, got ${items.length}`);
  return item;
}

function report(reportNumber: number): Body {
  return { ...REPORT, parameters: { ...REPORT.parameters, reportNumber } };
}

/** Answer of the receiver of a post, as its mailroom would word it. */
function answerTo(post: Post, body: Body = ACK, session = post.message.toSession): Message {
  const { message } = post;
  return {
    ...message,
    sender: message.receiver,
    receiver: message.sender,
    session,
    toSession: message.session,
    ...body,
  } as Message;
}

/** Whole message to a party, the handshake done. */
function messageTo(
  receiver: Party,
  sender: PartyId,
  body: Body,
  changes: Partial<Message> = {},
): Message {
  return {
    v: 1,
    sender,
    receiver: receiver.self,
    session: "peer-a",
    seq: 1,
    toSession: `s-${receiver.self.replace(".", "-")}`,
    configVersion: 7,
    ...body,
    ...changes,
  } as Message;
}

const REQUEST: Body = { verb: "request_status", parameters: { because: "test" } };

/** A server that has shaken hands with the arbitrator already. */
function greeted(): Party {
  const server = new Party("dbserver.1");
  const first = only(server.send("arbitrator.1", report(0)));
  const again = only(
    posts(server.posted(first, { status: 409, message: answerTo(first, ACK, "arb") })),
  );
  server.posted(again, { status: 200, message: answerTo(again) });
  return server;
}

describe("sending", () => {
  test("posts at once, to the URL of the config, with the envelope filled in", () => {
    const server = new Party("dbserver.1");
    expect(only(server.send("arbitrator.1", REPORT))).toEqual({
      do: "post",
      postId: 1,
      to: "arbitrator.1",
      url: "http://10.0.3.1:4570/messages",
      timeoutMs: 2000,
      message: {
        v: 1,
        sender: "dbserver.1",
        receiver: "arbitrator.1",
        session: "s-dbserver-1",
        seq: 1,
        toSession: "",
        configVersion: 7,
        ...REPORT,
      } as Message,
    });
  });

  test("repeats with the session that a 409 names, at once and with the same seq", () => {
    const server = new Party("dbserver.1");
    const first = only(server.send("arbitrator.1", REPORT));
    const again = only(
      posts(server.posted(first, { status: 409, message: answerTo(first, ACK, "arb") })),
    );
    expect([again.message.seq, again.message.toSession]).toEqual([1, "arb"]);
    server.now = 40;
    server.posted(again, { status: 200, message: answerTo(again) });
    expect(only(server.told("answered"))).toEqual({
      on: "answered",
      by: "arbitrator.1",
      sent: REPORT,
      sentAt: 0,
      reply: ACK,
    });
    expect(server.dueAt()).toBe(Number.POSITIVE_INFINITY);
  });

  test("does not go round in circles when each answer names another session", () => {
    const server = new Party("dbserver.1");
    let post = only(server.send("arbitrator.1", REPORT));
    let count = 1;
    for (let round = 0; round < 20; round++) {
      const [next] = posts(
        server.posted(post, { status: 409, message: answerTo(post, ACK, `x${round}`) }),
      );
      if (next === undefined) break;
      post = next;
      count++;
    }
    expect(count).toBe(1 + HANDSHAKES_MAX);
    expect(server.counter("post.handshakes")).toBe(1);
    expect(posts(server.moveTo(1000))).toHaveLength(1);
  });

  test("tries again after the ack timeout, then every resend interval, with the same seq", () => {
    const server = greeted();
    const sent = [only(server.send("arbitrator.1", report(1)))];
    const times: number[] = [];
    while (server.now < 12_000) {
      const at = server.dueAt();
      for (const post of posts(server.moveTo(at))) {
        sent.push(post);
        times.push(at);
      }
      for (const post of sent)
        if (server.state.flights.some(({ postId }) => postId === post.postId))
          server.posted(post, { error: "x" });
    }
    expect(times).toEqual([1000, 4000, 7000, 10_000, 13_000]);
    expect(new Set(sent.map((post) => post.message.seq))).toEqual(new Set([2]));
  });

  test("follows a first attempt that fails at once soon, and only that one", () => {
    const server = greeted();
    const post = only(server.send("arbitrator.1", report(1)));
    expect(posts(server.posted(post, { error: "ECONNRESET" }))).toEqual([]);
    expect(server.dueAt()).toBe(QUICK_RETRY_MS);
    const again = only(posts(server.moveTo(QUICK_RETRY_MS)));
    expect(again.message).toEqual(post.message);
    server.posted(again, { error: "ECONNREFUSED" });
    expect(server.dueAt()).toBe(QUICK_RETRY_MS + 3000);
  });

  test("tells a client minder that is away the newest every 5 s, and at once when it speaks", () => {
    const server = new Party("dbserver.1");
    const client = new Party("dbclient.1", { answer: ACK });
    const told: (readonly [Millis, unknown])[] = [];
    let number = 0;
    const fail = (sent: readonly Post[]): void => {
      for (const post of sent) {
        const { parameters } = post.message as Message & typeof REPORT;
        told.push([server.now, parameters.reportNumber]);
        server.posted(post, { error: "refused" });
      }
    };
    for (let at = 0; at < 25_000; at += 500) {
      fail(posts(server.moveTo(at)));
      fail(server.send("dbclient.1", report(++number)));
    }
    // At first each report, and the first once more; then three have failed.
    expect(told.slice(0, 3).map(([, report]) => report)).toEqual([1, 1, 2]);
    const away = told.slice(3);
    expect(away.map(([at]) => at)).toEqual([1500, 6500, 11_500, 16_500, 21_500]);
    // What waits is told when it is due, just before the next one is made.
    expect(away.map(([, report]) => report)).toEqual([3, 13, 23, 33, 43]);
    const asked = only(
      client.send("dbserver.1", only([...(SAMPLES["dbclient>dbserver"] ?? [])].slice(0, 1))),
    );
    const hello = only(responds(server.arrived(asked.message)));
    expect(hello.status).toBe(409);
    const again = only(
      posts(client.posted(asked, { status: 409, message: hello.message as Message })),
    );
    const newest = only(posts(server.arrived(again.message)));
    expect(newest.message.parameters).toMatchObject({ reportNumber: number });
    server.posted(newest, { error: "one is lost" });
    // It has spoken: from now on it is told as ever.
    server.now += 500;
    expect(server.send("dbclient.1", report(++number))).toHaveLength(1);
  });

  test("replaces an older message of the same verb, at once, and resends only the newer", () => {
    const server = greeted();
    const old = only(server.send("arbitrator.1", report(1)));
    server.now = 300;
    const newer = only(server.send("arbitrator.1", report(2)));
    expect(newer.message.seq).toBe(old.message.seq + 1);
    server.posted(old, { error: "lost" });
    server.posted(newer, { error: "lost" });
    expect(posts(server.moveTo(1300)).map((post) => post.message.seq)).toEqual([newer.message.seq]);
  });

  test("hands a late reply to an older send to the core, dated by its own send", () => {
    const server = greeted();
    server.now = 100;
    const old = only(server.send("arbitrator.1", report(1)));
    server.now = 600;
    const newer = only(server.send("arbitrator.1", report(2)));
    server.now = 900;
    server.posted(newer, { status: 200, message: answerTo(newer) });
    server.now = 950;
    server.posted(old, { status: 200, message: answerTo(old) });
    const replies = server.told("answered").slice(1) as Answered[];
    expect(replies.map(({ sentAt, sent }) => [sentAt, sent])).toEqual([
      [600, report(2)],
      [100, report(1)],
    ]);
  });

  test("hands the reply to the core once, however many attempts are answered, dated by the first", () => {
    const server = greeted();
    server.now = 100;
    const first = only(server.send("arbitrator.1", report(1)));
    const second = only(posts(server.moveTo(1100)));
    server.posted(second, { status: 200, message: answerTo(second) });
    server.posted(first, { status: 200, message: answerTo(first) });
    const replies = server.told("answered").slice(1) as Answered[];
    expect(replies.map(({ sentAt }) => sentAt)).toEqual([100]);
    expect(server.counter("reply.repeated")).toBe(1);
  });

  test("goes on resending a newer message when only the older one has been answered", () => {
    const server = greeted();
    const old = only(server.send("arbitrator.1", report(1)));
    const newer = only(server.send("arbitrator.1", report(2)));
    server.posted(old, { status: 200, message: answerTo(old) });
    expect(posts(server.moveTo(1000)).map((post) => post.message)).toEqual([newer.message]);
  });

  test("repeats once when two attempts under way are told of the same new session", () => {
    const server = greeted();
    const first = only(server.send("arbitrator.1", report(1)));
    const second = only(posts(server.moveTo(1000)));
    const told = (post: Post): PostResult => ({
      status: 409,
      message: answerTo(post, ACK, "arb-restarted"),
    });
    expect(posts(server.posted(first, told(first)))).toHaveLength(1);
    expect(posts(server.posted(second, told(second)))).toEqual([]);
  });

  test("keeps messages of different verbs to one peer side by side", () => {
    const arbitrator = new Party("arbitrator.1");
    arbitrator.send("dbserver.1", REQUEST);
    const evict = SAMPLES["arbitrator>dbserver"].find((body) => body.verb === "evict");
    if (evict === undefined) throw new Error("No sample");
    arbitrator.send("dbserver.1", evict);
    expect(posts(arbitrator.moveTo(1000)).map((post) => post.message.verb)).toEqual([
      "request_status",
      "evict",
    ]);
  });

  test("lets an order expire", () => {
    const arbitrator = new Party("arbitrator.1");
    const post = only(arbitrator.send("dbserver.1", REQUEST, 1500));
    arbitrator.posted(post, { error: "x" });
    const again = only(posts(arbitrator.moveTo(1000)));
    arbitrator.posted(again, { error: "x" });
    expect(posts(arbitrator.moveTo(60_000))).toEqual([]);
    expect(arbitrator.counter("expired")).toBe(1);
    expect(arbitrator.dueAt()).toBe(Number.POSITIVE_INFINITY);
  });

  test("binds at most four posts to a peer that hangs, and sends the newest when one ends", () => {
    const server = greeted();
    const sent: Post[] = [];
    for (let number = 1; number <= 10; number++) {
      server.now += 100;
      sent.push(...server.send("arbitrator.1", report(number)));
    }
    expect(sent).toHaveLength(FLIGHTS_MAX);
    expect(only(server.send("dbserver.2", REPORT)).to).toBe("dbserver.2");
    const [first] = sent;
    if (first === undefined) throw new Error("Nothing was sent");
    const next = only(posts(server.posted(first, { error: "timeout" })));
    expect(next.message.parameters).toMatchObject({ reportNumber: 10 });
  });

  test("takes a slot back from a post that never ends", () => {
    const server = greeted();
    for (let number = 1; number <= 10; number++) server.send("arbitrator.1", report(number));
    server.moveTo(3000);
    expect(server.counter("post.lost")).toBe(FLIGHTS_MAX);
    expect(server.state.flights.length).toBeGreaterThan(0);
  });

  test("believes no reply that belongs to another message, party or session", () => {
    const server = greeted();
    const wrong: Partial<Message>[] = [
      { seq: 999 },
      { toSession: "another" },
      { sender: "dbserver.2" },
      { receiver: "dbserver.2" },
      { session: "another" },
    ];
    for (const changes of wrong) {
      const next = only(server.send("arbitrator.1", report(1)));
      server.posted(next, { status: 200, message: { ...answerTo(next), ...changes } as Message });
    }
    expect(server.told("answered")).toHaveLength(1);
    expect(server.counter("post.foreign_reply")).toBe(wrong.length);
  });

  test("keeps a refused message for its next attempt and counts the status", () => {
    const server = greeted();
    for (const status of [400, 403, 421, 500, 503]) {
      const post = only(server.send("arbitrator.1", report(1)));
      expect(posts(server.posted(post, { status, reason: "x", error: "no" }))).toEqual([]);
      expect(server.counter(`post.status_${status}`)).toBe(1);
    }
    expect(server.dueAt()).toBe(1000);
    expect(mailStatus(server.state, 0).peers[0]).toMatchObject({
      waiting: ["db_status_report"],
      lastError: "no",
    });
  });

  test("counts a result of a post that it does not know", () => {
    const server = greeted();
    expect(server.step({ on: "posted", postId: 999, result: { error: "x" } })).toEqual([]);
    expect(server.counter("post.unknown")).toBe(1);
  });

  test("reaches a server at the URL of its newest report, and by turns at that of the config", () => {
    const arbitrator = new Party("arbitrator.1");
    arbitrator.arrived(
      messageTo(arbitrator, "dbserver.1", {
        ...REPORT,
        parameters: { ...REPORT.parameters, url: "http://192.0.2.7:9000" },
      }),
    );
    const first = only(arbitrator.send("dbserver.1", REQUEST));
    expect(first.url).toBe("http://192.0.2.7:9000/messages");
    expect(only(posts(arbitrator.moveTo(1000))).url).toBe("http://10.0.1.1:4570/messages");
  });

  test("ignores a URL in a report behind which there can be nothing", () => {
    for (const url of [
      "",
      "file:///etc/passwd",
      "http://",
      "http://a/b?c",
      "javascript:1",
      "http://u:p@h",
    ]) {
      const arbitrator = new Party("arbitrator.1");
      const body = { ...REPORT, parameters: { ...REPORT.parameters, url } };
      arbitrator.arrived(messageTo(arbitrator, "dbserver.1", body));
      expect(only(arbitrator.send("dbserver.1", REQUEST)).url).toBe(
        "http://10.0.1.1:4570/messages",
      );
    }
  });

  test("does not send to a party that is not in the config", () => {
    const arbitrator = new Party("arbitrator.1");
    expect(arbitrator.send("dbserver.9", REQUEST)).toEqual([]);
    expect(arbitrator.counter("unsent.not_in_config")).toBe(1);
  });

  test("throws when a core says what its role may not say: nothing would hear it", () => {
    const arbitrator = new Party("arbitrator.1");
    expect(() => arbitrator.send("dbserver.1", REPORT)).toThrow("no such route");
    expect(() => arbitrator.send("dbclient.1", REQUEST)).toThrow("no such route");
  });

  test("passes the core's other effects on in their order among the posts", () => {
    const server = new Party("dbserver.1");
    const effects = server.step({
      on: "ask",
      effects: [
        { do: "persist", name: "a" },
        { do: "send", to: "arbitrator.1", body: REPORT, expiresMs: 1000 },
        { do: "work", name: "b" },
      ],
    });
    expect(effects.map((effect) => effect.do)).toEqual(["persist", "post", "work"]);
  });
});

describe("receiving", () => {
  test("hands a message to the core and its reply to the request", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const effects = arbitrator.arrived(messageTo(arbitrator, "dbserver.1", REPORT), 77);
    expect(only(responds(effects))).toEqual({
      do: "respond",
      httpTicket: 77,
      status: 200,
      message: {
        v: 1,
        sender: "arbitrator.1",
        receiver: "dbserver.1",
        session: "s-arbitrator-1",
        seq: 1,
        toSession: "peer-a",
        configVersion: 7,
        ...ACK,
      } as Message,
    });
    expect(only(arbitrator.told("message"))).toMatchObject({ from: "dbserver.1", body: REPORT });
  });

  test("answers 409 with its own session to one that does not know it", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    for (const toSession of ["", "s-of-before"]) {
      const effects = arbitrator.arrived(
        messageTo(arbitrator, "dbserver.1", REPORT, { toSession }),
      );
      const respond = only(responds(effects));
      expect(respond.status).toBe(409);
      expect(respond.message).toMatchObject({
        verb: "ack",
        session: "s-arbitrator-1",
        seq: 1,
        toSession: "peer-a",
      });
      // What goes over the wire must pass the codec on the other side.
      if (respond.message === undefined) throw new Error("No message");
      expect(decodeMessage(encodeMessage(respond.message)).ok).toBe(true);
    }
    expect(arbitrator.told("message")).toEqual([]);
  });

  test("drops what is not newer, and answers a repeat with the remembered result", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const five = messageTo(arbitrator, "dbserver.1", report(5), { seq: 5 });
    const four = messageTo(arbitrator, "dbserver.1", report(4), { seq: 4 });
    const [first] = responds(arbitrator.arrived(five, 1));
    expect(only(responds(arbitrator.arrived(four, 2)))).toMatchObject({
      status: 410,
      reason: "older_seq",
    });
    const [again] = responds(arbitrator.arrived(five, 3));
    expect(again).toEqual({ ...first, httpTicket: 3 } as Respond);
    expect(arbitrator.told("message")).toHaveLength(1);
  });

  test("judges each verb by its own numbers: an order overtaken by a question still counts", () => {
    const server = new Party("dbserver.1", { answer: ACK });
    server.arrived(messageTo(server, "arbitrator.1", REQUEST, { seq: 8 }));
    const [start] = SAMPLES["arbitrator>dbserver"].filter((body) => body.verb === "start");
    if (start === undefined) throw new Error("No sample");
    const effects = server.arrived(messageTo(server, "arbitrator.1", start, { seq: 7 }));
    expect(only(responds(effects)).status).toBe(200);
    expect(server.told("message")).toHaveLength(2);
  });

  test("lets a repeat wait for the answer that the first copy will get", () => {
    const arbitrator = new Party("arbitrator.1");
    const message = messageTo(arbitrator, "dbserver.1", REPORT);
    expect(arbitrator.arrived(message, 1)).toEqual([]);
    expect(arbitrator.arrived(message, 2)).toEqual([]);
    const [asked] = arbitrator.told("message");
    if (asked?.on !== "message") throw new Error("Not told");
    const reply = { do: "reply", ticket: asked.ticket, body: ACK } as ToyEffect;
    const effects = arbitrator.step({ on: "ask", effects: [reply, reply] });
    expect(responds(effects).map(({ httpTicket, status }) => [httpTicket, status])).toEqual([
      [1, 200],
      [2, 200],
    ]);
    expect(arbitrator.counter("reply.late")).toBe(1);
  });

  test("bounds the repeats that wait", () => {
    const arbitrator = new Party("arbitrator.1");
    const message = messageTo(arbitrator, "dbserver.1", REPORT);
    for (let ticket = 1; ticket <= WAITS_MAX; ticket++)
      expect(arbitrator.arrived(message, ticket)).toEqual([]);
    expect(only(responds(arbitrator.arrived(message, 99)))).toMatchObject({
      status: 503,
      reason: "busy",
    });
  });

  test("answers 503 when the core does not answer in time, and still remembers a later answer", () => {
    const arbitrator = new Party("arbitrator.1");
    const message = messageTo(arbitrator, "dbserver.1", REPORT);
    arbitrator.arrived(message, 1);
    expect(arbitrator.dueAt()).toBe(2000);
    expect(only(responds(arbitrator.moveTo(2000)))).toMatchObject({
      httpTicket: 1,
      status: 503,
      reason: "no_answer",
    });
    const [asked] = arbitrator.told("message");
    if (asked?.on !== "message") throw new Error("Not told");
    arbitrator.step({
      on: "ask",
      effects: [{ do: "reply", ticket: asked.ticket, body: ACK } as ToyEffect],
    });
    expect(only(responds(arbitrator.arrived(message, 2))).status).toBe(200);
    expect(arbitrator.told("message")).toHaveLength(1);
    expect(arbitrator.state.tickets.length).toBe(0);
  });

  test("forgets what the core never answered once something newer has come", () => {
    const arbitrator = new Party("arbitrator.1");
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", report(1), { seq: 1 }), 1);
    arbitrator.moveTo(2000);
    expect(arbitrator.state.tickets.length).toBe(1);
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", report(2), { seq: 2 }), 2);
    expect(arbitrator.state.tickets.length).toBe(1);
    arbitrator.moveTo(4000);
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", report(3), { session: "peer-b" }), 3);
    expect(arbitrator.state.tickets.length).toBe(1);
  });

  test("refuses an older session of a sender whose newer one was accepted", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", REPORT, { session: "peer-a", seq: 9 }));
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", REPORT, { session: "peer-b", seq: 1 }));
    const late = messageTo(arbitrator, "dbserver.1", REPORT, { session: "peer-a", seq: 10 });
    expect(only(responds(arbitrator.arrived(late)))).toMatchObject({
      status: 410,
      reason: "older_session",
    });
    expect(arbitrator.told("message")).toHaveLength(2);
  });

  test("knows the session of a peer that it has heard, and addresses it", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", REPORT, { session: "peer-b" }));
    expect(only(arbitrator.send("dbserver.1", REQUEST)).message.toSession).toBe("peer-b");
  });

  test("refuses what is not for it, not in the config, not routed, or no question", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const good = messageTo(arbitrator, "dbserver.1", REPORT);
    const before = arbitrator.state.core;
    const cases: [Partial<Message>, number, string][] = [
      [{ receiver: "arbitrator.2" }, 421, "wrong_receiver"],
      [{ sender: "dbserver.9" }, 403, "unknown_sender"],
      [{ sender: "dbclient.1" }, 403, "not_routed"],
      [{ sender: "wsrep_notify_cmd.1" }, 403, "not_routed"],
      [{ sender: "arbitrator.1" }, 403, "not_routed"],
      [ACK as Partial<Message>, 400, "unasked_ack"],
    ];
    for (const [changes, status, reason] of cases) {
      const effects = arbitrator.arrived({ ...good, ...changes } as Message);
      expect(only(responds(effects))).toMatchObject({ status, reason });
      expect(arbitrator.counter(`refused.${reason}`)).toBeGreaterThan(0);
    }
    expect(arbitrator.state.core).toBe(before);
    expect(arbitrator.state.correspondents.length).toBe(0);
  });

  test("bounds the messages that wait for the core", () => {
    const server = new Party("dbserver.1");
    const [notify] = SAMPLES["wsrep_notify_cmd>dbserver"];
    if (notify === undefined) throw new Error("No sample");
    for (let count = 0; count < TICKETS_MAX; count++) {
      server.arrived(messageTo(server, "wsrep_notify_cmd.1", notify), count);
    }
    const effects = server.arrived(messageTo(server, "wsrep_notify_cmd.1", notify), 999);
    expect(only(responds(effects))).toMatchObject({ status: 503, reason: "busy" });
    server.moveTo(2000);
    expect(server.state.tickets.length).toBe(0);
  });

  test("notes the highest config version that it hears", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    arbitrator.arrived(messageTo(arbitrator, "dbserver.1", REPORT, { configVersion: 12 }));
    expect(mailStatus(arbitrator.state, 0).configVersionHeard).toBe(12);
  });
});

describe("processes that live for one message", () => {
  const [notify] = SAMPLES["wsrep_notify_cmd>dbserver"];
  const [, drain] = SAMPLES["command>arbitrator"];
  if (notify === undefined || drain === undefined) throw new Error("No samples");

  test("a notification needs one round trip, and its repeat is only another hint", () => {
    const server = new Party("dbserver.1", { answer: ACK });
    const message = messageTo(server, "wsrep_notify_cmd.1", notify, { toSession: "" });
    expect(only(responds(server.arrived(message, 1))).status).toBe(200);
    expect(only(responds(server.arrived(message, 2))).status).toBe(200);
    expect(server.state.correspondents.length).toBe(0);
  });

  test("a notification from beside another server is refused", () => {
    const server = new Party("dbserver.1", { answer: ACK });
    const effects = server.arrived(messageTo(server, "wsrep_notify_cmd.2", notify));
    expect(only(responds(effects))).toMatchObject({ status: 403, reason: "unknown_sender" });
  });

  test("a status question needs one round trip", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const body: Body = { verb: "status_summary", parameters: {} };
    const effects = arbitrator.arrived(messageTo(arbitrator, "command.0", body, { toSession: "" }));
    expect(only(responds(effects)).status).toBe(200);
  });

  test("a command gets a session of its own, good for one message, once", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const bare = messageTo(arbitrator, "command.0", drain, { toSession: "", session: "cmd" });
    const refused = only(responds(arbitrator.arrived(bare, 1)));
    expect(refused.status).toBe(409);
    const toSession = refused.message?.session ?? "";
    expect(toSession).not.toBe("s-arbitrator-1");
    const order = { ...bare, toSession };
    expect(only(responds(arbitrator.arrived(order, 2))).status).toBe(200);
    // The very same again is a repeat; anything else needs a session of its own.
    expect(only(responds(arbitrator.arrived(order, 3))).status).toBe(200);
    expect(only(responds(arbitrator.arrived({ ...order, seq: 2 }, 4))).status).toBe(409);
    expect(only(responds(arbitrator.arrived({ ...order, session: "other" }, 5))).status).toBe(409);
    expect(arbitrator.told("message")).toHaveLength(1);
  });

  test("a command with the plain session of this life is not taken: it could be a replay", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const effects = arbitrator.arrived(messageTo(arbitrator, "command.0", drain));
    expect(only(responds(effects)).status).toBe(409);
    expect(arbitrator.told("message")).toEqual([]);
  });

  test("commands that the core never answers are forgotten with their sessions", () => {
    const arbitrator = new Party("arbitrator.1");
    const bare = messageTo(arbitrator, "command.0", drain, { toSession: "", session: "cmd" });
    const given = (): string => only(responds(arbitrator.arrived(bare))).message?.session ?? "";
    arbitrator.arrived({ ...bare, toSession: given() });
    arbitrator.moveTo(2000);
    expect(arbitrator.state.tickets.length).toBe(1);
    for (let count = 0; count < CHALLENGES_MAX; count++) given();
    expect(arbitrator.state.tickets.length).toBe(0);
  });

  test("a command that comes late, after a restart, or after many others, is void", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const bare = messageTo(arbitrator, "command.0", drain, { toSession: "", session: "cmd" });
    const given = (): string => only(responds(arbitrator.arrived(bare))).message?.session ?? "";
    const late = { ...bare, toSession: given() };
    arbitrator.moveTo(CHALLENGE_MAX_MS + 1);
    expect(only(responds(arbitrator.arrived(late))).status).toBe(409);

    const crowded = { ...bare, toSession: given() };
    for (let count = 0; count < CHALLENGES_MAX; count++) given();
    expect(arbitrator.state.challenges.size).toBe(CHALLENGES_MAX);
    expect(only(responds(arbitrator.arrived(crowded))).status).toBe(409);

    const used = { ...bare, toSession: given() };
    expect(only(responds(arbitrator.arrived(used))).status).toBe(200);
    const restarted = new Party("arbitrator.1", { answer: ACK, session: "s-after" });
    expect(only(responds(restarted.arrived(used))).status).toBe(409);
    expect(arbitrator.told("message")).toHaveLength(1);
    expect(restarted.told("message")).toEqual([]);
  });
});

describe("two processes in one name", () => {
  test("the one that is superseded takes a new name, a bounded number of times", () => {
    const server = greeted();
    const names = new Set<string>();
    for (let round = 0; round < 10; round++) {
      const [post] = server.send("arbitrator.1", report(round));
      if (post === undefined) throw new Error("Not sent");
      names.add(post.message.session);
      const refused = { status: 410, reason: "older_session", error: "superseded" };
      for (const next of posts(server.posted(post, refused))) {
        names.add(next.message.session);
        server.posted(next, { error: "lost" });
      }
    }
    expect([...names]).toEqual([
      "s-dbserver-1",
      "s-dbserver-1-r1",
      "s-dbserver-1-r2",
      "s-dbserver-1-r3",
    ]);
    expect(names.size).toBe(1 + RENEWALS_MAX);
  });

  test("a message of an earlier life that comes last does not lock the living one out", () => {
    const arbitrator = new Party("arbitrator.1", { answer: ACK });
    const server = new Party("dbserver.1");
    exchange(arbitrator, server, server.send("arbitrator.1", report(1)));
    arbitrator.arrived(
      messageTo(arbitrator, "dbserver.1", report(99), { session: "earlier-life" }),
    );
    exchange(arbitrator, server, server.send("arbitrator.1", report(2)));
    const told = arbitrator
      .told("message")
      .map((event) => (event.on === "message" ? event.body : null));
    expect(told.at(-1)).toEqual(report(2) as never);
  });
});

/** Carries posts and their responses between two parties until nothing is left. */
function exchange(receiver: Party, sender: Party, first: readonly Post[]): void {
  const open = [...first];
  for (let count = 0; count < 20; count++) {
    const post = open.shift();
    if (post === undefined) return;
    const respond = only(responds(receiver.arrived(post.message, post.postId)));
    const result: PostResult =
      respond.message === undefined
        ? { status: respond.status, reason: respond.reason, error: respond.error }
        : { status: respond.status, message: respond.message };
    open.push(...posts(sender.posted(post, result)));
  }
  throw new Error("Goes round in circles");
}

describe("a new config over the old state", () => {
  test("takes out a peer that is no longer in it, and keeps the others' mail", () => {
    const server = greeted();
    server.send("dbserver.2", REPORT);
    server.send("arbitrator.1", report(5));
    const without = {
      ...CONFIG,
      version: 8,
      urlById: new Map([...CONFIG.urlById].filter(([id]) => id !== "dbserver.2")),
    };
    const next = mailroom({
      self: "dbserver.1",
      config: without,
      session: "s-dbserver-1",
      core: TOY_CORE,
    });
    const stepped = next.step(server.state, { on: "wakeup" }, 500);
    expect(stepped.state.correspondents.map(({ id }) => id)).toEqual(["arbitrator.1"]);
    const resent = only(posts(next.step(stepped.state, { on: "wakeup" }, 1000).effects));
    expect(resent.message).toMatchObject({ receiver: "arbitrator.1", configVersion: 8 });
  });
});

/** A small random source: the Park-Miller sequence. */
function randomSource(seed: number): () => number {
  let state = seed % 2_147_483_647 || 1;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

describe("over a network that loses, delays, repeats and reorders", () => {
  for (let seed = 1; seed <= 25; seed++) {
    test(`seed ${seed}: each message reaches the core at most once, the newest at last`, () => {
      stormyRun(seed);
    });
  }
});

interface Flying {
  readonly at: Millis;
  readonly run: () => void;
}

/** Reports from a server to the arbitrator through a bad network with restarts, then a calm end. */
function stormyRun(seed: number): void {
  const random = randomSource(seed);
  const flying: Flying[] = [];
  const seen: string[] = [];
  let arbitrator = new Party("arbitrator.1", { session: "arb-0", answer: ACK });
  let server = new Party("dbserver.1", { session: "srv-0" });
  let now = 0;
  let calm = false;
  let ticket = 0;

  function later(run: () => void): void {
    if (!calm && random() < 0.3) return;
    const copies = !calm && random() < 0.2 ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      flying.push({ at: now + (calm ? 5 : random() * random() * 4000), run });
    }
  }

  function perform(party: Party, effects: readonly MailEffect<ToyEffect>[]): void {
    for (const post of posts(effects)) {
      const { receiver } = post.message;
      expect(receiver).toBe("arbitrator.1");
      let ended = false;
      const end = (result: PostResult): void => {
        if (ended || server !== party) return;
        ended = true;
        party.now = now;
        perform(party, party.posted(post, result));
      };
      flying.push({ at: now + post.timeoutMs, run: () => end({ error: "timeout" }) });
      later(() => {
        ticket++;
        const own = ticket;
        arbitrator.now = now;
        const known = arbitrator.told("message").length;
        const effectsOf = arbitrator.arrived(post.message, own);
        if (arbitrator.told("message").length > known) {
          const { session, seq, verb } = post.message;
          seen.push(`${arbitratorLife} ${session} ${verb} ${seq}`);
        }
        for (const respond of responds(effectsOf)) {
          expect(respond.httpTicket).toBe(own);
          later(() =>
            end(
              respond.message === undefined
                ? { status: respond.status, reason: respond.reason, error: respond.error }
                : { status: respond.status, message: respond.message },
            ),
          );
        }
      });
    }
    expect(party.state.flights.length).toBeLessThanOrEqual(FLIGHTS_MAX);
    for (const { outbox } of party.state.correspondents) {
      expect(outbox.length).toBeLessThanOrEqual(1);
    }
  }

  let arbitratorLife = 0;
  let serverLife = 0;
  let number = 0;
  let nextReport = 0;
  while (now < 60_000) {
    calm = now >= 50_000;
    for (const party of [server, arbitrator]) {
      party.now = Math.max(party.now, now);
      if (party.dueAt() <= now) perform(party, party.moveTo(now));
    }
    if (now >= nextReport && now < 55_000) {
      nextReport = now + 500;
      number++;
      perform(server, posts(server.step({ on: "ask", effects: [sendReport(number)] })));
    }
    if (!calm && random() < 0.001) {
      arbitratorLife++;
      arbitrator = new Party("arbitrator.1", {
        session: `arb-${arbitratorLife}`,
        answer: ACK,
        now,
      });
    }
    if (!calm && random() < 0.001) {
      serverLife++;
      server = new Party("dbserver.1", { session: `srv-${serverLife}`, now });
    }
    const due = flying.filter((item) => item.at <= now);
    for (const item of due) {
      flying.splice(flying.indexOf(item), 1);
      item.run();
    }
    now += 25;
  }

  expect(new Set(seen).size).toBe(seen.length);
  const heard = arbitrator
    .told("message")
    .map((event) => (event.on === "message" ? event.body : null));
  expect(heard.at(-1)).toEqual(report(number) as never);
  expect(server.state.correspondents.map(({ outbox }) => outbox.length)).toEqual([0]);
  for (const event of server.told("answered")) {
    if (event.on !== "answered") continue;
    expect(event.sent.verb).toBe("db_status_report");
    expect(event.sentAt).toBeLessThanOrEqual(now);
  }
}

function sendReport(number: number): ToyEffect {
  return {
    do: "send",
    to: "arbitrator.1",
    body: report(number),
    expiresMs: Number.POSITIVE_INFINITY,
  } as ToyEffect;
}
