/**
 * `reembed add` on tables as projects have them: the migration that it writes applies, its pgTAP file passes before and after a move, the
 * move completes, and its way back leaves the schema as it was, to the byte. REEMBED_ADD_ROWS sets the size of the large table.
 */
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, escapeIdentifier } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { addTable } from "../../scripts/lib/add/add.ts";
import type { AddAnswers } from "../../scripts/lib/add/plan.ts";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { buildIndex } from "../../scripts/lib/index-build.ts";
import { applyMigrations } from "../../scripts/lib/migrations.ts";
import { runCli, runJson } from "../support/cli.ts";
import { startFakeOpenAI } from "../support/fake-openai.ts";
import { schemaDump } from "../support/pg-dump.ts";
import { asRole, connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { runTap, tapFailures } from "../support/tap.ts";

const LARGE = Number(process.env.REEMBED_ADD_ROWS ?? 11_000);
/** A thousand rows take a second or two to be loaded and indexed, longer beside other tests. */
const TIME_OUT_MS = 120_000 + LARGE * 10;
const OLD = "external/my-model@768";
const NEW = "hash/words-and-ngrams@256";

/** SQL of a vector of so many dimensions that follows from n. */
const vector = (dimensions: number) =>
  `(select array_agg(1 + (n * 7 + i * 3) % 11 order by i) from generate_series(1, ${dimensions}) i)::extensions.vector`;

interface Case {
  readonly what: string;
  readonly setup: string;
  /** As superuser, before the rest. */
  readonly admin?: string;
  readonly table: string;
  readonly args: readonly string[];
  readonly collection: string;
  readonly rows: number;
  /** Version 1's rows that have a vector already. */
  readonly adopted?: number;
  /** An edit of one row's text. */
  readonly edit: string;
  readonly defaults?: "old" | "new";
  readonly placement: "table" | "column";
  /** Holds after the move. */
  readonly after?: (client: Client) => Promise<void>;
}

const HOSTILE = 'Weird "$$" \n-- ; table';
const LONG_COLUMN = "ü".repeat(31);

const CASES: readonly Case[] = [
  {
    what: "a uuid key, row level security by owner, vectors of 768 that only the app can make",
    setup: `
      create table public.notes (
        id uuid primary key default gen_random_uuid(), owner uuid not null, title text not null, body text, embedding extensions.vector(768));
      alter table public.notes enable row level security;
      create policy "owners read" on public.notes for select to authenticated using (owner = (select auth.uid()));
      create index on public.notes using hnsw (embedding extensions.vector_cosine_ops);
      insert into public.notes (owner, title, body, embedding)
      select ('00000000-0000-4000-8000-00000000000' || n % 3)::uuid, 'note ' || n, 'text of ' || n, case when n > 4 then ${vector(768)} end
        from generate_series(1, 30) n;`,
    table: "notes",
    collection: "notes",
    args: ["--columns", "title,body", "--old-column", "embedding", "--old-space", OLD, "--new-space", NEW],
    rows: 30,
    adopted: 26,
    edit: "update public.notes set body = 'another text' where title = 'note 7'",
    placement: "column",
    after: async (client) => {
      const found = await asRole(
        client,
        "authenticated",
        (caller) =>
          caller.query("select id from public.match_notes_v2($1, -1, 100)", [`[${Array(256).fill(1)}]`]),
        { sub: "00000000-0000-4000-8000-000000000001" },
      );
      expect(found.rows).toHaveLength(10);
    },
  },
  {
    what: "a bigint key and no vectors yet",
    setup: `
      create table public.faq (id bigint generated always as identity primary key, question text not null, answer text);
      insert into public.faq (question, answer) select 'question ' || n, 'answer ' || n from generate_series(1, 25) n;`,
    table: "public.faq",
    collection: "faq",
    args: ["--text", "question || E'\\n' || coalesce(answer, '')", "--new-space", NEW, "--rls", "on"],
    rows: 25,
    edit: "update public.faq set answer = 'changed' where id = 3",
    placement: "column",
  },
  {
    what: "a text key, vectors that Reembed can make more of, a filter",
    setup: `
      create table public.pages (slug text primary key, html text not null, lang varchar(2) not null, embedding extensions.vector(384));
      insert into public.pages (slug, html, lang, embedding)
      select 'page/' || n || ' "x"', 'words of ' || n, case when n % 2 = 0 then 'en' else 'es' end, case when n > 5 then ${vector(384)} end
        from generate_series(1, 40) n;`,
    table: "pages",
    collection: "site",
    args: [
      ...[
        "--name",
        "site",
        "--columns",
        "html",
        "--filters",
        "lang",
        "--returns",
        "slug,lang",
        "--lexical",
        "english",
      ],
      ...["--old-column", "embedding", "--old-space", "hash/words-and-ngrams@384", "--new-space", NEW],
      ...["--vectors", "table"],
    ],
    rows: 40,
    adopted: 35,
    edit: "update public.pages set html = 'other words' where lang = 'es' and slug like 'page/9 %'",
    placement: "table",
    defaults: "new",
    after: async (client) => {
      const found = await client.query(
        "select * from public.match_site_v2($1, -1, 100, filter_lang => 'es')",
        [`[${Array(256).fill(1)}]`],
      );
      expect(found.rows).toHaveLength(20);
      expect(Object.keys(found.rows[0])).toEqual(["slug", "lang", "similarity"]);
      const byWords = await client.query("select slug from public.hybrid_site_v2('words', match_count => 3)");
      expect(byWords.rows).toHaveLength(3);
    },
  },
  {
    what: "a composite key and a generated column as the text",
    setup: `
      create table public.lines (
        tenant uuid not null, doc int not null, line smallint not null, raw text not null,
        clean text generated always as (lower(trim(raw))) stored, embedding extensions.halfvec(64),
        primary key (tenant, doc, line));
      insert into public.lines (tenant, doc, line, raw, embedding)
      select '00000000-0000-4000-8000-000000000001', n / 5, n % 5, '  Line ' || n, ${vector(64)}::extensions.halfvec(64) from generate_series(1, 30) n;`,
    table: "lines",
    collection: "lines",
    args: [
      "--columns",
      "clean",
      "--old-column",
      "embedding",
      "--old-space",
      "external/tiny@64",
      "--new-space",
      NEW,
      "--vectors",
      "table",
    ],
    rows: 30,
    adopted: 30,
    edit: "update public.lines set raw = 'ANOTHER' where doc = 2 and line = 1",
    placement: "table",
  },
  {
    what: "names that have to be quoted: reserved words, quotes, dollar signs, line ends, 63 bytes",
    setup: `
      create schema "My Schema";
      grant usage on schema "My Schema" to anon, authenticated, service_role;
      create table "My Schema".${escapeIdentifier(HOSTILE)} (
        "order" int primary key, "user" text, "${LONG_COLUMN}" text, "it's -- $q$" text, "Embedding" extensions.vector(8));
      insert into "My Schema".${escapeIdentifier(HOSTILE)}
      select n, 'user ' || n, 'long ' || n, 'it ' || n, ${vector(8)} from generate_series(1, 12) n;`,
    table: `My Schema.${HOSTILE}`,
    collection: "weird_table",
    args: [
      ...["--columns", `user,${LONG_COLUMN},it's -- $q$`, "--filters", "user"],
      ...["--old-column", "Embedding", "--old-space", "external/odd@8", "--new-space", NEW],
      ...["--vectors", "table", "--lexical", "simple"],
    ],
    rows: 12,
    adopted: 12,
    edit: `update "My Schema".${escapeIdentifier(HOSTILE)} set "user" = 'nobody' where "order" = 5`,
    placement: "table",
  },
  {
    what: "an empty table, and 3072 dimensions",
    setup:
      "create table public.tickets (id uuid primary key default gen_random_uuid(), subject text, embedding extensions.vector(1536));",
    table: "tickets",
    collection: "tickets",
    args: [
      ...[
        "--columns",
        "subject",
        "--old-column",
        "embedding",
        "--old-space",
        "openai/text-embedding-ada-002@1536",
      ],
      ...["--new-space", "hash/words-and-ngrams@3072"],
    ],
    rows: 0,
    adopted: 0,
    edit: "",
    placement: "column",
    after: async (client) => {
      const { rows } = await client.query(
        "select format_type(atttypid, atttypmod) as type from pg_attribute where attrelid = 'tickets'::regclass and attname = 'embedding_3072'",
      );
      expect(rows).toEqual([{ type: "halfvec(3072)" }]);
    },
  },
  {
    what: "moddatetime and a webhook on update",
    admin: `
      create extension moddatetime schema extensions;
      create schema supabase_functions; grant usage on schema supabase_functions to postgres;
      create table supabase_functions.sent (n int);
      create function supabase_functions.http_request() returns trigger language plpgsql security definer as
        $$ begin insert into supabase_functions.sent values (1); return new; end $$;
      grant execute on function supabase_functions.http_request() to postgres; grant select on supabase_functions.sent to postgres;`,
    setup: `
      create table public.posts (id int primary key, body text, updated_at timestamptz not null default '2026-01-01', embedding extensions.vector(16));
      insert into public.posts (id, body, embedding) select n, 'post ' || n, ${vector(16)} from generate_series(1, 20) n;
      create trigger "touch" before update on public.posts for each row execute function extensions.moddatetime(updated_at);
      create trigger "tell UPDATE ON others" after insert or update on public.posts for each row
        execute function supabase_functions.http_request('https://app.example/hook', 'POST', '{}', '{}', '1000');`,
    table: "posts",
    collection: "posts",
    args: [
      "--columns",
      "body",
      "--old-column",
      "embedding",
      "--old-space",
      "external/small@16",
      "--new-space",
      NEW,
    ],
    rows: 20,
    adopted: 20,
    edit: "update public.posts set body = 'edited' where id = 4",
    placement: "table",
    after: async (client) => {
      const { rows } = await client.query(
        "select (select count(*)::int from supabase_functions.sent) as sent, (select count(*)::int from posts where updated_at <> '2026-01-01') as touched",
      );
      expect(rows).toEqual([{ sent: 1, touched: 1 }]);
    },
  },
  {
    what: "old vectors in a table of their own",
    setup: `
      create table public.goods (sku text primary key, name text not null, price numeric);
      create table public.product_vectors (product text primary key references public.goods on delete cascade on update cascade, v extensions.vector(32) not null);
      insert into public.goods (sku, name, price) select 'sku-' || n, 'thing ' || n, n from generate_series(1, 18) n;
      insert into public.product_vectors select 'sku-' || n, ${vector(32)} from generate_series(3, 18) n;`,
    table: "goods",
    collection: "goods",
    args: [
      ...[
        "--columns",
        "name",
        "--returns",
        "sku,name,price",
        "--old-table",
        "product_vectors",
        "--old-column",
        "v",
      ],
      ...["--old-space", "external/thirty-two@32", "--new-space", NEW, "--vectors", "table"],
    ],
    rows: 18,
    adopted: 16,
    edit: "update public.goods set name = 'renamed' where sku = 'sku-9'",
    placement: "table",
  },
  {
    what: `${LARGE.toLocaleString("en")} rows`,
    setup: `
      create table public.events (id bigint generated always as identity primary key, body text not null, embedding extensions.vector(24));
      insert into public.events (body, embedding) select 'event ' || n, ${vector(24)} from generate_series(1, ${LARGE}) n;
      analyze public.events;`,
    table: "events",
    collection: "events",
    args: [
      "--columns",
      "body",
      "--old-column",
      "embedding",
      "--old-space",
      "external/small@24",
      "--new-space",
      "hash/words-and-ngrams@64",
    ],
    rows: LARGE,
    adopted: LARGE,
    edit: "update public.events set body = 'edited' where id = 40",
    placement: LARGE >= 50_000 ? "table" : "column",
  },
  {
    what: "no primary key, an app's own search function, a publication",
    setup: `
      create type public.tone as enum ('dry', 'warm');
      create table public.quotes (tone public.tone not null, number int not null, words text not null, embedding extensions.vector(12));
      alter table public.quotes add constraint quotes_name unique (tone, number);
      create publication app_changes for table public.quotes;
      alter table public.quotes replica identity using index quotes_name;
      create function public.match_quotes(query_embedding extensions.vector, match_count int) returns setof public.quotes language sql stable as
        'select * from public.quotes limit match_count';
      insert into public.quotes select case when n % 2 = 0 then 'dry' else 'warm' end::public.tone, n, 'words ' || n, ${vector(12)} from generate_series(1, 10) n;`,
    table: "quotes",
    collection: "quotes",
    args: [
      ...["--key", "tone,number", "--columns", "words", "--filters", "tone", "--old-column", "embedding"],
      ...["--old-space", "external/dozen@12", "--new-space", NEW],
    ],
    rows: 10,
    adopted: 10,
    edit: "update public.quotes set words = 'other words' where number = 3",
    placement: "table",
    after: async (client) => {
      const own = await client.query("select * from public.match_quotes('[1]', 2)");
      expect(own.rows).toHaveLength(2);
      const v1 = await client.query("select * from public.match_quotes_v1($1, -1, 5)", [
        `[${Array(12).fill(1)}]`,
      ]);
      expect(v1.rows).toHaveLength(5);
    },
  },
];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "add-test-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Added {
  readonly files: { readonly migration: string; readonly test: string; readonly down: string };
  readonly versions: readonly { version: number; table: string; column: string }[];
  readonly advised: { readonly placement: string };
}

describePostgres("reembed add", () => {
  test.each(CASES)(
    "$what",
    async (given) => {
      const { collection } = given;
      const database = await createDatabase({ defaults: given.defaults ?? "old" });
      if (given.admin !== undefined) {
        const admin = await connect(database.adminUrl);
        await admin.query(given.admin);
        await admin.end();
      }
      const client = await connect(database.url);
      await client.query(given.setup);
      const before = await schemaDump(database.adminUrl);
      const project = join(folder, collection);
      await mkdir(join(project, "supabase/migrations"), { recursive: true });

      const { code, answer, stderr } = await runJson([
        ...["add", given.table, "--project", project, "--db-url", database.url],
        ...given.args,
      ]);
      expect({ code, answer }, stderr).toMatchObject({ code: 0, answer: { collection, rows: given.rows } });
      const { files, versions } = answer as unknown as Added;
      const read = (path: string) => readFile(join(project, path), "utf8");
      const passes = async () =>
        expect(tapFailures(await runTap(database.url, await read(files.test)))).toEqual([]);
      // Nothing was applied yet.
      expect(await schemaDump(database.adminUrl)).toBe(before);

      await client.query(`begin; ${await read(files.migration)}; commit`);
      await passes();
      const placed = versions.at(-1);
      const own = placed?.table === versions[0]?.table && versions.length > 1 ? "column" : undefined;
      expect(own ?? (placed?.table.includes("_embeddings_v") ? "table" : "column")).toBe(given.placement);
      const commands = (answer.next as string[]).join("\n");
      if (commands.includes("reembed adopt")) {
        // Edited since the triggers stand, so its vector is an older text's.
        await client.query(given.edit);
        await runJson(["adopt", "--collection", collection, "--db-url", database.url]);
      }
      const edited = commands.includes("reembed adopt") ? 1 : 0;
      if (given.adopted !== undefined) {
        const { rows } = await client.query(
          `select count(*)::int as records, coalesce(sum(tokens), 0)::int as tokens,
                (select count(*)::int from reembed.jobs j where j.version_id = (reembed.version_numbered($1, 1)).id) as jobs
           from reembed.records r where r.version_id = (reembed.version_numbered($1, 1)).id`,
          [collection],
        );
        expect(rows).toEqual([
          { records: given.adopted - edited, tokens: 0, jobs: given.rows - given.adopted + edited },
        ]);
      }

      const version = versions.length;
      if (version === 2) {
        const db = await openDatabase(database.url, 1);
        await buildIndex(db, { collection, version: 1 });
        await db.close();
      }
      const loaded = await runJson([
        ...["backfill", "--collection", collection, "--version", String(version), "--db-url", database.url],
      ]);
      expect(loaded, loaded.stderr).toMatchObject({
        code: 0,
        answer: { state: "ready", pending: 0, failed: 0 },
      });
      if (given.edit !== "") expect((await client.query(given.edit)).rowCount).toBe(1);
      if (version === 2) {
        await client.query("select reembed.cutover($1, 2, reason => 'a test', force => true)", [collection]);
      }
      const worked = await runJson([
        ...["backfill", "--collection", collection, "--version", String(version), "--db-url", database.url],
      ]);
      expect(worked, worked.stderr).toMatchObject({ code: 0, answer: { pending: 0 } });
      const { rows } = await client.query<{ rows: number; problems: unknown }>(
        `select (select count(*)::int from reembed.records r where r.version_id = (reembed.version_numbered($1, $2)).id and r.skipped is null) as rows,
              (select jsonb_agg(v) from reembed.violations() v where v.collection = $1) as problems`,
        [collection, version],
      );
      expect(rows).toEqual([{ rows: given.rows, problems: null }]);
      await passes();
      await given.after?.(client);

      await client.query(`begin; ${await read(files.down)}; commit`);
      expect(await schemaDump(database.adminUrl)).toBe(before);
      await client.end();
      await database.drop();
    },
    TIME_OUT_MS,
  );
});

describePostgres("reembed add refuses", () => {
  let database: TestDatabase;
  let db: Database;
  let project: string;
  beforeAll(async () => {
    database = await createDatabase();
    db = await openDatabase(database.url, 1);
    const client = await connect(database.url);
    await client.query(`
      create table public.plain (id int primary key, body text, at timestamptz, other text);
      create table public.parted (id int primary key, body text) partition by range (id);
      create view public.seen as select * from public.plain;
      create table public.keyless (id int, body text);
      create table public.timed (at timestamptz primary key, body text);
      create table public.vectors (id int primary key, body text, embedding extensions.vector(4));
      create table public.strange_vectors (plain int, v extensions.vector(4));`);
    await client.end();
    project = join(folder, "refused");
    await mkdir(join(project, "supabase/migrations"), { recursive: true });
  });
  afterAll(() => db?.close());

  const GIVEN: AddAnswers = { textColumns: ["body"], oldColumn: null, newSpace: NEW, rowSecurity: "keep" };
  const textOf = (text: string) => ({ textColumns: undefined, text });
  const add = (table: string, given: Partial<AddAnswers> = {}, oldTable?: string) =>
    addTable(db, { table, oldTable, project, given: { ...GIVEN, ...given } }, () => {});

  const REFUSED: readonly (readonly [what: string, attempt: () => Promise<unknown>, message: RegExp])[] = [
    ["a table that is not there", () => add("nowhere"), /no table "nowhere"/],
    ["a partitioned table", () => add("parted"), /partitioned/],
    ["a view", () => add("seen"), /is a view/],
    ["a table that is a collection", () => add("course_content"), /is the collection/],
    ["a key of times", () => add("timed"), /at is of type timestamp/],
    ["a key that is not unique", () => add("keyless", { key: ["id"] }), /no key of .*keyless/],
    ["no text", () => add("plain", { textColumns: undefined }), /--columns is missing/],
    [
      "vectors that nobody spoke of",
      () => add("vectors", { oldColumn: undefined }),
      /--old-column is missing: .*embedding/,
    ],
    [
      "a text that depends on the session",
      () => add("plain", textOf("body || at::text")),
      /^--text: .*IMMUTABLE/,
    ],
    [
      "a text of a column that is not there",
      () => add("plain", textOf("boddy")),
      /^--text: .*"boddy" does not exist/,
    ],
    ["a text of no column", () => add("plain", textOf("'x'")), /^--text: .*no column/],
    [
      "a text of other rows",
      () => add("plain", textOf("(select max(body) from public.plain)")),
      /^--text: .*subquery/,
    ],
    [
      "two statements as a text",
      () => add("plain", textOf("body)::text)); select (((body")),
      /^--text: .*multiple commands/,
    ],
    [
      "old vectors whose table has no such key",
      () => add("plain", { oldColumn: "v", oldKey: ["plain"], oldSpace: "external/m@4" }, "strange_vectors"),
      /vector_key: \(plain\) is no key/,
    ],
    [
      "words in a language that is not there",
      () => add("plain", { lexical: "klingon" }),
      /"klingon" does not exist/,
    ],
  ];
  test.each(REFUSED)("%s", async (_, attempt, message) => {
    await expect(attempt()).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringMatching(message),
      hint: expect.stringMatching(/\w/),
    });
    expect(await readdir(join(project, "supabase/migrations"))).toEqual([]);
  });

  test("a table that somebody holds, without waiting for long", async () => {
    const holder = await connect(database.url);
    await holder.query("begin; lock table public.vectors in access share mode");
    await expect(
      add("vectors", { oldColumn: "embedding", oldSpace: "external/m@4", vectors: "column" }),
    ).rejects.toMatchObject({ code: "busy" });
    await holder.query("rollback");
    await holder.end();
  });

  test("to write over a file", async () => {
    await add("plain");
    await expect(add("plain")).rejects.toMatchObject({
      code: "refused",
      message: expect.stringMatching(/plain\.test\.sql is there already/),
    });
    expect(await readdir(join(project, "supabase/migrations"))).toHaveLength(1);
  });
});

describePostgres("docs/add-your-table.md", () => {
  test("the tutorial runs as it stands there, from the table to the end of its old vectors", async () => {
    const [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    const env = { DATABASE_URL: database.url, OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    const client = await connect(database.url);
    const project = join(folder, "documented");
    await mkdir(join(project, "supabase/migrations"), { recursive: true });
    const run = async (line: string) => {
      if (line.includes("supabase db push")) {
        await applyMigrations(client, join(project, "supabase/migrations"));
        return;
      }
      const words = line
        .replace("npm run -s reembed -- ", "")
        .replace("../my-app", project)
        .match(/"[^"]*"|\S+/g);
      const { code, stderr } = await runCli(
        (words ?? []).map((word) => word.replaceAll('"', "")),
        env,
      );
      expect({ line, code, stderr: code === 0 ? "" : stderr }).toEqual({ line, code: 0, stderr: "" });
    };
    const document = await readFile(new URL("../../docs/add-your-table.md", import.meta.url), "utf8");
    const active = async () =>
      (
        await client.query(
          "select number from reembed.versions v join reembed.collections c on c.active_version = v.id where c.name = 'posts'",
        )
      ).rows[0]?.number;
    for (const [, language = "", block = ""] of document.matchAll(/^```(sql|sh)\n([\s\S]*?)^```/gm)) {
      if (language === "sql") {
        await client.query(block);
        await client.query(
          `insert into public.posts (title, body, lang, embedding) select 'title ' || n, 'body', 'en', ${vector(1536)} from generate_series(1, 8) n`,
        );
      } else for (const line of block.trim().split("\n")) await run(line);
    }
    expect(await active()).toBe(2);
    const { rows: kinds } = await client.query(
      "select kind from reembed.events where collection = 'posts' and kind in ('cutover', 'rollback') order by id",
    );
    expect(kinds.map(({ kind }) => kind)).toEqual(["cutover", "rollback", "cutover"]);
    await applyMigrations(client, join(project, "supabase/migrations"));
    const { rows } = await client.query(
      "select column_name from information_schema.columns where table_name = 'posts' and column_name like 'embedding%'",
    );
    expect(rows).toEqual([{ column_name: "embedding_1536" }]);
    await client.end();
    await openai.close();
  });
});
