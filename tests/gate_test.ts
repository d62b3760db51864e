/** Before every start: who was asked, what was said, and what follows. */
import { expect, test } from "bun:test";
import { gateVerdict, type WatchdogSays } from "../lib/gate.ts";
import type { Summary } from "../lib/message/arbitrator.ts";
import { coreCluster, reportOf } from "./support/cores.ts";

const config = coreCluster();

function says(changes: Partial<WatchdogSays["start"]>): WatchdogSays {
  const start = { starting: false, running: false, verdict: "wait", position: null } as const;
  return { start: { ...start, because: "the others may know more", ...changes } };
}

function summary(primary: "yes" | "no"): Summary {
  return {
    cluster: "shop",
    health: "degraded",
    because: "not serving: a1",
    primarySegment: "dc1",
    servingSegment: null,
    epoch: 0,
    epochHolder: null,
    notedView: null,
    paused: false,
    configVersion: 1,
    servers: config.servers.map(({ id, name, segment }) => ({
      ...{ id, name, segment, heardAgoMs: 1, retired: false, draining: false },
      report: { ...reportOf(config, name), primary },
    })),
    segments: [],
    decisions: [],
    orders: [],
    warnings: [],
  };
}

test("a start that the watchdog has begun goes on with its arguments", () => {
  const verdict = gateVerdict({ watchdog: says({ starting: true }), arbitrator: null });
  expect(verdict).toMatchObject({ go: true, arguments: "ordered" });
});

test("a person's start joins where the arbitrator's verdict is join", () => {
  const verdict = gateVerdict({ watchdog: says({ verdict: "join" }), arbitrator: null });
  expect(verdict).toMatchObject({ go: true, arguments: "join" });
});

test("a person's start waits where the server has to, with the reason", () => {
  for (const verdict of ["wait", "bootstrap"] as const) {
    const answer = gateVerdict({ watchdog: says({ verdict }), arbitrator: null });
    expect(answer.go).toBe(false);
    expect(answer.because).toContain("the others may know more");
  }
});

test("a diverged server is started by its watchdog only, and none beside a running one", () => {
  expect(gateVerdict({ watchdog: says({ verdict: "reseed" }), arbitrator: null }).go).toBe(false);
  expect(gateVerdict({ watchdog: says({ running: true }), arbitrator: null }).go).toBe(false);
});

test("without a watchdog it joins those who are Primary, and begins nothing", () => {
  const joins = gateVerdict({ watchdog: null, arbitrator: summary("yes") });
  expect(joins).toMatchObject({ go: true, arguments: "join" });
  const waits = gateVerdict({ watchdog: null, arbitrator: summary("no") });
  expect(waits.go).toBe(false);
  expect(waits.because).toContain("nobody is Primary");
});

test("without any answer it joins only", () => {
  const verdict = gateVerdict({ watchdog: null, arbitrator: null });
  expect(verdict).toMatchObject({ go: true, arguments: "join" });
});
