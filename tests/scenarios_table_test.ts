/** The tables of docs/scenarios.md name tests that there are, and every hole and fault. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const table = readFileSync(join(ROOT, "docs/scenarios.md"), "utf8");
const tests = [...new Bun.Glob("tests/**/*.ts").scanSync({ cwd: ROOT })]
  .map((file) => readFileSync(join(ROOT, file), "utf8"))
  .join("\n");

/** First cells of the rows of a heading's table. */
function rowsOf(heading: string): readonly string[] {
  const [, part = ""] = table.split(`## ${heading}\n`);
  const [own = ""] = part.split("\n## ");
  return [...own.matchAll(/^\| ([H\d][\d, ]*) \|/gm)].flatMap((match) =>
    (match[1] ?? "").split(", "),
  );
}

describe("the tables of scenarios", () => {
  test("quote names of tests that there are", () => {
    const quoted = [...table.matchAll(/^\|.*\|$/gm)].flatMap(([row]) =>
      [...row.matchAll(/"([^"]+)"/g)].map((match) => match[1] ?? ""),
    );
    expect(quoted.length).toBeGreaterThan(60);
    expect(quoted.filter((name) => !tests.includes(name))).toEqual([]);
  });

  test("have a row for every hole and every fault", () => {
    const numbers = (count: number, prefix: string) =>
      Array.from({ length: count }, (_, index) => `${prefix}${index + 1}`);
    expect([...rowsOf("Holes of earlier rules")]).toEqual(numbers(24, "H"));
    expect([...rowsOf("Faults")]).toEqual(numbers(30, ""));
  });
});
