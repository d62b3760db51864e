/** The protocol document names what the schemas and the programs hold. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ALIASES, ROUTES, type Route, verbsOf } from "../../lib/message/mod.ts";
import { MESSAGES } from "./samples.ts";

const ROOT = join(import.meta.dir, "../..");
const README = await Bun.file(join(ROOT, "lib/message/README.md")).text();

/** Words in backticks, outside of code blocks. */
const PROSE = README.replace(/```.*?```/gs, "");
const NAMED = new Set([...PROSE.matchAll(/`([^`]+)`/g)].map((match) => match[1]));

function keysOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(keysOf);
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [key, ...keysOf(inner)]);
}

describe("lib/message/README.md", () => {
  test("names every verb of every route, and every alias", () => {
    const verbs = (Object.keys(ROUTES) as Route[]).flatMap((route) => [...verbsOf(route)]);
    expect([...verbs, ...Object.keys(ALIASES)].filter((verb) => !NAMED.has(verb))).toEqual([]);
  });

  test("names every key of every message", () => {
    const keys = new Set(MESSAGES.flatMap(keysOf));
    expect([...keys].filter((key) => !NAMED.has(key))).toEqual([]);
  });

  test("names every reason for which something is refused", async () => {
    const files = ["message/mod.ts", "correspondent.ts", "endpoint.ts", "loop.ts"];
    const texts = await Promise.all(files.map((file) => Bun.file(join(ROOT, "lib", file)).text()));
    const patterns = [/reason: "([a-z_0-9]+)"/g, /refuse\(\s*[0-9]+,\s*"([a-z_0-9]+)"/g];
    const reasons = texts.flatMap((text) =>
      patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1] ?? "")),
    );
    expect(reasons.length).toBeGreaterThan(20);
    expect(reasons.filter((reason) => !NAMED.has(reason))).toEqual([]);
  });
});
