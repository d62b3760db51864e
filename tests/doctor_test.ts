/** Every check of the doctor, each by the one setting that is wrong. */
import { describe, expect, test } from "bun:test";
import type { ClusterConfig, DbServerConfig } from "../lib/cluster_config.ts";
import {
  diagnose,
  exitCodeOf,
  findingsText,
  type HostFacts,
  type ServerFacts,
  sizeBytes,
} from "../lib/doctor.ts";
import { grantStatements } from "../lib/grants.ts";
import { durationMs } from "../lib/wsrep_status.ts";
import { coreCluster } from "./support/cores.ts";

const config = coreCluster();
const [server] = config.servers;
if (server === undefined) throw new Error("no server");

const OPTIONS: Readonly<Record<string, string>> = {
  "evs.suspect_timeout": "PT5S",
  "evs.inactive_timeout": "PT15S",
  "evs.keepalive_period": "PT1S",
  "gmcast.peer_timeout": "PT3S",
  "gmcast.segment": "1",
  "gcache.size": "128M",
  "pc.weight": "1",
  "pc.recovery": "true",
  "pc.ignore_sb": "false",
  "pc.ignore_quorum": "false",
};

const VARIABLES: Readonly<Record<string, string>> = {
  version: "10.11.19-MariaDB-log",
  wsrep_notify_cmd: "/opt/minder/notify --node dbserver.1",
  wsrep_cluster_address: "gcomm://db1,db2",
  wsrep_cluster_name: "shop",
  wsrep_on: "ON",
  wsrep_sst_method: "mariabackup",
  wsrep_dirty_reads: "OFF",
  wsrep_desync: "OFF",
  innodb_flush_log_at_trx_commit: "1",
  innodb_doublewrite: "ON",
  innodb_autoinc_lock_mode: "2",
  binlog_format: "ROW",
};

interface Changes {
  readonly variables?: Readonly<Record<string, string>>;
  readonly options?: Readonly<Record<string, string>>;
  readonly facts?: Partial<ServerFacts>;
}

function factsOf(of: DbServerConfig, changes: Changes = {}): ServerFacts {
  const segment = String(1 + config.segments.findIndex(({ name }) => name === of.segment));
  const options = {
    ...OPTIONS,
    "pc.weight": String(of.weight),
    "gmcast.segment": segment,
    ...changes.options,
  };
  return {
    variables: new Map(
      Object.entries({
        ...VARIABLES,
        wsrep_node_name: of.name,
        datadir: `${of.datadir}/`,
        wsrep_provider_options: Object.entries(options)
          .map(([key, value]) => `${key} = ${value}; `)
          .join(""),
        ...changes.variables,
      }),
    ),
    status: new Map([["wsrep_evs_evict_list", ""]]),
    grants: grantStatements({ user: "minder", host: "localhost" }),
    account: { user: "minder", host: "localhost" },
    wsrepInfo: true,
    clock: { offsetMs: 3, errorMs: 5 },
    notify: { blocked: null, user: "uid 101" },
    ...changes.facts,
  };
}

const gated = { ...server, unit: "mariadb.service" };

/** The checks that complain of this one change, as "severity check". */
function complaints(changes: Changes, of: ClusterConfig = config): readonly string[] {
  return diagnose(of, [{ server: gated, facts: factsOf(server as DbServerConfig, changes) }]).map(
    ({ severity, check }) => `${severity} ${check}`,
  );
}

describe("one server", () => {
  test("has nothing to mend as it should be", () => {
    expect(complaints({})).toEqual([]);
  });

  const cases: readonly (readonly [string, Changes])[] = [
    ["error version.notify_hole", { variables: { version: "10.11.17-MariaDB" } }],
    ["warning version.notify_hole", { variables: { version: "11.4.11", wsrep_notify_cmd: "" } }],
    ["warning version.unknown", { variables: { version: "10.5.9-MariaDB" } }],
    ["error name.configured", { variables: { wsrep_node_name: "other" } }],
    ["error address.bootstraps", { variables: { wsrep_cluster_address: "gcomm://" } }],
    ["error datadir.configured", { variables: { datadir: "/srv/elsewhere/" } }],
    ["error wsrep.on", { variables: { wsrep_on: "OFF" } }],
    ["warning plugin.wsrep_info", { facts: { wsrepInfo: false } }],
    ["warning suspect.configured", { options: { "evs.suspect_timeout": "PT6S" } }],
    ["warning suspect.outwait", { options: { "evs.suspect_timeout": "PT4S" } }],
    ["error peer.below_suspect", { options: { "gmcast.peer_timeout": "PT5S" } }],
    ["warning keepalive.often", { options: { "evs.keepalive_period": "PT2S" } }],
    ["error inactive.above_suspect", { options: { "evs.inactive_timeout": "PT3S" } }],
    ["error weight.configured", { options: { "pc.weight": "3" } }],
    ["error quorum.ignored", { options: { "pc.ignore_sb": "true" } }],
    [
      "warning evict.list",
      {
        facts: {
          status: new Map([["wsrep_evs_evict_list", "8da228d3-e6bf-11f1-908e-8b8da57051a0"]]),
        },
      },
    ],
    ["warning notify.set", { variables: { wsrep_notify_cmd: "" } }],
    ["error notify.callable", { facts: { notify: { blocked: "/root/n", user: "uid 101" } } }],
    ["error account.privileges", { facts: { grants: ["GRANT USAGE ON *.* TO `minder`@`%`"] } }],
    [
      "note account.excess",
      { facts: { grants: ["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`"] } },
    ],
    ["warning flush.commit", { variables: { innodb_flush_log_at_trx_commit: "2" } }],
    ["warning flush.doublewrite", { variables: { innodb_doublewrite: "OFF" } }],
    ["error format.row", { variables: { binlog_format: "MIXED" } }],
    ["error autoinc.interleaved", { variables: { innodb_autoinc_lock_mode: "1" } }],
    ["error sst.method", { variables: { wsrep_sst_method: "mysqldump" } }],
    ["note sst.method", { variables: { wsrep_sst_method: "rsync" } }],
    ["warning reads.dirty", { variables: { wsrep_dirty_reads: "ON" } }],
    ["note gcache.size", { options: { "gcache.size": "16M" } }],
    ["warning desync.left", { variables: { wsrep_desync: "ON" } }],
    ["warning clock.offset", { facts: { clock: { offsetMs: -1_500, errorMs: 20 } } }],
  ];
  for (const [complaint, changes] of cases) {
    test(`${complaint}: ${JSON.stringify(changes).slice(0, 60)}`, () => {
      expect(complaints(changes)).toContain(complaint);
    });
  }

  const fine: HostFacts = { socket: { enabled: false, active: false }, fixed: null };
  const hosts: readonly (readonly [readonly string[], HostFacts])[] = [
    [[], fine],
    [[], { ...fine, socket: null }],
    [["warning unit.socket"], { ...fine, socket: { enabled: true, active: false } }],
    [["error unit.socket"], { ...fine, socket: { enabled: false, active: true } }],
    [["warning datadir.fixed"], { ...fine, fixed: "it is a mount point" }],
  ];
  for (const [wanted, host] of hosts) {
    test(`${wanted[0] ?? "nothing"} of its own host: ${JSON.stringify(host)}`, () => {
      const facts = factsOf(server as DbServerConfig);
      const findings = diagnose(config, [{ server: gated, host, facts }]);
      expect(findings.map(({ severity, check }) => `${severity} ${check}`)).toEqual([...wanted]);
      for (const { check, mend } of findings) {
        if (check === "unit.socket") expect(mend).toBe("systemctl disable --now mariadb.socket");
      }
      // That mariadbd is down hides none of it.
      const down = diagnose(config, [{ server: gated, host, error: "refused" }]);
      expect(down.map(({ check }) => check).sort()).toEqual(
        [...findings.map(({ check }) => check), "server.asked"].sort(),
      );
    });
  }

  test("a socket unit is nothing to a server that no unit runs", () => {
    const host = { ...fine, socket: { enabled: true, active: true } };
    const own = { ...server, mariadbd: ["/usr/sbin/mariadbd"] };
    const findings = diagnose(config, [{ server: own as DbServerConfig, host, error: "refused" }]);
    expect(findings.map(({ check }) => check)).toEqual(["server.asked"]);
  });

  test("started by somebody else, without a gate before it", () => {
    const findings = diagnose(config, [
      { server: { ...server, mariadbd: null }, facts: factsOf(server) },
    ]);
    expect(findings.map(({ check }) => check)).toEqual(["gate.missing"]);
  });

  test("that cannot be asked is an error", () => {
    const findings = diagnose(config, [{ server, error: "refused" }]);
    expect(findings).toMatchObject([{ severity: "error", check: "server.asked" }]);
    expect(exitCodeOf(findings)).toBe(2);
  });

  test("where evict is on, periods that make an eviction slow are a warning", () => {
    const on = coreCluster({ evict: "confirmed" });
    const options = { "evs.join_retrans_period": "PT0.2S", "evs.keepalive_period": "PT1S" };
    expect(complaints({ options }, on)).toEqual(["warning evict.periods"]);
    expect(complaints({ options })).toEqual([]);
  });

  test("a clock that may be right by the error of the measurement is not complained of", () => {
    expect(complaints({ facts: { clock: { offsetMs: 1_400, errorMs: 600 } } })).toEqual([]);
  });
});

describe("the cluster", () => {
  function together(change: (of: DbServerConfig) => Changes): readonly string[] {
    const examined = config.servers.map((of) => ({
      server: { ...of, unit: "mariadb.service" },
      facts: factsOf(of, change(of)),
    }));
    return diagnose(config, examined).map(({ severity, check }) => `${severity} ${check}`);
  }

  test("has nothing to mend as it should be", () => {
    expect(together(() => ({}))).toEqual([]);
  });

  test("both data centres in one segment", () => {
    expect(together(() => ({ options: { "gmcast.segment": "0" } }))).toEqual([
      "warning segment.apart",
    ]);
  });

  test("one data centre in two segments", () => {
    const odd = (of: DbServerConfig) =>
      of === server ? { options: { "gmcast.segment": "7" } } : {};
    expect(together(odd)).toEqual(["error segment.one"]);
  });

  test("names and versions that differ", () => {
    const odd = (of: DbServerConfig) =>
      of === server ? { variables: { wsrep_cluster_name: "x", version: "10.11.20-MariaDB" } } : {};
    expect(together(odd)).toEqual(["error cluster.name", "note version.mixed"]);
  });

  test("a heavy segment is a warning, and an error where Galera is faster than a lease", () => {
    const heavy = {
      ...config,
      segments: config.segments.map((segment, index) => ({ ...segment, heavy: index === 0 })),
    };
    expect(complaints({}, heavy)).toEqual(["warning weight.balanced"]);
    expect(complaints({ options: { "evs.suspect_timeout": "PT4S" } }, heavy)).toContain(
      "error suspect.outwait",
    );
  });
});

test("findings are printed with their mend, and counted", () => {
  const findings = diagnose(config, [
    { server: gated, facts: factsOf(server, { options: { "pc.weight": "3" } }) },
  ]);
  expect(findingsText(findings, [server.name])).toBe(
    [
      `error   ${server.name} weight.configured: pc.weight is 3, the config says 1: who stays Primary is not what the minder thinks`,
      "        SET GLOBAL wsrep_provider_options='pc.weight=1'; -- and in my.cnf",
      `${server.name}: 1 errors, 0 warnings, 0 notes`,
    ].join("\n"),
  );
});

test("warnings are exit code 1, notes none", () => {
  const one = { check: "x", server: null, because: "", mend: "" };
  expect(exitCodeOf([{ ...one, severity: "warning" }])).toBe(1);
  expect(exitCodeOf([{ ...one, severity: "note" }])).toBe(0);
});

test("durations and sizes are read as Galera writes them", () => {
  expect([durationMs("PT0.5S"), durationMs("PT1M30S"), durationMs("P1D"), durationMs("5")]).toEqual(
    [500, 90_000, 86_400_000, null],
  );
  expect([sizeBytes("128M"), sizeBytes("1G"), sizeBytes("17"), sizeBytes("x")]).toEqual([
    134_217_728,
    1_073_741_824,
    17,
    null,
  ]);
});
