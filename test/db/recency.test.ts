/**
 * The RPCs that rank by similarity and age: which rows they find and in which order, for whom, what they refuse, and that their candidates are read from
 * the vector index.
 */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { watchingClient } from "../support/plans.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, vectorText } from "../support/vectors.ts";

const ROWS = 4_000;
const DAY = 86_400_000;
const NOW = Date.now();

interface Plan {
  readonly "Node Type": string;
  readonly "Index Name"?: string;
  readonly "Relation Name"?: string;
  readonly "Actual Loops"?: number;
  readonly Plans?: readonly Plan[];
}

function nodesOf(plan: Plan): string[] {
  if (plan["Actual Loops"] === 0) return [];
  const on = plan["Index Name"] ?? plan["Relation Name"];
  return [
    on === undefined ? plan["Node Type"] : `${plan["Node Type"]} on ${on}`,
    ...(plan.Plans ?? []).flatMap(nodesOf),
  ];
}

interface Found {
  readonly id: string;
  readonly similarity: number;
  readonly recency: number;
  readonly score: number;
}

interface Asked {
  readonly vector: string;
  readonly count?: number;
  readonly halfLife?: number;
  readonly weight?: number;
  readonly candidates?: number | null;
  readonly article?: number | null;
}

const RECENT =
  "select id, similarity, recency, score from public.recent_article_chunks($1, $2, $3, $4, $5, filter_article_id => $6)";
const asked = ({
  vector,
  count = 5,
  halfLife = 30,
  weight = 0.3,
  candidates = null,
  article = null,
}: Asked) => [vector, count, halfLife, weight, candidates, article];
const recent = async (client: Pick<Client, "query">, request: Asked): Promise<Found[]> =>
  (await client.query<Found>(RECENT, asked(request))).rows;

/** Age in days of article n; every tenth has no time, and one is from the future. */
const ageOf = (article: number) => (article % 10 === 3 ? null : article === 7 ? -5 : (article * 7) % 400);

describePostgres("an RPC that ranks by similarity and age", () => {
  let owner: Client;
  let watcher: Client;
  let vectors: string[];

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    await owner.query("drop index public.article_chunks_embedding_vector_hnsw");
    vectors = clusteredVectors(ROWS + 10, 768, { seed: 61, clusters: 7 }).map(vectorText);
    const articles = ROWS / 10;
    const times = Array.from({ length: articles }, (_, n) => {
      const age = ageOf(n + 1);
      return age === null ? null : new Date(NOW - age * DAY).toISOString();
    });
    await owner.query(
      "insert into public.articles (id, title, published_at) select n, 'Article ' || n, at from unnest($1::timestamptz[]) with ordinality u(at, n)",
      [times],
    );
    await owner.query(
      `insert into public.article_chunks (article_id, chunk_index, text, embedding_vector)
       select 1 + (n - 1) % $2, (n - 1) / $2, 'Chunk ' || n, vector from unnest($1::extensions.vector[]) with ordinality u(vector, n)`,
      [vectors.slice(0, ROWS), articles],
    );
    const { rows } = await owner.query<{ statement: string }>(
      "select reembed.index_sql('article_chunks', 1, false) as statement",
    );
    await owner.query(rows[0]?.statement ?? "");
    await owner.query("analyze public.article_chunks; analyze public.articles");
    watcher = await watchingClient(database.adminUrl);
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });
  const query = (n: number) => vectors[ROWS + n] ?? "";

  /** The same, read without any index, in this language. */
  async function reference({ vector, count = 5, halfLife = 30, weight = 0.3, candidates }: Asked) {
    const { rows } = await owner.query<{ id: string; similarity: number; age: number | null }>(
      `select c.id, 1 - (c.embedding_vector <=> $1) as similarity, extract(epoch from now() - a.published_at)::float8 / 86400 as age
         from public.article_chunks c join public.articles a on a.id = c.article_id`,
      [vector],
    );
    return rows
      .sort((a, b) => b.similarity - a.similarity)
      .slice(0, candidates ?? Math.max(100, 10 * count))
      .map(({ id, similarity, age }) => {
        const recency = age === null ? 0 : 0.5 ** (Math.max(0, age) / halfLife);
        return { id, similarity, recency, score: (1 - weight) * similarity + weight * recency };
      })
      .sort((a, b) => b.score - a.score || b.similarity - a.similarity)
      .slice(0, count);
  }
  /** The same rows in the same order, with the same figures but for what time has passed in between. */
  function expectSame(found: readonly Found[], wanted: readonly Found[]) {
    expect(found.map(({ id }) => id)).toEqual(wanted.map(({ id }) => id));
    for (const [n, row] of found.entries()) {
      for (const figure of ["similarity", "recency", "score"] as const)
        expect(row[figure]).toBeCloseTo(wanted[n]?.[figure] ?? Number.NaN, 4);
    }
  }

  test.each([
    ["as it is called without more", {}],
    ["where age counts for nearly all", { weight: 0.95, halfLife: 3 }],
    ["where half a year is nothing", { halfLife: 2_000, weight: 0.5 }],
    ["over more candidates", { candidates: 400, count: 20, weight: 0.6 }],
    ["by age alone", { weight: 1, count: 10 }],
  ])("finds the rows of the formula, %s", async (_, more) => {
    for (let n = 0; n < 4; n += 1) {
      const request = { vector: query(n), ...more };
      expectSame(await recent(owner, request), await reference(request));
    }
  });

  test("at weight 0 it is the match RPC", async () => {
    const { rows } = await owner.query<{ id: string }>(
      "select id from public.match_article_chunks($1, null, 10)",
      [query(5)],
    );
    const found = await recent(owner, { vector: query(5), count: 10, weight: 0 });
    expect(found.map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
  });

  test("a newer row is before a nearer one, and one without a time counts as old", async () => {
    const [nearest] = await recent(owner, { vector: query(1), weight: 0 });
    const byBoth = await recent(owner, { vector: query(1), weight: 0.9, halfLife: 60, count: 3 });
    expect(byBoth[0]?.recency).toBeGreaterThan(nearest?.recency ?? 1);
    expect(byBoth[0]?.similarity).toBeLessThan(nearest?.similarity ?? 0);
    const all = await recent(owner, { vector: query(1), count: 100, weight: 0.01 });
    expect(all.some(({ recency }) => recency === 0)).toBe(true);
    expect(all.every(({ recency }) => recency >= 0 && recency <= 1)).toBe(true);
  });

  test.each(["postgres", "anon"])(
    "as %s reads its candidates from the vector index and never its table whole",
    async (role) => {
      const plans: string[][] = [];
      const listen = (notice: { message?: string | undefined }) => {
        const json = /plan:\s*(\{[\s\S]*)$/.exec(notice.message ?? "")?.[1];
        if (json === undefined) return;
        const parsed: { "Query Text": string; Plan: Plan } = JSON.parse(json);
        if (/aged as|own\._query/.test(parsed["Query Text"])) plans.push(nodesOf(parsed.Plan));
      };
      await watcher.query(`set role ${role}`);
      watcher.on("notice", listen);
      await recent(watcher, { vector: query(2) });
      await recent(watcher, { vector: query(3), count: 10, weight: 0.8 });
      watcher.off("notice", listen);
      await watcher.query("reset role");
      // One statement reads the candidates, and one ranks them.
      expect(plans).toHaveLength(4);
      for (const [at, nodes] of plans.entries()) {
        if (at % 2 === 0) expect(nodes).toContain("Index Scan on article_chunks_embedding_vector_hnsw");
        expect(nodes).not.toContain("Seq Scan on article_chunks");
      }
    },
  );

  test("a filter that leaves few rows finds them all", async () => {
    const found = await recent(owner, { vector: query(4), count: 50, article: 12 });
    expect(found).toHaveLength(10);
  });

  test("who may read no article is refused, not shown what he may not see", async () => {
    await owner.query("begin; revoke select on public.articles from anon");
    try {
      await owner.query("set local role anon");
      await expect(recent(owner, { vector: query(0) })).rejects.toMatchObject({ code: "42501" });
    } finally {
      await owner.query("rollback");
    }
  });

  test("hidden rows are not found, and enough others are", async () => {
    await owner.query(`
      drop policy "anyone reads article chunks" on public.article_chunks;
      create policy few on public.article_chunks for select to anon using (article_id between 20 and 22);`);
    const found = await asRole(owner, "anon", (caller) => recent(caller, { vector: query(6), count: 40 }));
    expect(found).toHaveLength(30);
    await owner.query(`
      drop policy few on public.article_chunks;
      create policy "anyone reads article chunks" on public.article_chunks for select to anon, authenticated using (true)`);
  });

  describe("refuses", () => {
    test.each<[string, string, string]>([
      ["another width", "recent_article_chunks('[1,2,3]')", "RE001"],
      [
        "another space",
        "recent_article_chunks($1, query_space => 'openai/text-embedding-3-large@3072')",
        "RE002",
      ],
      ["no vector", "recent_article_chunks(null)", "RE003"],
      ["a half-life of nothing", "recent_article_chunks($1, half_life_days => 0)", "RE004"],
      ["a half-life that is no number", "recent_article_chunks($1, half_life_days => 'NaN')", "RE004"],
      ["a weight over 1", "recent_article_chunks($1, recency_weight => 1.1)", "RE004"],
      ["no weight", "recent_article_chunks($1, recency_weight => null)", "RE004"],
      ["fewer candidates than rows", "recent_article_chunks($1, 10, candidates => 9)", "RE004"],
      ["too many candidates", "recent_article_chunks($1, candidates => 1001)", "RE004"],
      ["no rows", "recent_article_chunks($1, 0)", "RE004"],
    ])("%s", async (_, call, code) => {
      const values = call.includes("$1") ? [query(0)] : [];
      await expect(owner.query(`select * from public.${call}`, values)).rejects.toMatchObject({ code });
    });

    test.each<[string, string, string]>([
      ["a collection that is not there", "'nowhere', 'now()'", "RE005"],
      ["what is no time", "'course_content', 'title'", "RE008"],
      ["a time without its zone", "'course_content', 'localtimestamp'", "RE008"],
      ["a column that is not there", "'course_content', 'published_at'", "RE008"],
      ["nothing", "'course_content', ''", "RE008"],
    ])("as the time of a row %s", async (_, call, code) => {
      await expect(owner.query(`select reembed.set_recency(${call})`)).rejects.toMatchObject({ code });
    });
  });

  test("a version that is added later has one, and a finalized one's goes", async () => {
    const database = await createDatabase();
    const client = await connect(database.url);
    await client.query(`
      alter table public.article_chunks add column embedding_8 extensions.vector(8);
      select reembed.add_space('test', 'tiny', 8);
      select reembed.add_version('article_chunks', 'test/tiny@8', 'embedding_8', 'reembed.article_chunks_input');`);
    const { rows } = await client.query<{ sql: { sql: string } }>(
      "select reembed.finalize_sql('article_chunks', 3) as sql",
    );
    const sql = rows[0]?.sql.sql ?? "";
    for (const name of ["match", "hybrid", "recent"])
      expect(sql).toMatch(new RegExp(`drop function (public\\.)?${name}_article_chunks_v3\\(`));
    await client.query("begin");
    await client.query(sql);
    await client.query("commit");
    const left = await client.query(
      "select proname from pg_proc where proname like '%article\\_chunks\\_v3'",
    );
    expect(left.rows).toEqual([]);
    await client.end();
  });
});
