/**
 * Runs each `supabase/tests/*.sql` (pgTAP) as `postgres` in a database of its own, under both of Supabase's default privileges.
 * Files are plain SQL without psql's backslash commands, so that they run where there is no psql.
 */
import { readdir, readFile } from "node:fs/promises";
import { Query, type QueryArrayConfig } from "pg";
import { describe, expect, test } from "vitest";
import { connect, createDatabase, describePostgres } from "../support/postgres.ts";
import { tapFailures } from "../support/tap.ts";

const directory = new URL("../../supabase/tests/", import.meta.url);
const files = (await readdir(directory)).filter((file) => file.endsWith(".sql")).sort();

describePostgres("pgTAP", () => {
  describe.each(["old", "new"] as const)("under the %s default privileges", (defaults) => {
    test.each(files)("%s", async (file) => {
      const sql = await readFile(new URL(file, directory), "utf8");
      const database = await createDatabase({ defaults });
      expect(tapFailures(await runTap(database.url, sql))).toEqual([]);
      await database.drop();
    });
  });
});

/** The lines a script prints, up to its end or its first error, which becomes the last line. */
async function runTap(url: string, sql: string): Promise<string[]> {
  const client = await connect(url);
  const lines: string[] = [];
  const config: QueryArrayConfig = { text: sql, rowMode: "array" };
  const query = new Query<unknown[]>(config);
  query.on("row", (row) => {
    if (Array.isArray(row)) lines.push(...String(row[0] ?? "").split("\n"));
  });
  const error = await new Promise<Error | undefined>((resolve) => {
    query.on("error", resolve);
    query.on("end", () => resolve(undefined));
    client.query(query);
  });
  await client.end();
  return error === undefined ? lines : [...lines, `Bail out! ${error.message}`];
}
