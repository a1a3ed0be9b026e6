/** One query over several collections, on fake ports: the fusion, what is asked once, and what becomes of a collection that fails. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { fuse, type SeveralPorts, searchSeveral } from "../../supabase/functions/_shared/search-several.ts";
import { seedFrom } from "../support/seed.ts";

/** Up to five lists of rows, each row named by its list and place, and how many rows are asked for. */
const asked = fc.record({
  lists: fc
    .array(fc.nat(12), { minLength: 1, maxLength: 5 })
    .map((lengths) => lengths.map((length, list) => Array.from({ length }, (_, at) => ({ list, at })))),
  count: fc.integer({ min: 1, max: 70 }),
});

describe("fuse", () => {
  test("keeps each list's own order, loses no row that is asked for and repeats none", () => {
    fc.assert(
      fc.property(asked, ({ lists, count }) => {
        const rows = fuse(lists, count).map(({ row }) => row);
        expect(rows).toHaveLength(Math.min(count, lists.flat().length));
        for (const [list, own] of lists.entries()) {
          const kept = rows.filter((row) => row.list === list);
          expect(kept).toEqual(own.slice(0, kept.length));
        }
      }),
      { seed: seedFrom("REEMBED_PROPERTY_SEED") },
    );
  });

  test("puts better places first, and of equal ones an earlier list's", () => {
    fc.assert(
      fc.property(asked, ({ lists, count }) => {
        const fused = fuse(lists, count);
        for (const [index, { row, list, score }] of fused.entries()) {
          expect({ list, score }).toEqual({ list: row.list, score: 1 / (61 + row.at) });
          const before = fused[index - 1]?.row;
          if (before === undefined) continue;
          expect(before.at < row.at || (before.at === row.at && before.list < row.list)).toBe(true);
        }
      }),
      { seed: seedFrom("REEMBED_PROPERTY_SEED") },
    );
  });

  test("of more rows the first ones are what fewer gave", () => {
    fc.assert(
      fc.property(asked, fc.nat(20), ({ lists, count }, more) => {
        expect(fuse(lists, count + more).slice(0, count)).toEqual(fuse(lists, count));
      }),
      { seed: seedFrom("REEMBED_PROPERTY_SEED") },
    );
  });
});

interface Faked {
  readonly space?: string;
  readonly provider?: string;
  readonly hybrid?: boolean;
  readonly rows?: readonly Record<string, unknown>[];
  /** Thrown instead of its route, or instead of its rows. */
  readonly routeError?: ReembedError;
  readonly error?: ReembedError;
}

/** Ports over collections of these kinds; what is called is written down. */
function ports(collections: Readonly<Record<string, Faked>>, refused?: "rate" | "budget") {
  const begun: { space: unknown; caller: unknown }[] = [];
  const embedded: string[] = [];
  const buckets: [string, unknown][] = [];
  const asked: { name: string; args: Readonly<Record<string, unknown>> }[] = [];
  let tickets = 0;
  const made: SeveralPorts = {
    callerHash: "c".repeat(64),
    callerBucketOf: async (collection) => collection.length,
    embedderFor: (space) => ({
      space,
      embed: async () => {
        embedded.push(space.id);
        return { vectors: [[1, 0]], usage: { tokens: 2 } };
      },
    }),
    service: async (name, args) => {
      if (name !== "reembed_begin_query") return null;
      begun.push({ space: args.space_id, caller: args.caller_hash });
      if (refused !== undefined) return { refused, retry_seconds: 9 };
      tickets += 1;
      return { ticket: tickets };
    },
    caller: async (name, args) => {
      if (name === "embedding_route") {
        const collection = String(args.collection);
        buckets.push([collection, args.caller_bucket]);
        const faked = collections[collection];
        if (faked === undefined)
          throw new ReembedError("unknown_collection", `no collection ${collection}`, "");
        if (faked.routeError !== undefined) throw faked.routeError;
        return {
          collection,
          version: 1,
          active: true,
          space: faked.space ?? "test/one@2",
          provider: faked.provider ?? "test",
          model: "m",
          dimensions: 2,
          distance: "cosine",
          query_prefix: "",
          document_prefix: "",
          max_input_tokens: 100,
          function: `match_${collection}`,
          ...(faked.hybrid ? { hybrid: `hybrid_${collection}` } : {}),
          filters: ["kind"],
          threshold: 0.5,
        };
      }
      asked.push({ name, args });
      const faked = collections[name.replace(/^(match|hybrid)_/, "")];
      if (faked?.error !== undefined) throw faked.error;
      return faked?.rows ?? [];
    },
  };
  return { made, begun, embedded, buckets, asked };
}

const row = (id: string, similarity: number) => ({
  id,
  title: `T ${id}`,
  url: `https://a/${id}`,
  similarity,
});
const timeout = new ReembedError("database_timeout", "the database took too long", "Try again.");

describe("a search over several collections", () => {
  test("fuses by place, names each row's collection, and numbers citations anew", async () => {
    const { made } = ports({
      words: { rows: [row("w1", 0.2), row("w2", 0.1)] },
      texts: { rows: [row("t1", 0.9), row("t2", 0.8)] },
    });
    const answer = await searchSeveral(made, { collections: ["words", "texts"], query: "x", match_count: 3 });
    expect(answer.results.map(({ id, collection, score }) => [id, collection, score])).toEqual([
      ["w1", "words", 1 / 61],
      ["t1", "texts", 1 / 61],
      ["w2", "words", 1 / 62],
    ]);
    expect(answer.results.map(({ citation }) => citation)).toEqual([
      { number: 1, title: "T w1", url: "https://a/w1" },
      { number: 2, title: "T t1", url: "https://a/t1" },
      { number: 3, title: "T w2", url: "https://a/w2" },
    ]);
    expect(answer.collections).toEqual([
      { collection: "words", version: 1, space: "test/one@2" },
      { collection: "texts", version: 1, space: "test/one@2" },
    ]);
  });

  test("embeds once in each space, and counts once against the caller's rate", async () => {
    const { made, begun, embedded } = ports({
      a: { space: "test/one@2" },
      b: { space: "test/two@2" },
      c: { space: "test/one@2" },
      d: { space: "hash/words@2", provider: "hash" },
    });
    await searchSeveral(made, { collections: ["a", "b", "c", "d"], query: "x" });
    expect(embedded.sort()).toEqual(["hash/words@2", "test/one@2", "test/two@2"]);
    // Whichever begins first: they are embedded at once.
    expect(begun.map(({ space }) => space).sort()).toEqual(["test/one@2", "test/two@2"]);
    expect(begun.map(({ caller }) => caller)).toEqual(["c".repeat(64), null]);
  });

  test("a caller over its rate is refused whole, and asked about once", async () => {
    const { made, begun } = ports({ a: { hybrid: true }, b: { space: "test/two@2" } }, "rate");
    await expect(searchSeveral(made, { collections: ["a", "b"], query: "x" })).rejects.toMatchObject({
      code: "rate_limited",
      retryAfterMs: 9_000,
    });
    expect(begun).toHaveLength(1);
  });

  test("without budget a collection with words answers by them, and another says why it cannot", async () => {
    const { made } = ports(
      { a: { hybrid: true, rows: [{ id: 1, similarity: null, score: 2 }] }, b: {} },
      "budget",
    );
    const answer = await searchSeveral(made, { collections: ["a", "b"], query: "x" });
    expect(answer.collections).toEqual([
      { collection: "a", version: 1, space: "test/one@2", answered: "lexical", reason: "query_budget_spent" },
      {
        collection: "b",
        error: { code: "budget_spent", message: expect.any(String), hint: expect.any(String) },
      },
    ]);
    expect(answer.results).toEqual([{ id: 1, collection: "a", similarity: null, score: 1 / 61 }]);
  });

  test("where one fails the others answer; where all do, the first's error is the answer", async () => {
    const some = ports({ a: { error: timeout }, b: { rows: [row("b1", 0.5)] } });
    const answer = await searchSeveral(some.made, { collections: ["a", "b"], query: "x" });
    expect(answer.collections[0]).toEqual({
      collection: "a",
      error: { code: "database_timeout", message: timeout.message, hint: timeout.hint },
    });
    expect(answer.results.map(({ id }) => id)).toEqual(["b1"]);
    const all = ports({ a: { error: timeout }, b: {} }, "budget");
    await expect(searchSeveral(all.made, { collections: ["b", "a"], query: "x" })).rejects.toMatchObject({
      code: "budget_spent",
    });
  });

  test.each<[string, Parameters<typeof searchSeveral>[1], string]>([
    ["an unknown collection", { collections: ["a", "nope"], query: "x" }, "unknown_collection"],
    [
      "a filter that one has not",
      { collections: ["a"], query: "x", filters: { owner: "me" } },
      "invalid_request",
    ],
    ["a mode that one has not", { collections: ["h", "a"], query: "x", mode: "hybrid" }, "invalid_request"],
  ])("%s is refused before anything is paid", async (_, request, code) => {
    const { made, begun, asked } = ports({ a: {}, h: { hybrid: true } });
    await expect(searchSeveral(made, request)).rejects.toMatchObject({ code });
    expect(begun).toEqual([]);
    expect(asked).toEqual([]);
  });

  test("a value that one database function does not take is the request's fault", async () => {
    const wrong = new ReembedError("invalid_request", "the database does not take one of the values", "");
    const { made } = ports({ a: { rows: [row("a1", 1)] }, b: { error: wrong } });
    await expect(
      searchSeveral(made, { collections: ["a", "b"], query: "x", filters: { kind: "y" } }),
    ).rejects.toBe(wrong);
  });

  test("each collection is routed by its own place in the share of a canary", async () => {
    const { made, buckets } = ports({ a: {}, long: {} });
    await searchSeveral(made, { collections: ["a", "long"], query: "x" });
    expect(buckets.sort()).toEqual([
      ["a", 1],
      ["long", 4],
    ]);
  });

  test("a version that is finalized meanwhile is routed anew", async () => {
    const gone = new ReembedError("version_retired", "it was finalized", "");
    const faked = ports({ a: { rows: [row("a1", 1)] }, b: {} });
    let first = true;
    const made: SeveralPorts = {
      ...faked.made,
      caller: async (name, args) => {
        if (name === "match_a" && first) {
          first = false;
          throw gone;
        }
        return faked.made.caller(name, args);
      },
    };
    const { results } = await searchSeveral(made, { collections: ["a", "b"], query: "x" });
    expect(results.map(({ id }) => id)).toEqual(["a1"]);
    expect(faked.embedded).toEqual(["test/one@2"]);
  });
});
