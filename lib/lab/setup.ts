/**
 * Programs that the lab and the tests need, and their installation on Debian. Fast when nothing is missing: it
 * looks at files only. A service that the packages would start is not left running, and one that
 * ran before is not touched.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { MinderError } from "../errors.ts";
import { tryRun } from "./exec.ts";

/** One thing the lab needs, or a test. */
export interface Need {
  /** Program name, or a file's base name. */
  readonly name: string;
  readonly why: string;
  readonly package: string;
  /** Absolute places where it may be. */
  readonly places: readonly string[];
}

const BIN = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

export const NEEDS: readonly Need[] = [
  program("mariadbd", "mariadb-server", "the database servers of the cluster"),
  {
    name: "libgalera_smm.so",
    why: "Galera, which replicates between them",
    package: "galera-4",
    places: [
      "/usr/lib/galera/libgalera_smm.so",
      "/usr/lib64/galera-4/libgalera_smm.so",
      "/usr/lib64/galera/libgalera_smm.so",
    ],
  },
  program("rsync", "rsync", "state transfers between the servers"),
  program("haproxy", "haproxy", "the load balancer on the application hosts"),
  program("ip", "iproute2", "a network namespace for each host"),
  program("nft", "nftables", "cutting links between them"),
  program("curl", "curl", "asking the minders from the command line"),
];

/** What only tests need: a systemd as a server's host has it, and the two ways to manage units there. */
export const TEST_NEEDS: readonly Need[] = [
  file("/usr/lib/systemd/systemd", "systemd", "units of a real systemd in the tests"),
  file(
    "/usr/lib/systemd/system/dbus.service",
    "dbus",
    "asking that systemd as another user than root",
  ),
  program("sudo", "sudo", "the printed sudoers lines"),
  file("/usr/lib/polkit-1/polkitd", "polkitd", "the printed polkit rule"),
];

const UPDATE_TIMEOUT_MS = 180_000;
const INSTALL_TIMEOUT_MS = 600_000;
const POLICY = "/usr/sbin/policy-rc.d";
const STOP_TIMEOUT_MS = 60_000;
const SYSTEMD = "/run/systemd/system";

interface Service {
  readonly name: string;
  /** Where it runs under the older init scripts. */
  readonly pidFile: string;
}

/** What the packages above would start. */
const SERVICES: readonly Service[] = [
  { name: "mariadb", pidFile: "/run/mysqld/mysqld.pid" },
  { name: "haproxy", pidFile: "/run/haproxy.pid" },
];

/** What this machine is and can do, so that the procedure can be tried without changing it. */
export interface SetupHost {
  exists(file: string): boolean;
  readonly isRoot: boolean;
  /** Runs a program with Debian's questions switched off. */
  apt(
    command: readonly string[],
    timeoutMs: number,
  ): { readonly code: number; readonly output: string };
  say(line: string): void;
}

export type SetupResult =
  | { readonly is: "complete" }
  | { readonly is: "installed"; readonly packages: readonly string[] }
  /** Not root: this is what a person must run. */
  | { readonly is: "refused"; readonly command: string };

/** Which of the needs are missing. */
export function missingNeeds(
  exists: (file: string) => boolean = existsSync,
  needs: readonly Need[] = NEEDS,
): readonly Need[] {
  return needs.filter((need) => !need.places.some(exists));
}

/** Installs what is missing. @throws MinderError if apt-get fails */
export function setup(host: SetupHost = thisHost(), needs: readonly Need[] = NEEDS): SetupResult {
  const exists = (file: string) => host.exists(file);
  const missing = missingNeeds(exists, needs);
  if (missing.length === 0) return { is: "complete" };
  for (const need of missing) host.say(`missing: ${need.name}, for ${need.why} (${need.package})`);
  const packages = [...new Set(missing.map((need) => need.package))];
  const install = ["apt-get", "install", "--yes", "--no-install-recommends", ...packages];
  if (!host.isRoot) {
    const command = `sudo apt-get update && sudo DEBIAN_FRONTEND=noninteractive ${install.join(" ")}`;
    return { is: "refused", command };
  }
  // Package lists that are recent enough need no update; only apt knows, so try without first.
  host.say(`installing ${packages.join(", ")}`);
  let done = host.apt(install, INSTALL_TIMEOUT_MS);
  if (done.code !== 0) {
    host.say("not with the present package lists; updating them");
    const updated = host.apt(["apt-get", "update"], UPDATE_TIMEOUT_MS);
    if (updated.code !== 0) throw aptFailed("update the package lists", updated.output);
    done = host.apt(install, INSTALL_TIMEOUT_MS);
  }
  if (done.code !== 0) throw aptFailed(`install ${packages.join(", ")}`, done.output);
  const still = missingNeeds(exists, needs);
  if (still.length > 0) {
    throw new MinderError(`Still missing: ${still.map((need) => need.name).join(", ")}`, {
      hint: "The packages are installed but do not hold these; is this Debian 12 or newer?",
    });
  }
  return { is: "installed", packages };
}

/** The machine that this runs on. */
export function thisHost(): SetupHost {
  return {
    exists: existsSync,
    isRoot: process.getuid?.() === 0,
    apt(command, timeoutMs) {
      return withoutServices(() => {
        const done = tryRun(["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", ...command], {
          timeoutMs,
        });
        return { code: done.code, output: `${done.stdout}\n${done.stderr}` };
      });
    },
    say(line) {
      console.log(line);
    },
  };
}

/**
 * Keeps maintainer scripts from starting services: invoke-rc.d and deb-systemd-invoke ask
 * policy-rc.d, where 101 means forbidden. One that is there already is left as it is; should it
 * allow starting, what has appeared is stopped afterwards. Restarts are forbidden with it, so a
 * service that ran before runs on.
 */
function withoutServices<Result>(action: () => Result): Result {
  const before = SERVICES.filter(isActive);
  const ours = !existsSync(POLICY);
  if (ours) writeFileSync(POLICY, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    return action();
  } finally {
    if (ours) rmSync(POLICY, { force: true });
    for (const service of SERVICES) {
      if (!before.includes(service) && isActive(service)) stopService(service);
    }
  }
}

function isActive(service: Service): boolean {
  if (existsSync(SYSTEMD)) {
    return tryRun(["systemctl", "is-active", "--quiet", service.name]).code === 0;
  }
  const pid = readPid(service.pidFile);
  return pid !== null && existsSync(`/proc/${pid}`);
}

/** By its own manager, which would restart a killed one. */
function stopService(service: Service): void {
  const command = existsSync(SYSTEMD)
    ? ["systemctl", "stop", service.name]
    : [`/etc/init.d/${service.name}`, "stop"];
  const done = tryRun(command, { timeoutMs: STOP_TIMEOUT_MS });
  if (done.code !== 0) {
    throw new MinderError(`Cannot stop ${service.name}, which its installation started`, {
      where: command.join(" "),
      cause: new Error(done.stderr.trim()),
    });
  }
}

function readPid(file: string): number | null {
  if (!existsSync(file)) return null;
  const pid = Number.parseInt(readFileSync(file, "utf8"), 10);
  return Number.isSafeInteger(pid) && pid > 0 ? pid : null;
}

function aptFailed(what: string, output: string): MinderError {
  const lines = output.trim().split("\n");
  const errors = lines.filter((line) => line.startsWith("E: "));
  return new MinderError(`Cannot ${what}`, {
    where: "apt-get",
    cause: new Error((errors.length > 0 ? errors : lines.slice(-5)).join("; ")),
    hint: "Check the machine's package sources and network",
  });
}

function program(name: string, pack: string, why: string): Need {
  return { name, why, package: pack, places: BIN.map((directory) => `${directory}/${name}`) };
}

function file(path: string, pack: string, why: string): Need {
  return { name: path.slice(path.lastIndexOf("/") + 1), why, package: pack, places: [path] };
}
