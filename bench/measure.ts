/** What every benchmark returns, and how contenders are timed: interleaved, in rotated order, by their medians. */

export interface Bar {
  readonly name: string;
  readonly value: number;
  readonly bound: number;
  readonly holds: boolean;
}

export interface Outcome {
  /** Version and settings that matter. */
  readonly server: string;
  readonly rows: number;
  /** Milliseconds, ratios and counts by name. */
  readonly figures: Readonly<Record<string, number>>;
  readonly bars: readonly Bar[];
}

/** @param server the superuser URL of a PostgreSQL on loopback */
export type Benchmark = (server: string, rows: number | undefined) => Promise<Outcome>;

/**
 * Runs each contender once a round, in an order that turns with the round, and returns the median time of each in milliseconds. A round before
 * the first warms caches and is not counted.
 * @param before makes every round begin alike
 */
export async function interleaved<Name extends string>(
  contenders: Readonly<Record<Name, () => Promise<void>>>,
  rounds: number,
  before: () => Promise<void>,
): Promise<Record<Name, number>> {
  const names = Object.keys(contenders) as Name[];
  const times = new Map<Name, number[]>(names.map((name) => [name, []]));
  for (let round = -1; round < rounds; round += 1) {
    await before();
    for (const at of names.keys()) {
      const name = names[(at + round + 1) % names.length];
      if (name === undefined) continue;
      const began = performance.now();
      await contenders[name]();
      if (round >= 0) times.get(name)?.push(performance.now() - began);
    }
  }
  return Object.fromEntries(names.map((name) => [name, round2(median(times.get(name) ?? []))])) as Record<
    Name,
    number
  >;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

export const round2 = (value: number) => Math.round(value * 100) / 100;
