/**
 * Handler of wsrep_notify_cmd: tells the watchdog beside this mariadbd what Galera says, and exits.
 *
 *   bun scripts/notify.ts --to http://127.0.0.1:9471 --node dbserver.1 <Galera's arguments>
 *
 * mariadbd applies and commits nothing until this ends. So it ends within 80 ms, with 0, whatever
 * happens; the watchdog's next poll makes up for a notification that was lost. Where no watchdog takes
 * it at all, and `--socket PATH` says where mariadbd is, it closes the door of a server that is not
 * Primary or comes back: one second more at most. See docs/notify.md.
 */
import { closesUnanswered, notifyMessage, parseNotify, parseTarget } from "../lib/notify.ts";

/** From the start of the process. */
const EXIT_BY_MS = 80;
/** How long a watchdog may take before the door is closed without it. */
const UNANSWERED_MS = 70;
/** From then on. It holds up nobody: the server is not Primary, or does not serve yet. */
const FENCE_MS = 1000;

// Before all else, so that nothing later can outlast it.
let closes = false;
setTimeout(() => closes || process.exit(0), Math.max(1, EXIT_BY_MS - performance.now()));

// A proxy is never between mariadbd and the watchdog beside it, whatever the environment says.
process.env["NO_PROXY"] = "*";

async function main(): Promise<void> {
  const { to, serial, socket, user, rest } = parseTarget(process.argv.slice(2), {
    to: process.env["MINDER_NOTIFY_TO"],
    node: process.env["MINDER_NOTIFY_NODE"],
  });
  if (to === null || serial === null) {
    console.error("galera-minder notify: use --to http://HOST:PORT --node dbserver.N");
    return;
  }
  // Pid and time name one life of a process on this host as well as chance would, 0.4 ms sooner.
  const notify = parseNotify(rest);
  const message = notifyMessage(notify, serial, `n${process.pid}-${Date.now()}`);
  const closing = closesUnanswered(notify);
  closes = socket !== null && closing !== "no";
  // fetch costs 0.8 ms over an empty script, Bun.connect 1.5 ms, node:net 15 ms (medians of 40).
  const posted = fetch(`${to}/messages`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(message),
    redirect: "manual",
  });
  const response = await (closes ? Promise.race([posted, unanswered()]) : posted).catch(() => null);
  if (response === null) {
    console.error("galera-minder notify: the watchdog cannot be reached");
    if (socket !== null && closes)
      await closeDoor(socket, { user, unlessPrimary: closing === "unless_primary" });
  } else if (!response.ok)
    console.error(`galera-minder notify: the watchdog answered ${response.status}`);
}

async function unanswered(): Promise<null> {
  await Bun.sleep(Math.max(0, UNANSWERED_MS - performance.now()));
  return null;
}

/** Nobody is there to see where the server has been: it takes no clients until a watchdog has. */
async function closeDoor(
  socket: string,
  how: { readonly user: string; readonly unlessPrimary: boolean },
): Promise<void> {
  setTimeout(() => process.exit(0), FENCE_MS);
  // Loaded only here: a second module costs the usual call 1.5 ms.
  const { fenceTalk } = await import("../lib/notify_fence.ts");
  const talk = fenceTalk(how.user, how);
  const ended = await new Promise<string>((resolve, reject) => {
    Bun.connect({
      unix: socket,
      socket: {
        data(connection, bytes) {
          const { send, ended } = talk.hear(bytes);
          if (send !== null) connection.write(send);
          if (ended !== null) resolve(ended);
        },
        close: () => resolve("the connection ended"),
        error: (_connection, error) => reject(error),
      },
    }).catch(reject);
  });
  console.error(
    `galera-minder notify: ${ended === "" ? "the door is closed, or it is Primary again" : ended}`,
  );
}

try {
  await main();
} catch (error) {
  console.error(`galera-minder notify: ${error instanceof Error ? error.message : error}`);
}
process.exit(0);
