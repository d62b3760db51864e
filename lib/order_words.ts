/** Orders as people type them, and plans as they read them: words to messages and back. */
import { MinderError } from "./errors.ts";
import type { Plan } from "./message/arbitrator.ts";
import type { BodyFrom } from "./message/mod.ts";

/** Everything that was typed but the words. */
export interface OrderFlags {
  readonly who: string;
  readonly why: string;
  readonly dryRun: boolean;
  readonly takeOver: boolean;
  readonly rearm: boolean;
  readonly force: boolean;
  readonly allowDataLoss: boolean;
  readonly abort: boolean;
  /** Servers that stay open at least; null: the arbitrator's default. */
  readonly floor: number | null;
  readonly deadlineMs: number | null;
}

const NODE_VERBS = ["undrain", "retire", "restore", "start", "discard", "reseed"] as const;

/** Every order and question that can be typed. */
const VERBS: readonly string[] = [
  ...["status_summary", "drain", ...NODE_VERBS],
  ...["switchover", "pause", "resume", "make_primary"],
];

/**
 * The message that the words stand for.
 * @throws MinderError if they are no order
 */
export function orderOf(words: readonly string[], flags: OrderFlags): BodyFrom<"command"> {
  const [verb, name, ...rest] = words;
  if (verb === undefined) throw new MinderError("No order was given", { hint: "See --help" });
  const signed = {
    who: flags.who,
    why: flags.why,
    ...(flags.dryRun ? { dryRun: true } : {}),
    ...(flags.takeOver ? { takeOver: true } : {}),
  };
  const deadline = flags.deadlineMs === null ? {} : { deadlineMs: flags.deadlineMs };
  if (verb === "switchover" && flags.abort && name === undefined) {
    return { verb, parameters: { ...signed, segment: null } };
  }
  if (!VERBS.includes(verb)) {
    throw new MinderError(`There is no order ${JSON.stringify(verb)}`, {
      hint: `Orders are ${VERBS.join(", ")}; see --help`,
    });
  }
  const takesName =
    ["drain", "make_primary", "switchover"].includes(verb) ||
    NODE_VERBS.some((one) => one === verb);
  if (takesName && name === undefined) {
    throw new MinderError(`${verb} needs the name of a server or segment`, { hint: "See --help" });
  }
  if (rest.length > 0 || (!takesName && name !== undefined)) {
    throw new MinderError(`${verb} takes ${takesName ? "one name" : "no name"}`, {
      hint: "See --help",
    });
  }
  const node = name ?? "";
  for (const each of NODE_VERBS) {
    if (each === verb) return { verb: each, parameters: { ...signed, node } };
  }
  switch (verb) {
    case "status_summary":
      return { verb, parameters: {} };
    case "drain": {
      const floor = flags.floor === null ? {} : { floor: flags.floor };
      return { verb, parameters: { ...signed, node, ...floor, ...deadline } };
    }
    case "pause":
      return { verb, parameters: signed };
    case "resume":
      return { verb, parameters: { ...signed, rearm: flags.rearm } };
    case "make_primary": {
      const { force, allowDataLoss } = flags;
      return {
        verb,
        parameters: { ...signed, segment: node, ...(force ? { force } : {}), allowDataLoss },
      };
    }
    case "switchover":
      return { verb, parameters: { ...signed, segment: node, ...deadline } };
    default:
      throw new MinderError(`There is no order ${JSON.stringify(verb)}`, { hint: "See --help" });
  }
}

/** A plan as lines: what would be done, every check, every step, what is lost. */
export function planText(plan: Plan): string {
  const head = {
    would: "would be done",
    already: "nothing to do",
    refused: "would be refused",
  } as const satisfies Record<Plan["outcome"], string>;
  return [
    `${plan.order}: ${head[plan.outcome]} - ${plan.because}`,
    ...plan.checks.map(
      (check) => `  ${check.passed ? "ok " : "NO "} ${check.id}: ${check.because}`,
    ),
    ...plan.steps.map((step, index) => `  ${index + 1}. ${step}`),
    ...(plan.loss === null ? [] : [`  loss: ${plan.loss.because}`]),
  ].join("\n");
}

/** The loss that a person must confirm by typing before the order is given; null if there is none. */
export function lossToConfirm(plan: Plan): NonNullable<Plan["loss"]> | null {
  const { loss } = plan;
  if (loss === null || loss.confirmation === "") return null;
  const failed = plan.checks.find(({ passed }) => !passed);
  return failed === undefined || failed.id === "loss.confirmed" ? loss : null;
}
