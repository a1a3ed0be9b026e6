/**
 * One query over several collections: each answers through its own active version, under the caller's rights, and the answers are fused by the places of
 * their rows. Similarities and scores of different collections are not compared: they are of different spaces and of different texts.
 */
import { type ErrorCode, ReembedError } from "./errors.ts";
import { embedOnceASpace } from "./queries.ts";
import {
  answerRouted,
  routeSearch,
  type SearchAnswer,
  type SearchPorts,
  type SearchRequest,
  type SearchRow,
  search,
  withCitation,
} from "./search.ts";

/** Collections of one request at most. */
export const MOST_COLLECTIONS = 10;

/** As in the hybrid RPCs: the smaller it is, the more the first places count. */
const RRF_K = 60;

export interface SeveralRequest extends Pick<SearchRequest, "query" | "mode" | "match_count" | "filters"> {
  /** Different names; of rows at the same place the earlier collection's come first. */
  readonly collections: readonly string[];
}

export interface SeveralPorts extends Omit<SearchPorts, "callerBucket" | "embed"> {
  /** The caller's place in the share of a collection's canary. */
  readonly callerBucketOf?: ((collection: string) => Promise<number | undefined>) | undefined;
}

/** What became of one collection: who answered, or the error for which it could not. */
export type CollectionAnswer =
  | Omit<SearchAnswer, "results">
  | { readonly collection: string; readonly error: { code: ErrorCode; message: string; hint: string } };

/** A row with the collection it is of; its score is that of its place, over all collections. */
export type FusedRow = SearchRow & { readonly collection: string; readonly score: number };

export interface SeveralAnswer {
  /** In the order of the request. */
  readonly collections: readonly CollectionAnswer[];
  /** Best first. */
  readonly results: readonly FusedRow[];
}

/**
 * Answers a text query from several collections.
 * @throws ReembedError what one collection refuses about the request (its name, mode, filters, the caller's rate, ...): nothing is paid then. What fails
 * for another reason (a provider, a budget, a time-out) is told in `collections`, and the others answer; thrown, of the first, where none does.
 */
export async function searchSeveral(ports: SeveralPorts, request: SeveralRequest): Promise<SeveralAnswer> {
  const { collections, ...asked } = request;
  const embed = embedOnceASpace(ports);
  const portsFor = async (collection: string): Promise<SearchPorts> => ({
    ...ports,
    embed,
    callerBucket: await ports.callerBucketOf?.(collection),
  });
  const routed = await Promise.all(
    collections.map(async (collection) => {
      const own = await portsFor(collection);
      return { own, one: { ...asked, collection }, route: await routeSearch(own, { ...asked, collection }) };
    }),
  );
  const settled = await Promise.allSettled(
    routed.map(({ own, one, route }) =>
      answerRouted(own, route).catch((error: unknown) => {
        // Finalized between route and search: routed anew.
        if (error instanceof ReembedError && error.code === "version_retired") return search(own, one);
        throw error;
      }),
    ),
  );
  const answers = settled.map((outcome): SearchAnswer | ReembedError => {
    if (outcome.status === "fulfilled") return outcome.value;
    const error: unknown = outcome.reason;
    if (error instanceof ReembedError && isNotTheRequests(error)) return error;
    throw error;
  });
  const [first] = answers;
  if (first instanceof ReembedError && answers.every((answer) => answer instanceof ReembedError)) throw first;
  return {
    collections: answers.map((answer, at) => {
      if (!(answer instanceof ReembedError)) {
        const { results: _, ...answered } = answer;
        return answered;
      }
      const { code, message, hint } = answer;
      return { collection: collections[at] ?? "", error: { code, message, hint } };
    }),
    results: fuse(
      answers.map((answer) => (answer instanceof ReembedError ? [] : answer.results)),
      request.match_count ?? 5,
    ).map(({ row, list, score }, index) => {
      const { citation: _, ...found } = row;
      const collection = collections[list] ?? "";
      return { ...withCitation({ ...found, collection, score }, index), collection, score };
    }),
  };
}

/** Whether another collection may still answer the same request. */
function isNotTheRequests(error: ReembedError): boolean {
  return error.status >= 500 || error.code === "budget_spent";
}

/** A row of one of several lists, with the score of its place there. */
export interface Fused<Row> {
  readonly row: Row;
  /** Which list it is of, counted from 0. */
  readonly list: number;
  readonly score: number;
}

/**
 * Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009) of lists that share no row: a row's score is 1 / (60 + its place). Of rows at the same place
 * those of an earlier list come first.
 * @param lists each best first
 * @param count rows at most
 */
export function fuse<Row>(lists: readonly (readonly Row[])[], count: number): Fused<Row>[] {
  return lists
    .flatMap((rows, list) => rows.map((row, at) => ({ row, list, score: 1 / (RRF_K + at + 1) })))
    .sort((a, b) => b.score - a.score || a.list - b.list)
    .slice(0, count);
}
