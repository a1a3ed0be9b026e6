/**
 * The hybrid RPCs: which rows they find and in which order, for whom, what they refuse, and that each of their two lists is read from its own index.
 */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nodesDuring, watchingClient } from "../support/plans.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, seededRandom, unit, vectorText } from "../support/vectors.ts";

const ROWS = 6_000;
const HNSW = "Index Scan using course_content_embedding_hnsw";
const GIN = "Bitmap Index Scan using course_content_words_idx";
const WORDS = [
  "merge",
  "conflict",
  "branch",
  "commit",
  "stash",
  "rebase",
  "remote",
  "clone",
  "index",
  "tree",
];

interface Asked {
  readonly text: string;
  readonly vector?: string;
  readonly count?: number;
  readonly k?: number;
  readonly fullTextWeight?: number;
  readonly semanticWeight?: number;
  readonly contentType?: string;
}

interface Found {
  readonly id: string;
  readonly similarity: number | null;
  readonly score: number;
}

const HYBRID = `select id, similarity, score from public.hybrid_course_content($1, $2, $3, $4, $5, $6, filter_content_type => $7)`;
const asked = ({ text, vector, count = 10, k = 60, fullTextWeight, semanticWeight, contentType }: Asked) => [
  text,
  vector ?? null,
  count,
  k,
  fullTextWeight ?? 1,
  semanticWeight ?? 1,
  contentType ?? null,
];

async function hybrid(client: Client, request: Asked): Promise<Found[]> {
  return (await client.query<Found>(HYBRID, asked(request))).rows;
}

/** Reciprocal rank fusion over two lists that are read without any index, in this language. */
async function reference(client: Client, request: Asked): Promise<Found[]> {
  const { text, vector, count = 10, k = 60, contentType } = request;
  const { fullTextWeight = 1, semanticWeight = 1 } = request;
  const depth = Math.max(20, 2 * count);
  const { rows } = await client.query<{ id: string; distance: number | null; rank: number | null }>(
    `select id, embedding <=> $2 as distance, case when words @@ query then ts_rank_cd(words, query) end as rank
       from (select id, embedding, setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', content), 'B') as words,
                    websearch_to_tsquery('english', $1) as query
               from public.course_content where $3::text is null or content_type = $3 offset 0) every`,
    [text, vector ?? null, contentType ?? null],
  );
  const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
  const near = rows.flatMap(({ id, distance }) => (distance === null ? [] : [{ id, distance }]));
  const worded = rows.flatMap(({ id, rank }) => (rank === null ? [] : [{ id, rank }]));
  near.sort((a, b) => a.distance - b.distance || byId(a, b));
  worded.sort((a, b) => b.rank - a.rank || byId(a, b));
  const places = new Map<string, { score: number; near: number; similarity: number | null }>();
  const distances = new Map(near.map(({ id, distance }) => [id, distance]));
  const add = (list: readonly { id: string }[], weight: number, isNear: boolean) => {
    if (weight === 0) return;
    for (const [at, { id }] of list.slice(0, depth).entries()) {
      const distance = distances.get(id);
      const row = places.get(id) ?? {
        score: 0,
        near: Number.POSITIVE_INFINITY,
        similarity: distance === undefined ? null : 1 - distance,
      };
      row.score += weight / (k + at + 1);
      if (isNear) row.near = at;
      places.set(id, row);
    }
  };
  add(near, semanticWeight, true);
  add(worded, fullTextWeight, false);
  return [...places]
    .map(([id, { score, near: place, similarity }]) => ({ id, score, place, similarity }))
    .sort((a, b) => b.score - a.score || (a.place === b.place ? byId(a, b) : a.place - b.place))
    .slice(0, count)
    .map(({ id, score, similarity }) => ({ id, score, similarity }));
}

const rounded = (rows: readonly Found[]) =>
  rows.map(({ id, similarity, score }) => ({
    id,
    similarity: similarity === null ? null : similarity.toFixed(6),
    score: score.toFixed(9),
  }));

describePostgres("a hybrid RPC over many rows", () => {
  let owner: Client;
  let watcher: Client;
  let vectors: string[];

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    await owner.query("drop index course_content_embedding_hnsw");
    vectors = clusteredVectors(ROWS + 10, 384, { seed: 41 }).map(vectorText);
    const random = seededRandom(42);
    const word = () => WORDS[Math.floor(random() ** 2 * WORDS.length)] ?? "";
    // One row in a hundred has a rare word; the others have the same few in their own order.
    const contents = Array.from(
      { length: ROWS },
      (_, n) =>
        `${Array.from({ length: 12 }, word).join(" ")} ${n % 100 === 7 ? "bisect" : `filler${n % 977}`}`,
    );
    await owner.query(
      `insert into public.course_content (title, content, content_type, embedding)
       select 'Section ' || n, content, case when n % 3 = 0 then 'code' else 'section' end, vector
         from unnest($1::text[], $2::extensions.vector[]) with ordinality g(content, vector, n)`,
      [contents, vectors.slice(0, ROWS)],
    );
    const { rows } = await owner.query<{ statement: string }>(
      "select reembed.index_sql('course_content', 1, false) as statement",
    );
    await owner.query(rows[0]?.statement ?? "");
    await owner.query("analyze public.course_content");
    watcher = await watchingClient(database.adminUrl);
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });
  const query = (n: number) => vectors[ROWS + n] ?? "";

  describe.each(["postgres", "anon"])("as %s", (role) => {
    beforeAll(() => watcher.query(`set role ${role}`));
    afterAll(() => watcher.query("reset role"));

    test.each([1, 10, 100])(
      "reads each list from its own index when %i rows are asked for",
      async (count) => {
        const nodes = await nodesDuring(watcher, HYBRID, asked({ text: "bisect", vector: query(0), count }));
        expect(nodes).toContain(HNSW);
        expect(nodes).toContain(GIN);
        expect(nodes).not.toContain("Seq Scan");
      },
    );

    test("does so under a filter, and in the sixth call as in the first", async () => {
      for (let call = 0; call < 6; call += 1) {
        const request = { text: "bisect or filler12", vector: query(call), contentType: "section" };
        const nodes = await nodesDuring(watcher, HYBRID, asked(request));
        expect(nodes).toContain(HNSW);
        expect(nodes).toContain(GIN);
        expect(nodes).not.toContain("Seq Scan");
      }
    });

    test("reads the words' index alone when there is no vector", async () => {
      const nodes = await nodesDuring(watcher, HYBRID, asked({ text: "bisect" }));
      expect(nodes).toContain(GIN);
      expect(nodes).not.toContain(HNSW);
      expect(nodes).not.toContain("Seq Scan");
    });

    test("reads the vectors' index alone when no word can be looked up", async () => {
      for (const text of ["the of and", "-bisect", "", "!!!"]) {
        const nodes = await nodesDuring(watcher, HYBRID, asked({ text, vector: query(1) }));
        expect(nodes).toContain(HNSW);
        expect(nodes).not.toContain(GIN);
        expect(nodes).not.toContain("Seq Scan");
      }
    });
  });

  test.each<[string, Asked]>([
    ["a rare word", { text: "bisect" }],
    ["a rare word or another", { text: "bisect or filler12" }],
    ["a rare word and a common one", { text: "bisect rebase" }],
    ["a phrase", { text: '"stash bisect"' }],
    ["a rare word without a common one", { text: "bisect -merge" }],
    ["no word that is stored", { text: "zebra" }],
    ["stop words alone", { text: "the of and" }],
    ["one row", { text: "bisect", count: 1 }],
    ["more rows than the lists hold by default", { text: "bisect", count: 80 }],
    ["a filter", { text: "bisect", contentType: "code" }],
    ["another k", { text: "bisect", k: 1 }],
    ["words that count ten times", { text: "bisect", fullTextWeight: 10 }],
    ["a meaning that counts ten times", { text: "bisect", semanticWeight: 10 }],
    ["words alone, by weight", { text: "bisect", semanticWeight: 0 }],
    ["meaning alone, by weight", { text: "bisect", fullTextWeight: 0 }],
  ])("finds what an exact fusion finds, in its order: %s", async (_, request) => {
    for (const vector of [query(2), query(3), undefined]) {
      const full = { ...request, ...(vector === undefined ? {} : { vector }) };
      if (vector === undefined && full.fullTextWeight === 0) continue;
      expect(rounded(await hybrid(owner, full))).toEqual(rounded(await reference(owner, full)));
    }
  });

  test("words that stand in nearly every row are ranked among some of them, and meaning goes on", async () => {
    const vector = query(4);
    const rows = await hybrid(owner, { text: "merge", vector, count: 20 });
    expect(rows).toHaveLength(20);
    const { rows: nearest } = await owner.query<{ id: string }>(
      "select id from public.match_course_content($1, null, 1)",
      [vector],
    );
    expect(rows.map(({ id }) => id)).toContain(nearest[0]?.id);
    expect(await hybrid(owner, { text: "merge", count: 20 })).toHaveLength(20);
  });

  test("a filter that few rows pass finds all of them", async () => {
    const { rows: rare } = await owner.query<{ id: string }>(
      "update public.course_content set content_type = 'rare' where id in (select id from public.course_content order by id limit 4) returning id",
    );
    const found = await hybrid(owner, { text: "bisect", vector: query(5), contentType: "rare" });
    expect(found.map(({ id }) => id).sort()).toEqual(rare.map(({ id }) => id).sort());
    await owner.query(
      "update public.course_content set content_type = 'section' where content_type = 'rare'",
    );
  });

  test("after the nearest rows were deleted as many as asked still come: the index goes on, and where it met few, what is left is compared", async () => {
    const vector = query(6);
    await owner.query(
      "delete from public.course_content where id in (select id from public.match_course_content($1, null, 60))",
      [vector],
    );
    const request = { text: "", vector, count: 30 };
    expect(await hybrid(owner, request)).toHaveLength(30);
    expect(await nodesDuring(watcher, HYBRID, asked(request))).not.toContain("Seq Scan");
    await owner.query(
      "delete from public.course_content where id in (select id from public.match_course_content($1, null, 150))",
      [vector],
    );
    const { rows: nearest } = await owner.query<{ id: string }>(
      "select id from (select id, embedding <=> $1 as d from public.course_content offset 0) x order by d limit 30",
      [vector],
    );
    expect((await hybrid(owner, request)).map(({ id }) => id)).toEqual(nearest.map(({ id }) => id));
  });

  test("a row without a vector is found by its words, without a similarity; a zero vector has none either", async () => {
    await owner.query(
      `insert into public.course_content (title, content, embedding)
       values ('Unembedded', 'quokka', null), ('Zero', 'quokka', array_fill(0::real, array[384])::extensions.vector)`,
    );
    const rows = await hybrid(owner, { text: "quokka", vector: query(7), fullTextWeight: 100, count: 2 });
    expect(rows.map(({ similarity }) => similarity)).toEqual([null, null]);
    await owner.query("delete from public.course_content where content = 'quokka'");
  });

  test.each([
    "'; drop table course_content; --",
    '"unclosed',
    "((((",
    "a & | ! <-> :* b",
    "\\ \\\\ ' '' $body$ $1 %s %I",
    "-".repeat(8_000),
    `${"-".repeat(40)}bisect "${"- ".repeat(100)}`,
    "x".repeat(8_000),
    "or or or -or",
    Array.from({ length: 1_600 }, (_, n) => `w${n % 10}`)
      .join(" or ")
      .slice(0, 8_000),
    "🦘 ñandú 日本語 \u202e",
  ])("a hostile text is a text (%#)", async (text) => {
    const rows = await hybrid(owner, { text, vector: query(8), count: 3 });
    expect(rows).toHaveLength(3);
    expect((await hybrid(owner, { text, count: 3 })).length).toBeLessThanOrEqual(3);
  });

  test("a section of two megabytes is still written, and found by its beginning", async () => {
    await owner.query(
      `insert into public.course_content (title, content)
       select 'Long', 'wombat ' || string_agg(md5(n::text), ' ') from generate_series(1, 65000) n`,
    );
    expect(await hybrid(owner, { text: "wombat" })).toHaveLength(1);
    await owner.query("delete from public.course_content where title = 'Long'");
  });

  const width = (n: number) => vectorText(unit([1, ...Array<number>(n - 1).fill(0)]));
  test.each([
    ["a null text", "null, null", "RE004", "query_text is null"],
    ["a text that is too long", "repeat('x', 8001), null", "RE004", "query_text has more"],
    ["another width", `'x', '${width(1536)}'`, "RE001", "query_embedding has 1536 dimensions"],
    ["two numbers", "'x', '[1,2]'", "RE001", "query_embedding has 2 dimensions"],
    [
      "another space",
      `'x', '${width(384)}', query_space => 'openai/text-embedding-3-small@1536'`,
      "RE002",
      "query_space is openai",
    ],
    ["another space without a vector", "'x', query_space => 'nowhere'", "RE002", "query_space is nowhere"],
    ["a zero vector", "'x', array_fill(0::real, array[384])::extensions.vector", "RE003", "zero vector"],
    ["no row", "'x', match_count => 0", "RE004", "match_count is 0"],
    ["too many rows", "'x', match_count => 1001", "RE004", "match_count is 1001"],
    ["null rows", "'x', match_count => null", "RE004", "match_count is null"],
    ["the largest number of rows", "'x', match_count => 2147483647", "RE004", "match_count"],
    ["k of 0", "'x', rrf_k => 0", "RE004", "rrf_k is 0"],
    ["null k", "'x', rrf_k => null", "RE004", "rrf_k is null"],
    ["a negative weight", "'x', full_text_weight => -1", "RE004", "full_text_weight"],
    ["a weight that is no number", "'x', semantic_weight => 'NaN'", "RE004", "semantic_weight"],
    ["an endless weight", "'x', semantic_weight => 'Infinity'", "RE004", "semantic_weight"],
    ["a null weight", "'x', semantic_weight => null", "RE004", "semantic_weight"],
    ["no weight", "'x', full_text_weight => 0, semantic_weight => 0", "RE004", "not both 0"],
  ])("%s is refused", async (_, args, code, message) => {
    await expect(owner.query(`select * from public.hybrid_course_content(${args})`)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });
});

describePostgres("a hybrid RPC under row level security", () => {
  const MEMBER = "00000000-0000-4000-8000-000000000001";
  const STRANGER = "00000000-0000-4000-8000-000000000002";
  const CALL = "select body, similarity from public.hybrid_notes($1, $2, 5)";
  let owner: Client;
  let watcher: Client;
  let query: string;

  beforeAll(async () => {
    const database = await createDatabase();
    owner = await connect(database.url);
    watcher = await watchingClient(database.adminUrl);
    await owner.query(`
      create table public.notes (id bigint generated always as identity, team int not null, body text not null, embedding extensions.vector(16), primary key (team, id));
      create table public.memberships (member uuid, team int, primary key (member, team));
      alter table public.notes enable row level security;
      alter table public.memberships enable row level security;
      grant select on public.notes, public.memberships to authenticated;
      create policy "members read their teams" on public.memberships for select to authenticated using (member = (select auth.uid()));
      create policy "members read their teams' notes" on public.notes for select to authenticated
        using (team in (select m.team from public.memberships m where m.member = (select auth.uid())));
      create function public.notes_input(n public.notes) returns text language sql immutable set search_path = '' as 'select n.body';
      create index on public.notes using gin (to_tsvector('simple', body));
      select reembed.add_space('test', 'sixteen', 16);
      begin;
      select reembed.add_collection('notes', 'public.notes', array['id', 'body'], filter_columns => array['team']);
      select reembed.add_version('notes', 'test/sixteen@16', 'embedding', 'public.notes_input');
      commit;
      select reembed.set_lexical_search('notes', 'to_tsvector(''simple'', body)', 'simple');`);
    const vectors = clusteredVectors(25_000, 16, { seed: 51, clusters: 30 });
    const first = unit(vectors[0] ?? []);
    query = vectorText(first);
    const own = [1, 2, 3].map((n) => unit(first.map((value, axis) => -value + 0.05 * Math.sin(n + axis))));
    await owner.query("insert into public.memberships values ($1, 7)", [MEMBER]);
    await owner.query(
      `insert into public.notes (team, body, embedding)
       select case when n > $2 then 7 else 1 + n % 5 end, 'secret note number' || n, vector
         from unnest($1::extensions.vector[]) with ordinality g(vector, n)`,
      [[...vectors, ...own].map(vectorText), vectors.length],
    );
    await owner.query("create index on public.notes using hnsw (embedding extensions.vector_cosine_ops)");
    await owner.query("analyze public.notes");
  });
  afterAll(async () => {
    await watcher?.end();
    await owner?.end();
  });
  const bodies = async (sub: string, text: string, vector: string | null) => {
    const { rows } = await asRole(
      owner,
      "authenticated",
      (caller) => caller.query<{ body: string }>(CALL, [text, vector]),
      { sub },
    );
    return rows.map(({ body }) => body).sort();
  };
  const OWN = [25_001, 25_002, 25_003].map((n) => `secret note number${n}`);

  test("a member who may see three rows of thousands gets these three, by meaning, by words and by both", async () => {
    expect(await bodies(MEMBER, "nothing", query)).toEqual(OWN);
    expect(await bodies(MEMBER, "secret", null)).toEqual(OWN);
    expect(await bodies(MEMBER, "secret", query)).toEqual(OWN);
  });

  test("nobody finds by words what a policy hides", async () => {
    expect(await bodies(MEMBER, "number17", null)).toEqual([]);
    expect(await bodies(MEMBER, "number25002", null)).toEqual(["secret note number25002"]);
    expect(await bodies(STRANGER, "secret", query)).toEqual([]);
    const anonymous = await asRole(owner, "anon", (caller) => caller.query(CALL, ["secret", query]));
    expect(anonymous.rows).toEqual([]);
  });

  test("the words' index serves whom no policy limits; for others the policy's rows are read", async () => {
    const words = "Bitmap Index Scan using notes_to_tsvector_idx";
    expect(await nodesDuring(watcher, CALL, ["number17", null])).toContain(words);
    await watcher.query(
      `set role authenticated; select set_config('request.jwt.claims', '{"sub": "${MEMBER}"}', false)`,
    );
    expect(await nodesDuring(watcher, CALL, ["number17", null])).not.toContain(words);
  });

  test("the owner finds by a composite key, and through a filter", async () => {
    const { rows } = await owner.query(CALL, ["number17", query]);
    expect(rows[0]).toMatchObject({ body: "secret note number1" });
    expect(rows.map(({ body }) => body)).toContain("secret note number17");
    const filtered = await owner.query(
      "select body from public.hybrid_notes('number17 or number18', filter_team => 4)",
    );
    expect(filtered.rows).toEqual([{ body: "secret note number18" }]);
  });
});

describePostgres("a lexical side", () => {
  let owner: Client;

  beforeAll(async () => {
    owner = await connect((await createDatabase()).url);
    await owner.query(`
      create table public.papers (id int primary key, "Body" text not null, wide extensions.halfvec(3072), words tsvector generated always as (to_tsvector('simple', "Body")) stored);
      create table public.paper_vectors (paper int primary key references public.papers on delete cascade, embedding extensions.vector(16) not null);
      grant select on public.papers, public.paper_vectors to anon;
      create function public.papers_input(p public.papers) returns text language sql immutable set search_path = '' as 'select p."Body"';
      create function public.papers_words(p public.papers) returns tsvector language sql immutable set search_path = '' as
        $$ select pg_catalog.to_tsvector('pg_catalog.simple', p."Body") $$;
      create function public.papers_now(p public.papers) returns tsvector language sql stable set search_path = '' as
        $$ select pg_catalog.to_tsvector('pg_catalog.simple', p."Body" || pg_catalog.now()::text) $$;
      insert into public.papers (id, "Body", wide) select n, 'paper ' || chr(96 + n), (select array_agg(sin(n * k)) from generate_series(1, 3072) k)::extensions.vector::extensions.halfvec from generate_series(1, 9) n;
      insert into public.paper_vectors select n, (select array_agg(cos(n * k)) from generate_series(1, 16) k)::extensions.vector from generate_series(1, 8) n;
      select reembed.add_space('test', 'large', 3072), reembed.add_space('test', 'a', 16), reembed.add_space('test', 'b', 16);
      begin;
      select reembed.add_collection('papers', 'public.papers', array['id', 'Body']);
      select reembed.add_version('papers', 'test/large@3072', 'wide', 'public.papers_input');
      commit;
      select reembed.add_version('papers', 'test/a@16', 'embedding', 'public.papers_input', vector_table => 'public.paper_vectors', vector_key => array['paper']);
      create index papers_words_idx on public.papers using gin (words);`);
  });
  afterAll(() => owner?.end());
  const set = (expression: string | null, config = "simple") =>
    owner.query("select reembed.set_lexical_search('papers', $1, $2::text::regconfig)", [expression, config]);

  test.each([
    ["none", null, /must be given/],
    ["another column", "nothing", /cannot be computed.*42703/],
    ["another syntax", "words) from public.papers; --", /cannot be computed.*42601/],
    ["another type", `"Body"`, /of type text, not tsvector/],
    [
      "an expression without an index",
      `to_tsvector('simple', "Body")`,
      /no GIN index of public.papers serves it/,
    ],
    ["an expression that changes", "public.papers_now(papers)", /no GIN index/],
    ["a name of another schema's", "papers_words(papers)", /cannot be computed.*42883/],
    ["the end of a body", "words -- $body$", /\$body\$/],
  ])("%s is refused", async (_, expression, message) => {
    await expect(set(expression)).rejects.toMatchObject({
      code: "RE008",
      message: expect.stringMatching(message),
    });
    const { rows } = await owner.query("select from pg_proc where proname like 'hybrid_papers%'");
    expect(rows).toEqual([]);
  });

  test("an unknown collection is refused, and so is one with a column of the RPC's names", async () => {
    await expect(
      owner.query("select reembed.set_lexical_search('nowhere', 'words', 'simple')"),
    ).rejects.toMatchObject({ code: "RE005" });
    await owner.query(`
      create table public.games (id int primary key, score text, embedding extensions.vector(16));
      create function public.games_input(g public.games) returns text language sql immutable set search_path = '' as 'select g.score';
      create index on public.games using gin (to_tsvector('simple', score));
      begin;
      select reembed.add_collection('games', 'public.games', array['id', 'score']);
      select reembed.add_version('games', 'test/a@16', 'embedding', 'public.games_input');
      commit;`);
    await expect(
      owner.query("select reembed.set_lexical_search('games', 'to_tsvector(''simple'', score)', 'simple')"),
    ).rejects.toMatchObject({ code: "RE008", message: expect.stringContaining("score") });
  });

  test("a function of the app that has the name is not replaced", async () => {
    await owner.query("create function public.hybrid_papers_v2() returns int language sql as 'select 1'");
    await expect(set("words")).rejects.toMatchObject({
      code: "RE008",
      message: expect.stringContaining("public.hybrid_papers_v2"),
    });
    await owner.query("drop function public.hybrid_papers_v2()");
  });

  test("a stored column gives each version its RPC, over halfvec and over vectors in a table of their own", async () => {
    await set("words");
    const wide = await owner.query(
      `select id, similarity from public.hybrid_papers('c', (select wide::extensions.vector from public.papers where id = 5), 2)`,
    );
    expect(wide.rows.map(({ id }) => id).sort()).toEqual([3, 5]);
    expect(wide.rows.find(({ id }) => id === 5)?.similarity).toBeCloseTo(1, 3);
    const own = await owner.query(
      `select id, similarity from public.hybrid_papers_v2('i', (select embedding from public.paper_vectors where paper = 2), 2)`,
    );
    expect(own.rows).toEqual([
      { id: 2, similarity: expect.closeTo(1, 6) },
      { id: 9, similarity: null },
    ]);
  });

  test("a function of the row serves as well, and setting it again replaces the RPCs", async () => {
    await owner.query("create index on public.papers using gin (public.papers_words(papers))");
    await set("public.papers_words(papers)");
    const { rows } = await owner.query(`select "Body" from public.hybrid_papers('c or d')`);
    expect(rows).toEqual([{ Body: "paper c" }, { Body: "paper d" }]);
    const { rows: made } = await owner.query(
      "select count(*)::int as n, bool_or(prosrc like '%papers_words%') as new from pg_proc where proname like 'hybrid_papers%'",
    );
    expect(made).toEqual([{ n: 2, new: true }]);
  });

  test("a later version gets its RPC too, and the older one of its width then asks for the space", async () => {
    await owner.query(`
      alter table public.papers add column third extensions.vector(16);
      select reembed.add_version('papers', 'test/b@16', 'third', 'public.papers_input');`);
    const vector = vectorText(unit([1, ...Array<number>(15).fill(0)]));
    for (const [rpc, space] of [
      ["hybrid_papers_v2", "test/a@16"],
      ["hybrid_papers_v3", "test/b@16"],
    ]) {
      await expect(owner.query(`select * from public.${rpc}('c', $1)`, [vector])).rejects.toMatchObject({
        code: "RE002",
        hint: expect.stringContaining(`query_space => '${space}'`),
      });
      const named = await owner.query(`select * from public.${rpc}('c', $1, 1, query_space => $2)`, [
        vector,
        space,
      ]);
      expect(named.rows).toHaveLength(1);
      // Words alone are of no space.
      expect((await owner.query(`select id from public.${rpc}('c')`)).rows).toEqual([{ id: 3 }]);
    }
    const { rows } = await owner.query("select public.embedding_route('papers', 3) ->> 'hybrid' as hybrid");
    expect(rows).toEqual([{ hybrid: "hybrid_papers_v3" }]);
  });

  test("a change of space changes the hybrid RPC's literals with it", async () => {
    await owner.query(
      "select reembed.add_space('test', 'c', 16), reembed.set_space('papers', 3, 'test/c@16')",
    );
    const vector = vectorText(unit([1, ...Array<number>(15).fill(0)]));
    const call = "select * from public.hybrid_papers_v3('c', $1, query_space => $2)";
    await expect(owner.query(call, [vector, "test/b@16"])).rejects.toMatchObject({ code: "RE002" });
    await owner.query(call, [vector, "test/c@16"]);
  });

  test("a collection without one has no hybrid RPC, and its route says nothing of it", async () => {
    const { rows } = await owner.query("select public.embedding_route('games') ? 'hybrid' as told");
    expect(rows).toEqual([{ told: false }]);
  });
});
