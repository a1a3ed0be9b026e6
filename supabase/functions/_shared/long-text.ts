/**
 * Texts that are longer than their space takes. Their hash stays that of the whole text; only what is sent is cut. No tokenizer is loaded here
 * (tokens.ts says why), so the first cut goes by the estimate, and what the provider still refuses alone is halved.
 */
import type { Space } from "./embedder.ts";
import { UTF8_BYTES_PER_TOKEN } from "./tokens.ts";

/** What a collection wants for a text that is too long: its beginning embedded and recorded as truncated, or its row failed unsent. */
export const LONG_TEXT_POLICIES = ["truncate", "fail"] as const;
export type LongTextPolicy = (typeof LONG_TEXT_POLICIES)[number];

type Limits = Pick<Space, "document_prefix" | "max_input_tokens">;

/** A UTF-16 unit takes at most so many bytes of UTF-8, a character one more. */
const MOST_BYTES_PER_UNIT = 3;
const MOST_BYTES_PER_CHARACTER = 4;

const encoder = new TextEncoder();
const bytesOf = (text: string): number => encoder.encode(text).length;

/**
 * The beginning of a text that the space takes by the estimate, a token for every four bytes of UTF-8, its document prefix included. The whole text
 * where it fits; otherwise it ends with a whole character.
 */
export function fittingText(space: Limits, text: string): string {
  return firstBytes(text, space.max_input_tokens * UTF8_BYTES_PER_TOKEN - bytesOf(space.document_prefix));
}

/**
 * The first half of a text, in bytes, for a provider that refused the text alone. Undefined where its length cannot be the reason: a token stands
 * for at least one byte, so `max_input_tokens` bytes always fit. From a fitting text on that is reached in two steps.
 */
export function shorterText(space: Limits, text: string): string | undefined {
  const prefix = bytesOf(space.document_prefix);
  const half = Math.floor((prefix + bytesOf(text)) / 2);
  const shorter = firstBytes(text, Math.max(half, space.max_input_tokens) - prefix);
  return shorter.length < text.length ? shorter : undefined;
}

/** As many whole characters as so many bytes of UTF-8 hold, and at least one. */
function firstBytes(text: string, bytes: number): string {
  if (text.length * MOST_BYTES_PER_UNIT <= bytes) return text;
  const { read } = encoder.encodeInto(text, new Uint8Array(Math.max(bytes, MOST_BYTES_PER_CHARACTER)));
  return text.slice(0, read);
}

/** Why a row fails whose text is too long, where the collection wants no part of it embedded. */
export function tooLongFor({ id, max_input_tokens }: Space): string {
  return `the text is longer than the ${max_input_tokens} tokens that ${id} takes, by the estimate of a token for every four bytes: shorten it, or let the collection's long_text be truncate`;
}
