/** The index conductor: one build at a time whoever builds, nothing left behind, and a plan that says what it takes. */
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { buildIndex, type IndexLimits, readIndexPlan } from "../../scripts/lib/index-build.ts";
import { createCollection, insertRow, load, type TestCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";

/** Asks until the answer is as wanted: what is waited for happens in other processes. */
async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`it did not come: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const HNSW = `select i.indisvalid as valid from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
              where m.amname = 'hnsw' and i.indrelid = $1::regclass and a.attname = 'embedding_2'`;

/** The state of each index on the second version's vectors: valid or not. */
async function states(client: Client, { table }: TestCollection): Promise<boolean[]> {
  return (await client.query<{ valid: boolean }>(HNSW, [table])).rows.map(({ valid }) => valid);
}

describePostgres("over a direct connection", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let db: Database;
  let collection: TestCollection;
  let writer: Session;
  let observer: Client;

  beforeEach(async () => {
    database = await createDatabase();
    sessions = new Sessions(database.url);
    writer = await sessions.open();
    observer = (await sessions.open()).client;
    collection = await createCollection(observer, "notes");
    db = await openDatabase(database.url);
  });
  afterEach(async () => {
    await Promise.all([db?.close(), sessions?.close()]);
    await database?.drop();
  });

  const target = () => ({ collection: collection.name, version: 2 });
  /** A transaction that writes: a concurrent build waits for its end. */
  const holdUp = async () => {
    await writer.client.query("begin");
    await writer.client.query(`insert into ${collection.table} (title) values ('a text')`);
  };
  const buildElsewhere = async (): Promise<{ building: Promise<unknown>; builder: Session }> => {
    const builder = await sessions.open();
    const { rows } = await builder.client.query("select reembed.index_sql($1, 2) as sql", [collection.name]);
    const building = builder.client.query(rows[0].sql);
    await untilBlocked(observer, builder, building);
    return { building, builder };
  };
  const builders = async () =>
    (await observer.query("select pid from pg_stat_progress_create_index where datname = current_database()"))
      .rowCount;

  test("a build of another session is waited for, not repeated", async () => {
    await holdUp();
    const { building } = await buildElsewhere();
    expect(await states(observer, collection)).toEqual([false]);

    const waits: string[] = [];
    const waiting = buildIndex(db, target(), { onWait: (reason) => waits.push(reason) });
    await until("it waits", async () => waits.length > 0);
    expect(waits.join()).toContain("another session");
    expect(await builders()).toBe(1);
    await writer.client.query("commit");
    await building;
    expect(await waiting).toBe(true);
    expect(await states(observer, collection)).toEqual([true]);
  });

  test("of two that begin at once one builds and the other waits, without a deadlock", async () => {
    const other = await openDatabase(database.url);
    await holdUp();
    const both = Promise.all([buildIndex(db, target()), buildIndex(other, target())]);
    await until("one builds", async () => (await builders()) === 1);
    await writer.client.query("commit");
    expect(await both).toEqual([true, true]);
    expect(await states(observer, collection)).toEqual([true]);
    await other.close();
  });

  test("what a failed build left INVALID is replaced", async () => {
    await holdUp();
    const { building, builder } = await buildElsewhere();
    await observer.query("select pg_cancel_backend($1)", [builder.pid]);
    await expect(building).rejects.toMatchObject({ code: "57014" });
    await writer.client.query("commit");
    expect(await states(observer, collection)).toEqual([false]);
    expect((await readIndexPlan(db, target())).state).toEqual({ state: "invalid" });

    expect(await buildIndex(db, target())).toBe(true);
    expect(await states(observer, collection)).toEqual([true]);
  });

  test("a build that is stopped leaves nothing", async () => {
    await holdUp();
    const stop = new AbortController();
    const building = buildIndex(db, target(), { signal: stop.signal });
    await until("it builds", async () => (await states(observer, collection)).length === 1);
    stop.abort();
    // The drop waits for the writer as the build did.
    await until("it was cancelled", async () => (await builders()) === 0);
    await writer.client.query("commit");
    expect(await building).toBe(false);
    expect(await states(observer, collection)).toEqual([]);
  });

  test("the role's time-out does not end it, and stays as it was", async () => {
    await observer.query(`alter role postgres in database ${database.name} set statement_timeout = '2s'`);
    const late = await openDatabase(database.url, 1);
    try {
      expect((await readIndexPlan(late, target())).timeout_seconds).toBe(2);
      // It waits for a writer for longer than the time-out.
      await holdUp();
      const building = buildIndex(late, target());
      await until(
        "it builds for longer",
        async () =>
          ((
            await observer.query(
              `select from pg_stat_progress_create_index p join pg_stat_activity a using (pid)
                where p.datname = current_database() and clock_timestamp() - a.query_start > interval '2.5 seconds'`,
            )
          ).rowCount ?? 0) > 0,
      );
      await writer.client.query("commit");
      expect(await building).toBe(true);
      expect(await late.query("show statement_timeout")).toEqual([{ statement_timeout: "2s" }]);
    } finally {
      await late.close();
    }
    expect(await states(observer, collection)).toEqual([true]);
  });

  describe("the plan", () => {
    test.each([
      ["vector", 64],
      ["vector", 384],
      ["halfvec", 256],
    ] as const)("knows how many %s(%i) fit into memory", async (type, dimensions) => {
      const notices: string[] = [];
      writer.client.on("notice", ({ message }) => notices.push(message ?? ""));
      await writer.client.query(`
        create table public.measured (v extensions.${type}(${dimensions}));
        insert into public.measured select (select array_agg(sin(n * 7 + i * n * 0.31)::real) from generate_series(1, ${dimensions}) i)::extensions.vector::extensions.${type}
          from generate_series(1, 1500) n;
        set maintenance_work_mem = '1MB'; set max_parallel_maintenance_workers = 0;
        create index measured_idx on public.measured using hnsw (v extensions.${type}_cosine_ops);`);
      const held = Number(/fits into maintenance_work_mem after (\d+) tuples/.exec(notices.join())?.[1]);
      const { rows } = await writer.client.query<{ bytes: number; index: number; planned: number }>(
        `select reembed.hnsw_build_bytes($1, $2, $3)::int as bytes, pg_relation_size('public.measured_idx')::int as index, reembed.hnsw_bytes(1500, $2, $3)::int as planned`,
        [held, type, dimensions],
      );
      expect((rows[0]?.bytes ?? 0) / 1_048_576).toBeCloseTo(1, 1);
      expect((rows[0]?.index ?? 0) / (rows[0]?.planned ?? 1)).toBeCloseTo(1, 0);
    });

    test("gives the build the memory that it needs, as far as the server has it", async () => {
      const small = await readIndexPlan(db, target());
      expect(small.fits).toEqual({ memory: true, timeout: true, disk: null });
      await observer.query(
        `insert into ${collection.table} (title) select n::text from generate_series(1, 20000) n; analyze ${collection.table}`,
      );
      const large = await readIndexPlan(db, target(), { memoryMb: 1 });
      expect(large).toMatchObject({ rows: 20_000, memory_bytes: 1_048_576, fits: { memory: false } });
      expect(large.settings.maintenance_work_mem).toBe("1024kB");
      const given = await readIndexPlan(db, target());
      expect(given.fits.memory).toBe(true);
      expect(given.seconds).toBeLessThan(large.seconds);
    });

    test("m and ef_construction grow with the table", async () => {
      const { rows } = await observer.query(
        "select n, reembed.hnsw_parameters(n) as parameters from unnest(array[50000, 1000000, 10000000]::bigint[]) n",
      );
      expect(rows.map(({ parameters }) => parameters)).toEqual([
        { m: 16, ef_construction: 64 },
        { m: 16, ef_construction: 128 },
        { m: 24, ef_construction: 128 },
      ]);
    });

    test("refuses what cannot be built, and says what to do", async () => {
      const refused = async (limits: IndexLimits, message: RegExp) => {
        await expect(buildIndex(db, target(), limits)).rejects.toMatchObject({
          code: "refused",
          message: expect.stringMatching(message),
          hint: expect.stringMatching(/\S/),
        });
        expect(await states(observer, collection)).toEqual([]);
      };
      await observer.query(
        `insert into ${collection.table} (title) select n::text from generate_series(1, 20000) n`,
      );
      await refused({ freeDiskMb: 1 }, /takes 13 MB of disk while it is built, and 1 MB are free/);

      await observer.query(`create index notes_embedding_2_hnsw on ${collection.table} (note)`);
      await refused({}, /something else is named notes_embedding_2_hnsw/);
      await observer.query("alter index notes_embedding_2_hnsw rename to notes_note_idx");

      const admin = await connect(database.adminUrl);
      await admin.query(`alter table ${collection.table} owner to supabase_admin`);
      await admin.end();
      await refused({}, /belongs to another role/);
    });

    test("refuses vectors that no HNSW index holds", async () => {
      await observer.query(`
        create table public.wide (id int primary key, body text, embedding extensions.vector(3072));
        create function public.wide_input(r public.wide) returns text language sql immutable as 'select r.body';
        begin;
        select reembed.add_space('test', 'wide', 3072), reembed.add_collection('wide', 'public.wide', array['id']);
        select reembed.add_version('wide', 'test/wide@3072', 'embedding', 'public.wide_input');
        commit;`);
      await observer.query("select reembed.start_loading('wide', 1)");
      await expect(buildIndex(db, { collection: "wide", version: 1 })).rejects.toMatchObject({
        code: "refused",
        message: expect.stringContaining("no vector of 3072 dimensions"),
        hint: expect.stringContaining("halfvec"),
      });
    });
  });

  describe("a small collection", () => {
    test("has its index from the start: it is ready as soon as it is loaded, and later rows are in it", async () => {
      await insertRow(observer, collection, "a text");
      await load(observer, collection, 2);
      expect(await states(observer, collection)).toEqual([true]);
      await observer.query("delete from reembed.jobs; select 1");
      expect(await value(observer, "select reembed.advance('notes', 2)")).toBe("ready");

      await observer.query(
        `insert into ${collection.table} (title, embedding_2) select n::text, array[n, 1, 1, 1, 1, 1, 1, 1]::extensions.vector from generate_series(1, 50) n`,
      );
      await observer.query("set enable_seqscan = off");
      const nearest = `select title from ${collection.table} order by embedding_2 operator(extensions.<=>) '[40,1,1,1,1,1,1,1]' limit 1`;
      const { rows: plan } = await observer.query(`explain (costs off) ${nearest}`);
      expect(JSON.stringify(plan)).toContain("notes_embedding_2_hnsw");
      expect((await observer.query(nearest)).rows).toEqual([{ title: "40" }]);
    });

    test("ends at 2,000 rows, and where vectors stand already: a build would hold writers up", async () => {
      await observer.query(
        `insert into ${collection.table} (title) select n::text from generate_series(1, 2000) n`,
      );
      await load(observer, collection, 2);
      expect(await states(observer, collection)).toEqual([]);

      await observer.query(`select reembed.abandon('notes', 2)`);
      await observer.query(`delete from ${collection.table} where title <> '1'`);
      await observer.query(`update ${collection.table} set embedding_2 = '[1,2,3,4,5,6,7,8]'`);
      await load(observer, collection, 2);
      expect(await states(observer, collection)).toEqual([]);
    });
  });
});

describePostgres("by pg_cron", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let client: Client;
  let writer: Client;
  let collection: TestCollection;
  let names = 0;

  beforeAll(async () => {
    database = await createDatabase({ cron: true });
    sessions = new Sessions(database.url);
    client = (await sessions.open()).client;
    writer = (await sessions.open()).client;
    // What a hosted project has: a time-out that a build would not survive, set for the role and this database alike.
    await client.query(`alter role postgres in database ${database.name} set statement_timeout = '77s'`);
  });
  beforeEach(async () => {
    names += 1;
    collection = await createCollection(client, `notes_${names}`);
    await client.query(
      `insert into ${collection.table} (title) select n::text from generate_series(1, 2000) n`,
    );
    await load(client, collection, 2);
    await client.query(
      `update ${collection.table} set embedding_1 = '[1,2,3,4,5,6,7,8]', embedding_2 = ('[' || title || ',2,3,4,5,6,7,8]')::extensions.vector`,
    );
    await client.query("delete from reembed.jobs");
  });
  afterAll(async () => {
    const admin = await connect(database.adminUrl);
    await admin.query(`alter role postgres in database ${database.name} reset all`);
    await admin.end();
    await sessions.close();
  });

  const schedule = () => client.query("select reembed.schedule_index_build($1, 2)", [collection.name]);
  const settings = () =>
    value(
      client,
      "select setconfig from pg_db_role_setting where setrole = 'postgres'::regrole and setdatabase = (select oid from pg_database where datname = current_database())",
    );
  const state = () => value(client, "select (reembed.version_numbered($1, 2)).state", [collection.name]);
  const jobs = () => value(client, "select count(*)::int from cron.job");
  const builder = () =>
    value(
      client,
      `select min(pid) from pg_stat_progress_create_index where datname = current_database() and relid = $1::regclass`,
      [collection.table],
    );
  const failure = () =>
    value(client, "select error from reembed.index_builds where version_id = $1 and step = 'failed'", [
      collection.versions[1]?.id,
    ]);
  const nothingIsLeft = async () => {
    expect(await jobs()).toBe(0);
    expect(await settings()).toEqual(["statement_timeout=77s"]);
    expect(await value(client, "select count(*)::int from reembed.index_builds where step <> 'failed'")).toBe(
      0,
    );
  };

  test("it is built, the version advances, and nothing is left", async () => {
    await client.query("select reembed.advance($1, 2)", [collection.name]);
    expect(await state()).toBe("indexing");
    await schedule();
    expect(await settings()).toEqual(
      expect.arrayContaining([
        "statement_timeout=0",
        "lock_timeout=0",
        expect.stringMatching(/^maintenance_work_mem=\d+kB$/),
      ]),
    );
    await schedule();
    expect(await jobs()).toBe(2);
    await until("it is ready", async () => (await state()) === "ready");
    expect(await states(client, collection)).toEqual([true]);
    await nothingIsLeft();
    expect(
      await value(
        client,
        "select array_agg(kind order by id) from reembed.events where collection = $1 and version = 2 and kind in ('schedule_index', 'index', 'ready')",
        [collection.name],
      ),
    ).toEqual(["schedule_index", "ready", "index"]);
  });

  test("the settings are back as soon as the build has begun; one that fails is replaced", async () => {
    await client.query(`drop index ${collection.name}_embedding_1_hnsw`);
    await writer.query("begin");
    await writer.query(`insert into ${collection.table} (title) values ('a text')`);
    await schedule();
    await until("it builds", async () => (await builder()) !== null);
    await until("the settings are back", async () => ((await settings()) as string[]).length === 1);
    await expect(
      client.query("select reembed.schedule_index_build($1, 1)", [collection.name]),
    ).rejects.toMatchObject({
      code: "RE009",
    });
    await client.query("select pg_cancel_backend($1)", [await builder()]);
    await until("it is seen to have failed", async () =>
      Boolean(await value(client, "select attempts = 1 from reembed.index_builds")),
    );
    await writer.query("commit");
    await until(
      "it stands",
      async () => (await states(client, collection)).join() === "true" && (await jobs()) === 0,
    );
    await nothingIsLeft();
  });

  test("a build that is cancelled leaves nothing, and the next one begins anew", async () => {
    await writer.query("begin");
    await writer.query(`insert into ${collection.table} (title) values ('a text')`);
    await schedule();
    await until("it builds", async () => (await builder()) !== null);
    expect(await value(client, "select reembed.cancel_index_build($1, 2)", [collection.name])).toBe(true);
    await until("it is cancelled", async () => (await builder()) === null);
    await writer.query("commit");
    await until("it is given up", async () => (await failure()) !== undefined);
    expect(await failure()).toBe("cancelled");
    expect(await states(client, collection)).toEqual([]);
    await nothingIsLeft();

    await schedule();
    await until(
      "it stands",
      async () => (await states(client, collection)).join() === "true" && (await jobs()) === 0,
    );
    expect(await failure()).toBeUndefined();
  });

  test("a build that fails every time is given up after three, with its reason", async () => {
    const admin = await connect(database.adminUrl);
    await schedule();
    await admin.query(`alter table ${collection.table} owner to supabase_admin`);
    await admin.end();
    await until("it is given up", async () => {
      await client.query("select reembed.tell_cron_again()");
      return (await failure()) !== undefined;
    });
    expect(await failure()).toContain("must be owner");
    await nothingIsLeft();
  });

  // The launcher of pg_cron loses a new job where the server's queue of changes overflows at that moment.
  test("a build that has not begun after ten seconds is told to pg_cron again", async () => {
    const place = () =>
      value(client, "select ctid::text from cron.job where jobname = 'reembed-index-build'");
    await client.query("begin");
    try {
      await schedule();
      const first = await place();
      await client.query("select reembed.conduct()");
      expect(await place()).toBe(first);
      await client.query(
        "update reembed.index_builds set scheduled_at = scheduled_at - interval '11 seconds'",
      );
      await client.query("select reembed.conduct()");
      expect(await place()).not.toBe(first);
    } finally {
      await client.query("rollback");
    }
  });

  test("the poke builds what is loaded, by itself", async () => {
    // Also what the tests before left unbuilt, one after the other.
    await until("it is ready", async () => {
      await client.query("select reembed.poke()");
      return (await state()) === "ready" && (await jobs()) === 0;
    });
    expect(await states(client, collection)).toEqual([true]);
    await nothingIsLeft();
  });
});

async function value(client: Client, sql: string, values: readonly unknown[] = []): Promise<unknown> {
  const { rows } = await client.query<unknown[]>({ text: sql, values: [...values], rowMode: "array" });
  return rows[0]?.[0];
}
