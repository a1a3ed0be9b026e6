/** What every benchmark returns, and how contenders are timed: interleaved, in rotated order, by their medians. */
import type { Chart } from "./charts.ts";

/** Between which values the middle half of the samples lies. */
export type Spread = readonly [low: number, high: number];

/** A number (milliseconds, a ratio, a count), what it says, and its spread where it is the median of several samples. */
export type Figure = readonly [value: number, meaning: string, spread?: Spread];

/** On which side of its bound a bar's value has to be. */
export type Side = "at least" | "at most" | "below";

export interface Bar {
  readonly name: string;
  readonly value: number;
  readonly bound: number;
  readonly holds: boolean;
  readonly side: Side;
}

export interface Outcome {
  /** What is compared with what, and how. */
  readonly about: string;
  /** What makes the data, from which seed. */
  readonly data: string;
  /** Set where figures are of requests over HTTP: they go to the stack of `npm run dev`, not to PostgREST. */
  readonly overHttp?: true;
  readonly rows: number;
  readonly figures: Readonly<Record<string, Figure>>;
  readonly bars: readonly Bar[];
  /** Drawn beside the results. */
  readonly charts?: readonly Chart[];
}

/** @param server the superuser URL of a PostgreSQL on loopback */
export type Benchmark = (server: string, rows: number | undefined) => Promise<Outcome>;

export const atLeast = (name: string, value: number, bound: number) =>
  bar(name, value, bound, "at least", value >= bound);
export const atMost = (name: string, value: number, bound: number) =>
  bar(name, value, bound, "at most", value <= bound);
export const below = (name: string, value: number, bound: number) =>
  bar(name, value, bound, "below", value < bound);

/** The value is judged as it is and printed rounded. */
function bar(name: string, value: number, bound: number, side: Side, holds: boolean): Bar {
  return { name, value: rounded(value), bound: rounded(bound), holds, side };
}

/**
 * Runs each contender once a round, in an order that turns with the round, and returns how long each took, in milliseconds, a sample a round. A
 * round before the first warms caches and is not counted.
 * @param before makes every round begin alike
 */
export async function interleaved<Name extends string>(
  contenders: Readonly<Record<Name, () => Promise<unknown>>>,
  rounds: number,
  before: (round: number) => Promise<unknown> = async () => undefined,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(contenders) as Name[];
  const samples = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = -1; round < rounds; round += 1) {
    await before(round);
    for (const at of names.keys()) {
      const name = names[(at + round + 1) % names.length];
      if (name === undefined) continue;
      const took = await timed(contenders[name]);
      if (round >= 0) samples[name].push(took);
    }
  }
  return samples;
}

/** How long it takes, in milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** The median of samples with their spread. @param per divides both: how many things a sample is the time of */
export function medianFigure(samples: readonly number[], meaning: string, per = 1): Figure {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number) =>
    rounded((sorted[Math.round(share * (sorted.length - 1))] ?? Number.NaN) / per);
  return [rounded(median(samples) / per), meaning, [at(0.25), at(0.75)]];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

/** To a hundredth, and below one to four digits. */
export function rounded(value: number): number {
  return Math.abs(value) < 1 ? Number(value.toPrecision(4)) : Math.round(value * 100) / 100;
}
