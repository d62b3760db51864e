import { afterEach, describe, expect, test } from "bun:test";
import { mailroom } from "../../lib/correspondent.ts";
import { askOnce, postMessage } from "../../lib/effects/http.ts";
import { createEndpoint } from "../../lib/endpoint.ts";
import { createLog } from "../../lib/log.ts";
import { type Loop, startLoop } from "../../lib/loop.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import { type Body, encodeMessage, type Message } from "../../lib/message/mod.ts";
import { holds, readClaim, SEAL_HEADER, SealKey, sealReply } from "../../lib/seal.ts";
import { systemClock, systemWakeup } from "../../lib/wakeup.ts";
import { ACK, ACKED, REPORT, REPORTED, SAMPLES } from "../message/samples.ts";
import { smallCluster } from "../support/small_cluster.ts";
import {
  TOY_CORE,
  type ToyEffect,
  type ToyEvent,
  type ToyState,
  toyState,
} from "../support/toy_core.ts";

const closers: (() => Promise<unknown> | undefined)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

/** A server on a free loopback port; its URL for posts. */
function serve(answer: (request: Request) => Response | Promise<Response>): string {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: answer });
  closers.push(() => server.stop(true));
  return `http://127.0.0.1:${server.port}/messages`;
}

function post(url: string, timeoutMs = 20_000) {
  return postMessage({ url, message: REPORTED, timeoutMs });
}

describe("postMessage()", () => {
  test("sends a message as JSON and gives the reply", async () => {
    const seen: unknown[] = [];
    const url = serve(async (request) => {
      seen.push(request.method, request.headers.get("content-type"), await request.text());
      return new Response(encodeMessage(ACKED));
    });
    expect(await post(url)).toEqual({ status: 200, message: ACKED });
    expect(seen).toEqual(["POST", "application/json", encodeMessage(REPORTED)]);
  });

  test("gives the message of a 409 too", async () => {
    const url = serve(() => new Response(encodeMessage(ACKED), { status: 409 }));
    expect(await post(url)).toEqual({ status: 409, message: ACKED });
  });

  test("gives status, reason and error of a refusal", async () => {
    const url = serve(() =>
      Response.json({ reason: "older_seq", error: "too late" }, { status: 410 }),
    );
    expect(await post(url)).toEqual({ status: 410, reason: "older_seq", error: "too late" });
  });

  test("has a plain word for whatever else answers there", async () => {
    const bodies = ["<html>", "null", "[]", '{"reason":"<script>","error":7}', ""];
    for (const body of bodies) {
      const url = serve(() => new Response(body, { status: 502 }));
      expect(await post(url)).toEqual({ status: 502, reason: "unknown", error: "Status 502" });
    }
    const url = serve(() => new Response("hello"));
    expect(await post(url)).toMatchObject({
      error: expect.stringContaining("The reply is no message"),
    });
  });

  test("does not follow a redirect", async () => {
    let followed = false;
    const elsewhere = serve(() => {
      followed = true;
      return new Response(encodeMessage(ACKED));
    });
    const url = serve(() => Response.redirect(elsewhere, 307));
    expect(await post(url)).toMatchObject({ status: 307 });
    expect(followed).toBe(false);
  });

  test("ends at its time limit, whether the head or the body is late", async () => {
    const silent = serve(() => new Promise<Response>(() => undefined));
    const halting = serve(
      () =>
        new Response(
          new ReadableStream({
            start(controller) {
              controller.enqueue(new TextEncoder().encode("{"));
            },
          }),
        ),
    );
    for (const url of [silent, halting]) {
      const startedAt = performance.now();
      expect(await post(url, 60)).toEqual({ error: "No reply within 60 ms" });
      expect(performance.now() - startedAt).toBeWithin(50, 20_000);
    }
  });

  test("names a refused connection and a name that nobody has", async () => {
    const url = serve(() => new Response());
    await closers.pop()?.();
    expect(await post(url)).toMatchObject({ error: expect.stringMatching(/connect/i) });
    expect(await post("http://name.invalid:1/messages")).toMatchObject({
      error: expect.any(String),
    });
    expect(await post("no url")).toMatchObject({ error: expect.any(String) });
  });

  test("bounds the reply", async () => {
    const url = serve(() => new Response("x".repeat(5000)));
    const result = await postMessage({
      url,
      message: REPORTED,
      timeoutMs: 20_000,
      replyMaxBytes: 4999,
    });
    expect(result).toEqual({ error: "The reply has more than 4999 bytes" });
  });

  test("goes past a proxy that the environment names", async () => {
    const before = process.env["HTTP_PROXY"];
    process.env["HTTP_PROXY"] = "http://127.0.0.1:9";
    try {
      const url = serve(() => new Response(encodeMessage(ACKED)));
      expect(await post(url)).toMatchObject({ status: 200 });
    } finally {
      if (before === undefined) delete process.env["HTTP_PROXY"];
      else process.env["HTTP_PROXY"] = before;
    }
  });
});

describe("postMessage() with a key", () => {
  const key = new SealKey("node", "one-secret-of-at-least-32-characters");

  /** Answers as a holder of `own` does, or spoils the seal. */
  function sealing(
    own: SealKey,
    how: { readonly status?: number; readonly spoil?: (seal: string) => string } = {},
  ): string {
    const { status = 200, spoil = (seal: string) => seal } = how;
    return serve(async (request) => {
      const claim = readClaim({ keys: [own] }, request.headers.get(SEAL_HEADER));
      const asked = new Uint8Array(await request.arrayBuffer());
      if (typeof claim === "string" || !holds(claim, asked)) {
        return Response.json({ reason: "unknown_key", error: "" }, { status: 401 });
      }
      const body = status === 410 ? '{"reason":"older_seq","error":"late"}' : encodeMessage(ACKED);
      return new Response(body, {
        status,
        headers: { [SEAL_HEADER]: spoil(sealReply(claim, status, body)) },
      });
    });
  }

  function signed(url: string) {
    return postMessage({ url, message: REPORTED, timeoutMs: 20_000, key });
  }

  test("believes a reply, a handshake and a refusal that are sealed", async () => {
    expect(await signed(sealing(key))).toEqual({ status: 200, message: ACKED });
    expect(await signed(sealing(key, { status: 409 }))).toEqual({ status: 409, message: ACKED });
    expect(await signed(sealing(key, { status: 410 }))).toMatchObject({ reason: "older_seq" });
  });

  test("believes nothing without a seal, or with another's", async () => {
    const plain = serve(() => new Response(encodeMessage(ACKED)));
    expect(await signed(plain)).toEqual({ error: "The reply is not signed: status 200" });
    const late = serve(() =>
      Response.json({ reason: "older_session", error: "" }, { status: 410 }),
    );
    expect(await signed(late)).toEqual({
      error: "The reply is not signed: status 410, older_session",
    });
    const lenient = { message: REPORTED, timeoutMs: 20_000, key, unsigned: true };
    expect(await postMessage({ ...lenient, url: plain })).toMatchObject({ status: 200 });
    const wrong = sealing(key, {
      spoil: (seal) => seal.replace(/.$/, (at) => (at === "0" ? "1" : "0")),
    });
    expect(await signed(wrong)).toEqual({ error: "The reply bears a wrong seal: status 200" });
    const other = new SealKey("node", "any-secret-of-at-least-32-characters");
    expect(await signed(sealing(other))).toEqual({
      error: "The reply is not signed: status 401, unknown_key",
    });
  });
});

type ToyLoop = Loop<ToyState, ToyEvent, ToyEffect>;

/** A whole party on loopback: endpoint, loop, mailroom, toy core. */
function party(self: PartyId, urls: Map<string, string>): ToyLoop {
  const clock = systemClock();
  const base = smallCluster({ ack_timeout_ms: 200, resend_ms: 600 });
  const config = { ...base, urlById: urls };
  const machine = mailroom({
    self,
    config,
    session: `s-${self.replace(".", "-")}`,
    core: TOY_CORE,
  });
  const loop: ToyLoop = startLoop<ToyState, ToyEvent, ToyEffect>({
    machine,
    state: machine.initial(toyState({ answer: ACK })),
    clock,
    wakeup: (fire) => systemWakeup(clock, fire),
    perform: () => Promise.resolve(null),
    failed: () => null,
    limitMs: () => 1000,
    post: ({ url, message, timeoutMs }, signal) => postMessage({ url, message, timeoutMs, signal }),
    log: createLog({ role: "toy", node: self, wall: clock.wall, sink: () => undefined }),
  });
  const { app } = createEndpoint({
    submit: loop.submit,
    status: () => ({}),
    illness: loop.illness,
  });
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: app.fetch });
  urls.set(self, `http://127.0.0.1:${server.port}`);
  closers.push(async () => {
    await loop.stop(100);
    await server.stop(true);
  });
  return loop;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const giveUpAt = performance.now() + 30_000;
  while (!holds()) {
    if (performance.now() > giveUpAt) throw new Error(`Never came true: ${what}`);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

function tellToSend(loop: ToyLoop, to: PartyId, body: Body): void {
  loop.tell({
    on: "ask",
    effects: [{ do: "send", to, body, expiresMs: 5000 } as ToyEffect],
  });
}

describe("two parties over real HTTP", () => {
  test("shake hands, deliver and acknowledge, both ways", async () => {
    const urls = new Map([["dbclient.1", "http://127.0.0.1:1"]]);
    const arbitrator = party("arbitrator.1", urls);
    const server = party("dbserver.1", urls);
    const url = urls.get("dbserver.1") ?? "";
    tellToSend(server, "arbitrator.1", { ...REPORT, parameters: { ...REPORT.parameters, url } });
    await until("the report is acknowledged", () =>
      server.state().core.told.some(({ event }) => event.on === "answered"),
    );
    const [order] = SAMPLES["arbitrator>dbserver"].filter((body) => body.verb === "start");
    if (order === undefined) throw new Error("No sample");
    tellToSend(arbitrator, "dbserver.1", order);
    await until("the order is acknowledged", () =>
      arbitrator.state().core.told.some(({ event }) => event.on === "answered"),
    );
    expect(server.state().core.told.some(({ event }) => event.on === "message")).toBe(true);
    expect(server.state().counters.get("post.failed")).toBeUndefined();
  });

  test("a message waits for a peer that starts later", async () => {
    const urls = new Map([["arbitrator.1", "http://127.0.0.1:1"]]);
    const server = party("dbserver.1", urls);
    tellToSend(server, "arbitrator.1", REPORT);
    await until(
      "the first attempt fails",
      () => (server.state().counters.get("post.failed") ?? 0) > 0,
    );
    const arbitrator = party("arbitrator.1", urls);
    await until("the report has come", () =>
      arbitrator.state().core.told.some(({ event }) => event.on === "message"),
    );
  });
});

describe("askOnce()", () => {
  function question(
    url: string,
    body: Body,
    sender: PartyId = "command.0",
    receiver: PartyId = "arbitrator.1",
  ) {
    return askOnce({
      url,
      sender,
      receiver,
      body,
      session: crypto.randomUUID(),
      configVersion: 7,
      timeoutMs: 20_000,
    });
  }

  test("gives an order with the handshake that it needs, once", async () => {
    const urls = new Map<string, string>();
    const arbitrator = party("arbitrator.1", urls);
    const [, drain] = SAMPLES["command>arbitrator"];
    if (drain === undefined) throw new Error("No sample");
    const result = await question(urls.get("arbitrator.1") ?? "", drain);
    expect(result).toMatchObject({ status: 200, message: { verb: "ack" } });
    expect(arbitrator.state().core.told).toHaveLength(1);
    expect(arbitrator.state().counters.get("handshakes")).toBe(1);
  });

  test("hands a notification over in one round trip", async () => {
    const urls = new Map<string, string>();
    const server = party("dbserver.1", urls);
    const [notify] = SAMPLES["wsrep_notify_cmd>dbserver"];
    if (notify === undefined) throw new Error("No sample");
    const url = urls.get("dbserver.1") ?? "";
    const result = await question(url, notify, "wsrep_notify_cmd.1", "dbserver.1");
    expect(result).toMatchObject({ status: 200, message: { verb: "ack" } });
    expect(server.state().counters.get("handshakes")).toBeUndefined();
  });

  test("gives up where each answer names another session, and believes no foreign reply", async () => {
    let requests = 0;
    const circling = serve(async (request) => {
      requests++;
      const message = (await request.json()) as Message;
      const reply = { ...message, ...ACK, sender: message.receiver, receiver: message.sender };
      const spoken = { ...reply, session: `x${requests}`, toSession: message.session } as Message;
      return new Response(encodeMessage(spoken), { status: 409 });
    });
    const body: Body = { verb: "status_summary", parameters: {} };
    expect(await question(circling.replace("/messages", ""), body)).toEqual({
      error: "arbitrator.1 names another session each time",
    });
    expect(requests).toBe(2);
    const foreign = serve(() => new Response(encodeMessage(ACKED)));
    expect(await question(foreign.replace("/messages", ""), body)).toEqual({
      error: "The reply is not to this message",
    });
  });
});
