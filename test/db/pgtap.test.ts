/**
 * Runs each `supabase/tests/*.sql` (pgTAP) as `postgres` in a database of its own, under both of Supabase's default privileges.
 * Files are plain SQL without psql's backslash commands, so that they run where there is no psql.
 */
import { readdir, readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { createDatabase, describePostgres } from "../support/postgres.ts";
import { runTap, tapFailures } from "../support/tap.ts";

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
