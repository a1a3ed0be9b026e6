/** What an approximate index loses, told by distances alone. */

/** Similarities of one row computed twice may differ in the last digits. */
const TOLERANCE = 1e-9;

/**
 * The recall of an approximate search against an exact one, by distance: the share of the exact answer's first `k` rows for which the index found a
 * row at least as near as the farthest of them. Another row at the same distance is as good, so ties do not count.
 * M. Aumüller, E. Bernhardsson, A. Faithfull, "ANN-Benchmarks", Information Systems 87, 2020, section 3.2. 1 where there is nothing to find.
 * @param found,exact similarities (1 - distance), best first
 */
export function recallByDistance(found: readonly number[], exact: readonly number[], k: number): number {
  const wanted = exact.slice(0, k);
  const farthest = wanted.at(-1);
  if (farthest === undefined) return 1;
  return (
    found.slice(0, wanted.length).filter((similarity) => similarity >= farthest - TOLERANCE).length /
    wanted.length
  );
}
