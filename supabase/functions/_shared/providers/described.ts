/**
 * Pictures through words: a language model that sees describes each picture, and the description is embedded as text. It is what can be done with a
 * provider that has no embeddings of images. Texts are embedded as they are, in the same space, so a query may be words or a picture.
 *
 * The descriptions of documents are kept in the database by the picture's content: a picture is described once, and again only by another model or
 * instruction, which is another space. Those of queries, which are their callers' own pictures, are not kept.
 */
import { z } from "zod";
import { type ChatMessage, type ChatModel, estimateRequest } from "../chat-model.ts";
import { complete } from "../completions.ts";
import type { Embedder, EmbedOptions, InputFailure, Space } from "../embedder.ts";
import { ReembedError } from "../errors.ts";
import { type GroupAnswer, makePictureEmbedder } from "../picture-embedder.ts";
import type { LoadPicture } from "../picture-loader.ts";
import { dataUri, type Picture } from "../pictures.ts";
import { ProviderError } from "../provider-error.ts";
import type { Rpc } from "../rpc.ts";

/** With the space's model it names who describes: another instruction is another number, and a space of another name. */
const INSTRUCTION_NUMBER = 1;
const INSTRUCTION =
  "Describe the product in this photo for a search index, in English, in at most 80 words: what it is, its kind, material, colours, pattern, shape, parts, and any text on it. Say nothing of the background, of the photo itself or of yourself. No introduction, no list.";
const MOST_OUTPUT_TOKENS = 250;

/** Language models that are asked at once. */
const AT_ONCE = 4;
const LEASE_SECONDS = 120;

export interface DescribedEmbedderOptions {
  readonly space: Space;
  /** Embeds the descriptions. */
  readonly texts: Embedder;
  readonly model: ChatModel;
  /** The database as service_role: descriptions, and the ledger of language models. */
  readonly service: Rpc;
  readonly load: LoadPicture;
  /** As for PictureProvider. */
  readonly budgetMs?: number | undefined;
}

const messagesFor = (url: string): readonly ChatMessage[] => [
  { role: "system", content: INSTRUCTION },
  { role: "user", content: [{ type: "image", url, detail: "low" }] },
];

/** What a description is reserved with: the most that it takes, in tokens. */
export const mostTokensOfADescription = () => ({
  inputTokens: estimateRequest(messagesFor("")),
  outputTokens: MOST_OUTPUT_TOKENS,
});

/** What the space's model names: `gpt-4.1-mini+text-embedding-3-small` is described by the first and embedded by the second. */
export function modelsOf({
  model,
}: Pick<Space, "model">): { readonly chat: string; readonly text: string } | undefined {
  const [chat, text, ...more] = model.split("+");
  return chat && text && more.length === 0 ? { chat, text } : undefined;
}

const begun = z.union([
  z.object({ description: z.string() }),
  z.object({ ticket: z.string() }),
  z.object({ busy: z.literal(true) }),
  z.strictObject({}),
]);

const NOT_DESCRIBED: InputFailure = { reason: "picture: the model does not describe it", next: "fail" };
const BUSY: InputFailure = { reason: "picture: another is describing it", next: "release" };

/** @throws ProviderError for every failure of either model; a query also QueryRefused where its budget is spent */
export function createDescribedEmbedder(options: DescribedEmbedderOptions): Embedder {
  const { space, texts, model, service, load, budgetMs } = options;
  const describer = `${model.id}#${INSTRUCTION_NUMBER}`;

  const ask = async (picture: Picture, { purpose, signal, collection }: EmbedOptions) => {
    const answer = await complete(
      { service, model },
      {
        purpose: "describe",
        messages: messagesFor(dataUri(picture)),
        maxOutputTokens: MOST_OUTPUT_TOKENS,
        collection: purpose === "document" ? collection : undefined,
        signal,
      },
    );
    const text = answer.text.trim();
    return text === "" || answer.finish === "withheld" ? undefined : text;
  };

  const describe = async (picture: Picture, how: EmbedOptions): Promise<string | InputFailure> => {
    const isDocument = how.purpose === "document";
    const answer = begun.parse(
      await service("reembed_begin_description", {
        describer,
        image_hash: picture.hash,
        lease_seconds: isDocument ? LEASE_SECONDS : null,
      }),
    );
    if ("description" in answer) return answer.description;
    if ("busy" in answer) return BUSY;
    let text: string | undefined;
    try {
      text = await ask(picture, how);
      return text ?? NOT_DESCRIBED;
    } catch (error) {
      if (error instanceof ProviderError && error.class === "input") return NOT_DESCRIBED;
      throw error;
    } finally {
      // What was paid is stored before anything else can go wrong.
      if ("ticket" in answer) {
        await service("reembed_end_description", { ticket: answer.ticket, description: text ?? null });
      }
    }
  };

  const embedGroup = async (pictures: readonly Picture[], how: EmbedOptions): Promise<GroupAnswer> => {
    // Equal pictures of a group are one.
    const once = new Map(pictures.map((picture) => [picture.hash, picture]));
    const byHash = new Map<string, string | InputFailure>();
    const distinct = [...once.values()];
    for (let at = 0; at < distinct.length; at += AT_ONCE) {
      const part = distinct.slice(at, at + AT_ONCE);
      const answers = await Promise.allSettled(part.map((picture) => describe(picture, how)));
      for (const [index, answer] of answers.entries()) {
        const hash = part[index]?.hash ?? "";
        byHash.set(hash, answer.status === "fulfilled" ? answer.value : failureOf(answer.reason, how, space));
      }
    }
    const described = pictures.map(({ hash }) => byHash.get(hash) ?? BUSY);

    const written = described.filter((description) => typeof description === "string");
    const { signal } = how;
    const { vectors, usage } = await texts.embed(written, {
      purpose: how.purpose,
      ...(signal && { signal }),
    });
    const left = [...vectors];
    return {
      outcomes: described.map((description) =>
        typeof description === "string" ? (left.shift() ?? NOT_DESCRIBED) : description,
      ),
      tokens: usage.tokens,
    };
  };

  return makePictureEmbedder(space, {
    load,
    budgetMs,
    embedTexts: (queries, { signal }) =>
      texts.embed(queries, { purpose: "query", ...(signal && { signal }) }),
    embedGroup,
  });
}

/**
 * What an error means for a picture that was to be described. Of a document, a spent budget gives its row back: the next claim is told of the budget. All
 * else ends the request, in the classes by which the engine goes on.
 */
function failureOf(error: unknown, { purpose }: EmbedOptions, space: Space): InputFailure {
  if (purpose === "query" || error instanceof ProviderError || !(error instanceof ReembedError)) throw error;
  if (error.code === "budget_spent") return { reason: error.message, next: "release" };
  const fault = error.code === "environment_conflict" ? "account_refused" : "server_error";
  throw new ProviderError(fault, `${space.id}: ${error.message}`, { billed: "no" });
}
