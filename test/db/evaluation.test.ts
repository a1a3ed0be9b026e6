/** `evaluate` on a real database: queries from every source, measured searches, and the verdict that is stored. */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { type EvaluateOptions, evaluate } from "../../scripts/lib/evaluation/evaluate.ts";
import { chooseQueries, type QuerySet } from "../../scripts/lib/evaluation/query-set.ts";
import { type Embedder, makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../supabase/functions/_shared/provider-error.ts";
import { search } from "../../supabase/functions/_shared/search.ts";
import { createCollection, load, SPACES, type TestCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, seededRandom, vectorText } from "../support/vectors.ts";

const WIDTH = 8;

/** The direction of one axis, with a little of another: rows on it are found in the order of that little. */
function direction(axis: number, aside = 0): number[] {
  return Array.from({ length: WIDTH }, (_, at) => (at === axis ? 1 : at === (axis + 1) % WIDTH ? aside : 0));
}

/** What each of the two spaces makes of a text, and how often it was asked. */
function provider(vectorOf: (text: string, space: Space) => readonly number[]) {
  const requests: string[][] = [];
  const embedderFor = (space: Space): Embedder =>
    makeEmbedder(space, async (texts) => {
      requests.push([...texts]);
      return { vectors: texts.map((text) => vectorOf(text, space)), usage: { tokens: texts.length * 3 } };
    });
  return { requests, embedderFor };
}

interface Row {
  readonly title: string;
  readonly body?: string;
  readonly vectors: readonly [readonly number[], readonly number[]];
}

/** A collection whose vectors stand in both versions and are adopted, without an index. Returns the rows' ids by title. */
async function loaded(
  client: Client,
  name: string,
  rows: readonly Row[],
): Promise<{ collection: TestCollection; ids: Map<string, string> }> {
  const collection = await createCollection(client, name);
  const { rows: inserted } = await client.query<{ id: string; title: string }>(
    `insert into ${collection.table} (title, body, embedding_1, embedding_2)
     select title, body, one, two from unnest($1::text[], $2::text[], $3::extensions.vector[], $4::extensions.vector[]) u(title, body, one, two)
     returning id, title`,
    [
      rows.map(({ title }) => title),
      rows.map(({ body }) => body ?? ""),
      rows.map(({ vectors }) => vectorText(vectors[0])),
      rows.map(({ vectors }) => vectorText(vectors[1])),
    ],
  );
  await load(client, collection, 2);
  for (const { id } of collection.versions) await client.query("select reembed.adopt_vectors($1)", [id]);
  await client.query(`analyze ${collection.table}`);
  return { collection, ids: new Map(inserted.map(({ id, title }) => [title, id])) };
}

describePostgres("evaluate", () => {
  let client: Client;
  let db: Database;

  beforeAll(async () => {
    const database = await createDatabase();
    client = await connect(database.url);
    db = await openDatabase(database.url);
  });
  afterAll(async () => {
    await db?.close();
    await client?.end();
  });

  const value = async <T = unknown>(sql: string, values: unknown[] = []) =>
    Object.values((await client.query(sql, values)).rows[0] ?? {})[0] as T;
  const given = (queries: Record<string, readonly string[] | null>): QuerySet => ({
    source: "file",
    unknownRows: 0,
    queries: Object.entries(queries).map(([query, relevant]) => ({
      query,
      judgments: relevant && new Map(relevant.map((row) => [row, 1])),
    })),
  });
  const run = (embedderFor: (space: Space) => Embedder, options: Omit<EvaluateOptions, "seed">) =>
    evaluate(db, embedderFor, { seed: 1, ...options });

  test("judged queries: quality of both versions, the drop with its interval, and the row that is stored", async () => {
    // On axis 0 the first version finds alpha before beta, the second beta before alpha; on axis 2 both find gamma first.
    const { ids } = await loaded(client, "judged", [
      { title: "alpha", vectors: [direction(0), direction(0, 0.5)] },
      { title: "beta", vectors: [direction(0, 0.5), direction(0)] },
      { title: "gamma", vectors: [direction(2), direction(2)] },
    ]);
    const { embedderFor, requests } = provider((text) => direction(text === "third" ? 2 : 0));
    const [alpha = "", gamma = ""] = [ids.get("alpha"), ids.get("gamma")];
    const queries = given({ first: [alpha], third: [gamma], unjudged: null });

    const evaluation = await run(embedderFor, { collection: "judged", queries, actor: "tester" });
    const second = 1 / Math.log2(3);
    expect(evaluation).toMatchObject({
      source: "file",
      queries: 3,
      judged_queries: 2,
      baseline: {
        version: 1,
        space: SPACES[0],
        active: true,
        rows: 3,
        embedded: 3,
        coverage: 1,
        failed: 0,
        truncated: 0,
      },
      candidate: { version: 2, space: SPACES[1], active: false },
      quality: {
        "ndcg@10": { candidate: expect.closeTo((second + 1) / 2, 12), against: { baseline: 1 } },
        "mrr@10": { candidate: 0.75, against: { baseline: 1 } },
        "recall@1": { candidate: 0.5, against: { baseline: 1, difference: -0.5, low: -1, high: 0 } },
        "recall@5": { candidate: 1, against: { baseline: 1, difference: 0, low: 0, high: 0 } },
      },
      change: { "overlap@10": 1 },
      ndcg_drop: { mean: expect.closeTo((1 - second) / 2, 12), low: 0, high: expect.closeTo(1 - second, 12) },
      index_recall: null,
      index_used: null,
      provider: { requests: 2, tokens: 18 },
    });
    const { p50 = 0, p95 = 0 } = evaluation.baseline.searches?.latency_ms ?? {};
    expect(p50).toBeGreaterThan(0);
    expect(p95).toBeGreaterThanOrEqual(p50);
    expect(evaluation.outcomes[0]).toMatchObject({
      relevant: [alpha],
      ndcg: { baseline: 1, candidate: expect.closeTo(second, 12) },
      baseline: [{ row_id: alpha }, { row_id: ids.get("beta") }, {}],
      candidate: [{ row_id: ids.get("beta") }, { row_id: alpha }, {}],
    });
    // All texts of a space in one request.
    expect(requests).toEqual([
      ["first", "third", "unjudged"],
      ["first", "third", "unjudged"],
    ]);

    const { outcomes, ...figures } = evaluation;
    const { rows } = await client.query("select * from reembed.evaluations where id = $1", [evaluation.id]);
    expect(rows).toMatchObject([
      {
        actor: "tester",
        queries: 3,
        judged: true,
        source: "file",
        index_recall: null,
        index_used: null,
        ndcg_drop: evaluation.ndcg_drop?.mean,
        ndcg_drop_low: 0,
        ndcg_drop_high: evaluation.ndcg_drop?.high,
        metrics: { quality: figures.quality, change: figures.change, seed: 1 },
      },
    ]);
    expect(rows[0]?.created_at.toISOString()).toBe(evaluation.at);
    expect(rows[0]).toMatchObject({
      baseline_version: await value("select (reembed.version_numbered('judged', 1)).id"),
      candidate_version: await value("select (reembed.version_numbered('judged', 2)).id"),
    });
    // Figures, no texts.
    expect(JSON.stringify(rows[0]?.metrics)).not.toMatch(/first|alpha/);
    expect(outcomes).toHaveLength(3);
  });

  test("what the cache knows is not bought again; each request stands in the ledger as a query", async () => {
    await loaded(client, "cached", [{ title: "only", vectors: [direction(0), direction(1)] }]);
    await client.query(
      "truncate reembed.query_cache; delete from reembed.usage; update reembed.spaces set price_per_mtok = 10 where provider = 'test'",
    );
    const { embedderFor, requests } = provider(() => direction(0));
    await run(embedderFor, { collection: "cached", queries: given({ one: null, two: null }) });
    const again = await run(embedderFor, {
      collection: "cached",
      queries: given({ " one ": null, two: null, three: null }),
    });
    expect(requests.map((texts) => texts.length)).toEqual([2, 2, 1, 1]);
    expect(again.provider).toEqual({ requests: 2, tokens: 6 });
    const { rows } = await client.query(
      "select purpose, state, outcome, inputs, tokens::int, cost_usd::float8 as cost, version_id from reembed.usage order by id",
    );
    const row = (inputs: number) => ({
      purpose: "query",
      state: "settled",
      outcome: "ok",
      inputs,
      tokens: inputs * 3,
      cost: (inputs * 3 * 10) / 1e6,
      version_id: null,
    });
    expect(rows).toEqual([row(2), row(2), row(1), row(1)]);
    expect(await value("select count(*)::int from reembed.query_cache")).toBe(6);
    expect(await value("select sum(hits)::int from reembed.query_cache")).toBe(4);
    // A search finds them there, too.
    const cached = await db.query<{ answer: { embedding?: string } }>(
      "select reembed.begin_query($1, encode(sha256('three'), 'hex'), 1) as answer",
      [SPACES[0]],
    );
    expect(cached[0]?.answer.embedding).toMatch(/^\[1,/);
  });

  test("a spent budget of queries and a provider that fails end the evaluation, and the ledger says so", async () => {
    await loaded(client, "broke", [{ title: "only", vectors: [direction(0), direction(1)] }]);
    await client.query(
      "truncate reembed.query_cache; delete from reembed.usage; update reembed.spaces set price_per_mtok = 1000000 where provider = 'test'",
    );
    const { embedderFor, requests } = provider(() => direction(0));
    await client.query("select reembed.set_budget('queries', 'day', 0.5)");
    const queries = given({ "too dear": null });
    await expect(run(embedderFor, { collection: "broke", queries })).rejects.toMatchObject({
      code: "budget_spent",
    });
    expect(requests).toEqual([]);
    expect(await value("select count(*)::int from reembed.usage")).toBe(0);
    await client.query(
      "delete from reembed.budgets; update reembed.spaces set price_per_mtok = 0 where provider = 'test'",
    );

    const failing = (billed: "no" | "maybe") => (space: Space) =>
      makeEmbedder(space, async () => {
        throw new ProviderError(billed === "no" ? "account_refused" : "timeout", "no", { billed });
      });
    await expect(run(failing("no"), { collection: "broke", queries })).rejects.toMatchObject({
      code: "provider_rejected",
    });
    expect(await value("select count(*)::int from reembed.usage")).toBe(0);
    await expect(run(failing("maybe"), { collection: "broke", queries })).rejects.toMatchObject({
      code: "provider_timeout",
    });
    expect((await client.query("select state, outcome, inputs from reembed.usage")).rows).toEqual([
      { state: "lost", outcome: "timeout", inputs: 1 },
    ]);
    expect(
      await value(
        "select count(*)::int from reembed.evaluations e join reembed.collections c on c.id = e.collection_id where c.name = 'broke'",
      ),
    ).toBe(0);
  });

  describe("over many rows", () => {
    const ROWS = 3_000;
    const vectors = clusteredVectors(ROWS + 60, WIDTH, { seed: 3, clusters: 400, spread: 1 });
    const asked = vectors.slice(ROWS);
    const { embedderFor } = provider((text) => asked[Number(text)] ?? []);
    const queries = given(Object.fromEntries(asked.map((_, index) => [`${index}`, null])));
    // Every fourth row stands where the row before it stands: ties everywhere.
    const at = (index: number) => vectors[index - (index % 4 === 3 ? 1 : 0)] ?? [];
    let collection: TestCollection;

    beforeAll(async () => {
      const rows = Array.from(
        { length: ROWS },
        (_, index): Row => ({ title: `t${index}`, vectors: [at(index), at(index)] }),
      );
      ({ collection } = await loaded(client, "many", rows));
      // As poor an index as there is, so that there is something to miss.
      // What the small table has from its start.
      await client.query("drop index many_embedding_1_hnsw");
      await client.query(
        `create index many_poor on ${collection.table} using hnsw (embedding_2 extensions.vector_cosine_ops) with (m = 2, ef_construction = 4)`,
      );
      await client.query(`analyze ${collection.table}`);
    });

    test("index recall is by distance: as a scan of the table tells it, and whatever rows share a distance", async () => {
      const evaluation = await run(embedderFor, { collection: "many", queries });
      let found = 0;
      for (const vector of asked) {
        const nearest = await value<number>(
          `select min(similarity) from (select 1 - (embedding_2 operator(extensions.<=>) $1::extensions.vector) as similarity
             from ${collection.table} offset 0) x where similarity in (select s from
             (select 1 - (embedding_2 operator(extensions.<=>) $1::extensions.vector) as s from ${collection.table} offset 0) y order by s desc limit 10)`,
          [vectorText(vector)],
        );
        const { rows } = await client.query<{ similarity: number }>(
          "select similarity from match_many_v2($1::extensions.vector, null, 10, query_space => $2)",
          [vectorText(vector), SPACES[1]],
        );
        found += rows.filter(({ similarity }) => similarity >= nearest - 1e-9).length;
      }
      const recall = found / (asked.length * 10);
      expect(recall).toBeLessThan(1);
      expect(evaluation.index_recall).toBeCloseTo(recall, 9);
      expect(evaluation.index_used).toBe(true);
      expect(evaluation.candidate).toMatchObject({
        has_index: true,
        searches: { index: { used: 1, compared: 60 } },
      });
      // The first version has no index at all: its searches are exact.
      expect(evaluation.baseline.has_index).toBe(false);
      expect(evaluation.baseline.searches?.index).toEqual({ used: 0, recall: null, compared: 0 });
      expect(evaluation.ndcg_drop).toBeNull();
      expect(evaluation.quality).toBeNull();
    });

    test("a good index has a recall of 1 although every row has a twin", async () => {
      await client.query(
        `drop index many_poor; ${await value("select reembed.index_sql('many', 2, false)")}`,
      );
      const evaluation = await run(embedderFor, { collection: "many", queries });
      expect(evaluation.index_recall).toBeGreaterThan(0.99);
      // The two versions' vectors are the same, and yet their lists differ where rows share a distance.
      expect(evaluation.change?.rbo).toBeGreaterThan(0.9);
    });

    test("an exact search reads no index, and the next statement of the transaction may again", async () => {
      const id = collection.versions[1]?.id;
      await client.query("begin");
      const scans = async (exact: boolean) =>
        value("select (reembed.measured_search($1, $2, 10, $3) ->> 'index_scans')::int", [
          id,
          vectorText(asked[0] ?? []),
          exact,
        ]);
      expect([await scans(false), await scans(true), await scans(false)]).toEqual([1, 0, 1]);
      expect(await value("show enable_indexscan")).toBe("on");
      await client.query("commit");
    });

    test("an index that no search can use is not used, whatever its name says; a small table needs none", async () => {
      await client.query(`drop index many_embedding_2_hnsw`);
      await client.query(
        `create index many_l2 on ${collection.table} using hnsw (embedding_2 extensions.vector_l2_ops)`,
      );
      const misled = await run(embedderFor, { collection: "many", queries });
      expect(misled).toMatchObject({
        index_used: false,
        index_recall: null,
        candidate: { has_index: false, searches: { index: { used: 0 } } },
      });
      expect(await value("select index_used from reembed.evaluations where id = $1", [misled.id])).toBe(
        false,
      );
      await client.query("drop index many_l2");
      await client.query(`delete from ${collection.table} where title > 't2'`);
      const small = await run(embedderFor, { collection: "many", queries });
      expect(small.candidate.rows).toBeLessThan(2_000);
      expect(small).toMatchObject({ index_used: null, index_recall: null });
    });
  });

  test("vectors in a table of their own: the index there is the one that counts", async () => {
    const collection = await createCollection(client, "apart", "table of its own");
    const vectors = clusteredVectors(3_000, WIDTH, { seed: 8 });
    await client.query(
      `insert into ${collection.table} (title) select 'n' || n from generate_series(1, 3000) n`,
    );
    for (const { number, id, vectorTable, vectorColumn } of collection.versions) {
      await client.query(
        `insert into ${vectorTable} (id, ${vectorColumn})
         select t.id, u.vector from ${collection.table} t join unnest($1::extensions.vector[]) with ordinality u(vector, n) on t.title = 'n' || u.n`,
        [vectors.map(vectorText)],
      );
      if (number === 2) await load(client, collection, number);
      await client.query("select reembed.adopt_vectors($1)", [id]);
      await client.query(
        `${await value("select reembed.index_sql('apart', $1, false)", [number])}; analyze ${vectorTable}`,
      );
    }
    const { embedderFor } = provider((text) => vectors[Number(text.slice(1)) - 1] ?? []);
    const queries = await chooseQueries(db, { collection: "apart", version: 1, limit: 20, seed: 1 });
    const evaluation = await run(embedderFor, { collection: "apart", queries });
    expect(evaluation).toMatchObject({
      index_used: true,
      quality: { "recall@1": { candidate: 1, against: { baseline: 1 } } },
    });
    expect(evaluation.index_recall).toBeGreaterThan(0.97);
    expect(evaluation.baseline.searches?.index.used).toBe(1);
  });

  test("a baseline that nothing here can embed for: refused with the way out, and then the candidate is judged alone", async () => {
    const { ids } = await loaded(client, "external", [
      { title: "alpha", vectors: [direction(0), direction(0)] },
      { title: "beta", vectors: [direction(1), direction(1)] },
    ]);
    const { embedderFor, requests } = provider(() => direction(0));
    const onlyNew = (space: Space) => {
      if (space.id !== SPACES[0]) return embedderFor(space);
      throw new ReembedError("provider_unavailable", "nothing here can embed for it", "Move away.");
    };
    const options = { collection: "external", queries: given({ alone: [ids.get("alpha") ?? ""] }) };
    await expect(run(onlyNew, options)).rejects.toMatchObject({
      code: "provider_unavailable",
      hint: "Move away. Or judge v2 alone, with --without-baseline.",
    });
    expect(requests).toEqual([]);
    const evaluation = await run(onlyNew, { ...options, withoutBaseline: true });
    expect(evaluation).toMatchObject({
      judged_queries: 1,
      quality: { "ndcg@10": { candidate: 1, against: null } },
      change: null,
      threshold: null,
      ndcg_drop: null,
      baseline: { version: 1, embedded: 2, searches: null },
      outcomes: [{ ndcg: { baseline: null, candidate: 1 }, baseline: null }],
    });
    expect(requests).toEqual([["alone"]]);
    // Nothing was compared, so the gate on quality has nothing to say.
    expect(await value("select judged from reembed.evaluations where id = $1", [evaluation.id])).toBe(false);
  });

  test("the threshold that carries over keeps as many results as the old one does", async () => {
    // In the second space everything is nearer: 0.8 keeps half of the results in the first, nearly all in the second.
    const random = seededRandom(4);
    const rows = Array.from({ length: 40 }, (_, index): Row => {
      const aside = random() * 1.5;
      return { title: `r${index}`, vectors: [direction(0, aside), direction(0, aside / 3)] };
    });
    await loaded(client, "carried", rows);
    await client.query(
      "update reembed.versions set match_threshold = 0.8 where collection_id = (reembed.collection_named('carried')).id",
    );
    const { embedderFor } = provider(() => direction(0));
    const { threshold, baseline, candidate } = await run(embedderFor, {
      collection: "carried",
      queries: given({ q: null }),
    });
    const kept = async (version: string, limit: number | null) =>
      (
        await client.query(`select from ${version}($1::extensions.vector, $2, 50, query_space => $3)`, [
          vectorText(direction(0)),
          limit,
          version.endsWith("v2") ? SPACES[1] : SPACES[0],
        ])
      ).rowCount;
    expect([baseline.threshold, candidate.threshold]).toEqual([0.8, 0.8]);
    expect(threshold).toMatchObject({ of: 40, kept: await kept("match_carried", 0.8) });
    const { kept: before = 0, threshold: carried = null } = threshold ?? {};
    expect(before).toBeGreaterThan(5);
    expect(await kept("match_carried_v2", 0.8)).toBeGreaterThan(before);
    expect(await kept("match_carried_v2", carried)).toBe(before);
  });

  test("coverage, truncated, skipped and failed rows are counted", async () => {
    const { collection } = await loaded(
      client,
      "counted",
      Array.from(
        { length: 8 },
        (_, index): Row => ({ title: `c${index}`, vectors: [direction(index), direction(index)] }),
      ),
    );
    const id = collection.versions[1]?.id;
    const where = (title: string) =>
      `version_id = ${id} and row_id = (select id::text from ${collection.table} where title = '${title}')`;
    await client.query(`update reembed.records set truncated = true where ${where("c0")}`);
    await client.query(`update ${collection.table} set title = 'waits' where title = 'c1'`);
    await client.query(`update ${collection.table} set title = 'bad' where title = 'c2'`);
    await client.query(`update reembed.jobs set failed_at = now(), error = 'no' where ${where("bad")}`);
    await client.query(`delete from reembed.records where ${where("bad")}`);
    const { embedderFor } = provider(() => direction(0));
    const { candidate } = await run(embedderFor, { collection: "counted", queries: given({ q: null }) });
    expect(candidate).toMatchObject({
      rows: 8,
      embedded: 7,
      truncated: 1,
      failed: 1,
      pending: 1,
      coverage: 7 / 8,
    });
  });

  describe("which versions", () => {
    const { embedderFor } = provider(() => direction(0));
    const queries = given({ q: null });
    beforeAll(async () => {
      await loaded(client, "pair", [{ title: "row", vectors: [direction(0), direction(0)] }]);
      await client.query("select reembed.advance('pair', 2)");
    });

    test("by default the active one and the newest other; either may be named", async () => {
      const compared = async (options: { baseline?: number; candidate?: number }) => {
        const { baseline, candidate } = await run(embedderFor, { collection: "pair", queries, ...options });
        return [baseline.version, candidate.version];
      };
      expect(await compared({})).toEqual([1, 2]);
      expect(await compared({ baseline: 2 })).toEqual([2, 1]);
      expect(await compared({ candidate: 1 })).toEqual([2, 1]);
      expect(await compared({ baseline: 2, candidate: 1 })).toEqual([2, 1]);
    });

    test("what cannot be compared is refused", async () => {
      const refused = (options: Omit<EvaluateOptions, "seed" | "queries">) =>
        expect(run(embedderFor, { queries, ...options })).rejects;
      await refused({ collection: "nowhere" }).toMatchObject({ code: "unknown_collection" });
      await refused({ collection: "pair", candidate: 7 }).toMatchObject({ code: "unknown_version" });
      await refused({ collection: "pair", baseline: 1, candidate: 1 }).toMatchObject({
        code: "invalid_request",
      });
      // Nothing was loaded there yet.
      await refused({ collection: "course_content" }).toMatchObject({
        code: "refused",
        message: expect.stringContaining("v1"),
      });
      const single = await createCollection(client, "keyless");
      await client.query(
        "update reembed.collections set public_columns = array['title'] where name = 'keyless'",
      );
      await client.query(
        `insert into ${single.table} (title, embedding_1, embedding_2) values ('a', $1, $1)`,
        [vectorText(direction(0))],
      );
      await load(client, single, 2);
      for (const { id } of single.versions) await client.query("select reembed.adopt_vectors($1)", [id]);
      await refused({ collection: "keyless" }).toMatchObject({
        code: "refused",
        hint: expect.stringContaining("public_columns"),
      });
    });
  });

  describe("queries", () => {
    const choose = (options: Partial<Parameters<typeof chooseQueries>[1]> & { collection: string }) =>
      chooseQueries(db, { version: 1, limit: 200, seed: 1, ...options });

    test("made from rows: the first line finds its row; lines that two rows begin with are left out; a seed repeats the choice", async () => {
      const long = Array.from({ length: 20 }, (_, index) => `word${index}`).join("  ");
      const { ids } = await loaded(client, "items", [
        { title: "Undo a commit", body: "text", vectors: [direction(0), direction(0)] },
        { title: "Questions", body: "one", vectors: [direction(1), direction(1)] },
        { title: "Questions", body: "two", vectors: [direction(2), direction(2)] },
        { title: " \t ", body: "The body begins", vectors: [direction(3), direction(3)] },
        { title: long, vectors: [direction(4), direction(4)] },
        { title: "", body: "  ", vectors: [direction(5), direction(5)] },
      ]);
      const { source, queries } = await choose({ collection: "items" });
      expect(source).toBe("rows");
      expect(new Map(queries.map(({ query, judgments }) => [query, [...(judgments ?? [])]]))).toEqual(
        new Map([
          ["Undo a commit", [[ids.get("Undo a commit"), 1]]],
          ["The body begins", [[ids.get(" \t "), 1]]],
          ["word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10 word11", [[ids.get(long), 1]]],
        ]),
      );
      expect((await choose({ collection: "items" })).queries).toEqual(queries);
      expect((await choose({ collection: "items", limit: 1 })).queries).toEqual(queries.slice(0, 1));
      const orders = await Promise.all(
        [2, 3, 4, 5, 6].map(async (seed) =>
          JSON.stringify((await choose({ collection: "items", seed })).queries.map(({ query }) => query)),
        ),
      );
      expect(new Set(orders).size).toBeGreaterThan(1);
    });

    test("a row that its own first line finds is a judged query", async () => {
      await loaded(client, "found", [
        { title: "first", vectors: [direction(0), direction(0)] },
        { title: "second", vectors: [direction(1), direction(0, 0.1)] },
      ]);
      const { embedderFor } = provider((text) => direction(text === "first" ? 0 : 1));
      const queries = await choose({ collection: "found" });
      const { quality, source } = await run(embedderFor, { collection: "found", queries });
      expect(source).toBe("rows");
      expect(quality?.["recall@1"]).toMatchObject({ candidate: 1, against: { baseline: 1 } });
    });

    test("from the log: only what was searched while it was on, the last first, each once; switching it off empties it", async () => {
      await loaded(client, "logged", [{ title: "row", vectors: [direction(0), direction(0)] }]);
      const { embedderFor } = provider(() => direction(0));
      const ask = (query: string) =>
        search(
          { caller: db.rpc, service: db.rpc, embedderFor, callerHash: null },
          { collection: "logged", query },
        );
      await ask("before");
      // Nor does whoever calls the door itself.
      await db.rpc("reembed_log_query", { collection: "logged", query: "before" });
      expect(await value("select count(*)::int from reembed.query_log")).toBe(0);
      await expect(choose({ collection: "logged", only: "log" })).rejects.toMatchObject({ code: "refused" });
      await client.query("select reembed.set_query_log('logged', true)");
      expect((await choose({ collection: "logged" })).source).toBe("rows");
      for (const query of ["one", "two", " one  "]) await ask(query);
      expect(await choose({ collection: "logged" })).toEqual({
        source: "log",
        unknownRows: 0,
        queries: [
          { query: "one", judgments: null },
          { query: "two", judgments: null },
        ],
      });
      expect((await choose({ collection: "logged", only: "rows" })).source).toBe("rows");
      expect((await choose({ collection: "logged", limit: 1 })).queries).toHaveLength(1);
      const evaluation = await run(embedderFor, {
        collection: "logged",
        queries: await choose({ collection: "logged" }),
      });
      expect(evaluation).toMatchObject({ source: "log", judged_queries: 0, quality: null, ndcg_drop: null });
      // An evaluation is no search of a person's.
      expect(await value("select count(*)::int from reembed.query_log")).toBe(3);
      await client.query("select reembed.set_query_log('logged', false)");
      expect(await value("select count(*)::int from reembed.query_log")).toBe(0);
      await ask("after");
      expect(await value("select count(*)::int from reembed.query_log")).toBe(0);
    });

    test("the log is bounded by number and by age", async () => {
      await client.query("select reembed.set_query_log('logged', true)");
      const id = await value("select (reembed.collection_named('logged')).id");
      await client.query(
        `insert into reembed.query_log (collection_id, query, at)
         select $1, 'q' || n, clock_timestamp() - case when n <= 5 then interval '31 days' else interval '0' end from generate_series(1, 20) n`,
        [id],
      );
      expect((await choose({ collection: "logged" })).queries.map(({ query }) => query)).not.toContain("q5");
      expect(await value("select reembed.sweep_query_log($1)::int", [id])).toBe(5);
      await client.query(
        "insert into reembed.query_log (collection_id, query) select $1, 'r' || n from generate_series(1, reembed.query_log_size()) n",
        [id],
      );
      expect(await value("select reembed.sweep_query_log($1)::int", [id])).toBe(15);
      expect(await value("select count(*)::int from reembed.query_log")).toBe(
        await value("select reembed.query_log_size()"),
      );
      await client.query("select reembed.set_query_log('logged', false)");
    });

    test("that were given: keys as a person writes them, and those that no row has are counted", async () => {
      const { ids } = await loaded(client, "keys", [{ title: "row", vectors: [direction(0), direction(0)] }]);
      const row = ids.get("row") ?? "";
      const unknown = "00000000-0000-4000-8000-000000000000";
      const queries = [
        {
          query: "q",
          judgments: new Map([
            [row.toUpperCase(), 2],
            [unknown, 1],
          ]),
        },
      ];
      expect(await choose({ collection: "keys", given: queries })).toEqual({
        source: "file",
        unknownRows: 1,
        queries: [
          {
            query: "q",
            judgments: new Map([
              [row, 2],
              [unknown, 1],
            ]),
          },
        ],
      });
      await expect(
        choose({ collection: "keys", given: [{ query: "q", judgments: new Map([["no uuid", 1]]) }] }),
      ).rejects.toMatchObject({ code: "invalid_request", message: expect.not.stringContaining("no uuid") });
    });

    test("keys of several columns and of numbers", async () => {
      await client.query(`
        create table public.places (part int, "Name" text, v1 extensions.vector(8), v2 extensions.vector(8), primary key (part, "Name"));
        create function public.places_input(p public.places) returns text language sql immutable as 'select p."Name"';
        begin;
        select reembed.add_collection('places', 'public.places', array['part', 'Name']),
               reembed.add_version('places', 'test/model-1@8', 'v1', 'public.places_input'), reembed.add_version('places', 'test/model-2@8', 'v2', 'public.places_input');
        commit;`);
      await client.query("insert into public.places values (1, 'a \"b\"', $1, $1), (2, 'c', $2, $2)", [
        vectorText(direction(0)),
        vectorText(direction(1)),
      ]);
      for (const version of [1, 2]) {
        await client.query(
          "select reembed.start_loading('places', $1), reembed.adopt_vectors((reembed.version_numbered('places', $1)).id)",
          [version],
        );
        await client.query("select reembed.finish_enqueueing('places', $1)", [version]);
      }
      const queries = await choose({
        collection: "places",
        given: [{ query: "q", judgments: new Map([['[1,"a \\"b\\""]', 1]]) }],
      });
      expect(queries.unknownRows).toBe(0);
      const { embedderFor } = provider(() => direction(0));
      const { quality } = await run(embedderFor, { collection: "places", queries });
      expect(quality?.["recall@1"]).toMatchObject({ candidate: 1, against: { baseline: 1 } });
    });
  });

  test("what is stored must fit together", async () => {
    const store = (args: string) => client.query(`select reembed.store_evaluation('pair', ${args})`);
    const fits = "1, 2, 3, true, 'file', '{}', 0.98, true, 0.1, 0, 0.2";
    expect((await store(fits)).rows).toHaveLength(1);
    for (const [wrong, code] of [
      [fits.replace("1, 2", "2, 2"), "RE004"],
      [fits.replace("1, 2", "1, 9"), "RE006"],
      [fits.replace("3,", "0,"), "RE004"],
      [fits.replace("'file'", "'guess'"), "RE004"],
      [fits.replace("'{}'", "'[]'"), "RE004"],
      [fits.replace("0.98", "1.1"), "RE004"],
      [fits.replace("true, 'file'", "false, 'file'"), "RE004"],
      [fits.replace("0.1, 0, 0.2", "0.1, 0.3, 0.2"), "RE004"],
      [fits.replace("0.1, 0, 0.2", "0.1, null, 0.2"), "RE004"],
    ] as const) {
      await expect(store(wrong), wrong).rejects.toMatchObject({ code });
    }
  });
});
