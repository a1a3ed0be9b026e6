/** Exact token counts, for the models whose tokenizer is public. */
import type { Space } from "../../supabase/functions/_shared/embedder.ts";

export interface Tokenizer {
  readonly name: string;
  /** The tokens that the provider bills for a text. */
  count(text: string): number;
}

/** OpenAI's embedding models all use this one. */
const CL100K_BASE_MODELS = new Set([
  "text-embedding-3-small",
  "text-embedding-3-large",
  "text-embedding-ada-002",
]);

/** The tokenizer of a space's model; undefined where it is not known. Its tables are large: they are loaded here, by the one command that counts. */
export async function loadTokenizer({
  provider,
  model,
}: Pick<Space, "provider" | "model">): Promise<Tokenizer | undefined> {
  if (provider !== "openai" || !CL100K_BASE_MODELS.has(model)) return undefined;
  const { countTokens } = await import("gpt-tokenizer/encoding/cl100k_base");
  // A text that spells a control token is text to an embedding model.
  const options = { disallowedSpecial: new Set<string>() };
  return { name: "cl100k_base", count: (text) => countTokens(text, options) };
}
