/** `reembed estimate`: what a version would cost in tokens, dollars, hours and disk, before anything is bought. */
import type { Command } from "commander";
import { z } from "zod";
import { hasImages, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { LONG_TEXT_POLICIES } from "../../supabase/functions/_shared/long-text.ts";
import { modelsOf, mostTokensOfADescription } from "../../supabase/functions/_shared/providers/described.ts";
import { UTF8_BYTES_PER_TOKEN } from "../../supabase/functions/_shared/tokens.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { bytesOfVectors, indexableType, type VectorType } from "../lib/disk.ts";
import { createTally, type Totals } from "../lib/estimate.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, dollars, duration, type Output } from "../lib/output.ts";
import { startProgress } from "../lib/progress.ts";
import { chooseCollection, chooseVersion, type VersionEntry } from "../lib/targets.ts";
import { loadTokenizer, type Tokenizer } from "../lib/tokenizer.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly space?: string;
  readonly exact?: boolean;
  readonly sample?: number;
  readonly tpm?: number;
}

/** Rows a page: at most so many texts are in memory at once. */
const PAGE_ROWS = 500;

const page = z.object({
  rows: z.number(),
  current: z.number(),
  copies: z.number(),
  texts: z.array(z.object({ hash: z.string(), bytes: z.number(), text: z.string().nullable() })),
  last: z.string().nullable(),
});

const facts = z.object({
  space: z.custom<Space>(),
  price: z.number(),
  /** What a token costs in the batch lane, as a share of its usual price. */
  batch_factor: z.number(),
  type: z.enum(["vector", "halfvec"]),
  policy: z.enum(LONG_TEXT_POLICIES),
  count: z.string(),
});

export function addEstimate(program: Command): void {
  withDatabaseOptions(program.command("estimate"))
    .description(
      "Says what a version would cost in tokens, dollars, hours and disk, before anything is bought.",
    )
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; default: the newest", versionNumber)
    .option("--space <id>", "as for a new version in this space, provider/model@dimensions", textUpTo(200))
    .option("--exact", "count the tokens of every text; the default")
    .option(
      "--sample <texts>",
      "count the tokens of about so many texts, and conclude from them",
      wholeNumber(1, 1_000_000_000),
    )
    .option(
      "--tpm <tokens>",
      "your limit at the provider, in tokens a minute",
      wholeNumber(1, 1_000_000_000_000),
    )
    .addHelpText(
      "after",
      `
Tokens are counted for OpenAI's models, and estimated at one for every four bytes for others.

Example:
  npm run -s reembed -- estimate --collection course_content --version 2 --tpm 1000000`,
    )
    .action(estimate);
}

async function estimate(options: Options): Promise<void> {
  for (const [one, other] of [
    ["space", "version"],
    ["exact", "sample"],
  ] as const) {
    if (options[one] !== undefined && options[other] !== undefined)
      throw new ReembedError(
        "invalid_request",
        `--${one} and --${other} exclude each other`,
        "Give one of them.",
      );
  }
  const out = createOutput(options.json);
  await withDatabase(options, (db) => estimateIn(db, options, out));
}

async function estimateIn(db: Database, options: Options, out: Output): Promise<void> {
  const version = await chooseVersion(db, await chooseCollection(db, options.collection), options.version);
  const { space, price, batch_factor, type, policy, count } = await factsOf(db, version, options.space);
  const [table] = await db.query<{ rows: number }>(count);
  const rowsNow = table?.rows ?? 0;
  const tokenizer = await loadTokenizer(space);
  const share = tokenizer === undefined ? 0 : Math.min(1, (options.sample ?? rowsNow) / Math.max(rowsNow, 1));

  const tally = createTally(space, policy, tokenizer);
  const read = { rows: 0, current: 0, copies: 0 };
  const costOf = ({ tokens }: Totals) => (tokens * price) / 1_000_000;
  const progress = startProgress();
  try {
    for (let after: string | null = null, more = true; more; more = after !== null) {
      const [answer]: { page: unknown }[] = await db.query<{ page: unknown }>(
        "select reembed.texts_to_embed($1, $2, $3, $4, $5, $6) as page",
        [
          version.id,
          options.space !== undefined,
          after,
          PAGE_ROWS,
          share,
          space.max_input_tokens * UTF8_BYTES_PER_TOKEN,
        ],
      );
      const { texts, last, ...counts } = page.parse(answer?.page);
      read.rows += counts.rows;
      read.current += counts.current;
      read.copies += counts.copies;
      tally.add(texts);
      after = last;
      progress.update(read.rows, Math.max(rowsNow, read.rows), costOf(tally.totals()));
    }
  } finally {
    progress.stop();
  }

  const totals = tally.totals();
  const cost = costOf(totals);
  const vectors = read.rows - totals.blank;
  const [index] = await db.query<{ bytes: number }>(
    "select reembed.hnsw_bytes($1, $2, $3)::float8 as bytes",
    [vectors, type, space.dimensions],
  );
  const result = {
    collection: version.collection,
    version: options.space === undefined ? version.version : null,
    space: space.id,
    rows: read.rows,
    current: read.current,
    copies: read.copies + totals.copies,
    blank: totals.blank,
    texts: totals.texts,
    tokens: totals.tokens,
    counted: tokenizer === undefined ? "estimated" : share < 1 ? "sampled" : "exact",
    tokenizer: tokenizer?.name ?? null,
    over_long: totals.overLong,
    long_text: policy,
    cost_usd: cost,
    batch_cost_usd: space.provider === "openai" ? cost * batch_factor : null,
    descriptions_at_most_usd: await costOfDescriptions(db, space, totals.texts),
    tokens_per_minute: options.tpm ?? null,
    hours: options.tpm === undefined ? null : totals.tokens / options.tpm / 60,
    disk: {
      type,
      vectors_bytes: bytesOfVectors(vectors, type, space.dimensions),
      index_bytes: index?.bytes ?? 0,
    },
  };
  print(result, space, tokenizer, out);
  if (space.provider === "openai" && price === 0) {
    out.note(
      `hint: ${space.id} has no price: update reembed.spaces set price_per_mtok = <US dollars per million tokens> where id = '${space.id}';`,
    );
  }
  out.result(result);
}

/**
 * What the registry knows of the version, or of the space that a new version of its collection would have.
 * @throws ReembedError `invalid_request` where the space is not registered
 */
async function factsOf(
  db: Database,
  version: VersionEntry,
  spaceId: string | undefined,
): Promise<z.infer<typeof facts>> {
  const [row] = await db.query(
    `select jsonb_build_object('id', s.id, 'provider', s.provider, 'model', s.model, 'dimensions', s.dimensions, 'query_prefix', s.query_prefix,
              'document_prefix', s.document_prefix, 'max_input_tokens', s.max_input_tokens, 'image_tokens', s.image_tokens) as space,
            s.price_per_mtok::float8 as price, reembed.batch_price_factor()::float8 as batch_factor, t.typname as type, c.long_text as policy, format('select count(*)::float8 as rows from %s', c.source_table) as count
       from reembed.versions v
       join reembed.collections c on c.id = v.collection_id
       join reembed.spaces s on s.id = coalesce($2, v.space_id)
       join pg_attribute a on a.attrelid = v.vector_table and a.attname = v.vector_column
       join pg_type t on t.oid = a.atttypid
      where v.id = $1`,
    [version.id, spaceId ?? null],
  );
  if (row === undefined) {
    throw new ReembedError(
      "invalid_request",
      `--space: no space is registered as ${spaceId}`,
      "Register it: select reembed.add_space('provider', 'model', dimensions, price_per_mtok => 0.02);",
    );
  }
  const found = facts.parse(row);
  return spaceId === undefined ? found : { ...found, type: indexableType(found.space.dimensions) };
}

interface Result {
  readonly collection: string;
  readonly version: number | null;
  readonly rows: number;
  readonly current: number;
  readonly copies: number;
  readonly blank: number;
  readonly texts: number;
  readonly tokens: number;
  readonly counted: string;
  readonly over_long: number;
  readonly long_text: string;
  readonly cost_usd: number;
  readonly batch_cost_usd: number | null;
  /** Where images are described before they are embedded, what that may cost beside `cost_usd`. */
  readonly descriptions_at_most_usd: number | null;
  readonly tokens_per_minute: number | null;
  readonly hours: number | null;
  readonly disk: { readonly type: VectorType; readonly vectors_bytes: number; readonly index_bytes: number };
}

function print(result: Result, space: Space, tokenizer: Tokenizer | undefined, out: Output): void {
  const n = (count: number) => count.toLocaleString("en");
  const how = hasImages(space)
    ? `${space.image_tokens} for each image`
    : tokenizer === undefined
      ? "estimated: one for every four bytes"
      : `${result.counted === "exact" ? "counted" : "from a sample"} with ${tokenizer.name}`;
  const { disk } = result;
  out.say(`${result.collection} ${result.version === null ? "in" : `v${result.version}:`} ${space.id}`);
  out.say(
    `rows    ${n(result.rows)}: ${n(result.current)} current, ${n(result.copies)} copies of another's text, ${n(result.blank)} blank`,
  );
  out.say(`buy     ${n(result.texts)} texts, ${n(result.tokens)} tokens (${how})`);
  if (result.over_long > 0) {
    out.say(
      `long    ${n(result.over_long)} texts have more than ${n(space.max_input_tokens)} tokens: ${result.long_text === "fail" ? "their rows fail" : "they are truncated"}`,
    );
  }
  out.say(
    `price   ${dollars(result.cost_usd)}${result.batch_cost_usd === null ? "" : `; ${dollars(result.batch_cost_usd)} at the provider's batch price`}`,
  );
  if (result.descriptions_at_most_usd !== null) {
    out.say(
      `        and at most ${dollars(result.descriptions_at_most_usd)} for descriptions; a picture that is described already costs none`,
    );
  }
  out.say(
    result.hours === null
      ? "time    pass --tpm, your limit at the provider in tokens a minute"
      : `time    ${duration(result.hours * 3_600)} at ${n(result.tokens_per_minute ?? 0)} tokens a minute, if nothing else is slower`,
  );
  out.say(
    `disk    ${size(disk.vectors_bytes)} of vectors, ${size(disk.index_bytes)} of index${disk.type === "vector" ? ", as halfvec about half" : ""}`,
  );
}

/**
 * What the language model of a space of described images may ask for as many, by what is reserved for each; null for other spaces.
 * @throws ReembedError `refused` where the database does not know the model's price
 */
async function costOfDescriptions(db: Database, space: Space, images: number): Promise<number | null> {
  if (space.provider !== "described") return null;
  const id = `openai/${modelsOf(space)?.chat}`;
  const { inputTokens, outputTokens } = mostTokensOfADescription();
  const [row] = await db.query<{ usd: number }>(
    "select reembed.completion_cost(m, $2, $3)::float8 as usd from reembed.completion_models m where m.id = $1",
    [id, inputTokens, outputTokens],
  );
  if (row === undefined) {
    throw new ReembedError(
      "refused",
      `the language model ${id} has no price here`,
      "Make it known: reembed.set_completion_model.",
    );
  }
  return row.usd * images;
}

/** Bytes in PostgreSQL's own units of 1,024. */
function size(bytes: number): string {
  const kilobytes = bytes / 1_024;
  if (kilobytes < 10_240) return `${Math.ceil(kilobytes)} kB`;
  return kilobytes < 10_240 * 1_024
    ? `${Math.round(kilobytes / 1_024)} MB`
    : `${Math.round(kilobytes / 1_024 / 1_024)} GB`;
}
