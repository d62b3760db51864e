/** Gives an order to the arbitrator, and prints what it says. Exit: 0 done, 1 refused or failed, 2 wrong use. */
import { loadConfig, parseArguments, runScript, UsageError, whoOrders } from "../lib/cli.ts";
import type { ClusterConfig } from "../lib/cluster_config.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import { MinderError } from "../lib/errors.ts";
import type { Plan } from "../lib/message/arbitrator.ts";
import type { BodyFrom } from "../lib/message/mod.ts";
import { lossToConfirm, type OrderFlags, orderOf, planText } from "../lib/order_words.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";

const USAGE = `
Usage: command.ts [--config FILE] [--why WORDS] [--who NAME] [--dry-run] [--json] ORDER
Orders:
  status_summary             how the cluster is
  drain NODE [--floor N] [--deadline SECONDS]
                             no new client connections to a server, or a whole segment, while N others
                             serve (default 1); sessions left at the deadline are cut (default: never)
  undrain NODE               let clients reach it again
  switchover SEGMENT [--deadline SECONDS]
                             move the writers, and the preferred side, while all is well
  switchover --abort         move them back
  pause                      no automatic decisions
  resume [--rearm]           go on; --rearm after the arbitrator has lost its state
  retire NODE                a server that is gone for good has no say any more
  restore NODE               it has a say again
  start NODE                 try a server again that was given up after failed starts
  reseed NODE                set its data aside and take all of another server's
  discard NODE               remove the old data that was set aside before its full transfer
  make_primary SEGMENT [--force] [--allow-data-loss [--confirm WORDS]]
                             promote a segment that the rules hold back; --force: whoever is silent is
                             stopped, on your word; --allow-data-loss: it may lack commits, which are
                             stated and have to be confirmed by typing (or by --confirm)
Options:
  --dry-run      only print the checks and the steps, from the live state
  --take-over    another person's order is no obstacle
  --who NAME     default: GM_WHO, else the user who is logged in
  --json         the answer as JSON
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    config: { type: "string" },
    why: { type: "string" },
    who: { type: "string" },
    floor: { type: "string" },
    deadline: { type: "string" },
    confirm: { type: "string" },
    json: { type: "boolean" },
    "dry-run": { type: "boolean" },
    "take-over": { type: "boolean" },
    rearm: { type: "boolean" },
    force: { type: "boolean" },
    abort: { type: "boolean" },
    "allow-data-loss": { type: "boolean" },
  });
  const flags: OrderFlags = {
    who: values.who ?? whoOrders(),
    why: values.why ?? "",
    dryRun: values["dry-run"] === true,
    takeOver: values["take-over"] === true,
    rearm: values.rearm === true,
    force: values.force === true,
    allowDataLoss: values["allow-data-loss"] === true,
    abort: values.abort === true,
    floor: numberFrom("floor", values.floor),
    deadlineMs: millis(numberFrom("deadline", values.deadline)),
  };
  const body = readOrder(words, flags);
  const config = await loadConfig(values.config);
  const json = values.json === true;
  if (flags.allowDataLoss && body.verb === "make_primary" && !flags.dryRun) {
    const accepted = await confirmLoss(config, body, values.confirm);
    return await give(config, { ...body, parameters: { ...body.parameters, ...accepted } }, json);
  }
  return await give(config, body, json);
}

function readOrder(words: readonly string[], flags: OrderFlags): BodyFrom<"command"> {
  try {
    return orderOf(words, flags);
  } catch (error) {
    if (!(error instanceof MinderError)) throw error;
    throw new UsageError(error.message, { hint: error.hint ?? "See --help" });
  }
}

async function give(
  config: ClusterConfig,
  body: BodyFrom<"command">,
  json: boolean,
): Promise<number> {
  const { verb, parameters } = await askArbitrator(body, { config, timeoutMs: 5_000 });
  if (json) console.log(JSON.stringify(parameters));
  if (verb === "status_summary" && "health" in parameters) {
    if (!json) console.log(statusText(parameters));
    return EXIT_BY_HEALTH[parameters.health];
  }
  if (verb === "plan" && "checks" in parameters) {
    if (!json) console.log(planText(parameters));
    return parameters.outcome === "refused" ? 1 : 0;
  }
  if (verb !== "ack") throw new Error(`The arbitrator answered with ${verb}`);
  const { outcome, because } = parameters;
  if (!json) console.log(`${outcome}: ${because}`);
  return outcome === "ok" ? 0 : 1;
}

/** States what would be lost and has it typed; what was accepted goes with the order. */
async function confirmLoss(
  config: ClusterConfig,
  body: Extract<BodyFrom<"command">, { verb: "make_primary" }>,
  given: string | undefined,
): Promise<{ readonly acceptedLoss?: number | null }> {
  const asked = { ...body, parameters: { ...body.parameters, dryRun: true } };
  const { verb, parameters } = await askArbitrator(asked, { config, timeoutMs: 5_000 });
  if (verb !== "plan" || !("checks" in parameters)) return {};
  const loss = lossToConfirm(parameters as Plan);
  if (loss === null) return {};
  const typed =
    given ??
    (process.stdin.isTTY
      ? prompt(`${loss.because}.\nType "${loss.confirmation}" to go on:`)
      : null);
  if (typed === null || typed.trim() !== loss.confirmation) {
    throw new MinderError(`Not confirmed: ${loss.because}`, {
      hint: `Confirm it with --confirm "${loss.confirmation}"`,
    });
  }
  return { acceptedLoss: loss.exact ? loss.transactions : null };
}

function numberFrom(option: string, text: string | undefined): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new UsageError(`--${option} is ${JSON.stringify(text)}, must be a number from 0`, {
    hint: "See --help",
  });
}

function millis(seconds: number | null): number | null {
  return seconds === null ? null : Math.round(seconds * 1000);
}

if (import.meta.main) await runScript(main);
