/**
 * The worker's calls on a version of many jobs, whether the server's statistics are older than they or not: each reads about what it is given. Counted in rows, since a
 * plan that reads all jobs once for each of them shows in no small table's time.
 */
import type { Client } from "pg";
import { describe, expect, test } from "vitest";
import { createCollection, load, PLACEMENTS, versionOf } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim, complete, fail } from "../support/worker.ts";

const ROWS = 20_000;
const BATCH = 20;

/** Rows of jobs and records that one call reads. The counters are the session's own; they are flushed only between transactions. */
async function rowsRead<T>(client: Client, call: () => Promise<T>): Promise<{ answer: T; read: number }> {
  const count = async () => {
    const { rows } = await client.query<{ read: number }>(
      `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int as read from pg_stat_xact_user_tables
        where schemaname = 'reembed' and relname in ('jobs', 'records')`,
    );
    return rows[0]?.read ?? Number.NaN;
  };
  await client.query("begin");
  const before = await count();
  const answer = await call();
  const read = (await count()) - before;
  await client.query("commit");
  return { answer, read };
}

describePostgres("a version of many jobs", () => {
  describe.each(PLACEMENTS)("with vectors %s", (placement) => {
    test.each([
      ["that no statistics know", "select"],
      ["that were analyzed", "analyze reembed.jobs; analyze reembed.records"],
    ])("%s is worked on without reading all of them", async (_, analyzed) => {
      const database = await createDatabase();
      const client = await connect(database.url);
      const collection = await createCollection(client, "fresh", placement);
      await client.query(
        `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, $1) n`,
        [ROWS],
      );
      await client.query("analyze");
      await load(client, collection, 2);
      await client.query(analyzed);
      const { id } = versionOf(collection, 2);
      const target = { collection: collection.name, version: 2, maxRows: BATCH };

      const first = await rowsRead(client, () => claim(client, target));
      const completed = await rowsRead(client, () => complete(client, first.answer));
      expect(completed.answer.done).toBe(BATCH);
      const second = await rowsRead(client, () => claim(client, target));
      await client.query(`delete from ${collection.table} where id::text = any ($1)`, [
        second.answer.jobs.slice(0, 5).map(({ row_id }) => row_id),
      ]);
      const gone = await rowsRead(client, () => complete(client, second.answer));
      expect(gone.answer).toMatchObject({ done: BATCH - 5 });
      const third = await rowsRead(client, () => claim(client, target));
      const failed = await rowsRead(client, () => fail(client, third.answer, "no", 0));
      expect(failed.answer.retried).toBe(BATCH);
      const fourth = await rowsRead(client, () => claim(client, target));
      const released = await rowsRead(client, async () => {
        const { rows } = await client.query<{ released: number }>(
          "select reembed.release($1, $2, $3) as released",
          [id, fourth.answer.lease_token, fourth.answer.jobs.map(({ row_id }) => row_id)],
        );
        return rows[0]?.released;
      });
      expect(released.answer).toBe(BATCH);

      const read = Object.entries({ first, completed, second, gone, third, failed, fourth, released }).map(
        ([step, { read }]) => [step, read] as const,
      );
      expect(read.filter(([, rows]) => rows > ROWS / 10)).toEqual([]);
      await client.end();
      await database.drop();
    });
  });
});
