/**
 * Property tests: what must hold for any input, asked of many. A hundred inputs in `npm test`; for REEMBED_PROPERTY_SECONDS each in `npm run attack`.
 * A failure prints the smallest input that breaks it, and the seed: REEMBED_PROPERTY_SEED repeats the run.
 */
import fc from "fast-check";
import { test } from "vitest";
import { seedFrom } from "./seed.ts";

const SECONDS = Number(process.env.REEMBED_PROPERTY_SECONDS ?? 0);
const SEED = seedFrom("REEMBED_PROPERTY_SEED");

/**
 * A test that a property holds.
 * @param runs how many inputs it gets at a time; fewer for what needs a database
 */
export function holds<Inputs>(
  name: string,
  property: fc.IAsyncProperty<Inputs> | fc.IProperty<Inputs>,
  runs = 100,
): void {
  test(name, { timeout: 60_000 + 2_000 * SECONDS }, async () => {
    const began = performance.now();
    // Each round has a seed of its own, which a failure prints.
    for (let round = 0; round === 0 || performance.now() - began < SECONDS * 1000; round += 1)
      await fc.assert(property, { seed: SEED + round, numRuns: runs });
  });
}

/** Any text that PostgreSQL can hold: whatever Unicode has, NUL excepted. */
export const anyText = (maxLength = 200): fc.Arbitrary<string> =>
  fc.string({ unit: "binary", maxLength }).map((text) => text.replaceAll("\0", ""));

/** Pieces that break what is put together from texts: quotes, escapes, placeholders, comments, line ends, other scripts. */
const HOSTILE = [
  '"',
  "'",
  "''",
  '""',
  "\\",
  ".",
  " ",
  "$",
  "$$",
  "$1",
  "%",
  "%s",
  "%1$s",
  "%%",
  "--",
  "/*",
  "*/",
  ";",
  ",",
  "(",
  ")",
  "{",
  "}",
  "[",
  "]",
  "\n",
  "\t",
  ":",
  "::",
  ":=",
  "select",
  "null",
  "drop table",
  "é",
  "ß",
  "İ",
  "日本",
  "🜁",
  "e\u0301",
  "\u202e",
  "\u00a0",
  "A",
  "a",
  "_",
] as const;

/** A text put together from those pieces. */
export const hostileText = (maxPieces = 8): fc.Arbitrary<string> =>
  fc
    .array(fc.constantFrom(...HOSTILE), { minLength: 1, maxLength: maxPieces })
    .map((pieces) => pieces.join(""));

/** A name that an object of PostgreSQL may have: 1 to 63 bytes of UTF-8, hostile ones above all, those of full length now and then. */
export const anyName: fc.Arbitrary<string> = fc
  .oneof(
    { weight: 4, arbitrary: hostileText() },
    { weight: 1, arbitrary: anyText(40) },
    { weight: 1, arbitrary: hostileText().map((text) => text.padEnd(63, "ü")) },
  )
  .map((text) => firstBytes(text, 63))
  .filter((text) => text !== "");

/** As many whole characters as so many bytes of UTF-8 hold. */
function firstBytes(text: string, bytes: number): string {
  const { read } = new TextEncoder().encodeInto(text, new Uint8Array(bytes));
  return text.slice(0, read);
}
