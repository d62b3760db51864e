/**
 * What the runtime of a watchdog is told by its environment. It runs beside every server for years and
 * has little to do, so it should be small. Measured on a 2+2 cluster in calm (docs/watchdog.md).
 */
export const WATCHDOG_ENVIRONMENT: Readonly<Record<string, string>> = {
  // The allocator looks for pages to give back ten times a second: 0.17 % of a core.
  MIMALLOC_PURGE_HOLES_MIN_INTERVAL: "10000",
  // Its optimizing compilers work for minutes and keep 7 MB, for code that runs a few times a second.
  BUN_JSC_useDFGJIT: "0",
};
