/**
 * How fast a version is loaded: the engine, as `reembed backfill` runs it, against a raw binary `update ... from unnest` of vectors of the same
 * width, the best of 1, 2 and 4 connections. Beside them what people run today: one request and one update a row (a sample, extrapolated), and
 * Supabase's guide as it is documented (10 rows, one request each, 10 requests a tick of 10 s: computed, not run).
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Pool } from "pg";
import { encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { LANES, startLoading, work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import type { Embedder, Space } from "../supabase/functions/_shared/embedder.ts";
import { createEmbedder } from "../supabase/functions/_shared/providers.ts";
import { type Benchmark, median, round2 } from "./measure.ts";

const DIMENSIONS = 1536;
/** Of the vectors that the table is searched by meanwhile. */
const OLD_DIMENSIONS = 384;
const LATENCY_MS = 150;
/** Rows a request, as `reembed backfill` asks by default. */
const BATCH = 500;
/** Rows of the sample of one request and one update a row. */
const SAMPLE = 20;
/** 10 rows a request-tick, of which there are 10 in a tick of 10 seconds: what the guide's cron, batch size and concurrency allow. */
const GUIDE_ROWS_PER_SECOND = 10;
const ROUNDS = 3;
const TARGET = { collection: "backfill_bench", version: 2 };

const SCHEMA = `
  create table public.filled (id bigint generated always as identity primary key, title text not null, content text not null,
    embedding extensions.vector(${OLD_DIMENSIONS}));
  create table public.backfill_bench (like public.filled including all, embedding_1536 extensions.vector(${DIMENSIONS}));
  create table public.raw_bench (like public.backfill_bench including all);
  create function reembed.backfill_bench_input(r public.backfill_bench) returns text language sql immutable set search_path = ''
    as $$ select r.title || E'\\n\\n' || r.content $$;
  select reembed.add_space('openai', 'text-embedding-3-small', ${DIMENSIONS});
  select reembed.add_space('hash', 'words-and-ngrams', ${OLD_DIMENSIONS});
  select reembed.add_collection('backfill_bench', 'public.backfill_bench', array['id', 'title']);
  select reembed.add_version('backfill_bench', 'hash/words-and-ngrams@${OLD_DIMENSIONS}', 'embedding', 'reembed.backfill_bench_input');
  select reembed.add_version('backfill_bench', 'openai/text-embedding-3-small@${DIMENSIONS}', 'embedding_1536', 'reembed.backfill_bench_input');`;

/** About 400 characters a row, all different: no text can be copied from another row. The old vectors stand around a hundred centres. */
const source = (rows: number) => `
  select setseed(0.5);
  create temporary table centres on commit drop as
    select c, array_agg(random() - 0.5 order by axis) as at from generate_series(0, 99) c, generate_series(1, ${OLD_DIMENSIONS}) axis group by c;
  insert into public.filled (title, content, embedding)
  select 'Section ' || n, repeat(md5(n::text) || ' ', 12),
         (select array_agg(a + (random() - 0.5) * 0.4) from unnest(at) a where n > 0)::extensions.vector(${OLD_DIMENSIONS})
    from generate_series(1, ${rows}) n join centres on c = n % 100 order by n`;

/** The table as a move finds it: searched by its old vectors, through their index. */
const fill = (table: string) => `
  drop index if exists ${table}_old_idx;
  truncate public.${table} restart identity;
  insert into public.${table} (title, content, embedding) select title, content, embedding from public.filled order by id;
  create index ${table}_old_idx on public.${table} using hnsw (embedding extensions.vector_cosine_ops);
  analyze public.${table}`;

export const backfill: Benchmark = async (server, rows = 20_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const provider = spawn(
    process.execPath,
    [fileURLToPath(new URL("pool-provider.ts", import.meta.url)), String(DIMENSIONS), String(LATENCY_MS)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const url = databaseUrl(server, name, "postgres");
  const pool = new Pool({ connectionString: url, max: 4 });
  // The database is dropped while the last connections are closing.
  pool.on("error", () => {});
  const db = await openDatabase(url, LANES);
  try {
    const [line] = (await once(provider.stdout, "data")) as [Buffer];
    const baseURL = line.toString().trim();
    const embedderFor = (space: Space): Embedder =>
      createEmbedder(space, { openai: { apiKey: "none", baseURL } });
    await pool.query(SCHEMA);
    await pool.query(source(rows));
    const { rows: facts } = await pool.query<{ server: string; oid: number }>(
      "select 'PostgreSQL ' || current_setting('server_version') as server, 'extensions.vector'::regtype::oid as oid",
    );
    const { server: version = "", oid = 0 } = facts[0] ?? {};

    const raw: Record<number, number[]> = { 1: [], 2: [], 4: [] };
    const engine: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const connections of [1, 2, 4]) {
        await pool.query(fill("raw_bench"));
        raw[connections]?.push(await timed(() => rawUpdate(pool, oid, rows, connections)));
      }
      await pool.query("truncate reembed.records, reembed.jobs, reembed.usage");
      await pool.query(fill("backfill_bench"));
      // As a live application's: every update of a row passes the triggers of both versions.
      await pool.query(
        "select reembed.start_loading('backfill_bench', 1), reembed.adopt_vectors((reembed.version_numbered('backfill_bench', 1)).id)",
      );
      await startLoading(db, TARGET);
      engine.push(
        await timed(async () => {
          const report = await work(db, embedderFor, { ...TARGET, batch: BATCH, lanes: LANES });
          if (report.done !== rows) throw new Error(`not all was stored: ${JSON.stringify(report)}`);
        }),
      );
    }
    const best = Math.min(...Object.values(raw).map(median));
    const engineMs = median(engine);
    const rowByRowMs = (await timed(() => oneByOne(pool, embedderFor))) * (rows / SAMPLE);
    const guideMs = (rows / GUIDE_ROWS_PER_SECOND) * 1000;
    return {
      server: version,
      rows,
      figures: {
        engine_ms: round2(engineMs),
        engine_rows_per_second: round2((rows / engineMs) * 1000),
        raw_1_connection_ms: round2(median(raw[1] ?? [])),
        raw_2_connections_ms: round2(median(raw[2] ?? [])),
        raw_4_connections_ms: round2(median(raw[4] ?? [])),
        one_request_and_update_a_row_ms_extrapolated: round2(rowByRowMs),
        times_one_request_and_update_a_row: round2(rowByRowMs / engineMs),
        supabase_guide_ms_computed: guideMs,
        times_supabase_guide: round2(guideMs / engineMs),
      },
      bars: [
        {
          name: "speed relative to a raw binary update",
          value: round2(best / engineMs),
          bound: 0.8,
          holds: best / engineMs >= 0.8,
        },
      ],
    };
  } finally {
    provider.kill();
    await Promise.all([db.close(), pool.end()]);
    await dropDatabase(server, name);
  }
};

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** Nothing but the writing: vectors that are there already, as many rows a statement as the engine asks for, over so many connections. */
async function rawUpdate(pool: Pool, oid: number, rows: number, connections: number): Promise<void> {
  const vectors = Array.from({ length: BATCH }, (_, at) =>
    Array.from({ length: DIMENSIONS }, (_, axis) => Math.sin((at + 1) * (axis + 1))),
  );
  const encoded = encodeVectorArray(oid, vectors);
  let next = 1;
  const lane = async () => {
    for (let from = next; from <= rows; from = next) {
      next += BATCH;
      const ids = Array.from({ length: BATCH }, (_, at) => from + at);
      await pool.query(
        `update public.raw_bench t set embedding_1536 = g.vector from unnest($1::bigint[], $2::extensions.vector[]) g(id, vector) where t.id = g.id`,
        [ids, encoded],
      );
    }
  };
  await Promise.all(Array.from({ length: connections }, lane));
}

/** As a script does it that asks for one row's vector and writes it, row after row. */
async function oneByOne(pool: Pool, embedderFor: (space: Space) => Embedder): Promise<void> {
  const embedder = embedderFor({
    id: `openai/text-embedding-3-small@${DIMENSIONS}`,
    provider: "openai",
    model: "text-embedding-3-small",
    dimensions: DIMENSIONS,
    query_prefix: "",
    document_prefix: "",
    max_input_tokens: 8192,
  });
  const { rows } = await pool.query<{ id: string; text: string }>(
    "select id, title || E'\\n\\n' || content as text from public.raw_bench order by id limit $1",
    [SAMPLE],
  );
  for (const { id, text } of rows) {
    const { vectors } = await embedder.embed([text], { purpose: "document" });
    await pool.query("update public.raw_bench set embedding_1536 = $2 where id = $1", [
      id,
      JSON.stringify(vectors[0]),
    ]);
  }
}
