/**
 * The offline provider: signed feature hashing (K. Weinberger, A. Dasgupta, J. Langford, A. Smola, J. Attenberg, "Feature Hashing for Large Scale
 * Multitask Learning", ICML 2009). It needs no key, no network and no model.
 *
 * It is lexical, not semantic: texts are near when they share words, neighbouring words or pieces of words. It knows no synonym.
 */
import { type Embedder, makeEmbedder, type Space } from "../embedder.ts";
import { murmur3 } from "../murmur3.ts";

/** The model's name in a space's identity, as in `hash/words-and-ngrams@384`. Another set of features or weights is another name. */
export const HASH_MODEL = "words-and-ngrams";

/** Runs of letters, marks and digits of any script. A script without spaces gives long runs, which the n-grams take apart. */
const WORD = /[\p{L}\p{M}\p{N}]+/gu;

/** Weights of the kinds of features: a word says more than its neighbourhood, and that more than each of its many pieces. */
const WORD_WEIGHT = 1;
const BIGRAM_WEIGHT = 0.7;
const NGRAM_WEIGHT = 0.6;
const NGRAM_SIZES = [3, 4];

/** One seed a kind, so that a word of three letters is not the same feature as a 3-gram. */
const WORD_SEED = 0x77_6f_72_64;
const NGRAM_SEED = 0x67_72_61_6d;

/** The features of a text as parallel arrays: an unsigned 32-bit hash, and its weight (kind's weight x (1 + ln count)). */
export interface TextFeatures {
  readonly hashes: readonly number[];
  readonly weights: readonly number[];
  readonly words: number;
}

/**
 * The words, word bigrams and character 3- and 4-grams (over UTF-16 code units, a space on either side of the word) of a text, after NFKC and
 * lower case. A text without any letter or digit gives its single characters instead.
 */
export function textFeatures(text: string): TextFeatures {
  const normal = text.normalize("NFKC").toLowerCase();
  const words = normal.match(WORD) ?? [];
  const features: { hashes: number[]; weights: number[] } = { hashes: [], weights: [] };
  if (words.length === 0) {
    add(
      features,
      Array.from(normal, (character) => murmur3(character, WORD_SEED)),
      WORD_WEIGHT,
    );
    return { ...features, words: 0 };
  }
  const wordHashes = words.map((word) => murmur3(word, WORD_SEED));
  const bigramHashes: number[] = [];
  for (let at = 1; at < words.length; at += 1) {
    bigramHashes.push(murmur3(words[at] ?? "", wordHashes[at - 1]));
  }
  const ngramHashes: number[] = [];
  for (const word of words) {
    const padded = ` ${word} `;
    for (const size of NGRAM_SIZES) {
      for (let start = 0; start + size <= padded.length; start += 1) {
        ngramHashes.push(murmur3(padded, NGRAM_SEED, start, start + size));
      }
    }
  }
  add(features, wordHashes, WORD_WEIGHT);
  add(features, bigramHashes, BIGRAM_WEIGHT);
  add(features, ngramHashes, NGRAM_WEIGHT);
  return { ...features, words: words.length };
}

/** Adds each distinct hash once. Sorting a typed array and counting runs is several times faster than counting in a Map. */
function add(features: { hashes: number[]; weights: number[] }, occurrences: number[], weight: number): void {
  const sorted = Uint32Array.from(occurrences).sort();
  for (let start = 0; start < sorted.length; ) {
    const hash = sorted[start] ?? 0;
    let end = start + 1;
    while (end < sorted.length && sorted[end] === hash) end += 1;
    features.hashes.push(hash);
    features.weights.push(weight * (1 + Math.log(end - start)));
    start = end;
  }
}

/**
 * The vector of a text: each feature adds its weight, with the sign that the lowest bit of its hash gives, to the component that the other bits give.
 * L2 normalised, never zero, the same on every platform (as far as the platforms' Unicode tables agree).
 * @param dimensions any positive integer.
 */
export function hashVector(text: string, dimensions: number): number[] {
  return hashFeatures(text, dimensions).vector;
}

function hashFeatures(text: string, dimensions: number): { vector: number[]; words: number } {
  const { hashes, weights, words } = textFeatures(text);
  const vector = new Array<number>(dimensions).fill(0);
  for (const [position, hash] of hashes.entries()) {
    const index = (hash >>> 1) % dimensions;
    const weight = weights[position] ?? 0;
    vector[index] = (vector[index] ?? 0) + (hash & 1 ? weight : -weight);
  }
  return { vector: normalize(vector, murmur3(text, WORD_SEED) % dimensions), words };
}

/**
 * A vector's direction at length 1.
 * @param fallback the component that is set where all others are zero: an empty text, or features that cancel out.
 */
export function normalize(vector: readonly number[], fallback: number): number[] {
  const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (norm === 0) return vector.map((_, index) => (index === fallback ? 1 : 0));
  return vector.map((value) => value / norm);
}

/** An Embedder that hashes. Its usage counts words (at least one a text); nothing is charged for them. */
export function createHashEmbedder(space: Space): Embedder {
  return makeEmbedder(space, async (texts) => {
    const answers = texts.map((text) => hashFeatures(text, space.dimensions));
    return {
      vectors: answers.map(({ vector }) => vector),
      usage: { tokens: answers.reduce((sum, { words }) => sum + Math.max(1, words), 0) },
    };
  });
}
