/** What an embedding of texts would cost, summed up as they stream by: nothing is kept of a text but a part of its hash. */
import { hasImages, type Space } from "../../supabase/functions/_shared/embedder.ts";
import { fittingText, type LongTextPolicy, shorterText } from "../../supabase/functions/_shared/long-text.ts";
import { UTF8_BYTES_PER_TOKEN } from "../../supabase/functions/_shared/tokens.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A text that is neither stored nor a copy of a stored one. */
export interface PendingText {
  /** SHA-256 of the text, in hexadecimal. */
  readonly hash: string;
  /** Bytes of UTF-8. */
  readonly bytes: number;
  /** Its beginning, as much as may be sent; null where it is not in the sample. */
  readonly text: string | null;
}

export interface Totals {
  /** Different texts to buy. */
  readonly texts: number;
  /** Rows whose text is that of another row counted here. */
  readonly copies: number;
  readonly blank: number;
  readonly tokens: number;
  /** Texts that have more tokens than the space takes: truncated, or failed where the collection says so. */
  readonly overLong: number;
}

export interface Tally {
  add(texts: readonly PendingText[]): void;
  totals(): Totals;
}

/** 96 bits tell texts apart; more of the hash would only take memory. */
const HASH_DIGITS = 24;

/**
 * Sums up texts by the engine's own rules: equal ones once, blank ones never, long ones cut or failed. Without a tokenizer a token is taken for
 * every four bytes. Where texts are missing (a sample), theirs follow from the tokens a byte of those that are there.
 */
export function createTally(space: Space, policy: LongTextPolicy, tokenizer: Tokenizer | undefined): Tally {
  const seen = new Set<string>();
  const prefixBytes = Buffer.byteLength(space.document_prefix);
  const mostBytes = space.max_input_tokens * UTF8_BYTES_PER_TOKEN;
  const counts = { texts: 0, copies: 0, blank: 0, tooLong: 0 };
  const counted = { texts: 0, bytes: 0, tokens: 0, dense: 0 };
  const uncounted = { texts: 0, bytes: 0 };

  /** The tokens of what would be sent in the end, and whether the whole text fits. */
  const measure = (tokens: Tokenizer, text: string): { tokens: number; fits: boolean } => {
    const whole = fittingText(space, text);
    for (let sent: string | undefined = whole; sent !== undefined; sent = shorterText(space, sent)) {
      const count = tokens.count(space.document_prefix + sent);
      if (count <= space.max_input_tokens) return { tokens: count, fits: sent === whole };
      if (policy === "fail") break;
    }
    return { tokens: 0, fits: false };
  };

  const addText = ({ bytes, text }: PendingText) => {
    counts.texts += 1;
    if (hasImages(space)) return;
    const isTooLong = bytes + prefixBytes > mostBytes;
    if (isTooLong) counts.tooLong += 1;
    if (isTooLong && policy === "fail") return;
    const sentBytes = Math.min(bytes + prefixBytes, mostBytes);
    if (tokenizer === undefined || text === null) {
      uncounted.texts += 1;
      uncounted.bytes += sentBytes;
      return;
    }
    const { tokens, fits } = measure(tokenizer, text);
    counted.texts += 1;
    counted.bytes += sentBytes;
    counted.tokens += tokens;
    if (!fits && !isTooLong) counted.dense += 1;
  };

  return {
    add(texts) {
      for (const pending of texts) {
        const key = pending.hash.slice(0, HASH_DIGITS);
        if (pending.text?.trim() === "") counts.blank += 1;
        else if (seen.has(key)) counts.copies += 1;
        else {
          seen.add(key);
          addText(pending);
        }
      }
    },
    totals() {
      const tokensPerByte = counted.bytes === 0 ? 1 / UTF8_BYTES_PER_TOKEN : counted.tokens / counted.bytes;
      const densePerText = counted.texts === 0 ? 0 : counted.dense / counted.texts;
      return {
        texts: counts.texts,
        copies: counts.copies,
        blank: counts.blank,
        // Of an image the text is only a reference.
        tokens:
          counts.texts * (space.image_tokens ?? 0) +
          counted.tokens +
          Math.ceil(uncounted.bytes * tokensPerByte),
        overLong: counts.tooLong + counted.dense + Math.round(uncounted.texts * densePerText),
      };
    },
  };
}
