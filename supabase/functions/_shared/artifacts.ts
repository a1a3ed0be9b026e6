/**
 * The CV builder's artifacts: found by meaning, ranked against a job description, embedded when somebody asks for it. What a caller sees is decided by
 * the database, as the caller; what is spent goes through the same queue, ledger and budgets as everything else.
 */
import { z } from "zod";
import type { Embedder, Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { embedQueries, type QueryPorts, QueryRefused } from "./queries.ts";
import { createQueue } from "./queue.ts";
import type { Rpc } from "./rpc.ts";
import { type Route, route } from "./search.ts";
import { type SliceReport, type WorkSwitches, workingBy, workSlice } from "./worker.ts";

/** Which text of an artifact. A collection has one. */
export const CONTENT_TYPES = ["full", "summary", "chunk"] as const;
export type ContentType = (typeof CONTENT_TYPES)[number];
const COLLECTIONS: Readonly<Record<ContentType, string>> = {
  full: "artifacts",
  summary: "artifact_summaries",
  chunk: "artifact_chunks",
};

export const METHODS = ["cosine", "l2", "inner_product"] as const;
export type Method = (typeof METHODS)[number];

export const RANKING_METHODS = ["semantic", "hybrid", "keyword"] as const;
export type RankingMethod = (typeof RANKING_METHODS)[number];

export interface ArtifactPorts extends QueryPorts {
  /** The database as the caller: a user, or a service. */
  readonly caller: Rpc;
  readonly embedderFor: (space: Space) => Embedder;
  readonly switches?: WorkSwitches | undefined;
  /** Milliseconds on a clock that only goes forward. */
  readonly now?: (() => number) | undefined;
  readonly wait?: ((milliseconds: number) => Promise<void>) | undefined;
}

const clockOf = (ports: ArtifactPorts) => ports.now ?? (() => performance.now());

async function routeTo(ports: ArtifactPorts, type: ContentType): Promise<Route> {
  return route.parse(await ports.caller("embedding_route", { collection: COLLECTIONS[type] }));
}

/** Once more where the version was finalized between its route and its search. */
async function throughActive<Answer>(
  ports: ArtifactPorts,
  type: ContentType,
  ask: (to: Route) => Promise<Answer>,
): Promise<Answer> {
  try {
    return await ask(await routeTo(ports, type));
  } catch (error) {
    if (!(error instanceof ReembedError && error.code === "version_retired")) throw error;
    return ask(await routeTo(ports, type));
  }
}

// Search ---------------------------------------------------------------------------------------------------------------------------------

/** By a text, or by a vector of the caller's own. */
export type Query =
  | { readonly text: string }
  | { readonly embedding: readonly number[]; readonly space?: string | undefined };

export interface SimilarOptions {
  readonly limit: number;
  /** Null: none. */
  readonly similarity_threshold: number | null;
  readonly artifact_types?: readonly string[] | undefined;
  readonly user_only: boolean;
  readonly method: Method;
  readonly content_type: ContentType;
}

const similarAnswers = z.array(
  z.object({
    results: z.array(
      z.object({
        artifact_id: z.number(),
        similarity_score: z.number(),
        distance: z.number(),
        artifact: z.object({ title: z.string(), type: z.string(), description: z.string().nullable() }),
        chunk: z.object({ id: z.string(), position: z.number(), content: z.string() }).optional(),
      }),
    ),
    total_candidates: z.number(),
  }),
);

/**
 * Finds artifacts like each of the queries; the texts among them are embedded in one request.
 * @returns one answer a query, in their order
 * @throws ReembedError of the route, the rate, the budget, the provider or the search
 */
export async function findSimilar(
  ports: ArtifactPorts,
  queries: readonly Query[],
  options: SimilarOptions,
): Promise<readonly object[]> {
  const now = clockOf(ports);
  const began = now();
  return throughActive(ports, options.content_type, async (to) => {
    const texts = queries.flatMap((query) => ("text" in query ? [query.text] : []));
    for (const query of queries) if ("embedding" in query) checkSpace(query.space, to);
    const { vectors } =
      texts.length === 0 ? { vectors: [] } : await embedQueries(ports, { ...to, id: to.space }, texts);
    const embedded = vectors.values();
    const answers = similarAnswers.parse(
      await ports.caller("similar_artifacts", {
        query_embeddings: queries.map((query) =>
          "text" in query ? (embedded.next().value ?? "") : `[${query.embedding.join(",")}]`,
        ),
        content_type: options.content_type,
        version: to.version,
        query_space: to.space,
        match_count: options.limit,
        match_threshold: options.similarity_threshold,
        artifact_types: options.artifact_types ?? null,
        user_only: options.user_only,
        method: options.method,
      }),
    );
    const processing_time_ms = roundTo(now() - began, 1);
    return answers.map(({ results, total_candidates }) => ({
      results,
      query_info: { method: options.method, total_candidates, processing_time_ms, space: to.space },
    }));
  });
}

/** A vector of equal width may be of another space: who names theirs is heard. */
function checkSpace(space: string | undefined, to: Route): void {
  if (space === undefined || space === to.space) return;
  throw new ReembedError(
    "wrong_space",
    `query_space: ${to.collection} is searched in ${to.space}`,
    `Embed the query with ${to.model}, or send its text.`,
  );
}

// Ranking --------------------------------------------------------------------------------------------------------------------------------

export interface RankRequest {
  readonly job_description: string;
  readonly artifact_ids?: readonly number[] | undefined;
  readonly ranking_method: RankingMethod;
  readonly top_k: number;
}

const ranked = z.object({
  artifact_id: z.number(),
  title: z.string(),
  type: z.string(),
  relevance_score: z.number(),
  semantic_similarity: z.number().nullable(),
  keyword_match_score: z.number(),
  matched_skills: z.array(z.string()),
});
type Ranked = z.infer<typeof ranked>;
const rankAnswer = z.object({ ranked_artifacts: z.array(ranked), total_candidates: z.number() });

/**
 * Ranks the caller's artifacts by what a job asks for.
 * @throws ReembedError of the route, the rate, the budget, the provider or the ranking
 */
export async function rankArtifacts(ports: ArtifactPorts, request: RankRequest): Promise<object> {
  const now = clockOf(ports);
  const began = now();
  return throughActive(ports, "full", async (to) => {
    const byMeaning = request.ranking_method !== "keyword";
    const embedded = byMeaning
      ? await embedQueries(ports, { ...to, id: to.space }, [request.job_description])
      : { vectors: [], bought: 0 };
    const answer = rankAnswer.parse(
      await ports.caller("rank_artifacts", {
        job_description: request.job_description,
        query_embedding: embedded.vectors[0] ?? null,
        version: to.version,
        query_space: to.space,
        artifact_ids: request.artifact_ids ?? null,
        ranking_method: request.ranking_method,
        top_k: request.top_k,
      }),
    );
    return {
      ranked_artifacts: answer.ranked_artifacts.map((row) => ({
        ...row,
        explanation: explain(row, request.ranking_method, to.threshold),
      })),
      job_embedding_generated: embedded.bought > 0,
      processing_metadata: {
        ranking_method: request.ranking_method,
        total_candidates: answer.total_candidates,
        processing_time_ms: roundTo(now() - began, 1),
        ...(byMeaning ? { model: to.model, dimensions: to.dimensions, space: to.space } : {}),
      },
    };
  });
}

const STRENGTHS = [
  [0.5, "Strong"],
  [0.25, "Good"],
  [0, "Some"],
] as const;

/**
 * A sentence on a ranked artifact: how strong the match is, and the skills that the job names. A similarity is judged by how far it lies above the one that
 * unrelated texts of the space have, because no similarity means the same in two spaces.
 * @param unrelated the similarity below which unrelated texts of the space usually lie
 */
export function explain(row: Ranked, method: RankingMethod, unrelated: number): string {
  const meaning =
    row.semantic_similarity === null
      ? 0
      : Math.max(0, (row.semantic_similarity - unrelated) / (1 - unrelated));
  const score =
    method === "keyword"
      ? row.keyword_match_score
      : method === "semantic"
        ? meaning
        : 0.7 * meaning + 0.3 * row.keyword_match_score;
  const strength =
    STRENGTHS.find(([least]) => score > least || (least > 0 && score === least))?.[1] ?? "Weak";
  const skills =
    row.matched_skills.length === 0
      ? "the job names none of its skills"
      : `the job names ${row.matched_skills.length === 1 ? "its skill" : "its skills"} ${row.matched_skills.join(", ")}`;
  const similarity =
    row.semantic_similarity === null ? "" : ` (similarity ${row.semantic_similarity.toFixed(2)})`;
  return `${strength} match of the ${row.type} "${row.title}"${similarity}: ${skills}.`;
}

// Embeddings -----------------------------------------------------------------------------------------------------------------------------

const embeddingList = z
  .object({
    artifact_id: z.number(),
    chunks: z.array(z.string()),
    embeddings: z.array(
      z.object({
        id: z.string(),
        content_type: z.enum(CONTENT_TYPES),
        artifact_chunk_id: z.string().nullable(),
        dimensions: z.number(),
        model_version: z.string(),
        content_hash: z.string(),
        created_at: z.string(),
        processing_cost_usd: z.number(),
        metadata: z.object({
          space: z.string(),
          version: z.number(),
          tokens: z.number(),
          truncated: z.boolean(),
        }),
      }),
    ),
  })
  .nullable();

/**
 * An artifact's stored embeddings, of all versions.
 * @throws ReembedError `not_found` where the caller sees no such artifact
 */
export async function listEmbeddings(ports: Pick<ArtifactPorts, "caller">, id: string) {
  const list = embeddingList.parse(await ports.caller("artifact_embedding_list", { artifact_id: id }));
  if (list !== null) return list;
  throw new ReembedError(
    "not_found",
    "there is no artifact of this id that you see",
    "Check the id; another user's artifact is seen by the members of its workspace.",
  );
}

const ordered = z.union([
  z.object({ waiting: z.number() }),
  z.object({ refused: z.literal("rate"), retry_seconds: z.number() }),
]);

/** An order is given up after this time; its rows stay queued. Inside an edge function's time. */
const LONGEST_ORDER_MS = 25_000;
const LOOK_AGAIN_MS = 200;

/**
 * Has an artifact embedded now, in the active version: claimed before all that is queued, reserved, bought and settled as every other row. What is
 * stored and right is not bought again, unless `force` orders it.
 * @throws ReembedError `not_found`; `nothing_to_embed` where there is no such text; of the rate, the budget or the provider; `busy` where another worker
 * has had the rows all the time
 */
export async function generateEmbeddings(
  ports: ArtifactPorts,
  id: string,
  type: ContentType,
  force: boolean,
): Promise<object> {
  const { chunks } = await listEmbeddings(ports, id);
  const rows = type === "chunk" ? chunks : [id];
  if (rows.length === 0) throw nothingToEmbed(type);
  const to = await routeTo(ports, type);
  const generated = await workOrder(ports, to, rows, force);
  const list = await listEmbeddings(ports, id);
  const stored = list.embeddings.filter(
    (embedding) => embedding.content_type === type && embedding.metadata.version === to.version,
  );
  const [first] = stored;
  if (first === undefined) throw nothingToEmbed(type);
  return {
    artifact_id: list.artifact_id,
    embedding_id: first.id,
    dimensions: first.dimensions,
    generated_at: first.created_at,
    content_hash: first.content_hash,
    content_type: type,
    generated,
    embeddings: stored,
  };
}

function nothingToEmbed(type: ContentType): ReembedError {
  const why: Readonly<Record<ContentType, string>> = {
    full: "the artifact has no text",
    summary: "the artifact has no summary",
    chunk: "the artifact's content is too short to have chunks",
  };
  return new ReembedError(
    "nothing_to_embed",
    `content_type: ${why[type]}`,
    type === "chunk" ? "Ask for full: it has all of a short content." : "Write one, and ask again.",
  );
}

/** @returns how many vectors were bought for it */
async function workOrder(
  ports: ArtifactPorts,
  to: Route,
  rows: readonly string[],
  force: boolean,
): Promise<number> {
  const now = clockOf(ports);
  const wait = ports.wait ?? ((milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)));
  const began = now();
  const order = async (options: { force: boolean; caller_hash: string | null }) => {
    const answer = ordered.parse(
      await ports.service("reembed_order_rows", {
        collection: to.collection,
        version: to.version,
        row_ids: rows,
        ...options,
      }),
    );
    if ("waiting" in answer) return answer.waiting;
    throw new QueryRefused(
      "rate_limited",
      "too many orders from this caller",
      "Wait as long as retry-after says; a changed artifact is embedded without being asked for.",
      answer.retry_seconds * 1000,
    );
  };
  let bought = 0;
  let waiting = await order({ force, caller_hash: ports.callerHash });
  while (waiting > 0) {
    const left = LONGEST_ORDER_MS - (now() - began);
    if (left <= 0) {
      throw new ReembedError(
        "busy",
        "another worker is embedding this artifact",
        "Nothing is lost: look at its embeddings in a moment.",
      );
    }
    const report = await workSlice(
      { queue: createQueue(ports.service), embedderFor: ports.embedderFor },
      {
        collection: to.collection,
        version: to.version,
        rows,
        budgetMs: left,
        ...workingBy(ports.switches ?? {}),
      },
    );
    bought += report.done - report.skipped;
    throwIfStopped(report);
    waiting = await order({ force: false, caller_hash: null });
    if (waiting > 0) await wait(LOOK_AGAIN_MS);
  }
  return bought;
}

/** @throws ReembedError where asking again at once would be of no use */
function throwIfStopped({ ended, failed, retried, error, wait_ms }: SliceReport): void {
  const why = error ?? "the rows could not be embedded";
  const kept = "The artifact stays queued and is embedded as soon as that is over.";
  if (ended === "budget") throw new QueryRefused("budget_spent", why, kept, 60_000);
  if (ended === "rate_limited") throw new Waiting("provider_rate_limited", why, kept, wait_ms);
  if (failed > 0)
    throw new ReembedError("provider_rejected", why, "Mend the text or the provider, and ask again.");
  if (ended === "paused" || ended === "provider_failed" || retried > 0) {
    throw new ReembedError("provider_unavailable", why, kept);
  }
}

class Waiting extends ReembedError {
  readonly retryAfterMs: number;

  constructor(code: "provider_rate_limited", message: string, hint: string, retryAfterMs: number) {
    super(code, message, hint);
    this.retryAfterMs = retryAfterMs;
  }
}

const roundTo = (value: number, digits: number) => Number(value.toFixed(digits));
