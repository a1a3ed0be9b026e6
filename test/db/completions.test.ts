/** What a language model may cost: reserved before, settled after, by whose budget, at what rate. Time is moved by backdating rows. */
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Sessions } from "../support/sessions.ts";

const ADA = "a".repeat(64);
const BOB = "b".repeat(64);
/** Half a dollar a token in, a dollar a token out. */
const MODEL = "test/writer";
const FREE = "test/own-server";

interface Begun {
  readonly ticket?: number;
  readonly max_output_tokens?: number;
  readonly refused?: string;
  readonly retry_seconds?: number;
}

interface Asked {
  readonly model?: string;
  readonly purpose?: string;
  readonly input?: number;
  readonly output?: number;
  readonly collection?: string | null;
  readonly caller?: string | null;
  readonly by?: Client;
}

describePostgres("completions", () => {
  let client: Client;
  let sessions: Sessions;
  let collection: string;

  beforeAll(async () => {
    const { url } = await createDatabase();
    client = await connect(url);
    sessions = new Sessions(url);
    collection = (await createCollection(client, "completions_shop")).name;
    await client.query(
      `select reembed.set_completion_model('test', 'writer', 1, 1), reembed.set_completion_model('test', 'own-server', 0, 0),
              reembed.set_completion_model('test', 'writer', 500000, 1000000, 2048, 100)`,
    );
  });
  afterAll(async () => {
    await sessions.close();
    await client.end();
  });
  beforeEach(async () => {
    await client.query(
      "truncate reembed.completions, reembed.query_rates, reembed.budgets; select reembed.set_completion_rate(10, 5)",
    );
  });

  const begin = async (asked: Asked = {}): Promise<Begun> => {
    const { model = MODEL, purpose = "answer", input = 10, output = 5, by = client } = asked;
    const { rows } = await by.query(
      "select public.reembed_begin_completion($1, $2, $3, $4, $5, $6) as begun",
      [model, purpose, input, output, asked.collection ?? null, asked.caller ?? null],
    );
    return rows[0].begun;
  };
  const end = (ticket: number | undefined, input = 12, output = 3, outcome = "ok", state = "settled") =>
    client.query("select public.reembed_end_completion($1, $2, $3, 40, $4, $5)", [
      ticket,
      input,
      output,
      outcome,
      state,
    ]);
  const ledger = async () =>
    (
      await client.query(
        "select purpose, collection, state, outcome, input_tokens::int as input, output_tokens::int as output, cost_usd::float8 as cost from reembed.completions order by id",
      )
    ).rows;
  const budgets = async () =>
    (
      await client.query(
        "select scope, spent_usd::float8 as spent, reserved_usd::float8 as reserved from reembed.budgets order by 1",
      )
    ).rows;
  const setBudget = (scope: string, dollars: number, period = "day") =>
    client.query("select reembed.set_budget($1, $2, $3)", [scope, period, dollars]);

  describe("the ledger", () => {
    test("reserves the estimate and the most that may come, and settles what the provider counted", async () => {
      const { ticket, max_output_tokens } = await begin();
      expect(max_output_tokens).toBe(5);
      expect(await ledger()).toEqual([
        {
          purpose: "answer",
          collection: null,
          state: "reserved",
          outcome: null,
          input: 10,
          output: 5,
          cost: 10,
        },
      ]);
      await end(ticket);
      expect(await ledger()).toEqual([
        {
          purpose: "answer",
          collection: null,
          state: "settled",
          outcome: "ok",
          input: 12,
          output: 3,
          cost: 9,
        },
      ]);
      await expect(end(ticket)).rejects.toMatchObject({ code: "RE004" });
    });

    test("keeps a row of a request that cost nothing, and what was lost as lost, once", async () => {
      await end((await begin()).ticket, 0, 0, "server_error");
      const { ticket } = await begin();
      await end(ticket, 10, 2, "aborted", "lost");
      expect(await ledger()).toMatchObject([
        { state: "settled", outcome: "server_error", cost: 0 },
        { state: "lost", outcome: "aborted", cost: 7 },
      ]);
      await expect(end(ticket)).rejects.toMatchObject({ code: "RE004" });
    });

    test("knows a request whose process died as lost, and settles it when its answer comes late", async () => {
      await setBudget("all", 1_000);
      const { ticket } = await begin();
      await client.query("update reembed.completions set lease_until = now() - interval '1 second'");
      await begin();
      expect(await ledger()).toMatchObject([
        { state: "lost", outcome: "no answer in time", cost: 10 },
        { state: "reserved" },
      ]);
      expect(await budgets()).toEqual([{ scope: "all", spent: 0, reserved: 20 }]);
      await end(ticket);
      expect(await budgets()).toEqual([{ scope: "all", spent: 9, reserved: 10 }]);
    });

    test("what is written about rows while a version loads counts as part of the move", async () => {
      await setBudget(collection, 25, "move");
      const first = await begin({ purpose: "describe", collection });
      expect(await budgets()).toEqual([{ scope: collection, spent: 0, reserved: 10 }]);
      await end(first.ticket);
      expect(await budgets()).toEqual([{ scope: collection, spent: 9, reserved: 0 }]);
      const second = await begin({ purpose: "describe", collection });
      expect(await begin({ purpose: "describe", collection })).toMatchObject({ refused: "budget" });
      // What answers a caller is part of no move.
      expect(await begin()).toHaveProperty("ticket");
      expect(await budgets()).toEqual([{ scope: collection, spent: 9, reserved: 10 }]);

      await client.query("begin");
      await client.query(
        "update reembed.versions v set state = 'ready' from reembed.collections c where c.id = v.collection_id and c.name = $1",
        [collection],
      );
      // It has become ready meanwhile: what was bought for the move stays its cost, and more is none of it.
      await end(second.ticket);
      await end((await begin({ purpose: "describe", collection })).ticket);
      expect(await budgets()).toEqual([{ scope: collection, spent: 18, reserved: 0 }]);
      await client.query("rollback");
    });

    test("a model writes no more than it can", async () => {
      expect(await begin({ output: 5_000 })).toMatchObject({ max_output_tokens: 100 });
      expect(await ledger()).toMatchObject([{ output: 100, cost: 105 }]);
    });

    test("what was bought keeps its price when the price changes", async () => {
      const { ticket } = await begin({ model: FREE });
      await end(ticket);
      await client.query("select reembed.set_completion_model('test', 'own-server', 5, 5)");
      expect(await ledger()).toMatchObject([{ cost: 0 }]);
      await client.query("select reembed.set_completion_model('test', 'own-server', 0, 0)");
    });

    test("stands in status, by model and purpose", async () => {
      await end((await begin()).ticket);
      await end((await begin()).ticket);
      await begin({ purpose: "describe", collection });
      const { rows } = await client.query("select reembed.status() -> 'completions' as completions");
      expect(rows[0].completions).toEqual([
        {
          model: MODEL,
          purpose: "answer",
          requests: 2,
          input_tokens: 24,
          output_tokens: 6,
          cost_usd: 18,
          cost_usd_reserved: 0,
        },
        {
          model: MODEL,
          purpose: "describe",
          requests: 0,
          input_tokens: 0,
          output_tokens: 0,
          cost_usd: 0,
          cost_usd_reserved: 10,
        },
      ]);
    });
  });

  describe("the budget", () => {
    test("an answer is paid by queries and all, a description by its collection and all", async () => {
      for (const scope of ["all", "queries", collection]) await setBudget(scope, 1_000);
      await end((await begin()).ticket);
      await end((await begin({ purpose: "describe", collection })).ticket, 1, 1);
      expect(await budgets()).toEqual([
        { scope: "all", spent: 10.5, reserved: 0 },
        { scope: collection, spent: 1.5, reserved: 0 },
        { scope: "queries", spent: 9, reserved: 0 },
      ]);
    });

    test("that has not enough left refuses, says when it renews, and writes nothing", async () => {
      await setBudget("queries", 9.5);
      const { refused, retry_seconds } = await begin();
      expect(refused).toBe("budget");
      expect(retry_seconds).toBeGreaterThan(0);
      expect(retry_seconds).toBeLessThanOrEqual(86_400);
      expect(await ledger()).toEqual([]);
      expect(await begin({ purpose: "describe", collection })).toHaveProperty("ticket");
      expect(await begin({ model: FREE })).toHaveProperty("ticket");
    });

    test("lets through no more at once than there is money for", async () => {
      await setBudget("queries", 35);
      const begun = await Promise.all(
        Array.from({ length: 8 }, async () => begin({ by: (await sessions.open()).client })),
      );
      await sessions.close();
      expect(begun.filter(({ ticket }) => ticket !== undefined)).toHaveLength(3);
    });
  });

  describe("the rate", () => {
    test("is each caller's own, and apart from that of searches", async () => {
      await client.query("select reembed.set_completion_rate(1, 2), reembed.set_query_rate(1, 1)");
      expect(await begin({ caller: ADA })).toHaveProperty("ticket");
      expect(await begin({ caller: ADA })).toHaveProperty("ticket");
      const refusal = await begin({ caller: ADA });
      expect(refusal.refused).toBe("rate");
      expect(refusal.retry_seconds).toBeGreaterThan(50);
      expect(await begin({ caller: BOB })).toHaveProperty("ticket");
      expect(await begin()).toHaveProperty("ticket");
      const search = () =>
        client
          .query("select reembed.admit_caller(decode($1, 'hex')) as wait", [ADA])
          .then(({ rows }) => rows[0].wait);
      expect(await search()).toBe(0);
      expect(await search()).toBeGreaterThan(50);
      await client.query("update reembed.query_rates set at = at - interval '1 minute'");
      expect(await begin({ caller: ADA })).toHaveProperty("ticket");
    });

    test("of nothing is refused by name", async () => {
      await expect(client.query("select reembed.set_completion_rate(0, 5)")).rejects.toMatchObject({
        code: "RE004",
        message: expect.stringContaining("per_minute"),
      });
    });
  });

  test("an unknown model is said to be, and reserves nothing", async () => {
    expect(await begin({ model: "openai/gpt-99" })).toEqual({ refused: "model" });
    const { rows } = await client.query(
      "select public.reembed_completion_model('openai/gpt-99') as unknown, public.reembed_completion_model($1) as known",
      [MODEL],
    );
    expect(rows[0]).toMatchObject({ unknown: null, known: { id: MODEL, max_input_tokens: 2_048 } });
  });

  test.each<[string, Asked, string]>([
    ["more tokens than the model takes", { input: 2_049 }, "input_tokens"],
    ["no tokens", { input: 0 }, "input_tokens"],
    ["no answer", { output: 0 }, "max_output_tokens"],
    ["a purpose that is no word", { purpose: "Answer me!" }, "purpose"],
    ["a caller that is no hash", { caller: "ada" }, "caller_hash"],
    ["an unknown collection", { collection: "nobody" }, "nobody"],
  ])("%s is refused by name", async (_what, asked, named) => {
    await expect(begin(asked)).rejects.toMatchObject({
      code: expect.stringMatching(/^RE00[45]$/),
      message: expect.stringContaining(named),
    });
    expect(await ledger()).toEqual([]);
  });

  test.each([
    ["null, 'm', 1, 1", "provider"],
    ["'Open AI', 'm', 1, 1", "provider"],
    ["'openai', 'two words', 1, 1", "model"],
    ["'openai', 'm', -1, 1", "input_price_per_mtok"],
    ["'openai', 'm', 1, 'NaN'", "output_price_per_mtok"],
    ["'openai', 'm', 1, 1, 0", "max_input_tokens"],
  ])("a model of %s is refused by name", async (args, named) => {
    await expect(client.query(`select reembed.set_completion_model(${args})`)).rejects.toMatchObject({
      code: "RE004",
      message: expect.stringContaining(named),
    });
  });
});
