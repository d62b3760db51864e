import { describe, expect, test } from "bun:test";
import { mailroom } from "../lib/correspondent.ts";
import { type Answer, createEndpoint, REQUESTS_MAX } from "../lib/endpoint.ts";
import { createLog, quietLog } from "../lib/log.ts";
import { startLoop } from "../lib/loop.ts";
import { BODY_MAX_BYTES } from "../lib/message/envelope.ts";
import { decodeMessage, encodeMessage, type Message } from "../lib/message/mod.ts";
import { systemClock, systemWakeup } from "../lib/wakeup.ts";
import { ACK, ACKED, REPORTED } from "./message/samples.ts";
import { smallCluster } from "./support/small_cluster.ts";
import {
  TOY_CORE,
  type ToyEffect,
  type ToyEvent,
  type ToyState,
  toyState,
} from "./support/toy_core.ts";

const JSON_TYPE = { "content-type": "application/json" };

/** An endpoint whose messages end here, noted. */
function endpoint(answer: Answer = { status: 503, reason: "test", error: "test" }) {
  const submitted: Message[] = [];
  const lines: string[] = [];
  const clock = systemClock();
  const log = createLog({
    role: "r",
    node: "n",
    wall: clock.wall,
    sink: (line) => lines.push(line),
  });
  let illness: string | null = null;
  const made = createEndpoint({
    async submit(message) {
      submitted.push(message);
      return answer;
    },
    status: () => ({ phase: "testing" }),
    illness: () => illness,
    bodyTimeoutMs: 50,
    log: quietLog(log, clock.now),
  });
  return {
    ...made,
    submitted,
    lines,
    fallIll(why: string) {
      illness = why;
    },
    post(
      body: NonNullable<RequestInit["body"]> | null,
      headers: Record<string, string> = JSON_TYPE,
    ) {
      return made.app.request("/messages", { method: "POST", body, headers });
    },
  };
}

describe("POST /messages", () => {
  test("hands a message on and answers with what comes back", async () => {
    const { post, submitted } = endpoint({ status: 200, message: ACKED });
    const response = await post(encodeMessage(REPORTED));
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(decodeMessage(await response.text())).toEqual({ ok: true, message: ACKED });
    expect(submitted).toEqual([REPORTED]);
  });

  test("passes a refusal of the mailroom on with its status and reason", async () => {
    const { post } = endpoint({ status: 410, reason: "older_seq", error: "too late" });
    const response = await post(encodeMessage(REPORTED));
    expect(response.status).toBe(410);
    expect(await response.json()).toEqual({ reason: "older_seq", error: "too late" });
  });

  const refused: readonly [string, NonNullable<RequestInit["body"]> | null, number, string][] = [
    ["nothing", null, 400, "not_json"],
    ["no JSON", "{", 400, "not_json"],
    ["bytes that are no UTF-8", new Uint8Array([0xff]), 400, "not_utf8"],
    ["another wire version", encodeMessage({ ...REPORTED, v: 2 } as never), 400, "wire_version"],
    [
      "a sender of no kind",
      encodeMessage({ ...REPORTED, sender: "x.1" } as never),
      400,
      "bad_envelope",
    ],
    [
      "roles that never talk",
      encodeMessage({ ...REPORTED, sender: "dbclient.1" } as never),
      403,
      "not_routed",
    ],
    ["an unknown verb", encodeMessage({ ...REPORTED, verb: "fly" } as never), 400, "unknown_verb"],
    [
      "wrong parameters",
      encodeMessage({ ...REPORTED, parameters: {} } as never),
      400,
      "bad_parameters",
    ],
    ["a body beyond the bound", "x".repeat(BODY_MAX_BYTES + 1), 413, "too_large"],
  ];
  for (const [name, body, status, reason] of refused) {
    test(`refuses ${name} with ${status} ${reason}, and hands nothing on`, async () => {
      const { post, submitted, counters, lines } = endpoint();
      const response = await post(body);
      expect(response.status).toBe(status);
      expect(await response.json()).toMatchObject({ reason, error: expect.any(String) });
      expect(submitted).toEqual([]);
      expect(counters()).toEqual({ [reason]: 1 });
      expect(lines.map((line) => JSON.parse(line))).toMatchObject([{ event: "refused", reason }]);
    });
  }

  test("refuses a body beyond the bound that does not say its length, without reading on", async () => {
    const { post, submitted } = endpoint();
    let pulled = 0;
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled++;
        controller.enqueue(new Uint8Array(16_384));
      },
    });
    const response = await post(stream);
    expect(response.status).toBe(413);
    expect(pulled).toBeLessThan(BODY_MAX_BYTES / 16_384 + 4);
    expect(submitted).toEqual([]);
  });

  test("does not wait for ever for a body that does not come", async () => {
    const { post } = endpoint();
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("{"));
      },
    });
    const response = await post(stream);
    expect(response.status).toBe(408);
    expect(await response.json()).toMatchObject({ reason: "body_late" });
  });

  test("answers a body that breaks off", async () => {
    const { post } = endpoint();
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.error(new Error("reset"));
      },
    });
    expect((await post(stream)).status).toBe(400);
  });

  test("takes JSON in UTF-8 only", async () => {
    const { post, submitted } = endpoint();
    for (const type of [
      "text/plain",
      "application/jsonp",
      "application/json; charset=latin1",
      "",
    ]) {
      const headers = type === "" ? {} : { "content-type": type };
      const response = await post(
        new TextEncoder().encode(encodeMessage(REPORTED)),
        headers as Record<string, string>,
      );
      expect([type, response.status]).toEqual([type, 415]);
    }
    expect(submitted).toEqual([]);
    await post(encodeMessage(REPORTED), { "content-type": "Application/JSON; charset=UTF-8" });
    expect(submitted).toHaveLength(1);
  });

  test("bounds the requests under way", async () => {
    const gate = Promise.withResolvers<Answer>();
    const { app } = createEndpoint({
      submit: () => gate.promise,
      status: () => ({}),
      illness: () => null,
    });
    const request = { method: "POST", body: encodeMessage(REPORTED), headers: JSON_TYPE };
    const waiting = Array.from({ length: REQUESTS_MAX }, () => app.request("/messages", request));
    expect((await app.request("/messages", request)).status).toBe(503);
    gate.resolve({ status: 503, reason: "test", error: "test" });
    await Promise.all(waiting);
    expect(await (await app.request("/messages", request)).json()).toMatchObject({
      reason: "test",
    });
  });

  test("answers 500 when what is behind it throws, and lives on", async () => {
    const { app } = createEndpoint({
      submit: () => Promise.reject(new Error("broken")),
      status: () => ({}),
      illness: () => null,
    });
    const request = { method: "POST", body: encodeMessage(REPORTED), headers: JSON_TYPE };
    expect(await (await app.request("/messages", request)).json()).toEqual({
      reason: "internal",
      error: "broken",
    });
    expect((await app.request("/healthz")).status).toBe(200);
  });
});

describe("other paths", () => {
  test("GET /status shows what it is given", async () => {
    const response = await endpoint().app.request("/status");
    expect(await response.json()).toEqual({ phase: "testing" });
  });

  test("GET /healthz is 200 while all is well and 503 with the reason otherwise", async () => {
    const made = endpoint();
    expect((await made.app.request("/healthz")).status).toBe(200);
    made.fallIll("loop broken");
    const response = await made.app.request("/healthz");
    expect([response.status, await response.json()]).toEqual([
      503,
      { ok: false, error: "loop broken" },
    ]);
  });

  test("wrong methods are 405 with the right one, other paths 404, both as JSON", async () => {
    const { app } = endpoint();
    for (const [path, method, allow] of [
      ["/messages", "GET", "POST"],
      ["/status", "POST", "GET"],
      ["/healthz", "DELETE", "GET"],
    ] as const) {
      const response = await app.request(path, { method });
      expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
      expect(await response.json()).toMatchObject({ reason: "method" });
    }
    for (const path of ["/", "/message", "/messages/", "//messages", "/status/x"]) {
      const response = await app.request(path, { method: "POST" });
      expect([path, response.status]).toEqual([path, 404]);
      expect(await response.json()).toMatchObject({ reason: "path" });
    }
  });
});

describe("in front of a loop", () => {
  test("what the mailroom refuses gets its 4xx and leaves the core as it was", async () => {
    const clock = systemClock();
    const machine = mailroom({
      self: "arbitrator.1",
      config: smallCluster(),
      session: "arb",
      core: TOY_CORE,
    });
    const loop = startLoop<ToyState, ToyEvent, ToyEffect>({
      machine,
      state: machine.initial(toyState({ answer: ACK })),
      clock,
      wakeup: (fire) => systemWakeup(clock, fire),
      perform: () => Promise.resolve(null),
      failed: () => null,
      limitMs: () => 1000,
      post: () => Promise.resolve({ error: "nobody" }),
      log: createLog({ role: "r", node: "n", wall: clock.wall, sink: () => undefined }),
    });
    const { app } = createEndpoint({
      submit: loop.submit,
      status: loop.state,
      illness: loop.illness,
    });
    const post = (changes: Partial<Message>) =>
      app.request("/messages", {
        method: "POST",
        headers: JSON_TYPE,
        body: encodeMessage({ ...REPORTED, ...changes } as Message),
      });
    const before = loop.state().core;
    const cases: readonly [Partial<Message>, number, string][] = [
      [{ sender: "dbserver.9" }, 403, "unknown_sender"],
      [{ receiver: "arbitrator.2" }, 421, "wrong_receiver"],
      [ACK as Partial<Message>, 400, "unasked_ack"],
    ];
    for (const [changes, status, reason] of cases) {
      const response = await post(changes);
      expect([response.status, await response.json()]).toMatchObject([status, { reason }]);
    }
    const handshake = await post({ toSession: "" });
    expect(handshake.status).toBe(409);
    expect(await handshake.json()).toMatchObject({ verb: "ack", session: "arb" });
    expect(loop.state().core).toEqual(before);
    expect((await post({})).status).toBe(200);
    expect(loop.state().core.told).toHaveLength(1);
    await loop.stop(100);
    expect((await post({ seq: 2 })).status).toBe(503);
  });
});

describe("a body that the connection reads", () => {
  test.each([
    ["late", 408, "body_late"],
    ["too_large", 413, "too_large"],
    ["broken", 400, "body_broken"],
    ["no_length", 411, "no_length"],
  ] as const)("%s: %d %s", async (result, status, reason) => {
    const { app, submitted } = endpoint();
    const peer = { address: "10.9.9.9", isLocal: () => false, body: async () => result };
    const request = { method: "POST", headers: JSON_TYPE };
    const response = await app.request("/messages", request, { peer });
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ reason });
    expect(submitted).toEqual([]);
  });

  test("and what ends before there is a request are counted with the refusals", () => {
    const { dropped, counters, lines } = endpoint();
    dropped("head_late", "10.9.9.9");
    dropped("head_late", "10.9.9.9");
    expect(counters()).toEqual({ head_late: 2 });
    expect(lines.join()).toContain("10.9.9.9");
  });
});
