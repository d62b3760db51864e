/**
 * Certificates of the messages' transport: read from their files, again when these change, and held
 * against the party that somebody claims to be.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import type { ClusterConfig, TlsConfig } from "../cluster_config.ts";
import { describeError, MinderError } from "../errors.ts";
import type { Log } from "../log.ts";
import { type PartyId, partyType } from "../message/envelope.ts";
import type { ClientTls } from "./http_client.ts";
import type { Certificate } from "./http_server.ts";
import { stampOf } from "./secrets.ts";

/** Changed files are noticed within this, and at once on SIGHUP. */
export const CERT_CHECK_MS = 2000;

/** Certificate, key and authority as PEM. */
export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/**
 * Reads the files of a party, or of `command`.
 * @throws MinderError if one is missing, or if others can read the key
 */
export function readTls(tls: TlsConfig, id: string): TlsFiles {
  const keyPath = placeOf(tls.keyFile, id);
  const key = read(keyPath);
  const mode = statSync(keyPath).mode & 0o777;
  if ((mode & 0o077) !== 0) {
    throw new MinderError(`Cannot use the private key: its mode is ${mode.toString(8)}`, {
      where: keyPath,
      hint: `chmod 600 ${keyPath}`,
    });
  }
  const files = { cert: read(placeOf(tls.certFile, id)), key, ca: read(placeOf(tls.caFile, id)) };
  try {
    const fits = new X509Certificate(files.cert).checkPrivateKey(createPrivateKey(key));
    if (!fits) throw new Error("The key is not that of the certificate");
    new X509Certificate(files.ca);
  } catch (cause) {
    throw new MinderError("Cannot use the certificate", {
      where: placeOf(tls.certFile, id),
      hint: "Certificate, key and authority are PEM; replace all that change, then wait for the next check",
      cause,
    });
  }
  return files;
}

/** Certificates that follow their files. */
export interface Certs {
  /** What is shown to others, and whom to believe. */
  readonly server: TlsFiles;
  /** What is shown to those that this party asks. */
  readonly client: ClientTls;
}

export interface CertsWatch {
  current(): Certs;
  /** Reads the files again; what is in use stays where that fails, which is logged. */
  reload(): void;
  close(): void;
}

/** Reads a party's certificates and watches their files. @throws MinderError as readTls() */
export function openCerts(
  tls: TlsConfig,
  id: string,
  options: {
    readonly log: Log;
    /** Told of new ones. */
    readonly onChange: (certs: Certs) => void;
    readonly checkMs?: number;
  },
): CertsWatch {
  const { log, onChange, checkMs = CERT_CHECK_MS } = options;
  const places = [tls.certFile, tls.keyFile, tls.caFile].map((path) => placeOf(path, id));
  let stamp = stampOf(places);
  let current = certsOf(tls, id);

  function reload(): void {
    stamp = stampOf(places);
    try {
      const next = certsOf(tls, id);
      const { cert, key, ca } = current.server;
      if (next.server.cert === cert && next.server.key === key && next.server.ca === ca) return;
      onChange(next);
      current = next;
      log.info("certificates_changed", { validTo: new X509Certificate(next.server.cert).validTo });
    } catch (error) {
      log.error("certificates_not_read", { error: describeError(error) });
    }
  }
  const timer = setInterval(() => {
    if (stampOf(places) !== stamp) reload();
  }, checkMs);
  timer.unref();
  return { current: () => current, reload, close: () => clearInterval(timer) };
}

function certsOf(tls: TlsConfig, id: string): Certs {
  const server = readTls(tls, id);
  return { server, client: tls.mutual ? server : { ca: server.ca } };
}

/**
 * May who showed this certificate speak as that party: it bears the party's name as its common name, or
 * the party's host of the config among its alternative names. A wildcard is nobody's. For a person any
 * certificate of the authority will do: what proves an order is the operators' secret.
 */
export function speaksFor(
  certificate: Certificate,
  sender: PartyId,
  config: ClusterConfig,
): boolean {
  if (partyType(sender) === "command") return true;
  const party = sender.replace(/^wsrep_notify_cmd\./, "dbserver.");
  if (certificate.commonName === party) return true;
  const found = [...config.arbitrators, ...config.servers, ...config.clients].find(
    ({ id }) => id === party,
  );
  if (found === undefined) return false;
  const host = plainHost(found.host);
  return certificate.hosts.some((each) => plainHost(each) === host);
}

/** One spelling of a name or an address. */
function plainHost(host: string): string {
  return isIP(host) === 6 ? new URL(`http://[${host}]`).hostname : host.toLowerCase();
}

/**
 * What a party that asks needs: the authority, and its own certificate where the others want one.
 * @throws MinderError as readTls()
 */
export function clientTls(tls: TlsConfig | null, id: string): ClientTls | null {
  if (tls === null) return null;
  return tls.mutual ? readTls(tls, id) : { ca: read(placeOf(tls.caFile, id)) };
}

function placeOf(path: string, id: string): string {
  return path.replaceAll("{id}", id);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new MinderError("Cannot read a certificate or its key", {
      where: path,
      hint: "`just certs FOLDER` makes some for a trial",
      cause,
    });
  }
}
