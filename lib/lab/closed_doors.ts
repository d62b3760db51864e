/**
 * A checkout below /root can be entered by root alone. What of it is to run as somebody else gets a view
 * of the files of its own, in which an open directory stands in place of the closed one.
 */
import { statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const CHECKOUT = join(import.meta.dir, "..", "..");
const OTHERS_ENTER = 0o001;

/** The checkout is put aside, the closed directory covered, the checkout put back where it was. */
const STEPS = [
  'mount --bind "$1" "$2"',
  'mount -t tmpfs -o mode=755 none "$3"',
  'mkdir -p "$1"',
  'mount --move "$2" "$1"',
  "cd /",
  "shift 3",
  'exec "$@"',
];

/**
 * Command prefix, for root, through which any user can read this checkout; empty where all can anyway.
 * All of it execs, so the pid stays.
 */
export function throughClosedDoors(): readonly string[] {
  const closed = ancestors(CHECKOUT).find((at) => (statSync(at).mode & OTHERS_ENTER) === 0);
  if (closed === undefined) return [];
  const view = ["unshare", "--mount", "--", "sh", "-c", STEPS.join(" && "), "view"];
  return [...view, CHECKOUT, tmpdir(), closed];
}

/** Directories above a file, the root first. */
function ancestors(file: string): readonly string[] {
  const above = dirname(file);
  return above === file ? [] : [...ancestors(above), above];
}
