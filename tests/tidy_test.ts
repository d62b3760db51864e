/** The code base's own rules: layers, sizes, a test for each module, a test for each rule. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { RULES } from "../lib/core/arbitrator_rules.ts";
import {
  MAKE_PRIMARY_CHECKS,
  ORDER_CHECKS,
  RESEED_CHECKS,
  START_CHECKS,
} from "../lib/core/dbserver_orders.ts";
import { ALIASES, ROUTES, type Route, verbsOf } from "../lib/message/mod.ts";

const ROOT = join(import.meta.dir, "..");
const sources = [...new Bun.Glob("{lib,scripts}/**/*.ts").scanSync({ cwd: ROOT })].sort();
const tests = [...new Bun.Glob("tests/**/*_test.ts").scanSync({ cwd: ROOT })].sort();

function read(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

/** Folder or file prefix to its layer; a module imports only from lower layers or its own folder. */
const LAYERS: readonly (readonly [string, number])[] = [
  ["lib/errors.ts", 0],
  ["lib/runtime.ts", 0],
  ["lib/message/", 1],
  ["lib/cluster_config.ts", 1],
  ["lib/wsrep_status.ts", 1],
  ["lib/notify.ts", 1],
  ["lib/notify_fence.ts", 1],
  ["lib/status_text.ts", 1],
  ["lib/order_words.ts", 1],
  ["lib/history_text.ts", 1],
  ["lib/grants.ts", 1],
  ["lib/guard.ts", 1],
  ["lib/core/", 2],
  ["lib/correspondent.ts", 3],
  ["lib/rate.ts", 3],
  ["lib/seal.ts", 4],
  ["lib/config_store.ts", 1],
  ["lib/health.ts", 4],
  ["lib/what_if_text.ts", 3],
  ["lib/client_text.ts", 3],
  ["lib/doctor.ts", 3],
  ["lib/gate.ts", 3],
  ["lib/systemd.ts", 3],
  ["lib/balancer_config.ts", 3],
  ["lib/wakeup.ts", 4],
  ["lib/log.ts", 4],
  ["lib/endpoint.ts", 4],
  ["lib/effects/", 4],
  ["lib/loop.ts", 5],
  ["lib/cli.ts", 5],
  ["lib/run/", 6],
  ["lib/lab/", 7],
  // Tools of development (benchmarks, simulator, mutants) run what the tests are made of.
  ["tests/", 7],
  ["scripts/", 8],
];

/** Scripts that prove or measure something; the others run in production and only wire. */
const TOOLS = /^scripts\/(bench_|measure_|race_|sim|mutants|fuzz_|test\.ts)/;
const SCRIPT_LINES_MAX = 150;
const TOOL_LINES_MAX = 300;

function layerOf(file: string): number {
  const found = LAYERS.find(([prefix]) => file.startsWith(prefix));
  if (found === undefined) throw new Error(`${file} has no layer in tests/tidy_test.ts`);
  return found[1];
}

function importsOf(file: string): string[] {
  return [...read(file).matchAll(/^(?:import|export)[^;]*?from "(\.[^"]+)"/gms)].map((match) =>
    normalize(join(dirname(file), match[1] ?? "")),
  );
}

describe("the tree", () => {
  test("imports only from lower layers, or within a folder", () => {
    const upward = sources.flatMap((file) =>
      importsOf(file)
        .filter((to) => to.endsWith(".ts"))
        .filter((to) => layerOf(to) >= layerOf(file) && dirname(to) !== dirname(file))
        .filter((to) => !(layerOf(to) === 4 && layerOf(file) === 4))
        .filter((to) => !(layerOf(to) === 1 && layerOf(file) === 1))
        .map((to) => `${file} imports ${to}`),
    );
    expect(upward).toEqual([]);
  });

  test("begins every module with a comment that says what it owns", () => {
    const without = sources.filter((file) => !/^(#!.*\n)?\/\*\*/.test(read(file)));
    expect(without).toEqual([]);
  });

  test("keeps scripts thin", () => {
    const thick = sources.filter(
      (file) =>
        file.startsWith("scripts/") &&
        read(file).split("\n").length > (TOOLS.test(file) ? TOOL_LINES_MAX : SCRIPT_LINES_MAX),
    );
    expect(thick).toEqual([]);
  });

  test("has a test beside every module that decides or translates", () => {
    const names = new Set(tests.map((file) => basename(file, "_test.ts")));
    const imported = new Set(tests.flatMap(importsOf));
    const untested = sources
      .filter((file) => layerOf(file) <= 5)
      .filter((file) => !names.has(basename(file, ".ts")) && !imported.has(file))
      // The parts of a role's core are tested through it: arbitrator_orders.ts by arbitrator_test.ts.
      .filter((file) => !/^lib\/core\/(arbitrator|dbserver)_/.test(file));
    expect(untested).toEqual([]);
  });

  test("names no machine path, registry or unfinished work", () => {
    const forbidden = /\/work\/|registry\.|T[O]DO|F[I]XME|X[X]X/;
    const found = [...sources, ...tests, "README.md", "justfile"].filter((file) =>
      forbidden.test(read(file)),
    );
    expect(found).toEqual([]);
    expect(read("package-lock.json")).not.toContain('"resolved"');
  });
});

describe("the rules", () => {
  const names = tests.map(read).join("\n");

  test("each rule of the arbitrator is named by a test", () => {
    const missing = RULES.map((rule) => rule.id).filter((id) => !names.includes(id));
    expect(missing).toEqual([]);
  });

  test("each check of an order is named by a test", () => {
    const checks = [
      ...[...ORDER_CHECKS, ...MAKE_PRIMARY_CHECKS],
      ...[...START_CHECKS, ...RESEED_CHECKS],
    ];
    const missing = checks.map((check) => check.id).filter((id) => !names.includes(id));
    expect(missing).toEqual([]);
  });

  test("ids are unique", () => {
    const checks = [...ORDER_CHECKS, ...MAKE_PRIMARY_CHECKS, ...START_CHECKS, ...RESEED_CHECKS];
    const ids = [...RULES, ...checks].map((rule) => rule.id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe("the founding names", () => {
  const table = read("docs/seed.md");

  test("every verb of the wire is in the table", () => {
    const verbs = (Object.keys(ROUTES) as Route[]).flatMap((route) => verbsOf(route));
    const missing = [...new Set([...verbs, ...Object.keys(ALIASES)])].filter(
      (verb) => !table.includes(`\`${verb}\``),
    );
    expect(missing).toEqual([]);
  });

  test("every file in the table exists", () => {
    const files = [...table.matchAll(/`((?:lib|scripts|config)\/[\w./]+)`/g)].map(
      (match) => match[1] ?? "",
    );
    expect(files.length).toBeGreaterThan(20);
    expect(files.filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
  });

  test("every function in the table is in the file that is named with it", () => {
    const named = [...table.matchAll(/`(\w+)(?:\(\))?` in `([\w./]+)`/g)];
    expect(named.length).toBeGreaterThan(2);
    const missing = named.filter(
      ([, name = "", file = ""]) => !new RegExp(`(function|const) ${name}\\b`).test(read(file)),
    );
    expect(missing.map(([words]) => words)).toEqual([]);
  });
});
