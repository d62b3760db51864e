/** The clustercheck of the comparison as a process: `bun scripts/lab_clustercheck.ts CONFIG.json` (ClustercheckOptions). Runs until SIGTERM. */
import { type ClustercheckOptions, runClustercheck } from "../lib/lab/clustercheck.ts";
import { runProgram } from "../lib/lab/program.ts";

if (import.meta.main) {
  await runProgram<ClustercheckOptions>("lab_clustercheck.ts", runClustercheck);
}
