/** Examines the servers' settings and prints what should be otherwise, with what mends it. */
import { loadConfig, parseArguments, UsageError } from "../lib/cli.ts";
import { diagnose, exitCodeOf, findingsText } from "../lib/doctor.ts";
import { examine } from "../lib/effects/settings.ts";
import { formatError } from "../lib/errors.ts";

const USAGE = `
Usage: doctor.ts [--config FILE] [--json] [NODE]
  --config FILE  the cluster's config; default GM_CONFIG, config/cluster.toml, or a running demo's
  --json         the findings as JSON
  NODE           one server, by name or id, or a segment; default: all of them
Changes nothing. Exit: 0 nothing to mend, 1 warnings, 2 errors, a server that cannot be asked, or wrong use
`;

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    config: { type: "string" },
    json: { type: "boolean" },
  });
  const config = await loadConfig(values.config);
  const [node, ...more] = words;
  const asked = config.servers.filter(
    ({ id, name, segment }) => node === undefined || [id, name, segment].includes(node),
  );
  if (asked.length === 0 || more.length > 0) {
    throw new UsageError(`There is no server or segment ${words.join(" ")}`, {
      hint: `There are ${config.servers.map(({ name }) => name).join(", ")}`,
    });
  }
  const findings = diagnose(
    config,
    await Promise.all(asked.map((server) => examine(config, server))),
  );
  const text = findingsText(
    findings,
    asked.map(({ name }) => name),
  );
  console.log(values.json === true ? JSON.stringify(findings) : text);
  return exitCodeOf(findings);
}

if (import.meta.main) {
  try {
    process.exit(await main());
  } catch (error) {
    // 1 would say "warnings": a question that failed is no answer.
    console.error(formatError(error));
    process.exit(2);
  }
}
