/** `reembed add`: looks at a live table and writes the migration that makes a collection of it, with its test and its way back. */
import { type Command, Option } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { serversIn } from "../../supabase/functions/_shared/servers.ts";
import { addTable } from "../lib/add/add.ts";
import type { AddedFiles } from "../lib/add/files.ts";
import {
  type AddAnswers,
  type OldVersion,
  type Placement,
  type Plan,
  recommendPlacement,
  type Writer,
} from "../lib/add/plan.ts";
import { splitNames, withTerminal } from "../lib/add/questions.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import { type DatabaseOptions, numberBetween, textUpTo, withDatabaseOptions } from "../lib/options.ts";
import { createOutput, duration, type Output } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly project: string;
  readonly name?: string;
  readonly key?: string[];
  readonly text?: string;
  readonly columns?: string[];
  readonly oldColumn?: string;
  readonly oldTable?: string;
  readonly oldKey?: string[];
  readonly oldSpace?: string;
  readonly oldWriter?: Writer;
  readonly newSpace?: string;
  readonly newPrice?: number;
  readonly filters?: string[];
  readonly returns?: string[];
  readonly lexical?: string;
  readonly lexicalColumn?: string;
  readonly vectors?: Placement;
  readonly rls: "keep" | "on";
}

const LONGEST_EXPRESSION = 10_000;

export function addAdd(program: Command): void {
  withDatabaseOptions(program.command("add"))
    .description(
      "Writes the migration that makes a collection of any table, with its pgTAP test and its way back.",
    )
    .argument("<table>", "the table, with its schema when that is not public")
    .option("--project <folder>", "the Supabase project to write into", ".")
    .option("--name <name>", "the collection's name; default: made from the table's")
    .option("--key <columns>", "what names a row; default: the primary key", splitNames)
    .option(
      "--columns <columns>",
      "the text to embed is these columns, an empty line between them",
      splitNames,
    )
    .option(
      "--text <expression>",
      "the text to embed as an SQL expression of the columns",
      textUpTo(LONGEST_EXPRESSION),
    )
    .option("--old-column <column>", "the vectors that are there and searched; none: leave them alone")
    .option("--old-table <table>", "where they stand, when not in the table itself")
    .option(
      "--old-key <columns>",
      "its columns that hold the row's key; default: its primary key",
      splitNames,
    )
    .option("--old-space <space>", "the model that made them: provider/model@dimensions")
    .addOption(
      new Option(
        "--old-writer <who>",
        "who can make more of them; default: app for external, else reembed",
      ).choices(["reembed", "app"]),
    )
    .option("--new-space <space>", "the model to move to: provider/model@dimensions")
    .option("--new-price <dollars>", "its price in US dollars per million tokens", numberBetween(0, 1_000))
    .option("--filters <columns>", "columns that searches filter by", splitNames)
    .option(
      "--returns <columns>",
      "columns that searches return; default: the key, the text's columns, the filters",
      splitNames,
    )
    .option(
      "--lexical <config>",
      "search by words too, in this text search configuration: english, simple, ...; or none",
    )
    .option("--lexical-column <column>", "a tsvector column that has a GIN index already")
    .addOption(
      new Option(
        "--vectors <place>",
        "a table of their own for the new vectors, or a column; default: as advised",
      ).choices(["table", "column"]),
    )
    .addOption(
      new Option("--rls <state>", "on switches row level security on for the table")
        .choices(["keep", "on"])
        .default("keep"),
    )
    .addHelpText(
      "after",
      `
At a terminal it asks for what no option says. The migration and its way back are tried out on the live table, in a transaction
that is rolled back, before anything is written; files that are there are never overwritten. Nothing is applied.

Example:
  npm run -s reembed -- add posts --columns title,body --old-column embedding --old-space openai/text-embedding-ada-002@1536 \\
    --new-space openai/text-embedding-3-small@1536 --filters lang --project ../my-app`,
    )
    .action(async (table: string, options: Options) => {
      if (options.text !== undefined && options.columns !== undefined)
        throw new ReembedError(
          "invalid_request",
          "--text and --columns exclude each other",
          "Give one of them.",
        );
      await withDatabase(options, (db) => add(db, table, options), 1);
    });
}

async function add(db: Database, table: string, options: Options): Promise<void> {
  const out = createOutput(options.json);
  const request = {
    table,
    oldTable: options.oldTable,
    project: options.project,
    given: answersFrom(options),
  };
  const trying = () =>
    out.note("trying the migration and its way back out, in a transaction that is rolled back");
  const { plan, files, milliseconds } =
    process.stdin.isTTY && process.stderr.isTTY && !options.json
      ? await withTerminal(process.stdin, process.stderr, (ask) => addTable(db, { ...request, ask }, trying))
      : await addTable(db, request, trying);
  report(out, plan, files, milliseconds);
}

function answersFrom(options: Options): AddAnswers {
  return {
    name: options.name,
    key: options.key,
    text: options.text,
    textColumns: options.columns,
    oldColumn: options.oldColumn === "none" ? null : options.oldColumn,
    oldKey: options.oldKey,
    oldSpace: options.oldSpace,
    oldWriter: options.oldWriter,
    newSpace: options.newSpace,
    newPrice: options.newPrice,
    filters: options.filters,
    returns: options.returns,
    lexical: options.lexical === "none" ? null : options.lexical,
    lexicalColumn: options.lexicalColumn,
    vectors: options.vectors,
    rowSecurity: options.rls,
    servers: serversIn(process.env),
  };
}

/** What version 1 needs before the move. */
function firstSteps({ adoption, indexes }: OldVersion, collection: string): string[] {
  if (adoption === "later") return [`reembed adopt --collection ${collection}`];
  return indexes.length > 0 ? [] : [`reembed index --collection ${collection} --version 1`];
}

function report(out: Output, plan: Plan, files: AddedFiles, milliseconds: number): void {
  const { collection, old, next, facts } = plan;
  const advice = recommendPlacement(facts);
  out.say(
    `${collection}: ${facts.schema}.${facts.name}, ${facts.rows} rows, key ${plan.key.map(({ name }) => name).join(", ")}`,
  );
  if (old !== undefined)
    out.say(`v1: ${old.space.id} in ${old.vectorTable}.${old.vectorColumn}, taken as it is`);
  out.say(`v${next.number}: ${next.space.id} in ${next.vectorTable}.${next.vectorColumn}, ${next.type}`);
  if (next.placement !== advice.placement)
    out.say(`a ${advice.placement} is advised for its vectors: ${advice.reasons.join("; ")}`);
  else out.say(`its vectors stand in a ${next.placement}: ${advice.reasons.join("; ")}`);
  const warnings = [
    ...plan.warnings,
    ...(facts.statementTimeoutMs > 0 && milliseconds > facts.statementTimeoutMs / 2
      ? [
          `the trial took more than half of this role's statement_timeout (${duration(facts.statementTimeoutMs / 1000)}): raise it where the migration is applied`,
        ]
      : []),
  ];
  for (const warning of warnings) out.say(`warning: ${warning}`);
  for (const path of Object.values(files)) out.say(`wrote ${path}`);
  const commands = [
    "supabase db push",
    ...(plan.lexical?.byHand ?? []).map((statement) => `in SQL, by itself: ${statement}`),
    ...(old === undefined ? [] : firstSteps(old, collection)),
    `reembed estimate --collection ${collection} --version ${next.number}`,
    `reembed backfill --collection ${collection} --version ${next.number}`,
    ...(old === undefined
      ? []
      : [
          `reembed evaluate --collection ${collection}${old.writer === "app" ? " --without-baseline" : ""}`,
          `reembed cutover --collection ${collection} --version ${next.number}`,
        ]),
  ];
  out.say(
    `applying it took ${milliseconds < 1_000 ? `${Math.round(milliseconds)} ms` : duration(milliseconds / 1_000)} in the trial${old?.adoption === "now" ? "; so long writers will wait, searches will not" : ""}`,
  );
  out.say("\nNext:");
  for (const command of commands) out.say(`  ${command}`);
  out.result({
    collection,
    table: plan.table,
    rows: facts.rows,
    key: plan.key.map(({ name }) => name),
    versions: [old, next].flatMap((version) =>
      version === undefined
        ? []
        : [
            {
              version: version.number,
              space: version.space.id,
              table: version.vectorTable,
              column: version.vectorColumn,
              function: version.matchFunction,
            },
          ],
    ),
    advised: advice,
    warnings,
    files,
    milliseconds: Math.round(milliseconds),
    next: commands,
  });
}
