/** A whole backfill on the real server, against a provider that fails in every way it can: the same table, the same money. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import type { SliceReport } from "../../supabase/functions/_shared/worker.ts";
import { type FakeOpenAI, type FaultRule, startFakeOpenAI } from "../support/fake-openai.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

const ROWS = 300;
const SPACE = "openai/text-embedding-3-small@384";

describePostgres("a backfill", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let db: Database;

  beforeEach(async () => {
    [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    db = await openDatabase(database.url);
    await db.query("select reembed.add_space('openai', 'text-embedding-3-small', 384, 0.02, 0.25)");
    await db.query("select reembed.set_space('course_content', 1, $1)", [SPACE]);
    // The index is another test's business, and slow to fill.
    await db.query("drop index public.course_content_embedding_hnsw");
    // Every tenth text stands twice, every fiftieth row is blank.
    await db.query(
      `insert into public.course_content (title, content)
       select case when n % 50 = 0 then '' else format('Section %s', n - n % 10 / 9) end,
              case when n % 50 = 0 then ' ' else format('What the course says about topic %s.', n - n % 10 / 9) end
         from generate_series(1, $1) n`,
      [ROWS],
    );
  });
  afterEach(async () => {
    await Promise.all([db?.close(), openai?.close()]);
    await database?.drop();
  });

  const slice = (timeoutMs = 60_000, apiKey = openai.apiKey): Promise<SliceReport> => {
    const { url: baseURL } = openai;
    return work(
      db,
      (space) => {
        const embedder = createEmbedder(space, { openai: { apiKey, baseURL } });
        return {
          space,
          embed: (inputs, options) =>
            embedder.embed(inputs, { ...options, signal: AbortSignal.timeout(timeoutMs) }),
        };
      },
      { batch: 40 },
    );
  };

  /** Slices until nothing is left; what was put off is due at once, and a pause is ended as an operator would. */
  async function workOff(timeoutMs?: number): Promise<SliceReport[]> {
    const reports: SliceReport[] = [];
    for (let slices = 0; slices < 100; slices += 1) {
      reports.push(await slice(timeoutMs));
      if (reports.at(-1)?.ended === "paused") await db.query("select reembed.resume_space($1)", [SPACE]);
      await db.query("update reembed.jobs set run_at = now() where lease_token is null");
      const [left] = await db.query<{ n: number }>(
        "select count(*)::int as n from reembed.jobs where failed_at is null",
      );
      if (left?.n === 0) return reports;
    }
    throw new Error(`not done after 100 slices: ${JSON.stringify(reports.at(-1))}`);
  }

  /** Every row has the vector of its text in full, as the fake gives it, and law 2 holds. */
  async function expectAllStored(): Promise<void> {
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
    const rows = await db.query<{ text: string; vector: string | null; skipped: string | null }>(
      `select reembed.course_content_input(c) as text, c.embedding::text as vector, r.skipped
         from public.course_content c join reembed.records r on r.row_id = c.id::text and r.version_id = 1`,
    );
    expect(rows).toHaveLength(ROWS);
    openai.faults.clear();
    const embedder = createEmbedder(
      {
        id: SPACE,
        provider: "openai",
        model: "text-embedding-3-small",
        dimensions: 384,
        query_prefix: "",
        document_prefix: "",
        max_input_tokens: 8192,
      },
      { openai: { apiKey: openai.apiKey, baseURL: openai.url } },
    );
    const written = rows.filter(({ skipped }) => skipped === null);
    const { vectors } = await embedder.embed(
      written.map(({ text }) => text),
      { purpose: "document" },
    );
    for (const [index, { vector }] of written.entries()) {
      const stored: number[] = JSON.parse(vector ?? "null");
      const apart = Math.hypot(...stored.map((value, at) => value - (vectors[index]?.[at] ?? 0)));
      expect(apart).toBeLessThan(1e-5);
    }
    for (const { text, vector } of rows.filter(({ skipped }) => skipped !== null)) {
      expect([text.trim(), vector]).toEqual(["", null]);
    }
  }

  /** What the ledger says was paid, by state. */
  async function ledger(): Promise<{ settled: number; lost: number; reserved: number; ok: number }> {
    const [row] = await db.query<{ settled: number; lost: number; reserved: number; ok: number }>(
      `select coalesce(sum(tokens) filter (where state = 'settled'), 0)::int as settled,
              coalesce(sum(tokens) filter (where state = 'lost'), 0)::int as lost,
              coalesce(sum(tokens) filter (where outcome = 'ok'), 0)::int as ok,
              count(*) filter (where state = 'reserved')::int as reserved from reembed.usage`,
    );
    if (row === undefined) throw new Error("the ledger answered nothing");
    return row;
  }

  /** Tokens that the fake billed, by whether the client could know it. */
  function billed() {
    const { log, tokensBilled } = openai.stats();
    const delivered = log.filter((entry) => entry.delivered).reduce((sum, entry) => sum + entry.billed, 0);
    return { all: tokensBilled, delivered };
  }

  test("without faults sends a claim's equal texts once and pays exactly what the provider bills", async () => {
    await workOff();
    const paid = await ledger();
    expect(paid).toEqual({ settled: billed().all, ok: billed().all, lost: 0, reserved: 0 });
    for (const { inputs } of openai.stats().log) {
      expect(new Set(inputs.map(({ hash }) => hash)).size).toBe(inputs.length);
    }
    await expectAllStored();
  });

  test("of blank texts alone sends nothing, and its claims are settled", async () => {
    await db.query("truncate public.course_content");
    await db.query(
      "insert into public.course_content (title, content) select '', ' ' from generate_series(1, 50)",
    );
    expect(await slice()).toMatchObject({ ended: "idle", skipped: 50, requests: 0 });
    expect(await ledger()).toEqual({ settled: 0, ok: 0, lost: 0, reserved: 0 });
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
  });

  const FAULTS: FaultRule["fault"][] = [
    { kind: "latency", ms: 20 },
    { kind: "rate_limit", retryAfterSeconds: 3 },
    { kind: "insufficient_quota" },
    { kind: "server_error" },
    { kind: "server_error", status: 502 },
    { kind: "cut", when: "before_answer" },
    { kind: "cut", when: "in_answer" },
    { kind: "half_json" },
    { kind: "shuffled" },
    { kind: "missing_vector" },
    { kind: "duplicate_index" },
    { kind: "wrong_width" },
    { kind: "nan" },
    { kind: "zero_vector" },
    { kind: "bad_request" },
    { kind: "never" },
  ];
  /** For one request: long enough for the fake on a busy machine, short enough to sit out those that it never answers. */
  const TIMEOUT_MS = 2_000;

  /** Rows that failed because the provider refused their request are sent again, now that it refuses no more. */
  async function retryFailed(): Promise<void> {
    const [row] = await db.query<{ n: number }>("select reembed.retry() as n");
    if (row?.n === 0) return;
    openai.faults.clear();
    await workOff(TIMEOUT_MS);
  }

  test.each(FAULTS.map((fault) => [JSON.stringify(fault), fault] as const))(
    "with %s now and then ends with the same table, all of it paid for in the ledger",
    async (_, fault) => {
      // Each that is never answered costs the whole time-out.
      openai.faults.add({ fault, probability: fault.kind === "never" ? 0.15 : 0.3, seed: 3 });
      await workOff(TIMEOUT_MS);
      expect(openai.stats().log.filter((entry) => entry.fault === fault.kind).length).toBeGreaterThan(0);
      await retryFailed();
      await expectLedgerTells();
      await expectAllStored();
    },
  );

  /** Stated tokens to the token; what nobody stated is estimated, a quarter token a byte and one more for each text. */
  async function expectLedgerTells(): Promise<void> {
    const { settled, lost, reserved } = await ledger();
    const { all } = billed();
    const requests = openai.stats().log;
    expect(reserved).toBe(0);
    const unstated = requests
      .filter(({ billed, fault, delivered }) => billed > 0 && (!delivered || fault === "half_json"))
      .reduce((sum, { billed }) => sum + billed, 0);
    expect(settled).toBe(all - unstated);
    if (unstated > 0) expect(lost).toBeGreaterThanOrEqual(unstated);
    // A gateway's error may have been paid or not: it stands as lost, never as free.
    else if (!requests.some(({ status }) => status === 502)) expect(lost).toBe(0);
  }

  test("with a provider that never answers gives up, says lost, and ends with the same table", async () => {
    openai.faults.add({ fault: { kind: "never" } });
    const reports = await workOff(300);
    expect(reports[0]).toMatchObject({ ended: "stopped", done: 0 });
    const { settled, lost } = await ledger();
    expect(settled).toBe(billed().delivered);
    expect(settled + lost).toBeGreaterThanOrEqual(billed().all);
    await expectAllStored();
  });

  test.each([1, 2, 3])("with all faults mixed ends with the same table, seed %i", async (seed) => {
    openai.faults.add(
      ...FAULTS.map((fault, index) => ({ fault, probability: 0.06, seed: seed * 100 + index })),
    );
    await workOff(TIMEOUT_MS);
    expect(openai.stats().log.some(({ fault }) => fault !== undefined)).toBe(true);
    await retryFailed();
    await expectLedgerTells();
    await expectAllStored();
  });

  test("with one poisonous text stores all others and fails that one alone, with the reason; retry gives it another chance", async () => {
    openai.faults.add({ fault: { kind: "bad_request" }, match: "topic 123.", times: "always" });
    await workOff();
    const failed = await db.query(
      "select c.content, j.error from reembed.jobs j join public.course_content c on c.id::text = j.row_id where j.failed_at is not null",
    );
    expect(failed).toEqual([
      { content: expect.stringContaining("topic 123."), error: expect.stringContaining("answered 400") },
    ]);
    expect(JSON.stringify(failed[0]?.error)).not.toContain("topic");
    expect(await db.query("select * from reembed.violations()")).toEqual([]);
    const [stored] = await db.query(
      "select count(*)::int as n from public.course_content where embedding is not null",
    );
    expect(stored?.n).toBe(ROWS - ROWS / 50 - 1);

    const sent = openai.stats().requests;
    expect(await slice()).toMatchObject({ ended: "idle", requests: 0 });
    await retryFailed();
    expect(openai.stats().requests).toBe(sent + 1);
    await expectLedgerTells();
    await expectAllStored();
  });

  test.each([
    ["without credit", "insufficient_quota", /answered 429 \(insufficient_quota\).*quota/],
    ["that refuses the key", "wrong key", /answered 401.*Incorrect API key/],
  ])(
    "with an account %s pauses the space, keeps every job, and a resume finishes",
    async (_, cause, reason) => {
      if (cause === "insufficient_quota") {
        openai.faults.add({ fault: { kind: "insufficient_quota" }, times: "always" });
      }
      const key = cause === "wrong key" ? "sk-wrong-key-of-nobody" : openai.apiKey;
      const report = await slice(TIMEOUT_MS, key);
      expect(report).toMatchObject({
        ended: "paused",
        done: 0,
        failed: 0,
        error: expect.stringMatching(reason),
      });
      const [space] = await db.query<{ reason: string; forever: boolean }>(
        "select pause_reason as reason, paused_until = 'infinity' as forever from reembed.spaces where id = $1",
        [SPACE],
      );
      expect(space).toEqual({ reason: report.error, forever: true });
      expect(space?.reason).not.toContain("sk-wrong");
      const jobs = `select count(*)::int as n, max(attempts)::int as attempts, count(lease_token)::int as leased,
                         count(failed_at)::int as failed from reembed.jobs`;
      expect((await db.query(jobs))[0]).toEqual({
        n: ROWS - report.skipped,
        attempts: 0,
        leased: 0,
        failed: 0,
      });
      const asked = openai.stats().requests;
      expect(await slice(TIMEOUT_MS, key)).toMatchObject({ ended: "paused", requests: 0 });
      expect(openai.stats().requests).toBe(asked);

      openai.faults.clear();
      await db.query("select reembed.resume_space($1)", [SPACE]);
      await workOff();
      expect((await ledger()).settled).toBe(billed().all);
      await expectAllStored();
    },
  );

  test("whose provider takes smaller requests than were planned halves them, and pays nothing twice", async () => {
    await openai.close();
    openai = await startFakeOpenAI({ tokensPerRequest: 200 });
    await workOff();
    const { log } = openai.stats();
    expect(log.length).toBeGreaterThan(ROWS / 40);
    expect(Math.max(...log.map(({ billed }) => billed))).toBeLessThanOrEqual(200);
    const bought = log.filter(({ billed }) => billed > 0).reduce((sum, { inputs }) => sum + inputs.length, 0);
    expect(bought).toBeLessThanOrEqual(ROWS - ROWS / 50);
    expect(await ledger()).toMatchObject({ settled: billed().all, lost: 0, reserved: 0 });
    // The comparison asks for all vectors at once.
    await openai.close();
    openai = await startFakeOpenAI();
    await expectAllStored();
  });

  test("whose worker is killed in the middle of a request loses nothing", async () => {
    // One of its requests hangs: the worker is killed while it waits for the answer.
    openai.faults.add({ fault: { kind: "never" }, match: "topic 55." });
    const worker = spawn(
      process.execPath,
      [
        fileURLToPath(new URL("../support/backfill-process.ts", import.meta.url)),
        database.url,
        openai.url,
        openai.apiKey,
      ],
      { stdio: ["ignore", "ignore", "inherit"] },
    );
    const exited = once(worker, "exit");
    // Whichever of its requests it is, be it the first: rows of one insert have no order among them.
    const hangs = await Promise.race([openai.arrival(({ fault }) => fault === "never"), exited]);
    expect(hangs).toMatchObject({ fault: "never" });
    worker.kill("SIGKILL");
    expect((await exited)[1]).toBe("SIGKILL");

    const [held] = await db.query(
      "select count(*)::int as n from reembed.jobs where lease_token is not null",
    );
    expect(held?.n).toBeGreaterThan(0);
    expect(await slice()).toMatchObject({ ended: "idle" });
    expect(await db.query("select * from reembed.violations()")).toEqual([]);

    await db.query(
      "update reembed.jobs set lease_until = now() - interval '1 minute', run_at = now() - interval '1 minute' where lease_token is not null",
    );
    await db.query(
      "update reembed.usage set lease_until = now() - interval '1 minute' where state = 'reserved'",
    );
    await workOff();
    const paid = await ledger();
    expect(paid.settled).toBe(billed().delivered);
    expect(paid.reserved).toBe(0);
    // The reservation of the dead worker counts as spent.
    expect(paid.settled + paid.lost).toBeGreaterThanOrEqual(billed().all);
    expect(paid.lost).toBeGreaterThan(0);
    await expectAllStored();
  });
});
