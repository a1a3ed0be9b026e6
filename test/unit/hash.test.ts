import { describe, expect, test } from "vitest";
import type { Space } from "../../supabase/functions/_shared/embedder.ts";
import { murmur3 } from "../../supabase/functions/_shared/murmur3.ts";
import { createHashEmbedder, hashVector } from "../../supabase/functions/_shared/providers/hash.ts";

function similarity(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}

function near(a: string, b: string, dimensions = 384): number {
  return similarity(hashVector(a, dimensions), hashVector(b, dimensions));
}

describe("murmur3", () => {
  // Published vectors of MurmurHash3_x86_32, written as the UTF-16LE text that has these bytes.
  test.each([
    ["", 0, 0],
    ["", 1, 0x514e28b7],
    ["", 0xffffffff, 0x81f16f39],
    ["\uffff\uffff", 0, 0x76293b50],
    ["\u4321\u8765", 0, 0xf55b516b],
    ["\u4321\u8765", 0x5082edee, 0x2362f9de],
    ["\u4321", 0, 0xa0f7b07a],
    ["\0\0", 0, 0x2362f9de],
  ])("of %j with the seed %d", (text, seed, hash) => {
    expect(murmur3(text, seed)).toBe(hash);
  });

  test("of a part is that of the part alone", () => {
    expect(murmur3("abcdef", 7, 1, 4)).toBe(murmur3("bcd", 7));
  });
});

describe("hash vectors", () => {
  test("are the same for ever: what is stored today must match what is computed tomorrow", () => {
    // If this fails, the features or weights have changed: give the model another name, or every stored vector is wrong in silence.
    const rounded = hashVector("Git keeps the history of a project.", 8).map((value) => value.toFixed(6));
    expect(rounded.join(" ")).toBe(
      "-0.326320 0.076781 -0.153562 0.230344 -0.383906 -0.691031 0.364711 -0.230344",
    );
  });

  test.each([1, 3, 8, 384, 1536, 3072])("have length 1 and the width %d", (dimensions) => {
    const vector = hashVector("Committing a change records it.", dimensions);
    expect(vector).toHaveLength(dimensions);
    expect(similarity(vector, vector)).toBeCloseTo(1, 10);
  });

  test("are near for shared words, nearer for shared order, far for none", () => {
    const question = "how do I undo a commit";
    expect(near(question, "Undo the last commit with git reset", 1536)).toBeGreaterThan(0.15);
    expect(near(question, "Bread rises overnight in a warm kitchen", 1536)).toBeLessThan(0.08);
    expect(near("dog bites man", "dog bites a man")).toBeGreaterThan(
      near("dog bites man", "a man bites dog"),
    );
  });

  test("find inflected words by their pieces", () => {
    expect(near("repository", "repositories")).toBeGreaterThan(0.5);
  });

  test("do not depend on case, width of letters or composition of accents", () => {
    expect(near("CAFÉ ﬁle", "cafe\u0301 file")).toBeCloseTo(1, 10);
    expect(near("ＧＩＴ", "git")).toBeCloseTo(1, 10);
  });

  test.each([
    ["Cyrillic", "история изменений проекта", "история проекта", "рецепт хлеба"],
    ["Chinese", "版本控制系统记录更改", "版本控制系统", "面包食谱厨房"],
    ["Hindi", "परियोजना का इतिहास", "परियोजना इतिहास", "रोटी की विधि"],
  ])("understand %s", (_script, text, alike, other) => {
    expect(near(text, alike)).toBeGreaterThan(near(text, other) + 0.2);
  });

  test("exist for texts without a word, and tell them apart", () => {
    for (const text of ["", "   ", "?!", "→→→", "😀"]) {
      expect(similarity(hashVector(text, 384), hashVector(text, 384))).toBeCloseTo(1, 10);
    }
    expect(near("?!", "→ $")).toBeLessThan(0.9);
  });

  test("count words as usage", async () => {
    const space: Space = {
      id: "hash/words-and-ngrams@16",
      provider: "hash",
      model: "words-and-ngrams",
      dimensions: 16,
      query_prefix: "",
      document_prefix: "",
      max_input_tokens: 8192,
    };
    const { usage } = await createHashEmbedder(space).embed(["two words", "!"], { purpose: "document" });
    expect(usage).toEqual({ tokens: 3 });
  });
});
