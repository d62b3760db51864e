import { expect, test } from "bun:test";
import { parseClusterConfig } from "../../lib/cluster_config.ts";
import { dbServerCore } from "../../lib/core/dbserver.ts";
import { SERVER_DURABLE_NONE } from "../../lib/core/dbserver_io.ts";
import { differs, newsOf } from "../../lib/core/dbserver_report.ts";

const CONFIG = parseClusterConfig(
  {
    version: 1,
    cluster: { name: "news", primary_segment: "dc1" },
    arbitrator: [{ serial: 1, host: "10.0.3.1" }],
    dbserver: [
      { serial: 1, name: "a1", segment: "dc1", host: "10.0.1.1" },
      { serial: 2, name: "b1", segment: "dc2", host: "10.0.2.1" },
    ],
  },
  "test",
);

test("whatever changes of what others decide by is news", () => {
  const self = CONFIG.servers[0];
  if (self === undefined) throw new Error("a cluster has servers");
  const core = dbServerCore({
    config: CONFIG,
    self,
    url: "http://10.0.1.1:4570",
    minderVersion: "test",
    durable: SERVER_DURABLE_NONE,
  });
  const news = newsOf(core.initial(0), 0);
  expect(differs(news, { ...news })).toBe(false);
  const keys = Object.keys(news);
  expect(keys.length).toBeGreaterThan(15);
  const silent = keys.filter((key) => !differs(news, { ...news, [key]: "something else" }));
  expect(silent).toEqual([]);
});
