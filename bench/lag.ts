/**
 * How long an edit waits while a million rows of a backfill do: an application edits rows all the while, and the worker is woken by ticks, as pg_cron wakes the
 * backfill function. An edit's lag is the time from the statement that made it to the end of its job, in ticks. The waiting jobs are made by
 * SQL. A slice ends before the next tick begins, so that an edit may come when nobody works.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Database, openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { type Embedder, makeEmbedder, type Space } from "../supabase/functions/_shared/embedder.ts";
import { type Benchmark, below, rounded } from "./measure.ts";

/** As `reembed.schedule('2 seconds')` pokes. A shorter tick is harder to keep. */
const TICK_MS = 2_000;
/** As the backfill function has them. */
const LANES = 2;
const BATCH = 100;
const LATENCY_MS = 150;
const EDITS_PER_SECOND = 10;
const DIMENSIONS = 64;
const BOUND_TICKS = 2;

/** Rows that wait for their first vector in a version that is being loaded. */
const schema = (rows: number) => `
  create table public.lag_bench (id bigint generated always as identity primary key, content text not null, embedding extensions.vector(${DIMENSIONS}));
  create function reembed.lag_bench_input(r public.lag_bench) returns text language sql immutable set search_path = '' as $$ select r.content $$;
  do $$ begin
    perform reembed.add_space('bench', 'fake', ${DIMENSIONS});
    perform reembed.add_collection('lag_bench', 'public.lag_bench', array['id']);
    perform reembed.add_version('lag_bench', 'bench/fake@${DIMENSIONS}', 'embedding', 'reembed.lag_bench_input');
  end $$;
  insert into public.lag_bench (content) select n || ' ' || repeat(md5(n::text) || ' ', 6) from generate_series(1, ${rows}) n;
  select reembed.start_loading('lag_bench', 1);
  insert into reembed.jobs (version_id, row_id, priority, run_at)
  select v.id, t.id::text, 1, now() - interval '1 hour' + t.id * interval '1 millisecond'
    from public.lag_bench t, reembed.version_numbered('lag_bench', 1) v;
  select reembed.finish_enqueueing('lag_bench', 1);
  create table public.edited (id bigint primary key, at timestamptz not null)`;

/** Answers after a provider's latency. */
const embedderFor = (space: Space): Embedder =>
  makeEmbedder(space, async (texts) => {
    await delay(LATENCY_MS);
    const vectors = texts.map((text) =>
      Array.from({ length: DIMENSIONS }, (_, axis) => Math.sin((text.length + 1) * (axis + 1))),
    );
    return { vectors, usage: { tokens: texts.length } };
  });

export const lag: Benchmark = async (server, rows = 1_000_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const [db, app] = [await openDatabase(url, LANES), await openDatabase(url, 1)];
  try {
    await db.query(schema(rows));
    await db.query("analyze");
    const ticks = rows < 100_000 ? 4 : 12;
    const began = performance.now();
    // The last ticks are for what was edited before them.
    const editing = editRows(app, rows, began + (ticks - 2) * TICK_MS);
    editing.catch(() => {});
    let worked = 0;
    for (let tick = 0; tick < ticks; tick += 1) {
      await delay(Math.max(0, began + tick * TICK_MS - performance.now()));
      const report = await work(db, embedderFor, {
        lanes: LANES,
        batch: BATCH,
        budgetMs: TICK_MS - 2 * LATENCY_MS,
      });
      worked += report.done;
    }
    await editing;
    const [measured] = await app.query<Measured>(
      `select count(*)::int as edits, (count(*) filter (where x.is_done))::int as done,
              percentile_cont(0.5) within group (order by x.ms) as p50, percentile_cont(0.95) within group (order by x.ms) as p95, max(x.ms)::float8 as most,
              (select count(*)::int from reembed.jobs where priority = 1) as waiting
         from (select (extract(epoch from coalesce(r.embedded_at, clock_timestamp()) - e.at) * 1000)::float8 as ms, r.row_id is not null as is_done
                 from public.edited e
                 left join reembed.records r on r.version_id = (reembed.version_numbered('lag_bench', 1)).id and r.row_id = e.id::text and r.embedded_at >= e.at) x`,
    );
    if (measured === undefined || measured.edits === 0) throw new Error("nothing was edited");
    return {
      about: `How long an edit waits for its vector while the rows of a backfill do: ${EDITS_PER_SECOND} edits a second, the worker woken by ticks. The provider answers after ${LATENCY_MS} ms.`,
      data: "Texts of about 200 characters by md5 of the row's number; no seed.",
      rows,
      figures: {
        tick_ms: [TICK_MS, "how often the worker is woken"],
        ticks: [ticks, "how often it was woken"],
        edits: [measured.edits, "rows that were edited meanwhile"],
        edits_done: [measured.done, "edits whose vector was stored in the end"],
        rows_embedded: [worked, "all rows that the worker stored"],
        backfill_jobs_left: [measured.waiting, "rows of the backfill that wait still"],
        lag_p50_ms: [rounded(measured.p50), "from an edit's statement to its stored vector, the median"],
        lag_p95_ms: [rounded(measured.p95), "95 of 100 edits waited at most so long"],
        lag_most_ms: [rounded(measured.most), "the longest"],
      },
      bars: [below("ticks that 95 of 100 edits wait at most", measured.p95 / TICK_MS, BOUND_TICKS)],
    };
  } finally {
    await Promise.all([db.close(), app.close()]);
    await dropDatabase(server, name);
  }
};

interface Measured {
  readonly edits: number;
  readonly done: number;
  readonly p50: number;
  readonly p95: number;
  readonly most: number;
  readonly waiting: number;
}

/** Edits a row at a time until then, each another one, all over the table, and notes when. */
async function editRows(app: Database, rows: number, until: number): Promise<void> {
  for (let edit = 0; performance.now() < until; edit += 1) {
    await app.query(
      `with edited as (update public.lag_bench set content = content || '!' where id = $1 returning id)
       insert into public.edited select id, clock_timestamp() from edited on conflict do nothing`,
      [((edit * 7_919) % rows) + 1],
    );
    await delay(1000 / EDITS_PER_SECOND);
  }
}
