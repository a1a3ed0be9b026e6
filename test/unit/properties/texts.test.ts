/** What is done with texts before they are sent: cut, counted, normalised, put into pieces and quoted. */
import fc from "fast-check";
import { describe, expect } from "vitest";
import { comment, dollarQuoted } from "../../../scripts/lib/add/quote.ts";
import { fittingText, shorterText } from "../../../supabase/functions/_shared/long-text.ts";
import { hashVector } from "../../../supabase/functions/_shared/providers/hash.ts";
import { normalizeQuery } from "../../../supabase/functions/_shared/queries.ts";
import { splitBlocks } from "../../../supabase/functions/_shared/sections/split.ts";
import { estimateTokens } from "../../../supabase/functions/_shared/tokens.ts";
import { anyText, holds, hostileText } from "../../support/properties.ts";

const bytes = (text: string) => Buffer.byteLength(text);
const limits = fc.record({
  document_prefix: fc.constantFrom("", "passage: ", "検索: "),
  max_input_tokens: fc.integer({ min: 8, max: 60 }),
});
/** Longer than most limits, and of characters of one to four bytes. */
const longText = fc.string({ unit: "grapheme", maxLength: 400 });

describe("a text that is too long", () => {
  // What goes out must be a beginning of the text, or its vector would stand for words that it does not have.
  holds(
    "is cut to a beginning that fits and is as long as can be, never inside a character",
    fc.property(limits, longText, (space, text) => {
      const cut = fittingText(space, text);
      const room = space.max_input_tokens * 4 - bytes(space.document_prefix);
      expect(text.startsWith(cut)).toBe(true);
      expect(bytes(cut)).toBeLessThanOrEqual(Math.max(room, 4));
      expect(Buffer.from(cut).toString()).toBe(cut.toWellFormed());
      const next = [...text.slice(cut.length)][0];
      if (next !== undefined) expect(bytes(cut + next)).toBeGreaterThan(room);
    }),
  );

  // A provider that refuses it alone must be asked a bounded number of times.
  holds(
    "is halved a few times at most, each time to a shorter beginning",
    fc.property(limits, longText, (space, text) => {
      let now = fittingText(space, text);
      for (let times = 0; ; times += 1) {
        expect(times).toBeLessThanOrEqual(2);
        const shorter = shorterText(space, now);
        if (shorter === undefined) break;
        expect(now.startsWith(shorter) && shorter.length < now.length).toBe(true);
        now = shorter;
      }
    }),
  );
});

// A reservation that is too low overdraws a budget; one of 0 lets a text in for nothing.
holds(
  "an estimate of tokens is at least 1, grows with the text, and is never below a quarter of its bytes",
  fc.property(anyText(), anyText(), (text, more) => {
    expect(estimateTokens(text)).toBeGreaterThanOrEqual(Math.max(1, bytes(text) / 4));
    expect(estimateTokens(text + more)).toBeGreaterThanOrEqual(estimateTokens(text));
  }),
);

// The cache knows a query by its normalised text: twice must be once, and two ways to write one character one query.
holds(
  "a normalised query stays as it is, and its decomposed form is the same query",
  fc.property(anyText(), (text) => {
    const query = normalizeQuery(text);
    expect(normalizeQuery(query)).toBe(query);
    expect(normalizeQuery(text.normalize("NFD"))).toBe(query);
    expect(normalizeQuery(` ${text}\n`)).toBe(query);
  }),
);

// A vector without length has no direction, and no index holds it.
holds(
  "a hashed text is a vector of length 1, always the same",
  fc.property(anyText(), fc.integer({ min: 1, max: 100 }), (text, dimensions) => {
    const vector = hashVector(text, dimensions);
    expect(vector).toHaveLength(dimensions);
    expect(Math.hypot(...vector)).toBeCloseTo(1, 6);
    expect(hashVector(text, dimensions)).toEqual(vector);
  }),
);

// A chunk over the limit is refused by the provider, and a character that is lost is one that nobody ever finds.
holds(
  "blocks in pieces: none is empty or too long, and together they hold every character that is no white space",
  fc.property(
    fc.array(fc.record({ text: longText, glue: fc.constantFrom("\n" as const, "\n\n" as const) }), {
      maxLength: 8,
    }),
    fc.integer({ min: 2, max: 120 }),
    (blocks, most) => {
      const pieces = splitBlocks(blocks, most);
      for (const piece of pieces) {
        expect(piece.trim()).not.toBe("");
        expect(piece.length).toBeLessThanOrEqual(most);
        expect(piece.isWellFormed()).toBe(true);
      }
      const dark = (texts: readonly string[]) => texts.join("").replace(/\s/g, "");
      expect(dark(pieces)).toBe(dark(blocks.map(({ text }) => text)));
      expect(splitBlocks(blocks, most)).toEqual(pieces);
    },
  ),
);

// What `add` writes holds names and expressions that anybody may have chosen.
holds(
  "a comment ends with its line, and a dollar quote with its text, whatever stands in them",
  fc.property(fc.oneof(hostileText(20), anyText()), (text) => {
    for (const line of comment(text).split(/[\n\r\u2028\u2029]/)) expect(line.startsWith("-- ")).toBe(true);
    const quoted = dollarQuoted(text);
    const [quote = ""] = /^\$\w*\$/.exec(quoted) ?? [];
    expect(quoted.indexOf(quote, quote.length)).toBe(quoted.length - quote.length);
  }),
);
