/** What a search by text may cost: the cache of queries, the rate of callers, the ledger. Time is moved by backdating rows. */
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Sessions } from "../support/sessions.ts";

const SPACE = "test/queries@3";
const OTHER_SPACE = "test/others@3";
const ADA = "a".repeat(64);
const BOB = "b".repeat(64);
const BAD_HASHES: readonly [string | null, string | null][] = [
  ["zz", null],
  [null, null],
  ["A".repeat(64), null],
  ["a".repeat(64), "b"],
];

interface Begun {
  readonly embedding?: string;
  readonly ticket?: number;
  readonly refused?: string;
  readonly retry_seconds?: number;
}

describePostgres("queries", () => {
  let client: Client;
  let sessions: Sessions;
  let count = 0;

  beforeAll(async () => {
    const { url } = await createDatabase();
    client = await connect(url);
    sessions = new Sessions(url);
    await client.query(
      "select reembed.add_space('test', 'queries', 3, 1000000), reembed.add_space('test', 'others', 3)",
    );
  });
  afterAll(async () => {
    await sessions.close();
    await client.end();
  });
  beforeEach(async () => {
    await client.query(
      "truncate reembed.query_cache, reembed.query_rates, reembed.usage, reembed.budgets; select reembed.set_query_rate(60, 20)",
    );
  });

  const rows = async <Row>(sql: string, values: unknown[] = []) =>
    (await client.query(sql, values)).rows as Row[];
  const value = async (sql: string, values: unknown[] = []) =>
    Object.values((await rows<object>(sql, values))[0] ?? {})[0];
  /** A hash that no other test has used. */
  const newHash = () => {
    count += 1;
    return count.toString(16).padStart(64, "0");
  };
  const begin = async (
    hash: string,
    caller: string | null = null,
    by = client,
    space = SPACE,
  ): Promise<Begun> =>
    (await by.query("select public.reembed_begin_query($1, $2, 5, $3) as begun", [space, hash, caller]))
      .rows[0].begun;
  const end = (ticket: number | undefined, hash: string, embedding: string | null = "[1,2,3]", by = client) =>
    by.query("select public.reembed_end_query($1, $2, 7, 20, 'ok', 'settled', $3)", [
      ticket,
      hash,
      embedding,
    ]);
  const ledger = () =>
    rows(
      "select purpose, state, outcome, inputs, tokens::int, cost_usd::float8 from reembed.usage order by id",
    );
  /** How many of so many searches at once by new connections of this caller are let through. */
  const admitted = async (searches: number, caller: string) => {
    const all = await Promise.all(
      Array.from({ length: searches }, async () => {
        const { client: own } = await sessions.open();
        return begin(newHash(), caller, own);
      }),
    );
    await sessions.close();
    return all.filter(({ refused }) => refused === undefined).length;
  };

  describe("the ledger", () => {
    test("grows by a row of less than 300 bytes a query, and old rows may go: budgets keep sums of their own", async () => {
      await client.query("select reembed.set_budget('queries', 'day', 1000000)");
      const buy = (queries: number) =>
        client.query(
          `select public.reembed_end_query((public.reembed_begin_query($1, h, 5) ->> 'ticket')::bigint, h, 7, 20, 'ok', 'settled', '[1,2,3]')
             from (select encode(sha256(convert_to(n::text, 'UTF8')), 'hex') as h from generate_series(1, $2::int) n) hashes`,
          [SPACE, queries],
        );
      await buy(2_000);
      // As a vacuum would leave it, which keeps dead rows while anybody else looks at the database.
      await client.query(
        "create table reembed.kept (like reembed.usage including all); insert into reembed.kept overriding system value select * from reembed.usage",
      );
      expect(await value("select count(*)::int from reembed.kept")).toBe(2_000);
      expect(await value("select pg_total_relation_size('reembed.kept') / 2000 < 300")).toBe(true);
      await client.query("drop table reembed.kept");
      const spent = await rows("select spent_usd, reserved_usd from reembed.budgets");
      await client.query(
        "update reembed.usage set at = at - interval '500 days' where id in (select id from reembed.usage order by id limit 1500)",
      );
      await client.query(
        "delete from reembed.usage where purpose = 'query' and state <> 'reserved' and at < now() - interval '400 days'",
      );
      expect(await value("select (reembed.status() -> 'queries' ->> 'requests')::int")).toBe(500);
      expect(await rows("select spent_usd, reserved_usd from reembed.budgets")).toEqual(spent);
    });
  });

  describe("the cache", () => {
    test("answers a repeated query with the very embedding, counts the hit and writes no ledger row", async () => {
      const hash = newHash();
      const { ticket, embedding } = await begin(hash);
      expect(embedding).toBeUndefined();
      await end(ticket, hash, "[0.1,-2e-7,3]");
      expect(await begin(hash)).toEqual({ embedding: "[0.1,-2e-07,3]" });
      expect(await begin(hash)).toEqual({ embedding: "[0.1,-2e-07,3]" });
      expect(await value("select hits::int from reembed.query_cache")).toBe(2);
      expect(await ledger()).toHaveLength(1);
    });

    test("is a space's own: vectors of two spaces are never taken for each other, even of equal width", async () => {
      const hash = newHash();
      await end((await begin(hash)).ticket, hash);
      expect(await begin(hash, null, client, OTHER_SPACE)).toHaveProperty("ticket");
    });

    test("takes equal queries at once: each is paid, one is kept", async () => {
      const hash = newHash();
      const both = [await sessions.open(), await sessions.open()];
      const tickets = await Promise.all(both.map((session) => begin(hash, null, session.client)));
      await Promise.all(both.map((session, n) => end(tickets[n]?.ticket, hash, "[1,2,3]", session.client)));
      await sessions.close();
      expect(await value("select count(*)::int from reembed.query_cache")).toBe(1);
      expect(await ledger()).toHaveLength(2);
    });

    test("keeps nothing that is not of its space, and settles what it cost", async () => {
      const hash = newHash();
      await end((await begin(hash)).ticket, hash, "[1,2]");
      expect(await value("select count(*)::int from reembed.query_cache")).toBe(0);
      expect(await ledger()).toMatchObject([{ state: "settled", tokens: 7 }]);
    });

    test("is bounded in each space: the ones used longest ago go, and not at every call", async () => {
      const fill = (space: string, many: number) =>
        client.query(
          `insert into reembed.query_cache (space_id, query_hash, embedding, used_at)
           select $1, sha256(n::text::bytea), '[1,2,3]', now() - interval '1 day' - n * interval '1 second' from generate_series(1, $2) n`,
          [space, many],
        );
      const size = (space: string) =>
        value("select count(*)::int from reembed.query_cache where space_id = $1", [space]);
      await fill(SPACE, 10_500);
      await fill(OTHER_SPACE, 5);
      // The oldest of all is used again, so it is the youngest.
      await client.query("select reembed.begin_query($1, encode(sha256('10500'), 'hex'), 1)", [SPACE]);
      await client.query("select setseed(0)");
      let calls = 0;
      while ((await size(SPACE)) > 10_200) {
        const hash = newHash();
        await end((await begin(hash)).ticket, hash);
        calls += 1;
      }
      expect(calls).toBeGreaterThan(1);
      expect(calls).toBeLessThan(1_000);
      expect(await size(SPACE)).toBe(10_000);
      expect(await size(OTHER_SPACE)).toBe(5);
      const kept = async (n: number) =>
        value(
          "select count(*)::int from reembed.query_cache where space_id = $1 and query_hash = sha256($2)",
          [SPACE, String(n)],
        );
      expect([await kept(1), await kept(10_499), await kept(10_500)]).toEqual([1, 0, 1]);
    });
  });

  describe("the rate", () => {
    test("lets a burst through and no more, however many ask at once; others are not touched", async () => {
      await client.query("select reembed.set_query_rate(1, 5)");
      expect(await admitted(12, ADA)).toBe(5);
      const refusal = await begin(newHash(), ADA);
      expect(refusal.refused).toBe("rate");
      expect(refusal.retry_seconds).toBeGreaterThan(50);
      expect(refusal.retry_seconds).toBeLessThanOrEqual(60);
      expect(await begin(newHash(), BOB)).toHaveProperty("ticket");
      expect(await begin(newHash(), null)).toHaveProperty("ticket");
    });

    test("counts a search that the cache could answer", async () => {
      await client.query("select reembed.set_query_rate(1, 1)");
      const hash = newHash();
      await end((await begin(hash, ADA)).ticket, hash);
      expect(await begin(hash, ADA)).toHaveProperty("refused", "rate");
      expect(await begin(hash, BOB)).toHaveProperty("embedding");
    });

    test("gives back as time goes by, up to the burst", async () => {
      const backdate = (minutes: number) =>
        client.query("update reembed.query_rates set at = at - make_interval(mins => $1)", [minutes]);
      await client.query("select reembed.set_query_rate(1, 3)");
      expect(await admitted(4, ADA)).toBe(3);
      await backdate(2);
      expect(await admitted(4, ADA)).toBe(2);
      await backdate(60);
      expect(await admitted(5, ADA)).toBe(3);
    });

    test("forgets a bucket that is full again, and no other", async () => {
      // With 60 a minute and a burst of 20, an empty bucket is full after 20 seconds.
      await client.query(
        `insert into reembed.query_rates (caller, tokens, at)
         select sha256(n::text::bytea), 0, now() - n * interval '1 second' from generate_series(1, 100) n`,
      );
      const known = async (n: number) =>
        (await value("select count(*)::int from reembed.query_rates where caller = sha256($1)", [
          String(n),
        ])) === 1;
      await client.query("select setseed(0)");
      for (let call = 0; call < 1_000 && (await known(100)); call += 1) await begin(newHash(), newHash());
      expect([await known(1), await known(10), await known(50), await known(100)]).toEqual([
        true,
        true,
        false,
        false,
      ]);
    });

    test.each([
      ["0, 20", "per_minute"],
      ["1000001, 20", "per_minute"],
      ["null, 20", "per_minute"],
      ["60, 0", "burst"],
      ["60, null", "burst"],
    ])("of %s is refused by name", async (args, named) => {
      await expect(client.query(`select reembed.set_query_rate(${args})`)).rejects.toMatchObject({
        code: "RE004",
        message: expect.stringContaining(named),
      });
    });
  });

  describe("the budget", () => {
    // The estimate of a query here is 5 dollars, and the provider counts 7.
    const budgets = () =>
      rows(
        "select scope, spent_usd::float8 as spent, reserved_usd::float8 as reserved from reembed.budgets order by 1",
      );

    test.each(["queries", "all"])(
      "of %s is reserved, spent, and then refuses; the cache goes on",
      async (scope) => {
        await client.query("select reembed.set_budget($1, 'day', 10)", [scope]);
        const hash = newHash();
        const { ticket } = await begin(hash);
        expect(await budgets()).toEqual([{ scope, spent: 0, reserved: 5 }]);
        await end(ticket, hash);
        expect(await budgets()).toEqual([{ scope, spent: 7, reserved: 0 }]);
        const { refused, retry_seconds } = await begin(newHash());
        expect(refused).toBe("budget");
        expect(retry_seconds).toBeGreaterThan(0);
        expect(retry_seconds).toBeLessThanOrEqual(86_400);
        expect(await begin(hash)).toHaveProperty("embedding");
        expect(await ledger()).toHaveLength(1);
      },
    );

    test("is given back by a request that was not charged", async () => {
      await client.query("select reembed.set_budget('queries', 'month', 5)");
      const { ticket } = await begin(newHash());
      expect(await begin(newHash())).toHaveProperty("refused", "budget");
      await client.query("select reembed.end_query($1, $2, null, 20, 'server_error')", [ticket, ADA]);
      expect(await begin(newHash())).toHaveProperty("ticket");
    });

    test("lets through no more at once than there is money for", async () => {
      await client.query("select reembed.set_budget('queries', 'day', 17)");
      expect(await admitted(8, ADA)).toBe(3);
    });

    test("knows nothing of a space without a price", async () => {
      await client.query("select reembed.set_budget('queries', 'day', 5)");
      const hash = newHash();
      await end((await begin(hash)).ticket, hash);
      expect(await begin(newHash())).toHaveProperty("refused", "budget");
      expect(await begin(newHash(), null, client, OTHER_SPACE)).toHaveProperty("ticket");
    });
  });

  describe("the ledger", () => {
    test("reserves an estimate before, and settles what the provider counted after", async () => {
      const hash = newHash();
      const { ticket } = await begin(hash);
      expect(await ledger()).toEqual([
        { purpose: "query", state: "reserved", outcome: null, inputs: 1, tokens: 5, cost_usd: 5 },
      ]);
      await end(ticket, hash);
      expect(await ledger()).toEqual([
        { purpose: "query", state: "settled", outcome: "ok", inputs: 1, tokens: 7, cost_usd: 7 },
      ]);
      await expect(end(ticket, hash)).rejects.toMatchObject({ code: "RE004" });
    });

    test("keeps nothing of a request that was not charged, and what was lost as lost", async () => {
      const free = await begin(newHash());
      await client.query("select reembed.end_query($1, $2, null, 20, 'server_error')", [free.ticket, ADA]);
      expect(await ledger()).toEqual([]);
      const lost = await begin(newHash());
      await client.query("select reembed.end_query($1, $2, 5, 20, 'timeout', 'lost')", [lost.ticket, ADA]);
      expect(await ledger()).toMatchObject([{ state: "lost", outcome: "timeout", tokens: 5 }]);
      expect(await value("select count(*)::int from reembed.query_cache")).toBe(0);
    });

    test("knows a search whose process died as lost", async () => {
      await begin(newHash());
      await client.query("update reembed.usage set lease_until = now() - interval '1 second'");
      await begin(newHash());
      await begin(newHash());
      expect(await ledger()).toMatchObject([
        { state: "lost", outcome: "no answer in time", tokens: 5, cost_usd: 5 },
        { state: "reserved" },
        { state: "reserved" },
      ]);
    });

    test("a search waits for no claim of its space", async () => {
      const claim = await sessions.open();
      await claim.client.query("begin");
      await claim.client.query("select from reembed.spaces where id = $1 for no key update", [SPACE]);
      await client.query("set lock_timeout = '1s'");
      const hash = newHash();
      await end((await begin(hash, ADA)).ticket, hash);
      expect(await begin(hash, ADA)).toHaveProperty("embedding");
      await client.query("reset lock_timeout");
      await sessions.close();
    });

    test.each(BAD_HASHES)("a hash like %s, %s is refused", async (hash, caller) => {
      await expect(
        client.query("select reembed.begin_query($1, $2, 5, $3)", [SPACE, hash, caller]),
      ).rejects.toMatchObject({ code: "RE004" });
    });

    test("an unknown space is refused", async () => {
      await expect(begin(newHash(), null, client, "nobody/x@3")).rejects.toMatchObject({ code: "RE004" });
    });
  });
});
