/**
 * Each rule of the worker's protocol, with the failure it stands for: every scenario runs once on the functions as they are and once with
 * the rule taken out of them, step by step over two or three sessions.
 */
import type { Client } from "pg";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  createCollection,
  insertRow,
  jobs,
  load,
  mismatches,
  PLACEMENTS,
  type Placement,
  recorded,
  type TestCollection,
  type TestVersion,
  versionOf,
  violations,
} from "../support/collection.ts";
import { type Edit, mutate } from "../support/mutation.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { type Session, Sessions, settlesOrBlocks, untilBlocked } from "../support/sessions.ts";
import { claim, complete, expireLeases, workOff } from "../support/worker.ts";

const CLAIM = "reembed.claim(text, int, int, int, int, uuid, text[], text[])";
const COMPLETE =
  "reembed.complete_vectors(int, text, uuid, text[], text[], extensions.vector[], int[], text[], boolean, boolean[])";
const ENQUEUE_MISSING = "reembed.enqueue_missing(int, text, int)";
const START_LOADING = "reembed.start_loading(text, int, text, text)";
const LOCK_TABLES = "reembed.lock_tables(regclass[], text, int)";

/** The belt: without it a worker's wait becomes a deadlock that the server has to end. */
const NO_BELT: Edit = ["'500ms'", "'20s'"];
const RENEWAL = /on conflict \(version_id, row_id\) do update set[^;]*;/;
/** Where a test holds a worker: it takes this advisory lock, which the observer holds. */
const PAUSE = "perform pg_advisory_xact_lock(42);";

describePostgres("the protocol", () => {
  let database: TestDatabase;
  let sessions: Sessions;
  let app: Session;
  let worker: Session;
  let observer: Session;
  const collections = new Map<Placement, TestCollection>();
  const restores: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    database = await createDatabase();
    const client = await connect(database.url);
    collections.set("in place", await createCollection(client, "notes", "in place"));
    collections.set("table of its own", await createCollection(client, "papers", "table of its own"));
    await client.end();
  });

  beforeEach(async () => {
    sessions = new Sessions(database.url);
    [app, worker, observer] = await Promise.all([sessions.open(), sessions.open(), sessions.open()]);
    for (const { table } of collections.values()) await app.client.query(`truncate ${table} cascade`);
  });
  afterEach(async () => {
    await sessions.close();
    const owner = await connect(database.url);
    for (const restore of restores.splice(0).reverse()) await restore();
    await owner.end();
  });

  /** Takes a rule out until the end of the test. */
  async function without(signature: string, edits: readonly Edit[]): Promise<void> {
    const owner = await connect(database.url);
    const restore = await mutate(owner, signature, edits);
    restores.push(async () => {
      await restore();
      await owner.end();
    });
  }

  function at(placement: Placement): { collection: TestCollection; v1: TestVersion } {
    const collection = collections.get(placement);
    if (collection === undefined) throw new Error(`no collection ${placement}`);
    return { collection, v1: versionOf(collection, 1) };
  }
  const trackVersion = (version: TestVersion) => `reembed.track_version_${version.id}()`;

  /** A scenario twice: as it is, and with a rule taken out. Both observations are told. */
  function rule<T>(
    name: string,
    scenario: () => Promise<T>,
    mutation: { of: () => string; edits: readonly Edit[] },
    expected: { holds: T; broken: T },
  ): void {
    describe(name, () => {
      test("holds", async () => {
        expect(await scenario()).toEqual(expected.holds);
      });
      test("is needed: without it this breaks", async () => {
        await without(mutation.of(), mutation.edits);
        expect(await scenario()).toEqual(expected.broken);
      });
    });
  }

  /**
   * The worker's call meets a row that the app's open transaction holds; when it waits, the app asks for what the worker holds. Tells how
   * that ends, and rolls the app back.
   */
  async function meet(
    call: Promise<unknown>,
    appGoesOn: () => Promise<unknown>,
  ): Promise<"no wait" | "deadlock"> {
    const met = await settlesOrBlocks(observer.client, worker, call);
    const ends = await Promise.allSettled([call, appGoesOn()]);
    await app.client.query("rollback");
    const codes = ends.map((end) => (end.status === "rejected" ? end.reason.code : undefined));
    if (codes.includes("40P01")) return "deadlock";
    expect(codes).toEqual([undefined, undefined]);
    expect(met).toBe("settled");
    return "no wait";
  }

  /** Several rows and the one in the middle: in whatever order they are locked, something is locked before it. */
  async function insertSeveral(collection: TestCollection): Promise<string> {
    const { rows } = await app.client.query<{ id: string }>(
      `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, 21) n returning id`,
    );
    return rows[10]?.id ?? "";
  }

  /** The app takes the row in the middle; what it wants next is all of them. */
  async function hold(collection: TestCollection, id: string): Promise<void> {
    await app.client.query("begin");
    await app.client.query(`select from ${collection.table} where id = $1 for update`, [id]);
  }
  const wantAll = (collection: TestCollection) =>
    app.client.query(`select from ${collection.table} for update`);

  describe("1. complete locks the source row and hashes that locked row", () => {
    // The app's own trigger runs before ours, so here it has changed the row and not yet written the job.
    async function meetInTheMiddleOf(statement: string, placement: Placement) {
      const { collection } = at(placement);
      const id = await insertRow(app.client, collection, "a text");
      const lease = await claim(worker.client, { collection: collection.name });
      await app.client.query(`
        create function public.a_pause() returns trigger language plpgsql as $$ begin ${PAUSE} return null; end $$;
        create trigger a_pause after update or delete on ${collection.table} for each row execute function public.a_pause()`);
      try {
        await observer.client.query("select pg_advisory_lock(42)");
        const writing = app.client.query(statement.replace("TABLE", collection.table), [id]);
        await untilBlocked(observer.client, app, writing);
        const completing = complete(worker.client, lease);
        const met = await settlesOrBlocks(observer.client, worker, completing);
        await observer.client.query("select pg_advisory_unlock(42)");
        const ends = await Promise.allSettled([completing, writing]);
        return [met, ...ends.map((end) => (end.status === "rejected" ? end.reason.code : "ended"))];
      } finally {
        await app.client.query("drop function public.a_pause() cascade");
      }
    }
    for (const [placement, statement] of [
      ["in place", "update TABLE set title = 'edited' where id = $1"],
      ["in place", "delete from TABLE where id = $1"],
      ["table of its own", "delete from TABLE where id = $1"],
    ] as const) {
      describe(`the lock: ${statement.split(" ")[0]}, vectors ${placement}`, () => {
        test("holds: the row is busy at once", async () => {
          expect(await meetInTheMiddleOf(statement, placement)).toEqual(["settled", "ended", "ended"]);
        });
        test("is needed: without it worker and app wait for each other", async () => {
          await without(COMPLETE, [["for %s of t %s) x", "-- %s %s\n) x"], NO_BELT]);
          const [met, ...ends] = await meetInTheMiddleOf(statement, placement);
          expect(met).toBe("blocked");
          expect(ends).toContain("40P01");
        });
      });
    }

    // What no trigger sees is what only the hash can tell: a restore, a replica.
    async function editUnseen(placement: Placement, between: "claim and complete" | "snapshot and lock") {
      const { collection } = at(placement);
      const id = await insertRow(app.client, collection, "a text");
      const lease = await claim(worker.client, { collection: collection.name });
      const admin = await connect(database.adminUrl);
      try {
        await admin.query("set session_replication_role = replica");
        await admin.query("begin");
        await admin.query(`update ${collection.table} set title = 'restored' where id = $1`, [id]);
        if (between === "claim and complete") await admin.query("commit");
        const completing = complete(worker.client, lease, { wait: true });
        if (between === "snapshot and lock") {
          await untilBlocked(observer.client, worker, completing);
          await admin.query("commit");
        }
        const { done } = await completing;
        return { done, violations: (await violations(app.client)).length };
      } finally {
        await admin.end();
      }
    }
    describe.each(PLACEMENTS)("the hash, vectors %s", (placement) => {
      rule(
        "is of the row, not of the job",
        () => editUnseen(placement, "claim and complete"),
        {
          of: () => COMPLETE,
          edits: [
            [
              "reembed.input_hash(v, 't'), c.source_table",
              "'(select q.lease_hash from reembed.jobs q where q.row_id = g.row_id)', c.source_table",
            ],
          ],
        },
        { holds: { done: 0, violations: 0 }, broken: { done: 1, violations: 1 } },
      );
      rule(
        "is of the locked row, not of one read without the lock in the same statement",
        () => editUnseen(placement, "snapshot and lock"),
        {
          of: () => COMPLETE,
          edits: [
            [
              "'select coalesce(array_agg(x.row_id), ''{}''), coalesce(array_agg(x.hash), ''{}'')",
              "'with h as materialized (select g.row_id, %1$s as hash from unnest($1) g(row_id) join %2$s t on %3$s) select coalesce(array_agg(x.row_id), ''{}''), coalesce(array_agg(x.hash), ''{}'')",
            ],
            [
              "(select g.row_id, %s as hash from unnest($1) g(row_id) join %s t on %s for %s of t %s) x",
              "(select g.row_id, g.hash from h g join %2$s t on %3$s for %4$s of t %5$s) x",
            ],
          ],
        },
        { holds: { done: 0, violations: 0 }, broken: { done: 1, violations: 1 } },
      );
    });
  });

  describe("2. an enqueue always writes the job and clears its lease; a job is deleted only by its token", () => {
    rule(
      "the job is written, though there is one: the claim that finds the old text current takes it away",
      async () => {
        const { collection } = at("in place");
        const id = await insertRow(app.client, collection, "a text");
        await workOff(worker.client, { collection: collection.name });
        await app.client.query(`update ${collection.table} set title = 'an edit' where id = $1`, [id]);
        await app.client.query(`update ${collection.table} set title = 'a text' where id = $1`, [id]);
        await app.client.query("begin");
        await app.client.query(`update ${collection.table} set title = 'in flight' where id = $1`, [id]);
        await claim(worker.client, { collection: collection.name });
        await app.client.query("commit");
        return violations(app.client);
      },
      { of: () => trackVersion(at("in place").v1), edits: [[RENEWAL, "on conflict do nothing;"]] },
      { holds: [], broken: [expect.objectContaining({ problem: "the text changed" })] },
    );
    rule(
      "the job is written, though there is one: the complete of the old text takes it away",
      async () => {
        const { collection } = at("table of its own");
        const id = await insertRow(app.client, collection, "a text");
        const lease = await claim(worker.client, { collection: collection.name });
        await app.client.query("begin");
        await app.client.query(`update ${collection.table} set title = 'in flight' where id = $1`, [id]);
        await complete(worker.client, lease);
        await app.client.query("commit");
        return violations(app.client);
      },
      { of: () => trackVersion(at("table of its own").v1), edits: [[RENEWAL, "on conflict do nothing;"]] },
      { holds: [], broken: [expect.objectContaining({ problem: "the text changed" })] },
    );

    // The app's BEFORE trigger changes the text while complete writes the vector: complete's own update enqueues the row.
    async function rewriteDuringComplete() {
      const { collection } = at("in place");
      await insertRow(app.client, collection, "a text");
      const lease = await claim(worker.client, { collection: collection.name });
      await app.client.query(`
        create function public.rewrite() returns trigger language plpgsql as
          $$ begin new.body := 'rewritten'; return new; end $$;
        create trigger rewrite before update on ${collection.table} for each row execute function public.rewrite()`);
      try {
        await complete(worker.client, lease);
        return await violations(app.client);
      } finally {
        await app.client.query("drop function public.rewrite() cascade");
      }
    }
    const forgotten = { holds: [], broken: [expect.objectContaining({ problem: "the text changed" })] };
    rule(
      "its lease is cleared",
      rewriteDuringComplete,
      {
        of: () => trackVersion(at("in place").v1),
        edits: [[/lease_token = null, lease_until = null, lease_hash = null, /, ""]],
      },
      forgotten,
    );
    rule(
      "it is deleted by its token",
      rewriteDuringComplete,
      {
        of: () => COMPLETE,
        edits: [
          ["j.row_id = any (mine) and j.lease_token = complete_vectors.lease_token", "j.row_id = any (mine)"],
        ],
      },
      forgotten,
    );
  });

  describe.each(PLACEMENTS)("3. the token decides, not the deadline: vectors %s", (placement) => {
    rule(
      "an expired lease that nobody took is good: refusing it pays twice",
      async () => {
        const { collection } = at(placement);
        await insertRow(app.client, collection, "a text");
        const lease = await claim(worker.client, { collection: collection.name });
        await expireLeases(app.client);
        await complete(worker.client, lease);
        return (await claim(worker.client, { collection: collection.name })).jobs.length;
      },
      {
        of: () => COMPLETE,
        edits: [
          [
            "j.row_id = any (locked) and j.lease_token = complete_vectors.lease_token",
            "j.row_id = any (locked) and j.lease_token = complete_vectors.lease_token and j.lease_until > clock_timestamp()",
          ],
        ],
      },
      { holds: 0, broken: 1 },
    );
    rule(
      "a lease that another took is lost: else the late worker takes the other's away",
      async () => {
        const { collection } = at(placement);
        await insertRow(app.client, collection, "a text");
        const late = await claim(worker.client, { collection: collection.name });
        await expireLeases(app.client);
        const taken = await claim(observer.client, { collection: collection.name });
        const first = await complete(worker.client, late);
        const second = await complete(observer.client, taken);
        return { late: first.done, taken: second.done };
      },
      {
        of: () => COMPLETE,
        edits: [
          [
            "j.row_id = any (locked) and j.lease_token = complete_vectors.lease_token",
            "j.row_id = any (locked)",
          ],
          ["j.row_id = any (mine) and j.lease_token = complete_vectors.lease_token", "j.row_id = any (mine)"],
        ],
      },
      { holds: { late: 0, taken: 1 }, broken: { late: 1, taken: 0 } },
    );
  });

  describe("4. no worker waits for a row lock while it holds one", () => {
    describe.each(PLACEMENTS)("vectors %s", (placement) => {
      rule(
        "complete skips a source row that the app holds",
        async () => {
          const { collection } = at(placement);
          const held = await insertSeveral(collection);
          const lease = await claim(worker.client, { collection: collection.name });
          await hold(collection, held);
          return meet(complete(worker.client, lease), () => wantAll(collection));
        },
        { of: () => COMPLETE, edits: [["case when wait then '' else 'skip locked' end", "''"], NO_BELT] },
        { holds: "no wait", broken: "deadlock" },
      );

      rule(
        "a worker that waits has one row",
        async () => {
          const { collection } = at(placement);
          const held = await insertSeveral(collection);
          const lease = await claim(worker.client, { collection: collection.name });
          await hold(collection, held);
          const refusedAtMost = complete(worker.client, lease, { wait: true }).catch(
            (error: { code: string }) => {
              if (error.code !== "RE004") throw error;
            },
          );
          return meet(refusedAtMost, () => wantAll(collection));
        },
        { of: () => COMPLETE, edits: [["cardinality(row_ids) > 1", "false"], NO_BELT] },
        { holds: "no wait", broken: "deadlock" },
      );

      rule(
        "a claim skips a job that the app holds",
        async () => {
          const { collection, v1 } = at(placement);
          await insertRow(app.client, collection, "one");
          await insertRow(app.client, collection, "two");
          await app.client.query(
            `update reembed.jobs set run_at = now() - case when row_id = (select min(row_id) from reembed.jobs where version_id = $1)
               then interval '2 minutes' else interval '1 minute' end where version_id = $1`,
            [v1.id],
          );
          const [first, second] = (await jobs(app.client, v1.id)).map((job) => job.row_id);
          await app.client.query("begin");
          await app.client.query(`update ${collection.table} set title = 'held' where id = $1`, [second]);
          return meet(claim(worker.client, { collection: collection.name }), () =>
            app.client.query(`update ${collection.table} set title = 'wanted' where id = $1`, [first]),
          );
        },
        { of: () => CLAIM, edits: [["for update skip locked) x;", "for update) x;"]] },
        { holds: "no wait", broken: "deadlock" },
      );

      rule(
        "a claim locks the tables before any job: a truncate holds the table and wants the jobs",
        async () => {
          const { collection } = at(placement);
          await insertRow(app.client, collection, "one");
          await app.client.query("begin");
          await app.client.query(`lock table ${collection.table} in access exclusive mode`);
          return meet(claim(worker.client, { collection: collection.name }), () =>
            app.client.query(`truncate ${collection.table} cascade`),
          );
        },
        {
          of: () => CLAIM,
          edits: [[/execute format\('lock table %s in access share mode nowait', [cv]\.\w+\);/, "null;"]],
        },
        { holds: "no wait", broken: "deadlock" },
      );

      rule(
        "enqueueing existing rows skips one that the app holds",
        async () => {
          const { collection, v1 } = at(placement);
          const held = await insertSeveral(collection);
          await app.client.query("delete from reembed.jobs where version_id = $1", [v1.id]);
          await hold(collection, held);
          return meet(worker.client.query("select reembed.enqueue_missing($1)", [v1.id]), () =>
            wantAll(collection),
          );
        },
        {
          of: () => ENQUEUE_MISSING,
          edits: [["for no key update of t skip locked", "for no key update of t"]],
        },
        { holds: "no wait", broken: "deadlock" },
      );
    });

    // A vector that the app writes into a table of its own locks the job and no source row.
    async function meetWrittenVector(prepare: (id: string) => Promise<() => Promise<unknown>>) {
      const { collection, v1 } = at("table of its own");
      const id = await insertRow(app.client, collection, "one");
      const call = await prepare(id);
      await app.client.query("begin");
      await app.client.query(
        `insert into ${v1.vectorTable} (id, ${v1.vectorColumn}) values ($1, '[1,1,1,1,1,1,1,1]')`,
        [id],
      );
      return { id, call, collection };
    }
    rule(
      "complete skips a job that the app holds",
      async () => {
        const { id, call, collection } = await meetWrittenVector(async () => {
          const lease = await claim(worker.client, { collection: "papers" });
          return () => complete(worker.client, lease);
        });
        return meet(call(), () => app.client.query(`delete from ${collection.table} where id = $1`, [id]));
      },
      { of: () => COMPLETE, edits: [["for update skip locked) x;", "for update) x;"], NO_BELT] },
      { holds: "no wait", broken: "deadlock" },
    );
    describe("enqueueing existing rows gives up on a job that the app is writing", () => {
      const scenario = async () => {
        const { v1 } = at("table of its own");
        const { id, call, collection } = await meetWrittenVector(async () => {
          await app.client.query("delete from reembed.jobs where version_id = $1", [v1.id]);
          return () => worker.client.query("select reembed.enqueue_missing($1) as step", [v1.id]);
        });
        const calling = call();
        await untilBlocked(observer.client, worker, calling);
        const ends = await Promise.allSettled([
          calling,
          app.client.query(`update ${collection.table} set title = 'wanted' where id = $1`, [id]),
        ]);
        await app.client.query("rollback");
        return ends.map((end) => (end.status === "rejected" ? end.reason.code : "ended"));
      };
      test("holds", async () => {
        expect(await scenario()).toEqual(["ended", "ended"]);
      });
      test("is needed: without it one of them dies in a deadlock", async () => {
        await without(ENQUEUE_MISSING, [NO_BELT]);
        expect(await scenario()).toContain("40P01");
      });
    });

    test("a worker that settles late and one that claims do not wait for each other", async () => {
      const { collection } = at("in place");
      await insertRow(app.client, collection, "one");
      const lease = await claim(worker.client, { collection: collection.name });
      await app.client.query(
        "update reembed.usage set lease_until = now() - interval '1 minute' where id = $1",
        [lease.usage_id],
      );
      await insertRow(app.client, collection, "two");
      await worker.client.query("begin");
      await worker.client.query("delete from reembed.usage where id = $1", [lease.usage_id]);
      const claiming = claim(observer.client, { collection: collection.name });
      expect(await settlesOrBlocks(app.client, observer, claiming)).toBe("settled");
      expect((await claiming).jobs).toHaveLength(1);
      await worker.client.query("rollback");
    });

    test("a query that writes the ledger does not wait for a claim", async () => {
      const { collection } = at("in place");
      await insertRow(app.client, collection, "one");
      await worker.client.query("begin");
      const lease = await claim(worker.client, { collection: collection.name });
      const searching = app.client.query(
        "select reembed.begin_query($1, repeat('0', 64), 3, repeat('1', 64))",
        [lease.space.id],
      );
      expect(await settlesOrBlocks(observer.client, app, searching)).toBe("settled");
      await worker.client.query("rollback");
    });
  });

  describe("5. making a version maintained", () => {
    async function freshCollection(): Promise<TestCollection> {
      const name = `fresh_${restartable++}`;
      return createCollection(app.client, name);
    }

    test("holds: a writer in flight is waited for, and its row is enqueued with those that existed", async () => {
      const collection = await freshCollection();
      const writer = await sessions.open();
      await writer.client.query("begin");
      await insertRow(writer.client, collection, "in flight");
      const loading = load(worker.client, collection, 2);
      await untilBlocked(observer.client, worker, loading);
      await writer.client.query("commit");
      await loading;
      expect(await violations(app.client)).toEqual([]);
      expect(await jobs(app.client, versionOf(collection, 2).id)).toHaveLength(1);
    });

    test("is needed: a trigger that reads the registry misses a writer in flight", async () => {
      const collection = await freshCollection();
      const v2 = versionOf(collection, 2);
      await app.client.query("select reembed.create_triggers(v) from reembed.versions v where id = $1", [
        v2.id,
      ]);
      await without(trackVersion(v2), [
        [
          "\nbegin\n",
          `\nbegin\nif not (select x.maintained from reembed.versions x where x.id = ${v2.id}) then return null; end if;\n`,
        ],
      ]);
      await without(START_LOADING, [
        [/perform reembed\.lock_tables[^;]*;/, "null;"],
        [/perform reembed\.create_triggers[^;]*;/, "null;"],
        // An index on a table that is being written waits, too.
        [/perform reembed\.keep_index_from_start[^;]*;/, "null;"],
      ]);
      const writer = await sessions.open();
      await writer.client.query("begin");
      await insertRow(writer.client, collection, "in flight");
      await load(worker.client, collection, 2);
      await writer.client.query("commit");
      expect(await violations(app.client)).toMatchObject([{ version: 2, problem: "no record" }]);
      await app.client.query("select reembed.reconcile($1)", [collection.name]);
    });

    test("is needed: rows that are enqueued before the triggers stand leave a gap", async () => {
      const collection = await freshCollection();
      await app.client.query("select reembed.enqueue_missing($1)", [versionOf(collection, 2).id]);
      await insertRow(app.client, collection, "in the gap");
      await app.client.query("select reembed.start_loading($1, 2)", [collection.name]);
      await app.client.query("select reembed.finish_enqueueing($1, 2)", [collection.name]);
      expect(await violations(app.client)).toMatchObject([{ version: 2, problem: "no record" }]);
      await app.client.query("select reembed.reconcile($1)", [collection.name]);
    });

    async function writeBesideLongTransaction(): Promise<string> {
      const collection = await freshCollection();
      const long = await sessions.open();
      await long.client.query("begin");
      await insertRow(long.client, collection, "long");
      const loading = worker.client.query("select reembed.start_loading($1, 2)", [collection.name]);
      await untilBlocked(observer.client, worker, loading);
      await app.client.query("set lock_timeout = '2s'");
      const written = await insertRow(app.client, collection, "short").then(
        () => "written",
        (error: { code: string }) => error.code,
      );
      await long.client.query("commit");
      await loading;
      return written;
    }
    rule(
      "the wait for the table is short, so that no writer queues behind it",
      writeBesideLongTransaction,
      { of: () => LOCK_TABLES, edits: [["least(900, 100 * attempt)", "20000"]] },
      { holds: "written", broken: "55P03" },
    );
  });
  let restartable = 0;

  describe("6. triggers", () => {
    describe.each(PLACEMENTS)("vectors %s", (placement) => {
      test("insert, delete and truncate are seen a statement at a time, update a row at a time", async () => {
        const { collection, v1 } = at(placement);
        const { rows } = await app.client.query(
          `select replace(tgname, $2, '') as trigger, tgtype & 1 = 1 as for_each_row, coalesce(tgnewtable, tgoldtable) as transition_table
             from pg_trigger where tgrelid = $1::regclass and tgname like $2 || '%' and tgname not like '%vectors%' order by 1`,
          [collection.table, `reembed_${v1.id}_`],
        );
        expect(rows).toEqual([
          { trigger: "delete", for_each_row: false, transition_table: "deleted_rows" },
          { trigger: "insert", for_each_row: false, transition_table: "inserted_rows" },
          { trigger: "truncate", for_each_row: false, transition_table: null },
          { trigger: "update", for_each_row: true, transition_table: null },
        ]);
      });

      /** An embedded row and a queued one, then a statement while one trigger is missing: whether that leaves something wrong. */
      async function isWrongAfter(statement: string, disabled: string | null): Promise<boolean> {
        const { collection, v1 } = at(placement);
        await insertRow(app.client, collection, "a text");
        await workOff(worker.client, { collection: collection.name });
        await insertRow(app.client, collection, "queued");
        const alter = (what: string) =>
          app.client.query(`alter table ${collection.table} ${what} trigger reembed_${v1.id}_${disabled}`);
        if (disabled !== null) await alter("disable");
        await app.client.query(statement.replace("TABLE", collection.table));
        if (disabled !== null) await alter("enable");
        const forgotten = await violations(app.client);
        const { rows } = await app.client.query("select reembed.reconcile($1) as result", [collection.name]);
        return forgotten.length + rows[0].result.orphans_removed > 0;
      }
      test.each([
        { trigger: "insert", statement: "insert into TABLE (title) values ('new')" },
        { trigger: "update", statement: "update TABLE set title = 'edited'" },
        { trigger: "delete", statement: "delete from TABLE" },
        { trigger: "truncate", statement: "truncate TABLE cascade" },
      ])("$trigger: nothing is left wrong, and something would be without its trigger", async (row) => {
        expect(await isWrongAfter(row.statement, null)).toBe(false);
        expect(await isWrongAfter(row.statement, row.trigger)).toBe(true);
      });

      test("`update of` the input columns would miss what a BEFORE trigger changes", async () => {
        const { collection, v1 } = at(placement);
        const name = `reembed_${v1.id}_update`;
        await app.client.query(`
          create function public.add_note() returns trigger language plpgsql as
            $$ begin new.body := new.note; return new; end $$;
          create trigger add_note before update on ${collection.table} for each row execute function public.add_note()`);
        const edit = async () => {
          await insertRow(app.client, collection, "a text");
          await workOff(worker.client, { collection: collection.name });
          await app.client.query(`update ${collection.table} set note = gen_random_uuid()::text`);
          return (await violations(app.client)).length;
        };
        try {
          expect(await edit()).toBe(0);
          await app.client.query(`truncate ${collection.table} cascade`);
          await app.client.query(
            `create or replace trigger ${name} after update of title, body on ${collection.table}
               for each row execute function ${trackVersion(v1)}`,
          );
          expect(await edit()).toBe(1);
        } finally {
          await app.client.query(
            `create or replace trigger ${name} after update on ${collection.table} for each row execute function ${trackVersion(v1)}`,
          );
          await app.client.query("drop function public.add_note() cascade");
        }
      });

      rule(
        "a new key takes its record along: else its text is bought again",
        async () => {
          const { collection } = at(placement);
          await insertRow(app.client, collection, "a text");
          await workOff(worker.client, { collection: collection.name });
          await app.client.query(`update ${collection.table} set id = gen_random_uuid()`);
          return workOff(worker.client, { collection: collection.name });
        },
        { of: () => trackVersion(at(placement).v1), edits: [["if old_id <> new_id then", "if false then"]] },
        { holds: 0, broken: 1 },
      );
    });

    rule(
      "a vector that another hand sets to null is seen, though the text did not change",
      async () => {
        const { collection, v1 } = at("in place");
        await insertRow(app.client, collection, "a text");
        await workOff(worker.client, { collection: collection.name });
        await app.client.query(`update ${collection.table} set ${v1.vectorColumn} = null`);
        return violations(app.client);
      },
      {
        of: () => trackVersion(at("in place").v1),
        edits: [[/if coalesce\(current_setting\('reembed\.completing'[^\n]*then/, "if false then"]],
      },
      { holds: [], broken: [expect.objectContaining({ problem: "the vector is missing" })] },
    );
    rule(
      "complete's own writing is not another hand's: else each vector leaves a job behind",
      async () => {
        const { collection, v1 } = at("in place");
        await insertRow(app.client, collection, "a text");
        await complete(worker.client, await claim(worker.client, { collection: collection.name }));
        return (await jobs(app.client, v1.id)).length;
      },
      {
        of: () => COMPLETE,
        edits: [["perform set_config('reembed.completing', v.id::text, true);", ""]],
      },
      { holds: 0, broken: 1 },
    );
  });

  describe.each(PLACEMENTS)("7. a claim: vectors %s", (placement) => {
    const twins = async () => {
      const { collection } = at(placement);
      await insertRow(app.client, collection, "the same text");
      await insertRow(app.client, collection, "the same text");
      return collection.name;
    };
    rule(
      "takes the space's row first: two at once would both buy one text",
      async () => {
        const collection = await twins();
        await worker.client.query("begin");
        const first = await claim(worker.client, { collection, maxRows: 1 });
        const claiming = claim(app.client, { collection });
        await settlesOrBlocks(observer.client, app, claiming);
        await worker.client.query("commit");
        return first.jobs.length + (await claiming).jobs.length;
      },
      { of: () => CLAIM, edits: [["where x.id = v.space_id for no key update", "where x.id = v.space_id"]] },
      { holds: 1, broken: 2 },
    );
    rule(
      "that waited for the space's row gives nothing when the space was paused meanwhile",
      async () => {
        const { collection, v1 } = at(placement);
        await insertRow(app.client, collection, "a text");
        // Claims that nobody settled would leave the space no room, and the claim would be made again.
        await worker.client.query(
          "update reembed.usage set lease_until = '-infinity' where state = 'reserved'",
        );
        await worker.client.query("begin");
        await worker.client.query("select reembed.pause_space($1, 'no credit')", [v1.space]);
        const claiming = claim(app.client, { collection: collection.name });
        await untilBlocked(observer.client, app, claiming);
        await worker.client.query("commit");
        const { reason, jobs: given } = await claiming;
        await worker.client.query("select reembed.resume_space($1)", [v1.space]);
        return { reason, given: given.length };
      },
      { of: () => CLAIM, edits: [["if s.paused_until > clock_timestamp() then", "if false then"]] },
      { holds: { reason: "paused", given: 0 }, broken: { reason: "work", given: 1 } },
    );
    rule(
      "leaves out a text that another live lease of the space holds",
      async () => {
        const collection = await twins();
        const first = await claim(worker.client, { collection, maxRows: 1 });
        return first.jobs.length + (await claim(app.client, { collection })).jobs.length;
      },
      { of: () => CLAIM, edits: [["where o.lease_hash = h.hash", "where false"]] },
      { holds: 1, broken: 2 },
    );
    rule(
      "gives edits before backfill",
      async () => {
        const { collection, v1 } = at(placement);
        const id = await insertRow(app.client, collection, "loaded long ago");
        await app.client.query(
          `update reembed.jobs set priority = 1, run_at = now() - interval '1 hour' where version_id = $1`,
          [v1.id],
        );
        await insertRow(app.client, collection, "just edited");
        const { jobs: given } = await claim(worker.client, { collection: collection.name, maxRows: 1 });
        return given.map((job) => (job.row_id === id ? "backfill" : "edit"));
      },
      {
        of: () => CLAIM,
        edits: [["for priority_now in 0..1 loop", "for priority_now in reverse 1..0 loop"]],
      },
      { holds: ["edit"], broken: ["backfill"] },
    );

    /** A job whose row is current; the claim is held before it locks the job, and the app edits the row meanwhile. */
    async function editBeforeLock() {
      const { collection } = at(placement);
      const id = await insertRow(app.client, collection, "a text");
      await workOff(worker.client, { collection: collection.name });
      await app.client.query(`update ${collection.table} set title = 'an edit' where id = $1`, [id]);
      await app.client.query(`update ${collection.table} set title = 'a text' where id = $1`, [id]);
      await observer.client.query("select pg_advisory_lock(42)");
      const claiming = claim(worker.client, { collection: collection.name });
      await untilBlocked(observer.client, worker, claiming);
      await app.client.query(`update ${collection.table} set title = 'newer' where id = $1`, [id]);
      await observer.client.query("select pg_advisory_unlock(42)");
      const given = (await claiming).jobs.length;
      return { given, violations: (await violations(app.client)).length };
    }
    describe("asks what others are buying before it asks what is stored", () => {
      /** A text that one lease holds while a claim is held in the midst of its questions; the lease ends meanwhile. How often the claim buys it. */
      async function completeBetween(): Promise<number> {
        const collection = await twins();
        const lease = await claim(worker.client, { collection, maxRows: 1 });
        await observer.client.query("select pg_advisory_lock(42)");
        const claiming = claim(app.client, { collection });
        await untilBlocked(observer.client, app, claiming);
        await complete(worker.client, lease);
        await observer.client.query("select pg_advisory_unlock(42)");
        return (await claiming).jobs.length;
      }
      const asksWhatIsStored = "copyable := reembed.copyable_hashes(v, hashes_given);";
      const asksWhatIsHeld =
        "select coalesce(jsonb_object_agg(encode(h.hash, 'hex'), held.due), '{}') into due_again";
      test("holds", async () => {
        await without(CLAIM, [[asksWhatIsStored, `${PAUSE} ${asksWhatIsStored}`]]);
        expect(await completeBetween()).toBe(0);
      });
      test("is needed: the other way round it is bought twice", async () => {
        await without(CLAIM, [
          [asksWhatIsStored, ""],
          [asksWhatIsHeld, `${asksWhatIsStored} ${PAUSE} ${asksWhatIsHeld}`],
        ]);
        expect(await completeBetween()).toBe(1);
      });
    });
    describe("reads the texts in a later statement than the one that locks the jobs", () => {
      test("holds", async () => {
        await without(CLAIM, [["for priority_now in 0..1 loop", `${PAUSE} for priority_now in 0..1 loop`]]);
        expect(await editBeforeLock()).toEqual({ given: 1, violations: 0 });
      });
      test("is needed: in one statement the text is older than the lock, and the newer edit's job is taken away", async () => {
        await without(CLAIM, [
          [
            "limit max_rows - cardinality(picked)\n           for update skip locked) x;\n      else",
            "limit max_rows - cardinality(picked)) x;\n      else",
          ],
          [
            "from unnest($1, $3) with ordinality g(row_id, attempts, n)",
            `from (select o.row_id, o.attempts, 1 as n from reembed.jobs o
                    where o.version_id = $2 and o.row_id = any ($1) and pg_advisory_xact_lock(42) is not null for update skip locked) g`,
          ],
        ]);
        expect(await editBeforeLock()).toEqual({ given: 0, violations: 1 });
      });
    });
  });

  describe("8. budgets", () => {
    /** Two reservations of seven dollars at once, of a budget of ten: how many were granted, and what the budget knows of. */
    async function twoAtOnce(): Promise<{ granted: number; reserved: number }> {
      await app.client.query("delete from reembed.budgets");
      await app.client.query("select reembed.set_budget('all', 'day', 10)");
      const reserve = async ({ client }: Session) =>
        (await client.query<{ refused: unknown }>("select reembed.reserve('{all}', 7) as refused")).rows[0]
          ?.refused;
      await app.client.query("begin");
      const first = await reserve(app);
      const second = reserve(worker);
      await untilBlocked(observer.client, worker, second);
      await app.client.query("commit");
      const granted = [first, await second].filter((refused) => refused === null).length;
      const { rows } = await app.client.query<{ reserved: number }>(
        "select reserved_usd::int as reserved from reembed.budgets",
      );
      return { granted, reserved: rows[0]?.reserved ?? 0 };
    }
    rule(
      "what is left is read under the row's lock",
      twoAtOnce,
      {
        of: () => "reembed.open_budgets(text[], boolean)",
        edits: [[" for no key update", ""]],
      },
      { holds: { granted: 1, reserved: 7 }, broken: { granted: 2, reserved: 7 } },
    );
    rule(
      "a reservation is one conditional update",
      twoAtOnce,
      {
        of: () => "reembed.reserve(text[], numeric, boolean)",
        edits: [
          [" and b.spent_usd + b.reserved_usd + amount <= b.limit_usd", ""],
          ["tightest.limit_usd - tightest.spent_usd - tightest.reserved_usd < amount", "false"],
        ],
      },
      { holds: { granted: 1, reserved: 7 }, broken: { granted: 2, reserved: 14 } },
    );
  });

  describe("9. over the API", () => {
    /** The doors of service_role that PostgREST would answer with a set, which it cuts at 1,000 rows. */
    const doorsOfSets = async (client: Client) =>
      (
        await client.query(`
          select p.proname from pg_proc p
           where p.pronamespace = 'public'::regnamespace and p.proname like 'reembed\\_%'
             and (p.proretset or p.prorettype not in ('jsonb'::regtype, 'void'::regtype, 'int'::regtype, 'uuid'::regtype))`)
      ).rows;

    test("every door returns one value, and one that returned a set would be noticed", async () => {
      expect(await doorsOfSets(app.client)).toEqual([]);
      await app.client.query(
        `create function public.reembed_jobs() returns setof text language sql as 'select row_id from reembed.jobs'`,
      );
      expect(await doorsOfSets(app.client)).toEqual([{ proname: "reembed_jobs" }]);
      await app.client.query("drop function public.reembed_jobs()");
    });

    test("a claim of more than 1,000 jobs is one row, and vectors travel as texts", async () => {
      const { collection } = at("in place");
      await app.client.query(
        `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, 1200) n`,
      );
      const { rows } = await app.client.query(`select public.reembed_claim($1, max_rows => 1200) as claim`, [
        collection.name,
      ]);
      expect(rows).toHaveLength(1);
      expect(rows[0].claim.jobs).toHaveLength(1200);
      const { rows: types } = await app.client.query(`
        select (proargtypes::oid[])[array_position(proargnames, 'vectors') - 1]::regtype::text as vectors
          from pg_proc where proname = 'reembed_complete'`);
      expect(types).toEqual([{ vectors: "text[]" }]);
    });

    test.each(PLACEMENTS)(
      "a complete that is cancelled changed nothing and can be done in halves: vectors %s",
      async (placement) => {
        const { collection, v1 } = at(placement);
        const first = await insertRow(app.client, collection, "one");
        await insertRow(app.client, collection, "two");
        const lease = await claim(worker.client, { collection: collection.name });
        await app.client.query("begin");
        // An uncommitted record of the same row: complete has written the vectors and waits here.
        await app.client.query(
          `insert into reembed.records (version_id, row_id, content_hash, space_id) values ($1, $2, '', '')`,
          [v1.id, first],
        );
        const completing = complete(worker.client, lease);
        const cancelled = expect(completing).rejects.toMatchObject({ code: "57014" });
        await untilBlocked(observer.client, worker, completing);
        await observer.client.query("select pg_cancel_backend($1)", [worker.pid]);
        await cancelled;
        await app.client.query("rollback");
        expect(await recorded(app.client, v1.id)).toEqual([]);
        expect(await mismatches(app.client, collection)).toHaveLength(2);
        for (const job of lease.jobs)
          expect(await complete(worker.client, lease, { jobs: [job] })).toMatchObject({ done: 1 });
        expect(await mismatches(app.client, collection)).toEqual([]);
      },
    );
  });
});
