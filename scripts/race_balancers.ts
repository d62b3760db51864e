/**
 * Side by side on a real cluster: HAProxy steered by a client minder, and HAProxy with the common
 * clustercheck every second. Prints how long each led clients to a bad server, and what the checks cost.
 */
import { parseArguments, runScript } from "../lib/cli.ts";
import { openMinded } from "../lib/lab/minded.ts";
import { type Fault, Race, type RaceCost, type RaceRow, type RaceTimes } from "../lib/lab/race.ts";

const USAGE = `
Usage: race_balancers.ts [--name NAME]
  --name NAME  of the lab (default race)
Takes two to four minutes, as root, and leaves nothing behind.
`;

const FAULTS: readonly (readonly [Fault, string])[] = [
  ["crash", "mariadbd crashes (SIGKILL)"],
  ["stop", "planned stop (drain, 1 s later SIGTERM)"],
  ["hang", "mariadbd hangs (SIGSTOP)"],
];

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, { name: { type: "string" } });
  const say = (line: string): void => console.error(`  ${line}`);
  const minded = await openMinded(values.name ?? "race", { apps: 1 });
  try {
    await minded.start();
    const race = new Race(minded, say);
    await race.start();
    say("both balancers lead to one writer; counting the cost of calm");
    const costs = await race.cost();
    const rows: RaceRow[] = [];
    for (const [fault] of FAULTS) rows.push(await race.run(fault));
    console.log(timesTable(rows));
    console.log(costTable(costs));
    return 0;
  } finally {
    await minded.down();
  }
}

function timesTable(rows: readonly RaceRow[]): string {
  const words = ({ lastMs, elsewhereMs, sent }: RaceTimes): readonly string[] => [
    `${Math.round(lastMs)} ms`,
    String(sent),
    Number.isFinite(elsewhereMs) ? `${Math.round(elsewhereMs)} ms` : "never",
  ];
  const lines = rows.flatMap(({ fault, minded, checked }) => {
    const name = FAULTS.find(([one]) => one === fault)?.[1] ?? fault;
    return [
      [name, "minded", ...words(minded)],
      ["", "clustercheck every 1 s", ...words(checked)],
    ];
  });
  const header = [
    "fault of the writer",
    "HAProxy",
    "last sent there",
    "sent",
    "first open elsewhere",
  ];
  return table("New connections, one every 10 ms, from the fault (or the order) on", header, lines);
}

function costTable(costs: readonly RaceCost[]): string {
  const lines = costs.map(({ what, msPerMinute }) => [what, `${Math.round(msPerMinute)} ms`]);
  return table("CPU time per minute of calm, mariadbd's own not counted", ["what", "CPU"], lines);
}

function table(
  title: string,
  header: readonly string[],
  lines: readonly (readonly string[])[],
): string {
  const all = [header, ...lines];
  const widths = header.map((_, column) =>
    Math.max(...all.map((line) => line[column]?.length ?? 0)),
  );
  const text = all.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return `\n${title}\n\n${text.join("\n")}`;
}

if (import.meta.main) await runScript(main);
