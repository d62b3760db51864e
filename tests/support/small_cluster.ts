/** The smallest config with a party of each kind, for tests that need one and not what is in it. */
import { type ClusterConfig, parseClusterConfig } from "../../lib/cluster_config.ts";

export function smallCluster(timing: Readonly<Record<string, number>> = {}): ClusterConfig {
  return parseClusterConfig(
    {
      version: 7,
      cluster: { name: "small", primary_segment: "dc1" },
      timing,
      arbitrator: [{ serial: 1, host: "10.0.3.1" }],
      dbserver: [
        { serial: 1, name: "db1", segment: "dc1", host: "10.0.1.1" },
        { serial: 2, name: "db2", segment: "dc2", host: "10.0.2.1" },
      ],
      dbclient: [{ serial: 1, host: "10.0.1.9", balancer: { socket: "/run/haproxy.sock" } }],
    },
    "the test's own config",
  );
}
