/** The dictionary as its users and its operator meet it: files in, searches over HTTP with supabase-js, a move from 384 to 1536 dimensions, and back. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FunctionsHttpError } from "@supabase/supabase-js";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../scripts/stack/index.ts";
import { runJson } from "../support/cli.ts";
import { violations } from "../support/collection.ts";
import type { FakeOpenAI } from "../support/fake-openai.ts";
import {
  clientOf,
  describeStack,
  type StackDatabase,
  startTestStack,
  type TestStack,
  wakeWorker,
} from "../support/stack.ts";

const FILES = { lexicon: "lexicon.csv", phrases: "phrases.jsonl", bora_docs: "bora_docs.jsonl" } as const;
const ROWS = { lexicon: 20, phrases: 10, bora_docs: 6 } as const;
const TABLES = Object.keys(FILES) as (keyof typeof FILES)[];
const NARROW = "openai/text-embedding-3-small@384";
const WIDE = "openai/text-embedding-3-small@1536";

interface Answer {
  readonly version: number;
  readonly space: string;
  readonly results: readonly (Record<string, unknown> & { readonly score: number })[];
}
interface SeveralAnswer {
  readonly collections: readonly Record<string, unknown>[];
  readonly results: readonly (Record<string, unknown> & {
    readonly collection: string;
    readonly score: number;
  })[];
}

describeStack(dictionaryWorks);

function dictionaryWorks(database: () => Promise<StackDatabase>): void {
  let openai: FakeOpenAI;
  let stack: Stack;
  let db: Client;
  let folder: string;
  let running: TestStack;

  beforeAll(async () => {
    running = await startTestStack({ database: await database() });
    ({ stack, openai, db, folder } = running);
    await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, 0.02, 0.25)");
    for (const name of TABLES) await db.query("select reembed.set_space($1, 1, $2)", [name, NARROW]);
    await db.query("select reembed.set_query_rate(6000, 1000)");
    // The stack wakes the worker once at its start: it is waited for, or it would take rows that the tests count.
    await wakeWorker(stack);
  });
  afterAll(() => running?.stop());

  const reembed = (...args: string[]) =>
    runJson(args, {
      DATABASE_URL: stack.databaseUrl,
      OPENAI_API_KEY: openai.apiKey,
      OPENAI_BASE_URL: openai.url,
    });
  const done = async (...args: string[]) => {
    const { code, answer, stderr } = await reembed(...args);
    expect({ args, code, answer, stderr }).toMatchObject({ code: 0 });
    return answer;
  };
  const invoke = async (body: object): Promise<unknown> => {
    const { data, error } = await clientOf(stack).functions.invoke("search", { body });
    if (error instanceof FunctionsHttpError) {
      const { status } = error.context;
      const { error: reason } = await error.context.json();
      return { status, ...reason };
    }
    if (error) throw error;
    return data;
  };
  const search = async (query: string, more: object = {}) =>
    (await invoke({ collection: "lexicon", query, ...more })) as Answer;
  const searchAll = async (query: string, more: object = {}) =>
    (await invoke({ collections: ["lexicon", "phrases", "bora_docs"], query, ...more })) as SeveralAnswer;
  const one = async <T>(sql: string): Promise<T> => (await db.query<{ value: T }>(sql)).rows[0]?.value as T;
  const spent = () =>
    one<number>("select coalesce(sum(tokens), 0)::int as value from reembed.usage where purpose <> 'query'");

  test("files become rows; the same files again change and pay nothing", async () => {
    for (const name of TABLES) {
      const file = join("examples/bora", FILES[name]);
      expect((await done("ingest", file, "--collection", name)).totals).toEqual({
        rows: ROWS[name],
        inserted: ROWS[name],
        updated: 0,
        unchanged: 0,
      });
      expect(
        await done("backfill", "--target", name, "--version", "1", "--batch", "64", "--limit", "3"),
      ).toMatchObject({
        done: 3,
        pending: ROWS[name] - 3,
      });
      expect(
        await done("backfill", "--target", name, "--version", "1", "--batch", "64", "--limit", "0"),
      ).toMatchObject({
        done: ROWS[name] - 3,
        pending: 0,
      });
    }
    const before = await spent();
    for (const name of TABLES) {
      expect((await done("ingest", join("examples/bora", FILES[name]), "--collection", name)).totals).toEqual(
        {
          rows: ROWS[name],
          inserted: 0,
          updated: 0,
          unchanged: ROWS[name],
        },
      );
    }
    expect(await one("select count(*)::int as value from reembed.jobs")).toBe(0);
    expect(await spent()).toBe(before);
    expect(await violations(db)).toEqual([]);
  });

  test("a headword is found without its diacritics, with a typing error, by a variant, and by what it means", async () => {
    for (const [typed, headword] of [
      ["machu", "máchu"],
      ["IBACHA", "ɨ́bacha"],
      ["tsimenn", "tsímen"],
      ["tekuma", "técuma"],
      ["nuháwi", "nuháwi"],
      ["nuhawí", "nuhawí"],
      ["e", "é"],
      ["casa comunal", "ɨ́bacha"],
      ["mascando", "máchu"],
    ] as const) {
      const { results } = await search(typed, { mode: "hybrid", match_count: 3 });
      expect({ typed, first: results[0]?.headword }).toEqual({ typed, first: headword });
      expect(results).toHaveLength(3);
    }
    // Of another word that the made-up vectors hold for near, the places are the same: either may come first.
    for (const [typed, headword] of [
      ["ibachha", "ɨ́bacha"],
      ["rumihu", "rómihu"],
      ["sulaba", "súllaba"],
    ] as const) {
      const { results } = await search(typed, { mode: "hybrid", match_count: 3 });
      expect({ typed, first: results.slice(0, 2).map((row) => row.headword) }).toMatchObject({
        typed,
        first: expect.arrayContaining([headword]),
      });
    }
    const { data } = await clientOf(stack).rpc("hybrid_lexicon", { query_text: "paallu", match_count: 2 });
    const homographs = (data as { homograph: number }[]).toSorted((x, y) => x.homograph - y.homograph);
    expect(homographs).toMatchObject([
      { headword: "páallu", homograph: 1, similarity: null },
      { headword: "páallu", homograph: 2, similarity: null },
    ]);
  });

  test("one search over all three is fused by places, and embeds its query once", async () => {
    const asked = openai.stats().requests;
    const answer = await searchAll("yuca", { mode: "hybrid", match_count: 6 });
    expect(answer.collections).toEqual(
      ["lexicon", "phrases", "bora_docs"].map((collection) => ({ collection, version: 1, space: NARROW })),
    );
    expect(answer.results.map(({ collection, score }) => [collection, score])).toEqual(
      [61, 62].flatMap((place) => ["lexicon", "phrases", "bora_docs"].map((name) => [name, 1 / place])),
    );
    const single = await search("yuca", { mode: "hybrid", match_count: 2 });
    expect(answer.results.filter(({ collection }) => collection === "lexicon").map(({ id }) => id)).toEqual(
      single.results.map(({ id }) => id),
    );
    expect(openai.stats().requests - asked).toBe(1);
  });

  test("row level security holds in a fused search as in each", async () => {
    await db.query(`drop policy "anyone reads the phrases" on public.phrases`);
    const answer = await searchAll("yuca", { match_count: 20 });
    expect(new Set(answer.results.map(({ collection }) => collection))).toEqual(
      new Set(["lexicon", "bora_docs"]),
    );
    await db.query(
      `create policy "anyone reads the phrases" on public.phrases for select to anon, authenticated using (true)`,
    );
  });

  test.each<[string, object, object]>([
    [
      "both ways of naming",
      { collection: "lexicon", collections: ["phrases"], query: "x" },
      { status: 400, code: "invalid_request", message: expect.stringContaining("collection: leave it out") },
    ],
    [
      "no collection",
      { query: "x" },
      { status: 400, code: "invalid_request", message: expect.stringContaining("collection: name one") },
    ],
    [
      "no name",
      { collections: [], query: "x" },
      { status: 400, code: "invalid_request", message: expect.stringContaining("collections") },
    ],
    [
      "a name twice",
      { collections: ["lexicon", "lexicon"], query: "x" },
      {
        status: 400,
        code: "invalid_request",
        message: expect.stringContaining("collections: must name each"),
      },
    ],
    [
      "too many",
      { collections: Array.from({ length: 11 }, (_, n) => `c${n}`), query: "x" },
      { status: 400, code: "invalid_request", message: expect.stringContaining("collections") },
    ],
    [
      "another type",
      { collections: "lexicon", query: "x" },
      { status: 400, code: "invalid_request", message: expect.stringContaining("collections") },
    ],
    [
      "an unknown one",
      { collections: ["lexicon", "nope"], query: "x" },
      { status: 404, code: "unknown_collection" },
    ],
    [
      "a version",
      { collections: ["lexicon"], query: "x", version: 1 },
      { status: 400, code: "invalid_request", message: expect.stringContaining("version:") },
    ],
    [
      "a threshold",
      { collections: ["lexicon"], query: "x", match_threshold: 0.5 },
      { status: 400, code: "invalid_request", message: expect.stringContaining("match_threshold:") },
    ],
    [
      "a filter that one has not",
      { collections: ["lexicon", "phrases"], query: "x", filters: { part_of_speech: "verbo" } },
      { status: 400, code: "invalid_request", message: expect.stringContaining("filters: phrases") },
    ],
  ])("several collections: %s is refused", async (_, body, error) => {
    expect(await invoke(body)).toMatchObject({ ...error, request_id: expect.any(String) });
  });

  test("the move: some rows first, then all; cutover and rollback are followed by the next search", async () => {
    expect(await done("backfill", "--target", "lexicon", "--batch", "64", "--limit", "5")).toMatchObject({
      done: 5,
    });
    expect(await search("machu", { mode: "hybrid" })).toMatchObject({ version: 1, space: NARROW });
    for (const name of TABLES) {
      expect(await done("backfill", "--target", name, "--batch", "64", "--limit", "0")).toMatchObject({
        state: "ready",
        done: name === "lexicon" ? 15 : ROWS[name],
      });
    }
    const switched = ["--version", "2", "--force", "--reason", "a test"];
    expect(await done("cutover", "--collection", "lexicon", ...switched)).toMatchObject({
      from: 1,
      to: 2,
      stale: 0,
    });
    const after = await search("machu", { mode: "hybrid" });
    expect(after).toMatchObject({ version: 2, space: WIDE });
    expect(after.results[0]).toMatchObject({ headword: "máchu" });

    // Two spaces now: the query is embedded in each, once.
    const asked = openai.stats().requests;
    const fused = await searchAll("hamaca tejida", { mode: "hybrid" });
    expect(fused.collections.map(({ space }) => space)).toEqual([WIDE, NARROW, NARROW]);
    expect(openai.stats().requests - asked).toBe(2);

    for (const name of TABLES.slice(1)) await done("cutover", "--collection", name, ...switched);
    expect((await searchAll("hamaca")).collections.map(({ version }) => version)).toEqual([2, 2, 2]);
    for (const name of TABLES) {
      expect(await done("rollback", "--collection", name)).toMatchObject({ from: 2, to: 1, stale: 0 });
    }
    expect((await searchAll("hamaca")).collections.map(({ version }) => version)).toEqual([1, 1, 1]);
    expect(await violations(db)).toEqual([]);
  });

  test("a changed entry is updated and embedded anew in both versions; the others cost nothing", async () => {
    const file = join(folder, "edited.csv");
    const text = await readFile(join("examples/bora", FILES.lexicon), "utf8");
    await writeFile(file, text.replace("maní tostado", "maní tostado con sal"));
    expect((await done("ingest", file, "--collection", "lexicon")).totals).toEqual({
      rows: 20,
      inserted: 0,
      updated: 1,
      unchanged: 19,
    });
    expect(await one("select count(*)::int as value from reembed.jobs")).toBe(2);
    for (const version of ["1", "2"]) {
      expect(await done("backfill", "--target", "lexicon", "--version", version)).toMatchObject({ done: 1 });
    }
    expect((await search("sal", { mode: "hybrid" })).results[0]).toMatchObject({ headword: "báachiko" });
    expect(await violations(db)).toEqual([]);
  });

  test("the command line searches several collections, too", async () => {
    const answer = await done(
      "search",
      "yuca",
      "--collection",
      "phrases",
      "--collection",
      "lexicon",
      "--mode",
      "hybrid",
      "--count",
      "2",
    );
    expect(answer).toMatchObject({
      collections: [{ collection: "phrases" }, { collection: "lexicon" }],
      results: [{ collection: "phrases" }, { collection: "lexicon" }],
    });
  });

  test("what is wrong in a file names line, field and rule, and nothing of it is written", async () => {
    const count = () => one<number>("select count(*)::int as value from public.lexicon");
    const before = await count();
    for (const [name, text, message] of [
      [
        "a.jsonl",
        '{"headword":"x","gloss":"y"}\n\n{"headword":"z"}\n',
        /a\.jsonl, line 3, gloss: is missing$/,
      ],
      ["a.jsonl", '{"headword":"x","gloss":"y"}\nnot json\n[]', /line 2: is not JSON \(and 1 more\)$/],
      [
        "a.jsonl",
        '{"headword":"x","gloss":"y","glos":"z"}',
        /line 1, glos: is no field: there are id, headword/,
      ],
      ["a.jsonl", '{"headword":"x","gloss":"y","embedding":"[1]"}', /line 1, embedding: is no field/],
      ["a.jsonl", '{"headword":7,"gloss":"y"}', /line 1, headword: must be a text/],
      [
        "a.jsonl",
        '{"headword":"x","gloss":"y","homograph":1.5}',
        /line 1, homograph: must be a whole number/,
      ],
      ["a.jsonl", '{"headword":" ","gloss":"y"}', /line 1, headword: must not be empty/],
      ["a.jsonl", `{"headword":"${"x".repeat(501)}","gloss":"y"}`, /line 1, headword: must have at most 500/],
      ["a.jsonl", '{"headword":"x","gloss":"y\\u0000"}', /line 1, gloss: holds a NUL/],
      [
        "a.jsonl",
        '{"headword":"é","gloss":"1"}\n{"headword":"e\\u0301 ","gloss":"2"}',
        /line 2, headword, part_of_speech, homograph: is the same as in line 1/,
      ],
      [
        "a.jsonl",
        '{"headword":"x","gloss":"1"}\n{"headword":"x","gloss":"2","homograph":1}',
        /two of them have the same key/,
      ],
      ["a.csv", "headword,gloss\nx,y\nz\n", /a\.csv, line 3: is not CSV/],
      ["a.csv", "headword,gloss\nx,y\nz,\n", /a\.csv, line 3, gloss: is missing/],
      ["a.txt", "x", /rows are read from \.jsonl/],
    ] as const) {
      const file = join(folder, name);
      await writeFile(file, text);
      const { code, answer } = await reembed("ingest", file, "--collection", "lexicon");
      expect({ code, answer }).toMatchObject({
        code: 2,
        answer: { error: { code: "invalid_request", message: expect.stringMatching(message) } },
      });
    }
    expect(await count()).toBe(before);
    expect((await reembed("ingest", join(folder, "none.csv"), "--collection", "lexicon")).code).toBe(2);
    expect(
      (await reembed("ingest", "examples/bora/lexicon.csv", "--collection", "nope")).answer,
    ).toMatchObject({
      error: { code: "unknown_collection" },
    });
    expect((await reembed("ingest", "examples/bora/lexicon.csv")).code).toBe(2);
  });
}
