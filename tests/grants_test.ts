/** The watchdog's account: what it is given, and whether it has it. The lab's own account proves it. */
import { expect, test } from "bun:test";
import {
  accountStatements,
  checkGrants,
  grantStatements,
  notifyStatements,
} from "../lib/grants.ts";

const MINDER = { user: "minder", host: "localhost" };

test("an account is made with these privileges and no others", () => {
  expect(accountStatements({ ...MINDER, password: null })).toEqual([
    "CREATE DATABASE IF NOT EXISTS minder",
    "CREATE USER IF NOT EXISTS 'minder'@'localhost' IDENTIFIED VIA unix_socket",
    "GRANT SUPER, PROCESS, CONNECTION ADMIN ON *.* TO 'minder'@'localhost'",
    "GRANT SELECT, CREATE ON minder.* TO 'minder'@'localhost'",
    "GRANT INSERT, DELETE, CREATE ON minder.probe TO 'minder'@'localhost'",
    "GRANT SELECT ON mysql.wsrep_cluster_members TO 'minder'@'localhost'",
  ]);
});

test("a password is quoted, whatever is in it", () => {
  const [, create] = accountStatements({ ...MINDER, password: "it's \\ 100%" });
  expect(create).toEndWith("IDENTIFIED BY 'it''s \\\\ 100%'");
});

test("an account that was made so lacks nothing and has nothing beside", () => {
  expect(checkGrants(grantStatements(MINDER))).toEqual({ missing: [], excess: [] });
});

test("SHOW GRANTS of a real server is understood: back-quotes and passwords", () => {
  const shown = [
    "GRANT PROCESS, SUPER, CONNECTION ADMIN ON *.* TO `minder`@`%` IDENTIFIED BY PASSWORD '*0'",
    "GRANT SELECT, INSERT, DELETE, CREATE ON `minder`.* TO `minder`@`%`",
    "GRANT SELECT ON `mysql`.`wsrep_cluster_members` TO `minder`@`%`",
  ];
  expect(checkGrants(shown)).toEqual({ missing: [], excess: [] });
});

test("what is missing is named with its place", () => {
  expect(checkGrants(["GRANT PROCESS ON *.* TO `minder`@`%`"]).missing).toEqual([
    "SUPER ON *.*",
    "CONNECTION ADMIN ON *.*",
    "SELECT ON minder.*",
    "CREATE ON minder.*",
    "INSERT ON minder.probe",
    "DELETE ON minder.probe",
    "SELECT ON mysql.wsrep_cluster_members",
  ]);
});

test("an account that may do everything lacks nothing, and is more than needed", () => {
  const all = checkGrants(["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]);
  expect(all).toEqual({ missing: [], excess: ["ALL PRIVILEGES"] });
});

test("a privilege of a larger scope counts for the smaller one", () => {
  const shown = [...grantStatements(MINDER).slice(0, 3), "GRANT SELECT ON `mysql`.* TO `a`@`b`"];
  expect(checkGrants(shown).missing).toEqual([]);
});

test("the notify handler's account is its system user's, without a secret", () => {
  expect(notifyStatements("mysql")).toEqual([
    "CREATE USER IF NOT EXISTS 'mysql'@'localhost' IDENTIFIED VIA unix_socket",
    "GRANT SUPER ON *.* TO 'mysql'@'localhost'",
  ]);
});
