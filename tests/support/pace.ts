/**
 * How fast this machine is just now: as many round trips to another process as a pass over a balancer
 * takes, beside each thing that is measured. On a calm machine a figure is held to its limit; on a busy
 * one to a few times of what the machine does to the simplest exchange there is.
 */
import { join } from "node:path";
import { ask, parseControlAddress } from "../../lib/effects/control_socket.ts";
import { until } from "./haproxy.ts";
import { makeScratch, removeScratch } from "./scratch.ts";

/** Read, apply, read back. */
const TRIPS = 3;
/** A pass does more than a round trip: it also makes commands and takes tables apart. */
const TIMES = 8;

const ECHO = `
  Bun.listen({ unix: process.argv[1], socket: {
    data: (socket) => { socket.write("x".repeat(4096)); socket.end(); } } });
`;

export class Pace {
  readonly #directory = makeScratch("pace");
  readonly #child: Bun.Subprocess;
  readonly #took: number[] = [];

  private constructor() {
    this.#child = Bun.spawn([process.execPath, "-e", ECHO, this.#socket], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  }

  get #socket(): string {
    return join(this.#directory, "echo");
  }

  static async start(): Promise<Pace> {
    const pace = new Pace();
    await until("the echo answers", async () => {
      return await pace.trip().then(
        () => true,
        () => false,
      );
    });
    pace.#took.length = 0;
    return pace;
  }

  /** One measurement of the machine. */
  async trip(): Promise<void> {
    const startedAt = performance.now();
    for (let trip = 0; trip < TRIPS; trip++) {
      await ask(parseControlAddress(this.#socket), "x\n", { signal: AbortSignal.timeout(5000) });
    }
    this.#took.push(performance.now() - startedAt);
  }

  /** What the machine took for it. */
  get medianMs(): number {
    return median(this.#took);
  }

  /** The limit, or what is fair on the machine as it was. */
  boundMs(limitMs: number, times = TIMES): number {
    return Math.max(limitMs, times * this.medianMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
    removeScratch(this.#directory);
  }
}

export function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.POSITIVE_INFINITY;
}
