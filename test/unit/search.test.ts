/** Search by text on fake ports: routing, the retry, the filters, the ledger. */
import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { type SearchPorts, search } from "../../supabase/functions/_shared/search.ts";

const ROUTE = {
  collection: "course_content",
  version: 1,
  active: true,
  space: "test/model@2",
  provider: "test",
  model: "model",
  dimensions: 2,
  query_prefix: "query: ",
  document_prefix: "",
  max_input_tokens: 100,
  function: "match_course_content",
  filters: ["part_id"],
  threshold: 0.5,
};
const ROW = { id: "1", title: "Commits", url: "https://a/#commits", similarity: 0.9 };
const RETIRED = new ReembedError(
  "version_retired",
  "the version's match function is not there",
  "It was finalized.",
);

/** Ports that answer each call of a name with the next value of its list (the last one again and again); an Error is thrown. */
function ports(answers: Record<string, unknown[]>, embed?: () => Promise<never>) {
  const calls: { name: string; args: Readonly<Record<string, unknown>> }[] = [];
  const usual: Record<string, unknown[]> = { reembed_begin_query: [{ ticket: 7 }] };
  const answer: Rpc = async (name, args) => {
    calls.push({ name, args });
    const list = answers[name] ?? usual[name] ?? [];
    const value = list.length > 1 ? list.shift() : list[0];
    if (value instanceof Error) throw value;
    return value;
  };
  const embedded: { space: string; texts: readonly unknown[]; purpose: string }[] = [];
  const made: SearchPorts = {
    caller: answer,
    service: answer,
    callerHash: "c".repeat(64),
    embedderFor: (space) => ({
      space,
      embed: async (texts, { purpose }) => {
        embedded.push({ space: space.id, texts, purpose });
        return embed ? embed() : { vectors: [[0.5, 1]], usage: { tokens: 3 } };
      },
    }),
  };
  return { calls, embedded, made, named: (name: string) => calls.filter((call) => call.name === name) };
}

const QUERY = { collection: "course_content", query: "what is a commit" };
const hashOf = (text: string) => createHash("sha256").update(text).digest("hex");
const HASH = hashOf(QUERY.query);

describe("a search", () => {
  test("routes, embeds in the version's space and asks its function, without a threshold unless one is given", async () => {
    const { calls, embedded, made } = ports({ embedding_route: [ROUTE], match_course_content: [[ROW]] });
    expect(await search(made, QUERY)).toEqual({
      collection: "course_content",
      version: 1,
      space: "test/model@2",
      results: [{ ...ROW, citation: { number: 1, title: "Commits", url: "https://a/#commits" } }],
    });
    expect(embedded).toEqual([{ space: "test/model@2", texts: ["what is a commit"], purpose: "query" }]);
    expect(calls.map(({ name, args }) => [name, args])).toEqual([
      ["embedding_route", { collection: "course_content", version: null }],
      [
        "reembed_begin_query",
        { space_id: "test/model@2", query_hash: HASH, tokens: 6, caller_hash: "c".repeat(64) },
      ],
      [
        "reembed_end_query",
        {
          ticket: 7,
          query_hash: HASH,
          tokens: 3,
          latency_ms: expect.any(Number),
          outcome: "ok",
          state: "settled",
          embedding: "[0.5,1]",
        },
      ],
      [
        "match_course_content",
        { query_embedding: "[0.5,1]", match_threshold: null, match_count: 5, query_space: "test/model@2" },
      ],
    ]);
  });

  test("passes version, count and threshold on", async () => {
    const { made, named } = ports({ embedding_route: [ROUTE], match_course_content: [[]] });
    await search(made, { ...QUERY, version: 1, match_count: 7, match_threshold: 0 });
    expect(named("embedding_route")[0]?.args).toMatchObject({ version: 1 });
    expect(named("match_course_content")[0]?.args).toMatchObject({ match_count: 7, match_threshold: 0 });
  });

  test("says how much of a loading version there is", async () => {
    const { made } = ports({ embedding_route: [{ ...ROUTE, coverage: 0.25 }], match_course_content: [[]] });
    expect(await search(made, QUERY)).toMatchObject({ coverage: 0.25, results: [] });
  });

  test("cites rows that have a title and a url, by their place", async () => {
    const rows = [ROW, { ...ROW, url: null }, { similarity: 0.1 }, ROW];
    const { made } = ports({ embedding_route: [ROUTE], match_course_content: [rows] });
    const { results } = await search(made, QUERY);
    expect(results.map(({ citation }) => citation?.number)).toEqual([1, undefined, undefined, 4]);
  });
});

describe("filters", () => {
  test("become arguments only when the registry lists them", async () => {
    const { made, named } = ports({ embedding_route: [ROUTE], match_course_content: [[]] });
    await search(made, { ...QUERY, filters: { part_id: "git" } });
    expect(named("match_course_content")[0]?.args).toMatchObject({ filter_part_id: "git" });
  });

  test.each(["owner", "__proto__", "constructor", "part_id; drop table x"])(
    "of another name are refused: %s",
    async (name) => {
      const { made, named } = ports({ embedding_route: [ROUTE], match_course_content: [[]] });
      const filters = JSON.parse(`{${JSON.stringify(name)}: "x"}`);
      await expect(search(made, { ...QUERY, filters })).rejects.toMatchObject({
        code: "invalid_request",
        message: expect.stringContaining("filters"),
        hint: "Its filters: part_id.",
      });
      expect(named("match_course_content")).toEqual([]);
    },
  );

  test("of another name are refused before a token is paid", async () => {
    const { made, embedded } = ports({ embedding_route: [ROUTE], match_course_content: [[]] });
    await search(made, { ...QUERY, filters: { owner: "x" } }).catch(() => undefined);
    expect(embedded).toEqual([]);
  });
});

describe("a version that is finalized between route and search", () => {
  const V2 = { ...ROUTE, version: 2, space: "test/other@2", function: "match_course_content_v2" };

  test("is noticed, and the search routed once more", async () => {
    const { made, embedded } = ports({
      embedding_route: [ROUTE, V2],
      match_course_content: [RETIRED],
      match_course_content_v2: [[ROW]],
    });
    expect(await search(made, QUERY)).toMatchObject({ version: 2, results: [{ id: "1" }] });
    expect(embedded.map(({ space }) => space)).toEqual(["test/model@2", "test/other@2"]);
  });

  test("is tried once more only", async () => {
    const { made, named } = ports({ embedding_route: [ROUTE], match_course_content: [RETIRED] });
    await expect(search(made, QUERY)).rejects.toBe(RETIRED);
    expect(named("embedding_route")).toHaveLength(2);
  });

  test("is an error for a search that named it", async () => {
    const { made, named } = ports({ embedding_route: [ROUTE, V2], match_course_content: [RETIRED] });
    await expect(search(made, { ...QUERY, version: 1 })).rejects.toBe(RETIRED);
    expect(named("embedding_route")).toHaveLength(1);
  });

  test("no other error is tried again", async () => {
    const down = new ReembedError("database_unavailable", "the database could not answer", "Try again.");
    const { made, named } = ports({ embedding_route: [ROUTE], match_course_content: [down] });
    await expect(search(made, QUERY)).rejects.toBe(down);
    expect(named("match_course_content")).toHaveLength(1);
  });
});

describe("the ledger", () => {
  test.each([
    [
      "an answer that states its price",
      new ProviderError("bad_answer", "no vector", { billed: 4 }),
      { tokens: 4, state: "settled", outcome: "bad_answer" },
    ],
    [
      "an answer that never came",
      new ProviderError("timeout", "no answer"),
      { tokens: 6, state: "lost", outcome: "timeout" },
    ],
    [
      "a failure that cost nothing",
      new ProviderError("server_error", "the provider answered 500", { status: 500 }),
      { tokens: null, state: "settled", outcome: "server_error" },
    ],
    [
      "a failure that nobody foresaw",
      new Error("a bug"),
      { tokens: 6, state: "lost", outcome: "unforeseen" },
    ],
  ])("hears of %s, and the error is thrown on", async (_, error, request) => {
    const { made, named } = ports({ embedding_route: [ROUTE] }, () => Promise.reject(error));
    await expect(search(made, QUERY)).rejects.toBe(error);
    expect(named("reembed_end_query")[0]?.args).toMatchObject({ ticket: 7, embedding: null, ...request });
  });

  test("that cannot be written does not hide what the provider said", async () => {
    const error = new ProviderError("timeout", "no answer");
    const { made } = ports({ embedding_route: [ROUTE], reembed_end_query: [new Error("down")] }, () =>
      Promise.reject(error),
    );
    await expect(search(made, QUERY)).rejects.toBe(error);
  });

  test("is written before a search that fails answers", async () => {
    const { made } = ports({ embedding_route: [ROUTE], match_course_content: [RETIRED] });
    let written = false;
    const service: Rpc = async (name, args) => {
      if (name !== "reembed_end_query") return made.service(name, args);
      await new Promise((resolve) => setImmediate(resolve));
      written = true;
    };
    await expect(search({ ...made, service }, { ...QUERY, version: 1 })).rejects.toBe(RETIRED);
    expect(written).toBe(true);
  });
});

describe("a query that was asked before", () => {
  test("is answered by its stored embedding, and no provider hears of it", async () => {
    const { embedded, made, named } = ports({
      embedding_route: [ROUTE],
      reembed_begin_query: [{ embedding: "[0.25,2]" }],
      match_course_content: [[ROW]],
    });
    expect(await search(made, QUERY)).toMatchObject({ results: [{ id: "1" }] });
    expect(embedded).toEqual([]);
    expect(named("match_course_content")[0]?.args).toMatchObject({ query_embedding: "[0.25,2]" });
    expect(named("reembed_end_query")).toEqual([]);
  });

  test("is the same but for white space at its ends and Unicode's two ways to write an accent", async () => {
    const { embedded, made, named } = ports({ embedding_route: [ROUTE], match_course_content: [[]] });
    for (const query of ["caf\u00e9", "  cafe\u0301\n", "Caf\u00e9", "ca f\u00e9"]) {
      await search(made, { ...QUERY, query });
    }
    const same = hashOf("caf\u00e9");
    expect(named("reembed_begin_query").map(({ args }) => args.query_hash)).toEqual([
      same,
      same,
      hashOf("Caf\u00e9"),
      hashOf("ca f\u00e9"),
    ]);
    // What is hashed is what is embedded.
    expect(embedded.map(({ texts }) => texts[0])).toEqual([
      "caf\u00e9",
      "caf\u00e9",
      "Caf\u00e9",
      "ca f\u00e9",
    ]);
  });

  test("is embedded again in a hash space, which costs nothing: the database is not asked", async () => {
    const { calls, embedded, made } = ports({
      embedding_route: [{ ...ROUTE, provider: "hash", space: "hash/words@2" }],
      match_course_content: [[]],
    });
    await search(made, QUERY);
    expect(embedded).toHaveLength(1);
    expect(calls.map(({ name }) => name)).toEqual(["embedding_route", "match_course_content"]);
  });
});

test.each([
  ["over the rate", "rate", "rate_limited"],
  ["when the budget is spent", "budget", "budget_spent"],
])("a caller %s is told how long to wait, and nothing is embedded", async (_, refused, code) => {
  const { embedded, made } = ports({
    embedding_route: [ROUTE],
    reembed_begin_query: [{ refused, retry_seconds: 1.5 }],
  });
  await expect(search(made, QUERY)).rejects.toMatchObject({ code, status: 429, retryAfterMs: 1_500 });
  expect(embedded).toEqual([]);
});

describe("by words", () => {
  const BOTH_SIDES = { ...ROUTE, hybrid: "hybrid_course_content" };
  const FOUND = { ...ROW, similarity: null, score: 0.016 };
  const byWords = { match_count: 5, query_space: "test/model@2", query_text: "what is a commit" };

  test("a hybrid search sends the words and the vector to the hybrid function", async () => {
    const { made, named } = ports({
      embedding_route: [BOTH_SIDES],
      hybrid_course_content: [[{ ...FOUND, similarity: 0.5 }]],
    });
    const answer = await search(made, { ...QUERY, mode: "hybrid", filters: { part_id: "git" } });
    expect(named("hybrid_course_content").map(({ args }) => args)).toEqual([
      { ...byWords, query_embedding: "[0.5,1]", filter_part_id: "git" },
    ]);
    expect(answer).toMatchObject({ results: [{ similarity: 0.5, score: 0.016 }] });
    expect(answer).not.toHaveProperty("answered");
    expect(named("reembed_end_query")).toHaveLength(1);
  });

  test("a lexical search embeds nothing, asks for no budget and writes no log", async () => {
    const { calls, embedded, made } = ports({
      embedding_route: [{ ...BOTH_SIDES, log_queries: true }],
      hybrid_course_content: [[FOUND]],
    });
    const answer = await search(made, { ...QUERY, query: "  what is a commit ", mode: "lexical" });
    expect(answer.results).toMatchObject([{ similarity: null, citation: { number: 1 } }]);
    expect(answer).not.toHaveProperty("reason");
    expect(embedded).toEqual([]);
    expect(calls.map(({ name }) => name)).toEqual(["embedding_route", "hybrid_course_content"]);
    expect(calls[1]?.args).toEqual(byWords);
  });

  test.each(["hybrid", "lexical"] as const)("a %s search has no threshold", async (mode) => {
    const { made, embedded } = ports({ embedding_route: [BOTH_SIDES] });
    await expect(search(made, { ...QUERY, mode, match_threshold: 0.5 })).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringContaining("match_threshold"),
    });
    expect(embedded).toEqual([]);
  });

  test.each(["hybrid", "lexical"] as const)(
    "a %s search of a collection that has no words is refused before a token is paid",
    async (mode) => {
      const { made, embedded } = ports({ embedding_route: [ROUTE] });
      await expect(search(made, { ...QUERY, mode })).rejects.toMatchObject({
        code: "invalid_request",
        message: expect.stringContaining("mode"),
      });
      expect(embedded).toEqual([]);
    },
  );

  describe.each(["semantic", "hybrid"] as const)("a %s search", (mode) => {
    test("whose budget is spent is answered by words, and says so", async () => {
      const { embedded, made, named } = ports({
        embedding_route: [BOTH_SIDES],
        reembed_begin_query: [{ refused: "budget", retry_seconds: 1.5 }],
        hybrid_course_content: [[FOUND]],
      });
      expect(await search(made, { ...QUERY, mode })).toMatchObject({
        answered: "lexical",
        reason: "query_budget_spent",
        results: [{ id: "1", similarity: null }],
      });
      expect(embedded).toEqual([]);
      expect(named("hybrid_course_content").map(({ args }) => args)).toEqual([byWords]);
    });

    test.each(["rate_limited", "server_error", "unreachable", "timeout"] as const)(
      "is answered by words when the provider fails with %s, and the ledger hears of it",
      async (fault) => {
        const { made, named } = ports(
          { embedding_route: [BOTH_SIDES], hybrid_course_content: [[FOUND]] },
          () => Promise.reject(new ProviderError(fault, "no answer")),
        );
        expect(await search(made, { ...QUERY, mode })).toMatchObject({
          answered: "lexical",
          reason: "provider_unavailable",
        });
        expect(named("reembed_end_query")[0]?.args).toMatchObject({ outcome: fault, embedding: null });
      },
    );

    test.each(["account_refused", "quota_exhausted", "input_refused", "bad_answer"] as const)(
      "shows a refusal: %s",
      async (fault) => {
        const error = new ProviderError(fault, "no");
        const { made, named } = ports({ embedding_route: [BOTH_SIDES] }, () => Promise.reject(error));
        await expect(search(made, { ...QUERY, mode })).rejects.toBe(error);
        expect(named("hybrid_course_content")).toEqual([]);
      },
    );

    test("of a caller over the rate is told to wait", async () => {
      const { made, named } = ports({
        embedding_route: [BOTH_SIDES],
        reembed_begin_query: [{ refused: "rate", retry_seconds: 1 }],
      });
      await expect(search(made, { ...QUERY, mode })).rejects.toMatchObject({ code: "rate_limited" });
      expect(named("hybrid_course_content")).toEqual([]);
    });

    test("that the cache can answer is not answered by words", async () => {
      const { made, named } = ports({
        embedding_route: [BOTH_SIDES],
        reembed_begin_query: [{ embedding: "[0.25,2]" }],
        match_course_content: [[ROW]],
        hybrid_course_content: [[ROW]],
      });
      expect(await search(made, { ...QUERY, mode })).not.toHaveProperty("answered");
      const [asked] = named(mode === "semantic" ? "match_course_content" : "hybrid_course_content");
      expect(asked?.args).toMatchObject({ query_embedding: "[0.25,2]" });
    });
  });

  test("a provider that nobody here can ask is one that cannot be asked now", async () => {
    const { made } = ports({ embedding_route: [BOTH_SIDES], hybrid_course_content: [[FOUND]] });
    const embedderFor = () => {
      throw new ReembedError("provider_unavailable", "vectors from elsewhere", "Bring a vector.");
    };
    expect(await search({ ...made, embedderFor }, QUERY)).toMatchObject({ reason: "provider_unavailable" });
  });

  test("a version that is finalized meanwhile is noticed here too", async () => {
    const { made } = ports({
      embedding_route: [BOTH_SIDES, { ...BOTH_SIDES, version: 2, hybrid: "hybrid_course_content_v2" }],
      hybrid_course_content: [RETIRED],
      hybrid_course_content_v2: [[FOUND]],
    });
    expect(await search(made, { ...QUERY, mode: "lexical" })).toMatchObject({ version: 2 });
  });
});
