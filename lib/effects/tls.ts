/** Certificates of the messages' transport: read from their files, once at the start. */
import { readFileSync, statSync } from "node:fs";
import type { TlsConfig } from "../cluster_config.ts";
import { MinderError } from "../errors.ts";
import type { ClientTls } from "./http_client.ts";

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
  return { cert: read(placeOf(tls.certFile, id)), key, ca: read(placeOf(tls.caFile, id)) };
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
