/**
 * In which order a backfill takes the rows: one of each page of the table, then the next of each. So a row that is stored later finds room on its
 * page, and its update stays out of the table's indexes (a heap-only tuple), the one of the old vectors above all. How many do is for the benchmark
 * to say: a long transaction anywhere in the server keeps their old places occupied.
 */
import type { Client } from "pg";
import { expect, test } from "vitest";
import { createCollection, load, type TestCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { type ClaimedJob, claim } from "../support/worker.ts";

const ROWS = 120;

describePostgres("a backfill's order", () => {
  /** Rows of which about four fill a page, in the order of their keys, all due in version 2. */
  async function loaded(): Promise<{ client: Client; collection: TestCollection; pages: number }> {
    const database = await createDatabase();
    const client = await connect(database.url);
    const collection = await createCollection(client, "pages");
    await client.query(`alter table ${collection.table} alter column body set storage plain`);
    await client.query(
      `insert into ${collection.table} (id, title, body) select lpad(n::text, 32, '0')::uuid, 'text ' || n, repeat('x', 1900) from generate_series(1, $1) n`,
      [ROWS],
    );
    await load(client, collection, 2);
    const { rows } = await client.query<{ pages: number }>(
      `select count(distinct (ctid::text::point)[0])::int as pages from ${collection.table}`,
    );
    return { client, collection, pages: rows[0]?.pages ?? 0 };
  }
  const next = (client: Client, collection: TestCollection, maxRows: number) =>
    claim(client, { collection: collection.name, version: 2, maxRows });

  async function pagesOf(client: Client, collection: TestCollection, jobs: readonly ClaimedJob[]) {
    const { rows } = await client.query<{ page: number }>(
      `select (ctid::text::point)[0]::int as page from ${collection.table} where id::text = any ($1) order by 1`,
      [jobs.map(({ row_id }) => row_id)],
    );
    return rows.map(({ page }) => page);
  }

  test("takes one row of each page before the second of any", async () => {
    const { client, collection, pages } = await loaded();
    expect(pages).toBeLessThan(ROWS / 2);
    const { jobs } = await next(client, collection, pages);
    expect(new Set(await pagesOf(client, collection, jobs)).size).toBe(pages);
  });

  test("takes an edit first, wherever its row stands", async () => {
    const { client, collection } = await loaded();
    const { rows } = await client.query<{ id: string }>(
      `update ${collection.table} set title = 'edited' where title = 'text ${ROWS}' returning id::text`,
    );
    const { jobs } = await next(client, collection, 5);
    expect(jobs[0]?.row_id).toBe(rows[0]?.id);
  });
});
