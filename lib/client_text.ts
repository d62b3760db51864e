/** What a client minder does with its balancer, as lines for the person on that host. */
import type { ClientStatus } from "./core/dbclient.ts";
import { ago, table } from "./status_text.ts";

export function clientText(status: ClientStatus): string {
  return [
    `${status.client}, ${status.policy}: ${status.trouble ?? "the balancer is as it should be"}`,
    "",
    ...table([
      ["server", "shall be", "is", "sessions", "heard", "why"],
      ...status.servers.map((server) => [
        server.name,
        server.target ?? "?",
        server.actual ?? "?",
        String(server.sessions ?? "?"),
        server.heardAgoMs === null ? "never" : `${ago(server.heardAgoMs)} ago`,
        [server.because, ...draining(server)].join(", "),
      ]),
    ]),
    ...status.oddities.map((words) => `odd: ${words}`),
  ].join("\n");
}

/** How long a drain lasts, and what becomes of the sessions that are left. */
function draining(server: ClientStatus["servers"][number]): readonly string[] {
  if (server.drainingForMs === null) return [];
  const end =
    server.cutInMs === null ? "in their own time" : `within ${ago(server.cutInMs)}, or are cut`;
  const left = server.sessions === 0 ? "no session is left" : `its sessions end ${end}`;
  return [`for ${ago(server.drainingForMs)}`, left];
}
