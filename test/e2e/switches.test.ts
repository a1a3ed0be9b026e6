/** The switches of an app's environment through both doors: the edge functions over HTTP and the command line. */
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { MOST_RETRIES } from "../../supabase/functions/_shared/switches.ts";
import { runJson } from "../support/cli.ts";
import type { FakeOpenAI } from "../support/fake-openai.ts";
import { embedCourseByOpenAI, startTestStack, type TestStack, wakeWorker } from "../support/stack.ts";

let openai: FakeOpenAI;
let stack: Stack;
let db: Client;
let running: TestStack;

beforeAll(async () => {
  running = await startTestStack({
    database: "memory",
    switches: {
      USE_VECTOR_1536: "true",
      SIMILARITY_THRESHOLD: "0.9999",
      OPENAI_EMBEDDING_MODEL: "text-embedding-3-small",
      OPENAI_EMBEDDING_BATCH_SIZE: "2",
      OPENAI_EMBEDDING_MAX_RETRIES: "0",
    },
  });
  ({ stack, openai, db } = running);
  await embedCourseByOpenAI(db);
  // The stack's own first poke may be at it.
  while ((await wakeWorker(stack)).ended !== "idle");
  await db.query(
    "insert into public.course_content (title, content) select 'title ' || n, 'text ' || n from generate_series(1, 5) n",
  );
});
afterAll(() => running?.stop());

const call = async (name: string, apikey: string, body: object) => {
  const response = await fetch(`${stack.url}/functions/v1/${name}`, {
    method: "POST",
    headers: { apikey, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, answer: await response.json() };
};
const searchOverHttp = (body: object) =>
  call("search", stack.publishableKey, { collection: "course_content", query: "title 1", ...body });
const cli = (args: readonly string[], switches: Record<string, string>) =>
  runJson([...args, "--db-url", stack.databaseUrl], {
    OPENAI_API_KEY: openai.apiKey,
    OPENAI_BASE_URL: openai.url,
    ...switches,
  });

test("the database gives a job one attempt more than a switch may ask retries", async () => {
  const { rows } = await db.query("select reembed.max_attempts() as most");
  expect(rows).toEqual([{ most: MOST_RETRIES + 1 }]);
});

test("the function backfill: OPENAI_EMBEDDING_BATCH_SIZE rows go into a request", async () => {
  const before = openai.stats().log.length;
  const { status, answer } = await call("backfill", stack.backfillKey, {});
  expect({ status, done: answer.done, ended: answer.ended }).toEqual({ status: 200, done: 5, ended: "idle" });
  expect(openai.stats().log.length - before).toBe(3);
});

test("the function backfill: a job is not tried again where OPENAI_EMBEDDING_MAX_RETRIES is 0", async () => {
  await db.query("update public.course_content set content = content || ', edited'");
  openai.faults.add({ fault: { kind: "server_error" }, times: "always" });
  const { answer } = await call("backfill", stack.backfillKey, {});
  expect(answer).toMatchObject({ ended: "provider_failed", retried: 0 });
  expect(answer.failed).toBeGreaterThan(0);
  openai.faults.clear();
});

test("the function search: USE_VECTOR_1536 before its version is loaded is refused before anything is paid", async () => {
  const before = openai.stats().requests;
  const { status, answer } = await searchOverHttp({});
  expect({ status, code: answer.error.code }).toEqual({ status: 503, code: "environment_conflict" });
  expect(answer.error.message).toBe(
    "USE_VECTOR_1536 is true, and course_content has not loaded its version 2 yet",
  );
  expect(openai.stats().requests).toBe(before);
});

test("the function search: SIMILARITY_THRESHOLD holds where the request has none", async () => {
  expect((await searchOverHttp({ version: 1 })).answer.results).toEqual([]);
  expect((await searchOverHttp({ version: 1, match_threshold: -1 })).answer.results).toHaveLength(5);
});

test("the command search: the same switches, the same refusals; a malformed one is wrong use", async () => {
  const search = (switches: Record<string, string>) => cli(["search", "title 1"], switches);
  expect(await search({ USE_VECTOR_1536: "true" })).toMatchObject({
    code: 1,
    answer: { error: { code: "environment_conflict" } },
  });
  expect(await search({ USE_VECTOR_1536: "false", SIMILARITY_THRESHOLD: "0.9999" })).toMatchObject({
    code: 0,
    answer: { version: 1, results: [] },
  });
  expect(await search({ OPENAI_EMBEDDING_MODEL: "text-embedding-3-large" })).toMatchObject({
    code: 1,
    answer: { error: { code: "environment_conflict" } },
  });
  expect(await search({ EMBEDDING_TIMEOUT: "30 seconds" })).toMatchObject({
    code: 2,
    answer: { error: { code: "invalid_request", message: expect.stringContaining("EMBEDDING_TIMEOUT") } },
  });
});

test("the command backfill: another model is refused while no row is touched; then the batch size holds", async () => {
  const load = (switches: Record<string, string>) =>
    cli(["backfill", "--collection", "course_content", "--version", "2", "--limit", "4"], switches);
  expect(await load({ OPENAI_EMBEDDING_MODEL: "text-embedding-3-large" })).toMatchObject({
    code: 1,
    answer: { error: { code: "environment_conflict" } },
  });
  const { rows } = await db.query(
    "select v.state, (select count(*)::int from reembed.jobs j where j.version_id = v.id) as jobs from reembed.version_numbered('course_content', 2) v",
  );
  expect(rows).toEqual([{ state: "prepared", jobs: 0 }]);
  const { answer } = await load({ OPENAI_EMBEDDING_BATCH_SIZE: "2" });
  expect(answer).toMatchObject({ done: 4, requests: 2 });
});
