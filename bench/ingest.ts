/**
 * What a maintained version costs the application's own writes: a bulk insert into a bare table, and into the same table with one and with two
 * maintained versions. The bar: a version adds at most what the bare insert itself costs.
 */
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { atMost, type Benchmark, interleaved, median, medianFigure } from "./measure.ts";

const ROUNDS = 9;
const TABLES = ["bare", "one_version", "two_versions"] as const;

/** A table of the shape of course_content, its vector columns and indexes in place as they are in an application. */
const schema = (table: string) => `
  create table public.${table} (
    id uuid primary key default gen_random_uuid(), title text not null, content text not null, url text, content_type text,
    part_id text, module_id text, embedding extensions.vector(384), embedding_1536 extensions.vector(1536));
  create index on public.${table} using hnsw (embedding extensions.vector_cosine_ops);
  create function reembed.${table}_input(r public.${table}) returns text language sql immutable set search_path = ''
    as $$ select coalesce(r.title, '') || E'\\n\\n' || coalesce(r.content, '') $$;`;

const register = (table: string, versions: number) => `
  do $$ begin
    perform reembed.add_space('hash', 'words-and-ngrams', 384), reembed.add_space('hash', 'words-and-ngrams', 1536);
    perform reembed.add_collection('${table}', 'public.${table}', array['id', 'title']);
    perform reembed.add_version('${table}', 'hash/words-and-ngrams@384', 'embedding', 'reembed.${table}_input');
    perform reembed.add_version('${table}', 'hash/words-and-ngrams@1536', 'embedding_1536', 'reembed.${table}_input');
    for n in 1..${versions} loop perform reembed.start_loading('${table}', n); perform reembed.finish_enqueueing('${table}', n); end loop;
  end $$;`;

/** About 600 characters a row, as a section of a page has. */
const insert = (table: string, rows: number) => `
  insert into public.${table} (title, content, url, content_type)
  select 'Section ' || n, repeat(md5(n::text) || ' ', 18), 'https://example.org/' || n, 'section' from generate_series(1, ${rows}) n`;

export const ingest: Benchmark = async (server, rows = 10_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      for (const [versions, table] of TABLES.entries()) {
        await client.query(schema(table));
        if (versions > 0) await client.query(register(table, versions));
      }
      const insertInto = (table: string) => async () => {
        await client.query(insert(table, rows));
      };
      const { bare, one, two } = await interleaved(
        {
          bare: insertInto("bare"),
          one: insertInto("one_version"),
          two: insertInto("two_versions"),
        },
        ROUNDS,
        async () => {
          for (const table of TABLES) await client.query(`truncate public.${table}`);
          await client.query("vacuum analyze reembed.jobs");
        },
      );
      const cost = (more: readonly number[], less: readonly number[]) =>
        (median(more) - median(less)) / median(bare);
      return {
        about:
          "One insert of all rows into a table with an HNSW index on its old vectors: bare, and with one and two maintained versions.",
        data: "Texts of about 600 characters by md5 of the row's number; no seed.",
        rows,
        figures: {
          bare_ms: medianFigure(bare, "the insert where nothing is registered"),
          one_version_ms: medianFigure(one, "the same with one maintained version: a job for each row"),
          two_versions_ms: medianFigure(two, "the same with two maintained versions"),
        },
        bars: [
          atMost("cost of the first version over the bare insert", cost(one, bare), 1),
          atMost("cost of the second version over the bare insert", cost(two, one), 1),
        ],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};
