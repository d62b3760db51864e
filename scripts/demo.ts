/** The demo: a real cluster of two data centres on this machine, and the story of its worst night. */
import { openSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArguments, runScript, UsageError } from "../lib/cli.ts";
import { EVICT_CHOICES } from "../lib/cluster_config.ts";
import { MinderError } from "../lib/errors.ts";
import { askKeeper, keep } from "../lib/lab/keeper.ts";
import { removeLab } from "../lib/lab/lab.ts";
import { openMinded } from "../lib/lab/minded.ts";
import { play, verdictLine } from "../lib/lab/story.ts";
import { Timeline } from "../lib/lab/timeline.ts";

const USAGE = `
Usage: demo.ts play [--json] [--evict off|confirmed|full] | up | down | kill NAME | return NAME | cut | heal
  play         the whole story, then a verdict; exit 0 only if it passes
  --json       the whole timeline and verdict as JSON, instead of lines
  --evict      whether lost servers are evicted before Galera gives them up; default off
  up           bring the cluster up and leave it running, to play by hand
  down         take it down and leave nothing behind
  kill NAME    pull the plug of a server or a data centre: dc1, dc2-1
  return NAME  let it boot again
  cut, heal    the link between the data centres
Runs in network namespaces as root; otherwise on loopback addresses, where nothing can be cut.
`;

const LAB = "demo";

type Rung = (typeof EVICT_CHOICES)[number];

async function main(): Promise<number> {
  const { values, words } = parseArguments(USAGE, {
    json: { type: "boolean" },
    evict: { type: "string" },
  });
  const [order, name] = words;
  switch (order) {
    case "play":
      return await playStory(values.json === true, rungOf(values.evict ?? "off"));
    case "up":
      return await up();
    case "keep":
      return await keepUp();
    case "down":
      return await down();
    case "cut":
    case "heal":
      console.log(await askKeeper(LAB, order));
      return 0;
    case "kill":
    case "return":
      if (name === undefined) throw new UsageError(`${order} needs a server or data centre`);
      console.log(await askKeeper(LAB, order, name));
      return 0;
    default:
      throw new UsageError(`There is no ${JSON.stringify(order ?? "")}`, { hint: "See --help" });
  }
}

function rungOf(word: string): Rung {
  const rung = EVICT_CHOICES.find((one) => one === word);
  if (rung === undefined) {
    throw new UsageError(`--evict ${word} is not known`, {
      hint: `Use ${EVICT_CHOICES.join(", ")}`,
    });
  }
  return rung;
}

async function playStory(json: boolean, evict: Rung): Promise<number> {
  const timeline = new Timeline((line) => (json ? undefined : console.log(line)));
  const minded = await openMinded(LAB, { evict, log: (line) => timeline.say(line) });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => void minded.down().then(() => process.exit(1)));
  }
  try {
    timeline.follow(minded);
    await minded.start();
    timeline.say("the cluster is healthy: 2 + 2 servers, arbitrator, 2 balancers, all minded");
    const verdict = await play(minded, timeline);
    timeline.stop();
    if (json) console.log(JSON.stringify({ timeline: timeline.entries, verdict }));
    for (const complaint of verdict.complaints) console.error(`complaint: ${complaint}`);
    if (!json) console.log(verdictLine(verdict));
    return verdict.pass ? 0 : 1;
  } finally {
    timeline.stop();
    await minded.down();
  }
}

/** Starts the keeper and waits until it says that the cluster is healthy. */
async function up(): Promise<number> {
  const logFile = join(tmpdir(), "galera-minder-demo-up.log");
  const log = openSync(logFile, "w", 0o600);
  const child = Bun.spawn([process.execPath, import.meta.path, "keep"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: log,
    detached: true,
  });
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    const part = decoder.decode(chunk, { stream: true });
    process.stdout.write(part);
    text += part;
    if (text.includes(UP)) {
      child.unref();
      return 0;
    }
  }
  throw new MinderError("The demo did not come up", { where: logFile });
}

const UP =
  "up: `just status`, `just demo-kill dc1`, `just demo-return dc1`, `just demo-cut`, `just demo-heal`, `just demo-down`";

async function keepUp(): Promise<number> {
  const minded = await openMinded(LAB, { log: console.log });
  try {
    await minded.start();
    minded.lab.startApp("app1");
  } catch (error) {
    await minded.down();
    throw error;
  }
  console.log(UP);
  await keep(minded);
  return 0;
}

async function down(): Promise<number> {
  try {
    console.log(await askKeeper(LAB, "down"));
  } catch (error) {
    if (!(error instanceof MinderError)) throw error;
    console.log(`${error.message}; what is left of one is removed`);
  }
  const removed = await removeLab(LAB);
  console.log(`removed ${removed.processes} processes, ${removed.namespaces} namespaces`);
  return 0;
}

if (import.meta.main) await runScript(main);
