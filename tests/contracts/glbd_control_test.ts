/** What glbd's control socket says to what: the double, and the real thing where GLBD_BIN names one. */
import { afterEach, describe, expect, test } from "bun:test";
import { askParts, GLBD_BIN, GlbdProcess } from "../support/glbd.ts";
import { GlbdDouble } from "../support/glbd_double.ts";

const A = "127.0.0.1:21000";
const B = "127.0.0.1:21001";
const RULE = "-".repeat(54);

/** `A` and `B` stand for the two addresses; `>` marks a question whose answer is the table. */
interface Golden {
  readonly name: string;
  readonly send: readonly string[];
  readonly replies: readonly string[];
  /** Rows of the table afterwards: address, weight, usage. */
  readonly table: readonly string[];
}

const GOLDEN: readonly Golden[] = [
  {
    name: "two commands in one write are one malformed command",
    send: [`${A}:2\n${B}:2\n`],
    replies: ["Error\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "what follows getinfo in the same write is dropped",
    send: [`getinfo\n${B}:9\n`],
    replies: ["TABLE"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "getinfo behind a command makes it malformed",
    send: [`${B}:4\ngetinfo\n`],
    replies: ["Error\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "a command in two writes is two commands, and a bare number an address",
    send: [`${A}:1`, "5\n"],
    replies: ["Ok\n", "Ok\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`, "0.0.0.5:OWN 1.000 0.000"],
  },
  {
    name: "an empty weight is 0 and drains",
    send: [`${B}:`],
    replies: ["Ok\n"],
    table: [`${A} 1.000 0.000`, `${B} 0.000 -nan`],
  },
  {
    name: "the second delete is an error",
    send: [`${B}:-1`, `${B}:-1`],
    replies: ["Ok\n", "Error\n"],
    table: [`${A} 1.000 0.000`],
  },
  {
    name: "the last entry moves into a deleted one's slot",
    send: ["10.0.0.9:3306:4", `${A}:-0.0001`],
    replies: ["Ok\n", "Ok\n"],
    table: ["10.0.0.9:3306 4.000 0.000", `${B} 1.000 0.000`],
  },
  {
    name: "a decimal comma is an error",
    send: [`${B}:1,5`],
    replies: ["Error\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "a read ends after 8192 bytes, and so does the command",
    send: [`${A}:3${" ".repeat(8200)}\n`],
    replies: ["Ok\nError\n"],
    table: [`${A} 3.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "a carriage return is cut off",
    send: [`${B}:7\r\n`],
    replies: ["Ok\n"],
    table: [`${A} 1.000 0.000`, `${B} 7.000 0.000`],
  },
  {
    name: "without a weight it is 1, not as before",
    send: [`${B}:5`, B],
    replies: ["Ok\n", "Ok\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "hexadecimal, exponent, sign and leading space are numbers",
    send: [`${A}:0x10`, `${B}:1e3`, "10.0.0.1:1:+3", "10.0.0.2:1:  7"],
    replies: ["Ok\n", "Ok\n", "Ok\n", "Ok\n"],
    table: [
      `${A} 16.000 0.000`,
      `${B} 1000.000 0.000`,
      "10.0.0.1:1 3.000 0.000",
      "10.0.0.2:1 7.000 0.000",
    ],
  },
  {
    name: "-0 drains, a small weight shows as none and is one",
    send: [`${A}:-0`, `${B}:0.0001`],
    replies: ["Ok\n", "Ok\n"],
    table: [`${A} -0.000 -nan`, `${B} 0.000 0.000`],
  },
  {
    name: "words, spaces in front, too many fields and foreign ports are errors",
    send: ["\n", " getinfo", `${A}:1:1`, `${A}:abc`, "127.0.0.1:65536:1", "[::1]:80:1"],
    replies: ["Error\n", "Error\n", "Error\n", "Error\n", "Error\n", "Error\n"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "getinfo is a prefix in any case",
    send: ["GETINFO\n", "getinfoo"],
    replies: ["TABLE", "TABLE"],
    table: [`${A} 1.000 0.000`, `${B} 1.000 0.000`],
  },
  {
    name: "a NUL ends the command",
    send: [`${B}:6\0${A}:9`],
    replies: ["Ok\n"],
    table: [`${A} 1.000 0.000`, `${B} 6.000 0.000`],
  },
];

interface Subject {
  readonly port: number;
  readonly controlPort: number;
  stop(): Promise<void>;
}

function goldenSuite(name: string, start: () => Promise<Subject>): void {
  describe(name, () => {
    let subject: Subject | null = null;
    afterEach(async () => {
      await subject?.stop();
      subject = null;
    });

    for (const golden of GOLDEN) {
      test(golden.name, async () => {
        subject = await start();
        const replies = await askParts(subject.controlPort, golden.send);
        const isTable = (reply: string): boolean => reply.startsWith("Router:");
        expect(replies.map((reply) => (isTable(reply) ? "TABLE" : reply)).join("")).toBe(
          golden.replies.join(""),
        );
        const [table = ""] = await askParts(subject.controlPort, ["getinfo\n"]);
        const rows = table.split("\n").slice(3, -3);
        const own = String(subject.port);
        expect(
          rows.map((row) =>
            row
              .trim()
              .split(/[\s]+:?\s*/)
              .slice(0, 3)
              .join(" "),
          ),
        ).toEqual(golden.table.map((row) => row.replace("OWN", own)));
      });
    }

    test("the listing is what it is, byte for byte", async () => {
      subject = await start();
      await askParts(subject.controlPort, ["192.168.100.200:3306:0", "10.1.2.3:3306:1", `${A}:-1`]);
      const [table = ""] = await askParts(subject.controlPort, ["getinfo\n"]);
      expect(table.replace(/of \d+ max/, "of N max")).toBe(
        [
          "Router:",
          RULE,
          "        Address       :   weight   usage    map  conns",
          "       10.1.2.3:3306  :    1.000   0.000    N/A      0",
          "      127.0.0.1:21001 :    1.000   0.000    N/A      0",
          "192.168.100.200:3306  :    0.000    -nan    N/A      0",
          RULE,
          "Destinations: 3, total connections: 0 of N max",
          "",
        ].join("\n"),
      );
    });

    test("getstat is one line", async () => {
      subject = await start();
      const [line = ""] = await askParts(subject.controlPort, ["getstats\n"]);
      expect(line).toMatch(
        /^in: \d+ out: \d+ recv: \d+ \/ \d+ send: \d+ \/ \d+ conns: \d+ \/ \d+ poll: \d+ \/ \d+ \/ \d+ elapsed: \d+\.\d{5}\n$/,
      );
    });
  });
}

goldenSuite("the double of glbd", () => GlbdDouble.start({ destinations: [A, B] }));

if (GLBD_BIN === "") {
  test.skip("the real glbd: GLBD_BIN names no binary", () => undefined);
} else {
  goldenSuite(`the real glbd (${GLBD_BIN})`, () => GlbdProcess.start({ destinations: [A, B] }));
}
