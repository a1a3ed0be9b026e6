/** Search by text: route to a version, embed the query in that version's space, ask its match RPC. One version answers, never two. */
import { z } from "zod";
import type { Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { embedQuery, type QueryPorts } from "./queries.ts";
import type { Rpc } from "./rpc.ts";

const route = z.object({
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
  function: z.string(),
  filters: z.array(z.string()),
  threshold: z.number(),
  coverage: z.number().optional(),
  log_queries: z.boolean().optional(),
});
export type Route = z.infer<typeof route>;

export interface SearchRequest {
  readonly collection: string;
  readonly query: string;
  /** The version's number; none: the active one. */
  readonly version?: number | undefined;
  /** 1 to 1,000 rows. */
  readonly match_count?: number | undefined;
  /** A similarity from -1 to 1 below which rows are left out; none: no threshold. */
  readonly match_threshold?: number | undefined;
  /** Values for the collection's filter columns. */
  readonly filters?: Readonly<Record<string, string>> | undefined;
}

/** A row of the collection's public columns with its similarity, and where it can be cited, its citation. */
export type SearchRow = Readonly<Record<string, unknown>> & {
  readonly similarity: number;
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
}

export interface SearchPorts extends QueryPorts {
  /** The database as the caller: RLS decides what comes back. */
  readonly caller: Rpc;
}

/**
 * Answers a text query.
 * @throws ReembedError of the route, the rate, the provider or the RPC. A version that is finalized between route and search is noticed and the search
 * routed once more.
 */
export async function search(ports: SearchPorts, request: SearchRequest): Promise<SearchAnswer> {
  try {
    return await searchOnce(ports, request);
  } catch (error) {
    if (error instanceof ReembedError && error.code === "version_retired" && request.version === undefined) {
      return searchOnce(ports, request);
    }
    throw error;
  }
}

async function searchOnce(ports: SearchPorts, request: SearchRequest): Promise<SearchAnswer> {
  const to = route.parse(
    await ports.caller("embedding_route", {
      collection: request.collection,
      version: request.version ?? null,
    }),
  );
  const space: Space = { ...to, id: to.space };
  // Refused before a token is paid.
  const filters = filterArguments(to, request.filters ?? {});
  // The route was asked as the caller, so whoever has come this far holds a valid token: the rate may count by what it says.
  const { vector, recorded } = await embedQuery(ports, space, request.query);
  const logged = to.log_queries ? logQuery(ports, request) : Promise.resolve();
  const rows = await afterBoth(
    ports.caller(to.function, {
      query_embedding: vector,
      match_threshold: request.match_threshold ?? null,
      match_count: request.match_count ?? 5,
      query_space: to.space,
      ...filters,
    }),
    Promise.all([recorded, logged]),
  );
  return {
    collection: to.collection,
    version: to.version,
    space: to.space,
    results: z
      .array(z.looseObject({ similarity: z.number() }))
      .parse(rows)
      .map(withCitation),
    ...(to.coverage === undefined ? {} : { coverage: to.coverage }),
  };
}

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

function withCitation(row: Record<string, unknown> & { similarity: number }, index: number): SearchRow {
  const { title, url } = row;
  return typeof title === "string" && typeof url === "string"
    ? { ...row, citation: { number: index + 1, title, url } }
    : row;
}
