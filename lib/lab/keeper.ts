/**
 * Keeps a demo's cluster between the commands of a person who plays by hand: a process of its own
 * that holds the lab, and does what it is asked through a socket in the lab's directory.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { formatError, MinderError } from "../errors.ts";
import type { Minded } from "./minded.ts";
import { labDirectory } from "./remains.ts";

/** What a keeper can be asked to do. */
export const KEEPER_ORDERS = ["kill", "return", "cut", "heal", "down"] as const;
export type KeeperOrder = (typeof KEEPER_ORDERS)[number];

const ORDER_TIMEOUT_MS = 60_000;

export function keeperSocket(lab: string): string {
  return join(labDirectory(lab), "keeper.sock");
}

/** Serves orders until told to take the cluster down. */
export async function keep(minded: Minded): Promise<void> {
  const { promise: over, resolve: end } = Promise.withResolvers<void>();
  const server = Bun.serve({
    unix: keeperSocket(minded.lab.name),
    async fetch(request) {
      const [, order, name] = new URL(request.url).pathname.split("/");
      try {
        const said = await obey(minded, order ?? "", name ?? "");
        if (order === "down") end();
        return new Response(said);
      } catch (error) {
        return new Response(formatError(error), { status: 422 });
      }
    },
  });
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => end());
  await over;
  void server.stop(false);
  await minded.down();
}

async function obey(minded: Minded, order: string, name: string): Promise<string> {
  switch (order) {
    case "kill":
      await minded.powerOff(name);
      return `the power of ${name} is off`;
    case "return":
      await minded.powerOn(name);
      return `the power of ${name} is on: its watchdogs start their servers`;
    case "cut":
      await minded.cutLink();
      return "the link between the data centres is cut";
    case "heal":
      await minded.healLink();
      return "the link between the data centres is healed";
    case "down":
      return "the cluster goes down";
    default:
      throw new MinderError(`There is no order ${JSON.stringify(order)}`);
  }
}

/**
 * Asks the keeper of a lab.
 * @throws MinderError if there is none, or it cannot do that
 */
export async function askKeeper(lab: string, order: KeeperOrder, name = ""): Promise<string> {
  const unix = keeperSocket(lab);
  if (!existsSync(unix)) {
    throw new MinderError("No demo is up", { hint: "`just demo-up` brings one up" });
  }
  const response = await fetch(`http://keeper/${order}/${encodeURIComponent(name)}`, {
    method: "POST",
    unix,
    signal: AbortSignal.timeout(ORDER_TIMEOUT_MS),
  });
  const text = await response.text();
  if (!response.ok) throw new MinderError(text.replace(/^error: /, ""));
  return text;
}
