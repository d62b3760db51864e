/** What happens in a minded cluster, as it happens: the story's own lines and the minders' logs in one. */
import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { wallMs } from "./journal.ts";
import type { Minded } from "./minded.ts";

export interface TimelineEntry {
  /** Since the timeline began. */
  readonly atMs: number;
  /** A host, or "story". */
  readonly who: string;
  readonly what: string;
}

/** One line of a minder's log, as far as a timeline cares. */
interface LogLine {
  readonly time: string;
  readonly event: string;
  readonly [field: string]: unknown;
}

/** Words for the events that tell the story; others are left to the logs. */
const WORDS: Readonly<Record<string, (line: LogLine) => string | null>> = {
  verdict: (line) => `${line["segment"]}: ${line["rule"]} - ${line["because"]}`,
  epoch_opened: (line) =>
    `epoch ${line["epoch"]} written for ${line["segment"]} (${line["kind"]}, ${line["basis"]})`,
  promoted: (line) => `epoch ${line["epoch"]}: promoted`,
  epoch_closed: (line) => `epoch ${line["epoch"]} closed by a joint view`,
  order_answered: (line) => `order answered ${line["outcome"]}: ${line["because"]}`,
  view: (line) =>
    `${line["primary"] === true ? "Primary" : "non-Primary"} with ${(line["members"] as string[]).join(" ") || "nobody"}, last committed ${line["lastCommitted"]}`,
  fenced: (line) => `fenced: ${line["because"]}`,
  unfenced: (line) => `open: ${line["because"]}`,
  killing: (line) => `kills mariadbd: ${line["because"]}`,
  mariadbd_running: (line) => (line["adopted"] === true ? null : "mariadbd started"),
  mariadbd_stopped: (line) => `mariadbd is down: ${line["because"]}`,
  diverged: () => "has rows beyond a fork point",
  target: (line) => `balancer: ${(line["changes"] as string[]).join("; ")}`,
};

const LOOK_MS = 50;
const READ_MAX_BYTES = 1_048_576;

export class Timeline {
  readonly entries: TimelineEntry[] = [];
  readonly beganMs = wallMs();
  readonly #print: (line: string) => void;
  readonly #offsets = new Map<string, number>();
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  /** A line of the story itself. */
  say(what: string): void {
    this.#add({ atMs: wallMs() - this.beganMs, who: "story", what });
  }

  /** Begins to follow the logs of all minders. */
  follow(minded: Minded): void {
    const hosts = minded.lab.hosts.map((host) => host.name);
    this.#timer = setInterval(() => this.#look(minded, hosts), LOOK_MS);
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #look(minded: Minded, hosts: readonly string[]): void {
    const fresh = hosts.flatMap((host) =>
      this.#newLines(join(minded.lab.directory, host, "minder.log")).flatMap((line) => {
        const what = WORDS[line.event]?.(line) ?? null;
        const atMs = Date.parse(line.time) - this.beganMs;
        return what === null ? [] : [{ atMs, who: host, what }];
      }),
    );
    for (const entry of fresh.sort((a, b) => a.atMs - b.atMs)) this.#add(entry);
  }

  #newLines(file: string): LogLine[] {
    if (!existsSync(file)) return [];
    const from = this.#offsets.get(file) ?? 0;
    const descriptor = openSync(file, "r");
    try {
      const buffer = Buffer.alloc(READ_MAX_BYTES);
      const length = readSync(descriptor, buffer, 0, buffer.length, from);
      const text = buffer.toString("utf8", 0, length);
      const whole = text.slice(0, text.lastIndexOf("\n") + 1);
      this.#offsets.set(file, from + Buffer.byteLength(whole));
      return whole
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line) as LogLine);
    } finally {
      closeSync(descriptor);
    }
  }

  #add(entry: TimelineEntry): void {
    this.entries.push(entry);
    const seconds = (entry.atMs / 1000).toFixed(3).padStart(8);
    this.#print(`${seconds} s  ${entry.who.padEnd(6)} ${entry.what}`);
  }
}
