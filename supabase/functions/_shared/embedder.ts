/**
 * The port behind which every embedding provider stands, and the check that every answer passes before it is believed.
 */

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
  readonly purpose: 'query' | 'document';
  readonly signal?: AbortSignal;
}

/** Vectors in the order of the inputs, each `dimensions` wide, and what the provider billed for them. */
export interface Embedded {
  readonly vectors: readonly (readonly number[])[];
  readonly usage: { readonly tokens: number };
}

/**
 * Embeds texts in one space.
 * @throws ProviderError when the provider cannot answer, or answers with something that is not a vector of this space for each input.
 */
export interface Embedder {
  readonly space: Space;
  embed(inputs: readonly string[], options: EmbedOptions): Promise<Embedded>;
}
