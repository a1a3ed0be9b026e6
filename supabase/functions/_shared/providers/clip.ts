/**
 * A CLIP model behind infinity's `/embeddings`: OpenAI's wire format with `modality`, so that one model embeds pictures and texts in one space. It is
 * a server of one's own; OpenAI has no embeddings of images.
 */
import { APIError } from "openai";
import type { Embedder, EmbedOptions, InputFailure, Space } from "../embedder.ts";
import { type GroupAnswer, makePictureEmbedder } from "../picture-embedder.ts";
import type { LoadPicture } from "../picture-loader.ts";
import { dataUri, type Picture } from "../pictures.ts";
import { ProviderError } from "../provider-error.ts";
import { createOpenAIClient, openAIError, readEmbeddings } from "./openai.ts";

/** The longest wait for one answer: sixteen pictures on a server without a GPU take some seconds. */
const TIMEOUT_MS = 30_000;

export interface ClipEmbedderOptions {
  readonly space: Space;
  /** Of the server, for example `http://127.0.0.1:7997`; `/embeddings` comes after it. */
  readonly baseURL: string;
  readonly apiKey?: string | undefined;
  readonly load: LoadPicture;
  /** For one request, from sending to the last byte of the answer. */
  readonly timeoutMs?: number | undefined;
  readonly fetch?: typeof fetch;
  /** As for PictureProvider. */
  readonly budgetMs?: number | undefined;
}

type Modality = "image" | "text";

const NOT_TAKEN: InputFailure = { reason: "picture: the model does not take it", next: "fail" };

/**
 * An Embedder over HTTP. Documents are references to pictures; queries are texts or pictures.
 * @throws ProviderError for every failure of the service; see the table in provider-error.ts.
 */
export function createClipEmbedder(options: ClipEmbedderOptions): Embedder {
  const { space, load, budgetMs, apiKey = "none", timeoutMs = TIMEOUT_MS } = options;
  const client = createOpenAIClient({ ...options, apiKey, timeoutMs });

  const embed = async (inputs: readonly string[], modality: Modality, { signal }: EmbedOptions) => {
    const deadline = AbortSignal.timeout(timeoutMs);
    const exchange = { space, apiKey, texts: modality === "text" ? inputs : [], timeoutMs, signal, deadline };
    try {
      const body = { model: space.model, input: [...inputs], modality, encoding_format: "base64" as const };
      const response = await client.embeddings
        .create(body, { signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]) })
        .asResponse();
      return readEmbeddings(space, parseJson(await response.text()), inputs.length, undefined);
    } catch (error) {
      if (error instanceof ProviderError) throw error;
      if (speaksOfModel(error)) {
        throw new ProviderError(
          "account_refused",
          `${space.id}: the server has no such model for ${modality}`,
          {
            status: 400,
          },
        );
      }
      throw openAIError(error, exchange);
    }
  };

  /** The culprit of a group that is refused is sought in halves. Where the server fails at all of them, the pictures are not the reason. */
  const embedGroup = async (pictures: readonly Picture[], how: EmbedOptions): Promise<GroupAnswer> => {
    const answer = await embedInHalves(pictures, how);
    const isServerDown = answer.outcomes.every((outcome) => "next" in outcome && outcome.next === "retry");
    if (isServerDown && answer.fault !== undefined) throw answer.fault;
    return answer;
  };

  const embedInHalves = async (
    pictures: readonly Picture[],
    how: EmbedOptions,
  ): Promise<GroupAnswer & { readonly fault?: ProviderError | undefined }> => {
    try {
      const { vectors, tokens } = await embed(pictures.map(dataUri), "image", how);
      return { outcomes: vectors, tokens: tokens ?? 0 };
    } catch (error) {
      if (!(error instanceof ProviderError) || !mayBeOnePicture(error)) throw error;
      if (pictures.length === 1) {
        const failure: InputFailure =
          error.class === "input" ? NOT_TAKEN : { reason: error.message, next: "retry" };
        return { outcomes: [failure], tokens: 0, fault: error };
      }
      const middle = Math.ceil(pictures.length / 2);
      const halves = [
        await embedInHalves(pictures.slice(0, middle), how),
        await embedInHalves(pictures.slice(middle), how),
      ];
      return {
        outcomes: halves.flatMap(({ outcomes }) => outcomes),
        tokens: halves.reduce((sum, { tokens }) => sum + tokens, 0),
        fault: halves.find(({ fault }) => fault !== undefined)?.fault,
      };
    }
  };

  return makePictureEmbedder(space, {
    load,
    budgetMs,
    async embedTexts(texts, how) {
      const { vectors, tokens } = await embed(texts, "text", how);
      return { vectors, usage: { tokens: tokens ?? 0 } };
    },
    embedGroup,
  });
}

/** A server that fails at a picture answers 400 or 500; every other fault is not a picture's. */
function mayBeOnePicture({ class: kind, providerStatus }: ProviderError): boolean {
  return kind === "input" || providerStatus === 500;
}

/** Infinity answers 400 both to a damaged picture and to a model that it does not serve, or not for this modality; only its words tell. */
function speaksOfModel(error: unknown): boolean {
  return (
    error instanceof APIError && error.status === 400 && /invalid model|ModelNotDeployed/i.test(error.message)
  );
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
