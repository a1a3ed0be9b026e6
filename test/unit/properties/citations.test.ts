/** What of a model's text is passed on, whatever it says and wherever its pieces are cut. */
import fc from "fast-check";
import { type DefaultTreeAdapterMap, parseFragment } from "parse5";
import { describe, expect, test } from "vitest";
import { CitationFilter } from "../../../supabase/functions/_shared/ask/citations.ts";
import { holds } from "../../support/properties.ts";

const SOURCES = [
  { number: 1, url: "https://example.org/course/01.html#commits" },
  { number: 2, url: "https://example.org/course/02.html?lang=en" },
  { number: 3, url: "https://example.org/course/03(a).html" },
];

function pass(pieces: readonly string[]) {
  const filter = new CitationFilter(SOURCES);
  const passed = [...pieces.map((piece) => filter.push(piece)), filter.end()];
  return {
    text: passed.join(""),
    cited: filter.cited,
    omitted: filter.omitted,
    saidNoAnswer: filter.saidNoAnswer,
  };
}

describe("whatever is said", () => {
  const nasty = fc.constantFrom(
    "[1]",
    "[2]",
    "[3]",
    "[4]",
    "[0]",
    "[12]",
    "[1",
    "1]",
    "[",
    "]",
    "【1†x】",
    "[1, 9]",
    "[1-3]",
    "[^2]",
    "[９]",
    "［",
    "］",
    "\\[",
    "\\]",
    "&#91;",
    "&#x5D;",
    "&#57;",
    "[passage ",
    "【2:0†x】",
    "٣",
    "²",
    "9",
    "https://evil.example/a",
    "https://",
    "http",
    "ht",
    "tps://",
    "www.",
    "//",
    "javascript:",
    "data:",
    "x",
    ":",
    ...SOURCES.map(({ url }) => url),
    "](",
    "![",
    "[a](",
    ")",
    "(",
    "<",
    ">",
    "<a href=",
    "<img src=x>",
    '<b title="',
    "onclick=x>",
    "<zz ",
    "<!--",
    "=",
    '"',
    "'",
    "`",
    "```",
    "\n```\n",
    "~~~",
    "``",
    ". ",
    "! ",
    "? ",
    "... ",
    ".",
    "e.g. ",
    "Dr. ",
    "\n",
    "\n\n",
    "\r\n",
    "  ",
    "- ",
    "1. ",
    "> ",
    "# ",
    "* ",
    "A commit is a snapshot",
    "Git",
    "<br>",
    "**",
    "git stash",
    "das Ü",
    "日本語。",
    "NO_ANSWER",
    "\u200b",
    "\u0000",
    "\u2028",
    "😀",
  );
  const said = fc
    .array(
      fc.oneof(
        { weight: 5, arbitrary: nasty },
        { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 12 }) },
      ),
      {
        maxLength: 30,
      },
    )
    .map((parts) => parts.join(""));
  const cuts = fc.array(fc.nat({ max: 400 }), { maxLength: 12 });
  const pieces = (text: string, at: readonly number[]) => {
    const places = [0, ...at.map((place) => place % (text.length + 1)).sort((a, b) => a - b), text.length];
    return places.slice(1).map((place, index) => text.slice(places[index], place));
  };

  test("what looks like an address whose scheme begins with a digit is taken out, too", () => {
    expect(pass(["See [1://[1]"]).text).not.toContain("://");
  });

  holds(
    "where it is cut makes no difference",
    fc.property(said, cuts, (text, at) => {
      expect(pass(pieces(text, at))).toEqual(pass([text]));
      expect(pass([...text]).text).toBe(pass([text]).text);
    }),
    3_000,
  );

  holds(
    "each number is a row's, no link is left, and nothing stands without a number",
    fc.property(said, cuts, (text, at) => {
      const { text: passed, cited } = pass(pieces(text, at));
      const numbersLike = (pattern: RegExp, of = passed) =>
        [...of.matchAll(pattern)].map(([, number]) => Number(number));
      for (const [list] of passed.matchAll(/\[\s*\^?\d+(?:\s*[,;–-]\s*\^?\d+)*\s*(?:†[^\][]*)?\]/g))
        for (const [number] of list.replace(/†.*/s, "").matchAll(/\d+/g))
          expect([1, 2, 3]).toContain(Number(number));
      for (const number of numbersLike(/[[【〔]\s*(?:passage )?\s*(\d+)\s*[\]】〕]/g, asShown(passed)))
        expect([1, 2, 3]).toContain(number);
      expect([...new Set(numbersLike(/\[(\d+)\]/g))].sort()).toEqual(cited);
      expect(passed).not.toMatch(
        /\w:\/\/|\bwww\.[^\s"<>`]|\bjavascript:[^\s"<>`]|\]\(|<a |<img|\p{Cf}|\p{Zl}/u,
      );
      const prose = passed.replace(/^[ \t]*(`{3,}|~{3,})[\s\S]*?(^[ \t]*\1[`~]*[ \t]*$|$(?![\s\S]))/gm, "");
      for (const line of prose.split("\n").filter((line) => /\p{L}/u.test(line)))
        expect(line).toMatch(/\[\d+\]/);
      if (passed.trim() !== "") expect(cited.length).toBeGreaterThan(0);
    }),
    3_000,
  );

  // For whoever shows an answer as HTML without cleaning it.
  holds(
    "no element is left that has an attribute with a value, nor a comment",
    fc.property(said, cuts, (text, at) => {
      expect(liveMarkup(pass(pieces(text, at)).text)).toEqual([]);
    }),
    3_000,
  );

  test("such as this one has", () => {
    expect(liveMarkup('<b title="x. [1] Y" onclick=alert(1)> [1]')).toEqual(["b"]);
    expect(liveMarkup("<!-- x [1]")).toEqual(["#comment"]);
    expect(liveMarkup("<branch name> < b a=1> [1]")).toEqual([]);
  });
});

/** As a reader sees it who is shown the text through Markdown. */
function asShown(text: string): string {
  return text
    .replace(/\\([[\]])/g, "$1")
    .replace(/&#(x?)([0-9a-f]{1,6});/gi, (_all, hex: string, code: string) =>
      String.fromCodePoint(Number.parseInt(code, hex === "" ? 10 : 16) % 0x1_0000),
    )
    .normalize("NFKC");
}

/** The names of what a browser would make of a text beside text and bare elements. */
function liveMarkup(html: string): string[] {
  const found: string[] = [];
  const visit = (node: DefaultTreeAdapterMap["node"]): void => {
    if (node.nodeName === "#comment") found.push(node.nodeName);
    if ("attrs" in node && node.attrs.some(({ value }) => value !== "")) found.push(node.nodeName);
    if ("childNodes" in node) node.childNodes.forEach(visit);
  };
  visit(parseFragment(html));
  return found;
}
