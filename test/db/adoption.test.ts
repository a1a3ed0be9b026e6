/**
 * What the migrations do to a database that already has a course_content table, a search function and data of its own.
 */
import type { Client } from "pg";
import { describe, expect, test } from "vitest";
import { applyMigrations } from "../../scripts/lib/migrations.ts";
import { asRole, connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { clusteredVectors, vectorText } from "../support/vectors.ts";

/** The table, index and function that the chatbot's own instructions make, as `postgres` in a new project runs them. */
function chatbotSchema(width: number, method: "hnsw" | "ivfflat"): string {
  const options = method === "ivfflat" ? "with (lists = 100)" : "";
  return `
    create table course_content (
      id uuid primary key default gen_random_uuid(),
      title text not null,
      content text not null,
      url text,
      content_type text,
      part_id text,
      module_id text,
      parent_id uuid,
      importance real default 0.7,
      embedding vector(${width})
    );
    create index on course_content using ${method} (embedding vector_cosine_ops) ${options};
    create function match_course_content(
      query_embedding vector(${width}), match_threshold float default 0.5, match_count int default 5
    ) returns table (id uuid, title text, content text, url text, content_type text, similarity float)
    language plpgsql as $$
    begin
      return query
        select c.id, c.title, c.content, c.url, c.content_type, 1 - (c.embedding <=> query_embedding) as similarity
          from course_content c
         where 1 - (c.embedding <=> query_embedding) > match_threshold
         order by similarity desc
         limit match_count;
    end
    $$;`;
}

const ROWS = 60;
const WITHOUT_VECTOR = 7;

async function fill(client: Client, width: number): Promise<string[]> {
  const texts = clusteredVectors(ROWS, width, { clusters: 4 }).map(vectorText);
  await client.query(
    `insert into course_content (title, content, url, content_type, part_id, module_id, importance, embedding)
     select 'Section ' || n, 'Text of section ' || n, 'https://course.example/page.html#s' || n,
            case when n % 2 = 0 then 'section' else 'page' end, 'part-' || n % 3, 'module-' || n % 5, 0.9,
            case when n > $2 then vector::vector end
       from unnest($1::text[]) with ordinality as given (vector, n)`,
    [texts, WITHOUT_VECTOR],
  );
  return texts;
}

async function migratedChatbot(
  width: number,
  method: "hnsw" | "ivfflat",
): Promise<{ database: TestDatabase; client: Client; queries: string[]; before: Before }> {
  const database = await createDatabase({ migrated: false });
  const client = await connect(database.url);
  await client.query(chatbotSchema(width, method));
  const vectors = await fill(client, width);
  const queries = [vectors[20] ?? "", vectors[41] ?? ""];
  const before = await snapshot(client, queries);
  await applyMigrations(client);
  return { database, client, queries, before };
}

interface Before {
  readonly rows: unknown[];
  readonly found: unknown[];
}

/** All rows with their vectors, and what the calls that the app makes return. */
async function snapshot(client: Client, queries: readonly string[]): Promise<Before> {
  const { rows } = await client.query(
    `select id, title, content, url, content_type, part_id, module_id, parent_id, importance, embedding::text
       from course_content order by id`,
  );
  const found: unknown[] = [];
  for (const query of queries) {
    const byName = await client.query(
      "select * from match_course_content(query_embedding => $1, match_threshold => 0.1, match_count => 12)",
      [query],
    );
    const byPosition = await client.query("select * from match_course_content($1, 0.6, 7)", [query]);
    const withDefaults = await client.query("select * from match_course_content($1)", [query]);
    found.push(byName.rows, byPosition.rows, withDefaults.rows);
  }
  return { rows, found };
}

async function one<T>(client: Client, sql: string, parameters: unknown[] = []): Promise<T> {
  const { rows } = await client.query<{ value: T }>(sql, parameters);
  const [row] = rows;
  if (row === undefined) throw new Error(`no row: ${sql}`);
  return row.value;
}

const CHATBOTS = [
  { width: 384, method: "hnsw", space: "external/sentence-transformers@384" },
  { width: 384, method: "ivfflat", space: "external/sentence-transformers@384" },
  { width: 1536, method: "ivfflat", space: "openai/text-embedding-ada-002@1536" },
] as const;

describePostgres("a database with a course_content of its own", () => {
  describe.each(CHATBOTS)("vector($width) under $method", ({ width, method, space }) => {
    test("keeps its rows, vectors and calls, and gains what the law asks for", async () => {
      const { client, queries, before } = await migratedChatbot(width, method);

      const after = await snapshot(client, queries);
      expect(after.rows).toEqual(before.rows);
      expect(after.found).toEqual(before.found);
      expect(before.found.flat().length).toBeGreaterThan(20);

      const found = await asRole(client, "anon", (caller) =>
        caller.query("select * from match_course_content($1, 0.1, 12)", [queries[0]]),
      );
      expect(found.rows).toEqual(before.found[0]);

      // Rows with a vector are taken as embedded, rows without one wait for a worker.
      expect(await one(client, "select jsonb_agg(distinct space_id) as value from reembed.records")).toEqual([
        space,
      ]);
      expect(
        await one(
          client,
          `select jsonb_build_object(
             'records', count(r), 'jobs', count(j),
             'agree', bool_and((c.embedding is not null) = (r.row_id is not null) and (c.embedding is null) = (j.row_id is not null))) as value
           from course_content c
           left join reembed.records r on r.row_id = c.id::text and r.version_id = 1
           left join reembed.jobs j on j.row_id = c.id::text and j.version_id = 1`,
        ),
      ).toEqual({ records: ROWS - WITHOUT_VECTOR, jobs: WITHOUT_VECTOR, agree: true });
      expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);

      expect(
        await one(
          client,
          "select count(*)::int as value from pg_proc where pronamespace = 'public'::regnamespace and proname = 'match_course_content'",
        ),
      ).toBe(1);
      expect(
        await one(
          client,
          "select relrowsecurity as value from pg_class where oid = 'course_content'::regclass",
        ),
      ).toBe(true);
      await client.end();
    });

    test("has one cosine HNSW index for each version, and none of the old kind", async () => {
      const { client } = await migratedChatbot(width, method);
      const { rows } = await client.query(
        `select a.attname as column, m.amname as method, count(*)::int as indexes
           from pg_index i
           join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
          where i.indrelid = 'course_content'::regclass and a.attname like 'embedding%' and i.indisvalid
          group by 1, 2 order by 1, 2`,
      );
      expect(rows).toEqual([
        { column: "embedding", method: "hnsw", indexes: 1 },
        { column: "embedding_1536", method: "hnsw", indexes: 1 },
      ]);
      await client.end();
    });
  });

  test("of OpenAI's older width asks only the new version's callers for the space", async () => {
    const { client, queries } = await migratedChatbot(1536, "ivfflat");
    const unnamed = await client.query("select * from match_course_content($1, 0.1, 3)", [queries[0]]);
    expect(unnamed.rows).toHaveLength(3);
    await expect(
      client.query("select * from match_course_content_v2($1)", [queries[0]]),
    ).rejects.toMatchObject({
      code: "RE002",
      message: expect.stringContaining("query_space is null"),
      hint: expect.stringContaining("openai/text-embedding-3-small@1536"),
    });
    await client.end();
  });

  test("whose vectors a provider cannot make more of has its space paused, and says why to a worker", async () => {
    const { client } = await migratedChatbot(384, "hnsw");
    const claim = await one<{ reason: string; pause_reason: string }>(
      client,
      "select reembed.claim('course_content', 1) as value",
    );
    expect(claim.reason).toBe("paused");
    expect(claim.pause_reason).toContain("brought from elsewhere");
    await client.end();
  });

  test("without the younger columns is given them", async () => {
    const database = await createDatabase({ migrated: false });
    const client = await connect(database.url);
    await client.query(`
      create table course_content (
        id uuid primary key default gen_random_uuid(), title text not null, content text not null, embedding vector(384));
      insert into course_content (title, content) values ('Branches', 'A branch is a pointer.');`);
    await applyMigrations(client);
    const { rows } = await client.query(
      "select title, url, content_type, part_id, module_id, parent_id, importance from course_content",
    );
    expect(rows).toEqual([
      {
        title: "Branches",
        url: null,
        content_type: null,
        part_id: null,
        module_id: null,
        parent_id: null,
        importance: expect.closeTo(0.7),
      },
    ]);
    expect(await one(client, "select count(*)::int as value from reembed.jobs where version_id = 1")).toBe(1);
    expect(await one(client, "select embedding_route('course_content') ->> 'space' as value")).toBe(
      "supabase/gte-small@384",
    );
    await client.end();
  });

  test("that anyone could write is closed to all but the service", async () => {
    const database = await createDatabase({ migrated: false });
    const client = await connect(database.url);
    await client.query(chatbotSchema(384, "hnsw"));
    expect(await one(client, "select has_table_privilege('anon', 'course_content', 'insert') as value")).toBe(
      true,
    );
    await applyMigrations(client);
    const { rows } = await client.query(
      `select role, has_table_privilege(role, 'course_content', 'select') as reads,
              has_table_privilege(role, 'course_content', 'insert') as inserts,
              has_table_privilege(role, 'course_content', 'update') as updates,
              has_table_privilege(role, 'course_content', 'delete') as deletes
         from unnest(array['anon', 'authenticated', 'service_role']) as role`,
    );
    expect(rows).toEqual([
      { role: "anon", reads: true, inserts: false, updates: false, deletes: false },
      { role: "authenticated", reads: true, inserts: false, updates: false, deletes: false },
      { role: "service_role", reads: true, inserts: true, updates: true, deletes: true },
    ]);
    await client.end();
  });
});

describePostgres("a database that cannot be adopted as it is", () => {
  test("vector in another schema is refused with the statement that moves it", async () => {
    const database = await createDatabase({ migrated: false });
    const admin = await connect(database.adminUrl);
    await admin.query("drop extension vector; create extension vector schema public;");
    await admin.end();
    const client = await connect(database.url);
    await expect(applyMigrations(client)).rejects.toMatchObject({
      code: "RE008",
      message: expect.stringContaining("vector stands in the schema public"),
      hint: expect.stringContaining("alter extension vector set schema extensions"),
    });
    await client.end();
  });

  const REFUSED = [
    {
      what: "a key that is no uuid",
      columns: "id bigint primary key, title text not null, content text not null, embedding vector(384)",
      message: "id is bigint",
      hint: "uuid",
    },
    {
      what: "no primary key",
      columns: "id uuid, title text not null, content text not null, embedding vector(384)",
      message: "id is not its primary key",
      hint: "add primary key (id)",
    },
    {
      what: "a vector column without a width",
      columns: "id uuid primary key, title text not null, content text not null, embedding vector",
      message: "embedding is vector, not a vector of a known width",
      hint: "alter column embedding type",
    },
    {
      what: "no text",
      columns: "id uuid primary key, title text not null, embedding vector(384)",
      message: "content is missing",
      hint: "content",
    },
  ] as const;
  test.each(REFUSED)(
    "course_content with $what is refused and left alone",
    async ({ columns, message, hint }) => {
      const database = await createDatabase({ migrated: false });
      const client = await connect(database.url);
      await client.query(`create table course_content (${columns})`);
      await expect(applyMigrations(client)).rejects.toMatchObject({
        code: "RE008",
        message: expect.stringContaining(message),
        hint: expect.stringContaining(hint),
      });
      expect(
        await one(
          client,
          "select relrowsecurity as value from pg_class where oid = 'course_content'::regclass",
        ),
      ).toBe(false);
      await client.end();
    },
  );
});
