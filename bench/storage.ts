/**
 * Bytes on disk for each row: of vectors in a column of the table and in a table of their own, of their index, of records and jobs; beside them what `reembed
 * estimate` and `reembed.hnsw_bytes` reckon.
 */
import type { Client } from "pg";
import { encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { bytesOfVectors, type VectorType } from "../scripts/lib/disk.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { atMost, type Benchmark, type Figure, rounded } from "./measure.ts";
import { GENERATOR, take, topicVectors } from "./vectors.ts";

const SEED = 1;
const CHUNK = 500;
/** By how much of itself the reckoning may be off. */
const BOUND = 0.05;
const KINDS: readonly { readonly type: VectorType; readonly dimensions: number }[] = [
  { type: "vector", dimensions: 1536 },
  { type: "halfvec", dimensions: 1536 },
  { type: "halfvec", dimensions: 3072 },
];

const SCHEMA = `
  create table public.texts (id bigint generated always as identity primary key, content text not null);
  create function reembed.texts_input(r public.texts) returns text language sql immutable set search_path = '' as $$ select r.content $$;`;

/** About 600 characters a row, as a section of a page has. */
const INSERT = `
  insert into public.texts (content) select repeat(md5(n::text) || ' ', 18) from generate_series(1, $1::int) n`;

export const storage: Benchmark = async (server, rows = 10_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      await client.query(`set maintenance_work_mem = '2GB'; ${SCHEMA}`);
      await client.query(INSERT, [rows]);
      const text = await bytesOf(client, "public.texts");
      const figures: Record<string, Figure> = {
        text_bytes: [rounded(text / rows), "a row of the table without a vector, with its key's index"],
      };
      const errors: { readonly what: string; readonly off: number }[] = [];
      for (const kind of KINDS) {
        const type = `${kind.type}(${kind.dimensions})`;
        const suffix = `${kind.type}_${kind.dimensions}`;
        const { columnBytes, updatedBytes, ownBytes, indexBytes, reckonedIndex } = await measure(
          client,
          kind,
          rows,
        );
        const reckoned = bytesOfVectors(rows, kind.type, kind.dimensions);
        const a = (bytes: number) => rounded(bytes / rows);
        Object.assign(figures, {
          [`column_${suffix}_bytes`]: [
            a(columnBytes - text),
            `${type} in a column of the table, written with its row`,
          ],
          [`column_updated_${suffix}_bytes`]: [
            a(updatedBytes - text),
            `the same, written into rows that were there, ${CHUNK} a statement: with the places that the old rows leave, which later rows take`,
          ],
          [`own_table_${suffix}_bytes`]: [
            a(ownBytes),
            `${type} in a table of its own, with its key and that key's index`,
          ],
          [`reckoned_${suffix}_bytes`]: [
            a(reckoned),
            `${type}: what \`reembed estimate\` reckons for a vector`,
          ],
          [`index_${suffix}_bytes`]: [a(indexBytes), `the HNSW index of ${type}`],
          [`reckoned_index_${suffix}_bytes`]: [a(reckonedIndex), "what `reembed.hnsw_bytes` reckons for it"],
        } satisfies Record<string, Figure>);
        errors.push(
          { what: `of a column of ${type}`, off: Math.abs((columnBytes - text) / reckoned - 1) },
          { what: `of the index of ${type}`, off: Math.abs(indexBytes / reckonedIndex - 1) },
        );
      }
      Object.assign(figures, await measureState(client, rows));
      return {
        about:
          "Bytes on disk for each row, indexes included, after the table was written once and vacuumed; beside them what is reckoned before a move.",
        data: `Texts of about 600 characters by md5 of the row's number; ${GENERATOR}, seed ${SEED}.`,
        rows,
        figures,
        bars: errors.map(({ what, off }) =>
          atMost(`how far the reckoning ${what} is off, as a share`, off, BOUND),
        ),
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};

interface Bytes {
  readonly columnBytes: number;
  readonly updatedBytes: number;
  readonly ownBytes: number;
  readonly indexBytes: number;
  readonly reckonedIndex: number;
}

async function measure(
  client: Client,
  { type, dimensions }: { type: VectorType; dimensions: number },
  rows: number,
): Promise<Bytes> {
  const column = `extensions.${type}(${dimensions})`;
  await client.query(`
    create table public.own (text_id bigint primary key, embedding ${column});
    create table public.in_column (like public.texts including all, embedding ${column});
    create table public.updated (like public.texts including all, embedding ${column});
    insert into public.updated (content) select content from public.texts order by id`);
  await client.query("vacuum public.updated");
  const { rows: types } = await client.query<{ oid: number }>(
    "select 'extensions.vector'::regtype::oid as oid",
  );
  const vectors = topicVectors(dimensions, SEED);
  for (let stored = 0; stored < rows; stored += CHUNK) {
    const chunk = encodeVectorArray(types[0]?.oid ?? 0, take(vectors, Math.min(CHUNK, rows - stored)));
    for (const statement of [
      `insert into public.own select $2::bigint + n, v::${column} from unnest($1::extensions.vector[]) with ordinality g(v, n)`,
      `insert into public.in_column (content, embedding)
       select t.content, v::${column} from unnest($1::extensions.vector[]) with ordinality g(v, n) join public.texts t on t.id = $2::bigint + n order by n`,
      `update public.updated t set embedding = v::${column} from unnest($1::extensions.vector[]) with ordinality g(v, n) where t.id = $2::bigint + n`,
    ]) {
      await client.query(statement, [chunk, stored]);
    }
  }
  for (const table of ["own", "in_column", "updated"]) await client.query(`vacuum public.${table}`);
  const sizes = {
    columnBytes: await bytesOf(client, "public.in_column"),
    updatedBytes: await bytesOf(client, "public.updated"),
    ownBytes: await bytesOf(client, "public.own"),
  };
  await client.query(
    `create index own_idx on public.own using hnsw (embedding extensions.${type}_cosine_ops)`,
  );
  const { rows: reckoned } = await client.query<{ bytes: number }>(
    "select reembed.hnsw_bytes($1, $2, $3)::float8 as bytes",
    [rows, type, dimensions],
  );
  const indexBytes = await bytesOf(client, "public.own_idx");
  await client.query("drop table public.own, public.in_column, public.updated");
  return { ...sizes, indexBytes, reckonedIndex: reckoned[0]?.bytes ?? 0 };
}

/** What the core keeps of each row: its job while it waits, its record when it is done. */
async function measureState(client: Client, rows: number): Promise<Record<string, Figure>> {
  await client.query(`
    alter table public.texts add column embedding extensions.vector(1), add column embedding_2 extensions.vector(2);
    do $$ begin
      perform reembed.add_space('hash', 'words-and-ngrams', n) from generate_series(1, 2) n;
      perform reembed.add_collection('texts', 'public.texts', array['id']);
      perform reembed.add_version('texts', 'hash/words-and-ngrams@1', 'embedding', 'reembed.texts_input');
      perform reembed.add_version('texts', 'hash/words-and-ngrams@2', 'embedding_2', 'reembed.texts_input');
    end $$;
    update public.texts set embedding = '[1]';
    select reembed.start_loading('texts', 1);
    select reembed.adopt_vectors((reembed.version_numbered('texts', 1)).id);
    select reembed.start_loading('texts', 2)`);
  for (let after: string | null = null, more = true; more; more = after !== null) {
    const { rows: steps }: { rows: { last: string | null }[] } = await client.query(
      "select reembed.enqueue_missing((reembed.version_numbered('texts', 2)).id, $1) ->> 'last' as last",
      [after],
    );
    after = steps[0]?.last ?? null;
  }
  const each = async (table: string) => {
    const { rows: counts } = await client.query<{ count: number }>(
      `select count(*)::int as count from ${table}`,
    );
    if (counts[0]?.count !== rows) throw new Error(`${table} has ${counts[0]?.count} rows, not ${rows}`);
    return rounded((await bytesOf(client, table)) / rows);
  };
  return {
    record_bytes: [
      await each("reembed.records"),
      "the record of a stored vector, with its indexes; one for each version",
    ],
    job_bytes: [
      await each("reembed.jobs"),
      "the job of a row that waits, with its indexes; gone when it is done",
    ],
  };
}

/** On disk, with what belongs to it. */
async function bytesOf(client: Client, relation: string): Promise<number> {
  const { rows } = await client.query<{ bytes: number }>(
    "select pg_total_relation_size($1::regclass)::float8 as bytes",
    [relation],
  );
  return rows[0]?.bytes ?? 0;
}
