/**
 * The news archive from end to end, over HTTP and by the command line: articles in, found by meaning and age; moved from a server of one's own to OpenAI,
 * and back. Two providers at the same time, each at an address of its own.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FunctionsHttpError } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { runCli, runJson } from "../support/cli.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import {
  clientOf,
  describeStack,
  type StackDatabase,
  startTestStack,
  type TestStack,
} from "../support/stack.ts";

const ARTICLES = "examples/news/articles.jsonl";
const GEMMA = "ollama/embeddinggemma@768";
const LARGE = "openai/text-embedding-3-large@3072";

describeStack(newsWorks);

function newsWorks(database: () => Promise<StackDatabase>): void {
  let ollama: FakeOpenAI;
  let openai: FakeOpenAI;
  let stack: Stack;
  let db: Client;
  let folder: string;
  let running: TestStack;
  let env: Record<string, string>;

  beforeAll(async () => {
    ollama = await startFakeOpenAI({ apiKey: "a-word" });
    running = await startTestStack({
      database: await database(),
      servers: { ollama: { apiKey: ollama.apiKey, baseURL: ollama.url } },
    });
    ({ stack, openai, db, folder } = running);
    env = {
      DATABASE_URL: stack.databaseUrl,
      OPENAI_API_KEY: openai.apiKey,
      OPENAI_BASE_URL: openai.url,
      OLLAMA_API_KEY: ollama.apiKey,
      OLLAMA_BASE_URL: ollama.url,
    };
    await db.query("select reembed.set_query_rate(6000, 1000)");
  });
  afterAll(async () => {
    await running?.stop();
    await ollama?.close();
  });

  const anonymous = () => clientOf(stack);
  const service = () => clientOf(stack, stack.secretKey);
  const invoke = async (client: ReturnType<typeof anonymous>, name: string, body: object) => {
    const { data, error } = await client.functions.invoke(name, { body });
    if (error instanceof FunctionsHttpError) throw new Error(await error.context.text());
    if (error) throw error;
    return data;
  };
  const search = (query: string, more: object = {}) =>
    invoke(anonymous(), "search", { collection: "article_chunks", query, match_count: 3, ...more });
  const titles = ({ results }: { results: { title: string }[] }) => results.map(({ title }) => title);
  const reembed = async (...args: string[]) => {
    const { code, answer, stderr } = await runJson(args, env);
    expect({ args, code, answer, stderr }).toMatchObject({ code: 0 });
    return answer;
  };
  const rows = async <Row extends object>(sql: string) => (await db.query<Row>(sql)).rows;
  const violations = () => rows("select * from reembed.violations()");
  const paid = () =>
    [ollama, openai].map((server) => server.stats().log.flatMap(({ inputs }) => inputs).length);

  test("articles in, by the command line and over HTTP; again changes nothing", async () => {
    const first = await reembed("ingest", ARTICLES);
    expect(first.totals).toMatchObject({ inserted: 6, updated: 0, deleted: 0, unchanged: 0 });
    expect((await reembed("ingest", ARTICLES)).totals).toMatchObject({
      inserted: 0,
      updated: 0,
      unchanged: 6,
    });
    const answer = await invoke(service(), "ingest", {
      collection: "article_chunks",
      url: "https://news.example/market#comments",
      title: "Market moves to the station square",
      content: "The weekly market moves to the station square. It opens at seven on Saturdays.",
      published_at: "2026-11-01T10:00:00+01:00",
    });
    expect(answer).toMatchObject({ chunks: 1, inserted: 1, request_id: expect.any(String) });
    expect(await rows("select url, title from public.articles where title like 'Market%'")).toEqual([
      { url: "https://news.example/market", title: "Market moves to the station square" },
    ]);
    expect(await violations()).toEqual([]);
  });

  test("v1 is embedded by the server of one's own, with its prefixes; anybody searches and can cite", async () => {
    expect(await reembed("migrate", "--version", "1")).toMatchObject({
      state: "ready",
      pending: 0,
      failed: 0,
    });
    expect(paid()).toEqual([7, 0]);
    expect(openai.stats().requests).toBe(0);
    const answer = await search(
      "Gusts of strong wind on open ground along the coast; ferries may be cancelled.",
    );
    expect(answer).toMatchObject({ version: 1, space: GEMMA });
    expect(answer.results[0]).toMatchObject({
      title: "Weather service warns of strong wind",
      chunk_index: 0,
      similarity: expect.any(Number),
      citation: { number: 1, url: "https://news.example/storm-warning" },
    });
    expect(
      titles(
        await search("В ночь на пятницу в городе ожидается сильный снегопад: высота снежного покрова"),
      )[0],
    ).toBe("В городе ожидается сильный снегопад");
    const { error } = await anonymous()
      .from("article_chunks")
      .insert({ article_id: 1, chunk_index: 9, text: "x" });
    expect(error).toMatchObject({ code: "42501" });
  });

  test("age counts where it is asked for", async () => {
    const nearest = titles(
      await search("bridge repair and buses in the morning", { recency: { weight: 0 } }),
    );
    const newest = titles(
      await search("bridge repair and buses in the morning", {
        recency: { weight: 0.9, half_life_days: 20 },
      }),
    );
    expect(nearest).toContain("Old bridge closes for repair");
    expect(newest).not.toContain("Old bridge closes for repair");
    const { answer } = await runJson(
      ["search", "bridge", "--recency", "1", "--collection", "article_chunks"],
      env,
    );
    expect((answer.results as { recency: number }[]).map(({ recency }) => recency)).toEqual(
      (answer.results as { recency: number }[]).map(({ recency }) => recency).toSorted((a, b) => b - a),
    );
    const { data, error } = await anonymous().rpc("recent_article_chunks", {
      query_embedding: Array.from({ length: 768 }, (_, n) => (n === 0 ? 1 : 0)),
      match_count: 2,
      recency_weight: 1,
    });
    expect({ error, rows: data?.length }).toEqual({ error: null, rows: 2 });
  });

  test("an edited article is bought in part; one that is taken out goes with its chunks", async () => {
    const sentences = Array.from(
      { length: 60 },
      (_, n) => `Sentence number ${n} tells of event ${n * 7} in district ${n % 9}.`,
    );
    const put = (content: string) =>
      invoke(service(), "ingest", {
        collection: "article_chunks",
        url: "https://news.example/long",
        title: "A long sample",
        content,
        chunk_tokens: 64,
        overlap_tokens: 16,
      });
    const { chunks } = await put(sentences.join(" "));
    expect(chunks).toBeGreaterThan(10);
    await reembed("backfill", "--collection", "article_chunks", "--version", "1");
    const [before = 0] = paid();
    const edited = await put(["An introduction comes first.", ...sentences].join(" "));
    expect(edited.unchanged).toBeGreaterThan(chunks - 4);
    const [waiting] = await rows<{ n: number }>("select count(*)::int as n from reembed.jobs");
    expect(waiting?.n).toBe(edited.inserted + edited.updated);
    await reembed("backfill", "--collection", "article_chunks", "--version", "1");
    expect((paid()[0] ?? 0) - before).toBe(edited.inserted + edited.updated);
    expect(
      await rows(
        "select text from public.article_chunks where url = 'https://news.example/long' and chunk_index = 0",
      ),
    ).toMatchObject([{ text: expect.stringMatching(/^An introduction comes first\. Sentence number 0/) }]);

    await db.query("delete from public.articles where url = 'https://news.example/long'");
    expect(await rows("select from public.article_chunks where url = 'https://news.example/long'")).toEqual(
      [],
    );
    expect(await rows("select from reembed.jobs")).toEqual([]);
    expect(await violations()).toEqual([]);
  });

  test("the move to 3072 dimensions, the way back, and over again", async () => {
    const estimate = await reembed("estimate", "--collection", "article_chunks", "--version", "2");
    expect(estimate).toMatchObject({ space: LARGE, texts: 7, counted: "exact", disk: { type: "halfvec" } });
    expect(await reembed("backfill", "--collection", "article_chunks")).toMatchObject({
      version: 2,
      state: "ready",
      done: 7,
    });
    await reembed("evaluate", "--collection", "article_chunks");
    expect(await reembed("cutover", "--collection", "article_chunks", "--version", "2")).toMatchObject({
      from: 1,
      to: 2,
      stale: 0,
    });
    expect(await search("strong wind along the coast")).toMatchObject({
      version: 2,
      space: LARGE,
      results: expect.arrayContaining([
        expect.objectContaining({ title: "Weather service warns of strong wind" }),
      ]),
    });

    // Edits reach both spaces, each by its own server.
    const before = paid();
    await invoke(service(), "ingest", {
      collection: "article_chunks",
      url: "https://news.example/market",
      title: "Market moves to the station square",
      content: "The weekly market stays where it was after all.",
      published_at: null,
    });
    for (const version of ["1", "2"])
      await reembed("backfill", "--collection", "article_chunks", "--version", version);
    expect(paid().map((now, n) => now - (before[n] ?? 0))).toEqual([1, 1]);

    expect(await reembed("rollback", "--collection", "article_chunks")).toMatchObject({
      from: 2,
      to: 1,
      stale: 0,
    });
    expect(titles(await search("weekly market"))[0]).toBe("Market moves to the station square");
    expect((await search("weekly market")).version).toBe(1);
    await reembed("cutover", "--collection", "article_chunks", "--version", "2");
    expect((await search("weekly market", { recency: {} })).version).toBe(2);
    expect(await violations()).toEqual([]);
    const status = await reembed("stats");
    expect(status.collections).toMatchObject(
      expect.arrayContaining([expect.objectContaining({ collection: "article_chunks", rows: 7 })]),
    );
  });

  test("what is wrong with a document is told by its field, with the right status, and nothing is changed", async () => {
    const good = {
      collection: "article_chunks",
      url: "https://news.example/x",
      title: "X",
      content: "Text.",
    };
    const call = async (body: unknown) => {
      const response = await fetch(`${stack.url}/functions/v1/ingest`, {
        method: "POST",
        headers: { apikey: stack.secretKey, "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      return [response.status, (await response.json()).error] as const;
    };
    const before = await rows("select * from public.articles order by id");
    for (const [body, named] of [
      [{ ...good, collection: "articles" }, "collection"],
      [{ ...good, collection: 7 }, "collection"],
      [{ ...good, url: "x" }, "url"],
      [{ ...good, title: "" }, "title"],
      [{ ...good, content: " \n" }, "content"],
      [{ ...good, published_at: "yesterday" }, "published_at"],
      [{ ...good, chunk_tokens: 3 }, "chunk_tokens"],
      [{ ...good, chunk_tokens: 100, overlap_tokens: 60 }, "overlap_tokens"],
      [{ ...good, table: "users" }, "table"],
      [[good], "body"],
    ] as const) {
      const [status, error] = await call(body);
      expect([status, error]).toEqual([
        400,
        {
          code: "invalid_request",
          message: expect.stringContaining(named),
          hint: expect.any(String),
          request_id: expect.any(String),
        },
      ]);
    }
    const lines = join(folder, "articles.jsonl");
    await writeFile(lines, `${JSON.stringify({ ...good, collection: undefined, content: "" })}\nnot json\n`);
    const { code, stderr } = await runCli(["ingest", lines], env);
    expect(code).toBe(1);
    expect(stderr).toContain("articles.jsonl:1: content must have text");
    expect(stderr).toContain("articles.jsonl:2: the line is not JSON");
    expect(await rows("select * from public.articles order by id")).toEqual(before);
  });

  test("a file with a byte order mark, and a separator of lines within a text, is read as it is meant", async () => {
    const file = join(folder, "separators.jsonl");
    const article = {
      url: "https://news.example/weir",
      title: "The weir",
      content: "One line.\u2028Another one.",
    };
    await writeFile(file, `\uFEFF${JSON.stringify(article)}\r\n`);
    expect((await reembed("ingest", file)).totals).toMatchObject({ inserted: 1 });
    expect(await rows("select content from public.articles where url like '%/weir'")).toEqual([
      { content: article.content },
    ]);
  });

  test("a recency where none can be is refused before anything is bought", async () => {
    const before = paid();
    for (const [body, named] of [
      [{ collection: "course_content", query: "wind", recency: {} }, "recency"],
      [{ collection: "article_chunks", query: "wind", mode: "hybrid", recency: {} }, "recency"],
      [{ collection: "article_chunks", query: "wind", recency: { weight: 2 } }, "recency.weight"],
      [{ collections: ["article_chunks", "course_content"], query: "wind", recency: {} }, "recency"],
    ] as const) {
      const response = await fetch(`${stack.url}/functions/v1/search`, {
        method: "POST",
        headers: { apikey: stack.publishableKey, "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      expect([response.status, (await response.json()).error]).toMatchObject([
        400,
        { code: "invalid_request", message: expect.stringContaining(named) },
      ]);
    }
    expect(paid()).toEqual(before);
  });
}
