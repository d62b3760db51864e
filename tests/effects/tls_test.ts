/** Messages over TLS between real sockets, with certificates that `just certs` would make. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, statSync } from "node:fs";
import { join } from "node:path";
import type { TlsConfig } from "../../lib/cluster_config.ts";
import { makeCerts } from "../../lib/effects/certs.ts";
import { postMessage } from "../../lib/effects/http.ts";
import { clientTls, readTls } from "../../lib/effects/tls.ts";
import { encodeMessage } from "../../lib/message/mod.ts";
import { ACKED, REPORTED } from "../message/samples.ts";
import { makeScratch, removeScratch } from "../support/scratch.ts";

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
  return postMessage({ url, message: REPORTED, timeoutMs: 2000, tls: clientTls(own, id) });
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
