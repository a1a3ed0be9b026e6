/**
 * The laws under everything at once. REEMBED_MIX_SECONDS lengthens each run (10), REEMBED_MIX_SEED repeats its choices.
 */
import { describe, expect, test } from "vitest";
import {
  createCollection,
  jobs,
  mismatches,
  PLACEMENTS,
  recorded,
  versionOf,
  violations,
} from "../support/collection.ts";
import { forgiveFailures, runMix } from "../support/mix.ts";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { seedFrom } from "../support/seed.ts";
import { Sessions } from "../support/sessions.ts";
import { workOff } from "../support/worker.ts";

const seconds = Number(process.env.REEMBED_MIX_SECONDS ?? 10);
const seed = seedFrom("REEMBED_MIX_SEED");

describePostgres("the concurrent mix", () => {
  describe.each(PLACEMENTS)("with vectors %s", (placement) => {
    test(`seed ${seed}, ${seconds} s: no violation in any snapshot, no deadlock of ours, every vector its text's`, {
      timeout: (seconds + 100) * 1000,
    }, async () => {
      const database = await createDatabase();
      const sessions = new Sessions(database.url);
      try {
        const { client } = await sessions.open();
        const collection = await createCollection(client, "mixed", placement);
        const report = await runMix(sessions, collection, { seed, seconds, placement });
        console.log(`mix, vectors ${placement}, seed ${seed}: ${JSON.stringify(report)}`);
        expect({ breaches: report.breaches, faults: report.faults }).toEqual({ breaches: [], faults: [] });
        expect(report.outcomes.done).toBeGreaterThan(0);
        expect(report.outcomes.copied).toBeGreaterThan(0);

        expect(await violations(client)).toEqual([]);
        await forgiveFailures(client, collection);
        await workOff(client, { collection: collection.name });
        await client.query("select reembed.reconcile()");
        const { rows } = await client.query<{ id: string }>(
          `select id from ${collection.table} order by id::text`,
        );
        for (const { number, id } of collection.versions) {
          expect(versionOf(collection, number).id).toBe(id);
          expect(await mismatches(client, collection, number)).toEqual([]);
          expect(await jobs(client, id)).toEqual([]);
          expect(await recorded(client, id)).toEqual(rows.map((row) => row.id));
        }
        expect(await violations(client)).toEqual([]);
      } finally {
        await sessions.close();
      }
      await database.drop();
    });
  });
});
