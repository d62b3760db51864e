/**
 * What the watchdog's core asks for, done beside one mariadbd: one line or two for each effect, its
 * outcome as the event that follows. The order of steps in a start is this file's own.
 */
import type { DbServerConfig } from "../cluster_config.ts";
import type { DbServerEffect, DbServerEvent, ServerDurable } from "../core/dbserver_io.ts";
import {
  asideOf,
  discardAside,
  listAside,
  readGrastate,
  readPosition,
  removeGrastate,
  removeGvwstate,
  setDatadirAside,
  setSafeToBootstrap,
  startArguments,
} from "../effects/datadir.ts";
import type { Guard } from "../effects/guard.ts";
import type { Mysql } from "../effects/mysql.ts";
import { isAlive, type ServerProcess } from "../effects/process.ts";
import { describeError, unreachable } from "../errors.ts";
import type { Aside, ConfigMark } from "../message/dbserver.ts";
import type { Clock } from "../wakeup.ts";

/** `--wsrep-recover` does InnoDB's crash recovery first: minutes on a large database. */
export const RECOVER_TIMEOUT_MS = 600_000;

export type ServerOwnEffect = Exclude<DbServerEffect, { readonly do: "send" | "reply" | "log" }>;

/** What such an effect ends in: never a message. */
export type ServerOwnEvent = Exclude<DbServerEvent, { readonly on: "message" | "answered" }>;

export interface ServerTools {
  readonly self: DbServerConfig;
  readonly clock: Clock;
  readonly mysql: Mysql;
  readonly process: ServerProcess;
  readonly guard: Guard;
  readonly save: (durable: ServerDurable) => Promise<void>;
  /** Goes by another config document; what follows is told by its own event. */
  readonly adopt: (mark: ConfigMark) => Promise<void>;
}

/** Does one effect; never throws: what went wrong is in the event. */
export async function performServer(
  effect: ServerOwnEffect,
  tools: ServerTools,
): Promise<ServerOwnEvent> {
  const { mysql, clock, self } = tools;
  const startedAt = clock.now();
  switch (effect.do) {
    case "poll": {
      const asked = tools.process.current();
      const { status, error, unreachable } = await mysql.poll();
      // Another mariadbd may have answered by now: what it says is not said of the one asked.
      if (status !== null && !isAlive(asked)) {
        return { on: "polled", startedAt, status: null, error: "It ended meanwhile", unreachable };
      }
      return { on: "polled", startedAt, status, error, unreachable };
    }
    case "probe": {
      const { outcome, error } = await mysql.probe(self.serial);
      return { on: "probed", startedAt, outcome, error };
    }
    case "form_primary": {
      const result = await mysql.formPrimary(effect.expectedFingerprint);
      if (result.outcome === "done") return { on: "formed", outcome: "given", error: null };
      if (result.outcome === "changed") {
        return { on: "formed", outcome: "changed", error: result.because };
      }
      return { on: "formed", outcome: "failed", error: result.error };
    }
    case "read_position": {
      const found = await readPosition(self.datadir, {
        command: recoverCommand(self),
        timeoutMs: RECOVER_TIMEOUT_MS,
      });
      // Already now, not only before a start: somebody else may start it, past its watchdog.
      removeGvwstate(self.datadir);
      return { on: "position", ...found };
    }
    case "fence": {
      const { fenced, error, sessionsLeft } = await mysql.fence();
      const left = `${sessionsLeft ?? "unknown"} sessions are left`;
      return done(effect, fenced ? null : (error ?? left));
    }
    case "unfence":
      return done(effect, (await mysql.unfence()).error);
    case "evict":
      return done(effect, (await mysql.evict(effect)).error);
    case "tune":
      return done(effect, (await mysql.tune(effect.periodMs)).error);
    case "start":
      return await attempt(effect, () => start(effect, tools));
    case "stop":
      return await attempt(effect, () => tools.process.stop(effect.graceMs));
    case "kill":
      return await attempt(effect, () => tools.process.kill());
    case "guard":
      return { on: "guarded", alive: guard(effect, tools) };
    case "adopt":
      return await attempt(effect, () => tools.adopt(effect.mark));
    case "look_aside":
      return await aside(() => listAside(self.datadir));
    case "discard":
      return await aside(async () => {
        await discardAside(self.datadir, effect.names);
        return await listAside(self.datadir);
      });
    case "persist":
      return await attempt(effect, () => tools.save(effect.durable));
    default:
      return unreachable(effect);
  }
}

function done(effect: ServerOwnEffect, error: string | null): ServerOwnEvent {
  return { on: "done", effect, error };
}

async function aside(act: () => Promise<readonly Aside[]>): Promise<ServerOwnEvent> {
  try {
    return { on: "aside", found: await act(), error: null };
  } catch (error) {
    return { on: "aside", found: null, error: describeError(error) };
  }
}

async function attempt(
  effect: ServerOwnEffect,
  act: () => unknown | Promise<unknown>,
): Promise<ServerOwnEvent> {
  try {
    await act();
    return done(effect, null);
  } catch (error) {
    return done(effect, describeError(error));
  }
}

/** Tells the guard, on the clock that both read; true if it lives. */
function guard(effect: Extract<ServerOwnEffect, { do: "guard" }>, tools: ServerTools): boolean {
  const { clock, guard, process } = tools;
  const current = process.current();
  if (!effect.wanted || current.is !== "running") {
    guard.dismiss();
    return false;
  }
  const { pid, startTime } = current;
  const killAtBootMs =
    effect.killAt === null ? null : clock.bootNow() + effect.killAt - clock.now();
  guard.tell({ pid, startTime, killAtBootMs });
  return guard.alive();
}

async function start(
  effect: Extract<ServerOwnEffect, { do: "start" }>,
  tools: ServerTools,
): Promise<void> {
  const { self, process } = tools;
  // From it a crashed Primary would make itself Primary again, alone and without asking.
  removeGvwstate(self.datadir);
  if (effect.mode === "reseed") {
    clearForTransfer(self.datadir);
    await process.start(startArguments("join", null, effect.donor));
    return;
  }
  if (effect.mode === "bootstrap") setSafeToBootstrap(self.datadir);
  await process.start(startArguments(effect.mode, effect.position, effect.donor));
}

/**
 * Sets the data aside, once: what an interrupted transfer has left has no lineage and is of no use, and
 * a second copy of it would fill the disk. Its grastate.dat goes, so that the transfer is a full one.
 */
function clearForTransfer(datadir: string): void {
  if (hasLineage(datadir) || asideOf(datadir).length === 0) {
    setDatadirAside(datadir, `${datadir}.aside-${crypto.randomUUID().slice(0, 8)}`);
  } else removeGrastate(datadir);
}

function hasLineage(datadir: string): boolean {
  try {
    const grastate = readGrastate(datadir);
    return grastate !== null && grastate.uuid !== null;
  } catch {
    // A damaged grastate.dat says nothing.
    return false;
  }
}

/** How mariadbd is run to read its position: as it is started, or as its unit does. */
export function recoverCommand(self: DbServerConfig): readonly string[] | null {
  if (self.mariadbd !== null || self.unit === undefined) return self.mariadbd;
  return ["/usr/sbin/mariadbd", "--user=mysql"];
}
