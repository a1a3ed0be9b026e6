/** `reembed evaluate` as an operator types it: a table, JSON and a page, and exit codes that a script can rely on. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDatabase } from "../../scripts/lib/connection.ts";
import { useHashSpaces } from "../../scripts/lib/offline-spaces.ts";
import { runCli, runJson } from "../support/cli.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

const TOPICS = [
  "branches",
  "commits",
  "merging",
  "remotes",
  "ignoring",
  "history",
  "conflicts",
  "licences",
  "citation",
  "hosting",
];

describePostgres("reembed evaluate", () => {
  let client: Client;
  let env: Record<string, string>;
  let openai: FakeOpenAI;
  let folder: string;

  beforeAll(async () => {
    const [database, fake, directory] = await Promise.all([
      createDatabase(),
      startFakeOpenAI(),
      mkdtemp(join(tmpdir(), "reembed-evaluate-")),
    ]);
    openai = fake;
    folder = directory;
    client = await connect(database.url);
    env = { DATABASE_URL: database.url, OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    const db = await openDatabase(database.url);
    await useHashSpaces(db, ["supabase"]);
    await db.close();
    await client.query(
      `insert into public.course_content (title, content)
       select format('Chapter %s about %s', n, topic), format('What this course says of %s, in part %s. <script>alert(1)</script>', topic, n)
         from unnest($1::text[]) with ordinality u(topic, n)`,
      [TOPICS],
    );
    expect(await runCli(["backfill", "--version", "1"], env)).toMatchObject({ code: 0 });
  });
  afterAll(async () => {
    await client?.end();
    await openai?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  const evaluate = (...args: string[]) => runJson(["evaluate", ...args], env);

  test("a version without vectors cannot be judged: exit code 1, and nothing is bought", async () => {
    const { code, answer } = await evaluate();
    expect(code).toBe(1);
    expect(answer).toMatchObject({
      error: { code: "refused", hint: expect.stringContaining("reembed backfill") },
    });
    expect(openai.stats().requests).toBe(0);
  });

  describe("of a loaded version", () => {
    beforeAll(async () => {
      expect(await runCli(["backfill", "--version", "2"], env)).toMatchObject({ code: 0 });
    });

    test("makes queries from rows, buys them in one request, and stores the verdict", async () => {
      const before = openai.stats().requests;
      const { code, answer } = await evaluate();
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: {
          collection: "course_content",
          source: "rows",
          queries: 10,
          judged_queries: 10,
          baseline: { version: 1, space: "hash/words-and-ngrams@384", coverage: 1 },
          candidate: {
            version: 2,
            space: "openai/text-embedding-3-small@1536",
            coverage: 1,
            failed: 0,
            truncated: 0,
          },
          quality: { "recall@1": { against: { baseline: 1 } } },
          index_recall: 1,
          index_used: true,
          provider: { requests: 1 },
        },
      });
      expect(openai.stats().requests).toBe(before + 1);
      const { rows } = await client.query(
        "select id::int, source, judged, index_recall, index_used, ndcg_drop from reembed.evaluations",
      );
      expect(rows).toMatchObject([
        {
          id: answer.id,
          source: "rows",
          judged: true,
          index_recall: 1,
          index_used: true,
          ndcg_drop: expect.any(Number),
        },
      ]);
      const { rows: ledger } = await client.query(
        "select inputs, state, cost_usd > 0 as paid from reembed.usage where purpose = 'query'",
      );
      expect(ledger).toEqual([{ inputs: 10, state: "settled", paid: true }]);

      // The same seed, the same verdict, and nothing bought again.
      const { answer: again } = await evaluate();
      expect(again).toMatchObject({
        quality: answer.quality,
        change: answer.change,
        provider: { requests: 0 },
      });
      expect(openai.stats().requests).toBe(before + 1);
    });

    test("prints a table for a person, and writes a page that shows rows as text", async () => {
      const page = join(folder, "verdict.html");
      const { code, stdout, stderr } = await runCli(["evaluate", "--html", page], env);
      expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining(page) });
      expect(stdout).toMatch(/^course_content: v2 \(openai\/text-embedding-3-small@1536\) against v1/);
      expect(stdout).toMatch(/ndcg@10 +\d\.\d{3} +\d\.\d{3}/);
      const html = await readFile(page, "utf8");
      expect(html).toContain("<!doctype html>");
      expect(html).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
      expect(html).not.toContain("<script");
    });

    test("takes judged queries from a file", async () => {
      const { rows } = await client.query<{ id: string; title: string }>(
        "select id, title from course_content order by title limit 2",
      );
      const file = join(folder, "judged.jsonl");
      await writeFile(
        file,
        [
          JSON.stringify({ query: rows[0]?.title, relevant: [rows[0]?.id] }),
          JSON.stringify({ query: rows[1]?.title, relevant: [{ id: rows[1]?.id, grade: 2 }] }),
          JSON.stringify({ query: "licences", relevant: ["00000000-0000-4000-8000-000000000000"] }),
          JSON.stringify({ query: "nobody knows" }),
        ].join("\n"),
      );
      const { code, answer } = await evaluate("--queries", file, "--baseline", "2", "--candidate", "1");
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: {
          source: "file",
          queries: 4,
          judged_queries: 3,
          unknown_rows: 1,
          baseline: { version: 2 },
          candidate: { version: 1 },
          quality: { "mrr@10": { candidate: expect.closeTo(2 / 3, 12) } },
        },
      });
    });

    test("takes queries from the log", async () => {
      expect(await evaluate("--from-log")).toMatchObject({ code: 1, answer: { error: { code: "refused" } } });
      await client.query("select reembed.set_query_log('course_content', true)");
      expect(await runCli(["search", "what about merging"], env)).toMatchObject({ code: 0 });
      const { code, answer } = await evaluate();
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: { source: "log", queries: 1, quality: null, ndcg_drop: null, candidate: { version: 2 } },
      });
      expect((await evaluate("--from-rows", "--limit", "3")).answer).toMatchObject({
        source: "rows",
        queries: 3,
      });
      await client.query("select reembed.set_query_log('course_content', false)");
    });

    test.each([
      [["--queries", "/nowhere.jsonl"], "--queries"],
      [["--from-log", "--from-rows"], "--from-log and --from-rows"],
      [["--limit", "0"], "--limit"],
      [["--baseline", "1", "--candidate", "1"], "v1"],
    ])("%j is wrong use", async (args, message) => {
      const { code, answer } = await evaluate(...args);
      expect(code).toBe(2);
      expect(answer).toMatchObject({
        error: { code: "invalid_request", message: expect.stringContaining(message) },
      });
    });

    test("a broken file is wrong use, and names the line", async () => {
      const file = join(folder, "broken.jsonl");
      await writeFile(file, '{"query": "fine"}\n{"query": ');
      const { code, answer } = await evaluate("--queries", file);
      expect(code).toBe(2);
      expect(answer).toMatchObject({ error: { message: expect.stringContaining("line 2") } });
    });

    test("a provider that refuses ends it with its reason, and no verdict is stored", async () => {
      const stored = async () =>
        (await client.query("select count(*)::int as n from reembed.evaluations")).rows[0].n;
      const before = await stored();
      await client.query("truncate reembed.query_cache");
      const { code, answer } = await runJson(["evaluate"], { ...env, OPENAI_API_KEY: "sk-wrong" });
      expect(code).toBe(1);
      expect(answer).toMatchObject({ error: { code: "provider_rejected" } });
      expect(JSON.stringify(answer)).not.toContain("sk-wrong");
      expect(await stored()).toBe(before);
    });
  });
});
