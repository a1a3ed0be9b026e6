/** The laws of docs/architecture.md that the database keeps by itself: each statement here is one that an app may send at any time. */
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  createCollection,
  insertRow,
  jobs,
  load,
  mismatches,
  PLACEMENTS,
  recorded,
  SPACES,
  type TestCollection,
  type TestVersion,
  vectorOf,
  versionOf,
  violations,
} from "../support/collection.ts";
import { asRole, connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";
import { claim, complete, done, workOff } from "../support/worker.ts";

const SOME_VECTOR = vectorOf("00".repeat(32));

describePostgres("the laws", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let app: Client;
  let worker: Session;
  let other: Session;

  beforeAll(async () => {
    database = await createDatabase();
  });
  beforeEach(async () => {
    sessions = new Sessions(database.url);
    const [first, second, third] = await Promise.all([sessions.open(), sessions.open(), sessions.open()]);
    [app, worker, other] = [first.client, second, third];
  });
  afterEach(() => sessions.close());

  describe.each(PLACEMENTS)("laws 1 and 2: a row is current or queued, its vectors %s", (placement) => {
    const name = placement === "in place" ? "notes" : "papers";
    let collection: TestCollection;
    let v1: TestVersion;
    let first: string;
    let second: string;

    beforeAll(async () => {
      const client = await connect(database.url);
      collection = await createCollection(client, name, placement);
      v1 = versionOf(collection, 1);
      await client.end();
    });

    /** Two rows, both embedded. */
    beforeEach(async () => {
      await app.query(`truncate ${collection.table} cascade`);
      first = await insertRow(app, collection, "first");
      second = await insertRow(app, collection, "second");
      await workOff(worker.client, { collection: name });
      expect(await jobs(app, v1.id)).toEqual([]);
      expect(await mismatches(app, collection)).toEqual([]);
    });

    const queued = async () => (await jobs(app, v1.id)).map((job) => job.row_id);
    /** Whatever is queued is worked off; then all vectors match and law 2 holds. */
    async function expectMended(): Promise<void> {
      expect(await violations(app)).toEqual([]);
      await workOff(worker.client, { collection: name });
      expect(await violations(app)).toEqual([]);
      expect(await mismatches(app, collection)).toEqual([]);
      const { rows } = await app.query<{ id: string }>(
        `select id from ${collection.table} order by id::text`,
      );
      expect(await recorded(app, v1.id)).toEqual(rows.map((row) => row.id));
    }

    test("an edit of an input column enqueues the row, and only it", async () => {
      await app.query(`update ${collection.table} set body = 'new' where id = $1`, [first]);
      expect(await queued()).toEqual([first]);
      await expectMended();
    });

    test("an edit of other columns, or to the same text, enqueues nothing", async () => {
      await app.query(`update ${collection.table} set note = 'seen', title = title, body = ''`);
      expect(await queued()).toEqual([]);
      expect(await violations(app)).toEqual([]);
    });

    test("a change that a BEFORE trigger makes is seen, though no statement names the column", async () => {
      await app.query(`
        create function public.add_note() returns trigger language plpgsql as
          $$ begin new.body := new.note; return new; end $$;
        create trigger add_note before update on ${collection.table} for each row execute function public.add_note()`);
      try {
        await app.query(`update ${collection.table} set note = 'into the body' where id = $1`, [first]);
        expect(await queued()).toEqual([first]);
        await expectMended();
      } finally {
        await app.query("drop function public.add_note() cascade");
      }
    });

    test("a BEFORE trigger that changes the text while the vector is written wins over that vector", async () => {
      await app.query(`update ${collection.table} set body = 'old' where id = $1`, [first]);
      const lease = await claim(worker.client, { collection: name });
      await app.query(`
        create function public.rewrite() returns trigger language plpgsql as
          $$ begin new.body := 'rewritten'; return new; end $$;
        create trigger rewrite before update on ${collection.table} for each row execute function public.rewrite()`);
      await complete(worker.client, lease);
      await app.query("drop function public.rewrite() cascade");
      await expectMended();
    });

    test("an upsert of several rows enqueues the new and the changed, not the unchanged", async () => {
      const third = "00000000-0000-4000-8000-000000000003";
      await app.query(
        `insert into ${collection.table} (id, title) values ($1, 'first'), ($2, 'second, changed'), ($3, 'third')
         on conflict (id) do update set title = excluded.title`,
        [first, second, third],
      );
      expect(await queued()).toEqual([second, third].sort());
      await expectMended();
    });

    test("insert from a query, merge and delete ... using are seen", async () => {
      await app.query(`
        with gone as (delete from ${collection.table} where title = 'first' returning *)
        insert into ${collection.table} (title) select title || ' again' from gone`);
      await app.query(`
        merge into ${collection.table} t using (values ('second'), ('fourth')) s (title) on s.title = t.title
         when matched then update set body = 'merged' when not matched then insert (title) values (s.title)`);
      expect(await queued()).toHaveLength(3);
      await expectMended();
    });

    test("a vector that another hand writes is out of date", async () => {
      if (placement === "in place") {
        await app.query(`update ${v1.vectorTable} set ${v1.vectorColumn} = $2 where id = $1`, [
          first,
          SOME_VECTOR,
        ]);
      } else {
        await app.query(`update ${v1.vectorTable} set ${v1.vectorColumn} = $2 where id = $1`, [
          first,
          SOME_VECTOR,
        ]);
        await app.query(`delete from ${v1.vectorTable} where id = $1`, [second]);
        await app.query(`insert into ${v1.vectorTable} (id, ${v1.vectorColumn}) values ($1, $2)`, [
          second,
          SOME_VECTOR,
        ]);
      }
      expect(await queued()).toEqual(placement === "in place" ? [first] : [first, second].sort());
      await expectMended();
    });

    test("a vector that an upsert sets to null, or that is deleted, is enqueued though the text did not change", async () => {
      if (placement === "in place") {
        await app.query(
          `insert into ${collection.table} (id, title, ${v1.vectorColumn}) values ($1, 'first', null)
           on conflict (id) do update set title = excluded.title, ${v1.vectorColumn} = excluded.${v1.vectorColumn}`,
          [first],
        );
      } else {
        await app.query(`delete from ${v1.vectorTable} where id = $1`, [first]);
      }
      expect(await queued()).toEqual([first]);
      await expectMended();
    });

    test("a delete takes vector, record and job with it", async () => {
      await app.query(`update ${collection.table} set title = 'changed' where id = $1`, [second]);
      await app.query(`delete from ${collection.table}`);
      expect([await queued(), await recorded(app, v1.id)]).toEqual([[], []]);
      await expectMended();
    });

    test("a truncate takes all records and jobs with it", async () => {
      await app.query(`update ${collection.table} set title = 'changed' where id = $1`, [second]);
      await app.query(`truncate ${collection.table} cascade`);
      expect([await queued(), await recorded(app, v1.id)]).toEqual([[], []]);
    });

    test("a new key keeps the vector and its record: nothing is bought again", async () => {
      const key = "00000000-0000-4000-8000-0000000000aa";
      await app.query(`update ${collection.table} set id = $2 where id = $1`, [first, key]);
      expect(await recorded(app, v1.id)).toEqual([key, second].sort());
      expect(await violations(app)).toEqual([]);
      expect(await workOff(worker.client, { collection: name })).toBe(0);
      await expectMended();
    });

    test("a new key and a new text at once is an edit under the new key", async () => {
      const key = "00000000-0000-4000-8000-0000000000ab";
      await app.query(`update ${collection.table} set id = $2, title = 'both' where id = $1`, [first, key]);
      await expectMended();
    });

    test("a key that passes from one row to another within a transaction names the row that has it at last", async () => {
      await app.query("begin");
      await app.query(
        `update ${collection.table} set id = '00000000-0000-4000-8000-0000000000ac' where id = $1`,
        [first],
      );
      await app.query(`update ${collection.table} set id = $1 where id = $2`, [first, second]);
      await app.query(
        `update ${collection.table} set id = $1 where id = '00000000-0000-4000-8000-0000000000ac'`,
        [second],
      );
      await app.query("commit");
      await expectMended();
      await app.query("begin");
      await app.query(`delete from ${collection.table} where id = $1`, [first]);
      await app.query(`insert into ${collection.table} (id, title) values ($1, 'in its place')`, [first]);
      await app.query("commit");
      await expectMended();
    });

    test("a transaction that is rolled back leaves everything as it was", async () => {
      await app.query("begin");
      await app.query(`update ${collection.table} set title = 'never' where id = $1`, [first]);
      await app.query(`delete from ${collection.table} where id = $1`, [second]);
      await app.query("rollback");
      expect(await queued()).toEqual([]);
      await expectMended();
    });

    describe("what bypasses the triggers", () => {
      const problems = async () =>
        (await app.query(`select row_id, problem from reembed.violations() order by problem, row_id`)).rows;
      const reconcile = async () =>
        (await app.query(`select reembed.reconcile($1) as result`, [name])).rows[0]?.result;

      /** As a restore or a logical replica writes: no trigger fires. */
      async function asReplica(work: (client: Client) => Promise<void>): Promise<void> {
        const admin = await connect(database.adminUrl);
        try {
          await admin.query("set session_replication_role = replica");
          await work(admin);
        } finally {
          await admin.end();
        }
      }

      test("a replica's insert and edit are found and mended", async () => {
        const third = "00000000-0000-4000-8000-0000000000b0";
        await asReplica(async (admin) => {
          await admin.query(`insert into ${collection.table} (id, title) values ($1, 'restored')`, [third]);
          await admin.query(`update ${collection.table} set title = 'restored' where id = $1`, [first]);
        });
        expect(await problems()).toEqual([
          { row_id: third, problem: "no record" },
          { row_id: first, problem: "the text changed" },
        ]);
        expect(await reconcile()).toEqual({ enqueued: 2, orphans_removed: 0, busy: 0 });
        await expectMended();
      });

      test("a replica's delete leaves a record and a job, which reconcile removes", async () => {
        await app.query(`update ${collection.table} set title = 'queued' where id = $1`, [second]);
        await asReplica(async (admin) => {
          await admin.query(`delete from ${collection.table}`);
          if (placement === "table of its own") await admin.query(`delete from ${v1.vectorTable}`);
        });
        expect(await reconcile()).toEqual({ enqueued: 0, orphans_removed: 3, busy: 0 });
        expect([await queued(), await recorded(app, v1.id)]).toEqual([[], []]);
      });

      test("a vector that a replica lost is found and mended", async () => {
        await asReplica(async (admin) => {
          if (placement === "in place") {
            await admin.query(`update ${v1.vectorTable} set ${v1.vectorColumn} = null where id = $1`, [
              first,
            ]);
          } else {
            await admin.query(`delete from ${v1.vectorTable} where id = $1`, [first]);
          }
        });
        expect(await problems()).toEqual([{ row_id: first, problem: "the vector is missing" }]);
        expect(await reconcile()).toMatchObject({ enqueued: 1 });
        await expectMended();
      });

      test("an edit while the triggers are disabled is found and mended, and a lease on its old text is refused", async () => {
        await app.query(`update ${collection.table} set title = 'leased' where id = $1`, [first]);
        const lease = await claim(worker.client, { collection: name });
        await app.query(`alter table ${collection.table} disable trigger user`);
        await app.query(`update ${collection.table} set title = 'unseen'`);
        await app.query(`alter table ${collection.table} enable trigger user`);
        expect(await problems()).toEqual([{ row_id: second, problem: "the text changed" }]);
        expect(await complete(worker.client, lease)).toEqual({ ...done(0), stale: [first] });
        expect(await reconcile()).toMatchObject({ enqueued: 1 });
        await expectMended();
      });

      test("a changed input function is found and mended", async () => {
        const definition = (text: string) =>
          app.query(`create or replace function public.${name}_input(r ${collection.table}) returns text
                     language sql immutable as $$ select ${text} $$`);
        const original = `coalesce(r.title, '') || E'\\n' || coalesce(r.body, '')`;
        await definition(`'Title: ' || (${original})`);
        try {
          expect(await problems()).toHaveLength(2);
          expect(await reconcile()).toMatchObject({ enqueued: 2 });
          expect(await violations(app)).toEqual([]);
          expect(await workOff(worker.client, { collection: name })).toBe(2);
          expect(await violations(app)).toEqual([]);
        } finally {
          await definition(original);
        }
        await reconcile();
        await expectMended();
      });
    });
  });

  describe("law 2, where the app's session reads the world otherwise than ours", () => {
    test.each(["timestamptz", "date", "interval", "double precision", "bytea", "regclass", "int[]"])(
      "a key of type %s, whose text depends on the session's settings or is no key's, is refused",
      async (type) => {
        await app.query("begin");
        await app.query(`create table public.keyed (k ${type} primary key, title text)`);
        await expect(
          app.query(`select reembed.add_collection('keyed', 'public.keyed', array['title'])`),
        ).rejects.toMatchObject({ code: "RE008", message: expect.stringContaining("key_columns") });
        await app.query("rollback");
      },
    );

    test("a truncate of the vectors alone sees all rows, or is refused: a snapshot that is older than some would forget them", async () => {
      const v1 = versionOf(await createCollection(app, "cleared", "table of its own"), 1);
      await insertRow(app, { table: "public.cleared" }, "first");
      await workOff(worker.client, { collection: "cleared" });
      await other.client.query("begin isolation level repeatable read");
      await other.client.query("select from public.cleared");
      await insertRow(app, { table: "public.cleared" }, "newer than the snapshot");
      await workOff(worker.client, { collection: "cleared" });
      await expect(other.client.query(`truncate ${v1.vectorTable}`)).rejects.toMatchObject({ code: "RE007" });
      await other.client.query("rollback");
      await other.client.query(`truncate ${v1.vectorTable}`);
      expect(await violations(app)).toEqual([]);
      expect(await workOff(worker.client, { collection: "cleared" })).toBe(2);
      await other.client.query("begin isolation level repeatable read");
      await other.client.query("truncate public.cleared cascade");
      await other.client.query("commit");
      expect(await recorded(app, v1.id)).toEqual([]);
    });
  });

  describe("laws 1 and 2, where keys are exchanged in one statement", () => {
    test("each row that takes another's key is queued", async () => {
      await app.query(`
        create table public.shelves (id int primary key deferrable, title text, embedding extensions.vector(8));
        create function public.shelves_input(r public.shelves) returns text language sql immutable as $$ select r.title $$`);
      await app.query("begin");
      await app.query(`select reembed.add_collection('shelves', 'public.shelves', array['id'])`);
      const { rows } = await app.query<{ id: number }>(
        `select reembed.add_version('shelves', $1, 'embedding', 'public.shelves_input') as id`,
        [await space("test/shelf@8")],
      );
      await app.query("commit");
      await app.query(`select reembed.start_loading('shelves', 1)`);
      await app.query(`select reembed.finish_enqueueing('shelves', 1)`);
      await app.query(`insert into public.shelves select n, 'shelf ' || n from generate_series(1, 4) n`);
      expect(await workOff(worker.client, { collection: "shelves" })).toBe(4);
      await app.query("update public.shelves set id = 3 - id where id in (1, 2)");
      expect(await violations(app)).toEqual([]);
      await app.query("update public.shelves set id = id + 1");
      expect(await violations(app)).toEqual([]);
      await workOff(worker.client, { collection: "shelves" });
      const wrong = await app.query(
        `select id from public.shelves where embedding is distinct from public.test_vector(sha256(convert_to(title, 'UTF8')))`,
      );
      expect(wrong.rows).toEqual([]);
      expect(await recorded(app, rows[0]?.id ?? 0)).toEqual(["2", "3", "4", "5"]);
    });
  });

  /** Registers a space of eight dimensions by its id. */
  async function space(id: string): Promise<string> {
    const model = id.replace(/^test\//, "").replace(/@8$/, "");
    await app.query(`select reembed.add_space('test', $1, 8)`, [model]);
    return id;
  }

  describe("law 1: a version's space", () => {
    let collection: TestCollection;
    const setSpace = (client: Client, id: string) =>
      client.query(`select reembed.set_space('spaced', 1, $1)`, [id]);

    beforeEach(async () => {
      const known = await app.query(`select from reembed.collections where name = 'spaced'`);
      if (known.rowCount === 0) collection = await createCollection(app, "spaced");
      await app.query(`truncate ${collection.table}`);
      await setSpace(app, SPACES[0]);
      await space("test/another@8");
    });

    test("changes while it has no record: open leases lose, and the next claim is in the new space", async () => {
      const id = await insertRow(app, collection, "a text");
      const lease = await claim(worker.client, { collection: "spaced" });
      await setSpace(app, "test/another@8");
      expect(await complete(worker.client, lease)).toEqual({ ...done(0), stale: [id] });
      const next = await claim(worker.client, { collection: "spaced" });
      expect(next.space.id).toBe("test/another@8");
      expect(await complete(worker.client, next)).toEqual(done(1));
      expect(await violations(app)).toEqual([]);
    });

    test("does not change once it has a record", async () => {
      await insertRow(app, collection, "a text");
      await workOff(worker.client, { collection: "spaced" });
      await expect(setSpace(app, "test/another@8")).rejects.toMatchObject({ code: "RE007" });
      await expect(
        app.query(`update reembed.versions set space_id = 'test/another@8' where id = $1`, [
          versionOf(collection, 1).id,
        ]),
      ).rejects.toMatchObject({ code: "RE007" });
    });

    test("does not change under a complete that has begun", async () => {
      await insertRow(app, collection, "a text");
      const lease = await claim(worker.client, { collection: "spaced" });
      await worker.client.query("begin");
      expect(await complete(worker.client, lease)).toEqual(done(1));
      const changing = setSpace(other.client, "test/another@8");
      const refused = expect(changing).rejects.toMatchObject({ code: "RE007" });
      await untilBlocked(app, other, changing);
      await worker.client.query("commit");
      await refused;
    });

    test("has changed for a complete that begins after it", async () => {
      const id = await insertRow(app, collection, "a text");
      const lease = await claim(worker.client, { collection: "spaced" });
      await other.client.query("begin");
      await setSpace(other.client, "test/another@8");
      const completing = complete(worker.client, lease);
      await untilBlocked(app, worker, completing);
      await other.client.query("commit");
      expect(await completing).toEqual({ ...done(0), stale: [id] });
      expect(await recorded(app, versionOf(collection, 1).id)).toEqual([]);
    });

    test("changes beside an app that writes, and gives up behind one that has deleted and goes on", async () => {
      const id = await insertRow(app, collection, "a text");
      await other.client.query("begin");
      await other.client.query(`update ${collection.table} set title = 'held' where id = $1`, [id]);
      // Were the triggers' table locked for it, this would wait for the app.
      await setSpace(worker.client, "test/another@8");
      await other.client.query(`delete from ${collection.table} where id = $1`, [id]);
      await expect(setSpace(worker.client, SPACES[0])).rejects.toMatchObject({ code: "RE009" });
      await other.client.query("commit");
      expect(await violations(app)).toEqual([]);
    });

    test("means for ever what it meant", async () => {
      await expect(
        app.query(`update reembed.spaces set query_prefix = 'query: ' where id = $1`, [SPACES[0]]),
      ).rejects.toMatchObject({ code: "RE008" });
      await app.query(`update reembed.spaces set price_per_mtok = 0.5 where id = $1`, [SPACES[0]]);
    });
  });

  describe("law 3: spaces never mix", () => {
    let collection: TestCollection;
    const search = (client: Client, version: 1 | 2, vector: string, spaceId: string | null) =>
      client.query(
        `select id from public.match_searched${version === 1 ? "" : "_v2"}($1::extensions.vector, null, query_space => $2)`,
        [vector, spaceId],
      );

    beforeAll(async () => {
      const client = await connect(database.url);
      collection = await createCollection(client, "searched");
      await insertRow(client, collection, "a text");
      await workOff(client, { collection: "searched" });
      await client.end();
    });

    test("a vector of the right width in the named space finds the row", async () => {
      expect((await search(app, 1, SOME_VECTOR, SPACES[0])).rows).toHaveLength(1);
    });

    test.each([
      { what: "another width", vector: "[1,2,3]", spaceId: SPACES[0], code: "RE001" },
      {
        what: "the other version's space, of equal width",
        vector: SOME_VECTOR,
        spaceId: SPACES[1],
        code: "RE002",
      },
      { what: "no space, where two have this width", vector: SOME_VECTOR, spaceId: null, code: "RE002" },
      { what: "a zero vector", vector: "[0,0,0,0,0,0,0,0]", spaceId: SPACES[0], code: "RE003" },
    ])("$what is refused, naming the model", async ({ vector, spaceId, code }) => {
      await expect(search(app, 1, vector, spaceId)).rejects.toMatchObject({
        code,
        hint: expect.stringContaining("model-1"),
      });
    });

    test("a width that only one version has needs no name, until another version takes it", async () => {
      await app.query(
        `alter table ${collection.table} add column embedding_3 extensions.vector(3), add column embedding_4 extensions.vector(3)`,
      );
      await app.query(
        `select reembed.add_space('test', 'narrow', 3), reembed.add_space('test', 'narrower', 3)`,
      );
      const add = (model: string, column: string) =>
        app.query(`select reembed.add_version('searched', $1, $2, 'public.searched_input')`, [
          `test/${model}@3`,
          column,
        ]);
      await add("narrow", "embedding_3");
      const unnamed = () => app.query(`select id from public.match_searched_v3('[1,2,3]')`);
      expect((await unnamed()).rows).toEqual([]);
      await add("narrower", "embedding_4");
      await expect(unnamed()).rejects.toMatchObject({ code: "RE002" });
    });
  });

  describe("law 6: switching is one row and one event", () => {
    let collection: TestCollection;
    const active = async (client: Client) =>
      (await client.query(`select public.embedding_route('switched') ->> 'version' as version`)).rows[0]
        ?.version;

    beforeAll(async () => {
      const client = await connect(database.url);
      collection = await createCollection(client, "switched");
      await insertRow(client, collection, "a text");
      await load(client, collection, 2);
      await workOff(client, { collection: "switched" });
      await client.query(
        (await client.query<{ sql: string }>(`select reembed.index_sql('switched', 2, false) as sql`)).rows[0]
          ?.sql ?? "",
      );
      await client.query(`select reembed.advance('switched', 2)`);
      await client.end();
    });

    test.each([
      { statement: `select reembed.cutover('switched', 2, 'better', force => true)`, from: "1", to: "2" },
      { statement: `select reembed.rollback('switched', 'worse')`, from: "2", to: "1" },
    ])("$statement", async ({ statement, from, to }) => {
      const before = await app.query(`select max(id) as last from reembed.events`);
      await worker.client.query("begin");
      await worker.client.query(statement);
      const locks = await worker.client.query<{ relation: string; mode: string }>(`
        select relation::regclass::text as relation, mode from pg_locks
         where pid = pg_backend_pid() and locktype = 'relation' and mode not in ('AccessShareLock', 'RowShareLock')
           and relation in (select oid from pg_class where relkind = 'r' and relnamespace <> 'pg_catalog'::regnamespace)
         order by 1, 2`);
      expect(locks.rows).toEqual([
        { relation: "reembed.collections", mode: "RowExclusiveLock" },
        { relation: "reembed.events", mode: "RowExclusiveLock" },
      ]);
      // Meanwhile readers and writers go on, and see what was.
      await other.client.query("set statement_timeout = '2s'");
      expect(await active(other.client)).toBe(from);
      await other.client.query(
        `select * from public.match_switched($1::extensions.vector, query_space => $2)`,
        [SOME_VECTOR, SPACES[0]],
      );
      await insertRow(other.client, collection, `written during ${statement}`);
      await worker.client.query("commit");
      expect(await active(other.client)).toBe(to);
      const events = await app.query(
        `select kind, version, detail ->> 'from' as "from" from reembed.events where id > $1`,
        [before.rows[0]?.last],
      );
      expect(events.rows).toEqual([{ kind: to === "2" ? "cutover" : "rollback", version: Number(to), from }]);
    });

    test("a second switch gives up instead of waiting for the first", async () => {
      await worker.client.query("begin");
      await worker.client.query(`select reembed.cutover('switched', 2, 'once', true)`);
      await expect(
        other.client.query(`select reembed.cutover('switched', 2, 'twice', true)`),
      ).rejects.toMatchObject({
        code: "RE009",
      });
      await worker.client.query("rollback");
    });

    test("what is not ready is refused, and what is unfinished needs force and a reason", async () => {
      await createCollection(app, "unready");
      const cutover = (args: string) => app.query(`select reembed.cutover('unready', 2, ${args})`);
      await expect(cutover("'x', true")).rejects.toMatchObject({ code: "RE007" });
      await app.query(`insert into public.unready (title) values ('one')`);
      await app.query(`select reembed.start_loading('unready', 2)`);
      await expect(cutover("'not enqueued yet', true")).rejects.toMatchObject({ code: "RE007" });
      await app.query(`select reembed.enqueue_missing((select v.id from reembed.versions v join reembed.collections c
        on c.id = v.collection_id where c.name = 'unready' and v.number = 2))`);
      await app.query(`select reembed.finish_enqueueing('unready', 2)`);
      await expect(cutover("null")).rejects.toMatchObject({ code: "RE007" });
      await expect(cutover("null, true")).rejects.toMatchObject({ code: "RE004" });
      await expect(app.query(`select reembed.rollback('unready')`)).rejects.toMatchObject({ code: "RE007" });
    });
  });

  describe("law 7: a request never names an identifier", () => {
    test("no function that an API role may call takes an identifier's type", async () => {
      const { rows } = await app.query(`
        select p.oid::regprocedure::text as function, role
          from pg_proc p, unnest(array['anon', 'authenticated', 'service_role']) role
         where has_function_privilege(role, p.oid, 'execute') and p.pronamespace in ('public'::regnamespace, 'reembed'::regnamespace)
           and exists (select from unnest(p.proargtypes::oid[]) t
                        where t in ('name'::regtype, 'name[]'::regtype, 'regclass'::regtype, 'regproc'::regtype, 'regprocedure'::regtype, 'regtype'::regtype))`);
      expect(rows).toEqual([]);
    });

    test("what service_role names is looked up, never executed", async () => {
      const hostile = `notes'; drop table public.notes; --`;
      const call = (sql: string, values: unknown[]) =>
        asRole(app, "service_role", (client) => client.query(sql, values));
      await expect(call(`select public.reembed_claim($1)`, [hostile])).rejects.toMatchObject({
        code: "RE005",
      });
      await expect(call(`select public.reembed_claim('notes', $1::int)`, [999])).rejects.toMatchObject({
        code: "RE006",
      });
      await expect(call(`select public.embedding_route($1)`, [hostile])).rejects.toMatchObject({
        code: "RE005",
      });
      const refused = await call(
        `select public.reembed_complete($1, $2, gen_random_uuid(), array[$3], array['00'], array[$4], array[1]) as outcomes`,
        [await versionId("notes", 1), hostile, hostile, SOME_VECTOR],
      );
      expect(refused.rows[0]?.outcomes).toMatchObject({ done: 0, stale: [hostile] });
      expect(
        (await app.query(`select to_regclass('public.notes') is not null as stands`)).rows[0]?.stands,
      ).toBe(true);
    });

    async function versionId(name: string, number: number): Promise<number> {
      const { rows } = await app.query<{ id: number }>(
        `select v.id from reembed.versions v join reembed.collections c on c.id = v.collection_id where c.name = $1 and v.number = $2`,
        [name, number],
      );
      return rows[0]?.id ?? 0;
    }

    test.each([
      {
        what: "a collection's name",
        sql: `select reembed.add_collection('a"b', 'public.notes', array['id'])`,
      },
      {
        what: "an input function",
        sql: `select reembed.add_version('notes', 'test/model-1@8', 'embedding_2', 'public.notes_input(public.notes), pg_sleep', match_function => 'match_x')`,
      },
      {
        what: "a match function",
        sql: `select reembed.add_version('notes', 'test/model-1@8', 'embedding_2', 'public.notes_input', match_function => 'x'' || pg_sleep(1) || ''')`,
      },
      {
        what: "a vector column",
        sql: `alter table public.notes add column "$body$" extensions.vector(8);
              select reembed.add_version('notes', 'test/model-1@8', '$body$', 'public.notes_input')`,
      },
      { what: "a model", sql: `select reembed.add_space('test', 'mo''del', 8)` },
      { what: "a model with a placeholder", sql: `select reembed.add_space('test', 'mo%sdel', 8)` },
    ])("$what that is none is refused at the registry", async ({ sql }) => {
      await expect(app.query(sql)).rejects.toMatchObject({ code: expect.stringMatching(/^(23514|RE008)$/) });
    });

    describe.each([
      { type: "text", keys: `"the ""key""" text`, columns: ['the "key"'], values: `'it''s ' || n || ' "\\'` },
      { type: "bigint", keys: `"Id" bigint`, columns: ["Id"], values: "9007199254740993 + n" },
      {
        type: "uuid, bigint and text",
        keys: `"Tenant" uuid, "no;" bigint, "na'me" text`,
        columns: ["Tenant", "no;", "na'me"],
        values: `'00000000-0000-4000-8000-000000000001', 9007199254740993 + n, E'\\\\"' || n`,
      },
    ])("a quoted table with a key of $type", ({ type, keys, columns, values }) => {
      test.each(PLACEMENTS)("goes through the whole cycle with its vectors %s", async (placement) => {
        const name = `weird_${type.replaceAll(/\W+/g, "_")}_${placement === "in place" ? "in" : "own"}`;
        const quoted = columns.map((column) => app.escapeIdentifier(column)).join(", ");
        const table = `public.${app.escapeIdentifier(`we"ird Table ${name}`)}`;
        const vectors =
          placement === "in place" ? table : `public.${app.escapeIdentifier(`Ve"ctors ${name}`)}`;
        const input = `public.${app.escapeIdentifier(`in"put ${name}`)}`;
        const column = `Em"bed'ding`;
        const columnSql = `${app.escapeIdentifier(column)} extensions.vector(8)`;
        await app.query(`
          create table ${table} (${keys}, "Ti'tle" text, "Ki""nd" text default 'a'${placement === "in place" ? `, ${columnSql}` : ""}, primary key (${quoted}));
          create function ${input}(r ${table}) returns text language sql immutable as $$ select r."Ti'tle" $$`);
        if (placement === "table of its own") {
          await app.query(`create table ${vectors} (${keys}, ${columnSql} not null, primary key (${quoted}),
            foreign key (${quoted}) references ${table} on delete cascade on update cascade)`);
        }
        await app.query("begin");
        await app.query(
          `select reembed.add_collection($1, $2::regclass, public_columns => array['Ti''tle'], filter_columns => array['Ki"nd'])`,
          [name, table],
        );
        await app.query(`select reembed.add_version($1, $2, $3, $4, vector_table => $5::regclass)`, [
          name,
          await space("test/weird@8"),
          column,
          input,
          vectors,
        ]);
        await app.query("commit");
        await app.query(
          `insert into ${table} (${quoted}, "Ti'tle") select ${values}, 'text ' || n from generate_series(1, 5) n`,
        );
        await app.query(`select reembed.start_loading($1, 1)`, [name]);
        const id = await versionId(name, 1);
        const loaded = await app.query(`select reembed.enqueue_missing($1, max_rows => 3) as step`, [id]);
        expect(loaded.rows[0]?.step).toMatchObject({ enqueued: 3, busy: [] });
        const rest = await app.query(`select reembed.enqueue_missing($1, $2, 3) as step`, [
          id,
          loaded.rows[0]?.step.last,
        ]);
        expect(rest.rows[0]?.step).toEqual({ enqueued: 2, busy: [], last: null });
        await app.query(`select reembed.finish_enqueueing($1, 1)`, [name]);
        expect(await workOff(worker.client, { collection: name })).toBe(5);
        expect(await violations(app)).toEqual([]);

        await app.query(`update ${table} set "Ti'tle" = 'edited' where "Ti'tle" = 'text 1'`);
        await app.query(`delete from ${table} where "Ti'tle" = 'text 2'`);
        await app.query(`select reembed.reconcile($1)`, [name]);
        expect(await violations(app)).toEqual([]);
        expect(await workOff(worker.client, { collection: name })).toBe(1);
        expect(await recorded(app, id)).toHaveLength(4);
        const found = await app.query(
          `select * from public.${app.escapeIdentifier(`match_${name}`)}($1::extensions.vector, null, 10, 'a')`,
          [SOME_VECTOR],
        );
        expect(found.rows).toHaveLength(4);
        expect(found.fields.map((field) => field.name)).toEqual(["Ti'tle", "similarity"]);
        const [route] = (await app.query(`select public.embedding_route($1) as route`, [name])).rows;
        expect(route.route).toMatchObject({ version: 1, active: true, space: "test/weird@8" });
      });
    });
  });

  describe("laws 8 and 10: outcomes are values, and no error shows a text or a vector", () => {
    const SECRET = "the patient's name";
    let collection: TestCollection;

    beforeAll(async () => {
      const client = await connect(database.url);
      collection = await createCollection(client, "private");
      await client.end();
    });

    test("every outcome of one call comes back as a value", async () => {
      const ids: Record<string, string> = {};
      for (const outcome of ["done", "stale", "lost_lease", "gone", "busy"]) {
        ids[outcome] = await insertRow(app, collection, outcome);
      }
      const lease = await claim(worker.client, { collection: "private" });
      await app.query(`update private set title = 'newer' where id = $1`, [ids.stale]);
      await app.query(`update private set title = title || '!' where id = $1`, [ids.lost_lease]);
      await app.query(`update private set title = rtrim(title, '!') where id = $1`, [ids.lost_lease]);
      await app.query(`delete from private where id = $1`, [ids.gone]);
      await other.client.query("begin");
      await other.client.query(`select from private where id = $1 for update`, [ids.busy]);
      expect(await complete(worker.client, lease)).toEqual({
        done: 1,
        stale: [ids.stale],
        lost_lease: [ids.lost_lease],
        gone: [ids.gone],
        busy: [ids.busy],
        refused: [],
      });
      await other.client.query("rollback");
    });

    test("an idle, a paused and a locked claim are values", async () => {
      await app.query(`truncate private`);
      expect(await claim(worker.client, { collection: "private" })).toMatchObject({
        reason: "idle",
        jobs: [],
      });
      await insertRow(app, collection, "waiting");
      await app.query(`select reembed.pause_space($1, 'no quota')`, [SPACES[0]]);
      expect(await claim(worker.client, { collection: "private" })).toMatchObject({
        reason: "paused",
        pause_reason: "no quota",
      });
      await app.query(`select reembed.resume_space($1)`, [SPACES[0]]);
      await app.query("begin");
      await app.query("lock table private in access exclusive mode");
      expect(await claim(worker.client, { collection: "private" })).toMatchObject({
        reason: "busy",
        jobs: [],
      });
      await app.query("rollback");
      expect((await claim(worker.client, { collection: "private" })).jobs).toHaveLength(1);
    });

    test.each([
      { what: "a width that does not fit", vector: "[1,2,3]" },
      { what: "something that is no vector", vector: "[0.1234567,0.7654321,x]" },
      { what: "a vector that is not finite", vector: "[NaN,1,1,1,1,1,1,1]" },
    ])("$what is refused without showing it or the text", async ({ vector }) => {
      await app.query(`truncate private`);
      await insertRow(app, collection, SECRET);
      const lease = await claim(worker.client, { collection: "private" });
      const error = await worker.client
        .query(`select reembed.complete($1, $2, $3, $4, $5, array[$6], array[1])`, [
          lease.version_id,
          lease.space.id,
          lease.lease_token,
          lease.jobs.map((job) => job.row_id),
          lease.jobs.map((job) => job.hash),
          vector,
        ])
        .then(
          () => null,
          (thrown: unknown) => thrown,
        );
      expect(error).toMatchObject({ code: "RE004", message: expect.stringContaining("vectors") });
      const shown = JSON.stringify(error, Object.getOwnPropertyNames(error));
      expect(shown).not.toContain(SECRET);
      expect(shown).not.toContain(vector);
      expect(await jobs(app, versionOf(collection, 1).id)).toMatchObject([{ leased: true }]);
    });
  });

  afterAll(() => database.drop());
});
