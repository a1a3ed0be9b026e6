/** The CV builder as its users and its app meet it: the whole stack, supabase-js unchanged, a provider over HTTP, and the OpenAPI document as the judge of every answer. */

import { Validator } from "@seriousme/openapi-schema-validator";
import type { SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import document from "../../docs/artifacts.openapi.json" with { type: "json" };
import { openDatabase } from "../../scripts/lib/connection.ts";
import { startLoading } from "../../scripts/lib/move.ts";
import type { Stack } from "../../scripts/stack/index.ts";
import type { Database } from "../../supabase/functions/_shared/database.types.ts";
import { violations } from "../support/collection.ts";
import type { FakeOpenAI } from "../support/fake-openai.ts";
import { judgeOf } from "../support/openapi.ts";
import {
  clientOf,
  describeStack,
  type SignedUp,
  type StackDatabase,
  signUp,
  startTestStack,
  type TestStack,
  wakeWorker,
} from "../support/stack.ts";

const judge = judgeOf(document);
const SMALL = "openai/text-embedding-3-small@1536";
const LARGE = "openai/text-embedding-3-large@3072";
const JOB =
  "We are looking for an engineer who has built payment services in Go and C++ on PostgreSQL, and who likes to write.";

/** Sample data. */
const ADAS = [
  {
    title: "Payment service",
    type: "project",
    description: "Payments for a shop, in Go on PostgreSQL.",
    content:
      "The service books payments and refunds; it was written in Go and stores its ledger in PostgreSQL. ".repeat(
        40,
      ),
    summary: "A payment service in Go.",
    skills: ["Go", "PostgreSQL", "Kafka"],
  },
  {
    title: "Compiler for a teaching language",
    type: "project",
    description: "A small compiler in C++.",
    skills: ["C++"],
  },
  { title: "Poems about the sea", type: "publication", description: "A volume of poems.", skills: [] },
];

describe("the document", () => {
  test("is an OpenAPI 3.1 document", async () => {
    const { valid, errors } = await new Validator().validate(structuredClone(document));
    expect({ valid, errors }).toEqual({ valid: true, errors: undefined });
  });

  test.each(judge.operations.filter(({ method }) => method !== "get"))(
    "$method $path has an example that fits its schema",
    ({ path, method, example }) => {
      expect(judge.requestComplaints(path, method, example)).toEqual([]);
    },
  );
});

describeStack(artifactsWork);

interface User extends SignedUp {
  readonly client: SupabaseClient<Database>;
}

interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: an answer's shape is checked against the document
  readonly body: any;
}

function artifactsWork(database: () => Promise<StackDatabase>): void {
  let openai: FakeOpenAI;
  let stack: Stack;
  let db: Client;
  let ada: User;
  let bob: User;
  let running: TestStack;
  const seen = new Set<string>();

  beforeAll(async () => {
    running = await startTestStack({ database: await database() });
    ({ stack, openai, db } = running);
    await db.query("select reembed.set_query_rate(6000, 1000)");
    [ada, bob] = [await newUser(), await newUser()];
    // The stack's own first poke comes before there is anything to embed.
    await backfill();
  });
  afterAll(() => running?.stop());
  afterEach(() => openai.faults.clear());

  async function newUser(): Promise<User> {
    const client = clientOf(stack);
    return { client, ...(await signUp(client)) };
  }

  /** One request, its answer held against the document. `route` is the document's path, `path` the one that is called. */
  async function call(
    user: User | "service" | "nobody",
    method: "GET" | "POST",
    path: string,
    body?: unknown,
    route = path.replace(/^\/[^/]+\/embeddings$/, "/{id}/embeddings"),
  ): Promise<Answer> {
    const response = await fetch(`${stack.url}/functions/v1/artifacts${path}`, {
      method,
      headers: {
        apikey: user === "service" ? stack.secretKey : stack.publishableKey,
        ...(typeof user === "object" ? { authorization: `Bearer ${user.token}` } : {}),
        "content-type": "application/json",
      },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const answer = { status: response.status, body: await response.json() };
    expect(judge.answerComplaints(route, method.toLowerCase(), answer.status, answer.body)).toEqual([]);
    expect(response.headers.get("x-request-id")).toBe(answer.body.request_id ?? answer.body.error.request_id);
    seen.add(`${method.toLowerCase()} ${route} ${answer.status}`);
    return answer;
  }
  const refused = async (answer: Promise<Answer>) => {
    const { status, body } = await answer;
    return [status, body.error?.code];
  };

  const backfill = async () => {
    await db.query("update reembed.jobs set run_at = now() where lease_token is null");
    return wakeWorker(stack);
  };
  const idOf = async (title: string) =>
    (await db.query<{ id: string }>("select id from public.artifacts where title = $1", [title])).rows[0]
      ?.id ?? "";
  const ledger = async () =>
    (
      await db.query<{ tokens: number; inputs: number }>(
        "select coalesce(sum(tokens), 0)::int as tokens, coalesce(sum(inputs), 0)::int as inputs from reembed.usage where purpose = 'document'",
      )
    ).rows[0];

  test("users write their artifacts; each sees and changes the own ones alone", async () => {
    const { error } = await ada.client.from("artifacts").insert(ADAS);
    expect(error).toBeNull();
    expect(
      (await bob.client.from("artifacts").insert({ title: "Bob's garden", type: "project" })).error,
    ).toBeNull();
    const titles = async ({ client }: User) =>
      (await client.from("artifacts").select("title").order("id")).data?.map(({ title }) => title);
    expect(await titles(ada)).toEqual(ADAS.map(({ title }) => title));
    expect(await titles(bob)).toEqual(["Bob's garden"]);

    expect(
      (await bob.client.from("artifacts").insert({ title: "Stolen", owner_id: ada.id })).error?.code,
    ).toBe("42501");
    const stolen = await bob.client
      .from("artifacts")
      .update({ title: "Stolen" })
      .eq("type", "project")
      .select("title");
    expect(stolen.data).toEqual([{ title: "Stolen" }]);
    await bob.client.from("artifacts").update({ title: "Bob's garden" }).eq("type", "project");
    await bob.client.from("artifacts").delete().eq("type", "publication");
    expect(await titles(ada)).toHaveLength(3);
    expect((await clientOf(stack).from("artifacts").select("title")).error?.code).toBe("42501");
  });

  test("an artifact is embedded when it is asked for, before the queue, and once", async () => {
    const id = await idOf("Payment service");
    const first = await call(ada, "POST", `/${id}/embeddings`, { content_type: "full" });
    expect(first).toMatchObject({
      status: 201,
      body: { artifact_id: Number(id), dimensions: 1536, generated: 1 },
    });
    const paid = await ledger();
    const again = await call(ada, "POST", `/${id}/embeddings/`, {}, "/{id}/embeddings");
    expect(again).toMatchObject({
      status: 201,
      body: { generated: 0, embedding_id: first.body.embedding_id },
    });
    expect(await ledger()).toEqual(paid);

    const forced = await call(
      ada,
      "POST",
      `/api/v1/artifacts/${id}/embeddings/`,
      { force_regenerate: true },
      "/{id}/embeddings",
    );
    expect(forced).toMatchObject({
      status: 201,
      body: { generated: 1, content_hash: first.body.content_hash },
    });
    expect(forced.body.generated_at > first.body.generated_at).toBe(true);
    expect((await ledger())?.inputs).toBe((paid?.inputs ?? 0) + 1);

    const chunks = await call(ada, "POST", `/${id}/embeddings`, { content_type: "chunks" });
    expect(chunks.body.embeddings.length).toBeGreaterThan(1);
    expect(chunks.body.generated).toBeGreaterThan(0);
    expect((await call(ada, "POST", `/${id}/embeddings`, { content_type: "summary" })).status).toBe(201);
    const { body } = await call(ada, "GET", `/${id}/embeddings`);
    expect(new Set(body.embeddings.map((e: { content_type: string }) => e.content_type))).toEqual(
      new Set(["full", "summary", "chunk"]),
    );
    expect(body.embeddings.every((e: { processing_cost_usd: number }) => e.processing_cost_usd >= 0)).toBe(
      true,
    );
  });

  test("texts that are not there, and artifacts that are not seen, are refused", async () => {
    const poems = await idOf("Poems about the sea");
    expect(await refused(call(ada, "POST", `/${poems}/embeddings`, { content_type: "summary" }))).toEqual([
      422,
      "nothing_to_embed",
    ]);
    expect(await refused(call(ada, "POST", `/${poems}/embeddings`, { content_type: "chunks" }))).toEqual([
      422,
      "nothing_to_embed",
    ]);
    const before = await ledger();
    for (const id of [poems, "999999999", "9223372036854775807"]) {
      expect(await refused(call(bob, "GET", `/${id}/embeddings`))).toEqual([404, "not_found"]);
      expect(await refused(call(bob, "POST", `/${id}/embeddings`, { force_regenerate: true }))).toEqual([
        404,
        "not_found",
      ]);
    }
    expect(await ledger()).toEqual(before);
  });

  test("the backfill embeds the rest, and a search finds by meaning", async () => {
    await backfill();
    expect(await violations(db)).toEqual([]);
    const found = await call(ada, "POST", "/search/similar", {
      query_text: "payments and refunds in Go",
      similarity_threshold: null,
      limit: 2,
    });
    expect(found.body.results).toHaveLength(2);
    expect(found.body.results[0]).toMatchObject({ artifact: { title: "Payment service", type: "project" } });
    expect(found.body.query_info).toMatchObject({ method: "cosine", total_candidates: 3, space: SMALL });
    for (const { similarity_score, distance } of found.body.results)
      expect(similarity_score + distance).toBeCloseTo(1, 6);

    const publications = await call(ada, "POST", "/search/similar", {
      query_text: "payments",
      similarity_threshold: null,
      artifact_types: ["publication", "nothing of that kind"],
    });
    expect(publications.body).toMatchObject({
      results: [{ artifact: { type: "publication" } }],
      query_info: { total_candidates: 1 },
    });
    expect(
      (await call(ada, "POST", "/search/similar", { query_text: "payments", similarity_threshold: 1 })).body
        .results,
    ).toEqual([]);
    const others = await call(bob, "POST", "/search/similar", {
      query_text: "payments",
      similarity_threshold: null,
      user_only: false,
    });
    expect(others.body).toMatchObject({
      results: [{ artifact: { title: "Bob's garden" } }],
      query_info: { total_candidates: 1 },
    });

    const chunk = await call(ada, "POST", "/search/similar", {
      query_text: "refunds",
      similarity_threshold: null,
      content_type: "chunk",
    });
    expect(chunk.body.results[0].chunk.content).toContain("refunds");
  });

  test("by l2 and by inner product: vectors of length 1 come in the same order, with distances that follow from the cosine", async () => {
    const by = async (method: string) =>
      (
        await call(ada, "POST", "/search/similar", {
          query_text: "a compiler",
          similarity_threshold: null,
          method,
        })
      ).body.results as {
        artifact_id: number;
        similarity_score: number;
        distance: number;
      }[];
    const [cosine, l2, inner] = [await by("cosine"), await by("l2"), await by("inner_product")];
    expect(l2.map((r) => r.artifact_id)).toEqual(cosine.map((r) => r.artifact_id));
    expect(inner.map((r) => r.artifact_id)).toEqual(cosine.map((r) => r.artifact_id));
    for (const { similarity_score, distance } of l2)
      expect(distance).toBeCloseTo(Math.sqrt(2 - 2 * similarity_score), 4);
    for (const { similarity_score, distance } of inner) expect(distance).toBeCloseTo(-similarity_score, 4);
  });

  test("many queries are one request to the provider, and each counts in the rate", async () => {
    const before = openai.stats().requests;
    const queries = ["first of many", "second of many", "first of many", "third of many"].map(
      (query_text) => ({ query_text }),
    );
    const { body } = await call(ada, "POST", "/search/similar/batch", {
      queries,
      similarity_threshold: null,
      limit: 1,
    });
    expect(body.searches).toHaveLength(4);
    expect(body.searches[0].results).toEqual(body.searches[2].results);
    expect(openai.stats().requests).toBe(before + 1);
    expect(openai.stats().log.at(-1)?.inputs).toHaveLength(3);

    await db.query("select reembed.set_query_rate(1, 3)");
    try {
      await db.query("delete from reembed.query_rates");
      expect(await refused(call(ada, "POST", "/search/similar/batch", { queries }))).toEqual([
        400,
        "invalid_request",
      ]);
      expect(
        (await call(ada, "POST", "/search/similar/batch", { queries: queries.slice(0, 3) })).status,
      ).toBe(200);
      expect(await refused(call(ada, "POST", "/search/similar", { query_text: "one more" }))).toEqual([
        429,
        "rate_limited",
      ]);
      expect(await refused(call(ada, "POST", "/rank", { job_description: JOB }))).toEqual([
        429,
        "rate_limited",
      ]);
      expect(await refused(call(ada, "POST", `/${await idOf("Payment service")}/embeddings`, {}))).toEqual([
        429,
        "rate_limited",
      ]);
      expect(
        await refused(call(ada, "POST", "/search/similar/batch", { queries: queries.slice(0, 1) })),
      ).toEqual([429, "rate_limited"]);
      expect((await call(bob, "POST", "/search/similar", { query_text: "one more" })).status).toBe(200);
      expect(
        (await call(ada, "POST", "/search/similar", { query_embedding: Array(1536).fill(0.1) })).status,
      ).toBe(200);
    } finally {
      await db.query("select reembed.set_query_rate(6000, 1000)");
    }
  });

  test("a job ranks artifacts by meaning, by words and by both, and says why; its text is embedded once", async () => {
    const semantic = await call(ada, "POST", "/rank", { job_description: JOB });
    expect(semantic.body.job_embedding_generated).toBe(true);
    expect(semantic.body.processing_metadata).toMatchObject({
      ranking_method: "semantic",
      space: SMALL,
      total_candidates: 3,
    });
    for (const row of semantic.body.ranked_artifacts)
      expect(row.relevance_score).toBe(row.semantic_similarity);
    const hybrid = await call(ada, "POST", "/rank", {
      job_description: JOB,
      ranking_method: "hybrid",
      top_k: 2,
    });
    expect(hybrid.body.job_embedding_generated).toBe(false);
    expect(hybrid.body.ranked_artifacts).toHaveLength(2);
    expect(hybrid.body.ranked_artifacts[0]).toMatchObject({
      title: "Payment service",
      matched_skills: ["Go", "PostgreSQL"],
    });
    expect(hybrid.body.ranked_artifacts[0].explanation).toMatch(
      /^(Strong|Good|Some) match .*"Payment service".*Go, PostgreSQL\.$/,
    );
    const keyword = await call(ada, "POST", "/rank", { job_description: JOB, ranking_method: "keyword" });
    expect(keyword.body.ranked_artifacts[0].matched_skills).toEqual(["C++"]);
    for (const row of keyword.body.ranked_artifacts) {
      expect(row.semantic_similarity).toBeNull();
      expect(row.relevance_score).toBe(row.keyword_match_score);
    }
    const { rows } = await db.query<{ access_count: string }>(
      "select access_count from public.job_embeddings order by access_count desc limit 1",
    );
    expect(Number(rows[0]?.access_count)).toBeGreaterThanOrEqual(2);
    expect((await ada.client.from("job_embeddings").select("*")).error?.code).toBe("42501");

    const ids = [Number(await idOf("Bob's garden")), Number(await idOf("Poems about the sea"))];
    const chosen = await call(ada, "POST", "/rank", { job_description: JOB, artifact_ids: ids });
    expect(chosen.body.ranked_artifacts.map((row: { artifact_id: number }) => row.artifact_id)).toEqual([
      ids[1],
    ]);
    expect(chosen.body.processing_metadata.total_candidates).toBe(1);
  });

  test("a workspace is seen by its members, and a search of theirs finds it when it is asked to", async () => {
    const { rows } = await db.query<{ id: string }>(
      "insert into public.artifact_workspaces (name) values ('Applications') returning id",
    );
    const workspace = rows[0]?.id ?? "";
    await db.query("insert into public.artifact_workspace_members (workspace_id, user_id) values ($1, $2)", [
      workspace,
      ada.id,
    ]);
    const share = () =>
      ada.client.from("artifacts").update({ workspace_id: workspace }).eq("title", "Payment service");
    expect(
      (await bob.client.from("artifacts").update({ workspace_id: workspace }).eq("title", "Bob's garden"))
        .error?.code,
    ).toBe("42501");
    expect((await share()).error).toBeNull();
    const bobs = async (user_only: boolean) =>
      (
        await call(bob, "POST", "/search/similar", {
          query_text: "payments",
          similarity_threshold: null,
          user_only,
        })
      ).body;
    expect((await bobs(false)).query_info.total_candidates).toBe(1);
    await db.query("insert into public.artifact_workspace_members (workspace_id, user_id) values ($1, $2)", [
      workspace,
      bob.id,
    ]);
    expect((await bobs(false)).query_info.total_candidates).toBe(2);
    expect((await bobs(false)).results[0].artifact.title).toBe("Payment service");
    expect((await bobs(true)).query_info.total_candidates).toBe(1);
    const chunks = await bob.client.from("artifact_chunks").select("content");
    expect(chunks.data?.length).toBeGreaterThan(1);
    // Read, and not written: only the owner changes it.
    expect(
      (await bob.client.from("artifacts").update({ title: "x" }).eq("title", "Payment service").select("id"))
        .data,
    ).toEqual([]);
    await db.query("delete from public.artifact_workspace_members where user_id = $1", [bob.id]);
    expect((await bob.client.from("artifact_chunks").select("content")).data).toEqual([]);
    expect(await violations(db)).toEqual([]);
  });

  test("a service sees all, and says that it is no user", async () => {
    const found = await call("service", "POST", "/search/similar", {
      query_text: "payments",
      similarity_threshold: null,
      user_only: false,
    });
    expect(found.body.query_info.total_candidates).toBe(4);
    expect(await refused(call("service", "POST", "/search/similar", { query_text: "payments" }))).toEqual([
      400,
      "invalid_request",
    ]);
    expect(await refused(call("nobody", "POST", "/search/similar", { query_text: "payments" }))).toEqual([
      401,
      "unauthorized",
    ]);
    expect(
      await refused(call({ ...ada, token: "a.b.c" }, "POST", "/search/similar", { query_text: "payments" })),
    ).toEqual([401, "unauthorized"]);
  });

  const vector = (dimensions: number) => Array.from({ length: dimensions }, (_, axis) => Math.sin(axis + 1));
  test.each<[path: string, what: string, body: unknown, status: number, code: string]>([
    ["/search/similar", "half a JSON object", "{", 400, "invalid_json"],
    ["/search/similar", "no query", {}, 400, "invalid_request"],
    ["/search/similar", "an empty query", { query_text: " " }, 400, "invalid_request"],
    [
      "/search/similar",
      "two queries in one",
      { query_text: "a", query_embedding: [1] },
      400,
      "invalid_request",
    ],
    [
      "/search/similar",
      "the space of a text",
      { query_text: "a", query_space: SMALL },
      400,
      "invalid_request",
    ],
    ["/search/similar", "a limit of 0", { query_text: "a", limit: 0 }, 400, "invalid_request"],
    ["/search/similar", "half a row", { query_text: "a", limit: 1.5 }, 400, "invalid_request"],
    [
      "/search/similar",
      "a threshold of 2",
      { query_text: "a", similarity_threshold: 2 },
      400,
      "invalid_request",
    ],
    ["/search/similar", "an unknown method", { query_text: "a", method: "hamming" }, 400, "invalid_request"],
    ["/search/similar", "no types", { query_text: "a", artifact_types: [] }, 400, "invalid_request"],
    [
      "/search/similar",
      "a field that it does not have",
      { query_text: "a", user_id: 3 },
      400,
      "invalid_request",
    ],
    [
      "/search/similar",
      "a text of 8,001 characters",
      { query_text: "x".repeat(8_001) },
      400,
      "invalid_request",
    ],
    ["/search/similar", "a vector of another width", { query_embedding: vector(384) }, 400, "wrong_width"],
    ["/search/similar", "a zero vector", { query_embedding: Array(1536).fill(0) }, 400, "invalid_vector"],
    [
      "/search/similar",
      "a number that no vector holds",
      { query_embedding: [1e308, ...vector(1535)] },
      400,
      "invalid_request",
    ],
    [
      "/search/similar",
      "a vector of another space",
      { query_embedding: vector(1536), query_space: LARGE },
      400,
      "wrong_space",
    ],
    ["/search/similar/batch", "no queries", { queries: [] }, 400, "invalid_request"],
    [
      "/search/similar/batch",
      "21 queries",
      { queries: Array(21).fill({ query_text: "a" }) },
      400,
      "invalid_request",
    ],
    [
      "/search/similar/batch",
      "one of two queries that is empty",
      { queries: [{ query_text: "a" }, {}] },
      400,
      "invalid_request",
    ],
    ["/rank", "an empty job", { job_description: "" }, 400, "invalid_request"],
    ["/rank", "an id of 0", { job_description: JOB, artifact_ids: [0] }, 400, "invalid_request"],
    [
      "/rank",
      "an unknown ranking",
      { job_description: JOB, ranking_method: "magic" },
      400,
      "invalid_request",
    ],
    ["/rank", "a thousand ranks", { job_description: JOB, top_k: 1000 }, 400, "invalid_request"],
    ["/0/embeddings", "artifact 0", {}, 400, "invalid_request"],
    ["/-1/embeddings", "artifact -1", {}, 400, "invalid_request"],
    ["/99999999999999999999/embeddings", "more than an id holds", {}, 400, "invalid_request"],
    ["/x/embeddings", "a name for an id", {}, 400, "invalid_request"],
    ["/1/embeddings", "an unknown text", { content_type: "chunk" }, 400, "invalid_request"],
  ])("%s refuses %s", async (path, _what, body, status, code) => {
    expect(await refused(call(ada, "POST", path, body))).toEqual([status, code]);
  });

  test.each(judge.operations)(
    "$method $path refuses nobody, and a body that is too large",
    async ({ path, method, example }) => {
      const verb = method === "get" ? "GET" : "POST";
      const called = path.replace("{id}", "1");
      expect(await refused(call("nobody", verb, called, example, path))).toEqual([401, "unauthorized"]);
      if (verb === "GET") return;
      const large = `{"x":"${"x".repeat(2_200_000)}"}`;
      expect(await refused(call(ada, verb, called, large, path))).toEqual([413, "body_too_large"]);
    },
  );

  test("other paths and methods are told apart", async () => {
    const plain = async (method: string, path: string) => {
      const response = await fetch(`${stack.url}/functions/v1/artifacts${path}`, {
        method,
        headers: { apikey: stack.publishableKey, authorization: `Bearer ${ada.token}` },
      });
      return [response.status, (await response.json()).error.code];
    };
    expect(await refused(call(ada, "GET", "/x/embeddings"))).toEqual([400, "invalid_request"]);
    expect(await plain("POST", "")).toEqual([404, "not_found"]);
    expect(await plain("POST", "/nowhere")).toEqual([404, "not_found"]);
    expect(await plain("GET", "/rank")).toEqual([405, "method_not_allowed"]);
    expect(await plain("DELETE", "/1/embeddings")).toEqual([405, "method_not_allowed"]);
  });

  test("a provider that fails, a pause and a budget are told, cost nothing more, and lose nothing", async () => {
    const id = await idOf("Poems about the sea");
    openai.faults.add({ fault: { kind: "server_error" }, times: "always" });
    expect(await refused(call(ada, "POST", `/${id}/embeddings`, { force_regenerate: true }))).toEqual([
      503,
      "provider_unavailable",
    ]);
    expect(await refused(call(ada, "POST", "/search/similar", { query_text: "never asked before" }))).toEqual(
      [503, "provider_unavailable"],
    );
    openai.faults.clear();
    await db.query("select reembed.pause_space($1, 'a test')", [SMALL]);
    expect(await refused(call(ada, "POST", `/${id}/embeddings`, {}))).toEqual([503, "provider_unavailable"]);
    await db.query("select reembed.resume_space($1)", [SMALL]);
    await db.query("select reembed.set_budget('artifacts', 'day', 0.0000000001)");
    expect(await refused(call(ada, "POST", `/${id}/embeddings`, {}))).toEqual([429, "budget_spent"]);
    await db.query("select reembed.set_budget('artifacts', 'day', null)");
    expect((await call(ada, "POST", `/${id}/embeddings`, {})).body.generated).toBe(1);
    expect(await violations(db)).toEqual([]);
  });

  test("the active version moves to 3072 dimensions and back; every search follows", async () => {
    const moving = await openDatabase(stack.databaseUrl);
    for (const collection of ["artifacts", "artifact_summaries", "artifact_chunks"]) {
      await startLoading(moving, { collection, version: 2 });
      await backfill();
      await db.query("select reembed.advance($1, 2)", [collection]);
      await db.query("select reembed.cutover($1, 2, 'a test', force => true)", [collection]);
    }
    await moving.close();
    expect(await violations(db)).toEqual([]);
    const search = async () =>
      (
        await call(ada, "POST", "/search/similar", {
          query_text: "refunds in Go",
          similarity_threshold: null,
        })
      ).body;
    const after = await search();
    expect(after.query_info).toMatchObject({ space: LARGE, total_candidates: 3 });
    expect(after.results[0].artifact.title).toBe("Payment service");
    const wide = await call(ada, "POST", "/search/similar", {
      query_embedding: vector(3072),
      similarity_threshold: null,
      method: "l2",
    });
    expect(wide.body.results).toHaveLength(3);
    expect(
      (await call(ada, "POST", "/rank", { job_description: JOB })).body.processing_metadata,
    ).toMatchObject({ space: LARGE, dimensions: 3072 });
    const id = await idOf("Payment service");
    expect((await call(ada, "POST", `/${id}/embeddings`, { force_regenerate: true })).body).toMatchObject({
      dimensions: 3072,
      generated: 1,
    });
    const { body } = await call(ada, "GET", `/${id}/embeddings`);
    expect(new Set(body.embeddings.map((e: { dimensions: number }) => e.dimensions))).toEqual(
      new Set([1536, 3072]),
    );

    await db.query("select reembed.rollback('artifacts')");
    expect((await search()).query_info.space).toBe(SMALL);
    expect(await violations(db)).toEqual([]);
  });

  test("every route was asked, and every status of the document that a caller can cause came", () => {
    const byCaller = judge.operations.flatMap(({ path, method, statuses }) =>
      statuses
        .filter((status) => status < 500 && ![403, 409, 410].includes(status))
        .map((status) => `${method} ${path} ${status}`),
    );
    expect(byCaller.filter((wanted) => !seen.has(wanted))).toEqual([]);
  });
}
