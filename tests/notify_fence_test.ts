import { describe, expect, test } from "bun:test";
import { ASK_SQL, FENCE_SQL, fenceTalk } from "../lib/notify_fence.ts";

/** What MariaDB 10.11.19 greets with, cut to what the protocol says must be there. */
const GREETING = packet(0, [
  10,
  ...new TextEncoder().encode("5.5.5-10.11.19-MariaDB-deb12"),
  0,
  ...[1, 0, 0, 0],
  ...new TextEncoder().encode("12345678"),
  0,
]);
const OK = [0, 0, 0, 2, 0, 0, 0];

function packet(sequence: number, body: readonly number[]): Uint8Array {
  return Uint8Array.from([body.length & 0xff, body.length >> 8, 0, sequence, ...body]);
}

function textOf(bytes: Uint8Array | null): string {
  return bytes === null ? "" : new TextDecoder().decode(bytes);
}

describe("closing the door without a client library", () => {
  test("logs in as the system user and gives one statement", () => {
    const talk = fenceTalk("mysql", { unlessPrimary: false });
    const login = talk.hear(GREETING);
    expect(login.ended).toBeNull();
    expect(login.send?.[3]).toBe(1);
    expect(textOf(login.send)).toContain("mysql\0\0mysql_native_password\0");
    const query = talk.hear(packet(2, OK));
    expect([...(query.send ?? [])].slice(3, 5)).toEqual([0, 3]);
    expect(textOf(query.send)).toEndWith(FENCE_SQL);
    expect(talk.hear(packet(1, OK))).toEqual({ send: null, ended: "" });
  });

  test("waits for a packet that comes in pieces", () => {
    const talk = fenceTalk("mysql", { unlessPrimary: false });
    for (const byte of GREETING.subarray(0, -1))
      expect(talk.hear(Uint8Array.of(byte))).toEqual({ send: null, ended: null });
    expect(talk.hear(GREETING.subarray(-1)).send).not.toBeNull();
  });

  test("asked for another way to log in it has nothing to add: the socket says who it is", () => {
    const talk = fenceTalk("mysql", { unlessPrimary: false });
    talk.hear(GREETING);
    const way = new TextEncoder().encode("mysql_native_password");
    const again = talk.hear(packet(2, [0xfe, ...way, 0, ...way]));
    expect([...(again.send ?? [])]).toEqual([0, 0, 0, 3]);
    expect(textOf(talk.hear(packet(4, OK)).send)).toEndWith(FENCE_SQL);
  });

  test("ends with the server's own words where it refuses", () => {
    const talk = fenceTalk("nobody", { unlessPrimary: false });
    talk.hear(GREETING);
    const words = new TextEncoder().encode("#28000Access denied for user");
    expect(talk.hear(packet(2, [0xff, 1045 & 0xff, 1045 >> 8, ...words])).ended).toBe(
      "error 1045: Access denied for user",
    );
  });

  /** Columns, their end, one row, its end. */
  function rowOf(value: string): Uint8Array {
    const text = (words: string) => [words.length, ...new TextEncoder().encode(words)];
    const packets = [
      packet(1, [2]),
      packet(2, [...text("def"), ...text("Variable_name")]),
      packet(3, [...text("def"), ...text("Value")]),
      packet(4, [0xfe, 0, 0, 2, 0]),
      packet(5, [...text("wsrep_cluster_status"), ...text(value)]),
      packet(6, [0xfe, 0, 0, 2, 0]),
    ];
    return Uint8Array.from(packets.flatMap((each) => [...each]));
  }

  test("asks first where the word of having lost Primary may be late", () => {
    for (const [value, closes] of [
      ["non-Primary", true],
      ["Disconnected", true],
      ["Primary", false],
    ] as const) {
      const talk = fenceTalk("mysql", { unlessPrimary: true });
      talk.hear(GREETING);
      expect(textOf(talk.hear(packet(2, OK)).send)).toEndWith(ASK_SQL);
      const next = talk.hear(rowOf(value));
      expect(textOf(next.send).endsWith(FENCE_SQL)).toBe(closes);
      expect(next.ended).toBe(closes ? null : "");
      if (closes) expect(talk.hear(packet(1, OK)).ended).toBe("");
    }
  });

  test("gives up on what is no such server", () => {
    const talk = fenceTalk("mysql", { unlessPrimary: false });
    const endless = new Uint8Array(5000).fill(0xff);
    expect(talk.hear(endless).ended).toBe("too long an answer");
  });
});
