import { afterEach, describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { ask, parseControlAddress } from "../../lib/effects/control_socket.ts";

describe("ask()", () => {
  let server: Server | null = null;
  const sockets: Socket[] = [];
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await new Promise<void>((resolve) => {
      if (server === null) resolve();
      else server.close(() => resolve());
    });
    server = null;
  });

  async function serve(answer: (socket: Socket) => void) {
    const listening = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => socket.destroy());
      answer(socket);
    });
    server = listening;
    await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
    const address = listening.address();
    if (typeof address !== "object" || address === null) throw new Error("no address");
    return { host: "127.0.0.1", port: address.port };
  }

  const signal = (ms = 20_000): AbortSignal => AbortSignal.timeout(ms);

  test("reads to the end, however many pieces that takes", async () => {
    const at = await serve((socket) => {
      socket.write("a");
      setTimeout(() => socket.end("b\n"), 10);
    });
    expect(await ask(at, "x\n", { signal: signal() })).toBe("ab\n");
  });

  test("stops at a whole reply, though the other side keeps the connection", async () => {
    const at = await serve((socket) => socket.write("Ok\n"));
    const isWhole = (reply: string): boolean => reply.endsWith("\n");
    expect(await ask(at, "x\n", { signal: signal(), isWhole })).toBe("Ok\n");
  });

  test("a close before the whole reply is an error", async () => {
    const at = await serve((socket) => socket.end("O"));
    const isWhole = (reply: string): boolean => reply.endsWith("\n");
    await expect(ask(at, "x\n", { signal: signal(), isWhole })).rejects.toThrow("cut short");
  });

  test("silence ends with the signal, also one that has been given before", async () => {
    const at = await serve(() => undefined);
    await expect(ask(at, "x\n", { signal: signal(50) })).rejects.toThrow("no reply in time");
    await expect(ask(at, "x\n", { signal: AbortSignal.abort() })).rejects.toThrow("no reply");
  });

  test("a reply without end is given up", async () => {
    // In one write: a callback that writes again is called before the other side gets its turn.
    const at = await serve((socket) => socket.write("x".repeat(8_388_608)));
    await expect(ask(at, "x\n", { signal: signal(10_000) })).rejects.toThrow("without end");
  });

  test("nobody there is an error", async () => {
    await expect(ask({ path: "/nowhere/x.sock" }, "x\n", { signal: signal() })).rejects.toThrow();
  });
});

test("addresses are paths, names, IPv4 or IPv6 in brackets", () => {
  expect(parseControlAddress("/run/x.sock")).toEqual({ path: "/run/x.sock" });
  expect(parseControlAddress("127.0.0.1:99")).toEqual({ host: "127.0.0.1", port: 99 });
  expect(parseControlAddress("[::1]:99")).toEqual({ host: "::1", port: 99 });
  expect(parseControlAddress("lb.example:99")).toEqual({ host: "lb.example", port: 99 });
  for (const text of ["x.sock", "::1:99", "h:", "h:0", "h:65536", "h:1 ", ""]) {
    expect(() => parseControlAddress(text)).toThrow("control socket");
  }
});
