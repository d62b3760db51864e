import { afterEach, describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { Connections, type Exchange, exchange } from "../../lib/effects/http_client.ts";

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

/** A server that answers each request, which it keeps whole, with the given bytes. */
class RawServer {
  readonly requests: string[] = [];
  readonly sockets = new Set<Socket>();
  opened = 0;
  readonly #server: Server;
  port = 0;

  constructor(answer: (socket: Socket) => void) {
    this.#server = createServer((socket) => {
      this.opened++;
      this.sockets.add(socket);
      socket.on("close", () => this.sockets.delete(socket));
      socket.on("error", () => socket.destroy());
      let pending = "";
      socket.on("data", (chunk) => {
        // One character for each byte, so that lengths agree.
        pending += chunk.toString("latin1");
        const head = pending.indexOf("\r\n\r\n");
        const length = Number(/content-length: (\d+)/.exec(pending)?.[1] ?? 0);
        if (head < 0 || pending.length < head + 4 + length) return;
        this.requests.push(Buffer.from(pending, "latin1").toString());
        pending = "";
        answer(socket);
      });
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const address = this.#server.address();
    this.port = typeof address === "object" && address !== null ? address.port : 0;
    closers.push(async () => {
      for (const socket of this.sockets) socket.destroy();
      await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    });
    return this;
  }

  post(options: Partial<Exchange> = {}) {
    return exchange({
      url: new URL(`http://127.0.0.1:${this.port}/messages`),
      headers: { "content-type": "application/json" },
      body: "{}",
      timeoutMs: 20_000,
      replyMaxBytes: 100,
      ...options,
    });
  }
}

async function answering(...parts: readonly string[]): Promise<RawServer> {
  return await new RawServer((socket) => {
    void (async () => {
      for (const part of parts) {
        socket.write(part);
        await Bun.sleep(2);
      }
    })();
  }).start();
}

const OK = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async function textOf(reply: Promise<{ readonly body: Uint8Array }>): Promise<string> {
  return new TextDecoder().decode((await reply).body);
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within 30 s: ${condition}`);
    await Bun.sleep(1);
  }
}

describe("exchange()", () => {
  test("writes one whole request, its length counted in bytes", async () => {
    const server = await answering(OK);
    expect(await textOf(server.post({ body: "ü" }))).toBe("ok");
    expect(server.requests).toEqual([
      expect.stringMatching(
        /^POST \/messages HTTP\/1\.1\r\nhost: 127\.0\.0\.1:\d+\r\ncontent-type: application\/json\r\ncontent-length: 2\r\n\r\nü$/,
      ),
    ]);
  });

  test("keeps one connection for posts that follow each other", async () => {
    const server = await answering(OK);
    for (let round = 0; round < 5; round++) await server.post();
    expect(server.opened).toBe(1);
  });

  test("opens others for posts at once, and keeps two of them", async () => {
    const server = await answering(OK);
    await Promise.all([1, 2, 3, 4].map(() => server.post()));
    expect(server.opened).toBe(4);
    await until(() => server.sockets.size === 2);
    await Promise.all([server.post(), server.post()]);
    expect(server.opened).toBe(4);
  });

  test("leaves no two hundred peers without their connection", async () => {
    const servers = await Promise.all(Array.from({ length: 200 }, () => answering(OK)));
    for (let round = 0; round < 3; round++) {
      await Promise.all(servers.map((server) => server.post()));
    }
    expect(new Set(servers.map(({ opened }) => opened))).toEqual(new Set([1]));
  });

  test("keeps the connections of two parties of one process apart", async () => {
    const server = await answering(OK);
    const parties = [new Connections(), new Connections()];
    for (let round = 0; round < 3; round++) {
      for (const connections of parties) await server.post({ connections });
    }
    expect(server.opened).toBe(2);
    parties[0]?.close();
    await until(() => server.sockets.size === 1);
    await server.post({ connections: parties[1] as Connections });
    expect(server.opened).toBe(2);
    parties[1]?.close();
    await until(() => server.sockets.size === 0);
  });

  test("takes a new connection where the peer has closed the resting one", async () => {
    const server = await answering(OK);
    await server.post();
    for (const socket of server.sockets) socket.end();
    await until(() => server.sockets.size === 0);
    expect(await textOf(server.post())).toBe("ok");
    expect(server.opened).toBe(2);
  });

  test("reads replies in pieces, in chunks, after a 100, and up to the connection's end", async () => {
    const replies: readonly (readonly string[])[] = [
      ["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 4\r\n\r", "\nab", "cd"],
      [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r",
        "\n2\r\ncd\r\n0\r\n\r\n",
      ],
      ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"],
    ];
    for (const parts of replies) {
      const server = await answering(...parts);
      expect(await textOf(server.post())).toBe("abcd");
      expect(await textOf(server.post())).toBe("abcd");
      expect(server.opened).toBe(1);
    }
    const closing = await new RawServer((socket) => {
      socket.end("HTTP/1.0 200 OK\r\n\r\nabcd");
    }).start();
    expect(await textOf(closing.post())).toBe("abcd");
  });

  test("does not use a connection again that the reply ends, or that has more to say", async () => {
    for (const reply of [
      "HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok",
      `${OK}HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold`,
    ]) {
      const server = await answering(reply);
      expect(await textOf(server.post())).toBe("ok");
      expect(await textOf(server.post())).toBe("ok");
      expect(server.opened).toBe(2);
    }
  });

  test("refuses what is no HTTP, and what breaks a bound", async () => {
    const cases: readonly (readonly [string, RegExp])[] = [
      ["hello\r\n\r\n", /no HTTP/],
      ["HTTP/1.1 200 OK\r\nx\r\n\r\n", /without a name/],
      ["HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", /no number/],
      ["HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", /more than 100 bytes/],
      [`HTTP/1.1 200 OK\r\n\r\n${"x".repeat(101)}`, /more than 100 bytes/],
      ["HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", /comes gzip/],
      ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", /chunks are broken/],
      ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n", /more than 100 bytes/],
      [`HTTP/1.1 200 OK\r\nx: ${"y".repeat(17_000)}`, /head has more than/],
    ];
    for (const [reply, expected] of cases) {
      const server = await answering(reply);
      await expect(server.post()).rejects.toThrow(expected);
      await until(() => server.sockets.size === 0);
    }
    const server = await new RawServer((socket) => socket.end("HTTP/1.1 200 OK\r\n")).start();
    await expect(server.post()).rejects.toThrow("closed before the reply");
    await expect(server.post({ url: new URL("ftp://127.0.0.1/") })).rejects.toThrow("ftp:");
    await expect(server.post({ headers: { x: "a\r\nb: c" } })).rejects.toThrow("not plain text");
  });

  test("gives up at its time limit or when told to, and closes the connection", async () => {
    const silent = await answering();
    await expect(silent.post({ timeoutMs: 30 })).rejects.toThrow("No reply within 30 ms");
    await until(() => silent.sockets.size === 0);
    const stop = new AbortController();
    const stopped = silent.post({ signal: stop.signal });
    await until(() => silent.requests.length === 2);
    stop.abort();
    await expect(stopped).rejects.toThrow("Stopped");
    await until(() => silent.sockets.size === 0);
    await expect(silent.post({ signal: AbortSignal.abort() })).rejects.toThrow("Stopped");
    expect(silent.requests.length).toBe(2);
  });

  test("a resting connection keeps no process alive", async () => {
    const server = await answering(OK);
    const module = JSON.stringify(new URL("../../lib/effects/http_client.ts", import.meta.url));
    const program = `
      import { exchange } from ${module};
      const url = new URL("http://127.0.0.1:${server.port}/messages");
      const { status } = await exchange({ url, headers: {}, body: "{}", timeoutMs: 20000, replyMaxBytes: 9 });
      const answeredAt = performance.now();
      process.on("exit", () => console.log(status, performance.now() - answeredAt));`;
    const child = Bun.spawn([process.execPath, "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
      timeout: 60_000,
    });
    const [status, restedMs] = (await new Response(child.stdout).text()).split(" ").map(Number);
    expect([await child.exited, status]).toEqual([0, 200]);
    // Resting connections are closed after 7 s.
    expect(restedMs).toBeLessThan(5_000);
  });
});
