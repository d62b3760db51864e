/** Knocks at a balancer's door as a process: `bun scripts/lab_door.ts CONFIG.json` (KnockOptions of lib/lab/door.ts). Runs until SIGTERM. */
import { type KnockOptions, knock } from "../lib/lab/door.ts";
import { runProgram } from "../lib/lab/program.ts";

if (import.meta.main) await runProgram<KnockOptions>("lab_door.ts", knock);
