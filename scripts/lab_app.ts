/**
 * The lab's application or prober as a process: `bun scripts/lab_app.ts CONFIG.json`, where the file
 * holds an array of WriterOptions (lib/lab/app.ts). Runs until SIGTERM.
 */
import { runWriter, type WriterOptions } from "../lib/lab/app.ts";
import { runProgram } from "../lib/lab/program.ts";

if (import.meta.main) {
  await runProgram<readonly WriterOptions[]>("lab_app.ts", (writers, signal) =>
    Promise.all(writers.map((writer) => runWriter(writer, signal))),
  );
}
