/** `reembed index`: builds a version's HNSW index, concurrently, so that searches and writes go on. */
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { advance, buildIndex, remaining } from "../lib/move.ts";
import { collectionName, type DatabaseOptions, versionNumber, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";
import { chooseCollection } from "../lib/targets.ts";
import { withoutStatementTimeout } from "../lib/time-out.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version: number;
}

export function addIndex(program: Command): void {
  withDatabaseOptions(program.command("index"))
    .description("Builds a version's index where it is missing; one that a failed build left is replaced.")
    .option("--collection <name>", "the collection; may be left out when there is one", collectionName)
    .requiredOption("--version <number>", "the version", versionNumber)
    .addHelpText("after", "\nExample:\n  npm run -s reembed -- index --collection course_content --version 2")
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(
        options,
        async (db) => {
          const target = {
            collection: await chooseCollection(db, options.collection),
            version: options.version,
          };
          const { pending } = await remaining(db, target);
          if (pending > 0)
            out.note(`${pending} rows are still to be loaded: each takes longer with the index in place`);
          const began = performance.now();
          await withoutStatementTimeout(db);
          await buildIndex(db, target);
          const milliseconds = Math.round(performance.now() - began);
          const state = await advance(db, target);
          out.say(
            `the index of ${target.collection} v${target.version} stands (${milliseconds} ms); its state is ${state}`,
          );
          out.result({ ...target, state, milliseconds });
        },
        1,
      );
    });
}
