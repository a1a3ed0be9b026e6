/** Means, quantiles and the paired bootstrap. What is random here is repeated exactly by the same seed. */

/** The arithmetic mean; 0 of no values. */
export function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * The value below or at which a share of the values lies, by nearest rank: the smallest value that has at least that share of the values at or
 * below it. No value is made up between two. NaN of no values.
 * @param share 0 to 1
 */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.min(sorted.length, Math.max(1, Math.ceil(share * sorted.length)));
  return sorted[rank - 1] ?? Number.NaN;
}

/** A source of numbers in [0, 1) that a seed repeats: Mulberry32, a public-domain generator by Tommy Ettinger. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface Interval {
  readonly low: number;
  readonly high: number;
}

export interface BootstrapOptions {
  readonly seed: number;
  /** How many samples are drawn; 2,000 give a 95 % interval to about its second digit. */
  readonly samples?: number;
  /** The share of samples inside the interval. */
  readonly level?: number;
}

/**
 * The percentile bootstrap interval of the mean of paired differences, one for each query: queries are drawn with replacement, so that what both
 * systems find hard weighs the same on both sides. B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for
 * retrieval T. Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006. 0 to 0 of no differences.
 */
export function pairedBootstrap(
  differences: readonly number[],
  { seed, samples = 2_000, level = 0.95 }: BootstrapOptions,
): Interval {
  if (differences.length === 0) return { low: 0, high: 0 };
  const random = seededRandom(seed);
  const means = Array.from({ length: samples }, () => {
    let sum = 0;
    for (let draw = 0; draw < differences.length; draw += 1) {
      sum += differences[Math.floor(random() * differences.length)] ?? 0;
    }
    return sum / differences.length;
  });
  const outside = (1 - level) / 2;
  return { low: quantile(means, outside), high: quantile(means, 1 - outside) };
}
