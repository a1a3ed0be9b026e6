/**
 * The seed of a test that tries choices at random. Each run tries others, except in CI, where one that was red is red again and one that was green stays so.
 * @param variable of the environment that repeats a run by the seed which it printed
 */
export function seedFrom(variable: string): number {
  const given = process.env[variable];
  if (given !== undefined) return Number(given);
  return process.env.CI === "true" ? 1 : Date.now() % 1_000_000;
}
