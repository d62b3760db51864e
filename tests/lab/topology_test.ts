import { expect, test } from "bun:test";
import { MinderError } from "../../lib/errors.ts";
import { layTopology } from "../../lib/lab/topology.ts";

test("layTopology() gives each host its address, centre and serial", () => {
  const { hosts } = layTopology({ servers: [2, 1], apps: 1 });
  expect(
    hosts.map((host) => `${host.name} ${host.address} ${host.segment} ${host.serial}`),
  ).toEqual([
    "arb 10.77.3.10 null 1",
    "dc1-1 10.77.1.11 dc1 1",
    "dc1-2 10.77.1.12 dc1 2",
    "dc2-1 10.77.2.11 dc2 3",
    "app1 10.77.4.11 dc1 1",
  ]);
});

test("layTopology() refuses what the addresses have no room for", () => {
  for (const servers of [[], [0, 2], [10, 1], [1, 1, 1]]) {
    expect(() => layTopology({ servers })).toThrow(MinderError);
  }
});
