/** Synthetic vectors for tests: reproducible, and clustered as real embeddings are, so that an index has something to find. */

/** A reproducible source of numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** One vector with independent components around zero, not normalized. */
export function randomVector(dimensions: number, random: () => number): number[] {
  return Array.from({ length: dimensions }, () => random() + random() + random() - 1.5);
}

/**
 * `count` unit vectors around `clusters` centres.
 * @param spread length of the noise relative to its centre: 0 puts a cluster into one point, 1 makes the clusters hard to tell apart
 */
export function clusteredVectors(
  count: number,
  dimensions: number,
  { seed = 1, clusters = 50, spread = 0.5 } = {},
): number[][] {
  const random = seededRandom(seed);
  const centres = Array.from({ length: clusters }, () => randomVector(dimensions, random));
  return Array.from({ length: count }, (_, row) => {
    const centre = centres[row % clusters] ?? [];
    const noise = randomVector(dimensions, random);
    return unit(centre.map((value, axis) => value + spread * (noise[axis] ?? 0)));
  });
}

/** The same direction with length 1. */
export function unit(vector: readonly number[]): number[] {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

/** The text that pgvector reads: five digits are more than an index can tell apart. */
export function vectorText(vector: readonly number[]): string {
  return `[${vector.map((value) => value.toFixed(5)).join(",")}]`;
}
