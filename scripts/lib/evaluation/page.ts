/**
 * An evaluation as one HTML page for whoever decides: charts, and the queries that changed most with both answers side by side. It loads nothing and runs
 * nothing; queries and rows are text whatever they hold.
 */
import { percent } from "../output.ts";
import { differencesChart, latencyChart, overlapChart, queryChangesChart } from "./charts.ts";
import type { Evaluation, Hit, QueryOutcome, VersionMeasures } from "./evaluate.ts";
import { type Markup, markup } from "./markup.ts";
import {
  describeChange,
  describeQuality,
  describeSource,
  describeThreshold,
  describeUnknownRows,
  qualityRows,
  signed,
  stateRows,
} from "./summary.ts";

/**
 * Makes the page.
 * @param changed the queries that are shown, in this order
 * @param rows the beginnings of the rows that they found, by row id; the first line is the row's title
 */
export function evaluationPage(
  evaluation: Evaluation,
  changed: readonly QueryOutcome[],
  rows: ReadonlyMap<string, string>,
): string {
  const { baseline, candidate, collection } = evaluation;
  const title = `${collection}: v${candidate.version} against v${baseline.version}`;
  return markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
${STYLE}
</head>
<body>
<main>
${header(evaluation, title)}
${qualitySection(evaluation)}
${changeSection(evaluation)}
${stateSection(evaluation)}
${queriesSection(evaluation, changed, rows)}
</main>
</body>
</html>
`.text;
}

function header(evaluation: Evaluation, title: string): Markup {
  const { baseline, candidate, quality, index_recall } = evaluation;
  const against = quality?.["ndcg@10"].against;
  const p95 = ({ searches }: VersionMeasures) =>
    searches === null ? "not asked" : `${searches.latency_ms.p95.toFixed(2)} ms`;
  const tiles = [
    against
      ? tile("nDCG@10", signed(against.difference), `${signed(against.low)} to ${signed(against.high)}`)
      : tile(
          "nDCG@10",
          quality === null ? "not judged" : quality["ndcg@10"].candidate.toFixed(3),
          quality === null ? "" : "judged alone",
        ),
    index_recall === null
      ? tile("index recall@10", "exact", "no index is read")
      : tile(
          "index recall@10",
          index_recall.toFixed(4),
          `${candidate.searches?.index.compared ?? 0} queries against an exact scan`,
        ),
    tile("search p95", p95(candidate), `v${baseline.version}: ${p95(baseline)}`),
    tile(
      "coverage",
      percent(candidate.coverage),
      `${candidate.failed} failed, ${candidate.truncated} truncated`,
    ),
  ];
  return markup`<header>
<p class="overline">Evaluation ${evaluation.id}, <time datetime="${evaluation.at}">${evaluation.at.slice(0, 16).replace("T", " ")} UTC</time></p>
<h1>${title}</h1>
<p class="spaces"><span class="key old"></span>v${baseline.version} <code>${baseline.space}</code> <span class="key new"></span>v${candidate.version} <code>${candidate.space}</code></p>
<p class="verdict">${describeQuality(evaluation)}</p>
<p>${evaluation.queries} queries, ${describeSource(evaluation.source, evaluation.judged_queries)}. ${describeUnknownRows(evaluation)}</p>
<dl class="tiles">${tiles}</dl>
</header>`;
}

function tile(name: string, figure: string, note: string): Markup {
  return markup`<div><dt>${name}</dt><dd><b>${figure}</b><small>${note}</small></dd></div>`;
}

function qualitySection(evaluation: Evaluation): Markup {
  const { quality, baseline, candidate, outcomes } = evaluation;
  if (quality === null) return markup``;
  const figures = table(
    ["measure", `v${baseline.version}`, `v${candidate.version}`, "difference", "95 % interval"],
    qualityRows(quality),
  );
  if (quality["ndcg@10"].against === null)
    return markup`<section><h2>Quality</h2><p>Means over ${evaluation.judged_queries} judged queries.</p>${figures}</section>`;
  const changes = outcomes.flatMap(({ ndcg }) =>
    ndcg === null || ndcg.baseline === null ? [] : [ndcg.candidate - ndcg.baseline],
  );
  const better = changes.filter((change) => change > 0).length;
  const worse = changes.filter((change) => change < 0).length;
  return markup`<section>
<h2>Quality</h2>
<p>Means over ${evaluation.judged_queries} judged queries. The interval is a paired bootstrap of 95 %: where it touches zero, these queries cannot tell the versions apart.</p>
<figure>${differencesChart(quality)}<figcaption>v${candidate.version} minus v${baseline.version}</figcaption></figure>
${figures}
<figure>${queryChangesChart(changes)}<figcaption>nDCG@10 of each query: ${better} better, ${worse} worse, ${changes.length - better - worse} unchanged</figcaption></figure>
</section>`;
}

function changeSection(evaluation: Evaluation): Markup {
  const overlaps = evaluation.outcomes.flatMap(({ change }) => change?.overlap ?? []);
  if (overlaps.length === 0) return markup``;
  return markup`<section>
<h2>Change</h2>
<p>How much the answers differ. This detects change and says nothing of quality: a better model changes its answers, too. On average: ${describeChange(evaluation)}.</p>
<figure>${overlapChart(overlaps)}<figcaption>number of queries</figcaption></figure>
</section>`;
}

function stateSection(evaluation: Evaluation): Markup {
  const { baseline, candidate } = evaluation;
  return markup`<section>
<h2>State and speed</h2>
${table(["", `v${baseline.version}`, `v${candidate.version}`], stateRows(evaluation))}
<figure>${latencyChart([baseline, candidate])}<figcaption>one search for ten rows, as the database took it</figcaption></figure>
<p>${describeThreshold(evaluation)}</p>
</section>`;
}

function table(headings: readonly string[], rows: readonly (readonly string[])[]): Markup {
  return markup`<div class="scroll"><table>
<thead><tr>${headings.map((heading) => markup`<th scope="col">${heading}</th>`)}</tr></thead>
<tbody>${rows.map(
    ([name = "", ...cells]) =>
      markup`<tr><th scope="row">${name}</th>${cells.map((cell) => markup`<td>${cell}</td>`)}</tr>`,
  )}</tbody>
</table></div>`;
}

function queriesSection(
  { baseline, candidate }: Evaluation,
  changed: readonly QueryOutcome[],
  rows: ReadonlyMap<string, string>,
): Markup {
  const compared = changed.some(({ change }) => change !== null);
  const heading =
    compared || changed.length === 0 ? "Queries that changed most" : "Queries that are answered worst";
  if (changed.length === 0) return markup`<section><h2>${heading}</h2><p>None changed.</p></section>`;
  const queries = changed.map((outcome, index) => {
    const answers = [
      ...(outcome.baseline === null
        ? []
        : [answerList(`v${baseline.version}`, "old", outcome.baseline, outcome.candidate, outcome, rows)]),
      answerList(`v${candidate.version}`, "new", outcome.candidate, outcome.baseline, outcome, rows),
    ];
    return markup`<details${index < 3 ? markup` open` : markup``}>
<summary><bdi class="query">${shortened(outcome.query, 240)}</bdi> <small>${figuresOf(outcome)}</small></summary>
<div class="answers">${answers}</div>
</details>`;
  });
  return markup`<section class="wide">
<h2>${heading}</h2>
<p><span class="mark">★</span> marks a row that answers the query. Beside each row stand its similarity and where it went or came from; similarities of two versions cannot be compared.</p>
${queries}
</section>`;
}

function figuresOf({ ndcg, change }: QueryOutcome): string {
  const quality =
    ndcg === null
      ? []
      : [
          `nDCG ${ndcg.baseline === null ? "" : `${ndcg.baseline.toFixed(2)} → `}${ndcg.candidate.toFixed(2)}`,
        ];
  return [...quality, ...(change === null ? [] : [`overlap ${percent(change.overlap)}`])].join(", ");
}

function answerList(
  name: string,
  tone: "old" | "new",
  hits: readonly Hit[],
  others: readonly Hit[] | null,
  { relevant }: QueryOutcome,
  rows: ReadonlyMap<string, string>,
): Markup {
  const places = new Map(others?.map(({ row_id }, index) => [row_id, index]));
  const items = hits.map(({ row_id, similarity }, index) => {
    const [title, snippet] = titleAndSnippet(rows.get(row_id) ?? row_id);
    const place = places.get(row_id);
    return markup`<li${relevant?.includes(row_id) ? markup` class="relevant"` : markup``}><div><bdi class="title">${title}</bdi>${
      snippet === "" ? markup`` : markup`<bdi class="snippet">${snippet}</bdi>`
    }</div><small>${similarity.toFixed(3)}<br>${others === null ? "" : tone === "new" ? moved(index, place) : wentTo(place)}</small></li>`;
  });
  return markup`<section><h3><span class="key ${tone}"></span>${name}</h3><ol>${items}</ol></section>`;
}

/** The new version's row: how far it moved. */
function moved(here: number, before: number | undefined): string {
  if (before === undefined) return "new";
  if (before === here) return "=";
  return before > here ? `↑${before - here}` : `↓${here - before}`;
}

/** The old version's row: where it went. */
function wentTo(after: number | undefined): string {
  return after === undefined ? "gone" : `→ ${after + 1}`;
}

/** A row's first line, and what follows it on one line. */
function titleAndSnippet(text: string): [string, string] {
  const [first = "", ...rest] = text.trim().split("\n");
  return [shortened(oneLine(first), 140), oneLine(rest.join(" ")).slice(0, 200)];
}

function shortened(text: string, longest: number): string {
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

const STYLE = markup`<style>
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1e21; --soft: #62676e; --line: #dcdfe3; --panel: #f3f4f5;
  --old: #8a94a3; --new: #2563c9; --better: #0f7b6c; --worse: #b4470f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e6e8eb; --soft: #9aa1aa; --line: #33373d; --panel: #1e2125;
    --old: #7b8694; --new: #6aa3f8; --better: #4cc2ae; --worse: #f0935a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 46rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; max-width: 42rem; }
small, .overline, .spaces, figcaption, .hint { color: var(--soft); }
small, figcaption { font-size: .82rem; }
.overline { font-size: .85rem; margin: 0 0 .5rem; }
.verdict { font-size: 1.2rem; margin: 1.25rem 0 .5rem; }
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--ink); overflow-wrap: anywhere; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin: 0 .35em 0 0; }
.spaces .key.new { margin-left: 1em; }
.key.old, .old { background: var(--old); fill: var(--old); }
.key.new, .new { background: var(--new); fill: var(--new); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles > div { background: var(--panel); border-radius: 8px; padding: .8rem 1rem; }
dt { font-size: .82rem; color: var(--soft); }
dd { margin: 0; }
dd b { display: block; font-size: 1.35rem; font-weight: 600; }
figure { margin: 1rem 0 1.5rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 13px; }
svg .hint, svg .figure { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .interval { stroke-width: 3; stroke-linecap: round; }
svg .interval.better { stroke: var(--better); }
svg .interval.worse { stroke: var(--worse); }
svg .interval.even { stroke: var(--old); }
svg .better { fill: var(--better); }
svg .worse { fill: var(--worse); }
svg .even, svg .neutral { fill: var(--old); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 400; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; }
.query { font-weight: 600; overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1.5rem; margin: 1rem 0 .5rem; }
ol { margin: 0; padding: 0; list-style: none; counter-reset: rank; font-size: .88rem; line-height: 1.4; }
li { display: grid; grid-template-columns: 1.6rem 1fr auto; gap: .5rem; padding: .4rem .4rem .4rem 0; border-top: 1px solid var(--line); counter-increment: rank; }
li::before { content: counter(rank); color: var(--soft); text-align: right; }
li > div { min-width: 0; }
li small { text-align: right; }
li.relevant { background: var(--panel); box-shadow: inset 2px 0 var(--better); }
li.relevant .title::after { content: " ★"; color: var(--better); }
.title, .snippet { display: block; overflow-wrap: anywhere; }
.snippet { color: var(--soft); font-size: .82rem; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }
.mark { color: var(--better); }
@media (min-width: 70rem) { .wide { margin: 0 -9rem; } }
@media print { details { break-inside: avoid; } }
</style>`;
