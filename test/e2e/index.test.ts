/** `reembed index` as a process that may be killed, stopped, or find that another is at it. */
import type { Client } from "pg";
import { afterEach, beforeEach, expect, onTestFinished, test } from "vitest";
import { runCli, runJson, startCli } from "../support/cli.ts";
import { createCollection } from "../support/collection.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

describePostgres("reembed index", () => {
  let database: TestDatabase;
  let client: Client;
  let writer: Client;

  beforeEach(async () => {
    database = await createDatabase();
    [client, writer] = await Promise.all([connect(database.url), connect(database.url)]);
    await createCollection(client, "notes");
  });
  afterEach(async () => {
    await Promise.all([client?.end(), writer?.end()]);
    await database?.drop();
  });

  const args = (...more: string[]) => ["index", "--collection", "notes", "--db-url", database.url, ...more];
  const start = () => {
    const running = startCli(args());
    onTestFinished(() => void running.child.kill("SIGKILL"));
    return running;
  };
  /** A transaction that writes: a concurrent build waits for its end. */
  const holdUp = async () => {
    await writer.query("begin");
    await writer.query("insert into public.notes (title) values ('a text')");
  };
  const builders = async () =>
    (
      await client.query<{ pid: number }>(
        "select pid from pg_stat_progress_create_index where datname = current_database()",
      )
    ).rows.map(({ pid }) => pid);
  const indexes = async () =>
    (
      await client.query(
        `select i.indexrelid::regclass::text as name, i.indisvalid as valid from pg_index i join pg_class x on x.oid = i.indexrelid
           join pg_am m on m.oid = x.relam where m.amname = 'hnsw' and i.indrelid = 'public.notes'::regclass order by 1`,
      )
    ).rows;
  const FIRST = { name: "notes_embedding_1_hnsw", valid: true };
  const SECOND = { name: "notes_embedding_2_hnsw", valid: true };

  test("killed while it builds, and run again: one build, and a valid index", async () => {
    await holdUp();
    const first = start();
    await first.said("waiting for writers");
    const [orphan, ...others] = await builders();
    expect(others).toEqual([]);
    first.child.kill("SIGKILL");
    await first.finished;

    // The server goes on with what it was told to build.
    const second = start();
    await second.said(`another session (pid ${orphan}) builds the index`);
    expect(await builders()).toEqual([orphan]);
    await writer.query("commit");
    expect(await second.finished).toMatchObject({ code: 0, stdout: expect.stringContaining("stands") });
    expect(await indexes()).toEqual([FIRST, SECOND]);
  });

  test("killed with its server process, and run again: what was left INVALID is replaced", async () => {
    await holdUp();
    const first = start();
    await first.said("waiting for writers");
    first.child.kill("SIGKILL");
    await first.finished;
    for (const pid of await builders()) await client.query("select pg_terminate_backend($1, 10000)", [pid]);
    await writer.query("commit");
    expect(await indexes()).toEqual([FIRST, { ...SECOND, valid: false }]);
    expect((await runCli(["status", "--db-url", database.url])).stdout).toContain(
      "v2: its index is INVALID, left by a build that failed",
    );

    expect(await runJson(args())).toMatchObject({ code: 0, answer: { version: 2, stands: true } });
    expect(await indexes()).toEqual([FIRST, SECOND]);
  });

  test("stopped by SIGINT it leaves nothing", async () => {
    await holdUp();
    const running = start();
    await running.said("waiting for writers");
    running.child.kill("SIGINT");
    await running.said("stopping");
    await expect.poll(builders, { timeout: 10_000 }).toEqual([]);
    await writer.query("commit");
    expect(await running.finished).toMatchObject({
      code: 1,
      stdout: expect.stringContaining("was not built"),
    });
    expect(await indexes()).toEqual([FIRST]);
  });

  test("--plan says what it takes and builds nothing; what cannot be built fails with the reason", async () => {
    await client.query("insert into public.notes (title) select n::text from generate_series(1, 20000) n");
    const plan = await runCli(args("--plan"));
    expect(plan.code).toBe(0);
    expect(plan.stdout).toMatch(
      /^notes_embedding_2_hnsw: none\ncreate index concurrently .*\nrows +20000 of vector\(8\), m 16, ef_construction 64\nsize +\d+ MB\ndisk .*\nmemory .*fits.*\ntime +about .*\n$/,
    );
    expect(await runJson(args("--plan", "--free-disk", "1"))).toMatchObject({
      code: 1,
      answer: { fits: { disk: false }, obstacle: { message: expect.stringContaining("1 MB are free") } },
    });
    expect(await runJson(args("--free-disk", "1"))).toMatchObject({
      code: 1,
      answer: { error: { code: "refused", hint: expect.stringContaining("disk") } },
    });
    expect(await indexes()).toEqual([FIRST]);
  });
});
