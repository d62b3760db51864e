/**
 * What the watchdog's account may do on its own server, and nothing else: printed for the operator by
 * `just grants`, given to the account of the lab by the very same function, compared by the doctor.
 */

/** Privileges on everything, with what needs each (measured on MariaDB 10.11.19). */
export const GLOBAL_PRIVILEGES = [
  {
    name: "SUPER",
    reason:
      "SET GLOBAL wsrep_reject_queries and wsrep_provider_options ask for it, nothing less does",
  },
  { name: "PROCESS", reason: "a fence reads back that no session of a client is left" },
  {
    name: "CONNECTION ADMIN",
    reason: "it gets in at max_connections, and may end sessions of others",
  },
] as const;

/** Privileges on `minder.*`: the config is read there, and what is missing is made. */
export const SCHEMA_PRIVILEGES = ["SELECT", "CREATE"] as const;

/** The write probe's table: the only one that the watchdog writes. */
export const PROBE_TABLE = "minder.probe";
export const PROBE_PRIVILEGES = ["INSERT", "DELETE"] as const;

/** The table of the config, which the watchdog cannot change. */
export const CONFIG_TABLE = "minder.config";

/** The table that names members where the plugin wsrep_info is not loaded. */
export const MEMBERS_TABLE = "mysql.wsrep_cluster_members";

/** Who logs in, from where, and how. */
export interface Account {
  readonly user: string;
  /** Host part: `localhost` for a socket. */
  readonly host: string;
  /** Null: by unix_socket, as the system user of the same name. */
  readonly password: string | null;
}

/** `'minder'@'localhost'`. */
export function accountName({ user, host }: Pick<Account, "user" | "host">): string {
  return `${quote(user)}@${quote(host)}`;
}

/** Statements that make the account with exactly the privileges it needs; safe to repeat. */
export function accountStatements(account: Account): readonly string[] {
  const name = accountName(account);
  const how = account.password === null ? "VIA unix_socket" : `BY ${quote(account.password)}`;
  return [
    "CREATE DATABASE IF NOT EXISTS minder",
    `CREATE USER IF NOT EXISTS ${name} IDENTIFIED ${how}`,
    ...grantStatements(account),
  ];
}

/**
 * Statements for the notify handler, which runs as mariadbd's system user and closes the door where no
 * watchdog answers; safe to repeat. Where MariaDB has made that account with all privileges, as its
 * installation does, they change nothing.
 */
export function notifyStatements(user: string): readonly string[] {
  const name = accountName({ user, host: "localhost" });
  return [
    `CREATE USER IF NOT EXISTS ${name} IDENTIFIED VIA unix_socket`,
    `GRANT SUPER ON *.* TO ${name}`,
  ];
}

/** The GRANTs alone. */
export function grantStatements(account: Pick<Account, "user" | "host">): readonly string[] {
  const name = accountName(account);
  return [
    `GRANT ${GLOBAL_PRIVILEGES.map((privilege) => privilege.name).join(", ")} ON *.* TO ${name}`,
    `GRANT ${SCHEMA_PRIVILEGES.join(", ")} ON minder.* TO ${name}`,
    // A table that is not there yet can be granted together with the right to make it.
    `GRANT ${PROBE_PRIVILEGES.join(", ")}, CREATE ON ${PROBE_TABLE} TO ${name}`,
    `GRANT SELECT ON ${MEMBERS_TABLE} TO ${name}`,
  ];
}

/** Statements for an account that reads the config, as the arbitrator and the clients need it. */
export function readerStatements(account: Account): readonly string[] {
  return configStatements(account, "SELECT, CREATE");
}

/** Statements for a person's account that pushes versions. A version, once there, cannot be changed. */
export function operatorStatements(account: Account): readonly string[] {
  return [
    ...configStatements(account, "SELECT, INSERT, CREATE"),
    `GRANT CREATE ON minder.* TO ${accountName(account)}`,
  ];
}

function configStatements(account: Account, privileges: string): readonly string[] {
  const name = accountName(account);
  const how = account.password === null ? "VIA unix_socket" : `BY ${quote(account.password)}`;
  return [
    "CREATE DATABASE IF NOT EXISTS minder",
    `CREATE USER IF NOT EXISTS ${name} IDENTIFIED ${how}`,
    // CREATE lets it be granted before `just config-init` has made the table; it can make no other.
    `GRANT ${privileges} ON ${CONFIG_TABLE} TO ${name}`,
  ];
}

/** A string of SQL. */
function quote(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
}

/** What the account may do, out of `SHOW GRANTS`. */
export interface GrantCheck {
  /** Privileges that it lacks, as "SUPER ON *.*". */
  readonly missing: readonly string[];
  /** Global privileges that it has and does not need. */
  readonly excess: readonly string[];
}

/** Compares the lines of `SHOW GRANTS` with what is needed. */
export function checkGrants(lines: readonly string[]): GrantCheck {
  const held = new Map<string, Set<string>>();
  for (const line of lines) {
    const match = /^GRANT (.+?) ON (?:TABLE )?(\S+) TO /i.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) continue;
    const on = match[2].replaceAll("`", "").replaceAll("\\_", "_").toLowerCase();
    const names = match[1].split(/,\s*/).map((name) => name.trim().toUpperCase());
    held.set(on, new Set([...(held.get(on) ?? []), ...names]));
  }
  const all = (on: string) => held.get(on)?.has("ALL PRIVILEGES") === true;
  const global = held.get("*.*") ?? new Set<string>();
  const has = (name: string, ...scopes: readonly string[]) =>
    ["*.*", ...scopes].some((on) => all(on) || held.get(on)?.has(name) === true);
  const needed: readonly (readonly [string, string, readonly string[]])[] = [
    ...GLOBAL_PRIVILEGES.map(({ name }) => [name, "*.*", []] as const),
    ...SCHEMA_PRIVILEGES.map((name) => [name, "minder.*", ["minder.*"]] as const),
    ...PROBE_PRIVILEGES.map((name) => [name, PROBE_TABLE, ["minder.*", PROBE_TABLE]] as const),
    ["SELECT", MEMBERS_TABLE, ["mysql.*", MEMBERS_TABLE]],
  ];
  const wanted = new Set<string>([...GLOBAL_PRIVILEGES.map(({ name }) => name), "USAGE"]);
  return {
    missing: needed
      .filter(([name, , scopes]) => !has(name, ...scopes))
      .map(([name, on]) => `${name} ON ${on}`),
    excess: [...global].filter((name) => !wanted.has(name)).sort(),
  };
}
