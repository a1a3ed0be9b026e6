/** How fast a space may be asked: what claims are told, and what answers teach. Time is moved by backdating the space's row. */
import type { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createCollection, insertRow } from "../support/collection.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const SPACE = "test/model-1@8";

interface Answer {
  readonly refused?: boolean;
  readonly retry_after_ms?: number;
  readonly age_ms?: number;
  readonly tokens_per_minute?: number;
  readonly tokens_left?: number;
  readonly requests_per_minute?: number;
  readonly requests_left?: number;
}

interface Given {
  readonly reason: string;
  readonly wait_ms?: number;
  readonly usage_id?: number;
}

describePostgres("the rate of a space", () => {
  let database: TestDatabase;
  let client: Client;

  beforeEach(async () => {
    database = await createDatabase();
    client = await connect(database.url);
    const collection = await createCollection(client, "notes");
    // About 26 tokens each by the estimate.
    for (let n = 0; n < 40; n += 1) await insertRow(client, collection, `${n}`.padEnd(100, "."));
  });
  afterEach(async () => {
    await client?.end();
    await database?.drop();
  });

  const claim = async (maxRows = 1): Promise<Given> =>
    (await client.query(`select reembed.claim('notes', 1, $1) as given`, [maxRows])).rows[0].given;
  /** A claim that no figure holds back. */
  const claimAnyway = async (): Promise<Given> => {
    const before = (
      await client.query("select to_jsonb(s) as space from reembed.spaces s where s.id = $1", [SPACE])
    ).rows[0].space;
    await client.query(
      "update reembed.spaces set waits_until = null, rate_seen_at = null, tokens_per_minute = null where id = $1",
      [SPACE],
    );
    const given = await claim();
    await client.query(
      "update reembed.spaces set rate_seen_at = $2, tokens_per_minute = $3, tokens_left = $4 where id = $1",
      [SPACE, before.rate_seen_at, before.tokens_per_minute, before.tokens_left],
    );
    return given;
  };
  const settle = (given: Given, answer: Answer | null): Promise<unknown> =>
    client.query(`select reembed.settle($1, '[]', $2)`, [given.usage_id, answer && JSON.stringify(answer)]);
  const state = async (): Promise<{ limit: number; refusals: number; waits: number }> =>
    (
      await client.query(
        `select max_in_flight as limit, refusals,
                coalesce(extract(epoch from waits_until - clock_timestamp()), 0)::float8 as waits from reembed.spaces where id = $1`,
        [SPACE],
      )
    ).rows[0];
  /** As if so many seconds had passed for the space. */
  const pass = (seconds: number): Promise<unknown> =>
    client.query(
      `with past as (update reembed.usage set at = at - make_interval(secs => $1))
       update reembed.spaces set waits_until = waits_until - make_interval(secs => $1),
              refused_at = refused_at - make_interval(secs => $1), rate_seen_at = rate_seen_at - make_interval(secs => $1)`,
      [seconds],
    );
  const attempts = async (): Promise<number> =>
    (await client.query("select max(attempts) as most from reembed.jobs")).rows[0].most;

  test("as many requests are open as it has learned; the next claim is refused and costs no attempt", async () => {
    await client.query("update reembed.spaces set max_in_flight = 3.7");
    const given = [await claim(), await claim(), await claim()];
    expect(given.map(({ reason }) => reason)).toEqual(["work", "work", "work"]);
    const refused = await claim();
    expect(refused).toMatchObject({ reason: "rate", space: SPACE, jobs: [] });
    expect(refused.wait_ms).toBeGreaterThan(0);
    expect(refused.wait_ms).toBeLessThan(1_000);
    const { rows } = await client.query("select count(*)::int as n from reembed.jobs where attempts > 0");
    expect(rows).toEqual([{ n: 3 }]);

    await settle(given[0] ?? refused, { refused: false });
    expect(await claim()).toMatchObject({ reason: "work" });
  });

  test("a reservation whose lease is over holds nobody back", async () => {
    await client.query("update reembed.spaces set max_in_flight = 1");
    expect(await claim()).toMatchObject({ reason: "work" });
    expect(await claim()).toMatchObject({ reason: "rate" });
    await client.query("update reembed.usage set lease_until = now() - interval '1 second'");
    expect(await claim()).toMatchObject({ reason: "work" });
  });

  test("a refusal makes the space wait as long as it was told, for everybody, and halves what may be open", async () => {
    await settle(await claim(), { refused: true, retry_after_ms: 20_000 });
    expect(await state()).toMatchObject({ limit: 4, refusals: 1 });
    const refused = await claim();
    expect(refused).toMatchObject({ reason: "rate" });
    expect(refused.wait_ms).toBeGreaterThan(19_000);
    expect(refused.wait_ms).toBeLessThanOrEqual(20_300);
    await pass(21);
    expect(await claim()).toMatchObject({ reason: "work" });
  });

  test("the refusals of one burst halve once and count once, and the longest wait holds", async () => {
    const burst = [await claim(), await claim(), await claim(), await claim()];
    for (const [at, given] of burst.entries()) {
      await settle(given, { refused: true, retry_after_ms: at === 1 ? 30_000 : 2_000 });
    }
    const { waits, ...rest } = await state();
    expect(rest).toEqual({ limit: 4, refusals: 1 });
    expect(waits).toBeGreaterThan(29);
  });

  test("after a refusal one request at a time tries it, until one succeeds; what was sent before says nothing", async () => {
    const [before, refused] = [await claim(), await claim()];
    await settle(refused, { refused: true, retry_after_ms: 10 });
    await pass(1);
    const first = await claim();
    expect(first).toMatchObject({ reason: "work" });
    await settle(before, { refused: false });
    expect(await state()).toMatchObject({ refusals: 1 });
    expect(await claim()).toMatchObject({ reason: "rate" });

    await settle(first, { refused: false });
    expect(await state()).toMatchObject({ refusals: 0 });
    expect([await claim(), await claim()]).toMatchObject([{ reason: "work" }, { reason: "work" }]);
  });

  test("refusals in a row wait longer each time, up to eight seconds; a success ends the row", async () => {
    const waits: number[] = [];
    for (let n = 0; n < 6; n += 1) {
      await settle(await claim(), { refused: true, retry_after_ms: 10 });
      const { waits: told, limit } = await state();
      waits.push(Math.ceil(told * 1000));
      expect(limit).toBeGreaterThanOrEqual(1);
      await pass(9);
    }
    for (const [n, least] of [250, 1_000, 4_000, 8_000, 8_000, 8_000].entries()) {
      expect(waits[n]).toBeGreaterThan(least - 200);
      expect(waits[n]).toBeLessThanOrEqual(least);
    }
    await settle(await claim(), { refused: false });
    expect(await state()).toMatchObject({ limit: 2, refusals: 0 });
    expect(await attempts()).toBeLessThanOrEqual(1);
  });

  test("it grows by one a round of successes, to 64 at most", async () => {
    await client.query("update reembed.spaces set max_in_flight = 2");
    await settle(await claim(), { refused: false });
    await settle(await claim(), { refused: false });
    expect((await state()).limit).toBeCloseTo(2.9, 1);
    await client.query("update reembed.spaces set max_in_flight = 64");
    await settle(await claim(), { refused: false });
    expect((await state()).limit).toBe(64);
  });

  test("a request that the provider's budget has no room for is not sent until there is", async () => {
    const size = { tokens_per_minute: 6_000, tokens_left: 10 };
    await settle(await claim(), size);
    // 30 rows of 26 tokens less the 10 that are left: 7.7 s at a hundred tokens a second.
    const refused = await claim(30);
    expect(refused).toMatchObject({ reason: "rate" });
    expect(refused.wait_ms).toBeGreaterThan(1_000);
    expect(refused.wait_ms).toBeLessThan(11_000);
    // The first claim's one.
    expect((await client.query("select 1 from reembed.jobs where lease_token is not null")).rowCount).toBe(1);
    await pass(10);
    expect(await claim(30)).toMatchObject({ reason: "work" });
  });

  test("what is open counts against that budget; an older answer does not replace a newer one", async () => {
    const [first, second] = [await claim(), await claim()];
    await settle(first, { tokens_per_minute: 6_000, tokens_left: 800, age_ms: 0 });
    await settle(second, { tokens_per_minute: 6_000, tokens_left: 6_000, age_ms: 5_000 });
    expect(await claim(20)).toMatchObject({ reason: "work" });
    expect(await claim(17)).toMatchObject({ reason: "rate" });
  });

  test.each([
    ["noted last, as if it were newer", { left: 800, age: 0 }, { left: 6_000, age: 0 }],
    ["noted first, as if it were newer", { left: 6_000, age: 0 }, { left: 700, age: 1_000 }],
  ])("of two figures the lower counts: an answer that was held up is %s", async (_, earlier, later) => {
    const [first, second] = [await claim(), await claim()];
    const size = ({ left, age }: { left: number; age: number }) => ({
      tokens_per_minute: 6_000,
      tokens_left: left,
      requests_per_minute: 600,
      requests_left: left / 10,
      age_ms: age,
    });
    const figures = async () =>
      (
        await client.query(
          "select extract(epoch from rate_seen_at)::float8 as at, tokens_left as tokens, requests_left as requests from reembed.spaces where id = $1",
          [SPACE],
        )
      ).rows[0] as { at: number; tokens: number; requests: number };
    await settle(first, size(earlier));
    const before = await figures();
    await settle(second, size(later));
    const after = await figures();
    // A hundred tokens a second flow in, and ten requests.
    const tokens = earlier.left < later.left ? earlier.left + 100 * (after.at - before.at) : later.left + 100;
    expect(after.tokens).toBeCloseTo(tokens, 2);
    expect(after.requests).toBeCloseTo(tokens / 10, 3);
    // It fills again as the provider's does.
    await pass(60);
    await client.query("delete from reembed.usage");
    expect(await claim(40)).toMatchObject({ reason: "work" });
  });

  test("a figure from a clock that was set back counts at once, and so does one of another limit", async () => {
    await settle(await claim(), { tokens_per_minute: 6_000, tokens_left: 0 });
    await pass(-3_600);
    await settle(await claimAnyway(), { tokens_per_minute: 6_000, tokens_left: 6_000 });
    expect(await claim(30)).toMatchObject({ reason: "work" });
    await settle(await claimAnyway(), { tokens_per_minute: 600, tokens_left: 30 });
    await settle(await claimAnyway(), { tokens_per_minute: 60_000, tokens_left: 60_000 });
    expect(await claim(30)).toMatchObject({ reason: "work" });
  });

  test("requests a minute are a budget too, and more than a whole minute's waits for the full one only", async () => {
    await settle(await claim(), { requests_per_minute: 60, requests_left: 0 });
    expect(await claim()).toMatchObject({ reason: "rate" });
    await pass(2);
    const given = await claim();
    expect(given).toMatchObject({ reason: "work" });
    await settle(given, { tokens_per_minute: 100, tokens_left: 0 });
    expect(await claim(30)).toMatchObject({ reason: "rate" });
    await pass(61);
    expect(await claim(30)).toMatchObject({ reason: "work" });
  });
});
