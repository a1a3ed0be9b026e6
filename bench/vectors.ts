/**
 * Vectors for measurements, quickly and from a seed, shaped as embeddings of texts are: of length 1, all turned a little one way, in themes and topics within them
 * that overlap, and around their topic spread along few directions and a little along all. A test compares 62 of them with 62 real ones.
 */
import { seededRandom } from "../scripts/lib/evaluation/statistics.ts";

/** Names the generator in results. */
export const GENERATOR =
  "topicVectors of bench/vectors.ts (unit vectors in 25 themes of 20 topics of unequal size, which overlap, spread along 32 directions and a little along all)";

const THEMES = 25;
const TOPICS = 20;
const DIRECTIONS = 32;
/** Lengths of the parts of a vector: what all have in common, its theme, its topic, its place around that, noise. */
const COMMON = 0.6;
const THEME = 0.35;
const TOPIC = 0.4;
const PLACE = 0.75;
const NOISE = 0.3;

/** The vectors, one after another and for ever; the same ones for a seed. A vector is not written to again. */
export function* topicVectors(dimensions: number, seed: number): Generator<Float32Array, never> {
  const random = seededRandom(seed);
  const common = direction(dimensions, random);
  const centres = Array.from({ length: THEMES }, () => direction(dimensions, random)).flatMap((theme) =>
    Array.from({ length: TOPICS }, () => {
      const topic = direction(dimensions, random);
      return topic.map(
        (value, axis) => COMMON * (common[axis] ?? 0) + THEME * (theme[axis] ?? 0) + TOPIC * value,
      );
    }),
  );
  const directions = Array.from({ length: DIRECTIONS }, () => direction(dimensions, random));
  // Deviations of the place along its directions: the first varies most, and together they are of length PLACE.
  const fading = directions.map((_, at) => 1 / Math.sqrt(1 + at / 8));
  const deviations = fading.map((value) => (value / Math.hypot(...fading)) * PLACE);
  const noise = NOISE * Math.sqrt(12 / dimensions);
  for (;;) {
    // The square makes the first ones the largest.
    const centre = centres[Math.floor(random() ** 2 * centres.length)] ?? common;
    const vector = centre.map((value) => value + noise * (random() - 0.5));
    for (const [at, along] of directions.entries()) {
      const step = (deviations[at] ?? 0) * normal(random);
      for (let axis = 0; axis < dimensions; axis += 1)
        vector[axis] = (vector[axis] ?? 0) + step * (along[axis] ?? 0);
    }
    yield toLengthOne(vector);
  }
}

/** The next `count` vectors. */
export function take(vectors: Generator<Float32Array, never>, count: number): Float32Array[] {
  return Array.from({ length: count }, () => vectors.next().value);
}

/** A direction of its own, of length 1. */
function direction(dimensions: number, random: () => number): Float32Array {
  return toLengthOne(Float32Array.from({ length: dimensions }, () => normal(random)));
}

/** About normally distributed, with deviation 1: the sum of three even numbers. */
function normal(random: () => number): number {
  return 2 * (random() + random() + random() - 1.5);
}

function toLengthOne(vector: Float32Array): Float32Array {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const length = Math.sqrt(squares);
  for (let axis = 0; axis < vector.length; axis += 1) vector[axis] = (vector[axis] ?? 0) / length;
  return vector;
}

/**
 * The similarities of the `count` nearest to each query, found by comparing all: what a search is measured against. Vectors come in as they are made, so that
 * none has to be kept.
 */
export class Exact {
  readonly #queries: readonly Float32Array[];
  readonly #count: number;
  readonly #nearest: number[][];

  constructor(queries: readonly Float32Array[], count: number) {
    this.#queries = queries;
    this.#count = count;
    this.#nearest = queries.map(() => []);
  }

  add(vector: Float32Array): void {
    for (const [at, query] of this.#queries.entries()) {
      const best = this.#nearest[at] ?? [];
      const similarity = cosine(query, vector);
      if (best.length === this.#count && similarity <= (best.at(-1) ?? 0)) continue;
      const place = best.findIndex((other) => other < similarity);
      best.splice(place < 0 ? best.length : place, 0, similarity);
      best.length = Math.min(best.length, this.#count);
    }
  }

  /**
   * Which share of what an exact search returns came back, by distance: a row counts if it is as near as the last of the exact ones.
   * @param found the similarities that came back, for each query
   * @param tolerance what rounding may take from a similarity
   */
  recall(found: readonly (readonly number[])[], tolerance = 1e-6): number {
    const shares = this.#nearest.map((best, at) => {
      const last = (best.at(-1) ?? 0) - tolerance;
      return (found[at] ?? []).filter((similarity) => similarity >= last).length / best.length;
    });
    return shares.reduce((sum, share) => sum + share, 0) / shares.length;
  }

  /**
   * How the vectors lie around the queries. `dimension` is the maximum-likelihood estimate from the distances of the nearest (E. Levina, P. Bickel, "Maximum
   * likelihood estimation of intrinsic dimension", NIPS 2004): the greater, the harder for an index.
   */
  shape(): { nearest: number; last: number; dimension: number } {
    const mean = (of: (best: readonly number[]) => number) =>
      this.#nearest.reduce((sum, best) => sum + of(best), 0) / this.#nearest.length;
    return {
      nearest: mean((best) => best[0] ?? 0),
      last: mean((best) => best.at(-1) ?? 0),
      dimension: mean((best) => {
        const distances = best.map((similarity) => Math.sqrt(Math.max(0, 2 - 2 * similarity)));
        const last = distances.at(-1) ?? 0;
        const logs = distances.slice(0, -1).map((distance) => Math.log(last / distance));
        return logs.length / logs.reduce((sum, log) => sum + log, 0);
      }),
    };
  }
}

/** The cosine of two vectors of length 1, of a multiple of four dimensions. Four sums side by side are four times as fast as one. */
function cosine(a: Float32Array, b: Float32Array): number {
  let [first, second, third, fourth] = [0, 0, 0, 0];
  for (let at = 0; at < a.length; at += 4) {
    first += (a[at] ?? 0) * (b[at] ?? 0);
    second += (a[at + 1] ?? 0) * (b[at + 1] ?? 0);
    third += (a[at + 2] ?? 0) * (b[at + 2] ?? 0);
    fourth += (a[at + 3] ?? 0) * (b[at + 3] ?? 0);
  }
  return first + second + third + fourth;
}
