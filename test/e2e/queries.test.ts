/** What a search by text costs its caller and its owner, over HTTP: the cache of queries, the rate and the budget; supabase-js unchanged. */
import { FunctionsHttpError, type SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { runJson } from "../support/cli.ts";
import type { FakeOpenAI } from "../support/fake-openai.ts";
import {
  clientOf,
  describeStack,
  embedCourseByOpenAI,
  type StackDatabase,
  signUp,
  startTestStack,
  type TestStack,
  wakeWorker,
} from "../support/stack.ts";

describeStack(searchesHaveTheirPrice);

function searchesHaveTheirPrice(database: () => Promise<StackDatabase>): void {
  let openai: FakeOpenAI;
  let stack: Stack;
  let db: Client;
  let running: TestStack;

  beforeAll(async () => {
    running = await startTestStack({ database: await database() });
    ({ stack, openai, db } = running);
    await embedCourseByOpenAI(db);
    await db.query(
      "insert into public.course_content (title, content) values ('Commits', 'A commit is a snapshot.')",
    );
    // The stack's own first poke may be at it.
    while ((await wakeWorker(stack)).ended !== "idle");
  });
  afterAll(() => running?.stop());
  beforeEach(async () => {
    await db.query("delete from reembed.query_rates");
    await db.query("delete from reembed.query_cache");
    await db.query("delete from reembed.budgets");
    await db.query("select reembed.set_query_rate(60, 20)");
  });

  const anonymous = () => clientOf(stack);
  const search = (client: SupabaseClient, query: string, headers: Record<string, string> = {}) =>
    client.functions.invoke("search", { body: { collection: "course_content", query }, headers });
  /** How many requests reached the provider meanwhile. */
  const requestsDuring = async (work: () => Promise<unknown>) => {
    const before = openai.stats().requests;
    await work();
    return openai.stats().requests - before;
  };
  const queryRows = async () =>
    (await db.query<{ n: number }>("select count(*)::int as n from reembed.usage where purpose = 'query'"))
      .rows[0]?.n;
  const signedUp = async () => {
    const client = anonymous();
    await signUp(client);
    return client;
  };

  test("a repeated query is embedded once, whoever repeats it, and answers the same", async () => {
    const rows = (await queryRows()) ?? 0;
    const answers: unknown[] = [];
    const ask = async (client: SupabaseClient, query: string) => {
      const { data, error } = await search(client, query);
      expect(error).toBeNull();
      answers.push({ ...data, request_id: null });
    };
    expect(
      await requestsDuring(async () => {
        await ask(anonymous(), "what is a commit?");
        await ask(anonymous(), "what is a commit?");
        await ask(clientOf(stack, stack.secretKey), "\n what is a commit?  ");
      }),
    ).toBe(1);
    expect(answers).toHaveLength(3);
    expect(answers[0]).toMatchObject({ results: [{ title: "Commits" }] });
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
    expect(await queryRows()).toBe(rows + 1);
    const status = await runJson(["status", "--db-url", stack.databaseUrl]);
    expect(status.answer).toMatchObject({ queries: { requests: rows + 1, cached: 1, hits: 2 } });
  });

  test("the command line shares the cache, and has no rate", async () => {
    await db.query("select reembed.set_query_rate(1, 1)");
    const env = { OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    expect(
      await requestsDuring(async () => {
        for (let n = 0; n < 2; n += 1) {
          const { code, answer } = await runJson(
            ["search", "a snapshot", "--db-url", stack.databaseUrl],
            env,
          );
          expect({ code, answer }).toMatchObject({ code: 0, answer: { results: [{ title: "Commits" }] } });
        }
        expect((await search(anonymous(), "a snapshot")).error).toBeNull();
      }),
    ).toBe(1);
  });

  test("over the rate a caller is told to wait; nobody else is, nor a search with a vector", async () => {
    await db.query("select reembed.set_query_rate(1, 3)");
    const ada = await signedUp();
    const bob = await signedUp();
    for (let n = 0; n < 3; n += 1) expect((await search(ada, "snapshots")).error).toBeNull();

    const { data, error } = await search(ada, "snapshots");
    expect(data).toBeNull();
    if (!(error instanceof FunctionsHttpError)) throw new Error("no HTTP error came");
    const response: Response = error.context;
    expect(response.status).toBe(429);
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(Number(response.headers.get("retry-after"))).toBeLessThanOrEqual(60);
    expect(await response.json()).toEqual({
      error: {
        code: "rate_limited",
        message: expect.any(String),
        hint: expect.stringContaining("retry-after"),
        request_id: response.headers.get("x-request-id"),
      },
    });

    expect((await search(bob, "snapshots")).error).toBeNull();
    expect((await search(anonymous(), "snapshots")).error).toBeNull();
    for (let n = 0; n < 4; n += 1) {
      expect((await search(clientOf(stack, stack.secretKey), "snapshots")).error).toBeNull();
    }
    const vector = Array.from({ length: 384 }, (_, n) => Math.sin(n + 1));
    const direct = await ada.rpc("match_course_content", { query_embedding: vector, match_threshold: -1 });
    expect(direct.error).toBeNull();
    expect(direct.data).toHaveLength(1);

    // A minute later.
    await db.query("update reembed.query_rates set at = at - interval '1 minute'");
    expect((await search(ada, "snapshots")).error).toBeNull();
  });

  test("who is not signed in counts by the address; what is refused buys nothing", async () => {
    await db.query("select reembed.set_query_rate(1, 1)");
    const from = (address: string, query: string) =>
      search(anonymous(), query, { "x-forwarded-for": address }).then(({ error }) => error === null);
    expect(
      await requestsDuring(async () => {
        expect(await from("192.0.2.1", "one")).toBe(true);
        expect(await from("192.0.2.1", "two")).toBe(false);
        expect(await from("198.51.100.7, 192.0.2.1", "three")).toBe(false);
        expect(await from("192.0.2.2", "four")).toBe(true);
      }),
    ).toBe(2);
  });

  test("when the budget is spent, what was asked before is answered by meaning, what is new by words, and nothing is bought", async () => {
    expect((await search(anonymous(), "asked before")).error).toBeNull();
    // Less than one token costs.
    await db.query("select reembed.set_budget('queries', 'day', 0.00000001)");
    const asked = await requestsDuring(async () => {
      const before = await search(anonymous(), "asked before");
      expect(before.data).toMatchObject({ results: [{ title: "Commits", similarity: expect.any(Number) }] });
      expect(before.data).not.toHaveProperty("answered");
      const { data, error } = await search(anonymous(), "snapshots never asked or commits");
      expect(error).toBeNull();
      expect(data).toMatchObject({
        version: 1,
        answered: "lexical",
        reason: "query_budget_spent",
        results: [{ title: "Commits", similarity: null, score: expect.any(Number) }],
      });
      expect((await search(anonymous(), "zebra")).data).toMatchObject({ answered: "lexical", results: [] });
      const operator = await runJson(["search", "a snapshot never", "--db-url", stack.databaseUrl], {
        OPENAI_API_KEY: openai.apiKey,
        OPENAI_BASE_URL: openai.url,
      });
      expect(operator).toMatchObject({ code: 0, answer: { reason: "query_budget_spent" } });
    });
    expect(asked).toBe(0);

    const vector = Array.from({ length: 384 }, (_, n) => Math.sin(n + 1));
    const direct = await anonymous().rpc("match_course_content", {
      query_embedding: vector,
      match_threshold: -1,
    });
    expect(direct.data).toHaveLength(1);

    await db.query("select reembed.set_budget('queries', 'day', 1)");
    expect((await search(anonymous(), "zebra")).data).not.toHaveProperty("answered");
  });

  test("a collection without words to answer by says 429 when the budget is spent", async () => {
    await db.query("select reembed.set_budget('queries', 'day', 0.00000001)");
    const { rows } = await db.query<{ expression: string }>(
      "select lexical_expression as expression from reembed.collections where name = 'course_content'",
    );
    await db.query("update reembed.versions set hybrid_function = null");
    try {
      const { error } = await search(anonymous(), "never asked");
      if (!(error instanceof FunctionsHttpError)) throw new Error("no HTTP error came");
      const response: Response = error.context;
      expect(response.status).toBe(429);
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      const body = await response.json();
      expect(body).toMatchObject({ error: { code: "budget_spent" } });
      // A visitor learns nothing of amounts.
      expect(JSON.stringify(body.error.message + body.error.hint)).not.toMatch(/\d|\$/);
    } finally {
      await db.query(
        "drop function public.hybrid_course_content; drop function public.hybrid_course_content_v2;",
      );
      await db.query("select reembed.set_lexical_search('course_content', $1, 'english')", [
        rows[0]?.expression,
      ]);
    }
  });

  test("by words, and by words and meaning, through the function and through the RPC", async () => {
    const client = anonymous();
    const ask = async (body: Record<string, unknown>) =>
      (await client.functions.invoke("search", { body: { collection: "course_content", ...body } })).data;
    expect(
      await requestsDuring(async () => {
        const lexical = await ask({ query: "snapshots", mode: "lexical" });
        expect(lexical).toMatchObject({ results: [{ title: "Commits", similarity: null }] });
        expect(lexical).not.toHaveProperty("answered");
      }),
    ).toBe(0);
    expect(await ask({ query: "snapshots", mode: "hybrid" })).toMatchObject({
      results: [{ title: "Commits", similarity: expect.any(Number), score: expect.any(Number) }],
    });

    const vector = Array.from({ length: 384 }, (_, n) => Math.sin(n + 1));
    const hybrid = (args: Record<string, unknown>) => client.rpc("hybrid_course_content", args);
    const both = await hybrid({ query_text: "snapshot", query_embedding: vector });
    expect(both.error).toBeNull();
    expect(both.data).toMatchObject([{ title: "Commits", similarity: expect.any(Number) }]);
    expect((await hybrid({ query_text: "snapshot" })).data).toMatchObject([{ similarity: null }]);
    expect((await hybrid({ query_text: "snapshot", query_embedding: null })).data).toMatchObject([
      { similarity: null },
    ]);
    expect((await hybrid({ query_text: "zebra" })).data).toEqual([]);
    expect((await hybrid({ query_text: "snapshot", query_embedding: [1, 2] })).error).toMatchObject({
      code: "RE001",
    });
    const refused = await client.functions.invoke("search", {
      body: { collection: "course_content", query: "x", mode: "fuzzy" },
    });
    expect(refused.error).toBeInstanceOf(FunctionsHttpError);
  });

  test("neither a query's text nor an address stands in the database", async () => {
    await search(anonymous(), "zebra crossing", { "x-forwarded-for": "192.0.2.77" });
    const { rows } = await db.query(
      `select to_jsonb(c)::text || (select jsonb_agg(r)::text from reembed.query_rates r) || (select jsonb_agg(u)::text from reembed.usage u) as all
         from reembed.query_cache c`,
    );
    expect(rows).toHaveLength(1);
    expect(rows[0].all).not.toMatch(/zebra|192\.0\.2/);
  });
}
