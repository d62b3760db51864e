/**
 * What the runtime of a watchdog is told by its environment. It runs beside every server for years and
 * has little to do, so it should be small. Measured on a 2+2 cluster in calm (docs/watchdog.md).
 */
export const WATCHDOG_ENVIRONMENT: Readonly<Record<string, string>> = {
  // The allocator looks for pages to give back ten times a second: 0.17 % of a core.
  MIMALLOC_PURGE_HOLES_MIN_INTERVAL: "10000",
  // Rubbish is collected when the heap has grown by a third, not to three times its size: 5 MB.
  BUN_JSC_heapGrowthMaxIncrease: "0.3",
  // Memory kept ready for an allocation in a hurry: 1 MB.
  BUN_JSC_useWarmUpMarkedBlocks: "0",
  BUN_JSC_weakBlockPoolDivisor: "0",
  // Of its two optimizing compilers the first is worth its memory, and soon; the second is not, for code
  // that runs a few times a second.
  BUN_JSC_useFTLJIT: "0",
  BUN_JSC_thresholdForOptimizeAfterWarmUp: "300",
};
