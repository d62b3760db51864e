/** What is printed for systemd, polkit and sudo, and that the real tools understand it where they are. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  dropIn,
  polkitRule,
  socketMend,
  socketWarning,
  sudoersLines,
  watchdogUnit,
} from "../lib/systemd.ts";
import { coreCluster } from "./support/cores.ts";
import { makeScratch, removeScratch } from "./support/scratch.ts";

const [server] = coreCluster().servers;
if (server === undefined) throw new Error("no server");
const UNIT = "mariadb.service";
const paths = {
  bun: "/usr/local/bin/bun",
  root: "/opt/galera-minder",
  config: "/etc/galera-minder/cluster.toml",
  user: "mysql",
  stallMs: 4_000,
};

test("a start goes through the gate, and is fenced whatever the arguments file says", () => {
  const text = dropIn(UNIT, server, paths);
  expect(text).toContain(
    "ExecStartPre=/usr/local/bin/bun /opt/galera-minder/scripts/gate.ts --config /etc/galera-minder/cluster.toml --node dbserver.1\n",
  );
  expect(text).toMatch(
    /^ExecStart=\nExecStart=.* --wsrep-reject-queries=ALL .*\$GALERA_MINDER_ARGS$/m,
  );
  expect(text).toContain("EnvironmentFile=-/run/galera-minder/mariadb.service.env\n");
  expect(text).toContain("Restart=no\n");
});

test("the watchdog's own end does not end mariadbd, and it is restarted for ever", () => {
  const text = watchdogUnit(server, paths);
  expect(text).toContain("User=mysql\n");
  expect(text).toContain("Restart=always\n");
  expect(text).not.toMatch(/BindsTo|PartOf|Requires/);
});

test("a watchdog that stands still is killed by systemd, and mariadbd is not told", () => {
  const text = watchdogUnit(server, paths);
  expect(text).toContain("Type=notify\n");
  expect(text).toContain("WatchdogSec=4000ms\n");
  expect(text).toContain("WatchdogSignal=SIGKILL\n");
});

test("the socket unit that would start it behind everybody's back is named, with what mends it", () => {
  expect(socketWarning(UNIT)).toMatch(/^(#.*\n)+$/);
  expect(socketWarning(UNIT)).toContain("#   systemctl disable --now mariadb.socket\n");
  expect(socketMend("mariadb@2.service")).toBe("systemctl disable --now mariadb@2.socket");
});

test("rights are for this unit, this user and these verbs only", () => {
  expect(polkitRule(UNIT, paths)).toContain('action.lookup("unit") == "mariadb.service"');
  const verbs = /\[(.*)\]\.indexOf\(action\.lookup\("verb"\)\) >= 0/.exec(polkitRule(UNIT, paths));
  expect(verbs?.[1]).toBe('"start", "stop", "reset-failed", "kill"');
  expect(polkitRule(UNIT, paths)).toContain('subject.user == "mysql"');
  const rules = sudoersLines(UNIT, paths).split("\n").slice(1).join(" ");
  expect(rules).toStartWith("mysql ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block");
  expect(rules).not.toContain("*");
});

test.skipIf(Bun.which("systemd-analyze") === null)("systemd accepts both units", () => {
  const directory = makeScratch("systemd");
  const program = join(directory, "true");
  writeFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
  const there = { ...paths, bun: program };
  writeFileSync(join(directory, "galera-minder.service"), watchdogUnit(server, there));
  writeFileSync(join(directory, UNIT), `[Service]\nType=notify\nExecStart=${program}\n`);
  mkdirSync(join(directory, `${UNIT}.d`));
  const text = dropIn(UNIT, server, there).replace("/usr/sbin/mariadbd", program);
  writeFileSync(join(directory, `${UNIT}.d`, "galera-minder.conf"), text);
  for (const unit of ["galera-minder.service", UNIT]) {
    const done = Bun.spawnSync(["systemd-analyze", "verify", "--man=no", join(directory, unit)], {
      env: { ...process.env, SYSTEMD_UNIT_PATH: `${directory}:` },
      timeout: 60_000,
    });
    expect(done.stderr.toString()).not.toMatch(/galera-minder|mariadb/);
  }
  removeScratch(directory);
});

test.skipIf(Bun.which("visudo") === null)("sudo accepts its lines", () => {
  const done = Bun.spawnSync(["visudo", "-cf", "-"], {
    stdin: Buffer.from(sudoersLines(UNIT, paths)),
  });
  expect(done.stderr.toString() + done.stdout.toString()).toContain("parsed OK");
});
