import { describe, expect, test } from "bun:test";
import {
  CLIENTS_MAX,
  ClusterDocumentSchema,
  CONFIG_DEFAULTS,
  checkClusterConfig,
  clientIntervalMs,
  type DbClientConfig,
  defaultStateDir,
  parseClusterConfig,
  SERVERS_MAX,
  TIMING_DEFAULTS,
} from "../lib/cluster_config.ts";
import { parseClusterToml, readClusterConfig } from "../lib/effects/config_file.ts";
import { MinderError } from "../lib/errors.ts";

const EXAMPLE = new URL("../config/cluster.example.toml", import.meta.url).pathname;

type Table = Record<string, unknown>;

/** The smallest document that is allowed, for tests to change. */
function smallest(): {
  version: unknown;
  cluster: Table;
  timing: Table;
  arbitrator: Table[];
  dbserver: Table[];
  dbclient: Table[];
} {
  return {
    version: 3,
    cluster: { name: "shop", primary_segment: "dc1" },
    timing: {},
    arbitrator: [{ serial: 1, host: "10.0.3.1" }],
    dbserver: [
      { serial: 1, name: "a1", segment: "dc1", host: "10.0.1.1" },
      { serial: 2, name: "b1", segment: "dc2", host: "10.0.2.1" },
    ],
    dbclient: [{ serial: 1, host: "10.0.1.9", balancer: { socket: "/run/haproxy.sock" } }],
  };
}

/** Key and text of every problem of a changed smallest document. */
function problemsOf(change: (document: ReturnType<typeof smallest>) => void): string[] {
  const document = smallest();
  change(document);
  const result = checkClusterConfig(document);
  return result.ok ? [] : result.problems.map((problem) => problem.text);
}

function first(tables: Table[]): Table {
  const table = tables[0];
  if (table === undefined) throw new Error("The smallest document has one of each");
  return table;
}

describe("parseClusterConfig()", () => {
  test("fills every default", () => {
    const config = parseClusterConfig(smallest(), "test");
    expect(config.timing).toEqual(TIMING_DEFAULTS);
    expect(config.onDoubleFault).toBe("stay");
    expect(config.evict).toBe("confirmed");
    expect(config.database).toEqual({ user: "minder", passwordFile: null });
    expect(config.arbitrators[0]).toEqual({
      id: "arbitrator.1",
      serial: 1,
      host: "10.0.3.1",
      port: 4570,
      stateDir: defaultStateDir("arbitrator.1"),
      historyDays: 400,
      historyMb: 64,
    });
    expect(config.servers[0]).toEqual({
      id: "dbserver.1",
      serial: 1,
      name: "a1",
      segment: "dc1",
      host: "10.0.1.1",
      port: 4570,
      mysqlPort: 3306,
      weight: 1,
      mysqlSocket: null,
      datadir: "/var/lib/mysql",
      mariadbd: null,
      stateDir: "/var/lib/galera-minder/dbserver.1",
      healthPort: 9200,
      agentPort: 9201,
    });
    expect(config.clients[0]).toEqual({
      id: "dbclient.1",
      serial: 1,
      segment: null,
      host: "10.0.1.9",
      port: 4570,
      policy: "single-writer",
      balancer: { kind: "haproxy", socket: "/run/haproxy.sock", backend: "galera" },
    });
  });

  test("takes the defaults where the tables timing, database and dbclient are left out", () => {
    const { version, cluster, arbitrator, dbserver } = smallest();
    const config = parseClusterConfig({ version, cluster, arbitrator, dbserver }, "test");
    expect(config.timing).toEqual(TIMING_DEFAULTS);
    expect(config.clients).toEqual([]);
  });

  test("derives how often a client minder hears each watchdog: fifty messages a second for all", () => {
    const { timing } = parseClusterConfig(smallest(), "test");
    const intervals = [0, 1, 25, 26, 200, 256].map((count) => {
      const clients = Array.from({ length: count }, () => ({}) as DbClientConfig);
      return clientIntervalMs({ timing, clients });
    });
    expect(intervals).toEqual([500, 500, 500, 1000, 4000, 5500]);
  });

  test("derives segments, the outwait, look-ups and URLs", () => {
    const document = smallest();
    document.cluster["primary_segment"] = "dc2";
    first(document.dbserver)["host"] = "fd00::1";
    const config = parseClusterConfig(document, "test");
    expect(config.segments.map((segment) => [segment.name, segment.weight, segment.heavy])).toEqual(
      [
        ["dc2", 1, false],
        ["dc1", 1, false],
      ],
    );
    expect(config.outwaitMs).toBe(4500);
    expect(config.serverById.get("dbserver.2")?.name).toBe("b1");
    expect(config.serverByName.get("a1")?.id).toBe("dbserver.1");
    expect(Object.fromEntries(config.urlById)).toEqual({
      "arbitrator.1": "http://10.0.3.1:4570",
      "dbserver.1": "http://[fd00::1]:4570",
      "dbserver.2": "http://10.0.2.1:4570",
      "dbclient.1": "http://10.0.1.9:4570",
    });
    expect(config.warnings).toEqual([]);
  });

  test("returns a config that cannot be changed, maps included, lists by their type", () => {
    const config = parseClusterConfig(smallest(), "test");
    function walk(value: unknown): void {
      if (typeof value !== "object" || value === null) return;
      expect(Object.isFrozen(value)).toBe(!Array.isArray(value));
      for (const item of value instanceof Map ? value.values() : Object.values(value)) walk(item);
    }
    walk(config);
    // @ts-expect-error: read-only by its type.
    expect(typeof config.servers.push).toBe("function");
    const map = config.urlById as Map<string, string>;
    expect(() => map.set("dbserver.9", "http://evil")).toThrow(TypeError);
    expect(() => map.clear()).toThrow(TypeError);
  });

  test("takes a client's weights and drain deadline, and refuses weights of nothing", () => {
    const document = smallest();
    first(document.dbclient)["weights"] = { a1: 50, dc2: 1 };
    first(document.dbclient)["drain_cut_ms"] = 60_000;
    const [client] = parseClusterConfig(document, "test").clients;
    expect(client?.weights).toEqual({ a1: 50, dc2: 1 });
    expect(client?.drainCutMs).toBe(60_000);
    expect(
      problemsOf((changed) => {
        first(changed.dbclient)["weights"] = { a9: 50 };
      }),
    ).toEqual(["dbclient[0].weights.a9 is a weight of nothing"]);
    expect(
      problemsOf((changed) => {
        first(changed.dbclient)["weights"] = { a1: 0 };
      }),
    ).toEqual(["dbclient[0].weights.a1 is 0, must be a whole number from 1 to 100"]);
  });

  test("does not change the value that it is given", () => {
    const document = smallest();
    const before = structuredClone(document);
    parseClusterConfig(document, "test");
    expect(document).toEqual(before);
    expect(Object.isFrozen(document)).toBe(false);
  });

  test("reports all problems at once, one line each, with where and hint", () => {
    const document = smallest();
    document.version = "one";
    first(document.dbserver)["port"] = 0;
    first(document.dbserver)["nmae"] = "x";
    delete first(document.arbitrator)["host"];
    let error: unknown;
    try {
      parseClusterConfig(document, "config/cluster.toml");
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(MinderError);
    const { message, where, hint } = error as MinderError;
    expect(where).toBe("config/cluster.toml");
    expect(message.split("\n")).toEqual([
      "Cannot use cluster config, 4 problems:",
      "  dbserver[0].nmae is not a known key, did you mean name?",
      '  version is "one", must be a whole number from 1 to 9007199254740991',
      "  arbitrator[0].host is missing, must be a host name or a numeric address",
      "  dbserver[0].port is 0, must be a whole number from 1 to 65535",
    ]);
    expect(hint).toContain("Use the port that the program listens on");
  });
});

describe("one wrong value is refused by key, value and what is allowed", () => {
  const cases: readonly [string, (document: ReturnType<typeof smallest>) => void, string][] = [
    ["a negative port", (d) => (first(d.dbserver)["port"] = -1), "dbserver[0].port is -1, must be"],
    [
      "a port beyond 65535",
      (d) => (first(d.dbserver)["mysql_port"] = 65536),
      "dbserver[0].mysql_port is 65536, must be",
    ],
    [
      "a fraction",
      (d) => (first(d.dbserver)["port"] = 1.5),
      "dbserver[0].port is 1.5, must be a whole number",
    ],
    [
      "a text for a number",
      (d) => (first(d.arbitrator)["port"] = "4570"),
      'arbitrator[0].port is "4570", must be',
    ],
    [
      "a number beyond the safe integers",
      (d) => (d.version = 2 ** 60),
      "version is 1152921504606847000, must be",
    ],
    ["a big integer", (d) => (d.version = 10n ** 30n), "version is "],
    ["infinity", (d) => (d.timing["lease_ms"] = Number.POSITIVE_INFINITY), "timing.lease_ms is "],
    ["a zero duration", (d) => (d.timing["poll_fast_ms"] = 0), "timing.poll_fast_ms is 0, must be"],
    [
      "a name for a shell",
      (d) => (first(d.dbserver)["name"] = "a;$(reboot)"),
      'dbserver[0].name is "a;$(reboot)", must be',
    ],
    [
      "a name with a line end",
      (d) => (first(d.dbserver)["name"] = "a1\n"),
      'dbserver[0].name is "a1\\n", must be',
    ],
    [
      "a name of 65 characters",
      (d) => (first(d.dbserver)["name"] = "a".repeat(65)),
      "dbserver[0].name is ",
    ],
    ["an empty name", (d) => (d.cluster["name"] = ""), 'cluster.name is "", must be'],
    [
      "a name that is a list",
      (d) => (first(d.dbserver)["name"] = ["a1"]),
      "dbserver[0].name is a list of 1, must be",
    ],
    [
      "a host with a path",
      (d) => (first(d.dbserver)["host"] = "h/x"),
      'dbserver[0].host is "h/x", must be',
    ],
    [
      "a host that no one reaches",
      (d) => (first(d.dbserver)["host"] = "0.0.0.0"),
      'dbserver[0].host is "0.0.0.0", must be',
    ],
    [
      "a host that is no address",
      (d) => (first(d.dbserver)["host"] = "1:2"),
      'dbserver[0].host is "1:2", must be',
    ],
    [
      "an unknown choice",
      (d) => (d.cluster["evict"] = "maybe"),
      'cluster.evict is "maybe", must be one of "off"',
    ],
    [
      "a null where there must be a value",
      (d) => (d.cluster["name"] = null),
      "cluster.name is null, must be",
    ],
    [
      "a relative path",
      (d) => (first(d.dbserver)["datadir"] = "data"),
      'dbserver[0].datadir is "data", must be an absolute path',
    ],
    [
      "an empty command line",
      (d) => (first(d.dbserver)["mariadbd"] = []),
      "dbserver[0].mariadbd is a list of 0, must be",
    ],
    [
      "a command line that is a text",
      (d) => (first(d.dbserver)["mariadbd"] = "mariadbd"),
      'dbserver[0].mariadbd is "mariadbd", must be a list',
    ],
    [
      "a weight beyond Galera's",
      (d) => (first(d.dbserver)["weight"] = 256),
      "dbserver[0].weight is 256, must be",
    ],
    [
      "two arbitrators",
      (d) => d.arbitrator.push({ serial: 2, host: "10.0.3.2" }),
      "arbitrator is a list of 2, must be a list of exactly one",
    ],
    [
      "no arbitrator",
      (d) => d.arbitrator.pop(),
      "arbitrator is a list of 0, must be a list of exactly one",
    ],
    [
      "a table for a list",
      (d) => ((d as Table)["dbserver"] = {}),
      "dbserver is a table, must be a list",
    ],
    [
      "a list for a table",
      (d) => ((d as Table)["cluster"] = []),
      "cluster is a list, must be a table",
    ],
    [
      "a client without balancer",
      (d) => delete first(d.dbclient)["balancer"],
      "dbclient[0].balancer is missing, must be a table",
    ],
    [
      "a balancer without socket",
      (d) => (first(d.dbclient)["balancer"] = {}),
      "dbclient[0].balancer.socket is missing, must be",
    ],
    [
      "a client of an unknown segment",
      (d) => (first(d.dbclient)["segment"] = "dc9"),
      'dbclient[0].segment is "dc9", must be one of "dc1", "dc2"',
    ],
    [
      "a prototype key",
      (d) => Object.defineProperty(d.cluster, "__proto__", { value: 1, enumerable: true }),
      "cluster.__proto__ is not a known key",
    ],
    [
      "an unknown table",
      (d) => ((d as Table)["clutser"] = {}),
      "clutser is not a known key, did you mean cluster?",
    ],
    [
      "a dash for an underscore",
      (d) => (d.timing["lease-ms"] = 1),
      "timing.lease-ms is not a known key, did you mean lease_ms?",
    ],
    ["a key unlike any other", (d) => (d.timing["colour"] = 1), "timing.colour is not a known key"],
    [
      "a primary segment without servers",
      (d) => (d.cluster["primary_segment"] = "dc7"),
      'cluster.primary_segment is "dc7", must be one of "dc1", "dc2"',
    ],
    [
      "one segment",
      (d) =>
        d.dbserver.forEach((s) => {
          s["segment"] = "dc1";
        }),
      'dbserver names 1 segments ("dc1"), must name exactly 2',
    ],
    [
      "three segments",
      (d) => d.dbserver.push({ serial: 3, name: "c", segment: "dc3", host: "10.0.4.1" }),
      "dbserver names 3 segments",
    ],
    [
      "a serial used twice",
      (d) => (first(d.dbserver)["serial"] = 2),
      "dbserver[1].serial is 2, which dbserver[0].serial has already",
    ],
    [
      "a name used twice",
      (d) => (first(d.dbserver)["name"] = "b1"),
      "dbserver[1].name is b1, which dbserver[0].name has already",
    ],
    [
      "an address used twice",
      (d) => (first(d.dbserver)["host"] = "10.0.3.1"),
      "dbserver[0].port is 10.0.3.1:4570, which arbitrator[0].port has already",
    ],
    [
      "a name that is a segment",
      (d) => (first(d.dbserver)["name"] = "dc2"),
      'dbserver[0].name is "dc2", which is also a segment',
    ],
    [
      "a name that is another's id",
      (d) => (first(d.dbserver)["name"] = "dbserver.2"),
      'dbserver[0].name is "dbserver.2", the id of another party',
    ],
    [
      "a segment without weight",
      (d) => (first(d.dbserver)["weight"] = 0),
      "dbserver gives segment dc1 the weight 0",
    ],
    [
      "an ack that comes after the resend",
      (d) => (d.timing["ack_timeout_ms"] = 3500),
      "timing.ack_timeout_ms is 3500, must be at most resend_ms = 3000",
    ],
  ];
  for (const [name, change, expected] of cases) {
    test(name, () => {
      const problems = problemsOf((document) => {
        change(document);
      });
      expect(problems.some((problem) => problem.startsWith(expected))).toBe(true);
      expect(problems.every((problem) => !problem.includes("\n"))).toBe(true);
    });
  }

  test("a document that is no table at all", () => {
    for (const value of [null, undefined, 1, "x", [], true, () => 0]) {
      const result = checkClusterConfig(value);
      expect(result.ok ? 0 : result.problems.length).toBe(1);
      expect(result.ok ? "" : result.problems[0]?.text).toStartWith("The document is");
    }
  });

  test("more servers or clients than are bounded", () => {
    const problems = problemsOf((document) => {
      for (let serial = 3; serial <= SERVERS_MAX + 1; serial++) {
        document.dbserver.push({ serial, name: `n${serial}`, segment: "dc1", host: `h${serial}` });
      }
      for (let serial = 2; serial <= CLIENTS_MAX + 1; serial++) {
        document.dbclient.push({ serial, host: `c${serial}`, balancer: { socket: "/s" } });
      }
    });
    expect(problems).toEqual([
      `dbserver is a list of 65, must be a list of 2 to 64 tables`,
      `dbclient is a list of 257, must be a list of 0 to 256 tables`,
    ]);
  });
});

describe("the inequality that safety rests on", () => {
  test("fewer than three reports to a lease are refused with the sum", () => {
    expect(problemsOf((d) => (d.timing["lease_ms"] = 1499))).toEqual([
      "timing.lease_ms is 1499, must be at least 3 reports: 3 × report_interval_ms = 3 × 500 = 1500",
    ]);
    expect(problemsOf((d) => (d.timing["lease_ms"] = 1500))).toEqual([]);
  });

  test("an outwait beyond Galera's suspect timeout is a warning while weights are balanced", () => {
    const document = smallest();
    document.timing["lease_ms"] = 4000;
    expect(parseClusterConfig(document, "test").warnings).toEqual([
      "lease_ms + fence_ms + margin_ms = 4000 + 1000 + 500 = 5500 exceeds timing.galera_suspect_ms = 5000: a failover that must outwait leases takes 500 ms longer than Galera itself",
    ]);
  });

  test("and is refused where a segment is heavy", () => {
    const problems = problemsOf((document) => {
      document.timing["lease_ms"] = 4000;
      first(document.dbserver)["weight"] = 2;
    });
    expect(problems).toEqual([
      "timing.lease_ms is 4000, must be smaller: lease_ms + fence_ms + margin_ms = 4000 + 1000 + 500 = 5500 exceeds galera_suspect_ms = 5000 while segment dc1 is heavy",
    ]);
  });

  test("a door that may be open yet when Galera's view changes is refused, whatever the weights", () => {
    expect(
      problemsOf((document) => {
        document.timing["galera_suspect_ms"] = 3999;
      }),
    ).toEqual([
      "timing.lease_ms is 3000, must be smaller: lease_ms + fence_ms = 3000 + 1000 = 4000 exceeds galera_suspect_ms = 3999: a part that stays Primary would be open when Galera's view changes, and acknowledge what the other part lacks",
    ]);
    expect(problemsOf((document) => (document.timing["galera_suspect_ms"] = 4000))).toEqual([]);
  });

  test("a heavy segment within the timeout is a warning", () => {
    const document = smallest();
    first(document.dbserver)["weight"] = 2;
    const config = parseClusterConfig(document, "test");
    expect(config.segments.map((segment) => segment.heavy)).toEqual([true, false]);
    expect(config.warnings[0]).toStartWith("Segment dc1 is heavy, dc1 2 against dc2 1:");
  });
});

describe("the security table", () => {
  test("secrets that could not tell nodes from operators are refused", () => {
    const wrong = (security: Table): readonly string[] =>
      problemsOf((document) => Object.assign(document, { security }));
    expect(wrong({ operator_file: "/o" })).toEqual([
      "security.operator_file is written without secret_file, must be beside it",
    ]);
    expect(wrong({ secret_file: "/s", operator_file: "/s" })).toEqual([
      "security.operator_file is the same file as secret_file, must be another",
    ]);
    expect(wrong({ secret_file: "/s", operator_file: "/o" })).toEqual([]);
  });

  test("certificates turn every URL to https", () => {
    const tls = { cert_file: "/c", key_file: "/k", ca_file: "/a" };
    const config = parseClusterConfig({ ...smallest(), security: { tls } }, "test");
    expect(config.security.tls?.mutual).toBe(true);
    expect([...config.urlById.values()].every((url) => url.startsWith("https://"))).toBe(true);
  });
});

describe("config/cluster.example.toml", () => {
  test("parses without a warning", async () => {
    const config = await readClusterConfig(EXAMPLE);
    expect(config.warnings).toEqual([]);
    expect(config.segments.map((segment) => segment.servers.length)).toEqual([2, 2]);
  });

  test("shows the code's own defaults", async () => {
    const config = await readClusterConfig(EXAMPLE);
    expect(config.timing).toEqual(TIMING_DEFAULTS);
    expect(config.onDoubleFault).toBe(CONFIG_DEFAULTS.cluster.on_double_fault);
    expect(config.evict).toBe(CONFIG_DEFAULTS.cluster.evict);
    expect(config.database).toEqual({ user: CONFIG_DEFAULTS.database.user, passwordFile: null });
    const text = await Bun.file(EXAMPLE).text();
    const defaults = commentedDefaults(text);
    for (const field of Object.entries(TIMING_DEFAULTS)) {
      const key = field[0].replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      expect([key, defaults.get(`timing.${key}`)]).toEqual([key, String(field[1])]);
    }
    const tables: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
      cluster: CONFIG_DEFAULTS.cluster,
      database: CONFIG_DEFAULTS.database,
      arbitrator: CONFIG_DEFAULTS.arbitrator,
      "security.tls": CONFIG_DEFAULTS.tls,
      dbserver: CONFIG_DEFAULTS.dbserver,
      dbclient: CONFIG_DEFAULTS.dbclient,
      "dbclient.balancer": CONFIG_DEFAULTS.balancer,
    };
    for (const [table, entries] of Object.entries(tables)) {
      for (const [key, value] of Object.entries(entries)) {
        const expected = value === null ? "none" : JSON.stringify(value);
        expect([table, key, defaults.get(`${table}.${key}`)]).toEqual([table, key, expected]);
      }
    }
  });

  test("names every key of the schema, each with a default or as required", async () => {
    const defaults = commentedDefaults(await Bun.file(EXAMPLE).text());
    const missing = schemaKeys(ClusterDocumentSchema, "").filter((key) => !defaults.has(key));
    expect(missing).toEqual([]);
  });
});

/** "table.key" → what the comment above it says after "Default:", or "required". */
function commentedDefaults(text: string): Map<string, string> {
  const found = new Map<string, string>();
  let table = "";
  let comment = "";
  for (const line of text.split("\n")) {
    const header = /^(?:# )?\[+([a-z_.]+)\]+/.exec(line)?.[1];
    const key = /^(?:# )?([a-z_]+) = /.exec(line)?.[1];
    if (header !== undefined) table = header;
    else if (key !== undefined) {
      const path = table === "" ? key : `${table}.${key}`;
      const words = /Default: ("[^"]*"|none|true|false|[0-9]+)/.exec(comment)?.[1];
      const said = words ?? (/Required\./.test(comment) ? "required" : null);
      if (said !== null && !found.has(path)) found.set(path, said);
    } else if (line.startsWith("#")) {
      comment = `${comment} ${line.slice(1).trim()}`;
      continue;
    }
    comment = "";
  }
  return found;
}

/** Paths of all leaves of the schema, without indices. */
function schemaKeys(schema: unknown, path: string): string[] {
  let inner = schema as Record<string, unknown>;
  while (inner["wrapped"] !== undefined) inner = inner["wrapped"] as Record<string, unknown>;
  const item = inner["item"] as Record<string, unknown> | undefined;
  if (item?.["entries"] !== undefined) return schemaKeys(item, path);
  const entries = inner["entries"] as Record<string, unknown> | undefined;
  if (entries === undefined) return [path];
  return Object.entries(entries).flatMap(([key, entry]) =>
    schemaKeys(entry, path === "" ? key : `${path}.${key}`),
  );
}

describe("parseClusterToml()", () => {
  test("is what readClusterConfig() does with the text of the file", async () => {
    const text = await Bun.file(EXAMPLE).text();
    expect(parseClusterToml(text, EXAMPLE)).toEqual(await readClusterConfig(EXAMPLE));
  });
});
