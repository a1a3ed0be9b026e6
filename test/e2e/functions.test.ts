/** The edge functions as an app, a browser and cron meet them: the whole stack, supabase-js unchanged, a provider over HTTP. */
import { FunctionsHttpError, type SupabaseClient } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { startLoading } from "../../scripts/lib/move.ts";
import type { Stack } from "../../scripts/stack/index.ts";
import type { FakeOpenAI, FaultRule } from "../support/fake-openai.ts";
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

const PAGE = "https://example.org/course/01-basics.html";
const page = (...sections: [title: string, text: string][]) =>
  `<html><body><nav>Menu</nav><main>${sections
    .map(([title, text]) => `<h2 id="${title.toLowerCase()}">${title}</h2><p>${text}</p>`)
    .join("")}</main></body></html>`;
const COMMITS: [string, string] = [
  "Commits",
  "A commit records a snapshot of the repository with a message.",
];
const BRANCHES: [string, string] = [
  "Branches",
  "A branch is a movable pointer; zebra stripes mark it on the map.",
];

describeStack(functionsWork);

function functionsWork(database: () => Promise<StackDatabase>): void {
  let openai: FakeOpenAI;
  let stack: Stack;
  let db: Client;
  let running: TestStack;
  const log: string[] = [];

  beforeAll(async () => {
    running = await startTestStack({ database: await database(), onLog: (line) => log.push(line) });
    ({ stack, openai, db } = running);
    await embedCourseByOpenAI(db);
    // All tests here are one caller; the rate has its own.
    await db.query("select reembed.set_query_rate(6000, 1000)");
  });
  afterAll(() => running?.stop());
  afterEach(() => openai.faults.clear());

  const anonymous = () => clientOf(stack);
  const service = () => clientOf(stack, stack.secretKey);
  const cron = () => clientOf(stack, stack.backfillKey);

  const call = (
    name: string,
    init: { key?: string | null; body?: string; headers?: Record<string, string> },
  ) =>
    fetch(`${stack.url}/functions/v1/${name}`, {
      method: "POST",
      headers: {
        ...(init.key === null ? {} : { apikey: init.key ?? stack.publishableKey }),
        "content-type": "application/json",
        ...init.headers,
      },
      ...(init.body === undefined ? {} : { body: init.body }),
    });

  const invoke = async (client: SupabaseClient, name: string, body: object) => {
    const { data, error } = await client.functions.invoke(name, { body });
    if (error instanceof FunctionsHttpError) throw new Error(await error.context.text());
    if (error) throw error;
    return data;
  };
  const search = (client: SupabaseClient, query: string, more: object = {}) =>
    invoke(client, "search", { collection: "course_content", query, ...more });
  const poke = () => invoke(cron(), "backfill", {});
  /** One slice with all that was put off; the stack's own first poke may still be at it. */
  const backfill = async () => {
    await db.query("update reembed.jobs set run_at = now() where lease_token is null");
    return wakeWorker(stack);
  };
  const ingest = (html: string, url = PAGE) => invoke(service(), "ingest", { url, html });
  const jobCount = async () =>
    (await db.query<{ n: number }>("select count(*)::int as n from reembed.jobs")).rows[0]?.n;
  const violations = async () => (await db.query("select * from reembed.violations()")).rows;

  /** That it is refused with this status and code, with the error object and a request id. Returns the object. */
  async function expectRefusal(response: Response, status: number, code: string) {
    const body = await response.json();
    expect([response.status, body]).toEqual([
      status,
      {
        error: {
          code,
          message: expect.any(String),
          hint: expect.any(String),
          request_id: expect.any(String),
        },
      },
    ]);
    expect(response.headers.get("x-request-id")).toBe(body.error.request_id);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    return body.error as { message: string; hint: string };
  }

  describe("pages in, answers out", () => {
    test("ingest writes the sections of a page, again changes nothing, an edit updates one", async () => {
      expect(await ingest(page(COMMITS, BRANCHES))).toMatchObject({ inserted: 2, updated: 0, deleted: 0 });
      const ids = (await db.query("select id, title from public.course_content order by id")).rows;
      // Or the stack's own first poke was quicker.
      expect(await backfill()).toMatchObject({ ended: "idle" });
      expect(await jobCount()).toBe(0);

      expect(await ingest(page(COMMITS, BRANCHES))).toMatchObject({ inserted: 0, updated: 0, unchanged: 2 });
      expect((await db.query("select id, title from public.course_content order by id")).rows).toEqual(ids);
      expect(await jobCount()).toBe(0);

      const edited: [string, string] = ["Commits", "A commit is a snapshot that never changes."];
      expect(await ingest(page(edited, BRANCHES))).toMatchObject({ updated: 1, unchanged: 1 });
      expect((await db.query("select id, title from public.course_content order by id")).rows).toEqual(ids);
      expect(await jobCount()).toBe(1);
      expect(await backfill()).toMatchObject({ ended: "idle", done: 1 });
      expect(await violations()).toEqual([]);
    });

    test("search answers anybody with rows and citations", async () => {
      const answer = await search(anonymous(), "zebra stripes", { match_count: 1 });
      expect(answer).toMatchObject({
        collection: "course_content",
        version: 1,
        space: "openai/text-embedding-3-small@384",
        results: [
          {
            title: "Branches",
            url: `${PAGE}#branches`,
            content_type: "section",
            similarity: expect.any(Number),
            citation: { number: 1, title: "Branches", url: `${PAGE}#branches` },
          },
        ],
        request_id: expect.any(String),
      });
      expect(Object.keys(answer)).not.toContain("coverage");
    });

    test("filters and thresholds reach the database", async () => {
      const titles = async (more: object) =>
        (await search(anonymous(), "zebra stripes", more)).results.map(
          ({ title }: { title: string }) => title,
        );
      expect(await titles({ filters: { part_id: "course", module_id: "01-basics" } })).toHaveLength(2);
      expect(await titles({ filters: { part_id: "another" } })).toEqual([]);
      expect(await titles({ match_threshold: 1 })).toEqual([]);
      expect(await titles({})).toHaveLength(2);
    });

    test("queries stand in the ledger with their tokens", async () => {
      const { rows } = await db.query(
        "select count(*)::int as n, min(tokens)::int as least from reembed.usage where purpose = 'query'",
      );
      expect(rows[0].n).toBeGreaterThan(0);
      expect(rows[0].least).toBeGreaterThan(0);
    });

    test("the database is called directly, with an array, by the route's space", async () => {
      const route = await anonymous().rpc("embedding_route", { collection: "course_content" });
      expect(route.data).toMatchObject({
        version: 1,
        active: true,
        dimensions: 384,
        function: "match_course_content",
      });
      const vector = Array.from({ length: 384 }, (_, index) => Math.sin(index + 1));
      const { data, error } = await anonymous().rpc("match_course_content", {
        query_embedding: vector,
        match_threshold: -1,
        match_count: 5,
      });
      expect(error).toBeNull();
      expect(data).toHaveLength(2);
      const wrong = await anonymous().rpc("match_course_content", { query_embedding: vector.slice(1) });
      expect(wrong.error).toMatchObject({
        code: "RE001",
        hint: expect.stringContaining("text-embedding-3-small"),
      });
    });
  });

  describe("across a change of model", () => {
    beforeAll(async () => {
      const moving = await openDatabase(stack.databaseUrl);
      await startLoading(moving, { collection: "course_content", version: 2 });
      await moving.close();
    });

    test("a version that is loading answers with what it has and says so", async () => {
      expect(await search(anonymous(), "zebra", { version: 2 })).toMatchObject({
        version: 2,
        coverage: 0,
        results: [],
      });
      expect(await search(anonymous(), "zebra")).toMatchObject({ version: 1 });
      await backfill();
      await db.query("select reembed.advance('course_content', 2)");
      const loaded = await search(anonymous(), "zebra stripes", { version: 2, match_count: 1 });
      expect(loaded).toMatchObject({ version: 2, results: [{ title: "Branches" }] });
      expect(loaded).not.toHaveProperty("coverage");
    });

    test("the very next search follows a cutover and a rollback; a named version stays", async () => {
      await db.query("select reembed.cutover('course_content', 2, 'a test', force => true)");
      expect(await search(anonymous(), "zebra stripes", { match_count: 1 })).toMatchObject({
        version: 2,
        space: "openai/text-embedding-3-small@1536",
        results: [{ title: "Branches" }],
      });
      expect(await search(anonymous(), "zebra", { version: 1 })).toMatchObject({ version: 1 });
      await db.query("select reembed.rollback('course_content')");
      expect(await search(anonymous(), "zebra")).toMatchObject({ version: 1 });
    });
  });

  describe("the caller's token decides", () => {
    const signedUp = async () => {
      const client = anonymous();
      return { client, ...(await signUp(client)) };
    };

    test("RLS holds in search: a user finds the own row, nobody else does", async () => {
      const ada = await signedUp();
      const bob = await signedUp();
      await db.query(`alter policy "anyone reads course content" on public.course_content
        using (title <> 'Branches' or coalesce(module_id, '') = 'of ' || (select auth.jwt() ->> 'sub'))`);
      try {
        await db.query("update public.course_content set module_id = $1 where title = 'Branches'", [
          `of ${ada.id}`,
        ]);
        const found = async (client: SupabaseClient) =>
          (await search(client, "zebra stripes")).results.map(({ title }: { title: string }) => title);
        expect(await found(ada.client)).toEqual(["Branches", "Commits"]);
        expect(await found(bob.client)).toEqual(["Commits"]);
        expect(await found(anonymous())).toEqual(["Commits"]);
        expect(await found(service())).toEqual(["Branches", "Commits"]);
      } finally {
        await db.query(`alter policy "anyone reads course content" on public.course_content using (true)`);
      }
    });

    test.each([
      "Bearer not.a.token",
      "Bearer eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.x",
      "Basic YTpi",
      "bearer x",
    ])("the token %s is refused, never taken for nobody's", async (authorization) => {
      const before = openai.stats().requests;
      const body = JSON.stringify({ collection: "course_content", query: "zebra" });
      await expectRefusal(await call("search", { body, headers: { authorization } }), 401, "unauthorized");
      expect(openai.stats().requests).toBe(before);
    });
  });

  describe("backfill", () => {
    test("takes its named secret alone", async () => {
      for (const key of ["sb_secret_wrong", null, stack.publishableKey, stack.secretKey, ""]) {
        await expectRefusal(await call("backfill", { key, body: "{}" }), 401, "unauthorized");
      }
      expect((await call("backfill", { key: stack.backfillKey })).status).toBe(200);
    });

    test("an empty queue sends nothing and answers at once", async () => {
      const before = openai.stats().requests;
      expect(await backfill()).toMatchObject({
        ended: "idle",
        done: 0,
        requests: 0,
        request_id: expect.any(String),
      });
      expect(openai.stats().requests).toBe(before);
    });

    test("overlapping calls do not pile up: one works, the others say that it runs", async () => {
      openai.faults.add({ fault: { kind: "latency", ms: 1_000 } });
      await db.query("update public.course_content set content = content || ' More.'");
      const answers = await Promise.all([poke(), poke(), poke()]);
      expect(answers.map(({ ended }) => ended).sort()).toEqual(["idle", "running", "running"]);
      expect(answers.reduce((sum, { done }) => sum + (done ?? 0), 0)).toBeGreaterThan(0);
      expect(await backfill()).toMatchObject({ ended: "idle" });
    });

    test("a provider that fails is a count and a reason, not an error; its jobs stay", async () => {
      await db.query("update public.course_content set content = content || ' And more.'");
      openai.faults.add({ fault: { kind: "server_error" }, times: "always" });
      expect(await backfill()).toMatchObject({
        ended: "provider_failed",
        done: 0,
        error: expect.stringContaining("500"),
      });
      openai.faults.clear();
      expect(await violations()).toEqual([]);
      while ((await backfill()).done > 0);
      expect(await jobCount()).toBe(0);
    });
  });

  describe("what is wrong is refused with the error object", () => {
    const of = (fields: object) =>
      JSON.stringify({ collection: "course_content", query: "zebra", ...fields });
    const SEARCHES: [string, string | undefined, number, string, string][] = [
      ["no body", undefined, 400, "invalid_json", "JSON"],
      ["malformed JSON", '{"query": ', 400, "invalid_json", "JSON"],
      ["a list", "[]", 400, "invalid_request", "the body"],
      ["no query", '{"collection": "course_content"}', 400, "invalid_request", "query"],
      ["a query of another type", of({ query: 7 }), 400, "invalid_request", "query"],
      ["an empty query", of({ query: " " }), 400, "invalid_request", "query"],
      ["a query of 8,001 characters", of({ query: "x".repeat(8_001) }), 400, "invalid_request", "query"],
      ["64 KiB of query", of({ query: "x".repeat(64 * 1024) }), 413, "body_too_large", "65536"],
      ["an unknown collection", of({ collection: "nobody" }), 404, "unknown_collection", "nobody"],
      ["a collection with NUL", of({ collection: "a\0b" }), 400, "invalid_request", "value"],
      ["an unknown version", of({ version: 99 }), 404, "unknown_version", "99"],
      ["a version that is no number", of({ version: "2" }), 400, "invalid_request", "version"],
      ["no rows asked for", of({ match_count: 0 }), 400, "invalid_request", "match_count"],
      ["a threshold above 1", of({ match_threshold: 2 }), 400, "invalid_request", "match_threshold"],
      ["an unknown filter", of({ filters: { owner: "me" } }), 400, "invalid_request", "filters"],
      [
        "a filter of another type",
        of({ filters: { part_id: 1 } }),
        400,
        "invalid_request",
        "filters.part_id",
      ],
      ["a filter with NUL", of({ filters: { part_id: "\0" } }), 400, "invalid_request", "value"],
      ["a field that is not known", of({ function: "drop_all" }), 400, "invalid_request", "function"],
    ];

    test.each(SEARCHES)("search with %s", async (_, body, status, code, named) => {
      const { message } = await expectRefusal(
        await call("search", { ...(body === undefined ? {} : { body }) }),
        status,
        code,
      );
      expect(message).toContain(named);
    });

    test.each([
      ["absent", null],
      ["wrong", "sb_publishable_wrong"],
      ["a wrong secret", "sb_secret_wrong"],
    ])("search with its key %s", async (_, key) => {
      await expectRefusal(await call("search", { key, body: of({}) }), 401, "unauthorized");
    });

    const INGESTS: [string, string | undefined, number, string, string][] = [
      ["no body", undefined, 400, "invalid_json", "JSON"],
      ["malformed JSON", "{", 400, "invalid_json", "JSON"],
      ["no url", JSON.stringify({ html: "<main></main>" }), 400, "invalid_request", "url"],
      [
        "a url that is none",
        JSON.stringify({ url: "x", html: page(COMMITS) }),
        400,
        "invalid_request",
        "url",
      ],
      ["html of another type", JSON.stringify({ url: PAGE, html: 1 }), 400, "invalid_request", "html"],
      [
        "html without text",
        JSON.stringify({ url: PAGE, html: "<main></main>" }),
        400,
        "invalid_request",
        "html",
      ],
      [
        "a field that is not known",
        JSON.stringify({ url: PAGE, html: "", table: "users" }),
        400,
        "invalid_request",
        "table",
      ],
      [
        "11 MiB",
        JSON.stringify({ url: PAGE, html: "x".repeat(11 * 1024 * 1024) }),
        413,
        "body_too_large",
        "bytes",
      ],
    ];

    test.each(INGESTS)("ingest with %s", async (_, body, status, code, named) => {
      const init = { key: stack.secretKey, ...(body === undefined ? {} : { body }) };
      const { message } = await expectRefusal(await call("ingest", init), status, code);
      expect(message).toContain(named);
    });

    test("ingest with a key that may not", async () => {
      const body = JSON.stringify({ url: PAGE, html: page(COMMITS) });
      for (const key of [null, stack.publishableKey, stack.backfillKey, "sb_secret_wrong"]) {
        await expectRefusal(await call("ingest", { key, body }), 401, "unauthorized");
      }
    });

    test.each(["search", "ask", "backfill", "ingest"])("%s by GET", async (name) => {
      const response = await fetch(`${stack.url}/functions/v1/${name}`, {
        headers: { apikey: stack.backfillKey },
      });
      await expectRefusal(response, 405, "method_not_allowed");
    });
  });

  test.each<[string, FaultRule, number, string]>([
    ["has no credit left", { fault: { kind: "insufficient_quota" } }, 502, "provider_rejected"],
    ["answers nonsense", { fault: { kind: "half_json" } }, 502, "provider_bad_answer"],
  ])("search, when the provider %s, answers with a documented code", async (what, fault, status, code) => {
    openai.faults.add(fault);
    // Not asked before: the cache would answer without the provider.
    const body = JSON.stringify({ collection: "course_content", query: `a provider that ${what}` });
    await expectRefusal(await call("search", { body }), status, code);
  });

  test.each<[string, FaultRule]>([
    ["fails", { fault: { kind: "server_error" } }],
    ["asks to wait", { fault: { kind: "rate_limit", retryAfterSeconds: 7 } }],
    ["hangs up", { fault: { kind: "cut", when: "in_answer" } }],
  ])("search, when the provider %s, answers by words and says so", async (what, fault) => {
    openai.faults.add(fault);
    const body = JSON.stringify({ collection: "course_content", query: `a commit or what ${what}` });
    const response = await call("search", { body });
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({
      answered: "lexical",
      reason: "provider_unavailable",
      results: expect.arrayContaining([expect.objectContaining({ similarity: null })]),
    });
  });

  test.each(["search", "ask", "backfill", "ingest"])(
    "a browser may call %s from any origin",
    async (name) => {
      const preflight = await fetch(`${stack.url}/functions/v1/${name}`, {
        method: "OPTIONS",
        headers: {
          origin: "http://app.example",
          "access-control-request-method": "POST",
          "access-control-request-headers": "apikey,authorization,content-type,x-client-info",
        },
      });
      expect(preflight.status).toBe(204);
      expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
    },
  );

  test("no key, text or vector has reached the functions' log", () => {
    const all = log.join("\n");
    for (const secret of [
      stack.publishableKey,
      stack.secretKey,
      stack.backfillKey,
      openai.apiKey,
      "zebra",
      "snapshot",
    ]) {
      expect(all).not.toContain(secret);
    }
  });
}
