import { describe, expect, test } from "bun:test";
import type { Plan } from "../lib/message/arbitrator.ts";
import { lossToConfirm, type OrderFlags, orderOf, planText } from "../lib/order_words.ts";

const PLAIN: OrderFlags = {
  who: "eve",
  why: "new disk",
  dryRun: false,
  takeOver: false,
  rearm: false,
  force: false,
  allowDataLoss: false,
  abort: false,
  floor: null,
  deadlineMs: null,
};
const SIGNED = { who: "eve", why: "new disk" };

describe("orderOf()", () => {
  const cases: readonly (readonly [string, Partial<OrderFlags>, ReturnType<typeof orderOf>])[] = [
    ["status_summary", {}, { verb: "status_summary", parameters: {} }],
    ["drain db1", {}, { verb: "drain", parameters: { ...SIGNED, node: "db1" } }],
    [
      "drain db1",
      { floor: 2, deadlineMs: 60_000, dryRun: true, takeOver: true },
      {
        verb: "drain",
        parameters: {
          ...SIGNED,
          node: "db1",
          floor: 2,
          deadlineMs: 60_000,
          dryRun: true,
          takeOver: true,
        },
      },
    ],
    ["undrain db1", {}, { verb: "undrain", parameters: { ...SIGNED, node: "db1" } }],
    ["reseed db1", {}, { verb: "reseed", parameters: { ...SIGNED, node: "db1" } }],
    ["retire db1", {}, { verb: "retire", parameters: { ...SIGNED, node: "db1" } }],
    ["restore db1", {}, { verb: "restore", parameters: { ...SIGNED, node: "db1" } }],
    ["pause", {}, { verb: "pause", parameters: SIGNED }],
    ["resume", { rearm: true }, { verb: "resume", parameters: { ...SIGNED, rearm: true } }],
    [
      "make_primary dc2",
      { force: true, allowDataLoss: true },
      {
        verb: "make_primary",
        parameters: { ...SIGNED, segment: "dc2", force: true, allowDataLoss: true },
      },
    ],
    ["switchover dc2", {}, { verb: "switchover", parameters: { ...SIGNED, segment: "dc2" } }],
    [
      "switchover",
      { abort: true },
      { verb: "switchover", parameters: { ...SIGNED, segment: null } },
    ],
  ];
  for (const [words, flags, order] of cases) {
    test(`${words} ${JSON.stringify(flags)}`, () => {
      expect(orderOf(words.split(" "), { ...PLAIN, ...flags })).toEqual(order);
    });
  }

  for (const words of ["", "dance", "drain", "drain a b", "pause dc1", "switchover"]) {
    test(`${JSON.stringify(words)} is no order`, () => {
      expect(() => orderOf(words.split(" ").filter(Boolean), PLAIN)).toThrow();
    });
  }
});

describe("a plan", () => {
  const loss = {
    transactions: 14,
    exact: true,
    because: "14 transactions of db1 will be missing",
    confirmation: "lose 14 transactions",
  };
  const refused: Plan = {
    order: "make_primary",
    outcome: "refused",
    because: "loss.confirmed: 14 transactions of db1 will be missing",
    checks: [
      { id: "store.trusted", passed: true, because: "it is" },
      { id: "loss.confirmed", passed: false, because: "14 transactions" },
    ],
    steps: [],
    loss,
  };

  test("is printed with every check, step and loss", () => {
    expect(planText({ ...refused, outcome: "would", steps: ["first", "second"] })).toBe(
      [
        "make_primary: would be done - loss.confirmed: 14 transactions of db1 will be missing",
        "  ok  store.trusted: it is",
        "  NO  loss.confirmed: 14 transactions",
        "  1. first",
        "  2. second",
        "  loss: 14 transactions of db1 will be missing",
      ].join("\n"),
    );
  });

  test("asks to confirm a loss only where nothing else speaks against the order", () => {
    expect(lossToConfirm(refused)).toEqual(loss);
    const other = { id: "outside.excluded", passed: false, because: "dc1" };
    expect(lossToConfirm({ ...refused, checks: [other] })).toBeNull();
    expect(lossToConfirm({ ...refused, loss: { ...loss, confirmation: "" } })).toBeNull();
    expect(lossToConfirm({ ...refused, loss: null })).toBeNull();
  });
});
