/**
 * How much two rankings of the same query differ. These detect change and say nothing of quality: a better model changes its answers too.
 */

/** The share of the first `k` rows that both lists have: their common rows divided by the longer list's length, at most `k`. 1 for two empty lists. */
export function overlapAt(one: readonly string[], other: readonly string[], k: number): number {
  const [left, right] = [one.slice(0, k), other.slice(0, k)];
  const longest = Math.max(left.length, right.length);
  if (longest === 0) return 1;
  const there = new Set(right);
  return left.filter((row) => there.has(row)).length / longest;
}

/**
 * Rank-biased overlap, extrapolated (RBO_ext): 1 for equal lists, 0 for lists without a common row; with persistence `p` the first 10 ranks weigh
 * 86 % at p = 0.9. W. Webber, A. Moffat, J. Zobel, "A Similarity Measure for Indefinite Rankings", ACM TOIS 28(4), 2010, equation 32, which also
 * takes lists of different lengths. 1 for two empty lists, 0 where one is empty.
 * @param p in (0, 1): how likely a reader goes on to the next rank
 */
export function rankBiasedOverlap(one: readonly string[], other: readonly string[], p = 0.9): number {
  const [short, long] = one.length <= other.length ? [one, other] : [other, one];
  if (long.length === 0) return 1;
  if (short.length === 0) return 0;
  const [inShort, inLong] = [new Set<string>(), new Set<string>()];
  let common = 0;
  let commonAtShort = 0;
  let sum = 0;
  for (let depth = 1; depth <= long.length; depth += 1) {
    const added = long[depth - 1];
    const beside = short[depth - 1];
    if (added !== undefined) {
      inLong.add(added);
      if (inShort.has(added)) common += 1;
    }
    if (beside !== undefined) {
      inShort.add(beside);
      if (inLong.has(beside)) common += 1;
    }
    if (depth === short.length) commonAtShort = common;
    // Beyond the short list's end its agreement is taken to go on as it was there.
    const beyond =
      depth > short.length ? (commonAtShort * (depth - short.length)) / (short.length * depth) : 0;
    sum += (common / depth + beyond) * p ** depth;
  }
  const atEnd = (common - commonAtShort) / long.length + commonAtShort / short.length;
  return ((1 - p) / p) * sum + atEnd * p ** long.length;
}
