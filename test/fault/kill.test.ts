/**
 * SIGKILL at any moment, under load: nothing is forgotten, nothing is wrong, and only what was in flight is paid twice. REEMBED_KILLS says how
 * often (5), REEMBED_KILL_SEED repeats the choices of a run.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Client } from "pg";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Database, openDatabase } from "../../scripts/lib/connection.ts";
import { work } from "../../scripts/lib/move.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import { type EditingApp, startEditingApp } from "../support/editing-app.ts";
import { type FakeOpenAI, startFakeOpenAI } from "../support/fake-openai.ts";
import { hashesOf, noteStored, purchasesOf, readLedger, storedTexts, wrongVectors } from "../support/paid.ts";
import { connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { Random } from "../support/random.ts";
import { seedFrom } from "../support/seed.ts";
import { startCliVictim, startEdgeVictim, type Victim } from "../support/victims.ts";

const KILLS = Number(process.env.REEMBED_KILLS ?? 5);
const SEED = seedFrom("REEMBED_KILL_SEED");
const ROWS = 400;
const DIMENSIONS = 384;
const SPACE = `openai/text-embedding-3-small@${DIMENSIONS}`;
/** What is killed, in turn. */
const DOORS = ["work", "the edge function", "backfill"] as const;

describePostgres("a worker that is killed under load", () => {
  let database: TestDatabase;
  let openai: FakeOpenAI;
  let client: Client;
  let appClient: Client;
  let db: Database;
  let victim: Victim | undefined;
  let app: EditingApp | undefined;

  beforeEach(async () => {
    held.texts.clear();
    held.unsettled.clear();
    [database, openai] = await Promise.all([createDatabase(), startFakeOpenAI()]);
    [client, appClient] = await Promise.all([connect(database.url), connect(database.url)]);
    db = await openDatabase(database.url);
    await client.query("select reembed.add_space('openai', 'text-embedding-3-small', $1, 0.02, 0.25)", [
      DIMENSIONS,
    ]);
    await client.query("select reembed.set_space('course_content', 1, $1)", [SPACE]);
    // The index is another test's business, and slow to fill.
    await client.query("drop index public.course_content_embedding_hnsw");
  });
  afterEach(async () => {
    await app?.stop();
    await victim?.close();
    [app, victim] = [undefined, undefined];
    await Promise.all([client?.end(), appClient?.end(), db?.close(), openai?.close()]);
    await database?.drop();
  });

  const start = (door: (typeof DOORS)[number]): Victim | Promise<Victim> => {
    switch (door) {
      case "work":
        return startCliVictim(["work", "--interval", "0.1"], database.url, openai);
      case "backfill":
        return startCliVictim(["backfill", "--version", "1", "--batch", "20"], database.url, openai);
      case "the edge function":
        return startEdgeVictim(database.url, openai);
    }
  };

  /** What the dead worker held: the texts under its leases, and by reservation the inputs of claims that it had completed and not settled. */
  const held = { texts: new Set<string>(), unsettled: new Map<string, number>() };

  /** As if the time of every lease, slot, reservation and retry were over. Nobody but the dead one holds a lease now. */
  async function letTimePass(): Promise<void> {
    // In one snapshot: what the dead one sent last may still arrive.
    const { rows } = await client.query<{ hash: string | null; usage_id: string | null; inputs: number }>(
      `select encode(lease_hash, 'hex') as hash, null as usage_id, 0 as inputs from reembed.jobs where lease_hash is not null
       union all
       select null, id::text, inputs from reembed.usage u
        where state = 'reserved' and not exists (select from reembed.jobs j where j.lease_token = u.lease_token)`,
    );
    for (const { hash, usage_id, inputs } of rows) {
      if (hash !== null) held.texts.add(hash);
      if (usage_id !== null) held.unsettled.set(usage_id, inputs);
    }
    await client.query(
      "update reembed.jobs set run_at = now() - interval '1 minute', lease_until = now() - interval '1 minute' where run_at > now()",
    );
    await client.query(
      "update reembed.usage set lease_until = now() - interval '1 minute' where state = 'reserved'",
    );
    await client.query("update reembed.worker_slots set until = '-infinity'");
  }

  const sliceHere = async () => {
    const { apiKey, url: baseURL } = openai;
    await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {});
  };

  /** Slices of other workers until no job is left. */
  async function finish(): Promise<void> {
    for (let slices = 0; slices < 100; slices += 1) {
      await letTimePass();
      await (victim?.slice ?? sliceHere)();
      if (slices === 0) await app?.stop();
      const { rows } = await client.query("select from reembed.jobs");
      if (rows.length === 0) return;
    }
    throw new Error("not done after 100 slices");
  }

  test.each(
    Array.from({ length: KILLS }, (_, run) => ({
      run: run + 1,
      seed: SEED + run,
      door: DOORS[run % DOORS.length] ?? "work",
    })),
  )("run $run: $door, seed $seed", async ({ door, seed }) => {
    const random = new Random(seed);
    openai.faults.add(
      { fault: { kind: "latency", ms: 30 }, times: "always" },
      { fault: { kind: "cut", when: "before_answer" }, probability: 0.04, seed },
      { fault: { kind: "cut", when: "in_answer" }, probability: 0.04, seed: seed + 1 },
    );
    await noteStored(client);
    app = await startEditingApp(appClient, random, ROWS);
    victim = await start(door);
    const after = { requests: random.between(1, 6), milliseconds: random.between(0, 150) };
    await openai.arrival(() => true, after.requests);
    // Not a wait for something: the moment of the kill is a point in time, between any two steps.
    await delay(after.milliseconds);
    await victim.kill();
    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);

    await finish();
    // A claim that finds nothing to do still closes what the dead one had reserved.
    await letTimePass();
    await sliceHere();

    expect((await client.query("select * from reembed.violations()")).rows).toEqual([]);
    expect(await wrongVectors(client, DIMENSIONS)).toEqual([]);

    const { log, tokensBilled } = openai.stats();
    const { settled, lost, open, stale } = await readLedger(client);
    const stored = await storedTexts(client);
    const inFlight = new Set(
      log.filter(({ inputs }) => inputs.some(({ hash }) => held.texts.has(hash))).flatMap(hashesOf),
    );
    const paidTwice: unknown[] = [];
    let [overspent, unstored] = [0, 0];
    for (const [hash, { tokens, times, undelivered }] of purchasesOf(log)) {
      // However many rows have a text, it is bought again only after an answer that nobody got.
      const again = times - 1;
      const excused = undelivered + (held.texts.has(hash) ? 1 : 0);
      if (again > excused) paidTwice.push({ hash, times, excused });
      overspent += again * tokens;
      if (!stored.has(hash) && undelivered === 0 && !inFlight.has(hash)) unstored += 1;
    }
    expect(paidTwice).toEqual([]);

    // All of it stands in the ledger: as lost what was bought again, as stale what came back and was not stored.
    expect(overspent).toBeLessThanOrEqual(lost);
    const unsettled = [...held.unsettled.values()].reduce((sum, inputs) => sum + inputs, 0);
    expect(unstored).toBeLessThanOrEqual(stale + unsettled);
    expect(open).toBe(0);
    const delivered = log.filter((entry) => entry.delivered).reduce((sum, entry) => sum + entry.billed, 0);
    expect(settled).toBeLessThanOrEqual(delivered);
    expect(settled + lost).toBeGreaterThanOrEqual(tokensBilled);
    console.log(
      `kill ${door}, seed ${seed}, ${JSON.stringify(after)}: ${JSON.stringify({ requests: log.length, tokensBilled, overspent, unstored, leased: held.texts.size, settled, lost, stale })}`,
    );
  });
});
