/**
 * A small certificate authority for a trial, by the openssl program: the runtime can read certificates
 * and make none. An authority for lasting use is kept elsewhere than on the hosts that it vouches for.
 */
import { existsSync, mkdirSync, unlinkSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import type { ClusterConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";

const OPENSSL_TIMEOUT_MS = 20_000;
const DAYS = 825;

/** A certificate that is made: who it is for, and the names and addresses that it is good for. */
export interface CertFor {
  readonly id: string;
  readonly hosts: readonly string[];
}

/** Everybody in a config, and `command` for the people. */
export function certsFor(config: ClusterConfig): readonly CertFor[] {
  const parties = [...config.arbitrators, ...config.servers, ...config.clients];
  return [
    ...parties.map(({ id, host }) => ({ id, hosts: [host] })),
    { id: "command", hosts: ["localhost"] },
  ];
}

/**
 * Makes ca.crt, ca.key and ID.crt, ID.key for each, keys with mode 0600; an authority that is there
 * already signs on.
 * @throws MinderError if openssl is missing or fails
 */
export function makeCerts(folder: string, wanted: readonly CertFor[]): void {
  if (Bun.which("openssl") === null) {
    throw new MinderError("Cannot make certificates: there is no openssl program", {
      hint: "apt-get install openssl, or bring certificates of your own",
    });
  }
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const ca = { crt: join(folder, "ca.crt"), key: join(folder, "ca.key") };
  if (!existsSync(ca.key)) {
    openssl(
      [
        ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
        ...["-days", String(DAYS), "-subj", "/CN=galera-minder trial authority"],
        ...["-addext", "basicConstraints=critical,CA:TRUE"],
        ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ...["-keyout", ca.key, "-out", ca.crt],
      ],
      folder,
    );
  }
  for (const { id, hosts } of wanted) makeOne(folder, ca, { id, hosts });
}

function makeOne(
  folder: string,
  ca: { readonly crt: string; readonly key: string },
  { id, hosts }: CertFor,
): void {
  const key = join(folder, `${id}.key`);
  const request = join(folder, `${id}.csr`);
  const extensions = join(folder, `${id}.ext`);
  const names = hosts.map((host) => `${isIP(host) === 0 ? "DNS" : "IP"}:${host}`);
  openssl(
    [
      ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
      ...["-subj", `/CN=${id}`, "-keyout", key, "-out", request],
    ],
    folder,
  );
  writeFileSync(
    extensions,
    [
      "basicConstraints=critical,CA:FALSE",
      "keyUsage=critical,digitalSignature",
      "extendedKeyUsage=serverAuth,clientAuth",
      `subjectAltName=${names.join(",")}`,
      "",
    ].join("\n"),
  );
  openssl(
    [
      ...["x509", "-req", "-in", request, "-CA", ca.crt, "-CAkey", ca.key, "-CAcreateserial"],
      ...["-days", String(DAYS), "-extfile", extensions, "-out", join(folder, `${id}.crt`)],
    ],
    folder,
  );
  for (const file of [request, extensions]) unlinkSync(file);
}

function openssl(words: readonly string[], folder: string): void {
  // Keys are made under this mask, never for a moment readable by others.
  const before = process.umask(0o077);
  try {
    const done = Bun.spawnSync(["openssl", ...words], {
      cwd: folder,
      timeout: OPENSSL_TIMEOUT_MS,
      killSignal: "SIGKILL",
    });
    if (done.success) return;
    const said = done.stderr.toString().trim().split("\n").at(-1) ?? "";
    throw new MinderError(`openssl ${words[0]} failed: ${said}`, { where: folder });
  } finally {
    process.umask(before);
  }
}
