/** What may be spent: budgets, their periods, and reservations against each other. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createCollection } from "../support/collection.ts";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { type Session, Sessions, untilBlocked } from "../support/sessions.ts";

interface BudgetRow {
  readonly spent: number;
  readonly reserved: number;
}

describePostgres("budgets", () => {
  let sessions: Sessions;
  let app: Session;
  let other: Session;
  let observer: Session;

  beforeAll(async () => {
    const database = await createDatabase();
    sessions = new Sessions(database.url);
    [app, other, observer] = await Promise.all([sessions.open(), sessions.open(), sessions.open()]);
    await createCollection(app.client, "notes");
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
    await app.client.query("select reembed.start_loading('notes', 2)");
    expect(await reserve(app, ["notes"], 0.5, true)).toBeNull();
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
});
