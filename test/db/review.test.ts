/** What a hostile table, row, role or session does to the core: each of these broke it once. */
import type { Client } from "pg";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";
import { type Claim, claim, done, type Outcomes } from "../support/worker.ts";

describePostgres("hostile surroundings", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let app: Session;
  let owner: Client;

  beforeAll(async () => {
    database = await createDatabase();
    sessions = new Sessions(database.url);
    const { client } = await sessions.open();
    await client.query(
      "select reembed.add_space('test', 'one', 4), reembed.add_space('test', 'two', 4), reembed.add_space('test', 'three', 4)",
    );
    await sessions.close();
  });
  beforeEach(async () => {
    sessions = new Sessions(database.url);
    app = await sessions.open();
    owner = app.client;
  });
  afterEach(() => sessions.close());

  interface Table {
    readonly columns?: string;
    /** The input function's body, of a row r. */
    readonly input?: string;
    readonly publicColumns?: string;
    readonly filters?: string;
    readonly keys?: string;
    readonly space?: string;
    /** After `create table`: what else to make. */
    readonly extra?: string;
  }

  /** A table `name` with a bigint key, a body and a vector, as a collection whose version 1 is maintained. */
  async function adopt(name: string, table: Table = {}): Promise<number> {
    await owner.query(`
      create table public.${name} (${table.columns ?? "id bigint primary key, body text"}, embedding extensions.vector(4));
      create function public.${name}_input(r public.${name}) returns text language sql immutable as $$ select ${table.input ?? "r.body"} $$;
      ${table.extra ?? ""}`);
    await owner.query("begin");
    try {
      await owner.query("select reembed.add_collection($1, $2::regclass, $3, $4, $5)", [
        name,
        `public.${name}`,
        table.publicColumns ?? "{id,body}",
        table.filters ?? "{}",
        table.keys ?? null,
      ]);
      await owner.query("select reembed.add_version($1, $2, 'embedding', $3)", [
        name,
        table.space ?? "test/one@4",
        `public.${name}_input`,
      ]);
      await owner.query("commit");
    } catch (error) {
      await owner.query("rollback");
      throw error;
    }
    await owner.query("select reembed.start_loading($1, 1)", [name]);
    await owner.query("select reembed.finish_enqueueing($1, 1)", [name]);
    return value("select (reembed.version_numbered($1, 1)).id", [name]);
  }

  /** The one value of a statement's one row. */
  async function value<T>(sql: string, values: readonly unknown[] = [], client = owner): Promise<T> {
    const { rows } = await client.query({ text: sql, values: [...values], rowMode: "array" });
    return (rows as unknown as [T][])[0]?.[0] as T;
  }

  const rejection = (work: Promise<unknown>) =>
    work.then(
      () => ({ code: "none", message: "" }),
      (error: { code: string; message: string }) => ({ code: error.code, message: error.message }),
    );

  describe("a role that may write rows", () => {
    test("runs nothing with the owner's rights through types of its own", async () => {
      await adopt("diary", {
        extra: `
          create table public.seen (who text);
          grant insert on public.seen to public;
          create function public.spy() returns boolean language plpgsql as
            $spy$ begin insert into public.seen values (current_user); return true; end $spy$;
          grant insert, update, delete, select on public.diary to authenticated;`,
      });
      const { client } = await sessions.open();
      await client.query("set role authenticated");
      for (const type of ["text", "jsonb", "uuid", "bytea", "name", "regclass"]) {
        await client.query(`create domain pg_temp.${type} as pg_catalog.${type} check (public.spy())`);
      }
      await client.query("insert into public.diary values (1, 'a'), (2, 'b')");
      await client.query("update public.diary set body = 'c', id = id + 10");
      await client.query("delete from public.diary");
      await client.query("select public.embedding_route('diary'), public.embedding_route('diary', 1)");
      await rejection(client.query("select public.embedding_route('diary', 2)"));
      await rejection(client.query("select public.embedding_route('none')"));
      expect(
        await value("select array_agg(distinct who) from public.seen where who <> 'authenticated'"),
      ).toBe(null);
    });
  });

  const claimAny = () => claim(owner);
  const jobsOf = async (version: number) =>
    (
      await owner.query<{ row_id: string; failed: boolean; error: string | null }>(
        "select row_id, failed_at is not null as failed, error from reembed.jobs where version_id = $1 order by row_id",
        [version],
      )
    ).rows;
  /** Completes a claim with the vector [1,2,3,4] for each of its rows. */
  const store = (lease: Claim) =>
    value<Outcomes>("select reembed.complete($1, $2, $3, $4, $5, $6, $7)", [
      lease.version_id,
      lease.space.id,
      lease.lease_token,
      lease.jobs.map(({ row_id }) => row_id),
      lease.jobs.map(({ hash }) => hash),
      lease.jobs.map(() => "[1,2,3,4]"),
      lease.jobs.map(() => 1),
    ]);
  const rowIds = ({ jobs }: Claim) => jobs.map(({ row_id }) => row_id).sort();
  /** Nothing is due but what a test enqueues. */
  const settleAll = () =>
    owner.query(`do $$ declare emptied record; begin
      for emptied in select c.source_table from reembed.collections c join pg_class x on x.oid = c.source_table loop
        execute format('truncate %s cascade', emptied.source_table);
      end loop;
    end $$`);

  describe("a table", () => {
    test("may have columns called t, old_id or found_id", async () => {
      await settleAll();
      await adopt("letters", {
        columns:
          "id bigint primary key, body text, t text, e text, old_id bigint, new_id bigint, found_id text",
      });
      await owner.query("insert into letters (id, body, t) values (1, 'a', 'b'), (2, 'c', 'd')");
      expect(await store(await claimAny())).toEqual(done(2));
      await owner.query("update letters set id = id + 10, old_id = id");
      expect(await value("select count(*)::int from reembed.violations()")).toBe(0);
      expect(await claimAny()).toMatchObject({ reason: "again", resolved: { current: 2 } });
      await owner.query("update letters set embedding = null");
      expect(rowIds(await claimAny())).toEqual(["11", "12"]);
    });
  });

  describe("what cannot be kept current is no collection", () => {
    const refused = (sql: string, values: readonly unknown[] = []) =>
      rejection(owner.query(sql, [...values]));

    test.each([
      ["a view", "create view odd as select 1::bigint as id, 'a' as body", "not an ordinary table"],
      [
        "a partitioned table, whose rows move without an update",
        "create table odd (id bigint primary key, body text) partition by list (id)",
        "not an ordinary table",
      ],
      [
        "a partition, which is written through its parent",
        "create table whole (id bigint primary key, body text) partition by list (id); create table odd partition of whole default",
        "not an ordinary table",
      ],
      [
        "a table with heirs, whose rows it shows as its own",
        "create table odd (id bigint primary key, body text); create table heir () inherits (odd)",
        "not an ordinary table",
      ],
      [
        "a key that may be null",
        "create table odd (id bigint unique, body text)",
        "no key of public.odd that is unique and not null",
      ],
      [
        "a key that only some rows have unique",
        "create table odd (id bigint not null, body text); create unique index on odd (id) where body <> ''",
        "no key of public.odd that is unique and not null",
      ],
      [
        "a key whose order is not its text's",
        "create extension if not exists citext schema extensions; create table odd (id extensions.citext primary key, body text)",
        "of type extensions.citext, which cannot name a row",
      ],
    ])("%s", async (_what, ddl, message) => {
      await owner.query(`begin; ${ddl}`);
      const error = await refused(
        "select reembed.add_collection('odd', 'public.odd', '{body}', key_columns => '{id}')",
      );
      await owner.query("rollback");
      expect(error).toMatchObject({ code: "RE008", message: expect.stringContaining(message) });
    });

    test("public columns that the match RPC has itself, and filters without equality", async () => {
      await owner.query(
        "begin; create table odd (id bigint primary key, similarity real, doc json, kind text, filter_kind text)",
      );
      for (const [columns, filters, message] of [
        ["{id,similarity}", "{}", "similarity is a name that the match RPC itself uses"],
        ["{id,filter_kind}", "{kind}", "filter_kind is a name that the match RPC itself uses"],
        ["{id}", "{doc}", "doc is of type json, which knows no equality"],
      ]) {
        await owner.query("savepoint before");
        const error = await refused("select reembed.add_collection('odd', 'public.odd', $1, $2)", [
          columns,
          filters,
        ]);
        expect(error).toMatchObject({ code: "RE008", message: expect.stringContaining(message ?? "") });
        await owner.query("rollback to before");
      }
      await owner.query("rollback");
    });

    test("vectors in a table of their own that is not keyed by the row", async () => {
      await adopt("keyed");
      await owner.query("create table loose_vectors (id bigint, embedding extensions.vector(4))");
      const error = await refused(
        "select reembed.add_version('keyed', 'test/two@4', 'embedding', 'public.keyed_input', vector_table => 'loose_vectors')",
      );
      expect(error).toMatchObject({
        code: "RE008",
        message: expect.stringContaining("vector_key: (id) is no key of public.loose_vectors"),
      });
    });

    test("a place where another version keeps its vectors: each would overwrite the other's", async () => {
      await adopt("taken", {
        extra: `create table public.taken_vectors (id bigint primary key, one extensions.vector(4), two extensions.vector(4));
          alter table public.taken add column two extensions.vector(4)`,
      });
      const adding =
        "select reembed.add_version($1, 'test/two@4', $2, $3, vector_table => $4::regclass, match_function => $5)";
      const add = (column: string, table: string | null = null, collection = "taken") =>
        owner.query(adding, [
          collection,
          column,
          `public.${collection}_input`,
          table,
          `match_${crypto.randomUUID().replaceAll("-", "")}`,
        ]);
      const taken = (where: string) => ({
        code: "RE008",
        message: expect.stringContaining(where),
      });
      expect(await rejection(add("embedding"))).toMatchObject(
        taken("vector_table: public.taken, column embedding: version 1 of taken keeps its vectors there"),
      );
      await add("two");
      await add("one", "public.taken_vectors");
      // Its rows come and go with the version's vectors, whatever other columns they have; also by another collection's hand.
      expect(await rejection(add("two", "public.taken_vectors"))).toMatchObject(taken("version 3 of taken"));
      await adopt("taker");
      expect(await rejection(add("two", "public.taken_vectors", "taker"))).toMatchObject(
        taken("version 3 of taken"),
      );
      expect(await rejection(add("two", "public.taken", "taker"))).toMatchObject(taken("version 1 of taken"));
      // Two at once: the second waits for the first, and then sees it.
      await owner.query(
        "create table public.free_vectors (id bigint primary key, three extensions.vector(4))",
      );
      await owner.query("begin");
      await add("three", "public.free_vectors");
      const [second, observer] = [await sessions.open(), await sessions.open()];
      const late = rejection(
        second.client.query(adding, [
          "taker",
          "three",
          "public.taker_input",
          "public.free_vectors",
          "match_late",
        ]),
      );
      await untilBlocked(observer.client, second, late);
      await owner.query("commit");
      expect(await late).toMatchObject(taken("version 4 of taken"));
      // What is finalized holds no place.
      await owner.query("select reembed.finalize('taken', 3)");
      await owner.query(
        "drop table if exists public.taken_vectors; create table public.taken_vectors (id bigint primary key, two extensions.vector(4))",
      );
      await add("two", "public.taken_vectors");
    });
  });

  describe("a key", () => {
    test("is not widened by what its index carries along", async () => {
      await adopt("covered", { columns: "id bigint, body text, primary key (id) include (body)" });
      expect(
        await value("select key_columns::text[] from reembed.collections where name = 'covered'"),
      ).toEqual(["id"]);
    });
  });

  describe("a match RPC", () => {
    test("is not misled by columns that are named as its parameters", async () => {
      await adopt("params", {
        columns: `id bigint primary key, body text, kind text, filter_kind text, query_embedding extensions.vector(4),
                  match_count int, match_threshold float, query_space text`,
        filters: "{kind}",
      });
      await owner.query(`insert into params (id, kind, filter_kind, query_embedding, match_count, match_threshold, embedding)
        values (1, 'a', 'b', '[0,1,0,0]', 1, 2, '[1,0,0,0]'), (2, 'b', 'b', '[1,0,0,0]', 1, 2, '[0,1,0,0]')`);
      const found = async (sql: string) => (await owner.query(sql)).rows.map(({ id }) => id);
      expect(await found("select id from match_params('[1,0.5,0,0]', null, 2)")).toEqual(["1", "2"]);
      expect(await found("select id from match_params('[1,0.5,0,0]', null, 1)")).toEqual(["1"]);
      expect(await found("select id from match_params('[1,0.5,0,0]', 0.5, 2)")).toEqual(["1"]);
      expect(await found("select id from match_params('[1,0.5,0,0]', null, 2, filter_kind => 'b')")).toEqual([
        "2",
      ]);
    });

    test("filters by numbers, uuids, booleans and enums", async () => {
      await owner.query("create type mood as enum ('sad', 'glad')");
      await adopt("typed", {
        columns: "id bigint primary key, body text, n int, u uuid, b boolean, m mood",
        filters: "{n,u,b,m}",
      });
      const u = "00000000-0000-4000-8000-000000000000";
      await owner.query(
        `insert into typed values (1, 'a', 7, '${u}', true, 'glad', '[1,0,0,0]'), (2, 'b', 8, null, false, 'sad', '[1,0,0,0]')`,
      );
      for (const filter of [
        "filter_n => 7",
        `filter_u => '${u}'`,
        "filter_b => true",
        "filter_m => 'glad'",
      ]) {
        const { rows } = await owner.query(`select id from match_typed('[1,0,0,0]', null, 5, ${filter})`);
        expect(rows).toEqual([{ id: "1" }]);
      }
    });
  });

  describe("an index", () => {
    test("has a name of its own, however long its table's and column's", async () => {
      await adopt("long_names_of_tables_and_columns", {
        columns:
          "id bigint primary key, body text, embedding_of_the_whole_document_1 extensions.vector(4), embedding_of_the_whole_document_2 extensions.vector(4)",
      });
      for (const [n, space] of [
        [1, "test/two@4"],
        [2, "test/three@4"],
      ]) {
        await owner.query(
          "select reembed.add_version('long_names_of_tables_and_columns', $1, $2, 'public.long_names_of_tables_and_columns_input')",
          [space, `embedding_of_the_whole_document_${n}`],
        );
      }
      for (const version of [2, 3]) {
        await owner.query(
          await value<string>("select reembed.index_sql('long_names_of_tables_and_columns', $1, false)", [
            version,
          ]),
        );
        expect(
          await value(
            "select reembed.has_index(reembed.version_numbered('long_names_of_tables_and_columns', $1))",
            [version],
          ),
        ).toBe(true);
      }
    });

    test("of some rows is none", async () => {
      await adopt("partly");
      await owner.query("drop index partly_embedding_hnsw");
      await owner.query(
        "create index on partly using hnsw (embedding extensions.vector_cosine_ops) where id < 10",
      );
      expect(await value("select reembed.has_index(reembed.version_numbered('partly', 1))")).toBe(false);
    });
  });

  describe("a lifecycle step in a transaction of the caller's", () => {
    test("leaves the caller's time-outs alone", async () => {
      await adopt("patient");
      await owner.query(
        "alter table patient add embedding_2 extensions.vector(4); begin; set local lock_timeout = '7s'",
      );
      await owner.query(
        "select reembed.add_version('patient', 'test/two@4', 'embedding_2', 'public.patient_input')",
      );
      await owner.query(
        "select reembed.set_space('patient', 2, 'test/three@4'), reembed.start_loading('patient', 2)",
      );
      await owner.query("select reembed.finish_enqueueing('patient', 2)");
      await owner.query("select reembed.cutover('patient', 2, 'a test', true), reembed.rollback('patient')");
      expect(await value("show lock_timeout")).toBe("7s");
      await owner.query("rollback");
    });

    test("start_loading that waited for another's changes nothing more", async () => {
      await adopt("raced");
      await owner.query("alter table raced add embedding_2 extensions.vector(4)");
      await owner.query(
        "select reembed.add_version('raced', 'test/two@4', 'embedding_2', 'public.raced_input')",
      );
      const { client } = await sessions.open();
      await client.query("begin isolation level read committed");
      await client.query("select reembed.start_loading('raced', 2)");
      const second = owner.query("select reembed.start_loading('raced', 2)");
      await client.query("select reembed.finish_enqueueing('raced', 2), reembed.advance('raced', 2)");
      await client.query("commit");
      await second;
      expect(await value("select (reembed.version_numbered('raced', 2)).state")).toBe("ready");
      expect(
        await value(
          "select count(*)::int from reembed.events where kind = 'load' and collection = 'raced' and version = 2",
        ),
      ).toBe(1);
    });
  });

  describe("the application's own functions", () => {
    test.each(["in place", "table of its own"])(
      "its triggers find their tables without naming schemas: vectors %s",
      async (placement) => {
        await settleAll();
        const name = placement === "in place" ? "audited" : "audited_apart";
        const version = placement === "in place" ? 1 : 2;
        await owner.query(
          `create table ${name}_vectors (id bigint primary key, embedding extensions.vector(4)); create table ${name}_log (who text)`,
        );
        await adopt(name);
        if (version === 2) {
          await owner.query(
            "select reembed.add_version($1, 'test/two@4', 'embedding', $2, vector_table => $3::regclass)",
            [name, `public.${name}_input`, `${name}_vectors`],
          );
          await owner.query("select reembed.start_loading($1, 2), reembed.finish_enqueueing($1, 2)", [name]);
        }
        await owner.query(`
          create function ${name}_audit() returns trigger language plpgsql as
            $$ begin insert into ${name}_log values (current_schema()); return new; end $$;
          create trigger audit after insert or update on ${placement === "in place" ? name : `${name}_vectors`}
            for each row execute function ${name}_audit();`);
        await owner.query(`insert into ${name} values (1, 'a'), (2, 'b'); truncate ${name}_log`);
        expect(await store(await claim(owner, { collection: name, version }))).toEqual(done(2));
        expect(await value(`select array_agg(who) from ${name}_log`)).toEqual(["public", "public"]);
        expect(await value("show search_path")).toBe('"$user", public, extensions');
      },
    );

    test("an input function that needs a search path is refused when it is registered", async () => {
      await owner.query(
        "create function shorten(a text) returns text language sql immutable as $$ select left(a, 10) $$",
      );
      expect(await rejection(adopt("lost_names", { input: "shorten(r.body)" }))).toMatchObject({
        code: "RE008",
        message: expect.stringContaining("cannot be called with an empty search path (42883)"),
      });
    });
  });

  describe("a row whose input function raises an error", () => {
    let version: number;
    beforeAll(async () => {
      const before = new Sessions(database.url);
      owner = (await before.open()).client;
      version = await adopt("ratios", {
        columns: "id bigint primary key, body text, n int, note text",
        input: "r.body || (10 / r.n)::text",
      });
      await adopt("others");
      await before.close();
    });
    beforeEach(async () => {
      await settleAll();
    });

    test("fails alone: the others are claimed, and so are other collections", async () => {
      await owner.query("insert into ratios values (1, 'one', 1), (2, 'secret', 0), (3, 'three', 1)");
      await owner.query("insert into others values (1, 'a')");
      const lease = await claimAny();
      expect(rowIds(lease)).toEqual(["1", "3"]);
      expect(lease.resolved.failed).toBe(1);
      expect(await store(lease)).toEqual(done(2));
      expect(rowIds(await claimAny())).toEqual(["1"]);
      expect(await jobsOf(version)).toEqual([
        { row_id: "2", failed: true, error: "public.ratios_input cannot make the input of this row (22012)" },
      ]);
      expect(await value("select count(*)::int from reembed.violations()")).toBe(0);
      await owner.query("update ratios set n = 2 where id = 2");
      expect(rowIds(await claimAny())).toEqual(["2"]);
    });

    test("may be written by the app", async () => {
      await owner.query("insert into ratios values (1, 'one', 1)");
      expect(await store(await claimAny())).toEqual(done(1));
      await owner.query("update ratios set n = 0");
      await owner.query("update ratios set note = 'still broken'");
      expect((await jobsOf(version)).map((job) => job.row_id)).toEqual(["1"]);
    });

    test("turns bad after the claim: its lease is lost, the others are stored", async () => {
      await owner.query("insert into ratios values (1, 'one', 1), (2, 'two', 1), (3, 'three', 1)");
      const lease = await claimAny();
      await owner.query("update ratios set n = 0 where id = 2");
      expect(await store(lease)).toEqual({ ...done(2), lost_lease: ["2"] });
    });

    test("does not stop the loading of the others", async () => {
      await owner.query("insert into ratios values (1, 'one', 1), (2, 'two', 0), (3, 'three', 1)");
      await owner.query("delete from reembed.jobs");
      const { rows } = await owner.query("select row_id, problem from reembed.violations()");
      expect(rows).toContainEqual({
        row_id: null,
        problem: "public.ratios_input cannot make the input of a row that has no job (22012)",
      });
      expect(await value("select reembed.enqueue_missing($1)", [version])).toMatchObject({
        enqueued: 3,
        last: null,
      });
      expect(await value("select reembed.reconcile('ratios')")).toMatchObject({ enqueued: 0 });
      expect(rowIds(await claimAny())).toEqual(["1", "3"]);
    });
  });

  describe("what somebody holds on one collection leaves the others to be claimed", () => {
    beforeAll(async () => {
      const before = new Sessions(database.url);
      owner = (await before.open()).client;
      await adopt("first_one");
      await adopt("second_one", { space: "test/two@4" });
      await before.close();
    });
    beforeEach(async () => {
      await settleAll();
      await owner.query("insert into first_one values (1, 'a')");
      await owner.query("insert into second_one values (1, 'b')");
      await owner.query(
        "update reembed.jobs set run_at = run_at - interval '1 hour' where version_id = (reembed.version_numbered('first_one', 1)).id",
      );
    });
    const elsewhere = async (sql: string) => {
      const { client } = await sessions.open();
      await client.query("begin");
      await client.query(sql);
      return client;
    };

    test("its jobs, by a transaction that stays open", async () => {
      const holder = await elsewhere("update first_one set body = 'being edited'");
      expect(await claimAny()).toMatchObject({ collection: "second_one", reason: "work" });
      expect(await claimAny()).toMatchObject({ reason: "busy" });
      await holder.query("commit");
      expect(await claimAny()).toMatchObject({ collection: "first_one", reason: "work" });
    });

    test("its table, by a statement that locks it", async () => {
      const holder = await elsewhere("lock table first_one in access exclusive mode");
      expect(await claimAny()).toMatchObject({ collection: "second_one", reason: "work" });
      expect(await claimAny()).toMatchObject({ reason: "busy" });
      await holder.query("rollback");
    });

    test("two claims never wait for each other's space", async () => {
      const holder = await elsewhere("update first_one set body = 'being edited'");
      const other = await elsewhere("select from reembed.spaces where id = 'test/two@4' for no key update");
      expect(await claimAny()).toMatchObject({ reason: "busy" });
      await holder.query("rollback");
      await other.query("rollback");
    });
  });

  describe("a collection", () => {
    test.each([
      ["whose table was dropped", "drop table doomed cascade"],
      ["whose vector column was dropped", "alter table doomed drop column embedding"],
    ])("%s stops no other", async (_what, ddl) => {
      await settleAll();
      await owner.query("drop table if exists doomed, spared cascade");
      await owner.query(
        "drop function if exists doomed_input, spared_input; delete from reembed.collections where name in ('doomed', 'spared')",
      );
      await adopt("doomed");
      await adopt("spared");
      await owner.query("insert into doomed values (1, 'a')");
      await owner.query(ddl);
      expect(await claimAny()).toMatchObject({ reason: "idle" });
      expect(await value("select reembed.work_is_due()")).toBe(false);
      await owner.query("insert into spared values (1, 'b')");
      expect(await claimAny()).toMatchObject({ reason: "work", collection: "spared" });
      expect((await owner.query("select * from reembed.violations()")).rows).toEqual([
        { collection: "doomed", version: 1, row_id: null, problem: "its table or its vector column is gone" },
      ]);
      await owner.query("select reembed.status(), reembed.reconcile()");
      await owner.query("delete from reembed.collections where name = 'doomed'");
      expect(await value("select count(*)::int from reembed.violations()")).toBe(0);
    });
  });

  describe("a vector that the table does not take", () => {
    test.each([
      [
        "because of a constraint",
        "alter table TABLE add constraint picky check (embedding is null or body <> 'bad')",
        "the table refused the vector (23514)",
      ],
      [
        "because a trigger raises an error",
        `create function picky() returns trigger language plpgsql as $$ begin
           if new.body = 'bad' and new.embedding is not null then raise 'no: %', new.body; end if; return new; end $$;
         create trigger picky after update on TABLE for each row execute function picky()`,
        "the table refused the vector (P0001)",
      ],
      [
        "because a trigger drops the update",
        `create function picky() returns trigger language plpgsql as $$ begin
           if new.body = 'bad' and new.embedding is not null then return null; end if; return new; end $$;
         create trigger picky before update on TABLE for each row execute function picky()`,
        "a trigger of the table withheld or changed the vector",
      ],
      [
        "because a trigger takes the vector out",
        `create function picky() returns trigger language plpgsql as $$ begin
           if new.body = 'bad' then new.embedding := null; end if; return new; end $$;
         create trigger picky before update on TABLE for each row execute function picky()`,
        "a trigger of the table withheld or changed the vector",
      ],
    ])("%s fails its row alone, once", async (_why, ddl, error) => {
      await settleAll();
      await owner.query(
        "drop table if exists picked cascade; drop function if exists picked_input, picky; delete from reembed.collections where name = 'picked'",
      );
      const version = await adopt("picked");
      await owner.query(ddl.replace("TABLE", "picked"));
      await owner.query(
        "insert into picked select n, case n when 4 then 'bad' else 'text ' || n end from generate_series(1, 7) n",
      );
      const lease = await claimAny();
      expect(await store(lease)).toEqual({ ...done(6), refused: ["4"] });
      expect(await jobsOf(version)).toEqual([{ row_id: "4", failed: true, error }]);
      expect(await value("select count(*)::int from reembed.records where version_id = $1", [version])).toBe(
        6,
      );
      expect(await value("select count(*)::int from reembed.violations()")).toBe(0);
      expect(await claimAny()).toMatchObject({ reason: "idle" });
    });

    test("because its own table wants more columns fails its row", async () => {
      await settleAll();
      await owner.query(
        "create table own_vectors (id bigint primary key, embedding extensions.vector(4), tenant text not null)",
      );
      await adopt("own");
      const version = await value<number>(
        "select reembed.add_version('own', 'test/two@4', 'embedding', 'public.own_input', vector_table => 'own_vectors')",
      );
      await owner.query("select reembed.start_loading('own', 2), reembed.finish_enqueueing('own', 2)");
      await owner.query("insert into own values (1, 'a')");
      const lease = await claim(owner, { collection: "own", version: 2 });
      expect(await store(lease)).toEqual({ ...done(0), refused: ["1"] });
      expect(await jobsOf(version)).toMatchObject([
        { row_id: "1", error: "the table refused the vector (23502)" },
      ]);
    });

    test("is not one of several for the same row", async () => {
      await settleAll();
      await adopt("twice");
      await owner.query("insert into twice values (1, 'a')");
      const lease = await claimAny();
      const again = { ...lease, jobs: [...lease.jobs, ...lease.jobs] };
      expect(await rejection(store(again))).toMatchObject({ code: "RE004" });
      expect(await store(lease)).toEqual(done(1));
    });
  });
});
