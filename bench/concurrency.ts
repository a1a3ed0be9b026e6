/**
 * A hundred searches at the same time over connections of their own, by callers who see little, some and much of the table: whether each is answered with as
 * many rows as it may see, under the time-outs that the API has, and how long they take.
 */
import { Client } from "pg";
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { atMost, type Benchmark, medianFigure, rounded, timed } from "./measure.ts";
import { asCaller, createSharedTable, DIMENSIONS, setPolicy } from "./shared-table.ts";

const AT_ONCE = 100;
const ROUNDS = 5;
const COUNT = 10;

export const concurrency: Benchmark = async (server, rows = 100_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  const url = databaseUrl(server, name, "postgres");
  const clients: Client[] = [];
  try {
    return await withClient(url, async (owner) => {
      const share = (part: number) => Math.max(1, Math.round(rows * part));
      const { callers, queries } = await createSharedTable(
        owner,
        rows,
        { few: 3, some: share(0.002), many: share(0.1), most: share(0.5) },
        AT_ONCE,
      );
      await setPolicy(owner, "owner");
      for (let n = 0; n < AT_ONCE; n += 1) {
        const client = new Client({ connectionString: url });
        clients.push(client);
        await client.connect();
      }

      const times: number[] = [];
      let [failed, missing] = [0, 0];
      for (let round = 0; round <= ROUNDS; round += 1) {
        await Promise.all(
          clients.map(async (client, at) => {
            const caller = callers[at % callers.length];
            if (caller === undefined) return;
            try {
              await asCaller(client, caller, async () => {
                // What the API gives a user's request.
                await client.query("set local statement_timeout = '8s'");
                let found = 0;
                const took = await timed(async () => {
                  const answer = await client.query("select id from public.match_shared($1, null, $2)", [
                    queries[(at + round) % AT_ONCE],
                    COUNT,
                  ]);
                  found = answer.rows.length;
                });
                if (round === 0) return;
                times.push(took);
                missing += Math.min(COUNT, caller.rows) - found;
              });
            } catch {
              failed += 1;
            }
          }),
        );
      }
      const sorted = [...times].sort((a, b) => a - b);
      const at = (part: number) => rounded(sorted[Math.ceil(part * sorted.length) - 1] ?? Number.NaN);
      return {
        about: `${AT_ONCE} searches for ${COUNT} rows at the same time, ${ROUNDS} times, over as many connections, by callers who own 3 rows, 0.2 %, 10 % and 50 %.`,
        data: `${rows} vectors of ${DIMENSIONS} dimensions around 200 centres, seed 5.`,
        rows,
        figures: {
          median_ms: medianFigure(times, "a search, from when it is sent, the others with it"),
          p95_ms: [at(0.95), "of 95 of 100 of them at most"],
          slowest_ms: [at(1), "of the slowest"],
        },
        bars: [
          atMost("searches that failed", failed, 0),
          atMost("rows that exist, were asked for and did not come", missing, 0),
        ],
      };
    });
  } finally {
    await Promise.allSettled(clients.map((client) => client.end()));
    await dropDatabase(server, name);
  }
};
