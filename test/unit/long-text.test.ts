/** Texts that are longer than their space takes: where they are cut. */
import { describe, expect, test } from "vitest";
import { fittingText, shorterText } from "../../supabase/functions/_shared/long-text.ts";

const space = { max_input_tokens: 10, document_prefix: "" };
const bytes = (text: string) => Buffer.byteLength(text);

describe("the first cut", () => {
  test("leaves a text of four bytes a token as it is, and takes off what is beyond", () => {
    const fits = "x".repeat(40);
    expect(fittingText(space, fits)).toBe(fits);
    expect(fittingText(space, `${fits}y`)).toBe(fits);
  });

  test("counts bytes of UTF-8 and ends with a whole character", () => {
    expect(fittingText(space, "x東".repeat(20))).toBe("x東".repeat(10));
    expect(fittingText(space, `xxx${"東".repeat(20)}`)).toBe(`xxx${"東".repeat(12)}`);
    expect(fittingText(space, `x${"👍".repeat(20)}`)).toBe(`x${"👍".repeat(9)}`);
  });

  test("leaves room for the prefix that the space puts before documents", () => {
    expect(fittingText({ ...space, document_prefix: "passage: " }, "x".repeat(40))).toBe("x".repeat(31));
  });

  test("leaves a character where a prefix takes all the room", () => {
    expect(fittingText({ ...space, document_prefix: "p".repeat(50) }, "東京都")).toBe("東");
  });
});

describe("the next cuts", () => {
  test("halve twice, down to a byte a token, and end there: its length cannot be the reason any more", () => {
    for (const [text, prefix] of [
      ["x".repeat(100), ""],
      ["東".repeat(100), ""],
      ["x".repeat(100), "p: "],
    ] as const) {
      const limits = { ...space, document_prefix: prefix };
      const lengths: number[] = [];
      for (
        let at: string | undefined = fittingText(limits, text);
        at !== undefined;
        at = shorterText(limits, at)
      )
        lengths.push(bytes(prefix + at));
      expect(lengths).toEqual(text.startsWith("x") ? [40, 20, 10] : [39, 18, 9]);
    }
  });

  test("are not made of a short text", () => {
    expect(shorterText(space, "x".repeat(10))).toBeUndefined();
    expect(shorterText({ ...space, document_prefix: "p".repeat(50) }, "東")).toBeUndefined();
  });
});
