/** The gates of a cutover, and what cutover and rollback tell: from where to where, how stale it is there, and what the version left goes on costing. */
import { z } from "zod";
import type { Database } from "./connection.ts";
import { dollars, duration, type Output, table } from "./output.ts";

const gate = z.object({
  gate: z.string(),
  /** Null where there is nothing to measure. */
  figure: z.union([z.number(), z.string(), z.boolean(), z.null()]),
  bound: z.union([z.number(), z.string(), z.boolean()]),
  passes: z.boolean(),
  why: z.string(),
});

export type Gate = z.infer<typeof gate>;

const upkeep = z.object({
  version: z.number(),
  space: z.string(),
  maintained: z.boolean(),
  /** Why nothing can be embedded in it now. */
  unreachable: z.string().nullable(),
  /** Rows whose vector is out of date. */
  jobs: z.number(),
  oldest_seconds: z.number().nullable(),
  tokens: z.number(),
  cost_usd: z.number(),
  tokens_30_days: z.number(),
  cost_usd_30_days: z.number(),
});

export type Upkeep = z.infer<typeof upkeep>;

const switched = z.object({
  collection: z.string(),
  from: z.number(),
  to: z.number(),
  stale: z.number(),
  oldest_seconds: z.number().nullable(),
  left: upkeep,
});

/** What holds a cutover or lets it pass, and how fresh the active version is, which it would leave. */
export interface Outlook {
  readonly gates: readonly Gate[];
  readonly active: Upkeep;
}

/** Reads the gates. Throws ReembedError `unknown_collection`, `unknown_version`. */
export async function readOutlook(db: Database, collection: string, version: number): Promise<Outlook> {
  const [row] = await db.query<{ gates: unknown; active: unknown }>(
    `select reembed.gates($1, $2) as gates,
            reembed.upkeep($1, (select v.number from reembed.collections c join reembed.versions v on v.id = c.active_version where c.name = $1)) as active`,
    [collection, version],
  );
  return { gates: z.array(gate).parse(row?.gates), active: upkeep.parse(row?.active) };
}

/** A line for each gate under a heading, and a warning where the version that would be left cannot be kept current. */
export function describeOutlook({ gates, active }: Outlook): string[] {
  const rows = gates.map(({ gate: name, figure, bound, passes, why }) => [
    name,
    figure === null ? "-" : typeof figure === "number" ? String(Number(figure.toFixed(4))) : String(figure),
    String(bound),
    passes ? "passes" : "holds",
    why,
  ]);
  return [...table(["gate", "figure", "bound", "", "why"], rows), ...warnOf(active)];
}

/** Runs the one statement that switches a collection's active version and prints what it did. Throws ReembedError when it is refused. */
export async function switchVersion(
  db: Database,
  out: Output,
  sql: string,
  values: readonly unknown[],
): Promise<void> {
  const began = performance.now();
  const [row] = await db.query<{ answer: unknown }>(sql, values);
  const milliseconds = Math.round((performance.now() - began) * 10) / 10;
  const answer = switched.loose().parse(row?.answer);
  const { collection, from, to, stale, oldest_seconds, left } = answer;
  const age = oldest_seconds === null ? "" : `, the oldest since ${duration(oldest_seconds)}`;
  out.say(
    `${collection}: v${from} -> v${to} in ${milliseconds} ms; ${stale === 0 ? "none" : stale} of its rows ${stale === 1 ? "is" : "are"} stale${age}`,
  );
  out.say(
    `v${left.version} stays maintained in ${left.space} until it is finalized: edits are embedded in both; so far it cost ${dollars(left.cost_usd)} (${left.tokens} tokens), ${dollars(left.cost_usd_30_days)} of it in 30 days`,
  );
  for (const line of warnOf(left)) out.say(line);
  out.result({ ...answer, switched: true, milliseconds });
}

function warnOf({ version, unreachable, jobs }: Upkeep): string[] {
  if (unreachable === null) return [];
  return [
    `warning: nothing can be embedded for v${version} now (${unreachable}): its edits pile up, and a rollback finds so many rows stale; now ${jobs}`,
  ];
}
