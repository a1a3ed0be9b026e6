/** An evaluation as lines for a terminal, and in the sentences that the page uses, too. */
import { percent, table } from "../output.ts";
import type { Evaluation, QualityMeasure, SearchMeasures, VersionMeasures } from "./evaluate.ts";
import type { QuerySource } from "./query-set.ts";

/** What the queries are and what they can show. */
export function describeSource(source: QuerySource, judged: number): string {
  if (source === "rows") return "made from rows: the first line of a row should find the row";
  if (source === "log") return "from the query log: not judged, so they show change, not quality";
  return judged === 0
    ? "from a file, none of them judged: they show change, not quality"
    : `from a file, ${count(judged)} of them judged`;
}

/** The verdict on quality in one sentence. */
export function describeQuality({
  quality,
  candidate,
  baseline,
}: Pick<Evaluation, "quality" | "candidate" | "baseline">): string {
  if (quality === null) return "No query is judged, so nothing is said about quality.";
  const { against } = quality["ndcg@10"];
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  if (against === null)
    return `${fresh} was judged alone: nothing is said about whether it is better than ${old}.`;
  if (against.low > 0) return `${fresh} answers these queries better than ${old}.`;
  if (against.high < 0) return `${fresh} answers these queries worse than ${old}.`;
  return `These queries show no difference in quality between ${fresh} and ${old}.`;
}

/** What became of the old threshold, in one sentence; empty where nothing was compared. */
export function describeThreshold({
  threshold,
  baseline,
  candidate,
}: Pick<Evaluation, "threshold" | "baseline" | "candidate">): string {
  if (threshold === null) return "";
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  const kept = `${old}'s threshold of ${baseline.threshold.toFixed(2)} keeps ${count(threshold.kept)} of ${count(threshold.of)} results`;
  return threshold.threshold === null
    ? `${kept}; ${fresh} returns fewer at any threshold.`
    : `${kept}; ${threshold.threshold.toFixed(3)} keeps as many in ${fresh}, whose own is ${candidate.threshold.toFixed(2)}.`;
}

/** How much the answers differ, in one sentence; empty where nothing was compared. */
export function describeChange({ change }: Pick<Evaluation, "change">): string {
  return change === null
    ? ""
    : `overlap of the first ten rows ${percent(change["overlap@10"])}, rank-biased overlap ${change.rbo.toFixed(2)}`;
}

/** Judged rows that are not there, in one sentence; empty where all are. */
export function describeUnknownRows({ unknown_rows }: Pick<Evaluation, "unknown_rows">): string {
  if (unknown_rows === 0) return "";
  const rows = unknown_rows === 1 ? "1 judged row is" : `${count(unknown_rows)} judged rows are`;
  return `${rows} not in the collection and counted as not found.`;
}

/** A difference with its sign, three decimals. */
export function signed(value: number): string {
  const shown = value.toFixed(3);
  return Number(shown) > 0 ? `+${shown}` : Number(shown) === 0 ? "0.000" : shown;
}

/** How a version's index served its searches, in words for one cell. */
function describeIndex({ has_index, searches }: VersionMeasures): string {
  if (searches === null || searches.index.used === 0) return has_index ? "stands, not read" : "none";
  return searches.index.used === 1
    ? "read by every search"
    : `read by ${percent(searches.index.used)} of the searches`;
}

/** Rows of the table that shows what both versions have and how fast they are: name, baseline, candidate. */
export function stateRows({
  baseline,
  candidate,
}: Pick<Evaluation, "baseline" | "candidate">): [string, string, string][] {
  const both = (name: string, cell: (measures: VersionMeasures) => string): [string, string, string] => [
    name,
    cell(baseline),
    cell(candidate),
  ];
  const asked =
    (cell: (searches: SearchMeasures) => string) =>
    ({ searches }: VersionMeasures) =>
      searches === null ? "not asked" : cell(searches);
  return [
    both("rows embedded", ({ embedded, rows }) => `${count(embedded)} of ${count(rows)}`),
    both("coverage", ({ coverage }) => percent(coverage)),
    both("jobs waiting", ({ pending }) => count(pending)),
    both("failed rows", ({ failed }) => count(failed)),
    both("truncated rows", ({ truncated }) => count(truncated)),
    both("index", describeIndex),
    both(
      "index recall@10",
      asked(({ index }) => (index.recall === null ? "exact" : index.recall.toFixed(4))),
    ),
    both(
      "search p50",
      asked(({ latency_ms }) => milliseconds(latency_ms.p50)),
    ),
    both(
      "search p95",
      asked(({ latency_ms }) => milliseconds(latency_ms.p95)),
    ),
  ];
}

/** Rows of the table of quality: name, baseline, candidate, difference, interval. */
export function qualityRows(quality: Readonly<Record<string, QualityMeasure>>): string[][] {
  return Object.entries(quality).map(([name, { candidate, against }]) => [
    name,
    against === null ? "-" : against.baseline.toFixed(3),
    candidate.toFixed(3),
    against === null ? "-" : signed(against.difference),
    against === null ? "-" : `${signed(against.low)} to ${signed(against.high)}`,
  ]);
}

/** The verdict in a few lines, for whoever wants no table. */
export function verdictLines(evaluation: Evaluation): string[] {
  const { quality, candidate, baseline } = evaluation;
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  const ndcg = quality?.["ndcg@10"];
  const recall = candidate.searches?.index.recall ?? null;
  const lines = [
    `${count(evaluation.queries)} queries, ${describeSource(evaluation.source, evaluation.judged_queries)}`,
  ];
  if (ndcg?.against)
    lines.push(
      `nDCG@10: ${old} ${ndcg.against.baseline.toFixed(3)}, ${fresh} ${ndcg.candidate.toFixed(3)}; difference ${signed(ndcg.against.difference)}, 95 % interval ${signed(ndcg.against.low)} to ${signed(ndcg.against.high)}`,
    );
  lines.push(
    describeQuality(evaluation),
    `${fresh}: coverage ${percent(candidate.coverage)}, index recall@10 ${recall === null ? "exact" : recall.toFixed(3)}, ${count(candidate.failed)} failed rows`,
  );
  const change = describeChange(evaluation);
  if (change !== "") lines.push(`change, which says nothing of quality: ${change}`);
  return lines;
}

/** All of it, line by line. */
export function summaryLines(evaluation: Evaluation): string[] {
  const { baseline, candidate, quality, provider } = evaluation;
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  const lines = [
    `${evaluation.collection}: ${fresh} (${candidate.space}) against ${old} (${baseline.space})`,
    `${count(evaluation.queries)} queries, ${describeSource(evaluation.source, evaluation.judged_queries)}`,
  ];
  const unknown = describeUnknownRows(evaluation);
  if (unknown !== "") lines.push(unknown);
  lines.push("");
  if (quality !== null)
    lines.push(...table(["quality", old, fresh, "difference", "95 % interval"], qualityRows(quality)), "");
  lines.push(describeQuality(evaluation), "");
  lines.push(...table(["state", old, fresh], stateRows(evaluation)), "");
  const change = describeChange(evaluation);
  if (change !== "")
    lines.push(`change, which says nothing of quality: ${change}`, describeThreshold(evaluation));
  if (provider.requests > 0)
    lines.push(
      `embedding the queries took ${count(provider.requests)} request${provider.requests === 1 ? "" : "s"}, ${count(provider.tokens)} tokens`,
    );
  return lines;
}

function milliseconds(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

function count(value: number): string {
  return value.toLocaleString("en");
}
