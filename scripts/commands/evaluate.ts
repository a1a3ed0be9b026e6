/** `reembed evaluate`: compares two versions on the same queries, before a cutover decides. */
import { readFile, writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { chooseVersions, evaluate, mostChanged, readRows } from "../lib/evaluation/evaluate.ts";
import { evaluationPage } from "../lib/evaluation/page.ts";
import { chooseQueries, type EvaluatedQuery, parseQueryFile } from "../lib/evaluation/query-set.ts";
import { summaryLines } from "../lib/evaluation/summary.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  wholeNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, type Output } from "../lib/output.ts";
import { startProgress } from "../lib/progress.ts";
import { embeddersFrom } from "../lib/providers.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly baseline?: number;
  readonly candidate?: number;
  readonly withoutBaseline: boolean;
  readonly queries?: string;
  readonly fromLog: boolean;
  readonly fromRows: boolean;
  readonly limit: number;
  readonly seed: number;
  readonly html?: string;
}

/** Queries whose answers are shown side by side. */
const SHOWN = 25;

export function addEvaluate(program: Command): void {
  withDatabaseOptions(program.command("evaluate"))
    .description("Compares two versions on the same queries and stores the verdict that a cutover asks for.")
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--baseline <number>", "the version to compare with; default: the active one", versionNumber)
    .option("--candidate <number>", "the version to judge; default: the newest other one", versionNumber)
    .option(
      "--without-baseline",
      "judge the candidate alone: where nothing here can embed for the baseline",
      false,
    )
    .option(
      "--queries <file>",
      'JSON lines {"query": "...", "relevant": [keys of rows]}; relevant may be left out',
      textUpTo(4_096),
    )
    .option("--from-log", "take the queries from the query log", false)
    .option("--from-rows", "make the queries from rows: a row's first line should find the row", false)
    .option(
      "--limit <queries>",
      "at most so many from the log or the rows, 1 to 10000",
      wholeNumber(1, 10_000),
      200,
    )
    .option(
      "--seed <number>",
      "the same seed makes the same queries and intervals",
      wholeNumber(0, 4_294_967_295),
      1,
    )
    .option("--html <file>", "write a page with charts and the queries that changed most", textUpTo(4_096))
    .addHelpText(
      "after",
      `
Queries come from --queries, else from the query log where it is on and not empty, else from rows.
Queries are embedded through both versions' providers and cost what queries cost.

Example:
  npm run -s reembed -- evaluate --collection course_content --html verdict.html
  npm run -s reembed -- evaluate --collection course_content --queries judged.jsonl --json`,
    )
    .action(async (options: Options) => {
      requireOneSource(options);
      // Read before the database is asked anything: a wrong file is wrong use.
      const given =
        options.queries === undefined ? undefined : parseQueryFile(await readQueries(options.queries));
      const out = createOutput(options.json);
      await withDatabase(options, (db) => evaluateIn(db, options, given, out));
    });
}

function requireOneSource({ queries, fromLog, fromRows }: Options): void {
  const named = [
    queries !== undefined && "--queries",
    fromLog && "--from-log",
    fromRows && "--from-rows",
  ].filter(Boolean);
  if (named.length > 1) {
    throw new ReembedError(
      "invalid_request",
      `${named.join(" and ")} exclude each other`,
      "Give one of them.",
    );
  }
}

async function readQueries(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new ReembedError(
      "invalid_request",
      "--queries: the file cannot be read",
      "Check its path and its permissions.",
      {
        cause: error,
      },
    );
  }
}

async function evaluateIn(
  db: Database,
  options: Options,
  given: readonly EvaluatedQuery[] | undefined,
  out: Output,
): Promise<void> {
  const collection = await chooseCollection(db, options.collection);
  const versions = await chooseVersions(db, { ...options, collection });
  const queries = await chooseQueries(db, {
    collection,
    version: versions.candidate.version,
    given,
    only: options.fromLog ? "log" : options.fromRows ? "rows" : undefined,
    limit: options.limit,
    seed: options.seed,
  });
  const progress = startProgress("queries");
  const evaluation = await evaluate(db, embeddersFrom(process.env, db.rpc), {
    collection,
    baseline: versions.baseline.version,
    candidate: versions.candidate.version,
    withoutBaseline: options.withoutBaseline,
    queries,
    seed: options.seed,
    onProgress: (done, total) => progress.update(done, total),
  }).finally(() => progress.stop());

  const { outcomes, ...figures } = evaluation;
  const changed = mostChanged(outcomes, SHOWN);
  for (const line of summaryLines(evaluation)) out.say(line);
  if (options.html !== undefined) {
    await writePage(
      options.html,
      evaluationPage(evaluation, changed, await readRows(db, evaluation, changed)),
    );
    out.note(`the page is in ${options.html}`);
  } else
    out.note("--html <file> writes a page with the queries that changed most, both answers side by side");
  out.result({ ...figures, changed });
}

async function writePage(file: string, page: string): Promise<void> {
  try {
    await writeFile(file, page);
  } catch (error) {
    throw new ReembedError(
      "invalid_request",
      "--html: the file cannot be written",
      "Check its path and its permissions. The verdict itself is stored.",
      { cause: error },
    );
  }
}
