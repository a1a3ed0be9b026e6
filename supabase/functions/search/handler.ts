/** POST /search: text in, rows out with citations, of one collection or of several; through the active version or a named one; RLS by the caller's own token. */
import { z } from "zod";
import { callerBucket } from "../_shared/caller.ts";
import type { Edge } from "../_shared/edge.ts";
import { type Handler, readBody } from "../_shared/http.ts";
import { MODES, type SearchSwitches, search } from "../_shared/search.ts";
import { MOST_COLLECTIONS, searchSeveral } from "../_shared/search-several.ts";

const LARGEST_BODY = 64 * 1024;

const name = z.string().min(1).max(63);

/** What a request may say. */
export const body = z
  .strictObject({
    collection: name.optional(),
    collections: z
      .array(name)
      .min(1)
      .max(MOST_COLLECTIONS)
      .refine((names) => new Set(names).size === names.length, "must name each collection once")
      .optional(),
    query: z
      .string()
      .max(8_000, "must have at most 8,000 characters")
      .refine((text) => text.trim() !== "", "must not be empty"),
    mode: z.enum(MODES).optional(),
    version: z.int().min(1).max(1_000_000).optional(),
    match_count: z.int().min(1).max(1_000).optional(),
    match_threshold: z.number().min(-1).max(1).optional(),
    recency: z
      .strictObject({
        half_life_days: z.number().min(0.001).max(1_000_000).optional(),
        weight: z.number().min(0).max(1).optional(),
      })
      .optional(),
    filters: z.record(z.string().max(63), z.string().max(1_000)).optional(),
  })
  .transform((asked, context) => {
    const { collection, collections, version, match_threshold, recency, ...common } = asked;
    const refuse = (field: string, message: string) => {
      context.addIssue({ code: "custom", path: [field], message });
      return z.NEVER;
    };
    if (collections === undefined) {
      if (collection === undefined) return refuse("collection", "name one, or several in collections");
      return { ...common, version, match_threshold, recency, collection };
    }
    if (collection !== undefined) return refuse("collection", "leave it out where collections are named");
    if (version !== undefined) return refuse("version", "a version is one collection's");
    if (match_threshold !== undefined)
      return refuse("match_threshold", "the similarities of several collections are not comparable");
    if (recency !== undefined) return refuse("recency", "age is ranked within one collection");
    return { ...common, collections };
  });

/** @param keepAlive keeps the process up for what goes on after the answer */
export function makeHandler(
  edge: Edge,
  switches: SearchSwitches = {},
  keepAlive: (work: Promise<unknown>) => void = () => {},
): Handler {
  return async (request, { requestId }) => {
    const caller = await edge.caller(request);
    const asked = await readBody(request, body, LARGEST_BODY);
    const { service, embedderFor } = edge;
    const callerHash = await edge.callerHash(request);
    const ports = { caller, service, embedderFor, callerHash, switches, keepAlive };
    const callerBucketOf = (collection: string) => callerBucket(request.headers, collection);
    const answer =
      "collections" in asked
        ? await searchSeveral({ ...ports, callerBucketOf }, asked)
        : await search({ ...ports, callerBucket: await callerBucketOf(asked.collection) }, asked);
    return { ...answer, request_id: requestId };
  };
}
