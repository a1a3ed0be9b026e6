/** `reembed reconcile`: mends what bypassed the triggers, such as a restore or a changed input function. */
import type { Command } from "commander";
import { z } from "zod";
import { withDatabase } from "../lib/database.ts";
import { collectionName, type DatabaseOptions, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
}

const mended = z.object({ enqueued: z.number(), orphans_removed: z.number(), busy: z.number() });

export function addReconcile(program: Command): void {
  withDatabaseOptions(program.command("reconcile"))
    .description(
      "Enqueues rows that are neither current nor queued; removes what is left of rows that are gone.",
    )
    .option("--collection <name>", "only this collection; default: all", collectionName)
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- reconcile")
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const [row] = await db.query<{ answer: unknown }>("select reembed.reconcile($1) as answer", [
          options.collection ?? null,
        ]);
        const answer = mended.parse(row?.answer);
        out.say(`${answer.enqueued} rows enqueued, ${answer.orphans_removed} leftovers removed`);
        if (answer.busy > 0) out.say(`${answer.busy} rows were being written: run it again for them`);
        out.result(answer);
      });
    });
}
