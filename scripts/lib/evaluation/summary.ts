/** An evaluation as lines for a terminal, and in the sentences that the page uses, too. */
import { percent, table } from "../output.ts";
import type { Comparison, Evaluation, VersionMeasures } from "./evaluate.ts";
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
  const { low, high } = quality["ndcg@10"];
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  if (low > 0) return `${fresh} answers these queries better than ${old}.`;
  if (high < 0) return `${fresh} answers these queries worse than ${old}.`;
  return `These queries show no difference in quality between ${fresh} and ${old}.`;
}

/** What became of the old threshold, in one sentence. */
export function describeThreshold({
  threshold,
  baseline,
  candidate,
}: Pick<Evaluation, "threshold" | "baseline" | "candidate">): string {
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  const kept = `${old}'s threshold of ${threshold.baseline.toFixed(2)} keeps ${count(threshold.kept)} of ${count(threshold.of)} results`;
  return threshold.threshold === null
    ? `${kept}; ${fresh} returns fewer at any threshold.`
    : `${kept}; ${threshold.threshold.toFixed(3)} keeps as many in ${fresh}, whose own is ${threshold.candidate.toFixed(2)}.`;
}

/** A difference with its sign, three decimals. */
export function signed(value: number): string {
  const shown = value.toFixed(3);
  return Number(shown) > 0 ? `+${shown}` : Number(shown) === 0 ? "0.000" : shown;
}

/** How a version's index served its searches, in words for one cell. */
export function describeIndex({ index }: VersionMeasures): string {
  if (index.used === 1) return "read by every search";
  if (index.used > 0) return `read by ${percent(index.used)} of the searches`;
  return index.stands ? "stands, not read" : "none";
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
  return [
    both("rows embedded", ({ embedded, rows }) => `${count(embedded)} of ${count(rows)}`),
    both("coverage", ({ coverage }) => percent(coverage)),
    both("jobs waiting", ({ pending }) => count(pending)),
    both("failed rows", ({ failed }) => count(failed)),
    both("truncated rows", ({ truncated }) => count(truncated)),
    both("index", describeIndex),
    both("index recall@10", ({ index }) => (index.recall === null ? "exact" : index.recall.toFixed(4))),
    both("search p50", ({ latency_ms }) => milliseconds(latency_ms.p50)),
    both("search p95", ({ latency_ms }) => milliseconds(latency_ms.p95)),
  ];
}

/** Rows of the table of quality: name, baseline, candidate, difference, interval. */
export function qualityRows(quality: Readonly<Record<string, Comparison>>): string[][] {
  return Object.entries(quality).map(([name, { baseline, candidate, difference, low, high }]) => [
    name,
    baseline.toFixed(3),
    candidate.toFixed(3),
    signed(difference),
    `${signed(low)} to ${signed(high)}`,
  ]);
}

/** All of it, line by line. */
export function summaryLines(evaluation: Evaluation): string[] {
  const { baseline, candidate, quality, change, provider } = evaluation;
  const [old, fresh] = [`v${baseline.version}`, `v${candidate.version}`];
  const lines = [
    `${evaluation.collection}: ${fresh} (${candidate.space}) against ${old} (${baseline.space})`,
    `${count(evaluation.queries)} queries, ${describeSource(evaluation.source, evaluation.judged_queries)}`,
  ];
  if (evaluation.unknown_rows > 0)
    lines.push(
      `${count(evaluation.unknown_rows)} judged rows are not in the collection: they count as not found`,
    );
  lines.push("");
  if (quality !== null)
    lines.push(...table(["quality", old, fresh, "difference", "95 % interval"], qualityRows(quality)), "");
  lines.push(describeQuality(evaluation), "");
  lines.push(...table(["state", old, fresh], stateRows(evaluation)), "");
  lines.push(
    `change, which says nothing of quality: overlap@10 ${percent(change["overlap@10"])}, rank-biased overlap ${change.rbo.toFixed(2)}`,
    describeThreshold(evaluation),
  );
  if (provider.requests > 0)
    lines.push(
      `embedding the queries took ${count(provider.requests)} requests, ${count(provider.tokens)} tokens`,
    );
  return lines;
}

function milliseconds(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

function count(value: number): string {
  return value.toLocaleString("en");
}
