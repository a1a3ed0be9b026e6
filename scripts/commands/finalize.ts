/** `reembed finalize`: writes the migration that takes a version away for good, for somebody to read and apply. */
import type { Command } from "commander";
import { z } from "zod";
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { findMigration, nextVersion, writeFiles } from "../lib/add/files.ts";
import type { Database } from "../lib/connection.ts";
import { withDatabase } from "../lib/database.ts";
import {
  collectionName,
  type DatabaseOptions,
  textUpTo,
  versionNumber,
  withDatabaseOptions,
} from "../lib/options.ts";
import { createOutput } from "../lib/output.ts";
import { chooseCollection } from "../lib/targets.ts";

interface Options extends DatabaseOptions {
  readonly collection?: string;
  readonly version?: number;
  readonly project: string;
  readonly keepRpc: boolean;
  readonly reason?: string;
}

const finalization = z.object({
  collection: z.string(),
  version: z.number(),
  space: z.string(),
  active: z.number(),
  index_bytes: z.number(),
  vector_bytes: z.number(),
  /** The statement that gives the bytes of a column back; null where a table is dropped, or nothing is. */
  rewrite: z.string().nullable(),
  sql: z.string(),
});

export function addFinalize(program: Command): void {
  withDatabaseOptions(program.command("finalize"))
    .description("Writes the migration that drops a version that is not active: its index, vectors and RPC.")
    .option(
      "--collection <name>",
      "the collection; default: the only one, or the only one that has rows",
      collectionName,
    )
    .option("--version <number>", "the version; may be left out when only one is not active", versionNumber)
    .option("--project <folder>", "the Supabase project to write into", ".")
    .option("--keep-rpc", "leave its RPC as an error that names the active version's", false)
    .option("--reason <text>", "why; it is written into the events", textUpTo(500))
    .addHelpText(
      "after",
      `
Nothing is changed before the migration is applied. After it there is no way back to the version.

Example:
  npm run -s reembed -- finalize --collection course_content --version 1 --project ../my-app`,
    )
    .action((options: Options) => withDatabase(options, (db) => finalize(db, options)));
}

async function finalize(db: Database, options: Options): Promise<void> {
  const out = createOutput(options.json);
  const collection = await chooseCollection(db, options.collection);
  const version = options.version ?? (await onlyInactive(db, collection));
  const [row] = await db.query<{ answer: unknown }>(
    "select reembed.finalize_sql($1, $2, keep_rpc => $3, reason => $4) as answer",
    [collection, version, options.keepRpc, options.reason ?? null],
  );
  const { sql, ...facts } = finalization.parse(row?.answer);
  const name = `finalize_${collection}_v${version}.sql`;
  const there = await findMigration(options.project, name);
  if (there !== undefined) {
    // As after a run that was killed before it could tell. It may have been edited since, so it stays as it is.
    out.say(
      `${there} is there already and not applied; nothing was written. Remove it to have it written anew`,
    );
    out.result({ ...facts, migration: there, written: false });
    return;
  }
  const migration = `supabase/migrations/${await nextVersion(options.project, new Date())}_${name}`;
  await writeFiles(options.project, [{ path: migration, text: sql }]);
  out.say(`${migration} finalizes v${version} of ${collection} (${facts.space}); v${facts.active} is active`);
  out.say(
    facts.rewrite === null
      ? `at its commit ${megabytes(facts.index_bytes + facts.vector_bytes)} come back`
      : `at its commit ${megabytes(facts.index_bytes)} come back, and ${megabytes(facts.vector_bytes)} more with: ${facts.rewrite}`,
  );
  out.say("nothing is changed yet: read it, then apply it as you do with migrations");
  out.result({ ...facts, migration, written: true });
}

/** @throws ReembedError `invalid_request` where there are several, `refused` where there is none */
async function onlyInactive(db: Database, collection: string): Promise<number> {
  await db.query("select reembed.collection_named($1)", [collection]);
  const rows = await db.query<{ version: number }>(
    `select v.number as version from reembed.versions v join reembed.collections c on c.id = v.collection_id
      where c.name = $1 and v.id <> c.active_version and v.state <> 'retired' order by v.number`,
    [collection],
  );
  const [only] = rows;
  if (only === undefined)
    throw new ReembedError(
      "refused",
      `${collection} has no version but the active one`,
      "An active version is finalized after a cutover to another.",
    );
  if (rows.length > 1)
    throw new ReembedError(
      "invalid_request",
      `--version is missing: ${rows.length} versions of ${collection} are not active`,
      `Name one of: ${rows.map(({ version }) => version).join(", ")}.`,
    );
  return only.version;
}

const megabytes = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MB`;
