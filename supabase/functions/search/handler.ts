/** POST /search: text in, rows out with citations, through the active version or a named one; RLS by the caller's own token. */
import { z } from "zod";
import { callerBucket } from "../_shared/caller.ts";
import type { Edge } from "../_shared/edge.ts";
import { type Handler, readBody } from "../_shared/http.ts";
import { MODES, type SearchSwitches, search } from "../_shared/search.ts";

const LARGEST_BODY = 64 * 1024;

const body = z.strictObject({
  collection: z.string().min(1).max(63),
  query: z
    .string()
    .max(8_000, "must have at most 8,000 characters")
    .refine((text) => text.trim() !== "", "must not be empty"),
  mode: z.enum(MODES).optional(),
  version: z.int().min(1).max(1_000_000).optional(),
  match_count: z.int().min(1).max(1_000).optional(),
  match_threshold: z.number().min(-1).max(1).optional(),
  filters: z.record(z.string().max(63), z.string().max(1_000)).optional(),
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
    const bucket = await callerBucket(request.headers, asked.collection);
    const answer = await search(
      { caller, service, embedderFor, callerHash, switches, callerBucket: bucket, keepAlive },
      asked,
    );
    return { ...answer, request_id: requestId };
  };
}
