import { test } from "bun:test";
import { createGlbd } from "../../lib/effects/glbd.ts";
import { createHaproxy } from "../../lib/effects/haproxy.ts";
import { askParts, GLBD_BIN, GlbdProcess } from "../support/glbd.ts";
import { GlbdDouble } from "../support/glbd_double.ts";
import { HaproxyFixture, hasHaproxy, type NamedServer } from "../support/haproxy.ts";
import { balancerSuite, type Rig } from "./balancer_suite.ts";

function addresses(servers: readonly NamedServer[]): readonly string[] {
  return servers.map(({ port }) => `127.0.0.1:${port}`);
}

async function startHaproxy(servers: readonly NamedServer[]): Promise<Rig> {
  const haproxy = await HaproxyFixture.start({ servers, balance: "leastconn" });
  const { socket, backend, port } = haproxy;
  return {
    driver: () => createHaproxy({ socket, backend }),
    port,
    edit: async ({ name }, weight) => {
      await haproxy.ask(`set server ${backend}/${name} weight ${weight}`);
    },
    kill: () => haproxy.kill(),
    revive: () => haproxy.run(),
    reload: () => haproxy.reload(),
    freeze: () => haproxy.freeze(),
    thaw: () => haproxy.thaw(),
    stop: () => haproxy.stop(),
  };
}

async function startDouble(servers: readonly NamedServer[]): Promise<Rig> {
  const double = await GlbdDouble.start({ destinations: addresses(servers) });
  const socket = `127.0.0.1:${double.controlPort}`;
  return {
    driver: () => createGlbd({ socket }, null),
    port: double.port,
    edit: async ({ port }, weight) => {
      await askParts(double.controlPort, [`127.0.0.1:${port}:${weight}`]);
    },
    kill: () => double.stop(),
    revive: () => double.listen(),
    reload: null,
    freeze: async () => {
      double.faults.silent = true;
    },
    thaw: () => {
      double.faults.silent = false;
    },
    stop: () => double.stop(),
  };
}

async function startGlbd(servers: readonly NamedServer[]): Promise<Rig> {
  const glbd = await GlbdProcess.start({ destinations: addresses(servers) });
  const socket = `127.0.0.1:${glbd.controlPort}`;
  return {
    driver: () => createGlbd({ socket }),
    port: glbd.port,
    edit: async ({ port }, weight) => {
      await glbd.ask(`127.0.0.1:${port}:${weight}`);
    },
    kill: () => glbd.kill(),
    revive: () => glbd.listen(),
    reload: null,
    freeze: () => glbd.freeze(),
    thaw: () => glbd.thaw(),
    stop: () => glbd.stop(),
  };
}

balancerSuite({
  name: "the double of glbd",
  tellsRestarts: false,
  cuts: false,
  reloads: false,
  start: startDouble,
});

if (hasHaproxy) {
  balancerSuite({
    name: "HAProxy",
    tellsRestarts: true,
    cuts: true,
    reloads: true,
    start: startHaproxy,
  });
} else {
  test.skip("HAProxy: it is not installed", () => undefined);
}

if (GLBD_BIN === "") {
  test.skip("the real glbd: GLBD_BIN names no binary", () => undefined);
} else {
  balancerSuite({
    name: `the real glbd (${GLBD_BIN})`,
    tellsRestarts: false,
    // `ss -K` ends sockets of this machine, for root only.
    cuts: process.getuid?.() === 0 && Bun.which("ss") !== null,
    reloads: false,
    start: startGlbd,
  });
}
