import { afterEach, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { glbdCommand, haproxyConfig } from "../lib/balancer_config.ts";
import type { ClusterConfig, DbClientConfig } from "../lib/cluster_config.ts";
import { clientCluster } from "./support/client_cluster.ts";
import { GLBD_BIN } from "./support/glbd.ts";
import {
  freePort,
  HAPROXY,
  hasHaproxy,
  NamedServer,
  namesThrough,
  until,
} from "./support/haproxy.ts";
import { makeScratch, removeScratch } from "./support/scratch.ts";

const EXAMPLE = new URL("../config/cluster.example.toml", import.meta.url).pathname;
const SCRIPT = new URL("../scripts/balancer_config.ts", import.meta.url).pathname;
const COMMON = { client: null, listen: "127.0.0.1:3306", minded: "yes" } as const;

function serverLines(text: string): readonly string[] {
  return text.split("\n").filter((line) => /^\s+server /.test(line));
}

function withPolicy(client: Partial<DbClientConfig>): ClusterConfig {
  return clientCluster({ client });
}

describe("the text", () => {
  test("until the minder has spoken only the first server serves a single writer's clients", () => {
    const config = withPolicy({ policy: "single-writer" });
    expect(serverLines(haproxyConfig(config, COMMON)).map((line) => line.trim())).toEqual([
      "server a1 127.0.0.1:3306 weight 100",
      "server a2 127.0.0.1:3306 weight 100 backup",
      "server b1 127.0.0.1:3306 weight 100 backup",
      "server b2 127.0.0.1:3306 weight 100 backup",
    ]);
    expect(glbdCommand(config, COMMON)).toMatch(
      /--single \\\n.*3306 \\\n\s+\S+:3306:100 \\\n\s+\S+:3306:0 \\\n\s+\S+:3306:0 \\\n\s+\S+:3306:0\n$/,
    );
  });

  test("local-first begins with the near segment, spread with all and their weights", () => {
    const near = withPolicy({ policy: "local-first", segment: "dc2" });
    expect(serverLines(haproxyConfig(near, COMMON)).map((line) => line.includes("backup"))).toEqual(
      [false, false, true, true],
    );
    expect(serverLines(haproxyConfig(near, COMMON))[0]).toContain("server b1 ");
    const all = withPolicy({ policy: "spread", weights: { dc2: 20, a1: 70 } });
    expect(
      serverLines(haproxyConfig(all, COMMON)).map((line) => /weight (\d+)$/.exec(line)?.[1]),
    ).toEqual(["70", "100", "20", "20"]);
  });

  test("without a minder HAProxy asks the watchdogs' own ports", () => {
    const unminded = { ...COMMON, minded: "no" } as const;
    const single = haproxyConfig(withPolicy({}), unminded);
    expect(single).toContain("option httpchk GET /primary");
    expect(serverLines(single)[3]).toEndWith("check port 9200");
    const spread = haproxyConfig(withPolicy({ policy: "spread" }), unminded);
    expect(spread).toContain("option httpchk GET /\n");
    expect(serverLines(spread)[0]).toEndWith(
      "check port 9200 agent-check agent-port 9201 agent-inter 1s",
    );
  });

  test("what cannot work is refused with what to do", () => {
    const several = clientCluster();
    const [client] = several.clients;
    if (client === undefined) throw new Error("no client");
    const two = { ...several, clients: [client, { ...client, id: "dbclient.2" as const }] };
    expect(() => haproxyConfig(two, COMMON)).toThrow("Which client's balancer?");
    expect(haproxyConfig(two, { ...COMMON, client: "dbclient.2" })).toContain("steered");
    expect(() => haproxyConfig(two, { ...COMMON, client: "dbclient.7" })).toThrow("no dbclient.7");
    expect(() => glbdCommand(several, { ...COMMON, minded: "no" })).toThrow("without a client");
    const named = clientCluster({ addresses: { a2: { host: "db2.example", port: 3306 } } });
    expect(() => glbdCommand(named, COMMON)).toThrow("a2 has none");
  });
});

describe("what the balancers make of it", () => {
  const stops: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const stop of stops.splice(0).reverse()) await stop();
  });

  async function accepts(text: string): Promise<string> {
    const directory = makeScratch("config");
    const file = join(directory, "haproxy.cfg");
    writeFileSync(file, text);
    const child = Bun.spawn([HAPROXY, "-c", "-f", file], { stdout: "ignore", stderr: "pipe" });
    const words = await new Response(child.stderr).text();
    removeScratch(directory);
    return (await child.exited) === 0 ? "" : words || "refused";
  }

  test.skipIf(!hasHaproxy)("haproxy -c accepts every policy, minded and not", async () => {
    for (const policy of ["single-writer", "local-first", "spread"] as const) {
      for (const minded of ["yes", "no"] as const) {
        for (const socket of ["/run/haproxy/admin.sock", "127.0.0.1:9999"]) {
          const balancer = { kind: "haproxy", socket, backend: "galera" } as const;
          const text = haproxyConfig(withPolicy({ policy, balancer }), { ...COMMON, minded });
          expect([policy, minded, await accepts(text)]).toEqual([policy, minded, ""]);
        }
      }
    }
  });

  test.skipIf(!hasHaproxy)(
    "the script prints one for the example, and HAProxy accepts it",
    async () => {
      const child = Bun.spawn([process.execPath, SCRIPT, "haproxy", "--config", EXAMPLE], {
        stdout: "pipe",
        stderr: "pipe",
      });
      const text = await new Response(child.stdout).text();
      expect(await new Response(child.stderr).text()).toBe("");
      expect(text).toContain("server db1 ");
      expect(await child.exited).toBe(0);
      // Its names exist nowhere; HAProxy may start all the same.
      expect(await accepts(text)).toBe("");
    },
  );

  test("the script says what is wrong with its call, and ends with 2", async () => {
    for (const [words, expected] of [
      [["nginx"], "Which balancer: nginx was asked for"],
      [["haproxy", "--listen", "x"], '--listen is "x"'],
      [["haproxy", "--client", "dbclient.77"], "There is no dbclient.77"],
    ] as const) {
      const child = Bun.spawn([process.execPath, SCRIPT, ...words, "--config", EXAMPLE], {
        stdout: "ignore",
        stderr: "pipe",
      });
      expect(await new Response(child.stderr).text()).toContain(expected);
      expect(await child.exited).toBeGreaterThan(0);
    }
  });

  test.skipIf(GLBD_BIN === "")(
    "the real glbd starts with it and serves the first server only",
    async () => {
      const servers = await Promise.all(["a1", "a2"].map((name) => NamedServer.start(name)));
      for (const server of servers) stops.push(() => server.stop());
      const addresses = Object.fromEntries(
        servers.map(({ name, port }) => [name, { host: "127.0.0.1", port }]),
      );
      const socket = `127.0.0.1:${await freePort()}`;
      const port = await freePort();
      const text = glbdCommand(
        clientCluster({
          segments: { dc1: ["a1"], dc2: ["a2"] },
          addresses,
          client: { balancer: { kind: "glbd", socket, backend: "galera" } },
        }),
        { ...COMMON, listen: `127.0.0.1:${port}` },
      );
      const here = makeScratch("glbd");
      const script = text
        .replaceAll("/run/glbd.fifo", join(here, "fifo"))
        .replace("exec glbd", `exec ${GLBD_BIN}`);
      const child = Bun.spawn(["sh", "-c", script], { stdout: "ignore", stderr: "ignore" });
      stops.push(async () => {
        child.kill("SIGKILL");
        await child.exited;
        removeScratch(here);
      });
      await until("it serves a1", async () => (await namesThrough(port, 3)).join() === "a1");
    },
  );
});
