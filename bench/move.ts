/**
 * A whole move, loading, index and all, until the version is ready, against what people do by hand: the index first, then a row at a time, its vector
 * as text. Free vectors for both, made from the text. Of the rows by hand only the first fifth is written and the rest reckoned as if it were as
 * fast; it would be slower, since an index costs the more the more it holds.
 */
import { Client } from "pg";
import { openDatabase } from "../scripts/lib/connection.ts";
import { seededRandom } from "../scripts/lib/evaluation/statistics.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { advance, LANES, startLoading, work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { makeEmbedder, type Space } from "../supabase/functions/_shared/embedder.ts";
import { atLeast, type Benchmark, rounded } from "./measure.ts";
import { ADOPT_OLD, DIMENSIONS, fill, SCHEMA, source, TABLE } from "./moved-table.ts";

const MAINTENANCE_WORK_MEM_MB = 2048;
const CENTRES = 100;
const TARGET = { collection: TABLE, version: 2 };

export const move: Benchmark = async (server, rows = 50_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const client = new Client({ connectionString: url });
  // The database is dropped while the connection is closing.
  client.on("error", () => {});
  await client.connect();
  await client.query(`alter database ${name} set maintenance_work_mem = '${MAINTENANCE_WORK_MEM_MB}MB'`);
  const db = await openDatabase(url, LANES);
  try {
    await client.query(SCHEMA);
    await client.query(source(rows));
    await client.query(fill(TABLE));
    await client.query(ADOPT_OLD);

    const began = performance.now();
    await startLoading(db, TARGET);
    const embedder = (space: Space) =>
      makeEmbedder(space, async (texts) => ({
        vectors: texts.map(vectorOf),
        usage: { tokens: texts.length },
      }));
    const report = await work(db, embedder, { ...TARGET, batch: 500, lanes: LANES });
    if (report.done !== rows) throw new Error(`not all was stored: ${JSON.stringify(report)}`);
    const loaded = performance.now();
    const state = await advance(db, TARGET);
    if (state !== "ready") throw new Error(`the version is ${state}, not ready`);
    const ready = performance.now();

    const sample = Math.ceil(rows / 5);
    await client.query(`
      create table public.by_hand (like public.${TABLE} including defaults);
      alter table public.by_hand add primary key (id);
      insert into public.by_hand (id, title, content, embedding) select id, title, content, embedding from public.filled;
      create index on public.by_hand using hnsw (embedding extensions.vector_cosine_ops);
      create index on public.by_hand using hnsw (embedding_1536 extensions.vector_cosine_ops)`);
    const { rows: texts } = await client.query<{ id: string; text: string }>(
      "select id, title || E'\\n\\n' || content as text from public.by_hand order by id limit $1",
      [sample],
    );
    const byHandBegan = performance.now();
    for (const { id, text } of texts) {
      await client.query({
        name: "by hand",
        text: "update public.by_hand set embedding_1536 = $2 where id = $1",
        values: [id, JSON.stringify(vectorOf(text))],
      });
    }
    const byHandMs = ((performance.now() - byHandBegan) * rows) / sample;

    const seconds = (ms: number) => rounded(ms / 1000);
    return {
      about:
        "A whole move until the new version is ready, loading and index, against what people do by hand: the index first, then a row at a time, its vector as text. The provider takes no time.",
      data: `Texts of about 400 characters by md5 of the row's number; old vectors around 100 centres, by source() of bench/moved-table.ts, setseed(0.5); new ones around ${CENTRES} centres, seeded by each text.`,
      rows,
      figures: {
        maintenance_work_mem_mb: [MAINTENANCE_WORK_MEM_MB, "of the database during the move"],
        load_ms: [rounded(loaded - began), "until every row's new vector is stored"],
        index_ms: [rounded(ready - loaded), "building the new index after that"],
        move_ms: [rounded(ready - began), "both: until the version is ready"],
        index_first_row_by_row_ms_extrapolated: [
          rounded(byHandMs),
          "by hand: a fifth of the rows measured, the rest reckoned as if it were as fast",
        ],
        index_first_row_by_row_rows_per_second: [rounded((rows / byHandMs) * 1000), "the same as a rate"],
      },
      bars: [atLeast("times as fast as index first, row by row", byHandMs / (ready - began), 4)],
      charts: [
        {
          kind: "bars",
          name: "move",
          title: `A move of ${rows} rows until the new version is ready, seconds`,
          bars: [
            { label: "loading", value: seconds(loaded - began), ours: true },
            { label: "the index", value: seconds(ready - loaded), ours: true },
            { label: "the whole move", value: seconds(ready - began), ours: true },
            { label: "by hand, index first", value: seconds(byHandMs) },
          ],
        },
      ],
    };
  } finally {
    await Promise.all([db.close(), client.end()]);
    await dropDatabase(server, name);
  }
};

const centres = Array.from({ length: CENTRES }, (_, centre) => {
  const random = seededRandom(centre + 1);
  return Array.from({ length: DIMENSIONS }, () => random() - 0.5);
});

/** A vector near one of the centres, always the same one for a text. */
function vectorOf(text: string): number[] {
  let seed = 7;
  for (let at = 0; at < text.length; at += 1) seed = (Math.imul(seed, 31) + text.charCodeAt(at)) | 0;
  const random = seededRandom(seed);
  return (centres[Math.abs(seed) % CENTRES] ?? []).map((value) => value + (random() - 0.5) * 0.4);
}
