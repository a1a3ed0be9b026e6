/** Which provider embeds for a space, and which language model writes. */
import type { ChatModel } from "./chat-model.ts";
import type { Embedder, Space } from "./embedder.ts";
import { ReembedError } from "./errors.ts";
import { createPictureLoader, type LoadPicture } from "./picture-loader.ts";
import { createClipEmbedder } from "./providers/clip.ts";
import { createDescribedEmbedder, modelsOf } from "./providers/described.ts";
import { createHashEmbedder, HASH_MODEL } from "./providers/hash.ts";
import { createOpenAIEmbedder } from "./providers/openai.ts";
import { type BatchProvider, createOpenAIBatches } from "./providers/openai-batches.ts";
import { createOpenAIChatModel } from "./providers/openai-chat.ts";
import { createSupabaseEmbedder, type SupabaseAi } from "./providers/supabase.ts";
import type { Rpc } from "./rpc.ts";
import type { SafeFetchPorts } from "./safe-fetch.ts";
import { checkServer, OPENAI, type Server } from "./servers.ts";
import { checkModel, type Switches } from "./switches.ts";

/** How a server is reached, and what the environment's switches say about it. */
interface SwitchedServer extends Server {
  /** The model that the environment names; a space of another one is refused. */
  readonly model?: string | undefined;
  /** For one request; without it the provider's own. */
  readonly timeoutMs?: number | undefined;
}

/** What the environment offers: read once at the door, handed in here. */
export interface ProviderConfig {
  readonly openai?: SwitchedServer | undefined;
  /** The other servers that speak OpenAI's API, by their providers' names. */
  readonly servers?: Readonly<Record<string, SwitchedServer>> | undefined;
  readonly supabaseAi?: SupabaseAi | undefined;
  /** The language model of the provider openai; without it the default one. */
  readonly chatModel?: string | undefined;
  /** The database as service_role, for providers that keep something there. */
  readonly service?: Rpc | undefined;
  /** How pictures are loaded that documents refer to. */
  readonly loadPicture?: LoadPicture | undefined;
}

/**
 * How pictures are loaded that documents refer to, as the environment says.
 * @throws ReembedError `environment_conflict` where IMAGE_FILES_URL is not a URL
 */
export function picturesFrom(
  env: { readonly IMAGE_FILES_URL?: string | undefined },
  connection: SafeFetchPorts,
): Required<Pick<ProviderConfig, "loadPicture">> {
  const baseUrl = env.IMAGE_FILES_URL?.trim() || undefined;
  if (baseUrl !== undefined && !(/^https?:\/\//.test(baseUrl) && URL.canParse(baseUrl))) {
    throw new ReembedError(
      "environment_conflict",
      "IMAGE_FILES_URL is not an http(s) URL",
      "Name the folder in which files stand that are named without a URL: https://cdn.example.com/images/",
    );
  }
  return { loadPicture: createPictureLoader(connection, { baseUrl }) };
}

/** How OpenAI and the other servers are reached, as an environment's variables say. */
export function serverConfig(
  env: { readonly OPENAI_API_KEY?: string | undefined; readonly OPENAI_BASE_URL?: string | undefined },
  others: Readonly<Record<string, Server>>,
  switches: Pick<Switches, "OPENAI_EMBEDDING_MODEL" | "EMBEDDING_TIMEOUT" | "OPENAI_CHAT_MODEL">,
): Pick<ProviderConfig, "chatModel"> & Required<Pick<ProviderConfig, "openai" | "servers">> {
  const seconds = switches.EMBEDDING_TIMEOUT;
  const timeoutMs = seconds === undefined ? undefined : Math.round(seconds * 1_000);
  return {
    openai: {
      apiKey: env.OPENAI_API_KEY,
      baseURL: env.OPENAI_BASE_URL,
      model: switches.OPENAI_EMBEDDING_MODEL,
      timeoutMs,
    },
    servers: Object.fromEntries(
      Object.entries(others).map(([provider, server]) => [provider, { ...server, timeoutMs }]),
    ),
    chatModel: switches.OPENAI_CHAT_MODEL,
  };
}

/**
 * The Embedder of a space, by the space's provider: `hash`, `supabase`, `clip`, `described`, or a server that speaks OpenAI's API, which `openai` and every other name is.
 * @throws ReembedError `provider_unavailable` when the provider is not configured, or is `external` (its vectors are brought from elsewhere);
 * `environment_conflict` when the environment names another model
 */
export function createEmbedder(space: Space, config: ProviderConfig): Embedder {
  switch (space.provider) {
    case "hash":
      if (space.model !== HASH_MODEL) {
        throw unavailable(
          space,
          `the provider hash has no model ${space.model}`,
          `Its one model is ${HASH_MODEL}.`,
        );
      }
      return createHashEmbedder(space);
    case "described":
      return createDescribedEmbedder({ space, ...reachDescribed(space, config) });
    case "clip":
      return createClipEmbedder({
        space,
        ...reachClip(space, config),
        load: config.loadPicture ?? refuseToLoad,
      });
    case "supabase":
      return createSupabaseEmbedder(space, config.supabaseAi);
    case "external":
      throw unavailable(
        space,
        "its vectors are brought from elsewhere; nothing here can embed for it",
        "Search with a vector of your own through the match RPC, or move the collection to a space of another provider.",
      );
    default: {
      const { timeoutMs } = serverOf(space, config) ?? {};
      return createOpenAIEmbedder({
        space,
        ...reach(space, config),
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      });
    }
  }
}

/**
 * The batch interface of a space's provider.
 * @throws ReembedError `provider_unavailable` when the provider has none, or is not configured; `environment_conflict` as for createEmbedder
 */
export function createBatchProvider(space: Space, config: ProviderConfig): BatchProvider {
  const { apiKey, baseURL } =
    space.provider === OPENAI ? reach(space, config) : { apiKey: undefined, baseURL: undefined };
  if (apiKey === undefined) {
    throw unavailable(
      space,
      `the provider ${space.provider} has no batch interface`,
      "Only spaces of the provider openai have the batch lane.",
    );
  }
  return createOpenAIBatches({ space, apiKey, baseURL });
}

/** Cheap, sees images, writes its first word soon. Its price stands in `reembed.completion_models`. */
const DEFAULT_CHAT_MODEL = "gpt-4.1-mini";

/**
 * The language model that the environment configures; undefined where it has no OPENAI_API_KEY.
 * @throws ReembedError `provider_unavailable` when the key or the base URL is malformed
 */
export function createChatModel({ openai, chatModel }: ProviderConfig): ChatModel | undefined {
  if (!openai?.apiKey?.trim()) return undefined;
  const model = chatModel ?? DEFAULT_CHAT_MODEL;
  const id = `${OPENAI}/${model}`;
  return createOpenAIChatModel({ id, model, ...checkServer({ id, provider: OPENAI }, openai) });
}

function serverOf({ provider }: Space, { openai, servers }: ProviderConfig): SwitchedServer | undefined {
  return provider === OPENAI ? openai : servers?.[provider];
}

function reach(space: Space, config: ProviderConfig) {
  const server = serverOf(space, config);
  checkModel(server?.model, space);
  return checkServer(space, server);
}

function reachClip(space: Space, config: ProviderConfig) {
  const { apiKey, baseURL } = checkServer(space, serverOf(space, config));
  // checkServer has refused a server without an address.
  return { apiKey, baseURL: baseURL ?? "" };
}

/** Both models are OpenAI's; the space names them, and not the environment: the vectors depend on both. */
function reachDescribed(space: Space, config: ProviderConfig) {
  const { loadPicture: load = refuseToLoad, service } = config;
  const models = modelsOf(space);
  if (models === undefined) {
    throw unavailable(
      space,
      "its model does not name two models",
      "Name the one that describes and the one that embeds: described/gpt-4.1-mini+text-embedding-3-small@1536",
    );
  }
  if (service === undefined) {
    throw unavailable(
      space,
      "descriptions are kept in a database, and none is reached here",
      "Report a bug.",
    );
  }
  const id = `${OPENAI}/${models.text}@${space.dimensions}`;
  const inner: Space = { ...space, id, provider: OPENAI, model: models.text, image_tokens: null };
  const texts = createEmbedder({ ...inner, query_prefix: "", document_prefix: "" }, config);
  const model = createChatModel({ ...config, chatModel: models.chat });
  if (model === undefined) throw unavailable(space, "OPENAI_API_KEY is not set", "Set OPENAI_API_KEY.");
  return { texts, model, service, load };
}

const refuseToLoad: LoadPicture = async () => ({
  reason: "picture: nothing here can load it",
  next: "fail",
});

function unavailable(space: Space, what: string, hint: string): ReembedError {
  return new ReembedError("provider_unavailable", `${space.id}: ${what}`, hint);
}
