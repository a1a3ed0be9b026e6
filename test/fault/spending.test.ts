/** What a worker buys: each text once, and nothing beyond a budget. On the real server, counted by the provider itself. */
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import type { SliceReport } from "../../supabase/functions/_shared/worker.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const TEXTS = 30;
/** Dollars per million tokens: a token costs a dollar. */
const PRICE = 1_000_000;

describePostgres("a worker's purchases", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let db: Database;

  beforeEach(async () => {
    [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    db = await openDatabase(database.url);
    await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, $1)", [PRICE]);
    await db.query("select reembed.set_space('course_content', 1, 'openai/text-embedding-3-small@384')");
    await db.query("drop index public.course_content_embedding_hnsw");
    // Each text four times.
    await db.query(
      `insert into public.course_content (title, content)
       select 'Section', 'What the course says about topic ' || 100 + n % $1 from generate_series(0, $1 * 4 - 1) n`,
      [TEXTS],
    );
  });
  afterEach(async () => {
    await Promise.all([db?.close(), openai?.close()]);
    await database?.drop();
  });

  const slice = (): Promise<SliceReport> => {
    const { url: baseURL, apiKey } = openai;
    return work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), { batch: 10 });
  };
  const sent = () => openai.stats().log.flatMap(({ inputs }) => inputs.map(({ hash }) => hash));

  async function vectors(): Promise<{ rows: number; texts: number; different: number } | undefined> {
    const [row] = await db.query<{ rows: number; texts: number; different: number }>(
      `select count(embedding)::int as rows, count(distinct content)::int as texts, count(distinct (content, embedding::text))::int as different
         from public.course_content where embedding is not null`,
    );
    return row;
  }

  test("each text is sent once, however many rows have it; the others are copied", async () => {
    const report = await slice();
    // Equal texts of one claim share one vector as well.
    expect(report).toMatchObject({ ended: "idle", released: 0, failed: 0 });
    expect(report.copied).toBeGreaterThan(TEXTS);
    expect(report.done + report.copied).toBe(TEXTS * 4);
    expect(sent()).toHaveLength(TEXTS);
    expect(new Set(sent()).size).toBe(TEXTS);
    expect(await vectors()).toEqual({ rows: TEXTS * 4, texts: TEXTS, different: TEXTS });
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
  });

  test("a limit counts what was copied", async () => {
    const { url: baseURL, apiKey } = openai;
    const report = await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {
      batch: 10,
      limit: 45,
    });
    expect(report).toMatchObject({ ended: "limit" });
    expect(report.done + report.copied).toBe(45);
  });

  test("a spent budget ends the slice with its name; nothing more is sent, nothing stays leased, and more money goes on", async () => {
    await db.query("select reembed.set_budget('course_content', 'day', 150)");
    const first = await slice();
    expect(first).toMatchObject({
      ended: "budget",
      error: expect.stringMatching(
        /^the budget of course_content for the day has \$\d+ spent of \$150; it renews at .* UTC$/,
      ),
    });
    const [state] = await db.query<{ spent: number; leased: number }>(
      `select b.spent_usd::int as spent, (select count(*)::int from reembed.jobs where lease_token is not null) as leased from reembed.budgets b`,
    );
    expect(state).toEqual({ spent: openai.stats().tokensBilled, leased: 0 });
    expect(state?.spent).toBeLessThanOrEqual(150);
    const before = sent().length;
    expect(await slice()).toMatchObject({ ended: "budget", requests: 0, done: 0 });
    expect(sent()).toHaveLength(before);
    await db.query("select reembed.set_budget('course_content', 'day', null)");
    expect(await slice()).toMatchObject({ ended: "idle" });
    expect(sent()).toHaveLength(TEXTS);
    expect(await vectors()).toMatchObject({ rows: TEXTS * 4 });
  });

  test("several lanes never spend more than a budget", async () => {
    await db.query("select reembed.set_budget('all', 'month', 200)");
    const { url: baseURL, apiKey } = openai;
    for (let slices = 0; slices < 5; slices += 1) {
      await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {
        batch: 3,
        lanes: 4,
      });
    }
    expect(openai.stats().tokensBilled).toBeLessThanOrEqual(200);
    expect(openai.stats().tokensBilled).toBeGreaterThan(150);
  });
});
