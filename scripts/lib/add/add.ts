/** From a table's name to three files: look, ask, plan, try out, write. */
import type { Database } from "../connection.ts";
import { type AddedFiles, nameFiles, writeFiles } from "./files.ts";
import { inspectTable, inspectVectorTable } from "./inspect.ts";
import { downSql, migrationSql } from "./migration.ts";
import { pgTapSql } from "./pgtap.ts";
import { type AddAnswers, expressionOf, makePlan, type Plan } from "./plan.ts";
import { type Ask, askForAnswers, requireAnswers } from "./questions.ts";
import { createQuoter } from "./quote.ts";
import { checkExpression, rehearseMigration } from "./rehearse.ts";

export interface AddRequest {
  readonly table: string;
  /** Where the old vectors stand, when not in the table itself. */
  readonly oldTable: string | undefined;
  /** The folder of the Supabase project to write into. */
  readonly project: string;
  readonly given: AddAnswers;
  /** Asks for what was not given; without it that is refused. */
  readonly ask?: Ask;
}

export interface Addition {
  readonly plan: Plan;
  readonly files: AddedFiles;
  /** How long the migration took in the trial. */
  readonly milliseconds: number;
}

/**
 * Writes the migration that makes a collection of a table, its pgTAP file and its way back. The database stays as it is.
 * @param db opened with one connection
 * @param trying called before the migration is tried out, which takes the table's locks for a moment
 * @throws ReembedError `invalid_request` for what does not fit, `busy` where a lock was not to be had, `refused` where a file is there
 */
export async function addTable(db: Database, request: AddRequest, trying: () => void): Promise<Addition> {
  const facts = await inspectTable(db, request.table);
  const oldTable =
    request.oldTable === undefined ? undefined : await inspectVectorTable(db, request.oldTable);
  const answers =
    request.ask === undefined
      ? requireAnswers(request.given, facts)
      : await askForAnswers(request.ask, facts, request.given, oldTable);
  const quote = createQuoter(new Set(facts.keywords));
  const expression = answers.text ?? expressionOf(answers.textColumns ?? [], facts, quote);
  const usedColumns = await checkExpression(db.url, facts, expression, quote);
  const plan = makePlan(facts, answers, usedColumns, oldTable);
  const files = await nameFiles(request.project, plan.collection, new Date());
  const migration = migrationSql(plan, files.down);
  const down = downSql(plan, files.migration);
  trying();
  const milliseconds = await rehearseMigration(db.url, migration, down);
  await writeFiles(request.project, [
    { path: files.migration, text: migration },
    { path: files.test, text: pgTapSql(plan) },
    { path: files.down, text: down },
  ]);
  return { plan, files, milliseconds };
}
