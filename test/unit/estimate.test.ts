/** What an estimate makes of texts: by the engine's rules, without the engine. */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { bytesOfVectors, indexableType } from "../../scripts/lib/disk.ts";
import { createTally, type PendingText } from "../../scripts/lib/estimate.ts";
import { loadTokenizer, type Tokenizer } from "../../scripts/lib/tokenizer.ts";
import { TEST_SPACE } from "../support/memory-queue.ts";

/** A token for every word, or for every character that is no letter. */
const words: Tokenizer = { name: "words", count: (text) => text.match(/\w+|[^\w\s]/g)?.length ?? 0 };

const pending = (text: string, inSample = true): PendingText => ({
  hash: createHash("sha256").update(text).digest("hex"),
  bytes: Buffer.byteLength(text),
  text: inSample ? text : null,
});

const tallyOf = (
  texts: readonly PendingText[],
  policy: "truncate" | "fail" = "truncate",
  tokenizer = words,
) => {
  const tally = createTally(TEST_SPACE, policy, tokenizer);
  for (const text of texts) tally.add([text]);
  return tally.totals();
};

describe("a tally", () => {
  test("buys an equal text once and a blank one never", () => {
    expect(tallyOf(["one two", "three", "one two", "", " \n", ""].map((text) => pending(text)))).toEqual({
      texts: 2,
      copies: 1,
      blank: 3,
      tokens: 3,
      overLong: 0,
    });
  });

  test("counts of a long text what is sent of it, or nothing where its row fails", () => {
    // The space takes 100 tokens, by the estimate 400 bytes: 80 words of "word ".
    const long = [pending("word ".repeat(1_000))];
    expect(tallyOf(long)).toMatchObject({ texts: 1, tokens: 80, overLong: 1 });
    expect(tallyOf(long, "fail")).toMatchObject({ texts: 1, tokens: 0, overLong: 1 });
  });

  test("counts a text that the estimate lets pass and the provider does not, halved as the worker does it", () => {
    const dense = [pending("!".repeat(360))];
    expect(tallyOf(dense)).toMatchObject({ texts: 1, tokens: 100, overLong: 1 });
    expect(tallyOf(dense, "fail")).toMatchObject({ texts: 1, tokens: 0, overLong: 1 });
    expect(tallyOf([pending("!".repeat(180))])).toMatchObject({ tokens: 100, overLong: 1 });
  });

  test("concludes from a sample: tokens by bytes, dense texts by texts", () => {
    const texts = Array.from({ length: 100 }, (_, n) =>
      pending(`text ${String(n).padStart(3, "0")}`, n % 4 === 0),
    );
    expect(tallyOf(texts)).toMatchObject({ texts: 100, tokens: 200, overLong: 0 });
    const dense = Array.from({ length: 100 }, (_, n) => pending(`${n} ${"!".repeat(150)}`, n % 4 === 0));
    expect(tallyOf(dense)).toMatchObject({ texts: 100, overLong: 100 });
  });

  test("takes a token for every four bytes where no tokenizer is known, and none beyond what the space takes", () => {
    const tally = createTally({ ...TEST_SPACE, document_prefix: "passage:" }, "truncate", undefined);
    tally.add([pending("x".repeat(92)), pending("x".repeat(4_000), false)]);
    expect(tally.totals()).toMatchObject({ tokens: 25 + 100, overLong: 1 });
  });
});

describe("the tokenizer", () => {
  test("counts as OpenAI bills, control tokens as text", async () => {
    for (const model of ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]) {
      const tokenizer = await loadTokenizer({ provider: "openai", model });
      expect(tokenizer?.name).toBe("cl100k_base");
      expect(
        ["tiktoken is great!", "お誕生日おめでとう", "<|endoftext|>", ""].map((text) =>
          tokenizer?.count(text),
        ),
      ).toEqual([6, 9, 7, 0]);
    }
  });

  test("is not claimed for other models", async () => {
    expect(await loadTokenizer({ provider: "openai", model: "nomic-embed-text" })).toBeUndefined();
    expect(await loadTokenizer({ provider: "hash", model: "text-embedding-3-small" })).toBeUndefined();
  });
});

test("disk: a page a row for vector(1536), half of it for halfvec, halfvec beyond 2,000 dimensions", () => {
  expect(bytesOfVectors(50_000, "vector", 1536)).toBe(409_600_000);
  expect(bytesOfVectors(50_000, "halfvec", 1536)).toBe(204_800_000);
  expect([1536, 2000, 2001, 3072].map(indexableType)).toEqual(["vector", "vector", "halfvec", "halfvec"]);
});
