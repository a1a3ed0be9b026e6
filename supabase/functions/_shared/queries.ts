/**
 * A query becomes a vector: from the cache where it was asked before, else from the provider, with its cost reserved before and settled after.
 * The rate, the budget, the cache and the ledger are the database's; here is the order of things.
 */
import { z } from "zod";
import { sha256 } from "./digest.ts";
import type { Embedded, Embedder, Input, InputFailure, Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { ProviderError } from "./provider-error.ts";
import type { Rpc } from "./rpc.ts";
import { estimateTokens } from "./tokens.ts";

export interface QueryPorts {
  /** The database as service_role. */
  readonly service: Rpc;
  readonly embedderFor: (space: Space) => Embedder;
  /** Who asks, as 64 hexadecimal digits: has a rate. Null: an operator or a service, who has none. */
  readonly callerHash: string | null;
}

export interface EmbeddedQuery {
  /** As pgvector's text. */
  readonly vector: string;
  /** Resolves when the ledger and the cache know of it; rejects when they could not be told. */
  readonly recorded: Promise<void>;
}

/** A search that may not be embedded now; `retryAfterMs` becomes the header `retry-after`. */
export class QueryRefused extends ReembedError {
  readonly retryAfterMs: number;

  constructor(code: "rate_limited" | "budget_spent", message: string, hint: string, retryAfterMs: number) {
    super(code, message, hint);
    this.retryAfterMs = retryAfterMs;
  }
}

const begun = z.union([
  z.object({ embedding: z.string() }),
  z.object({ ticket: z.number() }),
  z.object({ refused: z.enum(["rate", "budget"]), retry_seconds: z.number() }),
]);
type Begun = z.output<typeof begun>;

/** Lets a query begin, counted against the rate of whoever this hash stands for; null: of nobody. */
type Begin = (callerHash: string | null) => Promise<Begun>;

/** The query as it is embedded and hashed: in Unicode NFC, without white space at its ends. */
export function normalizeQuery(text: string): string {
  return text.normalize("NFC").trim();
}

/**
 * Embeds a query, a text or a picture, in a space, or finds its embedding. The space `hash` costs nothing and is computed here: it knows neither cache nor rate.
 * @throws QueryRefused when the caller is over the rate or the budget is spent; ReembedError of the provider, after what it charged was written down;
 * `invalid_image` where it does not take the picture
 */
export async function embedQuery(
  ports: QueryPorts,
  space: Space,
  query: Input,
  passRate: (begin: Begin) => Promise<Begun> = (begin) => begin(ports.callerHash),
): Promise<EmbeddedQuery> {
  const embedder = ports.embedderFor(space);
  const input = typeof query === "string" ? normalizeQuery(query) : query;
  if (space.provider === "hash") {
    const vector = asText(await embedder.embed([input], { purpose: "query" }), space);
    return { vector, recorded: Promise.resolve() };
  }

  const tokens =
    typeof input === "string" ? estimateTokens(space.query_prefix + input) : (space.image_tokens ?? 1);
  const query_hash = typeof input === "string" ? await sha256(input) : input.hash;
  const answer = await passRate(async (caller_hash) =>
    begun.parse(
      await ports.service("reembed_begin_query", { space_id: space.id, query_hash, tokens, caller_hash }),
    ),
  );
  if ("embedding" in answer) return { vector: answer.embedding, recorded: Promise.resolve() };
  if ("refused" in answer) throw refusalOf(answer);

  const began = performance.now();
  const record = async (request: {
    tokens: number | null;
    outcome: string;
    state: "settled" | "lost";
    embedding: string | null;
  }) => {
    const latency_ms = Math.round(performance.now() - began);
    await ports.service("reembed_end_query", { ticket: answer.ticket, query_hash, latency_ms, ...request });
  };
  let embedded: Embedded;
  let vector: string;
  try {
    embedded = await embedder.embed([input], { purpose: "query" });
    vector = asText(embedded, space);
  } catch (error) {
    // Should this fail too, the reservation stands and counts as spent; the caller hears of the provider.
    await Promise.allSettled([record({ ...chargedFor(error, tokens), embedding: null })]);
    throw error;
  }
  return {
    vector,
    recorded: record({
      tokens: embedded.usage.tokens,
      outcome: "ok",
      state: "settled",
      embedding: vector,
    }),
  };
}

/**
 * Embeds the query of one search that asks in several spaces: once in each, however many collections share it, and counted once against the caller's rate.
 * @returns as `embedQuery`; of one search, so always for the same query
 */
export function embedOnceASpace(ports: QueryPorts): (space: Space, query: string) => Promise<EmbeddedQuery> {
  let first: Promise<Begun> | undefined;
  const passRate = async (begin: Begin) => {
    if (first === undefined) {
      first = begin(ports.callerHash);
      return first;
    }
    const admitted = await first;
    return "refused" in admitted && admitted.refused === "rate" ? admitted : begin(null);
  };
  const known = new Map<string, Promise<EmbeddedQuery>>();
  return (space, query) => {
    const embedded = known.get(space.id) ?? embedQuery(ports, space, query, passRate);
    known.set(space.id, embedded);
    return embedded;
  };
}

const begunMany = z.union([
  z.object({ embeddings: z.record(z.string(), z.string()), ticket: z.number().nullable() }),
  z.object({ refused: z.enum(["rate", "budget"]), retry_seconds: z.number() }),
]);

export interface EmbeddedQueries {
  /** pgvector's texts, in the order of the queries. */
  readonly vectors: readonly string[];
  /** How many were bought for this; the others were known, or cost nothing. */
  readonly bought: number;
}

/**
 * Embeds queries in a space, all in one request to the provider; each counts in the caller's rate, and equal ones are bought once.
 * @throws as `embedQuery`, for all of them; `invalid_request` where a caller with a rate asks for more than its burst
 */
export async function embedQueries(
  ports: QueryPorts,
  space: Space,
  queries: readonly string[],
): Promise<EmbeddedQueries> {
  const embedder = ports.embedderFor(space);
  const texts = queries.map(normalizeQuery);
  const known = new Map<string, string>();
  let bought = 0;
  if (space.provider === "hash") {
    const distinct = [...new Set(texts)];
    const embedded = await embedder.embed(distinct, { purpose: "query" });
    for (const [index, text] of distinct.entries()) known.set(text, asText(embedded, space, index));
  } else {
    const hashes = await Promise.all(texts.map(sha256));
    const tokens = texts.map((text) => estimateTokens(space.query_prefix + text));
    const answer = begunMany.parse(
      await ports.service("reembed_begin_queries", {
        space_id: space.id,
        query_hashes: hashes,
        tokens,
        caller_hash: ports.callerHash,
      }),
    );
    if ("refused" in answer) throw refusalOf(answer);
    const missing = new Map<string, { text: string; tokens: number }>();
    for (const [index, hash] of hashes.entries()) {
      const stored = answer.embeddings[hash];
      if (stored === undefined) missing.set(hash, { text: texts[index] ?? "", tokens: tokens[index] ?? 1 });
      else known.set(texts[index] ?? "", stored);
    }
    if (answer.ticket !== null && missing.size > 0) {
      const vectors = await buyQueries(ports, embedder, answer.ticket, missing);
      for (const [index, { text }] of [...missing.values()].entries()) known.set(text, vectors[index] ?? "");
      bought = missing.size;
    }
  }
  return { vectors: texts.map((text) => known.get(text) ?? ""), bought };
}

async function buyQueries(
  { service }: QueryPorts,
  embedder: Embedder,
  ticket: number,
  missing: ReadonlyMap<string, { readonly text: string; readonly tokens: number }>,
): Promise<string[]> {
  const began = performance.now();
  const record = (
    request: { tokens: number | null; outcome: string; state: "settled" | "lost" },
    embeddings: readonly string[],
  ) =>
    service("reembed_end_queries", {
      ticket,
      query_hashes: [...missing.keys()].slice(0, embeddings.length),
      embeddings,
      latency_ms: Math.round(performance.now() - began),
      ...request,
    });
  const wanted = [...missing.values()];
  let embedded: Embedded;
  let vectors: string[];
  try {
    const answer = await embedder.embed(
      wanted.map(({ text }) => text),
      { purpose: "query" },
    );
    vectors = wanted.map((_, index) => asText(answer, embedder.space, index));
    embedded = answer;
  } catch (error) {
    const estimate = wanted.reduce((sum, { tokens }) => sum + tokens, 0);
    // As for one query: should this fail too, the reservation stands and counts as spent.
    await Promise.allSettled([record(chargedFor(error, estimate), [])]);
    throw error;
  }
  await record({ tokens: embedded.usage.tokens, outcome: "ok", state: "settled" }, vectors);
  return vectors;
}

/** What the ledger says of a request for queries that failed; what nobody foresaw may have been charged. */
export function chargedFor(error: unknown, estimate: number) {
  if (error instanceof QueryFailure) {
    return { tokens: error.tokens, outcome: "input_failed", state: "settled" as const };
  }
  if (!(error instanceof ProviderError))
    return { tokens: estimate, outcome: "unforeseen", state: "lost" as const };
  const { billed, fault } = error;
  if (billed === "maybe") return { tokens: estimate, outcome: fault, state: "lost" as const };
  return { tokens: billed === "no" ? null : billed, outcome: fault, state: "settled" as const };
}

/** The provider answered, and has no vector for the query. */
class QueryFailure extends ReembedError {
  /** That the answer was billed for. */
  readonly tokens: number;

  constructor({ reason, next }: InputFailure, space: Space, tokens: number) {
    super(
      next === "fail" ? "invalid_image" : "provider_unavailable",
      `${space.id}: ${reason}`,
      next === "fail" ? "Send another picture." : "Try again later.",
    );
    this.tokens = tokens;
  }
}

/** @param at the place of the query among those that were embedded in one request */
function asText({ vectors, usage, failures }: Embedded, space: Space, at = 0): string {
  const failure = failures?.get(at);
  if (failure !== undefined) throw new QueryFailure(failure, space, usage.tokens);
  const vector = vectors[at];
  if (vector == null) {
    throw new ProviderError("bad_answer", `${space.id}: the provider returned no vector`, {
      billed: usage.tokens,
    });
  }
  return `[${vector.join(",")}]`;
}

/** No amounts: what the owner may spend is not the visitor's to know. */
function refusalOf({ refused, retry_seconds }: { refused: "rate" | "budget"; retry_seconds: number }) {
  const wait = retry_seconds * 1000;
  return refused === "rate"
    ? new QueryRefused(
        "rate_limited",
        "too many searches by text from this caller",
        "Wait as long as retry-after says; a server of your own sends a secret key, which has no rate.",
        wait,
      )
    : new QueryRefused(
        "budget_spent",
        "the budget for embedding queries is spent",
        "Queries that were asked before are still answered, and so are searches with a vector of your own; new ones when the budget renews.",
        wait,
      );
}
