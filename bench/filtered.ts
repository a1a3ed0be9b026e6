/**
 * What a search finds for callers who may see little, some or all of a table, and how long it takes: as rows' owners and as members of teams, under row
 * level security and under a filter argument, against what an exact scan finds and against the same query with pgvector's defaults.
 */
import { MIGRATIONS_DIRECTORY } from "../scripts/lib/migrations.ts";
import { cloneDatabase, databaseUrl, dropDatabase, withClient } from "../scripts/lib/test-server.ts";
import { atLeast, atMost, type Bar, type Benchmark, type Figure, rounded, timed } from "./measure.ts";
import {
  asCaller,
  type Caller,
  createSharedTable,
  DIMENSIONS,
  POLICIES,
  type Policy,
  setPolicy,
} from "./shared-table.ts";

const COUNT = 10;
const QUERIES = 20;
const ROUNDS = 3;
const P95_MS = 50;
/** Those whose searches must not take longer than that. */
const BOUND = ["3", "200", "10000"];

const SEARCH = "select id, 1 - similarity as distance from public.match_shared($1, null, $2)";
const BY_OWNER =
  "select id, 1 - similarity as distance from public.match_shared($1, null, $2, filter_owner_id => $3::uuid)";
const BY_TEAMS =
  "select id, 1 - similarity as distance from public.match_shared($1, null, $2, filter_team_any => $3::int[])";
/** As an app writes it, under what a new connection has: ef_search 40 and no iterative scan. */
const DEFAULTS = `select s.id, v.embedding operator(extensions.<=>) $1::extensions.vector as distance from public.shared s join public.shared_vectors v using (id)
                   order by v.embedding operator(extensions.<=>) $1::extensions.vector limit $2`;

interface Found {
  /** Rows that came, of all that could have. */
  readonly rows: number;
  readonly wanted: number;
  /** Of those that could have come, the share that did or is as near, by distance. */
  readonly recall: number;
  readonly times: readonly number[];
}

const p95 = ({ times }: Found) =>
  [...times].sort((a, b) => a - b)[Math.ceil(0.95 * times.length) - 1] ?? Number.NaN;

export const filtered: Benchmark = async (server, rows = 100_000) => {
  const name = await cloneDatabase(server, { defaults: "new", migrations: MIGRATIONS_DIRECTORY });
  try {
    return await withClient(databaseUrl(server, name, "postgres"), async (client) => {
      const share = (part: number) => Math.max(1, Math.round(rows * part));
      const { callers, queries } = await createSharedTable(
        client,
        rows,
        {
          "3": 3,
          "200": share(0.002),
          "10000": share(0.1),
          "0.1 %": share(0.001),
          "1 %": share(0.01),
          "3 %": share(0.03),
          "5 %": share(0.05),
          "50 %": share(0.5),
        },
        QUERIES,
      );
      const everybody: Caller = {
        name: "100 %",
        id: "00000000-0000-4000-a000-000000000000",
        rows,
        teams: [],
      };

      /** The distances of the nearest rows that a caller sees, by an exact scan, query by query. */
      const exactFor = async (caller: Caller): Promise<number[][]> => {
        const answers: number[][] = [];
        for (const query of queries) {
          const { rows: nearest } = await client.query<{ distance: number }>(
            `select distance from (select v.embedding operator(extensions.<=>) $1::extensions.vector as distance
               from public.shared s join public.shared_vectors v using (id) where $2::uuid is null or s.owner_id = $2 offset 0) x order by distance limit $3`,
            [query, caller === everybody ? null : caller.id, COUNT],
          );
          answers.push(nearest.map(({ distance }) => distance));
        }
        return answers;
      };
      const measure = async (sql: string, exact: readonly number[][], argument?: unknown): Promise<Found> => {
        const times: number[] = [];
        let [found, wanted, right] = [0, 0, 0];
        for (let round = 0; round <= ROUNDS; round += 1) {
          for (const [at, query] of queries.entries()) {
            let answer: { distance: number }[] = [];
            const took = await timed(async () => {
              answer = (
                await client.query(sql, [query, COUNT, ...(argument === undefined ? [] : [argument])])
              ).rows;
            });
            // The first round warms caches.
            if (round > 0) times.push(took);
            if (round !== 1) continue;
            const nearest = exact[at] ?? [];
            const farthest = (nearest.at(-1) ?? 0) + 1e-6;
            found += answer.length;
            wanted += nearest.length;
            right += answer.filter(({ distance }) => distance <= farthest).length;
          }
        }
        return { rows: found, wanted, recall: right / wanted, times };
      };

      const figures: Record<string, Figure> = {};
      const bars: Bar[] = [];
      let missing = 0;
      let leastRecall = 1;
      const note = (key: string, what: string, found: Found, ours: boolean) => {
        figures[`${key}_p95_ms`] = [rounded(p95(found)), `p95 of ${what}`];
        figures[`${key}_recall`] = [
          rounded(found.recall),
          `share of the nearest rows that exist that came to ${what}`,
        ];
        figures[`${key}_rows`] = [found.rows, `rows that came of ${found.wanted} that exist to ${what}`];
        if (!ours) return;
        missing += found.wanted - found.rows;
        leastRecall = Math.min(leastRecall, found.recall);
      };
      const exact = new Map<Caller, number[][]>();
      for (const caller of [...callers, everybody]) exact.set(caller, await exactFor(caller));
      const keyOf = ({ name }: Caller) => name.replace(" %", "_percent").replace(".", "_");

      for (const policy of Object.keys(POLICIES) as Policy[]) {
        await setPolicy(client, policy);
        for (const caller of callers) {
          const truth = exact.get(caller) ?? [];
          const key = `${policy}_${keyOf(caller)}`;
          const who = `a caller who sees ${caller.rows} rows by ${policy}`;
          const ours = await asCaller(client, caller, () => measure(SEARCH, truth));
          note(`${key}_rls`, `${who}, under RLS`, ours, true);
          if (BOUND.includes(caller.name)) {
            bars.push(atMost(`milliseconds of p95 of ${who}`, p95(ours), P95_MS));
          }
          const defaults = await asCaller(client, caller, () => measure(DEFAULTS, truth));
          note(`${key}_rls_defaults`, `${who}, under RLS, with pgvector's defaults`, defaults, false);
          const filter =
            policy === "owner" ? measure(BY_OWNER, truth, caller.id) : measure(BY_TEAMS, truth, caller.teams);
          note(
            `${key}_filter`,
            `a search that asks for ${caller.rows} rows by ${policy}, as a filter argument`,
            await filter,
            true,
          );
        }
      }
      await setPolicy(client, "everybody");
      const truth = exact.get(everybody) ?? [];
      const all = "a caller who sees all rows";
      note(
        "all_rls",
        `${all}, under RLS`,
        await asCaller(client, everybody, () => measure(SEARCH, truth)),
        true,
      );
      note(
        "all_rls_defaults",
        `${all}, with pgvector's defaults`,
        await asCaller(client, everybody, () => measure(DEFAULTS, truth)),
        false,
      );
      return {
        about: `A search for ${COUNT} rows by callers who see little, some or all of the table, against an exact scan and the same query with pgvector's defaults.`,
        data: `${rows} vectors of ${DIMENSIONS} dimensions around 200 centres, seed 5; each caller's rows are drawn from all over; ${QUERIES} queries, ${ROUNDS} rounds.`,
        rows,
        figures,
        bars: [
          atMost("rows that exist, were asked for and did not come", missing, 0),
          atLeast("least recall of any caller", leastRecall, 0.95),
          ...bars,
        ],
      };
    });
  } finally {
    await dropDatabase(server, name);
  }
};
