/**
 * The CV builder's API, described in docs/artifacts.openapi.json: an artifact's embeddings, artifacts like a query, artifacts ranked for a job. A user's
 * token, or a secret key; row level security decides what is seen.
 */
import { type Context, Hono } from "hono";
import { z } from "zod";
import {
  type ArtifactPorts,
  CONTENT_TYPES,
  findSimilar,
  generateEmbeddings,
  listEmbeddings,
  METHODS,
  RANKING_METHODS,
  rankArtifacts,
} from "../_shared/artifacts.ts";
import type { Edge } from "../_shared/edge.ts";
import { ReembedError } from "../_shared/errors.ts";
import { type Handler, readBody } from "../_shared/http.ts";
import type { WorkSwitches } from "../_shared/worker.ts";

/** Twenty vectors of 4,000 numbers. */
const LARGEST_BODY = 2 * 1024 * 1024;
const MOST_QUERIES = 20;

const text = z
  .string()
  .max(8_000, "must have at most 8,000 characters")
  .refine((given) => given.trim() !== "", "must not be empty");

const query = {
  query_text: text.optional(),
  query_embedding: z.array(z.number()).min(1).max(4_000).optional(),
  query_space: z.string().max(200).optional(),
};
type Query = z.output<z.ZodObject<typeof query>>;

const isOneQuery = ({ query_text, query_embedding, query_space }: Query) =>
  (query_text === undefined) !== (query_embedding === undefined) &&
  (query_space === undefined || query_embedding !== undefined);
const ONE_QUERY = "must have either query_text or query_embedding; query_space goes with the latter";

const options = {
  limit: z.int().min(1).max(100).default(10),
  similarity_threshold: z.number().min(-1).max(1).nullable().default(0.7),
  artifact_types: z.array(z.string().min(1).max(100)).min(1).max(50).optional(),
  user_only: z.boolean().default(true),
  method: z.enum(METHODS).default("cosine"),
  content_type: z.enum(CONTENT_TYPES).default("full"),
};

/** What a request of each route may say. */
export const similarBody = z.strictObject({ ...query, ...options }).refine(isOneQuery, ONE_QUERY);
export const batchBody = z.strictObject({
  queries: z.array(z.strictObject(query).refine(isOneQuery, ONE_QUERY)).min(1).max(MOST_QUERIES),
  ...options,
});
export const rankBody = z.strictObject({
  job_description: text,
  artifact_ids: z.array(z.int().min(1)).min(1).max(1_000).optional(),
  ranking_method: z.enum(RANKING_METHODS).default("semantic"),
  top_k: z.int().min(1).max(100).default(5),
});
export const embeddingsBody = z.strictObject({
  content_type: z.enum(["full", "summary", "chunks"]).default("full"),
  force_regenerate: z.boolean().default(false),
});

const LARGEST_ID = 9_223_372_036_854_775_807n;

type Bindings = { readonly Bindings: { readonly requestId: string } };

export function makeHandler(edge: Edge, switches: WorkSwitches = {}): Handler {
  const portsFor = async (request: Request): Promise<ArtifactPorts> => {
    const caller = await edge.caller(request);
    const callerHash = await edge.callerHash(request);
    if (callerHash !== null && !hasToken(request)) {
      throw new ReembedError(
        "unauthorized",
        "artifacts belong to users, and this request has no user's token",
        "Sign in, and send the access token as Authorization: Bearer <token>.",
      );
    }
    const { service, embedderFor } = edge;
    return { caller, callerHash, service, embedderFor, switches };
  };
  const answer = (context: Context<Bindings>, value: object, status = 200) =>
    Response.json({ ...value, request_id: context.env.requestId }, { status });

  const app = new Hono<Bindings>({ getPath });
  app.post("/search/similar", async (context) => {
    const ports = await portsFor(context.req.raw);
    const asked = await readBody(context.req.raw, similarBody, LARGEST_BODY);
    const [found] = await findSimilar(ports, [queryOf(asked)], asked);
    return answer(context, found ?? {});
  });
  app.post("/search/similar/batch", async (context) => {
    const ports = await portsFor(context.req.raw);
    const asked = await readBody(context.req.raw, batchBody, LARGEST_BODY);
    return answer(context, { searches: await findSimilar(ports, asked.queries.map(queryOf), asked) });
  });
  app.post("/rank", async (context) => {
    const ports = await portsFor(context.req.raw);
    return answer(
      context,
      await rankArtifacts(ports, await readBody(context.req.raw, rankBody, LARGEST_BODY)),
    );
  });
  app.get("/:id/embeddings", async (context) => {
    const ports = await portsFor(context.req.raw);
    const { artifact_id, embeddings } = await listEmbeddings(ports, idOf(context.req.param("id")));
    return answer(context, { artifact_id, embeddings });
  });
  app.post("/:id/embeddings", async (context) => {
    const ports = await portsFor(context.req.raw);
    const id = idOf(context.req.param("id"));
    const asked = await readBody(context.req.raw, embeddingsBody, LARGEST_BODY);
    const type = asked.content_type === "chunks" ? "chunk" : asked.content_type;
    return answer(context, await generateEmbeddings(ports, id, type, asked.force_regenerate), 201);
  });
  for (const path of ["/search/similar", "/search/similar/batch", "/rank", "/:id/embeddings"]) {
    app.all(path, (context) => {
      throw new ReembedError(
        "method_not_allowed",
        `${context.req.method} is not allowed here`,
        "docs/artifacts.openapi.json lists each route with its methods.",
      );
    });
  }
  app.notFound(() => {
    throw new ReembedError(
      "not_found",
      "there is no such route",
      "docs/artifacts.openapi.json lists the routes after /functions/v1/artifacts.",
    );
  });
  // What is thrown is answered by serve(), for all functions alike.
  app.onError((error) => {
    throw error;
  });
  return async (request, { requestId }) => app.fetch(request, { requestId });
}

/** The path behind the function's name, and behind the prefix that clients of an own server have always called. */
function getPath(request: Request): string {
  const path = new URL(request.url).pathname.replace(
    /^(\/functions\/v1)?\/artifacts(\/api\/v1\/artifacts)?(?=\/|$)/,
    "",
  );
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path || "/";
}

/** Clients without a session repeat their key as the bearer: that is no token. */
function hasToken(request: Request): boolean {
  const [, token] = /^Bearer +(.+)$/i.exec(request.headers.get("authorization") ?? "") ?? [];
  return token !== undefined && token !== request.headers.get("apikey");
}

function queryOf({ query_text, query_embedding, query_space }: Query) {
  return query_embedding === undefined
    ? { text: query_text ?? "" }
    : { embedding: query_embedding, space: query_space };
}

function idOf(id: string): string {
  if (/^[1-9]\d{0,18}$/.test(id) && BigInt(id) <= LARGEST_ID) return id;
  throw new ReembedError(
    "invalid_request",
    "id: must be the number of an artifact",
    "Take it from the artifact's row.",
  );
}
