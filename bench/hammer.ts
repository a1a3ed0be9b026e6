/**
 * How long a switch holds its locks, and how soon readers follow it, while eight of them search and four writers write: the figures of the hammer,
 * which test/fault/hammer.test.ts asks only whether all went right.
 */

import { openDatabase } from "../scripts/lib/connection.ts";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { runHammer } from "../test/support/hammer.ts";
import type { Bar, Benchmark } from "./measure.ts";

const SEED = 1;
const LONGEST_LOCK_MS = 100;
const LONGEST_FOLLOWING_MS = 1_000;

export const hammer: Benchmark = async (server, rows = 20_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  try {
    const db = await openDatabase(url, 1);
    const [facts] = await db.query<{ server: string }>(
      "select 'PostgreSQL ' || current_setting('server_version') as server",
    );
    await db.close();
    const { cutover, rollback, phases, faults, violations, finalize_ms, searches, writes } = await runHammer({
      url,
      rows,
      seed: SEED,
    });
    const p95 = Object.entries(phases).map(([phase, { search_p95_ms }]) => [
      `search_p95_ms_${phase.replaceAll(" ", "_")}`,
      search_p95_ms,
    ]);
    return {
      server: facts?.server ?? "",
      rows,
      figures: { searches, writes, faults: faults.length, finalize_ms, ...Object.fromEntries(p95) },
      bars: [
        bar("milliseconds that a cutover's locks last", cutover.locked_ms, LONGEST_LOCK_MS),
        bar("milliseconds that a rollback's locks last", rollback.locked_ms, LONGEST_LOCK_MS),
        bar(
          "milliseconds from a rollback until the last reader has followed",
          rollback.followed_ms,
          LONGEST_FOLLOWING_MS,
        ),
        {
          name: "rows that were neither current nor queued, in all snapshots",
          value: violations.length,
          bound: 0,
          holds: violations.length === 0,
        },
        {
          name: "searches and writes that failed or were answered wrongly",
          value: faults.length,
          bound: 0,
          holds: faults.length === 0,
        },
      ],
    };
  } finally {
    await dropDatabase(server, name);
  }
};

const bar = (name: string, value: number, bound: number): Bar => ({
  name,
  value,
  bound,
  holds: value < bound,
});
