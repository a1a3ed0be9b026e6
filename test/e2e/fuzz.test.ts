/** Random requests to every edge function: each is answered, in time, with success or the error object of a documented code. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import type { Stack } from "../../scripts/stack/index.ts";
import { INGESTED, kindFor } from "../../supabase/functions/_shared/ingest/kinds.ts";
import * as artifacts from "../../supabase/functions/artifacts/handler.ts";
import * as ask from "../../supabase/functions/ask/handler.ts";
import * as search from "../../supabase/functions/search/handler.ts";
import * as byImage from "../../supabase/functions/search-by-image/handler.ts";
import { type FakeClip, startFakeClip } from "../support/fake-clip.ts";
import {
  BOUNDARY,
  describeFuzz,
  type FuzzRoute,
  fieldsIn,
  fieldsOf,
  formOf,
  fuzzRequest,
  sendFuzz,
} from "../support/fuzz.ts";
import { png } from "../support/pictures.ts";
import { seedFrom } from "../support/seed.ts";
import { startTestStack, type TestStack } from "../support/stack.ts";

const VECTOR_SPACE = "openai/text-embedding-3-small@1536";
const VECTOR = Array.from({ length: 1536 }, (_, n) => Math.sin(n + 1));

/** The function ingest takes a collection, and a document of its kind. */
const ingestBody = (collection: string) =>
  z.intersection(z.object({ collection: z.string() }), kindFor(collection).document);

/** A line for each route, several where one request cannot have all fields that it takes: a request that it takes. */
const ROUTES: readonly FuzzRoute[] = [
  {
    path: "search",
    key: "publishableKey",
    takes: search.body,
    body: {
      collection: "course_content",
      query: "What is a commit?",
      mode: "hybrid",
      match_count: 3,
      filters: { content_type: "section" },
    },
  },
  {
    path: "search",
    key: "publishableKey",
    takes: search.body,
    body: { collection: "course_content", query: "What is Git?", version: 1, match_threshold: -1 },
  },
  {
    path: "search",
    key: "publishableKey",
    takes: search.body,
    body: {
      collection: "article_chunks",
      query: "strong wind",
      recency: { half_life_days: 30, weight: 0.3 },
    },
  },
  {
    path: "search",
    key: "publishableKey",
    takes: search.body,
    body: { collections: ["course_content", "lexicon"], query: "commit", mode: "hybrid" },
  },
  {
    path: "ask",
    key: "publishableKey",
    takes: ask.body,
    body: {
      collection: "course_content",
      question: "What is a commit?",
      history: [{ question: "What is Git?", answer: "A version control system [1]." }],
      match_count: 3,
      match_threshold: -1,
      version: 1,
      filters: {},
      stream: false,
    },
  },
  {
    path: "ingest",
    key: "secretKey",
    takes: ingestBody("course_content"),
    body: {
      collection: "course_content",
      url: "https://example.org/fuzz.html",
      html: "<main><h2 id='a'>A</h2><p>Text.</p></main>",
    },
  },
  {
    path: "ingest",
    key: "secretKey",
    takes: ingestBody("article_chunks"),
    body: {
      collection: "article_chunks",
      url: "https://example.org/news/fuzz",
      title: "Wind",
      content: "A strong wind is expected. Nobody should go out.",
      published_at: "2026-01-01T00:00:00Z",
      chunk_tokens: 200,
      overlap_tokens: 20,
    },
  },
  { path: "backfill", key: "backfillKey", body: {} },
  {
    path: "search-by-image",
    key: "publishableKey",
    takes: byImage.fields,
    body: { match_count: 3, match_threshold: -1, version: 1 },
    file: { field: "image", bytes: png(1) },
  },
  {
    path: "artifacts/search/similar",
    key: "secretKey",
    takes: artifacts.similarBody,
    body: {
      query_text: "a project in Go",
      limit: 3,
      similarity_threshold: 0.1,
      artifact_types: ["project"],
      user_only: false,
      method: "l2",
      content_type: "full",
    },
  },
  {
    path: "artifacts/search/similar",
    key: "secretKey",
    takes: artifacts.similarBody,
    body: { query_embedding: VECTOR, query_space: VECTOR_SPACE, user_only: false },
  },
  {
    path: "artifacts/search/similar/batch",
    key: "secretKey",
    takes: artifacts.batchBody,
    body: {
      queries: [{ query_text: "a project" }, { query_embedding: VECTOR, query_space: VECTOR_SPACE }],
      limit: 3,
      similarity_threshold: 0.1,
      artifact_types: ["project"],
      user_only: false,
      method: "cosine",
      content_type: "full",
    },
  },
  {
    path: "artifacts/rank",
    key: "secretKey",
    takes: artifacts.rankBody,
    body: {
      job_description: "Somebody who writes Go",
      artifact_ids: [1],
      ranking_method: "hybrid",
      top_k: 3,
    },
  },
  {
    path: "artifacts/1/embeddings",
    key: "secretKey",
    takes: artifacts.embeddingsBody,
    body: { content_type: "full", force_regenerate: true },
  },
  { path: "artifacts/1/embeddings/", key: "secretKey", method: "GET" },
];

const REQUESTS = Number(process.env.REEMBED_FUZZ_REQUESTS ?? 2_000);
const SEED = seedFrom("REEMBED_FUZZ_SEED");
const AT_ONCE = 8;
/** Far more than any takes on a busy machine. */
const WITHIN_MS = 30_000;

let clip: FakeClip;
let running: TestStack;
let stack: Stack;

beforeAll(async () => {
  clip = await startFakeClip();
  running = await startTestStack({ database: "memory", servers: { clip: { baseURL: clip.url } } });
  stack = running.stack;
  const { db } = running;
  for (const [collection, dimensions] of [
    ["course_content", 384],
    ["lexicon", 384],
    ["article_chunks", 768],
  ])
    await db.query(
      "select reembed.set_space($1, 1, reembed.add_space('openai', 'text-embedding-3-small', $2, 0.02))",
      [collection, dimensions],
    );
  await db.query(
    "select reembed.set_query_rate(1000000, 1000000), reembed.set_completion_rate(1000000, 1000000)",
  );
  await db.query(
    "insert into public.course_content (title, content) values ('Commits', 'A commit is a snapshot.')",
  );
  await db.query(
    `with owner as (insert into auth.users (id) values (gen_random_uuid()) returning id)
     insert into public.artifacts (owner_id, title, type, skills) select id, 'A parser', 'project', '{Go}' from owner`,
  );
});
afterAll(async () => {
  await running?.stop();
  await clip?.close();
});

test("the table has every field of every body that a function takes", async () => {
  const known = new Map<string, Set<string>>();
  for (const { path, takes, body = {}, file } of ROUTES) {
    expect({ path, takes: takes !== undefined }).toEqual({ path, takes: Object.keys(body).length > 0 });
    const given = fieldsIn(file === undefined ? body : { ...body, [file.field]: 1 });
    known.set(path, (known.get(path) ?? new Set()).union(new Set(given)));
  }
  for (const { path, takes } of ROUTES.filter(({ takes }) => takes !== undefined))
    for (const field of fieldsOf(takes ?? z.never()))
      expect({ path, field, isThere: known.get(path)?.has(field) }).toEqual({ path, field, isThere: true });
  // A body that is new in a function's module has no line yet.
  for (const module of [ask, search, byImage, artifacts])
    for (const [name, shape] of Object.entries(module))
      if (shape instanceof z.ZodType)
        expect({ name, isThere: ROUTES.some(({ takes }) => takes === shape) }).toEqual({
          name,
          isThere: true,
        });
  expect(INGESTED.map((collection) => ROUTES.some(({ body }) => body?.collection === collection))).toEqual(
    INGESTED.map(() => true),
  );
});

test("the table has every route that the API of artifacts is described with", async () => {
  const described: { paths: Record<string, object> } = JSON.parse(
    readFileSync(new URL("../../docs/artifacts.openapi.json", import.meta.url), "utf8"),
  );
  const lines = ROUTES.map(({ path, method = "POST" }) => `${method} ${path.replace(/\/$/, "")}`);
  for (const [path, item] of Object.entries(described.paths))
    for (const method of Object.keys(item).filter((name) => name !== "parameters"))
      expect(lines).toContain(`${method.toUpperCase()} artifacts${path.replace("{id}", "1")}`);
});

test("the table has every function", () => {
  const functions = readdirSync(fileURLToPath(new URL("../../supabase/functions/", import.meta.url)), {
    withFileTypes: true,
  })
    .filter((entry) => entry.isDirectory() && entry.name !== "_shared")
    .map(({ name }) => name);
  expect(new Set(ROUTES.map(({ path }) => path.split("/")[0]))).toEqual(new Set(functions));
});

test.each(ROUTES)("$path takes the request that its line has", async (route) => {
  const json = route.method === "GET" ? undefined : JSON.stringify(route.body ?? {});
  const body = route.file === undefined ? json : formOf(route);
  const type = route.file === undefined ? "application/json" : `multipart/form-data; boundary=${BOUNDARY}`;
  const headers = { apikey: stack[route.key], "content-type": type };
  expect(await sendFuzz(stack, { route, method: route.method ?? "POST", headers, body }, WITHIN_MS)).toBe(
    "ok",
  );
});

test(`${REQUESTS} random requests have an answer each`, async () => {
  console.log(`fuzz: REEMBED_FUZZ_SEED=${SEED} repeats these requests`);
  const outcomes = new Map<string, number>();
  const problems: string[] = [];
  let next = 0;
  const lane = async () => {
    while (next < REQUESTS) {
      const number = next;
      next += 1;
      const request = fuzzRequest(ROUTES, stack, SEED, number);
      try {
        const outcome = await sendFuzz(stack, request, WITHIN_MS);
        const key = `${request.route.path} ${outcome}`;
        outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
      } catch (error) {
        problems.push(
          `${number}: ${error instanceof Error ? error.message : error}\n  ${describeFuzz(request)}`,
        );
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  console.log(
    [...outcomes]
      .sort()
      .map(([outcome, count]) => `${outcome}: ${count}`)
      .join(", "),
  );
  expect(problems).toEqual([]);
  // Neither all refused at the door nor all let through.
  expect(outcomes.get("search ok")).toBeGreaterThan(0);
  expect(outcomes.get("search invalid_request")).toBeGreaterThan(0);
}, 600_000);
