/** Which provider embeds for a space. */
import type { Embedder, Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { createHashEmbedder, HASH_MODEL } from "./providers/hash.ts";
import { createOpenAIEmbedder } from "./providers/openai.ts";
import { type BatchProvider, createOpenAIBatches } from "./providers/openai-batches.ts";
import { createSupabaseEmbedder, type SupabaseAi } from "./providers/supabase.ts";
import { checkModel, type Switches } from "./switches.ts";

/** What the environment offers: read once at the door, handed in here. */
export interface ProviderConfig {
  readonly openai?:
    | {
        readonly apiKey?: string | undefined;
        readonly baseURL?: string | undefined;
        /** The model that the environment names; a space of another one is refused. */
        readonly model?: string | undefined;
        /** For one request; without it the provider's own. */
        readonly timeoutMs?: number | undefined;
      }
    | undefined;
  readonly supabaseAi?: SupabaseAi | undefined;
}

/** How the provider openai is reached, as an environment's variables say. */
export function openAIFrom(
  env: { readonly OPENAI_API_KEY?: string | undefined; readonly OPENAI_BASE_URL?: string | undefined },
  switches: Pick<Switches, "OPENAI_EMBEDDING_MODEL" | "EMBEDDING_TIMEOUT">,
): NonNullable<ProviderConfig["openai"]> {
  const seconds = switches.EMBEDDING_TIMEOUT;
  return {
    apiKey: env.OPENAI_API_KEY,
    baseURL: env.OPENAI_BASE_URL,
    model: switches.OPENAI_EMBEDDING_MODEL,
    timeoutMs: seconds === undefined ? undefined : Math.round(seconds * 1_000),
  };
}

/**
 * The Embedder of a space, by the space's provider: `openai`, `hash` or `supabase`.
 * @throws ReembedError `provider_unavailable` when the provider is not configured, is `external` (its vectors are brought from elsewhere), or is unknown;
 * `environment_conflict` when the environment names another model
 */
export function createEmbedder(space: Space, config: ProviderConfig): Embedder {
  switch (space.provider) {
    case "openai":
      return createOpenAIEmbedder({
        space,
        ...readOpenAIConfig(space, config),
        ...(config.openai?.timeoutMs === undefined ? {} : { timeoutMs: config.openai.timeoutMs }),
      });
    case "hash":
      if (space.model !== HASH_MODEL) {
        throw unavailable(
          space,
          `the provider hash has no model ${space.model}`,
          `Its one model is ${HASH_MODEL}.`,
        );
      }
      return createHashEmbedder(space);
    case "supabase":
      return createSupabaseEmbedder(space, config.supabaseAi);
    case "external":
      throw unavailable(
        space,
        "its vectors are brought from elsewhere; nothing here can embed for it",
        "Search with a vector of your own through the match RPC, or move the collection to a space of another provider.",
      );
    default:
      throw unavailable(
        space,
        `no provider is called ${space.provider}`,
        "Known providers: openai, hash, supabase, and external for vectors brought from elsewhere.",
      );
  }
}

/**
 * The batch interface of a space's provider.
 * @throws ReembedError `provider_unavailable` when the provider has none, or is not configured; `environment_conflict` as for createEmbedder
 */
export function createBatchProvider(space: Space, config: ProviderConfig): BatchProvider {
  if (space.provider !== "openai") {
    throw unavailable(
      space,
      `the provider ${space.provider} has no batch interface`,
      "Only spaces of the provider openai have the batch lane.",
    );
  }
  return createOpenAIBatches({ space, ...readOpenAIConfig(space, config) });
}

/** Refuses at once what would otherwise look like a broken connection at each request. */
function readOpenAIConfig(space: Space, { openai }: ProviderConfig) {
  checkModel(openai?.model, space);
  const apiKey = openai?.apiKey?.trim() ?? "";
  if (apiKey === "") {
    throw unavailable(
      space,
      "OPENAI_API_KEY is not set",
      "Set OPENAI_API_KEY; for a server of your own that asks for no key, any word will do.",
    );
  }
  if (!/^[\x21-\x7e]+$/.test(apiKey)) {
    throw unavailable(
      space,
      "OPENAI_API_KEY holds a character that no key has",
      "Copy the key again, without quotes.",
    );
  }
  const baseURL = openai?.baseURL?.trim() || undefined;
  if (baseURL !== undefined && !/^https?:\/\//.test(baseURL)) {
    throw unavailable(
      space,
      "OPENAI_BASE_URL is not an http(s) URL",
      "Give it with its version: http://127.0.0.1:11434/v1",
    );
  }
  return { apiKey, baseURL };
}

function unavailable(space: Space, what: string, hint: string): ReembedError {
  return new ReembedError("provider_unavailable", `${space.id}: ${what}`, hint);
}
