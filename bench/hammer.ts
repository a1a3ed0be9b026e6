/**
 * How long a switch holds its locks, and how soon readers follow it, while eight of them search and four writers write: the figures of the hammer,
 * which test/fault/hammer.test.ts asks only whether all went right.
 */
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase } from "../scripts/lib/test-server.ts";
import { runHammer } from "../test/support/hammer.ts";
import { atMost, type Benchmark, below, type Figure } from "./measure.ts";

const SEED = 1;
const LONGEST_LOCK_MS = 100;
const LONGEST_FOLLOWING_MS = 1_000;

export const hammer: Benchmark = async (server, rows = 20_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  try {
    const { cutover, rollback, phases, faults, violations, finalize_ms, searches, writes } = await runHammer({
      url,
      rows,
      seed: SEED,
    });
    const p95 = Object.entries(phases).map(([phase, { search_p95_ms }]): [string, Figure] => [
      `search_p95_ms_${phase.replaceAll(" ", "_")}`,
      [search_p95_ms, `of 100 searches during "${phase}" 95 took at most so long`],
    ]);
    return {
      about:
        "A whole move (load, index, evaluate, cut over, back, over again, finalize) while eight readers search and four writers write.",
      data: `Texts and traffic of test/support/hammer.ts, seed ${SEED}.`,
      rows,
      figures: {
        searches: [searches, "all searches of the readers"],
        writes: [writes, "all writes of the writers"],
        faults: [faults.length, "searches and writes that failed or were answered wrongly"],
        finalize_ms: [finalize_ms, "dropping the old version"],
        ...Object.fromEntries(p95),
      },
      bars: [
        below("milliseconds that a cutover's locks last", cutover.locked_ms, LONGEST_LOCK_MS),
        below("milliseconds that a rollback's locks last", rollback.locked_ms, LONGEST_LOCK_MS),
        below(
          "milliseconds from a rollback until the last reader has followed",
          rollback.followed_ms,
          LONGEST_FOLLOWING_MS,
        ),
        atMost("rows that were neither current nor queued, in all snapshots", violations.length, 0),
        atMost("searches and writes that failed or were answered wrongly", faults.length, 0),
      ],
    };
  } finally {
    await dropDatabase(server, name);
  }
};
