import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { BASES } from "../../lib/message/arbitrator.ts";
import { NodeOrderSchema } from "../../lib/message/command.ts";
import { BODY_MAX_BYTES, partyType, WORDS_MAX } from "../../lib/message/envelope.ts";
import {
  ALIASES,
  type Decoded,
  decodeMessage,
  encodeMessage,
  formatText,
  type Message,
  parseText,
  ROUTES,
  type Route,
  routeOf,
  verbsOf,
  words,
} from "../../lib/message/mod.ts";
import { MESSAGES, REPORT } from "./samples.ts";

/** A message as a plain value that tests may spoil. */
function plain(message: Message): Record<string, unknown> {
  return structuredClone(message) as unknown as Record<string, unknown>;
}

function decodePlain(value: unknown): Decoded {
  return decodeMessage(JSON.stringify(value));
}

function refusal(decoded: Decoded): Exclude<Decoded, { ok: true }> {
  if (decoded.ok) throw new Error(`Was accepted: ${encodeMessage(decoded.message)}`);
  // Whatever came in, the complaint is one short line of plain characters.
  expect(decoded.error).toMatch(/^[\x20-\x7e]{1,700}$/);
  return decoded;
}

function sample(verb: string, receiver: string): Message {
  const found = MESSAGES.find(
    (message) => message.verb === verb && partyType(message.receiver) === receiver,
  );
  if (found === undefined) throw new Error(`No sample of ${verb} to ${receiver}`);
  return found;
}

const NAMES = MESSAGES.map((message) => `${message.verb} ${message.sender} to ${message.receiver}`);

describe("the samples", () => {
  test("hold every verb of every route", () => {
    for (const route of Object.keys(ROUTES) as Route[]) {
      const present = MESSAGES.filter(
        (message) => routeOf(message.sender, message.receiver) === route,
      ).map((message) => message.verb as string);
      expect([route, ...present]).toEqual([route, ...verbsOf(route)]);
    }
  });
});

describe("encodeMessage() and decodeMessage()", () => {
  for (const [index, message] of MESSAGES.entries()) {
    test(`are lossless for ${NAMES[index]}`, () => {
      const text = encodeMessage(message);
      expect(decodeMessage(text)).toEqual({ ok: true, message });
      expect(decodeMessage(new TextEncoder().encode(text))).toEqual({ ok: true, message });
      expect(text.includes("\n")).toBe(false);
    });
  }

  test("write the keys in one order, whatever the order they were put together in", () => {
    const message = sample("db_status_report", "arbitrator");
    const turned = Object.fromEntries(Object.entries(message).reverse()) as unknown as Message;
    expect(encodeMessage(turned)).toBe(encodeMessage(message));
  });

  test("understand every alias and name the verb by its own name", () => {
    for (const [alias, verb] of Object.entries(ALIASES)) {
      const message = MESSAGES.find((candidate) => candidate.verb === verb);
      if (message === undefined) throw new Error(`No sample of ${verb}`);
      const decoded = decodePlain({ ...message, verb: alias });
      expect(decoded.ok ? decoded.message : decoded).toEqual(message);
    }
  });
});

describe("decodeMessage() refuses what is no message", () => {
  const bodies: readonly [string, Uint8Array | string, number, string][] = [
    ["nothing", "", 400, "not_json"],
    ["no JSON", "{", 400, "not_json"],
    ["two values", "{}{}", 400, "not_json"],
    ["a number", "1", 400, "not_json"],
    ["null", "null", 400, "not_json"],
    ["a list", "[]", 400, "not_json"],
    ["a text", '"x"', 400, "not_json"],
    ["an empty object", "{}", 400, "wire_version"],
    ["bytes that are not UTF-8", new Uint8Array([0x7b, 0xff, 0x7d]), 400, "not_utf8"],
    ["a body beyond the bound", " ".repeat(BODY_MAX_BYTES + 1), 413, "too_large"],
    ["bytes beyond the bound", new Uint8Array(BODY_MAX_BYTES + 1), 413, "too_large"],
    ["a lone surrogate", '{"v":1,"sender":"\\ud800"}', 400, "not_utf8"],
    ["a lone surrogate as a key", '{"v":1,"\\udc00":1}', 400, "not_utf8"],
  ];
  for (const [name, body, status, reason] of bodies) {
    test(name, () => {
      const refused = refusal(decodeMessage(body));
      expect([refused.status as number, refused.reason as string]).toEqual([status, reason]);
    });
  }

  test("nesting that would exhaust a stack, in lists, in objects and in parameters", () => {
    const deep = BODY_MAX_BYTES / 2 - 100;
    const list = "[".repeat(deep) + "]".repeat(deep);
    const object = `${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}`;
    for (const body of [list, object, `{"v":1,"parameters":${object}}`]) {
      expect(["too_deep", "not_json"]).toContain(refusal(decodeMessage(body)).reason);
    }
    const mild = `${'{"a":'.repeat(40)}1${"}".repeat(40)}`;
    expect(refusal(decodeMessage(mild)).reason).toBe("too_deep");
  });
});

/** Values of a wrong kind for nearly everything; the ones that a place allows are sorted out below. */
const WRONG: readonly unknown[] = [
  null,
  true,
  "",
  " ",
  "\n",
  "x".repeat(5000),
  "../../etc/passwd",
  "dbserver.1 ",
  "DBSERVER.1",
  "dbserver.01",
  "dbserver.100000",
  "dbserver.-1",
  "constructor",
  "__proto__",
  0.5,
  -2,
  1e300,
  2 ** 53,
  [],
  [[]],
  {},
  { length: 1 },
];

describe("decodeMessage() refuses a wrong envelope", () => {
  const message = sample("make_primary", "dbserver");
  const allowed: Readonly<Record<string, readonly unknown[]>> = {
    session: ["constructor", "__proto__"],
    toSession: ["", "constructor", "__proto__"],
  };
  for (const key of [
    "v",
    "sender",
    "receiver",
    "session",
    "seq",
    "toSession",
    "configVersion",
    "verb",
  ]) {
    test(`${key}: missing or of a wrong kind`, () => {
      const missing = plain(message);
      delete missing[key];
      refusal(decodePlain(missing));
      for (const value of WRONG) {
        const decoded = decodePlain({ ...message, [key]: value });
        if (decoded.ok) expect(allowed[key] ?? []).toContain(value);
        else refusal(decoded);
      }
    });
  }

  test("another wire version, by name", () => {
    const refused = refusal(decodePlain({ ...message, v: 2 }));
    expect(refused.reason).toBe("wire_version");
    expect(refused.error).toBe("Wire version 2 is not spoken here, only 1");
  });

  test("keys that it does not have, those of a prototype included", () => {
    for (const key of ["extra", "__proto__", "constructor", "toString", "Verb", ""]) {
      const body = encodeMessage(message).replace("{", `{${JSON.stringify(key)}:{"a":1},`);
      expect(refusal(decodeMessage(body)).reason).toBe("bad_envelope");
    }
  });
});

describe("decodeMessage() refuses what a sender may not say to a receiver", () => {
  test("every pair of roles that is not in the table", () => {
    const types = ["arbitrator", "dbserver", "dbclient", "wsrep_notify_cmd", "command"];
    for (const from of types) {
      for (const to of types) {
        if (`${from}>${to}` in ROUTES) continue;
        const refused = refusal(
          decodePlain({ ...MESSAGES[0], sender: `${from}.1`, receiver: `${to}.1` }),
        );
        expect([refused.status as number, refused.reason as string]).toEqual([403, "not_routed"]);
        expect(refused.error).toBe(`A ${from} has nothing to say to a ${to}`);
      }
    }
  });

  test("a verb of another route, naming those it knows", () => {
    const refused = refusal(
      decodePlain({ ...sample("request_status", "dbserver"), sender: "dbclient.1", verb: "evict" }),
    );
    expect(refused.reason).toBe("unknown_verb");
    expect(refused.error).toBe(
      'Verb "evict" is not known from dbclient to dbserver, which are: request_status, ack',
    );
  });

  test("verbs out of a prototype, in other spellings or with control characters", () => {
    for (const verb of [
      "constructor",
      "__proto__",
      "hasOwnProperty",
      "ACK",
      "ack ",
      "a\u0000",
      "é",
    ]) {
      const refused = refusal(decodePlain({ ...MESSAGES[0], verb }));
      expect(refused.reason).toBe("unknown_verb");
    }
  });
});

/** Paths of all keys below a value; of lists, the first item only. */
function pathsOf(value: unknown, path: readonly (string | number)[] = []): (string | number)[][] {
  if (Array.isArray(value)) {
    return value.length === 0 ? [] : [[...path, 0], ...pathsOf(value[0], [...path, 0])];
  }
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [
    [...path, key],
    ...pathsOf(inner, [...path, key]),
  ]);
}

/** The list or object that holds the last step of a path. */
function holder(
  root: unknown,
  path: readonly (string | number)[],
): Record<string | number, unknown> {
  let current = root as Record<string | number, unknown>;
  for (const step of path.slice(0, -1)) current = current[step] as Record<string | number, unknown>;
  return current;
}

/** Parameters of a person's order that may be left out. */
const OPTIONAL: readonly (string | number)[] = [
  "dryRun",
  "takeOver",
  "floor",
  "deadlineMs",
  "force",
  "acceptedLoss",
];

/** Texts that are documents of their own, with a longer bound. */
const DOCUMENTS: readonly (string | number)[] = ["durable", "fields"];

describe("decodeMessage() refuses wrong parameters", () => {
  for (const [index, message] of MESSAGES.entries()) {
    test(`${NAMES[index]}: each one missing, extra, or of a wrong kind`, () => {
      refusal(decodePlain({ ...message, parameters: undefined }));
      for (const wrong of [null, [], "x", 1, true]) {
        const refused = refusal(decodePlain({ ...message, parameters: wrong }));
        expect(refused.reason).toBe("bad_parameters");
      }
      for (const path of [[], ...pathsOf(message.parameters)]) {
        const last = path.at(-1);
        const spoilt = plain(message);
        if (last !== undefined) {
          const parent = holder(spoilt["parameters"], path);
          const original = parent[last];
          if (typeof last === "string" && !OPTIONAL.includes(last)) {
            delete parent[last];
            expect(refusal(decodePlain(spoilt)).reason).toBe("bad_parameters");
          }
          // No parameter is a function of its neighbours, so a value of another JSON type is wrong.
          for (const wrong of [true, 7.25, "\u0000", { a: 1 }, [["a"]], -3, 1e300]) {
            if (typeof wrong === typeof original && !(typeof wrong === "object")) continue;
            parent[last] = wrong;
            expect([path, wrong, refusal(decodePlain(spoilt)).reason]).toEqual([
              path,
              wrong,
              "bad_parameters",
            ]);
          }
          if (typeof original === "string" && !DOCUMENTS.includes(last)) {
            parent[last] = "x".repeat(5000);
            expect(refusal(decodePlain(spoilt)).reason).toBe("bad_parameters");
          }
          if (typeof original === "number") {
            for (const wrong of [-3, 1e300]) {
              parent[last] = wrong;
              if (last === "agoMs" && wrong > 0) continue; // The age of a decision has no upper end.
              expect(refusal(decodePlain(spoilt)).reason).toBe("bad_parameters");
            }
          }
          parent[last] = original;
        }
        const inner =
          last === undefined ? spoilt["parameters"] : holder(spoilt["parameters"], path)[last];
        if (typeof inner !== "object" || inner === null || Array.isArray(inner)) continue;
        for (const key of ["extra", "constructor", "toString"]) {
          (inner as Record<string, unknown>)[key] = 1;
          expect(refusal(decodePlain(spoilt)).reason).toBe("bad_parameters");
          delete (inner as Record<string, unknown>)[key];
        }
      }
    });
  }

  test("a prototype key in parameters", () => {
    const body = encodeMessage(sample("drain", "arbitrator")).replace(
      '"parameters":{',
      '"parameters":{"__proto__":{"node":"x"},',
    );
    expect(refusal(decodeMessage(body)).reason).toBe("bad_parameters");
  });

  test("lists beyond their bound", () => {
    const message = plain(sample("db_status_report", "arbitrator"));
    const member = { uuid: "987c3e9c-e6b5-11f1-b5d7-5a1256aad92a", name: "n" };
    message["parameters"] = { ...REPORT.parameters, members: Array(129).fill(member) };
    expect(refusal(decodePlain(message)).reason).toBe("bad_parameters");
  });

  test("a basis of a promotion that is not one of the four", () => {
    const message = sample("make_primary", "dbserver");
    for (const basis of [...BASES, "silence", "Forced", ""]) {
      const decoded = decodePlain({ ...message, parameters: { ...message.parameters, basis } });
      expect([basis, decoded.ok]).toEqual([basis, (BASES as readonly string[]).includes(basis)]);
    }
  });

  test("a node in an order that is not inert, or an order that nobody gives", () => {
    const order = { who: "root", why: "", node: "db1" };
    expect(v.is(NodeOrderSchema, order)).toBe(true);
    for (const node of ["", "a b", "a;b", "$(reboot)", "-x", "../x", "a\n", "x".repeat(65), "é"]) {
      expect([node, v.is(NodeOrderSchema, { ...order, node })]).toEqual([node, false]);
    }
    expect(v.is(NodeOrderSchema, { ...order, who: "" })).toBe(false);
  });

  test("and says which, and how many more", () => {
    const message = sample("drain", "arbitrator");
    const refused = refusal(decodePlain({ ...message, parameters: { node: "a b", who: "" } }));
    expect(refused.error).toStartWith("drain: ");
    expect(refused.error).toMatch(/ at parameters\.\w+ \(and 2 more\)$/);
  });
});

describe("a list of members that came before", () => {
  const MEMBERS = Array.from({ length: 64 }, (_, index) => ({
    uuid: `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`,
    name: `db${index}`,
  }));

  /** A report's text, after another one with the same members has been read. */
  function textAfter(members: readonly unknown[]): string {
    const message = plain(sample("db_status_report", "dbclient"));
    message["parameters"] = { ...REPORT.parameters, members };
    const text = JSON.stringify(message);
    decodeMessage(text);
    return text;
  }

  function membersIn(decoded: Decoded): readonly unknown[] {
    if (!decoded.ok || decoded.message.verb !== "db_status_report") throw new Error("no report");
    return decoded.message.parameters.members;
  }

  test("is the same list, and all else is read as it stands", () => {
    const text = textAfter(MEMBERS);
    const first = membersIn(decodeMessage(text));
    const other = text.replace('"lastCommitted":', '"lastCommitted":1');
    const decoded = decodeMessage(other);
    expect(membersIn(decoded)).toBe(first);
    expect(decoded).toEqual({ ok: true, message: JSON.parse(other) });
    expect(refusal(decodeMessage(text.replace('"fenced":', '"fence":'))).reason).toBe(
      "bad_parameters",
    );
    expect(refusal(decodeMessage(text.slice(0, -1))).reason).toBe("not_json");
    expect(decodeMessage(new TextEncoder().encode(text)).ok).toBe(true);
  });

  test("counts only where it is the report's own", () => {
    const text = textAfter(MEMBERS);
    const list = JSON.stringify(MEMBERS);
    const pair = `"members":${list}`;
    expect(text).toContain(pair);
    // Twice: the last one counts, as in any JSON.
    const two = text.replace(pair, `${pair},"members":[]`);
    expect(membersIn(decodeMessage(two))).toEqual([]);
    expect(membersIn(decodeMessage(text.replace(pair, `"members":[],${pair}`)))).toEqual(MEMBERS);
    const refused = [
      // In another place, or under a key that only ends so.
      text.replace(pair, `"members":0,"versions":{${pair}}`),
      text.replace(pair, `"members":{${pair}}`),
      text.replace(pair, `"the \\"members":${list}`),
      text.replace(pair, `"members":0`),
      text.replace(pair, `${pair}0`),
      text.replace(pair, `"because":"x${pair}"`),
    ];
    for (const one of refused) refusal(decodeMessage(one));
    // A text that has the list in it is no list.
    const said = JSON.stringify({
      ...plain(sample("db_status_report", "dbclient")),
      parameters: { ...REPORT.parameters, members: [], because: pair.slice(0, 900) },
    });
    expect(decodeMessage(said)).toEqual({ ok: true, message: JSON.parse(said) });
  });

  test("is read anew where it differs in a letter, or is longer", () => {
    const text = textAfter(MEMBERS);
    const renamed = text.replace('"name":"db63"', '"name":"db64"');
    expect(membersIn(decodeMessage(renamed))).toEqual([
      ...MEMBERS.slice(0, -1),
      { uuid: MEMBERS[63]?.uuid, name: "db64" },
    ]);
    const [first] = MEMBERS;
    textAfter([first]);
    expect(membersIn(decodeMessage(textAfter(MEMBERS)))).toEqual(MEMBERS);
    // Names may hold what ends a list.
    const odd = [{ uuid: first?.uuid, name: 'a],"members":[' }];
    expect(membersIn(decodeMessage(textAfter(odd)))).toEqual(odd);
    expect(membersIn(decodeMessage(textAfter([])))).toEqual([]);
  });

  test("is refused each time if it is unsound", () => {
    const bad = [{ uuid: "x", name: "db1" }];
    for (let again = 0; again < 3; again++) {
      expect(refusal(decodeMessage(textAfter(bad))).reason).toBe("bad_parameters");
    }
  });

  test("is forgotten when others have come since", () => {
    const texts = Array.from({ length: 9 }, (_, index) => textAfter(MEMBERS.slice(index)));
    for (const [index, text] of texts.entries()) {
      expect(membersIn(decodeMessage(text))).toEqual(MEMBERS.slice(index));
    }
  });
});

describe("formatText() and parseText()", () => {
  for (const [index, message] of MESSAGES.entries()) {
    test(`are lossless for ${NAMES[index]}`, () => {
      const line = formatText(message);
      expect(line).toMatch(/^[^\p{Cc}\p{Zl}\p{Zp}\p{Cf}]+$/u);
      expect(parseText(line)).toEqual({ ok: true, message });
    });
  }

  test("are lossless for texts that try to be something else", () => {
    const hostile = [
      "",
      " ",
      "\n",
      "\r\n",
      "\t",
      "a b",
      'a"b',
      "a\\",
      '\\"',
      "a=b",
      "@seq=1",
      "x @seq=9",
      "true",
      "false",
      "null",
      "1",
      "-1",
      "1e3",
      "0x10",
      "{}",
      "[]",
      '{"a":1}',
      "'",
      "`$(reboot)`",
      "é",
      "\u{1f43f}",
      "\u2028",
      "\u202e",
      "\u001b[2J",
      "\u0000",
      "\u007f",
      "\u0085",
      "\ufeff",
      "a,b",
      "a;b",
      'x why=ok who="root"',
      "a\nb command.1 arbitrator.1 pause",
    ];
    for (const why of hostile) {
      const message = {
        ...sample("pause", "arbitrator"),
        parameters: { who: "me", why },
      } as Message;
      const line = formatText(message);
      expect(line).toMatch(/^[^\p{Cc}\p{Zl}\p{Zp}\p{Cf}]+$/u);
      expect(parseText(line)).toEqual({ ok: true, message });
      const typed = parseText(`command.1 arbitrator.1 pause who=me why=${why}`);
      // Unquoted, it is one text, or refused; never another message.
      if (typed.ok) expect(typed.message.verb).toBe("pause");
    }
  });

  test("fill in the envelope of a line that was typed", () => {
    const decoded = parseText('command.0 arbitrator.1 drain node=db2 who=root why="kernel update"');
    expect(decoded).toEqual({
      ok: true,
      message: {
        v: 1,
        sender: "command.0",
        receiver: "arbitrator.1",
        session: "typed",
        seq: 1,
        toSession: "",
        configVersion: 0,
        verb: "drain",
        parameters: { node: "db2", who: "root", why: "kernel update" },
      },
    });
    const given = parseText("  command.0   arbitrator.1\tstatus_summary @seq=9 ", {
      session: "mine",
      seq: 3,
      toSession: "theirs",
      configVersion: 4,
    });
    expect(given.ok && [given.message.session, given.message.seq]).toEqual(["mine", 9]);
  });

  test("understand aliases too", () => {
    const decoded = parseText("dbclient.1 dbserver.1 status_request because=silent");
    expect(decoded.ok && decoded.message.verb).toBe("request_status");
  });

  test("refuse lines that are no message", () => {
    const lines: readonly [string, string][] = [
      ["", "bad_text"],
      ["command.0 arbitrator.1", "bad_text"],
      ["command.0 arbitrator.1 pause why", "bad_text"],
      ["command.0 arbitrator.1 pause =1", "bad_text"],
      ["command.0 arbitrator.1 pause who=a who=b why=c", "bad_text"],
      ['command.0 arbitrator.1 pause who="a why=b', "bad_text"],
      ["command.0 arbitrator.1 pause who=a why=[1", "bad_text"],
      ["command.0 arbitrator.1 pause who=a why=b @sender=dbserver.1", "bad_text"],
      ["command.0 arbitrator.1 pause who=a why=b @__proto__=1", "bad_text"],
      ["command.0 arbitrator.1 pause who=a why=b __proto__=1", "bad_text"],
      ["command.0 arbitrator.1 pause who=a why=b @v=2", "wire_version"],
      ["command.0 arbitrator.1 pause who=a why=1", "bad_parameters"],
      ["command.0 arbitrator.1 fly who=a", "unknown_verb"],
      ["command.0 dbserver.1 pause who=a why=b", "not_routed"],
      ["nobody arbitrator.1 pause who=a why=b", "bad_envelope"],
      ["x".repeat(BODY_MAX_BYTES + 1), "too_large"],
    ];
    for (const [line, reason] of lines) {
      expect([line.slice(0, 80), refusal(parseText(line)).reason as string]).toEqual([
        line.slice(0, 80),
        reason,
      ]);
    }
  });

  test("read whatever noise without throwing, over many seeded lines", () => {
    let seed = 1;
    const pieces = [
      '"',
      "\\",
      "=",
      " ",
      "{",
      "}",
      "[",
      "]",
      "a",
      "1",
      "@",
      "\n",
      "command.1",
      "arbitrator.1",
      "pause",
      "who",
      ":",
      ",",
      "\ud800",
    ];
    for (let round = 0; round < 3000; round++) {
      let line = "";
      for (let count = 0; count < 12; count++) {
        seed = (seed * 48_271) % 2_147_483_647;
        line += pieces[seed % pieces.length];
      }
      const decoded = parseText(`command.1 arbitrator.1 pause ${line}`);
      if (!decoded.ok) refusal(decoded);
      decodeMessage(line);
    }
  });
});

describe("words()", () => {
  test("cuts a reason to the bound and leaves no half character", () => {
    expect(words("short")).toBe("short");
    expect(words("x".repeat(WORDS_MAX))).toHaveLength(WORDS_MAX);
    const cut = words(`${"x".repeat(WORDS_MAX - 2)}\u{1f43f}\u{1f43f}`);
    expect(cut.length).toBeLessThanOrEqual(WORDS_MAX);
    expect(cut.isWellFormed()).toBe(true);
    expect(cut.endsWith("…")).toBe(true);
    expect(words("\ud800").isWellFormed()).toBe(true);
  });
});
