/**
 * How a match RPC is executed, seen from inside the function: the plan of each of its statements, and whether what comes back is what an
 * exact scan finds.
 */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, unit, vectorText } from "../support/vectors.ts";

interface Plan {
  readonly "Node Type": string;
  readonly "Index Name"?: string;
  readonly Plans?: readonly Plan[];
}

/** One statement that ran inside the function. */
interface Statement {
  readonly text: string;
  /** Node types from the root down, with the index where there is one. */
  readonly nodes: readonly string[];
}

interface Watched {
  readonly rows: readonly Record<string, unknown>[];
  readonly searches: readonly Statement[];
}

const HNSW_384 = "Index Scan using course_content_embedding_hnsw";
const HNSW_1536 = "Index Scan using course_content_embedding_1536_hnsw";
const ROWS_384 = 5_000;
const ROWS_1536 = 2_000;
const QUERIES = 40;

/** A superuser's session in which auto_explain reports every statement, nested ones too. */
async function watchingClient(url: string): Promise<Client> {
  const client = await connect(url);
  await client.query(`
    load 'auto_explain';
    set auto_explain.log_min_duration = 0;
    set auto_explain.log_nested_statements = on;
    set auto_explain.log_format = json;
    set auto_explain.log_level = notice;
    set search_path = public, extensions;`);
  return client;
}

/** Runs a call and tells which of its nested statements read a table by distance, and how. */
async function watch(client: Client, sql: string, parameters: readonly unknown[]): Promise<Watched> {
  const statements: Statement[] = [];
  const listen = (notice: { message?: string | undefined }) => {
    const json = /plan:\s*(\{[\s\S]*)$/.exec(notice.message ?? "")?.[1];
    if (json === undefined) return;
    const parsed: { "Query Text": string; Plan: Plan } = JSON.parse(json);
    statements.push({ text: parsed["Query Text"], nodes: nodesOf(parsed.Plan) });
  };
  client.on("notice", listen);
  const { rows } = await client.query(sql, [...parameters]);
  client.off("notice", listen);
  return { rows, searches: statements.filter((statement) => statement.text.includes("_distance")) };
}

function nodesOf(plan: Plan): string[] {
  const index = plan["Index Name"];
  const name = index === undefined ? plan["Node Type"] : `${plan["Node Type"]} using ${index}`;
  return [name, ...(plan.Plans ?? []).flatMap(nodesOf)];
}

/** The distances of the `count` nearest rows, read without any index. */
async function exactDistances(
  client: Client,
  from: string,
  column: string,
  query: string,
  count: number,
): Promise<number[]> {
  const { rows } = await client.query<{ distance: number }>(
    `select distance from (select ${column} <=> $1 as distance from ${from} offset 0) as every order by distance limit $2`,
    [query, count],
  );
  return rows.map((row) => row.distance);
}

/** The share of the exact answer that was found: a row counts when it is as near as the farthest of them, so that ties do not matter. */
function recall(found: readonly { similarity: number }[], exact: readonly number[]): number {
  const farthest = Math.max(...exact) + 1e-6;
  return found.filter((row) => 1 - row.similarity <= farthest).length / exact.length;
}

describePostgres("a match RPC over many rows", () => {
  let owner: Client;
  let watcher: Client;
  let queries384: string[];
  let queries1536: string[];

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    // Loaded before the indexes stand, as a move does it.
    await owner.query(
      "drop index course_content_embedding_hnsw; drop index course_content_embedding_1536_hnsw;",
    );
    const small = clusteredVectors(ROWS_384 + QUERIES, 384, { seed: 11 }).map(vectorText);
    const large = clusteredVectors(ROWS_1536 + QUERIES, 1536, { seed: 12 }).map(vectorText);
    queries384 = small.splice(ROWS_384);
    queries1536 = large.splice(ROWS_1536);
    await owner.query(
      `insert into course_content (title, content, content_type, part_id, module_id, embedding, embedding_1536)
       select 'Section ' || n, repeat('word ', 60), case when n % 2 = 0 then 'section' else 'code' end,
              'part-' || n % 100, 'module-' || n % 500, small, large
         from unnest($1::vector[], $2::vector[]) with ordinality as given (small, large, n)`,
      [small, large],
    );
    for (const version of [1, 2]) {
      const { rows } = await owner.query<{ statement: string }>(
        "select reembed.index_sql('course_content', $1, false) as statement",
        [version],
      );
      await owner.query(rows[0]?.statement ?? "");
    }
    await owner.query("analyze course_content");
    watcher = await watchingClient(database.adminUrl);
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });

  describe.each([
    { rpc: "match_course_content", column: "embedding", index: HNSW_384, queries: () => queries384 },
    {
      rpc: "match_course_content_v2",
      column: "embedding_1536",
      index: HNSW_1536,
      queries: () => queries1536,
    },
  ])("$rpc", ({ rpc, column, index, queries }) => {
    test.each([null, -1, 0, 0.5, 0.99])("reads its index once at the threshold %s", async (threshold) => {
      const { searches } = await watch(watcher, `select * from ${rpc}($1, $2, 10)`, [
        queries()[0],
        threshold,
      ]);
      expect(searches).toHaveLength(1);
      expect(searches[0]?.nodes).toContain(index);
      expect(searches[0]?.nodes).not.toContain("Seq Scan");
    });

    test.each([1, 5, 10, 100])("reads its index when %i rows are asked for", async (count) => {
      const { rows, searches } = await watch(watcher, `select * from ${rpc}($1, null, $2)`, [
        queries()[1],
        count,
      ]);
      expect(rows).toHaveLength(count);
      expect(searches).toHaveLength(1);
      expect(searches[0]?.nodes).toContain(index);
    });

    test("reads its index under a filter that half of the rows pass", async () => {
      const { rows, searches } = await watch(
        watcher,
        `select * from ${rpc}($1, null, 10, filter_content_type => 'code')`,
        [queries()[2]],
      );
      expect(rows).toHaveLength(10);
      expect(rows.every((row) => row.content_type === "code")).toBe(true);
      expect(searches).toHaveLength(1);
      expect(searches[0]?.nodes).toContain(index);
    });

    test("does so in the sixth call of a session as in the first", async () => {
      for (let call = 0; call < 6; call++) {
        const { searches } = await watch(watcher, `select * from ${rpc}($1, 0.2, 5)`, [queries()[call]]);
        expect(searches.map((search) => search.nodes.includes(index))).toEqual([true]);
      }
    });

    test("finds what an exact scan finds", async () => {
      const shares: number[] = [];
      for (const query of queries()) {
        const { rows } = await owner.query<{ similarity: number }>(`select * from ${rpc}($1, null, 10)`, [
          query,
        ]);
        shares.push(recall(rows, await exactDistances(owner, "course_content", column, query, 10)));
      }
      expect(shares.reduce((sum, share) => sum + share) / shares.length).toBeGreaterThanOrEqual(0.99);
    });

    test("returns the rows of the seed's statement, best first", async () => {
      const { rows } = await owner.query(`select id, similarity from ${rpc}($1, 0.3, 20)`, [queries()[3]]);
      const exact = await owner.query(
        `select id, similarity from (select id, 1 - (${column} <=> $1) as similarity from course_content offset 0) as every
          where similarity > 0.3 order by similarity desc limit 20`,
        [queries()[3]],
      );
      expect(rows.length).toBeGreaterThan(0);
      expect(rows).toEqual(exact.rows);
    });
  });

  test("a filter that few rows pass finds all of them, through an index of its own when there is one", async () => {
    const call = "select * from match_course_content($1, null, 50, filter_module_id => 'module-7')";
    const expected = await exactDistances(
      owner,
      "course_content where module_id = 'module-7'",
      "embedding",
      queries384[4] ?? "",
      50,
    );
    expect(expected).toHaveLength(10);
    const distancesOf = (rows: readonly Record<string, unknown>[]) =>
      rows.map((row) => 1 - Number(row.similarity));

    const without = await owner.query(call, [queries384[4]]);
    expect(distancesOf(without.rows)).toEqual(expected.map((distance) => expect.closeTo(distance, 9)));

    await owner.query(
      "create index course_content_module_idx on course_content (module_id); analyze course_content;",
    );
    const { rows, searches } = await watch(watcher, call, [queries384[4]]);
    await owner.query("drop index course_content_module_idx");
    expect(distancesOf(rows)).toEqual(expected.map((distance) => expect.closeTo(distance, 9)));
    expect(searches[0]?.nodes.join()).toContain("course_content_module_idx");
    for (const search of searches) expect(search.nodes).not.toContain("Seq Scan");
  });

  test("as many rows as are asked for, beyond what the index looks at by default", async () => {
    const { rows, searches } = await watch(watcher, "select * from match_course_content($1, null, 300)", [
      queries384[5],
    ]);
    expect(rows).toHaveLength(300);
    expect(searches).toHaveLength(1);
    const similarities = rows.map((row) => Number(row.similarity));
    expect(similarities).toEqual([...similarities].sort((a, b) => b - a));
  });

  test.each([
    "match_course_content($1, null, 50)",
    "hybrid_course_content('nothing', $1, 50, full_text_weight => 0)",
  ])("rows from several passes through the index stand best first in %s", async (call) => {
    // The planner takes the index for sorted by distance, which it is within a pass.
    await owner.query(
      `alter policy "anyone reads course content" on course_content using (abs(hashtext(id::text)) % 10 < 1)`,
    );
    const misplaced: number[] = [];
    for (const query of queries384) {
      const { rows } = await asRole(owner, "anon", (caller) =>
        caller.query<{ similarity: number }>(`select similarity from ${call}`, [query]),
      );
      expect(rows).toHaveLength(50);
      misplaced.push(
        ...rows
          .map(({ similarity }, at) => similarity - (rows[at - 1]?.similarity ?? 1))
          .filter((rise) => rise > 0),
      );
    }
    await owner.query(`alter policy "anyone reads course content" on course_content using (true)`);
    expect(misplaced).toEqual([]);
  });

  // The second is more than one pass through the index looks at: what is left of so small a table is compared.
  test.each([
    [30, 1],
    [150, 2],
  ])(
    "after the %i nearest rows were deleted as many as asked still come, in %i searches",
    async (deleted, statements) => {
      const query = queries384[6];
      await owner.query(
        "delete from course_content where id in (select id from match_course_content($1, null, $2))",
        [query, deleted],
      );
      const { rows, searches } = await watch(watcher, "select * from match_course_content($1, null, 20)", [
        query,
      ]);
      expect(rows).toHaveLength(20);
      expect(searches).toHaveLength(statements);
      expect(searches[0]?.nodes).toContain(HNSW_384);
    },
  );

  test("a stored zero vector is never found", async () => {
    const { rows: stored } = await owner.query<{ id: string }>(
      `insert into course_content (title, content, part_id, embedding)
       values ('Nothing', '', 'zero', array_fill(0::real, array[384])::vector),
              ('Something', '', 'zero', $1) returning id`,
      [queries384[7]],
    );
    const { rows } = await owner.query(
      "select id from match_course_content($1, null, 5, filter_part_id => 'zero')",
      [queries384[7]],
    );
    expect(rows).toEqual([{ id: stored[1]?.id }]);
  });
});

describePostgres("a match RPC under row level security", () => {
  // More rows than a bounded scan visits, so that the caller's three are not met on the way.
  const ROWS = 30_000;
  const MEMBER = "00000000-0000-4000-8000-000000000001";
  let owner: Client;
  let adminUrl: string;
  let query: string;

  beforeAll(async () => {
    const database = await createDatabase();
    adminUrl = database.adminUrl;
    owner = await connect(database.url);
    await owner.query(`
      create table notes (id bigint generated always as identity primary key, team int not null, body text not null, embedding vector(16));
      create table memberships (member uuid, team int, primary key (member, team));
      alter table notes enable row level security;
      alter table memberships enable row level security;
      grant select on notes, memberships to authenticated;
      create policy "members read their teams" on memberships for select to authenticated using (member = (select auth.uid()));
      create policy "members read their teams' notes" on notes for select to authenticated
        using (team in (select m.team from memberships m where m.member = (select auth.uid())));
      create function notes_input(n notes) returns text language sql immutable set search_path = '' as 'select n.body';
      select reembed.add_space('test', 'sixteen', 16);
      begin;
      select reembed.add_collection('notes', 'notes', array['id', 'body']);
      select reembed.add_version('notes', 'test/sixteen@16', 'embedding', 'public.notes_input');
      commit;`);
    const vectors = clusteredVectors(ROWS, 16, { seed: 21, clusters: 30 });
    const first = unit(vectors[0] ?? []);
    query = vectorText(first);
    // The caller's rows lie opposite to the query, where a search from the nearest on comes last.
    const own = [1, 2, 3].map((n) => unit(first.map((value, axis) => -value + 0.05 * Math.sin(n + axis))));
    await owner.query("insert into memberships values ($1, 7)", [MEMBER]);
    await owner.query(
      `insert into notes (team, body, embedding)
       select case when n > $2 then 7 else 1 + n % 5 end, 'note ' || n, vector
         from unnest($1::vector[]) with ordinality as given (vector, n)`,
      [[...vectors, ...own].map(vectorText), ROWS],
    );
    await owner.query("create index notes_embedding_hnsw on notes using hnsw (embedding vector_cosine_ops)");
    await owner.query(`
      create index notes_words_idx on notes using gin (to_tsvector('simple', body));
      select reembed.set_lexical_search('notes', 'to_tsvector(''simple'', body)', 'simple');
      select reembed.set_recency('notes', 'timestamptz ''2026-01-01''');
      analyze notes;`);
  });
  afterAll(() => owner?.end());

  test.each(["match_notes($1, null, 5)", "hybrid_notes('nothing', $1, 5)", "recent_notes($1, 5)"])(
    "a member who may see three rows of thousands gets these three from %s, and they are compared, not the table",
    async (call) => {
      const watcher = await watchingClient(adminUrl);
      const { rows, searches } = await asRole(
        watcher,
        "authenticated",
        () => watch(watcher, `select body from ${call}`, [query]),
        { sub: MEMBER },
      );
      await watcher.end();
      expect(rows.map((row) => row.body).sort()).toEqual(
        [ROWS + 1, ROWS + 2, ROWS + 3].map((n) => `note ${n}`),
      );
      // Once through the index, in one pass; then by their places.
      const reads = searches.filter(
        ({ text }) => text.includes("own._query as _distance") && !text.includes("fused"),
      );
      expect(reads.map(({ nodes }) => nodes.filter((node) => /hnsw|^Tid|^Seq/.test(node)))).toEqual([
        ["Index Scan using notes_embedding_hnsw"],
        ["Tid Scan"],
      ]);
    },
  );

  test("a stranger gets none, and the owner all", async () => {
    const stranger = await asRole(
      owner,
      "authenticated",
      (caller) => caller.query("select body from match_notes($1, null, 5)", [query]),
      { sub: "00000000-0000-4000-8000-000000000002" },
    );
    expect(stranger.rows).toEqual([]);
    const { rows } = await owner.query("select body from match_notes($1, null, 5)", [query]);
    expect(rows[0]).toEqual({ body: "note 1" });
    expect(rows).toHaveLength(5);
  });
});

describePostgres("a match RPC over other kinds of vectors", () => {
  let owner: Client;
  let watcher: Client;

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    watcher = await watchingClient(database.adminUrl);
    await owner.query(`
      create table papers (id int primary key, body text not null, embedding_3072 halfvec(3072), embedding vector(16));
      create function papers_input(p papers) returns text language sql immutable set search_path = '' as 'select p.body';
      create table paper_vectors (paper int primary key references papers on delete cascade, embedding vector(16) not null);
      grant select on papers, paper_vectors to anon;
      select reembed.add_space('test', 'large', 3072), reembed.add_space('test', 'a', 16), reembed.add_space('test', 'b', 16);`);
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });

  test("halfvec(3072): finds, with an index, and takes a query vector that half precision could not hold", async () => {
    await owner.query(`
      begin;
      select reembed.add_collection('papers', 'papers', array['id', 'body'], filter_columns => array['body']);
      select reembed.add_version('papers', 'test/large@3072', 'embedding_3072', 'public.papers_input');
      commit;`);
    const vectors = clusteredVectors(300, 3072, { seed: 31, clusters: 10 });
    await owner.query(
      `insert into papers (id, body, embedding_3072, embedding)
       select n, 'paper ' || n, vector::halfvec(3072), subvector(vector, 1, 16) from unnest($1::vector[]) with ordinality as given (vector, n)`,
      [vectors.map(vectorText)],
    );
    const { rows: built } = await owner.query<{ statement: string }>(
      "select reembed.index_sql('papers', 1, false) as statement",
    );
    await owner.query(built[0]?.statement ?? "");
    await owner.query("analyze papers");
    const long = vectorText((vectors[41] ?? []).map((value) => value * 1e7));
    const { rows } = await owner.query("select * from match_papers($1, null, 3)", [long]);
    expect(rows[0]).toMatchObject({ id: 42, similarity: expect.closeTo(1, 3) });
    expect(rows).toHaveLength(3);
  });

  test("vectors in a table of their own: finds, reads its index, returns only rows that have a vector", async () => {
    await owner.query(
      `select reembed.add_version('papers', 'test/a@16', 'embedding', 'public.papers_input', vector_table => 'paper_vectors', vector_key => array['paper'])`,
    );
    const sources = clusteredVectors(3_000, 16, { seed: 32 });
    await owner.query(
      "insert into papers (id, body) select 1000 + n, 'more ' || n from generate_series(1, 3001) n",
    );
    await owner.query(
      "insert into paper_vectors select 1000 + n, vector from unnest($1::vector[]) with ordinality as given (vector, n)",
      [sources.map(vectorText)],
    );
    await owner.query("create index on paper_vectors using hnsw (embedding vector_cosine_ops)");
    await owner.query("analyze papers; analyze paper_vectors;");
    const query = vectorText(sources[99] ?? []);
    const { rows, searches } = await watch(watcher, "select * from match_papers_v2($1, null, 4)", [query]);
    expect(rows.map((row) => row.id)[0]).toBe(1100);
    expect(rows).toHaveLength(4);
    expect(searches[0]?.nodes).toContain("Index Scan using paper_vectors_embedding_idx");
    // The rows of the table are looked up one by one: a filter that is not given does not make the planner read them all for ten.
    expect(searches[0]?.nodes).toContain("Index Scan using papers_pkey");
    expect(searches[0]?.nodes).not.toContain("Seq Scan");
    // Nor does a policy that leaves an average caller hardly one: this one sees nearly all.
    await owner.query(`
      create index on papers (body);
      update papers set body = 'mine' where id > 1000 and id % 3 > 0;
      analyze papers;
      alter table papers enable row level security;
      create policy "who wrote it" on papers to anon using (body = (select current_setting('papers.body')));`);
    await watcher.query("set papers.body = 'mine'; set role anon");
    const own = await watch(watcher, "select * from match_papers_v2($1, null, 4)", [query]);
    await watcher.query("reset role");
    await owner.query(`alter table papers disable row level security`);
    expect(own.rows).toHaveLength(4);
    expect(
      own.searches.map(({ nodes }) => nodes.filter((node) => /Scan using|Materialize/.test(node))),
    ).toEqual([["Index Scan using paper_vectors_embedding_idx", "Index Scan using papers_pkey"]]);
    const all = await owner.query(
      "select count(*)::int as found from match_papers_v2($1, null, 1000, query_space => null)",
      [query],
    );
    expect(all.rows).toEqual([{ found: 1000 }]);
  });

  test("two versions of equal width: both ask for the space, take theirs and refuse the other's", async () => {
    await owner.query(
      "select reembed.add_version('papers', 'test/b@16', 'embedding', 'public.papers_input')",
    );
    const query = vectorText(unit([1, ...Array<number>(15).fill(0)]));
    for (const [rpc, own, other] of [
      ["match_papers_v2", "test/a@16", "test/b@16"],
      ["match_papers_v3", "test/b@16", "test/a@16"],
    ] as const) {
      await expect(owner.query(`select * from ${rpc}($1)`, [query])).rejects.toMatchObject({
        code: "RE002",
        message: expect.stringContaining("query_space is null"),
        hint: expect.stringContaining(`query_space => '${own}'`),
      });
      await expect(
        owner.query(`select * from ${rpc}($1, query_space => $2)`, [query, other]),
      ).rejects.toMatchObject({
        code: "RE002",
        message: expect.stringContaining(`query_space is ${other}`),
        hint: expect.stringContaining(own),
      });
      const { rows } = await owner.query(`select * from ${rpc}($1, null, 2, query_space => $2)`, [
        query,
        own,
      ]);
      expect(rows).toHaveLength(2);
    }
    // The 3072 wide one stands alone at its width: it takes an unnamed vector still.
    const wide = vectorText(unit([1, ...Array<number>(3071).fill(0)]));
    expect((await owner.query("select * from match_papers($1, null, 1)", [wide])).rows).toHaveLength(1);
  });

  test("takes_unnamed exempts the RPC that an app called before, and no other", async () => {
    await owner.query(
      "alter table papers add column third vector(16); select reembed.add_space('test', 'c', 16);",
    );
    await owner.query(
      "select reembed.add_version('papers', 'test/c@16', 'third', 'public.papers_input', match_function => 'match_papers_of_before', takes_unnamed => true)",
    );
    const query = vectorText(unit([1, ...Array<number>(15).fill(0)]));
    await owner.query("select * from match_papers_of_before($1)", [query]);
    await expect(owner.query("select * from match_papers_v3($1)", [query])).rejects.toMatchObject({
      code: "RE002",
    });
  });
});
