/** What `reembed add` makes of answers: choices, refusals, SQL texts of hostile names, questions, file names. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nameFiles, writeFiles } from "../../scripts/lib/add/files.ts";
import type { TableFacts } from "../../scripts/lib/add/inspect.ts";
import { downSql, migrationSql } from "../../scripts/lib/add/migration.ts";
import {
  type AddAnswers,
  defaultName,
  expressionOf,
  makePlan,
  recommendPlacement,
} from "../../scripts/lib/add/plan.ts";
import { askForAnswers, withTerminal } from "../../scripts/lib/add/questions.ts";
import { comment, createQuoter, dollarQuoted } from "../../scripts/lib/add/quote.ts";

const column = (name: string, typeName: string, dimensions: number | null = null) => ({
  name,
  type: typeName,
  typeName,
  notNull: true,
  generated: false,
  dimensions,
});

const FACTS: TableFacts = {
  schema: "public",
  name: "articles",
  kind: "r",
  persistence: "p",
  inherits: false,
  bytes: 8192,
  rowSecurity: true,
  policies: 1,
  readers: ["anon", "authenticated", "service_role"],
  primaryKey: ["id"],
  columns: [
    column("id", "uuid"),
    column("title", "text"),
    column("views", "int4"),
    column("lang", "text"),
    column("similarity", "text"),
    column("embedding", "vector", 768),
    column("loose", "vector"),
  ],
  updateTriggers: [],
  publications: [],
  collection: null,
  relations: ["articles"],
  matchFunctions: [],
  collections: [],
  oldestTransactionSeconds: null,
  statementTimeoutMs: 0,
  pgvector: "0.8.4",
  keywords: ["order", "select", "user"],
  hnswIndexes: [],
  rows: 100,
};

const ANSWERS: AddAnswers = {
  textColumns: ["title"],
  oldColumn: "embedding",
  oldSpace: "external/m@768",
  newSpace: "openai/text-embedding-3-small@1536",
  rowSecurity: "keep",
};

const plan = (answers: Partial<AddAnswers> = {}, facts: Partial<TableFacts> = {}) =>
  makePlan({ ...FACTS, ...facts }, { ...ANSWERS, ...answers }, ["title"], undefined);

describe("the plan", () => {
  const REFUSED: readonly (readonly [what: string, answers: Partial<AddAnswers>, message: RegExp])[] = [
    ["a name with capitals", { name: "Articles" }, /^--name: "Articles"/],
    ["a key that is no column", { key: ["ident"] }, /^--key: .* has no column "ident"/],
    ["a filter that is no column", { filters: ["langs"] }, /^--filters: .* no column "langs"/],
    ["a vector as filter", { filters: ["embedding"] }, /^--filters: embedding is a vector/],
    ["a vector to be returned", { returns: ["id", "embedding"] }, /^--returns: embedding is a vector/],
    ["old vectors in a column of text", { oldColumn: "title" }, /^--old-column: title is text, no vector/],
    ["old vectors without a width", { oldColumn: "loose" }, /^--old-column: loose has no width/],
    ["old vectors of nobody", { oldSpace: undefined }, /^--old-space is missing/],
    [
      "an old space of another width",
      { oldSpace: "external/m@384" },
      /^--old-space: .* 384 wide, embedding is 768/,
    ],
    [
      "an old space that is none",
      { oldSpace: "ada" },
      /^--old-space: "ada" is not provider\/model@dimensions/,
    ],
    ["a provider that is not known", { newSpace: "cohere/x@1024" }, /^--new-space: .* provider cohere/],
    [
      "more dimensions than an index holds",
      { newSpace: "openai/x@4001" },
      /^--new-space: .* 4001 dimensions/,
    ],
    [
      "a new space that nothing can embed for",
      { newSpace: "external/m2@1024" },
      /^--new-space: nothing here can/,
    ],
    ["no new space", { newSpace: undefined }, /^--new-space is missing/],
    [
      "a move to where it is",
      { oldSpace: "hash/m@768", newSpace: "hash/m@768" },
      /^--new-space: .* is the old space/,
    ],
    [
      "an app that writes vectors of a shared space",
      { oldSpace: "hash/m@768", oldWriter: "app" },
      /^--old-writer/,
    ],
    [
      "Reembed writing what it cannot make",
      { oldWriter: "reembed" },
      /^--old-writer: nothing here can embed/,
    ],
    [
      "words in a column of text",
      { lexical: "english", lexicalColumn: "title" },
      /^--lexical-column: title is text/,
    ],
    ["a column of words without a configuration", { lexicalColumn: "title" }, /^--lexical is missing/],
  ];
  test.each(REFUSED)("refuses %s", (_, answers, message) => {
    expect(() => plan(answers)).toThrow(
      expect.objectContaining({
        code: "invalid_request",
        message: expect.stringMatching(message),
        hint: expect.stringMatching(/\w/),
      }),
    );
  });

  test("refuses a table without a key, and a collection that is there", () => {
    expect(() => plan({}, { primaryKey: [] })).toThrow(/^--key is missing/);
    expect(() => plan({}, { collections: ["articles"] })).toThrow(/^--name: there is a collection articles/);
    expect(() => plan({}, { matchFunctions: ["match_articles_v2"] })).toThrow(/match_articles_v2 already/);
  });

  test("makes halfvec of what vector could not be indexed at", () => {
    expect(plan({ newSpace: "openai/text-embedding-3-large@3072" }).next.type).toBe(
      "extensions.halfvec(3072)",
    );
    expect(plan({ newSpace: "openai/m@2001" }).next.type).toBe("extensions.halfvec(2001)");
    expect(plan({ newSpace: "openai/m@2000" }).next.type).toBe("extensions.vector(2000)");
  });

  test("advises a table of its own where updates have listeners or the table is large, and says why", () => {
    const trigger = { name: "touch", kind: "moddatetime" as const, definition: "x", limited: "y" };
    expect(recommendPlacement(FACTS).placement).toBe("column");
    for (const facts of [
      { updateTriggers: [trigger] },
      { publications: ["supabase_realtime"] },
      { rows: 50_000 },
    ]) {
      const { placement, reasons } = recommendPlacement({ ...FACTS, ...facts });
      expect(placement).toBe("table");
      expect(reasons).toHaveLength(1);
    }
    expect(plan({}, { updateTriggers: [trigger] }).next.placement).toBe("table");
    const despite = plan({ vectors: "column" }, { updateTriggers: [trigger] });
    expect(despite.next.placement).toBe("column");
    expect(despite.warnings).toContainEqual(expect.stringMatching(/trigger touch.*make it anew as: y$/));
  });

  test("takes no name that is there", () => {
    const taken = plan({}, { columns: [...FACTS.columns, column("embedding_1536", "text")] });
    expect(taken.next.vectorColumn).toBe("embedding_1536_2");
    const table = plan({ vectors: "table" }, { relations: ["articles", "articles_embeddings_v2"] });
    expect(table.next.vectorTable).toBe("public.articles_embeddings_v2_2");
    expect(plan({}, { matchFunctions: ["match_articles"] }).old?.matchFunction).toBe("match_articles_v1");
  });

  test("returns the key, the text's columns and the filters, but no name of the RPC's own", () => {
    const made = makePlan(FACTS, { ...ANSWERS, filters: ["lang"] }, ["title", "similarity"], undefined);
    expect(made.publicColumns).toEqual(["id", "title", "lang"]);
  });

  test("leaves the index of a large table's words to be built by hand", () => {
    const small = plan({ lexical: "english" });
    expect(migrationSql(small, "down.sql")).toContain(
      "create index articles_words_idx on public.articles using gin",
    );
    const large = plan({ lexical: "english" }, { rows: 60_000 });
    expect(migrationSql(large, "down.sql")).not.toMatch(/articles_words_idx|set_lexical_search/);
    expect(large.lexical?.byHand).toEqual([
      expect.stringMatching(/^create index concurrently articles_words_idx/),
      expect.stringMatching(/^select reembed\.set_lexical_search\('articles'/),
    ]);
    expect(downSql(large, "up.sql")).toContain("drop index if exists public.articles_words_idx;");
  });

  test("makes a name of any table's", () => {
    expect(["Articles", "My Täble!", "_x", "123", "日本", "a".repeat(60)].map(defaultName)).toEqual([
      "articles",
      "my_t_ble",
      "x",
      "items",
      "items",
      "a".repeat(40),
    ]);
  });
});

describe("SQL texts", () => {
  const quote = createQuoter(new Set(FACTS.keywords));

  test("quote what has to be quoted, and nothing else", () => {
    expect(["title", "order", "Title", 'a"b', "a b", "1a", "ü", "a\nb"].map(quote.id)).toEqual([
      "title",
      '"order"',
      '"Title"',
      '"a""b"',
      '"a b"',
      '"1a"',
      '"ü"',
      '"a\nb"',
    ]);
  });

  test("comments stay comments, whatever a name holds", () => {
    expect(comment("of evil\n; drop table x; \r\u2028 y", "next")).toBe(
      "-- of evil ; drop table x;   y\n-- next",
    );
  });

  test("dollar quotes are none that the text holds", () => {
    expect(dollarQuoted("a $$ b $quote_1$ c", " ")).toBe("$quote_2$ a $$ b $quote_1$ c $quote_2$");
  });

  test("an expression of columns casts what is no text, and leaves null out", () => {
    expect(expressionOf(["title", "views"], FACTS, quote)).toBe(
      "coalesce(title, '') || E'\\n\\n' || coalesce(views::text, '')",
    );
  });
});

describe("the questions", () => {
  test("suggest what the table shows, and ask nothing that a flag has said", async () => {
    const asked: string[] = [];
    const given = { name: "site", filters: [], rowSecurity: "keep" as const };
    const answers = await askForAnswers(
      async (question, suggestion) => {
        asked.push(question);
        return suggestion;
      },
      FACTS,
      given,
      undefined,
    );
    expect(answers).toMatchObject({
      name: "site",
      textColumns: ["title", "lang", "similarity"],
      oldColumn: "embedding",
      oldSpace: "external/my-model@768",
      newSpace: "openai/text-embedding-3-small@1536",
      filters: [],
      lexical: null,
      vectors: "column",
    });
    expect(asked).toHaveLength(6);
    expect(asked.join()).not.toMatch(/Name of the collection|filter by/);
  });

  test("take an expression where columns are asked for, and none for no vectors", async () => {
    const said: Record<string, string> = { Text: "upper(title)", Vectors: "none" };
    const answers = await askForAnswers(
      async (question, suggestion) => said[question.split(" ")[0] ?? ""] ?? suggestion,
      FACTS,
      { rowSecurity: "keep" },
      undefined,
    );
    expect(answers).toMatchObject({
      text: "upper(title)",
      textColumns: undefined,
      oldColumn: null,
      oldSpace: undefined,
    });
  });
});

describe("the terminal", () => {
  test("takes an empty line for the suggestion, and a closed one for no", async () => {
    const input = new PassThrough();
    const output = new PassThrough();
    const answers = withTerminal(input, output, async (ask) => {
      const first = ask("One", "first");
      input.write("\n");
      const one = await first;
      const second = ask("Two", "");
      input.write(" second \n");
      return [one, await second];
    });
    expect(await answers).toEqual(["first", "second"]);

    const closed = new PassThrough();
    const given = withTerminal(closed, output, (ask) => ask("One", "first"));
    closed.end();
    await expect(given).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringContaining("not all answered"),
    });
  });
});

describe("the files", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "add-files-"));
    await mkdir(join(folder, "supabase/migrations"), { recursive: true });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("come after every migration of the project", async () => {
    const now = new Date("2026-03-04T05:06:07Z");
    expect((await nameFiles(folder, "articles", now)).migration).toBe(
      "supabase/migrations/20260304050607_add_articles.sql",
    );
    await writeFile(join(folder, "supabase/migrations/20300101000000_later.sql"), "");
    expect((await nameFiles(folder, "articles", now)).down).toBe(
      "supabase/down/20300101000001_add_articles.sql",
    );
    await expect(nameFiles(join(folder, "nowhere"), "articles", now)).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringMatching(/^--project: .*config\.toml/),
    });
  });

  test("are written all or not at all, and over none", async () => {
    await mkdir(join(folder, "supabase/tests"));
    await writeFile(join(folder, "supabase/tests/a.test.sql"), "mine");
    await expect(
      writeFiles(folder, [
        { path: "supabase/migrations/1_a.sql", text: "new" },
        { path: "supabase/tests/a.test.sql", text: "new" },
      ]),
    ).rejects.toMatchObject({
      code: "refused",
      message: expect.stringContaining("a.test.sql is there already"),
    });
    expect(await readdir(join(folder, "supabase/migrations"))).not.toContain("1_a.sql");
    expect(await readFile(join(folder, "supabase/tests/a.test.sql"), "utf8")).toBe("mine");
  });
});
