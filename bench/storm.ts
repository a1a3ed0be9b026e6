/**
 * What ten workers make of a provider's rate limit: which share of the tokens a minute they reach, how many requests are refused, and how soon they
 * are back after nothing but 429s. The limit is the fake provider's: a bucket that holds a minute's tokens and fills evenly. The first figure
 * counts from when what it held at the start is used up. `--rows` is the rows that the limit lets through in the measured time, which the storm
 * takes as well.
 */
import { setTimeout as delay } from "node:timers/promises";
import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { startLoading, work } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { createEmbedder } from "../supabase/functions/_shared/providers.ts";
import { startFakeOpenAI } from "../test/support/fake-openai.ts";
import { atLeast, atMost, type Benchmark } from "./measure.ts";

const WORKERS = 10;
const LANES = 2;
const BATCH = 20;
const TOKENS_PER_MINUTE = 120_000;
const TOKENS_PER_ROW = 50;
const ROWS_PER_SECOND = TOKENS_PER_MINUTE / 60 / TOKENS_PER_ROW;
const DIMENSIONS = 64;
const TARGET = { collection: "storm_bench", version: 1 };
const LATENCY = { fault: { kind: "latency", ms: 150 }, times: "always" } as const;
const REFUSAL = { fault: { kind: "rate_limit", retryAfterSeconds: 1 }, times: "always" } as const;
/** How long the way back is looked at. */
const AFTER_SECONDS = 30;

const schema = (rows: number) => `
  create table public.storm_bench (id bigint generated always as identity primary key, content text not null, embedding extensions.vector(${DIMENSIONS}));
  create function reembed.storm_bench_input(r public.storm_bench) returns text language sql immutable set search_path = '' as $$ select r.content $$;
  select reembed.add_space('openai', 'text-embedding-3-small', ${DIMENSIONS});
  select reembed.add_collection('storm_bench', 'public.storm_bench', array['id']);
  select reembed.add_version('storm_bench', 'openai/text-embedding-3-small@${DIMENSIONS}', 'embedding', 'reembed.storm_bench_input');
  insert into public.storm_bench (content) select rpad(n::text || ' ', ${TOKENS_PER_ROW * 4}, md5(n::text)) from generate_series(1, ${rows}) n;`;

export const storm: Benchmark = async (server, rows = 60 * ROWS_PER_SECOND) => {
  const seconds = rows / ROWS_PER_SECOND;
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const openai = await startFakeOpenAI({ tokensPerMinute: TOKENS_PER_MINUTE });
  const db = await openDatabase(databaseUrl(server, name, "postgres"), WORKERS);
  const stop = new AbortController();
  try {
    // Two full buckets, and more than what fills them meanwhile.
    await db.query(schema(Math.ceil(ROWS_PER_SECOND * (2 * 60 + 2 * seconds + 3 * AFTER_SECONDS))));
    await startLoading(db, TARGET);
    openai.faults.add(LATENCY);
    const { url: baseURL, apiKey } = openai;
    const worker = async () => {
      while (!stop.signal.aborted) {
        const report = await work(db, (space) => createEmbedder(space, { openai: { apiKey, baseURL } }), {
          ...TARGET,
          batch: BATCH,
          lanes: LANES,
          budgetMs: 40_000,
          signal: stop.signal,
        });
        if (report.ended === "rate_limited") await delay(report.wait_ms);
        else if (report.ended === "idle") throw new Error("all rows were done before the time was over");
      }
    };
    const workers = Promise.all(Array.from({ length: WORKERS }, worker));
    workers.catch(() => stop.abort());
    const billed = () => openai.stats().tokensBilled;
    const requests = () => {
      const { log } = openai.stats();
      return { sent: log.length, refused: log.filter(({ status }) => status === 429).length };
    };

    // Until nearly all is used that the bucket held and that has filled it meanwhile.
    const started = performance.now();
    const granted = () => TOKENS_PER_MINUTE * (1 + (performance.now() - started) / 60_000);
    while (billed() < 0.95 * granted() && !stop.signal.aborted) await delay(20);
    const [from, began] = [billed(), performance.now()];
    await delay(seconds * 1000);
    const elapsed = (performance.now() - began) / 1000;
    const share = (billed() - from) / (TOKENS_PER_MINUTE / 60) / elapsed;
    const steady = requests();

    openai.faults.add(REFUSAL);
    await delay(seconds * 1000);
    const during = requests();
    openai.faults.clear();
    openai.faults.add(LATENCY);
    const [after, cleared] = [billed(), performance.now()];
    let recovery = AFTER_SECONDS;
    while (performance.now() - cleared < AFTER_SECONDS * 1000 && !stop.signal.aborted) {
      await delay(20);
      const since = (performance.now() - cleared) / 1000;
      if (billed() - after >= (TOKENS_PER_MINUTE / 60) * since) {
        recovery = since;
        break;
      }
    }
    stop.abort();
    await workers;
    const all = requests();
    return {
      about: `What ${WORKERS} workers make of a provider's limit of ${TOKENS_PER_MINUTE} tokens a minute, and how soon they are back after nothing but refusals.`,
      data: `Texts of ${TOKENS_PER_ROW} tokens by md5 of the row's number; no seed.`,
      rows,
      figures: {
        seconds: [seconds, "how long the rate was measured, and how long the storm lasted after it"],
        tokens_per_minute_allowed: [TOKENS_PER_MINUTE, "what the provider lets through"],
        requests: [all.sent, "all requests of the workers"],
        refused_before_the_storm: [steady.refused, "answered with 429 while the limit was the only obstacle"],
        refused_in_the_storm: [
          during.refused - steady.refused,
          "answered with 429 while nothing else was answered",
        ],
      },
      bars: [
        atLeast("share of the allowed rate", share, 0.9),
        atMost("seconds after the storm until the allowed rate is caught up with", recovery, 15),
        atMost("share of the requests refused", all.refused / all.sent, 0.05),
      ],
    };
  } finally {
    stop.abort();
    await Promise.all([db.close(), openai.close()]);
    await dropDatabase(server, name);
  }
};
