/** The providers that a command can reach: configured by the variables of their servers (OPENAI_API_KEY, OLLAMA_BASE_URL, ...) and the switches. */
import type { ChatModel } from "../../supabase/functions/_shared/chat-model.ts";
import type { Embedder, Space } from "../../supabase/functions/_shared/embedder.ts";
import { nodeConnection } from "../../supabase/functions/_shared/node-connection.ts";
import type { BatchProvider } from "../../supabase/functions/_shared/providers/openai-batches.ts";
import {
  createBatchProvider,
  createChatModel,
  createEmbedder,
  type ProviderConfig,
  picturesFrom,
  serverConfig,
} from "../../supabase/functions/_shared/providers.ts";
import type { Rpc } from "../../supabase/functions/_shared/rpc.ts";
import { serversIn } from "../../supabase/functions/_shared/servers.ts";
import { readSwitches } from "../../supabase/functions/_shared/switches.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Makes embedders from the environment. They throw ReembedError `provider_unavailable` where a space's provider is not configured, and
 * `environment_conflict` where OPENAI_EMBEDDING_MODEL names another model.
 * @param service the database, for providers that keep something there
 * @throws ReembedError `invalid_request` when a switch of the environment is malformed
 */
export function embeddersFrom(env: Environment, service?: Rpc): (space: Space) => Embedder {
  const config = { ...configFrom(env), service };
  return (space) => createEmbedder(space, config);
}

/** Reaches the batch interface of a space's provider. It throws as those of embeddersFrom do, and where there is no such interface. */
export function batchesFrom(env: Environment): (space: Space) => BatchProvider {
  const config = configFrom(env);
  return (space) => createBatchProvider(space, config);
}

/** The language model of the environment; undefined without OPENAI_API_KEY. It throws as createChatModel does. */
export function chatModelFrom(env: Environment): ChatModel | undefined {
  return createChatModel(configFrom(env));
}

function configFrom(env: Environment): ProviderConfig {
  return {
    ...serverConfig(env, serversIn(env), readSwitches(env)),
    ...picturesFrom({ IMAGE_FILES_URL: env.IMAGE_FILES_URL }, nodeConnection),
  };
}
