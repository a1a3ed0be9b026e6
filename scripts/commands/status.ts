/** `reembed status`: where each version stands, what is left, what failed and why, what was spent. */
import type { Command } from "commander";
import { z } from "zod";
import { budgetState, describeBudget } from "../../supabase/functions/_shared/budget.ts";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, dollars, duration, type Output, percent, table } from "../lib/output.ts";

const versionStatus = z.object({
  version: z.number(),
  space: z.string(),
  state: z.string(),
  active: z.boolean(),
  maintained: z.boolean(),
  /** Rows with a record and no job. */
  current: z.number(),
  coverage: z.number(),
  pending: z.number(),
  leased: z.number(),
  failed: z.number(),
  oldest_seconds: z.number().nullable(),
  reasons: z.array(z.object({ error: z.string(), rows: z.number() })),
  tokens: z.number(),
  cost_usd: z.number(),
  tokens_reserved: z.number(),
  cost_usd_reserved: z.number(),
  paused: z.string().nullable(),
  paused_until: z.string().nullable(),
});

const statusAnswer = z.object({
  collections: z.array(
    z.object({
      collection: z.string(),
      table: z.string(),
      rows: z.number(),
      rows_estimated: z.boolean(),
      versions: z.array(versionStatus),
    }),
  ),
  budgets: z.array(budgetState),
  queries: z.object({
    requests: z.number(),
    tokens: z.number(),
    cost_usd: z.number(),
    cached: z.number(),
    /** How often those that are cached have answered without a request. */
    hits: z.number(),
  }),
});

type Status = z.infer<typeof statusAnswer>;

type Version = z.infer<typeof versionStatus>;

export function addStatus(program: Command): void {
  withDatabaseOptions(program.command("status"))
    .description("Shows where each version stands, what failed and what was spent.")
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- status --json")
    .action(async (options: DatabaseOptions) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const [row] = await db.query<{ status: unknown }>("select reembed.status() as status");
        const status = statusAnswer.parse(row?.status);
        print(status, out);
        out.result(status);
      });
    });
}

const HEADINGS = [
  "version",
  "space",
  "state",
  "current",
  "coverage",
  "pending",
  "leased",
  "failed",
  "oldest",
  "tokens",
  "cost",
];

function print({ collections, budgets, queries }: Status, out: Output): void {
  if (collections.length === 0) out.say("No collection is registered yet.");
  for (const collection of collections) {
    const rows = `${collection.rows_estimated ? "about " : ""}${collection.rows} rows`;
    out.say(`${collection.collection} (${collection.table}, ${rows})`);
    for (const line of table(HEADINGS, collection.versions.map(cells))) out.say(`  ${line}`);
    for (const line of collection.versions.flatMap(remarks)) out.say(`  ${line}`);
    out.say("");
  }
  for (const budget of budgets) {
    out.say(`${describeBudget(budget)}${budget.exhausted ? "; nothing more is bought until then" : ""}`);
  }
  out.say(
    `queries: ${queries.requests} embedded, ${queries.tokens} tokens, ${dollars(queries.cost_usd)}; ${queries.cached} cached, which answered ${queries.hits} more`,
  );
}

function cells(version: Version): string[] {
  return [
    `v${version.version}${version.active ? " active" : ""}`,
    version.space,
    version.state,
    String(version.current),
    percent(version.coverage),
    String(version.pending),
    String(version.leased),
    String(version.failed),
    version.oldest_seconds === null ? "-" : duration(version.oldest_seconds),
    String(version.tokens),
    dollars(version.cost_usd),
  ];
}

/** What needs words: reservations, failures with their reasons, pauses. */
function remarks(version: Version): string[] {
  const name = `v${version.version}`;
  const lines: string[] = [];
  if (version.tokens_reserved > 0)
    lines.push(
      `${name}: ${version.tokens_reserved} tokens (${dollars(version.cost_usd_reserved)}) are reserved for requests under way`,
    );
  for (const { error, rows } of version.reasons) lines.push(`${name}: ${rows} failed: ${error}`);
  if (version.paused !== null) lines.push(`${name}: ${version.space} is paused: ${version.paused}`);
  return lines;
}
