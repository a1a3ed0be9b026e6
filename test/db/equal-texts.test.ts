/** Many rows of one text whose vector another worker is to bring, and maybe never will. */
import type { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { createCollection, insertRow, type TestCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Claim, claim, expireLeases } from "../support/worker.ts";

const EQUAL = 300;
const OTHERS = 20;
/** Rows a claim: a small part of the equal ones. */
const BATCH = 25;

describePostgres("many rows of a text that a lease holds", () => {
  let database: TestDatabase;
  let client: Client;
  let db: Database;
  let collection: TestCollection;
  let holder: Claim;

  beforeEach(async () => {
    database = await createDatabase();
    client = await connect(database.url);
    db = await openDatabase(database.url, 2);
    collection = await createCollection(client, "sayings");
    await insertRow(client, collection, "the same");
    holder = await claim(client);
    await client.query(
      `insert into ${collection.table} (title) select 'the same' from generate_series(1, $1)`,
      [EQUAL],
    );
    await client.query(
      `insert into ${collection.table} (title) select 'other ' || n from generate_series(1, $1) n`,
      [OTHERS],
    );
  });
  afterEach(async () => {
    await Promise.all([client.end(), db.close()]);
    await database.drop();
  });

  const slice = () => {
    const embedderFor = (space: Space) =>
      makeEmbedder(space, async (texts) => ({
        vectors: texts.map(() => Array(8).fill(1)),
        usage: { tokens: texts.length },
      }));
    return work(db, embedderFor, { batch: BATCH });
  };
  /** When the rows that wait are looked at again, in seconds. */
  const waits = async () => {
    const { rows } = await client.query<{ rows: number; least: number; most: number }>(
      `select count(*)::int as rows, min(extract(epoch from run_at - clock_timestamp()))::float8 as least,
              max(extract(epoch from run_at - clock_timestamp()))::float8 as most
         from reembed.jobs where lease_token is null`,
    );
    return rows[0];
  };
  const heldFor = (seconds: number) =>
    client.query("update reembed.usage set at = at - make_interval(secs => $1) where id = $2", [
      seconds,
      holder.usage_id,
    ]);

  test("keep nobody from the rows behind them", async () => {
    expect(await slice()).toMatchObject({ done: OTHERS, requests: 1 });
  });

  test("are left for a second while the lease is new, and for longer when nothing comes of it", async () => {
    await slice();
    expect(await waits()).toMatchObject({ rows: EQUAL });
    expect((await waits())?.most).toBeLessThan(2);
    await heldFor(5);
    await client.query("update reembed.jobs set run_at = now() where lease_token is null");
    await slice();
    expect((await waits())?.least).toBeGreaterThan(3);
    await heldFor(60);
    await client.query("update reembed.jobs set run_at = now() where lease_token is null");
    await slice();
    const late = await waits();
    expect(late?.least).toBeGreaterThan(7);
    expect(late?.most).toBeLessThan(11);
  });

  test("are never left for longer than the lease lasts", async () => {
    await heldFor(60);
    const [row] = await db.query<{ until: Date }>(
      `with ends as (update reembed.jobs set lease_until = clock_timestamp() + interval '3 seconds' where lease_token is not null returning lease_until),
            reserved as (update reembed.usage u set lease_until = ends.lease_until from ends where u.id = $1)
       select lease_until as until from ends`,
      [holder.usage_id],
    );
    await slice();
    const { rows } = await client.query<{ last: Date }>(
      "select max(run_at) as last from reembed.jobs where lease_token is null",
    );
    expect(rows[0]?.last.getTime()).toBeLessThanOrEqual(row?.until.getTime() ?? 0);
  });

  test("are bought once when it is over, and copied", async () => {
    await slice();
    await expireLeases(client);
    await client.query("update reembed.jobs set run_at = now()");
    expect(await slice()).toMatchObject({ requests: 1, tokens: 1, done: BATCH, copied: EQUAL + 1 - BATCH });
  });
});
