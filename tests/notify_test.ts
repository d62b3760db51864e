import { describe, expect, test } from "bun:test";
import { decodeMessage, encodeMessage } from "../lib/message/mod.ts";
import { NOTIFY_MEMBERS_MAX } from "../lib/message/wsrep_notify_cmd.ts";
import {
  closesUnanswered,
  MEMBERS_MAX,
  notifyMessage,
  parseNotify,
  parseTarget,
} from "../lib/notify.ts";

const STATE = "987c9d46-e6b5-11f1-9aa4-3a452c552f12";
const MEMBER = "987c3e9c-e6b5-11f1-b5d7-5a1256aad92a";

describe("parseNotify()", () => {
  test("reads a line as Galera writes it", () => {
    const line =
      `--status joined --uuid ${STATE} --primary yes --index 0` +
      ` --members ${MEMBER}/dc1-1/10.77.1.11:3306,${MEMBER}/garb/`;
    expect(parseNotify(line.split(" "))).toEqual({
      status: "joined",
      uuid: STATE,
      primary: true,
      index: 0,
      members: [
        { uuid: MEMBER, name: "dc1-1", address: "10.77.1.11:3306" },
        { uuid: MEMBER, name: "garb", address: "" },
      ],
    });
  });

  test("reads the line without --members that ends a clean stop", () => {
    const line = `--status disconnected --uuid ${STATE} --primary no --index -1`;
    expect(parseNotify(line.split(" "))).toEqual({
      status: "disconnected",
      uuid: STATE,
      primary: false,
      index: -1,
      members: null,
    });
  });

  test("takes words without regard to case", () => {
    const line = `--Status SYNCED --UUID ${STATE.toUpperCase()} --PRIMARY Yes --Index 3`;
    expect(parseNotify(line.split(" "))).toMatchObject({
      status: "synced",
      uuid: STATE,
      primary: true,
      index: 3,
    });
  });

  test("makes null of values that make no sense, and skips what it does not know", () => {
    const nothing = { status: "", uuid: null, primary: null, index: null, members: null };
    const cases: string[][] = [
      [],
      ["--"],
      ["--status"],
      ["--primary", "maybe", "--index", "1e1"],
      ["--index", "99999999999999999999"],
      ["--index", " 1"],
      ["--index", "-2"],
      ["--primary", "--index", "--members"],
      ["joined", "yes", "--other", "x"],
    ];
    for (const argv of cases) expect(parseNotify(argv)).toEqual(nothing);
  });

  test("takes a value that is missing from nobody else", () => {
    expect(parseNotify(["--primary", "--index", "2"])).toMatchObject({ primary: null, index: 2 });
  });

  test("ends a member list that is too long in a mark that says how many are missing", () => {
    const list = Array.from({ length: 1000 }, (_, at) => `${MEMBER}/node-${at}/10.0.0.1:3306`);
    const { members } = parseNotify(["--members", list.join(",")]);
    expect(members).toHaveLength(MEMBERS_MAX);
    expect(members?.at(-1)).toEqual({
      uuid: "",
      name: `(${1000 - MEMBERS_MAX + 1} more)`,
      address: "",
    });
    expect(MEMBERS_MAX).toBe(NOTIFY_MEMBERS_MAX);
  });

  test("keeps a list of exactly the most members whole", () => {
    const list = Array.from({ length: MEMBERS_MAX }, () => `${MEMBER}/n/a`);
    const { members } = parseNotify(["--members", list.join(",")]);
    expect(members).toHaveLength(MEMBERS_MAX);
    expect(members?.at(-1)?.name).toBe("n");
  });
});

describe("notifyMessage()", () => {
  test("is taken by the codec for the receiver it names, whatever argv holds", () => {
    const huge = "x".repeat(60_000);
    const hostile = [
      ";$(touch /tmp/x)",
      "`id`",
      "'\"\\",
      "a\nb\r\u0000c\u001b[2J\u2028",
      "İ".repeat(64),
      "\ud800".repeat(70),
      "😀".repeat(40_000),
      huge,
      `${huge},`.repeat(3),
      `${huge}/${huge}/${huge}`,
      `${"\u0001/\u0002/\u0003,".repeat(10_000)}`,
      "//,//,/",
      "__proto__",
      "",
    ];
    for (const text of hostile) {
      for (const word of ["status", "uuid", "primary", "index", "members", text]) {
        const argv = ["--status", text, `--${word}`, text, text];
        const message = notifyMessage(parseNotify(argv), 7, "n1-2");
        const wire = JSON.stringify(message);
        const decoded = decodeMessage(new TextEncoder().encode(wire));
        expect(decoded).toEqual({ ok: true, message });
        expect(encodeMessage(message)).toBe(wire);
      }
    }
  });

  test("leaves nothing in a text that moves a cursor or breaks a line", () => {
    const evil = "a\nb\u001b[2J\u007f\u0085\u2028c";
    const notify = parseNotify(["--status", evil, "--members", `${evil}/${evil}/${evil}`]);
    expect(JSON.stringify(notify)).not.toMatch(/\\n|\\u|[\p{Cc}\p{Zl}]/u);
    expect(notify.members?.[0]?.name).toBe("a?b?[2J???c");
  });
});

describe("parseTarget()", () => {
  const none = { to: undefined, node: undefined };

  test("takes its own arguments from the front only", () => {
    const argv = ["--to", "http://127.0.0.1:9471/", "--node", "dbserver.3", "--status", "x"];
    expect(parseTarget([...argv, "--to", "http://evil"], none)).toEqual({
      to: "http://127.0.0.1:9471",
      serial: 3,
      socket: null,
      user: "mysql",
      rest: ["--status", "x", "--to", "http://evil"],
    });
  });

  test("takes the environment's values where arguments are missing", () => {
    const defaults = { to: "http://[::1]:9471", node: "4" };
    expect(parseTarget(["--status", "x"], defaults)).toEqual({
      to: "http://[::1]:9471",
      serial: 4,
      socket: null,
      user: "mysql",
      rest: ["--status", "x"],
    });
  });

  test("refuses what is no serial and no URL", () => {
    for (const node of ["", "x", "dbserver.", "dbserver.01", "-1", "1.5", "1e3", "100000", " 1"]) {
      expect(parseTarget(["--node", node], none).serial).toBeNull();
    }
    for (const to of ["", "127.0.0.1:9471", "ftp://x", "file:///etc/passwd"]) {
      expect(parseTarget(["--to", to], none).to).toBeNull();
    }
    expect(parseTarget(["--to"], none)).toMatchObject({ to: null, serial: null, rest: [] });
  });

  test("takes where mariadbd is, and as whom to log in there", () => {
    const argv = ["--socket", "/run/mysqld/mysqld.sock", "--user", "db", "--status", "x"];
    expect(parseTarget([...argv, "--socket", "/evil"], none)).toMatchObject({
      socket: "/run/mysqld/mysqld.sock",
      user: "db",
    });
    expect(parseTarget(["--socket"], none).socket).toBeNull();
  });
});

describe("closesUnanswered()", () => {
  const real: readonly [string, boolean | null, ReturnType<typeof closesUnanswered>][] = [
    ["connected", false, "unless_primary"],
    ["disconnected", false, "unless_primary"],
    ["connected", null, "unless_primary"],
    ["initialized", true, "always"],
    ["joined", true, "always"],
    // By pc.bootstrap.
    ["synced", false, "no"],
    ["synced", true, "no"],
    ["donor", true, "no"],
  ];
  for (const [status, primary, closes] of real)
    test(`${status}, primary ${primary}: ${closes}`, () => {
      expect(closesUnanswered({ status, primary })).toBe(closes);
    });
});
