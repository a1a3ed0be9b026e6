/** A canary: who may have a share of the callers, whom the route gives it, what is counted, and the rule that calls it off. */
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createCollection, insertRow, load, type TestCollection, versionOf } from "../support/collection.ts";
import { asRole, connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { Sessions } from "../support/sessions.ts";
import { workOff } from "../support/worker.ts";

interface Figures {
  readonly version: number;
  readonly searches: number;
  readonly empty: number;
  readonly empty_share: number | null;
  readonly p50_ms: number | null;
  readonly p95_ms: number | null;
}

interface Report {
  readonly version: number | null;
  readonly percent: number;
  readonly since: string | null;
  readonly versions: readonly Figures[];
  readonly verdict: string;
  readonly why: string;
}

/** So many searches of a version, of which some are empty, with the latencies in turn. */
interface Traffic {
  readonly searches: number;
  readonly empty?: number;
  readonly latencies?: readonly (number | null)[];
}

describePostgres("a canary", () => {
  let client: Client;
  let sessions: Sessions;
  let collection: TestCollection;

  const value = async <T = unknown>(sql: string, values: unknown[] = [], by = client) =>
    Object.values((await by.query(sql, values)).rows[0] ?? {})[0] as T;
  const setTraffic = (version: number, percent: number | null, more = "", by = client) =>
    value<Report>(`select reembed.set_traffic('shared', $1, $2${more})`, [version, percent], by);
  const report = () => value<Report>("select reembed.traffic('shared')");
  const routeOf = (bucket: number | null, version: number | null = null) =>
    value<{ version: number; active: boolean; count_searches?: boolean }>(
      "select public.embedding_route('shared', $1, $2)",
      [version, bucket],
    );
  const events = async () =>
    (
      await client.query(
        "select version, actor, reason, detail from reembed.events where kind = 'traffic' order by id",
      )
    ).rows as { version: number; actor: string; reason: string | null; detail: Record<string, unknown> }[];
  const count = (version: number, empty: boolean, latency: number | null, by = client) =>
    by.query("select public.reembed_count_search('shared', $1, $2, $3)", [version, empty, latency]);
  /** Writes samples of `minutesAgo`, past the rule. */
  const answer = (version: number, { searches, empty = 0, latencies = [20] }: Traffic, minutesAgo = 0) =>
    client.query(
      `insert into reembed.search_samples (version_id, at, empty, latency_ms)
       select $1, clock_timestamp() - make_interval(mins => $5), n <= $3, ($4::real[])[1 + n % cardinality($4::real[])] from generate_series(1, $2) n`,
      [versionOf(collection, version).id, searches, empty, latencies, minutesAgo],
    );

  beforeAll(async () => {
    const { url } = await createDatabase();
    client = await connect(url);
    sessions = new Sessions(url);
    collection = await createCollection(client, "shared");
    await insertRow(client, collection, "a row");
    await load(client, collection, 2);
    await workOff(client);
    for (const version of [1, 2]) {
      await client.query(await value<string>("select reembed.index_sql('shared', $1, false)", [version]));
      await client.query("select reembed.advance('shared', $1)", [version]);
    }
  });
  afterAll(async () => {
    await sessions.close();
    await client.end();
  });
  beforeEach(async () => {
    await client.query(
      `truncate reembed.search_samples, reembed.search_minutes;
       delete from reembed.events where kind = 'traffic';
       update reembed.collections set traffic_version = null, traffic_percent = 0, traffic_since = null;
       select reembed.set_traffic_rule('shared', 2, 100, 60)`,
    );
  });

  describe("its share", () => {
    test("is of the callers below it, and of nobody who cannot be told from others or names a version", async () => {
      await setTraffic(2, 30);
      const versions = [];
      for (let bucket = 0; bucket < 100; bucket += 1) versions.push((await routeOf(bucket)).version);
      expect(versions).toEqual(Array.from({ length: 100 }, (_, bucket) => (bucket < 30 ? 2 : 1)));
      expect(await routeOf(29)).toMatchObject({ version: 2, active: false, count_searches: true });
      expect(await routeOf(30)).toMatchObject({ version: 1, active: true, count_searches: true });
      expect(await routeOf(null)).toMatchObject({ version: 1 });
      expect(await routeOf(null)).not.toHaveProperty("count_searches");
      expect(await routeOf(0, 1)).toMatchObject({ version: 1 });
      expect(await routeOf(0, 1)).not.toHaveProperty("count_searches");
      for (const bucket of [-1, 100]) {
        await expect(routeOf(bucket)).rejects.toMatchObject({ code: "RE004" });
      }
    });

    test("is of everybody at 100, of nobody at 0, and nothing is counted then", async () => {
      await setTraffic(2, 100);
      expect((await routeOf(99)).version).toBe(2);
      await setTraffic(2, 0);
      expect(await routeOf(0)).toMatchObject({ version: 1 });
      expect(await routeOf(0)).not.toHaveProperty("count_searches");
    });

    test("rests while the version is not ready, and the report says so", async () => {
      await setTraffic(2, 50);
      await client.query("begin");
      await client.query("update reembed.versions set state = 'loading' where id = $1", [
        versionOf(collection, 2).id,
      ]);
      expect(await routeOf(0)).toMatchObject({ version: 1 });
      expect(await report()).toMatchObject({
        verdict: "resting",
        why: expect.stringContaining("version 2 is loading"),
      });
      await client.query("rollback");
      expect(await routeOf(0)).toMatchObject({ version: 2 });
    });

    test("is written down with who set it and why; the same again is no event", async () => {
      expect(await setTraffic(2, 5, ", reason => 'a first look', actor => 'tester'")).toMatchObject({
        version: 2,
        percent: 5,
        verdict: "waiting",
      });
      await setTraffic(2, 5);
      await setTraffic(2, 20);
      await setTraffic(2, 0);
      await setTraffic(2, 0);
      expect(await events()).toEqual([
        { version: 2, actor: "tester", reason: "a first look", detail: { percent: 5, from: 0 } },
        { version: 2, actor: "postgres", reason: null, detail: { percent: 20, from: 5 } },
        { version: 2, actor: "postgres", reason: null, detail: { percent: 0, from: 20 } },
      ]);
      expect(await report()).toMatchObject({ version: null, percent: 0, versions: [], verdict: "off" });
    });

    test.each<[string, number, number | null, string, RegExp]>([
      ["the active version", 1, 5, "RE007", /it is the active version/],
      ["a version that is not there", 9, 5, "RE006", /no version 9/],
      ["more than all", 2, 101, "RE004", /percent is 101/],
      ["less than none", 2, -1, "RE004", /percent is -1/],
      ["no number", 2, null, "RE004", /percent is null/],
    ])("is refused to %s", async (_, version, percent, code, message) => {
      await expect(setTraffic(version, percent)).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message),
      });
    });

    test.each([
      "state = 'loading'",
      "state = 'indexing'",
      "maintained = false",
      "state = 'prepared', maintained = false",
    ])("is refused to a version with %s", async (change) => {
      await client.query("begin");
      await client.query(`update reembed.versions set ${change} where id = $1`, [
        versionOf(collection, 2).id,
      ]);
      await expect(setTraffic(2, 5)).rejects.toMatchObject({
        code: "RE007",
        message: expect.stringContaining("set_traffic is not possible"),
        hint: expect.stringContaining("Possible now"),
      });
      await client.query("rollback");
    });

    test("is refused to a finalized version, and to a second one", async () => {
      await client.query("begin");
      await client.query("update reembed.versions set state = 'retired', maintained = false where id = $1", [
        versionOf(collection, 2).id,
      ]);
      await expect(setTraffic(2, 5)).rejects.toMatchObject({ code: "RE010" });
      await client.query("rollback");

      await client.query("begin");
      await client.query(
        `select reembed.add_space('test', 'model-3', 8);
         alter table public.shared add column embedding_3 extensions.vector(8);
         select reembed.add_version('shared', 'test/model-3@8', 'embedding_3', 'public.shared_input');
         update reembed.versions set state = 'ready', maintained = true where number = 3 and match_function = 'match_shared_v3'`,
      );
      await setTraffic(2, 5);
      await expect(setTraffic(3, 5)).rejects.toMatchObject({
        code: "RE007",
        message: expect.stringContaining("version 2 has a share of the callers: set it to 0 first"),
      });
      await client.query("rollback");
    });

    test("is not set while somebody switches", async () => {
      const { client: other } = await sessions.open();
      await other.query("begin; select from reembed.collections where name = 'shared' for no key update");
      await expect(setTraffic(2, 5)).rejects.toMatchObject({ code: "RE009" });
      await other.query("rollback");
    });
  });

  test("a cutover, a rollback and giving up the version end it, in the row that they write anyway", async () => {
    const settled = () =>
      value(
        "select jsonb_build_array(traffic_version, traffic_percent, traffic_since) from reembed.collections where name = 'shared'",
      );
    const lastDetail = () =>
      value<Record<string, unknown>>(
        "select detail from reembed.events where kind in ('cutover', 'rollback') order by id desc limit 1",
      );
    await setTraffic(2, 40);
    await client.query("select reembed.cutover('shared', 2, 'a test', force => true)");
    expect(await settled()).toEqual([null, 0, null]);
    expect(await lastDetail()).toMatchObject({ ended_traffic: { version: 2, percent: 40 } });

    // The version that was left may have a share, too: back to it step by step.
    await setTraffic(1, 10);
    expect(await routeOf(9)).toMatchObject({ version: 1, active: false });
    await client.query("select reembed.rollback('shared')");
    expect(await settled()).toEqual([null, 0, null]);
    expect(await lastDetail()).toMatchObject({ ended_traffic: { version: 1, percent: 10 } });
    expect(await routeOf(9)).toMatchObject({ version: 1, active: true });

    await client.query("begin");
    await client.query("delete from reembed.events where kind in ('cutover', 'rollback')");
    await setTraffic(2, 40);
    await client.query("select reembed.abandon('shared', 2, 'a test')");
    expect(await settled()).toEqual([null, 0, null]);
    await client.query("rollback");
  });

  describe("what is counted", () => {
    test("stands with the service alone", async () => {
      for (const role of ["anon", "authenticated"] as const) {
        await expect(
          asRole(client, role, (as) => as.query("select public.reembed_count_search('shared', 1, false, 3)")),
        ).rejects.toMatchObject({ code: "42501" });
      }
      await asRole(client, "service_role", (as) =>
        as.query("select public.reembed_count_search('shared', 1, false, 3)"),
      );
      expect(await value("select count(*)::int from reembed.search_samples")).toBe(1);
    });

    test.each<[string, unknown[]]>([
      ["a latency below zero", [1, false, -1]],
      ["a latency that is no number", [1, false, "NaN"]],
      ["no answer to whether it was empty", [1, null, 1]],
    ])("is refused with %s", async (_, values) => {
      await expect(
        client.query("select reembed.count_search('shared', $1, $2, $3)", values),
      ).rejects.toMatchObject({ code: "RE004" });
    });

    test("is exact, rolled up or not; latencies are the ends of their steps", async () => {
      await setTraffic(2, 50);
      // 100 of 1 to 100 ms, and three that the RPC never answered.
      await answer(2, { searches: 100, empty: 7, latencies: Array.from({ length: 100 }, (_, n) => n + 1) });
      await answer(2, { searches: 3, empty: 3, latencies: [null] });
      const expected = [
        { version: 1, searches: 0, empty: 0, empty_share: null, p50_ms: null, p95_ms: null },
        { version: 2, searches: 103, empty: 10, empty_share: 0.0971, p50_ms: 53.8, p95_ms: 107.6 },
      ];
      expect((await report()).versions).toEqual(expected);
      expect(await value("select reembed.roll_up_searches(50)::int")).toBe(50);
      expect((await report()).versions).toEqual(expected);
      expect(await value("select reembed.roll_up_searches()::int")).toBe(53);
      expect(await value("select count(*)::int from reembed.search_samples")).toBe(0);
      expect((await report()).versions).toEqual(expected);
    });

    test("is exact with eight sessions that append and roll up at once, and none waits for another", async () => {
      await client.query("select reembed.set_traffic_rule('shared', 100, 1000000)");
      await setTraffic(2, 50);
      const each = 100;
      const all = await Promise.all(
        Array.from({ length: 8 }, async (_, session) => {
          const { client: own } = await sessions.open();
          await own.query("set lock_timeout = '1s'");
          for (let n = 0; n < each; n += 1) await count(1 + (session % 2), n % 10 === 0, 20, own);
          return each;
        }),
      );
      await sessions.close();
      expect(all).toHaveLength(8);
      expect(await value("select count(*)::int < 800 from reembed.search_samples")).toBe(true);
      expect((await report()).versions.map(({ searches, empty }) => [searches, empty])).toEqual([
        [400, 40],
        [400, 40],
      ]);
      await client.query("select reembed.roll_up_searches()");
      expect(await value("select sum(searches)::int from reembed.search_minutes")).toBe(800);
    });

    test("is not waited for while another session rolls up", async () => {
      const { client: other } = await sessions.open();
      await count(1, false, 5);
      await other.query("begin; select reembed.roll_up_searches()");
      expect(await value("select reembed.roll_up_searches()")).toBeNull();
      for (let n = 0; n < 25; n += 1) await count(1, false, 5);
      await other.query("commit");
      await client.query("select reembed.roll_up_searches()");
      expect(await value("select sum(searches)::int from reembed.search_minutes")).toBe(26);
    });

    test("is forgotten after two days", async () => {
      await answer(1, { searches: 5 }, 3 * 1440);
      await answer(1, { searches: 7 }, 1440);
      await client.query("select reembed.roll_up_searches()");
      expect(await value("select reembed.sweep_search_minutes()::int")).toBe(1);
      expect(await value("select sum(searches)::int from reembed.search_minutes")).toBe(7);
    });

    test("goes with its collection", async () => {
      await answer(2, { searches: 30 });
      await client.query("begin");
      await client.query("select reembed.roll_up_searches(10)");
      await client.query("select reembed.set_traffic('shared', 2, 50)");
      await client.query("select reembed.remove_collection('shared')");
      expect(
        await value(
          "select (select count(*) from reembed.search_samples)::int + (select count(*) from reembed.search_minutes)::int",
        ),
      ).toBe(0);
      await client.query("rollback");
    });
  });

  describe("the rule", () => {
    const apply = () => value<number>("select reembed.apply_traffic_rule()");

    test.each<[string, Traffic, Traffic, string, RegExp]>([
      [
        "has too little to go by",
        { searches: 5_000 },
        { searches: 99, empty: 99 },
        "waiting",
        /each needs 100/,
      ],
      [
        "has nobody to compare with",
        { searches: 99 },
        { searches: 5_000, empty: 5_000 },
        "waiting",
        /each needs 100/,
      ],
      [
        "finds the same",
        { searches: 1_000, empty: 50 },
        { searches: 100, empty: 5 },
        "within",
        /within 2 times/,
      ],
      [
        "finds empty answers",
        { searches: 1_000, empty: 20 },
        { searches: 100, empty: 40 },
        "beyond",
        /version 2 left 40 of 100 searches empty, version 1 20 of 1000/,
      ],
      [
        "finds empty answers where there were none",
        { searches: 1_000 },
        { searches: 100, empty: 12 },
        "beyond",
        /left 12 of 100/,
      ],
      ["takes a few for chance", { searches: 1_000 }, { searches: 100, empty: 8 }, "within", /within/],
      ["finds fewer empty answers", { searches: 1_000, empty: 900 }, { searches: 1_000 }, "within", /within/],
      [
        "finds searches that failed",
        { searches: 200 },
        { searches: 200, empty: 200, latencies: [null] },
        "beyond",
        /left 200 of 200/,
      ],
      [
        "finds slow answers",
        { searches: 200, latencies: [20] },
        { searches: 200, latencies: [20, 20, 90] },
        "beyond",
        /the p95 of version 2 is 90\.5 ms, that of version 1 22\.6 ms/,
      ],
      [
        "lets slow ones pass that are fewer than one in twenty",
        { searches: 200 },
        { searches: 200, latencies: [900, ...Array(24).fill(20)] },
        "within",
        /within/,
      ],
      [
        "lets pass what nobody feels",
        { searches: 200, latencies: [2] },
        { searches: 200, latencies: [16] },
        "within",
        /within/,
      ],
    ])("that %s", async (_, old, candidate, verdict, why) => {
      await setTraffic(2, 25);
      await answer(1, old);
      await answer(2, candidate);
      expect(await report()).toMatchObject({ verdict, why: expect.stringMatching(why) });
      await client.query("select reembed.roll_up_searches()");
      expect(await apply()).toBe(verdict === "beyond" ? 1 : 0);
      expect(await routeOf(0)).toMatchObject({ version: verdict === "beyond" ? 1 : 2 });
      const written = await events();
      expect(written).toHaveLength(verdict === "beyond" ? 2 : 1);
      if (verdict !== "beyond") return;
      expect(written[1]).toMatchObject({
        version: 2,
        actor: "rule",
        reason: expect.stringMatching(why),
        detail: {
          percent: 0,
          from: 25,
          rule: { factor: 2, min_searches: 100, window_minutes: 60 },
          versions: [
            { version: 1, searches: old.searches },
            { version: 2, searches: candidate.searches },
          ],
        },
      });
      expect(await report()).toMatchObject({
        version: null,
        percent: 0,
        verdict: "off",
        why: expect.stringMatching(why),
      });
      expect(await apply()).toBe(0);
    });

    test("looks by itself, as searches are counted", async () => {
      await client.query("select reembed.set_traffic_rule('shared', min_searches => 10)");
      await setTraffic(2, 50);
      for (let n = 0; n < 60; n += 1) await count(1 + (n % 2), n % 2 === 1, 5);
      expect(await report()).toMatchObject({ percent: 0, verdict: "off" });
    });

    test("forgets what was before the share was set, and what is older than its window", async () => {
      await setTraffic(2, 25);
      await client.query(
        "update reembed.collections set traffic_since = clock_timestamp() - interval '90 minutes' where traffic_percent > 0",
      );
      await answer(1, { searches: 1_000 });
      await answer(2, { searches: 500, empty: 500 }, 80);
      await answer(2, { searches: 150 });
      expect(await report()).toMatchObject({
        verdict: "within",
        versions: [{}, { searches: 150, empty: 0 }],
      });
      await client.query("select reembed.set_traffic_rule('shared', window_minutes => 85)");
      expect(await report()).toMatchObject({ verdict: "beyond", versions: [{}, { searches: 650 }] });
      await client.query(
        "update reembed.collections set traffic_since = clock_timestamp() - interval '5 minutes' where traffic_percent > 0",
      );
      expect(await report()).toMatchObject({ verdict: "within", versions: [{}, { searches: 150 }] });
    });

    test("leaves alone what somebody is switching this moment, and does not wait for it", async () => {
      await setTraffic(2, 25);
      await answer(1, { searches: 200 });
      await answer(2, { searches: 200, empty: 200 });
      const { client: other } = await sessions.open();
      await other.query("begin; select from reembed.collections where name = 'shared' for no key update");
      await client.query("set lock_timeout = '1ms'");
      expect(await apply()).toBe(0);
      await client.query("reset lock_timeout");
      await other.query("rollback");
      expect(await apply()).toBe(1);
    });

    test("has bounds that the operator sets: validated, written down, and what is not given stays", async () => {
      expect(
        await value(
          "select reembed.set_traffic_rule('shared', factor => 1.5, actor => 'tester', reason => 'strict')",
        ),
      ).toEqual({ factor: 1.5, min_searches: 100, window_minutes: 60 });
      expect(
        (
          await client.query(
            "select actor, reason, detail from reembed.events where kind = 'set_traffic_rule' order by id desc limit 1",
          )
        ).rows,
      ).toEqual([
        { actor: "tester", reason: "strict", detail: { factor: 1.5, min_searches: 100, window_minutes: 60 } },
      ]);
      for (const wrong of [
        "factor => 0.5",
        "factor => 'NaN'",
        "min_searches => 9",
        "window_minutes => 0",
        "window_minutes => 1441",
      ]) {
        await expect(
          client.query(`select reembed.set_traffic_rule('shared', ${wrong})`),
        ).rejects.toMatchObject({
          code: "RE004",
        });
      }
    });
  });
});
