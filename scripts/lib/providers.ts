/** The providers that a command can reach: configured by OPENAI_API_KEY and OPENAI_BASE_URL. */
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import type { BatchProvider } from "../../supabase/functions/_shared/providers/openai-batches.ts";
import { createBatchProvider, createEmbedder } from "../../supabase/functions/_shared/providers.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Makes embedders from the environment. They throw ReembedError `provider_unavailable` where a space's provider is not configured. */
export function embeddersFrom({ OPENAI_API_KEY, OPENAI_BASE_URL }: Environment): (space: Space) => Embedder {
  return (space) => createEmbedder(space, { openai: { apiKey: OPENAI_API_KEY, baseURL: OPENAI_BASE_URL } });
}

/** Reaches the batch interface of a space's provider. It throws ReembedError `provider_unavailable` where there is none. */
export function batchesFrom({
  OPENAI_API_KEY,
  OPENAI_BASE_URL,
}: Environment): (space: Space) => BatchProvider {
  return (space) =>
    createBatchProvider(space, { openai: { apiKey: OPENAI_API_KEY, baseURL: OPENAI_BASE_URL } });
}
