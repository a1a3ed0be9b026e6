/** Each rule of `reembed doctor`: it finds nothing, then what was done to the database, and after the fix that it names, nothing again. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { type ExamineOptions, examine, RULES } from "../../scripts/lib/doctor/examine.ts";
import type { Finding } from "../../scripts/lib/doctor/rule.ts";
import {
  createCollection,
  insertRow,
  load,
  removeOtherSystems,
  type TestCollection,
} from "../support/collection.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { claim, complete } from "../support/worker.ts";

const run = promisify(execFile);

/** Of nobody: it only looks like one. */
const KEY = `sk-${"proj0".repeat(8)}`;

/** A database to examine, and hands to harm and mend it with. */
class Ward {
  readonly client: Client;
  readonly admin: Client;
  readonly db: Database;

  constructor(client: Client, admin: Client, db: Database) {
    this.client = client;
    this.admin = admin;
    this.db = db;
  }

  static async open({ url, adminUrl }: TestDatabase): Promise<Ward> {
    const ward = new Ward(await connect(url), await connect(adminUrl), await openDatabase(url, 1));
    await removeOtherSystems(ward.client);
    return ward;
  }

  async close(): Promise<void> {
    await Promise.all([this.client.end(), this.admin.end(), this.db.close()]);
  }

  /** Runs the SQL of a fix, what a person is told before it aside: as the owner, and as a superuser where the owner may not. */
  async run(fix: string): Promise<void> {
    const sql = fix.replace(/^.*?(?:then|up): /s, "");
    await this.client.query(sql).catch(async (error: unknown) => {
      if (!(error instanceof Error && "code" in error && error.code === "42501")) throw error;
      await this.admin.query(sql);
    });
  }

  report(name: string, options: Partial<ExamineOptions> = {}) {
    const rules = RULES.filter((rule) => rule.name === name);
    return examine(this.db, { full: false, provider: false, project: "/", env: {}, rules, ...options });
  }

  async findings(name: string, options: Partial<ExamineOptions> = {}): Promise<Finding[]> {
    const { findings, skipped } = await this.report(name, options);
    expect(skipped).toEqual([]);
    return [...findings];
  }

  /** Nothing, then what `expected` says of the harm, and nothing again after the fixes, or after `mend` where a person has to do it. */
  async cycle(
    name: string,
    harm: string | (() => Promise<unknown>),
    expected: readonly Partial<Record<keyof Finding, unknown>>[],
    mend?: string | (() => Promise<unknown>),
    options: Partial<ExamineOptions> = {},
  ): Promise<void> {
    expect(await this.findings(name, options)).toEqual([]);
    await (typeof harm === "string" ? this.admin.query(harm) : harm());
    const findings = await this.findings(name, options);
    expect(findings).toMatchObject(expected);
    if (typeof mend === "function") await mend();
    else
      for (const fix of mend === undefined ? findings.map((found) => found.fix) : [mend]) await this.run(fix);
    expect(await this.findings(name, options)).toEqual([]);
  }
}

describePostgres("doctor: a rule finds nothing, then the harm, then nothing again:", () => {
  let database: TestDatabase;
  let ward: Ward;
  let notes: TestCollection;
  const versionId = (number: number) => notes.versions[number - 1]?.id ?? 0;
  const work = async () => {
    await ward.client.query("update reembed.jobs set run_at = now() where run_at > now()");
    await complete(ward.client, await claim(ward.client, { collection: "notes" }));
  };

  beforeAll(async () => {
    database = await createDatabase();
    ward = await Ward.open(database);
    await ward.admin.query("update pg_extension set extversion = '0.8.4' where extname = 'vector'");
    notes = await createCollection(ward.client, "notes");
    await insertRow(ward.client, notes, "a text");
    await work();
    await ward.client.query(
      "create index on public.notes using hnsw (embedding_1 extensions.vector_cosine_ops)",
    );
    await ward.client.query("select reembed.advance('notes', 1), reembed.advance('course_content', 1)");
  });
  afterAll(() => ward?.close());

  test("1 vector-extension", async () => {
    const to = (version: string) =>
      `update pg_extension set extversion = '${version}' where extname = 'vector'`;
    const back = async () => ward.admin.query(to("0.8.4"));
    await ward.cycle(
      "vector-extension",
      to("0.7.4"),
      [{ level: "error", fix: "alter extension vector update;" }],
      back,
    );
    await ward.cycle("vector-extension", to("0.8.3"), [{ level: "warning" }], back);
    await ward.cycle("vector-extension", "alter extension vector set schema public", [
      { level: "error", message: "it stands in the schema public, not in extensions" },
    ]);
  });

  test("3 service-functions", () =>
    ward.cycle(
      "service-functions",
      `grant execute on function public.reembed_enter_slot(int, int) to anon;
       revoke execute on function public.reembed_leave_slot(uuid) from service_role`,
      [
        {
          level: "error",
          object: "public.reembed_enter_slot(integer,integer)",
          message: "anon may execute it",
        },
        { level: "error", object: "public.reembed_leave_slot(uuid)" },
      ],
    ));

  test("4 schema-closed", () =>
    ward.cycle(
      "schema-closed",
      `grant usage on schema reembed to anon;
       grant select on reembed.spaces to authenticated;
       grant execute on function reembed.poke() to anon;
       alter role authenticator in database "${database.name}" set pgrst.db_schemas = 'public, reembed, storage'`,
      [
        { level: "error", object: "schema reembed", message: "anon may enter it" },
        { level: "error", object: "reembed.spaces" },
        { level: "error", object: "reembed.poke()" },
        { level: "error", object: "schema reembed", fix: expect.stringContaining("'public, storage'") },
      ],
    ));

  test("5 rpc-literals", async () => {
    const definition = async () =>
      (
        await ward.client.query(
          "select pg_get_functiondef(oid) as sql from pg_proc where proname = 'match_notes' and pronamespace = 'public'::regnamespace",
        )
      ).rows[0].sql as string;
    const replacing = (find: string, by: string) => async () => {
      const sql = await definition();
      expect(sql).toContain(find);
      await ward.client.query(sql.replaceAll(find, by));
    };
    const finds = (level: string, message: RegExp) => [
      { level, object: "public.match_notes", message: expect.stringMatching(message) },
    ];
    const cases = [
      [
        replacing("test/model-1@8", "test/model-2@8"),
        finds("error", /does not check for vectors of test\/model-1@8/),
      ],
      [replacing("<> 8 then", "<> 9 then"), finds("error", /8 dimensions/)],
      [replacing("'20000'", "'1'"), finds("warning", /body/)],
      [
        replacing(
          "match_threshold double precision DEFAULT 0",
          "match_threshold double precision DEFAULT 0.7",
        ),
        finds("warning", /0\.7, the registry says 0/),
      ],
      [replacing("SET plan_cache_mode TO 'force_custom_plan'", ""), finds("warning", /plan_cache_mode/)],
      [async () => ward.client.query("drop function public.match_notes"), finds("error", /missing/)],
      [
        "create function public.match_notes(x int) returns int language sql as 'select 1'",
        finds("error", /more than once/),
      ],
    ] as const;
    for (const [harm, expected] of cases) {
      if (typeof harm === "string") {
        await ward.cycle("rpc-literals", async () => ward.client.query(harm), expected);
      } else await ward.cycle("rpc-literals", harm, expected);
    }
  });

  test("6 vector-index, 8 index-memory", async () => {
    const many = await createCollection(ward.client, "many");
    // What a small table has from its start.
    await ward.client.query("drop index public.many_embedding_1_hnsw");
    expect(await ward.findings("vector-index")).toMatchObject([{ level: "info", object: "many v1" }]);
    await ward.client.query(
      "create index many_embedding_1_hnsw on public.many using hnsw (embedding_1 extensions.vector_cosine_ops)",
    );
    await ward.client.query(
      `insert into ${many.table} (title) select n::text from generate_series(1, 5000) n`,
    );
    await ward.cycle(
      "vector-index",
      async () => ward.client.query("drop index public.many_embedding_1_hnsw"),
      [{ level: "error", object: "many v1", message: expect.stringContaining("5000 rows") }],
    );
    await ward.cycle(
      "vector-index",
      "update pg_index set indisvalid = false where indexrelid = 'public.many_embedding_1_hnsw'::regclass",
      [
        {
          level: "error",
          object: "public.many_embedding_1_hnsw",
          fix: "drop index concurrently public.many_embedding_1_hnsw;",
        },
        { level: "error", object: "many v1" },
      ],
    );
    await ward.client.query(`
      create table public.wide (id int primary key, body text, embedding extensions.vector(2000));
      create function public.wide_input(r public.wide) returns text language sql immutable as 'select r.body';
      begin;
      select reembed.add_space('test', 'wide', 2000), reembed.add_collection('wide', 'public.wide', array['id']);
      select reembed.add_version('wide', 'test/wide@2000', 'embedding', 'public.wide_input');
      commit;`);
    await ward.cycle(
      "index-memory",
      "update pg_class set reltuples = 1000000 where oid = 'public.wide'::regclass",
      [
        {
          level: "warning",
          object: "wide v1",
          fix: expect.stringMatching(/^alter role postgres set maintenance_work_mem = '\d+MB';$/),
        },
      ],
      () => ward.db.query("set maintenance_work_mem = '20GB'"),
    );
    await ward.db.query("reset maintenance_work_mem");
    await ward.client.query("select reembed.remove_collection('many'), reembed.remove_collection('wide')");
  });

  test("7 search-settings", async () => {
    await ward.admin.query("load 'vector'");
    await ward.cycle(
      "search-settings",
      `alter database "${database.name}" set hnsw.ef_search = 40;
       alter role postgres in database "${database.name}" set enable_indexscan = off;
       alter function public.match_notes set hnsw.ef_search = 40`,
      [
        { level: "error", object: `role postgres in database ${database.name}` },
        { level: "warning", object: `database ${database.name}` },
        { level: "warning", object: "public.match_notes" },
      ],
    );
  });

  test("9 role-settings", () =>
    ward.cycle(
      "role-settings",
      `alter role postgres in database "${database.name}" set statement_timeout = 0;
       alter role postgres in database "${database.name}" set maintenance_work_mem = '2GB'`,
      [
        {
          level: "warning",
          object: "role postgres",
          message: expect.stringContaining("statement_timeout is 0"),
        },
        {
          level: "warning",
          object: "role postgres",
          message: expect.stringContaining("maintenance_work_mem is 2GB"),
        },
      ],
    ));

  test("11 poke-answers", async () => {
    await ward.client.query(
      "create schema net; create table net._http_response (status_code int, content text, created timestamptz default now())",
    );
    await ward.cycle(
      "poke-answers",
      `insert into net._http_response values (401, '{"error":{"request_id":"1"}}'), (401, '{"error":{"request_id":"2"}}'),
         (200, '{"request_id":"3"}'), (500, 'a webhook of the app''s own')`,
      [{ level: "error", object: "answers with status 401", message: expect.stringMatching(/^2 of/) }],
      "update net._http_response set created = now() - interval '2 hours'",
    );
    await ward.client.query("drop schema net cascade");
  });

  test("12 waiting-jobs", () =>
    ward.cycle(
      "waiting-jobs",
      async () => {
        await insertRow(ward.client, notes, "another text");
        await ward.client.query("update reembed.jobs set enqueued_at = now() - interval '1 hour'");
        await ward.client.query("update reembed.usage set at = now() - interval '1 hour'");
      },
      [{ level: "error", object: "notes v1", message: expect.stringContaining("since 60 minutes") }],
      work,
    ));

  test("13 stale-leases", () =>
    ward.cycle(
      "stale-leases",
      async () => {
        await insertRow(ward.client, notes, "a third text");
        await claim(ward.client, { collection: "notes" });
        await ward.client.query(
          "update reembed.jobs set lease_until = now() - interval '1 hour' where lease_token is not null",
        );
      },
      [{ level: "warning", object: "notes v1", message: expect.stringMatching(/^1 jobs .* 60 minutes ago/) }],
      work,
    ));

  test("14 failed-jobs", async () => {
    const failing = async () => {
      await insertRow(ward.client, notes, "a poisoned text");
      await ward.client.query("update reembed.jobs set failed_at = now(), error = 'refused'");
    };
    const mended = async () => {
      await ward.run((await ward.findings("failed-jobs"))[0]?.fix ?? "");
      await work();
    };
    await ward.cycle("failed-jobs", failing, [{ level: "error", object: "notes v1" }], mended);
    await ward.client.query("select reembed.set_gates('notes', failed_share => 0.5)");
    await ward.cycle("failed-jobs", failing, [{ level: "warning", object: "notes v1" }], mended);
  });

  test("15 paused-spaces", () =>
    ward.cycle("paused-spaces", "select reembed.pause_space('test/model-1@8', 'the bill')", [
      {
        level: "error",
        object: "test/model-1@8",
        message: expect.stringMatching(/^it is paused: the bill; \d+ jobs wait$/),
      },
    ]));

  test("16 budgets", async () => {
    await ward.client.query("select reembed.set_budget('all', 'day', 1)");
    await ward.cycle(
      "budgets",
      "update reembed.budgets set spent_usd = 1",
      [{ level: "error", object: "budget of all a day" }],
      "select reembed.set_budget('all', 'day', 2)",
    );
    await ward.client.query("select reembed.set_budget('all', 'day', null)");
  });

  test("17 registry", async () => {
    const alter = (sql: string) => async () => ward.client.query(`alter table public.notes ${sql}`);
    const rename = async (name: string) => {
      await ward.client.query("update reembed.versions set vector_column = $1 where id = $2", [
        name,
        versionId(2),
      ]);
      await ward.client.query("select reembed.create_match_function($1)", [versionId(2)]);
    };
    const v2 = (message: RegExp) => [
      { level: "error", object: "notes v2", message: expect.stringMatching(message) },
    ];
    await ward.cycle("registry", alter("rename embedding_2 to renamed"), v2(/embedding_2 is gone/), () =>
      rename("renamed"),
    );
    await ward.cycle("registry", alter("rename renamed to embedding_2"), v2(/renamed is gone/), () =>
      rename("embedding_2"),
    );
    await ward.cycle(
      "registry",
      alter("alter embedding_2 type extensions.vector(4)"),
      v2(/has 8 dimensions/),
      alter("alter embedding_2 type extensions.vector(8)"),
    );
    await ward.cycle(
      "registry",
      alter("rename title to headline"),
      [
        {
          level: "error",
          object: "notes",
          message: expect.stringContaining(
            "no column title any more: it is one of the collection's public_columns",
          ),
        },
      ],
      alter("rename headline to title"),
    );
    await ward.cycle("registry", alter("drop constraint notes_pkey"), [
      { level: "error", object: "notes", fix: "alter table public.notes add primary key (id);" },
    ]);
    await ward.cycle("registry", alter("alter title type varchar"), [
      {
        level: "error",
        object: "public.match_notes",
        message: "it returns title as text, and the column is character varying",
      },
      { level: "error", object: "public.match_notes_v2" },
    ]);
    await ward.cycle(
      "registry",
      async () => ward.client.query("alter function public.notes_input(public.notes) volatile"),
      [
        { level: "error", object: "notes v1", message: expect.stringContaining("not immutable") },
        { level: "error", object: "notes v2" },
      ],
    );
    await createCollection(ward.client, "gone");
    await ward.cycle(
      "registry",
      async () => ward.client.query("drop table public.gone cascade"),
      [{ level: "error", object: "gone", message: "its table is gone" }],
      async () => {
        // One table that is gone keeps no rule from the others.
        const report = await examine(ward.db, { full: true, provider: false, project: "/", env: {} });
        expect(report.findings.filter(({ level }) => level === "error")).toMatchObject([{ object: "gone" }]);
        await ward.client.query("select reembed.remove_collection('gone')");
      },
    );
  });

  test("18 tracking-triggers", async () => {
    const update = `reembed_${versionId(1)}_update`;
    await ward.cycle(
      "tracking-triggers",
      async () => ward.client.query(`drop trigger ${update} on public.notes`),
      [{ level: "error", object: "notes v1", message: expect.stringContaining(`${update} is missing`) }],
    );
    await ward.cycle(
      "tracking-triggers",
      async () => ward.client.query(`alter table public.notes disable trigger ${update}`),
      [{ level: "error", object: "notes v1", fix: `alter table public.notes enable trigger ${update};` }],
    );
    for (const [from, to] of [
      ["notes", "renamed_notes"],
      ["renamed_notes", "notes"],
    ]) {
      await ward.cycle(
        "tracking-triggers",
        async () => ward.client.query(`alter table public.${from} rename to ${to}`),
        [{ level: "error", object: "notes v1", message: expect.stringContaining("renamed under it") }],
      );
    }
  });

  test("19 foreign-triggers", async () => {
    const make = async () =>
      ward.client.query(`
        create or replace function public.moddatetime() returns trigger language plpgsql as 'begin return new; end';
        create or replace function public.audit() returns trigger language plpgsql as 'begin return null; end';
        create trigger "touch UPDATE it" before insert or update on public.notes for each row execute function public.moddatetime();
        create trigger audited after update on public.notes for each row execute function public.audit()`);
    await ward.cycle("foreign-triggers", make, [
      {
        level: "warning",
        object: 'trigger "touch UPDATE it" on public.notes',
        fix: expect.stringContaining("INSERT OR UPDATE OF id, title, body, note ON"),
      },
      {
        level: "info",
        object: "trigger audited on public.notes",
        fix: expect.stringContaining("UPDATE OF id, title, body, note ON public.notes"),
      },
    ]);
    await ward.client.query(
      "drop function public.moddatetime() cascade; drop function public.audit() cascade",
    );
    await ward.cycle(
      "foreign-triggers",
      async () =>
        ward.client.query(`
          create function public.audit() returns trigger language plpgsql as 'begin return null; end';
          create trigger audited after update on public.notes referencing new table as new_rows for each statement execute function public.audit()`),
      [{ level: "info", fix: expect.stringContaining("cannot be limited") }],
      "drop function public.audit() cascade",
    );
  });

  test("20 publications", async () => {
    await ward.cycle(
      "publications",
      "create publication realtime for table public.notes where (note is null)",
      [
        {
          level: "warning",
          object: "publication realtime",
          fix: "alter publication realtime drop table public.notes; alter publication realtime add table public.notes (id, title, body, note) where ((note IS NULL));",
        },
      ],
    );
    await ward.admin.query("drop publication realtime");
  });

  test("21 law", async () => {
    const bypassing = (sql: string) => async () => {
      await ward.admin.query(
        `set session_replication_role = replica; ${sql}; reset session_replication_role`,
      );
    };
    await ward.cycle("law", bypassing("update public.notes set title = title || '!'"), [
      {
        level: "error",
        object: "notes v1",
        message: expect.stringMatching(/neither current nor queued: the text changed$/),
        fix: "select reembed.reconcile('notes');",
      },
    ]);
    await work();
    await ward.cycle("law", bypassing("delete from public.notes where title like 'a third%'"), [
      { level: "warning", object: "notes v1", message: "1 jobs and records are of rows that are gone" },
    ]);
    await ward.admin.query("update pg_class set reltuples = 5000000 where oid = 'public.notes'::regclass");
    expect((await ward.report("law")).skipped).toMatchObject([
      { reason: expect.stringMatching(/reads every row .* 5,000,.*--full/) },
    ]);
    expect(await ward.findings("law", { full: true })).toEqual([]);
    await ward.client.query("analyze public.notes");
  });

  test("23 secrets-in-functions", () =>
    ward.cycle(
      "secrets-in-functions",
      async () =>
        ward.client.query(`
          create function public.leak() returns trigger language plpgsql as $$ begin perform '${KEY}'; return null; end $$;
          create function public.hook() returns trigger language plpgsql as 'begin return null; end';
          create trigger hook after delete on public.notes for each row execute function public.hook('{"Authorization":"${KEY}"}')`),
      [
        { level: "error", object: "public.leak()" },
        { level: "warning", object: "trigger hook on public.notes" },
      ],
      "drop function public.leak(); drop function public.hook() cascade",
    ));

  test("24 secrets-in-reports", async () => {
    await ward.cycle("secrets-in-reports", async () => {
      await insertRow(ward.client, notes, "a text that fails");
      await ward.client.query("insert into reembed.events (kind, reason) values ('note', $1)", [
        `with ${KEY}`,
      ]);
      await ward.client.query("update reembed.spaces set pause_reason = $1 where id = 'test/model-2@8'", [
        KEY,
      ]);
      await ward.client.query("update reembed.jobs set failed_at = now(), error = $1", [KEY]);
      await ward.client.query(
        "insert into reembed.usage (space_id, purpose, state, outcome) values ('test/model-2@8', 'query', 'settled', $1)",
        [KEY],
      );
    }, [
      { level: "error", object: expect.stringMatching(/^reembed.events, id \d+$/) },
      { level: "error", object: "reembed.spaces, test/model-2@8" },
      { level: "error", object: `reembed.jobs of version ${versionId(1)}` },
      { level: "error", object: "reembed.usage" },
    ]);
    await ward.client.query("select reembed.retry('notes')");
    await work();
  });

  test("25 secrets-in-files", async () => {
    const project = await mkdtemp(join(tmpdir(), "doctor-test-"));
    const git = (...args: string[]) => run("git", ["-C", project, ...args]);
    try {
      expect((await ward.report("secrets-in-files", { project })).skipped).toMatchObject([
        { reason: expect.stringContaining("not in a git repository") },
      ]);
      await git("init", "--quiet");
      await writeFile(join(project, ".env.example"), "OPENAI_API_KEY=sk-...\n");
      await git("add", ".");
      await ward.cycle(
        "secrets-in-files",
        async () => {
          await mkdir(join(project, "app"));
          await writeFile(join(project, "app", ".env.local"), `OPENAI_API_KEY=${KEY}\n`);
          await writeFile(join(project, ".env"), "PORT=1\n");
          await git("add", ".");
        },
        [
          { level: "warning", object: ".env" },
          { level: "error", object: "app/.env.local" },
        ],
        () => git("rm", "--quiet", "--cached", ".env", "app/.env.local"),
        { project },
      );
    } finally {
      await rm(project, { recursive: true, force: true });
    }
  });

  test("26 environment", async () => {
    const env: Record<string, string> = { OPENAI_API_KEY: "sk-1" };
    const cycle = (name: string, value: string, expected: readonly object[]) =>
      ward.cycle(
        "environment",
        async () => {
          env[name] = value;
        },
        expected,
        async () => {
          delete env[name];
        },
        { env },
      );
    await cycle("EMBEDDING_TIMEOUT", "ages", [
      { level: "error", message: expect.stringContaining("EMBEDDING_TIMEOUT: must be") },
    ]);
    await cycle("OPENAI_EMBEDDING_MODEL", "text-embedding-3-large", [
      {
        level: "error",
        object: "OPENAI_EMBEDDING_MODEL",
        message: expect.stringContaining("openai/text-embedding-3-small@1536"),
      },
    ]);
    await cycle("OPENAI_CHAT_MODEL", "gpt-99", [
      { level: "error", object: "OPENAI_CHAT_MODEL", message: expect.stringContaining("gpt-99") },
    ]);
    await cycle("USE_VECTOR_1536", "true", [
      { level: "error", message: expect.stringContaining("course_content has not loaded its version 2 yet") },
      { level: "error", message: expect.stringContaining("notes has 8 dimensions in its version 2") },
    ]);
    await cycle("SIMILARITY_THRESHOLD", "0.5", [
      { level: "warning", message: expect.stringContaining("notes v1 is 0") },
    ]);
  });

  test("a move, at each of its steps, is nothing to find", async () => {
    const wrong = async () => {
      const { findings } = await examine(ward.db, { full: true, provider: false, project: "/", env: {} });
      return findings.filter(({ level }) => level !== "info");
    };
    const loadV2 = async () => {
      await load(ward.client, notes, 2);
      await complete(ward.client, await claim(ward.client, { collection: "notes", version: 2 }));
    };
    for (const step of [
      loadV2,
      "create index on public.notes using hnsw (embedding_2 extensions.vector_cosine_ops)",
      "select reembed.advance('notes', 2)",
      "select reembed.cutover('notes', 2, reason => 'a test', force => true)",
      "select reembed.rollback('notes')",
      "select reembed.cutover('notes', 2, reason => 'a test', force => true)",
      "select reembed.finalize('notes', 1)",
    ]) {
      if (typeof step === "string") await ward.client.query(step);
      else await step();
      expect(await wrong(), String(step)).toEqual([]);
    }
  });

  test("what a rule prints never holds the key that it found", async () => {
    await ward.client.query("insert into reembed.events (kind, reason) values ('note', $1)", [KEY]);
    const report = await examine(ward.db, { full: true, provider: false, project: "/", env: {} });
    expect(report.findings).toMatchObject(
      expect.arrayContaining([expect.objectContaining({ rule: "secrets-in-reports" })]),
    );
    expect(JSON.stringify(report)).not.toContain(KEY);
  });

  test("a rule that cannot be checked is an error of its own, and the others are checked", async () => {
    const broken = { number: 99, name: "broken", check: () => ward.db.query("select 1 / 0").then(() => []) };
    const { findings, rules } = await examine(ward.db, {
      ...{ full: false, provider: false, project: "/", env: {} },
      rules: [broken, ...RULES.filter((rule) => rule.name === "schema-closed")],
    });
    expect(findings).toMatchObject([{ level: "error", object: "rule broken" }]);
    expect(rules).toBe(2);
  });
});

describePostgres("doctor with pg_cron: a rule finds nothing, then the harm, then nothing again:", () => {
  let ward: Ward;
  const rarely = "select reembed.schedule('17 3 1 1 *')";

  beforeAll(async () => {
    ward = await Ward.open(await createDatabase({ cron: true }));
    await ward.client.query(
      "select reembed.set_secret('functions_url', 'http://127.0.0.1:1/functions/v1'), reembed.set_secret('backfill_key', 'x')",
    );
    await ward.client.query(rarely);
  });
  afterAll(() => ward?.close());

  test("2 schedule-extensions", () =>
    ward.cycle("schedule-extensions", "drop extension http", [
      {
        level: "error",
        object: "extensions pg_net, http",
        fix: "create extension http with schema extensions;",
      },
    ]));

  test("10 schedule", async () => {
    const run = (status: string, at: string) =>
      `insert into cron.job_run_details (jobid, runid, status, start_time) select j.jobid, nextval('cron.runid_seq'), '${status}', ${at}
         from cron.job j, generate_series(1, 3) where j.jobname = 'reembed-backfill-1'`;
    const forget = async () => ward.admin.query("delete from cron.job_run_details");
    await ward.cycle(
      "schedule",
      async () =>
        ward.client.query(
          "select cron.alter_job(jobid, active := false) from cron.job where jobname = 'reembed-backfill-1'",
        ),
      [{ level: "error", object: "reembed-backfill-1", message: "it is switched off" }],
    );
    await ward.cycle(
      "schedule",
      "delete from reembed.secrets where name = 'backfill_key'",
      [{ level: "error", object: "secret backfill_key" }],
      "select reembed.set_secret('backfill_key', 'x')",
    );
    await ward.cycle(
      "schedule",
      run("failed", "now()"),
      [{ level: "error", message: "its last three runs failed" }],
      forget,
    );
    await ward.cycle(
      "schedule",
      run("succeeded", "now() - interval '2 days'"),
      [{ level: "error", message: expect.stringContaining("has not run it since") }],
      forget,
    );
    await ward.cycle(
      "schedule",
      async () => ward.client.query("select cron.unschedule('reembed-purge')"),
      [{ level: "warning", fix: "select reembed.schedule();" }],
      rarely,
    );
    await ward.cycle(
      "schedule",
      async () => ward.client.query("select reembed.unschedule()"),
      [{ level: "info", object: "schedule" }],
      rarely,
    );
  });

  test("22 secrets-in-cron", () =>
    ward.cycle(
      "secrets-in-cron",
      async () =>
        ward.client.query("select cron.schedule('leak', '17 3 1 1 *', $1)", [
          "select 'sb_secret_0123456789abcdef'",
        ]),
      [{ level: "error", object: "leak" }],
      "select cron.unschedule('leak')",
    ));
});

describePostgres("doctor with a provider: a rule finds nothing, then the harm, then nothing again:", () => {
  const SMALL = "openai/text-embedding-3-small@1536";
  let openai: FakeOpenAI;
  let ward: Ward;
  let env: Record<string, string>;

  beforeAll(async () => {
    openai = await startFakeOpenAI();
    env = { OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url };
    ward = await Ward.open(await createDatabase());
    await ward.client.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, 0.02)");
    await ward.client.query(
      "select reembed.set_space('course_content', 1, 'openai/text-embedding-3-small@384')",
    );
  });
  afterAll(async () => {
    await ward?.close();
    await openai?.close();
  });
  const asking = () => ({ provider: true, env });

  test("27 provider: by one request a space, which stands in the ledger and counts against the budget of all", async () => {
    await ward.client.query("select reembed.set_budget('all', 'day', 1)");
    const { requests } = openai.stats();
    expect(await ward.findings("provider", asking())).toEqual([]);
    expect(openai.stats().requests - requests).toBe(2);
    const { rows } = await ward.client.query(
      "select space_id, version_id, state, outcome, inputs, tokens > 5 as paid from reembed.usage order by space_id",
    );
    expect(rows).toEqual(
      [SMALL, "openai/text-embedding-3-small@384"].map((space_id) => ({
        ...{ space_id, version_id: null, state: "settled", outcome: "check", inputs: 1, paid: true },
      })),
    );
    const budget = await ward.client.query(
      "select b.reserved_usd = 0 as free, b.spent_usd = (select sum(cost_usd) from reembed.usage) as counted from reembed.budgets b",
    );
    expect(budget.rows).toEqual([{ free: true, counted: true }]);

    await ward.cycle(
      "provider",
      async () => {
        env.OPENAI_API_KEY = "sk-wrong";
      },
      [SMALL, "openai/text-embedding-3-small@384"].map((object) => ({
        level: "error",
        object: expect.stringMatching(object.slice(0, 20)),
      })),
      async () => {
        env.OPENAI_API_KEY = openai.apiKey;
      },
      asking(),
    );
  });

  test("27 provider: without its key, or without money, it is not tried, and that is no error", async () => {
    expect(await ward.findings("provider", { provider: true, env: {} })).toMatchObject([
      { level: "info", message: expect.stringContaining("OPENAI_API_KEY is not set") },
      { level: "info" },
    ]);
    await ward.client.query("update reembed.budgets set spent_usd = 1");
    const { requests } = openai.stats();
    expect(await ward.findings("provider", asking())).toMatchObject([
      { level: "info", message: expect.stringContaining("budget") },
      { level: "info" },
    ]);
    expect(openai.stats().requests).toBe(requests);
    await ward.client.query("select reembed.set_budget('all', 'day', null)");
    expect((await ward.report("provider", { env })).skipped).toMatchObject([{ reason: "--no-provider" }]);
  });

  test("28 drift", async () => {
    await ward.cycle(
      "drift",
      `update reembed.drift_references set embedding = (select array_agg((n % 7) - 3)::extensions.vector from generate_series(1, 1536) n) where space_id = '${SMALL}'`,
      [
        {
          level: "error",
          object: SMALL,
          message: expect.stringContaining("another model answers under this name"),
        },
      ],
      undefined,
      asking(),
    );
  });
});
