/** `reembed estimate` on a real database: it says beforehand what the backfill then buys, and buys nothing itself. */
import type { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { bytesOfVectors, type VectorType } from "../../scripts/lib/disk.ts";
import { runCli, runJson } from "../support/cli.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";

const ROWS = 1_001;

describePostgres("estimate", () => {
  let client: Client;
  let env: Record<string, string>;
  let openai: FakeOpenAI;

  beforeEach(async () => {
    const [database, fake] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    openai = fake;
    client = await connect(database.url);
    env = { DATABASE_URL: database.url, OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    await client.query("drop index public.course_content_embedding_1536_hnsw");
    // More than two pages; every tenth text stands twice, one is blank, one is longer than the model takes.
    await client.query(
      `insert into public.course_content (title, content)
       select case n when 7 then '' else format('Section %s', n - n % 10 / 9) end,
              case n when 7 then ' ' when 13 then repeat('word ', 10000) else 'What the course says.' end
         from generate_series(1, $1) n`,
      [ROWS],
    );
  });
  afterEach(async () => {
    await client?.end();
    await openai?.close();
  });

  const estimate = async (...args: string[]) => {
    const { code, answer } = await runJson(["estimate", "--collection", "course_content", ...args], env);
    expect({ code, answer }).toMatchObject({ code: 0 });
    return answer;
  };

  test("says which texts the backfill buys, and afterwards that there is nothing left to buy", async () => {
    const before = await estimate("--version", "2", "--tpm", "10000");
    expect(before).toMatchObject({
      collection: "course_content",
      version: 2,
      space: "openai/text-embedding-3-small@1536",
      rows: ROWS,
      current: 0,
      copies: 100,
      blank: 1,
      texts: 900,
      counted: "exact",
      tokenizer: "cl100k_base",
      over_long: 1,
      long_text: "truncate",
    });
    const tokens = Number(before.tokens);
    // Ten tokens a section; of the long one what fits into 32,768 bytes.
    expect(tokens).toBeGreaterThan(899 * 8 + 6_000);
    expect(tokens).toBeLessThan(899 * 12 + 8_192);
    expect(before).toMatchObject({
      cost_usd: expect.closeTo((tokens * 0.02) / 1e6, 12),
      batch_cost_usd: expect.closeTo((tokens * 0.01) / 1e6, 12),
      hours: expect.closeTo(tokens / 600_000, 12),
      disk: { type: "vector", vectors_bytes: 1_000 * 8_192, index_bytes: 1_000 * 8_192 },
    });
    expect((await client.query("select from reembed.usage")).rowCount).toBe(0);
    expect(openai.stats().requests).toBe(0);

    const { code } = await runJson(["backfill", "--version", "2", "--batch", "2000"], env);
    expect(code).toBe(0);
    // The first request is of one text of its own: whether the provider answers at all.
    const [, ...requests] = openai.stats().log;
    expect(requests.flatMap(({ status, inputs }) => (status === 200 ? inputs : []))).toHaveLength(900);
    expect(await estimate("--version", "2")).toMatchObject({
      rows: ROWS,
      current: ROWS,
      texts: 0,
      tokens: 0,
      cost_usd: 0,
      hours: null,
    });

    // A new row whose text is stored costs nothing; in another space everything does.
    await client.query(
      "insert into public.course_content (title, content) values ('Section 1', 'What the course says.')",
    );
    expect(await estimate("--version", "2")).toMatchObject({
      rows: ROWS + 1,
      current: ROWS,
      copies: 1,
      texts: 0,
    });
    await client.query("select reembed.add_space('openai', 'text-embedding-3-large', 3072, 0.13)");
    expect(await estimate("--space", "openai/text-embedding-3-large@3072")).toMatchObject({
      version: null,
      current: 0,
      texts: 900,
      tokens,
      cost_usd: expect.closeTo((tokens * 0.13) / 1e6, 12),
      disk: { type: "halfvec" },
    });
  });

  test("concludes from a sample, and estimates where no tokenizer is known", async () => {
    const exact = await estimate("--version", "2");
    const sampled = await estimate("--version", "2", "--sample", "300");
    expect(sampled).toMatchObject({ texts: 900, copies: 100, over_long: 1, counted: "sampled" });
    expect(Math.abs(Number(sampled.tokens) / Number(exact.tokens) - 1)).toBeLessThan(0.35);
    expect(await estimate("--version", "1")).toMatchObject({
      space: "supabase/gte-small@384",
      counted: "estimated",
      tokenizer: null,
      cost_usd: 0,
      batch_cost_usd: null,
    });
  });

  test("says it in words, with what is missing", async () => {
    await client.query("update reembed.collections set long_text = 'fail'");
    const { code, stdout } = await runCli(["estimate", "--version", "2"], env);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^course_content v2: openai\/text-embedding-3-small@1536\n/);
    expect(stdout).toContain("rows    1,001: 0 current, 100 copies of another's text, 1 blank\n");
    expect(stdout).toMatch(/buy {5}900 texts, [\d,]+ tokens \(counted with cl100k_base\)/);
    expect(stdout).toContain("long    1 texts have more than 8,192 tokens: their rows fail\n");
    expect(stdout).toMatch(/price {3}\$0\.000\d+; \$0\.000\d+ at the provider's batch price/);
    expect(stdout).toContain("time    pass --tpm");
    expect(stdout).toContain("disk    8000 kB of vectors, 8000 kB of index, as halfvec about half\n");
  });

  test("refuses what does not exist", async () => {
    for (const [args, exitCode, code] of [
      [["--collection", "nothing"], 1, "unknown_collection"],
      [["--version", "9"], 1, "unknown_version"],
      [["--space", "openai/text-embedding-4-large@3072"], 2, "invalid_request"],
    ] as const) {
      expect(await runJson(["estimate", ...args], env)).toMatchObject({
        code: exitCode,
        answer: { error: { code } },
      });
    }
  });

  test("the disk is what PostgreSQL and pgvector take", async () => {
    for (const [type, dimensions] of [
      ["vector", 1536],
      ["halfvec", 1536],
      ["vector", 384],
    ] as const satisfies readonly (readonly [VectorType, number])[]) {
      await client.query(`
        create table public.measured (v extensions.${type}(${dimensions}));
        insert into public.measured select (select array_agg((random() + 0 * (i + n))::real) from generate_series(1, ${dimensions}) i)::extensions.vector::extensions.${type}
          from generate_series(1, 300) n;
        create index measured_idx on public.measured using hnsw (v extensions.${type}_cosine_ops);`);
      const { rows } = await client.query<{ table: number; index: number }>(
        `select pg_table_size('public.measured') / $3::float8 as table,
                pg_relation_size('public.measured_idx') / reembed.hnsw_bytes(300, $1, $2)::float8 as index`,
        [type, dimensions, bytesOfVectors(300, type, dimensions)],
      );
      const apart = { table: rows[0]?.table, index: rows[0]?.index };
      expect({ type, dimensions, ...apart }).toEqual({
        type,
        dimensions,
        table: expect.closeTo(1.1, 0.5),
        index: expect.closeTo(1, 1),
      });
      await client.query("drop table public.measured");
    }
  });
});
