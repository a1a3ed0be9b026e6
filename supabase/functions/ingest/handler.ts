/** POST /ingest: one document into its collection, for service callers. What has not changed stays as it is. */
import { z } from "zod";
import type { Edge } from "../_shared/edge.ts";
import { type Handler, readBody } from "../_shared/http.ts";
import { ingestDocument, kindFor } from "../_shared/ingest/kinds.ts";
import { LARGEST_DOCUMENT_BYTES } from "../_shared/ingest/size.ts";

/** JSON escapes make a document longer. */
const LARGEST_BODY = 2 * LARGEST_DOCUMENT_BYTES;

const body = z.looseObject({ collection: z.string().optional() });

export function makeHandler(edge: Edge): Handler {
  return async (request, { requestId }) => {
    await edge.requireSecret(request, "default", "ingest");
    const { collection, ...document } = await readBody(request, body, LARGEST_BODY);
    const result = await ingestDocument(edge.service, kindFor(collection), document);
    return { ...result, request_id: requestId };
  };
}
