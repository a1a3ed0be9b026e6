/** What is believed of a provider's answer: vectors for each input, in their order, that have a direction; nothing else, and no number of it in an error. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import { checkVectors } from "../../../supabase/functions/_shared/embedder.ts";
import { ProviderError } from "../../../supabase/functions/_shared/provider-error.ts";
import { createOpenAIEmbedder } from "../../../supabase/functions/_shared/providers/openai.ts";
import { TEST_SPACE } from "../../support/memory-queue.ts";
import { anyText, holds } from "../../support/properties.ts";

const WIDTH = 4;
const space = { ...TEST_SPACE, dimensions: WIDTH };
/** Numbers as models give them: neither so large nor so small that a float4 could not hold their squares. */
const usual = fc.double({ min: 0.001, max: 1000, noNaN: true });
const vector = fc.array(usual, { minLength: WIDTH, maxLength: WIDTH });
const vectors = fc.array(vector, { minLength: 1, maxLength: 6 });

const SPOILT: Readonly<Record<string, (good: number[]) => unknown[]>> = {
  short: (good) => good.slice(1),
  long: (good) => [...good, 1],
  nan: (good) => [Number.NaN, ...good.slice(1)],
  infinite: (good) => [Number.POSITIVE_INFINITY, ...good.slice(1)],
  overflowing: (good) => [1e30, ...good.slice(1)],
  zero: (good) => good.map(() => 0),
  underflowing: (good) => good.map(() => 1e-30),
  text: (good) => [String(good[0]), ...good.slice(1)],
  null: (good) => [null, ...good.slice(1)],
};

/** Answers a request as OpenAI does, with these rows. */
function answering(rows: (inputs: readonly string[]) => readonly unknown[]): typeof fetch {
  return async (_, init) => {
    const { input } = JSON.parse(await new Response(init?.body ?? null).text()) as { input: string[] };
    const usage = { prompt_tokens: 1, total_tokens: 1 };
    return Response.json({ object: "list", model: "m", data: rows(input), usage });
  };
}

const embed = (rows: (inputs: readonly string[]) => readonly unknown[], inputs: readonly string[]) =>
  createOpenAIEmbedder({ space, apiKey: "sk-1", fetch: answering(rows) }).embed(inputs, {
    purpose: "document",
  });

describe("the check of an answer", () => {
  holds(
    "lets vectors pass that have the width and a direction",
    fc.property(vectors, (good) => {
      expect(checkVectors(space, good.map(String), good)).toBeUndefined();
    }),
  );

  holds(
    "refuses the whole answer for one that is spoilt, and shows no number of it",
    fc.property(vectors, fc.constantFrom(...Object.keys(SPOILT)), fc.nat(), (good, how, at) => {
      const place = at % good.length;
      const spoil = SPOILT[how] ?? ((same) => same);
      const answer = good.map((one, index) => (index === place ? spoil(one) : one)) as number[][];
      const error = catchError(() => checkVectors(space, good.map(String), answer));
      expect(error).toMatchObject({ fault: "bad_answer" });
      expect(String(error)).toContain(`vector ${place + 1} of ${good.length}`);
      for (const number of answer.flat())
        if (String(number).length > 3) expect(String(error)).not.toContain(String(number));
    }),
  );

  holds(
    "refuses more or fewer vectors than inputs",
    fc.property(vectors, fc.integer({ min: 0, max: 9 }), (good, inputs) => {
      fc.pre(inputs !== good.length);
      const error = catchError(() => checkVectors(space, Array(inputs).fill("x"), good));
      expect(error).toMatchObject({ fault: "bad_answer" });
    }),
  );
});

describe("an answer of an OpenAI server", () => {
  const texts = fc.uniqueArray(
    anyText(30).filter((text) => text !== ""),
    { minLength: 1, maxLength: 6 },
  );
  /** Of text number n: told apart by their direction. */
  const vectorAt = (n: number) =>
    Array.from({ length: WIDTH }, (_, axis) => (axis === n % WIDTH ? n + 1 : 1));
  const rowAt = (n: number, base64: boolean) => ({
    object: "embedding",
    index: n,
    embedding: base64 ? Buffer.from(Float32Array.from(vectorAt(n)).buffer).toString("base64") : vectorAt(n),
  });

  // Servers answer in parallel: the place in the list says nothing, the index does.
  holds(
    "is put into the order of the inputs, whatever order and form it has",
    fc.asyncProperty(texts, fc.infiniteStream(fc.nat()), fc.boolean(), async (inputs, order, base64) => {
      const rows = inputs.map((_, n) => ({ row: rowAt(n, base64), key: order.next().value ?? 0 }));
      const shuffled = rows.toSorted((a, b) => a.key - b.key).map(({ row }) => row);
      const { vectors } = await embed(() => shuffled, inputs);
      expect(vectors.map((one) => [...(one ?? [])])).toEqual(inputs.map((_, n) => vectorAt(n)));
    }),
  );

  // Two vectors for one text and none for another would be stored with the wrong rows.
  holds(
    "is refused when its indexes are not those of the inputs, each once",
    fc.asyncProperty(
      texts,
      fc.array(fc.oneof(fc.integer({ min: -2, max: 8 }), fc.double()), { maxLength: 8 }),
      async (inputs, indexes) => {
        fc.pre(
          indexes.toSorted((a, b) => a - b).some((index, at) => index !== at) ||
            indexes.length !== inputs.length,
        );
        const error = await embed(
          () => indexes.map((index) => ({ ...rowAt(0, false), index })),
          inputs,
        ).catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(ProviderError);
        expect(error).toMatchObject({ fault: "bad_answer" });
      },
    ),
  );

  holds(
    "that is any JSON at all is vectors or a ProviderError, nothing else",
    fc.asyncProperty(texts, fc.array(fc.jsonValue(), { maxLength: 3 }), async (inputs, rows) => {
      const answer = await embed(() => rows, inputs).catch((thrown: unknown) => thrown);
      if (!(answer instanceof ProviderError)) expect(answer).toMatchObject({ vectors: expect.any(Array) });
    }),
  );
});

function catchError(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}
