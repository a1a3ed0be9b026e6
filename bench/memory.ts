/**
 * What memory a worker needs: `reembed work` as a process of its own works off 200,000 rows of 1536 dimensions against a provider without latency or
 * limit; the figure is the largest resident set that the operating system saw of it.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { startLoading } from "../scripts/lib/move.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { type Benchmark, round2 } from "./measure.ts";

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
    const [facts] = await db.query<{ server: string }>(
      "select 'PostgreSQL ' || current_setting('server_version') as server",
    );
    const began = performance.now();
    const worker = spawn(
      process.execPath,
      ["--import", REPORT_AT_EXIT, REEMBED, "work", "--db-url", url, "--interval", "1", "--json"],
      {
        env: {
          PATH: process.env.PATH ?? "",
          OPENAI_API_KEY: "none",
          OPENAI_BASE_URL: line.toString().trim(),
        },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const ended = once(worker, "close");
    let [said, report] = ["", ""];
    worker.stderr.setEncoding("utf8").on("data", (text: string) => {
      // Its log, a line a slice, is not kept: only how it ends.
      said = (said + text).slice(-2000);
    });
    worker.stdout.setEncoding("utf8").on("data", (text: string) => {
      report += text;
    });
    try {
      while (worker.exitCode === null && (await isPending())) await delay(200);
    } finally {
      worker.kill("SIGTERM");
    }
    const seconds = (performance.now() - began) / 1000;
    await ended;
    const { done } = JSON.parse(report || "{}") as { done?: number };
    const peak = /peak (\d+) kB/.exec(said)?.[1];
    if (done !== rows || peak === undefined) throw new Error(`the worker did not do it all: ${said}`);
    const megabytes = Number(peak) / 1024;
    return {
      server: facts?.server ?? "",
      rows,
      figures: {
        peak_mb: round2(megabytes),
        seconds: round2(seconds),
        rows_per_second: Math.round(rows / seconds),
      },
      bars: [
        {
          name: "megabytes that the worker holds at most",
          value: round2(megabytes),
          bound: BOUND_MB,
          holds: megabytes < BOUND_MB,
        },
      ],
    };
  } finally {
    provider.kill();
    await db.close();
    await dropDatabase(server, name);
  }

  async function isPending(): Promise<boolean> {
    const [row] = await db.query<{ pending: boolean }>(
      "select exists (select from reembed.jobs where failed_at is null) as pending",
    );
    return row?.pending ?? false;
  }
};
