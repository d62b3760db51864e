/**
 * A host of a lab that is a whole machine: a real systemd as process 1 of its own namespaces, over the
 * files of this machine.
 *
 * All of this machine's files are there, read-only; /etc is a copy, /run, /var, /tmp and /opt are its
 * own and go with it. It ends, with everything in it, when its process 1 is killed, and what ends a lab
 * ends that: its processes are in the host's network namespace, its control group has the host's name.
 * There is no user namespace, so what a systemd would set for the whole kernel is out of its reach:
 * /proc/sys and /sys are read-only, and the units that load modules or set clocks are masked.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describeError, MinderError } from "../errors.ts";
import { cgroupRoot, makeCgroup } from "./cgroups.ts";
import { type RunOptions, type RunResult, tryRun, until } from "./exec.ts";
import type { Lab } from "./lab.ts";
import { tail } from "./mariadb.ts";

/** A folder or file of this machine that shows up in the other. */
export interface Bind {
  readonly from: string;
  /** In /opt or /var, where there is nothing yet. */
  readonly to: string;
  /** @default false */
  readonly writable?: boolean;
}

export interface MachineOptions {
  readonly binds?: readonly Bind[];
  /** Files of this machine that are empty there: what is not installed. @default none */
  readonly absent?: readonly string[];
}

/** Files and commands of a machine that runs. */
export interface Machine {
  readonly host: string;
  /** Where this process sees its files. No path through it may hold a symlink. */
  readonly root: string;
  /** Runs it inside, as root. @throws MinderError with its words if it fails */
  run(command: readonly string[], options?: RunOptions): string;
  /** The same for one that may fail. */
  tryRun(command: readonly string[], options?: RunOptions): RunResult;
  /** Writes a file inside, of root, with the folders above it. @default mode 0o644 */
  write(file: string, text: string, mode?: number): void;
}

const BOOT_TIMEOUT_MS = 30_000;
const SYSTEMD = "/usr/lib/systemd/systemd";

/** Units that would reach for the kernel or for devices, or that have nothing to do here. */
const MASKED = [
  ...["console-getty.service", "dev-hugepages.mount", "dev-mqueue.mount", "hwclock.service"],
  ...["kmod-static-nodes.service", "proc-sys-fs-binfmt_misc.automount"],
  ...["sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "sys-kernel-debug.mount"],
  ...["sys-kernel-tracing.mount", "systemd-binfmt.service", "systemd-firstboot.service"],
  ...["systemd-hwdb-update.service", "systemd-journal-flush.service", "systemd-logind.service"],
  ...[
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
  ],
  ...["systemd-random-seed.service", "systemd-remount-fs.service", "systemd-sysctl.service"],
  ...[
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
  ],
  ...["systemd-udevd.service", "systemd-update-utmp.service"],
] as const;

/** Why no machine can be booted here; null if it can. */
export function machinesImpossible(): string | null {
  if (process.getuid?.() !== 0) return "not running as root";
  if (!existsSync(SYSTEMD)) return "systemd is missing";
  for (const program of ["unshare", "pivot_root", "setpriv", "nsenter", "mountpoint"]) {
    if (Bun.which(program) === null) return `${program} is missing`;
  }
  if (tryRun(["mountpoint", "/"]).code !== 0)
    return "the root directory is no mount point (a chroot)";
  const root = cgroupRoot();
  if (root === null) return "there is no cgroup2";
  const group = join(root, `gm-probe-${process.pid}`);
  const place = mkdtempSync(join(tmpdir(), "gm-probe-"));
  const mount = 'mount -t tmpfs dev "$1"; mkdir "$1/cgroup"; mount -t cgroup2 cgroup2 "$1/cgroup"';
  const probe = [...UNSHARE, "sh", "-ec", mount, "probe", place];
  try {
    mkdirSync(group);
    const done = tryRun(inCgroup(group, probe));
    return done.code === 0 ? null : `no namespaces of its own: ${done.stderr.trim()}`;
  } catch (error) {
    return `no control group of its own: ${describeError(error)}`;
  } finally {
    tryRun(["rmdir", group]);
    rmSync(place, { recursive: true, force: true });
  }
}

const UNSHARE = [
  ...["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child", "--"],
] as const;

/** It joins the group first, so that the group is the root of what its namespace shows. */
function inCgroup(group: string, command: readonly string[]): readonly string[] {
  return ["sh", "-ec", 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"', "boot", group, ...command];
}

/** Boots a host of the lab and waits until its systemd has started everything. @throws MinderError */
export async function bootMachine(
  lab: Lab,
  host: string,
  options: MachineOptions = {},
): Promise<Machine> {
  const home = join(lab.directory, host);
  mkdirSync(join(home, "root"), { recursive: true });
  const script = join(home, "boot.sh");
  writeFileSync(script, bootScript(join(home, "root"), host, options));
  const group = makeCgroup(lab.name, host);
  const command = inCgroup(group, [...UNSHARE, "sh", "-e", script]);
  const outer = lab.start(host, command, { name: "machine" });
  const inner = (): number | null => {
    const children = tryRun(["cat", `/proc/${outer.pid}/task/${outer.pid}/children`]).stdout;
    return Number(children.trim().split(" ")[0]) || null;
  };
  let enter: readonly string[] = [];
  let said = "";
  try {
    await until(
      `${host} has booted`,
      () => {
        if (outer.ended() !== null) throw new MinderError(`${host} ended while it booted`);
        const pid = inner();
        if (pid === null) return false;
        // Its root too: in a chroot the namespace of its mounts begins above that.
        enter = ["nsenter", `--target=${pid}`, "--all", "--root", "--wd", "--"];
        said = tryRun([...enter, "systemctl", "is-system-running"]).stdout.trim();
        return said === "running" || said === "degraded";
      },
      { timeoutMs: BOOT_TIMEOUT_MS },
    );
  } catch (cause) {
    throw new MinderError(`${host} does not boot: ${said}\n${tail(outer.logFile)}`, { cause });
  }
  const root = `/proc/${inner()}/root`;
  const attempt = (command: readonly string[], how: RunOptions = {}): RunResult =>
    tryRun([...enter, ...command], how);
  return {
    host,
    root,
    tryRun: attempt,
    run(command, how) {
      const done = attempt(command, how);
      if (done.code === 0) return done.stdout;
      const words = (done.stderr.trim() || done.stdout.trim()).slice(-800);
      throw new MinderError(`${command[0]} on ${host} ended with code ${done.code}: ${words}`, {
        where: command.join(" ").slice(0, 400),
      });
    },
    write(file, text, mode = 0o644) {
      const path = `${root}${file}`;
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text);
      chmodSync(path, mode);
    },
  };
}

/** What runs as process 1 of the new namespaces, until it becomes systemd. */
function bootScript(root: string, host: string, options: MachineOptions): string {
  const { binds = [], absent = [] } = options;
  return `# Of the lab: makes the file systems of ${host}, then becomes its systemd.
root=${quoted(root)}
mount --make-rprivate /
mount --bind / "$root"
mount -o remount,bind,ro "$root"
if mountpoint -q /usr; then mount --bind /usr "$root/usr"; mount -o remount,bind,ro "$root/usr"; fi
for each in etc run var opt; do mount -t tmpfs -o mode=755 "$each" "$root/$each"; done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
cp -a /etc/. "$root/etc"
cd "$root/var"
mkdir lib log cache spool tmp
chmod 1777 tmp
ln -s ../run run

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
cd "$root/dev"
for each in null zero full random urandom tty; do : >$each; mount --bind /dev/$each $each; done
mkdir pts shm
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts pts
mount -t tmpfs -o mode=1777 shm shm
ln -s pts/ptmx ptmx
ln -s /proc/self/fd fd
ln -s fd/0 stdin
ln -s fd/1 stdout
ln -s fd/2 stderr
${binds.map(bindLines).join("")}${absent.map((file) => `mount --bind /dev/null "$root"${quoted(file)}\n`).join("")}
cd "$root/etc"
# What is enabled on this machine is not on that one.
rm -rf systemd/system machine-id fstab hostname hosts
mkdir -p systemd/system systemd/journald.conf.d
tr -d - </proc/sys/kernel/random/uuid >machine-id
echo ${host} >hostname
echo 127.0.0.1 localhost ${host} >hosts
hostname ${host}
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\n' >systemd/journald.conf.d/lab.conf
cd systemd/system
printf '[Unit]\\nRequires=sysinit.target dbus.socket\\nAfter=sysinit.target dbus.socket\\n' >default.target
for each in ${MASKED.join(" ")}; do ln -s /dev/null $each; done

cd "$root"
mkdir run/before
pivot_root . run/before
umount -l /run/before
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-mknod \\
  env -i container=galera-minder-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin ${SYSTEMD}
`;
}

function bindLines({ from, to, writable = false }: Bind): string {
  const [source, place] = [quoted(from), `"$root"${quoted(to)}`];
  const made = [
    `mkdir -p "$root"${quoted(dirname(to))}`,
    `if [ -d ${source} ]; then mkdir -p ${place}; else : >${place}; fi`,
    `mount --bind ${source} ${place}`,
    ...(writable ? [] : [`mount -o remount,bind,ro ${place}`]),
  ];
  return `${made.join("\n")}\n`;
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
