/**
 * What a maintained version costs the application's own writes: a bulk insert into a bare table, and into the same table with one and with two
 * maintained versions. The bar: a version adds at most what the bare insert itself costs.
 */
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { type Benchmark, interleaved, round2 } from "./measure.ts";

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
      const {
        bare,
        one_version: one,
        two_versions: two,
      } = await interleaved(
        {
          bare: insertInto("bare"),
          one_version: insertInto("one_version"),
          two_versions: insertInto("two_versions"),
        },
        ROUNDS,
        async () => {
          for (const table of TABLES) await client.query(`truncate public.${table}`);
          await client.query("vacuum analyze reembed.jobs");
        },
      );
      const {
        rows: [version],
      } = await client.query<{ version: string }>(
        "select 'PostgreSQL ' || current_setting('server_version') as version",
      );
      const bar = (label: string, value: number) => ({
        name: label,
        value: round2(value),
        bound: 1,
        holds: value <= 1,
      });
      return {
        server: version?.version ?? "",
        rows,
        figures: { bare_ms: bare, one_version_ms: one, two_versions_ms: two },
        bars: [
          bar("cost of the first version over the bare insert", (one - bare) / bare),
          bar("cost of the second version over the bare insert", (two - one) / bare),
        ],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};
