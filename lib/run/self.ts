/** Which party of the config this process is. */
import { networkInterfaces } from "node:os";
import { UsageError } from "../cli.ts";
import type { PartyId } from "../message/envelope.ts";

interface Listed {
  readonly id: PartyId;
  readonly host: string;
}

/** Addresses and name of this host. */
function ownHosts(): ReadonlySet<string> {
  const addresses = Object.values(networkInterfaces()).flatMap(
    (each) => each?.map(({ address }) => address) ?? [],
  );
  return new Set([...addresses, process.env["HOSTNAME"] ?? ""]);
}

/**
 * The party named, or the only one whose host is an address of this machine.
 * @param what what is looked for, in words
 * @throws UsageError if there is none, or more than one
 */
export function ownParty<P extends Listed>(
  parties: readonly P[],
  what: string,
  named: string | undefined,
  hosts: ReadonlySet<string> = ownHosts(),
): P {
  const known = parties.map((party) => `${party.id} at ${party.host}`).join(", ");
  if (named !== undefined) {
    const found = parties.find((party) => party.id === named);
    if (found !== undefined) return found;
    throw new UsageError(`--node is ${JSON.stringify(named)}, the config has ${known}`);
  }
  const own = parties.filter((party) => hosts.has(party.host));
  const [first] = own;
  if (first !== undefined && own.length === 1) return first;
  throw new UsageError(
    own.length === 0
      ? `Cannot tell which ${what} this is: no address of this host is in the config`
      : `Cannot tell which ${what} this is: ${own.map((party) => party.id).join(", ")} are all here`,
    { hint: `Say --node ID; the config has ${known}` },
  );
}
