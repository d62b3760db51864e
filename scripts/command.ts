/** Gives an order to the arbitrator, and prints what it says. Exit: 0 done, 1 refused or failed, 2 wrong use. */
import { userInfo } from "node:os";
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { askArbitrator } from "../lib/effects/ask.ts";
import type { BodyFrom } from "../lib/message/mod.ts";
import { EXIT_BY_HEALTH, statusText } from "../lib/status_text.ts";

const USAGE = `
Usage: command.ts [--config FILE] [--why WORDS] [--who NAME] [--json] ORDER
Orders:
  status_summary             how the cluster is
  drain NODE                 no new client connections to a server, or a whole segment
  undrain NODE               let clients reach it again
  retire NODE                a server that is gone for good has no say any more
  restore NODE               it has a say again
  pause                      no automatic decisions
  resume [--rearm]           go on; --rearm after the arbitrator has lost its state
  make_primary SEGMENT [--allow-data-loss]
                             promote a segment; the flag accepts that it may lack commits
`;

const NODE_VERBS = ["drain", "undrain", "retire", "restore"] as const;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    config: { type: "string" },
    why: { type: "string" },
    who: { type: "string" },
    json: { type: "boolean" },
    rearm: { type: "boolean" },
    "allow-data-loss": { type: "boolean" },
  });
  const signed = { who: values.who ?? userInfo().username, why: values.why ?? "" };
  const body = orderOf(words, signed, {
    rearm: values.rearm === true,
    allowDataLoss: values["allow-data-loss"] === true,
  });
  const config = await loadConfig(values.config);
  const { verb, parameters } = await askArbitrator(body, { config, timeoutMs: 5_000 });
  if (values.json === true) console.log(JSON.stringify(parameters));
  if (verb === "status_summary" && "health" in parameters) {
    if (values.json !== true) console.log(statusText(parameters));
    return EXIT_BY_HEALTH[parameters.health];
  }
  if (verb !== "ack") throw new Error(`The arbitrator answered with ${verb}`);
  const { outcome, because } = parameters;
  if (values.json !== true) console.log(`${outcome}: ${because}`);
  return outcome === "ok" ? 0 : 1;
}

function orderOf(
  words: readonly string[],
  signed: { readonly who: string; readonly why: string },
  flags: { readonly rearm: boolean; readonly allowDataLoss: boolean },
): BodyFrom<"command"> {
  const [verb, node, ...rest] = words;
  const takesNode = verb === "make_primary" || NODE_VERBS.some((each) => each === verb);
  if (verb === undefined) throw new UsageError("No order was given", { hint: "See --help" });
  if (takesNode && node === undefined) {
    throw new UsageError(`${verb} needs the name of a server or segment`, { hint: "See --help" });
  }
  if (rest.length > 0 || (!takesNode && node !== undefined)) {
    throw new UsageError(`${verb} takes ${takesNode ? "one name" : "no name"}`, {
      hint: "See --help",
    });
  }
  for (const each of NODE_VERBS) {
    if (each === verb) return { verb: each, parameters: { ...signed, node: node ?? "" } };
  }
  switch (verb) {
    case "status_summary":
      return { verb, parameters: {} };
    case "pause":
      return { verb, parameters: signed };
    case "resume":
      return { verb, parameters: { ...signed, rearm: flags.rearm } };
    case "make_primary":
      return {
        verb,
        parameters: { ...signed, segment: node ?? "", allowDataLoss: flags.allowDataLoss },
      };
    default:
      throw new UsageError(`There is no order ${JSON.stringify(verb)}`, { hint: "See --help" });
  }
}

if (import.meta.main) await runScript(main);
