/** Messages over TLS between real sockets, with certificates that `just certs` would make. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { TlsConfig } from "../../lib/cluster_config.ts";
import { makeCerts } from "../../lib/effects/certs.ts";
import { postMessage } from "../../lib/effects/http.ts";
import { serveHttp } from "../../lib/effects/http_server.ts";
import { type Certs, clientTls, openCerts, readTls, speaksFor } from "../../lib/effects/tls.ts";
import { createLog } from "../../lib/log.ts";
import type { PartyId } from "../../lib/message/envelope.ts";
import { encodeMessage } from "../../lib/message/mod.ts";
import { ACKED, REPORTED } from "../message/samples.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";
import { smallCluster } from "../support/small_cluster.ts";

const folder = makeScratch("tls");
const other = join(folder, "other");
const tls: TlsConfig = {
  certFile: join(folder, "{id}.crt"),
  keyFile: join(folder, "{id}.key"),
  caFile: join(folder, "ca.crt"),
  mutual: true,
};

beforeAll(() => {
  makeCerts(folder, [
    { id: "arbitrator.1", hosts: ["127.0.0.1"] },
    { id: "dbserver.1", hosts: ["127.0.0.1"] },
    { id: "misplaced", hosts: ["10.99.99.99"] },
  ]);
  makeCerts(other, [{ id: "dbserver.1", hosts: ["127.0.0.1"] }]);
});
afterAll(() => removeScratch(folder));

/** Serves over TLS while the work lasts. */
async function served<T>(
  options: { readonly id?: string; readonly mutual?: boolean },
  work: (url: string) => Promise<T>,
): Promise<T> {
  const { id = "arbitrator.1", mutual = true } = options;
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: { ...readTls(tls, id), requestCert: mutual, rejectUnauthorized: mutual },
    fetch: () => new Response(encodeMessage(ACKED)),
  });
  try {
    return await work(`https://127.0.0.1:${server.port}/messages`);
  } finally {
    await server.stop(true);
  }
}

function post(url: string, own: TlsConfig | null, id = "dbserver.1") {
  return postMessage({ url, message: REPORTED, timeoutMs: 20_000, tls: clientTls(own, id) });
}

describe("messages over TLS", () => {
  test("pass between holders of certificates of the authority", async () => {
    expect(await served({}, (url) => post(url, tls))).toEqual({ status: 200, message: ACKED });
  });

  test("are not sent to who shows none of the authority, or one for another address", async () => {
    const foreign = { ...tls, caFile: join(other, "ca.crt"), mutual: false };
    expect(await served({ mutual: false }, (url) => post(url, foreign))).toMatchObject({
      error: expect.stringMatching(/certificate|self.signed|issuer|verify/i),
    });
    expect(await served({ id: "misplaced" }, (url) => post(url, tls))).toMatchObject({
      error: expect.stringMatching(/altname|hostname|IP/i),
    });
  });

  test("are not taken from who shows none, or one of another authority, unless told so", async () => {
    const without = { ...tls, mutual: false };
    expect(await served({}, (url) => post(url, without))).toMatchObject({
      error: expect.any(String),
    });
    const stranger = {
      ...tls,
      certFile: join(other, "{id}.crt"),
      keyFile: join(other, "{id}.key"),
    };
    expect(await served({}, (url) => post(url, stranger))).toMatchObject({
      error: expect.any(String),
    });
    expect(await served({ mutual: false }, (url) => post(url, without))).toMatchObject({
      status: 200,
    });
  });
});

test("a file of two authorities believes both, while one follows the other", async () => {
  const both = join(folder, "both.crt");
  const text = [folder, other].map((place) => readFileSync(join(place, "ca.crt"), "utf8")).join("");
  writeFileSync(both, text);
  const server = serveHttp({
    hostname: "127.0.0.1",
    port: 0,
    tls: { ...readTls({ ...tls, caFile: both }, "arbitrator.1"), mutual: true },
    fetch: () => new Response(encodeMessage(ACKED)),
  });
  try {
    const url = `https://127.0.0.1:${server.port}/messages`;
    const next = {
      ...tls,
      certFile: join(other, "{id}.crt"),
      keyFile: join(other, "{id}.key"),
      caFile: both,
    };
    for (const own of [tls, next]) expect(await post(url, own)).toMatchObject({ status: 200 });
  } finally {
    server.stop(true);
  }
});

describe("readTls()", () => {
  test("refuses a key that others can read", () => {
    const key = join(folder, "dbserver.1.key");
    expect(statSync(key).mode & 0o777).toBe(0o600);
    chmodSync(key, 0o640);
    expect(() => readTls(tls, "dbserver.1")).toThrow("its mode is 640");
    chmodSync(key, 0o600);
  });

  test("names what is missing", () => {
    expect(() => readTls(tls, "dbserver.9")).toThrow("Cannot read a certificate or its key");
  });
});

describe("readTls() of a pair that does not fit", () => {
  test("refuses it and names the file", () => {
    const mixed = { ...tls, keyFile: join(folder, "arbitrator.1.key") };
    expect(() => readTls(mixed, "dbserver.1")).toThrow("Cannot use the certificate");
    const broken = join(folder, "broken.crt");
    writeFileSync(broken, "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n");
    expect(() => readTls({ ...tls, caFile: broken }, "dbserver.1")).toThrow(
      "Cannot use the certificate",
    );
  });
});

describe("openCerts()", () => {
  /** Puts the pair of a party in place of another's, as a whole. */
  function replace(name: string, kind: "crt" | "key", by: string): void {
    const next = join(folder, `${name}.${kind}.next`);
    copyFileSync(join(folder, `${by}.${kind}`), next);
    chmodSync(next, 0o600);
    renameSync(next, join(folder, `${name}.${kind}`));
  }

  test("follows its files once they fit, and keeps what it has until then", async () => {
    makeCerts(folder, [{ id: "moving", hosts: ["127.0.0.1"] }]);
    const lines: string[] = [];
    const log = createLog({
      role: "r",
      node: "n",
      wall: () => "now",
      sink: (line) => lines.push(line),
    });
    const changes: Certs[] = [];
    const watch = openCerts(tls, "moving", {
      log,
      checkMs: 5,
      onChange: (certs) => changes.push(certs),
    });
    const logged = async (event: string) => {
      const giveUpAt = performance.now() + 30_000;
      while (!lines.some((line) => line.includes(event))) {
        if (performance.now() > giveUpAt) throw new Error(`No ${event}`);
        await Bun.sleep(5);
      }
    };
    try {
      const first = watch.current().server.cert;
      replace("moving", "crt", "dbserver.1");
      await logged("certificates_not_read");
      expect(watch.current().server.cert).toBe(first);
      replace("moving", "key", "dbserver.1");
      await logged("certificates_changed");
      const next = readFileSync(join(folder, "dbserver.1.crt"), "utf8");
      expect(watch.current().server.cert).toBe(next);
      expect(watch.current().client.cert).toBe(next);
      expect(changes.map(({ server }) => server.cert)).toEqual([next]);
      expect(lines.join()).not.toContain("PRIVATE");
    } finally {
      watch.close();
    }
  });

  test("keeps what it has where the receiver cannot take the new", () => {
    makeCerts(folder, [{ id: "stuck", hosts: ["127.0.0.1"] }]);
    const log = createLog({ role: "r", node: "n", wall: () => "now", sink: () => undefined });
    const watch = openCerts(tls, "stuck", {
      log,
      onChange: () => {
        throw new Error("Cannot listen");
      },
    });
    try {
      const { server } = watch.current();
      for (const kind of ["crt", "key"] as const) replace("stuck", kind, "dbserver.1");
      watch.reload();
      expect(watch.current().server).toBe(server);
    } finally {
      watch.close();
    }
  });
});

describe("speaksFor()", () => {
  const config = smallCluster();
  const [one, two] = config.servers;
  if (one === undefined || two === undefined) throw new Error("Two servers are needed");
  const named = (commonName: string, ...hosts: string[]) => ({ commonName, hosts });

  test.each([
    ["its own name", named("dbserver.1"), "dbserver.1", true],
    ["another's name", named("dbserver.2"), "dbserver.1", false],
    ["its host", named("some host", "elsewhere.example", one.host), "dbserver.1", true],
    ["another's host", named("some host", two.host), "dbserver.1", false],
    ["a server's name, for the arbitrator", named("dbserver.1", one.host), "arbitrator.1", false],
    ["a server's name, for its handler", named("dbserver.1"), "wsrep_notify_cmd.1", true],
    ["a server's name, for another's handler", named("dbserver.1"), "wsrep_notify_cmd.2", false],
    ["a wildcard", named("*", "*", "*.example"), "dbserver.1", false],
    ["nothing", named(""), "dbserver.1", false],
    [
      "its own name, where the config does not know it yet",
      named("dbserver.99"),
      "dbserver.99",
      true,
    ],
    ["any name, for a person", named("dbserver.1"), "command.1", true],
  ] as const)("%s", (_, certificate, sender, may) => {
    expect(speaksFor(certificate, sender as PartyId, config)).toBe(may);
  });

  test("knows an address in every spelling", () => {
    const servers = [{ ...one, host: "2001:db8::1" }];
    const six = { ...config, servers } as typeof config;
    expect(speaksFor(named("x", "2001:DB8:0:0:0:0:0:1"), one.id, six)).toBe(true);
    expect(speaksFor(named("x", "2001:DB8:0:0:0:0:0:2"), one.id, six)).toBe(false);
  });
});
