/**
 * The news archive at its size: chunks with vectors of 768 dimensions, moved to 3072 in half precision. What is taken from JSON texts, how long status takes,
 * how searches fare by similarity and by age, how fast the rest of the new version is loaded with the old index in place, and what keeping the texts
 * in step costs.
 */
import type { Client } from "pg";
import { type Database, openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { LANES, startLoading, work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { createEmbedder } from "../supabase/functions/_shared/providers.ts";
import { atMost, type Benchmark, interleaved, median, medianFigure, rounded, timed } from "./measure.ts";
import { startPoolProvider } from "./moved-table.ts";

const OLD = 768;
const NEW = 3_072;
const COLLECTION = "article_chunks";
const LATENCY_MS = 150;
const QUERIES = 200;
const STATUS_CALLS = 11;
/** The most rows that are loaded by the engine, and whose vectors stand only as texts: the others are there already. */
const MOST_LOADED = 20_000;
const KEPT_ROWS = 2_000;

/** Directions to make vectors from: 200 centres, and noise of half their length in two parts, so that no two rows are alike. */
const DIRECTIONS = (dimensions: number) => `
  create temporary table centres_${dimensions} as
    select n, (select array_agg(random() - 0.5 order by axis) from generate_series(1, ${dimensions}) axis where n >= 0)::extensions.vector(${dimensions}) as v from generate_series(0, 199) n;
  create temporary table noise_${dimensions} as
    select n, (select array_agg((random() - 0.5) * 0.35 order by axis) from generate_series(1, ${dimensions}) axis where n >= 0)::extensions.vector(${dimensions}) as v from generate_series(0, 502) n;
  alter table centres_${dimensions} add primary key (n);
  alter table noise_${dimensions} add primary key (n);`;

/** The vector of row n. */
const vectorOf = (
  dimensions: number,
) => `(select extensions.l2_normalize(c.v operator(extensions.+) a.v operator(extensions.+) b.v)
  from centres_${dimensions} c, noise_${dimensions} a, noise_${dimensions} b where c.n = row.n % 200 and a.n = row.n % 499 and b.n = row.n * 7 % 503)`;

/** As an archive is found: of the first rows the old vectors stand as texts alone; all but the last have new ones. */
const fill = (rows: number, loaded: number) => `
  select setseed(0.5);
  ${DIRECTIONS(OLD)}
  ${DIRECTIONS(NEW)}
  drop index public.article_chunks_embedding_vector_hnsw, public.article_chunks_embedding_3072_hnsw;
  alter table public.article_chunks disable trigger user;
  insert into public.articles (id, title, url, published_at)
    select n, 'Article ' || n, 'https://news.example/' || n, now() - n % 1000 * interval '1 day' from generate_series(0, ${Math.ceil(rows / 20)}) n;
  insert into public.article_chunks (id, article_id, chunk_index, text, title, url, embedding, embedding_vector, embedding_3072)
    select row.n, row.n / 20, row.n % 20, repeat(md5(row.n::text) || ' ', 12), 'Article ' || row.n / 20, 'https://news.example/' || row.n / 20,
           case when row.n <= ${loaded} then ${vectorOf(OLD)}::text end, case when row.n > ${loaded} then ${vectorOf(OLD)} end,
           case when row.n <= ${rows - loaded} then ${vectorOf(NEW)}::extensions.halfvec(${NEW}) end
      from generate_series(1, ${rows}) row(n);
  alter table public.article_chunks enable trigger user;
  update reembed.versions set enqueued_at = null, adopts = true where collection_id = (select id from reembed.collections where name = '${COLLECTION}');`;

/** Two tables alike, whose vectors are written as a worker writes them: in the one the text follows. */
const KEPT = ["kept", "plain"]
  .map(
    (table) => `
  create table public.${table} (id bigint primary key, body text, legacy text, embedding extensions.vector(${OLD}));
  create function reembed.${table}_input(r public.${table}) returns text language sql immutable set search_path = '' as 'select r.body';
  begin;
  select reembed.add_collection('${table}', 'public.${table}', array['id']);
  select reembed.add_version('${table}', 'ollama/embeddinggemma@${OLD}', 'embedding', 'reembed.${table}_input');
  commit;
  select reembed.start_loading('${table}', 1), reembed.finish_enqueueing('${table}', 1);
  drop index if exists public.${table}_embedding_hnsw;`,
  )
  .join("");

export const news: Benchmark = async (server, rows = 200_000) => {
  const loaded = Math.min(MOST_LOADED, Math.ceil(rows / 10));
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const provider = await startPoolProvider(NEW, LATENCY_MS);
  const db = await openDatabase(url, LANES);
  try {
    return await withClient(url, async (client) => {
      await client.query("set maintenance_work_mem = '2GB'; set statement_timeout = 0");
      await client.query(fill(rows, loaded));
      const queries = (dimensions: number) => queryVectors(client, rows, dimensions);
      const [oldQueries, newQueries] = [await queries(OLD), await queries(NEW)];
      await client.query("analyze public.article_chunks; analyze public.articles");

      const texts = await timed(() => takeTexts(client, loaded));
      const taken = await timed(() => startLoading(db, { collection: COLLECTION, version: 1 }, 500));
      await expectCount(client, 1, rows);
      const oldIndex = await timed(() => buildIndex(client, 1));
      await startLoading(db, { collection: COLLECTION, version: 2 }, 2_000);
      await client.query("vacuum analyze public.article_chunks");

      const status = await samples(STATUS_CALLS, () => client.query("select reembed.status()"));
      const old = await searches(client, "", oldQueries);
      const load = await timed(async () => {
        const report = await work(
          db,
          (space) => createEmbedder(space, { openai: { apiKey: "none", baseURL: provider.baseURL } }),
          { collection: COLLECTION, version: 2, batch: 500, lanes: LANES },
        );
        if (report.done !== loaded) throw new Error(`not all was stored: ${JSON.stringify(report)}`);
      });
      await expectCount(client, 2, rows);
      const newIndex = await timed(() => buildIndex(client, 2));
      await client.query("vacuum analyze public.article_chunks");
      const moved = await searches(client, "_v2", newQueries);
      const kept = await keepInStep(client, db);

      return {
        about: `${rows} chunks, with both HNSW indexes: of vector(${OLD}), and of halfvec(${NEW}). The new version's last ${loaded} rows are loaded by the engine, with the old index in place, from a provider that answers after ${LATENCY_MS} ms; the old vectors of the first ${loaded} stood only as JSON texts.`,
        data: "Texts of about 400 characters by md5 of the row's number; synthetic unit vectors around 200 centres, added up from 200 + 503 directions of PostgreSQL's random(), setseed(0.5); those that the engine loads from a pool of 64.",
        rows,
        figures: {
          taken_from_texts_rows_per_second: [
            rounded((loaded / texts) * 1000),
            "old vectors that stood as JSON texts, read, checked and stored, 500 rows a transaction; nothing is bought",
          ],
          taken_as_vectors_rows_per_second: [
            rounded(((rows - loaded) / taken) * 1000),
            "old vectors that stood as vectors, taken in the same way",
          ],
          old_index_seconds: [
            rounded(oldIndex / 1000),
            `the HNSW index of vector(${OLD}) is built, with 2 GB`,
          ],
          new_index_seconds: [rounded(newIndex / 1000), `that of halfvec(${NEW})`],
          status_ms: medianFigure(status, "reembed.status(), while the new version loads"),
          ...searchFigures("old", `vector(${OLD})`, old),
          ...searchFigures("new", `halfvec(${NEW})`, moved),
          load_rows_per_second: [
            rounded((loaded / load) * 1000),
            "the engine stores new vectors, with the old index in place and none on the new ones",
          ],
          stored_with_its_text_ms: medianFigure(
            kept.kept,
            `a vector of ${OLD} dimensions is stored where the text column follows, in a table without any index`,
            KEPT_ROWS,
          ),
          stored_alone_ms: medianFigure(kept.plain, "the same where no text follows", KEPT_ROWS),
        },
        bars: [
          atMost("milliseconds that status takes", median(status), 300),
          atMost("milliseconds that 95 of 100 searches of the old vectors take", p95(old.match), 25),
          atMost("milliseconds that 95 of 100 searches of the new vectors take", p95(moved.match), 25),
          // It reads twenty times as many rows as a search by similarity alone: the candidates.
          atMost(
            "time of a search by similarity and age, relative to similarity alone",
            Math.max(median(old.recent) / median(old.match), median(moved.recent) / median(moved.match)),
            5,
          ),
        ],
      };
    });
  } finally {
    provider.process.kill();
    await db.close();
    await dropDatabase(server, name);
  }
};

async function queryVectors(client: Client, rows: number, dimensions: number): Promise<string[]> {
  const { rows: found } = await client.query<{ v: string }>(
    `select ${vectorOf(dimensions)}::text as v from generate_series(${rows + 1}, ${rows + QUERIES}) row(n)`,
  );
  return found.map(({ v }) => v);
}

/** The first rows, whose vectors stand as texts, 500 a transaction as `reembed adopt` does. */
async function takeTexts(client: Client, loaded: number): Promise<void> {
  for (let after: string | null = null, left = loaded; left > 0; left -= 500) {
    const { rows }: { rows: { step: { last: string | null } }[] } = await client.query(
      "select reembed.enqueue_missing((reembed.version_numbered($1, 1)).id, $2, $3) as step",
      [COLLECTION, after, Math.min(500, left)],
    );
    after = rows[0]?.step.last ?? null;
  }
}

async function expectCount(client: Client, version: number, wanted: number): Promise<void> {
  const { rows } = await client.query<{ n: number }>(
    "select count(*)::int as n from reembed.records r where r.version_id = (reembed.version_numbered($1, $2)).id",
    [COLLECTION, version],
  );
  if (rows[0]?.n !== wanted) throw new Error(`v${version} has ${rows[0]?.n} records instead of ${wanted}`);
}

async function buildIndex(client: Client, version: number): Promise<void> {
  const { rows } = await client.query<{ sql: string }>("select reembed.index_sql($1, $2, false) as sql", [
    COLLECTION,
    version,
  ]);
  await client.query(rows[0]?.sql ?? "");
}

async function samples(count: number, call: (n: number) => Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  for (let n = 0; n < count; n += 1) times.push(await timed(() => call(n)));
  return times;
}

interface Searches {
  readonly match: readonly number[];
  readonly recent: readonly number[];
}

/** Each query once to warm the caches, then by similarity alone, and by age, too. */
async function searches(client: Client, suffix: string, vectors: readonly string[]): Promise<Searches> {
  const match = (n: number) =>
    client.query(`select id from public.match_${COLLECTION}${suffix}($1, null, 5)`, [vectors[n]]);
  const recent = (n: number) =>
    client.query(`select id from public.recent_${COLLECTION}${suffix}($1, 5)`, [vectors[n]]);
  await samples(vectors.length, recent);
  return { match: await samples(vectors.length, match), recent: await samples(vectors.length, recent) };
}

const p95 = (times: readonly number[]) =>
  [...times].sort((a, b) => a - b)[Math.ceil(times.length * 0.95) - 1] ?? Number.NaN;

const searchFigures = (which: string, type: string, { match, recent }: Searches) =>
  ({
    [`${which}_search_ms`]: medianFigure(match, `a search of ${type} through its RPC, 5 rows`),
    [`${which}_search_p95_ms`]: [rounded(p95(match)), "95 of 100 of these take at most so long"],
    [`${which}_recent_ms`]: medianFigure(recent, "the same by similarity and age, of 100 candidates"),
    [`${which}_recent_p95_ms`]: [rounded(p95(recent)), "95 of 100 of these take at most so long"],
  }) as const;

/** Stores the same vectors in a table whose texts follow, and in one whose texts do not. */
async function keepInStep(client: Client, db: Database): Promise<Record<"kept" | "plain", number[]>> {
  await client.query(KEPT);
  await db.query("select reembed.set_text_column('kept', 1, 'legacy', true)");
  const store = (table: string) => async () => {
    await client.query(
      `begin; select set_config('reembed.completing', (reembed.version_numbered('${table}', 1)).id::text, true)`,
    );
    await client.query(
      `update public.${table} t set embedding = ${vectorOf(OLD)} from (select id as n from public.${table}) row where row.n = t.id`,
    );
    await client.query("commit");
  };
  const rows = (table: string) =>
    `truncate public.${table}; insert into public.${table} (id, body) select n, 'body ' || n from generate_series(1, ${KEPT_ROWS}) n;`;
  return interleaved({ kept: store("kept"), plain: store("plain") }, 5, () =>
    client.query(rows("kept") + rows("plain")),
  );
}
