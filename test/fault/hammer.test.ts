/**
 * A whole move while eight readers search and four writers write. REEMBED_HAMMER_ROWS says how many rows (2,000), REEMBED_HAMMER_SEED repeats the
 * choices of a run. What it took is printed, and bounded by `bench hammer`: no test fails on a clock.
 */
import { expect, test } from "vitest";
import { runHammer } from "../support/hammer.ts";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { seedFrom } from "../support/seed.ts";

const rows = Number(process.env.REEMBED_HAMMER_ROWS ?? 2_000);
const seed = seedFrom("REEMBED_HAMMER_SEED");

describePostgres("a move under the hammer", () => {
  test(`${rows} rows, seed ${seed}: no search fails or lacks a row, one version answers each, nothing is forgotten`, {
    timeout: 120_000 + rows * 60,
  }, async () => {
    const database = await createDatabase();
    const report = await runHammer({ url: database.url, rows, seed });
    const { faults, violations, deadlocks, events, wrong_vectors, columns, ...figures } = report;
    console.log(`hammer, ${rows} rows, seed ${seed}: ${JSON.stringify(figures)}`);

    expect({ faults, violations, deadlocks, wrong_vectors }).toEqual({
      faults: [],
      violations: [],
      deadlocks: 0,
      wrong_vectors: 0,
    });
    expect(events).toEqual([
      "add v2",
      "load v2",
      "indexing v2",
      "ready v2",
      "cutover v2",
      "rollback v1",
      "cutover v2",
      "finalize v1",
    ]);
    expect(columns).toEqual(["embedding_2"]);
    for (const [phase, { searches }] of Object.entries(report.phases))
      expect({ phase, searches }).toEqual({ phase, searches: expect.toSatisfy((count) => count > 0) });
    await database.drop();
  });
});
