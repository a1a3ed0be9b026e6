/**
 * A table as a move finds it, for benchmarks: texts of about 400 characters, all different; old vectors of 384 dimensions, searched through their
 * index; a column for new ones of 1536. And a provider for these, which costs nothing to ask.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

export const DIMENSIONS = 1536;
/** Of the vectors that the table is searched by meanwhile. */
export const OLD_DIMENSIONS = 384;
/** Its collection; the new version is the second. */
export const TABLE = "moved_bench";

export const SCHEMA = `
  create table public.filled (id bigint generated always as identity primary key, title text not null, content text not null,
    embedding extensions.vector(${OLD_DIMENSIONS}));
  create table public.${TABLE} (like public.filled including all, embedding_1536 extensions.vector(${DIMENSIONS}));
  create function reembed.${TABLE}_input(r public.${TABLE}) returns text language sql immutable set search_path = ''
    as $$ select r.title || E'\\n\\n' || r.content $$;
  select reembed.add_space('openai', 'text-embedding-3-small', ${DIMENSIONS});
  select reembed.add_space('hash', 'words-and-ngrams', ${OLD_DIMENSIONS});
  select reembed.add_collection('${TABLE}', 'public.${TABLE}', array['id', 'title']);
  select reembed.add_version('${TABLE}', 'hash/words-and-ngrams@${OLD_DIMENSIONS}', 'embedding', 'reembed.${TABLE}_input');
  select reembed.add_version('${TABLE}', 'openai/text-embedding-3-small@${DIMENSIONS}', 'embedding_1536', 'reembed.${TABLE}_input');`;

/** The rows, made once: the old vectors stand around a hundred centres. */
export const source = (rows: number) => `
  select setseed(0.5);
  create temporary table centres on commit drop as
    select c, array_agg(random() - 0.5 order by axis) as at from generate_series(0, 99) c, generate_series(1, ${OLD_DIMENSIONS}) axis group by c;
  insert into public.filled (title, content, embedding)
  select 'Section ' || n, repeat(md5(n::text) || ' ', 12),
         (select array_agg(a + (random() - 0.5) * 0.4) from unnest(at) a where n > 0)::extensions.vector(${OLD_DIMENSIONS})
    from generate_series(1, ${rows}) n join centres on c = n % 100 order by n`;

/**
 * The table as a move finds it: filled long ago, so that no row is an edit; searched by its old vectors, through their index. Autovacuum comes every
 * minute and would come in some rounds and not in others.
 */
export const fill = (table: string) => `
  drop index if exists ${table}_old_idx;
  truncate public.${table} restart identity;
  alter table public.${table} set (autovacuum_enabled = off);
  alter table public.${table} disable trigger user;
  insert into public.${table} (title, content, embedding) select title, content, embedding from public.filled order by id;
  alter table public.${table} enable trigger user;
  create index ${table}_old_idx on public.${table} using hnsw (embedding extensions.vector_cosine_ops);
  analyze public.${table}`;

/** Makes the old version maintained with the vectors that are there, as it is in a live application: every update passes the triggers of both. */
export const ADOPT_OLD = `
  select reembed.start_loading('${TABLE}', 1), reembed.adopt_vectors((reembed.version_numbered('${TABLE}', 1)).id)`;

/** @param latencyMs of each answer */
export async function startPoolProvider(
  dimensions: number,
  latencyMs: number,
): Promise<{ baseURL: string; process: ChildProcess }> {
  const provider = spawn(
    process.execPath,
    [fileURLToPath(new URL("pool-provider.ts", import.meta.url)), String(dimensions), String(latencyMs)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const [line] = (await once(provider.stdout, "data")) as [Buffer];
  return { baseURL: line.toString().trim(), process: provider };
}
