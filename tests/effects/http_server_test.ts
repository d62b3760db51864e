/** The receiving side of HTTP over real sockets: framing, bounds, certificates. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { makeCerts } from "../../lib/effects/certs.ts";
import {
  type HttpServer,
  type HttpServerOptions,
  type ServerTls,
  serveHttp,
  type Visitor,
} from "../../lib/effects/http_server.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

const folder = makeScratch("http-server");
const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});
afterAll(() => removeScratch(folder));

interface Served {
  readonly server: HttpServer;
  readonly seen: string[];
  readonly dropped: string[];
}

/** Answers with the method, the path and the length of the body; `/prove` makes a peer of who asks it. */
function serve(options: Partial<HttpServerOptions> = {}): Served {
  const seen: string[] = [];
  const dropped: string[] = [];
  const server = serveHttp({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request, visitor: Visitor) {
      const { pathname } = new URL(request.url);
      if (pathname === "/prove") visitor.proven();
      if (pathname === "/unread") return new Response("unread", { status: 413 });
      const body = await visitor.body(100, 100);
      const what = body instanceof Uint8Array ? String(body.length) : body;
      seen.push(`${request.method} ${pathname} ${what} ${visitor.certificate?.commonName ?? "-"}`);
      return new Response(`${request.method} ${pathname} ${what}`);
    },
    dropped: (reason, address) => dropped.push(`${reason} ${address}`),
    ...options,
  });
  closers.push(() => server.stop(true));
  return { server, seen, dropped };
}

interface Line {
  readonly socket: Socket;
  text(): string;
  isClosed(): boolean;
  /** Waits until what has come matches, or the connection is closed. */
  until(found: RegExp): Promise<string>;
  closed(): Promise<void>;
}

function lineOf(socket: Socket): Line {
  let text = "";
  let closed = false;
  closers.push(() => socket.destroy());
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    closed = true;
  });
  return {
    socket,
    text: () => text,
    isClosed: () => closed,
    async until(found) {
      await came(`${found} in an answer`, () => found.test(text) || closed);
      return text;
    },
    closed: () => came("the connection is closed", () => closed),
  };
}

async function came(what: string, holds: () => boolean): Promise<void> {
  const giveUpAt = performance.now() + 20_000;
  while (!holds()) {
    if (performance.now() > giveUpAt) throw new Error(`Never came true: ${what}`);
    await Bun.sleep(5);
  }
}

async function open(port: number, localAddress = "127.0.0.1"): Promise<Line> {
  const socket = connect({ host: "127.0.0.1", port, localAddress, noDelay: true });
  const line = lineOf(socket);
  await came("connected", () => !socket.connecting || line.isClosed());
  return line;
}

/** Sends text over a connection of its own and gives all that comes back until it is closed. */
async function say(port: number, text: string): Promise<string> {
  const line = await open(port);
  line.socket.write(text);
  await line.closed();
  return line.text();
}

const GET = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
const POST = "POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";

describe("a request", () => {
  test("is answered on a connection that is kept, one after the other", async () => {
    const { server, seen } = serve();
    const line = await open(server.port);
    line.socket.write(GET);
    await line.until(/GET \/a 0$/);
    line.socket.write(POST);
    const text = await line.until(/POST \/b 5$/);
    expect(text).toContain("HTTP/1.1 200 OK\r\n");
    expect(text).not.toContain("connection: close");
    expect(seen).toEqual(["GET /a 0 -", "POST /b 5 -"]);
  });

  test("is understood wherever it is torn, and in the same piece as another", async () => {
    const { server, seen } = serve();
    const line = await open(server.port);
    for (const byte of POST) {
      line.socket.write(byte);
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    await line.until(/POST \/b 5$/);
    line.socket.write(`\r\n${POST}${GET}${POST}`);
    await came("all are answered", () => seen.length === 4);
    expect(seen).toEqual(["POST /b 5 -", "POST /b 5 -", "GET /a 0 -", "POST /b 5 -"]);
  });

  test("may ask to close, and HTTP/1.0 does unless it says otherwise", async () => {
    const { server } = serve();
    const closing = GET.replace("host: x", "host: x\r\nConnection: Close");
    expect(await say(server.port, closing)).toContain("connection: close");
    expect(await say(server.port, "GET /a HTTP/1.0\r\n\r\n")).toEndWith("GET /a 0");
    const line = await open(server.port);
    line.socket.write("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect(await line.until(/GET \/a 0$/)).not.toContain("connection: close");
  });

  test("HEAD gets a length and no body", async () => {
    const { server } = serve();
    const text = await say(server.port, "HEAD /a HTTP/1.0\r\n\r\n");
    expect(text).toContain("content-length: 9\r\n");
    expect(text).toEndWith("\r\n\r\n");
  });

  test("that waits for leave to send its body gets it", async () => {
    const { server } = serve();
    const line = await open(server.port);
    line.socket.write(POST.replace("host: x", "Expect: 100-continue").replace("hello", ""));
    await line.until(/100 Continue/);
    line.socket.write("hello");
    await line.until(/POST \/b 5$/);
  });
});

describe("a body", () => {
  test("that is late, too large, or of no stated length is named so, and ends the connection", async () => {
    const { server } = serve();
    const late = POST.replace("hello", "hel");
    expect(await say(server.port, late)).toEndWith("POST /b late");
    const large = POST.replace("5", "101");
    expect(await say(server.port, large)).toEndWith("POST /b too_large");
    const chunked = POST.replace("content-length: 5", "transfer-encoding: chunked");
    expect(await say(server.port, chunked)).toEndWith("POST /b no_length");
  });

  test("that nobody reads does not hide the answer, however large it is", async () => {
    const { server } = serve();
    const line = await open(server.port);
    line.socket.write("POST /unread HTTP/1.1\r\ncontent-length: 3000000\r\n\r\n");
    line.socket.write("x".repeat(3_000_000));
    expect(await line.until(/unread$/)).toContain("413 Content Too Large");
    await line.closed();
  });

  test("that breaks off leaves nothing behind", async () => {
    const { server } = serve();
    const line = await open(server.port);
    line.socket.end(POST.replace("hello", "hel"));
    await line.closed();
    await came("the connection is forgotten", () => server.connections().strangers === 0);
  });
});

describe("what is no request", () => {
  test.each([
    ["words", "hello\r\n\r\n"],
    ["a foreign protocol", "SSH-2.0-x\r\n\r\n"],
    ["another version", GET.replace("1.1", "2.0")],
    ["an absolute target", GET.replace("/a", "http://x/a")],
    ["a header without a name", GET.replace("host", "")],
    ["a name with a blank", GET.replace("host:", "host :")],
    ["a folded header", GET.replace("host: x", "host: x\r\n y")],
    ["a bare line end in a value", GET.replace("host: x", "host: x\ny: z")],
    ["a length that is no number", POST.replace("5", "5, 5")],
    ["two lengths", POST.replace("host: x", "content-length: 5")],
    ["a length and chunks", POST.replace("host: x", "transfer-encoding: chunked")],
    ["a null character", GET.replace("host: x", "host: \0")],
  ])("%s: 400 and the end of it", async (_, text) => {
    const { server, seen, dropped } = serve();
    expect(await say(server.port, text)).toStartWith("HTTP/1.1 400 Bad Request");
    expect(dropped).toEqual(["no_http 127.0.0.1"]);
    expect(seen).toEqual([]);
  });

  test("a head without end: 431", async () => {
    const { server, dropped } = serve();
    const text = `GET /a HTTP/1.1\r\nhost: ${"x".repeat(17_000)}`;
    expect(await say(server.port, text)).toStartWith("HTTP/1.1 431 ");
    expect(dropped).toEqual(["head_too_large 127.0.0.1"]);
  });
});

describe("time", () => {
  test("a head that does not end, and a connection that says nothing, are closed", async () => {
    const { server, dropped } = serve({ limits: { idleMs: 200, headMs: 200 } });
    const silent = await open(server.port);
    const slow = await open(server.port);
    slow.socket.write("GET /a HTTP/1.1\r\n");
    const kept = await open(server.port);
    kept.socket.write(GET);
    await kept.until(/GET \/a 0$/);
    await Promise.all([silent.closed(), slow.closed(), kept.closed()]);
    expect(dropped).toEqual(["head_late 127.0.0.1"]);
  });
});

describe("many connections", () => {
  test("the oldest silent one makes room, and a newcomer is answered", async () => {
    const { server, dropped } = serve({ limits: { strangersPerAddress: 3 } });
    const silent: Line[] = [];
    for (let n = 0; n < 6; n++) {
      const line = await open(server.port);
      line.socket.write("GET");
      silent.push(line);
    }
    await came("three are left", () => silent.filter((line) => !line.isClosed()).length === 3);
    expect(silent.map((line) => line.isClosed())).toEqual([true, true, true, false, false, false]);
    expect(dropped).toEqual(Array(3).fill("connections 127.0.0.1"));
    const line = await open(server.port);
    line.socket.write(GET);
    await line.until(/GET \/a 0$/);
    expect(server.connections()).toEqual({ strangers: 3, peers: 0 });
  });

  test("one address does not take the place of another, many addresses that of the oldest", async () => {
    const { server } = serve({ limits: { strangers: 4, strangersPerAddress: 2 } });
    const other = await open(server.port, "127.0.0.2");
    other.socket.write("GET");
    for (let n = 0; n < 8; n++) (await open(server.port)).socket.write("GET");
    await came("three are left", () => server.connections().strangers === 3);
    other.socket.write(" /a HTTP/1.1\r\n\r\n");
    await other.until(/GET \/a 0$/);
    for (const end of [3, 4, 5, 6]) {
      (await open(server.port, `127.0.0.${end}`)).socket.write("GET");
    }
    await other.closed();
    await came("four are left", () => server.connections().strangers === 4);
  });

  test("a peer keeps its connection through a flood, and a busy one is not interrupted", async () => {
    const { promise, resolve } = Promise.withResolvers<Response>();
    const { server } = serve({
      limits: { strangers: 4, strangersPerAddress: 4 },
      fetch(request, visitor) {
        if (request.url.endsWith("/slow")) return promise;
        visitor.proven();
        return new Response("peer");
      },
    });
    const peer = await open(server.port);
    peer.socket.write(GET);
    await peer.until(/peer$/);
    const busy = await open(server.port);
    busy.socket.write("GET /slow HTTP/1.1\r\n\r\n");
    await came("it is under way", () => server.connections().strangers === 1);
    for (let n = 0; n < 40; n++) (await open(server.port)).socket.write("GET");
    await came("four strangers are left", () => server.connections().strangers === 4);
    expect(server.connections()).toEqual({ strangers: 4, peers: 1 });
    resolve(new Response("at last"));
    await busy.until(/at last$/);
    peer.socket.write(GET);
    await peer.until(/peer[\s\S]*peer$/);
  });

  test("who sends on and on without waiting for answers is cut off", async () => {
    const { server } = serve({ fetch: () => new Promise<Response>(() => undefined) });
    const line = await open(server.port);
    line.socket.write(GET.repeat(20_000));
    await line.closed();
    expect(server.connections()).toEqual({ strangers: 0, peers: 0 });
  });
});

describe("certificates", () => {
  function made(name: string): { readonly of: (id: string) => ServerTls; readonly ca: string } {
    const place = join(folder, name);
    makeCerts(place, [
      { id: "arbitrator.1", hosts: ["127.0.0.1"] },
      { id: "dbserver.1", hosts: ["127.0.0.1", "db1.example"] },
    ]);
    const read = (file: string) => readFileSync(join(place, file), "utf8");
    const ca = read("ca.crt");
    return {
      ca,
      of: (id) => ({ cert: read(`${id}.crt`), key: read(`${id}.key`), ca, mutual: true }),
    };
  }
  const own = made("own");

  function openTls(port: number, shown: Partial<ServerTls>): Line {
    const { mutual: _, ...tls } = shown;
    return lineOf(connectTls({ host: "127.0.0.1", port, ca: own.ca, ...tls }));
  }

  test("who shows one is known by it", async () => {
    const { server, seen } = serve({ tls: own.of("arbitrator.1") });
    const line = openTls(server.port, own.of("dbserver.1"));
    line.socket.write(POST);
    await line.until(/POST \/b 5$/);
    expect(seen).toEqual(["POST /b 5 dbserver.1"]);
  });

  test("who shows none, or one of another authority, gets no answer", async () => {
    const { server, seen } = serve({ tls: own.of("arbitrator.1") });
    const { cert, key } = made("foreign").of("dbserver.1");
    for (const shown of [{}, { cert, key }]) {
      const line = openTls(server.port, shown);
      line.socket.write(POST);
      await line.closed();
      expect(line.text()).toBe("");
    }
    const plain = await open(server.port);
    plain.socket.write(POST);
    await plain.closed();
    expect(seen).toEqual([]);
  });

  test("without mutual proof nobody needs one", async () => {
    const { server, seen } = serve({ tls: { ...own.of("arbitrator.1"), mutual: false } });
    const line = openTls(server.port, {});
    line.socket.write(POST);
    await line.until(/POST \/b 5$/);
    expect(seen).toEqual(["POST /b 5 -"]);
  });

  test("another one is shown from the next connection on; those that are there go on", async () => {
    const { server } = serve({ tls: own.of("arbitrator.1") });
    const before = openTls(server.port, own.of("dbserver.1"));
    before.socket.write(GET);
    await before.until(/GET \/a 0$/);
    server.renew(own.of("dbserver.1"));
    const after = connectTls({ host: "127.0.0.1", port: server.port, ...own.of("dbserver.1") });
    const line = lineOf(after);
    line.socket.write(POST);
    await line.until(/POST \/b 5$/);
    expect(after.getPeerCertificate().subject.CN).toBe("dbserver.1");
    before.socket.write(POST);
    await before.until(/POST \/b 5$/);
    expect(() => server.renew({ ...own.of("dbserver.1"), key: "nonsense" })).toThrow(
      "Cannot listen",
    );
    const again = openTls(server.port, own.of("dbserver.1"));
    again.socket.write(GET);
    await again.until(/GET \/a 0$/);
  });
});

test("stopping answers what is under way, and takes nothing more", async () => {
  const { promise, resolve } = Promise.withResolvers<Response>();
  let asked = 0;
  const { server } = serve({
    fetch() {
      asked++;
      return promise;
    },
  });
  const busy = await open(server.port);
  const resting = await open(server.port);
  resting.socket.write("G");
  busy.socket.write(GET);
  await came("both are there", () => server.connections().strangers === 2 && asked === 1);
  server.stop(false);
  await resting.closed();
  const late = await open(server.port);
  await late.closed();
  resolve(new Response("done"));
  expect(await busy.until(/done$/)).toContain("connection: close");
  await busy.closed();
});

test("a port that is taken is said with its address", () => {
  const { server } = serve();
  expect(() => serve({ port: server.port })).toThrow("Cannot listen");
});
