/**
 * What the backfill function costs in time of CPU: the function in its Deno process, as the stack starts it, behind the stack's own REST over PostgreSQL, so that
 * vectors travel as text, woken until all rows of 1536 dimensions are stored. The provider has no latency and no limit. Counted is the process of
 * the functions alone, by the system's own clock, after a first run has loaded its code.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "../scripts/lib/connection.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { startStack } from "../scripts/stack/index.ts";
import { denoPid } from "../test/support/deno-process.ts";
import { atMost, type Benchmark, below, rounded } from "./measure.ts";
import { startPoolProvider } from "./moved-table.ts";

const DIMENSIONS = 1536;
/** Rows of the first run, which is not counted: enough that what is hot is compiled. */
const WARM_UP = 500;
const BOUND_SECONDS = 0.5;
/** After which the platform ends a request. */
const PLATFORM_SECONDS = 2;
/** Of /proc, on every Linux. */
const TICKS_PER_SECOND = 100;

const SCHEMA = `
  create table public.edge_bench (id bigint generated always as identity primary key, content text not null, embedding extensions.vector(${DIMENSIONS}));
  create function reembed.edge_bench_input(r public.edge_bench) returns text language sql immutable set search_path = '' as $$ select r.content $$;
  do $$ begin
    perform reembed.add_space('openai', 'text-embedding-3-small', ${DIMENSIONS});
    perform reembed.add_collection('edge_bench', 'public.edge_bench', array['id']);
    perform reembed.add_version('edge_bench', 'openai/text-embedding-3-small@${DIMENSIONS}', 'embedding', 'reembed.edge_bench_input');
  end $$;
  select reembed.start_loading('edge_bench', 1)`;

/** About 600 characters a row, all different, as a section of a page has. The version is maintained: each row is a job. */
const INSERT = `
  insert into public.edge_bench (content) select n || ' ' || repeat(md5(n::text || random()::text) || ' ', 18) from generate_series(1, $1) n`;

export const edge: Benchmark = async (server, rows = 2_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: null });
  const url = databaseUrl(server, name, "postgres");
  const stateDirectory = await mkdtemp(join(tmpdir(), "edge-bench-"));
  await using started = new AsyncDisposableStack();
  started.defer(() => dropDatabase(server, name));
  started.defer(() => rm(stateDirectory, { recursive: true, force: true }));
  const provider = await startPoolProvider(DIMENSIONS, 0);
  started.defer(() => void provider.process.kill());
  const stack = await startStack({
    port: 0,
    database: { url },
    stateDirectory,
    openai: { apiKey: "none", baseUrl: provider.baseURL },
    // Woken below.
    tickMs: 3_600_000,
  });
  started.defer(() => stack.stop());
  const db = await openDatabase(url, 1);
  started.defer(() => db.close());
  await db.query(SCHEMA);
  const pid = await denoPid();

  /** Wakes the function until nothing is left of so many new rows. Returns what each request took. */
  const fill = async (count: number): Promise<Cpu[]> => {
    await db.query(INSERT, [count]);
    const wakes: Cpu[] = [];
    for (;;) {
      const before = await cpuOf(pid);
      const response = await fetch(`${stack.url}/functions/v1/backfill`, {
        method: "POST",
        headers: { apikey: stack.backfillKey },
      });
      const report = (await response.json()) as { ended: string; done?: number; error?: string | null };
      const after = await cpuOf(pid);
      wakes.push({ user: after.user - before.user, system: after.system - before.system });
      const [left] = await db.query<{ jobs: number }>("select count(*)::int as jobs from reembed.jobs");
      if (left?.jobs === 0) return wakes;
      if (report.ended !== "running" && (report.done ?? 0) === 0)
        throw new Error(`the function stores nothing: ${JSON.stringify(report)}`);
    }
  };

  await fill(WARM_UP);
  const began = performance.now();
  const wakes = await fill(rows);
  const seconds = (performance.now() - began) / 1000;
  const [found] = await db.query<{ stored: number }>(
    "select count(embedding)::int as stored from public.edge_bench",
  );
  if (found?.stored !== rows + WARM_UP) throw new Error(`${found?.stored} rows have a vector`);
  const user = wakes.reduce((sum, wake) => sum + wake.user, 0);
  const system = wakes.reduce((sum, wake) => sum + wake.system, 0);
  const per100 = (user + system) / (rows / 100);
  const dearest = Math.max(...wakes.map((wake) => wake.user + wake.system));
  return {
    about: `The backfill function in its Deno process stores vectors of ${DIMENSIONS} dimensions through the API, woken until nothing is left; what its process takes of the CPU.`,
    data: "Texts of about 600 characters by md5 of random numbers, without a seed; vectors from a pool of 64.",
    overHttp: true,
    rows,
    figures: {
      user_seconds: [rounded(user), "computing of the function's process, for all rows"],
      system_seconds: [rounded(system), "the operating system's work for it"],
      requests: [wakes.length, "how often the function was woken"],
      seconds: [rounded(seconds), "by the clock, with the database, which shares the machine"],
      rows_per_second: [Math.round(rows / seconds), "the same as a rate"],
    },
    bars: [
      atMost("seconds of CPU for 100 rows", per100, BOUND_SECONDS),
      below("seconds of CPU for the dearest request", dearest, PLATFORM_SECONDS),
    ],
  };
};

/** Seconds of computing. */
interface Cpu {
  readonly user: number;
  readonly system: number;
}

/** What a process with all its threads has taken so far. */
async function cpuOf(pid: number): Promise<Cpu> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // What follows the name of the program, which may hold anything; utime and stime are the 14th and 15th field of all.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return {
    user: Number(fields[11]) / TICKS_PER_SECOND,
    system: Number(fields[12]) / TICKS_PER_SECOND,
  };
}
