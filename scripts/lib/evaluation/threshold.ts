/** A similarity threshold means something in one space only; what carries over to another is how many results it keeps. */

export interface CarriedThreshold {
  /** Results of the old version above its threshold, and of how many. */
  readonly kept: number;
  readonly of: number;
  /** The new version's threshold that keeps as many of its own results; null where it would have to keep more than it has, or none exists. */
  readonly threshold: number | null;
}

/**
 * The threshold of the new version that keeps as many of the same queries' results as the old one does in its own (quantile matching): halfway between
 * the last similarity that is kept and the first that is not. Both RPCs keep what lies above their threshold, not on it.
 * @param before,after similarities of the results of all queries, in any order, without a threshold
 */
export function carriedThreshold(
  before: readonly number[],
  oldThreshold: number,
  after: readonly number[],
): CarriedThreshold {
  const kept = before.filter((similarity) => similarity > oldThreshold).length;
  const sorted = [...after].sort((a, b) => b - a);
  const last = sorted[kept - 1];
  const next = sorted[kept];
  const at = { kept, of: before.length };
  if (kept > sorted.length || sorted.length === 0) return { ...at, threshold: null };
  // All are kept: just below the least of them. None: the greatest itself, which is not above it.
  if (next === undefined) return { ...at, threshold: clamp((last ?? 0) - 1e-6) };
  return { ...at, threshold: clamp(last === undefined ? next : (last + next) / 2) };
}

function clamp(threshold: number): number {
  return Math.min(1, Math.max(-1, threshold));
}
