/** The model inside Supabase's edge runtime: gte-small, 384 dimensions, English, at most 512 tokens a text (it cuts off the rest). No key, no price. */
import { type Embedder, makeEmbedder, type Space, throwIfAborted } from "../embedder.ts";
import { ReembedError } from "../errors.ts";
import { ProviderError } from "../provider-error.ts";

/** The part of `Supabase.ai.Session` that is used. */
export interface SupabaseAiSession {
  run(input: string, options: { mean_pool: true; normalize: true }): Promise<unknown>;
}

/** Makes a session for a model: in the edge runtime `(model) => new Supabase.ai.Session(model)`. */
export type SupabaseAi = (model: string) => SupabaseAiSession;

/**
 * An Embedder on the edge runtime's built-in model, one text after the other (the runtime takes no list). Its usage is 0: nothing is charged or counted.
 * @param supabaseAi undefined where the runtime does not offer it.
 * @throws ReembedError `provider_unavailable` where it is not offered.
 */
export function createSupabaseEmbedder(space: Space, supabaseAi: SupabaseAi | undefined): Embedder {
  if (supabaseAi === undefined) {
    throw new ReembedError(
      "provider_unavailable",
      `${space.id}: this runtime does not offer Supabase.ai.Session`,
      "Spaces of the provider supabase can be embedded only inside Supabase edge functions; use another space here.",
    );
  }
  let session: SupabaseAiSession | undefined;
  const run = async (text: string): Promise<unknown> => {
    try {
      session ??= supabaseAi(space.model);
      return await session.run(text, { mean_pool: true, normalize: true });
    } catch {
      throw new ProviderError("server_error", `${space.id}: the model of the edge runtime failed`);
    }
  };
  return makeEmbedder(space, async (texts, signal) => {
    const vectors: number[][] = [];
    for (const text of texts) {
      throwIfAborted(space, signal);
      vectors.push(asVector(space, await run(text)));
    }
    return { vectors, usage: { tokens: 0 } };
  });
}

function asVector(space: Space, output: unknown): number[] {
  if (Array.isArray(output) || output instanceof Float32Array) return Array.from<number>(output);
  throw new ProviderError(
    "bad_answer",
    `${space.id}: the model of the edge runtime returned no list of numbers`,
    {
      billed: "no",
    },
  );
}
