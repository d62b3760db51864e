/**
 * Chance for the simulator: a small fast generator (sfc32, 128 bits of state, public domain
 * construction by Chris Doty-Humphrey) that is fully determined by its seed. Nothing else in
 * tests/sim draws chance.
 */

/** A stream of pseudo-random numbers. `fork` gives an independent stream, so that one part drawing more does not shift another. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d = 1;

  constructor(seed: number) {
    // Two halves of the seed, so that seeds above 2^32 differ too.
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 0x1_0000_0000) >>> 0;
    this.#c = 0x9e3779b9;
    for (let round = 0; round < 12; round++) this.u32();
  }

  /** 0 to 2^32 - 1. */
  u32(): number {
    const t = (((this.#a + this.#b) | 0) + this.#d) | 0;
    this.#d = (this.#d + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + t) | 0;
    return t >>> 0;
  }

  /** 0 inclusive to 1 exclusive. */
  float(): number {
    return this.u32() / 0x1_0000_0000;
  }

  /** `low` inclusive to `high` exclusive. */
  between(low: number, high: number): number {
    return low + this.float() * (high - low);
  }

  /** An integer from 0 to `below` - 1; `below` at least 1. */
  int(below: number): number {
    return Math.floor(this.float() * below);
  }

  chance(probability: number): boolean {
    return probability > 0 && this.float() < probability;
  }

  /** One of the list. @throws on an empty one. */
  pick<T>(list: readonly T[]): T {
    const index = this.int(list.length);
    const item = list[index];
    if (index >= list.length) throw new Error("Cannot pick from an empty list");
    return item as T;
  }

  /** Times between events of a Poisson process with this mean. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.float());
  }

  /** A stream of its own, determined by this one's present state. */
  fork(): Random {
    return new Random(this.u32() * 0x20_0000 + (this.u32() >>> 11));
  }
}
