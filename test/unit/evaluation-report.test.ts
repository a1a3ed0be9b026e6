/** What a person reads of an evaluation: the query file that they write, the terminal's lines, and the page, whatever queries and rows hold. */
import { type DefaultTreeAdapterMap, parse } from "parse5";
import { describe, expect, test } from "vitest";
import {
  type Evaluation,
  mostChanged,
  type QueryOutcome,
  type VersionMeasures,
} from "../../scripts/lib/evaluation/evaluate.ts";
import { escapeText, markup } from "../../scripts/lib/evaluation/markup.ts";
import { evaluationPage } from "../../scripts/lib/evaluation/page.ts";
import { parseQueryFile } from "../../scripts/lib/evaluation/query-set.ts";
import {
  describeQuality,
  describeThreshold,
  signed,
  summaryLines,
} from "../../scripts/lib/evaluation/summary.ts";

type Node = DefaultTreeAdapterMap["node"];
type Element = DefaultTreeAdapterMap["element"];

const VERSION: VersionMeasures = {
  version: 1,
  space: "test/one@8",
  active: true,
  state: "ready",
  rows: 1_234,
  embedded: 1_230,
  skipped: 1,
  truncated: 2,
  pending: 0,
  failed: 3,
  coverage: 0.9976,
  threshold: 0.5,
  has_index: true,
  searches: { index: { used: 1, recall: 0.9912, compared: 100 }, latency_ms: { p50: 1.25, p95: 12.6 } },
};

const OUTCOME: QueryOutcome = {
  query: "how do I undo a commit",
  relevant: ["a"],
  ndcg: { baseline: 1, candidate: 0.5 },
  change: { overlap: 0.5, rbo: 0.4 },
  baseline: [
    { row_id: "a", similarity: 0.9 },
    { row_id: "b", similarity: 0.8 },
  ],
  candidate: [
    { row_id: "c", similarity: 0.5 },
    { row_id: "a", similarity: 0.4 },
  ],
};

const same = { candidate: 0.5, against: { baseline: 0.5, difference: 0, low: -0.1, high: 0.1 } };

function evaluationOf(changes: Partial<Evaluation> = {}): Evaluation {
  return {
    id: 7,
    at: "2026-11-21T10:00:00.000Z",
    collection: "course_content",
    source: "file",
    queries: 1,
    judged_queries: 1,
    unknown_rows: 0,
    seed: 1,
    baseline: VERSION,
    candidate: { ...VERSION, version: 2, space: "test/two@8", active: false, threshold: 0.25 },
    quality: {
      "ndcg@10": { candidate: 0.6, against: { baseline: 0.5, difference: 0.1, low: 0.02, high: 0.18 } },
      "mrr@10": same,
      "recall@1": same,
      "recall@5": same,
      "recall@10": same,
    },
    change: { "overlap@10": 0.5, rbo: 0.4 },
    threshold: { kept: 3, of: 50, threshold: 0.3125 },
    provider: { requests: 2, tokens: 40 },
    index_recall: 0.9912,
    index_used: true,
    ndcg_drop: { mean: -0.1, low: -0.18, high: -0.02 },
    outcomes: [OUTCOME],
    ...changes,
  };
}

describe("a file of queries", () => {
  test("holds a query a line, with or without the rows that answer it, graded or not", () => {
    const text = [
      '{"query": " one ", "relevant": ["a", 2, ["x", 3]]}',
      "",
      '{"query": "two", "relevant": [{"id": "b", "grade": 2}, {"id": ["x", 4], "grade": 0.5}], "comment": "of no interest"}',
      '{"query": "three"}\r',
      '{"query": "four", "relevant": []}',
      '{"query": "five", "relevant": [{"id": "b", "grade": 0}]}',
    ].join("\n");
    expect(parseQueryFile(text)).toEqual([
      {
        query: "one",
        judgments: new Map([
          ["a", 1],
          ["2", 1],
          ['["x",3]', 1],
        ]),
      },
      {
        query: "two",
        judgments: new Map([
          ["b", 2],
          ['["x",4]', 0.5],
        ]),
      },
      { query: "three", judgments: null },
      { query: "four", judgments: null },
      { query: "five", judgments: null },
    ]);
  });

  test.each([
    ["", /no query/],
    ['{"query": "fine"}\nnot json', /line 2 is not JSON/],
    ['["query"]', /line 1/],
    ["{}", /line 1 .*query/],
    ['{"query": 5}', /line 1 .*query/],
    ['{"query": "  "}', /line 1 .*empty/],
    ['{"query": "q", "relevant": "a"}', /line 1 .*relevant/],
    ['{"query": "q", "relevant": [{"id": "a"}]}', /line 1 .*relevant/],
    ['{"query": "q", "relevant": [{"id": "a", "grade": -1}]}', /line 1 .*relevant/],
    ['{"query": "q", "relevant": [[]]}', /line 1 .*relevant/],
    [`{"query": "${"q".repeat(8_001)}"}`, /line 1 .*query/],
    ['{"query": "q"}\n'.repeat(10_001), /line 10001 .*10,000/],
  ])("is refused with the line and the rule: %.30s", (text, message) => {
    expect(() => parseQueryFile(text)).toThrow(
      expect.objectContaining({ code: "invalid_request", message: expect.stringMatching(message) }),
    );
  });

  test("no message quotes the text", () => {
    expect(() => parseQueryFile('{"query": ["secret"]}')).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining("secret") }),
    );
  });
});

describe("the lines for a terminal", () => {
  test("name both versions, each measure with its interval, and what the threshold becomes", () => {
    const lines = summaryLines(evaluationOf()).join("\n");
    expect(lines).toContain("course_content: v2 (test/two@8) against v1 (test/one@8)");
    expect(lines).toMatch(/ndcg@10 +0\.500 +0\.600 +\+0\.100 +\+0\.020 to \+0\.180/);
    expect(lines).toMatch(/rows embedded +1,230 of 1,234/);
    expect(lines).toMatch(/index recall@10 +0\.9912/);
    expect(lines).toMatch(/search p95 +13 ms/);
    expect(lines).toContain("v2 answers these queries better than v1.");
    expect(lines).toContain("says nothing of quality");
    expect(lines).toContain("0.313 keeps as many in v2");
  });

  test("the verdict follows the interval, not the mean", () => {
    const verdict = (low: number, high: number) => {
      const evaluation = evaluationOf();
      const quality = evaluation.quality && {
        ...evaluation.quality,
        "ndcg@10": { candidate: 0.6, against: { baseline: 0.5, difference: 0.1, low, high } },
      };
      return describeQuality({ ...evaluation, quality });
    };
    expect(verdict(0.01, 0.2)).toMatch(/better/);
    expect(verdict(-0.01, 0.2)).toMatch(/no difference/);
    expect(verdict(0, 0)).toMatch(/no difference/);
    expect(verdict(-0.2, -0.01)).toMatch(/worse/);
    expect(describeQuality(evaluationOf({ quality: null }))).toMatch(/nothing is said about quality/);
  });

  test("unjudged queries show no quality, an unread index no recall, a threshold that nothing meets no number", () => {
    const index = { used: 0, recall: null, compared: 0 };
    const candidate = { ...VERSION, version: 2, searches: { index, latency_ms: { p50: 1, p95: 2 } } };
    const evaluation = evaluationOf({ source: "log", quality: null, judged_queries: 0, candidate });
    const lines = summaryLines(evaluation).join("\n");
    expect(lines).not.toContain("ndcg");
    expect(lines).toMatch(/index recall@10 +0\.9912 +exact/);
    expect(describeThreshold({ ...evaluation, threshold: { kept: 3, of: 50, threshold: null } })).toMatch(
      /returns fewer/,
    );
    expect(signed(-0.0001)).toBe("0.000");
    expect(signed(-0.2)).toBe("-0.200");
  });
});

describe("the queries that changed most", () => {
  test("stand in the order of their change of nDCG, then of their lists; what did not change is left out", () => {
    const outcomes: QueryOutcome[] = [
      { ...OUTCOME, query: "little", ndcg: { baseline: 1, candidate: 0.9 } },
      { ...OUTCOME, query: "same", ndcg: { baseline: 1, candidate: 1 }, change: { overlap: 1, rbo: 1 } },
      { ...OUTCOME, query: "gained", ndcg: { baseline: 0, candidate: 0.8 } },
      { ...OUTCOME, query: "other rows", ndcg: null, change: { overlap: 0.1, rbo: 0.1 } },
      { ...OUTCOME, query: "other order", ndcg: null, change: { overlap: 1, rbo: 0.9 } },
    ];
    expect(mostChanged(outcomes, 10).map(({ query }) => query)).toEqual([
      "gained",
      "little",
      "other rows",
      "other order",
    ]);
    expect(mostChanged(outcomes, 1).map(({ query }) => query)).toEqual(["gained"]);
  });
});

/** All elements of a document, and its text. */
function elementsOf(html: string): { elements: Element[]; text: string } {
  const elements: Element[] = [];
  let text = "";
  const walk = (node: Node) => {
    if ("tagName" in node) elements.push(node);
    if ("value" in node && node.parentNode?.nodeName !== "style") text += node.value;
    if ("childNodes" in node) node.childNodes.forEach(walk);
  };
  walk(parse(html));
  return { elements, text };
}

const HOSTILE = [
  "<script>alert(1)</script>",
  '"><img src=x onerror=alert(1)>',
  "</bdi></details></main><h1>owned",
  "<!-- ",
  "]]><svg onload=alert(1)>",
  "&lt;b&gt; &amp; ' \u0000\u0007\u202e",
  "</style><style>body{display:none}",
  "javascript:alert(1)",
];

describe("the page", () => {
  const page = (evaluation: Evaluation, rows = new Map<string, string>()) =>
    evaluationPage(evaluation, evaluation.outcomes, rows);

  test("shows the figures, and both answers side by side with the row that answers the query", () => {
    const rows = new Map([
      ["a", "Undoing\n\ngit revert\nmakes a new commit"],
      ["b", "Ignoring"],
    ]);
    const { text, elements } = elementsOf(page(evaluationOf(), rows));
    expect(text).toContain("v2 answers these queries better than v1.");
    expect(text).toContain("how do I undo a commit");
    expect(text).toContain("nDCG 1.00 → 0.50, overlap 50 %");
    expect(text).toContain("git revert makes a new commit");
    const relevant = elements.filter(({ attrs }) =>
      attrs.some(({ name, value }) => name === "class" && value === "relevant"),
    );
    expect(relevant).toHaveLength(2);
    // A row that is gone meanwhile shows its id.
    expect(elements.filter(({ tagName }) => tagName === "li")).toHaveLength(4);
    expect(elements.filter(({ tagName }) => tagName === "svg")).toHaveLength(4);
    expect(text).toMatch(/0\.900→ 2/);
    expect(text).toMatch(/0\.800gone/);
    expect(text).toMatch(/0\.500new/);
    expect(text).toMatch(/0\.400↓1/);
  });

  test("hostile queries, rows and ids stay text: no element, attribute or comment comes of them", () => {
    const tame = evaluationOf({ outcomes: HOSTILE.map(() => OUTCOME) });
    const wild = evaluationOf({
      outcomes: HOSTILE.map((text) => ({
        ...OUTCOME,
        query: text,
        relevant: [text],
        baseline: [
          { row_id: text, similarity: 0.9 },
          { row_id: `${text}2`, similarity: 0.8 },
        ],
        candidate: [
          { row_id: `${text}3`, similarity: 0.5 },
          { row_id: text, similarity: 0.4 },
        ],
      })),
    });
    const rows = new Map(
      HOSTILE.flatMap((text) => [[text, text] as const, [`${text}2`, `${text}\n${text}`] as const]),
    );
    const html = page(wild, rows);
    const shape = (text: string) =>
      elementsOf(text).elements.map(
        ({ tagName, attrs }) => `${tagName} ${attrs.map(({ name, value }) => `${name}=${value}`).join(" ")}`,
      );
    // Both have the same elements, but for the second line of every other row.
    expect(shape(html).filter((element) => element !== "bdi class=snippet")).toEqual(shape(page(tame)));
    for (const text of HOSTILE) {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
      expect(elementsOf(html).text).toContain(text.replace(/[\u0000\u0007]/g, ""));
    }
    expect(html).not.toContain("\u0000");
  });

  test("loads nothing and runs nothing", () => {
    const { elements } = elementsOf(page(evaluationOf()));
    expect(elements.map(({ tagName }) => tagName)).not.toContain("script");
    const attributes = elements.flatMap(({ attrs }) => attrs);
    expect(attributes.filter(({ name }) => /^(src|href|srcset|action|style|on.*)$/.test(name))).toEqual([]);
    const policy = attributes.find(({ value }) => value.includes("default-src"))?.value;
    expect(policy).toBe("default-src 'none'; style-src 'unsafe-inline'");
    expect(page(evaluationOf())).not.toMatch(/url\(|@import|https?:/);
  });

  test("unjudged queries have no quality section; where nothing changed the page says so", () => {
    const { ndcg, ...rest } = OUTCOME;
    const log = elementsOf(
      page(
        evaluationOf({
          source: "log",
          quality: null,
          ndcg_drop: null,
          judged_queries: 0,
          outcomes: [{ ...rest, ndcg: null, relevant: null }],
        }),
      ),
    );
    expect(log.elements.filter(({ tagName }) => tagName === "svg")).toHaveLength(2);
    expect(log.text).toContain("nothing is said about quality");
    expect(ndcg).toBeDefined();
    expect(elementsOf(evaluationPage(evaluationOf(), [], new Map())).text).toContain("None changed.");
  });

  test("a candidate that was judged alone has no differences, no change and no second list", () => {
    const alone = (measure: typeof same) => ({ ...measure, against: null });
    const { quality } = evaluationOf();
    const evaluation = evaluationOf({
      quality: quality && {
        "ndcg@10": alone(same),
        "mrr@10": alone(same),
        "recall@1": alone(same),
        "recall@5": alone(same),
        "recall@10": alone(same),
      },
      baseline: { ...VERSION, searches: null },
      change: null,
      threshold: null,
      ndcg_drop: null,
      outcomes: [{ ...OUTCOME, change: null, baseline: null, ndcg: { baseline: null, candidate: 0.5 } }],
    });
    const { text, elements } = elementsOf(page(evaluation));
    expect(text).toContain("v2 was judged alone");
    expect(text).toContain("Queries that are answered worst");
    expect(text).not.toMatch(/NaN|undefined|null|gone|new\b/);
    expect(elements.filter(({ tagName }) => tagName === "ol")).toHaveLength(1);
    const lines = summaryLines(evaluation).join("\n");
    expect(lines).toMatch(/ndcg@10 +- +0\.500 +- +-/);
    expect(lines).toMatch(/search p50 +not asked +1\.25 ms/);
    expect(lines).not.toMatch(/overlap|keeps/);
  });

  test("a chart never draws outside of numbers: no NaN for a query without rows, none for equal versions", () => {
    const empty = {
      ...OUTCOME,
      baseline: [],
      candidate: [],
      change: { overlap: 1, rbo: 1 },
      ndcg: { baseline: 0, candidate: 0 },
    };
    const searches = { index: { used: 0, recall: null, compared: 0 }, latency_ms: { p50: 0, p95: 0 } };
    const html = page(
      evaluationOf({
        outcomes: [empty],
        baseline: { ...VERSION, searches },
        candidate: { ...VERSION, version: 2, searches },
      }),
    );
    expect(html).not.toMatch(/NaN|Infinity|undefined|null/);
  });
});

describe("markup", () => {
  test("escapes values, keeps markup, and joins lists", () => {
    const items = ["<a>", "b"].map((text) => markup`<li>${text}</li>`);
    expect(markup`<ul title="${'"&'}">${items}${3}</ul>`.text).toBe(
      '<ul title="&quot;&amp;"><li>&lt;a&gt;</li><li>b</li>3</ul>',
    );
    expect(escapeText("a\u0000b\u001f'\n")).toBe("ab&#39;\n");
  });
});
