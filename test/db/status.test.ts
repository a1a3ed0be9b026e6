/** `reembed.status()` against what a full count of the tables says, in each state that a collection passes through. */
import type { Client } from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import { createCollection, insertRow, load, type TestCollection, versionOf } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { claim, complete, fail } from "../support/worker.ts";

interface Version {
  readonly version: number;
  readonly current: number;
  readonly coverage: number;
  readonly pending: number;
  readonly pending_edits: number;
  readonly leased: number;
  readonly failed: number;
  readonly reasons: readonly { error: string; rows: number }[];
  readonly oldest_edit_seconds: number | null;
  readonly oldest_backfill_seconds: number | null;
  readonly rows_per_second: number;
  readonly eta_seconds: number | null;
  readonly budget: { scope: string } | null;
}

interface Answer {
  readonly rows: number;
  readonly rows_estimated: boolean;
  readonly versions: readonly Version[];
}

describePostgres("reembed.status()", () => {
  let client: Client;
  beforeAll(async () => {
    client = await connect((await createDatabase()).url);
    return () => client.end();
  });

  let collections = 0;
  const make = (placement?: "in place" | "table of its own") => {
    collections += 1;
    return createCollection(client, `status_${collections}`, placement);
  };
  const insertMany = (collection: TestCollection, rows: number) =>
    client.query(
      `insert into ${collection.table} (title) select 'text ' || n from generate_series(1, $1) n`,
      [rows],
    );

  async function status(): Promise<{
    collections: (Answer & { collection: string })[];
    spaces: { space: string; [fact: string]: unknown }[];
  }> {
    const { rows } = await client.query("select reembed.status() as status");
    return rows[0].status;
  }

  async function statusOf(collection: TestCollection): Promise<Answer> {
    const answer = (await status()).collections.find(({ collection: name }) => name === collection.name);
    if (answer === undefined) throw new Error(`${collection.name} is missing`);
    return answer;
  }

  /** The same figures, by reading every row, record and job. */
  async function counted(collection: TestCollection, number: number) {
    const { id } = versionOf(collection, number);
    const { rows } = await client.query(
      `select count(*)::int as rows,
              (count(*) filter (where r.row_id is not null and j.row_id is null))::int as current,
              coalesce(count(r.row_id) / nullif(count(*), 0)::float8, 1) as coverage,
              (count(j.row_id) filter (where j.failed_at is null))::int as pending,
              (count(j.row_id) filter (where j.failed_at is null and j.priority = 0))::int as pending_edits,
              (count(*) filter (where j.lease_until > clock_timestamp()))::int as leased,
              (count(*) filter (where j.failed_at is not null))::int as failed
         from ${collection.table} t
         left join reembed.records r on r.version_id = $1 and r.row_id = t.id::text
         left join reembed.jobs j on j.version_id = $1 and j.row_id = t.id::text`,
      [id],
    );
    const { rows: total, ...figures } = rows[0];
    return { total, figures };
  }

  async function expectExact(collection: TestCollection, ...numbers: number[]): Promise<Answer> {
    const answer = await statusOf(collection);
    for (const number of numbers) {
      const { total, figures } = await counted(collection, number);
      expect(answer).toMatchObject({ rows: total, rows_estimated: false });
      expect(answer.versions[number - 1]).toMatchObject(figures);
    }
    return answer;
  }

  /** Claims and completes so many jobs. */
  async function work(collection: TestCollection, version: number, rows: number): Promise<void> {
    const lease = await claim(client, { collection: collection.name, version, maxRows: rows });
    await complete(client, lease);
  }

  describe.each(["in place", "table of its own"] as const)("with vectors %s", (placement) => {
    test("counts what a full count does, from the first rows to an edited, half loaded, partly failed second version", async () => {
      const collection = await make(placement);
      await expectExact(collection, 1);
      await insertMany(collection, 60);
      const fresh = await expectExact(collection, 1);
      expect(fresh.versions[0]).toMatchObject({ current: 0, coverage: 0, pending: 60, pending_edits: 60 });
      expect(fresh.versions[1]).toMatchObject({ current: 0, coverage: 0, pending: 0 });
      await work(collection, 1, 40);
      await expectExact(collection, 1);
      await work(collection, 1, 20);

      await load(client, collection, 2);
      await work(collection, 2, 25);
      const failing = await claim(client, { collection: collection.name, version: 2, maxRows: 7 });
      await fail(client, failing, "refused as bad input", null);
      await claim(client, { collection: collection.name, version: 2, maxRows: 5 });
      await client.query(
        `update ${collection.table} set title = title || '!' where id in (select id from ${collection.table} order by title limit 9)`,
      );
      await insertRow(client, collection, "a new one");
      const moving = await expectExact(collection, 1, 2);
      expect(moving.versions[1]?.reasons).toEqual([
        { error: "refused as bad input", rows: expect.any(Number) },
      ]);
    });
  });

  test("of one collection it says the same, with its spaces and the budgets that it counts against", async () => {
    const [one, another] = [await make(), await make()];
    await insertMany(one, 3);
    await client.query("select reembed.add_space('test', 'elsewhere', 8)");
    await client.query(`alter table ${another.table} add column elsewhere extensions.vector(8)`);
    await client.query("select reembed.add_version($1, 'test/elsewhere@8', 'elsewhere', $2)", [
      another.name,
      `public.${another.name}_input`,
    ]);
    const scopes = ["all", "queries", one.name, another.name];
    for (const scope of scopes) await client.query("select reembed.set_budget($1, 'day', 5)", [scope]);
    const { rows } = await client.query("select reembed.status($1) as one, reembed.status() as all", [
      one.name,
    ]);
    const { collections, spaces, budgets, ...common } = rows[0].one;
    const all = rows[0].all;
    expect(collections).toEqual([
      all.collections.find(({ collection }: { collection: string }) => collection === one.name),
    ]);
    expect(spaces.map(({ space }: { space: string }) => space)).toEqual(["test/model-1@8", "test/model-2@8"]);
    expect(all.spaces.map(({ space }: { space: string }) => space)).toContain("test/elsewhere@8");
    expect(budgets.map(({ scope }: { scope: string }) => scope).sort()).toEqual(
      ["all", "queries", one.name].sort(),
    );
    expect(all.budgets.map(({ scope }: { scope: string }) => scope).sort()).toEqual([...scopes].sort());
    expect(common).toEqual({ queries: all.queries, completions: all.completions });
    await expect(client.query("select reembed.status('nowhere')")).rejects.toMatchObject({ code: "RE005" });
    for (const scope of scopes) await client.query("select reembed.set_budget($1, 'day', null)", [scope]);
  });

  test("of a large table it counts the rows by what stands of them in jobs and records", async () => {
    const collection = await make();
    const { id } = versionOf(collection, 1);
    await insertMany(collection, 12_000);
    await client.query(`analyze ${collection.table}`);
    await expectExact(collection, 1);
    // Most rows of the first version are done, and then all but a few.
    for (const left of [11_000, 300]) {
      await client.query(
        `with finished as (delete from reembed.jobs where version_id = $1 and row_id not in (select row_id from reembed.jobs where version_id = $1 order by row_id limit $2) returning row_id)
         insert into reembed.records (version_id, row_id, content_hash, space_id) select $1, row_id, '\\x00', 'test/model-1@8' from finished`,
        [id, left],
      );
      await expectExact(collection, 1);
    }
    await client.query(`update ${collection.table} set title = title || '!' where id::text < '3'`);
    await load(client, collection, 2);
    await expectExact(collection, 1, 2);
    await client.query(
      "update reembed.jobs set failed_at = now(), error = left(row_id, 1) where version_id = $1 and row_id > '4'",
      [versionOf(collection, 2).id],
    );
    const { versions } = await expectExact(collection, 1, 2);
    expect(versions[1]?.reasons).toHaveLength(5);
  });

  test("a large table without a maintained version has the planner's estimate, and says so", async () => {
    const collection = await make();
    await client.query("update reembed.versions set enqueued_at = null where id = $1", [
      versionOf(collection, 1).id,
    ]);
    await insertMany(collection, 10_000);
    await client.query(`analyze ${collection.table}`);
    expect(await statusOf(collection)).toMatchObject({ rows: 10_000, rows_estimated: true });
  });

  test("the oldest job is an edit's and a backfill's apart", async () => {
    const collection = await make();
    const { id } = versionOf(collection, 2);
    await insertMany(collection, 3);
    await load(client, collection, 2);
    expect((await statusOf(collection)).versions[1]).toMatchObject({
      oldest_edit_seconds: null,
      oldest_backfill_seconds: 0,
    });
    await client.query(`update ${collection.table} set title = 'edited' where title = 'text 1'`);
    await client.query(
      `update reembed.jobs set enqueued_at = now() - case priority when 0 then interval '90 seconds' else interval '1 hour' end where version_id = $1`,
      [id],
    );
    // A retry that is due later is as old as it is.
    await fail(client, await claim(client, { collection: collection.name, version: 2 }), "no answer", 600);
    expect((await statusOf(collection)).versions[1]).toMatchObject({
      oldest_edit_seconds: 90,
      oldest_backfill_seconds: 3_600,
      leased: 0,
    });
    await client.query("update reembed.jobs set failed_at = now() where version_id = $1 and priority = 0", [
      id,
    ]);
    expect((await statusOf(collection)).versions[1]).toMatchObject({ oldest_edit_seconds: null });
  });

  test("the oldest edit is the same whether it was touched or not, and two lookups find it among many", async () => {
    const collection = await make();
    await load(client, collection, 1);
    await insertMany(collection, 4_000);
    const version = versionOf(collection, 1).id;
    // Untouched, retried later, leased, given back, failed: as claims leave them.
    await client.query(
      `update reembed.jobs j set enqueued_at = e.at, run_at = e.at + case n % 4 when 0 then interval '0' when 1 then interval '5 minutes' else interval '3 days' end,
              failed_at = case when n % 97 = 0 then now() end
         from (select row_id, row_number() over (order by md5(row_id)) as n from reembed.jobs where version_id = $1) x
        cross join lateral (select now() - make_interval(secs => 60 + (x.n * 7919) % 5000) as at) e
        where j.version_id = $1 and j.row_id = x.row_id`,
      [version],
    );
    for (const gone of ["false", "run_at = enqueued_at", "run_at <> enqueued_at", "true"]) {
      await client.query("begin");
      await client.query(`delete from reembed.jobs where version_id = $1 and ${gone}`, [version]);
      const { rows } = await client.query(
        `select reembed.oldest_edit($1) as found, (select min(enqueued_at) from reembed.jobs where version_id = $1 and failed_at is null) as least`,
        [version],
      );
      expect(rows[0]?.found).toEqual(rows[0]?.least);
      await client.query("rollback");
    }
    await client.query("vacuum analyze reembed.jobs");
    await client.query("begin; set local enable_seqscan = off");
    const { rows: before } = await client.query(
      "select pg_stat_get_xact_tuples_returned(c.oid)::int as read from pg_class c where c.relname in ('jobs_due_idx', 'jobs_age_idx') order by 1",
    );
    await client.query("select reembed.oldest_edit($1)", [version]);
    const { rows: after } = await client.query(
      "select pg_stat_get_xact_tuples_returned(c.oid)::int as read from pg_class c where c.relname in ('jobs_due_idx', 'jobs_age_idx') order by 1",
    );
    await client.query("rollback");
    const total = (rows: { read: number }[]) => rows.reduce((sum, { read }) => sum + read, 0);
    expect(total(after) - total(before)).toBeLessThan(10);
  });

  test("the rate is that of the last minute, and says when all will be done", async () => {
    const collection = await make();
    const { id } = versionOf(collection, 1);
    await insertMany(collection, 100);
    expect((await statusOf(collection)).versions[0]).toMatchObject({ rows_per_second: 0, eta_seconds: null });
    await client.query(
      `insert into reembed.usage (at, space_id, version_id, purpose, state, outcome, inputs, stale, latency_ms)
       select clock_timestamp() - ago, 'test/model-1@8', $1, 'document', state, outcome, inputs, stale, 1000
         from (values (interval '2 minutes', 'settled', 'ok', 5000, 0), ('39 seconds', 'settled', 'ok', 220, 20), ('1 second', 'settled', 'ok', 200, 0),
                      ('1 second', 'settled', 'bad_input', 900, 0), ('1 second', 'lost', 'timeout', 900, 0), ('0 seconds', 'reserved', null, 900, 0))
              u(ago, state, outcome, inputs, stale)`,
      [id],
    );
    const [version] = (await statusOf(collection)).versions;
    // 400 stored in the 40 seconds since the first of them was sent.
    expect(version?.rows_per_second).toBeCloseTo(10, 0);
    expect([10, 11]).toContain(version?.eta_seconds);
  });

  test("what holds a provider or a version up is told", async () => {
    const collection = await make();
    await insertMany(collection, 1);
    const space = async (id: string) => (await status()).spaces.find(({ space }) => space === id);
    await client.query("select reembed.pause_space('test/model-1@8', 'no credit left')");
    expect(await space("test/model-1@8")).toMatchObject({
      paused: "no credit left",
      paused_until: "infinity",
    });
    await client.query("select reembed.resume_space('test/model-1@8')");
    await client.query(
      `select reembed.note_answer('test/model-1@8', now(), '{"refused": true, "retry_after_ms": 60000, "tokens_per_minute": 1000, "tokens_left": 0}')`,
    );
    expect(await space("test/model-1@8")).toMatchObject({
      paused: null,
      waits_until: expect.any(String),
      refusals: 1,
      tokens_per_minute: 1000,
    });
    await client.query("update reembed.spaces set waits_until = null, price_per_mtok = 1");
    await client.query(
      "insert into reembed.budgets (scope, period, limit_usd, spent_usd) values ($1, 'day', 1, 1)",
      [collection.name],
    );
    expect((await statusOf(collection)).versions[0]?.budget).toMatchObject({ scope: collection.name });
  });

  test("a collection whose table is gone stops nothing", async () => {
    const collection = await make();
    await insertMany(collection, 2);
    await client.query(`drop table ${collection.table} cascade`);
    expect(await statusOf(collection)).toMatchObject({ rows: 0, rows_estimated: true });
  });
});
