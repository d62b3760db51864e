/** What systemd hears, by a socket of the test's own in its place. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { join } from "node:path";
import { openSdNotify } from "../../lib/effects/sd_notify.ts";
import { type Datagrams, listenForDatagrams } from "../support/datagrams.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

let directory = "";
let systemd: Datagrams | null = null;

beforeEach(() => {
  directory = makeScratch("sd-notify");
});

afterEach(() => {
  systemd?.close();
  systemd = null;
  removeScratch(directory);
});

test("a state is one datagram to the socket that systemd names", () => {
  const path = join(directory, "notify");
  systemd = listenForDatagrams(path);
  const told = openSdNotify({ NOTIFY_SOCKET: path }, 7);
  expect(told?.send("READY=1\nSTATUS=serving")).toBe(true);
  expect(told?.send("WATCHDOG=1")).toBe(true);
  expect(systemd.take()).toBe("READY=1\nSTATUS=serving\n");
  expect(systemd.take()).toBe("WATCHDOG=1\n");
  expect(systemd.take()).toBeNull();
  told?.close();
  expect(told?.send("STOPPING=1")).toBe(false);
});

test("an abstract socket is understood", () => {
  const name = `@galera-minder-test-${process.pid}`;
  systemd = listenForDatagrams(name);
  const told = openSdNotify({ NOTIFY_SOCKET: name }, 7);
  expect(told?.send("READY=1")).toBe(true);
  expect(systemd.take()).toBe("READY=1\n");
  told?.close();
});

test("a systemd that is gone costs an answer, not a wait", () => {
  const told = openSdNotify({ NOTIFY_SOCKET: join(directory, "nobody") }, 7);
  expect(told?.send("READY=1")).toBe(false);
  told?.close();
});

test("nobody is told where no socket is named, or none that is one", () => {
  for (const named of [undefined, "", "relative", "vsock:2:1", `/${"x".repeat(108)}`]) {
    expect(openSdNotify({ NOTIFY_SOCKET: named }, 7)).toBeNull();
  }
});

test("the watched silence counts for the process that it was set for", () => {
  const socket = { NOTIFY_SOCKET: join(directory, "notify") };
  const silence = (more: Readonly<Record<string, string>>) => {
    const told = openSdNotify({ ...socket, ...more }, 7);
    told?.close();
    return told?.silenceMaxMs;
  };
  expect(silence({ WATCHDOG_USEC: "4000000", WATCHDOG_PID: "7" })).toBe(4_000);
  expect(silence({ WATCHDOG_USEC: "4000000" })).toBe(4_000);
  expect(silence({ WATCHDOG_USEC: "4000000", WATCHDOG_PID: "8" })).toBeNull();
  expect(silence({ WATCHDOG_USEC: "many" })).toBeNull();
  expect(silence({})).toBeNull();
});
