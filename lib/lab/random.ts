/** Chance for what attacks and races draw: fully determined by a seed, which is printed. */

/** 0 inclusive to 1 exclusive. */
export type Random = () => number;

/** A generator with 32 bits of state (mulberry32). */
export function mulberry(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** One of the list. @throws on an empty one */
export function pick<Item>(random: Random, items: readonly Item[]): Item {
  const item = items[Math.floor(random() * items.length)];
  if (item === undefined) throw new Error("Nothing to pick from");
  return item;
}

/** Between two times, evenly over their orders of magnitude, in whole milliseconds. */
export function waitBetween(random: Random, lowMs: number, highMs: number): number {
  return Math.round(lowMs * (highMs / lowMs) ** random());
}
