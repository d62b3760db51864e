/**
 * Token buckets, one for each key, in a bounded map. Pure: time is a parameter. A key that is unknown
 * or was forgotten has a full bucket, so what is forgotten first is what is nearest to full.
 */
import type { Millis } from "./core/core.ts";

export interface RateOptions {
  /** Tokens in a full bucket. */
  readonly burst: number;
  /** Tokens that come back each second. */
  readonly perSecond: number;
  /** Buckets kept. */
  readonly keysMax: number;
}

export interface Rate {
  /** Is there a token left for this key. */
  allows(key: string, now: Millis): boolean;
  /** Takes tokens; a bucket goes no further than one burst below nothing. */
  charge(key: string, tokens: number, now: Millis): void;
  /** Buckets kept at present. */
  size(): number;
}

export function tokenBuckets({ burst, perSecond, keysMax }: RateOptions): Rate {
  const buckets = new Map<string, { tokens: number; at: Millis }>();

  function tokensAt(bucket: { tokens: number; at: Millis }, now: Millis): number {
    return Math.min(burst, bucket.tokens + ((now - bucket.at) * perSecond) / 1000);
  }

  function forget(now: Millis): void {
    for (const [key, bucket] of buckets) if (tokensAt(bucket, now) >= burst) buckets.delete(key);
    // Many at once: the oldest go, whatever they owe, since the memory is the bound that must hold.
    for (const key of buckets.keys()) {
      if (buckets.size < keysMax / 2) break;
      buckets.delete(key);
    }
  }

  return {
    allows(key, now) {
      const bucket = buckets.get(key);
      return bucket === undefined || tokensAt(bucket, now) > 0;
    },
    charge(key, tokens, now) {
      const bucket = buckets.get(key);
      if (bucket === undefined) {
        if (buckets.size >= keysMax) forget(now);
        buckets.set(key, { tokens: burst - tokens, at: now });
        return;
      }
      bucket.tokens = Math.max(-burst, tokensAt(bucket, now) - tokens);
      bucket.at = now;
    },
    size: () => buckets.size,
  };
}
