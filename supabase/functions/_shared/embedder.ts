/**
 * The port behind which every embedding provider stands, and the check that every answer passes before it is believed.
 */
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
}

export interface EmbedOptions {
  readonly purpose: "query" | "document";
  readonly signal?: AbortSignal;
}

/** Vectors in the order of the inputs, each `dimensions` wide, and what the provider billed for them. */
export interface Embedded {
  readonly vectors: readonly (readonly number[])[];
  readonly usage: { readonly tokens: number };
  /** The rate that the provider allows, where its answer said so. */
  readonly rate?: ProviderRate | undefined;
}

/**
 * Embeds texts in one space.
 * @throws ProviderError when the provider cannot answer, or answers with something that is not a vector of this space for each input.
 */
export interface Embedder {
  readonly space: Space;
  embed(inputs: readonly string[], options: EmbedOptions): Promise<Embedded>;
}

/** What a provider has to do itself: turn one list of final texts (never empty, prefixes in place) into vectors. */
export type EmbedTexts = (texts: readonly string[], signal: AbortSignal | undefined) => Promise<Embedded>;

/**
 * Makes a provider's function into an Embedder. What holds for all of them stands here: no inputs cost no request, a signal
 * that is aborted already sends nothing, the space's prefixes are put on, and every answer is checked.
 */
export function makeEmbedder(space: Space, embedTexts: EmbedTexts): Embedder {
  return {
    space,
    async embed(inputs, { purpose, signal }) {
      if (inputs.length === 0) return { vectors: [], usage: { tokens: 0 } };
      throwIfAborted(space, signal);
      const prefix = purpose === "query" ? space.query_prefix : space.document_prefix;
      const texts = prefix === "" ? inputs : inputs.map((input) => prefix + input);
      const embedded = await embedTexts(texts, signal);
      checkVectors(space, inputs, embedded.vectors, embedded.usage.tokens);
      return embedded;
    },
  };
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
 * Checks that there is one vector for each input, that each has the space's width, and that its numbers are finite and not all zero
 * as pgvector sees them: it stores float4 and sums squares in float4, so what over- or underflows there has no cosine.
 * @param billed what the failed request costs, for the ledger.
 * @throws ProviderError (`bad_answer`) that names the position and the rule, never a number of the vector.
 */
export function checkVectors(
  space: Space,
  inputs: readonly string[],
  vectors: readonly (readonly number[])[],
  billed: Billed = "maybe",
): void {
  const refuse = (what: string) => new ProviderError("bad_answer", `${space.id}: ${what}`, { billed });
  if (vectors.length !== inputs.length) {
    throw refuse(`the provider returned ${vectors.length} vectors for ${inputs.length} inputs`);
  }
  for (const [position, vector] of vectors.entries()) {
    const which = `vector ${position + 1} of ${vectors.length}`;
    if (vector.length !== space.dimensions) {
      throw refuse(`${which} has ${vector.length} dimensions, the space has ${space.dimensions}`);
    }
    let squares = 0;
    for (const value of vector) {
      if (typeof value !== "number") throw refuse(`${which} holds something that is not a number`);
      squares += Math.fround(value) ** 2;
    }
    const norm = Math.fround(squares);
    if (!Number.isFinite(norm)) throw refuse(`${which} holds a number that is not finite`);
    if (norm === 0) throw refuse(`${which} is zero`);
  }
}
