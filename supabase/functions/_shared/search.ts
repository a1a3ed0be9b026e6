/**
 * Search by text: route to a version, embed the query in that version's space, ask its match RPC or its hybrid RPC. One version answers, never two.
 * Where the query cannot be embedded now, its words answer, and the answer says so.
 */
import { z } from "zod";
import type { Space } from "./embedder.ts";
import { type ErrorCode, ReembedError } from "./errors.ts";
import { type EmbeddedQuery, embedQuery, normalizeQuery, type QueryPorts } from "./queries.ts";
import type { Rpc } from "./rpc.ts";
import { checkInstead, type Switches, versionInstead } from "./switches.ts";

/** What embedding_route answers. */
export const route = z.object({
  collection: z.string(),
  version: z.number(),
  active: z.boolean(),
  space: z.string(),
  provider: z.string(),
  model: z.string(),
  dimensions: z.number(),
  query_prefix: z.string(),
  document_prefix: z.string(),
  max_input_tokens: z.number(),
  image_tokens: z.number().nullish(),
  function: z.string(),
  hybrid: z.string().optional(),
  recent: z.string().optional(),
  filters: z.array(z.string()),
  threshold: z.number(),
  coverage: z.number().optional(),
  log_queries: z.boolean().optional(),
  count_searches: z.boolean().optional(),
});
export type Route = z.infer<typeof route>;

/** By meaning, by meaning and words, or by words alone. */
export const MODES = ["semantic", "hybrid", "lexical"] as const;
export type Mode = (typeof MODES)[number];

export interface SearchRequest {
  readonly collection: string;
  readonly query: string;
  /** None: semantic. The others need a collection with a lexical side; `best` is hybrid where it has one and semantic where it has not. */
  readonly mode?: Mode | "best" | undefined;
  /** The version's number; none: the active one. */
  readonly version?: number | undefined;
  /** 1 to 1,000 rows. */
  readonly match_count?: number | undefined;
  /** Of a semantic search: a similarity from -1 to 1 below which rows are left out; none: the environment's, else no threshold. */
  readonly match_threshold?: number | undefined;
  /** Of a semantic search in a collection whose rows have a time: ranks by similarity and age together. */
  readonly recency?: Recency | undefined;
  /** Values for the collection's filter columns. */
  readonly filters?: Readonly<Record<string, string>> | undefined;
}

/** How age counts beside similarity; `reembed.set_recency` documents the formula. */
export interface Recency {
  /** After so many days a row counts half as new, 0.001 to 1,000,000; none: 30. */
  readonly half_life_days?: number | undefined;
  /** The share of the score that age has, 0 to 1; none: 0.3. */
  readonly weight?: number | undefined;
}

/**
 * A row of the collection's public columns with its similarity (null where no vector was compared), its score where words or age were asked too, and where
 * it can be cited, its citation.
 */
export type SearchRow = Readonly<Record<string, unknown>> & {
  readonly similarity: number | null;
  readonly score?: number | undefined;
  readonly citation?: { readonly number: number; readonly title: string; readonly url: string };
};

export interface SearchAnswer {
  readonly collection: string;
  readonly version: number;
  readonly space: string;
  /** Best first. */
  readonly results: readonly SearchRow[];
  /** While the version is not fully loaded: the share of rows (0 to 1) that it has. */
  readonly coverage?: number;
  /** Only where words answered what was asked by meaning; `reason` then says why. */
  readonly answered?: "lexical";
  readonly reason?: FallbackReason;
}

/** A SearchAnswer, for code that goes on with it. */
export interface Found extends SearchAnswer {
  /** The similarity below which a row says little: the environment's, else the version's own. No row was left out for it unless the search was semantic. */
  readonly threshold: number;
  /** Whether the collection has a lexical side. */
  readonly hasWords: boolean;
}

/** Why a query was not embedded. */
export type FallbackReason = "query_budget_spent" | "provider_unavailable";

/** What the environment says about searches that do not say it themselves. */
export type SearchSwitches = Partial<Pick<Switches, "USE_VECTOR_1536" | "SIMILARITY_THRESHOLD">>;

export interface SearchPorts extends QueryPorts {
  /** The database as the caller: RLS decides what comes back. */
  readonly caller: Rpc;
  readonly switches?: SearchSwitches | undefined;
  /** The caller's place, 0 to 99, in the share of a canary; none: the active version answers. */
  readonly callerBucket?: number | undefined;
  /** Embeds the query; none: `embedQuery`. */
  readonly embed?: ((space: Space, query: string) => Promise<EmbeddedQuery>) | undefined;
  /** Is handed what goes on after the answer, and never rejects. */
  readonly keepAlive?: ((work: Promise<void>) => void) | undefined;
}

/**
 * Answers a text query.
 * @throws ReembedError of the route, the rate, the provider or the RPC, `environment_conflict` where a switch wants a version that cannot answer. A version that is finalized between route and search is noticed and the search
 * routed once more.
 */
export async function search(ports: SearchPorts, request: SearchRequest): Promise<SearchAnswer> {
  const { threshold: _threshold, hasWords: _hasWords, ...answer } = await retrieve(ports, request);
  return answer;
}

/** The same, with what the route says about the version. */
export async function retrieve(ports: SearchPorts, request: SearchRequest): Promise<Found> {
  return againWhenRetired(request.version, () => searchOnce(ports, request));
}

/** Routes and searches; where no version was named and the one that was routed to is finalized before it is searched, once more. */
export async function againWhenRetired<Answer>(
  version: number | undefined,
  routed: () => Promise<Answer>,
): Promise<Answer> {
  try {
    return await routed();
  } catch (error) {
    if (error instanceof ReembedError && error.code === "version_retired" && version === undefined)
      return routed();
    throw error;
  }
}

async function searchOnce(ports: SearchPorts, request: SearchRequest): Promise<Found> {
  const routed = await routeSearch(ports, request);
  return {
    ...(await answerRouted(ports, routed)),
    threshold: ports.switches?.SIMILARITY_THRESHOLD ?? routed.to.threshold,
    hasWords: routed.to.hybrid !== undefined,
  };
}

/** A search that is known to fit the version that answers it. */
export interface RoutedSearch {
  readonly to: Route;
  readonly request: SearchRequest & { readonly mode: Mode };
  readonly filters: Readonly<Record<string, string>>;
}

/**
 * The first half of a search: which version answers, and whether it can answer this. Nothing is paid yet.
 * @throws ReembedError as `search`
 */
export async function routeSearch(ports: SearchPorts, request: SearchRequest): Promise<RoutedSearch> {
  const to = await routeOf(ports, request);
  const best = to.hybrid === undefined ? "semantic" : "hybrid";
  const mode = request.mode === "best" ? best : (request.mode ?? "semantic");
  checkMode(to, mode, request);
  return { to, request: { ...request, mode }, filters: filterArguments(to, request.filters ?? {}) };
}

/** The second half: embeds the query where its mode wants that, and asks the version. */
export function answerRouted(
  ports: SearchPorts,
  { to, request, filters }: RoutedSearch,
): Promise<SearchAnswer> {
  const rpc: Measured = { milliseconds: null };
  const answered = answerFrom(ports, to, request, filters, rpc);
  // Words alone say nothing of a version's vectors.
  if (to.count_searches && request.mode !== "lexical") {
    const counted = countSearch(ports, to, answered, rpc);
    ports.keepAlive?.(counted);
  }
  return answered;
}

/** Which version answers: the one that the request names; else the one that the database routes the caller to, unless USE_VECTOR_1536 wants another. */
async function routeOf(ports: SearchPorts, request: SearchRequest): Promise<Route> {
  const ask = async (version: number | undefined) =>
    route.parse(
      await ports.caller("embedding_route", {
        collection: request.collection,
        version: version ?? null,
        // Whoever names a version has chosen for itself.
        ...(version === undefined && ports.callerBucket !== undefined
          ? { caller_bucket: ports.callerBucket }
          : {}),
      }),
    );
  const to = await ask(request.version);
  const use1536 = ports.switches?.USE_VECTOR_1536;
  if (request.version !== undefined || use1536 === undefined) return to;
  const instead = versionInstead(use1536, to);
  if (instead === undefined) return to;
  const wanted = await ask(instead).catch((error: unknown) => {
    const isMissing =
      error instanceof ReembedError && ["unknown_version", "version_retired"].includes(error.code);
    if (!isMissing) throw error;
    return undefined;
  });
  checkInstead(use1536, to, wanted);
  return wanted;
}

/** How long the version's RPC took; null until it has answered. */
interface Measured {
  milliseconds: number | null;
}

async function answerFrom(
  ports: SearchPorts,
  to: Route,
  request: SearchRequest & { readonly mode: Mode },
  filters: Readonly<Record<string, string>>,
  rpc: Measured,
): Promise<SearchAnswer> {
  const { mode } = request;
  // The route was asked as the caller, so whoever has come this far holds a valid token: the rate may count by what it says.
  const { embedded, fallback } =
    mode === "lexical" ? NOT_EMBEDDED : await embedOrFallBack(ports, to, request.query);
  // What is asked by words alone passes no rate, so it could fill the log.
  const logged = to.log_queries && mode !== "lexical" ? logQuery(ports, request) : Promise.resolve();
  const common = { match_count: request.match_count ?? 5, query_space: to.space, ...filters };
  const recency = request.recency && recencyArguments(request.recency);
  const began = performance.now();
  const found =
    embedded !== undefined && mode === "semantic"
      ? ports.caller(recency === undefined ? to.function : recentSide(to), {
          query_embedding: embedded.vector,
          match_threshold: request.match_threshold ?? ports.switches?.SIMILARITY_THRESHOLD ?? null,
          ...recency,
          ...common,
        })
      : ports.caller(lexicalSide(to), {
          query_text: normalizeQuery(request.query),
          ...(embedded === undefined ? {} : { query_embedding: embedded.vector }),
          ...common,
        });
  const measured = found.finally(() => {
    rpc.milliseconds = performance.now() - began;
  });
  const rows = await afterBoth(measured, Promise.all([embedded?.recorded, logged]));
  return {
    collection: to.collection,
    version: to.version,
    space: to.space,
    results: z.array(foundRow).parse(rows).map(withCitation),
    ...(to.coverage === undefined ? {} : { coverage: to.coverage }),
    ...(fallback === undefined ? {} : { answered: "lexical" as const, reason: fallback }),
  };
}

/**
 * Appends what became of a search to its version's counts, once it is answered: nobody waits for it, and a search does not fail because it does.
 * What the caller or the budget is the reason of is not counted.
 */
async function countSearch(
  { service }: SearchPorts,
  { collection, version }: Route,
  answered: Promise<SearchAnswer>,
  rpc: Measured,
): Promise<void> {
  const outcome = await answered.then(
    (answer) => outcomeOf(answer, rpc),
    (error: unknown) =>
      error instanceof ReembedError && error.status < 500
        ? undefined
        : { empty: true, latency_ms: rpc.milliseconds },
  );
  if (outcome === undefined) return;
  await service("reembed_count_search", { collection, version, ...outcome }).catch(() => {});
}

/** Whether no row came by meaning, and how long the version took; undefined where that is not the version's matter. */
function outcomeOf({ results, reason }: SearchAnswer, rpc: Measured) {
  if (reason === "query_budget_spent") return undefined;
  if (reason !== undefined) return { empty: true, latency_ms: null };
  return { empty: results.length === 0, latency_ms: rpc.milliseconds };
}

const foundRow = z.looseObject({ similarity: z.number().nullable(), score: z.number().optional() });

function checkMode(to: Route, mode: Mode, request: SearchRequest): void {
  if (request.recency !== undefined) recentSide(to);
  if (mode === "semantic") return;
  if (request.recency !== undefined) {
    throw new ReembedError(
      "invalid_request",
      `recency: a ${mode} search has none`,
      "Leave it out, or search with the mode semantic.",
    );
  }
  lexicalSide(to);
  if (request.match_threshold !== undefined) {
    throw new ReembedError(
      "invalid_request",
      `match_threshold: a ${mode} search has none`,
      "Leave it out, or search with the mode semantic: a row that words find may be far from the query.",
    );
  }
}

/** The version's hybrid RPC. */
function lexicalSide(to: Route): string {
  if (to.hybrid !== undefined) return to.hybrid;
  throw new ReembedError(
    "invalid_request",
    `mode: ${to.collection} is not searched by words`,
    "Search with the mode semantic, or give the collection a lexical side with reembed.set_lexical_search.",
  );
}

/** What is not said is the RPC's own default. */
function recencyArguments({ half_life_days, weight }: Recency): Record<string, number> {
  return {
    ...(half_life_days === undefined ? {} : { half_life_days }),
    ...(weight === undefined ? {} : { recency_weight: weight }),
  };
}

/** The version's RPC that ranks by similarity and age. */
function recentSide(to: Route): string {
  if (to.recent !== undefined) return to.recent;
  throw new ReembedError(
    "invalid_request",
    `recency: the rows of ${to.collection} have no time`,
    "Leave it out, or say what a row's time is with reembed.set_recency.",
  );
}

interface Attempt {
  readonly embedded?: EmbeddedQuery;
  /** Why there is no vector although one was wanted. */
  readonly fallback?: FallbackReason;
}

const NOT_EMBEDDED: Attempt = {};

/** The query's vector, or why words must answer: only where the collection has words to answer with. */
async function embedOrFallBack(ports: SearchPorts, to: Route, query: string): Promise<Attempt> {
  const space: Space = { ...to, id: to.space };
  try {
    return { embedded: await (ports.embed?.(space, query) ?? embedQuery(ports, space, query)) };
  } catch (error) {
    const fallback = error instanceof ReembedError ? FALLBACK_REASONS[error.code] : undefined;
    if (fallback === undefined || to.hybrid === undefined) throw error;
    return { fallback };
  }
}

/** Nobody could be asked. A caller over its rate waits, and an answer that refuses (the key, the model, the text) is shown, not covered up. */
export const FALLBACK_REASONS: Readonly<Partial<Record<ErrorCode, FallbackReason>>> = {
  budget_spent: "query_budget_spent",
  provider_unavailable: "provider_unavailable",
  provider_rate_limited: "provider_unavailable",
  provider_timeout: "provider_unavailable",
};

/** The rows, once ledger and log are written too: an edge function may be stopped as soon as it has answered. */
async function afterBoth(found: Promise<unknown>, written: Promise<unknown>): Promise<unknown> {
  const [rows, records] = await Promise.allSettled([found, written]);
  if (rows.status === "rejected") throw rows.reason;
  if (records.status === "rejected") throw records.reason;
  return rows.value;
}

/** Appends to the query log. A search does not fail because the log does: it only lacks a line then. */
async function logQuery({ service }: SearchPorts, { collection, query }: SearchRequest): Promise<void> {
  await service("reembed_log_query", { collection, query }).catch(() => {});
}

/** A filter's name is looked up in the registry's list: a request never names an identifier. */
function filterArguments(to: Route, filters: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(filters).map(([name, value]) => {
      if (!to.filters.includes(name)) {
        throw new ReembedError(
          "invalid_request",
          `filters: ${to.collection} has no filter of this name`,
          to.filters.length > 0 ? `Its filters: ${to.filters.join(", ")}.` : "It has none.",
        );
      }
      return [`filter_${name}`, value];
    }),
  );
}

/** The row with its citation under the number of its place, where it can be cited. */
export function withCitation(row: SearchRow, index: number): SearchRow {
  const { title, url } = row;
  return typeof title === "string" && typeof url === "string"
    ? { ...row, citation: { number: index + 1, title, url } }
    : row;
}
