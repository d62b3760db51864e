import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tryRun } from "../../lib/lab/exec.ts";
import { BACKEND, prepareHaproxy } from "../../lib/lab/haproxy.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { layTopology } from "../../lib/lab/topology.ts";

const unable = missingNeeds().some((need) => need.name === "haproxy");

test.skipIf(unable)("the configuration is what HAProxy accepts, and checks no server", () => {
  const directory = mkdtempSync(join(tmpdir(), "gm-haproxy-"));
  try {
    const { apps, servers } = layTopology();
    const [host] = apps;
    if (host === undefined) throw new Error("no application host");
    const files = prepareHaproxy({ directory, host, servers, enter: [], namespaced: true });
    const text = readFileSync(files.config, "utf8");
    expect(text).toContain(`backend ${BACKEND}`);
    for (const { name, address } of servers)
      expect(text).toContain(`server ${name} ${address}:3306`);
    // A health check would take decisions away from the minder.
    expect(text).not.toMatch(/\bcheck\b/);
    const checked = tryRun([files.command[0] ?? "", "-c", "-f", files.config]);
    expect(`${checked.stdout}${checked.stderr}`).not.toMatch(/WARNING|ALERT/);
    expect(checked.code).toBe(0);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
