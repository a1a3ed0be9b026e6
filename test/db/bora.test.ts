/** What the dictionary's migration does to tables of these names that are there already, and what it refuses. */
import type { Client } from "pg";
import { expect, test } from "vitest";
import { applyMigrations } from "../../scripts/lib/migrations.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { clusteredVectors, vectorText } from "../support/vectors.ts";

const ROWS = 40;

/** As an app has them that has begun to move by hand: a column for the new vectors, hardly filled, and a search that reads the whole table. */
const SCHEMA = `
  create table public.lexicon (
    id bigint generated always as identity primary key, headword text not null, part_of_speech text, gloss text not null,
    embedding extensions.vector(384), embedding_1536 extensions.vector(1536));
  create table public.phrases (id serial primary key, bora text not null, spanish text not null, embedding extensions.vector(384));
  create index on public.lexicon using ivfflat (embedding extensions.vector_cosine_ops) with (lists = 10);
  create function public.match_lexicon(query_embedding extensions.vector(384), match_threshold float, match_count int)
    returns table (id bigint, headword text, similarity float) language sql stable as $$
      select l.id, l.headword, 1 - (l.embedding operator(extensions.<=>) query_embedding) as similarity from public.lexicon l
       where 1 - (l.embedding operator(extensions.<=>) query_embedding) > match_threshold order by similarity desc limit match_count $$;
  create function public.match_lexicon_v2(query_embedding extensions.vector(1536)) returns setof public.lexicon language sql stable as
    $$ select * from public.lexicon limit 1 $$;
  insert into public.phrases (bora, spanish) values ('uno', 'a'), ('uno', 'b');`;

async function bareDatabase(): Promise<Client> {
  return connect((await createDatabase({ migrated: false })).url);
}

describePostgres("a database with a dictionary of its own", () => {
  test("keeps its rows, keys, vectors and calls, and gains what is promised", async () => {
    const client = await bareDatabase();
    await client.query(SCHEMA);
    const vectors = clusteredVectors(ROWS, 384, { seed: 71, clusters: 4 }).map(vectorText);
    await client.query(
      `insert into public.lexicon (headword, gloss, embedding)
       select 'pálabra' || n, 'glosa ' || n, case when n > 5 then vector::extensions.vector end from unnest($1::text[]) with ordinality g(vector, n)`,
      [vectors],
    );
    const rows = async () =>
      (await client.query("select id, headword, gloss, embedding::text from public.lexicon order by id"))
        .rows;
    const called = async () =>
      (
        await client.query("select id, headword, similarity from public.match_lexicon($1, 0.1, 12)", [
          vectors[20],
        ])
      ).rows;
    const before = { rows: await rows(), called: await called() };
    const notices: string[] = [];
    client.on("notice", ({ message }) => notices.push(message ?? ""));
    await applyMigrations(client);

    expect(await rows()).toEqual(before.rows);
    const after = await called();
    expect(after.map(({ id }) => id)).toEqual(before.called.map(({ id }) => id));
    const { rows: versions } = await client.query(
      `select v.space_id, v.state, (select count(*)::int from reembed.records r where r.version_id = v.id) as records,
              (select count(*)::int from reembed.jobs j where j.version_id = v.id) as jobs
         from reembed.versions v join reembed.collections c on c.id = v.collection_id where c.name = 'lexicon' order by v.number`,
    );
    expect(versions).toEqual([
      { space_id: "external/sentence-transformers@384", state: "loading", records: ROWS - 5, jobs: 5 },
      { space_id: "openai/text-embedding-3-small@1536", state: "prepared", records: 0, jobs: 0 },
    ]);
    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
    const { rows: found } = await asRole(client, "anon", (caller) =>
      caller.query("select headword from public.hybrid_lexicon('palabra7', match_count => 1)"),
    );
    expect(found).toEqual([{ headword: "pálabra7" }]);
    await expect(
      asRole(client, "anon", (caller) => caller.query("delete from public.lexicon")),
    ).rejects.toMatchObject({ code: "42501" });
    const { rows: kinds } = await client.query(
      `select m.amname::text as kind, count(*)::int as n from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
        where i.indrelid = 'public.lexicon'::regclass group by 1 order by 1`,
    );
    // The primary and the natural key; the words and the spelling; a version's vectors each.
    expect(kinds).toEqual([
      { kind: "btree", n: 2 },
      { kind: "gin", n: 2 },
      { kind: "hnsw", n: 2 },
    ]);
    // Two phrases share their text: they are left as they are, and a notice says so.
    expect((await client.query("select bora, spanish from public.phrases order by id")).rows).toHaveLength(2);
    expect(notices.join("\n")).toMatch(/rows of phrases share \(bora\)/);
    const { rows: key } = await client.query(
      "select reembed.natural_key(reembed.collection_named(n))::text[] as key from unnest(array['lexicon', 'phrases', 'bora_docs']) n",
    );
    expect(key).toEqual([
      { key: ["headword", "part_of_speech", "homograph"] },
      { key: ["id"] },
      { key: ["title", "source"] },
    ]);
    await client.end();
  });

  test.each([
    [
      "a column of another type",
      "create table public.lexicon (id int primary key, headword text, gloss int)",
      /lexicon cannot be adopted: gloss is integer, not text/,
    ],
    [
      "a missing one",
      "create table public.phrases (id int primary key, bora text)",
      /phrases cannot be adopted: spanish is missing/,
    ],
    [
      "vectors without a width",
      "create table public.bora_docs (id int primary key, title text, content text, embedding extensions.vector)",
      /bora_docs cannot be adopted: embedding is (extensions\.)?vector, not a vector of a known width/,
    ],
    [
      "a table without a key",
      "create table public.lexicon (headword text, gloss text)",
      /lexicon cannot be adopted: it has no primary key/,
    ],
  ])("%s is refused, and the table is as it was", async (_, sql, message) => {
    const client = await bareDatabase();
    await client.query(sql);
    const columns = async () =>
      (
        await client.query(
          "select attrelid::regclass::text as tbl, attname from pg_attribute where attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and relname in ('lexicon', 'phrases', 'bora_docs')) and attnum > 0 and not attisdropped order by 1, attnum",
        )
      ).rows;
    const before = await columns();
    await expect(applyMigrations(client)).rejects.toMatchObject({
      code: "RE008",
      message: expect.stringMatching(message),
    });
    expect(await columns()).toEqual(before);
    await client.end();
  });
});
