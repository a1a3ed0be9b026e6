/** What follows from the results: the tables of docs/performance.md and README.md, and the pictures. A test compares them with the results. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { draw } from "./charts.ts";
import type { Machine } from "./machine.ts";
import { RESULTS, type Result, readResults } from "./results.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const PAGE = join(ROOT, "docs/performance.md");
const README = join(ROOT, "README.md");

const BEGIN = "<!-- written by npm run bench -- --report -->";
const END = "<!-- until here -->";

/** Whose bars README.md shows; all others stand on the page. */
const HEADLINES = ["search", "filtered", "move", "interference", "hammer"];

/** Every file that the results determine, by path, as it has to read. */
export async function reportFiles(): Promise<Map<string, string>> {
  const results = await readResults();
  const files = new Map<string, string>([
    [PAGE, withRegion(await readFile(PAGE, "utf8"), pageRegion(results))],
    [README, withRegion(await readFile(README, "utf8"), readmeRegion(results))],
  ]);
  for (const chart of results.flatMap(({ charts }) => charts)) {
    files.set(join(RESULTS, `${chart.name}.svg`), draw(chart));
  }
  return files;
}

export async function writeReport(): Promise<void> {
  for (const [path, text] of await reportFiles()) await writeFile(path, text);
}

/** @throws Error where the document has no place for it */
function withRegion(text: string, region: string): string {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`a document lacks "${BEGIN}" and "${END}"`);
  return `${text.slice(0, begin + BEGIN.length)}\n\n${region}\n\n${text.slice(end)}`;
}

function readmeRegion(results: readonly Result[]): string {
  const bars = barRows(
    results.filter(({ name }) => HEADLINES.includes(name)),
    "docs/performance.md",
  );
  if (bars.length === 0) return "No result of these is here yet.";
  return table(["measured by", "what", "figure", "bar", ""], bars);
}

function pageRegion(results: readonly Result[]): string {
  return [
    "## The bars",
    table(["benchmark", "what", "figure", "bar", ""], barRows(results, "")),
    "## The machines",
    ...machinesOf(results),
    ...results.map(section),
  ].join("\n\n");
}

/** @param page where the sections stand; empty for the same document */
function barRows(results: readonly Result[], page: string): string[][] {
  return results.flatMap(({ name, bars }) =>
    bars.map((bar) => [
      `[${name}](${page}#${name})`,
      bar.name,
      String(bar.value),
      `${bar.side} ${bar.bound}`,
      bar.holds ? "holds" : "**broken**",
    ]),
  );
}

/** Each machine once, with the benchmarks that ran on it. */
function machinesOf(results: readonly Result[]): string[] {
  const machines = new Map<string, { machine: Machine; ran: string[] }>();
  for (const { name, machine } of results) {
    const key = JSON.stringify(machine);
    const entry = machines.get(key) ?? { machine, ran: [] };
    entry.ran.push(name);
    machines.set(key, entry);
  }
  return [...machines.values()].map(({ machine, ran }) => {
    const settings = Object.entries(machine.settings).map(([name, value]) => `\`${name} = ${value}\``);
    return `${machine.cpu}, ${machine.cores} cores, ${machine.memory_gb} GB of memory, which client and server share; Node ${machine.node}, pgvector ${machine.pgvector}; ${settings.join(", ")}. On it ran: ${ran.join(", ")}.`;
  });
}

function section({ name, about, data, rows, server, measured, figures, charts }: Result): string {
  return [
    `## ${name}`,
    about,
    `${rows} rows, ${server}, ${measured}. ${data}`,
    ...charts.map((chart) => `![${chart.title}](../bench/results/${chart.name}.svg)`),
    table(
      ["figure", "value", "middle half", "what it says"],
      Object.entries(figures).map(([figure, { value, spread, meaning }]) => [
        `\`${figure}\``,
        String(value),
        spread === undefined ? "" : `${spread[0]} to ${spread[1]}`,
        meaning,
      ]),
    ),
  ].join("\n\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
