/**
 * What a backfill costs those who use the table meanwhile: searches by the old vectors and one-row writes, each at an even pace over a connection of its
 * own, alone, beside `reembed backfill --rate 500`, and beside `reembed backfill` as it is, which has to spare them by itself. The quiet phases stand
 * before, between and after the others. The CLI is a process of its own, and so is the provider.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { quantile } from "../scripts/lib/evaluation/statistics.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { atMost, type Benchmark, type Figure, rounded } from "./measure.ts";
import {
  ADOPT_OLD,
  DIMENSIONS,
  fill,
  OLD_DIMENSIONS,
  SCHEMA,
  source,
  startPoolProvider,
  TABLE,
} from "./moved-table.ts";

const REEMBED = fileURLToPath(new URL("../scripts/reembed.ts", import.meta.url));
const LATENCY_MS = 150;
const ROWS_PER_SECOND = 500;
const SEARCH_EVERY_MS = 10;
const WRITE_EVERY_MS = 50;
/** A row of a phase in small sizes stands for no second of the full one. */
const PHASE_MS = { full: 15_000, small: 1_500 };
/** The worker finds its pace in these. */
const SETTLING_MS = { full: 5_000, small: 500 };

interface Latencies {
  readonly searches: number[];
  readonly writes: number[];
}

export const interference: Benchmark = async (server, rows = 100_000) => {
  const size = rows < 10_000 ? "small" : "full";
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const provider = await startPoolProvider(DIMENSIONS, LATENCY_MS);
  const [searcher, writer] = [await connect(url), await connect(url)];
  try {
    await writer.query(SCHEMA);
    await writer.query(source(rows));
    await writer.query(fill(TABLE));
    await writer.query(ADOPT_OLD);
    const { rows: queries } = await searcher.query<{ query: string }>(
      `select embedding::text as query from public.filled order by md5(id::text) limit 100`,
    );
    const search = (n: number) =>
      searcher.query({
        name: "search",
        text: `select id from public.match_${TABLE}($1::extensions.vector(${OLD_DIMENSIONS}), null, 10)`,
        values: [queries[n % queries.length]?.query],
      });
    const write = (n: number) =>
      writer.query({
        name: "write",
        text: `update public.${TABLE} set content = $2 where id = $1`,
        values: [1 + ((n * 7919) % rows), `Written ${n} ${"x".repeat(400)}`],
      });
    const phase = async (into: Latencies): Promise<void> => {
      const until = performance.now() + PHASE_MS[size];
      await Promise.all([
        evenly(SEARCH_EVERY_MS, until, search, into.searches),
        evenly(WRITE_EVERY_MS, until, write, into.writes),
      ]);
    };
    const beside = async (flags: readonly string[], into: Latencies): Promise<number> => {
      const cli = startBackfill(url, provider.baseURL, flags);
      const ended = once(cli, "exit");
      const stored = async () =>
        Number(
          (await writer.query(`select count(embedding_1536) as stored from public.${TABLE}`)).rows[0]?.stored,
        );
      await until(async () => (await stored()) > 0);
      const settling = { searches: [], writes: [] } satisfies Latencies;
      const settled = performance.now() + SETTLING_MS[size];
      await evenly(SEARCH_EVERY_MS, settled, search, settling.searches);
      const [before, began] = [await stored(), performance.now()];
      await phase(into);
      const after = await stored();
      if (size === "full" && after === rows)
        throw new Error(`all ${rows} rows were loaded before the phase ended: it wants more`);
      const rate = ((after - before) / (performance.now() - began)) * 1000;
      cli.kill("SIGTERM");
      await ended;
      return rate;
    };

    const alone: Latencies = { searches: [], writes: [] };
    const atRate: Latencies = { searches: [], writes: [] };
    const flatOut: Latencies = { searches: [], writes: [] };
    await phase({ searches: [], writes: [] });
    await phase(alone);
    const rate = await beside(["--rate", String(ROWS_PER_SECOND)], atRate);
    await phase(alone);
    const flatOutRate = await beside([], flatOut);
    await phase(alone);

    const p95 = (values: readonly number[]) => quantile(values, 0.95);
    const p95Of = (values: readonly number[], meaning: string): Figure => [
      rounded(p95(values)),
      `95 of 100 ${meaning} took at most so long`,
    ];
    return {
      about: `A search every ${SEARCH_EVERY_MS} ms and a one-row write every ${WRITE_EVERY_MS} ms: alone, beside \`reembed backfill --rate ${ROWS_PER_SECOND}\`, and beside \`reembed backfill\` as it is.`,
      data: `Texts of about 400 characters by md5 of the row's number; old vectors around 100 centres, by source() of bench/moved-table.ts, setseed(0.5); new ones from a pool of 64.`,
      rows,
      figures: {
        search_p95_alone_ms: p95Of(alone.searches, "searches with nothing beside them"),
        search_p95_at_rate_ms: p95Of(atRate.searches, `searches beside ${ROWS_PER_SECOND} rows a second`),
        search_p95_flat_out_ms: p95Of(flatOut.searches, "searches beside a backfill flat out"),
        write_p95_alone_ms: p95Of(alone.writes, "writes with nothing beside them"),
        write_p95_at_rate_ms: p95Of(atRate.writes, `writes beside ${ROWS_PER_SECOND} rows a second`),
        write_p95_flat_out_ms: p95Of(flatOut.writes, "writes beside a backfill flat out"),
        rows_per_second_at_rate: [rounded(rate), `what the backfill stored when told ${ROWS_PER_SECOND}`],
        rows_per_second_flat_out: [
          rounded(flatOutRate),
          "what it stored as it is, sparing the searches by itself",
        ],
      },
      bars: [
        atMost(
          "p95 of a search beside 500 rows a second, relative to alone",
          p95(atRate.searches) / p95(alone.searches),
          1.3,
        ),
        atMost(
          "p95 of a search beside a backfill flat out, relative to alone",
          p95(flatOut.searches) / p95(alone.searches),
          2,
        ),
        atMost(
          "p95 of a one-row write beside a backfill flat out, relative to alone",
          p95(flatOut.writes) / p95(alone.writes),
          3,
        ),
        atMost(
          "milliseconds of the longest one-row write",
          Math.max(...atRate.writes, ...flatOut.writes),
          250,
        ),
      ],
    };
  } finally {
    provider.process.kill();
    await Promise.all([searcher.end(), writer.end()]);
    await dropDatabase(server, name);
  }
};

async function connect(url: string): Promise<Client> {
  const client = new Client({ connectionString: url });
  // The database is dropped while the connection is closing.
  client.on("error", () => {});
  await client.connect();
  return client;
}

function startBackfill(url: string, baseURL: string, flags: readonly string[]): ChildProcess {
  return spawn(
    process.execPath,
    [REEMBED, "backfill", "--collection", TABLE, "--version", "2", "--db-url", url, ...flags],
    {
      stdio: ["ignore", "ignore", "inherit"],
      env: { PATH: process.env.PATH, OPENAI_API_KEY: "none", OPENAI_BASE_URL: baseURL },
    },
  );
}

/** Calls once in each interval, or as soon after it as the last call has ended, and notes how long each took. */
async function evenly(
  everyMs: number,
  until: number,
  call: (n: number) => Promise<unknown>,
  took: number[],
): Promise<void> {
  let next = performance.now();
  for (let n = 0; next < until; n += 1) {
    const early = next - performance.now();
    if (early > 0) await delay(early);
    const began = performance.now();
    await call(n);
    took.push(performance.now() - began);
    next = Math.max(next + everyMs, performance.now());
  }
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await delay(20);
}
