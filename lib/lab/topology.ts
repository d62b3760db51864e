/** Which hosts a lab has and what their addresses are. Plain values; nothing is made here. */
import { MinderError } from "../errors.ts";

/** How many of what. */
export interface TopologyOptions {
  /** Database servers per data centre. @default [2, 2] */
  readonly servers?: readonly number[];
  /** Names of servers that are not there at first: they come later, or never. @default none */
  readonly spare?: readonly string[];
  /** Application hosts. @default 2 */
  readonly apps?: number;
}

export interface LabHost {
  /** `arb`, `dc1-1`, `app1`. */
  readonly name: string;
  readonly role: "arbitrator" | "dbserver" | "app";
  readonly address: string;
  /** `dc1`, `dc2`; null for what is in no data centre. */
  readonly segment: string | null;
  /** Counts from 1 within the role: the serial of its party. */
  readonly serial: number;
}

export interface Topology {
  readonly hosts: readonly LabHost[];
  readonly arbitrator: LabHost;
  readonly servers: readonly LabHost[];
  readonly apps: readonly LabHost[];
}

/** Hosts with addresses 10.77.x.y, or with another `prefix` such as 127.77. @throws MinderError */
export function layTopology(options: TopologyOptions = {}, prefix = "10.77"): Topology {
  const counts = options.servers ?? [2, 2];
  const appCount = options.apps ?? 2;
  // The third byte of the address is the data centre; 3 and 4 are the arbitrator's and the apps'.
  if (counts.length < 1 || counts.length > 2 || counts.some((n) => n < 1 || n > 9)) {
    throw new MinderError(`Cannot lay out ${counts.join("+")} servers: 1 or 2 centres of 1 to 9`);
  }
  const arbitrator: LabHost = {
    name: "arb",
    role: "arbitrator",
    address: `${prefix}.3.10`,
    segment: null,
    serial: 1,
  };
  const servers: LabHost[] = [];
  for (const [index, count] of counts.entries()) {
    for (let n = 1; n <= count; n++) {
      const segment = `dc${index + 1}`;
      const address = `${prefix}.${index + 1}.${10 + n}`;
      const serial = servers.length + 1;
      servers.push({ name: `${segment}-${n}`, role: "dbserver", address, segment, serial });
    }
  }
  const apps: LabHost[] = [];
  for (let n = 1; n <= appCount; n++) {
    const address = `${prefix}.4.${10 + n}`;
    // Applications live in both centres in turn.
    const segment = `dc${((n - 1) % counts.length) + 1}`;
    apps.push({ name: `app${n}`, role: "app", address, segment, serial: n });
  }
  return { hosts: [arbitrator, ...servers, ...apps], arbitrator, servers, apps };
}
