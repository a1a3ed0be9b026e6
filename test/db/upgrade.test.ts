/**
 * Each released version of the schema, with data in it and a move under way, upgrades to the newest: the migrations that are new apply, the law holds, the move goes on
 * to its end, and what stands then is what a fresh database has. A released version is a dump in test/upgrade; today's is made here, and upgraded by one migration more.
 */
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { applyMigrations, MIGRATIONS_DIRECTORY } from "../../scripts/lib/migrations.ts";
import { withClient } from "../../scripts/lib/test-server.ts";
import { projectDump } from "../support/pg-dump.ts";
import { createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";
import { beginMove, chooseSpaces, endMove, normalizedSchema, restore } from "../support/upgrade.ts";

const DUMPS = new URL("../upgrade/", import.meta.url);
const released = (await readdir(DUMPS, { withFileTypes: true }))
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

/** What a later version may do to a table with rows. */
const NEXT = `
  alter table reembed.records add column checked boolean not null default true;
  comment on column reembed.records.checked is 'A column that a later version adds.';`;

describePostgres("an upgrade", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "upgrade-test-"));
    await cp(MIGRATIONS_DIRECTORY, folder, { recursive: true });
    await writeFile(join(folder, "99991231000000_next.sql"), NEXT);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const migrate = (database: TestDatabase, directory: string) =>
    withClient(database.url, (client) => applyMigrations(client, directory));

  /** From a dump to the newest of these migrations. */
  async function upgradeAndCompare(dump: string, directory: string): Promise<string[]> {
    const [upgraded, fresh] = await Promise.all([
      createDatabase({ migrated: false, defaults: "new" }),
      createDatabase({ migrated: false, defaults: "new" }),
    ]);
    await restore(upgraded.url, dump);
    const applied = await migrate(upgraded, directory);
    const { violations, state, active, rows, embedded } = await endMove(upgraded.url);
    expect({ violations, state, active, embedded }).toEqual({
      violations: [],
      state: "ready",
      active: 2,
      embedded: rows,
    });
    expect(rows).toBeGreaterThan(0);

    await migrate(fresh, directory);
    await chooseSpaces(fresh.url);
    expect(await normalizedSchema(upgraded.url)).toEqual(await normalizedSchema(fresh.url));
    return applied;
  }

  test("from today by one migration more: it alone applies, the move goes on, the schema is a fresh one's", async () => {
    const today = await createDatabase({ defaults: "new" });
    await beginMove(today.url);
    const dump = await projectDump(today.url);
    expect(await upgradeAndCompare(dump, folder)).toEqual(["99991231000000_next"]);
  });

  test("shows an object that differs", async () => {
    const [one, other] = await Promise.all([
      createDatabase({ defaults: "new" }),
      createDatabase({ defaults: "new" }),
    ]);
    await withClient(other.url, (client) => client.query("comment on table reembed.jobs is 'Another.'"));
    const known = await normalizedSchema(one.url);
    expect((await normalizedSchema(other.url)).filter((object) => !known.includes(object))).toEqual([
      expect.stringContaining("IS 'Another.'"),
    ]);
  });

  describe.runIf(released.length > 0)("of a released version", () => {
    test.each(released)("%s", async (version) => {
      await upgradeAndCompare(
        await readFile(new URL(`${version}/dump.sql`, DUMPS), "utf8"),
        MIGRATIONS_DIRECTORY,
      );
    });
  });
});
