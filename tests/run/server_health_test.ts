import { expect, test } from "bun:test";
import { createLog } from "../../lib/log.ts";
import { serveHealth } from "../../lib/run/server_health.ts";
import { systemClock } from "../../lib/wakeup.ts";
import { servingServer } from "../support/cores.ts";
import { freePort, NamedServer } from "../support/haproxy.ts";

test("the watchdog's state is served on one port, though the other one is taken", async () => {
  const taken = await NamedServer.start("somebody else");
  const lines: string[] = [];
  const story = servingServer("a1");
  const real = systemClock();
  // The story's own clock: what its state holds is dated by it.
  const clock = { ...real, now: () => story.now };
  const self = {
    ...story.self,
    host: "127.0.0.1",
    healthPort: await freePort(),
    agentPort: taken.port,
  };
  const log = createLog({
    role: "dbserver",
    node: self.id,
    wall: real.wall,
    sink: (line) => lines.push(line),
  });
  const health = await serveHealth({
    config: () => story.config,
    self,
    state: () => story.state,
    clock,
    log,
  });
  try {
    const ask = async (path: string): Promise<number> => {
      const url = `http://127.0.0.1:${self.healthPort}${path}`;
      return (await fetch(url, { signal: AbortSignal.timeout(20_000) })).status;
    };
    expect([await ask("/"), await ask("/primary"), await ask("/liveness")]).toEqual([
      200, 200, 200,
    ]);
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      { level: "warn", event: "health_port_taken", what: "agent", port: taken.port },
    ]);
    // Its last poll ages with the clock: nobody is told what nobody knows any more.
    story.now += story.config.timing.suspectMs + 1;
    expect([await ask("/"), await ask("/liveness")]).toEqual([503, 503]);
  } finally {
    await health.stop();
    await taken.stop();
  }
  await expect(
    fetch(`http://127.0.0.1:${self.healthPort}/`, { signal: AbortSignal.timeout(20_000) }),
  ).rejects.toThrow();
});
