/** `reembed retry`: gives failed jobs another chance, once what made them fail is mended. */
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { collectionName, type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
}

export function addRetry(program: Command): void {
  withDatabaseOptions(program.command("retry"))
    .description("Makes failed jobs due again, with all their attempts.")
    .option("--collection <name>", "only this collection's; default: all", collectionName)
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- retry --collection course_content")
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const [row] = await db.query<{ retried: number }>("select reembed.retry($1) as retried", [
          options.collection ?? null,
        ]);
        const retried = row?.retried ?? 0;
        out.say(`${retried} failed ${retried === 1 ? "job is" : "jobs are"} due again`);
        out.result({ retried });
      });
    });
}
