/** search-by-image where nothing is configured that embeds a photo, and where a version ends under a search. */
import { expect, test } from "vitest";
import type { Edge } from "../../supabase/functions/_shared/edge.ts";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { serve } from "../../supabase/functions/_shared/http.ts";
import { createEmbedder } from "../../supabase/functions/_shared/providers.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { makeHandler } from "../../supabase/functions/search-by-image/handler.ts";
import { png } from "../support/pictures.ts";

const ROUTE = {
  collection: "product_images",
  version: 1,
  active: true,
  query_prefix: "",
  document_prefix: "",
  max_input_tokens: 77,
  function: "match_product_images",
  filters: [],
  threshold: 0,
};
const routeTo = (provider: string, image_tokens: number | null = 50) => {
  const model = provider === "described" ? "gpt-4.1-mini+text-embedding-3-small" : "a-model";
  return { ...ROUTE, space: `${provider}/${model}@2`, provider, model, dimensions: 2, image_tokens };
};
const FOUND = { product_id: 1, image_id: 2, similarity: 0.5, name: "Mug" };

async function ask(
  answers: Readonly<Record<string, (args: Readonly<Record<string, unknown>>) => unknown>>,
  embedderFor?: Edge["embedderFor"],
) {
  const rpc: Rpc = async (name, args) => answers[name]?.(args);
  const edge: Edge = {
    service: rpc,
    caller: async () => rpc,
    callerHash: async () => null,
    chatModel: () => undefined,
    requireSecret: async () => {},
    embedderFor: embedderFor ?? ((space) => createEmbedder(space, {})),
  };
  const bugs: unknown[] = [];
  const form = new FormData();
  form.append("image", new Blob([png(1)]));
  const response = await serve(makeHandler(edge), (_, error) => bugs.push(error))(
    new Request("http://functions/search-by-image", { method: "POST", body: form }),
  );
  expect(bugs).toEqual([]);
  return { status: response.status, body: await response.json() };
}

test.each([
  ["clip", "CLIP_BASE_URL is not set"],
  ["described", "descriptions are kept in a database"],
  ["external", "brought from elsewhere"],
])("503 while nothing embeds photos for a space of the provider %s", async (provider, message) => {
  const { status, body } = await ask({ embedding_route: () => routeTo(provider) });
  expect(status).toBe(503);
  expect(body.error).toMatchObject({
    code: "provider_unavailable",
    message: expect.stringContaining(message),
  });
});

test("503 where the active version's documents are texts", async () => {
  const { status, body } = await ask({ embedding_route: () => routeTo("hash", null) });
  expect([status, body.error.code]).toEqual([503, "provider_unavailable"]);
});

test("a version that is finalized between route and search is routed once more", async () => {
  let version = 0;
  const answer = await ask(
    {
      embedding_route: () => {
        version += 1;
        return { ...routeTo("clip"), version };
      },
      reembed_begin_query: () => ({ embedding: "[1,1]" }),
      match_products: (args) => {
        if (args.version === 1) throw new ReembedError("version_retired", "gone", "Ask again.");
        return [FOUND];
      },
    },
    (space) => ({ space, embed: async () => ({ vectors: [[1, 1]], usage: { tokens: 1 } }) }),
  );
  expect(answer.status).toBe(200);
  expect(answer.body).toMatchObject({ success: true, version: 2, count: 1, results: [FOUND] });
});
