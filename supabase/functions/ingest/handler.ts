/** POST /ingest: one rendered page { url, html } into course_content, for service callers. Unchanged sections stay as they are. */
import { z } from "zod";
import type { Edge } from "../_shared/edge.ts";
import { type Handler, readBody } from "../_shared/http.ts";
import { ingestPage, LARGEST_PAGE_BYTES } from "../_shared/ingest.ts";
import { createRowStore } from "../_shared/row-store.ts";

/** JSON escapes make a page longer. */
const LARGEST_BODY = 2 * LARGEST_PAGE_BYTES;

const body = z.strictObject({ url: z.string(), html: z.string() });

export function makeHandler(edge: Edge): Handler {
  return async (request, { requestId }) => {
    await edge.requireSecret(request, "default", "ingest");
    const { url, html } = await readBody(request, body, LARGEST_BODY);
    const result = await ingestPage({ rows: createRowStore(edge.service), url, html });
    return { ...result, request_id: requestId };
  };
}
