/** The command line as people and scripts use it: the real process against a real database. */
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { applyMigrations } from "../../scripts/lib/migrations.ts";
import { startStack } from "../../scripts/stack/index.ts";
import { runCli, runJson, startCli } from "../support/cli.ts";
import { type FakeOpenAI, type FaultRule, startFakeOpenAI } from "../support/fake-openai.ts";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { NO_TICK_MS } from "../support/stack.ts";

const COURSE = fileURLToPath(new URL("../../examples/git-course", import.meta.url));
const BASE_URL = "https://swcarpentry.github.io/git-novice/";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cli-test-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("without a database", () => {
  const COMMANDS = [
    "init",
    "dev",
    "add",
    "adopt",
    "ingest",
    "ingest-products",
    "status",
    "coverage",
    "estimate",
    "backfill",
    "work",
    "search",
    "ask",
    "index",
    "evaluate",
    "canary",
    "cutover",
    "rollback",
    "finalize",
    "pause",
    "resume",
    "retry",
    "reconcile",
    "doctor",
  ];

  /** Names that others had for a command. */
  const ALIASES = { stats: "status", migrate: "backfill", continuous: "work", rag: "ask" };

  test("help lists the commands, and each has help with an example", async () => {
    const { code, stdout } = await runCli(["--help"]);
    expect(code).toBe(0);
    const listed = [...stdout.matchAll(/^ {2}([a-z-]+)(?:\|([a-z]+))? \[options\]/gm)];
    expect(listed.map(([, name]) => name)).toEqual(COMMANDS);
    const aliases = listed.flatMap(([, name, alias]) => (alias === undefined ? [] : [[alias, name]]));
    expect(Object.fromEntries(aliases)).toEqual(ALIASES);
    for (const [alias, command] of Object.entries(ALIASES)) {
      expect((await runCli([alias, "--help"])).stdout).toBe((await runCli([command, "--help"])).stdout);
    }
    for (const command of COMMANDS) {
      const help = await runCli([command, "--help"]);
      expect({ command, code: help.code, stderr: help.stderr }).toEqual({ command, code: 0, stderr: "" });
      expect(help.stdout).toMatch(/Example:\n {2}npm run/);
      expect(help.stdout).toContain("--json");
    }
  });

  const WRONG: readonly (readonly [args: string[], message: RegExp])[] = [
    [[], /a command is missing/],
    [["explode"], /unknown command 'explode'/],
    [["status", "--colour"], /unknown option '--colour'/],
    [["status", "more"], /too many arguments/],
    [["search"], /missing required argument 'text'/],
    [["search", "  "], /must not be empty/],
    [["search", "x".repeat(65_536)], /at most 8,000 characters/],
    [["search", "x", "--count", "0"], /--count.* from 1 to 1000/],
    [["search", "x", "--count", "1e2"], /--count.* from 1 to 1000/],
    [["search", "x", "--version", "two"], /--version.*whole number/],
    [["backfill", "--batch", "2049"], /--batch.* from 1 to 2048/],
    [["backfill", "--limit", "-1"], /--limit.* from 0 to/],
    [["backfill", "--target", ""], /--target, --collection.*must not be empty/],
    [["search", "x", "--collection", "a", "--collection", "a"], /--collection.*given twice/],
    [
      ["search", "x", "--collection", "a", "--collection", "b", "--version", "1"],
      /--version.*one collection's/,
    ],
    [["backfill", "--collection", ""], /--collection.*must not be empty/],
    [["estimate", "--tpm", "0"], /--tpm.* from 1 to/],
    [["estimate", "--sample", "-5"], /--sample.* from 1 to/],
    [["estimate", "--sample", "5", "--exact"], /--exact and --sample exclude each other/],
    [["estimate", "--space", "openai/x@3", "--version", "1"], /--space and --version exclude each other/],
    [["work", "--interval", "0"], /--interval.* from 0.1 to 3600/],
    [["pause", "openai/x@3"], /--reason <text>' not specified/],
    [["pause", "openai/x@3", "--reason", " "], /--reason.*must not be empty/],
    [["pause", "openai/x@3", "--reason", "x", "--seconds", "-1"], /--seconds.* from 0 to/],
    [["resume"], /missing required argument 'space'/],
    [["index", "--memory", "0"], /--memory.* from 1 to/],
    [["index", "--workers", "-1"], /--workers.* from 0 to 64/],
    [["cutover", "--version", "2", "--force"], /--force needs --reason/],
    [["ingest", COURSE], /--base-url is missing/],
    [["ingest", COURSE, "--base-url", "ftp://x"], /--base-url.*http or https URL/],
    [["ingest", "/nowhere", "--base-url", BASE_URL], /no file or folder \/nowhere/],
    [["init"], /--into <project>' not specified/],
    [["init", "--into", "/nowhere"], /--into.*config\.toml/],
    [["add"], /missing required argument 'table'/],
    [["add", "x", "--vectors", "both"], /--vectors.*Allowed choices are table, column/],
    [["add", "x", "--text", "a", "--columns", "b"], /--text and --columns exclude each other/],
    [["dev", "--port", "65536"], /--port.* from 0 to 65535/],
    [["status", "--db-url", "mysql://u:hidden@localhost/x"], /not a connection string/],
  ];
  test.each(WRONG)("%j is wrong use: two lines and exit code 2", async (args, message) => {
    const { code, stdout, stderr } = await runCli(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    // Called with nothing at all, the list of commands stands above.
    const [error, hint, ...rest] = stderr.slice(stderr.indexOf("error: ")).split("\n");
    expect(error).toMatch(/^error: /);
    expect(error).toMatch(message);
    expect(hint).toMatch(/^hint: \S/);
    expect(rest).toEqual([""]);
    expect(stderr).not.toMatch(/^\s+at /m);
  });

  test("with --json an error is one object on stdout", async () => {
    const { code, answer, stderr } = await runJson(["search", "x", "--count", "many"]);
    expect(code).toBe(2);
    expect(stderr).toBe("");
    expect(answer).toEqual({
      error: {
        code: "invalid_request",
        message: expect.stringContaining("--count"),
        hint: "See: reembed search --help",
      },
    });
  });

  test("a database on another machine is asked for, and no password is shown", async () => {
    const remote = "postgresql://someone:hidden@db.example.com/postgres";
    const shown: string[] = [];
    for (const [args, env] of [
      [["status", "--db-url", remote], {}],
      [["status", "--json"], { DATABASE_URL: remote }],
      [["status", "--db-url", "postgresql://someone:hidden@127.0.0.1:1/x"], {}],
    ] as const) {
      const { code, stdout, stderr } = await runCli(args, env);
      expect(code).toBe(1);
      shown.push(stdout + stderr);
    }
    expect(shown[0]).toContain("--allow-remote");
    expect(shown[1]).toContain('"code":"forbidden"');
    expect(shown[2]).toContain("no database answers at 127.0.0.1:1");
    expect(shown.join()).not.toContain("hidden");
  });
});

describePostgres("on PostgreSQL", () => {
  /** A database whose course versions are of these spaces, its connection, and commands against it. */
  async function prepare(spaces: { v1?: string; v2?: string } = {}) {
    const { v1 = "hash/words-and-ngrams@384", v2 = "hash/words-and-ngrams@1536" } = spaces;
    const database = await createDatabase();
    const client = await connect(database.url);
    await client.query(
      "select reembed.add_space('hash', 'words-and-ngrams', 384), reembed.add_space('hash', 'words-and-ngrams', 1536)",
    );
    await client.query("select reembed.set_space('course_content', 1, $1)", [v1]);
    await client.query("select reembed.set_space('course_content', 2, $1)", [v2]);
    const env = { DATABASE_URL: database.url };
    return {
      client,
      env,
      run: (args: readonly string[], more: Record<string, string> = {}) => runCli(args, { ...env, ...more }),
      json: (args: readonly string[], more: Record<string, string> = {}) =>
        runJson(args, { ...env, ...more }),
      rows: async (count: number, title = "row") =>
        void (await client.query(
          `insert into public.course_content (title, content, url)
           select $2 || ' ' || n, 'the text of number ' || n, 'https://example.org/' || n from generate_series(1, $1) n`,
          [count, title],
        )),
      one: async (sql: string) => (await client.query(sql)).rows[0],
    };
  }

  test("course pages in, answers out, across a move that was interrupted, and back", async () => {
    const { client, run, json, one } = await prepare();
    const ingested = await json(["ingest", COURSE, "--base-url", BASE_URL.replace(/\/$/, "")]);
    expect(ingested.code).toBe(0);
    const totals = ingested.answer.totals as Record<string, number>;
    expect(ingested.answer.documents).toHaveLength(16);
    expect(totals).toMatchObject({ inserted: totals.sections, updated: 0, deleted: 0, unchanged: 0 });
    const again = await json(["ingest", join(COURSE, "index.html"), COURSE, "--base-url", BASE_URL]);
    expect(again.answer.totals).toMatchObject({
      sections: totals.sections,
      inserted: 0,
      unchanged: totals.sections,
    });
    expect(
      await one(
        "select count(*)::int as rows from public.course_content where not starts_with(url, 'https://swcarpentry.github.io/git-novice/')",
      ),
    ).toEqual({ rows: 0 });

    const first = await json(["backfill", "--collection", "course_content", "--version", "1"]);
    expect(first).toMatchObject({
      code: 0,
      answer: { done: totals.sections, ended: "done", state: "ready", pending: 0 },
    });

    const some = await json(["backfill", "--limit", "30", "--batch", "20"]);
    expect(some).toMatchObject({
      code: 0,
      answer: {
        version: 2,
        ended: "limit",
        done: 30,
        requests: 2,
        state: "loading",
        enqueued: totals.sections,
      },
    });
    const early = await run(["cutover", "--collection", "course_content", "--version", "2"]);
    expect(early.code).toBe(1);
    expect(early.stderr).toMatch(
      /^error: .*backfill jobs are not done; .*no evaluation compares v2 with v1.*\nhint: .+\n$/,
    );
    const partial = await run(["search", "resolving a conflict", "--version", "2"]);
    expect(partial.stdout).toMatch(/still loading: it has \d+(\.\d)? % of the rows/);

    const rest = await json(["backfill"]);
    expect(rest).toMatchObject({
      code: 0,
      answer: {
        ended: "done",
        enqueued: 0,
        done: (totals.sections ?? 0) - 30,
        state: "ready",
        pending: 0,
        failed: 0,
      },
    });
    expect(await json(["backfill"])).toMatchObject({
      code: 0,
      answer: { ended: "done", done: 0, requests: 0 },
    });

    const there = await json(["cutover", "--version", "2", "--force", "--reason", "nothing to judge it by"]);
    expect(there).toMatchObject({
      code: 0,
      answer: { from: 1, to: 2, stale: 0, milliseconds: expect.any(Number) },
    });
    const found = await json(["search", "What is a conflict in Git?", "--count", "3"]);
    expect(found.answer).toMatchObject({ version: 2, lexical: true, space: "hash/words-and-ngrams@1536" });
    expect(found.answer.results).toHaveLength(3);
    const printed = await run(["search", "What is a conflict in Git?", "--count", "3"]);
    expect(printed.stdout).toContain("lexical, not semantic");
    expect(printed.stdout).toMatch(/^1 {2}0\.\d{4} {6}.+ {2}https:\/\/swcarpentry\.github\.io\//m);

    expect(await json(["rollback", "--reason", "worse"])).toMatchObject({
      code: 0,
      answer: { from: 2, to: 1, stale: 0 },
    });
    expect((await json(["rollback"])).code).toBe(1);
    expect(await one("select reason from reembed.events where kind = 'rollback'")).toEqual({
      reason: "worse",
    });

    const status = await json(["status"]);
    const collections = status.answer.collections as { readonly rows: number }[];
    expect(collections.filter(({ rows }) => rows > 0)).toMatchObject([
      {
        collection: "course_content",
        rows: totals.sections,
        versions: [
          {
            version: 1,
            active: true,
            state: "ready",
            current: totals.sections,
            coverage: 1,
            pending: 0,
            failed: 0,
            reasons: [],
          },
          {
            version: 2,
            active: false,
            state: "standby",
            current: totals.sections,
            coverage: 1,
            pending: 0,
            failed: 0,
            reasons: [],
          },
        ],
      },
    ]);
    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
    await client.end();
  });

  test("a page that cannot be taken is named, and the others are stored", async () => {
    const { client, run, one } = await prepare();
    const pages = join(folder, "pages");
    await mkdir(pages);
    await writeFile(join(pages, "a.html"), "<main><h1>A</h1><p>text</p></main>");
    await writeFile(join(pages, "b.html"), "<main></main>");
    await writeFile(join(pages, "c d.html"), "<main><h1>C</h1><p>text</p></main>");
    const { code, stderr } = await run(["ingest", pages, "--base-url", "https://example.org/x"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: .*b\.html: .+\nhint: .+\n$/);
    expect(await one("select array_agg(url order by url) as urls from public.course_content")).toEqual({
      urls: ["https://example.org/x/a.html", "https://example.org/x/c%20d.html"],
    });
    await client.end();
  });

  test("index builds what is missing, and reconcile enqueues what bypassed the triggers", async () => {
    const { client, json, rows, one } = await prepare();
    await rows(3);
    await client.query("drop index public.course_content_embedding_1536_hnsw");
    expect(await json(["index", "--version", "2"])).toMatchObject({
      code: 0,
      answer: { version: 2, state: "prepared" },
    });
    expect(
      await one("select reembed.has_index(reembed.version_numbered('course_content', 2)) as there"),
    ).toEqual({ there: true });
    await client.query("delete from reembed.jobs");
    expect(await json(["reconcile"])).toMatchObject({
      code: 0,
      answer: { enqueued: 3, orphans_removed: 0, busy: 0 },
    });
    await client.end();
  });

  test("unknown names are failures that list the known ones", async () => {
    const { client, json } = await prepare();
    for (const command of [
      ["backfill"],
      ["search", "x"],
      ["index", "--version", "1"],
      ["cutover", "--version", "1"],
      ["rollback"],
      ["retry"],
      ["reconcile"],
    ]) {
      expect(await json([...command, "--collection", "nope"])).toMatchObject({
        code: 1,
        answer: { error: { code: "unknown_collection", hint: expect.stringContaining("course_content") } },
      });
    }
    for (const command of [["backfill"], ["search", "x"], ["index"], ["cutover"]]) {
      expect(await json([...command, "--collection", "course_content", "--version", "9"])).toMatchObject({
        code: 1,
        answer: { error: { code: "unknown_version" } },
      });
    }
    await client.end();
  });

  test("a database without the migrations is told so", async () => {
    const { url } = await createDatabase({ migrated: false });
    const { code, stderr } = await runCli(["status", "--db-url", url]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: this database has no Reembed schema\nhint: .*db push/);
  });

  describe("with a provider", () => {
    const OPENAI = "openai/text-embedding-3-small@1536";
    let openai: FakeOpenAI;
    beforeAll(async () => {
      openai = await startFakeOpenAI();
    });
    beforeEach(() => openai.faults.clear());
    afterAll(() => openai.close());
    const key = () => ({ OPENAI_API_KEY: openai.apiKey, OPENAI_BASE_URL: openai.url });

    test("without its key a version is left alone", async () => {
      const { client, json, rows, one } = await prepare({ v2: OPENAI });
      await rows(2);
      expect(await json(["backfill"])).toMatchObject({
        code: 1,
        answer: {
          error: { code: "provider_unavailable", message: expect.stringContaining("OPENAI_API_KEY") },
        },
      });
      expect(
        await one("select state, maintained from reembed.version_numbered('course_content', 2)"),
      ).toEqual({
        state: "prepared",
        maintained: false,
      });
      await client.end();
    });

    test("a rate limit is waited for, and the ledger says what was spent", async () => {
      const { client, json, rows, one } = await prepare({ v2: OPENAI });
      await rows(20);
      openai.faults.add({ fault: { kind: "rate_limit", retryAfterSeconds: 0.01 }, times: 2 });
      openai.faults.add({ fault: { kind: "server_error" } });
      const before = openai.stats().tokensBilled;
      const { code, answer, stderr } = await json(["backfill", "--batch", "10"], key());
      const tokens = openai.stats().tokensBilled - before;
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: { ended: "done", done: 20, state: "ready", tokens, failed: 0 },
      });
      expect(answer.cost_usd).toBeCloseTo((tokens * 0.02) / 1_000_000, 12);
      expect(stderr).toMatch(/going on in \d+ s/);
      expect(await one("select count(*)::int as n from reembed.usage where state = 'reserved'")).toEqual({
        n: 0,
      });
      await client.end();
    });

    test("a row that the provider refuses fails with its reason, and retry gives it another chance", async () => {
      const { client, run, json, rows } = await prepare({ v2: OPENAI });
      await rows(5);
      await rows(1, "poison");
      openai.faults.add({ fault: { kind: "bad_request" }, match: "poison", times: "always" });
      expect(await json(["backfill"], key())).toMatchObject({
        code: 1,
        answer: { done: 5, failed: 1, pending: 0, ended: "done" },
      });
      const { stdout } = await run(["status"]);
      expect(stdout).toMatch(/v2: 1 failed: .+/);
      openai.faults.clear();
      expect(await json(["retry", "--collection", "course_content"])).toMatchObject({
        code: 0,
        answer: { retried: 1 },
      });
      expect(await json(["backfill"], key())).toMatchObject({
        code: 0,
        answer: { done: 1, failed: 0, state: "ready" },
      });
      await client.end();
    });

    test("an account without credit pauses the space, ends with 1 and says how to go on", async () => {
      const { client, run, json, rows } = await prepare({ v2: OPENAI });
      await rows(3);
      openai.faults.add({ fault: { kind: "insufficient_quota" }, match: "the text of number" });
      const { code, stderr } = await run(["backfill"], key());
      expect(code).toBe(1);
      expect(stderr).toContain(`hint: Mend the cause, then run reembed resume ${OPENAI}`);
      expect(await json(["backfill"], key())).toMatchObject({
        code: 1,
        answer: { ended: "paused", requests: 0, pending: 3 },
      });
      expect((await run(["status"])).stdout).toContain(
        `${OPENAI} is paused until reembed resume ${OPENAI}: `,
      );
      expect(await json(["resume", OPENAI])).toMatchObject({ code: 0, answer: { space: OPENAI } });
      expect(await json(["backfill"], key())).toMatchObject({ code: 0, answer: { done: 3 } });
      await client.end();
    });

    test("a space that somebody paused buys nothing until its time is over, or it is resumed", async () => {
      const { client, run, json, rows, one } = await prepare({ v2: OPENAI });
      await rows(2);
      await json(["backfill", "--limit", "1"], key());
      expect(await json(["pause", OPENAI, "--reason", "the bill", "--seconds", "3600"])).toMatchObject({
        code: 0,
        answer: { space: OPENAI, reason: "the bill", seconds: 3600 },
      });
      expect((await run(["status"])).stdout).toMatch(/@1536 is paused until 20\S+: the bill/);
      expect(await json(["backfill"], key())).toMatchObject({
        code: 1,
        answer: { ended: "paused", requests: 0, error: "the bill" },
      });
      await json(["resume", OPENAI]);
      expect(await json(["backfill"], key())).toMatchObject({ code: 0, answer: { state: "ready" } });
      expect(
        await one("select count(*)::int as n from reembed.events where kind in ('pause', 'resume')"),
      ).toEqual({
        n: 2,
      });
      for (const args of [
        ["pause", "openai/none@1", "--reason", "x"],
        ["resume", "openai/none@1"],
      ])
        expect(await json(args)).toMatchObject({ code: 2, answer: { error: { code: "invalid_request" } } });
      await client.end();
    });

    test.each<[string, object, object, RegExp]>([
      ["a wrong key", { OPENAI_API_KEY: "sk-wrong-key-of-nobody" }, {}, /401.*OPENAI_API_KEY/s],
      ["no credit", {}, { kind: "insufficient_quota" }, /429.*no credit left/s],
      ["another width", {}, { kind: "wrong_width" }, /1535 dimensions.*dimensions of the space/s],
      ["no provider at its address", { OPENAI_BASE_URL: "http://127.0.0.1:1/v1" }, {}, /connection/],
    ])("%s is told before the first row is touched", async (_, env, fault, said) => {
      const { client, run, json, rows, one } = await prepare({ v2: OPENAI });
      await rows(3);
      if ("kind" in fault) openai.faults.add({ fault } as FaultRule);
      const before = await one("select max(id) as id from reembed.events");
      const { code, stderr } = await run(["backfill"], { ...key(), ...env });
      expect(code).toBe(1);
      expect(stderr).toMatch(/^error: .+\nhint: .+ No row was touched: then run this again\.\n$/);
      expect(stderr).toMatch(said);
      expect(stderr).not.toContain("sk-wrong");
      expect(await one("select max(id) as id from reembed.events")).toEqual(before);
      expect(
        await one(
          `select state, maintained, (select count(*)::int from reembed.jobs j where j.version_id = v.id) as jobs,
                  (select count(*)::int from reembed.usage u where u.version_id = v.id and u.state <> 'reserved') as requests
             from reembed.version_numbered('course_content', 2) v`,
        ),
      ).toEqual({ state: "prepared", maintained: false, jobs: 0, requests: 1 });
      expect(await json(["backfill"], key())).toMatchObject({ code: 0, answer: { done: 3, state: "ready" } });
      await client.end();
    });

    test("the first request stands in the ledger and is made once", async () => {
      const { client, json, rows, one } = await prepare({ v2: OPENAI });
      const before = openai.stats();
      await rows(2);
      const { answer } = await json(["backfill"], key());
      const { requests, tokensBilled } = openai.stats();
      expect(requests - before.requests).toBe(2);
      expect(answer).toMatchObject({ done: 2, requests: 1, tokens: tokensBilled - before.tokensBilled });
      expect(await one("select count(*)::int as n from reembed.usage where outcome = 'probe'")).toEqual({
        n: 1,
      });
      await rows(1, "later");
      await json(["backfill"], key());
      expect(openai.stats().requests - requests).toBe(1);
      await client.end();
    });

    test("a budget that is spent is told before the first row is touched", async () => {
      const { client, run, rows, one } = await prepare({ v2: OPENAI });
      await rows(1);
      await client.query("select reembed.set_budget('course_content', 'day', 0.0000001)");
      const { code, stderr } = await run(["backfill"], key());
      expect(code).toBe(1);
      expect(stderr).toMatch(/^error: .*budget of course_content a day is spent.*\nhint: Raise it with/);
      expect(await one("select maintained from reembed.version_numbered('course_content', 2)")).toEqual({
        maintained: false,
      });
      expect(await one("select count(*)::int as n from reembed.usage")).toEqual({ n: 0 });
      await client.end();
    });

    test("a budget that is spent on the way ends backfill with 1, keeps every job, and more money goes on", async () => {
      const { client, json, rows } = await prepare({ v2: OPENAI });
      await rows(3);
      await json(["backfill", "--limit", "1"], key());
      await client.query("select reembed.set_budget('course_content', 'move', 0.0000001)");
      const { code, answer, stderr } = await json(["backfill"], key());
      expect({ code, answer }).toMatchObject({
        code: 1,
        answer: { ended: "budget", done: 0, requests: 0, pending: 2, failed: 0 },
      });
      expect(stderr).toMatch(/error: .*budget of course_content.*\nhint: .*reembed\.set_budget/);
      await client.query("select reembed.set_budget('course_content', 'move', 1)");
      expect(await json(["backfill"], key())).toMatchObject({ code: 0, answer: { done: 2, state: "ready" } });
      await client.end();
    });

    test("work tells of a spent budget once, waits, and keeps what costs nothing current meanwhile", async () => {
      const { client, env, rows, one } = await prepare({ v2: OPENAI });
      await client.query("select reembed.set_budget('course_content', 'day', 0.0000001)");
      await client.query("select reembed.start_loading('course_content', 2)");
      await client.query("select reembed.finish_enqueueing('course_content', 2)");
      const running = startCli(["work", "--interval", "0.1"], { ...env, ...key() });
      // Each a round at least: v1 is of a space that is computed here.
      for (const count of [2, 3, 4, 5]) {
        await rows(count, `of the ${count}`);
        await running.said(`course_content v1: ${count} embedded`);
      }
      await running.said("course_content v2: the budget of course_content for the day");
      const pending =
        "select count(*)::int as n from reembed.jobs where failed_at is null and lease_token is null";
      expect(await one(pending)).toEqual({ n: 14 });
      await client.query("select reembed.set_budget('course_content', 'day', 1)");
      await running.said("course_content v2: 14 embedded");
      running.child.kill("SIGTERM");
      const { code, stderr } = await running.finished;
      expect(code).toBe(0);
      expect(stderr.split("the budget of course_content")).toHaveLength(2);
      await client.end();
    });

    test.each([
      ["work", ["work", "--interval", "3600"], 0],
      ["backfill", ["backfill", "--version", "2"], 1],
    ] as const)("SIGTERM while %s waits for an answer gives everything back", async (_, args, exitCode) => {
      const { client, env, rows, one } = await prepare({ v2: OPENAI });
      await rows(4);
      await client.query("select reembed.start_loading('course_content', 2)");
      await client.query(
        "select reembed.enqueue_missing((reembed.version_numbered('course_content', 2)).id)",
      );
      await client.query("select reembed.finish_enqueueing('course_content', 2)");
      // It takes the request and never answers.
      const silent = createServer();
      silent.listen(0, "127.0.0.1");
      await once(silent, "listening");
      const asked = once(silent, "request");
      const running = startCli([...args, "--json"], {
        ...env,
        OPENAI_API_KEY: "sk-any",
        OPENAI_BASE_URL: `http://127.0.0.1:${(silent.address() as AddressInfo).port}/v1`,
      });
      await asked;
      const leases = "select count(*)::int as n from reembed.jobs where lease_token is not null";
      expect(await one(leases)).toEqual({ n: 4 });
      running.child.kill("SIGTERM");
      const { code, stdout } = await running.finished;
      expect({ code, answer: JSON.parse(stdout) }).toMatchObject({
        code: exitCode,
        answer: { ended: "stopped" },
      });
      expect(await one(leases)).toEqual({ n: 0 });
      expect(
        await one(
          "select max(attempts)::int as attempts, bool_and(run_at <= clock_timestamp()) as due from reembed.jobs j join reembed.version_numbered('course_content', 2) v on v.id = j.version_id",
        ),
      ).toEqual({ attempts: 0, due: true });
      expect(await one("select count(*)::int as n from reembed.usage where state = 'reserved'")).toEqual({
        n: 0,
      });
      silent.closeAllConnections();
      silent.close();
      await client.end();
    });
  });

  test("work keeps up with edits until it is told to stop", async () => {
    const { client, env, rows, one } = await prepare();
    await rows(3);
    const running = startCli(["work", "--interval", "0.1"], env);
    await running.said("course_content v1: 3 embedded");
    await client.query("update public.course_content set title = 'another title' where title = 'row 1'");
    await running.said("course_content v1: 1 embedded");
    running.child.kill("SIGINT");
    expect(await running.finished).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("4 rows embedded"),
    });
    expect(await one("select count(*)::int as n from reembed.jobs")).toEqual({ n: 0 });
    await client.end();
  });

  test("work leaves jobs that only another worker can embed to that one", async () => {
    const { client, env, rows, one } = await prepare({ v1: "supabase/gte-small@384" });
    await rows(2);
    const running = startCli(["work", "--interval", "3600"], env);
    await running.said("course_content v1 is left to another worker");
    running.child.kill("SIGTERM");
    expect((await running.finished).code).toBe(0);
    expect(
      await one(
        "select max(attempts)::int as attempts, bool_and(run_at <= clock_timestamp()) as due from reembed.jobs",
      ),
    ).toEqual({ attempts: 0, due: true });
    await client.end();
  });

  describe("init", () => {
    const makeProject = async (name: string) => {
      const project = join(folder, name);
      await mkdir(join(project, "supabase", "migrations"), { recursive: true });
      await writeFile(
        join(project, "supabase", "config.toml"),
        'project_id = "theirs"\n\n[functions.search]\nverify_jwt = true',
      );
      return project;
    };
    const snapshot = async (project: string) => {
      const entries = await readdir(project, { recursive: true, withFileTypes: true });
      const files = entries
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name));
      return Object.fromEntries(
        await Promise.all(files.sort().map(async (file) => [file, await readFile(file, "utf8")])),
      );
    };

    test("brings a core that stands alone on an empty database", async () => {
      const project = await makeProject("app");
      const { code, answer } = await runJson(["init", "--into", project]);
      expect({ code, answer }).toMatchObject({
        code: 0,
        answer: {
          sections: ["ask", "backfill", "ingest"],
          unchanged: 0,
          // Not ingest, which writes into a table that the core does not bring.
          next: expect.arrayContaining(["supabase functions deploy search ask backfill"]),
        },
      });
      const config = await readFile(join(project, "supabase", "config.toml"), "utf8");
      expect(config).toMatch(
        /^project_id = "theirs"\n\n\[functions\.search\]\nverify_jwt = true\n\n# .+\n\[functions\.ask\]\nverify_jwt = false\n/,
      );
      expect(config.match(/\[functions\.search\]/g)).toHaveLength(1);

      const database = await createDatabase({ migrated: false });
      const client = await connect(database.url);
      const applied = await applyMigrations(client, join(project, "supabase", "migrations"));
      expect(applied.length).toBeGreaterThan(5);
      expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
      expect(
        (
          await client.query(
            "select from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'",
          )
        ).rows,
      ).toEqual([]);
      expect(await runJson(["status", "--db-url", database.url])).toMatchObject({
        code: 0,
        answer: { collections: [] },
      });
      expect(
        await runJson(["ingest", COURSE, "--base-url", BASE_URL, "--db-url", database.url]),
      ).toMatchObject({ code: 1, answer: { error: { code: "refused" } } });
      await client.end();

      const before = await snapshot(project);
      expect(await runJson(["init", "--into", project])).toMatchObject({
        code: 0,
        answer: { written: [], sections: [] },
      });
      expect(await snapshot(project)).toEqual(before);
    });

    test("writes nothing at all when one file differs", async () => {
      const project = await makeProject("other app");
      await mkdir(join(project, "supabase", "functions", "search"), { recursive: true });
      await writeFile(join(project, "supabase", "functions", "search", "index.ts"), "// theirs");
      await writeFile(join(project, "supabase", "migrations", "20261121000400_theirs.sql"), "select 1;");
      const before = await snapshot(project);
      const { code, stderr } = await runCli(["init", "--into", project]);
      expect(code).toBe(1);
      expect(stderr).toContain(
        "supabase/functions/search/index.ts, supabase/migrations/20261121000400_theirs.sql",
      );
      expect(await snapshot(project)).toEqual(before);
    });
  });
});

test("on the embedded database, while its stack runs", async () => {
  const stack = await startStack({ port: 0, database: "memory", tickMs: NO_TICK_MS });
  try {
    const env = { DATABASE_URL: stack.databaseUrl };
    const client = new Client(stack.databaseUrl);
    await client.connect();
    await client.query(
      "select reembed.add_space('hash', 'words-and-ngrams', 384), reembed.add_space('hash', 'words-and-ngrams', 1536)",
    );
    await client.query(
      "select reembed.set_space('course_content', n, format('hash/words-and-ngrams@%s', w)) from (values (1, 384), (2, 1536)) v(n, w)",
    );
    await client.query("drop index public.course_content_embedding_1536_hnsw");
    await client.end();
    const pages = join(folder, "few pages");
    await cp(join(COURSE, "09-conflict.html"), join(pages, "09-conflict.html"));
    expect((await runJson(["ingest", pages, "--base-url", BASE_URL], env)).code).toBe(0);
    expect(await runJson(["estimate", "--version", "2"], env)).toMatchObject({
      code: 0,
      answer: { current: 0, counted: "estimated", texts: expect.any(Number), cost_usd: 0 },
    });
    expect(await runJson(["backfill", "--version", "1"], env)).toMatchObject({
      code: 0,
      answer: { state: "ready", pending: 0 },
    });
    expect(await runJson(["backfill", "--version", "2"], env)).toMatchObject({
      code: 0,
      answer: { state: "ready", pending: 0 },
    });
    expect(await runJson(["cutover", "--version", "2", "--force", "--reason", "a test"], env)).toMatchObject({
      code: 0,
      answer: { to: 2 },
    });
    const { answer } = await runJson(["search", "resolving conflicts", "--count", "2"], env);
    expect(answer).toMatchObject({
      version: 2,
      results: [{ url: expect.stringContaining("09-conflict.html") }, {}],
    });
  } finally {
    await stack.stop();
  }
});
