/** The providers that a command can reach: configured by OPENAI_API_KEY, OPENAI_BASE_URL and the switches. */
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import type { BatchProvider } from "../../supabase/functions/_shared/providers/openai-batches.ts";
import {
  createBatchProvider,
  createEmbedder,
  openAIFrom,
} from "../../supabase/functions/_shared/providers.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Makes embedders from the environment. They throw ReembedError `provider_unavailable` where a space's provider is not configured, and
 * `environment_conflict` where OPENAI_EMBEDDING_MODEL names another model.
 * @throws ReembedError `invalid_request` when a switch of the environment is malformed
 */
export function embeddersFrom(env: Environment): (space: Space) => Embedder {
  const openai = openAIFrom(env, readSwitches(env));
  return (space) => createEmbedder(space, { openai });
}

/** Reaches the batch interface of a space's provider. It throws as those of embeddersFrom do, and where there is no such interface. */
export function batchesFrom(env: Environment): (space: Space) => BatchProvider {
  const openai = openAIFrom(env, readSwitches(env));
  return (space) => createBatchProvider(space, { openai });
}
