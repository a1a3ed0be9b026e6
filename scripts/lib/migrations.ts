/**
 * Applies `supabase/migrations` the way `supabase db push` does: each file once, in order of its name, in one transaction,
 * and remembered in `supabase_migrations.schema_migrations`, so that either tool can go on where the other stopped.
 */
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { ClientBase } from "pg";

export const MIGRATIONS_DIRECTORY = fileURLToPath(new URL("../../supabase/migrations/", import.meta.url));

export interface Migration {
  /** The digits before the first underscore: the identity by which a migration is remembered. */
  readonly version: string;
  readonly name: string;
  readonly sql: string;
}

/** Reads the migrations of a folder in the order in which they apply. */
export async function readMigrations(directory: string = MIGRATIONS_DIRECTORY): Promise<Migration[]> {
  const files = (await readdir(directory)).filter((file) => /^\d+_.+\.sql$/.test(file)).sort();
  return Promise.all(
    files.map(async (file) => {
      const [, version = "", name = ""] = /^(\d+)_(.+)\.sql$/.exec(file) ?? [];
      return { version, name, sql: await readFile(`${directory}/${file}`, "utf8") };
    }),
  );
}

/**
 * Applies what is not applied yet and returns the names of the files that were.
 * @throws the database's own error, with the file's name in front of its message; that file's transaction is rolled back.
 */
export async function applyMigrations(client: ClientBase, directory?: string): Promise<string[]> {
  await client.query(`
    create schema if not exists supabase_migrations;
    create table if not exists supabase_migrations.schema_migrations
      (version text primary key, statements text[], name text);`);
  const { rows } = await client.query<{ version: string }>(
    "select version from supabase_migrations.schema_migrations",
  );
  const applied = new Set(rows.map((row) => row.version));
  const done: string[] = [];
  for (const migration of await readMigrations(directory)) {
    if (applied.has(migration.version)) continue;
    await client.query("begin");
    try {
      await client.query(migration.sql);
      await client.query(
        "insert into supabase_migrations.schema_migrations (version, name, statements) values ($1, $2, $3)",
        [migration.version, migration.name, [migration.sql]],
      );
      await client.query("commit");
    } catch (error) {
      await client.query("rollback");
      if (error instanceof Error)
        error.message = `${migration.version}_${migration.name}.sql: ${error.message}`;
      throw error;
    }
    done.push(`${migration.version}_${migration.name}`);
  }
  return done;
}
