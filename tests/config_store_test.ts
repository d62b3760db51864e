/** Documents for the database: what they may say, how they differ, what a process does with one it finds. */
import { describe, expect, test } from "bun:test";
import { type ClusterConfig, parseClusterConfig } from "../lib/cluster_config.ts";
import {
  activate,
  changeText,
  diffDocuments,
  impossibleChanges,
  isNodeFile,
  localize,
  localKeys,
  offer,
  parseNodeFile,
  restamp,
  ruleChanges,
  rulesText,
  type Shelf,
} from "../lib/config_store.ts";
import type { ConfigMark } from "../lib/message/dbserver.ts";

function server(serial: number, segment: string, more: object = {}): object {
  return { serial, name: `db${serial}`, segment, host: `db${serial}.example.net`, ...more };
}

function documentOf(servers: readonly object[], more: object = {}): object {
  return {
    version: 1,
    cluster: { name: "shop", primary_segment: "dc1" },
    arbitrator: [{ serial: 1, host: "arb.example.net" }],
    dbserver: servers,
    ...more,
  };
}

const TWO = [server(1, "dc1"), server(2, "dc1"), server(3, "dc2"), server(4, "dc2")];
const THREE = [...TWO, server(5, "dc1")];

function configOf(value: object): ClusterConfig {
  return parseClusterConfig(localize(value, null), "test");
}

const NODE = {
  node: { id: "dbserver.2", state_dir: "/state" },
  database: { addresses: ["/run/mysqld.sock", "db1:3306"] },
  local: { mariadbd: ["/bin/mariadbd"], datadir: "/data", password_file: "/secret" },
};

describe("a node's own file", () => {
  test("is told from a site file by its tables", () => {
    expect(isNodeFile(NODE)).toBe(true);
    expect(isNodeFile(documentOf(TWO))).toBe(false);
    expect(isNodeFile([])).toBe(false);
  });

  test("has defaults, and names the key that is wrong", () => {
    const node = parseNodeFile(NODE, "node.toml");
    expect(node.database.user).toBe("minder_config");
    expect(node.local.user).toBe("minder");
    for (const [wrong, key] of [
      [{ ...NODE, node: { id: "server one" } }, "node.id"],
      [{ ...NODE, database: { addresses: [] } }, "database.addresses"],
      [{ ...NODE, database: { addresses: ["nowhere"] } }, "database.addresses.0"],
      [{ ...NODE, local: { datadir: "relative" } }, "local.datadir"],
      [{ ...NODE, extra: 1 }, "extra"],
    ] as const) {
      expect(() => parseNodeFile(wrong, "node.toml")).toThrow(`file: ${key}`);
    }
  });

  test("fills in what the database must not say, for this party alone", () => {
    const node = parseNodeFile(NODE, "node.toml");
    const config = parseClusterConfig(localize(documentOf(TWO), node), "test");
    const own = config.serverById.get("dbserver.2");
    expect(own?.mariadbd).toEqual(["/bin/mariadbd"]);
    expect(own?.datadir).toBe("/data");
    expect(own?.stateDir).toBe("/state");
    expect(config.database).toEqual({ user: "minder", passwordFile: "/secret" });
    const other = config.serverById.get("dbserver.1");
    expect(other?.mariadbd).toBeNull();
    expect(other?.stateDir).toBe("/var/lib/galera-minder/dbserver.1");
  });

  test("names the balancer's socket of its own client minder only", () => {
    const clients = [1, 2].map((serial) => ({
      serial,
      host: `web${serial}`,
      balancer: { kind: "haproxy" },
    }));
    const node = parseNodeFile(
      {
        ...NODE,
        node: { id: "dbclient.2" },
        local: { balancer_socket: "/run/own.sock" },
      },
      "node.toml",
    );
    const value = localize(documentOf(TWO, { dbclient: clients }), node);
    const sockets = parseClusterConfig(value, "test").clients.map(
      ({ balancer }) => balancer.socket,
    );
    expect(sockets).toEqual(["/run/haproxy/admin.sock", "/run/own.sock"]);
  });
});

describe("a document in the database", () => {
  test("may not say what a host logs in with, runs, writes to or listens on for orders", () => {
    const value = {
      ...documentOf([server(1, "dc1", { mariadbd: ["sh"], datadir: "/", unit: "x.service" })]),
      arbitrator: [{ serial: 1, state_dir: "/etc" }],
      database: { user: "root" },
      security: { secret_file: "/etc/shadow" },
      dbclient: [{ serial: 1, balancer: { socket: "/run/docker.sock", kind: "haproxy" } }],
    };
    expect(localKeys(value)).toEqual([
      "arbitrator[0].state_dir",
      "dbserver[0].mariadbd",
      "dbserver[0].datadir",
      "dbserver[0].unit",
      "database",
      "security",
      "dbclient[0].balancer.socket",
    ]);
    expect(localKeys(documentOf(TWO))).toEqual([]);
  });

  test("gets the number of its version in its own line, and in no other", () => {
    expect(restamp('# version = 3\nversion = 7 # old\n[x]\nversion = "y"', 8)).toBe(
      '# version = 3\nversion = 8 # old\n[x]\nversion = "y"',
    );
    expect(restamp("[cluster]\nversion = 7", 8)).toBeNull();
    expect(restamp("", 8)).toBeNull();
  });

  test("differs by key, parties matched by serial wherever they stand", () => {
    const before = documentOf(TWO, { timing: { lease_ms: 3000 } });
    const after = documentOf([...TWO].reverse(), { timing: { lease_ms: 2500, fence_ms: 900 } });
    expect(diffDocuments(before, { ...after, version: 9 }).map(changeText)).toEqual([
      "~ timing.lease_ms = 3000 -> 2500",
      "+ timing.fence_ms = 900",
    ]);
    const moved = documentOf([server(1, "dc1", { weight: 2 }), ...TWO.slice(1, 3)]);
    expect(diffDocuments(documentOf(TWO), moved).map(changeText)).toEqual([
      "- dbserver.4.serial = 4",
      '- dbserver.4.name = "db4"',
      '- dbserver.4.segment = "dc2"',
      '- dbserver.4.host = "db4.example.net"',
      "+ dbserver.1.weight = 2",
    ]);
  });
});

describe("a change", () => {
  const two = configOf(documentOf(TWO));

  test("is one of the rules if it touches voters or timings, and none otherwise", () => {
    const same = [
      documentOf([...TWO].reverse()),
      documentOf(TWO, { cluster: { name: "shop", primary_segment: "dc2" } }),
      documentOf(TWO, { dbclient: [{ serial: 1, host: "web", balancer: {} }] }),
      documentOf([server(1, "dc1", { health_port: 0 }), ...TWO.slice(1)]),
    ];
    for (const value of same) expect(ruleChanges(two, configOf(value))).toEqual([]);
    const other = [
      documentOf(THREE),
      documentOf(TWO, { timing: { fence_ms: 900 } }),
      documentOf([server(1, "dc1", { weight: 2 }), ...TWO.slice(1)]),
      documentOf(TWO, {
        cluster: { name: "shop", primary_segment: "dc1", on_double_fault: "fence" },
      }),
    ];
    for (const value of other) {
      expect(rulesText(configOf(value))).not.toBe(rulesText(two));
      expect(ruleChanges(two, configOf(value)).at(-1)).toStartWith("takes effect in a joint view");
    }
    expect(ruleChanges(two, configOf(documentOf(THREE)))[0]).toBe("added: db5 (dbserver.5)");
    expect(ruleChanges(configOf(documentOf(THREE)), two)[0]).toStartWith(
      "removed: db5 (dbserver.5)",
    );
  });

  test("cannot move the arbitrator, make a server another one, or replace a segment", () => {
    const elsewhere = configOf(documentOf(TWO, { arbitrator: [{ serial: 1, host: "else" }] }));
    expect(impossibleChanges(two, elsewhere)[0]).toStartWith("arbitrator: ");
    const renamed = configOf(documentOf([server(1, "dc1", { host: "else" }), ...TWO.slice(1)]));
    expect(impossibleChanges(two, renamed)[0]).toStartWith("dbserver.1: its host");
    const replaced = configOf(
      documentOf([server(5, "dc1"), server(6, "dc1"), server(7, "dc1"), ...TWO.slice(2)]),
    );
    expect(impossibleChanges(two, replaced)).toEqual([
      "dc1: 0 of its 2 servers would stay among 3; at least half must, before and after",
    ]);
    expect(impossibleChanges(two, configOf(documentOf(THREE)))).toEqual([]);
    expect(impossibleChanges(configOf(documentOf(THREE)), two)).toEqual([]);
  });
});

describe("what a process does with a document that it finds", () => {
  const marked = (version: number, letter = "a", rules = "r") => {
    const mark: ConfigMark = { version, checksum: `${letter}${version}`, rules };
    return { mark };
  };
  type Doc = ReturnType<typeof marked>;
  const shelf = (active: Doc, held: Doc | null = null): Shelf<Doc> => ({ active, held });
  const sure = { authoritative: true };
  const rows: readonly (readonly [
    string,
    Shelf<Doc>,
    Doc,
    { authoritative: boolean },
    string,
    Shelf<Doc>,
  ])[] = [
    ["the same", shelf(marked(3)), marked(3), sure, "known", shelf(marked(3))],
    ["an older one", shelf(marked(3)), marked(2, "a", "s"), sure, "older", shelf(marked(3))],
    ["a newer one, same rules", shelf(marked(3)), marked(5), sure, "active", shelf(marked(5))],
    [
      "a newer one, other rules",
      shelf(marked(3)),
      marked(4, "a", "s"),
      sure,
      "held",
      shelf(marked(3), marked(4, "a", "s")),
    ],
    [
      "a newer one than is held, back to the rules in force",
      shelf(marked(3), marked(4, "a", "s")),
      marked(5),
      sure,
      "active",
      shelf(marked(5)),
    ],
    [
      "what is in force, while a newer one is held",
      shelf(marked(3), marked(4, "a", "s")),
      marked(3),
      sure,
      "older",
      shelf(marked(3), marked(4, "a", "s")),
    ],
    [
      "another one of the version held, by a Primary",
      shelf(marked(3), marked(4, "a", "s")),
      marked(4, "b", "s"),
      sure,
      "held",
      shelf(marked(3), marked(4, "b", "s")),
    ],
    [
      "another one of the version in force, by a Primary",
      shelf(marked(3)),
      marked(3, "b"),
      sure,
      "active",
      shelf(marked(3, "b")),
    ],
    [
      "another one of the version in force, by who is not Primary",
      shelf(marked(3)),
      marked(3, "b"),
      { authoritative: false },
      "doubtful",
      shelf(marked(3)),
    ],
  ];
  for (const [name, before, found, options, taken, after] of rows) {
    test(`${name}: ${taken}`, () => {
      expect(offer(before, found, options)).toEqual({ shelf: after, taken } as never);
      // Once more changes nothing.
      const again = offer(offer(before, found, options).shelf, found, options);
      expect(again.shelf).toEqual(after);
    });
  }

  test("one that the arbitrator names is gone by if it is here", () => {
    const before = shelf(marked(3), marked(4, "a", "s"));
    expect(activate(before, "a4")).toEqual(shelf(marked(4, "a", "s")));
    expect(activate(before, "a3")).toBe(before);
    expect(activate(before, "b4")).toBeNull();
  });
});
