/** `reembed adopt`: takes the vectors that a table has as a version's, without buying anything, and enqueues the rows that have none. */
import type { Command } from "commander";
import { withDatabase } from "../lib/database.ts";
import { advance, startLoading } from "../lib/move.ts";
import { collectionName, type DatabaseOptions, versionNumber, withDatabaseOptions } from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version: number;
}

interface Counts {
  readonly adopted: number;
  readonly enqueued: number;
  /** Rows whose text was no vector of the space, by what is wrong with it. */
  readonly unreadable: Readonly<Record<string, number>>;
}

/** Fewer than where rows are only enqueued: each text is hashed while its row is held. */
const CHUNK_ROWS = 500;

export function addAdopt(program: Command): void {
  withDatabaseOptions(program.command("adopt"))
    .description(
      "Takes the vectors that a large table has, a few rows at a time, and builds their index where it is missing.",
    )
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version", versionNumber, 1)
    .addHelpText(
      "after",
      `
For a version that was added with adopts, as reembed add does for large tables. Nothing is bought; rows without a vector get a job. Where
reembed.set_text_column names a column of vectors as JSON texts, they are taken from there, too.
Run again, it goes on where it ended.

Example:
  npm run -s reembed -- adopt --collection posts`,
    )
    .action(async (options: Options) => {
      const out = createOutput(options.json);
      await withDatabase(
        options,
        async (db) => {
          const target = {
            collection: await chooseCollection(db, options.collection),
            version: options.version,
          };
          await startLoading(db, target, CHUNK_ROWS);
          const [counts] = await db.query<Counts>(
            `select (select count(*)::int from reembed.records r where r.version_id = v.id) as adopted,
                    (select count(*)::int from reembed.jobs j where j.version_id = v.id) as enqueued,
                    reembed.unreadable_texts($1, $2) as unreadable
               from reembed.version_numbered($1, $2) v`,
            [target.collection, target.version],
          );
          const state = await advance(db, target);
          const { adopted, enqueued, unreadable } = counts ?? { adopted: 0, enqueued: 0, unreadable: {} };
          out.say(
            `${target.collection} v${target.version}: ${adopted} rows have a vector, ${enqueued} wait for one; its state is ${state}`,
          );
          for (const [fault, rows] of Object.entries(unreadable))
            out.say(`${rows} texts could not be taken: ${fault}`);
          out.result({ ...target, adopted, enqueued, unreadable, state });
        },
        1,
      );
    });
}
