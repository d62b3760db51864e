/** The race that fencing must win, in each direction once; `just race-fence` runs it as often as wished. */
import { expect, test } from "bun:test";
import { describeRound, FENCE_RACE_TIMING, FenceRace } from "../../lib/lab/fence_race.ts";
import { openMinded } from "../../lib/lab/minded.ts";
import { namespacesImpossible } from "../../lib/lab/network.ts";
import { missingNeeds } from "../../lib/lab/setup.ts";
import { say } from "../support/watched_lab.ts";

const unable = namespacesImpossible() !== null || missingNeeds().length > 0;
const LAB = process.env["GM_TEST_LAB"] ?? "test-fence-race";
const TEST_MS = 180_000;

test.skipIf(unable)(
  "an isolated half acknowledges nothing once the other half has acknowledged its first write",
  async () => {
    const minded = await openMinded(LAB, { apps: 1, timing: FENCE_RACE_TIMING });
    try {
      await minded.start();
      const race = new FenceRace(minded);
      await race.start();
      const isolated = new Set<string>();
      for (let round = 1; round <= 2; round++) {
        const found = await race.run(round);
        say(describeRound(found));
        isolated.add(found.isolated);
        expect(found.late).toEqual([]);
        // The prober has tried: nobody was spared for want of asking.
        expect(found.refused).toBeGreaterThan(10);
      }
      expect(isolated.size).toBe(2);
      expect(await race.checksumsEqual()).toBe(true);
    } finally {
      await minded.down();
    }
  },
  TEST_MS,
);
