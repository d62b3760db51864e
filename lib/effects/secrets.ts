/**
 * Secret files: read with a check of who else can read them, and read again when they change, so that
 * secrets are replaced without a restart. A file that has become unusable leaves the keys as they are.
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  statSync,
  writeFileSync,
} from "node:fs";
import type { SecurityConfig } from "../cluster_config.ts";
import { describeError, MinderError } from "../errors.ts";
import type { Log } from "../log.ts";
import { type KeyKind, type Keyring, readSecrets, SealKey } from "../seal.ts";

/** Largest secret file in bytes: two secrets and some words. */
export const SECRET_FILE_MAX_BYTES = 8192;
/** A changed file is noticed within this, and at once on SIGHUP. */
export const SECRET_CHECK_MS = 2000;

/** Where a process finds its secrets; null: it has none of that kind. */
export interface SecretPlaces {
  readonly node: string | null;
  readonly operator: string | null;
}

const PLACE = { node: "GM_SECRET_FILE", operator: "GM_OPERATOR_FILE" } as const satisfies Record<
  KeyKind,
  string
>;

type Environment = Readonly<Record<string, string | undefined>>;

/** As the config says; a process's own environment has the last word. */
export function secretPlaces(
  security: SecurityConfig,
  env: Environment = process.env,
): SecretPlaces {
  return {
    node: env["GM_SECRET_FILE"] || security.secretFile,
    operator: env["GM_OPERATOR_FILE"] || security.operatorFile,
  };
}

/**
 * Are unsigned messages taken. Where the environment names the secret, only the environment can allow
 * it (GM_UNSIGNED=1): a config that comes from elsewhere must not be able to.
 */
export function takesUnsigned(security: SecurityConfig, env: Environment = process.env): boolean {
  return env["GM_SECRET_FILE"] ? env["GM_UNSIGNED"] === "1" : security.unsigned;
}

/**
 * Reads a secret file.
 * @throws MinderError if it is missing, readable for others, or not of the form; never names a secret
 */
export function readSecretFile(path: string, kind: KeyKind): readonly SealKey[] {
  let text: string;
  try {
    // The opened file is judged, so that it cannot become another between check and use.
    const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { mode, uid, size } = fstatSync(file);
      if ((mode & constants.S_IFMT) !== constants.S_IFREG) throw unusable("it is no plain file");
      if ((mode & 0o077) !== 0) {
        throw unusable(
          `its mode is ${(mode & 0o777).toString(8)}: group or others can read it or write to it`,
          `chmod 600 ${path}`,
        );
      }
      const self = process.geteuid?.() ?? uid;
      if (uid !== self && uid !== 0)
        throw unusable(`it belongs to uid ${uid}, this is uid ${self}`);
      if (size > SECRET_FILE_MAX_BYTES) throw unusable(`it has ${size} bytes`);
      const bytes = Buffer.alloc(SECRET_FILE_MAX_BYTES);
      text = bytes.toString("utf8", 0, readSync(file, bytes, 0, bytes.length, 0));
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    if (cause instanceof MinderError) throw cause;
    throw new MinderError(`Cannot read the ${kind} secret`, {
      where: path,
      hint: `Bring it here from another host, mode 0600, or name another place in ${PLACE[kind]}; \`just secret FILE\` makes the first one`,
      cause,
    });
  }
  const found = readSecrets(text);
  if ("wrong" in found) throw unusable(found.wrong);
  return found.secrets.map((secret) => new SealKey(kind, secret));

  function unusable(why: string, hint = "`just secret FILE` makes one"): MinderError {
    return new MinderError(`Cannot use the ${kind} secret: ${why}`, { where: path, hint });
  }
}

/** Makes a secret file, mode 0600. @throws MinderError if there is one already */
export function writeSecretFile(path: string): void {
  const secret = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64url");
  try {
    writeFileSync(path, `${secret}\n`, { mode: 0o600, flag: "wx" });
  } catch (cause) {
    throw new MinderError("Cannot make a secret file", { where: path, cause });
  }
}

/** Both kinds of keys. @throws MinderError as readSecretFile(), and where one file serves as both */
export function readKeyring(places: SecretPlaces): Keyring {
  const { node, operator } = places;
  if (node !== null && node === operator) {
    throw new MinderError("The nodes' secret cannot be the operators' as well", {
      where: node,
      hint: "Whoever has the secret of a node could give orders: make a second file",
    });
  }
  return {
    keys: [
      ...(node === null ? [] : readSecretFile(node, "node")),
      ...(operator === null ? [] : readSecretFile(operator, "operator")),
    ],
  };
}

/** Keys that follow their files. */
export interface Secrets {
  /** The present keys. */
  ring(): Keyring;
  /** Reads the files again; keys in use stay where that fails, which is logged. */
  reload(): void;
  close(): void;
}

/** Reads the keys and watches the files. @throws MinderError as readKeyring() */
export function openSecrets(places: SecretPlaces, log: Log, checkMs = SECRET_CHECK_MS): Secrets {
  const files = [places.node, places.operator];
  let stamp = stampOf(files);
  let ring = readKeyring(places);

  function reload(): void {
    stamp = stampOf(files);
    try {
      const next = readKeyring(places);
      const before = ring.keys.map(({ id }) => id);
      ring = next;
      const keys = ring.keys.map(({ id }) => id);
      if (keys.join() !== before.join()) log.info("keys_changed", { before, keys });
    } catch (error) {
      log.error("keys_not_read", { error: describeError(error), kept: ring.keys });
    }
  }
  const timer = setInterval(() => {
    if (stampOf(files) !== stamp) reload();
  }, checkMs);
  timer.unref();
  return { ring: () => ring, reload, close: () => clearInterval(timer) };
}

/** Changes whenever one of these files does: replaced, edited in place, or its mode changed. Null: no file. */
export function stampOf(places: readonly (string | null)[]): string {
  return places
    .map((path) => {
      if (path === null) return "";
      try {
        const { ino, size, mtimeMs, ctimeMs } = statSync(path);
        return `${ino} ${size} ${mtimeMs} ${ctimeMs}`;
      } catch {
        return "missing";
      }
    })
    .join();
}
