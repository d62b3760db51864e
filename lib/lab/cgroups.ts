/**
 * A control group for a host of a lab, which a systemd of its own needs: made beside all others, below
 * the root of the hierarchy, found again by its name, and removed with the lab.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { MinderError } from "../errors.ts";
import { until } from "./exec.ts";
import { namespaceOf } from "./network.ts";

/** The kernel empties a group a moment after its last process has ended. */
const EMPTY_TIMEOUT_MS = 5_000;

/** Where the hierarchy of version 2 is; null without one. A machine that has both has it without controllers. */
export function cgroupRoot(
  mountinfo = readFileSync("/proc/self/mountinfo", "utf8"),
): string | null {
  for (const line of mountinfo.split("\n")) {
    // proc(5): optional fields end with a lone dash, the kind of file system follows.
    const [before = "", after = ""] = line.split(" - ");
    if (after.startsWith("cgroup2 ")) return before.split(" ")[4] ?? null;
  }
  return null;
}

/** Makes the group of a host; as its namespace is called. @throws MinderError without cgroup2 */
export function makeCgroup(lab: string, host: string): string {
  const root = cgroupRoot();
  if (root === null) throw new MinderError("Cannot make a control group: there is no cgroup2");
  const path = join(root, namespaceOf(lab, host));
  mkdirSync(path);
  return path;
}

/** Groups that exist under that lab's name. */
export function cgroupsOf(lab: string): readonly string[] {
  const root = cgroupRoot();
  if (root === null || !existsSync(root)) return [];
  // As with namespaces, "gm-demo-" must not match a lab named "demo-2".
  const host = /^(arb|app\d+|dc\d+-\d+)$/;
  const prefix = namespaceOf(lab, "");
  return readdirSync(root)
    .filter((name) => name.startsWith(prefix) && host.test(name.slice(prefix.length)))
    .map((name) => join(root, name));
}

/** Removes the groups of a lab with all below them. Processes in them must have ended. */
export async function removeCgroups(lab: string): Promise<number> {
  const groups = cgroupsOf(lab);
  for (const group of groups) {
    await until(`${group} is empty`, () => removeTree(group), { timeoutMs: EMPTY_TIMEOUT_MS });
  }
  return groups.length;
}

/** False while the kernel still counts a process in it. */
function removeTree(group: string): boolean {
  try {
    for (const entry of readdirSync(group, { withFileTypes: true })) {
      if (entry.isDirectory() && !removeTree(join(group, entry.name))) return false;
    }
    rmdirSync(group);
    return true;
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ENOENT") return true;
    if (code === "EBUSY") return false;
    throw new MinderError("Cannot remove a control group", { where: group, cause });
  }
}
