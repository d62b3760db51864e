/**
 * Handler of wsrep_notify_cmd: tells the watchdog beside this mariadbd what Galera says, and exits.
 *
 *   bun scripts/notify.ts --to http://127.0.0.1:9471 --node dbserver.1 <Galera's arguments>
 *
 * mariadbd applies and commits nothing until this ends. So it ends within 80 ms, with 0, whatever
 * happens; the watchdog's next poll makes up for a notification that was lost. See docs/notify.md.
 */
import { notifyMessage, parseNotify, parseTarget } from "../lib/notify.ts";

/** From the start of the process. */
const EXIT_BY_MS = 80;

// Before all else, so that nothing later can outlast it.
setTimeout(() => process.exit(0), EXIT_BY_MS - performance.now());

// A proxy is never between mariadbd and the watchdog beside it, whatever the environment says.
process.env["NO_PROXY"] = "*";

async function main(): Promise<void> {
  const { to, serial, rest } = parseTarget(process.argv.slice(2), {
    to: process.env["MINDER_NOTIFY_TO"],
    node: process.env["MINDER_NOTIFY_NODE"],
  });
  if (to === null || serial === null) {
    console.error("galera-minder notify: use --to http://HOST:PORT --node dbserver.N");
    return;
  }
  // Pid and time name one life of a process on this host as well as chance would, 0.4 ms sooner.
  const message = notifyMessage(parseNotify(rest), serial, `n${process.pid}-${Date.now()}`);
  // fetch costs 0.8 ms over an empty script, Bun.connect 1.5 ms, node:net 15 ms (medians of 40).
  const response = await fetch(`${to}/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(message),
    redirect: "manual",
  });
  if (!response.ok) console.error(`galera-minder notify: the watchdog answered ${response.status}`);
}

try {
  await main();
} catch {
  console.error("galera-minder notify: the watchdog cannot be reached");
}
process.exit(0);
