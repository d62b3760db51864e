/**
 * HAProxy on an application host, as the lab uses it: it balances by weight and decides nothing.
 * Health checks are off, because which server takes clients is the client minder's decision alone.
 */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MinderError } from "../errors.ts";
import type { LabHost } from "./topology.ts";

/** Backend that holds the servers, under their names. */
export const BACKEND = "galera";

export interface HaproxyFiles {
  readonly host: LabHost;
  readonly config: string;
  /** Runtime API, level admin. */
  readonly socket: string;
  readonly command: readonly string[];
}

/** Writes the configuration. Nothing is started. @throws MinderError if haproxy is missing */
export function prepareHaproxy(options: {
  /** The lab's directory. */
  readonly directory: string;
  readonly host: LabHost;
  readonly servers: readonly LabHost[];
  /** Servers in its table that take no connection until somebody says so. */
  readonly spare?: readonly string[];
  readonly enter: readonly string[];
  /** Loopback labs share 127.0.0.1, so there only the host's own address is listened on. */
  readonly namespaced: boolean;
}): HaproxyFiles {
  const path = `${process.env["PATH"] ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;
  const haproxy = Bun.which("haproxy", { PATH: path });
  if (haproxy === null) {
    throw new MinderError("haproxy is missing", {
      hint: "Install what the lab needs with scripts/setup.ts",
    });
  }
  const { host, servers, spare = [] } = options;
  const directory = join(options.directory, host.name);
  mkdirSync(directory, { recursive: true });
  chmodSync(directory, 0o755);
  const config = join(directory, "haproxy.cfg");
  const socket = join(directory, "haproxy.sock");
  const lines = servers.map(
    (server) =>
      `  server ${server.name} ${server.address}:3306 weight 100${spare.includes(server.name) ? " disabled" : ""}`,
  );
  writeFileSync(
    config,
    `# Of the lab; written anew at each start of it.
global
  stats socket ${socket} mode 600 level admin
  stats timeout 30s
  maxconn 500

defaults
  mode tcp
  # Also how long HAProxy waits before it tries again where a connection was refused.
  timeout connect 50ms
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch 1

frontend mysql
  bind ${host.address}:3306
${options.namespaced ? "  bind 127.0.0.1:3306\n" : ""}  default_backend ${BACKEND}

backend ${BACKEND}
  balance leastconn
${lines.join("\n")}
`,
  );
  // -db: in the foreground, one process, so its pid is the one that was started.
  return { host, config, socket, command: [...options.enter, haproxy, "-db", "-f", config] };
}
