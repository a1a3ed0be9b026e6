/** What may be spent: budgets, their periods, and reservations against each other. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createCollection, jobs, type TestCollection, versionOf } from "../support/collection.ts";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";
import { type Claim, claim, complete, done, expireLeases } from "../support/worker.ts";

interface BudgetRow {
  readonly spent: number;
  readonly reserved: number;
}

describePostgres("budgets", () => {
  let sessions: Sessions;
  let app: Session;
  let other: Session;
  let observer: Session;
  let collection: TestCollection;

  beforeAll(async () => {
    const database = await createDatabase();
    sessions = new Sessions(database.url);
    [app, other, observer] = await Promise.all([sessions.open(), sessions.open(), sessions.open()]);
    collection = await createCollection(app.client, "notes");
  });
  afterAll(() => sessions.close());
  beforeEach(async () => {
    await app.client.query("delete from reembed.budgets");
  });

  const setBudget = (scope: string, period: string, limit: string | number | null) =>
    app.client.query("select reembed.set_budget($1, $2, $3)", [scope, period, limit]);

  /** Null when reserved, else the budget that has not enough left. */
  async function reserve(
    session: Session,
    scopes: string[],
    amount: number,
    isMove = false,
  ): Promise<{ scope: string; period: string; renews_at: string | null } | null> {
    const { rows } = await session.client.query("select reembed.reserve($1, $2, $3) as refused", [
      scopes,
      amount,
      isMove,
    ]);
    return rows[0]?.refused;
  }

  async function budget(scope: string, period = "day"): Promise<BudgetRow | undefined> {
    const { rows } = await app.client.query<BudgetRow>(
      `select spent_usd::float8 as spent, reserved_usd::float8 as reserved from reembed.budgets where scope = $1 and period = $2`,
      [scope, period],
    );
    return rows[0];
  }

  describe("setting one", () => {
    test.each([0, -1, "NaN", "Infinity", "-Infinity"])(
      "refuses a limit of %s and says what to do",
      async (limit) => {
        await expect(setBudget("all", "day", limit)).rejects.toMatchObject({
          code: "RE004",
          message: expect.stringContaining("limit_usd"),
          hint: expect.stringContaining("null"),
        });
        expect(await budget("all")).toBeUndefined();
      },
    );

    test("refuses unknown scopes and periods, and a move of queries", async () => {
      await expect(setBudget("nowhere", "day", 1)).rejects.toMatchObject({ code: "RE005" });
      await expect(setBudget("all", "week", 1)).rejects.toMatchObject({ code: "RE004" });
      await expect(setBudget("queries", "move", 1)).rejects.toMatchObject({ code: "RE004" });
    });

    test("again keeps what was spent, null removes it", async () => {
      await setBudget("notes", "day", 1);
      await reserve(app, ["all", "notes"], 0.75);
      await setBudget("notes", "day", 2);
      expect(await budget("notes")).toEqual({ spent: 0, reserved: 0.75 });
      await setBudget("notes", "day", null);
      expect(await budget("notes")).toBeUndefined();
    });
  });

  test("a reservation is made in every budget or in none", async () => {
    await setBudget("all", "day", 10);
    await setBudget("notes", "month", 1);
    expect(await reserve(app, ["all", "notes"], 0.6)).toBeNull();
    expect(await reserve(app, ["all", "notes"], 0.6)).toMatchObject({ scope: "notes", period: "month" });
    expect(await budget("all")).toEqual({ spent: 0, reserved: 0.6 });
    expect(await budget("notes", "month")).toEqual({ spent: 0, reserved: 0.6 });
    expect(await reserve(app, ["all", "queries"], 0.6)).toBeNull();
    expect(await reserve(app, ["all", "notes"], 0.4)).toBeNull();
  });

  test("a move's budget counts only what is part of a move", async () => {
    await setBudget("notes", "move", 1);
    expect(await reserve(app, ["all", "notes"], 5)).toBeNull();
    expect(await budget("notes", "move")).toEqual({ spent: 0, reserved: 0 });
    expect(await reserve(app, ["all", "notes"], 5, true)).toMatchObject({ period: "move", renews_at: null });
  });

  test.each([
    { period: "day", unit: "day" },
    { period: "month", unit: "month" },
  ])(
    "a $period's budget renews with the next one, and a late settlement does not count in it",
    async ({ period, unit }) => {
      await setBudget("all", period, 1);
      await reserve(app, ["all"], 1);
      const { rows } = await app.client.query("select clock_timestamp()::text as at");
      expect(await reserve(app, ["all"], 0.1)).toMatchObject({
        renews_at: expect.stringMatching(/T00:00:00\+00:00$/),
      });
      await app.client.query(
        `update reembed.budgets set begun_at = date_trunc('${unit}', clock_timestamp(), 'UTC') - interval '1 second'`,
      );
      expect(await reserve(app, ["all"], 0.25)).toBeNull();
      expect(await budget("all", period)).toEqual({ spent: 0, reserved: 0.25 });
      await app.client.query("select reembed.spend('{all}', $1, 1, 0.9)", [rows[0]?.at]);
      expect(await budget("all", period)).toEqual({ spent: 0, reserved: 0.25 });
    },
  );

  test("a move's budget renews when the next loading starts", async () => {
    await setBudget("notes", "move", 1);
    await reserve(app, ["notes"], 1, true);
    expect(await reserve(app, ["notes"], 0.5, true)).not.toBeNull();
    await app.client.query("begin");
    await app.client.query("select reembed.start_loading('notes', 2)");
    expect(await reserve(app, ["notes"], 0.5, true)).toBeNull();
    await app.client.query("rollback");
  });

  test("two at once never pass the limit: the second waits for the first and counts it", async () => {
    await setBudget("all", "day", 1);
    await app.client.query("begin");
    expect(await reserve(app, ["all", "notes"], 0.7)).toBeNull();
    const waiting = reserve(other, ["all", "queries"], 0.7);
    await untilBlocked(observer.client, other, waiting);
    await app.client.query("commit");
    expect(await waiting).toMatchObject({ scope: "all", reserved_usd: 0.7, exhausted: true });
  });

  describe("in a claim", () => {
    const PRICE = 1_000_000;
    let notes: TestCollection;
    let papers: TestCollection;

    beforeAll(async () => {
      notes = collection;
      papers = await createCollection(app.client, "papers", "table of its own");
    });
    beforeEach(async () => {
      for (const { table } of [notes, papers]) await app.client.query(`truncate ${table} cascade`);
      await app.client.query("delete from reembed.jobs");
      await app.client.query("delete from reembed.usage");
      // A dollar a token, so that the amounts below are tokens by the estimate: five for the texts below.
      await app.client.query("update reembed.spaces set price_per_mtok = $1", [PRICE]);
      await app.client.query(
        "update reembed.versions set space_id = $1 where number = 1 and collection_id = (select id from reembed.collections where name = 'papers')",
        ["test/model-2@8"],
      );
    });

    const write = (to: TestCollection, count: number, text = "eighteen bytes") =>
      app.client.query(
        `insert into ${to.table} (title) select $2 || ' ' || n from generate_series(101, 100 + $1::int) n`,
        [count, text],
      );
    const workIsDue = async () =>
      (await app.client.query("select reembed.work_is_due() as due")).rows[0]?.due;
    const settle = (lease: Claim, tokens: number, state = "settled") =>
      app.client.query("select reembed.settle($1, $2)", [
        lease.usage_id,
        JSON.stringify([{ state, outcome: "ok", inputs: 1, stale: 0, tokens, latency_ms: 1 }]),
      ]);

    test("as many jobs are leased as fit; then it leases nothing, says which budget, and the poke has nothing to do", async () => {
      await setBudget("notes", "day", 12);
      await write(notes, 5);
      const lease = await claim(app.client);
      expect(lease.jobs).toHaveLength(2);
      expect(await budget("notes")).toEqual({ spent: 0, reserved: 10 });
      const { rows } = await app.client.query("select tokens::int, cost_usd::int from reembed.usage");
      expect(rows).toEqual([{ tokens: 10, cost_usd: 10 }]);
      expect(await claim(app.client)).toMatchObject({
        reason: "budget",
        budget: { scope: "notes", period: "day", limit_usd: 12, reserved_usd: 10, exhausted: true },
        jobs: [],
      });
      expect(await claim(app.client)).toMatchObject({ reason: "budget", jobs: [] });
      expect((await jobs(app.client, versionOf(notes, 1).id)).filter((job) => job.leased)).toHaveLength(2);
      expect(await workIsDue()).toBe(false);
    });

    test("what settling gives back can be spent; what the provider counts is what is spent", async () => {
      await setBudget("all", "day", 10);
      await write(notes, 3);
      const lease = await claim(app.client);
      expect(lease.jobs).toHaveLength(2);
      await settle(lease, 4);
      expect(await budget("all")).toEqual({ spent: 4, reserved: 0 });
      expect(await workIsDue()).toBe(true);
      expect((await claim(app.client)).jobs).toHaveLength(1);
    });

    test("a request whose answer was lost counts as spent, and so does a worker that never came back", async () => {
      await setBudget("all", "day", 10);
      await write(notes, 3);
      await settle(await claim(app.client, { maxRows: 1 }), 5, "lost");
      expect(await budget("all")).toEqual({ spent: 5, reserved: 0 });
      await claim(app.client, { maxRows: 1 });
      await app.client.query("update reembed.usage set lease_until = now() - interval '1 minute'");
      await expireLeases(app.client);
      expect(await claim(app.client)).toMatchObject({ reason: "budget" });
    });

    test("a settlement that comes after its worker was given up replaces the estimate", async () => {
      await setBudget("all", "day", 10);
      await write(notes, 2);
      const late = await claim(app.client, { maxRows: 1 });
      await app.client.query("update reembed.usage set lease_until = now() - interval '1 minute'");
      await claim(app.client, { maxRows: 1 });
      await settle(late, 3);
      expect(await budget("all")).toEqual({ spent: 3, reserved: 5 });
    });

    test("another collection goes on where one has spent its budget", async () => {
      await setBudget("notes", "month", 1);
      await write(notes, 2);
      await write(papers, 1);
      expect(await claim(app.client)).toMatchObject({ reason: "again", jobs: [] });
      expect(await claim(app.client)).toMatchObject({ reason: "work", collection: "papers" });
      expect(await claim(app.client)).toMatchObject({ reason: "budget" });
    });

    test("a space without a price needs no budget", async () => {
      await setBudget("all", "day", 0.001);
      await app.client.query("update reembed.spaces set price_per_mtok = 0");
      await write(notes, 3);
      const lease = await claim(app.client);
      expect(lease.jobs).toHaveLength(3);
      await settle(lease, 15);
      expect(await budget("all")).toEqual({ spent: 0, reserved: 0 });
    });

    test("a stored vector is copied although nothing is left", async () => {
      await write(notes, 1);
      expect(await complete(app.client, await claim(app.client))).toEqual(done(1));
      await setBudget("all", "day", 1);
      await write(notes, 1);
      expect(await claim(app.client)).toMatchObject({ reason: "work", jobs: [], copies: [{}] });
    });

    test("a move's budget bounds the loading of a version and not the edits of one that is ready", async () => {
      await setBudget("notes", "move", 5);
      await write(notes, 3);
      await app.client.query("update reembed.versions set state = 'ready' where id = $1", [
        versionOf(notes, 1).id,
      ]);
      expect((await claim(app.client)).jobs).toHaveLength(3);
      await expireLeases(app.client);
      await app.client.query("update reembed.versions set state = 'loading' where id = $1", [
        versionOf(notes, 1).id,
      ]);
      const lease = await claim(app.client);
      expect(lease.jobs).toHaveLength(1);
      // It has become ready meanwhile: what was bought for the move stays its cost.
      await app.client.query("update reembed.versions set state = 'ready' where id = $1", [
        versionOf(notes, 1).id,
      ]);
      await settle(lease, 4);
      expect(await budget("notes", "move")).toEqual({ spent: 4, reserved: 0 });
    });

    test("claims of two spaces at once share one budget, never pass it and never wait for each other in a circle", async () => {
      await setBudget("all", "day", 400);
      await setBudget("notes", "day", 250);
      await setBudget("papers", "month", 250);
      await write(notes, 200);
      await write(papers, 200);
      let over = 0;
      let claims = 0;
      const work = async (session: Session, name: string) => {
        for (;;) {
          const lease = await claim(session.client, { collection: name, maxRows: 3 });
          if (lease.reason === "budget" || lease.reason === "idle") return;
          claims += 1;
          if (lease.jobs.length > 0) await complete(session.client, lease);
          if (lease.usage_id !== null) {
            await session.client.query("select reembed.settle($1, $2)", [
              lease.usage_id,
              JSON.stringify([
                {
                  state: "settled",
                  outcome: "ok",
                  inputs: 1,
                  stale: 0,
                  tokens: lease.jobs.length * 4,
                  latency_ms: 1,
                },
              ]),
            ]);
          }
          const { rows } = await session.client.query(
            "select from reembed.budgets where spent_usd + reserved_usd > limit_usd",
          );
          over += rows.length;
        }
      };
      const workers = await Promise.all(Array.from({ length: 6 }, () => sessions.open()));
      await Promise.all(workers.map((session, n) => work(session, n % 2 === 0 ? "notes" : "papers")));
      expect(over).toBe(0);
      expect(claims).toBeGreaterThan(20);
      const { rows } = await app.client.query(
        "select sum(cost_usd)::float8 as cost from reembed.usage where state <> 'reserved'",
      );
      const { spent, reserved } = (await budget("all")) ?? { spent: 0, reserved: 0 };
      expect({ spent, reserved }).toEqual({ spent: rows[0]?.cost, reserved: 0 });
      expect(spent).toBeGreaterThan(390);
    });

    test("a budget that somebody holds open is not waited for: nothing is leased, and the app's writes go on", async () => {
      await setBudget("all", "day", 100);
      await write(notes, 2);
      await other.client.query("begin");
      await other.client.query("update reembed.budgets set limit_usd = 200");
      expect(await claim(app.client)).toMatchObject({ reason: "busy", jobs: [] });
      await other.client.query("rollback");
      expect((await jobs(app.client, versionOf(notes, 1).id)).filter((job) => job.leased)).toEqual([]);
      expect((await claim(app.client)).jobs).toHaveLength(2);
    });
  });
});
