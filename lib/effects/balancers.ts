/** Which driver steers which kind of balancer: a further one is a file beside this, and a line here. */
import type { DbClientConfig } from "../cluster_config.ts";
import type { Balancer } from "./balancer.ts";
import { createGlbd } from "./glbd.ts";
import { createHaproxy } from "./haproxy.ts";

type BalancerConfig = DbClientConfig["balancer"];

const DRIVERS: Readonly<Record<BalancerConfig["kind"], (config: BalancerConfig) => Balancer>> = {
  haproxy: (config) => createHaproxy(config),
  glbd: (config) => createGlbd(config),
};

/** The driver of a configured balancer. @throws MinderError if its address is unusable */
export function createBalancer(config: BalancerConfig): Balancer {
  return DRIVERS[config.kind](config);
}
