/**
 * Everything that reads what comes from outside, given anything at all: it answers with a value or with
 * the one error that it is allowed, never with another, and what it lets through is what the next
 * reader takes. A failure prints fast-check's seed and path; FUZZ_RUNS sets how much is tried.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { checkClusterConfig } from "../../lib/cluster_config.ts";
import { dbServerCore } from "../../lib/core/dbserver.ts";
import { SERVER_DURABLE_NONE } from "../../lib/core/dbserver_io.ts";
import { parseClusterToml } from "../../lib/effects/config_file.ts";
import { parseGrastate } from "../../lib/effects/datadir.ts";
import { parseGetinfo } from "../../lib/effects/glbd.ts";
import { parseTable } from "../../lib/effects/haproxy.ts";
import { postMessage } from "../../lib/effects/http.ts";
import { type PollRows, statusFromRows } from "../../lib/effects/mysql_status.ts";
import { MinderError } from "../../lib/errors.ts";
import { BODY_MAX_BYTES, type PartyId } from "../../lib/message/envelope.ts";
import {
  decodeMessage,
  decodeValue,
  encodeMessage,
  formatText,
  type Message,
  parseText,
} from "../../lib/message/mod.ts";
import { notifyMessage, parseNotify, parseTarget } from "../../lib/notify.ts";
import { type Keyring, readClaim, readSecrets, SealKey } from "../../lib/seal.ts";
import { SAMPLES } from "../message/samples.ts";
import { coreCluster, serverOf } from "../support/cores.ts";

setDefaultTimeout(600_000);

const RUNS = Number(process.env["FUZZ_RUNS"] ?? 300);

/** Tries a property so many times RUNS; what is cheap is tried more. */
function tryAll<Ts>(property: fc.IProperty<Ts>, share = 1): void {
  void fc.assert(property, { numRuns: Math.ceil(share * RUNS) });
}

/** Text with what breaks parsers: controls, quotes, surrogates halved and whole, long runs. */
const odd = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.string({ unit: "grapheme", maxLength: 40 }),
  fc.constantFrom(
    "",
    "\0",
    "\ud800",
    "\udc00x",
    "'; DROP",
    "$(id)",
    "../../x",
    "\u2028",
    "NaN",
    "-0",
  ),
  fc
    .tuple(fc.string({ minLength: 1, maxLength: 3 }), fc.nat(3000))
    .map(([part, n]) => part.repeat(n)),
);
const wild = fc.anything({
  key: odd,
  maxDepth: 4,
  values: [odd, fc.double(), fc.maxSafeInteger(), fc.boolean(), fc.constant(null)],
});

const MESSAGES: readonly Message[] = Object.entries(SAMPLES).flatMap(([route, bodies]) => {
  const [from, to] = route.split(">");
  const envelope = { v: 1, session: "s", seq: 3, toSession: "t", configVersion: 1 };
  return bodies.map(
    (body) =>
      ({
        ...envelope,
        sender: `${from}.1` as PartyId,
        receiver: `${to}.1` as PartyId,
        ...body,
      }) as Message,
  );
});

/** A path into a value, chosen by numbers. */
function places(value: unknown, path: readonly (string | number)[] = []): (string | number)[][] {
  const own = [[...path]];
  if (typeof value !== "object" || value === null) return own;
  return own.concat(
    ...Object.entries(value).map(([key, inner]) =>
      places(inner, [...path, Array.isArray(value) ? Number(key) : key]),
    ),
  );
}

/** A copy with one place of it replaced, removed, doubled or renamed. */
function mutate(value: unknown, at: number, how: number, by: unknown): unknown {
  const copy = structuredClone(value);
  const all = places(copy);
  const path = all[at % all.length] ?? [];
  const last = path.at(-1);
  if (last === undefined) return by;
  let parent = copy as Record<string | number, unknown>;
  for (const key of path.slice(0, -1)) parent = parent[key] as Record<string | number, unknown>;
  switch (how % 4) {
    case 0:
      parent[last] = by;
      break;
    case 1:
      if (Array.isArray(parent)) parent.splice(Number(last), 1);
      else delete parent[last];
      break;
    case 2:
      parent[`${last}2`] = parent[last];
      break;
    default:
      parent[last] = [parent[last], parent[last]];
  }
  return copy;
}

const mutated = fc
  .tuple(fc.constantFrom(...MESSAGES), fc.nat(), fc.nat(), fc.oneof(wild, odd, fc.double()))
  .map(([message, at, how, by]) => mutate(message, at, how, by));

/** Bytes of a valid message with some of them changed, cut or doubled. */
const damaged = fc
  .tuple(
    fc.constantFrom(...MESSAGES).map((message) => Buffer.from(encodeMessage(message))),
    fc.array(fc.tuple(fc.nat(), fc.nat(255), fc.nat(3)), { minLength: 1, maxLength: 6 }),
  )
  .map(([bytes, changes]) => {
    let now: Uint8Array = Uint8Array.from(bytes);
    for (const [at, byte, how] of changes) {
      const place = at % Math.max(1, now.length);
      if (how === 0) now = now.slice(0, place);
      else if (how === 1) now = Buffer.concat([now.slice(0, place), now.slice(place >> 1)]);
      else now[place] = byte;
    }
    return now;
  });

/** What a decoder may do: refuse in one inert line, or give what it would itself write and read. */
function judgeDecoded(decoded: ReturnType<typeof decodeMessage>): void {
  if (!decoded.ok) {
    expect([400, 403, 413]).toContain(decoded.status);
    expect(decoded.error).toMatch(/^[\x20-\x7e]{1,700}$/);
    return;
  }
  // Compared as written: JSON knows a -0 that it does not write.
  const written = encodeMessage(decoded.message);
  for (const again of [decodeMessage(written), parseText(formatText(decoded.message))]) {
    expect(again.ok ? encodeMessage(again.message) : again.error).toBe(written);
  }
}

/** Runs a parser that may throw a MinderError and nothing else. */
function orMinderError(work: () => unknown): void {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(MinderError);
  }
}

describe("the codec", () => {
  test("takes any bytes", () => {
    tryAll(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => judgeDecoded(decodeMessage(bytes))),
    );
  });

  test("takes any value", () => {
    tryAll(fc.property(wild, (value) => judgeDecoded(decodeValue(value))));
  });

  test("takes messages with a place changed", () => {
    tryAll(
      fc.property(mutated, (value) => judgeDecoded(decodeValue(value))),
      4,
    );
  });

  test("takes messages with bytes changed", () => {
    tryAll(
      fc.property(damaged, (bytes) => judgeDecoded(decodeMessage(bytes))),
      4,
    );
  });

  test("takes any line of text, and any with a key more", () => {
    tryAll(
      fc.property(fc.constantFrom(...MESSAGES), odd, odd, (message, key, value) => {
        judgeDecoded(parseText(`${formatText(message)} ${key}=${value}`));
        judgeDecoded(parseText(`${key} ${value}`));
      }),
    );
  });

  test("takes depth and length without a stack or memory to match", () => {
    for (const deep of ["[".repeat(100_000), '{"a":'.repeat(40_000)]) {
      judgeDecoded(decodeMessage(deep));
    }
    judgeDecoded(decodeMessage(`${"[".repeat(100_000)}${"]".repeat(100_000)}`));
    judgeDecoded(decodeMessage("x".repeat(BODY_MAX_BYTES + 1)));
  });
});

describe("the config", () => {
  const example = readFileSync(
    new URL("../../config/cluster.example.toml", import.meta.url),
    "utf8",
  );
  const document = Bun.TOML.parse(example);

  function judge(value: unknown): void {
    const result = checkClusterConfig(value);
    if (result.ok) {
      for (const url of result.config.urlById.values()) expect(URL.canParse(url)).toBe(true);
      return;
    }
    expect(result.problems.length).toBeGreaterThan(0);
    for (const { text } of result.problems) expect(text).not.toMatch(/[\n\r\0]/);
  }

  test("takes any value", () => {
    tryAll(fc.property(wild, judge));
  });

  test("takes the example with a place changed", () => {
    tryAll(
      fc.property(fc.nat(), fc.nat(), fc.oneof(wild, odd, fc.double()), (at, how, by) =>
        judge(mutate(document, at, how, by)),
      ),
      4,
    );
  });

  test("takes any text, and the example with a piece of text in it", () => {
    tryAll(
      fc.property(odd, fc.nat(example.length), (text, at) => {
        orMinderError(() => parseClusterToml(text, "x"));
        orMinderError(() => parseClusterToml(example.slice(0, at) + text + example.slice(at), "x"));
      }),
      0.1,
    );
  });
});

describe("the notify handler", () => {
  const words = fc.oneof(
    fc.constantFrom("--status", "--uuid", "--primary", "--index", "--members", "--to", "--node"),
    fc.constantFrom("Synced", "yes", "no", "dbserver.1", "http://127.0.0.1:1", "a/b/c,d/e/f"),
    odd,
  );

  test("makes a message that its watchdog takes of any argv", () => {
    tryAll(
      fc.property(fc.array(words, { maxLength: 14 }), fc.nat(99_999), (argv, serial) => {
        const { to, serial: named, rest } = parseTarget(argv, { to: undefined, node: undefined });
        expect(to === null || /^https?:/.test(to)).toBe(true);
        const message = notifyMessage(parseNotify(rest), named ?? serial, "n1");
        const decoded = decodeMessage(JSON.stringify(message));
        expect(decoded).toMatchObject({ ok: true });
        judgeDecoded(decoded);
      }),
      4,
    );
  });
});

/** A text in the likeness of a reply: its own lines, in any order, with pieces of others. */
function linesLike(sample: string) {
  const lines = sample.split("\n");
  return fc
    .array(
      fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(...lines) },
        { weight: 1, arbitrary: odd },
        {
          weight: 2,
          arbitrary: fc
            .tuple(fc.constantFrom(...lines), fc.nat(80), odd)
            .map(([line, at, by]) => line.slice(0, at) + by + line.slice(at + 1)),
        },
      ),
      { maxLength: lines.length + 4 },
    )
    .map((parts) => parts.join("\n"));
}

describe("a balancer's replies", () => {
  const getinfo = [
    "Router:",
    "------------------------------------------------------",
    "        Address       :   weight   usage    map  conns",
    "       10.0.0.1:3306  :    1.000   0.500    N/A      1",
    "       10.0.0.2:3306  :    0.000     nan    N/A      0",
    "------------------------------------------------------",
    "Destinations: 2, total connections: 1 of 493 max",
    "",
  ].join("\n");
  const table = [
    "Pid: 17",
    "Start_time_sec: 1700000000",
    "Stopping: 0",
    "",
    "1",
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port",
    "3 galera 1 db1 10.0.0.1 2 0 100 1 3306",
    "3 galera 2 db2 10.0.0.2 0 1 0 1 3306",
    "",
    "# pxname,svname,qcur,qmax,scur,smax",
    "galera,db1,0,0,5,9",
    "galera,db2,,,0,9",
    "",
  ].join("\n");

  test("as they are meant, are read", () => {
    expect(parseGetinfo(getinfo)).toHaveLength(2);
    expect(parseTable(table, "galera").states).toHaveLength(2);
  });

  test("of a glbd, in any disorder", () => {
    tryAll(
      fc.property(fc.oneof(linesLike(getinfo), odd), (reply) =>
        orMinderError(() => {
          for (const row of parseGetinfo(reply)) {
            expect(row.address).toMatch(/^\d+\.\d+\.\d+\.\d+:\d+$/);
            expect(Number.isNaN(row.connections)).toBe(false);
          }
        }),
      ),
      4,
    );
  });

  test("of an HAProxy, in any disorder", () => {
    tryAll(
      fc.property(fc.oneof(linesLike(table), odd), (reply) =>
        orMinderError(() => {
          const { states, sessions } = parseTable(reply, "galera");
          for (const { weight, admin, port } of states) {
            for (const number of [weight, admin, port]) expect(number).toBeGreaterThanOrEqual(0);
          }
          for (const count of sessions.values()) expect(count).toBeGreaterThanOrEqual(0);
        }),
      ),
      4,
    );
  });
});

describe("what mariadbd says of itself", () => {
  const config = coreCluster();
  const core = dbServerCore({
    config,
    self: serverOf(config, "a1"),
    url: "http://10.0.0.1:4570",
    minderVersion: "0.1.0",
    durable: SERVER_DURABLE_NONE,
    guards: false,
  });
  const NAMES = [
    ...["wsrep_cluster_status", "wsrep_connected", "wsrep_ready", "wsrep_cluster_size"],
    ...["wsrep_cluster_state_uuid", "wsrep_last_committed", "wsrep_local_state_comment"],
    ...["wsrep_gcomm_uuid", "wsrep_evs_state", "wsrep_cluster_weight", "wsrep_evs_evict_list"],
    ...["wsrep_flow_control_paused_ns", "wsrep_local_recv_queue", "wsrep_provider_version"],
    ...["wsrep_incoming_addresses", "wsrep_flow_control_active"],
  ];
  const UUID = "11111111-2222-3333-4444-555555555555";
  const value = fc.oneof(
    fc.constantFrom("Primary", "non-Primary", "ON", "OFF", "Synced", "1", "2", "-1", UUID, "true"),
    fc.constantFrom(
      "18446744073709551615",
      "1e400",
      "0x10",
      "-5",
      "9007199254740993",
      " 3 ",
      "none",
    ),
    odd,
  );
  const cell = fc.oneof(value, fc.constant(null));
  const rows: fc.Arbitrary<PollRows> = fc.record({
    source: fc.constantFrom("plugin" as const, "table" as const),
    members: fc.array(
      fc.tuple(
        fc.constantFrom("primary", "non-primary", null),
        fc.constantFrom("1", "2", "x", null),
        fc.oneof(fc.constant(UUID), cell),
        fc.oneof(fc.constant("a1"), cell),
        cell,
      ),
      { maxLength: 3 },
    ),
    status: fc.array(fc.tuple(fc.oneof(fc.constantFrom(...NAMES), odd), value), { maxLength: 24 }),
    variables: fc.array(
      fc.tuple(cell, cell, fc.oneof(fc.constant("pc.weight = 3; x"), cell), cell),
      {
        maxLength: 2,
      },
    ),
  });

  /** The report that a watchdog sends after such a poll. */
  function reported(polled: PollRows): Message[] {
    const { status } = statusFromRows(polled);
    let state = core.initial(0);
    const sent: Message[] = [];
    const events = [
      { on: "wakeup" },
      { on: "process", process: { is: "running", pid: 7 } },
      { on: "polled", startedAt: 10, status, error: null, unreachable: false },
      { on: "wakeup" },
      { on: "polled", startedAt: 600, status, error: null, unreachable: false },
      { on: "wakeup" },
    ] as const;
    for (const [index, event] of events.entries()) {
      const stepped = core.step(state, event as never, 1 + index * 300);
      state = stepped.state;
      for (const effect of stepped.effects) {
        if (effect.do !== "send") continue;
        sent.push({
          v: 1,
          sender: "dbserver.1",
          receiver: effect.to,
          session: "s",
          seq: 1,
          toSession: "",
          configVersion: 1,
          ...effect.body,
        } as Message);
      }
    }
    return sent;
  }

  test("whatever it says, the watchdog's report is one that the others take", () => {
    let reports = 0;
    tryAll(
      fc.property(rows, (polled) => {
        for (const message of reported(polled)) {
          reports++;
          const decoded = decodeMessage(encodeMessage(message));
          expect(decoded.ok ? "" : decoded.error).toBe("");
        }
      }),
      4,
    );
    expect(reports).toBeGreaterThan(RUNS);
  });

  test("grastate.dat may hold anything", () => {
    const sample = `# GALERA saved state\nversion: 2.1\nuuid:    ${UUID}\nseqno:   -1\nsafe_to_bootstrap: 0\n`;
    tryAll(
      fc.property(fc.oneof(linesLike(sample), odd), (text) =>
        orMinderError(() => parseGrastate(text)),
      ),
    );
  });
});

describe("the reply of a peer", () => {
  test("may be any bytes, in any pieces: the exchange ends, and within its bounds", async () => {
    let pieces: readonly Uint8Array[] = [];
    const server = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket) {
          for (const piece of pieces) socket.write(piece);
          socket.end();
        },
      },
    });
    const head = fc.constantFrom(
      ...[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 409 x\r\n",
        "HTTP/1.0 99\r\n",
        "HTTP/2 200\r\n",
        "X\r\n",
      ],
      ...["content-length: 5\r\n", "content-length: -1\r\n", "content-length: 99999999999\r\n"],
      ...["transfer-encoding: chunked\r\n", "transfer-encoding: gzip\r\n", "connection: close\r\n"],
      ...[
        "\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "ffffffff\r\n",
        "{}",
        "minder-seal: node.00000000 00\r\n",
      ],
    );
    const piece = fc.oneof(
      { weight: 5, arbitrary: head.map((text): Uint8Array => Buffer.from(text)) },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }) },
      { weight: 1, arbitrary: odd.map((text): Uint8Array => Buffer.from(text)) },
    );
    const [message] = MESSAGES;
    if (message === undefined) throw new Error("no samples");
    const url = `http://127.0.0.1:${server.port}/messages`;
    try {
      await fc.assert(
        fc.asyncProperty(fc.array(piece, { maxLength: 8 }), async (next) => {
          pieces = next;
          const result = await postMessage({
            url,
            message,
            timeoutMs: 20_000,
            replyMaxBytes: 1000,
          });
          expect("message" in result).toBe(false);
          const words = "error" in result ? result.error : "";
          expect(words.length).toBeWithin(1, 2000);
        }),
        { numRuns: RUNS },
      );
    } finally {
      server.stop(true);
    }
  });
});

describe("seals and secrets", () => {
  const ring: Keyring = { keys: [new SealKey("node", "x".repeat(40))] };

  test("no header but a right one is taken for a claim", () => {
    tryAll(
      fc.property(
        fc.oneof(odd, fc.string({ unit: fc.constantFrom(..."node.0123456789abcdef ") })),
        (text) => {
          expect(typeof readClaim(ring, text)).toBe("string");
        },
      ),
    );
  });

  test("a secret file may hold anything", () => {
    tryAll(
      fc.property(fc.array(odd, { maxLength: 4 }), (lines) => {
        const found = readSecrets(lines.join("\n"));
        if ("secrets" in found) expect(found.secrets.length).toBeWithin(1, 3);
      }),
    );
  });
});
