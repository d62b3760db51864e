/** The files that let systemd run mariadbd under the watchdog's care, as text. Pure. */
import type { DbServerConfig } from "./cluster_config.ts";
import { WATCHDOG_ENVIRONMENT } from "./runtime.ts";

export interface SystemdPaths {
  /** Absolute path of bun. */
  readonly bun: string;
  /** The folder with scripts/. */
  readonly root: string;
  readonly config: string;
  /** System user of the watchdog; mariadbd's own user may read and mend its data directory. */
  readonly user: string;
  /** A watchdog whose loop stands still for so long is killed and started anew. */
  readonly stallMs: number;
}

/** Arguments file of a unit, on a file system that a restart empties. */
export function argumentsFile(unit: string): string {
  return `/run/galera-minder/${unit}.env`;
}

/** Drop-in of mariadbd's own unit. */
export function dropIn(unit: string, server: DbServerConfig, paths: SystemdPaths): string {
  return `# /etc/systemd/system/${unit}.d/galera-minder.conf
[Service]
# The watchdog restarts it, when the arbitrator says so.
Restart=no
# Written before each start, by the watchdog or by the gate; read again after ExecStartPre.
EnvironmentFile=-${argumentsFile(unit)}
ExecStartPre=${paths.bun} ${paths.root}/scripts/gate.ts --config ${paths.config} --node ${server.id}
# Fenced from its first moment, whatever the file says.
ExecStart=
ExecStart=/usr/sbin/mariadbd $MYSQLD_OPTS $_WSREP_NEW_CLUSTER $_WSREP_START_POSITION --wsrep-reject-queries=ALL --plugin-load-add=wsrep_info $GALERA_MINDER_ARGS
`;
}

/** The watchdog's own unit. */
export function watchdogUnit(server: DbServerConfig, paths: SystemdPaths): string {
  return `# /etc/systemd/system/galera-minder.service
[Unit]
Description=Galera minder beside ${server.name}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
# By then its rights have run out: one that stands still longer fences nothing and helps nobody.
WatchdogSec=${paths.stallMs}ms
# No core dump, and nothing that a process which hangs could keep waiting.
WatchdogSignal=SIGKILL
User=${paths.user}
# A small process: see what it costs in docs/watchdog.md.
${Object.entries(WATCHDOG_ENVIRONMENT)
  .map(([name, value]) => `Environment=${name}=${value}\n`)
  .join(
    "",
  )}ExecStart=${paths.bun} --smol ${paths.root}/scripts/server.ts --config ${paths.config} --node ${server.id}
RuntimeDirectory=galera-minder
RuntimeDirectoryPreserve=yes
StateDirectory=galera-minder
# mariadbd is in its own unit and runs on; the next watchdog adopts it.
Restart=always
RestartSec=1
OOMScoreAdjust=-900
NoNewPrivileges=no

[Install]
WantedBy=multi-user.target
`;
}

/** Lets the watchdog's user do what it needs to this one unit, without a password and without sudo. */
export function polkitRule(unit: string, paths: SystemdPaths): string {
  return `// /etc/polkit-1/rules.d/50-galera-minder.rules
polkit.addRule(function (action, subject) {
  if (action.id == "org.freedesktop.systemd1.manage-units" &&
      action.lookup("unit") == ${JSON.stringify(unit)} &&
      ["start", "stop", "reset-failed", "kill"].indexOf(action.lookup("verb")) >= 0 &&
      subject.user == ${JSON.stringify(paths.user)}) {
    return polkit.Result.YES;
  }
});
`;
}

/** The socket unit that systemd starts that unit by, if there is one. */
export function socketUnit(unit: string): string {
  return unit.replace(/\.service$/, ".socket");
}

/** What it must not do, and the statement against it. */
export function socketWarning(unit: string): string {
  const socket = socketUnit(unit);
  return `# Debian's ${socket}, where it is enabled, holds port 3306 while mariadbd is down: its position
# cannot be read then, so that no start succeeds, and whoever connects tries one. Once, as root:
#   ${socketMend(unit)}
`;
}

/** As doctor prints it too. */
export function socketMend(unit: string): string {
  return `systemctl disable --now ${socketUnit(unit)}`;
}

/** The same where there is no polkit. */
export function sudoersLines(unit: string, paths: SystemdPaths): string {
  const commands = [
    `start --no-block ${unit}`,
    `stop --no-block ${unit}`,
    `reset-failed ${unit}`,
    `kill --signal=SIGKILL ${unit}`,
    `show --property=ActiveState\\,Result ${unit}`,
  ].map((words) => `/usr/bin/systemctl ${words.replaceAll("=", "\\=")}`);
  return `# /etc/sudoers.d/galera-minder
${paths.user} ALL=(root) NOPASSWD: ${commands.join(", \\\n  ")}
`;
}
