import { expect, test } from "bun:test";
import { type Look, twoPrimaries } from "../../lib/lab/views.ts";

function look(host: string, atMs: number, members: string | null): Look {
  return { host, atMs, members: members?.split(" ") ?? null };
}

test("twoPrimaries() are two views without a common member, at one moment", () => {
  const dc1 = look("dc1-1", 1000, "a b");
  expect(twoPrimaries(dc1, look("dc2-1", 1050, "c d"))).toBe(
    "dc1-1 was Primary with a+b while dc2-1 was with c+d",
  );
  // Nobody has told the others yet that they are out.
  expect(twoPrimaries(dc1, look("dc2-1", 1050, "a b c d"))).toBeNull();
  expect(twoPrimaries(dc1, look("dc2-1", 1050, null))).toBeNull();
  expect(twoPrimaries(dc1, look("dc2-1", 1500, "c d"))).toBeNull();
  expect(twoPrimaries(dc1, look("dc1-2", 1001, "a b"))).toBeNull();
});
