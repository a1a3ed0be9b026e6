import { Client } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import { asRole, connect, createDatabase, describePostgres, type TestDatabase } from "../support/postgres.ts";

describePostgres("a database as Supabase makes it", () => {
  let database: TestDatabase;
  let client: Client;

  beforeAll(async () => {
    database = await createDatabase({ migrated: false });
    client = await connect(database.url);
  });
  afterAll(() => client.end());

  test("postgres is no superuser, owns its tables, and finds the extensions made", async () => {
    const { rows } = await client.query(
      `select current_user::text as role, current_setting('is_superuser') as super, current_setting('search_path') as path`,
    );
    expect(rows).toEqual([{ role: "postgres", super: "off", path: '"$user", public, extensions' }]);
    await client.query("create extension if not exists vector schema extensions");
    await client.query("create extension if not exists pgtap schema extensions");
  });

  test("what is new in public is open to the API roles under the old defaults and closed under the new ones", async () => {
    const closed = await createDatabase({ migrated: false, defaults: "new" });
    const grants = async (url: string) => {
      const owner = await connect(url);
      await owner.query("create table public.t (a int)");
      const { rows } = await owner.query<{ role: string; open: boolean }>(
        `select role, has_table_privilege(role, 'public.t', 'insert') as open
         from unnest(array['anon', 'authenticated', 'service_role']) as role`,
      );
      await owner.end();
      return rows.map((row) => row.open);
    };
    expect(await grants(database.url)).toEqual([true, true, true]);
    expect(await grants(closed.url)).toEqual([false, false, false]);
  });

  test("asRole speaks as the caller of an API request and leaves nothing behind", async () => {
    const sub = "00000000-0000-4000-8000-000000000001";
    const who = `select current_user::text as role, auth.uid() as uid, auth.role() as claimed,
                        current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`;
    const authenticated = await asRole(client, "authenticated", (c) => c.query(who), { sub });
    expect(authenticated.rows).toEqual([
      { role: "authenticated", uid: sub, claimed: "authenticated", statement: "8s", lock: "8s" },
    ]);
    const anon = await asRole(client, "anon", (c) => c.query(who));
    expect(anon.rows).toEqual([{ role: "anon", uid: null, claimed: "anon", statement: "3s", lock: "8s" }]);
    const after = await client.query(`select current_user::text as role, auth.uid() as uid`);
    expect(after.rows).toEqual([{ role: "postgres", uid: null }]);
  });

  test("one database has pg_cron, which runs the jobs that postgres schedules", async () => {
    const scheduled = await createDatabase({ migrated: false, cron: true });
    const owner = await connect(scheduled.url);
    await owner.query("listen ticked");
    const ticked = new Promise((resolve) => owner.once("notification", resolve));
    await owner.query(`select cron.schedule('tick', '1 second', 'notify ticked')`);
    await ticked;
    await expect(owner.query("delete from cron.job")).rejects.toThrow("permission denied");
    await owner.end();
    await scheduled.drop();
  });

  test("a dropped database is gone, with whoever is connected", async () => {
    const short = await createDatabase();
    const left = new Client(short.url);
    left.on("error", () => {});
    await left.connect();
    await short.drop();
    await expect(connect(short.url)).rejects.toThrow("does not exist");
    await left.end();
  });
});
