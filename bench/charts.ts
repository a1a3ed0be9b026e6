/** The pictures beside the results: SVG files that need nothing else and follow light and dark. */
import { chart, round, WIDTH } from "../scripts/lib/evaluation/charts.ts";
import { type Markup, markup } from "../scripts/lib/evaluation/markup.ts";

export interface BarChart {
  readonly kind: "bars";
  /** Of the file. */
  readonly name: string;
  /** What is shown, with its unit. */
  readonly title: string;
  /** `ours` marks what this project does, beside what it is compared with. */
  readonly bars: readonly { readonly label: string; readonly value: number; readonly ours?: boolean }[];
}

export interface LineChart {
  readonly kind: "lines";
  /** Of the file. */
  readonly name: string;
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
}

export interface Axis {
  /** What it measures, with its unit. */
  readonly label: string;
  readonly scale: "linear" | "log";
}

export interface Line {
  readonly label: string;
  readonly ours?: boolean;
  readonly points: readonly {
    readonly x: number;
    readonly y: number;
    /** Written beside the point. */
    readonly note?: string;
  }[];
}

export type Chart = BarChart | LineChart;

/** The text of the file. Outside of a page an image has to name its language. */
export function draw(shown: Chart): string {
  const { text } = shown.kind === "bars" ? drawBars(shown) : drawLines(shown);
  return `${text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')}\n`;
}

const ROW = 28;
const LABEL = 220;
const TITLE = 34;

function drawBars({ title, bars }: BarChart): Markup {
  const most = Math.max(...bars.map(({ value }) => value), Number.MIN_VALUE);
  const right = WIDTH - 90;
  const height = TITLE + bars.length * ROW + 12;
  const rows = bars.map(({ label, value, ours }, index) => {
    const y = TITLE + index * ROW + 4;
    const size = round((value / most) * (right - LABEL));
    return markup`
  <text x="${LABEL - 10}" y="${y + 14}" text-anchor="end">${label}</text>
  <rect x="${LABEL}" y="${y}" width="${Math.max(1, size)}" height="18" rx="2" class="${ours ? "ours" : "other"}"/>
  <text x="${LABEL + size + 8}" y="${y + 14}" class="figure">${value}</text>`;
  });
  return picture(height, title, markup`${rows}`);
}

const PLOT = { left: 64, right: WIDTH - 190, top: TITLE + 14, bottom: 320 };
/** The least distance of two labels at the ends of lines. */
const LABEL_STEP = 15;

function drawLines({ title, x, y, lines }: LineChart): Markup {
  const points = lines.flatMap((line) => line.points);
  const across = scaleOf(
    x,
    points.map((point) => point.x),
    PLOT.left,
    PLOT.right,
  );
  const up = scaleOf(
    y,
    points.map((point) => point.y),
    PLOT.bottom,
    PLOT.top,
  );
  const grid = [
    ...up.ticks.map(
      (tick) => markup`
  <line x1="${PLOT.left}" x2="${PLOT.right}" y1="${up.at(tick)}" y2="${up.at(tick)}" class="axis"/>
  <text x="${PLOT.left - 8}" y="${up.at(tick) + 4}" text-anchor="end" class="hint">${tick}</text>`,
    ),
    ...across.ticks.map(
      (tick) => markup`
  <text x="${across.at(tick)}" y="${PLOT.bottom + 18}" text-anchor="middle" class="hint">${tick}</text>`,
    ),
  ];
  const drawn = lines.map(({ points, ours }) => {
    const kind = ours ? "ours" : "other";
    const path = points.map((point) => `${across.at(point.x)},${up.at(point.y)}`).join(" ");
    const room = noteRoom();
    return markup`
  <polyline points="${path}" class="line ${kind}"/>${points.map((point) => {
    const [x, y] = [across.at(point.x), up.at(point.y)];
    const note =
      point.note && room(x, y)
        ? markup`
  <text x="${x}" y="${round(ours ? y - 8 : y + 17)}" text-anchor="middle" class="hint">${point.note}</text>`
        : "";
    return markup`
  <circle cx="${x}" cy="${y}" r="3.5" class="${kind}"/>${note}`;
  })}`;
  });
  return picture(
    PLOT.bottom + 44,
    title,
    markup`${grid}${drawn}${endLabels(lines, across, up)}
  <text x="${PLOT.right}" y="${PLOT.bottom + 36}" text-anchor="end" class="hint">${x.label}</text>
  <text x="${PLOT.left}" y="${PLOT.top - 8}" class="hint">${y.label}</text>`,
  );
}

/** Says of one point of a line after another whether its note has room beside those before it: ours stand above their line, others below theirs. */
function noteRoom(): (x: number, y: number) => boolean {
  const taken: (readonly [number, number])[] = [];
  return (x, y) => {
    const free = taken.every(([otherX, otherY]) => Math.abs(x - otherX) >= 22 || Math.abs(y - otherY) >= 12);
    if (free) taken.push([x, y]);
    return free;
  };
}

/** Each line's name at its end, moved down where it would cover another. */
function endLabels(lines: readonly Line[], across: Scale, up: Scale): Markup[] {
  const ends = lines
    .flatMap(({ label, ours, points }) => {
      const last = points.at(-1);
      return last === undefined ? [] : [{ label, ours, x: across.at(last.x), y: up.at(last.y) }];
    })
    .sort((a, b) => a.y - b.y);
  let lowest = Number.NEGATIVE_INFINITY;
  return ends.map(({ label, ours, x, y }) => {
    lowest = Math.max(y, lowest + LABEL_STEP);
    return markup`
  <text x="${x + 10}" y="${round(lowest + 4)}" class="${ours ? "name" : ""}">${label}</text>`;
  });
}

interface Scale {
  /** The coordinate of a value. */
  at(value: number): number;
  readonly ticks: readonly number[];
}

/** From the least value, or a round one below it, to the greatest. */
function scaleOf({ scale }: Axis, values: readonly number[], from: number, to: number): Scale {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const ticks = scale === "log" ? logTicks(least, most) : linearTicks(least, most);
  const place = scale === "log" ? Math.log : (value: number) => value;
  const [low, high] = [
    place(Math.min(least, ticks[0] ?? least)),
    place(Math.max(most, ticks.at(-1) ?? most)),
  ];
  return {
    ticks,
    at: (value) => round(from + ((place(value) - low) / (high - low || 1)) * (to - from)),
  };
}

/** Round values, about five, that enclose the values. */
function linearTicks(least: number, most: number): number[] {
  const rough = (most - least || Math.abs(most) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.floor(least / step + 1e-9);
  const last = Math.ceil(most / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toPrecision(6)));
}

/** Powers of ten that enclose the values; between the least and the greatest also twice and five times each, where they span less than two. */
function logTicks(least: number, most: number): number[] {
  const [first, last] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
  const factors = last - first > 2 ? [1] : [1, 2, 5];
  const all = Array.from({ length: last - first + 1 }, (_, at) =>
    factors.map((factor) => Number((factor * 10 ** (first + at)).toPrecision(1))),
  ).flat();
  const from = all.findLastIndex((tick) => tick <= least);
  const to = all.findIndex((tick) => tick >= most);
  return all.slice(Math.max(0, from), to + 1);
}

function picture(height: number, title: string, content: Markup): Markup {
  return chart(
    height,
    title,
    markup`${STYLE}
  <rect width="${WIDTH}" height="${height}" class="paper"/>
  <text x="16" y="22" class="title">${title}</text>${content}
`,
  );
}

/** Written out rather than as variables, which viewers other than browsers do not know. */
const colours = (
  paper: string,
  ink: string,
  faint: string,
  line: string,
  ours: string,
  other: string,
) => markup`
  text { fill: ${ink} } .hint { fill: ${faint} } .paper { fill: ${paper} } .axis { stroke: ${line} }
  .ours { fill: ${ours} } .other { fill: ${other} } .line { fill: none } .line.ours { stroke: ${ours} } .line.other { stroke: ${other} }`;

const STYLE = markup`<style>
  text { font: 12px system-ui, sans-serif }
  .title { font-size: 14px; font-weight: 600 } .name { font-weight: 600 } .hint { font-size: 11px } .figure { font-variant-numeric: tabular-nums } .line { stroke-width: 2 }${colours("#ffffff", "#1f2328", "#656d76", "#e3e6ea", "#0969da", "#8c959f")}
  @media (prefers-color-scheme: dark) {${colours("#0d1117", "#e6edf3", "#8d96a0", "#262c34", "#4493f8", "#7d8590")}
  }
</style>`;
