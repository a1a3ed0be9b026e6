/** An edit overtakes whatever backfill waits: the claim finds it by index, and a worker in the midst of a slice takes it next. */
import type { Client } from "pg";
import { beforeAll, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { makeEmbedder, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { createCollection, type TestCollection, versionOf } from "../support/collection.ts";
import { rowsRead } from "../support/plans.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim } from "../support/worker.ts";

const WAITING = 50_000;
/** What a claim of a few rows may read in jobs and records, whatever waits beside them. */
const FEW = 50;

describePostgres("an edit among many backfill jobs", () => {
  let client: Client;
  let db: Database;
  let collection: TestCollection;

  beforeAll(async () => {
    const database = await createDatabase();
    client = await connect(database.url);
    db = await openDatabase(database.url, 2);
    collection = await createCollection(client, "waiting");
    const { id } = versionOf(collection, 1);
    await client.query(
      `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, $1) n`,
      [WAITING],
    );
    // Older than any edit, as a backfill's jobs are.
    await client.query(
      `update reembed.jobs set priority = 1, run_at = now() - interval '1 hour', enqueued_at = now() - interval '1 hour' where version_id = $1`,
      [id],
    );
    await client.query("vacuum analyze reembed.jobs");
    return async () => {
      await Promise.all([client.end(), db.close()]);
    };
  });

  const edit = (from: string, to: string) =>
    client.query(`update ${collection.table} set title = $2 where title = $1`, [from, to]);

  test("is claimed first, without reading what waits", async () => {
    await edit("text 40000", "edited while all wait");
    const first = await rowsRead(client, () => claim(client, { collection: collection.name, maxRows: 1 }));
    expect(first.answer.jobs.map(({ input }) => input)).toEqual(["edited while all wait\n"]);
    expect(first.read).toBeLessThan(FEW);

    const others = await rowsRead(client, () => claim(client, { collection: collection.name, maxRows: 3 }));
    expect(others.answer.jobs).toHaveLength(3);
    expect(others.read).toBeLessThan(FEW);
  });

  test("is taken by the next claim of a worker that is at a backfill", async () => {
    const requests: string[][] = [];
    const embedderFor = (space: Space) =>
      makeEmbedder(space, async (texts) => {
        requests.push([...texts]);
        if (requests.length === 2) await edit("text 45000", "edited while others were embedded");
        return { vectors: texts.map(() => Array(8).fill(1)), usage: { tokens: texts.length } };
      });
    const report = await work(db, embedderFor, { collection: collection.name, batch: 10, limit: 40 });
    expect(report).toMatchObject({ ended: "limit", done: 40 });
    const withEdit = requests.map((texts) => texts.indexOf("edited while others were embedded\n"));
    expect(withEdit).toEqual([-1, -1, 0, -1]);
  });
});
