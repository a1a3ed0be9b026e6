/**
 * Everything that may go wrong, at once and against one database: see test/support/together.ts. REEMBED_TOGETHER_SECONDS says for how long (12),
 * REEMBED_TOGETHER_SEED repeats the choices of a run.
 */
import { expect, test } from "vitest";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { seedFrom } from "../support/seed.ts";
import { runTogether } from "../support/together.ts";

const seconds = Number(process.env.REEMBED_TOGETHER_SECONDS ?? 12);
const seed = seedFrom("REEMBED_TOGETHER_SEED");

describePostgres("everything together", () => {
  test(`seed ${seed}, ${seconds} s: the laws hold, no search fails, the ledger is the bill`, {
    timeout: (seconds + 240) * 1000,
  }, async () => {
    const database = await createDatabase();
    const { faults, ...report } = await runTogether({ url: database.url, seed, seconds });
    console.log(`together, seed ${seed}: ${JSON.stringify(report)}`);
    expect(faults).toEqual([]);
    for (const count of [
      report.kills,
      report.searches,
      report.clock_jumps,
      report.switches,
      report.requests_that_failed,
    ])
      expect(count).toBeGreaterThan(0);
    await database.drop();
  });
});
