/**
 * `npm run bench -- --only <name> [--rows N] [--json]`: measurements side by side in one run, on the real PostgreSQL. Explains each number; with --json
 * it prints one object a line for each benchmark. Ends with 1 when a bar does not hold. A run at full size, without --rows, writes
 * bench/results/<name>.json. `npm run bench -- --report` writes what follows from these: tables and pictures.
 */
import { parseArgs } from "node:util";
import { findServer } from "../scripts/lib/test-server.ts";
import { backfill } from "./backfill.ts";
import { concurrency } from "./concurrency.ts";
import { edge } from "./edge.ts";
import { filtered } from "./filtered.ts";
import { hammer } from "./hammer.ts";
import { hybrid } from "./hybrid.ts";
import { ingest } from "./ingest.ts";
import { interference } from "./interference.ts";
import { lag } from "./lag.ts";
import { describeMachine } from "./machine.ts";
import type { Benchmark, Outcome } from "./measure.ts";
import { memory } from "./memory.ts";
import { move } from "./move.ts";
import { news } from "./news.ts";
import { recall } from "./recall.ts";
import { writeReport } from "./report.ts";
import { resultOf, writeResult } from "./results.ts";
import { search } from "./search.ts";
import { status } from "./status.ts";
import { storage } from "./storage.ts";
import { storm } from "./storm.ts";

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  ingest,
  backfill,
  storm,
  hybrid,
  status,
  memory,
  edge,
  lag,
  interference,
  move,
  hammer,
  search,
  recall,
  storage,
  filtered,
  concurrency,
  news,
};

const USAGE = `npm run bench -- [--only ${Object.keys(BENCHMARKS).join("|")}] [--rows N] [--json]
npm run bench -- --report`;

async function main(): Promise<number> {
  let flags: { only?: string; rows?: string; json?: boolean; report?: boolean };
  try {
    flags = parseArgs({
      options: {
        only: { type: "string" },
        rows: { type: "string" },
        json: { type: "boolean" },
        report: { type: "boolean" },
      },
    }).values;
    if (flags.only !== undefined && !(flags.only in BENCHMARKS))
      throw new Error(`--only: no benchmark is called ${flags.only}`);
    if (flags.rows !== undefined && !/^[1-9]\d{2,6}$/.test(flags.rows))
      throw new Error("--rows must be a whole number from 100 to 9999999");
    if (flags.report && Object.keys(flags).length > 1)
      throw new Error("--report measures nothing: it stands alone");
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : "wrong use"}\n${USAGE}`);
    return 2;
  }
  if (flags.report) {
    await writeReport();
    return 0;
  }
  const url = await findServer(process.env);
  if (url === null) {
    console.error(
      "error: benchmarks need PostgreSQL: PGlite is one connection\nhint: npm run postgres starts one",
    );
    return 1;
  }
  const described = await describeMachine(url);
  let holds = true;
  for (const [name, benchmark] of Object.entries(BENCHMARKS)) {
    if (flags.only !== undefined && flags.only !== name) continue;
    const outcome = await benchmark(url, flags.rows === undefined ? undefined : Number(flags.rows));
    holds &&= outcome.bars.every((bar) => bar.holds);
    const server = outcome.overHttp
      ? `${described.server}; HTTP is the stack of npm run dev, not PostgREST`
      : described.server;
    console.log(flags.json ? contractOf(name, outcome, server) : describe(name, outcome, server));
    if (flags.rows === undefined) await writeResult(resultOf(name, outcome, server, described.machine));
  }
  return holds ? 0 : 1;
}

/** The line that programs read: numbers alone. */
function contractOf(name: string, { rows, figures, bars }: Outcome, server: string): string {
  return JSON.stringify({
    name,
    server,
    rows,
    figures: Object.fromEntries(Object.entries(figures).map(([figure, [value]]) => [figure, value])),
    bars: bars.map(({ name, value, bound, holds }) => ({ name, value, bound, holds })),
  });
}

function describe(name: string, { about, data, rows, figures, bars }: Outcome, server: string): string {
  return [
    `${name}, ${rows} rows, ${server}`,
    `  ${about}`,
    `  ${data}`,
    ...Object.entries(figures).map(
      ([figure, [value, meaning, spread]]) =>
        `  ${figure}: ${value}${spread === undefined ? "" : ` (${spread[0]} to ${spread[1]})`}, ${meaning}`,
    ),
    ...bars.map(
      (bar) =>
        `  ${bar.holds ? "holds" : "BROKEN"}: ${bar.name} is ${bar.value}, the bound is ${bar.side} ${bar.bound}`,
    ),
  ].join("\n");
}

process.exitCode = await main();
