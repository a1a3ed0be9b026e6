/** `reembed rollback`: makes the version active again that the last cutover left. */
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { collectionName, type DatabaseOptions, textUpTo, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";
import { switchVersion } from "../lib/switch.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly reason?: string;
}

export function addRollback(program: Command): void {
  withDatabaseOptions(program.command("rollback"))
    .description("Makes the version active again that the last cutover left.")
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--reason <text>", "why; it is written into the events", textUpTo(500))
    .addHelpText(
      "after",
      '\nExample:\n  npm run -s reembed -- rollback --collection course_content --reason "worse answers"',
    )
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const collection = await chooseCollection(db, options.collection);
        await switchVersion(db, out, "select reembed.rollback($1, reason => $2) as answer", [
          collection,
          options.reason ?? null,
        ]);
      });
    });
}
