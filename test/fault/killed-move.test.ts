/**
 * SIGKILL at any point of a move: the same command again ends it, and nothing is left half done or done twice. REEMBED_MOVE_KILLS says how often
 * each command is killed at a random moment (3), beside the moments that are met for certain; REEMBED_MOVE_KILL_SEED repeats the choices of a run.
 */
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Client } from "pg";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Running, runJson, startCli } from "../support/cli.ts";
import { violations } from "../support/collection.ts";
import { COLLECTION, COLUMNS, createTable, loadVersion, Notes, PREPARE } from "../support/hammer/table.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { Random } from "../support/random.ts";
import { seedFrom } from "../support/seed.ts";

const KILLS = Number(process.env.REEMBED_MOVE_KILLS ?? 3);
const SEED = seedFrom("REEMBED_MOVE_KILL_SEED");
const ROWS = 300;
/** Of the collection's second version. */
const V2 = `reembed.versions v where v.id = (reembed.version_numbered('${COLLECTION}', 2)).id`;
/** An index that is being built, or whose build has failed. */
const INVALID = `select exists (select from pg_index where indrelid = 'public.${COLLECTION}'::regclass and not indisvalid)`;
/** How long a command takes about, from its start. */
const LIFETIME_MS = 2_500;

describePostgres("a command of the move that is killed", () => {
  let database: TestDatabase;
  let owner: Client;
  let other: Client;
  let victim: Running | undefined;

  beforeEach(async () => {
    database = await createDatabase();
    [owner, other] = await Promise.all([connect(database.url), connect(database.adminUrl)]);
    await createTable(owner, new Notes(ROWS, SEED));
    await loadVersion(database.url, 1);
    await owner.query("begin");
    await owner.query(PREPARE);
    await owner.query("commit");
  });
  afterEach(async () => {
    victim?.child.kill("SIGKILL");
    await victim?.finished;
    victim = undefined;
    await Promise.all([owner?.end(), other?.end()]);
    await database?.drop();
  });

  const value = async <T = unknown>(sql: string, values: unknown[] = []) =>
    Object.values((await owner.query(sql, values)).rows[0] ?? {})[0] as T;
  /** Asks until the database says yes, or the victim has ended. */
  const until = async (sql: string) => {
    while (victim?.child.exitCode === null && !(await value<boolean>(sql)));
  };

  const start = (args: readonly string[]) => {
    victim = startCli([...args, "--json"], { DATABASE_URL: database.url });
  };
  const again = (args: readonly string[]) => runJson(args, { DATABASE_URL: database.url });

  /** Kills the victim, unless it has ended, and waits until the database has finished what it was told last. */
  async function kill(): Promise<void> {
    victim?.child.kill("SIGKILL");
    await victim?.finished;
    expect(await violations(owner)).toEqual([]);
  }

  async function untilAlone(): Promise<void> {
    const others = `select count(*)::int from pg_stat_activity where datname = current_database() and backend_type = 'client backend'
                      and pid not in (pg_backend_pid(), $1)`;
    const pid = Object.values((await other.query("select pg_backend_pid()")).rows[0] ?? {})[0];
    while ((await value<number>(others, [pid])) > 0);
  }

  /** As if the time of every lease and reservation of the dead one were over. */
  async function letTimePass(): Promise<void> {
    await owner.query(
      "update reembed.jobs set run_at = now() - interval '1 minute', lease_until = now() - interval '1 minute' where run_at > now()",
    );
    await owner.query(
      "update reembed.usage set lease_until = now() - interval '1 minute' where state = 'reserved'",
    );
  }

  const eventsOf = async (...kinds: string[]) =>
    (
      await owner.query<{ kind: string }>(
        "select kind from reembed.events where collection = $1 and kind = any ($2) and not (kind in ('load', 'indexing', 'ready') and version = 1) order by id",
        [COLLECTION, kinds],
      )
    ).rows.map(({ kind }) => kind);

  const random = (name: string) =>
    Array.from({ length: KILLS }, (_, run) => {
      const moment = new Random(SEED + run).between(300, LIFETIME_MS);
      return { name: `${moment} ms after its start`, moment, command: name };
    });

  describe("backfill", () => {
    const command = [
      "backfill",
      "--collection",
      COLLECTION,
      "--version",
      "2",
      "--batch",
      "20",
      "--rate",
      "300",
    ];

    async function endsAgain(): Promise<void> {
      await letTimePass();
      const { code, answer, stderr } = await again(command);
      expect({ code, answer, stderr }).toMatchObject({
        code: 0,
        answer: { state: "ready", pending: 0, failed: 0 },
      });
      expect(await violations(owner)).toEqual([]);
      expect(await value("select count(*)::int from reembed.jobs")).toBe(0);
      expect(await value(`select count(${COLUMNS[2]})::int from public.${COLLECTION}`)).toBe(ROWS);
      const { rows: indexes } = await owner.query(
        `select i.indisvalid as valid from pg_index i join pg_class x on x.oid = i.indexrelid
          join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
         where i.indrelid = 'public.${COLLECTION}'::regclass and a.attname = $1`,
        [COLUMNS[2]],
      );
      expect(indexes).toEqual([{ valid: true }]);
      expect(await eventsOf("load", "indexing", "ready", "loading")).toEqual(["load", "indexing", "ready"]);
      // What the dead one had reserved is closed.
      expect(await value("select count(*)::int from reembed.usage where state = 'reserved'")).toBe(0);
    }

    test("while it enqueues", async () => {
      // It waits for the writer of one row, and has not enqueued all.
      await other.query("begin");
      await other.query(`select from public.${COLLECTION} order by id desc limit 1 for update`);
      start(command);
      await until(
        `select v.maintained and exists (select from reembed.jobs j where j.version_id = v.id) from ${V2}`,
      );
      await kill();
      expect(await value(`select v.enqueued_at from ${V2}`)).toBeNull();
      await other.query("rollback");
      await untilAlone();
      await endsAgain();
    });

    test("while it embeds", async () => {
      start(command);
      const rows = new Random(SEED).between(1, ROWS - 100);
      await until(
        `select (select count(*) >= ${rows} from reembed.records r where r.version_id = v.id) from ${V2}`,
      );
      await kill();
      expect(await value("select count(*)::int from reembed.jobs")).toBeGreaterThan(0);
      await untilAlone();
      await endsAgain();
    });

    test.each(["is ended with it", "goes on without it"])(
      "while it builds the index, and the build %s",
      async (fate) => {
        start(command);
        await until(`select v.maintained from ${V2}`);
        // A table as small as this has its index from the start.
        await other.query(`drop index if exists public.${COLLECTION}_${COLUMNS[2]}_hnsw`);
        // A build waits for every writer: this one has written nothing and holds no row.
        await other.query("begin");
        await other.query(`lock table public.${COLLECTION} in row exclusive mode`);
        await until(INVALID);
        await kill();
        expect(await value(INVALID)).toBe(true);
        if (fate === "is ended with it")
          await other.query(
            "select pg_terminate_backend(pid, 10000) from pg_stat_progress_create_index where datname = current_database()",
          );
        await other.query("commit");
        await untilAlone();
        await endsAgain();
      },
    );

    test.each(random("backfill"))("$name", async ({ moment }) => {
      start(command);
      // Not a wait for something: the moment of the kill is a point in time, between any two steps.
      await delay(moment);
      await kill();
      await untilAlone();
      await endsAgain();
    });
  });

  describe("of a version that is loaded:", () => {
    beforeEach(() => loadVersion(database.url, 2));

    const evaluate = ["evaluate", "--collection", COLLECTION, "--limit", "20"];
    const cutover = ["cutover", "--collection", COLLECTION, "--version", "2"];

    async function evaluationEndsAgain(): Promise<void> {
      const before = await value<number>("select count(*)::int from reembed.evaluations");
      const { code, answer, stderr } = await again(evaluate);
      expect({ code, answer, stderr }).toMatchObject({
        code: 0,
        answer: { queries: 20, candidate: { version: 2 } },
      });
      expect(await value("select count(*)::int from reembed.evaluations")).toBe(before + 1);
      expect(await again(cutover)).toMatchObject({ code: 0, answer: { to: 2, stale: 0 } });
    }

    test("evaluate, while it stores the verdict", async () => {
      await other.query("begin");
      await other.query("lock table reembed.evaluations in share mode");
      start(evaluate);
      await until(
        "select exists (select from pg_locks where not granted and relation = 'reembed.evaluations'::regclass)",
      );
      await kill();
      await other.query("rollback");
      await untilAlone();
      // What the database was told last it did: a verdict is one row, there or not.
      expect(await value("select count(*)::int from reembed.evaluations")).toBe(1);
      await evaluationEndsAgain();
    });

    test.each(random("evaluate"))("evaluate, $name", async ({ moment }) => {
      start(evaluate);
      await delay(moment);
      await kill();
      await untilAlone();
      await evaluationEndsAgain();
    });

    describe("and judged:", () => {
      beforeEach(() =>
        owner.query(
          "select reembed.store_evaluation($1, 1, 2, queries => 9, source => 'file', metrics => '{}', judged => false, index_recall => 1, index_used => true)",
          [COLLECTION],
        ),
      );

      async function cutoverEndsAgain(): Promise<void> {
        const { code, answer, stderr } = await again(cutover);
        expect({ code, answer, stderr }).toMatchObject({
          code: 0,
          answer: { collection: COLLECTION, to: 2 },
        });
        expect(await value("select embedding_route($1) -> 'version'", [COLLECTION])).toBe(2);
        expect(await eventsOf("cutover", "rollback")).toEqual(["cutover"]);
        expect(await violations(owner)).toEqual([]);
      }

      test("cutover, while it waits for the collection's row", async () => {
        await other.query("begin");
        await other.query("select from reembed.collections for no key update");
        start(cutover);
        await until("select exists (select from pg_locks where not granted and locktype = 'transactionid')");
        await kill();
        await other.query("rollback");
        await untilAlone();
        await cutoverEndsAgain();
      });

      test("cutover, when it is done", async () => {
        start(cutover);
        await until("select embedding_route('hammered') ->> 'version' = '2'");
        await kill();
        await cutoverEndsAgain();
        expect(await again(cutover)).toMatchObject({ code: 0, answer: { from: 2, to: 2, switched: false } });
      });

      test.each(random("cutover"))("cutover, $name", async ({ moment }) => {
        start(cutover);
        await delay(moment / 2);
        await kill();
        await untilAlone();
        await cutoverEndsAgain();
      });

      describe("and cut over to:", () => {
        let project: string;
        let finalize: readonly string[];

        beforeEach(async () => {
          await owner.query("select reembed.cutover($1, 2)", [COLLECTION]);
          project = await mkdtemp(join(tmpdir(), "reembed-killed-"));
          await mkdir(join(project, "supabase", "migrations"), { recursive: true });
          finalize = ["finalize", "--collection", COLLECTION, "--version", "1", "--project", project];
        });
        afterEach(() => rm(project, { recursive: true, force: true }));

        const migrations = async () =>
          (await readdir(join(project, "supabase", "migrations"))).filter((name) => /^\d.*\.sql$/.test(name));

        /** One migration, whole: it can be applied, and ends the move. */
        async function finalizationEndsAgain(): Promise<void> {
          const { code, answer, stderr } = await again(finalize);
          expect({ code, answer, stderr }).toMatchObject({ code: 0, answer: { version: 1, active: 2 } });
          const written = await migrations();
          expect(written.map((name) => `supabase/migrations/${name}`)).toEqual([answer.migration]);
          await owner.query("begin");
          await owner.query(await readFile(join(project, String(answer.migration)), "utf8"));
          await owner.query("commit");
          expect(await eventsOf("cutover", "finalize")).toEqual(["cutover", "finalize"]);
          expect(await violations(owner)).toEqual([]);
        }

        test("finalize, when the file is there", async () => {
          start(finalize);
          while (victim?.child.exitCode === null && (await migrations()).length === 0);
          await kill();
          expect(await migrations()).toHaveLength(1);
          expect(await again(finalize)).toMatchObject({ code: 0, answer: { written: false } });
          await finalizationEndsAgain();
        });

        test.each(random("finalize"))("finalize, $name", async ({ moment }) => {
          start(finalize);
          await delay(moment / 2);
          await kill();
          await finalizationEndsAgain();
        });
      });
    });
  });
});
