/** The list of breakages keeps up with the sources that it breaks. */
import { expect, test } from "bun:test";
import { applyEdit, staleMutants } from "../support/mutation.ts";
import { MUTANTS } from "./mutants.ts";

test("every breakage finds the words that it replaces, is still a program, and names a scenario", () => {
  expect(staleMutants()).toEqual([]);
});

test("there are at least 25 breakages, each with a name of its own", () => {
  expect(MUTANTS.length).toBeGreaterThanOrEqual(25);
  expect(new Set(MUTANTS.map(({ id }) => id)).size).toBe(MUTANTS.length);
});

test("an edit whose words are missing or ambiguous is an error", () => {
  const edit = { file: "x.ts", from: "a", to: "b" };
  expect(applyEdit("1 a 2", edit)).toBe("1 b 2");
  expect(() => applyEdit("a", { ...edit, to: "a" })).toThrow("x.ts would stay as it is");
  expect(() => applyEdit("1 2", edit)).toThrow("x.ts says 0 times");
  expect(() => applyEdit("a a", edit)).toThrow("x.ts says 2 times");
  expect(applyEdit("a a", { ...edit, everywhere: true })).toBe("b b");
});
