/** Articles to chunks: nothing is lost, the bounds hold, sentences stay whole where they fit, and an edit leaves the rest as it was. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Chunk, chunkText } from "../../../supabase/functions/_shared/chunks.ts";
import { estimateTokens } from "../../../supabase/functions/_shared/tokens.ts";
import { anyText, holds } from "../../support/properties.ts";
import { Random } from "../../support/random.ts";

const SCRIPTS = {
  latin: {
    words: ["rates", "rise", "council", "library", "budget", "vote", "a", "of"],
    stop: ". ",
    gap: " ",
  },
  cyrillic: { words: ["ставка", "совет", "библиотека", "бюджет", "голос", "и", "в"], stop: "! ", gap: " " },
  cjk: { words: ["图书馆", "预算", "投票", "城市", "天气", "的"], stop: "。", gap: "" },
} as const;
type Script = keyof typeof SCRIPTS;

function sentenceOf(script: Script, random: Random, words: number): string {
  const { words: all, stop, gap } = SCRIPTS[script];
  const [first = "", ...rest] = Array.from({ length: words }, () => random.pick(all));
  return [first.charAt(0).toUpperCase() + first.slice(1), ...rest].join(gap) + stop;
}

function article(script: Script, seed: number, sentences: number): string[] {
  const random = new Random(seed);
  return Array.from(
    { length: sentences },
    (_, n) => `${sentenceOf(script, random, random.between(3, 14))}${n % 7 === 6 ? "\n\n" : ""}`,
  );
}

const sizes = fc.integer({ min: 16, max: 200 }).chain((chunkTokens) =>
  fc.record({
    chunkTokens: fc.constant(chunkTokens),
    overlapTokens: fc.integer({ min: 0, max: Math.floor(chunkTokens / 2) }),
  }),
);
const prose = fc
  .record({
    script: fc.constantFrom(...(Object.keys(SCRIPTS) as Script[])),
    seed: fc.nat(),
    sentences: fc.integer({ min: 0, max: 80 }),
  })
  .map(({ script, seed, sentences }) => article(script, seed, sentences).join(""));
const anyArticle = fc.oneof(
  prose,
  anyText(3_000),
  fc.string({ unit: "grapheme", maxLength: 2_000 }),
  // Without any place to cut.
  fc.string({ unit: fc.constantFrom("x", "ж", "图", "👩‍👩‍👧‍👦", "e\u0301\u0302"), maxLength: 1_500 }),
);

const isSpace = (character: string) => character.trim() === "";

function covered(text: string, chunks: readonly Chunk[]): string {
  let rest = "";
  let at = 0;
  for (const { start, end } of chunks) {
    rest += text.slice(at, Math.max(at, start));
    at = Math.max(at, end);
  }
  return rest + text.slice(at);
}

describe("chunks of any text", () => {
  holds(
    "hold all of it but white space, in its order, each where it says",
    fc.property(anyArticle, sizes, (text, size) => {
      const chunks = chunkText(text, size);
      expect([...covered(text, chunks)].filter((character) => !isSpace(character))).toEqual([]);
      for (const [n, { text: chunk, start, end }] of chunks.entries()) {
        expect(chunk).toBe(text.slice(start, end));
        expect(chunk).toBe(chunk.trim());
        expect(chunk).not.toBe("");
        const before = chunks[n - 1];
        if (before !== undefined) {
          expect(start).toBeGreaterThan(before.start);
          expect(end).toBeGreaterThan(before.end);
        }
      }
    }),
  );

  holds(
    "are never larger than asked, and repeat no more than asked",
    fc.property(anyArticle, sizes, (text, size) => {
      const chunks = chunkText(text, size);
      for (const [n, chunk] of chunks.entries()) {
        expect(estimateTokens(chunk.text)).toBeLessThanOrEqual(size.chunkTokens);
        const before = chunks[n - 1];
        if (before === undefined || before.end <= chunk.start) continue;
        expect(estimateTokens(text.slice(chunk.start, before.end))).toBeLessThanOrEqual(size.overlapTokens);
      }
    }),
  );

  holds(
    "cut no character in two",
    fc.property(anyArticle, sizes, (text, size) => {
      for (const { text: chunk } of chunkText(text.toWellFormed(), size))
        expect(chunk.isWellFormed()).toBe(true);
    }),
  );

  holds(
    "of sentences that fit are whole sentences",
    fc.property(
      fc.constantFrom(...(Object.keys(SCRIPTS) as Script[])),
      fc.nat(),
      fc.integer({ min: 1, max: 60 }),
      fc.integer({ min: 80, max: 300 }),
      (script, seed, count, chunkTokens) => {
        const sentences = article(script, seed, count);
        const ends = new Set<number>();
        const starts = new Set<number>([0]);
        let at = 0;
        for (const sentence of sentences) {
          ends.add(at + sentence.trimEnd().length);
          at += sentence.length;
          starts.add(at);
        }
        for (const { start, end } of chunkText(sentences.join(""), { chunkTokens, overlapTokens: 20 })) {
          expect(starts).toContain(start);
          expect(ends).toContain(end);
        }
      },
    ),
  );
});

describe("chunks of one text", () => {
  const of = (text: string, chunkTokens: number, overlapTokens: number) =>
    chunkText(text, { chunkTokens, overlapTokens }).map(({ text: chunk }) => chunk);

  test("repeat the last sentence of the one before, whole", () => {
    const sentences = [
      "One is here.",
      "Two is here.",
      "Three is here.",
      "Four is here.",
      "Five is here.",
      "Six is here.",
    ];
    const chunks = of(sentences.join(" "), 16, 4);
    for (const [n, chunk] of chunks.entries()) {
      const before = chunks[n - 1];
      if (before === undefined) continue;
      const [first = ""] = chunk.split(/(?<=\.) /);
      expect(before.endsWith(first)).toBe(true);
    }
  });

  test("end with a paragraph rather than in its middle", () => {
    expect(of(`${"Word of it. ".repeat(6).trim()}\n\n${"Another one. ".repeat(8)}`, 20, 0)[0]).toBe(
      "Word of it. ".repeat(6).trim(),
    );
  });

  test("end with a sentence before one that has to be cut, rather than inside it", () => {
    const long = `Long ${"word ".repeat(40)}end.`;
    const chunks = of(`A short one. ${long}`, 16, 0);
    expect(chunks[0]).toBe("A short one.");
    expect(chunks[1]).toMatch(/^Long word .*word$/);
  });

  test("a line break within a paragraph ends no sentence", () => {
    const text = `${"A sentence that is\nbroken into lines as\nmail is. ".repeat(12)}`;
    for (const chunk of of(text, 40, 0)) expect(chunk).toMatch(/^A sentence[\s\S]*mail is\.$/);
  });

  test("of nothing there are none", () => {
    expect(of("", 400, 50)).toEqual([]);
    expect(of(" \n\n\t ", 400, 50)).toEqual([]);
  });

  test.each<[Partial<Parameters<typeof chunkText>[1]>, string]>([
    [{ chunkTokens: 15 }, "chunk_tokens"],
    [{ chunkTokens: 1.5 }, "chunk_tokens"],
    [{ chunkTokens: 9_000 }, "chunk_tokens"],
    [{ overlapTokens: -1 }, "overlap_tokens"],
    [{ chunkTokens: 100, overlapTokens: 51 }, "overlap_tokens"],
  ])("%j is refused by its name", (size, name) => {
    expect(() => chunkText("a", size ?? {})).toThrow(name);
  });

  test.each(Object.keys(SCRIPTS) as Script[])(
    "an edit leaves most of the others as they were, in %s",
    (script) => {
      const sentences = article(script, 7, 400);
      const before = of(sentences.join(""), 120, 20);
      const known = new Set(before);
      const changes = {
        "a sentence before all": [sentenceOf(script, new Random(1), 9), ...sentences],
        "one in the middle": sentences.with(200, sentenceOf(script, new Random(2), 12)),
        "one taken out": sentences.toSpliced(120, 1),
      };
      for (const [change, edited] of Object.entries(changes)) {
        const after = of(edited.join(""), 120, 20);
        const fresh = after.filter((chunk) => !known.has(chunk)).length;
        expect({ change, few: fresh <= 3, fresh, of: before.length }).toMatchObject({
          few: true,
        });
      }
    },
  );
});
