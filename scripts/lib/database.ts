/** Which database a command speaks to, and the one rule about databases on other machines. */
import { ReembedError } from "../../supabase/functions/_shared/errors.ts";
import { requireLoopback } from "../stack/loopback.ts";
import { readRunningStack } from "../stack/project.ts";
import { type Database, openDatabase } from "./connection.ts";
import type { DatabaseOptions } from "./options.ts";

/**
 * Opens the database of `--db-url`, else of DATABASE_URL, else of the local stack that runs, and closes it after `work`.
 * @param connections at most so many at once; with one, a `set` stays in force for the statements after it
 * @throws ReembedError `database_unavailable` when there is none, saying how to start one; `forbidden` for one on another machine without
 * `--allow-remote`; `refused` when Reembed's migrations are not applied there
 */
export async function withDatabase<T>(
  options: DatabaseOptions,
  work: (db: Database) => Promise<T>,
  connections?: number,
): Promise<T> {
  const url = options.dbUrl ?? (process.env.DATABASE_URL || (await readRunningStack())?.databaseUrl);
  if (url === undefined) {
    throw new ReembedError(
      "database_unavailable",
      "no database is named and no local stack runs",
      "Start one in another terminal with npm run dev, or pass --db-url postgresql://user:password@host:port/database.",
    );
  }
  requireLoopback(url, options.allowRemote);
  const db = await openDatabase(url, connections);
  try {
    await requireSchema(db);
    return await work(db);
  } finally {
    await db.close();
  }
}

async function requireSchema(db: Database): Promise<void> {
  const [row] = await db.query<{ there: boolean }>(
    "select to_regclass('reembed.collections') is not null as there",
  );
  if (row?.there) return;
  throw new ReembedError(
    "refused",
    "this database has no Reembed schema",
    "Apply the migrations: supabase db push, or npm run dev for a local one.",
  );
}
