/** The fake's models: real names, real widths, deterministic vectors in which texts that share words are near. */
import { mix32, murmur3 } from "../../../supabase/functions/_shared/murmur3.ts";
import { normalize, textFeatures } from "../../../supabase/functions/_shared/providers/hash.ts";

export interface Model {
  readonly name: string;
  readonly dimensions: number;
  /** Whether a request may ask for fewer dimensions. */
  readonly shortens: boolean;
}

export const MODELS: readonly Model[] = [
  { name: "text-embedding-3-small", dimensions: 1536, shortens: true },
  { name: "text-embedding-3-large", dimensions: 3072, shortens: true },
  { name: "text-embedding-ada-002", dimensions: 1536, shortens: false },
  // As a server of one's own offers it: the fake stands in for that, too.
  { name: "embeddinggemma", dimensions: 768, shortens: false },
];

/** One input: text, or tokens as numbers, which are taken as words. */
export type Input = string | readonly number[];

export function inputText(input: Input): string {
  return typeof input === "string" ? input : input.join(" ");
}

/**
 * The fake's token count, which it limits and bills by: the length of a token array; of a text a quarter token for each UTF-8 byte, rounded
 * up, at least 1. (The real service limits requests by about the same estimate and bills by its tokenizer.)
 */
export function countTokens(input: Input): number {
  return typeof input === "string" ? Math.max(1, Math.ceil(Buffer.byteLength(input) / 4)) : input.length;
}

/**
 * Every feature appears once in each block of components, so that a vector that is cut short keeps its meaning. The first blocks are the
 * smallest: even eight dimensions hold something of every feature.
 */
const SMALLEST_BLOCK = 8;
const LARGEST_BLOCK = 256;

/**
 * The vector of an input. Every model has seeds of its own, so that the vectors of two models say nothing about each other. Fewer dimensions
 * are the first ones of the full vector, normalised again, as the real models do it.
 */
export function embed(model: Model, input: Input, dimensions: number): number[] {
  const text = inputText(input);
  const modelSeed = murmur3(model.name);
  const { hashes, weights } = textFeatures(text);
  const vector = new Array<number>(model.dimensions).fill(0);
  // What lies beyond the cut is not worth computing.
  for (let start = 0; start < dimensions; ) {
    const size = Math.min(Math.max(start, SMALLEST_BLOCK), LARGEST_BLOCK, model.dimensions - start);
    const seed = mix32(modelSeed + start);
    for (const [position, hash] of hashes.entries()) {
      const projected = mix32(hash ^ seed);
      const index = start + ((projected >>> 1) % size);
      const weight = weights[position] ?? 0;
      vector[index] = (vector[index] ?? 0) + (projected & 1 ? weight : -weight);
    }
    start += size;
  }
  return normalize(vector.slice(0, dimensions), murmur3(text, modelSeed) % dimensions);
}
