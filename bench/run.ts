/**
 * `npm run bench -- --only <name> [--rows N] [--json]`: measurements side by side in one run, on the real PostgreSQL. Prints one line for each
 * benchmark and ends with 1 when a bar does not hold.
 */
import { parseArgs } from "node:util";
import { findServer } from "../scripts/lib/test-server.ts";
import { backfill } from "./backfill.ts";
import { edge } from "./edge.ts";
import { hammer } from "./hammer.ts";
import { hybrid } from "./hybrid.ts";
import { ingest } from "./ingest.ts";
import { interference } from "./interference.ts";
import { lag } from "./lag.ts";
import type { Benchmark, Outcome } from "./measure.ts";
import { memory } from "./memory.ts";
import { move } from "./move.ts";
import { status } from "./status.ts";
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
};

const USAGE = `npm run bench -- [--only ${Object.keys(BENCHMARKS).join("|")}] [--rows N] [--json]`;

async function main(): Promise<number> {
  let flags: { only?: string; rows?: string; json?: boolean };
  try {
    flags = parseArgs({
      options: { only: { type: "string" }, rows: { type: "string" }, json: { type: "boolean" } },
    }).values;
    if (flags.only !== undefined && !(flags.only in BENCHMARKS))
      throw new Error(`--only: no benchmark is called ${flags.only}`);
    if (flags.rows !== undefined && !/^[1-9]\d{2,6}$/.test(flags.rows))
      throw new Error("--rows must be a whole number from 100 to 9999999");
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : "wrong use"}\n${USAGE}`);
    return 2;
  }
  const server = await findServer(process.env);
  if (server === null) {
    console.error("error: benchmarks need PostgreSQL\nhint: npm run postgres starts one");
    return 1;
  }
  let holds = true;
  for (const [name, benchmark] of Object.entries(BENCHMARKS)) {
    if (flags.only !== undefined && flags.only !== name) continue;
    const outcome = await benchmark(server, flags.rows === undefined ? undefined : Number(flags.rows));
    holds &&= outcome.bars.every((bar) => bar.holds);
    console.log(flags.json ? JSON.stringify({ name, ...outcome }) : describe(name, outcome));
  }
  return holds ? 0 : 1;
}

function describe(name: string, { server, rows, figures, bars }: Outcome): string {
  return [
    `${name}, ${rows} rows, ${server}`,
    ...Object.entries(figures).map(([figure, value]) => `  ${figure}: ${value}`),
    ...bars.map(
      (bar) => `  ${bar.holds ? "holds" : "BROKEN"}: ${bar.name} is ${bar.value}, the bound is ${bar.bound}`,
    ),
  ].join("\n");
}

process.exitCode = await main();
