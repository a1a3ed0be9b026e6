/** What `reembed.status()` says, typed, and in words. */
import { z } from "zod";
import { budgetState, describeBudget, nameOfBudget } from "../../supabase/functions/_shared/budget.ts";
import type { Database } from "./connection.ts";
import { describeBuild, indexState } from "./index-build.ts";
import { dollars, duration, percent, plural, table } from "./output.ts";

const versionStatus = z.object({
  version: z.number(),
  space: z.string(),
  state: z.string(),
  active: z.boolean(),
  maintained: z.boolean(),
  /** Rows without a job. */
  current: z.number(),
  /** The share of rows that have a vector, be it of an older text. */
  coverage: z.number(),
  pending: z.number(),
  pending_edits: z.number(),
  leased: z.number(),
  failed: z.number(),
  reasons: z.array(z.object({ error: z.string(), rows: z.number() })),
  oldest_edit_seconds: z.number().nullable(),
  oldest_backfill_seconds: z.number().nullable(),
  /** Over the last minute. */
  rows_per_second: z.number(),
  /** Null while nothing moves. */
  eta_seconds: z.number().nullable(),
  /** The exhausted budget because of which nothing is bought. */
  budget: budgetState.nullable(),
  index: indexState,
  tokens: z.number(),
  cost_usd: z.number(),
  tokens_reserved: z.number(),
  cost_usd_reserved: z.number(),
});

const spaceStatus = z.object({
  space: z.string(),
  /** Why it is paused. */
  paused: z.string().nullable(),
  paused_until: z.string().nullable(),
  /** No request before, because of the provider's rate. */
  waits_until: z.string().nullable(),
  /** For the rate, in a row. */
  refusals: z.number(),
  in_flight: z.number(),
  max_in_flight: z.number(),
  tokens_per_minute: z.number().nullable(),
  requests_per_minute: z.number().nullable(),
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
  spaces: z.array(spaceStatus),
  budgets: z.array(budgetState),
  queries: z.object({
    requests: z.number(),
    tokens: z.number(),
    cost_usd: z.number(),
    cached: z.number(),
    /** How often those that are cached have answered without a request. */
    hits: z.number(),
  }),
  /** What language models were asked, by model and purpose. */
  completions: z.array(
    z.object({
      model: z.string(),
      purpose: z.string(),
      requests: z.number(),
      input_tokens: z.number(),
      output_tokens: z.number(),
      cost_usd: z.number(),
      cost_usd_reserved: z.number(),
    }),
  ),
});

export type Status = z.infer<typeof statusAnswer>;
type Version = z.infer<typeof versionStatus>;
type Space = z.infer<typeof spaceStatus>;

/**
 * @param collection none: all
 * @throws ReembedError `unknown_collection`
 */
export async function readStatus(db: Database, collection?: string): Promise<Status> {
  const [row] = await db.query<{ status: unknown }>("select reembed.status($1) as status", [
    collection ?? null,
  ]);
  return statusAnswer.parse(row?.status);
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
  "rows/s",
  "ETA",
  "oldest edit",
  "oldest backfill",
  "tokens",
  "cost",
];

/** All of it, as lines for a person. */
export function describeStatus({ collections, spaces, budgets, queries, completions }: Status): string[] {
  const lines: string[] = [];
  if (collections.length === 0) lines.push("No collection is registered yet.");
  for (const { collection, table: source, rows, rows_estimated, versions } of collections) {
    lines.push(`${collection} (${source}, ${rows_estimated ? "about " : ""}${rows} rows)`);
    for (const line of [...table(HEADINGS, versions.map(cells)), ...versions.flatMap(remarks)])
      lines.push(`  ${line}`);
    lines.push("");
  }
  lines.push(...spaces.flatMap(describeSpace));
  for (const budget of budgets)
    lines.push(`${describeBudget(budget)}${budget.exhausted ? "; nothing more is bought until then" : ""}`);
  lines.push(
    `queries: ${queries.requests} embedded, ${queries.tokens} tokens, ${dollars(queries.cost_usd)}; ${queries.cached} cached, which answered ${queries.hits} more`,
  );
  for (const { model, purpose, requests, input_tokens, output_tokens, ...cost } of completions) {
    const reserved = cost.cost_usd_reserved > 0 ? `, ${dollars(cost.cost_usd_reserved)} reserved` : "";
    lines.push(
      `${purpose} by ${model}: ${plural(requests, "request")}, ${plural(input_tokens, "token")} in, ${output_tokens} out, ${dollars(cost.cost_usd)}${reserved}`,
    );
  }
  return lines;
}

/** What changes from minute to minute: a line for each maintained version, and what holds it up. */
export function summarizeStatus({ collections, spaces }: Status): string[] {
  const lines = collections.flatMap(({ collection, versions }) =>
    versions
      .filter(({ maintained }) => maintained)
      .map((version) => {
        const parts = [
          `${collection} v${version.version} ${version.state}${version.active ? " active" : ""}`,
          `${version.current} current (${percent(version.coverage)} covered)`,
          `${version.pending} pending`,
          `${version.leased} leased`,
          `${version.failed} failed`,
          `${rate(version)} rows/s`,
          `ETA ${eta(version)}`,
          `oldest edit ${age(version.oldest_edit_seconds)}`,
          `${version.tokens} tokens`,
          `${dollars(version.cost_usd)} spent`,
          `${dollars(version.cost_usd_reserved)} reserved`,
        ];
        const index = describeBuild(version.index, version.current);
        if (index !== undefined) parts.push(`index ${index}`);
        if (version.budget) parts.push(`${nameOfBudget(version.budget)} is spent`);
        return parts.join(", ");
      }),
  );
  return [...lines, ...spaces.flatMap(heldUp)];
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
    rate(version),
    eta(version),
    age(version.oldest_edit_seconds),
    age(version.oldest_backfill_seconds),
    String(version.tokens),
    dollars(version.cost_usd),
  ];
}

const age = (seconds: number | null): string => (seconds === null ? "-" : duration(seconds));
const rate = ({ rows_per_second: rows }: Version): string =>
  rows === 0 || rows >= 10 ? rows.toFixed(0) : rows.toPrecision(2);
const eta = ({ pending, eta_seconds }: Version): string =>
  pending === 0 || eta_seconds === null ? "-" : duration(eta_seconds);

/** What needs words: reservations, an index that is being built or was left, failures with their reasons, a budget that is spent. */
function remarks(version: Version): string[] {
  const name = `v${version.version}`;
  const lines: string[] = [];
  if (version.tokens_reserved > 0)
    lines.push(
      `${name}: ${version.tokens_reserved} tokens (${dollars(version.cost_usd_reserved)}) are reserved for requests under way`,
    );
  const index = describeBuild(version.index, version.current);
  if (index !== undefined) lines.push(`${name}: its index ${index}`);
  for (const { error, rows } of version.reasons) lines.push(`${name}: ${rows} failed: ${error}`);
  if (version.budget)
    lines.push(`${name}: nothing is bought, ${nameOfBudget(version.budget)} is spent or too small`);
  return lines;
}

/** A space that is asked, has said what it allows, or is held up. */
function describeSpace(space: Space): string[] {
  const held = heldUp(space);
  if (held.length > 0) return held;
  const { in_flight, max_in_flight, tokens_per_minute } = space;
  if (in_flight === 0 && tokens_per_minute === null) return [];
  const allowed =
    tokens_per_minute === null
      ? ""
      : `; the provider allows ${Math.round(tokens_per_minute)} tokens a minute`;
  return [`${space.space}: ${in_flight} of at most ${max_in_flight} requests under way${allowed}`];
}

function heldUp({ space, paused, paused_until, waits_until, refusals }: Space): string[] {
  if (paused !== null) {
    const until =
      paused_until === null || paused_until === "infinity"
        ? `until reembed resume ${space}`
        : `until ${paused_until}`;
    return [`${space} is paused ${until}: ${paused}`];
  }
  if (waits_until === null) return [];
  const times = refusals > 0 ? `, refused ${refusals} times in a row` : "";
  return [`${space} waits for its provider's rate limit until ${waits_until}${times}`];
}
