/** What a run has cost, out of the ledger. */
import type { Database } from "./connection.ts";

export interface Spending {
  readonly tokens: number;
  readonly costUsd: number;
}

/** The database's clock, as a text that goes back into it unchanged. */
export async function timeOf(db: Database): Promise<string> {
  const [row] = await db.query<{ now: string }>("select clock_timestamp()::text as now");
  return row?.now ?? "-infinity";
}

/** Tokens and dollars of a version's settled and lost requests since then, whoever made them. */
export async function spentSince(db: Database, versionId: number, since: string): Promise<Spending> {
  const [row] = await db.query<{ tokens: number; costUsd: number }>(
    `select coalesce(sum(u.tokens), 0)::float8 as tokens, coalesce(sum(u.cost_usd), 0)::float8 as "costUsd"
       from reembed.usage u where u.version_id = $1 and u.at >= $2 and u.state <> 'reserved'`,
    [versionId, since],
  );
  return row ?? { tokens: 0, costUsd: 0 };
}
