import { expect, test } from "bun:test";
import { clientText } from "../lib/client_text.ts";
import type { ClientStatus } from "../lib/core/dbclient.ts";

const CALM: ClientStatus["servers"][number] = {
  name: "a1",
  target: "up 100",
  because: "it is the writer",
  actual: "up 100",
  sessions: 12,
  heardAgoMs: 140,
  drainingForMs: null,
  cutInMs: null,
};

function text(...servers: readonly Partial<ClientStatus["servers"][number]>[]): string {
  return clientText({
    client: "dbclient.1",
    policy: "single-writer",
    trouble: null,
    oddities: [],
    servers: servers.map((server) => ({ ...CALM, ...server })),
  });
}

test("each server's place is shown as it shall be and as it is, with its sessions", () => {
  expect(
    text({}, { name: "b10", target: null, actual: null, sessions: null, heardAgoMs: null }),
  ).toBe(
    [
      "dbclient.1, single-writer: the balancer is as it should be",
      "",
      "server  shall be  is      sessions  heard       why",
      "a1      up 100    up 100  12        140 ms ago  it is the writer",
      "b10     ?         ?       ?         never       it is the writer",
    ].join("\n"),
  );
});

test("the sessions of a drained server are counted down, to its deadline if there is one", () => {
  const drained = { because: "a person drains it", drainingForMs: 40_000 };
  expect(text({ ...drained, sessions: 3 })).toEndWith(
    "a person drains it, for 40.0 s, its sessions end in their own time",
  );
  expect(text({ ...drained, sessions: 3, cutInMs: 20_000 })).toEndWith(
    "for 40.0 s, its sessions end within 20.0 s, or are cut",
  );
  expect(text({ ...drained, sessions: 0 })).toEndWith("for 40.0 s, no session is left");
});

test("what is wrong comes first, what is odd last", () => {
  const status = { client: "dbclient.1", policy: "spread", servers: [] } as const;
  const text = clientText({ ...status, trouble: "haproxy /x: refused", oddities: ["x is new"] });
  expect(text).toStartWith("dbclient.1, spread: haproxy /x: refused\n");
  expect(text).toEndWith("\nodd: x is new");
});
