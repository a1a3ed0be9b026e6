/** The batch lane on the real server, against a provider over HTTP that fails in every way it can. */
import type { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openBatchStore } from "../../scripts/lib/batch-store.ts";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { paceOn, work } from "../../scripts/lib/move.ts";
import { type BatchOptions, type BatchReport, workBatches } from "../../supabase/functions/_shared/batch.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { createBatchProvider, createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { createQueue } from "../../supabase/functions/_shared/queue.ts";
import { runCli, runJson, startCli } from "../support/cli.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { readLedger, wrongVectors } from "../support/paid.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const SPACE = "openai/text-embedding-3-small@384";
/** Dollars per million tokens: a token costs a dollar, in a batch half of one. */
const PRICE = 1_000_000;
const ROWS = 24;
const TEXTS = 18;

describePostgres("the batch lane", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let db: Database;
  let client: Client;
  let versionId: number;

  beforeEach(async () => {
    [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    db = await openDatabase(database.url);
    client = await connect(database.url);
    await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, $1)", [PRICE]);
    await db.query("select reembed.set_space('course_content', 1, $1)", [SPACE]);
    await db.query("drop index public.course_content_embedding_hnsw");
    // Six texts stand in two rows each.
    await db.query(
      `insert into public.course_content (title, content)
       select 'Section', 'What the course says about topic ' || 100 + n % $1 from generate_series(0, $2 - 1) n`,
      [TEXTS, ROWS],
    );
    await past();
    const [row] = await db.query<{ id: number }>("select (reembed.version_numbered('course_content', 1)).id");
    versionId = row?.id ?? 0;
  });
  afterEach(async () => {
    await Promise.all([db?.close(), client?.end(), openai?.close()]);
    await database?.drop();
  });

  /** As if a minute had gone by: edits that nobody took are for a batch now, and no process drives one. */
  async function past(): Promise<void> {
    await db.query(
      "update reembed.jobs set enqueued_at = enqueued_at - interval '2 minutes', run_at = least(run_at, now()) where lease_token is null",
    );
    await db.query("update reembed.batches set driver_until = '-infinity' where driver is not null");
  }

  type Ports = Parameters<typeof workBatches>[0];
  function ports(of: Database = db): Ports {
    const { url: baseURL, apiKey } = openai;
    return {
      store: openBatchStore(of, { id: versionId, spaceId: SPACE }),
      provider: createBatchProvider(spaceOf(), { openai: { apiKey, baseURL } }),
      queue: createQueue(of.rpc, of.vectorForm),
      now: () => performance.now(),
      wait: () => past(),
    };
  }
  const spaceOf = () => ({
    id: SPACE,
    provider: "openai",
    model: "text-embedding-3-small",
    dimensions: 384,
    query_prefix: "",
    document_prefix: "",
    max_input_tokens: 8191,
  });
  const run = (options: Partial<BatchOptions> = {}, overridden: Partial<Ports> = {}): Promise<BatchReport> =>
    workBatches(
      { ...ports(), ...overridden },
      {
        versionId: 0,
        pace: paceOn(db, undefined),
        batch: 1000,
        limit: 0,
        intervalMs: 1000,
        listingMs: 0,
        signal: new AbortController().signal,
        onRound: () => {},
        onWait: () => {},
        ...options,
      },
    );

  const workSync = () => {
    const { url: baseURL, apiKey } = openai;
    return work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {});
  };

  /** Every row has the vector of its text, no law is broken, nothing is open, and the ledger and the budget say what was billed. */
  async function expectWhole(expected: { lost?: number; sync?: number } = {}): Promise<void> {
    expect(await wrongVectors(client, 384)).toEqual([]);
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
    expect(await db.query("select reembed.open_batches() as open")).toEqual([{ open: [] }]);
    expect(await db.query("select from reembed.batch_items")).toEqual([]);
    expect(await db.query("select from reembed.jobs")).toEqual([]);
    const ledger = await readLedger(client);
    expect(ledger).toMatchObject({ open: 0, lost: expected.lost ?? 0 });
    expect(ledger.settled).toBe(openai.batches.tokensBilled + openai.stats().tokensBilled);
    expect(openai.stats().tokensBilled > 0).toBe((expected.sync ?? 0) > 0);
    const [cost] = await db.query<{ batch: number; sync: number; tokens: number }>(
      `select coalesce(sum(cost_usd) filter (where lane = 'batch'), 0)::float8 as batch, coalesce(sum(cost_usd) filter (where lane = 'sync'), 0)::float8 as sync,
              coalesce(sum(tokens) filter (where lane = 'batch'), 0)::float8 as tokens from reembed.usage`,
    );
    expect(cost?.batch).toBe((cost?.tokens ?? 0) / 2);
    expect(cost?.sync).toBe(openai.stats().tokensBilled);
  }
  const boughtOnce = () => {
    expect(new Set(openai.batches.bought).size).toBe(openai.batches.bought.length);
  };

  test("ends with the table of the synchronous lane, each text bought once, at half the price", async () => {
    const report = await run();
    expect(report).toMatchObject({
      ended: "done",
      counts: { done: ROWS, requests: 1, failed: 0, error: null },
    });
    expect(openai.batches.bought).toHaveLength(TEXTS);
    expect(openai.batches.made).toHaveLength(1);
    await expectWhole();
    const [usage] = await db.query(
      "select inputs, stale, lane, outcome, latency_ms >= 0 as timed from reembed.usage",
    );
    expect(usage).toEqual({ inputs: TEXTS, stale: 0, lane: "batch", outcome: "ok", timed: true });
    expect(await run()).toMatchObject({ ended: "done", counts: { done: 0 } });
    expect(openai.batches.made).toHaveLength(1);
  });

  test("several batches; equal texts across them are copied; a limit ends the gathering", async () => {
    expect(await run({ batch: 5, limit: 10 })).toMatchObject({ ended: "limit", counts: { requests: 2 } });
    expect(await run({ batch: 5 })).toMatchObject({ ended: "done" });
    expect(openai.batches.bought).toHaveLength(TEXTS);
    expect(openai.batches.made.length).toBeGreaterThanOrEqual(4);
    await expectWhole();
  });

  test("a fresh edit is left to the synchronous lane, and a failed job as well", async () => {
    await db.query(
      "update reembed.jobs set enqueued_at = now() where row_id = (select min(row_id) from reembed.jobs)",
    );
    await db.query(
      "update reembed.jobs set attempts = 1 where row_id = (select max(row_id) from reembed.jobs)",
    );
    const wait = async () => {};
    expect(await run({}, { wait })).toMatchObject({ ended: "done", counts: { done: ROWS - 2 } });
    expect(await workSync()).toMatchObject({ ended: "idle" });
    expect(await wrongVectors(client, 384)).toEqual([]);
  });

  test("blank and over-long texts follow the collection's policy", async () => {
    await db.query(
      "insert into public.course_content (title, content) values ('', ' '), ('Long', repeat('word ', 10000))",
    );
    await past();
    expect(await run()).toMatchObject({ ended: "done", counts: { skipped: 1, done: ROWS + 1 } });
    const records = await db.query(
      "select truncated, skipped from reembed.records where truncated or skipped is not null order by 1",
    );
    expect(records).toEqual([
      { truncated: false, skipped: "empty" },
      { truncated: true, skipped: null },
    ]);
    await db.query("update reembed.collections set long_text = 'fail'");
    await db.query(
      "insert into public.course_content (title, content) values ('Longer', repeat('words ', 10000))",
    );
    await past();
    const made = openai.batches.made.length;
    expect(await run()).toMatchObject({ ended: "done", counts: { failed: 1 } });
    expect(openai.batches.made).toHaveLength(made);
    const [job] = await db.query<{ error: string }>(
      "select error from reembed.jobs where failed_at is not null",
    );
    expect(job?.error).toMatch(/^the text is longer than the 8191 tokens/);
  });

  for (const kind of ["slow", "disordered"] as const) {
    test(`a ${kind} batch comes home whole`, async () => {
      openai.batches.fates.push(kind === "slow" ? { kind, polls: 5 } : { kind });
      expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS } });
      boughtOnce();
      await expectWhole();
    });
  }

  test("an expired batch: what it brought is stored, the rest goes into the next one", async () => {
    openai.batches.fates.push({ kind: "expired", linesDone: 7 });
    expect(await run()).toMatchObject({
      ended: "done",
      counts: { done: ROWS, error: expect.stringContaining("expired") },
    });
    expect(openai.batches.made).toHaveLength(2);
    boughtOnce();
    await expectWhole();
  });

  test("a batch that somebody cancelled is not submitted again unasked", async () => {
    openai.batches.fates.push({ kind: "cancelled", linesDone: 4 });
    expect(await run()).toMatchObject({ ended: "provider_failed" });
    expect(openai.batches.made).toHaveLength(1);
    expect(await run()).toMatchObject({ ended: "done" });
    boughtOnce();
    await expectWhole();
  });

  test("a refused file: nothing is bought, every job is kept, the run says why", async () => {
    openai.batches.fates.push({ kind: "refused", code: "invalid_file_format" });
    expect(await run()).toMatchObject({
      ended: "provider_failed",
      counts: { released: ROWS, error: `${SPACE}: the provider refused the batch (invalid_file_format)` },
    });
    expect(await db.query("select from reembed.jobs where attempts > 0 or lease_token is not null")).toEqual(
      [],
    );
    expect(await readLedger(client)).toEqual({ settled: 0, lost: 0, open: 0, stale: 0, lost_inputs: 0 });
    expect(await run()).toMatchObject({ ended: "done" });
    await expectWhole();
  });

  test("a full queue at the provider: smaller batches", async () => {
    const code = "token_limit_exceeded";
    openai.batches.fates.push({ kind: "refused", code }, { kind: "refused", code });
    expect(await run({ batch: ROWS })).toMatchObject({ ended: "done" });
    const lines = openai.batches.uploads.map((text) => text.trim().split("\n").length);
    expect(lines[0]).toBe(TEXTS);
    // Half of it twice; then, of the half that was refused as well, halves.
    expect(lines.length).toBeGreaterThanOrEqual(5);
    expect(Math.max(...lines.slice(3))).toBeLessThanOrEqual(ROWS / 4);
    boughtOnce();
    await expectWhole();
  });

  test("no credit pauses the space with the reason", async () => {
    openai.batches.fates.push({ kind: "refused", code: "billing_hard_limit_reached" });
    expect(await run()).toMatchObject({ ended: "paused" });
    const [space] = await db.query("select pause_reason from reembed.spaces where paused_until is not null");
    expect(space).toEqual({
      pause_reason: `${SPACE}: the provider refused the batch (billing_hard_limit_reached)`,
    });
    expect(await run()).toMatchObject({ ended: "paused" });
    await db.query("select reembed.resume_space($1)", [SPACE]);
    expect(await run()).toMatchObject({ ended: "done" });
    await expectWhole();
  });

  test("lines that the provider refuses go to the synchronous lane, those refused for their rate into the next batch", async () => {
    openai.batches.fates.push({ kind: "line_errors", match: "topic 101", status: 400, code: null });
    expect(await run()).toMatchObject({ ended: "done", counts: { retried: 2, done: ROWS - 2 } });
    const [job] = await db.query("select distinct error, attempts from reembed.jobs");
    expect(job).toEqual({ error: `${SPACE}: the provider answered 400, in a batch`, attempts: 1 });
    await workSync();
    await expectWhole({ sync: 1 });
  });

  test("a line refused for its rate goes into the next batch", async () => {
    openai.batches.fates.push({
      kind: "line_errors",
      match: "topic 10",
      status: 429,
      code: "rate_limit_exceeded",
    });
    expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS } });
    expect(openai.batches.made).toHaveLength(2);
    await expectWhole();
  });

  test("a line that never comes stands in the ledger as lost, a vector that is no good as paid; both are bought anew", async () => {
    // Each text in one row: of one that stands in two, both would be retried.
    await db.query(
      "delete from public.course_content a using public.course_content b where a.content = b.content and a.id > b.id",
    );
    openai.batches.fates.push({ kind: "missing_line" });
    expect(await run({ limit: TEXTS })).toMatchObject({ counts: { retried: 1 } });
    openai.batches.fates.push({ kind: "bad_vector" });
    await db.query("update public.course_content set content = content || '!'");
    await past();
    expect(await run()).toMatchObject({ ended: "done" });
    expect((await workSync()).failed).toBe(0);
    const ledger = await readLedger(client);
    expect(ledger.lost).toBeGreaterThan(0);
    // What was billed and never seen stands there by its estimate.
    expect(ledger.stale).toBe(1);
    expect(await wrongVectors(client, 384)).toEqual([]);
    expect(await db.query("select from reembed.jobs")).toEqual([]);
  });

  const REQUEST_FAULTS = ["upload", "create", "retrieve", "content", "list"] as const;
  for (const at of REQUEST_FAULTS) {
    for (const as of [
      "lost",
      "half",
      { status: 429, code: "rate_limit_exceeded" },
      { status: 503, code: null },
    ] as const) {
      const what = typeof as === "string" ? as : as.status;
      test(`${at}: ${what === "lost" ? "its answer is lost" : what === "half" ? "its answer breaks" : what}, once; one batch is bought`, async () => {
        // A list is only asked for where an answer was lost.
        if (at === "list") openai.batches.faults.push({ at: "create", as: "lost" });
        openai.batches.faults.push({ at, as });
        expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS } });
        expect(openai.batches.faults).toEqual([]);
        boughtOnce();
        expect(openai.batches.made).toHaveLength(1);
        await expectWhole();
      });
    }
  }

  test("a provider that has not listed the batch yet is given time before it is made again", async () => {
    openai.batches.faults.push({ at: "create", as: "lost" });
    const { provider } = ports();
    let isListed = false;
    const slow: typeof provider = {
      ...provider,
      find: async (ours, since) => (isListed ? provider.find(ours, since) : []),
    };
    let waits = 0;
    const wait = async () => {
      waits += 1;
      isListed = waits > 3;
    };
    expect(await run({ listingMs: 60_000 }, { provider: slow, wait })).toMatchObject({ ended: "done" });
    expect(openai.batches.made).toHaveLength(1);
    await expectWhole();
  });

  test("one that was never made is made again after that time", async () => {
    openai.batches.faults.push({ at: "create", as: { status: 503, code: null } });
    let waits = 0;
    const wait = async () => {
      waits += 1;
      if (waits < 3) expect(openai.batches.made).toEqual([]);
      else await db.query("update reembed.batches set creating_at = creating_at - interval '2 minutes'");
    };
    expect(await run({ listingMs: 60_000 }, { wait })).toMatchObject({ ended: "done" });
    expect(openai.batches.made).toHaveLength(1);
    await expectWhole();
  });

  test("a row that the application holds all the time: its result is given up, counted as paid, and bought anew", async () => {
    const app = await connect(database.url);
    await app.query("begin");
    await app.query("select from public.course_content where content like '%topic 108' for update");
    let clock = 0;
    const now = () => {
      clock += 10_000;
      return clock;
    };
    expect(await run({ limit: ROWS }, { now })).toMatchObject({
      ended: "limit",
      counts: { busy: 1, done: ROWS - 1 },
    });
    await app.query("rollback");
    await app.end();
    expect(await readLedger(client)).toMatchObject({ stale: 1, open: 0 });
    await past();
    expect(await run()).toMatchObject({ ended: "done", counts: { done: 1 } });
    await expectWhole();
  });

  test("a server without this interface is told so, its jobs are kept and its space goes on", async () => {
    openai.batches.faults.push({ at: "upload", as: { status: 404, code: null } });
    expect(await run()).toMatchObject({
      ended: "provider_failed",
      counts: { error: expect.stringContaining("404") },
    });
    expect(await db.query("select from reembed.spaces where paused_until is not null")).toEqual([]);
    expect(await workSync()).toMatchObject({ ended: "idle" });
    await expectWhole({ sync: 1 });
  });

  test("rows that are edited and deleted meanwhile: their results are counted and in the ledger, never stored", async () => {
    openai.batches.fates.push({ kind: "slow", polls: 1 });
    let rounds = 0;
    const wait = async () => {
      rounds += 1;
      if (rounds > 1) return;
      await db.query("update public.course_content set content = 'Edited' where content like '%topic 108'");
      await db.query("delete from public.course_content where content like '%topic 109'");
      // Twice: back to the text that was bought.
      await db.query(
        "update public.course_content set content = content || '?' where content like '%topic 110'",
      );
      await db.query(
        "update public.course_content set content = rtrim(content, '?') where content like '%topic 110?'",
      );
    };
    const report = await run({}, { wait });
    expect(report).toMatchObject({
      ended: "done",
      counts: { stale: 1, gone: 1, lost_lease: 1, done: ROWS - 3 },
    });
    expect(await readLedger(client)).toMatchObject({ stale: 3, open: 0 });
    expect(await workSync()).toMatchObject({ ended: "idle", done: 2 });
    await expectWhole({ sync: 1 });
  });

  test("a budget is reserved at half the price; when it is spent the run says which", async () => {
    await db.query("select reembed.set_budget('course_content', 'day', 60)");
    const report = await run();
    expect(report).toMatchObject({
      ended: "budget",
      counts: { error: expect.stringContaining("the budget of course_content for the day") },
    });
    const [budget] = await db.query<{ spent: number; reserved: number }>(
      "select spent_usd::float8 as spent, reserved_usd::float8 as reserved from reembed.budgets",
    );
    expect(budget).toEqual({ spent: openai.batches.tokensBilled / 2, reserved: 0 });
    // At the full price it would have bought half as much.
    expect(budget?.spent).toBeGreaterThan(30);
    expect(budget?.spent).toBeLessThanOrEqual(60);
    await db.query("select reembed.set_budget('course_content', 'day', null)");
    expect(await run()).toMatchObject({ ended: "done" });
    boughtOnce();
    await expectWhole();
  });

  test("an open batch takes nothing of the synchronous lane's rate", async () => {
    await db.query("update reembed.spaces set max_in_flight = 1 where id = $1", [SPACE]);
    const stopping = new AbortController();
    await run({ signal: stopping.signal, onRound: () => stopping.abort() });
    const [open] = await db.query<{
      open: { rows: number; reserved_usd: number; state: string; driven: boolean }[];
    }>("select reembed.open_batches() as open");
    expect(open?.open).toMatchObject([{ rows: ROWS, state: "submitted", requests: TEXTS, driven: false }]);
    expect(open?.open[0]?.reserved_usd).toBeGreaterThan(0);
    await db.query("insert into public.course_content (title, content) values ('New', 'edit')");
    expect(await workSync()).toMatchObject({ done: 1, wait_ms: 0 });
    expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS } });
    await expectWhole({ sync: 1 });
  });

  test("while a batch is open, workers leave the backfill to the batch lane, and the synchronous backfill is refused", async () => {
    await db.query("update reembed.jobs set priority = 1");
    const store = ports().store;
    await store.leave((await store.start()) ?? "");
    expect(await ports().store.start()).toBeNull();
    expect(await workSync()).toMatchObject({ ended: "busy", done: 0 });
    const refused = await runCli(
      ["backfill", "--collection", "course_content", "--version", "1"],
      environment(),
    );
    expect(refused).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("the version has an open batch"),
    });
    expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS } });
    await expectWhole();
    // One that nobody came back for holds nothing for ever.
    await db.query("update public.course_content set content = content || '!'");
    await db.query("update reembed.jobs set priority = 1");
    await store.start();
    await db.query("update reembed.batches set created_at = created_at - interval '3 days'");
    expect(await workSync()).toMatchObject({ ended: "idle" });
    expect(await wrongVectors(client, 384)).toEqual([]);
  });

  test("two processes at once submit once", async () => {
    const other = await openDatabase(database.url);
    const [one, two] = await Promise.all([run(), run({}, ports(other))]);
    await other.close();
    expect([one.ended, two.ended]).toEqual(["done", "done"]);
    expect(one.counts.done + two.counts.done).toBe(ROWS);
    boughtOnce();
    expect(openai.batches.made).toHaveLength(1);
    await expectWhole();
  });

  test("a process that is asked away for a moment, while another looks whether it may drive the batch, goes on", async () => {
    const { store } = ports();
    let isFirst = true;
    const interrupted: typeof store = {
      ...store,
      gather: async (...args) => {
        if (isFirst) {
          isFirst = false;
          throw new ReembedError("busy", "the batch is driven by another process", "Look again later.");
        }
        return store.gather(...args);
      },
    };
    expect(await run({}, { store: interrupted })).toMatchObject({ ended: "done" });
    boughtOnce();
    await expectWhole();
  });

  test("a process that was halted while another submitted cancels its own", async () => {
    const { provider } = ports();
    let isFirst = true;
    const halted: typeof provider = {
      ...provider,
      create: async (fileId, ours) => {
        if (isFirst) {
          isFirst = false;
          // Its time as the driver runs out; another process goes on to the end of submitting.
          await past();
          const stopping = new AbortController();
          await run({ signal: stopping.signal, onRound: () => stopping.abort() });
        }
        return provider.create(fileId, ours);
      },
    };
    expect(await run({}, { provider: halted })).toMatchObject({ ended: "done" });
    expect(openai.batches.made.map(({ status }) => status)).toEqual(["completed", "cancelling"]);
    boughtOnce();
    await expectWhole();
  });

  test("a batch that the provider has forgotten is given up by the operator alone", async () => {
    const stopping = new AbortController();
    await run({ signal: stopping.signal, onRound: () => stopping.abort() });
    await db.query("update reembed.batches set provider_id = 'batch_of_another_project'");
    await expect(run()).rejects.toMatchObject({
      code: "provider_rejected",
      hint: expect.stringContaining("select reembed.give_up_batch('"),
    });
    await db.query("select reembed.give_up_batch(id) from reembed.batches");
    const ledger = await readLedger(client);
    expect(ledger.lost).toBeGreaterThan(0);
    expect(ledger).toMatchObject({ open: 0, settled: 0 });
    expect(await workSync()).toMatchObject({ ended: "idle" });
    expect(await wrongVectors(client, 384)).toEqual([]);
  });

  test("ended at any effect, before it or after it, the next run goes on and nothing is bought twice", async () => {
    // What each run of a healthy one does, in order; then a run for each of them that dies there.
    const effects = await dyingAt(Number.POSITIVE_INFINITY, "after");
    expect(effects).toBeGreaterThan(15);
    await expectWhole();
    for (let at = 1; at <= effects; at += 1) {
      for (const when of ["before", "after"] as const) {
        await db.query("update public.course_content set content = content || '.'");
        await past();
        openai.batches.bought.length = 0;
        const made = openai.batches.made.length;
        await dyingAt(at, when);
        await past();
        expect(await run(), `${when} effect ${at}`).toMatchObject({ ended: "done" });
        expect(openai.batches.made.length, `${when} effect ${at}`).toBe(made + 1);
        expect(openai.batches.bought, `${when} effect ${at}`).toHaveLength(TEXTS);
        expect(await wrongVectors(client, 384), `${when} effect ${at}`).toEqual([]);
      }
    }
    await expectWhole();
  });

  test("ended between two slices of the results, the next run stores the others; each token is counted once", async () => {
    await db.query(
      "insert into public.course_content (title, content) select 'More', 'What else it says about topic ' || n from generate_series(1, 300) n",
    );
    await past();
    const { store } = ports();
    let stored = 0;
    const dying: typeof store = {
      ...store,
      store: async (id, results, options) => {
        if (stored > 0) throw new Error("dead");
        const outcomes = await store.store(id, results, options);
        stored += outcomes.done;
        return outcomes;
      },
    };
    await expect(run({}, { store: dying })).rejects.toThrow("dead");
    expect(stored).toBeGreaterThan(0);
    await past();
    // The batch's own count, of both runs.
    expect(await run()).toMatchObject({ ended: "done", counts: { done: ROWS + 300, requests: 1 } });
    boughtOnce();
    await expectWhole();
  });

  /** Runs until so many effects on the database and the provider were had; then nothing of the process works any more. Returns how many there were. */
  async function dyingAt(last: number, when: "before" | "after"): Promise<number> {
    let count = 0;
    let isDead = false;
    const mortal = <T extends object>(target: T): T =>
      new Proxy(target, {
        get(of, name, receiver) {
          const value: unknown = Reflect.get(of, name, receiver);
          if (typeof value !== "function" || name === "line" || name === "answers") return value;
          return async (...args: unknown[]) => {
            if (isDead) throw new Error("dead");
            count += 1;
            isDead = count >= last;
            if (isDead && when === "before") throw new Error("dead");
            const answer: unknown = await value.apply(of, args);
            if (isDead) throw new Error("dead");
            return answer;
          };
        },
      });
    const { store, provider, queue } = ports();
    const ended = run({}, { store: mortal(store), provider: mortal(provider), queue: mortal(queue) });
    if (last === Number.POSITIVE_INFINITY) await ended;
    else await expect(ended).rejects.toThrow("dead");
    return count;
  }

  const environment = () => ({
    DATABASE_URL: database.url,
    OPENAI_API_KEY: openai.apiKey,
    OPENAI_BASE_URL: openai.url,
  });
  const backfill = [
    "backfill",
    "--collection",
    "course_content",
    "--version",
    "1",
    "--lane",
    "batch",
    "--interval",
    "1",
  ];

  test("reembed backfill --lane batch: to the end, edits of the last minute too", async () => {
    await db.query("insert into public.course_content (title, content) values ('New', 'edit')");
    const { code, answer, stderr } = await runJson(backfill, environment());
    expect(stderr).toContain(`of ${TEXTS} texts, ${ROWS} rows`);
    expect(answer).toMatchObject({ ended: "done", done: ROWS + 1, pending: 0, failed: 0 });
    expect(code).toBe(0);
    await expectWhole({ sync: 1 });
  });

  test("SIGTERM leaves the batch at the provider and says how to go on; SIGKILL as well without a word", async () => {
    openai.batches.fates.push({ kind: "slow", polls: 1000 });
    const first = startCli(backfill, environment());
    await first.said("in_progress");
    first.child.kill("SIGTERM");
    const { code, stderr } = await first.finished;
    expect(code).toBe(1);
    expect(stderr).toContain("run the same command again to collect them");
    expect(openai.batches.made).toMatchObject([{ status: "in_progress" }]);

    const second = startCli(backfill, environment());
    await second.said("in_progress");
    second.child.kill("SIGKILL");
    await second.finished;
    await past();
    openai.batches.finishNow();
    const third = await runCli(backfill, environment());
    expect(third.stdout).toContain(`${ROWS} rows embedded`);
    expect(third.code).toBe(0);
    expect(openai.batches.made).toHaveLength(1);
    await expectWhole();
  });

  test("wrong use: too large a batch, a space whose provider has no batches", async () => {
    const large = await runCli([...backfill, "--batch", "50001"], environment());
    expect(large.code).toBe(2);
    const sync = await runCli(
      ["backfill", "--collection", "course_content", "--batch", "3000"],
      environment(),
    );
    expect(sync).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("in the sync lane it must be a whole number from 1 to 2048"),
    });
    await db.query("select reembed.add_space('hash', 'words-and-ngrams', 384)");
    await db.query("select reembed.set_space('course_content', 1, 'hash/words-and-ngrams@384')");
    const hash = await runCli(backfill, environment());
    expect(hash.code).toBe(1);
    expect(hash.stderr).toContain("the provider hash has no batch interface");
  });
});
