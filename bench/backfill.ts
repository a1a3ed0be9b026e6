/**
 * How fast a version is loaded into a table as a move finds it: the engine, as `reembed backfill` runs it, against a raw binary
 * `update ... from unnest` of vectors of the same width, in the order of the key, the best of 1, 2 and 4 connections. How many rows kept their page is
 * said beside it: that is what the engine gains on the raw update. Beside them what people run today: one request and one update a row (a sample, extrapolated), and
 * Supabase's guide as it is documented (10 rows, one request each, 10 requests a tick of 10 s: computed, not run).
 */
import { Pool } from "pg";
import { encodeVectorArray } from "../scripts/lib/binary-vectors.ts";
import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { LANES, startLoading, work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import type { Embedder, Space } from "../supabase/functions/_shared/embedder.ts";
import { createEmbedder } from "../supabase/functions/_shared/providers.ts";
import { atLeast, type Benchmark, median, medianFigure, rounded, timed } from "./measure.ts";
import { ADOPT_OLD, DIMENSIONS, fill, SCHEMA, source, startPoolProvider, TABLE } from "./moved-table.ts";

const LATENCY_MS = 150;
/** Rows a request, as `reembed backfill` asks by default. */
const BATCH = 500;
/** Rows of the sample of one request and one update a row. */
const SAMPLE = 20;
/** 10 rows a request-tick, of which there are 10 in a tick of 10 seconds: what the guide's cron, batch size and concurrency allow. */
const GUIDE_ROWS_PER_SECOND = 10;
const ROUNDS = 3;
const TARGET = { collection: TABLE, version: 2 };

export const backfill: Benchmark = async (server, rows = 20_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const provider = await startPoolProvider(DIMENSIONS, LATENCY_MS);
  const url = databaseUrl(server, name, "postgres");
  const pool = new Pool({ connectionString: url, max: 4 });
  // The database is dropped while the last connections are closing.
  pool.on("error", () => {});
  const db = await openDatabase(url, LANES);
  try {
    const embedderFor = (space: Space): Embedder =>
      createEmbedder(space, { openai: { apiKey: "none", baseURL: provider.baseURL } });
    await pool.query(SCHEMA);
    await pool.query(`create table public.raw_bench (like public.${TABLE} including all)`);
    await pool.query(source(rows));
    const { rows: facts } = await pool.query<{ oid: number }>(
      "select 'extensions.vector'::regtype::oid as oid",
    );
    const oid = facts[0]?.oid ?? 0;

    const raw: Record<number, number[]> = { 1: [], 2: [], 4: [] };
    const engine: number[] = [];
    const kept: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const connections of [1, 2, 4]) {
        await pool.query(fill("raw_bench"));
        raw[connections]?.push(await timed(() => rawUpdate(pool, oid, rows, connections)));
      }
      await pool.query("truncate reembed.records, reembed.jobs, reembed.usage");
      await pool.query(fill(TABLE));
      await pool.query(ADOPT_OLD);
      await startLoading(db, TARGET);
      const page = await lastPage(pool);
      engine.push(
        await timed(async () => {
          const report = await work(db, embedderFor, { ...TARGET, batch: BATCH, lanes: LANES });
          if (report.done !== rows) throw new Error(`not all was stored: ${JSON.stringify(report)}`);
        }),
      );
      kept.push((await keptUpTo(pool, page)) / rows);
    }
    const best = Math.min(...Object.values(raw).map(median));
    const engineMs = median(engine);
    const rowByRowMs = (await timed(() => oneByOne(pool, embedderFor))) * (rows / SAMPLE);
    const guideMs = (rows / GUIDE_ROWS_PER_SECOND) * 1000;
    const rate = (ms: number) => (rows / ms) * 1000;
    return {
      about: `A version of ${DIMENSIONS} dimensions is loaded into a table that is searched by its old vectors: by the engine, by a raw binary update, and as people do it today. The provider answers after ${LATENCY_MS} ms.`,
      data: `Texts of about 400 characters by md5 of the row's number; old vectors around 100 centres, by source() of bench/moved-table.ts, setseed(0.5); new ones from a pool of 64.`,
      rows,
      figures: {
        engine_ms: medianFigure(
          engine,
          "the engine, as `reembed backfill` runs it, until every row is stored",
        ),
        engine_rows_per_second: [rounded(rate(engineMs)), "the same as a rate"],
        share_of_rows_that_kept_their_page: [
          rounded(median(kept)),
          "rows that the engine stored on the page they were on, so that no index of the table was written",
        ],
        raw_1_connection_ms: medianFigure(
          raw[1] ?? [],
          "vectors that are there already, written in the order of the key by one connection",
        ),
        raw_2_connections_ms: medianFigure(raw[2] ?? [], "the same by two connections"),
        raw_4_connections_ms: medianFigure(raw[4] ?? [], "the same by four connections"),
        one_request_and_update_a_row_ms_extrapolated: [
          rounded(rowByRowMs),
          `a request and an update for each row, one after another: ${SAMPLE} rows measured, the rest reckoned`,
        ],
        times_one_request_and_update_a_row: [
          rounded(rowByRowMs / engineMs),
          "how much faster the engine is than that",
        ],
        supabase_guide_ms_computed: [
          guideMs,
          `Supabase's guide to automatic embeddings at its documented ${GUIDE_ROWS_PER_SECOND} rows a second: reckoned, not run`,
        ],
        times_supabase_guide: [rounded(guideMs / engineMs), "how much faster the engine is than that"],
      },
      bars: [atLeast("speed relative to a raw binary update", best / engineMs, 0.8)],
      charts: [
        {
          kind: "bars",
          name: "backfill",
          title: `Loading ${rows} vectors of ${DIMENSIONS} dimensions, rows a second`,
          bars: [
            { label: "the engine", value: rounded(rate(engineMs)), ours: true },
            { label: "raw update, 1 connection", value: rounded(rate(median(raw[1] ?? []))) },
            { label: "raw update, 2 connections", value: rounded(rate(median(raw[2] ?? []))) },
            { label: "raw update, 4 connections", value: rounded(rate(median(raw[4] ?? []))) },
            { label: "a request and an update a row", value: rounded(rate(rowByRowMs)) },
            { label: "Supabase's guide (reckoned)", value: GUIDE_ROWS_PER_SECOND },
          ],
        },
      ],
    };
  } finally {
    provider.process.kill();
    await Promise.all([db.close(), pool.end()]);
    await dropDatabase(server, name);
  }
};

/** The last page of the table that has a row. */
async function lastPage(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ page: number }>(
    `select max((ctid::text::point)[0])::int as page from public.${TABLE}`,
  );
  return rows[0]?.page ?? 0;
}

/** How many rows stand on the pages that the table had before: they kept theirs, since only what finds no room goes to a new one. */
async function keptUpTo(pool: Pool, page: number): Promise<number> {
  const { rows } = await pool.query<{ kept: number }>(
    `select count(*)::int as kept from public.${TABLE} where (ctid::text::point)[0] <= $1`,
    [page],
  );
  return rows[0]?.kept ?? 0;
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
