/** `reembed cutover`: makes a version the one that searches use. One row and one event; rollback is the way back. */
import type { Command } from "commander";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { withDatabase } from "../lib/database.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput, failureOf } from "../lib/output.ts";
import { describeOutlook, readOutlook, switchVersion } from "../lib/switch.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version: number;
  readonly force: boolean;
  readonly reason?: string;
}

export function addCutover(program: Command): void {
  withDatabaseOptions(program.command("cutover"))
    .description(
      "Makes a version the active one when its gates let it pass; searches follow at once. The one left stays maintained.",
    )
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .requiredOption("--version <number>", "the version", versionNumber)
    .option("--force", "also when a gate holds; needs --reason", false)
    .option("--reason <text>", "why; it is written into the events", textUpTo(500))
    .addHelpText(
      "after",
      "\nExample:\n  npm run -s reembed -- cutover --collection course_content --version 2",
    )
    .action(async (options: Options) => {
      const { version, force, reason } = options;
      if (force && reason === undefined) {
        throw new ReembedError(
          "invalid_request",
          "--force needs --reason: a forced cutover says why",
          'Add --reason "...".',
        );
      }
      const out = createOutput(options.json);
      await withDatabase(options, async (db) => {
        const collection = await chooseCollection(db, options.collection);
        const outlook = await readOutlook(db, collection, version);
        // As after a cutover whose command was killed before it could tell: what was asked for is so.
        if (outlook.active.version === version) {
          out.say(`${collection}: v${version} is active already; nothing was changed`);
          out.result({ collection, from: version, to: version, stale: outlook.active.jobs, switched: false });
          return;
        }
        for (const line of describeOutlook(outlook)) out.say(line);
        try {
          await switchVersion(
            db,
            out,
            "select reembed.cutover($1, $2, reason => $3, force => $4) as answer",
            [collection, version, reason ?? null, force],
          );
        } catch (error) {
          const { code, message, hint, exitCode } = failureOf(error, "reembed cutover");
          if (!out.json || code !== "refused") throw error;
          // With the gates, so that a program need not ask for them again.
          out.result({ error: { code, message, hint }, gates: outlook.gates });
          process.exitCode = exitCode;
        }
      });
    });
}
