/**
 * What memory a worker needs: of 200,000 rows of 1536 dimensions `reembed backfill` works off one half and `reembed work` the other, each as a process of
 * its own, against a provider without latency or limit. The figures are the largest resident sets that the operating system saw of them.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { startLoading } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { type Benchmark, below, rounded } from "./measure.ts";

const DIMENSIONS = 1536;
const BOUND_MB = 300;
const TARGET = { collection: "memory_bench", version: 1 };
const REEMBED = fileURLToPath(new URL("../scripts/reembed.ts", import.meta.url));
/** Loaded into the worker before its own code. `maxRSS` is in kilobytes. */
const REPORT_AT_EXIT = `data:text/javascript,${encodeURIComponent(
  'process.on("exit", () => console.error("peak", process.resourceUsage().maxRSS, "kB"))',
)}`;

/** About 600 characters a row, all different, as a section of a page has. */
const schema = (rows: number) => `
  create table public.memory_bench (id bigint generated always as identity primary key, content text not null, embedding extensions.vector(${DIMENSIONS}));
  create function reembed.memory_bench_input(r public.memory_bench) returns text language sql immutable set search_path = '' as $$ select r.content $$;
  do $$ begin
    perform reembed.add_space('openai', 'text-embedding-3-small', ${DIMENSIONS});
    perform reembed.add_collection('memory_bench', 'public.memory_bench', array['id']);
    perform reembed.add_version('memory_bench', 'openai/text-embedding-3-small@${DIMENSIONS}', 'embedding', 'reembed.memory_bench_input');
  end $$;
  insert into public.memory_bench (content) select n || ' ' || repeat(md5(n::text) || ' ', 18) from generate_series(1, ${rows}) n`;

export const memory: Benchmark = async (server, rows = 200_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const db = await openDatabase(url, 1);
  const provider = spawn(
    process.execPath,
    [fileURLToPath(new URL("pool-provider.ts", import.meta.url)), String(DIMENSIONS), "0"],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    const [line] = (await once(provider.stdout, "data")) as [Buffer];
    await db.query(schema(rows));
    await startLoading(db, TARGET);
    const env = {
      PATH: process.env.PATH ?? "",
      OPENAI_API_KEY: "none",
      OPENAI_BASE_URL: line.toString().trim(),
    };
    const half = Math.floor(rows / 2);
    const began = performance.now();
    // With a limit it builds no index at the end: that is the server's memory, and its time.
    const backfill = await runWorker(
      [
        "backfill",
        "--collection",
        TARGET.collection,
        "--version",
        "1",
        "--limit",
        String(half),
        "--db-url",
        url,
      ],
      env,
      async () => false,
    );
    const work = await runWorker(["work", "--interval", "1", "--db-url", url], env, async () => {
      const [row] = await db.query<{ pending: boolean }>(
        "select exists (select from reembed.jobs where failed_at is null) as pending",
      );
      return !row?.pending;
    });
    const seconds = (performance.now() - began) / 1000;
    const [stored] = await db.query<{ rows: number }>("select count(*)::int as rows from reembed.records");
    if (stored?.rows !== rows) throw new Error(`${stored?.rows} of ${rows} rows were stored`);
    const megabytes = Math.max(backfill, work);
    return {
      about: `The largest resident set of a worker: \`reembed backfill\` stores one half of the rows and \`reembed work\` the other, ${DIMENSIONS} dimensions each.`,
      data: "Texts of about 600 characters by md5 of the row's number, no seed; vectors from a pool of 64.",
      rows,
      figures: {
        backfill_peak_mb: [rounded(backfill), "what `reembed backfill` held at most"],
        work_peak_mb: [rounded(work), "what `reembed work` held at most"],
        seconds: [rounded(seconds), "both, one after the other"],
        rows_per_second: [Math.round(rows / seconds), "the same as a rate"],
      },
      bars: [below("megabytes that the worker holds at most", megabytes, BOUND_MB)],
    };
  } finally {
    provider.kill();
    await db.close();
    await dropDatabase(server, name);
  }
};

/**
 * Runs a command in a process of its own until it ends, or until it is told to because all is done. Returns the most memory that it
 * held, in megabytes.
 */
async function runWorker(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  isDone: () => Promise<boolean>,
): Promise<number> {
  const worker = spawn(process.execPath, ["--import", REPORT_AT_EXIT, REEMBED, ...args], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = once(worker, "close");
  let said = "";
  worker.stderr.setEncoding("utf8").on("data", (text: string) => {
    // Its log, a line a slice, is not kept: only how it ends.
    said = (said + text).slice(-2000);
  });
  try {
    while (worker.exitCode === null && !(await isDone())) await delay(200);
  } finally {
    worker.kill("SIGTERM");
  }
  await ended;
  const peak = /peak (\d+) kB/.exec(said)?.[1];
  if (worker.exitCode !== 0 || peak === undefined) throw new Error(`${args[0]} failed: ${said}`);
  return Number(peak) / 1024;
}
