/** A systemd of its own for a host of a lab, and that nothing of it is left, however it ended. */
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { cgroupRoot, cgroupsOf } from "../../lib/lab/cgroups.ts";
import { until } from "../../lib/lab/exec.ts";
import { openLab, removeLab } from "../../lib/lab/lab.ts";
import { bootMachine, machinesImpossible } from "../../lib/lab/machine.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { say } from "../support/watched_lab.ts";

const LAB = "test-machine";
const TEST_MS = 60_000;
const unable = machinesImpossible() ?? namespacesImpossible() ?? missingNeeds()[0]?.why ?? null;
if (unable !== null) say(`machine: skipped, ${unable}`);

test.skipIf(unable !== null)(
  "a machine runs units of its own, and this one's files stay as they are",
  async () => {
    const lab = await openLab(LAB, { servers: [1], apps: 0 });
    try {
      const machine = await bootMachine(lab, "dc1-1", {
        binds: [{ from: lab.server("dc1-1").config, to: "/opt/lab/my.cnf" }],
        absent: ["/usr/bin/galera_recovery"],
      });
      machine.write(
        "/etc/systemd/system/one.service",
        "[Service]\nUser=mysql\nExecStart=sleep 300\n",
      );
      machine.run(["systemctl", "start", "one.service"]);
      const pid = machine.run([
        "systemctl",
        "show",
        "--property=MainPID",
        "--value",
        "one.service",
      ]);
      expect(machine.run(["ps", "-o", "user=,comm=", pid.trim()])).toMatch(/^mysql +sleep\n$/);
      expect(machine.run(["readlink", "/proc/1/exe"])).toContain("systemd");
      expect(machine.run(["hostname"])).toBe("dc1-1\n");
      expect(machine.run(["ip", "-brief", "address"])).toContain("10.77.1.11/16");
      expect(machine.run(["cat", "/opt/lab/my.cnf"])).toContain("wsrep_node_name = dc1-1");
      expect(machine.run(["cat", "/usr/bin/galera_recovery"])).toBe("");
      // What it may not change for all.
      const refused = ["/usr/one", "/opt/lab/my.cnf", "/proc/sys/kernel/hostname", "/sys/one"];
      for (const file of refused) {
        expect(machine.tryRun(["sh", "-c", `echo 1 >>${file}`]).stderr).toMatch(/[Rr]ead-only/);
      }
      expect(hostname()).not.toBe("dc1-1");
      expect(existsSync("/etc/systemd/system/one.service")).toBe(false);
    } finally {
      await lab.down();
    }
    expect(cgroupsOf(LAB)).toEqual([]);
  },
  TEST_MS,
);

test.skipIf(unable !== null)(
  "what is left of an interrupted one is taken away by the next of that name",
  async () => {
    const lab = await openLab(LAB, { servers: [1], apps: 0 });
    const machine = await bootMachine(lab, "dc1-1");
    machine.run(["systemd-run", "--unit=left", "sleep", "300"]);
    expect(cgroupsOf(LAB)).toHaveLength(1);
    expect(cgroupsOf("test")).toEqual([]);
    expect(lab.processes("dc1-1").map(({ command }) => command)).toContain("sleep");
    // As after a kill: nobody has called down().
    const removed = await removeLab(LAB);
    expect(removed.processes).toBeGreaterThan(3);
    expect(removed.directory).toBe(true);
    await until("its processes are gone", () => lab.processes("dc1-1").length === 0, {
      timeoutMs: 5_000,
    });
    expect(cgroupsOf(LAB)).toEqual([]);
    await lab.down();
  },
  TEST_MS,
);

test("the hierarchy of version 2 is found beside those of version 1", () => {
  const lines = [
    "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755",
    "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw",
    "32 30 0:28 / /sys/fs/cgroup/cpu rw,nosuid shared:11 - cgroup cgroup rw,cpu",
  ];
  expect(cgroupRoot(lines.join("\n"))).toBe("/sys/fs/cgroup/unified");
  expect(cgroupRoot(lines[0])).toBeNull();
});
