/** Building a version's index while another session does, and after one that failed. */
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { buildIndex } from "../../scripts/lib/move.ts";
import { createCollection, type TestCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { Sessions, untilBlocked } from "../support/sessions.ts";

describePostgres("an index", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let db: Database;
  let collection: TestCollection;

  beforeEach(async () => {
    database = await createDatabase();
    const client = await connect(database.url);
    collection = await createCollection(client, "notes");
    await client.end();
    sessions = new Sessions(database.url);
    db = await openDatabase(database.url, 1);
  });
  afterEach(async () => {
    await Promise.all([db?.close(), sessions?.close()]);
    await database?.drop();
  });

  const target = () => ({ collection: collection.name, version: 2 });
  const states = async () =>
    (
      await db.query<{ valid: boolean }>(
        `select i.indisvalid as valid from pg_index i join pg_class x on x.oid = i.indexrelid
          join pg_am m on m.oid = x.relam where m.amname = 'hnsw' and i.indrelid = $1::regclass`,
        [collection.table],
      )
    ).map(({ valid }) => valid);

  test("that another session is building is left to it", async () => {
    const [writer, builder, observer] = await Promise.all([
      sessions.open(),
      sessions.open(),
      sessions.open(),
    ]);
    await writer.client.query("begin");
    await writer.client.query(`insert into ${collection.table} (title) values ('a text')`);
    const { rows } = await builder.client.query("select reembed.index_sql($1, 2) as sql", [collection.name]);
    // It has put its index into the catalogue, INVALID, and waits for the writer.
    const building = builder.client.query(rows[0].sql);
    await untilBlocked(observer.client, builder, building);
    expect(await states()).toEqual([false]);

    await expect(buildIndex(db, target())).rejects.toMatchObject({
      code: "busy",
      message: expect.stringContaining(`pid ${builder.pid}`),
    });
    await writer.client.query("commit");
    await building;
    expect(await states()).toEqual([true]);
    await buildIndex(db, target());
    expect(await states()).toEqual([true]);
  });

  test("that a failed build left INVALID is replaced", async () => {
    const [writer, builder, observer] = await Promise.all([
      sessions.open(),
      sessions.open(),
      sessions.open(),
    ]);
    await writer.client.query("begin");
    await writer.client.query(`insert into ${collection.table} (title) values ('a text')`);
    const { rows } = await builder.client.query("select reembed.index_sql($1, 2) as sql", [collection.name]);
    const building = builder.client.query(rows[0].sql);
    await untilBlocked(observer.client, builder, building);
    await observer.client.query("select pg_cancel_backend($1)", [builder.pid]);
    await expect(building).rejects.toMatchObject({ code: "57014" });
    await writer.client.query("commit");
    expect(await states()).toEqual([false]);

    await buildIndex(db, target());
    expect(await states()).toEqual([true]);
  });
});
