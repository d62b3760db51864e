import { afterEach, beforeEach, expect, test } from "bun:test";
import type { SdNotify } from "../../lib/effects/sd_notify.ts";
import { notifierOfProcess, supervise } from "../../lib/run/supervised.ts";
import { until } from "../support/mariadbd.ts";

/** systemd as a list. */
function listening(silenceMaxMs: number | null): SdNotify & { readonly told: string[] } {
  const told: string[] = [];
  return {
    silenceMaxMs,
    told,
    send(state) {
      told.push(state);
      return true;
    },
    close: () => told.push("closed"),
  };
}

/** A loop that takes a step at each hint, until it is stuck or ill. */
class Steps {
  stuck = false;
  ill: string | null = null;
  #state = {};
  state(): object {
    return this.#state;
  }
  hint(): void {
    if (!this.stuck) this.#state = {};
  }
  illness(): string | null {
    return this.ill;
  }
}

const before = { ...process.env };

beforeEach(() => {
  delete process.env["NOTIFY_SOCKET"];
});

afterEach(() => {
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
});

test("it says that it is ready, that it lives, in which phase it is, and that it stops", async () => {
  const systemd = listening(30);
  let phase = "starting: nothing is known";
  const supervisor = supervise(new Steps(), systemd, () => phase);
  expect(systemd.told).toEqual(["READY=1\nSTATUS=starting: nothing is known"]);
  await until("two signs of life", 30_000, () => systemd.told.length >= 3);
  expect(systemd.told[1]).toBe("WATCHDOG=1");
  phase = "serving:\njoint view";
  await until("the phase", 30_000, () =>
    systemd.told.includes("WATCHDOG=1\nSTATUS=serving: joint view"),
  );
  supervisor.stopping();
  expect(systemd.told.slice(-2)).toEqual(["STOPPING=1", "closed"]);
});

test("a loop that takes no step any more, or is broken, gives no sign of life", async () => {
  for (const end of ["stuck", "ill"] as const) {
    const systemd = listening(30);
    const loop = new Steps();
    const supervisor = supervise(loop, systemd, () => "serving: well");
    await until("a sign of life", 30_000, () => systemd.told.length >= 2);
    if (end === "stuck") loop.stuck = true;
    else loop.ill = "broken";
    // One that was on its way may still come; after it there are none for many times the interval.
    await Bun.sleep(30);
    const count = systemd.told.length;
    await Bun.sleep(150);
    expect(systemd.told.length).toBe(count);
    supervisor.stopping();
  }
});

test("what systemd put into the environment is taken out: no child may speak in this name", () => {
  process.env["NOTIFY_SOCKET"] = "/nonexistent/notify";
  process.env["WATCHDOG_USEC"] = "4000000";
  const told = notifierOfProcess();
  expect(told?.silenceMaxMs).toBe(4_000);
  expect(process.env["NOTIFY_SOCKET"]).toBeUndefined();
  expect(process.env["WATCHDOG_USEC"]).toBeUndefined();
  told?.close();
  expect(notifierOfProcess()).toBeNull();
});
