/** What measurements are made with: contenders in turn, vectors from a seed, the exact answer, pictures. */
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { draw } from "../../bench/charts.ts";
import { atLeast, atMost, below, interleaved, medianFigure } from "../../bench/measure.ts";
import { Exact, take, topicVectors } from "../../bench/vectors.ts";
import { mean } from "../../scripts/lib/evaluation/statistics.ts";

describe("interleaved", () => {
  test("runs each contender once a round, in an order that turns, and counts no first round", async () => {
    const ran: string[] = [];
    const contender = (name: string) => async () => void ran.push(name);
    const samples = await interleaved({ a: contender("a"), b: contender("b"), c: contender("c") }, 3);
    expect(ran.join("")).toBe("abc" + "bca" + "cab" + "abc");
    expect(Object.values(samples).map(({ length }) => length)).toEqual([3, 3, 3]);
  });
});

test("a figure of several samples is their median, with the middle half, of one thing each", () => {
  expect(medianFigure([50, 10, 40, 20, 30], "what it says", 10)).toEqual([3, "what it says", [2, 4]]);
});

test("a bar is judged by its value as it is, not as it is printed", () => {
  expect(atMost("", 1.004, 1)).toMatchObject({ value: 1, holds: false });
  expect(atLeast("", 0.98996, 0.99)).toMatchObject({ value: 0.99, holds: false });
  expect(below("", 3, 3)).toMatchObject({ holds: false });
});

describe("vectors", () => {
  test("are of length 1, and the same for a seed and no other", () => {
    const [first, again, other] = [1, 1, 2].map((seed) => take(topicVectors(16, seed), 3));
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
    for (const vector of first ?? []) expect(Math.hypot(...vector)).toBeCloseTo(1, 6);
  });

  test("lie as real embeddings do: 62 of them as 62 film titles in text-embedding-3-small", async () => {
    const text = await readFile(
      new URL("../../examples/peliculas/peliculas_text-embedding-3-small-1536.json", import.meta.url),
      "utf8",
    );
    const titles = Object.values(JSON.parse(text) as Record<string, number[]>).map((title) =>
      Float32Array.from(title),
    );
    const [real, made] = [titles, take(topicVectors(1536, 1), titles.length)].map(shapeAmong);
    if (!real || !made) throw new Error("nothing was measured");
    expect(Math.abs(made.mean - real.mean)).toBeLessThan(0.05);
    expect(Math.abs(made.nearest - real.nearest)).toBeLessThan(0.05);
    expect(Math.abs(made.last - real.last)).toBeLessThan(0.05);
    expect(made.dimension / real.dimension).toBeGreaterThan(0.8);
    expect(made.dimension / real.dimension).toBeLessThan(1.25);
  });

  test("the exact answer is that of sorting all, and recall is by distance", () => {
    const vectors = topicVectors(8, 1);
    const [queries, rows] = [take(vectors, 4), take(vectors, 200)];
    const truth = new Exact(queries, 10);
    for (const row of rows) truth.add(row);
    const sorted = queries.map((query) =>
      rows
        .map((row) => row.reduce((sum, value, axis) => sum + value * (query[axis] ?? 0), 0))
        .sort((a, b) => b - a),
    );
    const found = (from: number) => sorted.map((all) => all.slice(from, from + 10));
    expect(truth.recall(found(0))).toBe(1);
    expect(truth.recall(found(3))).toBeCloseTo(0.7);
    expect(truth.recall(found(10))).toBe(0);
    expect(truth.recall([])).toBe(0);
    expect(truth.shape().last).toBeLessThan(truth.shape().nearest);
  });
});

/** How vectors lie among each other: the mean similarity of two, and how the ten nearest others of each lie around it. */
function shapeAmong(vectors: readonly Float32Array[]) {
  const shapes = vectors.map((one) => {
    const others = vectors.filter((other) => other !== one);
    const truth = new Exact([one], 10);
    for (const other of others) truth.add(other);
    const dot = (other: Float32Array) =>
      other.reduce((sum, value, axis) => sum + value * (one[axis] ?? 0), 0);
    return { ...truth.shape(), mean: mean(others.map(dot)) };
  });
  return {
    mean: mean(shapes.map((shape) => shape.mean)),
    nearest: mean(shapes.map((shape) => shape.nearest)),
    last: mean(shapes.map((shape) => shape.last)),
    dimension: mean(shapes.map((shape) => shape.dimension)),
  };
}

describe("pictures", () => {
  test("bars are as long as their values, and labels are text", () => {
    const svg = draw({
      kind: "bars",
      name: "a",
      title: "<b>",
      bars: [
        { label: "one & two", value: 10, ours: true },
        { label: "half", value: 5 },
      ],
    });
    expect(svg).toContain("one &amp; two");
    expect(svg).toContain("&lt;b&gt;");
    const [all = 0, half = 0] = [...svg.matchAll(/width="([\d.]+)" height="18"/g)].map(([, width]) =>
      Number(width),
    );
    expect(half).toBe(all / 2);
  });

  test("on a logarithmic axis equal ratios are equal distances", () => {
    const svg = draw({
      kind: "lines",
      name: "a",
      title: "a",
      x: { label: "rows", scale: "log" },
      y: { label: "ms", scale: "linear" },
      lines: [{ label: "one", points: [10, 100, 1000].map((x) => ({ x, y: x, note: `at ${x}` })) }],
    });
    const [first = 0, second = 0, third = 0] = [...svg.matchAll(/cx="([\d.]+)"/g)].map(([, x]) => Number(x));
    expect(second - first).toBeCloseTo(third - second);
    expect(svg).toContain("at 1000");
  });
});
