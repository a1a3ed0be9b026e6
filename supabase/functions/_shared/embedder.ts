/**
 * The port behind which every embedding provider stands, and the check that every answer passes before it is believed.
 */
import type { Picture } from "./pictures.ts";
import { type Billed, ProviderError } from "./provider-error.ts";
import type { ProviderRate } from "./provider-rate.ts";

/** What a space is: the identity of its vectors. Two spaces are never compared, not even at equal width. */
export interface Space {
  /** `provider/model@dimensions`, for example `openai/text-embedding-3-small@1536`. */
  readonly id: string;
  readonly provider: string;
  readonly model: string;
  readonly dimensions: number;
  /** Text put before a query, respectively a document, before it is embedded; part of the space's identity. */
  readonly query_prefix: string;
  readonly document_prefix: string;
  readonly max_input_tokens: number;
  /** Where documents are images: the tokens that each is taken for. Null or absent: documents are texts. */
  readonly image_tokens?: number | null | undefined;
}

/** Whether the documents of a space are images: its input function makes references to them, such as URLs. */
export const hasImages = ({ image_tokens }: Pick<Space, "image_tokens">): boolean => image_tokens != null;

/**
 * What is embedded. A document is a text, or, in a space whose documents are images, a reference to one. A query is a text, or a picture
 * where the space's provider takes pictures.
 */
export type Input = string | Picture;

export interface EmbedOptions {
  readonly purpose: "query" | "document";
  /** Of documents, whose they are: whose budget pays for what a provider buys besides. */
  readonly collection?: string | undefined;
  readonly signal?: AbortSignal;
}

/** Why one input has no vector although the provider answered. */
export interface InputFailure {
  /** In words that are safe to show and equal for equal causes: nothing of the input itself. */
  readonly reason: string;
  /** `fail`: for good; `retry`: it may succeed later and spends an attempt; `release`: it was not tried, or not to the end. */
  readonly next: "fail" | "retry" | "release";
}

/** What the provider made of the inputs, in their order, and what it billed for them. */
export interface Embedded {
  /** Each `dimensions` wide; null where `failures` says why there is none. */
  readonly vectors: readonly (readonly number[] | null)[];
  readonly usage: { readonly tokens: number };
  /** The rate that the provider allows, where its answer said so. */
  readonly rate?: ProviderRate | undefined;
  /** By the position of the input. One input's failure is no other's: a fault of the provider or the request is thrown instead. */
  readonly failures?: ReadonlyMap<number, InputFailure> | undefined;
}

/**
 * Embeds inputs in one space.
 * @throws ProviderError when the provider cannot answer, or answers with something that is not a vector of this space for each input.
 */
export interface Embedder {
  readonly space: Space;
  embed(inputs: readonly Input[], options: EmbedOptions): Promise<Embedded>;
}

/** What a provider has to do itself: turn one list of final texts (never empty, prefixes in place) into vectors. */
export type EmbedTexts = (texts: readonly string[], signal: AbortSignal | undefined) => Promise<Embedded>;

/** The same for inputs of a provider that takes pictures: texts are final, documents are references. */
export type EmbedInputs = (inputs: readonly Input[], options: EmbedOptions) => Promise<Embedded>;

/**
 * Makes a provider's function for texts into an Embedder: the space's prefixes are put on, and a picture is refused.
 */
export function makeEmbedder(space: Space, embedTexts: EmbedTexts): Embedder {
  return makeInputEmbedder(space, (inputs, { signal }) => {
    const texts = inputs.filter((input) => typeof input === "string");
    if (texts.length < inputs.length) {
      throw new ProviderError("request_refused", `${space.id}: this space embeds texts, not pictures`, {
        billed: "no",
      });
    }
    return embedTexts(texts, signal);
  });
}

/**
 * Makes a provider's function into an Embedder. What holds for all of them stands here: no inputs cost no request, a signal
 * that is aborted already sends nothing, the space's prefixes are put on texts, and every answer is checked.
 */
export function makeInputEmbedder(space: Space, embedInputs: EmbedInputs): Embedder {
  return {
    space,
    async embed(inputs, options) {
      if (inputs.length === 0) return { vectors: [], usage: { tokens: 0 } };
      throwIfAborted(space, options.signal);
      const embedded = await embedInputs(prefixed(space, inputs, options.purpose), options);
      checkVectors(space, inputs, embedded.vectors, embedded.usage.tokens, embedded.failures);
      return embedded;
    },
  };
}

function prefixed(space: Space, inputs: readonly Input[], purpose: EmbedOptions["purpose"]) {
  const prefix = purpose === "query" ? space.query_prefix : space.document_prefix;
  // A reference is no text.
  if (prefix === "" || (purpose === "document" && hasImages(space))) return inputs;
  return inputs.map((input) => (typeof input === "string" ? prefix + input : input));
}

/** @throws ProviderError (`aborted`, not billed) when the caller has given up before anything was sent. */
export function throwIfAborted(space: Space, signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new ProviderError("aborted", `${space.id}: the request was given up before it was sent`, {
      billed: "no",
    });
  }
}

/**
 * Checks that there is one vector for each input that has not failed, that each has the space's width, and that its numbers are finite and not all
 * zero as pgvector sees them: it stores float4 and sums squares in float4, so what over- or underflows there has no cosine.
 * @param billed what the failed request costs, for the ledger.
 * @throws ProviderError (`bad_answer`) that names the position and the rule, never a number of the vector.
 */
export function checkVectors(
  space: Space,
  inputs: readonly Input[],
  vectors: readonly (readonly number[] | null)[],
  billed: Billed = "maybe",
  failures: ReadonlyMap<number, InputFailure> = new Map(),
): void {
  const refuse = (what: string) => new ProviderError("bad_answer", `${space.id}: ${what}`, { billed });
  if (vectors.length !== inputs.length) {
    throw refuse(`the provider returned ${vectors.length} vectors for ${inputs.length} inputs`);
  }
  for (const [position, vector] of vectors.entries()) {
    const which = `vector ${position + 1} of ${vectors.length}`;
    if ((vector === null) !== failures.has(position)) {
      throw refuse(
        `${which} is ${vector === null ? "missing without a reason" : "there although its input failed"}`,
      );
    }
    if (vector === null) continue;
    if (vector.length !== space.dimensions) {
      throw refuse(`${which} has ${vector.length} dimensions, the space has ${space.dimensions}`);
    }
    let squares = 0;
    for (const value of vector) {
      if (typeof value !== "number") throw refuse(`${which} holds something that is not a number`);
      squares = Math.fround(squares + Math.fround(Math.fround(value) ** 2));
    }
    if (!Number.isFinite(squares)) throw refuse(`${which} holds a number that is not finite`);
    if (squares === 0) throw refuse(`${which} is zero`);
  }
}
