/** What an endpoint with keys lets through, and from whom. */
import { describe, expect, test } from "bun:test";
import type { Certificate } from "../lib/effects/http_server.ts";
import { type Answer, createEndpoint, type Peer, REFUSED_TOKENS } from "../lib/endpoint.ts";
import { encodeMessage, type Message } from "../lib/message/mod.ts";
import { tokenBuckets } from "../lib/rate.ts";
import { isReplyTo, SEAL_HEADER, SealKey, sealRequest } from "../lib/seal.ts";
import { ACK, messageOf, REPORT, SAMPLES } from "./message/samples.ts";

const node = new SealKey("node", "one-secret-of-at-least-32-characters");
const operator = new SealKey("operator", "two-secret-of-at-least-32-characters");
const stranger = new SealKey("node", "any-secret-of-at-least-32-characters");
const FAR: Peer = { address: "10.9.9.9", isLocal: () => false };
const NEAR: Peer = { address: "10.0.3.1", isLocal: () => true };
const SOCKET: Peer = { address: null, isLocal: () => true };

const REPORTED = messageOf("dbserver.1", "arbitrator.1", REPORT);
const REPLY = messageOf("arbitrator.1", "dbserver.1", ACK);
const [QUESTION, DRAIN] = SAMPLES["command>arbitrator"].map((body) =>
  messageOf("command.1", "arbitrator.1", body),
);
const [NOTIFY] = SAMPLES["wsrep_notify_cmd>dbserver"].map((body) =>
  messageOf("wsrep_notify_cmd.1", "dbserver.1", body),
);
if (QUESTION === undefined || DRAIN === undefined || NOTIFY === undefined)
  throw new Error("samples");

function endpoint(
  options: {
    readonly keys?: readonly SealKey[];
    readonly answer?: Answer;
    readonly burst?: number;
    readonly unsigned?: boolean;
    readonly certified?: (certificate: Certificate | null, message: Message) => boolean;
  } = {},
) {
  const submitted: Message[] = [];
  const { keys = [node, operator], answer = { status: 200, message: REPLY } } = options;
  let now = 0;
  const made = createEndpoint({
    async submit(each) {
      submitted.push(each);
      return answer;
    },
    status: () => ({ phase: "testing" }),
    illness: () => null,
    keyring: () => ({ keys }),
    unsigned: options.unsigned ?? false,
    ...(options.certified === undefined ? {} : { certified: options.certified }),
    rate: {
      buckets: tokenBuckets({ burst: options.burst ?? 1e6, perSecond: 1, keysMax: 16 }),
      now: () => now,
    },
  });
  async function post(
    body: string,
    from: { readonly key?: SealKey; readonly peer?: Peer; readonly seal?: string } = {},
  ) {
    const { key, peer = FAR } = from;
    const seal = from.seal ?? (key === undefined ? undefined : sealRequest(key, body));
    const response = await made.app.request(
      "/messages",
      {
        method: "POST",
        body,
        headers: {
          "content-type": "application/json",
          ...(seal === undefined ? {} : { [SEAL_HEADER]: seal }),
        },
      },
      { peer },
    );
    const bytes = new Uint8Array(await response.arrayBuffer());
    const { status } = response;
    const header = response.headers.get(SEAL_HEADER);
    const sealed =
      key !== undefined && seal !== undefined && isReplyTo({ key, seal }, header, status, bytes);
    const text = new TextDecoder().decode(bytes);
    return { status, sealed, header, reason: (JSON.parse(text) as { reason?: string }).reason };
  }
  return { ...made, submitted, post, pass: (ms: number) => (now += ms) };
}

describe("POST /messages with keys", () => {
  test("takes what is sealed by a node, and seals the reply to that very request", async () => {
    const { post, submitted } = endpoint();
    expect(await post(encodeMessage(REPORTED), { key: node })).toMatchObject({
      status: 200,
      sealed: true,
    });
    expect(submitted).toHaveLength(1);
  });

  test("refuses the unsigned, the foreign and the changed before a byte is parsed", async () => {
    const { post, submitted, counters } = endpoint();
    const body = encodeMessage(REPORTED);
    expect(await post(body)).toMatchObject({ status: 401, reason: "not_signed", header: null });
    expect(await post("not even JSON")).toMatchObject({ status: 401, reason: "not_signed" });
    expect(await post(body, { key: stranger })).toMatchObject({
      status: 401,
      reason: "unknown_key",
    });
    const seal = sealRequest(node, body);
    expect(await post(body.replace('"seq":1', '"seq":2'), { seal })).toMatchObject({
      status: 401,
      reason: "bad_seal",
      header: null,
    });
    expect(submitted).toEqual([]);
    expect(counters()).toEqual({ not_signed: 2, unknown_key: 1, bad_seal: 1 });
  });

  test("seals refusals as well, the mailroom's and its own", async () => {
    const answer: Answer = { status: 410, reason: "older_seq", error: "too late" };
    const { post } = endpoint({ answer });
    expect(await post(encodeMessage(REPORTED), { key: node })).toEqual(
      expect.objectContaining({ status: 410, reason: "older_seq", sealed: true }),
    );
    expect(await post("{", { key: node })).toMatchObject({ status: 400, sealed: true });
  });

  test("an order needs the operators' secret, over the control socket too", async () => {
    const { post, submitted, counters } = endpoint();
    const order = encodeMessage(DRAIN);
    expect(await post(order, { key: node })).toMatchObject({ status: 403, reason: "wrong_secret" });
    expect(await post(order, { peer: NEAR })).toMatchObject({ status: 401, reason: "not_signed" });
    expect(await post(order, { peer: SOCKET })).toMatchObject({ status: 401 });
    expect(submitted).toEqual([]);
    expect(await post(order, { key: operator })).toMatchObject({ status: 200, sealed: true });
    expect(counters()["wrong_secret"]).toBe(1);
  });

  test("where no operators' secret is set up, the control socket alone takes orders", async () => {
    const { post, submitted } = endpoint({ keys: [node] });
    const order = encodeMessage(DRAIN);
    for (const peer of [FAR, NEAR])
      expect(await post(order, { peer })).toMatchObject({ status: 401 });
    expect(await post(order, { key: node })).toMatchObject({ status: 403 });
    expect(submitted).toEqual([]);
    expect(await post(order, { peer: SOCKET })).toMatchObject({ status: 200 });
    expect(await post(encodeMessage(REPORTED), { peer: SOCKET })).toMatchObject({ status: 401 });
  });

  test("while a cluster begins to sign, the unsigned is taken and the wrongly signed is not", async () => {
    const { post, submitted } = endpoint({ unsigned: true });
    const body = encodeMessage(REPORTED);
    expect(await post(body)).toMatchObject({ status: 200, header: null });
    expect(await post(body, { key: node })).toMatchObject({ status: 200, sealed: true });
    expect(await post(body, { key: stranger })).toMatchObject({ status: 401 });
    expect(await post(encodeMessage(DRAIN), { key: node })).toMatchObject({ status: 403 });
    expect(submitted).toHaveLength(2);
  });

  test("an operators' secret speaks for no party", async () => {
    const { post } = endpoint();
    expect(await post(encodeMessage(REPORTED), { key: operator })).toMatchObject({
      status: 403,
      reason: "wrong_secret",
    });
  });

  test("a notification and a question need no seal from the very host, but from others", async () => {
    const { post } = endpoint();
    for (const each of [NOTIFY, QUESTION]) {
      expect(await post(encodeMessage(each), { peer: NEAR })).toMatchObject({ status: 200 });
      expect(await post(encodeMessage(each), { peer: FAR })).toMatchObject({ status: 401 });
      expect(await post(encodeMessage(each), { key: node })).toMatchObject({ status: 200 });
    }
    expect(await post(encodeMessage(REPORTED), { peer: NEAR })).toMatchObject({ status: 401 });
    expect(await post("x", { peer: NEAR })).toMatchObject({ status: 400 });
  });
});

describe("GET with keys", () => {
  test("/status is for the very host, /healthz for all", async () => {
    const { app } = endpoint();
    const get = async (path: string, peer: Peer) => (await app.request(path, {}, { peer })).status;
    expect(await get("/status", FAR)).toBe(403);
    expect(await get("/status", NEAR)).toBe(200);
    expect(await get("/status", SOCKET)).toBe(200);
    expect(await get("/healthz", FAR)).toBe(200);
  });
});

describe("the rate of an address", () => {
  test("runs out by refusals, and comes back in time", async () => {
    const { post, pass, submitted } = endpoint({ burst: 5 * REFUSED_TOKENS });
    for (let n = 0; n < 5; n++) expect((await post("x")).status).toBe(401);
    for (let n = 0; n < 9; n++) {
      expect(await post(encodeMessage(REPORTED), { key: node })).toMatchObject({
        status: 429,
        reason: "rate",
      });
    }
    expect(submitted).toEqual([]);
    const other = { key: node, peer: { address: "10.9.9.8", isLocal: () => false } };
    expect((await post(encodeMessage(REPORTED), other)).status).toBe(200);
    pass(60_000);
    expect((await post(encodeMessage(REPORTED), { key: node })).status).toBe(200);
  });

  test("does not concern the control socket", async () => {
    const { post } = endpoint({ burst: 1 });
    for (let n = 0; n < 20; n++) {
      expect((await post(encodeMessage(QUESTION), { peer: SOCKET })).status).toBe(200);
    }
  });
});

describe("where certificates are shown", () => {
  const own = { commonName: "dbserver.1", hosts: [] };
  const certified = (certificate: Certificate | null, { sender }: Message) =>
    certificate?.commonName === sender;
  const shows = (peer: Peer, certificate: Certificate | null): Peer => ({ ...peer, certificate });

  test("the right secret with another party's certificate, or with none, is refused and counted", async () => {
    const { post, submitted, counters } = endpoint({ certified });
    const forged = encodeMessage(messageOf("arbitrator.1", "dbserver.1", ACK));
    for (const certificate of [own, null]) {
      const response = await post(forged, { key: node, peer: shows(FAR, certificate) });
      expect(response.status).toBe(403);
      expect(response.reason).toBe("wrong_certificate");
    }
    expect(submitted).toEqual([]);
    expect(counters()).toEqual({ wrong_certificate: 2 });
    const right = await post(encodeMessage(REPORTED), { key: node, peer: shows(FAR, own) });
    expect(right.status).toBe(200);
  });

  test("the control socket takes people at their word, and no party", async () => {
    const { post, submitted } = endpoint({ certified });
    const peer = shows(SOCKET, null);
    expect((await post(encodeMessage(DRAIN), { key: operator, peer })).status).toBe(200);
    expect((await post(encodeMessage(REPORTED), { key: node, peer })).status).toBe(403);
    expect(submitted).toEqual([DRAIN]);
  });
});

describe("who has proven to be a peer", () => {
  test("is whoever has had a sealed message accepted, and nobody else", async () => {
    let proven = 0;
    const seen = { ...FAR, proven: () => proven++ };
    const { post } = endpoint();
    await post(encodeMessage(QUESTION), { peer: { ...seen, isLocal: () => true } });
    await post(encodeMessage(REPORTED), { key: stranger, peer: seen });
    await post("nonsense", { key: node, peer: seen });
    expect(proven).toBe(0);
    await post(encodeMessage(REPORTED), { key: node, peer: seen });
    expect(proven).toBe(1);
    const refusing = endpoint({ answer: { status: 410, reason: "older_seq", error: "late" } });
    await refusing.post(encodeMessage(REPORTED), { key: node, peer: seen });
    expect(proven).toBe(1);
  });
});
