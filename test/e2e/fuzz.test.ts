/** Random requests to every edge function: each is answered, in time, with success or the error object of a documented code. */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { type FakeClip, startFakeClip } from "../support/fake-clip.ts";
import { BOUNDARY, describeFuzz, type FuzzRoute, formOf, fuzzRequest, sendFuzz } from "../support/fuzz.ts";
import { png } from "../support/pictures.ts";
import { seedFrom } from "../support/seed.ts";
import { embedCourseByOpenAI, startTestStack, type TestStack } from "../support/stack.ts";

/** A line for each route: a request that it takes. */
const ROUTES: readonly FuzzRoute[] = [
  {
    path: "search",
    key: "publishableKey",
    body: {
      collection: "course_content",
      query: "What is a commit?",
      mode: "hybrid",
      match_count: 3,
      filters: { content_type: "section" },
    },
  },
  {
    path: "ask",
    key: "publishableKey",
    body: {
      collection: "course_content",
      question: "What is a commit?",
      history: [{ question: "What is Git?", answer: "A version control system [1]." }],
      match_count: 3,
      match_threshold: -1,
      filters: {},
      stream: false,
    },
  },
  {
    path: "ingest",
    key: "secretKey",
    body: { url: "https://example.org/fuzz.html", html: "<main><h2 id='a'>A</h2><p>Text.</p></main>" },
  },
  { path: "backfill", key: "backfillKey", body: {} },
  {
    path: "search-by-image",
    key: "publishableKey",
    body: { match_count: 3, match_threshold: -1, version: 1 },
    file: { field: "image", bytes: png(1) },
  },
  {
    path: "artifacts/search/similar",
    key: "secretKey",
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
    path: "artifacts/search/similar/batch",
    key: "secretKey",
    body: { queries: [{ query_text: "a project" }, { query_text: "a poem" }], user_only: false },
  },
  {
    path: "artifacts/rank",
    key: "secretKey",
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
  await embedCourseByOpenAI(db);
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
