import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Link, type MysqlError, readPassword } from "../../lib/effects/mysql_link.ts";

/** A server that lets a client wait. */
function silentServer(): { readonly port: number; stop(): void; readonly opened: () => number } {
  let opened = 0;
  const server = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open: () => {
        opened++;
      },
      data: () => undefined,
    },
  });
  return { port: server.port, stop: () => server.stop(true), opened: () => opened };
}

describe("a link", () => {
  test("opens one connection for all who ask at once, each within a bound of its own", async () => {
    const server = silentServer();
    const link = new Link(
      { address: { host: "127.0.0.1", port: server.port }, user: "x", passwordFile: null },
      "test",
      "SELECT 1",
    );
    const asked = [link.query("SELECT 1", 100), link.query("SELECT 2", 30_000)];
    const outcomes = await Promise.allSettled(asked);
    for (const outcome of outcomes) {
      expect(outcome.status).toBe("rejected");
      if (outcome.status === "rejected") {
        expect((outcome.reason as MysqlError).kind).toBe("timeout");
        expect((outcome.reason as MysqlError).message).toContain("(test)");
      }
    }
    expect(server.opened()).toBe(1);
    link.close();
    server.stop();
  });

  test("answers no more once it is closed, and runs nothing on a connection that is another", async () => {
    const link = new Link(
      { address: { socketPath: "/nonexistent/socket" }, user: "x", passwordFile: null },
      "test",
      "SELECT 1",
    );
    expect(link.where).toBe("/nonexistent/socket");
    expect(await link.queryOn(7, "SELECT 1", 100).catch(({ kind }) => kind)).toBe("lost");
    expect(await link.query("SELECT 1", 100).catch(({ kind }) => kind)).toBe("unreachable");
    link.close();
    expect(await link.query("SELECT 1", 100).catch(({ message }) => message)).toContain("closed");
  });
});

test("a password is the first line of its file", () => {
  const folder = mkdtempSync(join(tmpdir(), "password-"));
  const file = join(folder, "password");
  writeFileSync(file, "secret word\r\nnote\n");
  expect(readPassword(file)).toBe("secret word");
  rmSync(folder, { recursive: true });
  expect(() => readPassword(file)).toThrow("Cannot read the database password");
});
