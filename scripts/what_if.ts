/** Says what would happen if something failed now, by the arbitrator's own rules and from its live state. Exit: 0 told, 1 failed, 2 wrong use. */
import { loadConfig, parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { forecast, parseFault } from "../lib/core/what_if.ts";
import { askState } from "../lib/run/snapshot.ts";
import { forecastText } from "../lib/what_if_text.ts";

const USAGE = `
Usage: what_if.ts [--config FILE] [--json] FAULT
  FAULT    SEGMENT-down or SERVER-down (the hosts and all on them), SEGMENT-crash or SERVER-crash
           (only mariadbd ends, its watchdog lives on), link-down, arbitrator-down
  --json   the forecast as JSON
Runs the arbitrator's rules on a copy of its live state. Nothing is changed, nobody is told.
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    config: { type: "string" },
    json: { type: "boolean" },
  });
  const [word, ...rest] = words;
  if (word === undefined || rest.length > 0) {
    throw new UsageError("One fault is needed, as dc1-down", { hint: "See --help" });
  }
  const config = await loadConfig(values.config);
  const fault = parseFault(config, word);
  if (typeof fault === "string") throw new UsageError(fault, { hint: "See --help" });
  const { state, now } = await askState(config, 5_000);
  const found = forecast(state, fault, now);
  console.log(values.json === true ? JSON.stringify(found) : forecastText(found));
  return 0;
}

if (import.meta.main) await runScript(main);
