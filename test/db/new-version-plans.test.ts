/**
 * The worker's calls on a version of many jobs, whether the server's statistics are older than they or not: each reads about what it is given. Counted in rows, since a
 * plan that reads all jobs once for each of them shows in no small table's time.
 */
import type { Client } from "pg";
import { describe, expect, test } from "vitest";
import { createCollection, jobs, load, PLACEMENTS, recorded, versionOf } from "../support/collection.ts";
import { rowsRead } from "../support/plans.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim, complete, fail } from "../support/worker.ts";

const ROWS = 20_000;
const BATCH = 20;

interface Step {
  readonly enqueued: number;
  readonly last: string | null;
}

async function enqueueMissing(client: Client, versionId: number, after: string | null): Promise<Step> {
  const { rows } = await client.query<{ step: Step }>("select reembed.enqueue_missing($1, $2) as step", [
    versionId,
    after,
  ]);
  return rows[0]?.step ?? { enqueued: Number.NaN, last: null };
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

    test("is enqueued, adopted and reconciled without reading all of them again and again", async () => {
      const database = await createDatabase();
      const client = await connect(database.url);
      const collection = await createCollection(client, "fresh", placement);
      await client.query(
        `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, $1) n`,
        [ROWS],
      );
      // Before the vectors come: for the statistics they are nulls, and versions without jobs and records.
      await client.query("analyze");
      const { id, vectorTable, vectorColumn } = versionOf(collection, 2);
      await client.query(
        placement === "in place"
          ? `update ${vectorTable} set ${vectorColumn} = '[1,2,3,4,5,6,7,8]'`
          : `insert into ${vectorTable} select id, '[1,2,3,4,5,6,7,8]' from ${collection.table}`,
      );
      await client.query("select reembed.start_loading($1, 2)", [collection.name]);

      /** What the hungriest chunk reads. */
      const enqueueAll = async () => {
        const reads: number[] = [];
        let last: string | null = null;
        let enqueued = 0;
        do {
          const { answer, read }: { answer: Step; read: number } = await rowsRead(client, () =>
            enqueueMissing(client, id, last),
          );
          reads.push(read);
          enqueued += answer.enqueued;
          last = answer.last;
        } while (last !== null);
        return { enqueued, most: Math.max(...reads) };
      };
      const loading = await enqueueAll();
      expect(loading).toEqual({ enqueued: ROWS, most: expect.any(Number) });
      const adopted = await rowsRead(client, async () => {
        const { rows } = await client.query<{ n: string }>("select reembed.adopt_vectors($1) as n", [id]);
        return Number(rows[0]?.n);
      });
      expect(adopted.answer).toBe(ROWS);
      expect(await jobs(client, id)).toEqual([]);
      await client.query("select reembed.finish_enqueueing($1, 2)", [collection.name]);
      const reconciled = await rowsRead(client, () => client.query("select reembed.reconcile()"));

      await client.query("delete from reembed.records where version_id = $1", [id]);
      await client.query("update reembed.versions set adopts = true, enqueued_at = null where id = $1", [id]);
      const adopting = await enqueueAll();
      expect(adopting).toEqual({ enqueued: 0, most: expect.any(Number) });
      expect(await recorded(client, id)).toHaveLength(ROWS);

      expect(loading.most).toBeLessThan(ROWS / 4);
      expect(adopting.most).toBeLessThan(ROWS / 4);
      // Once or twice each: the jobs and the records of both versions.
      expect(adopted.read).toBeLessThan(4 * ROWS);
      expect(reconciled.read).toBeLessThan(8 * ROWS);
      await client.end();
      await database.drop();
    });
  });
});
