/**
 * How long `reembed.status()` takes while a million rows wait: at the start of a move (a job for every row in the new version), and halfway (half of
 * the rows done, some edited, some failed, some leased). Both after a vacuum, as autovacuum makes one within minutes; the first is also timed before it.
 */
import type { Client } from "pg";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { type Benchmark, below, median, medianFigure, timed } from "./measure.ts";

const CALLS = 11;
const BOUND_MS = 300;

const SCHEMA = `
  create table public.status_bench (id bigint generated always as identity primary key, content text not null,
    embedding extensions.vector(384), embedding_1536 extensions.vector(1536));
  create function reembed.status_bench_input(r public.status_bench) returns text language sql immutable set search_path = '' as $$ select r.content $$;
  do $$ begin
    perform reembed.add_space('hash', 'words-and-ngrams', 384), reembed.add_space('hash', 'words-and-ngrams', 1536);
    perform reembed.add_collection('status_bench', 'public.status_bench', array['id']);
    perform reembed.add_version('status_bench', 'hash/words-and-ngrams@384', 'embedding', 'reembed.status_bench_input');
    perform reembed.add_version('status_bench', 'hash/words-and-ngrams@1536', 'embedding_1536', 'reembed.status_bench_input');
  end $$;`;

const version = (number: number) => `(select id from reembed.version_numbered('status_bench', ${number}))`;

/** A record of v1 and a job of v2 for every row: no vector is needed to count them. */
const begin = (rows: number) => `
  insert into public.status_bench (content) select md5(n::text) from generate_series(1, ${rows}) n;
  insert into reembed.records (version_id, row_id, content_hash, space_id)
  select ${version(1)}, t.id::text, sha256(convert_to(t.content, 'UTF8')), 'hash/words-and-ngrams@384' from public.status_bench t;
  select reembed.start_loading('status_bench', 1), reembed.finish_enqueueing('status_bench', 1);
  select reembed.start_loading('status_bench', 2), reembed.finish_enqueueing('status_bench', 2);
  insert into reembed.jobs (version_id, row_id, priority, run_at)
  select ${version(2)}, t.id::text, 1, now() - interval '1 hour' + t.id * interval '1 millisecond' from public.status_bench t;`;

const HALFWAY = `
  with done as (delete from reembed.jobs where version_id = ${version(2)} and row_id::bigint % 2 = 0 returning row_id)
  insert into reembed.records (version_id, row_id, content_hash, space_id)
  select ${version(2)}, row_id, '\\x00', 'hash/words-and-ngrams@1536' from done;
  update public.status_bench set content = content || '!' where id % 1000 = 3;
  update reembed.jobs set failed_at = now(), error = 'reason ' || row_id::bigint % 7 where priority = 1 and row_id::bigint % 1000 = 7;
  update reembed.jobs set lease_token = gen_random_uuid(), lease_until = now() + interval '1 hour', run_at = now() + interval '1 hour'
   where priority = 1 and row_id::bigint % 1000 = 9;`;

export const status: Benchmark = async (server, rows = 1_000_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      await client.query(SCHEMA);
      await client.query(begin(rows));
      await expectCounts(client, rows, { pending: rows, failed: 0, leased: 0 });
      const unvacuumed = await timedCalls(client);
      await client.query("vacuum analyze");
      const start = await timedCalls(client);
      await client.query(HALFWAY);
      const every1000 = (first: number) => Math.max(0, Math.floor((rows - first) / 1000) + 1);
      await expectCounts(client, rows, {
        pending: Math.ceil(rows / 2) - every1000(7),
        failed: every1000(7),
        leased: every1000(9),
      });
      await client.query("vacuum analyze");
      const halfway = await timedCalls(client);
      return {
        about:
          "What `reembed status` asks the database, in a collection of so many rows with a job or a record for each in each of two versions.",
        data: "Texts, jobs, records and failures by the row's number; no seed.",
        rows,
        figures: {
          start_ms: medianFigure(start, "when a job waits for every row"),
          halfway_ms: medianFigure(halfway, "when half of them are done, some are edited, leased and failed"),
          start_before_any_vacuum_ms: medianFigure(
            unvacuumed,
            "as the first, before the tables were vacuumed",
          ),
        },
        bars: [below("milliseconds that status takes", Math.max(median(start), median(halfway)), BOUND_MS)],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};

async function timedCalls(client: Client): Promise<number[]> {
  const times: number[] = [];
  for (let call = 0; call < CALLS; call += 1) {
    times.push(await timed(() => client.query("select reembed.status()")));
  }
  return times;
}

/** A fast answer that is wrong is none. */
async function expectCounts(
  client: Client,
  rows: number,
  expected: Readonly<Record<"pending" | "failed" | "leased", number>>,
): Promise<void> {
  const { rows: answers } = await client.query(
    "select c as found from jsonb_array_elements(reembed.status() -> 'collections') c where c ->> 'collection' = 'status_bench'",
  );
  const { found } = answers[0];
  const { pending, failed, leased } = found.versions[1];
  const said = JSON.stringify({ rows: found.rows, pending, failed, leased });
  const truth = JSON.stringify({
    rows,
    pending: expected.pending,
    failed: expected.failed,
    leased: expected.leased,
  });
  if (said !== truth) throw new Error(`status says ${said}, and there are ${truth}`);
}
