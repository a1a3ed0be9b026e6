/**
 * POST /ask: a question in, an answer with numbered sources out, through the active version or a named one; RLS by the caller's own token. As one JSON
 * object, or as server-sent events where the request says `stream`, or accepts them.
 */
import { z } from "zod";
import { streamAnswer } from "../_shared/ask/stream.ts";
import { ask, wholeAnswer } from "../_shared/ask.ts";
import { callerBucket } from "../_shared/caller.ts";
import type { Edge } from "../_shared/edge.ts";
import { ReembedError } from "../_shared/errors.ts";
import { errorObject, type Handler, readBody } from "../_shared/http.ts";
import type { SearchSwitches } from "../_shared/search.ts";

const LARGEST_BODY = 256 * 1024;

const textUpTo = (most: number) =>
  z
    .string()
    .max(most, `must have at most ${most.toLocaleString("en")} characters`)
    .refine((text) => text.trim() !== "", "must not be empty");

/** What a request may say. */
export const body = z.strictObject({
  collection: z.string().min(1).max(63),
  question: textUpTo(2_000),
  history: z
    .array(z.strictObject({ question: textUpTo(2_000), answer: z.string().max(8_000) }))
    .max(10, "must have at most 10 turns")
    .optional(),
  version: z.int().min(1).max(1_000_000).optional(),
  match_count: z.int().min(1).max(20).optional(),
  match_threshold: z.number().min(-1).max(1).optional(),
  filters: z.record(z.string().max(63), z.string().max(1_000)).optional(),
  stream: z.boolean().optional(),
});

/**
 * @param keepAlive keeps the process up for what goes on after the answer
 * @param onBug receives what nobody foresaw in the middle of a stream
 */
export function makeHandler(
  edge: Edge,
  switches: SearchSwitches = {},
  keepAlive: (work: Promise<unknown>) => void = () => {},
  onBug: (requestId: string, error: unknown) => void = () => {},
): Handler {
  return async (request, { requestId }) => {
    const caller = await edge.caller(request);
    const { stream, ...asked } = await readBody(request, body, LARGEST_BODY);
    const { service, embedderFor } = edge;
    const callerHash = await edge.callerHash(request);
    const bucket = await callerBucket(request.headers, asked.collection);
    const hangUp = new AbortController();
    const asking = await ask(
      {
        ...{ caller, service, embedderFor, callerHash, switches, callerBucket: bucket, keepAlive },
        model: edge.chatModel(),
        signal: AbortSignal.any([hangUp.signal, request.signal]),
      },
      asked,
    );
    if (stream ?? /\btext\/event-stream\b/i.test(request.headers.get("accept") ?? "")) {
      return streamAnswer(asking, {
        requestId,
        onLeave: () => hangUp.abort(),
        keepAlive,
        describe: (error) => {
          if (!(error instanceof ReembedError)) onBug(requestId, error);
          return errorObject(error, requestId);
        },
      });
    }
    const answering = wholeAnswer(asking);
    keepAlive(answering.catch(() => {}));
    return { ...(await answering), request_id: requestId };
  };
}
