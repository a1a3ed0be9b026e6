/** Embeds an evaluation's queries in one space: what the query cache knows is not bought again, the rest goes out in as few requests as possible. */
import { setTimeout as pause } from "node:timers/promises";
import { z } from "zod";
import { sha256 } from "../../../supabase/functions/_shared/digest.ts";
import type { Embedded, Embedder, Space } from "../../../supabase/functions/_shared/embedder.ts";
import { ReembedError } from "../../../supabase/functions/_shared/errors.ts";
import { ProviderError } from "../../../supabase/functions/_shared/provider-error.ts";
import { chargedFor, normalizeQuery } from "../../../supabase/functions/_shared/queries.ts";
import { estimateTokens } from "../../../supabase/functions/_shared/tokens.ts";
import type { Database } from "../connection.ts";

export interface EmbeddedQueries {
  /** pgvector's text of each query, in the order of the queries. */
  readonly vectors: readonly string[];
  /** Requests that were sent, and the tokens that the provider billed for them. */
  readonly requests: number;
  readonly tokens: number;
}

/** Far inside what OpenAI takes in one request. */
const MOST_INPUTS = 1_024;
const MOST_TOKENS = 100_000;

/** A provider that asks to wait is asked again: so often, and never after a longer wait than this. */
const TRIES = 5;
const LONGEST_WAIT_MS = 30_000;

const begun = z.union([
  z.object({ embeddings: z.record(z.string(), z.string()), ticket: z.number().nullable() }),
  z.object({ refused: z.literal("budget"), retry_seconds: z.number() }),
]);

interface Query {
  readonly text: string;
  readonly hash: string;
  readonly tokens: number;
}

/**
 * Embeds queries as `search` does: in Unicode NFC, trimmed, with the space's prefix. Requests stand in the ledger as queries.
 * @throws ReembedError `budget_spent` before anything is sent; ProviderError after what it charged was written down
 */
export async function embedQueries(
  db: Database,
  embedderFor: (space: Space) => Embedder,
  space: Space,
  queries: readonly string[],
): Promise<EmbeddedQueries> {
  const embedder = embedderFor(space);
  const texts = queries.map(normalizeQuery);
  const distinct = [...new Set(texts)];
  const known = new Map<string, string>();
  const paid = { requests: 0, tokens: 0 };
  if (space.provider === "hash") {
    // Computed here and free: it knows neither cache nor ledger.
    const { vectors } = await embedder.embed(distinct, { purpose: "query" });
    for (const [index, vector] of vectors.entries()) known.set(distinct[index] ?? "", asText(vector));
  } else {
    for (const batch of await batchesOf(space, distinct)) {
      const answer = await embedBatch(db, embedder, batch);
      for (const { text, hash } of batch) known.set(text, answer.embeddings.get(hash) ?? "");
      paid.requests += answer.requests;
      paid.tokens += answer.tokens;
    }
  }
  return { vectors: texts.map((text) => known.get(text) ?? ""), ...paid };
}

async function batchesOf(space: Space, texts: readonly string[]): Promise<Query[][]> {
  const batches: Query[][] = [];
  let batch: Query[] = [];
  let tokensInBatch = 0;
  for (const text of texts) {
    const tokens = estimateTokens(space.query_prefix + text);
    if (batch.length === MOST_INPUTS || (batch.length > 0 && tokensInBatch + tokens > MOST_TOKENS)) {
      batches.push(batch);
      batch = [];
      tokensInBatch = 0;
    }
    batch.push({ text, hash: await sha256(text), tokens });
    tokensInBatch += tokens;
  }
  return batch.length > 0 ? [...batches, batch] : batches;
}

async function embedBatch(db: Database, embedder: Embedder, batch: readonly Query[]) {
  const { space } = embedder;
  const [row] = await db.query<{ answer: unknown }>("select reembed.begin_queries($1, $2, $3) as answer", [
    space.id,
    batch.map(({ hash }) => hash),
    batch.map(({ tokens }) => tokens),
  ]);
  const answer = begun.parse(row?.answer);
  if ("refused" in answer) {
    throw new ReembedError(
      "budget_spent",
      "the budget for embedding queries is spent",
      "Raise it with reembed.set_budget, or wait until it renews.",
    );
  }
  const embeddings = new Map(Object.entries(answer.embeddings));
  const missing = batch.filter(({ hash }) => !embeddings.has(hash));
  if (answer.ticket === null || missing.length === 0) return { embeddings, requests: 0, tokens: 0 };

  const began = performance.now();
  const settle = async (
    entry: { tokens: number | null; outcome: string; state: "settled" | "lost" },
    vectors: readonly string[],
  ) => {
    await db.query("select reembed.end_queries($1, $2, $3, $4, $5, $6, $7)", [
      answer.ticket,
      missing.slice(0, vectors.length).map(({ hash }) => hash),
      vectors,
      entry.tokens,
      Math.round(performance.now() - began),
      entry.outcome,
      entry.state,
    ]);
  };
  let embedded: Embedded;
  try {
    embedded = await patiently(() =>
      embedder.embed(
        missing.map(({ text }) => text),
        { purpose: "query" },
      ),
    );
  } catch (error) {
    const estimate = missing.reduce((sum, { tokens }) => sum + tokens, 0);
    // Should this fail too, the reservation stands and counts as spent; the caller hears of the provider.
    await Promise.allSettled([settle(chargedFor(error, estimate), [])]);
    throw error;
  }
  const vectors = embedded.vectors.map(asText);
  await settle({ tokens: embedded.usage.tokens, outcome: "ok", state: "settled" }, vectors);
  for (const [index, { hash }] of missing.entries()) embeddings.set(hash, vectors[index] ?? "");
  return { embeddings, requests: 1, tokens: embedded.usage.tokens };
}

/** Asks again as long as the provider only asks to wait, which it does not charge. */
async function patiently(request: () => Promise<Embedded>): Promise<Embedded> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof ProviderError && error.class === "rate_limit" && tries < TRIES)) throw error;
      await pause(Math.min(LONGEST_WAIT_MS, error.retryAfterMs ?? 1_000 * 2 ** tries));
    }
  }
}

function asText(vector: readonly number[] | null): string {
  // The inputs of one text query fail only together with their request.
  return `[${(vector ?? []).join(",")}]`;
}
