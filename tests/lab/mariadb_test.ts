/** What the minder's parts rely on in the server itself, asked of a real one. */
import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../lib/lab/exec.ts";
import { openLab } from "../../lib/lab/lab.ts";
import { connectTo } from "../../lib/lab/mariadb.ts";
import { labDirectory } from "../../lib/lab/remains.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";

const unable = missingNeeds().length > 0;
const LAB = "test-galera";
const TEST_MS = 180_000;
/** How long the command takes while the servers start, and when one has left: longer than any look at them. */
const QUICK_S = 0.2;
const SLOW_S = 3;

const SHOW_SQL =
  "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', 'wsrep_incoming_addresses')";
const PLUGIN_SQL = "SELECT NAME FROM information_schema.WSREP_MEMBERSHIP ORDER BY NAME";

test.skipIf(unable)(
  "a server starts fenced, runs the notify command by sh, and names members only after it",
  async () => {
    const home = `${labDirectory(LAB)}-notify`;
    rmSync(home, { recursive: true, force: true });
    mkdirSync(join(home, "a b"), { recursive: true });
    // Only root may enter, as a checkout in root's home.
    chmodSync(home, 0o700);
    const script = join(home, "a b", "notify.sh");
    const seen = join(home, "seen");
    const pace = join(home, "pace");
    writeFileSync(pace, String(QUICK_S));
    writeFileSync(
      script,
      // Both servers write to it: a line at a time, or two of them may mingle.
      `line=; for word; do line="$line$word|"; done; printf '%s\\n' "$line" >> '${seen}'
sleep "$(cat '${pace}')"
`,
    );
    const lab = await openLab(LAB, {
      servers: [1, 1],
      apps: 0,
      notifyCommand: () => `/bin/sh '${script}' "x y" '$HOME'`,
    });
    try {
      const servers = await lab.startServers({ arguments: ["--wsrep-reject-queries=ALL"] });
      const [after] = await lab.query("dc2-1", "SELECT @@wsrep_provider_options AS options");
      // Short only while the servers meet.
      expect(after?.["options"]).toContain("evs.install_timeout = PT7.5S;");
      expect(after?.["options"]).toContain("evs.join_retrans_period = PT1S;");
      const app = await connectTo(lab.server("dc1-1").socket, lab.secrets.app);
      const insert = "INSERT INTO app.written VALUES ('x', 1, 'y')";
      await expect(app.query(insert)).rejects.toMatchObject({ errno: 1047 });
      await lab.query("dc1-1", "SET GLOBAL wsrep_reject_queries = NONE");
      await app.query(insert);
      app.destroy();

      await until("a notification", () => existsSync(seen), { timeoutMs: 30_000 });
      const [first] = readFileSync(seen, "utf8").split("\n");
      expect(first).toStartWith("x y|$HOME|--status|");
      await until(
        "the last notification of the start",
        () => {
          const lines = readFileSync(seen, "utf8").trim().split("\n");
          return lines.filter((line) => line.includes("--status|synced")).length >= 2;
        },
        { timeoutMs: 60_000 },
      );
      await until("two members", async () => (await lab.query("dc1-1", PLUGIN_SQL)).length === 2, {
        timeoutMs: 30_000,
      });

      // The view changes in the status at once, in the plugin only when the command has ended.
      const watch = await connectTo(lab.server("dc1-1").socket, lab.secrets.minder);
      writeFileSync(pace, String(SLOW_S));
      const stopped = servers.get("dc2-1")?.stop();
      let statusAtMs = 0;
      let membersBehind = 0;
      await until(
        "the plugin's new view",
        async () => {
          const [status] = await watch.query({ sql: SHOW_SQL, rowsAsArray: true });
          const [members] = await watch.query({ sql: PLUGIN_SQL, rowsAsArray: true });
          const shrunk = JSON.stringify(status).includes('"1"');
          const count = Array.isArray(members) ? members.length : 0;
          if (!shrunk) return false;
          if (statusAtMs === 0) {
            statusAtMs = performance.now();
            expect(JSON.stringify(status)).not.toContain("10.77.2.11");
            membersBehind = count;
          }
          return count === 1;
        },
        { timeoutMs: 60_000, pauseMs: 2 },
      );
      expect(membersBehind).toBe(2);
      expect(performance.now() - statusAtMs).toBeGreaterThan((SLOW_S * 1000) / 2);
      watch.destroy();
      await stopped;
    } finally {
      await lab.down();
      rmSync(home, { recursive: true, force: true });
    }
  },
  TEST_MS,
);
