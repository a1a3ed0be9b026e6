/** How good a ranked list is, given which rows answer its query. Each measure is a number from 0 to 1, higher is better. */

/** How relevant each judged row is, by its id: above 0 relevant, more is better. A row that is not named is not relevant. */
export type Judgments = ReadonlyMap<string, number>;

/**
 * Normalised discounted cumulative gain of the first `k` rows: the sum of grade / log2(rank + 1), divided by what the best order of all judged
 * rows would give. K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002, with the discount
 * and the linear gain that trec_eval and BEIR use. 0 where nothing is relevant.
 */
export function ndcg(ranked: readonly string[], judgments: Judgments, k: number): number {
  const ideal = discountedGain([...judgments.values()].sort((a, b) => b - a).slice(0, k));
  if (ideal <= 0) return 0;
  return discountedGain(ranked.slice(0, k).map((row) => gradeOf(row, judgments))) / ideal;
}

/**
 * 1 / rank of the first relevant row among the first `k`, 0 where there is none; its mean over queries is the mean reciprocal rank.
 * E. M. Voorhees, "The TREC-8 Question Answering Track Report", 1999.
 */
export function reciprocalRank(ranked: readonly string[], judgments: Judgments, k: number): number {
  const first = ranked.slice(0, k).findIndex((row) => gradeOf(row, judgments) > 0);
  return first === -1 ? 0 : 1 / (first + 1);
}

/** The share of all relevant rows that stand among the first `k`. 0 where nothing is relevant. */
export function recallAt(ranked: readonly string[], judgments: Judgments, k: number): number {
  const relevant = [...judgments.values()].filter((grade) => grade > 0).length;
  if (relevant === 0) return 0;
  return ranked.slice(0, k).filter((row) => gradeOf(row, judgments) > 0).length / relevant;
}

function gradeOf(row: string, judgments: Judgments): number {
  return Math.max(0, judgments.get(row) ?? 0);
}

function discountedGain(grades: readonly number[]): number {
  return grades.reduce((sum, grade, index) => sum + Math.max(0, grade) / Math.log2(index + 2), 0);
}
