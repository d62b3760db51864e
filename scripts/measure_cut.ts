/**
 * Measures what a cut of the link does to writes in flight, on a real 2+2 cluster without minders.
 * One JSON line per cut, and a last one with the sums.
 */
import { parseArguments, runScript } from "../lib/cli.ts";
import { HALVES, measureCut } from "../lib/lab/cut_measure.ts";
import { openLab } from "../lib/lab/lab.ts";

const USAGE = `
Usage: measure_cut.ts [--rounds N] [--writers N] [--options STRING]
  --rounds N        cuts (default 12)
  --writers N       sessions that write, on each server (default 6)
  --options STRING  added to wsrep_provider_options
  --heavy           weight 2 on both servers of dc1, so that it stays Primary
  --fence MS        wsrep_reject_queries=ALL_KILL on both servers of dc1, so long after the cut
`;
const LAB = "measure-cut";

async function main(): Promise<number> {
  const { values } = parseArguments(USAGE, {
    rounds: { type: "string" },
    writers: { type: "string" },
    options: { type: "string" },
    heavy: { type: "boolean" },
    fence: { type: "string" },
  });
  const heavy = values.heavy === true;
  const fenceMs = values.fence === undefined ? null : Number(values.fence);
  const rounds = Number(values.rounds ?? 12);
  const lab = await openLab(LAB, { apps: 1, providerOptions: values.options ?? "" });
  try {
    await lab.startServers();
    const weight = "SET GLOBAL wsrep_provider_options = 'pc.weight=2'";
    for (const host of heavy ? HALVES[0] : []) await lab.query(host, weight);
    const total = {
      unequal: 0,
      missing: 0,
      before: 0,
      during: 0,
      stalled: 0,
      atChange: 0,
      never: 0,
    };
    for (let round = 1; round <= rounds; round++) {
      const found = await measureCut(lab, {
        round,
        heavy,
        fenceMs,
        writers: Number(values.writers ?? 6),
      });
      console.log(JSON.stringify({ round, ...found }));
      if (found.missing > 0) total.unequal++;
      for (const key of ["missing", "before", "during", "stalled", "atChange", "never"] as const)
        total[key] += found[key];
    }
    console.log(JSON.stringify({ rounds, ...total }));
    return 0;
  } finally {
    await lab.down();
  }
}

if (import.meta.main) await runScript(main);
