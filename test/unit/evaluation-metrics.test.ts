/** The measures of an evaluation against values computed by hand, and against slow references on random lists. */
import { describe, expect, test } from "vitest";
import { overlapAt, rankBiasedOverlap } from "../../scripts/lib/evaluation/change.ts";
import { recallByDistance } from "../../scripts/lib/evaluation/index-recall.ts";
import { type Judgments, ndcg, recallAt, reciprocalRank } from "../../scripts/lib/evaluation/ranking.ts";
import { mean, pairedBootstrap, quantile, seededRandom } from "../../scripts/lib/evaluation/statistics.ts";
import { carriedThreshold } from "../../scripts/lib/evaluation/threshold.ts";
import { Random } from "../support/random.ts";

const judged = (grades: Record<string, number>): Judgments => new Map(Object.entries(grades));

/** Rows a, b, c, ... in random order, as many as asked. */
function randomList(random: Random, length: number, universe = 20): string[] {
  const rows = Array.from({ length: universe }, (_, index) => String.fromCharCode(97 + index));
  return Array.from({ length: Math.min(length, universe) }, () => {
    const row = random.pick(rows);
    rows.splice(rows.indexOf(row), 1);
    return row;
  });
}

function randomJudgments(random: Random): Judgments {
  return new Map(randomList(random, random.between(1, 6)).map((row) => [row, random.between(0, 3)]));
}

describe("nDCG", () => {
  test("is what the definition gives by hand", () => {
    // Grades 3, 2, 3, 0, 1, 2 in this order: the example of the textbooks, with linear gain.
    const judgments = judged({ a: 3, b: 2, c: 3, d: 0, e: 1, f: 2 });
    const dcg = 3 + 2 / Math.log2(3) + 3 / 2 + 0 + 1 / Math.log2(6) + 2 / Math.log2(7);
    const ideal = 3 + 3 / Math.log2(3) + 2 / 2 + 2 / Math.log2(5) + 1 / Math.log2(6);
    expect(dcg).toBeCloseTo(6.861, 3);
    expect(ndcg([..."abcdef"], judgments, 6)).toBeCloseTo(dcg / ideal, 12);
    expect(ndcg([..."abcdef"], judgments, 6)).toBeCloseTo(0.9608, 4);
  });

  test("is 1 for the best order, 0 where nothing relevant is found or known, and looks at the first k alone", () => {
    expect(ndcg([..."abc"], judged({ a: 1 }), 10)).toBe(1);
    expect(ndcg([..."bac"], judged({ a: 1 }), 10)).toBeCloseTo(1 / Math.log2(3), 12);
    expect(ndcg([..."bac"], judged({ a: 1 }), 1)).toBe(0);
    expect(ndcg([..."bac"], judged({ a: 0 }), 10)).toBe(0);
    expect(ndcg([], judged({ a: 1 }), 10)).toBe(0);
    // Three relevant rows, two places: the ideal has two as well.
    expect(ndcg([..."ab"], judged({ a: 1, b: 1, c: 1 }), 2)).toBe(1);
  });

  test("on random lists lies in [0, 1], is 1 only for a best order, and agrees with the best of all orders", () => {
    const random = new Random(1);
    for (let turn = 0; turn < 500; turn += 1) {
      const [list, judgments, k] = [randomList(random, 8), randomJudgments(random), random.between(1, 10)];
      const value = ndcg(list, judgments, k);
      expect(value).toBeGreaterThanOrEqual(0);
      expect(value).toBeLessThanOrEqual(1 + 1e-12);
      const best = [...judgments.keys()].sort((a, b) => (judgments.get(b) ?? 0) - (judgments.get(a) ?? 0));
      const most = Math.max(...judgments.values());
      expect(ndcg(best, judgments, k)).toBeCloseTo(most > 0 ? 1 : 0, 12);
      // Putting a better row above a worse one never lowers it.
      const grades = list.map((row) => judgments.get(row) ?? 0);
      const at = grades.findIndex((grade, index) => grade < (grades[index + 1] ?? -1));
      if (at !== -1) {
        const swapped = [...list.slice(0, at), list[at + 1] ?? "", list[at] ?? "", ...list.slice(at + 2)];
        expect(ndcg(swapped, judgments, k)).toBeGreaterThanOrEqual(value - 1e-12);
      }
    }
  });
});

describe("reciprocal rank and recall", () => {
  test("are what the definitions give by hand", () => {
    expect(reciprocalRank([..."xyza"], judged({ a: 1 }), 10)).toBe(1 / 4);
    expect(reciprocalRank([..."xyza"], judged({ a: 1 }), 3)).toBe(0);
    expect(reciprocalRank([..."bxa"], judged({ a: 3, b: 1 }), 10)).toBe(1);
    expect(reciprocalRank([..."bxa"], judged({ a: 3, b: 0 }), 10)).toBe(1 / 3);
    expect(recallAt([..."axb"], judged({ a: 1, b: 1, c: 2, d: 0 }), 3)).toBe(2 / 3);
    expect(recallAt([..."axb"], judged({ a: 1, b: 1, c: 2, d: 0 }), 1)).toBe(1 / 3);
    expect(recallAt([..."axb"], judged({ d: 0 }), 3)).toBe(0);
  });

  test("grow with k on random lists, and the reciprocal rank is above 0 exactly when the recall is", () => {
    const random = new Random(2);
    for (let turn = 0; turn < 500; turn += 1) {
      const [list, judgments, k] = [randomList(random, 10), randomJudgments(random), random.between(1, 9)];
      for (const measure of [reciprocalRank, recallAt]) {
        expect(measure(list, judgments, k + 1)).toBeGreaterThanOrEqual(measure(list, judgments, k));
      }
      expect(reciprocalRank(list, judgments, k) > 0).toBe(recallAt(list, judgments, k) > 0);
    }
  });
});

describe("overlap", () => {
  test("is the share of common rows among the first k", () => {
    expect(overlapAt([..."abcd"], [..."dcxy"], 4)).toBe(0.5);
    expect(overlapAt([..."abcd"], [..."dcxy"], 2)).toBe(0);
    expect(overlapAt([..."ab"], [..."a"], 10)).toBe(0.5);
    expect(overlapAt([], [], 10)).toBe(1);
    expect(overlapAt([], [..."a"], 10)).toBe(0);
  });
});

/** RBO as its definition says it, term by term, for lists of one length: p^k X_k / k + (1 - p) / p * sum of p^d X_d / d. */
function slowRbo(one: readonly string[], other: readonly string[], p: number): number {
  const k = one.length;
  const common = (depth: number) =>
    one.slice(0, depth).filter((row) => other.slice(0, depth).includes(row)).length;
  let sum = 0;
  for (let depth = 1; depth <= k; depth += 1) sum += (common(depth) / depth) * p ** depth;
  return (common(k) / k) * p ** k + ((1 - p) / p) * sum;
}

/** Equation 32 term by term, for lists of any two lengths. */
function slowUnevenRbo(one: readonly string[], other: readonly string[], p: number): number {
  const [short, long] = one.length <= other.length ? [one, other] : [other, one];
  const [s, l] = [short.length, long.length];
  const common = (depth: number) =>
    long.slice(0, depth).filter((row) => short.slice(0, depth).includes(row)).length;
  let [agreement, beyond] = [0, 0];
  for (let d = 1; d <= l; d += 1) agreement += (common(d) / d) * p ** d;
  for (let d = s + 1; d <= l; d += 1) beyond += ((common(s) * (d - s)) / (s * d)) * p ** d;
  return ((1 - p) / p) * (agreement + beyond) + ((common(l) - common(s)) / l + common(s) / s) * p ** l;
}

describe("rank-biased overlap", () => {
  test("is what the definition gives by hand", () => {
    // Agreement at depths 1, 2, 3: 0, 2/2, 2/3. At p = 0.5: 2/3 / 8 + 1 * (0 + 1/4 + 2/3 / 8).
    expect(rankBiasedOverlap([..."abx"], [..."bay"], 0.5)).toBeCloseTo(2 / 24 + 1 / 4 + 2 / 24, 12);
    expect(rankBiasedOverlap([..."abc"], [..."abc"])).toBeCloseTo(1, 12);
    expect(rankBiasedOverlap([..."abc"], [..."xyz"])).toBe(0);
    expect(rankBiasedOverlap([], [])).toBe(1);
    expect(rankBiasedOverlap([], [..."a"])).toBe(0);
  });

  test("agrees with the slow references on random lists of equal and of different lengths", () => {
    const random = new Random(3);
    for (let turn = 0; turn < 500; turn += 1) {
      const p = random.pick([0.5, 0.8, 0.9, 0.98]);
      const length = random.between(1, 12);
      const [one, other] = [randomList(random, length, 15), randomList(random, length, 15)];
      expect(rankBiasedOverlap(one, other, p)).toBeCloseTo(slowRbo(one, other, p), 10);
      const longer = randomList(random, random.between(1, 15), 15);
      expect(rankBiasedOverlap(one, longer, p)).toBeCloseTo(slowUnevenRbo(one, longer, p), 10);
      expect(rankBiasedOverlap(longer, one, p)).toBeCloseTo(rankBiasedOverlap(one, longer, p), 12);
    }
  });

  test("a change at the top weighs more than one at the bottom", () => {
    const list = [..."abcdefgh"];
    const top = rankBiasedOverlap(list, [..."xbcdefgh"]);
    const bottom = rankBiasedOverlap(list, [..."abcdefgx"]);
    expect(top).toBeLessThan(bottom);
  });
});

describe("recall of an index by distance", () => {
  test("counts a row that is as near as the farthest wanted one, whichever row it is", () => {
    expect(recallByDistance([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], 3)).toBe(1);
    expect(recallByDistance([0.9, 0.7, 0.6], [0.9, 0.8, 0.7], 3)).toBeCloseTo(2 / 3, 12);
    // Five rows at the same distance, of which each search returns three others.
    expect(recallByDistance([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], 3)).toBe(1);
    // The last digits of a sum that was added up in another order.
    expect(recallByDistance([0.5 - 1e-16], [0.5], 1)).toBe(1);
    expect(recallByDistance([0.5 - 1e-6], [0.5], 1)).toBe(0);
  });

  test("rows that are missing count, more than were wanted do not, and where nothing is to be found nothing is lost", () => {
    expect(recallByDistance([0.9], [0.9, 0.8], 2)).toBe(0.5);
    expect(recallByDistance([0.9, 0.9, 0.9], [0.9, 0.8], 10)).toBe(1);
    expect(recallByDistance([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], 2)).toBe(1);
    expect(recallByDistance([], [], 10)).toBe(1);
  });
});

describe("quantiles and means", () => {
  test("a quantile is a value of the list, by nearest rank", () => {
    const list = [15, 20, 35, 40, 50];
    expect([0.05, 0.3, 0.4, 0.5, 1].map((share) => quantile(list, share))).toEqual([15, 20, 20, 35, 50]);
    expect(quantile([3, 1, 2], 0)).toBe(1);
    expect(quantile([], 0.5)).toBeNaN();
    expect(mean([1, 2, 6])).toBe(3);
    expect(mean([])).toBe(0);
  });

  test("at least that share of random values lies at or below a quantile, and less below the value before it", () => {
    const random = new Random(4);
    for (let turn = 0; turn < 300; turn += 1) {
      const values = Array.from({ length: random.between(1, 40) }, () => random.between(0, 20));
      const share = random.next();
      const value = quantile(values, share);
      expect(values).toContain(value);
      expect(values.filter((other) => other <= value).length / values.length).toBeGreaterThanOrEqual(share);
      expect(values.filter((other) => other < value).length / values.length).toBeLessThanOrEqual(share);
    }
  });
});

describe("the paired bootstrap", () => {
  test("a seed repeats the interval to the last digit, another seed gives about the same one", () => {
    const random = new Random(5);
    const differences = Array.from({ length: 120 }, () => random.next() - 0.4);
    const interval = pairedBootstrap(differences, { seed: 7 });
    expect(pairedBootstrap(differences, { seed: 7 })).toEqual(interval);
    const other = pairedBootstrap(differences, { seed: 8 });
    expect(other).not.toEqual(interval);
    expect(other.low).toBeCloseTo(interval.low, 1);
    expect(other.high).toBeCloseTo(interval.high, 1);
  });

  test("is the mean itself where all differences are the same, and holds it in between elsewhere", () => {
    expect(pairedBootstrap([0.25, 0.25, 0.25], { seed: 1 })).toEqual({ low: 0.25, high: 0.25 });
    expect(pairedBootstrap([], { seed: 1 })).toEqual({ low: 0, high: 0 });
    const differences = [0, 0, 0, 1, 0, 0, -0.5, 0, 0.2, 0];
    const { low, high } = pairedBootstrap(differences, { seed: 1 });
    expect(low).toBeLessThan(mean(differences));
    expect(high).toBeGreaterThan(mean(differences));
  });

  test("comes near the interval that the normal distribution gives for many queries", () => {
    const random = new Random(6);
    const differences = Array.from(
      { length: 400 },
      () => random.next() + random.next() + random.next() - 1.5,
    );
    const average = mean(differences);
    const deviation = Math.sqrt(mean(differences.map((value) => (value - average) ** 2)));
    const margin = (1.96 * deviation) / Math.sqrt(differences.length);
    const { low, high } = pairedBootstrap(differences, { seed: 3, samples: 10_000 });
    expect(low).toBeCloseTo(average - margin, 2);
    expect(high).toBeCloseTo(average + margin, 2);
    expect(high - low).toBeGreaterThan(1.9 * margin);
    expect(high - low).toBeLessThan(2.1 * margin);
  });

  test("holds the true mean in about 95 of 100 experiments", () => {
    const random = new Random(9);
    let held = 0;
    const experiments = 400;
    for (let experiment = 0; experiment < experiments; experiment += 1) {
      const differences = Array.from({ length: 60 }, () => random.next() - 0.5);
      const { low, high } = pairedBootstrap(differences, { seed: experiment, samples: 500 });
      if (low <= 0 && high >= 0) held += 1;
    }
    expect(held / experiments).toBeGreaterThan(0.9);
    expect(held / experiments).toBeLessThan(0.985);
  });

  test("its random numbers are spread evenly and lie below 1", () => {
    const random = seededRandom(11);
    const tenths = new Array<number>(10).fill(0);
    for (let draw = 0; draw < 20_000; draw += 1) {
      const tenth = Math.floor(random() * 10);
      tenths[tenth] = (tenths[tenth] ?? 0) + 1;
    }
    expect(Math.min(...tenths)).toBeGreaterThan(1_800);
    expect(Math.max(...tenths)).toBeLessThan(2_200);
  });
});

describe("the threshold that carries over", () => {
  test("keeps as many results in the new space as the old one did in its own", () => {
    const before = [0.9, 0.85, 0.8, 0.7, 0.6];
    const after = [0.5, 0.4, 0.35, 0.2, 0.1];
    expect(carriedThreshold(before, 0.75, after)).toEqual({
      kept: 3,
      of: 5,
      threshold: expect.closeTo(0.275, 12),
    });
    // A result on the threshold is not kept.
    expect(carriedThreshold(before, 0.7, after)).toMatchObject({ kept: 3 });
  });

  test("at the ends: all are kept, none is, there are too few", () => {
    expect(carriedThreshold([0.9, 0.8], -1, [0.5, 0.4])).toEqual({
      kept: 2,
      of: 2,
      threshold: expect.closeTo(0.4, 5),
    });
    expect(carriedThreshold([0.9, 0.8], -1, [0.5, 0.4]).threshold).toBeLessThan(0.4);
    expect(carriedThreshold([0.9, 0.8], 0.95, [0.5, 0.4])).toEqual({ kept: 0, of: 2, threshold: 0.5 });
    expect(carriedThreshold([0.9, 0.8, 0.7], 0, [0.5, 0.4])).toEqual({ kept: 3, of: 3, threshold: null });
    expect(carriedThreshold([], 0.5, [])).toEqual({ kept: 0, of: 0, threshold: null });
  });

  test("on random similarities without ties it keeps exactly as many", () => {
    const random = new Random(10);
    for (let turn = 0; turn < 300; turn += 1) {
      const before = Array.from({ length: random.between(1, 40) }, () => random.next());
      const after = Array.from({ length: before.length + random.between(0, 10) }, () => random.next() * 0.6);
      const { kept, threshold } = carriedThreshold(before, random.next(), after);
      expect(after.filter((similarity) => similarity > (threshold ?? 1))).toHaveLength(kept);
    }
  });
});
