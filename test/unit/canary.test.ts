/** A canary, as search sees it: who is on which side, what the route is told, and what is counted once a search is answered. */
import { describe, expect, test } from "vitest";
import { callerBucket } from "../../supabase/functions/_shared/caller.ts";
import { type ErrorCode, ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { type SearchRequest, search } from "../../supabase/functions/_shared/search.ts";

const tokenOf = (claims: unknown) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;
const bearer = (sub: string) => new Headers({ authorization: `Bearer ${tokenOf({ sub })}` });
const named = (id: string) => new Headers({ "x-reembed-caller": id });

describe("a caller's place among a hundred", () => {
  test("is always the same, whatever else a request says", async () => {
    const place = await callerBucket(bearer("a-user"), "articles");
    const again = bearer("a-user");
    again.set("x-reembed-caller", "another");
    again.set("x-forwarded-for", "192.0.2.1");
    expect(await callerBucket(again, "articles")).toBe(place);
    expect(await callerBucket(named("visitor-1"), "articles")).toBe(
      await callerBucket(named(" visitor-1 "), "articles"),
    );
  });

  test("is that of a user or of a header, and none for who has neither", async () => {
    expect(await callerBucket(new Headers(), "articles")).toBeUndefined();
    expect(await callerBucket(named("  "), "articles")).toBeUndefined();
    // A key as the bearer, which clients without a session send, is no user.
    expect(
      await callerBucket(new Headers({ authorization: "Bearer sb_publishable_x" }), "articles"),
    ).toBeUndefined();
    expect(
      await callerBucket(new Headers({ authorization: `Bearer ${tokenOf({ role: "anon" })}` }), "articles"),
    ).toBeUndefined();
  });

  test("spreads ten thousand callers evenly, so that a share of n percent is one of n percent", async () => {
    const counts = new Array<number>(100).fill(0);
    for (let n = 0; n < 10_000; n += 1) {
      const place = await callerBucket(n % 2 === 0 ? bearer(`user-${n}`) : named(`visitor-${n}`), "articles");
      counts[place ?? -1] = (counts[place ?? -1] ?? 0) + 1;
    }
    // 100 each are expected; five standard deviations are 50.
    expect(Math.min(...counts)).toBeGreaterThan(50);
    expect(Math.max(...counts)).toBeLessThan(150);
    expect(counts).toHaveLength(100);
    for (const percent of [1, 5, 20, 50]) {
      const share = counts.slice(0, percent).reduce((sum, count) => sum + count, 0) / 10_000;
      expect(Math.abs(share - percent / 100)).toBeLessThan(5 * Math.sqrt(percent / 100 / 10_000));
    }
  });

  test("is another one in another collection: not always the same people come first", async () => {
    let same = 0;
    for (let n = 0; n < 1_000; n += 1) {
      const caller = bearer(`user-${n}`);
      if ((await callerBucket(caller, "articles")) === (await callerBucket(caller, "news"))) same += 1;
    }
    expect(same).toBeLessThan(40);
  });
});

const ROUTE = {
  collection: "course_content",
  version: 2,
  active: false,
  space: "hash/words@2",
  provider: "hash",
  model: "words",
  dimensions: 2,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 100,
  function: "match_course_content_v2",
  hybrid: "hybrid_course_content_v2",
  filters: [],
  threshold: 0.5,
  count_searches: true,
};
const ROW = { id: "1", title: "Commits", similarity: 0.9 };
const failure = (code: ErrorCode) => new ReembedError(code, "no", "");

interface Given {
  readonly route?: object;
  readonly bucket?: number;
  readonly request?: Partial<SearchRequest>;
  /** What the version's RPCs answer. */
  readonly rows?: unknown;
  readonly embed?: Error;
  readonly count?: () => Promise<unknown>;
}

/** Searches once. Returns the answer or its error, the route's arguments, and what was counted once all that goes on after the answer has ended. */
async function searchWith({ route = {}, bucket = 7, request = {}, rows = [ROW], embed, count }: Given) {
  const routed: unknown[] = [];
  const counted: unknown[] = [];
  const background: Promise<unknown>[] = [];
  const as =
    (service: boolean): Rpc =>
    async (name, args) => {
      if (name === "embedding_route") {
        routed.push(args);
        return { ...ROUTE, ...route };
      }
      if (name === "reembed_count_search") {
        expect(service).toBe(true);
        counted.push(args);
        return count?.();
      }
      if (rows instanceof Error) throw rows;
      return rows;
    };
  const answer: unknown = await search(
    {
      caller: as(false),
      service: as(true),
      callerHash: null,
      callerBucket: bucket,
      keepAlive: (work) => background.push(work),
      embedderFor: (space) => ({
        space,
        embed: async () => {
          if (embed) throw embed;
          return { vectors: [[0.6, 0.8]], usage: { tokens: 1 } };
        },
      }),
    },
    { collection: "course_content", query: "what is a commit", ...request },
  ).catch((error: unknown) => error);
  return { answer, routed, counted, background };
}

describe("a search", () => {
  const COUNTED = { collection: "course_content", version: 2 };
  const settled = async (given: Given) => {
    const { background, ...result } = await searchWith(given);
    await Promise.all(background);
    return result;
  };

  test("tells the route its caller's place, unless it names a version", async () => {
    expect((await settled({})).routed).toEqual([
      { collection: "course_content", version: null, caller_bucket: 7 },
    ]);
    expect((await settled({ request: { version: 1 } })).routed).toEqual([
      { collection: "course_content", version: 1 },
    ]);
  });

  test("is counted for the version that answered, where the route says so", async () => {
    expect((await settled({})).counted).toEqual([
      { ...COUNTED, empty: false, latency_ms: expect.any(Number) },
    ]);
    expect((await settled({ rows: [] })).counted).toEqual([
      { ...COUNTED, empty: true, latency_ms: expect.any(Number) },
    ]);
    expect((await settled({ request: { mode: "hybrid" } })).counted).toHaveLength(1);
    expect((await settled({ route: { count_searches: undefined } })).counted).toEqual([]);
    expect((await settled({ request: { mode: "lexical" } })).counted).toEqual([]);
  });

  test("that the database or the provider fails is an empty answer; one that is the caller's fault is none", async () => {
    expect((await settled({ rows: failure("database_timeout") })).counted).toEqual([
      { ...COUNTED, empty: true, latency_ms: expect.any(Number) },
    ]);
    expect((await settled({ embed: failure("provider_rejected") })).counted).toEqual([
      { ...COUNTED, empty: true, latency_ms: null },
    ]);
    expect((await settled({ rows: failure("invalid_request") })).counted).toEqual([]);
    expect((await settled({ embed: failure("rate_limited") })).counted).toEqual([]);
  });

  test("that words answer because the provider cannot is an empty one; because money is spent, none", async () => {
    const unavailable = await settled({ embed: failure("provider_unavailable") });
    expect(unavailable.answer).toMatchObject({ answered: "lexical", results: [ROW] });
    expect(unavailable.counted).toEqual([{ ...COUNTED, empty: true, latency_ms: null }]);
    expect((await settled({ embed: failure("budget_spent") })).counted).toEqual([]);
  });

  test("neither waits for the count nor fails with it", async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const waiting = await searchWith({ count: () => held });
    expect(waiting.answer).toMatchObject({ results: [ROW] });
    release();
    await Promise.all(waiting.background);

    const failing = await searchWith({ count: () => Promise.reject(failure("database_unavailable")) });
    expect(failing.answer).toMatchObject({ results: [ROW] });
    expect(failing.background).toHaveLength(1);
    await expect(Promise.all(failing.background)).resolves.toBeDefined();
    expect(failing.counted).toHaveLength(1);
  });
});
