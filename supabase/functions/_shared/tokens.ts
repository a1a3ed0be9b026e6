/** Estimating tokens where no tokenizer is loaded: a real one costs 100-400 ms of CPU, out of the 2 s an edge function has. */

/**
 * The figure of `reembed.bytes_per_token()`, by which a claim reserves. It stands here as well for what is estimated without a claim: queries, the cut of
 * a long text, an estimate without a tokenizer. test/db/tokens.test.ts compares the two.
 */
export const UTF8_BYTES_PER_TOKEN = 4;

const encoder = new TextEncoder();

/**
 * An estimate of the tokens in a text: a quarter token for each UTF-8 byte, rounded up, at least 1. It is the rule by which
 * OpenAI itself estimates a request against its limits; real counts of English prose are a little lower, of CJK text or code higher.
 */
export function estimateTokens(text: string): number {
  return Math.max(1, Math.ceil(encoder.encode(text).length / UTF8_BYTES_PER_TOKEN));
}
