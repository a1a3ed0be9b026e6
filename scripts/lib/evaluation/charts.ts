/** The page's charts as inline SVG. Colours are classes of the page's style sheet, so that they follow light and dark. */
import type { QualityMeasure, VersionMeasures } from "./evaluate.ts";
import { type Markup, markup } from "./markup.ts";
import { signed } from "./summary.ts";

export const WIDTH = 640;
const ROW = 34;
const LABEL = 110;

/**
 * A dot for each measure's difference with its interval as a line, over a line at zero: where the interval does not touch zero, the versions differ.
 */
export function differencesChart(quality: Readonly<Record<string, QualityMeasure>>): Markup {
  const measures = Object.entries(quality).flatMap(([name, { against }]) =>
    against === null ? [] : [{ name, ...against }],
  );
  const reach = Math.max(0.02, ...measures.flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)])) * 1.1;
  const right = WIDTH - 70;
  const x = (value: number) => round(LABEL + ((value + reach) / (2 * reach)) * (right - LABEL));
  const height = measures.length * ROW + 30;
  const rows = measures.map(({ name, difference, low, high }, index) => {
    const y = index * ROW + ROW / 2;
    const tone = low > 0 ? "better" : high < 0 ? "worse" : "even";
    return markup`
      <text x="${LABEL - 12}" y="${y + 4}" text-anchor="end">${name}</text>
      <line x1="${x(low)}" x2="${x(high)}" y1="${y}" y2="${y}" class="interval ${tone}"/>
      <circle cx="${x(difference)}" cy="${y}" r="5" class="dot ${tone}"/>
      <text x="${right + 10}" y="${y + 4}" class="figure">${signed(difference)}</text>`;
  });
  return chart(
    height,
    "Difference of each measure with its interval of 95 %",
    markup`
      <line x1="${x(0)}" x2="${x(0)}" y1="0" y2="${height - 26}" class="axis"/>${rows}
      <text x="${LABEL}" y="${height - 6}" class="hint">worse</text>
      <text x="${x(0)}" y="${height - 6}" text-anchor="middle" class="hint">no difference</text>
      <text x="${right}" y="${height - 6}" text-anchor="end" class="hint">better</text>`,
  );
}

/** A bar for each query's change of nDCG@10, from the worst to the best. */
export function queryChangesChart(differences: readonly number[]): Markup {
  const changes = [...differences].sort((a, b) => a - b);
  const height = 150;
  const middle = height / 2;
  const step = WIDTH / Math.max(1, changes.length);
  const bars = changes.flatMap((change, index) => {
    const size = round(Math.abs(change) * (middle - 6));
    if (size === 0) return [];
    const y = change > 0 ? round(middle - size) : middle;
    return [
      markup`
      <rect x="${round(index * step)}" y="${y}" width="${round(Math.max(0.5, step - (step > 4 ? 1.5 : 0)))}" height="${size}" class="${change > 0 ? "better" : "worse"}"/>`,
    ];
  });
  return chart(
    height,
    "Change of nDCG@10 of each query, from the worst to the best",
    markup`${bars}
      <line x1="0" x2="${WIDTH}" y1="${middle}" y2="${middle}" class="axis"/>`,
  );
}

/**
 * How many queries have 0, 1, ... 10 of their first ten rows in common.
 * @param overlaps 0 to 1
 */
export function overlapChart(overlaps: readonly number[]): Markup {
  const counts = new Array<number>(11).fill(0);
  for (const overlap of overlaps) {
    const rows = Math.round(overlap * 10);
    counts[rows] = (counts[rows] ?? 0) + 1;
  }
  const most = Math.max(1, ...counts);
  const [height, floor] = [180, 136];
  const step = WIDTH / counts.length;
  const bars = counts.map((queries, rows) => {
    const size = round((queries / most) * (floor - 22));
    const x = round(rows * step + 6);
    const centre = round(rows * step + step / 2);
    return markup`
      <rect x="${x}" y="${round(floor - size)}" width="${round(step - 12)}" height="${size}" class="neutral"/>
      <text x="${centre}" y="${round(floor - size - 6)}" text-anchor="middle" class="figure">${queries === 0 ? "" : queries}</text>
      <text x="${centre}" y="${floor + 18}" text-anchor="middle">${rows}</text>`;
  });
  return chart(
    height,
    "Queries by how many of their first ten rows both versions have in common",
    markup`${bars}
      <line x1="0" x2="${WIDTH}" y1="${floor}" y2="${floor}" class="axis"/>
      <text x="${WIDTH / 2}" y="${height - 2}" text-anchor="middle" class="hint">rows in common among the first ten</text>`,
  );
}

/** p50 and p95 of both versions as bars on one scale. */
export function latencyChart(versions: readonly VersionMeasures[]): Markup {
  const bars = versions.flatMap(({ version, searches }) =>
    (["p50", "p95"] as const).flatMap((name) =>
      searches === null ? [] : [{ name, version, value: searches.latency_ms[name] }],
    ),
  );
  const most = Math.max(0.001, ...bars.map(({ value }) => value));
  const right = WIDTH - 90;
  const rows = bars.map(({ name, version, value }, index) => {
    const y = index * 28 + 6;
    const size = round((value / most) * (right - LABEL));
    return markup`
      <text x="${LABEL - 12}" y="${y + 14}" text-anchor="end">v${version} ${name}</text>
      <rect x="${LABEL}" y="${y}" width="${Math.max(1, size)}" height="18" rx="2" class="${version === versions[0]?.version ? "old" : "new"}"/>
      <text x="${LABEL + size + 8}" y="${y + 14}" class="figure">${value.toFixed(value < 10 ? 2 : 0)} ms</text>`;
  });
  return chart(bars.length * 28 + 8, "Time of a search in the database", markup`${rows}`);
}

/** An image of WIDTH by `height`. */
export function chart(height: number, title: string, content: Markup): Markup {
  return markup`<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${title}"><title>${title}</title>${content}</svg>`;
}

/** A coordinate, to a tenth. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}
