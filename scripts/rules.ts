/**
 * Usage: rules.ts
 * Prints the arbitrator's rules in the order in which they are asked.
 */
import { RULES, type Rule } from "../lib/core/arbitrator_rules.ts";

function main(): void {
  console.log(
    "A segment gets the right to be primary alone if every rule passes, asked in this order:\n",
  );
  for (const [index, rule] of (RULES as readonly Rule[]).entries()) {
    console.log(`${String(index + 1).padStart(2)}. ${rule.id}: ${rule.demands}.`);
    console.log(`    because: ${rule.because}.`);
    console.log(`    until: ${rule.until}.`);
  }
}

if (import.meta.main) main();
